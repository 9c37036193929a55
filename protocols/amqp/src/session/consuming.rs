//! Consumers, `basic.get`, and what becomes of what they were given.
//!
//! A consumer is fed against a level: how many messages it may hold. That is its prefetch or, when the client sets none
//! or a large one, what it holds and a window above that, sized by the messages seen so far, so that a client that does
//! not read has no more than [`WINDOW_BYTES`] or so waiting in its outbox.

use std::sync::Arc;

use longtail_broker::auth::Action as Right;
use longtail_edge::Out;
use longtail_engine::command::Role;
use longtail_engine::config::{GroupName, StreamName};
use longtail_engine::effect::Cause;
use longtail_engine::{Command, Credit, Delivery, Handle, Message, Refusal, Reply, Settle, Wait};
use longtail_model::{ConsumerTag, Link};

use super::channel::{Channel, Pending, internal};
use super::content::Envelope;
use super::unacked::Delivered;
use super::{Action, ConsumerState, Shared, say};
use crate::codec::{FRAME_OVERHEAD, Method, ReplyCode, put_content};
use crate::exception::{Exception, no_queue, not_implemented, precondition, refused};
use crate::queue::Queue;
use crate::replies::is_pseudo_queue;
use crate::topology::fresh_name;

/// Octets that are pushed ahead of a client.
const WINDOW_BYTES: usize = 512 * 1024;

/// Messages that are pushed ahead of a client at most, and before any was seen.
const WINDOW_MAX: u32 = 1024;
const WINDOW_FIRST: u32 = 16;

/// Octets of a content header in front of the properties, with those around the frame.
const HEADER_OVERHEAD: usize = 14 + FRAME_OVERHEAD as usize;

/// A consumer of a channel.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) tag: Arc<str>,
    pub(super) queue: Arc<Queue>,
    no_ack: bool,
    prefetch: u32,
    /// Deliveries that are not settled.
    held: u32,
    /// What the shard was told last.
    level: u32,
    /// Octets of the largest message seen lately.
    largest: usize,
    /// It is there: pushes may come.
    ready: bool,
}

impl Consumer {
    fn window(&self) -> u32 {
        if self.largest == 0 {
            return WINDOW_FIRST;
        }
        let fits = WINDOW_BYTES / self.largest;
        u32::try_from(fits)
            .unwrap_or(WINDOW_MAX)
            .clamp(1, WINDOW_MAX)
    }

    /// The level to be told to the shard, if it is worth it.
    fn new_level(&self) -> Option<u32> {
        let window = self.window();
        let mut wanted = self.held.saturating_add(window);
        if self.prefetch > 0 {
            wanted = wanted.min(self.prefetch);
        }
        let ahead = self.level.saturating_sub(self.held);
        let too_little = ahead <= window / 2 && wanted > self.level;
        let too_much = ahead > window.saturating_mul(2);
        (too_little || too_much).then_some(wanted)
    }

    fn saw(&mut self, bytes: usize) {
        // One large message is forgotten after some dozens of small ones.
        self.largest = bytes.max(self.largest - self.largest / 32).max(1);
    }
}

impl Consumer {
    pub(super) fn about(&self) -> ConsumerState {
        ConsumerState {
            tag: Arc::clone(&self.tag),
            queue: Arc::clone(&self.queue.name),
            ack_required: !self.no_ack,
            exclusive: self.queue.is_consumed_exclusively(),
            prefetch: self.prefetch,
        }
    }
}

impl Channel {
    pub(super) fn qos(
        &mut self,
        size: u32,
        count: u16,
        global: bool,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if size != 0 {
            return Err(not_implemented(format!("prefetch_size!=0 ({size})")));
        }
        if global {
            return Err(not_implemented(
                "a prefetch count shared by the consumers of a channel (global=true) is not supported yet",
            ));
        }
        self.prefetch = count;
        say(&Method::BasicQosOk {}, self.number(), out);
        Ok(())
    }

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
        for later in ["x-priority", "x-consumer-timeout", "x-stream-offset"] {
            if arguments.get(later).is_some() {
                return Err(not_implemented(format!(
                    "consumer argument '{later}' is not supported yet"
                )));
            }
        }
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
        let vhost = Arc::clone(&shared.asker.vhost);
        queue.join(exclusive).map_err(|why| match why {
            crate::queue::InUse::Exclusively => in_exclusive_use(&queue.name, &vhost),
            crate::queue::InUse::Gone => no_queue(&queue.name, &vhost),
        })?;
        self.last_consumer += 1;
        let consumer = self.last_consumer;
        let stream = StreamName::new(space_of(shared)?, Arc::clone(&queue.name));
        let at = usize::from(queue.shard.0);
        self.tags.insert(Arc::clone(&tag), consumer);
        self.consumers.insert(
            consumer,
            Consumer {
                tag,
                queue,
                no_ack,
                prefetch: if no_ack { 0 } else { self.prefetch.into() },
                held: 0,
                level: 0,
                largest: 0,
                ready: false,
            },
        );
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
        let subscribe = Command::Subscribe {
            consumer: ConsumerTag(consumer),
            link,
            group: the_group(),
        };
        way.ask(subscribe, Pending::Subscribed { consumer, no_wait });
        shared.busy = true;
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

