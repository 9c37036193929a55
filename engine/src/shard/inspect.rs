//! What only looks: peeking and describing.

use std::ops::Bound;

use longtail_model::{Durability, Seq, StreamId, Timestamp};

use super::dispatch::Rule;
use super::logs::Logs;
use super::{Found, Outcome, Shard, now_reply};
use crate::command::{Handle, Target, Which};
use crate::config::StreamName;
use crate::effect::{
    Counts, GroupInfo, MessageInfo, MessageState, Refusal, Reply, ShardInfo, StreamInfo,
};
use crate::stream::{Group, Place, SessionKey};
use crate::structures::index::PagedIndex;

/// Streams in one page at most.
const PAGE_MAX: u32 = 4_096;

/// Streams looked at for one page: in a small space most may belong to others.
const PAGE_SCAN_MAX: usize = 65_536;

impl Shard {
    pub(crate) fn peek(&mut self, key: SessionKey, message: Handle) -> Outcome {
        match self.resolve(key, message)? {
            Some(found) => self.show(found.stream, found.seq),
            None => now_reply(Reply::NotFound),
        }
    }

    pub(crate) fn peek_head(
        &mut self,
        key: SessionKey,
        stream: Target,
        group: &str,
        which: Which,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        let Some(state) = self.streams.get(&stream) else {
            return now_reply(Reply::NotFound);
        };
        let Some(group) = state.group_named(group).and_then(|at| state.groups.get(at)) else {
            return now_reply(Reply::NotFound);
        };
        let seq = match which {
            Which::Ready => match self.indexes.get(&state.index) {
                Some(index) => group.head(index, &self.logs)?.map(|(_, seq)| seq),
                None => None,
            },
            Which::Delayed => group.lists.delayed.first().map(|(_, seq)| Seq(seq)),
            Which::Parked => group.lists.parked.first().map(|(_, seq)| Seq(seq)),
        };
        match seq {
            Some(seq) => self.show(stream, seq),
            None => now_reply(Reply::NotFound),
        }
    }

    fn show(&mut self, stream: StreamId, seq: Seq) -> Outcome {
        let Some(position) = self.position(stream, seq)? else {
            return now_reply(Reply::NotFound);
        };
        if let Some((index, true)) = self
            .streams
            .get(&stream)
            .map(|state| (state.index, state.shares_numbers()))
            && self.head_in(index, seq, position)?.stream != stream
        {
            return now_reply(Reply::NotFound);
        }
        let level = self
            .streams
            .get(&stream)
            .map_or(Durability::Memory, |state| state.level);
        Ok((
            Logs::gate_of(position, level),
            Reply::Peeked { seq, position },
        ))
    }

    pub(crate) fn describe_message(&mut self, key: SessionKey, message: Handle) -> Outcome {
        let Some(found) = self.resolve(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        let Some(place) = self.locate(found)? else {
            return now_reply(Reply::NotFound);
        };
        let Found {
            stream, at, seq, ..
        } = found;
        let position = self
            .position(stream, seq)?
            .ok_or(Refusal::Unsupported("the message is gone"))?;
        let head = self.head(position)?;
        let Some(state) = self.streams.get(&stream) else {
            return now_reply(Reply::NotFound);
        };
        let meta = state
            .groups
            .get(at)
            .and_then(|group| group.meta(seq))
            .copied();
        let mut info = MessageInfo {
            seq,
            stream: state.name.clone(),
            state: MessageState::Ready,
            priority: longtail_model::Priority(meta.map_or(head.priority, |meta| meta.priority)),
            created: head.created,
            due: None,
            delay_ms: meta.map_or(head.delay_ms, |meta| meta.delay_ms),
            ack_timeout_ms: head.ack_timeout_ms,
            counts: meta.map_or_else(Counts::default, |meta| meta.counts),
            mark: meta.map_or(0, |meta| meta.mark),
            bytes: head.bytes,
            position,
        };
        match place {
            Place::Ready(_) | Place::Ahead | Place::Head => {}
            Place::Delayed(due) => {
                info.state = MessageState::Delayed;
                info.due = Some(due);
            }
            Place::Parked(_) => info.state = MessageState::Parked,
            Place::Held(hold) => {
                let held = &self.holds[hold];
                info.state = MessageState::Held;
                info.due = Some(held.deadline).filter(|&due| due != Timestamp::NEVER);
                info.priority = longtail_model::Priority(held.priority);
                info.delay_ms = held.delay_ms;
                info.counts = held.counts;
                info.mark = held.mark;
            }
        }
        now_reply(Reply::MessageInfo(Box::new(info)))
    }

    pub(crate) fn describe_stream(&mut self, name: &StreamName) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        now_reply(Reply::StreamInfo(Box::new(self.stream_info(stream))))
    }

