//! Cuts a stream of bytes into packets.

use super::fault::{DecodeError, Fault};
use super::packet::Packet;
use super::version::{PacketType, Sender, Version};

/// Largest packets that are accepted, in bytes with the fixed header. Checked when the fixed header is there, so that
/// the body of what is too large is never waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// PUBLISH: what CONNACK says as Maximum Packet Size (default 2,000,000; `u32::MAX`: none).
    pub publish: u32,
    /// CONNECT and AUTH (default 100,000).
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
    /// The limit for one type of packet: never above that for PUBLISH.
    #[must_use]
    pub fn of(&self, packet: PacketType) -> u32 {
        let limit = match packet {
            PacketType::Publish => self.publish,
            PacketType::Connect | PacketType::Connack | PacketType::Auth => self.connect,
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
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        let packet = PacketType::from_first_byte(first);
        Err(DecodeError::new(Fault::ReservedType, packet, self.version))
    }
}
