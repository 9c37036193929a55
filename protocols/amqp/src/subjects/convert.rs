//! Messages of AMQP as the broker's, and back.
//!
//! Outside of AMQP a message has its content type, its correlation id and those of its headers that are text or numbers.
//! Within, one from elsewhere has the same, with RabbitMQ's `x-mqtt-publish-qos` for how surely it was published and
//! `x-opt-reply-to-topic` for where an answer is expected: that is a routing key, not a queue.

use bytes::Bytes;
use longtail_broker::message::{CONTENT_TYPE, CORRELATION, Message, Quality};
use longtail_model::{Subject, Timestamp};

use crate::codec::{Properties, TableBuf, Value};

const QOS: &str = "x-mqtt-publish-qos";
const REPLY_TO: &str = "x-opt-reply-to-topic";

/// What the server and its protocols say begins so: it is nobody else's.
const RESERVED: &[&str] = &["x-", "lt-"];

/// A message as others see it. `None`: its key is no subject that they can have.
pub(crate) fn to_message(
    key: &str,
    properties: &Properties<'_>,
    body: &Bytes,
    now: Timestamp,
) -> Option<Message> {
    let subject = Subject::parse_amqp(key).ok()?;
    if subject.as_ref().is_empty() || subject.as_ref().is_reserved() {
        return None;
    }
    let mut message = Message::new(subject, body.clone());
    message.published = now;
    if properties.delivery_mode == Some(2) {
        message.quality = Quality::AtLeastOnce;
    }
    let expiration: Option<u64> = properties.expiration.and_then(|ms| ms.parse().ok());
    if let Some(ms) = expiration {
        // Zero is for who is ready now.
        message.expires = now.plus_millis(ms.max(1));
    }
    let named = [
        (CONTENT_TYPE, properties.content_type),
        (CORRELATION, properties.correlation_id),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            let name = Bytes::from_static(name.as_bytes());
            message
                .headers
                .push(name, Bytes::copy_from_slice(value.as_bytes()));
        }
    }
    for (name, value) in properties.headers.unwrap_or_default().iter() {
        if name == REPLY_TO
            && let Some(reply_to) = value.as_str()
        {
            message.reply_to = Subject::parse_amqp(reply_to).ok();
            continue;
        }
        let reserved = RESERVED.iter().any(|prefix| name.starts_with(prefix));
        if reserved || name == "CC" || name == "BCC" {
            continue;
        }
        let text = match value {
            Value::LongString(bytes) | Value::Bytes(bytes) => Bytes::copy_from_slice(bytes),
            Value::Bool(flag) => Bytes::from(flag.to_string()),
            Value::F32(number) => Bytes::from(number.to_string()),
            Value::F64(number) => Bytes::from(number.to_string()),
            value => match value.as_i64() {
                Some(number) => Bytes::from(number.to_string()),
                None => continue,
            },
        };
        message
            .headers
            .push(Bytes::copy_from_slice(name.as_bytes()), text);
    }
    Some(message)
}

/// Properties that were made for a message from elsewhere.
pub(super) struct Made {
    /// Flags and values.
    pub(super) octets: Vec<u8>,
    pub(super) expiration_ms: Option<u64>,
}

