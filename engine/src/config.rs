//! What a stream is made of: how it numbers, keeps and delivers its messages.

use std::fmt;
use std::sync::Arc;

use longtail_model::{Durability, Seq};

use crate::command::Start;

/// A stream's name: the space (tenant) it lives in, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName {
    /// The space.
    pub space: Arc<str>,
    /// The name within the space, 1 to 255 bytes.
    pub name: Arc<str>,
}

impl StreamName {
    /// Longest name, in bytes.
    pub const MAX: usize = 255;

    /// Names a stream.
    #[must_use]
    pub fn new(space: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        StreamName {
            space: space.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, self.name)
    }
}

/// Where a stream's sequence numbers come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numbering {
    /// Its own counter: dense from 1.
    #[default]
    Own,
    /// A counter shared by all streams of the space that name it: ascending, and unique across all of them. Such a
    /// stream has one group.
    Shared(Arc<str>),
}

/// How long a stream keeps a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keep {
    /// Until every group has settled it; with no group, until there is one. What lies before the start of all groups
    /// counts as settled.
    #[default]
    UntilSettled,
    /// Until every group has settled it; what comes while there is no group is dropped.
    Interest,
    /// Until a limit of [`Limits`] pushes it out, whoever has read it.
    UntilLimit,
}

/// Bounds on what a stream holds; 0 is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Messages.
    pub max_messages: u64,
    /// Bytes of subjects, ids, headers and payload.
    pub max_bytes: u64,
    /// Milliseconds since a message was appended.
    pub max_age_ms: u64,
}

/// What happens to a message that would exceed [`Limits::max_messages`] or [`Limits::max_bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It is refused.
    #[default]
    RefuseNew,
    /// The oldest that nobody holds makes room.
    DropOldest,
}

/// The order in which a group delivers what is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// By sequence number.
    #[default]
    Sequence,
    /// By priority, then by sequence number.
    Priority,
}

/// How a group delivers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupConfig {
    /// In which order.
    pub order: Order,
    /// From where in the stream, for a group that is added later.
    pub start: Start,
    /// How long a consumer may hold a message that does not say so itself; 0: as long as it is connected.
    pub ack_timeout_ms: u64,
    /// Deliveries after which a message that comes back is dead-lettered; 0: never.
    pub max_deliveries: u32,
    /// Milliseconds before a message that failed is ready again, by number of failures (the last entry repeats);
    /// empty: at once.
    pub backoff_ms: Vec<u64>,
    /// The stream (in the same space and shard) that takes rejected, expired and too often delivered messages;
    /// `None`: rejected and expired ones are dropped, too often delivered ones parked.
    pub dead_letter: Option<Arc<str>>,
}

/// Everything that is fixed when a stream is created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamConfig {
    /// Where its numbers come from.
    pub numbering: Numbering,
    /// How long it keeps messages.
    pub keep: Keep,
    /// How much it keeps.
    pub limits: Limits,
    /// What happens beyond that.
    pub overflow: Overflow,
    /// What an acknowledgement means; `None`: what the server's setting says.
    pub durability: Option<Durability>,
    /// Whether it disappears when it is empty and no link is open.
    pub auto_delete: bool,
    /// The default group, by the name `""`; `None`: only named groups consume.
    pub group: Option<GroupConfig>,
}

/// The name of a group within its stream; the default group's is empty.
pub type GroupName = Arc<str>;

/// The position in a stream from which nothing has been read yet.
pub const BEGINNING: Seq = Seq::FIRST;
