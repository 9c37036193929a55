//! The last messages of an exchange, for queues that are bound later (`x-recent-history`, as RabbitMQ's plug-in has it).
//!
//! A message is recorded in the look-up that routes it, and shown to a new binding in the change that adds it. Look-ups
//! share the graph's lock and a change has it alone: a message goes to a queue by its binding or by the record, never by
//! both or neither.
//!
//! Records are copies in memory, so that what they weigh is what is counted. What a durable exchange records is stored in
//! a stream of its own as well, its archive, from which the records are made again after a restart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Destination, Graph, Routed, Routing};
use crate::codec::{Properties, Table, Value};
use crate::exception::{Exception, precondition};
use longtail_model::{ShardId, StreamId, Timestamp};

/// The argument that says how many messages an exchange records.
pub(super) const LENGTH: &str = "x-recent-history-length";
/// The header of a message that is not to be recorded.
const NO_STORE: &str = "x-recent-history-no-store";

/// Messages that are recorded unless the argument says otherwise.
const LENGTH_DEFAULT: usize = 20;

/// Most bytes that one exchange records, and all of a space.
const BYTES_MAX: usize = 16 * 1024 * 1024;
const SPACE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a record weighs beyond its octets.
const OVERHEAD: usize = 256;

/// How many messages an exchange with these arguments records.
///
/// # Errors
/// `PRECONDITION_FAILED` for what is not a positive whole number.
pub(super) fn length(arguments: &Table<'_>) -> Result<usize, Exception> {
    let Some(value) = arguments.get(LENGTH) else {
        return Ok(LENGTH_DEFAULT);
    };
    let length = value.as_i64().filter(|length| *length > 0);
    // More than fit are cut by their weight.
    length
        .map(|length| usize::try_from(length).unwrap_or(usize::MAX))
        .ok_or_else(|| {
            precondition(format!(
                "Invalid argument, '{LENGTH}' must be a positive integer"
            ))
        })
}

/// A message as it is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The exchange that it was published to.
    pub exchange: &'a str,
    /// Its properties, flags and values, as queues have them.
    pub properties: &'a [u8],
    /// Its body.
    pub body: &'a Bytes,
}

/// A recorded message.
#[derive(Debug)]
pub struct Recorded {
    /// The exchange that it was published to.
    pub exchange: Box<str>,
    /// The routing key, and those of its copies.
    pub keys: Box<[Box<str>]>,
    /// Its properties, flags and values.
    pub properties: Box<[u8]>,
    /// Its body.
    pub body: Bytes,
}

impl Recorded {
    fn new(routing: &Routing<'_>) -> Self {
        let Content {
            exchange,
            properties,
            body,
        } = routing.content;
        Recorded {
            exchange: exchange.into(),
            keys: routing.keys.iter().map(|key| Box::from(*key)).collect(),
            properties: properties.into(),
            // What it is a part of may be much larger.
            body: Bytes::copy_from_slice(body),
        }
    }
}

fn weight<'k>(keys: impl Iterator<Item = &'k str>, content: &Content<'_>) -> usize {
    let keys: usize = keys.map(|key| key.len() + size_of::<Box<str>>()).sum();
    OVERHEAD + keys + content.exchange.len() + content.properties.len() + content.body.len()
}

impl Recorded {
    fn content(&self) -> Content<'_> {
        Content {
            exchange: &self.exchange,
            properties: &self.properties,
            body: &self.body,
        }
    }

    fn weight(&self) -> usize {
        weight(self.keys.iter().map(AsRef::as_ref), &self.content())
    }
}

/// The place of an archive: its shard and its stream.
pub type Archive = (ShardId, StreamId);

/// What the archive of an exchange that records so many messages keeps: messages and bytes. It has no less than the
/// exchange remembers.
#[must_use]
pub fn archive_limits(length: usize) -> (u64, u64) {
    let most = length.min(BYTES_MAX / OVERHEAD);
    (most as u64, BYTES_MAX as u64)
}

