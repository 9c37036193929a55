//! What happens in the model because time passes, or because a session or the whole shard ends.

use std::rc::Rc;

use longtail_engine::{Reason, Reply, StreamName};
use longtail_model::{Durability, Seq, SessionId};

use super::{Blocked, Model, Place, Timer, Told};

impl Model {
    pub fn advance(&mut self, now: u64, told: &mut Told) {
        self.now = self.now.max(now);
        let later = self.timers.split_off(&(self.now + 1, 0));
        let due = std::mem::replace(&mut self.timers, later);
        for timer in due.into_values() {
            self.fire(timer, told);
            self.mark();
        }
        self.run_unblocked(told);
    }

    /// When the next timer is due.
    pub fn next_due(&self) -> Option<u64> {
        self.timers.first_key_value().map(|(key, _)| key.0)
    }

    fn fire(&mut self, timer: Timer, told: &mut Told) {
        match timer {
            Timer::Hold(hold) => self.time_out(hold, told),
            Timer::Delay(stream, group) => self.end_delays(stream, group, told),
            Timer::Pause(stream, group) => {
                let pause = match group {
                    None => self.stream(stream).and_then(|s| s.pause),
                    Some(group) => self.group(stream, group).and_then(|g| g.pause),
                };
                if pause.is_some_and(|pause| pause.end <= self.now) {
                    self.end_pause(stream, group, told);
                }
            }
            Timer::Take(key) => match self.sessions.get(key).and_then(|s| s.blocked.clone()) {
                Some(Blocked::Take { .. }) => self.end_wait(key, Reply::TimedOut, told),
                Some(Blocked::Read { from, .. }) => {
                    self.end_wait(
                        key,
                        Reply::Batch {
                            messages: Vec::new(),
                            next: Seq(from),
                        },
                        told,
                    );
                }
                None => {}
            },
            Timer::Soon(key) => self.deadline_soon(key, told),
            Timer::Expiry(stream) => self.expire(stream, told),
            Timer::Age(stream) => self.age(stream, told),
        }
    }

    fn time_out(&mut self, number: u64, told: &mut Told) {
        let now = self.now;
        let Some(hold) = self
            .holds
            .get(&number)
            .filter(|h| h.deadline.is_some_and(|due| due <= now))
        else {
            return;
        };
        let (at, key, tag) = (hold.at(), hold.session, hold.consumer);
        self.timeouts += 1;
        let durable = self.kept.streams[&at.stream].level != Durability::Memory;
        let count_losses = (self.group(at.stream, at.group)).is_some_and(|g| g.config.count_losses);
        let standing = self.standing_mut(at).expect("held");
        standing.now.counts.timeouts += 1;
        standing.now.counts.failures += u32::from(count_losses);
        if durable {
            let mut logged = standing.now;
            logged.place = Place::Ready;
            standing.logged = vec![logged];
            self.mark();
        }
        self.abandon(number, told);
        self.refill(key, tag, told);
    }

    fn end_delays(&mut self, stream: u64, group: u64, told: &mut Told) {
        let now = self.now;
        let Some(found) = self.group_mut(stream, group) else {
            return;
        };
        found.delay_timer = None;
        while let Some(found) = self.group_mut(stream, group)
            && let Some((due, seq)) = found.first_delayed()
            && due <= now
            && let Some(standing) = found.messages.get_mut(&seq)
        {
            standing.now.place = Place::Ready;
            self.dispatch(stream, group, told);
        }
        self.set_delay_alarm(stream, group);
    }

    fn deadline_soon(&mut self, key: usize, told: &mut Told) {
        let Some(Blocked::Take {
            consumer,
            margin_ms,
            ..
        }) = self.sessions.get(key).and_then(|s| s.blocked.clone())
        else {
            return;
        };
        let Some(deadline) = self.soonest_deadline(key) else {
            return self.set_soon(key, None);
        };
        let when = deadline - margin_ms;
        if when > self.now {
            let timer = self.set_timer(when, Timer::Soon(key));
            return self.set_soon(key, Some(timer));
        }
        self.set_soon(key, None);
        let at = self.sessions[key]
            .consumers
            .iter()
            .position(|c| c.tag == consumer)
            .expect("it takes");
        if !self.ready_but_paused(key, at) {
            self.end_wait(key, Reply::DeadlineSoon, told);
        }
    }

