//! What comes from the other broker: messages, acknowledged when they are durable here.

use bytes::Bytes;
use longtail_broker::message::Origin;
use longtail_model::{Subject, Timestamp};

use super::{Event, Link, LinkError};
use crate::codec::{Ack, Packet, PacketId, Publish, Qos};
use crate::message::{self, Published};

#[derive(Debug)]
pub(in crate::bridge) struct Incoming {
    /// With the topic that it has there.
    pub(in crate::bridge) message: longtail_broker::message::Message,
    pub(in crate::bridge) receipt: Receipt,
}

/// What is to be acknowledged when a message is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Receipt {
    None,
    Ack { epoch: u64, id: PacketId },
    Rec { epoch: u64, id: PacketId },
}

impl<K: Clone> Link<K> {
    pub(super) fn publish(
        &mut self,
        publish: &Publish<'_>,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) -> Result<(), LinkError> {
        let epoch = self.epoch;
        let receipt = match (publish.qos, publish.packet_id) {
            (Qos::AtMostOnce, _) | (_, None) => Receipt::None,
            (Qos::AtLeastOnce, Some(id)) => Receipt::Ack { epoch, id },
            (Qos::ExactlyOnce, Some(id)) => {
                match self.received.get(&id) {
                    Some(true) => {
                        let said = self.heard;
                        self.say(&Packet::Pubrec(Ack::success(id)), said, out);
                        return Ok(());
                    }
                    // It is on its way to the log from an earlier connection: the answer comes when it is there.
                    Some(false) => return Ok(()),
                    None => {}
                }
                if self.received.len() >= usize::from(u16::MAX) {
                    return Err(LinkError::Malformed(
                        "too many messages await PUBREL".into(),
                    ));
                }
                self.received.insert(id, false);
                Receipt::Rec { epoch, id }
            }
        };
        if publish.topic.is_empty() || publish.properties.topic_alias.is_some() {
            return Err(LinkError::Malformed("a topic alias was not offered".into()));
        }
        let subject = Subject::parse_mqtt(publish.topic)
            .map_err(|error| LinkError::Malformed(error.to_string()))?;
        let published = Published {
            qos: publish.qos,
            retain: publish.retain,
            origin: Origin::default(),
            now: self.heard,
        };
        let payload = Bytes::copy_from_slice(publish.payload);
        let message = message::incoming(subject, payload, &publish.properties.message, published);
        events.push(Event::Incoming(Box::new(Incoming { message, receipt })));
        Ok(())
    }

    /// A message of the other broker is durable here, or not wanted.
    pub(in crate::bridge) fn accept(
        &mut self,
        receipt: Receipt,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) {
        match receipt {
            Receipt::None => {}
            Receipt::Ack { epoch, id } => {
                // Without that connection it is sent again.
                if self.is_up() && epoch == self.epoch {
                    self.say(&Packet::Puback(Ack::success(id)), now, out);
                }
            }
            Receipt::Rec { id, .. } => {
                if let Some(durable) = self.received.get_mut(&id) {
                    *durable = true;
                    if self.is_up() {
                        self.say(&Packet::Pubrec(Ack::success(id)), now, out);
                    }
                }
            }
        }
    }

    /// A message could not be kept: the other broker sends it again on a new connection.
    pub(in crate::bridge) fn reject(&mut self, receipt: Receipt) {
        if let Receipt::Rec { id, .. } = receipt {
            self.received.remove(&id);
        }
    }
}
