//! Packets to bytes, each in its shortest form: no reason code if it is success and nothing follows, no properties
//! length if there are none and nothing follows.

use super::fault::EncodeError;
use super::packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, Publish, Suback, Subscribe,
    SubscriptionOptions, Unsuback, Unsubscribe,
};
use super::primitive::{Count, Sink, VARINT_MAX, varint_len};
use super::property::Properties;
use super::property_sets::write_all;
use super::reason::{ReasonCode, ReturnCode};
use super::version::{Qos, Version};

/// What an error is called in a SUBACK before 5.0.
const FAILURE_V3: u8 = 0x80;

impl Packet<'_> {
    /// Appends the packet as `version` writes it, in its shortest form. Properties and reasons are left out before 5.0.
    /// CONNECT is written in its own version.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let body = self.body_len(version)?;
        out.reserve(1 + varint_len(body) + body as usize);
        out.push((self.packet_type() as u8) << 4 | self.flags());
        out.varint(body);
        self.body(version, out);
        Ok(())
    }

    /// Bytes that [`Packet::encode`] appends, for comparison with a Maximum Packet Size.
    ///
    /// # Errors
    /// As [`Packet::encode`].
    pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
        let body = self.body_len(version)?;
        Ok(1 + varint_len(body) + body as usize)
    }

    fn body_len(&self, version: Version) -> Result<u32, EncodeError> {
        self.check(version)?;
        let mut count = Count::default();
        self.body(version, &mut count);
        if let Some(length) = count.too_long {
            return Err(EncodeError::FieldTooLong(length));
        }
        packet_body(count.bytes)
    }

    fn check(&self, version: Version) -> Result<(), EncodeError> {
        let empty = match self {
            Packet::Auth(_) if !version.is_v5() => return Err(EncodeError::WrongVersion),
            Packet::Publish(publish) => {
                if (publish.qos == Qos::AtMostOnce) != publish.packet_id.is_none() {
                    return Err(EncodeError::PacketId);
                }
                let wrong = publish.properties.subscription_ids.iter();
                return check_ids(wrong.map(std::num::NonZeroU32::get));
            }
            Packet::Subscribe(subscribe) => {
                check_ids(
                    subscribe
                        .properties
                        .subscription_id
                        .map(std::num::NonZeroU32::get),
                )?;
                subscribe.subscriptions.is_empty() && version != Version::V31
            }
            Packet::Suback(suback) => suback.reasons.is_empty() && version != Version::V31,
            Packet::Unsubscribe(unsubscribe) => {
                unsubscribe.filters.is_empty() && version != Version::V31
            }
            Packet::Unsuback(unsuback) => unsuback.reasons.is_empty() && version.is_v5(),
            _ => false,
        };
        if empty {
            Err(EncodeError::Empty)
        } else {
            Ok(())
        }
    }

    /// The low half of the first byte.
    const fn flags(&self) -> u8 {
        match self {
            Packet::Publish(publish) => publish_flags(publish.dup, publish.qos, publish.retain),
            _ => match self.packet_type().flags() {
                Some(flags) => flags,
                None => 0,
            },
        }
    }

    fn body(&self, version: Version, out: &mut impl Sink) {
        match self {
            Packet::Connect(connect) => connect.write(out),
            Packet::Connack(connack) => connack.write(version, out),
            Packet::Publish(publish) => publish.write(version, out),
            Packet::Puback(ack)
            | Packet::Pubrec(ack)
            | Packet::Pubrel(ack)
            | Packet::Pubcomp(ack) => ack.write(version, out),
            Packet::Subscribe(subscribe) => subscribe.write(version, out),
            Packet::Suback(suback) => suback.write(version, out),
            Packet::Unsubscribe(unsubscribe) => unsubscribe.write(version, out),
            Packet::Unsuback(unsuback) => unsuback.write(version, out),
            Packet::Pingreq | Packet::Pingresp => {}
            Packet::Disconnect(disconnect) => disconnect.write(version, out),
            Packet::Auth(auth) => auth.write(out),
        }
    }
}

/// Checks the length of a body.
pub(super) fn packet_body(bytes: usize) -> Result<u32, EncodeError> {
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= VARINT_MAX)
        .ok_or(EncodeError::TooLarge {
            size: bytes,
            max: VARINT_MAX as usize,
        })
}