    fn set_soon(&mut self, key: usize, timer: Option<super::TimerKey>) {
        if let Some(Blocked::Take { soon, .. }) = &mut self.sessions[key].blocked {
            *soon = timer;
        }
    }

    /// What was only for those who waited goes, and what is too much.
    pub(super) fn drop_leftovers(&mut self, told: &mut Told) {
        loop {
            if let Some(stream) = self.fleeting.pop() {
                self.expire_fleeting(stream, told);
            } else if let Some(stream) = self.crowded.pop() {
                self.shrink(stream, told);
            } else {
                return;
            }
            self.mark();
        }
    }

    fn expire_fleeting(&mut self, stream: u64, told: &mut Told) {
        let Some(set) = self.stream(stream).map(|s| s.expiry_timer) else {
            return;
        };
        self.stop_timer(set.map(|alarm| alarm.1));
        self.expire(stream, told);
        let set = self.stream(stream).and_then(|s| s.age_timer);
        if let Some((due, timer)) = set
            && due <= self.now
        {
            self.stop_timer(Some(timer));
            self.age(stream, told);
        }
    }

    pub(super) fn recheck_age(&mut self, stream: u64) {
        const RECHECK_MS: u64 = 1_000;
        let set = self.stream(stream).and_then(|s| s.age_timer);
        let timer = self.move_alarm(set, Some(self.now + RECHECK_MS), Timer::Age(stream));
        if let Some(state) = self.stream_mut(stream) {
            state.age_timer = timer;
        }
    }

    /// The age at which messages go, and why.
    fn age_limit(&self, stream: u64) -> Option<(u64, Reason)> {
        let config = &self.stream(stream)?.config;
        let old = Some(config.limits.max_age_ms).filter(|&ms| ms > 0);
        match (config.expires_ms, old) {
            (Some(expires), Some(old)) if old < expires => Some((old, Reason::Limit)),
            (Some(expires), _) => Some((expires, Reason::Expired)),
            (None, old) => Some((old?, Reason::Limit)),
        }
    }

    fn expire(&mut self, stream: u64, told: &mut Told) {
        const RECHECK_MS: u64 = 1_000;
        let now = self.now;
        if let Some(state) = self.stream_mut(stream) {
            state.expiry_timer = None;
        }
        let entries: Vec<(u64, u64)> = self
            .stream(stream)
            .map(|s| s.expiry.keys().copied().collect())
            .unwrap_or_default();
        let mut later = None;
        for (due, seq) in entries {
            if due > now {
                later = Some(later.unwrap_or(due).min(due));
                break;
            }
            if self.is_held(stream, seq) {
                later = Some(now + RECHECK_MS);
                continue;
            }
            if !self.kept.streams[&stream].messages.contains_key(&seq) {
                continue;
            }
            if !self.drop_expired(stream, seq, told) {
                later = Some(now + RECHECK_MS);
                break;
            }
        }
        if let Some(later) = later {
            self.look_at_expiry(stream, later);
        }
        self.drop_if_idle(stream);
    }

    fn age(&mut self, stream: u64, told: &mut Told) {
        let now = self.now;
        let Some(state) = self.stream_mut(stream) else {
            return;
        };
        state.age_timer = None;
        let Some((limit, reason)) = self.age_limit(stream) else {
            return;
        };
        let state = &self.kept.streams[&stream];
        let messages: Vec<(u64, u64)> = state
            .messages
            .iter()
            .map(|(seq, m)| (*seq, m.created))
            .collect();
        let mut old = Vec::new();
        for (seq, created) in messages {
            if now - created < limit {
                self.set_age_alarm(stream, created);
                break;
            }
            if !self.is_held(stream, seq) {
                old.push(seq);
            }
        }
        self.drop_old(stream, &old, reason, told);
        self.drop_if_idle(stream);
    }

    pub(super) fn set_delay_alarm(&mut self, stream: u64, group: u64) {
        let Some(found) = self.group(stream, group) else {
            return;
        };
        let first = found.first_delayed().map(|(due, _)| due);
        let set = found.delay_timer;
        let timer = self.move_alarm(set, first, Timer::Delay(stream, group));
        self.group_mut(stream, group).expect("there").delay_timer = timer;
    }

