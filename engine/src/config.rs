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
    /// Which messages `max_messages` and `max_bytes` count.
    pub of: Counted,
}

/// Which messages a limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Counted {
    /// All that the stream has.
    #[default]
    All,
    /// Those that no consumer of the default group holds. What makes room goes after a new message was shown to those
    /// who wait, so that one that is taken at once pushes out nothing, and one that cannot stay is dropped itself. A
    /// message that comes back counts again, and pushes out others.
    Ready,
}

/// What happens to a message that would exceed [`Limits::max_messages`] or [`Limits::max_bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It is refused.
    #[default]
    RefuseNew,
    /// The oldest that nobody holds makes room.
    DropOldest,
    /// Of those that are ready, the least urgent make room, the oldest of them first. As [`Overflow::DropOldest`] where
    /// the default group does not order by priority, or the limits count all.
    DropLeastUrgent,
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
    /// Failures that a message may have: with one more it is dead-lettered, or dropped where nobody asked for that;
    /// `None`: any number. A failure is a release that says so; with `count_losses` so is a time-out, and a holder that
    /// goes.
    pub max_failures: Option<u32>,
    /// Whether a message that its holder lost has failed.
    pub count_losses: bool,
    /// Milliseconds before a message that failed is ready again, by number of failures (the last entry repeats);
    /// empty: at once.
    pub backoff_ms: Vec<u64>,
    /// Where messages go that nobody could do anything with; `None`: rejected and expired ones and those that a limit
    /// pushes out are dropped, too often delivered ones parked.
    pub dead_letter: Option<DeadLetter>,
}

impl GroupConfig {
    /// Whether a message has failed too often.
    pub(crate) fn has_failed(&self, failures: u32) -> bool {
        self.max_failures.is_some_and(|max| failures > max)
    }
}

/// Why a message ends in a dead-letter stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A consumer rejected it.
    Rejected,
    /// Its time was over.
    Expired,
    /// It came back after [`GroupConfig::max_deliveries`] deliveries, or with more than
    /// [`GroupConfig::max_failures`] failures.
    Deliveries,
    /// A limit of the stream ([`Limits`]) pushed it out.
    Limit,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::Deliveries => "max-deliveries",
            Reason::Limit => "limit",
        }
    }
}

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reasons(u8);

impl Reasons {
    /// Rejected, expired and too often delivered messages.
    pub const USUAL: Reasons = Reasons(0b0111);
    /// Every reason there is.
    pub const ALL: Reasons = Reasons(0b1111);

    /// Whether a reason is among them.
    #[must_use]
    pub fn contains(self, reason: Reason) -> bool {
        self.0 & (1 << reason as u8) != 0
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// `None` when there is a reason among them that is not known.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let bits = u8::try_from(bits).ok()?;
        (bits & !Self::ALL.0 == 0).then_some(Reasons(bits))
    }
}

impl FromIterator<Reason> for Reasons {
    fn from_iter<T: IntoIterator<Item = Reason>>(reasons: T) -> Self {
        let bits = (reasons.into_iter()).fold(0, |bits, reason| bits | 1 << reason as u8);
        Reasons(bits)
    }
}

/// Where a group's dead letters go. The copy and what becomes of the original are one frame of the log: after a crash
/// the message is in one of the streams.
///
/// When the dead-letter stream is not there, rejected and too often delivered messages are parked. When it takes
/// nothing more, a settlement that needs it is refused, a message that comes back is ready again, and an expired one is
/// looked at again a second later. What a limit pushes out, or what expires while there is no such stream, goes for
/// good and is counted ([`ShardInfo::dead_letters_lost`](crate::ShardInfo::dead_letters_lost)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeadLetter {
    /// The stream, in the same space and shard.
    pub stream: Arc<str>,
    /// Which messages go there. Of those that expire or that a limit pushes out, the ones that the default group is
    /// not done with.
    pub on: Reasons,
    /// Whether the copy has the body; else only the headers.
    pub body: bool,
    /// Whether the original of a rejected or too often delivered message is parked, not settled.
    pub keep: bool,
    /// Goes with the copy as the header `lt-death-note`, if it is not empty.
    pub note: Arc<[u8]>,
}

impl DeadLetter {
    /// Rejected, expired and too often delivered messages go to this stream as they are.
    #[must_use]
    pub fn to(stream: impl Into<Arc<str>>) -> Self {
        DeadLetter {
            stream: stream.into(),
            on: Reasons::USUAL,
            body: true,
            keep: false,
            note: Arc::default(),
        }
    }
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
    /// A message expires so many milliseconds after it was published, if it does not say itself that it does so
    /// earlier; `Some(0)`: unless somebody who waits takes it in the same step; `None`: never.
    pub expires_ms: Option<u64>,
    /// What an acknowledgement means; `None`: what the server's setting says.
    pub durability: Option<Durability>,
    /// Whether it disappears when it is empty and no link is open.
    pub auto_delete: bool,
    /// The default group, by the name `""`; `None`: only named groups consume.
    pub group: Option<GroupConfig>,
}

impl StreamConfig {
    /// The age at which a message goes, and why.
    pub(crate) fn age_limit(&self) -> Option<(u64, Reason)> {
        let old = Some(self.limits.max_age_ms).filter(|&ms| ms > 0);
        match (self.expires_ms, old) {
            (Some(expires), Some(old)) if old < expires => Some((old, Reason::Limit)),
            (Some(expires), _) => Some((expires, Reason::Expired)),
            (None, old) => old.map(|ms| (ms, Reason::Limit)),
        }
    }
}

/// The name of a group within its stream; the default group's is empty.
pub type GroupName = Arc<str>;

/// The position in a stream from which nothing has been read yet.
pub const BEGINNING: Seq = Seq::FIRST;
