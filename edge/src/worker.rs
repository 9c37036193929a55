//! Worker threads: each runs its connections on a runtime of its own.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::driver::SCRATCH_BYTES;
use crate::tick::{self, Tick};

/// Tasks run between two looks at the operating system: a tick should gather all that one look woke.
const TASKS_PER_POLL: u32 = 256;

/// A runtime that no thread runs yet.
pub(crate) struct Worker {
    number: usize,
    runtime: Runtime,
}

impl Worker {
    pub(crate) fn new(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .event_interval(TASKS_PER_POLL)
            .build()?;
        Ok(Worker { number, runtime })
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Runs it in a thread until `stop` says so.
    pub(crate) fn start(
        self,
        hook: Arc<dyn Tick>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name(format!("edge-{}", self.number));
        thread.spawn(move || {
            let _worker = tick::become_worker(SCRATCH_BYTES);
            self.runtime.spawn(tick::run(self.number, hook));
            // An error means that the edge is gone, which is a stop as well.
            let _ = self.runtime.block_on(stop.wait_for(|stop| *stop));
            // Ends the sessions that are left, while this thread still is the worker.
            drop(self.runtime);
        })
    }
}
