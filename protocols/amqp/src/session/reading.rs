//! Consumers of streams: each reads at a place of its own and takes nothing out.
//!
//! ```text
//! consume ──▶ Attach ──▶ Locate ──▶ consume-ok ──▶ Read ──▶ basic.deliver, basic.deliver, ...
//!                                                   ▲                │
//!                                                   └── basic.ack ◀──┘
//! ```
//!
//! A reader has a session of its own at its stream's shard, because one that waits for something to read holds back what
//! else that session asks. It reads as many messages as its client may still have; what comes while it does is read
//! together the next time, so that many readers of a busy stream read large pieces. An acknowledgement is credit and
//! nothing else, unless the server keeps the consumer's place.

use std::sync::Arc;

use longtail_edge::Out;
use longtail_engine::config::StreamName;
use longtail_engine::runtime::Shards;
use longtail_engine::{Command, Message, Reply, Settle, Start, Wait};
use longtail_model::{GroupId, Seq, SessionId, ShardId, Timestamp};

use super::channel::{Channel, Pending, Way, internal};
use super::consuming::space_of;
use super::content::Envelope;
use super::delivering::{Shown, WINDOW_BYTES};
use super::filtering::Filter;
use super::tapping::is_traced;
use super::unacked::Delivered;
use super::writing::{Body, check_header, write_content};
use super::{Action, Ended, Shared, say};
use crate::codec::{Method, Properties, Table, TableBuf, Value};
use crate::exception::{Exception, no_queue, not_implemented, precondition};
use crate::queue::{Progress, Queue, Reading, age_ms};
use crate::replies::Place;
use crate::tally;

/// The header with a message's place in its stream.
const OFFSET: &str = "x-stream-offset";

/// The server is to keep the place of a consumer by its tag: LavinMQ's.
const TRACKING: &str = "x-stream-automatic-offset-tracking";

/// Tags that the server makes begin so: nobody comes back with one.
const MADE_TAG: &str = "amq.ctag-";

/// Messages that are read at a time at most.
const READ_MAX: u32 = 256;

/// A consumer of a stream, as far as others have nothing like it.
#[derive(Debug)]
pub(super) struct Reader {
    name: StreamName,
    shard: ShardId,
    /// `None`: not attached yet.
    way: Option<Way>,
    place: Begin,
    /// How far it has come, where its place is kept.
    progress: Option<Progress>,
    filter: Option<Filter>,
    no_wait: bool,
    /// What is read next.
    next: Seq,
    /// A read is on its way, or waits at the end of the stream.
    is_reading: bool,
    /// The client does not take what it was sent.
    is_stalled: bool,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    At(Start),
    /// So many messages before the end.
    Last(u64),
}

impl Begin {
    fn parse(arguments: &Table<'_>, now: Timestamp) -> Result<Self, Exception> {
        let wrong = || {
            precondition(
                "invalid arg 'x-stream-offset': first, last, next, a number, a timestamp or an interval such as 1h is \
                 expected",
            )
        };
        let since = |ms: u64| Begin::At(Start::Since(Timestamp(ms)));
        Ok(match arguments.get(OFFSET) {
            None => Begin::At(Start::Next),
            Some(Value::Timestamp(seconds)) => since(seconds.saturating_mul(1000)),
            Some(value) => match (value.as_str(), value.as_i64()) {
                (Some("first"), _) => Begin::At(Start::First),
                (Some("last"), _) => Begin::At(Start::Last),
                (Some("next"), _) => Begin::At(Start::Next),
                (Some(interval), _) => {
                    let ms = age_ms(interval).ok_or_else(wrong)?;
                    since(now.0.saturating_sub(ms))
                }
                (None, Some(offset)) => match u64::try_from(offset) {
                    Ok(offset) => Begin::At(Start::At(seq_of(offset))),
                    Err(_) => Begin::Last(offset.unsigned_abs()),
                },
                (None, None) => return Err(wrong()),
            },
        })
    }

