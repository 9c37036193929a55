//! `/clients`, `/subscriptions`, `/topics`.

use axum::http::Method;
use longtail_model::{Filter, Timestamp};
use serde_json::{Map, Value, json};

use super::waiting::messages_of;
use super::{Answered, no_method, page, paged};
use crate::behalf::NotConnected;
use crate::census::{Kicked, SessionView, SubscriptionView};
use crate::codec::{Qos, RetainHandling, Subscription, SubscriptionOptions};
use crate::http::clock::{parse, rfc3339};
use crate::http::request::{Asked, Reply, Trouble, as_object, needed, number};
use crate::http::views::{SubscriptionsWanted, level, protocol_name};
use crate::waiting::Kind;

/// Clients, subscriptions or filters in one request at most.
const BULK_MAX: usize = 1000;

/// Parameters of EMQX that nothing here answers to. Left out quietly, they would find too much.
const UNKNOWN: [&str; 3] = ["gte_created_at", "lte_created_at", "cursor"];

pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Answered {
    let (get, post) = (asked.method == Method::GET, asked.method == Method::POST);
    Some(match path {
        [] if get => list(asked).await,
        ["kickout", "bulk"] if post => kick_all(asked).await,
        [id] if get => one(asked, id).await,
        [id] if asked.method == Method::DELETE => kick(asked, id).await,
        [id, "subscriptions"] if get => subscriptions_of(asked, id).await,
        [id, "subscribe"] if post => subscribe(asked, id, false).await,
        [id, "subscribe", "bulk"] if post => subscribe(asked, id, true).await,
        [id, "unsubscribe"] if post => unsubscribe(asked, id, false).await,
        [id, "unsubscribe", "bulk"] if post => unsubscribe(asked, id, true).await,
        [id, "keepalive"] if asked.method == Method::PUT => keep_alive(asked, id).await,
        [id, "mqueue_messages"] if get => messages_of(asked, id, Kind::Waiting).await,
        [id, "inflight_messages"] if get => messages_of(asked, id, Kind::InFlight).await,
        []
        | [_]
        | [
            _,
            "subscriptions" | "keepalive" | "subscribe" | "unsubscribe" | "mqueue_messages"
            | "inflight_messages",
        ]
        | [_, "subscribe" | "unsubscribe", "bulk"] => return no_method(asked).await,
        _ => return None,
    })
}

pub(super) fn unknown(id: &str) -> Trouble {
    Trouble::Missing(format!("Client ID not found: {id}"))
}

fn client(asked: &Asked, view: &SessionView) -> Value {
    let levels = &view.levels;
    let mut client = json!({
        "clientid": &*view.client_id,
        "username": view.username.as_deref(),
        "node": asked.api.node(),
        "connected": view.connected.is_some(),
        "proto_name": protocol_name(view),
        "proto_ver": view.version.map(level),
        "subscriptions_cnt": levels.subscriptions,
        "inflight_cnt": levels.in_flight,
        "mqueue_len": levels.queued,
        "mqueue_dropped": levels.drops.total(),
        "awaiting_rel_cnt": levels.unreleased,
    });
    let Value::Object(fields) = &mut client else {
        return client;
    };
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if let Some(connected) = &view.connected {
        put("connected_at", rfc3339(connected.since).into());
        put(
            "ip_address",
            connected.address.map(|a| a.ip().to_string()).into(),
        );
        put("port", connected.address.map(|a| a.port()).into());
        put("listener", (&*connected.listener).into());
        put("keepalive", connected.keep_alive_s.into());
        put("clean_start", connected.clean_start.into());
        put("expiry_interval", connected.expiry_s.into());
        put("is_bridge", connected.bridge.into());
        put("recv_msg", connected.received.into());
        put("send_msg", connected.sent.into());
        put("recv_oct", connected.bytes_in.into());
        put("send_oct", connected.bytes_out.into());
    } else if let Some(at) = view.expires {
        put("expires_at", rfc3339(at).into());
    }
    client
}

/// A time in a query.
fn time(asked: &Asked, name: &str) -> Result<Option<Timestamp>, Trouble> {
    let Some(text) = asked.query.get(name) else {
        return Ok(None);
    };
    let wrong = || Trouble::Bad(format!("{name}: {text:?} is no time"));
    parse(text).map(Some).ok_or_else(wrong)
}

