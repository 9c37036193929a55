//! What a program that embeds the broker can see and change, point by point.
//!
//! ```text
//! Hooks (of a tenant) ──▶ Chain (of a listener) ──▶ ClientInfo (of a connection) ──▶ the call at each point
//!   add, remove             by priority, swapped       read, publish, deliver, ...
//! ```
//!
//! A [`Hook`] names the [`Points`] it wants. At a point that *decides*, the hooks of the listener are asked one after
//! the other, lower priority first, and answer with a [`Verdict`]; what one has replaced is what the next is shown. At
//! a point that *tells*, each is given the [`Event`]. Asking costs nothing where nobody wants to be asked: one load of
//! the listener's set of points and a branch.
//!
//! # What a hook must not do
//! All but [`Hook::authenticate`] are called on the threads that move messages, most of them with the lock of the
//! client's connection held. They must not wait for anything, and must not call into the broker for this client: a
//! [`LocalClient`](crate::LocalClient) refuses to publish from inside such a call. Hand the work to a task of your own.
//!
//! # A hook that panics
//! The panic is caught, logged and counted ([`Hooks::panics`]), and the answer is the careful one: [`Hook::authenticate`]
//! and [`Hook::authorize`] deny, [`Hook::connect`] refuses, all others continue.
//!
//! # Points without a connection
//! Wills, sessions that end while their client is away, the ticks: these are shown to all hooks, whatever listener they
//! were added for.

mod chain;
mod client;
mod door;
mod event;
mod permits;
mod points;
#[cfg(test)]
mod tests;
mod verdict;
mod wire;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use longtail_broker::message::{Message, SharedMessage};
use longtail_edge::{Endpoint, TlsIdentity};

use crate::codec::{Auth, Packet, Qos, Version};

pub use chain::{HookId, Hooks, Scope};
pub use client::ClientInfo;
pub use event::{Event, Events, FlightChange, RetainedChange, SessionChange};
pub use points::Points;
pub use verdict::{ConnectChange, Decision, Permission, Selection, Subscribing, Verdict};

pub(crate) use chain::{Chain, is_inside, isolate};
pub(crate) use client::Hooked;
pub(crate) use door::login;
pub(crate) use permits::{Permits, ask_first, asked};
pub(crate) use verdict::Outcome;
pub(crate) use wire::{WRITING, input, put, say};

/// Points at which a message that was published is told of.
pub(crate) const PUBLISHING: Points = Points::PUBLISHED.and(Points::RETAINED);

/// Points at which a copy of a message on its way to a client is looked at.
pub(crate) const COPYING: Points = Points::DELIVER.and(Points::AUTHORIZE);

/// Points at which each copy is looked at on its own, so that none is sent as part of a run.
pub(crate) const EACH_COPY: Points = COPYING.and(Points::PACKET_SENT);

/// What may take a while.
pub type Wait<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A CONNECT, before anybody has looked at who it is.
#[derive(Clone, Debug)]
pub struct Connecting {
    /// Its identifier, or the one that was made for it.
    pub client_id: Arc<str>,
    /// The version it speaks.
    pub version: Version,
    /// It wants a new session.
    pub clean_start: bool,
    /// Its keep alive in seconds; 0: none.
    pub keep_alive_s: u16,
    /// Seconds that the session outlives the connection.
    pub session_expiry_s: u32,
    /// The name it gives.
    pub username: Option<String>,
    /// Where it comes from.
    pub remote: Endpoint,
    /// The listener.
    pub listener: Arc<str>,
}

/// A client that wants to prove who it is.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Its identifier.
    pub client_id: Arc<str>,
    /// The name it gives.
    pub username: Option<String>,
    /// The password it gives.
    pub password: Option<bytes::Bytes>,
    /// Where it comes from.
    pub remote: Endpoint,
    /// Whom its certificate names.
    pub identity: Option<TlsIdentity>,
    /// The listener.
    pub listener: Arc<str>,
}

