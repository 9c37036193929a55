//! Sessions: links, consumers, what they hold, and what they wait for.

use std::collections::VecDeque;

use longtail_model::{ConsumerTag, Link, Seq, SessionId, StreamId, Timestamp};
use smallvec::SmallVec;

use super::{Outcome, Shard, now_reply};
use crate::command::{Command, Credit, Role, Token};
use crate::config::GroupName;
use crate::effect::{Effect, Effects, Gate, Refusal, Reply};
use crate::stream::{HoldKey, SessionKey, Waiter};
use crate::structures::wheel::TimerId;

/// One client's attachment.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    links: Vec<(Link, StreamId, Role)>,
    pub(crate) consumers: SmallVec<[Consumer; 1]>,
    pub(crate) blocked: Option<Blocked>,
    pub(crate) backlog: VecDeque<(Token, Command)>,
    /// Ends of the list of what it holds, in order of taking.
    pub(crate) first_hold: Option<HoldKey>,
    pub(crate) last_hold: Option<HoldKey>,
    /// Takes no longer wait: the client has said that it will send nothing more.
    pub(crate) interrupted: bool,
}

/// What a session waits for before it goes on with its commands.
pub(crate) enum Blocked {
    Take {
        token: Token,
        consumer: ConsumerTag,
        margin_ms: u64,
        timeout: Option<TimerId>,
        soon: Option<TimerId>,
    },
    Read {
        token: Token,
        stream: StreamId,
        from: Seq,
        max: u32,
        max_bytes: u64,
        timeout: Option<TimerId>,
    },
}

/// The tag under which a session holds what it has taken by number.
pub(crate) const TAKEN_BY_NUMBER: ConsumerTag = ConsumerTag(0);

/// A consumer within a session: from its first subscription until it draws from nothing and holds nothing.
pub(crate) struct Consumer {
    pub(crate) tag: ConsumerTag,
    /// Streams, and the group's place in each.
    pub(crate) sources: SmallVec<[(StreamId, usize); 2]>,
    /// The source to look at first, where sources take turns.
    pub(crate) turn: usize,
    pub(crate) credit: Credit,
    /// Messages that the session holds under this tag.
    pub(crate) held: u32,
    /// The lower, the sooner it gets something, see [`rank`].
    pub(crate) rank: u32,
    /// Its place among those who wait, while it waits.
    pub(crate) ticket: Option<u64>,
    /// While it waits: the tickets under which it stands in the queues of its sources. They may be older than its own:
    /// a queue learns of a new one when its turn comes.
    pub(crate) tickets: SmallVec<[u64; 2]>,
}

/// The rank of a priority: ascends where that descends.
pub(crate) fn rank(priority: i32) -> u32 {
    !priority.cast_unsigned() ^ (1 << 31)
}

impl Consumer {
    /// Whether it may be pushed one more message.
    pub(crate) fn has_room(&self) -> bool {
        match self.credit {
            Credit::Add(left) | Credit::Away(left) => left > 0,
            Credit::Level(level) => self.held < level,
        }
    }

    /// Whether it draws from nothing and holds nothing: the session then knows it no more.
    pub(crate) fn is_idle(&self) -> bool {
        self.sources.is_empty() && self.held == 0
    }
}

impl Session {
    pub(crate) fn link(&self, link: Link) -> Option<StreamId> {
        let at = self
            .links
            .binary_search_by_key(&link, |entry| entry.0)
            .ok()?;
        Some(self.links[at].1)
    }

    pub(crate) fn set_link(
        &mut self,
        link: Link,
        stream: StreamId,
        role: Role,
    ) -> Option<(StreamId, Role)> {
        match self.links.binary_search_by_key(&link, |entry| entry.0) {
            Ok(at) => {
                let old = (self.links[at].1, self.links[at].2);
                self.links[at] = (link, stream, role);
                Some(old)
            }
            Err(at) => {
                self.links.insert(at, (link, stream, role));
                None
            }
        }
    }

    pub(crate) fn remove_link(&mut self, link: Link) -> Option<(StreamId, Role)> {
        let at = self
            .links
            .binary_search_by_key(&link, |entry| entry.0)
            .ok()?;
        let (_, stream, role) = self.links.remove(at);
        Some((stream, role))
    }