    /// Tells the shard how many messages a consumer may hold, if that has changed enough.
    fn feed(&mut self, number: u32) {
        let Some(consumer) = self.consumers.get_mut(&number) else {
            return;
        };
        let at = usize::from(consumer.queue.shard.0);
        if consumer.ready
            && let Some(level) = consumer.new_level()
            && let Some(way) = self.ways.get_mut(at)
        {
            consumer.level = level;
            let credit = Command::Credit {
                consumer: ConsumerTag(number),
                credit: Credit::Level(level),
            };
            way.tell(credit);
        }
    }

    pub(super) fn cancel(&mut self, tag: &str, no_wait: bool, shared: &mut Shared, out: &mut Out) {
        self.cancel_replies(tag);
        let number = self.tags.remove(tag);
        let consumer = number.and_then(|number| Some((number, self.consumers.remove(&number)?)));
        let Some((number, consumer)) = consumer else {
            if !no_wait {
                let consumer_tag = tag;
                say(&Method::BasicCancelOk { consumer_tag }, self.number(), out);
            }
            return;
        };
        if let Some(way) = self.ways.get_mut(usize::from(consumer.queue.shard.0)) {
            let unsubscribe = Command::Unsubscribe {
                consumer: ConsumerTag(number),
                link: Link(number),
                group: the_group(),
            };
            let tag = Arc::clone(&consumer.tag);
            way.ask(unsubscribe, Pending::Unsubscribed { tag, no_wait });
            way.tell(Command::Close { link: Link(number) });
            shared.busy = true;
        }
        if consumer.queue.leave() {
            shared.actions.push(Action::DeleteUnused(consumer.queue));
        }
    }

    /// The queue is gone.
    pub(super) fn cancelled(&mut self, number: u32, shared: &mut Shared, out: &mut Out) {
        let Some(consumer) = self.consumers.remove(&number) else {
            return;
        };
        self.tags.remove(&consumer.tag);
        consumer.queue.leave();
        if shared.capabilities.consumer_cancel_notify {
            let cancel = Method::BasicCancel {
                consumer_tag: &consumer.tag,
                no_wait: true,
            };
            say(&cancel, self.number(), out);
        }
    }

    pub(super) fn pushed(
        &mut self,
        at: usize,
        delivery: &Delivery,
        message: Option<&Message<'_>>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let channel = self.number();
        let number = delivery.consumer.0;
        let Some(consumer) = self.consumers.get_mut(&number) else {
            // Cancelled meanwhile: it goes back.
            self.settle_delivery(
                at,
                delivery,
                Settle::Release {
                    priority: None,
                    delay_ms: 0,
                    failed: false,
                },
            );
            return Ok(());
        };
        let message = message.ok_or_else(|| internal("a message cannot be read"))?;
        let envelope = Envelope::of(message);
        check_header(&envelope, shared)?;
        self.last_delivery += 1;
        let tag = self.last_delivery;
        let deliver = Method::BasicDeliver {
            consumer_tag: &consumer.tag,
            delivery_tag: tag,
            redelivered: delivery.redeliveries > 0,
            exchange: envelope.exchange,
            routing_key: &envelope.key,
        };
        write_content(&deliver, channel, &envelope, message.payload, shared, out);
        consumer.saw(message.payload.len() + message.headers.len());
        self.counts.redeliver += u64::from(delivery.redeliveries > 0);
        if consumer.no_ack {
            self.counts.deliver_no_ack += 1;
            consumer.held += 1;
            if out.is_over_soft_limit() {
                out.ask_for_room();
                self.unsettled.push((at, *delivery));
            } else {
                consumer.held -= 1;
                self.ack_delivery(at, delivery);
            }
        } else {
            self.counts.deliver += 1;
            consumer.held += 1;
            self.unacked.push(Delivered {
                tag,
                shard: u16::try_from(at).unwrap_or(u16::MAX),
                group: delivery.group,
                seq: delivery.seq,
                consumer: number,
            });
            if out.is_over_soft_limit() {
                out.ask_for_room();
                return Ok(());
            }
        }
        self.feed(number);
        Ok(())
    }