/// Something that a client may be allowed or not.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// To publish this.
    Publish {
        /// The topic.
        topic: &'a str,
        /// The payload.
        payload: &'a [u8],
        /// QoS.
        qos: Qos,
        /// Whether it is to be retained.
        retain: bool,
    },
    /// To subscribe to a filter, without `$share/{group}/`.
    Subscribe {
        /// The filter.
        filter: &'a str,
        /// QoS asked for.
        qos: Qos,
    },
    /// To be sent this message, that one of its subscriptions matches. Asked once a copy.
    Deliver {
        /// The message.
        message: &'a SharedMessage,
    },
}

/// Something that a client wants to do, and that somebody may want to think about.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The client's identifier.
    pub client_id: Arc<str>,
    /// The name that it gave.
    pub username: Option<Arc<str>>,
    /// Where it comes from.
    pub remote: Endpoint,
    /// What it wants.
    pub wish: Wish,
}

/// What a client wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    /// To publish, or to subscribe.
    pub publish: bool,
    /// The topic, or the filter without `$share/{group}/`, as the client says it.
    pub topic: Box<str>,
    /// QoS.
    pub qos: Qos,
    /// Whether what it publishes is to be retained.
    pub retain: bool,
}

/// A share that has a message for one of its members.
#[derive(Clone, Copy, Debug)]
pub struct Sharing<'a> {
    /// The name of the group.
    pub group: &'a str,
    /// What its members have subscribed to, without `$share/{group}/`.
    pub filter: &'a str,
    /// The message.
    pub message: &'a SharedMessage,
    /// Its members that are connected, in no particular order; at least one.
    pub members: &'a [Arc<ClientInfo>],
}

