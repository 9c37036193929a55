//! Streams that hold more than they may: what makes room once a new message was shown to those who wait, before one that
//! has come back is, or once the limits are tighter than they were.

use longtail_model::{Seq, StreamId};

use super::dead::Grave;
use super::publish::Room;
use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::config::{Counted, Limits, Order, Overflow, Reason, StreamConfig, StreamName};
use crate::definition;
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::headers;
use crate::stream::Stream;
use crate::structures::ordered::OrderedSet;

/// Messages that one step drops from a stream; the rest follows, so that others have their turn in between.
const SHRINK_STEP: usize = 1_000;

/// How long until the rest follows, in milliseconds.
const SHRINK_PAUSE_MS: u64 = 1;

impl Stream {
    /// Whether what is too much of it goes after something new was appended, and not before.
    pub(crate) fn makes_room_later(&self) -> bool {
        let limits = &self.config.limits;
        limits.of == Counted::Ready
            && self.config.overflow != Overflow::RefuseNew
            && (limits.max_messages > 0 || limits.max_bytes > 0)
    }
}

impl Limits {
    /// Whether so much is too much.
    fn are_passed(&self, room: &Room) -> bool {
        (self.max_messages > 0 && room.messages() > self.max_messages)
            || (self.max_bytes > 0 && room.bytes() > self.max_bytes)
    }
}

impl Shard {
    /// A stream may have too much at the end of the step.
    pub(crate) fn crowd(&mut self, stream: StreamId) {
        let limited = (self.streams.get(&stream)).is_some_and(Stream::makes_room_later);
        if limited && self.crowded.last() != Some(&stream) {
            self.crowded.push(stream);
        }
    }

    /// So many messages have come back to a stream. What is too much goes at once, however many they are.
    pub(super) fn make_room_again(&mut self, stream: StreamId, back: usize, fx: &mut dyn Effects) {
        if (self.streams.get(&stream)).is_some_and(Stream::makes_room_later) {
            self.drop_excess(stream, back.max(SHRINK_STEP), fx);
        }
    }

    /// Drops or dead-letters what is too much for a stream's limits.
    pub(crate) fn shrink(&mut self, stream: StreamId, fx: &mut dyn Effects) {
        self.drop_excess(stream, SHRINK_STEP, fx);
    }

