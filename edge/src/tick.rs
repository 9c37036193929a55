//! The worker's tick: what happens once for all connections that one poll made readable.
//!
//! On a current-thread runtime the tasks that one poll of the system woke run one after the other. The first that has
//! input wakes the tick's task, which so runs behind all of them: it lets every connection submit, runs the
//! process-wide hook, and then flushes every connection once. Work that arrives during a tick waits for the next.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tracing::error;

/// The process-wide hook, run by each worker once in a tick, between the connections' `submit` and their `flush`.
pub trait Tick: Send + Sync + 'static {
    /// Does the work that connections submitted, and appends and flushes replies as it likes
    /// ([`crate::Connection::flush_soon`] sends once a connection). `worker` counts from 0.
    fn run(&self, worker: usize);
}

impl<T: Tick + ?Sized> Tick for Arc<T> {
    fn run(&self, worker: usize) {
        T::run(self, worker);
    }
}

/// A hook that does nothing, for protocols that answer by themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTick;

impl Tick for NoTick {
    fn run(&self, _worker: usize) {}
}

/// A connection as the tick sees it.
pub(crate) trait Member: Send + Sync {
    fn submit(self: Arc<Self>);
    fn flush(&self);
}

/// What a worker keeps in its thread.
pub(crate) struct Local {
    is_worker: Cell<bool>,
    /// Input is read here; see [`crate::driver`].
    pub(crate) scratch: RefCell<Vec<u8>>,
    enlisted: RefCell<Vec<Arc<dyn Member>>>,
    to_flush: RefCell<Vec<Arc<dyn Member>>>,
    /// The connection that submits is the only one of this tick.
    is_alone: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            is_worker: Cell::new(false),
            scratch: RefCell::new(Vec::new()),
            enlisted: RefCell::new(Vec::new()),
            to_flush: RefCell::new(Vec::new()),
            is_alone: Cell::new(false),
            waker: RefCell::new(None),
        }
    };
}

/// Gives `work` what this thread keeps; `None` on a thread that is not a worker, or no longer one.
pub(crate) fn with_local<R>(work: impl FnOnce(&Local) -> R) -> Option<R> {
    LOCAL
        .try_with(|local| local.is_worker.get().then(|| work(local)))
        .ok()
        .flatten()
}

/// Makes this thread a worker with a read buffer of `scratch_bytes`, until the guard is dropped.
pub(crate) fn become_worker(scratch_bytes: usize) -> WorkerGuard {
    LOCAL.with(|local| {
        local.is_worker.set(true);
        *local.scratch.borrow_mut() = vec![0; scratch_bytes];
    });
    WorkerGuard
}

pub(crate) struct WorkerGuard;

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        // Taken out first: dropping a connection may come back here.
        let members = LOCAL.with(|local| {
            local.is_worker.set(false);
            (local.enlisted.take(), local.to_flush.take())
        });
        drop(members);
    }
}

impl Local {
    /// `member` takes part in the next tick.
    pub(crate) fn enlist(&self, member: Arc<dyn Member>) {
        self.enlisted.borrow_mut().push(member);
        self.wake_tick();
    }

    /// `member` is flushed at the end of this tick, or of the next.
    pub(crate) fn flush_soon(&self, member: Arc<dyn Member>) {
        self.to_flush.borrow_mut().push(member);
        self.wake_tick();
    }

    /// Whether nobody else has a part in the work that is submitted now.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone.get()
    }

    fn wake_tick(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The tick's task.
pub(crate) async fn run(worker: usize, hook: Arc<dyn Tick>) {
    let mut members = Vec::new();
    std::future::poll_fn(|cx| {
        with_local(|local| poll_tick(local, cx, worker, &*hook, &mut members))
            .unwrap_or(Poll::Ready(()))
    })
    .await;
}

/// A defect that panics must not stop the ticks, and with them every connection of the worker. A hook that cannot go on
/// after a panic has to see to that itself.
fn contain(what: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        error!(what, "panicked");
    }
}

fn poll_tick(
    local: &Local,
    cx: &Context<'_>,
    worker: usize,
    hook: &dyn Tick,
    members: &mut Vec<Arc<dyn Member>>,
) -> Poll<()> {
    members.clear();
    std::mem::swap(members, &mut local.enlisted.borrow_mut());
    if !members.is_empty() {
        local.is_alone.set(members.len() == 1);
        for member in &*members {
            contain("a protocol's submit", || Arc::clone(member).submit());
        }
        local.is_alone.set(false);
        contain("the tick's hook", || hook.run(worker));
        for member in members.drain(..) {
            member.flush();
        }
    }
    // Replies for connections that had no input, and for those of other workers.
    std::mem::swap(members, &mut local.to_flush.borrow_mut());
    for member in members.drain(..) {
        member.flush();
    }
    if local.enlisted.borrow().is_empty() && local.to_flush.borrow().is_empty() {
        *local.waker.borrow_mut() = Some(cx.waker().clone());
    } else {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}
