//! What a generator thread is told about time, and what it brings back.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::latency::Latencies;
use crate::probe::own_waiting;

/// The edges of a load in nanoseconds from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// From here on latencies are recorded.
    pub(crate) measure_from_ns: u64,
    /// From here on nothing new is begun. `u64::MAX` when connections end by themselves.
    pub(crate) stop_at_ns: u64,
    /// Time between two bursts of a paced connection.
    pub(crate) pace_ns: Option<f64>,
    /// How long no command may succeed while some wait.
    pub(crate) stall_after: Duration,
    /// After so long without a message those in flight count as lost; none when none may be.
    pub(crate) loss_after: Option<Duration>,
}

/// What a thread brings back.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) latencies: Latencies,
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    /// When its last reply came.
    pub(crate) ended_ns: u64,
    /// Processor time it used between `measure_from` and `stop_at` (or its end).
    pub(crate) cpu: Duration,
    /// Time within that in which it could run, but others had the processors.
    pub(crate) waiting: Duration,
    /// The time between these two.
    pub(crate) elapsed: Duration,
    /// Bursts of an open loop begun more than a millisecond late although their connection was free.
    pub(crate) late_bursts: u64,
}

/// What the thread has used up to a moment.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) at_ns: u64,
    pub(super) cpu: Duration,
    pub(super) waiting: Duration,
}

impl Mark {
    pub(super) fn now(at_ns: u64) -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Mark {
            at_ns,
            cpu: Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)),
            waiting: own_waiting(),
        }
    }
}
