//! The threads beside the shards. None of them is on the way of a request, except that a commit thread delivers what
//! waited for its sync.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::cell::Cell;

/// Commit threads a shard: while one delivers what it has made durable, the other makes the next batch durable.
const COMMITTERS: usize = 2;

/// Longest sleep of the thread that minds the time.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// How the cells wake the threads.
#[derive(Default)]
pub(super) struct Wake {
    time: Mutex<Schedule>,
    time_changed: Condvar,
    dirty: Mutex<bool>,
    got_dirty: Condvar,
    is_dirty: AtomicBool,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Schedule {
    /// Until when the thread sleeps, in milliseconds of the clock; 0 while it is awake.
    sleeps_until: u64,
}

impl Wake {
    /// A shard needs the time at `due`.
    pub(super) fn time(&self, due: u64) {
        let mut schedule = self.time.lock();
        if due < schedule.sleeps_until {
            schedule.sleeps_until = 0;
            self.time_changed.notify_one();
        }
    }

    /// A log has something to sync or to tidy.
    pub(super) fn dirty(&self) {
        if !self.is_dirty.swap(true, Ordering::Relaxed) {
            *self.dirty.lock() = true;
            self.got_dirty.notify_one();
        }
    }
}

pub(super) struct Threads {
    cells: Arc<[Arc<Cell>]>,
    wake: Arc<Wake>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(
        cells: &Arc<[Arc<Cell>]>,
        wake: Arc<Wake>,
        interval: Duration,
    ) -> io::Result<Self> {
        let mut threads = Threads {
            cells: Arc::clone(cells),
            wake,
            handles: Vec::new(),
        };
        for (number, cell) in cells.iter().enumerate() {
            if !cell.with_shard(|shard| shard.logs_ref().durable_ref().is_some()) {
                continue;
            }
            for _ in 0..COMMITTERS {
                let cell = Arc::clone(cell);
                threads.spawn(format!("commit-{number}"), move || while cell.commit() {})?;
            }
        }
        let (cells, wake) = (Arc::clone(cells), Arc::clone(&threads.wake));
        threads.spawn("time".to_owned(), move || mind_time(&cells, &wake))?;
        let (cells, wake) = (Arc::clone(&threads.cells), Arc::clone(&threads.wake));
        threads.spawn("house".to_owned(), move || {
            keep_house(&cells, &wake, interval);
        })?;
        Ok(threads)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.handles.push(Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        self.wake.stopping.store(true, Ordering::SeqCst);
        for cell in self.cells.iter() {
            cell.stop();
        }
        self.wake.time.lock().sleeps_until = 0;
        self.wake.time_changed.notify_all();
        *self.wake.dirty.lock() = true;
        self.wake.got_dirty.notify_all();
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a thread of the shard runtime panicked");
            }
        }
    }
}

/// Calls every shard when one of its timers is due.
fn mind_time(cells: &[Arc<Cell>], wake: &Wake) {
    while !wake.stopping.load(Ordering::SeqCst) {
        let mut schedule = wake.time.lock();
        // Set before looking at the due times: a cell that gets an earlier one meanwhile sees it and wakes us.
        schedule.sleeps_until = u64::MAX;
        drop(schedule);
        let due = cells
            .iter()
            .map(|cell| cell.due())
            .min()
            .unwrap_or(u64::MAX);
        let now = cells.first().map_or(0, |cell| cell.now());
        if due <= now {
            for cell in cells.iter().filter(|cell| cell.due() <= now) {
                cell.tick();
            }
            continue;
        }
        schedule = wake.time.lock();
        if schedule.sleeps_until == 0 || wake.stopping.load(Ordering::SeqCst) {
            continue;
        }
        schedule.sleeps_until = due;
        let sleep = Duration::from_millis(due - now).min(LONGEST_SLEEP);
        wake.time_changed.wait_for(&mut schedule, sleep);
    }
}

/// Syncs what nobody waits for and tidies the logs, every interval in which something was written.
fn keep_house(cells: &[Arc<Cell>], wake: &Wake, interval: Duration) {
    loop {
        let mut dirty = wake.dirty.lock();
        while !*dirty {
            wake.got_dirty.wait(&mut dirty);
        }
        if wake.stopping.load(Ordering::SeqCst) {
            return;
        }
        // Gather for an interval; only stopping cuts it short.
        *dirty = false;
        wake.got_dirty.wait_for(&mut dirty, interval);
        drop(dirty);
        if wake.stopping.load(Ordering::SeqCst) {
            return;
        }
        wake.is_dirty.store(false, Ordering::Relaxed);
        for cell in cells {
            while cell.keep_house() && !wake.stopping.load(Ordering::SeqCst) {}
        }
    }
}
