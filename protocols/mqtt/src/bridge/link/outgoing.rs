//! What goes to the other broker: messages, and what becomes of them.

use std::sync::Arc;

use bytes::Bytes;
use longtail_model::Timestamp;

use super::{Event, Link};
use crate::codec::{
    Ack, EncodeError, Format, Message, Packet, PacketId, Prepared, Publish, PublishProperties, Qos,
    ReasonCode, Version,
};

/// A message on its way to the other broker. `K` names it for whoever sends it.
#[derive(Clone, Debug)]
pub(in crate::bridge) struct Outgoing<K> {
    pub(in crate::bridge) key: K,
    pub(in crate::bridge) topic: String,
    pub(in crate::bridge) payload: Bytes,
    pub(in crate::bridge) qos: Qos,
    pub(in crate::bridge) retain: bool,
    /// As `MessageProperties::write_forwarded` writes them.
    pub(in crate::bridge) properties: Arc<[u8]>,
    pub(in crate::bridge) expires: Timestamp,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Fate {
    /// The other broker has it, or has seen it at QoS 0.
    Delivered,
    /// The other broker does not want it.
    Refused(ReasonCode),
    /// It is larger than the other broker takes.
    TooLarge,
    /// It cannot be written as a packet.
    Unwritable,
    /// It has expired.
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The session is gone, or never had it: to be sent anew.
    Unsent,
    /// PUBACK or PUBREC awaited.
    Published,
    /// PUBCOMP awaited.
    Released,
}

pub(super) struct Flight<K> {
    pub(super) id: PacketId,
    pub(super) message: Outgoing<K>,
    pub(super) stage: Stage,
}

impl<K: Clone> Link<K> {
    /// Messages sent and not done with.
    pub(in crate::bridge) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether [`Link::send`] takes a message above QoS 0.
    pub(in crate::bridge) fn has_room(&self) -> bool {
        let unsent = self
            .flights
            .iter()
            .any(|flight| flight.stage == Stage::Unsent);
        self.is_up() && !unsent && self.taken() < self.room
    }

    /// Flights that the other broker counts.
    fn taken(&self) -> usize {
        let sent = self
            .flights
            .iter()
            .filter(|flight| flight.stage != Stage::Unsent);
        sent.count() + usize::from(self.telling.is_some())
    }

    /// Everything that is under way, in its order, under its ids. It was within the limits of an earlier connection:
    /// what the new limits leave no room for waits nowhere else, and is sent all the same.
    pub(super) fn send_again(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        let version = self.dialect.version;
        for flight in &self.flights {
            match flight.stage {
                Stage::Unsent => {}
                Stage::Published => {
                    if let Ok(prepared) = prepare(&flight.message, version, now) {
                        // The id fits the QoS: it did before.
                        let _ = prepared.write(Some(flight.id), true, out);
                    }
                }
                Stage::Released => {
                    let _ = Packet::Pubrel(Ack::success(flight.id)).encode(version, out);
                }
            }
        }
        self.said = now;
    }

    /// What the other broker has forgotten, as far as there is room.
    pub(super) fn send_unsent(
        &mut self,
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) {
        while self.is_up() && self.taken() < self.room {
            let mut unsent = self.flights.iter();
            let Some(at) = unsent.position(|flight| flight.stage == Stage::Unsent) else {
                return;
            };
            let Some(flight) = self.flights.remove(at) else {
                return;
            };
            let (id, message) = (flight.id, flight.message);
            match self.write(&message, Some(id), now, out) {
                Ok(()) => self.flights.insert(
                    at,
                    Flight {
                        id,
                        message,
                        stage: Stage::Published,
                    },
                ),
                Err(fate) => events.push(Event::Flown(message.key, fate)),
            }
        }
    }

