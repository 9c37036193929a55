//! The flags of `longtail bench amqp`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{RunArgs, SubjectArgs, scenario};
use crate::load::{Assurance, Promise};
use crate::protocol::amqp::QueueType;
use crate::scenario::{Dialect, Scenario, Settings};

/// Scenarios of queues and exchanges.
const SCENARIOS: &[Scenario] = &[
    Scenario::OneToOne,
    Scenario::RequestReply,
    Scenario::WorkQueue,
    Scenario::FanOut,
    Scenario::Topic,
    Scenario::Backlog,
    Scenario::Idle,
];

/// Flags of `bench amqp`. Servers have to let in guest with the password guest.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new(SubjectArgs::GROUP).required(true))]
pub(crate) struct AmqpArgs {
    /// Start Longtail and these peers, at equal durability where they have it, each in an empty directory, and run all
    /// in turn; repeat or separate by commas.
    #[arg(
        long,
        value_name = "PEER",
        group = SubjectArgs::GROUP,
        value_delimiter = ','
    )]
    pub(crate) compare: Vec<AmqpPeer>,
    /// RabbitMQ's start script.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    )]
    pub(crate) rabbitmq: PathBuf,
    /// Type of the queues.
    #[arg(long, default_value = "classic")]
    pub(crate) queue_type: QueueType,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) load: AmqpLoadArgs,
}

/// Peers that `--compare` can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AmqpPeer {
    /// The original.
    Rabbitmq,
    /// A sink that answers and passes on everything at once: what the generator could report at most.
    Null,
    /// The generator by itself, without sockets: what its own code could reach.
    Alone,
}

/// The load of queues and exchanges. What is not given has its place in the standard table, or the default named.
#[derive(Args, Clone, Debug)]
pub(crate) struct AmqpLoadArgs {
    /// What the connections do. Default: the standard table of loads.
    #[arg(long, value_parser = scenario(SCENARIOS))]
    pub(crate) scenario: Option<Scenario>,
    /// Publish without confirms and consume without acknowledgements.
    #[arg(long)]
    pub(crate) unconfirmed: bool,
    /// Durable queues and persistent messages.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Bytes of a body; repeat or separate by commas. Default: 16, 1024 and 16384 in the table, 1024 with --scenario.
    /// Latency from publisher to consumer needs 8.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=1 << 27))]
    pub(crate) body_bytes: Vec<u32>,
    /// Connections of idle, with two channels each, and of the publishers of backlog. Default: 1,000 and 4.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: Option<u32>,
    /// Publishers (pairs, for one-to-one, request-reply and topic). Default: 16, and 1 for fan-out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) publishers: Option<u32>,
    /// Consumers of fan-out and of a work queue. Default: 100, 1.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) consumers: Option<u32>,
    /// Bindings of topic.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) bindings: u32,
    /// Publishes in one write. Default: 1, and 100 for backlog.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) depth: Option<u32>,
    /// Messages of backlog.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// Leave the messages of backlog where they are, on a server that runs already.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Messages in flight together. Default: four bursts a publisher, one burst for fan-out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) window: Option<u32>,
    /// Run each load with consumers once more beside each peer, as an open loop at half of what that peer reached.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) half_load: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

impl AmqpLoadArgs {
    /// One scenario with its defaults.
    pub(crate) fn settings(
        &self,
        scenario: Scenario,
        promise: Promise,
        body_bytes: u32,
    ) -> Settings {
        let (connections, publishers, consumers, depth) = match scenario {
            Scenario::Idle => (1000, 1, 1, 1),
            Scenario::Backlog => (4, 1, 1, 100),
            Scenario::FanOut => (1, 1, 100, 1),
            _ => (1, 16, 1, 1),
        };
        Settings {
            scenario,
            connections: self.connections.unwrap_or(connections),
            producers: self.publishers.unwrap_or(publishers),
            workers: self.consumers.unwrap_or(consumers),
            depth: self.depth.unwrap_or(depth),
            body_bytes: body_bytes as usize,
            jobs: self.messages,
            keep: self.keep,
            count: self.run.count,
            duration: self.run.duration,
            warm_up: self.run.warm_up,
            rate: self.run.rate,
            threads: self.run.threads,
            queues: 1,
            window: self.window,
            bindings: match scenario {
                Scenario::Topic => self.bindings,
                _ => 0,
            },
            promise: Some(promise),
            dialect: Dialect::Confirms,
        }
    }

    /// What the flags promise.
    pub(crate) fn promise(&self) -> Promise {
        Promise {
            assurance: if self.unconfirmed {
                Assurance::AtMost
            } else {
                Assurance::AtLeast
            },
            persistent: self.persistent,
        }
    }
}
