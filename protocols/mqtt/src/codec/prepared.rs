//! A PUBLISH encoded once for all subscribers that get the same bytes.
//!
//! ```text
//! message ──▶ Prepared::new, once a Format ──▶ Prepared::write, once a subscriber: a copy, then packet id and DUP
//! ```

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::encode::{check_ids, packet_body, publish_flags};
use super::fault::EncodeError;
use super::primitive::{Count, Sink, VARINT_MAX, varint_len};
use super::property_sets::write_hop;
use super::version::{PacketId, PacketType, Qos, Version};

/// Bit of DUP in the first byte.
const DUP: u8 = 1 << 3;

/// Bytes of a packet id.
const PACKET_ID_LEN: usize = 2;

/// Bytes of the value of a message expiry.
const EXPIRY_LEN: usize = 4;

/// A message on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// The payload, shared by all frames made of it.
    pub payload: &'a Bytes,
    /// What [`MessageProperties::write_forwarded`](super::MessageProperties::write_forwarded) wrote.
    pub properties: &'a [u8],
}

/// What the bytes of a PUBLISH depend on besides message, packet id and DUP. Equal formats share a [`Prepared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format<'a> {
    /// Before 5.0 there are no properties: everything below `retain` is left out.
    pub version: Version,
    /// QoS of this delivery.
    pub qos: Qos,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Seconds left to the message.
    pub expiry_s: Option<u32>,
    /// Topic alias to define or use.
    pub alias: Option<Alias>,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: &'a [NonZeroU32],
}

/// Use of a topic alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alias {
    /// Sends topic and alias: the alias means this topic from now on.
    Define(NonZeroU16),
    /// Sends the alias in place of the topic.
    Use(NonZeroU16),
}

/// An encoded PUBLISH with its packet id left open.
///
/// Short payloads lie behind the head in one piece, so that [`Prepared::write`] is one copy; long ones stay shared.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Fixed header to properties, then the payload.
    bytes: Vec<u8>,
    /// Bytes of `bytes` before the payload.
    head: usize,
    payload: Bytes,
    /// Where the packet id is; `None` at QoS 0.
    packet_id_at: Option<usize>,
    /// Where the expiry is.
    expiry_at: Option<usize>,
}

/// How long the parts of a PUBLISH are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Fixed header to properties.
    head: usize,
    /// What follows the fixed header, payload included.
    body: u32,
    properties: u32,
    payload: usize,
}

impl Layout {
    /// Measures `message` in `format`.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn of(message: &Message<'_>, format: &Format<'_>) -> Result<Self, EncodeError> {
        check_ids(format.subscription_ids.iter().map(|id| id.get()))?;
        let v5 = format.version.is_v5();
        let (topic, alias) = topic_and_alias(message, format);
        if topic.len() > usize::from(u16::MAX) {
            return Err(EncodeError::FieldTooLong(topic.len()));
        }
        let mut properties = Count::default();
        if v5 {
            properties.bytes(message.properties);
            let ids = format.subscription_ids.iter().copied();
            write_hop(format.expiry_s, alias, ids, &mut properties);
        }
        let properties_len = packet_body(properties.bytes)?;
        let head = 2
            + topic.len()
            + if format.qos == Qos::AtMostOnce {
                0
            } else {
                PACKET_ID_LEN
            }
            + if v5 {
                varint_len(properties_len) + properties.bytes
            } else {
                0
            };
        let body = packet_body(head.saturating_add(message.payload.len()))?;
        Ok(Layout {
            head: 1 + varint_len(body) + head,
            body,
            properties: properties_len,
            payload: message.payload.len(),
        })
    }

    /// Bytes of the packet, for comparison with a Maximum Packet Size.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.head + self.payload
    }

    /// Appends everything before the payload of the message that was measured, in the format that it was measured in,
    /// for one subscriber. The payload is to follow.
    ///
    /// # Errors
    /// [`EncodeError::PacketId`] if there is a packet id at QoS 0, or none above; nothing was appended then.
    pub fn write_head(
        &self,
        message: &Message<'_>,
        format: &Format<'_>,
        packet_id: Option<PacketId>,
        dup: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if packet_id.is_some() != (format.qos != Qos::AtMostOnce) {
            return Err(EncodeError::PacketId);
        }
        let dup = dup && packet_id.is_some();
        self.write(message, format, packet_id.map(PacketId::get), dup, out);
        Ok(())
    }

    /// Appends the head; says where the packet id and the value of the expiry are.
    fn write(
        &self,
        message: &Message<'_>,
        format: &Format<'_>,
        packet_id: Option<u16>,
        dup: bool,
        out: &mut Vec<u8>,
    ) -> (Option<usize>, Option<usize>) {
        let from = out.len();
        let (topic, alias) = topic_and_alias(message, format);
        out.push((PacketType::Publish as u8) << 4 | publish_flags(dup, format.qos, format.retain));
        out.varint(self.body.min(VARINT_MAX));
        out.string(topic);
        let packet_id_at = packet_id.map(|_| out.len());
        if let Some(id) = packet_id {
            out.u16(id);
        }
        let mut expiry_at = None;
        if format.version.is_v5() {
            out.varint(self.properties);
            out.extend_from_slice(message.properties);
            expiry_at = format.expiry_s.map(|_| out.len() + 1);
            let ids = format.subscription_ids.iter().copied();
            write_hop(format.expiry_s, alias, ids, out);
        }
        debug_assert_eq!(
            out.len() - from,
            self.head,
            "the head is as long as measured"
        );
        (packet_id_at, expiry_at)
    }
}

