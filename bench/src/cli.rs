//! The flags of `longtail bench`: those common to all protocols here, those of AMQP and MQTT in files of their own, and
//! those that say which servers.

mod amqp;
mod mqtt;
mod subject;

pub(crate) use amqp::{AmqpArgs, AmqpLoadArgs, AmqpPeer};
pub(crate) use mqtt::{MqttArgs, MqttLoadArgs, MqttPeer};
pub(crate) use subject::SubjectArgs;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};

use crate::pin::Pin;
use crate::scenario::{Dialect, Scenario, Settings};

/// Measures throughput, latency, processor time and memory of a server, alone or beside a peer.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(crate) protocol: ProtocolArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ProtocolArgs {
    /// Drives servers that speak beanstalkd's protocol.
    Beanstalk(BeanstalkArgs),
    /// Drives servers that speak AMQP 0-9-1.
    Amqp(AmqpArgs),
    /// Drives servers that speak MQTT 3.1.1 or 5.0.
    Mqtt(MqttArgs),
    /// Drives a sink that answers everything at once: what the generator could report at most. For AMQP and
    /// MQTT: `amqp --compare null --peer-only`.
    Null(NullArgs),
}

/// Flags of `bench beanstalk`.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new(SubjectArgs::GROUP).required(true))]
pub(crate) struct BeanstalkArgs {
    /// Start Longtail and this peer, at equal durability, each in an empty directory, and run both in turn.
    #[arg(long, value_name = "PEER", group = SubjectArgs::GROUP)]
    pub(crate) compare: Option<PeerKind>,
    /// The peer's program.
    #[arg(long, value_name = "PATH", default_value = "beanstalkd")]
    pub(crate) peer_program: PathBuf,
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Flags of `bench null`.
#[derive(Args, Clone, Debug)]
pub(crate) struct NullArgs {
    /// Beside the sink, run the generator by itself, without sockets: what its own code could reach.
    #[arg(long)]
    pub(crate) alone: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Peers that `--compare` can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerKind {
    /// The original.
    Beanstalkd,
}

/// The load of a work queue.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// What the connections do. Default: the standard table of loads (with --target: cycle).
    #[arg(long, value_parser = scenario(QUEUES))]
    pub(crate) scenario: Option<Scenario>,
    /// Run the standard table of loads on --target.
    #[arg(long, conflicts_with = "scenario")]
    pub(crate) matrix: bool,
    /// Add memory to the standard table: a backlog of --jobs jobs of 1 KiB, and 1,000 idle connections.
    #[arg(long, conflicts_with = "scenario")]
    pub(crate) footprint: bool,
    /// Connections, except for split.
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// Producers of split.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) producers: u32,
    /// Workers of split.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) workers: u32,
    /// Commands sent in one write before their replies are awaited.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Bytes of a body.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1 << 30))]
    pub(crate) body_bytes: u32,
    /// Jobs of backlog.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) jobs: u64,
    /// Jobs that the producers of split may have in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) window: u32,
    /// Queues (tubes) over which the connections are spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) queues: u32,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How loads are run, common to all protocols.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Measured time of a run: 500ms, 3s, 2m.
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Time before it that is not measured.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// End after so many jobs instead of after a time.
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Open loop: so many commands a second (of producers, for split). Latency then counts from when a command was due.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Generator threads.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Rounds; the tables show medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Run started servers and the generator on these processors.
    #[arg(long, value_name = "SERVER:GENERATOR", num_args = 0..=1, default_missing_value = "0:1")]
    pub(crate) pin: Option<Pin>,
    /// Also write everything found to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl LoadArgs {
    /// The settings of one scenario.
    pub(crate) fn settings(&self, scenario: Scenario) -> Settings {
        Settings {
            scenario,
            connections: self.connections,
            producers: self.producers,
            workers: self.workers,
            depth: self.depth,
            body_bytes: self.body_bytes as usize,
            jobs: self.jobs,
            keep: false,
            count: self.run.count,
            duration: self.run.duration,
            warm_up: self.run.warm_up,
            rate: self.run.rate,
            threads: self.run.threads,
            queues: self.queues,
            window: Some(self.window),
            bindings: 0,
            promise: None,
            dialect: Dialect::Qos,
        }
    }
}

/// Scenarios of a work queue.
const QUEUES: &[Scenario] = &[
    Scenario::Put,
    Scenario::Cycle,
    Scenario::Split,
    Scenario::Backlog,
    Scenario::Idle,
];

/// Accepts those of the scenarios that a protocol has.
fn scenario(of: &[Scenario]) -> impl TypedValueParser<Value = Scenario> {
    PossibleValuesParser::new(of.iter().filter_map(ValueEnum::to_possible_value))
        .try_map(|name| Scenario::from_str(&name, false))
}

/// `500ms`, `3s`, `2m`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s or m")),
    };
    let number =
        f64::from_str(number).map_err(|_| format!("{text:?} is not like 500ms, 3s or 2m"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("{text:?} is no number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<ProtocolArgs, clap::Error> {
        Program::try_parse_from(format!("bench {line}").split_whitespace())
            .map(|program| program.bench.protocol)
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("3h").is_err() && duration("s").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn pin_has_a_default() {
        let Ok(ProtocolArgs::Null(args)) = parse("null --pin") else {
            panic!("legal flags")
        };
        assert_eq!(
            args.load.run.pin,
            Some(Pin {
                server: vec![0],
                generator: vec![1]
            })
        );
    }

    #[test]
    fn a_protocol_has_its_own_scenarios() {
        assert!(parse("beanstalk --target a:1 --scenario cycle").is_ok());
        assert!(parse("beanstalk --target a:1 --scenario fan-out").is_err());
        assert!(
            parse("mqtt --target a:1 --scenario fan-out --qos 0,2 --body-bytes 16,256").is_ok()
        );
        assert!(parse("mqtt --target a:1 --scenario cycle").is_err());
        assert!(parse("mqtt --target a:1 --qos 3").is_err());
        assert!(parse("mqtt --compare mosquitto,rumqttd,null --mqtt 5 --half-load").is_ok());
        assert!(parse("mqtt --target a:1 --half-load --rate 100").is_err());
    }

    #[test]
    fn a_subject_is_required_and_only_one() {
        assert!(parse("beanstalk").is_err());
        assert!(parse("beanstalk --target a:1 --compare beanstalkd").is_err());
        assert!(parse("beanstalk --peer a:1").is_err());
        assert!(
            parse("beanstalk --target a:1 --peer b:1 --durability sync --scenario split").is_ok()
        );
        assert!(parse("beanstalk --compare beanstalkd --durability sync,memory").is_ok());
    }
}
