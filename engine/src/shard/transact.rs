//! Several steps as one: checked first, then one frame of the log, then applied, then dispatched.
//!
//! Conditions on the state, which are looked at before the steps, will come here with the tenant that needs them.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use longtail_log::{Body, Class, RecordParts};
use longtail_model::{ConsumerTag, Durability, IndexId, Lsn, Priority, Seq, StreamId, Timestamp};
use smallvec::SmallVec;

use super::dead::{Path, Pushed};
use super::publish::{Evictions, Room, check_texts, head_of, record_of};
use super::release::put_returned;
use super::settle::Fate;
use super::streams::check_document_name;
use super::{Outcome, Shard, now_reply};
use crate::budget::{Budget, Holding};
use crate::command::{Handle, NewMessage, Settle, Step, Target, Transaction};
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{FixedHash, HoldKey, Meta, SessionKey};

/// A transaction while its steps are checked.
pub(super) struct Draft {
    pub(super) level: Durability,
    /// Numbers given to its messages so far.
    given: HashMap<IndexId, u64, FixedHash>,
    rooms: HashMap<StreamId, Room, FixedHash>,
    pub(super) evictions: Evictions,
    /// Messages that a step names.
    named: HashSet<(StreamId, Seq), FixedHash>,
    /// What it adds to the spaces that have limits.
    more: Vec<(Arc<Budget>, Holding)>,
    /// What is to be appended, by step. It is looked at last: it must not push out what other steps name.
    publishes: Vec<(u32, Publish)>,
    additions: Vec<Addition>,
    pub(super) changes: Vec<Change>,
    /// Dead letters among the additions that its messages push out, and their bytes.
    pub(super) copies: usize,
    pub(super) copied: u64,
    /// What was to be a dead letter and is not, by stream.
    lost: Vec<StreamId>,
}

pub(super) struct Publish {
    pub(super) to: Target,
    pub(super) also: Vec<StreamId>,
    pub(super) message: NewMessage,
    /// Where a dead letter has come through; empty for what a step asked for.
    pub(super) past: Path,
}

/// A message to append.
struct Addition {
    message: NewMessage,
    /// The stream that was named first, and its number there.
    first: (StreamId, Seq),
    targets: SmallVec<[(StreamId, Seq); 2]>,
    /// Where nobody wants it.
    skipped: SmallVec<[(StreamId, Seq); 2]>,
    asked_for: bool,
}

/// What becomes of something that is there already.
pub(super) enum Change {
    Settled(HoldKey),
    Returned {
        hold: HoldKey,
        due: Option<Timestamp>,
        meta: Meta,
    },
    Parked(HoldKey, Meta),
    Marked(HoldKey, u64),
    Removed {
        stream: StreamId,
        seq: Seq,
        bytes: u64,
        holders: Vec<(SessionKey, ConsumerTag)>,
    },
    Document(String, Option<Bytes>),
}

/// Where the records of a transaction are.
pub(super) struct Written {
    gate: Gate,
    /// Of each addition, in the durable log and in memory.
    positions: Vec<[Option<Lsn>; 2]>,
}

impl Shard {
    pub(crate) fn transact(
        &mut self,
        key: SessionKey,
        transaction: Transaction,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let steps = transaction.steps;
        if steps.len() > Transaction::MAX_STEPS {
            return Err(Refusal::Limit(format!(
                "a transaction of {} steps; at most {} are taken",
                steps.len(),
                Transaction::MAX_STEPS
            )));
        }
        if steps.is_empty() {
            return now_reply(Reply::Transacted {
                published: Vec::new(),
            });
        }
        let mut draft = Draft::new();
        for (step, number) in steps.into_iter().zip(0..) {
            self.draft_step(key, &mut draft, number, step)
                .map_err(|why| refused(number, why))?;
        }
        for (number, publish) in std::mem::take(&mut draft.publishes) {
            self.draft_publish(key, &mut draft, publish)
                .map_err(|why| refused(number, why))?;
        }
        let written = self.write_draft(&draft)?;
        Ok(self.apply_draft(draft, written, fx))
    }