/// A message of another protocol as AMQP sees it; headers that it cannot have are left out. `None`: it cannot be said.
pub(super) fn to_properties(message: &Message, now: Timestamp) -> Option<Made> {
    let short = |value: &Bytes| {
        let text = std::str::from_utf8(value).ok();
        text.filter(|text| text.len() <= usize::from(u8::MAX))
            .map(str::to_owned)
    };
    let (mut content_type, mut correlation) = (None, None);
    let mut headers = TableBuf::default();
    headers.put(QOS, Value::U8(message.quality as u8)).ok()?;
    if let Some(reply_to) = &message.reply_to {
        let reply_to = reply_to.to_dotted();
        let value = Value::LongString(reply_to.as_bytes());
        headers.put(REPLY_TO, value).ok()?;
    }
    for header in message.headers.iter() {
        let Ok(name) = std::str::from_utf8(&header.name) else {
            continue;
        };
        match name {
            CONTENT_TYPE => content_type = short(&header.value),
            CORRELATION if short(&header.value).is_some() => correlation = short(&header.value),
            CORRELATION => headers
                .put("x-correlation-id", Value::Bytes(&header.value))
                .ok()?,
            _ if RESERVED.iter().any(|prefix| name.starts_with(prefix))
                || name.len() > usize::from(u8::MAX) => {}
            _ if std::str::from_utf8(&header.value).is_ok() => {
                headers.put(name, Value::LongString(&header.value)).ok()?;
            }
            _ => headers.put(name, Value::Bytes(&header.value)).ok()?,
        }
    }
    let expiration_ms =
        (message.expires != Timestamp::NEVER).then(|| message.expires.millis_since(now));
    let expiration = expiration_ms.map(|ms| ms.to_string());
    let properties = Properties {
        content_type: content_type.as_deref(),
        headers: Some(headers.as_table()),
        delivery_mode: Some(if message.quality.is_assured() { 2 } else { 1 }),
        correlation_id: correlation.as_deref(),
        expiration: expiration.as_deref(),
        ..Properties::default()
    };
    let mut octets = Vec::new();
    properties.encode(&mut octets).ok()?;
    Some(Made {
        octets,
        expiration_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn a_message_keeps_what_both_sides_can_say() {
        let mut headers = TableBuf::default();
        for (name, value) in [
            ("text", Value::LongString("ä".as_bytes())),
            ("number", Value::I32(-5)),
            ("yes", Value::Bool(true)),
            ("void", Value::Void),
            ("x-delay", Value::I32(1)),
            ("lt-origin", Value::I32(1)),
            (REPLY_TO, Value::LongString(b"answers.here")),
        ] {
            headers.put(name, value).unwrap();
        }
        let properties = Properties {
            content_type: Some("text/plain"),
            correlation_id: Some("7"),
            delivery_mode: Some(2),
            expiration: Some("500"),
            headers: Some(headers.as_table()),
            ..Properties::default()
        };
        let body = Bytes::from_static(b"body");
        let message = to_message("a.b/c", &properties, &body, NOW).unwrap();
        assert_eq!(message.subject.as_str(), "a/b.c");
        assert_eq!(message.reply_to.as_ref().unwrap().as_str(), "answers/here");
        assert_eq!(message.expires, Timestamp(1_500));
        assert_eq!(message.quality, Quality::AtLeastOnce);
        let shown: Vec<_> = message
            .headers
            .iter()
            .map(|h| (&*h.name, &*h.value))
            .collect();
        let expected: [(&[u8], &[u8]); 5] = [
            (b"lt-content-type", b"text/plain"),
            (b"lt-correlation", b"7"),
            (b"text", "ä".as_bytes()),
            (b"number", b"-5"),
            (b"yes", b"true"),
        ];
        assert_eq!(shown, expected);

        let made = to_properties(&message, Timestamp(1_100)).unwrap();
        let back = Properties::decode(&made.octets).unwrap();
        assert_eq!(made.expiration_ms, Some(400));
        let expected = (Some("text/plain"), Some("7"), Some(2), Some("400"));
        let actual = (
            back.content_type,
            back.correlation_id,
            back.delivery_mode,
            back.expiration,
        );
        assert_eq!(actual, expected);
        let table = back.headers.unwrap();
        let shown: Vec<_> = table.iter().collect();
        let expected = [
            (QOS, Value::U8(1)),
            (REPLY_TO, Value::LongString(b"answers.here")),
            ("text", Value::LongString("ä".as_bytes())),
            ("number", Value::LongString(b"-5")),
            ("yes", Value::LongString(b"true")),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_topic_is_not_shown() {
        let (none, body) = (Properties::default(), Bytes::new());
        assert!(to_message("", &none, &body, NOW).is_none());
        assert!(to_message("$SYS.x", &none, &body, NOW).is_none());
        let message = to_message("a", &none, &body, NOW).unwrap();
        assert_eq!(
            (message.quality, message.expires, message.retain),
            (Quality::AtMostOnce, Timestamp::NEVER, false)
        );
    }
}
