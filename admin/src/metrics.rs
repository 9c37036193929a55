//! `/metrics`: one snapshot, written in the OpenMetrics text format.
//!
//! Counters live where they are counted; this module only names them. Names start with `longtail_` and end with the
//! unit. The number of time series is bounded: streams beyond a limit are summed up under `stream="other"`.

mod sessions;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::shapes::{StreamCounts, StreamStatus};
pub use sessions::SessionMetrics;

/// Everything that is measured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// Streams in order of creation.
    pub streams: Vec<StreamStatus>,
    /// Sums over the streams that are not in the list.
    pub other_streams: StreamCounts,
    /// By listener.
    pub edge: Vec<EdgeMetrics>,
    /// Bytes that wait in outboxes and half-read messages of all connections.
    pub connection_bytes: u64,
    /// By protocol and command.
    pub commands: Vec<CommandMetrics>,
    /// By space.
    pub spaces: Vec<SpaceMetrics>,
    /// By protocol that has sessions.
    pub sessions: Vec<SessionMetrics>,
    /// By shard.
    pub shards: Vec<ShardMetrics>,
    /// The process, where the system says something about it.
    pub process: Option<ProcessMetrics>,
}

/// One listener.
#[derive(Clone, Debug, Default)]
pub struct EdgeMetrics {
    /// The protocol.
    pub protocol: String,
    /// Where it listens.
    pub listener: String,
    /// Open connections.
    pub connections: u64,
    /// Connections accepted, refused ones included.
    pub accepted_total: u64,
    /// Connections turned away, by cause.
    pub refused_total: Vec<(&'static str, u64)>,
    /// Failures to accept as such.
    pub accept_errors_total: u64,
    /// Connections closed because they did not read what they asked for.
    pub slow_consumers_total: u64,
    /// Connections closed because they held most of the memory for all.
    pub stalled_total: u64,
    /// Bytes received.
    pub received_bytes_total: u64,
    /// Bytes sent.
    pub sent_bytes_total: u64,
}

/// How often a command of a protocol was given.
#[derive(Clone, Debug, Default)]
pub struct CommandMetrics {
    /// The protocol.
    pub protocol: &'static str,
    /// The command, as the protocol calls it.
    pub command: &'static str,
    /// How often.
    pub total: u64,
}

/// What was published to the subjects of a space.
#[derive(Clone, Debug, Default)]
pub struct SpaceMetrics {
    /// The space.
    pub space: String,
    /// Messages published.
    pub published_total: u64,
    /// Copies handed to live subscribers.
    pub delivered_total: u64,
    /// Copies that live subscribers did not get, by cause.
    pub dropped_total: Vec<(&'static str, u64)>,
    /// Subjects with a retained message.
    pub retained: u64,
    /// Bytes that these take in memory.
    pub retained_bytes: u64,
}

/// The process. These go by the names that every Prometheus client library uses, without `longtail_`.
#[derive(Clone, Debug, Default)]
pub struct ProcessMetrics {
    /// Processor time used, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many of them there may be.
    pub max_fds: u64,
    /// When it started, in seconds since 1970.
    pub start_seconds: f64,
}

/// One shard.
#[derive(Clone, Debug, Default)]
pub struct ShardMetrics {
    /// Its number.
    pub shard: u32,
    /// Streams.
    pub streams: u64,
    /// Sessions attached.
    pub sessions: u64,
    /// Messages taken back because a deadline passed.
    pub timeouts_total: u64,
    /// Heap bytes of its indexes.
    pub index_bytes: u64,
    /// Messages appended.
    pub appended_total: u64,
    /// Messages handed to consumers, redeliveries included.
    pub delivered_total: u64,
    /// Messages removed by consumers or by hand.
    pub removed_total: u64,
    /// Messages that were to be dead letters and that no stream took.
    pub dead_letters_lost_total: u64,
    /// Answers and deliveries that wait for their records to be durable.
    pub pending_effects: u64,
    /// Whether messages are accepted.
    pub log_healthy: bool,
    /// Its log, where it has one.
    pub log: Option<LogMetrics>,
}

/// One shard's log.
#[derive(Clone, Debug, Default)]
pub struct LogMetrics {
    /// Position of the oldest record that may still be there.
    pub start: u64,
    /// Position of the next record.
    pub end: u64,
    /// Bytes on the disk.
    pub disk_bytes: u64,
    /// Bytes appended and not yet written.
    pub pending_bytes: u64,
    /// Records appended.
    pub appended_total: u64,
    /// Records copied out of sparse files.
    pub rewritten_total: u64,
    /// How long it took to make batches durable.
    pub commits: Option<Histogram>,
}

/// How long something took, in buckets.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Upper bound of each bucket in seconds, ascending, and the observations in it (not cumulated).
    pub buckets: Vec<(f64, u64)>,
    /// Observations above the last bound.
    pub beyond: u64,
    /// Sum of all observations in seconds.
    pub sum_seconds: f64,
}

impl Metrics {
    /// Moves the streams beyond the first `max` into the sum.
    pub fn cap_streams(&mut self, max: usize) {
        let keep = max.min(self.streams.len());
        for stream in self.streams.drain(keep..) {
            self.other_streams.add(&stream.counts);
        }
    }
}

/// Writes a snapshot in the text format.
///
/// # Errors
/// Never: writing to a string does not fail.
pub(crate) fn render(mut metrics: Metrics) -> Result<String, fmt::Error> {
    let process = metrics.process.take();
    let mut registry = Registry::with_prefix("longtail");
    registry.register_collector(Box::new(Snapshot(metrics)));
    let mut standard = Registry::default();
    if let Some(process) = process {
        standard.register_collector(Box::new(Process(process)));
    }
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    encode_registry(&mut text, &standard)?;
    encode_eof(&mut text)?;
    Ok(text)
}

/// The content type of what [`render`] writes.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Snapshot(Metrics);

#[derive(Debug)]
struct Process(ProcessMetrics);

impl Collector for Process {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let process = &self.0;
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        let gauge = MetricType::Gauge;
        out.encode_descriptor(
            "process_cpu",
            "Processor time used",
            seconds,
            MetricType::Counter,
        )?
        .encode_counter(&process.cpu_seconds, NO_EXEMPLAR)?;
        out.encode_descriptor("process_resident_memory", "Resident memory", bytes, gauge)?
            .encode_gauge(&process.resident_bytes)?;
        out.encode_descriptor("process_open_fds", "Open file descriptors", None, gauge)?
            .encode_gauge(&process.open_fds)?;
        out.encode_descriptor("process_max_fds", "Limit of file descriptors", None, gauge)?
            .encode_gauge(&process.max_fds)?;
        out.encode_descriptor("process_start_time", "Start since 1970", seconds, gauge)?
            .encode_gauge(&process.start_seconds)
    }
}

