//! What is on its way to the client at QoS 1 and 2: the messages in flight under their packet ids, and those that wait
//! behind the window.
//!
//! A slot of the window is taken by a PUBLISH and given back by PUBACK, PUBCOMP or a PUBREC that says no (MQTT 5.0,
//! 4.9). Packet ids go up and skip those in use, so that a client that mixes old and new acknowledgements is found out.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use hashbrown::HashMap;
use longtail_broker::message::SharedMessage;
use longtail_model::Timestamp;

use super::feed::{Mark, Source};
use crate::codec::{PacketId, Qos};
use crate::config::QueuePolicy;

/// A message for this client.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) message: SharedMessage,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) ids: Ids,
    /// The stream's group that it comes from; `None`: it is in memory only.
    pub(super) source: Option<Source>,
}

impl Copy {
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

/// A message in flight.
#[derive(Debug)]
struct Flight {
    /// Absent once it is released: nothing of it is needed any more.
    copy: Option<Copy>,
    source: Option<Source>,
    qos: Qos,
    stage: Stage,
    /// Its place in the order of sends.
    send: u64,
    /// Whether it takes a slot of the window.
    counts: bool,
    /// Whether it is still to be sent again on this connection.
    waits: bool,
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
    flights: HashMap<u16, Flight, foldhash::fast::FixedState>,
    queue: VecDeque<Copy>,
    queue_bytes: usize,
    /// Messages in the queue that expire at some time.
    queue_mortal: usize,
    /// Ids to be sent again, in the order of sends.
    again: VecDeque<u16>,
    last_id: u16,
    sends: u64,
    /// Slots of the window that are taken.
    taken: usize,
    /// Messages of streams that are done with.
    landed: Vec<Source>,
    /// Nothing is sent until [`Outbound::resume`].
    waits: bool,
}

/// Room that an empty queue may keep, in messages.
const KEPT_CAPACITY: usize = 16;

impl Outbound {
    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Payload bytes of the messages that wait.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Messages that wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether a new message may be sent past the queue.
    pub(super) fn is_clear(&self, window: usize) -> bool {
        !self.waits && self.queue.is_empty() && self.again.is_empty() && self.has_slot(window)
    }

    fn has_slot(&self, window: usize) -> bool {
        self.taken < window && self.flights.len() < usize::from(u16::MAX)
    }

    /// Whether nothing at all is under way, so that no acknowledgement will come.
    pub(super) fn is_idle(&self) -> bool {
        self.taken == 0
    }

    /// The id that [`Outbound::fly`] is to be given next; there is one while `is_clear` or `next` say so.
    pub(super) fn free_id(&self) -> PacketId {
        let mut id = self.last_id;
        for _ in 0..=u16::MAX {
            id = id.wrapping_add(1);
            if let Some(free) = PacketId::new(id)
                && !self.flights.contains_key(&id)
            {
                return free;
            }
        }
        PacketId::MIN
    }

    /// `copy` was sent under `id`.
    pub(super) fn fly(&mut self, id: PacketId, copy: Copy) {
        self.last_id = id.get();
        self.sends += 1;
        self.taken += 1;
        let flight = Flight {
            qos: copy.qos,
            source: copy.source,
            copy: Some(copy),
            stage: Stage::Sent,
            send: self.sends,
            counts: true,
            waits: false,
        };
        self.flights.insert(id.get(), flight);
    }

