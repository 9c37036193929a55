//! Which property is which field, and the order in which they are written.
//!
//! The order is that of Mosquitto's CONNACK (0x13, 0x22, 0x12, 0x15, 0x16, 0x25, 0x27, 0x21, 0x24), then all others by
//! number, user properties last: captures can be compared byte for byte. What belongs to a message keeps the order of
//! its publisher when it is handed on; then come expiry, topic alias and subscription identifiers.

use std::num::{NonZeroU16, NonZeroU32};

use super::fault::EncodeError;
use super::primitive::{Count, Sink, VARINT_MAX};
use super::properties::{
    AckProperties, AuthProperties, ConnackProperties, ConnectProperties, DisconnectProperties,
    MessageProperties, PublishProperties, SubscribeProperties, SubscriptionIds, WillProperties,
};
use super::property::{self, Properties, Value, id};
use super::user::UserProperties;
use super::version::Qos;

impl<'a> Value<'a> {
    const fn number(self) -> Option<u32> {
        match self {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn short(self) -> Option<u16> {
        self.number().and_then(|number| number.try_into().ok())
    }

    fn flag(self) -> Option<bool> {
        self.number().map(|number| number != 0)
    }

    const fn text(self) -> Option<&'a str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    const fn binary(self) -> Option<&'a [u8]> {
        match self {
            Value::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// One property, if it is there.
trait Put: Sink + Sized {
    fn put_flag(&mut self, id: u8, value: Option<bool>) {
        if let Some(value) = value {
            self.u8(id);
            self.u8(u8::from(value));
        }
    }

    fn put_u16(&mut self, id: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id);
            self.u16(value);
        }
    }

    fn put_u32(&mut self, id: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id);
            self.u32(value);
        }
    }

    fn put_varint(&mut self, id: u8, value: Option<NonZeroU32>) {
        if let Some(value) = value {
            self.u8(id);
            self.varint(value.get().min(VARINT_MAX));
        }
    }

    fn put_text(&mut self, id: u8, value: Option<&str>) {
        self.put_binary(id, value.map(str::as_bytes));
    }

    fn put_binary(&mut self, id: u8, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.u8(id);
            self.binary(value);
        }
    }
}

impl<S: Sink> Put for S {}

/// Writes properties with their length before them.
pub(super) fn write_all<'a>(properties: &impl Properties<'a>, out: &mut impl Sink) {
    let mut count = Count::default();
    properties.write(&mut count);
    if let Some(length) = count.too_long {
        out.too_long(length);
    }
    out.varint(u32::try_from(count.bytes).unwrap_or(VARINT_MAX));
    properties.write(out);
}

impl<'a> Properties<'a> for ConnectProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::TOPIC_ALIAS_MAXIMUM => self.topic_alias_maximum = value.short(),
            id::AUTHENTICATION_METHOD => self.authentication_method = value.text(),
            id::AUTHENTICATION_DATA => self.authentication_data = value.binary(),
            id::MAXIMUM_PACKET_SIZE => {
                self.maximum_packet_size = value.number().and_then(NonZeroU32::new);
            }
            id::RECEIVE_MAXIMUM => self.receive_maximum = value.short().and_then(NonZeroU16::new),
            id::SESSION_EXPIRY => self.session_expiry_s = value.number(),
            id::REQUEST_PROBLEM_INFORMATION => self.request_problem_information = value.flag(),
            id::REQUEST_RESPONSE_INFORMATION => self.request_response_information = value.flag(),
            _ => {}
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn write(&self, out: &mut impl Sink) {
        out.put_u16(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        out.put_text(id::AUTHENTICATION_METHOD, self.authentication_method);
        out.put_binary(id::AUTHENTICATION_DATA, self.authentication_data);
        out.put_u32(
            id::MAXIMUM_PACKET_SIZE,
            self.maximum_packet_size.map(NonZeroU32::get),
        );
        out.put_u16(
            id::RECEIVE_MAXIMUM,
            self.receive_maximum.map(NonZeroU16::get),
        );
        out.put_u32(id::SESSION_EXPIRY, self.session_expiry_s);
        out.put_flag(
            id::REQUEST_PROBLEM_INFORMATION,
            self.request_problem_information,
        );
        out.put_flag(
            id::REQUEST_RESPONSE_INFORMATION,
            self.request_response_information,
        );
        self.user.write(out);
    }
}

