//! When to connect again, for whoever connects to others.

/// The pauses between attempts: each up to twice the one before, with jitter, so that many links do not come back at
/// the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base_ms: u64,
    max_ms: u64,
    attempts: u32,
}

impl Backoff {
    /// Pauses from `base_ms` to `max_ms` milliseconds.
    #[must_use]
    pub const fn new(base_ms: u64, max_ms: u64) -> Self {
        Backoff {
            base_ms,
            max_ms,
            attempts: 0,
        }
    }

    /// A connection stood.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Milliseconds until the next attempt, at least the base. `random` is any number.
    pub fn next(&mut self, random: u64) -> u64 {
        let doubled = self.base_ms.saturating_mul(1 << self.attempts.min(20));
        self.attempts = self.attempts.saturating_add(1);
        let most = doubled.saturating_mul(2).min(self.max_ms.max(self.base_ms));
        self.base_ms + random % (most - self.base_ms + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_maximum_and_start_again() {
        let mut backoff = Backoff::new(5_000, 30_000);
        let pauses: Vec<u64> = [5_000, 15_000, 25_000, 25_000]
            .into_iter()
            .map(|random| backoff.next(random))
            .collect();
        assert_eq!(pauses, [10_000, 20_000, 30_000, 30_000]);
        assert_eq!(backoff.next(0), 5_000);
        backoff.reset();
        assert_eq!(backoff.next(5_001), 5_000, "up to twice the base");
    }

    #[test]
    fn the_largest_settings_do_not_overflow() {
        let mut backoff = Backoff::new(u64::MAX / 2, u64::MAX - 1);
        for _ in 0..70 {
            assert!(backoff.next(u64::MAX) >= u64::MAX / 2);
        }
    }
}