    /// The client reads again.
    pub(super) fn has_room(&mut self) {
        for (at, delivery) in std::mem::take(&mut self.unsettled) {
            if let Some(consumer) = self.consumers.get_mut(&delivery.consumer.0) {
                consumer.held = consumer.held.saturating_sub(1);
            }
            self.ack_delivery(at, &delivery);
        }
        let numbers: Vec<u32> = self.consumers.keys().copied().collect();
        for number in numbers {
            self.feed(number);
        }
    }

    pub(super) fn get(
        &mut self,
        queue: &str,
        no_ack: bool,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let queue = self.source(queue, shared)?;
        if queue.is_consumed_exclusively() {
            return Err(in_exclusive_use(&queue.name, &shared.asker.vhost));
        }
        self.last_consumer += 1;
        let (link, consumer) = (Link(self.last_consumer), ConsumerTag(self.last_consumer));
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
        way.ask(take, Pending::Fetched { no_ack });
        let unsubscribe = Command::Unsubscribe {
            consumer,
            link,
            group,
        };
        way.tell(unsubscribe);
        way.tell(Command::Close { link });
        shared.busy = true;
        Ok(())
    }

    pub(super) fn fetched(
        &mut self,
        at: usize,
        no_ack: bool,
        reply: &Reply,
        message: Option<&Message<'_>>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        shared.answered();
        let Reply::Delivered(delivery) = reply else {
            self.counts.get_empty += 1;
            say(
                &Method::BasicGetEmpty { reserved_1: "" },
                self.number(),
                out,
            );
            return Ok(());
        };
        let message = message.ok_or_else(|| internal("a message cannot be read"))?;
        let envelope = Envelope::of(message);
        check_header(&envelope, shared)?;
        self.last_delivery += 1;
        let get_ok = Method::BasicGetOk {
            delivery_tag: self.last_delivery,
            redelivered: delivery.redeliveries > 0,
            exchange: envelope.exchange,
            routing_key: &envelope.key,
            message_count: u32::try_from(self.ready.saturating_sub(1)).unwrap_or(u32::MAX),
        };
        write_content(
            &get_ok,
            self.number(),
            &envelope,
            message.payload,
            shared,
            out,
        );
        self.counts.redeliver += u64::from(delivery.redeliveries > 0);
        if no_ack {
            self.counts.get_no_ack += 1;
            self.ack_delivery(at, delivery);
        } else {
            self.counts.get += 1;
            self.unacked.push(Delivered {
                tag: self.last_delivery,
                shard: u16::try_from(at).unwrap_or(u16::MAX),
                group: delivery.group,
                seq: delivery.seq,
                consumer: 0,
            });
        }
        Ok(())
    }

    fn ack_delivery(&mut self, at: usize, delivery: &Delivery) {
        if let Some(way) = self.ways.get_mut(at) {
            way.ack(delivery.group, delivery.seq);
        }
    }

    fn settle_delivery(&mut self, at: usize, delivery: &Delivery, how: Settle) {
        if let Some(way) = self.ways.get_mut(at) {
            let message = Handle::Group(delivery.group, delivery.seq);
            way.tell(Command::Settle { message, how });
        }
    }

    fn settle(&mut self, delivered: &Delivered, how: Settle) {
        self.counts.ack += u64::from(how == Settle::Ack);
        if let Some(way) = self.ways.get_mut(usize::from(delivered.shard)) {
            if how == Settle::Ack {
                way.ack(delivered.group, delivered.seq);
            } else {
                let message = Handle::Group(delivered.group, delivered.seq);
                way.tell(Command::Settle { message, how });
            }
        }
    }

    /// A delivery is no longer its consumer's, which may have another.
    pub(super) fn is_settled(&mut self, delivered: &Delivered) {
        if let Some(consumer) = self.consumers.get_mut(&delivered.consumer) {
            consumer.held = consumer.held.saturating_sub(1);
            self.feed(delivered.consumer);
        }
    }

    /// Takes what a tag names: itself, all up to it, or with 0 everything.
    fn settle_tags(&mut self, tag: u64, multiple: bool, how: Settle) -> Result<(), Exception> {
        let unknown = || precondition(format!("unknown delivery tag {tag}"));
        if !multiple {
            let delivered = self.unacked.take(tag).ok_or_else(unknown)?;
            if self.staged.is_some() {
                return self.stage_settlements(vec![delivered], how);
            }
            self.settle(&delivered, how);
            self.is_settled(&delivered);
            return Ok(());
        }
        let all = if tag == 0 {
            self.unacked.take_all()
        } else {
            self.unacked.take_to(tag).ok_or_else(unknown)?
        };
        if self.staged.is_some() {
            return self.stage_settlements(all, how);
        }
        for delivered in &all {
            self.settle(delivered, how);
        }
        // Behind them: what comes between would make each a command of its own.
        for delivered in &all {
            self.is_settled(delivered);
        }
        Ok(())
    }

