//! Taking: who gets which message.
//!
//! A consumer that finds nothing joins the queues of all its groups with one ticket; whatever becomes ready in one of
//! them goes to the oldest ticket there. A consumer that waits has nothing ready in any of its groups, so what becomes
//! ready first is its best.

use longtail_model::{ConsumerTag, IndexId, Lsn, Seq, StreamId, Timestamp};

use super::session::{Blocked, Consumer, Session, TAKEN_BY_NUMBER};
use super::timers::{RECHECK_MS, Timer};
use super::{Found, Head, Outcome, Rule, Shard, now_reply};
use crate::command::{Credit, Handle, Token, Wait};
use crate::effect::{Delivery, Effect, Effects, Gate, Refusal, Reply};
use crate::event;
use crate::shard::logs::Logs;
use crate::stream::{Hold, HoldKey, Meta, Place, SessionKey};

impl Shard {
    pub(crate) fn take(
        &mut self,
        key: SessionKey,
        token: Token,
        tag: ConsumerTag,
        wait: Wait,
        margin_ms: u64,
        fx: &mut dyn Effects,
    ) {
        let (id, interrupted) = match self.sessions.get(key) {
            Some(state) => (state.id, state.interrupted),
            None => return,
        };
        let consumers = &self.sessions[key].consumers;
        let draws = |consumer: &Consumer| consumer.tag == tag && !consumer.sources.is_empty();
        let Some(at) = consumers.iter().position(draws) else {
            return fx.emit(id, Gate::OPEN, Effect::Reply(token, Reply::NotFound));
        };
        let best = match self.best(key, at) {
            Err(_) if self.mend_pages() => self.best(key, at),
            best => best,
        };
        let best = match best {
            Ok(best) => best,
            Err(refusal) => {
                let reply = Reply::Refused(refusal);
                return fx.emit(id, Gate::OPEN, Effect::Reply(token, reply));
            }
        };
        if let Some((stream, group, seq)) = best {
            let (gate, reply) = match self.deliver(key, tag, stream, group, seq) {
                Ok((gate, delivery)) => (gate, Reply::Delivered(delivery)),
                Err(refusal) => (Gate::OPEN, Reply::Refused(refusal)),
            };
            return fx.emit(id, gate, Effect::Reply(token, reply));
        }
        let soonest = if margin_ms > 0 {
            self.soonest_deadline(key)
        } else {
            None
        };
        if let Some(deadline) = soonest
            && deadline <= self.now.plus_millis(margin_ms)
            && !self.ready_but_paused(key, at)
        {
            return fx.emit(id, Gate::OPEN, Effect::Reply(token, Reply::DeadlineSoon));
        }
        if wait == Wait::No || interrupted {
            return fx.emit(id, Gate::OPEN, Effect::Reply(token, Reply::TimedOut));
        }
        let timeout = match wait {
            Wait::Millis(ms) => Some(
                self.timers
                    .insert(self.now.plus_millis(ms), Timer::Take(key)),
            ),
            Wait::No | Wait::Forever => None,
        };
        let soon = soonest.map(|deadline| {
            let when = Timestamp(deadline.0.saturating_sub(margin_ms));
            self.timers.insert(when, Timer::Soon(key))
        });
        self.sessions[key].blocked = Some(Blocked::Take {
            token,
            consumer: tag,
            margin_ms,
            timeout,
            soon,
        });
        self.start_queueing(key, at);
    }

    /// Lets a consumer have more messages without asking for each.
    pub(crate) fn credit(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        credit: Credit,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(state) = self.sessions.get_mut(key) else {
            return now_reply(Reply::NotFound);
        };
        let Some(at) = state
            .consumers
            .iter()
            .position(|consumer| consumer.tag == tag)
        else {
            return Err(Refusal::UnknownLink);
        };
        let consumer = &mut state.consumers[at];
        consumer.credit = match (consumer.credit, credit) {
            (Credit::Add(left), Credit::Add(more)) => Credit::Add(left.saturating_add(more)),
            (_, credit) => credit,
        };
        self.serve(key, at, fx);
        now_reply(Reply::Done)
    }

