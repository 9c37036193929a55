//! What consumers are given, and when.
//!
//! A consumer is fed against a level: how many messages it may hold. That is its prefetch or, when the client sets none
//! or a large one, what it holds and a window above that, sized by the messages seen so far, so that a client that does
//! not read has no more than [`WINDOW_BYTES`] or so waiting in its outbox. One that does not acknowledge holds nothing:
//! what it is given is settled by the shard as it is given, and it is allowed another window when half of one is used.
//!
//! A prefetch count that the consumers of a channel share is divided among them: each may have its share of what is
//! left beyond what it holds, and what comes although nothing is left, because each had one on the way, is kept here
//! until the client has settled something. Their queues may be on several shards, so no shard can count for all.

use std::sync::Arc;

use bytes::Bytes;
use longtail_edge::Out;
use longtail_engine::{Command, Credit, Delivery, Message, Reply, Settle};
use longtail_model::{ConsumerTag, GroupId, Timestamp};

use super::channel::{Channel, internal};
use super::consuming::Consumer;
use super::content::Envelope;
use super::settling::Returns;
use super::tapping::is_traced;
use super::unacked::Delivered;
use super::writing::{Body, check_header, write_content};
use super::{Shared, say};
use crate::codec::{Method, Properties, TableBuf, Value, put_content_header};
use crate::exception::{Exception, not_implemented};
use crate::queue::Queue;
use crate::tally;

/// Octets that are pushed ahead of a client.
pub(super) const WINDOW_BYTES: usize = 512 * 1024;

/// Messages that are pushed ahead of a client at most, and before any was seen.
const WINDOW_MAX: u32 = 1024;
const WINDOW_FIRST: u32 = 16;

/// A message that came although the channel's consumers hold what they share.
#[derive(Debug)]
pub(super) struct Kept {
    at: usize,
    delivery: Delivery,
    headers: Bytes,
    subject: Bytes,
    body: Bytes,
}

/// What of a message goes to a client.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) headers: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) body: Body<'a>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(message: &Message<'a>) -> Self {
        Shown {
            headers: message.headers,
            subject: message.subject,
            body: Body::of(message),
        }
    }
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

    /// The level to be told to the shard, if it is worth it. `share`: what it may have at most beyond what it holds.
    fn new_level(&self, share: Option<u32>) -> Option<u32> {
        let window = self.window().min(share.unwrap_or(u32::MAX));
        let mut wanted = self.held.saturating_add(window);
        if self.prefetch > 0 {
            wanted = wanted.min(self.prefetch);
        }
        let ahead = self.level.saturating_sub(self.held);
        let too_little = ahead <= window / 2 && wanted > self.level;
        let too_much = ahead > window.saturating_mul(2);
        // It was more when it was told.
        let beyond = self.prefetch > 0 && self.level > self.prefetch;
        (too_little || too_much || beyond).then_some(wanted)
    }

    /// It may hold so many from now on. One that reads a stream needs some number, one that does not acknowledge none.
    fn change_prefetch(&mut self, count: u16) {
        if !self.no_ack && (count > 0 || self.reader.is_none()) {
            self.prefetch = count.into();
        }
    }

    /// Writes a message whose record begins as the last one's did; `false`, and nothing is written: it does not.
    fn write_again(
        &self,
        (channel, tag): (u16, u64),
        delivery: &Delivery,
        shown: Shown<'_>,
        shared: &Shared,
        out: &mut Out,
    ) -> bool {
        // What counts its failures says so in its headers, and what another protocol has published may have its key
        // elsewhere.
        let is_written = delivery.failures == 0
            && shown.subject.is_empty()
            && self.template.write(
                (shown.headers, shown.body.octets.len()),
                (tag, delivery.redeliveries > 0),
                shown.body.room(),
                out.tail(),
            );
        if is_written {
            shown.body.write(channel, shared.frame_max, out);
        }
        is_written
    }

    fn write(
        &mut self,
        (channel, tag): (u16, u64),
        delivery: &Delivery,
        shown: Shown<'_>,
        shared: &Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let plain = Envelope::of_headers(shown.headers, shown.subject);
        let counted = counted(&plain, delivery, &self.queue);
        let envelope = plain.with(counted.as_deref());
        check_header(&envelope, shared)?;
        let deliver = Method::BasicDeliver {
            consumer_tag: &self.tag,
            delivery_tag: tag,
            redelivered: delivery.redeliveries > 0,
            exchange: envelope.exchange,
            routing_key: &envelope.key,
        };
        let tail = out.tail();
        let before = tail.len();
        let written = deliver.encode(channel, tail).and_then(|()| {
            let method = tail.len() - before;
            let size = shown.body.octets.len();
            put_content_header(channel, envelope.properties, size, tail)?;
            Ok(method)
        });
        let method = match written {
            Ok(method) => method,
            Err(error) => {
                tail.truncate(before);
                tracing::error!(%error, "a message cannot be written");
                return Ok(());
            }
        };
        if counted.is_none()
            && shown.subject.is_empty()
            && let Some(frames) = tail.get(before..)
        {
            self.template.keep(shown.headers, frames, method, &self.tag);
        }
        shown.body.write(channel, shared.frame_max, out);
        Ok(())
    }

    /// Of one that does not acknowledge: what is to be told to the shard, if it is worth it.
    fn new_allowance(&self) -> Option<u32> {
        let window = self.window();
        let too_little = self.ahead <= window / 2;
        let too_much = self.ahead > window.saturating_mul(2);
        (too_little || too_much).then_some(window)
    }

    pub(super) fn saw(&mut self, bytes: usize) {
        // One large message is forgotten after some dozens of small ones.
        self.largest = bytes.max(self.largest - self.largest / 32).max(1);
    }
}

