//! How long it takes to make a batch durable.
//!
//! A few atomic additions a commit, which costs a sync of the disk anyway; nothing at all where nothing is synced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds, ascending. The last bucket has none.
pub const BOUNDS_US: [u64; 14] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000,
];

const BUCKETS: usize = BOUNDS_US.len() + 1;

/// The commits of one shard since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitTimes {
    /// Commits by duration: one number for each of [`BOUNDS_US`] (not cumulated), then those above the last.
    pub buckets: [u64; BUCKETS],
    /// How long all of them took, in microseconds.
    pub sum_us: u64,
    /// How long the slowest took, in microseconds.
    pub max_us: u64,
}

impl CommitTimes {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds the commits of another shard.
    pub fn add(&mut self, other: &CommitTimes) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The bound of the bucket in which the slowest of the fastest `per_mille` thousandths lies, in microseconds, and
    /// never more than the slowest commit took; 0 when there were none.
    #[must_use]
    pub fn quantile_us(&self, per_mille: u64) -> u64 {
        let rank = (self.count() * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return BOUNDS_US
                    .get(at)
                    .map_or(self.max_us, |bound| self.max_us.min(*bound));
            }
        }
        0
    }
}

/// The live counters behind [`CommitTimes`].
#[derive(Default)]
pub(super) struct Commits {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Commits {
    pub(super) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> CommitTimes {
        CommitTimes {
            buckets: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
            max_us: self.max_us.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_fall_into_the_bucket_that_their_time_fits() {
        let commits = Commits::default();
        for us in [1, 50, 51, 900, 7_000_000] {
            commits.record(Duration::from_micros(us));
        }
        let times = commits.snapshot();
        assert_eq!(times.buckets[..5], [2, 1, 0, 0, 1]);
        assert_eq!(times.buckets[BUCKETS - 1], 1);
        assert_eq!(
            (times.count(), times.sum_us, times.max_us),
            (5, 7_001_002, 7_000_000)
        );
    }

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        assert_eq!(CommitTimes::default().quantile_us(990), 0);
        let commits = Commits::default();
        for us in [10, 10, 10, 700] {
            commits.record(Duration::from_micros(us));
        }
        let times = commits.snapshot();
        assert_eq!(times.quantile_us(500), 50);
        assert_eq!(times.quantile_us(990), 700, "no more than the slowest");
    }
}
