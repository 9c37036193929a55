//! The soak test: a real server under what clients do that nobody wishes for, and beside them bystanders whose latency
//! says whether they notice. Each scenario measures the bystanders alone first, then with the disturbance, and prints
//! latency, processor time and memory of both.
//!
//! What fails is what is wrong whatever the machine: a message lost, out of order or not counted, a connection that is
//! not closed, a session that does not come back whole. Times and sizes are printed and judged by who reads them: the
//! generator shares the processors with the server.

mod bystander;
mod client;
mod garbage;
mod idle;
mod offline;
mod probe;
mod retained;
mod room;
mod stalled;
mod subscriptions;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::room::{Report, Room};
use crate::failures;
use crate::server::ServerCommand;
use crate::tally::Tally;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Names; all when there are none.
    pub(crate) scenarios: Vec<String>,
    pub(crate) sizes: Sizes,
    pub(crate) seed: u64,
    pub(crate) server: ServerCommand,
    /// Where the report goes as JSON.
    pub(crate) json: Option<PathBuf>,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// How long the bystanders are measured, at least.
    pub(crate) phase: Duration,
    /// Subscribers that stop reading.
    pub(crate) stalled: u64,
    /// Clients that hold half a message.
    pub(crate) half: u64,
    /// Clients that never finish their CONNECT.
    pub(crate) slow: u64,
    pub(crate) retained: u64,
    pub(crate) subscribers: u64,
    pub(crate) filters_each: u64,
    pub(crate) idle: u64,
    pub(crate) sessions: u64,
    /// Messages that wait for each of these.
    pub(crate) backlog: u64,
}

impl Sizes {
    /// What the figures in the documentation are from.
    pub(crate) const FULL: Sizes = Sizes {
        phase: Duration::from_secs(10),
        stalled: 100,
        half: 400,
        slow: 200,
        retained: 1_000_000,
        subscribers: 1_000,
        filters_each: 100,
        idle: 10_000,
        sessions: 10_000,
        backlog: 10_000,
    };

    /// Enough to see that everything works.
    pub(crate) const SHORT: Sizes = Sizes {
        phase: Duration::from_millis(700),
        stalled: 5,
        half: 10,
        slow: 10,
        retained: 5_000,
        subscribers: 50,
        filters_each: 20,
        idle: 200,
        sessions: 100,
        backlog: 500,
    };
}

struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(&mut Room) -> Result<()>,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "stalled",
        about: "subscribers of a busy topic stop reading",
        run: stalled::run,
    },
    Scenario {
        name: "garbage",
        about: "clients send what is no MQTT, or half of it, and come again",
        run: garbage::run,
    },
    Scenario {
        name: "retained",
        about: "retained messages by the million, a client that asks for all of them, a restart",
        run: retained::run,
    },
    Scenario {
        name: "subscriptions",
        about: "wildcard subscriptions by the hundred thousand",
        run: subscriptions::run,
    },
    Scenario {
        name: "idle",
        about: "connections by the ten thousand that only keep alive",
        run: idle::run,
    },
    Scenario {
        name: "offline",
        about: "messages for ten thousand sessions that are away, and some that come back",
        run: offline::run,
    },
];

/// The names of the scenarios and what they are.
pub(crate) fn list() -> String {
    let rows: Vec<String> = SCENARIOS
        .iter()
        .map(|scenario| format!("  {:13} {}", scenario.name, scenario.about))
        .collect();
    rows.join("\n")
}

/// Runs the scenarios; each counts as one test.
///
/// # Errors
/// When a name is unknown or the report cannot be written.
pub(crate) fn run(settings: &Settings) -> Result<Tally> {
    for name in &settings.scenarios {
        if SCENARIOS.iter().all(|scenario| scenario.name != name) {
            bail!("no scenario is called {name:?}; there are\n{}", list());
        }
    }
    let chosen = |name: &str| {
        settings.scenarios.is_empty() || settings.scenarios.iter().any(|own| own == name)
    };
    let (mut tally, mut reports) = (Tally::default(), Vec::new());
    for scenario in SCENARIOS.iter().filter(|scenario| chosen(scenario.name)) {
        println!("{}: {}", scenario.name, scenario.about);
        let begin = Instant::now();
        let report = one(scenario, settings)?;
        let ok = report.faults.is_empty();
        failures::say(&format!(
            "{} soak {} seed={} ({:.1} s)",
            if ok { "ok" } else { "FAIL" },
            scenario.name,
            settings.seed,
            begin.elapsed().as_secs_f64()
        ));
        tally += Tally::of(ok);
        reports.push(report);
    }
    if let Some(path) = &settings.json {
        std::fs::write(path, serde_json::to_string_pretty(&reports)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(tally)
}

fn one(scenario: &Scenario, settings: &Settings) -> Result<Report> {
    let mut room = Room::new(
        scenario.name,
        &settings.server,
        settings.sizes,
        settings.seed,
    )?;
    if let Err(error) = (scenario.run)(&mut room) {
        let what = format!(
            "{error:#}; the end of the server's log:\n{}",
            room.log_tail()
        );
        room.require(false, || what);
    }
    Ok(room.report)
}
