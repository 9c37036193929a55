//! `basic.publish`: a method, a header, bodies; then routes, and one command for each shard and each way that queues
//! want the message.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Action as Right;
use longtail_edge::Out;
use longtail_engine::{Command, NewMessage, Reply, Target};
use longtail_model::{Priority, ShardId, StreamId};

use super::channel::{Channel, Pending, internal};
use super::consuming::{DIRECT_REPLY, is_stored};
use super::{Shared, content, say, unexpected_frame};
use crate::codec::{
    ContentHeader, Method, Properties, ReplyCode, Table, TableBuf, Value, put_content,
};
use crate::config::Config;
use crate::exception::{Exception, no_exchange, not_implemented, precondition, refused};
use crate::graph::Routing;
use crate::queue::Queue;
use crate::tenant::Tenant;

/// Room that is made for a body before any of it is there.
const BODY_CAPACITY_MAX: usize = 1024 * 1024;

/// A publish whose content is still coming.
#[derive(Debug)]
pub(super) struct Publishing {
    exchange: Arc<str>,
    key: Arc<str>,
    mandatory: bool,
    header: Option<Head>,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Head {
    size: u64,
    properties: Bytes,
}

/// The queues that a message goes to.
type Targets = Arc<[Arc<Queue>]>;

/// Where the last message went: the next one mostly goes there too.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    generation: u64,
    exchange: Arc<str>,
    key: Arc<str>,
    /// `None`: the headers decide.
    queues: Option<Targets>,
}

/// How a queue wants a message: those that want it alike, at one shard, share one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Manner {
    shard: ShardId,
    priority: Priority,
    expires_ms: Option<u64>,
}