    /// Queues `copy`.
    pub(super) fn push(&mut self, copy: Copy, limits: &QueueLimits, now: Timestamp) -> Overflow {
        let mut overflow = Overflow::default();
        let bytes = copy.bytes();
        while self.queue.len() >= limits.messages
            || self.queue_bytes.saturating_add(bytes) > limits.bytes
        {
            // What has expired holds no place.
            let expired = self.expire(now);
            overflow.expired += expired;
            if expired > 0 {
                continue;
            }
            overflow.dropped += 1;
            let oldest = match limits.policy {
                QueuePolicy::DropOldest if bytes <= limits.bytes => self.pop(),
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
        self.queue_bytes += bytes;
        self.queue_mortal += usize::from(copy.is_mortal());
        self.queue.push_back(copy);
        overflow
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

    /// The next message that waits, if the window has room for it.
    pub(super) fn next(&mut self, window: usize) -> Option<Copy> {
        if self.waits || !self.again.is_empty() || !self.has_slot(window) {
            return None;
        }
        self.pop()
    }

    /// PUBACK.
    pub(super) fn puback(&mut self, id: PacketId) -> Acked {
        match self.flights.get(&id.get()) {
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
        let Some(flight) = self.flights.get_mut(&id.get()) else {
            return Acked::Unknown;
        };
        if flight.qos != Qos::ExactlyOnce {
            return Acked::Wrong;
        }
        if failed {
            self.land(id);
            return Acked::Done;
        }
        flight.stage = Stage::Released;
        flight.copy = None;
        flight.waits = false;
        Acked::Release
    }

    /// PUBCOMP.
    pub(super) fn pubcomp(&mut self, id: PacketId) -> Acked {
        match self.flights.get(&id.get()) {
            None => Acked::Unknown,
            Some(flight) if flight.stage == Stage::Released => {
                self.land(id);
                Acked::Done
            }
            Some(_) => Acked::Wrong,
        }
    }

    fn land(&mut self, id: PacketId) {
        if let Some(flight) = self.flights.remove(&id.get()) {
            self.landed.extend(flight.source);
            if flight.counts {
                self.taken = self.taken.saturating_sub(1);
            }
        }
        if self.flights.is_empty() && self.flights.capacity() > KEPT_CAPACITY {
            self.flights = HashMap::default();
        }
    }

    /// A new connection: what is in flight is sent again before anything else. Slots are taken as it is.
    pub(super) fn resume(&mut self) {
        self.waits = false;
        self.taken = 0;
        let mut order: Vec<(u64, u16)> = Vec::with_capacity(self.flights.len());
        for (id, flight) in &mut self.flights {
            flight.counts = false;
            flight.waits = true;
            order.push((flight.send, *id));
        }
        order.sort_unstable();
        self.again = order.into_iter().map(|(_, id)| id).collect();
    }

    /// The next to be sent again, if the window has room for it.
    pub(super) fn next_again(&mut self, window: usize) -> Option<Again> {
        if self.waits {
            return None;
        }
        while let Some(&id) = self.again.front() {
            let Some(flight) = self.flights.get_mut(&id).filter(|flight| flight.waits) else {
                self.again.pop_front();
                continue;
            };
            let packet_id = PacketId::new(id)?;
            let Some(copy) = &flight.copy else {
                flight.waits = false;
                self.again.pop_front();
                return Some(Again::Release(packet_id));
            };
            if self.taken >= window {
                return None;
            }
            let copy = copy.clone();
            flight.waits = false;
            flight.counts = true;
            self.taken += 1;
            self.again.pop_front();
            return Some(Again::Publish(packet_id, copy));
        }
        if self.again.capacity() > KEPT_CAPACITY {
            self.again = VecDeque::new();
        }
        None
    }

    /// The message under `id` cannot be sent on this connection. It is done with, as if acknowledged; one of a share is
    /// given back.
    pub(super) fn give_up(&mut self, id: PacketId) -> Option<Source> {
        let flight = self.flights.get_mut(&id.get())?;
        let shared = flight.source.take_if(|source| source.is_shared);
        self.land(id);
        shared
    }

    /// Takes out of the queue what is not to be sent after all.
    pub(super) fn sift(&mut self, mut stays: impl FnMut(&SharedMessage) -> bool) -> Vec<Copy> {
        let queue = std::mem::take(&mut self.queue);
        let mut taken = Vec::new();
        for copy in queue {
            if stays(&copy.message) {
                self.queue.push_back(copy);
            } else {
                taken.push(copy);
            }
        }
        for copy in &taken {
            self.queue_bytes -= copy.message.payload.len();
            self.queue_mortal -= usize::from(copy.message.expires != Timestamp::NEVER);
        }
        taken
    }

    /// Whether something is under way under `id`.
    pub(super) fn is_in_use(&self, id: PacketId) -> bool {
        self.flights.contains_key(&id.get())
    }

    /// The message under `id` is of no stream any more.
    pub(super) fn own(&mut self, id: PacketId) {
        if let Some(flight) = self.flights.get_mut(&id.get()) {
            flight.source = None;
        }
    }

    /// Sends nothing until [`Outbound::resume`].
    pub(super) fn hold_back(&mut self) {
        self.waits = true;
        self.again = VecDeque::new();
    }

    /// A message of a stream that was under way on an earlier connection; what it was, unless it is released.
    pub(super) fn revive(&mut self, mark: Mark, copy: Option<Copy>, source: Source) {
        self.sends = self.sends.max(mark.send);
        self.last_id = mark.id.get();
        let released = mark.stage == Stage::Released;
        let flight = Flight {
            qos: match &copy {
                Some(copy) if !released => copy.qos,
                _ => Qos::ExactlyOnce,
            },
            source: Some(source),
            copy: copy.filter(|_| !released),
            stage: mark.stage,
            send: mark.send,
            counts: false,
            waits: true,
        };
        self.flights.insert(mark.id.get(), flight);
    }

    /// A message of a stream that has no room now. There are as many as were asked for.
    pub(super) fn wait(&mut self, copy: Copy) {
        self.queue_bytes += copy.bytes();
        self.queue_mortal += usize::from(copy.is_mortal());
        self.queue.push_back(copy);
    }

    /// The next message of a stream that is done with.
    pub(super) fn take_landed(&mut self) -> Option<Source> {
        self.landed.pop()
    }

    /// The place of the latest in the order of sends.
    pub(super) fn sends(&self) -> u64 {
        self.sends
    }

    /// Where the message under `id` comes from, and its place in the order of sends.
    pub(super) fn source(&self, id: PacketId) -> Option<(Source, u64)> {
        let flight = self.flights.get(&id.get())?;
        Some((flight.source?, flight.send))
    }

    /// What is under way under `id`, unless it is released.
    pub(super) fn copy(&self, id: PacketId) -> Option<Copy> {
        self.flights.get(&id.get())?.copy.clone()
    }

    /// The connection is over: what came from streams is there again.
    pub(super) fn forget_streams(&mut self) {
        self.flights.retain(|_, flight| flight.source.is_none());
        self.queue.retain(|copy| copy.source.is_none());
        self.landed = Vec::new();
        self.recount_queue();
    }

    fn recount_queue(&mut self) {
        let left = self.queue.iter();
        (self.queue_bytes, self.queue_mortal) = left.fold((0, 0), |(bytes, mortal), copy| {
            (bytes + copy.bytes(), mortal + usize::from(copy.is_mortal()))
        });
    }

    /// Adds what waits in `later` behind what waits here, whatever the limits say: each has kept to them.
    pub(super) fn append(&mut self, later: Outbound) {
        self.queue_bytes += later.queue_bytes;
        self.queue_mortal += later.queue_mortal;
        self.queue.extend(later.queue);
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
            assert!(out.is_clear(100_000));
            send(&mut out, Qos::AtLeastOnce);
        }
        assert!(!out.is_clear(100_000));
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
