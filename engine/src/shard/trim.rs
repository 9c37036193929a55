//! Removing many messages with one event: purges, age limits, and making room for what is new.
//!
//! The event names a number below which everything goes, and what does not: what consumers held. Holds are not in the
//! log, so a replay could not know. Live and replayed, [`Shard::apply_trimmed`] does the work, without reading records.

use longtail_model::{Durability, GroupId, Lsn, Seq, StreamId};

use super::{Outcome, Shard, now_reply};
use crate::config::{Keep, StreamName};
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{Group, HoldKey};
use crate::structures::index::Index;
use crate::structures::ordered::OrderedSet;

/// Looking a message up in the groups' lists costs as much as going through so many of their entries.
const LOOKUP: usize = 8;

/// What goes: everything below a number but what is excepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut<'a> {
    pub(crate) below: Seq,
    /// Ascending.
    pub(crate) except: &'a [Seq],
}

impl Cut<'_> {
    fn takes(&self, seq: u64) -> bool {
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
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        let at = match group {
            None => None,
            Some(group) => match state.group_named(group) {
                None => return now_reply(Reply::NotFound),
                at => at,
            },
        };
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
            .and_then(|state| self.indexes.get(&state.index))
            .map_or(Seq::FIRST, |index| index.last_seq().next())
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
    pub(crate) fn trim(
        &mut self,
        stream: StreamId,
        cut: Cut<'_>,
        bytes: u64,
    ) -> Result<(Gate, u64), Refusal> {
        let gone = self.gone(stream, cut);
        if gone.is_empty() {
            return Ok((Gate::OPEN, 0));
        }
        let level = self
            .streams
            .get(&stream)
            .map_or(Durability::Memory, |state| state.level);
        let count = gone.len() as u64;
        let mut scratch = Vec::new();
        if !self.tells_trims(stream) {
            // Their numbers are others' as well, and only their records say whose: a replay cannot read those.
            let sizes: Vec<(Seq, u64)> = gone
                .iter()
                .map(|&(seq, _)| (seq, self.size(stream, seq)))
                .collect();
            let mut gate = Gate::OPEN;
            for (seq, bytes) in sizes {
                scratch.clear();
                event::put_removed(&mut scratch, stream, seq, bytes);
                gate = self.logs.control(level, &[&scratch])?;
                self.remove_message(stream, seq, bytes);
            }
            return Ok((gate, count));
        }
        event::put_trimmed(&mut scratch, stream, cut.below, count, bytes, cut.except);
        let gate = self.logs.control(level, &[&scratch])?;
        self.take_out_all(stream, cut, &gone, bytes);
        Ok((gate, count))
    }

    /// Whether the messages that a cut takes from the stream are known without their records.
    pub(crate) fn tells_trims(&self, stream: StreamId) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|state| !state.shares_numbers() || state.config.keep != Keep::UntilLimit)
    }

    /// What a cut takes from a stream.
    fn gone(&mut self, stream: StreamId, cut: Cut<'_>) -> Vec<(Seq, Lsn)> {
        let mut gone = Vec::new();
        let Some(state) = self.streams.get(&stream) else {
            return gone;
        };
        let Some(index) = self.indexes.get(&state.index) else {
            return gone;
        };
        if !state.shares_numbers() {
            gone.extend(
                index
                    .iter()
                    .take_while(|&(seq, _)| seq < cut.below)
                    .filter(|&(seq, _)| cut.takes(seq.0)),
            );
            return gone;
        }
        if !self.tells_trims(stream) {
            let mut from = Seq::FIRST;
            while let Some((seq, position)) = self
                .next_of_stream(stream, from)
                .filter(|&(seq, _)| seq < cut.below)
            {
                from = seq.next();
                if cut.takes(seq.0) {
                    gone.push((seq, position));
                }
            }
            return gone;
        }
        // The one group lists all that the stream has, or somebody holds it.
        let mut seqs = self.outstanding(stream, 0, cut);
        let Some(index) = self
            .streams
            .get(&stream)
            .and_then(|state| self.indexes.get(&state.index))
        else {
            return gone;
        };
        seqs.retain(|seq| cut.takes(seq.0));
        gone.extend(
            seqs.into_iter()
                .filter_map(|seq| Some((seq, index.get(seq)?))),
        );
        gone
    }

    /// What a cut takes from what a group has not settled, ascending.
    fn outstanding(&self, stream: StreamId, at: usize, cut: Cut<'_>) -> Vec<Seq> {
        let Some(state) = self.streams.get(&stream) else {
            return Vec::new();
        };
        let Some(group) = state.groups.get(at) else {
            return Vec::new();
        };
        let listed = [
            &group.lists.ready,
            &group.lists.delayed,
            &group.lists.parked,
        ];
        let mut seqs: Vec<Seq> = listed
            .into_iter()
            .flat_map(OrderedSet::iter)
            .map(|(_, seq)| Seq(seq))
            .collect();
        if group.ahead(state.offered) > 0
            && let Some(index) = self.indexes.get(&state.index)
        {
            seqs.extend(
                index
                    .range(group.cursor)
                    .map(|(seq, _)| seq)
                    .take_while(|&seq| seq < cut.below)
                    .filter(|&seq| group.is_ahead(seq)),
            );
        }
        let held = self.holds_of(stream, Some(at));
        seqs.extend(
            held.into_iter()
                .filter_map(|hold| Some(self.holds.get(hold)?.seq)),
        );
        seqs.retain(|&seq| {
            cut.takes(seq.0)
                && (self.unplaced.is_empty() || !self.unplaced.contains(&(group.id, seq)))
        });
        seqs.sort_unstable();
        seqs
    }

    /// Everything that a cut takes leaves the stream, `count` messages of `bytes` in all when this was logged.
    pub(crate) fn apply_trimmed(&mut self, stream: StreamId, cut: Cut<'_>, count: u64, bytes: u64) {
        let gone = self.gone(stream, cut);
        if gone.len() as u64 != count {
            // Some are not even in the index any more, and nobody can tell what of `bytes` was theirs.
            self.miscounted.insert(stream);
        }
        self.take_out_all(stream, cut, &gone, bytes);
    }

    fn take_out_all(&mut self, stream: StreamId, cut: Cut<'_>, gone: &[(Seq, Lsn)], bytes: u64) {
        let listed: usize = self.streams.get(&stream).map_or(0, |state| {
            let lists = |group: &Group| {
                group.lists.ready.len()
                    + group.lists.delayed.len()
                    + group.lists.parked.len()
                    + group.lists.meta.len()
            };
            state.extra.expiry.len() + state.groups.iter().map(lists).sum::<usize>()
        });
        if gone.len().saturating_mul(LOOKUP) < listed {
            for &(seq, _) in gone {
                self.remove_message(stream, seq, 0);
            }
        } else {
            for hold in self.holds_of(stream, None) {
                if self
                    .holds
                    .get(hold)
                    .is_some_and(|held| cut.takes(held.seq.0))
                {
                    self.release_hold(hold);
                }
            }
            let Some(state) = self.streams.get_mut(&stream) else {
                return;
            };
            let Some(index) = self.indexes.get_mut(&state.index) else {
                return;
            };
            for group in state.groups.iter_mut().filter(|group| !group.deleted) {
                group.trim(cut, index);
            }
            if let Some(extra) = state.extra.get_mut() {
                thin(&mut extra.expiry, |seq| cut.takes(seq));
            }
            let left = state.held.messages().saturating_sub(gone.len() as u64);
            state.held.set(left, state.held.bytes());
            for &(seq, _) in gone {
                index.remove(seq);
            }
            for &(_, position) in gone {
                self.retire(position);
            }
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            let left = match state.held.messages() {
                0 => 0,
                _ => state.held.bytes().saturating_sub(bytes),
            };
            state.held.set(state.held.messages(), left);
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
        let count = self.outstanding(stream, at, cut).len() as u64;
        let Some(group) = self.group(stream, at).map(|group| group.id) else {
            return Ok((Gate::OPEN, 0));
        };
        if count == 0 {
            return Ok((Gate::OPEN, 0));
        }
        let mut scratch = Vec::new();
        event::put_group_trimmed(&mut scratch, group, cut.below, cut.except);
        let gate = self
            .logs
            .control(self.streams[&stream].level, &[&scratch])?;
        self.apply_group_trimmed(group, cut);
        Ok((gate, count))
    }

    /// A group is done with everything that a cut takes; what no other group wants goes.
    pub(crate) fn apply_group_trimmed(&mut self, group: GroupId, cut: Cut<'_>) {
        let Some((stream, at)) = self.group_at(group) else {
            return;
        };
        let settled = self.outstanding(stream, at, cut);
        for hold in self.holds_of(stream, Some(at)) {
            if self
                .holds
                .get(hold)
                .is_some_and(|held| cut.takes(held.seq.0))
            {
                self.release_hold(hold);
            }
        }
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let keep = state.config.keep;
        if let (Some(group), Some(index)) =
            (state.groups.get_mut(at), self.indexes.get(&state.index))
        {
            group.trim(cut, index);
        }
        if keep == Keep::UntilLimit {
            return;
        }
        for seq in settled {
            if !self.wanted(stream, seq) {
                let bytes = self.size(stream, seq);
                self.remove_message(stream, seq, bytes);
            }
        }
    }

    /// A message got a number that leads to nothing.
    pub(crate) fn apply_skipped(&mut self, stream: StreamId, seq: Seq) {
        if let Some(state) = self.streams.get(&stream)
            && let Some(index) = self.indexes.get_mut(&state.index)
            && seq > index.last_seq()
        {
            index.push(seq, Lsn::ZERO);
            index.remove(seq);
        }
    }
}

