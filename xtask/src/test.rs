//! `cargo xtask test`: the steps in order, each with a header, its counts and its duration. A failing step does not
//! stop the others. The last line is `N passed, N failed`, with `, N skipped` after it when something could not run;
//! what was skipped is listed with its reason, and what
//! failed once more just before.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::conformance::{self, Target};
use crate::random::Random;
use crate::server::ServerCommand;
use crate::tally::Tally;
use crate::{crash, differential, failures, fuzz, instructions, process, soak, workspace};

/// One step.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    run: fn(Scale) -> Result<Tally>,
}

/// How much of the long steps to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    quick: bool,
}

impl Scale {
    /// `full`, or `quick` in a quick run.
    fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// All steps, in the order they run.
pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "formatting",
        run: |_| cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy",
        about: "lints, warnings as errors",
        run: |_| {
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Step {
        name: "docs",
        about: "documentation builds without warnings",
        run: |_| docs(),
    },
    Step {
        name: "unit",
        about: "unit, property and documentation tests of all crates",
        run: |_| unit(),
    },
    Step {
        name: "server",
        about: "the release build of the server",
        run: |_| server(),
    },
    Step {
        name: "simulation",
        about: "the shard under random schedules and faults",
        run: simulation,
    },
    Step {
        name: "conformance",
        about: "client libraries and raw sockets against a server",
        run: |_| conformance(),
    },
    Step {
        name: "differential",
        about: "the same random commands to the original and to Longtail",
        run: differential,
    },
    Step {
        name: "crash",
        about: "kill -9 under load, then every acknowledged job and message accounted for",
        run: crash,
    },
    Step {
        name: "soak",
        about: "stalled, broken, idle and absent clients by the dozen: nothing lost, everything counted",
        run: |_| soak(),
    },
    Step {
        name: "instructions",
        about: "what the hot paths cost, counted by Valgrind, beside the figures of record",
        run: |_| instructions::run(false),
    },
    Step {
        name: "fuzz",
        about: "a short run of every fuzz target",
        run: fuzz,
    },
];

/// Runs the steps named, or all; whether nothing failed.
///
/// # Errors
/// When a name is unknown.
pub(crate) fn run(names: &[String], quick: bool) -> Result<bool> {
    if let Some(unknown) = names
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        anyhow::bail!("no step is called {unknown:?}; `cargo xtask --help` lists them");
    }
    let start = Instant::now();
    let mut rows = Vec::new();
    let mut total = Tally::default();
    for step in STEPS
        .iter()
        .filter(|step| names.is_empty() || names.iter().any(|name| name == step.name))
    {
        println!("\n=== {}: {}", step.name, step.about);
        let begin = Instant::now();
        let tally = (step.run)(Scale { quick }).unwrap_or_else(|error| {
            failures::say(&format!("FAILED {}: {error:#}", step.name));
            Tally::FAIL
        });
        let took = begin.elapsed();
        println!("--- {}: {tally} ({})", step.name, seconds(took));
        rows.push((step.name, tally, took));
        total += tally;
    }
    println!("\n=== summary ({})", seconds(start.elapsed()));
    for (name, tally, took) in rows {
        let mark = if tally.failed > 0 { "FAILED" } else { "ok" };
        println!("{mark:6} {name:13} {:>8}  {tally}", seconds(took));
    }
    for line in failures::take() {
        println!("{line}");
    }
    println!("{total}");
    Ok(total.failed == 0)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// One cargo command that passes or fails as a whole.
fn cargo(arguments: &[&str]) -> Result<Tally> {
    Ok(Tally::of(process::run(&mut process::cargo(arguments))?))
}

fn docs() -> Result<Tally> {
    let mut command = process::cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    Ok(Tally::of(process::run(
        command.env("RUSTDOCFLAGS", "-D warnings"),
    )?))
}

fn unit() -> Result<Tally> {
    libtest(&mut process::cargo(&[
        "test",
        "--workspace",
        "--no-fail-fast",
    ]))
}

/// A `cargo test` command, its tests counted one by one. A build that fails counts as one failure.
fn libtest(command: &mut Command) -> Result<Tally> {
    let mut total = Tally::default();
    let ok = process::run_observed(command, |line| {
        if let Some(tally) = Tally::of_libtest(line) {
            total += tally;
        }
    })?;
    if !ok && total.failed == 0 {
        failures::say("FAILED: cargo failed before any test did");
        total += Tally::FAIL;
    }
    Ok(total)
}

fn server() -> Result<Tally> {
    cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "longtail-server",
    ])
}

