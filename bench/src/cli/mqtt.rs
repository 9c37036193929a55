//! The flags of `longtail bench mqtt`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{RunArgs, SubjectArgs, scenario};
use crate::load::{Assurance, Promise};
use crate::protocol::mqtt::Version;
use crate::scenario::{Dialect, Scenario, Settings};

/// Scenarios of publish and subscribe.
const SCENARIOS: &[Scenario] = &[
    Scenario::Publish,
    Scenario::OneToOne,
    Scenario::RequestReply,
    Scenario::FanIn,
    Scenario::FanOut,
    Scenario::Shared,
    Scenario::Offline,
    Scenario::Idle,
];

/// Flags of `bench mqtt`.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new(SubjectArgs::GROUP).required(true))]
pub(crate) struct MqttArgs {
    /// Start Longtail and these peers, at equal durability where they have it, each in an empty directory, and run all
    /// in turn; repeat or separate by commas.
    #[arg(
        long,
        value_name = "PEER",
        group = SubjectArgs::GROUP,
        value_delimiter = ','
    )]
    pub(crate) compare: Vec<MqttPeer>,
    /// Mosquitto's program.
    #[arg(long, value_name = "PATH", default_value = "mosquitto")]
    pub(crate) mosquitto: PathBuf,
    /// rumqttd's program.
    #[arg(long, value_name = "PATH", default_value = "rumqttd")]
    pub(crate) rumqttd: PathBuf,
    /// Version of the protocol.
    #[arg(long, value_name = "VERSION", default_value = "3.1.1")]
    pub(crate) mqtt: Version,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) load: MqttLoadArgs,
}

/// Peers that `--compare` can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MqttPeer {
    /// Eclipse Mosquitto.
    Mosquitto,
    /// The broker of the rumqtt project.
    Rumqttd,
    /// A sink that answers and passes on everything at once: what the generator could report at most.
    Null,
    /// The generator by itself, without sockets: what its own code could reach.
    Alone,
}

/// The load of publish and subscribe. What is not given has its place in the standard table, or the default named.
#[derive(Args, Clone, Debug)]
pub(crate) struct MqttLoadArgs {
    /// What the connections do. Default: the standard table of loads.
    #[arg(long, value_parser = scenario(SCENARIOS))]
    pub(crate) scenario: Option<Scenario>,
    /// Quality of service of publishes and subscriptions; repeat or separate by commas. Default: as in the table, 1
    /// with --scenario.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: Vec<u8>,
    /// Bytes of a body; repeat or separate by commas. Default: 16, 256 and 4096 in the table, 256 with --scenario.
    /// Latency from publisher to subscriber needs 8.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=1 << 27))]
    pub(crate) body_bytes: Vec<u32>,
    /// Connections of publish and idle. Default: 16, and 1,000 for idle.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: Option<u32>,
    /// Publishers (pairs, for one-to-one and request-reply). Default: 16, and 100 for fan-in.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) publishers: Option<u32>,
    /// Subscribers of fan-out, members of shared, sessions of offline. Default: 1,000, 16, 100.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) subscribers: Option<u32>,
    /// Subscriptions with a wildcard that nothing is published to, all subscribers together: what finding the one
    /// that hears costs.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub(crate) aside: u32,
    /// Publishes in one write. Default: 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) depth: Option<u32>,
    /// Messages published while the sessions of offline are away.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// Messages in flight together. Default: four bursts a publisher, one burst for fan-out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) window: Option<u32>,
    /// Subscribers have persistent sessions, so that a message is stored before it is acknowledged.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Run each load with subscribers once more beside each peer, as an open loop at half of what that peer reached.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) half_load: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

impl MqttLoadArgs {
    /// One scenario with its defaults.
    pub(crate) fn settings(&self, scenario: Scenario, qos: u8, body_bytes: u32) -> Settings {
        let (connections, publishers, subscribers) = match scenario {
            Scenario::Idle => (1000, 1, 1),
            Scenario::FanIn => (1, 100, 1),
            Scenario::FanOut => (1, 1, 1000),
            Scenario::Offline => (1, 16, 100),
            _ => (16, 16, 16),
        };
        Settings {
            scenario,
            connections: self.connections.unwrap_or(connections),
            producers: self.publishers.unwrap_or(publishers),
            workers: self.subscribers.unwrap_or(subscribers),
            depth: self.depth.unwrap_or(1),
            body_bytes: body_bytes as usize,
            jobs: self.messages,
            keep: false,
            count: self.run.count,
            duration: self.run.duration,
            warm_up: self.run.warm_up,
            rate: self.run.rate,
            threads: self.run.threads,
            queues: 1,
            window: self.window,
            bindings: self.aside,
            dialect: Dialect::Qos,
            promise: Some(Promise {
                assurance: match qos {
                    0 => Assurance::AtMost,
                    1 => Assurance::AtLeast,
                    _ => Assurance::Exactly,
                },
                persistent: self.persistent || scenario == Scenario::Offline,
            }),
        }
    }
}
