//! The settings as the server reads them: checked, typed, in canonical units.

use std::collections::BTreeMap;
use std::path::PathBuf;

use longtail_amqp::StaticShovel;
use longtail_broker::BrokerConfig;
use longtail_broker::auth::{AuthDocument, Directory};
use longtail_broker::retained::RetainedLimits;
use longtail_edge::{EdgeConfig, ListenerConfig};
use longtail_model::Durability;
use longtail_mqtt::bridge::BridgeConfig;
use serde::{Deserialize, Deserializer, de};
use toml::{Table, Value};

use super::address::{AddressError, ListenAddress};
use super::error::Problem;
use super::mqtt::{MqttListener, MqttSettings};
use super::origin::Origin;

/// Everything that can be configured. Keys, units and defaults: `longtail config default`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The data directory.
    pub(crate) data: PathBuf,
    /// What an acknowledgement means.
    #[serde(deserialize_with = "durability")]
    pub(crate) durability: Durability,
    /// Milliseconds between syncs with [`Durability::Interval`].
    pub(crate) interval_ms: u64,
    /// Number of logs of a new data directory; 0: one a core.
    pub(crate) shards: u16,
    /// Threads for connections; 0: one a core.
    pub(crate) workers: usize,
    /// The log.
    pub(crate) log: LogSettings,
    /// Limits over all protocols.
    pub(crate) limits: LimitSettings,
    /// Listeners by protocol.
    #[serde(default)]
    pub(crate) listeners: BTreeMap<String, Vec<Listener>>,
    /// The HTTP service.
    pub(crate) admin: AdminSettings,
    /// The beanstalk protocol.
    pub(crate) beanstalk: BeanstalkSettings,
    /// AMQP 0-9-1.
    pub(crate) amqp: AmqpSettings,
    /// MQTT.
    pub(crate) mqtt: MqttSettings,
    /// The server's own log.
    pub(crate) logging: LoggingSettings,
    /// Accounts, as written; the broker's `AuthDocument` knows what is in them.
    #[serde(default)]
    pub(crate) accounts: Vec<Table>,
    /// Spaces, as written; likewise.
    #[serde(default)]
    pub(crate) spaces: Vec<Table>,
    /// Issuers of tokens, as written; likewise.
    #[serde(default)]
    pub(crate) tokens: Vec<Table>,
    /// Bridges, as written; `longtail_mqtt::bridge::BridgeConfig` knows what is in them.
    #[serde(default)]
    pub(crate) bridges: Vec<Table>,
    /// Account of clients without credentials; empty: there is none.
    pub(crate) anonymous: String,
}

/// `log.*`; for every shard.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogSettings {
    pub(crate) segment_bytes: u64,
    pub(crate) tail_bytes: u64,
    pub(crate) index_bytes: u64,
}

/// `limits.*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitSettings {
    pub(crate) connections_max: usize,
    pub(crate) message_bytes: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) memory_streams_bytes: u64,
    pub(crate) streams_max: u64,
    pub(crate) retained_messages_max: usize,
    pub(crate) retained_bytes: u64,
    pub(crate) drain_ms: u64,
}

/// `admin.*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminSettings {
    /// `None`: off.
    #[serde(deserialize_with = "address_or_off")]
    pub(crate) listen: Option<ListenAddress>,
    /// Empty: none asked for.
    pub(crate) token: String,
    pub(crate) metrics_streams_max: usize,
}

/// `beanstalk.*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeanstalkSettings {
    pub(crate) space: String,
    pub(crate) job_bytes: usize,
    pub(crate) drain: bool,
}

/// `amqp.*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct AmqpSettings {
    pub(crate) space: String,
    pub(crate) message_bytes: u64,
    pub(crate) frame_bytes_max: u32,
    pub(crate) channels_max: u16,
    pub(crate) heartbeat_s: u16,
    pub(crate) consumer_timeout_ms: u64,
    pub(crate) strict: bool,
    pub(crate) qos_updates_existing: bool,
    pub(crate) disk_free_bytes_min: u64,
    pub(crate) memory_percent_max: u8,
    pub(crate) product: String,
    pub(crate) subjects_exchange: String,
    pub(crate) management_version: String,
    /// Empty: none.
    pub(crate) definitions: String,
    /// As written; `longtail_amqp::StaticShovel` knows what is in them.
    #[serde(default)]
    pub(crate) shovels: Vec<Table>,
}

