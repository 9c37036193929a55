//! What happens because time passes.

use longtail_model::{Lsn, Seq, StreamId, Timestamp};

use super::dead::Grave;
use super::session::Blocked;
use super::trim::Cut;
use super::{Found, Shard};
use crate::config::Reason;
use crate::effect::{Effects, Gate, Reply};
use crate::event;
use crate::stream::{Extra, HoldKey, Meta, Place, SessionKey};

/// How long until what could not be done is tried again: an expired message that somebody holds or that the log does
/// not let go, or an index page that cannot be read.
pub(crate) const RECHECK_MS: u64 = 1_000;

/// What a timer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A consumer has held a message too long.
    Hold(HoldKey),
    /// The first delayed message of a group is due.
    Delay(StreamId, usize),
    /// A pause ends.
    Pause(StreamId, Option<usize>),
    /// A blocking take or read has waited long enough.
    Take(SessionKey),
    /// Something that a waiting session holds is about to be taken back.
    Soon(SessionKey),
    /// The first message of a stream expires.
    Expiry(StreamId),
    /// The first message of a stream has reached the age limit.
    Age(StreamId),
    /// A stream still has too much.
    Shrink(StreamId),
    /// Whether a group has something for those who wait is looked at again.
    Dispatch(StreamId, usize),
}

impl Shard {
    /// Lets time pass: fires whatever is due.
    pub fn advance(&mut self, now: Timestamp, fx: &mut dyn Effects) {
        self.now = self.now.max(now);
        let mut due = std::mem::take(&mut self.due);
        self.timers
            .advance(self.now, &mut |_, timer| due.push(timer));
        for timer in due.drain(..) {
            self.fire(timer, fx);
        }
        self.due = due;
        self.run_unblocked(fx);
    }

