//! A client as hooks see it, and what they are asked about it.

use std::fmt;
use std::sync::Arc;

use longtail_broker::message::{Message, SharedMessage};
use longtail_edge::Endpoint;

use super::verdict::{Outcome, Permission, Subscribing, Verdict};
use super::{Access, Chain, Event, Points, RetainedChange};
use crate::codec::{Auth, Decoder, Packet, ReasonCode, Version};

/// A client that is in.
pub struct ClientInfo {
    /// Its identifier.
    pub id: Arc<str>,
    /// Its account, where there are accounts.
    pub account: Option<Arc<str>>,
    /// Where it comes from; `None` for a client in this process.
    pub remote: Option<Endpoint>,
    /// The version it speaks.
    pub version: Version,
    chain: Arc<Chain>,
}

impl fmt::Debug for ClientInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientInfo")
            .field("id", &self.id)
            .field("account", &self.account)
            .field("remote", &self.remote)
            .field("version", &self.version)
            .field("listener", &self.listener())
            .finish()
    }
}

/// The hooks of a session; none before its client is let in, and in tests of the session alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooked(Option<Asked>);

/// Who is asked about whom. What the hooks want is known without a look at the client.
#[derive(Clone)]
struct Asked {
    chain: Arc<Chain>,
    client: Arc<ClientInfo>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

impl Hooked {
    pub(crate) fn new(client: Arc<ClientInfo>) -> Self {
        let chain = Arc::clone(&client.chain);
        Hooked(Some(Asked { chain, client }))
    }

    pub(crate) fn client(&self) -> Option<&Arc<ClientInfo>> {
        self.0.as_ref().map(|asked| &asked.client)
    }

    /// The client, if anybody wants to be asked at one of these points.
    #[inline]
    pub(crate) fn wants(&self, points: Points) -> Option<&Arc<ClientInfo>> {
        let asked = self.0.as_ref()?;
        asked.chain.wants(points).then_some(&asked.client)
    }

    /// Tells an event, if anybody wants to know.
    #[inline]
    pub(crate) fn tell(&self, point: Points, event: impl FnOnce(Arc<ClientInfo>) -> Event) {
        if let Some(client) = self.wants(point) {
            client.chain.tell(point, || event(Arc::clone(client)));
        }
    }

    /// Whether hooks allow something; [`Permission::Next`] if none has a say.
    #[inline]
    pub(crate) fn authorize<'a>(&self, access: impl FnOnce() -> Access<'a>) -> Permission {
        match self.wants(Points::AUTHORIZE) {
            None => Permission::Next,
            Some(client) => client.authorize(&access()),
        }
    }
}

impl ClientInfo {
    pub(crate) fn new(
        id: Arc<str>,
        account: Option<Arc<str>>,
        remote: Option<Endpoint>,
        version: Version,
        chain: Arc<Chain>,
    ) -> Arc<Self> {
        Arc::new(ClientInfo {
            id,
            account,
            remote,
            version,
            chain,
        })
    }

    /// The name of its listener; `local` for a client in this process.
    #[must_use]
    pub fn listener(&self) -> Arc<str> {
        self.chain.listener()
    }

    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    pub(crate) fn authorize(&self, access: &Access<'_>) -> Permission {
        let careful = || Permission::Deny;
        let first = self.chain.first(Points::AUTHORIZE, careful, |hook| {
            match hook.authorize(self, access) {
                Permission::Next => None,
                decided => Some(decided),
            }
        });
        first.unwrap_or_default()
    }

    /// What becomes of a message that the client publishes.
    pub(crate) fn publish(&self, message: &SharedMessage) -> Outcome<SharedMessage> {
        let point = Points::PUBLISH;
        self.chain.fold(point, Verdict::go_on, |hook, changed| {
            hook.publish(self, changed.unwrap_or(message))
                .map(in_place_of(message))
        })
    }

    /// The copy that is sent to the client: `Ok(None)` is the message as it is, an error none.
    pub(crate) fn copy(&self, message: &SharedMessage) -> Result<Option<SharedMessage>, ()> {
        let access = Access::Deliver { message };
        if self.chain.wants(Points::AUTHORIZE) && self.authorize(&access) == Permission::Deny {
            return Err(());
        }
        let point = Points::DELIVER;
        let outcome = self.chain.fold(point, Verdict::go_on, |hook, changed| {
            hook.deliver(self, changed.unwrap_or(message)).map(Arc::new)
        });
        match outcome {
            Outcome::AsItWas => Ok(None),
            Outcome::Changed(new) => Ok(Some(new)),
            Outcome::Rejected(_) | Outcome::Ignored | Outcome::Disconnected(_) => Err(()),
        }
    }