/// What an exchange has recorded.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) archive: Option<Archive>,
    length: usize,
    kept: Mutex<Kept>,
    /// Bytes that all exchanges of the space record.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first, each with its weight.
    messages: VecDeque<(Arc<Recorded>, usize)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn new(length: usize, total: Arc<AtomicUsize>) -> Self {
        Recent {
            archive: None,
            length,
            kept: Mutex::default(),
            total,
        }
    }

    /// Records a message, unless it is larger than all that may be recorded or does not want that; whether it was.
    pub(super) fn record(&self, routing: &Routing<'_>) -> bool {
        if routing.headers().get(NO_STORE) == Some(Value::Bool(true)) {
            return false;
        }
        let weight = weight(routing.keys.iter().copied(), &routing.content);
        if weight > BYTES_MAX {
            return false;
        }
        let recorded = Arc::new(Recorded::new(routing));
        let mut kept = self.kept.lock();
        kept.messages.push_back((recorded, weight));
        kept.bytes += weight;
        self.total.fetch_add(weight, Ordering::Relaxed);
        self.cut(&mut kept);
        true
    }

    /// What was recorded before all that is.
    fn restore(&self, earlier: Vec<Recorded>) {
        let mut kept = self.kept.lock();
        for recorded in earlier.into_iter().rev() {
            let weight = recorded.weight();
            kept.messages.push_front((Arc::new(recorded), weight));
            kept.bytes += weight;
            self.total.fetch_add(weight, Ordering::Relaxed);
        }
        self.cut(&mut kept);
    }

    /// The oldest go that are too much.
    fn cut(&self, kept: &mut Kept) {
        while kept.messages.len() > self.length
            || kept.bytes > BYTES_MAX
            || self.total.load(Ordering::Relaxed) > SPACE_BYTES_MAX
        {
            let Some((_, weight)) = kept.messages.pop_front() else {
                break;
            };
            kept.bytes -= weight;
            self.total.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// What is recorded, the oldest first.
    fn all(&self) -> Vec<Arc<Recorded>> {
        let kept = self.kept.lock();
        let messages = kept.messages.iter();
        messages.map(|(recorded, _)| Arc::clone(recorded)).collect()
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        let bytes = self.kept.lock().bytes;
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Graph {
    /// What an exchange records is stored here as well, and this is what it has recorded before.
    pub fn set_archive(&mut self, exchange: &str, archive: Archive, earlier: Vec<Recorded>) {
        let exchange = self.exchanges.get_mut(exchange);
        if let Some(recent) = exchange.and_then(|exchange| exchange.recent.as_mut()) {
            recent.archive = Some(archive);
            recent.restore(earlier);
            self.generation += 1;
        }
    }

    /// The messages that an exchange has recorded, the oldest first, with where they go through a binding that is new.
    /// Through another exchange they go as it routes them, but not back to where they come from.
    #[must_use]
    pub fn replay(
        &self,
        source: &str,
        destination: &Destination,
        now: Timestamp,
    ) -> Vec<(Arc<Recorded>, Routed)> {
        let recent = self
            .exchange(source)
            .and_then(|known| known.recent.as_ref());
        let Some(recent) = recent else {
            return Vec::new();
        };
        let routed = |recorded: &Recorded| match destination {
            Destination::Queue(name) => Some(Routed {
                queues: self.queue(name).cloned().into_iter().collect(),
                ..Routed::default()
            }),
            Destination::Exchange(name) => {
                let properties = Properties::decode(&recorded.properties).ok()?;
                let keys: Vec<&str> = recorded.keys.iter().map(AsRef::as_ref).collect();
                let routing = Routing {
                    keys: &keys,
                    properties: &properties,
                    content: recorded.content(),
                    due: false,
                    now,
                };
                self.route_past(Some(source), name, &routing)
            }
        };
        let all = recent.all().into_iter();
        all.filter_map(|recorded| {
            let routed = routed(&recorded)?;
            Some((recorded, routed))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::samples::table;

    fn recent(length: usize) -> (Recent, Arc<AtomicUsize>) {
        let total = Arc::<AtomicUsize>::default();
        (Recent::new(length, Arc::clone(&total)), total)
    }

    fn comes(recent: &Recent, body: &Bytes, headers: Table<'_>) -> bool {
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        recent.record(&Routing {
            keys: &["k"],
            properties: &properties,
            content: Content {
                exchange: "x",
                properties: Properties::NONE,
                body,
            },
            due: false,
            now: Timestamp(0),
        })
    }

    fn lengths(recent: &Recent) -> Vec<usize> {
        let all = recent.all();
        all.iter().map(|recorded| recorded.body.len()).collect()
    }

    #[test]
    fn the_last_ones_are_kept_but_for_those_that_say_otherwise() {
        let (recent, total) = recent(3);
        for length in 1..=5 {
            assert!(comes(&recent, &vec![0; length].into(), Table::default()));
        }
        assert_eq!(lengths(&recent), [3, 4, 5]);
        for (value, stored) in [
            (Value::Bool(true), false),
            (Value::Bool(false), true),
            (Value::I32(1), true),
        ] {
            let headers = table(&[(NO_STORE, value)]);
            let recorded = comes(&recent, &Bytes::new(), headers.as_table());
            assert_eq!(recorded, stored, "{value:?}");
            let last = lengths(&recent).last().copied();
            assert_eq!(last == Some(0), stored, "{value:?}");
        }
        assert_eq!(lengths(&recent), [5, 0, 0]);
        drop(recent);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_by_its_weight() {
        let (recent, total) = recent(usize::MAX);
        let third: Bytes = vec![0; BYTES_MAX / 3].into();
        assert!(!comes(
            &recent,
            &vec![0; BYTES_MAX].into(),
            Table::default()
        ));
        assert!(lengths(&recent).is_empty(), "larger than everything");
        for _ in 0..5 {
            comes(&recent, &third, Table::default());
        }
        assert_eq!(lengths(&recent).len(), 2);
        assert_eq!(total.load(Ordering::Relaxed), recent.kept.lock().bytes);
        for _ in 0..BYTES_MAX / OVERHEAD {
            comes(&recent, &Bytes::new(), Table::default());
        }
        assert!(recent.kept.lock().bytes <= BYTES_MAX);
        // Others of the space have all that there is.
        total.fetch_add(SPACE_BYTES_MAX, Ordering::Relaxed);
        comes(&recent, &Bytes::new(), Table::default());
        assert!(lengths(&recent).is_empty());
        assert_eq!(total.load(Ordering::Relaxed), SPACE_BYTES_MAX);
    }

    #[test]
    fn what_was_recorded_before_a_restart_is_older_and_bounded_too() {
        let (recent, total) = recent(3);
        comes(&recent, &vec![0; 9].into(), Table::default());
        let earlier = |length: usize| Recorded {
            exchange: "x".into(),
            keys: ["k".into()].into(),
            properties: Properties::NONE.into(),
            body: vec![0; length].into(),
        };
        recent.restore(vec![earlier(1), earlier(2), earlier(3)]);
        assert_eq!(lengths(&recent), [2, 3, 9]);
        assert_eq!(total.load(Ordering::Relaxed), recent.kept.lock().bytes);
        assert_eq!(archive_limits(3).0, 3);
        // Nothing that is recorded is too much for the archive.
        let (messages, bytes) = archive_limits(usize::MAX);
        assert_eq!(messages * OVERHEAD as u64, bytes);
    }

    #[test]
    fn a_length_is_a_positive_whole_number() {
        let length_of = |value| length(&table(&[(LENGTH, value)]).as_table());
        assert_eq!(length(&Table::default()), Ok(20));
        assert_eq!(length_of(Value::U8(1)), Ok(1));
        assert_eq!(length_of(Value::I64(1 << 40)), Ok(1 << 40));
        for wrong in [
            Value::I32(0),
            Value::I32(-30),
            Value::F64(3.0),
            Value::LongString(b"3"),
        ] {
            let refused = length_of(wrong).unwrap_err();
            assert!(refused.text.contains("positive integer"), "{refused:?}");
        }
    }
}
