//! One connection of a generator thread: its stream, its session, and what is half written or half read.

use std::io::{ErrorKind, IoSlice, Read, Write};

use crate::error::BenchError;
use crate::load::{Flow, Seat};
use crate::network::Network;
use crate::protocol::{Protocol, Replies, Session};

#[derive(Debug)]
pub(super) struct Connection<S, W> {
    pub(super) session: S,
    /// Whether it publishes.
    pub(super) publishes: bool,
    /// When the next burst is due, in nanoseconds (a fraction, so that the rate is met exactly).
    pub(super) due_ns: f64,
    /// The kind of the current burst.
    pub(super) command: usize,
    /// Replies of it that are missing.
    pub(super) awaiting: u32,
    /// When it was sent, or was due.
    pub(super) sent_ns: u64,
    /// It wants nothing more.
    pub(super) done: bool,
    /// Which of the load's connections.
    pub(super) number: u32,
    stream: W,
    /// Bytes of the current burst that are written.
    written: usize,
    /// Nobody answers the current burst.
    unanswered: bool,
    reactions: Vec<u8>,
    /// Bytes of the reactions that are written.
    reacted: usize,
    watches_room: bool,
    tail: Vec<u8>,
}

impl<S: Session, W: Read + Write> Connection<S, W> {
    /// Connects, shakes hands, and is told of as `token` from then on.
    pub(super) fn open<P: Protocol<Session = S>>(
        protocol: &P,
        network: &mut impl Network<Stream = W>,
        seat: &Seat,
        token: usize,
    ) -> Result<Self, BenchError> {
        let mut stream = network.connect(seat.connection)?;
        let session = protocol.open(seat, &mut stream)?;
        network.watch(&mut stream, token)?;
        Ok(Connection {
            session,
            publishes: seat.role.is_publisher(),
            due_ns: 0.0,
            command: 0,
            awaiting: 0,
            sent_ns: 0,
            done: false,
            number: seat.connection,
            stream,
            written: 0,
            unanswered: false,
            reactions: Vec::new(),
            reacted: 0,
            watches_room: false,
            tail: Vec::new(),
        })
    }

    pub(super) fn begin(&mut self, command: usize, count: u32, sent_ns: u64) {
        self.command = command;
        self.awaiting = count;
        self.sent_ns = sent_ns;
        self.written = 0;
    }

    /// Begins a burst without answers; [`has_sent`](Self::has_sent) tells its end.
    pub(super) fn begin_unanswered(&mut self) {
        self.written = 0;
        self.unanswered = true;
    }

    /// Whether a burst without answers has been written; true once a burst.
    pub(super) fn has_sent(&mut self) -> bool {
        let sent = self.unanswered && self.written >= self.session.outgoing().len();
        if sent {
            self.unanswered = false;
        }
        sent
    }

    /// Writes what the stream takes of the current burst and of the reactions.
    pub(super) fn flush(
        &mut self,
        network: &mut impl Network<Stream = W>,
        token: usize,
    ) -> Result<(), BenchError> {
        loop {
            let burst = self
                .session
                .outgoing()
                .get(self.written..)
                .unwrap_or_default();
            let reactions = self.reactions.get(self.reacted..).unwrap_or_default();
            // What is half written goes on first.
            let burst_first = self.written > 0 && !burst.is_empty();
            let result = match (burst.is_empty(), reactions.is_empty()) {
                (true, true) => {
                    self.reactions.clear();
                    self.reacted = 0;
                    return self.watch_room(false, network, token);
                }
                (false, true) => self.stream.write(burst),
                (true, false) => self.stream.write(reactions),
                (false, false) if burst_first => self
                    .stream
                    .write_vectored(&[IoSlice::new(burst), IoSlice::new(reactions)]),
                (false, false) => self
                    .stream
                    .write_vectored(&[IoSlice::new(reactions), IoSlice::new(burst)]),
            };
            match result {
                Ok(count) if burst_first => {
                    let of_burst = count.min(burst.len());
                    self.written += of_burst;
                    self.reacted += count - of_burst;
                }
                Ok(count) => {
                    let of_reactions = count.min(reactions.len());
                    self.reacted += of_reactions;
                    self.written += count - of_reactions;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.watch_room(true, network, token);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error, "writing to the server")),
            }
        }
    }

    fn watch_room(
        &mut self,
        wanted: bool,
        network: &mut impl Network<Stream = W>,
        token: usize,
    ) -> Result<(), BenchError> {
        if self.watches_room == wanted {
            return Ok(());
        }
        self.watches_room = wanted;
        network.watch_room(&mut self.stream, token, wanted)
    }

    /// One read, and what it completes. False when nothing was there to read.
    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<bool, BenchError> {
        let kept = self.tail.len();
        if let Some(front) = buffer.get_mut(..kept) {
            front.copy_from_slice(&self.tail);
        }
        let count = match self.stream.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => {
                return Err(BenchError::Closed {
                    connection: self.number,
                });
            }
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(self.failed(error, "reading from the server")),
        };
        let input = buffer.get(..kept + count).unwrap_or_default();
        let used = self.session.consume(input, replies, flow)?;
        self.tail.clear();
        self.tail
            .extend_from_slice(input.get(used..).unwrap_or_default());
        self.reactions.append(&mut replies.reactions);
        Ok(true)
    }

    /// Whether there are reactions to write.
    pub(super) fn reacts(&self) -> bool {
        !self.reactions.is_empty()
    }

    fn failed(&self, source: std::io::Error, doing: &'static str) -> BenchError {
        match source.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => BenchError::Closed {
                connection: self.number,
            },
            _ => BenchError::Io { doing, source },
        }
    }
}
