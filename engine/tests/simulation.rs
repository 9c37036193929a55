//! Seeded simulation of a shard on a disk that fails, checked step by step against a naive model.
//!
//! Every seed is a schedule: what sessions ask, when time passes, in what order the log does its work, which operation
//! of the disk fails, when the process or the machine dies. After a crash the shard must be the model at the recovered
//! end of the log, and nothing acknowledged may lie beyond that. A failure prints its seed and the last steps.
//!
//! * `LONGTAIL_SIM_SEEDS=10000` sets how many seeds are run (from `LONGTAIL_SIM_FIRST`, 0 by default);
//! * `LONGTAIL_SIM_SEED=17` runs one and prints every step.

#![allow(unreachable_pub, reason = "modules of one test")]

#[path = "simulation/model/mod.rs"]
mod model;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/recovery.rs"]
mod recovery;
#[path = "simulation/schedule.rs"]
mod schedule;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use world::{SharedTrace, Trace};

/// Seeds that are run when nobody says how many.
const SEEDS: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")),
    )
}

/// Runs a seed; on failure returns what happened last.
fn run(seed: u64, verbose: bool) -> Result<(u64, u64), String> {
    let trace: SharedTrace = Arc::new(Mutex::new(Trace {
        verbose,
        ..Trace::default()
    }));
    let outcome = catch_unwind(AssertUnwindSafe(|| schedule::run(seed, &trace)));
    let trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(crashes) => Ok((crashes, trace.hash)),
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            let lines: Vec<&str> = trace.lines.iter().map(String::as_str).collect();
            Err(format!(
                "{}\nseed {seed}: {why}\nreproduce with LONGTAIL_SIM_SEED={seed}",
                lines.join("\n")
            ))
        }
    }
}

#[test]
fn seeds() {
    if let Some(seed) = number("LONGTAIL_SIM_SEED") {
        if let Err(report) = run(seed, true) {
            panic!("{report}");
        }
        return;
    }
    let first = number("LONGTAIL_SIM_FIRST").unwrap_or(0);
    let seeds = number("LONGTAIL_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, crashes) = (AtomicU64::new(first), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let failed = failures
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .len();
                    if seed >= first + seeds || failed >= 5 {
                        return;
                    }
                    match run(seed, false) {
                        Ok((died, _)) => {
                            crashes.fetch_add(died, Ordering::Relaxed);
                        }
                        Err(report) => {
                            let mut failures =
                                failures.lock().unwrap_or_else(PoisonError::into_inner);
                            failures.push(report);
                        }
                    }
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(
        failures.is_empty(),
        "{} seeds failed\n{}",
        failures.len(),
        failures.join("\n\n")
    );
    println!("{seeds} seeds, {} crashes", crashes.into_inner());
}

#[test]
fn a_seed_is_the_same_every_time() {
    for seed in [1, 2, 3] {
        let (one, two) = (run(seed, false), run(seed, false));
        match (one, two) {
            (Ok(one), Ok(two)) => assert_eq!(one, two, "seed {seed} went two ways"),
            (Err(report), _) | (_, Err(report)) => panic!("{report}"),
        }
    }
}
