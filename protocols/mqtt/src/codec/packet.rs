//! The packets.
//!
//! A packet borrows its strings and bytes from the input it was decoded from, or from whoever wants it encoded.

use super::properties::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UserProperties, WillProperties,
};
use super::reason::ReasonCode;
use super::version::{PacketId, PacketType, Qos, Version};

/// Any packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the packet of that name")]
pub enum Packet<'a> {
    Connect(Box<Connect<'a>>),
    Connack(Box<Connack<'a>>),
    Publish(Publish<'a>),
    Puback(Ack<'a>),
    Pubrec(Ack<'a>),
    Pubrel(Ack<'a>),
    Pubcomp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    Suback(Suback<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Unsuback(Unsuback<'a>),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// Its type.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::Connack(_) => PacketType::Connack,
            Packet::Publish(_) => PacketType::Publish,
            Packet::Puback(_) => PacketType::Puback,
            Packet::Pubrec(_) => PacketType::Pubrec,
            Packet::Pubrel(_) => PacketType::Pubrel,
            Packet::Pubcomp(_) => PacketType::Pubcomp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::Suback(_) => PacketType::Suback,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::Unsuback(_) => PacketType::Unsuback,
            Packet::Pingreq => PacketType::Pingreq,
            Packet::Pingresp => PacketType::Pingresp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Version that the connection speaks.
    pub version: Version,
    /// The bridge bit of the protocol level (0x83, 0x84): the peer is a broker, whose subscriptions are no-local and
    /// retain-as-published. Never with 5.0.
    pub bridge: bool,
    /// Clean session of 3.1 and 3.1.1, clean start of 5.0.
    pub clean_start: bool,
    /// Keep alive in seconds; 0: off.
    pub keep_alive_s: u16,
    /// Client identifier; may be empty where the version allows a server to choose one.
    pub client_id: &'a str,
    /// Message to publish when the connection ends badly.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Properties.
    pub properties: ConnectProperties<'a>,
}

/// The will in a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// Properties.
    pub properties: WillProperties<'a>,
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the session existed. Not on the wire of 3.1.
    pub session_present: bool,
    /// The result. For 3.1 and 3.1.1 it is written as the [`ReturnCode`](super::ReturnCode) nearest to it.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: ConnackProperties<'a>,
}

/// PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// Whether to retain it, or whether it was retained.
    pub retain: bool,
    /// A valid topic name; empty if there is an alias.
    pub topic: &'a str,
    /// There is one with QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Properties.
    pub properties: PublishProperties<'a>,
    /// The payload.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Of which message.
    pub packet_id: PacketId,
    /// The result; not on the wire of 3.1 and 3.1.1.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: AckProperties<'a>,
}

impl Ack<'_> {
    /// Success, with nothing more to say.
    #[must_use]
    pub const fn success(packet_id: PacketId) -> Self {
        Ack::with_reason(packet_id, ReasonCode::Success)
    }

    /// `reason`, with nothing more to say.
    #[must_use]
    pub const fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Ack {
            packet_id,
            reason,
            properties: AckProperties {
                reason_string: None,
                user: UserProperties::NONE,
            },
        }
    }
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Answered with the same.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: SubscribeProperties<'a>,
    /// At least one, but for 3.1.
    pub subscriptions: Vec<Subscription<'a>>,
}

/// One subscription in a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// A valid topic filter, `$share/{group}/` included; see [`topic`](super::topic).
    pub filter: &'a str,
    /// How it is served.
    pub options: SubscriptionOptions,
}

/// Options of a subscription. 3.1 and 3.1.1 have only the QoS, the others are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Highest QoS wanted.
    pub qos: Qos,
    /// Do not send back what the client itself published.
    pub no_local: bool,
    /// Keep the retain flag of what is forwarded.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When a subscription is sent the retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// At each SUBSCRIBE.
    #[default]
    Always = 0,
    /// If there was no such subscription.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// SUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback<'a> {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: AckProperties<'a>,
    /// One for each subscription. For 3.1 and 3.1.1 every error is written as 0x80.
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Answered with the same.
    pub packet_id: PacketId,
    /// User properties.
    pub user: UserProperties<'a>,
    /// At least one valid topic filter.
    pub filters: Vec<&'a str>,
}

/// UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: AckProperties<'a>,
    /// One for each filter; none on the wire of 3.1 and 3.1.1.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; not on the wire of 3.1 and 3.1.1.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: DisconnectProperties<'a>,
}

/// AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// How far it is.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: AuthProperties<'a>,
}
