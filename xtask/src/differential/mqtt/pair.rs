//! Two servers and the same clients on both.
//!
//! What tells that a step is over:
//!
//! * at each client that is there, the marker, which its own connection has published behind the step, or an observer's when
//!   the step has ended that connection; at the one that has published it, also its PUBACK;
//! * a PUBREL for each PUBREC that the step has sent: it may wait for the disk while other things go on;
//! * the will of a connection that was cut, at the observer: nobody else knows when the server has noticed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::normal::{Sent, sent};
use super::step::{EXPIRY, End, Step};
use crate::mqtt::{
    Ack, Connection, DISCONNECT, Packet, Publish, Received, Version, ack, connect,
    connect_with_will, publish, subscribe, subscribe_as, unsubscribe,
};
use crate::server::{Server, ServerCommand};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where markers are published: no filter of a client matches it.
const MARKER: &str = "$marker";

/// Ids that no step uses: of what means nothing, of the markers and of the subscriptions to them.
const STRAY: u16 = 60_000;
const MARKER_ID: u16 = 60_001;
const MARKED_ID: u16 = 60_002;

/// One client's own state on one server: ids differ between the servers.
#[derive(Debug)]
struct Peer {
    version: Version,
    /// `None`: it is away.
    connection: Option<Connection>,
    /// What it was sent and has not finished: PUBLISH and PUBREL in order.
    open: VecDeque<(Ack, u16)>,
    /// Its own QoS 2 messages without PUBREL.
    unreleased: VecDeque<u16>,
    /// Whose PUBREL is due.
    due: HashSet<u16>,
    next_id: u16,
    /// What its topic aliases mean on this connection.
    aliases: HashMap<u8, String>,
}

#[derive(Debug)]
struct Side {
    server: Server,
    _home: tempfile::TempDir,
    peers: Vec<Peer>,
    /// Is subscribed to everything, and says so when nobody else can.
    observer: Connection,
    markers: u64,
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

