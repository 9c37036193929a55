//! What all connections of the service share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use longtail_broker::auth::{Roster, RosterError};
use longtail_broker::client::block_on;
use longtail_broker::{Broker, BrokerError};
use longtail_engine::runtime::Shards;
use longtail_model::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::alarms::{self, Alarms, Machine, Short};
use crate::census::Census;
use crate::config::Config;
use crate::exception::Exception;
use crate::letters::Lettered;
use crate::policy::Policies;
use crate::streams::Streams;
use crate::topology::{self, Common, Topology};

/// Settings, spaces, counters.
pub struct Tenant {
    config: Config,
    broker: Arc<Broker>,
    shards: Arc<dyn Shards>,
    streams: Arc<Streams>,
    /// Where what goes on by itself runs; where the first who asks for a space is, otherwise.
    runtime: OnceLock<Handle>,
    topologies: tokio::sync::Mutex<HashMap<Arc<str>, Arc<Topology>>>,
    counters: Counters,
    census: Census,
    policies: Arc<Policies>,
    lettered: Arc<Lettered>,
    queue_churn: Arc<QueueChurn>,
    changed: Arc<Notify>,
    alarms: Arc<Alarms>,
    /// What this server is called where RabbitMQ names a node.
    node: OnceLock<String>,
    /// Of connections.
    numbers: AtomicU64,
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
    /// Channels opened so far.
    pub channels_total: AtomicU64,
}

/// How queues came and went since the service started, in all spaces.
#[derive(Debug, Default)]
pub struct QueueChurn {
    /// Declarations, also of those that were there.
    pub declared: AtomicU64,
    /// Those that were made.
    pub created: AtomicU64,
    /// Those that are gone, however.
    pub deleted: AtomicU64,
}

impl Tenant {
    /// A service on this broker.
    #[must_use]
    pub fn new(config: Config, broker: Arc<Broker>) -> Arc<Self> {
        Arc::new(Tenant {
            config,
            shards: broker.shards(),
            streams: Arc::new(Streams::new(broker.shards())),
            runtime: OnceLock::new(),
            topologies: tokio::sync::Mutex::default(),
            counters: Counters::default(),
            census: Census::default(),
            lettered: Arc::default(),
            queue_churn: Arc::default(),
            changed: Arc::default(),
            policies: Arc::new(Policies::load(Arc::clone(&broker))),
            alarms: Arc::default(),
            node: OnceLock::new(),
            numbers: AtomicU64::new(0),
            broker,
        })
    }

