//! What a session may ask of a shard. Plain data: a command can be queued, replayed, or sent to another machine.
//!
//! Commands of one session are carried out in the order in which they were submitted and each gets exactly one
//! [`Reply`](crate::Reply), in that order, under the token it came with. A command that waits (a
//! [`Command::Take`] with nothing to take) holds back the session's later commands, as a blocking request does on the
//! wire; consumers that are fed continuously use [`Command::Credit`] instead.

use bytes::Bytes;
use longtail_model::{ConsumerTag, GroupId, Link, Priority, Seq, StreamId, Timestamp};

use crate::config::{GroupConfig, GroupName, StreamConfig, StreamName};

/// Chosen by the session to recognise the reply.
pub type Token = u64;

/// For commands whose success is of no interest: a runtime hands the session what refuses such a command, and no other
/// reply, so that nothing waits in the session's order for a success to be durable.
pub const QUIET: Token = Token::MAX;

/// A stream as a command names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The stream that the session opened under this link.
    Link(Link),
    /// The stream itself.
    Stream(StreamId),
}

/// A message to be appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// Urgency, where the group orders by priority.
    pub priority: Priority,
    /// Not delivered before this many milliseconds from now.
    pub delay_ms: u64,
    /// How long a consumer may hold the message before it is taken back, in milliseconds; 0: the group's default.
    pub ack_timeout_ms: u64,
    /// Dropped (or dead-lettered) when not settled this many milliseconds from now; `None`: never, `Some(0)`: unless
    /// somebody who waits takes it in the same step.
    pub expires_ms: Option<u64>,
    /// What it is about: tokens with `/` between them, at most [`NewMessage::TEXT_MAX`] bytes; empty: nothing is said.
    pub subject: Bytes,
    /// Names the message for whoever published it, at most [`NewMessage::TEXT_MAX`] bytes; empty: nameless.
    pub id: Bytes,
    /// What it belongs to, as a hash of whatever the protocol calls it; 0: nothing.
    pub key: u64,
    /// Encoded headers, opaque here.
    pub headers: Bytes,
    /// The body. Its allocation should hold little else: a log in memory keeps a large one by referring to it, and counts
    /// its length.
    pub payload: Bytes,
}

impl NewMessage {
    /// Longest subject and longest id, in bytes.
    pub const TEXT_MAX: usize = 65_535;

    /// What counts as the message's size: subject, id, headers and body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.subject.len() + self.id.len() + self.headers.len() + self.payload.len()) as u64
    }
}

/// A message as somebody who may hold it names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handle {
    /// By group and sequence number, as it was delivered.
    Group(GroupId, Seq),
    /// By sequence number in the sequence space that the link's stream draws from.
    Shared(Link, Seq),
}

/// How a session says what becomes of a message that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Done with: never delivered again to this group.
    Ack,
    /// Back to ready at its original position, at once or later.
    Release {
        /// `None` keeps the priority that it was taken with.
        priority: Option<Priority>,
        /// Ready again after this many milliseconds.
        delay_ms: u64,
        /// Whether this counts as a failed delivery.
        failed: bool,
    },
    /// Set aside until somebody kicks it.
    Park {
        /// `None` keeps the priority that it was taken with.
        priority: Option<Priority>,
    },
    /// Refused for good: to the group's dead-letter stream, or dropped where it has none.
    Reject,
}

/// How long a take waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this many milliseconds.
    Millis(u64),
    /// Until there is a message.
    Forever,
}

/// Who of those that draw from a group gets a message. A consumer without room gets none, whatever this says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dispatch {
    /// Whoever has waited longest.
    #[default]
    Turns,
    /// Any that waits.
    Random,
    /// The one of those that wait that holds the fewest messages, from all of its groups.
    LeastHeld,
    /// The one that began to draw first, as long as it is there; the others stand by, also while it has no room.
    Single,
    /// The one that the message's key says: messages of one key go to one consumer, in order, and wait for it while it
    /// has no room. When consumers come and go, only the keys of these move. Messages without the key are of one key.
    Pinned(KeyFrom),
}

