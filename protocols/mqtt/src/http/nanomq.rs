//! NanoMQ's API, which was EMQX 4's: `/api/v4`. Every answer has a `code`, 0 for all is well.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::VERSION;
use super::clock::plain as plain_time;
use super::prometheus::{Exposition, Kind};
use super::publish::{BULK_MAX, described};
use super::request::{Asked, Reply, Trouble, as_object, needed, text};
use super::views::{Page, SubscriptionsWanted, level, protocol_name, span};
use crate::bridge;
use crate::census::{Kicked, SessionView};
use crate::codec::Qos;
use crate::local::Publication;

/// Entries of a page: by default, and at most. NanoMQ knows no pages and has everything on one.
const PAGE: (usize, usize) = (10_000, 10_000);

/// The codes of NanoMQ.
fn code(trouble: &Trouble) -> u16 {
    match trouble {
        Trouble::NoLogin => 103,
        Trouble::Absent(_) => 107,
        Trouble::Bad(_) | Trouble::Limit(_) | Trouble::TooLarge | Trouble::Exists(_) => 108,
        Trouble::NotJson(_) => 109,
        Trouble::Missing(_) => 112,
        Trouble::Busy(_) | Trouble::Failed(_) => 101,
        _ => 102,
    }
}

/// What goes wrong, as NanoMQ says it, with a text beside the code.
pub(super) fn refuse(trouble: &Trouble) -> Reply {
    let body = json!({"code": code(trouble), "message": trouble.to_string()});
    let reply = Reply::json(&body).with(trouble.status());
    match trouble {
        Trouble::NoLogin => reply.challenged("Basic realm=\"nanomq\""),
        _ => reply,
    }
}

fn data(data: impl Into<Value>) -> Reply {
    let data: Value = data.into();
    Reply::json(&Value::Object(Map::from_iter([
        ("code".to_owned(), 0.into()),
        ("data".to_owned(), data),
    ])))
}

fn done() -> Reply {
    Reply::json(&json!({"code": 0}))
}

/// What is at which path: name, method, description.
const ENDPOINTS: &[(&str, &str, &str, &str)] = &[
    ("/brokers/", "list_brokers", "GET", "The server"),
    ("/nodes/", "list_nodes", "GET", "The server as a node"),
    ("/metrics/", "list_metrics", "GET", "Processor and memory"),
    ("/prometheus/", "prometheus", "GET", "Metrics"),
    ("/clients/", "list_clients", "GET", "Clients"),
    ("/clients/:clientid", "lookup_client", "GET", "One client"),
    (
        "/clients/:clientid",
        "kick_client",
        "DELETE",
        "Disconnects a client",
    ),
    (
        "/clients/username/:username",
        "lookup_client_via_username",
        "GET",
        "The clients of a user",
    ),
    (
        "/subscriptions/",
        "list_subscriptions",
        "GET",
        "Subscriptions",
    ),
    (
        "/subscriptions/:clientid",
        "lookup_client_subscriptions",
        "GET",
        "Those of a client",
    ),
    (
        "/topic-tree/",
        "list_topic-tree",
        "GET",
        "What is subscribed to, as a tree",
    ),
    ("/mqtt/publish", "mqtt_publish", "POST", "Publishes"),
    (
        "/mqtt/publish_batch",
        "mqtt_publish_batch",
        "POST",
        "Publishes several messages",
    ),
    ("/bridges/", "list_bridges", "GET", "Bridges"),
    ("/bridges/:name", "get_bridges", "GET", "One bridge"),
];

/// Answers what is behind `/api/v4`.
pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Result<Reply, Trouble> {
    let get = asked.method == Method::GET;
    match path {
        []
        | ["brokers" | "nodes" | "metrics" | "prometheus" | "topic-tree"]
        | ["subscriptions" | "clients", ..]
            if get =>
        {
            look(asked, path).await
        }
        ["bridges"] | ["bridges", _] if get => look(asked, path).await,
        ["clients", id] if asked.method == Method::DELETE => kick(asked, id).await,
        ["mqtt", "publish"] if asked.method == Method::POST => publish(asked).await,
        ["mqtt", "publish_batch"] if asked.method == Method::POST => publish_batch(asked).await,
        _ => {
            asked.caller().await?;
            Err(elsewhere(path))
        }
    }
}

