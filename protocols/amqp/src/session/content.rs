//! How a message of AMQP is one of the engine's: the properties stay, octet for octet, with exchange and routing key in
//! front of them, in one header of the record.

use bytes::Bytes;
use longtail_edge::SHARED_BYTES_MIN;
use longtail_engine::{Message, headers};
use longtail_model::swap_separators;

use crate::codec::Properties;

/// Name of the header.
const NAME: &[u8] = b"amqp";

/// Octets around exchange, key and properties: two lengths of short strings, the name, and two lengths of the header.
const OVERHEAD: usize = 2 + NAME.len() + 1 + 5;

/// What a delivery says of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) key: std::borrow::Cow<'a, str>,
    /// Flags and values.
    pub(crate) properties: &'a [u8],
}

/// Encoded headers for the record. Exchange and key are short strings.
pub(crate) fn encode(exchange: &str, key: &str, properties: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(len(exchange, key, properties));
    put(exchange, key, properties, &mut out);
    out.into()
}

/// Octets that [`put`] appends at most.
pub(crate) fn len(exchange: &str, key: &str, properties: &[u8]) -> usize {
    OVERHEAD + exchange.len() + key.len() + properties.len()
}

/// Appends encoded headers for the record; the properties are at their end.
pub(crate) fn put(exchange: &str, key: &str, properties: &[u8], out: &mut Vec<u8>) {
    let short = |text: &str| [u8::try_from(text.len()).unwrap_or(u8::MAX)];
    let (before, between) = (short(exchange), short(key));
    let (exchange, key) = (exchange.as_bytes(), key.as_bytes());
    headers::put_joined(out, NAME, &[&before, exchange, &between, key, properties]);
}

/// Room for a body when its first octets are there, whatever it has been announced with.
const BODY_CAPACITY_MAX: usize = 1024 * 1024;

/// Makes room for a piece of a body of which `left` octets are still to come, this piece among them: more than it needs,
/// but no more than the body does, for what is left over would stay as long as the message.
pub(super) fn make_room(content: &mut Vec<u8>, piece: usize, left: u64) {
    if content.capacity() - content.len() < piece {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let most = BODY_CAPACITY_MAX.max(content.len());
        content.reserve_exact(piece.max(left.min(most)));
    }
}

/// The first `at` octets, and the body that follows them. A large one has an allocation of its own, unless what lies in front
/// of it is small: whoever refers to it keeps all of it.
pub(super) fn divided(content: Vec<u8>, at: usize) -> (Bytes, Bytes) {
    let mut body = Bytes::from(content);
    let encoded = body.split_to(at.min(body.len()));
    if body.len() >= SHARED_BYTES_MIN && encoded.len() > body.len() / 8 {
        body = Bytes::copy_from_slice(&body);
    }
    (encoded, body)
}

impl<'a> Envelope<'a> {
    /// Of a record. One that another protocol has put into the queue has its subject as key and no properties.
    pub(crate) fn of(message: &Message<'a>) -> Self {
        Envelope::of_headers(message.headers, message.subject)
    }

    /// The same, of what of a record matters here.
    pub(crate) fn of_headers(encoded: &'a [u8], subject: &'a [u8]) -> Self {
        let ours = headers::iter(encoded).find(|(name, _)| *name == NAME);
        if let Some(envelope) = ours.and_then(|(_, value)| Envelope::decode(value)) {
            return envelope;
        }
        let subject = std::str::from_utf8(subject).unwrap_or_default();
        let mut key = swap_separators(subject);
        while key.len() > usize::from(u8::MAX) {
            key.pop();
        }
        Envelope {
            exchange: "",
            key: key.into(),
            properties: Properties::NONE,
        }
    }

    /// With other properties, if there are some.
    pub(crate) fn with(self, properties: Option<&'a [u8]>) -> Self {
        Envelope {
            properties: properties.unwrap_or(self.properties),
            ..self
        }
    }

    fn decode(value: &'a [u8]) -> Option<Self> {
        let text = |value: &'a [u8]| {
            let (&len, rest) = value.split_first()?;
            let (text, rest) = rest.split_at_checked(usize::from(len))?;
            Some((std::str::from_utf8(text).ok()?, rest))
        };
        let (exchange, rest) = text(value)?;
        let (key, properties) = text(rest)?;
        Some(Envelope {
            exchange,
            key: key.into(),
            properties,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longtail_model::{Priority, Timestamp};

    fn message<'a>(subject: &'a [u8], headers: &'a [u8]) -> Message<'a> {
        Message {
            created: Timestamp(0),
            priority: Priority(0),
            delay_ms: 0,
            ack_timeout_ms: 0,
            expires: Timestamp::NEVER,
            subject,
            id: b"",
            key: 0,
            headers,
            payload: b"",
            shared: None,
        }
    }

    #[test]
    fn exchange_key_and_properties_come_back_as_they_were() {
        let long = "k".repeat(255);
        for (exchange, key, properties) in [("", "", &b"\0\0"[..]), ("x", &long, b"\x10\0\x02")] {
            let encoded = encode(exchange, key, properties);
            let envelope = Envelope::of(&message(b"", &encoded));
            assert_eq!((envelope.exchange, &*envelope.key), (exchange, key));
            assert_eq!(envelope.properties, properties);
        }
    }

    #[test]
    fn what_another_protocol_has_published_has_its_subject_as_key() {
        let envelope = Envelope::of(&message(b"a/b.c", b""));
        assert_eq!((envelope.exchange, &*envelope.key), ("", "a.b/c"));
        assert_eq!(envelope.properties, Properties::NONE);
    }

    #[test]
    fn a_body_that_came_in_pieces_takes_no_more_than_it_is_long() {
        for (size, piece) in [
            (BODY_CAPACITY_MAX + 100_000, 4_088),
            (5 * BODY_CAPACITY_MAX + 1, 131_064),
            (100_000, 100_000),
        ] {
            let mut content = Vec::with_capacity(SHARED_BYTES_MIN);
            content.extend_from_slice(b"headers");
            for start in (0..size).step_by(piece) {
                let more = piece.min(size - start);
                make_room(&mut content, more, (size - start) as u64);
                // Little comes, and much was announced.
                assert!(content.capacity() <= 2 * content.len() + BODY_CAPACITY_MAX + piece);
                content.resize(content.len() + more, 0);
            }
            assert_eq!(content.capacity(), content.len(), "{size}");
        }
    }

    #[test]
    fn a_large_body_is_not_kept_with_large_headers() {
        let adjoin = |at: usize, size: usize| {
            let (encoded, body) = divided(vec![0; at + size], at);
            assert_eq!((encoded.len(), body.len()), (at, size));
            encoded.as_ptr_range().end == body.as_ptr()
        };
        assert!(adjoin(100, SHARED_BYTES_MIN) && adjoin(100_000, SHARED_BYTES_MIN - 1));
        assert!(!adjoin(SHARED_BYTES_MIN / 4, SHARED_BYTES_MIN) && adjoin(100_000, 1 << 20));
    }
}
