//! What numbers were before: samples at even times, dense for the last minutes and, where that is wanted, sparser for the
//! hours before.

use std::collections::VecDeque;
use std::sync::Arc;

/// Milliseconds between two samples of the densest level.
pub(super) const INTERVAL_MS: u64 = 5_000;

/// The numbers of a thing at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Milliseconds since 1970.
    pub(super) at_ms: u64,
    /// In the order that the thing has.
    pub(super) numbers: Arc<[u64]>,
}

/// How far back somebody wants to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// Milliseconds.
    pub(super) age_ms: u64,
    /// Milliseconds from one sample to the next.
    pub(super) step_ms: u64,
}

/// How many samples of what distance are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    /// Milliseconds from one to the next.
    pub(super) every_ms: u64,
    /// How many.
    pub(super) keep: usize,
}

#[derive(Clone, Debug)]
struct Level {
    depth: Depth,
    /// The oldest first.
    samples: VecDeque<Sample>,
}

/// Samples of one thing.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// The densest first; there is at least one.
    levels: Vec<Level>,
}

impl History {
    /// None yet.
    pub(super) fn new(depths: &[Depth]) -> Self {
        let level = |&depth| Level {
            depth,
            samples: VecDeque::new(),
        };
        History {
            levels: depths.iter().map(level).collect(),
        }
    }

    /// Keeps so many at the densest level from now on.
    pub(super) fn set_keep(&mut self, keep: usize) {
        if let Some(level) = self.levels.first_mut() {
            level.depth.keep = keep;
            level.trim();
        }
    }

    /// Takes a sample, unless it is no later than the last.
    pub(super) fn record(&mut self, sample: &Sample) {
        for (at, level) in self.levels.iter_mut().enumerate() {
            // Whoever samples keeps the densest distance itself.
            let least = if at == 0 { 1 } else { level.depth.every_ms };
            let last = level.samples.back().map_or(0, |last| last.at_ms);
            if level.samples.is_empty() || sample.at_ms >= last.saturating_add(least) {
                level.samples.push_back(sample.clone());
                level.trim();
            }
        }
    }

    /// Nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.last_ms().is_none()
    }

    /// When the last sample was taken.
    pub(super) fn last_ms(&self) -> Option<u64> {
        let last = self.levels.first()?.samples.back()?;
        Some(last.at_ms)
    }

    /// What a rate is measured against: the latest sample that is at least an interval old, or the oldest there is.
    pub(super) fn before(&self, now_ms: u64) -> Option<&Sample> {
        let samples = &self.levels.first()?.samples;
        let old = samples
            .iter()
            .rev()
            .find(|sample| now_ms.saturating_sub(sample.at_ms) >= INTERVAL_MS);
        old.or(samples.front())
    }

    /// The numbers at even times, the latest first, as far back as there are any: at each time those of the latest sample
    /// before it.
    pub(super) fn since(&self, now_ms: u64, range: Range) -> Vec<Sample> {
        let reaches = |level: &&Level| {
            let oldest = level.samples.front().map_or(0, |sample| sample.at_ms);
            now_ms.saturating_sub(oldest) >= range.age_ms
        };
        // None reaches far enough: the one that reaches farthest.
        let oldest = |level: &&Level| level.samples.front().map_or(u64::MAX, |s| s.at_ms);
        let found = self.levels.iter().find(reaches);
        let Some(level) = found.or_else(|| self.levels.iter().min_by_key(oldest)) else {
            return Vec::new();
        };
        let step = range.step_ms.max(1);
        let latest = now_ms - now_ms % step;
        let mut older = level.samples.iter().rev().peekable();
        let mut found = Vec::new();
        for back in 0..=range.age_ms / step {
            let at = latest.saturating_sub(back * step);
            while older.next_if(|sample| sample.at_ms > at).is_some() {}
            let Some(sample) = older.peek() else { break };
            found.push(Sample {
                at_ms: at,
                numbers: Arc::clone(&sample.numbers),
            });
        }
        found
    }
}

impl Level {
    fn trim(&mut self) {
        while self.samples.len() > self.depth.keep {
            self.samples.pop_front();
        }
        // One that was long and is short now.
        if self.samples.capacity() > 2 * self.depth.keep + 8 {
            self.samples.shrink_to(self.depth.keep + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: Depth = Depth {
        every_ms: INTERVAL_MS,
        keep: 4,
    };

    fn sample(at_ms: u64, number: u64) -> Sample {
        Sample {
            at_ms,
            numbers: Arc::from([number]),
        }
    }

    fn history(depths: &[Depth], last_s: u64) -> History {
        let mut history = History::new(depths);
        for at in (0..=last_s).step_by(5) {
            history.record(&sample(at * 1000, at));
        }
        history
    }

    fn shown(history: &History, now_s: u64, age_s: u64, step_s: u64) -> Vec<(u64, u64)> {
        let range = Range {
            age_ms: age_s * 1000,
            step_ms: step_s * 1000,
        };
        let found = history.since(now_s * 1000, range);
        let shown = found
            .iter()
            .map(|sample| (sample.at_ms / 1000, sample.numbers[0]));
        shown.collect()
    }

    #[test]
    fn the_latest_samples_come_first_at_even_times() {
        let history = history(&[DENSE], 30);
        assert_eq!(shown(&history, 31, 10, 5), [(30, 30), (25, 25), (20, 20)]);
        assert_eq!(
            shown(&history, 34, 60, 10),
            [(30, 30), (20, 20)],
            "no farther than there are any"
        );
        assert_eq!(
            shown(&history, 34, 4, 2),
            [(34, 30), (32, 30), (30, 30)],
            "between two samples the earlier one holds"
        );
        assert!(shown(&History::new(&[DENSE]), 30, 10, 5).is_empty());
    }

    #[test]
    fn who_looks_far_back_sees_the_sparse_level() {
        let sparse = Depth {
            every_ms: 60_000,
            keep: 10,
        };
        let history = history(&[DENSE, sparse], 600);
        assert_eq!(
            shown(&history, 600, 180, 60),
            [(600, 600), (540, 540), (480, 480), (420, 420)]
        );
        assert_eq!(shown(&history, 600, 10, 5).len(), 3);
        assert_eq!(shown(&history, 600, 86_400, 60).len(), 10);
    }

    #[test]
    fn a_rate_is_measured_over_at_least_an_interval_if_there_is_one() {
        let history = history(&[DENSE], 30);
        let before = |now_s: u64| history.before(now_s * 1000).unwrap().at_ms / 1000;
        assert_eq!((before(30), before(34), before(35)), (25, 25, 30));
        let mut young = History::new(&[DENSE]);
        assert!(young.before(0).is_none() && young.is_empty());
        young.record(&sample(1_000, 1));
        assert_eq!(young.before(1_500).unwrap().at_ms, 1_000);
    }

    #[test]
    fn samples_of_a_clock_that_went_back_are_left_out_and_old_ones_go() {
        let mut history = history(&[DENSE], 30);
        history.record(&sample(29_000, 0));
        assert_eq!(history.last_ms(), Some(30_000));
        assert_eq!(history.before(1_000_000).unwrap().at_ms, 30_000);
        history.set_keep(2);
        assert_eq!(shown(&history, 30, 60, 5), [(30, 30), (25, 25)]);
    }
}
