//! A client with a persistent session that counts what it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Messages, PATIENCE, resume};
use crate::mqtt::{Ack, Connection, Packet, Received, Version, ack, subscribe};
use crate::random::Random;

/// How long nothing may come while something is still missing.
const SILENCE: Duration = Duration::from_secs(5);

/// One subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    name: String,
    version: Version,
    qos: u8,
    random: Random,
    /// Ids of QoS 2 messages between PUBREC and PUBREL: a PUBLISH with one of these is the same message again.
    held: BTreeSet<u16>,
    /// Each message as it came.
    counts: BTreeMap<u64, Vec<Seen>>,
    /// Connections so far.
    connections: u32,
}

/// One delivery.
#[derive(Clone, Copy, Debug)]
struct Seen {
    #[expect(dead_code, reason = "shown when a message came twice")]
    connection: u32,
    #[expect(dead_code, reason = "shown when a message came twice")]
    id: u16,
    #[expect(dead_code, reason = "shown when a message came twice")]
    dup: bool,
}

impl Subscriber {
    pub(super) fn new(number: usize, qos: u8, version: Version, seed: u64) -> Self {
        Subscriber {
            name: format!("subscriber-{number}"),
            version,
            qos,
            random: Random::new(seed),
            held: BTreeSet::new(),
            counts: BTreeMap::new(),
            connections: 0,
        }
    }

    /// How many messages came, each counted as often as it did.
    pub(super) fn delivered(&self) -> u64 {
        self.counts.values().map(|seen| seen.len() as u64).sum()
    }

    /// How many of them had come before.
    pub(super) fn repeated(&self) -> u64 {
        self.delivered() - self.counts.len() as u64
    }

    /// Creates the session.
    pub(super) fn subscribe(&mut self, address: SocketAddr) -> Result<()> {
        let mut connection = self
            .open(address)?
            .context("the server does not accept the first connection")?;
        connection.send(&subscribe(self.version, 1, &[("crash/+", self.qos)]))?;
        match connection.expect(PATIENCE)? {
            Packet::Suback { codes, .. } if codes == [self.qos] => Ok(()),
            other => bail!("{}: {other:?} is no answer to SUBSCRIBE", self.name),
        }
    }

    /// Takes messages until the server is gone.
    pub(super) fn work(&mut self, address: SocketAddr) -> Result<()> {
        while let Some(mut connection) = self.open(address)? {
            loop {
                match connection.receive(PATIENCE)? {
                    Received::Packet(packet) => {
                        if !self.take(&mut connection, &packet)? {
                            break;
                        }
                    }
                    Received::Closed => break,
                    Received::Nothing => bail!("{}: nothing comes in {PATIENCE:?}", self.name),
                }
                // Now and then it goes, mostly for a moment, and comes back.
                if self.random.one_in(150) {
                    drop(connection);
                    std::thread::sleep(Duration::from_millis(self.random.below(40)));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes what waits, and checks that all acknowledged messages came, and, if they have to come `once`, none of QoS 2
    /// twice.
    pub(super) fn drain(
        &mut self,
        address: SocketAddr,
        messages: &Messages,
        once: bool,
    ) -> Result<()> {
        let mut connection = self.open(address)?.context("the server does not accept")?;
        let mut last = Instant::now();
        loop {
            let missing = messages
                .iter()
                .filter(|(number, (_, acknowledged))| {
                    *acknowledged && !self.counts.contains_key(number)
                })
                .count();
            if missing == 0 && self.held.is_empty() {
                break;
            }
            // In pieces: looking for what is missing is not free.
            for _ in 0..200 {
                match connection.receive(Duration::from_millis(20))? {
                    Received::Packet(packet) => {
                        self.take(&mut connection, &packet)?;
                        last = Instant::now();
                    }
                    Received::Nothing => break,
                    Received::Closed => bail!("{}: the server closed the connection", self.name),
                }
            }
            if last.elapsed() > SILENCE {
                let lost: Vec<u64> = messages
                    .iter()
                    .filter(|(n, (_, acknowledged))| *acknowledged && !self.counts.contains_key(n))
                    .map(|(number, _)| *number)
                    .take(8)
                    .collect();
                bail!(
                    "{} (QoS {}): {missing} acknowledged messages are lost, among them {lost:?}; {} QoS 2 ids never got PUBREL",
                    self.name,
                    self.qos,
                    self.held.len()
                );
            }
        }
        for (number, seen) in &self.counts {
            match messages.get(number) {
                None => bail!("{}: message {number} was never published", self.name),
                Some((2, _)) if once && self.qos == 2 && seen.len() > 1 => {
                    bail!(
                        "{}: QoS 2 message {number} came more than once: {seen:?}",
                        self.name
                    );
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn open(&mut self, address: SocketAddr) -> Result<Option<Connection>> {
        let connection = resume(address, self.version, &self.name, self.connections == 0)?;
        self.connections += u32::from(connection.is_some());
        Ok(connection)
    }

    /// Handles a packet; whether the connection still works.
    fn take(&mut self, connection: &mut Connection, packet: &Packet) -> Result<bool> {
        let answer = match packet {
            Packet::Publish(message) => {
                let again = message.qos == 2 && !self.held.insert(message.id);
                if again && !message.dup {
                    bail!(
                        "{}: id {} is given to a second message",
                        self.name,
                        message.id
                    );
                }
                if !again {
                    let number: u64 = std::str::from_utf8(&message.payload)?.parse()?;
                    self.counts.entry(number).or_default().push(Seen {
                        connection: self.connections,
                        id: message.id,
                        dup: message.dup,
                    });
                }
                match message.qos {
                    1 => ack(Ack::Puback, message.id),
                    2 => ack(Ack::Pubrec, message.id),
                    _ => bail!("{}: a message of QoS {}", self.name, message.qos),
                }
            }
            Packet::Ack {
                kind: Ack::Pubrel,
                id,
                ..
            } => {
                self.held.remove(id);
                ack(Ack::Pubcomp, *id)
            }
            other => bail!("{}: unexpected {other:?}", self.name),
        };
        Ok(connection.send(&answer).is_ok())
    }
}