    pub(super) fn look_at_expiry(&mut self, stream: u64, due: u64) {
        let Some(state) = self.stream(stream) else {
            return;
        };
        let set = state.expiry_timer;
        if set.is_none_or(|(set, _)| due < set) {
            let timer = self.move_alarm(set, Some(due), Timer::Expiry(stream));
            self.stream_mut(stream).expect("there").expiry_timer = timer;
        }
    }

    fn move_alarm(
        &mut self,
        set: Option<super::Alarm>,
        due: Option<u64>,
        timer: Timer,
    ) -> Option<super::Alarm> {
        if set.map(|alarm| alarm.0) == due {
            return set;
        }
        self.stop_timer(set.map(|alarm| alarm.1));
        due.map(|due| (due, self.set_timer(due, timer)))
    }

    pub(super) fn set_age_alarm(&mut self, stream: u64, created: u64) {
        let Some(state) = self.stream(stream) else {
            return;
        };
        let free = state.age_timer.is_none();
        if let Some((age, _)) = self.age_limit(stream)
            && free
        {
            let timer = self.set_timer(created + age, Timer::Age(stream));
            self.stream_mut(stream).expect("there").age_timer = Some((created + age, timer));
        }
    }

    pub fn detach(&mut self, session: SessionId, told: &mut Told) {
        let Some(key) = self.key_of(session) else {
            return;
        };
        self.stop_waiting(key);
        for at in 0..self.sessions[key].consumers.len() {
            self.stop_queueing(key, at);
        }
        let state = self.sessions.remove(key);
        let held: Vec<u64> = self
            .holds
            .iter()
            .filter(|(_, h)| h.session == key)
            .map(|(number, _)| *number)
            .collect();
        self.lose_holds(held, told);
        for (stream, role) in state.links.into_values() {
            self.link_closed(stream, role);
        }
        self.run_unblocked(told);
    }

    pub fn interrupt(&mut self, session: SessionId, told: &mut Told) {
        let Some(key) = self.key_of(session) else {
            return;
        };
        self.sessions[key].interrupted = true;
        if let Some(Blocked::Take { .. }) = self.sessions[key].blocked {
            self.end_wait(key, Reply::TimedOut, told);
            self.run_unblocked(told);
        }
    }

    /// Everything but what is kept is gone: a restart. `self.kept` is what came back.
    pub fn restart(&mut self, now: u64) {
        self.now = now;
        self.sessions.clear();
        self.holds.clear();
        self.timers.clear();
        self.runnable.clear();
        self.taken.clear();
        self.fleeting.clear();
        self.crowded.clear();
        self.trail.clear();
        self.next_session = 1;
        self.timeouts = 0;
        self.lost = 0;
        for state in self.kept.streams.values_mut() {
            let state = Rc::make_mut(state);
            (
                state.producers,
                state.consumers,
                state.appended,
                state.removed,
            ) = (0, 0, 0, 0);
            state.pauses = 0;
            state.readers.clear();
            (state.expiry_timer, state.age_timer) = (None, None);
            state.expiry = state
                .messages
                .iter()
                .filter_map(|(seq, m)| m.expires.map(|due| ((due, *seq), ())))
                .collect();
            for group in &mut state.groups {
                group.waiters.clear();
                group.delay_timer = None;
            }
        }
        let streams: Vec<u64> = self.kept.streams.keys().copied().collect();
        for stream in streams {
            let groups: Vec<u64> = self.kept.streams[&stream]
                .groups
                .iter()
                .map(|g| g.id)
                .collect();
            for group in groups {
                self.set_delay_alarm(stream, group);
                self.set_pause_timer(stream, Some(group));
            }
            self.set_pause_timer(stream, None);
            if let Some(due) = self.kept.streams[&stream]
                .expiry
                .keys()
                .next()
                .map(|key| key.0)
            {
                self.look_at_expiry(stream, due);
            }
            if let Some(created) = self.kept.streams[&stream]
                .messages
                .values()
                .next()
                .map(|m| m.created)
            {
                self.set_age_alarm(stream, created);
            }
        }
    }

    pub fn names(&self) -> Vec<StreamName> {
        self.kept.streams.values().map(|s| s.name.clone()).collect()
    }
}
