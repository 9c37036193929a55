//! Scenarios: what a user asks for, as loads. `runner` runs them, and looks at the memory that goes with some.

mod runner;
#[cfg(test)]
mod tests;

pub(crate) use runner::{Outcome, Runner};

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::BenchError;
use crate::load::{Assurance, Interest, Load, Promise, Role, Stop};

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Publish only; afterwards everything is drained, unmeasured.
    Put,
    /// Each connection publishes, takes and settles: `depth` of each at a time.
    Cycle,
    /// Producers publish, workers block, take and settle one at a time.
    Split,
    /// Publish many jobs, look at memory, drain them.
    Backlog,
    /// Open connections that wait for a message, look at memory.
    Idle,
    /// Publish to topics that nobody hears.
    Publish,
    /// As many subscribers as publishers; each hears one.
    OneToOne,
    /// One subscriber hears all publishers, each with a topic of its own.
    FanIn,
    /// All subscribers hear one publisher.
    FanOut,
    /// Publishers of one topic, each message of which goes to one subscriber of a group.
    Shared,
    /// Publishers of one queue, whose consumers share its messages.
    WorkQueue,
    /// As one-to-one, through a topic exchange with many bindings.
    Topic,
    /// Pairs: one asks, the other answers.
    RequestReply,
    /// Sessions go offline, messages are published to them, the sessions come back and get them all.
    Offline,
}

/// One scenario with its numbers.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) connections: u32,
    /// Connections that publish, where not all do the same.
    pub(crate) producers: u32,
    /// Workers or subscribers, where not all do the same.
    pub(crate) workers: u32,
    pub(crate) depth: u32,
    pub(crate) body_bytes: usize,
    /// Messages of a backlog.
    pub(crate) jobs: u64,
    /// They stay where they are.
    pub(crate) keep: bool,
    pub(crate) count: Option<u64>,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) rate: Option<f64>,
    pub(crate) threads: usize,
    pub(crate) queues: u32,
    /// Messages in flight (times subscribers that get each). None: four bursts a publisher, but one for a fan-out.
    pub(crate) window: Option<u32>,
    /// Bindings of the topic exchange of [`Scenario::Topic`], or subscriptions that nothing is published to, all
    /// subscribers together.
    pub(crate) bindings: u32,
    /// What is promised about messages; None where the protocol leaves no choice.
    pub(crate) promise: Option<Promise>,
    /// How that is called in tables.
    pub(crate) dialect: Dialect,
}

/// What a protocol calls its promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Quality of service 0, 1, 2.
    #[default]
    Qos,
    /// With or without confirms and acknowledgements.
    Confirms,
}

impl Dialect {
    fn name(self, assurance: Assurance) -> String {
        match (self, assurance) {
            (Dialect::Qos, assurance) => format!("QoS {}", assurance as u8),
            (Dialect::Confirms, Assurance::AtMost) => "unconfirmed".to_owned(),
            (Dialect::Confirms, _) => "confirmed".to_owned(),
        }
    }
}

/// Bursts in flight for each publisher: with fewer, sender, server and receiver take turns instead of overlapping.
const BURSTS_IN_FLIGHT: i64 = 4;
/// Open files that are not connections of the load.
const FILES_RESERVED: u64 = 64;

