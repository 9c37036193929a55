//! What the connections of one space share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use longtail_broker::auth::Action as Right;
use longtail_broker::ephemeral::Burst;
use longtail_broker::message::Origin;
use longtail_broker::{Broker, Space};
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;
use parking_lot::Mutex;
use std::thread::JoinHandle;

use crate::access::Admission;
use crate::config::{Config, Limits};
use crate::counters::Counters;
use crate::durable::Durable;
use crate::message::Will;
use crate::publish::{self, Outgoing, Streams};
use crate::registry::{Aftermath, Due, Registry};
use crate::seat::Conn;
use crate::service::end_login;
use crate::session::Cx;
use crate::sys::{Host, Sys};
use crate::timers::{Timers, Waited};

/// Sessions, wills and counters of one space.
pub struct Tenant {
    config: Config,
    space: Arc<Space>,
    clock: Arc<dyn Clock>,
    /// The time when somebody looked last.
    coarse_ms: AtomicU64,
    rights: Arc<dyn Admission>,
    streams: Streams,
    durable: Durable,
    registry: Registry,
    timers: Timers<Deadline>,
    counters: Counters,
    sys: Sys,
    timekeeper: Mutex<Option<JoinHandle<()>>>,
}

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Deadline {
    /// To a session.
    Session(Due),
    /// What this client has shown ends.
    Login(Weak<Conn>),
}

/// How often retained messages that have expired are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Retained messages that are forgotten in one go.
const EXPIRED_STEP: usize = 1000;

impl Tenant {
    /// The sessions of the space that `config` names, as the log has them. `rights` says what a client that was let in
    /// may still do when its will is published. Blocks while it reads.
    ///
    /// # Errors
    /// When the log cannot be read, or the thread that minds the time cannot be started.
    pub fn start(
        config: Config,
        broker: &Broker,
        rights: Arc<dyn Admission>,
    ) -> std::io::Result<Arc<Self>> {
        let space = broker.space(&config.space).map_err(std::io::Error::other)?;
        let (durable, restored) = Durable::open(broker, &space).map_err(std::io::Error::other)?;
        let (clock, shards) = (broker.clock(), broker.shards());
        let tenant = Arc::new(Tenant {
            coarse_ms: AtomicU64::new(clock.now().0),
            sys: Sys::new(config.sys_interval_s, clock.now()),
            config,
            space,
            clock,
            rights,
            streams: Streams::new(shards),
            durable,
            registry: Registry::new(),
            timers: Timers::new(),
            counters: Counters::default(),
            timekeeper: Mutex::new(None),
        });
        tenant.registry.restore(restored, &tenant);
        tenant.durable.run();
        let weak = Arc::downgrade(&tenant);
        let thread = std::thread::Builder::new()
            .name("mqtt-timers".to_owned())
            .spawn(move || {
                while let Some(tenant) = weak.upgrade() {
                    if !tenant.mind_the_time() {
                        return;
                    }
                }
            })?;
        *tenant.timekeeper.lock() = Some(thread);
        Ok(tenant)
    }

    /// One turn of the thread that minds the time; `false` at the end.
    fn mind_the_time(self: &Arc<Self>) -> bool {
        self.sys.mind_the_time(self, self.now());
        match self.timers.wait(|| self.now(), HOUSEKEEPING) {
            Waited::Closed => return false,
            Waited::Due(Deadline::Login(conn)) => {
                if let Some(conn) = conn.upgrade() {
                    end_login(&conn);
                }
            }
            Waited::Due(Deadline::Session(due)) => {
                let mut after = Aftermath::default();
                self.registry.due(&due, self, &mut after);
                after.carry_out(self);
                self.durable.run();
            }
            Waited::Nothing => {
                let now = self.now();
                while self.space.retained.expire(now, EXPIRED_STEP) == EXPIRED_STEP {}
                self.streams.run();
            }
        }
        true
    }

    /// Publishes no more wills, expires no more sessions, and forgets those that are away; the log has them.
    pub fn stop(&self) {
        self.timers.close();
        let thread = self.timekeeper.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // It has told if it panicked.
            let _ = thread.join();
        }
        self.registry.clear();
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// From now on `$SYS` says what `host` knows of the process and its sockets. Only the first is heard.
    pub fn set_host(&self, host: Arc<dyn Host>) {
        self.sys.set_host(host);
    }

    /// Sessions, of connected clients and of others.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.registry.len()
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(crate) fn durable(&self) -> &Durable {
        &self.durable
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn timers(&self) -> &Timers<Deadline> {
        &self.timers
    }

    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        self.coarse_ms.store(now.0, Ordering::Relaxed);
        now
    }

    /// When something ends that lasts so many seconds from now; `u32::MAX` is for ever.
    pub(crate) fn expiry(&self, seconds: u32) -> Timestamp {
        if seconds == u32::MAX {
            return Timestamp::NEVER;
        }
        self.now().plus_millis(u64::from(seconds) * 1000)
    }

    /// Who a client is as a publisher.
    pub(crate) fn origin(client_id: &str) -> Origin {
        Origin(Registry::number(client_id))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(crate) fn cx(&self) -> Cx<'_> {
        self.cx_of(self.now())
    }

    /// For a message of this time: no clock is asked.
    pub(crate) fn cx_at(&self, published: Timestamp) -> Cx<'_> {
        let coarse = Timestamp(self.coarse_ms.load(Ordering::Relaxed));
        self.cx_of(published.max(coarse))
    }

    fn cx_of(&self, now: Timestamp) -> Cx<'_> {
        Cx {
            limits: &self.config.limits,
            now,
            retained: &self.space.retained,
            sys: self.sys.store(),
            counters: &self.counters,
        }
    }

    /// Publishes a will, if its client may still publish there.
    pub(crate) fn publish_will(&self, will: &Will, client_id: &str) {
        let subject = will.message.subject.as_ref();
        let may = match &will.account {
            None => true,
            Some(account) => self
                .rights
                .now(account, client_id)
                .is_some_and(|grants| grants.allows(Right::Publish, subject)),
        };
        if !may {
            tracing::info!(client = client_id, topic = %subject, "a will is not published: its client may not any more");
            return;
        }
        self.counters.wills.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        let mut burst = Burst::new(&self.space.counters);
        let mut outgoing = Outgoing::new();
        let message = will.publish(now);
        publish::publish(&self.space, &mut burst, &message, now, None, &mut outgoing);
        self.streams.send(&mut outgoing);
        self.streams.run();
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.stop();
    }
}
