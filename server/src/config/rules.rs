//! Settings that are fine alone and wrong together.

use std::collections::BTreeMap;

use longtail_broker::auth::Directory;
use longtail_edge::{ClientCertificates, ListenerConfig};
use longtail_mqtt::Limits;
use longtail_mqtt::control::dynamic::DynamicSecurity;
use toml::Value;

use super::address::ListenAddress;
use super::error::Problem;
use super::mqtt::share_strategy;
use super::origin::Origin;
use super::schema::{
    AMQP, AMQP_TLS, AMQP_WEBSOCKET, AMQP_WEBSOCKET_TLS, BEANSTALK, MQTT_TLS, MQTT_WEBSOCKET_TLS,
    WEB,
};
use super::settings::Settings;

/// All contradictions in `settings`, each with the origin of the value that causes it.
pub(super) fn check(
    settings: &Settings,
    values: &BTreeMap<String, (Value, Origin)>,
) -> Vec<Problem> {
    let origin = |path: &str| {
        values
            .get(path)
            .map_or(Origin::Default, |(_, origin)| origin.clone())
    };
    let mut problems = Vec::new();

    match settings.directory() {
        Ok(directory) => {
            tenants(settings, &directory, &origin, &mut problems);
        }
        Err(why) => {
            let path = if settings.accounts.is_empty() {
                "spaces"
            } else {
                "accounts"
            };
            problems.push(Problem::new(
                origin(path),
                format!("accounts, spaces or tokens: {why}"),
            ));
        }
    }

    if let Err(why) = settings.bridge_configs() {
        problems.push(Problem::new(origin("bridges"), why));
    }
    if let Err(why) = settings.amqp.shovels() {
        problems.push(Problem::new(origin("amqp.shovels"), why));
    }
    if let Err(why) = settings.mqtt.access_list() {
        problems.push(Problem::new(origin("mqtt.acl_file"), why));
    }
    if let Err(why) = settings.mqtt.ledger() {
        problems.push(Problem::new(origin("mqtt.ledger_file"), why));
    }
    let dynamic = &settings.mqtt.dynamic_security_file;
    if !dynamic.is_empty()
        && let Err(error) = DynamicSecurity::check(dynamic.as_ref())
    {
        let why = format!("mqtt.dynamic_security_file: {error}");
        problems.push(Problem::new(origin("mqtt.dynamic_security_file"), why));
    }
    for auth in &settings.mqtt.http_auth {
        if let Err(error) = auth.check() {
            let why = format!("mqtt.http_auth: {error}");
            problems.push(Problem::new(origin("mqtt.http_auth"), why));
        }
    }
    match settings.mqtt.config() {
        Ok(config) => mqtt_listeners(settings, &config.limits, &origin, &mut problems),
        Err((path, why)) => problems.push(Problem::new(origin(path), format!("{path}: {why}"))),
    }

    // Closed by default: nobody may reach a server from outside that asks nobody who they are.
    let accounts = settings.has_accounts();
    for (protocol, listeners) in &settings.listeners {
        for listener in listeners
            .iter()
            .filter(|listener| !accounts && !listener.address.is_local())
        {
            problems.push(Problem::new(
                origin(&format!("listeners.{protocol}")),
                format!(
                    "{protocol} cannot listen on {}: without accounts only this machine may connect; configure \
                     [[accounts]], or listen on 127.0.0.1, [::1] or unix:PATH",
                    listener.address
                ),
            ));
        }
    }
    if let Some(address) = &settings.admin.listen
        && settings.admin.token.is_empty()
        && !address.is_local()
    {
        problems.push(Problem::new(
            origin("admin.listen"),
            format!("the admin service cannot listen on {address}: without admin.token only this machine may connect"),
        ));
    }
    if settings.admin.listen.is_none() && settings.listeners.values().all(Vec::is_empty) {
        problems.push(Problem::new(
            origin("admin.listen"),
            "every listener is off: name one with --listen, or leave --only out",
        ));
    }
    for entry in &settings.mqtt.share_strategies {
        if let Err(why) = share_strategy(entry) {
            problems.push(Problem::new(origin("mqtt.share_strategies"), why));
        }
    }
    web_listeners(settings, &origin, &mut problems);
    sizes(settings, &origin, &mut problems);
    problems
}

