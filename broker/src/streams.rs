//! A service's own way to the shards: one session at each, shared by all who publish, so that what they store is stored in
//! the order in which they asked. Who waits for an answer is told when no lock is held.

use std::collections::VecDeque;
use std::sync::Arc;

use longtail_engine::runtime::{Shards, Sink};
use longtail_engine::{Command, Effect, Message, Reply, Token};
use longtail_model::{SessionId, ShardId};
use parking_lot::Mutex;

/// Somebody who waits for answers of shards.
pub trait Awaits: Send + Sync + 'static {
    /// What an answer means to him.
    type Outcome: Send;

    /// Reads an answer; also called for those that nobody waits for. The shard's lock is held.
    fn outcome(reply: &Reply) -> Self::Outcome;

    /// An answer is there. No lock is held.
    fn answered(&self, outcome: Self::Outcome);
}

/// Commands with who waits for their answers.
pub type Outgoing<W> = Vec<(ShardId, Command, Option<Arc<W>>)>;

/// See the module.
pub struct Streams<W: Awaits> {
    shards: Arc<dyn Shards>,
    links: Box<[Link<W>]>,
}

struct Link<W: Awaits> {
    session: SessionId,
    asked: Arc<Asked<W>>,
}

struct Asked<W: Awaits> {
    waiting: Mutex<Waiting<W>>,
    /// Answers that are to be told. Written with the shard's lock held.
    arrived: Mutex<Vec<(Arc<W>, W::Outcome)>>,
}

struct Waiting<W> {
    next: Token,
    /// In the order of their tokens, which is that of the answers.
    of: VecDeque<Option<Arc<W>>>,
}

impl<W: Awaits> Asked<W> {
    fn new() -> Self {
        Asked {
            waiting: Mutex::new(Waiting {
                next: 0,
                of: VecDeque::new(),
            }),
            arrived: Mutex::default(),
        }
    }
}

impl<W: Awaits> Streams<W> {
    /// Attaches to every shard, until it is dropped.
    #[must_use]
    pub fn new(shards: Arc<dyn Shards>) -> Self {
        let link = |shard| {
            let asked = Arc::new(Asked::new());
            Link {
                session: shards.attach(ShardId(shard), Arc::clone(&asked) as Arc<dyn Sink>),
                asked,
            }
        };
        let links = (0..shards.count()).map(link).collect();
        Streams { shards, links }
    }

    /// Queues what was gathered; [`Streams::run`] follows, or the edge's tick.
    pub fn send(&self, outgoing: &mut Outgoing<W>) {
        let mut commands = Vec::new();
        for (number, link) in self.links.iter().enumerate() {
            let shard = ShardId(u16::try_from(number).unwrap_or(u16::MAX));
            if !outgoing.iter().any(|(at, ..)| *at == shard) {
                continue;
            }
            // Held until they are queued: tokens and queue have one order.
            let mut waiting = link.asked.waiting.lock();
            for (_, command, waiter) in outgoing.extract_if(.., |(at, ..)| *at == shard) {
                commands.push((waiting.next, command));
                waiting.next += 1;
                waiting.of.push_back(waiter);
            }
            self.shards.enqueue(shard, link.session, &mut commands);
        }
        outgoing.clear();
    }

    /// Has the shards carry out what is queued.
    pub fn run(&self) {
        self.shards.run();
    }
}

impl<W: Awaits> Drop for Streams<W> {
    fn drop(&mut self) {
        for (number, link) in self.links.iter().enumerate() {
            let shard = ShardId(u16::try_from(number).unwrap_or(u16::MAX));
            self.shards.detach(shard, link.session);
        }
    }
}

impl<W: Awaits> Sink for Asked<W> {
    fn deliver(&self, effect: &Effect, _messages: &[Option<Message<'_>>]) {
        let Effect::Reply(_, reply) = effect else {
            return;
        };
        let waiter = self.waiting.lock().of.pop_front().flatten();
        let outcome = W::outcome(reply);
        if let Some(waiter) = waiter {
            self.arrived.lock().push((waiter, outcome));
        }
    }

    fn flush(&self) {
        let arrived = std::mem::take(&mut *self.arrived.lock());
        for (waiter, outcome) in arrived {
            waiter.answered(outcome);
        }
    }
}
