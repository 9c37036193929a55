//! A broker that runs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use longtail_amqp::Amqp;
use longtail_amqp::management::{self, ListenerFact, Management, Site};
use longtail_beanstalk::{Beanstalk, CpuTime, Host, Identity, LogFacts, Tenant};
use longtail_broker::auth::{AuthDocument, Authenticator, Directory, Roster, ThrottleLimits};
use longtail_broker::{Broker, Client};
use longtail_edge::{
    Accounts, Address, Connection, DrainReport, Edge, Exposure, Inside, ListenerConfig, Tick,
};
use longtail_engine::runtime::{Clock, Shards};
use longtail_engine::{Numbering, StreamName};
use longtail_model::{Lsn, ShardId, Timestamp};
use longtail_mqtt::bridge::{self, Bridges};
use longtail_mqtt::control::{self, dynamic::DynamicSecurity};
use longtail_mqtt::hooks::Scope;
use longtail_mqtt::http;
use longtail_mqtt::{Hook, Mqtt};
use longtail_web::Socket;
use parking_lot::Mutex;

use crate::builder::{Builder, MqttListener, StartError, WebListener};
use crate::mqtt_host::EdgeHost;

/// What a listener of the HTTP APIs of MQTT is called.
const MQTT_HTTP: &str = "mqtt-http";

/// How long [`Longtail::shut_down`] lets clients finish.
const DRAIN: Duration = Duration::from_secs(10);

/// A running broker with its listeners. Dropping it shuts it down, without waiting for clients.
pub struct Longtail {
    broker: Arc<Broker>,
    edge: Arc<Edge>,
    beanstalk: Option<Arc<Tenant>>,
    roster: Arc<Roster>,
    amqp: Option<Arc<longtail_amqp::Tenant>>,
    management: Option<Arc<Management>>,
    /// The HTTP APIs that answer.
    web: Mutex<Vec<longtail_web::Server>>,
    mqtt: Option<Arc<longtail_mqtt::Tenant>>,
    /// The way in for MQTT clients in this process.
    mqtt_inside: OnceLock<Inside<Mqtt>>,
    /// Who lets them in.
    mqtt_admission: Arc<dyn longtail_mqtt::Admission>,
    bridges: Option<Bridges>,
    addresses: Vec<ListeningOn>,
    exposure: Exposure,
}

/// Where a protocol is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningOn {
    /// The protocol.
    pub protocol: &'static str,
    /// The address, with the port that the system chose.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Runs the shards at the end of every worker's tick.
struct RunShards(Arc<dyn Shards>);

impl Tick for RunShards {
    fn run(&self, _worker: usize) {
        self.0.run();
    }
}

