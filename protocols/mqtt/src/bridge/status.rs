//! What a bridge says of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::link::Fate;

/// State and totals since the start of one bridge.
#[derive(Debug, Default)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The topic of its state.
    pub state_topic: String,
    pub(super) up: AtomicBool,
    pub(super) ready: AtomicBool,
    pub(super) attempts: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Status {
    pub(super) fn count(&self, fate: Fate) {
        let counter = match fate {
            Fate::Delivered => &self.sent,
            _ => &self.dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the other broker has let it in.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether the other broker has also answered for its subscriptions.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Times that it tried to connect.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Times that it was let in.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Messages that the other broker has.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages that came from the other broker.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Messages of either direction that were given up: refused, expired, too large, going round, at QoS 0 while the
    /// link was down.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
