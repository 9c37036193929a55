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

mod documents;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::{Broker, BrokerError};
use longtail_engine::command::Only;
use longtail_engine::config::StreamName;
use longtail_engine::effect::Unmet;
use longtail_engine::{Command, Refusal, Reply};
use longtail_model::Filter;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::codec::{ReplyCode, Table};
use crate::exception::{
    Exception, locked, no_exchange, no_queue, not_implemented, precondition, refused,
};
use crate::graph::{
    ALTERNATE, Binding, Destination, ExchangeConfig, Graph, Kind, Removed, is_match_valid,
};
use crate::queue::{Queue, QueueArguments, QueueConfig, same_arguments};
use crate::replies::Replies;
use documents::Document;

/// Exchanges that every space has.
const PREDECLARED: &[(&str, Kind)] = &[
    ("amq.direct", Kind::Direct),
    ("amq.fanout", Kind::Fanout),
    ("amq.topic", Kind::Topic),
    ("amq.headers", Kind::Headers),
    ("amq.match", Kind::Headers),
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

/// `queue.declare`.
#[derive(Clone, Debug)]
pub struct DeclareQueue {
    /// Its name; empty: one is made.
    pub name: String,
    /// It is only looked for.
    pub passive: bool,
    /// It outlives a restart.
    pub durable: bool,
    /// It belongs to the connection.
    pub exclusive: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

/// What a queue has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: Arc<str>,
    /// Messages that are ready.
    pub messages: u64,
    /// Consumers.
    pub consumers: u32,
}

/// `exchange.declare`.
#[derive(Clone, Debug)]
pub struct DeclareExchange {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// It is only looked for.
    pub passive: bool,
    /// It outlives a restart.
    pub durable: bool,
    /// It goes with the last of its bindings.
    pub auto_delete: bool,
    /// Clients do not publish to it.
    pub internal: bool,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

/// `queue.bind`, `exchange.bind` and their opposites.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The exchange that messages come from.
    pub source: String,
    /// Where they go.
    pub destination: Destination,
    /// The binding key.
    pub key: String,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

/// The exchanges and queues of one space.
pub struct Topology {
    space: Arc<str>,
    broker: Arc<Broker>,
    graph: RwLock<Graph>,
    replies: Arc<Replies>,
    /// That of the graph, to be read without its lock.
    generation: AtomicU64,
    /// One change at a time.
    writer: tokio::sync::Mutex<()>,
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
    pub async fn load(broker: Arc<Broker>, space: Arc<str>) -> Result<Self, BrokerError> {
        let mut graph = Graph::default();
        for &(name, kind) in PREDECLARED {
            let config = ExchangeConfig {
                kind,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Arc::default(),
            };
            graph.add_exchange(name.into(), config);
        }
        let mut bindings = Vec::new();
        for document in documents::all(broker.catalog(), &space) {
            match document {
                Document::Exchange(name, config) => graph.add_exchange(name, config),
                Document::Queue(name, config) => {
                    let stream = StreamName::new(Arc::clone(&space), Arc::clone(&name));
                    broker.define(stream.clone(), config.stream()).await?;
                    match broker.find(&stream).await? {
                        Some((shard, info)) => {
                            let queue = Queue::new(name, shard, info.stream, config);
                            graph.add_queue(Arc::new(queue));
                        }
                        None => return Err(BrokerError::NoStream(stream)),
                    }
                }
                Document::Binding(source, key, binding) => bindings.push((source, key, binding)),
            }
        }
        for (source, key, binding) in bindings {
            graph.bind(&source, &key, binding);
        }
        Ok(Topology {
            generation: AtomicU64::new(graph.generation()),
            graph: RwLock::new(graph),
            replies: Arc::default(),
            space,
            broker,
            writer: tokio::sync::Mutex::new(()),
        })
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> &Arc<str> {
        &self.space
    }

    /// Who expects direct replies.
    pub(crate) fn replies(&self) -> &Arc<Replies> {
        &self.replies
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

    /// `queue.declare`.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn declare_queue(&self, asker: &Asker, declare: DeclareQueue) -> Answer<Declared> {
        let _writer = self.writer.lock().await;
        let name: Arc<str> = if declare.name.is_empty() && !declare.passive {
            fresh_name("amq.gen-").into()
        } else {
            declare.name.replace(['\r', '\n'], "").into()
        };
        if self.graph().queue(&name).is_some() {
            let queue = self.queue(&name, asker)?;
            if !declare.passive {
                if declare.exclusive != queue.config.owner.is_some() {
                    return Err(locked(&name, &asker.vhost));
                }
                let config = queue_config(asker, &declare, &name)?;
                queue.config.check(&config, &name, &asker.vhost)?;
            }
            return self.described(&queue).await;
        }
        if declare.passive {
            return Err(no_queue(&name, &asker.vhost));
        }
        if declare.name.starts_with(RESERVED) {
            return Err(reserved("queue", &name));
        }
        if name.starts_with(INTERNAL) {
            return Err(refused(format!(
                "queue name '{name}' contains reserved prefix '{INTERNAL}'"
            )));
        }
        let config = queue_config(asker, &declare, &name)?;
        let stream = self.stream(&name);
        if self.broker.find(&stream).await.map_err(internal)?.is_some() {
            return Err(precondition(format!(
                "queue '{name}' in vhost '{}': a stream of another protocol has this name",
                asker.vhost
            )));
        }
        let document = config
            .durable
            .then(|| documents::queue(&self.space, &name, &config));
        if let Some(write) = &document {
            self.write(vec![write.clone()]).await?;
        }
        let defined = self.broker.define(stream.clone(), config.stream()).await;
        let found = match defined {
            Ok(_) => self.broker.find(&stream).await,
            Err(error) => Err(error),
        };
        let (shard, info) = match found {
            Ok(Some(found)) => found,
            outcome => {
                if let Some(write) = document {
                    self.write(vec![documents::without(write)]).await?;
                }
                return Err(match outcome {
                    Err(error) => internal(error),
                    Ok(_) => internal(BrokerError::NoStream(stream)),
                });
            }
        };
        let queue = Queue::new(Arc::clone(&name), shard, info.stream, config);
        self.change(|graph| graph.add_queue(Arc::new(queue)));
        Ok(Declared {
            name,
            messages: 0,
            consumers: 0,
        })
    }

    async fn described(&self, queue: &Queue) -> Answer<Declared> {
        Ok(Declared {
            name: Arc::clone(&queue.name),
            messages: self.ready(queue).await?,
            consumers: queue.consumers(),
        })
    }

    async fn ready(&self, queue: &Queue) -> Answer<u64> {
        let found = self.broker.find(&self.stream(&queue.name)).await;
        Ok(found.map_err(internal)?.map_or(0, |(_, info)| info.ready))
    }

    /// `queue.delete`: how many messages were ready. A queue that is not there is no error.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn delete_queue(
        &self,
        asker: &Asker,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Answer<u64> {
        let _writer = self.writer.lock().await;
        if self.graph().queue(name).is_none() {
            return Ok(0);
        }
        let queue = self.queue(name, asker)?;
        let ready = self.ready(&queue).await?;
        let unmet = |unmet| {
            let why = match unmet {
                Unmet::Unused => "in use",
                Unmet::Empty => "is not empty",
            };
            precondition(format!("queue '{name}' in vhost '{}' {why}", asker.vhost))
        };
        if !queue.begin_delete(if_unused) {
            return Err(unmet(Unmet::Unused));
        }
        let only = Only {
            unused: if_unused,
            empty: if_empty,
        };
        match self.remove_queue(&queue, only).await? {
            None => Ok(ready),
            Some(condition) => Err(unmet(condition)),
        }
    }

    /// The last consumer of an auto-deleting queue has left.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn delete_unused(&self, queue: &Arc<Queue>) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let known = self
            .graph()
            .queue(&queue.name)
            .is_some_and(|known| Arc::ptr_eq(known, queue));
        if known && queue.begin_delete(true) {
            self.remove_queue(queue, Only::default()).await?;
        }
        Ok(())
    }

    /// A connection has ended: what it had for itself goes.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn disconnected(&self, connection: u64) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let owned: Vec<_> = {
            let graph = self.graph();
            let owned = graph
                .queues()
                .filter(|queue| queue.config.owner == Some(connection));
            owned.cloned().collect()
        };
        for queue in owned {
            queue.begin_delete(false);
            self.remove_queue(&queue, Only::default()).await?;
        }
        Ok(())
    }

    /// `Some`: a condition does not hold, and the queue stays.
    async fn remove_queue(&self, queue: &Arc<Queue>, only: Only) -> Answer<Option<Unmet>> {
        let stream = self.stream(&queue.name);
        let deleted = self
            .broker
            .at_stream(
                &stream,
                Command::Delete {
                    name: stream.clone(),
                    only,
                },
            )
            .await;
        match deleted {
            Ok(_) | Err(BrokerError::NoStream(_)) => {}
            Err(BrokerError::Refused(Refusal::Unmet(unmet))) => {
                queue.abandon_delete();
                return Ok(Some(unmet));
            }
            Err(error) => {
                queue.abandon_delete();
                return Err(internal(error));
            }
        }
        let removed = self.change(|graph| graph.remove_queue(&queue.name));
        let mut writes = Vec::new();
        if queue.config.durable {
            let write = documents::queue(&self.space, &queue.name, &queue.config);
            writes.push(documents::without(write));
        }
        self.forget(removed, writes).await?;
        Ok(None)
    }

    /// Writes down that something is gone, and removes auto-deleting exchanges that were orphaned by it, and so on.
    async fn forget(
        &self,
        removed: Removed,
        mut writes: Vec<longtail_broker::catalog::Write>,
    ) -> Answer<()> {
        let mut ahead = vec![removed];
        while let Some(removed) = ahead.pop() {
            for (source, key, binding) in removed.bindings {
                let write = documents::binding(&self.space, &source, &key, &binding);
                writes.push(documents::without(write));
            }
            for orphan in removed.orphans {
                let config = self
                    .graph()
                    .exchange(&orphan)
                    .map(|exchange| exchange.config.clone());
                if let Some(config) = config {
                    writes.push(documents::without(documents::exchange(
                        &self.space,
                        &orphan,
                        &config,
                    )));
                    ahead.push(self.change(|graph| graph.remove_exchange(&orphan)));
                }
            }
        }
        self.write(writes).await
    }

    /// `queue.purge`: how many messages went.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn purge(&self, asker: &Asker, name: &str) -> Answer<u64> {
        let queue = self.queue(name, asker)?;
        let stream = self.stream(&queue.name);
        let purge = Command::Purge {
            stream: stream.clone(),
            group: Some(Arc::from("")),
            held: false,
        };
        match self.broker.at_stream(&stream, purge).await {
            Ok(answer) => match answer.reply {
                Reply::Count(count) => Ok(count),
                other => Err(internal(BrokerError::Unexpected(format!("{other:?}")))),
            },
            Err(BrokerError::NoStream(_)) => Err(no_queue(name, &asker.vhost)),
            Err(error) => Err(internal(error)),
        }
    }

    /// `exchange.declare`.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn declare_exchange(&self, asker: &Asker, declare: DeclareExchange) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let name: Arc<str> = declare.name.replace(['\r', '\n'], "").into();
        not_the_default(&name)?;
        let known = {
            let graph = self.graph();
            graph.exchange(&name).map(|known| known.config.clone())
        };
        if declare.passive {
            return known
                .map(|_| ())
                .ok_or_else(|| no_exchange(&name, &asker.vhost));
        }
        let kind = Kind::of(&declare.kind)
            .ok_or_else(|| precondition(format!("invalid exchange type '{}'", declare.kind)))?;
        let config = ExchangeConfig {
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments,
        };
        if let Some(known) = known {
            return same_exchange(&known, &config, &name, &asker.vhost);
        }
        if name.starts_with(RESERVED) {
            return Err(reserved("exchange", &name));
        }
        let arguments = Table::decode(&config.arguments).unwrap_or_default();
        if arguments.get(ALTERNATE).is_some() && config.alternate().is_none() {
            return Err(precondition(format!(
                "invalid arg '{ALTERNATE}' for exchange '{name}' in vhost '{}': a string is expected",
                asker.vhost
            )));
        }
        for later in ["x-delayed-exchange", "x-message-deduplication"] {
            if arguments.get(later).is_some() {
                return Err(not_implemented(format!(
                    "exchange argument '{later}' is not supported yet"
                )));
            }
        }
        if config.durable {
            self.write(vec![documents::exchange(&self.space, &name, &config)])
                .await?;
        }
        self.change(|graph| graph.add_exchange(name, config));
        Ok(())
    }

    /// `exchange.delete`. An exchange that is not there is no error.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn delete_exchange(&self, asker: &Asker, name: &str, if_unused: bool) -> Answer<()> {
        let _writer = self.writer.lock().await;
        not_the_default(name)?;
        let known = {
            let graph = self.graph();
            let exchange = graph.exchange(name);
            exchange.map(|known| (known.config.clone(), known.is_unused()))
        };
        if name.starts_with(RESERVED) {
            return Err(reserved("exchange", name));
        }
        let Some((config, unused)) = known else {
            return Ok(());
        };
        if if_unused && !unused {
            return Err(precondition(format!(
                "exchange '{name}' in vhost '{}' in use",
                asker.vhost
            )));
        }
        let removed = self.change(|graph| graph.remove_exchange(name));
        let write = documents::exchange(&self.space, name, &config);
        self.forget(removed, vec![documents::without(write)]).await
    }

    /// `queue.bind` and `exchange.bind`.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn bind(&self, asker: &Asker, bind: Bind) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let durable = self.check_bind(asker, &bind)?;
        let binding = Binding {
            destination: bind.destination,
            arguments: bind.arguments,
        };
        let key: Arc<str> = bind.key.into();
        if durable {
            let write = documents::binding(&self.space, &bind.source, &key, &binding);
            self.write(vec![write]).await?;
        }
        self.change(|graph| graph.bind(&bind.source, &key, binding));
        Ok(())
    }

    /// Whether the binding is to outlive a restart.
    fn check_bind(&self, asker: &Asker, bind: &Bind) -> Answer<bool> {
        not_the_default(&bind.source)?;
        let destination_durable = match &bind.destination {
            Destination::Queue(name) => self.queue(name, asker)?.config.durable,
            Destination::Exchange(name) => {
                not_the_default(name)?;
                let graph = self.graph();
                let exchange = graph.exchange(name);
                exchange
                    .ok_or_else(|| no_exchange(name, &asker.vhost))?
                    .config
                    .durable
            }
        };
        let graph = self.graph();
        let source = graph
            .exchange(&bind.source)
            .ok_or_else(|| no_exchange(&bind.source, &asker.vhost))?;
        let arguments = Table::decode(&bind.arguments).unwrap_or_default();
        if source.config.kind == Kind::Headers && !is_match_valid(&arguments) {
            return Err(precondition(
                "invalid x-match field value: expected all, any, all-with-x or any-with-x",
            ));
        }
        if source.config.kind == Kind::Topic
            && let Err(error) = Filter::parse_amqp(&bind.key)
        {
            return Err(precondition(format!(
                "binding key '{}' cannot be matched: {error}",
                bind.key
            )));
        }
        Ok(source.config.durable && destination_durable)
    }

    /// `queue.unbind` and `exchange.unbind`. What is not there is no error.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn unbind(&self, asker: &Asker, bind: Bind) -> Answer<()> {
        let _writer = self.writer.lock().await;
        not_the_default(&bind.source)?;
        if let Destination::Queue(name) = &bind.destination
            && self.graph().queue(name).is_some()
        {
            self.queue(name, asker)?;
        }
        let binding = Binding {
            destination: bind.destination,
            arguments: bind.arguments,
        };
        let removed = self.change(|graph| {
            let mut removed = Removed::default();
            if graph.unbind(&bind.source, &bind.key, &binding) {
                let orphan = graph
                    .exchange(&bind.source)
                    .is_some_and(|source| source.config.auto_delete && source.is_unused());
                let source: Arc<str> = bind.source.as_str().into();
                if orphan {
                    removed.orphans.push(Arc::clone(&source));
                }
                removed
                    .bindings
                    .push((source, bind.key.as_str().into(), binding));
            }
            removed
        });
        self.forget(removed, Vec::new()).await
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