impl Channel {
    pub(super) fn qos(
        &mut self,
        (size, count, global): (u32, u16, bool),
        shared: &Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if size != 0 {
            return Err(not_implemented(format!("prefetch_size!=0 ({size})")));
        }
        if global {
            self.shared_prefetch = count.into();
            self.feed_all();
        } else {
            self.prefetch = count;
            if shared.qos_updates_existing {
                for consumer in self.consumers.values_mut() {
                    consumer.change_prefetch(count);
                }
                self.feed_all();
            }
        }
        say(&Method::BasicQosOk {}, self.number(), out);
        Ok(())
    }

    /// Tells the shard how many messages a consumer may hold, if that has changed enough.
    pub(super) fn feed(&mut self, number: u32) {
        if self.shared_prefetch == 0 {
            return self.feed_one(number, None);
        }
        let share = self.share();
        let numbers: Vec<u32> = self.consumers.keys().copied().collect();
        for number in numbers {
            self.feed_one(number, Some(share));
        }
    }

    fn feed_one(&mut self, number: u32, share: Option<u32>) {
        let Some(consumer) = self.consumers.get_mut(&number) else {
            return;
        };
        if self.pausing.is_paused {
            return;
        }
        if consumer.reader.is_some() {
            // It reads on when the channel's commands are handed over.
            return;
        }
        let at = usize::from(consumer.queue.shard.0);
        if consumer.no_ack {
            if consumer.ready
                && let Some(allowance) = consumer.new_allowance()
                && let Some(way) = self.ways.get_mut(at)
            {
                consumer.ahead = allowance;
                way.tell(Command::Credit {
                    consumer: ConsumerTag(number),
                    credit: Credit::Away(allowance),
                });
            }
            return;
        }
        if consumer.ready
            && let Some(level) = consumer.new_level(share)
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

    pub(super) fn feed_all(&mut self) {
        let numbers: Vec<u32> = self.consumers.keys().copied().collect();
        if self.shared_prefetch > 0 {
            if let Some(number) = numbers.first() {
                self.feed(*number);
            }
            return;
        }
        for number in numbers {
            self.feed_one(number, None);
        }
    }

    /// What each consumer may have of what the channel's consumers share.
    fn share(&self) -> u32 {
        let kept = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        let taken = self.shared_held.saturating_add(kept);
        let left = self.shared_prefetch.saturating_sub(taken);
        let consumers = self.consumers.values();
        let sharing = consumers.filter(|one| !one.no_ack && one.reader.is_none());
        let sharing = sharing.count();
        let sharing = u32::try_from(sharing).unwrap_or(u32::MAX).max(1);
        match left {
            0 => 0,
            left => (left / sharing).max(1),
        }
    }

    fn has_shared_room(&self) -> bool {
        self.shared_prefetch == 0 || self.shared_held < self.shared_prefetch
    }

    pub(super) fn pushed(
        &mut self,
        at: usize,
        delivery: &Delivery,
        message: Option<&Message<'_>>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let number = delivery.consumer.0;
        let Some(consumer) = self.consumers.get_mut(&number) else {
            // Cancelled meanwhile: it goes back.
            self.settle_delivery(at, delivery, GIVEN_BACK);
            return Ok(());
        };
        let message = message.ok_or_else(|| internal("a message cannot be read"))?;
        if consumer.no_ack {
            consumer.ahead = consumer.ahead.saturating_sub(1);
        } else {
            consumer.held += 1;
        }
        consumer.saw(message.payload.len() + message.headers.len());
        if !consumer.no_ack && (!self.kept.is_empty() || !self.has_shared_room()) {
            self.kept.push_back(Kept {
                at,
                delivery: *delivery,
                headers: Bytes::copy_from_slice(message.headers),
                subject: Bytes::copy_from_slice(message.subject),
                body: message.share(),
            });
            self.feed(number);
            return Ok(());
        }
        let shown = Shown::of(message);
        self.deliver(at, delivery, shown, shared, out)
    }

    /// `basic.deliver` to a consumer that is there.
    pub(super) fn deliver(
        &mut self,
        at: usize,
        delivery: &Delivery,
        shown: Shown<'_>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let channel = self.number();
        let number = delivery.consumer.0;
        if is_traced(shared)
            && let Some(consumer) = self.consumers.get(&number)
        {
            let again = delivery.redeliveries > 0;
            self.tap_delivery(&consumer.queue.name, again, shown, shared);
        }
        let Some(consumer) = self.consumers.get_mut(&number) else {
            return Ok(());
        };
        let tag = self.last_delivery + 1;
        if !consumer.write_again((channel, tag), delivery, shown, shared, out) {
            consumer.write((channel, tag), delivery, shown, shared, out)?;
        }
        self.last_delivery = tag;
        let again = u64::from(delivery.redeliveries > 0);
        self.counts.redeliver += again;
        consumer.tally.add(tally::queue::REDELIVER, again);
        if consumer.no_ack {
            self.counts.deliver_no_ack += 1;
            consumer.tally.add(tally::queue::DELIVER_NO_ACK, 1);
        } else {
            self.counts.deliver += 1;
            consumer.tally.add(tally::queue::DELIVER, 1);
            self.shared_held += 1;
            if consumer.queue.has_retries() {
                let queue = Arc::clone(&consumer.queue);
                self.note_retries(delivery.group, &queue);
            }
            let given = delivered(tag, at, delivery, number, shared.now);
            self.unacked.push(given);
        }
        if out.is_over_soft_limit() {
            out.ask_for_room();
        } else {
            self.feed(number);
        }
        Ok(())
    }

    /// Gives what was kept, as far as there is room.
    pub(super) fn give_kept(
        &mut self,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        while !self.pausing.is_paused
            && self.has_shared_room()
            && let Some(kept) = self.kept.pop_front()
        {
            let shown = Shown {
                headers: &kept.headers,
                subject: &kept.subject,
                body: Body::from(&kept.body),
            };
            self.deliver(kept.at, &kept.delivery, shown, shared, out)?;
        }
        Ok(())
    }

    /// A consumer is gone: what is kept for it goes back.
    pub(super) fn return_kept(&mut self, number: u32) {
        let (gone, stays) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition::<std::collections::VecDeque<_>, _>(|kept| {
                kept.delivery.consumer.0 == number
            });
        self.kept = stays;
        let mut returns = Returns::default();
        for kept in gone {
            let message = (kept.delivery.group, kept.delivery.seq);
            returns.add(kept.at, message, GIVEN_BACK);
        }
        self.requeue_all(returns);
    }

    /// A queue is gone, with what is kept of it.
    pub(super) fn forget_kept(&mut self, number: u32) {
        self.kept.retain(|kept| kept.delivery.consumer.0 != number);
    }

    /// What comes back to a queue with retries has to wait: the queue is asked then.
    fn note_retries(&mut self, group: GroupId, queue: &Arc<Queue>) {
        if queue.has_retries() && !self.retrying.contains_key(&group) {
            self.retrying.insert(group, Arc::clone(queue));
        }
    }

    /// The client reads again.
    pub(super) fn has_room(&mut self) {
        self.readers_have_room();
        self.feed_all();
    }

    pub(super) fn fetched(
        &mut self,
        at: usize,
        (no_ack, queue): (bool, &Arc<Queue>),
        reply: &Reply,
        message: Option<&Message<'_>>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        shared.answered();
        let Reply::Delivered(delivery) = reply else {
            self.counts.get_empty += 1;
            queue.tallies().count(tally::queue::GET_EMPTY);
            self.draws.count(queue, tally::queue::GET_EMPTY);
            say(
                &Method::BasicGetEmpty { reserved_1: "" },
                self.number(),
                out,
            );
            return Ok(());
        };
        let message = message.ok_or_else(|| internal("a message cannot be read"))?;
        let shown = Shown::of(message);
        self.tap_delivery(&queue.name, delivery.redeliveries > 0, shown, shared);
        let plain = Envelope::of(message);
        let counted = counted(&plain, delivery, queue);
        let envelope = plain.with(counted.as_deref());
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
            envelope.properties,
            Body::of(message),
            shared.frame_max,
            out,
        );
        if delivery.redeliveries > 0 {
            self.counts.redeliver += 1;
            queue.tallies().count(tally::queue::REDELIVER);
            self.draws.count(queue, tally::queue::REDELIVER);
        }
        if no_ack {
            self.counts.get_no_ack += 1;
            queue.tallies().count(tally::queue::GET_NO_ACK);
            self.draws.count(queue, tally::queue::GET_NO_ACK);
            self.ack_delivery(at, delivery);
        } else {
            self.counts.get += 1;
            queue.tallies().count(tally::queue::GET);
            self.draws.count(queue, tally::queue::GET);
            let tag = self.last_delivery;
            self.note_retries(delivery.group, queue);
            self.unacked
                .push(delivered(tag, at, delivery, 0, Timestamp(0)));
        }
        Ok(())
    }
}

