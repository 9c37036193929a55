//! Messages in flight by packet id: a ring in which an id's place is its low bits.
//!
//! Ids are handed out in ascending order, and one whose place is taken is passed over, so that the ring is as large as
//! most messages were in flight at once, in whatever order they are acknowledged. A session that sends nothing at QoS 1
//! or 2 has none. What only some messages have lies apart: a thousand subscribers with a burst on its way to each fit
//! into the processor's cache.

use longtail_broker::message::SharedMessage;
use longtail_model::GroupId;

use super::{Copy, Ids, Kept, Stage};
use crate::codec::{PacketId, Qos};
use crate::session::feed::Source;

/// Places of the first ring.
const CAPACITY_MIN: usize = 4;

/// Places that an empty ring may keep.
const CAPACITY_KEPT: usize = 32;

/// Places for all ids, and one that none has.
const CAPACITY_MAX: usize = 1 << 16;

/// A message in flight.
#[derive(Debug)]
pub(super) struct Flight {
    /// Absent once it is released: nothing of it is needed any more.
    message: Option<SharedMessage>,
    /// Its place in the order of sends.
    pub(super) send: u64,
    /// 0: the place is free.
    id: u16,
    pub(super) qos: Qos,
    pub(super) stage: Stage,
    retain: bool,
    /// Whether it takes a slot of the window.
    pub(super) counts: bool,
    /// Whether it is still to be sent again on this connection.
    pub(super) waits: bool,
}

/// What only some messages have.
#[derive(Debug, Default)]
struct Extra {
    source: Option<Source>,
    /// It is on record.
    kept: Option<Box<Kept>>,
    ids: Ids,
}

impl Extra {
    fn is_none(&self) -> bool {
        self.source.is_none() && self.kept.is_none() && self.ids == Ids::None
    }
}

/// A message that is not in flight any more.
pub(super) struct Landed {
    pub(super) source: Option<Source>,
    /// It is on record.
    pub(super) was_kept: bool,
    /// It took a slot of the window.
    pub(super) counts: bool,
}

/// The messages in flight.
#[derive(Debug, Default)]
pub(super) struct Flights {
    /// None, or a power of two of them.
    places: Box<[Flight]>,
    /// None as long as no message needs one; else as many.
    extras: Box<[Extra]>,
    len: usize,
}

impl Flight {
    const FREE: Flight = Flight {
        message: None,
        send: 0,
        id: 0,
        qos: Qos::AtMostOnce,
        stage: Stage::Sent,
        retain: false,
        counts: false,
        waits: false,
    };

    pub(super) fn is_released(&self) -> bool {
        self.message.is_none()
    }

