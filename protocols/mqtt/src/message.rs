//! Between an MQTT message and the broker's.
//!
//! Topics are subjects as they stand. User properties are headers, in their order; what MQTT has a field for is a
//! header with a name of ours, so that both come back as they were: a user property whose name begins as ours do is
//! stored with a prefix.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Principal;
pub use longtail_broker::message::{CONTENT_TYPE, CORRELATION};
use longtail_broker::message::{Headers, Message, Origin, Quality, SharedMessage};
use longtail_model::{Subject, SubjectRef, Syntax, Timestamp};

use crate::codec::{MessageProperties, Qos, UserPropertiesBuf};

/// Payload format: `utf-8`, or `bytes` where a publisher said so.
pub const PAYLOAD_FORMAT: &str = "lt-payload-format";
/// Names that begin so are not the publisher's.
const OURS: &str = "lt-";
/// Before a publisher's name that begins so all the same.
const ESCAPE: &str = "lt-user:";

/// Who published a retained message: account, name and client identifier, with a NUL between them. Not sent to anybody.
const SOURCE: &str = "lt-source";

const UTF8: &[u8] = b"utf-8";
const UNSPECIFIED: &[u8] = b"bytes";

/// What a publisher says beside topic, payload and properties.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// Who it is.
    pub origin: Origin,
    /// The time.
    pub now: Timestamp,
}

/// The broker's message.
#[must_use]
pub fn incoming(
    subject: Subject,
    payload: Bytes,
    properties: &MessageProperties<'_>,
    published: Published,
) -> Message {
    let expires = properties.expiry_s.map_or(Timestamp::NEVER, |seconds| {
        // Zero is for who is ready now.
        published
            .now
            .plus_millis((u64::from(seconds) * 1000).max(1))
    });
    Message {
        reply_to: properties
            .response_topic
            .and_then(|topic| Subject::parse_mqtt(topic).ok()),
        headers: headers(properties),
        origin: published.origin,
        published: published.now,
        expires,
        quality: quality(published.qos),
        retain: published.retain,
        ..Message::new(subject, payload)
    }
}

fn headers(properties: &MessageProperties<'_>) -> Headers {
    let mut headers = Headers::default();
    let name = |name: &'static str| Bytes::from_static(name.as_bytes());
    if let Some(utf8) = properties.payload_is_utf8 {
        let value = if utf8 { UTF8 } else { UNSPECIFIED };
        headers.push(name(PAYLOAD_FORMAT), Bytes::from_static(value));
    }
    if let Some(value) = properties.content_type {
        headers.push(name(CONTENT_TYPE), Bytes::copy_from_slice(value.as_bytes()));
    }
    if let Some(value) = properties.correlation_data {
        headers.push(name(CORRELATION), Bytes::copy_from_slice(value));
    }
    for (key, value) in properties.user.iter() {
        let value = Bytes::copy_from_slice(value.as_bytes());
        if key.starts_with(OURS) {
            headers.push(format!("{ESCAPE}{key}"), value);
        } else {
            headers.push(Bytes::copy_from_slice(key.as_bytes()), value);
        }
    }
    headers
}

/// The properties that travel with `message`, but for its expiry, as a packet has them. Headers of other protocols that
/// are no text, or too long, are left out.
#[must_use]
pub fn properties(message: &Message) -> Vec<u8> {
    let mut properties = MessageProperties::default();
    let mut user = UserPropertiesBuf::new();
    let text = |bytes: &'_ Bytes| std::str::from_utf8(bytes).is_ok() && bytes.len() <= 0xFFFF;
    for header in message.headers.iter() {
        let Ok(name) = std::str::from_utf8(&header.name) else {
            continue;
        };
        let value = std::str::from_utf8(&header.value).ok();
        match name {
            CONTENT_TYPE if text(&header.value) => properties.content_type = value,
            CORRELATION if header.value.len() <= 0xFFFF => {
                properties.correlation_data = Some(&header.value);
            }
            PAYLOAD_FORMAT => properties.payload_is_utf8 = Some(header.value == UTF8),
            _ => {
                let own = match name.strip_prefix(ESCAPE) {
                    Some(own) => own,
                    None if name.starts_with(OURS) => continue,
                    None => name,
                };
                if let Some(value) = value {
                    // What is too long for MQTT is left out.
                    let _ = user.push(own, value);
                }
            }
        }
    }
    if let Some(reply_to) = &message.reply_to
        && can_say(reply_to.as_ref())
    {
        properties.response_topic = Some(reply_to.as_str());
    }
    properties.user = user.as_properties();
    let mut out = Vec::new();
    if properties.write_forwarded(&mut out).is_err() {
        // Every field was measured; what is written so far would be half a message.
        out.clear();
    }
    out
}