/// How a message goes back that nobody has seen.
const GIVEN_BACK: Settle = Settle::Release {
    priority: None,
    delay_ms: 0,
    failed: false,
};

fn delivered(tag: u64, at: usize, delivery: &Delivery, consumer: u32, now: Timestamp) -> Delivered {
    Delivered {
        tag,
        shard: u16::try_from(at).unwrap_or(u16::MAX),
        group: delivery.group,
        seq: delivery.seq,
        consumer,
        deliveries: delivery.redeliveries.saturating_add(1),
        failures: delivery.failures,
        at: now,
        is_read: false,
    }
}

/// The header that says how many deliveries of a message have failed.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The properties of a message with the count of its failed deliveries, where its queue counts them.
fn counted(envelope: &Envelope<'_>, delivery: &Delivery, queue: &Queue) -> Option<Vec<u8>> {
    if delivery.failures == 0 || !queue.settings().counts_failures {
        return None;
    }
    let properties = Properties::decode(envelope.properties).ok()?;
    let mut headers = TableBuf::default();
    for (key, value) in properties.headers.unwrap_or_default().iter() {
        if key != DELIVERY_COUNT {
            headers.put(key, value).ok()?;
        }
    }
    let count = Value::I64(delivery.failures.into());
    headers.put(DELIVERY_COUNT, count).ok()?;
    let properties = Properties {
        headers: Some(headers.as_table()),
        ..properties
    };
    let mut octets = Vec::new();
    properties.encode(&mut octets).ok()?;
    Some(octets)
}

