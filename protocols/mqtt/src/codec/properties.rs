//! The properties of each packet, by name.
//!
//! Every packet has a type with what it may carry, so that nothing illegal can be written. Absent is `None`; what that
//! means is said at the field.

use std::num::{NonZeroU16, NonZeroU32};

pub use super::user::{UserProperties, UserPropertiesBuf};

/// Properties of CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds that the session outlives the connection; absent: 0; `u32::MAX`: for ever.
    pub session_expiry_s: Option<u32>,
    /// Unacknowledged QoS 1 and 2 messages that the client takes; absent: 65535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Largest packet that the client takes, in bytes; absent: no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Highest topic alias that the client takes; absent: 0, none.
    pub topic_alias_maximum: Option<u16>,
    /// Whether the server may send response information; absent: no.
    pub request_response_information: Option<bool>,
    /// Whether the server may send reason strings and user properties outside PUBLISH, CONNACK, DISCONNECT; absent: yes.
    pub request_problem_information: Option<bool>,
    /// Authentication method.
    pub authentication_method: Option<&'a str>,
    /// Authentication data; never without a method.
    pub authentication_data: Option<&'a [u8]>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Properties of CONNACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// Keep alive that the client must use, in seconds; absent: its own.
    pub server_keep_alive_s: Option<u16>,
    /// Highest topic alias that the server takes; absent: 0, none.
    pub topic_alias_maximum: Option<u16>,
    /// Identifier for a client that came without one.
    pub assigned_client_id: Option<&'a str>,
    /// Authentication method.
    pub authentication_method: Option<&'a str>,
    /// Authentication data.
    pub authentication_data: Option<&'a [u8]>,
    /// Whether messages can be retained; absent: yes.
    pub retain_available: Option<bool>,
    /// Largest packet that the server takes, in bytes; absent: no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Unacknowledged QoS 1 and 2 messages that the server takes; absent: 65535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Highest QoS that the server takes, 0 or 1; absent: 2.
    pub maximum_qos: Option<super::Qos>,
    /// Session expiry in force, in seconds; absent: what the client asked for.
    pub session_expiry_s: Option<u32>,
    /// Whether there are wildcard subscriptions; absent: yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether there are subscription identifiers; absent: yes.
    pub subscription_ids_available: Option<bool>,
    /// Whether there are shared subscriptions; absent: yes.
    pub shared_subscription_available: Option<bool>,
    /// Where the client may build response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// Text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Properties that belong to a message and travel with it from publisher to subscriber.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageProperties<'a> {
    /// Whether the payload is said to be UTF-8; absent: unspecified bytes.
    pub payload_is_utf8: Option<bool>,
    /// Seconds that are left to the message; absent: no end.
    pub expiry_s: Option<u32>,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Topic for a response; a valid topic name.
    pub response_topic: Option<&'a str>,
    /// Correlation data of a request.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties.
    pub user: UserProperties<'a>,
    /// All properties of the packet as they came, checked; what is forwarded is copied from here. Empty: not decoded,
    /// or there were none. Whoever changes a field empties this. Not compared.
    pub encoded: &'a [u8],
}

impl PartialEq for MessageProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.payload_is_utf8 == other.payload_is_utf8
            && self.expiry_s == other.expiry_s
            && self.content_type == other.content_type
            && self.response_topic == other.response_topic
            && self.correlation_data == other.correlation_data
            && self.user == other.user
    }
}

impl Eq for MessageProperties<'_> {}

/// Properties of PUBLISH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// What travels with the message.
    pub message: MessageProperties<'a>,
    /// Topic alias, on this connection in this direction.
    pub topic_alias: Option<NonZeroU16>,
    /// Identifiers of the subscriptions that matched. Only a server sends them.
    pub subscription_ids: SubscriptionIds<'a>,
}

/// Properties of a will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WillProperties<'a> {
    /// Seconds between the end of the connection and the will; absent: 0.
    pub delay_s: Option<u32>,
    /// What travels with the message.
    pub message: MessageProperties<'a>,
}

/// Properties of SUBSCRIBE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeProperties<'a> {
    /// Identifier that comes back with what the subscriptions match, 1 to 268435455.
    pub subscription_id: Option<NonZeroU32>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckProperties<'a> {
    /// Text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Properties of DISCONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties<'a> {
    /// Changes the session expiry, in seconds. Only a client sends it.
    pub session_expiry_s: Option<u32>,
    /// Another server to use. Only a server sends it.
    pub server_reference: Option<&'a str>,
    /// Text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Properties of AUTH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthProperties<'a> {
    /// Authentication method.
    pub method: Option<&'a str>,
    /// Authentication data.
    pub data: Option<&'a [u8]>,
    /// Text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user: UserProperties<'a>,
}

/// Subscription identifiers of a PUBLISH, 1 to 268435455 each, in their order.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionIds<'a>(pub(super) Ids<'a>);

#[derive(Clone, Copy, Debug)]
pub(super) enum Ids<'a> {
    /// Properties as they came, other properties between them.
    Encoded(&'a [u8]),
    Given(&'a [NonZeroU32]),
}

impl Default for SubscriptionIds<'_> {
    fn default() -> Self {
        SubscriptionIds(Ids::Given(&[]))
    }
}

impl<'a> From<&'a [NonZeroU32]> for SubscriptionIds<'a> {
    fn from(ids: &'a [NonZeroU32]) -> Self {
        SubscriptionIds(Ids::Given(ids))
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl<'a> SubscriptionIds<'a> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The identifiers in their order.
    pub fn iter(&self) -> impl Iterator<Item = NonZeroU32> + Clone + use<'a> {
        let (encoded, given) = match self.0 {
            Ids::Encoded(encoded) => (encoded, [].as_slice()),
            Ids::Given(given) => ([].as_slice(), given),
        };
        super::property::subscription_ids(encoded).chain(given.iter().copied())
    }
}
