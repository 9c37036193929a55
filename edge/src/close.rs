//! Why a connection ended.

use std::borrow::Cow;
use std::io;

/// Why a connection ended. The text is for the log and the admin API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The conversation is over: the client said goodbye or the protocol has nothing more to say.
    #[error("finished")]
    Finished,
    /// The peer closed its side.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer broke the protocol's rules.
    #[error("protocol error: {0}")]
    Malformed(Cow<'static, str>),
    /// The socket failed.
    #[error("connection lost: {0}")]
    Io(io::ErrorKind),
    /// More output was waiting than the outbox may hold, because the peer does not read.
    #[error("slow consumer: {queued} bytes were waiting to be read")]
    SlowConsumer {
        /// Bytes in the outbox.
        queued: usize,
    },
    /// The memory for all connections was used up and this one held most of it without moving.
    #[error(
        "the server's memory for connections was used up and this one held {held} bytes without moving"
    )]
    Stalled {
        /// Bytes queued in and out.
        held: usize,
    },
    /// One message needs more unread input than allowed.
    #[error("a message exceeds the {limit} bytes of input that may wait")]
    InputTooLarge {
        /// The limit.
        limit: usize,
    },
    /// Nothing arrived for too long.
    #[error("nothing arrived within the idle timeout")]
    Idle,
    /// The protocol did not want this connection.
    #[error("refused: {0}")]
    Refused(Cow<'static, str>),
    /// An operator ended it.
    #[error("ended by an operator")]
    Kicked,
    /// The server is going down and let the connection finish.
    #[error("the server is shutting down")]
    Draining,
    /// The server is going down and could not wait any longer.
    #[error("the server shut down before the connection had finished")]
    Shutdown,
    /// The task that served the connection failed; a defect.
    #[error("internal error")]
    Internal,
}

impl CloseReason {
    /// Whether what is queued is still written before the socket closes.
    pub(crate) fn is_graceful(&self) -> bool {
        match self {
            CloseReason::Finished
            | CloseReason::PeerClosed
            | CloseReason::Malformed(_)
            | CloseReason::InputTooLarge { .. }
            | CloseReason::Idle
            | CloseReason::Refused(_)
            | CloseReason::Draining => true,
            CloseReason::Io(_)
            | CloseReason::SlowConsumer { .. }
            | CloseReason::Stalled { .. }
            | CloseReason::Kicked
            | CloseReason::Shutdown
            | CloseReason::Internal => false,
        }
    }
}
