//! Scenarios: what a user asks for, as loads, and the memory that goes with some of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::driver::connect;
use crate::error::BenchError;
use crate::load::{Load, Role, Seat, Stop};
use crate::measure::{self, Target};
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::report::{Footprint, Measured};

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
    /// Open connections that wait for a job, look at memory.
    Idle,
}

/// One scenario with its numbers.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) connections: u32,
    pub(crate) producers: u32,
    pub(crate) workers: u32,
    pub(crate) depth: u32,
    pub(crate) body_bytes: usize,
    pub(crate) jobs: u64,
    pub(crate) count: Option<u64>,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) rate: Option<f64>,
    pub(crate) threads: usize,
    pub(crate) queues: u32,
    pub(crate) window: u32,
}

/// What one round of a scenario found.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Label and result of each measured load.
    pub(crate) loads: Vec<(String, Measured)>,
    pub(crate) footprint: Option<Footprint>,
}

/// How a drain is done: fast, and the same for everybody.
const DRAIN_CONNECTIONS: u32 = 4;
const DRAIN_DEPTH: u32 = 64;
/// How long a server may settle before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);
/// Open files that are not connections of the load.
const FILES_RESERVED: u64 = 64;

impl Settings {
    /// The label in tables.
    pub(crate) fn label(&self) -> String {
        let bytes = self.body_bytes;
        let plural = if self.connections == 1 { "" } else { "s" };
        let depth = if self.depth > 1 {
            format!(", {} deep", self.depth)
        } else {
            String::new()
        };
        let rate = self
            .rate
            .map_or_else(String::new, |rate| format!(", {rate}/s"));
        match self.scenario {
            Scenario::Put => format!(
                "put, {} connection{plural}{depth}, {bytes} B{rate}",
                self.connections
            ),
            Scenario::Cycle => format!(
                "cycle, {} connection{plural}{depth}, {bytes} B{rate}",
                self.connections
            ),
            Scenario::Split => {
                format!(
                    "split, {} producers{depth}, {} workers, {bytes} B{rate}",
                    self.producers, self.workers
                )
            }
            Scenario::Backlog => format!("backlog, {} jobs, {bytes} B", self.jobs),
            Scenario::Idle => format!("idle, {} connection{plural}", self.connections),
        }
    }

    fn load(&self, roles: Vec<Role>, stop: Stop) -> Load {
        Load {
            roles,
            depth: self.depth,
            body_bytes: self.body_bytes,
            stop,
            rate: self.rate,
            threads: self.threads,
            window: i64::from(self.window),
            queues: self.queues,
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

/// Runs scenarios with one protocol.
pub(crate) struct Runner<'a, P> {
    pub(crate) protocol: &'a P,
    pub(crate) generator_cpus: Option<&'a [usize]>,
    pub(crate) progress: Progress,
}

impl<P: Protocol> Runner<'_, P> {
    /// One round on one server.
    pub(crate) fn run(
        &mut self,
        target: &Target,
        settings: &Settings,
    ) -> Result<Outcome, BenchError> {
        let connections = vec![(); settings.connections as usize];
        let all = |role| connections.iter().map(|()| role).collect::<Vec<Role>>();
        match settings.scenario {
            Scenario::Put => {
                let load = settings.load(all(Role::Put), settings.stop());
                let measured = self.measure(target, &load)?;
                self.drain(target, &load)?;
                Ok(Outcome {
                    loads: vec![(settings.label(), measured)],
                    footprint: None,
                })
            }
            Scenario::Cycle => {
                let measured =
                    self.measure(target, &settings.load(all(Role::Cycle), settings.stop()))?;
                Ok(Outcome {
                    loads: vec![(settings.label(), measured)],
                    footprint: None,
                })
            }
            Scenario::Split => {
                let mut roles = vec![Role::Produce; settings.producers as usize];
                roles.resize(roles.len() + settings.workers as usize, Role::Work);
                let measured = self.measure(target, &settings.load(roles, settings.stop()))?;
                Ok(Outcome {
                    loads: vec![(settings.label(), measured)],
                    footprint: None,
                })
            }
            Scenario::Backlog => self.backlog(target, settings, all(Role::Put)),
            Scenario::Idle => self.idle(target, settings),
        }
    }

    fn backlog(
        &mut self,
        target: &Target,
        settings: &Settings,
        roles: Vec<Role>,
    ) -> Result<Outcome, BenchError> {
        let before = resident(target)?;
        let load = settings.load(roles, Stop::Count(settings.jobs));
        let filled = self.measure(target, &load)?;
        thread::sleep(SETTLE);
        let loaded = resident(target)?;
        let drained = self.drain(target, &load)?;
        thread::sleep(SETTLE);
        let after = resident(target)?;
        let label = settings.label();
        Ok(Outcome {
            loads: vec![
                (format!("{label}: fill"), filled),
                (format!("{label}: drain"), drained),
            ],
            footprint: footprint("job", settings.jobs, before, loaded, after),
        })
    }

    fn idle(&mut self, target: &Target, settings: &Settings) -> Result<Outcome, BenchError> {
        let before = resident(target)?;
        let load = settings.load(
            vec![Role::Idle; settings.connections as usize],
            Stop::Finished,
        );
        let open = |seat: &Seat| {
            let mut stream = connect(target.address, seat.connection)?;
            self.protocol.open(seat, &mut stream)?;
            Ok(stream)
        };
        let streams = load
            .seats()
            .iter()
            .map(open)
            .collect::<Result<Vec<_>, BenchError>>()?;
        thread::sleep(SETTLE);
        let loaded = resident(target)?;
        drop(streams);
        thread::sleep(SETTLE);
        let after = resident(target)?;
        let count = u64::from(settings.connections);
        Ok(Outcome {
            loads: Vec::new(),
            footprint: footprint("connection", count, before, loaded, after),
        })
    }

    /// Empties the queues that `filled` filled.
    fn drain(&mut self, target: &Target, filled: &Load) -> Result<Measured, BenchError> {
        let load = Load {
            roles: vec![Role::Drain; (DRAIN_CONNECTIONS.max(filled.queues)) as usize],
            depth: DRAIN_DEPTH,
            stop: Stop::Finished,
            rate: None,
            ..filled.clone()
        };
        self.measure(target, &load)
    }

    fn measure(&mut self, target: &Target, load: &Load) -> Result<Measured, BenchError> {
        measure::run(
            self.protocol,
            target,
            load,
            self.generator_cpus,
            &mut self.progress,
        )
    }
}

fn resident(target: &Target) -> Result<Option<u64>, BenchError> {
    let usage = target
        .probe
        .as_ref()
        .map(crate::probe::Probe::read)
        .transpose()?;
    Ok(usage
        .and_then(|usage| usage.memory)
        .map(|memory| memory.resident))
}

fn footprint(
    of: &'static str,
    count: u64,
    before: Option<u64>,
    loaded: Option<u64>,
    after: Option<u64>,
) -> Option<Footprint> {
    Some(Footprint {
        of,
        count,
        before_bytes: before?,
        loaded_bytes: loaded?,
        after_bytes: after?,
    })
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
