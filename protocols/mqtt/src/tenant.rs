//! What the connections of one space share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use longtail_broker::auth::{Action as Right, Manner};
use longtail_broker::ephemeral::{Burst, SpaceRoutes};
use longtail_broker::message::{Message, Origin};
use longtail_broker::{Broker, Space};
use longtail_edge::CloseReason;
use longtail_engine::runtime::Clock;
use longtail_model::{Filter, Timestamp};
use parking_lot::Mutex;
use std::thread::JoinHandle;

use crate::access::Admission;
use crate::bans::Bans;
use crate::codec::ReasonCode;
use crate::config::{Config, Limits};
use crate::control::Control;
use crate::counters::Counters;
use crate::delayed::Delayed;
use crate::durable::Durable;
use crate::exclusive::Exclusive;
use crate::hooks::{Event, Hooks, Points, RetainedChange};
use crate::local::LocalClient;
use crate::message::{Will, set_source};
use crate::publish::{self, Outgoing, Streams};
use crate::registry::{Aftermath, Due, Registry};
use crate::seat::Conn;
use crate::service::{end_login, end_of_life};
use crate::session::{Cx, judged};
use crate::sys::log::LogLines;
use crate::sys::{Host, Sys};
use crate::timers::{Timers, Waited};
use crate::watch::Watch;

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
    exclusive: Exclusive,
    delayed: Delayed,
    bans: Bans,
    hooks: Arc<Hooks>,
    watch: Watch,
    sys: Sys,
    log_lines: LogLines,
    control: Control,
    timekeeper: Mutex<Option<JoinHandle<()>>>,
}

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Deadline {
    /// To a session.
    Session(Due),
    /// What this client has shown ends.
    Login(Weak<Conn>),
    /// This client published faster than it may, and is to be heard again.
    Heard(Weak<Conn>),
    /// This connection has lasted as long as it may.
    Lifetime(Weak<Conn>),
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
        let limits = &config.limits;
        let (delay_max_s, delayed_max) = (limits.delay_max_s, limits.delayed_messages_max);
        let delayed = Delayed::open(broker, &space, durable.home(), delay_max_s, delayed_max);
        let delayed = delayed.map_err(std::io::Error::other)?;
        let bans = Bans::open(broker, &space, config.flapping).map_err(std::io::Error::other)?;
        let (clock, shards) = (broker.clock(), broker.shards());
        let hooks = Arc::<Hooks>::default();
        let tenant = Arc::new(Tenant {
            watch: Watch::new(&hooks, &clock),
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
            exclusive: Exclusive::default(),
            delayed,
            bans,
            hooks,
            log_lines: LogLines::default(),
            control: Control::default(),
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
        let sleeper = Arc::downgrade(&tenant);
        tenant.clock.watch(Box::new(move || {
            if let Some(tenant) = sleeper.upgrade() {
                tenant.timers.look_again();
            }
        }));
        tenant.delayed.start(&tenant);
        Ok(tenant)
    }

    /// One turn of the thread that minds the time; `false` at the end.
    fn mind_the_time(self: &Arc<Self>) -> bool {
        self.sys.mind_the_time(self, self.now());
        self.log_lines.publish(self, self.now());
        match self.timers.wait(|| self.now(), HOUSEKEEPING) {
            Waited::Closed => return false,
            Waited::Due(Deadline::Login(conn)) => {
                if let Some(conn) = conn.upgrade() {
                    end_login(&conn);
                }
            }
            Waited::Due(Deadline::Heard(conn)) => {
                if let Some(conn) = conn.upgrade() {
                    conn.resume();
                }
            }
            Waited::Due(Deadline::Lifetime(conn)) => {
                if let Some(conn) = conn.upgrade() {
                    end_of_life(&conn);
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
                self.hooks.whole().tell(Points::TICK, || Event::Tick(now));
                self.expire_retained(now);
                self.bans.expire(now);
                self.streams.run();
            }
        }
        true
    }

    /// Forgets the retained messages that have expired.
    fn expire_retained(&self, now: Timestamp) {
        let hooks = self.hooks.whole();
        let told = hooks.wants(Points::RETAINED);
        let mut expired = Vec::new();
        loop {
            let count = self.space.retained.expire(now, EXPIRED_STEP, |subject| {
                if told {
                    expired.push(subject.clone());
                }
            });
            for subject in expired.drain(..) {
                hooks.tell(Points::RETAINED, || {
                    Event::Retained(RetainedChange::Expired(subject))
                });
            }
            if count < EXPIRED_STEP {
                return;
            }
        }
    }

    /// Publishes no more wills, expires no more sessions, and forgets those that are away; the log has them.
    pub fn stop(&self) {
        self.timers.close();
        let thread = self.timekeeper.lock().take();
        if thread.is_some() {
            self.hooks.whole().tell(Points::LIFE, || Event::Stopped);
        }
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // It has told if it panicked.
            let _ = thread.join();
        }
        // One that holds a client of this broker would keep it alive.
        self.hooks.clear();
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

    /// Tells hooks that the listeners are open.
    pub fn started(&self) {
        self.hooks.whole().tell(Points::LIFE, || Event::Started);
    }

    /// A client in this process that may do everything. It has no session and takes no client's place: several may go
    /// by one identifier.
    #[must_use]
    pub fn client(self: &Arc<Self>, client_id: &str) -> LocalClient {
        LocalClient::new(Arc::clone(self), client_id)
    }

    /// Disconnects a client with a reason, which one of 5.0 is told; `false` if it is not connected. Its session and
    /// its will go the way of any connection that is lost. Not from a hook that is being called.
    pub fn disconnect(&self, client_id: &str, reason: ReasonCode) -> bool {
        let Some(conn) = self.registry.connection(client_id) else {
            return false;
        };
        let told = conn.with(|client, out| {
            let session = client.session_mut().filter(|session| session.is_open())?;
            session.send_away(reason, conn.protocol().limits(), out);
            Some(())
        });
        let was_there = told.flatten().is_some();
        if was_there {
            conn.close(CloseReason::Refused(format!("{reason:?}").into()));
        }
        was_there
    }

    pub(crate) fn rights(&self) -> &Arc<dyn Admission> {
        &self.rights
    }

    /// What is asked and told: hooks may be added and removed at any time. [`Tenant::stop`] removes them.
    #[must_use]
    pub fn hooks(&self) -> &Arc<Hooks> {
        &self.hooks
    }

    /// What an operator follows while clients go on.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(crate) fn exclusive(&self) -> &Exclusive {
        &self.exclusive
    }

    pub(crate) fn log_lines(&self) -> &LogLines {
        &self.log_lines
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    pub(crate) fn bans(&self) -> &Bans {
        &self.bans
    }

    pub(crate) fn delayed(&self) -> &Delayed {
        &self.delayed
    }

    pub(crate) fn sys(&self) -> &Sys {
        &self.sys
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
            exclusive: &self.exclusive,
            counters: &self.counters,
            rights: Some(&*self.rights),
        }
    }

    /// The filters of the sessions for which a message is kept in streams, if any hook wants to know.
    pub(crate) fn filters_told(
        &self,
        routes: &SpaceRoutes,
        message: &Message,
    ) -> Option<Arc<[Filter]>> {
        if !message.quality.is_assured() || !self.hooks.whole().wants(Points::KEPT) {
            return None;
        }
        self.durable.filters_of(routes)
    }

    /// Publishes a will, if its client may still publish there.
    pub(crate) fn publish_will(&self, will: &Will, client_id: &str) {
        let subject = judged(&will.message.subject);
        let may = match &will.principal {
            None => true,
            Some(principal) => self
                .rights
                .now(principal, client_id, None)
                .is_some_and(|grants| {
                    let manner = Manner::of_publish(will.message.quality, will.message.retain);
                    grants.allows_in(Right::Publish, subject, manner)
                }),
        };
        if !may {
            tracing::info!(client = client_id, topic = %subject, "a will is not published: its client may not any more");
            return;
        }
        self.counters.wills.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        let mut burst = Burst::new(&self.space.counters);
        let mut outgoing = Outgoing::new();
        let hooks = self.hooks.whole();
        let mut message = will.publish(now);
        if message.retain
            && self.limits().retain_source_checked
            && let (Some(principal), Some(message)) = (&will.principal, Arc::get_mut(&mut message))
        {
            set_source(message, principal, client_id);
        }
        let Some(message) = hooks.will(client_id, message) else {
            return;
        };
        let reason = publish::publish(self, &mut burst, &message, now, None, &mut outgoing);
        hooks.tell_published(None, &message, reason);
        hooks.tell(Points::WILL_SENT, || Event::WillSent {
            client_id: client_id.into(),
            message: Arc::clone(&message),
        });
        self.streams.send(&mut outgoing);
        self.streams.run();
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.stop();
    }
}
