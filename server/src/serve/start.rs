//! Puts the server together: data directory, broker, listeners, admin service.

use std::io;

use super::data_dir::{DataDir, DataDirError};
use super::lifecycle::{Listening, Running};
use crate::config::Settings;
use crate::exit_codes::Exit;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// This build cannot serve yet.
    #[error("this build has no broker to serve with")]
    NoBroker,
}

impl StartError {
    /// The exit code that says the same.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            StartError::Data(_) => Exit::Data,
            StartError::NoBroker => Exit::Failure,
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
    let _lock = DataDir::open(&settings.data)?;
    Err(StartError::NoBroker)
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
