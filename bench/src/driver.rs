//! One generator thread: its share of the connections on one [`Network`].
//!
//! Level-triggered and frugal: one read a readable connection, one write a burst, and a look for room only after a short
//! write. All connections share one read buffer; what is left of an incomplete reply is kept with its connection. In an open loop
//! a burst counts as sent when it was due, however late its connection became free, so that a stalled server is charged
//! for the commands it held up (no coordinated omission).

mod connection;
mod tally;

pub(crate) use tally::{Schedule, Tally};

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use connection::Connection;
use tally::Mark;

use crate::error::BenchError;
use crate::latency::Latencies;
use crate::load::{Counts, Flow, Seat};
use crate::network::Network;
use crate::protocol::{Next, Protocol, Replies, Session};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest sleep, so that the end of the load and an abort are noticed.
const TICK: Duration = Duration::from_millis(50);
/// How often producers in front of a full window look again when only other threads settle.
const PARKED_TICK: Duration = Duration::from_micros(500);
/// A due burst this near is awaited by polling: epoll would wake some 50 µs late.
const SPIN_NS: u64 = 100_000;

/// One thread's part of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    pub(crate) seats: &'a [Seat],
    /// What all threads of the load have in common.
    pub(crate) flow: &'a Flow,
    pub(crate) schedule: Schedule,
    pub(crate) counts: Counts,
    /// Where the thread publishes what it `counts`.
    pub(crate) commands: &'a AtomicU64,
}

/// A thread with its connections open and ready to start.
pub(crate) struct Driver<'a, S, N: Network> {
    connections: Vec<Connection<S, N::Stream>>,
    network: N,
    flow: &'a Flow,
    schedule: Schedule,
    counts: Counts,
    names: &'static [&'static str],
    commands: &'a AtomicU64,
    started: Instant,
    now_ns: u64,
    answered: u64,
    replied_ns: u64,
    /// When a command last succeeded or fell due.
    progress_ns: u64,
    unfinished: usize,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    parked: VecDeque<usize>,
    /// Free connections that are to be asked again: their last burst had no answer to wait for.
    free: Vec<usize>,
    latencies: Latencies,
    replies: Replies,
    late_bursts: u64,
}

impl<'a, S: Session, N: Network> Driver<'a, S, N> {
    /// Connects and shakes hands, one connection after the other.
    pub(crate) fn open<P: Protocol<Session = S>>(
        protocol: &P,
        mut network: N,
        share: Share<'a>,
    ) -> Result<Self, BenchError> {
        let Share {
            seats,
            flow,
            schedule,
            counts,
            commands,
        } = share;
        let mut connections = Vec::with_capacity(seats.len());
        for (token, seat) in seats.iter().enumerate() {
            connections.push(Connection::open(protocol, &mut network, seat, token)?);
        }
        Ok(Driver {
            unfinished: connections.len(),
            connections,
            network,
            flow,
            schedule,
            counts,
            names: protocol.commands(),
            commands,
            started: Instant::now(),
            now_ns: 0,
            answered: 0,
            replied_ns: 0,
            progress_ns: 0,
            due: BinaryHeap::new(),
            parked: VecDeque::new(),
            free: Vec::new(),
            latencies: Latencies::new(protocol.commands().len()),
            replies: Replies::default(),
            late_bursts: 0,
        })
    }

    /// Drives the load to its end; time counts from `started`.
    pub(crate) fn run(mut self, started: Instant) -> Result<Tally, BenchError> {
        self.started = started;
        self.tick();
        self.stagger();
        for token in 0..self.connections.len() {
            self.proceed(token, false)?;
        }
        let mut buffer = vec![0; READ_BYTES];
        let mut ready = Vec::new();
        let mut first_mark = None;
        let mut last_mark = None;
        while self.unfinished > 0 && !self.flow.is_aborted() {
            let (at_most, alarm) = self.sleep();
            self.network.wait(at_most, alarm, &mut ready)?;
            self.tick();
            for connection in &ready {
                if connection.room {
                    self.flush(connection.token)?;
                }
                if connection.input {
                    self.receive(connection.token, &mut buffer)?;
                }
            }
            self.start_due()?;
            self.unpark()?;
            self.ask_free()?;
            self.commands.store(self.answered, Ordering::Relaxed);
            if first_mark.is_none() && self.now_ns >= self.schedule.measure_from_ns {
                first_mark = Some(Mark::now(self.now_ns));
            }
            if last_mark.is_none() && self.now_ns >= self.schedule.stop_at_ns {
                last_mark = Some(Mark::now(self.now_ns));
            }
            if ready.is_empty() && self.is_over() {
                break;
            }
            self.check_progress()?;
        }
        self.tick();
        let from = first_mark.unwrap_or_else(|| Mark::now(self.now_ns));
        let to = last_mark.unwrap_or_else(|| Mark::now(self.now_ns));
        Ok(Tally {
            latencies: self.latencies,
            refusals: self.replies.refusals,
            ended_ns: self.replied_ns,
            cpu: to.cpu.saturating_sub(from.cpu),
            waiting: to.waiting.saturating_sub(from.waiting),
            elapsed: Duration::from_nanos(to.at_ns.saturating_sub(from.at_ns)),
            late_bursts: self.late_bursts,
        })
    }