    /// What the shard is to look for.
    fn start(self) -> Start {
        match self {
            Begin::At(start) => start,
            Begin::Last(_) => Start::Next,
        }
    }

    /// The first number to be read, from what the shard has found.
    fn from(self, found: Seq) -> Seq {
        match self {
            Begin::At(_) => found,
            Begin::Last(count) => Seq(found.0.saturating_sub(count)).max(Seq::FIRST),
        }
    }
}

/// Whether the place of a consumer is to be kept by its tag.
fn is_tracked(arguments: &Table<'_>, tag: &str) -> Result<bool, Exception> {
    let invalid = |why: &str| precondition(format!("invalid arg '{TRACKING}': {why}"));
    let wanted = match arguments.get(TRACKING) {
        None => false,
        Some(Value::Bool(wanted)) => wanted,
        Some(value) => match value.as_str() {
            Some("true") => true,
            Some("false") => false,
            _ => return Err(invalid("a bool is expected")),
        },
    };
    if wanted && (tag.is_empty() || tag.starts_with(MADE_TAG)) {
        return Err(invalid("a consumer tag of the client's own is needed"));
    }
    Ok(wanted)
}

/// Offsets are counted from 0.
fn seq_of(offset: u64) -> Seq {
    Seq(offset.saturating_add(Seq::FIRST.0))
}

fn offset_of(seq: Seq) -> u64 {
    seq.0.saturating_sub(Seq::FIRST.0)
}

impl Channel {
    /// What a client that wants to consume from a stream has said.
    ///
    /// # Errors
    /// What is wrong with it, in RabbitMQ's words.
    pub(super) fn reader(
        &self,
        queue: &Queue,
        (tag, no_ack, no_wait): (&str, bool, bool),
        arguments: &Table<'_>,
        shared: &Shared,
    ) -> Result<Reader, Exception> {
        let what = format!("queue '{}' in vhost '{}'", queue.name, shared.asker.vhost);
        if arguments.get("x-priority").is_some() {
            return Err(precondition(format!(
                "invalid arg 'x-priority' for {what} of queue type rabbit_stream_queue"
            )));
        }
        if self.prefetch == 0 {
            return Err(precondition(format!(
                "consumer prefetch count is not set for '{what}'"
            )));
        }
        if no_ack {
            return Err(not_implemented(format!(
                "automatic acknowledgement not supported by stream queues {what}"
            )));
        }
        if self.shared_prefetch > 0 {
            return Err(not_implemented(format!(
                "{what} does not support global qos"
            )));
        }
        let topology = shared.topology()?;
        let mut place = Begin::parse(arguments, topology.now())?;
        let mut progress = None;
        if is_tracked(arguments, tag)? {
            progress = Some(Progress::new(topology.keeping()));
            match queue.offsets().get(tag) {
                Some(offset) => place = Begin::At(Start::At(seq_of(offset))),
                // It is to miss nothing.
                None if arguments.get(OFFSET).is_none() => place = Begin::At(Start::First),
                None => {}
            }
        }
        Ok(Reader {
            name: StreamName::new(space_of(shared)?, Arc::clone(&queue.name)),
            shard: queue.shard,
            way: None,
            place,
            progress,
            filter: Filter::parse(arguments)?,
            no_wait,
            next: Seq::FIRST,
            is_reading: false,
            is_stalled: false,
        })
    }

    fn reading(&self, consumer: u32, shared: &Shared) -> Reading {
        Reading {
            mailbox: Arc::clone(&shared.mailbox),
            at: Place {
                channel: self.number(),
                incarnation: self.incarnation(),
            },
            consumer,
        }
    }

    /// A consumer with a reader is there.
    pub(super) fn begin_reading(&mut self, consumer: u32, queue: &Queue, shared: &mut Shared) {
        self.readers += 1;
        queue.add_reader(self.reading(consumer, shared));
        shared.actions.push(Action::Attach {
            channel: self.number(),
            incarnation: self.incarnation(),
            consumer,
            shard: queue.shard,
        });
    }

