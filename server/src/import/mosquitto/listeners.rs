//! `listener` sections.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// One listener under construction.
#[derive(Debug, Default)]
pub(super) struct Listener {
    port: u16,
    host: Option<String>,
    /// For port 0.
    unix: Option<String>,
    websockets: bool,
    tls: Table,
    keys: Table,
    /// What its clients find here and not at other listeners.
    mqtt: Table,
    /// Whether clients without a name are let in here, if the file says so.
    pub(super) anonymous: Option<bool>,
}

/// What became of an option.
pub(super) enum Taken {
    Yes,
    /// Names in client certificates are users.
    Identity,
    /// It is a listener's option, and has no counterpart.
    But(&'static str),
    /// It is not a listener's option.
    No,
}

impl Listener {
    /// From the value of a `listener` line: `PORT [ADDRESS]`, or `0 PATH`.
    pub(super) fn named(value: &str) -> Result<Self, String> {
        let mut words = value.split_whitespace();
        let port = words.next().and_then(|port| port.parse().ok());
        let port: u16 = port.ok_or_else(|| "the port is not a number".to_owned())?;
        let place = words.next().map(str::to_owned);
        let mut listener = Listener {
            port,
            ..Listener::default()
        };
        match (port, place) {
            (0, Some(path)) => listener.unix = Some(path),
            (0, None) => return Err("port 0 means switched off: there is no listener".to_owned()),
            (_, host) => listener.host = host,
        }
        Ok(listener)
    }

    /// Takes one option of its section.
    pub(super) fn option(&mut self, keyword: &str, value: &str) -> Taken {
        let text = || Value::String(value.to_owned());
        match (keyword, value) {
            ("protocol", "mqtt")
            | (
                "require_certificate" | "use_identity_as_username" | "use_subject_as_username",
                "false",
            ) => {}
            ("protocol", "websockets") => self.websockets = true,
            ("protocol", _) => {
                return Taken::But(
                    "only mqtt and websockets are carried over; for http_api there is [[listeners.mqtt-http]]",
                );
            }
            ("bind_address", _) => self.host = Some(value.to_owned()),
            ("max_connections", _) => {
                // -1 is no limit: ours stays.
                if let Ok(limit) = value.parse::<u32>() {
                    let limit = Value::Integer(i64::from(limit));
                    self.keys.insert("connections_max".to_owned(), limit);
                }
            }
            ("certfile", _) => {
                self.tls.insert("certificate".to_owned(), text());
            }
            ("keyfile", _) => {
                self.tls.insert("key".to_owned(), text());
            }
            ("cafile", _) => {
                self.tls.insert("client_authorities".to_owned(), text());
            }
            ("crlfile", _) => {
                self.tls.insert("client_revocations".to_owned(), text());
            }
            ("require_certificate", "true") => {
                let required = Value::from("required");
                self.tls.insert("client_certificates".to_owned(), required);
            }
            ("use_identity_as_username", "true") => return Taken::Identity,
            ("use_subject_as_username", _) => {
                return Taken::But(
                    "accounts are named by the names in a certificate, not its subject",
                );
            }
            ("websockets_origin", _) => {
                let mut websocket = Table::new();
                let origins = value.split_whitespace().map(Value::from).collect();
                websocket.insert("origins".to_owned(), Value::Array(origins));
                self.keys
                    .insert("websocket".to_owned(), Value::Table(websocket));
            }
            ("enable_proxy_protocol", _) => {
                return Taken::But("name the proxies in `proxy.trusted` of the listener");
            }
            ("mount_point", _) if value.starts_with('$') || value.contains(['+', '#']) => {
                return Taken::But("a mount point has no wildcards and does not begin with $");
            }
            // A percent sign is none of our placeholders.
            ("mount_point", _) => self.tell("mount_point", value.replace('%', "%%")),
            ("accept_protocol_versions", _) => match versions(value) {
                Some(versions) => self.tell("versions", versions),
                None => return Taken::But("the versions are 3, 4 and 5"),
            },
            ("max_qos" | "max_topic_alias" | "max_topic_alias_broker", _) => {
                let Ok(number) = value.parse::<i64>() else {
                    return Taken::But("not a number");
                };
                let key = match keyword {
                    "max_qos" => "qos_max",
                    "max_topic_alias" => "topic_aliases_in",
                    _ => "topic_aliases_out",
                };
                self.tell(key, number);
            }
            ("listener_auto_id_prefix", _) => self.tell("client_id_prefix", value),
            ("listener_allow_anonymous", _) => self.anonymous = Some(value == "true"),
            ("capath", _) => {
                return Taken::But("put the authorities into one file: `tls.client_authorities`");
            }
            ("psk_file" | "psk_hint", _) => {
                return Taken::But(
                    "TLS with pre-shared keys is not spoken: use certificates (`tls.client_certificates`), or a TLS proxy in front of a plain listener",
                );
            }
            (
                "ciphers" | "ciphers_tls1.3" | "tls_version" | "dhparamfile" | "tls_engine"
                | "tls_keyform",
                _,
            ) => return Taken::But("TLS 1.2 and 1.3 with rustls' ciphers"),
            ("http_dir", _) => return Taken::But("no files are served"),
            ("socket_domain" | "bind_interface", _) => {
                return Taken::But("give the address that is to be listened on");
            }
            _ => return Taken::No,
        }
        Taken::Yes
    }

    /// Something that its clients find.
    pub(super) fn tell(&mut self, key: &str, value: impl Into<Value>) {
        self.mqtt.insert(key.to_owned(), value.into());
    }

    fn finish(mut self) -> (&'static str, Value) {
        let protocol = match (self.websockets, self.tls.is_empty()) {
            (false, true) => "mqtt",
            (false, false) => "mqtts",
            (true, true) => "mqtt-ws",
            (true, false) => "mqtt-wss",
        };
        let address = match (self.unix, self.host) {
            (Some(path), _) => format!("unix:{path}"),
            (None, Some(host)) if host.contains(':') => format!("[{host}]:{}", self.port),
            (None, Some(host)) => format!("{host}:{}", self.port),
            (None, None) => format!("[::]:{}", self.port),
        };
        self.keys.insert("address".to_owned(), address.into());
        if !self.tls.is_empty() {
            // Mosquitto reads the authorities also when it asks for no certificate.
            if !self.tls.contains_key("client_certificates") {
                self.tls.remove("client_authorities");
                self.tls.remove("client_revocations");
            }
            self.keys.insert("tls".to_owned(), Value::Table(self.tls));
        }
        if !self.mqtt.is_empty() {
            self.keys.insert("mqtt".to_owned(), Value::Table(self.mqtt));
        }
        (protocol, Value::Table(self.keys))
    }
}

/// Protocol levels, separated by commas, as our words for the versions.
fn versions(levels: &str) -> Option<Vec<Value>> {
    let levels = levels.split(',').map(|level| match level.trim() {
        "3" => Some(Value::from("3.1")),
        "4" => Some(Value::from("3.1.1")),
        "5" => Some(Value::from("5.0")),
        _ => None,
    });
    levels.collect()
}

/// The listeners by the name of their protocol.
pub(super) fn by_protocol(listeners: Vec<Listener>) -> BTreeMap<&'static str, Vec<Value>> {
    let mut protocols: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for listener in listeners {
        let (protocol, table) = listener.finish();
        protocols.entry(protocol).or_default().push(table);
    }
    protocols
}
