//! Streams and the documents of the catalog come and go.

use longtail_model::{Durability, GroupId, IndexId, Link, Seq, StreamId};

use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::budget::{Held, Holding};
use crate::command::{Only, Role};
use crate::config::{Numbering, StreamConfig, StreamName};
use crate::definition;
use crate::effect::{Effect, Effects, Gate, Refusal, Reply, Unmet};
use crate::event;
use crate::rare::Rare;
use crate::stream::{Group, Roster, SessionKey, Stream};

pub(crate) fn check_document_name(name: &str) -> Result<(), Refusal> {
    const NAME_MAX: usize = 1024;
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Refusal::Unsupported("a document name has 1 to 1024 bytes"));
    }
    Ok(())
}

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
                && state.held.messages() == 0
                && state.producers == 0
                && state.consumers == 0
                && state.extra.readers.is_empty()
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
        if let Some(extra) = state.extra.get_mut() {
            for alarm in [&mut extra.expiry_timer, &mut extra.age_timer] {
                alarm.move_to(None, &mut self.timers, Timer::Expiry(stream));
            }
        }
        for group in &mut state.groups {
            self.groups.remove(&group.id);
            if let Some(lists) = group.lists.get_mut() {
                lists
                    .delay_timer
                    .move_to(None, &mut self.timers, Timer::Expiry(stream));
            }
        }
        let pauses = state.groups.iter().map(|group| &group.lists.pause);
        for timer in pauses
            .chain([&state.extra.pause])
            .flatten()
            .filter_map(|pause| pause.timer)
        {
            self.timers.cancel(timer);
        }
        if !state.shares_numbers() {
            self.drop_index(state.index);
        }
    }

    pub(crate) fn take_id(&mut self) -> u64 {
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
        if config.group.is_none() && config.numbering != Numbering::Own {
            return Err(Refusal::Unsupported(
                "a stream that shares its numbers has the default group",
            ));
        }
        if self.streams.len() as u64 >= self.config.max_streams {
            return Err(Refusal::Limit(format!(
                "the limit of {} streams is reached",
                self.config.max_streams
            )));
        }
        let one = Holding {
            streams: 1,
            ..Holding::default()
        };
        let budget = self.config.budgets.of(&name.space);
        budget.admit(one, Holding::default())?;
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
        self.next_id = self
            .next_id
            .max(stream.0.saturating_add(1))
            .max(index.0.saturating_add(1));
        if let Numbering::Shared(with) = &config.numbering {
            let shared = StreamName {
                space: name.space.clone(),
                name: with.clone(),
            };
            self.shared_indexes.entry(shared).or_insert(index);
        }
        let shared = matches!(config.numbering, Numbering::Shared(_));
        let mut roster = Roster::default();
        let mut groups = Vec::new();
        if let Some(config) = &config.group {
            let config = self.group_configs.share(config.clone());
            let group = Group::new(GroupId(stream.0), "", config, shared, Seq::FIRST);
            roster.groups = 1;
            if !group.implicit {
                roster.listing.push(0);
            }
            groups.reserve_exact(1);
            groups.push(group);
        }
        let level = self.logs.level(config.durability);
        let held = Held::new(self.config.budgets.of(&name.space), self.config.id);
        let name = StreamName {
            // One for all streams of the space.
            space: held.space(),
            name: name.name,
        };
        let config = self.stream_configs.share(config);
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
                groups,
                roster,
                offered: 0,
                held,
                producers: 0,
                consumers: 0,
                appended: 0,
                removed: 0,
                extra: Rare::default(),
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
                    .is_some_and(|state| *state.config != *config)
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

    pub(crate) fn delete(
        &mut self,
        name: &StreamName,
        only: Only,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        if only.unused && state.consumers > 0 {
            return Err(Refusal::Unmet(Unmet::Unused));
        }
        if only.empty && !state.has_only_held() {
            return Err(Refusal::Unmet(Unmet::Empty));
        }
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
        let holders = self.release_all(held);
        self.doubt_unreadable(stream);
        let own = (self.streams.get(&stream)).filter(|state| !state.shares_numbers());
        if let Some(index) = own.map(|state| state.index)
            && self.is_long(index)
        {
            self.leave_index(stream, index);
        }
        let index = self.streams.get(&stream).map(|state| state.index);
        let mut from = Seq::FIRST;
        while let Some(index) = index {
            match self.next_of_stream(stream, from) {
                Ok(Some((seq, position))) => {
                    from = seq.next();
                    // Its page has just been read.
                    let _ = self.take_from(index, seq);
                    self.retire(position);
                }
                Ok(None) => break,
                // The log finds out about its records when it looks at their segments.
                Err(_) => from = self.behind_page(index, from),
            }
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
            self.sessions[key].forget_idle();
        }
        if let Some(state) = self.streams.get_mut(&stream) {
            state.defined = false;
            let readers = state.take_readers();
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
        self.refill_all(holders, fx);
    }

    pub(crate) fn put_document(&mut self, name: &str, body: Option<&[u8]>) -> Outcome {
        check_document_name(name)?;
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
