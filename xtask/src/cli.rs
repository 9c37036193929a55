//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::conformance::{self, Target};
use crate::random::Random;
use crate::server::ServerCommand;
use crate::tally::Tally;
use crate::{compare, crash, differential, fuzz, instructions, profile, soak, test, workspace};

/// Longtail's test tooling.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", after_help = after_help())]
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every step of the test run in order, or only those named; the last line is the result.
    Test {
        /// Names of steps.
        steps: Vec<String>,
        /// Shorter versions of the long steps.
        #[arg(long)]
        quick: bool,
    },
    /// Client libraries and raw sockets against a real server.
    Conformance {
        /// Names of suites or protocols; all suites when none is given.
        suites: Vec<String>,
        /// Show the suites and what they cover.
        #[arg(long)]
        list: bool,
        /// A server that runs already, as host:port.
        #[arg(long, conflicts_with = "server_cmd")]
        target: Option<SocketAddr>,
        /// How to start another server than Longtail; {port} and {data} are replaced.
        #[arg(long)]
        server_cmd: Option<String>,
        /// Run the suites of MQTT against a real Mosquitto instead, to check the suites themselves.
        #[arg(long, value_parser = ["mosquitto"], conflicts_with_all = ["target", "server_cmd"])]
        against: Option<String>,
        /// Whose behaviour to expect, when it is not Longtail's: beanstalkd 1.13 is what Longtail follows, Debian ships
        /// 1.12.
        #[arg(long)]
        flavour: Option<String>,
    },
    /// Fuzz the codecs and the recovery of the log, on a stable toolchain.
    Fuzz {
        /// One target; all when not given.
        target: Option<String>,
        /// How long to run each.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// What the inputs are made from; a fresh one when not given.
        #[arg(long)]
        seed: Option<u64>,
        /// Also check that the engine finds a planted fault.
        #[arg(long)]
        self_check: bool,
    },
    /// Count what the hot paths cost in instructions and allocations, and compare with the figures of record.
    Instructions {
        /// Write the figures down instead.
        #[arg(long)]
        record: bool,
    },
    /// Draw where the server's time goes under a load, as a flame graph: `cargo xtask profile mqtt -- --scenario fan-out`.
    Profile {
        /// Whose protocol.
        #[arg(value_parser = ["amqp", "beanstalk", "mqtt"])]
        protocol: String,
        /// What an acknowledgement means.
        #[arg(long, default_value = "memory")]
        durability: String,
        /// How long to look.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// The file of the graph; below target/profile when not given.
        #[arg(long)]
        out: Option<std::path::PathBuf>,
        /// A server that was built with frame pointers, instead of building one.
        #[arg(long)]
        program: Option<std::path::PathBuf>,
        /// The load: flags of `longtail bench`, at least `--scenario`.
        #[arg(last = true, required = true)]
        load: Vec<String>,
    },
    /// Kill a server under load again and again; account for every acknowledged job or message.
    Crash {
        /// Whose load.
        #[arg(default_value = "beanstalk", value_parser = ["amqp", "beanstalk", "mqtt"])]
        protocol: String,
        /// Run it against a real Mosquitto, which is asked to end instead: to check the test itself.
        #[arg(long, value_parser = ["mosquitto"], conflicts_with = "server_cmd")]
        against: Option<String>,
        /// How many times.
        #[arg(long, default_value_t = 200)]
        cycles: u64,
        /// What an acknowledgement means: Longtail's setting of the same name. A server command has its own.
        #[arg(
            long,
            default_value = "sync",
            value_parser = ["sync", "interval"],
            conflicts_with = "server_cmd"
        )]
        durability: String,
        /// Accept that a priority set by a release without delay is gone after a crash, as it is with beanstalkd.
        #[arg(long)]
        forgets_priorities: bool,
        /// What the load and the moments of the kills are made from; a fresh one when not given.
        #[arg(long)]
        seed: Option<u64>,
        /// How to start another server, or another build; {port} and {data} are replaced. The report calls it by this line.
        #[arg(long)]
        server_cmd: Option<String>,
    },
    /// A server under what nobody wishes for, and the latency of clients beside it.
    #[command(after_help = format!("Scenarios:\n{}", soak::list()))]
    Soak {
        /// Whose clients.
        #[arg(value_parser = ["mqtt"])]
        protocol: String,
        /// Names of scenarios; all when none is given.
        scenarios: Vec<String>,
        /// Small numbers, as the test run has them.
        #[arg(long)]
        short: bool,
        /// How long each phase is measured at least, in seconds.
        #[arg(long)]
        seconds: Option<u64>,
        /// What an acknowledgement means: Longtail's setting of the same name.
        #[arg(long, default_value = "interval", value_parser = ["sync", "interval", "memory"])]
        durability: String,
        /// What the garbage is made from; a fresh one when not given.
        #[arg(long)]
        seed: Option<u64>,
        /// Also writes the report to this file, as JSON.
        #[arg(long)]
        json: Option<std::path::PathBuf>,
        /// Another build of Longtail; {port}, {data} and {ws}, the admin service's port, are replaced.
        #[arg(long)]
        server_cmd: Option<String>,
    },
    /// Longtail beside the originals, measured and written down: docs/benchmarks/ with tables, charts and the raw figures.
    /// Installs the originals. Half an hour for all of them, most of it for MQTT and AMQP; nothing else should use the
    /// machine meanwhile.
    Compare {
        /// Whose originals; those of all protocols when none is given.
        #[arg(value_parser = ["amqp", "beanstalk", "mqtt"])]
        protocols: Vec<String>,
        /// Rounds of each load on each server, in turn.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Measured time of a round, in milliseconds; half of it again is warm-up.
        #[arg(long, default_value_t = 500)]
        milliseconds: u64,
        /// Where the report goes.
        #[arg(long, default_value = "docs/benchmarks")]
        out: PathBuf,
        /// Where servers keep their data: a directory on a disk. The system's directory for temporary files if not given.
        #[arg(long)]
        data: Option<PathBuf>,
        /// Which parts of the report.
        #[arg(long, value_enum, default_value_t = compare::Parts::All)]
        parts: compare::Parts,
        /// Jobs, or retained messages, that a server is filled with before its recovery is measured.
        #[arg(long, default_value_t = 100_000)]
        kept: u32,
        /// Also write the short version into README.md.
        #[arg(long)]
        readme: bool,
    },
    /// The same random commands to the original (beanstalkd, Mosquitto, RabbitMQ) and to Longtail, every reply compared.
    Differential {
        /// Whose commands.
        #[arg(default_value = "beanstalk", value_parser = ["amqp", "beanstalk", "mqtt"])]
        protocol: String,
        /// Compare the original with itself: to check the test.
        #[arg(long, value_parser = ["mosquitto", "rabbitmq"], conflicts_with = "server_cmd")]
        against: Option<String>,
        /// What the commands are made from; a fresh one when not given.
        #[arg(long)]
        seed: Option<u64>,
        /// How many commands to send as fast as both answer.
        #[arg(long, default_value_t = 100_000)]
        commands: u64,
        /// How many scenarios with timers to run.
        #[arg(long, default_value_t = 24)]
        scenarios: u64,
        /// How to start another server than Longtail; {port} and {data} are replaced.
        #[arg(long)]
        server_cmd: Option<String>,
    },
}