impl Longtail {
    /// Starts to put a broker together.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(builder: Builder, broker: Arc<Broker>) -> Result<Self, StartError> {
        let (authenticator, document) = builder.roster.unwrap_or_else(|| {
            let limits = ThrottleLimits::default();
            let authenticator = Authenticator::new(Directory::default(), limits);
            (Arc::new(authenticator), AuthDocument::default())
        });
        let roster = Roster::open(Arc::clone(&broker), authenticator, document)?;
        roster.call_space(Arc::clone(&builder.amqp.space), "/")?;
        if let Some(list) = builder.access_list {
            roster.set_access(Some(Arc::new(list)))?;
        }
        if let Some(rules) = builder.login_rules {
            roster.set_logins(Some(Arc::new(rules)))?;
        }
        let edge = Edge::start(builder.edge, RunShards(broker.shards()))?;
        let exposure = Exposure::new(if builder.accounts {
            Accounts::Configured
        } else {
            Accounts::Absent
        });
        let mut running = Longtail {
            broker,
            edge: Arc::new(edge),
            beanstalk: None,
            roster: Arc::new(roster),
            amqp: None,
            management: None,
            web: Mutex::default(),
            mqtt: None,
            mqtt_inside: OnceLock::new(),
            mqtt_admission: Arc::new(longtail_mqtt::AdmitAll),
            bridges: None,
            addresses: Vec::new(),
            exposure,
        };
        let space = Arc::clone(&builder.mqtt.space);
        // Before anybody can come in.
        let dynamic = match &builder.mqtt_dynamic_security {
            None => None,
            Some(file) => {
                let roster = Arc::clone(&running.roster);
                Some(Arc::new(DynamicSecurity::open(file, &space, roster)?))
            }
        };
        // Before anybody can publish: what they do is kept for the bridges.
        if !builder.mqtt_bridges.is_empty() {
            let bridges = Bridges::start(&running.broker, &space, builder.mqtt_bridges)?;
            running.bridges = Some(bridges);
        }
        if !builder.beanstalk_listeners.is_empty() {
            running.start_beanstalk(builder.beanstalk, builder.beanstalk_listeners, exposure)?;
        }
        let mut sites = Vec::new();
        if !builder.amqp_listeners.is_empty()
            || !builder.amqp_sites.is_empty()
            || builder.amqp_definitions.is_some()
        {
            running.start_amqp(builder.amqp, builder.amqp_definitions.as_deref())?;
            // Bound before AMQP is: whoever can speak that can ask here, and is answered when everything is up.
            sites = running.bind_amqp_sites(builder.amqp_sites)?;
            running.listen_amqp(builder.amqp_listeners)?;
        }
        let mut mqtt_sites = Vec::new();
        if builder.mqtt_inside
            || !builder.mqtt_listeners.is_empty()
            || !builder.mqtt_hooks.is_empty()
            || !builder.mqtt_sites.is_empty()
            || dynamic.is_some()
        {
            mqtt_sites = running.bind_mqtt_sites(builder.mqtt_sites)?;
            let (listeners, hooks) = (builder.mqtt_listeners, builder.mqtt_hooks);
            running.start_mqtt(builder.mqtt, listeners, hooks, dynamic)?;
        }
        let sites = running.name_amqp_sites(sites)?;
        running.serve_mqtt_sites(mqtt_sites)?;
        running.serve_amqp_sites(sites)?;
        if let Some(management) = &running.management {
            management.start_links();
        }
        Ok(running)
    }

    fn start_amqp(
        &mut self,
        config: longtail_amqp::Config,
        definitions: Option<&[u8]>,
    ) -> Result<(), StartError> {
        let tenant = longtail_amqp::Tenant::new(config, Arc::clone(&self.broker));
        if let Some(runtime) = self.edge.runtime(0) {
            tenant.live_on(runtime);
        }
        let judge = Arc::downgrade(&tenant);
        self.roster.watch(Box::new(move || {
            if let Some(tenant) = judge.upgrade() {
                tenant.judge_again();
            }
        }));
        let tickets = Arc::new(management::Tickets::default());
        let admission: Arc<dyn longtail_amqp::Admission> = tickets.clone();
        let inside = self
            .edge
            .inside(Amqp::inside(Arc::clone(&tenant), admission));
        let management = Management::new(
            Arc::clone(&tenant),
            Arc::clone(&self.roster),
            management::Door::new(inside, tickets, &tenant),
            management::Facts {
                host: host_name(),
                listeners: Vec::new(),
            },
        );
        if let Some(definitions) = definitions {
            import(&management, definitions)?;
        }
        tenant.open_all().map_err(StartError::Amqp)?;
        self.management = Some(management);
        self.amqp = Some(tenant);
        Ok(())
    }

    fn listen_amqp(
        &mut self,
        listeners: Vec<(ListenerConfig, Arc<dyn longtail_amqp::Admission>)>,
    ) -> Result<(), StartError> {
        let Some(tenant) = &self.amqp else {
            return Ok(());
        };
        for (listener, admission) in listeners {
            self.exposure.check(&listener.address)?;
            let tls = listener.tls.is_some();
            let websocket = listener.websocket.is_some();
            let protocol = match (websocket, tls) {
                (false, false) => "amqp",
                (false, true) => "amqps",
                (true, false) => "amqp-ws",
                (true, true) => "amqp-wss",
            };
            let service = if websocket {
                Amqp::over_websocket(Arc::clone(tenant), admission)
            } else {
                Amqp::new(Arc::clone(tenant), admission)
            };
            let open = self.edge.listen(listener, service);
            let open = open.map_err(|source| StartError::Listen {
                protocol,
                source: Box::new(source),
            })?;
            self.addresses.push(ListeningOn {
                protocol,
                address: open.local().to_string(),
                tls,
            });
        }
        Ok(())
    }

    fn bind_amqp_sites(
        &self,
        sites: Vec<(Site, WebListener)>,
    ) -> Result<Vec<(Site, Socket)>, StartError> {
        let bind = |(site, listener)| Ok((site, self.bind_site(protocol_of(site), listener)?));
        sites.into_iter().map(bind).collect()
    }

    fn bind_mqtt_sites(&self, sites: Vec<WebListener>) -> Result<Vec<Socket>, StartError> {
        let bind = |listener| self.bind_site(MQTT_HTTP, listener);
        sites.into_iter().map(bind).collect()
    }

    fn bind_site(
        &self,
        protocol: &'static str,
        listener: WebListener,
    ) -> Result<Socket, StartError> {
        let WebListener { address, tls } = listener;
        self.exposure.check(&Address::Tcp(address))?;
        let listener = TcpListener::bind(address).map_err(|source| StartError::Site {
            protocol,
            address,
            source,
        })?;
        let local = listener.local_addr().map_err(StartError::Management)?;
        let certificates = tls.map(|tls| self.edge.certificates(&local.to_string(), tls));
        let certificates = certificates.transpose();
        let certificates = certificates.map_err(|source| StartError::Certificates {
            protocol,
            address,
            source: Box::new(source),
        })?;
        let certificates = certificates.map(|certificates| -> longtail_web::Certificates {
            Arc::new(move || certificates.current())
        });
        Ok(Socket {
            listener,
            certificates,
        })
    }

    fn name_amqp_sites(
        &mut self,
        sockets: Vec<(Site, Socket)>,
    ) -> Result<Vec<(Site, Socket)>, StartError> {
        for (site, socket) in &sockets {
            self.name_site(protocol_of(*site), socket)?;
        }
        Ok(sockets)
    }

    fn name_site(&mut self, protocol: &'static str, socket: &Socket) -> Result<(), StartError> {
        let local = socket.listener.local_addr();
        let local = local.map_err(StartError::Management)?;
        self.addresses.push(ListeningOn {
            protocol,
            address: local.to_string(),
            tls: socket.certificates.is_some(),
        });
        Ok(())
    }

    /// When everything listens, so that the APIs know what else does.
    fn serve_mqtt_sites(&mut self, sockets: Vec<Socket>) -> Result<(), StartError> {
        let Some(tenant) = &self.mqtt else {
            return Ok(());
        };
        let tenant = Arc::clone(tenant);
        if sockets.is_empty() {
            return Ok(());
        }
        for socket in &sockets {
            self.name_site(MQTT_HTTP, socket)?;
        }
        let fact = |on: &ListeningOn| http::ListenerFact {
            protocol: on.protocol,
            address: on.address.clone(),
            tls: on.tls,
        };
        let facts = http::Facts {
            host: host_name(),
            listeners: self.addresses.iter().map(fact).collect(),
            bridges: self.bridges().to_vec(),
        };
        let authenticator = Arc::clone(self.roster.authenticator());
        let api = http::Api::new(tenant, Arc::clone(&self.broker), authenticator, facts);
        let server = http::serve(&api, sockets).map_err(StartError::Management)?;
        self.web.lock().push(server);
        Ok(())
    }

    /// As [`Longtail::serve_mqtt_sites`].
    fn serve_amqp_sites(&mut self, sockets: Vec<(Site, Socket)>) -> Result<(), StartError> {
        let Some(management) = &self.management else {
            return Ok(());
        };
        let fact = |on: &ListeningOn| {
            let address: Option<SocketAddr> = on.address.parse().ok();
            ListenerFact {
                protocol: match (on.protocol, on.tls) {
                    ("amqp-management", false) => "http",
                    ("amqp-management", true) => "https",
                    ("amqp-metrics", false) => "http/prometheus",
                    ("amqp-metrics", true) => "https/prometheus",
                    (protocol, _) => protocol,
                }
                .to_owned(),
                host: address.map_or_else(|| on.address.clone(), |at| at.ip().to_string()),
                port: address.map_or(0, |at| at.port()),
                tls: on.tls,
            }
        };
        management.set_listeners(self.addresses.iter().map(fact).collect());
        let edge = Arc::downgrade(&self.edge);
        management.set_certificates(Box::new(move || {
            edge.upgrade()
                .map_or_else(Vec::new, |edge| edge.certificate_ends())
        }));
        if !sockets.is_empty() {
            let server = management::serve(management, sockets);
            let server = server.map_err(StartError::Management)?;
            self.web.lock().push(server);
        }
        Ok(())
    }

    fn start_mqtt(
        &mut self,
        config: longtail_mqtt::Config,
        listeners: Vec<MqttListener>,
        hooks: Vec<(Arc<dyn Hook>, i32, Scope)>,
        dynamic: Option<Arc<DynamicSecurity>>,
    ) -> Result<(), StartError> {
        let rights = match listeners.first() {
            Some(listener) => Arc::clone(&listener.admission),
            None => Arc::new(longtail_mqtt::AdmitAll),
        };
        let admission = Arc::clone(&rights);
        let tenant = longtail_mqtt::Tenant::start(config, &self.broker, rights);
        let tenant = tenant.map_err(StartError::Mqtt)?;
        self.mqtt_admission = admission;
        for (hook, priority, scope) in hooks {
            tenant.hooks().add(hook, priority, scope);
        }
        if let Some(dynamic) = dynamic {
            tenant.set_dynamic_security(dynamic);
        }
        let mut facts = Vec::new();
        for listener in listeners {
            let open = self.listen_mqtt(&tenant, listener)?;
            facts.push(control::Listener {
                protocol: open.protocol,
                address: open.address.clone(),
            });
            self.addresses.push(open);
        }
        tenant.set_listeners(facts);
        let judge = Arc::downgrade(&tenant);
        self.roster.watch(Box::new(move || {
            if let Some(tenant) = judge.upgrade() {
                tenant.judge_again();
            }
        }));
        tenant.set_host(Arc::new(EdgeHost::new(&self.edge)));
        tenant.started();
        self.mqtt = Some(tenant);
        Ok(())
    }

    fn listen_mqtt(
        &self,
        tenant: &Arc<longtail_mqtt::Tenant>,
        listener: MqttListener,
    ) -> Result<ListeningOn, StartError> {
        let MqttListener {
            config: listener,
            admission,
            limits,
        } = listener;
        self.exposure.check(&listener.address)?;
        let tls = listener.tls.is_some();
        let protocol = match (listener.websocket.is_some(), tls) {
            (false, false) => "mqtt",
            (false, true) => "mqtts",
            (true, false) => "mqtt-ws",
            (true, true) => "mqtt-wss",
        };
        let name = listener.address.to_string();
        let limits = limits.unwrap_or_else(|| tenant.config().limits.clone());
        let service = Mqtt::with_limits(&name, Arc::clone(tenant), admission, limits);
        let open = self
            .edge
            .listen(listener, service)
            .map_err(|source| StartError::Listen {
                protocol,
                source: Box::new(source),
            })?;
        Ok(ListeningOn {
            protocol,
            address: open.local().to_string(),
            tls,
        })
    }

    /// Opens a connection to the MQTT service from this process: the other end is served as if a listener named `inside`
    /// had accepted it, codec, hooks and limits included, and let in as at the first listener. Nothing is bound. Any
    /// other stream can be served by copying both ways between it and this.
    ///
    /// # Errors
    /// When the MQTT service was not started, the system gives no sockets, or the server is full or going down.
    pub fn connect_mqtt(&self) -> io::Result<UnixStream> {
        let tenant = self.mqtt.as_ref();
        let tenant = tenant.ok_or_else(|| io::Error::other("there is no MQTT service"))?;
        let inside = self.mqtt_inside.get_or_init(|| {
            let admission = Arc::clone(&self.mqtt_admission);
            let service = Mqtt::at("inside", Arc::clone(tenant), admission);
            self.edge.inside(service)
        });
        inside.connect()
    }

    /// Opens one more listener for MQTT while the broker runs. It is not among [`Longtail::addresses`].
    ///
    /// # Errors
    /// When the MQTT service was not started, or the address cannot be bound.
    pub fn add_mqtt_listener(
        &self,
        config: ListenerConfig,
        admission: Arc<dyn longtail_mqtt::Admission>,
    ) -> Result<ListeningOn, StartError> {
        let tenant = self.mqtt.as_ref().ok_or(StartError::NoMqtt)?;
        let listener = MqttListener {
            config,
            admission,
            limits: None,
        };
        self.listen_mqtt(tenant, listener)
    }

    fn start_beanstalk(
        &mut self,
        mut config: longtail_beanstalk::Config,
        listeners: Vec<(
            longtail_edge::ListenerConfig,
            Arc<dyn longtail_beanstalk::Admission>,
        )>,
        exposure: Exposure,
    ) -> Result<(), StartError> {
        let numbering = Numbering::Shared(longtail_beanstalk::tenant::NUMBERING.into());
        let any = StreamName::new(Arc::clone(&config.space), "");
        config.shard = self.broker.placement(&any, &numbering);
        let host = BrokerHost {
            clock: self.broker.clock(),
            broker: Arc::clone(&self.broker),
            shard: config.shard,
        };
        let instance = self
            .broker
            .clock()
            .now()
            .0
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(std::process::id());
        let tenant = Arc::new(Tenant::new(
            config,
            Identity::of_process(instance),
            Arc::new(host),
        )?);
        for (listener, admission) in listeners {
            exposure.check(&listener.address)?;
            let tls = listener.tls.is_some();
            let service = Beanstalk::new(Arc::clone(&tenant), self.broker.shards(), admission);
            let open =
                self.edge
                    .listen(listener, service)
                    .map_err(|source| StartError::Listen {
                        protocol: "beanstalk",
                        source: Box::new(source),
                    })?;
            self.addresses.push(ListeningOn {
                protocol: "beanstalk",
                address: open.local().to_string(),
                tls,
            });
        }
        self.beanstalk = Some(tenant);
        Ok(())
    }

    /// What links to other brokers have taken and not given away goes back, while there is somebody to take it.
    fn stop_links(&self) {
        if let Some(management) = &self.management {
            management.stop_links();
        }
    }

    /// The broker behind the listeners.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The sockets.
    #[must_use]
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// What beanstalk connections share, if there are any.
    #[must_use]
    pub fn beanstalk(&self) -> Option<&Arc<Tenant>> {
        self.beanstalk.as_ref()
    }

    /// What AMQP connections share, if there are any.
    #[must_use]
    pub fn amqp(&self) -> Option<&Arc<longtail_amqp::Tenant>> {
        self.amqp.as_ref()
    }

    /// The accounts and spaces.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The management plane of AMQP, if it is spoken.
    #[must_use]
    pub fn amqp_management(&self) -> Option<&Arc<Management>> {
        self.management.as_ref()
    }

    /// What MQTT connections share, if there are any.
    #[must_use]
    pub fn mqtt(&self) -> Option<&Arc<longtail_mqtt::Tenant>> {
        self.mqtt.as_ref()
    }

    /// What each bridge to another MQTT broker says of itself.
    #[must_use]
    pub fn bridges(&self) -> &[Arc<bridge::Status>] {
        self.bridges.as_ref().map_or(&[], Bridges::statuses)
    }

    /// Where it listens, in the order in which the listeners were given.
    #[must_use]
    pub fn addresses(&self) -> &[ListeningOn] {
        &self.addresses
    }

    /// A session in this process, at the shard of a stream that exists or would be created under this name with
    /// numbers of its own.
    #[must_use]
    pub fn client(&self, stream: &StreamName) -> Client {
        self.broker
            .client(self.broker.placement(stream, &Numbering::Own))
    }

    /// Lets clients finish for at most 10 seconds, then makes everything durable and stops.
    pub fn shut_down(self) -> DrainReport {
        let report = self.drain(DRAIN);
        self.close();
        report
    }

    /// Accepts no more connections and lets those there are finish for at most `within`; then cuts them. Blocks.
    pub fn drain(&self, within: Duration) -> DrainReport {
        self.stop_links();
        self.edge.drain(within)
    }

    /// Makes everything durable and stops the shards. Connections that are left get no more answers.
    pub fn close(&self) {
        // They answer on threads of their own, which end when their sockets do.
        self.web.lock().clear();
        if let Some(bridges) = &self.bridges {
            bridges.stop();
        }
        if let Some(mqtt) = &self.mqtt {
            mqtt.stop();
        }
        if let Some(amqp) = &self.amqp {
            amqp.write_offsets();
        }
        self.broker.close();
    }
}

