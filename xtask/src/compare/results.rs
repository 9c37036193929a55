//! The results as data: what the load generator reported, and what is made of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::agreement::Agreement;
use super::lifecycle::Lifecycle;
use super::{Settings, plan};

/// Everything that a comparison found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Results {
    /// The machine and the versions.
    pub(super) conditions: BTreeMap<String, String>,
    pub(super) rounds: u32,
    /// How long it took.
    pub(super) seconds: u64,
    pub(super) sections: Vec<Section>,
    pub(super) lifecycles: Vec<Lifecycle>,
    /// How far it is from the run before it, where there was one on such a machine.
    pub(super) agreement: Option<Agreement>,
    /// Tables of the log beside plain writes, as its own benchmark prints them.
    pub(super) log: Option<String>,
    /// Command lines that failed.
    pub(super) failures: Vec<String>,
}

/// One part of the report.
#[derive(Debug, Serialize)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What its curve is drawn over; none for a table of ratios.
    pub(super) over: Option<&'static str>,
    /// Not a comparison: what the generator reaches when the server does nothing.
    pub(super) is_ceiling: bool,
    pub(super) rows: Vec<Row>,
}

/// What `longtail bench --json` writes, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    environment: Environment,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Environment {
    processor: String,
    processors: usize,
    kernel: String,
    congestion_control: Option<String>,
    sync_latency: Option<SyncLatency>,
    versions: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct SyncLatency {
    p50_us: f64,
    p99_us: f64,
}

