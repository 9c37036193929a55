//! The stored path: from a publisher to the streams that keep a message.
//!
//! ```text
//! Routes ──┐                                   ┌─▶ shard 0: Publish { to, also }
//! Picked ──┼─▶ publishes(message) ─ Iterator ──┤
//! Message ─┘                                   └─▶ shard 3: Publish { to, also }
//! ```
//!
//! The streams of an answer stand together in order of their shards, also when the answer is cached, so that dividing
//! them is going through them. Nothing here waits: a session sends the commands, and acknowledges when every shard has
//! answered.
//!
//! What a stream has no place for of its own travels as headers whose names begin with `lt-`. A publisher's own header
//! of such a name gets the prefix a second time, and loses it again in [`Stored::headers`]: nobody can pretend.

use bytes::Bytes;
use longtail_engine::headers as encoded;
use longtail_engine::{Command, KeyFrom, NewMessage, Target as Into};
use longtail_model::{ShardId, StreamId, Subject, SubjectError, Timestamp};
use smallvec::SmallVec;

use crate::ephemeral::{Picked, SpaceRoutes, Target, TargetOptions, is_stored};
use crate::message::{Encodings, Header, Headers, Message, Origin, Quality};
use crate::relay::{RelayHandle, RelayId};
use crate::router::Route;

#[cfg(test)]
mod tests;

const RESERVED: &[u8] = b"lt-";
const REPLY_TO: &[u8] = b"lt-reply-to";
/// One byte: the quality, and [`RETAIN`].
const PUBLISHED: &[u8] = b"lt-published";
const RETAIN: u8 = 0x04;
/// Who published: eight bytes, least significant first.
const ORIGIN: &[u8] = ORIGIN_NAME.as_bytes();
const ORIGIN_NAME: &str = "lt-origin";
/// When it expires, of a message that is not to go by itself: eight bytes, least significant first.
const EXPIRES: &[u8] = b"lt-expires";

/// Where a stored message says who published it: what a group of a stream is pinned by so that each publisher's messages
/// go to one consumer.
#[must_use]
pub fn publisher_key() -> KeyFrom {
    KeyFrom::Header(ORIGIN_NAME.into())
}

/// What one shard has to store.
#[derive(Clone, Debug)]
pub struct ShardPublish {
    /// The shard.
    pub shard: ShardId,
    /// The stream whose sequence number the reply has.
    pub first: StreamId,
    /// A [`Command::Publish`].
    pub command: Command,
}

/// The commands that store `message` in the streams among `routes` that take it, and in those that groups have
/// `picked` for it, see [`Published::picked`](crate::ephemeral::Published::picked): one a shard. None when it has
/// expired. A stream that is both among the routes and picked keeps it once. What [relays](crate::relay) among the
/// routes have to store comes last, in commands of their own.
#[must_use]
pub fn publishes<'a>(
    routes: &'a SpaceRoutes,
    picked: &Picked,
    message: &'a Message,
    now: Timestamp,
) -> StreamPublishes<'a> {
    StreamPublishes::new(routes, picked, message, now, || new_message(message, now))
}

/// The iterator of [`publishes`].
#[derive(Debug)]
pub struct StreamPublishes<'a> {
    direct: &'a [Route<Target, TargetOptions>],
    picked: std::iter::Peekable<smallvec::IntoIter<[(ShardId, StreamId); 1]>>,
    message: &'a Message,
    new: Option<NewMessage>,
    /// Relays that were not asked yet.
    relays: SmallVec<[&'a RelayHandle; 1]>,
    relayed: std::vec::IntoIter<ShardPublish>,
    now: Timestamp,
}