    pub(super) fn ack(&mut self, tag: u64, multiple: bool) -> Result<(), Exception> {
        self.settle_tags(tag, multiple, Settle::Ack)
    }

    pub(super) fn nack(
        &mut self,
        tag: u64,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), Exception> {
        self.settle_tags(tag, multiple, refusal(requeue, false))
    }

    pub(super) fn reject(&mut self, tag: u64, requeue: bool) -> Result<(), Exception> {
        self.settle_tags(tag, false, refusal(requeue, true))
    }

    pub(super) fn recover(&mut self, requeue: bool) -> Result<(), Exception> {
        if !requeue {
            return Err(not_implemented("requeue=false"));
        }
        // Not part of a transaction: what one has settled is not among these.
        for delivered in &self.unacked.take_all() {
            self.settle(delivered, refusal(true, false));
            self.is_settled(delivered);
        }
        Ok(())
    }
}

/// What becomes of a message that its consumer does not want.
fn refusal(requeue: bool, failed: bool) -> Settle {
    if requeue {
        Settle::Release {
            priority: None,
            delay_ms: 0,
            failed,
        }
    } else {
        Settle::Reject
    }
}

fn the_group() -> GroupName {
    GroupName::default()
}

fn space_of(shared: &Shared) -> Result<Arc<str>, Exception> {
    Ok(Arc::clone(shared.topology()?.space()))
}

fn in_exclusive_use(queue: &str, vhost: &str) -> Exception {
    refused(format!(
        "queue '{queue}' in vhost '{vhost}' in exclusive use"
    ))
}

/// A header frame cannot be divided.
pub(super) fn check_header(envelope: &Envelope<'_>, shared: &Shared) -> Result<(), Exception> {
    let size = envelope.properties.len() + HEADER_OVERHEAD;
    let max = shared.frame_max as usize;
    if max > 0 && size > max {
        return Err(Exception::new(
            ReplyCode::FrameError,
            format!(
                "the properties of a message need a frame of {size} bytes; negotiated are {max}"
            ),
        ));
    }
    Ok(())
}

pub(super) fn write_content(
    method: &Method<'_>,
    channel: u16,
    envelope: &Envelope<'_>,
    body: &[u8],
    shared: &Shared,
    out: &mut Out,
) {
    let tail = out.tail();
    let before = tail.len();
    let written = method
        .encode(channel, tail)
        .and_then(|()| put_content(channel, envelope.properties, body, shared.frame_max, tail));
    if let Err(error) = written {
        tail.truncate(before);
        tracing::error!(%error, "a message cannot be written");
    }
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

#[cfg(test)]
mod tests {
    use longtail_model::{ShardId, StreamId};

    use super::*;
    use crate::queue::{QueueArguments, QueueConfig, QueueSettings};

    fn consumer(prefetch: u32) -> Consumer {
        let config = QueueConfig {
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: Arc::default(),
            parsed: QueueArguments::default(),
        };
        Consumer {
            tag: "t".into(),
            queue: Arc::new(Queue::new(
                "q".into(),
                (ShardId(0), StreamId(1)),
                config,
                QueueSettings::default(),
            )),
            no_ack: false,
            prefetch,
            held: 0,
            level: 0,
            largest: 0,
            ready: true,
        }
    }

    #[test]
    fn a_small_prefetch_is_told_once() {
        let mut consumer = consumer(5);
        assert_eq!(consumer.new_level(), Some(5));
        consumer.level = 5;
        for held in [5, 0, 3] {
            consumer.held = held;
            consumer.saw(100);
            assert_eq!(consumer.new_level(), None, "{held}");
        }
    }

    #[test]
    fn without_a_limit_the_level_moves_ahead_of_what_is_held() {
        let mut consumer = consumer(0);
        assert_eq!(consumer.new_level(), Some(WINDOW_FIRST));
        consumer.level = WINDOW_FIRST;
        consumer.saw(100);
        consumer.held = 1;
        assert_eq!(consumer.new_level(), Some(1 + WINDOW_MAX));
        consumer.level = 1 + WINDOW_MAX;
        consumer.held = 100;
        assert_eq!(consumer.new_level(), None);
        consumer.held = 800;
        assert_eq!(consumer.new_level(), Some(800 + WINDOW_MAX));
    }

    #[test]
    fn large_messages_come_one_by_one() {
        let mut consumer = consumer(100);
        consumer.level = WINDOW_FIRST;
        consumer.held = 1;
        consumer.saw(4 * WINDOW_BYTES);
        assert_eq!(consumer.window(), 1);
        assert_eq!(consumer.new_level(), Some(2));
        for _ in 0..1000 {
            consumer.saw(10);
        }
        assert_eq!(consumer.window(), WINDOW_MAX);
    }
}
