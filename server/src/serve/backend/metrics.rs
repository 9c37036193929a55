//! One snapshot of everything that is counted.

use longtail::{Broker, Longtail};
use longtail_admin::shapes::StreamCounts;
use longtail_admin::{
    CommandMetrics, EdgeMetrics, Histogram, LogMetrics, Metrics, SessionMetrics, ShardMetrics,
    SpaceMetrics,
};
use longtail_beanstalk::codec::Op;
use longtail_broker::ephemeral::DropReason;
use longtail_edge::RefusalCause;
use longtail_engine::runtime::{BOUNDS_US, CommitTimes};
use longtail_model::{Durability, ShardId};
use longtail_mqtt::Tenant;
use longtail_mqtt::codec::Version;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::process::seconds;
use super::sessions::version;

/// The commands of beanstalkd's protocol by their names.
const COMMANDS: [(Op, &str); Op::COUNT] = [
    (Op::Put, "put"),
    (Op::Peek, "peek"),
    (Op::PeekReady, "peek-ready"),
    (Op::PeekDelayed, "peek-delayed"),
    (Op::PeekBuried, "peek-buried"),
    (Op::Reserve, "reserve"),
    (Op::ReserveWithTimeout, "reserve-with-timeout"),
    (Op::ReserveJob, "reserve-job"),
    (Op::Delete, "delete"),
    (Op::Release, "release"),
    (Op::Use, "use"),
    (Op::Watch, "watch"),
    (Op::Ignore, "ignore"),
    (Op::Bury, "bury"),
    (Op::Kick, "kick"),
    (Op::KickJob, "kick-job"),
    (Op::Touch, "touch"),
    (Op::Stats, "stats"),
    (Op::StatsJob, "stats-job"),
    (Op::StatsTube, "stats-tube"),
    (Op::ListTubes, "list-tubes"),
    (Op::ListTubeUsed, "list-tube-used"),
    (Op::ListTubesWatched, "list-tubes-watched"),
    (Op::PauseTube, "pause-tube"),
];

/// Everything but the streams.
pub(super) fn fill(metrics: &mut Metrics, longtail: &Longtail) {
    metrics.edge = longtail
        .edge()
        .metrics()
        .into_iter()
        .map(|listener| EdgeMetrics {
            protocol: listener.protocol.to_owned(),
            listener: listener.address,
            connections: listener.open as u64,
            accepted_total: listener.accepted,
            refused_total: RefusalCause::ALL
                .map(|cause| (cause.label(), listener.refused.by(cause)))
                .to_vec(),
            accept_errors_total: listener.accept_errors,
            slow_consumers_total: listener.slow_consumers,
            stalled_total: listener.stalled,
            received_bytes_total: listener.bytes_in,
            sent_bytes_total: listener.bytes_out,
        })
        .collect();
    metrics.connection_bytes = longtail.edge().held_bytes() as u64;
    if let Some(tenant) = longtail.beanstalk() {
        metrics.commands = COMMANDS
            .map(|(op, command)| CommandMetrics {
                protocol: "beanstalk",
                command,
                total: tenant.counters().op(op),
            })
            .to_vec();
    }
    metrics.sessions = longtail
        .mqtt()
        .map(|tenant| sessions(tenant))
        .into_iter()
        .collect();
    let broker = longtail.broker();
    let has_log = broker.durability() != Durability::Memory;
    for (number, info) in (0..).zip(broker.info()) {
        let shard = ShardId(number);
        let facts = broker.log_facts(shard);
        // The sums are kept here until the streams that are listed are known.
        metrics.other_streams.add(&StreamCounts::from(&info.totals));
        metrics.shards.push(ShardMetrics {
            shard: number.into(),
            streams: info.streams,
            sessions: info.sessions,
            timeouts_total: info.timeouts,
            index_bytes: info.index_bytes,
            appended_total: info.appended,
            delivered_total: info.delivered,
            removed_total: info.removed,
            dead_letters_lost_total: info.dead_letters_lost,
            pending_effects: facts.pending_effects,
            log_healthy: info.trouble.is_none(),
            log: has_log.then(|| LogMetrics {
                start: facts.start.0,
                end: info.log_end.0,
                disk_bytes: broker.disk_bytes(shard).unwrap_or_default(),
                pending_bytes: facts.pending_bytes,
                appended_total: facts.records_appended,
                rewritten_total: facts.records_rewritten,
                commits: Some(histogram(&broker.commit_times(shard))),
            }),
        });
    }
}

