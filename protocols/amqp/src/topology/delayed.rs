//! Messages that wait in an exchange for their time.
//!
//! ```text
//! publish, x-delay ──▶ stream $delayed/<exchange> ── due ──▶ Releaser ──▶ graph ──▶ queues
//!                                                                 └─ one Transact with the settlement, at one shard
//! ```
//!
//! The engine has the clock and the log: what waits survives a restart, and what was due meanwhile goes out at the start, in
//! the order of its times. A message goes through the exchange as it is then, without its `x-delay`, so that a dead-parcel
//! chain that leads back does not delay it again. Its queues at the stream's shard get it in the step that takes it out
//! of the stream; those at other shards have it before, and after a crash in between once more.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use longtail_broker::streams::Awaits as _;
use longtail_broker::{BrokerError, stable_hash};
use longtail_engine::command::Only;
use longtail_engine::config::{GroupConfig, Keep, StreamConfig, StreamName};
use longtail_engine::runtime::{Shards, Sink, run_once_deep};
use longtail_engine::{
    Command, Delivery, Effect, Handle, Message, Refusal, Reply, Settle, Step, Token, Transaction,
};
use longtail_model::{ConsumerTag, Durability, GroupId, Link, Seq, SessionId, ShardId};
use parking_lot::Mutex;

use super::Topology;
use crate::codec::Properties;
use crate::graph::{Content, DELAY, Routing, Waiting};
use crate::session::content::Envelope;
use crate::session::routing::{expiration, keys_of, without};
use crate::store::{Parcel, Store, beside_queues, in_queues};
use crate::streams::{Outgoing, Waiter};

const LINK: Link = Link(1);
const CONSUMER: ConsumerTag = ConsumerTag(1);

/// Messages on their way out at once.
const WINDOW: u32 = 64;

/// Milliseconds until a message that could not be stored is tried again.
const AGAIN_MS: u64 = 1_000;

/// The name of a stream that an exchange has for itself: exchanges may have names as long as streams.
pub(super) fn hidden(prefix: &str, exchange: &str) -> Arc<str> {
    if prefix.len() + exchange.len() <= StreamName::MAX && !exchange.starts_with('#') {
        return format!("{prefix}{exchange}").into();
    }
    let hash = |seed: u8| stable_hash(std::iter::once(seed).chain(exchange.bytes()));
    format!("{prefix}#{:016x}{:016x}", hash(0), hash(1)).into()
}

/// The stream in which messages of an exchange wait.
fn stream_of(exchange: &str) -> Arc<str> {
    hidden("$delayed/", exchange)
}

impl Topology {
    /// Finds or makes the stream in which messages of an exchange wait.
    pub(super) async fn provide_waiting(
        &self,
        exchange: &Arc<str>,
        durable: bool,
    ) -> Result<Waiting, BrokerError> {
        let name = self.stream(&stream_of(exchange));
        let config = StreamConfig {
            keep: Keep::UntilSettled,
            durability: (!durable).then_some(Durability::Memory),
            group: Some(GroupConfig::default()),
            ..StreamConfig::default()
        };
        self.broker.define(name.clone(), config).await?;
        match self.broker.find(&name).await? {
            Some((shard, info)) => Ok(Waiting {
                exchange: Arc::clone(exchange),
                shard,
                stream: info.stream,
            }),
            None => Err(BrokerError::NoStream(name)),
        }
    }

    /// Lets go from now on what has waited.
    pub(super) fn start_releasing(&self, waiting: &Waiting) {
        let name = self.stream(&stream_of(&waiting.exchange));
        let releaser = Releaser::start(self, waiting, name);
        let exchange = Arc::clone(&waiting.exchange);
        self.releasers.lock().insert(exchange, releaser);
    }

    /// An exchange is deleted, with what waits in it.
    pub(super) async fn close_waiting(&self, exchange: &str) {
        drop(self.releasers.lock().remove(exchange));
        let name = self.stream(&stream_of(exchange));
        let delete = Command::Delete {
            name: name.clone(),
            only: Only::default(),
        };
        match self.broker.at_stream(&name, delete).await {
            Ok(_) | Err(BrokerError::NoStream(_)) => {}
            Err(error) => tracing::error!(%name, %error, "delayed messages stay"),
        }
    }

    /// Messages that wait in an exchange; `None`: none ever do.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub async fn messages_delayed(&self, exchange: &str) -> Result<Option<u64>, BrokerError> {
        let delays = {
            let graph = self.graph();
            graph
                .exchange(exchange)
                .is_some_and(|known| known.config.delays())
        };
        if !delays {
            return Ok(None);
        }
        let found = self.broker.find(&self.stream(&stream_of(exchange))).await?;
        Ok(found.map(|(_, info)| info.messages))
    }
}

/// Draws from the stream of one exchange. Stops when dropped.
pub(super) struct Releaser {
    shards: Arc<dyn Shards>,
    shard: ShardId,
    session: SessionId,
}

impl Drop for Releaser {
    fn drop(&mut self) {
        self.shards.detach(self.shard, self.session);
    }
}

