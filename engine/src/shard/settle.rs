//! What becomes of messages that were taken, and what an operator does to those that were not.

use longtail_model::{Priority, Seq, StreamId, Timestamp};

use super::timers::Timer;
use super::{Found, Outcome, Shard, now_reply};
use crate::command::{Handle, NewMessage, Settle, Target};
use crate::config::StreamName;
use crate::effect::{Counts, Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{Hold, HoldKey, Place, SessionKey};

/// Why a message went to a dead-letter stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeathReason {
    Rejected,
    Expired,
    Deliveries,
}

impl DeathReason {
    fn as_str(self) -> &'static str {
        match self {
            DeathReason::Rejected => "rejected",
            DeathReason::Expired => "expired",
            DeathReason::Deliveries => "max-deliveries",
        }
    }
}

impl Shard {
    pub(crate) fn settle(
        &mut self,
        key: SessionKey,
        message: Handle,
        how: Settle,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(hold) = self.own_hold(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        let (tag, session) = (self.holds[hold].consumer, key);
        let gate = match how {
            Settle::Ack => self.ack(hold)?,
            Settle::Release {
                priority,
                delay_ms,
                failed,
            } => self.put_back(hold, priority, delay_ms, failed, fx)?,
            Settle::Park { priority } => self.park(hold, priority)?,
            Settle::Reject => self.reject(hold, fx)?,
        };
        self.renew_credit(session, tag, fx);
        Ok((gate, Reply::Done))
    }

    /// The session's own hold on a message.
    fn own_hold(&mut self, key: SessionKey, message: Handle) -> Result<Option<HoldKey>, Refusal> {
        let hold = match message {
            Handle::Group(group, seq) => {
                let Some((stream, at)) = self.group_at(group) else {
                    return Ok(None);
                };
                self.hold_in(group, stream, at, seq)
            }
            Handle::Shared(link, seq) => {
                let stream = self.target(key, Target::Link(link))?;
                self.hold_by.get(&(self.domain(stream, 0), seq.0)).copied()
            }
        };
        Ok(hold.filter(|&hold| self.holds.get(hold).is_some_and(|held| held.session == key)))
    }

    fn found(&self, held: &Hold) -> Option<Found> {
        let (stream, at) = self.group_at(held.group)?;
        Some(Found {
            stream,
            at,
            seq: held.seq,
            hold: None,
        })
    }

    fn ack(&mut self, hold: HoldKey) -> Result<Gate, Refusal> {
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        self.scratch.clear();
        event::put_settled(&mut self.scratch, held.group, held.seq, held.bytes);
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(held) = self.release_hold(hold)
            && let Some(found) = self.found(&held)
        {
            if let Some(stream) = self.streams.get_mut(&found.stream) {
                stream.removed += 1;
            }
            self.removed += 1;
            self.apply_settled(found, None, held.bytes);
            self.drop_if_idle(found.stream);
        }
        Ok(gate)
    }

    fn put_back(
        &mut self,
        hold: HoldKey,
        priority: Option<Priority>,
        delay_ms: u64,
        failed: bool,
        fx: &mut dyn Effects,
    ) -> Result<Gate, Refusal> {
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        let mut counts = held.counts;
        let mut delay_ms = delay_ms;
        if failed {
            counts.failures = counts.failures.saturating_add(1);
            let Some((stream, at)) = self.group_at(held.group) else {
                return Ok(Gate::OPEN);
            };
            if let Some(group) = self.group(stream, at) {
                if group.config.max_deliveries > 0
                    && counts.deliveries >= group.config.max_deliveries
                {
                    return self.bury_dead(hold, DeathReason::Deliveries, fx);
                }
                let steps = &group.config.backoff_ms;
                if delay_ms == 0 && !steps.is_empty() {
                    delay_ms = steps[(counts.failures as usize - 1).min(steps.len() - 1)];
                }
            }
        }
        counts.releases = counts.releases.saturating_add(1);
        let priority = priority.unwrap_or(Priority(held.priority));
        let due = (delay_ms > 0).then(|| self.now.plus_millis(delay_ms));
        self.scratch.clear();
        event::put_returned(
            &mut self.scratch,
            held.group,
            held.seq,
            priority,
            due,
            delay_ms,
            &counts,
        );
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(held) = self.release_hold(hold)
            && let Some(found) = self.found(&held)
        {
            self.apply_returned(found, priority, due, delay_ms, counts, gate.lsn);
            self.dispatch(found.stream, found.at, fx);
        }
        Ok(gate)
    }

    fn park(&mut self, hold: HoldKey, priority: Option<Priority>) -> Result<Gate, Refusal> {
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        let mut counts = held.counts;
        counts.parks = counts.parks.saturating_add(1);
        let priority = priority.unwrap_or(Priority(held.priority));
        let delay_ms = held.delay_ms;
        self.scratch.clear();
        event::put_parked(&mut self.scratch, held.group, held.seq, priority, &counts);
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(held) = self.release_hold(hold)
            && let Some(found) = self.found(&held)
        {
            self.apply_parked(found, priority, delay_ms, counts, gate.lsn);
        }
        Ok(gate)
    }

    fn reject(&mut self, hold: HoldKey, fx: &mut dyn Effects) -> Result<Gate, Refusal> {
        let group = self.holds[hold].group;
        let has_dead_letter = self
            .group_at(group)
            .and_then(|(stream, at)| self.group(stream, at))
            .is_some_and(|group| group.config.dead_letter.is_some());
        if has_dead_letter {
            self.bury_dead(hold, DeathReason::Rejected, fx)
        } else {
            self.ack(hold)
        }
    }

    /// To the dead-letter stream, or aside where there is none.
    fn bury_dead(
        &mut self,
        hold: HoldKey,
        reason: DeathReason,
        fx: &mut dyn Effects,
    ) -> Result<Gate, Refusal> {
        let held = &self.holds[hold];
        let (seq, position, counts) = (held.seq, held.position, held.counts);
        let Some(found) = self.found(held) else {
            return Ok(Gate::OPEN);
        };
        let Some(target) = self.dead_letter_of(found) else {
            return self.park(hold, None);
        };
        let copied = self.copy_dead(found, seq, position, counts, reason, target, fx)?;
        let acked = self.ack(hold)?;
        Ok(Gate {
            lsn: copied.lsn.max(acked.lsn),
            level: copied.level.max(acked.level),
        })
    }

    pub(crate) fn dead_letter_of(&self, found: Found) -> Option<StreamId> {
        let stream = self.streams.get(&found.stream)?;
        let name = stream.groups.get(found.at)?.config.dead_letter.clone()?;
        let target = StreamName {
            space: stream.name.space.clone(),
            name,
        };
        self.names
            .get(&target)
            .copied()
            .filter(|&target| target != found.stream)
    }

    /// Appends a message to a dead-letter stream with its history added to its headers.
    ///
    /// The copy is logged before the original is settled, in one batch: a crash between the two leaves it in both.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn copy_dead(
        &mut self,
        found: Found,
        seq: Seq,
        position: longtail_model::Lsn,
        counts: Counts,
        reason: DeathReason,
        target: StreamId,
        fx: &mut dyn Effects,
    ) -> Result<Gate, Refusal> {
        let source = self
            .streams
            .get(&found.stream)
            .map(|stream| stream.name.to_string())
            .unwrap_or_default();
        let now = self.now;
        let copy = self
            .logs
            .with_message(position, |_, message| {
                let mut headers = message.headers.to_vec();
                crate::headers::put(&mut headers, "lt-death-reason", reason.as_str().as_bytes());
                crate::headers::put(&mut headers, "lt-death-stream", source.as_bytes());
                crate::headers::put(&mut headers, "lt-death-seq", seq.to_string().as_bytes());
                crate::headers::put(&mut headers, "lt-death-time", now.to_string().as_bytes());
                crate::headers::put(
                    &mut headers,
                    "lt-death-deliveries",
                    counts.deliveries.to_string().as_bytes(),
                );
                NewMessage {
                    priority: message.priority,
                    delay_ms: 0,
                    ack_timeout_ms: message.ack_timeout_ms,
                    expires_ms: 0,
                    headers: headers.into(),
                    payload: bytes::Bytes::copy_from_slice(message.payload),
                }
            })
            .map_err(|error| Refusal::Failed(error.to_string()))?;
        let (gate, _) = self.append(target, &[], &copy, now, fx)?;
        Ok(gate)
    }

