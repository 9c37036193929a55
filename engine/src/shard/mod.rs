//! The shard's state and how a command finds its way through it.
//!
//! Every change goes the same way: check, append its event to the log, apply it to the state, emit effects gated by
//! the event's position. `publish`, `take`, `settle`, `dead`, `streams`, `pause`, `trim` and `timers` hold the
//! commands; `apply` the changes they share with recovery; `inspect` what only looks; `checkpoint` the state as bytes.

mod apply;
mod checkpoint;
mod dead;
mod dispatch;
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
mod remains;
mod remove;
mod session;
mod settle;
mod shrink;
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
use crate::command::{Command, Handle, Target, Token};
use crate::config::{GroupConfig, Order, StreamConfig, StreamName};
use crate::effect::{Effect, Effects, Gate, Refusal, Reply};
use crate::event::Targets;
use crate::intern::Interned;
use crate::message::Message;
use crate::runs::Runs;
use crate::stream::{FixedHash, Group, Hold, HoldKey, Place, SessionKey, Stream};
use crate::structures::index::PagedIndex;
use crate::structures::wheel::TimerWheel;
use crate::table::Table;

pub(crate) use dispatch::Rule;
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

    /// Carries out one command, and those of other sessions that it unblocks.
    pub fn step(
        &mut self,
        now: Timestamp,
        session: SessionId,
        token: Token,
        command: Command,
        fx: &mut dyn Effects,
    ) {
        self.now = self.now.max(now);
        let Some(&key) = self.session_by.get(&session) else {
            return;
        };
        let Some(state) = self.sessions.get_mut(key) else {
            return;
        };
        if state.blocked.is_some() {
            if state.backlog.len() < self.config.max_backlog {
                state.backlog.push_back((token, command));
            } else {
                // The protocol's own bound on pipelining is far below; this one only keeps memory finite.
                let refusal = Refusal::Limit("too many commands behind one that waits".to_owned());
                fx.emit(
                    session,
                    Gate::OPEN,
                    Effect::Reply(token, Reply::Refused(refusal)),
                );
            }
            return;
        }
        self.execute(key, token, command, fx);
        self.run_unblocked(fx);
    }

    /// Ends a step: drops what was only for those who waited, and carries out what waits in sessions that are no longer
    /// blocked.
    fn run_unblocked(&mut self, fx: &mut dyn Effects) {
        loop {
            if let Some(stream) = self.fleeting.pop() {
                self.expire_now(stream, fx);
                continue;
            }
            if let Some(stream) = self.crowded.pop() {
                self.shrink(stream, fx);
                continue;
            }
            let Some(key) = self.runnable.pop_front() else {
                return;
            };
            while !self.has_leftovers()
                && let Some(state) = self.sessions.get_mut(key)
            {
                if state.blocked.is_some() {
                    break;
                }
                let Some((token, command)) = state.backlog.pop_front() else {
                    break;
                };
                self.execute(key, token, command, fx);
            }
            if self.has_leftovers() {
                self.runnable.push_front(key);
            }
        }
    }

    /// Whether something is to go before the next command.
    fn has_leftovers(&self) -> bool {
        !self.fleeting.is_empty() || !self.crowded.is_empty()
    }

    fn execute(&mut self, key: SessionKey, token: Token, command: Command, fx: &mut dyn Effects) {
        let outcome = match command {
            Command::Publish { to, also, message } => self.publish(key, to, &also, &message, fx),
            Command::Transact(transaction) => self.transact(key, *transaction, fx),
            Command::Take {
                consumer,
                wait,
                deadline_margin_ms,
            } => {
                return self.take(key, token, consumer, wait, deadline_margin_ms, fx);
            }
            Command::Discard { message } => self.discard(key, message, fx),
            Command::Settle { message, how } => self.settle(key, message, how, fx),
            Command::AckAll { group, messages } => self.ack_all(key, group, &messages, fx),
            Command::Mark {
                message,
                mark,
                noted,
            } => self.mark(key, message, mark, noted),
            Command::MarkAll { group, marks } => self.mark_all(key, group, &marks),
            Command::Marked { stream, group } => self.marked(key, stream, &group),
            Command::Remove { stream, seq } => self.remove(key, stream, seq, fx),
            Command::Extend { message, ms } => self.extend(key, message, ms),
            Command::TakeOne { message } => self.take_one(key, message),
            Command::Prefer { consumer, priority } => self.prefer(key, consumer, priority),
            Command::Credit { consumer, credit } => self.credit(key, consumer, credit, fx),
            Command::Open {
                link,
                name,
                create,
                role,
            } => self.open_link(key, link, name, create.as_deref(), role),
            Command::Close { link } => self.close_link(key, link),
            Command::Subscribe {
                consumer,
                link,
                group,
            } => self.subscribe(key, consumer, link, &group, fx),
            Command::Unsubscribe {
                consumer,
                link,
                group,
            } => self.unsubscribe(key, consumer, link, &group, fx),
            Command::Dispatch { stream, group, how } => {
                self.set_dispatch(key, stream, &group, &how, fx)
            }
            Command::Peek { message } => self.peek(key, message),
            Command::PeekHead {
                stream,
                group,
                which,
            } => self.peek_head(key, stream, &group, which),
            Command::Kick { stream, group, max } => self.kick(key, stream, &group, max, fx),
            Command::KickOne { message } => self.kick_one(key, message, fx),
            Command::Pause {
                stream,
                group,
                until,
                durable,
            } => self.pause(&stream, group.as_ref(), until, durable, fx),
            Command::Purge {
                stream,
                group,
                held,
            } => self.purge(&stream, group.as_deref(), held, fx),
            Command::Define { name, config } => self.define(name, &config),
            Command::Redefine { name, config } => self.redefine(&name, *config),
            Command::Delete { name, only } => self.delete(&name, only, fx),
            Command::DefineGroup {
                stream,
                group,
                config,
            } => self.define_group(&stream, &group, &config),
            Command::DeleteGroup { stream, group } => self.delete_group(&stream, &group, fx),
            Command::Read {
                name,
                from,
                max,
                max_bytes,
                wait,
            } => {
                return self.read(key, token, &name, from, max, max_bytes, wait, fx);
            }
            Command::Locate { name, start } => self.start_in(&name, start),
            Command::PutDocument { name, body } => self.put_document(&name, body.as_deref()),
            Command::DescribeMessage { message } => self.describe_message(key, message),
            Command::DescribeStream { name } => self.describe_stream(&name),
            Command::DescribeGroups { stream } => self.describe_groups(&stream),
            Command::ListStreams { space } => self.list_streams(space.as_deref()),
            Command::DescribeStreams {
                space,
                after,
                limit,
            } => self.describe_streams(space.as_deref(), after, limit),
            Command::DescribeShard => self.describe_shard(),
        };
        let (gate, reply) = outcome.unwrap_or_else(|refusal| (Gate::OPEN, Reply::Refused(refusal)));
        if let Some(state) = self.sessions.get(key) {
            fx.emit(state.id, gate, Effect::Reply(token, reply));
        }
    }

    /// Tells the log of the deliveries of this batch. To be called after the last command of a batch, before writing.
    pub fn end_batch(&mut self) {
        if self.logs.page_cache().has_lost() {
            self.mend_pages();
        }
        if self.taken.is_empty() {
            return;
        }
        let taken = std::mem::take(&mut self.taken);
        for &(group, seq) in &taken {
            let Some((stream, at)) = self.group_at(group) else {
                continue;
            };
            let Some(found) = self.streams.get(&stream) else {
                continue;
            };
            if found.level == Durability::Memory {
                continue;
            }
            let domain = self.domain(stream, at);
            // Settled within the same batch: nothing left to remember.
            let Some(hold) = self
                .hold_by
                .get(domain, seq.0)
                .and_then(|key| self.holds.get(key))
            else {
                continue;
            };
            let deliveries = hold.counts.deliveries;
            self.scratch.clear();
            crate::event::put_taken(&mut self.scratch, group, seq, deliveries);
            self.logs.note(&self.scratch);
        }
        self.taken = taken;
        self.taken.clear();
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

    fn head(&mut self, position: Lsn) -> Result<Head, Refusal> {
        if let Some((_, head)) = self.fresh.filter(|&(fresh, _)| fresh == position) {
            return Ok(head);
        }
        let first = |mut targets: Targets<'_>| targets.next().map(|target| target.0);
        Self::head_of(&mut self.logs, self.config.id, position, first)
    }

    /// The head of a message found in an index under `seq`, with the stream that has it there: a record may belong to
    /// several streams of one sequence space, under a number each.
    fn head_in(&mut self, index: IndexId, seq: Seq, position: Lsn) -> Result<Head, Refusal> {
        let streams = &self.streams;
        let owner = |mut targets: Targets<'_>| {
            targets
                .find(|&(stream, number)| {
                    number == seq && streams.get(&stream).is_some_and(|s| s.index == index)
                })
                .map(|target| target.0)
        };
        Self::head_of(&mut self.logs, self.config.id, position, owner)
    }

    fn head_of(
        logs: &mut Logs,
        shard: ShardId,
        position: Lsn,
        owner: impl FnOnce(Targets<'_>) -> Option<StreamId>,
    ) -> Result<Head, Refusal> {
        logs.with_message(position, |targets, message| Head {
            stream: owner(targets).unwrap_or(StreamId(0)),
            created: message.created,
            priority: message.priority.0,
            delay_ms: message.delay_ms,
            ack_timeout_ms: message.ack_timeout_ms,
            expires: message.expires,
            bytes: message.bytes(),
        })
        .map_err(|error| {
            tracing::error!(%shard, %position, %error, "cannot read a message");
            Refusal::Failed(error.to_string())
        })
    }

    fn target(&self, key: SessionKey, target: Target) -> Result<StreamId, Refusal> {
        match target {
            Target::Link(link) => self
                .sessions
                .get(key)
                .and_then(|state| state.link(link))
                .ok_or(Refusal::UnknownLink),
            Target::Stream(stream) if self.streams.contains_key(&stream) => Ok(stream),
            Target::Stream(_) => Err(Refusal::UnknownLink),
        }
    }

    /// The stream of a group and the group's place in it.
    fn group_at(&self, group: GroupId) -> Option<(StreamId, usize)> {
        let stream = StreamId(group.0);
        if let Some(default) = self
            .streams
            .get(&stream)
            .and_then(|state| state.groups.first())
            && default.id == group
            && !default.deleted
        {
            return Some((stream, 0));
        }
        self.groups.get(&group).copied()
    }

    fn group(&self, stream: StreamId, at: usize) -> Option<&Group> {
        self.streams.get(&stream)?.groups.get(at)
    }

    fn group_mut(&mut self, stream: StreamId, at: usize) -> Option<&mut Group> {
        self.streams.get_mut(&stream)?.groups.get_mut(at)
    }

    /// What a sequence number is unique within: the shared index of the stream, or else the group.
    fn domain(&self, stream: StreamId, at: usize) -> u64 {
        match self.streams.get(&stream) {
            Some(stream) if stream.shares_numbers() => stream.index.0,
            Some(stream) => stream.groups.get(at).map_or(0, |group| group.id.0),
            None => 0,
        }
    }

    /// Finds the message that a handle names; `None` when it is gone.
    fn resolve(&mut self, key: SessionKey, handle: Handle) -> Result<Option<Found>, Refusal> {
        match handle {
            Handle::Group(group, seq) => {
                let Some((stream, at)) = self.group_at(group) else {
                    return Ok(None);
                };
                let hold = self.hold_in(group, stream, at, seq);
                Ok(Some(Found {
                    stream,
                    at,
                    seq,
                    hold,
                }))
            }
            Handle::Shared(link, seq) => {
                let via = self.target(key, Target::Link(link))?;
                let domain = self.domain(via, 0);
                let Some(via) = self.streams.get(&via) else {
                    return Ok(None);
                };
                let index = via.index;
                if let Some(hold) = self.hold_by.get(domain, seq.0) {
                    return Ok(self.holds.get(hold).map(|held| Found {
                        stream: held.stream,
                        at: 0,
                        seq,
                        hold: Some(hold),
                    }));
                }
                let Some(position) = self.position_in(index, seq)? else {
                    return Ok(None);
                };
                let stream = if via.shares_numbers() {
                    self.head_in(index, seq, position)?.stream
                } else {
                    via.id
                };
                Ok(self.streams.contains_key(&stream).then_some(Found {
                    stream,
                    at: 0,
                    seq,
                    hold: None,
                }))
            }
        }
    }

    /// The hold that a group has on a message; a shared number may be held through another stream's group.
    fn hold_in(&self, group: GroupId, stream: StreamId, at: usize, seq: Seq) -> Option<HoldKey> {
        let hold = self.hold_by.get(self.domain(stream, at), seq.0)?;
        (self.holds.get(hold)?.group == group).then_some(hold)
    }

    /// Where a message stands in a group; `None` when the group is done with it.
    fn locate(&mut self, found: Found) -> Result<Option<Place>, Refusal> {
        if let Some(hold) = found.hold {
            return Ok(Some(Place::Held(hold)));
        }
        let seq = found.seq;
        let position = match self.position(found.stream, seq) {
            Ok(Some(position)) => Ok(position),
            Ok(None) => return Ok(None),
            // What an event speaks of was there when it was logged.
            Err(error) if !self.live => Err(error),
            Err(error) => return Err(error),
        };
        let Some(group) = self
            .group(found.stream, found.at)
            .filter(|group| !group.deleted)
        else {
            return Ok(None);
        };
        if !self.unplaced.is_empty() && self.unplaced.contains(&(group.id, seq)) {
            return Ok(None);
        }
        if let Some(meta) = group.meta(seq) {
            let place = match meta.aside {
                None => Place::Ready(group.key(meta.priority)),
                Some(crate::stream::Aside::Delayed(due)) => Place::Delayed(due),
                Some(crate::stream::Aside::Parked(ticket)) => Place::Parked(ticket),
            };
            // A message that came back and is ready again may have been counted ahead of the cursor never: it is listed.
            return Ok(Some(place));
        }
        if group.is_ahead(seq) {
            return Ok(Some(Place::Ahead));
        }
        if group.config.order == Order::Sequence && group.lists.ready.contains(0, seq.0) {
            return Ok(Some(Place::Ready(0)));
        }
        if group.config.order == Order::Sequence && group.lists.delayed.is_empty() {
            return Ok(None);
        }
        let head = match position.and_then(|position| self.head(position)) {
            Ok(head) => head,
            Err(error) => {
                // Where a message is ready does not depend on its record here, only whether it is delayed.
                let group = self.group(found.stream, found.at);
                let group = group.filter(|group| group.config.order == Order::Sequence);
                return match group {
                    Some(group) => Ok(group
                        .lists
                        .delayed
                        .iter()
                        .find(|&(_, listed)| listed == seq.0)
                        .map(|(due, _)| Place::Delayed(Timestamp(due)))),
                    None => Err(error),
                };
            }
        };
        let Some(group) = self.group(found.stream, found.at) else {
            return Ok(None);
        };
        let due = head.created.plus_millis(head.delay_ms);
        if head.delay_ms > 0 && group.lists.delayed.contains(due.0, seq.0) {
            return Ok(Some(Place::Delayed(due)));
        }
        let key = group.key(head.priority);
        Ok(group
            .lists
            .ready
            .contains(key, seq.0)
            .then_some(Place::Ready(key)))
    }
}

/// A message that a handle named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    stream: StreamId,
    at: usize,
    seq: Seq,
    hold: Option<HoldKey>,
}

/// What a command leads to when it is not refused.
type Outcome = Result<(Gate, Reply), Refusal>;

/// A reply that waits for nothing.
fn now_reply(reply: Reply) -> Outcome {
    Ok((Gate::OPEN, reply))
}