impl<'a> Properties<'a> for ConnackProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::SERVER_KEEP_ALIVE => self.server_keep_alive_s = value.short(),
            id::TOPIC_ALIAS_MAXIMUM => self.topic_alias_maximum = value.short(),
            id::ASSIGNED_CLIENT_ID => self.assigned_client_id = value.text(),
            id::AUTHENTICATION_METHOD => self.authentication_method = value.text(),
            id::AUTHENTICATION_DATA => self.authentication_data = value.binary(),
            id::RETAIN_AVAILABLE => self.retain_available = value.flag(),
            id::MAXIMUM_PACKET_SIZE => {
                self.maximum_packet_size = value.number().and_then(NonZeroU32::new);
            }
            id::RECEIVE_MAXIMUM => self.receive_maximum = value.short().and_then(NonZeroU16::new),
            id::MAXIMUM_QOS => {
                self.maximum_qos = value.flag().map(|one| {
                    if one {
                        Qos::AtLeastOnce
                    } else {
                        Qos::AtMostOnce
                    }
                });
            }
            id::SESSION_EXPIRY => self.session_expiry_s = value.number(),
            id::RESPONSE_INFORMATION => self.response_information = value.text(),
            id::SERVER_REFERENCE => self.server_reference = value.text(),
            id::REASON_STRING => self.reason_string = value.text(),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                self.wildcard_subscription_available = value.flag();
            }
            id::SUBSCRIPTION_IDS_AVAILABLE => self.subscription_ids_available = value.flag(),
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                self.shared_subscription_available = value.flag();
            }
            _ => {}
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn write(&self, out: &mut impl Sink) {
        out.put_u16(id::SERVER_KEEP_ALIVE, self.server_keep_alive_s);
        out.put_u16(id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        out.put_text(id::ASSIGNED_CLIENT_ID, self.assigned_client_id);
        out.put_text(id::AUTHENTICATION_METHOD, self.authentication_method);
        out.put_binary(id::AUTHENTICATION_DATA, self.authentication_data);
        out.put_flag(id::RETAIN_AVAILABLE, self.retain_available);
        out.put_u32(
            id::MAXIMUM_PACKET_SIZE,
            self.maximum_packet_size.map(NonZeroU32::get),
        );
        out.put_u16(
            id::RECEIVE_MAXIMUM,
            self.receive_maximum.map(NonZeroU16::get),
        );
        // 2 is said by saying nothing.
        let maximum_qos = self.maximum_qos.filter(|qos| *qos != Qos::ExactlyOnce);
        out.put_flag(
            id::MAXIMUM_QOS,
            maximum_qos.map(|qos| qos == Qos::AtLeastOnce),
        );
        out.put_u32(id::SESSION_EXPIRY, self.session_expiry_s);
        out.put_text(id::RESPONSE_INFORMATION, self.response_information);
        out.put_text(id::SERVER_REFERENCE, self.server_reference);
        out.put_text(id::REASON_STRING, self.reason_string);
        out.put_flag(
            id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            self.wildcard_subscription_available,
        );
        out.put_flag(
            id::SUBSCRIPTION_IDS_AVAILABLE,
            self.subscription_ids_available,
        );
        out.put_flag(
            id::SHARED_SUBSCRIPTION_AVAILABLE,
            self.shared_subscription_available,
        );
        self.user.write(out);
    }
}

impl<'a> MessageProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::PAYLOAD_FORMAT => self.payload_is_utf8 = value.flag(),
            id::MESSAGE_EXPIRY => self.expiry_s = value.number(),
            id::CONTENT_TYPE => self.content_type = value.text(),
            id::RESPONSE_TOPIC => self.response_topic = value.text(),
            id::CORRELATION_DATA => self.correlation_data = value.binary(),
            _ => {}
        }
    }

    /// All but the expiry.
    fn write(&self, out: &mut impl Sink) {
        out.put_flag(id::PAYLOAD_FORMAT, self.payload_is_utf8);
        out.put_text(id::CONTENT_TYPE, self.content_type);
        out.put_text(id::RESPONSE_TOPIC, self.response_topic);
        out.put_binary(id::CORRELATION_DATA, self.correlation_data);
        self.user.write(out);
    }

    /// Appends what a broker hands on unchanged, for [`Message::properties`](super::Message::properties): all but the
    /// expiry, which is counted down. Copied from [`encoded`](Self::encoded) if there is that, in its order.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`]; nothing was appended then. Never for decoded properties.
    pub fn write_forwarded(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !self.encoded.is_empty() {
            for (id, bytes) in property::spans(self.encoded) {
                if is_forwarded(id) {
                    out.extend_from_slice(bytes);
                }
            }
            return Ok(());
        }
        let mut count = Count::default();
        self.write(&mut count);
        if let Some(length) = count.too_long {
            return Err(EncodeError::FieldTooLong(length));
        }
        self.write(out);
        Ok(())
    }
}

