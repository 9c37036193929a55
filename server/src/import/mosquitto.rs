//! A Mosquitto configuration as ours.
//!
//! Options come in three kinds: global ones, those of the `listener` line above them, and those of the `connection`
//! line above them (a bridge). The table [`GLOBAL`] says for each global one what it becomes; what is in none of the
//! tables becomes a note.

mod accounts;
mod bridges;
mod lines;
mod listeners;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use toml::Value;

use self::accounts::Access;
use self::bridges::Bridge;
use self::lines::Line;
use self::listeners::Listener;
use super::Imported;

/// What a global option becomes.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// These settings, a number that means the same.
    Number(&'static [&'static str]),
    /// These settings, a number of bytes; 0 means no limit and leaves ours.
    Bytes(&'static [&'static str]),
    /// This setting, `true` or `false`.
    Switch(&'static str),
    /// This setting, the text as it is.
    Text(&'static str),
    /// Nothing: why that loses nothing. Not worth a note.
    Settled,
    /// Nothing: what is different here.
    Not(&'static str),
}

const GLOBAL: &[(&str, Becomes)] = &[
    (
        "max_packet_size",
        Becomes::Bytes(&["mqtt.packet_bytes_max"]),
    ),
    ("max_keepalive", Becomes::Number(&["mqtt.keep_alive_max_s"])),
    (
        "max_inflight_messages",
        Becomes::Number(&["mqtt.window", "mqtt.receive_max"]),
    ),
    (
        "max_queued_messages",
        Becomes::Number(&["mqtt.queue_messages"]),
    ),
    ("max_queued_bytes", Becomes::Bytes(&["mqtt.queue_bytes"])),
    (
        "max_topic_alias",
        Becomes::Number(&["mqtt.topic_aliases_in"]),
    ),
    (
        "max_topic_alias_broker",
        Becomes::Number(&["mqtt.topic_aliases_out"]),
    ),
    ("max_qos", Becomes::Number(&["mqtt.qos_max"])),
    ("retain_available", Becomes::Switch("mqtt.retain_available")),
    (
        "allow_zero_length_clientid",
        Becomes::Switch("mqtt.empty_client_id"),
    ),
    ("auto_id_prefix", Becomes::Text("mqtt.client_id_prefix")),
    ("sys_interval", Becomes::Number(&["mqtt.sys_interval_s"])),
    (
        "queue_qos0_messages",
        Becomes::Not("QoS 0 messages are not kept for clients that are away"),
    ),
    (
        "pid_file",
        Becomes::Not("a service manager knows the process"),
    ),
    (
        "user",
        Becomes::Not("start the server as the user it is to run as"),
    ),
    (
        "log_dest",
        Becomes::Not("the log goes to standard error; see `logging`"),
    ),
    ("log_facility", Becomes::Settled),
    ("log_timestamp", Becomes::Settled),
    ("log_timestamp_format", Becomes::Settled),
    ("connection_messages", Becomes::Settled),
    ("set_tcp_nodelay", Becomes::Settled),
    ("autosave_interval", Becomes::Settled),
    ("autosave_on_changes", Becomes::Settled),
    ("persistence_file", Becomes::Settled),
    ("log_type", Becomes::Not("use `logging.level`")),
    (
        "memory_limit",
        Becomes::Not("use `limits.memory_bytes`, which bounds the connections' memory"),
    ),
    ("upgrade_outgoing_qos", Becomes::Switch("mqtt.upgrade_qos")),
    // What has expired is forgotten within a second.
    ("retain_expiry_interval", Becomes::Settled),
    (
        "check_retain_source",
        Becomes::Switch("mqtt.retain_source_checked"),
    ),
    (
        "global_max_clients",
        Becomes::Number(&["mqtt.sessions_max"]),
    ),
    (
        "global_max_connections",
        Becomes::Number(&["limits.connections_max"]),
    ),
    (
        "message_size_limit",
        Becomes::Not("use `mqtt.packet_bytes_max`, which counts the whole packet"),
    ),
    (
        "max_inflight_bytes",
        Becomes::Not("what is in flight is bounded by `mqtt.window` messages"),
    ),
    (
        "proxy_protocol_v2_require_tls",
        Becomes::Not("whether a proxy's client came over TLS is not asked"),
    ),
    (
        "disable_client_cert_date_checks",
        Becomes::Not("certificates that are out of date are refused"),
    ),
    (
        "use_username_as_clientid",
        Becomes::Not("give each account its `client_id`"),
    ),
    // Names that a rule cannot do without are refused if they have a separator in them.
    ("auth_plugin_deny_special_chars", Becomes::Settled),
    ("enable_control_api", Becomes::Settled),
    ("packet_buffer_size", Becomes::Settled),
    ("websockets_headers_size", Becomes::Settled),
    ("websockets_log_level", Becomes::Not("use `logging.level`")),
];

/// Options that name plug-ins.
const PLUGINS: &[&str] = &[
    "plugin",
    "plugin_load",
    "plugin_use",
    "global_plugin",
    "auth_plugin",
];

/// How the file of the plug-in that is built in here is called, on any system.
const DYNAMIC_SECURITY: &str = "mosquitto_dynamic_security";

/// What has been read so far.
#[derive(Default)]
struct Reader {
    out: Imported,
    access: Access,
    listeners: Vec<Listener>,
    bridges: Vec<Bridge>,
    /// Whether the lines that follow belong to the last bridge.
    in_bridge: bool,
    /// What the file says about clients without a name, if it does.
    anonymous: Option<bool>,
    /// Options of accounts are about the listener above them.
    per_listener: bool,
    /// The last plug-in is dynamic security, which is built in here.
    is_dynamic: bool,
    /// And is there at all.
    has_dynamic: bool,
}

/// Reads a configuration with all files it names.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn import(file: &Path) -> anyhow::Result<Imported> {
    let mut reader = Reader::default();
    for line in lines::read(file)? {
        reader.read(&line);
    }
    reader.finish()
}

/// A time as `persistent_client_expiration` has it, in seconds that fit into a session expiry.
fn seconds(value: &str) -> Option<i64> {
    let at = value.len().checked_sub(1)?;
    let (number, unit) = value.split_at_checked(at)?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 24 * 7,
        "m" => 24 * 30,
        "y" => 24 * 365,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    let seconds = i64::from(number).checked_mul(hours * 3600)?;
    // The longest is for ever.
    Some(seconds.min(i64::from(u32::MAX)))
}

impl Reader {
    fn read(&mut self, line: &Line) {
        match line.keyword.as_str() {
            "connection" => {
                self.in_bridge = true;
                self.bridges.push(Bridge::named(&line.value));
            }
            "listener" => {
                self.in_bridge = false;
                match Listener::named(&line.value) {
                    Ok(listener) => self.listeners.push(listener),
                    Err(why) => self.note(line, why),
                }
            }
            keyword if self.in_bridge => {
                let bridge = self.bridges.last_mut();
                let taken = bridge.map(|bridge| bridge.option(keyword, &line.value));
                match taken {
                    Some(bridges::Taken::Yes) => {}
                    Some(bridges::Taken::But(why)) => self.note(line, why),
                    // Global options may stand anywhere.
                    Some(bridges::Taken::No) | None => self.read_global(line),
                }
            }
            "port" => match Listener::named(&line.value) {
                Ok(listener) => self.listeners.insert(0, listener),
                Err(why) => self.note(line, why),
            },
            "allow_anonymous" => {
                let allowed = line.value == "true";
                match self.listeners.last_mut().filter(|_| self.per_listener) {
                    Some(listener) => listener.anonymous = Some(allowed),
                    None => self.anonymous = Some(self.anonymous.unwrap_or(false) || allowed),
                }
            }
            "allow_zero_length_clientid" | "auto_id_prefix"
                if self.per_listener && !self.listeners.is_empty() =>
            {
                if let Some(listener) = self.listeners.last_mut() {
                    if line.keyword == "auto_id_prefix" {
                        listener.tell("client_id_prefix", line.value.as_str());
                    } else {
                        listener.tell("empty_client_id", line.value == "true");
                    }
                }
            }
            "per_listener_settings" => self.per_listener = line.value == "true",
            "password_file" | "acl_file" if self.per_listener => {
                self.access_file(line);
                self.note(line, "accounts are the server's, at all listeners");
            }
            "password_file" | "acl_file" => self.access_file(line),
            "clientid_prefixes" => {
                let prefixes = Value::Array(vec![line.value.as_str().into()]);
                self.out.set("mqtt.client_id_prefixes", prefixes);
            }
            "allow_duplicate_messages" => {
                let overlap = match line.value.as_str() {
                    "false" => "merge",
                    _ => "each",
                };
                self.out.set("mqtt.overlap", overlap);
            }
            "persistent_client_expiration" => match seconds(&line.value) {
                Some(seconds) => {
                    for path in ["mqtt.session_expiry_max_s", "mqtt.session_expiry_v3_s"] {
                        self.out.set(path, seconds);
                    }
                }
                None => self.note(line, "a number with h, d, w, m or y is expected"),
            },
            // No limit: ours stays.
            "global_max_clients" | "global_max_connections" if line.value == "-1" => {}
            "max_inflight_bytes" if line.value == "0" => {}
            "persistence" if line.value == "false" => self.out.set("durability", "memory"),
            "persistence" => {}
            "persistence_location" => self.out.set("data", line.value.as_str()),
            keyword if PLUGINS.contains(&keyword) && line.value.contains(DYNAMIC_SECURITY) => {
                (self.is_dynamic, self.has_dynamic) = (true, true);
            }
            "plugin_opt_config_file" if self.is_dynamic => {
                self.out
                    .set("mqtt.dynamic_security_file", line.value.as_str());
            }
            keyword
                if PLUGINS.contains(&keyword)
                    || keyword.starts_with("plugin_opt_")
                    || keyword.starts_with("auth_opt_") =>
            {
                self.is_dynamic &= !PLUGINS.contains(&keyword);
                self.note(
                    line,
                    "plug-ins do not run here; embed the broker to use hooks",
                );
            }
            _ => self.read_setting(line),
        }
    }

    fn access_file(&mut self, line: &Line) {
        let file = Some((line.place.clone(), PathBuf::from(&line.value)));
        if line.keyword == "acl_file" {
            self.access.acl_file = file;
        } else {
            self.access.password_file = file;
        }
    }

    fn read_setting(&mut self, line: &Line) {
        if let Some(listener) = self.listeners.last_mut() {
            match listener.option(&line.keyword, &line.value) {
                listeners::Taken::Yes => return,
                listeners::Taken::Identity => {
                    self.access.certificate_names = true;
                    return;
                }
                listeners::Taken::But(why) => return self.note(line, why),
                listeners::Taken::No => {}
            }
        }
        self.read_global(line);
    }

    fn read_global(&mut self, line: &Line) {
        let known = GLOBAL.iter().find(|(keyword, _)| *keyword == line.keyword);
        match known.map(|(_, becomes)| *becomes) {
            None => self.note(line, "not known here"),
            Some(Becomes::Settled) => {}
            Some(Becomes::Not(why)) => self.note(line, why),
            Some(Becomes::Text(path)) => self.out.set(path, line.value.as_str()),
            Some(Becomes::Switch(path)) => self.out.set(path, line.value == "true"),
            Some(Becomes::Bytes(_)) if line.value == "0" => {}
            Some(Becomes::Number(paths) | Becomes::Bytes(paths)) => self.set_number(line, paths),
        }
    }

    fn set_number(&mut self, line: &Line, paths: &[&str]) {
        let Ok(number) = line.value.parse::<i64>() else {
            return self.note(line, "not a number");
        };
        for path in paths {
            self.out.set(path, number);
        }
    }

    fn note(&mut self, line: &Line, why: impl AsRef<str>) {
        let text = format!("{} {}: {}", line.keyword, line.value, why.as_ref());
        self.out.note(&line.place, text);
    }

    fn finish(mut self) -> anyhow::Result<Imported> {
        self.out.set("mqtt.profile", "mosquitto");
        // Without a listener Mosquitto serves this machine and asks for no name.
        let local_only = self.listeners.is_empty();
        let anonymous = self.anonymous.unwrap_or(local_only);
        let here = |listener: &Listener| listener.anonymous.unwrap_or(anonymous);
        self.access.anonymous = anonymous || self.listeners.iter().any(here);
        if self.access.anonymous || self.has_dynamic {
            for listener in &mut self.listeners {
                if !listener.anonymous.unwrap_or(anonymous) {
                    listener.tell("anonymous", "");
                }
            }
        }
        let wants_accounts =
            self.access.password_file.is_some() || self.access.acl_file.is_some() || !local_only;
        // Its clients, and its group of those without a name, are all there are.
        let wants_accounts =
            wants_accounts && !(self.has_dynamic && self.access.password_file.is_none());
        if wants_accounts {
            accounts::import(&self.access, &mut self.out)?;
        }
        // Where Mosquitto does not listen, neither does what is made of it.
        for protocol in ["amqp", "beanstalk", "mqtt-ws"] {
            self.out
                .set(&format!("listeners.{protocol}"), Value::Array(Vec::new()));
        }
        if !local_only {
            self.out.set("listeners.mqtt", Value::Array(Vec::new()));
        }
        for (protocol, listeners) in listeners::by_protocol(self.listeners) {
            let path = format!("listeners.{protocol}");
            self.out.set(&path, Value::Array(listeners));
        }
        if !self.bridges.is_empty() {
            let bridges = self.bridges.into_iter().map(Bridge::into_table);
            let bridges = bridges.map(Value::Table).collect();
            self.out.set("bridges", Value::Array(bridges));
        }
        Ok(self.out)
    }
}
