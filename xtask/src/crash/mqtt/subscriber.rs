//! A client with a persistent session that counts what it is sent.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::{Account, Standing};
use super::{PATIENCE, resume};
use crate::mqtt::{Ack, Connection, Packet, Publish, Received, Version, ack, subscribe};
use crate::random::Random;

/// How long nothing may come while something is still missing.
const SILENCE: Duration = Duration::from_secs(5);

/// How long nothing has to come when nothing is missing: what came twice comes after the rest.
const QUIET: Duration = Duration::from_millis(50);

/// One subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    name: String,
    version: Version,
    qos: u8,
    random: Random,
    /// Ids of QoS 2 messages between PUBREC and PUBREL: a PUBLISH with one of these is the same message again.
    held: BTreeSet<u16>,
    /// Each message as it came since the last audit.
    seen: BTreeMap<u64, Vec<Seen>>,
    /// Messages that came, each counted as often as it did.
    delivered: u64,
    /// Those of them that had come before.
    repeated: u64,
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
    qos: u8,
}

impl Subscriber {
    pub(super) fn new(number: usize, qos: u8, version: Version, seed: u64) -> Self {
        Subscriber {
            name: format!("subscriber-{number}"),
            version,
            qos,
            random: Random::new(seed),
            held: BTreeSet::new(),
            seen: BTreeMap::new(),
            delivered: 0,
            repeated: 0,
            connections: 0,
        }
    }

    /// How many messages came, each counted as often as it did.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// How many of them had come before.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
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
    /// twice. The account is to be settled when every subscriber has done so.
    pub(super) fn drain(
        &mut self,
        address: SocketAddr,
        account: &Account,
        once: bool,
    ) -> Result<()> {
        let mut connection = self.open(address)?.context("the server does not accept")?;
        let mut missing: HashSet<u64> = account
            .owed()
            .filter(|number| !self.seen.contains_key(number))
            .collect();
        let mut last = Instant::now();
        loop {
            let complete = missing.is_empty() && self.held.is_empty();
            let patience = if complete { QUIET } else { SILENCE };
            match connection.receive(patience.saturating_sub(last.elapsed()))? {
                Received::Packet(packet) => {
                    if let Packet::Publish(message) = &packet {
                        missing.remove(&number_of(message)?);
                    }
                    self.take(&mut connection, &packet)?;
                    last = Instant::now();
                }
                Received::Nothing if complete => break,
                Received::Nothing => {
                    let mut lost: Vec<&u64> = missing.iter().collect();
                    lost.sort_unstable();
                    lost.truncate(8);
                    bail!(
                        "{} (QoS {}): {} acknowledged messages are lost, among them {lost:?}; {} QoS 2 ids never got PUBREL",
                        self.name,
                        self.qos,
                        missing.len(),
                        self.held.len()
                    );
                }
                Received::Closed => bail!("{}: the server closed the connection", self.name),
            }
        }
        for (number, seen) in std::mem::take(&mut self.seen) {
            let (qos, before) = match account.standing(number) {
                Standing::Unknown => {
                    bail!("{}: message {number} was never published", self.name)
                }
                Standing::Open(qos) => (qos, false),
                // A subscription of QoS 2 gets what was published with QoS 2 as that.
                Standing::Settled => (seen.iter().map(|seen| seen.qos).max().unwrap_or(0), true),
            };
            self.repeated += seen.len() as u64 - u64::from(!before);
            if once && self.qos == 2 && qos == 2 && (before || seen.len() > 1) {
                let also = if before { " after it had come" } else { "" };
                bail!(
                    "{}: QoS 2 message {number} came more than once{also}: {seen:?}",
                    self.name
                );
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
                    self.delivered += 1;
                    let seen = self.seen.entry(number_of(message)?).or_default();
                    seen.push(Seen {
                        connection: self.connections,
                        id: message.id,
                        dup: message.dup,
                        qos: message.qos,
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

/// The number that a message carries.
fn number_of(message: &Publish) -> Result<u64> {
    let text = std::str::from_utf8(&message.payload)?;
    text.parse()
        .with_context(|| format!("{text:?} is no number of a message"))
}
