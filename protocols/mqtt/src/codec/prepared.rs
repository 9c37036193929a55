//! A PUBLISH encoded once for all subscribers that get the same bytes.
//!
//! ```text
//! message ──▶ Prepared::new, once a Format ──▶ Prepared::write, once a subscriber: a copy, then packet id and DUP
//! ```

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::fault::EncodeError;
use super::version::{PacketId, Qos, Version};

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
    /// 3.1 and 3.1.1 are the same here, without properties.
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
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Fixed header to properties; then the payload, if it is short.
    bytes: Vec<u8>,
    payload: Bytes,
    /// Where `bytes` has the packet id; 0: QoS 0 has none.
    packet_id_at: usize,
    /// Where `bytes` has the expiry; 0: nowhere.
    expiry_at: usize,
}

impl Prepared {
    /// Encodes `message` for everyone served in `format`.
    ///
    /// # Errors
    /// [`EncodeError`] if the topic or the whole is too long for the protocol.
    pub fn new(message: &Message<'_>, format: &Format<'_>) -> Result<Self, EncodeError> {
        let _ = (message, format);
        Err(EncodeError::WrongVersion)
    }

    /// Bytes of the packet, for comparison with a Maximum Packet Size.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Replaces the seconds left to the message, if it has an expiry.
    pub fn set_expiry_s(&mut self, seconds: u32) {
        let _ = (seconds, self.expiry_at);
    }

    /// Appends the packet. `packet_id` is not looked at for QoS 0.
    pub fn write(&self, packet_id: Option<PacketId>, dup: bool, out: &mut Vec<u8>) {
        let _ = (packet_id, dup, out, self.packet_id_at);
    }

    /// Appends what comes before [`Prepared::payload`], for payloads that are worth sharing.
    pub fn write_head(&self, packet_id: Option<PacketId>, dup: bool, out: &mut Vec<u8>) {
        let _ = (packet_id, dup, out);
    }

    /// The payload, shared.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }
}
