//! A client of this service in its own process: what the management API changes, it changes through a connection of the
//! user who asks, with the checks, the order and the reply texts that any client gets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use longtail_broker::auth::Grants;
use longtail_edge::Inside;
use longtail_engine::runtime::Clock;
use parking_lot::Mutex;
use tokio::net::UnixStream;

use crate::access::{Admission, Denied, Login};
use crate::codec::{Level, Method, Properties, ReplyCode};
use crate::exception::Exception;
use crate::link::{Answer, Delivery, Event, Link, LinkError, Settings};
use crate::service::Amqp;
use crate::tenant::Tenant;
use crate::topology::fresh_name;

/// How long it may take to open a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Passwords that are good once, for connections that this process is about to open.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<String, Arc<Grants>>>);

impl Tickets {
    fn issue(&self, grants: Arc<Grants>) -> String {
        let ticket = fresh_name("");
        self.0.lock().insert(ticket.clone(), grants);
        ticket
    }

    fn withdraw(&self, ticket: &str) {
        self.0.lock().remove(ticket);
    }

    fn find(&self, login: &Login<'_>) -> Result<Arc<Grants>, Denied> {
        let ticket = std::str::from_utf8(login.password).unwrap_or_default();
        let found = self.0.lock().get(ticket).cloned();
        found.ok_or_else(|| Denied::Login("no such ticket".to_owned()))
    }
}

impl Admission for Tickets {
    fn verify(&self, login: &Login<'_>) -> Result<Option<Arc<Grants>>, Denied> {
        self.find(login).map(|_| None)
    }

    fn admit(&self, login: &Login<'_>) -> Result<Arc<Grants>, Denied> {
        self.find(login)
    }
}

/// The way in.
pub struct Door {
    inside: Inside<Amqp>,
    tickets: Arc<Tickets>,
    clock: Arc<dyn Clock>,
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

    /// Opens a connection of a user with one channel.
    ///
    /// # Errors
    /// What the service says, as it says it.
    pub async fn open(
        &self,
        user: &str,
        vhost: &str,
        grants: Arc<Grants>,
    ) -> Result<Direct, Exception> {
        let link = self.link(user, vhost, grants).await?;
        Ok(Direct { link })
    }

    /// The same as a link.
    ///
    /// # Errors
    /// What the service says.
    pub(crate) async fn link(
        &self,
        user: &str,
        vhost: &str,
        grants: Arc<Grants>,
    ) -> Result<Link, LinkError> {
        let stream = self.inside.connect()?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let ticket = self.tickets.issue(grants);
        let settings = Settings {
            user: user.to_owned(),
            password: ticket.clone(),
            vhost: vhost.to_owned(),
            ..self.settings.clone()
        };
        let clock = Arc::clone(&self.clock);
        let opened = Link::open(Box::new(stream), settings, clock, PATIENCE).await;
        self.tickets.withdraw(&ticket);
        opened
    }

    /// What this side says of itself, and how large messages may be.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// A connection with one channel. Dropping it closes both.
pub struct Direct {
    link: Link,
}

impl From<LinkError> for Exception {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Channel { code, text } => told(code, &text, Level::Channel),
            LinkError::Closed { code, text } => told(code, &text, Level::Connection),
            LinkError::Encode(error) => Exception::new(ReplyCode::SyntaxError, error.to_string()),
            LinkError::Fault(fault) => Exception::from(fault),
            other => Exception::new(
                ReplyCode::InternalError,
                format!("the service cannot be reached from within: {other}"),
            ),
        }
    }
}

/// An exception as the server has told it.
fn told(code: u16, text: &str, level: Level) -> Exception {
    let known = ReplyCode::ALL.iter().find(|known| known.as_u16() == code);
    let code = known.copied().unwrap_or(ReplyCode::InternalError);
    let text = text
        .strip_prefix(code.name())
        .and_then(|text| text.strip_prefix(" - "))
        .unwrap_or(text);
    Exception {
        level,
        ..Exception::new(code, text)
    }
}

impl Direct {
    /// Says something on the channel and waits for the answer that says that it is done.
    ///
    /// # Errors
    /// The exception that the server answers with instead. The channel is closed then.
    pub async fn call(&mut self, method: &Method<'_>) -> Result<(), Exception> {
        self.link.call(method).await?;
        Ok(())
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// When the service is gone.
    pub async fn say(&mut self, method: &Method<'_>) -> Result<(), Exception> {
        self.link.say(method)?;
        Ok(self.link.flush().await?)
    }

    /// Fetches a message; `None`: there is none.
    ///
    /// # Errors
    /// The exception that the server answers with.
    pub(crate) async fn get(
        &mut self,
        queue: &str,
        no_ack: bool,
    ) -> Result<Option<Box<Delivery>>, Exception> {
        let get = Method::BasicGet {
            ticket: 0,
            queue,
            no_ack,
        };
        match self.link.call(&get).await? {
            Answer::Got(got) => Ok(got),
            _ => Err(LinkError::Unexpected("no answer to a fetch").into()),
        }
    }

    /// Publishes a message and waits until it is stored: whether some queue has it.
    ///
    /// # Errors
    /// The exception that the server answers with.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: &Properties<'_>,
        body: &[u8],
    ) -> Result<Published, Exception> {
        self.call(&Method::ConfirmSelect { no_wait: false }).await?;
        let mut octets = Vec::new();
        properties.encode(&mut octets).map_err(LinkError::from)?;
        self.link
            .publish((exchange, routing_key), true, (&octets, body))?;
        let mut routed = true;
        loop {
            match self.link.next() {
                Some(Event::Returned) => routed = false,
                Some(Event::Confirm { stored: false, .. }) => return Ok(Published::Refused),
                Some(Event::Confirm { .. }) if routed => return Ok(Published::Routed),
                Some(Event::Confirm { .. }) => return Ok(Published::Unroutable),
                Some(Event::ChannelClosed { code, text }) => {
                    return Err(LinkError::Channel { code, text }.into());
                }
                Some(_) => {}
                None => {
                    let turned = tokio::time::timeout(PATIENCE, self.link.turn(true)).await;
                    turned.unwrap_or(Err(LinkError::Late(PATIENCE.as_secs())))?;
                }
            }
        }
    }
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Queues have it.
    Routed,
    /// No queue wants it.
    Unroutable,
    /// A queue does not take it.
    Refused,
}