    /// It is gone: what is to be detached.
    pub(super) fn stop_reading(
        &mut self,
        consumer: u32,
        queue: &Queue,
        reader: &mut Reader,
        shared: &Shared,
    ) -> Ended {
        self.readers = self.readers.saturating_sub(1);
        queue.remove_reader(&self.reading(consumer, shared));
        reader.way.iter_mut().map(Way::end).collect()
    }

    /// A reader has its session; `false`: it is not wanted any more.
    pub(super) fn attached(
        &mut self,
        consumer: u32,
        (shard, session): (ShardId, SessionId),
    ) -> bool {
        let Some(reader) = self.reader_of(consumer) else {
            return false;
        };
        let mut way = Way::new(shard, session);
        let locate = Command::Locate {
            name: reader.name.clone(),
            start: reader.place.start(),
        };
        way.ask(locate, Pending::Located);
        reader.way = Some(way);
        true
    }

    /// A consumer is done with a message, unless it wants it again: its place moves, where that is kept.
    pub(super) fn has_read(&mut self, delivered: &Delivered, how: Settle) {
        if !delivered.is_read || matches!(how, Settle::Release { .. }) {
            return;
        }
        let Some(consumer) = self.consumers.get_mut(&delivered.consumer) else {
            return;
        };
        let reader = consumer.reader.as_deref_mut();
        if let Some(progress) = reader.and_then(|reader| reader.progress.as_mut()) {
            let place = progress.settled(offset_of(delivered.seq));
            consumer.queue.offsets().set(&consumer.tag, place);
            progress.tell();
        }
    }

    fn reader_of(&mut self, consumer: u32) -> Option<&mut Reader> {
        self.consumers.get_mut(&consumer)?.reader.as_deref_mut()
    }

    /// The client takes again what it is sent.
    pub(super) fn readers_have_room(&mut self) {
        if self.readers > 0 {
            for consumer in self.consumers.values_mut() {
                if let Some(reader) = &mut consumer.reader {
                    reader.is_stalled = false;
                }
            }
        }
    }

    /// Has those read that may have more; `true`: something was queued.
    pub(super) fn read_on(&mut self, shards: &dyn Shards) -> bool {
        if self.readers == 0 {
            return false;
        }
        let is_paused = self.pausing.is_paused;
        let mut queued = false;
        for consumer in self.consumers.values_mut() {
            let credit = consumer.prefetch.saturating_sub(consumer.held);
            let ready = consumer.ready;
            let Some(reader) = &mut consumer.reader else {
                continue;
            };
            let Some(way) = &mut reader.way else {
                continue;
            };
            if ready && credit > 0 && !is_paused && !reader.is_reading && !reader.is_stalled {
                reader.is_reading = true;
                // Of what a filter looks at most may be nothing for this consumer.
                let max = match reader.filter {
                    Some(_) => READ_MAX,
                    None => credit.min(READ_MAX),
                };
                let read = Command::Read {
                    name: reader.name.clone(),
                    from: reader.next,
                    max,
                    max_bytes: WINDOW_BYTES as u64,
                    wait: Wait::Forever,
                };
                way.ask(read, Pending::Read);
            }
            queued |= way.send(shards);
        }
        queued
    }

    /// The stream that a consumer reads is gone. One that is not there yet is told so by the shard.
    pub(super) fn queue_gone(&mut self, number: u32, shared: &mut Shared, out: &mut Out) {
        if self
            .consumers
            .get(&number)
            .is_some_and(|consumer| consumer.ready)
        {
            self.cancelled(number, shared, out);
        }
    }

