//! `/metrics`, `/stats`, `/monitor_current`, `/prometheus/stats`.

use axum::http::Method;
use longtail_broker::ephemeral::DropReason;
use serde_json::{Map, Value, json};

use super::{Answered, no_method};
use crate::http::prometheus::{Exposition, Kind};
use crate::http::request::{Asked, Reply};
use crate::http::views::Figures;

pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Answered {
    let known = matches!(
        path,
        ["metrics" | "stats" | "monitor_current"]
            | ["monitor_current", "nodes", _]
            | ["prometheus", "stats"]
    );
    if !known {
        return None;
    }
    if asked.method != Method::GET {
        return no_method(asked).await;
    }
    if let Err(trouble) = asked.looks().await {
        return Some(Err(trouble));
    }
    let figures = asked.api.figures();
    Some(Ok(match path {
        ["metrics"] => by_node(asked, metrics(&figures)),
        ["stats"] => by_node(asked, stats(asked, &figures)),
        ["prometheus", ..] => prometheus(asked, &figures),
        _ => Reply::json(&current(asked, &figures)),
    }))
}

/// Figures of the one node: as a list of nodes, or summed up.
fn by_node(asked: &Asked, mut figures: Map<String, Value>) -> Reply {
    if asked.query.get("aggregate") == Some("true") {
        return Reply::json(&figures.into());
    }
    figures.insert("node".to_owned(), asked.api.node().into());
    Reply::json(&json!([figures]))
}

fn named(figures: impl IntoIterator<Item = (&'static str, u64)>) -> Map<String, Value> {
    let entries = figures.into_iter();
    entries
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// Totals since the start, by EMQX's names. Those that are not counted here are not there.
fn totals(figures: &Figures) -> Vec<(&'static str, u64)> {
    let traffic = &figures.traffic;
    let by = |wanted: DropReason| {
        let found = figures
            .dropped_by
            .iter()
            .find(|(reason, _)| *reason == wanted);
        found.map_or(0, |(_, count)| *count)
    };
    let ([in0, in1, in2], [out0, out1, out2]) = (traffic.messages_in, traffic.messages_out);
    vec![
        ("bytes.received", figures.sockets.bytes_in),
        ("bytes.sent", figures.sockets.bytes_out),
        ("packets.received", traffic.packets_in),
        ("packets.sent", traffic.packets_out),
        ("packets.publish.received", traffic.received()),
        ("packets.publish.sent", traffic.sent()),
        ("packets.publish.auth_error", figures.denied),
        ("messages.received", traffic.received()),
        ("messages.sent", traffic.sent()),
        ("messages.qos0.received", in0),
        ("messages.qos1.received", in1),
        ("messages.qos2.received", in2),
        ("messages.qos0.sent", out0),
        ("messages.qos1.sent", out1),
        ("messages.qos2.sent", out2),
        ("messages.dropped", figures.dropped),
        ("delivery.dropped", figures.dropped),
        ("delivery.dropped.queue_full", by(DropReason::OutboxFull)),
        ("delivery.dropped.expired", by(DropReason::Expired)),
        ("client.connected", figures.accepted),
        ("client.connack", figures.accepted + figures.refused),
        ("client.auth.failure", figures.unproven),
    ]
}

/// Levels, by EMQX's names.
fn levels(asked: &Asked, figures: &Figures) -> Vec<(&'static str, u64)> {
    let census = &figures.census;
    let limits = &asked.api.tenant.config().limits;
    vec![
        ("connections.count", census.sessions()),
        ("connections.max", limits.sessions_max as u64),
        ("live_connections.count", figures.connected()),
        ("live_connections.max", figures.connected_max),
        ("sessions.count", census.sessions()),
        ("sessions.max", limits.sessions_max as u64),
        ("channels.count", census.sessions()),
        ("subscribers.count", census.subscriptions),
        ("subscriptions.count", census.subscriptions),
        ("subscriptions.shared.count", census.shared),
        ("topics.count", figures.topics),
        ("retained.count", figures.retained),
    ]
}

fn metrics(figures: &Figures) -> Map<String, Value> {
    named(totals(figures))
}

fn stats(asked: &Asked, figures: &Figures) -> Map<String, Value> {
    named(levels(asked, figures))
}

fn current(asked: &Asked, figures: &Figures) -> Value {
    let [received, sent, dropped] = asked.api.rates(figures);
    json!({
        "node": asked.api.node(),
        "connections": figures.census.sessions(),
        "live_connections": figures.connected(),
        "disconnected_durable_sessions": figures.census.away,
        "sessions": figures.census.sessions(),
        "subscriptions": figures.census.subscriptions,
        "shared_subscriptions": figures.census.shared,
        "topics": figures.topics,
        "retained_msg_count": figures.retained,
        "received_msg_rate": received,
        "sent_msg_rate": sent,
        "dropped_msg_rate": dropped,
    })
}

fn prometheus(asked: &Asked, figures: &Figures) -> Reply {
    let mut page = Exposition::default();
    let mut add = |name: &str, kind, value| {
        let series = format!("emqx_{}", name.replace('.', "_"));
        page.add(&series, kind, &format!("EMQX's {name}."), "", value);
    };
    for (name, value) in levels(asked, figures) {
        add(name, Kind::Gauge, value);
    }
    for (name, value) in totals(figures) {
        add(name, Kind::Counter, value);
    }
    add(
        "vm_used_memory",
        Kind::Gauge,
        figures.process.resident_bytes,
    );
    add("cluster_nodes_running", Kind::Gauge, 1);
    Reply::metrics(page.text())
}
