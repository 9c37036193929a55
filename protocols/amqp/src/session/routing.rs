//! From a message that has come whole to what is done with it: routes, and one record for each shard and each way that
//! queues want it.

use std::sync::Arc;

use bytes::Bytes;
use longtail_engine::{NewMessage, Step, Target};
use longtail_model::{Priority, ShardId, StreamId};

use super::channel::Channel;
use super::{Shared, content};
use crate::codec::{Properties, Table, TableBuf, Value};
use crate::exception::{Exception, precondition};
use crate::graph::Routing;
use crate::queue::Queue;
use crate::replies::{Recipient, Reply, is_address};

/// A message that has come whole and may be published.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) exchange: Arc<str>,
    pub(super) key: Arc<str>,
    pub(super) mandatory: bool,
    /// Flags and values.
    pub(super) properties: Bytes,
    pub(super) body: Bytes,
}

impl Publication {
    /// What it weighs while it waits.
    pub(super) fn bytes(&self) -> u64 {
        (self.exchange.len() + self.key.len() + self.properties.len() + self.body.len()) as u64
    }
}

/// What is to be done with a message.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) stores: Vec<Store>,
    pub(super) reply: Option<(Recipient, Reply)>,
    /// The properties without what only the server is to see, where they had some of that.
    pub(super) stripped: Option<Bytes>,
}

impl Plan {
    /// Whether anybody wants it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.stores.is_empty() || self.reply.is_some()
    }
}

/// A record of a message at one shard.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) shard: ShardId,
    pub(super) to: StreamId,
    pub(super) also: Vec<StreamId>,
    pub(super) message: NewMessage,
    /// Queues among these for which it is a dead letter if they refuse it.
    pub(super) laying: Vec<Arc<Queue>>,
}

impl Store {
    /// As part of a transaction.
    pub(super) fn into_step(self) -> Step {
        Step::Publish {
            to: Target::Stream(self.to),
            also: self.also,
            message: self.message,
        }
    }
}

/// The queues that a message goes to.
type Targets = Arc<[Arc<Queue>]>;

/// What a look-up finds.
struct Found {
    queues: Targets,
    /// The properties, where BCC had to be cut out of them.
    stripped: Option<Bytes>,
}

impl Found {
    fn new(queues: Targets) -> Self {
        Found {
            queues,
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
}

/// How a queue wants a message: those that want it alike, at one shard, share one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) shard: ShardId,
    pub(crate) priority: Priority,
    pub(crate) expires_ms: Option<u64>,
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
        shared: &mut Shared,
    ) -> Result<Option<Plan>, Exception> {
        let properties = Properties::decode(&publication.properties)
            .map_err(|fault| Exception::from(fault).of_connection())?;
        let mut plan = Plan::default();
        if publication.exchange.is_empty() && is_address(&publication.key) {
            let recipient = shared.topology()?.replies().find(&publication.key);
            plan.reply = recipient.map(|recipient| {
                let reply = Reply {
                    key: Arc::clone(&publication.key),
                    properties: publication.properties.clone(),
                    body: publication.body.clone(),
                };
                (recipient, reply)
            });
            return Ok(Some(plan));
        }
        let expiration_ms = properties.expiration.map(expiration).transpose()?;
        let Some(Found { queues, stripped }) = self.routes(publication, &properties, shared)?
        else {
            return Ok(None);
        };
        plan.stripped = stripped;
        if queues.is_empty() {
            return Ok(Some(plan));
        }
        let octets = plan.stripped.as_ref().unwrap_or(&publication.properties);
        let headers = content::encode(&publication.exchange, &publication.key, octets);
        for (manner, streams) in by_manner(&queues, properties.priority, expiration_ms) {
            let Some((&to, also)) = streams.split_first() else {
                continue;
            };
            let laying = queues
                .iter()
                .filter(|queue| queue.lays_refused() && streams.contains(&queue.stream));
            plan.stores.push(Store {
                laying: laying.cloned().collect(),
                shard: manner.shard,
                to,
                also: also.to_vec(),
                message: NewMessage {
                    priority: manner.priority,
                    expires_ms: manner.expires_ms,
                    headers: headers.clone(),
                    payload: publication.body.clone(),
                    ..NewMessage::default()
                },
            });
        }
        Ok(Some(plan))
    }