    /// Pushes to a consumer while it has room and there is something; then lets it wait for more.
    pub(crate) fn serve(&mut self, key: SessionKey, at: usize, fx: &mut dyn Effects) {
        while self.sessions[key].consumers[at].has_room() {
            let (stream, group, seq) = match self.best(key, at) {
                Ok(Some(best)) => best,
                Ok(None) => return self.start_queueing(key, at),
                Err(_) => {
                    self.start_queueing(key, at);
                    for (stream, group) in self.sessions[key].consumers[at].sources.clone() {
                        self.dispatch_later(stream, group);
                    }
                    return;
                }
            };
            self.push(key, at, stream, group, seq, fx);
        }
        let state = &self.sessions[key];
        if !state.takes(state.consumers[at].tag) {
            self.stop_queueing(key, at);
        }
    }

    fn push(
        &mut self,
        key: SessionKey,
        at: usize,
        stream: StreamId,
        group: usize,
        seq: Seq,
        fx: &mut dyn Effects,
    ) {
        let consumer = &self.sessions[key].consumers[at];
        let (tag, away) = (consumer.tag, matches!(consumer.credit, Credit::Away(_)));
        let given = if away {
            self.give_away(key, tag, stream, group, seq)
        } else {
            self.deliver(key, tag, stream, group, seq)
        };
        // One that cannot be read was parked by `deliver` and reported: the consumer gets the next one.
        if let Ok((gate, delivery)) = given {
            if let Credit::Add(left) | Credit::Away(left) =
                &mut self.sessions[key].consumers[at].credit
            {
                *left = left.saturating_sub(1);
            }
            fx.emit(self.sessions[key].id, gate, Effect::Push(delivery));
        }
    }

    /// Hands the head of a group, which is `seq`, to a consumer, and is done with it. The same as [`Shard::deliver`] and
    /// [`Shard::ack`] without a hold in between, but for what the log does not take as settled: that stays held.
    fn give_away(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        stream: StreamId,
        at: usize,
        seq: Seq,
    ) -> Result<(Gate, Delivery), Refusal> {
        let nothing = || Refusal::Unsupported("nothing to deliver");
        let state = self.streams.get(&stream).ok_or_else(nothing)?;
        let group = state.groups.get(at).ok_or_else(nothing)?;
        if group.lists.rule.is_some() {
            return self.deliver_and_ack(key, tag, stream, at, seq);
        }
        let (level, id) = (state.level, group.id);
        let place = match group.lists.ready.first() {
            Some((ready, first)) if first == seq.0 => Place::Ready(ready),
            _ => Place::Head,
        };
        let meta = group.meta(seq).copied().unwrap_or_default();
        let found = Found {
            stream,
            at,
            seq,
            hold: None,
        };
        let position = self.position(stream, seq);
        let position = position.and_then(|position| position.ok_or_else(nothing));
        let read = position.and_then(|position| Ok((position, self.head(position)?)));
        let (position, head) = match read {
            Ok(read) => read,
            Err(refusal) => {
                self.set_aside_unreadable(found, place);
                return Err(refusal);
            }
        };
        self.scratch.clear();
        event::put_settled(&mut self.scratch, id, seq, head.bytes);
        if self.logs.control(level, &[&self.scratch]).is_err() {
            return self.deliver(key, tag, stream, at, seq);
        }
        self.delivered += 1;
        self.count_removed(stream);
        self.apply_settled(found, Some(place), head.bytes);
        self.drop_if_idle(stream);
        let delivery = Delivery {
            consumer: tag,
            stream,
            group: id,
            seq,
            position,
            redeliveries: meta.counts.deliveries,
            failures: meta.counts.failures,
            mark: meta.mark,
        };
        let mut gate = Logs::gate_of(position, level);
        gate.lsn = gate.lsn.max(meta.after);
        Ok((gate, delivery))
    }

