//! VerneMQ's pages and APIs: `/metrics`, `/health`, `/status.json`, the commands of `vmq-admin` that are about clients
//! and listeners (`/api/v1`, `/api/v2`), and publishing (`/restmqtt/api/v1/publish`).

use std::sync::atomic::Ordering;

use axum::http::Method;
use bytes::Bytes;
use longtail_model::Filter;
use serde_json::{Map, Value, json};

use super::VERSION;
use super::access::{CLIENT_ID, OnBehalf};
use super::prometheus::{Exposition, Kind};
use super::publish::{payload, qos, user_properties};
use super::request::{Asked, Reply, Trouble, flag, needed, number, text};
use super::views::{Page, level};
use crate::census::{Kicked, SessionView};
use crate::local::Publication;
use crate::message;

/// Rows that `session show` and `retain show` have, if nothing else is said, and at most.
const ROWS: (usize, usize) = (100, 10_000);

/// What goes wrong, in a line.
pub(super) fn refuse(trouble: &Trouble) -> Reply {
    let reply = Reply::json(&json!({"error": trouble.to_string()})).with(trouble.status());
    match trouble {
        Trouble::NoLogin => reply.challenged("Basic realm=\"VerneMQ\""),
        _ => reply,
    }
}

fn table(rows: Vec<Value>) -> Reply {
    Reply::json(&json!({"type": "table", "table": Value::Array(rows)}))
}

fn done() -> Reply {
    Reply::json(&json!({"type": "text", "text": "Done"}))
}

/// Answers what is VerneMQ's.
pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Result<Reply, Trouble> {
    let get = asked.method == Method::GET;
    match path {
        // Probes come from a supervisor that has no account.
        ["health"] | ["health", "ping" | "listeners" | "listeners_full_cluster"] if get => {
            Ok(Reply::json(&json!({"status": "OK"})))
        }
        ["metrics"] if get => asked.looks().await.map(|_| metrics(asked)),
        ["status.json"] if get => asked.looks().await.map(|_| status(asked)),
        ["api", "v1", command @ ..] if get || asked.method == Method::POST => {
            admin(asked, command).await
        }
        ["api", "v2", "client"] if get => client_status(asked).await,
        ["api", "v2", "disconnect"] if get => disconnect(asked).await,
        ["restmqtt", "api", "v1", "publish"] => match asked.method {
            Method::POST | Method::PUT => publish(asked).await,
            _ => Err(Trouble::Method),
        },
        ["metrics" | "status.json"]
        | ["health", ..]
        | ["api", "v1", ..]
        | ["api", "v2", "client" | "disconnect"] => Err(Trouble::Method),
        _ => {
            asked.caller().await?;
            Err(Trouble::NoPath)
        }
    }
}

/// A parameter of a command, with `-` or `_`, with two dashes in front or none.
fn parameter<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    let dashed = name.replace('_', "-");
    let names = [
        name.to_owned(),
        format!("--{name}"),
        dashed.clone(),
        format!("--{dashed}"),
    ];
    names.iter().find_map(|name| asked.query.get(name))
}

fn switch(asked: &Asked, name: &str) -> bool {
    matches!(parameter(asked, name), Some("" | "true" | "1"))
}

/// A command of `vmq-admin`.
async fn admin(asked: &Asked, command: &[&str]) -> Result<Reply, Trouble> {
    match command {
        ["session" | "sessions", "show" | "list"] | ["sessions"] => {
            asked.looks().await?;
            sessions(asked).await
        }
        ["session" | "sessions", "disconnect"] => {
            asked.changes().await?;
            let id = parameter(asked, "client_id").ok_or(Trouble::Absent("client-id"))?;
            match asked.api.tenant.expel(id, switch(asked, "cleanup")).await {
                Kicked::Unknown => Err(Trouble::Missing(format!("there is no client {id}"))),
                _ => Ok(done()),
            }
        }
        ["cluster" | "cluster_show"] | ["cluster", "show" | "status"] => {
            asked.looks().await?;
            Ok(table(vec![
                json!({"Node": asked.api.node(), "Running": true}),
            ]))
        }
        ["listener" | "listeners", "show"] => {
            asked.looks().await?;
            let views = asked.api.listeners();
            let rows = views.iter().map(|view| listener(view, "address"));
            Ok(table(rows.collect()))
        }
        ["retain", "show"] => {
            asked.looks().await?;
            retained(asked)
        }
        ["metrics", "show"] => {
            asked.looks().await?;
            let rows = series(asked).into_iter();
            let rows = rows.map(|(kind, name, _, value)| {
                let kind = if kind == Kind::Gauge {
                    "gauge"
                } else {
                    "counter"
                };
                json!({"type": kind, "metric": name, "value": value})
            });
            Ok(table(rows.collect()))
        }
        _ => {
            asked.caller().await?;
            Err(Trouble::Unsupported(format!(
                "{}: this command of vmq-admin is not there; `longtail help` lists what there is",
                command.join(" ")
            )))
        }
    }
}

