//! Counting what is limited: rates and memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use std::time::Duration;

/// A token bucket. It reads no clock: the caller says what time it is, counted from any fixed moment.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    per_second: u64,
    burst: u64,
    /// Nano-tokens, so that slow rates lose nothing to rounding; negative is debt.
    level: i128,
    at: Duration,
}

const NANO: i128 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains `per_second` a second (each at least 1).
    #[must_use]
    pub(crate) fn new(per_second: u64, burst: u64, now: Duration) -> Self {
        let burst = burst.max(1);
        TokenBucket {
            per_second: per_second.max(1),
            burst,
            level: i128::from(burst) * NANO,
            at: now,
        }
    }

    /// Takes `tokens` out, into debt if need be, and returns how long to wait until the bucket is out of debt: zero if
    /// there was enough.
    pub(crate) fn take(&mut self, tokens: u64, now: Duration) -> Duration {
        self.refill(now);
        self.level -= i128::from(tokens) * NANO;
        self.wait()
    }

    /// How long until one token is there: zero if there is one now. Takes nothing.
    pub(crate) fn until_one(&mut self, now: Duration) -> Duration {
        self.refill(now);
        self.level -= NANO;
        let wait = self.wait();
        self.level += NANO;
        wait
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        let gained = i128::try_from(passed)
            .unwrap_or(i128::MAX)
            .saturating_mul(i128::from(self.per_second));
        self.level = self
            .level
            .saturating_add(gained)
            .min(i128::from(self.burst) * NANO);
    }

    fn wait(&self) -> Duration {
        if self.level >= 0 {
            return Duration::ZERO;
        }
        let rate = i128::from(self.per_second);
        let nanos = (-self.level + rate - 1) / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Bytes held for all connections together.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    held: AtomicUsize,
    max: usize,
}

impl MemoryBudget {
    /// What a connection may hold, in bytes, and still be read from while the budget is exceeded.
    const LITTLE: usize = 16 * 1024;

    pub(crate) fn new(max: usize) -> Self {
        MemoryBudget {
            held: AtomicUsize::new(0),
            max,
        }
    }

    /// One holder went from `before` to `after` bytes.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if after > before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.held() > self.max
    }

    /// By how much it is exceeded.
    pub(crate) fn excess(&self) -> usize {
        self.held().saturating_sub(self.max)
    }

    /// Whether so much more than the budget is held that nobody may be read from.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.held() > self.max.saturating_add(self.max / 2)
    }

    /// Whether a connection that holds `own` bytes has to wait. While the budget is exceeded, those that hold much do: who
    /// holds little is not what it is exceeded by.
    pub(crate) fn must_wait(&self, own: usize) -> bool {
        self.is_exceeded() && (own > Self::LITTLE || self.is_exhausted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 5, ms(0));
        assert_eq!(bucket.take(5, ms(0)), ms(0));
        assert_eq!(bucket.until_one(ms(0)), ms(100));
        assert_eq!(bucket.take(3, ms(0)), ms(300));
        assert_eq!(bucket.take(0, ms(200)), ms(100));
        assert_eq!(bucket.take(1, ms(400)), ms(0));
        // Never more than the burst, however long nothing was taken; and a clock that steps back adds nothing.
        assert_eq!(bucket.take(6, ms(100_000)), ms(100));
        assert_eq!(bucket.take(0, ms(1)), ms(100));
    }

    #[test]
    fn the_budget_counts_changes() {
        let budget = MemoryBudget::new(100);
        budget.change(0, 101);
        assert!(budget.is_exceeded());
        budget.change(101, 40);
        assert_eq!((budget.held(), budget.is_exceeded()), (40, false));
        assert_eq!(budget.excess(), 0);
    }

    #[test]
    fn who_holds_little_waits_only_when_the_budget_is_exhausted() {
        let little = MemoryBudget::LITTLE;
        let budget = MemoryBudget::new(1_000_000);
        budget.change(0, 1_000_000);
        assert!(!budget.must_wait(usize::MAX));
        budget.change(0, 1);
        assert!(budget.must_wait(little + 1) && !budget.must_wait(little));
        assert_eq!(budget.excess(), 1);
        budget.change(0, 500_000);
        assert!(budget.is_exhausted() && budget.must_wait(0));
    }
}
