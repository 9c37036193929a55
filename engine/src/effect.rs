//! What a shard answers. Plain data again: message bodies are named by position and read when the effect leaves.

use longtail_model::{
    ConsumerTag, Durability, GroupId, Lsn, Priority, Seq, SessionId, StreamId, Timestamp,
};

use crate::command::Token;
use crate::config::{GroupName, StreamName};

/// What must be durable before an effect may leave the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Everything below this position...
    pub lsn: Lsn,
    /// ...must be as safe as this.
    pub level: Durability,
}

impl Gate {
    /// Nothing to wait for.
    pub const OPEN: Gate = Gate {
        lsn: Lsn::ZERO,
        level: Durability::Memory,
    };

    /// What is behind both.
    #[must_use]
    pub fn max(self, other: Gate) -> Gate {
        Gate {
            lsn: self.lsn.max(other.lsn),
            level: self.level.max(other.level),
        }
    }
}

/// A message on its way to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The consumer it is for.
    pub consumer: ConsumerTag,
    /// The stream it comes from.
    pub stream: StreamId,
    /// The group that delivers it.
    pub group: GroupId,
    /// Its number.
    pub seq: Seq,
    /// Where its record is.
    pub position: Lsn,
    /// How often it was delivered before.
    pub redeliveries: u32,
    /// How many of these deliveries failed.
    pub failures: u32,
    /// What [`Command::Mark`](crate::Command::Mark) left on it; 0: nothing.
    pub mark: u64,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A limit of the stream, the space or the server is reached.
    #[error("{0}")]
    Limit(String),
    /// No disk space left.
    #[error("no space left: {0}")]
    Full(String),
    /// The log failed and accepts nothing more until a restart.
    #[error("the log has failed: {0}")]
    Failed(String),
    /// The message is larger than the log takes.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// The session has no such link or consumer.
    #[error("no such link or consumer")]
    UnknownLink,
    /// The stream exists with another configuration.
    #[error("the stream exists with another configuration")]
    Exists,
    /// There is no such message, or the session does not hold it.
    #[error("no such message, or not held by this session")]
    Gone,
    /// A condition of the command does not hold.
    #[error("{0}")]
    Unmet(Unmet),
    /// A step of a transaction cannot be done; nothing of the transaction is.
    #[error("step {step} of the transaction: {why}")]
    Step {
        /// Which, counted from 0.
        step: u32,
        /// Why not.
        why: Box<Refusal>,
    },
    /// The request makes no sense for this stream.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// Which condition of a command does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// The stream was to be unused.
    #[error("the stream has consumers")]
    Unused,
    /// The stream was to be empty.
    #[error("the stream has messages")]
    Empty,
}

/// Why one of several streams did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There is no such stream, or no longer.
    Gone,
    /// A limit of the stream is reached.
    Full,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Carried out.
    Done,
    /// There is no such stream or message, or the session does not hold it.
    NotFound,
    /// The link is open.
    Opened {
        /// The stream behind it.
        stream: StreamId,
    },
    /// Appended to one stream at least.
    Published {
        /// Its number in the stream that was named first; 0 when that one refused it.
        seq: Seq,
        /// Where its record is; [`Lsn::ZERO`] when nobody wanted it.
        position: Lsn,
        /// Streams that did not take it, and why; `None`: all did.
        refused: Option<Box<[(StreamId, Cause)]>>,
    },
    /// All of it is done.
    Transacted {
        /// For each message published, in order of the steps: its number in the first of its streams, and where its
        /// record is ([`Lsn::ZERO`] when nobody there wanted it).
        published: Vec<(Seq, Lsn)>,
    },
    /// Taken.
    Delivered(Delivery),
    /// Nothing came in time.
    TimedOut,
    /// Nothing to take, and a held message is about to be taken back.
    DeadlineSoon,
    /// Here it is, untaken.
    Peeked {
        /// Its number.
        seq: Seq,
        /// Where its record is.
        position: Lsn,
    },
    /// So many.
    Count(u64),
    /// Messages with a mark.
    Marked {
        /// The number of the group, for [`Handle::Group`](crate::Handle::Group).
        group: GroupId,
        /// Number and mark of each, by number.
        messages: Vec<(Seq, u64)>,
    },
    /// Messages read, in order.
    Batch {
        /// Number and position of each.
        messages: Vec<(Seq, Lsn)>,
        /// Where to read on.
        next: Seq,
    },
    /// The number from which to read.
    Located(Seq),
    /// See [`MessageInfo`].
    MessageInfo(Box<MessageInfo>),
    /// See [`StreamInfo`].
    StreamInfo(Box<StreamInfo>),
    /// The groups of a stream, the default one first if there is one.
    Groups(Vec<GroupInfo>),
    /// Names of streams, in order of creation.
    Streams(Vec<StreamName>),
    /// Streams in order of creation.
    StreamPage {
        /// The streams.
        streams: Vec<(StreamName, StreamInfo)>,
        /// The `after` of the next page; `None` when there is nothing more.
        next: Option<StreamId>,
    },
    /// See [`ShardInfo`].
    ShardInfo(Box<ShardInfo>),
    /// Not carried out.
    Refused(Refusal),
}

