//! The shard behind its cell's lock: carries out what was queued, decides what may leave, and lets it out.
//!
//! Effects wait in `pending` until the log is as safe as their gates ask, in each session's order; positions that
//! nothing refers to any more wait in `retiring` until every effect that may show them has left.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use longtail_log::{Job, Outcome};
use longtail_model::{Durability, Lsn, SessionId, Timestamp};

use super::Sink;
use super::cell::Work;
use crate::command::QUIET;
use crate::effect::{Effect, Effects, Gate, Refusal, Reply};
use crate::message::Message;
use crate::shard::Shard;
use crate::stream::FixedHash;
/// A disk that syncs faster than this may hold up the thread that submits, in microseconds.
const COMMIT_INLINE_US: u64 = 1_000;
/// With so many records that wait for effects to leave before they are given back, no more are added in advance.
const RETIRING_MAX: usize = 16_384;

pub(super) struct Core {
    pub(super) shard: Shard,
    pub(super) spare: Vec<Work>,
    pub(super) effects: Collected,
    pub(super) outlets: HashMap<SessionId, Outlet, FixedHash>,
    /// Effects whose gate has not been passed, in order.
    pub(super) pending: VecDeque<Pending>,
    /// Number of the next effect.
    pub(super) ordinal: u64,
    /// Positions to retire once every effect before this number has left: it may still have to be read.
    pub(super) retiring: VecDeque<(u64, Lsn)>,
    /// Sessions that got something since the sockets were last written to.
    pub(super) touched: Vec<SessionId>,
    /// Sessions detached in this batch whose answers are still to be given.
    leaving: Vec<SessionId>,
    /// An effect waits for a sync although the server's durability asks for less.
    pub(super) wants_sync: bool,
    /// Sessions with pending effects.
    pub(super) waiting: usize,
    /// Replies among the pending effects; the others are messages on their way to consumers.
    pub(super) asked: usize,
    /// Replies that the last commit let out.
    pub(super) answered: usize,
    /// What a commit took lately, in microseconds.
    pub(super) commit_us: u64,
    pub(super) stopping: bool,
    /// The operator knows that the log has failed.
    pub(super) told_of_failure: bool,
    /// Records copied out of sparse segments.
    pub(super) rewritten: u64,
}

pub(super) struct Pending {
    pub(super) ordinal: u64,
    pub(super) session: SessionId,
    pub(super) gate: Gate,
    pub(super) effect: Effect,
}

pub(super) struct Outlet {
    pub(super) sink: Arc<dyn Sink>,
    /// How many of its effects are pending: later ones must wait behind them.
    pub(super) pending: u32,
    pub(super) touched: bool,
    /// Its session is detached: it takes the answers that are left.
    pub(super) is_leaving: bool,
}

#[derive(Default)]
pub(super) struct Collected(pub(super) Vec<(SessionId, Gate, Effect)>);

impl Effects for Collected {
    fn emit(&mut self, session: SessionId, gate: Gate, effect: Effect) {
        if let Effect::Reply(QUIET, reply) = &effect
            && !matches!(reply, Reply::Refused(_))
        {
            return;
        }
        self.0.push((session, gate, effect));
    }
}

impl Core {
    pub(super) fn new(shard: Shard) -> Self {
        Core {
            shard,
            spare: Vec::new(),
            effects: Collected::default(),
            outlets: HashMap::default(),
            pending: VecDeque::new(),
            ordinal: 0,
            retiring: VecDeque::new(),
            touched: Vec::new(),
            leaving: Vec::new(),
            wants_sync: false,
            waiting: 0,
            asked: 0,
            answered: 0,
            commit_us: 0,
            stopping: false,
            told_of_failure: false,
            rewritten: 0,
        }
    }

    pub(super) fn advance(&mut self, now: Timestamp) {
        self.shard.advance(now, &mut self.effects);
    }

    pub(super) fn carry_out(&mut self, now: Timestamp, work: &mut Vec<Work>) {
        for work in work.drain(..) {
            match work {
                Work::Command(session, token, command) => {
                    self.shard
                        .step(now, session, token, command, &mut self.effects);
                }
                Work::Interrupt(session) => self.shard.interrupt(now, session, &mut self.effects),
                Work::Detach(session) => {
                    match self.outlets.get_mut(&session) {
                        Some(outlet) if outlet.sink.takes_last_answers() => {
                            outlet.is_leaving = true;
                            self.leaving.push(session);
                        }
                        _ => {
                            let gone = self.outlets.remove(&session);
                            let waited = gone.is_some_and(|outlet| outlet.pending > 0);
                            self.waiting -= usize::from(waited);
                        }
                    }
                    self.shard.detach(now, session, &mut self.effects);
                }
            }
        }
    }

