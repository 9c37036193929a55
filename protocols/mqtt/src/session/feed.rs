//! The messages that wait for a session in streams: in the stream of each of its filters in a group of its own, or in
//! that of the share whose member it is.
//!
//! ```text
//! resume:  Open, DefineGroup, Marked, Subscribe ──▶ TakeOne for each mark, in the order of sends ──▶ Credit
//! QoS 1:   Push ──▶ PUBLISH, Mark (noted) ......... PUBACK ──▶ Ack
//! QoS 2:   Push ──▶ Mark ──▶ PUBLISH ... PUBREC ──▶ Mark ──▶ PUBREL ... PUBCOMP ──▶ Ack
//! shared:  Push ──▶ Mark ──▶ PUBLISH ... PUBREC ──▶ Duty, Ack ──▶ PUBREL ... PUBCOMP
//! ```
//!
//! A mark says under which packet id, when, at which QoS and how far a message was sent. What a client may remember, an
//! id at QoS 2, is durable before the client hears of it. Commands are gathered here and queued by whoever holds the
//! connection's lock.
//!
//! A share's messages are the share's: what a member holds when its connection ends goes to another, as new. The marks
//! on them name the member that made them, which finds them when it comes back before anybody else has taken them. One
//! that does not outlive its connection makes none. From PUBREC on a message is its member's alone, in its
//! [`State`](super::State): a [`Duty`], which the log has ahead of the acknowledgement to the share.
//!
//! What is here gathers and settles, `drawing` begins and ends with streams, `mark` is what is left on a message, `session`
//! what the session does with what comes.

mod drawing;
mod mark;
mod session;

use std::sync::Arc;

use hashbrown::HashMap;
use longtail_engine::config::GroupName;
use longtail_engine::{Command, GroupConfig, Handle, QUIET, Settle, Start, StreamConfig, Token};
use longtail_model::{ConsumerTag, GroupId, Link, Seq, StreamId};

use super::kept::Write;
use super::outbound::Copy;
use crate::codec::PacketId;
use crate::config::{ShareStrategy, Shares};

pub(super) use mark::Mark;
use mark::SEND_SHIFT;
pub(crate) use mark::{Source, sent_mark};

/// The one consumer of a session. What is taken by number counts for it too.
const CONSUMER: ConsumerTag = ConsumerTag(0);

/// What an answer of the shard is for.
#[derive(Debug)]
enum Asked {
    /// The stream of this filter was opened.
    Open(Arc<str>, Way),
    /// A step whose failure fails the subscription to this filter.
    Join(Arc<str>, Way),
    /// The group of this subscription was searched for marks.
    Marked(Drawn, Way),
    /// A share was left.
    Left(GroupId),
    /// A message that was under way was taken again.
    Taken(Mark),
    /// A share's message that hooks have chosen this member for.
    Chosen,
    /// PUBLISH may be sent.
    Publish(PacketId),
    /// PUBREL may be sent.
    Release(PacketId),
}

/// Why a stream is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The session comes back.
    Resume,
    /// It has a new subscription.
    Join,
}

/// A share that a subscription is a member of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'s> {
    name: &'s str,
    strategy: ShareStrategy,
}

impl<'s> Share<'s> {
    /// The share of this name, if there is one, as it is served.
    pub(crate) fn of(name: Option<&'s str>, shares: &Shares) -> Option<Self> {
        name.map(|name| Share {
            name,
            strategy: shares.strategy_of(name),
        })
    }
}

/// Where messages come from.
#[derive(Clone, Debug)]
struct Drawn {
    /// The text of the filter.
    text: Arc<str>,
    link: Link,
    /// Of a share: its group.
    share: Option<GroupName>,
}

/// What a session owes its client: the PUBREL of a message that was a share's, until PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duty {
    /// Of the message.
    pub(crate) id: PacketId,
    /// Its place in the order of sends.
    pub(crate) send: u64,
    /// Where the message was.
    pub(crate) group: GroupId,
    /// Its number there.
    pub(crate) seq: Seq,
}

/// What is to be written of a session's duties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DutyChange {
    /// It has one more.
    Taken(Duty),
    /// It has done the one under this id.
    Done(PacketId),
}

/// Why the session has no use for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwanted {
    /// Nobody has.
    ForAll,
    /// Another member of its share may have.
    ForMe,
}

/// Where a session keeps what is no stream's of a filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stores {
    /// The stream of QoS 2 messages that await their PUBREL.
    pub(crate) incoming: StreamId,
    /// Whether records outlive the process.
    pub(crate) has_records: bool,
}

