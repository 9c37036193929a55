//! A PUBLISH on its way to the client: encoded once for all clients that read the same bytes, then copied and patched.

use std::borrow::Cow;
use std::num::NonZeroU32;

use bytes::Bytes;
use longtail_broker::ephemeral::Run;
use longtail_broker::message::{FormatId, Message, SharedMessage};
use longtail_edge::SHARED_BYTES_MIN;
use longtail_model::Timestamp;

use super::Outbox;
use crate::codec::{self, Alias, EncodeError, Format, Layout, PacketId, Qos, Version};
use crate::message;

/// The formats of this crate among those of all protocols.
const FORMATS: u16 = 0x4D00;
const WITH_PROPERTIES: u16 = 1;
const WITH_ID: u16 = 2;
const WITH_EXPIRY: u16 = 4;
/// No frame, only the properties that go into each.
const PROPERTIES: FormatId = FormatId(FORMATS | 8);

/// Bytes of the value of an expiry.
const EXPIRY_LEN: usize = 4;

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
    /// Bytes at the beginning of the subject that the client is not shown.
    pub(super) hidden: usize,
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
    if style.alias.is_some() || !style.ids.is_empty() || style.retain || style.hidden > 0 {
        return put_alone(message, style, expiry_s, max, out);
    }
    let has_id = style.packet_id.is_some();
    let format = format_id(v5, has_id, expiry_s.is_some());
    let frame = message.encoded_for_many(format, |message| encode(message, v5, has_id, expiry_s));
    let Some(frame) = frame else {
        return put_alone(message, style, expiry_s, max, out);
    };
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
    let copy = &mut tail[start..];
    patch(copy, style);
    if let Some(seconds) = expiry_s {
        // The last of the properties.
        let payload = if apart { 0 } else { message.payload.len() };
        let end = copy.len().saturating_sub(payload);
        if let Some(value) = copy.get_mut(end.saturating_sub(EXPIRY_LEN)..end) {
            value.copy_from_slice(&seconds.to_be_bytes());
        }
    }
    if apart {
        out.put_shared(message.payload.clone());
    }
    Ok(())
}

/// Writes the whole of `run` at QoS 0; `false` if that has to be done one by one: there is not the room for all, a
/// message is larger than `max` bytes or is one that cannot be sent, or is long enough to be queued by reference.
pub(super) fn put_run(run: &Run<'_>, version: Version, max: usize, out: &mut impl Outbox) -> bool {
    let v5 = version.is_v5();
    let frames = run.encoded(format_id(v5, false, false), |messages| {
        encode_run(messages, v5)
    });
    if frames.is_empty() || frames.len() > max || !out.has_room(frames.len()) {
        return false;
    }
    out.tail().extend_from_slice(&frames);
    true
}

fn format_id(v5: bool, has_id: bool, expires: bool) -> FormatId {
    let flag = |on, bit| if on { bit } else { 0 };
    FormatId(
        FORMATS | flag(v5, WITH_PROPERTIES) | flag(has_id, WITH_ID) | flag(expires, WITH_EXPIRY),
    )
}

/// Whether the payload is long enough to be queued by reference.
fn is_apart(message: &Message) -> bool {
    message.payload.len() >= SHARED_BYTES_MIN
}

/// The frame that clients share; empty if there is none. Without the payload if that is apart.
fn encode(message: &Message, v5: bool, has_id: bool, expiry_s: Option<u32>) -> Bytes {
    let mut frame = Vec::new();
    let style = Style {
        version: if v5 { Version::V5 } else { Version::V311 },
        qos: if has_id {
            Qos::AtLeastOnce
        } else {
            Qos::AtMostOnce
        },
        retain: false,
        dup: false,
        packet_id: has_id.then_some(PacketId::MIN),
        ids: &[],
        alias: None,
        hidden: 0,
    };
    if message::can_say(message.subject.as_ref())
        && append(message, &style, expiry_s, usize::MAX, &mut frame).is_err()
    {
        frame.clear();
    }
    frame.into()
}

/// The frames of a run at QoS 0, one behind the other; nothing if that cannot be done for all of them.
fn encode_run(messages: &[SharedMessage], v5: bool) -> Bytes {
    let mut frames = Vec::new();
    let style = Style {
        version: if v5 { Version::V5 } else { Version::V311 },
        qos: Qos::AtMostOnce,
        retain: false,
        dup: false,
        packet_id: None,
        ids: &[],
        alias: None,
        hidden: 0,
    };
    for message in messages {
        let written = !is_apart(message)
            && message::can_say(message.subject.as_ref())
            && append(message, &style, None, usize::MAX, &mut frames).is_ok();
        if !written {
            return Bytes::new();
        }
    }
    frames.into()
}