/// The sessions of MQTT.
fn sessions(tenant: &Tenant) -> SessionMetrics {
    // First: the sessions hand over what they have counted.
    let census = tenant.census();
    let (counters, traffic) = (tenant.counters(), tenant.counters().traffic());
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let versions = [Version::V31, Version::V311, Version::V5].map(version);
    let (refused, unproven) = (of(&counters.refused), of(&counters.unproven));
    SessionMetrics {
        protocol: "mqtt",
        connected: versions.into_iter().zip(census.connected).collect(),
        away: census.away,
        subscriptions: census.subscriptions.saturating_sub(census.shared),
        subscriptions_shared: census.shared,
        queued: census.queued,
        queued_bytes: census.queued_bytes,
        in_flight: census.in_flight,
        received_total: traffic.messages_in,
        sent_total: traffic.messages_out,
        received_payload_bytes_total: traffic.bytes_in,
        sent_payload_bytes_total: traffic.bytes_out,
        dropped_total: DropReason::ALL
            .map(|reason| (reason.as_str(), counters.dropped(reason)))
            .to_vec(),
        denied_total: of(&counters.denied),
        held_up_total: of(&counters.held_up),
        logins_total: vec![
            ("accepted", of(&counters.accepted)),
            ("bad_credentials", unproven),
            ("refused", refused.saturating_sub(unproven)),
        ],
        taken_over_total: of(&counters.taken_over),
        expired_total: of(&counters.expired),
        wills_total: of(&counters.wills),
    }
}

/// What went over the subjects of the spaces named.
pub(super) fn of_spaces<'n>(
    broker: &Broker,
    spaces: impl Iterator<Item = &'n std::sync::Arc<str>>,
) -> Vec<SpaceMetrics> {
    let mut all: Vec<SpaceMetrics> = spaces
        .filter_map(|name| {
            let space = broker.space(name).ok()?;
            Some(SpaceMetrics {
                space: name.to_string(),
                published_total: space.counters.published(),
                delivered_total: space.counters.delivered(),
                dropped_total: DropReason::ALL
                    .map(|reason| (reason.as_str(), space.counters.dropped(reason)))
                    .to_vec(),
                retained: space.retained.len() as u64,
                retained_bytes: space.retained.bytes(),
            })
        })
        .collect();
    all.sort_by(|a, b| a.space.cmp(&b.space));
    all
}

/// Takes the streams that are listed out of the sums over all of them.
pub(super) fn sum_up_the_rest(metrics: &mut Metrics) {
    let all: u64 = metrics.shards.iter().map(|shard| shard.streams).sum();
    if all <= metrics.streams.len() as u64 {
        metrics.other_streams = StreamCounts::default();
        return;
    }
    let mut listed = StreamCounts::default();
    for stream in &metrics.streams {
        listed.add(&stream.counts);
    }
    metrics.other_streams.subtract(&listed);
}

/// The commits of all shards.
pub(super) fn all_commits(broker: &Broker) -> CommitTimes {
    let mut all = CommitTimes::default();
    for shard in 0..broker.shards().count() {
        all.add(&broker.commit_times(ShardId(shard)));
    }
    all
}

fn histogram(times: &CommitTimes) -> Histogram {
    Histogram {
        buckets: BOUNDS_US
            .iter()
            .zip(times.buckets)
            .map(|(bound, count)| (seconds(*bound, 1e6), count))
            .collect(),
        beyond: times.buckets.last().copied().unwrap_or_default(),
        sum_seconds: seconds(times.sum_us, 1e6),
    }
}
