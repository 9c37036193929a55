//! Puts the server together: broker, listeners, admin service.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use longtail::{BrokerError, Longtail, WebListener};
use longtail_amqp::management::Site;
use longtail_broker::BrokerConfig;
use longtail_broker::auth::{Authenticator, Directory, Quotas, ThrottleLimits};
use longtail_edge::Address;
use longtail_engine::runtime::{Clock, SystemClock};
use longtail_mqtt::hooks::Scope;
use longtail_mqtt::http_auth::{HttpAuth, HttpAuthConfig, HttpAuthError, Rights};
use parking_lot::Mutex;

use super::admin::AdminService;
use super::admission::AccountAdmission;
use super::backend::Backend;
use super::lifecycle::{Listening, Running};
use crate::config::{
    AMQP, AMQP_MANAGEMENT, AMQP_METRICS, AMQP_TLS, AMQP_WEBSOCKET, AMQP_WEBSOCKET_TLS, BEANSTALK,
    MQTT, MQTT_HTTP, MQTT_TLS, MQTT_WEBSOCKET, MQTT_WEBSOCKET_TLS, Settings, Sources, load,
};
use crate::exit_codes::Exit;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The broker or a listener.
    #[error(transparent)]
    Start(#[from] longtail::StartError),
    /// The admin service.
    #[error("admin.listen: cannot bind {address}: {source}")]
    Admin {
        /// Where.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// Accounts or spaces.
    #[error("accounts or spaces: {0}")]
    Accounts(String),
    /// The settings of a bridge.
    #[error("{0}")]
    Bridges(String),
    /// The settings of a shovel.
    #[error("{0}")]
    Shovels(String),
    /// The settings of MQTT.
    #[error("{0}")]
    Mqtt(String),
    /// A listener's settings.
    #[error("listeners.{protocol}: {why}")]
    Listener {
        /// Whose.
        protocol: String,
        /// What is wrong.
        why: String,
    },
}

impl StartError {
    /// The exit code that says the same.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            StartError::Start(longtail::StartError::Broker(BrokerError::Open(_))) => Exit::Data,
            StartError::Start(
                longtail::StartError::Listen { .. }
                | longtail::StartError::Site { .. }
                | longtail::StartError::Certificates { .. }
                | longtail::StartError::Exposed(_),
            )
            | StartError::Admin { .. } => Exit::Bind,
            StartError::Start(longtail::StartError::DynamicSecurity(_))
            | StartError::Listener { .. }
            | StartError::Accounts(_)
            | StartError::Bridges(_)
            | StartError::Shovels(_)
            | StartError::Mqtt(_) => Exit::Usage,
            StartError::Start(_) => Exit::Failure,
        }
    }
}

/// A running server.
pub(crate) struct Server {
    longtail: Arc<Longtail>,
    listening: Vec<Listening>,
    backend: Arc<Backend>,
    admin: Mutex<Option<AdminService>>,
    sources: Sources,
}

impl Server {
    /// What MQTT connections share, if there are any.
    pub(super) fn mqtt(&self) -> Option<&Arc<longtail_mqtt::Tenant>> {
        self.longtail.mqtt()
    }
}

