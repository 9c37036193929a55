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
//! way of a message: figures are read from the shards and from the connections when somebody asks, and every five seconds
//! (`sampler`) for rates and what was before (`rates`, `history`).

mod access;
mod bindings;
mod connections;
mod definitions;
mod direct;
mod exchanges;
mod federation;
mod fields;
mod health;
mod history;
mod http;
mod limits;
mod login;
mod metrics;
mod overview;
mod page;
mod pairs;
mod parameters;
mod permissions;
mod policies;
mod queues;
mod rates;
mod routes;
mod sampler;
mod server;
mod shovels;
mod suite;
mod users;
mod vhosts;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use longtail_broker::auth::Roster;
use parking_lot::Mutex;

pub use crate::link::{Door, Tickets};
pub use definitions::{Import, ImportError};
use direct::Direct;
pub use server::{Site, serve};

use self::access::Verified;
use self::http::{Asked, Failed};
use self::login::Sessions;
use self::rates::Rates;
use crate::federation::Federation;
use crate::link::Reach;
use crate::parameter::Parameters;
use crate::shovel::{Shovels, StaticShovel};
use crate::tenant::{Tenant, node_on};
use crate::topology::Topology;
use crate::transfer::Thread;

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

/// Says when the certificates of listeners end: by address, in seconds since 1970.
pub type CertificateEnds = Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>;

/// A vhost and its space.
type Named = (Arc<str>, Arc<str>);

/// The management plane of one AMQP service.
pub struct Management {
    tenant: Arc<Tenant>,
    roster: Arc<Roster>,
    door: Arc<Door>,
    facts: Mutex<Facts>,
    certificates: Mutex<Option<CertificateEnds>>,
    started: SystemTime,
    verified: Verified,
    sessions: Sessions,
    rates: Rates,
    /// One import or one deletion of a vhost at a time.
    large: tokio::sync::Mutex<()>,
    links: Links,
}

/// What goes on between this broker and others.
struct Links {
    parameters: Arc<Parameters>,
    shovels: Arc<Shovels>,
    federation: Arc<Federation>,
    thread: Arc<Thread>,
}

impl Links {
    fn new(reach: Reach) -> Self {
        let parameters = Arc::new(Parameters::load(Arc::clone(reach.tenant.broker())));
        let (reach, thread) = (Arc::new(reach), Arc::new(Thread::default()));
        let given = || {
            (
                Arc::clone(&reach),
                Arc::clone(&parameters),
                Arc::clone(&thread),
            )
        };
        let (reach_of, parameters_of, thread_of) = given();
        let shovels = Shovels::new(reach_of, parameters_of, thread_of);
        let (reach_of, parameters_of, thread_of) = given();
        let federation = Federation::new(reach_of, parameters_of, thread_of);
        Links {
            parameters,
            shovels,
            federation,
            thread,
        }
    }
}

/// How long links may take to end.
const LINKS_END_WITHIN: Duration = Duration::from_secs(3);

impl Management {
    /// Manages what `tenant` has, for the accounts of `roster`, with changes by way of `door`.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, roster: Arc<Roster>, door: Door, facts: Facts) -> Arc<Self> {
        let door = Arc::new(door);
        tenant.is_on(&facts.host);
        let reach = Reach {
            door: Arc::clone(&door),
            roster: Arc::clone(&roster),
            tenant: Arc::clone(&tenant),
        };
        Arc::new(Management {
            links: Links::new(reach),
            tenant,
            roster,
            door,
            facts: Mutex::new(facts),
            certificates: Mutex::default(),
            started: SystemTime::now(),
            verified: Verified::default(),
            sessions: Sessions::default(),
            rates: Rates::default(),
            large: tokio::sync::Mutex::default(),
        })
    }

    /// Starts shovels, also those of the settings, and the links of federations.
    pub fn start_links(&self, shovels: &[StaticShovel]) {
        let cluster = parameters::name_of_cluster(self);
        for shovel in shovels {
            self.links.shovels.start_static(shovel, &cluster);
        }
        self.links.shovels.start_all(&cluster);
        self.links.federation.start(&cluster);
    }

    /// Ends them, after a moment for what is under way. Blocks.
    pub fn stop_links(&self) {
        let Links {
            shovels,
            federation,
            thread,
            ..
        } = &self.links;
        shovels.stop_all();
        federation.stop_all();
        let end = Instant::now() + LINKS_END_WITHIN;
        while !(shovels.are_ended() && federation.are_ended()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.stop();
    }

    /// The listeners are known now.
    pub fn set_listeners(&self, listeners: Vec<ListenerFact>) {
        self.facts.lock().listeners = listeners;
    }

    /// Whom to ask when certificates end.
    pub fn set_certificates(&self, ends: CertificateEnds) {
        *self.certificates.lock() = Some(ends);
    }

    /// When certificates end.
    fn certificate_ends(&self) -> Vec<(String, u64)> {
        self.certificates
            .lock()
            .as_ref()
            .map_or_else(Vec::new, |ends| ends())
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
        node_on(&self.facts.lock().host)
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

    /// The space behind a vhost that an administrator names.
    ///
    /// # Errors
    /// 401 for anybody else, or as [`Management::enter`].
    fn administer(&self, asked: &Asked, vhost: &str) -> Result<Arc<str>, Failed> {
        asked.caller.administers()?;
        self.enter(asked, vhost)
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
        let opened = Direct::open(&self.door, &asked.caller.name, vhost, grants).await;
        opened.map_err(Failed::from)
    }
}