    /// What its shard says to a reader.
    pub(super) fn read(
        &mut self,
        number: u32,
        reply: &Reply,
        messages: &[Option<Message<'_>>],
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let channel = self.number();
        let Some(consumer) = self.consumers.get_mut(&number) else {
            // Cancelled meanwhile.
            return Ok(());
        };
        let Some(reader) = consumer.reader.as_deref_mut() else {
            return Err(internal("a consumer without a reader reads"));
        };
        let pending = reader.way.as_mut().and_then(Way::answered);
        match (pending, reply) {
            (Some(Pending::Located), Reply::Located(found)) => {
                reader.next = reader.place.from(*found);
                consumer.ready = true;
                shared.answered();
                if !reader.no_wait {
                    let consumer_tag = &*consumer.tag;
                    say(&Method::BasicConsumeOk { consumer_tag }, channel, out);
                }
                Ok(())
            }
            (Some(Pending::Located), Reply::NotFound) => {
                shared.answered();
                let vhost = &shared.asker.vhost;
                Err(no_queue(&consumer.queue.name, vhost).about((60, 20)))
            }
            (Some(Pending::Located), other) => {
                shared.answered();
                Err(internal(&format!("a stream cannot be read: {other:?}")))
            }
            (
                Some(Pending::Read),
                Reply::Batch {
                    messages: seqs,
                    next,
                },
            ) => {
                reader.is_reading = false;
                reader.next = *next;
                let seqs = seqs.iter().map(|&(seq, _)| seq);
                self.show_read(number, seqs.zip(messages), shared, out)
            }
            (Some(Pending::Read), Reply::NotFound) => {
                self.cancelled(number, shared, out);
                Ok(())
            }
            (_, other) => Err(internal(&format!("a stream cannot be read: {other:?}"))),
        }
    }

    /// Delivers what was read, as far as the consumer may have it.
    fn show_read<'a, 'm: 'a>(
        &mut self,
        number: u32,
        read: impl Iterator<Item = (Seq, &'a Option<Message<'m>>)>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let channel = self.number();
        for (seq, message) in read {
            let Some(consumer) = self.consumers.get_mut(&number) else {
                return Ok(());
            };
            let Some(reader) = consumer.reader.as_deref_mut() else {
                return Ok(());
            };
            if consumer.held >= consumer.prefetch || self.pausing.is_paused {
                reader.next = seq;
                return Ok(());
            }
            let message = message
                .as_ref()
                .ok_or_else(|| internal("a message cannot be read"))?;
            let plain = Envelope::of(message);
            let properties = Properties::decode(plain.properties).unwrap_or_default();
            let headers = properties.headers.unwrap_or_default();
            if reader
                .filter
                .as_ref()
                .is_some_and(|filter| !filter.wants(&headers))
            {
                continue;
            }
            let marked = with_offset(&properties, offset_of(seq));
            let envelope = plain.with(marked.as_deref());
            check_header(&envelope, shared)?;
            self.last_delivery += 1;
            let deliver = Method::BasicDeliver {
                consumer_tag: &consumer.tag,
                delivery_tag: self.last_delivery,
                redelivered: false,
                exchange: envelope.exchange,
                routing_key: &envelope.key,
            };
            let body = Body::of(message);
            let properties = envelope.properties;
            write_content(&deliver, channel, properties, body, shared.frame_max, out);
            self.counts.deliver += 1;
            consumer.tally.add(tally::queue::DELIVER, 1);
            consumer.held += 1;
            let queue = is_traced(shared).then(|| Arc::clone(&consumer.queue.name));
            if let Some(progress) = &mut reader.progress {
                progress.delivered(offset_of(seq));
            }
            self.unacked.push(Delivered {
                tag: self.last_delivery,
                shard: reader.shard.0,
                group: GroupId(0),
                seq,
                consumer: number,
                deliveries: 1,
                failures: 0,
                at: shared.now,
                is_read: true,
            });
            if out.is_over_soft_limit() && !reader.is_stalled {
                // What was read already is sent; nothing more is read.
                out.ask_for_room();
                reader.is_stalled = true;
            }
            if let Some(queue) = queue {
                self.tap_delivery(&queue, false, Shown::of(message), shared);
            }
        }
        Ok(())
    }
}

