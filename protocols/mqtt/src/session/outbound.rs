//! What is on its way to the client at QoS 1 and 2: the messages in flight under their packet ids, and those that wait
//! behind the window.
//!
//! A slot of the window is taken by a PUBLISH and given back by PUBACK, PUBCOMP or a PUBREC that says no (MQTT 5.0,
//! 4.9). Packet ids go up and skip those in use, so that a client that mixes old and new acknowledgements is found out.

mod flights;

use std::collections::VecDeque;
use std::num::NonZeroU32;

use hashbrown::HashSet;
use longtail_broker::message::SharedMessage;
use longtail_model::{GroupId, Timestamp};

use flights::Flights;

use super::feed::{Mark, Source};
use super::kept::{InFlight, Origin, Sent};
use crate::codec::{PacketId, Qos};
use crate::config::QueuePolicy;

/// A message for this client.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(super) message: SharedMessage,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) ids: Ids,
    /// The stream's group that it comes from; `None`: it is in memory only.
    pub(super) source: Option<Source>,
}

impl Copy {
    /// The message.
    pub(crate) fn message(&self) -> &SharedMessage {
        &self.message
    }

    fn bytes(&self) -> usize {
        self.message.payload.len()
    }

    /// Whether it expires at some time.
    fn is_mortal(&self) -> bool {
        self.message.expires != Timestamp::NEVER
    }
}

/// Identifiers of the subscriptions that a copy is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Ids {
    #[default]
    None,
    One(NonZeroU32),
    Many(Box<[NonZeroU32]>),
}

impl Ids {
    pub(super) fn as_slice(&self) -> &[NonZeroU32] {
        match self {
            Ids::None => &[],
            Ids::One(id) => std::slice::from_ref(id),
            Ids::Many(ids) => ids,
        }
    }

    pub(super) fn push(&mut self, id: Option<NonZeroU32>) {
        let Some(id) = id else { return };
        *self = match std::mem::take(self) {
            Ids::None => Ids::One(id),
            Ids::One(first) => Ids::Many(Box::new([first, id])),
            Ids::Many(ids) => Ids::Many(ids.into_iter().chain([id]).collect()),
        };
    }
}

/// Where a message in flight stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// PUBACK or PUBREC is due.
    Sent,
    /// PUBREL was sent, PUBCOMP is due.
    Released,
}

/// What is to be known of a message that is on record.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its place in a share.
    pub(super) origin: Option<Origin>,
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// The message is done with.
    Done,
    /// PUBREL is to be sent.
    Release,
    /// There is no such id.
    Unknown,
    /// There is, but not at this point.
    Wrong,
}

/// What is sent again on a new connection.
#[derive(Debug)]
pub(super) enum Again {
    /// PUBLISH with DUP.
    Publish(PacketId, Copy),
    /// PUBREL.
    Release(PacketId),
}

/// Messages that found no room.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    /// How many were dropped because there was no room.
    pub(super) dropped: u64,
    /// How many were dropped because they had expired.
    pub(super) expired: u64,
    /// The new one is among them.
    pub(super) refused: bool,
    /// The client is to be disconnected.
    pub(super) disconnect: bool,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) policy: QueuePolicy,
}

/// The sending side of a session.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    flights: Flights,
    /// None until something has to wait, or comes from a stream.
    rest: Option<Box<Rest>>,
    sends: u64,
    /// Slots of the window that are taken.
    taken: usize,
    last_id: u16,
    /// Nothing is sent until [`Outbound::resume`].
    waits: bool,
}

/// What a session that keeps up does without.
#[derive(Debug, Default)]
struct Rest {
    queue: VecDeque<Copy>,
    queue_bytes: usize,
    /// Messages in the queue that expire at some time.
    queue_mortal: usize,
    /// Ids to be sent again, in the order of sends.
    again: VecDeque<PacketId>,
    /// Messages of streams that are done with.
    landed: Vec<Source>,
    /// Those on record that are.
    forgotten: Vec<PacketId>,
    /// Ids of messages that are this session's alone until their PUBCOMP, which the log knows.
    duties: HashSet<PacketId, foldhash::fast::FixedState>,
    /// Those of them that are done with.
    fulfilled: Vec<PacketId>,
}

