//! A group: what of a stream is ready, held, delayed and parked for those who draw from it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use hashbrown::HashMap;
use longtail_log::PageError;
use longtail_model::{ConsumerTag, GroupId, Lsn, Seq, StreamId, Timestamp};

use super::{Alarm, FixedHash, HoldKey, Pause, SessionKey, URGENT};
use crate::config::{GroupConfig, Order};
use crate::effect::Counts;
use crate::rare::{Rare, Unused};
use crate::shard::{Head, Rule};
use crate::structures::index::{PageSource, PagedIndex};
use crate::structures::interval::IntervalSet;
use crate::structures::ordered::OrderedSet;
use crate::structures::wheel::TimerId;

/// Where a message stands in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Listed as ready under this key.
    Ready(u64),
    /// Ready because the cursor has not come to it yet.
    Ahead,
    /// Likewise, and known to be the first of those.
    Head,
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
    pub(crate) name: Box<str>,
    pub(crate) config: Arc<GroupConfig>,
    pub(crate) cursor: Seq,
    /// Of the [`Stream::offered`] messages those that are not ahead of the cursor any more, or never were.
    pub(crate) met: u64,
    /// Messages that consumers hold.
    pub(crate) held: u32,
    /// Their bytes.
    pub(crate) held_bytes: u64,
    /// Whether ready messages ahead of the cursor go unlisted.
    pub(crate) implicit: bool,
    /// Its place is free for another group.
    pub(crate) deleted: bool,
    pub(crate) lists: Rare<Lists>,
}

/// What a group has that is not just behind or ahead of its cursor, and who waits for it.
pub(crate) struct Lists {
    /// What the cursor must step over.
    pub(crate) passed: IntervalSet,
    pub(crate) ready: OrderedSet,
    pub(crate) urgent: u64,
    pub(crate) delayed: OrderedSet,
    pub(crate) delay_timer: Alarm,
    pub(crate) parked: OrderedSet,
    pub(crate) next_ticket: u64,
    pub(crate) meta: HashMap<u64, Meta, FixedHash>,
    /// Consumers that wait, by rank and ticket.
    pub(crate) waiters: BTreeMap<(u32, u64), Waiter>,
    /// Who gets what, if that is not whoever has waited longest.
    pub(crate) rule: Option<Box<Rule>>,
    pub(crate) pause: Option<Pause>,
}

/// A consumer in the queue of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) session: SessionKey,
    pub(crate) consumer: ConsumerTag,
    /// Which of the consumer's sources the group is.
    pub(crate) source: u32,
}

impl Lists {
    const NEW: Lists = Lists {
        passed: IntervalSet::new(),
        ready: OrderedSet::new(),
        urgent: 0,
        delayed: OrderedSet::new(),
        delay_timer: Alarm { set: None },
        parked: OrderedSet::new(),
        next_ticket: 1,
        meta: HashMap::with_hasher(FixedHash::with_seed(0)),
        waiters: BTreeMap::new(),
        rule: None,
        pause: None,
    };

    /// Whether nothing is listed that the cursor of a group does not tell by itself, and nobody waits.
    fn say_nothing(&self, cursor: Seq) -> bool {
        self.passed.len_above_floor() == 0
            && self.passed.floor() <= cursor.0
            && self.ready.is_empty()
            && self.delayed.is_empty()
            && self.delay_timer.set.is_none()
            && self.parked.is_empty()
            && self.meta.is_empty()
            && self.waiters.is_empty()
            && self.rule.is_none()
            && self.pause.is_none()
    }

    /// How many of those listed as ready are urgent.
    pub(crate) fn count_urgent(&self) -> u64 {
        self.ready
            .iter()
            .take_while(|&(key, _)| key < URGENT)
            .count() as u64
    }

    /// Lists a message as ready.
    fn add_ready(&mut self, key: u64, seq: Seq) {
        if self.ready.insert(key, seq.0) && key < URGENT {
            self.urgent += 1;
        }
        if let Some(rule) = &mut self.rule {
            rule.note_ready(seq.0);
        }
    }
}

impl Unused for Lists {
    const UNUSED: &'static Lists = &Lists::NEW;

