//! Removing many messages with one event: purges, age limits, and making room for what is new.
//!
//! The event names a number below which everything goes, and what does not: what consumers held. Holds are not in the
//! log, so a replay could not know. Live and replayed, [`Shard::take_out_all`] does the work, without reading records.
//!
//! A stream may have more messages than there is memory for a list of them. So what goes is counted first, which can
//! fail; then it is taken out of the index a page at a time, which cannot: a page that cannot be read goes as a whole.

use longtail_model::{Durability, GroupId, IndexId, Lsn, Seq, StreamId};

use super::publish::Evictions;
use super::{Outcome, Shard, now_reply};
use crate::config::{Keep, StreamName};
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{Group, HoldKey, Stream};
use crate::structures::index::PAGE_SEQS;
use crate::structures::ordered::OrderedSet;

/// Looking a message up in the groups' lists costs as much as going through so many of their entries.
const LOOKUP: u64 = 8;

/// So many entries of a list may be named before they are taken out of it.
const FEW: usize = 1 << 16;

/// What goes: everything below a number but what is excepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut<'a> {
    pub(crate) below: Seq,
    /// Ascending.
    pub(crate) except: &'a [Seq],
}

impl Cut<'_> {
    pub(crate) fn takes(&self, seq: u64) -> bool {
        seq < self.below.0 && self.except.binary_search(&Seq(seq)).is_err()
    }
}

impl Shard {
    /// Removes everything from a stream, or settles everything for one of its groups.
    pub(crate) fn purge(
        &mut self,
        name: &StreamName,
        group: Option<&str>,
        held: bool,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some((stream, at)) = self.named(name, group) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        let groups = state.roster.groups;
        let mut holders = Vec::new();
        if held {
            let holds = self.holds_of(stream, at).into_iter();
            holders.extend(
                holds
                    .filter_map(|hold| self.holds.get(hold))
                    .map(|held| (held.session, held.consumer)),
            );
            holders.sort_unstable();
            holders.dedup();
        }
        let state = &self.streams[&stream];
        let (gate, removed) = match at {
            // With nobody else to want them, what the group is done with is gone.
            Some(_) if groups == 1 && state.config.keep != Keep::UntilLimit => {
                self.purge_stream(stream, held)?
            }
            Some(at) => self.purge_group(stream, at, held)?,
            None => self.purge_stream(stream, held)?,
        };
        self.removed += removed;
        if let Some(state) = self.streams.get_mut(&stream) {
            state.removed += removed;
        }
        for at in 0..self
            .streams
            .get(&stream)
            .map_or(0, |state| state.groups.len())
        {
            self.set_delay_alarm(stream, at);
        }
        self.refill_all(holders, fx);
        self.drop_if_idle(stream);
        Ok((gate, Reply::Count(removed)))
    }

    fn purge_stream(&mut self, stream: StreamId, held: bool) -> Result<(Gate, u64), Refusal> {
        let below = self.end_of(stream);
        let holds = self.holds_of(stream, None);
        let (mut except, mut left) = (Vec::new(), 0);
        if !held {
            let mut known: Vec<(Seq, u64)> = holds
                .iter()
                .filter_map(|&hold| self.holds.get(hold))
                .map(|hold| (hold.seq, hold.bytes))
                .collect();
            known.sort_unstable();
            known.dedup_by_key(|hold| hold.0);
            left = known.iter().map(|hold| hold.1).sum();
            except = known.into_iter().map(|hold| hold.0).collect();
        }
        let cut = Cut {
            below,
            except: &except,
        };
        let bytes = self.streams[&stream].held.bytes().saturating_sub(left);
        self.trim(stream, cut, bytes)
    }

    /// The number after the last one given.
    pub(crate) fn end_of(&self, stream: StreamId) -> Seq {
        self.streams
            .get(&stream)
            .map_or(Seq::FIRST, |state| self.last_in(state.index).next())
    }

    /// The last number given in a sequence space.
    pub(crate) fn last_in(&self, index: IndexId) -> Seq {
        self.indexes
            .get(&index)
            .map_or(Seq(0), super::PagedIndex::last_seq)
    }

    /// Holds on a stream's messages, by any group or by the one at `at`.
    pub(crate) fn holds_of(&self, stream: StreamId, at: Option<usize>) -> Vec<HoldKey> {
        let Some(state) = self.streams.get(&stream) else {
            return Vec::new();
        };
        let of = |group: &Group| group.held > 0;
        let ids: Vec<GroupId> = match at {
            Some(at) => state
                .groups
                .get(at)
                .into_iter()
                .filter(|g| of(g))
                .map(|g| g.id)
                .collect(),
            None => state
                .groups
                .iter()
                .filter(|g| of(g))
                .map(|g| g.id)
                .collect(),
        };
        if ids.is_empty() {
            return Vec::new();
        }
        self.holds
            .iter()
            .filter(|(_, hold)| hold.stream == stream && ids.contains(&hold.group))
            .map(|(key, _)| key)
            .collect()
    }

