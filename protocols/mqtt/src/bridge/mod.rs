//! Bridges: connections to other MQTT brokers that carry messages both ways.
//!
//! ```text
//!             router ─▶ $bridge/{name} ─┐                              other
//! publishers ──┤                        ├─▶ runner ─▶ link ─▶ socket ─▶ broker
//!              └──▶ short queue ────────┘     │         │
//! subscribers ◀── broker.publish ◀────────────┘◀────────┘
//! ```
//!
//! [`config`] says what goes over a bridge, `map` what a topic is called on the other side, `backlog` is what waits,
//! `link` the protocol as a state machine without I/O, `runner` the sockets and the time around it.
//!
//! Messages at QoS 1 and 2 wait in a stream of the log and are settled when the other broker has acknowledged them;
//! what it sends is acknowledged when it is durable here. Nothing comes back: the other broker is asked not to send
//! what the bridge itself has published, what came over a bridge is not routed to it, and messages count the bridges
//! that they pass.

mod backlog;
pub mod config;
mod hops;
mod link;
#[cfg(test)]
mod link_tests;
mod map;
mod runner;
mod socket;
mod status;

use std::sync::Arc;
use std::thread::JoinHandle;

use longtail_broker::{Broker, BrokerError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::LocalSet;

pub use config::{BridgeConfig, BridgeError, BridgeTls, Direction, Protocol, TopicLine};
pub use hops::HOPS;
pub use status::Status;

use runner::Runner;

/// Why the bridges were not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings of one.
    #[error(transparent)]
    Config(#[from] BridgeError),
    /// Two have the same name.
    #[error("there are two bridges \"{0}\"")]
    Twice(String),
    /// The broker refuses stream or routes.
    #[error("bridge \"{bridge}\": {source}")]
    Broker {
        /// Which.
        bridge: String,
        /// Why.
        source: BrokerError,
    },
    /// The thread.
    #[error("bridges: cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// The bridges of one space, on a thread of their own.
pub struct Bridges {
    statuses: Vec<Arc<Status>>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Bridges {
    /// Starts bridges between `space` and other brokers. When this returns, what is published is kept for them.
    ///
    /// # Errors
    /// [`StartError`]; nothing was started then.
    pub fn start(
        broker: &Arc<Broker>,
        space: &str,
        configs: Vec<BridgeConfig>,
    ) -> Result<Self, StartError> {
        let mut statuses: Vec<Arc<Status>> = Vec::new();
        for config in &configs {
            config.check()?;
            if statuses.iter().any(|status| status.name == config.name) {
                return Err(StartError::Twice(config.name.clone()));
            }
            statuses.push(Arc::new(Status {
                name: config.name.clone(),
                state_topic: config.state_topic(),
                ..Status::default()
            }));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        let (told, prepared) = std::sync::mpsc::channel();
        let (broker, space, of) = (Arc::clone(broker), space.to_owned(), statuses.clone());
        let work = move || {
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                let runners = prepare(&broker, &space, configs, &of, &stopped).await;
                let (runners, outcome) = match runners {
                    Ok(runners) => (runners, Ok(())),
                    Err(error) => (Vec::new(), Err(error)),
                };
                // Whoever starts the bridges waits for this.
                let _ = told.send(outcome);
                let tasks: Vec<_> = runners
                    .into_iter()
                    .map(|runner| tokio::task::spawn_local(runner.run()))
                    .collect();
                for task in tasks {
                    if let Err(error) = task.await {
                        tracing::error!(%error, "a bridge has ended");
                    }
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("mqtt-bridges".to_owned())
            .spawn(work)
            .map_err(StartError::Thread)?;
        let bridges = Bridges {
            statuses,
            stop,
            thread: Mutex::new(Some(thread)),
        };
        match prepared.recv() {
            Ok(outcome) => outcome.map(|()| bridges),
            Err(_) => Err(StartError::Thread(std::io::Error::other("it has ended"))),
        }
    }

    /// What each says of itself.
    #[must_use]
    pub fn statuses(&self) -> &[Arc<Status>] {
        &self.statuses
    }

    /// Ends the connections, after a moment for what is under way. What waits stays in the log. Blocks.
    pub fn stop(&self) {
        // Without receivers they have ended.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.lock().take() {
            // It has told if it panicked.
            let _ = thread.join();
        }
    }
}

impl Drop for Bridges {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn prepare(
    broker: &Arc<Broker>,
    space: &str,
    configs: Vec<BridgeConfig>,
    statuses: &[Arc<Status>],
    stopped: &watch::Receiver<bool>,
) -> Result<Vec<Runner>, StartError> {
    let mut runners = Vec::new();
    for (config, status) in configs.into_iter().zip(statuses) {
        let bridge = config.name.clone();
        let failed = |source| StartError::Broker { bridge, source };
        let space = match broker.space(space) {
            Ok(space) => space,
            Err(error) => return Err(failed(error)),
        };
        let runner = Runner::prepare(
            config,
            Arc::clone(broker),
            space,
            Arc::clone(status),
            stopped.clone(),
        );
        runners.push(runner.await.map_err(failed)?);
    }
    Ok(runners)
}