    fn draft_step(
        &mut self,
        key: SessionKey,
        draft: &mut Draft,
        number: u32,
        step: Step,
    ) -> Result<(), Refusal> {
        match step {
            Step::Publish { to, also, message } => {
                check_texts(&message)?;
                let publish = Publish {
                    to,
                    also,
                    message,
                    past: Path::new(),
                };
                draft.publishes.push((number, publish));
                Ok(())
            }
            Step::Settle { message, how } => self.draft_settle(key, draft, number, message, how),
            Step::Mark { message, mark } => {
                let hold = self.own_hold(key, message)?.ok_or(Refusal::Gone)?;
                self.name_hold(draft, hold)?;
                draft.changes.push(Change::Marked(hold, mark));
                Ok(())
            }
            Step::Remove { stream, seq } => {
                let stream = self.target(key, stream)?;
                if !self.is_there(stream, seq)? {
                    return Err(Refusal::Gone);
                }
                let level = self.streams[&stream].level;
                draft.name(stream, seq, level)?;
                draft.changes.push(Change::Removed {
                    stream,
                    seq,
                    bytes: self.size(stream, seq),
                    holders: self.holders(stream, seq),
                });
                Ok(())
            }
            Step::Document { name, body } => {
                check_document_name(&name)?;
                draft.level = draft.level.max(self.logs.level(None));
                draft.changes.push(Change::Document(name, body));
                Ok(())
            }
        }
    }

    fn draft_settle(
        &mut self,
        key: SessionKey,
        draft: &mut Draft,
        number: u32,
        message: Handle,
        how: Settle,
    ) -> Result<(), Refusal> {
        let hold = self.own_hold(key, message)?.ok_or(Refusal::Gone)?;
        self.name_hold(draft, hold)?;
        let change = match self.fate(hold, how) {
            Fate::Done => Change::Settled(hold),
            Fate::Returned { due, meta } => Change::Returned { hold, due, meta },
            Fate::Parked(meta) => Change::Parked(hold, meta),
            Fate::Dead(grave, reason) => {
                let (copy, change) = self.death_of(hold, grave, reason)?;
                draft.publishes.extend(copy.map(|copy| (number, copy)));
                change
            }
        };
        draft.changes.push(change);
        Ok(())
    }

    pub(super) fn name_hold(&self, draft: &mut Draft, hold: HoldKey) -> Result<(), Refusal> {
        let held = &self.holds[hold];
        draft.name(held.stream, held.seq, self.level_of(held.group))
    }

    fn draft_publish(
        &mut self,
        key: SessionKey,
        draft: &mut Draft,
        publish: Publish,
    ) -> Result<(), Refusal> {
        let first = self.target(key, publish.to)?;
        self.draft_addition(draft, first, publish)
    }

    /// A message, and the dead letters among what it pushes out.
    pub(super) fn draft_addition(
        &mut self,
        draft: &mut Draft,
        first: StreamId,
        publish: Publish,
    ) -> Result<(), Refusal> {
        let pushed = self.draft_targets(draft, first, publish)?;
        self.draft_pushed(draft, pushed)
    }