/// Why the steps that need Longtail's server cannot run, if so.
fn no_server() -> Option<String> {
    let longtail = workspace::longtail();
    (!longtail.exists()).then(|| {
        format!(
            "there is no {}; the step `server` builds it",
            longtail.display()
        )
    })
}

/// How many random schedules the simulation runs when the environment does not say.
const SIMULATION_SEEDS: u32 = 2_000;

/// Tells the simulation how many schedules to run: a longer run is `LONGTAIL_SIM_SEEDS=10000 cargo xtask test simulation`.
const SIMULATION_VARIABLE: &str = "LONGTAIL_SIM_SEEDS";

fn simulation(scale: Scale) -> Result<Tally> {
    let file = workspace::root().join("engine/tests/simulation.rs");
    if !file.exists() && !file.with_extension("").join("main.rs").exists() {
        return Ok(Tally::skip(
            "simulation",
            "the engine has no test of this name yet",
        ));
    }
    let seeds = std::env::var(SIMULATION_VARIABLE).unwrap_or_else(|_| {
        scale
            .pick(SIMULATION_SEEDS, SIMULATION_SEEDS / 10)
            .to_string()
    });
    let mut command = process::cargo(&[
        "test",
        "--release",
        "-p",
        "longtail-engine",
        "--test",
        "simulation",
    ]);
    libtest(command.env(SIMULATION_VARIABLE, seeds))
}

fn conformance() -> Result<Tally> {
    if let Some(why) = no_server() {
        return Ok(Tally::skip("conformance", &why));
    }
    conformance::run(&[], &Target::Start(None), None)
}

fn differential(scale: Scale) -> Result<Tally> {
    if let Some(why) = no_server() {
        return Ok(Tally::skip("differential", &why));
    }
    let mut total = match differential::beanstalk::reference()? {
        Ok(reference) => differential::beanstalk::run(&differential::beanstalk::Settings {
            seed: Random::fresh_seed(),
            commands: scale.pick(100_000, 10_000),
            scenarios: scale.pick(24, 6),
            reference,
            candidate: ServerCommand::longtail("beanstalk", None),
        }),
        Err(why) => Tally::skip("differential", &why),
    };
    total += match conformance::mosquitto()? {
        Ok(_) => differential::mqtt::run(&differential::mqtt::Settings {
            seed: Random::fresh_seed(),
            packets: scale.pick(10, 2) * differential::mqtt::SESSION,
            reference: ServerCommand::patient_mosquitto(),
            candidate: ServerCommand::longtail_beside_mosquitto(),
        }),
        Err(why) => Tally::skip("differential mqtt", &why),
    };
    total += match conformance::rabbitmq()? {
        Ok(reference) => differential::amqp::run(&differential::amqp::Settings {
            seed: Random::fresh_seed(),
            methods: scale.pick(20, 4) * differential::amqp::SESSION,
            reference,
            candidate: ServerCommand::longtail("amqp", Some("interval")),
        }),
        Err(why) => Tally::skip("differential amqp", &why),
    };
    Ok(total)
}

/// Kills per durability mode; `cargo xtask crash` does 200.
const CRASH_CYCLES: u64 = 10;

fn crash(scale: Scale) -> Result<Tally> {
    if let Some(why) = no_server() {
        return Ok(Tally::skip("crash", &why));
    }
    let mut total = Tally::default();
    for durability in ["sync", "interval"] {
        let settings = |server| crash::Settings {
            cycles: scale.pick(CRASH_CYCLES, CRASH_CYCLES / 3),
            seed: Random::fresh_seed(),
            server,
            forgets_priorities: false,
            repeats_qos_2: false,
            name: durability.to_owned(),
        };
        let longtail = |protocol| ServerCommand::longtail(protocol, Some(durability));
        total += crash::beanstalk::run(&settings(longtail("beanstalk")));
        total += crash::amqp::run(&settings(longtail("amqp")));
        let server = ServerCommand::longtail_mqtt(Some(durability));
        total += crash::mqtt::run(&settings(server));
    }
    Ok(total)
}

fn soak() -> Result<Tally> {
    if let Some(why) = no_server() {
        return Ok(Tally::skip("soak", &why));
    }
    soak::run(&soak::Settings {
        scenarios: Vec::new(),
        sizes: soak::Sizes::SHORT,
        seed: Random::fresh_seed(),
        server: ServerCommand::longtail_counted("interval"),
        json: None,
    })
}

fn fuzz(scale: Scale) -> Result<Tally> {
    let mut total = libtest(&mut fuzz::engine_tests()?)?;
    total += fuzz::run(&fuzz::Settings {
        target: None,
        seconds: scale.pick(15, 5),
        seed: Random::fresh_seed(),
        self_check: true,
    })?;
    Ok(total)
}
