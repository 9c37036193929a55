//! Cuts a stream of bytes into packets.

mod connect;
mod publish;
mod session;
mod subscribe;

use super::fault::{DecodeError, Fault};
use super::packet::Packet;
use super::primitive::Reader;
use super::version::{PacketType, Sender, Version};

/// Largest packets that are accepted, in bytes with the fixed header. Checked when the fixed header is there, so that
/// the body of what is too large is never waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// PUBLISH: what CONNACK says as Maximum Packet Size (default 2,000,000; `u32::MAX`: none).
    pub publish: u32,
    /// CONNECT, CONNACK and AUTH (default 100,000).
    pub connect: u32,
    /// SUBSCRIBE, UNSUBSCRIBE, and what answers them (default 100,000).
    pub subscribe: u32,
    /// All others (default 10,000).
    pub other: u32,
}

impl Default for PacketLimits {
    fn default() -> Self {
        PacketLimits {
            publish: 2_000_000,
            connect: 100_000,
            subscribe: 100_000,
            other: 10_000,
        }
    }
}

impl PacketLimits {
    /// The limit for one type of packet: never above that for PUBLISH, but for the first packets, which come before
    /// the client is told of that.
    #[must_use]
    pub fn of(&self, packet: PacketType) -> u32 {
        let limit = match packet {
            PacketType::Connect | PacketType::Connack => return self.connect,
            PacketType::Publish => self.publish,
            PacketType::Auth => self.connect,
            PacketType::Subscribe
            | PacketType::Suback
            | PacketType::Unsubscribe
            | PacketType::Unsuback => self.subscribe,
            _ => self.other,
        };
        limit.min(self.publish)
    }
}

/// A packet and the bytes it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The packet.
    pub packet: Packet<'a>,
    /// Bytes of the input that it took.
    pub consumed: usize,
}

/// Reads one direction of one connection.
#[derive(Clone, Debug)]
pub struct Decoder {
    sender: Sender,
    version: Option<Version>,
    limits: PacketLimits,
}

impl Decoder {
    /// For what a client sends. The first packet must be CONNECT; its version is that of the others.
    #[must_use]
    pub const fn for_server(limits: PacketLimits) -> Self {
        Decoder {
            sender: Sender::Client,
            version: None,
            limits,
        }
    }

    /// For what a server sends to a client that speaks `version`.
    #[must_use]
    pub const fn for_client(version: Version, limits: PacketLimits) -> Self {
        Decoder {
            sender: Sender::Server,
            version: Some(version),
            limits,
        }
    }

    /// For a connection of `version` that is open already, with default limits.
    #[must_use]
    pub fn open(sender: Sender, version: Version) -> Self {
        Decoder {
            sender,
            version: Some(version),
            limits: PacketLimits::default(),
        }
    }

    /// The version of the connection, once it is known.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Replaces the limits, for the packets that come.
    pub const fn set_limits(&mut self, limits: PacketLimits) {
        self.limits = limits;
    }