/// A session's way to its streams, while it is connected.
#[derive(Debug)]
pub(crate) struct Feed {
    number: u64,
    group: GroupName,
    stores: Stores,
    /// By the group that a message comes from.
    groups: HashMap<GroupId, Drawn, foldhash::fast::FixedState>,
    links: u32,
    next: Token,
    asked: HashMap<Token, Asked, foldhash::fast::FixedState>,
    /// Changes of records, to be queued before the commands.
    writes: Vec<Write>,
    /// To be queued.
    commands: Vec<(Token, Command)>,
    /// To be written, ahead of `commands`.
    duties: Vec<DutyChange>,
    /// Marked messages, while they are searched for.
    found: Vec<(Mark, Source)>,
    /// Answers that have to come before anything is sent.
    resuming: usize,
    is_ready: bool,
    /// It has become ready, and the client is to be heard again.
    may_go_on: bool,
    /// How many messages may be under way, once it has been said.
    credit: Option<u32>,
    /// Messages that wait until their mark is durable.
    publishing: usize,
    /// Answers that have to come before SUBACK.
    joining: usize,
    /// Filters that could not be joined.
    failed: Vec<Arc<str>>,
    /// Streams that were opened, for the router.
    opened: Vec<(Arc<str>, StreamId)>,
    has_news: bool,
    /// Messages of shares about which hooks are to be asked.
    pub(super) unselected: Vec<Copy>,
}

/// The first token that is not given.
const UNASKED: Token = 0;

/// Messages that wait for the sessions of one filter, at most.
const BACKLOG_MESSAGES: u64 = 1_000_000;
/// Bytes of these.
const BACKLOG_BYTES: u64 = 1 << 30;

/// What the streams of filters are made of: nothing is kept that no session waits for. Beyond the limits the oldest
/// messages make room, so that sessions that never come back do not fill the disk.
pub(crate) fn stream_config() -> StreamConfig {
    StreamConfig {
        group: None,
        keep: longtail_engine::Keep::Interest,
        limits: longtail_engine::Limits {
            max_messages: BACKLOG_MESSAGES,
            max_bytes: BACKLOG_BYTES,
            ..longtail_engine::Limits::default()
        },
        overflow: longtail_engine::Overflow::DropOldest,
        ..StreamConfig::default()
    }
}

/// What a session's group in them is made of.
pub(crate) fn group_config() -> GroupConfig {
    GroupConfig {
        start: Start::Next,
        ..GroupConfig::default()
    }
}

/// The group of a share.
pub(crate) fn share_name(share: &str) -> GroupName {
    ["$share/", share].concat().into()
}

/// The group that the session with this number draws from for a subscription, of a member of `share` if there is one.
pub(crate) fn group_of(number: u64, share: Option<&str>) -> GroupName {
    share.map_or_else(|| group_name(number), share_name)
}

/// The group of the session with this number.
pub(crate) fn group_name(number: u64) -> GroupName {
    format!("{number:016x}").into()
}

impl Feed {
    pub(crate) fn new(number: u64, stores: Stores) -> Self {
        Feed {
            number,
            stores,
            group: group_name(number),
            groups: HashMap::default(),
            links: 0,
            next: UNASKED,
            asked: HashMap::default(),
            writes: Vec::new(),
            commands: Vec::new(),
            duties: Vec::new(),
            found: Vec::new(),
            resuming: 0,
            is_ready: false,
            may_go_on: false,
            credit: None,
            publishing: 0,
            joining: 0,
            failed: Vec::new(),
            opened: Vec::new(),
            has_news: false,
            unselected: Vec::new(),
        }
    }

    /// For a session that ends with its connection: it has nothing to come back to.
    pub(crate) fn passing(stores: Stores) -> Self {
        Feed {
            is_ready: true,
            ..Self::new(0, stores)
        }
    }

    /// Whether what is in flight is put on record where no stream has it.
    pub(super) fn keeps(&self) -> bool {
        self.number != 0 && self.stores.has_records
    }

    /// Changes a record.
    pub(super) fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    fn ask(&mut self, asked: Asked, command: Command) {
        self.next += 1;
        self.asked.insert(self.next, asked);
        self.commands.push((self.next, command));
    }

    fn tell(&mut self, command: Command) {
        self.commands.push((QUIET, command));
    }

    pub(super) fn ack(&mut self, source: Source) {
        let (group, seq) = (source.group, source.seq);
        match self.commands.last_mut() {
            Some((
                QUIET,
                Command::AckAll {
                    group: same,
                    messages,
                },
            )) if *same == group => {
                messages.push(seq);
            }
            Some((QUIET, command)) => {
                if let &mut Command::Settle {
                    message: Handle::Group(same, first),
                    how: Settle::Ack,
                } = command
                    && same == group
                {
                    let messages = vec![first, seq];
                    *command = Command::AckAll { group, messages };
                } else {
                    self.ack_one(source);
                }
            }
            _ => self.ack_one(source),
        }
    }

    fn ack_one(&mut self, source: Source) {
        self.tell(Command::Settle {
            message: source.handle(),
            how: Settle::Ack,
        });
    }

    /// Gives a message back: a share's, for another member.
    pub(super) fn give_back(&mut self, source: Source) {
        self.give_back_in(source, 0);
    }