    fn new() -> Lists {
        Lists::NEW
    }
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        name: &str,
        config: Arc<GroupConfig>,
        shared: bool,
        cursor: Seq,
    ) -> Self {
        Group {
            id,
            name: name.into(),
            implicit: !shared && config.order == Order::Sequence,
            config,
            cursor,
            met: 0,
            held: 0,
            held_bytes: 0,
            deleted: false,
            lists: Rare::default(),
        }
    }

    /// A place that is free.
    pub(super) fn vacant(id: GroupId) -> Self {
        static NO_CONFIG: LazyLock<Arc<GroupConfig>> = LazyLock::new(Arc::default);
        let mut group = Group::new(id, "", Arc::clone(&NO_CONFIG), true, Seq::FIRST);
        group.deleted = true;
        group
    }

    /// Gives back the room of lists that say nothing. For when the last consumer leaves, not for every message.
    pub(crate) fn tidy(&mut self) {
        if self.lists.say_nothing(self.cursor) {
            self.lists = Rare::default();
        }
    }

    /// The key under which a message of this priority is listed as ready.
    pub(crate) fn key(&self, priority: u32) -> u64 {
        match self.config.order {
            Order::Sequence => 0,
            Order::Priority => u64::from(priority),
        }
    }

    /// How many are ready ahead of the cursor, of all that were `offered`.
    pub(crate) fn ahead(&self, offered: u64) -> u64 {
        if self.implicit {
            offered.wrapping_sub(self.met)
        } else {
            0
        }
    }

    /// How many are ready, of all that were `offered`.
    pub(crate) fn ready_len(&self, offered: u64) -> u64 {
        self.lists.ready.len() as u64 + self.ahead(offered)
    }

    /// So many are not ahead of the cursor any more.
    pub(crate) fn meet(&mut self, messages: u64) {
        self.met = self.met.wrapping_add(messages);
    }

    /// Whether all there is to know of a message is whether it is ahead of the cursor.
    pub(crate) fn is_bare(&self) -> bool {
        self.implicit
            && self.held == 0
            && self.lists.ready.is_empty()
            && self.lists.delayed.is_empty()
            && self.lists.parked.is_empty()
            && self.lists.meta.is_empty()
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
        let listed = self.lists.ready.first().map(|(key, seq)| (key, Seq(seq)));
        if !self.implicit {
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
            let free = self.lists.passed.next_absent(seq.0);
            if free == seq.0 {
                return Ok(Some(seq));
            }
            from = Seq(free);
        }
    }

    /// The first message ahead of the cursor, where those are not listed.
    ///
    /// # Errors
    /// When the index page in which it may be cannot be read.
    pub(crate) fn first_ahead(
        &self,
        index: &PagedIndex,
        pages: &impl PageSource,
    ) -> Result<Option<Seq>, PageError> {
        if self.implicit {
            self.next_ahead(index, pages)
        } else {
            Ok(None)
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
        self.implicit && index.and_then(first) == Some(seq)
    }

    pub(crate) fn is_ahead(&self, seq: Seq) -> bool {
        self.implicit && seq >= self.cursor && !self.lists.passed.contains(seq.0)
    }

    /// Lists a message as ready.
    pub(crate) fn add_ready(&mut self, key: u64, seq: Seq) {
        self.lists.make().add_ready(key, seq);
    }

    /// Takes a ready message out of the list, or steps over it.
    pub(crate) fn remove_ready(&mut self, place: Place, seq: Seq) {
        match place {
            Place::Ready(key) => {
                if let Some(lists) = self.lists.get_mut()
                    && lists.ready.remove(key, seq.0)
                    && key < URGENT
                {
                    lists.urgent -= 1;
                }
            }
            Place::Ahead => {
                self.meet(1);
                if seq == self.cursor {
                    self.cursor = seq.next();
                } else {
                    self.lists.make().passed.insert(seq.0);
                }
            }
            Place::Head => self.pop_head(0, seq),
            Place::Delayed(_) | Place::Parked(_) | Place::Held(_) => {}
        }
    }

    /// Removes the first listed message, or else the first ahead of the cursor, which is `seq`.
    pub(crate) fn pop_head(&mut self, key: u64, seq: Seq) {
        if let Some(lists) = self.lists.get_mut() {
            if lists.ready.first() == Some((key, seq.0)) {
                lists.ready.pop_first();
                if key < URGENT {
                    lists.urgent -= 1;
                }
                return;
            }
            // What lies between the old cursor and this message is gone or stepped over for good.
            lists.passed.set_floor(seq.next().0);
        }
        self.meet(1);
        self.cursor = seq.next();
    }

    /// Removes a message from whichever list it is in. Holds are the caller's.
    pub(crate) fn forget(&mut self, place: Place, seq: Seq) {
        match place {
            Place::Ready(_) | Place::Ahead | Place::Head => self.remove_ready(place, seq),
            Place::Delayed(_) | Place::Parked(_) | Place::Held(_) => self.take_aside(place, seq),
        }
        self.take_meta(seq);
    }

    /// Takes a message out of the list of what is delayed or parked.
    pub(crate) fn take_aside(&mut self, place: Place, seq: Seq) {
        let Some(lists) = self.lists.get_mut() else {
            return;
        };
        match place {
            Place::Delayed(due) => {
                lists.delayed.remove(due.0, seq.0);
            }
            Place::Parked(ticket) => {
                lists.parked.remove(ticket, seq.0);
            }
            Place::Ready(_) | Place::Ahead | Place::Head | Place::Held(_) => {}
        }
    }

    /// What is remembered of a message.
    pub(crate) fn meta(&self, seq: Seq) -> Option<&Meta> {
        self.lists.meta.get(&seq.0)
    }

    /// Forgets what is remembered of a message, and returns it.
    pub(crate) fn take_meta(&mut self, seq: Seq) -> Option<Meta> {
        self.lists.get_mut()?.meta.remove(&seq.0)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.lists.ready.heap_bytes()
            + self.lists.delayed.heap_bytes()
            + self.lists.parked.heap_bytes()
            + self.lists.passed.heap_bytes()
            + self.lists.meta.allocation_size()
            + self.lists.heap_bytes()
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
