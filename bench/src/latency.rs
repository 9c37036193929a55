//! Latencies: recorded in nanoseconds into histograms, one a command and one each for bursts and messages, merged over
//! threads, and boiled down to percentiles in microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told apart, in nanoseconds; longer ones count as this.
const NS_MAX: u64 = 300_000_000_000;
/// Shortest one told apart.
const NS_MIN: u64 = 1;
/// Significant digits kept.
const DIGITS: u8 = 3;

/// Histograms of one thread or of all.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    commands: Vec<Histogram<u64>>,
    bursts: Histogram<u64>,
    messages: Histogram<u64>,
}

impl Latencies {
    /// Empty histograms for so many kinds of commands.
    pub(crate) fn new(commands: usize) -> Self {
        Latencies {
            commands: vec![histogram(); commands],
            bursts: histogram(),
            messages: histogram(),
        }
    }

    /// `count` commands of one kind took `ns` from the write to the reply.
    pub(crate) fn command(&mut self, command: usize, ns: u64, count: u32) {
        if let Some(histogram) = self.commands.get_mut(command) {
            histogram.saturating_record_n(ns, u64::from(count));
        }
    }

    /// A burst took `ns` until its last reply.
    pub(crate) fn burst(&mut self, ns: u64) {
        self.bursts.saturating_record(ns);
    }

    /// A message took `ns` from its producer to its worker.
    pub(crate) fn message(&mut self, ns: u64) {
        self.messages.saturating_record(ns);
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        for (mine, theirs) in self.commands.iter_mut().zip(&other.commands) {
            *mine += theirs;
        }
        self.bursts += &other.bursts;
        self.messages += &other.messages;
    }

    /// Percentiles over all commands.
    pub(crate) fn all(&self) -> Option<Percentiles> {
        let mut all = histogram();
        for command in &self.commands {
            all += command;
        }
        Percentiles::of(&all)
    }

    /// Percentiles of each kind of command, in order; None for those not sent.
    pub(crate) fn each(&self) -> Vec<Option<Percentiles>> {
        self.commands.iter().map(Percentiles::of).collect()
    }

    /// Percentiles of whole bursts.
    pub(crate) fn bursts(&self) -> Option<Percentiles> {
        Percentiles::of(&self.bursts)
    }

    /// Percentiles from producer to worker.
    pub(crate) fn messages(&self) -> Option<Percentiles> {
        Percentiles::of(&self.messages)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS)
        .expect("the bounds are constants that the crate accepts")
}

/// A distribution in numbers: microseconds, and how many samples it has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) samples: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Some(Percentiles {
            samples: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        })
    }

    /// Each number's median over several rounds.
    pub(crate) fn median(rounds: &[Percentiles]) -> Option<Self> {
        use crate::report::median;
        let samples = rounds.iter().map(|round| round.samples).sum();
        Some(Percentiles {
            samples,
            mean_us: median(rounds.iter().map(|round| round.mean_us))?,
            p50_us: median(rounds.iter().map(|round| round.p50_us))?,
            p90_us: median(rounds.iter().map(|round| round.p90_us))?,
            p99_us: median(rounds.iter().map(|round| round.p99_us))?,
            p999_us: median(rounds.iter().map(|round| round.p999_us))?,
            max_us: median(rounds.iter().map(|round| round.max_us))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() <= right / 500.0
    }

    #[test]
    fn merging_adds_samples_of_every_kind() {
        let (mut left, mut right) = (Latencies::new(2), Latencies::new(2));
        left.command(0, 10_000, 99);
        right.command(0, 1_000_000, 1);
        right.command(1, 5_000, 2);
        right.burst(7_000);
        right.message(9_000);
        left.merge(&right);
        let each = left.each();
        let first = each[0].expect("samples");
        assert_eq!(first.samples, 100);
        assert!(
            near(first.p50_us, 10.0) && near(first.p99_us, 10.0) && near(first.max_us, 1000.0),
            "{first:?}"
        );
        assert_eq!(each[1].expect("samples").samples, 2);
        assert_eq!(left.all().expect("samples").samples, 102);
        assert!(near(left.bursts().expect("samples").p50_us, 7.0));
        assert!(near(left.messages().expect("samples").p50_us, 9.0));
    }

    #[test]
    fn nothing_recorded_is_none_and_not_zero() {
        let empty = Latencies::new(1);
        assert_eq!(empty.all(), None);
        assert_eq!(empty.each(), [None]);
    }

    #[test]
    fn latencies_beyond_the_range_are_kept_at_its_end() {
        let mut latencies = Latencies::new(1);
        latencies.command(0, u64::MAX, 1);
        assert!(latencies.all().expect("samples").max_us >= NS_MAX as f64 / 1e3);
    }

    #[test]
    fn rounds_are_folded_number_by_number() {
        let round = |us: u64| {
            let mut latencies = Latencies::new(1);
            latencies.command(0, us * 1000, 1);
            latencies.all().expect("a sample")
        };
        let folded = Percentiles::median(&[round(30), round(10), round(20)]).expect("three rounds");
        assert!(near(folded.p50_us, 20.0));
        assert_eq!(folded.samples, 3);
    }
}