    /// After the last command: log, write where that is enough, let out what may leave.
    pub(super) fn finish_batch(&mut self) {
        self.shard.end_batch();
        let written = self
            .shard
            .logs_ref()
            .durable_ref()
            .map(|log| log.watermark(Durability::Interval));
        if self.shard.durability() == Durability::Interval
            && written.is_some_and(|written| written < self.shard.logs_ref().awaited())
        {
            self.write_now();
        }
        self.sort_effects();
        self.release();
    }

    /// Gives back some of what was removed, unless what waits to be given back is too much already. `true` when there is
    /// more.
    pub(super) fn clear_some(&mut self) -> bool {
        if !self.shard.has_remains() || self.retiring.len() >= RETIRING_MAX {
            return false;
        }
        self.shard.clear_some();
        self.sort_effects();
        self.release();
        self.shard.has_remains()
    }

    /// Hands the system what waits to be written.
    pub(super) fn write_now(&mut self) {
        let Some(log) = self.shard.logs().durable() else {
            return;
        };
        while let Some(job) = log.next_write(false) {
            let done = job.run();
            log.finish(done);
        }
    }

    pub(super) fn finish_durable(&mut self, done: longtail_log::Done) {
        let Some(log) = self.shard.logs().durable() else {
            return;
        };
        if let Outcome::Candidates { segment, records } = log.finish(done) {
            let mut live = self.shard.live(&records);
            // What pending effects have yet to show stays, although nothing refers to it any more.
            live.extend(
                records
                    .iter()
                    .map(|record| record.lsn)
                    .filter(|lsn| self.is_retiring(*lsn)),
            );
            live.sort_unstable();
            live.dedup();
            self.rewritten += live.len() as u64;
            if let Some(log) = self.shard.logs().durable() {
                log.rewrite(segment, live);
            }
        }
    }

    pub(super) fn is_retiring(&self, position: Lsn) -> bool {
        self.retiring
            .iter()
            .any(|&(_, retiring)| retiring == position)
    }

    /// Lets out the effects that may leave and queues the others.
    pub(super) fn sort_effects(&mut self) {
        let mut effects = mem::take(&mut self.effects.0);
        for (session, gate, effect) in effects.drain(..) {
            let ordinal = self.ordinal;
            self.ordinal += 1;
            let Some(outlet) = self.outlets.get_mut(&session) else {
                continue;
            };
            if outlet.is_leaving && !matches!(effect, Effect::Reply(..)) {
                continue;
            }
            if outlet.pending == 0 && self.shard.logs_ref().passed(gate) {
                give(
                    &mut self.shard,
                    &mut self.touched,
                    (session, outlet),
                    &effect,
                );
            } else {
                self.waiting += usize::from(outlet.pending == 0);
                outlet.pending += 1;
                self.wants_sync |= gate.level == Durability::Sync;
                self.asked += usize::from(matches!(effect, Effect::Reply(..)));
                self.pending.push_back(Pending {
                    ordinal,
                    session,
                    gate,
                    effect,
                });
            }
        }
        self.effects.0 = effects;
        for session in mem::take(&mut self.leaving) {
            self.let_go(session);
        }
        let ordinal = self.ordinal;
        self.retiring.extend(
            self.shard
                .take_retired()
                .map(|position| (ordinal, position)),
        );
    }

    /// Lets out what the log has caught up with; after a failure of the log, says so instead.
    pub(super) fn release(&mut self) {
        let poisoned = self.shard.logs_ref().poisoned();
        if poisoned && !self.told_of_failure {
            self.told_of_failure = true;
            let why = self.shard.logs_ref().trouble().unwrap_or_default();
            tracing::error!(shard = %self.shard.id(), why, "the log has failed: nothing more is acknowledged until a restart");
        }
        while let Some(first) = self.pending.front() {
            let passed = self.shard.logs_ref().passed(first.gate);
            if !passed && !poisoned {
                break;
            }
            let Some(Pending {
                session, effect, ..
            }) = self.pending.pop_front()
            else {
                break;
            };
            self.asked -= usize::from(matches!(effect, Effect::Reply(..)));
            let Some(outlet) = self.outlets.get_mut(&session) else {
                continue;
            };
            outlet.pending -= 1;
            let is_leaving = outlet.is_leaving;
            self.waiting -= usize::from(outlet.pending == 0);
            if passed {
                give(
                    &mut self.shard,
                    &mut self.touched,
                    (session, outlet),
                    &effect,
                );
            } else if let Effect::Reply(token, _) = effect {
                let why = self.shard.logs_ref().trouble().unwrap_or_default();
                let refused = Effect::Reply(token, Reply::Refused(Refusal::Failed(why)));
                give(
                    &mut self.shard,
                    &mut self.touched,
                    (session, outlet),
                    &refused,
                );
            }
            if is_leaving {
                self.let_go(session);
            }
        }
        if self.pending.is_empty() {
            self.wants_sync = false;
        }
        let oldest = self
            .pending
            .front()
            .map_or(u64::MAX, |pending| pending.ordinal);
        while let Some(&(ordinal, position)) = self.retiring.front() {
            if ordinal > oldest {
                break;
            }
            self.retiring.pop_front();
            self.shard.reclaim(position);
        }
    }

