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

use std::sync::Arc;

use hashbrown::HashMap;
use longtail_broker::auth::Action as Right;
use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::SharedMessage;
use longtail_broker::stored::Stored;
use longtail_engine::config::GroupName;
use longtail_engine::{
    Command, Credit, Delivery, Dispatch, GroupConfig, Handle, Message, QUIET, Refusal, Reply, Role,
    Settle, Start, StreamConfig, StreamName, Target, Token,
};
use longtail_model::{ConsumerTag, GroupId, Link, Seq, StreamId, SubjectRef};

use super::kept::{Origin, Write, origin_of};
use super::outbound::{Copy, Stage};
use super::sending::wanted;
use super::{Cx, Outbox, Session, Tag};
use crate::codec::{Ack, Packet, PacketId, Qos};
use crate::config::{ShareStrategy, Shares};
use crate::durable::recent::Recent;
use crate::hooks::Points;

/// Where a message that is on its way came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(super) group: GroupId,
    pub(super) seq: Seq,
    /// Whether the group is a share's.
    pub(super) is_shared: bool,
    /// How often it was delivered before.
    pub(super) redeliveries: u32,
}

impl Source {
    /// The message of a share with this number.
    #[cfg(test)]
    pub(super) fn of_share(seq: u64) -> Self {
        Source {
            group: GroupId(1),
            seq: Seq(seq),
            is_shared: true,
            redeliveries: 0,
        }
    }

    fn handle(self) -> Handle {
        Handle::Group(self.group, self.seq)
    }

    /// Whether a message that this client cannot have goes to another member of its share.
    pub(super) fn is_given_back(self) -> bool {
        self.is_shared && self.redeliveries < REFUSALS_MAX
    }
}

/// The one consumer of a session. What is taken by number counts for it too.
const CONSUMER: ConsumerTag = ConsumerTag(0);

/// The number that is left on a message: place in the order of sends, stage and QoS, packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) send: u64,
    pub(super) stage: Stage,
    /// At which it was sent, 1 or 2, whatever the subscription says by now.
    pub(super) qos: Qos,
    pub(super) id: PacketId,
}

/// How often a share's message is delivered before a member that cannot have it takes it for delivered: by then every
/// other has had its turn.
const REFUSALS_MAX: u32 = 100;

const STAGE_SHIFT: u32 = 16;
const SEND_SHIFT: u32 = 18;

impl Mark {
    fn pack(self) -> u64 {
        let stage: u64 = match (self.stage, self.qos) {
            (Stage::Sent, Qos::AtMostOnce | Qos::AtLeastOnce) => 1,
            (Stage::Released, _) => 2,
            (Stage::Sent, Qos::ExactlyOnce) => 3,
        };
        self.send << SEND_SHIFT | stage << STAGE_SHIFT | u64::from(self.id.get())
    }

    fn unpack(mark: u64) -> Option<Self> {
        let (stage, qos) = match mark >> STAGE_SHIFT & 3 {
            1 => (Stage::Sent, Qos::AtLeastOnce),
            2 => (Stage::Released, Qos::ExactlyOnce),
            3 => (Stage::Sent, Qos::ExactlyOnce),
            _ => return None,
        };
        Some(Mark {
            send: mark >> SEND_SHIFT,
            stage,
            qos,
            id: PacketId::new((mark & 0xFFFF) as u16)?,
        })
    }
}

/// The packet id and the QoS of a message that was sent, as its mark says; nothing of one that was not, or whose PUBLISH
/// has arrived.
pub(crate) fn sent_mark(mark: u64) -> Option<(PacketId, Qos)> {
    let mark = Mark::unpack(mark)?;
    Some((mark.id, mark.qos))
}

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

