//! How a command fails, and the exit code for it: those of `rabbitmqctl`, which are those of sysexits.

use std::process::ExitCode;

use thiserror::Error;

/// Why a command did nothing, or not all.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum CtlError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was named is not there, or the server does not take it.
    #[error("{0}")]
    Data(String),
    /// The user that was named is not there.
    #[error("User \"{0}\" does not exist")]
    NoUser(String),
    /// No server answers, it does not let the caller in, or it has nothing like the command.
    #[error("{0}")]
    Unavailable(String),
    /// Something else.
    #[error("{0}")]
    Software(String),
    /// The server took longer than the caller would wait.
    #[error("{0}")]
    TimedOut(String),
}

impl CtlError {
    pub(super) fn code(&self) -> u8 {
        match self {
            CtlError::Usage(_) => 64,
            CtlError::Data(_) => 65,
            CtlError::NoUser(_) => 67,
            CtlError::Unavailable(_) => 69,
            CtlError::Software(_) => 70,
            CtlError::TimedOut(_) => 75,
        }
    }
}

impl From<CtlError> for ExitCode {
    fn from(error: CtlError) -> Self {
        ExitCode::from(error.code())
    }
}