    /// Looks at so many messages at most; what is left has its turn later.
    fn drop_excess(&mut self, stream: StreamId, most: usize, fx: &mut dyn Effects) {
        // What cannot go is passed over.
        let mut from = (None, Seq::FIRST);
        for step in 0.. {
            let Some(state) = self.streams.get(&stream) else {
                return;
            };
            let dropping = state.config.overflow != Overflow::RefuseNew;
            if !dropping || !state.config.limits.are_passed(&Room::of(state)) {
                break;
            }
            if step >= most {
                let when = self.now.plus_millis(SHRINK_PAUSE_MS);
                self.timers.insert(when, Timer::Shrink(stream));
                break;
            }
            let next = match self.next_to_go(stream, from) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot drop what is too much for a stream");
                    break;
                }
            };
            from = (next.0, next.1.next());
            let seq = next.1;
            if self.is_held(stream, seq) {
                continue;
            }
            let grave = self.grave_of(stream, seq, Reason::Limit);
            let laid = if self.came_through(stream, seq, grave) {
                Ok(false)
            } else {
                self.lay_off_pushed(stream, seq, &[], fx)
            };
            match laid {
                Ok(true) => {}
                Ok(false) if self.remove_logged(stream, seq) => {
                    self.lose(u64::from(grave != Grave::Unwanted), stream);
                }
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot dead-letter what is too much for a stream");
                    break;
                }
            }
        }
        self.drop_if_idle(stream);
    }

    /// The next message that makes room, at or after a place: in order of numbers, or with a key the least urgent.
    fn next_to_go(
        &mut self,
        stream: StreamId,
        (key, from): (Option<u64>, Seq),
    ) -> Result<Option<(Option<u64>, Seq)>, Refusal> {
        let by_urgency = self.streams.get(&stream).is_some_and(|state| {
            let group = state.config.group.as_ref();
            state.config.overflow == Overflow::DropLeastUrgent
                && group.is_some_and(|group| group.order == Order::Priority)
        });
        if !by_urgency {
            let next = self.next_of_stream(stream, from)?;
            return Ok(next.map(|(seq, _)| (None, seq)));
        }
        let Some(ready) = self.group(stream, 0).map(|group| &group.lists.ready) else {
            return Ok(None);
        };
        let of_key = |key: u64, from: Seq| {
            let first = ready.range_from(key, from.0).next();
            first.filter(|found| found.0 == key)
        };
        let found = match key.and_then(|key| of_key(key, from)) {
            Some(found) => Some(found),
            None => last_key(ready, key).and_then(|key| of_key(key, Seq(0))),
        };
        Ok(found.map(|(key, seq)| (Some(key), Seq(seq))))
    }

    /// Whether a message is a dead letter of the stream where it would go next.
    fn came_through(&mut self, stream: StreamId, seq: Seq, grave: Grave) -> bool {
        let Grave::At { stream: target, .. } = grave else {
            return false;
        };
        let name = (self.streams.get(&target)).map(|state| state.name.to_string());
        let (Some(name), Ok(Some(position))) = (name, self.position(stream, seq)) else {
            return false;
        };
        let through = self.with_message(position, |message| {
            headers::iter(message.headers)
                .any(|(key, value)| key == b"lt-death-stream" && value == name.as_bytes())
        });
        through.unwrap_or(false)
    }

    /// Gives a stream other settings.
    pub(crate) fn redefine(&mut self, name: &StreamName, config: StreamConfig) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let state = &self.streams[&stream];
        if *state.config == config {
            return now_reply(Reply::Done);
        }
        check_change(&state.config, &config)?;
        let mut gate = Gate::OPEN;
        // One that the log has not heard of is defined as it is then.
        if state.defined {
            let mut body = Vec::new();
            definition::put_stream(&mut body, &state.name, &config);
            let mut scratch = Vec::new();
            event::put_stream_changed(&mut scratch, stream, &body);
            gate = self.logs.control(state.level, &[&scratch])?;
        }
        self.apply_changed(stream, config);
        Ok((gate, Reply::Done))
    }

    /// A stream has other settings.
    pub(crate) fn apply_changed(&mut self, stream: StreamId, config: StreamConfig) {
        let group = (config.group.clone()).map(|config| self.group_configs.share(config));
        let config = self.stream_configs.share(config);
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        state.config = config;
        if let (Some(config), Some(default)) = (group, state.groups.first_mut())
            && !default.deleted
        {
            default.config = config;
        }
        if !self.live {
            return;
        }
        if let Some(extra) = self
            .streams
            .get_mut(&stream)
            .and_then(|s| s.extra.get_mut())
        {
            (extra.age_timer).move_to(None, &mut self.timers, Timer::Age(stream));
        }
        match self.next_of_stream(stream, Seq::FIRST) {
            Ok(Some((_, position))) => {
                if let Ok(head) = self.read_head(position) {
                    self.set_age_alarm(stream, head.created);
                }
            }
            Ok(None) => {}
            Err(_) => self.recheck_age(stream),
        }
        self.crowded.push(stream);
    }
}

/// The greatest key in a set, below `below` if that is given.
fn last_key(set: &OrderedSet, below: Option<u64>) -> Option<u64> {
    let has_from = |key: u64| {
        let first = set.range_from(key, 0).next();
        first.filter(|found| below.is_none_or(|below| found.0 < below))
    };
    let mut last = has_from(0)?.0;
    for bit in (0..u64::BITS).rev() {
        // The least that is above the last one from this bit on.
        let tried = ((last >> bit) | 1) << bit;
        if tried > last
            && let Some((found, _)) = has_from(tried)
        {
            last = found;
        }
    }
    Some(last)
}

/// Only what needs no lists made anew may change.
fn check_change(old: &StreamConfig, new: &StreamConfig) -> Result<(), Refusal> {
    let fixed = |config: &StreamConfig| {
        let group = config.group.as_ref();
        (
            config.numbering.clone(),
            config.keep,
            config.durability,
            config.auto_delete,
            group.map(|group| (group.order, group.start)),
        )
    };
    if fixed(old) == fixed(new) {
        Ok(())
    } else {
        Err(Refusal::Unsupported(
            "a stream keeps its numbering, keeping, durability and order",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_of_a_set_is_found_without_going_through_it() {
        let mut set = OrderedSet::new();
        assert_eq!(last_key(&set, None), None);
        let keys = [
            3,
            4,
            7,
            8,
            250,
            255,
            256,
            (1 << 40) - 1,
            1 << 40,
            u64::MAX - 1,
        ];
        for (at, key) in keys.into_iter().enumerate() {
            for seq in 0..700 {
                set.insert(key, seq);
            }
            assert_eq!(last_key(&set, None), Some(key));
            let before = at.checked_sub(1).map(|before| keys[before]);
            assert_eq!(last_key(&set, Some(key)), before);
        }
    }
}