impl Releaser {
    fn start(topology: &Topology, waiting: &Waiting, name: StreamName) -> Self {
        let shards = topology.broker.shards();
        let due = Arc::new_cyclic(|this| Due {
            this: Weak::clone(this),
            topology: Weak::clone(&topology.this),
            exchange: Arc::clone(&waiting.exchange),
            shard: waiting.shard,
            state: Mutex::default(),
        });
        let session = shards.attach(waiting.shard, Arc::clone(&due) as Arc<dyn Sink>);
        due.state.lock().session = Some(session);
        let commands = Command::draw(name, None, LINK, CONSUMER, WINDOW);
        for command in commands {
            due.ask(&*shards, command, Asked::Nothing);
        }
        shards.run();
        Releaser {
            shards,
            shard: waiting.shard,
            session,
        }
    }
}

/// Where what is due comes out.
struct Due {
    this: Weak<Due>,
    topology: Weak<Topology>,
    exchange: Arc<str>,
    shard: ShardId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<SessionId>,
    next: Token,
    /// In the order of the answers.
    asked: VecDeque<Asked>,
    /// Written with the shard's lock held.
    arrived: Vec<Arrived>,
    /// Whether a thread sends on what has arrived. What arrives meanwhile it sends on as well: two threads at it would
    /// overtake each other, and messages leave in the order of their times.
    sends: bool,
}

/// What an answer answers.
enum Asked {
    Nothing,
    /// A message has left the stream, into these queues at its shard.
    Moved(Handle, Vec<Store>),
}

enum Arrived {
    /// A message whose time has come. `None`: it cannot be read.
    Message(Handle, Option<Box<Released>>),
    Refused(Handle, Vec<Store>, Refusal),
}

/// A message as it was published.
struct Released {
    exchange: String,
    key: String,
    properties: Bytes,
    body: Bytes,
}

impl Due {
    fn ask(&self, shards: &dyn Shards, command: Command, asked: Asked) {
        // Held until it is queued: the queue and what is asked have one order.
        let mut state = self.state.lock();
        let Some(session) = state.session else { return };
        let mut commands = vec![(state.next, command)];
        state.next += 1;
        state.asked.push_back(asked);
        shards.enqueue(self.shard, session, &mut commands);
    }

    fn settle(&self, shards: &dyn Shards, message: Handle, how: Settle) {
        self.ask(shards, Command::Settle { message, how }, Asked::Nothing);
    }

    /// Takes a message out of the stream, into queues at its shard.
    fn move_to(&self, shards: &dyn Shards, message: Handle, stores: Vec<Store>) {
        let how = Settle::Ack;
        let settle = Step::Settle { message, how };
        let publishes = stores.iter().cloned().map(Store::into_step);
        let steps = publishes.chain([settle]).collect();
        let transaction = Command::Transact(Box::new(Transaction { steps }));
        self.ask(shards, transaction, Asked::Moved(message, stores));
    }

    /// Sends a message on its way.
    fn release(
        &self,
        topology: &Topology,
        message: Handle,
        released: &Released,
        outgoing: &mut Outgoing,
    ) {
        let shards = topology.broker.shards();
        let now = topology.now();
        let Some((mut stores, shared)) = self.routes(topology, released) else {
            self.settle(&*shards, message, Settle::Ack);
            return;
        };
        let home = stores
            .extract_if(.., |store| store.shard == self.shard)
            .collect();
        let (this, shards) = (Weak::clone(&self.this), Weak::clone(&topology.this));
        let waiter = Waiter::new(move |refused| {
            let (Some(due), Some(topology)) = (this.upgrade(), shards.upgrade()) else {
                return;
            };
            if refused {
                tracing::warn!(exchange = %due.exchange, "a queue has not taken a delayed message");
            }
            let shards = topology.broker.shards();
            due.move_to(&*shards, message, home);
            run_once_deep(&*shards);
        });
        for store in stores {
            outgoing.push((store.shard, store.into_command(), Some(waiter.one_more())));
        }
        if let Some(subjects) = topology.subjects() {
            for shared in shared {
                for publish in subjects.share(&Arc::new(shared), now) {
                    outgoing.push((publish.shard, publish.command, Some(waiter.one_more())));
                }
            }
        }
        waiter.answered(false);
    }

    /// Where a message goes now. `None`: it cannot be read, or its exchange is gone.
    fn routes(
        &self,
        topology: &Topology,
        released: &Released,
    ) -> Option<(Vec<Store>, Vec<longtail_broker::message::Message>)> {
        let now = topology.now();
        let properties = Properties::decode(&released.properties).ok()?;
        let headers = properties.headers.unwrap_or_default();
        let keys = keys_of(&released.key, &headers).ok()?;
        let shown = without(&properties, &["BCC", DELAY]);
        let shown = shown.as_deref().unwrap_or(&released.properties);
        let due = Properties::decode(shown).ok()?;
        let graph = topology.graph();
        let routing = Routing {
            keys: &keys,
            properties: &due,
            content: Content {
                exchange: &released.exchange,
                properties: shown,
                body: &released.body,
            },
            due: true,
            now,
        };
        let routed = graph.route(&self.exchange, &routing)?;
        let parcel = Parcel {
            exchange: &released.exchange,
            key: &released.key,
            properties: shown,
            shown,
            encoded: None,
            headers: due.headers.unwrap_or_default(),
            body: &released.body,
            priority: due.priority,
            expiration_ms: due.expiration.and_then(|ms| expiration(ms).ok()),
            now,
        };
        let mut stores = in_queues(&routed.queues, &parcel, &mut Vec::new());
        stores.extend(beside_queues(&routed.beside, &parcel));
        let messages = routed.shared.iter().filter_map(|key| {
            let subjects = topology.subjects()?;
            subjects.wanted(key, &due, &released.body, now)
        });
        Some((stores, messages.collect()))
    }

