//! `/queues`: what there is, and what is done to it by way of AMQP itself.

use std::collections::HashMap;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use longtail_broker::BrokerError;
use longtail_engine::{Command, StreamInfo, StreamName, Wait};
use serde_json::{Map, Value, json};

use super::connections::{Drawing, Drawings, consumers_by_queue, owners};
use super::fields;
use super::http::{Asked, Failed, Reply};
use super::rates::{Ranges, Thing};
use super::{Management, page, pairs};
use crate::codec::{Method, Properties, Table};
use crate::json as convert;
use crate::link::Delivery;
use crate::policy::Subject;
use crate::queue::Queue;
use crate::session::content::Envelope;

/// Messages that one request fetches at most.
const GET_MAX: u64 = 10_000;

/// Octets of bodies that one request fetches before it ends.
const GET_BYTES_MAX: usize = 64 << 20;

/// Queues of one list whose oldest messages are looked at, at most: each of these may be on the disk only.
const HEADS_MAX: usize = 500;

/// Milliseconds without anything that make a queue an idle one.
const IDLE_MS: u64 = 1_000;

/// What is shown beside a queue's own.
#[derive(Default)]
struct Around {
    consumers: Drawings,
    owners: HashMap<u64, Value>,
}

impl Around {
    fn of(m: &Management) -> Self {
        Around {
            consumers: consumers_by_queue(m),
            owners: owners(m),
        }
    }
}

/// The kind of a queue.
pub(super) fn kind(queue: &Queue) -> String {
    let arguments = Table::decode(&queue.config.arguments).unwrap_or_default();
    let kind = arguments.get("x-queue-type");
    let kind = kind.as_ref().and_then(crate::codec::Value::as_str);
    kind.unwrap_or("classic").to_owned()
}

/// The streams of a space by name.
pub(super) async fn infos(
    m: &Management,
    space: &Arc<str>,
) -> Result<HashMap<Arc<str>, StreamInfo>, Failed> {
    let streams = m.tenant.broker().streams(Some(Arc::clone(space))).await;
    let streams = streams.map_err(|error| Failed::internal(error.to_string()))?;
    Ok(streams
        .into_iter()
        .map(|(name, info)| (name.name, info))
        .collect())
}

/// The queues of a space by name.
pub(super) async fn all(m: &Management, space: &Arc<str>) -> Result<Vec<Arc<Queue>>, Failed> {
    let topology = m.topology_of(space).await?;
    let mut queues: Vec<_> = topology.graph().queues().cloned().collect();
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(queues)
}

