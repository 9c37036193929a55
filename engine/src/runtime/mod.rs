//! Runs shards: whoever submits while a shard is free runs it (flat combining), so that no request is handed from
//! thread to thread.
//!
//! ```text
//! session ── enqueue ──▶ queue ── run ──▶ Shard::step ──▶ log (memory) ──▶ write ──▶ effects ──▶ Sink
//!                                                             └─ sync: the commit threads write, sync and deliver
//! ```
//!
//! `cell` is one shard with its queue and its lock, `core` the shard behind that lock; `commits` measures how long syncs
//! take; `threads` are the few threads beside it: two for commits (one delivers while the other syncs), one for time, one
//! for the log's housekeeping.

mod cell;
mod clock;
mod commits;
mod core;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use longtail_model::{Lsn, SessionId, ShardId, StreamId};
use parking_lot::Mutex;

use crate::command::{Command, Token};
use crate::effect::{Effect, ShardInfo};
use crate::message::Message;
use crate::shard::Shard;
use cell::{Cell, Work};
use threads::Threads;

pub use clock::{Clock, ManualClock, Moved, SystemClock};
pub use commits::{BOUNDS_US, CommitTimes};

/// Where a session's effects go.
pub trait Sink: Send + Sync + 'static {
    /// Takes one effect, in order. Called with the shard's lock held, from any thread: must only format and buffer,
    /// never block, submit or run.
    ///
    /// `messages` has the record of a delivery or peek, and the records of a batch in its order; one that could not
    /// be read is `None`.
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]);

    /// Called after the lock is released, once for any number of effects: the time to write to the socket.
    fn flush(&self);

    /// Whether it takes the answers to what was asked before its session was detached, too: these, and nothing else.
    /// Nobody flushes it for them.
    fn takes_last_answers(&self) -> bool {
        false
    }
}

/// Access to the shards of this process.
pub trait Shards: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> u16;

    /// Attaches a session; its effects go to `sink`.
    fn attach(&self, shard: ShardId, sink: Arc<dyn Sink>) -> SessionId;

    /// Queues commands of a session, in order, without running them; empties `commands`. Those with the token
    /// [`QUIET`](crate::QUIET) are answered only if they are refused.
    fn enqueue(&self, shard: ShardId, session: SessionId, commands: &mut Vec<(Token, Command)>);

    /// Runs what is queued, unless somebody already does.
    fn run(&self);

    /// The client will send nothing more: a take that waits, and every later one, ends with `TimedOut`.
    fn interrupt(&self, shard: ShardId, session: SessionId);

    /// Ends a session: what it holds goes back at once, waiting takes are forgotten.
    fn detach(&self, shard: ShardId, session: SessionId);
}

thread_local! {
    /// Whether this thread runs shards by [`run_once_deep`], and whether it is to do so once more.
    static RUNNING: std::cell::Cell<(bool, bool)> = const { std::cell::Cell::new((false, false)) };
}

/// Runs the shards; from within such a run, once that is done. So a sink whose answers ask for more does not pile up
/// calls.
pub fn run_once_deep(shards: &dyn Shards) {
    if RUNNING.get().0 {
        RUNNING.set((true, true));
        return;
    }
    loop {
        RUNNING.set((true, false));
        shards.run();
        if !RUNNING.get().1 {
            break;
        }
    }
    RUNNING.set((false, false));
}

/// What is known of a shard's durable log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Position of the oldest record that may still be there.
    pub start: Lsn,
    /// Position of the next record.
    pub end: Lsn,
    /// Records appended since the log was opened.
    pub records_appended: u64,
    /// Records copied out of sparse segments since the log was opened.
    pub records_rewritten: u64,
    /// Effects that wait for their records to be durable.
    pub pending_effects: u64,
    /// Bytes appended and not yet handed to the system.
    pub pending_bytes: u64,
}

/// Settings of the runtime.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// How long written data may wait for its sync where nobody waits for it, in milliseconds.
    pub interval_ms: u64,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig { interval_ms: 50 }
    }
}

/// Streams and groups of a shard that are added up while it stands still.
const LOOKED_AT: usize = 1_000;

/// The shards of this process and the threads beside them.
pub struct Runtime {
    cells: Arc<[Arc<Cell>]>,
    threads: Mutex<Option<Threads>>,
}

