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
        let Some((stream, at)) = self.named(name, group.map(|group| &**group)) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        let (level, id) = (state.level, at.map(|at| state.groups[at].id));
        let (end, length_ms) = match until {
            Until::Now | Until::Millis(0) => (None, 0),
            Until::Millis(ms) => (Some(self.now.plus_millis(ms)), ms),
            Until::Forever => (Some(Timestamp::NEVER), u64::MAX),
        };
        let was_durable = self.pause_of(stream, at).is_some_and(|pause| pause.durable);
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
            if at.is_none() {
                state.extra.make().pauses += 1;
            }
        }
        self.apply_paused(stream, at, end, length_ms, durable);
        if end.is_none() {
            self.resume(stream, at, fx);
        }
        Ok((gate, Reply::Done))
    }

    fn pause_of(&self, stream: StreamId, at: Option<usize>) -> Option<Pause> {
        let state = self.streams.get(&stream)?;
        match at {
            None => state.extra.pause,
            Some(at) => state.groups.get(at)?.lists.pause,
        }
    }

    fn set_pause(&mut self, stream: StreamId, at: Option<usize>, pause: Option<Pause>) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        match at {
            None => state.extra.make().pause = pause,
            Some(at) => {
                if let Some(group) = state.groups.get_mut(at) {
                    group.lists.make().pause = pause;
                    group.tidy();
                }
            }
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
        let old = self.pause_of(stream, at);
        if old.is_none() && end.is_none() {
            return;
        }
        let pause = end.map(|end| Pause {
            end,
            length_ms,
            durable,
            timer: None,
        });
        self.set_pause(stream, at, pause);
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
            .pause_of(stream, at)
            .filter(|pause| pause.timer.is_none() && pause.end != Timestamp::NEVER);
        let Some(mut pause) = unset else { return };
        pause.timer = Some(self.timers.insert(pause.end, Timer::Pause(stream, at)));
        self.set_pause(stream, at, Some(pause));
    }

    /// The timer of a pause rings.
    pub(crate) fn pause_over(&mut self, stream: StreamId, at: Option<usize>, fx: &mut dyn Effects) {
        let now = self.now;
        if self
            .pause_of(stream, at)
            .is_some_and(|pause| pause.end <= now)
        {
            self.set_pause(stream, at, None);
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
