//! What the process's exit code means. Scripts and supervisors rely on these; see `docs/operations.md`.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// As asked; for `serve`: drained and stopped.
    Ok = 0,
    /// It failed while running: the log refused, the server answered with an error.
    Failure = 1,
    /// The command line or the configuration is wrong. Trying again is pointless.
    Usage = 2,
    /// The data directory cannot be used: locked by another server, damaged, written by a newer version.
    Data = 3,
    /// Stopped, but connections were cut at the drain deadline or by a second signal.
    DrainCut = 5,
    /// No server answers at the URL.
    Unreachable = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error on its way out: what to print, and the code.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code.
    pub(crate) exit: Exit,
    /// What to say.
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// Ends with `exit`, saying `error`.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure { exit, error: error.into() }
    }
}

/// An error nobody gave a code is a [`Exit::Failure`].
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::new(Exit::Failure, error)
    }
}
