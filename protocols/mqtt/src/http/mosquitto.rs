//! Mosquitto's `http_api`: the `$SYS` tree, the listeners and the version, to look at.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::request::{Asked, Reply, Trouble};
use super::{ListenerFact, VERSION};

/// What goes wrong, in a line of text.
pub(super) fn refuse(trouble: &Trouble) -> Reply {
    let reply = match trouble {
        Trouble::NoPath => Reply::text("Not found.\n"),
        Trouble::NoLogin => {
            Reply::text("Not authorised\n").challenged("Basic realm=\"Mosquitto API\"")
        }
        Trouble::Method => Reply::text("Invalid HTTP Method\n"),
        other => Reply::text(format!("{other}\n")),
    };
    reply.with(trouble.status())
}

pub(super) async fn answer(asked: &Asked, what: &str) -> Result<Reply, Trouble> {
    if asked.method != Method::GET {
        return Err(Trouble::Method);
    }
    asked.looks().await?;
    match what {
        "version" => Ok(Reply::text(VERSION)),
        "systree" => Ok(Reply::json(&tree(asked).into())),
        "listeners" => Ok(Reply::json(&listeners(asked))),
        _ => Err(Trouble::NoPath),
    }
}

/// Every topic under `$SYS/broker/` whose value is a number, as one.
fn tree(asked: &Asked) -> Map<String, Value> {
    let tenant = &asked.api.tenant;
    let values = tenant.sys().values(tenant).into_iter();
    let numbers = values.filter_map(|(topic, value)| {
        let digits = value.strip_suffix(" seconds").unwrap_or(&value);
        let number: u64 = digits.parse().ok()?;
        Some((format!("$SYS/broker/{topic}"), number.into()))
    });
    numbers.collect()
}

fn listeners(asked: &Asked) -> Value {
    let directory = asked.api.authenticator.directory();
    let anonymous = directory.is_open() || directory.anonymous().is_some();
    let facts = asked.api.facts().listeners.into_iter();
    let wanted = facts.filter(|fact| fact.is_mqtt() || fact.protocol == "mqtt-http");
    let all: Vec<Value> = wanted.map(|fact| listener(&fact, anonymous)).collect();
    json!({"listeners": all})
}

fn listener(fact: &ListenerFact, anonymous: bool) -> Value {
    let protocol = match fact.protocol {
        "mqtt-http" => "httpapi",
        _ if fact.is_websocket() => "websockets",
        _ => "mqtt",
    };
    let mut listener = json!({
        "protocol": protocol, "tls": fact.tls, "allow_anonymous": anonymous,
    });
    match fact.port() {
        0 => listener["path"] = fact.address.trim_start_matches("unix:").into(),
        port => listener["port"] = port.into(),
    }
    listener
}
