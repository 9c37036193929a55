//! A space: one subject tree, with everything that listens to it.
//!
//! ```text
//! publish(subject) ──▶ router ──▶ live subscribers      (ephemeral path, no shard)
//!                         └─────▶ bound streams, one command a shard, acknowledged when all are durable
//! ```

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use longtail_engine::command::Only;
use longtail_engine::{Cause, Command, Refusal, Reply, StreamName, Transaction};
use longtail_model::{Durability, Filter, Seq, ShardId, StreamId};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::broker::{Broker, BrokerError};
use crate::catalog::Write;
use crate::client::{Closed, accepted};
use crate::ephemeral::{
    Burst, Delivery, DropReason, EphemeralCounters, LiveHandle, LiveOptions, SpaceRouter,
    SpaceRoutes, StreamOptions, Subscriber, Target, TargetOptions,
};
use crate::last_values::completion;
use crate::message::{Origin, SharedMessage};
use crate::retained::{self, RetainedStore, Settled};
use crate::router::{Chance, RouterLimits, Subscription};
use crate::stored::publishes;

/// Names of catalog documents that bind a subject filter to a stream start with this.
const BINDING: &str = "binding:";

/// What a binding says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The space.
    pub space: String,
    /// The stream, in the same space.
    pub stream: String,
    /// The subjects it takes, in the form of [`Filter`]'s text.
    pub filter: String,
}

impl Binding {
    /// The document's name: one for each combination, whatever characters the names have.
    fn document(&self) -> String {
        format!(
            "{BINDING}{}:{}:{}:{}:{}",
            self.space.len(),
            self.space,
            self.stream.len(),
            self.stream,
            self.filter
        )
    }
}

/// One tenant's subjects.
pub struct Space {
    /// Its name.
    pub name: Arc<str>,
    /// Who wants which subjects.
    pub router: SpaceRouter,
    /// What went over the ephemeral path.
    pub counters: EphemeralCounters,
    /// The last value of each subject that was published with the wish to be kept.
    pub retained: RetainedStore,
}

impl Space {
    fn open(broker: &Broker, name: Arc<str>, is_new: bool) -> Result<Self, BrokerError> {
        let limits = broker.config().retained;
        let retained = if broker.durability() == Durability::Memory {
            RetainedStore::new(limits)
        } else {
            RetainedStore::open(broker, &name, limits, is_new)?
        };
        Ok(Space {
            name,
            router: SpaceRouter::new(RouterLimits::default()),
            counters: EphemeralCounters::default(),
            retained,
        })
    }
}

impl Space {
    /// Keeps the message as its subject's last value or, without payload, forgets that. The answer comes when this is
    /// durable; `None`: it is.
    fn retain(
        &self,
        message: &SharedMessage,
    ) -> Result<Option<oneshot::Receiver<Result<(), Refusal>>>, Refusal> {
        let (done, answer) = completion();
        let settled = if message.payload.is_empty() {
            self.retained.clear(&message.subject, done)
        } else {
            let set = self.retained.set(Arc::clone(message), done);
            set.map_err(|error| Refusal::Limit(error.to_string()))?
        };
        Ok((settled == Settled::Later).then_some(answer))
    }
}

/// All spaces by name. Made when first named, kept until the broker ends; their number is limited.
#[derive(Default)]
pub(crate) struct Spaces(RwLock<HashMap<Arc<str>, Arc<Space>>>);

impl Spaces {
    const MAX: usize = 10_000;

    fn get(&self, broker: &Broker, name: &str) -> Result<Arc<Space>, BrokerError> {
        if let Some(space) = self.0.read().get(name) {
            return Ok(Arc::clone(space));
        }
        let mut spaces = self.0.write();
        if let Some(space) = spaces.get(name) {
            return Ok(Arc::clone(space));
        }
        if spaces.len() >= Self::MAX {
            return Err(
                Refusal::Limit(format!("the limit of {} spaces is reached", Self::MAX)).into(),
            );
        }
        let name: Arc<str> = name.into();
        let space = Arc::new(Space::open(broker, Arc::clone(&name), true)?);
        spaces.insert(name, Arc::clone(&space));
        Ok(space)
    }

    /// Subscriptions of a space, 0 of one that nobody has named yet.
    pub(crate) fn subscriptions(&self, name: &str) -> u64 {
        let space = self.0.read().get(name).cloned();
        space.map_or(0, |space| space.router.len() as u64)
    }

    fn forget(&self, name: &str) {
        self.0.write().remove(name);
    }

    fn restore(&self, broker: &Broker, name: Arc<str>) -> Result<(), BrokerError> {
        let space = Arc::new(Space::open(broker, Arc::clone(&name), false)?);
        self.0.write().insert(name, space);
        Ok(())
    }
}