impl Settings {
    /// The label in tables.
    pub(crate) fn label(&self) -> String {
        let (producers, workers, bytes) = (self.producers, self.workers, self.body_bytes);
        let depth = if self.depth > 1 {
            format!(", {} deep", self.depth)
        } else {
            String::new()
        };
        let aside = match (self.scenario, self.bindings) {
            (Scenario::Topic, _) | (_, 0) => String::new(),
            (_, aside) => format!(", {} aside", plural(aside, "subscription")),
        };
        let who = match self.scenario {
            Scenario::Put | Scenario::Cycle | Scenario::Publish => {
                plural(self.connections, "connection") + &depth
            }
            Scenario::Split => format!("{producers} producers{depth}, {workers} workers"),
            Scenario::Backlog => format!("{} {}s", self.jobs, self.item()),
            Scenario::Idle => return format!("idle, {}", plural(self.connections, "connection")),
            Scenario::OneToOne | Scenario::RequestReply => plural(producers, "pair") + &depth,
            Scenario::WorkQueue => {
                let publishers = plural(producers, "publisher");
                format!("{publishers}{depth}, {}", plural(workers, "consumer"))
            }
            Scenario::Topic => {
                let pairs = plural(producers, "pair");
                format!("{}, {pairs}{depth}", plural(self.bindings, "binding"))
            }
            Scenario::FanIn => plural(producers, "publisher") + &depth,
            Scenario::FanOut => plural(workers, "subscriber") + &depth,
            Scenario::Shared => {
                let publishers = plural(producers, "publisher");
                format!("{publishers}{depth}, {}", plural(workers, "member"))
            }
            Scenario::Offline => {
                let publishers = plural(producers, "publisher");
                let sessions = plural(workers, "session");
                format!("{publishers}{depth}, {} messages to {sessions}", self.jobs)
            }
        };
        let promise = self.promise.map_or_else(String::new, |promise| {
            let assurance = self.dialect.name(promise.assurance);
            let persistent = match self.scenario {
                Scenario::Publish | Scenario::Offline => "",
                _ if promise.persistent => ", persistent",
                _ => "",
            };
            format!(" {assurance}{persistent}")
        });
        let rate = self.rate.map_or_else(String::new, |rate| match rate {
            100.0.. => format!(", {rate:.0}/s"),
            _ if rate.fract() == 0.0 => format!(", {rate}/s"),
            _ => format!(", {rate:.2}/s"),
        });
        let name = self.scenario.name();
        format!("{name}{promise}, {who}{aside}, {bytes} B{rate}")
    }

    /// What a backlog is made of.
    pub(crate) fn item(&self) -> &'static str {
        match self.dialect {
            Dialect::Qos => "job",
            Dialect::Confirms => "message",
        }
    }

    /// Connections that are open at the same time.
    pub(crate) fn sockets(&self) -> u64 {
        let (producers, workers) = (u64::from(self.producers), u64::from(self.workers));
        match self.scenario {
            Scenario::Put | Scenario::Cycle | Scenario::Backlog | Scenario::Publish => {
                u64::from(self.connections)
            }
            Scenario::Idle => u64::from(self.connections),
            Scenario::Split | Scenario::Shared | Scenario::WorkQueue => producers + workers,
            Scenario::OneToOne | Scenario::Topic | Scenario::RequestReply => producers * 2,
            Scenario::FanIn => producers + 1,
            Scenario::FanOut => workers + 1,
            Scenario::Offline => producers.max(workers),
        }
    }

    /// Subscribers that get each message.
    pub(crate) fn audience(&self) -> u32 {
        match self.scenario {
            Scenario::FanOut => self.workers,
            _ => 1,
        }
    }

    /// The roles of a scenario that is one load, and the number of queues.
    fn roles(&self) -> (Vec<Role>, u32) {
        let all = |role, count: u32| (vec![role; count as usize], self.queues);
        let both = |publishers: u32, role, count: u32, queues| {
            let mut roles = vec![Role::Produce; publishers as usize];
            roles.resize(roles.len() + count as usize, role);
            (roles, queues)
        };
        let (producers, workers) = (self.producers, self.workers);
        match self.scenario {
            Scenario::Put | Scenario::Publish | Scenario::Backlog | Scenario::Offline => {
                all(Role::Put, self.connections)
            }
            Scenario::Cycle => all(Role::Cycle, self.connections),
            Scenario::Idle => all(Role::Idle, self.connections),
            Scenario::Split => both(producers, Role::Work, workers, self.queues),
            Scenario::OneToOne | Scenario::Topic => {
                let role = Role::Subscribe(Interest::Queue);
                both(producers, role, producers, producers)
            }
            Scenario::RequestReply => {
                let mut roles = vec![Role::Request; producers as usize];
                roles.resize(2 * producers as usize, Role::Respond);
                (roles, producers)
            }
            Scenario::WorkQueue => both(producers, Role::Subscribe(Interest::Queue), workers, 1),
            Scenario::FanIn => both(producers, Role::Subscribe(Interest::Every), 1, producers),
            Scenario::FanOut => both(1, Role::Subscribe(Interest::Queue), workers, 1),
            Scenario::Shared => both(producers, Role::Subscribe(Interest::Shared), workers, 1),
        }
    }

    fn load(&self, roles: Vec<Role>, queues: u32, stop: Stop) -> Load {
        let audience = self.audience();
        let publishers = roles.iter().filter(|role| role.is_publisher()).count();
        let subscribers = (roles.iter())
            .filter(|role| matches!(role, Role::Subscribe(_)))
            .count();
        let bursts = match self.scenario {
            Scenario::FanOut => 1,
            _ => BURSTS_IN_FLIGHT * publishers as i64,
        };
        let window = self
            .window
            .map_or(bursts * i64::from(self.depth), i64::from);
        Load {
            roles,
            depth: self.depth,
            body_bytes: self.body_bytes,
            stop,
            rate: self.rate,
            threads: self.threads,
            window: window * i64::from(audience),
            audience,
            bindings: match u32::try_from(subscribers) {
                Ok(subscribers) if subscribers > 0 => self.bindings.div_ceil(subscribers),
                _ => 0,
            },
            promise: self.promise.unwrap_or_default(),
            queues,
            queue_prefix: fresh_prefix(),
        }
    }

    fn stop(&self) -> Stop {
        match self.count {
            Some(count) => Stop::Count(count),
            None => Stop::After {
                warm_up: self.warm_up,
                measure: self.duration,
            },
        }
    }
}