/// Where the key of a message is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyFrom {
    /// [`NewMessage::key`].
    Key,
    /// Its subject.
    Subject,
    /// The value of the first header of this name.
    Header(std::sync::Arc<str>),
}

/// How many messages a consumer is pushed without asking for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// So many more than it may have now. A level set before does not count any more.
    Add(u32),
    /// New ones while it holds fewer than this. 0 pushes nothing more and leaves it what it holds; what was added
    /// before does not count any more.
    Level(u32),
    /// So many from now on, whatever was said before, and each is settled as it is given: nothing of it is held, nothing
    /// comes back, and no settlement is expected. What a consumer gets whose connection is gone is lost.
    Away(u32),
}

/// Which of a stream's messages to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The next to be delivered.
    Ready,
    /// The next to become ready.
    Delayed,
    /// The one set aside longest.
    Parked,
}

/// Where a group starts reading a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Start {
    /// The oldest message that is still there.
    #[default]
    First,
    /// Only what comes from now on.
    Next,
    /// The newest message, then what follows.
    Last,
    /// This sequence number, or the first after it.
    At(Seq),
    /// The first message appended at or after this moment.
    Since(Timestamp),
    /// Everything, if the stream has no group yet; else only what comes from now on.
    Backlog,
}

/// Conditions under which a stream is deleted; by default there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// No session has a link open to consume from it.
    pub unused: bool,
    /// It has no message, but for what consumers hold and no other of its groups has before it.
    pub empty: bool,
}

/// How long a pause lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Not any longer: it ends a pause.
    Now,
    /// This many milliseconds; 0 is [`Until::Now`].
    Millis(u64),
    /// Until another command ends it.
    Forever,
}

/// What an open link is for; only counted, and it keeps an auto-deleting stream alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The session publishes to the stream.
    Producer,
    /// The session consumes from the stream.
    Consumer,
}

/// What is done together or not at all.
///
/// All steps are checked first; then one frame of the log has them all, then all are applied, and only then is anything
/// delivered. A stream that is full or gone, a message that is gone or that somebody else holds, refuse the whole.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// At most [`Transaction::MAX_STEPS`], and all together no larger than a frame of the log.
    pub steps: Vec<Step>,
}

impl Transaction {
    /// Most steps of one transaction.
    pub const MAX_STEPS: usize = 10_000;
}

/// One step of a [`Transaction`]. A message that is there already is named by one step at most.
#[derive(Clone, Debug)]
pub enum Step {
    /// As [`Command::Publish`]. What another step takes out of the stream makes no room for it.
    Publish {
        /// Where to.
        to: Target,
        /// And to these as well.
        also: Vec<StreamId>,
        /// The message.
        message: NewMessage,
    },
    /// As [`Command::Settle`].
    Settle {
        /// Which.
        message: Handle,
        /// What becomes of it.
        how: Settle,
    },
    /// As [`Command::Remove`].
    Remove {
        /// The stream.
        stream: Target,
        /// The message's number there.
        seq: Seq,
    },
    /// As [`Command::Mark`], and awaited.
    Mark {
        /// Which.
        message: Handle,
        /// The number.
        mark: u64,
    },
    /// As [`Command::PutDocument`].
    Document {
        /// Its name, 1 to 1024 bytes.
        name: String,
        /// Its content; `None` removes it.
        body: Option<Bytes>,
    },
}

