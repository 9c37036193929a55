//! MQTT: its listeners, the way in from this process, and the HTTP APIs of other brokers.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use longtail_edge::ListenerConfig;
use longtail_mqtt::control::{self, dynamic::DynamicSecurity};
use longtail_mqtt::hooks::Scope;
use longtail_mqtt::{Hook, Mqtt, http};
use longtail_web::Socket;

use super::mqtt_host::EdgeHost;
use super::web::host_name;
use super::{ListeningOn, Longtail};
use crate::builder::{MqttListener, StartError, WebListener};

/// What a listener of the HTTP APIs of MQTT is called.
const MQTT_HTTP: &str = "mqtt-http";

impl Longtail {
    pub(super) fn start_mqtt(
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

    pub(super) fn listen_mqtt(
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

    pub(super) fn bind_mqtt_sites(
        &self,
        sites: Vec<WebListener>,
    ) -> Result<Vec<Socket>, StartError> {
        let bind = |listener| self.bind_site(MQTT_HTTP, listener);
        sites.into_iter().map(bind).collect()
    }

    /// When everything listens, so that the APIs know what else does.
    pub(super) fn serve_mqtt_sites(&mut self, sockets: Vec<Socket>) -> Result<(), StartError> {
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
}
