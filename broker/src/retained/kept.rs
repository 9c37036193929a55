//! How a retained message lies in memory, of which there may be millions: small ones in one allocation.
//!
//! ```text
//! u16 length of the subject, u8 flags, subject,
//! u64 published, [u64 origin], [u64 expires], [u16 length, reply subject], [u16 length, headers], payload
//! ```
//!
//! What is in brackets is there when its flag says so; numbers are little-endian. A large message stays as it came, so that its
//! payload is shared with everybody who gets it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use longtail_engine::headers as encoded;
use longtail_model::{Subject, Timestamp};

use crate::last_values::Value;
use crate::message::{Encodings, Headers, Message, Origin, Quality, SharedMessage};

/// Largest message that is packed: subject, headers and payload, in bytes.
const PACKED_MAX: usize = 4096;

/// Bytes of what comes before the subject.
const PREFIX: usize = 3;

const QUALITY: u8 = 0x03;
const RETAIN: u8 = 0x04;
const ORIGIN: u8 = 0x08;
const EXPIRES: u8 = 0x10;
const REPLY_TO: u8 = 0x20;
const HEADERS: u8 = 0x40;

/// A message of the store. Cheap to clone. Compared by its subject alone.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Packed(Arc<[u8]>),
    Whole(SharedMessage),
}

impl Kept {
    pub(super) fn of(message: &SharedMessage) -> Self {
        pack(message).map_or_else(|| Kept::Whole(Arc::clone(message)), Kept::Packed)
    }

    /// As [`Kept::of`], of a message that nobody shares yet.
    pub(super) fn new(message: Message) -> Self {
        match pack(&message) {
            Some(bytes) => Kept::Packed(bytes),
            None => Kept::Whole(Arc::new(message)),
        }
    }

    /// Its subject's bytes.
    fn place(&self) -> &[u8] {
        match self {
            Kept::Whole(message) => message.subject.as_str().as_bytes(),
            Kept::Packed(bytes) => {
                let mut rest = Rest(bytes);
                let length = usize::from(rest.u16());
                bytes.get(PREFIX..PREFIX + length).unwrap_or_default()
            }
        }
    }

    pub(super) fn subject(&self) -> Option<Subject> {
        match self {
            Kept::Whole(message) => Some(message.subject.clone()),
            Kept::Packed(_) => Subject::new(self.key()).ok(),
        }
    }

    pub(super) fn expires(&self) -> Timestamp {
        match self {
            Kept::Whole(message) => message.expires,
            Kept::Packed(bytes) => Fields::of(bytes).expires,
        }
    }

    /// What it counts for in the store's limit of bytes, but for [`RetainedStore::OVERHEAD`](super::RetainedStore::OVERHEAD).
    pub(super) fn bytes(&self) -> usize {
        match self {
            Kept::Whole(message) => super::content(message),
            Kept::Packed(bytes) => {
                let fields = Fields::of(bytes);
                let headers: usize = encoded::iter(fields.headers)
                    .map(|(name, value)| name.len() + value.len())
                    .sum();
                self.place().len() + headers + fields.payload.len()
            }
        }
    }

    /// The message as it came.
    pub(super) fn to_message(&self) -> Option<SharedMessage> {
        let bytes = match self {
            Kept::Whole(message) => return Some(Arc::clone(message)),
            Kept::Packed(bytes) => bytes,
        };
        let fields = Fields::of(bytes);
        let mut headers = Headers::default();
        for (name, value) in encoded::iter(fields.headers) {
            headers.push(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        }
        let reply_to = match fields.reply_to {
            Some(text) => Some(Subject::new(std::str::from_utf8(text).ok()?).ok()?),
            None => None,
        };
        Some(Arc::new(Message {
            subject: self.subject()?,
            reply_to,
            headers,
            payload: Bytes::copy_from_slice(fields.payload),
            origin: fields.origin,
            published: fields.published,
            expires: fields.expires,
            quality: match fields.flags & QUALITY {
                0 => Quality::AtMostOnce,
                1 => Quality::AtLeastOnce,
                _ => Quality::ExactlyOnce,
            },
            retain: fields.flags & RETAIN != 0,
            encodings: Encodings::default(),
        }))
    }
}

/// `None` when it is too large.
fn pack(message: &Message) -> Option<Arc<[u8]>> {
    if super::content(message) > PACKED_MAX {
        return None;
    }
    let mut headers = Vec::new();
    for header in message.headers.iter() {
        encoded::put(&mut headers, &header.name[..], &header.value);
    }
    let subject = message.subject.as_str().as_bytes();
    let reply_to = message
        .reply_to
        .as_ref()
        .map(|reply| reply.as_str().as_bytes());
    let mut flags = message.quality as u8;
    for (flag, set) in [
        (RETAIN, message.retain),
        (ORIGIN, message.origin != Origin::default()),
        (EXPIRES, message.expires != Timestamp::NEVER),
        (REPLY_TO, reply_to.is_some()),
        (HEADERS, !headers.is_empty()),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let mut out = Vec::with_capacity(64 + subject.len() + headers.len() + message.payload.len());
    out.extend(u16::try_from(subject.len()).ok()?.to_le_bytes());
    out.push(flags);
    out.extend_from_slice(subject);
    out.extend(message.published.0.to_le_bytes());
    if flags & ORIGIN != 0 {
        out.extend(message.origin.0.to_le_bytes());
    }
    if flags & EXPIRES != 0 {
        out.extend(message.expires.0.to_le_bytes());
    }
    let headers = Some(&headers[..]).filter(|headers| !headers.is_empty());
    for part in [reply_to, headers].into_iter().flatten() {
        out.extend(u16::try_from(part.len()).ok()?.to_le_bytes());
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&message.payload);
    Some(out.into())
}

/// What is behind the subject.
struct Fields<'a> {
    flags: u8,
    published: Timestamp,
    origin: Origin,
    expires: Timestamp,
    reply_to: Option<&'a [u8]>,
    headers: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut rest = Rest(bytes);
        let subject = rest.u16();
        let flags = rest.take(1).first().copied().unwrap_or_default();
        rest.take(subject.into());
        let has = |flag| flags & flag != 0;
        let published = Timestamp(rest.u64());
        let origin = if has(ORIGIN) { rest.u64() } else { 0 };
        let expires = if has(EXPIRES) {
            Timestamp(rest.u64())
        } else {
            Timestamp::NEVER
        };
        let reply_to = has(REPLY_TO).then(|| rest.prefixed());
        let headers = if has(HEADERS) { rest.prefixed() } else { &[] };
        Fields {
            flags,
            published,
            origin: Origin(origin),
            expires,
            reply_to,
            headers,
            payload: rest.0,
        }
    }
}

