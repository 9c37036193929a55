//! Queues are declared, purged and deleted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use longtail_broker::{Broker, BrokerError};
use longtail_engine::command::Only;
use longtail_engine::config::{StreamConfig, StreamName};
use longtail_engine::effect::Unmet;
use longtail_engine::{Command, Refusal, Reply};
use longtail_model::{ShardId, StreamId};

use super::{Answer, Asker, INTERNAL, RESERVED, Topology, documents, internal, reserved};
use crate::codec::{Table, TableBuf, Value};
use crate::exception::{locked, no_queue, not_implemented, precondition, refused};
use crate::letters::Letters;
use crate::queue::{Queue, QueueArguments, QueueConfig, QueueSettings, QueueType};

/// `queue.declare`.
#[derive(Clone, Debug)]
pub struct DeclareQueue {
    /// Its name.
    pub name: String,
    /// The client left the name to the server, which may use what is reserved.
    pub is_server_named: bool,
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

impl DeclareQueue {
    /// A queue that says no type has this one, if what else is said allows it.
    fn be_by_default(&mut self, kind: QueueType) {
        let arguments = Table::decode(&self.arguments).unwrap_or_default();
        // One that says nothing is classic anyhow.
        let may_be = kind != QueueType::Classic
            && self.durable
            && !self.exclusive
            && !self.auto_delete
            && !self.is_server_named;
        if !may_be || arguments.get(QUEUE_TYPE).is_some() {
            return;
        }
        let mut all = TableBuf::default();
        let said = all.put(QUEUE_TYPE, Value::LongString(kind.name().as_bytes()));
        let rest: Result<Vec<()>, _> = (arguments.iter())
            .map(|(key, value)| all.put(key, value))
            .collect();
        if said.is_ok() && rest.is_ok() {
            self.arguments = all.as_table().as_bytes().into();
        }
    }
}

/// The argument that says the type of a queue.
const QUEUE_TYPE: &str = "x-queue-type";

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

impl Topology {
    /// `queue.declare`.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn declare_queue(
        &self,
        asker: &Asker,
        mut declare: DeclareQueue,
    ) -> Answer<Declared> {
        let _writer = self.writer.lock().await;
        let name: Arc<str> = declare.name.as_str().into();
        let by_default = *self.queue_type.read();
        if let Some(kind) = by_default.filter(|_| !declare.passive) {
            // One that is there already stays what it is, and whoever says no type does not mind.
            let known = self
                .graph()
                .queue(&name)
                .map(|queue| queue.config.parsed.kind);
            declare.be_by_default(known.unwrap_or(kind));
        }
        if self.graph().queue(&name).is_some() {
            let queue = self.queue(&name, asker)?;
            queue.touch();
            if !declare.passive {
                if declare.exclusive != queue.config.owner.is_some() {
                    return Err(locked(&name, &asker.vhost));
                }
                let config = queue_config(asker, &declare, &name)?;
                queue.config.check(&config, &name, &asker.vhost)?;
                self.churn.declared.fetch_add(1, Ordering::Relaxed);
            }
            return self.described(&queue).await;
        }
        if declare.passive {
            return Err(no_queue(&name, &asker.vhost));
        }
        if !declare.is_server_named && declare.name.starts_with(RESERVED) {
            return Err(reserved("queue", &name));
        }
        if name.starts_with(INTERNAL) {
            return Err(refused(format!(
                "queue name '{name}' contains reserved prefix '{INTERNAL}'"
            )));
        }
        let config = queue_config(asker, &declare, &name)?;
        let most = self.queues_max.load(Ordering::Relaxed);
        if self.graph().queues().count() as u64 >= most {
            return Err(precondition(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({most}) is reached",
                asker.vhost
            )));
        }
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
        let settings = self.settings_of(&name, &config.parsed);
        let made_of = settings.stream(config.durable);
        let at = match provide(&self.broker, &self.letters, &stream, made_of).await {
            Ok(at) => at,
            Err(error) => {
                if let Some(write) = document {
                    self.write(vec![documents::without(write)]).await?;
                }
                return Err(internal(error));
            }
        };
        let expires = settings.expires_ms.is_some();
        let queue = Queue::new(Arc::clone(&name), at, config, settings);
        self.change(|graph| graph.add_queue(Arc::new(queue)));
        self.churn.declared.fetch_add(1, Ordering::Relaxed);
        self.churn.created.fetch_add(1, Ordering::Relaxed);
        if expires {
            self.expiring.notify_one();
        }
        Ok(Declared {
            name,
            messages: 0,
            consumers: 0,
        })
    }

    /// Gives a queue other settings: its stream first, then everybody who looks at the queue.
    ///
    /// # Errors
    /// What the shard refuses; the old settings hold then.
    pub async fn apply(&self, queue: &Arc<Queue>, settings: QueueSettings) -> Answer<()> {
        let _writer = self.writer.lock().await;
        if *queue.settings() == settings {
            return Ok(());
        }
        let stream = self.stream(&queue.name);
        if settings.dead_letter.is_some() {
            self.letters.provide(queue.shard).await.map_err(internal)?;
        }
        let redefine = Command::Redefine {
            name: stream.clone(),
            config: Box::new(settings.stream(queue.config.durable)),
        };
        match self.broker.at_stream(&stream, redefine).await {
            Ok(_) => {
                queue.change(settings);
                self.expiring.notify_one();
                Ok(())
            }
            // It goes just now.
            Err(BrokerError::NoStream(_)) => Ok(()),
            Err(error) => Err(internal(error)),
        }
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
        let all = queue.is_stream();
        Ok((found.map_err(internal)?).map_or(0, |(_, info)| match all {
            true => info.messages,
            false => info.ready,
        }))
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
                Unmet::Empty => "not empty",
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

    /// `Some`: a condition does not hold, and the queue stays.
    pub(super) async fn remove_queue(
        &self,
        queue: &Arc<Queue>,
        only: Only,
    ) -> Answer<Option<Unmet>> {
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
        queue.tell_readers();
        let removed = self.change(|graph| graph.remove_queue(&queue.name));
        self.churn.deleted.fetch_add(1, Ordering::Relaxed);
        let mut writes = Vec::new();
        if queue.config.durable {
            let write = documents::queue(&self.space, &queue.name, &queue.config);
            writes.push(documents::without(write));
        }
        if queue.is_stream() {
            let write = documents::offsets_of(&self.space, &queue.name, &[]);
            writes.push(documents::without(write));
        }
        self.forget(removed, writes).await?;
        Ok(None)
    }

    /// `queue.purge`: how many messages went.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn purge(&self, asker: &Asker, name: &str) -> Answer<u64> {
        let queue = self.queue(name, asker)?;
        if queue.is_stream() {
            return Err(not_implemented(format!(
                "queue.purge not supported by stream queues queue '{name}' in vhost '{}'",
                asker.vhost
            )));
        }
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
}

