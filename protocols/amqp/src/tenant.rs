//! What all connections of the service share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::client::block_on;
use longtail_broker::{Broker, BrokerError};
use longtail_engine::runtime::Shards;

use crate::config::Config;
use crate::streams::Streams;
use crate::topology::{self, Topology};

/// Settings, spaces, counters.
pub struct Tenant {
    config: Config,
    broker: Arc<Broker>,
    shards: Arc<dyn Shards>,
    streams: Arc<Streams>,
    topologies: tokio::sync::Mutex<HashMap<Arc<str>, Arc<Topology>>>,
    counters: Counters,
}

/// What happened since the service started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections open.
    pub connections: AtomicU64,
    /// Connections opened so far.
    pub connections_total: AtomicU64,
    /// Logins refused.
    pub refused: AtomicU64,
}

impl Tenant {
    /// A service on this broker.
    #[must_use]
    pub fn new(config: Config, broker: Arc<Broker>) -> Arc<Self> {
        Arc::new(Tenant {
            config,
            shards: broker.shards(),
            streams: Arc::new(Streams::new(broker.shards())),
            broker,
            topologies: tokio::sync::Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// As [`Tenant::new`], with every space at work that something is declared in: messages reach its queues whoever
    /// publishes them, before any client of AMQP is there. Blocks.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub fn start(config: Config, broker: Arc<Broker>) -> Result<Arc<Self>, BrokerError> {
        let tenant = Tenant::new(config, broker);
        let spaces = topology::spaces(tenant.broker.catalog());
        block_on(async {
            for space in spaces {
                tenant.topology(&space).await?;
            }
            Ok(tenant.clone())
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The service's own way to the shards.
    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(crate) fn shards(&self) -> &Arc<dyn Shards> {
        &self.shards
    }

    /// The number of a new connection.
    pub(crate) fn connected(&self) -> u64 {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters
            .connections_total
            .fetch_add(1, Ordering::Relaxed)
            + 1
    }

    /// The space behind a vhost.
    #[must_use]
    pub fn space_of(&self, vhost: &str) -> Arc<str> {
        if vhost == "/" {
            Arc::clone(&self.config.space)
        } else {
            vhost.into()
        }
    }

    /// What is declared in a space; read from the catalog when first asked for.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub async fn topology(&self, space: &Arc<str>) -> Result<Arc<Topology>, BrokerError> {
        let mut topologies = self.topologies.lock().await;
        if let Some(topology) = topologies.get(space) {
            return Ok(Arc::clone(topology));
        }
        // Makes sure that the space may exist at all.
        self.broker.space(space)?;
        let shared = self.config.subjects_exchange.as_deref().map(Arc::from);
        let streams = Arc::clone(&self.streams);
        let broker = Arc::clone(&self.broker);
        let topology = Topology::load(broker, Arc::clone(space), shared, streams).await?;
        topologies.insert(Arc::clone(space), Arc::clone(&topology));
        Ok(topology)
    }
}
