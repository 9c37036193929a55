//! What the admin service asks of the broker.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::shapes::{
    BanStatus, Batch, ConnectionStatus, GroupStatus, Health, Listing, LiveMessage, Published,
    Purged, RetainedMessage, RetainedStatus, SessionStatus, Status, StreamStatus,
    SubscriptionStatus,
};
use crate::watching::Watching;

/// Names a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRef {
    /// Its space.
    pub space: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for StreamRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, self.name)
    }
}

/// A piece of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// [`Listing::next`] of the page before; `None`: from the beginning.
    pub after: Option<String>,
    /// How many entries at most; 1 to [`Page::LIMIT_MAX`].
    pub limit: usize,
}

impl Page {
    /// Entries in a page that does not say how many.
    pub const LIMIT_DEFAULT: usize = 100;
    /// Entries in a page at most.
    pub const LIMIT_MAX: usize = 1000;
}

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Their ids contain this.
    pub contains: String,
    /// Whether their clients are connected; `None`: no matter.
    pub connected: Option<bool>,
    /// They have a subscription that matches this subject, in the words of their protocol. Each is then shown as if it
    /// was asked for alone.
    pub matches: Option<String>,
}

/// Which subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionFilter {
    /// Of the session with this id.
    pub session: Option<String>,
    /// Their filters contain this.
    pub contains: String,
    /// They match this subject, in the words of their protocol.
    pub matches: Option<String>,
}

/// How subjects are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notation {
    /// `a.b`, with the wildcards `*` and `>`.
    #[default]
    Dots,
    /// `a/b`, with the wildcards `+` and `#`, as MQTT has them.
    Slashes,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into one stream, created if absent.
    Stream(StreamRef),
    /// To whatever is bound to a subject.
    Subject {
        /// The space.
        space: String,
        /// The subject, tokens separated by dots.
        subject: String,
    },
}

/// A message to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// Its body.
    pub body: Bytes,
    /// Its priority, lower is more urgent; `None`: the stream's default.
    pub priority: Option<u32>,
    /// Milliseconds before it can be delivered.
    pub delay_ms: u64,
    /// How long a consumer may hold it, in milliseconds; 0: the group's default.
    pub ack_timeout_ms: u64,
}

/// What kind of no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such thing (404).
    NotFound,
    /// The request makes no sense (400).
    Invalid,
    /// It makes sense, but not now or not for this (409).
    Refused,
    /// A limit is reached (429).
    Limit,
    /// The server is starting, draining, or its log has failed (503).
    Unavailable,
    /// This server cannot do that (501).
    Unsupported,
    /// It should have worked (500).
    Internal,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// What kind of no.
    pub kind: ErrorKind,
    /// What happened, lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl AdminError {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        AdminError {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// There is no such stream.
    #[must_use]
    pub fn no_stream(stream: &StreamRef) -> Self {
        AdminError::new(ErrorKind::NotFound, format!("there is no stream {stream}"))
            .hint("GET /api/v1/streams lists what there is")
    }
}

type Answer<T> = Result<T, AdminError>;

/// The broker as an operator uses it.
///
/// Methods may wait, and are dropped when the client hangs up. Lists are bounded by [`Page::limit`] or `max`; the
/// service checks those limits before it calls.
pub trait AdminBackend: Watching {
    /// Whether the server can do its work. Must not wait.
    fn health(&self) -> Health;

    /// An overview.
    fn status(&self) -> impl Future<Output = Answer<Status>> + Send;

    /// Streams, shard by shard in order of creation; of all spaces when `space` is `None`.
    fn streams(
        &self,
        space: Option<&str>,
        page: Page,
    ) -> impl Future<Output = Answer<Listing<StreamStatus>>> + Send;

    /// One stream.
    fn stream(&self, stream: &StreamRef) -> impl Future<Output = Answer<StreamStatus>> + Send;