fn queue_config(asker: &Asker, declare: &DeclareQueue, name: &str) -> Answer<QueueConfig> {
    let arguments = Table::decode(&declare.arguments).unwrap_or_default();
    let parsed = QueueArguments::parse(&arguments, name, &asker.vhost)?;
    if parsed.kind != QueueType::Classic {
        if declare.is_server_named {
            return Err(precondition(format!(
                "Cannot declare a server-named queue for type {}",
                parsed.kind.module()
            )));
        }
        let odd = [
            ("auto-delete", declare.auto_delete),
            ("exclusive-owner", declare.exclusive),
            ("non-durable", !declare.durable),
        ];
        if let Some((what, _)) = odd.into_iter().find(|(_, is)| *is) {
            return Err(precondition(format!(
                "invalid property '{what}' for queue '{name}' in vhost '{}'",
                asker.vhost
            )));
        }
    }
    Ok(QueueConfig {
        // What goes with its connection has nothing to outlive a restart for.
        durable: declare.durable && !declare.exclusive,
        auto_delete: declare.auto_delete,
        owner: declare.exclusive.then_some(asker.connection),
        parsed,
        arguments: Arc::clone(&declare.arguments),
    })
}

/// Makes sure that a stream is there, and what it is to be made of; where it is.
///
/// # Errors
/// What the shard refuses.
pub(super) async fn provide(
    broker: &Broker,
    letters: &Letters,
    stream: &StreamName,
    config: StreamConfig,
) -> Result<(ShardId, StreamId), BrokerError> {
    let found = broker.find(stream).await?;
    let has_letters = (config.group.as_ref()).is_some_and(|group| group.dead_letter.is_some());
    if has_letters {
        let placed = || broker.placement(stream, &config.numbering);
        let shard = found.as_ref().map_or_else(placed, |(shard, _)| *shard);
        letters.provide(shard).await?;
    }
    if let Some((shard, info)) = found {
        let redefine = Command::Redefine {
            name: stream.clone(),
            config: Box::new(config),
        };
        broker.at_stream(stream, redefine).await?;
        return Ok((shard, info.stream));
    }
    broker.define(stream.clone(), config).await?;
    let found = broker.find(stream).await?;
    let (shard, info) = found.ok_or_else(|| BrokerError::NoStream(stream.clone()))?;
    Ok((shard, info.stream))
}