/// Listeners that answer HTTP have an address, and perhaps TLS.
fn web_listeners(
    settings: &Settings,
    origin: &impl Fn(&str) -> Origin,
    problems: &mut Vec<Problem>,
) {
    for protocol in WEB {
        for listener in settings.listeners.get(protocol).into_iter().flatten() {
            let edge = &listener.edge;
            let why = if matches!(listener.address, ListenAddress::Unix(_)) {
                "it listens on TCP only"
            } else if edge.proxy.is_some() || edge.websocket.is_some() {
                "`proxy` and `websocket` are not for it"
            } else if listener.account.is_some() {
                "`account` is not for it: every request says who asks"
            } else if *edge
                != (ListenerConfig {
                    tls: edge.tls.clone(),
                    ..ListenerConfig::new(edge.address.clone())
                })
            {
                "it has an `address`, and perhaps `tls`, and nothing else: limits are for listeners of protocols"
            } else {
                continue;
            };
            problems.push(Problem::new(
                origin(&format!("listeners.{protocol}")),
                format!("{protocol} on {}: {why}", listener.address),
            ));
        }
    }
}

/// What single listeners say about MQTT.
fn mqtt_listeners(
    settings: &Settings,
    service: &Limits,
    origin: &impl Fn(&str) -> Origin,
    problems: &mut Vec<Problem>,
) {
    for (protocol, listeners) in &settings.listeners {
        let path = format!("listeners.{protocol}");
        for listener in listeners {
            let Some(mqtt) = &listener.mqtt else { continue };
            let mut wrong = |why: String| {
                let why = format!("{protocol} on {}: {why}", listener.address);
                problems.push(Problem::new(origin(&path), why));
            };
            let others = [
                BEANSTALK,
                AMQP,
                AMQP_TLS,
                AMQP_WEBSOCKET,
                AMQP_WEBSOCKET_TLS,
            ];
            let protocol = protocol.as_str();
            if others.contains(&protocol) || WEB.contains(&protocol) {
                wrong("`mqtt` is for listeners of MQTT".to_owned());
                continue;
            }
            if mqtt.anonymous.is_some() && !settings.has_accounts() {
                wrong("mqtt.anonymous names an account, and there are none".to_owned());
            }
            if mqtt.anonymous.is_some() && listener.account.is_some() {
                wrong("with `account`, nobody is anonymous: leave mqtt.anonymous out".to_owned());
            }
            if let Err(why) = mqtt.limits(service) {
                wrong(format!("mqtt.{why}"));
            }
        }
    }
}

/// Accounts and spaces that do not fit the listeners.
fn tenants(
    settings: &Settings,
    directory: &Directory,
    origin: &impl Fn(&str) -> Origin,
    problems: &mut Vec<Problem>,
) {
    let mut wrong = |path: &str, why: String| problems.push(Problem::new(origin(path), why));
    for (path, space) in [
        ("beanstalk.space", &settings.beanstalk.space),
        ("amqp.space", &settings.amqp.space),
        ("mqtt.space", &settings.mqtt.space),
    ] {
        if directory.space(space).is_none() {
            wrong(
                path,
                format!("{path} = \"{space}\": there is no such space; add it to [[spaces]]"),
            );
        }
    }
    let any_account = !directory.has_no_accounts() || settings.has_accounts();
    for (protocol, listeners) in &settings.listeners {
        for listener in listeners {
            let path = format!("listeners.{protocol}");
            if [AMQP_TLS, AMQP_WEBSOCKET_TLS, MQTT_TLS, MQTT_WEBSOCKET_TLS]
                .contains(&protocol.as_str())
                && listener.edge.tls.is_none()
            {
                wrong(
                    &path,
                    format!(
                        "{protocol} on {} needs `tls` with a certificate and a key",
                        listener.address
                    ),
                );
            }
            let asks = listener
                .edge
                .tls
                .as_ref()
                .is_some_and(|tls| tls.client_certificates != ClientCertificates::Off);
            let anonymous = listener.mqtt.as_ref();
            let anonymous = anonymous.and_then(|mqtt| mqtt.anonymous.as_ref());
            let anonymous = anonymous.filter(|account| !account.is_empty());
            match listener.account.as_ref().or(anonymous) {
                Some(account) if directory.account(account).is_none() => wrong(
                    &path,
                    format!(
                        "{protocol} on {}: there is no account \"{account}\"",
                        listener.address
                    ),
                ),
                None if any_account && !asks && protocol == BEANSTALK => wrong(
                    &path,
                    format!(
                        "{protocol} on {} lets nobody in: with [[accounts]], a listener needs `account`, or `tls` with \
                         client_certificates, because the protocol has no login",
                        listener.address
                    ),
                ),
                _ => {}
            }
        }
    }
}