#[cfg(test)]
pub(super) mod tests {
    use longtail_model::{ConsumerTag, Lsn, Seq, ShardId, StreamId};

    use super::*;
    use crate::queue::{QueueArguments, QueueConfig, QueueSettings};
    use crate::session::content;
    use crate::session::template::Template;

    /// A message for a consumer, with properties of so many octets.
    pub(in crate::session) fn kept(consumer: u32, octets: usize) -> Kept {
        Kept {
            at: 0,
            delivery: Delivery {
                consumer: ConsumerTag(consumer),
                stream: StreamId(1),
                group: GroupId(1),
                seq: Seq(1),
                position: Lsn(0),
                redeliveries: 0,
                failures: 0,
                mark: 0,
            },
            headers: content::encode("e", "k", &vec![0; octets]),
            subject: Bytes::new(),
            body: Bytes::new(),
        }
    }

    pub(in crate::session) fn consumer(prefetch: u32) -> Consumer {
        let config = QueueConfig {
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: Arc::default(),
            parsed: QueueArguments::default(),
        };
        let at = (ShardId(0), StreamId(1));
        let queue = Queue::new("q".into(), at, config, QueueSettings::default());
        Consumer {
            tally: queue.tallies().join(),
            tag: "t".into(),
            queue: Arc::new(queue),
            no_ack: false,
            prefetch,
            timeout_ms: None,
            held: 0,
            level: 0,
            ahead: 0,
            largest: 0,
            template: Template::default(),
            _seat: None,
            ready: true,
            reader: None,
            arguments: Arc::default(),
        }
    }