    /// The groups of a stream, the default one (name `""`) first.
    fn groups(&self, stream: &StreamRef) -> impl Future<Output = Answer<Vec<GroupStatus>>> + Send;

    /// Messages of a stream from sequence number `from` on, taking none. When there are none yet, waits up to `wait`
    /// for the first.
    fn browse(
        &self,
        stream: &StreamRef,
        from: u64,
        max: usize,
        wait: Duration,
    ) -> impl Future<Output = Answer<Batch>> + Send;

    /// Messages published to a subject (wildcards `*` and `>`) from now on. The channel is bounded; the backend drops
    /// what does not fit and counts it in [`LiveMessage::dropped`].
    fn subscribe(
        &self,
        space: &str,
        subject: &str,
    ) -> impl Future<Output = Answer<mpsc::Receiver<LiveMessage>>> + Send;

    /// Publishes; answers when the message is as safe as the durability setting says.
    fn publish(
        &self,
        target: Target,
        message: NewMessage,
    ) -> impl Future<Output = Answer<Published>> + Send;

    /// Removes all messages that nobody holds.
    fn purge(&self, stream: &StreamRef) -> impl Future<Output = Answer<Purged>> + Send;

    /// Delivers nothing for `ms` milliseconds; 0 ends a pause.
    fn pause(&self, stream: &StreamRef, ms: u64) -> impl Future<Output = Answer<()>> + Send;

    /// Open connections, oldest first.
    fn connections(
        &self,
        page: Page,
    ) -> impl Future<Output = Answer<Listing<ConnectionStatus>>> + Send;

    /// Closes a connection.
    fn kick(&self, connection: u64) -> impl Future<Output = Answer<()>> + Send;

    /// Sessions of the protocols that have such, in the order of their ids.
    fn sessions(
        &self,
        filter: &SessionFilter,
        page: Page,
    ) -> impl Future<Output = Answer<Listing<SessionStatus>>> + Send;

    /// One session.
    fn session(&self, id: &str) -> impl Future<Output = Answer<SessionStatus>> + Send;

    /// Disconnects the client of a session. With `forget`, the session ends too, with what it keeps.
    fn end_session(&self, id: &str, forget: bool) -> impl Future<Output = Answer<()>> + Send;

    /// Bans, in the order of kinds and values.
    fn bans(&self, page: Page) -> impl Future<Output = Answer<Listing<BanStatus>>> + Send;

    /// Keeps somebody out, for so many milliseconds or until further notice, and disconnects those who are in.
    fn ban(
        &self,
        kind: &str,
        value: &str,
        for_ms: Option<u64>,
        reason: &str,
    ) -> impl Future<Output = Answer<BanStatus>> + Send;

    /// Ends a ban.
    fn unban(&self, kind: &str, value: &str) -> impl Future<Output = Answer<()>> + Send;

    /// Subscriptions, in the order of sessions and filters.
    fn subscriptions(
        &self,
        filter: &SubscriptionFilter,
        page: Page,
    ) -> impl Future<Output = Answer<Listing<SubscriptionStatus>>> + Send;

    /// Retained messages whose subjects match `filter`, in the order of their subjects; all when it is `None`.
    fn retained(
        &self,
        space: &str,
        filter: Option<&str>,
        notation: Notation,
        page: Page,
    ) -> impl Future<Output = Answer<Listing<RetainedStatus>>> + Send;

    /// The retained message of a subject.
    fn retained_message(
        &self,
        space: &str,
        subject: &str,
        notation: Notation,
    ) -> impl Future<Output = Answer<RetainedMessage>> + Send;

    /// Forgets the retained message of a subject; answers when that is as durable as the setting says.
    fn forget_retained(
        &self,
        space: &str,
        subject: &str,
        notation: Notation,
    ) -> impl Future<Output = Answer<()>> + Send;

    /// A snapshot for `/metrics`; at most `streams_max` streams of their own, the rest summed up.
    fn metrics(&self, streams_max: usize) -> impl Future<Output = Answer<Metrics>> + Send;
}
