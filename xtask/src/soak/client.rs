//! What the scenarios' clients have in common.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::mqtt::{
    self, Ack, Connection, PINGREQ, Packet, Publish, Received, Version, ack, publish,
};

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a connection and its session.
///
/// # Errors
/// When the server does not accept them.
pub(crate) fn connect(
    address: SocketAddr,
    id: &str,
    clean: bool,
    expiry: u32,
) -> Result<Connection> {
    let mut connection = Connection::open(address, Version::V5)?;
    connection.send(&mqtt::connect(Version::V5, id, clean, expiry))?;
    match connection.expect(PATIENCE)? {
        Packet::Connack { code: 0, .. } => Ok(connection),
        other => bail!("{id}: {other:?} instead of CONNACK"),
    }
}

/// Subscribes to all filters with one packet.
///
/// # Errors
/// When one is refused.
pub(crate) fn subscribe(connection: &mut Connection, filters: &[&str], qos: u8) -> Result<()> {
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (*filter, qos)).collect();
    connection.send(&mqtt::subscribe(Version::V5, 1, &filters))?;
    match connection.expect(PATIENCE)? {
        Packet::Suback { codes, .. } if codes.iter().all(|code| *code == qos) => Ok(()),
        other => bail!("{other:?} instead of SUBACK"),
    }
}

/// A PUBLISH.
pub(crate) fn message(topic: &str, payload: &[u8], qos: u8, id: u16, retain: bool) -> Vec<u8> {
    publish(
        Version::V5,
        &Publish {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            qos,
            id,
            retain,
            dup: false,
            properties: Vec::new(),
        },
    )
}

/// Publishes at QoS 1, so many in flight at a time, until all are acknowledged. `make` gives topic and payload of the
/// n-th.
///
/// # Errors
/// When one is refused or the connection ends.
pub(crate) fn publish_all(
    connection: &mut Connection,
    count: u64,
    window: u64,
    retain: bool,
    mut make: impl FnMut(u64) -> (String, Vec<u8>),
) -> Result<()> {
    let (mut sent, mut acked) = (0, 0);
    let mut bytes = Vec::new();
    while acked < count {
        bytes.clear();
        // Half a window at a time, so that neither side makes a system call a message.
        if sent - acked <= window / 2 {
            while sent < count && sent - acked < window {
                let (topic, payload) = make(sent);
                let id = u16::try_from(sent % 60_000)? + 1;
                bytes.extend(message(&topic, &payload, 1, id, retain));
                sent += 1;
            }
            connection.send(&bytes)?;
        }
        match connection.expect(PATIENCE)? {
            Packet::Ack {
                kind: Ack::Puback,
                code: 0 | 0x10,
                ..
            } => acked += 1,
            other => bail!("{other:?} instead of PUBACK"),
        }
    }
    Ok(())
}

/// Receives `count` messages, acknowledging those that ask for it, and shows each to `look`.
///
/// # Errors
/// When something else comes, or nothing for a long time.
pub(crate) fn receive_all(
    connection: &mut Connection,
    count: u64,
    mut look: impl FnMut(u64, &Publish) -> Result<()>,
) -> Result<()> {
    let mut acks = Vec::new();
    for number in 0..count {
        // Acknowledgements leave together, and before this waits.
        let packet = match connection.receive(Duration::ZERO)? {
            Received::Packet(packet) if acks.len() < 1024 => packet,
            first => {
                connection.send(&acks)?;
                acks.clear();
                match first {
                    Received::Packet(packet) => packet,
                    Received::Closed => bail!("closed after {number} of {count} messages"),
                    Received::Nothing => match connection.receive(PATIENCE)? {
                        Received::Packet(packet) => packet,
                        other => bail!("{other:?} after {number} of {count} messages"),
                    },
                }
            }
        };
        match packet {
            Packet::Publish(message) => {
                look(number, &message)?;
                if message.qos > 0 {
                    acks.extend(ack(Ack::Puback, message.id));
                }
            }
            other => bail!("{other:?} after {number} of {count} messages"),
        }
    }
    connection.send(&acks)
}

/// Makes sure that the server has dealt with everything sent so far; returns the messages that came first.
///
/// # Errors
/// When the connection ends.
pub(crate) fn ping(connection: &mut Connection) -> Result<u64> {
    connection.send(PINGREQ)?;
    let mut messages = 0;
    loop {
        match connection.expect(PATIENCE)? {
            Packet::Pingresp => return Ok(messages),
            Packet::Publish(message) => {
                messages += 1;
                if message.qos > 0 {
                    connection.send(&ack(Ack::Puback, message.id))?;
                }
            }
            other => bail!("{other:?} instead of PINGRESP"),
        }
    }
}
