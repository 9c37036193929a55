//! What can be watched: traces, slow subscriptions, single topics, and what was dropped.

use serde::{Deserialize, Serialize};

/// A trace: lines of what one client does and is told, or of what goes over some topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceStatus {
    /// Its name.
    pub name: String,
    /// What it follows: `client`, `topic` or `address`.
    pub kind: String,
    /// The identifier, filter or address.
    pub value: String,
    /// `waiting`, `running` or `stopped`.
    pub status: String,
    /// When it begins, in milliseconds since 1970.
    pub start_ms: u64,
    /// When it ends.
    pub end_ms: u64,
    /// How it shows payloads: `hidden`, `text` or `hex`.
    pub payload: String,
    /// Bytes of lines written so far, those included that made room for others.
    pub bytes: u64,
    /// Lines that made room for others.
    pub lost: u64,
}

/// A part of a trace's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceLines {
    /// Whole lines, each with its end.
    pub text: String,
    /// Where to read on.
    pub next: u64,
    /// Whether more may come: the trace waits or runs.
    pub open: bool,
}

/// What is looked for among subscriptions that are slow, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowStatus {
    /// Whether anything is looked for.
    pub enabled: bool,
    /// Milliseconds from which on a message is slow.
    pub threshold_ms: u64,
    /// Milliseconds after which an entry is forgotten.
    pub expire_ms: u64,
    /// Entries that are kept: the slowest.
    pub top: u64,
    /// What counts: `whole` (publishing to acknowledgement), `internal` (to sending), `response` (from sending on).
    pub span: String,
    /// The slowest, the slowest first.
    pub items: Vec<SlowSubscription>,
}

/// A client and a topic whose messages take long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowSubscription {
    /// The client's identifier.
    pub session: String,
    /// The topic.
    pub topic: String,
    /// How long the slowest message took, in milliseconds.
    pub took_ms: u64,
    /// When that was, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What went over a topic that is watched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicStatus {
    /// The topic.
    pub topic: String,
    /// Since when it is watched, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it was set back to nothing last; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_ms: Option<u64>,
    /// Messages published, by QoS.
    pub received: [u64; 3],
    /// Copies sent to clients, by QoS.
    pub sent: [u64; 3],
    /// Messages that nobody was subscribed to, and copies that clients did not get.
    pub dropped: u64,
    /// Messages published a second, in the last second or so.
    pub received_rate: f64,
    /// Copies sent a second.
    pub sent_rate: f64,
    /// Messages and copies dropped a second.
    pub dropped_rate: f64,
}

/// A message that somebody did not get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropStatus {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// `delivery`: a client did not get it. `publish`: nobody did, because its publisher was refused.
    pub what: String,
    /// The client that did not get it, or that published it.
    pub session: String,
    /// The topic.
    pub topic: String,
    /// Why: for a delivery as in [`SessionStatus::dropped`](super::SessionStatus::dropped), for a publish in the words
    /// of the protocol.
    pub reason: String,
}

/// The messages that were dropped of late, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drops {
    /// The messages.
    pub items: Vec<DropStatus>,
    /// How many more were dropped since the server started than could be written down; they are counted all the same.
    pub unlisted: u64,
}
