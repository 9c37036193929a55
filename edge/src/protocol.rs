//! What a protocol gives the edge.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::close::CloseReason;
use crate::connection::{Connection, ConnectionId};
use crate::out::Out;

/// A protocol plugged into the edge. One value per kind of listener, shared by all its connections.
///
/// # Order of calls for one connection
/// [`open`](Self::open) once; then [`input`](Self::input) each time bytes are there, followed at the end of the same
/// tick by one [`submit`](Self::submit); [`end_of_input`](Self::end_of_input) when the peer has sent its last byte;
/// [`closed`](Self::closed) once, always, whatever ended the connection (unless `open` refused it). What `input`
/// produced is submitted before `closed` is called.
///
/// # Locking
/// `open`, `input`, `end_of_input`, `idle`, `has_room` and `draining` run under the connection's lock: they must not call
/// [`Connection::with`] or [`Connection::flush`] of the *same* connection and should not wait for anything.
/// `submit` and `closed` run without it. All are called by the worker that owns the connection.
pub trait Protocol: Send + Sync + Sized + 'static {
    /// What the protocol knows of one connection.
    type Session: Send + 'static;

    /// The name in logs, metrics and the connection list, for example `beanstalk`.
    fn name(&self) -> &'static str;

    /// The WebSocket subprotocols it goes by. With some, a client that offers only others is refused; a client that
    /// offers none never is.
    fn websocket_subprotocols(&self) -> &'static [&'static str] {
        &[]
    }

    /// A connection was accepted (after PROXY header, TLS and WebSocket). A greeting goes to `out`.
    ///
    /// # Errors
    /// A [`Refusal`] closes the connection, after its farewell was written.
    fn open(
        self: &Arc<Self>,
        conn: &Arc<Connection<Self>>,
        out: &mut Out,
    ) -> Result<Self::Session, Refusal>;

    /// Reads from `input`, which holds every byte not consumed yet, and answers to `out`.
    ///
    /// Bytes that were not consumed are shown again, together with what arrived meanwhile. `input` is never
    /// empty.
    fn input(&self, session: &mut Self::Session, input: &[u8], out: &mut Out) -> Input;

    /// The end of the worker's tick, once for each connection that had input: hand what `input` produced to the broker.
    /// Only enqueue here; [`crate::Tick::run`] follows when all connections have submitted.
    fn submit(&self, conn: &Arc<Connection<Self>>) {
        let _ = conn;
    }

    /// The peer will send nothing more; `unconsumed` is what [`input`](Self::input) has left so far. Called once the
    /// input of the same tick was submitted and its answers, if they came at once, are in the outbox; and again after
    /// every later `input` until the answer is [`Ended::Close`].
    ///
    /// Whether the peer still reads cannot be known without writing to it.
    fn end_of_input(&self, session: &mut Self::Session, unconsumed: &[u8], out: &mut Out) -> Ended {
        let _ = (session, unconsumed, out);
        Ended::Close
    }

    /// How long a new connection may send nothing before [`idle`](Self::idle) is called. `None` is for ever.
    /// [`Connection::set_idle_timeout`] changes it for one connection. Noticed up to [`crate::EdgeConfig::sweep_ms`] late.
    fn idle_timeout(&self) -> Option<Duration> {
        None
    }

    /// Nothing has arrived for the idle timeout. With [`Idle::Stay`] it is called again after another such time.
    fn idle(&self, session: &mut Self::Session, out: &mut Out) -> Idle {
        let _ = (session, out);
        Idle::Close
    }

    /// The outbox is below half of its soft limit again, as [`Out::ask_for_room`] asked to be told.
    fn has_room(&self, session: &mut Self::Session, out: &mut Out) {
        let _ = (session, out);
    }

    /// The server is going down. Say so to `out` if the protocol can.
    fn draining(&self, session: &mut Self::Session, out: &mut Out) -> Draining {
        let _ = (session, out);
        Draining::Close
    }

    /// The connection is gone: release what the session held.
    fn closed(&self, session: Self::Session, id: ConnectionId, why: &CloseReason) {
        let _ = (session, id, why);
    }
}

/// What [`Protocol::input`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// How many bytes of the input are dealt with.
    pub consumed: usize,
    /// What happens next.
    pub then: Then,
}

/// What happens after [`Protocol::input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Go on when more bytes have arrived; the ones not consumed are part of something incomplete.
    Read,
    /// Show nothing more until [`Connection::resume`]. A little more is read in the meantime, so that the end of the
    /// peer's input is noticed, and then the peer is held up by the socket.
    Pause,
    /// Go on, without waiting for more bytes, when the outbox is below half of its soft limit again
    /// (see [`Out::is_over_soft_limit`]).
    Drain,
    /// Write what is in the outbox, then close.
    Close(CloseReason),
}

impl Input {
    /// `consumed` bytes are dealt with; go on when more arrive.
    #[must_use]
    pub const fn read(consumed: usize) -> Self {
        Input {
            consumed,
            then: Then::Read,
        }
    }

    /// `consumed` bytes are dealt with; wait for [`Connection::resume`].
    #[must_use]
    pub const fn pause(consumed: usize) -> Self {
        Input {
            consumed,
            then: Then::Pause,
        }
    }

    /// Write what is in the outbox, then close.
    #[must_use]
    pub const fn close(consumed: usize, why: CloseReason) -> Self {
        Input {
            consumed,
            then: Then::Close(why),
        }
    }
}

/// What follows the end of the peer's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Write what is in the outbox, then close.
    Close,
    /// Answers are still to come: the protocol calls [`Connection::close`] when they are in the outbox.
    Linger,
}

/// What follows an idle timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Close with [`CloseReason::Idle`].
    Close,
    /// Keep it; perhaps a heartbeat was written.
    Stay,
}

/// What a protocol does when the server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draining {
    /// Write what is in the outbox, then close with [`CloseReason::Draining`].
    Close,
    /// Something is still to be answered: the protocol calls [`Connection::close`] when it is, before the deadline.
    Linger,
}

/// A protocol's answer to a connection it does not want.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For the log.
    pub why: Cow<'static, str>,
    /// What to send first; may be empty.
    pub farewell: Bytes,
}