impl AmqpSettings {
    /// The shovels, checked by the service's own rules.
    ///
    /// # Errors
    /// What is wrong with which.
    pub(crate) fn shovels(&self) -> Result<Vec<StaticShovel>, String> {
        let mut shovels: Vec<StaticShovel> = Vec::new();
        for (at, table) in self.shovels.iter().enumerate() {
            let read = Value::Table(table.clone()).try_into::<StaticShovel>();
            let shovel =
                read.map_err(|error| format!("amqp.shovels[{at}]: {}", error.message()))?;
            if shovels.iter().any(|known| known.name() == shovel.name()) {
                return Err(format!("there are two shovels \"{}\"", shovel.name()));
            }
            shovels.push(shovel);
        }
        Ok(shovels)
    }

    /// As the service takes them.
    pub(crate) fn config(&self) -> longtail_amqp::Config {
        longtail_amqp::Config {
            space: self.space.as_str().into(),
            message_bytes_max: self.message_bytes,
            frame_max: self.frame_bytes_max,
            channel_max: self.channels_max,
            heartbeat_s: self.heartbeat_s,
            consumer_timeout_ms: self.consumer_timeout_ms,
            strict: self.strict,
            qos_updates_existing: self.qos_updates_existing,
            disk_free_bytes_min: self.disk_free_bytes_min,
            memory_percent_max: self.memory_percent_max,
            product: self.product.clone(),
            subjects_exchange: Some(self.subjects_exchange.clone()).filter(|name| !name.is_empty()),
            management_version: self.management_version.clone(),
            ..longtail_amqp::Config::default()
        }
    }
}

/// `logging.*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoggingSettings {
    pub(crate) format: LogFormat,
    /// An env-filter directive.
    pub(crate) level: String,
    /// Whether lines are published as messages of MQTT too.
    pub(crate) topics: bool,
}

/// The form of the server's own log.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// One listener of a protocol.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(try_from = "Table")]
pub(crate) struct Listener {
    /// Where.
    pub(crate) address: ListenAddress,
    /// Account of every connection; `None`: as the client authenticates.
    pub(crate) account: Option<String>,
    /// What clients of MQTT find here in place of what `mqtt.*` says.
    pub(crate) mqtt: Option<MqttListener>,
    /// Everything else, as the edge wants it.
    pub(crate) edge: ListenerConfig,
}

impl Settings {
    /// What the broker is opened with.
    pub(crate) fn broker(&self) -> BrokerConfig {
        let defaults = BrokerConfig::default();
        BrokerConfig {
            data: Some(self.data.clone()),
            durability: self.durability,
            interval_ms: self.interval_ms,
            shards: if self.shards == 0 {
                defaults.shards
            } else {
                self.shards
            },
            segment_bytes: self.log.segment_bytes,
            tail_bytes: self.log.tail_bytes,
            index_bytes: self.log.index_bytes,
            memory_bytes: self.limits.memory_streams_bytes,
            max_message_bytes: self.limits.message_bytes as u64,
            max_streams: self.limits.streams_max,
            retained: RetainedLimits {
                messages_max: self.limits.retained_messages_max,
                bytes_max: self.limits.retained_bytes,
            },
            ..defaults
        }
    }

    /// What the edge is started with.
    pub(crate) fn edge(&self) -> EdgeConfig {
        EdgeConfig {
            workers: self.workers,
            connections_max: self.limits.connections_max,
            memory_max_bytes: self.limits.memory_bytes,
            ..EdgeConfig::default()
        }
    }

    /// Whether clients have to say who they are.
    pub(crate) fn has_accounts(&self) -> bool {
        !self.accounts.is_empty()
            || !self.mqtt.dynamic_security_file.is_empty()
            || !self.mqtt.ledger_file.is_empty()
    }

