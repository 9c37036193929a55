//! Streams and groups come and go; pausing and purging them.

use longtail_model::{Durability, GroupId, IndexId, Link, Seq, StreamId};

use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::command::{Role, Start};
use crate::config::{GroupConfig, GroupName, Numbering, StreamConfig, StreamName};
use crate::definition;
use crate::effect::{Effect, Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{Alarm, Group, SessionKey, Stream};
use crate::structures::ordered::OrderedSet;

impl Shard {
    pub(crate) fn open_link(
        &mut self,
        key: SessionKey,
        link: Link,
        name: StreamName,
        create: Option<&StreamConfig>,
        role: Role,
    ) -> Outcome {
        let stream = match (self.names.get(&name), create) {
            (Some(&stream), create) => {
                // Handles of the opener's other links would mean other messages here.
                if let (Some(wanted), Some(state)) = (create, self.streams.get(&stream))
                    && wanted.numbering != state.config.numbering
                {
                    return Err(Refusal::Exists);
                }
                stream
            }
            (None, Some(config)) => self.create(name, config.clone())?,
            (None, None) => return now_reply(Reply::NotFound),
        };
        if let Some(state) = self.streams.get_mut(&stream) {
            match role {
                Role::Producer => state.producers += 1,
                Role::Consumer => state.consumers += 1,
            }
        }
        if let Some((old, role)) = self.sessions[key].set_link(link, stream, role) {
            self.link_closed(old, role);
        }
        now_reply(Reply::Opened { stream })
    }

    pub(crate) fn close_link(&mut self, key: SessionKey, link: Link) -> Outcome {
        if let Some((stream, role)) = self.sessions[key].remove_link(link) {
            self.link_closed(stream, role);
        }
        now_reply(Reply::Done)
    }

    pub(crate) fn link_closed(&mut self, stream: StreamId, role: Role) {
        if let Some(state) = self.streams.get_mut(&stream) {
            match role {
                Role::Producer => state.producers = state.producers.saturating_sub(1),
                Role::Consumer => state.consumers = state.consumers.saturating_sub(1),
            }
            self.drop_if_idle(stream);
        }
    }

    /// Removes an auto-deleting stream that is empty and that no link needs.
    pub(crate) fn drop_if_idle(&mut self, stream: StreamId) {
        let idle = self.streams.get(&stream).is_some_and(|state| {
            state.config.auto_delete
                && state.messages == 0
                && state.producers == 0
                && state.consumers == 0
                && state.readers.is_empty()
        });
        if idle {
            self.forget_stream(stream);
        }
    }

    /// Takes a stream without messages out of every table, and says so in the log.
    pub(crate) fn forget_stream(&mut self, stream: StreamId) {
        let Some(mut state) = self.streams.remove(&stream) else {
            return;
        };
        if state.defined {
            self.scratch.clear();
            event::put_stream_deleted(&mut self.scratch, stream);
            self.logs.note(&self.scratch);
        }
        self.names.remove(&state.name);
        self.listing.remove(&stream);
        for alarm in [&mut state.expiry_timer, &mut state.age_timer] {
            alarm.move_to(None, &mut self.timers, Timer::Expiry(stream));
        }
        for group in &mut state.groups {
            self.groups.remove(&group.id);
            group
                .delay_timer
                .move_to(None, &mut self.timers, Timer::Expiry(stream));
            if let Some(timer) = group.pause_timer.take() {
                self.timers.cancel(timer);
            }
        }
        if !state.shares_numbers() {
            self.indexes.remove(&state.index);
        }
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Creates a stream in memory; the log hears of it with its first message, or from [`Shard::define`].
    pub(crate) fn create(
        &mut self,
        name: StreamName,
        config: StreamConfig,
    ) -> Result<StreamId, Refusal> {
        if name.name.is_empty() || name.name.len() > StreamName::MAX {
            return Err(Refusal::Unsupported("a stream name has 1 to 255 bytes"));
        }
        if self.streams.len() as u64 >= self.config.max_streams {
            return Err(Refusal::Limit(format!(
                "the limit of {} streams is reached",
                self.config.max_streams
            )));
        }
        let stream = StreamId(self.take_id());
        let index = match &config.numbering {
            Numbering::Own => IndexId(self.take_id()),
            Numbering::Shared(with) => {
                let shared = StreamName {
                    space: name.space.clone(),
                    name: with.clone(),
                };
                match self.shared_indexes.get(&shared) {
                    Some(&index) => index,
                    None => IndexId(self.take_id()),
                }
            }
        };
        self.insert_stream(stream, index, name, config, false);
        Ok(stream)
    }

    /// Puts a stream into the tables.
    pub(crate) fn insert_stream(
        &mut self,
        stream: StreamId,
        index: IndexId,
        name: StreamName,
        config: StreamConfig,
        defined: bool,
    ) {
        self.next_id = self.next_id.max(stream.0 + 1).max(index.0 + 1);
        if let Numbering::Shared(with) = &config.numbering {
            let shared = StreamName {
                space: name.space.clone(),
                name: with.clone(),
            };
            self.shared_indexes.entry(shared).or_insert(index);
        }
        self.indexes.entry(index).or_default();
        let shared = matches!(config.numbering, Numbering::Shared(_));
        let group = Group::new(
            GroupId(stream.0),
            "".into(),
            config.group.clone(),
            shared,
            Seq::FIRST,
        );
        let level = self.logs.level(config.durability);
        self.names.insert(name.clone(), stream);
        self.listing.insert(stream, ());
        self.streams.insert(
            stream,
            Stream {
                id: stream,
                name,
                config,
                index,
                level,
                defined,
                groups: vec![group],
                messages: 0,
                bytes: 0,
                expiry: OrderedSet::new(),
                expiry_timer: Alarm::default(),
                age_timer: Alarm::default(),
                producers: 0,
                consumers: 0,
                appended: 0,
                removed: 0,
                readers: Vec::new(),
            },
        );
    }

    /// Encodes a stream's definition event, unless the log has it.
    pub(crate) fn put_definition(&self, stream: StreamId, out: &mut Vec<u8>) -> bool {
        let Some(state) = self
            .streams
            .get(&stream)
            .filter(|state| !state.defined && state.level != Durability::Memory)
        else {
            return false;
        };
        let mut body = Vec::new();
        definition::put_stream(&mut body, &state.name, &state.config);
        event::put_stream_defined(out, stream, state.index, &body);
        true
    }

    pub(crate) fn define(&mut self, name: StreamName, config: &StreamConfig) -> Outcome {
        let stream = match self.names.get(&name) {
            Some(&stream) => {
                if self
                    .streams
                    .get(&stream)
                    .is_some_and(|state| state.config != *config)
                {
                    return Err(Refusal::Exists);
                }
                stream
            }
            None => self.create(name, config.clone())?,
        };
        let mut scratch = Vec::new();
        if !self.put_definition(stream, &mut scratch) {
            return now_reply(Reply::Done);
        }
        match self.logs.control(self.streams[&stream].level, &[&scratch]) {
            Ok(gate) => {
                if let Some(state) = self.streams.get_mut(&stream) {
                    state.defined = true;
                }
                Ok((gate, Reply::Done))
            }
            Err(refusal) => {
                self.drop_if_idle(stream);
                Err(refusal)
            }
        }
    }

    pub(crate) fn delete(&mut self, name: &StreamName, fx: &mut dyn Effects) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let level = self.streams[&stream].level;
        let mut gate = Gate::OPEN;
        if self.streams[&stream].defined {
            self.scratch.clear();
            event::put_stream_deleted(&mut self.scratch, stream);
            gate = self.logs.control(level, &[&self.scratch])?;
        }
        self.apply_deleted(stream, fx);
        Ok((gate, Reply::Done))
    }

    /// A stream goes, with all it holds and whoever used it.
    pub(crate) fn apply_deleted(&mut self, stream: StreamId, fx: &mut dyn Effects) {
        let groups: Vec<_> = self
            .streams
            .get(&stream)
            .map(|s| s.groups.iter().map(|g| g.id).collect())
            .unwrap_or_default();
        let held: Vec<_> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.stream == stream)
            .map(|(key, _)| key)
            .collect();
        for hold in held {
            self.release_hold(hold);
        }
        self.doubt_unreadable(stream);
        let mut from = Seq::FIRST;
        while let Some((seq, position)) = self.next_of_stream(stream, from) {
            from = seq.next();
            if let Some(index) = self.streams.get(&stream).map(|state| state.index)
                && let Some(index) = self.indexes.get_mut(&index)
            {
                index.remove(seq);
            }
            self.retire(position);
        }
        let keys: Vec<_> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.sessions[key].forget_stream(stream);
            for at in 0..self.sessions[key].consumers.len() {
                if self.sessions[key].consumers[at]
                    .sources
                    .iter()
                    .any(|source| source.0 == stream)
                {
                    self.lose_source(key, at, stream, None, fx);
                }
            }
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            state.defined = false;
            let readers = std::mem::take(&mut state.readers);
            for key in readers {
                if let Some(token) = self.stop_waiting(key) {
                    fx.emit(
                        self.sessions[key].id,
                        Gate::OPEN,
                        Effect::Reply(token, Reply::NotFound),
                    );
                    self.runnable.push_back(key);
                }
            }
        }
        for group in groups {
            self.groups.remove(&group);
        }
        self.forget_stream(stream);
    }

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
        let start = self.start_of(stream, config.start);
        let mut scratch = Vec::new();
        self.put_definition(stream, &mut scratch);
        let cut = scratch.len();
        let group = GroupId(self.take_id());
        let mut body = Vec::new();
        body.extend_from_slice(&(u32::try_from(name.len()).unwrap_or(u32::MAX)).to_le_bytes());
        body.extend_from_slice(name.as_bytes());
        definition::put_group(&mut body, config);
        event::put_group_defined(&mut scratch, stream, group, start, &body);
        let gate = if cut == 0 {
            self.logs.control(level, &[&scratch])?
        } else {
            self.logs
                .control(level, &[&scratch[..cut], &scratch[cut..]])?
        };
        if let Some(state) = self.streams.get_mut(&stream) {
            state.defined = state.defined || level != Durability::Memory;
        }
        self.insert_group(stream, group, name, config.clone(), start);
        Ok((gate, Reply::Done))
    }

    /// The number from which a group with this start delivers.
    fn start_of(&mut self, stream: StreamId, start: Start) -> Seq {
        let Some(index) = self
            .streams
            .get(&stream)
            .and_then(|state| self.indexes.get(&state.index))
        else {
            return Seq::FIRST;
        };
        match start {
            Start::First => Seq::FIRST,
            Start::Next => index.last_seq().next(),
            Start::Last => index.last_seq().max(Seq::FIRST),
            Start::At(seq) => seq.max(Seq::FIRST),
            Start::Since(when) => {
                // Messages ascend in time with their numbers: halve the range.
                let (mut low, mut high) = (Seq::FIRST, index.last_seq().next());
                while low < high {
                    let middle = Seq(low.0 + (high.0 - low.0) / 2);
                    let Some((seq, position)) = self.next_of_stream(stream, middle) else {
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
        }
    }

    /// Adds a group from `start` on: what lies before it counts as settled.
    pub(crate) fn insert_group(
        &mut self,
        stream: StreamId,
        id: GroupId,
        name: GroupName,
        config: GroupConfig,
        start: Seq,
    ) {
        self.next_id = self.next_id.max(id.0 + 1);
        let mut group = Group::new(id, name, config, false, start);
        group.passed.set_floor(start.0);
        let mut from = start;
        while let Some((seq, position)) = self.next_of_stream(stream, from) {
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
        let Some((stream, at)) = self.groups.remove(&id) else {
            return;
        };
        let held: Vec<_> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.group == id)
            .map(|(key, _)| key)
            .collect();
        for hold in held {
            self.release_hold(hold);
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
        // What only this group still wanted can go.
        let mut from = Seq::FIRST;
        while let Some((seq, _)) = self.next_of_stream(stream, from) {
            from = seq.next();
            if self.streams[&stream].config.keep == crate::config::Keep::UntilSettled
                && !self.wanted(stream, seq)
            {
                let bytes = self.size(stream, seq);
                self.remove_message(stream, seq, bytes);
            }
        }
    }

    pub(crate) fn pause(&mut self, name: &StreamName, ms: u64, fx: &mut dyn Effects) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let until = self.now.plus_millis(ms);
        let Some(group) = self
            .streams
            .get_mut(&stream)
            .and_then(|stream| stream.groups.first_mut())
        else {
            return now_reply(Reply::NotFound);
        };
        group.pauses += 1;
        if let Some(timer) = group.pause_timer.take() {
            self.timers.cancel(timer);
        }
        if ms == 0 {
            self.end_pause(stream, 0, fx);
        } else {
            group.paused_until = Some(until);
            group.pause_ms = ms;
            group.pause_timer = Some(self.timers.insert(until, Timer::Pause(stream, 0)));
        }
        now_reply(Reply::Done)
    }

    pub(crate) fn end_pause(&mut self, stream: StreamId, at: usize, fx: &mut dyn Effects) {
        if let Some(group) = self.group_mut(stream, at) {
            group.paused_until = None;
            group.pause_ms = 0;
            group.pause_timer = None;
        }
        self.dispatch(stream, at, fx);
    }

    /// Removes everything that nobody holds.
    pub(crate) fn purge(&mut self, name: &StreamName) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let level = self.streams[&stream].level;
        let mut removed = 0;
        let mut gate = Gate::OPEN;
        let mut from = Seq::FIRST;
        while let Some((seq, _)) = self.next_of_stream(stream, from) {
            from = seq.next();
            if self.is_held(stream, seq) {
                continue;
            }
            self.scratch.clear();
            let bytes = self.size(stream, seq);
            event::put_removed(&mut self.scratch, stream, seq, bytes);
            gate = self.logs.control(level, &[&self.scratch])?;
            self.remove_message(stream, seq, bytes);
            removed += 1;
            self.removed += 1;
            if let Some(state) = self.streams.get_mut(&stream) {
                state.removed += 1;
            }
        }
        for at in 0..self.streams[&stream].groups.len() {
            self.set_delay_alarm(stream, at);
        }
        self.drop_if_idle(stream);
        Ok((gate, Reply::Count(removed)))
    }

    pub(crate) fn put_document(&mut self, name: &str, body: Option<&[u8]>) -> Outcome {
        const NAME_MAX: usize = 1024;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Refusal::Unsupported("a document name has 1 to 1024 bytes"));
        }
        self.scratch.clear();
        event::put_document(&mut self.scratch, name, body);
        let gate = self.logs.control(self.logs.level(None), &[&self.scratch])?;
        self.apply_document(name, body);
        Ok((gate, Reply::Done))
    }

    pub(crate) fn apply_document(&mut self, name: &str, body: Option<&[u8]>) {
        match body {
            Some(body) => {
                self.documents.insert(name.to_owned(), body.to_vec());
            }
            None => {
                self.documents.remove(name);
            }
        }
    }

    /// The catalog documents that live in this shard.
    pub fn documents(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.documents
            .iter()
            .map(|(name, body)| (name.as_str(), body.as_slice()))
    }
}
