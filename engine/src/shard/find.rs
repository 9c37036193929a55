//! Finding what a command names: the stream, the group, the message and where it stands.

use longtail_model::{GroupId, IndexId, Lsn, Seq, ShardId, StreamId, Timestamp};

use super::{Head, Logs, Shard};
use crate::command::{Handle, Target};
use crate::config::Order;
use crate::effect::Refusal;
use crate::event::Targets;
use crate::stream::{Group, Hold, HoldKey, Place, SessionKey, Stream};

/// A message that a handle named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(super) stream: StreamId,
    pub(super) at: usize,
    pub(super) seq: Seq,
    pub(super) hold: Option<HoldKey>,
}

impl Shard {
    pub(super) fn head(&mut self, position: Lsn) -> Result<Head, Refusal> {
        if let Some((_, head)) = self.fresh.filter(|&(fresh, _)| fresh == position) {
            return Ok(head);
        }
        let first = |mut targets: Targets<'_>| targets.next().map(|target| target.0);
        Self::head_of(&mut self.logs, self.config.id, position, first)
    }

    /// The head of a message found in an index under `seq`, with the stream that has it there: a record may belong to
    /// several streams of one sequence space, under a number each.
    pub(super) fn head_in(
        &mut self,
        index: IndexId,
        seq: Seq,
        position: Lsn,
    ) -> Result<Head, Refusal> {
        let streams = &self.streams;
        let owner = |mut targets: Targets<'_>| {
            targets
                .find(|&(stream, number)| {
                    number == seq && streams.get(&stream).is_some_and(|s| s.index == index)
                })
                .map(|target| target.0)
        };
        Self::head_of(&mut self.logs, self.config.id, position, owner)
    }

    fn head_of(
        logs: &mut Logs,
        shard: ShardId,
        position: Lsn,
        owner: impl FnOnce(Targets<'_>) -> Option<StreamId>,
    ) -> Result<Head, Refusal> {
        logs.with_message(position, |targets, message| Head {
            stream: owner(targets).unwrap_or(StreamId(0)),
            created: message.created,
            priority: message.priority.0,
            delay_ms: message.delay_ms,
            ack_timeout_ms: message.ack_timeout_ms,
            expires: message.expires,
            bytes: message.bytes(),
        })
        .map_err(|error| {
            tracing::error!(%shard, %position, %error, "cannot read a message");
            Refusal::Failed(error.to_string())
        })
    }

    pub(super) fn target(&self, key: SessionKey, target: Target) -> Result<StreamId, Refusal> {
        match target {
            Target::Link(link) => self
                .sessions
                .get(key)
                .and_then(|state| state.link(link))
                .ok_or(Refusal::UnknownLink),
            Target::Stream(stream) if self.streams.contains_key(&stream) => Ok(stream),
            Target::Stream(_) => Err(Refusal::UnknownLink),
        }
    }

    /// The stream of a group and the group's place in it.
    pub(super) fn group_at(&self, group: GroupId) -> Option<(StreamId, usize)> {
        let stream = StreamId(group.0);
        if let Some(default) = self
            .streams
            .get(&stream)
            .and_then(|state| state.groups.first())
            && default.id == group
            && !default.deleted
        {
            return Some((stream, 0));
        }
        self.groups.get(&group).copied()
    }

    /// The group that a message is held in, with its stream.
    pub(super) fn group_of(&self, held: &Hold) -> Option<(&Stream, &Group)> {
        let (stream, at) = self.group_at(held.group)?;
        let stream = self.streams.get(&stream)?;
        Some((stream, stream.groups.get(at)?))
    }

    pub(super) fn group(&self, stream: StreamId, at: usize) -> Option<&Group> {
        self.streams.get(&stream)?.groups.get(at)
    }

    pub(super) fn group_mut(&mut self, stream: StreamId, at: usize) -> Option<&mut Group> {
        self.streams.get_mut(&stream)?.groups.get_mut(at)
    }

    /// What a sequence number is unique within: the shared index of the stream, or else the group.
    pub(super) fn domain(&self, stream: StreamId, at: usize) -> u64 {
        match self.streams.get(&stream) {
            Some(stream) if stream.shares_numbers() => stream.index.0,
            Some(stream) => stream.groups.get(at).map_or(0, |group| group.id.0),
            None => 0,
        }
    }

    /// Finds the message that a handle names; `None` when it is gone.
    pub(super) fn resolve(
        &mut self,
        key: SessionKey,
        handle: Handle,
    ) -> Result<Option<Found>, Refusal> {
        match handle {
            Handle::Group(group, seq) => {
                let Some((stream, at)) = self.group_at(group) else {
                    return Ok(None);
                };
                let hold = self.hold_in(group, stream, at, seq);
                Ok(Some(Found {
                    stream,
                    at,
                    seq,
                    hold,
                }))
            }
            Handle::Shared(link, seq) => {
                let via = self.target(key, Target::Link(link))?;
                let domain = self.domain(via, 0);
                let Some(via) = self.streams.get(&via) else {
                    return Ok(None);
                };
                let index = via.index;
                if let Some(hold) = self.hold_by.get(domain, seq.0) {
                    return Ok(self.holds.get(hold).map(|held| Found {
                        stream: held.stream,
                        at: 0,
                        seq,
                        hold: Some(hold),
                    }));
                }
                let Some(position) = self.position_in(index, seq)? else {
                    return Ok(None);
                };
                let stream = if via.shares_numbers() {
                    self.head_in(index, seq, position)?.stream
                } else {
                    via.id
                };
                Ok(self.streams.contains_key(&stream).then_some(Found {
                    stream,
                    at: 0,
                    seq,
                    hold: None,
                }))
            }
        }
    }

    /// The hold that a group has on a message; a shared number may be held through another stream's group.
    pub(super) fn hold_in(
        &self,
        group: GroupId,
        stream: StreamId,
        at: usize,
        seq: Seq,
    ) -> Option<HoldKey> {
        let hold = self.hold_by.get(self.domain(stream, at), seq.0)?;
        (self.holds.get(hold)?.group == group).then_some(hold)
    }

    /// Where a message stands in a group; `None` when the group is done with it.
    pub(super) fn locate(&mut self, found: Found) -> Result<Option<Place>, Refusal> {
        if let Some(hold) = found.hold {
            return Ok(Some(Place::Held(hold)));
        }
        let seq = found.seq;
        let position = match self.position(found.stream, seq) {
            Ok(Some(position)) => Ok(position),
            Ok(None) => return Ok(None),
            // What an event speaks of was there when it was logged.
            Err(error) if !self.live => Err(error),
            Err(error) => return Err(error),
        };
        let Some(group) = self
            .group(found.stream, found.at)
            .filter(|group| !group.deleted)
        else {
            return Ok(None);
        };
        if !self.unplaced.is_empty() && self.unplaced.contains(&(group.id, seq)) {
            return Ok(None);
        }
        if let Some(meta) = group.meta(seq) {
            let place = match meta.aside {
                None => Place::Ready(group.key(meta.priority)),
                Some(crate::stream::Aside::Delayed(due)) => Place::Delayed(due),
                Some(crate::stream::Aside::Parked(ticket)) => Place::Parked(ticket),
            };
            // A message that came back and is ready again may have been counted ahead of the cursor never: it is listed.
            return Ok(Some(place));
        }
        if group.is_ahead(seq) {
            return Ok(Some(Place::Ahead));
        }
        if group.config.order == Order::Sequence && group.lists.ready.contains(0, seq.0) {
            return Ok(Some(Place::Ready(0)));
        }
        if group.config.order == Order::Sequence && group.lists.delayed.is_empty() {
            return Ok(None);
        }
        let head = match position.and_then(|position| self.head(position)) {
            Ok(head) => head,
            Err(error) => {
                // Where a message is ready does not depend on its record here, only whether it is delayed.
                let group = self.group(found.stream, found.at);
                let group = group.filter(|group| group.config.order == Order::Sequence);
                return match group {
                    Some(group) => Ok(group
                        .lists
                        .delayed
                        .iter()
                        .find(|&(_, listed)| listed == seq.0)
                        .map(|(due, _)| Place::Delayed(Timestamp(due)))),
                    None => Err(error),
                };
            }
        };
        let Some(group) = self.group(found.stream, found.at) else {
            return Ok(None);
        };
        let due = head.created.plus_millis(head.delay_ms);
        if head.delay_ms > 0 && group.lists.delayed.contains(due.0, seq.0) {
            return Ok(Some(Place::Delayed(due)));
        }
        let key = group.key(head.priority);
        Ok(group
            .lists
            .ready
            .contains(key, seq.0)
            .then_some(Place::Ready(key)))
    }
}