impl Group {
    /// Forgets everything that a cut takes. Holds are the caller's.
    fn trim(&mut self, cut: Cut<'_>, index: &Index) {
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
        let stays: Vec<u64> = cut
            .except
            .iter()
            .map(|seq| seq.0)
            .filter(|&seq| seq < cut.below.0 && self.is_ahead(Seq(seq)))
            .collect();
        let ahead = index
            .range(self.cursor)
            .take_while(|&(seq, _)| seq < cut.below)
            .filter(|&(seq, _)| self.is_ahead(seq))
            .count();
        let still = stays.iter().filter(|&&seq| index.contains(Seq(seq)));
        self.meet((ahead - still.count()) as u64);
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
}

/// Takes entries out of a set: one by one when they are few, else by making it anew of what stays.
fn thin(set: &mut OrderedSet, goes: impl Fn(u64) -> bool) {
    if set.is_empty() {
        return;
    }
    let gone: Vec<(u64, u64)> = set.iter().filter(|&(_, seq)| goes(seq)).collect();
    if gone.len() == set.len() {
        set.clear();
    } else if gone.len() < set.len() / 4 {
        for (key, seq) in gone {
            set.remove(key, seq);
        }
    } else {
        let stays: Vec<(u64, u64)> = set.iter().filter(|&(_, seq)| !goes(seq)).collect();
        set.clear();
        for (key, seq) in stays {
            set.insert(key, seq);
        }
    }
}