    /// A message. Returns what it pushes out. When it is refused nothing is drafted,
    /// if it goes to one stream only.
    pub(super) fn draft_targets(
        &mut self,
        draft: &mut Draft,
        first: StreamId,
        publish: Publish,
    ) -> Result<Pushed, Refusal> {
        let Publish {
            also,
            message,
            past,
            ..
        } = publish;
        let asked_for = past.is_empty();
        let bytes = message.bytes();
        if asked_for && let Some(state) = self.streams.get(&first) {
            draft.admit(state.held.budget(), 1 + also.len() as u64, bytes)?;
        }
        let before = (draft.evictions.gone.len(), draft.evictions.passed.len());
        let mut targets: SmallVec<[(StreamId, Seq); 2]> = SmallVec::new();
        let mut skipped: SmallVec<[(StreamId, Seq); 2]> = SmallVec::new();
        for &stream in std::iter::once(&first).chain(&also) {
            if (targets.iter().chain(&skipped)).any(|&(known, _)| known == stream) {
                continue;
            }
            let state = self.streams.get(&stream).ok_or(Refusal::UnknownLink)?;
            draft.level = draft.level.max(state.level);
            let given = draft.given.entry(state.index).or_default();
            *given += 1;
            let seq = Seq(self.last_in(state.index).0 + *given);
            if !state.keeps(seq) {
                skipped.push((stream, seq));
                continue;
            }
            targets.push((stream, seq));
            if state.config.limits.max_messages > 0 || state.config.limits.max_bytes > 0 {
                let index = state.index;
                let known = draft.rooms.get(&stream).copied();
                let mut room = known.unwrap_or_else(|| Room::of(state));
                let named = &draft.named;
                let spared = |seq| named.contains(&(stream, seq));
                let made = self.make_room(stream, &mut room, bytes, spared, &mut draft.evictions);
                if let Err(why) = made {
                    draft.evictions.gone.truncate(before.0);
                    draft.evictions.passed.truncate(before.1);
                    draft.given.entry(index).and_modify(|given| *given -= 1);
                    return Err(why);
                }
                room.add(bytes);
                draft.rooms.insert(stream, room);
            }
        }
        let number = (targets.iter().chain(&skipped)).find(|target| target.0 == first);
        draft.additions.push(Addition {
            message,
            first: number.copied().unwrap_or((first, Seq(0))),
            targets,
            skipped,
            asked_for,
        });
        let mut pushed = Pushed {
            messages: draft.evictions.gone[before.0..].to_vec(),
            past,
        };
        if !pushed.messages.is_empty() {
            let targets = draft.additions.last().map(|addition| &addition.targets);
            let streams = targets.into_iter().flatten().map(|target| target.0);
            pushed.past.extend(streams);
        }
        Ok(pushed)
    }

    /// Writes everything: one frame in the durable log; in memory a record a message, none when the frame is refused.
    pub(super) fn write_draft(&mut self, draft: &Draft) -> Result<Written, Refusal> {
        let mut positions = vec![[None; 2]; draft.additions.len()];
        let mut frame = Frame::default();
        let mut defined: HashSet<StreamId, FixedHash> = HashSet::default();
        let streams = (draft.additions.iter()).flat_map(|a| a.targets.iter().chain(&a.skipped));
        for &(stream, _) in streams {
            if defined.insert(stream) && self.put_definition(stream, &mut frame.heads) {
                frame.cut(None);
            }
        }
        let Frame { heads, ends } = &mut frame;
        self.put_evictions(&draft.evictions, heads, |heads| {
            ends.push((heads.len(), None));
        });
        let mut in_memory = Vec::new();
        for (number, addition) in draft.additions.iter().enumerate() {
            for &(stream, seq) in &addition.skipped {
                if self.is_durable(stream) {
                    event::put_skipped(&mut frame.heads, stream, seq);
                    frame.cut(None);
                }
            }
            let record = record_of(&addition.message, self.now);
            let (durable, volatile): (SmallVec<[_; 2]>, SmallVec<[_; 2]>) =
                (addition.targets.iter().copied()).partition(|target| self.is_durable(target.0));
            if !durable.is_empty() {
                event::put_append(&mut frame.heads, &durable, &record);
                frame.cut(Some(number));
            }
            if !volatile.is_empty() {
                in_memory.push((number, volatile, record));
            }
        }
        for change in &draft.changes {
            self.put_change(change, &mut frame);
        }

        let mut head = Vec::new();
        let mut refusal = None;
        for (number, targets, record) in &in_memory {
            head.clear();
            event::put_append(&mut head, targets, record);
            let parts = RecordParts {
                head: &head,
                body: record
                    .shared
                    .map_or(Body::Lent(record.payload), Body::Shared),
                retained: true,
            };
            match self.logs.append_message(Durability::Memory, &[], parts) {
                Ok((position, _)) => positions[*number][1] = Some(position),
                Err(why) => {
                    refusal = Some(why);
                    break;
                }
            }
        }
        let written = match refusal {
            Some(why) => Err(why),
            None => frame.write(self, draft, &mut positions),
        };
        if written.is_err() {
            for position in positions.iter().filter_map(|both| both[1]) {
                self.logs.retire(position);
            }
        }
        written.map(|gate| Written { gate, positions })
    }

