//! `/connections`, `/channels`, `/consumers`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use longtail_edge::Endpoint;
use longtail_engine::StreamName;
use longtail_model::{ConsumerTag, SessionId};
use serde_json::{Map, Value, json};

use super::http::{Asked, Failed, Reply};
use super::rates::{Ranges, Thing};
use super::suite::Suite;
use super::{Management, page, pairs};
use crate::census::Seen;
use crate::json as convert;
use crate::session::{ChannelState, ConsumerState, Counts, given_name};

/// Names of the counts, as RabbitMQ has them.
pub(super) const COUNTS: &[&str] = &[
    "publish",
    "confirm",
    "return_unroutable",
    "drop_unroutable",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "ack",
    "deliver_get",
];

/// The counts in the order of [`COUNTS`].
pub(super) fn numbers(counts: &Counts) -> [u64; 12] {
    [
        counts.publish,
        counts.confirm,
        counts.return_unroutable,
        counts.drop_unroutable,
        counts.deliver,
        counts.deliver_no_ack,
        counts.get,
        counts.get_no_ack,
        counts.get_empty,
        counts.redeliver,
        counts.ack,
        counts.deliver_get(),
    ]
}

/// What a connection has received and sent, as [`OCTETS`] are called.
pub(super) fn octets(seen: &Seen) -> [u64; 2] {
    [seen.bytes_in, seen.bytes_out]
}

/// Names of the octets.
pub(super) const OCTETS: &[&str] = &["recv_oct", "send_oct"];

fn message_stats(m: &Management, thing: &Thing, counts: &Counts, ranges: &Ranges) -> Value {
    let past = m.rates.look(thing, m.now_ms(), &numbers(counts), ranges);
    let mut stats = Map::new();
    past.put_counts(&mut stats, COUNTS, 0, ranges.messages);
    Value::Object(stats)
}

/// Who is connected and may be seen by whoever asks.
fn seen(m: &Management, asked: &Asked) -> Vec<Seen> {
    let mut seen = m.tenant.census().all();
    seen.retain(|seen| may_see(m, asked, seen));
    seen
}

/// Others are seen by whoever sees everything.
fn may_see(_: &Management, asked: &Asked, seen: &Seen) -> bool {
    asked.caller.sees_everything() || *seen.state.user == *asked.caller.name
}

fn address(endpoint: &Endpoint) -> (String, u16) {
    match endpoint {
        Endpoint::Tcp(address) => (address.ip().to_string(), address.port()),
        Endpoint::Unix(path) => (format!("unix:{}", path.display()), 0),
    }
}

/// From when and until when a certificate holds, as RabbitMQ writes it.
fn validity((from, until): (u64, u64)) -> String {
    format!("{} - {}", page::second(from), page::second(until))
}

