//! One live line on standard error, when that is a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

/// Shows which run is on and how fast it goes.
#[derive(Debug)]
pub(crate) struct Progress {
    enabled: bool,
    label: String,
    last: (u64, u64),
}

impl Progress {
    /// Time between two updates.
    pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

    /// On, if somebody watches.
    pub(crate) fn new() -> Self {
        Progress {
            enabled: stderr().is_terminal(),
            label: String::new(),
            last: (0, 0),
        }
    }

    /// A new run begins.
    pub(crate) fn begin(&mut self, label: String) {
        self.label = label;
        self.last = (0, 0);
    }

    /// `commands` were answered `now_ns` after the start of a run that stops at `stop_at_ns`.
    pub(crate) fn tick(&mut self, commands: u64, now_ns: u64, stop_at_ns: u64) {
        let (last_commands, last_ns) = self.last;
        let interval = now_ns.saturating_sub(last_ns);
        if !self.enabled || Duration::from_nanos(interval) < Self::INTERVAL {
            return;
        }
        self.last = (commands, now_ns);
        let rate = commands.saturating_sub(last_commands) as f64 * 1e6 / interval as f64;
        let left = if stop_at_ns == u64::MAX {
            format!("{commands} commands")
        } else {
            format!(
                "{:.1} s left",
                stop_at_ns.saturating_sub(now_ns) as f64 / 1e9
            )
        };
        // A terminal that went away is no reason to stop measuring.
        let _written = write!(stderr(), "\r\x1b[K{}: {rate:.1} k/s, {left}", self.label);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.enabled {
            let _written = write!(stderr(), "\r\x1b[K");
        }
    }
}