    fn deliver_and_ack(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        stream: StreamId,
        at: usize,
        seq: Seq,
    ) -> Result<(Gate, Delivery), Refusal> {
        let given = self.deliver(key, tag, stream, at, seq)?;
        if let Some(hold) = self.sessions[key].last_hold {
            // What the log refuses stays held.
            let _ = self.ack(hold);
        }
        Ok(given)
    }

    /// Gives what is ready in a group to those who wait for it.
    pub(crate) fn dispatch(&mut self, stream: StreamId, at: usize, fx: &mut dyn Effects) {
        loop {
            let Some(state) = self.streams.get(&stream) else {
                return;
            };
            let Some(group) = state.groups.get(at) else {
                return;
            };
            if group.lists.waiters.is_empty() || state.is_paused(group) {
                return;
            }
            let rule = group.lists.rule.as_deref();
            let is_ruled = rule.is_some();
            if rule.is_some_and(Rule::is_exclusive) {
                match self.next_exclusive(stream, at) {
                    Ok(Some((key, tag, seq))) => self.give(key, tag, stream, at, seq, fx),
                    Ok(None) => return,
                    Err(_) => return self.dispatch_later(stream, at),
                }
                continue;
            }
            let Some(index) = self.indexes.get(&state.index) else {
                return;
            };
            let seq = match group.head(index, &self.logs) {
                Ok(Some((_, seq))) => seq,
                Ok(None) => return,
                Err(_) => return self.dispatch_later(stream, at),
            };
            let waiter = if is_ruled {
                self.next_waiter(stream, at, seq)
            } else {
                self.first_waiter(stream, at)
            };
            let Some(waiter) = waiter else {
                return;
            };
            self.give(waiter.session, waiter.consumer, stream, at, seq, fx);
        }
    }

    /// Gives a ready message to a consumer that waits.
    fn give(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        stream: StreamId,
        at: usize,
        seq: Seq,
        fx: &mut dyn Effects,
    ) {
        if self.sessions.get(key).is_some_and(|state| state.takes(tag)) {
            if let Ok((gate, delivery)) = self.deliver(key, tag, stream, at, seq) {
                self.end_take(key, Reply::Delivered(delivery), gate, fx);
            }
        } else if let Some(consumer) = self.sessions[key]
            .consumers
            .iter()
            .position(|c| c.tag == tag)
        {
            // To the end of the queue: consumers take turns.
            self.push(key, consumer, stream, at, seq, fx);
            if self.sessions[key].consumers[consumer].has_room() {
                self.queue_again(key, consumer);
            } else {
                self.stop_queueing(key, consumer);
            }
        }
    }

    /// Looks again in a while whether somebody can have what a group has ready: now it cannot be told what that is.
    fn dispatch_later(&mut self, stream: StreamId, at: usize) {
        if self.postponed.insert((stream, at)) {
            let when = self.now.plus_millis(RECHECK_MS);
            self.timers.insert(when, Timer::Dispatch(stream, at));
        }
    }

    /// Looks again, see [`Shard::dispatch_later`].
    pub(crate) fn dispatch_now(&mut self, stream: StreamId, at: usize, fx: &mut dyn Effects) {
        if self.postponed.remove(&(stream, at)) {
            self.dispatch(stream, at, fx);
        }
    }