    /// Removes messages from a stream, `bytes` in all, and says so in the log. Returns how many there were.
    ///
    /// # Errors
    /// When an index page that it needs cannot be read, or the log refuses; nothing has changed then.
    pub(crate) fn trim(
        &mut self,
        stream: StreamId,
        cut: Cut<'_>,
        bytes: u64,
    ) -> Result<(Gate, u64), Refusal> {
        if !self.tells_trims(stream) {
            return self.remove_each(stream, cut);
        }
        let count = self.count_gone(stream, cut)?;
        if count == 0 {
            return Ok((Gate::OPEN, 0));
        }
        let ahead = self.ahead_below(stream, cut.below)?;
        let level = self
            .streams
            .get(&stream)
            .map_or(Durability::Memory, |state| state.level);
        let mut scratch = Vec::new();
        event::put_trimmed(&mut scratch, stream, cut.below, count, bytes, cut.except);
        let gate = self.logs.control(level, &[&scratch])?;
        self.take_out_all(stream, cut, count, &ahead, bytes);
        Ok((gate, count))
    }

    /// Removes messages of which only their records say whose they are, since their numbers are others' as well: a
    /// replay cannot read those, so the log is told of each.
    fn remove_each(&mut self, stream: StreamId, cut: Cut<'_>) -> Result<(Gate, u64), Refusal> {
        let Some((index, level)) = (self.streams.get(&stream)).map(|s| (s.index, s.level)) else {
            return Ok((Gate::OPEN, 0));
        };
        self.check_pages(index, cut.below)?;
        let (mut gate, mut count, mut from) = (Gate::OPEN, 0, Seq::FIRST);
        let mut scratch = Vec::new();
        while let Some((seq, _)) = self.next_of_stream(stream, from)?
            && seq < cut.below
        {
            from = seq.next();
            if cut.takes(seq.0) {
                let bytes = self.size(stream, seq);
                scratch.clear();
                event::put_removed(&mut scratch, stream, seq, bytes);
                gate = self.logs.control(level, &[&scratch])?;
                self.remove_message(stream, seq, bytes);
                count += 1;
            }
        }
        Ok((gate, count))
    }

    /// Whether one event for so many messages is better than one for each: what a cut takes from a shared sequence
    /// space is found by going through all that the group lists.
    pub(crate) fn is_worth_a_trim(&self, stream: StreamId, messages: usize) -> bool {
        let Some(state) = self.streams.get(&stream) else {
            return false;
        };
        messages > 1
            && self.tells_trims(stream)
            && (!state.shares_numbers()
                || (messages as u64).saturating_mul(LOOKUP) >= state.held.messages())
    }

