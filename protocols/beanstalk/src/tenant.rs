//! What all connections of one beanstalk service share: settings, counters, and the few facts of the process that
//! `stats` reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longtail_engine::config::{
    GroupConfig, Keep, Limits, Numbering, Order, StreamConfig, StreamName,
};
use longtail_model::{Durability, Lsn, ShardId, Timestamp};

use crate::codec::{JOB_SIZE_DEFAULT, JOB_SIZE_LIMIT, Op};

/// The tube that every connection uses and watches at first, and that is always there.
pub const DEFAULT_TUBE: &str = "default";

/// The sequence space that all tubes of a space draw their job ids from.
pub const NUMBERING: &str = "beanstalk";

/// Bytes of answers with bodies that one connection may have asked for and not got yet. Such requests are counted at
/// the size of the largest job; at least one is always let through.
pub(crate) const REPLY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Settings of one beanstalk service.
#[derive(Clone, Debug)]
pub struct Config {
    /// The space whose streams are the tubes (default `default`).
    pub space: Arc<str>,
    /// The shard that all of them live on (default 0).
    pub shard: ShardId,
    /// Largest job body in bytes (default 65,535; at most 1 GiB): more is answered with `JOB_TOO_BIG`. The listener's
    /// outbox limit has to be larger.
    pub job_size_max: u32,
    /// What a tube may hold (default: no limit): more is answered with `OUT_OF_MEMORY`.
    pub tube_limits: Limits,
    /// What an answer to a `put` promises; `None` (default): what the server's setting says.
    pub durability: Option<Durability>,
    /// Requests that one connection may have under way (default 4,096). Beyond that, nothing more is read from it until
    /// half of them are answered.
    pub outstanding_max: usize,
    /// Bytes of job bodies in these requests (default 4 MiB), with the same effect. A larger job goes through alone.
    pub outstanding_bytes_max: u64,
    /// Tubes that one connection may watch (default 1,024): one more is answered with `OUT_OF_MEMORY`.
    pub watched_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            space: "default".into(),
            shard: ShardId(0),
            job_size_max: JOB_SIZE_DEFAULT,
            tube_limits: Limits::default(),
            durability: None,
            outstanding_max: 4096,
            outstanding_bytes_max: 4 * 1024 * 1024,
            watched_max: 1024,
        }
    }
}

/// The settings contradict the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`Config::job_size_max`].
    #[error("the largest job may have at most {JOB_SIZE_LIMIT} bytes, not {0}")]
    JobSize(u32),
    /// Nothing would ever be answered.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

/// What `stats` says of the log. The names in parentheses are the protocol's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Number of the oldest segment (`binlog-oldest-index`).
    pub oldest_segment: u64,
    /// Number of the segment that is being written (`binlog-current-index`).
    pub current_segment: u64,
    /// Records copied out of old segments since the server started (`binlog-records-migrated`).
    pub records_migrated: u64,
    /// Records written since the server started (`binlog-records-written`).
    pub records_written: u64,
    /// Largest size of a segment in bytes (`binlog-max-size`).
    pub segment_bytes: u64,
}

/// Processor time that the process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In its own code, in microseconds.
    pub user_us: u64,
    /// In the system, in microseconds.
    pub system_us: u64,
}

impl CpuTime {
    /// Of this process, as the system accounts for it; zero if it does not say.
    #[must_use]
    pub fn of_process() -> Self {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike;
        let us = |micros: i64| u64::try_from(micros).unwrap_or(0);
        getrusage(UsageWho::RUSAGE_SELF).map_or_else(
            |_| CpuTime::default(),
            |usage| CpuTime {
                user_us: us(usage.user_time().num_microseconds()),
                system_us: us(usage.system_time().num_microseconds()),
            },
        )
    }
}

/// What the sessions need to know of the world around them.
pub trait Host: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Timestamp;

    /// Processor time used so far.
    fn cpu_time(&self) -> CpuTime;

    /// The state of the log of the service's shard; all zero when there is none.
    fn log(&self) -> LogFacts;

    /// The number of the segment that holds the record at `position` (`file` in `stats-job`); 0 when there is none.
    fn segment_of(&self, position: Lsn) -> u64;
}

/// What does not change while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Drawn at random when the service starts.
    pub instance: u64,
    /// Name of this machine.
    pub hostname: String,
    /// Version of its operating system.
    pub os: String,
    /// Its kind of processor.
    pub platform: String,
}

impl Identity {
    /// Of this process on this machine.
    #[must_use]
    pub fn of_process(instance: u64) -> Self {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Identity {
            pid: std::process::id(),
            instance,
            hostname: text(uname.nodename()),
            os: text(uname.version()),
            platform: text(uname.machine()),
        }
    }
}

