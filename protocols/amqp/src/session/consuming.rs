//! Consumers come and go, and `basic.get` asks. What they are given is in `delivering`, what becomes of it in
//! `settling`.

use std::sync::Arc;

use longtail_broker::auth::Action as Right;
use longtail_edge::Out;
use longtail_engine::command::Role;
use longtail_engine::config::{GroupName, StreamName};
use longtail_engine::effect::Cause;
use longtail_engine::{Command, Dispatch, Refusal, Reply, Target, Wait};
use longtail_model::{ConsumerTag, Link, SessionId, ShardId};

use super::channel::{Channel, Pending, internal};
use super::reading::Reader;
use super::shared::Answerer;
use super::template::Template;
use super::{Action, ConsumerState, Shared, say};
use crate::codec::{Method, ReplyCode, Table};
use crate::exception::{Exception, no_queue, not_implemented, precondition, refused};
use crate::federation;
use crate::queue::{LinkSeat, Queue, QueueType, time};
use crate::replies::is_pseudo_queue;
use crate::tally::{self, Tally};
use crate::topology::fresh_name;

/// A consumer of a channel.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) tag: Arc<str>,
    pub(super) queue: Arc<Queue>,
    pub(super) no_ack: bool,
    pub(super) prefetch: u32,
    /// How long it may hold a message, in milliseconds.
    pub(super) timeout_ms: Option<u64>,
    /// Deliveries that are not settled.
    pub(super) held: u32,
    /// What the shard was told last.
    pub(super) level: u32,
    /// Of one that does not acknowledge: how many it may still be given of what the shard was told last.
    pub(super) ahead: u32,
    /// Octets of the largest message seen lately.
    pub(super) largest: usize,
    /// How its last message began.
    pub(super) template: Template,
    /// It is there: pushes may come.
    pub(super) ready: bool,
    /// How it reads, if its queue is a stream.
    pub(super) reader: Option<Box<Reader>>,
    /// What it was begun with, as a table's bytes.
    pub(super) arguments: Arc<[u8]>,
    /// It is a link of another broker: kept for as long as it is there.
    pub(super) _seat: Option<LinkSeat>,
    /// What it was given.
    pub(super) tally: Tally<{ tally::queue::COUNT }>,
}

/// What a client says of a consumer.
struct Asked {
    priority: Option<i32>,
    timeout_ms: Option<u64>,
}

impl Asked {
    fn parse(arguments: &Table<'_>) -> Result<Self, Exception> {
        let invalid = |key: &str, why: &str| precondition(format!("invalid arg '{key}': {why}"));
        let priority = arguments.get("x-priority").map(|value| {
            let priority = value.as_i64().and_then(|n| i32::try_from(n).ok());
            priority.ok_or_else(|| invalid("x-priority", "a number of 32 bits is expected"))
        });
        let timeout_ms = (arguments.get("x-consumer-timeout"))
            .map(|value| time(&value, 1).map_err(|why| invalid("x-consumer-timeout", why)));
        Ok(Asked {
            priority: priority.transpose()?,
            timeout_ms: timeout_ms.transpose()?,
        })
    }
}

impl Consumer {
    pub(super) fn about(&self, drawing: Option<(SessionId, ConsumerTag)>) -> ConsumerState {
        ConsumerState {
            tag: Arc::clone(&self.tag),
            queue: Arc::clone(&self.queue.name),
            drawing,
            single_active: self.queue.settings().single_active,
            ack_required: !self.no_ack,
            exclusive: self.queue.is_consumed_exclusively(),
            prefetch: self.prefetch,
            timeout_ms: self.timeout_ms,
            arguments: Arc::clone(&self.arguments),
        }
    }
}

/// Link and consumer of every `basic.get` of a channel, one at a time: a shard keeps whoever has drawn from a queue until
/// the channel ends. Those of consumers are counted from 1.
const FETCHING: u32 = 0;

impl Channel {
    /// The queue that a client wants to take messages from.
    fn source(&self, name: &str, shared: &mut Shared) -> Result<Arc<Queue>, Exception> {
        let name = self.queue_name(name)?;
        shared.check(Right::Consume, "queue", &name)?;
        shared.topology()?.queue(&name, &shared.asker)
    }

