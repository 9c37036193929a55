//! `/shovels`: what shovels are doing. The parameters of dynamic ones are set and removed under `/parameters/shovel`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::http::{Asked, Failed, Reply};
use super::{Management, page, parameters};
use crate::parameter::SHOVEL;
use crate::shovel::{From, Shown, Target, To};
use crate::transfer::State;

fn shown(m: &Management, shovel: &Shown) -> Value {
    let now = &shovel.now;
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    put("node", m.node().into());
    put("timestamp", page::moment(now.since).into());
    put("name", shovel.name.as_str().into());
    match &shovel.space {
        Some(space) => {
            put("vhost", (*m.tenant.vhost_of(space)).into());
            put("type", "dynamic".into());
        }
        None => put("type", "static".into()),
    }
    let state = match now.state {
        State::Running => "running",
        // One that has failed is about to start again.
        State::Starting | State::Failed => "starting",
        State::Terminated => "terminated",
    };
    put("state", state.into());
    if let Some(error) = &now.error {
        put("reason", error.as_str().into());
        put("error", error.as_str().into());
    }
    put("src_uri", now.source.as_str().into());
    put("src_protocol", "amqp091".into());
    match &shovel.config.from {
        From::Queue(queue) | From::Declared(queue) => put("src_queue", queue.as_str().into()),
        From::Exchange(exchange, key) => {
            put("src_exchange", exchange.as_str().into());
            put("src_exchange_key", key.as_str().into());
        }
    }
    put("dest_uri", now.target.as_str().into());
    let http = matches!(shovel.config.targets.first(), Some(Target::Http(_)));
    put(
        "dest_protocol",
        if http { "http" } else { "amqp091" }.into(),
    );
    match &shovel.config.to {
        To::Queue(queue) => put("dest_queue", queue.as_str().into()),
        To::Exchange(exchange, key) => {
            put("dest_exchange", exchange.as_str().into());
            put("dest_exchange_key", json!(key));
        }
        To::Key(key) => put("dest_exchange_key", key.as_str().into()),
        To::Same => {}
    }
    put(
        "blocked_status",
        if now.blocked { "blocked" } else { "running" }.into(),
    );
    put("forwarded", now.forwarded.into());
    put("pending", now.pending.into());
    put(
        "remaining",
        now.left.map_or("unlimited".into(), Value::from),
    );
    put(
        "remaining_unacked",
        now.left.map_or("unlimited".into(), Value::from),
    );
    put("message_count", now.forwarded.into());
    Value::Object(object)
}

fn found(m: &Management, asked: &Asked, vhost: Option<&str>) -> Result<Vec<Shown>, Failed> {
    let vhosts = m.of(asked, vhost)?;
    let all = m.links.shovels.list(None);
    let everything = vhost.is_none() && asked.caller.sees_everything();
    let seen = |shovel: &Shown| match &shovel.space {
        Some(of) => vhosts.iter().any(|(_, space)| **space == **of),
        None => everything,
    };
    Ok(all.into_iter().filter(seen).collect())
}

pub(super) fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    let items = found(m, asked, vhost)?;
    let items = items.iter().map(|shovel| shown(m, shovel)).collect();
    page::list(items, &asked.query).map(Reply::Json)
}

pub(super) fn show(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let mut all = found(m, asked, Some(vhost))?.into_iter();
    let shovel = all
        .find(|shovel| shovel.name == name)
        .ok_or_else(Failed::missing)?;
    Ok(Reply::Json(page::one(shown(m, &shovel), &asked.query)))
}

pub(super) async fn delete(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    asked.caller.makes_policies(&m.roster, &space)?;
    parameters::discard(m, &space, (SHOVEL, name)).await
}

/// Connects anew.
pub(super) fn restart(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    asked.caller.makes_policies(&m.roster, &space)?;
    let parameter = m.links.parameters.get(SHOVEL, &space, name);
    let parameter = parameter.ok_or_else(Failed::missing)?;
    m.links
        .shovels
        .start(&parameter, &parameters::name_of_cluster(m));
    Ok(Reply::Done)
}