impl Drop for Longtail {
    fn drop(&mut self) {
        self.stop_links();
        self.edge.drain(Duration::ZERO);
        self.close();
    }
}

fn protocol_of(site: Site) -> &'static str {
    match site {
        Site::Api => "amqp-management",
        Site::Metrics => "amqp-metrics",
    }
}

/// Imports definitions while nothing listens yet. On a thread of its own: whoever starts the broker may be in a runtime.
fn import(management: &Arc<Management>, definitions: &[u8]) -> Result<(), StartError> {
    let imported = std::thread::scope(|scope| {
        let run = || -> Result<management::Import, StartError> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(StartError::Management)?;
            Ok(runtime.block_on(management.import(definitions, None))?)
        };
        let ended = scope.spawn(run).join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let imported = imported?;
    tracing::info!(
        entries = imported.done,
        skipped = imported.skipped.len(),
        "definitions imported"
    );
    Ok(())
}

/// What this machine is called.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// What the beanstalk service asks of the world around it.
struct BrokerHost {
    clock: Arc<dyn Clock>,
    broker: Arc<Broker>,
    shard: ShardId,
}

impl Host for BrokerHost {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn cpu_time(&self) -> CpuTime {
        CpuTime::of_process()
    }

    fn log(&self) -> LogFacts {
        let segment_bytes = self.broker.config().segment_bytes;
        let facts = self.broker.log_facts(self.shard);
        LogFacts {
            oldest_segment: self.segment_of(facts.start),
            current_segment: self.segment_of(facts.end),
            records_migrated: facts.records_rewritten,
            records_written: facts.records_appended,
            segment_bytes,
        }
    }

    fn segment_of(&self, position: Lsn) -> u64 {
        if self.broker.durability() == longtail_model::Durability::Memory {
            return 0;
        }
        position.0 / self.broker.config().segment_bytes.max(1) + 1
    }
}

/// Checks at compile time that connections may be shared with the threads that deliver to them.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Connection<Beanstalk>>();
    shared::<Connection<Mqtt>>();
    shared::<Connection<Amqp>>();
};