    /// Tells the log what makes room for something new: with several of a stream, one event.
    pub(crate) fn put_evictions(
        &self,
        evictions: &Evictions,
        out: &mut Vec<u8>,
        mut end_record: impl FnMut(&[u8]),
    ) {
        let mut gone = evictions.gone.clone();
        gone.sort_unstable();
        let durable = |stream| (self.streams.get(&stream)).is_some_and(is_logged);
        for of_stream in gone.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(stream, last, _)) = of_stream.last() else {
                continue;
            };
            if !durable(stream) {
                continue;
            }
            if !self.is_worth_a_trim(stream, of_stream.len()) {
                for &(stream, seq, bytes) in of_stream {
                    event::put_removed(out, stream, seq, bytes);
                    end_record(out);
                }
                continue;
            }
            let mut except: Vec<Seq> = (evictions.passed.iter())
                .filter(|&&(of, seq)| of == stream && seq < last)
                .map(|passed| passed.1)
                .collect();
            except.sort_unstable();
            let (count, bytes) = (of_stream.len() as u64, of_stream.iter().map(|m| m.2).sum());
            event::put_trimmed(out, stream, last.next(), count, bytes, &except);
            end_record(out);
        }
    }

    /// Whether the messages that a cut takes from the stream are known without their records.
    pub(crate) fn tells_trims(&self, stream: StreamId) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|state| !state.shares_numbers() || state.config.keep != Keep::UntilLimit)
    }

    /// How many messages a cut takes from a stream. Of the index's pages only the one is read in which the cut ends.
    fn count_gone(&self, stream: StreamId, cut: Cut<'_>) -> Result<u64, Refusal> {
        let Some(state) = self.streams.get(&stream) else {
            return Ok(0);
        };
        let Some(index) = self.indexes.get(&state.index) else {
            return Ok(0);
        };
        let mut count = 0;
        if state.shares_numbers() {
            // The one group lists all that the stream has, or somebody holds it.
            for seq in self.listed(stream, 0, cut) {
                count += u64::from(index.get(seq, &self.logs)?.is_some());
            }
        } else {
            count = index.count_in(Seq::FIRST, cut.below, &self.logs)?;
            let stays = cut.except.partition_point(|&seq| seq < cut.below) as u64;
            count = count.saturating_sub(stays);
        }
        Ok(count)
    }

    /// How many messages below a number each group has ahead of its cursor.
    fn ahead_below(&self, stream: StreamId, below: Seq) -> Result<Vec<u64>, Refusal> {
        let Some(state) = self.streams.get(&stream) else {
            return Ok(Vec::new());
        };
        let Some(index) = self.indexes.get(&state.index) else {
            return Ok(Vec::new());
        };
        let of = |group: &Group| {
            if group.deleted || !group.implicit || group.cursor >= below {
                return Ok(0);
            }
            if below > index.last_seq() {
                return Ok(group.ahead(state.offered));
            }
            // What is below the floor of what was passed is passed, and in none of its runs.
            let start = Seq(group.lists.passed.next_absent(group.cursor.0));
            let mut ahead = index.count_in(start, below, &self.logs)?;
            let passed = group
                .lists
                .passed
                .runs()
                .take_while(|&(from, _)| from < below.0);
            for (from, to) in passed {
                let (from, to) = (Seq(from).max(start), Seq(to).min(below));
                ahead = ahead.saturating_sub(index.count_in(from, to, &self.logs)?);
            }
            Ok(ahead)
        };
        state.groups.iter().map(of).collect()
    }

    /// What a cut takes from what a group lists or holds, ascending.
    fn listed(&self, stream: StreamId, at: usize, cut: Cut<'_>) -> Vec<Seq> {
        let Some(group) = self.group(stream, at) else {
            return Vec::new();
        };
        let lists = [
            &group.lists.ready,
            &group.lists.delayed,
            &group.lists.parked,
        ];
        let listed = (lists.into_iter().flat_map(OrderedSet::iter)).map(|(_, seq)| Seq(seq));
        let held = self.holds_of(stream, Some(at)).into_iter();
        let held = held.filter_map(|hold| Some(self.holds.get(hold)?.seq));
        let mut seqs: Vec<Seq> = listed
            .chain(held)
            .filter(|&seq| cut.takes(seq.0))
            .filter(|&seq| self.unplaced.is_empty() || !self.unplaced.contains(&(group.id, seq)))
            .collect();
        seqs.sort_unstable();
        seqs
    }

    /// Everything that a cut takes leaves the stream, `count` messages of `bytes` in all when this was logged.
    ///
    /// # Errors
    /// When the index page in which the cut ends cannot be read; nothing has changed then.
    pub(crate) fn apply_trimmed(
        &mut self,
        stream: StreamId,
        cut: Cut<'_>,
        count: u64,
        bytes: u64,
    ) -> Result<(), Refusal> {
        let left = self.count_gone(stream, cut)?;
        if left != count {
            // Some are not even in the index any more, and nobody can tell what of `bytes` was theirs.
            self.miscounted.insert(stream);
        }
        let ahead = self.ahead_below(stream, cut.below)?;
        self.take_out_all(stream, cut, left, &ahead, bytes);
        Ok(())
    }

    /// Takes out the `count` messages that a cut takes; groups have `ahead` below it.
    fn take_out_all(
        &mut self,
        stream: StreamId,
        cut: Cut<'_>,
        count: u64,
        ahead: &[u64],
        bytes: u64,
    ) {
        let lists: usize = self.streams.get(&stream).map_or(0, |state| {
            let lists = |group: &Group| {
                group.lists.ready.len()
                    + group.lists.delayed.len()
                    + group.lists.parked.len()
                    + group.lists.meta.len()
            };
            state.extra.expiry.len() + state.groups.iter().map(lists).sum::<usize>()
        });
        let index = self.streams.get(&stream).map(|state| state.index);
        let few = count.saturating_mul(LOOKUP) < lists as u64;
        if few && index.is_some_and(|index| self.check_pages(index, cut.below).is_ok()) {
            self.take_out_each(stream, cut);
        } else {
            self.take_out_at_once(stream, cut, ahead);
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            let left = match state.held.messages() {
                0 => 0,
                _ => state.held.bytes().saturating_sub(bytes),
            };
            state.held.set(state.held.messages(), left);
        }
    }

    /// Looks at every page of an index that begins below a number.
    fn check_pages(&self, index: IndexId, below: Seq) -> Result<(), Refusal> {
        let mut from = Seq::FIRST;
        while let Some((seq, _)) = self.next_in(index, from)?
            && seq < below
        {
            from = Seq((seq.0 / PAGE_SEQS + 1) * PAGE_SEQS);
        }
        Ok(())
    }

    fn take_out_each(&mut self, stream: StreamId, cut: Cut<'_>) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        if state.shares_numbers() {
            for seq in self.listed(stream, 0, cut) {
                self.remove_message(stream, seq, 0);
            }
            return;
        }
        let index = state.index;
        let mut from = Seq::FIRST;
        while let Ok(Some((seq, _))) = self.next_in(index, from)
            && seq < cut.below
        {
            from = seq.next();
            if cut.takes(seq.0) {
                self.remove_message(stream, seq, 0);
            }
        }
    }

    fn take_out_at_once(&mut self, stream: StreamId, cut: Cut<'_>, ahead: &[u64]) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        let (index, shared) = (state.index, state.shares_numbers());
        let listed = match shared {
            true => self.listed(stream, 0, cut),
            false => Vec::new(),
        };
        self.release_taken(stream, None, cut);
        if let Some(state) = self.streams.get_mut(&stream) {
            let groups = state.groups.iter_mut().zip(ahead);
            for (group, &ahead) in groups.filter(|(group, _)| !group.deleted) {
                group.trim(cut, ahead);
            }
            if let Some(extra) = state.extra.get_mut() {
                thin(&mut extra.expiry, |seq| cut.takes(seq));
            }
        }
        let mut count = 0;
        if shared {
            for seq in listed {
                match self.take_from(index, seq) {
                    Ok(Some(position)) => self.retire(position),
                    Ok(None) => continue,
                    Err(_) => self.forget_in(index, seq),
                }
                count += 1;
            }
        } else {
            count = self.take_all_from(stream, index, cut);
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            let left = state.held.messages().saturating_sub(count);
            state.held.set(left, state.held.bytes());
        }
    }

    /// Ends the holds on what a cut takes, of any group or of the one at `at`.
    fn release_taken(&mut self, stream: StreamId, at: Option<usize>, cut: Cut<'_>) {
        for hold in self.holds_of(stream, at) {
            let taken = |hold| (self.holds.get(hold)).is_some_and(|held| cut.takes(held.seq.0));
            if taken(hold) {
                self.release_hold(hold);
            }
        }
    }

    fn purge_group(
        &mut self,
        stream: StreamId,
        at: usize,
        held: bool,
    ) -> Result<(Gate, u64), Refusal> {
        let mut except: Vec<Seq> = Vec::new();
        if !held {
            let holds = self.holds_of(stream, Some(at));
            except.extend(
                holds
                    .into_iter()
                    .filter_map(|hold| Some(self.holds.get(hold)?.seq)),
            );
            except.sort_unstable();
        }
        let cut = Cut {
            below: self.end_of(stream),
            except: &except,
        };
        let Some(state) = self.streams.get(&stream) else {
            return Ok((Gate::OPEN, 0));
        };
        let (level, index, keep) = (state.level, state.index, state.config.keep);
        let ahead = self.ahead_below(stream, cut.below)?;
        let Some(group) = self.group(stream, at) else {
            return Ok((Gate::OPEN, 0));
        };
        let id = group.id;
        let ahead = ahead.get(at).copied().unwrap_or(0);
        let ahead = ahead.saturating_sub(group.stay_ahead(cut).len() as u64);
        let count = self.listed(stream, at, cut).len() as u64 + ahead;
        if count == 0 {
            return Ok((Gate::OPEN, 0));
        }
        if keep != Keep::UntilLimit {
            self.check_pages(index, cut.below)?;
        }
        let mut scratch = Vec::new();
        event::put_group_trimmed(&mut scratch, id, cut.below, cut.except);
        let gate = self.logs.control(level, &[&scratch])?;
        self.apply_group_trimmed(id, cut)?;
        Ok((gate, count))
    }

    /// A group is done with everything that a cut takes; what no other group wants goes, but for what is in a page that
    /// cannot be read: that stays with the stream.
    ///
    /// # Errors
    /// When the index page in which the cut ends cannot be read; nothing has changed then.
    pub(crate) fn apply_group_trimmed(
        &mut self,
        group: GroupId,
        cut: Cut<'_>,
    ) -> Result<(), Refusal> {
        let Some((stream, at)) = self.group_at(group) else {
            return Ok(());
        };
        let ahead = self.ahead_below(stream, cut.below)?;
        let ahead = ahead.get(at).copied().unwrap_or(0);
        let listed = self.listed(stream, at, cut);
        self.release_taken(stream, Some(at), cut);
        let Some(state) = self.streams.get_mut(&stream) else {
            return Ok(());
        };
        let (keep, index) = (state.config.keep, state.index);
        let Some(group) = state.groups.get_mut(at) else {
            return Ok(());
        };
        let (mut from, passed) = (group.cursor, group.lists.passed.clone());
        group.trim(cut, ahead);
        if keep == Keep::UntilLimit {
            return Ok(());
        }
        for seq in listed {
            self.drop_if_unwanted(stream, seq);
        }
        while ahead > 0 && from < cut.below {
            match self.next_in(index, from) {
                Ok(Some((seq, _))) if seq < cut.below => {
                    from = Seq(passed.next_absent(seq.0));
                    if from == seq {
                        from = seq.next();
                        if cut.takes(seq.0) {
                            self.drop_if_unwanted(stream, seq);
                        }
                    }
                }
                Ok(_) => break,
                Err(_) => from = self.behind_page(index, from),
            }
        }
        Ok(())
    }

    fn drop_if_unwanted(&mut self, stream: StreamId, seq: Seq) {
        if !self.wanted(stream, seq) {
            let bytes = self.size(stream, seq);
            self.remove_message(stream, seq, bytes);
        }
    }

    /// A message got a number that leads to nothing.
    pub(crate) fn apply_skipped(&mut self, stream: StreamId, seq: Seq) {
        if let Some(state) = self.streams.get(&stream)
            && seq > self.last_in(state.index)
        {
            let id = state.index;
            self.push_to(id, seq, Lsn::ZERO);
            // The newest numbers are in memory.
            let _ = self.take_from(id, seq);
        }
    }
}