pub(super) const fn publish_flags(dup: bool, qos: Qos, retain: bool) -> u8 {
    (dup as u8) << 3 | qos.bits() << 1 | retain as u8
}

pub(super) fn check_ids(ids: impl IntoIterator<Item = u32>) -> Result<(), EncodeError> {
    match ids.into_iter().find(|id| *id > VARINT_MAX) {
        Some(id) => Err(EncodeError::SubscriptionId(id)),
        None => Ok(()),
    }
}

/// Writes a reason and properties as short as they go.
fn write_reason<'a>(reason: ReasonCode, properties: &impl Properties<'a>, out: &mut impl Sink) {
    let mut count = Count::default();
    properties.write(&mut count);
    let none = count.bytes == 0;
    if none && reason == ReasonCode::Success {
        return;
    }
    out.u8(reason.as_u8());
    if !none {
        write_all(properties, out);
    }
}

impl Connect<'_> {
    fn write(&self, out: &mut impl Sink) {
        let version = self.version;
        out.string(version.protocol_name());
        let bridge = self.bridge && !version.is_v5();
        out.u8(version.level() | u8::from(bridge) << 7);
        let will = self.will.as_ref().map_or(0, |will| {
            1 << 2 | will.qos.bits() << 3 | u8::from(will.retain) << 5
        });
        // Before 5.0 there is no password without a user name.
        let password = self
            .password
            .filter(|_| version.is_v5() || self.username.is_some());
        out.u8(u8::from(self.clean_start) << 1
            | will
            | u8::from(password.is_some()) << 6
            | u8::from(self.username.is_some()) << 7);
        out.u16(self.keep_alive_s);
        if version.is_v5() {
            write_all(&self.properties, out);
        }
        out.string(self.client_id);
        if let Some(will) = &self.will {
            if version.is_v5() {
                write_all(&will.properties, out);
            }
            out.string(will.topic);
            out.binary(will.payload);
        }
        if let Some(username) = self.username {
            out.string(username);
        }
        if let Some(password) = password {
            out.binary(password);
        }
    }
}

impl Connack<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        let present =
            self.session_present && self.reason == ReasonCode::Success && version != Version::V31;
        out.u8(u8::from(present));
        if version.is_v5() {
            out.u8(self.reason.as_u8());
            write_all(&self.properties, out);
        } else {
            out.u8(ReturnCode::from(self.reason) as u8);
        }
    }
}

impl Publish<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        out.string(self.topic);
        if let Some(packet_id) = self.packet_id {
            out.u16(packet_id.get());
        }
        if version.is_v5() {
            write_all(&self.properties, out);
        }
        out.bytes(self.payload);
    }
}

impl Ack<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        out.u16(self.packet_id.get());
        if version.is_v5() {
            write_reason(self.reason, &self.properties, out);
        }
    }
}

impl SubscriptionOptions {
    const fn byte(self, version: Version) -> u8 {
        let qos = self.qos.bits();
        if !version.is_v5() {
            return qos;
        }
        qos | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

impl Subscribe<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        out.u16(self.packet_id.get());
        if version.is_v5() {
            write_all(&self.properties, out);
        }
        for subscription in &self.subscriptions {
            out.string(subscription.filter);
            out.u8(subscription.options.byte(version));
        }
    }
}

impl Suback<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        out.u16(self.packet_id.get());
        if version.is_v5() {
            write_all(&self.properties, out);
        }
        for reason in &self.reasons {
            let failed = reason.is_error() && !version.is_v5();
            out.u8(if failed { FAILURE_V3 } else { reason.as_u8() });
        }
    }
}

impl Unsubscribe<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        out.u16(self.packet_id.get());
        if version.is_v5() {
            write_all(&self.user, out);
        }
        for filter in &self.filters {
            out.string(filter);
        }
    }
}

impl Unsuback<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        out.u16(self.packet_id.get());
        if version.is_v5() {
            write_all(&self.properties, out);
            for reason in &self.reasons {
                out.u8(reason.as_u8());
            }
        }
    }
}

impl Disconnect<'_> {
    fn write(&self, version: Version, out: &mut impl Sink) {
        if version.is_v5() {
            write_reason(self.reason, &self.properties, out);
        }
    }
}

impl Auth<'_> {
    fn write(&self, out: &mut impl Sink) {
        write_reason(self.reason, &self.properties, out);
    }
}
