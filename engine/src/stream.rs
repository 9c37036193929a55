//! A stream and its groups: where every message stands.
//!
//! A group never lists what is settled, only what is not: a message that stands in none of a group's sets is settled
//! there. Groups that read in sequence order do not list what is ready either, as long as it is ready in its place:
//! everything from the cursor on is, except what `passed` names.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use longtail_log::PageError;
use longtail_model::{ConsumerTag, Durability, GroupId, IndexId, Lsn, Seq, StreamId, Timestamp};

use crate::config::{GroupConfig, GroupName, Numbering, Order, StreamConfig, StreamName};
use crate::effect::Counts;
use crate::shard::Head;
use crate::structures::index::{PageSource, PagedIndex};
use crate::structures::interval::IntervalSet;
use crate::structures::ordered::OrderedSet;
use crate::structures::wheel::TimerId;

/// Priorities below this count as urgent in statistics.
pub(crate) const URGENT: u64 = 1024;

/// Hashing that is the same in every run, so that a simulation repeats exactly.
pub(crate) type FixedHash = foldhash::fast::FixedState;

/// A session's slot in the shard.
pub(crate) type SessionKey = usize;

/// A hold's slot in the shard.
pub(crate) type HoldKey = usize;

/// A named, ordered view of records in the log.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) name: StreamName,
    pub(crate) config: StreamConfig,
    pub(crate) index: IndexId,
    pub(crate) level: Durability,
    /// Whether its definition is in the log. A stream that only links keep alive is not worth a record.
    pub(crate) defined: bool,
    /// The default group, then those that were added.
    pub(crate) groups: Vec<Group>,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// When which message expires.
    pub(crate) expiry: OrderedSet,
    pub(crate) expiry_timer: Alarm,
    pub(crate) age_timer: Alarm,
    pub(crate) producers: u64,
    pub(crate) consumers: u64,
    pub(crate) appended: u64,
    pub(crate) removed: u64,
    /// Sessions that wait for something to read.
    pub(crate) readers: Vec<SessionKey>,
}

impl Stream {
    pub(crate) fn shares_numbers(&self) -> bool {
        matches!(self.config.numbering, Numbering::Shared(_))
    }
}

/// A timer that stands for the earliest of many due times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alarm {
    pub(crate) set: Option<(Timestamp, TimerId)>,
}

/// Where a message stands in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Listed as ready under this key.
    Ready(u64),
    /// Ready because the cursor has not come to it yet.
    Ahead,
    /// Listed as delayed until then.
    Delayed(Timestamp),
    /// Set aside, under this ticket.
    Parked(u64),
    /// Held by a consumer.
    Held(HoldKey),
}

/// What is remembered of a message beyond its record, once something has happened to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) priority: u32,
    /// `None`: ready.
    pub(crate) aside: Option<Aside>,
    pub(crate) delay_ms: u64,
    pub(crate) counts: Counts,
    /// The message may be shown again once the log is as safe as its stream asks up to here: whoever gets it learns
    /// that it came back.
    pub(crate) after: Lsn,
    /// What a consumer left on it; 0: nothing.
    pub(crate) mark: u64,
}

impl Meta {
    /// Of a message to which nothing has happened yet.
    pub(crate) fn of(head: &Head) -> Self {
        Meta {
            priority: head.priority,
            delay_ms: head.delay_ms,
            ..Meta::default()
        }
    }
}

/// Why a message with a [`Meta`] is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    Delayed(Timestamp),
    Parked(u64),
}