/// A part of the program that is asked and told. Every method has a default that changes nothing; only those of
/// [`Hook::points`] are called.
pub trait Hook: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }

    /// The points at which it is called. Asked once, when it is added.
    fn points(&self) -> Points;

    /// Before authentication; no lock is held. [`Verdict::Ignore`] closes the connection without a word,
    /// [`Verdict::Reject`] and [`Verdict::Disconnect`] with a CONNACK.
    fn connect(&self, connecting: &Connecting) -> Verdict<ConnectChange> {
        let _ = connecting;
        Verdict::Continue
    }

    /// Who a client is. May wait, for [`Hook::authenticate_within`] at most; the first hook that does not say
    /// [`Decision::Next`] has decided. Whoever takes longer has denied (0x88, server unavailable).
    ///
    /// Runs on the worker of the connection, as a task among others: what computes for long belongs on a thread of its
    /// own.
    fn authenticate<'a>(&'a self, proof: &'a Proof) -> Wait<'a, Decision> {
        let _ = proof;
        Box::pin(std::future::ready(Decision::Next))
    }

    /// How long [`Hook::authenticate`] may take. Default 5 s.
    fn authenticate_within(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Whether a client may do something: for every PUBLISH, every filter of a SUBSCRIBE, and every copy that is sent.
    /// The first hook that does not say [`Permission::Next`] has decided; behind the last, the account's rules decide.
    fn authorize(&self, client: &ClientInfo, access: &Access<'_>) -> Permission {
        let _ = (client, access);
        Permission::Next
    }

    /// As [`Hook::authorize`], for what may take a while: asked for each PUBLISH, each filter of a SUBSCRIBE and each
    /// will, while the client is not heard. The first hook that does not say [`Permission::Next`] has decided, before
    /// [`Hook::authorize`] and the account's rules are asked; whoever takes longer than [`Hook::permit_within`] has
    /// denied. Not for clients in this process.
    fn permit<'a>(&'a self, asking: &'a Asking) -> Wait<'a, Permission> {
        let _ = asking;
        Box::pin(std::future::ready(Permission::Next))
    }

    /// How long [`Hook::permit`] may take. Default 5 s.
    fn permit_within(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// For how many milliseconds the same client may do the same without being asked about again, of 64 such things at
    /// most. Default 0.
    fn permit_holds_ms(&self) -> u64 {
        0
    }

    /// A packet of a client that is in, before anything is done with it. [`Verdict::Replace`] takes the bytes of one
    /// packet in the client's version; bytes that are none disconnect the client (0x83). [`Verdict::Ignore`] and
    /// [`Verdict::Reject`] drop it without an answer.
    fn packet_read(&self, client: &ClientInfo, packet: &Packet<'_>) -> Verdict<Vec<u8>> {
        let _ = (client, packet);
        Verdict::Continue
    }

    /// An AUTH of a client that is in. As [`Hook::packet_read`], which comes first.
    fn auth_packet(&self, client: &ClientInfo, auth: &Auth<'_>) -> Verdict<Vec<u8>> {
        let _ = (client, auth);
        Verdict::Continue
    }

    /// A packet to a client, before it is written; all but PUBLISH, for which there is [`Hook::deliver`].
    /// [`Verdict::Replace`] takes the bytes to be written; every other verdict but [`Verdict::Continue`] keeps it from
    /// being written.
    fn packet_encode(&self, client: &ClientInfo, packet: &Packet<'_>) -> Verdict<Vec<u8>> {
        let _ = (client, packet);
        Verdict::Continue
    }

    /// The bytes of one packet, now in the outbox of the connection.
    fn packet_sent(&self, client: &ClientInfo, bytes: &[u8]) {
        let _ = (client, bytes);
    }

    /// One subscription of a SUBSCRIBE. The client goes on to know it by the filter that it wrote.
    /// [`Verdict::Reject`] is the reason code in the SUBACK; [`Verdict::Ignore`] grants it there and adds nothing.
    fn subscribe(&self, client: &ClientInfo, subscribing: &Subscribing) -> Verdict<Subscribing> {
        let _ = (client, subscribing);
        Verdict::Continue
    }

    /// One filter of an UNSUBSCRIBE. [`Verdict::Reject`] is the reason code in the UNSUBACK and leaves the
    /// subscription; [`Verdict::Ignore`] says success there and leaves it too.
    fn unsubscribe(&self, client: &ClientInfo, filter: &str) -> Verdict<String> {
        let _ = (client, filter);
        Verdict::Continue
    }

    /// A message that a client publishes and may publish, before it is retained or shown to anybody. With QoS 2 when
    /// PUBLISH comes, again when it comes again. What takes its place is not checked against the client's rights.
    /// [`Verdict::Reject`] is the reason code in PUBACK or PUBREC; [`Verdict::Ignore`] acknowledges with success.
    fn publish(&self, client: &ClientInfo, message: &SharedMessage) -> Verdict<Message> {
        let _ = (client, message);
        Verdict::Continue
    }

    /// A will that is due and allowed. Every verdict but [`Verdict::Continue`] and [`Verdict::Replace`] keeps it from
    /// being published.
    fn will(&self, client_id: &str, message: &SharedMessage) -> Verdict<Message> {
        let _ = (client_id, message);
        Verdict::Continue
    }

    /// Which member of a share gets a message. The first hook that does not say [`Selection::Next`] has decided. Asked
    /// with no lock held, at QoS 0 when the message is published, at QoS 1 and 2 when a member that has room draws it:
    /// again when it is given back, and every tenth of a second while the member that was chosen has no room. Members
    /// in this process are not shown.
    fn select(&self, sharing: &Sharing<'_>) -> Selection {
        let _ = sharing;
        Selection::Next
    }

    /// A copy on its way to a client, when it is written: once more if it is sent again. What takes its place is for
    /// this client only. [`Verdict::Disconnect`] is [`Verdict::Ignore`] here: it is not sent, and counts as dropped; a
    /// share gives it to its next member.
    fn deliver(&self, client: &ClientInfo, message: &SharedMessage) -> Verdict<Message> {
        let _ = (client, message);
        Verdict::Continue
    }

    /// Something has happened, at one of the points of [`Points::EVENTS`].
    fn notify(&self, event: &Event) {
        let _ = event;
    }
}
