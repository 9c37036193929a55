//! What the client gets: live messages, what waits in its queue, retained messages.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use longtail_broker::auth::{Action as Right, Grants, Manner};
use longtail_broker::ephemeral::{Deliveries, Delivery, DropReason, LiveOptions, Run};
use longtail_broker::message::SharedMessage;
use longtail_broker::retained::RetainedCursor;
use longtail_model::{DollarRule, Filter, FilterToken, SubjectRef};

use super::feed::Source;
use super::frame::{self, Style, Unsent};
use super::outbound::{Acked, Again, Copy, Ids, QueueLimits};
use super::rare::Rare;
use super::subscribing::Held;
use super::{Broken, Cx, Outbox, Session, State, Tag};
use crate::codec::{Ack, Packet, PacketId, Qos, ReasonCode};
use crate::config::{Limits, Overlap};
use crate::hooks::{self, Event, FlightChange, Points, RetainedChange};
use crate::message;

/// The retained messages for one new subscription, on their way.
#[derive(Debug)]
pub(super) struct Replay {
    text: Box<str>,
    /// What the server says of itself, if the filter asks for it.
    sys: Option<RetainedCursor>,
    cursor: RetainedCursor,
    tag: Tag,
    found: VecDeque<SharedMessage>,
    /// The publishers of the last messages, and what they may do by now.
    sources: Sources,
}

/// Publishers of retained messages, as they are written down there. What one may do is looked up once a replay.
#[derive(Debug, Default)]
struct Sources(HashMap<Box<str>, Option<Arc<Grants>>>);

/// Publishers that one replay remembers.
const SOURCES_MAX: usize = 1000;

impl Sources {
    /// Whether who published a retained message may still publish it.
    fn may(&mut self, message: &SharedMessage, cx: &Cx<'_>) -> bool {
        let Some((source, client_id)) = message::source(message) else {
            return true;
        };
        let Some(rights) = cx.rights else { return true };
        if self.0.len() >= SOURCES_MAX && !self.0.contains_key(source) {
            self.0.clear();
        }
        let grants = self.0.entry(source.into());
        let grants =
            grants.or_insert_with(|| rights.now(&message::principal_of(source)?, client_id, None));
        let manner = Manner::of_publish(message.quality, true);
        let subject = SubjectRef::from(&message.subject);
        let may = |grants: &Arc<Grants>| grants.allows_in(Right::Publish, subject, manner);
        grants.as_ref().is_some_and(may)
    }
}

/// Retained messages that are looked at in one go, while the connection's lock is held.
const REPLAY_STEP: usize = 64;

/// Such steps before other connections have their turn. A client may ask for a million messages, or for one that is
/// behind a million others.
const REPLAY_STEPS: usize = 8;

/// What a replay has next.
enum Replayed {
    Message(SharedMessage),
    /// More, but not in this turn.
    Later,
    End,
}

impl Replay {
    pub(super) fn new(text: Box<str>, filter: Filter, tag: Tag) -> Self {
        let asks_for_sys = filter.tokens().next() == Some(FilterToken::Literal("$SYS"));
        let cursor = RetainedCursor::new(filter, DollarRule::Hide);
        Replay {
            text,
            sys: asks_for_sys.then(|| cursor.clone()),
            cursor,
            tag,
            found: VecDeque::new(),
            sources: Sources::default(),
        }
    }

    pub(super) fn is_of(&self, text: &str) -> bool {
        *self.text == *text
    }

    /// The next message, within so many `steps`.
    fn next(&mut self, cx: &Cx<'_>, steps: &mut usize) -> Replayed {
        while self.found.is_empty() {
            if self.sys.is_none() && self.cursor.is_done() {
                return Replayed::End;
            }
            let Some(left) = steps.checked_sub(1) else {
                return Replayed::Later;
            };
            *steps = left;
            let mut found = Vec::new();
            match &mut self.sys {
                Some(sys) => {
                    if !sys.step(cx.sys, cx.now, REPLAY_STEP, &mut found) {
                        self.sys = None;
                    }
                }
                None => {
                    self.cursor
                        .step(cx.retained, cx.now, REPLAY_STEP, &mut found);
                }
            }
            self.found = found.into();
        }
        self.found
            .pop_front()
            .map_or(Replayed::End, Replayed::Message)
    }
}