    /// Spreads the first bursts of an open loop over one interval.
    fn stagger(&mut self) {
        let Some(pace_ns) = self.schedule.pace_ns else {
            return;
        };
        let paced = self
            .connections
            .iter()
            .filter(|connection| connection.publishes)
            .count()
            .max(1);
        let step = pace_ns / paced as f64;
        let now_ns = self.now_ns as f64;
        for (place, connection) in self
            .connections
            .iter_mut()
            .filter(|connection| connection.publishes)
            .enumerate()
        {
            connection.due_ns = now_ns + step * place as f64;
        }
    }

    fn tick(&mut self) {
        self.now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }

    /// How long the network may wait, and the alarm of a burst that is due sooner.
    fn sleep(&self) -> (Duration, Option<Duration>) {
        let mut wait = TICK;
        if !self.free.is_empty() {
            wait = Duration::ZERO;
        } else if !self.parked.is_empty() {
            wait = PARKED_TICK;
        }
        let mut alarm = None;
        if let Some(Reverse((due_ns, _))) = self.due.peek() {
            let left_ns = due_ns.saturating_sub(self.now_ns);
            let left = Duration::from_nanos(left_ns.saturating_sub(SPIN_NS));
            if left.is_zero() {
                wait = left;
            } else if left < wait {
                alarm = Some(left);
            }
        }
        (wait, alarm)
    }

    /// Whether the thread may end although connections are unfinished, asked when no connection had anything to say: only
    /// workers are left, and no message will come for them.
    fn is_over(&self) -> bool {
        self.flow.is_drained() && self.waiting() == 0
    }

    /// Commands without a reply, but for workers waiting for a message.
    fn waiting(&self) -> u64 {
        let connections = self.connections.iter();
        let waiting =
            connections.filter(|connection| !connection.done && !connection.session.is_blocked());
        waiting
            .map(|connection| u64::from(connection.awaiting))
            .sum()
    }

    /// Fails when nothing useful has happened for too long, so that no lost reply, lost message or endless refusal
    /// keeps the load from ending.
    fn check_progress(&mut self) -> Result<(), BenchError> {
        let quiet_ns = self.now_ns.saturating_sub(self.progress_ns);
        let is_lost = |after: Duration| u128::from(quiet_ns) > after.as_nanos();
        if self.schedule.loss_after.is_some_and(is_lost)
            && (!self.parked.is_empty() || self.flow.left_over() > 0)
        {
            self.flow.write_off();
            self.progress_ns = self.now_ns;
        }
        let stall_after = self.schedule.stall_after;
        let stall_ns = u64::try_from(stall_after.as_nanos()).unwrap_or(u64::MAX);
        if self.now_ns <= self.progress_ns.saturating_add(stall_ns) || !self.due.is_empty() {
            return Ok(());
        }
        let (waiting, jobs) = (self.waiting(), self.flow.left_over());
        if waiting == 0 && jobs <= 0 && self.parked.is_empty() {
            // Workers whose producers are slow, on another thread.
            return Ok(());
        }
        let refused = self.replies.refusals.values().sum();
        Err(BenchError::Stalled {
            waiting,
            refused,
            jobs,
            after: stall_after,
        })
    }

    fn start_due(&mut self) -> Result<(), BenchError> {
        while let Some(&Reverse((due_ns, token))) = self.due.peek() {
            let stopping = self.now_ns >= self.schedule.stop_at_ns;
            if due_ns > self.now_ns && !stopping {
                break;
            }
            self.due.pop();
            self.progress_ns = self.now_ns;
            if self.now_ns.saturating_sub(due_ns) > 1_000_000 && !stopping {
                self.late_bursts += 1;
            }
            self.proceed(token, true)?;
        }
        Ok(())
    }