    /// The best message of all groups that a consumer draws from: by priority, then by number. Numbers of different
    /// sequence spaces do not compare: there, equals take turns.
    ///
    /// # Errors
    /// When an index page in which the best may be cannot be read.
    fn best(
        &mut self,
        key: SessionKey,
        at: usize,
    ) -> Result<Option<(StreamId, usize, Seq)>, Refusal> {
        let consumer = self.sessions.get(key);
        let Some(consumer) = consumer.and_then(|session| session.consumers.get(at)) else {
            return Ok(None);
        };
        let (tag, sources) = (consumer.tag, consumer.sources.len());
        let mut best: Option<(u64, Seq, IndexId, usize)> = None;
        let mut mixed = false;
        for step in 0..sources {
            let Some(consumer) = self.sessions.get(key).and_then(|s| s.consumers.get(at)) else {
                return Ok(None);
            };
            let place = (consumer.turn + step) % sources;
            let (stream, group) = consumer.sources[place];
            let Some(state) = self.streams.get(&stream) else {
                continue;
            };
            let Some(found) = state.groups.get(group) else {
                continue;
            };
            if state.is_paused(found) {
                continue;
            }
            let id = state.index;
            let Some(index) = self.indexes.get(&id) else {
                continue;
            };
            let rule = found.lists.rule.as_deref();
            let head = if rule.is_some_and(Rule::is_exclusive) {
                self.exclusive_for(stream, group, key, tag)?
                    .map(|seq| (0, seq))
            } else {
                found.head(index, &self.logs)?
            };
            let Some((priority, seq)) = head else {
                continue;
            };
            let better = best.is_none_or(|(best_priority, best_seq, index, _)| {
                mixed |= index != id;
                priority < best_priority
                    || (priority == best_priority && index == id && seq < best_seq)
            });
            if better {
                best = Some((priority, seq, id, place));
            }
        }
        let Some((_, seq, _, place)) = best else {
            return Ok(None);
        };
        let consumer = self.sessions.get_mut(key);
        let Some(consumer) = consumer.and_then(|session| session.consumers.get_mut(at)) else {
            return Ok(None);
        };
        if mixed {
            consumer.turn = (place + 1) % sources;
        }
        let (stream, group) = consumer.sources[place];
        Ok(Some((stream, group, seq)))
    }

    /// Whether a paused group of the consumer has something ready.
    pub(crate) fn ready_but_paused(&self, key: SessionKey, at: usize) -> bool {
        self.sessions
            .get(key)
            .and_then(|state| state.consumers.get(at))
            .is_some_and(|consumer| {
                consumer.sources.iter().any(|&(stream, group)| {
                    self.streams.get(&stream).is_some_and(|state| {
                        state.groups.get(group).is_some_and(|group| {
                            state.is_paused(group) && group.ready_len(state.offered) > 0
                        })
                    })
                })
            })
    }

    /// The first deadline among what a session holds.
    pub(crate) fn soonest_deadline(&self, key: SessionKey) -> Option<Timestamp> {
        let mut soonest = None;
        let mut next = self.sessions.get(key)?.first_hold;
        while let Some(hold) = next.and_then(|hold| self.holds.get(hold)) {
            next = hold.next;
            if hold.timer.is_some() && soonest.is_none_or(|soonest| hold.deadline < soonest) {
                soonest = Some(hold.deadline);
            }
        }
        soonest
    }

    /// Takes one message out of its order.
    pub(crate) fn take_one(&mut self, key: SessionKey, message: Handle) -> Outcome {
        let Some(found) = self.resolve(key, message)? else {
            return now_reply(Reply::NotFound);
        };
        match self.locate(found)? {
            None | Some(Place::Held(_)) => now_reply(Reply::NotFound),
            Some(place) => {
                let (gate, delivery) = self.hold(key, TAKEN_BY_NUMBER, found, place)?;
                self.delivered += 1;
                Ok((gate, Reply::Delivered(delivery)))
            }
        }
    }

    /// Hands the head of a group, which is `seq`, to a consumer.
    fn deliver(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        stream: StreamId,
        at: usize,
        seq: Seq,
    ) -> Result<(Gate, Delivery), Refusal> {
        let found = Found {
            stream,
            at,
            seq,
            hold: None,
        };
        let nothing = || Refusal::Unsupported("nothing to deliver");
        let state = self.streams.get(&stream).ok_or_else(nothing)?;
        let group = state.groups.get(at).ok_or_else(nothing)?;
        if group.lists.rule.as_deref().is_some_and(Rule::is_pinned) {
            self.leave_lane(stream, at, seq);
            return self.hand_over(key, tag, found, Place::Ready(0));
        }
        debug_assert_eq!(
            self.indexes
                .get(&state.index)
                .and_then(|index| group.head(index, &self.logs).ok().flatten())
                .map(|(_, head)| head),
            Some(seq)
        );
        let place = match group.lists.ready.first() {
            Some((ready, first)) if first == seq.0 => Place::Ready(ready),
            _ => Place::Head,
        };
        self.hand_over(key, tag, found, place)
    }