async fn list(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let page = page(asked)?;
    let query = &asked.query;
    if let Some(name) = UNKNOWN.iter().find(|name| query.get(name).is_some()) {
        return Err(Trouble::Unsupported(format!("{name} is not known here")));
    }
    let all = |name: &'static str| query.all(name).map(str::to_owned).collect::<Vec<_>>();
    let (ids, users) = (all("clientid"), all("username"));
    let (like_id, like_user) = (query.get("like_clientid"), query.get("like_username"));
    let connected = match query.get("conn_state") {
        None => None,
        Some("connected") => Some(true),
        Some("disconnected" | "idle") => Some(false),
        Some(other) => return Err(Trouble::Bad(format!("conn_state: {other:?}"))),
    };
    let clean = query.get("clean_start").map(|text| text == "true");
    let version = query.number("proto_ver")?;
    let address = query.get("ip_address");
    let (from, to) = (
        time(asked, "gte_connected_at")?,
        time(asked, "lte_connected_at")?,
    );
    let node = asked.api.node();
    if query.get("node").is_some_and(|other| other != node) {
        return Ok(paged(Vec::new(), page, 0));
    }
    let wanted = |view: &SessionView| {
        let there = view.connected.as_ref();
        let user = view.username.as_deref().unwrap_or("");
        (ids.is_empty() || ids.iter().any(|id| **id == *view.client_id))
            && (users.is_empty() || users.iter().any(|name| name == user))
            && like_id.is_none_or(|part| view.client_id.contains(part))
            && like_user.is_none_or(|part| user.contains(part))
            && connected.is_none_or(|wanted| wanted == there.is_some())
            && clean.is_none_or(|clean| there.is_some_and(|there| there.clean_start == clean))
            && version.is_none_or(|number| {
                view.version
                    .is_some_and(|v| usize::from(level(v)) == number)
            })
            && address.is_none_or(|text| {
                let of = there.and_then(|there| there.address);
                of.is_some_and(|of| of.ip().to_string() == text)
            })
            && from.is_none_or(|from| there.is_some_and(|there| there.since >= from))
            && to.is_none_or(|to| there.is_some_and(|there| there.since <= to))
    };
    let (views, count) = asked
        .api
        .tenant
        .page_of_sessions(wanted, page.skip(), page.size)
        .await;
    let data = views.iter().map(|view| client(asked, view)).collect();
    Ok(paged(data, page, count))
}

async fn one(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let view = asked.api.tenant.await_session(id).await;
    let view = view.ok_or_else(|| unknown(id))?;
    Ok(Reply::json(&client(asked, &view)))
}

async fn kick(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    // EMQX ends the session of a client that it kicks out.
    match asked.api.tenant.expel(id, true).await {
        Kicked::Unknown => Err(unknown(id)),
        Kicked::Disconnected | Kicked::Forgotten | Kicked::Away | Kicked::Ending => {
            Ok(Reply::done())
        }
    }
}

async fn kick_all(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let list = asked.list()?;
    let ids: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
    let ids = ids.filter(|ids| ids.len() <= BULK_MAX).ok_or_else(|| {
        Trouble::Bad(format!(
            "a list of {BULK_MAX} client identifiers at most is expected"
        ))
    })?;
    for id in ids {
        // Those that are not there are as wished.
        let _ = asked.api.tenant.expel(id, true).await;
    }
    Ok(Reply::done())
}

fn subscription(asked: &Asked, view: &SubscriptionView) -> Value {
    json!({
        "node": asked.api.node(),
        "clientid": &*view.client_id,
        "topic": &*view.filter,
        "qos": view.qos.bits(),
        "nl": u8::from(view.no_local),
        "rap": u8::from(view.retain_as_published),
        // How a SUBSCRIBE wanted retained messages is not kept once they are sent.
        "rh": 0,
        "durable": false,
    })
}

async fn subscriptions_of(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let views = asked.api.subscriptions_of(id).await;
    let views = views.ok_or_else(|| unknown(id))?;
    let all: Vec<_> = views.iter().map(|view| subscription(asked, view)).collect();
    Ok(Reply::json(&all.into()))
}

fn gone(id: &str) -> impl Fn(NotConnected) -> Trouble {
    move |_| unknown(id)
}

/// Entries of a body: one, or a list.
fn entries(asked: &Asked, bulk: bool) -> Result<Vec<Map<String, Value>>, Trouble> {
    let list = if bulk {
        asked.list()?
    } else {
        vec![asked.json()?]
    };
    if list.len() > BULK_MAX {
        return Err(Trouble::Bad(format!("at most {BULK_MAX} at a time")));
    }
    list.into_iter().map(as_object).collect()
}

