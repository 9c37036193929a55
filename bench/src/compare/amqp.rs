//! `bench amqp`: its subjects and its standard table.

use std::collections::BTreeMap;
use std::io::Write;

use longtail_model::Durability;

use super::matrix::{Task, at_each};
use super::subject::Subject;
use super::{Plan, data, durabilities, execute, fit_to_sinks, given, subjects};
use crate::cli::{AmqpArgs, AmqpLoadArgs, AmqpPeer};
use crate::error::BenchError;
use crate::load::{Assurance, Promise};
use crate::peer::rabbitmq::RabbitMq;
use crate::protocol::amqp::{Amqp, QueueType};
use crate::scenario::{Scenario, Settings};

pub(super) fn run(out: &mut dyn Write, args: &AmqpArgs) -> anyhow::Result<()> {
    let started = !args.compare.is_empty();
    let standard = [Durability::Memory, Durability::Sync];
    let durabilities = durabilities(&args.subject.durability, started, &standard)?;
    let mut tasks = tasks(&args.load, &durabilities);
    let subjects = subjects(&args.subject, "amqp", compared(args))?;
    fit_to_sinks(&mut tasks, &subjects, Some(Scenario::Backlog))?;
    if args.load.keep && started {
        let text =
            "--keep is for a running server: one that is started for this ends with its data";
        return Err(BenchError::Usage(text.to_owned()).into());
    }
    if args.queue_type == QueueType::Stream {
        read_as_streams(&mut tasks)?;
    }
    let queue_type = args.queue_type.argument().unwrap_or("classic");
    let plan = Plan {
        tasks,
        data: data(args.subject.data.as_deref(), started),
        half_load: args.load.half_load,
        detail: args.load.scenario.is_some(),
        settings: BTreeMap::from([("queues", queue_type.to_owned())]),
    };
    let protocol = Amqp {
        queues: args.queue_type,
    };
    execute(out, &protocol, &subjects, &plan, &args.load.run)
}

/// The peers, and the sink that stands for one.
fn compared(args: &AmqpArgs) -> Vec<Subject> {
    let peer = |peer: &AmqpPeer| match peer {
        AmqpPeer::Rabbitmq => Subject::started(Box::new(RabbitMq {
            program: args.rabbitmq.clone(),
            queues: args.queue_type,
        })),
        AmqpPeer::Null => Subject::null(),
        AmqpPeer::Alone => Subject::alone(),
    };
    args.compare.iter().map(peer).collect()
}

/// What the flags ask for, at each durability: one scenario, or the table.
fn tasks(load: &AmqpLoadArgs, durabilities: &[Durability]) -> Vec<Task> {
    at_each(durabilities, |durability| match load.scenario {
        Some(scenario) => given(&load.body_bytes, &[1024])
            .into_iter()
            .map(|bytes| load.settings(scenario, load.promise(), bytes))
            .collect(),
        None if durability == Some(Durability::Sync) => durable(load),
        None => standard(load),
    })
}

/// Loads whose consumers may read a stream; streams are always on the disk.
fn read_as_streams(tasks: &mut [Task]) -> Result<(), BenchError> {
    for task in tasks {
        let settings = &mut task.settings;
        let heard_by_all = matches!(settings.scenario, Scenario::OneToOne | Scenario::FanOut);
        let confirmed = settings
            .promise
            .is_some_and(|promise| promise.assurance != Assurance::AtMost);
        if !heard_by_all || !confirmed {
            let text = "of a stream, only one-to-one and fan-out can be run, with confirms";
            return Err(BenchError::Usage(text.to_owned()));
        }
        settings.promise = Some(PERSISTENT);
    }
    Ok(())
}

/// Transient messages, no confirms, no acknowledgements.
const TRANSIENT: Promise = Promise {
    assurance: Assurance::AtMost,
    persistent: false,
};
/// Confirmed and acknowledged, but kept in memory.
const CONFIRMED: Promise = Promise {
    assurance: Assurance::AtLeast,
    persistent: false,
};
/// Confirmed, acknowledged, and on the disk.
const PERSISTENT: Promise = Promise {
    assurance: Assurance::AtLeast,
    persistent: true,
};