    pub(crate) fn is_durable(&self, stream: StreamId) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|state| state.level != Durability::Memory)
    }

    fn put_change(&self, change: &Change, frame: &mut Frame) {
        let out = &mut frame.heads;
        match change {
            Change::Document(name, body) => {
                if self.logs.level(None) == Durability::Memory {
                    return;
                }
                event::put_document(out, name, body.as_deref());
            }
            &Change::Removed {
                stream, seq, bytes, ..
            } => {
                if !self.is_durable(stream) {
                    return;
                }
                event::put_removed(out, stream, seq, bytes);
            }
            Change::Settled(hold)
            | Change::Returned { hold, .. }
            | Change::Parked(hold, _)
            | Change::Marked(hold, _) => {
                let held = &self.holds[*hold];
                let (group, seq) = (held.group, held.seq);
                if !self.is_durable(held.stream) {
                    return;
                }
                match change {
                    Change::Returned { due, meta, .. } => {
                        put_returned(out, (group, seq), *due, meta);
                    }
                    Change::Parked(_, meta) => {
                        event::put_parked(out, group, seq, Priority(meta.priority), &meta.counts);
                    }
                    Change::Marked(_, mark) => event::put_marked(out, group, seq, *mark),
                    _ => event::put_settled(out, group, seq, held.bytes),
                }
            }
        }
        frame.cut(None);
    }

    pub(super) fn apply_draft(
        &mut self,
        draft: Draft,
        written: Written,
        fx: &mut dyn Effects,
    ) -> (Gate, Reply) {
        let Written { gate, positions } = written;
        for stream in draft.lost {
            self.lose(1, stream);
        }
        for (stream, seq, bytes) in draft.evictions.gone {
            self.remove_message(stream, seq, bytes);
        }
        let mut published = Vec::new();
        for (addition, [durable, volatile]) in draft.additions.iter().zip(positions) {
            let targets = &addition.targets;
            let record = record_of(&addition.message, self.now);
            let first = addition.first;
            self.skip(&addition.skipped);
            let head = head_of(first.0, &record, addition.message.bytes());
            let is_durable: SmallVec<[bool; 2]> = targets
                .iter()
                .map(|target| self.is_durable(target.0))
                .collect();
            for (position, kind) in [(durable, true), (volatile, false)] {
                let count = is_durable.iter().filter(|&&is| is == kind).count();
                if let Some(position) = position
                    && count > 1
                {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    self.references.insert(position, count);
                }
            }
            let mut at = None;
            for (target, is_durable) in targets.iter().zip(is_durable) {
                let position = if is_durable { durable } else { volatile };
                self.place_appended(std::slice::from_ref(target), &head, |_| position);
                if *target == first {
                    at = position;
                }
            }
            if addition.asked_for {
                published.push((first.1, at.unwrap_or(Lsn::ZERO)));
            }
        }
        let mut holders = Vec::new();
        let mut ready = Vec::new();
        let mut touched = Vec::new();
        for change in draft.changes {
            match change {
                Change::Document(name, body) => self.apply_document(&name, body.as_deref()),
                Change::Marked(hold, mark) => {
                    let held = &mut self.holds[hold];
                    held.mark = mark;
                    held.after = held.after.max(gate.lsn);
                }
                Change::Removed {
                    stream,
                    seq,
                    bytes,
                    holders: who,
                } => {
                    self.count_removed(stream);
                    self.remove_message(stream, seq, bytes);
                    holders.extend(who);
                    touched.push(stream);
                }
                Change::Settled(hold) => {
                    if let Some(held) = self.release_hold(hold)
                        && let Some(found) = self.found(&held)
                    {
                        self.count_removed(found.stream);
                        self.apply_settled(found, None, held.bytes);
                        holders.push((held.session, held.consumer));
                        touched.push(found.stream);
                    }
                }
                Change::Returned { hold, due, meta } => {
                    if let Some(held) = self.release_hold(hold)
                        && let Some(found) = self.found(&held)
                    {
                        let after = gate.lsn;
                        self.apply_returned(found, due, Meta { after, ..meta });
                        holders.push((held.session, held.consumer));
                        ready.push((found, held.position));
                    }
                }
                Change::Parked(hold, meta) => {
                    if let Some(held) = self.release_hold(hold)
                        && let Some(found) = self.found(&held)
                    {
                        let after = gate.lsn;
                        self.apply_parked(found, Meta { after, ..meta });
                        holders.push((held.session, held.consumer));
                    }
                }
            }
        }

        for addition in &draft.additions {
            self.show_appended(&addition.targets, &addition.message, fx);
        }
        self.came_back(&ready, fx);
        holders.sort_unstable();
        holders.dedup();
        self.refill_all(holders, fx);
        for stream in touched {
            self.drop_if_idle(stream);
        }
        (gate, Reply::Transacted { published })
    }
}