/// Appends a packet, without the payload if that is apart; nothing in case of an error.
fn append(
    message: &Message,
    style: &Style<'_>,
    expiry_s: Option<u32>,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), Unsent> {
    let v5 = style.version.is_v5();
    let has_none = message.headers.is_empty() && message.reply_to.is_none();
    let properties = if !v5 || has_none {
        Cow::Owned(Bytes::new())
    } else if style.retain {
        // Of the store, maybe, which is to keep nothing of this.
        Cow::Owned(message::properties(message).into())
    } else {
        message.encoded(PROPERTIES, |message| message::properties(message).into())
    };
    let topic = message.subject.as_str().get(style.hidden..);
    let parts = codec::Message {
        topic: topic
            .filter(|topic| !topic.is_empty())
            .ok_or(Unsent::Unspeakable)?,
        payload: &message.payload,
        properties: &properties,
    };
    let format = Format {
        version: style.version,
        qos: style.qos,
        retain: style.retain,
        expiry_s,
        alias: style.alias,
        subscription_ids: style.ids,
    };
    let layout = Layout::of(&parts, &format).map_err(|_: EncodeError| Unsent::TooLarge)?;
    if layout.size() > max {
        return Err(Unsent::TooLarge);
    }
    let apart = is_apart(message);
    out.reserve(layout.size() - if apart { message.payload.len() } else { 0 });
    layout
        .write_head(&parts, &format, style.packet_id, style.dup, out)
        .map_err(|_| Unsent::Unspeakable)?;
    if !apart {
        out.extend_from_slice(&message.payload);
    }
    Ok(())
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
    append(message, style, expiry_s, max, out.tail())?;
    if is_apart(message) {
        out.put_shared(message.payload.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longtail_model::Subject;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    #[derive(Default)]
    struct Wire {
        bytes: Vec<u8>,
        room: usize,
    }

    impl Outbox for Wire {
        fn tail(&mut self) -> &mut Vec<u8> {
            &mut self.bytes
        }

        fn put_shared(&mut self, bytes: Bytes) {
            self.bytes.extend_from_slice(&bytes);
        }

        fn is_full(&self) -> bool {
            self.bytes.len() > self.room
        }

        fn has_room(&self, bytes: usize) -> bool {
            self.bytes.len() + bytes <= self.room
        }

        fn ask_for_room(&mut self) {}
    }

    fn message(length: usize, expires: Timestamp) -> SharedMessage {
        let mut message = Message::new(
            Subject::new("some/topic").unwrap(),
            Bytes::from(vec![b'x'; length]),
        );
        message.headers.push("key", "value");
        message.expires = expires;
        Arc::new(message)
    }

    fn style(version: Version, packet_id: Option<PacketId>) -> Style<'static> {
        Style {
            version,
            qos: if packet_id.is_some() {
                Qos::ExactlyOnce
            } else {
                Qos::AtMostOnce
            },
            retain: false,
            dup: false,
            packet_id,
            ids: &[],
            alias: None,
            hidden: 0,
        }
    }

    #[test]
    fn a_shared_frame_is_what_one_client_alone_would_be_sent() {
        let later = NOW.plus_millis(2_000);
        for length in [0, 5, 300, SHARED_BYTES_MIN] {
            for expires in [Timestamp::NEVER, NOW.plus_millis(9_000)] {
                let message = message(length, expires);
                for version in [Version::V311, Version::V5] {
                    for id in [None, PacketId::new(77)] {
                        for now in [NOW, later] {
                            let (mut shared, mut alone) = (Wire::default(), Wire::default());
                            let style = style(version, id);
                            // The first encodes for itself.
                            put(&message, &style, now, usize::MAX, &mut shared).unwrap();
                            shared.bytes.clear();
                            put(&message, &style, now, usize::MAX, &mut shared).unwrap();
                            let left = message::seconds_left(&message, now);
                            let left = left.filter(|_| version.is_v5());
                            put_alone(&message, &style, left, usize::MAX, &mut alone).unwrap();
                            assert!(shared.bytes == alone.bytes, "{length} {style:?} {left:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_run_is_its_frames_one_behind_the_other_or_nothing() {
        let messages = [3, 0, 200].map(|length| message(length, Timestamp::NEVER));
        for version in [Version::V311, Version::V5] {
            let run = Run::new(&messages).unwrap();
            let mut expected = Wire::default();
            for message in &messages {
                put(
                    message,
                    &style(version, None),
                    NOW,
                    usize::MAX,
                    &mut expected,
                )
                .unwrap();
            }
            let size = expected.bytes.len();
            let mut wire = Wire {
                room: size,
                ..Wire::default()
            };
            assert!(!put_run(&run, version, size - 1, &mut wire), "too large");
            assert!(put_run(&run, version, size, &mut wire));
            assert!(!put_run(&run, version, size, &mut wire), "no room");
            assert!(wire.bytes == expected.bytes);
        }
        let long = [1, SHARED_BYTES_MIN].map(|length| message(length, Timestamp::NEVER));
        let run = Run::new(&long).unwrap();
        let mut wire = Wire {
            room: usize::MAX,
            ..Wire::default()
        };
        assert!(!put_run(&run, Version::V5, usize::MAX, &mut wire));
        assert!(wire.bytes.is_empty());
    }
}