/// What is sent of the topic, and with which alias.
fn topic_and_alias<'a>(
    message: &Message<'a>,
    format: &Format<'_>,
) -> (&'a str, Option<NonZeroU16>) {
    match format.alias.filter(|_| format.version.is_v5()) {
        None => (message.topic, None),
        Some(Alias::Define(alias)) => (message.topic, Some(alias)),
        Some(Alias::Use(alias)) => ("", Some(alias)),
    }
}

impl Prepared {
    /// Longest payload that is copied behind the head, in bytes.
    pub const INLINE_MAX: usize = 4096;

    /// Encodes `message` for everyone served in `format`.
    ///
    /// # Errors
    /// [`EncodeError`] if the topic or the whole is too long for the protocol, or an identifier out of range.
    pub fn new(message: &Message<'_>, format: &Format<'_>) -> Result<Self, EncodeError> {
        let layout = Layout::of(message, format)?;
        let inline = message.payload.len() <= Self::INLINE_MAX;
        let room = if inline { layout.size() } else { layout.head };
        let mut bytes = Vec::with_capacity(room);
        let no_id = (format.qos != Qos::AtMostOnce).then_some(0);
        let (packet_id_at, expiry_at) = layout.write(message, format, no_id, false, &mut bytes);
        if inline {
            bytes.extend_from_slice(message.payload);
        }
        Ok(Prepared {
            bytes,
            head: layout.head,
            payload: message.payload.clone(),
            packet_id_at,
            expiry_at,
        })
    }

    /// Bytes of the packet, for comparison with a Maximum Packet Size.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.head + self.payload.len()
    }

    /// Whether it takes a packet id: QoS 1 and 2.
    #[must_use]
    pub const fn has_packet_id(&self) -> bool {
        self.packet_id_at.is_some()
    }

    /// Whether the payload is short enough to lie behind the head: [`Prepared::write`] is the way then, else
    /// [`Prepared::write_head`] and the shared [`Prepared::payload`].
    #[must_use]
    pub const fn is_inline(&self) -> bool {
        self.payload.len() <= Self::INLINE_MAX
    }

    /// Replaces the seconds left to the message, if it has an expiry.
    pub fn set_expiry_s(&mut self, seconds: u32) {
        if let Some(at) = self.expiry_at
            && let Some(value) = self.bytes.get_mut(at..at + EXPIRY_LEN)
        {
            value.copy_from_slice(&seconds.to_be_bytes());
        }
    }

    /// Appends the packet.
    ///
    /// # Errors
    /// [`EncodeError::PacketId`] if there is a packet id at QoS 0, or none above; nothing was appended then.
    pub fn write(
        &self,
        packet_id: Option<PacketId>,
        dup: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.write_bytes(&self.bytes, packet_id, dup, out)?;
        if !self.is_inline() {
            out.extend_from_slice(&self.payload);
        }
        Ok(())
    }

    /// Appends what comes before [`Prepared::payload`], for payloads that are worth sharing.
    ///
    /// # Errors
    /// As [`Prepared::write`].
    pub fn write_head(
        &self,
        packet_id: Option<PacketId>,
        dup: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let head = self.bytes.get(..self.head).unwrap_or(&self.bytes);
        self.write_bytes(head, packet_id, dup, out)
    }

    fn write_bytes(
        &self,
        bytes: &[u8],
        packet_id: Option<PacketId>,
        dup: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if packet_id.is_some() != self.has_packet_id() {
            return Err(EncodeError::PacketId);
        }
        let from = out.len();
        out.extend_from_slice(bytes);
        let Some(frame) = out.get_mut(from..) else {
            return Ok(());
        };
        if let (Some(at), Some(id)) = (self.packet_id_at, packet_id)
            && let Some(value) = frame.get_mut(at..at + PACKET_ID_LEN)
        {
            value.copy_from_slice(&id.get().to_be_bytes());
            // DUP says nothing at QoS 0, and may not be set there.
            if let Some(first) = frame.first_mut().filter(|_| dup) {
                *first |= DUP;
            }
        }
        Ok(())
    }

    /// The payload, shared.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }
}