impl Scenario {
    /// Whether it runs for a time that is given, and not until something is done.
    pub(crate) fn has_length(self) -> bool {
        !matches!(self, Scenario::Backlog | Scenario::Idle | Scenario::Offline)
    }

    fn name(self) -> &'static str {
        match self {
            Scenario::Put => "put",
            Scenario::Cycle => "cycle",
            Scenario::Split => "split",
            Scenario::Backlog => "backlog",
            Scenario::Idle => "idle",
            Scenario::Publish => "publish",
            Scenario::OneToOne => "one-to-one",
            Scenario::FanIn => "fan-in",
            Scenario::FanOut => "fan-out",
            Scenario::Shared => "shared",
            Scenario::WorkQueue => "work queue",
            Scenario::Topic => "topic",
            Scenario::RequestReply => "request-reply",
            Scenario::Offline => "offline",
        }
    }
}

fn plural(count: u32, name: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {name}{ending}")
}

/// A name that no earlier run used on a server that outlives this process.
fn fresh_prefix() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let started = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_millis());
    format!(
        "bench-{started:x}-{}-{}",
        std::process::id(),
        RUNS.fetch_add(1, Ordering::Relaxed)
    )
}

/// Lets this process, and the servers it starts, hold `connections` connections.
pub(crate) fn allow_connections(connections: u64) -> Result<(), BenchError> {
    let limits = getrlimit(Resource::Nofile);
    let wanted = connections + FILES_RESERVED;
    if let Some(limit) = limits.maximum.filter(|&limit| limit < wanted) {
        return Err(BenchError::TooManyConnections {
            wanted: connections,
            limit,
        });
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limits.maximum,
            maximum: limits.maximum,
        },
    )
    .map_err(|errno| BenchError::Io {
        doing: "raising the limit of open files",
        source: errno.into(),
    })
}

/// The address of `host:port`.
pub(crate) fn resolve(target: &str) -> Result<SocketAddr, BenchError> {
    let failed = |source| BenchError::Resolve {
        target: target.to_owned(),
        source,
    };
    let mut addresses = std::net::ToSocketAddrs::to_socket_addrs(target).map_err(failed)?;
    let nothing = || {
        failed(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "the name has no address",
        ))
    };
    addresses.next().ok_or_else(nothing)
}