/// The fields of a session that `session show` can have.
fn fields(view: &SessionView) -> Vec<(&'static str, Value)> {
    let connected = view.connected.as_ref();
    let address = connected.and_then(|there| there.address);
    let levels = &view.levels;
    vec![
        ("client_id", (&*view.client_id).into()),
        ("is_online", connected.is_some().into()),
        ("mountpoint", "".into()),
        ("peer_host", address.map(|a| a.ip().to_string()).into()),
        ("peer_port", address.map(|a| a.port()).into()),
        ("user", view.username.as_deref().into()),
        ("protocol", view.version.map(level).into()),
        (
            "clean_session",
            connected.map(|there| there.clean_start).into(),
        ),
        ("waiting_acks", levels.in_flight.into()),
        ("online_messages", levels.queued.into()),
        (
            "offline_messages",
            if connected.is_none() {
                levels.queued
            } else {
                0
            }
            .into(),
        ),
        ("num_sessions", 1.into()),
        (
            "session_started_at",
            connected.map(|there| there.since.0).into(),
        ),
    ]
}

/// Columns that `session show` has if it is not asked for others.
const COLUMNS: [&str; 6] = [
    "client_id",
    "is_online",
    "mountpoint",
    "peer_host",
    "peer_port",
    "user",
];

async fn sessions(asked: &Asked) -> Result<Reply, Trouble> {
    let rows = asked
        .query
        .number("--limit")?
        .or(asked.query.number("limit")?);
    let rows = rows.unwrap_or(ROWS.0);
    if rows == 0 || rows > ROWS.1 {
        return Err(Trouble::Bad(format!("limit is 1 to {}", ROWS.1)));
    }
    let none = fields(&SessionView::default());
    let known = |name: &str| none.iter().any(|(field, _)| *field == name);
    // A flag wants a column, a value wants those that have it.
    let flags = asked.query.flags();
    if let Some(other) = flags.iter().find(|name| !known(name) && **name != "limit") {
        return Err(Trouble::Bad(format!(
            "{other} is no column of a session here"
        )));
    }
    let columns: Vec<&str> = if flags.is_empty() {
        COLUMNS.to_vec()
    } else {
        none.iter()
            .map(|(name, _)| *name)
            .filter(|name| flags.contains(name))
            .collect()
    };
    let wanted = |view: &SessionView| {
        fields(view).iter().all(|(name, value)| {
            let Some(wanted) = asked.query.get(name) else {
                return true;
            };
            match value {
                Value::String(text) => text == wanted,
                Value::Bool(flag) => wanted.parse() == Ok(*flag),
                Value::Number(number) => number.as_u64() == wanted.parse().ok(),
                _ => false,
            }
        })
    };
    let (views, _) = asked.api.tenant.page_of_sessions(wanted, 0, rows).await;
    let row = |view: &SessionView| {
        let wanted = fields(view)
            .into_iter()
            .filter(|(name, _)| columns.contains(name));
        let row: Map<String, Value> = wanted
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Value::Object(row)
    };
    Ok(table(views.iter().map(row).collect()))
}

