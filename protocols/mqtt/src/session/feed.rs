//! The messages that wait for a session in streams: one group of its own in the stream of each of its filters.
//!
//! ```text
//! resume:  Open, DefineGroup, Subscribe, Marked ──▶ TakeOne for each mark, in the order of sends ──▶ Credit
//! QoS 1:   Push ──▶ PUBLISH, Mark (noted) ......... PUBACK ──▶ Ack
//! QoS 2:   Push ──▶ Mark ──▶ PUBLISH ... PUBREC ──▶ Mark ──▶ PUBREL ... PUBCOMP ──▶ Ack
//! ```
//!
//! A mark says under which packet id, when and how far a message was sent. What a client may remember, an id at QoS 2,
//! is durable before the client hears of it. Commands are gathered here and queued by whoever holds the connection's
//! lock.

use std::sync::Arc;

use hashbrown::HashMap;
use longtail_broker::auth::Action as Right;
use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::Message as Whole;
use longtail_broker::stored::{Stored, new_message};
use longtail_engine::config::GroupName;
use longtail_engine::{
    Command, Credit, Delivery, GroupConfig, Handle, Message, Reply, Role, Settle, Start,
    StreamConfig, StreamName, Target, Token,
};
use longtail_model::{ConsumerTag, GroupId, Link, Seq, StreamId, SubjectRef};

use super::outbound::{Copy, Stage};
use super::sending::wanted;
use super::{Cx, Outbox, Session, Tag, Ticket};
use crate::codec::{Ack, Packet, PacketId, Qos, ReasonCode};
use crate::publish::reason_of;

/// Where a message that is on its way came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(super) group: GroupId,
    pub(super) seq: Seq,
}

impl Source {
    fn handle(self) -> Handle {
        Handle::Group(self.group, self.seq)
    }
}

/// The one consumer of a session. What is taken by number counts for it too.
const CONSUMER: ConsumerTag = ConsumerTag(0);

/// The number that is left on a message: place in the order of sends, stage, packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) send: u64,
    pub(super) stage: Stage,
    pub(super) id: PacketId,
}

const STAGE_SHIFT: u32 = 16;
const SEND_SHIFT: u32 = 18;

impl Mark {
    fn pack(self) -> u64 {
        let stage: u64 = match self.stage {
            Stage::Sent => 1,
            Stage::Released => 2,
        };
        self.send << SEND_SHIFT | stage << STAGE_SHIFT | u64::from(self.id.get())
    }

    fn unpack(mark: u64) -> Option<Self> {
        Some(Mark {
            send: mark >> SEND_SHIFT,
            stage: match mark >> STAGE_SHIFT & 3 {
                1 => Stage::Sent,
                2 => Stage::Released,
                _ => return None,
            },
            id: PacketId::new((mark & 0xFFFF) as u16)?,
        })
    }
}

/// What an answer of the shard is for.
#[derive(Debug)]
enum Asked {
    /// The stream of this filter was opened.
    Open(Arc<str>, Way),
    /// A step whose failure fails the subscription to this filter.
    Join(Arc<str>, Way),
    /// A group was searched for marks.
    Marked,
    /// A message that was under way was taken again.
    Taken(Mark),
    /// PUBLISH may be sent.
    Publish(PacketId),
    /// PUBREL may be sent.
    Release(PacketId),
    /// A QoS 2 message of the client was written down: PUBREC may be sent.
    Stored(PacketId, Ticket),
}

/// Why a stream is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The session comes back.
    Resume,
    /// It has a new subscription.
    Join,
}

/// A session's way to its streams, while it is connected.
#[derive(Debug)]
pub(crate) struct Feed {
    number: u64,
    group: GroupName,
    /// The stream of QoS 2 messages that await their PUBREL.
    incoming: StreamId,
    /// By the stream that a message comes from: the text of the filter.
    streams: HashMap<StreamId, Arc<str>, foldhash::fast::FixedState>,
    links: u32,
    next: Token,
    asked: HashMap<Token, Asked, foldhash::fast::FixedState>,
    /// To be queued.
    commands: Vec<(Token, Command)>,
    /// Marked messages, while they are searched for.
    found: Vec<(Mark, Source)>,
    /// Answers that have to come before anything is sent.
    resuming: usize,
    is_ready: bool,
    has_credit: bool,
    /// Messages that wait until their mark is durable.
    publishing: usize,
    /// Answers that have to come before SUBACK.
    joining: usize,
    /// Filters that could not be joined.
    failed: Vec<Arc<str>>,
    /// Streams that were opened, for the router.
    opened: Vec<(Arc<str>, StreamId)>,
    has_news: bool,
}

