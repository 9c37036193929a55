//! The server's own log: where it goes, in which form, and that panics are in it.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Arc, OnceLock, Weak};

use longtail_mqtt::Tenant;
use longtail_mqtt::sys::LogTopic;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, error};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt as lines};

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

/// Sends the log of this process to standard error, and to topics as soon as there are some, if the settings ask for it.
///
/// # Errors
/// When the level cannot be parsed, or on a second call.
pub(super) fn init(settings: &LoggingSettings) -> Result<Topics, LoggingError> {
    let filter = EnvFilter::try_new(&settings.level).map_err(|source| LoggingError::Level {
        level: settings.level.clone(),
        source,
    })?;
    let topics = Topics::default();
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(settings.topics.then(|| topics.clone()));
    let plain = lines::layer().with_writer(io::stderr);
    match settings.format {
        LogFormat::Human => registry
            .with(plain.with_ansi(io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(plain.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| LoggingError::Twice)?;
    log_panics();
    Ok(topics)
}

/// The log on its way to topics of MQTT. What is said before there is a service is only on standard error.
#[derive(Clone, Default)]
pub(super) struct Topics(Arc<OnceLock<Weak<Tenant>>>);

impl Topics {
    /// The service is there.
    pub(super) fn go_to(&self, tenant: &Arc<Tenant>) {
        // There is one service in a process.
        let _ = self.0.set(Arc::downgrade(tenant));
        tenant.log_subscriptions();
    }
}

impl<S: Subscriber> Layer<S> for Topics {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let Some(tenant) = self.0.get().and_then(Weak::upgrade) else {
            return;
        };
        let topic = match *event.metadata().level() {
            Level::ERROR => LogTopic::Error,
            Level::WARN => LogTopic::Warning,
            Level::INFO => LogTopic::Information,
            Level::DEBUG | Level::TRACE => LogTopic::Debug,
        };
        let mut line = Line::default();
        event.record(&mut line);
        tenant.tell_log(topic, line.message + &line.fields);
    }
}

/// What an event says, and what it says it about.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to text does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
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