/// Labels of one time series.
type Labels = Vec<(&'static str, String)>;

/// Exemplars are not used.
const NO_EXEMPLAR: Option<&Exemplar<Labels, f64>> = None;

/// A family and where its values come from.
type Family<T> = (
    &'static str,
    &'static str,
    Option<Unit>,
    MetricType,
    fn(&T) -> u64,
);

impl Collector for Snapshot {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.0;
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.encode_descriptor("build", "The version that runs", None, MetricType::Info)?
            .encode_info(&build)?;
        out.encode_descriptor(
            "uptime",
            "Time since the start",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?
        .encode_gauge(&metrics.uptime_seconds)?;
        out.encode_descriptor("ready", "1 when /readyz says yes", None, MetricType::Gauge)?
            .encode_gauge(&u64::from(metrics.ready))?;
        streams(&mut out, metrics)?;
        let edge: Vec<_> = metrics
            .edge
            .iter()
            .map(|edge| {
                let labels = vec![
                    ("protocol", edge.protocol.clone()),
                    ("listener", edge.listener.clone()),
                ];
                (labels, edge)
            })
            .collect();
        families(&mut out, EDGE, &edge)?;
        by_cause(
            &mut out,
            ("connections_refused", "Connections turned away"),
            &edge,
            |edge| &edge.refused_total,
        )?;
        out.encode_descriptor(
            "connections_held",
            "Waiting answers and messages half read",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?
        .encode_gauge(&metrics.connection_bytes)?;
        let commands: Vec<_> = metrics
            .commands
            .iter()
            .map(|command| {
                let labels = vec![
                    ("protocol", command.protocol.to_owned()),
                    ("command", command.command.to_owned()),
                ];
                (labels, command)
            })
            .collect();
        families(&mut out, COMMAND, &commands)?;
        let spaces: Vec<_> = metrics
            .spaces
            .iter()
            .map(|space| (vec![("space", space.space.clone())], space))
            .collect();
        families(&mut out, SPACE, &spaces)?;
        by_cause(
            &mut out,
            (
                "subject_dropped",
                "Copies that live subscribers did not get",
            ),
            &spaces,
            |space| &space.dropped_total,
        )?;
        sessions::encode(&mut out, &metrics.sessions)?;
        let shards: Vec<_> = metrics
            .shards
            .iter()
            .map(|shard| (vec![("shard", shard.shard.to_string())], shard))
            .collect();
        families(&mut out, SHARD, &shards)?;
        let logs: Vec<_> = shards
            .iter()
            .filter_map(|(labels, shard)| Some((labels.clone(), shard.log.as_ref()?)))
            .collect();
        families(&mut out, LOG, &logs)?;
        commits(&mut out, &logs)
    }
}

const EDGE: &[Family<EdgeMetrics>] = &[
    (
        "connections",
        "Open connections",
        None,
        MetricType::Gauge,
        |edge| edge.connections,
    ),
    (
        "connections_accepted",
        "Connections accepted",
        None,
        MetricType::Counter,
        |edge| edge.accepted_total,
    ),
    (
        "accept_errors",
        "Failures to accept",
        None,
        MetricType::Counter,
        |edge| edge.accept_errors_total,
    ),
    (
        "connections_slow",
        "Connections closed because they did not read",
        None,
        MetricType::Counter,
        |edge| edge.slow_consumers_total,
    ),
    (
        "connections_stalled",
        "Connections closed for the memory they held",
        None,
        MetricType::Counter,
        |edge| edge.stalled_total,
    ),
    (
        "received",
        "Bytes from clients",
        Some(Unit::Bytes),
        MetricType::Counter,
        |edge| edge.received_bytes_total,
    ),
    (
        "sent",
        "Bytes to clients",
        Some(Unit::Bytes),
        MetricType::Counter,
        |edge| edge.sent_bytes_total,
    ),
];

const COMMAND: &[Family<CommandMetrics>] = &[(
    "commands",
    "Commands of clients",
    None,
    MetricType::Counter,
    |command| command.total,
)];

const SPACE: &[Family<SpaceMetrics>] = &[
    (
        "subject_published",
        "Messages published to subjects",
        None,
        MetricType::Counter,
        |space| space.published_total,
    ),
    (
        "subject_delivered",
        "Copies handed to live subscribers",
        None,
        MetricType::Counter,
        |space| space.delivered_total,
    ),
    (
        "retained_messages",
        "Subjects with a retained message",
        None,
        MetricType::Gauge,
        |space| space.retained,
    ),
    (
        "retained",
        "Retained messages in memory",
        Some(Unit::Bytes),
        MetricType::Gauge,
        |space| space.retained_bytes,
    ),
];

const SHARD: &[Family<ShardMetrics>] = &[
    (
        "shard_streams",
        "Streams of the shard",
        None,
        MetricType::Gauge,
        |shard| shard.streams,
    ),
    (
        "shard_sessions",
        "Sessions attached to the shard",
        None,
        MetricType::Gauge,
        |shard| shard.sessions,
    ),
    (
        "shard_timeouts",
        "Messages taken back at a deadline",
        None,
        MetricType::Counter,
        |shard| shard.timeouts_total,
    ),
    (
        "shard_index",
        "Heap of the indexes",
        Some(Unit::Bytes),
        MetricType::Gauge,
        |shard| shard.index_bytes,
    ),
    (
        "shard_appended",
        "Messages appended",
        None,
        MetricType::Counter,
        |shard| shard.appended_total,
    ),
    (
        "shard_delivered",
        "Messages handed to consumers",
        None,
        MetricType::Counter,
        |shard| shard.delivered_total,
    ),
    (
        "shard_removed",
        "Messages removed by consumers or by hand",
        None,
        MetricType::Counter,
        |shard| shard.removed_total,
    ),
    (
        "shard_dead_letters_lost",
        "Messages that were to be dead letters and that no stream took",
        None,
        MetricType::Counter,
        |shard| shard.dead_letters_lost_total,
    ),
    (
        "shard_pending_effects",
        "Answers and deliveries that wait for the disk",
        None,
        MetricType::Gauge,
        |shard| shard.pending_effects,
    ),
    (
        "log_healthy",
        "1 when messages are accepted",
        None,
        MetricType::Gauge,
        |shard| u64::from(shard.log_healthy),
    ),
];

const LOG: &[Family<LogMetrics>] = &[
    (
        "log_start_position",
        "Position of the oldest record",
        None,
        MetricType::Gauge,
        |log| log.start,
    ),
    (
        "log_end_position",
        "Position of the next record",
        None,
        MetricType::Gauge,
        |log| log.end,
    ),
    (
        "log_disk",
        "Size of the log on the disk",
        Some(Unit::Bytes),
        MetricType::Gauge,
        |log| log.disk_bytes,
    ),
    (
        "log_pending",
        "Appended and not yet written",
        Some(Unit::Bytes),
        MetricType::Gauge,
        |log| log.pending_bytes,
    ),
    (
        "log_records_appended",
        "Records appended",
        None,
        MetricType::Counter,
        |log| log.appended_total,
    ),
    (
        "log_records_rewritten",
        "Records copied out of sparse files",
        None,
        MetricType::Counter,
        |log| log.rewritten_total,
    ),
];

const STREAM: &[Family<StreamCounts>] = &[
    (
        "stream_size",
        "Headers and payload held",
        Some(Unit::Bytes),
        MetricType::Gauge,
        |counts| counts.bytes,
    ),
    (
        "stream_messages_urgent",
        "Ready, priority below 1024",
        None,
        MetricType::Gauge,
        |counts| counts.urgent,
    ),
    (
        "stream_appended",
        "Messages appended",
        None,
        MetricType::Counter,
        |counts| counts.appended_total,
    ),
    (
        "stream_removed",
        "Messages removed",
        None,
        MetricType::Counter,
        |counts| counts.removed_total,
    ),
    (
        "stream_producers",
        "Open producer links",
        None,
        MetricType::Gauge,
        |counts| counts.producers,
    ),
    (
        "stream_consumers",
        "Open consumer links",
        None,
        MetricType::Gauge,
        |counts| counts.consumers,
    ),
    (
        "stream_consumers_waiting",
        "Consumers without a message",
        None,
        MetricType::Gauge,
        |counts| counts.waiting,
    ),
];

type State = (&'static str, fn(&StreamCounts) -> u64);

const STATES: &[State] = &[
    ("ready", |counts| counts.ready),
    ("held", |counts| counts.held),
    ("delayed", |counts| counts.delayed),
    ("parked", |counts| counts.parked),
];

fn streams(out: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let labels = |space: &str, stream: &str| {
        vec![("space", space.to_owned()), ("stream", stream.to_owned())]
    };
    let mut all: Vec<(Labels, &StreamCounts)> = metrics
        .streams
        .iter()
        .map(|s| (labels(&s.space, &s.name), &s.counts))
        .collect();
    if metrics.other_streams != StreamCounts::default() {
        // No space has an empty name, so this is no stream that somebody called "other".
        all.push((labels("", "other"), &metrics.other_streams));
    }
    families(out, STREAM, &all)?;
    if all.is_empty() {
        return Ok(());
    }
    let mut family = out.encode_descriptor(
        "stream_messages",
        "Messages by state",
        None,
        MetricType::Gauge,
    )?;
    for (labels, counts) in &all {
        for (state, value) in STATES {
            let mut labels = labels.clone();
            labels.push(("state", (*state).to_owned()));
            family
                .encode_family(&labels)?
                .encode_gauge(&value(counts))?;
        }
    }
    Ok(())
}

/// Writes each family with one time series for every row; nothing when there are no rows.
fn families<T>(
    out: &mut DescriptorEncoder<'_>,
    families: &[Family<T>],
    rows: &[(Labels, &T)],
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    for (name, help, unit, kind, value) in families {
        let mut family = out.encode_descriptor(name, help, unit.as_ref(), *kind)?;
        for (labels, row) in rows {
            let mut series: MetricEncoder<'_> = family.encode_family(labels)?;
            match kind {
                MetricType::Counter => series.encode_counter(&value(row), NO_EXEMPLAR)?,
                _ => series.encode_gauge(&value(row))?,
            }
        }
    }
    Ok(())
}

/// Writes a counter that is divided by cause.
fn by_cause<T>(
    out: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    rows: &[(Labels, &T)],
    counts: fn(&T) -> &[(&'static str, u64)],
) -> fmt::Result {
    if rows.iter().all(|(_, row)| counts(row).is_empty()) {
        return Ok(());
    }
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, row) in rows {
        for (cause, total) in counts(row) {
            let mut labels = labels.clone();
            labels.push(("cause", (*cause).to_owned()));
            family
                .encode_family(&labels)?
                .encode_counter(total, NO_EXEMPLAR)?;
        }
    }
    Ok(())
}

fn commits(out: &mut DescriptorEncoder<'_>, logs: &[(Labels, &LogMetrics)]) -> fmt::Result {
    let measured: Vec<_> = logs
        .iter()
        .filter_map(|(labels, log)| Some((labels, log.commits.as_ref()?)))
        .collect();
    if measured.is_empty() {
        return Ok(());
    }
    let mut family = out.encode_descriptor(
        "log_commit_duration",
        "Making a batch durable",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for (labels, commits) in measured {
        let mut buckets = commits.buckets.clone();
        buckets.push((f64::INFINITY, commits.beyond));
        let count = buckets.iter().map(|(_, count)| count).sum();
        family.encode_family(labels)?.encode_histogram::<Labels>(
            commits.sum_seconds,
            count,
            &buckets,
            None,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, ready: u64) -> StreamStatus {
        let counts = StreamCounts {
            ready,
            appended_total: 10,
            bytes: 5,
            ..StreamCounts::default()
        };
        StreamStatus {
            space: "default".to_owned(),
            name: name.to_owned(),
            counts,
            ..StreamStatus::default()
        }
    }

    #[test]
    fn every_part_is_written_with_its_unit() {
        let metrics = Metrics {
            uptime_seconds: 1.5,
            ready: true,
            streams: vec![stream("jobs \"x\"\n", 3)],
            edge: vec![EdgeMetrics {
                protocol: "beanstalk".to_owned(),
                listener: "127.0.0.1:11300".to_owned(),
                connections: 2,
                refused_total: vec![("tls", 4)],
                ..EdgeMetrics::default()
            }],
            commands: vec![CommandMetrics {
                protocol: "beanstalk",
                command: "put",
                total: 9,
            }],
            process: Some(ProcessMetrics {
                cpu_seconds: 2.5,
                open_fds: 12,
                ..ProcessMetrics::default()
            }),
            shards: vec![ShardMetrics {
                log: Some(LogMetrics {
                    commits: Some(Histogram {
                        buckets: vec![(0.001, 2), (0.01, 1)],
                        beyond: 1,
                        sum_seconds: 0.5,
                    }),
                    ..LogMetrics::default()
                }),
                ..ShardMetrics::default()
            }],
            ..Metrics::default()
        };
        let text = render(metrics).unwrap();
        for line in [
            concat!(
                "longtail_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1\n"
            ),
            "longtail_uptime_seconds 1.5\n",
            "longtail_ready 1\n",
            "longtail_stream_messages{space=\"default\",stream=\"jobs \\\"x\\\"\\n\",state=\"ready\"} 3\n",
            "longtail_connections{protocol=\"beanstalk\",listener=\"127.0.0.1:11300\"} 2\n",
            "longtail_received_bytes_total{protocol=\"beanstalk\",listener=\"127.0.0.1:11300\"} 0\n",
            "longtail_connections_refused_total{protocol=\"beanstalk\",listener=\"127.0.0.1:11300\",cause=\"tls\"} 4\n",
            "longtail_commands_total{protocol=\"beanstalk\",command=\"put\"} 9\n",
            "\nprocess_cpu_seconds_total 2.5\n",
            "\nprocess_open_fds 12\n",
            "longtail_log_commit_duration_seconds_bucket{le=\"0.01\",shard=\"0\"} 3\n",
            "longtail_log_commit_duration_seconds_bucket{le=\"+Inf\",shard=\"0\"} 4\n",
            "longtail_log_commit_duration_seconds_count{shard=\"0\"} 4\n",
            "# EOF\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn streams_beyond_the_limit_are_summed_up() {
        let mut metrics = Metrics {
            streams: (0..10).map(|n| stream(&format!("s{n}"), n)).collect(),
            ..Metrics::default()
        };
        metrics.cap_streams(4);
        metrics.cap_streams(4);
        let text = render(metrics).unwrap();
        assert!(text.contains("stream=\"s3\""), "{text}");
        assert!(!text.contains("stream=\"s4\""), "{text}");
        assert!(
            text.contains("longtail_stream_appended_total{space=\"\",stream=\"other\"} 60\n"),
            "{text}"
        );
        assert!(
            text.contains("{space=\"\",stream=\"other\",state=\"ready\"} 39\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_measured_is_not_written() {
        let text = render(Metrics::default()).unwrap();
        assert!(
            !text.contains("log_") && !text.contains("stream_"),
            "{text}"
        );
    }
}
