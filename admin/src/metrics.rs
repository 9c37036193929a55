//! `/metrics`: one snapshot, written in the OpenMetrics text format.
//!
//! Counters live where they are counted; this module only names them. Names start with `longtail_` and end with the
//! unit. The number of time series is bounded: streams beyond a limit are summed up under `stream="other"`.

mod openmetrics;
mod sessions;

use crate::shapes::{StreamCounts, StreamStatus};
pub(crate) use openmetrics::{CONTENT_TYPE, render};
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
    pub(crate) fn cap_streams(&mut self, max: usize) {
        let keep = max.min(self.streams.len());
        for stream in self.streams.drain(keep..) {
            self.other_streams.add(&stream.counts);
        }
    }
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
