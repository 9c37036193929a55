//! Streams and groups in the model: publishing, defining, deleting, describing.

use std::collections::BTreeSet;
use std::rc::Rc;

use longtail_engine::command::{Start, Until};
use longtail_engine::{
    Cause, Counted, Counts, Effect, GroupConfig, GroupInfo, Handle, Keep, MessageInfo,
    MessageState, NewMessage, Numbering, Order, Overflow, Refusal, Reply, Role, StreamConfig,
    StreamInfo, StreamName, Target, Wait, Which,
};
use longtail_model::{ConsumerTag, Durability, GroupId, Lsn, Priority, Seq, StreamId, Timestamp};

use super::shrink::makes_room_later;
use super::{
    Blocked, Group, Logged, Message, Model, Outcome, Pause, Place, Shown, Space, Standing, Stream,
    Timer, Told, limit,
};

impl Model {
    fn new_group(id: u64, name: &str, config: GroupConfig, from: u64) -> Group {
        Group {
            id,
            name: name.to_owned(),
            config,
            from,
            messages: Default::default(),
            waiters: Default::default(),
            pause: None,
            delay_timer: None,
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn create(&mut self, name: StreamName, config: &StreamConfig) -> Result<u64, Refusal> {
        if config.group.is_none() && config.numbering != Numbering::Own {
            return Err(Refusal::Unsupported(""));
        }
        let id = self.take_id();
        let space = match &config.numbering {
            Numbering::Own => Space::Own(self.take_id()),
            Numbering::Shared(with) => {
                let space = Space::Shared(StreamName::new(name.space.clone(), with.clone()));
                if !self.kept.spaces.contains_key(&space) {
                    self.take_id();
                }
                space
            }
        };
        self.kept.spaces.entry(space.clone()).or_default();
        self.kept.streams.insert(
            id,
            Rc::new(Stream {
                id,
                name,
                level: config.durability.unwrap_or(self.level),
                space,
                defined: false,
                groups: (config.group.iter())
                    .map(|group| Self::new_group(id, "", group.clone(), 1))
                    .collect(),
                pause: None,
                pauses: 0,
                config: config.clone(),
                messages: Default::default(),
                expiry: Default::default(),
                expiry_timer: None,
                age_timer: None,
                producers: 0,
                consumers: 0,
                appended: 0,
                removed: 0,
                readers: Vec::new(),
            }),
        );
        Ok(id)
    }

    pub(super) fn open(
        &mut self,
        key: usize,
        link: u32,
        name: StreamName,
        create: Option<&StreamConfig>,
        role: Role,
    ) -> Outcome {
        let stream = match (self.find(&name), create) {
            (Some(stream), Some(wanted))
                if wanted.numbering != self.kept.streams[&stream].config.numbering =>
            {
                return Err(Refusal::Exists);
            }
            (Some(stream), _) => stream,
            (None, Some(config)) => self.create(name, config)?,
            (None, None) => return Ok(Reply::NotFound),
        };
        if let Some(state) = self.stream_mut(stream) {
            match role {
                Role::Producer => state.producers += 1,
                Role::Consumer => state.consumers += 1,
            }
        }
        if let Some((old, role)) = self.sessions[key].links.insert(link, (stream, role)) {
            self.link_closed(old, role);
        }
        Ok(Reply::Opened {
            stream: StreamId(stream),
        })
    }

    pub(super) fn link_closed(&mut self, stream: u64, role: Role) {
        if let Some(state) = self.stream_mut(stream) {
            match role {
                Role::Producer => state.producers -= 1,
                Role::Consumer => state.consumers -= 1,
            }
        }
        self.drop_if_idle(stream);
    }

    pub(super) fn drop_if_idle(&mut self, stream: u64) {
        let idle = self.stream(stream).is_some_and(|s| {
            s.config.auto_delete
                && s.messages.is_empty()
                && s.producers + s.consumers == 0
                && s.readers.is_empty()
        });
        if idle {
            self.forget(stream);
        }
    }

    fn forget(&mut self, stream: u64) {
        let Some(state) = self.kept.streams.remove(&stream) else {
            return;
        };
        self.stop_timer(state.expiry_timer.map(|alarm| alarm.1));
        self.stop_timer(state.age_timer.map(|alarm| alarm.1));
        for group in &state.groups {
            self.stop_timer(group.delay_timer.map(|alarm| alarm.1));
            self.stop_timer(group.pause.and_then(|pause| pause.timer));
        }
        self.stop_timer(state.pause.and_then(|pause| pause.timer));
        if let Space::Own(_) = state.space {
            self.kept.spaces.remove(&state.space);
        }
    }

    pub(super) fn define(&mut self, name: StreamName, config: &StreamConfig) -> Outcome {
        let stream = match self.find(&name) {
            Some(stream) if self.kept.streams[&stream].config != *config => {
                return Err(Refusal::Exists);
            }
            Some(stream) => stream,
            None => self.create(name, config)?,
        };
        self.set_defined(stream);
        Ok(Reply::Done)
    }

    fn set_defined(&mut self, stream: u64) {
        if let Some(state) = self.stream_mut(stream) {
            state.defined |= state.level != Durability::Memory;
        }
    }

    pub(super) fn delete(&mut self, stream: u64, told: &mut Told) {
        let held: Vec<u64> = self
            .holds
            .iter()
            .filter(|(_, h)| h.stream == stream)
            .map(|(key, _)| *key)
            .collect();
        let holders = self.let_go_all(held);
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.sessions[key].links.retain(|_, link| link.0 != stream);
            self.cancel(key, &|source| source.0 == stream, stream, told);
        }
        let readers = self
            .stream_mut(stream)
            .map(|s| std::mem::take(&mut s.readers))
            .unwrap_or_default();
        for key in readers {
            self.end_wait(key, Reply::NotFound, told);
        }
        self.forget(stream);
        for (key, tag) in holders {
            self.refill(key, tag, told);
        }
    }

    /// Takes groups away from a session's consumers.
    fn cancel(
        &mut self,
        key: usize,
        gone: &dyn Fn((u64, u64)) -> bool,
        stream: u64,
        told: &mut Told,
    ) {
        for at in 0..self.sessions[key].consumers.len() {
            if !self.sessions[key].consumers[at]
                .sources
                .iter()
                .any(|&source| gone(source))
            {
                continue;
            }
            let waited = self.stop_queueing(key, at);
            let consumer = &mut self.sessions[key].consumers[at];
            consumer.sources.retain(|&source| !gone(source));
            let (tag, has_sources) = (consumer.tag, !consumer.sources.is_empty());
            if waited && has_sources {
                self.start_queueing(key, at);
            } else if !has_sources && self.takes(key, tag) {
                self.end_wait(key, Reply::NotFound, told);
            }
            self.tell(
                key,
                Effect::Cancelled {
                    consumer: tag,
                    stream: StreamId(stream),
                },
                told,
            );
        }
        self.forget_idle(key);
    }

    pub(super) fn locate(&self, stream: &StreamName, start: Start) -> Reply {
        match self.find(stream) {
            Some(stream) => Reply::Located(Seq(self.start_of(stream, start))),
            None => Reply::NotFound,
        }
    }

    /// The number from which a group or a reader gets messages.
    fn start_of(&self, stream: u64, start: Start) -> u64 {
        let state = &self.kept.streams[&stream];
        let last = self.kept.spaces[&state.space].given;
        match start {
            Start::First => 1,
            Start::Last => last.max(1),
            Start::Backlog if state.groups.is_empty() => 1,
            Start::Next | Start::Backlog => last + 1,
            Start::At(seq) => seq.0.max(1),
            Start::Since(when) => state
                .messages
                .iter()
                .find(|(_, m)| m.created >= when.0)
                .map_or(last + 1, |(seq, _)| *seq),
        }
    }

    pub(super) fn define_group(
        &mut self,
        stream: &StreamName,
        name: &str,
        config: &GroupConfig,
    ) -> Outcome {
        let Some(stream) = self.find(stream) else {
            return Ok(Reply::NotFound);
        };
        let state = &self.kept.streams[&stream];
        if let Space::Shared(_) = state.space {
            return Err(Refusal::Unsupported(""));
        }
        if let Some(group) = state.groups.iter().find(|g| g.name == name) {
            return if group.config == *config {
                Ok(Reply::Done)
            } else {
                Err(Refusal::Exists)
            };
        }
        let from = self.start_of(stream, config.start);
        self.set_defined(stream);
        let id = self.take_id();
        let mut group = Self::new_group(id, name, config.clone(), from);
        let state = &self.kept.streams[&stream];
        for (&seq, message) in state.messages.range(from..) {
            group.messages.insert(seq, fresh(message, self.now));
        }
        let state = self
            .kept
            .streams
            .get_mut(&stream)
            .map(Rc::make_mut)
            .expect("found");
        let first = state.groups.is_empty();
        if name.is_empty() {
            state.config.group = Some(config.clone());
            state.groups.insert(0, group);
        } else {
            state.groups.push(group);
        }
        self.set_delay_alarm(stream, id);
        if first {
            let before: Vec<u64> = self.kept.streams[&stream]
                .messages
                .range(..from)
                .map(|(seq, _)| *seq)
                .collect();
            for seq in before {
                self.remove_unwanted(stream, seq);
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn delete_group(
        &mut self,
        stream: &StreamName,
        name: &str,
        told: &mut Told,
    ) -> Outcome {
        let Some(stream) = self.find(stream) else {
            return Ok(Reply::NotFound);
        };
        if let Space::Shared(_) = self.kept.streams[&stream].space {
            return Err(Refusal::Unsupported(""));
        }
        let found = self.kept.streams[&stream]
            .groups
            .iter()
            .position(|g| g.name == name);
        let Some(at) = found else {
            return Ok(Reply::NotFound);
        };
        let id = self.kept.streams[&stream].groups[at].id;
        let held: Vec<u64> = self
            .holds
            .iter()
            .filter(|(_, h)| h.group == id)
            .map(|(key, _)| *key)
            .collect();
        let holders = self.let_go_all(held);
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.cancel(key, &|source| source == (stream, id), stream, told);
        }
        let gone = self
            .kept
            .streams
            .get_mut(&stream)
            .map(Rc::make_mut)
            .expect("found")
            .groups
            .remove(at);
        if name.is_empty() {
            self.stream_mut(stream).expect("found").config.group = None;
        }
        self.stop_timer(gone.delay_timer.map(|alarm| alarm.1));
        self.stop_timer(gone.pause.and_then(|pause| pause.timer));
        let seqs: Vec<u64> = self.kept.streams[&stream]
            .messages
            .keys()
            .copied()
            .collect();
        for seq in seqs {
            self.remove_unwanted(stream, seq);
        }
        for (key, tag) in holders {
            self.refill(key, tag, told);
        }
        self.drop_if_idle(stream);
        Ok(Reply::Done)
    }

    pub(super) fn remove_unwanted(&mut self, stream: u64, seq: u64) {
        let Some(state) = self.stream_mut(stream) else {
            return;
        };
        let may_go = match state.config.keep {
            Keep::UntilSettled => !state.groups.is_empty(),
            Keep::Interest => true,
            Keep::UntilLimit => false,
        };
        if may_go && !state.groups.iter().any(|g| g.messages.contains_key(&seq)) {
            self.remove(stream, seq);
        }
    }

    /// A message leaves its stream, whatever the groups think of it.
    pub(super) fn remove(&mut self, stream: u64, seq: u64) {
        let holds: Vec<u64> = self
            .holds
            .iter()
            .filter(|(_, h)| h.stream == stream && h.seq == seq)
            .map(|(key, _)| *key)
            .collect();
        for hold in holds {
            self.let_go(hold);
        }
        let Some(state) = self.stream_mut(stream) else {
            return;
        };
        for group in &mut state.groups {
            group.messages.remove(&seq);
        }
        if let Some(message) = state.messages.remove(&seq)
            && let Some(expires) = message.expires
        {
            state.expiry.remove(&(expires, seq));
        }
    }

    pub(super) fn remove_one(
        &mut self,
        key: usize,
        stream: Target,
        seq: u64,
        told: &mut Told,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        if !self.kept.streams[&stream].messages.contains_key(&seq) {
            return Ok(Reply::NotFound);
        }
        let holders = self.holders(stream, seq);
        self.remove(stream, seq);
        self.stream_mut(stream).expect("found").removed += 1;
        self.mark();
        for (key, tag) in holders {
            self.refill(key, tag, told);
        }
        self.drop_if_idle(stream);
        Ok(Reply::Done)
    }

    pub(super) fn holders(&self, stream: u64, seq: u64) -> BTreeSet<(usize, ConsumerTag)> {
        (self.holds.values())
            .filter(|h| h.stream == stream && h.seq == seq)
            .map(|h| (h.session, h.consumer))
            .collect()
    }

    pub(super) fn is_held(&self, stream: u64, seq: u64) -> bool {
        self.holds
            .values()
            .any(|h| h.stream == stream && h.seq == seq)
    }

    pub(super) fn publish(
        &mut self,
        key: usize,
        to: Target,
        also: &[StreamId],
        message: &NewMessage,
        told: &mut Told,
    ) -> Outcome {
        let first = self.target(key, to)?;
        let also: Vec<u64> = also.iter().map(|id| id.0).collect();
        let fleeting = message.expires_ms == Some(0);
        let message = self.new_message(message);
        let (seq, refused) = self.append(first, &also, &message, fleeting, told)?;
        Ok(Reply::Published {
            seq: Seq(seq),
            position: Lsn::ZERO,
            refused: (!refused.is_empty()).then(|| refused.into_boxed_slice()),
        })
    }

    pub(super) fn offer(
        &mut self,
        key: usize,
        to: Target,
        also: &[StreamId],
        message: &NewMessage,
        told: &mut Told,
    ) -> Outcome {
        let first = self.target(key, to)?;
        let mut all = std::iter::once(first).chain(also.iter().map(|id| id.0));
        if message.delay_ms > 0 || !all.any(|stream| self.has_taker(stream)) {
            return Ok(Reply::NotFound);
        }
        self.publish(key, to, also, message, told)
    }

    /// Whether somebody would be given the next message of a stream as soon as it is there.
    fn has_taker(&self, stream: u64) -> bool {
        let Some(state) = self.stream(stream) else {
            return false;
        };
        let next = self.kept.spaces[&state.space].given + 1;
        let reads = |key: &usize| {
            let blocked = self.sessions.get(*key).and_then(|s| s.blocked.as_ref());
            matches!(blocked, Some(Blocked::Read { from, .. }) if *from <= next)
        };
        let draws = |group: &Group| {
            !group.waiters.is_empty()
                && !self.is_paused(stream, group)
                && group.from <= next
                && group.head().is_none()
        };
        state.readers.iter().any(reads) || state.groups.iter().any(draws)
    }

    pub(super) fn new_message(&self, message: &NewMessage) -> Message {
        Message {
            created: self.now,
            priority: message.priority.0,
            delay_ms: message.delay_ms,
            ack_timeout_ms: message.ack_timeout_ms,
            expires: message.expires_ms.map(|ms| self.now + ms),
            shown: Shown {
                subject: message.subject.clone(),
                id: message.id.clone(),
                key: message.key,
                headers: message.headers.len(),
                body: message.payload.clone(),
            },
            copy_of: None,
            through: Vec::new(),
        }
    }

    pub(super) fn append(
        &mut self,
        first: u64,
        also: &[u64],
        message: &Message,
        fleeting: bool,
        told: &mut Told,
    ) -> Result<(u64, Vec<(StreamId, Cause)>), Refusal> {
        let (targets, evicted, refused) = self.make_way(first, also, message.bytes(), told)?;
        self.count_lost(&evicted);
        for (stream, seq) in evicted {
            self.remove(stream, seq);
        }
        let (seq, kept) = self.place(&targets, message);
        self.mark();
        self.show(&kept, fleeting, told);
        let seq = if targets.first() == Some(&first) {
            seq
        } else {
            0
        };
        Ok((seq, refused))
    }

    /// Where a message goes, where it stays, what it pushes out, and where it cannot go.
    #[allow(clippy::type_complexity)]
    pub(super) fn targets_of(
        &self,
        first: u64,
        also: &[u64],
        bytes: u64,
    ) -> Result<(Vec<u64>, Vec<u64>, Vec<(u64, u64)>, Vec<(StreamId, Cause)>), Refusal> {
        let (mut targets, mut kept): (Vec<u64>, Vec<u64>) = Default::default();
        let (mut evicted, mut refused) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for &stream in std::iter::once(&first).chain(also) {
            if seen.insert(stream) {
                if !self.kept.streams.contains_key(&stream) {
                    refused.push((StreamId(stream), Cause::Gone));
                    continue;
                }
                let state = &self.kept.streams[&stream];
                let given = targets
                    .iter()
                    .filter(|known| self.kept.streams[known].space == state.space)
                    .count() as u64;
                let seq = self.kept.spaces[&state.space].given + given + 1;
                if !stays(state, seq) {
                    targets.push(stream);
                    continue;
                }
                let before = evicted.len();
                if self
                    .make_room(stream, bytes, &[], &BTreeSet::new(), &mut evicted)
                    .is_err()
                {
                    evicted.truncate(before);
                    refused.push((StreamId(stream), Cause::Full));
                    continue;
                }
                targets.push(stream);
                kept.push(stream);
            }
        }
        match refused.first() {
            Some((_, Cause::Gone)) if targets.is_empty() => Err(Refusal::UnknownLink),
            Some((_, Cause::Full)) if targets.is_empty() => Err(limit()),
            _ => Ok((targets, kept, evicted, refused)),
        }
    }

    /// Gives a message its place in every stream; returns its number in the first, and where it stays.
    pub(super) fn place(&mut self, targets: &[u64], message: &Message) -> (u64, Vec<u64>) {
        let (mut seqs, mut kept) = (Vec::new(), Vec::new());
        for &stream in targets {
            let state = self
                .kept
                .streams
                .get_mut(&stream)
                .map(Rc::make_mut)
                .expect("checked");
            let last = self
                .kept
                .spaces
                .get_mut(&state.space)
                .expect("every stream has a space");
            last.given += 1;
            if state.level != Durability::Memory {
                last.logged = last.given;
                state.defined = true;
            }
            let seq = last.given;
            seqs.push(seq);
            if !stays(state, seq) {
                continue;
            }
            kept.push(stream);
            state.appended += 1;
            state.messages.insert(seq, message.clone());
            self.bodies.insert((stream, seq), message.shown.clone());
            let standing = fresh(message, self.now);
            for group in state.groups.iter_mut().filter(|g| seq >= g.from) {
                group.messages.insert(seq, standing.clone());
            }
            if let Some(expires) = message.expires {
                state.expiry.insert((expires, seq), ());
            }
            if let Place::Delayed(_) = standing.now.place {
                let groups: Vec<u64> = self.kept.streams[&stream]
                    .groups
                    .iter()
                    .map(|g| g.id)
                    .collect();
                for group in groups {
                    self.set_delay_alarm(stream, group);
                }
            }
            if let Some(expires) = message.expires {
                self.look_at_expiry(stream, expires);
            }
            self.set_age_alarm(stream, message.created);
        }
        (seqs[0], kept)
    }

    pub(super) fn show(&mut self, targets: &[u64], fleeting: bool, told: &mut Told) {
        for &stream in targets {
            let groups: Vec<u64> = self
                .stream(stream)
                .map(|s| s.groups.iter().map(|g| g.id).collect())
                .unwrap_or_default();
            for group in groups {
                self.dispatch(stream, group, told);
            }
            self.wake_readers(stream, told);
            let own = self.stream(stream).and_then(|s| s.config.expires_ms);
            if fleeting || own == Some(0) {
                self.fleeting.push(stream);
            }
            self.crowd(stream);
        }
    }

    /// `added`: bytes of what comes before it in the same step; nothing of that goes, nor anything `spared`.
    pub(super) fn make_room(
        &self,
        stream: u64,
        bytes: u64,
        added: &[u64],
        spared: &BTreeSet<(u64, u64)>,
        evicted: &mut Vec<(u64, u64)>,
    ) -> Result<(), Refusal> {
        let state = &self.kept.streams[&stream];
        if makes_room_later(state) {
            return Ok(());
        }
        let limits = state.config.limits;
        let over = |messages: u64, held: u64| {
            (limits.max_messages > 0 && messages + 1 > limits.max_messages)
                || (limits.max_bytes > 0 && held + bytes > limits.max_bytes)
        };
        let left = (state.messages.iter())
            .filter(|(seq, _)| !evicted.contains(&(stream, **seq)))
            .collect::<Vec<_>>();
        let default = state.groups.iter().find(|g| g.name.is_empty());
        let default = default.map(|g| g.id);
        let counts = |seq: u64| {
            let has =
                |h: &super::Hold| (h.stream, h.seq) == (stream, seq) && Some(h.group) == default;
            limits.of == Counted::All || !self.holds.values().any(has)
        };
        let counted: Vec<u64> = (left.iter())
            .filter(|(seq, _)| counts(**seq))
            .map(|(_, m)| m.bytes())
            .chain(added.iter().copied())
            .collect();
        let mut messages = counted.len() as u64;
        let mut held: u64 = counted.iter().sum();
        for (&seq, message) in left {
            if !over(messages, held) {
                break;
            }
            if state.config.overflow == Overflow::RefuseNew {
                return Err(limit());
            }
            if !self.is_held(stream, seq) && !spared.contains(&(stream, seq)) {
                evicted.push((stream, seq));
                messages -= 1;
                held -= message.bytes();
            }
        }
        if over(messages, held) {
            Err(limit())
        } else {
            Ok(())
        }
    }

    pub(super) fn purge(
        &mut self,
        name: &StreamName,
        group: Option<&str>,
        held: bool,
        told: &mut Told,
    ) -> Reply {
        let Some(stream) = self.find(name) else {
            return Reply::NotFound;
        };
        let before: Vec<(u64, usize, ConsumerTag)> = (self.holds.iter())
            .map(|(hold, h)| (*hold, h.session, h.consumer))
            .collect();
        let state = &self.kept.streams[&stream];
        let mut removed = 0;
        match group {
            None => {
                let seqs: Vec<u64> = state.messages.keys().copied().collect();
                for seq in seqs {
                    if held || !self.is_held(stream, seq) {
                        self.remove(stream, seq);
                        removed += 1;
                    }
                }
            }
            Some(group) => {
                let Some(group) = state.groups.iter().find(|g| g.name == group) else {
                    return Reply::NotFound;
                };
                let (id, standings) = (group.id, group.messages.clone());
                for (seq, standing) in standings {
                    if let Place::Held(hold) = standing.now.place {
                        if !held {
                            continue;
                        }
                        self.let_go(hold);
                    }
                    if let Some(group) = self.group_mut(stream, id) {
                        group.messages.remove(&seq);
                    }
                    self.remove_unwanted(stream, seq);
                    removed += 1;
                }
            }
        }
        self.mark();
        if let Some(stream) = self.stream_mut(stream) {
            stream.removed += removed;
        }
        let groups: Vec<u64> = self.kept.streams[&stream]
            .groups
            .iter()
            .map(|g| g.id)
            .collect();
        for group in groups {
            self.set_delay_alarm(stream, group);
        }
        let lost: BTreeSet<_> = (before.into_iter())
            .filter(|(hold, ..)| !self.holds.contains_key(hold))
            .map(|(_, key, tag)| (key, tag))
            .collect();
        for (key, tag) in lost {
            self.refill(key, tag, told);
        }
        self.drop_if_idle(stream);
        Reply::Count(removed)
    }

    pub(super) fn pause(
        &mut self,
        name: &StreamName,
        group: Option<&str>,
        until: Until,
        durable: bool,
        told: &mut Told,
    ) -> Reply {
        let Some(stream) = self.find(name) else {
            return Reply::NotFound;
        };
        let groups = &self.kept.streams[&stream].groups;
        let group = match group {
            None => None,
            Some(name) => match groups.iter().find(|g| g.name == name) {
                None => return Reply::NotFound,
                Some(group) => Some(group.id),
            },
        };
        let pause = match until {
            Until::Now | Until::Millis(0) => None,
            Until::Millis(ms) => Some((self.now + ms, ms)),
            Until::Forever => Some((u64::MAX, u64::MAX)),
        };
        if group.is_none() {
            self.stream_mut(stream).expect("found").pauses += 1;
        }
        let old = self.pause_slot(stream, group).take();
        if durable || old.is_some_and(|pause| pause.durable) {
            self.set_defined(stream);
        }
        self.stop_timer(old.and_then(|pause| pause.timer));
        match pause {
            None => self.resume(stream, group, told),
            Some((end, length_ms)) => {
                *self.pause_slot(stream, group) = Some(Pause {
                    end,
                    length_ms,
                    durable,
                    timer: None,
                });
                self.set_pause_timer(stream, group);
            }
        }
        Reply::Done
    }

    fn pause_slot(&mut self, stream: u64, group: Option<u64>) -> &mut Option<Pause> {
        match group {
            None => &mut self.stream_mut(stream).expect("there").pause,
            Some(group) => &mut self.group_mut(stream, group).expect("there").pause,
        }
    }

    pub(super) fn set_pause_timer(&mut self, stream: u64, group: Option<u64>) {
        if let Some(pause) = *self.pause_slot(stream, group)
            && pause.end != u64::MAX
        {
            let timer = self.set_timer(pause.end, Timer::Pause(stream, group));
            *self.pause_slot(stream, group) = Some(Pause {
                timer: Some(timer),
                ..pause
            });
        }
    }

    pub(super) fn end_pause(&mut self, stream: u64, group: Option<u64>, told: &mut Told) {
        *self.pause_slot(stream, group) = None;
        self.resume(stream, group, told);
    }

    fn resume(&mut self, stream: u64, group: Option<u64>, told: &mut Told) {
        let groups: Vec<u64> = match group {
            Some(group) => vec![group],
            None => (self.kept.streams[&stream].groups.iter())
                .map(|g| g.id)
                .collect(),
        };
        for group in groups {
            self.dispatch(stream, group, told);
        }
    }

    pub(super) fn peek(&self, key: usize, handle: Handle) -> Outcome {
        let found = self
            .name(key, handle)?
            .filter(|at| self.kept.streams[&at.stream].messages.contains_key(&at.seq));
        Ok(found.map_or(Reply::NotFound, |at| peeked(at.seq)))
    }

    pub(super) fn peek_head(
        &self,
        key: usize,
        stream: Target,
        group: &str,
        which: Which,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        let groups = &self.kept.streams[&stream].groups;
        let Some(group) = groups.iter().find(|g| g.name == group) else {
            return Ok(Reply::NotFound);
        };
        let seq = match which {
            Which::Ready => group.head().map(|head| head.1),
            Which::Delayed => group.first_delayed().map(|(_, seq)| seq),
            Which::Parked => group.first_parked(),
        };
        Ok(seq.map_or(Reply::NotFound, peeked))
    }

    #[allow(clippy::too_many_arguments, reason = "a command's fields")]
    pub(super) fn read(
        &mut self,
        key: usize,
        token: u64,
        name: &StreamName,
        from: u64,
        (max, max_bytes): (u32, u64),
        wait: Wait,
        told: &mut Told,
    ) {
        let Some(stream) = self.find(name) else {
            return self.tell(key, Effect::Reply(token, Reply::NotFound), told);
        };
        let (messages, next) = self.collect(stream, from, max, max_bytes);
        let timeout = match wait {
            Wait::Millis(ms) if messages.is_empty() => {
                Some(self.set_timer(self.now + ms, Timer::Take(key)))
            }
            Wait::Forever if messages.is_empty() => None,
            _ => {
                let reply = Reply::Batch {
                    messages,
                    next: Seq(next),
                };
                return self.tell(key, Effect::Reply(token, reply), told);
            }
        };
        self.sessions[key].blocked = Some(Blocked::Read {
            token,
            stream,
            from: next,
            max,
            max_bytes,
            timeout,
        });
        self.stream_mut(stream).expect("found").readers.push(key);
    }

    fn collect(&self, stream: u64, from: u64, max: u32, max_bytes: u64) -> (Vec<(Seq, Lsn)>, u64) {
        let space = &self.kept.streams[&stream].space;
        let mut all: Vec<(u64, u64, u64)> = Vec::new();
        for state in self.kept.streams.values().filter(|s| s.space == *space) {
            all.extend(
                state
                    .messages
                    .iter()
                    .map(|(seq, m)| (*seq, state.id, m.bytes())),
            );
        }
        all.sort_unstable();
        let mut next = from.max(1);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for (seq, owner, size) in all.into_iter().filter(|entry| entry.0 >= from) {
            if messages.len() >= max.max(1) as usize {
                break;
            }
            if owner == stream {
                bytes += size;
                if !messages.is_empty() && bytes > max_bytes {
                    break;
                }
                messages.push((Seq(seq), Lsn::ZERO));
            }
            next = seq + 1;
        }
        (messages, next)
    }

    fn wake_readers(&mut self, stream: u64, told: &mut Told) {
        let Some(state) = self.stream_mut(stream) else {
            return;
        };
        for key in std::mem::take(&mut state.readers) {
            let Some(Blocked::Read {
                from,
                max,
                max_bytes,
                ..
            }) = self.sessions.get(key).and_then(|s| s.blocked.clone())
            else {
                continue;
            };
            let (messages, next) = self.collect(stream, from, max, max_bytes);
            if messages.is_empty() {
                self.stream_mut(stream).expect("there").readers.push(key);
            } else {
                self.end_wait(
                    key,
                    Reply::Batch {
                        messages,
                        next: Seq(next),
                    },
                    told,
                );
            }
        }
    }

    pub(super) fn describe_message(&self, key: usize, handle: Handle) -> Outcome {
        let Some(at) = self.resolve(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        let standing = self.standing(at).expect("resolved");
        let stream = &self.kept.streams[&at.stream];
        let message = &stream.messages[&at.seq];
        let (state, due) = match standing.now.place {
            Place::Ready => (MessageState::Ready, None),
            Place::Delayed(due) => (MessageState::Delayed, Some(due)),
            Place::Parked(_) => (MessageState::Parked, None),
            Place::Held(hold) => (MessageState::Held, self.holds[&hold].deadline),
        };
        Ok(Reply::MessageInfo(Box::new(MessageInfo {
            seq: Seq(at.seq),
            stream: stream.name.clone(),
            state,
            priority: Priority(standing.now.priority),
            created: Timestamp(message.created),
            due: due.map(Timestamp),
            delay_ms: standing.now.delay_ms,
            ack_timeout_ms: message.ack_timeout_ms,
            counts: standing.now.counts,
            mark: standing.now.mark,
            bytes: message.bytes(),
            position: Lsn::ZERO,
        })))
    }

    pub fn describe_stream(&self, name: &StreamName) -> Reply {
        let Some(stream) = self.find(name) else {
            return Reply::NotFound;
        };
        Reply::StreamInfo(Box::new(self.stream_info(stream)))
    }

    pub(super) fn describe_streams(
        &self,
        space: Option<&str>,
        after: Option<StreamId>,
        limit: usize,
    ) -> Reply {
        let later = self
            .kept
            .streams
            .keys()
            .filter(|id| after.is_none_or(|after| **id > after.0));
        let (mut streams, mut next) = (Vec::new(), None);
        for &id in later {
            if streams.len() == limit {
                return Reply::StreamPage { streams, next };
            }
            next = Some(StreamId(id));
            let name = &self.kept.streams[&id].name;
            if space.is_none_or(|space| *name.space == *space) {
                streams.push((name.clone(), self.stream_info(id)));
            }
        }
        Reply::StreamPage {
            streams,
            next: None,
        }
    }

    fn stream_info(&self, stream: u64) -> StreamInfo {
        let state = &self.kept.streams[&stream];
        let group = state.groups.iter().find(|g| g.name.is_empty());
        let counted = group.map_or([0; 4], Group::counted);
        let next = self.kept.spaces[&state.space].given + 1;
        // Of all streams that share the numbers.
        let lowest = self
            .kept
            .streams
            .values()
            .filter(|other| other.space == state.space && !state.messages.is_empty())
            .filter_map(|other| other.messages.keys().next().copied())
            .min();
        StreamInfo {
            stream: StreamId(stream),
            messages: state.messages.len() as u64,
            bytes: state.messages.values().map(Message::bytes).sum(),
            ready: counted[0],
            urgent: group.map_or(0, |group| {
                group
                    .messages
                    .values()
                    .filter(|s| s.now.place == Place::Ready && group.key(s.now.priority) < 1024)
                    .count() as u64
            }),
            held: counted[1],
            delayed: counted[2],
            parked: counted[3],
            appended: state.appended,
            removed: state.removed,
            pauses: state.pauses,
            producers: state.producers,
            consumers: state.consumers,
            waiting: group.map_or(0, |g| g.waiters.len() as u64),
            // The schedule has no such dispatch.
            served: None,
            pause_ms: state.pause.map_or(0, |pause| pause.length_ms),
            pause_left_ms: state.pause.map_or(0, |pause| pause.left_ms(self.now)),
            first: Seq(lowest.unwrap_or(next)),
            next: Seq(next),
            durability: state.level,
            index_bytes: 0,
        }
    }

    pub fn describe_groups(&self, name: &StreamName) -> Reply {
        let Some(stream) = self.find(name) else {
            return Reply::NotFound;
        };
        let mut groups: Vec<GroupInfo> = self.kept.streams[&stream]
            .groups
            .iter()
            .map(|group| {
                let [ready, held, delayed, parked] = group.counted();
                GroupInfo {
                    group: GroupId(group.id),
                    name: group.name.as_str().into(),
                    ready,
                    held,
                    delayed,
                    parked,
                    waiting: group.waiters.len() as u64,
                    pause_left_ms: group.pause.map_or(0, |pause| pause.left_ms(self.now)),
                }
            })
            .collect();
        // Added groups come in any order.
        groups.sort_by_key(|group| (!group.name.is_empty(), group.group));
        Reply::Groups(groups)
    }
}

impl Stream {
    /// Whether there is nothing but what is held and nowhere else.
    pub(super) fn has_only_held(&self) -> bool {
        let others = |group: &Group| {
            let [ready, _, delayed, parked] = group.counted();
            ready + delayed + parked > 0
        };
        self.messages.is_empty()
            || (self.config.keep != Keep::UntilLimit
                && !self.groups.is_empty()
                && !self.groups.iter().any(others))
    }
}

impl Group {
    pub fn key(&self, priority: u32) -> u64 {
        match self.config.order {
            Order::Sequence => 0,
            Order::Priority => u64::from(priority),
        }
    }

    /// The best ready message.
    pub fn head(&self) -> Option<(u64, u64)> {
        self.messages
            .iter()
            .filter(|(_, s)| s.now.place == Place::Ready)
            .map(|(seq, s)| (self.key(s.now.priority), *seq))
            .min()
    }

    pub fn first_delayed(&self) -> Option<(u64, u64)> {
        let due = |(seq, s): (&u64, &Standing)| match s.now.place {
            Place::Delayed(due) => Some((due, *seq)),
            _ => None,
        };
        self.messages.iter().filter_map(due).min()
    }

    pub fn first_parked(&self) -> Option<u64> {
        let ticket = |(seq, s): (&u64, &Standing)| match s.now.place {
            Place::Parked(ticket) => Some((ticket, *seq)),
            _ => None,
        };
        self.messages
            .iter()
            .filter_map(ticket)
            .min()
            .map(|(_, seq)| seq)
    }

    /// Ready, held, delayed, parked.
    pub fn counted(&self) -> [u64; 4] {
        let mut counted = [0; 4];
        for standing in self.messages.values() {
            counted[match standing.now.place {
                Place::Ready => 0,
                Place::Held(_) => 1,
                Place::Delayed(_) => 2,
                Place::Parked(_) => 3,
            }] += 1;
        }
        counted
    }
}

pub(super) fn peeked(seq: u64) -> Reply {
    Reply::Peeked {
        seq: Seq(seq),
        position: Lsn::ZERO,
    }
}

/// Whether a message of this number stays in the stream.
pub(super) fn stays(stream: &Stream, seq: u64) -> bool {
    let wanted = stream.groups.iter().any(|g| seq >= g.from);
    match stream.config.keep {
        Keep::UntilLimit => true,
        Keep::UntilSettled => wanted || stream.groups.is_empty(),
        Keep::Interest => wanted,
    }
}

/// How a message stands in a group that has not seen it yet.
fn fresh(message: &Message, now: u64) -> Standing {
    let due = message.created + message.delay_ms;
    let logged = Logged {
        place: if due > now {
            Place::Delayed(due)
        } else {
            Place::Ready
        },
        priority: message.priority,
        delay_ms: message.delay_ms,
        counts: Counts::default(),
        mark: 0,
    };
    Standing {
        now: logged,
        logged: vec![logged],
    }
}
