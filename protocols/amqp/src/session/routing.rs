//! From a message that has come whole to what is done with it: the queues, the subjects of the space, or the channel that
//! waits for it as a reply.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Action as Right;
use longtail_broker::message::SharedMessage;
use longtail_model::{Priority, ShardId, StreamId, Timestamp};
use smallvec::SmallVec;

use super::channel::Channel;
use super::{Shared, content};
use crate::codec::{Properties, Table, TableBuf, Value};
use crate::exception::{Exception, precondition};
use crate::graph::{Beside, Content, Kind, Noted, Routed, Routing};
use crate::queue::Queue;
use crate::replies::{Recipient, Reply, is_address};
use crate::store::{Parcel, Store, in_archives, in_queues, in_waiting};

/// A message that has come whole and may be published.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) exchange: Arc<str>,
    pub(super) key: Arc<str>,
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
    /// Exchange, key and properties, as the record has them.
    pub(super) encoded: Bytes,
    /// Where in that the properties begin.
    pub(super) properties: usize,
    pub(super) body: Bytes,
}

impl Publication {
    /// What it weighs while it waits.
    pub(super) fn bytes(&self) -> u64 {
        (self.exchange.len() + self.key.len() + self.octets().len() + self.body.len()) as u64
    }

    /// The properties: flags and values.
    pub(super) fn octets(&self) -> &[u8] {
        self.encoded.get(self.properties..).unwrap_or_default()
    }

    /// What they say.
    ///
    /// # Errors
    /// What is wrong with them, which ends the connection.
    pub(super) fn properties(&self) -> Result<Properties<'_>, Exception> {
        Properties::decode(self.octets()).map_err(|fault| Exception::from(fault).of_connection())
    }

    /// It has these properties from now on.
    pub(super) fn rewrite(&mut self, octets: &[u8]) {
        self.encoded = content::encode(&self.exchange, &self.key, octets);
        self.properties = self.encoded.len().saturating_sub(octets.len());
    }
}

/// What is to be done with a message.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) stores: Vec<Store>,
    /// In the archives of exchanges that have recorded it.
    pub(super) archives: Vec<Store>,
    pub(super) reply: Option<(Recipient, Reply)>,
    /// As whoever is not AMQP sees it.
    pub(super) shares: Vec<SharedMessage>,
    /// The properties without what only the server is to see, where they had some of that.
    pub(super) stripped: Option<Bytes>,
    /// What queues and exchanges have noted of it.
    pub(super) noted: Vec<Noted>,
    /// It waits for its time in a delayed exchange.
    pub(super) waits: bool,
    /// A queue wants it, or has had it.
    is_routed: bool,
}

impl Plan {
    /// Whether anybody wants it.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_routed || self.reply.is_some() || !self.shares.is_empty()
    }

    /// Shows it to the subjects of the space too, if anybody wants it there.
    fn share_as(
        &mut self,
        key: &str,
        properties: &Properties<'_>,
        body: &Bytes,
        shared: &Shared,
    ) -> Result<(), Exception> {
        let topology = shared.topology()?;
        let subjects = topology.subjects();
        let message =
            subjects.and_then(|subjects| subjects.wanted(key, properties, body, topology.now()));
        self.shares.extend(message.map(Arc::new));
        Ok(())
    }
}

/// The queues that a message goes to.
type Targets = Arc<[Arc<Queue>]>;

/// What a look-up finds.
#[derive(Default)]
struct Found {
    queues: Targets,
    /// Keys under which it is also a message of the space's subjects.
    shared: SmallVec<[Arc<str>; 1]>,
    beside: Beside,
    noted: Vec<Noted>,
    /// The properties, where BCC had to be cut out of them.
    stripped: Option<Bytes>,
}

impl From<Routed> for Found {
    fn from(routed: Routed) -> Self {
        Found {
            queues: routed.queues.into(),
            shared: routed.shared,
            beside: routed.beside,
            noted: routed.noted,
            stripped: None,
        }
    }
}

/// Where the last message went: the next one mostly goes there too.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    generation: u64,
    exchange: Arc<str>,
    key: Arc<str>,
    /// `None`: the message itself decides, not only its key.
    queues: Option<Targets>,
    /// See [`Found::shared`].
    shared: SmallVec<[Arc<str>; 1]>,
}

impl Channel {
    /// Exchange and key of the last message, if they are these.
    pub(super) fn remembered(
        &self,
        exchange: &str,
        key: &str,
        generation: u64,
    ) -> Option<(Arc<str>, Arc<str>)> {
        let known = self.remembered.as_ref().filter(|known| {
            known.generation == generation && &*known.key == key && &*known.exchange == exchange
        })?;
        Some((Arc::clone(&known.exchange), Arc::clone(&known.key)))
    }

