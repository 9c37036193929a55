//! The answering half: acknowledges everything, and passes publishes on as they came, packet id and QoS included.

use super::Version;
use super::frames::packet;
use super::parse::{body_at, kind, varint};
use crate::null::Relay;
use crate::protocol::Sink;

/// One connection of the null sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct MqttSink {
    version: Version,
    /// The wildcard above the topic at hand; kept for its memory.
    wildcard: Vec<u8>,
}

impl Sink for MqttSink {
    fn answer(&mut self, input: &[u8], out: &mut Vec<u8>, relay: &mut Relay) -> usize {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let Some((&first, after)) = rest.split_first() else {
                return used;
            };
            let Ok(Some((length, bytes))) = varint(after) else {
                return used;
            };
            let at = 1 + bytes;
            let Some(packet) = rest.get(..at + length) else {
                return used;
            };
            used += packet.len();
            self.packet(
                first,
                packet,
                packet.get(at..).unwrap_or_default(),
                out,
                relay,
            );
        }
    }
}

impl MqttSink {
    /// What is malformed gets no answer: the generator sends nothing of the kind.
    fn packet(
        &mut self,
        first: u8,
        packet: &[u8],
        body: &[u8],
        out: &mut Vec<u8>,
        relay: &mut Relay,
    ) {
        match (first >> 4, body) {
            (kind::CONNECT, _) => {
                if body.get(6) == Some(&5) {
                    self.version = Version::V5;
                    out.extend_from_slice(&[kind::CONNACK << 4, 3, 0, 0, 0]);
                } else {
                    out.extend_from_slice(&[kind::CONNACK << 4, 2, 0, 0]);
                }
            }
            (kind::SUBSCRIBE, &[high, low, ..]) => self.subscribe([high, low], body, out, relay),
            (kind::PUBLISH, _) => self.publish(first, packet, body, out, relay),
            // A subscriber's.
            (kind::PUBREC, &[high, low, ..]) => {
                out.extend_from_slice(&[kind::PUBREL << 4 | 2, 2, high, low]);
            }
            (kind::PUBREL, &[high, low, ..]) => {
                out.extend_from_slice(&[kind::PUBCOMP << 4, 2, high, low]);
            }
            (kind::PINGREQ, _) => out.extend_from_slice(&[kind::PINGRESP << 4, 0]),
            _ => {}
        }
    }

    fn subscribe(&self, id: [u8; 2], body: &[u8], out: &mut Vec<u8>, relay: &mut Relay) {
        let properties: &[u8] = match self.version {
            Version::V3 => &[],
            Version::V5 => &[0],
        };
        let mut answer = [&id, properties].concat();
        let mut rest = body.get(answer.len()..).unwrap_or_default();
        while let Some((length, after)) = rest.split_first_chunk()
            && let Some((filter, after)) =
                after.split_at_checked(usize::from(u16::from_be_bytes(*length)))
            && let Some((&qos, after)) = after.split_first()
        {
            let mut parts = filter.splitn(3, |&byte| byte == b'/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(b"$share"), Some(group), Some(topic)) => relay.join(topic, Some(group)),
                _ => relay.join(filter, None),
            }
            answer.push(qos);
            rest = after;
        }
        out.extend_from_slice(&packet(kind::SUBACK << 4, &answer));
    }

    fn publish(
        &mut self,
        first: u8,
        packet: &[u8],
        body: &[u8],
        out: &mut Vec<u8>,
        relay: &mut Relay,
    ) {
        let qos = (first >> 1) & 3;
        let Some(at) = body_at(self.version, qos, body) else {
            return;
        };
        let topic_bytes = body
            .first_chunk()
            .map_or(0, |two| usize::from(u16::from_be_bytes(*two)));
        let topic = body.get(2..2 + topic_bytes).unwrap_or_default();
        relay.send(topic, packet);
        if let Some(slash) = memchr::memrchr(b'/', topic) {
            self.wildcard.clear();
            self.wildcard
                .extend_from_slice(topic.get(..slash).unwrap_or_default());
            self.wildcard.extend_from_slice(b"/#");
            relay.send(&self.wildcard, packet);
        }
        let [high, low] = at.id;
        match qos {
            0 => {}
            1 => out.extend_from_slice(&[kind::PUBACK << 4, 2, high, low]),
            _ => out.extend_from_slice(&[kind::PUBREC << 4, 2, high, low]),
        }
    }
}