    /// Nothing of the message is needed any more.
    pub(super) fn release(&mut self) {
        self.message = None;
        self.stage = Stage::Released;
        self.waits = false;
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where an id has its place.
    fn at(&self, id: u16) -> usize {
        usize::from(id) & self.places.len().wrapping_sub(1)
    }

    pub(super) fn get(&self, id: PacketId) -> Option<&Flight> {
        let flight = self.places.get(self.at(id.get()))?;
        (flight.id == id.get()).then_some(flight)
    }

    pub(super) fn get_mut(&mut self, id: PacketId) -> Option<&mut Flight> {
        let at = self.at(id.get());
        let flight = self.places.get_mut(at)?;
        (flight.id == id.get()).then_some(flight)
    }

    pub(super) fn source(&self, id: PacketId) -> Option<Source> {
        self.get(id)?;
        self.extras.get(self.at(id.get()))?.source
    }

    /// The message is of no stream any more; the one that it was of.
    pub(super) fn take_source(&mut self, id: PacketId) -> Option<Source> {
        self.get(id)?;
        let at = self.at(id.get());
        self.extras.get_mut(at)?.source.take()
    }

    /// The message is on record.
    pub(super) fn keep(&mut self, id: PacketId, kept: Kept) {
        let at = self.at(id.get());
        if self.get(id).is_none() {
            return;
        }
        self.make_extras();
        if let Some(extra) = self.extras.get_mut(at) {
            extra.kept = Some(Box::new(kept));
        }
    }

    /// What is to be known of the message if it is on record.
    pub(super) fn kept(&self, id: PacketId) -> Option<&Kept> {
        self.get(id)?;
        self.extras.get(self.at(id.get()))?.kept.as_deref()
    }

    fn with_extras(&self) -> impl Iterator<Item = (PacketId, &Extra)> {
        let places = self.places.iter().zip(&self.extras);
        places.filter_map(|(flight, extra)| Some((PacketId::new(flight.id)?, extra)))
    }

    /// The ids of the messages that are on record.
    pub(super) fn kept_ids(&self) -> Vec<PacketId> {
        let kept = self.with_extras().filter(|(_, extra)| extra.kept.is_some());
        kept.map(|(id, _)| id).collect()
    }

    /// What is of a group.
    pub(super) fn of_group(&self, group: GroupId) -> Vec<(PacketId, Source)> {
        let found = self.with_extras().filter_map(|(id, extra)| {
            let source = extra.source.filter(|source| source.group == group)?;
            Some((id, source))
        });
        found.collect()
    }

    /// What was sent, unless it is released.
    pub(super) fn copy(&self, id: PacketId) -> Option<Copy> {
        let flight = self.get(id)?;
        let extra = self.extras.get(self.at(id.get()));
        Some(Copy {
            message: flight.message.clone()?,
            qos: flight.qos,
            retain: flight.retain,
            ids: extra.map(|extra| extra.ids.clone()).unwrap_or_default(),
            source: extra.and_then(|extra| extra.source),
        })
    }

    /// The next id behind `last` whose place is free; there is one unless all are in flight.
    pub(super) fn free_id(&mut self, last: u16) -> Option<PacketId> {
        if self.len == self.places.len() {
            self.grow();
        }
        let mut id = last;
        // Twice around: the first time, a place may fall to 0, which is no id.
        for _ in 0..2 * self.places.len() {
            id = id.wrapping_add(1);
            let free = PacketId::new(id);
            let place = self.places.get(self.at(id));
            if free.is_some() && place.is_some_and(|flight| flight.id == 0) {
                return free;
            }
        }
        None
    }

    /// `copy` is in flight; replaces what was under the same id.
    pub(super) fn insert(&mut self, id: PacketId, copy: Copy, send: u64, counts: bool) {
        let flight = Flight {
            message: Some(copy.message),
            send,
            id: id.get(),
            qos: copy.qos,
            stage: Stage::Sent,
            retain: copy.retain,
            counts,
            waits: !counts,
        };
        let extra = Extra {
            source: copy.source,
            kept: None,
            ids: copy.ids,
        };
        self.put(id, flight, extra);
    }

    /// A message that is released, of `source` if it is of a stream, is in flight, to be released again.
    pub(super) fn insert_released(
        &mut self,
        id: PacketId,
        source: Option<Source>,
        stage: Stage,
        send: u64,
    ) {
        let flight = Flight {
            send,
            id: id.get(),
            qos: Qos::ExactlyOnce,
            stage,
            waits: true,
            ..Flight::FREE
        };
        let extra = Extra {
            source,
            ..Extra::default()
        };
        self.put(id, flight, extra);
    }

    fn put(&mut self, id: PacketId, flight: Flight, extra: Extra) {
        // Two ids with one place have two places in a larger ring.
        let mut at = self.at(id.get());
        while self
            .places
            .get(at)
            .is_none_or(|there| there.id != 0 && there.id != id.get())
            && self.places.len() < CAPACITY_MAX
        {
            self.grow();
            at = self.at(id.get());
        }
        if !extra.is_none() {
            self.make_extras();
        }
        if let Some(place) = self.extras.get_mut(at) {
            *place = extra;
        }
        if let Some(place) = self.places.get_mut(at) {
            self.len += usize::from(place.id == 0);
            *place = flight;
        }
    }

    fn make_extras(&mut self) {
        if self.extras.is_empty() {
            self.extras = (0..self.places.len()).map(|_| Extra::default()).collect();
        }
    }

    /// Takes it out of flight.
    pub(super) fn remove(&mut self, id: PacketId) -> Option<Landed> {
        let at = self.at(id.get());
        let place = self.places.get_mut(at)?;
        if place.id != id.get() {
            return None;
        }
        let counts = place.counts;
        *place = Flight::FREE;
        self.len -= 1;
        let extra = self.extras.get_mut(at).map(std::mem::take);
        if self.len == 0 && self.places.len() > CAPACITY_KEPT {
            *self = Flights::default();
        }
        let extra = extra.unwrap_or_default();
        Some(Landed {
            source: extra.source,
            was_kept: extra.kept.is_some(),
            counts,
        })
    }

    /// Everything in flight.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.places.iter_mut().filter(|flight| flight.id != 0)
    }

    /// What was sent and is not released: its place in the order of sends, its id, the message and its QoS.
    pub(super) fn sent(&self) -> Vec<(u64, PacketId, SharedMessage, Qos)> {
        let sent = self.places.iter().filter_map(|flight| {
            let message = SharedMessage::clone(flight.message.as_ref()?);
            Some((flight.send, PacketId::new(flight.id)?, message, flight.qos))
        });
        sent.collect()
    }

    /// Forgets what is of a stream.
    pub(super) fn forget_streams(&mut self) {
        for (flight, extra) in self.places.iter_mut().zip(&mut self.extras) {
            if flight.id != 0 && extra.source.is_some() {
                *flight = Flight::FREE;
                *extra = Extra::default();
                self.len -= 1;
            }
        }
        if self.len == 0 {
            *self = Flights::default();
        }
    }