/// Whether a property goes from the publisher to the subscribers as it is.
const fn is_forwarded(id: u8) -> bool {
    matches!(
        id,
        id::PAYLOAD_FORMAT
            | id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::CORRELATION_DATA
            | id::USER
    )
}

/// Writes what a PUBLISH has behind the forwarded properties.
pub(super) fn write_hop(
    expiry_s: Option<u32>,
    topic_alias: Option<NonZeroU16>,
    ids: impl Iterator<Item = NonZeroU32>,
    out: &mut impl Sink,
) {
    out.put_u32(id::MESSAGE_EXPIRY, expiry_s);
    out.put_u16(id::TOPIC_ALIAS, topic_alias.map(NonZeroU16::get));
    for each in ids {
        out.put_varint(id::SUBSCRIPTION_ID, Some(each));
    }
}

impl<'a> Properties<'a> for PublishProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::TOPIC_ALIAS => self.topic_alias = value.short().and_then(NonZeroU16::new),
            other => self.message.set(other, value),
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.message.user = user;
    }

    fn set_subscription_ids(&mut self, ids: SubscriptionIds<'a>) {
        self.subscription_ids = ids;
    }

    fn set_encoded(&mut self, encoded: &'a [u8]) {
        self.message.encoded = encoded;
    }

    fn write(&self, out: &mut impl Sink) {
        self.message.write(out);
        write_hop(
            self.message.expiry_s,
            self.topic_alias,
            self.subscription_ids.iter(),
            out,
        );
    }
}

impl<'a> Properties<'a> for WillProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::WILL_DELAY => self.delay_s = value.number(),
            other => self.message.set(other, value),
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.message.user = user;
    }

    fn set_encoded(&mut self, encoded: &'a [u8]) {
        self.message.encoded = encoded;
    }

    fn write(&self, out: &mut impl Sink) {
        self.message.write(out);
        out.put_u32(id::MESSAGE_EXPIRY, self.message.expiry_s);
        out.put_u32(id::WILL_DELAY, self.delay_s);
    }
}

impl<'a> Properties<'a> for SubscribeProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        if id == id::SUBSCRIPTION_ID {
            self.subscription_id = value.number().and_then(NonZeroU32::new);
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn write(&self, out: &mut impl Sink) {
        out.put_varint(id::SUBSCRIPTION_ID, self.subscription_id);
        self.user.write(out);
    }
}

/// UNSUBSCRIBE has nothing but user properties.
impl<'a> Properties<'a> for UserProperties<'a> {
    fn set(&mut self, _id: u8, _value: Value<'a>) {}

    fn set_user(&mut self, user: UserProperties<'a>) {
        *self = user;
    }

    fn write(&self, out: &mut impl Sink) {
        UserProperties::write(self, out);
    }
}

impl<'a> Properties<'a> for AckProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        if id == id::REASON_STRING {
            self.reason_string = value.text();
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn write(&self, out: &mut impl Sink) {
        out.put_text(id::REASON_STRING, self.reason_string);
        self.user.write(out);
    }
}

impl<'a> Properties<'a> for DisconnectProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::SESSION_EXPIRY => self.session_expiry_s = value.number(),
            id::SERVER_REFERENCE => self.server_reference = value.text(),
            id::REASON_STRING => self.reason_string = value.text(),
            _ => {}
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn write(&self, out: &mut impl Sink) {
        out.put_u32(id::SESSION_EXPIRY, self.session_expiry_s);
        out.put_text(id::SERVER_REFERENCE, self.server_reference);
        out.put_text(id::REASON_STRING, self.reason_string);
        self.user.write(out);
    }
}

impl<'a> Properties<'a> for AuthProperties<'a> {
    fn set(&mut self, id: u8, value: Value<'a>) {
        match id {
            id::AUTHENTICATION_METHOD => self.method = value.text(),
            id::AUTHENTICATION_DATA => self.data = value.binary(),
            id::REASON_STRING => self.reason_string = value.text(),
            _ => {}
        }
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }

    fn write(&self, out: &mut impl Sink) {
        out.put_text(id::AUTHENTICATION_METHOD, self.method);
        out.put_binary(id::AUTHENTICATION_DATA, self.data);
        out.put_text(id::REASON_STRING, self.reason_string);
        self.user.write(out);
    }
}
