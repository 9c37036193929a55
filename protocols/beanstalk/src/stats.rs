//! The YAML documents of `stats`, `stats-tube` and `stats-job`. Clients depend on the keys and on their order.

use longtail_engine::effect::{MessageInfo, MessageState, ShardInfo, StreamInfo};
use longtail_model::Timestamp;

use crate::codec::{Op, reply};
use crate::tenant::Tenant;

/// What we say we are: what we behave like first, since that is what clients look for.
pub const VERSION: &str = concat!("1.13+longtail.", env!("CARGO_PKG_VERSION"));

/// A document that grows line by line.
struct Document(Vec<u8>);

impl Document {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(1536);
        bytes.extend_from_slice(b"---\n");
        Document(bytes)
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        reply::number(&mut self.0, value);
        self.0.push(b'\n');
    }

    fn plain(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    /// A value that might be taken for something else than a string, or that comes from outside.
    fn quoted(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.push(b'"');
        for byte in value.bytes().filter(|byte| !byte.is_ascii_control()) {
            if matches!(byte, b'"' | b'\\') {
                self.0.push(b'\\');
            }
            self.0.push(byte);
        }
        self.0.extend_from_slice(b"\"\n");
    }

    fn micros(&mut self, key: &str, us: u64) {
        self.plain(key, &format!("{}.{:06}", us / 1_000_000, us % 1_000_000));
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b": ");
    }
}

/// Whole seconds that are left. The original counts in nanoseconds, so that of a full second something is always gone
/// when it is asked; our milliseconds may not have moved yet.
fn seconds_left(ms: u64) -> u64 {
    ms.saturating_sub(1) / 1000
}

/// The jobs of a tube or of all of them, as they stand.
fn jobs(document: &mut Document, info: &StreamInfo) {
    document.number("current-jobs-urgent", info.urgent);
    document.number("current-jobs-ready", info.ready);
    document.number("current-jobs-reserved", info.held);
    document.number("current-jobs-delayed", info.delayed);
    document.number("current-jobs-buried", info.parked);
}

/// The answer to `stats-job`; `file` is the number of the log segment that holds the job.
pub(crate) fn job(info: &MessageInfo, now: Timestamp, file: u64) -> Vec<u8> {
    let (state, is_timed) = match info.state {
        MessageState::Ready => ("ready", false),
        MessageState::Delayed => ("delayed", true),
        MessageState::Held => ("reserved", true),
        MessageState::Parked => ("buried", false),
    };
    let left = info
        .due
        .filter(|_| is_timed)
        .map_or(0, |due| seconds_left(due.millis_since(now)));
    let mut document = Document::new();
    document.number("id", info.seq.0);
    document.quoted("tube", &info.stream.name);
    document.plain("state", state);
    document.number("pri", u64::from(info.priority.0));
    document.number("age", now.millis_since(info.created) / 1000);
    document.number("delay", info.delay_ms / 1000);
    document.number("ttr", info.ack_timeout_ms / 1000);
    document.number("time-left", left);
    document.number("file", file);
    document.number("reserves", u64::from(info.counts.deliveries));
    document.number("timeouts", u64::from(info.counts.timeouts));
    document.number("releases", u64::from(info.counts.releases));
    document.number("buries", u64::from(info.counts.parks));
    document.number("kicks", u64::from(info.counts.kicks));
    document.0
}

/// The answer to `stats-tube`.
pub(crate) fn tube(name: &str, info: &StreamInfo) -> Vec<u8> {
    let mut document = Document::new();
    document.quoted("name", name);
    jobs(&mut document, info);
    document.number("total-jobs", info.appended);
    document.number("current-using", info.producers);
    document.number("current-watching", info.consumers);
    document.number("current-waiting", info.waiting);
    document.number("cmd-delete", info.removed);
    document.number("cmd-pause-tube", info.pauses);
    document.number("pause", info.pause_ms / 1000);
    document.number("pause-time-left", seconds_left(info.pause_left_ms));
    document.0
}

const COMMANDS: [(&str, Op); 22] = [
    ("cmd-put", Op::Put),
    ("cmd-peek", Op::Peek),
    ("cmd-peek-ready", Op::PeekReady),
    ("cmd-peek-delayed", Op::PeekDelayed),
    ("cmd-peek-buried", Op::PeekBuried),
    ("cmd-reserve", Op::Reserve),
    ("cmd-reserve-with-timeout", Op::ReserveWithTimeout),
    ("cmd-delete", Op::Delete),
    ("cmd-release", Op::Release),
    ("cmd-use", Op::Use),
    ("cmd-watch", Op::Watch),
    ("cmd-ignore", Op::Ignore),
    ("cmd-bury", Op::Bury),
    ("cmd-kick", Op::Kick),
    ("cmd-touch", Op::Touch),
    ("cmd-stats", Op::Stats),
    ("cmd-stats-job", Op::StatsJob),
    ("cmd-stats-tube", Op::StatsTube),
    ("cmd-list-tubes", Op::ListTubes),
    ("cmd-list-tube-used", Op::ListTubeUsed),
    ("cmd-list-tubes-watched", Op::ListTubesWatched),
    ("cmd-pause-tube", Op::PauseTube),
];

/// The answer to `stats`.
pub(crate) fn server(tenant: &Tenant, shard: &ShardInfo) -> Vec<u8> {
    let mut document = Document::new();
    let counters = &tenant.counters;
    let identity = &tenant.identity;
    let cpu = tenant.host.cpu_time();
    let log = tenant.host.log();
    jobs(&mut document, &shard.totals);
    for (key, op) in COMMANDS {
        document.number(key, counters.op(op));
    }
    document.number("job-timeouts", shard.timeouts);
    document.number("total-jobs", shard.appended);
    document.number("max-job-size", u64::from(tenant.config.job_size_max));
    document.number("current-tubes", shard.streams);
    document.number("current-connections", counters.connections());
    document.number("current-producers", counters.producers());
    document.number("current-workers", counters.workers());
    document.number("current-waiting", shard.totals.waiting);
    document.number("total-connections", counters.connections_total());
    document.number("pid", u64::from(identity.pid));
    document.quoted("version", VERSION);
    document.micros("rusage-utime", cpu.user_us);
    document.micros("rusage-stime", cpu.system_us);
    document.number(
        "uptime",
        tenant.host.now().millis_since(tenant.started) / 1000,
    );
    document.number("binlog-oldest-index", log.oldest_segment);
    document.number("binlog-current-index", log.current_segment);
    document.number("binlog-records-migrated", log.records_migrated);
    document.number("binlog-records-written", log.records_written);
    document.number("binlog-max-size", log.segment_bytes);
    document.plain(
        "draining",
        if tenant.is_draining() {
            "true"
        } else {
            "false"
        },
    );
    document.plain("id", &format!("{:016x}", identity.instance));
    document.quoted("hostname", &identity.hostname);
    document.quoted("os", &identity.os);
    document.quoted("platform", &identity.platform);
    document.0
}