/// The properties of a message with its place in the stream, whatever its publisher has put there.
fn with_offset(properties: &Properties<'_>, offset: u64) -> Option<Vec<u8>> {
    let mut headers = TableBuf::default();
    for (key, value) in properties.headers.unwrap_or_default().iter() {
        if key != OFFSET {
            headers.put(key, value).ok()?;
        }
    }
    let offset = Value::I64(i64::try_from(offset).unwrap_or(i64::MAX));
    headers.put(OFFSET, offset).ok()?;
    let properties = Properties {
        headers: Some(headers.as_table()),
        ..*properties
    };
    let mut octets = Vec::new();
    properties.encode(&mut octets).ok()?;
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::samples::{table, text};

    #[test]
    fn offsets_are_said_in_many_ways() {
        let begin =
            |value| Begin::parse(&table(&[(OFFSET, value)]).as_table(), Timestamp(7_200_000));
        for (value, expected) in [
            (text("first"), Begin::At(Start::First)),
            (text("last"), Begin::At(Start::Last)),
            (text("next"), Begin::At(Start::Next)),
            (text("1h"), Begin::At(Start::Since(Timestamp(3_600_000)))),
            (text("1Y"), Begin::At(Start::Since(Timestamp(0)))),
            (Value::I32(0), Begin::At(Start::At(Seq(1)))),
            (Value::I64(41), Begin::At(Start::At(Seq(42)))),
            (Value::I16(-3), Begin::Last(3)),
            (
                Value::Timestamp(5),
                Begin::At(Start::Since(Timestamp(5_000))),
            ),
        ] {
            assert_eq!(begin(value).unwrap(), expected, "{value:?}");
        }
        for value in [text("now"), text("1x"), Value::Bool(true), Value::Void] {
            let refused = begin(value).unwrap_err().reply_text();
            assert!(refused.starts_with("PRECONDITION_FAILED - invalid arg 'x-stream-offset'"));
        }
        let unsaid = Begin::parse(&Table::default(), Timestamp(0)).unwrap();
        assert_eq!(unsaid, Begin::At(Start::Next));
        assert_eq!(Begin::Last(3).from(Seq(11)), Seq(8));
        assert_eq!(Begin::Last(30).from(Seq(11)), Seq(1));
    }

    #[test]
    fn the_place_of_a_consumer_is_kept_if_it_says_so_and_has_a_name() {
        let tracked = |value, tag| is_tracked(&table(&[(TRACKING, value)]).as_table(), tag);
        assert!(tracked(Value::Bool(true), "mine").unwrap());
        assert!(tracked(text("true"), "mine").unwrap());
        assert!(!tracked(Value::Bool(false), "").unwrap());
        assert!(!is_tracked(&Table::default(), "mine").unwrap());
        for (value, tag) in [
            (Value::Bool(true), ""),
            (Value::Bool(true), "amq.ctag-1"),
            (Value::I32(1), "mine"),
            (text("yes"), "mine"),
        ] {
            let refused = tracked(value, tag).unwrap_err().reply_text();
            assert!(
                refused.starts_with("PRECONDITION_FAILED - invalid arg"),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_offset_takes_the_place_of_what_the_publisher_said() {
        let headers = table(&[(OFFSET, Value::I32(99)), ("a", Value::U8(1))]);
        let properties = Properties {
            headers: Some(headers.as_table()),
            ..Properties::default()
        };
        let octets = with_offset(&properties, 7).unwrap();
        let read = Properties::decode(&octets).unwrap().headers.unwrap();
        let read: Vec<_> = read.iter().collect();
        assert_eq!(read, [("a", Value::U8(1)), (OFFSET, Value::I64(7))]);
    }
}
