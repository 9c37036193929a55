//! The service's own way to the shards, for what no channel stores itself: messages that go to the space's streams, and
//! those that were delayed. One session at each shard, so that they are stored in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use longtail_broker::streams::{self, Awaits};
use longtail_engine::Reply;
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
}

impl Awaits for Waiter {
    /// Whether it was refused.
    type Outcome = bool;

    fn outcome(reply: &Reply) -> bool {
        !is_stored(reply)
    }

    fn answered(&self, refused: bool) {
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
pub(crate) type Outgoing = streams::Outgoing<Waiter>;

/// See the module.
pub(crate) type Streams = streams::Streams<Waiter>;

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
