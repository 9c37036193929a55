//! `$CONTROL`: the server is administered by messages, as with Mosquitto.
//!
//! ```text
//! PUBLISH $CONTROL/ENDPOINT ──▶ the right to manage it? ──▶ a thread that may wait ──▶ commands
//!          PUBACK ◀── PUBLISH $CONTROL/ENDPOINT/response, to this client alone ◀──┘
//! ```
//!
//! Nothing that is published there reaches the router, and nobody but who has asked is sent an answer; it has to be
//! subscribed to. An endpoint that there is not is answered with 0x83. The right is [`Action::Manage`] on the topic,
//! not that to publish: an account that may publish everything does not administer the server.
//!
//! [`Action::Manage`]: longtail_broker::auth::Action::Manage

mod broker;
pub mod dynamic;
mod request;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use longtail_broker::message::{Message, Origin, SharedMessage};
use longtail_edge::{CloseReason, Endpoint};
use longtail_model::Subject;
use parking_lot::Mutex;

use crate::codec::ReasonCode;
use crate::registry::Seen;
use crate::seat::Conn;
use crate::session::Ticket;
use crate::tenant::Tenant;
use dynamic::{DynamicSecurity, Ran};

/// The tree of topics.
pub(crate) const CONTROL: &str = "$CONTROL";

const DYNAMIC_SECURITY: &str = "$CONTROL/dynamic-security/v1";
const BROKER: &str = "$CONTROL/broker/v1";

/// Requests that are being carried out or wait for that; one more is answered with 0x97.
const PENDING_MAX: usize = 64;

/// A listener of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `mqtt`, `mqtts`, `mqtt-ws` or `mqtt-wss`.
    pub protocol: &'static str,
    /// `HOST:PORT` or `unix:PATH`.
    pub address: String,
}

/// The endpoints of one service.
#[derive(Default)]
pub(crate) struct Control {
    dynamic: OnceLock<Arc<DynamicSecurity>>,
    listeners: Mutex<Vec<Listener>>,
    pending: AtomicUsize,
}

/// Something that answers requests.
#[derive(Clone)]
enum Answering {
    Dynamic(Arc<DynamicSecurity>),
    Broker,
}

/// Whether a topic is one of requests.
pub(crate) fn is_control(topic: &str) -> bool {
    let rest = topic.strip_prefix(CONTROL);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Control {
    fn endpoint(&self, topic: &str) -> Option<Answering> {
        match topic {
            DYNAMIC_SECURITY => self.dynamic.get().cloned().map(Answering::Dynamic),
            BROKER => Some(Answering::Broker),
            _ => None,
        }
    }

    fn endpoints(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut endpoints = vec![("broker", vec![BROKER])];
        if self.dynamic.get().is_some() {
            endpoints.push(("dynamic-security", vec![DYNAMIC_SECURITY]));
        }
        endpoints
    }
}

impl Tenant {
    /// Has clients, groups and roles administered by messages to `$CONTROL/dynamic-security/v1`. Only the first is
    /// heard.
    pub fn set_dynamic_security(&self, dynamic: Arc<DynamicSecurity>) {
        // Somebody else was first.
        let _set = self.control().dynamic.set(dynamic);
    }

    /// What `listListeners` says.
    pub fn set_listeners(&self, listeners: Vec<Listener>) {
        *self.control().listeners.lock() = listeners;
    }

    /// Disconnects all clients of an account (0x98).
    fn kick_account(&self, account: &str) {
        let mut connected = Vec::new();
        self.registry().for_each(|_, seen| {
            if let Seen::Connected(conn) = seen {
                connected.push(Arc::clone(conn));
            }
        });
        for conn in connected {
            let kicked = conn.with(|client, out| {
                let session = client.session_mut()?;
                let is_its = session.account().is_some_and(|own| **own == *account);
                is_its.then(|| session.expel(ReasonCode::AdministrativeAction, out))
            });
            if kicked.flatten().is_some() {
                conn.close(CloseReason::Refused("its login was changed".into()));
            }
        }
    }

    /// Where clients are connected from, by account.
    fn addresses(&self) -> HashMap<Arc<str>, Vec<String>> {
        let mut connected = Vec::new();
        self.registry().for_each(|_, seen| {
            if let Seen::Connected(conn) = seen {
                connected.push(Arc::clone(conn));
            }
        });
        let mut addresses: HashMap<Arc<str>, Vec<String>> = HashMap::new();
        for conn in connected {
            let account = conn.with(|client, _| client.session()?.account().cloned());
            let address = match conn.peer() {
                Endpoint::Tcp(address) => address.ip().to_string(),
                Endpoint::Unix(_) => "unix".to_owned(),
            };
            if let Some(account) = account.flatten() {
                addresses.entry(account).or_default().push(address);
            }
        }
        addresses
    }
}

/// A client has published to one of the topics, and may. No lock may be held.
pub(crate) fn take(
    conn: &Arc<Conn>,
    tenant: &Arc<Tenant>,
    message: &SharedMessage,
    ticket: Option<Ticket>,
) {
    let control = tenant.control();
    let topic = message.subject.as_str();
    let Some(endpoint) = control.endpoint(topic) else {
        acknowledge(conn, ticket, ReasonCode::ImplementationSpecificError);
        return;
    };
    if control.pending.fetch_add(1, Ordering::AcqRel) >= PENDING_MAX {
        control.pending.fetch_sub(1, Ordering::AcqRel);
        acknowledge(conn, ticket, ReasonCode::QuotaExceeded);
        return;
    }
    let work = {
        let (conn, tenant) = (Arc::clone(conn), Arc::clone(tenant));
        let message = Arc::clone(message);
        move || {
            let _pending = Pending(&tenant);
            answer(&conn, &tenant, &endpoint, &message, ticket);
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn_blocking(work);
        }
        Err(_) => work(),
    }
}

/// A place among the requests, given back also when one panics.
struct Pending<'t>(&'t Tenant);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.control().pending.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(
    conn: &Arc<Conn>,
    tenant: &Arc<Tenant>,
    endpoint: &Answering,
    request: &SharedMessage,
    ticket: Option<Ticket>,
) {
    let control = tenant.control();
    let Ran { reply, kicked } = match endpoint {
        Answering::Dynamic(dynamic) => dynamic.run(&request.payload, tenant.addresses()),
        Answering::Broker => Ran {
            reply: broker::run(
                &request.payload,
                &control.listeners.lock(),
                &control.endpoints(),
            ),
            kicked: Vec::new(),
        },
    };
    let topic = format!("{}/response", request.subject.as_str());
    if let Ok(subject) = Subject::parse_mqtt(&topic) {
        let message = Arc::new(Message {
            origin: Origin::default(),
            published: tenant.now(),
            ..Message::new(subject, Bytes::from(reply))
        });
        conn.with(|client, out| {
            if let Some(session) = client.session_mut() {
                session.tell_alone(&message, &tenant.cx(), out);
            }
        });
    }
    acknowledge(conn, ticket, ReasonCode::Success);
    for account in kicked {
        tenant.kick_account(&account);
    }
}

/// Says what became of a request; a client before 5.0 is told nothing of errors.
fn acknowledge(conn: &Arc<Conn>, ticket: Option<Ticket>, reason: ReasonCode) {
    if let Some(ticket) = ticket {
        conn.with(|client, out| {
            if let Some(session) = client.session_mut() {
                let reason = if session.hello().version.is_v5() {
                    reason
                } else {
                    ReasonCode::Success
                };
                session.complete(ticket, reason, out);
            }
        });
    }
    conn.flush_soon();
}