    fn grow(&mut self) {
        let capacity = (self.places.len() * 2).clamp(CAPACITY_MIN, CAPACITY_MAX);
        let mut larger = Flights {
            places: (0..capacity).map(|_| Flight::FREE).collect(),
            extras: Box::default(),
            len: self.len,
        };
        if !self.extras.is_empty() {
            larger.extras = (0..capacity).map(|_| Extra::default()).collect();
        }
        // Ids that differed in fewer bits differ in more.
        let extras = self.extras.iter_mut().map(std::mem::take);
        let extras = extras.chain(std::iter::repeat_with(Extra::default));
        for (flight, extra) in self.places.iter_mut().zip(extras) {
            let at = larger.at(flight.id);
            if flight.id == 0 {
                continue;
            }
            if let Some(place) = larger.extras.get_mut(at) {
                *place = extra;
            }
            if let Some(place) = larger.places.get_mut(at) {
                *place = std::mem::replace(flight, Flight::FREE);
            }
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use longtail_broker::message::Message;
    use longtail_model::Subject;
    use proptest::prelude::*;

    use super::*;

    fn copy(with_ids: bool) -> Copy {
        let subject = Subject::new("t").unwrap();
        let mut ids = Ids::None;
        if with_ids {
            ids.push(std::num::NonZeroU32::new(7));
        }
        Copy {
            message: Arc::new(Message::new(subject, bytes::Bytes::new())),
            qos: Qos::AtLeastOnce,
            retain: false,
            ids,
            source: None,
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Send {
            with_ids: bool,
        },
        /// The one at this place among those in flight.
        Ack(usize),
        Revive(u16),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => any::<bool>().prop_map(|with_ids| Op::Send { with_ids }),
            3 => (0..64_usize).prop_map(Op::Ack),
            1 => (1..=u16::MAX).prop_map(Op::Revive),
        ]
    }

    proptest! {
        #[test]
        fn flights_are_a_map_whatever_is_acknowledged_when(ops in prop::collection::vec(op(), 1..300)) {
            let mut flights = Flights::default();
            let mut model: BTreeMap<u16, (u64, bool)> = BTreeMap::new();
            let mut last = u16::MAX - 20;
            for (send, op) in (0_u64..).zip(ops) {
                match op {
                    Op::Send { with_ids } => {
                        let id = flights.free_id(last).unwrap();
                        prop_assert!(!model.contains_key(&id.get()));
                        last = id.get();
                        flights.insert(id, copy(with_ids), send, true);
                        model.insert(id.get(), (send, with_ids));
                    }
                    Op::Revive(id) => {
                        flights.insert(PacketId::new(id).unwrap(), copy(false), send, false);
                        model.insert(id, (send, false));
                    }
                    Op::Ack(nth) => {
                        let id = model.keys().nth(nth % model.len().max(1)).copied();
                        let Some(id) = id else { continue };
                        model.remove(&id);
                        let id = PacketId::new(id).unwrap();
                        prop_assert!(flights.remove(id).is_some());
                        prop_assert!(flights.remove(id).is_none());
                    }
                }
                prop_assert_eq!(flights.len(), model.len());
                for (&id, &(send, with_ids)) in &model {
                    let id = PacketId::new(id).unwrap();
                    prop_assert_eq!(flights.get(id).map(|flight| flight.send), Some(send));
                    prop_assert_eq!(!flights.copy(id).unwrap().ids.as_slice().is_empty(), with_ids);
                }
                prop_assert_eq!(flights.iter_mut().count(), model.len());
            }
        }
    }

    #[test]
    fn one_that_is_never_acknowledged_makes_the_ring_no_larger() {
        let mut flights = Flights::default();
        let mut last = 0;
        for send in 0..200_000 {
            let id = flights.free_id(last).unwrap();
            last = id.get();
            flights.insert(id, copy(false), send, true);
            if send > 0 {
                flights.remove(id);
            }
        }
        assert_eq!((flights.len(), flights.places.len()), (1, CAPACITY_MIN));
    }

    #[test]
    fn a_place_is_small_and_a_session_without_flights_has_none() {
        assert_eq!(size_of::<Flight>(), 24);
        let mut flights = Flights::default();
        assert!(flights.places.is_empty());
        for send in 0..1000 {
            let id = flights.free_id(send as u16).unwrap();
            flights.insert(id, copy(send % 2 == 0), send, true);
        }
        for id in 1..=1000 {
            flights.remove(PacketId::new(id).unwrap());
        }
        assert!(flights.places.is_empty() && flights.extras.is_empty());
    }
}
