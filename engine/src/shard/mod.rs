//! The shard's state, and the rooms that change it.
//!
//! Every change goes the same way: check, append its event to the log, apply it to the state, emit effects gated by
//! the event's position. `step` takes a command and hands it to its room: `publish`, `take`, `settle`, `release`, `dead`, `streams`,
//! `pause`, `trim`, `timers` and their like; `find` is how they get from what it names to what there is. `apply` has the
//! changes that commands share with recovery, `inspect` what only looks, `checkpoint` the state as bytes.

mod apply;
mod checkpoint;
mod dead;
mod dispatch;
mod find;
mod groups;
mod inspect;
mod logs;
mod mark;
mod mend;
mod paging;
mod pause;
mod publish;
mod read;
mod recover;
mod release;
mod remains;
mod remove;
mod session;
mod settle;
mod shrink;
mod step;
mod streams;
mod take;
#[cfg(test)]
mod tests;
mod timers;
mod transact;
mod trim;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use longtail_log::Scanned;
use longtail_model::{
    Durability, GroupId, IndexId, Lsn, Seq, SessionId, ShardId, StreamId, Timestamp,
};
use slab::Slab;

use crate::budget::Budgets;
use crate::config::{GroupConfig, StreamConfig, StreamName};
use crate::effect::{Gate, Refusal, Reply};
use crate::intern::Interned;
use crate::message::Message;
use crate::runs::Runs;
use crate::stream::{FixedHash, Hold, SessionKey, Stream};
use crate::structures::index::PagedIndex;
use crate::structures::wheel::TimerWheel;
use crate::table::Table;

pub(crate) use dispatch::Rule;
use find::Found;
pub use logs::Logs;
pub use recover::RecoverError;
use remains::Remains;
use session::Session;
use timers::Timer;

/// Settings of one shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard of the process this is.
    pub id: ShardId,
    /// What an acknowledgement means on streams that do not say.
    pub durability: Durability,
    /// Streams that may exist at once.
    pub max_streams: u64,
    /// Commands that a session may have waiting behind one that blocks.
    pub max_backlog: usize,
    /// Bytes of memory for indexes, beyond which they are written out, a page for each 4,096 messages, where the log
    /// keeps pages.
    pub index_memory: usize,
    /// A stream that loses more messages than this at once, deleted or purged, gives their records back in steps.
    pub clear_step: usize,
    /// What the spaces may hold, over all shards of the process.
    pub budgets: Arc<Budgets>,
}

impl Default for ShardConfig {
    fn default() -> Self {
        ShardConfig {
            id: ShardId(0),
            durability: Durability::Sync,
            max_streams: 1_000_000,
            max_backlog: 65_536,
            index_memory: 16 << 20,
            clear_step: 4096,
            budgets: Arc::default(),
        }
    }
}

/// What only recovery and publishing need of a record: everything but the body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) stream: StreamId,
    pub(crate) created: Timestamp,
    pub(crate) priority: u32,
    pub(crate) delay_ms: u64,
    pub(crate) ack_timeout_ms: u64,
    pub(crate) expires: Timestamp,
    pub(crate) bytes: u64,
}

/// One shard: streams, their groups, and the log that remembers them.
pub struct Shard {
    config: ShardConfig,
    now: Timestamp,
    logs: Logs,
    streams: Table<StreamId, Stream>,
    /// Settings that streams have, and groups.
    stream_configs: Interned<StreamConfig>,
    group_configs: Interned<GroupConfig>,
    names: HashMap<StreamName, StreamId, FixedHash>,
    /// Streams in order of creation.
    listing: BTreeMap<StreamId, ()>,
    /// Added groups; the default group of a stream has the stream's number.
    groups: HashMap<GroupId, (StreamId, usize), FixedHash>,
    /// Where the messages of a sequence space lie, once it has given a number.
    indexes: Table<IndexId, PagedIndex>,
    /// Bytes that the indexes have in memory, see [`PagedIndex::resident`].
    resident: usize,
    /// Parts of indexes whose messages were removed.
    remains: Remains,
    /// Sequence spaces shared by several streams, by space and name.
    shared_indexes: BTreeMap<StreamName, IndexId>,
    /// The next number for a stream, group or index: they share one counter, so that any of them can key a hold.
    next_id: u64,
    /// Records that more than one stream refers to, with the number of references.
    references: HashMap<Lsn, u32, FixedHash>,
    holds: Slab<Hold>,
    /// Holds by numbering domain (the shared index, or the group) and sequence number.
    hold_by: Runs,
    sessions: Slab<Session>,
    session_by: HashMap<SessionId, SessionKey, FixedHash>,
    /// Sessions whose backlog can go on.
    runnable: VecDeque<SessionKey>,
    next_session: u64,
    next_ticket: u64,
    timers: TimerWheel<Timer>,
    due: Vec<Timer>,
    /// Groups that are looked at again later.
    postponed: HashSet<(StreamId, usize), FixedHash>,
    /// Deliveries of this batch that the log has not been told of.
    taken: Vec<(GroupId, Seq)>,
    /// Documents of the catalog that live in this shard.
    documents: BTreeMap<String, Vec<u8>>,
    scratch: Vec<u8>,
    /// The message appended last, which whoever waits for it is about to take: a record is not read to learn what is
    /// known. Positions are never used again, so it cannot be wrong.
    fresh: Option<(Lsn, Head)>,
    timeouts: u64,
    /// Messages appended, delivered and removed since the shard was opened.
    appended: u64,
    delivered: u64,
    removed: u64,
    /// Messages that were to be dead letters and that no stream took, since the shard was opened.
    lost: u64,
    /// Streams with messages that were only for those who waited: what is left of them goes with the end of the step.
    fleeting: Vec<StreamId>,
    /// Streams that may have more than their limits allow: what is too much goes with the end of the step.
    crowded: Vec<StreamId>,
    /// Records that nothing refers to any more, but that effects of this batch may still have to show.
    retired: Vec<Lsn>,
    /// While the log is replayed: what groups are done with, but may still list. See [`Shard::unplace`].
    unplaced: HashSet<(GroupId, Seq), FixedHash>,
    /// While the log is replayed: entries of shared indexes that may belong to nobody.
    doubtful: Vec<(IndexId, Seq)>,
    /// While the log is replayed: streams that lost a message whose size nobody can tell any more.
    miscounted: HashSet<StreamId, FixedHash>,
    /// While the log is replayed: streams that lost a message whose time of expiry nobody can tell any more.
    misdated: HashSet<StreamId, FixedHash>,
    /// Whether recovery is over.
    live: bool,
}