    /// Where a message goes, and how. `None`: its exchange is gone.
    pub(super) fn plan(
        &mut self,
        publication: &Publication,
        properties: &Properties<'_>,
        shared: &mut Shared,
    ) -> Result<Option<Plan>, Exception> {
        let mut plan = Plan::default();
        if publication.exchange.is_empty() && is_address(&publication.key) {
            let recipient = shared.topology()?.replies().find(&publication.key);
            plan.reply = recipient.map(|recipient| {
                let reply = Reply {
                    key: Arc::clone(&publication.key),
                    properties: publication.encoded.slice(publication.properties..),
                    body: publication.body.clone(),
                };
                (recipient, reply)
            });
            return Ok(Some(plan));
        }
        let expiration_ms = properties.expiration.map(expiration).transpose()?;
        let now = shared.moment()?;
        let Some(found) = self.routes(publication, properties, now, shared)? else {
            return Ok(None);
        };
        plan.stripped = found.stripped;
        plan.noted = found.noted;
        plan.waits = !found.beside.waiting.is_empty();
        plan.is_routed = !found.queues.is_empty() || plan.waits;
        for key in found.shared {
            plan.share_as(&key, properties, &publication.body, shared)?;
        }
        let parcel = Parcel {
            exchange: &publication.exchange,
            key: &publication.key,
            properties: publication.octets(),
            shown: plan.stripped.as_deref().unwrap_or(publication.octets()),
            encoded: plan.stripped.is_none().then_some(&publication.encoded),
            headers: properties.headers.unwrap_or_default(),
            body: &publication.body,
            priority: properties.priority,
            expiration_ms,
            now,
        };
        plan.stores = in_queues(&found.queues, &parcel, &mut plan.noted);
        plan.stores.extend(in_waiting(&found.beside, &parcel));
        plan.archives = in_archives(&found.beside, &parcel).collect();
        Ok(Some(plan))
    }

    /// Where a message goes. `None`: the exchange is gone.
    fn routes(
        &mut self,
        publication: &Publication,
        properties: &Properties<'_>,
        now: Timestamp,
        shared: &mut Shared,
    ) -> Result<Option<Found>, Exception> {
        let Publication { exchange, key, .. } = publication;
        let headers = properties.headers.unwrap_or_default();
        let keys = keys_of(key, &headers)?;
        if keys.len() == 1
            && let Some(known) = self.known_routes(publication, shared)?
        {
            return Ok(Some(known));
        }
        let topology = Arc::clone(shared.topology()?);
        let stripped = (keys.len() > 1).then(|| without(properties, &["BCC"]));
        let stripped = stripped.flatten().map(Bytes::from);
        let routing = Routing {
            keys: &keys,
            properties,
            content: Content {
                exchange,
                properties: stripped.as_deref().unwrap_or(publication.octets()),
                body: &publication.body,
            },
            due: false,
            now,
        };
        if keys.len() > 1 {
            if exchange.is_empty() {
                for key in &keys {
                    shared.check_default(key)?;
                }
            } else if topology.shares(exchange) {
                for key in &keys {
                    shared.check_subject(Right::Publish, exchange, key)?;
                }
            }
            let graph = topology.graph();
            let found = graph.exchange(exchange);
            if found.is_some_and(|found| found.config.kind == Kind::Topic) {
                for key in &keys {
                    shared.check_topic(Right::Publish, exchange, key)?;
                }
            }
            let routed = graph.route(exchange, &routing);
            return Ok(routed.map(|routed| Found {
                stripped,
                ..routed.into()
            }));
        }
        let graph = topology.graph();
        let Some(routed) = graph.route(exchange, &routing) else {
            return Ok(None);
        };
        let by_message = routed.by_message;
        let found = Found::from(routed);
        self.remembered = Some(Remembered {
            generation: graph.generation(),
            exchange: Arc::clone(exchange),
            key: Arc::clone(key),
            queues: (!by_message).then(|| Arc::clone(&found.queues)),
            shared: found.shared.clone(),
        });
        Ok(Some(found))
    }
}

/// The only place that a message goes to, and how that wants it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sole {
    pub(super) shard: ShardId,
    pub(super) stream: StreamId,
    pub(super) priority: Priority,
    pub(super) expires_ms: Option<u64>,
}

