//! Where the runtime gets the time from.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use longtail_model::Timestamp;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The present moment; never goes back.
    fn now(&self) -> Timestamp;
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