/// What became of a message that was published to a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedTo {
    /// Live subscribers that got it.
    pub delivered: usize,
    /// Live subscribers that did not keep up.
    pub dropped: usize,
    /// Streams that keep it, with its number in each (in the first of each shard).
    pub streams: Vec<(ShardId, StreamId, Seq)>,
    /// Streams that did not take it, while others of their shard did.
    pub refused: Vec<(ShardId, StreamId, Cause)>,
}

impl Broker {
    /// A space, by name. The first to name a new one attaches a session to a shard: not from a
    /// [`Sink`](longtail_engine::runtime::Sink).
    ///
    /// # Errors
    /// When there are too many.
    pub fn space(&self, name: &str) -> Result<Arc<Space>, BrokerError> {
        self.spaces().get(self, name)
    }

    /// Reads what the spaces keep of their own. Before anything else is done with them.
    pub(crate) async fn restore_spaces(&self) -> Result<(), BrokerError> {
        for shard in (0..self.shards().count()).map(ShardId) {
            let list = Command::ListStreams { space: None };
            let names = match self.client_of(shard).call(list).await?.reply {
                Reply::Streams(names) => names,
                other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
            };
            for name in names {
                if &*name.name == retained::STREAM {
                    self.spaces().restore(self, name.space)?;
                }
            }
        }
        Ok(())
    }

    /// Publishes to a subject: to live subscribers at once, and into every bound stream. Answers when the message is as
    /// durable as each of the streams asks, and kept as the last value of its subject if it says so. A shard that
    /// refuses does not undo what others have taken.
    ///
    /// # Errors
    /// When a shard refuses.
    pub async fn publish(
        &self,
        space: &str,
        message: SharedMessage,
    ) -> Result<PublishedTo, BrokerError> {
        let space = self.space(space)?;
        // Before the subscribers are looked up, see `retained`.
        let kept = if message.retain {
            space.retain(&message)?
        } else {
            None
        };
        let mut routes = SpaceRoutes::default();
        space.router.routes(message.subject.as_ref(), &mut routes);
        let now = self.clock().now();
        let live = {
            let mut burst = Burst::new(&space.counters);
            let chance = Chance::of(&message, now.0 ^ message.payload.len() as u64);
            burst.publish(&routes, &message, &chance, now)
        };
        let calls: Vec<_> = publishes(&routes, &live.picked, &message, now)
            .map(|publish| {
                let call = self.client_of(publish.shard).call(publish.command);
                (publish.shard, publish.first, call)
            })
            .collect();
        let mut published = PublishedTo {
            delivered: live.delivered,
            dropped: live.dropped,
            streams: Vec::new(),
            refused: Vec::new(),
        };
        for (shard, stream, call) in calls {
            match accepted(call.await?)?.reply {
                Reply::Published { seq, refused, .. } => {
                    if seq > Seq(0) {
                        published.streams.push((shard, stream, seq));
                    }
                    let refused = refused.into_iter().flatten();
                    let refused = refused.map(|(stream, cause)| (shard, stream, cause));
                    published.refused.extend(refused);
                }
                other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
            }
        }
        if let Some(kept) = kept {
            self.shards().run();
            kept.await.map_err(|_| Closed)??;
        }
        Ok(published)
    }

    /// Binds a stream to the subjects that match a filter: it keeps a copy of what is published to them. Durable.
    ///
    /// # Errors
    /// When there is no such stream, or a limit is reached.
    pub async fn bind(&self, name: &StreamName, filter: &Filter) -> Result<(), BrokerError> {
        let binding = Binding {
            space: name.space.to_string(),
            stream: name.name.to_string(),
            filter: filter.as_str().to_owned(),
        };
        self.route_binding(name, filter).await?;
        let body = serde_json::to_vec(&binding)
            .map_err(|error| BrokerError::Unexpected(error.to_string()))?;
        self.catalog().put(&binding.document(), &body, None).await?;
        Ok(())
    }

    /// Ends a binding; `false` when there was none.
    ///
    /// # Errors
    /// When the shard refuses.
    pub async fn unbind(&self, name: &StreamName, filter: &Filter) -> Result<bool, BrokerError> {
        let binding = Binding {
            space: name.space.to_string(),
            stream: name.name.to_string(),
            filter: filter.as_str().to_owned(),
        };
        let known = self.catalog().remove(&binding.document()).await?;
        if let Some((shard, info)) = self.find(name).await? {
            self.space(&name.space)?.router.unsubscribe(
                filter,
                Target::Stream(shard, info.stream),
                None,
            );
        }
        Ok(known)
    }