/// What NanoMQ has and this server has not, with what there is instead.
fn elsewhere(path: &[&str]) -> Trouble {
    let why = match path {
        [
            "mqtt",
            "subscribe" | "subscribe_batch" | "unsubscribe" | "unsubscribe_batch",
        ] => "not here: /api/v5/clients/CLIENT/subscribe and unsubscribe do this",
        ["reload" | "config_update" | "configuration", ..] => {
            "settings are in a file; SIGHUP has certificates and accounts read again"
        }
        ["bridges", ..] => "bridges are configured in the settings (`[[bridges]]`)",
        ["ctrl", ..] => "the server is stopped by a signal (SIGTERM)",
        ["rules", ..] => "there is no rule engine",
        []
        | ["brokers" | "nodes" | "metrics" | "prometheus" | "topic-tree"]
        | ["subscriptions" | "clients", ..]
        | ["mqtt", "publish" | "publish_batch"] => return Trouble::Method,
        _ => return Trouble::NoPath,
    };
    Trouble::Unsupported(why.to_owned())
}

async fn look(asked: &Asked, path: &[&str]) -> Result<Reply, Trouble> {
    asked.looks().await?;
    match path {
        [] => Ok(endpoints()),
        ["brokers"] => Ok(data(json!([broker(asked)]))),
        ["nodes"] => Ok(data(json!([node(asked)]))),
        ["metrics"] => {
            let process = asked.api.figures().process;
            // NanoMQ has text here.
            let memory = process.resident_bytes.to_string();
            Ok(Reply::json(
                &json!({"code": 0, "metrics": [], "memory": memory}),
            ))
        }
        ["prometheus"] => Ok(prometheus(asked)),
        ["topic-tree"] => Ok(data(tree(asked))),
        ["bridges"] => {
            let bridges = asked.api.facts().bridges;
            let all: Vec<Value> = bridges.iter().map(bridge).collect();
            Ok(data(json!({"bridge": {"nodes": all}})))
        }
        ["bridges", name] => {
            let bridges = asked.api.facts().bridges;
            let found = bridges.iter().find(|status| status.name == *name);
            let missing = || Trouble::Missing(format!("there is no bridge {name}"));
            found.map(|status| data(bridge(status))).ok_or_else(missing)
        }
        ["clients"] => clients(asked, None).await,
        ["clients", "username", user] => clients(asked, Some(user)).await,
        ["clients", id] => {
            let view = asked.api.tenant.await_session(id).await;
            let missing = || Trouble::Missing(format!("there is no client {id}"));
            let view = view.ok_or_else(missing)?;
            Ok(data(json!([client(&view)])))
        }
        ["subscriptions"] => subscriptions(asked).await,
        ["subscriptions", id] => {
            let views = asked.api.subscriptions_of(id).await;
            let missing = || Trouble::Missing(format!("there is no client {id}"));
            let views = views.ok_or_else(missing)?;
            let all = views.iter().map(|view| {
                json!({"clientid": &*view.client_id, "topic": &*view.filter, "qos": view.qos.bits()})
            });
            Ok(data(all.collect::<Vec<_>>()))
        }
        _ => Err(Trouble::NoPath),
    }
}

fn endpoints() -> Reply {
    let all = ENDPOINTS.iter().map(|(path, name, method, descr)| {
        json!({"path": path, "name": name, "method": method, "descr": descr})
    });
    data(all.collect::<Vec<_>>())
}

fn broker(asked: &Asked) -> Value {
    json!({
        "datetime": plain_time(asked.api.tenant.now()),
        "node_status": "Running",
        "sysdescr": "Longtail",
        "uptime": span(uptime(asked), "Hours"),
        "version": VERSION,
    })
}

fn uptime(asked: &Asked) -> u64 {
    let tenant = &asked.api.tenant;
    tenant.now().0.saturating_sub(tenant.sys().started().0)
}

fn node(asked: &Asked) -> Value {
    json!({
        "connections": asked.api.figures().connected(),
        "node_status": "Running",
        "uptime": span(uptime(asked), "Hours"),
        "version": VERSION,
    })
}

fn bridge(status: &Arc<bridge::Status>) -> Value {
    json!({
        "name": status.name,
        "enable": true,
        "connected": status.is_up(),
        "sent": status.sent(),
        "received": status.received(),
        "dropped": status.dropped(),
        "connects": status.connects(),
    })
}

fn client(view: &SessionView) -> Value {
    let connected = view.connected.as_ref();
    json!({
        "client_id": &*view.client_id,
        "clientid": &*view.client_id,
        "username": view.username.as_deref().unwrap_or(""),
        "keepalive": connected.map_or(0, |there| there.keep_alive_s),
        "connected": connected.is_some(),
        "conn_state": if connected.is_some() { "connected" } else { "disconnected" },
        "clean_start": connected.is_some_and(|there| there.clean_start),
        "proto_name": protocol_name(view),
        "proto_ver": view.version.map(level),
        "recv_msg": connected.map_or(0, |there| there.received),
    })
}

fn page(asked: &Asked) -> Result<Page, Trouble> {
    Page::of(asked, ("_page", "_limit"), PAGE)
}

