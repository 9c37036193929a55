//! Two servers and the same clients on both.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Step;
use super::normal::{Sent, sent};
use crate::mqtt::{
    Ack, Connection, DISCONNECT, PINGREQ, Packet, Publish, Received, Version, ack, connect,
    publish, subscribe, unsubscribe,
};
use crate::server::{Server, ServerCommand};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a packet that only one server sent may be late on the other.
const LATE: Duration = Duration::from_millis(1500);

/// How long sessions live without a connection, in seconds.
const EXPIRY: u32 = 3600;

/// One client's own state on one server: ids differ between the servers.
#[derive(Debug)]
struct Peer {
    connection: Connection,
    /// What it was sent and has not finished: PUBLISH and PUBREL in order.
    open: VecDeque<(Ack, u16)>,
    /// Its own QoS 2 messages without PUBREL.
    unreleased: VecDeque<u16>,
    next_id: u16,
}

#[derive(Debug)]
struct Side {
    server: Server,
    _home: tempfile::TempDir,
    peers: Vec<Peer>,
}

/// The pair.
#[derive(Debug)]
pub(super) struct Pair {
    reference: Side,
    candidate: Side,
}

impl Pair {
    pub(super) fn start(
        reference: &ServerCommand,
        candidate: &ServerCommand,
        clients: &[Version],
    ) -> Result<Pair> {
        Ok(Pair {
            reference: Side::start(reference, clients)?,
            candidate: Side::start(candidate, clients)?,
        })
    }

    /// Takes one step on both and compares what all clients are sent.
    pub(super) fn take(&mut self, client: usize, step: &Step) -> Result<()> {
        self.reference.take(client, step).context("the reference")?;
        self.candidate.take(client, step).context("the candidate")?;
        for client in 0..self.reference.peers.len() {
            let mut ours = self.reference.look(client).context("the reference")?;
            let mut theirs = self.candidate.look(client).context("the candidate")?;
            let end = Instant::now() + LATE;
            while sent(&ours) != sent(&theirs) && Instant::now() < end {
                ours.extend(self.reference.look(client).context("the reference")?);
                theirs.extend(self.candidate.look(client).context("the candidate")?);
            }
            let (ours, theirs): (Sent, Sent) = (sent(&ours), sent(&theirs));
            if ours != theirs {
                bail!(
                    "client {client} is sent\n  {ours:?} by the reference,\n  {theirs:?} by the candidate"
                );
            }
        }
        Ok(())
    }
}

impl Side {
    fn start(command: &ServerCommand, clients: &[Version]) -> Result<Side> {
        let home = tempfile::tempdir()?;
        let server = Server::start(command, home.path())?;
        let mut peers = Vec::new();
        for (number, version) in clients.iter().enumerate() {
            let mut connection = Connection::open(server.address(), *version)?;
            connection.send(&connect(*version, &name(number), true, EXPIRY))?;
            match connection.expect(PATIENCE)? {
                Packet::Connack { code: 0, .. } => {}
                other => bail!("{other:?} is no answer to CONNECT"),
            }
            peers.push(Peer {
                connection,
                open: VecDeque::new(),
                unreleased: VecDeque::new(),
                next_id: 0,
            });
        }
        Ok(Side {
            server,
            _home: home,
            peers,
        })
    }

    fn take(&mut self, client: usize, step: &Step) -> Result<()> {
        let address = self.server.address();
        let peer = &mut self.peers[client];
        let version = peer.connection.version();
        match step {
            Step::Lose { clean } | Step::Leave { clean } => {
                if matches!(step, Step::Leave { .. }) {
                    peer.connection.send(DISCONNECT)?;
                    while peer.connection.receive(PATIENCE)? != Received::Closed {}
                }
                peer.connection = Connection::open(address, version)?;
                // What was open is sent again, and seen again, with this CONNECT.
                peer.open.clear();
                if *clean {
                    peer.unreleased.clear();
                }
                let bytes = connect(version, &name(client), *clean, EXPIRY);
                peer.connection.send(&bytes)
            }
            Step::Publish(message) => {
                let mut message: Publish = message.clone();
                if message.qos > 0 {
                    // Few of a window's messages are open at once.
                    if message.qos == 2 && peer.unreleased.len() >= 10 {
                        message.qos = 1;
                    }
                    peer.next_id = peer.next_id % 50_000 + 1;
                    message.id = peer.next_id;
                }
                if message.qos == 2 {
                    peer.unreleased.push_back(message.id);
                }
                peer.connection.send(&publish(version, &message))
            }
            Step::Release { known } => {
                let id = if *known {
                    peer.unreleased.pop_front()
                } else {
                    Some(60_000)
                };
                id.map_or(Ok(()), |id| peer.connection.send(&ack(Ack::Pubrel, id)))
            }
            Step::Acknowledge { known: true, .. } => {
                // All of them: one server may have sent more copies than the other.
                for (kind, id) in peer.open.drain(..) {
                    peer.connection.send(&ack(kind, id))?;
                }
                Ok(())
            }
            Step::Acknowledge { stray, .. } => peer.connection.send(&ack(*stray, 60_000)),
            Step::Subscribe(filters) => {
                let filters: Vec<(&str, u8)> = filters
                    .iter()
                    .map(|(filter, qos)| (filter.as_str(), *qos))
                    .collect();
                peer.next_id = peer.next_id % 50_000 + 1;
                peer.connection
                    .send(&subscribe(version, peer.next_id, &filters))
            }
            Step::Unsubscribe(filters) => {
                let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                peer.next_id = peer.next_id % 50_000 + 1;
                peer.connection
                    .send(&unsubscribe(version, peer.next_id, &filters))
            }
        }
    }

    /// What a client is sent until the answer to a PINGREQ.
    fn look(&mut self, client: usize) -> Result<Vec<Packet>> {
        let peer = &mut self.peers[client];
        peer.connection.send(PINGREQ)?;
        let mut packets = Vec::new();
        loop {
            let packet = peer.connection.expect(PATIENCE)?;
            match &packet {
                Packet::Pingresp => return Ok(packets),
                Packet::Publish(message) if message.qos == 1 => {
                    peer.open.push_back((Ack::Puback, message.id));
                }
                Packet::Publish(message) if message.qos == 2 => {
                    peer.open.push_back((Ack::Pubrec, message.id));
                }
                Packet::Ack {
                    kind: Ack::Pubrel,
                    id,
                    ..
                } if *id != 60_000 => peer.open.push_back((Ack::Pubcomp, *id)),
                _ => {}
            }
            packets.push(packet);
        }
    }
}

fn name(client: usize) -> String {
    format!("client-{client}")
}
