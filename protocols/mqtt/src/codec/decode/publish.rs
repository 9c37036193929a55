//! PUBLISH and its acknowledgements.

use super::super::fault::Fault;
use super::super::packet::{Ack, Packet, Publish};
use super::super::primitive::Reader;
use super::super::properties::{AckProperties, PublishProperties};
use super::super::property::{self, Place};
use super::super::reason::ReasonCode;
use super::super::topic::{self, TopicError};
use super::super::version::{PacketId, PacketType, Qos, Sender, Version};

pub(super) const DUP: u8 = 1 << 3;
pub(super) const QOS_SHIFT: u8 = 1;
pub(super) const RETAIN: u8 = 1;

/// Reads the body of a PUBLISH.
pub(super) fn publish<'a>(
    first: u8,
    reader: &mut Reader<'a>,
    version: Version,
    sender: Sender,
) -> Result<Packet<'a>, Fault> {
    let dup = first & DUP != 0;
    let qos = Qos::from_bits(first >> QOS_SHIFT & 3).ok_or(Fault::Qos)?;
    if dup && qos == Qos::AtMostOnce {
        return Err(Fault::DupAtQos0);
    }
    let topic = reader.string()?;
    let packet_id = match qos {
        Qos::AtMostOnce => None,
        Qos::AtLeastOnce | Qos::ExactlyOnce => Some(packet_id(reader)?),
    };
    let mut properties = PublishProperties::default();
    if version.is_v5() {
        property::read(reader, Place::publish(sender), &mut properties)?;
    }
    match topic::check_name(topic) {
        Err(TopicError::Empty) if properties.topic_alias.is_some() => Ok(()),
        Err(TopicError::Empty) => Err(Fault::TopicEmpty),
        Err(_) => Err(Fault::TopicWildcard),
        Ok(()) => Ok(()),
    }?;
    let payload = reader.take_rest();
    Ok(Packet::Publish(Publish {
        dup,
        qos,
        retain: first & RETAIN != 0,
        topic,
        packet_id,
        properties,
        payload,
    }))
}

/// Reads the body of a PUBACK, PUBREC, PUBREL or PUBCOMP.
pub(super) fn ack<'a>(
    packet: PacketType,
    reader: &mut Reader<'a>,
    version: Version,
    sender: Sender,
) -> Result<Ack<'a>, Fault> {
    let packet_id = packet_id(reader)?;
    let mut reason = ReasonCode::Success;
    let mut properties = AckProperties::default();
    if version.is_v5() && !reader.is_empty() {
        let code = reader.u8()?;
        if !reader.is_empty() {
            property::read(reader, Place::ACK, &mut properties)?;
        }
        reason = ReasonCode::from_u8(code)
            .filter(|reason| reason.is_legal(packet, sender))
            .ok_or(Fault::Reason)?;
    }
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

pub(super) fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, Fault> {
    PacketId::new(reader.u16()?).ok_or(Fault::PacketIdZero)
}
