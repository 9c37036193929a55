//! What ends a benchmark. Replies of the server that merely refuse a command are counted instead, see
//! [`crate::protocol::Replies`].

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a benchmark could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The target's text is no address and no name that resolves.
    #[error("cannot resolve {target:?}")]
    Resolve {
        /// As given.
        target: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// Nobody listens there, or no further connection is accepted.
    #[error("cannot connect to {target} (connection {connection})")]
    Connect {
        /// The address.
        target: SocketAddr,
        /// Which of the connections, from 0.
        connection: u32,
        /// The system's error.
        source: io::Error,
    },
    /// The server ended a connection in the middle of the load.
    #[error("the server closed connection {connection}")]
    Closed {
        /// Which of the connections, from 0.
        connection: u32,
    },
    /// A reply that the protocol does not allow at this point.
    #[error("unexpected reply to {command}: {reply:?}")]
    UnexpectedReply {
        /// The command that was sent.
        command: &'static str,
        /// The start of what came back.
        reply: String,
    },
    /// The server does nothing useful any more, or lost messages that workers or subscribers wait for.
    #[error(
        "no command succeeded for {} s: {waiting} wait for a reply, {refused} were refused, messages on their way: {jobs}",
        after.as_secs()
    )]
    Stalled {
        /// Commands without a reply.
        waiting: u64,
        /// Commands refused since the load began.
        refused: u64,
        /// Messages that producers sent and that have not been settled or received.
        jobs: i64,
        /// How long the generator waited.
        after: Duration,
    },
    /// Replies to commands that were not sent: the two sides do not agree on where a command ends.
    #[error(
        "the server sent more replies than connection {connection} sent commands, after a {command}"
    )]
    SurplusReply {
        /// Which of the connections, from 0.
        connection: u32,
        /// The last command.
        command: &'static str,
    },
    /// A socket, epoll or file operation of the generator itself failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// More connections than this process may have files.
    #[error("{wanted} connections need more than the limit of {limit} open files (ulimit -n)")]
    TooManyConnections {
        /// Connections asked for.
        wanted: u64,
        /// The hard limit.
        limit: u64,
    },
    /// A server to compare with cannot be started.
    #[error("cannot start {program:?}: {install}")]
    Start {
        /// The program.
        program: PathBuf,
        /// How to get it.
        install: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A server to compare with ended before it listened.
    #[error("{program:?} ended at once ({status}): {output}")]
    Exited {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        output: String,
    },
    /// A server to compare with runs, but does not listen.
    #[error("{program:?} does not listen on {address} after {} s", after.as_secs())]
    NotListening {
        /// The program.
        program: PathBuf,
        /// Where it should.
        address: SocketAddr,
        /// How long the generator waited.
        after: Duration,
    },
    /// The system refused to tie a thread to the processors asked for.
    #[error("cannot run on processors {cpus:?}")]
    Pin {
        /// As asked for.
        cpus: Vec<usize>,
        /// The system's error.
        source: io::Error,
    },
    /// What `/proc` says about the server cannot be read; it probably ended.
    #[error("cannot read {path:?}")]
    Probe {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Flags that contradict each other or leave nothing to do.
    #[error("{0}")]
    Usage(String),
}

impl BenchError {
    /// Wraps an error of the system with what was being done.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> BenchError {
        move |source| BenchError::Io { doing, source }
    }
}
