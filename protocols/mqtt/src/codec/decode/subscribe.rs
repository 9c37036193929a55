//! SUBSCRIBE, UNSUBSCRIBE and their acknowledgements.

use super::super::fault::Fault;
use super::super::packet::{
    RetainHandling, Suback, Subscribe, Subscription, SubscriptionOptions, Unsuback, Unsubscribe,
};
use super::super::primitive::Reader;
use super::super::properties::{AckProperties, SubscribeProperties, UserProperties};
use super::super::property::{self, Place};
use super::super::reason::ReasonCode;
use super::super::topic::TopicFilter;
use super::super::version::{PacketType, Qos, Sender, Version};
use super::publish::packet_id;

/// Reads the body of a SUBSCRIBE.
pub(super) fn subscribe<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<Subscribe<'a>, Fault> {
    let packet_id = packet_id(reader)?;
    let mut properties = SubscribeProperties::default();
    if version.is_v5() {
        property::read(reader, Place::SUBSCRIBE, &mut properties)?;
    }
    let mut subscriptions = Vec::new();
    while !reader.is_empty() {
        let filter = reader.string()?;
        let parsed = TopicFilter::parse(filter).map_err(|_| Fault::Filter)?;
        let options = options(reader.u8()?, version)?;
        if options.no_local && parsed.group.is_some() {
            return Err(Fault::NoLocalShared);
        }
        subscriptions.push(Subscription { filter, options });
    }
    if subscriptions.is_empty() && version != Version::V31 {
        return Err(Fault::NoFilters);
    }
    Ok(Subscribe {
        packet_id,
        properties,
        subscriptions,
    })
}

/// The options byte; before 5.0 nothing but the QoS.
fn options(byte: u8, version: Version) -> Result<SubscriptionOptions, Fault> {
    if !version.is_v5() {
        let qos = Qos::from_bits(byte).ok_or(Fault::Options)?;
        return Ok(SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        });
    }
    let retain_handling = match byte >> 4 & 3 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(Fault::Options),
    };
    if byte & 0xC0 != 0 {
        return Err(Fault::Options);
    }
    Ok(SubscriptionOptions {
        qos: Qos::from_bits(byte & 3).ok_or(Fault::Options)?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}

/// Reads the body of an UNSUBSCRIBE.
pub(super) fn unsubscribe<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<Unsubscribe<'a>, Fault> {
    let packet_id = packet_id(reader)?;
    let mut user = UserProperties::NONE;
    if version.is_v5() {
        property::read(reader, Place::UNSUBSCRIBE, &mut user)?;
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.string()?;
        TopicFilter::parse(filter).map_err(|_| Fault::Filter)?;
        filters.push(filter);
    }
    if filters.is_empty() && version != Version::V31 {
        return Err(Fault::NoFilters);
    }
    Ok(Unsubscribe {
        packet_id,
        user,
        filters,
    })
}

/// Reads the body of a SUBACK.
pub(super) fn suback<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    sender: Sender,
) -> Result<Suback<'a>, Fault> {
    let packet_id = packet_id(reader)?;
    let mut properties = AckProperties::default();
    if version.is_v5() {
        property::read(reader, Place::ACK, &mut properties)?;
    }
    let reasons = reader
        .take_rest()
        .iter()
        .map(|&code| {
            ReasonCode::from_u8(code)
                .filter(|reason| reason.is_legal(PacketType::Suback, sender))
                .filter(|_| version.is_v5() || code <= 2 || code == 0x80)
                .ok_or(Fault::Reason)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if reasons.is_empty() && version != Version::V31 {
        return Err(Fault::NoFilters);
    }
    Ok(Suback {
        packet_id,
        properties,
        reasons,
    })
}

/// Reads the body of an UNSUBACK.
pub(super) fn unsuback<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    sender: Sender,
) -> Result<Unsuback<'a>, Fault> {
    let packet_id = packet_id(reader)?;
    let mut properties = AckProperties::default();
    let mut reasons = Vec::new();
    if version.is_v5() {
        property::read(reader, Place::ACK, &mut properties)?;
        for &code in reader.take_rest() {
            let reason = ReasonCode::from_u8(code)
                .filter(|reason| reason.is_legal(PacketType::Unsuback, sender))
                .ok_or(Fault::Reason)?;
            reasons.push(reason);
        }
        if reasons.is_empty() {
            return Err(Fault::NoFilters);
        }
    }
    Ok(Unsuback {
        packet_id,
        properties,
        reasons,
    })
}
