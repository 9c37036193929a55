//! What to start, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use longtail_amqp::management::{ImportError, Site};
use longtail_beanstalk::{Admission, AdmitAll};
use longtail_broker::auth::{AccessList, AuthDocument, Authenticator, DirectoryError, LoginRules};
use longtail_broker::{Broker, BrokerConfig, BrokerError};
use longtail_edge::{
    Address, EdgeConfig, Exposed, ListenError, ListenerConfig, TlsConfig, TlsError,
};
use longtail_engine::runtime::{Clock, SystemClock};
use longtail_model::Durability;
use longtail_mqtt::Hook;
use longtail_mqtt::hooks::Scope;

use crate::running::Longtail;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The broker: its data directory, or its threads.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The workers that serve connections.
    #[error(transparent)]
    Edge(#[from] longtail_edge::StartError),
    /// A listener.
    #[error("{protocol}: {source}")]
    Listen {
        /// Whose.
        protocol: &'static str,
        /// Why.
        source: Box<ListenError>,
    },
    /// A listener would let other machines in although there are no accounts.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// What is declared in AMQP could not be read.
    #[error("amqp: {0}")]
    Amqp(BrokerError),
    /// The thread of the management API.
    #[error("the HTTP APIs: cannot start a thread: {0}")]
    Management(std::io::Error),
    /// A thread beside the MQTT service.
    #[error("mqtt: cannot start a thread: {0}")]
    Mqtt(std::io::Error),
    /// A listener for MQTT where the MQTT service was not started.
    #[error("mqtt: the service was not started")]
    NoMqtt,
    /// The file of dynamic security.
    #[error("mqtt: dynamic security: {0}")]
    DynamicSecurity(#[from] longtail_mqtt::control::dynamic::OpenError),
    /// The bridges to other MQTT brokers.
    #[error(transparent)]
    Bridges(#[from] longtail_mqtt::bridge::StartError),
    /// Accounts or spaces.
    #[error(transparent)]
    Accounts(#[from] DirectoryError),
    /// The file of definitions.
    #[error("amqp: {0}")]
    Definitions(#[from] ImportError),
    /// The certificates of a listener of an HTTP API.
    #[error("{protocol} on {address}: {source}")]
    Certificates {
        /// Whose.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: Box<TlsError>,
    },
    /// A listener of an HTTP API.
    #[error("{protocol}: cannot listen on {address}: {source}")]
    Site {
        /// Whose.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The settings of the beanstalk service.
    #[error("beanstalk: {0}")]
    Beanstalk(#[from] longtail_beanstalk::ConfigError),
}

/// A listener of the MQTT service.
#[derive(Clone)]
pub(crate) struct MqttListener {
    pub(crate) config: ListenerConfig,
    pub(crate) admission: Arc<dyn longtail_mqtt::Admission>,
    /// `None`: those of the service.
    pub(crate) limits: Option<longtail_mqtt::Limits>,
}

/// Where an HTTP API is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebListener {
    /// The address.
    pub address: SocketAddr,
    /// Over TLS.
    pub tls: Option<TlsConfig>,
}

impl From<SocketAddr> for WebListener {
    fn from(address: SocketAddr) -> Self {
        WebListener { address, tls: None }
    }
}

/// Puts a broker together.
pub struct Builder {
    pub(crate) broker: BrokerConfig,
    pub(crate) edge: EdgeConfig,
    pub(crate) beanstalk: longtail_beanstalk::Config,
    pub(crate) beanstalk_listeners: Vec<(ListenerConfig, Arc<dyn Admission>)>,
    pub(crate) amqp: longtail_amqp::Config,
    pub(crate) amqp_listeners: Vec<(ListenerConfig, Arc<dyn longtail_amqp::Admission>)>,
    pub(crate) amqp_sites: Vec<(Site, WebListener)>,
    pub(crate) amqp_definitions: Option<Vec<u8>>,
    pub(crate) amqp_shovels: Vec<longtail_amqp::StaticShovel>,
    pub(crate) roster: Option<(Arc<Authenticator>, AuthDocument)>,
    pub(crate) mqtt: longtail_mqtt::Config,
    pub(crate) mqtt_listeners: Vec<MqttListener>,
    pub(crate) mqtt_hooks: Vec<(Arc<dyn Hook>, i32, Scope)>,
    pub(crate) mqtt_inside: bool,
    pub(crate) mqtt_sites: Vec<WebListener>,
    pub(crate) mqtt_bridges: Vec<longtail_mqtt::bridge::BridgeConfig>,
    pub(crate) mqtt_dynamic_security: Option<PathBuf>,
    pub(crate) access_list: Option<AccessList>,
    pub(crate) login_rules: Option<LoginRules>,
    pub(crate) accounts: bool,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            broker: BrokerConfig::in_memory(),
            edge: EdgeConfig::default(),
            beanstalk: longtail_beanstalk::Config::default(),
            beanstalk_listeners: Vec::new(),
            amqp: longtail_amqp::Config::default(),
            amqp_listeners: Vec::new(),
            amqp_sites: Vec::new(),
            amqp_definitions: None,
            amqp_shovels: Vec::new(),
            roster: None,
            mqtt: longtail_mqtt::Config::default(),
            mqtt_listeners: Vec::new(),
            mqtt_hooks: Vec::new(),
            mqtt_inside: false,
            mqtt_sites: Vec::new(),
            mqtt_bridges: Vec::new(),
            mqtt_dynamic_security: None,
            access_list: None,
            login_rules: None,
            accounts: false,
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl Builder {
    /// Keeps everything in memory: nothing is written, nothing is left behind. The default.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.broker = BrokerConfig {
            data: None,
            durability: Durability::Memory,
            ..self.broker
        };
        self
    }

    /// Keeps everything in a directory, which is created when missing; acknowledged means synced, unless
    /// [`Builder::durability`] says otherwise.
    #[must_use]
    pub fn at(mut self, dir: impl Into<PathBuf>) -> Self {
        self.broker = BrokerConfig {
            data: Some(dir.into()),
            durability: Durability::Sync,
            ..self.broker
        };
        self
    }

    /// What an acknowledgement means.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.broker.durability = durability;
        self
    }

    /// All settings of the broker at once.
    #[must_use]
    pub fn broker(mut self, config: BrokerConfig) -> Self {
        self.broker = config;
        self
    }

    /// Settings of the workers and of all listeners together.
    #[must_use]
    pub fn edge(mut self, config: EdgeConfig) -> Self {
        self.edge = config;
        self
    }

    /// Settings of the beanstalk service. Its shard is chosen by the broker.
    #[must_use]
    pub fn beanstalk_config(mut self, config: longtail_beanstalk::Config) -> Self {
        self.beanstalk = config;
        self
    }

    /// Speaks beanstalkd's protocol at an address, with everybody who can reach it allowed everything.
    #[must_use]
    pub fn beanstalk(self, address: Address) -> Self {
        self.beanstalk_listener(ListenerConfig::new(address), Arc::new(AdmitAll))
    }

    /// Speaks beanstalkd's protocol at a listener, for those whom `admission` lets in.
    #[must_use]
    pub fn beanstalk_listener(
        mut self,
        config: ListenerConfig,
        admission: Arc<dyn Admission>,
    ) -> Self {
        self.beanstalk_listeners.push((config, admission));
        self
    }

    /// Settings of the AMQP service.
    #[must_use]
    pub fn amqp_config(mut self, config: longtail_amqp::Config) -> Self {
        self.amqp = config;
        self
    }

    /// Speaks AMQP 0-9-1 at an address, with everybody who can reach it allowed everything.
    #[must_use]
    pub fn amqp(self, address: Address) -> Self {
        self.amqp_listener(
            ListenerConfig::new(address),
            Arc::new(longtail_amqp::AdmitAll),
        )
    }

    /// Speaks AMQP 0-9-1 at a listener, for those whom `admission` lets in.
    #[must_use]
    pub fn amqp_listener(
        mut self,
        config: ListenerConfig,
        admission: Arc<dyn longtail_amqp::Admission>,
    ) -> Self {
        self.amqp_listeners.push((config, admission));
        self
    }

    /// Answers RabbitMQ's management API, or has RabbitMQ's metrics, at an address.
    #[must_use]
    pub fn amqp_site(mut self, site: Site, listener: impl Into<WebListener>) -> Self {
        self.amqp_sites.push((site, listener.into()));
        self
    }

    /// Imports definitions, in RabbitMQ's JSON, before the listeners open.
    #[must_use]
    pub fn amqp_definitions(mut self, definitions: Vec<u8>) -> Self {
        self.amqp_definitions = Some(definitions);
        self
    }

    /// Carries messages between AMQP brokers, this one among them. Starts the AMQP service.
    #[must_use]
    pub fn amqp_shovel(mut self, shovel: longtail_amqp::StaticShovel) -> Self {
        self.amqp_shovels.push(shovel);
        self
    }

    /// Merges the accounts and spaces that are made while the broker runs with those of a document, for whoever asks
    /// this authenticator.
    #[must_use]
    pub fn accounts(mut self, authenticator: Arc<Authenticator>, document: AuthDocument) -> Self {
        self.roster = Some((authenticator, document));
        self
    }

    /// Has a list of rules stand before those of all accounts, for whoever asks the authenticator that was given to
    /// [`Builder::accounts`].
    #[must_use]
    pub fn access_list(mut self, list: AccessList) -> Self {
        self.access_list = Some(list);
        self
    }

    /// Lets in whom rules let in, beside the accounts; likewise.
    #[must_use]
    pub fn login_rules(mut self, rules: LoginRules) -> Self {
        self.login_rules = Some(rules);
        self.with_accounts()
    }

    /// Settings of the MQTT service.
    #[must_use]
    pub fn mqtt_config(mut self, config: longtail_mqtt::Config) -> Self {
        self.mqtt = config;
        self
    }

    /// Speaks MQTT at an address, with everybody who can reach it allowed everything.
    #[must_use]
    pub fn mqtt(self, address: Address) -> Self {
        self.mqtt_listener(
            ListenerConfig::new(address),
            Arc::new(longtail_mqtt::AdmitAll),
        )
    }

    /// Speaks MQTT at a listener, for those whom `admission` lets in.
    #[must_use]
    pub fn mqtt_listener(
        mut self,
        config: ListenerConfig,
        admission: Arc<dyn longtail_mqtt::Admission>,
    ) -> Self {
        self.mqtt_listeners.push(MqttListener {
            config,
            admission,
            limits: None,
        });
        self
    }

    /// As [`Builder::mqtt_listener`], with limits that its clients find in place of those of the service; see
    /// [`Mqtt::with_limits`](longtail_mqtt::Mqtt::with_limits).
    #[must_use]
    pub fn mqtt_listener_with(
        mut self,
        config: ListenerConfig,
        admission: Arc<dyn longtail_mqtt::Admission>,
        limits: longtail_mqtt::Limits,
    ) -> Self {
        self.mqtt_listeners.push(MqttListener {
            config,
            admission,
            limits: Some(limits),
        });
        self
    }

    /// Has the MQTT service ask and tell a hook, from the start. Hooks of a lower priority come first; see
    /// [`longtail_mqtt::hooks`]. A listener's name, for [`Scope::Listener`], is its address as it was given.
    #[must_use]
    pub fn mqtt_hook(mut self, hook: Arc<dyn Hook>, priority: i32, scope: Scope) -> Self {
        self.mqtt_hooks.push((hook, priority, scope));
        self
    }

    /// Starts the MQTT service for clients in this process, also without a listener.
    #[must_use]
    pub fn mqtt_in_process(mut self) -> Self {
        self.mqtt_inside = true;
        self
    }

    /// Answers the HTTP APIs of other MQTT brokers at an address; see [`longtail_mqtt::http`]. Its users are those of
    /// [`Builder::accounts`].
    #[must_use]
    pub fn mqtt_site(mut self, listener: impl Into<WebListener>) -> Self {
        self.mqtt_sites.push(listener.into());
        self
    }

    /// Carries messages between the topics of the MQTT service and another broker.
    #[must_use]
    pub fn mqtt_bridge(mut self, config: longtail_mqtt::bridge::BridgeConfig) -> Self {
        self.mqtt_bridges.push(config);
        self
    }

    /// Has the clients, groups and roles of a file of Mosquitto's dynamic security as accounts, and lets them be
    /// administered by messages; the broker rewrites the file. Clients have to prove who they are then, at the listeners
    /// whose admission asks the authenticator that was given to [`Builder::accounts`]. Starts the MQTT service.
    #[must_use]
    pub fn mqtt_dynamic_security(mut self, file: impl Into<PathBuf>) -> Self {
        self.mqtt_dynamic_security = Some(file.into());
        self.with_accounts()
    }

    /// Says that clients have to prove who they are, so that listeners may be bound beyond this machine.
    #[must_use]
    pub fn with_accounts(mut self) -> Self {
        self.accounts = true;
        self
    }

    /// Goes by another clock, a [`ManualClock`](longtail_engine::runtime::ManualClock) in a test: delays, deadlines,
    /// expiries and delayed wills come when it says so. What the sockets wait for (keep alive, handshakes, draining) goes by
    /// real time.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the data directory, starts the shards, and listens.
    ///
    /// # Errors
    /// When any part cannot start; what had started is stopped again.
    pub fn start(self) -> Result<Longtail, StartError> {
        let broker = Broker::open_with(self.broker.clone(), Arc::clone(&self.clock))?;
        Longtail::start(self, broker)
    }
}