    /// Publishes the state there.
    pub(super) fn tell(&mut self, state: &'static [u8], now: Timestamp, out: &mut Vec<u8>) {
        let Some(topic) = self.settings.state_topic.clone() else {
            return;
        };
        let qos = Qos::AtLeastOnce.min(self.qos_max);
        let packet_id = if qos == Qos::AtMostOnce {
            None
        } else {
            self.free_id()
        };
        if packet_id.is_none() && qos != Qos::AtMostOnce {
            return;
        }
        let publish = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: self.retain_available,
            topic: &topic,
            packet_id,
            properties: PublishProperties::default(),
            payload: state,
        });
        // The topic was checked with the settings.
        let _ = publish.encode(self.dialect.version, out);
        self.telling = packet_id;
        self.said = now;
    }

    /// Sends a message, which may have been lowered to what the other broker takes. Above QoS 0 only while
    /// [`Link::has_room`]; what becomes of it is an event.
    pub(in crate::bridge) fn send(
        &mut self,
        mut message: Outgoing<K>,
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) {
        message.qos = message.qos.min(self.qos_max);
        message.retain &= self.retain_available;
        if message.qos == Qos::AtMostOnce {
            let fate = match self.write(&message, None, now, out) {
                Ok(()) => Fate::Delivered,
                Err(fate) => fate,
            };
            events.push(Event::Flown(message.key, fate));
            return;
        }
        let Some(id) = self.free_id() else {
            // Never with a window of at most 1,000.
            events.push(Event::Flown(message.key, Fate::Unwritable));
            return;
        };
        match self.write(&message, Some(id), now, out) {
            Ok(()) => self.flights.push_back(Flight {
                id,
                message,
                stage: Stage::Published,
            }),
            Err(fate) => events.push(Event::Flown(message.key, fate)),
        }
    }

    fn write(
        &mut self,
        message: &Outgoing<K>,
        id: Option<PacketId>,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), Fate> {
        if message.expires <= now {
            return Err(Fate::Expired);
        }
        let prepared = prepare(message, self.dialect.version, now).map_err(|_| Fate::Unwritable)?;
        if prepared.size() > self.packet_max {
            return Err(Fate::TooLarge);
        }
        prepared
            .write(id, false, out)
            .map_err(|_| Fate::Unwritable)?;
        self.said = now;
        Ok(())
    }

    pub(super) fn puback(
        &mut self,
        ack: &Ack<'_>,
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) {
        if self.telling.take_if(|id| *id == ack.packet_id).is_some() {
            self.send_unsent(now, out, events);
            return;
        }
        let at = self.flight(ack.packet_id, Stage::Published);
        let at = at.filter(|at| self.qos_of(*at) == Some(Qos::AtLeastOnce));
        self.land(at, fate(ack.reason), events);
        self.send_unsent(now, out, events);
    }

    pub(super) fn pubrec(
        &mut self,
        ack: &Ack<'_>,
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) {
        let id = ack.packet_id;
        if self.flight(id, Stage::Released).is_some() {
            self.say(&Packet::Pubrel(Ack::success(id)), now, out);
            return;
        }
        let at = self.flight(id, Stage::Published);
        let Some(at) = at.filter(|at| self.qos_of(*at) == Some(Qos::ExactlyOnce)) else {
            let unknown = Ack::with_reason(id, ReasonCode::PacketIdentifierNotFound);
            self.say(&Packet::Pubrel(unknown), now, out);
            return;
        };
        if ack.reason.is_error() {
            self.land(Some(at), fate(ack.reason), events);
            self.send_unsent(now, out, events);
            return;
        }
        if let Some(flight) = self.flights.get_mut(at) {
            flight.stage = Stage::Released;
        }
        self.say(&Packet::Pubrel(Ack::success(id)), now, out);
    }

    pub(super) fn flight(&self, id: PacketId, stage: Stage) -> Option<usize> {
        let mut flights = self.flights.iter();
        flights.position(|flight| flight.id == id && flight.stage == stage)
    }

    fn qos_of(&self, at: usize) -> Option<Qos> {
        self.flights.get(at).map(|flight| flight.message.qos)
    }

    pub(super) fn land(&mut self, at: Option<usize>, fate: Fate, events: &mut Vec<Event<K>>) {
        if let Some(flight) = at.and_then(|at| self.flights.remove(at)) {
            events.push(Event::Flown(flight.message.key, fate));
        }
    }

    pub(super) fn free_id(&mut self) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = PacketId::new(self.last_id) else {
                continue;
            };
            let used = self.flights.iter().any(|flight| flight.id == id)
                || self.subscribing == Some(id)
                || self.telling == Some(id);
            if !used {
                return Some(id);
            }
        }
        None
    }
}

fn fate(reason: ReasonCode) -> Fate {
    if reason.is_error() {
        Fate::Refused(reason)
    } else {
        Fate::Delivered
    }
}

fn prepare<K>(
    message: &Outgoing<K>,
    version: Version,
    now: Timestamp,
) -> Result<Prepared, EncodeError> {
    let expiry_s = (message.expires != Timestamp::NEVER).then(|| {
        let left = message.expires.0.saturating_sub(now.0).div_ceil(1000);
        u32::try_from(left).unwrap_or(u32::MAX).max(1)
    });
    let body = Message {
        topic: &message.topic,
        payload: &message.payload,
        properties: &message.properties,
    };
    let format = Format {
        version,
        qos: message.qos,
        retain: message.retain,
        expiry_s,
        alias: None,
        subscription_ids: &[],
    };
    Prepared::new(&body, &format)
}
