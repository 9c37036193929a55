//! The standard table of loads.

use longtail_model::Durability;

use crate::cli::LoadArgs;
use crate::error::BenchError;
use crate::report::Row;
use crate::scenario::{Scenario, Settings};

/// Largest burst of publishes in bytes: each is kept encoded in memory.
const BURST_BYTES_MAX: u64 = 256 << 20;

/// One line of work: a scenario at a durability.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// None for a running target of which it is not known.
    pub(super) durability: Option<Durability>,
    pub(super) settings: Settings,
}

impl Task {
    /// The same as an open loop at half of what this subject of `row` reached; None for loads without subscribers, whose
    /// latency is not from end to end.
    pub(super) fn at_half_load(&self, row: &Row, of: usize) -> Option<Task> {
        let scenario = self.settings.scenario;
        if !matches!(
            scenario,
            Scenario::OneToOne
                | Scenario::FanIn
                | Scenario::FanOut
                | Scenario::Shared
                | Scenario::WorkQueue
                | Scenario::Topic
        ) {
            return None;
        }
        let reached = row.subjects.get(of)?.median.as_ref()?.commands_per_second;
        let publishes = reached / f64::from(self.settings.audience()) / 2.0;
        (publishes > 0.0).then(|| Task {
            durability: self.durability,
            settings: Settings {
                rate: Some(publishes),
                ..self.settings.clone()
            },
        })
    }
}

/// Connections and depth of the cycles that are run without waiting for the disk.
const UNSYNCED: [(u32, u32); 4] = [(1, 1), (16, 1), (256, 1), (16, 32)];
/// The same when every acknowledgement waits for the disk.
const SYNCED: [(u32, u32); 4] = [(1, 1), (16, 1), (64, 1), (256, 1)];
/// The backlog of the footprint: bodies, and how it is filled.
const BACKLOG_BODY_BYTES: usize = 1024;
const BACKLOG_DEPTH: u32 = 32;
/// The idle connections of the footprint.
const IDLE_CONNECTIONS: u32 = 1000;

/// What the flags ask for: one scenario or the table, at each durability. `table` says that the table is the default.
pub(super) fn tasks(load: &LoadArgs, durabilities: &[Durability], table: bool) -> Vec<Task> {
    at_each(durabilities, |durability| match load.scenario {
        Some(scenario) => vec![load.settings(scenario)],
        None if table || load.matrix || load.footprint => standard(load, durability),
        None => vec![load.settings(Scenario::Cycle)],
    })
}

/// Settings at each durability; where none is given, at that of a server of which it is not known.
pub(super) fn at_each(
    durabilities: &[Durability],
    settings: impl Fn(Option<Durability>) -> Vec<Settings>,
) -> Vec<Task> {
    let durabilities: Vec<Option<Durability>> = match durabilities {
        [] => vec![None],
        given => given.iter().copied().map(Some).collect(),
    };
    let of = |durability: Option<Durability>| {
        settings(durability).into_iter().map(move |settings| Task {
            durability,
            settings,
        })
    };
    durabilities.into_iter().flat_map(of).collect()
}

fn standard(load: &LoadArgs, durability: Option<Durability>) -> Vec<Settings> {
    let shapes = if durability == Some(Durability::Sync) {
        SYNCED
    } else {
        UNSYNCED
    };
    let cycle = load.settings(Scenario::Cycle);
    let mut all: Vec<Settings> = shapes
        .iter()
        .map(|&(connections, depth)| Settings {
            connections,
            depth,
            ..cycle.clone()
        })
        .collect();
    if load.footprint {
        all.push(Settings {
            scenario: Scenario::Backlog,
            body_bytes: BACKLOG_BODY_BYTES,
            depth: BACKLOG_DEPTH,
            ..cycle.clone()
        });
        all.push(Settings {
            scenario: Scenario::Idle,
            connections: IDLE_CONNECTIONS,
            ..cycle
        });
    }
    all
}

/// Refuses tasks whose bursts would not fit.
pub(super) fn check(tasks: &[Task]) -> Result<(), BenchError> {
    let largest = tasks
        .iter()
        .map(|task| u64::from(task.settings.depth) * task.settings.body_bytes as u64)
        .max();
    match largest {
        Some(bytes) if bytes > BURST_BYTES_MAX => Err(BenchError::Usage(format!(
            "a burst of {bytes} bytes (depth times body) exceeds the limit of {BURST_BYTES_MAX}"
        ))),
        _ => Ok(()),
    }
}
