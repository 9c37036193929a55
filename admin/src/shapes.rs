//! The JSON of the admin API. Field names are part of the interface: add, never rename.
//!
//! Readers ignore fields they do not know, so that an older command line works with a newer server.

mod watching;

use std::collections::BTreeMap;

use longtail_engine::{StreamInfo, StreamName};
use serde::{Deserialize, Serialize};

pub use watching::{
    DropStatus, Drops, SlowStatus, SlowSubscription, TopicStatus, TraceLines, TraceStatus,
};

/// An error's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What happened.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing<T> {
    /// The entries.
    pub items: Vec<T>,
    /// `after` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Whether the server can do its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Recovered, log healthy, not draining.
    pub ready: bool,
    /// Why not.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// An overview of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The server's version.
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long ago that is, in milliseconds.
    pub uptime_ms: u64,
    /// The data directory.
    pub data: String,
    /// `sync`, `interval` or `memory`.
    pub durability: String,
    /// Whether it can do its work.
    pub health: Health,
    /// What listens where.
    pub listeners: Vec<ListenerStatus>,
    /// The shards.
    pub shards: Vec<ShardStatus>,
    /// Streams.
    pub streams: u64,
    /// Open connections.
    pub connections: u64,
    /// Sums over all streams.
    pub totals: StreamCounts,
    /// Resident memory in bytes, where the system says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// How long operations took lately.
    pub latencies: Vec<Latency>,
}

/// A listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The protocol, or `admin`.
    pub protocol: String,
    /// Where: `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// Whether it speaks TLS.
    #[serde(default)]
    pub tls: bool,
}

/// A shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u32,
    /// Streams.
    pub streams: u64,
    /// Sessions attached.
    pub sessions: u64,
    /// Position at the end of its log.
    pub log_end: u64,
    /// Heap bytes of its indexes.
    pub index_bytes: u64,
    /// Why its log takes no messages, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Percentiles of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// The operation, for example `publish` or `sync`.
    pub operation: String,
    /// Operations measured.
    pub count: u64,
    /// Median in microseconds.
    pub p50_us: u64,
    /// 99th percentile in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// Counts of one stream, or sums over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamCounts {
    /// Messages held.
    pub messages: u64,
    /// Bytes of headers and payload held.
    pub bytes: u64,
    /// Messages ready.
    pub ready: u64,
    /// Of those, with a priority below 1024.
    pub urgent: u64,
    /// Messages that consumers hold.
    pub held: u64,
    /// Messages delayed.
    pub delayed: u64,
    /// Messages set aside.
    pub parked: u64,
    /// Messages appended since the server started.
    pub appended_total: u64,
    /// Messages removed since the server started.
    pub removed_total: u64,
    /// Open producer links.
    pub producers: u64,
    /// Open consumer links.
    pub consumers: u64,
    /// Consumers that wait for a message.
    pub waiting: u64,
}

impl StreamCounts {
    /// Adds `other`, field by field.
    pub fn add(&mut self, other: &StreamCounts) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.ready += other.ready;
        self.urgent += other.urgent;
        self.held += other.held;
        self.delayed += other.delayed;
        self.parked += other.parked;
        self.appended_total += other.appended_total;
        self.removed_total += other.removed_total;
        self.producers += other.producers;
        self.consumers += other.consumers;
        self.waiting += other.waiting;
    }
}

impl StreamCounts {
    /// Takes `other` away, field by field; what would be less than nothing is nothing.
    pub fn subtract(&mut self, other: &StreamCounts) {
        for (mine, theirs) in [
            (&mut self.messages, other.messages),
            (&mut self.bytes, other.bytes),
            (&mut self.ready, other.ready),
            (&mut self.urgent, other.urgent),
            (&mut self.held, other.held),
            (&mut self.delayed, other.delayed),
            (&mut self.parked, other.parked),
            (&mut self.appended_total, other.appended_total),
            (&mut self.removed_total, other.removed_total),
            (&mut self.producers, other.producers),
            (&mut self.consumers, other.consumers),
            (&mut self.waiting, other.waiting),
        ] {
            *mine = mine.saturating_sub(theirs);
        }
    }
}

impl From<&StreamInfo> for StreamCounts {
    fn from(info: &StreamInfo) -> Self {
        StreamCounts {
            messages: info.messages,
            bytes: info.bytes,
            ready: info.ready,
            urgent: info.urgent,
            held: info.held,
            delayed: info.delayed,
            parked: info.parked,
            appended_total: info.appended,
            removed_total: info.removed,
            producers: info.producers,
            consumers: info.consumers,
            waiting: info.waiting,
        }
    }
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Its space.
    pub space: String,
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub counts: StreamCounts,
    /// The lowest sequence number still there, or the next to be given.
    #[serde(default)]
    pub first: u64,
    /// The next sequence number to be given.
    #[serde(default)]
    pub next: u64,
    /// What is left of a pause, in milliseconds; 0: not paused.
    #[serde(default)]
    pub pause_left_ms: u64,
    /// `sync`, `interval` or `memory`.
    #[serde(default)]
    pub durability: String,
}