/// Scenario, publishers, depth and promise of the loads that are run without waiting for the disk.
const STANDARD: [(Scenario, u32, u32, Promise); 9] = [
    (Scenario::OneToOne, 1, 64, TRANSIENT),
    (Scenario::OneToOne, 16, 1, TRANSIENT),
    (Scenario::OneToOne, 16, 1, CONFIRMED),
    (Scenario::OneToOne, 16, 16, CONFIRMED),
    (Scenario::RequestReply, 16, 1, TRANSIENT),
    (Scenario::WorkQueue, 16, 16, TRANSIENT),
    (Scenario::WorkQueue, 16, 16, CONFIRMED),
    (Scenario::FanOut, 1, 16, CONFIRMED),
    (Scenario::Topic, 16, 16, CONFIRMED),
];

fn standard(load: &AmqpLoadArgs) -> Vec<Settings> {
    let mut all = Vec::new();
    for bytes in given(&load.body_bytes, &[16, 1024, 16_384]) {
        for (scenario, publishers, depth, promise) in STANDARD {
            all.push(Settings {
                depth: load.depth.unwrap_or(depth),
                producers: load.publishers.unwrap_or(publishers),
                ..load.settings(scenario, promise, bytes)
            });
        }
    }
    all.push(load.settings(Scenario::Backlog, TRANSIENT, 16));
    all.push(load.settings(Scenario::Idle, TRANSIENT, 16));
    all
}

/// Pairs and depth of the loads whose messages are on the disk before they are confirmed.
const DURABLE: [(u32, u32); 4] = [(1, 1), (16, 1), (64, 1), (16, 16)];

fn durable(load: &AmqpLoadArgs) -> Vec<Settings> {
    let mut all = Vec::new();
    for bytes in given(&load.body_bytes, &[1024]) {
        for (pairs, depth) in DURABLE {
            all.push(Settings {
                depth: load.depth.unwrap_or(depth),
                producers: load.publishers.unwrap_or(pairs),
                ..load.settings(Scenario::OneToOne, PERSISTENT, bytes)
            });
        }
        all.push(load.settings(Scenario::Backlog, PERSISTENT, bytes));
    }
    all
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        load: AmqpLoadArgs,
    }

    fn labels(flags: &str, durabilities: &[Durability]) -> Vec<String> {
        let words = std::iter::once("bench").chain(flags.split_whitespace());
        let program = Program::try_parse_from(words).expect("legal flags");
        tasks(&program.load, durabilities)
            .iter()
            .map(|task| task.settings.label())
            .collect()
    }

    #[test]
    fn the_table_has_every_scenario_at_every_size() {
        let all = labels("", &[Durability::Memory]);
        for expected in [
            "one-to-one unconfirmed, 1 pair, 64 deep, 16 B",
            "one-to-one confirmed, 16 pairs, 1024 B",
            "work queue confirmed, 16 publishers, 16 deep, 1 consumer, 16384 B",
            "fan-out confirmed, 100 subscribers, 16 deep, 16 B",
            "topic confirmed, 1000 bindings, 16 pairs, 16 deep, 1024 B",
            "backlog unconfirmed, 1000000 messages, 16 B",
            "idle, 1000 connections",
        ] {
            assert!(
                all.iter().any(|label| label == expected),
                "{expected}: {all:#?}"
            );
        }
    }

    #[test]
    fn what_waits_for_the_disk_is_persistent() {
        let all = labels("", &[Durability::Sync]);
        let persistent = |label: &String| label.contains(" confirmed, persistent, ");
        assert!(all.iter().all(persistent), "{all:#?}");
    }

    #[test]
    fn a_stream_is_read_by_all_and_stays() {
        let streams = |flags: &str| {
            let words = std::iter::once("bench").chain(flags.split_whitespace());
            let program = Program::try_parse_from(words).expect("legal flags");
            let mut tasks = tasks(&program.load, &[]);
            read_as_streams(&mut tasks).map(|()| tasks[0].settings.label())
        };
        assert_eq!(
            streams("--scenario fan-out --consumers 4 --body-bytes 16").unwrap(),
            "fan-out confirmed, persistent, 4 subscribers, 16 B"
        );
        assert!(streams("--scenario fan-out --unconfirmed").is_err());
        assert!(streams("--scenario work-queue").is_err());
    }

    #[test]
    fn one_scenario_is_run_as_the_flags_promise() {
        assert_eq!(
            labels(
                "--scenario topic --unconfirmed --bindings 8 --body-bytes 16,64",
                &[]
            ),
            ["16", "64"].map(|bytes| format!("topic unconfirmed, 8 bindings, 16 pairs, {bytes} B"))
        );
    }
}