    /// Takes one step on both and compares what all clients are sent. `had_will`: before the step, the client's connection.
    pub(super) fn take(&mut self, client: usize, step: &Step, had_will: bool) -> Result<()> {
        let ours = (self.reference.take(client, step, had_will)).context("the reference")?;
        let theirs = (self.candidate.take(client, step, had_will)).context("the candidate")?;
        for (client, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let (ours, theirs): (Sent, Sent) = (sent(ours), sent(theirs));
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
        let mut observer = Connection::open(server.address(), Version::V5)?;
        observer.send(&connect(Version::V5, "observer", true, EXPIRY))?;
        observer.send(&subscribe(Version::V5, 1, &[("#", 1), ("$x/#", 1)]))?;
        let mut side = Side {
            server,
            _home: home,
            peers: Vec::new(),
            observer,
            markers: 0,
        };
        while !matches!(side.observer.expect(PATIENCE)?, Packet::Suback { .. }) {}
        for (number, version) in clients.iter().enumerate() {
            side.peers.push(Peer {
                version: *version,
                connection: None,
                open: VecDeque::new(),
                unreleased: VecDeque::new(),
                due: HashSet::new(),
                next_id: 0,
                aliases: HashMap::new(),
            });
            // 3.1.1 keeps its session only if it is not a clean one.
            let clean = *version == Version::V5;
            side.enter(number, clean, EXPIRY, None)?;
            side.settle(Some(number))?;
        }
        Ok(side)
    }

    /// Takes one step; what each client is sent by it.
    fn take(&mut self, client: usize, step: &Step, had_will: bool) -> Result<Vec<Vec<Packet>>> {
        let mut last = Vec::new();
        match step {
            Step::Connect {
                end,
                clean,
                expiry,
                will,
            } => {
                let old = match end {
                    End::TakeOver => self.peers[client].connection.take(),
                    end => {
                        self.end(client, *end, had_will)?;
                        None
                    }
                };
                self.enter(client, *clean, *expiry, will.as_ref())?;
                drop(old);
            }
            Step::Away(end) => self.end(client, *end, had_will)?,
            Step::Break(bytes) => {
                let connection = self.peers[client].connection.take();
                let mut connection = connection.context("it is away")?;
                connection.send(bytes)?;
                loop {
                    match connection.receive(PATIENCE)? {
                        Received::Closed => break,
                        // Which reason it is given is compared by the conformance suite.
                        Received::Packet(Packet::Disconnect { .. }) => {}
                        Received::Packet(packet) => last.push(packet),
                        Received::Nothing => bail!("the connection does not end"),
                    }
                }
                if had_will {
                    self.observe_will(client)?;
                }
            }
            step => self.peers[client].take(step)?,
        }
        let is_here = self.peers[client].connection.is_some();
        let mut sent = self.settle(is_here.then_some(client))?;
        sent[client].extend(last);
        Ok(sent)
    }

    /// Ends the connection of a client, if it has one, and waits until the server knows, if that makes a difference.
    fn end(&mut self, client: usize, end: End, had_will: bool) -> Result<()> {
        let Some(mut connection) = self.peers[client].connection.take() else {
            return Ok(());
        };
        if end == End::Leave {
            connection.send(DISCONNECT)?;
            while connection.receive(PATIENCE)? != Received::Closed {}
        } else {
            drop(connection);
            if had_will {
                self.observe_will(client)?;
            }
        }
        Ok(())
    }

    /// Connects a client, and subscribes it to the markers.
    fn enter(
        &mut self,
        client: usize,
        clean: bool,
        expiry: u32,
        will: Option<&Publish>,
    ) -> Result<()> {
        let peer = &mut self.peers[client];
        let version = peer.version;
        let mut connection = Connection::open(self.server.address(), version)?;
        let name = format!("client-{client}");
        let will = will.cloned().map(|mut will| {
            will.payload.extend_from_slice(name.as_bytes());
            will
        });
        let mut bytes = connect_with_will(version, &name, clean, expiry, will.as_ref());
        bytes.extend(subscribe(version, MARKED_ID, &[(MARKER, 1)]));
        connection.send(&bytes)?;
        peer.connection = Some(connection);
        // What was open is sent again, and seen again, with this CONNECT.
        peer.open.clear();
        peer.due.clear();
        peer.aliases.clear();
        if clean {
            peer.unreleased.clear();
        }
        Ok(())
    }

    /// Waits until the will of a client has been published.
    fn observe_will(&mut self, client: usize) -> Result<()> {
        let end = format!("client-{client}").into_bytes();
        loop {
            let packet = self.observer.expect(PATIENCE).context("the will")?;
            if let Packet::Publish(message) = packet {
                if message.qos > 0 {
                    let kind = if message.qos == 1 {
                        Ack::Puback
                    } else {
                        Ack::Pubrec
                    };
                    self.observer.send(&ack(kind, message.id))?;
                }
                if message.payload.starts_with(b"will ")
                    && message.payload.ends_with(&end)
                    && !message.retain
                {
                    return Ok(());
                }
            }
        }
    }

    /// Reads what all clients are sent until nothing of the step can be on its way: a marker may overtake what a share
    /// sends, since there is no order between subscriptions, but one that follows the answer to another does not.
    fn settle(&mut self, client: Option<usize>) -> Result<Vec<Vec<Packet>>> {
        let mut packets = self.mark(client)?;
        for (packets, later) in packets.iter_mut().zip(self.mark(client)?) {
            packets.extend(later);
        }
        Ok(packets)
    }

    /// Publishes a marker, by the connection of `client` or by the observer, and reads what all clients are sent before it.
    fn mark(&mut self, client: Option<usize>) -> Result<Vec<Vec<Packet>>> {
        self.markers += 1;
        let payload = self.markers.to_string().into_bytes();
        let marker = Publish {
            topic: MARKER.to_owned(),
            payload: payload.clone(),
            qos: 1,
            id: MARKER_ID,
            retain: false,
            dup: false,
            properties: Vec::new(),
        };
        match client {
            Some(client) => {
                let peer = &mut self.peers[client];
                peer.send(&publish(peer.version, &marker))?;
            }
            None => self.observer.send(&publish(Version::V5, &marker))?,
        }
        let peers = self.peers.iter_mut().enumerate();
        peers
            .map(|(number, peer)| {
                let has_published = client == Some(number);
                peer.read_until(&payload, has_published)
                    .with_context(|| format!("client {number}"))
            })
            .collect()
    }
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.connection.as_mut().context("it is away")?.send(bytes)
    }

