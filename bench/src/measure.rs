//! Runs one load against one server: threads, the measured window, the server's use within it, the merged result.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::driver::{Driver, Schedule, Share, Tally};
use crate::error::BenchError;
use crate::latency::Latencies;
use crate::load::{Counts, Flow, Load, Seat, Stop};
use crate::network::{Memory, Network, Sockets};
use crate::pin::pin_thread;
use crate::probe::{Probe, Usage};
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::report::{GeneratorUse, Measured, OperationLatency, ServerUse};

/// How long no command may succeed while some wait: longer than any sync of a sane disk.
const STALL_AFTER: Duration = Duration::from_secs(15);

/// How long no message may arrive before those in flight count as lost, where they may be.
const LOSS_AFTER: Duration = Duration::from_secs(1);

/// Where a load goes that no server takes.
const ALONE: &str =
    "the generator alone keeps no connections, no sessions and no messages: name another scenario";

/// A server under load, or the generator by itself.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where it listens; None for the generator alone, which answers itself without a socket.
    pub(crate) address: Option<SocketAddr>,
    /// Where its use can be read, if it is on this machine.
    pub(crate) probe: Option<Probe>,
}

impl Target {
    /// Where it listens.
    pub(crate) fn socket(&self) -> Result<SocketAddr, BenchError> {
        self.address
            .ok_or_else(|| BenchError::Usage(ALONE.to_owned()))
    }
}

/// What generator threads tell the coordinator.
enum Event {
    Ready,
    Finished,
}

/// Runs `load` on `target` and waits for its end.
pub(crate) fn run<P: Protocol>(
    protocol: &P,
    target: &Target,
    load: &Load,
    generator_cpus: Option<&[usize]>,
    progress: &mut Progress,
) -> Result<Measured, BenchError> {
    let flow = Flow::new(load.window, load.publishers());
    if let Stop::Delivered(messages) = load.stop {
        flow.expect(messages);
    }
    let schedule = schedule(load);
    let counts = load.counts();
    let shares = shares(load);
    let counters: Vec<AtomicU64> = shares.iter().map(|_| AtomicU64::new(0)).collect();
    let (events, inbox) = mpsc::channel();
    thread::scope(|scope| {
        let mut starts = Vec::new();
        let mut threads = Vec::new();
        for (seats, commands) in shares.iter().zip(&counters) {
            let (start, started) = mpsc::channel();
            starts.push(start);
            let (events, flow) = (events.clone(), &flow);
            threads.push(scope.spawn(move || {
                let result = work(
                    protocol,
                    target,
                    load.body_bytes,
                    Share {
                        seats,
                        flow,
                        schedule,
                        counts,
                        commands,
                    },
                    generator_cpus,
                    &events,
                    &started,
                );
                if result.is_err() {
                    flow.abort();
                }
                let _coordinator_gone = events.send(Event::Finished);
                result
            }));
        }
        drop(events);
        let watch = Watch {
            target,
            schedule,
            counters: &counters,
            inbox: &inbox,
        };
        let window = watch
            .until_ready(threads.len())
            .then(|| -> Result<Window, BenchError> {
                let origin = Instant::now();
                // Before the first command, or a quick load would be over before it is looked at.
                let before = watch.sample(origin)?;
                for start in &starts {
                    let _thread_failed = start.send(origin);
                }
                watch.until_finished(origin, before, progress)
            });
        drop(starts);
        let tallies = join(threads)?;
        match window {
            Some(window) => Ok(merge(protocol, load, &tallies, window?, flow.lost())),
            None => Err(BenchError::Usage(
                "a generator thread ended before the load began".to_owned(),
            )),
        }
    })
}

/// One generator thread. None when another thread failed before the start.
fn work<P: Protocol>(
    protocol: &P,
    target: &Target,
    body_bytes: usize,
    share: Share<'_>,
    cpus: Option<&[usize]>,
    events: &Sender<Event>,
    started: &Receiver<Instant>,
) -> Result<Option<Tally>, BenchError> {
    if let Some(cpus) = cpus {
        pin_thread(cpus)?;
    }
    match target.address {
        Some(address) => drive(protocol, Sockets::new(address)?, share, events, started),
        None => {
            let memory = Memory::new(protocol.sink(body_bytes));
            drive(protocol, memory, share, events, started)
        }
    }
}

fn drive<P: Protocol>(
    protocol: &P,
    network: impl Network,
    share: Share<'_>,
    events: &Sender<Event>,
    started: &Receiver<Instant>,
) -> Result<Option<Tally>, BenchError> {
    let driver = Driver::open(protocol, network, share)?;
    let _coordinator_gone = events.send(Event::Ready);
    match started.recv() {
        Ok(origin) => driver.run(origin).map(Some),
        Err(mpsc::RecvError) => Ok(None),
    }
}

fn schedule(load: &Load) -> Schedule {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (measure_from_ns, stop_at_ns) = match load.stop {
        Stop::After { warm_up, measure } => (ns(warm_up), ns(warm_up.saturating_add(measure))),
        Stop::Count(_) | Stop::Finished | Stop::Delivered(_) => (0, u64::MAX),
    };
    Schedule {
        measure_from_ns,
        stop_at_ns,
        pace_ns: load.pace_ns(),
        stall_after: STALL_AFTER,
        loss_after: load.may_lose().then_some(LOSS_AFTER),
    }
}

/// Deals the seats out to the threads in turn.
fn shares(load: &Load) -> Vec<Vec<Seat>> {
    let threads = load.threads.clamp(1, load.roles.len().max(1));
    let mut shares = vec![Vec::new(); threads];
    for (place, seat) in load.seats().into_iter().enumerate() {
        if let Some(share) = shares.get_mut(place % threads) {
            share.push(seat);
        }
    }
    shares
}

