//! Puts the server together: broker, listeners, admin service.

use std::io;

use longtail_broker::{Broker, BrokerError};
use tracing::debug;

use super::lifecycle::{Listening, Running};
use crate::config::Settings;
use crate::exit_codes::Exit;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The broker: its data directory, or its threads.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// This build cannot serve yet.
    #[error("this build has no protocol to serve")]
    NoProtocol,
}

impl StartError {
    /// The exit code that says the same.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            StartError::Broker(BrokerError::Open(_)) => Exit::Data,
            StartError::Broker(_) | StartError::NoProtocol => Exit::Failure,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) enum Server {}

/// Starts everything that `settings` name. When this returns, the data is recovered and all listeners are bound.
///
/// # Errors
/// When the data directory cannot be used or a listener cannot be bound; whatever was started is stopped again.
pub(crate) async fn start(settings: &Settings) -> Result<Server, StartError> {
    debug!(broker = ?settings.broker(), edge = ?settings.edge(), "starting");
    let broker = Broker::open(settings.broker())?;
    broker.close();
    Err(StartError::NoProtocol)
}

impl Running for Server {
    fn listening(&self) -> &[Listening] {
        match *self {}
    }

    async fn drain(&self) {
        match *self {}
    }

    async fn stop(&self) -> io::Result<()> {
        match *self {}
    }

    async fn failed(&self) -> String {
        match *self {}
    }

    fn refuse_new_jobs(&self) {
        match *self {}
    }

    fn reload_certificates(&self) -> io::Result<usize> {
        match *self {}
    }
}