/// What a line of the protocol needs beside the job.
const LINE_BYTES: usize = 1024;

/// Limits on sizes that leave no room for one another.
fn sizes(settings: &Settings, origin: &impl Fn(&str) -> Origin, problems: &mut Vec<Problem>) {
    let mut wrong = |path: &str, why: String| problems.push(Problem::new(origin(path), why));
    let (job, message) = (settings.beanstalk.job_bytes, settings.limits.message_bytes);
    if job > message {
        wrong(
            "beanstalk.job_bytes",
            format!(
                "beanstalk.job_bytes ({job}) is more than limits.message_bytes ({message}): raise limits.message_bytes"
            ),
        );
    }
    if settings.amqp.message_bytes > message as u64 {
        wrong(
            "amqp.message_bytes",
            format!(
                "amqp.message_bytes ({}) is more than limits.message_bytes ({message}): raise limits.message_bytes",
                settings.amqp.message_bytes
            ),
        );
    }
    if message > settings.limits.memory_bytes {
        wrong(
            "limits.message_bytes",
            format!(
                "limits.message_bytes ({message}) is more than limits.memory_bytes ({}), which all connections share: \
                 raise limits.memory_bytes",
                settings.limits.memory_bytes
            ),
        );
    }
    let frame = settings.amqp.frame_bytes_max as usize;
    let service = settings.mqtt.config().map(|config| config.limits);
    // What is wrong with it is said elsewhere.
    let service = service.unwrap_or_default();
    let speaks = |protocol: &str| !WEB.contains(&protocol);
    for (protocol, listeners) in settings.listeners.iter().filter(|(name, _)| speaks(name)) {
        for listener in listeners {
            let (path, edge) = (format!("listeners.{protocol}"), &listener.edge);
            let own = listener.mqtt.as_ref();
            let own = own.and_then(|mqtt| mqtt.limits(&service).ok());
            let packet = own.map_or(service.packet_bytes_max, |own| own.packet_bytes_max);
            let (one, setting, largest) = match protocol.as_str() {
                BEANSTALK => ("a job", "beanstalk.job_bytes", job),
                // A message comes in frames: none waits for the rest of it.
                AMQP | AMQP_TLS | AMQP_WEBSOCKET | AMQP_WEBSOCKET_TLS => {
                    ("a frame", "amqp.frame_bytes_max", frame)
                }
                _ => ("a packet", "mqtt.packet_bytes_max", packet as usize),
            };
            let needed = largest.saturating_add(LINE_BYTES);
            if edge.input_max_bytes < needed {
                wrong(
                    &path,
                    format!(
                        "{protocol} on {}: input_max_bytes ({}) leaves no room for {one} of {setting} ({largest}): raise \
                         it above {needed}",
                        listener.address, edge.input_max_bytes
                    ),
                );
            }
            // Other doors than this one, the admin API say, let in messages up to the limit for all.
            if edge.outbox_hard_bytes < message.saturating_add(LINE_BYTES) {
                wrong(
                    &path,
                    format!(
                        "{protocol} on {}: outbox_hard_bytes ({}) leaves no room for a message of limits.message_bytes \
                         ({message}): raise it above {}",
                        listener.address,
                        edge.outbox_hard_bytes,
                        message.saturating_add(LINE_BYTES)
                    ),
                );
            }
            if edge.outbox_soft_bytes > edge.outbox_hard_bytes {
                wrong(
                    &path,
                    format!(
                        "{protocol} on {}: outbox_soft_bytes ({}) is more than outbox_hard_bytes ({}): raise \
                         outbox_hard_bytes",
                        listener.address, edge.outbox_soft_bytes, edge.outbox_hard_bytes
                    ),
                );
            }
        }
    }
}
