//! The settings as the server reads them: checked, typed, in canonical units.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

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
    pub(crate) product: String,
}

impl AmqpSettings {
    /// As the service takes them.
    pub(crate) fn config(&self) -> longtail_amqp::Config {
        longtail_amqp::Config {
            space: self.space.as_str().into(),
            message_bytes_max: self.message_bytes,
            frame_max: self.frame_bytes_max,
            channel_max: self.channels_max,
            heartbeat_s: self.heartbeat_s,
            product: self.product.clone(),
            ..longtail_amqp::Config::default()
        }
    }
}

/// `mqtt.*`; what is absent is as the profile says.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct MqttSettings {
    pub(crate) space: String,
    pub(crate) profile: String,
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) receive_max: Option<u16>,
    pub(crate) window: Option<u16>,
    pub(crate) topic_aliases_in: Option<u16>,
    pub(crate) topic_aliases_out: Option<u16>,
    pub(crate) keep_alive_max_s: Option<u16>,
    pub(crate) connect_timeout_ms: Option<u64>,
    pub(crate) session_expiry_max_s: Option<u32>,
    pub(crate) session_expiry_v3_s: Option<u32>,
    pub(crate) sessions_max: Option<usize>,
    pub(crate) queue_messages: Option<usize>,
    pub(crate) queue_bytes: Option<usize>,
    pub(crate) queue_policy: Option<MqttQueuePolicy>,
    pub(crate) overlap: Option<MqttOverlap>,
    pub(crate) share_strategy: Option<String>,
    pub(crate) share_strategies: Vec<String>,
    pub(crate) subscriptions_max: Option<usize>,
    pub(crate) qos_max: Option<u8>,
    pub(crate) retain_available: Option<bool>,
    pub(crate) wildcards_available: Option<bool>,
    pub(crate) shared_available: Option<bool>,
    pub(crate) subscription_ids_available: Option<bool>,
    pub(crate) empty_client_id: Option<bool>,
    pub(crate) client_id_prefix: Option<String>,
    pub(crate) topic_levels_max: Option<usize>,
    pub(crate) will_at_takeover: Option<bool>,
    pub(crate) sys_interval_s: u32,
}

/// `mqtt.queue_policy`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MqttQueuePolicy {
    DropNewest,
    DropOldest,
    Disconnect,
}

/// `mqtt.overlap`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MqttOverlap {
    Each,
    Merge,
}

/// An entry of `mqtt.share_strategies`: `GROUP=STRATEGY`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn share_strategy(
    entry: &str,
) -> Result<(Box<str>, longtail_mqtt::config::ShareStrategy), String> {
    let Some((group, word)) = entry.rsplit_once('=') else {
        return Err(format!("{entry:?} is not of the form GROUP=STRATEGY"));
    };
    if group.is_empty() || group.contains(['/', '+', '#']) {
        return Err(format!(
            "{group:?} is no name of a group: it is not empty and has no /, + or #"
        ));
    }
    let strategy = word
        .parse()
        .map_err(|error| format!("{error} for group {group:?}"))?;
    Ok((group.into(), strategy))
}

impl MqttSettings {
    /// As the service takes them. A profile that does not exist is the default one: the schema has its words.
    pub(crate) fn config(&self) -> longtail_mqtt::Config {
        use longtail_mqtt::codec::Qos;
        use longtail_mqtt::config::{Overlap, QueuePolicy, Shares};
        let profile: longtail_mqtt::Profile = self.profile.parse().unwrap_or_default();
        let base = profile.limits();
        longtail_mqtt::Config {
            space: self.space.as_str().into(),
            sys_interval_s: self.sys_interval_s,
            limits: longtail_mqtt::Limits {
                packet_bytes_max: self.packet_bytes_max.unwrap_or(base.packet_bytes_max),
                receive_max: self.receive_max.unwrap_or(base.receive_max),
                window: self.window.unwrap_or(base.window),
                topic_aliases_in: self.topic_aliases_in.unwrap_or(base.topic_aliases_in),
                topic_aliases_out: self.topic_aliases_out.unwrap_or(base.topic_aliases_out),
                keep_alive_max_s: self.keep_alive_max_s.unwrap_or(base.keep_alive_max_s),
                connect_timeout_ms: self.connect_timeout_ms.unwrap_or(base.connect_timeout_ms),
                session_expiry_max_s: self
                    .session_expiry_max_s
                    .unwrap_or(base.session_expiry_max_s),
                session_expiry_v3_s: self.session_expiry_v3_s.unwrap_or(base.session_expiry_v3_s),
                sessions_max: self.sessions_max.unwrap_or(base.sessions_max),
                queue_messages: self.queue_messages.unwrap_or(base.queue_messages),
                queue_bytes: self.queue_bytes.unwrap_or(base.queue_bytes),
                queue_policy: match self.queue_policy {
                    None => base.queue_policy,
                    Some(MqttQueuePolicy::DropNewest) => QueuePolicy::DropNewest,
                    Some(MqttQueuePolicy::DropOldest) => QueuePolicy::DropOldest,
                    Some(MqttQueuePolicy::Disconnect) => QueuePolicy::Disconnect,
                },
                overlap: match self.overlap {
                    None => base.overlap,
                    Some(MqttOverlap::Each) => Overlap::Each,
                    Some(MqttOverlap::Merge) => Overlap::Merge,
                },
                shares: Arc::new(Shares {
                    strategy: (self.share_strategy.as_deref())
                        .and_then(|word| word.parse().ok())
                        .unwrap_or(base.shares.strategy),
                    named: (self.share_strategies.iter())
                        .filter_map(|entry| share_strategy(entry).ok())
                        .collect(),
                }),
                subscriptions_max: self.subscriptions_max.unwrap_or(base.subscriptions_max),
                qos_max: self
                    .qos_max
                    .and_then(Qos::from_bits)
                    .unwrap_or(base.qos_max),
                retain_available: self.retain_available.unwrap_or(base.retain_available),
                wildcards_available: self.wildcards_available.unwrap_or(base.wildcards_available),
                shared_available: self.shared_available.unwrap_or(base.shared_available),
                subscription_ids_available: self
                    .subscription_ids_available
                    .unwrap_or(base.subscription_ids_available),
                empty_client_id: self.empty_client_id.unwrap_or(base.empty_client_id),
                client_id_prefix: self
                    .client_id_prefix
                    .as_deref()
                    .map_or(base.client_id_prefix.clone(), Into::into),
                topic_levels_max: self.topic_levels_max.unwrap_or(base.topic_levels_max),
                will_at_takeover: self.will_at_takeover.unwrap_or(base.will_at_takeover),
                ..base
            },
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

    /// Accounts and spaces, checked by the broker's own rules.
    ///
    /// # Errors
    /// What the broker says about a document it does not like.
    pub(crate) fn directory(&self) -> Result<Directory, String> {
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
        let document: AuthDocument = Value::Table(document)
            .try_into()
            .map_err(|error: toml::de::Error| error.message().to_owned())?;
        Directory::new(document).map_err(|error| error.to_string())
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