    pub(super) fn consume(
        &mut self,
        method: &Method<'_>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Method::BasicConsume {
            queue,
            consumer_tag,
            no_ack,
            exclusive,
            no_wait,
            arguments,
            ..
        } = *method
        else {
            return Err(internal("not basic.consume"));
        };
        if is_pseudo_queue(queue) {
            return self.consume_replies((consumer_tag, no_ack, no_wait), shared, out);
        }
        let queue = self.source(queue, shared)?;
        let asked = Asked::parse(&arguments)?;
        let settings = queue.settings();
        let reader = match queue.is_stream() {
            true => {
                Some(self.reader(&queue, (consumer_tag, no_ack, no_wait), &arguments, shared)?)
            }
            false => None,
        };
        // A quorum queue has consumers for itself only by being of one at a time; a stream has any number.
        let exclusive = exclusive && settings.kind == QueueType::Classic;
        let tag: Arc<str> = if consumer_tag.is_empty() {
            fresh_name("amq.ctag-").into()
        } else {
            consumer_tag.into()
        };
        if self.has_consumer(&tag) {
            return Err(Exception::new(
                ReplyCode::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
            ));
        }
        if self.consumers.len() >= shared.consumers_max {
            return Err(Exception::new(
                ReplyCode::NotAllowed,
                format!(
                    "reached maximum ({}) of consumers per channel",
                    shared.consumers_max
                ),
            ));
        }
        let vhost = Arc::clone(&shared.asker.vhost);
        if exclusive && settings.single_active {
            return Err(in_exclusive_use(&queue.name, &vhost));
        }
        queue.join(exclusive).map_err(|why| match why {
            crate::queue::InUse::Exclusively => in_exclusive_use(&queue.name, &vhost),
            crate::queue::InUse::Gone => no_queue(&queue.name, &vhost),
        })?;
        self.last_consumer += 1;
        let consumer = self.last_consumer;
        let stream = StreamName::new(space_of(shared)?, Arc::clone(&queue.name));
        let at = usize::from(queue.shard.0);
        self.tags.insert(Arc::clone(&tag), consumer);
        let of_all = Some(shared.consumer_timeout_ms).filter(|&ms| ms > 0);
        let timeout_ms = asked.timeout_ms.or(settings.consumer_timeout_ms);
        let timeout_ms = timeout_ms
            .or(of_all)
            .filter(|_| !no_ack && reader.is_none());
        if timeout_ms.is_some() {
            shared.watch();
        }
        let is_read = reader.is_some();
        if is_read {
            self.begin_reading(consumer, &queue, shared);
        }
        self.consumers.insert(
            consumer,
            Consumer {
                _seat: federation::is_link(&arguments).then(|| queue.seat_link()),
                tally: queue.tallies().join(),
                arguments: arguments.as_bytes().into(),
                tag,
                queue,
                no_ack,
                prefetch: if no_ack { 0 } else { self.prefetch.into() },
                timeout_ms,
                held: 0,
                level: 0,
                ahead: 0,
                largest: 0,
                template: Template::default(),
                ready: false,
                reader: reader.map(Box::new),
            },
        );
        shared.busy = Some(Answerer::Shards(self.incarnation()));
        if is_read {
            return Ok(());
        }
        let way = self
            .ways
            .get_mut(at)
            .ok_or_else(|| internal("no way to a shard"))?;
        let link = Link(consumer);
        let open = Command::Open {
            link,
            name: stream,
            create: None,
            role: Role::Consumer,
        };
        way.ask(open, Pending::Opened { consumer });
        if settings.single_active {
            let dispatch = Command::Dispatch {
                stream: Target::Link(link),
                group: the_group(),
                how: Dispatch::Single,
            };
            way.tell(dispatch);
        }
        let subscribe = Command::Subscribe {
            consumer: ConsumerTag(consumer),
            link,
            group: the_group(),
        };
        way.ask(subscribe, Pending::Subscribed { consumer, no_wait });
        if let Some(priority) = asked.priority.filter(|priority| *priority != 0) {
            let consumer = ConsumerTag(consumer);
            way.tell(Command::Prefer { consumer, priority });
        }
        Ok(())
    }

    pub(super) fn opened(
        &mut self,
        consumer: u32,
        reply: &Reply,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let name = || {
            let consumer = self.consumers.get(&consumer);
            consumer.map_or("", |consumer| &consumer.queue.name)
        };
        match reply {
            Reply::Opened { .. } => Ok(()),
            Reply::NotFound => {
                shared.answered();
                Err(no_queue(name(), &shared.asker.vhost).about((60, 20)))
            }
            other => {
                shared.answered();
                Err(internal(&format!("a consumer cannot be opened: {other:?}")))
            }
        }
    }

    pub(super) fn subscribed(
        &mut self,
        number: u32,
        no_wait: bool,
        reply: &Reply,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        shared.answered();
        let Some(consumer) = self.consumers.get_mut(&number) else {
            return Ok(());
        };
        if *reply != Reply::Done {
            return Err(no_queue(&consumer.queue.name, &shared.asker.vhost).about((60, 20)));
        }
        consumer.ready = true;
        if !no_wait {
            let tag = Arc::clone(&consumer.tag);
            let consume_ok = Method::BasicConsumeOk { consumer_tag: &tag };
            say(&consume_ok, self.number(), out);
        }
        self.feed(number);
        Ok(())
    }

    pub(super) fn cancel(&mut self, tag: &str, no_wait: bool, shared: &mut Shared, out: &mut Out) {
        self.cancel_replies(tag);
        let number = self.tags.remove(tag);
        let away = number.and_then(|number| Some((number, self.consumers.get_mut(&number)?)));
        if let Some((number, consumer)) = away.filter(|(_, consumer)| consumer.no_ack) {
            // What is on its way to it is settled and would be lost: it stays until the shard has let go of it.
            consumer.ready = false;
            let (tag, shard) = (Arc::clone(&consumer.tag), consumer.queue.shard);
            return self.unsubscribe(number, shard, (tag, no_wait), shared);
        }
        let consumer = number.and_then(|number| Some((number, self.forget_consumer(number)?)));
        let Some((number, mut consumer)) = consumer else {
            if !no_wait {
                let consumer_tag = tag;
                say(&Method::BasicCancelOk { consumer_tag }, self.number(), out);
            }
            return;
        };
        if let Some(mut reader) = consumer.reader.take() {
            let ended = self.stop_reading(number, &consumer.queue, &mut reader, shared);
            shared.actions.push(Action::DetachReader(ended));
            consumer.queue.leave();
            if !no_wait {
                let consumer_tag = tag;
                say(&Method::BasicCancelOk { consumer_tag }, self.number(), out);
            }
            return;
        }
        self.return_kept(number);
        let tag = Arc::clone(&consumer.tag);
        self.unsubscribe(number, consumer.queue.shard, (tag, no_wait), shared);
        if consumer.queue.leave() {
            shared.actions.push(Action::DeleteUnused(consumer.queue));
        }
    }

    /// A consumer is gone; what it was given stays known.
    pub(super) fn forget_consumer(&mut self, number: u32) -> Option<Consumer> {
        let consumer = self.consumers.remove(&number)?;
        self.draws.add(&consumer.queue, consumer.tally.counts());
        Some(consumer)
    }

    fn unsubscribe(
        &mut self,
        consumer: u32,
        shard: ShardId,
        (tag, no_wait): (Arc<str>, bool),
        shared: &mut Shared,
    ) {
        let Some(way) = self.ways.get_mut(usize::from(shard.0)) else {
            return;
        };
        let link = Link(consumer);
        let unsubscribe = Command::Unsubscribe {
            consumer: ConsumerTag(consumer),
            link,
            group: the_group(),
        };
        let pending = Pending::Unsubscribed {
            consumer,
            tag,
            no_wait,
        };
        way.ask(unsubscribe, pending);
        way.tell(Command::Close { link });
        shared.busy = Some(Answerer::Shards(self.incarnation()));
    }

    /// A shard has let go of a consumer that the client has cancelled.
    pub(super) fn unsubscribed(&mut self, consumer: u32, shared: &mut Shared) {
        if let Some(consumer) = self.forget_consumer(consumer)
            && consumer.queue.leave()
        {
            shared.actions.push(Action::DeleteUnused(consumer.queue));
        }
    }

    /// The queue is gone.
    pub(super) fn cancelled(&mut self, number: u32, shared: &mut Shared, out: &mut Out) {
        let Some(mut consumer) = self.forget_consumer(number) else {
            return;
        };
        if let Some(mut reader) = consumer.reader.take() {
            let ended = self.stop_reading(number, &consumer.queue, &mut reader, shared);
            shared.actions.push(Action::DetachReader(ended));
        }
        self.tags.remove(&consumer.tag);
        self.forget_kept(number);
        consumer.queue.leave();
        if shared.capabilities.consumer_cancel_notify {
            let cancel = Method::BasicCancel {
                consumer_tag: &consumer.tag,
                no_wait: true,
            };
            say(&cancel, self.number(), out);
        }
    }

    pub(super) fn get(
        &mut self,
        queue: &str,
        no_ack: bool,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let queue = self.source(queue, shared)?;
        if queue.is_stream() {
            return Err(not_implemented(format!(
                "basic.get not supported by stream queues queue '{}' in vhost '{}'",
                queue.name, shared.asker.vhost
            )));
        }
        if queue.is_consumed_exclusively() {
            return Err(in_exclusive_use(&queue.name, &shared.asker.vhost));
        }
        if queue.settings().single_active {
            return Err(Exception::new(
                ReplyCode::ResourceLocked,
                format!(
                    "cannot obtain access to locked queue '{}' in vhost '{}'. basic.get operations are not \
                     supported by queues with single active consumer",
                    queue.name, shared.asker.vhost
                ),
            ));
        }
        queue.touch();
        let (link, consumer) = (Link(FETCHING), ConsumerTag(FETCHING));
        let name = StreamName::new(space_of(shared)?, Arc::clone(&queue.name));
        let way = self.ways.get_mut(usize::from(queue.shard.0));
        let way = way.ok_or_else(|| internal("no way to a shard"))?;
        let open = Command::Open {
            link,
            name: name.clone(),
            create: None,
            role: Role::Producer,
        };
        way.tell(open);
        let group = the_group();
        let subscribe = Command::Subscribe {
            consumer,
            link,
            group: Arc::clone(&group),
        };
        way.tell(subscribe);
        way.ask(Command::DescribeStream { name }, Pending::Counted);
        let take = Command::Take {
            consumer,
            wait: Wait::No,
            deadline_margin_ms: 0,
        };
        way.ask(take, Pending::Fetched { no_ack, queue });
        let unsubscribe = Command::Unsubscribe {
            consumer,
            link,
            group,
        };
        way.tell(unsubscribe);
        way.tell(Command::Close { link });
        shared.busy = Some(Answerer::Shards(self.incarnation()));
        Ok(())
    }
}

pub(super) fn the_group() -> GroupName {
    GroupName::default()
}

pub(super) fn space_of(shared: &Shared) -> Result<Arc<str>, Exception> {
    Ok(Arc::clone(shared.topology()?.space()))
}

fn in_exclusive_use(queue: &str, vhost: &str) -> Exception {
    refused(format!(
        "queue '{queue}' in vhost '{vhost}' in exclusive use"
    ))
}

/// What a refusal of a shard says to a client that has published.
pub(crate) fn is_stored(reply: &Reply) -> bool {
    match reply {
        // One that was deleted on the way was routed nowhere; one that is full has refused the message.
        Reply::Published { refused, .. } => {
            let mut refused = refused.iter().flat_map(|refused| refused.iter());
            !refused.any(|(_, cause)| *cause == Cause::Full)
        }
        Reply::Refused(Refusal::UnknownLink | Refusal::Gone) => true,
        other => {
            tracing::debug!(?other, "a message is refused");
            false
        }
    }
}
