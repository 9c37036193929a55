//! A snapshot in the OpenMetrics text format: names, units, labels.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::{
    CommandMetrics, EdgeMetrics, LogMetrics, Metrics, ProcessMetrics, ShardMetrics, SpaceMetrics,
    sessions,
};
use crate::shapes::StreamCounts;

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
pub(super) type Labels = Vec<(&'static str, String)>;

/// Exemplars are not used.
pub(super) const NO_EXEMPLAR: Option<&Exemplar<Labels, f64>> = None;

/// A family and where its values come from.
pub(super) type Family<T> = (
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
pub(super) fn families<T>(
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
