//! `/nodes`, `/cluster`, `/listeners`: one node, and where it listens.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answered, no_method};
use crate::http::VERSION;
use crate::http::request::{Asked, Reply, Trouble};
use crate::http::views::ListenerView;

pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Answered {
    let known = matches!(
        path,
        ["nodes" | "cluster" | "listeners"] | ["nodes" | "listeners", _]
    ) || matches!(path, ["nodes", _, "metrics" | "stats"]);
    if !known {
        return None;
    }
    if asked.method != Method::GET {
        return Some(match asked.changes().await {
            Err(trouble) => Err(trouble),
            Ok(_) if path.first() == Some(&"listeners") => Err(Trouble::Unsupported(
                "listeners are in the file of settings (`[[listeners.mqtt]]`)".to_owned(),
            )),
            Ok(_) => return no_method(asked).await,
        });
    }
    Some(look(asked, path).await)
}

async fn look(asked: &Asked, path: &[&str]) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let name = asked.api.node();
    if let ["nodes", node, ..] = path
        && *node != name
    {
        return Err(Trouble::Missing(format!("Node not found: {node}")));
    }
    match path {
        ["nodes"] => Ok(Reply::json(&json!([node(asked)]))),
        ["nodes", _] => Ok(Reply::json(&node(asked))),
        ["cluster"] => Ok(Reply::json(&json!({
            "name": "longtail", "self": name, "nodes": [name],
        }))),
        ["listeners"] => Ok(Reply::json(&listeners(asked).into())),
        ["listeners", id] => {
            let found = listeners(asked).into_iter().find(|one| one["id"] == **id);
            let missing = || Trouble::Missing(format!("Listener id not found: {id}"));
            found.map(|one| Reply::json(&one)).ok_or_else(missing)
        }
        _ => Err(Trouble::Unsupported(
            "there is one node: /metrics and /stats are its".to_owned(),
        )),
    }
}

fn node(asked: &Asked) -> Value {
    let figures = asked.api.figures();
    json!({
        "node": asked.api.node(),
        "node_status": "running",
        "version": VERSION,
        "sysdescr": format!("Longtail {VERSION}"),
        "edition": "Opensource",
        "role": "core",
        "uptime": figures.uptime_ms,
        "connections": figures.census.sessions(),
        "live_connections": figures.connected(),
        "cluster_sessions": figures.census.sessions(),
        "memory_used": figures.process.resident_bytes,
    })
}

fn listeners(asked: &Asked) -> Vec<Value> {
    asked.api.listeners().iter().map(listener).collect()
}

fn listener(view: &ListenerView) -> Value {
    let kind = match (view.fact.is_websocket(), view.fact.tls) {
        (false, false) => "tcp",
        (false, true) => "ssl",
        (true, false) => "ws",
        (true, true) => "wss",
    };
    json!({
        "id": format!("{kind}:{}", view.fact.address),
        "type": kind,
        "name": view.fact.address,
        "bind": view.fact.address,
        "enable": true,
        "running": true,
        "current_connections": view.sockets.open,
        "status": {"running": true, "current_connections": view.sockets.open},
    })
}
