//! What a run found, as plain data: the JSON is this, the Markdown a view of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::environment::Environment;
use crate::latency::Percentiles;

/// Everything one invocation found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) environment: Environment,
    /// How the loads were run, for whoever repeats them.
    pub(crate) settings: BTreeMap<&'static str, String>,
    pub(crate) rows: Vec<Row>,
}

/// One load on all subjects.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What an acknowledgement meant, or what is known of it.
    pub(crate) durability: String,
    /// The load.
    pub(crate) load: String,
    /// The subjects, Longtail (or the first target) first.
    pub(crate) subjects: Vec<Subject>,
}

impl Row {
    /// Whether both are of the same subjects.
    pub(crate) fn is_of(&self, other: &Row) -> bool {
        let names = self.subjects.iter().map(|subject| &subject.name);
        names.eq(other.subjects.iter().map(|subject| &subject.name))
    }
}

/// One load on one subject.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Subject {
    pub(crate) name: String,
    /// In what its acknowledgements fall short of the row's durability.
    pub(crate) shortfall: Option<&'static str>,
    /// Each number's median over the rounds; None for loads that only look at memory.
    pub(crate) median: Option<Measured>,
    pub(crate) rounds: Vec<Measured>,
    pub(crate) footprint: Option<Footprint>,
}

/// One run of one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) commands: u64,
    pub(crate) commands_per_second: f64,
    /// Over all commands; where there are subscribers, from a publisher's write to a subscriber's receipt.
    pub(crate) latency: Option<Percentiles>,
    pub(crate) operations: Vec<OperationLatency>,
    /// From a burst's write to its last reply.
    pub(crate) burst: Option<Percentiles>,
    /// From a producer's write to a worker's receipt.
    pub(crate) message: Option<Percentiles>,
    /// Replies that refused a command, by name, over the whole run.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Messages that never arrived, of those that may get lost, over the whole run.
    pub(crate) lost: u64,
    pub(crate) server: Option<ServerUse>,
    pub(crate) generator: GeneratorUse,
}

/// Latency of one kind of command.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OperationLatency {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) latency: Percentiles,
}

/// What the load cost the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ServerUse {
    pub(crate) user_us_per_command: f64,
    pub(crate) system_us_per_command: f64,
    /// At the end of the measured window.
    pub(crate) resident_bytes: Option<u64>,
    /// The highest since the process started.
    pub(crate) peak_bytes: Option<u64>,
    /// Share of the time in which its threads could run, but others had the processors; above 1 with several threads.
    pub(crate) waiting: f64,
}

impl ServerUse {
    /// Processor time of both kinds.
    pub(crate) fn us_per_command(&self) -> f64 {
        self.user_us_per_command + self.system_us_per_command
    }
}

/// What the load cost the generator: how far the figures are the server's own.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct GeneratorUse {
    /// Share of the threads' time they were running, 0 to 1.
    pub(crate) busy: f64,
    /// Share of it in which they could run, but others had the processors.
    pub(crate) waiting: f64,
    pub(crate) cpu_us_per_command: f64,
    /// In a closed loop: the threads had something to do nearly all the time, so that the figure may be the generator's
    /// rather than the server's.
    pub(crate) is_limit: bool,
    /// Bursts of an open loop begun over a millisecond late by the generator's own fault.
    pub(crate) late_bursts: u64,
}

impl GeneratorUse {
    /// From here on the generator may be what limits the figure: share of the time not spent waiting for the server.
    pub(crate) const OCCUPIED_MAX: f64 = 0.9;
}

/// Memory that many things of one kind take in the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Footprint {
    /// `job` or `connection`.
    pub(crate) of: &'static str,
    pub(crate) count: u64,
    pub(crate) before_bytes: u64,
    pub(crate) loaded_bytes: u64,
    /// When they are gone again.
    pub(crate) after_bytes: u64,
}

impl Footprint {
    /// Bytes that each of them adds.
    pub(crate) fn bytes_each(&self) -> f64 {
        (self.loaded_bytes as f64 - self.before_bytes as f64) / self.count.max(1) as f64
    }

