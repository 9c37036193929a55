//! What is declared in a space: changes it, one at a time, and writes durable parts to the catalog.
//!
//! ```text
//! session ──▶ Topology::declare_queue ─┬─▶ catalog (documents) ──┐
//!                                      ├─▶ shard (stream)        ├──▶ graph ──▶ answer
//!                                      └─▶ ...                 ──┘
//! publisher ──▶ Topology::graph (shared) ──▶ routes
//! ```
//!
//! The document of a durable queue is written before its stream is defined, and removed after that is deleted: after a
//! crash in between, the queue is there, perhaps empty, and nothing is left that nobody knows of.

mod archives;
mod bindings;
mod delayed;
mod documents;
mod exchanges;
mod lifecycle;
mod queues;
mod replaying;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use longtail_broker::{Broker, BrokerError};
use longtail_engine::Refusal;
use longtail_engine::config::StreamName;
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::codec::ReplyCode;
use crate::config::Config;
use crate::exception::{Exception, locked, no_queue, precondition, refused};
use crate::firehose;
use crate::graph::{ExchangeConfig, Graph, Kind};
use crate::letters::{Lettered, Letters};
use crate::policy::{Policies, Subject};
use crate::queue::{Queue, QueueArguments, QueueSettings, QueueType};
use crate::replies::Replies;
use crate::streams::Streams;
use crate::subjects::Subjects;
use crate::tenant::QueueChurn;
use crate::vhost::Vhost;
pub use bindings::Bind;
use delayed::Releaser;
use documents::Document;
pub(crate) use documents::spaces;
pub use exchanges::DeclareExchange;
pub use queues::{DeclareQueue, Declared};

/// Exchanges that every space has.
const PREDECLARED: &[(&str, Kind)] = &[
    ("amq.direct", Kind::Direct),
    ("amq.fanout", Kind::Fanout),
    ("amq.topic", Kind::Topic),
    ("amq.headers", Kind::Headers),
    ("amq.match", Kind::Headers),
    (firehose::EXCHANGE, Kind::Topic),
];

/// Names that start so are the server's.
const RESERVED: &str = "amq.";

/// Streams of the broker itself start so.
const INTERNAL: char = '$';

/// Who asks.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The connection.
    pub connection: u64,
    /// The vhost as it has named it, for texts.
    pub vhost: Arc<str>,
}

/// The exchanges and queues of one space.
pub struct Topology {
    this: Weak<Topology>,
    space: Arc<str>,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    graph: Arc<RwLock<Graph>>,
    replies: Arc<Replies>,
    subjects: Option<Subjects>,
    streams: Arc<Streams>,
    /// Who lets go what has waited, by exchange.
    releasers: parking_lot::Mutex<HashMap<Arc<str>, Releaser>>,
    letters: Arc<Letters>,
    churn: Arc<QueueChurn>,
    /// Is told of every change.
    changed: Arc<tokio::sync::Notify>,
    /// A queue that expires has come.
    expiring: Arc<tokio::sync::Notify>,
    /// A consumer of a stream whose place is kept has come further.
    keeping: Arc<tokio::sync::Notify>,
    policies: Arc<Policies>,
    exchanges_max: usize,
    bindings_max: usize,
    /// Queues that may be declared; `u64::MAX`: any number.
    queues_max: AtomicU64,
    /// A copy of every message goes to whoever wants it.
    traced: AtomicBool,
    /// Of queues that do not say theirs.
    queue_type: RwLock<Option<QueueType>>,
    /// That of the graph, to be read without its lock.
    generation: AtomicU64,
    /// One change at a time.
    writer: tokio::sync::Mutex<()>,
}

