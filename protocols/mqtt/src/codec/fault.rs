//! What can be wrong with a packet, and how each fault is answered.
//!
//! The answers are those of Mosquitto 2.1, as data: [`Answer`]s by fault, packet and version in one table. The codec
//! needs no session for that; whoever reads [`DecodeError::answer`] writes it, closes, and publishes the will if there
//! is a session.

use std::fmt;

use super::reason::{ReasonCode, ReturnCode};
use super::version::{PacketType, Version};

/// How a client is told what it did wrong. The connection is closed after it in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is sent.
    Close,
    /// A CONNACK in the form of 3.1 and 3.1.1.
    ConnackV3(ReturnCode),
    /// A CONNACK in the form of 5.0, without properties.
    Connack(ReasonCode),
    /// A DISCONNECT of 5.0, without properties.
    Disconnect(ReasonCode),
}

impl Answer {
    /// Appends the packet, if there is one.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Answer::Close => {}
            Answer::ConnackV3(code) => out.extend_from_slice(&[0x20, 2, 0, code as u8]),
            Answer::Connack(code) => out.extend_from_slice(&[0x20, 3, 0, code.as_u8(), 0]),
            Answer::Disconnect(code) => out.extend_from_slice(&[0xE0, 1, code.as_u8()]),
        }
    }

    /// The reason that the peer is told.
    #[must_use]
    pub fn reason(self) -> Option<ReasonCode> {
        match self {
            Answer::Close => None,
            Answer::ConnackV3(code) => Some(code.into()),
            Answer::Connack(code) | Answer::Disconnect(code) => Some(code),
        }
    }
}

/// Bytes that are no acceptable packet. Everything after them on the connection is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} in {}", Name(*.packet))]
pub struct DecodeError {
    /// What is wrong.
    pub fault: Fault,
    /// In which packet; `None`: its type is none.
    pub packet: Option<PacketType>,
    /// What the sender is told, if it is a client.
    pub answer: Answer,
}

impl DecodeError {
    /// The error for `fault`, with the answer for a connection of `version`; `None`: no version was agreed yet.
    #[must_use]
    pub fn new(fault: Fault, packet: Option<PacketType>, version: Option<Version>) -> Self {
        DecodeError {
            fault,
            packet,
            answer: super::rules::answer(fault, packet, version),
        }
    }
}

struct Name(Option<PacketType>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(packet) => write!(f, "{packet:?}"),
            None => f.write_str("a packet of no known type"),
        }
    }
}

