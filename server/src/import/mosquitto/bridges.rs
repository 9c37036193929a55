//! `connection` sections.

use toml::{Table, Value};

/// One bridge under construction.
#[derive(Debug, Default)]
pub(super) struct Bridge {
    keys: Table,
    tls: Table,
    topics: Vec<Value>,
}

/// What became of an option.
pub(super) enum Taken {
    Yes,
    /// It is carried over with a difference, or not at all.
    But(&'static str),
    /// It is not known.
    No,
}

/// Options that are the same number, and what they become.
const NUMBERS: &[(&str, &str)] = &[
    ("keepalive_interval", "keep_alive_s"),
    ("bridge_max_packet_size", "packet_bytes_max"),
    ("bridge_session_expiry_interval", "session_expiry_s"),
];

/// Options that are the same switch.
const SWITCHES: &[(&str, &str)] = &[
    ("cleansession", "clean_start"),
    ("notifications", "notifications"),
    ("notifications_local_only", "notifications_local_only"),
    ("try_private", "bridge_bit"),
    ("bridge_outgoing_retain", "outgoing_retain"),
];

/// Options that are the same text.
const TEXTS: &[(&str, &str)] = &[
    ("clientid", "client_id"),
    ("remote_clientid", "client_id"),
    ("username", "username"),
    ("remote_username", "username"),
    ("password", "password"),
    ("remote_password", "password"),
    ("notification_topic", "notification_topic"),
];

/// Options of TLS.
const TLS: &[(&str, &str)] = &[
    ("bridge_cafile", "authorities"),
    ("bridge_certfile", "certificate"),
    ("bridge_keyfile", "key"),
    ("bridge_alpn", "alpn"),
];

/// What has no counterpart, and why.
const NOT: &[(&str, &str)] = &[
    (
        "local_clientid",
        "the local side of a bridge is no client here",
    ),
    (
        "local_username",
        "the local side of a bridge is no client here: it may publish and read what its topics say",
    ),
    (
        "local_password",
        "the local side of a bridge is no client here",
    ),
    (
        "local_cleansession",
        "messages at QoS 1 and 2 always wait for the other broker",
    ),
    ("start_type", "bridges start with the server"),
    ("idle_timeout", "bridges stay connected"),
    ("threshold", "bridges stay connected"),
    (
        "round_robin",
        "the first address is preferred, the others are tried in turn",
    ),
    (
        "bridge_attempt_unsubscribe",
        "what the other broker still has of earlier subscriptions is not ended",
    ),
    ("bridge_max_topic_alias", "bridges use no topic aliases"),
    ("bridge_bind_address", "the system chooses"),
    ("bridge_tcp_keepalive", "the keep alive of MQTT is enough"),
    (
        "bridge_tcp_user_timeout",
        "the keep alive of MQTT is enough",
    ),
    ("bridge_reload_type", "bridges change with a restart"),
    (
        "bridge_capath",
        "put the authorities into one file: `tls.authorities`",
    ),
    (
        "bridge_tls_use_os_certs",
        "name the file of the system's authorities in `tls.authorities`",
    ),
    ("bridge_ciphers", "the ciphers are those of the TLS library"),
    ("bridge_tls_version", "TLS 1.2 and 1.3 are spoken"),
    (
        "bridge_insecure",
        "certificates are always checked; `tls.server_name` says whose",
    ),
    ("bridge_identity", "TLS with shared keys is not spoken"),
    ("bridge_psk", "TLS with shared keys is not spoken"),
    ("bridge_require_ocsp", "stapled answers are not asked for"),
];

impl Bridge {
    /// From the value of a `connection` line.
    pub(super) fn named(name: &str) -> Self {
        let mut bridge = Bridge::default();
        bridge.set("name", name);
        bridge
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.insert(key.to_owned(), value.into());
    }

