//! Publishing: one record, one body, however many streams it goes to.

use std::sync::Arc;

use longtail_log::{Body, RecordParts};
use longtail_model::{Durability, Lsn, Seq, StreamId, Timestamp};
use smallvec::{SmallVec, smallvec};

use super::session::Blocked;
use super::{Head, Outcome, Shard, now_reply};
use crate::budget::Holding;
use crate::command::{NewMessage, Target};
use crate::config::{Counted, Overflow};
use crate::effect::{Cause, Effects, Gate, Refusal, Reply};
use crate::event;
use crate::message::Message;
use crate::stream::{SessionKey, Stream};

/// Refuses a message whose subject or id is too long.
pub(crate) fn check_texts(message: &NewMessage) -> Result<(), Refusal> {
    for (what, text) in [("subject", &message.subject), ("id", &message.id)] {
        if text.len() > NewMessage::TEXT_MAX {
            return Err(Refusal::TooLarge(format!(
                "a {what} of {} bytes; at most {} are taken",
                text.len(),
                NewMessage::TEXT_MAX
            )));
        }
    }
    Ok(())
}

/// A message as its record has it.
pub(crate) fn record_of(message: &NewMessage, created: Timestamp) -> Message<'_> {
    Message {
        created,
        priority: message.priority,
        delay_ms: message.delay_ms,
        ack_timeout_ms: message.ack_timeout_ms,
        expires: message
            .expires_ms
            .map_or(Timestamp::NEVER, |ms| created.plus_millis(ms)),
        subject: &message.subject,
        id: &message.id,
        key: message.key,
        headers: &message.headers,
        payload: &message.payload,
        shared: Some(&message.payload),
    }
}

/// What there is to know of a message that is about to be appended.
pub(crate) fn head_of(stream: StreamId, record: &Message<'_>, bytes: u64) -> Head {
    Head {
        stream,
        created: record.created,
        priority: record.priority.0,
        delay_ms: record.delay_ms,
        ack_timeout_ms: record.ack_timeout_ms,
        expires: record.expires,
        bytes,
    }
}

/// What makes room for something new.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evictions {
    /// Stream, number and bytes.
    pub(crate) gone: Vec<(StreamId, Seq, u64)>,
    /// What is older than some of these and stays.
    pub(crate) passed: Vec<(StreamId, Seq)>,
}

impl Evictions {
    /// How much it has of both.
    fn len(&self) -> (usize, usize) {
        (self.gone.len(), self.passed.len())
    }

    /// Forgets what came after this.
    fn truncate(&mut self, gone: usize, passed: usize) {
        self.gone.truncate(gone);
        self.passed.truncate(passed);
    }
}

/// Where a message is about to go.
#[derive(Default)]
struct Targets {
    level: Durability,
    kept: SmallVec<[(StreamId, Seq); 2]>,
    /// Where nobody wants it.
    skipped: SmallVec<[(StreamId, Seq); 2]>,
    /// Where it cannot go.
    refused: Vec<(StreamId, Cause)>,
    evictions: Evictions,
}

/// How full a stream is while room is made in it for one message after the other.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    messages: u64,
    bytes: u64,
    /// What lies before this goes already, or must stay.
    from: Seq,
}

impl Room {
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn of(state: &Stream) -> Self {
        // What consumers have does not take part in a limit of what is ready.
        let (messages, bytes) = match (state.config.limits.of, state.groups.first()) {
            (Counted::Ready, Some(group)) => (u64::from(group.held), group.held_bytes),
            _ => (0, 0),
        };
        Room {
            messages: state.held.messages().saturating_sub(messages),
            bytes: state.held.bytes().saturating_sub(bytes),
            from: Seq::FIRST,
        }
    }

    /// A message is added.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }
}

impl Shard {
    pub(crate) fn publish(
        &mut self,
        key: SessionKey,
        to: Target,
        also: &[StreamId],
        message: &NewMessage,
        fx: &mut dyn Effects,
    ) -> Outcome {
        check_texts(message)?;
        let first = self.target(key, to)?;
        self.take_in(first, also, message, fx)
    }

    /// Appends what a client has published, if the space may hold it.
    fn take_in(
        &mut self,
        first: StreamId,
        also: &[StreamId],
        message: &NewMessage,
        fx: &mut dyn Effects,
    ) -> Outcome {
        self.check_budget(first, also, message.bytes())?;
        self.append(first, also, message, self.now, fx)
    }

