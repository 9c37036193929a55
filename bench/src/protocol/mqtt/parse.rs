//! Packets of a server, as far as a load needs to understand them. Sections are those of the OASIS standards.

use super::Version;

/// Types of control packets (2.1.2).
pub(super) mod kind {
    pub(in super::super) const CONNECT: u8 = 1;
    pub(in super::super) const CONNACK: u8 = 2;
    pub(in super::super) const PUBLISH: u8 = 3;
    pub(in super::super) const PUBACK: u8 = 4;
    pub(in super::super) const PUBREC: u8 = 5;
    pub(in super::super) const PUBREL: u8 = 6;
    pub(in super::super) const PUBCOMP: u8 = 7;
    pub(in super::super) const SUBSCRIBE: u8 = 8;
    pub(in super::super) const SUBACK: u8 = 9;
    pub(in super::super) const PINGREQ: u8 = 12;
    pub(in super::super) const PINGRESP: u8 = 13;
    pub(in super::super) const DISCONNECT: u8 = 14;
}

/// More than any CONNACK or SUBACK of a server here.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// Unacknowledged messages that a server takes when it does not say (5.0, 3.2.2.3.3), and packet ids there are.
const RECEIVE_MAXIMUM: u32 = 65_535;

/// A fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Type and flags.
    pub(super) first: u8,
    /// Bytes that follow it.
    pub(super) length: usize,
    /// Bytes of its own.
    pub(super) bytes: usize,
}

/// The fixed header at the front of `input` (2.2); None while it is incomplete; what is wrong when it cannot be one.
pub(super) fn header(input: &[u8]) -> Result<Option<Header>, String> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(None);
    };
    if !(kind::CONNACK..=kind::DISCONNECT).contains(&(first >> 4)) {
        return Err(format!("no packet of a server: {first:#04x}"));
    }
    Ok(varint(rest)?.map(|(length, bytes)| Header {
        first,
        length,
        bytes: 1 + bytes,
    }))
}

/// A variable byte integer and its length (2.2.3).
pub(super) fn varint(input: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut value = 0;
    for (place, &byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Ok(Some((value, place + 1)));
        }
    }
    if input.len() < 4 {
        return Ok(None);
    }
    Err("a length of more than four bytes".to_owned())
}

/// Where a PUBLISH's body begins, and the packet id before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyAt {
    pub(super) offset: usize,
    pub(super) id: [u8; 2],
}

/// Looks behind the topic, the packet id and the properties (3.3.2); None when bytes are missing.
pub(super) fn body_at(version: Version, qos: u8, rest: &[u8]) -> Option<BodyAt> {
    let topic = rest.first_chunk::<2>()?;
    let mut offset = 2 + usize::from(u16::from_be_bytes(*topic));
    let mut id = [0, 0];
    if qos > 0 {
        id = *rest.get(offset..)?.first_chunk()?;
        offset += 2;
    }
    if version == Version::V5 {
        let (length, bytes) = varint(rest.get(offset..)?).ok()??;
        offset += length + bytes;
    }
    (rest.len() >= offset).then_some(BodyAt { offset, id })
}

/// Packet id and reason code of a PUBACK, PUBREC, PUBREL or PUBCOMP (5.0, 3.4.2); without a code it is a success.
pub(super) fn acknowledgement(body: &[u8]) -> (Option<[u8; 2]>, Option<u8>) {
    (body.first_chunk().copied(), body.get(2).copied())
}

/// The name of a reason code that refuses a publish (5.0, 2.4).
pub(super) fn refusal(code: u8) -> Option<&'static str> {
    match code {
        ..0x80 => None,
        0x83 => Some("implementation specific error"),
        0x87 => Some("not authorized"),
        0x90 => Some("topic name invalid"),
        0x91 => Some("packet identifier in use"),
        0x92 => Some("packet identifier not found"),
        0x97 => Some("quota exceeded"),
        0x99 => Some("payload format invalid"),
        _ => Some("unspecified error"),
    }
}

/// What a server says to a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connack {
    pub(super) session_present: bool,
    pub(super) receive_maximum: u32,
}

/// A CONNACK that accepts; otherwise what it says.
pub(super) fn connack(version: Version, header: Header, body: &[u8]) -> Result<Connack, String> {
    match (header.first >> 4, body) {
        (kind::CONNACK, &[flags, 0, ref rest @ ..]) => Ok(Connack {
            session_present: flags & 1 == 1,
            receive_maximum: match version {
                Version::V3 => RECEIVE_MAXIMUM,
                Version::V5 => receive_maximum(rest).unwrap_or(RECEIVE_MAXIMUM),
            },
        }),
        (kind::CONNACK, &[_, code, ..]) => Err(format!("refused with code {code:#04x}")),
        _ => Err(describe(header, body)),
    }
}

/// The Receive Maximum among the properties of a CONNACK (5.0, 3.2.2.3).
fn receive_maximum(input: &[u8]) -> Option<u32> {
    let (length, bytes) = varint(input).ok()??;
    let mut rest = input.get(bytes..bytes + length)?;
    while let Some((&property, value)) = rest.split_first() {
        let length = match property {
            // Receive Maximum.
            0x21 => {
                return value
                    .first_chunk()
                    .map(|two| u32::from(u16::from_be_bytes(*two)));
            }
            // Maximum QoS, Retain, Wildcard, Subscription Identifier and Shared Subscription Available.
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            // Server Keep Alive, Topic Alias Maximum.
            0x13 | 0x22 => 2,
            // Session Expiry Interval, Maximum Packet Size.
            0x11 | 0x27 => 4,
            // User Property.
            0x26 => {
                let key = long(value)?;
                key + long(value.get(key..)?)?
            }
            // Assigned Client Identifier, Authentication Method and Data, Response Information, Server Reference,
            // Reason String.
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => long(value)?,
            _ => return None,
        };
        rest = value.get(length..)?;
    }
    None
}

/// Bytes of a string with its length.
fn long(value: &[u8]) -> Option<usize> {
    value
        .first_chunk()
        .map(|two| 2 + usize::from(u16::from_be_bytes(*two)))
}

/// Accepts a SUBACK that grants `qos` to so many filters; otherwise says what it says.
pub(super) fn suback(header: Header, body: &[u8], filters: usize, qos: u8) -> Result<(), String> {
    let codes = body
        .len()
        .checked_sub(filters)
        .and_then(|at| body.get(at..));
    let (kind::SUBACK, Some(codes)) = (header.first >> 4, codes) else {
        return Err(describe(header, body));
    };
    match codes.iter().find(|&&code| code != qos) {
        None => Ok(()),
        Some(granted @ ..3) => Err(format!("granted QoS {granted} instead of {qos}")),
        Some(code) => Err(format!("refused with code {code:#04x}")),
    }
}

/// A packet in words, for errors.
pub(super) fn describe(header: Header, body: &[u8]) -> String {
    let name = match header.first >> 4 {
        kind::CONNACK => "CONNACK",
        kind::PUBACK => "PUBACK",
        kind::PUBREC => "PUBREC",
        kind::PUBREL => "PUBREL",
        kind::PUBCOMP => "PUBCOMP",
        kind::SUBACK => "SUBACK",
        kind::PINGRESP => "PINGRESP",
        kind::DISCONNECT => "DISCONNECT",
        _ => "a packet that only clients send",
    };
    let start = body.get(..16).unwrap_or(body);
    format!("{name} {start:02x?}")
}
