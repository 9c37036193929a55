//! The crash tests: a real server under load is killed (`kill -9`) at a random moment and started again on what it left
//! on disk, many times, and everything that was acknowledged is accounted for. Each protocol has its own load and its
//! own ledger; what is here is the same for all of them.

pub(crate) mod amqp;
pub(crate) mod beanstalk;
pub(crate) mod mqtt;

use std::time::Duration;

use anyhow::Result;

use crate::failures;
use crate::server::ServerCommand;
use crate::tally::Tally;

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the load runs before the kill: at least, and up to so much more. Milliseconds.
const LIFE_MIN_MS: u64 = 40;
const LIFE_SPREAD_MS: u64 = 500;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cycles: u64,
    pub(crate) seed: u64,
    pub(crate) server: ServerCommand,
    /// Whether a beanstalk server may forget the priority that a release without delay set.
    pub(crate) forgets_priorities: bool,
    /// Whether the server may send a QoS 2 message of MQTT twice, as Mosquitto does.
    pub(crate) repeats_qos_2: bool,
    /// How the report calls it.
    pub(crate) name: String,
}

/// Says how a run of `what` has ended, with the faults that its ledger found; the whole counts as one test.
fn conclude(what: &str, settings: &Settings, outcome: &Result<()>, faults: &[String]) -> Tally {
    for fault in faults {
        println!("  {fault}");
    }
    if let Err(error) = outcome {
        println!("  {error:#}");
    }
    let ok = outcome.is_ok() && faults.is_empty();
    failures::say(&format!(
        "{} {what} {} seed={}",
        if ok { "ok" } else { "FAIL" },
        settings.name,
        settings.seed
    ));
    Tally::of(ok)
}