/// Room that an empty queue may keep, in messages.
const KEPT_CAPACITY: usize = 16;

impl Rest {
    fn push(&mut self, copy: Copy) {
        self.queue_bytes += copy.bytes();
        self.queue_mortal += usize::from(copy.is_mortal());
        self.queue.push_back(copy);
    }

    fn pop(&mut self) -> Option<Copy> {
        let copy = self.queue.pop_front()?;
        self.queue_bytes -= copy.bytes();
        self.queue_mortal -= usize::from(copy.is_mortal());
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
        Some(copy)
    }

    fn recount_queue(&mut self) {
        let left = self.queue.iter();
        (self.queue_bytes, self.queue_mortal) = left.fold((0, 0), |(bytes, mortal), copy| {
            (bytes + copy.bytes(), mortal + usize::from(copy.is_mortal()))
        });
    }

    /// Takes out of the queue what is not to be sent after all.
    fn sift(&mut self, mut stays: impl FnMut(&SharedMessage) -> bool) -> Vec<Copy> {
        let queue = std::mem::take(&mut self.queue);
        let mut taken = Vec::new();
        for copy in queue {
            if stays(&copy.message) {
                self.queue.push_back(copy);
            } else {
                taken.push(copy);
            }
        }
        self.recount_queue();
        taken
    }

    /// Forgets what waits and has expired; returns how many.
    fn expire(&mut self, now: Timestamp) -> u64 {
        if self.queue_mortal == 0 {
            return 0;
        }
        let before = self.queue.len();
        let landed = &mut self.landed;
        self.queue.retain(|copy| {
            let expired = copy.message.is_expired(now);
            if expired {
                landed.extend(copy.source);
            }
            !expired
        });
        self.recount_queue();
        (before - self.queue.len()) as u64
    }
}