fn is_logged(state: &Stream) -> bool {
    state.level != Durability::Memory
}

impl Group {
    /// Forgets everything that a cut takes, of `ahead` messages ahead of the cursor below it. Holds are the caller's.
    fn trim(&mut self, cut: Cut<'_>, ahead: u64) {
        if let Some(lists) = self.lists.get_mut() {
            thin(&mut lists.ready, |seq| cut.takes(seq));
            thin(&mut lists.delayed, |seq| cut.takes(seq));
            thin(&mut lists.parked, |seq| cut.takes(seq));
            lists.urgent = lists.count_urgent();
            lists.meta.retain(|&seq, _| !cut.takes(seq));
        }
        if !self.implicit || self.cursor >= cut.below {
            return;
        }
        let stays = self.stay_ahead(cut);
        self.meet(ahead.saturating_sub(stays.len() as u64));
        let mut from = self.cursor.0;
        let passed = &mut self.lists.make().passed;
        for seq in stays {
            passed.insert_range(from, seq);
            from = seq + 1;
        }
        passed.insert_range(from, cut.below.0);
        self.cursor = Seq(passed.next_absent(self.cursor.0));
        passed.set_floor(self.cursor.0);
        self.tidy();
    }

    /// What a cut spares that is ahead of the cursor: somebody else holds it.
    fn stay_ahead(&self, cut: Cut<'_>) -> Vec<u64> {
        let spared = cut.except.iter().filter(|&&seq| seq < cut.below);
        (spared.filter(|&&seq| self.is_ahead(seq)))
            .map(|seq| seq.0)
            .collect()
    }
}

/// Takes entries out of a set: one by one when they are few, else by making it anew of what stays.
fn thin(set: &mut OrderedSet, goes: impl Fn(u64) -> bool) {
    if set.is_empty() {
        return;
    }
    let gone = set.iter().filter(|&(_, seq)| goes(seq)).count();
    if gone == set.len() {
        set.clear();
    } else if gone < (set.len() / 4).min(FEW) {
        let gone: Vec<(u64, u64)> = set.iter().filter(|&(_, seq)| goes(seq)).collect();
        for (key, seq) in gone {
            set.remove(key, seq);
        }
    } else {
        let all = std::mem::replace(set, OrderedSet::new());
        for (key, seq) in all.iter().filter(|&(_, seq)| !goes(seq)) {
            set.insert(key, seq);
        }
    }
}