/// What is still to be read. What is not there reads as zeros: only [`pack`] makes what is read here.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(count).unwrap_or_default();
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        self.take(2).try_into().map_or(0, u16::from_le_bytes)
    }

    fn u64(&mut self) -> u64 {
        self.take(8).try_into().map_or(0, u64::from_le_bytes)
    }

    fn prefixed(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.take(length.into())
    }
}

impl Value for Kept {
    fn key(&self) -> &str {
        match self {
            Kept::Whole(message) => message.subject.as_str(),
            Kept::Packed(_) => std::str::from_utf8(self.place()).unwrap_or_default(),
        }
    }
}

/// Something at a place in the store: a message in it, or a subject to look for.
pub(super) trait Place {
    fn place(&self) -> &[u8];
}

impl Place for Kept {
    fn place(&self) -> &[u8] {
        Kept::place(self)
    }
}

impl Place for Subject {
    fn place(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

/// The order of the store, where the separator comes before every other character: right after `a` comes all of
/// `a/...`, and only then `a!`.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    // Neighbours have long beginnings in common: eight bytes at a time.
    let (a_chunks, b_chunks) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let same = a_chunks.iter().zip(b_chunks).take_while(|(a, b)| a == b);
    let skip = same.count() * 8;
    // No subject contains NUL, so the separator can take its place.
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    let (a_rest, b_rest) = (a.get(skip..), b.get(skip..));
    let mut pairs = a_rest
        .unwrap_or_default()
        .iter()
        .zip(b_rest.unwrap_or_default());
    match pairs.find(|(a, b)| a != b) {
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
        None => a.len().cmp(&b.len()),
    }
}

impl<'a> Borrow<dyn Place + 'a> for Kept {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.place(), other.place())
    }
}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.place(), other.place())
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Kept {}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    #[test]
    fn a_kept_message_is_two_words() {
        assert_eq!(size_of::<Kept>(), 16);
    }

    proptest! {
        /// Whatever a message is made of, packed or not, it comes back as it was.
        #[test]
        fn what_is_kept_comes_back(
            subject in "[a-z/]{0,20}",
            reply_to in prop::option::of("[a-z/]{0,20}"),
            headers in prop::collection::vec(("[a-z]{0,5}", ".{0,5}"), 0..3),
            payload in prop_oneof![prop::collection::vec(any::<u8>(), 0..50), Just(vec![7; PACKED_MAX + 1])],
            numbers in (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>(), 0..3_u8),
        ) {
            let (origin, published, expires, retain, quality) = numbers;
            let mut message = Message {
                reply_to: reply_to.map(|text| Subject::new(&text).unwrap()),
                origin: Origin(origin),
                published: Timestamp(published),
                expires: Timestamp(expires),
                retain,
                quality: [Quality::AtMostOnce, Quality::AtLeastOnce, Quality::ExactlyOnce][usize::from(quality)],
                ..Message::new(Subject::new(&subject).unwrap(), payload.into())
            };
            for (name, value) in headers {
                message.headers.push(name, value);
            }
            let message = Arc::new(message);
            let kept = Kept::of(&message);
            prop_assert_eq!(matches!(kept, Kept::Packed(_)), message.payload.len() <= PACKED_MAX);
            prop_assert_eq!(kept.key(), &subject);
            prop_assert_eq!(kept.expires(), message.expires);
            prop_assert_eq!(kept.bytes(), super::super::content(&message));
            let back = kept.to_message().unwrap();
            prop_assert_eq!(&back.subject, &message.subject);
            prop_assert_eq!(&back.reply_to, &message.reply_to);
            prop_assert_eq!(&back.headers, &message.headers);
            prop_assert_eq!(&back.payload, &message.payload);
            prop_assert_eq!(
                (back.origin, back.published, back.expires, back.retain, back.quality),
                (message.origin, message.published, message.expires, message.retain, message.quality)
            );
        }

        /// The order is that of the bytes, with the separator in the place of NUL.
        #[test]
        fn the_separator_comes_first(a in "[!a/]{0,20}", b in "[!a/]{0,20}") {
            let plain = |text: &str| text.replace('/', "\0").into_bytes();
            prop_assert_eq!(order(a.as_bytes(), b.as_bytes()), plain(&a).cmp(&plain(&b)));
            prop_assert!(order(a.as_bytes(), a.as_bytes()).is_eq());
        }
    }
}