/// The token of commands whose answers do not matter.
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

/// The group of the session with this number.
pub(crate) fn group_name(number: u64) -> GroupName {
    format!("{number:016x}").into()
}

/// Names a QoS 2 message that awaits its PUBREL: number of the session, packet id.
fn incoming_id(number: u64, id: u16) -> String {
    format!("{number:016x}{id:04x}")
}

/// Reads that name.
pub(crate) fn read_incoming_id(name: &[u8]) -> Option<(u64, u16)> {
    let (number, id) = std::str::from_utf8(name).ok()?.split_at_checked(16)?;
    let number = u64::from_str_radix(number, 16).ok()?;
    Some((number, u16::from_str_radix(id, 16).ok()?))
}

impl Feed {
    pub(crate) fn new(number: u64, incoming: StreamId) -> Self {
        Feed {
            number,
            incoming,
            group: group_name(number),
            streams: HashMap::default(),
            links: 0,
            next: UNASKED,
            asked: HashMap::default(),
            commands: Vec::new(),
            found: Vec::new(),
            resuming: 0,
            is_ready: false,
            has_credit: false,
            publishing: 0,
            joining: 0,
            failed: Vec::new(),
            opened: Vec::new(),
            has_news: false,
        }
    }

    fn ask(&mut self, asked: Asked, command: Command) {
        self.next += 1;
        self.asked.insert(self.next, asked);
        self.commands.push((self.next, command));
    }

    fn tell(&mut self, command: Command) {
        self.commands.push((UNASKED, command));
    }

    fn ack(&mut self, source: Source) {
        self.tell(Command::Settle {
            message: source.handle(),
            how: Settle::Ack,
        });
    }

    fn mark(&mut self, source: Source, mark: Mark, noted: bool, asked: Option<Asked>) {
        let command = Command::Mark {
            message: source.handle(),
            mark: mark.pack(),
            noted,
        };
        match asked {
            Some(asked) => self.ask(asked, command),
            None => self.tell(command),
        }
    }

    /// Opens the stream of a filter and draws from it. Answers: 3.
    fn draw(&mut self, text: &Arc<str>, name: &StreamName, way: Way) {
        self.links += 1;
        let link = Link(self.links);
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
                group: Arc::clone(&self.group),
                config: Box::new(group_config()),
            },
        );
        self.ask(
            Asked::Join(Arc::clone(text), way),
            Command::Subscribe {
                consumer: CONSUMER,
                link,
                group: Arc::clone(&self.group),
            },
        );
    }

    /// Draws from the stream of a filter again, and looks for what was under way.
    pub(crate) fn resume(&mut self, text: &Arc<str>, name: &StreamName) {
        self.draw(text, name, Way::Resume);
        let marked = Command::Marked {
            stream: Target::Link(Link(self.links)),
            group: Arc::clone(&self.group),
        };
        self.ask(Asked::Marked, marked);
        self.resuming += 4;
    }

    /// Draws from the stream of a new subscription; [`Feed::has_joined`] says when.
    pub(crate) fn join(&mut self, text: &Arc<str>, name: &StreamName) {
        self.draw(text, name, Way::Join);
        self.joining += 3;
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

    /// What is to be queued at the shard.
    pub(crate) fn commands(&mut self) -> &mut Vec<(Token, Command)> {
        &mut self.commands
    }
}

impl Session {
    /// Its way to the streams, if it is a session that outlives its connection.
    pub(crate) fn feed_mut(&mut self) -> Option<&mut Feed> {
        self.feed.as_deref_mut()
    }

    /// Whether messages wait for it in streams.
    pub(crate) fn is_lasting(&self) -> bool {
        self.feed.is_some()
    }