/// Answers that come before a stream is drawn from.
const DRAWING: usize = 4;

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

    /// Opens the stream of a filter and draws from it. Answers: [`DRAWING`].
    fn draw(&mut self, text: &Arc<str>, name: &StreamName, share: Option<Share<'_>>, way: Way) {
        self.links += 1;
        let link = Link(self.links);
        let how = share.map_or(Dispatch::Turns, |share| share.strategy.of_group());
        let share = share.map(|share| share_name(share.name));
        let group = share.as_ref().unwrap_or(&self.group).clone();
        let drawn = Drawn {
            text: Arc::clone(text),
            link,
            share,
        };
        self.ask(
            Asked::Open(Arc::clone(text), way),
            Command::Open {
                link,
                name: name.clone(),
                create: Some(Box::new(stream_config())),
                role: Role::Consumer,
            },
        );
        self.ask(
            Asked::Join(Arc::clone(text), way),
            Command::DefineGroup {
                stream: name.clone(),
                group: group.clone(),
                config: Box::new(group_config()),
            },
        );
        if how != Dispatch::Turns {
            // Every member says the same. That there is such a group is said above.
            self.tell(Command::Dispatch {
                stream: Target::Link(link),
                group: group.clone(),
                how,
            });
        }
        self.ask(
            Asked::Marked(drawn, way),
            Command::Marked {
                stream: Target::Link(link),
                group: group.clone(),
            },
        );
        self.ask(
            Asked::Join(Arc::clone(text), way),
            Command::Subscribe {
                consumer: CONSUMER,
                link,
                group,
            },
        );
        // A consumer that draws from nothing is forgotten, and its credit with it.
        self.say_credit();
    }

    fn say_credit(&mut self) {
        if let Some(window) = self.credit {
            self.tell(Command::Credit {
                consumer: CONSUMER,
                credit: Credit::Level(window),
            });
        }
    }

    /// Draws from the stream of a filter again, and looks for what was under way.
    pub(crate) fn resume(&mut self, text: &Arc<str>, name: &StreamName, share: Option<Share<'_>>) {
        self.draw(text, name, share, Way::Resume);
        self.resuming += DRAWING;
    }

    /// Draws from the stream of a new subscription; [`Feed::has_joined`] says when.
    pub(crate) fn join(&mut self, text: &Arc<str>, name: &StreamName, share: Option<Share<'_>>) {
        self.draw(text, name, share, Way::Join);
        self.joining += DRAWING;
    }

    /// The groups that the subscription with this text draws from.
    pub(super) fn groups_of(&self, text: &str) -> Vec<GroupId> {
        let groups = self.groups.iter();
        groups
            .filter(|(_, drawn)| *drawn.text == *text)
            .map(|(group, _)| *group)
            .collect()
    }

    /// Draws no more for a subscription that has ended. Unless it `is_done` with what it holds, that is finished.
    pub(super) fn leave(&mut self, text: &str, is_done: bool) {
        for group in self.groups_of(text) {
            let Some(drawn) = self.groups.get(&group).cloned() else {
                continue;
            };
            let unsubscribe = Command::Unsubscribe {
                consumer: CONSUMER,
                link: drawn.link,
                group: drawn.share.unwrap_or_else(|| self.group.clone()),
            };
            if is_done {
                self.groups.remove(&group);
                self.tell(unsubscribe);
            } else {
                self.ask(Asked::Left(group), unsubscribe);
            }
            self.tell(Command::Close { link: drawn.link });
        }
    }

    /// Whether every new subscription is answered.
    pub(crate) fn has_joined(&self) -> bool {
        self.joining == 0
    }

    /// Filters that could not be joined.
    pub(crate) fn take_failed(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.failed)
    }

    /// Streams that were opened since this was last asked.
    pub(crate) fn take_opened(&mut self) -> Vec<(Arc<str>, StreamId)> {
        std::mem::take(&mut self.opened)
    }

    /// Whether there are streams for the router, or new subscriptions are answered; once.
    pub(crate) fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Marked messages of a group, while the session comes back: those whose marks it made.
    fn find(&mut self, group: GroupId, drawn: &Drawn, messages: &[(Seq, u64)]) {
        let is_shared = drawn.share.is_some();
        let signature = self.signature();
        let known = messages.iter().filter_map(|(seq, mark)| {
            let mut mark = Mark::unpack(*mark)?;
            if is_shared {
                if mark.send != signature {
                    return None;
                }
                // Whatever the place was among all sends, of one share's they ascend.
                mark.send = seq.0;
            }
            let source = Source {
                group,
                seq: *seq,
                is_shared,
                redeliveries: 0,
            };
            Some((mark, source))
        });
        self.found.extend(known);
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

impl Session {
    /// Its way to the streams, if it is a session that outlives its connection.
    pub(crate) fn feed_mut(&mut self) -> Option<&mut Feed> {
        self.feed.as_deref_mut()
    }

    /// Whether messages wait for it in streams.
    pub(crate) fn is_lasting(&self) -> bool {
        self.state.number != 0
    }

    /// Whether it still takes up what was under way when it was last connected. The client is heard when that is done:
    /// what it says may be about that.
    pub(crate) fn is_resuming(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| !feed.is_ready)
    }

    /// A session that ends with its connection becomes a member of a share: it needs a way to the streams as well.
    pub(crate) fn equip(&mut self, stores: Stores) {
        self.feed
            .get_or_insert_with(|| Box::new(Feed::passing(stores)));
    }

    /// An answer of the shard.
    pub(crate) fn answered(
        &mut self,
        token: Token,
        reply: &Reply,
        message: Option<&Message<'_>>,
        recent: &Recent,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        let Some(asked) = feed.asked.remove(&token) else {
            return;
        };
        let refused = matches!(reply, Reply::Refused(_) | Reply::NotFound);
        if let Reply::Refused(refusal) = reply {
            tracing::warn!(client = %self.hello.client_id, %refusal, "a shard refuses a session");
        }
        let way = match asked {
            Asked::Open(text, way) => {
                match reply {
                    Reply::Opened { stream } => {
                        feed.opened.push((text, *stream));
                        feed.has_news = true;
                    }
                    _ => feed.failed.push(text),
                }
                way
            }
            Asked::Join(text, way) => {
                if refused {
                    feed.failed.push(text);
                }
                way
            }
            Asked::Marked(drawn, way) => {
                if let Reply::Marked { group, messages } = reply {
                    if way == Way::Resume {
                        feed.find(*group, &drawn, messages);
                    }
                    feed.groups.insert(*group, drawn);
                } else {
                    feed.failed.push(drawn.text);
                }
                way
            }
            Asked::Left(group) => {
                feed.groups.remove(&group);
                return;
            }
            Asked::Taken(mark) => {
                if let (Reply::Delivered(delivery), Some(message)) = (reply, message) {
                    self.revive(delivery, mark, message, recent);
                }
                Way::Resume
            }
            Asked::Chosen => {
                if let (Reply::Delivered(delivery), Some(message)) = (reply, message) {
                    self.chosen(delivery, message, recent, cx, out);
                }
                return;
            }
            Asked::Publish(id) => {
                feed.publishing = feed.publishing.saturating_sub(1);
                // Without a mark nothing is promised: it is sent when the session comes back.
                if !refused {
                    self.publish_marked(id, cx, out);
                }
                return;
            }
            Asked::Release(id) => {
                // Where the group has gone with its subscription, nobody else can have it either.
                let is_gone = matches!(reply, Reply::NotFound | Reply::Refused(Refusal::Gone));
                if (is_gone || !refused) && self.is_open() {
                    self.say(&Packet::Pubrel(Ack::success(id)), out);
                }
                return;
            }
        };
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        match way {
            Way::Resume => {
                feed.resuming = feed.resuming.saturating_sub(1);
                self.resumed(cx, out);
            }
            Way::Join => {
                feed.joining = feed.joining.saturating_sub(1);
                if feed.joining == 0 {
                    feed.has_news = true;
                    self.give_credit();
                }
            }
        }
    }

    /// Goes on with what was under way when the session was last connected, or begins with what is new.
    pub(crate) fn resumed(&mut self, cx: &Cx<'_>, out: &mut impl Outbox) {
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        if feed.resuming > 0 || feed.is_ready {
            return;
        }
        if !feed.found.is_empty() {
            let mut found = std::mem::take(&mut feed.found);
            // Those of shares last: an id that something else goes by is not theirs.
            found.sort_unstable_by_key(|(mark, source)| (source.is_shared, *mark));
            feed.resuming = found.len();
            for (mark, source) in found {
                let take = Command::TakeOne {
                    message: source.handle(),
                };
                feed.ask(Asked::Taken(mark), take);
            }
            return;
        }
        feed.is_ready = true;
        feed.may_go_on = true;
        self.state.outbound.resume();
        self.give_credit();
        self.pump(cx, out);
    }

    /// Asks for messages, once everything that was under way is taken up and the client has its CONNACK.
    pub(super) fn give_credit(&mut self) {
        let window = u32::from(self.window);
        let is_open = self.is_open();
        if let Some(feed) = self.feed.as_deref_mut()
            && is_open
            && feed.is_ready
            && feed.credit.is_none()
            && !feed.groups.is_empty()
        {
            feed.credit = Some(window);
            feed.say_credit();
        }
    }

    /// A message that was under way on an earlier connection.
    fn revive(&mut self, delivery: &Delivery, mark: Mark, message: &Message<'_>, recent: &Recent) {
        let source = self.source(delivery);
        if self.state.outbound.is_in_use(mark.id) {
            if self.is_kept(mark, source) {
                // A crash came before the group had heard of it.
                self.done_with(source);
            } else if source.is_shared {
                // Not under an id that something else goes by.
                self.refuse(source);
            } else if let Some(feed) = self.feed.as_deref_mut() {
                // Nor this: it comes as a new one.
                feed.give_back(source);
            }
            return;
        }
        let copy = match self.copy_of(delivery, message, recent, None) {
            Ok(copy) => Some(Copy {
                qos: mark.qos,
                ..copy
            }),
            Err(_) if mark.stage == Stage::Released => None,
            Err(Unwanted::ForMe) => return self.refuse(source),
            Err(Unwanted::ForAll) => return self.done_with(source),
        };
        self.state.outbound.revive(mark, copy, source);
    }

    /// Whether a marked message is one that is on record as well.
    fn is_kept(&self, mark: Mark, source: Source) -> bool {
        let origin = self.origin(source);
        self.state.outbound.is_kept(mark, origin.as_ref())
    }

    /// The place of a share's message.
    fn origin(&self, source: Source) -> Option<Origin> {
        let drawn = self.feed.as_ref()?.groups.get(&source.group)?;
        origin_of(&drawn.text, source)
    }

    fn source(&self, delivery: &Delivery) -> Source {
        let drawn = (self.feed.as_ref()).and_then(|feed| feed.groups.get(&delivery.group));
        Source {
            group: delivery.group,
            seq: delivery.seq,
            is_shared: drawn.is_some_and(|drawn| drawn.share.is_some()),
            redeliveries: delivery.redeliveries,
        }
    }

    /// The client cannot have a message, which is done with; a share's is for another member, if there is one who can.
    pub(super) fn refuse(&mut self, source: Source) {
        match self.feed.as_deref_mut() {
            Some(feed) if source.is_given_back() => feed.give_back(source),
            _ => self.done_with(source),
        }
    }

    /// The message for the client, if its subscription wants it. Without `cx`, it was sent before, and the client has
    /// only to be allowed it.
    fn copy_of(
        &mut self,
        delivery: &Delivery,
        message: &Message<'_>,
        recent: &Recent,
        cx: Option<&Cx<'_>>,
    ) -> Result<Copy, Unwanted> {
        let drawn = (self.feed.as_ref()).and_then(|feed| feed.groups.get(&delivery.group));
        let held = drawn.and_then(|drawn| self.state.subscriptions.get(&drawn.text));
        let options = held.ok_or(Unwanted::ForMe)?.options;
        let tag = Tag::unpack(options.tag);
        let whole = recent.get_or_read(delivery.stream, delivery.seq, || {
            let payload = bytes::Bytes::copy_from_slice(message.payload);
            let stored = Stored::of(message);
            let whole = stored.to_message(payload, message.created, message.expires);
            whole.map(Arc::new)
        });
        if cx.is_some() && options.no_local && Stored::of(message).origin == self.origin {
            return Err(Unwanted::ForMe);
        }
        let Ok(whole) = whole else {
            if let Some(cx) = cx {
                self.state.drop_messages(cx, DropReason::TooLarge, 1);
            }
            return Err(Unwanted::ForAll);
        };
        let subject = SubjectRef::from(&whole.subject);
        if tag.screened && !self.grants.allows_in(Right::Consume, subject, tag.manner()) {
            if let Some(cx) = cx
                && !self.source(delivery).is_given_back()
            {
                self.lose(&whole, DropReason::Denied, cx);
            }
            return Err(Unwanted::ForMe);
        }
        if let Some(cx) = cx
            && whole.is_expired(cx.now)
        {
            self.lose(&whole, DropReason::Expired, cx);
            return Err(Unwanted::ForAll);
        }
        let wanted = wanted(&whole, tag);
        Ok(Copy {
            message: whole,
            qos: wanted.qos,
            retain: wanted.retain,
            ids: wanted.ids,
            source: Some(self.source(delivery)),
        })
    }

    /// A message from a stream is not for the client after all.
    pub(super) fn lose(&mut self, message: &SharedMessage, reason: DropReason, cx: &Cx<'_>) {
        self.state.drop_messages(cx, reason, 1);
        self.tell_dropped(message, reason);
    }

    /// A message from one of its streams.
    pub(crate) fn pushed(
        &mut self,
        delivery: &Delivery,
        message: Option<&Message<'_>>,
        recent: &Recent,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let source = self.source(delivery);
        let Some(message) = message else {
            // The shard has reported it; it stays held until the connection ends.
            return;
        };
        if !self.is_open() {
            return;
        }
        let copy = match self.copy_of(delivery, message, recent, Some(cx)) {
            Ok(copy) => copy,
            Err(Unwanted::ForMe) => return self.refuse(source),
            Err(Unwanted::ForAll) => return self.done_with(source),
        };
        if source.is_shared && self.hooked.wants(Points::SELECT).is_some() {
            if let Some(feed) = self.feed.as_deref_mut() {
                feed.unselected.push(copy);
            }
            return;
        }
        self.take(copy, source, cx, out);
    }

    /// A message that is for the client.
    fn take(&mut self, copy: Copy, source: Source, cx: &Cx<'_>, out: &mut impl Outbox) {
        if copy.qos == Qos::AtMostOnce {
            let put = if out.is_full() {
                Err(DropReason::OutboxFull)
            } else {
                self.put_plain(&copy, cx, out)
            };
            if put.is_err() && source.is_given_back() {
                return self.refuse(source);
            }
            if let Err(reason) = put {
                self.lose(&copy.message, reason, cx);
            }
            self.done_with(source);
            return;
        }
        let outbound = &self.state.outbound;
        if outbound.is_clear(self.window) && (!out.is_full() || outbound.is_idle()) {
            if let Err((reason, message)) = self.send_assured(copy, cx, out)
                && !source.is_given_back()
            {
                self.lose(&message, reason, cx);
            }
        } else {
            // As many as there is credit for.
            self.state.outbound.wait(copy);
        }
    }

    /// A message of a share that hooks have chosen this member for, or have left to it.
    pub(crate) fn take_selected(&mut self, copy: Copy, cx: &Cx<'_>, out: &mut impl Outbox) {
        if let Some(source) = copy.source.filter(|_| self.is_open()) {
            self.take(copy, source, cx, out);
        }
    }

    /// A message of a share that this member has asked for by its number has come.
    fn chosen(
        &mut self,
        delivery: &Delivery,
        message: &Message<'_>,
        recent: &Recent,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let source = self.source(delivery);
        if !self.is_open() {
            return;
        }
        match self.copy_of(delivery, message, recent, Some(cx)) {
            Ok(copy) => self.take(copy, source, cx, out),
            Err(Unwanted::ForMe) => self.refuse(source),
            Err(Unwanted::ForAll) => self.done_with(source),
        }
    }

    /// Removes a QoS 2 message that awaited its PUBREL.
    pub(super) fn forget_incoming(&mut self, seq: Seq) {
        if let Some(feed) = self.feed.as_deref_mut() {
            let stream = Target::Stream(feed.stores.incoming);
            feed.tell(Command::Remove { stream, seq });
        }
    }

    /// The message is done with.
    pub(super) fn done_with(&mut self, source: Source) {
        if let Some(feed) = self.feed.as_deref_mut() {
            feed.ack(source);
        }
    }

    /// What the window let go.
    pub(super) fn settle_landed(&mut self) {
        while let Some(source) = self.state.outbound.take_landed() {
            self.done_with(source);
        }
        while let Some(id) = self.state.outbound.take_forgotten() {
            if let Some(feed) = self.feed.as_deref_mut() {
                feed.write(Write::Forget(id));
            }
        }
        while let Some(id) = self.state.outbound.take_fulfilled() {
            if let Some(feed) = self.feed.as_deref_mut() {
                feed.duties.push(DutyChange::Done(id));
            }
        }
    }

    /// The message under `id` cannot be sent on this connection.
    pub(super) fn give_up(&mut self, id: PacketId) {
        if let Some(source) = self.state.outbound.give_up(id) {
            self.refuse(source);
        }
        self.settle_landed();
    }

    /// Whether a message of this QoS has to wait for its mark: at QoS 2 it has to be durable, and at QoS 1 messages do
    /// not overtake those.
    pub(super) fn waits_for_mark(&self, qos: Qos) -> bool {
        let feed = self.feed.as_ref().filter(|_| self.is_lasting());
        feed.is_some_and(|feed| qos == Qos::ExactlyOnce || feed.publishing > 0)
    }

    /// Leaves a mark on a message that was given `id`; with `waits`, the PUBLISH waits for it.
    pub(super) fn mark_sent(&mut self, id: PacketId, source: Source, qos: Qos, waits: bool) {
        if !self.is_lasting() {
            // Nobody comes back to it.
            return;
        }
        let send = self.state.outbound.sends();
        let mark = Mark {
            send,
            stage: Stage::Sent,
            qos,
            id,
        };
        if let Some(feed) = self.feed.as_deref_mut() {
            let asked = waits.then_some(Asked::Publish(id));
            feed.publishing += usize::from(waits);
            let noted = qos != Qos::ExactlyOnce;
            feed.mark(source, mark, noted, asked);
        }
    }

    /// PUBREC has come: PUBREL follows when that is durable. `false`: nothing is to be durable of it.
    pub(super) fn mark_released(&mut self, id: PacketId) -> bool {
        let Some((source, send)) = self.state.outbound.source(id) else {
            if self.keep_released(id) {
                return true;
            }
            // Said once more: PUBREL is on its way already.
            let due = |asked: &Asked| matches!(asked, Asked::Release(due) if *due == id);
            let feed = self.feed.as_ref();
            return feed.is_some_and(|feed| feed.asked.values().any(due));
        };
        if source.is_shared {
            return self.finish_share(id, source, send);
        }
        let mark = Mark {
            send,
            stage: Stage::Released,
            qos: Qos::ExactlyOnce,
            id,
        };
        match self.feed.as_deref_mut() {
            Some(feed) => {
                feed.mark(source, mark, false, Some(Asked::Release(id)));
                true
            }
            None => false,
        }
    }

    /// A share's message is this member's from now on: when that is known to the log, and the share is done with it,
    /// PUBREL follows. The log has both in this order, and nothing durable has gaps.
    fn finish_share(&mut self, id: PacketId, source: Source, send: u64) -> bool {
        let is_lasting = self.is_lasting();
        self.state.outbound.own(id, is_lasting);
        let Some(feed) = self.feed.as_deref_mut() else {
            return false;
        };
        if is_lasting {
            feed.duties.push(DutyChange::Taken(Duty {
                id,
                send,
                group: source.group,
                seq: source.seq,
            }));
        }
        let settle = Command::Settle {
            message: source.handle(),
            how: Settle::Ack,
        };
        feed.ask(Asked::Release(id), settle);
        true
    }

    /// The mark of a message at QoS 2 is durable.
    fn publish_marked(&mut self, id: PacketId, cx: &Cx<'_>, out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        let Some(copy) = self.state.outbound.copy(id) else {
            return;
        };
        if let Err(reason) = self.put_copy(&copy, id, false, cx, out) {
            if !copy.source.is_some_and(Source::is_given_back) {
                self.lose(&copy.message, reason, cx);
            }
            self.give_up(id);
            self.pump(cx, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_marks_sort_by_sends() {
        let mark = |send, stage, id| Mark {
            send,
            stage,
            qos: Qos::ExactlyOnce,
            id: PacketId::new(id).unwrap(),
        };
        let first = mark(1, Stage::Released, 65_535);
        let second = mark(2, Stage::Sent, 1);
        let at_qos_1 = Mark {
            qos: Qos::AtLeastOnce,
            ..second
        };
        let last = mark((1 << 46) - 1, Stage::Sent, 7);
        for mark in [first, second, at_qos_1, last] {
            assert_eq!(Mark::unpack(mark.pack()), Some(mark));
            assert_ne!(mark.pack(), 0);
        }
        assert!(first < second);
        assert!(first.pack() < second.pack());
        assert_eq!(Mark::unpack(0), None);
        assert_eq!(Mark::unpack(1), None);
    }

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