    pub(crate) fn subscribe(&self, asked: &Subscribing) -> Outcome<Subscribing> {
        let point = Points::SUBSCRIBE;
        self.chain.fold(point, Verdict::go_on, |hook, changed| {
            hook.subscribe(self, changed.unwrap_or(asked))
        })
    }

    pub(crate) fn unsubscribe(&self, filter: &str) -> Outcome<String> {
        let point = Points::UNSUBSCRIBE;
        self.chain
            .fold(point, Verdict::go_on, |hook, changed: Option<&String>| {
                hook.unsubscribe(self, changed.map_or(filter, String::as_str))
            })
    }

    /// What becomes of a packet that came from it. `decoder` is that of its connection.
    pub(super) fn read(&self, packet: &Packet<'_>, decoder: &Decoder) -> Outcome<Vec<u8>> {
        let point = Points::PACKET_READ;
        let read = self
            .chain
            .fold(point, Verdict::go_on, |hook, changed| match changed {
                None => hook.packet_read(self, packet),
                Some(bytes) => with_packet(bytes, decoder, |packet| hook.packet_read(self, packet)),
            });
        match (&read, packet) {
            (Outcome::AsItWas, Packet::Auth(auth)) => self.read_auth(auth, decoder),
            _ => read,
        }
    }

    fn read_auth(&self, auth: &Auth<'_>, decoder: &Decoder) -> Outcome<Vec<u8>> {
        let point = Points::AUTH_PACKET;
        self.chain
            .fold(point, Verdict::go_on, |hook, changed| match changed {
                None => hook.auth_packet(self, auth),
                Some(bytes) => with_packet(bytes, decoder, |packet| match packet {
                    Packet::Auth(auth) => hook.auth_packet(self, auth),
                    _ => Verdict::Continue,
                }),
            })
    }

    /// What becomes of a packet on its way to it.
    pub(super) fn encode(&self, packet: &Packet<'_>) -> Outcome<Vec<u8>> {
        let point = Points::PACKET_ENCODE;
        self.chain.fold(point, Verdict::go_on, |hook, changed| {
            match changed {
                None => hook.packet_encode(self, packet),
                // Those behind are shown a packet that is still one.
                Some(bytes) => {
                    let limits = crate::codec::PacketLimits::default();
                    let decoder = Decoder::for_client(self.version, limits);
                    with_packet(bytes, &decoder, |packet| hook.packet_encode(self, packet))
                }
            }
        })
    }

    pub(super) fn sent(&self, bytes: &[u8]) {
        self.chain
            .each(Points::PACKET_SENT, |hook| hook.packet_sent(self, bytes));
    }
}

/// Shows a hook what another has made of a packet. Bytes that are none go on as they are: they are found out later.
fn with_packet(
    bytes: &[u8],
    decoder: &Decoder,
    ask: impl FnOnce(&Packet<'_>) -> Verdict<Vec<u8>>,
) -> Verdict<Vec<u8>> {
    match decoder.clone().decode(bytes) {
        Ok(Some(decoded)) => ask(&decoded.packet),
        _ => Verdict::Continue,
    }
}

impl Chain {
    /// Tells of a message that was published, and of what became of its topic's retained message. `None`: what is
    /// retained or stored is under way.
    pub(crate) fn tell_published(
        &self,
        client: Option<&Arc<ClientInfo>>,
        message: &SharedMessage,
        reason: Option<ReasonCode>,
    ) {
        let reason = reason.unwrap_or(ReasonCode::Success);
        if message.retain && !reason.is_error() {
            self.tell(Points::RETAINED, || {
                Event::Retained(if message.payload.is_empty() {
                    RetainedChange::Cleared(message.subject.clone())
                } else {
                    RetainedChange::Set(Arc::clone(message))
                })
            });
        }
        self.tell(Points::PUBLISHED, || Event::Published {
            client: client.cloned(),
            message: Arc::clone(message),
            reason,
        });
    }

    /// The will as it is published; `None`: not at all.
    pub(crate) fn will(&self, client_id: &str, message: SharedMessage) -> Option<SharedMessage> {
        if !self.wants(Points::WILL) {
            return Some(message);
        }
        let outcome = self.fold(Points::WILL, Verdict::go_on, |hook, changed| {
            hook.will(client_id, changed.unwrap_or(&message))
                .map(in_place_of(&message))
        });
        match outcome {
            Outcome::AsItWas => Some(message),
            Outcome::Changed(new) => Some(new),
            Outcome::Rejected(_) | Outcome::Ignored | Outcome::Disconnected(_) => None,
        }
    }
}

/// Makes what a hook puts in place of a message: when, and by whom, stays.
fn in_place_of(message: &SharedMessage) -> impl Fn(Message) -> SharedMessage {
    let (origin, published) = (message.origin, message.published);
    move |new| {
        Arc::new(Message {
            origin,
            published,
            ..new
        })
    }
}