    /// Looks for a packet at the start of `input`, which holds everything not consumed by earlier calls. `None`: more
    /// input is needed. The packet borrows from `input`: nothing is copied.
    ///
    /// # Errors
    /// [`DecodeError`], with how to answer it. The connection is over.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<Decoded<'a>>, DecodeError> {
        let Some(header) = self.header(input)? else {
            return Ok(None);
        };
        let Some(body) = input.get(header.length..header.end) else {
            return Ok(None);
        };
        let packet = self.packet(&header, body)?;
        Ok(Some(Decoded {
            packet,
            consumed: header.end,
        }))
    }

    /// Reads the fixed header, and refuses what needs no body to be refused.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let found = PacketType::from_first_byte(first);
        let fail = |fault| Err(DecodeError::new(fault, found, self.version));
        if self.version.is_none() && found != Some(PacketType::Connect) {
            return fail(Fault::NotConnect);
        }
        if found.is_none() {
            return fail(Fault::ReservedType);
        }
        let mut body = 0;
        for (at, &byte) in rest.iter().take(LENGTH_BYTES).enumerate() {
            body |= usize::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                let length = 2 + at;
                let header = self.judged(first, found, length, length + body);
                return header.map(Some).or_else(fail);
            }
        }
        if rest.len() < LENGTH_BYTES {
            return Ok(None);
        }
        fail(Fault::RemainingLength)
    }

    /// What a fixed header tells without its body.
    fn judged(
        &self,
        first: u8,
        found: Option<PacketType>,
        length: usize,
        end: usize,
    ) -> Result<Header, Fault> {
        let packet = found.ok_or(Fault::ReservedType)?;
        if let Some(version) = self.version {
            if packet == PacketType::Connect {
                return Err(Fault::SecondConnect);
            }
            if packet == PacketType::Auth && !version.is_v5() {
                return Err(Fault::WrongVersion);
            }
            if !is_flagged(packet, first, version) {
                return Err(Fault::Flags);
            }
            if !packet.is_sent_by(self.sender) {
                return Err(Fault::WrongDirection);
            }
        }
        if end as u64 > u64::from(self.limits.of(packet)) {
            return Err(Fault::TooLarge);
        }
        Ok(Header {
            first,
            packet,
            length,
            end,
        })
    }

    fn packet<'a>(&mut self, header: &Header, body: &'a [u8]) -> Result<Packet<'a>, DecodeError> {
        let Some(version) = self.version else {
            let (version, packet) =
                connect::connect(header.first, body).map_err(|(fault, version)| {
                    DecodeError::new(fault, Some(header.packet), version)
                })?;
            self.version = Some(version);
            return Ok(packet);
        };
        let mut reader = Reader::new(body);
        let packet = self.body(header, &mut reader, version);
        let all_read = packet.and_then(|packet| {
            if reader.is_empty() {
                Ok(packet)
            } else {
                Err(Fault::Trailing)
            }
        });
        all_read.map_err(|fault| DecodeError::new(fault, Some(header.packet), Some(version)))
    }

    fn body<'a>(
        &self,
        header: &Header,
        reader: &mut Reader<'a>,
        version: Version,
    ) -> Result<Packet<'a>, Fault> {
        let sender = self.sender;
        let ack = |reader: &mut Reader<'a>| publish::ack(header.packet, reader, version, sender);
        Ok(match header.packet {
            PacketType::Connect => return Err(Fault::SecondConnect),
            PacketType::Connack => connect::connack(reader, version, sender)?,
            PacketType::Publish => publish::publish(header.first, reader, version, sender)?,
            PacketType::Puback => Packet::Puback(ack(reader)?),
            PacketType::Pubrec => Packet::Pubrec(ack(reader)?),
            PacketType::Pubrel => Packet::Pubrel(ack(reader)?),
            PacketType::Pubcomp => Packet::Pubcomp(ack(reader)?),
            PacketType::Subscribe => Packet::Subscribe(subscribe::subscribe(reader, version)?),
            PacketType::Suback => Packet::Suback(subscribe::suback(reader, version, sender)?),
            PacketType::Unsubscribe => {
                Packet::Unsubscribe(subscribe::unsubscribe(reader, version)?)
            }
            PacketType::Unsuback => Packet::Unsuback(subscribe::unsuback(reader, version, sender)?),
            PacketType::Pingreq => Packet::Pingreq,
            PacketType::Pingresp => Packet::Pingresp,
            PacketType::Disconnect => {
                Packet::Disconnect(session::disconnect(reader, version, sender)?)
            }
            PacketType::Auth => Packet::Auth(session::auth(reader, sender)?),
        })
    }
}

/// Most bytes of the remaining length.
const LENGTH_BYTES: usize = 4;

/// A fixed header.
struct Header {
    first: u8,
    packet: PacketType,
    /// Bytes of the header.
    length: usize,
    /// Bytes of header and body.
    end: usize,
}

/// Whether the flags of the fixed header are right. Old clients of 3.1 set DUP on what they send again.
fn is_flagged(packet: PacketType, first: u8, version: Version) -> bool {
    const DUP: u8 = 8;
    packet.flags().is_none_or(|flags| {
        let found = first & 0x0F;
        found == flags || version == Version::V31 && flags == 2 && found == flags | DUP
    })
}