impl Cli {
    /// Does what the command line says; whether everything passed.
    ///
    /// # Errors
    /// When the task could not be carried out.
    pub(crate) fn run(self) -> Result<bool> {
        match self.task {
            Task::Test { steps, quick } => test::run(&steps, quick),
            Task::Conformance { list: true, .. } => {
                for suite in conformance::suites()? {
                    println!("{:24} {}", suite.name, suite.covers);
                }
                Ok(true)
            }
            Task::Conformance {
                mut suites,
                against: Some(peer),
                ..
            } => {
                let server = match conformance::mosquitto()? {
                    Ok(server) => server,
                    Err(why) => return Ok(finish(Tally::skip("conformance", &why))),
                };
                if suites.is_empty() {
                    suites.push("mqtt".to_owned());
                }
                let target = Target::Start(Some(server));
                Ok(finish(conformance::run(&suites, &target, Some(&peer))?))
            }
            Task::Conformance {
                suites,
                target,
                server_cmd,
                flavour,
                ..
            } => {
                let target = match target {
                    Some(address) => Target::Running(address),
                    None => Target::Start(
                        server_cmd
                            .as_deref()
                            .map(ServerCommand::parse)
                            .transpose()?,
                    ),
                };
                Ok(finish(conformance::run(
                    &suites,
                    &target,
                    flavour.as_deref(),
                )?))
            }
            Task::Fuzz {
                target,
                seconds,
                seed,
                self_check,
            } => {
                let seed = seed.unwrap_or_else(Random::fresh_seed);
                Ok(finish(fuzz::run(&fuzz::Settings {
                    target,
                    seconds,
                    seed,
                    self_check,
                })?))
            }
            Task::Profile {
                protocol,
                durability,
                seconds,
                out,
                program,
                load,
            } => {
                let graph = profile::run(&profile::Settings {
                    program,
                    protocol,
                    durability,
                    seconds,
                    out,
                    load,
                })?;
                println!("the graph is {}", graph.display());
                Ok(true)
            }
            Task::Instructions { record } => Ok(finish(instructions::run(record)?)),
            Task::Crash {
                protocol,
                against,
                cycles,
                durability,
                forgets_priorities,
                seed,
                server_cmd,
            } => {
                // Only Mosquitto can take Longtail's place by its name.
                let protocol = against.as_ref().map_or(protocol.as_str(), |_| "mqtt");
                if against.is_some()
                    && let Err(why) = conformance::mosquitto()?
                {
                    return Ok(finish(Tally::skip("crash", &why)));
                }
                let server = match &server_cmd {
                    Some(line) => ServerCommand::parse(line)?,
                    None if against.is_some() => ServerCommand::patient_mosquitto(),
                    None if protocol == "mqtt" => ServerCommand::longtail_mqtt(Some(&durability)),
                    None => ServerCommand::longtail(protocol, Some(&durability)),
                };
                let settings = crash::Settings {
                    cycles,
                    seed: seed.unwrap_or_else(Random::fresh_seed),
                    server,
                    forgets_priorities,
                    repeats_qos_2: against.is_some(),
                    name: against.or(server_cmd).unwrap_or(durability),
                };
                Ok(finish(match protocol {
                    "amqp" => crash::amqp::run(&settings),
                    "mqtt" => crash::mqtt::run(&settings),
                    _ => crash::beanstalk::run(&settings),
                }))
            }
            Task::Soak {
                protocol: _,
                scenarios,
                short,
                seconds,
                durability,
                seed,
                json,
                server_cmd,
            } => {
                let mut sizes = if short {
                    soak::Sizes::SHORT
                } else {
                    soak::Sizes::FULL
                };
                if let Some(seconds) = seconds {
                    sizes.phase = std::time::Duration::from_secs(seconds);
                }
                let server = match &server_cmd {
                    Some(line) => ServerCommand::parse(line)?,
                    None => ServerCommand::longtail_counted(&durability),
                };
                Ok(finish(soak::run(&soak::Settings {
                    scenarios,
                    sizes,
                    seed: seed.unwrap_or_else(Random::fresh_seed),
                    server,
                    json,
                })?))
            }
            Task::Compare {
                protocols,
                rounds,
                milliseconds,
                out,
                data,
                parts,
                kept,
                readme,
            } => compare::run(&compare::Settings {
                protocols,
                rounds: rounds.max(1),
                duration: Duration::from_millis(milliseconds.max(1)),
                out: workspace::root().join(out),
                data,
                parts,
                kept,
                readme,
            }),
            Task::Differential {
                protocol,
                against,
                seed,
                commands,
                server_cmd,
                ..
            } if protocol == "amqp" => {
                let reference = match conformance::rabbitmq()? {
                    Ok(reference) => reference,
                    Err(why) => return Ok(finish(Tally::skip("differential", &why))),
                };
                let candidate = match (&server_cmd, against) {
                    (Some(line), _) => ServerCommand::parse(line)?,
                    (None, Some(_)) => reference.clone(),
                    (None, None) => ServerCommand::longtail("amqp", Some("interval")),
                };
                Ok(finish(differential::amqp::run(
                    &differential::amqp::Settings {
                        seed: seed.unwrap_or_else(Random::fresh_seed),
                        methods: commands.min(differential::amqp::METHODS),
                        reference,
                        candidate,
                    },
                )))
            }
            Task::Differential {
                protocol,
                against,
                seed,
                commands,
                server_cmd,
                ..
            } if protocol == "mqtt" => {
                if let Err(why) = conformance::mosquitto()? {
                    return Ok(finish(Tally::skip("differential", &why)));
                }
                let reference = ServerCommand::patient_mosquitto();
                let candidate = match (&server_cmd, against) {
                    (Some(line), _) => ServerCommand::parse(line)?,
                    (None, Some(_)) => reference.clone(),
                    (None, None) => ServerCommand::longtail_beside_mosquitto(),
                };
                Ok(finish(differential::mqtt::run(
                    &differential::mqtt::Settings {
                        seed: seed.unwrap_or_else(Random::fresh_seed),
                        packets: commands.min(differential::mqtt::PACKETS),
                        reference,
                        candidate,
                    },
                )))
            }
            Task::Differential {
                seed,
                commands,
                scenarios,
                server_cmd,
                ..
            } => {
                let reference = match differential::beanstalk::reference()? {
                    Ok(reference) => reference,
                    Err(why) => return Ok(finish(Tally::skip("differential", &why))),
                };
                let candidate = match server_cmd {
                    Some(line) => ServerCommand::parse(&line)?,
                    None => ServerCommand::longtail("beanstalk", None),
                };
                let seed = seed.unwrap_or_else(Random::fresh_seed);
                let settings = differential::beanstalk::Settings {
                    seed,
                    commands,
                    scenarios,
                    reference,
                    candidate,
                };
                Ok(finish(differential::beanstalk::run(&settings)))
            }
        }
    }
}

/// Prints the result of a single task.
fn finish(tally: Tally) -> bool {
    println!("{tally}");
    tally.failed == 0
}

fn after_help() -> String {
    let rows: Vec<String> = test::STEPS
        .iter()
        .map(|step| format!("  {:13} {}", step.name, step.about))
        .collect();
    format!("Steps of `cargo xtask test`:\n{}", rows.join("\n"))
}
