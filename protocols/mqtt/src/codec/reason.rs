//! Reason codes (MQTT 5.0 section 2.4) and the return codes of the CONNACK of 3.1 and 3.1.1.

use super::version::{PacketType, Sender};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $($place:ident)|*;)*) => {
        /// A reason code. [`ReasonCode::is_legal`] says which packets may carry it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])* $name = $value,)*
        }

        /// Every reason code with the set of places where it is legal.
        const REASONS: &[(ReasonCode, u16)] = &[$((ReasonCode::$name, $($place)|*),)*];
    };
}

// Places, by packet and, where it matters, by who sends it.
const CONNACK: u16 = 1;
/// PUBACK and PUBREC.
const RECEIVED: u16 = 1 << 1;
/// PUBREL and PUBCOMP.
const RELEASED: u16 = 1 << 2;
const SUBACK: u16 = 1 << 3;
const UNSUBACK: u16 = 1 << 4;
/// DISCONNECT by a client.
const LEAVE: u16 = 1 << 5;
/// DISCONNECT by a server.
const EXPEL: u16 = 1 << 6;
/// DISCONNECT by either.
const DISCONNECT: u16 = LEAVE | EXPEL;
const AUTH_CLIENT: u16 = 1 << 7;
const AUTH_SERVER: u16 = 1 << 8;

reasons! {
    /// Success; normal disconnection; granted QoS 0.
    Success = 0x00, CONNACK | RECEIVED | RELEASED | SUBACK | UNSUBACK | DISCONNECT | AUTH_SERVER;
    /// Granted QoS 1.
    GrantedQos1 = 0x01, SUBACK;
    /// Granted QoS 2.
    GrantedQos2 = 0x02, SUBACK;
    /// Disconnect, and publish the will.
    DisconnectWithWill = 0x04, LEAVE;
    /// Nobody subscribes to the topic.
    NoMatchingSubscribers = 0x10, RECEIVED;
    /// There was no such subscription.
    NoSubscriptionExisted = 0x11, UNSUBACK;
    /// Authentication goes on.
    ContinueAuthentication = 0x18, AUTH_CLIENT | AUTH_SERVER;
    /// Begin authentication again.
    ReAuthenticate = 0x19, AUTH_CLIENT;
    /// No better reason, or none that is told.
    UnspecifiedError = 0x80, CONNACK | RECEIVED | SUBACK | UNSUBACK | DISCONNECT;
    /// Bytes that are no packet.
    MalformedPacket = 0x81, CONNACK | DISCONNECT;
    /// A packet that should not have come, or says what it must not.
    ProtocolError = 0x82, CONNACK | DISCONNECT;
    /// Valid, but refused here.
    ImplementationSpecificError = 0x83, CONNACK | RECEIVED | SUBACK | UNSUBACK | DISCONNECT;
    /// The version is not spoken here.
    UnsupportedProtocolVersion = 0x84, CONNACK;
    /// The client identifier is not allowed.
    ClientIdentifierNotValid = 0x85, CONNACK;
    /// Wrong user name or password.
    BadUserNameOrPassword = 0x86, CONNACK;
    /// Not allowed to do this.
    NotAuthorized = 0x87, CONNACK | RECEIVED | SUBACK | UNSUBACK | EXPEL;
    /// The server is not available.
    ServerUnavailable = 0x88, CONNACK;
    /// The server is busy.
    ServerBusy = 0x89, CONNACK | EXPEL;
    /// The client is banned.
    Banned = 0x8A, CONNACK;
    /// The server shuts down.
    ServerShuttingDown = 0x8B, EXPEL;
    /// The authentication method is not supported, or not the one in use.
    BadAuthenticationMethod = 0x8C, CONNACK | EXPEL;
    /// Nothing came for one and a half keep alive intervals.
    KeepAliveTimeout = 0x8D, EXPEL;
    /// Another connection took the session.
    SessionTakenOver = 0x8E, EXPEL;
    /// A well-formed topic filter is refused.
    TopicFilterInvalid = 0x8F, SUBACK | UNSUBACK | EXPEL;
    /// A well-formed topic name is refused.
    TopicNameInvalid = 0x90, CONNACK | RECEIVED | DISCONNECT;
    /// The packet identifier is in use.
    PacketIdentifierInUse = 0x91, RECEIVED | SUBACK | UNSUBACK;
    /// The packet identifier is not known.
    PacketIdentifierNotFound = 0x92, RELEASED;
    /// More unacknowledged messages than the Receive Maximum.
    ReceiveMaximumExceeded = 0x93, DISCONNECT;
    /// A topic alias that is 0 or above the maximum.
    TopicAliasInvalid = 0x94, DISCONNECT;
    /// Larger than the Maximum Packet Size.
    PacketTooLarge = 0x95, CONNACK | RECEIVED | DISCONNECT;
    /// Too many messages a second.
    MessageRateTooHigh = 0x96, DISCONNECT;
    /// A limit of the installation is reached.
    QuotaExceeded = 0x97, CONNACK | RECEIVED | SUBACK | DISCONNECT;
    /// Closed by an administrator.
    AdministrativeAction = 0x98, DISCONNECT;
    /// The payload is not what the payload format indicator says.
    PayloadFormatInvalid = 0x99, CONNACK | RECEIVED | DISCONNECT;
    /// There are no retained messages.
    RetainNotSupported = 0x9A, CONNACK | EXPEL;
    /// The QoS is above the Maximum QoS.
    QosNotSupported = 0x9B, CONNACK | EXPEL;
    /// Use another server for now.
    UseAnotherServer = 0x9C, CONNACK | EXPEL;
    /// Use another server from now on.
    ServerMoved = 0x9D, CONNACK | EXPEL;
    /// There are no shared subscriptions.
    SharedSubscriptionsNotSupported = 0x9E, SUBACK | EXPEL;
    /// Too many connections a second.
    ConnectionRateExceeded = 0x9F, CONNACK | EXPEL;
    /// The connection was open for as long as is allowed.
    MaximumConnectTime = 0xA0, EXPEL;
    /// There are no subscription identifiers.
    SubscriptionIdentifiersNotSupported = 0xA1, SUBACK | EXPEL;
    /// There are no wildcard subscriptions.
    WildcardSubscriptionsNotSupported = 0xA2, SUBACK | EXPEL;
}

