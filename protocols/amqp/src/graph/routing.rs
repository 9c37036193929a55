//! From an exchange and a message to queues: every way through the graph is gone once, and each queue is named once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use longtail_model::Timestamp;
use smallvec::SmallVec;

use super::dedup::{Key as DedupKey, Repeated};
use super::exchange::{Destination, Waiting};
use super::{Archive, Content, Graph};
use crate::codec::{Properties, Table, Value};
use crate::queue::Queue;

/// What routing depends on.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// The routing keys: its own, and those of its copies.
    pub keys: &'a [&'a str],
    /// The message's properties.
    pub properties: &'a Properties<'a>,
    /// The message itself, for exchanges that record it.
    pub content: Content<'a>,
    /// It was delayed, and its time has come: the exchange that it waited in lets it through.
    pub due: bool,
    /// The time.
    pub now: Timestamp,
}

impl<'a> Routing<'a> {
    pub(super) fn headers(&self) -> Table<'a> {
        self.properties.headers.unwrap_or_default()
    }
}

/// The header that says how many milliseconds a message waits.
pub const DELAY: &str = "x-delay";

/// How long a message is to wait; `None`: not at all.
#[must_use]
pub fn delay_ms(headers: &Table<'_>) -> Option<u64> {
    let ms = match headers.get(DELAY)? {
        Value::LongString(text) => std::str::from_utf8(text).ok()?.trim().parse().ok()?,
        // What clients without a type for whole numbers send; the part below a millisecond is no matter.
        #[allow(clippy::cast_possible_truncation)]
        Value::F64(ms) => ms as i64,
        value => value.as_i64()?,
    };
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

/// Exchanges that one message goes through at most.
const HOPS_MAX: usize = 1_000;

impl Graph {
    /// The queues that a message published to `exchange` goes to, each once. `None`: there is no such exchange.
    /// Exchanges on its way that record messages do so.
    #[must_use]
    pub fn route(&self, exchange: &str, routing: &Routing<'_>) -> Option<Routed> {
        self.route_past(None, exchange, routing)
    }

    /// The same, but not through the exchange `past`.
    pub(super) fn route_past<'g>(
        &'g self,
        past: Option<&'g str>,
        exchange: &'g str,
        routing: &Routing<'_>,
    ) -> Option<Routed> {
        let mut found = Routed::default();
        if exchange.is_empty() {
            for key in routing.keys {
                self.reach(key, &mut found.queues);
            }
            return Some(found);
        }
        self.exchanges.get(exchange)?;
        let delay_ms = delay_ms(&routing.headers());
        // Exchanges that have looked whether the message came before, and whether it did.
        let mut looked: HashMap<&str, bool> = HashMap::new();
        let mut recorded: SmallVec<[&str; 1]> = SmallVec::new();
        for key in routing.keys {
            let mut visited: HashSet<&str> = past.into_iter().collect();
            let mut ahead: Vec<&str> = vec![exchange];
            while let Some(name) = ahead.pop() {
                if visited.len() >= HOPS_MAX || !visited.insert(name) {
                    continue;
                }
                if name.is_empty() {
                    self.reach(key, &mut found.queues);
                    continue;
                }
                let Some(node) = self.exchanges.get(name) else {
                    continue;
                };
                found.by_message |= node.looks_at_more();
                let is_due = routing.due && name == exchange;
                if let Some(seen) = &node.seen
                    && !is_due
                {
                    let is_new = *looked.entry(name).or_insert_with(|| {
                        match seen.note(&routing.headers(), routing.now) {
                            Ok(Some(key)) => {
                                found.noted.push(Noted::Exchange(Arc::from(name), key));
                                true
                            }
                            Ok(None) => true,
                            Err(Repeated) => false,
                        }
                    });
                    if !is_new {
                        continue;
                    }
                }
                if let (Some(waiting), Some(ms), false) = (&node.waiting, delay_ms, is_due) {
                    found.beside.delay_ms = ms;
                    if !found.beside.waiting.contains(waiting) {
                        found.beside.waiting.push(waiting.clone());
                    }
                    continue;
                }
                if let Some(recent) = &node.recent
                    && !recorded.contains(&name)
                {
                    recorded.push(name);
                    if recent.record(routing) {
                        found.beside.archives.extend(recent.archive);
                    }
                }
                if self.shared.as_deref() == Some(name) {
                    found.shared.push((*key).into());
                }
                let mut matched = false;
                node.matching(routing, key, &mut |binding| {
                    matched = true;
                    match binding {
                        Destination::Exchange(next) => ahead.push(next),
                        Destination::Queue(queue) => self.reach(queue, &mut found.queues),
                    }
                });
                if !matched && let Some(alternate) = &node.alternate {
                    ahead.push(alternate);
                }
            }
        }
        Some(found)
    }

    fn reach(&self, name: &str, found: &mut Vec<Arc<Queue>>) {
        if let Some(queue) = self.queues.get(name)
            && !found.iter().any(|known| Arc::ptr_eq(known, queue))
        {
            found.push(Arc::clone(queue));
        }
    }
}

/// A key that was noted for a message, to be forgotten if the message is not stored.
#[derive(Clone, Debug)]
pub enum Noted {
    /// By an exchange.
    Exchange(Arc<str>, DedupKey),
    /// By a queue.
    Queue(Arc<Queue>, DedupKey),
}

/// Where a message goes beside queues.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Exchanges where it waits for its time, and how long.
    pub waiting: Vec<Waiting>,
    /// See `waiting`.
    pub delay_ms: u64,
    /// Those of exchanges that have recorded it.
    pub archives: Vec<Archive>,
}

/// Where a message goes.
#[derive(Clone, Debug, Default)]
pub struct Routed {
    /// The queues.
    pub queues: Vec<Arc<Queue>>,
    /// More than exchange and key was asked: another message with the same key may go elsewhere.
    pub by_message: bool,
    /// The keys with which it came through the exchange that is the subjects of the space.
    pub shared: SmallVec<[Arc<str>; 1]>,
    /// Where else it goes.
    pub beside: Beside,
    /// What exchanges have noted of it.
    pub noted: Vec<Noted>,
}