impl Outbound {
    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Payload bytes of the messages that wait.
    pub(super) fn queued_bytes(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.queue_bytes)
    }

    /// Messages that wait.
    pub(super) fn queued(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.queue.len())
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Whether a new message may be sent past the queue.
    pub(super) fn is_clear(&self, window: u16) -> bool {
        let rest = self.rest.as_ref();
        let nobody_waits = rest.is_none_or(|rest| rest.queue.is_empty() && rest.again.is_empty());
        !self.waits && nobody_waits && self.has_slot(window)
    }

    fn has_slot(&self, window: u16) -> bool {
        self.taken < usize::from(window) && self.flights.len() < usize::from(u16::MAX)
    }

    /// Whether nothing at all is under way, so that no acknowledgement will come.
    pub(super) fn is_idle(&self) -> bool {
        self.taken == 0
    }

    /// The id that [`Outbound::fly`] is to be given next; there is one while `is_clear` or `next` say so.
    pub(super) fn free_id(&mut self) -> PacketId {
        let free = self.flights.free_id(self.last_id);
        free.unwrap_or(PacketId::MIN)
    }

    /// `copy` was sent under `id`.
    pub(super) fn fly(&mut self, id: PacketId, copy: Copy) {
        self.last_id = id.get();
        self.sends += 1;
        self.taken += 1;
        self.flights.insert(id, copy, self.sends, true);
    }

    /// Queues `copy`.
    pub(super) fn push(&mut self, copy: Copy, limits: &QueueLimits, now: Timestamp) -> Overflow {
        let mut overflow = Overflow::default();
        let bytes = copy.bytes();
        let rest = self.rest();
        while rest.queue.len() >= limits.messages
            || rest.queue_bytes.saturating_add(bytes) > limits.bytes
        {
            // What has expired holds no place.
            let expired = rest.expire(now);
            overflow.expired += expired;
            if expired > 0 {
                continue;
            }
            overflow.dropped += 1;
            let oldest = match limits.policy {
                QueuePolicy::DropOldest if bytes <= limits.bytes => rest.pop(),
                QueuePolicy::DropOldest | QueuePolicy::DropNewest => None,
                QueuePolicy::Disconnect => {
                    overflow.disconnect = true;
                    None
                }
            };
            if oldest.is_none() {
                overflow.refused = true;
                return overflow;
            }
        }
        rest.push(copy);
        overflow
    }

    /// The messages that wait, in their order, at the QoS at which they are sent.
    pub(super) fn queued_messages(&self) -> Vec<(SharedMessage, Qos, Option<PacketId>)> {
        let queue = self.rest.iter().flat_map(|rest| &rest.queue);
        let shown = queue.map(|copy| (SharedMessage::clone(&copy.message), copy.qos, None));
        shown.collect()
    }

    /// The messages in flight whose PUBLISH is not answered, in the order of sends.
    pub(super) fn sent_messages(&self) -> Vec<(SharedMessage, Qos, Option<PacketId>)> {
        let mut sent = self.flights.sent();
        sent.sort_unstable_by_key(|(send, ..)| *send);
        let shown = sent.into_iter();
        shown
            .map(|(_, id, message, qos)| (message, qos, Some(id)))
            .collect()
    }

    /// Takes out of the queue what is not to be sent after all.
    pub(super) fn sift(&mut self, stays: impl FnMut(&SharedMessage) -> bool) -> Vec<Copy> {
        let rest = self.rest.as_mut();
        rest.map_or_else(Vec::new, |rest| rest.sift(stays))
    }

    /// The next message that waits, if the window has room for it.
    pub(super) fn next(&mut self, window: u16) -> Option<Copy> {
        if self.waits || !self.has_slot(window) {
            return None;
        }
        let rest = self.rest.as_mut()?;
        if !rest.again.is_empty() {
            return None;
        }
        rest.pop()
    }

    /// PUBACK.
    pub(super) fn puback(&mut self, id: PacketId) -> Acked {
        match self.flights.get(id) {
            None => Acked::Unknown,
            Some(flight) if flight.qos == Qos::AtLeastOnce => {
                self.land(id);
                Acked::Done
            }
            Some(_) => Acked::Wrong,
        }
    }

    /// PUBREC; `failed`: with a reason of 0x80 or above.
    pub(super) fn pubrec(&mut self, id: PacketId, failed: bool) -> Acked {
        let Some(flight) = self.flights.get_mut(id) else {
            return Acked::Unknown;
        };
        if flight.qos != Qos::ExactlyOnce {
            return Acked::Wrong;
        }
        if failed {
            self.land(id);
            return Acked::Done;
        }
        flight.release();
        Acked::Release
    }

    /// PUBCOMP.
    pub(super) fn pubcomp(&mut self, id: PacketId) -> Acked {
        match self.flights.get(id) {
            None => Acked::Unknown,
            Some(flight) if flight.stage == Stage::Released => {
                self.land(id);
                Acked::Done
            }
            Some(_) => Acked::Wrong,
        }
    }

    fn land(&mut self, id: PacketId) {
        let Some(landed) = self.flights.remove(id) else {
            return;
        };
        if landed.counts {
            self.taken = self.taken.saturating_sub(1);
        }
        if let Some(source) = landed.source {
            self.rest().landed.push(source);
        } else if let Some(rest) = &mut self.rest
            && !rest.duties.is_empty()
            && rest.duties.remove(&id)
        {
            rest.fulfilled.push(id);
        }
        if landed.was_kept {
            self.rest().forgotten.push(id);
        }
    }

    /// A new connection: what is in flight is sent again before anything else. Slots are taken as it is.
    pub(super) fn resume(&mut self) {
        self.waits = false;
        self.taken = 0;
        if self.flights.is_empty() {
            if let Some(rest) = &mut self.rest {
                rest.again = VecDeque::new();
            }
            return;
        }
        let mut order: Vec<(u64, u16)> = Vec::with_capacity(self.flights.len());
        for flight in self.flights.iter_mut() {
            flight.counts = false;
            flight.waits = true;
            order.push((flight.send, flight.id()));
        }
        order.sort_unstable();
        self.rest().again = order
            .into_iter()
            .filter_map(|(_, id)| PacketId::new(id))
            .collect();
    }

    /// The next to be sent again, if the window has room for it.
    pub(super) fn next_again(&mut self, window: u16) -> Option<Again> {
        if self.waits {
            return None;
        }
        let rest = self.rest.as_mut()?;
        while let Some(&id) = rest.again.front() {
            let Some(flight) = self.flights.get_mut(id).filter(|flight| flight.waits) else {
                rest.again.pop_front();
                continue;
            };
            if flight.is_released() {
                flight.waits = false;
                rest.again.pop_front();
                return Some(Again::Release(id));
            }
            if self.taken >= usize::from(window) {
                return None;
            }
            flight.waits = false;
            flight.counts = true;
            self.taken += 1;
            rest.again.pop_front();
            return Some(Again::Publish(id, self.flights.copy(id)?));
        }
        if rest.again.capacity() > KEPT_CAPACITY {
            rest.again = VecDeque::new();
        }
        None
    }

    /// The message under `id` cannot be sent on this connection. It is done with, as if acknowledged; one of a share is
    /// given back.
    pub(super) fn give_up(&mut self, id: PacketId) -> Option<Source> {
        let source = self.flights.source(id);
        let shared = source
            .filter(|source| source.is_shared)
            .and_then(|_| self.flights.take_source(id));
        self.land(id);
        shared
    }

    /// Whether something is under way under `id`.
    pub(super) fn is_in_use(&self, id: PacketId) -> bool {
        self.flights.get(id).is_some()
    }

    /// The message under `id`, which is released, is of no stream any more: it is the session's. With `lasting` the log
    /// is to know.
    pub(super) fn own(&mut self, id: PacketId, lasting: bool) {
        let was_shared = self.flights.take_source(id);
        if lasting && was_shared.is_some() {
            self.rest().duties.insert(id);
        }
    }

    /// The message under `id` is of no stream any more. With `kept`, it is on record.
    pub(super) fn part(&mut self, id: PacketId, kept: Option<Kept>) {
        self.flights.take_source(id);
        if let Some(kept) = kept {
            self.flights.keep(id, kept);
        }
    }

    /// What is in flight of a group.
    pub(super) fn of_group(&self, group: GroupId) -> Vec<(PacketId, Source)> {
        self.flights.of_group(group)
    }

    /// Takes what waits behind the window of a group out of the queue.
    pub(super) fn take_waiting(&mut self, group: GroupId) -> Vec<Source> {
        let mut taken = Vec::new();
        let Some(rest) = &mut self.rest else {
            return taken;
        };
        rest.queue.retain(|copy| {
            let source = copy.source.filter(|source| source.group == group);
            taken.extend(source);
            source.is_none()
        });
        if !taken.is_empty() {
            rest.recount_queue();
        }
        taken
    }

    /// What the record of the message under `id` has to say, if it is on record.
    pub(super) fn record_of(&self, id: PacketId) -> Option<InFlight> {
        let flight = self.flights.get(id)?;
        let kept = self.flights.kept(id)?;
        Some(InFlight {
            id,
            send: flight.send,
            sent: self.flights.copy(id).as_ref().map(Sent::of),
            origin: kept.origin.clone(),
        })
    }

    /// A message that was found on record.
    pub(super) fn restore(&mut self, flight: InFlight) {
        let InFlight {
            id,
            send,
            sent,
            origin,
        } = flight;
        if send >= self.sends {
            self.sends = send;
            self.last_id = id.get();
        }
        match sent {
            Some(sent) => self.flights.insert(id, sent.into_copy(), send, false),
            None => {
                let stage = Stage::Released;
                self.flights.insert_released(id, None, stage, send);
            }
        }
        self.flights.keep(id, Kept { origin });
    }

    /// The ids under which messages are on record.
    pub(super) fn kept_ids(&self) -> Vec<PacketId> {
        self.flights.kept_ids()
    }

    /// Whether what is on record under the id of `mark` is what was found marked, at this place of a share if it is of
    /// one.
    pub(super) fn is_kept(&self, mark: Mark, shared: Option<&Origin>) -> bool {
        let (flight, kept) = (self.flights.get(mark.id), self.flights.kept(mark.id));
        flight.zip(kept).is_some_and(|(flight, kept)| match shared {
            Some(shared) => kept.origin.as_ref() == Some(shared),
            None => kept.origin.is_none() && flight.send == mark.send,
        })
    }

    /// A message that the session owns, as the log has it: PUBREL is due, and was due at this place in the order of
    /// sends.
    pub(super) fn restore_duty(&mut self, id: PacketId, send: u64) {
        self.sends = self.sends.max(send);
        self.flights
            .insert_released(id, None, Stage::Released, send);
        self.rest().duties.insert(id);
    }

    /// The ids of what the session owns.
    pub(super) fn duties(&self) -> impl Iterator<Item = PacketId> {
        let rest = self.rest.iter();
        rest.flat_map(|rest| rest.duties.iter().copied())
    }

    /// The next that the session owned and is done with.
    pub(super) fn take_fulfilled(&mut self) -> Option<PacketId> {
        self.rest.as_mut()?.fulfilled.pop()
    }

    /// Sends nothing until [`Outbound::resume`].
    pub(super) fn hold_back(&mut self) {
        self.waits = true;
        if let Some(rest) = &mut self.rest {
            rest.again = VecDeque::new();
        }
    }

    /// A message of a stream that was under way on an earlier connection; what it was, unless it is released.
    pub(super) fn revive(&mut self, mark: Mark, copy: Option<Copy>, source: Source) {
        self.sends = self.sends.max(mark.send);
        self.last_id = mark.id.get();
        match copy.filter(|_| mark.stage != Stage::Released) {
            Some(copy) => {
                let source = Some(source);
                let copy = Copy { source, ..copy };
                self.flights.insert(mark.id, copy, mark.send, false);
            }
            None => self
                .flights
                .insert_released(mark.id, Some(source), mark.stage, mark.send),
        }
    }

    /// A message of a stream that has no room now. There are as many as were asked for.
    pub(super) fn wait(&mut self, copy: Copy) {
        self.rest().push(copy);
    }

    /// The next message of a stream that is done with.
    pub(super) fn take_landed(&mut self) -> Option<Source> {
        self.rest.as_mut()?.landed.pop()
    }

    /// The id of the next message on record that is done with.
    pub(super) fn take_forgotten(&mut self) -> Option<PacketId> {
        self.rest.as_mut()?.forgotten.pop()
    }

    /// The place of the latest in the order of sends.
    pub(super) fn sends(&self) -> u64 {
        self.sends
    }

    /// Where the message under `id` comes from, and its place in the order of sends.
    pub(super) fn source(&self, id: PacketId) -> Option<(Source, u64)> {
        let flight = self.flights.get(id)?;
        Some((self.flights.source(id)?, flight.send))
    }

    /// What is under way under `id`, unless it is released.
    pub(super) fn copy(&self, id: PacketId) -> Option<Copy> {
        self.flights.copy(id)
    }

    /// The connection is over: what came from streams is there again.
    pub(super) fn forget_streams(&mut self) {
        self.flights.forget_streams();
        if let Some(rest) = &mut self.rest {
            rest.queue.retain(|copy| copy.source.is_none());
            rest.landed = Vec::new();
            rest.recount_queue();
        }
    }

    /// Adds what waits in `later` behind what waits here, whatever the limits say: each has kept to them.
    pub(super) fn append(&mut self, later: Outbound) {
        let Some(later) = later.rest.filter(|later| !later.queue.is_empty()) else {
            return;
        };
        let rest = self.rest();
        rest.queue_bytes += later.queue_bytes;
        rest.queue_mortal += later.queue_mortal;
        rest.queue.extend(later.queue);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use longtail_broker::message::Message;
    use longtail_model::Subject;

    use super::*;

    const NOW: Timestamp = Timestamp(5);

    fn copy(qos: Qos, payload: &'static [u8]) -> Copy {
        let subject = Subject::new("t").unwrap();
        Copy {
            message: Arc::new(Message::new(subject, Bytes::from_static(payload))),
            qos,
            retain: false,
            ids: Ids::None,
            source: None,
        }
    }

    fn send(out: &mut Outbound, qos: Qos) -> PacketId {
        let id = out.free_id();
        out.fly(id, copy(qos, b"m"));
        id
    }

    #[test]
    fn ids_ascend_skip_those_in_use_and_start_again_at_one() {
        let mut out = Outbound::default();
        let first = send(&mut out, Qos::AtLeastOnce);
        let second = send(&mut out, Qos::AtLeastOnce);
        assert_eq!((first.get(), second.get()), (1, 2));
        out.last_id = u16::MAX;
        assert_eq!(send(&mut out, Qos::AtLeastOnce).get(), 3);
        assert_eq!(out.puback(first), Acked::Done);
        out.last_id = u16::MAX;
        assert_eq!(send(&mut out, Qos::AtLeastOnce).get(), 1);
    }

    #[test]
    fn every_id_can_be_in_flight_and_then_none_is_free() {
        let mut out = Outbound::default();
        for _ in 0..u16::MAX {
            assert!(out.is_clear(u16::MAX));
            send(&mut out, Qos::AtLeastOnce);
        }
        assert!(!out.is_clear(u16::MAX));
        assert_eq!(out.in_flight(), 65_535);
    }

    #[test]
    fn qos_2_keeps_its_slot_until_pubcomp_or_a_failed_pubrec() {
        let mut out = Outbound::default();
        let (a, b) = (
            send(&mut out, Qos::ExactlyOnce),
            send(&mut out, Qos::ExactlyOnce),
        );
        assert!(!out.is_clear(2));
        assert_eq!(out.pubcomp(a), Acked::Wrong);
        assert_eq!(out.puback(a), Acked::Wrong);
        assert_eq!(out.pubrec(a, false), Acked::Release);
        assert_eq!(out.pubrec(a, false), Acked::Release, "again");
        assert!(!out.is_clear(2));
        assert_eq!(out.pubcomp(a), Acked::Done);
        assert!(out.is_clear(2));
        assert_eq!(out.pubrec(b, true), Acked::Done);
        assert_eq!(out.pubrec(b, true), Acked::Unknown);
        assert_eq!(out.in_flight(), 0);
        assert!(out.is_idle());
    }

    #[test]
    fn the_queue_keeps_to_count_and_bytes() {
        let limits = |policy| QueueLimits {
            messages: 2,
            bytes: 5,
            policy,
        };
        let qos = Qos::AtLeastOnce;
        let mut out = Outbound::default();
        let newest = limits(QueuePolicy::DropNewest);
        assert!(!out.push(copy(qos, b"123"), &newest, NOW).refused);
        assert!(out.push(copy(qos, b"456"), &newest, NOW).refused, "bytes");
        assert!(!out.push(copy(qos, b"7"), &newest, NOW).refused);
        assert!(out.push(copy(qos, b""), &newest, NOW).refused, "count");
        let oldest = out.push(copy(qos, b"89012"), &limits(QueuePolicy::DropOldest), NOW);
        assert_eq!((oldest.dropped, oldest.refused), (2, false));
        let over = out.push(copy(qos, b"1"), &limits(QueuePolicy::Disconnect), NOW);
        assert!(over.refused && over.disconnect);
        let huge = out.push(copy(qos, b"123456"), &limits(QueuePolicy::DropOldest), NOW);
        assert!(huge.refused, "what fits nowhere pushes nothing out");
        assert_eq!(&out.next(1).unwrap().message.payload[..], b"89012");
    }

    #[test]
    fn what_the_session_owns_is_released_until_pubcomp() {
        let mut out = Outbound::default();
        let id = |id| PacketId::new(id).unwrap();
        for (duty, send) in [(7, 2), (9, 1)] {
            out.restore_duty(id(duty), send);
        }
        out.forget_streams();
        out.resume();
        for due in [9, 7] {
            let next = out.next_again(1);
            assert!(matches!(next, Some(Again::Release(next)) if next == id(due)));
        }
        assert_eq!(out.puback(id(7)), Acked::Wrong);
        assert_eq!(out.pubcomp(id(7)), Acked::Done);
        assert_eq!(out.take_fulfilled(), Some(id(7)));
        assert_eq!(out.take_fulfilled(), None);
        assert_eq!(out.duties().collect::<Vec<_>>(), [id(9)]);
    }

    #[test]
    fn what_a_share_gave_is_owed_from_pubrec_on_by_a_session_that_lasts() {
        for lasting in [true, false] {
            let mut out = Outbound::default();
            let shared = Copy {
                source: Some(Source::of_share(5)),
                ..copy(Qos::ExactlyOnce, b"m")
            };
            let id = out.free_id();
            out.fly(id, shared);
            assert_eq!(out.pubrec(id, false), Acked::Release);
            out.own(id, lasting);
            assert_eq!(out.duties().count(), usize::from(lasting));
            // It is nobody else's when the connection ends.
            out.forget_streams();
            assert_eq!(out.pubcomp(id), Acked::Done);
            assert_eq!(out.take_landed(), None);
            assert_eq!(out.take_fulfilled(), lasting.then_some(id));
        }
    }

    #[test]
    fn a_new_connection_gets_everything_again_in_the_order_of_sends() {
        let mut out = Outbound {
            last_id: 65_533,
            ..Outbound::default()
        };
        let ids: Vec<PacketId> = (0..4).map(|_| send(&mut out, Qos::ExactlyOnce)).collect();
        out.pubrec(ids[1], false);
        let queued = QueueLimits {
            messages: 10,
            bytes: 100,
            policy: QueuePolicy::DropNewest,
        };
        out.push(copy(Qos::AtLeastOnce, b"later"), &queued, NOW);
        out.resume();
        assert!(out.next(10).is_none(), "what was sent comes first");
        let mut again = Vec::new();
        while let Some(next) = out.next_again(2) {
            again.push(match next {
                Again::Publish(id, _) => (id, true),
                Again::Release(id) => (id, false),
            });
        }
        assert_eq!(again, [(ids[0], true), (ids[1], false), (ids[2], true)]);
        assert!(out.next_again(2).is_none(), "the window is full");
        out.pubrec(ids[0], true);
        assert!(matches!(out.next_again(2), Some(Again::Publish(id, _)) if id == ids[3]));
        assert!(out.next(2).is_none());
        assert_eq!(out.pubcomp(ids[1]), Acked::Done);
        assert!(
            out.next(2).is_none(),
            "a PUBREL took no slot of this connection"
        );
        out.pubrec(ids[2], true);
        assert_eq!(&out.next(2).unwrap().message.payload[..], b"later");
    }
}