fn shown(
    m: &Management,
    (vhost, space): (&Arc<str>, &Arc<str>),
    queue: &Queue,
    info: Option<&StreamInfo>,
    around: &Around,
    stats: Option<&Ranges>,
) -> Value {
    let kind = kind(queue);
    let key = (Arc::clone(vhost), Arc::clone(&queue.name));
    let none = Vec::new();
    let consumers = around.consumers.get(&key).unwrap_or(&none);
    let exclusive = queue.config.owner;
    let subject = Subject::Queue(&queue.name, &kind);
    let policies = m.tenant.policies();
    let effective = policies.effective(space, subject);
    let mut object = Map::new();
    let fields = json!({
        "name": *queue.name,
        "vhost": **vhost,
        "type": kind,
        "durable": queue.config.durable,
        "auto_delete": queue.config.auto_delete,
        "exclusive": exclusive.is_some(),
        "arguments": convert::from_bytes(&queue.config.arguments),
        "node": m.node(),
        "state": "running",
        "policy": policies.matching(space, subject, false).map(|policy| policy.name.clone()),
        "operator_policy": policies.matching(space, subject, true).map(|policy| policy.name.clone()),
        "effective_policy_definition": Value::Object(effective),
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    if kind == "quorum" || kind == "stream" {
        for (name, value) in [
            ("leader", json!(m.node())),
            ("members", json!([m.node()])),
            ("online", json!([m.node()])),
        ] {
            object.insert(name.to_owned(), value);
        }
    }
    if let Some(owner) = exclusive.and_then(|owner| around.owners.get(&owner)) {
        object.insert("owner_pid_details".to_owned(), owner.clone());
    }
    let (Some(ranges), Some(info)) = (stats, info) else {
        return Value::Object(object);
    };
    let thing = Thing::Queue(Arc::clone(space), Arc::clone(&queue.name));
    let [total, ready, _] = lengths(queue, info);
    let numbers = numbers(queue, info);
    let past = m.rates.look(&thing, m.now_ms(), &numbers, ranges);
    let mut stats = Map::new();
    past.put_levels(&mut object, LENGTHS, 0, ranges.lengths);
    past.put_counts(&mut stats, COUNTS, LENGTHS.len(), ranges.messages);
    let share = |part: u64| {
        let bytes = u128::from(info.bytes) * u128::from(part);
        u64::try_from(bytes / u128::from(total.max(1))).unwrap_or(u64::MAX)
    };
    let durable = queue.config.durable;
    let fields = json!({
        "message_stats": stats,
        "messages_delayed": info.delayed,
        "messages_persistent": if durable { total } else { 0 },
        "messages_ram": if durable { 0 } else { total },
        "message_bytes": info.bytes,
        "message_bytes_ready": share(ready),
        "message_bytes_unacknowledged": share(info.held),
        "message_bytes_persistent": if durable { info.bytes } else { 0 },
        "message_bytes_ram": if durable { 0 } else { info.bytes },
        "consumers": queue.consumers(),
        "consumer_utilisation": consumer_capacity(info),
        "consumer_capacity": consumer_capacity(info),
        "exclusive_consumer_tag": exclusive_tag(queue, consumers),
        "single_active_consumer_tag": served_tag(info, consumers),
        "head_message_timestamp": null,
        "memory": info.index_bytes,
        "reductions": 0,
        "garbage_collection": {},
        "backing_queue_status": {},
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    let now_ms = m.now_ms();
    let since_ms = idle_since(queue, info, now_ms);
    if now_ms.saturating_sub(since_ms) >= IDLE_MS {
        object.insert("idle_since".to_owned(), page::instant(since_ms).into());
    }
    Value::Object(object)
}

/// Since when nothing has happened to a queue, in milliseconds since 1970, as far as somebody has looked at it.
pub(super) fn idle_since(queue: &Queue, info: &StreamInfo, now_ms: u64) -> u64 {
    let [total, ready, held] = lengths(queue, info);
    // Each of them only grows.
    let counted = counters(queue, info)
        .iter()
        .copied()
        .fold(0, u64::wrapping_add);
    queue.idle_since([counted, total, ready, held], now_ms)
}

/// When the oldest message of a queue was sent, as its publisher says: seconds since 1970.
async fn head_timestamp(
    m: &Management,
    space: &Arc<str>,
    queue: &Queue,
    info: &StreamInfo,
) -> Result<Option<u64>, Failed> {
    if info.messages == 0 || queue.is_stream() {
        return Ok(None);
    }
    let name = StreamName::new(Arc::clone(space), Arc::clone(&queue.name));
    let read = Command::Read {
        name: name.clone(),
        from: info.first,
        max: 1,
        max_bytes: 1,
        wait: Wait::No,
    };
    let answer = match m.tenant.broker().at_stream(&name, read).await {
        Ok(answer) => answer,
        // It is gone meanwhile.
        Err(BrokerError::NoStream(_)) => return Ok(None),
        Err(error) => return Err(Failed::internal(error.to_string())),
    };
    let head = answer.messages.first().and_then(Option::as_ref);
    Ok(head.and_then(|head| {
        let envelope = Envelope::of_headers(&head.headers, &head.subject);
        Properties::decode(envelope.properties).ok()?.timestamp
    }))
}

/// How many messages there are in a queue, a vhost, the server.
pub(super) const LENGTHS: &[&str] = &["messages", "messages_ready", "messages_unacknowledged"];

/// These of a queue.
pub(super) fn lengths(queue: &Queue, info: &StreamInfo) -> [u64; 3] {
    // Nobody takes anything out of a stream: all of it is there for everybody.
    let ready = match queue.is_stream() {
        true => info.messages,
        false => info.ready,
    };
    [ready + info.held + info.delayed, ready, info.held]
}

/// What is sampled of a queue: [`LENGTHS`], then [`COUNTS`].
pub(super) fn numbers(queue: &Queue, info: &StreamInfo) -> Vec<u64> {
    let (lengths, counters) = (lengths(queue, info), counters(queue, info));
    lengths.into_iter().chain(counters).collect()
}

/// What is counted of a queue.
const COUNTS: &[&str] = &[
    "publish",
    "ack",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "deliver_get",
];

fn counters(queue: &Queue, info: &StreamInfo) -> [u64; COUNTS.len()] {
    let [
        deliver,
        deliver_no_ack,
        get,
        get_no_ack,
        get_empty,
        redeliver,
    ] = queue.tallies().sums();
    let deliver_get = deliver + deliver_no_ack + get + get_no_ack;
    [
        info.appended,
        info.removed,
        deliver,
        deliver_no_ack,
        get,
        get_no_ack,
        get_empty,
        redeliver,
        deliver_get,
    ]
}

/// Whether consumers keep up: some wait for messages, or there is nothing to wait for.
fn consumer_capacity(info: &StreamInfo) -> f64 {
    let keep_up = info.consumers > 0 && (info.waiting > 0 || info.ready == 0);
    f64::from(u8::from(keep_up))
}

fn exclusive_tag<'a>(queue: &Queue, consumers: &'a [Drawing]) -> Option<&'a str> {
    let only = consumers
        .first()
        .filter(|_| queue.is_consumed_exclusively());
    only.map(|only| &*only.tag)
}

/// Whom a queue serves that serves one consumer at a time.
fn served_tag<'a>(info: &StreamInfo, consumers: &'a [Drawing]) -> Option<&'a str> {
    let served = consumers
        .iter()
        .find(|drawing| info.served.is_some() && drawing.who == info.served);
    served.map(|served| &*served.tag)
}

