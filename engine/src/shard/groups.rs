//! Groups come and go, the default one too.

use longtail_model::{Durability, GroupId, Seq, StreamId};

use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::command::Start;
use crate::config::{GroupConfig, GroupName, Keep, StreamName};
use crate::definition;
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::Group;

impl Shard {
    pub(crate) fn define_group(
        &mut self,
        stream: &StreamName,
        name: &GroupName,
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
        if let Some(known) = state.group_named(name).map(|at| &state.groups[at]) {
            return if *known.config == *config {
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
        definition::put_named_group(&mut body, name, config);
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

    /// The number from which a group, or a reader, with this start gets messages.
    ///
    /// # Errors
    /// When an index page cannot be read.
    pub(crate) fn start_of(&mut self, stream: StreamId, start: Start) -> Result<Seq, Refusal> {
        let Some(state) = self.streams.get(&stream) else {
            return Ok(Seq::FIRST);
        };
        let last = self.last_in(state.index);
        let first = self
            .streams
            .get(&stream)
            .is_some_and(|state| !state.has_groups());
        Ok(match start {
            Start::First => Seq::FIRST,
            Start::Backlog if first => Seq::FIRST,
            Start::Backlog | Start::Next => last.next(),
            Start::Last => last.max(Seq::FIRST),
            Start::At(seq) => seq.max(Seq::FIRST),
            Start::Since(when) => {
                // Messages ascend in time with their numbers: halve the range.
                let (mut low, mut high) = (Seq::FIRST, last.next());
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
                // Numbers that are gone may lie in between.
                let found = self.next_of_stream(stream, low)?;
                found.map_or(last.next(), |(seq, _)| seq)
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
        name: &str,
        config: GroupConfig,
        start: Seq,
    ) -> Result<Group, Refusal> {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        let offered = self.streams.get(&stream).map_or(0, |state| state.offered);
        let mut ahead = 0;
        let config = self.group_configs.share(config);
        let mut group = Group::new(id, name, config, false, start);
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
                    let lists = group.lists.make();
                    lists.passed.insert(seq.0);
                    lists.delayed.insert(due.0, seq.0);
                }
                None if group.implicit => ahead += 1,
                None => {
                    let key = group.key(priority);
                    group.add_ready(key, seq);
                }
            }
        }
        group.met = offered.wrapping_sub(ahead);
        Ok(group)
    }

    /// Adds a group to a stream.
    pub(crate) fn insert_group(&mut self, stream: StreamId, group: Group) {
        let (id, start) = (group.id, group.cursor);
        let is_default = group.name.is_empty();
        let next = self.end_of(stream);
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let only = !state.has_groups();
        if is_default {
            let mut config = (*state.config).clone();
            config.group = Some((*group.config).clone());
            state.config = self.stream_configs.share(config);
        }
        let at = state.add_group(group, next);
        self.groups.insert(id, (stream, at));
        self.set_delay_alarm(stream, at);
        if only {
            self.drop_settled_before(stream, start);
        }
    }

    /// A stream has its first group: what lies before its start nobody will ask for any more.
    fn drop_settled_before(&mut self, stream: StreamId, start: Seq) {
        let Some(index) = (self.streams.get(&stream))
            .filter(|state| state.config.keep != Keep::UntilLimit)
            .map(|state| state.index)
        else {
            return;
        };
        let mut from = Seq::FIRST;
        while from < start {
            match self.next_of_stream(stream, from) {
                Ok(Some((seq, _))) if seq < start => {
                    from = seq.next();
                    let bytes = self.size(stream, seq);
                    self.remove_message(stream, seq, bytes);
                }
                Ok(_) => return,
                // What is in a page that cannot be read stays with the stream.
                Err(_) => from = self.behind_page(index, from),
            }
        }
    }

    /// A stream, and where its group of that name is, if one is named. `None`: there is no such stream or group.
    pub(crate) fn named(
        &self,
        stream: &StreamName,
        group: Option<&str>,
    ) -> Option<(StreamId, Option<usize>)> {
        let &stream = self.names.get(stream)?;
        let at = match group {
            None => None,
            Some(group) => Some(self.streams.get(&stream)?.group_named(group)?),
        };
        Some((stream, at))
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
        if state.shares_numbers() {
            return Err(Refusal::Unsupported(
                "a stream that shares its numbers has the default group",
            ));
        }
        let Some(group) = state.group_named(name).map(|at| state.groups[at].id) else {
            return now_reply(Reply::NotFound);
        };
        let mut gate = Gate::OPEN;
        if state.defined {
            self.scratch.clear();
            event::put_group_deleted(&mut self.scratch, group);
            gate = self.logs.control(state.level, &[&self.scratch])?;
        }
        self.apply_group_deleted(group, fx);
        self.drop_if_idle(stream);
        Ok((gate, Reply::Done))
    }

    pub(crate) fn apply_group_deleted(&mut self, id: GroupId, fx: &mut dyn Effects) {
        let Some((stream, at)) = self.group_at(id) else {
            return;
        };
        let bare = self.group(stream, at).is_some_and(Group::is_bare);
        let held = self.holds_of(stream, Some(at));
        let holders = self.release_all(held);
        // Not before: letting go of a hold needs to find its group.
        self.groups.remove(&id);
        if at == 0
            && let Some(state) = self.streams.get_mut(&stream)
        {
            let mut config = (*state.config).clone();
            config.group = None;
            state.config = self.stream_configs.share(config);
        }
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
            self.sessions[key].forget_idle();
        }
        if let Some(lists) = self
            .streams
            .get_mut(&stream)
            .and_then(|state| state.groups.get_mut(at)?.lists.get_mut())
        {
            lists
                .delay_timer
                .move_to(None, &mut self.timers, Timer::Delay(stream, at));
            if let Some(timer) = lists.pause.take().and_then(|pause| pause.timer) {
                self.timers.cancel(timer);
            }
        }
        let mut from = Seq::FIRST;
        if let Some(state) = self.streams.get_mut(&stream) {
            // What lies before the cursor of a group that lists nothing it did not want.
            if let Some(group) = (state.groups.get(at)).filter(|_| bare && self.live) {
                from = group.cursor;
            }
            state.drop_group(at);
        }
        self.drop_unwanted(stream, from);
        self.refill_all(holders, fx);
    }

    /// A group is gone: what only that one still wanted goes.
    fn drop_unwanted(&mut self, stream: StreamId, from: Seq) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        match state.config.keep {
            Keep::UntilSettled if state.has_groups() => {}
            Keep::Interest => {}
            Keep::UntilSettled | Keep::UntilLimit => return,
        }
        // What is in a page that cannot be read stays with the stream.
        let index = state.index;
        let mut from = from;
        loop {
            let seq = match self.next_of_stream(stream, from) {
                Ok(Some((seq, _))) => seq,
                Ok(None) => return,
                Err(_) => {
                    from = self.behind_page(index, from);
                    continue;
                }
            };
            from = seq.next();
            if !self.wanted(stream, seq) {
                let bytes = self.size(stream, seq);
                self.remove_message(stream, seq, bytes);
            }
        }
    }
}