    /// Removes everything that a space has: streams, bindings, retained values. Whoever has it still may name it again,
    /// and finds it empty; that nobody does is up to the caller.
    ///
    /// # Errors
    /// When a shard does not answer; what was removed by then is gone.
    pub async fn remove_space(&self, name: &str) -> Result<(), BrokerError> {
        let bindings = self.bindings();
        let writes = bindings.iter().filter(|binding| binding.space == name);
        let writes: Vec<_> = writes
            .map(|binding| Write {
                name: binding.document(),
                body: None,
                expected: None,
            })
            .collect();
        for chunk in writes.chunks(Transaction::MAX_STEPS) {
            self.catalog().put_all(chunk.to_vec()).await?;
        }
        self.spaces().forget(name);
        for (stream, _) in self.streams(Some(Arc::from(name))).await? {
            let delete = Command::Delete {
                name: stream.clone(),
                only: Only::default(),
            };
            match self.at_stream(&stream, delete).await {
                Ok(_) | Err(BrokerError::NoStream(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.lift_quotas(name);
        Ok(())
    }

    /// The bindings of all spaces.
    #[must_use]
    pub fn bindings(&self) -> Vec<Binding> {
        let documents = self.catalog().list(BINDING);
        documents
            .iter()
            .filter_map(|(name, document)| {
                let parsed = serde_json::from_slice(&document.body);
                parsed
                    .inspect_err(|error| tracing::error!(%name, %error, "a binding does not parse"))
                    .ok()
            })
            .collect()
    }

    async fn route_binding(&self, name: &StreamName, filter: &Filter) -> Result<(), BrokerError> {
        let Some((shard, info)) = self.find(name).await? else {
            return Err(BrokerError::NoStream(name.clone()));
        };
        let subscription = Subscription::new(TargetOptions::Stream(StreamOptions::default()));
        let router = &self.space(&name.space)?.router;
        router
            .subscribe(filter, Target::Stream(shard, info.stream), subscription)
            .map_err(|error| Refusal::Limit(error.to_string()))?;
        Ok(())
    }

    /// Puts the bindings of the catalog back into the routers.
    pub(crate) async fn restore_bindings(&self) {
        for binding in self.bindings() {
            let name = StreamName::new(binding.space.as_str(), binding.stream.as_str());
            let routed = match Filter::new(&binding.filter) {
                Ok(filter) => self
                    .route_binding(&name, &filter)
                    .await
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = routed {
                tracing::warn!(stream = %name, filter = binding.filter, error, "a binding cannot be restored");
            }
        }
    }

    /// Follows the subjects that match a filter, from now on. At most `capacity` messages wait to be fetched; what does
    /// not fit is dropped and counted.
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn subscribe(
        &self,
        space: &str,
        filter: Filter,
        capacity: usize,
    ) -> Result<LiveSubscription, BrokerError> {
        let space = self.space(space)?;
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            capacity: capacity.max(1),
        });
        let handle = LiveHandle::new(Origin(0), Follower(Arc::clone(&queue)));
        let subscription = Subscription::new(handle.options(LiveOptions::default()));
        space
            .router
            .subscribe(&filter, handle.target(), subscription)
            .map_err(|error| Refusal::Limit(error.to_string()))?;
        Ok(LiveSubscription {
            space,
            filter,
            handle,
            queue,
        })
    }
}

struct Queue {
    state: Mutex<Waiting>,
    capacity: usize,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<SharedMessage>,
    dropped: u64,
    waker: Option<Waker>,
}

struct Follower(Arc<Queue>);

impl Subscriber for Follower {
    fn deliver(&self, message: &SharedMessage, _options: &[LiveOptions]) -> Delivery {
        let mut state = self.0.state.lock();
        if state.messages.len() >= self.0.capacity {
            state.dropped += 1;
            return Delivery::Dropped(DropReason::OutboxFull);
        }
        state.messages.push_back(Arc::clone(message));
        Delivery::Delivered
    }

    fn flush(&self) {
        let waker = self.0.state.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Messages of the subjects that match a filter, as they are published. Ends when dropped.
pub struct LiveSubscription {
    space: Arc<Space>,
    filter: Filter,
    handle: LiveHandle,
    queue: Arc<Queue>,
}

impl LiveSubscription {
    /// The next message; waits for it.
    pub fn recv(&mut self) -> Next<'_> {
        Next { queue: &self.queue }
    }

    /// Messages that did not fit since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.queue.state.lock().dropped)
    }
}

impl Drop for LiveSubscription {
    fn drop(&mut self) {
        self.space
            .router
            .unsubscribe(&self.filter, self.handle.target(), None);
    }
}

/// The next message of a [`LiveSubscription`].
pub struct Next<'a> {
    queue: &'a Queue,
}

impl Future for Next<'_> {
    type Output = SharedMessage;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.queue.state.lock();
        match state.messages.pop_front() {
            Some(message) => Poll::Ready(message),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
