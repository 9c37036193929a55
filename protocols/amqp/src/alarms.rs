//! What is short on this machine. While something is, nobody publishes: a client that tries to is told so
//! (`connection.blocked`) and not read from until there is enough again. Consumers on other connections go on, and make
//! room.
//!
//! Looked at once a second, beside everything else: a publish only reads a flag.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::tenant::Tenant;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// What the machine has, in bytes; `None`: nobody knows, or it does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Free on the disk of the log.
    pub disk_free: Option<u64>,
    /// Memory of this process.
    pub resident: Option<u64>,
    /// Memory of the machine.
    pub memory: Option<u64>,
}

impl Machine {
    /// Looks; `data` is the directory of the log.
    #[must_use]
    pub fn look(data: Option<&Path>) -> Self {
        let kib = |file: &str, name: &str| -> Option<u64> {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let number: u64 = line.split_whitespace().next()?.parse().ok()?;
            number.checked_mul(1024)
        };
        let free = |dir: &Path| {
            let found = rustix::fs::statvfs(dir).ok()?;
            Some(found.f_bavail.saturating_mul(found.f_frsize))
        };
        Machine {
            disk_free: data.and_then(free),
            resident: kib("/proc/self/status", "VmRSS:"),
            memory: kib("/proc/meminfo", "MemTotal:"),
        }
    }
}

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Short {
    /// Disk: less is free than there has to be.
    pub disk: bool,
    /// Memory: this process has more of it than it may.
    pub memory: bool,
}

impl Short {
    /// What is short on such a machine.
    #[must_use]
    pub fn of(machine: &Machine, config: &Config) -> Self {
        let most = memory_limit(machine, config);
        Short {
            disk: (machine.disk_free).is_some_and(|free| free < config.disk_free_bytes_min),
            memory: (machine.resident.zip(most)).is_some_and(|(has, most)| has > most),
        }
    }

    /// Whether anything is.
    #[must_use]
    pub const fn any(self) -> bool {
        self.disk || self.memory
    }

    /// As clients are told.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match (self.memory, self.disk) {
            (true, true) => "low on memory & disk",
            (true, false) => "low on memory",
            _ => "low on disk",
        }
    }
}

/// The memory that this process may have, in bytes.
#[must_use]
pub fn memory_limit(machine: &Machine, config: &Config) -> Option<u64> {
    let percent = u64::from(config.memory_percent_max);
    let all = machine.memory.filter(|_| percent > 0)?;
    Some(all / 100 * percent)
}

/// What is known to be short.
#[derive(Debug, Default)]
pub struct Alarms {
    raised: AtomicBool,
    short: Mutex<Short>,
}

impl Alarms {
    /// Whether nobody may publish.
    #[must_use]
    pub fn are_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// What is short.
    #[must_use]
    pub fn short(&self) -> Short {
        *self.short.lock()
    }

    /// This is short now. `true`: nothing is any more, and something was.
    pub(crate) fn note(&self, short: Short) -> bool {
        let before = std::mem::replace(&mut *self.short.lock(), short);
        self.raised.store(short.any(), Ordering::Relaxed);
        if short != before {
            match short.any() {
                true => tracing::warn!(why = short.reason(), "publishers are blocked"),
                false => tracing::warn!("publishers are not blocked any more"),
            }
        }
        before.any() && !short.any()
    }
}

/// Looks at the machine as long as the service is there.
pub(crate) fn watch(tenant: &Arc<Tenant>, runtime: &Handle) {
    let tenant: Weak<Tenant> = Arc::downgrade(tenant);
    runtime.spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let weak = Weak::clone(&tenant);
            // The system's answers may take their time.
            let looked = tokio::task::spawn_blocking(move || weak.upgrade().map(|it| it.look()));
            if !matches!(looked.await, Ok(Some(()))) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_said() {
        let config = Config {
            disk_free_bytes_min: 100,
            memory_percent_max: 50,
            ..Config::default()
        };
        let short = |disk_free, resident| {
            let machine = Machine {
                disk_free: Some(disk_free),
                resident: Some(resident),
                memory: Some(1_000),
            };
            Short::of(&machine, &config)
        };
        assert!(!short(100, 500).any());
        assert_eq!(short(99, 500).reason(), "low on disk");
        assert_eq!(short(100, 501).reason(), "low on memory");
        assert_eq!(short(0, 1_000).reason(), "low on memory & disk");
        assert!(!Short::of(&Machine::default(), &config).any());
        let off = Config {
            disk_free_bytes_min: 0,
            memory_percent_max: 0,
            ..Config::default()
        };
        let machine = Machine {
            disk_free: Some(0),
            resident: Some(u64::MAX),
            memory: Some(1),
        };
        assert!(!Short::of(&machine, &off).any());
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::look(Some(Path::new("/")));
        assert!(machine.disk_free.is_some() && machine.resident.is_some_and(|bytes| bytes > 0));
        assert!(machine.memory >= machine.resident);
    }

    #[test]
    fn the_end_of_all_alarms_is_told_once() {
        let alarms = Alarms::default();
        let disk = Short {
            disk: true,
            memory: false,
        };
        assert!(!alarms.note(Short::default()));
        assert!(!alarms.note(disk) && alarms.are_raised());
        assert!(!alarms.note(Short {
            memory: true,
            ..disk
        }));
        assert!(alarms.note(Short::default()) && !alarms.are_raised());
        assert!(!alarms.note(Short::default()));
    }
}