    /// Sets every space to work that something is declared in: messages reach its queues whoever publishes them, before
    /// any client of AMQP is there. Blocks.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub fn open_all(&self) -> Result<(), BrokerError> {
        let spaces = topology::spaces(self.broker.catalog());
        block_on(async {
            for space in spaces {
                self.topology(&space).await?;
            }
            Ok(())
        })
    }

    /// Writes down what is written down now and then, because the service ends. Blocks.
    pub fn write_offsets(&self) {
        block_on(async {
            for topology in self.topologies().await {
                topology.write_offsets().await;
            }
        });
    }

    /// What goes on beside connections runs here from now on: on a runtime that lasts as long as the service.
    pub fn live_on(self: &Arc<Self>, runtime: &Handle) {
        // Only the first counts.
        if self.runtime.set(runtime.clone()).is_ok() {
            alarms::watch(self, runtime);
        }
    }

    /// What this server is called where RabbitMQ names a node.
    pub(crate) fn node(&self) -> &str {
        self.node.get().map_or("longtail", String::as_str)
    }

    /// The machine is called so. Only the first counts.
    pub(crate) fn is_on(&self, host: &str) {
        self.node.get_or_init(|| node_on(host));
    }

    /// What is short.
    #[must_use]
    pub fn alarms(&self) -> &Arc<Alarms> {
        &self.alarms
    }

    /// What the machine has.
    #[must_use]
    pub fn machine(&self) -> Machine {
        Machine::look(self.broker.config().data.as_deref())
    }

    /// Looks whether something is short, and lets publishers go on when nothing is any more. May wait.
    pub(crate) fn look(&self) {
        let short = Short::of(&self.machine(), &self.config);
        if self.alarms.note(short) {
            self.census.unblock();
        }
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

    /// Who is connected.
    #[must_use]
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Dead letters so far, of all spaces, those that are gone too.
    pub(crate) fn lettered(&self) -> &Lettered {
        &self.lettered
    }

    /// How queues came and went.
    #[must_use]
    pub fn queue_churn(&self) -> &QueueChurn {
        &self.queue_churn
    }

    /// Is told when something that is declared has changed, in any space. One waits for it: federation.
    pub(crate) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// What operators have set for queues and exchanges by name.
    #[must_use]
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Policies of a space have changed: what is declared there goes by them from now on.
    ///
    /// # Errors
    /// When a shard does not answer.
    pub(crate) async fn apply_policies(&self, space: &Arc<str>) -> Result<(), Exception> {
        // One that nobody has asked for yet reads them when it is.
        let known = self.topologies.lock().await.get(space).cloned();
        match known {
            Some(topology) => topology.apply_policies().await,
            None => Ok(()),
        }
    }

    /// The broker behind the service.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Looks up once more what each connected client may do: later operations go by that. Whoever has no account any
    /// more is told so, and goes.
    pub fn judge_again(&self) {
        self.census.judge_again();
    }

    pub(crate) fn shards(&self) -> &Arc<dyn Shards> {
        &self.shards
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.broker.clock().now()
    }

    /// The number of a new connection; one from `inside` is not counted.
    pub(crate) fn connected(&self, inside: bool) -> u64 {
        if !inside {
            let counters = &self.counters;
            counters.connections.fetch_add(1, Ordering::Relaxed);
            counters.connections_total.fetch_add(1, Ordering::Relaxed);
        }
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
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

    /// The vhost that a space is.
    #[must_use]
    pub fn vhost_of(&self, space: &str) -> Arc<str> {
        if *space == *self.config.space {
            "/".into()
        } else {
            space.into()
        }
    }

    /// Removes a space with all that is in it.
    ///
    /// # Errors
    /// As [`Roster::remove_space`].
    pub(crate) async fn remove_space(
        &self,
        roster: &Roster,
        space: &str,
    ) -> Result<(), RosterError> {
        let known = self.topologies.lock().await.get(space).cloned();
        let set_ending = |is_ending| {
            if let Some(known) = &known {
                known.letters().set_ending(is_ending);
            }
        };
        set_ending(true);
        let removed = roster.remove_space(space).await;
        if removed.is_err() {
            set_ending(false);
        }
        removed
    }

    /// A vhost is gone: what was declared there is forgotten.
    pub(crate) async fn forget(&self, space: &str) {
        self.topologies.lock().await.remove(space);
        self.census.forget(&self.vhost_of(space));
    }

    /// What is declared in each space that was asked for so far.
    pub(crate) async fn topologies(&self) -> Vec<Arc<Topology>> {
        let mut all: Vec<_> = self.topologies.lock().await.values().cloned().collect();
        all.sort_by(|a, b| a.space().cmp(b.space()));
        all
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
        let topology = Topology::load(
            (Arc::clone(&self.broker), Arc::clone(&self.streams)),
            Arc::clone(space),
            Arc::clone(&self.policies),
            &self.config,
            Common {
                lettered: Arc::clone(&self.lettered),
                churn: Arc::clone(&self.queue_churn),
                changed: Arc::clone(&self.changed),
            },
        )
        .await?;
        match self.runtime.get().cloned().or(Handle::try_current().ok()) {
            Some(runtime) => {
                topology.letters().carry(&topology, &runtime);
                topology.expire_queues(&runtime);
                topology.keep_offsets(&runtime);
            }
            None => {
                tracing::error!(%space, "there is no runtime for what goes on beside connections");
            }
        }
        topologies.insert(Arc::clone(space), Arc::clone(&topology));
        Ok(topology)
    }
}

/// A node's name on this machine.
pub(crate) fn node_on(host: &str) -> String {
    format!("longtail@{host}")
}
