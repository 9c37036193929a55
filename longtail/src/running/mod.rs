//! A broker that runs. `Longtail::start` puts it together, a room for each protocol: whose listeners are bound, named and
//! served where.

mod amqp;
mod beanstalk;
mod mqtt;
mod mqtt_host;
mod web;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use longtail_amqp::Amqp;
use longtail_amqp::management::Management;
use longtail_beanstalk::{Beanstalk, Tenant};
use longtail_broker::auth::{AuthDocument, Authenticator, Directory, Roster, ThrottleLimits};
use longtail_broker::{Broker, Client};
use longtail_edge::{Accounts, Connection, DrainReport, Edge, Exposure, Inside, Tick};
use longtail_engine::runtime::Shards;
use longtail_engine::{Numbering, StreamName};
use longtail_mqtt::Mqtt;
use longtail_mqtt::bridge::{self, Bridges};
use longtail_mqtt::control::dynamic::DynamicSecurity;
use parking_lot::Mutex;

use crate::builder::{Builder, StartError};

/// How long [`Longtail::shut_down`] lets clients finish.
const DRAIN: Duration = Duration::from_secs(10);

/// A running broker with its listeners. Dropping it shuts it down, without waiting for clients.
pub struct Longtail {
    broker: Arc<Broker>,
    edge: Arc<Edge>,
    beanstalk: Option<Arc<Tenant>>,
    roster: Arc<Roster>,
    amqp: Option<Arc<longtail_amqp::Tenant>>,
    management: Option<Arc<Management>>,
    /// The HTTP APIs that answer.
    web: Mutex<Vec<longtail_web::Server>>,
    mqtt: Option<Arc<longtail_mqtt::Tenant>>,
    /// The way in for MQTT clients in this process.
    mqtt_inside: OnceLock<Inside<Mqtt>>,
    /// Who lets them in.
    mqtt_admission: Arc<dyn longtail_mqtt::Admission>,
    bridges: Option<Bridges>,
    addresses: Vec<ListeningOn>,
    exposure: Exposure,
}

/// Where a protocol is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningOn {
    /// The protocol.
    pub protocol: &'static str,
    /// The address, with the port that the system chose.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Runs the shards at the end of every worker's tick.
struct RunShards(Arc<dyn Shards>);

impl Tick for RunShards {
    fn run(&self, _worker: usize) {
        self.0.run();
    }
}

