//! The thread that all transfers share. It is started with the first of them.

use std::future::Future;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// See the module.
#[derive(Default)]
pub(crate) struct Thread(Mutex<Option<Started>>);

struct Started {
    handle: Handle,
    /// Dropping it ends the thread.
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

/// How long what still runs on the thread may take when it ends.
const STOP_WITHIN: Duration = Duration::from_secs(1);

impl Thread {
    /// Runs something there.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn spawn<F>(&self, future: F) -> io::Result<JoinHandle<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let mut started = self.0.lock();
        if let Some(started) = &*started {
            return Ok(started.handle.spawn(future));
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            // Ends when the sender is dropped.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(STOP_WITHIN);
        };
        let thread = std::thread::Builder::new()
            .name("amqp-transfers".to_owned())
            .spawn(work)?;
        let task = handle.spawn(future);
        *started = Some(Started {
            handle,
            stop,
            thread,
        });
        Ok(task)
    }

    /// Ends it, with whatever still runs there. Blocks.
    pub(crate) fn stop(&self) {
        let Some(started) = self.0.lock().take() else {
            return;
        };
        drop(started.stop);
        // It has told if it panicked.
        let _ = started.thread.join();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop();
    }
}