/// Something that leaves the shard for one session.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The answer to the command that came with this token.
    Reply(Token, Reply),
    /// A message pushed against credit.
    Push(Delivery),
    /// The stream that a consumer draws from is gone.
    Cancelled {
        /// The consumer.
        consumer: ConsumerTag,
        /// The stream.
        stream: StreamId,
    },
}

/// Takes effects as a shard produces them.
pub trait Effects {
    /// Hands over one effect for `session`. It may leave once `gate` is passed, and never before an earlier effect of
    /// the same session.
    fn emit(&mut self, session: SessionId, gate: Gate, effect: Effect);
}

/// Where a message stands in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// Waiting to be taken.
    Ready,
    /// Not before its due time.
    Delayed,
    /// Taken by somebody.
    Held,
    /// Set aside.
    Parked,
}

/// A message as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageInfo {
    /// Its number.
    pub seq: Seq,
    /// Its stream.
    pub stream: StreamName,
    /// Where it stands.
    pub state: MessageState,
    /// Its present priority.
    pub priority: Priority,
    /// When it was published.
    pub created: Timestamp,
    /// When a delayed one becomes ready, or a held one is taken back.
    pub due: Option<Timestamp>,
    /// The delay it was published or last released with, in milliseconds.
    pub delay_ms: u64,
    /// How long it may be held, in milliseconds.
    pub ack_timeout_ms: u64,
    /// What happened to it so far.
    pub counts: Counts,
    /// What a consumer left on it; 0: nothing.
    pub mark: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// Its position in the log.
    pub position: Lsn,
}

/// What happened to a message so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times it was delivered.
    pub deliveries: u32,
    /// Times it was taken back because a deadline passed.
    pub timeouts: u32,
    /// Times it was released.
    pub releases: u32,
    /// Times it was parked.
    pub parks: u32,
    /// Times it was kicked.
    pub kicks: u32,
    /// Times a delivery of it failed.
    pub failures: u32,
}

/// A group as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its number.
    pub group: GroupId,
    /// Its name; empty for the default one.
    pub name: GroupName,
    /// Messages ready.
    pub ready: u64,
    /// Messages held by consumers.
    pub held: u64,
    /// Messages delayed.
    pub delayed: u64,
    /// Messages parked.
    pub parked: u64,
    /// Consumers that wait for a message.
    pub waiting: u64,
    /// What is left of a pause of this group alone, in milliseconds; `u64::MAX`: it has no end.
    pub pause_left_ms: u64,
}

/// A stream with its default group, if it has one, as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its number.
    pub stream: StreamId,
    /// Messages it holds.
    pub messages: u64,
    /// Bytes of subjects, ids, headers and payload it holds.
    pub bytes: u64,
    /// Messages ready.
    pub ready: u64,
    /// Of those, with a priority below 1024.
    pub urgent: u64,
    /// Messages held by consumers.
    pub held: u64,
    /// Messages delayed.
    pub delayed: u64,
    /// Messages parked.
    pub parked: u64,
    /// Messages appended since the server started.
    pub appended: u64,
    /// Messages removed by their consumers or by hand since the server started.
    pub removed: u64,
    /// Times the stream as a whole was paused since the server started.
    pub pauses: u64,
    /// Open producer links.
    pub producers: u64,
    /// Open consumer links.
    pub consumers: u64,
    /// Consumers that wait for a message.
    pub waiting: u64,
    /// The consumer that everything ready is for, if the group is dispatched to one at a time and somebody draws from
    /// it.
    pub served: Option<(SessionId, ConsumerTag)>,
    /// Length of the present pause of the stream as a whole, in milliseconds; 0: not paused, `u64::MAX`: without end.
    pub pause_ms: u64,
    /// What is left of it, in milliseconds; `u64::MAX`: it has no end.
    pub pause_left_ms: u64,
    /// The lowest number still there, or the next to be given. In a sequence space that streams share, the lowest
    /// number of all of them: no message of this one has a lower one.
    pub first: Seq,
    /// The next number to be given.
    pub next: Seq,
    /// Whether it is kept in memory only.
    pub durability: Durability,
    /// Heap bytes of what is known of its messages: where they are, unless it shares its numbers, and what their
    /// consumers have left. Not the messages themselves.
    pub index_bytes: u64,
}

/// A shard as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardInfo {
    /// Totals over all streams (of the fields that add up).
    pub totals: StreamInfo,
    /// Streams.
    pub streams: u64,
    /// Sessions attached.
    pub sessions: u64,
    /// Messages taken back because a deadline passed, since the server started.
    pub timeouts: u64,
    /// Messages appended since the server started, also to streams that are gone by now. One that goes to several
    /// streams counts for each.
    pub appended: u64,
    /// Messages handed to consumers since the server started, redeliveries included.
    pub delivered: u64,
    /// Messages removed by their consumers or by hand since the server started, also from streams that are gone by
    /// now.
    pub removed: u64,
    /// Messages dropped since the server started that were to be dead letters, because the stream for these was not
    /// there or took nothing more.
    pub dead_letters_lost: u64,
    /// Heap bytes of all indexes, ready, delayed and settled sets.
    pub index_bytes: u64,
    /// Position at the end of the log.
    pub log_end: Lsn,
    /// Why the log takes no messages, if so.
    pub trouble: Option<String>,
}