async fn clients(asked: &Asked, user: Option<&str>) -> Result<Reply, Trouble> {
    let (page, query) = (page(asked)?, &asked.query);
    let id = query.get("clientid");
    let user = user.or_else(|| query.get("username"));
    let connected = match query.get("conn_state") {
        None => None,
        Some("connected") => Some(true),
        Some("idle" | "disconnected") => Some(false),
        Some(other) => return Err(Trouble::Bad(format!("conn_state: {other:?}"))),
    };
    let clean = query.get("clean_start").map(|text| text == "true");
    let version = query.number("proto_ver")?;
    let name = query.get("proto_name");
    let wanted = |view: &SessionView| {
        let there = view.connected.as_ref();
        id.is_none_or(|id| *view.client_id == *id)
            && user.is_none_or(|user| view.username.as_deref() == Some(user))
            && connected.is_none_or(|wanted| wanted == there.is_some())
            && clean.is_none_or(|clean| there.is_some_and(|there| there.clean_start == clean))
            && version.is_none_or(|number| {
                view.version
                    .is_some_and(|v| usize::from(level(v)) == number)
            })
            && name.is_none_or(|name| name == protocol_name(view))
    };
    let (views, count) = asked
        .api
        .tenant
        .page_of_sessions(wanted, page.skip(), page.size)
        .await;
    Ok(list(views.iter().map(client).collect(), page, count))
}

fn list(all: Vec<Value>, page: Page, count: usize) -> Reply {
    Reply::json(&json!({
        "code": 0,
        "data": Value::Array(all),
        "meta": {
            "page": page.number, "limit": page.size, "count": count, "hasnext": page.has_next(count),
        },
    }))
}

async fn subscriptions(asked: &Asked) -> Result<Reply, Trouble> {
    let (page, query) = (page(asked)?, &asked.query);
    let qos = query.number("qos")?.map(|number| {
        let qos = u8::try_from(number).ok().and_then(Qos::from_bits);
        qos.ok_or_else(|| Trouble::Bad("qos is 0, 1 or 2".to_owned()))
    });
    let wanted = SubscriptionsWanted {
        client: query.get("clientid").map(str::to_owned),
        qos: qos.transpose()?,
        filter: query.get("topic").map(str::to_owned),
        within: None,
        share: query.get("share").map(str::to_owned),
    };
    let (views, count) = asked.api.subscriptions(&wanted, page).await;
    let all = views.iter().map(|view| {
        json!({"clientid": &*view.client_id, "topic": &*view.filter, "qos": view.qos.bits()})
    });
    Ok(list(all.collect(), page, count))
}

/// A level of the tree of filters.
#[derive(Default)]
struct Level {
    clients: Vec<Arc<str>>,
    below: BTreeMap<String, Level>,
}

/// The filters as NanoMQ draws them: level by level, each with its clients and how many levels are below it.
fn tree(asked: &Asked) -> Value {
    let mut root = Level::default();
    asked.api.tenant.look_at_subscriptions(|view| {
        let mut at = &mut root;
        for token in super::views::plain(&view.filter).split('/') {
            at = at.below.entry(token.to_owned()).or_default();
        }
        at.clients.push(view.client_id);
    });
    let mut rows = vec![json!([{"topic": "", "cld_cnt": root.below.len()}])];
    let mut row: Vec<&Level> = vec![&root];
    while !row.is_empty() {
        let below = row.iter().copied().flat_map(|level: &Level| &level.below);
        let entries = below.clone().map(|(token, level)| {
            let clients: Vec<&str> = level.clients.iter().map(|id| &**id).collect();
            let mut entry = json!({"topic": token, "cld_cnt": level.below.len()});
            if !clients.is_empty() {
                entry["clientid"] = clients.into();
            }
            entry
        });
        let entries: Vec<Value> = entries.collect();
        if !entries.is_empty() {
            rows.push(entries.into());
        }
        row = below.map(|(_, level)| level).collect();
    }
    rows.into()
}

