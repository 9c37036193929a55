//! A client that publishes and keeps its side of the state over lost connections.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Account, PATIENCE, locked, resume};
use crate::mqtt::{Ack, Connection, Packet, Publish, Received, Version, ack, publish};
use crate::random::Random;

/// Messages under way at once: fewer than any server's receive maximum.
const WINDOW: usize = 12;

/// One message under way.
#[derive(Clone, Debug)]
struct Flight {
    number: u64,
    message: Publish,
    /// PUBREC was seen, PUBREL is what counts now.
    received: bool,
}

/// One publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    number: usize,
    name: String,
    version: Version,
    random: Random,
    next_id: u16,
    /// In the order they were sent.
    flights: Vec<Flight>,
    known: bool,
}

impl Publisher {
    pub(super) fn new(number: usize, seed: u64) -> Self {
        Publisher {
            number,
            name: format!("publisher-{number}"),
            version: if number.is_multiple_of(2) {
                Version::V5
            } else {
                Version::V4
            },
            random: Random::new(seed),
            next_id: 0,
            flights: Vec::new(),
            known: false,
        }
    }

    /// Publishes until the server is gone.
    pub(super) fn work(&mut self, address: SocketAddr, account: &Mutex<Account>) -> Result<()> {
        while let Some(mut connection) = self.open(address)? {
            loop {
                if self.flights.len() < WINDOW && self.start(&mut connection, account).is_err() {
                    break;
                }
                let patience = if self.flights.len() < WINDOW {
                    Duration::from_millis(1)
                } else {
                    PATIENCE
                };
                match connection.receive(patience)? {
                    Received::Packet(packet) => {
                        if !self.answer(&mut connection, &packet, account)? {
                            break;
                        }
                    }
                    Received::Closed => break,
                    Received::Nothing if self.flights.len() < WINDOW => {}
                    Received::Nothing => bail!("{}: no acknowledgement in {PATIENCE:?}", self.name),
                }
                // Now and then its own connection is lost.
                if self.random.one_in(400) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Finishes what is under way.
    pub(super) fn finish(&mut self, address: SocketAddr, account: &Mutex<Account>) -> Result<()> {
        let Some(mut connection) = self.open(address)? else {
            bail!("{}: the server does not accept", self.name);
        };
        while !self.flights.is_empty() {
            let packet = connection.expect(PATIENCE)?;
            self.answer(&mut connection, &packet, account)?;
        }
        Ok(())
    }

    /// Connects and sends again what is under way, in the order it was sent.
    fn open(&mut self, address: SocketAddr) -> Result<Option<Connection>> {
        let Some(mut connection) = resume(address, self.version, &self.name, !self.known)? else {
            return Ok(None);
        };
        self.known = true;
        for flight in &mut self.flights {
            flight.message.dup = true;
            let bytes = if flight.received {
                ack(Ack::Pubrel, flight.message.id)
            } else {
                publish(self.version, &flight.message)
            };
            if connection.send(&bytes).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(connection))
    }

    /// Sends a new message.
    fn start(&mut self, connection: &mut Connection, account: &Mutex<Account>) -> Result<()> {
        let qos = 1 + self.random.below(2) as u8;
        loop {
            self.next_id = self.next_id % 100 + 1;
            if self
                .flights
                .iter()
                .all(|flight| flight.message.id != self.next_id)
            {
                break;
            }
        }
        let number = locked(account).published(self.number, qos);
        let message = Publish {
            topic: format!("crash/{}", self.name),
            payload: number.to_string().into_bytes(),
            qos,
            id: self.next_id,
            retain: false,
            dup: false,
            properties: Vec::new(),
        };
        let bytes = publish(self.version, &message);
        self.flights.push(Flight {
            number,
            message,
            received: false,
        });
        connection.send(&bytes)
    }

    /// Handles a packet; whether the connection still works.
    fn answer(
        &mut self,
        connection: &mut Connection,
        packet: &Packet,
        account: &Mutex<Account>,
    ) -> Result<bool> {
        let Packet::Ack { kind, id, code } = packet else {
            bail!("{}: unexpected {packet:?}", self.name);
        };
        if *code >= 0x80 {
            bail!("{}: {packet:?}", self.name);
        }
        let Some(at) = self
            .flights
            .iter()
            .position(|flight| flight.message.id == *id)
        else {
            bail!("{}: {packet:?} acknowledges nothing", self.name);
        };
        let flight = &mut self.flights[at];
        let number = flight.number;
        match (flight.message.qos, kind) {
            (1, Ack::Puback) => {
                self.flights.remove(at);
            }
            (2, Ack::Pubrec) => {
                flight.received = true;
                locked(account).acknowledge(number);
                return Ok(connection.send(&ack(Ack::Pubrel, *id)).is_ok());
            }
            (2, Ack::Pubcomp) if flight.received => {
                self.flights.remove(at);
                return Ok(true);
            }
            _ => bail!("{}: {packet:?} for {flight:?}", self.name),
        }
        locked(account).acknowledge(number);
        Ok(true)
    }
}
