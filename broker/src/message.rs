//! A message on its way to live subscribers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use longtail_model::{Subject, Timestamp};

/// One header: name and value as the publisher wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name. Case is kept.
    pub name: Bytes,
    /// The value.
    pub value: Bytes,
}

/// The headers of a message, in the publisher's order, names repeated as often as he did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// Adds a header at the end.
    pub fn push(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.0.push(Header {
            name: name.into(),
            value: value.into(),
        });
    }

    /// The first value under this name, compared byte for byte.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Bytes> {
        self.0
            .iter()
            .find(|header| header.name == name)
            .map(|header| &header.value)
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = &Header> {
        self.0.iter()
    }

    /// Number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|header| header.name.len() + header.value.len())
            .sum()
    }
}

/// Name of the header with a message's content type, in every protocol that has one.
pub const CONTENT_TYPE: &str = "lt-content-type";
/// Name of the header with what a message and its answer have in common.
pub const CORRELATION: &str = "lt-correlation";

/// Who published: compared with a subscriber's own to keep messages from coming back. 0 is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// How surely a message is to reach those who want it, as its publisher asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// It may be lost.
    #[default]
    AtMostOnce,
    /// It may come twice.
    AtLeastOnce,
    /// Neither.
    ExactlyOnce,
}

impl Quality {
    /// Whether it must not be lost.
    #[must_use]
    pub const fn is_assured(self) -> bool {
        !matches!(self, Quality::AtMostOnce)
    }
}

/// Names one wire format, so that a message is encoded once for all subscribers that read it. The high byte is the
/// protocol's, the low byte its own (version, quality of service, with or without headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FormatId(pub u16);

/// A message. Shared by reference count among all who get it; never changed once it is shared.
#[derive(Debug)]
pub struct Message {
    /// Where it was published to.
    pub subject: Subject,
    /// Where an answer is expected.
    pub reply_to: Option<Subject>,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
    /// Who published it.
    pub origin: Origin,
    /// When it was published.
    pub published: Timestamp,
    /// When it is worth nothing any more; [`Timestamp::NEVER`] for ever.
    pub expires: Timestamp,
    /// How surely it was published.
    pub quality: Quality,
    /// Whether the publisher asked for it to be kept as its subject's last value.
    pub retain: bool,
    /// The wire formats made of it so far, see [`Message::encoded`]; empty at first.
    pub encodings: Encodings,
}

impl Message {
    /// Wire formats remembered for one message; more are encoded every time.
    pub(crate) const FORMATS_MAX: usize = 16;

    /// The same message, to be changed before it is shared. Nothing encoded comes along.
    #[must_use]
    pub fn to_own(&self) -> Self {
        Message {
            subject: self.subject.clone(),
            reply_to: self.reply_to.clone(),
            headers: self.headers.clone(),
            payload: self.payload.clone(),
            origin: self.origin,
            published: self.published,
            expires: self.expires,
            quality: self.quality,
            retain: self.retain,
            encodings: Encodings::default(),
        }
    }

    /// A message without headers that never expires and may be lost.
    #[must_use]
    pub fn new(subject: Subject, payload: Bytes) -> Self {
        Message {
            subject,
            reply_to: None,
            headers: Headers::default(),
            payload,
            origin: Origin::default(),
            published: Timestamp::default(),
            expires: Timestamp::NEVER,
            quality: Quality::default(),
            retain: false,
            encodings: Encodings::default(),
        }
    }

    /// Whether it has expired.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }

    /// The message in a wire format: encoded by the first who asks, shared by all others. Two who ask for the first
    /// time at the same moment may both encode; one result is kept.
    ///
    /// What differs between subscribers (packet ids, subscription ids) cannot be part of it.
    pub fn encoded(
        &self,
        format: FormatId,
        encode: impl FnOnce(&Message) -> Bytes,
    ) -> Cow<'_, Bytes> {
        self.encodings.get_or_keep(format, || encode(self))
    }

    /// As [`Message::encoded`], for all but the first who asks: that one may be the only one, and encodes for itself what
    /// nobody would share.
    pub fn encoded_for_many(
        &self,
        format: FormatId,
        encode: impl FnOnce(&Message) -> Bytes,
    ) -> Option<Cow<'_, Bytes>> {
        // Two who ask for the first time at the same moment may both be told that they are the first.
        if !self.encodings.asked.load(Ordering::Relaxed) {
            self.encodings.asked.store(true, Ordering::Relaxed);
            return None;
        }
        Some(self.encoded(format, encode))
    }
}

