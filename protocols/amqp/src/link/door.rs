//! The way into this broker from within: a connection as any client has, over a pair of sockets, let in by a ticket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use longtail_broker::auth::Grants;
use longtail_edge::Inside;
use longtail_engine::runtime::Clock;
use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::{Link, LinkError, Settings};
use crate::access::{Admission, Admitted, Denied, Login};
use crate::alarms::Alarms;
use crate::service::Amqp;
use crate::tenant::Tenant;
use crate::topology::fresh_name;

/// How long it may take to open a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Passwords that are good once, for connections that this process is about to open.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<String, Ticket>>);

#[derive(Clone)]
struct Ticket {
    grants: Arc<Grants>,
    /// Its messages may be somebody else's.
    impersonates: bool,
}

impl Tickets {
    fn issue(&self, ticket: Ticket) -> String {
        let name = fresh_name("");
        self.0.lock().insert(name.clone(), ticket);
        name
    }

    fn withdraw(&self, ticket: &str) {
        self.0.lock().remove(ticket);
    }

    fn find(&self, login: &Login<'_>) -> Result<Ticket, Denied> {
        let ticket = std::str::from_utf8(login.password).unwrap_or_default();
        let found = self.0.lock().get(ticket).cloned();
        found.ok_or_else(|| Denied::Login("no such ticket".to_owned()))
    }
}

impl Admission for Tickets {
    fn verify(&self, login: &Login<'_>) -> Result<Option<Admitted>, Denied> {
        self.find(login).map(|_| None)
    }

    fn admit(&self, login: &Login<'_>) -> Result<Admitted, Denied> {
        self.find(login).map(|ticket| Admitted {
            impersonates: ticket.impersonates,
            ..Admitted::with(ticket.grants)
        })
    }
}

/// The way in.
pub struct Door {
    inside: Inside<Amqp>,
    tickets: Arc<Tickets>,
    clock: Arc<dyn Clock>,
    alarms: Arc<Alarms>,
    /// What every connection is.
    settings: Settings,
}

impl Door {
    /// Connections of `inside`, which serves `tenant`, are let in by `tickets`.
    #[must_use]
    pub fn new(inside: Inside<Amqp>, tickets: Arc<Tickets>, tenant: &Tenant) -> Self {
        let config = tenant.config();
        Door {
            inside,
            tickets,
            clock: tenant.broker().clock(),
            alarms: Arc::clone(tenant.alarms()),
            settings: Settings {
                user: String::new(),
                password: String::new(),
                external: false,
                vhost: String::new(),
                heartbeat_s: Some(0),
                name: String::new(),
                product: config.product.clone(),
                version: config.version.clone(),
                message_bytes_max: config.message_bytes_max,
            },
        }
    }

    /// Opens a connection of a user, who may do what `grants` say.
    ///
    /// # Errors
    /// What the service says, as it says it.
    pub(crate) async fn open(
        &self,
        user: &str,
        vhost: &str,
        grants: Arc<Grants>,
    ) -> Result<Link, LinkError> {
        let impersonates = false;
        let ticket = Ticket {
            grants,
            impersonates,
        };
        self.open_with(user, vhost, ticket).await
    }

    /// Opens a connection that may do everything, and whose messages may be somebody else's.
    ///
    /// # Errors
    /// What the service says.
    pub(crate) async fn open_for_relay(&self, name: &str, vhost: &str) -> Result<Link, LinkError> {
        let ticket = Ticket {
            grants: Grants::everything(),
            impersonates: true,
        };
        self.open_with(name, vhost, ticket).await
    }

    async fn open_with(&self, user: &str, vhost: &str, ticket: Ticket) -> Result<Link, LinkError> {
        let stream = self.inside.connect()?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let ticket = self.tickets.issue(ticket);
        let settings = Settings {
            user: user.to_owned(),
            password: ticket.clone(),
            vhost: vhost.to_owned(),
            ..self.settings.clone()
        };
        let clock = Arc::clone(&self.clock);
        let opened = Link::open(Box::new(stream), settings, clock, PATIENCE).await;
        self.tickets.withdraw(&ticket);
        opened.map(|link| link.at_home(Arc::clone(&self.alarms)))
    }

    /// What this side says of itself, and how large messages may be.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}