/// Consumption state over a stream.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: GroupName,
    pub(crate) config: GroupConfig,
    /// Whether ready messages ahead of the cursor go unlisted.
    pub(crate) implicit: bool,
    pub(crate) cursor: Seq,
    /// How many are ready ahead of the cursor.
    pub(crate) ahead: u64,
    /// What the cursor must step over.
    pub(crate) passed: IntervalSet,
    pub(crate) ready: OrderedSet,
    pub(crate) urgent: u64,
    pub(crate) delayed: OrderedSet,
    pub(crate) delay_timer: Alarm,
    pub(crate) parked: OrderedSet,
    pub(crate) next_ticket: u64,
    pub(crate) held: u64,
    pub(crate) meta: HashMap<u64, Meta, FixedHash>,
    /// Consumers that wait, oldest first.
    pub(crate) waiters: BTreeMap<u64, (SessionKey, ConsumerTag)>,
    pub(crate) paused_until: Option<Timestamp>,
    pub(crate) pause_ms: u64,
    pub(crate) pause_timer: Option<TimerId>,
    pub(crate) pauses: u64,
    /// Its place is free for another group.
    pub(crate) deleted: bool,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        name: GroupName,
        config: GroupConfig,
        shared: bool,
        cursor: Seq,
    ) -> Self {
        let implicit = !shared && config.order == Order::Sequence;
        Group {
            id,
            name,
            config,
            implicit,
            cursor,
            ahead: 0,
            passed: IntervalSet::default(),
            ready: OrderedSet::new(),
            urgent: 0,
            delayed: OrderedSet::new(),
            delay_timer: Alarm::default(),
            parked: OrderedSet::new(),
            next_ticket: 1,
            held: 0,
            meta: HashMap::default(),
            waiters: BTreeMap::new(),
            paused_until: None,
            pause_ms: 0,
            pause_timer: None,
            pauses: 0,
            deleted: false,
        }
    }

    /// The key under which a message of this priority is listed as ready.
    pub(crate) fn key(&self, priority: u32) -> u64 {
        match self.config.order {
            Order::Sequence => 0,
            Order::Priority => u64::from(priority),
        }
    }

    pub(crate) fn ready_len(&self) -> u64 {
        self.ready.len() as u64 + self.ahead
    }

    /// The best ready message: its key and number.
    ///
    /// # Errors
    /// When the index page in which it may be cannot be read.
    pub(crate) fn head(
        &self,
        index: &PagedIndex,
        pages: &impl PageSource,
    ) -> Result<Option<(u64, Seq)>, PageError> {
        let listed = self.ready.first().map(|(key, seq)| (key, Seq(seq)));
        if self.ahead == 0 {
            return Ok(listed);
        }
        let ahead = self.next_ahead(index, pages)?.map(|seq| (0, seq));
        Ok(match (listed, ahead) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    /// The first message at or after the cursor that is ready in its place.
    fn next_ahead(
        &self,
        index: &PagedIndex,
        pages: &impl PageSource,
    ) -> Result<Option<Seq>, PageError> {
        let mut from = self.cursor;
        loop {
            let Some((seq, _)) = index.next_at_or_after(from, pages)? else {
                return Ok(None);
            };
            let free = self.passed.next_absent(seq.0);
            if free == seq.0 {
                return Ok(Some(seq));
            }
            from = Seq(free);
        }
    }

    /// Whether a message is the first one ahead of the cursor.
    pub(crate) fn head_is_ahead(
        &self,
        seq: Seq,
        index: Option<&PagedIndex>,
        pages: &impl PageSource,
    ) -> bool {
        let first = |index| self.next_ahead(index, pages).ok().flatten();
        self.ahead > 0 && index.and_then(first) == Some(seq)
    }

    pub(crate) fn is_ahead(&self, seq: Seq) -> bool {
        self.implicit && seq >= self.cursor && !self.passed.contains(seq.0)
    }

    /// Lists a message as ready.
    pub(crate) fn add_ready(&mut self, key: u64, seq: Seq) {
        if self.ready.insert(key, seq.0) && key < URGENT {
            self.urgent += 1;
        }
    }

    /// Takes a ready message out of the list, or steps over it.
    pub(crate) fn remove_ready(&mut self, place: Place, seq: Seq) {
        match place {
            Place::Ready(key) => {
                if self.ready.remove(key, seq.0) && key < URGENT {
                    self.urgent -= 1;
                }
            }
            Place::Ahead => {
                self.ahead -= 1;
                if seq == self.cursor {
                    self.cursor = seq.next();
                } else {
                    self.passed.insert(seq.0);
                }
            }
            Place::Delayed(_) | Place::Parked(_) | Place::Held(_) => {}
        }
    }

    /// Removes the first listed message, or else the first ahead of the cursor, which is `seq`.
    pub(crate) fn pop_head(&mut self, key: u64, seq: Seq) {
        if self.ready.first() == Some((key, seq.0)) {
            self.ready.pop_first();
            if key < URGENT {
                self.urgent -= 1;
            }
        } else {
            self.ahead -= 1;
            // What lies between the old cursor and this message is gone or stepped over for good.
            self.cursor = seq.next();
            self.passed.set_floor(self.cursor.0);
        }
    }

    /// Removes a message from whichever list it is in. Holds are the caller's.
    pub(crate) fn forget(&mut self, place: Place, seq: Seq) {
        match place {
            Place::Ready(_) | Place::Ahead => self.remove_ready(place, seq),
            Place::Delayed(due) => {
                self.delayed.remove(due.0, seq.0);
            }
            Place::Parked(ticket) => {
                self.parked.remove(ticket, seq.0);
            }
            Place::Held(_) => {}
        }
        self.meta.remove(&seq.0);
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.ready.heap_bytes()
            + self.delayed.heap_bytes()
            + self.parked.heap_bytes()
            + self.passed.heap_bytes()
            + self.meta.allocation_size()
    }
}

/// A message that a consumer holds.
pub(crate) struct Hold {
    pub(crate) stream: StreamId,
    pub(crate) group: GroupId,
    pub(crate) seq: Seq,
    pub(crate) position: Lsn,
    pub(crate) session: SessionKey,
    pub(crate) consumer: ConsumerTag,
    pub(crate) priority: u32,
    pub(crate) delay_ms: u64,
    pub(crate) ack_timeout_ms: u64,
    pub(crate) deadline: Timestamp,
    pub(crate) timer: Option<TimerId>,
    pub(crate) bytes: u64,
    pub(crate) counts: Counts,
    /// See [`Meta::after`].
    pub(crate) after: Lsn,
    /// See [`Meta::mark`].
    pub(crate) mark: u64,
    /// Neighbours in the session's list of holds.
    pub(crate) previous: Option<HoldKey>,
    pub(crate) next: Option<HoldKey>,
}

impl Hold {
    /// What is remembered of the message when the hold ends.
    pub(crate) fn meta(&self) -> Meta {
        Meta {
            priority: self.priority,
            aside: None,
            delay_ms: self.delay_ms,
            counts: self.counts,
            after: self.after,
            mark: self.mark,
        }
    }
}
