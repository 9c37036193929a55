//! Since when nothing has happened to a queue, as far as somebody has looked.
//!
//! Nothing is noted on a message's way: what is counted anyhow is compared with what it was at the look before. So the
//! moment is never too early, and too late by no more than the time between two looks.

use parking_lot::Mutex;

/// What somebody saw who looked at a queue: sums of what is counted, and how much is in it.
pub(crate) type Seen = [u64; 4];

/// Since when a queue is as it is.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<Option<(Seen, u64)>>);

impl Quiet {
    /// Somebody looks, at this time in milliseconds since 1970; the time since which it is seen as it is.
    pub(super) fn look(&self, seen: Seen, now_ms: u64) -> u64 {
        let mut last = self.0.lock();
        match &*last {
            Some((before, since_ms)) if *before == seen => *since_ms,
            _ => {
                *last = Some((seen, now_ms));
                now_ms
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_since_the_first_look_that_saw_it_as_it_is() {
        let quiet = Quiet::default();
        assert_eq!(quiet.look([1, 1, 1, 0], 1_000), 1_000);
        assert_eq!(quiet.look([1, 1, 1, 0], 6_000), 1_000);
        // Taken and given back: counted, though as much is there as before.
        assert_eq!(quiet.look([2, 1, 1, 0], 11_000), 11_000);
        assert_eq!(quiet.look([2, 1, 1, 0], 86_411_000), 11_000);
        // Expired: not counted, but gone.
        assert_eq!(quiet.look([2, 0, 0, 0], 86_416_000), 86_416_000);
    }
}