impl<'a> StreamPublishes<'a> {
    /// As [`publishes`], with what to store in a session's own words. `encode` is called once, and only when a stream
    /// takes the message.
    pub fn new(
        routes: &'a SpaceRoutes,
        picked: &Picked,
        message: &'a Message,
        now: Timestamp,
        encode: impl FnOnce() -> NewMessage,
    ) -> Self {
        let mut picked = picked.clone();
        picked.sort_unstable();
        let mut publishes = StreamPublishes {
            direct: routes.leading(),
            picked: picked.into_iter().peekable(),
            message,
            new: None,
            relays: SmallVec::new(),
            relayed: Vec::new().into_iter(),
            now,
        };
        if !message.is_expired(now) {
            let relay = |options: &'a TargetOptions| match options {
                TargetOptions::Relay(relay) => Some(relay),
                _ => None,
            };
            // They are the last of those that lead, each with as many options as it has subscriptions that match.
            let relays = routes.leading().iter().rev();
            let relays = relays.map_while(|route| route.options.first().and_then(relay));
            publishes.relays.extend(relays);
        }
        publishes.skip_unwilling();
        let any = !publishes.direct.is_empty() || publishes.picked.peek().is_some();
        if any && !message.is_expired(now) {
            publishes.new = Some(encode());
        }
        publishes
    }

    /// Leaves out a relay: its owner has asked itself already.
    #[must_use]
    pub fn beside(mut self, relay: RelayId) -> Self {
        self.relays.retain(|handle| handle.id() != relay);
        self
    }

    /// What relays store.
    fn next_relayed(&mut self) -> Option<ShardPublish> {
        loop {
            if let Some(publish) = self.relayed.next() {
                return Some(publish);
            }
            let relay = self.relays.pop()?;
            let mut publishes = Vec::new();
            relay.relay(self.message, self.now, &mut publishes);
            self.relayed = publishes.into_iter();
        }
    }

    /// Moves to the next stream of the routes that takes the message.
    fn skip_unwilling(&mut self) {
        let unwilling = |route: &&Route<_, _>| !is_stored(&route.options, self.message);
        let count = self.direct.iter().take_while(unwilling).count();
        self.direct = self.direct.get(count..).unwrap_or_default();
    }

    fn next_direct(&self) -> Option<(ShardId, StreamId)> {
        match self.direct.first()?.key {
            Target::Stream(shard, stream) => Some((shard, stream)),
            Target::Relay(_) | Target::Live(_) => None,
        }
    }

    /// The next stream in order, if it is in `shard`.
    fn take(&mut self, shard: ShardId) -> Option<StreamId> {
        if let Some((at, stream)) = self.next_direct()
            && at == shard
        {
            self.direct = self.direct.get(1..).unwrap_or_default();
            self.skip_unwilling();
            return Some(stream);
        }
        self.picked
            .next_if(|&(at, _)| at == shard)
            .map(|(_, stream)| stream)
    }
}

impl Iterator for StreamPublishes<'_> {
    type Item = ShardPublish;

    fn next(&mut self) -> Option<ShardPublish> {
        let picked = self.picked.peek().copied();
        let shard = match (self.next_direct(), picked) {
            (Some((direct, _)), Some((picked, _))) => direct.min(picked),
            (Some((shard, _)), None) | (None, Some((shard, _))) => shard,
            (None, None) => return self.next_relayed(),
        };
        let Some(message) = self.new.clone() else {
            // It has expired.
            return None;
        };
        let first = self.take(shard)?;
        let mut also = Vec::new();
        while let Some(stream) = self.take(shard) {
            also.push(stream);
        }
        Some(ShardPublish {
            shard,
            first,
            command: Command::Publish {
                to: Into::Stream(first),
                also,
                message,
            },
        })
    }
}

/// A message as a stream keeps it, everything that can be said of it included. [`Stored`] reads it back.
#[must_use]
pub fn new_message(message: &Message, now: Timestamp) -> NewMessage {
    NewMessage {
        expires_ms: match message.expires {
            Timestamp::NEVER => None,
            expires => Some(expires.millis_since(now)),
        },
        subject: Bytes::copy_from_slice(message.subject.as_str().as_bytes()),
        headers: encode_headers(message, None),
        payload: message.payload.clone(),
        ..NewMessage::default()
    }
}

/// A message as a [last value](crate::last_values) is kept. It does not go by itself when it expires, since an older
/// value might then be the last one after a crash: [`Stored::expires`] says when somebody has to remove it.
#[must_use]
pub fn new_value(message: &Message) -> NewMessage {
    let expires = (message.expires != Timestamp::NEVER).then_some(message.expires);
    NewMessage {
        subject: Bytes::copy_from_slice(message.subject.as_str().as_bytes()),
        headers: encode_headers(message, expires),
        payload: message.payload.clone(),
        ..NewMessage::default()
    }
}

