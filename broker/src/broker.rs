//! The broker: shards, and the streams, subjects and accounts of every space on top of them.

use std::sync::{Arc, Weak};

use longtail_engine::runtime::{
    Clock, CommitTimes, LogFacts, Runtime, RuntimeConfig, Shards, SystemClock,
};
use longtail_engine::{
    Budgets, Command, Holding, NewMessage, Numbering, Recovered, Refusal, Reply, ShardInfo,
    StreamConfig, StreamInfo, StreamName, Target,
};
use longtail_model::{Durability, Seq, ShardId, StreamId};
use parking_lot::Mutex;

use crate::auth::{Quotas, Usage};
use crate::catalog::Catalog;
use crate::client::{Answer, Client, Closed, Inbox, accepted};
use crate::config::BrokerConfig;
use crate::hash::stable_hash;
use crate::shards::{self, OpenError};
use crate::space::Spaces;

/// Why the broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no stream of this name.
    #[error("there is no stream {0}")]
    NoStream(StreamName),
    /// The shard refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The broker is closing.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// A thread of the runtime could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A document has another version than expected.
    #[error("{name} has version {found}")]
    Conflict {
        /// The document.
        name: String,
        /// Its version; 0: it does not exist.
        found: u64,
    },
    /// A shard answered what it must not: a bug.
    #[error("unexpected answer of the shard: {0}")]
    Unexpected(String),
}

/// Streams described in one go.
const STREAMS_PAGE: u32 = 1000;

/// Everything that outlives connections.
pub struct Broker {
    config: BrokerConfig,
    runtime: Arc<Runtime>,
    shards: Arc<dyn Shards>,
    /// The broker's own session at each shard.
    clients: Vec<Client>,
    inboxes: Arc<Mutex<Vec<Weak<Inbox>>>>,
    recovered: Vec<Recovered>,
    catalog: Catalog,
    spaces: Spaces,
    budgets: Arc<Budgets>,
    clock: Arc<dyn Clock>,
}

impl Broker {
    /// Opens the data directory (or none) and starts the shards.
    ///
    /// # Errors
    /// When the directory cannot be used, see [`OpenError`], or threads cannot be started.
    pub fn open(config: BrokerConfig) -> Result<Arc<Broker>, BrokerError> {
        Broker::open_with(config, Arc::new(SystemClock::new()))
    }