impl Channel {
    /// The queue that the last message went to, if that was one, which takes what comes and notes nothing of it, and this
    /// message goes there too.
    pub(super) fn sole(
        &self,
        publication: &Publication,
        properties: &Properties<'_>,
        shared: &Shared,
    ) -> Result<Option<Sole>, Exception> {
        let known = self.remembered_for(publication, shared)?;
        let Some(known) = known.filter(|known| known.shared.is_empty()) else {
            return Ok(None);
        };
        let Some([queue]) = known.queues.as_deref() else {
            return Ok(None);
        };
        let copied = match &properties.headers {
            Some(headers) => keys_of("", headers)?.len() > 1,
            None => false,
        };
        if copied || queue.notes() || queue.lays_refused() {
            return Ok(None);
        }
        let expires_ms = properties.expiration.map(expiration).transpose()?;
        Ok(Some(Sole {
            shard: queue.shard,
            stream: queue.stream,
            priority: queue.priority(properties.priority),
            expires_ms: expires_ms.filter(|_| !queue.is_stream()),
        }))
    }

    /// What is remembered of the last message, if that had the same exchange and key and nothing was declared since.
    fn remembered_for(
        &self,
        publication: &Publication,
        shared: &Shared,
    ) -> Result<Option<&Remembered>, Exception> {
        let generation = shared.topology()?.generation();
        let same = |known: &&Remembered| {
            known.generation == generation
                && known.exchange == publication.exchange
                && known.key == publication.key
        };
        Ok(self.remembered.as_ref().filter(same))
    }

    /// Where the last message went, if this one goes there too.
    fn known_routes(
        &self,
        publication: &Publication,
        shared: &Shared,
    ) -> Result<Option<Found>, Exception> {
        let known = self.remembered_for(publication, shared)?;
        let found = known.and_then(|known| {
            Some(Found {
                queues: Arc::clone(known.queues.as_ref()?),
                shared: known.shared.clone(),
                beside: Beside::default(),
                noted: Vec::new(),
                stripped: None,
            })
        });
        Ok(found)
    }
}

/// Longest life of a message: ten years, as in RabbitMQ.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;

/// Checks what a client has written in its properties, before anything is done with the message. `user`: who has to have
/// published it.
///
/// # Errors
/// `PRECONDITION_FAILED`.
pub(super) fn check(properties: &Properties<'_>, user: Option<&str>) -> Result<(), Exception> {
    if let (Some(claimed), Some(user)) = (properties.user_id, user)
        && claimed != user
    {
        return Err(precondition(format!(
            "user_id property set to '{claimed}' but authenticated user was '{user}'"
        )));
    }
    properties.expiration.map(expiration).transpose()?;
    keys_of("", &properties.headers.unwrap_or_default()).map(drop)
}

pub(crate) fn expiration(text: &str) -> Result<u64, Exception> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let parsed = digits.then(|| text.parse().ok()).flatten();
    parsed
        .filter(|ms| *ms <= EXPIRATION_MAX_MS)
        .ok_or_else(|| precondition(format!("invalid expiration '{text}'")))
}

/// Headers with more keys for a message.
const COPIES: [&str; 2] = ["CC", "BCC"];

/// The routing keys of a message: its own, and those of its copies.
pub(crate) fn keys_of<'a>(
    key: &'a str,
    headers: &Table<'a>,
) -> Result<SmallVec<[&'a str; 1]>, Exception> {
    let mut keys = SmallVec::new();
    keys.push(key);
    if headers.is_empty() {
        return Ok(keys);
    }
    for name in COPIES {
        let Some(value) = headers.get(name) else {
            continue;
        };
        let wrong = || {
            precondition(format!(
                "invalid {name} header: an array of strings is expected"
            ))
        };
        let Value::Array(array) = value else {
            return Err(wrong());
        };
        for value in array.iter() {
            keys.push(value.as_str().ok_or_else(wrong)?);
        }
    }
    Ok(keys)
}

/// The properties without some headers; `None`: there are none of them.
pub(crate) fn without(properties: &Properties<'_>, names: &[&str]) -> Option<Vec<u8>> {
    let headers = properties.headers?;
    if names.iter().all(|name| headers.get(name).is_none()) {
        return None;
    }
    let mut kept = TableBuf::default();
    for (key, value) in headers.iter().filter(|(key, _)| !names.contains(key)) {
        kept.put(key, value).ok()?;
    }
    let properties = Properties {
        headers: Some(kept.as_table()),
        ..*properties
    };
    let mut octets = Vec::new();
    properties.encode(&mut octets).ok()?;
    Some(octets)
}