impl StreamStatus {
    /// The stream `name` as the engine describes it.
    #[must_use]
    pub fn new(name: &StreamName, info: &StreamInfo) -> Self {
        StreamStatus {
            space: name.space.to_string(),
            name: name.name.to_string(),
            counts: StreamCounts::from(info),
            first: info.first.0,
            next: info.next.0,
            pause_left_ms: info.pause_left_ms,
            durability: info.durability.to_string(),
        }
    }
}

/// A group of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// Its name; empty: the default group.
    pub name: String,
    /// Messages ready.
    pub ready: u64,
    /// Messages that consumers hold.
    pub held: u64,
    /// Messages delayed.
    pub delayed: u64,
    /// Messages set aside.
    pub parked: u64,
    /// Open consumer links.
    pub consumers: u64,
    /// Consumers that wait for a message.
    pub waiting: u64,
}

impl From<&StreamInfo> for GroupStatus {
    /// The default group of the stream.
    fn from(info: &StreamInfo) -> Self {
        GroupStatus {
            name: String::new(),
            ready: info.ready,
            held: info.held,
            delayed: info.delayed,
            parked: info.parked,
            consumers: info.consumers,
            waiting: info.waiting,
        }
    }
}

/// A body, as text when it is UTF-8 and as base64 when not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Text.
    Body(String),
    /// Standard base64 with padding.
    BodyBase64(String),
}

impl Body {
    /// Chooses the form.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Body::Body(text.to_owned()),
            Err(_) => Body::BodyBase64(crate::base64::encode(bytes)),
        }
    }

    /// The bytes; `None` when the base64 is damaged.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            Body::Body(text) => Some(text.as_bytes().to_vec()),
            Body::BodyBase64(text) => crate::base64::decode(text),
        }
    }
}

/// A message that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowsedMessage {
    /// Its sequence number.
    pub seq: u64,
    /// `ready`, `delayed`, `held` or `parked`; absent where there is no such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Its priority.
    pub priority: u32,
    /// When it was published, in milliseconds since 1970.
    pub created_ms: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// Its body.
    #[serde(flatten)]
    pub body: Body,
}

/// Messages in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The messages.
    pub messages: Vec<BrowsedMessage>,
    /// Where to read on.
    pub next: u64,
}

/// A message seen on its way to a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveMessage {
    /// The subject it was published to.
    pub subject: String,
    /// Messages dropped before this one because the reader was slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// Its body.
    #[serde(flatten)]
    pub body: Body,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its sequence number in the first stream; absent when no stream took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// Purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Messages removed.
    pub messages: u64,
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionStatus {
    /// Its number, for [`crate::AdminBackend::kick`].
    pub id: u64,
    /// The protocol.
    pub protocol: String,
    /// Who is at the other end.
    pub peer: String,
    /// Its client's account; absent: none, or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// How long it is open, in milliseconds.
    pub age_ms: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// Somebody who is kept out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BanStatus {
    /// `client`, `user` or `address`.
    pub kind: String,
    /// Identifier, name or address range.
    pub value: String,
    /// When it was made: milliseconds since 1970.
    pub since_ms: u64,
    /// When it ends; absent: when somebody ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// What was said about it.
    pub reason: String,
}

/// A session: what a protocol keeps for a client, whether it is connected or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// The client's identifier.
    pub id: String,
    /// The protocol.
    pub protocol: String,
    /// Its space.
    pub space: String,
    /// The version of the protocol that its client speaks, or spoke last; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its client's account; absent: none, or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether its client is connected.
    pub connected: bool,
    /// The client's connection, as in [`ConnectionStatus::id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// Where the client is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Seconds after which something has to come from the client; absent: no matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_s: Option<u64>,
    /// Seconds that it outlives its connection; absent: for ever, or its client is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry_s: Option<u64>,
    /// When it ends, in milliseconds since 1970; absent: never, or its client is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Messages that wait.
    pub queued: u64,
    /// Bytes of their payloads.
    pub queued_bytes: u64,
    /// Messages sent and not acknowledged.
    pub in_flight: u64,
    /// Messages that its client did not get, by reason; what is 0 is absent.
    pub dropped: BTreeMap<String, u64>,
}

/// A subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionStatus {
    /// The session that it is of.
    pub session: String,
    /// The protocol.
    pub protocol: String,
    /// The space.
    pub space: String,
    /// What it matches, in the words of its protocol.
    pub filter: String,
    /// The group whose members share the messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// Highest quality of service: 0 at most once, 1 at least once, 2 exactly once.
    pub qos: u8,
    /// Without the messages that the client has published itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_local: bool,
}

/// A retained message in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetainedStatus {
    /// Its subject.
    pub subject: String,
    /// Bytes of payload.
    pub bytes: u64,
    /// When it was published, in milliseconds since 1970.
    pub published_ms: u64,
    /// When it expires, in milliseconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedMessage {
    /// What a list says of it.
    #[serde(flatten)]
    pub status: RetainedStatus,
    /// Its headers in their order, as far as they are text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(flatten)]
    pub body: Body,
}
