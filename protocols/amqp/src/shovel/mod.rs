//! Dynamic shovels: parameters of the component `shovel` that carry messages from one broker to another, or to HTTP.
//!
//! `config` reads and checks the parameter, `plan` does what it says as a [`transfer`]; here is who
//! runs. A shovel starts when its parameter is set, starts anew when it is set again, and ends with it; one that has
//! carried what it was to carry removes its parameter.

mod config;
mod plan;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use config::{Config, From, Target, To};
use plan::Shovel;

use crate::link::Reach;
use crate::parameter::check::Invalid;
use crate::parameter::{Parameter, Parameters, SHOVEL};
use crate::transfer::{self, Job, Outcome, Snapshot, Status, Thread};

/// Those that run.
pub(crate) struct Shovels {
    reach: Arc<Reach>,
    parameters: Arc<Parameters>,
    thread: Arc<Thread>,
    /// By space and name.
    running: Mutex<BTreeMap<(String, String), Running>>,
}

struct Running {
    config: Arc<Config>,
    status: Arc<Status>,
    job: Job,
    /// Kept: whoever has no wish goes on.
    _wishes: watch::Sender<()>,
}

/// A shovel as an operator sees it.
pub(crate) struct Shown {
    pub(crate) space: String,
    pub(crate) name: String,
    pub(crate) config: Arc<Config>,
    pub(crate) now: Snapshot,
}

impl Shovels {
    pub(crate) fn new(
        reach: Arc<Reach>,
        parameters: Arc<Parameters>,
        thread: Arc<Thread>,
    ) -> Arc<Self> {
        Arc::new(Shovels {
            reach,
            parameters,
            thread,
            running: Mutex::default(),
        })
    }

    /// Checks the value of a parameter.
    ///
    /// # Errors
    /// What is wrong with it, or that its user may not use what it names.
    pub(crate) fn check(
        &self,
        name: &str,
        value: &Value,
        user: Option<&str>,
    ) -> Result<(), Invalid> {
        let config = Config::parse(name, value)?;
        for vhost in config.inside() {
            let space = self.reach.tenant.space_of(vhost);
            if self.reach.grants(user, &space).is_none() {
                let user = user.unwrap_or("guest");
                return Err(Invalid(format!(
                    "user \"{user}\" may not connect to vhost \"{vhost}\""
                )));
            }
        }
        Ok(())
    }

    /// Starts all that there are.
    pub(crate) fn start_all(self: &Arc<Self>, cluster: &str) {
        for parameter in self.parameters.list(SHOVEL, None) {
            self.start(&parameter, cluster);
        }
    }

    /// Starts one; what ran by its name is stopped.
    pub(crate) fn start(self: &Arc<Self>, parameter: &Parameter, cluster: &str) {
        if let Err(error) = self.begin(parameter, cluster) {
            tracing::error!(shovel = parameter.name, %error, "a shovel cannot be started");
        }
    }

    fn begin(self: &Arc<Self>, parameter: &Parameter, cluster: &str) -> io::Result<()> {
        let config = Config::parse(&parameter.name, &parameter.value).map_err(io::Error::other)?;
        let key = (parameter.space.clone(), parameter.name.clone());
        let before = self.running.lock().remove(&key);
        let (config, status) = (Arc::new(config), Arc::new(Status::default()));
        let shovel = Shovel {
            reach: Arc::clone(&self.reach),
            status: Arc::clone(&status),
            config: Arc::clone(&config),
            user: parameter.user.clone(),
            name: parameter.name.clone(),
            vhost: self.reach.tenant.vhost_of(&parameter.space).to_string(),
            cluster: cluster.to_owned(),
            attempts: 0,
            left: None,
            label: None,
        };
        let (stop, stopped) = watch::channel(false);
        let (wishes, wished) = watch::channel(());
        let (clock, of) = (Arc::clone(self.reach.door.clock()), Arc::clone(&status));
        let (shovels, own) = (Arc::downgrade(self), key.clone());
        let mut running = self.running.lock();
        let task = self.thread.spawn(async move {
            if let Some(before) = before {
                // Two of a kind would carry each other's messages.
                before.job.end().await;
            }
            let run = transfer::run(shovel, clock, Arc::clone(&of), wished, stopped);
            if run.await == Outcome::Done {
                done(&shovels, &own, &of).await;
            }
        })?;
        let started = Running {
            config,
            status,
            job: Job::new(stop, task),
            _wishes: wishes,
        };
        running.insert(key, started);
        Ok(())
    }

    /// Stops one; `false`: there is none.
    pub(crate) async fn stop(&self, space: &str, name: &str) -> bool {
        let running = self
            .running
            .lock()
            .remove(&(space.to_owned(), name.to_owned()));
        let Some(running) = running else {
            return false;
        };
        running.job.end().await;
        true
    }

    /// Stops all.
    pub(crate) fn stop_all(&self) {
        for running in self.running.lock().values() {
            running.job.stop();
        }
    }

    /// Whether all have ended that were told to.
    pub(crate) fn are_ended(&self) -> bool {
        self.running
            .lock()
            .values()
            .all(|running| running.job.is_ended())
    }

    /// Those of a space, or of all, by space and name.
    pub(crate) fn list(&self, space: Option<&str>) -> Vec<Shown> {
        let running = self.running.lock();
        let wanted = running
            .iter()
            .filter(|((of, _), _)| space.is_none_or(|space| of == space));
        let shown = wanted.map(|((space, name), running)| Shown {
            space: space.clone(),
            name: name.clone(),
            config: Arc::clone(&running.config),
            now: running.status.now(),
        });
        shown.collect()
    }
}

/// A shovel has carried all: it is gone with its parameter.
async fn done(shovels: &Weak<Shovels>, key: &(String, String), status: &Arc<Status>) {
    let Some(shovels) = shovels.upgrade() else {
        return;
    };
    {
        let mut running = shovels.running.lock();
        let own = running
            .get(key)
            .is_some_and(|known| Arc::ptr_eq(&known.status, status));
        if !own {
            // Another one has taken its name.
            return;
        }
        running.remove(key);
    }
    let (space, name) = key;
    if let Err(error) = shovels.parameters.remove(SHOVEL, space, name).await {
        tracing::error!(shovel = name, %error, "the parameter of a shovel that is done stays");
    }
}
