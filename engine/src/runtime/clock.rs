//! Where the runtime gets the time from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longtail_model::Timestamp;
use parking_lot::Mutex;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The present moment; never goes back.
    fn now(&self) -> Timestamp;

    /// Has `moved` called whenever somebody moves the clock; those who sleep until some time wake by it and look again.
    /// A clock that moves by itself calls nobody.
    fn watch(&self, moved: Moved) {
        drop(moved);
    }
}

/// Is called when a clock was moved, with no lock held.
pub type Moved = Box<dyn Fn() + Send + Sync>;

/// A clock that stands still until somebody moves it: for tests of what happens after an hour.
pub struct ManualClock {
    now: AtomicU64,
    watchers: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// It stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        ManualClock {
            now: AtomicU64::new(now.0),
            watchers: Mutex::default(),
        }
    }

    /// Moves it on. What is due by then happens soon, on the threads that mind the time.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        // Behind the end of time it stands still.
        let _ = self
            .now
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                Some(now.saturating_add(by))
            });
        let watchers = self.watchers.lock().clone();
        for moved in watchers {
            moved();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn watch(&self, moved: Moved) {
        self.watchers.lock().push(Arc::from(moved));
    }
}

/// The system's wall clock when the process started, moved on by the monotonic clock: deadlines are not disturbed
/// when somebody sets the clock.
#[derive(Debug)]
pub struct SystemClock {
    wall: Timestamp,
    start: Instant,
}

impl SystemClock {
    /// Reads the wall clock once.
    #[must_use]
    pub fn new() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        SystemClock {
            wall: since_epoch.into(),
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.wall.plus_millis(elapsed)
    }
}
