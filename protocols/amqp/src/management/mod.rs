//! The HTTP API that RabbitMQ's tools, libraries and dashboards manage AMQP with.
//!
//! ```text
//!                  ┌─▶ census (connections, channels, consumers)
//! GET ──▶ routes ──┼─▶ topology, shards (queues, exchanges, bindings, figures)      read model
//!                  └─▶ roster, policies, parameters (catalog)
//!
//! PUT, POST, DELETE of queues, exchanges, bindings, messages ──▶ door ──▶ a connection of the user ──▶ session
//! PUT, DELETE of users, vhosts, permissions, policies ──▶ roster, policies ──▶ catalog ──▶ live connections and queues
//! ```
//!
//! [`serve`] runs a thread of its own, so that a long list holds up no message. Nothing here is on the
//! way of a message: figures are read from the shards and from the connections when somebody asks, rates come from the
//! differences between looks (`rates`).

mod access;
mod bindings;
mod connections;
mod definitions;
mod direct;
mod exchanges;
mod health;
mod http;
mod json;
mod limits;
mod metrics;
mod overview;
mod page;
mod parameters;
mod permissions;
mod policies;
mod queues;
mod rates;
mod routes;
mod server;
mod users;
mod vhosts;

use std::sync::Arc;
use std::time::SystemTime;

use longtail_broker::auth::Roster;
use parking_lot::Mutex;

pub use definitions::{Import, ImportError};
pub use direct::{Direct, Door, Fetched, Published, Tickets};
pub use server::{Site, serve};

use self::access::Verified;
use self::http::{Asked, Failed};
use self::rates::Rates;
use crate::tenant::Tenant;
use crate::topology::Topology;

/// What the API says of the server.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This machine.
    pub host: String,
    /// Where things listen.
    pub listeners: Vec<ListenerFact>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFact {
    /// The protocol.
    pub protocol: String,
    /// The address.
    pub host: String,
    /// The port; 0: a Unix socket.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// A vhost and its space.
type Named = (Arc<str>, Arc<str>);

/// The management plane of one AMQP service.
pub struct Management {
    tenant: Arc<Tenant>,
    roster: Arc<Roster>,
    door: Door,
    facts: Mutex<Facts>,
    started: SystemTime,
    verified: Verified,
    rates: Rates,
    /// One import or one deletion of a vhost at a time.
    large: tokio::sync::Mutex<()>,
}

impl Management {
    /// Manages what `tenant` has, for the accounts of `roster`, with changes by way of `door`.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, roster: Arc<Roster>, door: Door, facts: Facts) -> Arc<Self> {
        Arc::new(Management {
            tenant,
            roster,
            door,
            facts: Mutex::new(facts),
            started: SystemTime::now(),
            verified: Verified::default(),
            rates: Rates::default(),
            large: tokio::sync::Mutex::default(),
        })
    }

    /// The listeners are known now.
    pub fn set_listeners(&self, listeners: Vec<ListenerFact>) {
        self.facts.lock().listeners = listeners;
    }

    /// The version of RabbitMQ that clients may count on.
    fn advertised(&self) -> &str {
        &self.tenant.config().management_version
    }

    fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// What this server is called among RabbitMQ's nodes.
    fn node(&self) -> String {
        format!("longtail@{}", self.facts.lock().host)
    }

    /// Now, in milliseconds since 1970.
    fn now_ms(&self) -> u64 {
        self.tenant.broker().clock().now().0
    }

    /// The space behind a vhost that somebody names.
    ///
    /// # Errors
    /// 404 when there is none, 401 when it is not for whoever asks.
    fn enter(&self, asked: &Asked, vhost: &str) -> Result<Arc<str>, Failed> {
        let space = self.tenant.space_of(vhost);
        if self.roster.directory().space(&space).is_none() {
            return Err(Failed::missing());
        }
        asked.caller.enters(&self.roster, &space)?;
        Ok(space)
    }

    /// What is declared in a vhost that somebody names.
    ///
    /// # Errors
    /// As [`Management::enter`].
    async fn topology(&self, asked: &Asked, vhost: &str) -> Result<Arc<Topology>, Failed> {
        let space = self.enter(asked, vhost)?;
        self.topology_of(&space).await
    }

    async fn topology_of(&self, space: &Arc<str>) -> Result<Arc<Topology>, Failed> {
        let topology = self.tenant.topology(space).await;
        topology.map_err(|error| Failed::internal(error.to_string()))
    }

    /// The vhosts that somebody sees, with their spaces, by name.
    fn vhosts(&self, asked: &Asked) -> Vec<(Arc<str>, Arc<str>)> {
        let directory = self.roster.directory();
        let seen = directory
            .spaces()
            .filter(|space| asked.caller.sees(&self.roster, space));
        let mut vhosts: Vec<_> = seen
            .map(|space| (self.tenant.vhost_of(space), Arc::clone(space)))
            .collect();
        vhosts.sort();
        vhosts
    }

    /// One vhost, or all that somebody sees.
    ///
    /// # Errors
    /// As [`Management::enter`].
    fn of(&self, asked: &Asked, vhost: Option<&str>) -> Result<Vec<Named>, Failed> {
        match vhost {
            None => Ok(self.vhosts(asked)),
            Some(vhost) => {
                let space = self.enter(asked, vhost)?;
                Ok(vec![(vhost.into(), space)])
            }
        }
    }

    /// A connection of whoever asks.
    ///
    /// # Errors
    /// 401 when it may not use the vhost, 404 when there is none.
    async fn direct(&self, asked: &Asked, vhost: &str) -> Result<Direct, Failed> {
        let space = self.enter(asked, vhost)?;
        let grants = asked.caller.grants(&self.roster, &space);
        let grants =
            grants.ok_or_else(|| Failed::denied("User not authorised to access virtual host"))?;
        let opened = self.door.open(&asked.caller.name, vhost, grants).await;
        opened.map_err(Failed::from)
    }
}
