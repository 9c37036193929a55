//! `/exchanges`: what there is, and publishing.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use super::direct::Published;
use super::fields;
use super::http::{Asked, Failed, Reply};
use super::rates::{Ranges, Thing};
use super::{Management, page, pairs};
use crate::codec::Method;
use crate::graph::{ExchangeConfig, Graph};
use crate::json as convert;
use crate::json::OwnedProperties;
use crate::policy::Subject;
use crate::topology::Topology;

/// What the default exchange is called where a name cannot be empty.
const DEFAULT: &str = "amq.default";

/// The name that AMQP knows.
pub(super) fn real_name(name: &str) -> &str {
    if name == DEFAULT { "" } else { name }
}

/// What is counted of an exchange.
const COUNTS: &[&str] = &["publish_in", "publish_out"];

/// With what went through it.
fn with_stats(
    m: &Management,
    (space, graph): (&Arc<str>, &Graph),
    name: &str,
    mut shown: Value,
    ranges: &Ranges,
) -> Value {
    let sums = graph.tallies(name).map(|tallies| tallies.sums());
    if let (Some(sums), Value::Object(shown)) = (sums, &mut shown) {
        let thing = Thing::Exchange(Arc::clone(space), name.into());
        let past = m.rates.look(&thing, m.now_ms(), &sums, ranges);
        let mut stats = Map::new();
        past.put_counts(&mut stats, COUNTS, 0, ranges.messages);
        shown.insert("message_stats".to_owned(), stats.into());
    }
    shown
}

fn shown(
    m: &Management,
    (vhost, space): (&str, &str),
    name: &str,
    config: Option<&ExchangeConfig>,
) -> Value {
    let policies = m.tenant.policies();
    let policy = policies.matching(space, Subject::Exchange(name), false);
    json!({
        "name": name,
        "vhost": vhost,
        "type": config.map_or("direct", |config| config.type_name()),
        "durable": config.is_none_or(|config| config.durable),
        "auto_delete": config.is_some_and(|config| config.auto_delete),
        "internal": config.is_some_and(|config| config.internal),
        "arguments": config.map_or_else(|| json!({}), |config| convert::from_bytes(&config.arguments)),
        "policy": policy.map(|policy| policy.name.clone()),
        "user_who_performed_action": "rmq-internal",
    })
}

pub(super) async fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    let mut items = Vec::new();
    let ranges = Ranges::of(&asked.query)?;
    for (vhost, space) in m.of(asked, vhost)? {
        let topology = m.topology_of(&space).await?;
        let stats = !asked.query.flag("disable_stats");
        let entry = |name: &str, config: Option<&ExchangeConfig>| {
            let shown = shown(m, (&vhost, &space), name, config);
            match stats {
                true => with_stats(m, (&space, &topology.graph()), name, shown, &ranges),
                false => shown,
            }
        };
        items.push(entry("", None));
        let mut known: Vec<_> = topology
            .graph()
            .exchanges()
            .map(|(name, exchange)| (Arc::clone(name), exchange.config.clone()))
            .collect();
        known.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, config) in known {
            let mut shown = entry(&name, Some(&config));
            put_delayed(&topology, &name, &mut shown).await?;
            items.push(shown);
        }
    }
    page::list(items, &asked.query).map(Reply::Json)
}

/// Tells how many messages wait in an exchange, where any can.
async fn put_delayed(topology: &Topology, name: &str, shown: &mut Value) -> Result<(), Failed> {
    let waiting = topology.messages_delayed(name).await;
    if let Some(waiting) = waiting.map_err(|error| Failed::internal(error.to_string()))?
        && let Value::Object(shown) = shown
    {
        shown.insert("messages_delayed".to_owned(), waiting.into());
    }
    Ok(())
}

async fn known(
    m: &Management,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<(Arc<str>, Option<ExchangeConfig>), Failed> {
    let topology = m.topology(asked, vhost).await?;
    let space = Arc::clone(topology.space());
    if name.is_empty() {
        return Ok((space, None));
    }
    let graph = topology.graph();
    let exchange = graph.exchange(name).ok_or_else(Failed::missing)?;
    Ok((space, Some(exchange.config.clone())))
}

pub(super) async fn show(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let name = real_name(name);
    let (space, config) = known(m, asked, vhost, name).await?;
    let shown = shown(m, (vhost, &space), name, config.as_ref());
    let topology = m.topology_of(&space).await?;
    let ranges = Ranges::of(&asked.query)?;
    let mut shown = with_stats(m, (&space, &topology.graph()), name, shown, &ranges);
    put_delayed(&topology, name, &mut shown).await?;
    if let Value::Object(shown) = &mut shown {
        let incoming = pairs::of_exchange(m, (vhost, name), &ranges);
        shown.insert("incoming".to_owned(), incoming);
        shown.insert("outgoing".to_owned(), json!([]));
    }
    Ok(Reply::Json(page::one(shown, &asked.query)))
}

pub(super) async fn declare(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let object = asked.object()?;
    let arguments = fields::table(&object, "arguments")?;
    let kind = fields::text(&object, "type")?
        .unwrap_or("direct")
        .to_owned();
    let arguments = convert::to_table(&arguments)
        .map_err(|error| Failed::bad(format!("arguments: {error}")))?;
    let topology = m.topology(asked, vhost).await?;
    let is_new = topology.graph().exchange(name).is_none();
    let mut direct = m.direct(asked, vhost).await?;
    let declare = Method::ExchangeDeclare {
        ticket: 0,
        exchange: real_name(name),
        kind: &kind,
        passive: false,
        durable: fields::flag(&object, "durable")?.unwrap_or(true),
        auto_delete: fields::flag(&object, "auto_delete")?.unwrap_or(false),
        internal: fields::flag(&object, "internal")?.unwrap_or(false),
        no_wait: false,
        arguments: arguments.as_table(),
    };
    direct.call(&declare).await?;
    Ok(Reply::put(is_new))
}

pub(super) async fn delete(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let name = real_name(name);
    known(m, asked, vhost, name).await?;
    let mut direct = m.direct(asked, vhost).await?;
    let delete = Method::ExchangeDelete {
        ticket: 0,
        exchange: name,
        if_unused: asked.query.flag("if-unused"),
        no_wait: false,
    };
    direct.call(&delete).await?;
    Ok(Reply::Done)
}

pub(super) async fn publish(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let name = real_name(name);
    known(m, asked, vhost, name).await?;
    let object = asked.object()?;
    let needed = |field: &str| {
        fields::text(&object, field)?.ok_or_else(|| Failed {
            error: "key_missing",
            ..Failed::bad(field)
        })
    };
    let (key, payload) = (needed("routing_key")?, needed("payload")?);
    let body = match fields::text(&object, "payload_encoding")? {
        None | Some("string") => payload.as_bytes().to_vec(),
        Some("base64") => {
            Base64::decode_vec(payload).map_err(|_| Failed::bad("the payload is not in base64"))?
        }
        Some(other) => return Err(Failed::bad(format!("unknown payload_encoding '{other}'"))),
    };
    let properties = OwnedProperties::read(fields::table(&object, "properties")?);
    let properties = properties.map_err(Failed::bad)?;
    let mut direct = m.direct(asked, vhost).await?;
    let published = direct
        .publish(name, key, &properties.borrow(), &body)
        .await?;
    match published {
        Published::Routed => Ok(Reply::Json(json!({"routed": true}))),
        Published::Unroutable => Ok(Reply::Json(json!({"routed": false}))),
        Published::Refused => Err(Failed::bad("a queue does not take the message")),
    }
}