    /// As [`Broker::open`], by another clock.
    ///
    /// # Errors
    /// As [`Broker::open`].
    pub fn open_with(
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Broker>, BrokerError> {
        let (opened, budgets) = shards::open(&config, &clock)?;
        let (shards, recovered): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let runtime_config = RuntimeConfig {
            interval_ms: config.interval_ms,
        };
        let runtime =
            Arc::new(Runtime::start(shards, &clock, &runtime_config).map_err(BrokerError::Thread)?);
        let shards: Arc<dyn Shards> = Arc::clone(&runtime) as Arc<dyn Shards>;
        let inboxes = Arc::new(Mutex::new(Vec::new()));
        let clients = (0..shards.count())
            .map(|shard| attach(&shards, &inboxes, ShardId(shard)))
            .collect();
        let documents = runtime.with_shard(ShardId(0), |shard| {
            let owned = shard
                .documents()
                .map(|(name, body)| (name.to_owned(), body.to_vec()));
            owned.collect::<Vec<_>>()
        });
        let documents = documents.unwrap_or_default();
        let catalog = Catalog::open(
            attach(&shards, &inboxes, ShardId(0)),
            documents
                .iter()
                .map(|(name, body)| (name.as_str(), body.as_slice())),
        );
        let broker = Arc::new(Broker {
            config,
            runtime,
            shards,
            clients,
            inboxes,
            recovered,
            catalog,
            spaces: Spaces::default(),
            budgets,
            clock,
        });
        crate::client::block_on(async {
            broker.restore_spaces().await?;
            for (space, quotas) in &broker.config.quotas {
                broker.set_quotas(space, quotas)?;
            }
            broker.restore_bindings().await;
            Ok(broker.clone())
        })
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// What was found in each shard when it was opened.
    #[must_use]
    pub fn recovered(&self) -> &[Recovered] {
        &self.recovered
    }

    /// The shards, for sessions of protocols.
    #[must_use]
    pub fn shards(&self) -> Arc<dyn Shards> {
        Arc::clone(&self.shards)
    }

    /// The clock that the shards go by.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// What acknowledgements mean where a stream does not say.
    #[must_use]
    pub fn durability(&self) -> Durability {
        if self.config.directory().is_none() {
            Durability::Memory
        } else {
            self.config.durability
        }
    }

    /// The shard that a new stream belongs to: streams that share their numbers are together.
    #[must_use]
    pub fn placement(&self, name: &StreamName, numbering: &Numbering) -> ShardId {
        let key = match numbering {
            Numbering::Own => &name.name,
            Numbering::Shared(with) => with,
        };
        let hash = hash_of(&[name.space.as_bytes(), key.as_bytes()]);
        let shards = u64::from(self.shards.count().max(1));
        ShardId(u16::try_from(hash % shards).unwrap_or(0))
    }

    /// Says what a space may use from now on: its streams, messages, bytes and subscriptions. What it uses already
    /// stays; connections are the listeners' affair.
    ///
    /// # Errors
    /// When there are too many spaces.
    pub fn set_quotas(&self, space: &str, quotas: &Quotas) -> Result<(), BrokerError> {
        self.budgets.limit(
            space,
            Holding {
                streams: quotas.streams_max,
                messages: quotas.messages_max,
                bytes: quotas.bytes_max,
            },
        );
        let most = quotas
            .subscriptions_max
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        self.space(space)?.router.limit_subscriptions(most);
        Ok(())
    }

    /// A space that is gone has no limits.
    pub(crate) fn lift_quotas(&self, space: &str) {
        self.budgets.limit(space, Holding::<Option<u64>>::default());
    }

    /// What a space uses. Its connections are not known here and are 0.
    #[must_use]
    pub fn usage(&self, space: &str) -> Usage {
        let held = self.budgets.held(space);
        Usage {
            streams: held.streams,
            bytes: held.bytes,
            messages: held.messages,
            connections: 0,
            subscriptions: self.spaces.subscriptions(space),
        }
    }

    /// What is defined.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(crate) fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    pub(crate) fn client_of(&self, shard: ShardId) -> &Client {
        &self.clients[usize::from(shard.0)]
    }

    /// A session of the process's own at a shard.
    #[must_use]
    pub fn client(&self, shard: ShardId) -> Client {
        attach(&self.shards, &self.inboxes, shard)
    }

    /// The shard where a stream lives, if it exists.
    pub async fn find(
        &self,
        name: &StreamName,
    ) -> Result<Option<(ShardId, StreamInfo)>, BrokerError> {
        for client in &self.clients {
            match client
                .call(Command::DescribeStream { name: name.clone() })
                .await?
                .reply
            {
                Reply::StreamInfo(info) => return Ok(Some((client.shard(), *info))),
                Reply::NotFound => {}
                other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
            }
        }
        Ok(None)
    }

    /// Carries out a command about one existing stream at its shard.
    ///
    /// # Errors
    /// When there is no such stream, or the shard refuses.
    pub async fn at_stream(
        &self,
        name: &StreamName,
        command: Command,
    ) -> Result<Answer, BrokerError> {
        let Some((shard, _)) = self.find(name).await? else {
            return Err(BrokerError::NoStream(name.clone()));
        };
        let answer = accepted(self.clients[usize::from(shard.0)].call(command).await?)?;
        if answer.reply == Reply::NotFound {
            Err(BrokerError::NoStream(name.clone()))
        } else {
            Ok(answer)
        }
    }

    /// Creates a stream, durably; nothing happens when it exists with the same configuration.
    ///
    /// # Errors
    /// When it exists with another one, or the shard refuses.
    pub async fn define(
        &self,
        name: StreamName,
        config: StreamConfig,
    ) -> Result<StreamId, BrokerError> {
        let existing = self.find(&name).await?.map(|(shard, _)| shard);
        let shard = existing.unwrap_or_else(|| self.placement(&name, &config.numbering));
        let client = &self.clients[usize::from(shard.0)];
        accepted(
            client
                .call(Command::Define {
                    name: name.clone(),
                    config: Box::new(config),
                })
                .await?,
        )?;
        match self.find(&name).await? {
            Some((_, info)) => Ok(info.stream),
            None => Err(BrokerError::NoStream(name)),
        }
    }

    /// Appends a message to a stream; returns its number when it is as durable as the stream asks.
    ///
    /// # Errors
    /// When there is no such stream, or the shard refuses.
    pub async fn publish_to(
        &self,
        name: &StreamName,
        message: NewMessage,
    ) -> Result<Seq, BrokerError> {
        let Some((shard, info)) = self.find(name).await? else {
            return Err(BrokerError::NoStream(name.clone()));
        };
        let command = Command::Publish {
            to: Target::Stream(info.stream),
            also: Vec::new(),
            message,
        };
        match accepted(self.clients[usize::from(shard.0)].call(command).await?)?.reply {
            Reply::Published { seq, .. } => Ok(seq),
            other => Err(BrokerError::Unexpected(format!("{other:?}"))),
        }
    }

    /// All streams of a space (or of all), shard by shard.
    ///
    /// # Errors
    /// When the broker is closing.
    pub async fn streams(
        &self,
        space: Option<Arc<str>>,
    ) -> Result<Vec<(StreamName, StreamInfo)>, BrokerError> {
        let mut all = Vec::new();
        for client in &self.clients {
            let mut after = None;
            loop {
                let describe = Command::DescribeStreams {
                    space: space.clone(),
                    after,
                    limit: STREAMS_PAGE,
                };
                match client.call(describe).await?.reply {
                    Reply::StreamPage { streams, next } => {
                        all.extend(streams);
                        after = next;
                    }
                    other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
                }
                if after.is_none() {
                    break;
                }
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// What each shard holds.
    #[must_use]
    pub fn info(&self) -> Vec<ShardInfo> {
        self.runtime.info()
    }

    /// Why messages are not accepted, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.runtime.any_trouble()
    }

    /// What was known of a shard's log at its last batch. Takes no lock.
    #[must_use]
    pub fn log_facts(&self, shard: ShardId) -> LogFacts {
        self.runtime.log_facts(shard)
    }

    /// How long a shard's commits took. Takes no lock.
    #[must_use]
    pub fn commit_times(&self, shard: ShardId) -> CommitTimes {
        self.runtime.commit_times(shard)
    }

    /// Bytes of disk that a shard's log occupies; `None` when it has none.
    #[must_use]
    pub fn disk_bytes(&self, shard: ShardId) -> Option<u64> {
        self.runtime.disk_bytes(shard)
    }

    /// The shards that accept no messages, and why, as of their last batches. Does not wait for the shards.
    pub fn troubles(&self) -> impl Iterator<Item = (ShardId, String)> {
        (0..self.shards.count())
            .map(ShardId)
            .filter_map(|shard| self.runtime.trouble(shard).map(|trouble| (shard, trouble)))
    }

    /// Makes everything durable, writes checkpoints and stops the shards. Whoever still waits for an answer gets
    /// [`Closed`].
    pub fn close(&self) {
        self.runtime.stop();
        for inbox in self.inboxes.lock().drain(..) {
            if let Some(inbox) = inbox.upgrade() {
                inbox.close();
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.close();
    }
}

fn attach(shards: &Arc<dyn Shards>, inboxes: &Mutex<Vec<Weak<Inbox>>>, shard: ShardId) -> Client {
    let client = Client::attach(Arc::clone(shards), shard);
    let mut inboxes = inboxes.lock();
    inboxes.retain(|inbox| inbox.strong_count() > 0);
    inboxes.push(Arc::downgrade(client.inbox()));
    client
}

/// A hash of the parts, each ended by a zero byte. Placement depends on it: it must never change.
fn hash_of(parts: &[&[u8]]) -> u64 {
    stable_hash(
        parts
            .iter()
            .flat_map(|part| part.iter().copied().chain(std::iter::once(0))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_never_changes() {
        assert_eq!(
            hash_of(&[b"default", b"beanstalk"]),
            hash_of(&[b"default", b"beanstalk"])
        );
        assert_ne!(hash_of(&[b"ab", b"c"]), hash_of(&[b"a", b"bc"]));
        assert_eq!(hash_of(&[b""]), 0xaf63_bd4c_8601_b7df);
    }
}
