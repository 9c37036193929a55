//! `bench mqtt`: its subjects and its standard table.

use std::collections::BTreeMap;
use std::io::Write;

use longtail_model::Durability;

use super::matrix::Task;
use super::subject::Subject;
use super::{Plan, data, durabilities, execute, running};
use crate::cli::{MqttArgs, MqttLoadArgs, MqttPeer};
use crate::error::BenchError;
use crate::load::Assurance;
use crate::peer::longtail::Longtail;
use crate::peer::mosquitto::Mosquitto;
use crate::peer::rumqttd::Rumqttd;
use crate::protocol::mqtt::{Mqtt, Version};
use crate::scenario::{Scenario, Settings};

pub(super) fn run(out: &mut dyn Write, args: &MqttArgs) -> anyhow::Result<()> {
    let started = !args.compare.is_empty();
    let standard = [Durability::Memory, Durability::Sync];
    let durabilities = durabilities(&args.durability, started, &standard)?;
    let mut tasks = tasks(&args.load, &durabilities);
    if args.compare.contains(&MqttPeer::Null) {
        // The sink keeps no sessions.
        tasks.retain(|task| task.settings.scenario != Scenario::Offline);
        if tasks.is_empty() {
            let text = "the null sink keeps no sessions: name another scenario than offline";
            return Err(BenchError::Usage(text.to_owned()).into());
        }
    }
    let version = match args.mqtt {
        Version::V3 => "3.1.1",
        Version::V5 => "5",
    };
    let plan = Plan {
        tasks,
        data: data(args.data.as_deref(), started),
        half_load: args.load.half_load,
        detail: args.load.scenario.is_some(),
        settings: BTreeMap::from([("MQTT", version.to_owned())]),
    };
    let protocol = Mqtt { version: args.mqtt };
    execute(out, &protocol, &subjects(args)?, &plan, &args.load.run)
}

fn subjects(args: &MqttArgs) -> Result<Vec<Subject>, BenchError> {
    let mut subjects = Vec::new();
    if let Some(target) = &args.target {
        subjects.push(running(target, args.pid)?);
    }
    if let Some(peer) = &args.peer {
        subjects.push(running(peer, args.peer_pid)?);
    }
    if !args.compare.is_empty() && !args.peer_only {
        let own = args.own.as_deref();
        let own = own.map_or_else(|| Longtail::current("mqtt"), Longtail::custom)?;
        subjects.push(Subject::started(Box::new(own)));
    }
    for peer in &args.compare {
        subjects.push(match peer {
            MqttPeer::Mosquitto => Subject::started(Box::new(Mosquitto {
                program: args.mosquitto.clone(),
            })),
            MqttPeer::Rumqttd => Subject::started(Box::new(Rumqttd {
                program: args.rumqttd.clone(),
                version: args.mqtt,
            })),
            MqttPeer::Null => Subject::null(),
        });
    }
    Ok(subjects)
}

/// What the flags ask for, at each durability: one scenario, or the table.
fn tasks(load: &MqttLoadArgs, durabilities: &[Durability]) -> Vec<Task> {
    let durabilities: Vec<Option<Durability>> = match durabilities {
        [] => vec![None],
        given => given.iter().copied().map(Some).collect(),
    };
    let of = |durability: Option<Durability>| {
        let settings = match load.scenario {
            Some(scenario) => one(load, scenario),
            None if durability == Some(Durability::Sync) => durable(load),
            None => standard(load),
        };
        settings.into_iter().map(move |settings| Task {
            durability,
            settings,
        })
    };
    durabilities.into_iter().flat_map(of).collect()
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
const STANDARD: [(Scenario, u32, u8); 14] = [
    (Scenario::Publish, 32, 0),
    (Scenario::Publish, 32, 1),
    (Scenario::Publish, 32, 2),
    (Scenario::OneToOne, 1, 0),
    (Scenario::OneToOne, 1, 1),
    (Scenario::OneToOne, 16, 0),
    (Scenario::OneToOne, 16, 1),
    (Scenario::OneToOne, 16, 2),
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

fn durable(load: &MqttLoadArgs) -> Vec<Settings> {
    let persistent = |&(pairs, depth, qos): &(u32, u32, u8)| {
        let bytes = load.body_bytes.first().copied().unwrap_or(256);
        let mut settings = load.settings(Scenario::OneToOne, qos, bytes);
        settings.producers = load.publishers.unwrap_or(pairs);
        settings.depth = load.depth.unwrap_or(depth);
        if let Some(promise) = &mut settings.promise {
            promise.persistent = true;
        }
        settings
    };
    let wanted = |settings: &Settings| {
        let assurance = settings.promise.map(|promise| promise.assurance);
        load.qos.is_empty()
            || load
                .qos
                .contains(&(assurance.unwrap_or(Assurance::AtMost) as u8))
    };
    DURABLE.iter().map(persistent).filter(wanted).collect()
}

fn given<T: Copy>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default } else { given }.to_vec()
}