    /// Forgets a session that is detached, once all its answers are given.
    fn let_go(&mut self, session: SessionId) {
        let outlet = self.outlets.get(&session);
        if outlet.is_some_and(|outlet| outlet.is_leaving && outlet.pending == 0) {
            self.outlets.remove(&session);
        }
    }

    pub(super) fn touched_sinks(&mut self) -> Vec<Arc<dyn Sink>> {
        let mut sinks = Vec::with_capacity(self.touched.len());
        for session in self.touched.drain(..) {
            if let Some(outlet) = self.outlets.get_mut(&session) {
                outlet.touched = false;
                sinks.push(Arc::clone(&outlet.sink));
            }
        }
        sinks
    }

    pub(super) fn must_commit(&self) -> bool {
        if self.shard.durability() != Durability::Sync && !self.wants_sync {
            return false;
        }
        let logs = self.shard.logs_ref();
        logs.durable_ref()
            .is_some_and(|log| log.watermark(Durability::Sync) < logs.awaited())
    }

    /// What to commit on the spot: when a single session waits, or a single answer is waited for now as it was the last
    /// time, nothing is gained by gathering more, and on a fast disk the sync takes less than waking a commit thread and
    /// being woken by it would add.
    pub(super) fn commit_for_one(&mut self) -> Option<Job> {
        let alone = self.waiting == 1 || (self.asked == 1 && self.answered <= 1);
        if alone && self.touched.is_empty() && self.commit_us < COMMIT_INLINE_US {
            self.next_commit()
        } else {
            None
        }
    }

    pub(super) fn next_commit(&mut self) -> Option<Job> {
        if !self.must_commit() {
            return None;
        }
        let log = self.shard.logs().durable()?;
        log.next_write(true).or_else(|| log.next_sync())
    }
}

/// Lets out an effect. A session that is detached gets nothing but answers, and is not flushed for them.
fn give(
    shard: &mut Shard,
    touched: &mut Vec<SessionId>,
    (session, outlet): (SessionId, &mut Outlet),
    effect: &Effect,
) {
    if outlet.is_leaving {
        if !matches!(effect, Effect::Reply(..)) {
            return;
        }
    } else if !mem::replace(&mut outlet.touched, true) {
        touched.push(session);
    }
    show(shard, &*outlet.sink, effect);
}

/// Gives an effect to its session, with the messages that it shows.
fn show(shard: &mut Shard, sink: &dyn Sink, effect: &Effect) {
    let one = match effect {
        Effect::Push(delivery) | Effect::Reply(_, Reply::Delivered(delivery)) => {
            Some(delivery.position)
        }
        Effect::Reply(_, Reply::Peeked { position, .. }) => Some(*position),
        Effect::Reply(_, Reply::Batch { messages, .. }) => {
            let copies: Vec<_> = messages
                .iter()
                .map(|&(_, position)| {
                    shard
                        .with_message(position, |message| Copied::of(&message))
                        .ok()
                })
                .collect();
            let views: Vec<_> = copies
                .iter()
                .map(|copy| copy.as_ref().map(Copied::view))
                .collect();
            return sink.deliver(effect, &views);
        }
        Effect::Reply(..) | Effect::Cancelled { .. } => None,
    };
    match one {
        None => sink.deliver(effect, &[]),
        Some(position) => {
            let shown =
                shard.with_message(position, |message| sink.deliver(effect, &[Some(message)]));
            if let Err(error) = shown {
                tracing::error!(%position, %error, "cannot read a message that is to be delivered");
                sink.deliver(effect, &[None]);
            }
        }
    }
}

/// A message taken out of the log's buffers, for effects that show several.
struct Copied {
    message: Message<'static>,
    subject: Vec<u8>,
    id: Vec<u8>,
    headers: Vec<u8>,
    payload: Bytes,
}

impl Copied {
    fn of(message: &Message<'_>) -> Self {
        Copied {
            message: Message {
                subject: &[],
                id: &[],
                headers: &[],
                payload: &[],
                shared: None,
                ..*message
            },
            subject: message.subject.to_vec(),
            id: message.id.to_vec(),
            headers: message.headers.to_vec(),
            payload: message.share(),
        }
    }

    fn view(&self) -> Message<'_> {
        Message {
            subject: &self.subject,
            id: &self.id,
            headers: &self.headers,
            payload: &self.payload,
            shared: Some(&self.payload),
            ..self.message
        }
    }
}