    /// Accounts and spaces, checked by the broker's own rules.
    ///
    /// # Errors
    /// What the broker says about a document it does not like.
    pub(crate) fn directory(&self) -> Result<Directory, String> {
        Directory::new(self.auth_document()?).map_err(|error| error.to_string())
    }

    /// Accounts and spaces as the broker reads them.
    ///
    /// # Errors
    /// What the broker says about a document that it cannot read.
    pub(crate) fn auth_document(&self) -> Result<AuthDocument, String> {
        let list =
            |tables: &[Table]| Value::Array(tables.iter().cloned().map(Value::Table).collect());
        let mut document = Table::from_iter([
            ("accounts".to_owned(), list(&self.accounts)),
            ("spaces".to_owned(), list(&self.spaces)),
            ("tokens".to_owned(), list(&self.tokens)),
        ]);
        if !self.anonymous.is_empty() {
            let anonymous = Value::String(self.anonymous.clone());
            document.insert("anonymous".to_owned(), anonymous);
        }
        Value::Table(document)
            .try_into()
            .map_err(|error: toml::de::Error| error.message().to_owned())
    }
}

impl Settings {
    /// The bridges, checked by the service's own rules.
    ///
    /// # Errors
    /// What is wrong with which.
    pub(crate) fn bridge_configs(&self) -> Result<Vec<BridgeConfig>, String> {
        let mut configs: Vec<BridgeConfig> = Vec::new();
        for (at, table) in self.bridges.iter().enumerate() {
            let named = table.get("name").and_then(Value::as_str);
            let read = Value::Table(table.clone()).try_into::<BridgeConfig>();
            let config = read.map_err(|error| {
                let name = named.map_or_else(
                    || format!("bridges[{at}]"),
                    |name| format!("bridge \"{name}\""),
                );
                format!("{name}: {}", error.message())
            })?;
            config.check().map_err(|error| error.to_string())?;
            if configs.iter().any(|known| known.name == config.name) {
                return Err(format!("there are two bridges \"{}\"", config.name));
            }
            configs.push(config);
        }
        Ok(configs)
    }
}

impl TryFrom<Table> for Listener {
    type Error = String;

    fn try_from(mut table: Table) -> Result<Self, String> {
        let account = match table.remove("account") {
            None => None,
            Some(Value::String(account)) => Some(account),
            Some(other) => return Err(format!("account: {other}")),
        };
        let mqtt = table.remove("mqtt").map(Value::try_into).transpose();
        let mqtt = mqtt.map_err(|error: toml::de::Error| format!("mqtt: {}", error.message()))?;
        let address = table
            .get("address")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let address = address
            .parse()
            .map_err(|error: AddressError| error.to_string())?;
        let edge = Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| error.message().to_owned())?;
        Ok(Listener {
            address,
            account,
            mqtt,
            edge,
        })
    }
}

/// Nests the flat values and reads them strictly. A problem here is a key that the schema has and the types have not;
/// a test keeps the two together.
pub(super) fn assemble(values: &BTreeMap<String, (Value, Origin)>) -> Result<Settings, Problem> {
    let mut root = Table::new();
    for (path, (value, _)) in values {
        match path.split_once('.') {
            None => {
                root.insert(path.clone(), value.clone());
            }
            Some((section, name)) => {
                let table = root
                    .entry(section)
                    .or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(table) = table {
                    table.insert(name.to_owned(), value.clone());
                }
            }
        }
    }
    Value::Table(root)
        .try_into::<Settings>()
        .map_err(|error| Problem::new(Origin::Default, error.message().to_owned()))
}

fn durability<'de, D: Deserializer<'de>>(from: D) -> Result<Durability, D::Error> {
    String::deserialize(from)?
        .parse()
        .map_err(de::Error::custom)
}

fn address_or_off<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ListenAddress>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "off" {
        Ok(None)
    } else {
        text.parse().map(Some).map_err(de::Error::custom)
    }
}
