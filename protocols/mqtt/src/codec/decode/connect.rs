//! CONNECT and CONNACK.

use super::super::fault::Fault;
use super::super::packet::{Connack, Connect, Packet, Will};
use super::super::primitive::Reader;
use super::super::properties::{ConnackProperties, ConnectProperties, WillProperties};
use super::super::property::{self, Place};
use super::super::reason::{ReasonCode, ReturnCode};
use super::super::topic;
use super::super::version::{PacketType, Qos, Sender, Version};

const RESERVED: u8 = 1;
const CLEAN: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USERNAME: u8 = 1 << 7;

/// High bit of the protocol level.
const BRIDGE: u8 = 0x80;

/// Reads the body of a CONNECT. An error comes with the version if it was known by then, since that decides the
/// answer. Fields are read and judged in the order in which Mosquitto does it: the first fault counts.
pub(super) fn connect(
    first: u8,
    body: &[u8],
) -> Result<(Version, Packet<'_>), (Fault, Option<Version>)> {
    let mut reader = Reader::new(body);
    let (version, bridge) = version(&mut reader).map_err(|fault| (fault, None))?;
    if version != Version::V31 && first & 0x0F != 0 {
        return Err((Fault::Flags, Some(version)));
    }
    fields(reader, version, bridge)
        .map(|connect| (version, Packet::Connect(Box::new(connect))))
        .map_err(|fault| (fault, Some(version)))
}

/// Protocol name and level.
fn version(reader: &mut Reader<'_>) -> Result<(Version, bool), Fault> {
    let length = reader.u16()?;
    if length != 4 && length != 6 {
        return Err(Fault::ProtocolName);
    }
    let name = reader.take(usize::from(length))?;
    let level = reader.u8()?;
    if !matches!(level, 3 | 4 | 5 | 0x83 | 0x84) {
        return Err(Fault::ProtocolLevel);
    }
    let bridge = level & BRIDGE != 0;
    match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => Ok((Version::V31, bridge)),
        (b"MQTT", 4) => Ok((Version::V311, bridge)),
        (b"MQTT", 5) => Ok((Version::V5, bridge)),
        (b"MQIsdp" | b"MQTT", _) => Err(Fault::ProtocolMismatch),
        _ => Err(Fault::ProtocolName),
    }
}

fn fields(mut reader: Reader<'_>, version: Version, bridge: bool) -> Result<Connect<'_>, Fault> {
    let flags = reader.u8()?;
    let old = version == Version::V31;
    if flags & RESERVED != 0 && !old {
        return Err(Fault::ConnectFlag);
    }
    let keep_alive_s = reader.u16()?;
    let mut properties = ConnectProperties::default();
    if version.is_v5() {
        property::read(&mut reader, Place::CONNECT, &mut properties)?;
    }
    let will_qos = Qos::from_bits(flags >> WILL_QOS_SHIFT & 3).ok_or(Fault::WillQos)?;
    let will_retain = flags & WILL_RETAIN != 0;
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(Fault::AuthMethodMissing);
    }
    let clean_start = flags & CLEAN != 0;
    let client_id = reader.string().map_err(|fault| match fault {
        Fault::Utf8 => Fault::ClientIdUtf8,
        other => other,
    })?;
    if client_id.is_empty() && (old || !version.is_v5() && !clean_start) {
        return Err(Fault::ClientIdMissing);
    }
    let will = if flags & WILL != 0 {
        Some(will(&mut reader, version, will_qos, will_retain)?)
    } else if !old && (will_qos != Qos::AtMostOnce || will_retain) {
        return Err(Fault::WillFlags);
    } else {
        None
    };
    let mut username = None;
    if flags & USERNAME != 0 {
        username = credential(&mut reader, version, Reader::string)?;
    } else if flags & PASSWORD != 0 && !version.is_v5() {
        return Err(Fault::PasswordAlone);
    }
    let mut password = None;
    if flags & PASSWORD != 0 {
        password = credential(&mut reader, version, Reader::binary)?;
    }
    if !reader.is_empty() {
        return Err(Fault::Trailing);
    }
    Ok(Connect {
        version,
        bridge,
        clean_start,
        keep_alive_s,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    qos: Qos,
    retain: bool,
) -> Result<Will<'a>, Fault> {
    let mut properties = WillProperties::default();
    if version.is_v5() {
        property::read(reader, Place::WILL, &mut properties)?;
    }
    let truncated = |fault| match fault {
        Fault::Truncated => Fault::WillTruncated,
        other => other,
    };
    let topic = reader.string().map_err(truncated)?;
    topic::check_name(topic).map_err(|_| Fault::WillTopic)?;
    let payload = reader.binary().map_err(truncated)?;
    Ok(Will {
        topic,
        payload,
        qos,
        retain,
        properties,
    })
}

/// User name or password, which 3.1 may announce and then not send (its section 3.1).
fn credential<'a, T>(
    reader: &mut Reader<'a>,
    version: Version,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    if version == Version::V31 && reader.is_empty() {
        return Ok(None);
    }
    read(reader).map(Some).map_err(|fault| match fault {
        Fault::Utf8 => Fault::UsernameUtf8,
        _ => Fault::CredentialsMissing,
    })
}

/// Reads the body of a CONNACK.
pub(super) fn connack<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    sender: Sender,
) -> Result<Packet<'a>, Fault> {
    let flags = reader.u8()?;
    // Reserved in 3.1, where its value means nothing.
    if flags & !1 != 0 && version != Version::V31 {
        return Err(Fault::ConnackFlag);
    }
    let code = reader.u8()?;
    let mut properties = ConnackProperties::default();
    let reason = if version.is_v5() {
        let reason = ReasonCode::from_u8(code)
            .filter(|reason| reason.is_legal(PacketType::Connack, sender))
            .ok_or(Fault::Reason)?;
        property::read(reader, Place::CONNACK, &mut properties)?;
        reason
    } else {
        ReturnCode::from_u8(code).ok_or(Fault::Reason)?.into()
    };
    Ok(Packet::Connack(Box::new(Connack {
        // There is none where there is no session (MQTT 5.0 section 3.2.2.1.1).
        session_present: flags & 1 != 0 && version != Version::V31 && reason == ReasonCode::Success,
        reason,
        properties,
    })))
}