    /// Likewise, for whoever draws it after so many milliseconds or asks for it by its number before.
    pub(super) fn give_back_in(&mut self, source: Source, delay_ms: u64) {
        self.tell(Command::Settle {
            message: source.handle(),
            how: Settle::Release {
                priority: None,
                delay_ms,
                failed: false,
            },
        });
    }

    /// Asks for a message of a share that hooks have chosen this member for.
    pub(super) fn take_chosen(&mut self, source: Source) {
        let take = Command::TakeOne {
            message: source.handle(),
        };
        self.ask(Asked::Chosen, take);
    }

    /// Messages that it has asked for so.
    pub(super) fn chosen(&self) -> usize {
        let chosen = |asked: &&Asked| matches!(asked, Asked::Chosen);
        self.asked.values().filter(chosen).count()
    }

    /// The subscription that a group's messages are for.
    pub(super) fn text_of(&self, group: GroupId) -> Option<&Arc<str>> {
        self.groups.get(&group).map(|drawn| &drawn.text)
    }

    /// What stands in a share's marks for the place in the order of sends: who made them.
    fn signature(&self) -> u64 {
        self.number >> SEND_SHIFT
    }

    fn mark(&mut self, source: Source, mut mark: Mark, noted: bool, asked: Option<Asked>) {
        if source.is_shared {
            mark.send = self.signature();
        }
        let mark = mark.pack();
        let command = Command::Mark {
            message: source.handle(),
            mark,
            noted,
        };
        match asked {
            Some(asked) => self.ask(asked, command),
            None if noted && self.note_too(source, mark) => {}
            None => self.tell(command),
        }
    }

    /// Adds a mark that is only noted to those that are to be queued right before it, if they are of the same group.
    fn note_too(&mut self, source: Source, mark: u64) -> bool {
        let (group, seq) = (source.group, source.seq);
        match self.commands.last_mut() {
            Some((QUIET, Command::MarkAll { group: same, marks })) if *same == group => {
                marks.push((seq, mark));
                true
            }
            Some((QUIET, command)) => {
                let &mut Command::Mark {
                    message: Handle::Group(same, first),
                    mark: its,
                    noted: true,
                } = command
                else {
                    return false;
                };
                if same == group {
                    let marks = vec![(first, its), (seq, mark)];
                    *command = Command::MarkAll { group, marks };
                }
                same == group
            }
            _ => false,
        }
    }

    /// Whether there are streams for the router, or new subscriptions are answered; once.
    pub(crate) fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// What is to be written of the session's duties, before its commands are queued.
    pub(crate) fn take_duties(&mut self) -> Vec<DutyChange> {
        std::mem::take(&mut self.duties)
    }

    /// What is to be queued at the shard, behind [`Feed::take_writes`] and [`Feed::take_duties`].
    pub(crate) fn commands(&mut self) -> &mut Vec<(Token, Command)> {
        &mut self.commands
    }

    /// Whether anything is to be queued.
    pub(crate) fn has_queued(&self) -> bool {
        !self.commands.is_empty() || !self.writes.is_empty() || !self.duties.is_empty()
    }

    /// Whether hooks are to be asked about messages.
    pub(crate) fn has_unselected(&self) -> bool {
        !self.unselected.is_empty()
    }

    /// The changes of records that are to be queued.
    pub(crate) fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    /// Whether everything that was under way has been taken up, and the client is to be heard again; once.
    pub(crate) fn may_go_on(&mut self) -> bool {
        std::mem::take(&mut self.may_go_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Qos;
    use crate::session::outbound::Stage;

    #[test]
    fn a_shares_marks_are_found_by_the_member_that_made_them() {
        let source = Source {
            group: GroupId(1),
            seq: Seq(9),
            is_shared: true,
            redeliveries: 0,
        };
        let mark = Mark {
            send: 3,
            stage: Stage::Sent,
            qos: Qos::AtLeastOnce,
            id: PacketId::new(7).unwrap(),
        };
        let number = 0x0123_4567_89AB_CDEF;
        let stores = Stores {
            incoming: StreamId(1),
            has_records: true,
        };
        let mut feed = Feed::new(number, stores);
        feed.mark(source, mark, true, None);
        let Some((_, Command::Mark { mark: packed, .. })) = feed.commands().pop() else {
            panic!("no mark");
        };
        let drawn = Drawn {
            text: "$share/g/f".into(),
            link: Link(1),
            share: Some(share_name("g")),
        };
        let mut other = Feed::new(!number, stores);
        for (feed, found) in [(&mut feed, 1), (&mut other, 0)] {
            feed.find(source.group, &drawn, &[(source.seq, packed)]);
            assert_eq!(feed.found.len(), found);
        }
        let (found, at) = feed.found[0];
        assert_eq!((found.id, found.stage), (mark.id, mark.stage));
        assert_eq!(at, source);
    }
}
