//! Two servers driven in step: the same bytes on the same connection of both, and their answers compared.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::generator::Chunk;
use super::ids::Ids;
use super::normal;
use crate::beanstalk::{Received, Reply, Wire};
use crate::server::{Server, ServerCommand};

/// How long the slower server may take for what the faster one did already.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many of the last exchanges are shown with a difference.
const TAIL: usize = 40;

/// How much of a chunk or a reply is shown.
const SHOWN: usize = 160;

/// One server and our connections to it.
struct Side {
    server: Server,
    _home: tempfile::TempDir,
    address: std::net::SocketAddr,
    connections: Vec<Wire>,
    /// Asks something harmless to learn that the server did what was sent before.
    marker: Wire,
}

/// Both servers.
pub(super) struct Pair {
    reference: Side,
    candidate: Side,
    /// Which connections wait in a reserve.
    pub(super) waiting: Vec<bool>,
    pub(super) ids: Ids,
    log: VecDeque<String>,
}

impl Side {
    fn start(command: &ServerCommand, connections: usize) -> Result<Side> {
        let home = tempfile::tempdir()?;
        let server = Server::start(command, home.path())?;
        let address = server.address();
        let mut side = Side {
            server,
            _home: home,
            address,
            connections: Vec::new(),
            marker: Wire::connect(address)?,
        };
        side.mark()?;
        // The connection that found out that the server accepts has to be gone before anything is counted.
        side.wait_for_connections(1)?;
        for _ in 0..connections {
            side.connections.push(Wire::connect(address)?);
        }
        side.wait_for_connections(connections + 1)?;
        Ok(side)
    }

    /// One round trip with a command that no statistic counts.
    fn mark(&mut self) -> Result<()> {
        self.marker.send(b"?\r\n")?;
        self.marker.expect(PATIENCE).with_context(|| {
            let log = self.server.log_tail();
            format!("the server does not answer on another connection; the end of its log:\n{log}")
        })?;
        Ok(())
    }

    /// Waits until the server counts so many open connections.
    fn wait_for_connections(&mut self, count: usize) -> Result<()> {
        let wanted = format!("current-connections: {count}");
        let end = Instant::now() + PATIENCE;
        loop {
            self.marker.send(b"stats\r\n")?;
            let reply = self.marker.expect(PATIENCE)?;
            let text =
                String::from_utf8_lossy(reply.body.as_deref().unwrap_or_default()).into_owned();
            if text.lines().any(|row| row == wanted) {
                return Ok(());
            }
            if Instant::now() > end {
                let row = text
                    .lines()
                    .find(|row| row.starts_with("current-connections"))
                    .unwrap_or_default();
                bail!("the server counts {row:?} instead of {count}");
            }
        }
    }

    /// Everything that arrived on a connection, once the server had the time to do all that was sent to it.
    fn settle(&mut self, connection: usize) -> Result<Vec<Received>> {
        let mut all = Vec::new();
        let mut idle = 0;
        // The original does one thing at a time for each connection that has something to do, in turns: what it did
        // not do within two rounds with another connection, it does not have to do.
        while idle < 2 {
            self.mark()?;
            idle += 1;
            loop {
                match self.connections[connection].receive(Duration::ZERO)? {
                    Received::Nothing => break,
                    Received::Closed => {
                        all.push(Received::Closed);
                        return Ok(all);
                    }
                    reply => all.push(reply),
                }
                idle = 0;
            }
        }
        Ok(all)
    }
}

impl Pair {
    /// Starts both.
    ///
    /// # Errors
    /// When one does not start.
    pub(super) fn start(
        reference: &ServerCommand,
        candidate: &ServerCommand,
        connections: usize,
    ) -> Result<Pair> {
        Ok(Pair {
            reference: Side::start(reference, connections).context("the reference")?,
            candidate: Side::start(candidate, connections).context("the server under test")?,
            waiting: vec![false; connections],
            ids: Ids::new(),
            log: VecDeque::new(),
        })
    }

    /// Sends a chunk, in two pieces when `cut` says where, and compares the answers on this connection and on all that
    /// wait. Returns the reference's answers.
    ///
    /// # Errors
    /// When the answers differ, or a server fails.
    pub(super) fn exchange(
        &mut self,
        connection: usize,
        chunk: &Chunk,
        cut: Option<usize>,
    ) -> Result<Vec<(usize, Reply)>> {
        self.note(format!("{connection} > {}", shown(&chunk.bytes)));
        for (side, bytes) in [
            (&mut self.reference, &chunk.bytes),
            (&mut self.candidate, &chunk.for_candidate),
        ] {
            let (first, second) = bytes.split_at(cut.unwrap_or(bytes.len()).min(bytes.len()));
            side.connections[connection].send(first)?;
            if !second.is_empty() {
                side.connections[connection].send(second)?;
            }
        }
        let mut expected = Vec::new();
        for _ in 0..chunk.replies + u64::from(chunk.quits) {
            match self.reference.connections[connection].receive(PATIENCE)? {
                Received::Nothing => bail!("the reference does not answer{}", self.tail()),
                received => expected.push(received),
            }
            if expected.last() == Some(&Received::Closed) {
                break;
            }
        }
        if expected.last() != Some(&Received::Closed) {
            expected.extend(self.reference.settle(connection)?);
        }
        let mut replies = self.compare(connection, expected)?;
        // The generator puts a command that is answered with USING before a reserve that may wait.
        self.waiting[connection] = chunk.may_wait
            && replies
                .last()
                .is_some_and(|(_, reply)| reply.line.starts_with("USING "));
        for other in 0..self.waiting.len() {
            if other != connection {
                replies.extend(self.look(other)?);
            }
        }
        Ok(replies)
    }