/// What can be wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// The remaining length takes a fifth byte.
    #[error("remaining length of more than four bytes")]
    RemainingLength,
    /// Larger than the limit for this packet; found before its body is there.
    #[error("larger than is accepted")]
    TooLarge,
    /// Packet type 0.
    #[error("reserved packet type")]
    ReservedType,
    /// A packet that only the other side sends.
    #[error("packet of the wrong direction")]
    WrongDirection,
    /// A packet that the version does not have.
    #[error("packet of another version")]
    WrongVersion,
    /// The flags of the fixed header.
    #[error("wrong fixed header flags")]
    Flags,
    /// The first packet is not CONNECT.
    #[error("first packet is not CONNECT")]
    NotConnect,
    /// A second CONNECT.
    #[error("second CONNECT")]
    SecondConnect,
    /// The body ends before its fields do.
    #[error("body too short")]
    Truncated,
    /// The will ends before its fields do.
    #[error("will too short")]
    WillTruncated,
    /// User name or password is announced and not there.
    #[error("missing user name or password")]
    CredentialsMissing,
    /// The body does not end where its fields do.
    #[error("surplus bytes at the end")]
    Trailing,
    /// A string that is not UTF-8, or has a character that is not accepted.
    #[error("invalid UTF-8 string")]
    Utf8,
    /// The client identifier is such a string.
    #[error("invalid UTF-8 in the client identifier")]
    ClientIdUtf8,
    /// The user name is such a string.
    #[error("invalid UTF-8 in the user name")]
    UsernameUtf8,
    /// A variable byte integer that is too long or padded.
    #[error("malformed variable byte integer")]
    VarInt,
    /// Neither `MQTT` nor `MQIsdp`.
    #[error("unknown protocol name")]
    ProtocolName,
    /// A level that nobody speaks.
    #[error("unknown protocol level")]
    ProtocolLevel,
    /// The level of another protocol name.
    #[error("protocol level of another protocol name")]
    ProtocolMismatch,
    /// Bit 0 of the connect flags.
    #[error("reserved connect flag")]
    ConnectFlag,
    /// Will QoS 3.
    #[error("will QoS 3")]
    WillQos,
    /// Will QoS or retain without a will.
    #[error("will flags without a will")]
    WillFlags,
    /// A will topic that is empty or has wildcards.
    #[error("invalid will topic")]
    WillTopic,
    /// A password without a user name, before 5.0.
    #[error("password without user name")]
    PasswordAlone,
    /// An empty client identifier where there must be one.
    #[error("missing client identifier")]
    ClientIdMissing,
    /// The properties are longer than the packet, or their length is malformed.
    #[error("wrong length of the properties")]
    PropertiesLength,
    /// A property ends after the properties do.
    #[error("truncated property")]
    PropertyTruncated,
    /// A property nobody knows.
    #[error("unknown property")]
    PropertyUnknown,
    /// A property of other packets, or of the other direction.
    #[error("property of another packet")]
    PropertyNotAllowed,
    /// A property that may come once came twice.
    #[error("repeated property")]
    PropertyRepeated,
    /// A property whose value is out of its range.
    #[error("property out of range")]
    PropertyValue,
    /// Topic alias 0.
    #[error("topic alias 0")]
    TopicAliasZero,
    /// Subscription identifier 0, or one too many.
    #[error("wrong subscription identifier")]
    SubscriptionId,
    /// Authentication data without a method, or AUTH without one.
    #[error("no authentication method")]
    AuthMethodMissing,
    /// QoS 3.
    #[error("QoS 3")]
    Qos,
    /// DUP set at QoS 0.
    #[error("DUP with QoS 0")]
    DupAtQos0,
    /// Packet identifier 0.
    #[error("packet identifier 0")]
    PacketIdZero,
    /// No topic, and no topic alias.
    #[error("no topic")]
    TopicEmpty,
    /// A topic name with wildcards.
    #[error("wildcard in a topic name")]
    TopicWildcard,
    /// A reason code that does not exist or not in this packet.
    #[error("reason code out of place")]
    Reason,
    /// Acknowledge flags other than session present.
    #[error("reserved acknowledge flag")]
    ConnackFlag,
    /// SUBSCRIBE, UNSUBSCRIBE, or their acknowledgements, with nothing in it.
    #[error("no topic filter")]
    NoFilters,
    /// A filter that is empty or malformed.
    #[error("malformed topic filter")]
    Filter,
    /// Subscription options out of range.
    #[error("invalid subscription options")]
    Options,
    /// No Local on a shared subscription.
    #[error("no local on a shared subscription")]
    NoLocalShared,
}

/// A packet that cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field of more than 65535 bytes.
    #[error("field of {0} bytes: at most 65535 fit")]
    FieldTooLong(usize),
    /// The packet is larger than the format, or the receiver, takes.
    #[error("packet of {size} bytes: at most {max} are taken")]
    TooLarge {
        /// Bytes it would have, fixed header included.
        size: usize,
        /// Bytes it may have.
        max: usize,
    },
    /// The version has no such packet.
    #[error("no such packet in this version")]
    WrongVersion,
    /// QoS 1 and 2 need a packet identifier, QoS 0 has none.
    #[error("packet identifier does not go with the QoS")]
    PacketId,
    /// A subscription identifier of 0 or above 268435455.
    #[error("subscription identifier {0} is out of range")]
    SubscriptionId(u32),
    /// SUBSCRIBE, UNSUBSCRIBE, SUBACK, UNSUBACK with nothing in it.
    #[error("nothing to say: no topic filter or code")]
    Empty,
}
