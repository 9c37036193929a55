//! What all connections of the service share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::{Broker, BrokerError};
use longtail_engine::runtime::Shards;
use longtail_model::Timestamp;

use crate::config::Config;
use crate::topology::Topology;

/// Settings, spaces, counters.
pub struct Tenant {
    config: Config,
    broker: Arc<Broker>,
    shards: Arc<dyn Shards>,
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
            broker,
            topologies: tokio::sync::Mutex::default(),
            counters: Counters::default(),
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

    pub(crate) fn shards(&self) -> &Arc<dyn Shards> {
        &self.shards
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.broker.clock().now()
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
        let topology = Topology::load(Arc::clone(&self.broker), Arc::clone(space)).await?;
        let topology = Arc::new(topology);
        topology.letters().carry(&topology);
        topologies.insert(Arc::clone(space), Arc::clone(&topology));
        Ok(topology)
    }
}