    #[test]
    fn a_small_prefetch_is_told_once() {
        let mut consumer = consumer(5);
        assert_eq!(consumer.new_level(None), Some(5));
        consumer.level = 5;
        for held in [5, 0, 3] {
            consumer.held = held;
            consumer.saw(100);
            assert_eq!(consumer.new_level(None), None, "{held}");
        }
    }

    #[test]
    fn a_prefetch_that_changes_is_told_at_once() {
        let mut consumer = consumer(5);
        consumer.level = 5;
        consumer.saw(100);
        consumer.held = 5;
        consumer.change_prefetch(8);
        assert_eq!(consumer.new_level(None), Some(8));
        consumer.level = 8;
        // Fewer than it holds: it gets nothing until it has room.
        consumer.change_prefetch(2);
        assert_eq!(consumer.new_level(None), Some(2));
        consumer.level = 2;
        consumer.held = 1;
        assert_eq!(consumer.new_level(None), None);
        consumer.change_prefetch(0);
        assert_eq!(consumer.new_level(None), Some(1 + WINDOW_MAX));
        consumer.no_ack = true;
        consumer.change_prefetch(3);
        assert_eq!(consumer.prefetch, 0);
    }

    #[test]
    fn without_a_limit_the_level_moves_ahead_of_what_is_held() {
        let mut consumer = consumer(0);
        assert_eq!(consumer.new_level(None), Some(WINDOW_FIRST));
        consumer.level = WINDOW_FIRST;
        consumer.saw(100);
        consumer.held = 1;
        assert_eq!(consumer.new_level(None), Some(1 + WINDOW_MAX));
        consumer.level = 1 + WINDOW_MAX;
        consumer.held = 100;
        assert_eq!(consumer.new_level(None), None);
        consumer.held = 800;
        assert_eq!(consumer.new_level(None), Some(800 + WINDOW_MAX));
    }

    #[test]
    fn a_share_bounds_the_level_and_takes_back_what_is_too_much() {
        let mut consumer = consumer(0);
        consumer.saw(100);
        assert_eq!(consumer.new_level(Some(3)), Some(3));
        consumer.level = 3;
        assert_eq!(consumer.new_level(Some(3)), None);
        assert_eq!(consumer.new_level(Some(1)), Some(1));
        consumer.held = 1;
        assert_eq!(consumer.new_level(Some(0)), Some(1));
        consumer.level = 1;
        assert_eq!(consumer.new_level(Some(0)), None);
        assert_eq!(consumer.new_level(Some(2)), Some(3));
    }

    #[test]
    fn one_that_does_not_acknowledge_is_allowed_more_when_half_of_that_is_used() {
        let mut consumer = consumer(0);
        assert_eq!(consumer.new_allowance(), Some(WINDOW_FIRST));
        consumer.saw(100);
        consumer.ahead = WINDOW_MAX / 2 + 1;
        assert_eq!(consumer.new_allowance(), None);
        consumer.ahead -= 1;
        assert_eq!(consumer.new_allowance(), Some(WINDOW_MAX));
        consumer.ahead = WINDOW_MAX;
        consumer.saw(4 * WINDOW_BYTES);
        assert_eq!(
            consumer.new_allowance(),
            Some(1),
            "what was allowed is too much"
        );
    }

    #[test]
    fn large_messages_come_one_by_one() {
        let mut consumer = consumer(100);
        consumer.level = WINDOW_FIRST;
        consumer.held = 1;
        consumer.saw(4 * WINDOW_BYTES);
        assert_eq!(consumer.window(), 1);
        assert_eq!(consumer.new_level(None), Some(2));
        for _ in 0..1000 {
            consumer.saw(10);
        }
        assert_eq!(consumer.window(), WINDOW_MAX);
    }
}