fn retained(asked: &Asked) -> Result<Reply, Trouble> {
    let filter = parameter(asked, "topic").map_or(Ok(Filter::everything()), Filter::parse_mqtt);
    let filter = filter.map_err(|error| Trouble::Bad(format!("topic: {error}")))?;
    let rows = asked
        .query
        .number("--limit")?
        .unwrap_or(ROWS.0)
        .clamp(1, ROWS.1);
    let page = Page {
        number: 1,
        size: rows,
    };
    let (messages, _) = asked.api.retained(filter, page);
    let rows = messages.iter().map(|found| {
        json!({
            "topic": found.subject.as_str(),
            "payload": String::from_utf8_lossy(&found.payload),
            "qos": message::qos(found.quality).bits(),
        })
    });
    Ok(table(rows.collect()))
}

fn listener(view: &super::views::ListenerView, address: &str) -> Value {
    let kind = match (view.fact.is_websocket(), view.fact.tls) {
        (false, false) => "mqtt",
        (false, true) => "mqtts",
        (true, false) => "mqttws",
        (true, true) => "mqttwss",
    };
    let host = view
        .fact
        .address
        .rsplit_once(':')
        .map_or("", |(host, _)| host);
    let mut row = json!({
        "type": kind, "status": "running", "port": view.fact.port(), "mountpoint": "",
        "active_conns": view.sockets.open, "all_conns": view.sockets.accepted,
    });
    row[address] = host.into();
    row
}

fn status(asked: &Asked) -> Reply {
    let figures = asked.api.figures();
    let node = asked.api.node();
    let listeners = asked.api.listeners();
    let listeners: Vec<Value> = listeners.iter().map(|view| listener(view, "ip")).collect();
    Reply::json(&json!([{
        node.clone(): {
            "num_online": figures.connected(),
            "num_offline": figures.census.away,
            "msg_in": figures.traffic.received(),
            "msg_out": figures.traffic.sent(),
            "queue_drop": figures.dropped,
            "num_subscriptions": figures.census.subscriptions,
            "num_retained": figures.retained,
            "mystatus": [{node: true}],
            "listeners": listeners,
            "version": VERSION,
        },
    }]))
}

/// What is counted, by VerneMQ's names: kind, name, description, value.
fn series(asked: &Asked) -> Vec<(Kind, &'static str, &'static str, u64)> {
    let figures = asked.api.figures();
    let counters = asked.api.tenant.counters();
    let expired = counters.expired.load(Ordering::Relaxed);
    let closed = figures
        .sockets
        .accepted
        .saturating_sub(figures.sockets.open);
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    vec![
        (
            counter,
            "socket_open",
            "Connections accepted.",
            figures.sockets.accepted,
        ),
        (counter, "socket_close", "Connections ended.", closed),
        (
            counter,
            "bytes_received",
            "Bytes received.",
            figures.sockets.bytes_in,
        ),
        (
            counter,
            "bytes_sent",
            "Bytes sent.",
            figures.sockets.bytes_out,
        ),
        (
            counter,
            "mqtt_publish_received",
            "PUBLISH received.",
            figures.traffic.received(),
        ),
        (
            counter,
            "mqtt_publish_sent",
            "PUBLISH sent.",
            figures.traffic.sent(),
        ),
        (
            counter,
            "mqtt_publish_auth_error",
            "PUBLISH not allowed.",
            figures.denied,
        ),
        (
            counter,
            "queue_message_drop",
            "Messages that clients did not get.",
            figures.dropped,
        ),
        (
            counter,
            "client_expired",
            "Sessions that ended while their clients were away.",
            expired,
        ),
        (
            gauge,
            "queue_processes",
            "Sessions.",
            figures.census.sessions(),
        ),
        (
            gauge,
            "active_mqtt_connections",
            "Clients connected.",
            figures.connected(),
        ),
        (
            gauge,
            "router_subscriptions",
            "Subscriptions.",
            figures.census.subscriptions,
        ),
        (
            gauge,
            "retain_messages",
            "Retained messages.",
            figures.retained,
        ),
        (
            gauge,
            "vm_memory_total",
            "Resident bytes.",
            figures.process.resident_bytes,
        ),
        (
            gauge,
            "system_wallclock",
            "Milliseconds since the start.",
            figures.uptime_ms,
        ),
    ]
}

fn metrics(asked: &Asked) -> Reply {
    let labels = format!("node=\"{}\"", asked.api.node());
    let mut page = Exposition::default();
    for (kind, name, help, value) in series(asked) {
        page.add(name, kind, help, &labels, value);
    }
    Reply::metrics(page.text())
}