/// Starts everything that `settings` name. The admin service answers at once; when this returns, the data is recovered
/// and all listeners are bound. `sources` are where accounts are read from again.
///
/// # Errors
/// When the data directory cannot be used or a listener cannot be bound; whatever was started is stopped again.
pub(crate) async fn start(settings: &Settings, sources: Sources) -> Result<Server, StartError> {
    let document = settings.auth_document().map_err(StartError::Accounts)?;
    let directory = settings.directory().map_err(StartError::Accounts)?;
    let quotas = quotas(&directory);
    let authenticator = Arc::new(Authenticator::new(directory, ThrottleLimits::default()));
    let builder =
        builder(settings, quotas, &authenticator)?.accounts(Arc::clone(&authenticator), document);
    let backend = Arc::new(Backend::new(settings, Arc::clone(&authenticator)));
    let admin = AdminService::start(settings, Arc::clone(&backend)).map_err(|source| {
        let listen = settings.admin.listen.as_ref();
        let address = listen.map(ToString::to_string).unwrap_or_default();
        StartError::Admin { address, source }
    })?;
    // Recovery reads the disk and may take a while: not on the thread that minds the signals.
    let started = tokio::task::spawn_blocking(move || builder.start()).await;
    let longtail =
        Arc::new(started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
    if settings.beanstalk.drain
        && let Some(tenant) = longtail.beanstalk()
    {
        tenant.drain();
    }
    let mut listening = Vec::new();
    for on in longtail.addresses() {
        listening.push(Listening {
            protocol: on.protocol.to_owned(),
            address: parse(on.protocol, &on.address)?,
            tls: on.tls,
        });
    }
    listening.extend(admin.as_ref().map(AdminService::listening));
    backend.serve(Arc::clone(&longtail), listening.clone());
    Ok(Server {
        longtail,
        listening,
        backend,
        admin: Mutex::new(admin),
        sources,
    })
}

fn parse(protocol: &str, address: &str) -> Result<crate::config::ListenAddress, StartError> {
    let wrong = |why: String| StartError::Listener {
        protocol: protocol.to_owned(),
        why,
    };
    address
        .parse::<crate::config::ListenAddress>()
        .map_err(|error| wrong(error.to_string()))
}

/// The settings as the library takes them.
fn builder(
    settings: &Settings,
    quotas: Vec<(Arc<str>, Quotas)>,
    authenticator: &Arc<Authenticator>,
) -> Result<longtail::Builder, StartError> {
    let beanstalk = longtail_beanstalk::Config {
        space: settings.beanstalk.space.as_str().into(),
        job_size_max: u32::try_from(settings.beanstalk.job_bytes).unwrap_or(u32::MAX),
        ..longtail_beanstalk::Config::default()
    };
    let wrong = |path: &str, why: String| StartError::Mqtt(format!("{path}: {why}"));
    let mqtt = settings.mqtt.config();
    let mqtt = mqtt.map_err(|(path, why)| wrong(path, why))?;
    let mut builder = Longtail::builder()
        .broker(BrokerConfig {
            quotas,
            ..settings.broker()
        })
        .edge(settings.edge())
        .beanstalk_config(beanstalk)
        .amqp_config(settings.amqp.config())
        .mqtt_config(mqtt.clone());
    for (at, auth) in settings.mqtt.http_auth.iter().enumerate() {
        let is_last = settings.mqtt.http_auth.len() - 1 == at && !settings.has_accounts();
        let hook = http_auth(auth, settings, authenticator, is_last);
        let hook = hook.map_err(|error| wrong("mqtt.http_auth", error.to_string()))?;
        let priority = i32::try_from(at).unwrap_or(i32::MAX);
        builder = builder.mqtt_hook(Arc::new(hook), priority, Scope::Everywhere);
    }
    for bridge in settings.bridge_configs().map_err(StartError::Bridges)? {
        builder = builder.mqtt_bridge(bridge);
    }
    for shovel in settings.amqp.shovels().map_err(StartError::Shovels)? {
        builder = builder.amqp_shovel(shovel);
    }
    if !settings.amqp.definitions.is_empty() {
        let read = std::fs::read(&settings.amqp.definitions).map_err(|error| {
            let file = &settings.amqp.definitions;
            StartError::Accounts(format!("amqp.definitions: {file}: {error}"))
        })?;
        builder = builder.amqp_definitions(read);
    }
    if authenticator.may_listen_publicly() {
        builder = builder.with_accounts();
    }
    if let Some(list) = settings.mqtt.access_list().map_err(StartError::Mqtt)? {
        builder = builder.access_list(list);
    }
    if let Some((logins, list)) = settings.mqtt.ledger().map_err(StartError::Mqtt)? {
        builder = builder.login_rules(logins).access_list(list);
    }
    if !settings.mqtt.dynamic_security_file.is_empty() {
        builder = builder.mqtt_dynamic_security(&settings.mqtt.dynamic_security_file);
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    for (protocol, listeners) in &settings.listeners {
        for listener in listeners {
            match protocol.as_str() {
                BEANSTALK => {
                    let admission = AccountAdmission {
                        authenticator: Arc::clone(authenticator),
                        clock: Arc::clone(&clock),
                        space: settings.beanstalk.space.as_str().into(),
                        account: listener.account.clone(),
                    };
                    builder =
                        builder.beanstalk_listener(listener.edge.clone(), Arc::new(admission));
                }
                AMQP | AMQP_TLS | AMQP_WEBSOCKET | AMQP_WEBSOCKET_TLS => {
                    let accounts = longtail_amqp::Accounts {
                        authenticator: Arc::clone(authenticator),
                        clock: Arc::clone(&clock),
                        account: listener.account.clone(),
                    };
                    let mut edge = listener.edge.clone();
                    if [AMQP_WEBSOCKET, AMQP_WEBSOCKET_TLS].contains(&protocol.as_str()) {
                        edge.websocket.get_or_insert_default();
                    }
                    builder = builder.amqp_listener(edge, Arc::new(accounts));
                }
                AMQP_MANAGEMENT | AMQP_METRICS | MQTT_HTTP => {
                    let Address::Tcp(address) = listener.edge.address else {
                        let why = "it listens on TCP only".to_owned();
                        let protocol = protocol.clone();
                        return Err(StartError::Listener { protocol, why });
                    };
                    let tls = listener.edge.tls.clone();
                    let web = WebListener { address, tls };
                    builder = match protocol.as_str() {
                        AMQP_MANAGEMENT => builder.amqp_site(Site::Api, web),
                        AMQP_METRICS => builder.amqp_site(Site::Metrics, web),
                        _ => builder.mqtt_site(web),
                    };
                }
                MQTT | MQTT_TLS | MQTT_WEBSOCKET | MQTT_WEBSOCKET_TLS => {
                    let accounts = longtail_mqtt::Accounts {
                        authenticator: Arc::clone(authenticator),
                        clock: Arc::clone(&clock),
                        space: settings.mqtt.space.as_str().into(),
                        account: listener.account.clone(),
                        anonymous: listener
                            .mqtt
                            .as_ref()
                            .and_then(|mqtt| mqtt.anonymous.clone()),
                    };
                    let mut edge = listener.edge.clone();
                    if [MQTT_WEBSOCKET, MQTT_WEBSOCKET_TLS].contains(&protocol.as_str()) {
                        edge.websocket.get_or_insert_default();
                    }
                    let limits = match &listener.mqtt {
                        None => Ok(mqtt.limits.clone()),
                        Some(own) => own.limits(&mqtt.limits),
                    };
                    let limits = limits.map_err(|why| wrong(protocol, why))?;
                    builder = builder.mqtt_listener_with(edge, Arc::new(accounts), limits);
                }
                _ => {
                    let why = "this release does not speak this protocol".to_owned();
                    return Err(StartError::Listener {
                        protocol: protocol.clone(),
                        why,
                    });
                }
            }
        }
    }
    Ok(builder)
}

/// A server of HTTP that is asked who a client of MQTT is.
fn http_auth(
    config: &HttpAuthConfig,
    settings: &Settings,
    authenticator: &Arc<Authenticator>,
    is_last: bool,
) -> Result<HttpAuth, HttpAuthError> {
    let (space, asked) = (settings.mqtt.space.clone(), Arc::clone(authenticator));
    let rights: Rights = Arc::new(move |account, client_id| {
        let login = asked.grants(account, &space, client_id);
        login.ok().map(|login| login.grants)
    });
    HttpAuth::new(
        config.clone(),
        rights,
        Arc::new(SystemClock::new()),
        is_last,
    )
}

/// What each space may use.
fn quotas(directory: &Directory) -> Vec<(Arc<str>, Quotas)> {
    directory
        .spaces()
        .filter_map(|name| directory.space(name))
        .map(|(name, quotas)| (Arc::clone(name), *quotas))
        .collect()
}

/// Longer than anybody waits for a drain; the lifecycle has its own deadline.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);

impl Running for Server {
    fn listening(&self) -> &[Listening] {
        &self.listening
    }

    async fn drain(&self) {
        self.backend.drain();
        let longtail = Arc::clone(&self.longtail);
        // A failed join means that the drain panicked: the connections are cut next.
        let _ = tokio::task::spawn_blocking(move || longtail.drain(DRAIN_MAX)).await;
    }

    async fn stop(&self) -> io::Result<()> {
        let longtail = Arc::clone(&self.longtail);
        let stopped = tokio::task::spawn_blocking(move || {
            longtail.edge().hurry();
            longtail.drain(Duration::ZERO);
            longtail.close();
            longtail.broker().trouble()
        });
        let stopped = stopped.await.map_err(io::Error::other);
        let admin = self.admin.lock().take();
        if let Some(admin) = admin {
            admin.stop().await;
        }
        match stopped? {
            None => Ok(()),
            Some(why) => Err(io::Error::other(why)),
        }
    }

    async fn failed(&self) -> String {
        std::future::pending().await
    }

    fn refuse_new_jobs(&self) {
        if let Some(tenant) = self.longtail.beanstalk() {
            tenant.drain();
        }
    }

    fn reload_certificates(&self) -> io::Result<usize> {
        match self.longtail.edge().reload_tls() {
            Ok(()) => Ok(self
                .listening
                .iter()
                .filter(|listener| listener.tls)
                .count()),
            Err(errors) => {
                let why: Vec<_> = errors
                    .iter()
                    .map(|(listener, error)| format!("{listener}: {error}"))
                    .collect();
                Err(io::Error::other(why.join("; ")))
            }
        }
    }

    fn reload_accounts(&self) -> Result<(), String> {
        let loaded = load(&self.sources).map_err(|error| error.to_string())?;
        let document = loaded.settings.auth_document()?;
        let ledger = loaded.settings.mqtt.ledger()?;
        let (logins, list) = match ledger {
            Some((logins, list)) => (Some(Arc::new(logins)), Some(list)),
            None => (None, loaded.settings.mqtt.access_list()?),
        };
        let roster = self.longtail.roster();
        roster
            .reconfigure(document)
            .map_err(|error| error.to_string())?;
        let list = list.map(Arc::new);
        roster
            .set_logins(logins)
            .map_err(|error| error.to_string())?;
        roster.set_access(list).map_err(|error| error.to_string())
    }
}
