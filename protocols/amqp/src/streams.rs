//! The service's own way to the shards, for what no channel stores itself: messages that go to the space's streams, and
//! those that were delayed. One session at each shard, so that they are stored in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use longtail_engine::runtime::{Shards, Sink};
use longtail_engine::{Command, Effect, Message, Token};
use longtail_model::{SessionId, ShardId};
use parking_lot::Mutex;

use crate::session::is_stored;

/// Somebody who is told once, when all that he waits for is answered.
pub(crate) struct Waiter {
    left: AtomicUsize,
    refused: AtomicBool,
    tell: Mutex<Option<Tell>>,
}

/// Called with whether anything was refused. No lock is held.
type Tell = Box<dyn FnOnce(bool) + Send>;

impl Waiter {
    /// Waits for one answer.
    pub(crate) fn new(tell: impl FnOnce(bool) + Send + 'static) -> Arc<Self> {
        Arc::new(Waiter {
            left: AtomicUsize::new(1),
            refused: AtomicBool::new(false),
            tell: Mutex::new(Some(Box::new(tell))),
        })
    }

    /// Waits for one more.
    pub(crate) fn one_more(self: &Arc<Self>) -> Arc<Self> {
        self.left.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self)
    }

    /// One answer is there. No lock may be held.
    pub(crate) fn answered(&self, refused: bool) {
        if refused {
            self.refused.store(true, Ordering::Relaxed);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let tell = self.tell.lock().take();
            if let Some(tell) = tell {
                tell(self.refused.load(Ordering::Relaxed));
            }
        }
    }
}

/// Commands with who waits for their answers.
pub(crate) type Outgoing = Vec<(ShardId, Command, Option<Arc<Waiter>>)>;

/// See the module.
pub(crate) struct Streams {
    shards: Arc<dyn Shards>,
    links: Box<[Link]>,
}

struct Link {
    session: SessionId,
    asked: Arc<Asked>,
}

#[derive(Default)]
struct Asked {
    waiting: Mutex<Waiting>,
    /// Answers to be told. Written with the shard's lock held.
    arrived: Mutex<Vec<(Arc<Waiter>, bool)>>,
}

#[derive(Default)]
struct Waiting {
    next: Token,
    /// In the order of the answers.
    of: VecDeque<Option<Arc<Waiter>>>,
}

impl Streams {
    pub(crate) fn new(shards: Arc<dyn Shards>) -> Self {
        let link = |shard| {
            let asked = Arc::new(Asked::default());
            Link {
                session: shards.attach(ShardId(shard), Arc::clone(&asked) as Arc<dyn Sink>),
                asked,
            }
        };
        let links = (0..shards.count()).map(link).collect();
        Streams { shards, links }
    }

    /// Queues commands. Somebody has to run the shards after that.
    pub(crate) fn send(&self, outgoing: &mut Outgoing) {
        for (number, link) in self.links.iter().enumerate() {
            let shard = ShardId(u16::try_from(number).unwrap_or(u16::MAX));
            if !outgoing.iter().any(|(at, ..)| *at == shard) {
                continue;
            }
            let mut commands = Vec::new();
            // Held until they are queued: tokens and queue have one order.
            let mut waiting = link.asked.waiting.lock();
            for (_, command, waiter) in outgoing.extract_if(.., |(at, ..)| *at == shard) {
                commands.push((waiting.next, command));
                waiting.next += 1;
                waiting.of.push_back(waiter);
            }
            self.shards.enqueue(shard, link.session, &mut commands);
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for (number, link) in self.links.iter().enumerate() {
            let shard = ShardId(u16::try_from(number).unwrap_or(u16::MAX));
            self.shards.detach(shard, link.session);
        }
    }
}

impl Sink for Asked {
    fn deliver(&self, effect: &Effect, _messages: &[Option<Message<'_>>]) {
        let Effect::Reply(_, reply) = effect else {
            return;
        };
        let waiter = self.waiting.lock().of.pop_front().flatten();
        if let Some(waiter) = waiter {
            self.arrived.lock().push((waiter, !is_stored(reply)));
        }
    }

    fn flush(&self) {
        let arrived = std::mem::take(&mut *self.arrived.lock());
        for (waiter, refused) in arrived {
            waiter.answered(refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_told_once_and_of_any_refusal() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (first, second) = (Arc::clone(&told), Arc::clone(&told));
        let waiter = Waiter::new(move |refused| first.lock().push(refused));
        let more = waiter.one_more();
        waiter.answered(false);
        assert!(told.lock().is_empty());
        more.answered(true);
        assert_eq!(*told.lock(), [true]);
        Waiter::new(move |refused| second.lock().push(refused)).answered(false);
        assert_eq!(*told.lock(), [true, false]);
    }
}
