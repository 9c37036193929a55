//! `bench mqtt`: its subjects and its standard table.

use std::collections::BTreeMap;
use std::io::Write;

use longtail_model::Durability;

use super::matrix::{Task, at_each};
use super::subject::Subject;
use super::{Plan, data, durabilities, execute, fit_to_sinks, given, subjects};
use crate::cli::{MqttArgs, MqttLoadArgs, MqttPeer};
use crate::peer::mosquitto::Mosquitto;
use crate::peer::rumqttd::Rumqttd;
use crate::protocol::mqtt::{Mqtt, Version};
use crate::scenario::{Scenario, Settings};

pub(super) fn run(out: &mut dyn Write, args: &MqttArgs) -> anyhow::Result<()> {
    let started = !args.compare.is_empty();
    let standard = [Durability::Memory, Durability::Sync];
    let durabilities = durabilities(&args.subject.durability, started, &standard)?;
    let mut tasks = tasks(&args.load, &durabilities);
    let subjects = subjects(&args.subject, "mqtt", compared(args))?;
    fit_to_sinks(&mut tasks, &subjects, Some(Scenario::Offline))?;
    let version = match args.mqtt {
        Version::V3 => "3.1.1",
        Version::V5 => "5",
    };
    let plan = Plan {
        tasks,
        data: data(args.subject.data.as_deref(), started),
        half_load: args.load.half_load,
        detail: args.load.scenario.is_some(),
        settings: BTreeMap::from([("MQTT", version.to_owned())]),
    };
    let protocol = Mqtt { version: args.mqtt };
    execute(out, &protocol, &subjects, &plan, &args.load.run)
}

/// The peers, and the sink that stands for one.
fn compared(args: &MqttArgs) -> Vec<Subject> {
    let peer = |peer: &MqttPeer| match peer {
        MqttPeer::Mosquitto => Subject::started(Box::new(Mosquitto {
            program: args.mosquitto.clone(),
        })),
        MqttPeer::Rumqttd => Subject::started(Box::new(Rumqttd {
            program: args.rumqttd.clone(),
            version: args.mqtt,
        })),
        MqttPeer::Null => Subject::null(),
        MqttPeer::Alone => Subject::alone(),
    };
    args.compare.iter().map(peer).collect()
}

/// What the flags ask for, at each durability: one scenario, or the table.
fn tasks(load: &MqttLoadArgs, durabilities: &[Durability]) -> Vec<Task> {
    at_each(durabilities, |durability| match load.scenario {
        Some(scenario) => one(load, scenario),
        None if durability == Some(Durability::Sync) => durable(load),
        None => standard(load),
    })
}

/// One scenario at each QoS and size given.
fn one(load: &MqttLoadArgs, scenario: Scenario) -> Vec<Settings> {
    let sizes = given(&load.body_bytes, &[256]);
    let at = |&bytes: &u32| {
        given(&load.qos, &[1])
            .into_iter()
            .map(move |qos| load.settings(scenario, qos, bytes))
    };
    sizes.iter().flat_map(at).collect()
}

/// Scenario, depth and QoS of the loads that are run without waiting for the disk.
const STANDARD: [(Scenario, u32, u8); 15] = [
    (Scenario::Publish, 32, 0),
    (Scenario::Publish, 32, 1),
    (Scenario::Publish, 32, 2),
    (Scenario::OneToOne, 1, 0),
    (Scenario::OneToOne, 1, 1),
    (Scenario::OneToOne, 16, 0),
    (Scenario::OneToOne, 16, 1),
    (Scenario::OneToOne, 16, 2),
    (Scenario::RequestReply, 1, 1),
    (Scenario::FanIn, 4, 0),
    (Scenario::FanIn, 4, 1),
    (Scenario::FanOut, 1, 0),
    (Scenario::FanOut, 16, 0),
    (Scenario::FanOut, 16, 1),
    (Scenario::Shared, 16, 1),
];

/// The table without waiting for the disk, then what sessions and connections take.
fn standard(load: &MqttLoadArgs) -> Vec<Settings> {
    let mut all = Vec::new();
    for bytes in given(&load.body_bytes, &[16, 256, 4096]) {
        for (scenario, depth, qos) in STANDARD {
            if load.qos.is_empty() || load.qos.contains(&qos) {
                all.push(Settings {
                    depth: load.depth.unwrap_or(depth),
                    ..load.settings(scenario, qos, bytes)
                });
            }
        }
    }
    all.extend([
        load.settings(Scenario::Offline, 1, 256),
        load.settings(Scenario::Idle, 1, 256),
    ]);
    all
}

/// Pairs, depth and QoS of the loads in which every message is stored for a persistent session before its publish is
/// acknowledged, and that is done on the disk.
const DURABLE: [(u32, u32, u8); 5] = [(1, 1, 1), (16, 1, 1), (64, 1, 1), (16, 16, 1), (16, 1, 2)];

/// The table with waiting for the disk: messages that are soon gone again, and messages that stay.
fn durable(load: &MqttLoadArgs) -> Vec<Settings> {
    let bytes = load.body_bytes.first().copied().unwrap_or(256);
    let wants = |qos: u8| load.qos.is_empty() || load.qos.contains(&qos);
    let mut all = Vec::new();
    for (pairs, depth, qos) in DURABLE {
        let mut settings = load.settings(Scenario::OneToOne, qos, bytes);
        settings.producers = load.publishers.unwrap_or(pairs);
        settings.depth = load.depth.unwrap_or(depth);
        if let Some(promise) = &mut settings.promise {
            promise.persistent = true;
        }
        if wants(qos) {
            all.push(settings);
        }
    }
    if wants(1) {
        all.push(Settings {
            workers: load.subscribers.unwrap_or(1),
            ..load.settings(Scenario::Offline, 1, bytes)
        });
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
        load: MqttLoadArgs,
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
            "publish QoS 2, 16 connections, 32 deep, 4096 B",
            "one-to-one QoS 0, 16 pairs, 16 B",
            "fan-in QoS 1, 100 publishers, 4 deep, 256 B",
            "fan-out QoS 0, 1000 subscribers, 16 B",
            "fan-out QoS 0, 1000 subscribers, 16 deep, 4096 B",
            "shared QoS 1, 16 publishers, 16 deep, 16 members, 256 B",
            "offline QoS 1, 16 publishers, 1000 messages to 100 sessions, 256 B",
            "idle, 1000 connections",
        ] {
            assert!(
                all.iter().any(|label| label == expected),
                "{expected}: {all:#?}"
            );
        }
        let fewer = labels("--body-bytes 16 --qos 0", &[Durability::Memory]);
        assert!(fewer.len() < all.len() / 3, "{fewer:#?}");
    }

    #[test]
    fn what_waits_for_the_disk_is_persistent() {
        let all = labels("", &[Durability::Sync]);
        assert!(
            all.iter()
                .all(|label| label.contains(", persistent, ")
                    || label.starts_with("offline QoS 1, ")),
            "{all:#?}"
        );
    }

    #[test]
    fn one_scenario_is_run_at_each_qos_and_size() {
        let all = labels("--scenario publish --qos 0,2 --body-bytes 16,64", &[]);
        let expected = ["0, 16 connections, 16", "2, 16 connections, 16"]
            .into_iter()
            .chain(["0, 16 connections, 64", "2, 16 connections, 64"])
            .map(|label| format!("publish QoS {label} B"));
        assert_eq!(all, expected.collect::<Vec<_>>());
    }
}
