//! MQTT: its service and hooks, its listeners, and the HTTP APIs beside them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use longtail_edge::ListenerConfig;
use longtail_mqtt::control::{self, dynamic::DynamicSecurity};
use longtail_mqtt::hooks::Scope;
use longtail_mqtt::{Hook, Mqtt, http};

use super::mqtt_host::EdgeHost;
use super::{ListeningOn, Longtail, host_name};
use crate::builder::{MqttListener, StartError};

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
        let tenant = longtail_mqtt::Tenant::start(config, &self.broker, rights);
        let tenant = tenant.map_err(StartError::Mqtt)?;
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
        let protocol = match (listener.websocket.is_some(), listener.tls.is_some()) {
            (false, false) => "mqtt",
            (false, true) => "mqtts",
            (true, false) => "mqtt-ws",
            (true, true) => "mqtt-wss",
        };
        let name = listener.address.to_string();
        let limits = limits.unwrap_or_else(|| tenant.config().limits.clone());
        let service = Mqtt::with_limits(&name, Arc::clone(tenant), admission, limits);
        self.listen(protocol, listener, service)
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

    pub(super) fn bind_mqtt_sites(
        &self,
        sites: Vec<SocketAddr>,
    ) -> Result<Vec<TcpListener>, StartError> {
        let bind = |address| self.bind_site(MQTT_HTTP, address);
        sites.into_iter().map(bind).collect()
    }

    /// When everything listens, so that the APIs know what else does.
    pub(super) fn serve_mqtt_sites(&mut self, sockets: Vec<TcpListener>) -> Result<(), StartError> {
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
        let api = http::Api::new(tenant, Arc::clone(self.roster.authenticator()), facts);
        let server = http::serve(&api, sockets).map_err(StartError::Management)?;
        self.web.lock().push(server);
        Ok(())
    }
}