/// A request to a shard.
#[derive(Clone, Debug)]
pub enum Command {
    /// Opens `link` on a stream, which is created from `create` if it does not exist. Reply: `Opened`; refused as
    /// `Exists` when the stream has another numbering than `create` says.
    Open {
        /// The session's number for it; a link in use is moved to the new stream.
        link: Link,
        /// The stream.
        name: StreamName,
        /// What it is created from; `None`: refused as `NotFound` when it does not exist.
        create: Option<Box<StreamConfig>>,
        /// What for.
        role: Role,
    },
    /// Closes a link. Reply: `Done`.
    Close {
        /// Which.
        link: Link,
    },
    /// Appends a message to one stream or, as one atomic step with one copy of the body, to several.
    /// A stream that is full or gone does not take it, the others do. Reply: `Published`, which says where it did not
    /// go; refused when no stream takes it, with the reason of the first.
    Publish {
        /// Where to.
        to: Target,
        /// And to these as well.
        also: Vec<StreamId>,
        /// The message.
        message: NewMessage,
    },
    /// As [`Command::Publish`], if somebody who waits in one of these streams is given the message in the same step:
    /// `NotFound`, and it is nowhere, when nobody is. Whether somebody is, is seen and acted upon as one: no other command
    /// comes between. The streams where nobody waits take it too; who waits at a stream that is full counts.
    Offer {
        /// Where to.
        to: Target,
        /// And to these as well.
        also: Vec<StreamId>,
        /// The message. One with a delay is for nobody now.
        message: NewMessage,
    },
    /// Does several things as one. Reply: `Transacted`; refused as [`Refusal::Step`](crate::Refusal::Step) when a step
    /// cannot be done.
    Transact(Box<Transaction>),
    /// Adds a group of a stream to those that a consumer draws from. Reply: `Done`, or `NotFound` when the stream
    /// has no such group.
    Subscribe {
        /// The session's consumer.
        consumer: ConsumerTag,
        /// The stream.
        link: Link,
        /// The group; `""` is the default one.
        group: GroupName,
    },
    /// Takes it away again. Reply: `Done`. A consumer that draws from no group and holds nothing is forgotten, with its
    /// credit and priority.
    Unsubscribe {
        /// The session's consumer.
        consumer: ConsumerTag,
        /// The stream.
        link: Link,
        /// The group.
        group: GroupName,
    },
    /// Says how a group is dispatched, until the last consumer leaves it. Not logged: whoever draws from a group says so
    /// before. Reply: `Done`, or `NotFound`; refused as [`Refusal::Unsupported`](crate::Refusal::Unsupported) where a
    /// group by priority is to be pinned.
    Dispatch {
        /// The stream.
        stream: Target,
        /// The group; `""` is the default one.
        group: GroupName,
        /// How.
        how: Dispatch,
    },
    /// Takes the best message (by priority, then sequence) of all groups that the consumer draws from.
    /// Reply: `Delivered`, or `TimedOut`, or `DeadlineSoon`; `NotFound` when it draws from no group, or no longer.
    Take {
        /// The session's consumer.
        consumer: ConsumerTag,
        /// How long to wait for one.
        wait: Wait,
        /// Answer `DeadlineSoon` when there is nothing to take and a message that the session holds will be taken
        /// back within this many milliseconds; 0: never.
        deadline_margin_ms: u64,
    },
    /// Takes one message whatever its place, if nobody holds it. Reply: `Delivered` or `NotFound`.
    TakeOne {
        /// Which.
        message: Handle,
    },
    /// Lets the consumer have messages, pushed as they become ready. Reply: `Done`; deliveries follow outside the
    /// order of replies.
    Credit {
        /// The session's consumer.
        consumer: ConsumerTag,
        /// How many.
        credit: Credit,
    },
    /// Says how urgent it is that the consumer gets something: while one with a higher number waits at a group, one with
    /// a lower number gets nothing of it. 0 until this is said. Reply: `Done`.
    Prefer {
        /// The session's consumer.
        consumer: ConsumerTag,
        /// The higher, the sooner.
        priority: i32,
    },
    /// Settles a message that the session holds. Reply: `Done` or `NotFound`.
    Settle {
        /// Which.
        message: Handle,
        /// What becomes of it.
        how: Settle,
    },
    /// As [`Settle::Ack`] for several messages of a group; those that the session does not hold are left out. What a
    /// consumer has room for then comes behind all of them. Reply: `Done`.
    AckAll {
        /// The group.
        group: GroupId,
        /// Which of its messages.
        messages: Vec<Seq>,
    },
    /// As [`Settle::Release`] for several messages of a group, each with the priority that it was taken with; those that
    /// the session does not hold are left out. They come back as one: what is then too much for the stream goes before
    /// any of them is shown to those who wait. Reply: `Done`.
    ReleaseAll {
        /// The group.
        group: GroupId,
        /// Which of its messages.
        messages: Vec<Seq>,
        /// Ready again after this many milliseconds.
        delay_ms: u64,
        /// Whether this counts as a failed delivery of each.
        failed: bool,
    },
    /// Removes a message that the session holds, or that nobody holds. Reply: `Done` or `NotFound`.
    Discard {
        /// Which.
        message: Handle,
    },
    /// Leaves a number on a message that the session holds; every later delivery of it to the group shows it as
    /// [`Delivery::mark`](crate::Delivery::mark), until it is settled. Reply: `Done` or `NotFound`.
    Mark {
        /// Which.
        message: Handle,
        /// The number, which means nothing here; 0 takes a mark away.
        mark: u64,
        /// Written with whatever is written next, and the answer does not wait for that: a crash may take the mark
        /// back. Otherwise the answer waits until it is durable.
        noted: bool,
    },
    /// As [`Command::Mark`], noted, for several messages of a group; those that the session does not hold are left out.
    /// Reply: `Done`.
    MarkAll {
        /// The group.
        group: GroupId,
        /// Which of its messages, each with its number.
        marks: Vec<(Seq, u64)>,
    },
    /// The messages of a group that have a mark and that nobody holds, by number, at most 65,535. Reply: `Marked`, or
    /// `NotFound` when the stream has no such group.
    Marked {
        /// The stream.
        stream: Target,
        /// The group; `""` is the default one.
        group: GroupName,
    },
    /// Removes a message from its stream and all its groups, whoever holds it: a holder is not told, and its
    /// settlement finds nothing. Reply: `Done` or `NotFound`.
    Remove {
        /// The stream.
        stream: Target,
        /// The message's number there.
        seq: Seq,
    },
    /// Restarts the acknowledgement deadline of a held message. Reply: `Done` or `NotFound`.
    Extend {
        /// Which.
        message: Handle,
        /// The new time from now in milliseconds; `None`: the one it was taken with.
        ms: Option<u64>,
    },
    /// Looks at a message without taking it. Reply: `Peeked` or `NotFound`.
    Peek {
        /// Which.
        message: Handle,
    },
    /// Looks at the head of a group. Reply: `Peeked` or `NotFound`.
    PeekHead {
        /// The stream.
        stream: Target,
        /// The group.
        group: GroupName,
        /// Which head.
        which: Which,
    },
    /// Makes up to `max` parked messages of a group ready or, when there are none, delayed ones. Reply: `Count`, or
    /// `NotFound` when the stream has no such group.
    Kick {
        /// The stream.
        stream: Target,
        /// The group.
        group: GroupName,
        /// At most this many.
        max: u64,
    },
    /// Makes one parked or delayed message ready. Reply: `Done` or `NotFound`.
    KickOne {
        /// Which.
        message: Handle,
    },
    /// Delivers nothing from a stream, or from one of its groups, for a while. It takes the place of the pause that
    /// there is. Reply: `Done` or `NotFound`.
    Pause {
        /// The stream.
        stream: StreamName,
        /// The group; `None`: all that the stream has and gets. The two are paused independently of each other.
        group: Option<GroupName>,
        /// For how long.
        until: Until,
        /// Whether it outlives a restart.
        durable: bool,
    },
    /// Removes everything from a stream, or settles everything for one of its groups. Reply: `Count`, or `NotFound`.
    Purge {
        /// The stream.
        stream: StreamName,
        /// The group; `None`: the stream itself.
        group: Option<GroupName>,
        /// Whether what consumers hold goes as well: their settlements then find nothing.
        held: bool,
    },
    /// Creates a stream, durably. Reply: `Done`, or `Exists` when one with another configuration is there.
    Define {
        /// Its name.
        name: StreamName,
        /// Its configuration.
        config: Box<StreamConfig>,
    },
    /// Gives a stream, and its default group, other settings, durably and at once: what is there already goes by them
    /// too, and what is too much for tighter limits makes room, some of it later. Reply: `Done` or `NotFound`; refused as
    /// [`Refusal::Unsupported`](crate::Refusal::Unsupported) when something else than limits, overflow, times, counts
    /// and dead letters would change.
    Redefine {
        /// Its name.
        name: StreamName,
        /// Its configuration.
        config: Box<StreamConfig>,
    },
    /// Removes a stream with all its messages. Reply: `Done` or `NotFound`; refused as
    /// [`Refusal::Unmet`](crate::Refusal::Unmet) when a condition does not hold.
    Delete {
        /// Its name.
        name: StreamName,
        /// Under which conditions.
        only: Only,
    },
    /// Adds a group to a stream, durably. Reply: `Done`, or `Exists` when one with another configuration is
    /// there.
    DefineGroup {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
        /// Its configuration.
        config: Box<GroupConfig>,
    },
    /// Removes a group, the default one too unless the stream shares its numbers. Reply: `Done` or `NotFound`.
    DeleteGroup {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
    },
    /// Reads messages in sequence order without consuming. Reply: `Batch`.
    Read {
        /// The stream.
        name: StreamName,
        /// From this sequence number on.
        from: Seq,
        /// At most this many messages.
        max: u32,
        /// Stop after this many bytes of payload (at least one message is read).
        max_bytes: u64,
        /// With nothing to read, wait this long for something.
        wait: Wait,
    },
    /// Looks for the number from which [`Command::Read`] gives what `start` says, found by halving, not by reading on.
    /// Reply: `Located`, or `NotFound`.
    Locate {
        /// The stream.
        name: StreamName,
        /// From where.
        start: Start,
    },
    /// Writes or, with no body, removes a document of the catalog, durably. Reply: `Done`.
    PutDocument {
        /// Its name, 1 to 1024 bytes.
        name: String,
        /// Its content.
        body: Option<Bytes>,
    },
    /// Reply: `MessageInfo` or `NotFound`.
    DescribeMessage {
        /// Which.
        message: Handle,
    },
    /// Reply: `StreamInfo` or `NotFound`.
    DescribeStream {
        /// Its name.
        name: StreamName,
    },
    /// Reply: `Groups` or `NotFound`.
    DescribeGroups {
        /// The stream.
        stream: StreamName,
    },
    /// Reply: `Streams`: what exists in a space, in order of creation.
    ListStreams {
        /// The space; `None`: all of them.
        space: Option<std::sync::Arc<str>>,
    },
    /// Reply: `StreamPage`: what exists in a space with all that is known of it, in order of creation.
    DescribeStreams {
        /// The space; `None`: all of them.
        space: Option<std::sync::Arc<str>>,
        /// Only streams created after this one; `None`: from the beginning.
        after: Option<StreamId>,
        /// At most this many; the shard may answer with fewer although there are more.
        limit: u32,
    },
    /// Reply: `ShardInfo`.
    DescribeShard,
}

impl Command {
    /// What a session asks for, in this order, to be pushed the messages of a stream's default group, at most `window` at a
    /// time. The stream is made from `create` if it does not exist, see [`Command::Open`].
    #[must_use]
    pub fn draw(
        name: StreamName,
        create: Option<Box<StreamConfig>>,
        link: Link,
        consumer: ConsumerTag,
        window: u32,
    ) -> [Command; 3] {
        [
            Command::Open {
                link,
                name,
                create,
                role: Role::Consumer,
            },
            Command::Subscribe {
                consumer,
                link,
                group: "".into(),
            },
            Command::Credit {
                consumer,
                credit: Credit::Level(window),
            },
        ]
    }
}
