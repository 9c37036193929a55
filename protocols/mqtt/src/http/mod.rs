//! The HTTP APIs of other MQTT brokers, for the tools, dashboards and back ends that know those.
//!
//! ```text
//!             ┌─▶ emqx       /api/v5, /status ──────────┐
//! request ──▶ ├─▶ nanomq     /api/v4 ───────────────────┼──▶ views (clients, subscriptions, topics, retained, figures)
//!  (access)   ├─▶ vernemq    /api/v1, /api/v2, /metrics ┤     publish, census, behalf, bans, watch
//!             └─▶ mosquitto  /api/v1/systree, ... ──────┘
//! ```
//!
//! All of them are answered at every listener: their paths do not clash. What they show is read from the service in one
//! way (`views`), what they do is done in one way; each has its own names, pages, statuses and errors, and nothing
//! else. What the server does not have (rules, actions, a cluster to join) is answered with that API's own error.
//!
//! [`serve`] runs a thread of its own, so that a long list holds up no message.

mod access;
mod clock;
mod emqx;
mod mosquitto;
mod nanomq;
mod prometheus;
mod publish;
mod request;
mod server;
mod vernemq;
mod views;

use std::sync::Arc;

use longtail_broker::Broker;
use longtail_broker::auth::{Authenticator, Directory};
use longtail_web::Remembered;
use parking_lot::Mutex;

use crate::bridge;
use crate::tenant::Tenant;
use access::Caller;
use views::Rates;

pub use server::serve;

/// A listener of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFact {
    /// The protocol.
    pub protocol: &'static str,
    /// Where, with the port that the system chose.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl ListenerFact {
    /// Whether it speaks MQTT.
    fn is_mqtt(&self) -> bool {
        ["mqtt", "mqtts", "mqtt-ws", "mqtt-wss"].contains(&self.protocol)
    }

    fn is_websocket(&self) -> bool {
        ["mqtt-ws", "mqtt-wss"].contains(&self.protocol)
    }

    /// Its port; 0: a Unix socket.
    fn port(&self) -> u16 {
        let port = self.address.rsplit_once(':').map(|(_, port)| port);
        port.and_then(|port| port.parse().ok()).unwrap_or(0)
    }
}

/// What the APIs say of the server.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This machine.
    pub host: String,
    /// Where things listen.
    pub listeners: Vec<ListenerFact>,
    /// The bridges.
    pub bridges: Vec<Arc<bridge::Status>>,
}

/// The APIs over one MQTT service.
pub struct Api {
    tenant: Arc<Tenant>,
    broker: Arc<Broker>,
    authenticator: Arc<Authenticator>,
    facts: Mutex<Facts>,
    verified: Remembered<Directory, Caller>,
    rates: Mutex<Rates>,
}

impl Api {
    /// Shows and manages what `tenant` of `broker` has, to the accounts of `authenticator`.
    #[must_use]
    pub fn new(
        tenant: Arc<Tenant>,
        broker: Arc<Broker>,
        authenticator: Arc<Authenticator>,
        facts: Facts,
    ) -> Arc<Self> {
        Arc::new(Api {
            tenant,
            broker,
            authenticator,
            facts: Mutex::new(facts),
            verified: Remembered::default(),
            rates: Mutex::default(),
        })
    }

    /// The listeners are known now.
    pub fn set_listeners(&self, listeners: Vec<ListenerFact>) {
        self.facts.lock().listeners = listeners;
    }

    fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// What this server is called among nodes.
    fn node(&self) -> String {
        format!("longtail@{}", self.facts.lock().host)
    }
}

/// The version of this server.
const VERSION: &str = env!("CARGO_PKG_VERSION");
