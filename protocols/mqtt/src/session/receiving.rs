//! What the client publishes: aliases, permissions, the receive maximum, acknowledgements in the order of arrival.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hashbrown::HashMap;
use longtail_broker::auth::{Action as Right, Manner};
use longtail_broker::message::SharedMessage;
use longtail_model::{Seq, Subject, SubjectError, Timestamp};

use super::hooked::BY_A_HOOK;
use super::place::judged;
use super::rare::Rare;
use super::rate::{Bucket, Spent};
use super::{Action, Broken, Cx, Outbox, Session};
use crate::codec::{Ack, MessageProperties, Packet, PacketId, Publish, Qos, ReasonCode};
use crate::config::{DeniedPublish, Enforcement, Limits, Qos2Routing};
use crate::control;
use crate::delayed;
use crate::durable::incoming::Entry;
use crate::hooks::{Access, Event, Outcome, Permission, Points, Wish};
use crate::message::{self, Published};

/// Names an acknowledgement that waits for its message to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// A message that its PUBREL releases from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its number there.
    pub seq: Seq,
    /// It was shown to live subscribers before.
    pub again: bool,
}

/// QoS 2 messages that await PUBREL, by packet id.
pub(super) type Unreleased = Rare<HashMap<u16, Held, foldhash::fast::FixedState>>;

/// One of them.
#[derive(Debug)]
pub(super) struct Held {
    /// Absent: it is shown already, or dropped because it was not allowed.
    message: Option<SharedMessage>,
    /// How often it came again.
    repeats: u8,
    /// What is written of it, where the session outlives the process: over all connections of the session one.
    entry: Option<Arc<Entry>>,
    /// Its PUBREL has come and is being carried out.
    is_leaving: bool,
}

impl Held {
    pub(super) fn new(message: Option<SharedMessage>, entry: Option<Arc<Entry>>) -> Self {
        Held {
            message,
            repeats: 0,
            entry,
            is_leaving: false,
        }
    }

    /// What is written of it.
    pub(super) fn entry(&self) -> Option<&Entry> {
        self.entry.as_deref()
    }
}

/// The receiving side of a connection.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// Topics by alias.
    aliases: Rare<HashMap<u16, Subject, foldhash::fast::FixedState>>,
    /// The topic of the last publish: clients tend to stay with it.
    last: Option<Subject>,
    /// Acknowledgements that wait for their turn.
    due: VecDeque<Due>,
    /// Ticket of the first of them.
    first: u64,
    /// Messages that count against the receive maximum.
    unacknowledged: usize,
    /// Payload bytes of messages that await PUBREL.
    unreleased_bytes: usize,
    warned: bool,
    /// Of a client that may publish so fast and no faster.
    rate: Option<Box<Rate>>,
}

/// How fast the client publishes.
#[derive(Debug)]
struct Rate {
    bucket: Bucket,
    /// Nobody has seen to it that it is heard again.
    is_news: bool,
}

impl Receiving {
    /// Of a client that has published nothing.
    pub(super) const NOTHING: Receiving = Receiving {
        aliases: Rare::NONE,
        last: None,
        due: VecDeque::new(),
        first: 0,
        unacknowledged: 0,
        unreleased_bytes: 0,
        warned: false,
        rate: None,
    };
}

#[derive(Debug)]
struct Due {
    kind: Kind,
    id: PacketId,
    /// Known once it can be sent.
    reason: Option<ReasonCode>,
    /// Whether its message counted against the receive maximum.
    counted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Puback,
    Pubrec,
    Pubcomp,
}

/// Times that a QoS 2 message may come again before its PUBREL.
const REPEATS_MAX: u8 = 1;

/// Room that an empty queue may keep, in acknowledgements.
const KEPT_CAPACITY: usize = 32;

/// The properties of a message that lives as long as it may.
fn mortal<'p>(properties: &MessageProperties<'p>, limits: &Limits) -> MessageProperties<'p> {
    if limits.message_expiry_max_s == 0 {
        return *properties;
    }
    MessageProperties {
        expiry_s: limits.message_expiry_s(properties.expiry_s),
        encoded: &[],
        ..*properties
    }
}