async fn client_status(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let id = parameter(asked, "client_id").ok_or(Trouble::Absent("client_id"))?;
    let view = asked.api.tenant.await_session(id).await;
    let status = match &view {
        None => "unknown",
        Some(view) if view.connected.is_some() => "online",
        Some(_) => "offline",
    };
    let mut body = json!({"status": status});
    if switch(asked, "topics") {
        let views = asked.api.subscriptions_of(id).await;
        let topics = views
            .iter()
            .flatten()
            .map(|view| (view.filter.to_string(), view.qos.bits().into()));
        body["topics"] = Value::Object(topics.collect());
    }
    Ok(Reply::json(&body))
}

async fn disconnect(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let id = parameter(asked, "client_id").ok_or(Trouble::Absent("client_id"))?;
    let outcome = match asked.api.tenant.expel(id, switch(asked, "cleanup")).await {
        Kicked::Unknown => "unknown",
        _ => "ok",
    };
    Ok(Reply::json(&outcome.into()))
}

/// What a request to publish says, wherever it says it.
struct Asking {
    publication: Publication,
    client_id: String,
    user: Option<String>,
    password: String,
}

impl Asking {
    /// By JSON in the body, by headers, or by the query.
    fn read(asked: &Asked) -> Result<Self, Trouble> {
        if asked.query.get("topic").is_some() {
            return Self::plain(asked, |name| asked.query.get(name));
        }
        if asked.headers.contains_key("topic") {
            return Self::plain(asked, |name| asked.header(name));
        }
        let body = asked.object()?;
        let owned = |name| Ok::<_, Trouble>(text(&body, name)?.map(str::to_owned));
        Ok(Asking {
            publication: Publication {
                topic: needed(&body, "topic")?.to_owned(),
                payload: payload(body.get("payload"), asked.query.get("encoding"))?,
                qos: qos(number(&body, "qos")?)?,
                retain: flag(&body, "retain")?.unwrap_or(false),
                user: user_properties(body.get("user_properties"))?,
                ..Publication::default()
            },
            client_id: owned("client_id")?.unwrap_or_else(|| CLIENT_ID.to_owned()),
            user: owned("user")?,
            password: owned("password")?.unwrap_or_default(),
        })
    }

    fn plain<'a>(asked: &Asked, get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Trouble> {
        let number = match get("qos") {
            None => None,
            Some(text) => {
                let wrong = |_| Trouble::Bad("qos is 0, 1 or 2".to_owned());
                Some(text.parse().map_err(wrong)?)
            }
        };
        let user = match get("user_properties") {
            None => Vec::new(),
            Some(text) => {
                let read = serde_json::from_str::<Value>(text);
                let read =
                    read.map_err(|error| Trouble::Bad(format!("user_properties: {error}")))?;
                user_properties(Some(&read))?
            }
        };
        let retain = match get("retain") {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(Trouble::Bad("retain is true or false".to_owned())),
        };
        let client_id = get("client_id").or_else(|| get("clientid"));
        Ok(Asking {
            publication: Publication {
                topic: get("topic").unwrap_or_default().to_owned(),
                // What the body is a part of may be much larger, and is kept as long as the message.
                payload: Bytes::copy_from_slice(&asked.body),
                qos: qos(number)?,
                retain,
                user,
                ..Publication::default()
            },
            client_id: client_id.unwrap_or(CLIENT_ID).to_owned(),
            user: get("user").map(str::to_owned),
            password: get("password").unwrap_or_default().to_owned(),
        })
    }
}

async fn publish(asked: &Asked) -> Result<Reply, Trouble> {
    let asking = Asking::read(asked)?;
    let caller = match &asking.user {
        // The client of MQTT that it speaks for is who has to have the rights.
        Some(user) => {
            let client = OnBehalf {
                client_id: &asking.client_id,
                user,
                password: asking.password.as_bytes(),
            };
            asked.on_behalf(&client).await?
        }
        None => asked.caller().await?,
    };
    let client_id = &asking.client_id;
    asked
        .api
        .publish(&caller, client_id, asking.publication)
        .await?;
    Ok(Reply::json(&json!({"result": "ok"})))
}