impl Runtime {
    /// Starts to run shards.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        shards: Vec<Shard>,
        clock: &Arc<dyn Clock>,
        config: &RuntimeConfig,
    ) -> std::io::Result<Self> {
        let wake = Arc::new(threads::Wake::default());
        let cells: Arc<[Arc<Cell>]> = shards
            .into_iter()
            .map(|shard| Arc::new(Cell::new(shard, Arc::clone(clock), Arc::clone(&wake))))
            .collect();
        let sleeper = Arc::downgrade(&wake);
        clock.watch(Box::new(move || {
            if let Some(wake) = sleeper.upgrade() {
                wake.time(0);
            }
        }));
        let threads = Threads::start(
            &cells,
            wake,
            Duration::from_millis(config.interval_ms.max(1)),
        )?;
        Ok(Runtime {
            cells,
            threads: Mutex::new(Some(threads)),
        })
    }

    /// What each shard holds. A shard goes on between one part of its streams and the next, so the totals are of no one
    /// moment.
    #[must_use]
    pub fn info(&self) -> Vec<ShardInfo> {
        let of = |cell: &Arc<Cell>| {
            let mut info = ShardInfo::default();
            let mut next = Some(StreamId(0));
            while let Some(from) = next {
                next = cell.with_shard(|shard| shard.add_up(&mut info, from, LOOKED_AT));
            }
            info
        };
        self.cells.iter().map(of).collect()
    }

    /// Why a shard does not accept messages, or an index is incomplete, if so: of the first for which that holds.
    #[must_use]
    pub fn any_trouble(&self) -> Option<String> {
        (self.cells.iter()).find_map(|cell| cell.with_shard(|shard| shard.trouble()))
    }

    /// What was known of a shard's log at its last batch. Takes no lock: may be called from a [`Sink`].
    #[must_use]
    pub fn log_facts(&self, shard: ShardId) -> LogFacts {
        self.cells
            .get(usize::from(shard.0))
            .map(|cell| cell.log_facts())
            .unwrap_or_default()
    }

    /// How long a shard's commits took. Takes no lock.
    #[must_use]
    pub fn commit_times(&self, shard: ShardId) -> CommitTimes {
        self.cells
            .get(usize::from(shard.0))
            .map(|cell| cell.commit_times())
            .unwrap_or_default()
    }

    /// Why a shard's messages are not accepted, if so, as of its last batch. Does not wait for the shard.
    #[must_use]
    pub fn trouble(&self, shard: ShardId) -> Option<String> {
        self.cells.get(usize::from(shard.0))?.trouble()
    }

    /// Bytes of disk that a shard's log occupies; `None` when it has none.
    #[must_use]
    pub fn disk_bytes(&self, shard: ShardId) -> Option<u64> {
        self.cells
            .get(usize::from(shard.0))?
            .with_shard(|shard| shard.logs_ref().durable_ref()?.disk_bytes())
    }

    /// Looks at a shard's state, between batches. Keep it short: the shard stands still meanwhile.
    pub fn with_shard<R>(&self, shard: ShardId, with: impl FnOnce(&mut Shard) -> R) -> Option<R> {
        self.cells
            .get(usize::from(shard.0))
            .map(|cell| cell.with_shard(with))
    }

    /// Writes and syncs everything, writes a checkpoint, and stops the threads. Sessions get no more answers.
    pub fn stop(&self) {
        let Some(mut threads) = self.threads.lock().take() else {
            return;
        };
        threads.stop();
        for cell in self.cells.iter() {
            cell.close();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shards for Runtime {
    fn count(&self) -> u16 {
        u16::try_from(self.cells.len()).unwrap_or(u16::MAX)
    }

    fn attach(&self, shard: ShardId, sink: Arc<dyn Sink>) -> SessionId {
        self.cells[usize::from(shard.0)].attach(sink)
    }

    fn enqueue(&self, shard: ShardId, session: SessionId, commands: &mut Vec<(Token, Command)>) {
        self.cells[usize::from(shard.0)].enqueue(
            commands
                .drain(..)
                .map(|(token, command)| Work::Command(session, token, command)),
        );
    }

    fn run(&self) {
        for cell in self.cells.iter() {
            cell.run();
        }
    }

    fn interrupt(&self, shard: ShardId, session: SessionId) {
        let cell = &self.cells[usize::from(shard.0)];
        cell.enqueue([Work::Interrupt(session)]);
        cell.run();
    }

    fn detach(&self, shard: ShardId, session: SessionId) {
        let cell = &self.cells[usize::from(shard.0)];
        cell.enqueue([Work::Detach(session)]);
        cell.run();
    }
}