    pub(crate) fn describe_streams(
        &self,
        space: Option<&str>,
        after: Option<StreamId>,
        limit: u32,
    ) -> Outcome {
        let limit = limit.clamp(1, PAGE_MAX) as usize;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut streams = Vec::new();
        let mut next = None;
        for (seen, &stream) in self
            .listing
            .range((from, Bound::Unbounded))
            .map(|(stream, ())| stream)
            .enumerate()
        {
            if streams.len() == limit || seen == PAGE_SCAN_MAX {
                return now_reply(Reply::StreamPage { streams, next });
            }
            next = Some(stream);
            if let Some(state) = self.streams.get(&stream)
                && space.is_none_or(|space| *state.name.space == *space)
            {
                streams.push((state.name.clone(), self.stream_info(stream)));
            }
        }
        now_reply(Reply::StreamPage {
            streams,
            next: None,
        })
    }

    fn stream_info(&self, stream: StreamId) -> StreamInfo {
        let Some(state) = self.streams.get(&stream) else {
            return StreamInfo::default();
        };
        let index = self.indexes.get(&state.index);
        let next = index.map_or(Seq::FIRST, |index| index.last_seq().next());
        let first = index
            .filter(|_| state.held.messages() > 0)
            .and_then(|index| index.first(&self.logs).ok().flatten())
            .map_or(next, |(seq, _)| seq);
        let mut info = StreamInfo {
            stream,
            messages: state.held.messages(),
            bytes: state.held.bytes(),
            appended: state.appended,
            removed: state.removed,
            producers: state.producers.into(),
            consumers: state.consumers.into(),
            first,
            next,
            durability: state.level,
            ..StreamInfo::default()
        };
        if let Some(group) = state.groups.first() {
            info.ready = group.ready_len(state.offered);
            info.urgent = if group.implicit {
                group.ready_len(state.offered)
            } else {
                group.lists.urgent
            };
            info.held = group.held.into();
            info.delayed = group.lists.delayed.len() as u64;
            info.parked = group.lists.parked.len() as u64;
            info.waiting = group.lists.waiters.len() as u64;
            info.served = group.lists.rule.as_deref().and_then(Rule::served);
        }
        info.pauses = state.extra.pauses;
        if let Some(pause) = &state.extra.pause {
            info.pause_ms = pause.length_ms;
            info.pause_left_ms = pause.left_ms(self.now);
        }
        let mut index_bytes = state.extra.expiry.heap_bytes()
            + state.groups.iter().map(Group::heap_bytes).sum::<usize>();
        if !state.shares_numbers() {
            index_bytes += index.map_or(0, PagedIndex::heap_bytes);
        }
        info.index_bytes = index_bytes as u64;
        info
    }