    pub(crate) fn forget_stream(&mut self, stream: StreamId) {
        self.links.retain(|entry| entry.1 != stream);
    }

    pub(crate) fn consumer_mut(&mut self, tag: ConsumerTag) -> Option<&mut Consumer> {
        self.consumers
            .iter_mut()
            .find(|consumer| consumer.tag == tag)
    }

    /// Clients make a consumer for each subscription: those that are over must not stay until the session ends.
    pub(crate) fn forget_idle(&mut self) {
        self.consumers.retain(|consumer| !consumer.is_idle());
    }

    /// Whether this consumer is the one whose take blocks the session.
    pub(crate) fn takes(&self, tag: ConsumerTag) -> bool {
        matches!(self.blocked, Some(Blocked::Take { consumer, .. }) if consumer == tag)
    }
}

impl Shard {
    /// Attaches a session.
    pub fn attach(&mut self) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let key = self.sessions.insert(Session {
            id,
            links: Vec::new(),
            consumers: SmallVec::new(),
            blocked: None,
            backlog: VecDeque::new(),
            first_hold: None,
            last_hold: None,
            interrupted: false,
        });
        self.session_by.insert(id, key);
        id
    }

    /// Ends a session: what it holds is ready again at once, in its place.
    pub fn detach(&mut self, now: Timestamp, session: SessionId, fx: &mut dyn Effects) {
        self.now = self.now.max(now);
        let Some(key) = self.session_by.remove(&session) else {
            return;
        };
        self.stop_waiting(key);
        for at in 0..self.sessions[key].consumers.len() {
            self.stop_queueing(key, at);
        }
        let mut state = self.sessions.remove(key);
        self.lose_holds(key, state.first_hold.take(), fx);
        for consumer in &state.consumers {
            for &(stream, group) in &consumer.sources {
                self.leave_rule(stream, group, key, consumer.tag, fx);
                self.tidy_group(stream, group);
            }
        }
        for (_, stream, role) in std::mem::take(&mut state.links) {
            self.link_closed(stream, role);
        }
        self.run_unblocked(fx);
    }

    /// The client sends nothing more: a take that waits, and every later one, ends at once with `TimedOut`.
    pub fn interrupt(&mut self, now: Timestamp, session: SessionId, fx: &mut dyn Effects) {
        self.now = self.now.max(now);
        let Some(&key) = self.session_by.get(&session) else {
            return;
        };
        let Some(state) = self.sessions.get_mut(key) else {
            return;
        };
        state.interrupted = true;
        if matches!(state.blocked, Some(Blocked::Take { .. })) {
            self.end_take(key, Reply::TimedOut, Gate::OPEN, fx);
            self.run_unblocked(fx);
        }
    }

    /// Forgets what a session waits for, without an answer.
    pub(crate) fn stop_waiting(&mut self, key: SessionKey) -> Option<Token> {
        let state = self.sessions.get_mut(key)?;
        match state.blocked.take()? {
            Blocked::Take {
                token,
                consumer,
                timeout,
                soon,
                ..
            } => {
                for timer in [timeout, soon].into_iter().flatten() {
                    self.timers.cancel(timer);
                }
                if let Some(at) = self.sessions[key]
                    .consumers
                    .iter()
                    .position(|c| c.tag == consumer)
                    && !self.sessions[key].consumers[at].has_room()
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
                if let Some(timer) = timeout {
                    self.timers.cancel(timer);
                }
                if let Some(state) = self.streams.get_mut(&stream)
                    && let Some(extra) = state.extra.get_mut()
                {
                    extra.readers.retain(|&reader| reader != key);
                }
                self.drop_if_idle(stream);
                Some(token)
            }
        }
    }

    /// Ends a blocking take with an answer and lets the session go on.
    pub(crate) fn end_take(
        &mut self,
        key: SessionKey,
        reply: Reply,
        gate: Gate,
        fx: &mut dyn Effects,
    ) {
        if let Some(token) = self.stop_waiting(key) {
            fx.emit(self.sessions[key].id, gate, Effect::Reply(token, reply));
            self.runnable.push_back(key);
        }
    }

    /// Puts a consumer into the queues of its groups.
    pub(crate) fn start_queueing(&mut self, key: SessionKey, at: usize) {
        let consumer = &mut self.sessions[key].consumers[at];
        if consumer.ticket.is_some() {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        consumer.ticket = Some(ticket);
        consumer.tickets.clear();
        consumer.tickets.resize(consumer.sources.len(), ticket);
        let rank = consumer.rank;
        for (source, &(stream, group)) in (0..).zip(&consumer.sources) {
            if let Some(state) = self.streams.get_mut(&stream)
                && let Some(found) = state.groups.get_mut(group)
            {
                let waiter = Waiter {
                    session: key,
                    consumer: consumer.tag,
                    source,
                };
                found.lists.make().waiters.insert((rank, ticket), waiter);
                let place = u32::try_from(group).unwrap_or(u32::MAX);
                state.roster.waiting.insert(place);
            }
        }
    }

    /// Puts a consumer that waits behind all others that do. The queues of its groups are told when they come to it, see
    /// [`Shard::first_waiter`]: however many sources it has, its turn costs the same.
    pub(crate) fn queue_again(&mut self, key: SessionKey, at: usize) {
        let consumer = &mut self.sessions[key].consumers[at];
        if consumer.ticket.is_none() {
            return self.start_queueing(key, at);
        }
        consumer.ticket = Some(self.next_ticket);
        self.next_ticket += 1;
    }

    /// Who is to have the next message of a group. A consumer whose turn at another group came in the meantime goes
    /// behind those who have waited longer.
    pub(crate) fn first_waiter(&mut self, stream: StreamId, group: usize) -> Option<Waiter> {
        let state = self.streams.get_mut(&stream)?;
        let lists = state.groups.get_mut(group)?.lists.get_mut()?;
        loop {
            let (&(rank, ticket), &waiter) = lists.waiters.first_key_value()?;
            let consumer = self
                .sessions
                .get_mut(waiter.session)
                .and_then(|session| session.consumer_mut(waiter.consumer));
            let place = consumer.and_then(|consumer| {
                let known = consumer.tickets.get_mut(waiter.source as usize)?;
                Some((consumer.ticket?, known))
            });
            match place {
                // One that waits alone is the first whatever its ticket says: it gets its place when another comes.
                Some((now, _)) if now == ticket || lists.waiters.len() == 1 => {
                    return Some(waiter);
                }
                Some((now, known)) => {
                    *known = now;
                    lists.waiters.remove(&(rank, ticket));
                    lists.waiters.insert((rank, now), waiter);
                }
                None => {
                    debug_assert!(false, "nobody is in a queue who does not wait");
                    lists.waiters.remove(&(rank, ticket));
                }
            }
        }
    }

    /// How soon a consumer gets something.
    pub(crate) fn prefer(&mut self, key: SessionKey, tag: ConsumerTag, priority: i32) -> Outcome {
        let consumers = self.sessions.get(key).map(|state| &state.consumers);
        let at = consumers.and_then(|all| all.iter().position(|consumer| consumer.tag == tag));
        let at = at.ok_or(Refusal::UnknownLink)?;
        let waits = self.sessions[key].consumers[at].ticket.is_some();
        self.stop_queueing(key, at);
        self.sessions[key].consumers[at].rank = rank(priority);
        if waits {
            self.start_queueing(key, at);
        }
        now_reply(Reply::Done)
    }

    /// Takes a consumer out of the queues of its groups.
    pub(crate) fn stop_queueing(&mut self, key: SessionKey, at: usize) {
        let consumer = &mut self.sessions[key].consumers[at];
        if consumer.ticket.take().is_none() {
            return;
        }
        let rank = consumer.rank;
        for (&(stream, group), ticket) in consumer.sources.iter().zip(consumer.tickets.drain(..)) {
            if let Some(state) = self.streams.get_mut(&stream)
                && let Some(found) = state.groups.get_mut(group)
                && let Some(lists) = found.lists.get_mut()
            {
                lists.waiters.remove(&(rank, ticket));
                if lists.waiters.is_empty() {
                    let place = u32::try_from(group).unwrap_or(u32::MAX);
                    state.roster.waiting.remove(&place);
                }
            }
        }
    }

    /// A consumer has left a group: maybe nobody uses it any more.
    fn tidy_group(&mut self, stream: StreamId, at: usize) {
        if let Some(group) = self.group_mut(stream, at) {
            group.tidy();
        }
    }

    /// What was taken by its number, which is always under the same tag, before there was a consumer of that tag.
    fn taken_before(&self, key: SessionKey, tag: ConsumerTag) -> u32 {
        let mut held = 0;
        if tag != TAKEN_BY_NUMBER {
            return held;
        }
        let mut next = self.sessions[key].first_hold;
        while let Some(hold) = next.and_then(|hold| self.holds.get(hold)) {
            next = hold.next;
            held += u32::from(hold.consumer == tag);
        }
        held
    }

    /// A group, or with no `group` a whole stream, that a consumer draws from is gone. With the last of them a take
    /// that waits has nothing left to wait for.
    pub(crate) fn lose_source(
        &mut self,
        key: SessionKey,
        at: usize,
        stream: StreamId,
        group: Option<usize>,
        fx: &mut dyn Effects,
    ) {
        let waited = self.sessions[key].consumers[at].ticket.is_some();
        self.stop_queueing(key, at);
        let consumer = &mut self.sessions[key].consumers[at];
        consumer
            .sources
            .retain(|source| source.0 != stream || group.is_some_and(|group| group != source.1));
        let (tag, has_sources) = (consumer.tag, !consumer.sources.is_empty());
        if waited && has_sources {
            self.start_queueing(key, at);
        } else if !has_sources && self.sessions[key].takes(tag) {
            self.end_take(key, Reply::NotFound, Gate::OPEN, fx);
        }
        fx.emit(
            self.sessions[key].id,
            Gate::OPEN,
            Effect::Cancelled {
                consumer: tag,
                stream,
            },
        );
    }

    pub(crate) fn subscribe(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        link: Link,
        group: &GroupName,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(state) = self.sessions.get_mut(key) else {
            return now_reply(Reply::NotFound);
        };
        let stream = state.link(link).ok_or(Refusal::UnknownLink)?;
        let place = self
            .streams
            .get(&stream)
            .and_then(|stream| stream.group_named(group));
        let Some(place) = place else {
            return now_reply(Reply::NotFound);
        };
        let at = match self.sessions[key]
            .consumers
            .iter()
            .position(|consumer| consumer.tag == tag)
        {
            Some(at) => at,
            None => {
                let held = self.taken_before(key, tag);
                let state = &mut self.sessions[key];
                state.consumers.push(Consumer {
                    tag,
                    sources: SmallVec::new(),
                    turn: 0,
                    credit: Credit::Add(0),
                    held,
                    rank: rank(0),
                    ticket: None,
                    tickets: SmallVec::new(),
                });
                state.consumers.len() - 1
            }
        };
        let source = (stream, place);
        if !self.sessions[key].consumers[at].sources.contains(&source) {
            // A consumer that waits joins the queue of the new group as well.
            self.stop_queueing(key, at);
            self.sessions[key].consumers[at].sources.push(source);
            self.join_rule(stream, place, key, tag);
            if self.sessions[key].consumers[at].has_room() {
                self.serve(key, at, fx);
            }
        }
        now_reply(Reply::Done)
    }

    pub(crate) fn unsubscribe(
        &mut self,
        key: SessionKey,
        tag: ConsumerTag,
        link: Link,
        group: &GroupName,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let Some(state) = self.sessions.get(key) else {
            return now_reply(Reply::NotFound);
        };
        let stream = state.link(link).ok_or(Refusal::UnknownLink)?;
        let Some(at) = state
            .consumers
            .iter()
            .position(|consumer| consumer.tag == tag)
        else {
            return Err(Refusal::UnknownLink);
        };
        let place = self
            .streams
            .get(&stream)
            .and_then(|stream| stream.group_named(group));
        let waited = state.consumers[at].ticket.is_some();
        self.stop_queueing(key, at);
        self.sessions[key].consumers[at]
            .sources
            .retain(|source| source.0 != stream || Some(source.1) != place);
        if waited {
            self.start_queueing(key, at);
        }
        if let Some(place) = place {
            self.leave_rule(stream, place, key, tag, fx);
            self.tidy_group(stream, place);
        }
        self.sessions[key].forget_idle();
        now_reply(Reply::Done)
    }
}
