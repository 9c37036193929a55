//! What signals do to a running server.
//!
//! The first SIGTERM or SIGINT stops accepting and lets connections finish; the drain deadline or a second signal cuts
//! what is left. Either way the log is closed cleanly before the process ends.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::signals::Signal;
use crate::config::ListenAddress;
use crate::exit_codes::Exit;

#[cfg(test)]
mod tests;

/// A bound listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    /// The protocol, or `admin`.
    pub(crate) protocol: String,
    /// Where it really listens: port 0 replaced by the port the system chose.
    pub(crate) address: ListenAddress,
    /// Whether it speaks TLS.
    pub(crate) tls: bool,
}

/// A server as its lifecycle sees it.
pub(crate) trait Running {
    /// What is bound.
    fn listening(&self) -> &[Listening];
    /// Stops accepting; ends when the last connection has. May be dropped half-way.
    async fn drain(&self);
    /// Cuts all connections, makes the log durable and closes it.
    ///
    /// # Errors
    /// When the log could not be made durable.
    async fn stop(&self) -> io::Result<()>;
    /// Ends with the reason when the server cannot go on.
    async fn failed(&self) -> String;
    /// Answers new jobs with "draining" from now on; everything else goes on.
    fn refuse_new_jobs(&self);
    /// Reads TLS certificates again; answers how many listeners took new ones. On an error all keep the old ones.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense.
    fn reload_certificates(&self) -> io::Result<usize>;
    /// Reads accounts and spaces again, for clients that connect from now on. On an error the present ones stay.
    ///
    /// # Errors
    /// What is wrong with the settings.
    fn reload_accounts(&self) -> Result<(), String>;
}

/// Runs until a signal or a failure, then brings the server down.
pub(crate) async fn supervise<R: Running>(
    running: &R,
    mut signals: mpsc::Receiver<Signal>,
    deadline: Duration,
) -> Exit {
    loop {
        tokio::select! {
            signal = signals.recv() => match signal {
                // A closed channel can no longer tell us to stop, so this is the last chance to do it well.
                Some(Signal::Terminate) | None => break,
                Some(other) => react(running, other),
            },
            why = running.failed() => {
                error!(%why, "the server cannot go on");
                stop(running).await;
                return Exit::Failure;
            }
        }
    }
    info!(
        deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        "draining; a second signal hurries"
    );
    let cut = !drain(running, &mut signals, deadline).await;
    match (stop(running).await, cut) {
        (false, _) => Exit::Failure,
        (true, true) => Exit::DrainCut,
        (true, false) => Exit::Ok,
    }
}

/// Whether all connections ended by themselves.
async fn drain<R: Running>(
    running: &R,
    signals: &mut mpsc::Receiver<Signal>,
    deadline: Duration,
) -> bool {
    let drained = running.drain();
    tokio::pin!(drained);
    let late = tokio::time::sleep(deadline);
    tokio::pin!(late);
    loop {
        tokio::select! {
            biased;
            () = &mut drained => return true,
            Some(signal) = signals.recv() => match signal {
                Signal::Terminate => {
                    warn!("second signal: cutting the remaining connections");
                    return false;
                }
                other => react(running, other),
            },
            () = &mut late => {
                warn!("drain deadline: cutting the remaining connections");
                return false;
            }
        }
    }
}

/// Whether the log was closed cleanly.
async fn stop<R: Running>(running: &R) -> bool {
    match running.stop().await {
        Ok(()) => true,
        Err(error) => {
            error!(%error, "the log was not closed cleanly; the next start recovers it");
            false
        }
    }
}

fn react<R: Running>(running: &R, signal: Signal) {
    match signal {
        Signal::Terminate => {}
        Signal::RefuseJobs => {
            running.refuse_new_jobs();
            info!("SIGUSR1: new jobs are refused until a restart");
        }
        Signal::Reload => {
            match running.reload_certificates() {
                Ok(listeners) => info!(listeners, "SIGHUP: TLS certificates read again"),
                Err(error) => error!(%error, "SIGHUP: keeping the present TLS certificates"),
            }
            match running.reload_accounts() {
                Ok(()) => info!("SIGHUP: accounts and spaces read again"),
                Err(error) => error!(%error, "SIGHUP: keeping the present accounts and spaces"),
            }
        }
    }
}
