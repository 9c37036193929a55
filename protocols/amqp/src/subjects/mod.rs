//! The exchange that is the subjects of its space, `amq.topic` by default: applications of other protocols meet those of
//! AMQP there. A routing key `a.b` is the subject `a/b`.
//!
//! ```text
//! AMQP publisher ──▶ graph ──┬──▶ queues
//!                            └──▶ Share ──▶ router of the space ──▶ live subscribers, streams
//! other publisher ──▶ router of the space ──▶ Behind (relay) ──▶ graph ──▶ queues
//! ```
//!
//! A message goes through the router once: from AMQP the relay is left out, and what comes through the relay is not shared
//! again. Each queue has it once, since the graph decides alone. It is acknowledged when all that keep it have it safe.
//! It is never a last value: who subscribes later does not see it.

mod convert;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::Space;
use longtail_broker::ephemeral::{Burst, SpaceRouteCache, SpaceRoutes, Target};
use longtail_broker::message::{Message, SharedMessage};
use longtail_broker::relay::{Relay, RelayHandle};
use longtail_broker::router::{Chance, Subscription};
use longtail_broker::stored::{ShardPublish, publishes};
use longtail_broker::streams::Awaits as _;
use longtail_model::{DollarRule, Filter, Subject, SubjectRef, Timestamp};
use parking_lot::RwLock;

use crate::codec::Properties;
use crate::exception::{Exception, precondition};
use crate::graph::{Content, Exchange, Graph, Routing};
use crate::replies::{Mailbox, Place};
use crate::store::{Parcel, beside_queues, in_queues};
use crate::streams::{Outgoing, Waiter};
use convert::to_message;

/// What a thread keeps to publish fast.
#[derive(Default)]
struct Publisher {
    routes: SpaceRouteCache,
    /// An xorshift: only the spreading over the members of a share depends on it.
    random: u64,
}

thread_local! {
    static PUBLISHER: RefCell<Publisher> = RefCell::default();
}

/// The exchange of a space that is its subjects.
pub(crate) struct Subjects {
    exchange: Arc<str>,
    space: Arc<Space>,
    graph: Arc<RwLock<Graph>>,
    relay: RelayHandle,
}

impl std::fmt::Debug for Subjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subjects")
            .field("exchange", &self.exchange)
            .field("space", &self.space.name)
            .finish_non_exhaustive()
    }
}

impl Subjects {
    pub(crate) fn new(exchange: Arc<str>, space: Arc<Space>, graph: Arc<RwLock<Graph>>) -> Self {
        let behind = Behind {
            exchange: Arc::clone(&exchange),
            graph: Arc::clone(&graph),
        };
        Subjects {
            exchange,
            space,
            graph,
            relay: RelayHandle::new(Arc::new(behind)),
        }
    }

    /// Its name.
    pub(crate) fn exchange(&self) -> &str {
        &self.exchange
    }

    /// As [`Subjects::open`] for every key that something is bound with.
    pub(crate) fn open_all(&self) {
        let keys: Vec<Arc<str>> = {
            let graph = self.graph.read();
            let exchange = graph.exchange(&self.exchange);
            let bindings = exchange.into_iter().flat_map(Exchange::bindings);
            bindings.map(|(key, _)| Arc::clone(key)).collect()
        };
        for key in keys {
            if let Err(error) = self.open(&key) {
                tracing::error!(%key, %error, "a binding does not see other protocols' messages");
            }
        }
    }

    /// Messages of other protocols with this key are wanted from now on.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` at a limit of the space.
    pub(crate) fn open(&self, key: &str) -> Result<(), Exception> {
        // A key that cannot be matched was refused before.
        let Ok(filter) = Filter::parse_amqp(key) else {
            return Ok(());
        };
        let subscription = Subscription {
            dollar: DollarRule::Hide,
            ..Subscription::new(self.relay.options())
        };
        let router = &self.space.router;
        let opened = router.subscribe(&filter, self.relay.target(), subscription);
        opened.map_err(|error| precondition(error.to_string()))?;
        Ok(())
    }

    /// They are not any more, unless something is still bound with this key.
    pub(crate) fn close_unless_bound(&self, key: &str) {
        let bound = {
            let graph = self.graph.read();
            let exchange = graph.exchange(&self.exchange);
            exchange.is_some_and(|exchange| exchange.is_bound(key))
        };
        if !bound {
            self.close(key);
        }
    }

    fn close(&self, key: &str) {
        if let Ok(filter) = Filter::parse_amqp(key) {
            let router = &self.space.router;
            router.unsubscribe(&filter, self.relay.target(), None);
        }
    }