/// What all spaces of a service have in common.
pub(crate) struct Common {
    /// Dead letters by reason.
    pub(crate) lettered: Arc<Lettered>,
    /// How queues came and went.
    pub(crate) churn: Arc<QueueChurn>,
    /// Is told of every change.
    pub(crate) changed: Arc<tokio::sync::Notify>,
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topology")
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

type Answer<T> = Result<T, Exception>;

impl Topology {
    /// What the catalog says of a space.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub(crate) async fn load(
        (broker, streams): (Arc<Broker>, Arc<Streams>),
        space: Arc<str>,
        policies: Arc<Policies>,
        config: &Config,
        common: Common,
    ) -> Result<Arc<Self>, BrokerError> {
        let letters = Arc::new(Letters::new(&broker, Arc::clone(&space), common.lettered));
        let shared: Option<Arc<str>> = config.subjects_exchange.as_deref().map(Arc::from);
        let vhost = Vhost::of(broker.catalog(), &space);
        let mut graph = Graph::sharing(shared.clone());
        for &(name, kind) in PREDECLARED {
            let mut config = ExchangeConfig::predeclared(kind);
            config.internal = name == firehose::EXCHANGE;
            graph.add_exchange(name.into(), config);
        }
        let mut bindings = Vec::new();
        for document in documents::all(broker.catalog(), &space) {
            match document {
                Document::Exchange(name, config) => graph.add_exchange(name, config),
                Document::Queue(name, config) => {
                    let stream = StreamName::new(Arc::clone(&space), Arc::clone(&name));
                    let settings = effective(&policies, &space, &name, &config.parsed);
                    let at =
                        queues::provide(&broker, &letters, &stream, settings.stream(true)).await?;
                    let offsets = documents::offsets(broker.catalog(), &space, &name);
                    let queue = Queue::new(name, at, config, settings);
                    queue.offsets().restore(offsets);
                    graph.add_queue(Arc::new(queue));
                }
                Document::Binding(source, key, binding) => bindings.push((source, key, binding)),
            }
        }
        for (source, key, binding) in bindings {
            graph.bind(&source, &key, binding);
        }
        let exchanges: Vec<_> = graph
            .exchanges()
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for exchange in exchanges {
            let alternate = alternate(&policies, &space, &exchange);
            graph.set_alternate(&exchange, alternate);
        }
        let delaying: Vec<_> = graph
            .exchanges()
            .filter(|(_, exchange)| exchange.config.delays())
            .map(|(name, exchange)| (Arc::clone(name), exchange.config.durable))
            .collect();
        let archiving: Vec<_> = graph
            .exchanges()
            .filter_map(|(name, exchange)| {
                let length = archives::archives(&exchange.config)?;
                Some((Arc::clone(name), length))
            })
            .collect();
        let generation = AtomicU64::new(graph.generation());
        let graph = Arc::new(RwLock::new(graph));
        let subjects = shared
            .map(|exchange| {
                let space = broker.space(&space)?;
                Ok::<_, BrokerError>(Subjects::new(exchange, space, Arc::clone(&graph)))
            })
            .transpose()?;
        if let Some(subjects) = &subjects {
            subjects.open_all();
        }
        let topology = Arc::new_cyclic(|this| Topology {
            this: Weak::clone(this),
            clock: broker.clock(),
            generation,
            graph,
            replies: Arc::default(),
            subjects,
            streams,
            releasers: parking_lot::Mutex::default(),
            letters,
            churn: common.churn,
            changed: common.changed,
            expiring: Arc::default(),
            keeping: Arc::default(),
            policies,
            exchanges_max: config.exchanges_max,
            bindings_max: config.bindings_max,
            queues_max: AtomicU64::new(vhost.queues_max.unwrap_or(u64::MAX)),
            traced: AtomicBool::new(vhost.tracing),
            queue_type: RwLock::new(vhost.queue_type()),
            space,
            broker,
            writer: tokio::sync::Mutex::new(()),
        });
        for (exchange, durable) in delaying {
            let waiting = topology.provide_waiting(&exchange, durable).await?;
            topology.change(|graph| graph.set_waiting(waiting.clone()));
            topology.start_releasing(&waiting);
        }
        for (exchange, length) in archiving {
            let archive = topology.provide_archive(&exchange, length).await?;
            let earlier = topology.read_archive(&exchange).await?;
            topology.change(|graph| graph.set_archive(&exchange, archive, earlier));
        }
        Ok(topology)
    }

    /// The service's own way to the shards.
    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> &Arc<str> {
        &self.space
    }

    /// What is said of the vhost has changed.
    pub fn govern(&self, vhost: &Vhost) {
        let most = vhost.queues_max.unwrap_or(u64::MAX);
        self.queues_max.store(most, Ordering::Relaxed);
        *self.queue_type.write() = vhost.queue_type();
        self.traced.store(vhost.tracing, Ordering::Relaxed);
    }

    /// Whether a copy of every message is wanted.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Who carries dead letters.
    pub(crate) fn letters(&self) -> &Arc<Letters> {
        &self.letters
    }

    /// Who expects direct replies.
    pub(crate) fn replies(&self) -> &Arc<Replies> {
        &self.replies
    }

    /// The exchange that is the space's subjects.
    pub(crate) fn subjects(&self) -> Option<&Subjects> {
        self.subjects.as_ref()
    }

    /// Whether an exchange is that.
    pub(crate) fn shares(&self, exchange: &str) -> bool {
        (self.subjects.as_ref()).is_some_and(|subjects| subjects.exchange() == exchange)
    }