fn join(
    threads: Vec<ScopedJoinHandle<'_, Result<Option<Tally>, BenchError>>>,
) -> Result<Vec<Tally>, BenchError> {
    let mut tallies = Vec::new();
    let mut failure = None;
    for thread in threads {
        match thread.join() {
            Ok(Ok(tally)) => tallies.extend(tally),
            Ok(Err(error)) => failure = failure.or(Some(error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    failure.map_or(Ok(tallies), Err)
}

/// A moment of the load as the coordinator sees it.
#[derive(Clone, Copy)]
struct Sample {
    at_ns: u64,
    commands: u64,
    usage: Option<Usage>,
}

/// The measured part of a load.
#[derive(Clone, Copy)]
struct Window {
    from: Sample,
    to: Sample,
}

struct Watch<'a> {
    target: &'a Target,
    schedule: Schedule,
    counters: &'a [AtomicU64],
    inbox: &'a Receiver<Event>,
}

impl Watch<'_> {
    /// Whether all threads got as far as being ready.
    fn until_ready(&self, threads: usize) -> bool {
        (0..threads).all(|_| matches!(self.inbox.recv(), Ok(Event::Ready)))
    }

    fn until_finished(
        &self,
        origin: Instant,
        before: Sample,
        progress: &mut Progress,
    ) -> Result<Window, BenchError> {
        let mut from = (self.schedule.measure_from_ns == 0).then_some(before);
        let mut to = None;
        loop {
            let now_ns = elapsed_ns(origin);
            let mark_ns = match (&from, &to) {
                (None, _) => self.schedule.measure_from_ns,
                (_, None) => self.schedule.stop_at_ns,
                _ => u64::MAX,
            };
            let wait = Duration::from_nanos(mark_ns.saturating_sub(now_ns)).min(Progress::INTERVAL);
            let finished = matches!(
                self.inbox.recv_timeout(wait),
                Err(RecvTimeoutError::Disconnected)
            );
            if elapsed_ns(origin) >= mark_ns || finished {
                let sample = self.sample(origin)?;
                if from.is_none() {
                    from = Some(sample);
                } else if to.is_none() {
                    to = Some(sample);
                }
            }
            if finished {
                let end = self.sample(origin)?;
                return Ok(Window {
                    from: from.unwrap_or(end),
                    to: to.unwrap_or(end),
                });
            }
            progress.tick(
                self.commands(),
                elapsed_ns(origin),
                self.schedule.stop_at_ns,
            );
        }
    }

    fn commands(&self) -> u64 {
        self.counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }

    fn sample(&self, origin: Instant) -> Result<Sample, BenchError> {
        let usage = self.target.probe.as_ref().map(Probe::read).transpose()?;
        Ok(Sample {
            at_ns: elapsed_ns(origin),
            commands: self.commands(),
            usage,
        })
    }
}

fn elapsed_ns(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn merge<P: Protocol>(
    protocol: &P,
    load: &Load,
    tallies: &[Tally],
    window: Window,
    lost: u64,
) -> Measured {
    let mut latencies = Latencies::new(protocol.commands().len());
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    let (mut cpu, mut waiting, mut elapsed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut ended_ns, mut late_bursts) = (0, 0);
    for tally in tallies {
        latencies.merge(&tally.latencies);
        for (name, count) in &tally.refusals {
            *refusals.entry((*name).to_owned()).or_insert(0) += count;
        }
        cpu += tally.cpu;
        waiting += tally.waiting;
        elapsed += tally.elapsed;
        ended_ns = ended_ns.max(tally.ended_ns);
        late_bursts += tally.late_bursts;
    }
    let Window { from, to } = window;
    let commands = to.commands.saturating_sub(from.commands);
    // A load that ends by itself ends with its last reply, not when the coordinator noticed.
    let seconds = to
        .at_ns
        .min(ended_ns.max(from.at_ns + 1))
        .saturating_sub(from.at_ns)
        .max(1) as f64
        / 1e9;
    let per_command_us = |time: Duration| time.as_secs_f64() * 1e6 / commands.max(1) as f64;
    let server = from.usage.zip(to.usage).map(|(from, to)| ServerUse {
        user_us_per_command: per_command_us(to.user.saturating_sub(from.user)),
        system_us_per_command: per_command_us(to.system.saturating_sub(from.system)),
        resident_bytes: to.memory.map(|memory| memory.resident),
        peak_bytes: to.memory.map(|memory| memory.peak),
        waiting: to.waiting.saturating_sub(from.waiting).as_secs_f64() / seconds,
    });
    let share = |time: Duration| time.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    Measured {
        seconds,
        commands,
        commands_per_second: commands as f64 / seconds,
        latency: match load.counts() {
            Counts::Commands => latencies.all(),
            Counts::Deliveries => latencies.messages(),
        },
        operations: protocol
            .commands()
            .iter()
            .zip(latencies.each())
            .filter_map(|(&name, latency)| {
                Some(OperationLatency {
                    name: name.to_owned(),
                    latency: latency?,
                })
            })
            .collect(),
        burst: latencies.bursts(),
        message: latencies.messages(),
        refusals,
        lost,
        server,
        generator: GeneratorUse {
            busy: share(cpu),
            waiting: share(waiting),
            // An open loop polls for due times, so that being occupied means nothing there; see `late_bursts`.
            is_limit: load.rate.is_none() && share(cpu + waiting) > GeneratorUse::OCCUPIED_MAX,
            cpu_us_per_command: per_command_us(cpu),
            late_bursts,
        },
    }
}

#[cfg(test)]
mod tests;
