//! From a message that has come whole to what is done with it: the queues, the subjects of the space, or the channel that
//! waits for it as a reply.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Action as Right;
use longtail_broker::message::SharedMessage;
use longtail_model::Subject;
use smallvec::SmallVec;

use super::Shared;
use super::channel::Channel;
use crate::codec::{Properties, Table, TableBuf, Value};
use crate::exception::{Exception, precondition};
use crate::graph::Routing;
use crate::queue::Queue;
use crate::replies::{Recipient, Reply, is_address};
use crate::store::{Letter, Store, stores};
use crate::subjects::to_message;

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
    /// As whoever is not AMQP sees it.
    pub(super) shares: Vec<SharedMessage>,
    /// The properties without what only the server is to see, where they had some of that.
    pub(super) stripped: Option<Bytes>,
}

impl Plan {
    /// Whether anybody wants it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.stores.is_empty() || self.reply.is_some() || !self.shares.is_empty()
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
        let subject = Subject::parse_amqp(key).ok();
        let wanted = topology.subjects().zip(subject);
        if wanted.is_some_and(|(subjects, subject)| subjects.is_wanted(subject.as_ref())) {
            let message = to_message(key, properties, body, topology.now());
            self.shares.extend(message.map(Arc::new));
        }
        Ok(())
    }
}

/// The queues that a message goes to.
type Targets = Arc<[Arc<Queue>]>;

/// What a look-up finds.
struct Found {
    queues: Targets,
    /// Keys under which it is also a message of the space's subjects.
    subjects: SmallVec<[Arc<str>; 1]>,
    /// The properties, where BCC had to be cut out of them.
    stripped: Option<Bytes>,
}

impl Found {
    fn new(queues: Targets, key: &Arc<str>, shared: bool) -> Self {
        Found {
            queues,
            subjects: shared.then(|| Arc::clone(key)).into_iter().collect(),
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
    /// It is shared with the subjects of the space.
    shared: bool,
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
        let Some(Found {
            queues,
            subjects,
            stripped,
        }) = self.routes(publication, &properties, shared)?
        else {
            return Ok(None);
        };
        plan.stripped = stripped;
        for key in subjects {
            plan.share_as(&key, &properties, &publication.body, shared)?;
        }
        let octets = plan.stripped.as_ref().unwrap_or(&publication.properties);
        let letter = Letter {
            exchange: &publication.exchange,
            key: &publication.key,
            properties: octets,
            body: &publication.body,
            priority: properties.priority,
            expiration_ms,
        };
        plan.stores = stores(&queues, &letter);
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
                    shared.check(Right::Publish, "queue", key)?;
                }
            }
            let graph = topology.graph();
            let mut queues: Vec<Arc<Queue>> = Vec::new();
            let mut subjects = SmallVec::new();
            for key in &keys {
                let Some(routed) = graph.route(exchange, &Routing { key, headers }) else {
                    return Ok(None);
                };
                if routed.shared {
                    subjects.push(key.as_str().into());
                }
                for queue in routed.queues {
                    if !queues.iter().any(|known| Arc::ptr_eq(known, &queue)) {
                        queues.push(queue);
                    }
                }
            }
            return Ok(Some(Found {
                queues: queues.into(),
                subjects,
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
            return Ok(Some(Found::new(Arc::clone(queues), key, known.shared)));
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
            shared: routed.shared,
        });
        Ok(Some(Found::new(queues, key, routed.shared)))
    }
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
