//! What the server is made of: `listListeners` and `listPlugins`.

use serde_json::{Map, Value, json};

use super::Listener;
use super::request::{Answers, Outcome, unknown};

pub(super) fn run(
    payload: &[u8],
    listeners: &[Listener],
    endpoints: &[(&str, Vec<&str>)],
) -> Vec<u8> {
    let answers = Answers::of(payload, |command| match command.name {
        "listListeners" => list_listeners(listeners),
        "listPlugins" => list_plugins(endpoints),
        _ => unknown(),
    });
    answers.encode()
}

fn list_listeners(listeners: &[Listener]) -> Outcome {
    let listed = listeners.iter().map(|listener| {
        let mut entry = Map::new();
        let (protocol, tls) = match listener.protocol {
            "mqtt" => ("mqtt", false),
            "mqtts" => ("mqtt", true),
            "mqtt-ws" => ("websockets", false),
            "mqtt-wss" => ("websockets", true),
            other => (other, false),
        };
        entry.insert("protocol".to_owned(), protocol.into());
        entry.insert("tls".to_owned(), tls.into());
        if let Some(path) = listener.address.strip_prefix("unix:") {
            entry.insert("port".to_owned(), 0.into());
            entry.insert("socket_path".to_owned(), path.into());
        } else if let Some((host, port)) = listener.address.rsplit_once(':') {
            let port: Option<u16> = port.parse().ok();
            entry.insert("port".to_owned(), port.into());
            entry.insert(
                "bind_address".to_owned(),
                host.trim_matches(['[', ']']).into(),
            );
        }
        Value::Object(entry)
    });
    let listed: Vec<Value> = listed.collect();
    Ok(Some(json!({ "listeners": listed })))
}

/// Nothing is plugged in: what Mosquitto has plugins for and this server has built in is named as they are.
fn list_plugins(endpoints: &[(&str, Vec<&str>)]) -> Outcome {
    let listed = endpoints.iter().map(|(name, endpoints)| {
        let version = env!("CARGO_PKG_VERSION");
        json!({ "name": name, "version": version, "control-endpoints": endpoints })
    });
    let listed: Vec<Value> = listed.collect();
    Ok(Some(json!({ "plugins": listed })))
}
