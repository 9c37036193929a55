//! `/bindings`. A binding's `properties_key` is its routing key, or `~` for an empty one, with a fingerprint of its
//! arguments behind another `~` where it has some.

use std::sync::Arc;

use longtail_broker::stable_hash;
use serde_json::{Value, json};

use super::exchanges::real_name;
use super::fields;
use super::http::{Asked, Failed, Reply};
use super::{Management, page};
use crate::codec::{Method, Table};
use crate::graph::{Binding, Destination, Graph};
use crate::json as convert;
use crate::percent;

/// A binding with its source and key.
type Whole = (Arc<str>, Arc<str>, Binding);

/// What tells the bindings between two ends apart.
fn properties_key(key: &str, arguments: &[u8]) -> String {
    let key_part = match key {
        "" => "~".to_owned(),
        key => key.replace('%', "%25").replace('~', "%7E"),
    };
    if arguments.is_empty() {
        return key_part;
    }
    let hash = stable_hash(arguments.iter().copied());
    let separator = if key.is_empty() { "" } else { "~" };
    format!("{key_part}{separator}{hash:016x}")
}

fn shown(vhost: &str, (source, key, binding): &Whole) -> Value {
    let (destination, kind) = match &binding.destination {
        Destination::Queue(name) => (name, "queue"),
        Destination::Exchange(name) => (name, "exchange"),
    };
    json!({
        "source": **source,
        "vhost": vhost,
        "destination": **destination,
        "destination_type": kind,
        "routing_key": **key,
        "arguments": convert::from_bytes(&binding.arguments),
        "properties_key": properties_key(key, &binding.arguments),
    })
}

/// Every queue is bound to the default exchange by its name.
fn by_default(queue: &Arc<str>) -> Whole {
    let binding = Binding {
        destination: Destination::Queue(Arc::clone(queue)),
        arguments: Arc::default(),
    };
    (Arc::default(), Arc::clone(queue), binding)
}

/// The bindings that were made.
pub(super) fn made(graph: &Graph) -> Vec<Whole> {
    let mut all: Vec<Whole> = graph
        .exchanges()
        .flat_map(|(source, exchange)| {
            let bindings = exchange.bindings();
            bindings.map(|(key, binding)| (Arc::clone(source), Arc::clone(key), binding.clone()))
        })
        .collect();
    all.sort_by(|a, b| {
        let order = |whole: &Whole| {
            let (source, key, binding) = whole;
            (
                Arc::clone(source),
                binding.destination.clone(),
                Arc::clone(key),
            )
        };
        order(a).cmp(&order(b))
    });
    all
}

fn all(graph: &Graph) -> Vec<Whole> {
    let mut queues: Vec<_> = graph
        .queues()
        .map(|queue| by_default(&queue.name))
        .collect();
    queues.sort_by(|a, b| a.1.cmp(&b.1));
    queues.extend(made(graph));
    queues
}

pub(super) async fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    let mut items = Vec::new();
    for (vhost, space) in m.of(asked, vhost)? {
        let topology = m.topology_of(&space).await?;
        let all = all(&topology.graph());
        items.extend(all.iter().map(|whole| shown(&vhost, whole)));
    }
    page::list(items, &asked.query).map(Reply::Json)
}

async fn picked(
    m: &Management,
    asked: &Asked,
    vhost: &str,
    wanted: impl Fn(&Whole) -> bool,
) -> Result<Vec<Whole>, Failed> {
    let topology = m.topology(asked, vhost).await?;
    let mut all = all(&topology.graph());
    all.retain(wanted);
    Ok(all)
}

fn answer(vhost: &str, found: &[Whole], asked: &Asked) -> Result<Reply, Failed> {
    let items = found.iter().map(|whole| shown(vhost, whole)).collect();
    page::list(items, &asked.query).map(Reply::Json)
}

pub(super) async fn of_queue(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    queue: &str,
) -> Result<Reply, Failed> {
    let topology = m.topology(asked, vhost).await?;
    if topology.graph().queue(queue).is_none() {
        return Err(Failed::missing());
    }
    let to = Destination::Queue(queue.into());
    let found = picked(m, asked, vhost, |(_, _, binding)| binding.destination == to).await?;
    answer(vhost, &found, asked)
}

pub(super) async fn of_exchange(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    exchange: &str,
    is_source: bool,
) -> Result<Reply, Failed> {
    let exchange = real_name(exchange);
    let topology = m.topology(asked, vhost).await?;
    if !exchange.is_empty() && topology.graph().exchange(exchange).is_none() {
        return Err(Failed::missing());
    }
    let to = Destination::Exchange(exchange.into());
    let wanted = |(source, _, binding): &Whole| {
        if is_source {
            **source == *exchange
        } else {
            binding.destination == to
        }
    };
    let found = picked(m, asked, vhost, wanted).await?;
    answer(vhost, &found, asked)
}

