//! MQTT 3.1.1 and 5.0 as the generator speaks them: connect, subscribe, publish at every QoS, and acknowledge.
//!
//! Publishes are encoded once a connection; a burst patches the time they are sent into their bodies and nothing else,
//! because packet ids 1 to `depth` are free again when a burst is answered. A burst at QoS 0, which nobody answers, ends
//! with a PINGREQ where nobody receives it either: the PINGRESP says that the server has read it. Bodies of messages
//! received are skipped after the time.

mod frames;
mod parse;
mod session;
mod sink;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use frames::DISCONNECT;
use parse::Header;
use session::MqttSession;

use crate::error::BenchError;
use crate::load::{Interest, Role, Seat};
use crate::protocol::Protocol;

/// Indexes into [`COMMANDS`].
const PUBLISH: usize = 0;
const CONNECT: usize = 1;
const COMMANDS: &[&str] = &["publish", "connect"];

/// How long a server may take to close a connection that said DISCONNECT.
const GOODBYE: Duration = Duration::from_secs(1);
/// Filters of one SUBSCRIBE: brokers limit its size.
const FILTERS_MAX: usize = 100;
/// Name of the group of shared subscriptions.
const GROUP: &str = "bench";

/// Version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    /// 3.1.1
    #[default]
    #[value(name = "3.1.1")]
    V3,
    /// 5.0
    #[value(name = "5")]
    V5,
}

/// The protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mqtt {
    pub(crate) version: Version,
}

impl Protocol for Mqtt {
    type Session = MqttSession;
    type Sink = sink::MqttSink;

    fn commands(&self) -> &'static [&'static str] {
        COMMANDS
    }

    fn open<S: Read + Write>(
        &self,
        seat: &Seat,
        stream: &mut S,
    ) -> Result<MqttSession, BenchError> {
        let session = MqttSession::new(self.version, seat);
        if seat.role == Role::Resume {
            // Connecting is the first thing that is measured.
            return Ok(session);
        }
        let send = |stream: &mut S, packet: &[u8]| {
            stream
                .write_all(packet)
                .map_err(BenchError::io("sending connect and subscribe"))
        };
        send(stream, &session.connect)?;
        let (header, body) = read_packet(stream, seat.connection)?;
        let receive_maximum = parse::connack(self.version, header, &body)
            .map_err(|reply| unexpected(COMMANDS[CONNECT], reply))?
            .receive_maximum;
        if session.qos > 0 && seat.role.is_publisher() && seat.depth > receive_maximum {
            return Err(BenchError::Usage(format!(
                "the server takes {receive_maximum} unacknowledged messages, fewer than a burst of {}",
                seat.depth
            )));
        }
        let filter = match seat.role {
            Role::Subscribe(Interest::Queue) | Role::Idle | Role::Respond => session.topic.clone(),
            Role::Subscribe(Interest::Every) => format!("{}/#", seat.queue_prefix),
            Role::Subscribe(Interest::Shared) => format!("$share/{GROUP}/{}", session.topic),
            Role::Request => session.reply_topic.clone(),
            _ => return Ok(session),
        };
        let aside = (0..seat.bindings)
            .map(|number| format!("{}/aside/{}/{number}/+", seat.queue_prefix, seat.connection));
        let filters: Vec<String> = std::iter::once(filter).chain(aside).collect();
        for filters in filters.chunks(FILTERS_MAX) {
            let subscribe = frames::subscribe(self.version, filters, session.qos);
            send(stream, &subscribe)?;
            let (header, body) = read_packet(stream, seat.connection)?;
            parse::suback(header, &body, filters.len(), session.qos)
                .map_err(|reply| unexpected("subscribe", reply))?;
        }
        Ok(session)
    }

    fn leave(&self, stream: &mut TcpStream) -> Result<(), BenchError> {
        stream
            .write_all(DISCONNECT)
            .and_then(|()| stream.set_read_timeout(Some(GOODBYE)))
            .map_err(BenchError::io("sending disconnect"))?;
        // Until the server closes, so that nothing published from now on finds the session connected. Not all servers
        // do; those have had their time.
        let mut ignored = [0; 4096];
        while stream.read(&mut ignored).is_ok_and(|count| count > 0) {}
        Ok(())
    }

    fn sink(&self, _body_bytes: usize) -> sink::MqttSink {
        sink::MqttSink::default()
    }
}

/// One packet from a stream that blocks, and not a byte more.
fn read_packet(stream: &mut impl Read, connection: u32) -> Result<(Header, Vec<u8>), BenchError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
            BenchError::Closed { connection }
        }
        _ => BenchError::Io {
            doing: "reading the reply to connect and subscribe",
            source,
        },
    };
    let mut start = Vec::new();
    let header = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(failed)?;
        start.extend_from_slice(&byte);
        match parse::header(&start) {
            Ok(Some(header)) => break header,
            Ok(None) => {}
            Err(reply) => return Err(unexpected(COMMANDS[CONNECT], reply)),
        }
    };
    let mut body = vec![0; header.length.min(parse::HANDSHAKE_BYTES_MAX)];
    stream.read_exact(&mut body).map_err(failed)?;
    Ok((header, body))
}

fn unexpected(command: &'static str, reply: String) -> BenchError {
    BenchError::UnexpectedReply { command, reply }
}