    /// Publishes what somebody takes at once.
    pub(crate) fn offer(
        &mut self,
        key: SessionKey,
        to: Target,
        also: &[StreamId],
        message: &NewMessage,
        fx: &mut dyn Effects,
    ) -> Outcome {
        check_texts(message)?;
        let first = self.target(key, to)?;
        let wanted = message.delay_ms == 0
            && (std::iter::once(&first).chain(also)).any(|stream| self.has_taker(*stream, message));
        if !wanted {
            return now_reply(Reply::NotFound);
        }
        self.take_in(first, also, message, fx)
    }

    /// Whether somebody who waits at a stream would be given a message that is appended now.
    fn has_taker(&self, stream: StreamId, message: &NewMessage) -> bool {
        let Some(state) = self.streams.get(&stream) else {
            return false;
        };
        let next = self.last_in(state.index).next();
        let reads = |key: &SessionKey| {
            let session = self.sessions.get(*key);
            let blocked = session.and_then(|session| session.blocked.as_ref());
            matches!(blocked, Some(Blocked::Read { from, .. }) if *from <= next)
        };
        state.extra.readers.iter().any(reads)
            || (state.roster.waiting.iter())
                .any(|at| self.group_has_taker(stream, *at as usize, message))
    }

    /// Whether the space may hold one message more in each of these streams. What moves between them, as a dead letter
    /// does, is not asked.
    fn check_budget(
        &mut self,
        first: StreamId,
        also: &[StreamId],
        bytes: u64,
    ) -> Result<(), Refusal> {
        let Some(state) = self.streams.get(&first) else {
            return Ok(());
        };
        let budget = Arc::clone(state.held.budget());
        if !budget.is_limited() {
            return Ok(());
        }
        let mut freed = Holding::default();
        let mut evictions = Evictions::default();
        for stream in std::iter::once(&first).chain(also) {
            if let Some(state) = self.streams.get(stream)
                && state.config.overflow != Overflow::RefuseNew
            {
                let mut room = Room::of(state);
                // One that is full of what consumers hold refuses by itself, or says what else is wrong.
                let _ = self.make_room(*stream, &mut room, bytes, |_| false, &mut evictions);
            }
        }
        for (stream, _, bytes) in evictions.gone {
            if self.lays_off(stream) {
                // It moves to another stream.
                continue;
            }
            freed.messages += 1;
            freed.bytes += bytes;
        }
        let count = 1 + also.len() as u64;
        let more = Holding {
            streams: 0,
            messages: count,
            bytes: bytes.saturating_mul(count),
        };
        budget.admit(more, freed)
    }

    /// Where a message goes, once what it pushes out is laid off where that is to be dead-lettered.
    fn make_way(
        &mut self,
        first: StreamId,
        also: &[StreamId],
        bytes: u64,
        fx: &mut dyn Effects,
    ) -> Result<Targets, Refusal> {
        let mut targets = self.targets_of(first, also, bytes)?;
        if !(targets.evictions.gone.iter()).any(|&(stream, ..)| self.lays_off(stream)) {
            return Ok(targets);
        }
        let past: SmallVec<[StreamId; 2]> = targets.kept.iter().map(|target| target.0).collect();
        let mut undone = Vec::new();
        loop {
            let mut some = false;
            for &(stream, seq, _) in &targets.evictions.gone {
                if undone.contains(&(stream, seq))
                    || self.is_held(stream, seq)
                    || self.position(stream, seq)?.is_none()
                {
                    continue;
                }
                if self.lay_off_pushed(stream, seq, &past, fx)? {
                    some = true;
                } else {
                    undone.push((stream, seq));
                }
            }
            // Numbers were given, and consumers that were shown the copies may have taken what was to go next.
            targets = self.targets_of(first, also, bytes)?;
            if !some {
                return Ok(targets);
            }
        }
    }