/// Source, `q` or `e`, destination.
type Ends<'a> = (&'a str, &'a str, &'a str);

fn destination((_, kind, name): Ends<'_>) -> Destination {
    if kind == "q" {
        Destination::Queue(name.into())
    } else {
        Destination::Exchange(real_name(name).into())
    }
}

async fn there(
    m: &Management,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
) -> Result<Vec<Whole>, Failed> {
    let topology = m.topology(asked, vhost).await?;
    let (source, to) = (real_name(ends.0), destination(ends));
    {
        let graph = topology.graph();
        let source_there = source.is_empty() || graph.exchange(source).is_some();
        let destination_there = match &to {
            Destination::Queue(name) => graph.queue(name).is_some(),
            Destination::Exchange(name) => name.is_empty() || graph.exchange(name).is_some(),
        };
        if !source_there || !destination_there {
            return Err(Failed::missing());
        }
    }
    picked(m, asked, vhost, |(from, _, binding)| {
        **from == *source && binding.destination == to
    })
    .await
}

pub(super) async fn between(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
) -> Result<Reply, Failed> {
    let found = there(m, asked, vhost, ends).await?;
    answer(vhost, &found, asked)
}

async fn one(
    m: &Management,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
    props: &str,
) -> Result<Whole, Failed> {
    let found = there(m, asked, vhost, ends).await?;
    // A client may have decoded the key that it was given.
    let is_it = |(_, key, binding): &Whole| {
        let known = properties_key(key, &binding.arguments);
        known == props || percent::decode(&known) == props
    };
    found.into_iter().find(is_it).ok_or_else(Failed::missing)
}

pub(super) async fn show(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
    props: &str,
) -> Result<Reply, Failed> {
    let whole = one(m, asked, vhost, ends, props).await?;
    Ok(Reply::Json(page::one(shown(vhost, &whole), &asked.query)))
}

pub(super) async fn bind(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
) -> Result<Reply, Failed> {
    let object = asked.object()?;
    let key = fields::text(&object, "routing_key")?.unwrap_or_default();
    let arguments = fields::table(&object, "arguments")?;
    let arguments = convert::to_table(&arguments)
        .map_err(|error| Failed::bad(format!("arguments: {error}")))?;
    there(m, asked, vhost, ends).await?;
    change(m, asked, vhost, ends, (key, arguments.as_table()), true).await?;
    let props = properties_key(key, arguments.as_table().as_bytes());
    Ok(Reply::Created(Some(format!(
        "{}/{}",
        percent::encode(ends.2),
        percent::encode(&props)
    ))))
}

pub(super) async fn unbind(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
    props: &str,
) -> Result<Reply, Failed> {
    let (_, key, binding) = one(m, asked, vhost, ends, props).await?;
    let arguments = Table::decode(&binding.arguments).unwrap_or_default();
    change(m, asked, vhost, ends, (&key, arguments), false).await?;
    Ok(Reply::Done)
}

async fn change(
    m: &Management,
    asked: &Asked,
    vhost: &str,
    ends: Ends<'_>,
    (routing_key, arguments): (&str, Table<'_>),
    bind: bool,
) -> Result<(), Failed> {
    let (source, to_queue) = (real_name(ends.0), ends.1 == "q");
    let (ticket, no_wait) = (0, false);
    let method = match (to_queue, bind) {
        (true, true) => Method::QueueBind {
            ticket,
            queue: ends.2,
            exchange: source,
            routing_key,
            no_wait,
            arguments,
        },
        (true, false) => Method::QueueUnbind {
            ticket,
            queue: ends.2,
            exchange: source,
            routing_key,
            arguments,
        },
        (false, true) => Method::ExchangeBind {
            ticket,
            destination: real_name(ends.2),
            source,
            routing_key,
            no_wait,
            arguments,
        },
        (false, false) => Method::ExchangeUnbind {
            ticket,
            destination: real_name(ends.2),
            source,
            routing_key,
            no_wait,
            arguments,
        },
    };
    let mut direct = m.direct(asked, vhost).await?;
    direct.call(&method).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_bindings_are_told_apart() {
        assert_eq!(properties_key("a.b", b""), "a.b");
        assert_eq!(properties_key("", b""), "~");
        assert_eq!(properties_key("a~b%", b""), "a%7Eb%25");
        let with = properties_key("k", b"\x01xV");
        assert!(with.starts_with("k~") && with.len() == 2 + 16, "{with}");
        assert_ne!(properties_key("", b"\x01xV"), properties_key("", b"\x01yV"));
    }
}
