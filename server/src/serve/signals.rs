//! Unix signals as messages.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT: drain; the second time, hurry.
    Terminate,
    /// SIGUSR1: refuse new jobs, as beanstalkd does.
    RefuseJobs,
    /// SIGHUP: read TLS certificates, accounts and spaces again.
    Reload,
}

/// Takes the signals over from the system's default, which is to end the process.
///
/// # Errors
/// When a handler cannot be installed.
pub(super) fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut refuse = signal(SignalKind::user_defined1())?;
    let mut reload = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                Some(()) = terminate.recv() => Signal::Terminate,
                Some(()) = interrupt.recv() => Signal::Terminate,
                Some(()) = refuse.recv() => Signal::RefuseJobs,
                Some(()) = reload.recv() => Signal::Reload,
                else => return,
            };
            if sender.send(next).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