    /// An answer of the shard.
    pub(crate) fn answered(
        &mut self,
        token: Token,
        reply: &Reply,
        message: Option<&Message<'_>>,
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
                        feed.streams.insert(*stream, Arc::clone(&text));
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
            Asked::Marked => {
                if let Reply::Marked { group, messages } = reply {
                    let known = messages.iter().filter_map(|(seq, mark)| {
                        let source = Source {
                            group: *group,
                            seq: *seq,
                        };
                        Some((Mark::unpack(*mark)?, source))
                    });
                    feed.found.extend(known);
                }
                Way::Resume
            }
            Asked::Taken(mark) => {
                if let (Reply::Delivered(delivery), Some(message)) = (reply, message) {
                    self.revive(delivery, mark, message);
                }
                Way::Resume
            }
            Asked::Stored(id, ticket) => {
                let reason = match reply {
                    Reply::Published { seq } => {
                        self.stored(id, *seq);
                        ReasonCode::Success
                    }
                    Reply::Refused(refusal) => reason_of(refusal),
                    _ => ReasonCode::UnspecifiedError,
                };
                self.complete(ticket, reason, out);
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
                if !refused && self.is_open() {
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
            found.sort_unstable_by_key(|(mark, _)| *mark);
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
        self.state.outbound.resume();
        self.give_credit();
        self.pump(cx, out);
    }

    /// Asks for messages, once everything that was under way is taken up and the client has its CONNACK.
    pub(super) fn give_credit(&mut self) {
        let window = u32::try_from(self.window).unwrap_or(u32::MAX);
        let is_open = self.is_open();
        if let Some(feed) = self.feed.as_deref_mut()
            && is_open
            && feed.is_ready
            && !feed.has_credit
            && !feed.streams.is_empty()
        {
            feed.has_credit = true;
            feed.tell(Command::Credit {
                consumer: CONSUMER,
                credit: Credit::Level(window),
            });
        }
    }

    /// A message that was under way on an earlier connection.
    fn revive(&mut self, delivery: &Delivery, mark: Mark, message: &Message<'_>) {
        let source = Source {
            group: delivery.group,
            seq: delivery.seq,
        };
        let copy = self.copy_of(delivery, message, None);
        let copy = copy.filter(|copy| copy.qos != Qos::AtMostOnce);
        if mark.stage == Stage::Sent && copy.is_none() {
            self.done_with(source);
            return;
        }
        self.state.outbound.revive(mark, copy, source);
    }

    /// The message for the client, if its subscription wants it.
    fn copy_of(
        &mut self,
        delivery: &Delivery,
        message: &Message<'_>,
        cx: Option<&Cx<'_>>,
    ) -> Option<Copy> {
        let text = self.feed.as_ref()?.streams.get(&delivery.stream)?;
        let options = self.state.subscriptions.get(&**text)?.options;
        let stored = Stored::of(message);
        if options.no_local && stored.origin == self.origin {
            return None;
        }
        let tag = Tag::unpack(options.tag);
        let payload = bytes::Bytes::copy_from_slice(message.payload);
        let whole = stored.to_message(payload, message.created, message.expires);
        let dropped = |reason| {
            if let Some(cx) = cx {
                cx.counters.drop_messages(reason, 1);
            }
        };
        let Ok(whole) = whole else {
            dropped(DropReason::TooLarge);
            return None;
        };
        let subject = SubjectRef::from(&whole.subject);
        if tag.screened && !self.grants.allows(Right::Consume, subject) {
            dropped(DropReason::Denied);
            return None;
        }
        if let Some(cx) = cx
            && whole.is_expired(cx.now)
        {
            dropped(DropReason::Expired);
            return None;
        }
        let whole = Arc::new(whole);
        let wanted = wanted(&whole, tag);
        Some(Copy {
            message: whole,
            qos: wanted.qos,
            retain: wanted.retain,
            ids: wanted.ids,
            source: Some(Source {
                group: delivery.group,
                seq: delivery.seq,
            }),
        })
    }

    /// A message from one of its streams.
    pub(crate) fn pushed(
        &mut self,
        delivery: &Delivery,
        message: Option<&Message<'_>>,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let source = Source {
            group: delivery.group,
            seq: delivery.seq,
        };
        let Some(message) = message else {
            // The shard has reported it; it stays held until the connection ends.
            return;
        };
        if !self.is_open() {
            return;
        }
        let Some(copy) = self.copy_of(delivery, message, Some(cx)) else {
            self.done_with(source);
            return;
        };
        if copy.qos == Qos::AtMostOnce {
            let put = self.put_plain(&copy, cx, out);
            if let Err(reason) = put {
                self.state.drop_messages(cx, reason, 1);
            }
            self.done_with(source);
            return;
        }
        let outbound = &self.state.outbound;
        if outbound.is_clear(self.window) && (!out.is_full() || outbound.is_idle()) {
            if let Err(reason) = self.send_assured(copy, cx, out) {
                self.state.drop_messages(cx, reason, 1);
            }
        } else {
            // As many as there is credit for.
            self.state.outbound.wait(copy);
        }
    }

    /// Writes down a QoS 2 message that awaits its PUBREL.
    pub(super) fn store_incoming(
        &mut self,
        message: &Whole,
        id: PacketId,
        ticket: Ticket,
        cx: &Cx<'_>,
    ) {
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        let record = longtail_engine::NewMessage {
            id: incoming_id(feed.number, id.get()).into(),
            ..new_message(message, cx.now)
        };
        let publish = Command::Publish {
            to: Target::Stream(feed.incoming),
            also: Vec::new(),
            message: record,
        };
        feed.ask(Asked::Stored(id, ticket), publish);
    }

    /// Removes a QoS 2 message that awaited its PUBREL.
    pub(super) fn forget_incoming(&mut self, seq: Seq) {
        if let Some(feed) = self.feed.as_deref_mut() {
            let stream = Target::Stream(feed.incoming);
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
    }

    /// Whether a message of this QoS has to wait for its mark: at QoS 2 it has to be durable, and at QoS 1 messages do
    /// not overtake those.
    pub(super) fn waits_for_mark(&self, qos: Qos) -> bool {
        let feed = self.feed.as_ref();
        qos == Qos::ExactlyOnce || feed.is_some_and(|feed| feed.publishing > 0)
    }

    /// Leaves a mark on a message that was given `id`; with `waits`, the PUBLISH waits for it.
    pub(super) fn mark_sent(&mut self, id: PacketId, source: Source, qos: Qos, waits: bool) {
        let send = self.state.outbound.sends();
        let mark = Mark {
            send,
            stage: Stage::Sent,
            id,
        };
        if let Some(feed) = self.feed.as_deref_mut() {
            let asked = waits.then_some(Asked::Publish(id));
            feed.publishing += usize::from(waits);
            let noted = qos != Qos::ExactlyOnce;
            feed.mark(source, mark, noted, asked);
        }
    }

    /// PUBREC has come: PUBREL follows when that is durable. `false`: it is of no stream.
    pub(super) fn mark_released(&mut self, id: PacketId) -> bool {
        let Some((source, send)) = self.state.outbound.source(id) else {
            return false;
        };
        let mark = Mark {
            send,
            stage: Stage::Released,
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

    /// The mark of a message at QoS 2 is durable.
    fn publish_marked(&mut self, id: PacketId, cx: &Cx<'_>, out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        let Some(copy) = self.state.outbound.copy(id) else {
            return;
        };
        if let Err(reason) = self.put_copy(&copy, id, false, cx, out) {
            self.state.drop_messages(cx, reason, 1);
            self.state.outbound.give_up(id);
            self.settle_landed();
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
            id: PacketId::new(id).unwrap(),
        };
        let first = mark(1, Stage::Released, 65_535);
        let second = mark(2, Stage::Sent, 1);
        for mark in [first, second, mark((1 << 46) - 1, Stage::Sent, 7)] {
            assert_eq!(Mark::unpack(mark.pack()), Some(mark));
            assert_ne!(mark.pack(), 0);
        }
        assert!(first < second);
        assert!(first.pack() < second.pack());
        assert_eq!(Mark::unpack(0), None);
        assert_eq!(Mark::unpack(3 << STAGE_SHIFT | 1), None);
    }

    #[test]
    fn a_message_that_awaits_its_pubrel_names_session_and_packet() {
        for (number, id) in [(1, 1), (u64::MAX, u16::MAX)] {
            let name = incoming_id(number, id);
            assert_eq!(read_incoming_id(name.as_bytes()), Some((number, id)));
        }
        assert_eq!(read_incoming_id(b"x"), None);
        assert_eq!(read_incoming_id(b"00000000000000zz0001"), None);
    }
}