/// Whether a payload is UTF-8 if its properties say that it is (MQTT 5.0, 3.3.2.3.2).
#[must_use]
pub fn is_as_it_says(properties: &MessageProperties<'_>, payload: &[u8]) -> bool {
    properties.payload_is_utf8 != Some(true) || std::str::from_utf8(payload).is_ok()
}

/// Whether a subject is a topic that a packet can name.
#[must_use]
pub fn can_say(subject: SubjectRef<'_>) -> bool {
    Syntax::Mqtt.can_express(subject)
}

/// The seconds that are left to a message: at least 1 while it is worth anything.
#[must_use]
pub fn seconds_left(message: &Message, now: Timestamp) -> Option<u32> {
    if message.expires == Timestamp::NEVER {
        return None;
    }
    let left = message.expires.0.saturating_sub(now.0).div_ceil(1000);
    Some(u32::try_from(left).unwrap_or(u32::MAX).max(1))
}

/// Writes down who publishes a message that is to be retained.
pub(crate) fn set_source(message: &mut Message, who: &Principal, client_id: &str) {
    let source = [&*who.account, &*who.name, client_id].join("\0");
    message.headers.push(SOURCE, source);
}

/// Who published a message, as [`set_source`] has written it down, and the client identifier at its end.
pub(crate) fn source(message: &Message) -> Option<(&str, &str)> {
    let source = std::str::from_utf8(message.headers.get(SOURCE.as_bytes())?).ok()?;
    let (_, client_id) = source.rsplit_once('\0')?;
    Some((source, client_id))
}

/// Who that is.
pub(crate) fn principal_of(source: &str) -> Option<Principal> {
    let mut parts = source.split('\0');
    Some(Principal {
        account: parts.next()?.into(),
        name: parts.next()?.into(),
    })
}

/// A QoS as the broker says it.
#[must_use]
pub const fn quality(qos: Qos) -> Quality {
    match qos {
        Qos::AtMostOnce => Quality::AtMostOnce,
        Qos::AtLeastOnce => Quality::AtLeastOnce,
        Qos::ExactlyOnce => Quality::ExactlyOnce,
    }
}

/// A quality as MQTT says it.
#[must_use]
pub const fn qos(quality: Quality) -> Qos {
    match quality {
        Quality::AtMostOnce => Qos::AtMostOnce,
        Quality::AtLeastOnce => Qos::AtLeastOnce,
        Quality::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// A message that a client left for the end of its connection.
#[derive(Clone, Debug)]
pub struct Will {
    /// The message, as it will be published but for the times.
    pub message: SharedMessage,
    /// Milliseconds that it lives once it is published.
    pub expiry_ms: Option<u64>,
    /// Seconds that it waits.
    pub delay_s: u32,
    /// Who the client is, if there are accounts.
    pub principal: Option<Principal>,
}

impl Will {
    /// The message as it is published now.
    #[must_use]
    pub fn publish(&self, now: Timestamp) -> SharedMessage {
        Arc::new(Message {
            published: now,
            expires: self
                .expiry_ms
                .map_or(Timestamp::NEVER, |ms| now.plus_millis(ms)),
            ..self.message.to_own()
        })
    }
}
