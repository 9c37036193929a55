//! What is counted, for metrics and `$SYS`.

use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::ephemeral::DropReason;

/// Totals since the start, and a few levels.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections with a session.
    pub connected: AtomicU64,
    /// Logins that were granted.
    pub accepted: AtomicU64,
    /// Logins that were refused.
    pub refused: AtomicU64,
    /// Sessions that another connection took.
    pub taken_over: AtomicU64,
    /// Messages that clients published.
    pub received: AtomicU64,
    /// Publishes that were not allowed.
    pub denied: AtomicU64,
    /// Wills published.
    pub wills: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl Counters {
    /// Counts messages that were not sent after all, although they were accepted for a session.
    pub fn drop_messages(&self, reason: DropReason, count: u64) {
        if count > 0
            && let Some(counter) = self.dropped.get(reason as usize)
        {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Messages dropped for this reason while they waited in a session.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped
            .get(reason as usize)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}