    /// When to call [`Shard::advance`] at the latest.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.next_due()
    }

    fn fire(&mut self, timer: Timer, fx: &mut dyn Effects) {
        match timer {
            Timer::Hold(hold) => self.time_out(hold, fx),
            Timer::Delay(stream, at) => self.end_delays(stream, at, fx),
            Timer::Pause(stream, at) => self.pause_over(stream, at, fx),
            Timer::Take(key) => match self.session(key).and_then(|state| state.blocked.as_ref()) {
                Some(Blocked::Take { .. }) => self.end_take(key, Reply::TimedOut, Gate::OPEN, fx),
                Some(Blocked::Read { from, .. }) => {
                    let next = *from;
                    self.end_take(
                        key,
                        Reply::Batch {
                            messages: Vec::new(),
                            next,
                        },
                        Gate::OPEN,
                        fx,
                    );
                }
                None => {}
            },
            Timer::Soon(key) => self.deadline_soon(key, fx),
            Timer::Expiry(stream) => self.expire(stream, fx),
            Timer::Age(stream) => self.age(stream, fx),
            Timer::Shrink(stream) => self.shrink(stream, fx),
            Timer::Dispatch(stream, at) => self.dispatch_now(stream, at, fx),
        }
    }

    /// Takes a message back from a consumer that has held it too long.
    fn time_out(&mut self, hold: HoldKey, fx: &mut dyn Effects) {
        let now = self.now;
        let Some(held) = self.holds.get_mut(hold).filter(|held| held.deadline <= now) else {
            return;
        };
        held.timer = None;
        held.counts.timeouts = held.counts.timeouts.saturating_add(1);
        let (session, tag) = (held.session, held.consumer);
        self.timeouts += 1;
        self.count_loss(hold);
        self.note_lost(hold);
        self.abandon(hold, fx);
        self.refill(session, tag, fx);
    }

    /// Makes ready what is due.
    fn end_delays(&mut self, stream: StreamId, at: usize, fx: &mut dyn Effects) {
        let now = self.now;
        loop {
            let Some(group) = self.group_mut(stream, at) else {
                return;
            };
            let Some((due, seq)) = group.lists.delayed.first().filter(|&(due, _)| due <= now.0)
            else {
                break;
            };
            let seq = Seq(seq);
            let priority = match group
                .lists
                .get_mut()
                .and_then(|lists| lists.meta.get_mut(&seq.0))
            {
                Some(meta) => {
                    meta.aside = None;
                    Ok(meta.priority)
                }
                None if group.implicit => Ok(0),
                None => match self.position(stream, seq) {
                    Ok(Some(position)) => self.read_head(position).map(|head| head.priority),
                    Ok(None) => Ok(0),
                    Err(error) => Err(error),
                },
            };
            let Some(group) = self.group_mut(stream, at) else {
                return;
            };
            group.take_aside(Place::Delayed(Timestamp(due)), seq);
            match priority {
                Ok(priority) => {
                    let key = group.key(priority);
                    group.add_ready(key, seq);
                    // One by one: who waits gets what was due first.
                    self.dispatch(stream, at, fx);
                }
                Err(_) => self.apply_parked(
                    Found {
                        stream,
                        at,
                        seq,
                        hold: None,
                    },
                    Meta::default(),
                ),
            }
        }
        if let Some(group) = self.group_mut(stream, at)
            && let Some(lists) = group.lists.get_mut()
        {
            lists.delay_timer.set = None;
        }
        self.set_delay_alarm(stream, at);
    }

    fn deadline_soon(&mut self, key: SessionKey, fx: &mut dyn Effects) {
        let Some(Blocked::Take {
            consumer,
            margin_ms,
            soon,
            ..
        }) = self
            .sessions
            .get_mut(key)
            .and_then(|state| state.blocked.as_mut())
        else {
            return;
        };
        *soon = None;
        let (tag, margin_ms) = (*consumer, *margin_ms);
        let Some(deadline) = self.soonest_deadline(key) else {
            return;
        };
        let when = Timestamp(deadline.0.saturating_sub(margin_ms));
        let Some(at) = self.sessions[key]
            .consumers
            .iter()
            .position(|consumer| consumer.tag == tag)
        else {
            return;
        };
        if when > self.now {
            let timer = self.timers.insert(when, Timer::Soon(key));
            if let Some(Blocked::Take { soon, .. }) = &mut self.sessions[key].blocked {
                *soon = Some(timer);
            }
        } else if !self.ready_but_paused(key, at) {
            self.end_take(key, Reply::DeadlineSoon, Gate::OPEN, fx);
        }
    }

    /// What few streams have, of one that has it.
    fn extra_mut(&mut self, stream: StreamId) -> Option<&mut Extra> {
        self.streams.get_mut(&stream)?.extra.get_mut()
    }

    /// Looks at what has expired without waiting for the timer.
    pub(crate) fn expire_now(&mut self, stream: StreamId, fx: &mut dyn Effects) {
        let now = self.now;
        if let Some(extra) = self.extra_mut(stream) {
            if let Some((_, timer)) = extra.expiry_timer.set.take() {
                self.timers.cancel(timer);
            }
            self.expire(stream, fx);
        }
        if let Some(extra) = self.extra_mut(stream)
            && let Some((_, timer)) = extra.age_timer.set.take_if(|set| set.0 <= now)
        {
            self.timers.cancel(timer);
            self.age(stream, fx);
        }
    }

    /// Whether the time of a message is over.
    pub(crate) fn is_overdue(&mut self, stream: StreamId, position: Lsn) -> bool {
        let Some(state) = self.streams.get(&stream) else {
            return false;
        };
        let own = state.config.expires_ms;
        if own.is_none() && state.extra.expiry.is_empty() {
            return false;
        }
        let now = self.now;
        self.read_head(position).is_ok_and(|head| {
            let own = own.map(|ms| head.created.plus_millis(ms));
            head.expires <= now || own.is_some_and(|due| due <= now)
        })
    }

    /// Drops or dead-letters what has expired and nobody holds.
    fn expire(&mut self, stream: StreamId, fx: &mut dyn Effects) {
        let now = self.now;
        if let Some(extra) = self.extra_mut(stream) {
            extra.expiry_timer.set = None;
        }
        let mut from = (0, 0);
        let mut later = None;
        while let Some((due, seq)) = self
            .streams
            .get(&stream)
            .and_then(|state| state.extra.expiry.range_from(from.0, from.1).next())
        {
            if due > now.0 {
                let due = Timestamp(due);
                later = Some(later.map_or(due, |later: Timestamp| later.min(due)));
                break;
            }
            let seq = Seq(seq);
            from = (due, seq.0 + 1);
            let held = self.is_held(stream, seq);
            let there = self
                .position(stream, seq)
                .map(|position| position.is_some());
            if held || there.is_err() || (there == Ok(true) && !self.drop_expired(stream, seq, fx))
            {
                // It may still be settled, or the log take it: looked at again in a while.
                later = Some(now.plus_millis(RECHECK_MS));
                if held {
                    continue;
                }
                break;
            }
            if let Some(state) = self.streams.get_mut(&stream) {
                state.forget_expiry(Timestamp(due), seq);
            }
        }
        if let Some(later) = later {
            self.look_at_expiry(stream, later);
        }
        self.drop_if_idle(stream);
    }

    /// Removes a message and says so in the log.
    pub(super) fn remove_logged(&mut self, stream: StreamId, seq: Seq) -> bool {
        let level = self
            .streams
            .get(&stream)
            .map_or(longtail_model::Durability::Memory, |state| state.level);
        self.scratch.clear();
        let bytes = self.size(stream, seq);
        event::put_removed(&mut self.scratch, stream, seq, bytes);
        if self.logs.control(level, &[&self.scratch]).is_err() {
            return false;
        }
        self.remove_message(stream, seq, bytes);
        true
    }

    /// Looks at the age limit again in a while.
    pub(crate) fn recheck_age(&mut self, stream: StreamId) {
        let when = self.now.plus_millis(RECHECK_MS);
        if let Some(state) = self.streams.get_mut(&stream) {
            (state.extra.make().age_timer).move_to(
                Some(when),
                &mut self.timers,
                Timer::Age(stream),
            );
        }
    }

    /// Drops or dead-letters what is older than the stream's age limit.
    fn age(&mut self, stream: StreamId, fx: &mut dyn Effects) {
        let now = self.now;
        if let Some(extra) = self.extra_mut(stream) {
            extra.age_timer.set = None;
        }
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let Some((age, reason)) = state.config.age_limit() else {
            return;
        };
        let mut old = Vec::new();
        let mut stays = Vec::new();
        let mut from = Seq::FIRST;
        loop {
            let (seq, position) = match self.next_of_stream(stream, from) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(_) => {
                    self.recheck_age(stream);
                    break;
                }
            };
            let Ok(head) = self.read_head(position) else {
                stays.push(seq);
                from = seq.next();
                continue;
            };
            if now.millis_since(head.created) < age {
                self.set_age_alarm(stream, head.created);
                break;
            }
            from = seq.next();
            if self.is_held(stream, seq) {
                stays.push(seq);
            } else {
                old.push((seq, head.bytes));
            }
        }
        if self.grave(stream, 0, reason) == Grave::Unwanted {
            let cut = Cut {
                below: from,
                except: &stays,
            };
            self.remove_aged(stream, cut, &old);
        } else {
            self.lay_off_aged(stream, &old, reason, fx);
        }
        self.drop_if_idle(stream);
    }

    fn remove_aged(&mut self, stream: StreamId, cut: Cut<'_>, old: &[(Seq, u64)]) {
        if self.is_worth_a_trim(stream, old.len()) {
            let bytes = old.iter().map(|message| message.1).sum();
            if let Err(error) = self.trim(stream, cut, bytes) {
                tracing::warn!(%error, "cannot remove messages that are too old");
            }
            return;
        }
        for &(seq, _) in old {
            if !self.remove_logged(stream, seq) {
                break;
            }
        }
    }

    fn lay_off_aged(
        &mut self,
        stream: StreamId,
        old: &[(Seq, u64)],
        reason: Reason,
        fx: &mut dyn Effects,
    ) {
        for &(seq, _) in old {
            // Who was given the one before may have taken this one, too.
            if self.is_held(stream, seq) {
                continue;
            }
            match self.position(stream, seq) {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(_) => {
                    self.recheck_age(stream);
                    break;
                }
            }
            if reason == Reason::Expired {
                if !self.drop_expired(stream, seq, fx) {
                    self.recheck_age(stream);
                    break;
                }
                continue;
            }
            let wanted = self.grave_of(stream, seq, Reason::Limit) != Grave::Unwanted;
            match self.lay_off_pushed(stream, seq, &[], fx) {
                Ok(true) => {}
                Ok(false) => {
                    if !self.remove_logged(stream, seq) {
                        break;
                    }
                    self.lose(u64::from(wanted), stream);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot dead-letter messages that are too old");
                    break;
                }
            }
        }
    }
}
