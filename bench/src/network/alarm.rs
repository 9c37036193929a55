//! A timer that wakes an epoll in time. The timeout of `epoll_wait` is in whole milliseconds, rounded up: in an open loop
//! that would be the latency of every burst.

use std::time::Duration;

use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::error::BenchError;

/// The timer of one epoll; it tells of itself as [`Alarm::TOKEN`].
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    is_set: bool,
}

impl Alarm {
    /// No connection's number.
    const TOKEN: u64 = u64::MAX;

    pub(super) fn new(epoll: &OwnedFd) -> Result<Alarm, BenchError> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed)?;
        let token = epoll::EventData::new_u64(Self::TOKEN);
        epoll::add(epoll, &timer, token, epoll::EventFlags::IN).map_err(failed)?;
        Ok(Alarm {
            timer,
            is_set: false,
        })
    }

    /// Wakes the epoll after this long, and not at what was set before.
    pub(super) fn set(&mut self, after: Option<Duration>) -> Result<(), BenchError> {
        if after.is_none() && !self.is_set {
            return Ok(());
        }
        self.is_set = after.is_some();
        let spec = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(after.unwrap_or_default()),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).map_err(failed)?;
        Ok(())
    }
}

pub(super) fn timespec(wait: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    }
}

fn failed(errno: rustix::io::Errno) -> BenchError {
    BenchError::Io {
        doing: "setting a timer",
        source: errno.into(),
    }
}