    /// Each number's median.
    pub(crate) fn median(rounds: &[Footprint]) -> Option<Footprint> {
        let first = rounds.first()?;
        let middle = |number: fn(&Footprint) -> u64| {
            median(rounds.iter().map(|round| number(round) as f64)).map_or(0, |bytes| bytes as u64)
        };
        Some(Footprint {
            before_bytes: middle(|round| round.before_bytes),
            loaded_bytes: middle(|round| round.loaded_bytes),
            after_bytes: middle(|round| round.after_bytes),
            ..*first
        })
    }
}

impl Measured {
    /// Each number's median over rounds of the same load; refusals are added up. None without rounds.
    pub(crate) fn median(rounds: &[Measured]) -> Option<Measured> {
        let first = rounds.first()?;
        let of =
            |number: fn(&Measured) -> f64| median(rounds.iter().map(number)).unwrap_or_default();
        let percentiles = |pick: &dyn Fn(&Measured) -> Option<Percentiles>| {
            Percentiles::median(&rounds.iter().filter_map(pick).collect::<Vec<_>>())
        };
        let operations = first.operations.iter().filter_map(|operation| {
            let pick = |round: &Measured| {
                Some(
                    round
                        .operations
                        .iter()
                        .find(|other| other.name == operation.name)?
                        .latency,
                )
            };
            Some(OperationLatency {
                name: operation.name.clone(),
                latency: percentiles(&pick)?,
            })
        });
        let mut refusals = BTreeMap::new();
        for (name, count) in rounds.iter().flat_map(|round| &round.refusals) {
            *refusals.entry(name.clone()).or_insert(0) += count;
        }
        let servers: Vec<ServerUse> = rounds.iter().filter_map(|round| round.server).collect();
        let bytes = |pick: fn(&ServerUse) -> Option<u64>| {
            median(servers.iter().filter_map(pick).map(|bytes| bytes as f64))
                .map(|bytes| bytes as u64)
        };
        Some(Measured {
            seconds: of(|round| round.seconds),
            commands: of(|round| round.commands as f64) as u64,
            commands_per_second: of(|round| round.commands_per_second),
            latency: percentiles(&|round| round.latency),
            operations: operations.collect(),
            burst: percentiles(&|round| round.burst),
            message: percentiles(&|round| round.message),
            refusals,
            lost: rounds.iter().map(|round| round.lost).sum(),
            server: (!servers.is_empty()).then(|| ServerUse {
                user_us_per_command: median(
                    servers.iter().map(|server| server.user_us_per_command),
                )
                .unwrap_or_default(),
                system_us_per_command: median(
                    servers.iter().map(|server| server.system_us_per_command),
                )
                .unwrap_or_default(),
                resident_bytes: bytes(|server| server.resident_bytes),
                peak_bytes: bytes(|server| server.peak_bytes),
                waiting: median(servers.iter().map(|server| server.waiting)).unwrap_or_default(),
            }),
            generator: GeneratorUse {
                busy: of(|round| round.generator.busy),
                waiting: of(|round| round.generator.waiting),
                is_limit: rounds
                    .iter()
                    .filter(|round| round.generator.is_limit)
                    .count()
                    * 2
                    > rounds.len(),
                cpu_us_per_command: of(|round| round.generator.cpu_us_per_command),
                late_bursts: rounds.iter().map(|round| round.generator.late_bursts).sum(),
            },
        })
    }
}

/// The middle number (the mean of the two middle ones); None of none.
pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted
        .get(sorted.len() / 2 - 1)
        .map(|lower| f64::midpoint(*lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_footprint_is_what_each_thing_adds() {
        let round = |loaded| Footprint {
            of: "job",
            count: 10,
            before_bytes: 100,
            loaded_bytes: loaded,
            after_bytes: 100,
        };
        let folded =
            Footprint::median(&[round(5000), round(1100), round(2100)]).expect("three rounds");
        assert_eq!(folded.bytes_each(), 200.0);
    }
}
