//! Pausing: a stream, or one of its groups, delivers nothing for a while.
//!
//! A durable pause is an event, and so is whatever takes its place: a restart finds what the last one said.

use longtail_model::{Durability, GroupId, StreamId, Timestamp};

use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::command::Until;
use crate::config::{GroupName, StreamName};
use crate::effect::{Effects, Gate, Reply};
use crate::event;
use crate::stream::Pause;

impl Shard {
    pub(crate) fn pause(
        &mut self,
        name: &StreamName,
        group: Option<&GroupName>,
        until: Until,
        durable: bool,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        let at = match group {
            None => None,
            Some(group) => match state.group_named(group) {
                Some(at) => Some(at),
                None => return now_reply(Reply::NotFound),
            },
        };
        let (level, id) = (state.level, at.map(|at| state.groups[at].id));
        let (end, length_ms) = match until {
            Until::Now | Until::Millis(0) => (None, 0),
            Until::Millis(ms) => (Some(self.now.plus_millis(ms)), ms),
            Until::Forever => (Some(Timestamp::NEVER), u64::MAX),
        };
        let was_durable = self
            .pause_slot(stream, at)
            .and_then(|slot| slot.as_ref())
            .is_some_and(|pause| pause.durable);
        let mut gate = Gate::OPEN;
        if durable || was_durable {
            let mut scratch = Vec::new();
            self.put_definition(stream, &mut scratch);
            let cut = scratch.len();
            let said = end.filter(|_| durable);
            let group = id.unwrap_or(GroupId(0));
            event::put_paused(&mut scratch, stream, group, said, length_ms);
            gate = if cut == 0 {
                self.logs.control(level, &[&scratch])?
            } else {
                self.logs
                    .control(level, &[&scratch[..cut], &scratch[cut..]])?
            };
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            state.defined = state.defined || (gate != Gate::OPEN && level != Durability::Memory);
            match at.and_then(|at| state.groups.get_mut(at)) {
                Some(group) => group.pauses += 1,
                None => state.pauses += 1,
            }
        }
        self.apply_paused(stream, at, end, length_ms, durable);
        if end.is_none() {
            self.resume(stream, at, fx);
        }
        Ok((gate, Reply::Done))
    }

    fn pause_slot(&mut self, stream: StreamId, at: Option<usize>) -> Option<&mut Option<Pause>> {
        let state = self.streams.get_mut(&stream)?;
        match at {
            None => Some(&mut state.pause),
            Some(at) => Some(&mut state.groups.get_mut(at)?.pause),
        }
    }

    /// Nothing is delivered until `end`; `None` ends what pause there was.
    pub(crate) fn apply_paused(
        &mut self,
        stream: StreamId,
        at: Option<usize>,
        end: Option<Timestamp>,
        length_ms: u64,
        durable: bool,
    ) {
        let Some(slot) = self.pause_slot(stream, at) else {
            return;
        };
        let old = slot.take();
        *slot = end.map(|end| Pause {
            end,
            length_ms,
            durable,
            timer: None,
        });
        if let Some(timer) = old.and_then(|pause| pause.timer) {
            self.timers.cancel(timer);
        }
        self.set_pause_timer(stream, at);
    }

    /// Sets the timer of a pause that has none. While the log is replayed none is set: `recovered` does it.
    pub(crate) fn set_pause_timer(&mut self, stream: StreamId, at: Option<usize>) {
        if !self.live {
            return;
        }
        let unset = self
            .pause_slot(stream, at)
            .and_then(|slot| slot.as_ref())
            .filter(|pause| pause.timer.is_none() && pause.end != Timestamp::NEVER)
            .map(|pause| pause.end);
        let Some(end) = unset else { return };
        let timer = self.timers.insert(end, Timer::Pause(stream, at));
        if let Some(Some(pause)) = self.pause_slot(stream, at) {
            pause.timer = Some(timer);
        }
    }

    /// The timer of a pause rings.
    pub(crate) fn pause_over(&mut self, stream: StreamId, at: Option<usize>, fx: &mut dyn Effects) {
        let now = self.now;
        if let Some(slot) = self.pause_slot(stream, at)
            && slot.as_ref().is_some_and(|pause| pause.end <= now)
        {
            *slot = None;
            self.resume(stream, at, fx);
        }
    }

    /// Delivers what has waited for the end of a pause.
    fn resume(&mut self, stream: StreamId, at: Option<usize>, fx: &mut dyn Effects) {
        let groups = match at {
            Some(at) => at..at + 1,
            None => {
                0..self
                    .streams
                    .get(&stream)
                    .map_or(0, |state| state.groups.len())
            }
        };
        for at in groups {
            self.dispatch(stream, at, fx);
        }
    }
}
