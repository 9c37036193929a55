//! Taking and settling in the model.

use std::collections::BTreeSet;

use longtail_engine::{
    Credit, Effect, Handle, Reason, Refusal, Reply, Settle, Target, Token, Wait,
};
use longtail_model::{ConsumerTag, Durability, GroupId, Seq};

use super::dead::Grave;
use super::shrink::makes_room_later;
use super::{
    At, Blocked, Consumer, Hold, Logged, Model, Outcome, Place, Standing, Timer, Told, delivery,
};

impl Model {
    pub(super) fn take(
        &mut self,
        key: usize,
        token: Token,
        tag: ConsumerTag,
        wait: Wait,
        margin_ms: u64,
        told: &mut Told,
    ) {
        let reply = |model: &Model, reply: Reply, told: &mut Told| {
            model.tell(key, Effect::Reply(token, reply), told);
        };
        let draws = |at: &usize| !self.sessions[key].consumers[*at].sources.is_empty();
        let Some(at) = self.consumer(key, tag).filter(draws) else {
            return reply(self, Reply::NotFound, told);
        };
        if let Some(best) = self.best(key, at) {
            let taken = self.hold(key, tag, best);
            return reply(self, Reply::Delivered(taken), told);
        }
        let soonest = if margin_ms > 0 {
            self.soonest_deadline(key)
        } else {
            None
        };
        if soonest.is_some_and(|deadline| deadline <= self.now + margin_ms)
            && !self.ready_but_paused(key, at)
        {
            return reply(self, Reply::DeadlineSoon, told);
        }
        if wait == Wait::No || self.sessions[key].interrupted {
            return reply(self, Reply::TimedOut, told);
        }
        let timeout = match wait {
            Wait::Millis(ms) => Some(self.set_timer(self.now + ms, Timer::Take(key))),
            _ => None,
        };
        let soon = soonest.map(|deadline| self.set_timer(deadline - margin_ms, Timer::Soon(key)));
        self.sessions[key].blocked = Some(Blocked::Take {
            token,
            consumer: tag,
            margin_ms,
            timeout,
            soon,
        });
        self.start_queueing(key, at);
    }

    fn consumer(&self, key: usize, tag: ConsumerTag) -> Option<usize> {
        self.sessions[key]
            .consumers
            .iter()
            .position(|c| c.tag == tag)
    }

    pub(super) fn takes(&self, key: usize, tag: ConsumerTag) -> bool {
        matches!(self.sessions[key].blocked, Some(Blocked::Take { consumer, .. }) if consumer == tag)
    }

    /// Numbers of different sequence spaces do not compare: among equals of different spaces, sources take turns.
    fn best(&mut self, key: usize, at: usize) -> Option<At> {
        let consumer = &self.sessions[key].consumers[at];
        let count = consumer.sources.len();
        let mut best: Option<(u64, u64, super::Space, usize)> = None;
        let mut mixed = false;
        for step in 0..count {
            let place = (consumer.turn + step) % count;
            let (stream, group) = consumer.sources[place];
            let head = self
                .group(stream, group)
                .filter(|g| !self.is_paused(stream, g))
                .and_then(super::Group::head);
            let Some((rank, seq)) = head else { continue };
            let space = &self.kept.streams[&stream].space;
            let better = match &best {
                None => true,
                Some((best_rank, best_seq, best_space, _)) => {
                    mixed |= best_space != space;
                    rank < *best_rank
                        || (rank == *best_rank && best_space == space && seq < *best_seq)
                }
            };
            if better {
                best = Some((rank, seq, space.clone(), place));
            }
        }
        let (_, seq, _, place) = best?;
        let consumer = &mut self.sessions[key].consumers[at];
        if mixed {
            consumer.turn = (place + 1) % count;
        }
        let (stream, group) = consumer.sources[place];
        Some(At { stream, group, seq })
    }

    pub(super) fn ready_but_paused(&self, key: usize, at: usize) -> bool {
        self.sessions[key].consumers[at]
            .sources
            .iter()
            .any(|&(stream, group)| {
                self.group(stream, group)
                    .is_some_and(|g| self.is_paused(stream, g) && g.head().is_some())
            })
    }

