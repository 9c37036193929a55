//! `/metrics`: one snapshot, written in the OpenMetrics text format.
//!
//! Counters live where they are counted; this module only names them. Names start with `longtail_` and end with the
//! unit. The number of time series is bounded: streams beyond a limit are summed up under `stream="other"`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::shapes::{StreamCounts, StreamStatus};

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
    /// By protocol.
    pub edge: Vec<EdgeMetrics>,
    /// By shard.
    pub shards: Vec<ShardMetrics>,
}

/// Connections of one protocol.
#[derive(Clone, Debug, Default)]
pub struct EdgeMetrics {
    /// The protocol.
    pub protocol: String,
    /// Open connections.
    pub connections: u64,
    /// Connections accepted.
    pub accepted_total: u64,
    /// Connections closed at once because a limit was reached.
    pub refused_total: u64,
    /// Bytes received.
    pub received_bytes_total: u64,
    /// Bytes sent.
    pub sent_bytes_total: u64,
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
    /// Whether its log takes messages.
    pub log_healthy: bool,
    /// Position at the end of its log.
    pub log_end: u64,
    /// Its log, where that is counted.
    pub log: Option<LogMetrics>,
}

/// One shard's log.
#[derive(Clone, Debug, Default)]
pub struct LogMetrics {
    /// Files.
    pub segments: u64,
    /// Bytes on the disk.
    pub disk_bytes: u64,
    /// Bytes appended.
    pub appended_bytes_total: u64,
    /// Frames appended.
    pub frames_total: u64,
    /// How long syncs took.
    pub sync: Option<Histogram>,
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
pub(crate) fn render(metrics: Metrics) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("longtail");
    registry.register_collector(Box::new(Snapshot(metrics)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The content type of what [`render`] writes.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Snapshot(Metrics);

/// Labels of one time series.
type Labels = Vec<(&'static str, String)>;

/// Exemplars are not used.
const NO_EXEMPLAR: Option<&Exemplar<Labels, f64>> = None;

/// A family and where its values come from.
type Family<T> = (&'static str, &'static str, Option<Unit>, MetricType, fn(&T) -> u64);

impl Collector for Snapshot {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.0;
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.encode_descriptor("build", "The version that runs", None, MetricType::Info)?.encode_info(&build)?;
        out.encode_descriptor("uptime", "Time since the start", Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&metrics.uptime_seconds)?;
        out.encode_descriptor("ready", "1 when /readyz says yes", None, MetricType::Gauge)?
            .encode_gauge(&u64::from(metrics.ready))?;
        streams(&mut out, metrics)?;
        let edge: Vec<_> = metrics.edge.iter().map(|edge| (vec![("protocol", edge.protocol.clone())], edge)).collect();
        families(&mut out, EDGE, &edge)?;
        let shards: Vec<_> =
            metrics.shards.iter().map(|shard| (vec![("shard", shard.shard.to_string())], shard)).collect();
        families(&mut out, SHARD, &shards)?;
        let logs: Vec<_> =
            shards.iter().filter_map(|(labels, shard)| Some((labels.clone(), shard.log.as_ref()?))).collect();
        families(&mut out, LOG, &logs)?;
        syncs(&mut out, &logs)
    }
}

const EDGE: &[Family<EdgeMetrics>] = &[
    ("connections", "Open connections", None, MetricType::Gauge, |edge| edge.connections),
    ("connections_accepted", "Connections accepted", None, MetricType::Counter, |edge| edge.accepted_total),
    ("connections_refused", "Connections closed at a limit", None, MetricType::Counter, |edge| edge.refused_total),
    ("received", "Bytes from clients", Some(Unit::Bytes), MetricType::Counter, |edge| edge.received_bytes_total),
    ("sent", "Bytes to clients", Some(Unit::Bytes), MetricType::Counter, |edge| edge.sent_bytes_total),
];

const SHARD: &[Family<ShardMetrics>] = &[
    ("shard_streams", "Streams of the shard", None, MetricType::Gauge, |shard| shard.streams),
    ("shard_sessions", "Sessions attached to the shard", None, MetricType::Gauge, |shard| shard.sessions),
    ("shard_timeouts", "Messages taken back at a deadline", None, MetricType::Counter, |shard| shard.timeouts_total),
    ("shard_index", "Heap of the indexes", Some(Unit::Bytes), MetricType::Gauge, |shard| shard.index_bytes),
    ("log_healthy", "1 when the log takes messages", None, MetricType::Gauge, |shard| u64::from(shard.log_healthy)),
    ("log_end_position", "Position at the end of the log", None, MetricType::Gauge, |shard| shard.log_end),
];

const LOG: &[Family<LogMetrics>] = &[
    ("log_segments", "Files of the log", None, MetricType::Gauge, |log| log.segments),
    ("log_disk", "Size of the log on the disk", Some(Unit::Bytes), MetricType::Gauge, |log| log.disk_bytes),
    ("log_appended", "Bytes appended", Some(Unit::Bytes), MetricType::Counter, |log| log.appended_bytes_total),
    ("log_frames", "Frames appended", None, MetricType::Counter, |log| log.frames_total),
];

const STREAM: &[Family<StreamCounts>] = &[
    ("stream_size", "Headers and payload held", Some(Unit::Bytes), MetricType::Gauge, |counts| counts.bytes),
    ("stream_messages_urgent", "Ready, priority below 1024", None, MetricType::Gauge, |counts| counts.urgent),
    ("stream_appended", "Messages appended", None, MetricType::Counter, |counts| counts.appended_total),
    ("stream_removed", "Messages removed", None, MetricType::Counter, |counts| counts.removed_total),
    ("stream_producers", "Open producer links", None, MetricType::Gauge, |counts| counts.producers),
    ("stream_consumers", "Open consumer links", None, MetricType::Gauge, |counts| counts.consumers),
    ("stream_consumers_waiting", "Consumers without a message", None, MetricType::Gauge, |counts| counts.waiting),
];

type State = (&'static str, fn(&StreamCounts) -> u64);

const STATES: &[State] = &[
    ("ready", |counts| counts.ready),
    ("held", |counts| counts.held),
    ("delayed", |counts| counts.delayed),
    ("parked", |counts| counts.parked),
];

fn streams(out: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> fmt::Result {
    let labels = |space: &str, stream: &str| vec![("space", space.to_owned()), ("stream", stream.to_owned())];
    let mut all: Vec<(Labels, &StreamCounts)> =
        metrics.streams.iter().map(|s| (labels(&s.space, &s.name), &s.counts)).collect();
    if metrics.other_streams != StreamCounts::default() {
        // No space has an empty name, so this is no stream that somebody called "other".
        all.push((labels("", "other"), &metrics.other_streams));
    }
    families(out, STREAM, &all)?;
    if all.is_empty() {
        return Ok(());
    }
    let mut family = out.encode_descriptor("stream_messages", "Messages by state", None, MetricType::Gauge)?;
    for (labels, counts) in &all {
        for (state, value) in STATES {
            let mut labels = labels.clone();
            labels.push(("state", (*state).to_owned()));
            family.encode_family(&labels)?.encode_gauge(&value(counts))?;
        }
    }
    Ok(())
}

/// Writes each family with one time series for every row; nothing when there are no rows.
fn families<T>(out: &mut DescriptorEncoder<'_>, families: &[Family<T>], rows: &[(Labels, &T)]) -> fmt::Result {
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

fn syncs(out: &mut DescriptorEncoder<'_>, logs: &[(Labels, &LogMetrics)]) -> fmt::Result {
    let measured: Vec<_> = logs.iter().filter_map(|(labels, log)| Some((labels, log.sync.as_ref()?))).collect();
    if measured.is_empty() {
        return Ok(());
    }
    let mut family =
        out.encode_descriptor("log_sync_duration", "Syncs of the log", Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, sync) in measured {
        let mut buckets = sync.buckets.clone();
        buckets.push((f64::INFINITY, sync.beyond));
        let count = buckets.iter().map(|(_, count)| count).sum();
        family.encode_family(labels)?.encode_histogram::<Labels>(sync.sum_seconds, count, &buckets, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, ready: u64) -> StreamStatus {
        let counts = StreamCounts { ready, appended_total: 10, bytes: 5, ..StreamCounts::default() };
        StreamStatus { space: "default".to_owned(), name: name.to_owned(), counts, ..StreamStatus::default() }
    }

    #[test]
    fn every_part_is_written_with_its_unit() {
        let metrics = Metrics {
            uptime_seconds: 1.5,
            ready: true,
            streams: vec![stream("jobs \"x\"\n", 3)],
            edge: vec![EdgeMetrics { protocol: "beanstalk".to_owned(), connections: 2, ..EdgeMetrics::default() }],
            shards: vec![ShardMetrics {
                log: Some(LogMetrics {
                    sync: Some(Histogram { buckets: vec![(0.001, 2), (0.01, 1)], beyond: 1, sum_seconds: 0.5 }),
                    ..LogMetrics::default()
                }),
                ..ShardMetrics::default()
            }],
            ..Metrics::default()
        };
        let text = render(metrics).unwrap();
        for line in [
            concat!("longtail_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
            "longtail_uptime_seconds 1.5\n",
            "longtail_ready 1\n",
            "longtail_stream_messages{space=\"default\",stream=\"jobs \\\"x\\\"\\n\",state=\"ready\"} 3\n",
            "longtail_connections{protocol=\"beanstalk\"} 2\n",
            "longtail_received_bytes_total{protocol=\"beanstalk\"} 0\n",
            "longtail_log_sync_duration_seconds_bucket{le=\"0.01\",shard=\"0\"} 3\n",
            "longtail_log_sync_duration_seconds_bucket{le=\"+Inf\",shard=\"0\"} 4\n",
            "longtail_log_sync_duration_seconds_count{shard=\"0\"} 4\n",
            "# EOF\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn streams_beyond_the_limit_are_summed_up() {
        let mut metrics =
            Metrics { streams: (0..10).map(|n| stream(&format!("s{n}"), n)).collect(), ..Metrics::default() };
        metrics.cap_streams(4);
        metrics.cap_streams(4);
        let text = render(metrics).unwrap();
        assert!(text.contains("stream=\"s3\""), "{text}");
        assert!(!text.contains("stream=\"s4\""), "{text}");
        assert!(text.contains("longtail_stream_appended_total{space=\"\",stream=\"other\"} 60\n"), "{text}");
        assert!(text.contains("{space=\"\",stream=\"other\",state=\"ready\"} 39\n"), "{text}");
    }

    #[test]
    fn what_is_not_measured_is_not_written() {
        let text = render(Metrics::default()).unwrap();
        assert!(!text.contains("log_") && !text.contains("stream_"), "{text}");
    }
}
