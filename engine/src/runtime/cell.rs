//! One shard with the queue in front of it and the effects behind it.

#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use longtail_log::{Job, Outcome, ShardLog};
use longtail_model::{Durability, Lsn, SessionId, Timestamp};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::clock::Clock;
use super::commits::{CommitTimes, Commits};
use super::core::{Core, Outlet};
use super::threads::Wake;
use super::{LogFacts, Sink};
use crate::command::{Command, Token};
use crate::shard::Shard;

/// Something for the shard to do.
#[expect(clippy::large_enum_variant, reason = "nearly all of it is commands")]
pub(super) enum Work {
    Command(SessionId, Token, Command),
    Interrupt(SessionId),
    Detach(SessionId),
}

pub(super) struct Cell {
    queue: Mutex<Vec<Work>>,
    has_work: AtomicBool,
    /// A thread is in [`Cell::run`] and will look at `has_work` again.
    running: AtomicBool,
    core: Mutex<Core>,
    /// Signalled when there is something to commit; waits on `core`.
    commit: Condvar,
    /// When the shard next needs the time, in milliseconds.
    due: AtomicU64,
    facts: Facts,
    commits: Commits,
    clock: Arc<dyn Clock>,
    wake: Arc<Wake>,
}

/// What may be asked of the log by whoever is called with the lock held.
#[derive(Default)]
struct Facts {
    start: AtomicU64,
    end: AtomicU64,
    appended: AtomicU64,
    rewritten: AtomicU64,
    pending_effects: AtomicU64,
    pending_bytes: AtomicU64,
    /// Whether `trouble` says something, so that a healthy batch need not look.
    in_trouble: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Cell {
    pub(super) fn new(shard: Shard, clock: Arc<dyn Clock>, wake: Arc<Wake>) -> Self {
        let due = shard.next_due().map_or(u64::MAX, |due| due.0);
        Cell {
            queue: Mutex::new(Vec::new()),
            has_work: AtomicBool::new(false),
            running: AtomicBool::new(false),
            core: Mutex::new(Core::new(shard)),
            commit: Condvar::new(),
            due: AtomicU64::new(due),
            facts: Facts::default(),
            commits: Commits::default(),
            clock,
            wake,
        }
    }

    pub(super) fn attach(&self, sink: Arc<dyn Sink>) -> SessionId {
        let mut core = self.core.lock();
        let session = core.shard.attach();
        core.outlets.insert(
            session,
            Outlet {
                sink,
                pending: 0,
                touched: false,
                is_leaving: false,
            },
        );
        session
    }

    pub(super) fn enqueue(&self, work: impl IntoIterator<Item = Work>) {
        self.queue.lock().extend(work);
        self.has_work.store(true, Ordering::SeqCst);
    }

    /// Runs what is queued, unless another thread does.
    pub(super) fn run(&self) {
        let _guard = AbortOnPanic::new();
        // Whoever submits sets `has_work` first and then asks for `running`; whoever runs gives `running` back first and
        // then looks at `has_work`. So of two that meet, at least one sees the other, and no work is left behind.
        while self.has_work.load(Ordering::SeqCst) && !self.running.swap(true, Ordering::SeqCst) {
            let mut core = self.core.lock();
            let now = self.clock.now();
            core.advance(now);
            while self.has_work.swap(false, Ordering::SeqCst) {
                let mut work = mem::take(&mut core.spare);
                mem::swap(&mut work, &mut *self.queue.lock());
                core.carry_out(now, &mut work);
                core.spare = work;
            }
            core.finish_batch();
            if let Some(job) = core.commit_for_one() {
                drop(core);
                core = self.finish_commit(job);
            }
            let touched = self.unlock(core);
            self.running.store(false, Ordering::SeqCst);
            flush(&touched);
        }
    }

    /// Lets time pass.
    pub(super) fn tick(&self) {
        let _guard = AbortOnPanic::new();
        let mut core = self.core.lock();
        let now = self.clock.now();
        core.advance(now);
        core.finish_batch();
        self.leave(core);
    }

    /// Unlocks, wakes whom it must, and writes to the sockets.
    fn leave(&self, core: MutexGuard<'_, Core>) {
        flush(&self.unlock(core));
    }

    /// Unlocks and wakes whom it must; the caller flushes what it gets.
    #[must_use]
    fn unlock(&self, mut core: MutexGuard<'_, Core>) -> Vec<Arc<dyn Sink>> {
        let touched = core.touched_sinks();
        let must_commit = core.must_commit();
        let dirty = core
            .shard
            .logs_ref()
            .durable_ref()
            .is_some_and(|log| log.watermark(Durability::Sync) < log.end())
            || core.shard.has_remains();
        let due = core.shard.next_due().unwrap_or(Timestamp::NEVER).0;
        if let Some(log) = core.shard.logs_ref().durable_ref() {
            self.facts.start.store(log.start().0, Ordering::Relaxed);
            self.facts.end.store(log.end().0, Ordering::Relaxed);
            self.facts
                .appended
                .store(core.shard.logs_ref().appended(), Ordering::Relaxed);
            self.facts
                .rewritten
                .store(core.rewritten, Ordering::Relaxed);
            self.facts
                .pending_bytes
                .store(log.pending_bytes(), Ordering::Relaxed);
        }
        self.facts
            .pending_effects
            .store(core.pending.len() as u64, Ordering::Relaxed);
        let trouble = core.shard.logs_ref().trouble();
        if trouble.is_some() || self.facts.in_trouble.load(Ordering::Relaxed) {
            self.facts
                .in_trouble
                .store(trouble.is_some(), Ordering::Relaxed);
            *self.facts.trouble.lock() = trouble;
        }
        drop(core);
        if must_commit {
            self.commit.notify_one();
        }
        let earlier = due < self.due.swap(due, Ordering::Relaxed);
        if earlier {
            self.wake.time(due);
        }
        if dirty {
            self.wake.dirty();
        }
        touched
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.now().0
    }

    /// Facts about the log as of the last batch; takes no lock.
    pub(super) fn log_facts(&self) -> LogFacts {
        LogFacts {
            start: Lsn(self.facts.start.load(Ordering::Relaxed)),
            end: Lsn(self.facts.end.load(Ordering::Relaxed)),
            records_appended: self.facts.appended.load(Ordering::Relaxed),
            records_rewritten: self.facts.rewritten.load(Ordering::Relaxed),
            pending_effects: self.facts.pending_effects.load(Ordering::Relaxed),
            pending_bytes: self.facts.pending_bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn commit_times(&self) -> CommitTimes {
        self.commits.snapshot()
    }

    /// Why messages are not accepted, if so, as of the last batch.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.facts.in_trouble.load(Ordering::Relaxed) {
            self.facts.trouble.lock().clone()
        } else {
            None
        }
    }

    pub(super) fn due(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }

    /// One turn of a commit thread: waits for something to commit, makes it durable, delivers what waited for it.
    /// `false` when the shard stops.
    pub(super) fn commit(&self) -> bool {
        let _guard = AbortOnPanic::new();
        let mut core = self.core.lock();
        let job = loop {
            if core.stopping {
                return false;
            }
            if let Some(job) = core.next_commit() {
                break job;
            }
            self.commit.wait(&mut core);
        };
        drop(core);
        let core = self.finish_commit(job);
        self.leave(core);
        true
    }

    /// Makes a batch durable and lets out what waited for it.
    fn finish_commit(&self, job: Job) -> MutexGuard<'_, Core> {
        let began = Instant::now();
        let done = job.run();
        let took = began.elapsed();
        self.commits.record(took);
        let mut core = self.core.lock();
        core.commit_us = (core.commit_us / 8 * 7)
            .saturating_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / 8);
        if let Some(log) = core.shard.logs().durable() {
            log.finish(done);
        }
        let asked = core.asked;
        core.release();
        core.answered = asked - core.asked;
        core
    }

    /// Writes and syncs what nobody waits for, and does one piece of the log's housekeeping. `true` when there may be
    /// more of that.
    pub(super) fn keep_house(&self) -> bool {
        let _guard = AbortOnPanic::new();
        let mut core = self.core.lock();
        if core
            .shard
            .logs_ref()
            .durable_ref()
            .is_some_and(ShardLog::wants_checkpoint)
            && !core.shard.logs_ref().poisoned()
        {
            core.shard.end_batch();
            core.shard.tidy_pages();
            let body = core.shard.encode_checkpoint();
            if let Some(log) = core.shard.logs().durable() {
                log.checkpoint(body);
            }
        }
        core.write_now();
        let remains = core.clear_some();
        let (sync, chore) = match core.shard.logs().durable() {
            Some(log) => (log.next_sync(), log.next_chore()),
            None => (None, None),
        };
        let touched = core.touched_sinks();
        drop(core);
        flush(&touched);
        let more = chore.is_some() || remains;
        let sync = sync.map(|job| {
            let began = Instant::now();
            let done = job.run();
            self.commits.record(began.elapsed());
            done
        });
        for done in sync.into_iter().chain(chore.map(Job::run)) {
            let mut core = self.core.lock();
            core.finish_durable(done);
            core.release();
            self.leave(core);
        }
        self.keep_memory_house();
        more
    }

    fn keep_memory_house(&self) {
        let mut core = self.core.lock();
        let Some(job) = core.shard.logs().memory().next_chore() else {
            return;
        };
        drop(core);
        let done = job.run();
        let mut core = self.core.lock();
        if let Outcome::Candidates { segment, records } = core.shard.logs().memory().finish(done) {
            let live = core.shard.live(&records);
            core.shard.logs().memory().rewrite(segment, live);
        }
    }

    pub(super) fn stop(&self) {
        self.core.lock().stopping = true;
        self.commit.notify_all();
    }

    /// Makes everything durable and writes a checkpoint, with no other thread left.
    pub(super) fn close(&self) {
        let mut core = self.core.lock();
        core.shard.end_batch();
        loop {
            let Some(log) = core.shard.logs().durable() else {
                return;
            };
            let Some(job) = log.next_write(true).or_else(|| log.next_sync()) else {
                break;
            };
            let done = job.run();
            log.finish(done);
            core.release();
        }
        if core.shard.logs_ref().poisoned() {
            return;
        }
        let body = core.shard.encode_checkpoint();
        if let Some(log) = core.shard.logs().durable() {
            log.checkpoint(body);
        }
        while let Some(job) = core.shard.logs().durable().and_then(ShardLog::next_chore) {
            let done = job.run();
            core.finish_durable(done);
        }
        let touched = core.touched_sinks();
        drop(core);
        flush(&touched);
    }

    pub(super) fn with_shard<R>(&self, with: impl FnOnce(&mut Shard) -> R) -> R {
        with(&mut self.core.lock().shard)
    }
}

/// A panic in the middle of a transition leaves a state that nobody has checked. The log has the last good one: the
/// process ends, and its next start recovers from there.
///
/// A thread that comes here because it unwinds already, and so drops a broker, does not end the process: that panic is
/// not the shard's.
struct AbortOnPanic {
    unwinding: bool,
}

impl AbortOnPanic {
    fn new() -> Self {
        AbortOnPanic {
            unwinding: std::thread::panicking(),
        }
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        // A second panic while one unwinds ends the process by itself.
        if std::thread::panicking() && !self.unwinding {
            tracing::error!(
                "a shard panicked; the process ends here and recovers from its log when started again"
            );
            std::process::abort();
        }
    }
}

fn flush(sinks: &[Arc<dyn Sink>]) {
    for sink in sinks {
        sink.flush();
    }
}