impl Shard {
    /// An empty shard over an empty log.
    #[must_use]
    pub fn new(config: ShardConfig, logs: Logs, now: Timestamp) -> Self {
        Shard {
            config,
            now,
            logs,
            streams: Table::default(),
            stream_configs: Interned::default(),
            group_configs: Interned::default(),
            names: HashMap::default(),
            listing: BTreeMap::new(),
            groups: HashMap::default(),
            indexes: Table::default(),
            resident: 0,
            remains: Remains::default(),
            shared_indexes: BTreeMap::new(),
            next_id: 1,
            references: HashMap::default(),
            holds: Slab::new(),
            hold_by: Runs::default(),
            sessions: Slab::new(),
            session_by: HashMap::default(),
            runnable: VecDeque::new(),
            next_session: 1,
            next_ticket: 1,
            timers: TimerWheel::new(now),
            due: Vec::new(),
            postponed: HashSet::default(),
            taken: Vec::new(),
            documents: BTreeMap::new(),
            scratch: Vec::new(),
            fresh: None,
            timeouts: 0,
            appended: 0,
            delivered: 0,
            removed: 0,
            lost: 0,
            fleeting: Vec::new(),
            crowded: Vec::new(),
            retired: Vec::new(),
            unplaced: HashSet::default(),
            doubtful: Vec::new(),
            miscounted: HashSet::default(),
            misdated: HashSet::default(),
            live: true,
        }
    }

    /// Which shard of the process this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.config.id
    }

    /// What an acknowledgement means where a stream does not say.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.logs.level(None)
    }

    /// Takes over the positions of records that are no longer referred to. Give each to [`Shard::reclaim`] once the
    /// effects emitted so far have left.
    pub fn take_retired(&mut self) -> std::vec::Drain<'_, Lsn> {
        self.retired.drain(..)
    }

    /// Tells the log that a record is not needed any more.
    pub fn reclaim(&mut self, position: Lsn) {
        self.logs.retire(position);
    }

    /// The logs, for whoever runs their jobs.
    pub fn logs(&mut self) -> &mut Logs {
        &mut self.logs
    }

    /// The logs, to look at.
    #[must_use]
    pub fn logs_ref(&self) -> &Logs {
        &self.logs
    }

    /// Keeps of the records found in a segment those that an index still refers to, or may refer to: its page cannot be
    /// read.
    #[must_use]
    pub fn live(&self, records: &[Scanned]) -> Vec<Lsn> {
        let referenced = |record: &Scanned| match crate::event::sole_target(&record.head) {
            // What is not given back yet may still have to be shown.
            Some((stream, _)) if self.remains.are_of(stream) => true,
            Some((stream, seq)) => self
                .streams
                .get(&stream)
                .and_then(|stream| self.indexes.get(&stream.index))
                .is_some_and(|index| match index.get(seq, &self.logs) {
                    Ok(position) => position == Some(record.lsn),
                    Err(_) => true,
                }),
            None => self.references.contains_key(&record.lsn),
        };
        records
            .iter()
            .filter(|record| referenced(record))
            .map(|record| record.lsn)
            .collect()
    }

    /// Reads a message record.
    ///
    /// # Errors
    /// When the log cannot give it.
    pub fn with_message<R>(
        &mut self,
        position: Lsn,
        with: impl FnOnce(Message<'_>) -> R,
    ) -> Result<R, longtail_log::ReadError> {
        self.logs.with_message(position, |_, message| with(message))
    }
}

/// What a command leads to when it is not refused.
type Outcome = Result<(Gate, Reply), Refusal>;

/// A reply that waits for nothing.
fn now_reply(reply: Reply) -> Outcome {
    Ok((Gate::OPEN, reply))
}