/// One load on all servers, Longtail first.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Row {
    /// Where on a curve it is.
    #[serde(default)]
    pub(super) at: Option<u64>,
    pub(super) durability: String,
    pub(super) load: String,
    pub(super) subjects: Vec<Subject>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Subject {
    pub(super) name: String,
    /// In what its acknowledgements promise less than the row says.
    pub(super) shortfall: Option<String>,
    pub(super) rounds: Vec<Round>,
    pub(super) footprint: Option<Footprint>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Round {
    pub(super) commands_per_second: f64,
    pub(super) latency: Option<Latency>,
    pub(super) server: Option<ServerUse>,
    pub(super) generator: GeneratorUse,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Latency {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct ServerUse {
    pub(super) user_us_per_command: f64,
    pub(super) system_us_per_command: f64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) waiting: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct GeneratorUse {
    pub(super) busy: f64,
    pub(super) is_limit: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Footprint {
    pub(super) of: String,
    pub(super) count: u64,
    pub(super) before_bytes: u64,
    pub(super) loaded_bytes: u64,
}

/// A median and how far the rounds were from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Spread {
    /// Of no numbers, none.
    pub(super) fn of(numbers: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = numbers.filter(|number| number.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&low, &high) = (sorted.first()?, sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Spread {
            low,
            median: f64::midpoint(lower, upper),
            high,
        })
    }
}

impl Round {
    /// The server's processor time a command; none if it could not be seen, or the load was too short for the system,
    /// which counts it in steps.
    pub(super) fn cpu_us(&self) -> Option<f64> {
        self.server
            .map(|server| server.user_us_per_command + server.system_us_per_command)
            .filter(|us| *us > 0.0)
    }

    pub(super) fn p99_us(&self) -> Option<f64> {
        self.latency.map(|latency| latency.p99_us)
    }

    pub(super) fn p50_us(&self) -> Option<f64> {
        self.latency.map(|latency| latency.p50_us)
    }
}

impl Subject {
    pub(super) fn spread(&self, number: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(number))
    }

    pub(super) fn throughput(&self) -> Option<Spread> {
        self.spread(|round| Some(round.commands_per_second))
    }
}

impl Footprint {
    pub(super) fn bytes_each(&self) -> f64 {
        (self.loaded_bytes as f64 - self.before_bytes as f64) / self.count.max(1) as f64
    }
}

/// What is compared. Above 1 is in Longtail's favour.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ratio {
    Throughput,
    Cpu,
    P99,
}

impl Row {
    pub(super) fn at(mut self, at: Option<u64>) -> Row {
        self.at = at;
        self
    }

    /// Whether it is the same load.
    pub(super) fn is_load_of(&self, other: &Row) -> bool {
        self.load == other.load && self.durability == other.durability
    }

    /// Whether it was a load, and not only a look at memory.
    pub(super) fn is_measured(&self) -> bool {
        self.own().is_some_and(|own| !own.rounds.is_empty())
    }

    pub(super) fn own(&self) -> Option<&Subject> {
        self.subjects.first()
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.iter().skip(1)
    }

    /// Round by round, since the rounds of both were run one after the other and what else the machine did met both.
    pub(super) fn ratio(&self, peer: &Subject, ratio: Ratio) -> Option<Spread> {
        let own = self.own()?;
        let pairs = own.rounds.iter().zip(&peer.rounds);
        Spread::of(pairs.filter_map(|(own, peer)| match ratio {
            Ratio::Throughput => Some(own.commands_per_second / peer.commands_per_second),
            Ratio::Cpu => Some(peer.cpu_us()? / own.cpu_us()?),
            Ratio::P99 => Some(peer.p99_us()? / own.p99_us()?),
        }))
    }

    /// The peer that is best at this, and the ratio to it.
    pub(super) fn to_best(&self, ratio: Ratio) -> Option<(&Subject, Spread)> {
        self.peers()
            .filter_map(|peer| Some((peer, self.ratio(peer, ratio)?)))
            .min_by(|left, right| left.1.median.total_cmp(&right.1.median))
    }

    /// Whether the generator may have been what limited the figures.
    pub(super) fn is_generators(&self) -> bool {
        let limited = |subject: &Subject| {
            let limits = subject
                .rounds
                .iter()
                .filter(|round| round.generator.is_limit);
            limits.count() * 2 > subject.rounds.len()
        };
        self.subjects.iter().any(limited)
    }
}

impl Section {
    pub(super) fn new(section: &plan::Section, rows: Vec<Row>) -> Section {
        Section {
            name: section.name,
            title: section.title,
            over: match section.kind {
                plan::Kind::Ratios | plan::Kind::Tails | plan::Kind::Ceiling => None,
                plan::Kind::Curve(over) => Some(over),
            },
            is_ceiling: section.kind == plan::Kind::Ceiling,
            rows,
        }
    }

    /// Whether it is a table of ratios.
    pub(super) fn is_table(&self) -> bool {
        self.over.is_none() && !self.is_ceiling
    }
}

impl Results {
    pub(super) fn new(settings: &Settings) -> Results {
        let duration = format!("{:?}", settings.duration);
        Results {
            conditions: BTreeMap::from([("measured time of a round".to_owned(), duration)]),
            rounds: settings.rounds,
            ..Results::default()
        }
    }

    /// Remembers the machine and the versions that a report names.
    pub(super) fn note_conditions(&mut self, report: &Report) {
        let environment = &report.environment;
        let mut note = |name: &str, value: String| {
            self.conditions.entry(name.to_owned()).or_insert(value);
        };
        note(
            "processors",
            format!("{} x {}", environment.processors, environment.processor),
        );
        note("kernel", environment.kernel.clone());
        if let Some(control) = &environment.congestion_control {
            note("TCP congestion control", control.clone());
        }
        if let Some(sync) = &environment.sync_latency {
            note(
                "4 KiB write + fdatasync",
                format!("p50 {:.0} us, p99 {:.0} us", sync.p50_us, sync.p99_us),
            );
        }
        for (name, version) in &environment.versions {
            note(&format!("version of {name}"), version.clone());
        }
    }

    /// The largest share of the time that a server waited because something else had its processor.
    pub(super) fn disturbance(&self) -> f64 {
        self.sections
            .iter()
            .flat_map(|section| &section.rows)
            .flat_map(|row| &row.subjects)
            .flat_map(|subject| &subject.rounds)
            .filter_map(|round| Some(round.server?.waiting))
            .fold(0.0, f64::max)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row of two servers with these rounds: commands a second, CPU us a command, p99.
    pub(in crate::compare) fn row(own: &[(f64, f64, f64)], peer: &[(f64, f64, f64)]) -> Row {
        let subject = |name: &str, rounds: &[(f64, f64, f64)]| Subject {
            name: name.to_owned(),
            shortfall: None,
            rounds: rounds
                .iter()
                .map(|&(commands_per_second, cpu, p99_us)| Round {
                    commands_per_second,
                    latency: Some(Latency {
                        p50_us: p99_us / 2.0,
                        p99_us,
                    }),
                    server: Some(ServerUse {
                        user_us_per_command: cpu,
                        system_us_per_command: 0.0,
                        resident_bytes: Some(1 << 20),
                        waiting: 0.0,
                    }),
                    generator: GeneratorUse {
                        busy: 0.5,
                        is_limit: false,
                    },
                })
                .collect(),
            footprint: None,
        };
        Row {
            at: None,
            durability: "memory".to_owned(),
            load: "cycle, 16 connections, 64 B".to_owned(),
            subjects: vec![subject("longtail", own), subject("peer", peer)],
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was half as fast in the second round, for both.
        let row = row(
            &[(200.0, 1.0, 10.0), (100.0, 2.0, 20.0), (210.0, 1.0, 10.0)],
            &[(100.0, 2.0, 20.0), (50.0, 4.0, 40.0), (100.0, 2.0, 40.0)],
        );
        let (peer, throughput) = row.to_best(Ratio::Throughput).expect("a peer");
        assert_eq!(peer.name, "peer");
        assert_eq!(
            (throughput.low, throughput.median, throughput.high),
            (2.0, 2.0, 2.1)
        );
        let cpu = row.to_best(Ratio::Cpu).expect("a peer").1;
        assert_eq!((cpu.low, cpu.high), (2.0, 2.0));
        assert_eq!(row.to_best(Ratio::P99).expect("a peer").1.high, 4.0);
    }

    #[test]
    fn a_spread_has_the_middle_of_an_even_number() {
        let spread = Spread::of([4.0, 1.0, 2.0, f64::NAN, 3.0].into_iter()).expect("numbers");
        assert_eq!((spread.low, spread.median, spread.high), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
