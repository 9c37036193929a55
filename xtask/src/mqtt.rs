//! MQTT for the crash, differential and soak tests: packets built, packets read, a connection that waits only as long
//! as it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Protocol level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1.
    V4,
    /// 5.0.
    V5,
}

/// The acknowledgements that name a packet id and nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ack {
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
}

/// A message as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) id: u16,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// Properties as they came, without their length.
    pub(crate) properties: Vec<u8>,
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Connack { present: bool, code: u8 },
    Publish(Publish),
    Ack { kind: Ack, id: u16, code: u8 },
    Suback { id: u16, codes: Vec<u8> },
    Unsuback { id: u16, codes: Vec<u8> },
    Pingresp,
    Disconnect { code: u8 },
}

/// What came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Packet(Packet),
    /// The server closed the connection.
    Closed,
    /// Nothing in the time given.
    Nothing,
}

/// A PINGREQ.
pub(crate) const PINGREQ: &[u8] = &[0xC0, 0];

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let low = (left % 128) as u8;
        left /= 128;
        out.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn put_text(body: &mut Vec<u8>, text: &[u8]) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text);
}

/// A CONNECT with a keep alive of a minute. `expiry` is what version 5 asks for; 3.1.1 keeps its session unless `clean`.
pub(crate) fn connect(version: Version, client: &str, clean: bool, expiry: u32) -> Vec<u8> {
    connect_with_will(version, client, clean, expiry, None)
}

/// The same, with a will if there is one.
pub(crate) fn connect_with_will(
    version: Version,
    client: &str,
    clean: bool,
    expiry: u32,
    will: Option<&Publish>,
) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, b"MQTT");
    body.push(if version == Version::V5 { 5 } else { 4 });
    let flags = will.map_or(0, |will| 4 | will.qos << 3 | u8::from(will.retain) << 5);
    body.push(u8::from(clean) << 1 | flags);
    body.extend_from_slice(&60u16.to_be_bytes());
    if version == Version::V5 {
        body.extend_from_slice(&[5, 0x11]);
        body.extend_from_slice(&expiry.to_be_bytes());
    }
    put_text(&mut body, client.as_bytes());
    if let Some(will) = will {
        if version == Version::V5 {
            body.push(0);
        }
        put_text(&mut body, will.topic.as_bytes());
        put_text(&mut body, &will.payload);
    }
    frame(0x10, &body)
}

/// A PUBLISH.
pub(crate) fn publish(version: Version, message: &Publish) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, message.topic.as_bytes());
    if message.qos > 0 {
        body.extend_from_slice(&message.id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(message.properties.len() as u8);
        body.extend_from_slice(&message.properties);
    }
    body.extend_from_slice(&message.payload);
    let flags = u8::from(message.dup) << 3 | message.qos << 1 | u8::from(message.retain);
    frame(0x30 | flags, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP, with success.
pub(crate) fn ack(kind: Ack, id: u16) -> Vec<u8> {
    let flags = if kind == Ack::Pubrel { 2 } else { 0 };
    frame((kind as u8) << 4 | flags, &id.to_be_bytes())
}

/// A SUBSCRIBE; each filter with its options.
pub(crate) fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    subscribe_as(version, id, 0, filters)
}

/// The same, with a subscription identifier below 128; 0: none.
pub(crate) fn subscribe_as(
    version: Version,
    id: u16,
    identifier: u8,
    filters: &[(&str, u8)],
) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    match (version, identifier) {
        (Version::V4, _) => {}
        (Version::V5, 0) => body.push(0),
        (Version::V5, identifier) => body.extend([2, 0x0B, identifier]),
    }
    for (filter, options) in filters {
        put_text(&mut body, filter.as_bytes());
        body.push(*options);
    }
    frame(0x82, &body)
}

/// An UNSUBSCRIBE.
pub(crate) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        put_text(&mut body, filter.as_bytes());
    }
    frame(0xA2, &body)
}

/// A DISCONNECT with success.
pub(crate) const DISCONNECT: &[u8] = &[0xE0, 0];

/// Bytes that were parsed and are still in the buffer, at most.
const COMPACT: usize = 256 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    version: Version,
    buffer: Vec<u8>,
    /// Where the unread part of `buffer` starts.
    start: usize,
}