    fn targets_of(
        &mut self,
        first: StreamId,
        also: &[StreamId],
        bytes: u64,
    ) -> Result<Targets, Refusal> {
        let mut targets = Targets {
            level: Durability::Memory,
            ..Targets::default()
        };
        let mut why = None;
        for &stream in std::iter::once(&first).chain(also) {
            let known = || targets.kept.iter().chain(&targets.skipped);
            if known().any(|&(known, _)| known == stream)
                || targets.refused.iter().any(|refused| refused.0 == stream)
            {
                continue;
            }
            let Some(state) = self.streams.get(&stream) else {
                targets.refused.push((stream, Cause::Gone));
                why.get_or_insert(Refusal::UnknownLink);
                continue;
            };
            let level = state.level;
            let given = known()
                .filter(|(known, _)| {
                    self.streams
                        .get(known)
                        .is_some_and(|known| known.index == state.index)
                })
                .count() as u64;
            let seq = Seq(self.last_in(state.index).0 + given + 1);
            if !state.keeps(seq) {
                targets.level = targets.level.max(level);
                targets.skipped.push((stream, seq));
                continue;
            }
            if state.config.limits.max_messages > 0 || state.config.limits.max_bytes > 0 {
                let mut room = Room::of(state);
                let (gone, passed) = targets.evictions.len();
                match self.make_room(stream, &mut room, bytes, |_| false, &mut targets.evictions) {
                    Ok(()) => {}
                    Err(full @ Refusal::Limit(_)) => {
                        targets.evictions.truncate(gone, passed);
                        targets.refused.push((stream, Cause::Full));
                        why.get_or_insert(full);
                        continue;
                    }
                    Err(failed) => return Err(failed),
                }
            }
            targets.level = targets.level.max(level);
            targets.kept.push((stream, seq));
        }
        match why {
            Some(why) if targets.kept.is_empty() && targets.skipped.is_empty() => Err(why),
            _ => Ok(targets),
        }
    }

