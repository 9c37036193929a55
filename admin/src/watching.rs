//! What an operator watches while clients go on: the part of [`AdminBackend`](crate::AdminBackend) that never waits.

use crate::backend::AdminError;
use crate::shapes::{Drops, SlowStatus, TopicStatus, TraceLines, TraceStatus};

/// A trace that somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTrace {
    /// Its name.
    pub name: String,
    /// `client`, `topic` or `address`.
    pub kind: String,
    /// What it follows.
    pub value: String,
    /// Milliseconds that it runs; `None`: ten minutes.
    pub for_ms: Option<u64>,
    /// `hidden`, `text` or `hex`; `None`: hidden.
    pub payload: Option<String>,
}

/// Changes of what is looked for among slow subscriptions; `None`: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowChange {
    /// Whether anything is.
    pub enabled: Option<bool>,
    /// Milliseconds from which on a message is slow.
    pub threshold_ms: Option<u64>,
    /// Milliseconds after which an entry is forgotten.
    pub expire_ms: Option<u64>,
    /// Entries that are kept.
    pub top: Option<u64>,
    /// `whole`, `internal` or `response`.
    pub span: Option<String>,
}

/// Which drops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropFilter {
    /// Of the client with this identifier.
    pub session: Option<String>,
    /// Of topics that this filter matches.
    pub topic: Option<String>,
}

type Answer<T> = Result<T, AdminError>;

/// What can be watched. Methods must not wait.
pub trait Watching: Send + Sync + 'static {
    /// All traces, in the order of their names.
    fn traces(&self) -> Answer<Vec<TraceStatus>>;

    /// One trace.
    fn trace(&self, name: &str) -> Answer<TraceStatus>;

    /// Begins one.
    fn begin_trace(&self, trace: NewTrace) -> Answer<TraceStatus>;

    /// Ends one, which keeps its lines.
    fn stop_trace(&self, name: &str) -> Answer<TraceStatus>;

    /// Deletes one with its lines.
    fn delete_trace(&self, name: &str) -> Answer<()>;

    /// Lines of one from a position on, 0 being the oldest it has: as many whole ones as fit into `max` bytes, one at
    /// least if there is one.
    fn trace_lines(&self, name: &str, from: u64, max: usize) -> Answer<TraceLines>;

    /// The slowest subscriptions, and what is looked for.
    fn slow(&self) -> Answer<SlowStatus>;

    /// Looks for something else.
    fn change_slow(&self, change: SlowChange) -> Answer<SlowStatus>;

    /// Forgets what was slow.
    fn clear_slow(&self) -> Answer<()>;

    /// The topics that are watched, in their order.
    fn topics(&self) -> Answer<Vec<TopicStatus>>;

    /// Watches one more.
    fn watch_topic(&self, topic: &str) -> Answer<TopicStatus>;

    /// Counts from nothing again.
    fn reset_topic(&self, topic: &str) -> Answer<()>;

    /// Watches one no more.
    fn forget_topic(&self, topic: &str) -> Answer<()>;

    /// The messages that were dropped of late, the newest first, at most `max`.
    fn drops(&self, filter: &DropFilter, max: usize) -> Answer<Drops>;
}