/// What happened since the service started, and who is connected.
#[derive(Debug, Default)]
pub struct Counters {
    ops: [AtomicU64; Op::COUNT],
    /// Connections open.
    pub(crate) connections: AtomicU64,
    /// Connections opened so far.
    pub(crate) connections_total: AtomicU64,
    /// Open connections that have put a job.
    pub(crate) producers: AtomicU64,
    /// Open connections that have asked for a job.
    pub(crate) workers: AtomicU64,
}

impl Counters {
    /// How often a command was given.
    #[must_use]
    pub fn op(&self, op: Op) -> u64 {
        self.ops[op as usize].load(Ordering::Relaxed)
    }

    /// Connections open.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections opened so far.
    #[must_use]
    pub fn connections_total(&self) -> u64 {
        self.connections_total.load(Ordering::Relaxed)
    }

    /// Open connections that have put a job.
    #[must_use]
    pub fn producers(&self) -> u64 {
        self.producers.load(Ordering::Relaxed)
    }

    /// Open connections that have asked for a job.
    #[must_use]
    pub fn workers(&self) -> u64 {
        self.workers.load(Ordering::Relaxed)
    }
}

/// Commands counted by one session since it last told, so that a counter shared by all processors is touched once a
/// batch and not once a command.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [u32; Op::COUNT],
    /// A bit for each that is not 0.
    touched: u32,
}

const _: () = assert!(
    Op::COUNT <= u32::BITS as usize,
    "one bit of `touched` a command"
);

impl Tally {
    pub(crate) fn count(&mut self, op: Op) {
        self.counts[op as usize] += 1;
        self.touched |= 1 << op as u32;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.touched == 0
    }

    /// Adds everything to the counters and starts again.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        while self.touched != 0 {
            let op = self.touched.trailing_zeros() as usize;
            counters.ops[op].fetch_add(
                u64::from(std::mem::take(&mut self.counts[op])),
                Ordering::Relaxed,
            );
            self.touched &= self.touched - 1;
        }
    }
}

/// The shared part of a service.
pub struct Tenant {
    pub(crate) config: Config,
    pub(crate) counters: Counters,
    pub(crate) identity: Identity,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) started: Timestamp,
    draining: AtomicBool,
    tube: StreamConfig,
}

impl Tenant {
    /// A service that starts now.
    ///
    /// # Errors
    /// When the settings contradict the protocol.
    pub fn new(
        config: Config,
        identity: Identity,
        host: Arc<dyn Host>,
    ) -> Result<Self, ConfigError> {
        if config.job_size_max > JOB_SIZE_LIMIT {
            return Err(ConfigError::JobSize(config.job_size_max));
        }
        for (name, is_zero) in [
            ("outstanding_max", config.outstanding_max == 0),
            ("outstanding_bytes_max", config.outstanding_bytes_max == 0),
            ("watched_max", config.watched_max == 0),
        ] {
            if is_zero {
                return Err(ConfigError::Zero(name));
            }
        }
        let tube = StreamConfig {
            numbering: Numbering::Shared(NUMBERING.into()),
            keep: Keep::UntilSettled,
            limits: config.tube_limits,
            durability: config.durability,
            auto_delete: true,
            group: Some(GroupConfig {
                order: Order::Priority,
                ..GroupConfig::default()
            }),
            ..StreamConfig::default()
        };
        let started = host.now();
        let draining = AtomicBool::new(false);
        Ok(Tenant {
            config,
            counters: Counters::default(),
            identity,
            host,
            started,
            draining,
            tube,
        })
    }

    /// Accepts no more jobs: from now on `put` is answered with `DRAINING`. There is no way back.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`Tenant::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The counters, for metrics.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A tube's stream.
    pub(crate) fn stream(&self, tube: Arc<str>) -> StreamName {
        StreamName {
            space: self.config.space.clone(),
            name: tube,
        }
    }

    /// What a tube is made of, for whoever creates one on behalf of the service; `None` when no client could name it.
    #[must_use]
    pub fn tube_config(&self, tube: &str) -> Option<Box<StreamConfig>> {
        crate::codec::request::tube(tube.as_bytes())
            .is_ok()
            .then(|| self.template(tube))
    }

    /// What a tube's stream is made of. The default tube never goes away.
    pub(crate) fn template(&self, tube: &str) -> Box<StreamConfig> {
        Box::new(StreamConfig {
            auto_delete: tube != DEFAULT_TUBE,
            ..self.tube.clone()
        })
    }
}
