//! What is run: sections of the report, each a few command lines of the load generator.

use std::path::Path;

use super::peers::Peers;
use super::{Parts, Settings};

/// One part of the report.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) protocol: &'static str,
    pub(super) kind: Kind,
    pub(super) loads: Vec<Load>,
}

/// How a part is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A table of ratios and a chart of bars.
    Ratios,
    /// The same of latencies. Its rounds last longer: the few milliseconds for which a machine stands still now and then
    /// must not be a hundredth of a round.
    Tails,
    /// A curve over this number.
    Curve(&'static str),
    /// The generator with a sink instead of servers, and by itself.
    Ceiling,
}

/// Longtail by itself: for what would take its peers an hour.
pub(super) const OWN: &str = "longtail";

/// One command line.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Where on a curve it is.
    pub(super) at: Option<u64>,
    /// The one server that it is run on beside Longtail, where not all do what it is about; [`OWN`] for none.
    pub(super) only: Option<&'static str>,
    flags: Vec<String>,
}

impl Load {
    fn new(flags: &str) -> Load {
        Load {
            at: None,
            only: None,
            flags: flags.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// The same beside one peer only, or none.
    fn only(self, server: &'static str) -> Load {
        Load {
            only: Some(server),
            ..self
        }
    }

    /// All arguments of `longtail`.
    pub(super) fn arguments(
        &self,
        section: &Section,
        settings: &Settings,
        peers: &Peers,
        json: &Path,
    ) -> Vec<String> {
        let mut arguments = vec!["bench".to_owned()];
        match (section.kind, section.protocol) {
            (Kind::Ceiling, "beanstalk") => {
                arguments.extend(["null", "--alone"].map(str::to_owned));
            }
            (Kind::Ceiling, protocol) => {
                let flags = [protocol, "--compare", "null,alone", "--peer-only"];
                arguments.extend(flags.map(str::to_owned));
            }
            (_, protocol) => {
                arguments.push(protocol.to_owned());
                arguments.extend(peers.flags(protocol, self.only));
            }
        }
        arguments.extend(self.flags.iter().cloned());
        // A curve has many points, and its shape is what matters.
        let (rounds, share) = match section.kind {
            Kind::Ratios => (settings.rounds, 1.0),
            Kind::Tails => (settings.rounds, 2.0),
            Kind::Curve(_) if self.only == Some(OWN) => (1, 0.5),
            Kind::Curve(_) | Kind::Ceiling => (settings.rounds.min(2), 0.5),
        };
        let ms = |share: f64| (settings.duration.as_secs_f64() * 1000.0 * share) as u64;
        arguments.extend(
            [
                "--pin",
                "--rounds",
                &rounds.to_string(),
                "--duration",
                &format!("{}ms", ms(share)),
                "--warm-up",
                &format!("{}ms", ms(share.min(1.0)) / 2),
                "--json",
                &json.display().to_string(),
            ]
            .map(str::to_owned),
        );
        if let Some(data) = &settings.data
            && section.kind != Kind::Ceiling
        {
            arguments.extend(["--data".to_owned(), data.display().to_string()]);
        }
        arguments
    }
}

/// The points of a curve: `flags` with each number in the place of `{}`.
fn points(numbers: &[u64], flags: &str) -> Vec<Load> {
    let point = |&number: &u64| Load {
        at: Some(number),
        ..Load::new(&flags.replace("{}", &number.to_string()))
    };
    numbers.iter().map(point).collect()
}

/// As [`points`], and a last one that only this one and Longtail come to.
fn points_but(numbers: &[u64], last: u64, only: &'static str, flags: &str) -> Vec<Load> {
    let mut all = points(numbers, flags);
    let last = points(&[last], flags).into_iter();
    all.extend(last.map(|load| load.only(only)));
    all
}

/// A curve over stored messages. The peers need minutes for the last point.
fn up_to_ten_million(flags: &str) -> Vec<Load> {
    let numbers = [1_000, 10_000, 100_000, 1_000_000];
    points_but(&numbers, 10_000_000, OWN, flags)
}

/// The sections of these parts of the report that are loads.
pub(super) fn sections(parts: Parts) -> Vec<Section> {
    if parts == Parts::Starts {
        return Vec::new();
    }
    let mut all = vec![
        Section {
            name: "beanstalk",
            title: "beanstalkd: put, reserve, delete",
            protocol: "beanstalk",
            kind: Kind::Ratios,
            loads: vec![Load::new("--durability memory,sync --footprint")],
        },
        Section {
            name: "mqtt",
            title: "MQTT, bodies of 256 bytes",
            protocol: "mqtt",
            kind: Kind::Ratios,
            // rumqttd writes nothing to a disk.
            loads: vec![
                Load::new("--durability memory --body-bytes 256"),
                Load::new("--durability sync --body-bytes 256").only("mosquitto"),
            ],
        },
        Section {
            name: "mqtt-half",
            title: "MQTT at half of what each peer can do",
            protocol: "mqtt",
            kind: Kind::Tails,
            loads: vec![
                Load::new("--durability memory --scenario one-to-one --qos 0,1 --half-load"),
                Load::new("--durability memory --scenario fan-out --qos 0,1 --half-load"),
            ],
        },
        Section {
            name: "amqp",
            title: "AMQP 0-9-1",
            protocol: "amqp",
            kind: Kind::Ratios,
            loads: vec![
                Load::new("--durability memory"),
                // A thousand connections at work.
                Load::new("--durability memory --scenario one-to-one --publishers 500"),
            ],
        },
        Section {
            name: "amqp-quorum",
            title: "AMQP 0-9-1, both in sync: quorum queues",
            protocol: "amqp",
            kind: Kind::Ratios,
            // Its classic queues confirm before they have synced.
            loads: vec![
                Load::new("--durability sync --queue-type quorum --messages 200000"),
                Load::new(
                    "--durability sync --queue-type quorum --scenario one-to-one --persistent --depth 16 \
                     --body-bytes 16,16384",
                ),
            ],
        },
        Section {
            name: "amqp-streams",
            title: "AMQP 0-9-1: streams, each consumer reads all",
            protocol: "amqp",
            kind: Kind::Ratios,
            loads: vec![Load::new(
                "--durability interval --queue-type stream --scenario fan-out --depth 16 --consumers 10 --body-bytes 16,1024",
            )],
        },
        Section {
            name: "amqp-half",
            title: "AMQP 0-9-1 at half of what RabbitMQ can do",
            protocol: "amqp",
            kind: Kind::Tails,
            loads: vec![
                Load::new("--durability memory --scenario one-to-one --depth 16 --half-load"),
                Load::new("--durability memory --scenario work-queue --depth 16 --half-load"),
                Load::new("--durability memory --scenario fan-out --depth 16 --half-load"),
                Load::new("--durability memory --scenario topic --depth 16 --half-load"),
            ],
        },
    ];
    if parts == Parts::All {
        all.extend(ceilings());
        all.extend(curves());
    }
    all
}

fn ceilings() -> Vec<Section> {
    let ceiling = |name, title, protocol, flags| Section {
        name,
        title,
        protocol,
        kind: Kind::Ceiling,
        loads: vec![Load::new(flags)],
    };
    vec![
        ceiling(
            "beanstalk-ceiling",
            "beanstalkd: the generator's ceiling",
            "beanstalk",
            "",
        ),
        ceiling(
            "mqtt-ceiling",
            "MQTT: the generator's ceiling",
            "mqtt",
            "--durability memory --body-bytes 256",
        ),
        ceiling(
            "amqp-ceiling",
            "AMQP: the generator's ceiling",
            "amqp",
            "--durability memory --body-bytes 16,1024,16384",
        ),
    ]
}

fn curves() -> Vec<Section> {
    let curve = |name, title, protocol, over, loads| Section {
        name,
        title,
        protocol,
        kind: Kind::Curve(over),
        loads,
    };
    vec![
        curve(
            "beanstalk-connections",
            "beanstalkd: commands a second by connections, in memory",
            "beanstalk",
            "connections",
            points(
                &[1, 4, 16, 64, 256, 1024],
                "--durability memory --scenario cycle -c {}",
            ),
        ),
        curve(
            "beanstalk-queues",
            "beanstalkd: commands a second by tubes, 64 connections, in memory",
            "beanstalk",
            "tubes",
            points(
                &[1, 8, 64],
                "--durability memory --scenario cycle -c 64 --queues {}",
            ),
        ),
        curve(
            "beanstalk-body",
            "beanstalkd: commands a second by bytes of a job, 16 connections, in memory",
            "beanstalk",
            "bytes",
            points(
                &[16, 256, 4096, 32_768],
                "--durability memory --scenario cycle -c 16 --body-bytes {}",
            ),
        ),
        curve(
            "beanstalk-backlog",
            "beanstalkd: jobs filled and drained a second by jobs stored, in memory",
            "beanstalk",
            "jobs",
            up_to_ten_million(
                "--durability memory --scenario backlog --depth 32 --body-bytes 128 --jobs {}",
            ),
        ),
        curve(
            "mqtt-subscribers",
            "MQTT: deliveries a second by subscribers of one topic, bursts of 16 at QoS 0",
            "mqtt",
            "subscribers",
            points(
                &[1, 10, 100, 1000],
                "--durability memory --scenario fan-out --qos 0 --depth 16 --subscribers {}",
            ),
        ),
        curve(
            "mqtt-subscriptions",
            "MQTT: deliveries a second by other subscriptions, 16 pairs, QoS 1",
            "mqtt",
            "subscriptions",
            // rumqttd is busy with the last for longer than anybody waits, and ends connections.
            points_but(
                &[1_000, 10_000],
                100_000,
                "mosquitto",
                "--durability memory --scenario one-to-one --qos 1 --aside {}",
            ),
        ),
        curve(
            "mqtt-pairs",
            "MQTT: deliveries a second by pairs with a topic each, QoS 1",
            "mqtt",
            "pairs",
            points(
                &[1, 4, 16, 64, 256],
                "--durability memory --scenario one-to-one --qos 1 --publishers {}",
            ),
        ),
        curve(
            "amqp-pairs",
            "AMQP: deliveries a second by pairs with a queue each, confirmed, 16 deep",
            "amqp",
            "pairs",
            points(
                &[1, 4, 16, 64, 256],
                "--durability memory --scenario one-to-one --depth 16 --publishers {}",
            ),
        ),
        curve(
            "amqp-bindings",
            "AMQP: deliveries a second by bindings of a topic exchange, 16 pairs, confirmed, 16 deep",
            "amqp",
            "bindings",
            points(
                &[100, 1_000, 10_000],
                "--durability memory --scenario topic --depth 16 --bindings {}",
            ),
        ),
        curve(
            "amqp-backlog",
            "AMQP: messages filled and drained a second by messages stored, persistent",
            "amqp",
            "messages",
            up_to_ten_million(
                "--durability interval --scenario backlog --persistent --body-bytes 128 --messages {}",
            ),
        ),
    ]
}