    /// Compares what arrived unasked on a connection.
    ///
    /// # Errors
    /// When it differs, or a server fails.
    pub(super) fn look(&mut self, connection: usize) -> Result<Vec<(usize, Reply)>> {
        if !self.waiting[connection] {
            return Ok(Vec::new());
        }
        self.candidate.mark()?;
        let mut expected = self.reference.settle(connection)?;
        if expected.is_empty() {
            match self.candidate.connections[connection].receive(Duration::ZERO)? {
                Received::Nothing => return Ok(Vec::new()),
                early => {
                    // Perhaps the reference is only slower.
                    let received = self.reference.connections[connection].receive(PATIENCE)?;
                    self.check(connection, &received, &early)?;
                    self.waiting[connection] = false;
                    return Ok(reply_of(connection, received).into_iter().collect());
                }
            }
        }
        self.waiting[connection] = false;
        let rest = expected.split_off(1);
        let mut replies = self.compare(connection, expected)?;
        replies.extend(self.compare(connection, rest)?);
        Ok(replies)
    }

    /// Closes a connection on both sides and opens a new one.
    ///
    /// # Errors
    /// When a server fails.
    pub(super) fn reconnect(&mut self, connection: usize) -> Result<()> {
        self.note(format!("{connection} closes and connects again"));
        let count = self.waiting.len();
        for side in [&mut self.reference, &mut self.candidate] {
            let mut fresh = Wire::connect(side.address)?;
            fresh.send(b"?\r\n")?;
            fresh.expect(PATIENCE)?;
            drop(std::mem::replace(&mut side.connections[connection], fresh));
            side.wait_for_connections(count + 1)?;
        }
        self.waiting[connection] = false;
        Ok(())
    }

    /// Half-closes a waiting connection, compares what comes, and connects again.
    ///
    /// # Errors
    /// When the answers differ, or a server fails.
    pub(super) fn half_close(&mut self, connection: usize) -> Result<()> {
        self.note(format!("{connection} shuts its writing direction"));
        for side in [&mut self.reference, &mut self.candidate] {
            side.connections[connection].shut_write()?;
        }
        for _ in 0..2 {
            let expected = self.reference.connections[connection].receive(PATIENCE)?;
            let received = self.candidate.connections[connection].receive(PATIENCE)?;
            self.check(connection, &expected, &received)?;
            if expected == Received::Closed {
                break;
            }
        }
        self.reconnect(connection)
    }

    /// The last exchanges, for a report.
    pub(super) fn tail(&self) -> String {
        let rows: Vec<&str> = self.log.iter().map(String::as_str).collect();
        format!(
            "\nthe last exchanges (connection, > sent, < received):\n{}",
            rows.join("\n")
        )
    }

    fn compare(
        &mut self,
        connection: usize,
        expected: Vec<Received>,
    ) -> Result<Vec<(usize, Reply)>> {
        let mut replies = Vec::new();
        let closed = expected.last() == Some(&Received::Closed);
        for expected in expected {
            let received = self.candidate.connections[connection].receive(PATIENCE)?;
            self.check(connection, &expected, &received)?;
            replies.extend(reply_of(connection, expected));
        }
        if !closed {
            self.candidate.mark()?;
            let surplus = self.candidate.connections[connection].receive(Duration::ZERO)?;
            self.check(connection, &Received::Nothing, &surplus)?;
        }
        Ok(replies)
    }

    fn check(&mut self, connection: usize, expected: &Received, received: &Received) -> Result<()> {
        if *expected != Received::Nothing {
            self.note(format!("{connection} < {}", describe(expected)));
        }
        if normal::same(&self.ids.translate(expected), received) {
            return Ok(());
        }
        bail!(
            "connection {connection}: the reference answered\n  {}\nthe server under test (with ids of its own)\n  {}{}",
            describe(expected),
            describe(received),
            self.tail()
        )
    }

    fn note(&mut self, row: String) {
        if self.log.len() == TAIL {
            self.log.pop_front();
        }
        self.log.push_back(row);
    }
}

fn reply_of(connection: usize, received: Received) -> Option<(usize, Reply)> {
    match received {
        Received::Reply(reply) => Some((connection, reply)),
        Received::Closed | Received::Nothing => None,
    }
}

fn describe(received: &Received) -> String {
    match received {
        Received::Closed => "(connection closed)".to_owned(),
        Received::Nothing => "(nothing)".to_owned(),
        Received::Reply(Reply { line, body: None }) => line.clone(),
        Received::Reply(Reply {
            line,
            body: Some(body),
        }) if line.starts_with("OK") => {
            format!("{line} {:?}", String::from_utf8_lossy(body))
        }
        Received::Reply(Reply {
            line,
            body: Some(body),
        }) => format!("{line} {}", shown(body)),
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    if bytes.len() > SHOWN {
        format!("{text}… ({} bytes)", bytes.len())
    } else {
        text
    }
}
