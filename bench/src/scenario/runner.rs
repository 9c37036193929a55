//! Runs a scenario on one server: its loads in their order, what has to be set up before and cleaned up after them, and
//! looks at the server's memory.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::{Scenario, Settings};
use crate::error::BenchError;
use crate::load::{Interest, Load, Role, Seat, Stop};
use crate::measure::{self, Target};
use crate::network::connect;
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::report::{Footprint, Measured};

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
        let (roles, queues) = settings.roles();
        let load = settings.load(roles, queues, settings.stop());
        match settings.scenario {
            Scenario::Backlog => return self.backlog(target, settings),
            Scenario::Idle => return self.idle(target, settings),
            Scenario::Offline => return self.offline(target, settings),
            _ => {}
        }
        let measured = self.measure(target, &load)?;
        if settings.scenario == Scenario::Put {
            self.drain(target, &load)?;
        }
        if load.promise.persistent {
            self.forget(target, &load)?;
        }
        Ok(Outcome {
            loads: vec![(settings.label(), measured)],
            footprint: None,
        })
    }

    fn backlog(&mut self, target: &Target, settings: &Settings) -> Result<Outcome, BenchError> {
        let before = resident(target)?;
        let (roles, queues) = settings.roles();
        let load = settings.load(roles, queues, Stop::Count(settings.jobs));
        let filled = self.measure(target, &load)?;
        thread::sleep(SETTLE);
        let loaded = resident(target)?;
        let label = settings.label();
        let mut loads = vec![(format!("{label}: fill"), filled)];
        if !settings.keep {
            let drained = self.drain(target, &load)?;
            loads.push((format!("{label}: drain"), drained));
            thread::sleep(SETTLE);
        }
        let after = resident(target)?;
        Ok(Outcome {
            loads,
            footprint: footprint(settings.item(), settings.jobs, before, loaded, after),
        })
    }

    fn idle(&mut self, target: &Target, settings: &Settings) -> Result<Outcome, BenchError> {
        let before = resident(target)?;
        let (roles, queues) = settings.roles();
        let load = settings.load(roles, queues, Stop::Finished);
        let streams = self.open(target, &load)?;
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

    fn offline(&mut self, target: &Target, settings: &Settings) -> Result<Outcome, BenchError> {
        let sessions = settings.workers as usize;
        let subscribe = Role::Subscribe(Interest::Queue);
        let sleepers = settings.load(vec![subscribe; sessions], 1, Stop::Finished);
        for mut stream in self.open(target, &sleepers)? {
            self.protocol.leave(&mut stream)?;
        }
        thread::sleep(SETTLE);
        let before = resident(target)?;
        let fill = Load {
            roles: vec![Role::Put; settings.producers as usize],
            stop: Stop::Count(settings.jobs),
            ..sleepers.clone()
        };
        let filled = self.measure(target, &fill)?;
        thread::sleep(SETTLE);
        let loaded = resident(target)?;
        let queued = settings.jobs * u64::from(settings.workers);
        let resume = Load {
            roles: vec![Role::Resume; sessions],
            stop: Stop::Delivered(queued),
            rate: None,
            ..sleepers.clone()
        };
        let resumed = self.measure(target, &resume)?;
        thread::sleep(SETTLE);
        let after = resident(target)?;
        self.forget(target, &sleepers)?;
        let label = settings.label();
        Ok(Outcome {
            loads: vec![
                (format!("{label}: fill"), filled),
                (format!("{label}: resume"), resumed),
            ],
            footprint: footprint("queued message", queued, before, loaded, after),
        })
    }

    /// Opens the load's connections without driving them.
    fn open(&self, target: &Target, load: &Load) -> Result<Vec<TcpStream>, BenchError> {
        let address = target.socket()?;
        let open = |seat: &Seat| {
            let mut stream = connect(address, seat.connection)?;
            self.protocol.open(seat, &mut stream)?;
            Ok(stream)
        };
        load.seats().iter().map(open).collect()
    }

    /// Discards what the load's subscribers left in the server.
    fn forget(&self, target: &Target, load: &Load) -> Result<(), BenchError> {
        let address = target.socket()?;
        for mut seat in load.seats() {
            if seat.role.is_publisher() {
                continue;
            }
            seat.role = Role::Forget;
            let mut stream = connect(address, seat.connection)?;
            self.protocol.open(&seat, &mut stream)?;
            self.protocol.leave(&mut stream)?;
        }
        Ok(())
    }

    /// Empties the queues that `filled` filled.
    fn drain(&mut self, target: &Target, filled: &Load) -> Result<Measured, BenchError> {
        let role = self.protocol.drain();
        let load = Load {
            roles: vec![role; DRAIN_CONNECTIONS.max(filled.queues) as usize],
            depth: DRAIN_DEPTH,
            stop: match filled.stop {
                Stop::Count(jobs) if role == Role::Resume => Stop::Delivered(jobs),
                _ => Stop::Finished,
            },
            rate: None,
            ..filled.clone()
        };
        let drained = self.measure(target, &load)?;
        if role == Role::Resume {
            self.forget(target, &load)?;
        }
        Ok(drained)
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

#[cfg(test)]
mod tests;
