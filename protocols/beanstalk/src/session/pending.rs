//! What is still to be answered, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::codec::{Op, Word};

/// One entry for every command that went to the shard, and for every answer that is known but has to wait its turn.
#[derive(Debug)]
pub(super) enum Pending {
    /// A command that the client knows nothing of.
    Silent,
    /// An answer that does not need the shard.
    Word(Word),
    /// As `Word`, a longer one.
    Text(Box<[u8]>),
    /// `list-tube-used`: answered with the tube that is used when its turn comes.
    Using,
    /// `use`.
    Use(Arc<str>),
    /// The first half of `watch`: is the stream open?
    Open,
    /// The second half of `watch`.
    Watch,
    /// `ignore`, and the number of tubes still watched.
    Ignore(u32),
    /// `put`, and the bytes of its body.
    Put(u32),
    /// `reserve`, `reserve-with-timeout` and `reserve-job`.
    Reserve,
    /// `peek` and its kin.
    Peek,
    /// A command whose success is one word.
    Done(Word),
    /// `kick`.
    Kick,
    StatsJob,
    StatsTube(Arc<str>),
    Stats,
    ListTubes,
}

/// What an entry costs while it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Bytes held here or in the shard on its behalf.
    pub(super) held: u64,
    /// Bytes of answer to be expected.
    pub(super) expected: u64,
}

/// What a request counts as, from the moment that its turn comes: when all that was asked before is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) op: Op,
    /// What the client has become by it.
    pub(super) makes: Option<Kind>,
}

/// What a client is counted as once it has asked for such a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Producer,
    Worker,
}

/// The queue of what is pending, with its weight.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<(Pending, Option<Mark>)>,
    weight: Weight,
}

/// Capacity that an idle queue may keep, in entries.
const KEPT_CAPACITY: usize = 16;

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn weight(&self) -> Weight {
        self.weight
    }

    pub(super) fn front(&self) -> Option<&Pending> {
        self.entries.front().map(|(pending, _)| pending)
    }

    /// The mark of what is first now, once.
    pub(super) fn take_mark(&mut self) -> Option<Mark> {
        self.entries.front_mut()?.1.take()
    }

    /// `mark` is for what has to wait for its turn; what is first at once is counted by the caller.
    pub(super) fn push(&mut self, pending: Pending, mark: Option<Mark>, job_size_max: u32) {
        let weight = pending.weight(job_size_max);
        self.weight.held += weight.held;
        self.weight.expected += weight.expected;
        self.entries.push_back((pending, mark));
    }

    pub(super) fn pop(&mut self, job_size_max: u32) -> Option<Pending> {
        let (pending, _) = self.entries.pop_front()?;
        let weight = pending.weight(job_size_max);
        self.weight.held -= weight.held;
        self.weight.expected -= weight.expected;
        if self.entries.is_empty() && self.entries.capacity() > KEPT_CAPACITY {
            self.entries = VecDeque::new();
        }
        Some(pending)
    }
}

impl Pending {
    fn weight(&self, job_size_max: u32) -> Weight {
        match self {
            Pending::Text(text) => Weight {
                held: text.len() as u64,
                expected: 0,
            },
            Pending::Put(bytes) => Weight {
                held: u64::from(*bytes),
                expected: 0,
            },
            Pending::Reserve | Pending::Peek => Weight {
                held: 0,
                expected: u64::from(job_size_max),
            },
            Pending::StatsJob | Pending::StatsTube(_) | Pending::Stats => Weight {
                held: 0,
                expected: 2048,
            },
            // Nobody knows how long it will be: one at a time.
            Pending::ListTubes => Weight {
                held: 0,
                expected: crate::tenant::REPLY_BYTES_MAX,
            },
            Pending::Silent
            | Pending::Word(_)
            | Pending::Using
            | Pending::Use(_)
            | Pending::Open
            | Pending::Watch
            | Pending::Ignore(_)
            | Pending::Done(_)
            | Pending::Kick => Weight::default(),
        }
    }
}