fn encode_headers(message: &Message, expires: Option<Timestamp>) -> Bytes {
    let expires = expires.map(|expires| expires.0.to_le_bytes());
    let flags = message.quality as u8 | if message.retain { RETAIN } else { 0 };
    let (flags, origin) = ([flags], message.origin.0.to_le_bytes());
    let reply_to = message.reply_to.as_ref();
    let own = [
        reply_to.map(|subject| (REPLY_TO, subject.as_str().as_bytes())),
        (flags != [0]).then_some((PUBLISHED, &flags[..])),
        (message.origin != Origin::default()).then_some((ORIGIN, &origin[..])),
        expires.as_ref().map(|expires| (EXPIRES, &expires[..])),
    ];
    let own = own.into_iter().flatten();
    let mut size: usize = own
        .clone()
        .map(|(name, value)| encoded::len(name, value))
        .sum();
    for Header { name, value } in message.headers.iter() {
        size += encoded::len(name, value) + RESERVED.len();
    }
    let mut out = Vec::with_capacity(size);
    for (name, value) in own {
        encoded::put(&mut out, name, value);
    }
    for Header { name, value } in message.headers.iter() {
        if name.starts_with(RESERVED) {
            encoded::put(&mut out, &[RESERVED, name].concat(), value);
        } else {
            encoded::put(&mut out, name, value);
        }
    }
    out.into()
}

/// What [`new_message`] wrote, read without copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Where it was published to; `None` when it was put into the stream directly.
    pub subject: Option<&'a str>,
    /// Where an answer is expected.
    pub reply_to: Option<&'a str>,
    /// How surely it was published.
    pub quality: Quality,
    /// Whether it was to be kept as its subject's last value.
    pub retain: bool,
    /// Who published it.
    pub origin: Origin,
    /// When it expires, if [`new_value`] wrote it.
    pub expires: Timestamp,
    headers: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Reads a message as a shard shows it.
    #[must_use]
    pub fn of(message: &longtail_engine::Message<'a>) -> Self {
        Stored::read(message.subject, message.headers)
    }

    /// Reads the subject and the encoded headers of a message.
    #[must_use]
    pub fn read(subject: &'a [u8], headers: &'a [u8]) -> Self {
        let subject = std::str::from_utf8(subject).ok();
        let mut stored = Stored {
            subject: subject.filter(|subject| !subject.is_empty()),
            expires: Timestamp::NEVER,
            headers,
            ..Stored::default()
        };
        // Ours come first; what follows is the publisher's.
        for (name, value) in encoded::iter(headers) {
            match name {
                REPLY_TO => stored.reply_to = std::str::from_utf8(value).ok(),
                ORIGIN => {
                    let origin = value.try_into().map(u64::from_le_bytes);
                    stored.origin = Origin(origin.unwrap_or_default());
                }
                EXPIRES => {
                    let expires = value.try_into().map(u64::from_le_bytes);
                    stored.expires = expires.map_or(Timestamp::NEVER, Timestamp);
                }
                PUBLISHED => {
                    let flags = value.first().copied().unwrap_or_default();
                    stored.retain = flags & RETAIN != 0;
                    stored.quality = match flags & 0x03 {
                        0 => Quality::AtMostOnce,
                        1 => Quality::AtLeastOnce,
                        _ => Quality::ExactlyOnce,
                    };
                }
                _ => break,
            }
        }
        stored
    }

    /// The publisher's headers, in his order. What the broker has added (`lt-death-reason` and its like) comes last.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let own = |name: &[u8]| matches!(name, REPLY_TO | PUBLISHED | ORIGIN | EXPIRES);
        encoded::iter(self.headers)
            .skip_while(move |(name, _)| own(name))
            .map(|(name, value)| {
                let rest = name.strip_prefix(RESERVED);
                let escaped = rest.filter(|rest| rest.starts_with(RESERVED));
                (escaped.unwrap_or(name), value)
            })
    }

    /// The whole message as it was published; without a subject it has the empty one.
    ///
    /// # Errors
    /// When its subject or its reply subject is none.
    pub fn to_message(
        &self,
        payload: Bytes,
        published: Timestamp,
        expires: Timestamp,
    ) -> Result<Message, SubjectError> {
        let mut headers = Headers::default();
        for (name, value) in self.headers() {
            headers.push(Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        }
        Ok(Message {
            subject: Subject::new(self.subject.unwrap_or_default())?,
            reply_to: self.reply_to.map(Subject::new).transpose()?,
            headers,
            payload,
            origin: self.origin,
            published,
            expires,
            quality: self.quality,
            retain: self.retain,
            encodings: Encodings::default(),
        })
    }
}