pub(super) async fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    let ranges = Ranges::of(&asked.query)?;
    let stats = !asked.query.flag("disable_stats") || asked.query.flag("enable_queue_totals");
    let around = if stats {
        Around::of(m)
    } else {
        Around::default()
    };
    let mut found = Vec::new();
    for (vhost, space) in m.of(asked, vhost)? {
        let mut infos = if stats {
            infos(m, &space).await?
        } else {
            HashMap::new()
        };
        for queue in all(m, &space).await? {
            let info = infos.remove(&queue.name);
            found.push((Arc::clone(&vhost), Arc::clone(&space), queue, info));
        }
    }
    let few = found.len() <= HEADS_MAX;
    let mut items = Vec::with_capacity(found.len());
    for (vhost, space, queue, info) in found {
        let ranges = stats.then_some(&ranges);
        let at = (&vhost, &space);
        let mut item = shown(m, at, &queue, info.as_ref(), &around, ranges);
        if let Some(info) = info.filter(|_| few) {
            item["head_message_timestamp"] = head_timestamp(m, &space, &queue, &info).await?.into();
        }
        items.push(item);
    }
    page::list(items, &asked.query).map(Reply::Json)
}

async fn known(
    m: &Management,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<(Arc<str>, Arc<Queue>), Failed> {
    let topology = m.topology(asked, vhost).await?;
    let found = topology.graph().queue(name).cloned();
    let queue = found.ok_or_else(Failed::missing)?;
    Ok((Arc::clone(topology.space()), queue))
}

pub(super) async fn show(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let (space, queue) = known(m, asked, vhost, name).await?;
    let stream = StreamName::new(Arc::clone(&space), Arc::clone(&queue.name));
    let found = m.tenant.broker().find(&stream).await;
    let found = found.map_err(|error| Failed::internal(error.to_string()))?;
    let info = found.map(|(_, info)| info);
    let vhost: Arc<str> = vhost.into();
    let around = Around::of(m);
    let ranges = Ranges::of(&asked.query)?;
    let at = (&vhost, &space);
    let mut shown = shown(m, at, &queue, info.as_ref(), &around, Some(&ranges));
    if let Some(info) = &info {
        shown["head_message_timestamp"] = head_timestamp(m, &space, &queue, info).await?.into();
    }
    if let Value::Object(shown) = &mut shown {
        let key = (Arc::clone(&vhost), Arc::clone(&queue.name));
        let consumers = around.consumers.get(&key);
        let served = info.and_then(|info| info.served);
        let details = consumers.into_iter().flatten();
        let details: Vec<_> = details.map(|drawing| drawing.show(served)).collect();
        shown.insert("consumer_details".to_owned(), details.into());
        let deliveries = pairs::of_queue(m, (at.0, &queue.name), &ranges);
        shown.insert("deliveries".to_owned(), deliveries);
        shown.insert("incoming".to_owned(), json!([]));
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
    let mut arguments = fields::table(&object, "arguments")?;
    let durable = fields::flag(&object, "durable")?.unwrap_or(true);
    let auto_delete = fields::flag(&object, "auto_delete")?.unwrap_or(false);
    let kind = fields::text(&object, "queue_type")?.or(fields::text(&object, "type")?);
    // Go's clients say it also where they have none to say.
    if let Some(kind) = kind.filter(|kind| !kind.is_empty()) {
        arguments
            .entry("x-queue-type")
            .or_insert_with(|| kind.into());
    }
    let topology = m.topology(asked, vhost).await?;
    let is_new = topology.graph().queue(name).is_none();
    let arguments = convert::to_table(&arguments)
        .map_err(|error| Failed::bad(format!("arguments: {error}")))?;
    let mut direct = m.direct(asked, vhost).await?;
    let declare = Method::QueueDeclare {
        ticket: 0,
        queue: name,
        passive: false,
        durable,
        exclusive: false,
        auto_delete,
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
    known(m, asked, vhost, name).await?;
    let mut direct = m.direct(asked, vhost).await?;
    let delete = Method::QueueDelete {
        ticket: 0,
        queue: name,
        if_unused: asked.query.flag("if-unused"),
        if_empty: asked.query.flag("if-empty"),
        no_wait: false,
    };
    direct.call(&delete).await?;
    Ok(Reply::Done)
}

pub(super) async fn purge(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    known(m, asked, vhost, name).await?;
    let mut direct = m.direct(asked, vhost).await?;
    let purge = Method::QueuePurge {
        ticket: 0,
        queue: name,
        no_wait: false,
    };
    direct.call(&purge).await?;
    Ok(Reply::Done)
}

/// What was for queues on several nodes: there is one.
pub(super) async fn action(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    known(m, asked, vhost, name).await?;
    match fields::text(&asked.object()?, "action")? {
        Some("sync" | "cancel_sync") => Ok(Reply::Done),
        other => Err(Failed::bad(format!(
            "unknown action {}",
            other.unwrap_or_default()
        ))),
    }
}

/// How fetched messages are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckMode {
    Ack,
    AckRequeue,
    Reject,
    RejectRequeue,
}

pub(super) async fn get(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let object = asked.object()?;
    let count = fields::integer(&object, "count")?.unwrap_or(1);
    let count = u64::try_from(count)
        .ok()
        .filter(|count| (1..=GET_MAX).contains(count))
        .ok_or_else(|| Failed::bad(format!("count must be 1 to {GET_MAX}")))?;
    let mode = fields::text(&object, "ackmode")?.or(fields::text(&object, "ack_mode")?);
    let mode = match mode {
        Some("ack_requeue_false" | "get") => AckMode::Ack,
        Some("ack_requeue_true" | "peek") => AckMode::AckRequeue,
        Some("reject_requeue_false") => AckMode::Reject,
        Some("reject_requeue_true") => AckMode::RejectRequeue,
        // As before RabbitMQ 3.7.
        None => match fields::flag(&object, "requeue")? {
            Some(true) => AckMode::AckRequeue,
            _ => AckMode::Ack,
        },
        Some(other) => return Err(Failed::bad(format!("unknown ackmode '{other}'"))),
    };
    let base64 = match fields::text(&object, "encoding")? {
        None | Some("auto") => false,
        Some("base64") => true,
        Some(other) => return Err(Failed::bad(format!("unknown encoding '{other}'"))),
    };
    let truncate = fields::integer(&object, "truncate")?;
    let truncate = truncate.and_then(|bytes| usize::try_from(bytes).ok());
    known(m, asked, vhost, name).await?;
    let mut direct = m.direct(asked, vhost).await?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for _ in 0..count {
        let Some(fetched) = direct.get(name, mode == AckMode::Ack).await? else {
            break;
        };
        bytes += fetched.body.len();
        found.push(fetched);
        if bytes > GET_BYTES_MAX {
            break;
        }
    }
    // Only now, so that no message is fetched twice.
    if let Some(last) = found.last().filter(|_| mode != AckMode::Ack) {
        let nack = Method::BasicNack {
            delivery_tag: last.tag,
            multiple: true,
            requeue: mode != AckMode::Reject,
        };
        direct.say(&nack).await?;
        // Whatever has an answer: when it is there, the messages are back.
        let qos = Method::BasicQos {
            prefetch_size: 0,
            prefetch_count: 0,
            global: false,
        };
        direct.call(&qos).await?;
    }
    let messages = found
        .iter()
        .map(|fetched| message(fetched, base64, truncate));
    Ok(Reply::Json(Value::Array(messages.collect())))
}

fn message(fetched: &Delivery, base64: bool, truncate: Option<usize>) -> Value {
    let body = &fetched.body;
    let shown = body.get(..truncate.unwrap_or(body.len())).unwrap_or(body);
    let text = std::str::from_utf8(shown).ok().filter(|_| !base64);
    let (payload, encoding) = match text {
        Some(text) => (text.to_owned(), "string"),
        None => (Base64::encode_string(shown), "base64"),
    };
    json!({
        "payload_bytes": body.len(),
        "redelivered": fetched.redelivered,
        "exchange": fetched.exchange,
        "routing_key": fetched.key,
        "message_count": fetched.behind,
        "properties": convert::from_properties(&fetched.properties),
        "payload": payload,
        "payload_encoding": encoding,
    })
}
