//! AMQP 0-9-1 as the generator speaks it: declare, publish with or without confirms, consume with or without
//! acknowledgements.
//!
//! Publishes are encoded once a connection; a burst patches the time they are sent into their bodies and nothing else. A
//! burst without confirms that nobody receives ends with a `channel.flow`, whose answer says that the server has read
//! it. A consumer acknowledges all that one read has brought with one frame.
//!
//! How messages are routed follows from the load: a topic exchange when there are bindings, a fanout when each message
//! has an audience, otherwise the default exchange. An audience of a stream reads one queue.

mod confirms;
mod frames;
mod parse;
mod session;
mod sink;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::net::TcpStream;

use parse::{Frame, id, kind};
use session::AmqpSession;

use crate::error::BenchError;
use crate::load::{Role, Seat};
use crate::protocol::Protocol;

/// Indexes into [`COMMANDS`].
const PUBLISH: usize = 0;
const CONSUME: usize = 1;
const COMMANDS: &[&str] = &["publish", "consume"];

/// The one channel that is used.
const CHANNEL: u16 = 1;
/// Messages that a consumer has before it acknowledges: what RabbitMQ's guide recommends for short work.
const PREFETCH: u16 = 250;
/// Largest frame that is asked for.
const FRAME_BYTES_MAX: u32 = 131_072;
/// More than any frame of a handshake.
const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// The protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amqp {
    pub(crate) queues: QueueType,
}

/// `x-queue-type` of the queues that are declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum QueueType {
    /// Not said: the server's default.
    #[default]
    Classic,
    /// Replicated in RabbitMQ; confirms wait for the disk.
    Quorum,
    /// A log that each consumer reads from its end on.
    Stream,
}

impl QueueType {
    /// How clients call it; `None`: it is not said.
    pub(crate) fn argument(self) -> Option<&'static str> {
        match self {
            QueueType::Classic => None,
            QueueType::Quorum => Some("quorum"),
            QueueType::Stream => Some("stream"),
        }
    }
}

impl Protocol for Amqp {
    type Session = AmqpSession;
    type Sink = sink::AmqpSink;

    fn commands(&self) -> &'static [&'static str] {
        COMMANDS
    }

    fn open<S: Read + Write>(
        &self,
        seat: &Seat,
        stream: &mut S,
    ) -> Result<AmqpSession, BenchError> {
        let mut handshake = Handshake {
            stream,
            connection: seat.connection,
        };
        let frame_bytes = handshake.log_in()?;
        handshake.call(&frames::channel_open(CHANNEL), id::CHANNEL_OPEN_OK)?;
        let session = AmqpSession::new(seat, frame_bytes, self.queues);
        if seat.role == Role::Idle {
            handshake.call(&frames::channel_open(CHANNEL + 1), id::CHANNEL_OPEN_OK)?;
        }
        for (request, answer) in session.preparation() {
            handshake.call(&request, answer)?;
        }
        Ok(session)
    }

    fn leave(&self, stream: &mut TcpStream) -> Result<(), BenchError> {
        let mut handshake = Handshake {
            stream,
            connection: 0,
        };
        handshake.call(&frames::connection_close(), id::CONNECTION_CLOSE_OK)
    }

    fn drain(&self) -> Role {
        Role::Resume
    }

    fn sink(&self, _body_bytes: usize) -> sink::AmqpSink {
        sink::AmqpSink::default()
    }
}

/// A connection before the load, on a stream that blocks.
struct Handshake<'a, S> {
    stream: &'a mut S,
    connection: u32,
}

impl<S: Read + Write> Handshake<'_, S> {
    /// Up to `connection.open-ok`; the largest frame that both take.
    fn log_in(&mut self) -> Result<u32, BenchError> {
        self.call(frames::PROTOCOL_HEADER, id::START)?;
        let tune = self.ask(&frames::start_ok(), id::TUNE)?;
        let theirs = tune
            .get(6..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let frame_bytes = match theirs {
            0 => FRAME_BYTES_MAX,
            theirs => theirs.min(FRAME_BYTES_MAX),
        };
        let channels = tune
            .get(4..)
            .and_then(<[u8]>::first_chunk)
            .map_or(0, |bytes| u16::from_be_bytes(*bytes));
        self.send(&frames::tune_ok(channels, frame_bytes))?;
        self.call(&frames::open(), id::OPEN_OK)?;
        Ok(frame_bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        self.stream
            .write_all(bytes)
            .map_err(BenchError::io("sending a handshake"))
    }

    /// Sends a request and waits for this answer.
    fn call(&mut self, request: &[u8], answer: parse::Id) -> Result<(), BenchError> {
        self.ask(request, answer).map(drop)
    }

    /// As [`call`](Self::call); the answer's payload.
    fn ask(&mut self, request: &[u8], answer: parse::Id) -> Result<Vec<u8>, BenchError> {
        self.send(request)?;
        loop {
            let (frame, payload) = self.read()?;
            if frame.kind == kind::HEARTBEAT {
                continue;
            }
            if frame.kind == kind::METHOD && parse::method(&payload) == Some(answer) {
                return Ok(payload);
            }
            return Err(unexpected("the handshake", parse::describe(&payload)));
        }
    }

    /// One frame and not a byte more.
    fn read(&mut self) -> Result<(Frame, Vec<u8>), BenchError> {
        let connection = self.connection;
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
                BenchError::Closed { connection }
            }
            _ => BenchError::Io {
                doing: "reading an answer of a handshake",
                source,
            },
        };
        let mut start = [0; parse::FRAME_HEADER];
        self.stream.read_exact(&mut start).map_err(failed)?;
        let frame = match parse::frame(&start) {
            Ok(Some(frame)) if frame.size <= HANDSHAKE_BYTES_MAX => frame,
            _ => return Err(unexpected("the handshake", format!("{start:02x?}"))),
        };
        let mut payload = vec![0; frame.size + 1];
        self.stream.read_exact(&mut payload).map_err(failed)?;
        payload.truncate(frame.size);
        Ok((frame, payload))
    }
}

fn unexpected(command: &'static str, reply: String) -> BenchError {
    BenchError::UnexpectedReply { command, reply }
}