    fn unpark(&mut self) -> Result<(), BenchError> {
        // Those that park again go to the new end of the list.
        for _ in 0..self.parked.len() {
            if let Some(token) = self.parked.pop_front() {
                self.proceed(token, true)?;
            }
        }
        Ok(())
    }

    fn ask_free(&mut self) -> Result<(), BenchError> {
        // Those that send again are in the next list, after a look at the connections.
        for token in std::mem::take(&mut self.free) {
            self.proceed(token, false)?;
        }
        Ok(())
    }

    /// Asks a free connection for its next burst and sends it, or waits for its due time. `waited` says that it came
    /// from one of the waiting lists.
    fn proceed(&mut self, token: usize, waited: bool) -> Result<(), BenchError> {
        let stopping = self.now_ns >= self.schedule.stop_at_ns;
        let Some(connection) = self.connections.get_mut(token) else {
            return Ok(());
        };
        let mut sent_ns = self.now_ns;
        let pace_ns = self.schedule.pace_ns.filter(|_| connection.publishes);
        if pace_ns.is_some() && !stopping {
            let due_ns = connection.due_ns as u64;
            if due_ns > self.now_ns && !waited {
                self.due.push(Reverse((due_ns, token)));
                return Ok(());
            }
            sent_ns = due_ns;
        }
        match connection.session.next(sent_ns, stopping, self.flow) {
            Next::Burst { command, count } => {
                connection.due_ns += pace_ns.unwrap_or(0.0);
                connection.begin(command, count, sent_ns);
                self.flush(token)
            }
            Next::Send => {
                connection.due_ns += pace_ns.unwrap_or(0.0);
                connection.begin_unanswered();
                self.flush(token)
            }
            Next::Listen => Ok(()),
            Next::Park => {
                self.parked.push_back(token);
                Ok(())
            }
            Next::Done => {
                connection.done = true;
                if connection.publishes {
                    self.flow.publisher_done();
                }
                self.unfinished -= 1;
                Ok(())
            }
        }
    }

    fn flush(&mut self, token: usize) -> Result<(), BenchError> {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.flush(&mut self.network, token)?;
            if connection.has_sent() {
                self.free.push(token);
            }
        }
        Ok(())
    }

    fn receive(&mut self, token: usize, buffer: &mut [u8]) -> Result<(), BenchError> {
        let Some(connection) = self.connections.get_mut(token) else {
            return Ok(());
        };
        if !connection.receive(buffer, &mut self.replies, self.flow)? {
            return Ok(());
        }
        // One clock reading a read: the replies of one read arrived together.
        self.tick();
        let measured = self.now_ns >= self.schedule.measure_from_ns;
        let (done, refused) = (self.replies.done, self.replies.refused);
        let received = self.replies.received;
        self.replies.done = 0;
        self.replies.refused = 0;
        self.replies.received = 0;
        let count = done + refused;
        self.answered += u64::from(match self.counts {
            // A refusal is quick and no work done: it counts neither as throughput nor as latency.
            Counts::Commands => done,
            Counts::Deliveries => received,
        });
        if received > 0 {
            self.replied_ns = self.now_ns;
            self.progress_ns = self.now_ns;
        }
        let Some(connection) = self.connections.get_mut(token) else {
            return Ok(());
        };
        let reacts = connection.reacts();
        if count > 0 {
            self.replied_ns = self.now_ns;
            let took_ns = self.now_ns.saturating_sub(connection.sent_ns);
            if done > 0 {
                self.progress_ns = self.now_ns;
            }
            if count > connection.awaiting {
                let command = self
                    .names
                    .get(connection.command)
                    .copied()
                    .unwrap_or_default();
                return Err(BenchError::SurplusReply {
                    connection: connection.number,
                    command,
                });
            }
            if measured && done > 0 {
                self.latencies.command(connection.command, took_ns, done);
            }
            connection.awaiting -= count;
            if measured && connection.awaiting == 0 {
                self.latencies.burst(took_ns);
            }
        }
        for sent_ns in self.replies.sent_ns.drain(..) {
            if measured {
                self.latencies.message(self.now_ns.saturating_sub(sent_ns));
            }
        }
        if count > 0 && connection.awaiting == 0 {
            self.proceed(token, false)?;
        }
        // Together with the next burst, if there was one.
        if reacts {
            self.flush(token)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
