//! `longtail serve`: from settings to a running server and back down.
//!
//! ```text
//! settings ─▶ logging ─▶ start ─▶ banner ─▶ supervise ◀── signals
//!                                              │ drain, then stop
//!                                              ▼
//!                                          exit code
//! ```
//!
//! [`start`] puts the server together, with [`admission`] at its doors and [`backend`] behind the [`admin`] service;
//! [`lifecycle`] knows only the [`lifecycle::Running`] trait, so that every way down is tested without a socket. [`quiet`]
//! minds the memory meanwhile.

mod admin;
mod admission;
mod backend;
mod banner;
mod descriptors;
mod lifecycle;
mod logging;
mod process;
mod quiet;
mod signals;
mod start;

use std::time::Duration;

use tracing::info;

use crate::config::{Loaded, Sources};
use crate::exit_codes::{Exit, Failure};
use lifecycle::Running as _;

/// Runs the server until a signal or a failure ends it.
pub(crate) fn run(sources: Sources, loaded: Loaded) -> Result<Exit, Failure> {
    let mut settings = loaded.settings;
    let topics =
        logging::init(&settings.logging).map_err(|error| Failure::new(Exit::Usage, error))?;
    settings.limits.connections_max = descriptors::raise(settings.limits.connections_max);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before anything else: a signal during recovery must not kill the process half-way.
        let signals = signals::listen()?;
        let deadline = Duration::from_millis(settings.limits.drain_ms);
        let running = start::start(&settings, sources)
            .await
            .map_err(|error| Failure::new(error.exit(), error))?;
        if settings.logging.topics
            && let Some(mqtt) = running.mqtt()
        {
            topics.go_to(mqtt);
        }
        banner::announce(&settings, running.listening());
        // Ends with the runtime.
        tokio::spawn(quiet::give_back());
        let exit = lifecycle::supervise(&running, signals, deadline).await;
        info!(code = exit as u8, "stopped");
        Ok(exit)
    })
}