    /// Whether anybody who is not AMQP wants messages of a subject.
    fn is_wanted(&self, subject: SubjectRef<'_>) -> bool {
        PUBLISHER.with_borrow_mut(|publisher| {
            let routes = publisher.routes.lookup(&self.space.router, subject);
            let own = Target::Relay(self.relay.id());
            !routes.groups().is_empty() || routes.targets().iter().any(|route| route.key != own)
        })
    }

    /// A message with this key as whoever is not AMQP sees it, if anybody there wants it.
    pub(crate) fn wanted(
        &self,
        key: &str,
        properties: &Properties<'_>,
        body: &Bytes,
        now: Timestamp,
    ) -> Option<Message> {
        let subject = Subject::parse_amqp(key).ok()?;
        let wanted = self.is_wanted(subject.as_ref());
        wanted.then(|| to_message(key, properties, body, now))?
    }

    /// Shows a message to whoever is not AMQP; what they store is queued. No lock may be held.
    pub(crate) fn share(&self, message: &SharedMessage, now: Timestamp) -> Vec<ShardPublish> {
        let mut burst = Burst::new(&self.space.counters);
        PUBLISHER.with_borrow_mut(|publisher| {
            let Publisher { routes, random } = publisher;
            let routes = routes.lookup(&self.space.router, message.subject.as_ref());
            let chance = chance(random, routes, message, now);
            let published = burst.publish(routes, message, &chance, now);
            if published.streams == 0 {
                return Vec::new();
            }
            publishes(routes, &published.picked, message, now)
                .beside(self.relay.id())
                .collect()
        })
    }
}

fn chance(random: &mut u64, routes: &SpaceRoutes, message: &Message, now: Timestamp) -> Chance {
    if routes.groups().is_empty() {
        return Chance::default();
    }
    *random = if *random == 0 { now.0 | 1 } else { *random };
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    Chance::of(message, *random)
}

/// A message that is to be shown outside of AMQP, and who is told when it is safe there.
pub(crate) struct Share {
    pub(crate) message: SharedMessage,
    pub(crate) mailbox: Arc<dyn Mailbox>,
    pub(crate) at: Place,
    pub(crate) told: Told,
}

/// What a channel is told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A publish: its number in confirm mode (0: none), and the octets of its body.
    Published { number: u64, bytes: u64 },
    /// Something that a commit waits for.
    Commit,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share")
            .field("at", &self.at)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl Share {
    /// Shows it; what is to be stored goes to `outgoing`. No lock may be held.
    pub(crate) fn carry_out(self, subjects: &Subjects, now: Timestamp, outgoing: &mut Outgoing) {
        let Share {
            message,
            mailbox,
            at,
            told,
        } = self;
        let waiter = Waiter::new(move |refused| mailbox.shared(at, told, refused));
        for publish in subjects.share(&message, now) {
            outgoing.push((publish.shard, publish.command, Some(waiter.one_more())));
        }
        waiter.answered(false);
    }
}

/// The queues behind the exchange, as publishers of other protocols reach them.
struct Behind {
    exchange: Arc<str>,
    graph: Arc<RwLock<Graph>>,
}

impl Relay for Behind {
    fn relay(&self, message: &Message, now: Timestamp, to: &mut Vec<ShardPublish>) {
        let key = message.subject.to_dotted();
        if key.len() > usize::from(u8::MAX) {
            tracing::debug!(%key, "a subject is too long to be a routing key");
            return;
        }
        let Some(properties) = convert::to_properties(message, now) else {
            tracing::warn!(%key, "a message cannot be said in AMQP");
            return;
        };
        let Ok(decoded) = Properties::decode(&properties.octets) else {
            return;
        };
        let graph = self.graph.read();
        let keys = [key.as_str()];
        let routing = Routing {
            keys: &keys,
            properties: &decoded,
            content: Content {
                exchange: &self.exchange,
                properties: &properties.octets,
                body: &message.payload,
            },
            due: false,
            now,
        };
        let Some(routed) = graph.route(&self.exchange, &routing) else {
            return;
        };
        let parcel = Parcel {
            exchange: &self.exchange,
            key: &key,
            properties: &properties.octets,
            shown: &properties.octets,
            encoded: None,
            headers: decoded.headers.unwrap_or_default(),
            body: &message.payload,
            priority: None,
            expiration_ms: properties.expiration_ms,
            now,
        };
        // Whoever publishes is told of a refusal; what was noted of the message stays.
        let stores = in_queues(&routed.queues, &parcel, &mut Vec::new());
        let beside = beside_queues(&routed.beside, &parcel);
        to.extend(stores.into_iter().chain(beside).map(|store| ShardPublish {
            shard: store.shard,
            first: store.to,
            command: store.into_command(),
        }));
    }
}

impl Drop for Subjects {
    fn drop(&mut self) {
        let graph = self.graph.read();
        let exchange = graph.exchange(&self.exchange);
        for (key, _) in exchange.into_iter().flat_map(Exchange::bindings) {
            self.close(key);
        }
    }
}
