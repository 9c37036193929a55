//! Giving back, when the server falls quiet, the memory that its work has freed.
//!
//! mimalloc lets freed memory lie for a second, in case it is needed again, and gives back to the system what lay longer
//! only when one of its later calls comes by: under load at once, in a server that has fallen quiet never. What a
//! recovery or a burst needed for a moment (checkpoints, pages, buffers of the log) would stay resident for as long as
//! nothing happens. A thread that ends makes mimalloc look through all of it, and needs no foreign call of ours.

use std::time::Duration;

use longtail_beanstalk::CpuTime;
use tokio::time::MissedTickBehavior;
use tracing::warn;

/// From one look to the next: longer than mimalloc lets freed memory lie, seldom enough to cost nothing.
const EVERY: Duration = Duration::from_secs(2);
/// Processor time between two looks below which the server was quiet, in microseconds: 1 % of one processor.
const QUIET_US: u64 = 20_000;

/// Looks for the end of work until it is dropped.
pub(super) async fn give_back() {
    let mut spells = Spells::default();
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    looks.tick().await;
    loop {
        looks.tick().await;
        let used = CpuTime::of_process();
        if spells.ended(used.user_us + used.system_us) {
            // Not joined: the end of the thread is all that is wanted of it.
            if let Err(error) = std::thread::Builder::new()
                .name("give-back".to_owned())
                .spawn(|| {})
            {
                warn!(%error, "no thread to give freed memory back with");
            }
        }
    }
}

/// Spells of work between quiet ones. The start of the process is the first.
struct Spells {
    used_us: u64,
    working: bool,
}

impl Default for Spells {
    fn default() -> Self {
        Spells {
            used_us: 0,
            working: true,
        }
    }
}

impl Spells {
    /// Takes the processor time used so far; whether a spell of work has just ended.
    fn ended(&mut self, used_us: u64) -> bool {
        let quiet = used_us.saturating_sub(self.used_us) < QUIET_US;
        self.used_us = used_us;
        let ended = quiet && self.working;
        self.working = !quiet;
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_of_work_ends_once() {
        let mut spells = Spells::default();
        let mut at = |used_us| spells.ended(used_us);
        assert!(!at(400_000), "the start took longer than one look");
        assert!(at(400_000 + QUIET_US - 1));
        assert!(!at(500_000), "quiet still");
        assert!(!at(2_000_000));
        assert!(!at(4_000_000), "work goes on");
        assert!(at(4_000_100));
        assert!(!at(4_000_200));
    }
}