impl Connection {
    /// Connects the socket.
    ///
    /// # Errors
    /// When the server does not accept.
    pub(crate) fn open(address: SocketAddr, version: Version) -> Result<Connection> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            version,
            buffer: Vec::new(),
            start: 0,
        })
    }

    /// Another handle to write with, for a thread of its own.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub(crate) fn writer(&self) -> Result<TcpStream> {
        Ok(self.stream.try_clone()?)
    }

    /// Has the system keep little of what arrives, so that the server soon notices that nobody reads.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn shrink_receive_buffer(&self, bytes: usize) -> Result<()> {
        Ok(rustix::net::sockopt::set_socket_recv_buffer_size(
            &self.stream,
            bytes,
        )?)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next packet, waiting for it up to `patience`.
    ///
    /// # Errors
    /// When the bytes are no packet that a server sends, or reading fails.
    pub(crate) fn receive(&mut self, patience: Duration) -> Result<Received> {
        let end = Instant::now() + patience;
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(Received::Packet(packet));
            }
            let left = end.saturating_duration_since(Instant::now());
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(Received::Closed),
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        if left.is_zero() {
                            return Ok(Received::Nothing);
                        }
                    }
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                        return Ok(Received::Closed);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// The next packet, which has to come within `patience`.
    ///
    /// # Errors
    /// When it does not, or the connection ends.
    pub(crate) fn expect(&mut self, patience: Duration) -> Result<Packet> {
        match self.receive(patience)? {
            Received::Packet(packet) => Ok(packet),
            Received::Closed => bail!("the server closed the connection"),
            Received::Nothing => bail!("no packet within {patience:?}"),
        }
    }

    fn parse(&mut self) -> Result<Option<Packet>> {
        let unread = &self.buffer[self.start..];
        let (mut length, mut at) = (0usize, 1);
        loop {
            let Some(byte) = unread.get(at) else {
                return Ok(None);
            };
            length |= usize::from(byte & 127) << (7 * (at - 1));
            at += 1;
            if *byte < 128 {
                break;
            }
            if at > 4 {
                bail!("a remaining length of more than four bytes");
            }
        }
        let Some(body) = unread.get(at..at + length) else {
            return Ok(None);
        };
        let packet = decode(self.version, unread[0], body)
            .with_context(|| format!("{:02x} {body:02x?} is no packet of a server", unread[0]))?;
        self.start += at + length;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start >= COMPACT {
            // A stream of packets that never ends with a read does not make the buffer grow.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        Ok(Some(packet))
    }
}

/// Takes a packet apart; `None` when it is none.
fn decode(version: Version, first: u8, body: &[u8]) -> Option<Packet> {
    let five = version == Version::V5;
    let id = |body: &[u8]| Some(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    Some(match first >> 4 {
        2 => Packet::Connack {
            present: *body.first()? == 1,
            code: *body.get(1)?,
        },
        3 => {
            let qos = first >> 1 & 3;
            let length = usize::from(id(body)?);
            let topic = String::from_utf8(body.get(2..2 + length)?.to_vec()).ok()?;
            let mut rest = body.get(2 + length..)?;
            let mut number = 0;
            if qos > 0 {
                number = id(rest)?;
                rest = rest.get(2..)?;
            }
            let mut properties = Vec::new();
            if five {
                let length = usize::from(*rest.first()?);
                // None of the tests has more than fits a length of one byte.
                properties = rest.get(1..=length)?.to_vec();
                rest = rest.get(1 + length..)?;
            }
            Packet::Publish(Publish {
                topic,
                payload: rest.to_vec(),
                qos,
                id: number,
                retain: first & 1 == 1,
                dup: first & 8 == 8,
                properties,
            })
        }
        kind @ 4..=7 => Packet::Ack {
            kind: [Ack::Puback, Ack::Pubrec, Ack::Pubrel, Ack::Pubcomp][usize::from(kind) - 4],
            id: id(body)?,
            code: body.get(2).copied().unwrap_or(0),
        },
        kind @ (9 | 11) => {
            let skip = if five {
                3 + usize::from(*body.get(2)?)
            } else {
                2
            };
            let (id, codes) = (id(body)?, body.get(skip..)?.to_vec());
            if kind == 9 {
                Packet::Suback { id, codes }
            } else {
                Packet::Unsuback { id, codes }
            }
        }
        13 => Packet::Pingresp,
        14 if five => Packet::Disconnect {
            code: body.first().copied().unwrap_or(0),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Ack, Packet, Publish, Version, ack, decode, publish};

    #[test]
    fn what_is_built_can_be_read() {
        let message = Publish {
            topic: "a/b".to_owned(),
            payload: vec![0, 255],
            qos: 2,
            id: 513,
            retain: true,
            dup: true,
            properties: vec![1, 1],
        };
        let bytes = publish(Version::V5, &message);
        assert_eq!(
            decode(Version::V5, bytes[0], &bytes[2..]),
            Some(Packet::Publish(message))
        );
        let bytes = ack(Ack::Pubrel, 7);
        assert_eq!(bytes, [0x62, 2, 0, 7]);
        assert_eq!(
            decode(Version::V4, bytes[0], &bytes[2..]),
            Some(Packet::Ack {
                kind: Ack::Pubrel,
                id: 7,
                code: 0
            })
        );
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        assert_eq!(decode(Version::V4, 0xE0, &[]), None);
        assert_eq!(decode(Version::V5, 0x10, &[0, 0]), None);
        assert_eq!(decode(Version::V5, 0x40, &[0]), None);
    }
}