fn connection(m: &Management, seen: &Seen, ranges: &Ranges) -> Value {
    let state = &seen.state;
    let (peer_host, peer_port) = address(&seen.peer);
    let (host, port) = address(&seen.local);
    let connected_ms = seen
        .since
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    let suite = seen.encryption.and_then(|how| Suite::of(how.cipher_suite));
    let (suite, shown) = (suite.as_ref(), seen.identity.as_deref());
    let thing = Thing::Connection(seen.number);
    let past = m.rates.look(&thing, m.now_ms(), &octets(seen), ranges);
    let mut object = Map::new();
    past.put_counts(&mut object, OCTETS, 0, ranges.data);
    let fields = json!({
        "name": *seen.name,
        "node": m.node(),
        "user": state.user,
        "user_who_performed_action": state.user,
        "vhost": *state.vhost,
        "host": host,
        "port": port,
        "peer_host": peer_host,
        "peer_port": peer_port,
        "protocol": "AMQP 0-9-1",
        "auth_mechanism": state.mechanism,
        "ssl": seen.encryption.is_some(),
        "ssl_cipher": suite.map(|suite| &suite.cipher),
        "ssl_hash": suite.map(|suite| &suite.mac),
        "ssl_key_exchange": suite.map(|suite| &suite.key_exchange),
        "ssl_protocol": seen.encryption.map(|how| how.protocol.to_ascii_lowercase()),
        "peer_cert_issuer": shown.map(|of| &of.issuer),
        "peer_cert_subject": shown.map(|of| &of.subject),
        "peer_cert_validity": shown.and_then(|of| of.validity).map(validity),
        "state": state.state,
        "channels": state.channels.len(),
        "channel_max": state.channel_max,
        "frame_max": state.frame_max,
        "timeout": state.heartbeat,
        "connected_at": connected_ms,
        "client_properties": convert::from_bytes(&state.properties),
        "user_provided_name": given_name(&state.properties),
        "type": "network",
        "pid": format!("<{}>", seen.number),
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}

pub(super) async fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
    user: Option<&str>,
) -> Result<Reply, Failed> {
    if let Some(vhost) = vhost {
        m.enter(asked, vhost)?;
    }
    let mut found = seen(m, asked);
    found.retain(|seen| {
        vhost.is_none_or(|vhost| *seen.state.vhost == *vhost)
            && user.is_none_or(|user| seen.state.user == user)
    });
    let ranges = Ranges::of(&asked.query)?;
    let items = found.iter().map(|seen| connection(m, seen, &ranges));
    let items = items.collect();
    page::list(items, &asked.query).map(Reply::Json)
}

fn named(m: &Management, asked: &Asked, name: &str) -> Result<Seen, Failed> {
    let mut found = seen(m, asked).into_iter();
    found
        .find(|seen| *seen.name == *name)
        .ok_or_else(Failed::missing)
}

pub(super) async fn show(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    let seen = named(m, asked, name)?;
    let shown = connection(m, &seen, &Ranges::of(&asked.query)?);
    Ok(Reply::Json(page::one(shown, &asked.query)))
}

/// The text that the client is told.
fn reason(asked: &Asked) -> String {
    let given = asked.header("x-reason").filter(|reason| !reason.is_empty());
    given.unwrap_or("Closed via management plugin").to_owned()
}

pub(super) fn end(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    let seen = named(m, asked, name)?;
    if *seen.state.user != *asked.caller.name {
        asked.caller.administers()?;
    }
    let ended = m
        .tenant
        .census()
        .end(&reason(asked), |known, _, _| known == name);
    if ended == 0 {
        return Err(Failed::missing());
    }
    Ok(Reply::Done)
}

pub(super) fn end_all_of(m: &Arc<Management>, asked: &Asked, user: &str) -> Result<Reply, Failed> {
    if user != &*asked.caller.name {
        asked.caller.administers()?;
    }
    m.tenant
        .census()
        .end(&reason(asked), |_, _, known| known == user);
    Ok(Reply::Done)
}

fn channel_name(seen: &Seen, number: u16) -> String {
    format!("{} ({number})", seen.name)
}

fn connection_details(seen: &Seen) -> Value {
    let (peer_host, peer_port) = address(&seen.peer);
    json!({"name": *seen.name, "peer_host": peer_host, "peer_port": peer_port})
}

/// Which channel it is that something else goes by.
pub(super) fn channel_details(m: &Management, seen: &Seen, channel: &ChannelState) -> Value {
    let (peer_host, peer_port) = address(&seen.peer);
    json!({
        "name": channel_name(seen, channel.number),
        "node": m.node(),
        "number": channel.number,
        "connection_name": *seen.name,
        "peer_host": peer_host,
        "peer_port": peer_port,
        "user": seen.state.user,
    })
}

fn channel(m: &Management, seen: &Seen, channel: &ChannelState, ranges: &Ranges) -> Value {
    let thing = Thing::Channel(seen.number, channel.number);
    json!({
        "name": channel_name(seen, channel.number),
        "node": m.node(),
        "number": channel.number,
        "user": seen.state.user,
        "user_who_performed_action": seen.state.user,
        "vhost": *seen.state.vhost,
        "state": "running",
        "confirm": channel.confirm,
        "transactional": channel.transactional,
        "client_flow_blocked": channel.paused,
        "consumer_count": channel.consumers.len(),
        "prefetch_count": channel.prefetch,
        "global_prefetch_count": channel.shared_prefetch,
        "messages_unacknowledged": channel.unacked,
        "messages_unconfirmed": channel.unconfirmed,
        "messages_uncommitted": channel.staged.0,
        "acks_uncommitted": channel.staged.1,
        "pending_raft_commands": 0,
        "connection_details": connection_details(seen),
        "message_stats": message_stats(m, &thing, &channel.counts, ranges),
    })
}

pub(super) async fn channels(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
    of: Option<&str>,
) -> Result<Reply, Failed> {
    if let Some(vhost) = vhost {
        m.enter(asked, vhost)?;
    }
    if let Some(name) = of {
        named(m, asked, name)?;
    }
    let ranges = Ranges::of(&asked.query)?;
    let found = seen(m, asked);
    let items = found
        .iter()
        .filter(|seen| vhost.is_none_or(|vhost| *seen.state.vhost == *vhost))
        .filter(|seen| of.is_none_or(|name| *seen.name == *name))
        .flat_map(|seen| {
            let channels = seen.state.channels.iter();
            channels.map(|known| channel(m, seen, known, &ranges))
        });
    page::list(items.collect(), &asked.query).map(Reply::Json)
}

fn channel_named(
    m: &Management,
    asked: &Asked,
    name: &str,
) -> Result<(Seen, ChannelState), Failed> {
    let found = seen(m, asked).into_iter().find_map(|seen| {
        let mut channels = seen.state.channels.iter();
        let known = channels.find(|known| channel_name(&seen, known.number) == name);
        known.cloned().map(|known| (seen, known))
    });
    found.ok_or_else(Failed::missing)
}

pub(super) async fn show_channel(
    m: &Arc<Management>,
    asked: &Asked,
    name: &str,
) -> Result<Reply, Failed> {
    let (seen, known) = channel_named(m, asked, name)?;
    let ranges = Ranges::of(&asked.query)?;
    let mut shown = channel(m, &seen, &known, &ranges);
    let mut details = Vec::new();
    for consumer in &known.consumers {
        let drawing = consumer_of(m, &seen, &known, consumer);
        let served = match consumer.single_active {
            true => served(m, &seen.state.vhost, &consumer.queue).await?,
            false => None,
        };
        details.push(drawing.show(served));
    }
    if let Value::Object(shown) = &mut shown {
        shown.insert("consumer_details".to_owned(), details.into());
        let publishes = pairs::publishes(m, (&seen, &known), &ranges);
        shown.insert("publishes".to_owned(), publishes);
        let deliveries = pairs::deliveries(m, (&seen, &known), &ranges);
        shown.insert("deliveries".to_owned(), deliveries);
    }
    Ok(Reply::Json(page::one(shown, &asked.query)))
}

/// Who a consumer is to a shard.
pub(super) type Who = (SessionId, ConsumerTag);

/// A consumer as an operator sees it, but for whether it is served.
pub(super) struct Drawing {
    /// Its tag.
    pub(super) tag: Arc<str>,
    /// Who it is to the shard of its queue.
    pub(super) who: Option<Who>,
    single_active: bool,
    shown: Value,
}

impl Drawing {
    /// With the one that is served, which counts where a queue serves one at a time.
    pub(super) fn show(&self, served: Option<Who>) -> Value {
        let is_served = !self.single_active || served.is_some() && self.who == served;
        let status = match (self.single_active, is_served) {
            (false, _) => "up",
            (true, true) => "single_active",
            (true, false) => "waiting",
        };
        let mut shown = self.shown.clone();
        if let Value::Object(shown) = &mut shown {
            shown.insert("active".to_owned(), is_served.into());
            shown.insert("activity_status".to_owned(), status.into());
        }
        shown
    }
}

fn consumer_of(
    m: &Management,
    seen: &Seen,
    channel: &ChannelState,
    consumer: &ConsumerState,
) -> Drawing {
    let shown = json!({
        "consumer_tag": *consumer.tag,
        "queue": {"name": *consumer.queue, "vhost": *seen.state.vhost},
        "ack_required": consumer.ack_required,
        "exclusive": consumer.exclusive,
        "prefetch_count": consumer.prefetch,
        "arguments": convert::from_bytes(&consumer.arguments),
        "consumer_timeout": consumer.timeout_ms.unwrap_or(0),
        "channel_details": channel_details(m, seen, channel),
    });
    Drawing {
        tag: Arc::clone(&consumer.tag),
        who: consumer.drawing,
        single_active: consumer.single_active,
        shown,
    }
}

/// Consumers by vhost and queue.
pub(super) type Drawings = HashMap<(Arc<str>, Arc<str>), Vec<Drawing>>;

/// Everybody's consumers.
pub(super) fn consumers_by_queue(m: &Management) -> Drawings {
    let mut all = Drawings::new();
    for seen in m.tenant.census().all() {
        for channel in &seen.state.channels {
            for consumer in &channel.consumers {
                let key = (Arc::clone(&seen.state.vhost), Arc::clone(&consumer.queue));
                let drawing = consumer_of(m, &seen, channel, consumer);
                all.entry(key).or_default().push(drawing);
            }
        }
    }
    all
}

/// The consumer that a queue serves, where it serves one at a time.
async fn served(m: &Management, vhost: &str, queue: &Arc<str>) -> Result<Option<Who>, Failed> {
    let stream = StreamName::new(m.tenant.space_of(vhost), Arc::clone(queue));
    let found = m.tenant.broker().find(&stream).await;
    let found = found.map_err(|error| Failed::internal(error.to_string()))?;
    Ok(found.and_then(|(_, info)| info.served))
}

pub(super) async fn consumers(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    let vhosts = m.of(asked, vhost)?;
    let mut items: Vec<Value> = Vec::new();
    for ((at, queue), drawings) in consumers_by_queue(m) {
        if !vhosts.iter().any(|(vhost, _)| *vhost == at) {
            continue;
        }
        let served = match drawings.iter().any(|drawing| drawing.single_active) {
            true => served(m, &at, &queue).await?,
            false => None,
        };
        items.extend(drawings.iter().map(|drawing| drawing.show(served)));
    }
    items.sort_by(|a, b| {
        let tag = |value: &Value| {
            value["consumer_tag"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        tag(a).cmp(&tag(b))
    });
    page::list(items, &asked.query).map(Reply::Json)
}

/// Who has an exclusive queue: the connection with this number.
pub(super) fn owners(m: &Management) -> HashMap<u64, Value> {
    let all = m.tenant.census().all();
    all.iter()
        .map(|seen| (seen.number, connection_details(seen)))
        .collect()
}