/// Whether the topic belongs to the server, so that no client may publish to it. The state of a bridge is the exception.
pub(super) fn is_reserved(topic: &str) -> bool {
    let Some(rest) = topic.strip_prefix('$') else {
        return false;
    };
    let tree = rest.split('/').next().unwrap_or_default();
    match tree {
        "share" => true,
        "SYS" => {
            let mut levels = topic.split('/').skip(1);
            let bridge = levels.next() == Some("broker")
                && levels.next() == Some("connection")
                && levels.next().is_some()
                && levels.next() == Some("state")
                && levels.next().is_none();
            !bridge
        }
        _ => false,
    }
}

impl Session {
    pub(super) fn publish(
        &mut self,
        publish: &Publish<'_>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        if cx.limits.publish_rate_max > 0 {
            self.spend_rate(cx)?;
        }
        if publish.qos > cx.limits.qos_max {
            return Err(Broken(ReasonCode::QosNotSupported, "QoS not supported"));
        }
        if publish.retain && !cx.limits.retain_available {
            return Err(Broken(
                ReasonCode::RetainNotSupported,
                "retain not supported",
            ));
        }
        let known = publish.qos == Qos::ExactlyOnce
            && publish
                .packet_id
                .is_some_and(|id| self.state.unreleased.contains_key(&id.get()));
        if publish.qos != Qos::AtMostOnce && !known {
            self.check_receive_max(cx)?;
        }
        let refused = match self.topic(publish, cx)? {
            Ok(_)
                if cx.limits.payload_format_checked
                    && !message::is_as_it_says(&publish.properties.message, publish.payload) =>
            {
                Err(ReasonCode::PayloadFormatInvalid)
            }
            Ok(subject) => self
                .may_publish(&subject, publish, cx)
                .map_or(Ok(subject), Err),
            Err(reason) => Err(reason),
        };
        self.tally.message_in(publish.qos, publish.payload.len());
        let subject = match refused {
            Ok(subject) => subject,
            Err(reason) => return self.denied(publish, reason, cx, out),
        };
        let properties = mortal(&publish.properties.message, cx.limits);
        let make = |session: &Session| {
            let mut message = message::incoming(
                subject.clone(),
                Bytes::copy_from_slice(publish.payload),
                &properties,
                Published {
                    qos: publish.qos,
                    retain: publish.retain,
                    origin: session.origin,
                    now: cx.now,
                },
            );
            if publish.retain
                && cx.limits.retain_source_checked
                && let Some(principal) = &session.principal
            {
                message::set_source(&mut message, principal, &session.hello.client_id);
            }
            Arc::new(message)
        };
        let changed = match self.hooked.wants(Points::PUBLISH) {
            None => None,
            Some(client) => match client.publish(&make(self)) {
                Outcome::AsItWas => None,
                Outcome::Changed(message) => Some(message),
                Outcome::Rejected(reason) => return self.denied(publish, reason, cx, out),
                Outcome::Ignored => return self.denied(publish, ReasonCode::Success, cx, out),
                Outcome::Disconnected(reason) => return Err(Broken(reason, BY_A_HOOK)),
            },
        };
        let make = |session: &Session| changed.clone().unwrap_or_else(|| make(session));
        let (subject, payload) = match &changed {
            Some(message) => (&message.subject, &message.payload[..]),
            None => (&subject, publish.payload),
        };
        match (publish.qos, publish.packet_id) {
            (Qos::AtLeastOnce, Some(id)) => {
                let message = make(self);
                let ticket = self.owe(Kind::Puback, id, None, true);
                let ticket = Some(ticket);
                actions.push(Action::Publish { message, ticket });
            }
            (Qos::ExactlyOnce, Some(id)) => {
                if known && self.came_again(payload, subject, id)? {
                    if !self.store(id, actions) {
                        self.acknowledge(Kind::Pubrec, id, ReasonCode::Success, false, out);
                    }
                } else {
                    if known {
                        // Another message under the same id: the client has forgotten the first.
                        self.forget_unreleased(id);
                    }
                    let message = make(self);
                    self.hold(id, message, known, cx, actions, out)?;
                }
            }
            _ => {
                let message = make(self);
                let ticket = None;
                actions.push(Action::Publish { message, ticket });
            }
        }
        Ok(())
    }

    fn spend_rate(&mut self, cx: &Cx<'_>) -> Result<(), Broken> {
        let rate = self.receiving.rate.get_or_insert_with(|| {
            Box::new(Rate {
                bucket: Bucket::new(cx.limits, cx.now),
                is_news: false,
            })
        });
        match rate.bucket.spend(cx.limits, cx.now) {
            Spent::More => {}
            Spent::Last => {
                rate.is_news = true;
                cx.counters.held_up.fetch_add(1, Ordering::Relaxed);
            }
            Spent::TooMany => {
                return Err(Broken(
                    ReasonCode::MessageRateTooHigh,
                    "more messages a second than it may publish",
                ));
            }
        }
        Ok(())
    }

    /// Whether the client published faster than it may, and is not to be heard yet.
    pub(crate) fn is_held_up(&mut self, now: Timestamp) -> bool {
        if !self.receiving.is_there() {
            return false;
        }
        let rate = self.receiving.rate.as_mut();
        rate.is_some_and(|rate| rate.bucket.wait(now).is_some())
    }

    /// When a client that is held up is to be heard again; once.
    pub(crate) fn take_hold_up(&mut self) -> Option<Timestamp> {
        if !self.receiving.is_there() {
            return None;
        }
        let rate = self.receiving.rate.as_mut()?;
        if !std::mem::take(&mut rate.is_news) {
            return None;
        }
        rate.bucket.until()
    }

    fn check_receive_max(&mut self, cx: &Cx<'_>) -> Result<(), Broken> {
        if self.receiving.unacknowledged < usize::from(cx.limits.receive_max) {
            return Ok(());
        }
        match cx.limits.receive_max_enforcement {
            Enforcement::Strict => Err(Broken(
                ReasonCode::ReceiveMaximumExceeded,
                "more unacknowledged messages than the receive maximum",
            )),
            // Bounded all the same.
            Enforcement::Warn if self.receiving.unacknowledged > usize::from(u16::MAX) => {
                Err(Broken(
                    ReasonCode::ReceiveMaximumExceeded,
                    "more unacknowledged messages than there are packet ids",
                ))
            }
            Enforcement::Warn => {
                if !std::mem::replace(&mut self.receiving.warned, true) {
                    tracing::warn!(client = %self.hello.client_id, "more unacknowledged messages than the receive maximum");
                }
                Ok(())
            }
        }
    }

    /// The topic, or why it is none that can be published to.
    fn topic(
        &mut self,
        publish: &Publish<'_>,
        cx: &Cx<'_>,
    ) -> Result<Result<Subject, ReasonCode>, Broken> {
        let alias = publish.properties.topic_alias.map(NonZeroU16::get);
        if alias.is_some_and(|alias| alias > cx.limits.topic_aliases_in) {
            return Err(Broken(
                ReasonCode::TopicAliasInvalid,
                "topic alias above the maximum",
            ));
        }
        if publish.topic.is_empty() {
            return match alias.and_then(|alias| self.receiving.aliases.get(&alias)) {
                Some(subject) => Ok(Ok(subject.clone())),
                None => Err(Broken(
                    ReasonCode::ProtocolError,
                    "a topic alias that was never defined",
                )),
            };
        }
        let last = self.receiving.last.as_ref();
        let last = last.filter(|last| last.as_str() == publish.topic && !self.is_elsewhere());
        let subject = match last {
            Some(last) => last.clone(),
            None => match Subject::parse_mqtt(&self.place_topic(publish.topic, cx.limits)) {
                Ok(subject) => subject,
                Err(SubjectError::TooManyTokens { .. } | SubjectError::TooLong { .. }) => {
                    return Ok(Err(ReasonCode::TopicNameInvalid));
                }
                Err(_) => return Err(Broken(ReasonCode::MalformedPacket, "no topic name")),
            },
        };
        if let Some(alias) = alias {
            self.receiving.aliases.insert(alias, subject.clone());
        }
        self.receiving.last = Some(subject.clone());
        Ok(Ok(subject))
    }

    fn may_publish(
        &mut self,
        subject: &Subject,
        publish: &Publish<'_>,
        cx: &Cx<'_>,
    ) -> Option<ReasonCode> {
        let levels = || subject.as_ref().tokens().count();
        if cx.limits.topic_levels_max < 128 && levels() > cx.limits.topic_levels_max {
            return Some(ReasonCode::TopicNameInvalid);
        }
        if !delayed::is_fit(subject.as_str(), cx.now, cx.limits.delay_max_s) {
            return Some(ReasonCode::TopicNameInvalid);
        }
        let aim = judged(subject);
        let mut permission = self.permitted(|| Wish {
            publish: true,
            topic: self.topic_said(publish).unwrap_or_default().into(),
            qos: publish.qos,
            retain: publish.retain,
        });
        if permission == Permission::Next {
            permission = self.hooked.authorize(|| Access::Publish {
                topic: aim.as_str(),
                payload: publish.payload,
                qos: publish.qos,
                retain: publish.retain,
            });
        }
        let right = if control::is_control(aim.as_str()) {
            // A request comes when it comes.
            if aim.as_str() != subject.as_str() {
                return Some(ReasonCode::NotAuthorized);
            }
            Right::Manage
        } else {
            Right::Publish
        };
        let may = match permission {
            Permission::Next => {
                let quality = message::quality(publish.qos);
                let manner = Manner::of_publish(quality, publish.retain);
                self.grants.allows_in(right, aim, manner)
            }
            decided => decided == Permission::Allow,
        };
        (!may || is_reserved(aim.as_str())).then_some(ReasonCode::NotAuthorized)
    }

    /// A publish that goes nowhere: the client is told where there is a way to say it. With success, it is told that
    /// all is well.
    fn denied(
        &mut self,
        publish: &Publish<'_>,
        reason: ReasonCode,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        let is_denied = reason.is_error();
        cx.counters
            .denied
            .fetch_add(u64::from(is_denied), std::sync::atomic::Ordering::Relaxed);
        if is_denied {
            self.tell_denied(publish, reason);
        }
        let told = self.version().is_v5() && publish.qos != Qos::AtMostOnce;
        if reason == ReasonCode::NotAuthorized && cx.limits.denied_disconnects {
            return Err(Broken(reason, "a publish that is not allowed"));
        }
        if is_denied && !told && cx.limits.denied_publish == DeniedPublish::Disconnect {
            return Err(Broken(reason, "a publish that is not allowed"));
        }
        let reason = if told { reason } else { ReasonCode::Success };
        match (publish.qos, publish.packet_id) {
            (Qos::AtLeastOnce, Some(id)) => self.acknowledge(Kind::Puback, id, reason, true, out),
            (Qos::ExactlyOnce, Some(id)) => {
                let known = self.forget_unreleased(id);
                if reason.is_error() {
                    self.acknowledge(Kind::Pubrec, id, reason, true, out);
                    self.receiving.unacknowledged -= usize::from(known);
                } else {
                    self.keep(id, None);
                    self.receiving.unacknowledged += usize::from(!known);
                    self.acknowledge(Kind::Pubrec, id, reason, false, out);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn tell_denied(&self, publish: &Publish<'_>, reason: ReasonCode) {
        self.hooked.tell(Points::DENIED, |client| Event::Denied {
            client,
            topic: self.topic_said(publish).unwrap_or_default().into(),
            reason,
        });
    }

    /// The topic of a PUBLISH as its client says it, or the one that its alias stands for; `None`: for nothing.
    pub(crate) fn topic_said<'p>(&'p self, publish: &Publish<'p>) -> Option<&'p str> {
        if !publish.topic.is_empty() {
            return Some(publish.topic);
        }
        let alias = publish.properties.topic_alias.map(NonZeroU16::get)?;
        let known = self.receiving.aliases.get(&alias);
        known.map(Subject::as_str)
    }

    /// Whether the message under a known id is the one that came before.
    fn came_again(
        &mut self,
        payload: &[u8],
        subject: &Subject,
        id: PacketId,
    ) -> Result<bool, Broken> {
        let Some(held) = self.state.unreleased.get_mut(&id.get()) else {
            return Ok(false);
        };
        let same = held
            .message
            .as_ref()
            .is_none_or(|message| message.subject == *subject && message.payload[..] == *payload);
        if same {
            if held.repeats >= REPEATS_MAX {
                return Err(Broken(
                    ReasonCode::ProtocolError,
                    "a QoS 2 message that came too often",
                ));
            }
            held.repeats += 1;
        }
        Ok(same)
    }

    /// Keeps a QoS 2 message until its PUBREL.
    fn hold(
        &mut self,
        id: PacketId,
        message: SharedMessage,
        counted: bool,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        // What outlives the process is kept as it came, so that it is not shown twice.
        let at_publish = cx.limits.qos2_routing == Qos2Routing::AtPublish && !self.is_lasting();
        // Nobody is shown a request.
        if at_publish || control::is_control(message.subject.as_str()) {
            self.keep(id, None);
            let ticket = self.owe(Kind::Pubrec, id, None, false);
            self.receiving.unacknowledged += usize::from(!counted);
            let ticket = Some(ticket);
            actions.push(Action::Publish { message, ticket });
            return Ok(());
        }
        let bytes = self.receiving.unreleased_bytes + message.payload.len();
        if bytes > cx.limits.unreleased_bytes {
            let reason = ReasonCode::QuotaExceeded;
            if !self.version().is_v5() {
                return Err(Broken(reason, "too many bytes await their PUBREL"));
            }
            self.receiving.unacknowledged -= usize::from(counted);
            self.acknowledge(Kind::Pubrec, id, reason, true, out);
            return Ok(());
        }
        self.receiving.unreleased_bytes = bytes;
        self.keep(id, Some(message));
        self.receiving.unacknowledged += usize::from(!counted);
        if !self.store(id, actions) {
            self.acknowledge(Kind::Pubrec, id, ReasonCode::Success, false, out);
        }
        Ok(())
    }

    /// Has a message that awaits its PUBREL written down, unless it is or need not be; PUBREC follows then. One that is
    /// being written, for an earlier connection, is not written twice: see [`Entry`].
    fn store(&mut self, id: PacketId, actions: &mut Vec<Action>) -> bool {
        let Some(held) = self.state.unreleased.get(&id.get()) else {
            return false;
        };
        let (Some(message), Some(entry)) = (&held.message, &held.entry) else {
            return false;
        };
        if entry.seq().is_some() {
            return false;
        }
        let (message, entry) = (SharedMessage::clone(message), Arc::clone(entry));
        let ticket = self.owe(Kind::Pubrec, id, None, false);
        actions.push(Action::Store {
            message,
            entry,
            ticket,
        });
        true
    }

    fn keep(&mut self, id: PacketId, message: Option<SharedMessage>) {
        let lasts = message.is_some() && self.is_lasting();
        let entry = lasts.then(|| Arc::new(Entry::new(self.state.number, id.get())));
        self.state
            .unreleased
            .insert(id.get(), Held::new(message, entry));
    }

    /// Whether there was one.
    fn forget_unreleased(&mut self, id: PacketId) -> bool {
        let Some(held) = self.state.unreleased.remove(&id.get()) else {
            return false;
        };
        if let Some(seq) = held.entry().and_then(Entry::give_up) {
            self.forget_incoming(seq);
        }
        let bytes = held.message.map_or(0, |message| message.payload.len());
        self.receiving.unreleased_bytes = self.receiving.unreleased_bytes.saturating_sub(bytes);
        true
    }

    pub(super) fn pubrel(
        &mut self,
        ack: &Ack<'_>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        let id = ack.packet_id;
        if let Some(held) = self.state.unreleased.get_mut(&id.get())
            && let (Some(message), Some(entry)) = (&held.message, &held.entry)
        {
            let Some(seq) = entry.seq() else {
                return Err(Broken(
                    ReasonCode::ProtocolError,
                    "PUBREL for a message that had no PUBREC",
                ));
            };
            // It stays until it is gone from the log.
            let release = Release {
                seq,
                again: std::mem::replace(&mut held.is_leaving, true),
            };
            let message = SharedMessage::clone(message);
            let ticket = self.owe(Kind::Pubcomp, id, None, false);
            if let Some(due) = self.receiving.due.back_mut() {
                due.counted = true;
            }
            actions.push(Action::Release {
                message,
                release,
                ticket,
            });
            return Ok(());
        }
        let Some(held) = self.state.unreleased.remove(&id.get()) else {
            let reason = if cx.limits.unknown_release_is_told {
                ReasonCode::PacketIdentifierNotFound
            } else {
                ReasonCode::Success
            };
            self.acknowledge(Kind::Pubcomp, id, reason, false, out);
            return Ok(());
        };
        let Some(message) = held.message else {
            self.settle(Kind::Pubcomp, id, out);
            return Ok(());
        };
        let bytes = message.payload.len();
        self.receiving.unreleased_bytes = self.receiving.unreleased_bytes.saturating_sub(bytes);
        let ticket = self.owe(Kind::Pubcomp, id, None, false);
        if let Some(due) = self.receiving.due.back_mut() {
            due.counted = true;
        }
        let ticket = Some(ticket);
        actions.push(Action::Publish { message, ticket });
        Ok(())
    }

    /// Acknowledges with success what counted when it came.
    fn settle(&mut self, kind: Kind, id: PacketId, out: &mut impl Outbox) {
        self.owe(kind, id, Some(ReasonCode::Success), false);
        if let Some(due) = self.receiving.due.back_mut() {
            due.counted = true;
        }
        self.say_what_is_due(out);
    }

    /// An acknowledgement at the end of the queue. With `counts`, its message takes a place of the receive maximum
    /// until it is sent.
    fn owe(
        &mut self,
        kind: Kind,
        id: PacketId,
        reason: Option<ReasonCode>,
        counts: bool,
    ) -> Ticket {
        let receiving = &mut self.receiving;
        receiving.unacknowledged += usize::from(counts);
        receiving.due.push_back(Due {
            kind,
            id,
            reason,
            counted: counts,
        });
        Ticket(receiving.first + receiving.due.len() as u64 - 1)
    }

    fn acknowledge(
        &mut self,
        kind: Kind,
        id: PacketId,
        reason: ReasonCode,
        counts: bool,
        out: &mut impl Outbox,
    ) {
        self.owe(kind, id, Some(reason), counts);
        self.say_what_is_due(out);
    }

    /// A message was published, or not: what [`Action::Publish`] had a ticket for.
    pub fn complete(&mut self, ticket: Ticket, reason: ReasonCode, out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        let at = ticket.0.checked_sub(self.receiving.first);
        let Some(due) = at.and_then(|at| self.receiving.due.get_mut(usize::try_from(at).ok()?))
        else {
            return;
        };
        let reason = match (due.kind, reason) {
            // PUBREC and PUBCOMP say nothing of who was there.
            (Kind::Pubrec | Kind::Pubcomp, ReasonCode::NoMatchingSubscribers) => {
                ReasonCode::Success
            }
            (_, reason) => reason,
        };
        if reason.is_error() && (due.kind == Kind::Pubcomp || !self.hello.version.is_v5()) {
            // There is no way to say it, and nothing that was not done is acknowledged.
            self.expelled = Some(reason);
            return;
        }
        due.reason = Some(reason);
        if due.kind == Kind::Pubcomp {
            let id = due.id.get();
            let released = self.state.unreleased.get(&id);
            // PUBREL twice on one connection: by the second answer the id may be another message's.
            if released.is_some_and(|held| held.is_leaving)
                && let Some(held) = self.state.unreleased.remove(&id)
            {
                let bytes = held.message.map_or(0, |message| message.payload.len());
                let left = self.receiving.unreleased_bytes.saturating_sub(bytes);
                self.receiving.unreleased_bytes = left;
            }
            return self.say_what_is_due(out);
        }
        let forgotten = (due.kind == Kind::Pubrec && reason.is_error()).then_some(due.id);
        if let Some(id) = forgotten {
            due.counted = true;
            self.forget_unreleased(id);
        }
        self.say_what_is_due(out);
    }

    /// Sends the acknowledgements at the front of the queue that are known.
    fn say_what_is_due(&mut self, out: &mut impl Outbox) {
        while let Some(due) = self.receiving.due.front() {
            let (Some(reason), kind, id) = (due.reason, due.kind, due.id) else {
                break;
            };
            if due.counted {
                self.receiving.unacknowledged = self.receiving.unacknowledged.saturating_sub(1);
            }
            self.receiving.due.pop_front();
            self.receiving.first += 1;
            let ack = Ack::with_reason(id, reason);
            let packet = match kind {
                Kind::Puback => Packet::Puback(ack),
                Kind::Pubrec => Packet::Pubrec(ack),
                Kind::Pubcomp => Packet::Pubcomp(ack),
            };
            self.say(&packet, out);
        }
        if self.receiving.due.is_empty() && self.receiving.due.capacity() > KEPT_CAPACITY {
            self.receiving.due = VecDeque::new();
        }
    }

    /// A session that comes back: what awaited its PUBREL counts on this connection too.
    pub(super) fn recount(&mut self) {
        if self.state.unreleased.is_empty() && !self.receiving.is_there() {
            return;
        }
        self.receiving.unacknowledged = self.state.unreleased.len();
        let bytes = |held: &Held| held.message.as_ref().map_or(0, |m| m.payload.len());
        self.receiving.unreleased_bytes = self.state.unreleased.values().map(bytes).sum();
        if self.state.unreleased.is_there() {
            for held in self.state.unreleased.values_mut() {
                held.repeats = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_topics() {
        for (topic, reserved) in [
            ("$SYS/broker/uptime", true),
            ("$SYS", true),
            ("$share/g/t", true),
            ("$SYS/broker/connection/b/state", false),
            ("$SYS/broker/connection/b/c/state", true),
            ("$SYStem/x", false),
            ("$other/x", false),
            ("a/$SYS", false),
        ] {
            assert_eq!(is_reserved(topic), reserved, "{topic}");
        }
    }
}
