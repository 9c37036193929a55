//! The server's own log: where it goes, in which form, and that panics are in it.

use std::io::{self, IsTerminal};
use std::panic;

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingSettings};

/// The level makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoggingError {
    /// Not a level or filter.
    #[error("logging.level \"{level}\": {source}")]
    Level {
        /// What was configured.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is there already.
    #[error("the log is already set up")]
    Twice,
}

/// Sends the log of this process to standard error.
///
/// # Errors
/// When the level cannot be parsed, or on a second call.
pub(super) fn init(settings: &LoggingSettings) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&settings.level)
        .map_err(|source| LoggingError::Level { level: settings.level.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match settings.format {
        LogFormat::Human => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LoggingError::Twice)?;
    log_panics();
    Ok(())
}

/// Panics are our mistakes: they belong into the log that somebody reads, with the place and the stack.
fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::force_capture();
        error!(thread = thread.name().unwrap_or("unnamed"), place, %backtrace, "panic: {message}");
    }));
}
