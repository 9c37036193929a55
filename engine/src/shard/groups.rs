//! Named groups beside a stream's default one come and go.

use longtail_model::{Durability, GroupId, Seq, StreamId};

use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::command::Start;
use crate::config::{GroupConfig, GroupName, StreamName};
use crate::definition;
use crate::effect::{Effects, Refusal, Reply};
use crate::event;
use crate::stream::Group;

impl Shard {
    pub(crate) fn define_group(
        &mut self,
        stream: &StreamName,
        name: GroupName,
        config: &GroupConfig,
    ) -> Outcome {
        let Some(&stream) = self.names.get(stream) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        if state.shares_numbers() {
            return Err(Refusal::Unsupported(
                "a stream that shares its numbers has one group",
            ));
        }
        if let Some(known) = state
            .groups
            .iter()
            .find(|group| !group.deleted && group.name == name)
        {
            return if known.config == *config {
                now_reply(Reply::Done)
            } else {
                Err(Refusal::Exists)
            };
        }
        let level = state.level;
        let start = self.start_of(stream, config.start)?;
        let mut scratch = Vec::new();
        self.put_definition(stream, &mut scratch);
        let cut = scratch.len();
        let group = GroupId(self.take_id());
        let mut body = Vec::new();
        body.extend_from_slice(&(u32::try_from(name.len()).unwrap_or(u32::MAX)).to_le_bytes());
        body.extend_from_slice(name.as_bytes());
        definition::put_group(&mut body, config);
        event::put_group_defined(&mut scratch, stream, group, start, &body);
        // Before the log hears of it: it may turn out that an index page cannot be read.
        let gathered = self.gather_group(stream, group, name, config.clone(), start)?;
        let gate = if cut == 0 {
            self.logs.control(level, &[&scratch])?
        } else {
            self.logs
                .control(level, &[&scratch[..cut], &scratch[cut..]])?
        };
        if let Some(state) = self.streams.get_mut(&stream) {
            state.defined = state.defined || level != Durability::Memory;
        }
        self.insert_group(stream, gathered);
        Ok((gate, Reply::Done))
    }

    /// The number from which a group with this start delivers.
    ///
    /// # Errors
    /// When an index page cannot be read.
    fn start_of(&mut self, stream: StreamId, start: Start) -> Result<Seq, Refusal> {
        let Some(index) = self
            .streams
            .get(&stream)
            .and_then(|state| self.indexes.get(&state.index))
        else {
            return Ok(Seq::FIRST);
        };
        Ok(match start {
            Start::First => Seq::FIRST,
            Start::Next => index.last_seq().next(),
            Start::Last => index.last_seq().max(Seq::FIRST),
            Start::At(seq) => seq.max(Seq::FIRST),
            Start::Since(when) => {
                // Messages ascend in time with their numbers: halve the range.
                let (mut low, mut high) = (Seq::FIRST, index.last_seq().next());
                while low < high {
                    let middle = Seq(low.0 + (high.0 - low.0) / 2);
                    let Some((seq, position)) = self.next_of_stream(stream, middle)? else {
                        high = middle;
                        continue;
                    };
                    if self.head(position).is_ok_and(|head| head.created < when) {
                        low = seq.next();
                    } else {
                        high = middle;
                    }
                }
                low
            }
        })
    }

    /// A group that delivers a stream from `start` on: what lies before it counts as settled.
    ///
    /// # Errors
    /// When an index page cannot be read.
    pub(crate) fn gather_group(
        &mut self,
        stream: StreamId,
        id: GroupId,
        name: GroupName,
        config: GroupConfig,
        start: Seq,
    ) -> Result<Group, Refusal> {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        let mut group = Group::new(id, name, config, false, start);
        group.passed.set_floor(start.0);
        let mut from = start;
        while let Some((seq, position)) = self.next_of_stream(stream, from)? {
            from = seq.next();
            let (priority, due) = match self.head(position) {
                Ok(head) => (
                    head.priority,
                    (head.delay_ms > 0).then(|| head.created.plus_millis(head.delay_ms)),
                ),
                Err(_) => (0, None),
            };
            match due.filter(|&due| due > self.now) {
                Some(due) => {
                    group.passed.insert(seq.0);
                    group.delayed.insert(due.0, seq.0);
                }
                None if group.implicit => group.ahead += 1,
                None => {
                    let key = group.key(priority);
                    group.add_ready(key, seq);
                }
            }
        }
        Ok(group)
    }

    /// Adds a group to a stream.
    pub(crate) fn insert_group(&mut self, stream: StreamId, group: Group) {
        let id = group.id;
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let at = match state.groups.iter().position(|group| group.deleted) {
            Some(at) => {
                state.groups[at] = group;
                at
            }
            None => {
                state.groups.push(group);
                state.groups.len() - 1
            }
        };
        self.groups.insert(id, (stream, at));
        self.set_delay_alarm(stream, at);
    }

    pub(crate) fn delete_group(
        &mut self,
        stream: &StreamName,
        name: &str,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(&stream) = self.names.get(stream) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        let found = state
            .groups
            .iter()
            .find(|group| !group.deleted && &*group.name == name && !name.is_empty());
        let Some(group) = found.map(|group| group.id) else {
            return now_reply(Reply::NotFound);
        };
        self.scratch.clear();
        event::put_group_deleted(&mut self.scratch, group);
        let gate = self.logs.control(state.level, &[&self.scratch])?;
        self.apply_group_deleted(group, fx);
        self.drop_if_idle(stream);
        Ok((gate, Reply::Done))
    }

    pub(crate) fn apply_group_deleted(&mut self, id: GroupId, fx: &mut dyn Effects) {
        let Some(&(stream, at)) = self.groups.get(&id) else {
            return;
        };
        let held: Vec<_> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.group == id)
            .map(|(key, _)| key)
            .collect();
        let holders = self.release_all(held);
        // Not before: letting go of a hold needs to find its group.
        self.groups.remove(&id);
        let keys: Vec<_> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            for consumer in 0..self.sessions[key].consumers.len() {
                if self.sessions[key].consumers[consumer]
                    .sources
                    .contains(&(stream, at))
                {
                    self.lose_source(key, consumer, stream, Some(at), fx);
                }
            }
        }
        if let Some(group) = self
            .streams
            .get_mut(&stream)
            .and_then(|state| state.groups.get_mut(at))
        {
            group
                .delay_timer
                .move_to(None, &mut self.timers, Timer::Delay(stream, at));
            if let Some(timer) = group.pause_timer.take() {
                self.timers.cancel(timer);
            }
            let mut gone = Group::new(
                id,
                group.name.clone(),
                GroupConfig::default(),
                true,
                Seq::FIRST,
            );
            gone.deleted = true;
            *group = gone;
        }
        // What only this group still wanted can go; what is in a page that cannot be read stays with the stream.
        let index = self.streams.get(&stream).map(|state| state.index);
        let mut from = Seq::FIRST;
        while let Some(index) = index {
            let seq = match self.next_of_stream(stream, from) {
                Ok(Some((seq, _))) => seq,
                Ok(None) => break,
                Err(_) => {
                    from = self.behind_page(index, from);
                    continue;
                }
            };
            from = seq.next();
            if self.streams[&stream].config.keep == crate::config::Keep::UntilSettled
                && !self.wanted(stream, seq)
            {
                let bytes = self.size(stream, seq);
                self.remove_message(stream, seq, bytes);
            }
        }
        self.refill_all(holders, fx);
    }
}