    /// Appends a message to `first` and `also`, but for those that refuse it, makes room where a stream's overflow rule
    /// says so, and dispatches.
    pub(crate) fn append(
        &mut self,
        first: StreamId,
        also: &[StreamId],
        message: &NewMessage,
        created: Timestamp,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let bytes = message.bytes();
        let Targets {
            level,
            kept: targets,
            skipped,
            refused,
            evictions,
        } = self.make_way(first, also, bytes, fx)?;
        let lost = self.count_lost(&evictions);

        let record = record_of(message, created);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut cuts: SmallVec<[usize; 4]> = smallvec![];
        if level != Durability::Memory {
            for (stream, _) in targets.iter().chain(&skipped) {
                if self.put_definition(*stream, &mut scratch) {
                    cuts.push(scratch.len());
                }
            }
            self.put_evictions(&evictions, &mut scratch, |heads| cuts.push(heads.len()));
            for &(stream, seq) in &skipped {
                event::put_skipped(&mut scratch, stream, seq);
                cuts.push(scratch.len());
            }
        }
        // What is kept in memory has a record of its own there: a checkpoint knows nothing of it.
        let (durable, volatile): (SmallVec<[_; 2]>, SmallVec<[_; 2]>) =
            targets.iter().copied().partition(|(stream, _)| {
                self.streams
                    .get(stream)
                    .is_some_and(|state| state.level != Durability::Memory)
            });
        let before_end = scratch.len();
        let mut position_in_memory = None;
        if !volatile.is_empty() {
            event::put_append(&mut scratch, &volatile, &record);
            let parts = RecordParts {
                head: &scratch[before_end..],
                body: Body::Shared(&message.payload),
                retained: true,
            };
            let appended = self.logs.append_message(Durability::Memory, &[], parts);
            scratch.truncate(before_end);
            match appended {
                Ok((position, _)) => position_in_memory = Some(position),
                Err(refusal) => {
                    self.scratch = scratch;
                    return Err(refusal);
                }
            }
        }
        let mut before: SmallVec<[RecordParts<'_>; 4]> = smallvec![];
        let mut start = 0;
        if !durable.is_empty() {
            event::put_append(&mut scratch, &durable, &record);
        }
        for &cut in &cuts {
            before.push(RecordParts {
                head: &scratch[start..cut],
                body: Body::NONE,
                retained: false,
            });
            start = cut;
        }
        let parts = RecordParts {
            head: &scratch[before_end..],
            body: Body::Shared(&message.payload),
            retained: true,
        };
        let appended = if !durable.is_empty() {
            let appended = self.logs.append_message(level, &before, parts);
            appended.map(|(position, gate)| (Some(position), gate))
        } else if before.is_empty() {
            Ok((None, Gate::OPEN))
        } else {
            let heads: SmallVec<[&[u8]; 4]> = before.iter().map(|record| record.head).collect();
            self.logs.control(level, &heads).map(|gate| (None, gate))
        };
        drop(before);
        self.scratch = scratch;
        let (position, gate) = match appended {
            Ok(appended) => appended,
            Err(refusal) => {
                if let Some(position) = position_in_memory {
                    self.logs.retire(position);
                }
                return Err(refusal);
            }
        };

        for (stream, seq, bytes) in evictions.gone {
            self.remove_message(stream, seq, bytes);
        }
        self.lose(lost, first);
        self.skip(&skipped);
        let head = head_of(first, &record, bytes);
        for (position, targets) in [(position, &durable), (position_in_memory, &volatile)] {
            if let Some(position) = position
                && targets.len() > 1
            {
                self.references
                    .insert(position, u32::try_from(targets.len()).unwrap_or(u32::MAX));
            }
        }
        let position_of = |stream| {
            if volatile.iter().any(|target| target.0 == stream) {
                position_in_memory
            } else {
                position
            }
        };
        self.place_appended(&targets, &head, position_of);
        let newest = [
            (position, durable.first()),
            (position_in_memory, volatile.first()),
        ];
        self.fresh = newest.into_iter().find_map(|(position, target)| {
            let stream = target?.0;
            Some((position?, Head { stream, ..head }))
        });
        self.show_appended(&targets, message, fx);
        let seq = targets
            .iter()
            .chain(&skipped)
            .find(|target| target.0 == first)
            .map_or(Seq(0), |target| target.1);
        let published = Reply::Published {
            seq,
            position: position.or(position_in_memory).unwrap_or_default(),
            refused: (!refused.is_empty()).then(|| refused.into_boxed_slice()),
        };
        Ok((gate, published))
    }

    /// Uses up the numbers of a message where nobody wants it.
    pub(crate) fn skip(&mut self, skipped: &[(StreamId, Seq)]) {
        for &(stream, seq) in skipped {
            if let Some(state) = self.streams.get_mut(&stream) {
                state.defined = state.defined || state.level != Durability::Memory;
            }
            self.apply_skipped(stream, seq);
        }
    }

    /// Gives a message that is in the log its place in every stream.
    pub(crate) fn place_appended(
        &mut self,
        targets: &[(StreamId, Seq)],
        head: &Head,
        position_of: impl Fn(StreamId) -> Option<Lsn>,
    ) {
        for &(stream, seq) in targets {
            let Some(position) = position_of(stream) else {
                continue;
            };
            if let Some(state) = self.streams.get_mut(&stream) {
                state.defined = state.defined || state.level != Durability::Memory;
                state.appended += 1;
                self.appended += 1;
            }
            self.apply_append(stream, seq, position, head);
        }
    }

    /// Gives an appended message to those who wait for it.
    pub(crate) fn show_appended(
        &mut self,
        targets: &[(StreamId, Seq)],
        message: &NewMessage,
        fx: &mut dyn Effects,
    ) {
        for &(stream, _) in targets {
            let waiting: SmallVec<[u32; 8]> = self
                .streams
                .get(&stream)
                .map(|state| state.roster.waiting.iter().copied().collect())
                .unwrap_or_default();
            for at in waiting {
                self.dispatch(stream, at as usize, fx);
            }
            self.wake_readers(stream, fx);
            let Some(state) = self.streams.get(&stream) else {
                continue;
            };
            let crowded = state.makes_room_later();
            if message.expires_ms == Some(0) || state.config.expires_ms == Some(0) {
                self.fleeting.push(stream);
            }
            if crowded {
                self.crowd(stream);
            }
        }
    }

    /// Applies a stream's limits to a message about to be appended: refuses it, or chooses what goes, but nothing that
    /// is `spared`.
    pub(crate) fn make_room(
        &mut self,
        stream: StreamId,
        room: &mut Room,
        bytes: u64,
        spared: impl Fn(Seq) -> bool,
        evictions: &mut Evictions,
    ) -> Result<(), Refusal> {
        let Some(state) = self.streams.get(&stream) else {
            return Ok(());
        };
        if state.makes_room_later() {
            return Ok(());
        }
        let limits = state.config.limits;
        let over = |room: &Room| {
            (limits.max_messages > 0 && room.messages + 1 > limits.max_messages)
                || (limits.max_bytes > 0 && room.bytes.saturating_add(bytes) > limits.max_bytes)
        };
        if !over(room) {
            return Ok(());
        }
        if state.config.overflow == Overflow::RefuseNew {
            return Err(Refusal::Limit(format!(
                "stream {} is full ({} messages, {} bytes; limits {} and {})",
                state.name, room.messages, room.bytes, limits.max_messages, limits.max_bytes
            )));
        }
        while over(room) {
            let Some((seq, position)) = self.next_of_stream(stream, room.from)? else {
                break;
            };
            room.from = seq.next();
            if self.is_held(stream, seq) || spared(seq) {
                evictions.passed.push((stream, seq));
                continue;
            }
            let size = self.head(position)?.bytes;
            evictions.gone.push((stream, seq, size));
            room.messages -= 1;
            room.bytes = room.bytes.saturating_sub(size);
        }
        if over(room) {
            return Err(Refusal::Limit(
                "the stream is full of messages that consumers hold".to_owned(),
            ));
        }
        Ok(())
    }
}
