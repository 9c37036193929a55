//! A transfer that runs, for whoever has started it.

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// See the module.
pub(crate) struct Job {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Job {
    /// `task` ends some time after `stop` is told.
    pub(crate) const fn new(stop: watch::Sender<bool>, task: JoinHandle<()>) -> Self {
        Job { stop, task }
    }

    /// Tells it to end.
    pub(crate) fn stop(&self) {
        // One without a receiver has ended.
        let _ = self.stop.send(true);
    }

    /// Whether it has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Tells it to end, and waits for that.
    pub(crate) async fn end(self) {
        self.stop();
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            tracing::error!(%error, "a transfer has ended");
        }
    }
}
