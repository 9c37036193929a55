//! Shovels: they carry messages from one broker to another, or to HTTP. Dynamic ones are parameters of the component
//! `shovel`, static ones (`statics`) are in the settings.
//!
//! `config` reads and checks the parameter, `plan` does what it says as a [`transfer`]; here is who
//! runs. A shovel starts when its parameter is set, starts anew when it is set again, and ends with it; one that has
//! carried what it was to carry removes its parameter.

mod config;
mod plan;
mod statics;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use config::{Config, From, Target, To};
use plan::Shovel;
pub use statics::{NoShovel, StaticShovel};

use crate::link::Reach;
use crate::parameter::check::Invalid;
use crate::parameter::{Parameter, Parameters, SHOVEL};
use crate::transfer::{self, Job, Outcome, Snapshot, Status, Thread};

/// Those that run.
pub(crate) struct Shovels {
    reach: Arc<Reach>,
    parameters: Arc<Parameters>,
    thread: Arc<Thread>,
    running: Mutex<BTreeMap<Key, Running>>,
}

/// Space and name; without a space, a static one.
type Key = (Option<String>, String);

struct Running {
    config: Arc<Config>,
    status: Arc<Status>,
    job: Job,
    /// Kept: whoever has no wish goes on.
    _wishes: watch::Sender<()>,
}

/// A shovel as an operator sees it.
pub(crate) struct Shown {
    /// `None`: it is a static one.
    pub(crate) space: Option<String>,
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

    /// Starts all dynamic ones that there are.
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

    /// Starts one of the settings.
    pub(crate) fn start_static(self: &Arc<Self>, shovel: &StaticShovel, cluster: &str) {
        let key = (None, shovel.name().to_owned());
        if let Err(error) = self.run(key, Arc::clone(shovel.config()), None, cluster) {
            tracing::error!(shovel = shovel.name(), %error, "a shovel cannot be started");
        }
    }

    fn begin(self: &Arc<Self>, parameter: &Parameter, cluster: &str) -> io::Result<()> {
        let config = Config::parse(&parameter.name, &parameter.value).map_err(io::Error::other)?;
        let key = (Some(parameter.space.clone()), parameter.name.clone());
        self.run(key, Arc::new(config), parameter.user.clone(), cluster)
    }

    fn run(
        self: &Arc<Self>,
        key: Key,
        config: Arc<Config>,
        user: Option<String>,
        cluster: &str,
    ) -> io::Result<()> {
        let before = self.running.lock().remove(&key);
        let status = Arc::new(Status::default());
        let (space, name) = &key;
        let shovel = Shovel {
            reach: Arc::clone(&self.reach),
            status: Arc::clone(&status),
            config: Arc::clone(&config),
            user,
            name: name.clone(),
            vhost: (space.as_ref()).map(|space| self.reach.tenant.vhost_of(space).to_string()),
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
            .remove(&(Some(space.to_owned()), name.to_owned()));
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
            .filter(|((of, _), _)| space.is_none_or(|space| of.as_deref() == Some(space)));
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
async fn done(shovels: &Weak<Shovels>, key: &Key, status: &Arc<Status>) {
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
    let (Some(space), name) = key else {
        return;
    };
    if let Err(error) = shovels.parameters.remove(SHOVEL, space, name).await {
        tracing::error!(shovel = name, %error, "the parameter of a shovel that is done stays");
    }
}