    /// Takes one option of its section.
    pub(super) fn option(&mut self, keyword: &str, value: &str) -> Taken {
        let of = |table: &'static [(&'static str, &'static str)]| {
            let mut rows = table.iter();
            rows.find(|(known, _)| *known == keyword)
                .map(|(_, becomes)| *becomes)
        };
        if let Some(key) = of(NUMBERS) {
            return match value.parse::<i64>() {
                // No limit: ours stays.
                Ok(0) if keyword == "bridge_max_packet_size" => Taken::Yes,
                Ok(number) => {
                    self.set(key, number);
                    Taken::Yes
                }
                Err(_) => Taken::But("not a number"),
            };
        }
        if let Some(key) = of(SWITCHES) {
            self.set(key, value == "true");
            return Taken::Yes;
        }
        if let Some(key) = of(TEXTS) {
            self.set(key, value);
            return Taken::Yes;
        }
        if let Some(key) = of(TLS) {
            self.tls.insert(key.to_owned(), value.into());
            return Taken::Yes;
        }
        if let Some(why) = of(NOT) {
            return Taken::But(why);
        }
        match keyword {
            "address" | "addresses" => self.addresses(value),
            "topic" => match topic(value) {
                Ok(topic) => self.topics.push(Value::Table(topic)),
                Err(why) => return Taken::But(why),
            },
            "bridge_protocol_version" => match value {
                "mqttv50" => self.set("protocol", "5"),
                "mqttv311" => self.set("protocol", "3.1.1"),
                "mqttv31" => {
                    self.set("protocol", "3.1.1");
                    return Taken::But("bridges speak 3.1.1 at least");
                }
                _ => return Taken::But("not a version"),
            },
            "restart_timeout" => return self.restart(value),
            "bridge_receive_maximum" => match value.parse::<i64>() {
                Ok(number) => self.set("window", number.clamp(1, 1000)),
                Err(_) => return Taken::But("not a number"),
            },
            _ => return Taken::No,
        }
        Taken::Yes
    }

    fn addresses(&mut self, value: &str) {
        let address = |text: &str| {
            let has_port = text
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let text = if has_port {
                text.to_owned()
            } else {
                format!("{text}:1883")
            };
            Value::String(text)
        };
        let list: Vec<Value> = value.split_whitespace().map(address).collect();
        self.set("addresses", Value::Array(list));
    }

    fn restart(&mut self, value: &str) -> Taken {
        let mut seconds = Vec::new();
        for word in value.split_whitespace() {
            match word.parse::<i64>() {
                Ok(number) => seconds.push(number.saturating_mul(1000)),
                Err(_) => return Taken::But("not a number"),
            }
        }
        match *seconds {
            // A fixed time.
            [base] => {
                self.set("restart_ms", base);
                self.set("restart_max_ms", base);
            }
            [base, cap] => {
                self.set("restart_ms", base);
                self.set("restart_max_ms", cap.max(base));
            }
            [base, cap, _] => {
                self.set("restart_ms", base);
                self.set("restart_max_ms", cap.max(base));
                return Taken::But("a connection counts as stable at once");
            }
            _ => return Taken::But("needs a time in seconds"),
        }
        Taken::Yes
    }

    /// As one of `[[bridges]]`.
    pub(super) fn into_table(mut self) -> Table {
        if !self.tls.is_empty() {
            self.keys.insert("tls".to_owned(), Value::Table(self.tls));
        }
        // Mosquitto speaks 3.1.1 unless it is told otherwise.
        self.keys
            .entry("protocol")
            .or_insert_with(|| Value::from("3.1.1"));
        self.keys
            .insert("topics".to_owned(), Value::Array(self.topics));
        self.keys
    }
}

/// `PATTERN [DIRECTION [QOS [LOCAL_PREFIX [REMOTE_PREFIX]]]]`; `""` is nothing.
fn topic(value: &str) -> Result<Table, &'static str> {
    let words = words(value).ok_or("a quote is not closed")?;
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut topic = Table::new();
    topic.insert("filter".to_owned(), word(0).into());
    let direction = match word(1) {
        "" => "out",
        known @ ("in" | "out" | "both") => known,
        _ => return Err("the direction is in, out or both"),
    };
    topic.insert("direction".to_owned(), direction.into());
    let qos = match word(2) {
        "" => 0,
        text => text.parse::<i64>().map_err(|_| "the QoS is not a number")?,
    };
    if !(0..=2).contains(&qos) {
        return Err("the QoS is 0, 1 or 2");
    }
    topic.insert("qos".to_owned(), qos.into());
    for (at, key) in [(3, "local_prefix"), (4, "remote_prefix")] {
        if !word(at).is_empty() {
            topic.insert(key.to_owned(), word(at).into());
        }
    }
    if words.len() > 5 {
        return Err("there are more than five words");
    }
    Ok(topic)
}

/// Words, of which those in quotes may have spaces; `None` when a quote is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_once([' ', '\t']).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = behind.trim_start();
    }
    Some(words)
}