async fn subscribe(asked: &Asked, id: &str, bulk: bool) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let entries = entries(asked, bulk)?;
    let wanted = entries.iter().map(|entry| {
        let bit = |name| Ok::<_, Trouble>(number(entry, name)?.unwrap_or(0) != 0);
        let qos = number(entry, "qos")?.unwrap_or(0);
        Ok(Subscription {
            filter: needed(entry, "topic")?,
            options: SubscriptionOptions {
                qos: u8::try_from(qos)
                    .ok()
                    .and_then(Qos::from_bits)
                    .ok_or_else(|| Trouble::Bad("qos is 0, 1 or 2".to_owned()))?,
                no_local: bit("nl")?,
                retain_as_published: bit("rap")?,
                retain_handling: match number(entry, "rh")?.unwrap_or(0) {
                    0 => RetainHandling::Always,
                    1 => RetainHandling::IfNew,
                    2 => RetainHandling::Never,
                    _ => return Err(Trouble::Bad("rh is 0, 1 or 2".to_owned())),
                },
            },
        })
    });
    let wanted: Vec<Subscription<'_>> = wanted.collect::<Result<_, Trouble>>()?;
    let granted = asked
        .api
        .tenant
        .subscribe_for(id, &wanted)
        .map_err(gone(id))?;
    let refused = wanted.iter().zip(&granted).find_map(|(one, granted)| {
        let reason = granted.err()?;
        Some(Trouble::Bad(format!("{}: {reason:?}", one.filter)))
    });
    if let Some(refused) = refused {
        return Err(refused);
    }
    let shown = wanted.iter().map(|one| {
        json!({
            "node": asked.api.node(),
            "clientid": id,
            "topic": one.filter,
            "qos": one.options.qos.bits(),
            "nl": u8::from(one.options.no_local),
            "rap": u8::from(one.options.retain_as_published),
            "rh": one.options.retain_handling as u8,
        })
    });
    let mut shown: Vec<_> = shown.collect();
    Ok(Reply::json(&match shown.pop() {
        Some(last) if !bulk => last,
        Some(last) => {
            shown.push(last);
            shown.into()
        }
        None => shown.into(),
    }))
}

async fn unsubscribe(asked: &Asked, id: &str, bulk: bool) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let entries = entries(asked, bulk)?;
    let filters = entries.iter().map(|entry| needed(entry, "topic"));
    let filters: Vec<&str> = filters.collect::<Result<_, Trouble>>()?;
    let reasons = asked
        .api
        .tenant
        .unsubscribe_for(id, &filters)
        .map_err(gone(id))?;
    if !bulk
        && reasons
            .iter()
            .any(|reason| *reason != crate::codec::ReasonCode::Success)
    {
        let why = format!("the client is not subscribed to {}", filters.concat());
        return Err(Trouble::Missing(why));
    }
    Ok(Reply::done())
}

async fn keep_alive(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let body = asked.object()?;
    let seconds = number(&body, "interval")?.ok_or(Trouble::Absent("interval"))?;
    let seconds = u16::try_from(seconds);
    let seconds = seconds.map_err(|_| Trouble::Bad("interval is 0 to 65535".to_owned()))?;
    asked
        .api
        .tenant
        .set_keep_alive(id, seconds)
        .map_err(gone(id))?;
    one(asked, id).await
}

/// `/subscriptions` and `/topics`.
pub(super) async fn routes(asked: &Asked, path: &[&str]) -> Answered {
    Some(match path {
        _ if asked.method != Method::GET => return no_method(asked).await,
        ["subscriptions"] => subscriptions(asked).await,
        ["topics"] => topics(asked).await,
        ["topics", topic] => one_topic(asked, topic).await,
        _ => return None,
    })
}

async fn subscriptions(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let page = page(asked)?;
    let query = &asked.query;
    let qos = query.number("qos")?.map(|qos| {
        let bits = u8::try_from(qos).ok();
        let qos = bits.and_then(Qos::from_bits);
        qos.ok_or_else(|| Trouble::Bad("qos is 0, 1 or 2".to_owned()))
    });
    let within = query.get("match_topic").map(|text| {
        let filter = Filter::parse_mqtt(text);
        filter.map_err(|_| Trouble::Bad(format!("match_topic: {text:?} is no filter")))
    });
    let wanted = SubscriptionsWanted {
        client: query.get("clientid").map(str::to_owned),
        qos: qos.transpose()?,
        filter: query.get("topic").map(str::to_owned),
        within: within.transpose()?,
        share: query.get("share_group").map(str::to_owned),
    };
    let (views, count) = asked.api.subscriptions(&wanted, page).await;
    let data = views.iter().map(|view| subscription(asked, view)).collect();
    Ok(paged(data, page, count))
}

async fn topics(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let page = page(asked)?;
    let topics = asked.api.topics();
    let wanted = asked.query.get("topic");
    let node = asked.api.node();
    let names = topics
        .keys()
        .filter(|name| wanted.is_none_or(|wanted| *name == wanted));
    let all = names.map(|name| json!({"topic": name, "node": node}));
    Ok(super::cut(all.collect(), page))
}

async fn one_topic(asked: &Asked, topic: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    if !asked.api.topics().contains_key(topic) {
        return Err(Trouble::Missing(format!("Topic not found: {topic}")));
    }
    let route = json!({"topic": topic, "node": asked.api.node()});
    Ok(Reply::json(&Value::Array(vec![route])))
}