/// Documents in one frame.
const WRITES_MAX: usize = longtail_engine::Transaction::MAX_STEPS;

fn queue_config(asker: &Asker, declare: &DeclareQueue, name: &str) -> Answer<QueueConfig> {
    let arguments = Table::decode(&declare.arguments).unwrap_or_default();
    Ok(QueueConfig {
        // What goes with its connection has nothing to outlive a restart for.
        durable: declare.durable && !declare.exclusive,
        auto_delete: declare.auto_delete,
        owner: declare.exclusive.then_some(asker.connection),
        parsed: QueueArguments::parse(&arguments, name, &asker.vhost)?,
        arguments: Arc::clone(&declare.arguments),
    })
}

fn same_exchange(
    current: &ExchangeConfig,
    received: &ExchangeConfig,
    name: &str,
    vhost: &str,
) -> Answer<()> {
    let what = format!("exchange '{name}' in vhost '{vhost}'");
    let text = |flag: bool| flag.to_string();
    for (key, current, received) in [
        (
            "type",
            current.kind.name().to_owned(),
            received.kind.name().to_owned(),
        ),
        ("durable", text(current.durable), text(received.durable)),
        (
            "auto_delete",
            text(current.auto_delete),
            text(received.auto_delete),
        ),
        ("internal", text(current.internal), text(received.internal)),
    ] {
        if current != received {
            return Err(precondition(format!(
                "inequivalent arg '{key}' for {what}: received '{received}' but current is '{current}'"
            )));
        }
    }
    same_arguments(&[ALTERNATE], &current.arguments, &received.arguments, &what)
}

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