impl ReasonCode {
    /// The code with this number; `None` for a number without a meaning.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        let at = REASONS
            .binary_search_by_key(&value, |(code, _)| *code as u8)
            .ok()?;
        REASONS.get(at).map(|(code, _)| *code)
    }

    /// Its number.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Its name in lower case, words joined by underscores.
    #[must_use]
    pub fn word(self) -> String {
        let mut word = String::new();
        for (at, c) in format!("{self:?}").chars().enumerate() {
            if c.is_ascii_uppercase() && at > 0 {
                word.push('_');
            }
            word.push(c.to_ascii_lowercase());
        }
        word
    }

    /// Whether it says that something failed: 0x80 and above.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether `packet` from `sender` may carry it.
    #[must_use]
    pub fn is_legal(self, packet: PacketType, sender: Sender) -> bool {
        let client = sender == Sender::Client;
        let place = match packet {
            PacketType::Connack => CONNACK,
            PacketType::Puback | PacketType::Pubrec => RECEIVED,
            PacketType::Pubrel | PacketType::Pubcomp => RELEASED,
            PacketType::Suback => SUBACK,
            PacketType::Unsuback => UNSUBACK,
            PacketType::Disconnect if client => LEAVE,
            PacketType::Disconnect => EXPEL,
            PacketType::Auth if client => AUTH_CLIENT,
            PacketType::Auth => AUTH_SERVER,
            _ => 0,
        };
        REASONS
            .iter()
            .any(|(code, places)| *code == self && places & place != 0)
    }

    /// Every reason code, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = ReasonCode> {
        REASONS.iter().map(|(code, _)| *code)
    }
}

impl From<super::Qos> for ReasonCode {
    /// The code of a SUBACK that grants it.
    fn from(granted: super::Qos) -> Self {
        match granted {
            super::Qos::AtMostOnce => ReasonCode::Success,
            super::Qos::AtLeastOnce => ReasonCode::GrantedQos1,
            super::Qos::ExactlyOnce => ReasonCode::GrantedQos2,
        }
    }
}

/// Return code of a CONNACK of 3.1 and 3.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReturnCode {
    /// Accepted.
    Accepted = 0,
    /// The version is not spoken here.
    UnacceptableProtocolVersion = 1,
    /// The client identifier is not allowed.
    IdentifierRejected = 2,
    /// The server is not available.
    ServerUnavailable = 3,
    /// Wrong user name or password.
    BadUserNameOrPassword = 4,
    /// Not authorized. Most servers say this for a wrong password too.
    NotAuthorized = 5,
}

impl ReturnCode {
    /// The code with this number; `None` above 5.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => ReturnCode::Accepted,
            1 => ReturnCode::UnacceptableProtocolVersion,
            2 => ReturnCode::IdentifierRejected,
            3 => ReturnCode::ServerUnavailable,
            4 => ReturnCode::BadUserNameOrPassword,
            5 => ReturnCode::NotAuthorized,
            _ => return None,
        })
    }
}

impl From<ReasonCode> for ReturnCode {
    /// What is nearest in the old vocabulary. What has no counterpart is "server unavailable".
    fn from(reason: ReasonCode) -> Self {
        match reason {
            ReasonCode::Success => ReturnCode::Accepted,
            ReasonCode::UnsupportedProtocolVersion => ReturnCode::UnacceptableProtocolVersion,
            ReasonCode::ClientIdentifierNotValid => ReturnCode::IdentifierRejected,
            ReasonCode::BadUserNameOrPassword => ReturnCode::BadUserNameOrPassword,
            ReasonCode::NotAuthorized
            | ReasonCode::Banned
            | ReasonCode::BadAuthenticationMethod => ReturnCode::NotAuthorized,
            _ => ReturnCode::ServerUnavailable,
        }
    }
}

impl From<ReturnCode> for ReasonCode {
    fn from(code: ReturnCode) -> Self {
        match code {
            ReturnCode::Accepted => ReasonCode::Success,
            ReturnCode::UnacceptableProtocolVersion => ReasonCode::UnsupportedProtocolVersion,
            ReturnCode::IdentifierRejected => ReasonCode::ClientIdentifierNotValid,
            ReturnCode::ServerUnavailable => ReasonCode::ServerUnavailable,
            ReturnCode::BadUserNameOrPassword => ReasonCode::BadUserNameOrPassword,
            ReturnCode::NotAuthorized => ReasonCode::NotAuthorized,
        }
    }
}