/// The wire formats made of a message so far.
// An append-only list: a link is written once, so readers need no lock.
#[derive(Debug, Default)]
pub struct Encodings {
    first: OnceLock<Box<Encoding>>,
    /// Somebody has asked for one that is shared.
    asked: AtomicBool,
}

#[derive(Debug)]
struct Encoding {
    format: FormatId,
    bytes: Bytes,
    next: Encodings,
}

impl Encodings {
    /// What there is in this format, or what `encode` makes.
    pub(crate) fn get_or_keep(
        &self,
        format: FormatId,
        encode: impl FnOnce() -> Bytes,
    ) -> Cow<'_, Bytes> {
        let mut link = self;
        while let Some(encoding) = link.first.get() {
            if encoding.format == format {
                return Cow::Borrowed(&encoding.bytes);
            }
            link = &encoding.next;
        }
        self.keep(format, encode())
    }

    fn keep(&self, format: FormatId, bytes: Bytes) -> Cow<'_, Bytes> {
        let mut link = self;
        for _ in 0..Message::FORMATS_MAX {
            let new = || {
                Box::new(Encoding {
                    format,
                    bytes: bytes.clone(),
                    next: Encodings::default(),
                })
            };
            let encoding = link.first.get_or_init(new);
            if encoding.format == format {
                return Cow::Borrowed(&encoding.bytes);
            }
            link = &encoding.next;
        }
        Cow::Owned(bytes)
    }
}

/// A message that may be handed to many.
pub type SharedMessage = Arc<Message>;

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message::new(Subject::new("a").unwrap(), Bytes::from_static(b"body"))
    }

    #[test]
    fn each_format_is_encoded_once() {
        let message = message();
        let mut calls = 0;
        for _ in 0..3 {
            for format in 0..4 {
                let bytes = message.encoded(FormatId(format), |message| {
                    calls += 1;
                    Bytes::from([&message.payload[..], &format.to_be_bytes()].concat())
                });
                assert_eq!(bytes[4..], format.to_be_bytes());
            }
        }
        assert_eq!(calls, 4);
    }

    #[test]
    fn who_asks_first_for_what_many_share_encodes_for_itself() {
        let message = message();
        let encoded = || message.encoded_for_many(FormatId(1), |_| Bytes::from_static(b"shared"));
        assert_eq!(encoded(), None);
        for _ in 0..2 {
            assert_eq!(encoded().as_deref(), Some(&Bytes::from_static(b"shared")));
        }
    }

    #[test]
    fn the_list_of_encodings_is_bounded() {
        let message = message();
        let mut calls = 0;
        for _ in 0..2 {
            for format in 0..20 {
                message.encoded(FormatId(format), |_| {
                    calls += 1;
                    Bytes::new()
                });
            }
        }
        assert_eq!(calls, 20 + 4);
    }

    #[test]
    fn headers_keep_order_case_and_repetition() {
        let mut headers = Headers::default();
        for (name, value) in [("A", "1"), ("a", "2"), ("A", "3")] {
            headers.push(name, value);
        }
        assert_eq!(headers.get(b"A").unwrap(), "1");
        assert_eq!(headers.get(b"a").unwrap(), "2");
        assert_eq!(headers.get(b"b"), None);
        assert_eq!((headers.len(), headers.bytes()), (3, 6));
    }

    #[test]
    fn expiry_is_exact() {
        let message = Message {
            expires: Timestamp(10),
            ..message()
        };
        assert!(!message.is_expired(Timestamp(9)));
        assert!(message.is_expired(Timestamp(10)));
    }
}