    /// What it is sent until the step is over.
    fn read_until(&mut self, marker: &[u8], has_published: bool) -> Result<Vec<Packet>> {
        let mut packets = Vec::new();
        let Some(connection) = &mut self.connection else {
            return Ok(packets);
        };
        let (mut is_marked, mut is_answered) = (false, !has_published);
        let end = Instant::now() + PATIENCE;
        while !(is_marked && is_answered && self.due.is_empty()) {
            let packet = match connection.receive(end.saturating_duration_since(Instant::now()))? {
                Received::Packet(packet) => packet,
                Received::Closed => bail!("the server closed the connection after {packets:?}"),
                Received::Nothing => bail!(
                    "no end of the step; marker {is_marked}, PUBACK {is_answered}, PUBREL due {:?}, so far {packets:?}",
                    self.due
                ),
            };
            match &packet {
                Packet::Publish(message) if message.topic == MARKER => {
                    connection.send(&ack(Ack::Puback, message.id))?;
                    is_marked |= message.payload == marker;
                    continue;
                }
                Packet::Ack {
                    kind: Ack::Puback,
                    id: MARKER_ID,
                    ..
                } => {
                    is_answered = true;
                    continue;
                }
                Packet::Suback { id: MARKED_ID, .. } => continue,
                Packet::Publish(message) if message.qos == 1 => {
                    self.open.push_back((Ack::Puback, message.id));
                }
                Packet::Publish(message) if message.qos == 2 => {
                    self.open.push_back((Ack::Pubrec, message.id));
                }
                Packet::Ack {
                    kind: Ack::Pubrel,
                    id,
                    ..
                } if *id != STRAY => {
                    self.due.remove(id);
                    self.open.push_back((Ack::Pubcomp, *id));
                }
                _ => {}
            }
            packets.push(packet);
        }
        Ok(packets)
    }

    fn next_id(&mut self) -> u16 {
        self.next_id = self.next_id % 50_000 + 1;
        self.next_id
    }

    fn take(&mut self, step: &Step) -> Result<()> {
        let version = self.version;
        match step {
            Step::Publish { message, alias } => {
                let mut message: Publish = message.clone();
                if message.qos > 0 {
                    // Few of a window's messages are open at once.
                    if message.qos == 2 && self.unreleased.len() >= 10 {
                        message.qos = 1;
                    }
                    message.id = self.next_id();
                }
                if message.qos == 2 {
                    self.unreleased.push_back(message.id);
                }
                if *alias > 0 {
                    message.properties = vec![0x23, 0, *alias];
                    let topic = message.topic.clone();
                    if self.aliases.get(alias) == Some(&topic) {
                        message.topic.clear();
                    }
                    self.aliases.insert(*alias, topic);
                }
                self.send(&publish(version, &message))
            }
            Step::Release { known } => {
                let id = if *known {
                    self.unreleased.pop_front()
                } else {
                    Some(STRAY)
                };
                id.map_or(Ok(()), |id| self.send(&ack(Ack::Pubrel, id)))
            }
            Step::Acknowledge { known: true, .. } => {
                for (kind, id) in std::mem::take(&mut self.open) {
                    if kind == Ack::Pubrec {
                        self.due.insert(id);
                    }
                    self.send(&ack(kind, id))?;
                }
                Ok(())
            }
            Step::Acknowledge { stray, .. } => self.send(&ack(*stray, STRAY)),
            Step::Subscribe {
                filters,
                identifier,
            } => {
                let filters: Vec<(&str, u8)> = filters
                    .iter()
                    .map(|(filter, options)| (filter.as_str(), *options))
                    .collect();
                let id = self.next_id();
                self.send(&subscribe_as(version, id, *identifier, &filters))
            }
            Step::Unsubscribe(filters) => {
                let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                let id = self.next_id();
                self.send(&unsubscribe(version, id, &filters))
            }
            Step::Connect { .. } | Step::Away(_) | Step::Break(_) => Ok(()),
        }
    }
}
