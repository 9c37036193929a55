//! Errors of starting the edge and its listeners.

use std::io;
use std::path::PathBuf;

use crate::address::Address;
use crate::tls::TlsError;

/// The workers could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be made.
    #[error("worker {worker} could not be started")]
    Worker {
        /// Which one, from 0.
        worker: usize,
        /// What the system says.
        source: io::Error,
    },
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The system refuses the address.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// There is something else than a socket at the path of a Unix socket; it is left alone.
    #[error("cannot listen on unix:{}: the path exists and is not a socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The TLS settings cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Tls {
        /// The address.
        address: Address,
        /// What is wrong with them.
        source: TlsError,
    },
    /// The edge is draining or stopped.
    #[error("the server is shutting down")]
    ShuttingDown,
}