fn prometheus(asked: &Asked) -> Reply {
    let figures = asked.api.figures();
    let limits = &asked.api.tenant.config().limits;
    let mut page = Exposition::default();
    let mut gauge = |name: &str, help: &str, value| {
        page.add(&format!("nanomq_{name}"), Kind::Gauge, help, "", value);
    };
    gauge(
        "connections_count",
        "Clients connected.",
        figures.connected(),
    );
    gauge(
        "connections_max",
        "Most clients that were connected at a time.",
        figures.connected_max,
    );
    gauge("sessions_count", "Sessions.", figures.census.sessions());
    gauge(
        "sessions_max",
        "Sessions that there may be.",
        limits.sessions_max as u64,
    );
    gauge(
        "topics_count",
        "Filters that are subscribed to.",
        figures.topics,
    );
    gauge(
        "subscribers_count",
        "Subscriptions.",
        figures.census.subscriptions,
    );
    gauge(
        "memory_usage",
        "Resident bytes.",
        figures.process.resident_bytes,
    );
    gauge(
        "memory_usage_max",
        "The most that it ever was.",
        figures.process.resident_bytes_max,
    );
    let mut counter = |name: &str, help: &str, value| {
        page.add(&format!("nanomq_{name}"), Kind::Counter, help, "", value);
    };
    counter(
        "messages_received",
        "Messages from clients.",
        figures.traffic.received(),
    );
    counter(
        "messages_sent",
        "Messages to clients.",
        figures.traffic.sent(),
    );
    counter(
        "messages_dropped",
        "Messages that clients did not get.",
        figures.dropped,
    );
    Reply::metrics(page.text())
}

async fn kick(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    match asked.api.tenant.expel(id, false).await {
        Kicked::Disconnected | Kicked::Forgotten => Ok(done()),
        Kicked::Unknown | Kicked::Away | Kicked::Ending => Err(Trouble::Missing(format!(
            "the client {id} is not connected"
        ))),
    }
}

/// A message of a request: its topics, its client, and the rest.
struct Entry {
    topics: Vec<String>,
    client_id: String,
    publication: Publication,
}

impl Entry {
    fn read(object: &Map<String, Value>) -> Result<Self, Trouble> {
        let mut topics: Vec<String> = text(object, "topic")?
            .into_iter()
            .map(str::to_owned)
            .collect();
        let listed = text(object, "topics")?.unwrap_or_default().split(',');
        topics.extend(
            listed
                .map(str::trim)
                .filter(|topic| !topic.is_empty())
                .map(str::to_owned),
        );
        if topics.is_empty() {
            return Err(Trouble::Absent("topic"));
        }
        if object.get("payload").is_none() {
            return Err(Trouble::Absent("payload"));
        }
        Ok(Entry {
            topics,
            client_id: needed(object, "clientid")?.to_owned(),
            publication: described(object, "encoding")?,
        })
    }
}

async fn publish(asked: &Asked) -> Result<Reply, Trouble> {
    let caller = asked.caller().await?;
    let entry = Entry::read(&asked.object()?)?;
    for topic in entry.topics {
        let publication = Publication {
            topic,
            ..entry.publication.clone()
        };
        asked
            .api
            .publish(&caller, &entry.client_id, publication)
            .await?;
    }
    Ok(done())
}

async fn publish_batch(asked: &Asked) -> Result<Reply, Trouble> {
    let caller = asked.caller().await?;
    let list = asked.list()?;
    if list.len() > BULK_MAX {
        return Err(Trouble::Bad(format!(
            "at most {BULK_MAX} messages at a time"
        )));
    }
    // All of them are read before one is sent.
    let entries = list
        .into_iter()
        .map(|entry| Entry::read(&as_object(entry)?));
    let entries: Vec<Entry> = entries.collect::<Result<_, Trouble>>()?;
    let mut outcomes = Vec::new();
    for entry in entries {
        for topic in entry.topics {
            let publication = Publication {
                topic: topic.clone(),
                ..entry.publication.clone()
            };
            let sent = asked
                .api
                .publish(&caller, &entry.client_id, publication)
                .await;
            outcomes.push(match sent {
                Ok(_) => json!({"topic": topic, "code": 0}),
                Err(error) => {
                    let trouble = Trouble::from(error);
                    json!({"topic": topic, "code": code(&trouble), "message": trouble.to_string()})
                }
            });
        }
    }
    Ok(data(outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(value: &Value) -> Result<Vec<String>, Trouble> {
        Entry::read(value.as_object().unwrap()).map(|entry| entry.topics)
    }

    #[test]
    fn a_message_goes_to_one_topic_or_to_several() {
        let read =
            topics(&json!({"topics": "a, b,,c", "topic": "d", "clientid": "x", "payload": ""}));
        assert_eq!(read.unwrap(), ["d", "a", "b", "c"]);
        for wrong in [
            json!({"clientid": "x", "payload": ""}),
            json!({"topic": "a", "payload": ""}),
            json!({"topic": "a", "clientid": "x"}),
        ] {
            let trouble = topics(&wrong).unwrap_err();
            assert_eq!(code(&trouble), 107, "{wrong}");
        }
    }

    #[test]
    fn errors_have_the_codes_of_nanomq() {
        let reply = refuse(&Trouble::NotJson("eof".to_owned()));
        assert_eq!(reply.status, 400);
        assert!(reply.body.starts_with(r#"{"code":109,"#), "{}", reply.body);
        assert_eq!(refuse(&Trouble::NoLogin).status, 401);
    }
}