    pub(super) fn soonest_deadline(&self, key: usize) -> Option<u64> {
        self.holds
            .values()
            .filter(|h| h.session == key)
            .filter_map(|h| h.deadline)
            .min()
    }

    fn hold(&mut self, key: usize, tag: ConsumerTag, at: At) -> longtail_engine::Delivery {
        let number = self.count();
        let message = &self.kept.streams[&at.stream].messages[&at.seq];
        let group = self.group(at.stream, at.group).expect("its group is there");
        let ack_timeout_ms = if message.ack_timeout_ms > 0 {
            message.ack_timeout_ms
        } else {
            group.config.ack_timeout_ms
        };
        let deadline = (ack_timeout_ms > 0).then(|| self.now + ack_timeout_ms);
        let timer = deadline.map(|deadline| self.set_timer(deadline, Timer::Hold(number)));
        self.holds.insert(
            number,
            Hold {
                stream: at.stream,
                group: at.group,
                seq: at.seq,
                session: key,
                consumer: tag,
                ack_timeout_ms,
                deadline,
                timer,
            },
        );
        self.taken.push(number);
        if let Some(consumer) = self.consumer(key, tag)
            && !self.has_room(key, consumer)
            && !self.takes(key, tag)
        {
            self.stop_queueing(key, consumer);
        }
        let standing = self.standing_mut(at).expect("it stands there");
        standing.now.place = Place::Held(number);
        standing.now.counts.deliveries += 1;
        let counts = standing.now.counts;
        let before = (counts.deliveries - 1, counts.failures);
        delivery(tag, at, before, standing.now.mark)
    }

    /// Nobody holds it any more; the caller says where it goes.
    pub(super) fn let_go(&mut self, hold: u64) -> Option<(Hold, At)> {
        let hold = self.holds.remove(&hold)?;
        self.stop_timer(hold.timer);
        self.forget_idle(hold.session);
        let at = hold.at();
        Some((hold, at))
    }

