//! Marks: a number that a consumer leaves on a message it holds, for whoever gets the message later.

use longtail_model::{Durability, GroupId, Seq};

use super::logs::Logs;
use super::{Outcome, Shard, now_reply};
use crate::command::{Handle, Target};
use crate::config::GroupName;
use crate::effect::{Gate, Reply};
use crate::event;
use crate::stream::SessionKey;

/// Messages in one answer at most.
const MARKED_MAX: usize = 65_535;

impl Shard {
    pub(crate) fn mark(
        &mut self,
        key: SessionKey,
        message: Handle,
        mark: u64,
        noted: bool,
    ) -> Outcome {
        let Some(hold) = self.own_hold(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        self.scratch.clear();
        event::put_marked(&mut self.scratch, held.group, held.seq, mark);
        let gate = if !noted {
            self.logs.control(level, &[&self.scratch])?
        } else {
            if level != Durability::Memory {
                self.logs.note(&self.scratch);
            }
            Gate::OPEN
        };
        let held = &mut self.holds[hold];
        held.mark = mark;
        // Whoever gets the message later learns of the mark.
        held.after = held.after.max(gate.lsn);
        Ok((gate, Reply::Done))
    }

    /// Notes numbers on several messages of a group.
    pub(crate) fn mark_all(
        &mut self,
        key: SessionKey,
        group: GroupId,
        marks: &[(Seq, u64)],
    ) -> Outcome {
        for &(seq, mark) in marks {
            self.mark(key, Handle::Group(group, seq), mark, true)?;
        }
        now_reply(Reply::Done)
    }

    /// The marked messages of a group that nobody holds.
    pub(crate) fn marked(&mut self, key: SessionKey, stream: Target, name: &GroupName) -> Outcome {
        let stream = self.target(key, stream)?;
        let Some(state) = self.streams.get(&stream) else {
            return now_reply(Reply::NotFound);
        };
        let Some(group) = state.group_named(name).and_then(|at| state.groups.get(at)) else {
            return now_reply(Reply::NotFound);
        };
        let mut found: Vec<_> = (group.lists.meta.iter())
            .filter(|(_, meta)| meta.mark != 0)
            .map(|(&seq, meta)| (Seq(seq), meta.mark, meta.after))
            .collect();
        found.sort_unstable();
        found.truncate(MARKED_MAX);
        let mut gate = Gate::OPEN;
        for (seq, _, after) in &found {
            if let Some(position) = self.position(stream, *seq)? {
                let mut shown = Logs::gate_of(position, state.level);
                shown.lsn = shown.lsn.max(*after);
                gate = gate.max(shown);
            }
        }
        let messages = found.into_iter().map(|(seq, mark, _)| (seq, mark));
        let reply = Reply::Marked {
            group: group.id,
            messages: messages.collect(),
        };
        Ok((gate, reply))
    }
}