impl Channel {
    pub(super) fn publish(
        &mut self,
        method: &Method<'_>,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let Method::BasicPublish {
            exchange,
            routing_key,
            mandatory,
            immediate,
            ..
        } = *method
        else {
            return Err(internal("not basic.publish"));
        };
        if immediate {
            return Err(not_implemented("immediate=true"));
        }
        let generation = shared.topology()?.generation();
        let known = self.remembered.as_ref().filter(|known| {
            known.generation == generation
                && &*known.key == routing_key
                && &*known.exchange == exchange
        });
        let (exchange, key) = match known {
            Some(known) => (Arc::clone(&known.exchange), Arc::clone(&known.key)),
            None => {
                self.remembered = None;
                Self::may_publish(exchange, routing_key, shared)?;
                (exchange.into(), routing_key.into())
            }
        };
        self.publishing = Some(Publishing {
            exchange,
            key,
            mandatory,
            header: None,
            body: Vec::new(),
        });
        Ok(())
    }

    fn may_publish(exchange: &str, key: &str, shared: &mut Shared) -> Result<(), Exception> {
        if exchange.is_empty() {
            // The default exchange's keys are names of queues.
            return shared.check(Right::Publish, "queue", key);
        }
        shared.check(Right::Publish, "exchange", exchange)?;
        let topology = Arc::clone(shared.topology()?);
        let graph = topology.graph();
        let vhost = &shared.asker.vhost;
        let found = graph
            .exchange(exchange)
            .ok_or_else(|| no_exchange(exchange, vhost))?;
        if found.config.internal {
            return Err(refused(format!(
                "cannot publish to internal exchange '{exchange}' in vhost '{vhost}'"
            )));
        }
        Ok(())
    }

    pub(super) fn header(
        &mut self,
        payload: &[u8],
        shared: &mut Shared,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Some(publishing) = self.publishing.as_mut().filter(|p| p.header.is_none()) else {
            return Err(unexpected_frame(
                "expected method frame, got content header instead",
            ));
        };
        let header = ContentHeader::decode(payload)
            .map_err(|fault| Exception::from(fault).of_connection())?;
        if header.class != Method::BASIC {
            return Err(unexpected_frame(&format!(
                "expected content header for class {}, got one for class {} instead",
                Method::BASIC,
                header.class
            )));
        }
        let max = tenant.config().message_bytes_max;
        if header.body_size > max {
            self.publishing = None;
            return Err(precondition(format!(
                "message size {} is larger than configured max size {max}",
                header.body_size
            )));
        }
        Properties::decode(header.properties)
            .map_err(|fault| Exception::from(fault).of_connection())?;
        publishing.header = Some(Head {
            size: header.body_size,
            properties: Bytes::copy_from_slice(header.properties),
        });
        if header.body_size == 0 {
            return self.complete(&Bytes::new(), shared, out);
        }
        Ok(())
    }

    pub(super) fn body(
        &mut self,
        payload: &[u8],
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Some((publishing, size)) = self.publishing.as_mut().and_then(|publishing| {
            let size = publishing.header.as_ref()?.size;
            Some((publishing, size))
        }) else {
            return Err(unexpected_frame(
                "expected method or content header frame, got content body instead",
            ));
        };
        let there = publishing.body.len() as u64 + payload.len() as u64;
        if there > size {
            return Err(Exception::new(
                ReplyCode::FrameError,
                format!("content body of {there} bytes or more, but {size} were announced"),
            ));
        }
        if there < size {
            if publishing.body.is_empty() {
                let room = usize::try_from(size).unwrap_or(usize::MAX);
                publishing.body.reserve(room.min(BODY_CAPACITY_MAX));
            }
            publishing.body.extend_from_slice(payload);
            return Ok(());
        }
        let body = if publishing.body.is_empty() {
            Bytes::copy_from_slice(payload)
        } else {
            publishing.body.extend_from_slice(payload);
            Bytes::from(std::mem::take(&mut publishing.body))
        };
        self.complete(&body, shared, out)
    }

    /// Everything of a message is there.
    fn complete(
        &mut self,
        body: &Bytes,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Some(Publishing {
            exchange,
            key,
            mandatory,
            header: Some(head),
            ..
        }) = self.publishing.take()
        else {
            return Err(internal("a message without a header"));
        };
        let properties = Properties::decode(&head.properties)
            .map_err(|fault| Exception::from(fault).of_connection())?;
        let user = &shared.credentials.user;
        if let Some(claimed) = properties.user_id
            && claimed != user
        {
            return Err(precondition(format!(
                "user_id property set to '{claimed}' but authenticated user was '{user}'"
            )));
        }
        if properties.reply_to == Some(DIRECT_REPLY) {
            return Err(precondition("fast reply consumer does not exist"));
        }
        let expiration_ms = properties.expiration.map(expiration).transpose()?;
        let (queues, stripped) = self.routes(&exchange, &key, &properties, shared)?;
        let octets = stripped.as_deref().unwrap_or(&head.properties);
        if queues.is_empty() {
            if mandatory {
                self.give_back((&exchange, &key), octets, body, shared, out);
            }
            if let Some(confirms) = &mut self.confirms {
                confirms.begin(0);
            }
            return Ok(());
        }
        let headers = content::encode(&exchange, &key, octets);
        let groups = by_manner(&queues, properties.priority, expiration_ms);
        let number = self
            .confirms
            .as_mut()
            .map_or(0, |confirms| confirms.begin(groups.len()));
        for (manner, streams) in groups {
            let Some((&first, also)) = streams.split_first() else {
                continue;
            };
            let bytes = body.len() as u64;
            let publish = Command::Publish {
                to: Target::Stream(first),
                also: also.to_vec(),
                message: NewMessage {
                    priority: manner.priority,
                    expires_ms: manner.expires_ms,
                    headers: headers.clone(),
                    payload: body.clone(),
                    ..NewMessage::default()
                },
            };
            let way = self.ways.get_mut(usize::from(manner.shard.0));
            let way = way.ok_or_else(|| internal("no way to a shard"))?;
            way.ask(publish, Pending::Published { number, bytes });
            self.outstanding += 1;
            self.outstanding_bytes += bytes;
            shared.outstanding += 1;
            shared.outstanding_bytes += bytes;
        }
        Ok(())
    }

    /// The queues that a message goes to and, when BCC has to be cut out of them, the properties without it.
    fn routes(
        &mut self,
        exchange: &Arc<str>,
        key: &Arc<str>,
        properties: &Properties<'_>,
        shared: &mut Shared,
    ) -> Result<(Targets, Option<Vec<u8>>), Exception> {
        let headers = properties.headers.unwrap_or_default();
        let topology = Arc::clone(shared.topology()?);
        if !headers.is_empty() && (headers.get("CC").is_some() || headers.get("BCC").is_some()) {
            let mut keys = vec![key.to_string()];
            for name in ["CC", "BCC"] {
                more_keys(name, &headers, &mut keys)?;
            }
            if exchange.is_empty() {
                for key in &keys {
                    shared.check(Right::Publish, "queue", key)?;
                }
            }
            let graph = topology.graph();
            let mut queues: Vec<Arc<Queue>> = Vec::new();
            for key in &keys {
                let routed = graph.route(exchange, &Routing { key, headers });
                let routed = routed.ok_or_else(|| no_exchange(exchange, &shared.asker.vhost))?;
                for queue in routed.queues {
                    if !queues.iter().any(|known| Arc::ptr_eq(known, &queue)) {
                        queues.push(queue);
                    }
                }
            }
            return Ok((queues.into(), without_bcc(properties, &headers)));
        }
        let generation = topology.generation();
        if let Some(known) = &self.remembered
            && known.generation == generation
            && known.exchange == *exchange
            && known.key == *key
            && let Some(queues) = &known.queues
        {
            return Ok((Arc::clone(queues), None));
        }
        let graph = topology.graph();
        let routed = graph
            .route(exchange, &Routing { key, headers })
            .ok_or_else(|| no_exchange(exchange, &shared.asker.vhost))?;
        let queues: Targets = routed.queues.into();
        self.remembered = Some(Remembered {
            generation: graph.generation(),
            exchange: Arc::clone(exchange),
            key: Arc::clone(key),
            queues: (!routed.by_headers).then(|| Arc::clone(&queues)),
        });
        Ok((queues, None))
    }

    /// `basic.return`: nobody wants it.
    fn give_back(
        &self,
        (exchange, routing_key): (&str, &str),
        properties: &[u8],
        body: &[u8],
        shared: &Shared,
        out: &mut Out,
    ) {
        let returned = Method::BasicReturn {
            reply_code: ReplyCode::NoRoute.as_u16(),
            reply_text: ReplyCode::NoRoute.name(),
            exchange,
            routing_key,
        };
        say(&returned, self.number(), out);
        let put = put_content(
            self.number(),
            properties,
            body,
            shared.frame_max,
            out.tail(),
        );
        if let Err(error) = put {
            tracing::error!(%error, "a message cannot be returned");
        }
    }

    /// A shard has stored a message, or refused it.
    pub(super) fn published(
        &mut self,
        number: u64,
        bytes: u64,
        reply: &Reply,
        shared: &mut Shared,
        config: &Config,
    ) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
        shared.stored(1, bytes, config);
        let stored = is_stored(reply);
        if let Some(confirms) = &mut self.confirms {
            confirms.answered(number, !stored);
        }
    }
}

/// Queues that want a message alike, together.
fn by_manner(
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

fn expiration(text: &str) -> Result<u64, Exception> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let parsed = digits.then(|| text.parse().ok()).flatten();
    parsed
        .filter(|ms| *ms <= EXPIRATION_MAX_MS)
        .ok_or_else(|| precondition(format!("invalid expiration '{text}'")))
}

/// The keys of a CC or BCC header.
fn more_keys(name: &str, headers: &Table<'_>, keys: &mut Vec<String>) -> Result<(), Exception> {
    let Some(value) = headers.get(name) else {
        return Ok(());
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