    fn hand_over(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        found: Found,
        place: Place,
    ) -> Result<(Gate, Delivery), Refusal> {
        let taken = self.hold(key, tag, found, place);
        if taken.is_ok() {
            self.delivered += 1;
        } else {
            // A message that cannot be read must not stop those behind it.
            self.set_aside_unreadable(found, place);
        }
        taken
    }

    /// Moves a message from its place into the hands of a session.
    fn hold(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        found: Found,
        place: Place,
    ) -> Result<(Gate, Delivery), Refusal> {
        let Found {
            stream, at, seq, ..
        } = found;
        let position = self
            .position(stream, seq)?
            .ok_or(Refusal::Unsupported("the message is gone"))?;
        let head = self.head(position)?;
        let now = self.now;
        let domain = self.domain(stream, at);
        let state = self.streams.get_mut(&stream).ok_or(Refusal::UnknownLink)?;
        let level = state.level;
        let group = state.groups.get_mut(at).ok_or(Refusal::UnknownLink)?;
        let meta = group.take_meta(seq);
        match place {
            Place::Ready(ready) if group.lists.ready.first() == Some((ready, seq.0)) => {
                group.pop_head(ready, seq);
            }
            Place::Ready(_) | Place::Ahead | Place::Head => {
                let index = self.indexes.get(&state.index);
                if place == Place::Ahead && group.head_is_ahead(seq, index, &self.logs) {
                    group.pop_head(0, seq);
                } else {
                    group.remove_ready(place, seq);
                }
            }
            Place::Delayed(_) | Place::Parked(_) | Place::Held(_) => group.take_aside(place, seq),
        }
        let mut counts = meta.map_or_else(Default::default, |meta: Meta| meta.counts);
        let redeliveries = counts.deliveries;
        counts.deliveries = counts.deliveries.saturating_add(1);
        let ack_timeout_ms = if head.ack_timeout_ms > 0 {
            head.ack_timeout_ms
        } else {
            group.config.ack_timeout_ms
        };
        group.held += 1;
        group.held_bytes += head.bytes;
        let group_id = group.id;
        let previous = self.sessions[key].last_hold;
        let hold = self.holds.insert(Hold {
            stream,
            group: group_id,
            seq,
            position,
            session: key,
            consumer: tag,
            priority: meta.map_or(head.priority, |meta| meta.priority),
            delay_ms: meta.map_or(head.delay_ms, |meta| meta.delay_ms),
            ack_timeout_ms,
            deadline: if ack_timeout_ms > 0 {
                now.plus_millis(ack_timeout_ms)
            } else {
                Timestamp::NEVER
            },
            timer: None,
            bytes: head.bytes,
            counts,
            after: meta.map_or(Lsn::ZERO, |meta| meta.after),
            mark: meta.map_or(0, |meta| meta.mark),
            previous,
            next: None,
        });
        if ack_timeout_ms > 0 {
            let timer = self
                .timers
                .insert(now.plus_millis(ack_timeout_ms), Timer::Hold(hold));
            self.holds[hold].timer = Some(timer);
        }
        match previous {
            Some(previous) => self.holds[previous].next = Some(hold),
            None => self.sessions[key].first_hold = Some(hold),
        }
        self.sessions[key].last_hold = Some(hold);
        self.count_held(key, tag);
        self.hold_by.insert(domain, seq.0, hold);
        self.taken.push((group_id, seq));
        let delivery = Delivery {
            consumer: tag,
            stream,
            group: group_id,
            seq,
            position,
            redeliveries,
            failures: counts.failures,
            mark: self.holds[hold].mark,
        };
        let mut gate = Logs::gate_of(position, level);
        gate.lsn = gate.lsn.max(self.holds[hold].after);
        Ok((gate, delivery))
    }

