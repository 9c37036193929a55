//! What becomes of messages that were taken, and what an operator does to those that were not.

use longtail_model::{ConsumerTag, GroupId, Priority, Seq, Timestamp};
use smallvec::SmallVec;

use super::dead::Grave;
use super::release::put_returned;
use super::timers::Timer;
use super::{Found, Outcome, Shard, now_reply};
use crate::command::{Handle, Settle, Target};
use crate::config::Reason;
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{Hold, HoldKey, Meta, Place, SessionKey};

/// What becomes of a held message.
pub(crate) enum Fate {
    /// The group is done with it.
    Done,
    /// Ready again, at once or when due.
    Returned { due: Option<Timestamp>, meta: Meta },
    /// Set aside.
    Parked(Meta),
    /// A copy goes to another stream.
    Dead(Grave, Reason),
}

pub(super) fn parked(held: &Hold, priority: Option<Priority>) -> Meta {
    let mut meta = held.meta();
    meta.counts.parks = meta.counts.parks.saturating_add(1);
    meta.priority = priority.map_or(meta.priority, |priority| priority.0);
    meta
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
        let gate = match self.fate(hold, how) {
            Fate::Done => self.ack(hold)?,
            Fate::Returned { due, meta } => self.put_back(hold, due, meta, fx)?,
            Fate::Parked(meta) => self.park(hold, meta)?,
            Fate::Dead(grave, reason) => self.bury(hold, grave, reason, fx)?,
        };
        self.refill(session, tag, fx);
        Ok((gate, Reply::Done))
    }

    /// Is done with several messages of a group.
    pub(crate) fn ack_all(
        &mut self,
        key: SessionKey,
        group: GroupId,
        messages: &[Seq],
        fx: &mut dyn Effects,
    ) -> Outcome {
        let mut had: SmallVec<[ConsumerTag; 1]> = SmallVec::new();
        let mut outcome = Ok((Gate::OPEN, Reply::Done));
        for &seq in messages {
            let acked = self
                .own_hold(key, Handle::Group(group, seq))
                .and_then(|hold| {
                    let Some(hold) = hold else { return Ok(None) };
                    let tag = self.holds[hold].consumer;
                    Ok(Some((tag, self.ack(hold)?)))
                });
            match (acked, &mut outcome) {
                (Ok(Some((tag, gate))), Ok((all, _))) => {
                    *all = gate.max(*all);
                    if !had.contains(&tag) {
                        had.push(tag);
                    }
                }
                (Err(refusal), _) => {
                    outcome = Err(refusal);
                    break;
                }
                (Ok(_), _) => {}
            }
        }
        for tag in had {
            self.refill(key, tag, fx);
        }
        outcome
    }

    /// The session's own hold on a message.
    pub(crate) fn own_hold(
        &mut self,
        key: SessionKey,
        message: Handle,
    ) -> Result<Option<HoldKey>, Refusal> {
        let hold = match message {
            Handle::Group(group, seq) => {
                let Some((stream, at)) = self.group_at(group) else {
                    return Ok(None);
                };
                self.hold_in(group, stream, at, seq)
            }
            Handle::Shared(link, seq) => {
                let stream = self.target(key, Target::Link(link))?;
                self.hold_by.get(self.domain(stream, 0), seq.0)
            }
        };
        Ok(hold.filter(|&hold| self.holds.get(hold).is_some_and(|held| held.session == key)))
    }

    pub(crate) fn found(&self, held: &Hold) -> Option<Found> {
        let (stream, at) = self.group_at(held.group)?;
        Some(Found {
            stream,
            at,
            seq: held.seq,
            hold: None,
        })
    }

    pub(super) fn ack(&mut self, hold: HoldKey) -> Result<Gate, Refusal> {
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        self.scratch.clear();
        event::put_settled(&mut self.scratch, held.group, held.seq, held.bytes);
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(held) = self.release_hold(hold)
            && let Some(found) = self.found(&held)
        {
            self.count_removed(found.stream);
            self.apply_settled(found, None, held.bytes);
            self.drop_if_idle(found.stream);
        }
        Ok(gate)
    }

    /// Decides what a settlement makes of a held message. Changes nothing.
    pub(crate) fn fate(&self, hold: HoldKey, how: Settle) -> Fate {
        let held = &self.holds[hold];
        let Some((_, group)) = self.group_of(held) else {
            return Fate::Done;
        };
        let config = &group.config;
        match how {
            Settle::Ack => Fate::Done,
            Settle::Reject => match &config.dead_letter {
                Some(to) if to.on.contains(Reason::Rejected) => self.death(held, Reason::Rejected),
                _ => Fate::Done,
            },
            Settle::Park { priority } => Fate::Parked(parked(held, priority)),
            Settle::Release {
                priority,
                mut delay_ms,
                failed,
            } => {
                let mut counts = held.counts;
                if failed {
                    counts.failures = counts.failures.saturating_add(1);
                    if config.max_deliveries > 0 && counts.deliveries >= config.max_deliveries {
                        return self.death(held, Reason::Deliveries);
                    }
                    if config.has_failed(counts.failures) {
                        let wanted = config.dead_letter.as_ref();
                        return match wanted.is_some_and(|to| to.on.contains(Reason::Deliveries)) {
                            true => self.death(held, Reason::Deliveries),
                            false => Fate::Done,
                        };
                    }
                    let steps = &config.backoff_ms;
                    if delay_ms == 0 && !steps.is_empty() {
                        delay_ms = steps[(counts.failures as usize - 1).min(steps.len() - 1)];
                    }
                }
                counts.releases = counts.releases.saturating_add(1);
                Fate::Returned {
                    due: (delay_ms > 0).then(|| self.now.plus_millis(delay_ms)),
                    meta: Meta {
                        priority: priority.map_or(held.priority, |priority| priority.0),
                        delay_ms,
                        counts,
                        ..held.meta()
                    },
                }
            }
        }
    }

    /// To the dead-letter stream, or aside where there is none.
    fn death(&self, held: &Hold, reason: Reason) -> Fate {
        let grave = match self.found(held) {
            Some(found) => self.grave(found.stream, found.at, reason),
            None => Grave::Missing,
        };
        match grave {
            Grave::At { .. } => Fate::Dead(grave, reason),
            _ => Fate::Parked(parked(held, None)),
        }
    }

    pub(super) fn park(&mut self, hold: HoldKey, meta: Meta) -> Result<Gate, Refusal> {
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        let priority = Priority(meta.priority);
        self.scratch.clear();
        event::put_parked(
            &mut self.scratch,
            held.group,
            held.seq,
            priority,
            &meta.counts,
        );
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(held) = self.release_hold(hold)
            && let Some(found) = self.found(&held)
        {
            let after = gate.lsn;
            self.apply_parked(found, Meta { after, ..meta });
        }
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
            self.refill(key, tag, fx);
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
        self.count_removed(found.stream);
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

    /// Makes parked messages ready, or delayed ones when nothing is parked.
    pub(crate) fn kick(
        &mut self,
        key: SessionKey,
        stream: Target,
        group: &str,
        max: u64,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        let Some(at) = self
            .streams
            .get(&stream)
            .and_then(|state| state.group_named(group))
        else {
            return now_reply(Reply::NotFound);
        };
        let mut gate = Gate::OPEN;
        let mut kicked = 0;
        let parked = self
            .group(stream, at)
            .is_some_and(|group| !group.lists.parked.is_empty());
        while kicked < max {
            let Some(group) = self.group(stream, at) else {
                break;
            };
            let (place, seq) = if parked {
                let Some((ticket, seq)) = group.lists.parked.first() else {
                    break;
                };
                (Place::Parked(ticket), Seq(seq))
            } else {
                let Some((due, seq)) = group.lists.delayed.first() else {
                    break;
                };
                (Place::Delayed(Timestamp(due)), Seq(seq))
            };
            gate = self.kick_from(
                Found {
                    stream,
                    at,
                    seq,
                    hold: None,
                },
                place,
            )?;
            kicked += 1;
            // One by one: who waits gets the first that is kicked, not the best of all that are.
            self.dispatch(stream, at, fx);
        }
        self.set_delay_alarm(stream, at);
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
        let known = group.meta(seq).copied();
        let mut meta = match known {
            Some(meta) => meta,
            None => {
                let position = self
                    .position(stream, seq)?
                    .ok_or(Refusal::Unsupported("the message is gone"))?;
                Meta::of(&self.head(position)?)
            }
        };
        meta.counts.kicks = meta.counts.kicks.saturating_add(1);
        let level = self.level_of(id);
        self.scratch.clear();
        put_returned(&mut self.scratch, (id, seq), None, &meta);
        let gate = self.logs.control(level, &[&self.scratch])?;
        if let Some(group) = self.group_mut(stream, at) {
            group.forget(place, seq);
        }
        meta.after = gate.lsn;
        self.apply_returned(found, None, meta);
        Ok(gate)
    }
}
