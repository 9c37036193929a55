//! The list of all settings: path, type, default, effect.
//!
//! A key that is not here does not exist. A new setting is one line in `keys`, or in `listeners` when each listener has its
//! own, and one field in `settings.rs`; the tests hold the two together.

mod keys;
mod listeners;

pub(crate) use keys::KEYS;
pub(crate) use listeners::LISTENER_KEYS;

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A path.
    Path,
    /// `true` or `false`.
    Switch,
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// A size in bytes: an integer, or text as in "64MiB", from the first to the second.
    Bytes(i64, i64),
    /// A time in milliseconds: an integer, or text as in "50ms" or "10s", from the first to the second.
    Millis(i64, i64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `HOST:PORT`, `unix:PATH` or "off".
    AddressOrOff,
    /// One or more listeners: text, table, or a list of either.
    Listeners,
    /// A list of words.
    Texts,
    /// A table with these keys.
    Table(&'static [Key]),
    /// A list of tables that the broker reads itself.
    Documents,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Key {
    /// Its path, with dots.
    pub(crate) path: &'static str,
    /// Its type.
    pub(crate) kind: Kind,
    /// Its default as TOML; `None`: absent.
    pub(crate) default: Option<&'static str>,
    /// What it does.
    pub(crate) help: &'static str,
}

const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
const HOUR: i64 = 3_600_000;

/// `mqtt.share_strategy`.
const SHARE_STRATEGIES: &[&str] = &[
    "round-robin",
    "random",
    "sticky",
    "hash-topic",
    "hash-client-id",
    "least-in-flight",
];

/// Protocols this build speaks, with the address each listens on by default, if it does.
pub(crate) const PROTOCOLS: &[(&str, Option<&str>)] = &[
    (BEANSTALK, Some("127.0.0.1:11300")),
    (AMQP, Some("127.0.0.1:5672")),
    (AMQP_TLS, None),
    (AMQP_WEBSOCKET, None),
    (AMQP_WEBSOCKET_TLS, None),
    (AMQP_MANAGEMENT, Some("127.0.0.1:15672")),
    (AMQP_METRICS, Some("127.0.0.1:15692")),
    (MQTT, Some("127.0.0.1:1883")),
    (MQTT_TLS, None),
    (MQTT_WEBSOCKET, Some("127.0.0.1:8083")),
    (MQTT_WEBSOCKET_TLS, None),
    (MQTT_HTTP, Some("127.0.0.1:18083")),
];

/// beanstalkd's protocol.
pub(crate) const BEANSTALK: &str = "beanstalk";

/// AMQP 0-9-1.
pub(crate) const AMQP: &str = "amqp";

/// AMQP 0-9-1 over TLS.
pub(crate) const AMQP_TLS: &str = "amqps";

/// AMQP 0-9-1 inside WebSocket.
pub(crate) const AMQP_WEBSOCKET: &str = "amqp-ws";

/// The same over TLS.
pub(crate) const AMQP_WEBSOCKET_TLS: &str = "amqp-wss";

/// The HTTP API that RabbitMQ's tools manage AMQP with.
pub(crate) const AMQP_MANAGEMENT: &str = "amqp-management";

/// Metrics under RabbitMQ's names.
pub(crate) const AMQP_METRICS: &str = "amqp-metrics";

/// MQTT of all versions.
pub(crate) const MQTT: &str = "mqtt";

/// MQTT over TLS.
pub(crate) const MQTT_TLS: &str = "mqtts";

/// MQTT inside WebSocket.
pub(crate) const MQTT_WEBSOCKET: &str = "mqtt-ws";

/// The same over TLS.
pub(crate) const MQTT_WEBSOCKET_TLS: &str = "mqtt-wss";

/// The HTTP APIs of other MQTT brokers.
pub(crate) const MQTT_HTTP: &str = "mqtt-http";

/// Listeners that answer HTTP: they have an address, and perhaps TLS.
pub(crate) const WEB: [&str; 3] = [AMQP_MANAGEMENT, AMQP_METRICS, MQTT_HTTP];

/// Name of the admin service in `--listen`.
pub(crate) const ADMIN: &str = "admin";

const fn key(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        help,
    }
}

/// Paths below this section name protocols.
pub(crate) const LISTENERS: &str = "listeners";

/// The kind of the value at `path`; `None` when there is no such setting.
pub(crate) fn kind_of(path: &str) -> Option<Kind> {
    if let Some(protocol) = path.strip_prefix("listeners.") {
        return is_protocol(protocol).then_some(Kind::Listeners);
    }
    KEYS.iter().find(|key| key.path == path).map(|key| key.kind)
}

/// Whether this build speaks `name`.
pub(crate) fn is_protocol(name: &str) -> bool {
    PROTOCOLS.iter().any(|(protocol, _)| *protocol == name)
}

/// The protocols of this build, for messages.
pub(crate) fn protocol_names() -> String {
    PROTOCOLS
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether settings lie below `path`.
pub(crate) fn is_section(path: &str) -> bool {
    path == LISTENERS
        || KEYS.iter().any(|key| {
            key.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        })
}

/// What to say about a path that does not exist.
pub(crate) fn unknown(path: &str) -> String {
    use super::suggest::{hint, nearest};
    if let Some(protocol) = path.strip_prefix("listeners.") {
        let near = hint(protocol, PROTOCOLS.iter().map(|(name, _)| *name));
        let known = if near.is_empty() {
            format!(": this build speaks {}", protocol_names())
        } else {
            near
        };
        return format!("unknown protocol `{protocol}`{known}");
    }
    let leaf = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let paths = || KEYS.iter().map(|key| key.path).chain([LISTENERS]);
    // The right name in the wrong section, then a slip in the whole path, then a slip in the name.
    let name = path.rsplit('.').next().unwrap_or(path);
    let found = paths()
        .find(|candidate| leaf(candidate) == name)
        .or_else(|| nearest(path, paths()))
        .or_else(|| paths().find(|candidate| nearest(name, [leaf(candidate)]).is_some()));
    let sections = KEYS
        .iter()
        .filter_map(|key| key.path.split_once('.').map(|(section, _)| section));
    match found {
        Some(found) => format!("unknown key `{path}`: did you mean `{found}`?"),
        None => format!("unknown key `{path}`{}", hint(path, sections)),
    }
}
