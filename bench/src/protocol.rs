//! What a protocol implements to be driven: bytes out, bytes in, and a script. A new protocol is one file here.
//!
//! A [`Session`] is one connection after its handshake, without its stream. The driver asks it for a burst, writes
//! [`Session::outgoing`], feeds it what arrives until every command of the burst is answered, and asks again. A session
//! that [listens](Next::Listen) is fed without being asked again; what it wants to say to what it hears (an
//! acknowledgement) goes into [`Replies::reactions`], which the driver writes at once, between bursts.

pub(crate) mod amqp;
pub(crate) mod beanstalk;
pub(crate) mod mqtt;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::error::BenchError;
use crate::load::{Flow, Role, Seat};
use crate::null::Relay;

/// A protocol: makes sessions.
pub(crate) trait Protocol: Sync {
    /// One connection.
    type Session: Session;
    /// The answering half of the null sink.
    type Sink: Sink;

    /// Names of the commands, indexed by [`Next::Burst`]'s `command`.
    fn commands(&self) -> &'static [&'static str];

    /// The handshake on a fresh connection that blocks (with timeouts set), and the session that follows it.
    fn open<S: Read + Write>(
        &self,
        seat: &Seat,
        stream: &mut S,
    ) -> Result<Self::Session, BenchError>;

    /// Ends a session of [`open`](Self::open) in good order, so that what is persistent stays behind in the server and
    /// nothing else does. On a blocking socket.
    fn leave(&self, stream: &mut TcpStream) -> Result<(), BenchError> {
        stream
            .shutdown(std::net::Shutdown::Both)
            .map_err(BenchError::io("closing a connection"))
    }

    /// How a connection empties the queues that others filled: [`Role::Drain`], asking for message after message, or
    /// [`Role::Resume`], being sent them.
    fn drain(&self) -> Role {
        Role::Drain
    }

    /// The answering half of a fresh connection, for the null sink, which clones it for each.
    fn sink(&self, body_bytes: usize) -> Self::Sink;
}

/// What a connection does once all replies of its last burst are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send [`Session::outgoing`]: so many commands of one kind, one reply each.
    Burst { command: usize, count: u32 },
    /// Send [`Session::outgoing`], which is not answered, and ask again.
    Send,
    /// Nothing to send; messages come by themselves until the load's end.
    Listen,
    /// The window is full; ask again when messages were settled.
    Park,
    /// Nothing more, ever.
    Done,
}

/// The state of one connection: encodes bursts, decodes replies.
pub(crate) trait Session: Send {
    /// Decides on the next burst and encodes it. `stopping` is set once the load's time is over: then finish what is
    /// begun and return [`Next::Done`] at the first point where nothing of this connection stays behind in the server.
    /// `now_ns` is the time at which the burst counts as sent (its due time in an open loop).
    fn next(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next;

    /// The bytes of the current burst.
    fn outgoing(&self) -> &[u8];

    /// Decodes replies from the front of `input`, as many as are there, counts them into `replies`, and returns how many
    /// bytes it used. The rest is presented again with more bytes behind it.
    fn consume(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<usize, BenchError>;

    /// Whether it only waits for a message that may never come, so that a finished load need not wait for it.
    fn is_blocked(&self) -> bool {
        false
    }
}

/// What one call of [`Session::consume`] found.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// Commands answered with success.
    pub(crate) done: u32,
    /// Commands answered with a refusal (each also counted in `refusals`).
    pub(crate) refused: u32,
    /// Messages that came to a subscriber.
    pub(crate) received: u32,
    /// Bytes to send at once, whatever burst is on its way.
    pub(crate) reactions: Vec<u8>,
    /// When the messages received were sent, for those that carry it.
    pub(crate) sent_ns: Vec<u64>,
    /// Refusals by the protocol's name for them, over the whole load.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
}

impl Replies {
    /// Counts a refusal.
    pub(crate) fn refuse(&mut self, name: &'static str) {
        self.refused += 1;
        *self.refusals.entry(name).or_insert(0) += 1;
    }
}

/// One connection of the null sink: answers each command with canned bytes, keeping nothing.
pub(crate) trait Sink: Clone + Send + 'static {
    /// Appends the answers to the whole commands at the front of `input`; returns the bytes used. What other
    /// connections should get goes to `relay`.
    fn answer(&mut self, input: &[u8], out: &mut Vec<u8>, relay: &mut Relay) -> usize;
}

/// Feeds `input` in pieces of `piece` bytes as the driver does and returns what was found.
#[cfg(test)]
pub(crate) fn feed(
    session: &mut impl Session,
    input: &[u8],
    piece: usize,
    flow: &Flow,
) -> Result<Replies, BenchError> {
    let mut replies = Replies::default();
    let mut tail = Vec::new();
    for bytes in input.chunks(piece) {
        tail.extend_from_slice(bytes);
        let used = session.consume(&tail, &mut replies, flow)?;
        tail.drain(..used);
    }
    assert!(
        tail.is_empty(),
        "left over: {:?}",
        String::from_utf8_lossy(&tail)
    );
    Ok(replies)
}