    pub(super) fn take_one(&mut self, key: usize, handle: Handle) -> Outcome {
        let Some(at) = self.resolve(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        if let Place::Held(_) = self.standing(at).expect("resolved").now.place {
            return Ok(Reply::NotFound);
        }
        Ok(Reply::Delivered(self.hold(key, ConsumerTag(0), at)))
    }

    pub(super) fn credit(
        &mut self,
        key: usize,
        tag: ConsumerTag,
        credit: Credit,
        told: &mut Told,
    ) -> Outcome {
        let at = self.consumer(key, tag).ok_or(Refusal::UnknownLink)?;
        let consumer = &mut self.sessions[key].consumers[at];
        consumer.credit = match (credit, consumer.credit) {
            (Credit::Add(more), Credit::Add(left)) => Credit::Add(left + more),
            (new, _) => new,
        };
        self.serve(key, at, told);
        Ok(Reply::Done)
    }

    pub(super) fn prefer(&mut self, key: usize, tag: ConsumerTag, priority: i32) -> Outcome {
        let at = self.consumer(key, tag).ok_or(Refusal::UnknownLink)?;
        let waited = self.stop_queueing(key, at);
        self.sessions[key].consumers[at].priority = priority;
        if waited {
            self.start_queueing(key, at);
        }
        Ok(Reply::Done)
    }

    fn serve(&mut self, key: usize, at: usize, told: &mut Told) {
        while self.has_room(key, at) {
            let Some(best) = self.best(key, at) else {
                return self.start_queueing(key, at);
            };
            self.push(key, at, best, told);
        }
        if !self.takes(key, self.sessions[key].consumers[at].tag) {
            self.stop_queueing(key, at);
        }
    }

    fn push(&mut self, key: usize, at: usize, message: At, told: &mut Told) {
        let tag = self.sessions[key].consumers[at].tag;
        let taken = self.hold(key, tag, message);
        let credit = &mut self.sessions[key].consumers[at].credit;
        let away = matches!(credit, Credit::Away(_));
        if let Credit::Add(left) | Credit::Away(left) = credit {
            *left -= 1;
        }
        self.tell(key, Effect::Push(taken), told);
        if away && let Some(hold) = self.taken.pop() {
            self.ack(hold);
        }
    }

    pub(super) fn dispatch(&mut self, stream: u64, group: u64, told: &mut Told) {
        loop {
            let Some(found) = self
                .group(stream, group)
                .filter(|g| !self.is_paused(stream, g))
            else {
                return;
            };
            let Some((_, &(key, tag))) = found.waiters.first_key_value() else {
                return;
            };
            let Some((_, seq)) = found.head() else { return };
            let at = At { stream, group, seq };
            if self.takes(key, tag) {
                let taken = self.hold(key, tag, at);
                self.end_wait(key, Reply::Delivered(taken), told);
            } else {
                let consumer = self.consumer(key, tag).expect("a waiter is a consumer");
                self.stop_queueing(key, consumer);
                self.push(key, consumer, at, told);
                if self.has_room(key, consumer) {
                    self.start_queueing(key, consumer);
                }
            }
        }
    }

    pub(super) fn start_queueing(&mut self, key: usize, at: usize) {
        if self.sessions[key].consumers[at].ticket.is_some() {
            return;
        }
        let ticket = self.count();
        let consumer = &mut self.sessions[key].consumers[at];
        consumer.ticket = Some(ticket);
        let (tag, rank) = (consumer.tag, -i64::from(consumer.priority));
        for (stream, group) in consumer.sources.clone() {
            if let Some(group) = self.group_mut(stream, group) {
                group.waiters.insert((rank, ticket), (key, tag));
            }
        }
    }

    /// Whether it was queueing.
    pub(super) fn stop_queueing(&mut self, key: usize, at: usize) -> bool {
        let consumer = &mut self.sessions[key].consumers[at];
        let Some(ticket) = consumer.ticket.take() else {
            return false;
        };
        let rank = -i64::from(consumer.priority);
        for (stream, group) in consumer.sources.clone() {
            if let Some(group) = self.group_mut(stream, group) {
                group.waiters.remove(&(rank, ticket));
            }
        }
        true
    }

    pub(super) fn stop_waiting(&mut self, key: usize) -> Option<Token> {
        match self.sessions[key].blocked.take()? {
            Blocked::Take {
                token,
                consumer,
                timeout,
                soon,
                ..
            } => {
                self.stop_timer(timeout);
                self.stop_timer(soon);
                if let Some(at) = self.consumer(key, consumer)
                    && !self.has_room(key, at)
                {
                    self.stop_queueing(key, at);
                }
                Some(token)
            }
            Blocked::Read {
                token,
                stream,
                timeout,
                ..
            } => {
                self.stop_timer(timeout);
                if let Some(state) = self.stream_mut(stream) {
                    state.readers.retain(|&reader| reader != key);
                }
                self.drop_if_idle(stream);
                Some(token)
            }
        }
    }

    pub(super) fn end_wait(&mut self, key: usize, reply: Reply, told: &mut Told) {
        if let Some(token) = self.stop_waiting(key) {
            self.tell(key, Effect::Reply(token, reply), told);
            self.runnable.push_back(key);
        }
    }

    pub(super) fn subscribe(
        &mut self,
        key: usize,
        tag: ConsumerTag,
        link: longtail_model::Link,
        group: &str,
        told: &mut Told,
    ) -> Outcome {
        let stream = self.target(key, Target::Link(link))?;
        let found = self.kept.streams[&stream]
            .groups
            .iter()
            .find(|g| g.name == group)
            .map(|g| g.id);
        let Some(group) = found else {
            return Ok(Reply::NotFound);
        };
        let at = self.consumer(key, tag).unwrap_or_else(|| {
            let consumers = &mut self.sessions[key].consumers;
            consumers.push(Consumer {
                tag,
                sources: Vec::new(),
                turn: 0,
                credit: Credit::Add(0),
                priority: 0,
                ticket: None,
            });
            consumers.len() - 1
        });
        if !self.sessions[key].consumers[at]
            .sources
            .contains(&(stream, group))
        {
            self.stop_queueing(key, at);
            self.sessions[key].consumers[at]
                .sources
                .push((stream, group));
            if self.has_room(key, at) {
                self.serve(key, at, told);
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn unsubscribe(
        &mut self,
        key: usize,
        tag: ConsumerTag,
        link: longtail_model::Link,
        group: &str,
    ) -> Outcome {
        let stream = self.target(key, Target::Link(link))?;
        let at = self.consumer(key, tag).ok_or(Refusal::UnknownLink)?;
        let found = self.kept.streams[&stream]
            .groups
            .iter()
            .find(|g| g.name == group)
            .map(|g| g.id);
        let waited = self.stop_queueing(key, at);
        self.sessions[key].consumers[at]
            .sources
            .retain(|source| source.0 != stream || Some(source.1) != found);
        if waited {
            self.start_queueing(key, at);
        }
        self.forget_idle(key);
        Ok(Reply::Done)
    }

    /// A consumer lasts as long as it draws from something or holds something.
    pub(super) fn forget_idle(&mut self, key: usize) {
        let holds = &self.holds;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.consumers.retain(|consumer| {
            let mine = |hold: &Hold| hold.session == key && hold.consumer == consumer.tag;
            !consumer.sources.is_empty() || holds.values().any(mine)
        });
    }

    pub(super) fn settle(
        &mut self,
        key: usize,
        handle: Handle,
        how: Settle,
        told: &mut Told,
    ) -> Outcome {
        let Some(hold) = self.own_hold(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        let tag = self.holds[&hold].consumer;
        match how {
            Settle::Ack => self.ack(hold),
            Settle::Release {
                priority,
                delay_ms,
                failed,
            } => {
                self.put_back(hold, priority.map(|p| p.0), delay_ms, failed, told)?;
            }
            Settle::Park { priority } => self.park(hold, priority.map(|p| p.0)),
            Settle::Reject => {
                let at = self.holds[&hold].at();
                if self.grave(at, Reason::Rejected) == Grave::Unwanted {
                    self.ack(hold);
                } else {
                    self.bury(hold, Reason::Rejected, told)?;
                }
            }
        }
        self.refill(key, tag, told);
        Ok(Reply::Done)
    }

    pub(super) fn ack_all(
        &mut self,
        key: usize,
        group: GroupId,
        messages: &[Seq],
        told: &mut Told,
    ) -> Outcome {
        let mut had = Vec::new();
        for &seq in messages {
            if let Some(hold) = self.own_hold(key, Handle::Group(group, seq))? {
                let tag = self.holds[&hold].consumer;
                self.ack(hold);
                if !had.contains(&tag) {
                    had.push(tag);
                }
            }
        }
        for tag in had {
            self.refill(key, tag, told);
        }
        Ok(Reply::Done)
    }

    /// What ends for good goes first; then the others have their places, and only then is anything seen.
    pub(super) fn release_all(
        &mut self,
        key: usize,
        (group, messages): (GroupId, &[Seq]),
        delay_ms: u64,
        failed: bool,
        told: &mut Told,
    ) -> Outcome {
        let (mut had, mut returned) = (Vec::new(), Vec::new());
        let mut refused = None;
        for &seq in messages {
            let Some(hold) = self.own_hold(key, Handle::Group(group, seq))? else {
                continue;
            };
            let tag = self.holds[&hold].consumer;
            if !had.contains(&tag) {
                had.push(tag);
            }
            match self.release(hold, None, delay_ms, failed, told) {
                Ok(Some(how)) => returned.push((hold, how)),
                Ok(None) => {}
                Err(refusal) => {
                    refused = Some(refusal);
                    break;
                }
            }
        }
        let mut back = Vec::new();
        if refused.is_none() {
            for (hold, (logged, delay_ms)) in returned {
                if let Some((_, at)) = self.let_go(hold) {
                    self.place_again(at, logged, delay_ms, true);
                    back.push(at);
                }
            }
        }
        self.came_back(&back, told);
        for tag in had {
            self.refill(key, tag, told);
        }
        refused.map_or(Ok(Reply::Done), Err)
    }

    /// Whether the consumer may be pushed one more.
    fn has_room(&self, key: usize, at: usize) -> bool {
        let consumer = &self.sessions[key].consumers[at];
        match consumer.credit {
            Credit::Add(left) | Credit::Away(left) => left > 0,
            Credit::Level(level) => {
                let own = |hold: &&Hold| hold.session == key && hold.consumer == consumer.tag;
                self.holds.values().filter(own).count() < level as usize
            }
        }
    }

    /// It may hold fewer than before.
    pub(super) fn refill(&mut self, key: usize, tag: ConsumerTag, told: &mut Told) {
        if !self.sessions.contains(key) {
            return;
        }
        if let Some(at) = self.consumer(key, tag)
            && let Credit::Level(_) = self.sessions[key].consumers[at].credit
        {
            self.serve(key, at, told);
        }
    }

    /// The same for all who lost holds, by session and tag.
    pub(super) fn let_go_all(&mut self, holds: Vec<u64>) -> BTreeSet<(usize, ConsumerTag)> {
        let gone = holds.into_iter().filter_map(|hold| self.let_go(hold));
        gone.map(|(hold, _)| (hold.session, hold.consumer))
            .collect()
    }

    fn ack(&mut self, hold: u64) {
        if let Some((_, at)) = self.let_go(hold) {
            self.stream_mut(at.stream).expect("held").removed += 1;
            self.settled(at);
            self.drop_if_idle(at.stream);
        }
    }

    pub(super) fn settled(&mut self, at: At) {
        if let Some(group) = self.group_mut(at.stream, at.group) {
            group.messages.remove(&at.seq);
        }
        self.remove_unwanted(at.stream, at.seq);
        self.mark();
    }

    fn put_back(
        &mut self,
        hold: u64,
        priority: Option<u32>,
        delay_ms: u64,
        failed: bool,
        told: &mut Told,
    ) -> Result<(), Refusal> {
        let released = self.release(hold, priority, delay_ms, failed, told)?;
        if let Some((logged, delay_ms)) = released
            && let Some((_, at)) = self.let_go(hold)
        {
            self.place_again(at, logged, delay_ms, true);
            self.came_back(&[at], told);
        }
        Ok(())
    }

    /// How a released message comes back, and after how long; `None`: it does not, and is gone.
    fn release(
        &mut self,
        hold: u64,
        priority: Option<u32>,
        mut delay_ms: u64,
        failed: bool,
        told: &mut Told,
    ) -> Result<Option<(Logged, u64)>, Refusal> {
        let at = self.holds[&hold].at();
        let mut logged = self.standing(at).expect("held").now;
        if failed {
            logged.counts.failures += 1;
            let config = &self.group(at.stream, at.group).expect("held").config;
            if config.max_deliveries > 0 && logged.counts.deliveries >= config.max_deliveries {
                self.bury(hold, Reason::Deliveries, told)?;
                return Ok(None);
            }
            if config
                .max_failures
                .is_some_and(|max| logged.counts.failures > max)
            {
                if self.grave(at, Reason::Deliveries) == Grave::Unwanted {
                    self.ack(hold);
                } else {
                    self.bury(hold, Reason::Deliveries, told)?;
                }
                return Ok(None);
            }
            if delay_ms == 0 && !config.backoff_ms.is_empty() {
                let step = (logged.counts.failures as usize).min(config.backoff_ms.len());
                delay_ms = config.backoff_ms[step - 1];
            }
        }
        logged.counts.releases += 1;
        logged.priority = priority.unwrap_or(logged.priority);
        Ok(Some((logged, delay_ms)))
    }

    /// A message that nobody holds is ready again, or will be; `log` unless nobody writes that down.
    fn place_again(&mut self, at: At, mut to: Logged, delay_ms: u64, log: bool) {
        to.place = if delay_ms > 0 {
            Place::Delayed(self.now + delay_ms)
        } else {
            Place::Ready
        };
        if log {
            to.delay_ms = delay_ms;
        }
        if let Some(standing) = self.standing_mut(at) {
            standing.now = to;
        }
        if log {
            self.log(at);
            self.mark();
        }
        if delay_ms > 0 {
            self.set_delay_alarm(at.stream, at.group);
        }
    }

    /// Messages that were held are ready again: what is too much goes, then what is too old, then the rest is seen.
    pub(super) fn came_back(&mut self, back: &[At], told: &mut Told) {
        for at in back {
            if self.stream(at.stream).is_some_and(makes_room_later) {
                self.shrink(at.stream, told);
            }
        }
        for &at in back {
            self.drop_overdue(at, told);
        }
        for at in back {
            self.dispatch(at.stream, at.group, told);
        }
    }

    fn drop_overdue(&mut self, at: At, told: &mut Told) {
        let now = self.now;
        let over = self.stream(at.stream).is_some_and(|state| {
            let message = state.messages.get(&at.seq);
            message.is_some_and(|message| {
                let own = state.config.expires_ms.map(|ms| message.created + ms);
                (message.expires.into_iter().chain(own)).any(|due| due <= now)
            })
        });
        if over && !self.is_held(at.stream, at.seq) {
            self.drop_expired(at.stream, at.seq, told);
        }
    }

    /// Their holder is gone.
    pub(super) fn lose_holds(&mut self, mut holds: Vec<u64>, told: &mut Told) {
        holds.retain(|&hold| {
            self.note_failure(hold);
            !self.ends_with_loss(hold, told)
        });
        let (bounded, others): (Vec<u64>, Vec<u64>) = holds.into_iter().partition(|hold| {
            let stream = self.holds.get(hold).map(|hold| hold.stream);
            let state = stream.and_then(|stream| self.stream(stream));
            state.is_some_and(makes_room_later)
        });
        let back: Vec<At> = (bounded.into_iter())
            .filter_map(|hold| self.take_back(hold))
            .collect();
        self.came_back(&back, told);
        for hold in others {
            let back = self.take_back(hold);
            self.came_back(back.as_slice(), told);
        }
    }

    /// Where a lost hold counts, the delivery has failed.
    fn note_failure(&mut self, hold: u64) {
        let Some(at) = self.holds.get(&hold).map(Hold::at) else {
            return;
        };
        let group = self.group(at.stream, at.group).expect("held");
        if !group.config.count_losses {
            return;
        }
        let durable = self.kept.streams[&at.stream].level != Durability::Memory;
        let standing = self.standing_mut(at).expect("held");
        standing.now.counts.failures += 1;
        if durable {
            let mut logged = standing.now;
            logged.place = Place::Ready;
            standing.logged = vec![logged];
            self.mark();
        }
    }

    pub(super) fn park(&mut self, hold: u64, priority: Option<u32>) {
        let at = self.holds[&hold].at();
        self.let_go(hold);
        let standing = self.standing_mut(at).expect("held");
        standing.now.counts.parks += 1;
        standing.now.priority = priority.unwrap_or(standing.now.priority);
        self.parked(at);
    }

    fn parked(&mut self, at: At) {
        let ticket = self.count();
        self.standing_mut(at).expect("parked").now.place = Place::Parked(ticket);
        self.log(at);
        self.mark();
    }

    pub(super) fn discard(&mut self, key: usize, handle: Handle, told: &mut Told) -> Outcome {
        if let Some(hold) = self.own_hold(key, handle)? {
            let tag = self.holds[&hold].consumer;
            self.ack(hold);
            self.refill(key, tag, told);
            return Ok(Reply::Done);
        }
        let Some(at) = self.resolve(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        let place = self.standing(at).expect("resolved").now.place;
        if let Place::Held(_) = place {
            return Ok(Reply::NotFound);
        }
        self.stream_mut(at.stream).expect("resolved").removed += 1;
        self.settled(at);
        if let Place::Delayed(_) = place {
            self.set_delay_alarm(at.stream, at.group);
        }
        self.drop_if_idle(at.stream);
        Ok(Reply::Done)
    }

    /// A restart finds the message ready, with what else the log knew of it.
    pub(super) fn leave_mark(&mut self, key: usize, handle: Handle, mark: u64) -> Outcome {
        let Some(hold) = self.own_hold(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        self.set_mark(hold, mark);
        Ok(Reply::Done)
    }

    pub(super) fn set_mark(&mut self, hold: u64, mark: u64) {
        let at = self.holds[&hold].at();
        let standing = self.standing_mut(at).expect("held");
        standing.now.mark = mark;
        for logged in &mut standing.logged {
            logged.mark = mark;
            logged.place = Place::Ready;
        }
    }

    pub(super) fn marked(&self, key: usize, stream: Target, group: &str) -> Outcome {
        let stream = self.target(key, stream)?;
        let groups = &self.kept.streams[&stream].groups;
        let Some(group) = groups.iter().find(|g| g.name == group) else {
            return Ok(Reply::NotFound);
        };
        let free = |s: &Standing| !matches!(s.now.place, Place::Held(_));
        let messages = (group.messages.iter())
            .filter(|(_, s)| s.now.mark > 0 && free(s))
            .map(|(seq, s)| (Seq(*seq), s.now.mark))
            .collect();
        let group = GroupId(group.id);
        Ok(Reply::Marked { group, messages })
    }

    pub(super) fn extend(&mut self, key: usize, handle: Handle, ms: Option<u64>) -> Outcome {
        let Some(number) = self.own_hold(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        let hold = &self.holds[&number];
        let ms = ms.unwrap_or(hold.ack_timeout_ms);
        if ms > 0 {
            let deadline = self.now + ms;
            self.stop_timer(hold.timer);
            let timer = self.set_timer(deadline, Timer::Hold(number));
            let hold = self.holds.get_mut(&number).expect("own");
            hold.deadline = Some(deadline);
            hold.timer = Some(timer);
        }
        Ok(Reply::Done)
    }

    /// Its holder is too late.
    pub(super) fn abandon(&mut self, hold: u64, told: &mut Told) {
        if !self.ends_with_loss(hold, told) {
            let back = self.take_back(hold);
            self.came_back(back.as_slice(), told);
        }
    }

    /// A lost message is ready again, if it is still there.
    fn take_back(&mut self, hold: u64) -> Option<At> {
        let at = self.holds.get(&hold)?.at();
        let now = self.standing(at).map(|standing| standing.now);
        self.let_go(hold);
        self.place_again(at, now?, 0, false);
        Some(at)
    }

    /// Whether a lost message has failed too often, and does not come back.
    fn ends_with_loss(&mut self, hold: u64, told: &mut Told) -> bool {
        let Some(at) = self.holds.get(&hold).map(Hold::at) else {
            return true;
        };
        let Some(now) = self.standing(at).map(|standing| standing.now) else {
            return false;
        };
        let config = &self.group(at.stream, at.group).expect("held").config;
        let max = config.max_deliveries;
        let over = max > 0 && now.counts.deliveries >= max;
        let failed = (config.max_failures).is_some_and(|max| now.counts.failures > max);
        (over || failed) && self.lay_dead(hold, at, !over, told)
    }

    fn lay_dead(&mut self, hold: u64, at: At, drop: bool, told: &mut Told) -> bool {
        match self.grave(at, Reason::Deliveries) {
            Grave::At(..) => return self.bury(hold, Reason::Deliveries, told).is_ok(),
            Grave::Unwanted if drop => {
                self.ack(hold);
                return true;
            }
            _ => {}
        }
        self.let_go(hold);
        self.parked(at);
        true
    }

    pub(super) fn kick(
        &mut self,
        key: usize,
        stream: Target,
        group: &str,
        max: u64,
        told: &mut Told,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        let groups = &self.kept.streams[&stream].groups;
        let Some(group) = groups.iter().find(|g| g.name == group) else {
            return Ok(Reply::NotFound);
        };
        let id = group.id;
        let any_parked = group.first_parked().is_some();
        let mut kicked = 0;
        while kicked < max {
            // Showing the last one may have ended the stream: what was too old went, and nobody is left.
            let Some(group) = self.group(stream, id) else {
                break;
            };
            let next = if any_parked {
                group.first_parked()
            } else {
                group.first_delayed().map(|(_, seq)| seq)
            };
            let Some(seq) = next else { break };
            self.kick_from(At {
                stream,
                group: id,
                seq,
            });
            kicked += 1;
            self.dispatch(stream, id, told);
        }
        self.set_delay_alarm(stream, id);
        Ok(Reply::Count(kicked))
    }

    fn kick_from(&mut self, at: At) {
        let standing = self.standing_mut(at).expect("kicked");
        standing.now.place = Place::Ready;
        standing.now.counts.kicks += 1;
        self.log(at);
        self.mark();
    }

    pub(super) fn kick_one(&mut self, key: usize, handle: Handle, told: &mut Told) -> Outcome {
        let Some(at) = self.resolve(key, handle)? else {
            return Ok(Reply::NotFound);
        };
        match self.standing(at).expect("resolved").now.place {
            Place::Parked(_) | Place::Delayed(_) => {
                self.kick_from(at);
                self.set_delay_alarm(at.stream, at.group);
                self.dispatch(at.stream, at.group, told);
                Ok(Reply::Done)
            }
            Place::Ready | Place::Held(_) => Ok(Reply::NotFound),
        }
    }
}