    /// The shard has not done the last step.
    fn refused(&self, topology: &Topology, message: Handle, stores: Vec<Store>, why: &Refusal) {
        let shards = topology.broker.shards();
        let single = match why {
            Refusal::Step { why, .. } => !matches!(**why, Refusal::Full(_) | Refusal::Failed(_)),
            _ => false,
        };
        if single {
            // A queue is full or gone: the others get it all the same.
            for store in stores {
                self.ask(&*shards, store.into_command(), Asked::Nothing);
            }
            self.settle(&*shards, message, Settle::Ack);
        } else {
            tracing::warn!(exchange = %self.exchange, %why, "a delayed message waits on");
            let again = Settle::Release {
                priority: None,
                delay_ms: AGAIN_MS,
                failed: false,
            };
            self.settle(&*shards, message, again);
        }
    }
}

impl Sink for Due {
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]) {
        let mut state = self.state.lock();
        match effect {
            Effect::Push(delivery) => {
                let message = messages.first().and_then(Option::as_ref);
                let released = message.map(|message| Box::new(read(message)));
                let handle = handle_of(delivery);
                state.arrived.push(Arrived::Message(handle, released));
            }
            Effect::Reply(_, reply) => {
                let asked = state.asked.pop_front();
                match (asked, reply) {
                    (Some(Asked::Moved(message, stores)), Reply::Refused(why)) => {
                        let refused = Arrived::Refused(message, stores, why.clone());
                        state.arrived.push(refused);
                    }
                    (_, Reply::Refused(why)) => {
                        tracing::warn!(exchange = %self.exchange, %why, "a delayed message");
                    }
                    _ => {}
                }
            }
            Effect::Cancelled { .. } => {}
        }
    }

    fn flush(&self) {
        {
            let mut state = self.state.lock();
            if state.sends || state.arrived.is_empty() {
                return;
            }
            state.sends = true;
        }
        let mut turn = Turn { due: Some(self) };
        loop {
            let arrived = {
                let mut state = self.state.lock();
                if state.arrived.is_empty() {
                    // With the lock held that showed it: what comes next finds nobody at it.
                    state.sends = false;
                    turn.due = None;
                    return;
                }
                std::mem::take(&mut state.arrived)
            };
            self.send_on(arrived);
        }
    }
}

/// The turn of a thread that sends on. One that panics gives it back: others must not wait for it for ever.
struct Turn<'d> {
    due: Option<&'d Due>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(due) = self.due {
            due.state.lock().sends = false;
        }
    }
}

impl Due {
    fn send_on(&self, arrived: Vec<Arrived>) {
        let Some(topology) = self.topology.upgrade() else {
            return;
        };
        let mut outgoing = Outgoing::new();
        for arrived in arrived {
            match arrived {
                Arrived::Message(message, Some(released)) => {
                    self.release(&topology, message, &released, &mut outgoing);
                }
                Arrived::Message(message, None) => {
                    tracing::error!(exchange = %self.exchange, ?message, "a delayed message cannot be read");
                    let shards = topology.broker.shards();
                    self.settle(&*shards, message, Settle::Park { priority: None });
                }
                Arrived::Refused(message, stores, why) => {
                    self.refused(&topology, message, stores, &why);
                }
            }
        }
        topology.streams().send(&mut outgoing);
        run_once_deep(&*topology.broker.shards());
    }
}

fn handle_of(delivery: &Delivery) -> Handle {
    let (group, seq): (GroupId, Seq) = (delivery.group, delivery.seq);
    Handle::Group(group, seq)
}

fn read(message: &Message<'_>) -> Released {
    let envelope = Envelope::of(message);
    Released {
        exchange: envelope.exchange.to_owned(),
        key: envelope.key.into_owned(),
        properties: Bytes::copy_from_slice(envelope.properties),
        body: message.share(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exchange_has_a_stream_of_its_own() {
        let long = "x".repeat(255);
        let other = format!("{}y", "x".repeat(254));
        assert_eq!(&*stream_of("orders"), "$delayed/orders");
        assert!(stream_of(&long).len() <= StreamName::MAX);
        assert_ne!(stream_of(&long), stream_of(&other));
        assert!(stream_of("#0").starts_with("$delayed/#"));
        assert_ne!(&*stream_of("#0"), "$delayed/#0");
    }
}