    /// Takes a hold off its session's list and out of the tables; the message is nowhere until the caller places it.
    pub(crate) fn release_hold(&mut self, hold: HoldKey) -> Option<Hold> {
        let held = self.holds.try_remove(hold)?;
        if let Some(timer) = held.timer {
            self.timers.cancel(timer);
        }
        match held.previous {
            Some(previous) => {
                if let Some(previous) = self.holds.get_mut(previous) {
                    previous.next = held.next;
                }
            }
            None => {
                if let Some(state) = self.sessions.get_mut(held.session) {
                    state.first_hold = held.next;
                }
            }
        }
        match held.next {
            Some(next) => {
                if let Some(next) = self.holds.get_mut(next) {
                    next.previous = held.previous;
                }
            }
            None => {
                if let Some(state) = self.sessions.get_mut(held.session) {
                    state.last_hold = held.previous;
                }
            }
        }
        if let Some(state) = self.sessions.get_mut(held.session)
            && let Some(consumer) = state.consumer_mut(held.consumer)
        {
            consumer.held = consumer.held.saturating_sub(1);
            if consumer.is_idle() {
                state.forget_idle();
            }
        }
        if let Some((stream, at)) = self.group_at(held.group) {
            let domain = self.domain(stream, at);
            self.hold_by.remove(domain, held.seq.0);
            if let Some(group) = self.group_mut(stream, at) {
                group.held -= 1;
                group.held_bytes = group.held_bytes.saturating_sub(held.bytes);
            }
        }
        Some(held)
    }

    /// A consumer holds one message more. One that waits for more than its level allows waits no longer.
    fn count_held(&mut self, key: SessionKey, tag: ConsumerTag) {
        let state = &mut self.sessions[key];
        let Some(at) = state.consumers.iter().position(|c| c.tag == tag) else {
            return;
        };
        let consumer = &mut state.consumers[at];
        consumer.held = consumer.held.saturating_add(1);
        let full = consumer.ticket.is_some() && !consumer.has_room();
        if full && !state.takes(tag) {
            self.stop_queueing(key, at);
        }
    }

    /// A consumer holds fewer messages than before: where a level says how many it may hold, it gets more.
    pub(crate) fn refill(&mut self, session: SessionKey, tag: ConsumerTag, fx: &mut dyn Effects) {
        let Some(state) = self.sessions.get(session) else {
            return;
        };
        let levelled = |consumer: &Consumer| {
            // One that waits has nothing ready in any of its groups.
            consumer.tag == tag
                && consumer.ticket.is_none()
                && matches!(consumer.credit, Credit::Level(_))
        };
        if let Some(at) = state.consumers.iter().position(levelled) {
            self.serve(session, at, fx);
        }
    }

    /// Releases holds; returns who had them, each consumer once.
    pub(crate) fn release_all(&mut self, holds: Vec<HoldKey>) -> Vec<(SessionKey, ConsumerTag)> {
        let mut holders: Vec<_> = holds
            .into_iter()
            .filter_map(|hold| self.release_hold(hold))
            .map(|held| (held.session, held.consumer))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// [`Shard::refill`] for several consumers, in a fixed order.
    pub(crate) fn refill_all(
        &mut self,
        consumers: Vec<(SessionKey, ConsumerTag)>,
        fx: &mut dyn Effects,
    ) {
        for (session, tag) in consumers {
            self.refill(session, tag, fx);
        }
    }

    pub(crate) fn session(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(key)
    }

    pub(crate) fn read_head(&mut self, position: Lsn) -> Result<Head, Refusal> {
        self.head(position)
    }
}