    /// The queues that a message goes to. `None`: the exchange is gone.
    fn routes(
        &mut self,
        publication: &Publication,
        properties: &Properties<'_>,
        shared: &mut Shared,
    ) -> Result<Option<Found>, Exception> {
        let Publication { exchange, key, .. } = publication;
        let headers = properties.headers.unwrap_or_default();
        let topology = Arc::clone(shared.topology()?);
        if has_copies(&headers) {
            let mut keys = vec![key.to_string()];
            more_keys(&headers, &mut keys)?;
            if exchange.is_empty() {
                for key in &keys {
                    shared.check_default(key)?;
                }
            }
            let graph = topology.graph();
            let mut queues: Vec<Arc<Queue>> = Vec::new();
            for key in &keys {
                let Some(routed) = graph.route(exchange, &Routing { key, headers }) else {
                    return Ok(None);
                };
                for queue in routed.queues {
                    if !queues.iter().any(|known| Arc::ptr_eq(known, &queue)) {
                        queues.push(queue);
                    }
                }
            }
            return Ok(Some(Found {
                queues: queues.into(),
                stripped: without_bcc(properties, &headers).map(Bytes::from),
            }));
        }
        let generation = topology.generation();
        if let Some(known) = &self.remembered
            && known.generation == generation
            && known.exchange == *exchange
            && known.key == *key
            && let Some(queues) = &known.queues
        {
            return Ok(Some(Found::new(Arc::clone(queues))));
        }
        let graph = topology.graph();
        let Some(routed) = graph.route(exchange, &Routing { key, headers }) else {
            return Ok(None);
        };
        let queues: Targets = routed.queues.into();
        self.remembered = Some(Remembered {
            generation: graph.generation(),
            exchange: Arc::clone(exchange),
            key: Arc::clone(key),
            queues: (!routed.by_headers).then(|| Arc::clone(&queues)),
        });
        Ok(Some(Found::new(queues)))
    }
}

/// Queues that want a message alike, together.
pub(crate) fn by_manner(
    queues: &[Arc<Queue>],
    priority: Option<u8>,
    expiration_ms: Option<u64>,
) -> Vec<(Manner, Vec<StreamId>)> {
    let mut groups: Vec<(Manner, Vec<StreamId>)> = Vec::with_capacity(1);
    for queue in queues {
        let manner = Manner {
            shard: queue.shard,
            priority: queue.priority(priority),
            expires_ms: expiration_ms,
        };
        match groups.iter_mut().find(|(known, _)| *known == manner) {
            Some((_, streams)) => streams.push(queue.stream),
            None => groups.push((manner, vec![queue.stream])),
        }
    }
    groups
}

/// Longest life of a message: ten years, as in RabbitMQ.
const EXPIRATION_MAX_MS: u64 = 315_360_000_000;

/// Checks what a client has written in its properties, before anything is done with the message.
///
/// # Errors
/// `PRECONDITION_FAILED`.
pub(super) fn check(properties: &Properties<'_>, user: &str) -> Result<(), Exception> {
    if let Some(claimed) = properties.user_id
        && claimed != user
    {
        return Err(precondition(format!(
            "user_id property set to '{claimed}' but authenticated user was '{user}'"
        )));
    }
    properties.expiration.map(expiration).transpose()?;
    more_keys(&properties.headers.unwrap_or_default(), &mut Vec::new())
}

fn expiration(text: &str) -> Result<u64, Exception> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let parsed = digits.then(|| text.parse().ok()).flatten();
    parsed
        .filter(|ms| *ms <= EXPIRATION_MAX_MS)
        .ok_or_else(|| precondition(format!("invalid expiration '{text}'")))
}

/// Headers with more keys for a message.
const COPIES: [&str; 2] = ["CC", "BCC"];

fn has_copies(headers: &Table<'_>) -> bool {
    !headers.is_empty() && COPIES.iter().any(|name| headers.get(name).is_some())
}

/// The keys of the CC and BCC headers.
fn more_keys(headers: &Table<'_>, keys: &mut Vec<String>) -> Result<(), Exception> {
    if headers.is_empty() {
        return Ok(());
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
            keys.push(value.as_str().ok_or_else(wrong)?.to_owned());
        }
    }
    Ok(())
}

/// The properties without BCC; `None`: there is none.
fn without_bcc(properties: &Properties<'_>, headers: &Table<'_>) -> Option<Vec<u8>> {
    headers.get("BCC")?;
    let mut kept = TableBuf::default();
    for (key, value) in headers.iter().filter(|(key, _)| *key != "BCC") {
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