fn refused(step: u32, why: Refusal) -> Refusal {
    Refusal::Step {
        step,
        why: Box::new(why),
    }
}

impl Draft {
    pub(super) fn new() -> Self {
        Draft {
            level: Durability::Memory,
            given: HashMap::default(),
            rooms: HashMap::default(),
            evictions: Evictions::default(),
            named: HashSet::default(),
            more: Vec::new(),
            publishes: Vec::new(),
            additions: Vec::new(),
            changes: Vec::new(),
            copies: 0,
            copied: 0,
            lost: Vec::new(),
        }
    }

    /// A message of this stream was to be a dead letter and is not.
    pub(super) fn lose(&mut self, stream: StreamId) {
        self.lost.push(stream);
    }

    /// Whether a space may hold so many messages more, of so many bytes each.
    fn admit(&mut self, budget: &Arc<Budget>, messages: u64, bytes: u64) -> Result<(), Refusal> {
        if !budget.is_limited() {
            return Ok(());
        }
        let known = self.more.iter().position(|(b, _)| Arc::ptr_eq(b, budget));
        let at = known.unwrap_or_else(|| {
            self.more.push((Arc::clone(budget), Holding::default()));
            self.more.len() - 1
        });
        let more = &mut self.more[at].1;
        more.messages += messages;
        more.bytes = more.bytes.saturating_add(bytes.saturating_mul(messages));
        budget.admit(*more, Holding::default())
    }

    pub(super) fn name(
        &mut self,
        stream: StreamId,
        seq: Seq,
        level: Durability,
    ) -> Result<(), Refusal> {
        self.level = self.level.max(level);
        if self.named.insert((stream, seq)) {
            Ok(())
        } else {
            Err(Refusal::Unsupported(
                "a transaction names a message in one step at most",
            ))
        }
    }
}

/// The records of one frame, while they are put together.
#[derive(Default)]
struct Frame {
    /// Their heads, one after the other.
    heads: Vec<u8>,
    /// Where each ends, and whose body follows it.
    ends: Vec<(usize, Option<usize>)>,
}

impl Frame {
    /// Ends a record.
    fn cut(&mut self, addition: Option<usize>) {
        self.ends.push((self.heads.len(), addition));
    }

    fn write(
        &self,
        shard: &mut Shard,
        draft: &Draft,
        positions: &mut [[Option<Lsn>; 2]],
    ) -> Result<Gate, Refusal> {
        let mut start = 0;
        let mut class = Class::Control;
        let mut records = Vec::with_capacity(self.ends.len());
        for &(end, addition) in &self.ends {
            let body = addition.and_then(|number| draft.additions.get(number));
            if body.is_some() {
                class = Class::Message;
            }
            records.push(RecordParts {
                head: &self.heads[start..end],
                body: body.map_or(Body::NONE, |addition| Body::Lent(&addition.message.payload)),
                retained: body.is_some(),
            });
            start = end;
        }
        let (found, gate) = shard.logs.append_frame(draft.level, &records, class)?;
        for (position, (_, addition)) in found.into_iter().zip(&self.ends) {
            if let Some(both) = addition.and_then(|number| positions.get_mut(number)) {
                both[0] = Some(position);
            }
        }
        Ok(gate)
    }
}
