//! Removing messages whatever their groups think of them.

use longtail_model::{ConsumerTag, Seq, StreamId};

use super::{Outcome, Shard, now_reply};
use crate::command::Target;
use crate::effect::{Effects, Refusal, Reply};
use crate::event;
use crate::stream::SessionKey;

impl Shard {
    /// Removes one message for all groups, held or not.
    pub(crate) fn remove(
        &mut self,
        key: SessionKey,
        stream: Target,
        seq: Seq,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        if !self.is_there(stream, seq)? {
            return now_reply(Reply::NotFound);
        }
        let holders = self.holders(stream, seq);
        let level = self.streams[&stream].level;
        let bytes = self.size(stream, seq);
        self.scratch.clear();
        event::put_removed(&mut self.scratch, stream, seq, bytes);
        let gate = self.logs.control(level, &[&self.scratch])?;
        self.count_removed(stream);
        self.remove_message(stream, seq, bytes);
        self.refill_all(holders, fx);
        self.drop_if_idle(stream);
        Ok((gate, Reply::Done))
    }

    /// Whether a stream has a message of this number: in a shared sequence space it may be another's.
    pub(crate) fn is_there(&mut self, stream: StreamId, seq: Seq) -> Result<bool, Refusal> {
        let Some(position) = self.position(stream, seq)? else {
            return Ok(false);
        };
        match self.streams.get(&stream) {
            Some(state) if state.shares_numbers() => {
                let index = state.index;
                Ok(self.head_in(index, seq, position)?.stream == stream)
            }
            state => Ok(state.is_some()),
        }
    }

    /// Who holds a message, each consumer once.
    pub(crate) fn holders(&self, stream: StreamId, seq: Seq) -> Vec<(SessionKey, ConsumerTag)> {
        let Some(state) = self.streams.get(&stream) else {
            return Vec::new();
        };
        let holding = state
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.held > 0);
        let mut holders: Vec<_> = holding
            .filter_map(|(at, _)| self.hold_by.get(self.domain(stream, at), seq.0))
            .filter_map(|hold| self.holds.get(hold))
            .map(|held| (held.session, held.consumer))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// A message goes because a consumer is done with it, or by hand.
    pub(crate) fn count_removed(&mut self, stream: StreamId) {
        self.removed += 1;
        if let Some(state) = self.streams.get_mut(&stream) {
            state.removed += 1;
        }
    }
}