    pub(crate) fn describe_groups(&mut self, stream: &StreamName) -> Outcome {
        let Some(state) = self
            .names
            .get(stream)
            .and_then(|stream| self.streams.get(stream))
        else {
            return now_reply(Reply::NotFound);
        };
        let describe = |group: &Group| GroupInfo {
            group: group.id,
            name: (*group.name).into(),
            ready: group.ready_len(state.offered),
            held: group.held.into(),
            delayed: group.lists.delayed.len() as u64,
            parked: group.lists.parked.len() as u64,
            waiting: group.lists.waiters.len() as u64,
            pause_left_ms: group.lists.pause.map_or(0, |pause| pause.left_ms(self.now)),
        };
        now_reply(Reply::Groups(
            state
                .groups
                .iter()
                .filter(|group| !group.deleted)
                .map(describe)
                .collect(),
        ))
    }

    pub(crate) fn list_streams(&self, space: Option<&str>) -> Outcome {
        let names = self
            .listing
            .keys()
            .filter_map(|stream| self.streams.get(stream))
            .filter(|state| space.is_none_or(|space| *state.name.space == *space))
            .map(|state| state.name.clone())
            .collect();
        now_reply(Reply::Streams(names))
    }

    pub(crate) fn describe_shard(&self) -> Outcome {
        now_reply(Reply::ShardInfo(Box::new(self.info())))
    }

    /// Totals over the shard. Looks at every stream: see [`Shard::add_up`] for a shard that others wait for.
    #[must_use]
    pub fn info(&self) -> ShardInfo {
        let mut info = ShardInfo::default();
        let mut next = Some(StreamId(0));
        while let Some(from) = next {
            next = self.add_up(&mut info, from, usize::MAX);
        }
        info
    }

    /// Adds some streams, in order of creation, to the totals of the shard, from `from` on: as many as have, with their
    /// groups, no more than `most` things to look at, but one at least. Returns where to go on; with the last of them
    /// the other fields are filled in.
    pub fn add_up(&self, info: &mut ShardInfo, from: StreamId, most: usize) -> Option<StreamId> {
        let totals = &mut info.totals;
        let (mut seen, mut index_bytes) = (0_usize, 0_u64);
        for (&stream, ()) in self.listing.range(from..) {
            let Some(state) = self.streams.get(&stream) else {
                continue;
            };
            if seen > 0 && seen.saturating_add(1 + state.groups.len()) > most {
                info.index_bytes += index_bytes;
                return Some(stream);
            }
            seen = seen.saturating_add(1 + state.groups.len());
            let one = self.stream_info(stream);
            totals.messages += one.messages;
            totals.bytes += one.bytes;
            totals.ready += one.ready;
            totals.urgent += one.urgent;
            totals.held += one.held;
            totals.delayed += one.delayed;
            totals.parked += one.parked;
            totals.appended += one.appended;
            totals.removed += one.removed;
            totals.producers += one.producers;
            totals.consumers += one.consumers;
            index_bytes += one.index_bytes;
        }
        // One that waits at several streams is one all the same.
        totals.waiting = self
            .sessions
            .iter()
            .flat_map(|(_, session)| &session.consumers)
            .filter(|consumer| consumer.ticket.is_some())
            .count() as u64;
        let shared = self.shared_indexes.values();
        index_bytes += shared
            .filter_map(|index| self.indexes.get(index))
            .map(|index| index.heap_bytes() as u64)
            .sum::<u64>();
        index_bytes += self.remains.heap_bytes() as u64;
        info.index_bytes += index_bytes;
        info.streams = self.streams.len() as u64;
        info.sessions = self.sessions.len() as u64;
        info.timeouts = self.timeouts;
        info.appended = self.appended;
        info.delivered = self.delivered;
        info.removed = self.removed;
        info.dead_letters_lost = self.lost;
        info.log_end = (self.logs.durable_ref())
            .map_or(longtail_model::Lsn::ZERO, longtail_log::ShardLog::end);
        info.trouble = self.trouble();
        None
    }

    /// Why messages are not accepted, or an index is incomplete, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.logs.trouble().or_else(|| self.page_trouble())
    }
}
