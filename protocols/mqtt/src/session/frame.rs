//! A PUBLISH on its way to the client: encoded once for all clients that read the same bytes, then copied and patched.

use std::num::NonZeroU32;

use bytes::Bytes;
use longtail_broker::message::{FormatId, Message, SharedMessage};
use longtail_edge::SHARED_BYTES_MIN;
use longtail_model::Timestamp;

use super::Outbox;
use crate::codec::{self, Alias, Format, PacketId, Prepared, Qos, Version};
use crate::message;

/// The formats of this crate among those of all protocols.
const FORMATS: u16 = 0x4D00;
const WITH_PROPERTIES: u16 = 1;
const WITH_ID: u16 = 2;

/// How one copy is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style<'a> {
    pub(super) version: Version,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) dup: bool,
    /// With QoS 1 and 2.
    pub(super) packet_id: Option<PacketId>,
    /// Identifiers of subscriptions.
    pub(super) ids: &'a [NonZeroU32],
    pub(super) alias: Option<Alias>,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Larger than the client takes.
    TooLarge,
    /// It has a subject that no topic can be.
    Unspeakable,
}

/// Writes `message`, unless it is larger than `max` bytes.
pub(super) fn put(
    message: &SharedMessage,
    style: &Style<'_>,
    now: Timestamp,
    max: usize,
    out: &mut impl Outbox,
) -> Result<(), Unsent> {
    let v5 = style.version.is_v5();
    let expiry_s = if v5 {
        message::seconds_left(message, now)
    } else {
        None
    };
    // Retained messages are sent one by one: the store is not to keep frames of them.
    if expiry_s.is_some() || style.alias.is_some() || !style.ids.is_empty() || style.retain {
        return put_alone(message, style, expiry_s, max, out);
    }
    let id = if style.packet_id.is_some() {
        WITH_ID
    } else {
        0
    };
    let format = FormatId(FORMATS | id | if v5 { WITH_PROPERTIES } else { 0 });
    let frame = message.encoded(format, |message| encode(message, v5, style.packet_id));
    if frame.is_empty() {
        return Err(Unsent::Unspeakable);
    }
    let apart = is_apart(message);
    let size = frame.len() + if apart { message.payload.len() } else { 0 };
    if size > max {
        return Err(Unsent::TooLarge);
    }
    let tail = out.tail();
    let start = tail.len();
    tail.extend_from_slice(&frame);
    patch(&mut tail[start..], style);
    if apart {
        out.put_shared(message.payload.clone());
    }
    Ok(())
}

/// Whether the payload is long enough to be queued by reference.
fn is_apart(message: &Message) -> bool {
    message.payload.len() >= SHARED_BYTES_MIN
}

/// The frame that clients share; empty if there is none. Without the payload if that is apart.
fn encode(message: &Message, v5: bool, packet_id: Option<PacketId>) -> Bytes {
    if !message::can_say(message.subject.as_ref()) {
        return Bytes::new();
    }
    let properties = if v5 {
        message::properties(message)
    } else {
        Vec::new()
    };
    let format = Format {
        version: if v5 { Version::V5 } else { Version::V311 },
        qos: if packet_id.is_some() {
            Qos::AtLeastOnce
        } else {
            Qos::AtMostOnce
        },
        retain: false,
        expiry_s: None,
        alias: None,
        subscription_ids: &[],
    };
    let mut frame = Vec::new();
    if let Ok(prepared) = prepare(message, &properties, &format) {
        let written = if is_apart(message) {
            prepared.write_head(packet_id, false, &mut frame)
        } else {
            frame.reserve_exact(prepared.size());
            prepared.write(packet_id, false, &mut frame)
        };
        if written.is_err() {
            frame.clear();
        }
    }
    frame.into()
}

fn prepare(
    message: &Message,
    properties: &[u8],
    format: &Format<'_>,
) -> Result<Prepared, codec::EncodeError> {
    let message = codec::Message {
        topic: message.subject.as_str(),
        payload: &message.payload,
        properties,
    };
    Prepared::new(&message, format)
}

/// Sets the flags and the packet id of a copy.
fn patch(frame: &mut [u8], style: &Style<'_>) {
    let flags = u8::from(style.dup) << 3 | style.qos.bits() << 1 | u8::from(style.retain);
    if let Some(first) = frame.first_mut() {
        *first = 0x30 | flags;
    }
    let Some(id) = style.packet_id else { return };
    // Behind the remaining length, whose last byte has no upper bit, and the topic.
    let length = frame.iter().skip(1).take_while(|byte| **byte >= 0x80);
    let topic = length.count() + 2;
    if let Some(&[high, low]) = frame.get(topic..topic + 2) {
        let at = topic + 2 + usize::from(u16::from_be_bytes([high, low]));
        if let Some(place) = frame.get_mut(at..at + 2) {
            place.copy_from_slice(&id.get().to_be_bytes());
        }
    }
}

/// Writes a message with what only this client is told.
fn put_alone(
    message: &SharedMessage,
    style: &Style<'_>,
    expiry_s: Option<u32>,
    max: usize,
    out: &mut impl Outbox,
) -> Result<(), Unsent> {
    if !message::can_say(message.subject.as_ref()) {
        return Err(Unsent::Unspeakable);
    }
    let format = Format {
        version: style.version,
        qos: style.qos,
        retain: style.retain,
        expiry_s,
        alias: style.alias,
        subscription_ids: style.ids,
    };
    let properties = message::properties(message);
    let prepared = prepare(message, &properties, &format).map_err(|_| Unsent::TooLarge)?;
    if prepared.size() > max {
        return Err(Unsent::TooLarge);
    }
    let (id, dup) = (style.packet_id, style.dup);
    let written = if is_apart(message) {
        let written = prepared.write_head(id, dup, out.tail());
        out.put_shared(message.payload.clone());
        written
    } else {
        prepared.write(id, dup, out.tail())
    };
    written.map_err(|_| Unsent::Unspeakable)
}