    /// Removes a message that the session holds, or that nobody holds.
    pub(crate) fn discard(
        &mut self,
        key: SessionKey,
        message: Handle,
        fx: &mut dyn Effects,
    ) -> Outcome {
        if let Some(hold) = self.own_hold(key, message)? {
            let tag = self.holds[hold].consumer;
            let gate = self.ack(hold)?;
            self.renew_credit(key, tag, fx);
            return Ok((gate, Reply::Done));
        }
        let Some(found) = self.resolve(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        let place = match self.locate(found)? {
            None | Some(Place::Held(_)) => return now_reply(Reply::NotFound),
            Some(place) => place,
        };
        let Some(group) = self.group(found.stream, found.at).map(|group| group.id) else {
            return now_reply(Reply::NotFound);
        };
        let level = self.level_of(group);
        self.scratch.clear();
        let bytes = self.size(found.stream, found.seq);
        event::put_settled(&mut self.scratch, group, found.seq, bytes);
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(stream) = self.streams.get_mut(&found.stream) {
            stream.removed += 1;
        }
        self.removed += 1;
        self.apply_settled(found, Some(place), bytes);
        if matches!(place, Place::Delayed(_)) {
            self.set_delay_alarm(found.stream, found.at);
        }
        self.drop_if_idle(found.stream);
        Ok((gate, Reply::Done))
    }

    /// Restarts the deadline of a held message.
    pub(crate) fn extend(&mut self, key: SessionKey, message: Handle, ms: Option<u64>) -> Outcome {
        let Some(hold) = self.own_hold(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        let now = self.now;
        let held = &mut self.holds[hold];
        let ms = ms.unwrap_or(held.ack_timeout_ms);
        if ms > 0 {
            held.deadline = now.plus_millis(ms);
            if let Some(timer) = held.timer.take() {
                self.timers.cancel(timer);
            }
            let deadline = held.deadline;
            self.holds[hold].timer = Some(self.timers.insert(deadline, Timer::Hold(hold)));
        }
        now_reply(Reply::Done)
    }

    /// A held message whose holder is gone or too late is ready again, in its place.
    pub(crate) fn abandon(&mut self, hold: HoldKey, fx: &mut dyn Effects) {
        let Some(held) = self.release_hold(hold) else {
            return;
        };
        let Some(found) = self.found(&held) else {
            return;
        };
        let over = self.group(found.stream, found.at).is_some_and(|group| {
            group.config.max_deliveries > 0 && held.counts.deliveries >= group.config.max_deliveries
        });
        if over && self.lay_dead(found, &held, fx) {
            return;
        }
        self.apply_returned(
            found,
            Priority(held.priority),
            None,
            held.delay_ms,
            held.counts,
            held.after,
        );
        self.dispatch(found.stream, found.at, fx);
    }

    /// Dead-letters or parks a message that nobody holds any more. `false` when it must stay.
    fn lay_dead(&mut self, found: Found, held: &Hold, fx: &mut dyn Effects) -> bool {
        match self.dead_letter_of(found) {
            Some(target) => {
                let copied = self.copy_dead(
                    found,
                    held.seq,
                    held.position,
                    held.counts,
                    DeathReason::Deliveries,
                    target,
                    fx,
                );
                if let Err(error) = copied {
                    tracing::warn!(seq = %held.seq, %error, "cannot dead-letter a message, it stays where it was");
                    return false;
                }
                let level = self.level_of(held.group);
                self.scratch.clear();
                event::put_settled(&mut self.scratch, held.group, held.seq, held.bytes);
                if let Err(error) = self.logs.control(level, &[&self.scratch]) {
                    tracing::warn!(seq = %held.seq, %error, "cannot settle a dead-lettered message");
                }
                self.apply_settled(found, None, held.bytes);
                self.drop_if_idle(found.stream);
            }
            None => {
                self.scratch.clear();
                event::put_parked(
                    &mut self.scratch,
                    held.group,
                    held.seq,
                    Priority(held.priority),
                    &held.counts,
                );
                let level = self.level_of(held.group);
                let Ok(gate) = self.logs.control(level, &[&self.scratch]) else {
                    return false;
                };
                self.apply_parked(
                    found,
                    Priority(held.priority),
                    held.delay_ms,
                    held.counts,
                    gate.lsn,
                );
            }
        }
        true
    }

    /// Makes parked messages ready, or delayed ones when nothing is parked.
    pub(crate) fn kick(
        &mut self,
        key: SessionKey,
        stream: Target,
        max: u64,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        let mut gate = Gate::OPEN;
        let mut kicked = 0;
        let parked = self
            .group(stream, 0)
            .is_some_and(|group| !group.parked.is_empty());
        while kicked < max {
            let Some(group) = self.group(stream, 0) else {
                break;
            };
            let (place, seq) = if parked {
                let Some((ticket, seq)) = group.parked.first() else {
                    break;
                };
                (Place::Parked(ticket), Seq(seq))
            } else {
                let Some((due, seq)) = group.delayed.first() else {
                    break;
                };
                (Place::Delayed(Timestamp(due)), Seq(seq))
            };
            gate = self.kick_from(
                Found {
                    stream,
                    at: 0,
                    seq,
                    hold: None,
                },
                place,
            )?;
            kicked += 1;
            // One by one: who waits gets the first that is kicked, not the best of all that are.
            self.dispatch(stream, 0, fx);
        }
        self.set_delay_alarm(stream, 0);
        Ok((gate, Reply::Count(kicked)))
    }

    pub(crate) fn kick_one(
        &mut self,
        key: SessionKey,
        message: Handle,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(found) = self.resolve(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        match self.locate(found)? {
            Some(place @ (Place::Parked(_) | Place::Delayed(_))) => {
                let gate = self.kick_from(found, place)?;
                self.set_delay_alarm(found.stream, found.at);
                self.dispatch(found.stream, found.at, fx);
                Ok((gate, Reply::Done))
            }
            _ => now_reply(Reply::NotFound),
        }
    }

    fn kick_from(&mut self, found: Found, place: Place) -> Result<Gate, Refusal> {
        let Found {
            stream, at, seq, ..
        } = found;
        let Some(group) = self.group(stream, at) else {
            return Ok(Gate::OPEN);
        };
        let id = group.id;
        let (priority, delay_ms, mut counts) = match group.meta.get(&seq.0) {
            Some(meta) => (meta.priority, meta.delay_ms, meta.counts),
            None => {
                let position = self
                    .position(stream, seq)?
                    .ok_or(Refusal::Unsupported("the message is gone"))?;
                let head = self.head(position)?;
                (head.priority, head.delay_ms, Counts::default())
            }
        };
        counts.kicks = counts.kicks.saturating_add(1);
        let level = self.level_of(id);
        self.scratch.clear();
        event::put_returned(
            &mut self.scratch,
            id,
            seq,
            Priority(priority),
            None,
            delay_ms,
            &counts,
        );
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(group) = self.group_mut(stream, at) {
            group.forget(place, seq);
        }
        self.apply_returned(found, Priority(priority), None, delay_ms, counts, gate.lsn);
        Ok(gate)
    }
}