    /// Is to be told when a consumer whose place is kept has come further.
    pub(crate) fn keeping(&self) -> Arc<tokio::sync::Notify> {
        Arc::clone(&self.keeping)
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What there is now.
    pub fn graph(&self) -> RwLockReadGuard<'_, Graph> {
        self.graph.read()
    }

    /// Moves with every change that routing depends on; see [`Graph::generation`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn change<R>(&self, change: impl FnOnce(&mut Graph) -> R) -> R {
        let mut graph = self.graph.write();
        let result = change(&mut graph);
        self.generation.store(graph.generation(), Ordering::Release);
        self.changed.notify_one();
        result
    }

    fn stream(&self, queue: &Arc<str>) -> StreamName {
        StreamName::new(Arc::clone(&self.space), Arc::clone(queue))
    }

    /// A queue that a connection may use.
    ///
    /// # Errors
    /// `NOT_FOUND`, `RESOURCE_LOCKED`.
    pub fn queue(&self, name: &str, asker: &Asker) -> Answer<Arc<Queue>> {
        let found = self.graph().queue(name).cloned();
        let queue = found.ok_or_else(|| no_queue(name, &asker.vhost))?;
        if queue.is_open_to(asker.connection) {
            Ok(queue)
        } else {
            Err(locked(name, &asker.vhost))
        }
    }

    async fn write(&self, mut writes: Vec<longtail_broker::catalog::Write>) -> Answer<()> {
        writes.sort_by(|a, b| a.name.cmp(&b.name));
        writes.dedup_by(|a, b| a.name == b.name);
        for chunk in writes.chunks(WRITES_MAX) {
            self.broker
                .catalog()
                .put_all(chunk.to_vec())
                .await
                .map_err(internal)?;
        }
        Ok(())
    }
}

/// The settings that hold for a queue: its arguments, and the policies that match its name.
fn effective(
    policies: &Policies,
    space: &str,
    name: &str,
    arguments: &QueueArguments,
) -> QueueSettings {
    let subject = Subject::Queue(name, arguments.kind.name());
    let of = |operator| {
        let policy = policies.matching(space, subject, operator);
        policy.map(|policy| policy.rules())
    };
    QueueSettings::of(arguments, of(false).as_ref(), of(true).as_ref())
}

/// Where a policy says that messages go that an exchange has no queue for.
fn alternate(policies: &Policies, space: &str, exchange: &str) -> Option<Arc<str>> {
    let policy = policies.matching(space, Subject::Exchange(exchange), false);
    policy.and_then(|policy| policy.alternate())
}

impl Topology {
    /// Policies have changed: every queue and exchange goes by those that match it now.
    ///
    /// # Errors
    /// What a shard refuses; what comes before it has changed.
    pub async fn apply_policies(&self) -> Answer<()> {
        // Whoever is declaring has looked at what there was before.
        drop(self.writer.lock().await);
        let (queues, exchanges): (Vec<_>, Vec<_>) = {
            let graph = self.graph();
            let exchanges = graph.exchanges().map(|(name, _)| Arc::clone(name));
            (graph.queues().cloned().collect(), exchanges.collect())
        };
        for queue in queues {
            let settings = self.settings_of(&queue.name, &queue.config.parsed);
            self.apply(&queue, settings).await?;
        }
        for exchange in exchanges {
            let alternate = alternate(&self.policies, &self.space, &exchange);
            self.change(|graph| graph.set_alternate(&exchange, alternate));
        }
        Ok(())
    }

    /// The settings that hold for a queue.
    fn settings_of(&self, name: &str, arguments: &QueueArguments) -> QueueSettings {
        effective(&self.policies, &self.space, name, arguments)
    }
}

/// Documents in one frame.
const WRITES_MAX: usize = longtail_engine::Transaction::MAX_STEPS;

fn not_the_default(exchange: &str) -> Answer<()> {
    if exchange.is_empty() {
        return Err(refused("operation not permitted on the default exchange"));
    }
    Ok(())
}

fn reserved(what: &str, name: &str) -> Exception {
    refused(format!(
        "{what} name '{name}' contains reserved prefix 'amq.*'"
    ))
}

/// What the broker does not do, as a client is told.
fn internal(error: BrokerError) -> Exception {
    match error {
        BrokerError::Refused(Refusal::Limit(why)) => precondition(why),
        BrokerError::Refused(Refusal::Full(why)) => Exception::new(ReplyCode::ResourceError, why),
        error => {
            tracing::error!(%error, "the topology cannot be changed");
            Exception::new(ReplyCode::InternalError, error.to_string())
        }
    }
}

/// A name that nobody else has.
pub(crate) fn fresh_name(prefix: &str) -> String {
    let (high, low): (u64, u64) = (rand::random(), rand::random());
    format!("{prefix}{high:016x}{low:016x}")
}
