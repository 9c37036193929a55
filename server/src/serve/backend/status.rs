//! The server as a whole: whether it is ready, and what it says of itself.

use std::sync::atomic::Ordering;

use longtail_admin::shapes::{Health, Latency, ListenerStatus, ShardStatus, Status};

use super::{Answer, Backend, metrics};
use crate::serve::process;

pub(super) fn health(backend: &Backend) -> Health {
    let mut reasons = Vec::new();
    match backend.running.get() {
        None => reasons.push("recovering".to_owned()),
        Some(serving) => {
            let broker = serving.longtail.broker();
            for (shard, trouble) in broker.troubles() {
                reasons.push(format!("shard {shard}: {trouble}"));
            }
        }
    }
    if backend.draining.load(Ordering::Acquire) {
        reasons.push("draining".to_owned());
    }
    Health {
        ready: reasons.is_empty(),
        reasons,
    }
}

pub(super) fn show(backend: &Backend) -> Answer<Status> {
    let serving = backend.serving()?;
    let broker = serving.longtail.broker();
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: backend.started_ms,
        uptime_ms: process::now_ms().saturating_sub(backend.started_ms),
        data: backend.data.clone(),
        durability: backend.durability.clone(),
        health: health(backend),
        connections: serving.longtail.edge().connections().len() as u64,
        resident_bytes: process::resident_bytes(),
        ..Status::default()
    };
    status.listeners = serving
        .listening
        .iter()
        .map(|listening| ListenerStatus {
            protocol: listening.protocol.clone(),
            address: listening.address.to_string(),
            tls: listening.tls,
        })
        .collect();
    for (number, info) in broker.info().into_iter().enumerate() {
        status.streams += info.streams;
        status.totals.add(&(&info.totals).into());
        status.shards.push(ShardStatus {
            shard: u32::try_from(number).unwrap_or(u32::MAX),
            streams: info.streams,
            sessions: info.sessions,
            log_end: info.log_end.0,
            index_bytes: info.index_bytes,
            trouble: info.trouble,
        });
    }
    let commits = metrics::all_commits(broker);
    if commits.count() > 0 {
        status.latencies.push(Latency {
            operation: "commit".to_owned(),
            count: commits.count(),
            p50_us: commits.quantile_us(500),
            p99_us: commits.quantile_us(990),
            max_us: commits.max_us,
        });
    }
    Ok(status)
}