impl Longtail {
    /// Starts to put a broker together.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(builder: Builder, broker: Arc<Broker>) -> Result<Self, StartError> {
        let (authenticator, document) = builder.roster.unwrap_or_else(|| {
            let limits = ThrottleLimits::default();
            let authenticator = Authenticator::new(Directory::default(), limits);
            (Arc::new(authenticator), AuthDocument::default())
        });
        let roster = Roster::open(Arc::clone(&broker), authenticator, document)?;
        roster.call_space(Arc::clone(&builder.amqp.space), "/")?;
        if let Some(list) = builder.access_list {
            roster.set_access(Some(Arc::new(list)))?;
        }
        if let Some(rules) = builder.login_rules {
            roster.set_logins(Some(Arc::new(rules)))?;
        }
        let edge = Edge::start(builder.edge, RunShards(broker.shards()))?;
        let exposure = Exposure::new(if builder.accounts {
            Accounts::Configured
        } else {
            Accounts::Absent
        });
        let mut running = Longtail {
            broker,
            edge: Arc::new(edge),
            beanstalk: None,
            roster: Arc::new(roster),
            amqp: None,
            management: None,
            web: Mutex::default(),
            mqtt: None,
            mqtt_inside: OnceLock::new(),
            mqtt_admission: Arc::new(longtail_mqtt::AdmitAll),
            bridges: None,
            addresses: Vec::new(),
            exposure,
        };
        let space = Arc::clone(&builder.mqtt.space);
        // Before anybody can come in.
        let dynamic = match &builder.mqtt_dynamic_security {
            None => None,
            Some(file) => {
                let roster = Arc::clone(&running.roster);
                Some(Arc::new(DynamicSecurity::open(file, &space, roster)?))
            }
        };
        // Before anybody can publish: what they do is kept for the bridges.
        if !builder.mqtt_bridges.is_empty() {
            let bridges = Bridges::start(&running.broker, &space, builder.mqtt_bridges)?;
            running.bridges = Some(bridges);
        }
        if !builder.beanstalk_listeners.is_empty() {
            running.start_beanstalk(builder.beanstalk, builder.beanstalk_listeners, exposure)?;
        }
        let mut sites = Vec::new();
        if !builder.amqp_listeners.is_empty()
            || !builder.amqp_sites.is_empty()
            || builder.amqp_definitions.is_some()
            || !builder.amqp_shovels.is_empty()
        {
            running.start_amqp(builder.amqp, builder.amqp_definitions.as_deref())?;
            // Bound before AMQP is: whoever can speak that can ask here, and is answered when everything is up.
            sites = running.bind_amqp_sites(builder.amqp_sites)?;
            running.listen_amqp(builder.amqp_listeners)?;
        }
        let mut mqtt_sites = Vec::new();
        if builder.mqtt_inside
            || !builder.mqtt_listeners.is_empty()
            || !builder.mqtt_hooks.is_empty()
            || !builder.mqtt_sites.is_empty()
            || dynamic.is_some()
        {
            mqtt_sites = running.bind_mqtt_sites(builder.mqtt_sites)?;
            let (listeners, hooks) = (builder.mqtt_listeners, builder.mqtt_hooks);
            running.start_mqtt(builder.mqtt, listeners, hooks, dynamic)?;
        }
        let sites = running.name_amqp_sites(sites)?;
        running.serve_mqtt_sites(mqtt_sites)?;
        running.serve_amqp_sites(sites)?;
        if let Some(management) = &running.management {
            management.start_links(&builder.amqp_shovels);
        }
        Ok(running)
    }

    /// What links to other brokers have taken and not given away goes back, while there is somebody to take it.
    fn stop_links(&self) {
        if let Some(management) = &self.management {
            management.stop_links();
        }
    }

    /// The broker behind the listeners.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The sockets.
    #[must_use]
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// What beanstalk connections share, if there are any.
    #[must_use]
    pub fn beanstalk(&self) -> Option<&Arc<Tenant>> {
        self.beanstalk.as_ref()
    }

    /// What AMQP connections share, if there are any.
    #[must_use]
    pub fn amqp(&self) -> Option<&Arc<longtail_amqp::Tenant>> {
        self.amqp.as_ref()
    }

    /// The accounts and spaces.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The management plane of AMQP, if it is spoken.
    #[must_use]
    pub fn amqp_management(&self) -> Option<&Arc<Management>> {
        self.management.as_ref()
    }

    /// What MQTT connections share, if there are any.
    #[must_use]
    pub fn mqtt(&self) -> Option<&Arc<longtail_mqtt::Tenant>> {
        self.mqtt.as_ref()
    }

    /// What each bridge to another MQTT broker says of itself.
    #[must_use]
    pub fn bridges(&self) -> &[Arc<bridge::Status>] {
        self.bridges.as_ref().map_or(&[], Bridges::statuses)
    }

    /// Where it listens, in the order in which the listeners were given.
    #[must_use]
    pub fn addresses(&self) -> &[ListeningOn] {
        &self.addresses
    }

    /// A session in this process, at the shard of a stream that exists or would be created under this name with
    /// numbers of its own.
    #[must_use]
    pub fn client(&self, stream: &StreamName) -> Client {
        self.broker
            .client(self.broker.placement(stream, &Numbering::Own))
    }

    /// Lets clients finish for at most 10 seconds, then makes everything durable and stops.
    pub fn shut_down(self) -> DrainReport {
        let report = self.drain(DRAIN);
        self.close();
        report
    }

    /// Accepts no more connections and lets those there are finish for at most `within`; then cuts them. Blocks.
    pub fn drain(&self, within: Duration) -> DrainReport {
        self.stop_links();
        self.edge.drain(within)
    }

    /// Makes everything durable and stops the shards. Connections that are left get no more answers.
    pub fn close(&self) {
        // They answer on threads of their own, which end when their sockets do.
        self.web.lock().clear();
        if let Some(bridges) = &self.bridges {
            bridges.stop();
        }
        if let Some(mqtt) = &self.mqtt {
            mqtt.stop();
        }
        if let Some(amqp) = &self.amqp {
            amqp.write_offsets();
        }
        self.broker.close();
    }
}

impl Drop for Longtail {
    fn drop(&mut self) {
        self.stop_links();
        self.edge.drain(Duration::ZERO);
        self.close();
    }
}

/// Checks at compile time that connections may be shared with the threads that deliver to them.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Connection<Beanstalk>>();
    shared::<Connection<Mqtt>>();
    shared::<Connection<Amqp>>();
};