/// How one copy is to be sent.
pub(super) struct Wanted {
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) ids: Ids,
    /// It is not to wait: somebody else may have room.
    pub(super) only_now: bool,
}

impl Session {
    /// A message that some of the session's subscriptions match.
    pub fn deliver(
        &mut self,
        message: &SharedMessage,
        options: &[LiveOptions],
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Delivery {
        let delivery = self.offer(message, options, cx, out);
        if let Delivery::Dropped(reason) = delivery {
            self.state.drops.add(reason, 1);
            self.tell_dropped(message, reason);
        }
        delivery
    }

    /// A message that is for this client and nobody else, at QoS 0, if it has subscribed to its topic.
    pub(crate) fn tell_alone(
        &mut self,
        message: &SharedMessage,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) {
        let subject = SubjectRef::from(&message.subject);
        let wants = |held: &&Held| held.filter.matches_with(subject, DollarRule::Hide);
        let held = self.state.subscriptions.values().find(wants);
        let options = held.map(|held| LiveOptions {
            not_assured: false,
            ..held.options
        });
        if let Some(options) = options {
            // What becomes of it is counted.
            let _delivery = self.deliver(message, &[options], cx, out);
        }
    }

    fn offer(
        &mut self,
        message: &SharedMessage,
        options: &[LiveOptions],
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Delivery {
        if !self.is_open() {
            return Delivery::Dropped(DropReason::Closed);
        }
        if let [only] = options {
            let tag = Tag::unpack(only.tag);
            return match self.copy_for(message, tag) {
                Some(mut wanted) => {
                    wanted.only_now = only.only_now;
                    self.send(message, wanted, cx, out)
                }
                None => Delivery::Dropped(DropReason::Denied),
            };
        }
        let mut merged: Option<Wanted> = None;
        let mut outcome = Delivery::Dropped(DropReason::Denied);
        for options in options {
            let tag = Tag::unpack(options.tag);
            let Some(wanted) = self.copy_for(message, tag) else {
                continue;
            };
            match (&mut merged, cx.limits.overlap) {
                (_, Overlap::Each) => {
                    let sent = self.send(message, wanted, cx, out);
                    if outcome != Delivery::Delivered {
                        outcome = sent;
                    }
                }
                (None, Overlap::Merge) => merged = Some(wanted),
                (Some(merged), Overlap::Merge) => {
                    merged.qos = merged.qos.max(wanted.qos);
                    merged.retain |= wanted.retain;
                    merged.ids.push(tag.id);
                }
            }
        }
        match merged {
            Some(merged) => self.send(message, merged, cx, out),
            None => outcome,
        }
    }

    /// As [`Session::deliver`], for all messages of a run.
    pub fn deliver_run(
        &mut self,
        run: &Run<'_>,
        options: &[LiveOptions],
        cx: &Cx<'_>,
        out: &mut impl Outbox,
        deliveries: &mut Deliveries,
    ) {
        if let [only] = options
            && self.put_run(run, Tag::unpack(only.tag), out)
        {
            let count = run.messages().len() as u64;
            deliveries.add(Delivery::Delivered, count);
            let bytes = run.payload_bytes();
            self.tally.messages_out(Qos::AtMostOnce, count, bytes);
            return;
        }
        for message in run.messages() {
            deliveries.add(self.deliver(message, options, cx, out), 1);
        }
    }

    /// Sends a run as the bytes that it is for many; `false` if this client needs others.
    fn put_run(&mut self, run: &Run<'_>, tag: Tag, out: &mut impl Outbox) -> bool {
        let Some(first) = run.messages().first().filter(|_| self.is_open()) else {
            return false;
        };
        let as_it_is = wanted_qos(first, tag) == Qos::AtMostOnce
            && tag.id.is_none()
            && !tag.screened
            && self.aliases.is_none()
            && !self.is_elsewhere()
            && self.hooked.wants(hooks::EACH_COPY).is_none();
        as_it_is && frame::put_run(run, self.hello.version, self.hello.packet_max, out)
    }

    /// How the subscription with this tag gets the message; `None`: not at all.
    fn copy_for(&mut self, message: &SharedMessage, tag: Tag) -> Option<Wanted> {
        if tag.screened
            && !self.grants.allows_in(
                Right::Consume,
                SubjectRef::from(&message.subject),
                tag.manner(),
            )
        {
            return None;
        }
        Some(wanted(message, tag))
    }

    fn send(
        &mut self,
        message: &SharedMessage,
        wanted: Wanted,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Delivery {
        if wanted.qos == Qos::AtMostOnce {
            if out.is_full() {
                return Delivery::Dropped(DropReason::OutboxFull);
            }
            let sent = self.put(
                message,
                wanted.qos,
                wanted.retain,
                wanted.ids.as_slice(),
                None,
                false,
                cx,
                out,
            );
            return match sent {
                Ok(()) => Delivery::Delivered,
                Err(reason) => Delivery::Dropped(reason),
            };
        }
        let copy = Copy {
            message: SharedMessage::clone(message),
            qos: wanted.qos,
            retain: wanted.retain,
            ids: wanted.ids,
            source: None,
        };
        let outbound = &self.state.outbound;
        if outbound.is_clear(self.window) && (!out.is_full() || outbound.is_idle()) {
            return match self.send_assured(copy, cx, out) {
                Ok(()) => Delivery::Delivered,
                Err((reason, _)) => Delivery::Dropped(reason),
            };
        }
        if outbound.in_flight() == usize::from(u16::MAX) {
            self.hooked.tell(Points::PACKET_IDS_EXHAUSTED, |client| {
                Event::PacketIdsExhausted { client }
            });
        }
        if wanted.only_now {
            return Delivery::Dropped(DropReason::OutboxFull);
        }
        match self.state.queue(copy, cx) {
            Queued::Yes => Delivery::Delivered,
            Queued::No => Delivery::Dropped(DropReason::OutboxFull),
            Queued::Expel => {
                self.expelled = Some(ReasonCode::QuotaExceeded);
                Delivery::Dropped(DropReason::OutboxFull)
            }
        }
    }

    /// Sends a message at QoS 1 or 2 under a new id, at QoS 2 from a stream when the id is durable there. One that
    /// cannot be sent comes back.
    pub(super) fn send_assured(
        &mut self,
        copy: Copy,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), (DropReason, SharedMessage)> {
        let id = self.state.outbound.free_id();
        let source = copy.source;
        let qos = copy.qos;
        let waits = source.is_some() && self.waits_for_mark(qos);
        if !waits && let Err(reason) = self.put_copy(&copy, id, false, cx, out) {
            if let Some(source) = source {
                self.refuse(source);
            }
            return Err((reason, copy.message));
        }
        self.state.outbound.fly(id, copy);
        if let Some(source) = source {
            self.mark_sent(id, source, qos, waits);
        }
        Ok(())
    }

    /// Sends a message at QoS 0.
    pub(super) fn put_plain(
        &mut self,
        copy: &Copy,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), DropReason> {
        let ids = copy.ids.as_slice();
        let qos = Qos::AtMostOnce;
        self.put(&copy.message, qos, copy.retain, ids, None, false, cx, out)
    }

    pub(super) fn put_copy(
        &mut self,
        copy: &Copy,
        id: PacketId,
        dup: bool,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), DropReason> {
        let ids = copy.ids.as_slice();
        self.put(
            &copy.message,
            copy.qos,
            copy.retain,
            ids,
            Some(id),
            dup,
            cx,
            out,
        )
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one packet")]
    fn put(
        &mut self,
        message: &SharedMessage,
        qos: Qos,
        retain: bool,
        ids: &[std::num::NonZeroU32],
        packet_id: Option<PacketId>,
        dup: bool,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), DropReason> {
        let changed;
        let mut message = message;
        if let Some(client) = self.hooked.wants(hooks::COPYING) {
            match client.copy(message) {
                Ok(None) => {}
                Ok(Some(new)) => {
                    changed = new;
                    message = &changed;
                }
                Err(()) => return Err(DropReason::Denied),
            }
        }
        let Some(hidden) = self.hidden(&message.subject) else {
            return Err(DropReason::Denied);
        };
        let aliases = self.aliases.as_mut();
        let style = Style {
            hidden,
            version: self.hello.version,
            qos,
            retain,
            dup,
            packet_id,
            ids,
            alias: aliases.and_then(|table| table.choose(&message.subject)),
        };
        let max = self.hello.packet_max;
        let sent = match self.hooked.wants(Points::PACKET_SENT) {
            None => frame::put(message, &style, cx.now, max, out),
            Some(client) => hooks::put(client, out, |whole| {
                frame::put(message, &style, cx.now, max, whole)
            }),
        };
        if let (Some(packet_id), Ok(())) = (packet_id, &sent) {
            self.hooked.tell(Points::IN_FLIGHT, |client| {
                let message = SharedMessage::clone(message);
                let change = if dup {
                    FlightChange::Resent(message)
                } else {
                    FlightChange::Sent(message)
                };
                Event::InFlight {
                    client,
                    packet_id,
                    change,
                }
            });
        }
        if sent.is_ok() {
            self.tally.message_out(qos, message.payload.len());
        }
        sent.map_err(|unsent| {
            if let Some(table) = &mut self.aliases {
                table.forget();
            }
            match unsent {
                Unsent::TooLarge | Unsent::Unspeakable => DropReason::TooLarge,
            }
        })
    }

    /// Sends what waits and has room now: first what was in flight on an earlier connection, then the queue, then
    /// retained messages.
    pub fn pump(&mut self, cx: &Cx<'_>, out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        while let Some(again) = self.state.outbound.next_again(self.window) {
            match again {
                Again::Release(id) => self.say(&Packet::Pubrel(Ack::success(id)), out),
                Again::Publish(id, copy) => {
                    if let Err(reason) = self.put_copy(&copy, id, true, cx, out) {
                        self.give_up(id);
                        self.state.drop_messages(cx, reason, 1);
                        self.tell_flight(id, FlightChange::Dropped(reason));
                        self.tell_dropped(&copy.message, reason);
                    }
                }
            }
        }
        self.settle_landed();
        loop {
            if out.is_full() && !self.state.outbound.is_idle() {
                // An acknowledgement will come when the client has read.
                return;
            }
            let Some(copy) = self.state.outbound.next(self.window) else {
                break;
            };
            if copy.message.is_expired(cx.now) {
                self.state.drop_messages(cx, DropReason::Expired, 1);
                self.tell_dropped(&copy.message, DropReason::Expired);
                if let Some(source) = copy.source {
                    self.done_with(source);
                }
            } else {
                let given_back = copy.source.is_some_and(Source::is_given_back);
                if let Err((reason, message)) = self.send_assured(copy, cx, out)
                    && !given_back
                {
                    self.state.drop_messages(cx, reason, 1);
                    self.tell_dropped(&message, reason);
                }
            }
        }
        self.replay(cx, out);
    }

    fn replay(&mut self, cx: &Cx<'_>, out: &mut impl Outbox) {
        if !self.replays.is_there() {
            return;
        }
        let mut steps = REPLAY_STEPS;
        while let Some(mut replay) = self.replays.pop_front() {
            loop {
                if out.is_full() {
                    out.ask_for_room();
                    self.replays.push_front(replay);
                    return;
                }
                if replay.tag.qos != Qos::AtMostOnce && !self.state.outbound.is_clear(self.window) {
                    self.replays.push_front(replay);
                    return;
                }
                let message = match replay.next(cx, &mut steps) {
                    Replayed::Message(message) => message,
                    Replayed::End => break,
                    Replayed::Later => {
                        out.ask_for_room();
                        self.replays.push_front(replay);
                        return;
                    }
                };
                if cx.limits.retain_source_checked && !replay.sources.may(&message, cx) {
                    continue;
                }
                let Some(mut wanted) = self.copy_for(&message, replay.tag) else {
                    continue;
                };
                wanted.retain = true;
                match self.send(&message, wanted, cx, out) {
                    Delivery::Delivered => self.hooked.tell(Points::RETAINED, |client| {
                        Event::Retained(RetainedChange::Sent(
                            client,
                            SharedMessage::clone(&message),
                        ))
                    }),
                    Delivery::Dropped(reason) => {
                        self.state.drop_messages(cx, reason, 1);
                        self.tell_dropped(&message, reason);
                    }
                }
            }
        }
        self.replays = Rare::default();
    }

    pub(super) fn puback(
        &mut self,
        ack: &Ack<'_>,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        let acked = self.state.outbound.puback(ack.packet_id);
        self.ended(acked, ack.packet_id, cx, out)
    }

    pub(super) fn pubrec(
        &mut self,
        ack: &Ack<'_>,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        let failed = ack.reason.is_error();
        match self.state.outbound.pubrec(ack.packet_id, failed) {
            Acked::Wrong => return Err(WRONG_ACK),
            Acked::Unknown if failed => {}
            Acked::Release | Acked::Unknown => {
                if !self.mark_released(ack.packet_id) {
                    self.say(&Packet::Pubrel(Ack::success(ack.packet_id)), out);
                }
            }
            Acked::Done => {
                self.completed(ack.packet_id, cx, out);
            }
        }
        Ok(())
    }

    pub(super) fn pubcomp(
        &mut self,
        ack: &Ack<'_>,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        let acked = self.state.outbound.pubcomp(ack.packet_id);
        self.ended(acked, ack.packet_id, cx, out)
    }

    /// What was sent under an id is over with this acknowledgement, if it was under way.
    fn ended(
        &mut self,
        acked: Acked,
        id: PacketId,
        cx: &Cx<'_>,
        out: &mut impl Outbox,
    ) -> Result<(), Broken> {
        match acked {
            Acked::Wrong => return Err(WRONG_ACK),
            Acked::Unknown => {}
            Acked::Done | Acked::Release => self.completed(id, cx, out),
        }
        Ok(())
    }

    /// The client is done with a message.
    fn completed(&mut self, id: PacketId, cx: &Cx<'_>, out: &mut impl Outbox) {
        self.tell_flight(id, FlightChange::Completed);
        self.settle_landed();
        self.pump(cx, out);
    }

    /// Messages that are in flight, and that wait.
    #[must_use]
    pub fn outstanding(&self) -> (usize, usize) {
        let outbound = &self.state.outbound;
        (outbound.in_flight(), outbound.queued())
    }
}

const WRONG_ACK: Broken = Broken(
    ReasonCode::ProtocolError,
    "an acknowledgement that does not go with the message",
);

fn wanted_qos(message: &SharedMessage, tag: Tag) -> Qos {
    if tag.upgraded {
        return tag.qos;
    }
    message::qos(message.quality).min(tag.qos)
}

/// How a subscription gets a message.
pub(super) fn wanted(message: &SharedMessage, tag: Tag) -> Wanted {
    let mut ids = Ids::None;
    ids.push(tag.id);
    Wanted {
        qos: wanted_qos(message, tag),
        retain: tag.retain_as_published && message.retain,
        ids,
        only_now: false,
    }
}

/// Whether a message has found a place in the queue.
enum Queued {
    Yes,
    No,
    Expel,
}

impl State {
    /// Adds what waits in `later` behind what waits here.
    pub fn append(&mut self, later: State) {
        self.outbound.append(later.outbound);
    }

    fn queue(&mut self, copy: Copy, cx: &Cx<'_>) -> Queued {
        let overflow = self.outbound.push(copy, &queue_limits(cx.limits), cx.now);
        self.drop_messages(cx, DropReason::Expired, overflow.expired);
        let others = overflow.dropped - u64::from(overflow.refused);
        self.drop_messages(cx, DropReason::OutboxFull, others);
        match overflow {
            overflow if overflow.disconnect => Queued::Expel,
            overflow if overflow.refused => Queued::No,
            _ => Queued::Yes,
        }
    }

    /// A message for a session without a connection: kept at QoS 1 and 2.
    pub fn keep(
        &mut self,
        message: &SharedMessage,
        options: &[LiveOptions],
        cx: &Cx<'_>,
    ) -> Delivery {
        let mut outcome = Delivery::Dropped(DropReason::Closed);
        for options in options {
            let wanted = wanted(message, Tag::unpack(options.tag));
            if wanted.qos == Qos::AtMostOnce {
                continue;
            }
            if options.only_now {
                // Somebody else may be there.
                outcome = Delivery::Dropped(DropReason::OutboxFull);
                continue;
            }
            let copy = Copy {
                message: SharedMessage::clone(message),
                qos: wanted.qos,
                retain: wanted.retain,
                ids: wanted.ids,
                source: None,
            };
            outcome = match self.queue(copy, cx) {
                Queued::Yes => Delivery::Delivered,
                Queued::No | Queued::Expel => {
                    self.drops.add(DropReason::OutboxFull, 1);
                    Delivery::Dropped(DropReason::OutboxFull)
                }
            };
        }
        outcome
    }
}

fn queue_limits(limits: &Limits) -> QueueLimits {
    QueueLimits {
        messages: limits.queue_messages,
        bytes: limits.queue_bytes,
        policy: limits.queue_policy,
    }
}
