//! Settings of the MQTT service and of its listeners.

use std::sync::Arc;

use longtail_broker::auth::{AccessList, Effect, LoginRules};
use longtail_mqtt::acl;
use longtail_mqtt::bans::Flapping;
use longtail_mqtt::codec::{Qos, RetainHandling, SubscriptionOptions, TopicFilter, Version};
use longtail_mqtt::config::{
    AutoSubscription, FastPublisher, Overlap, QueuePolicy, ShareStrategy, Shares, Versions,
};
use longtail_mqtt::http_auth::HttpAuthConfig;
use longtail_mqtt::rewrite::{Rewrite, RewriteError};
use longtail_mqtt::template::Template;
use longtail_mqtt::{Config, Limits, Profile};
use serde::Deserialize;

use super::suggest::hint;

/// `$base` with what `$from` says of the limits that the service and each of its listeners may set.
macro_rules! overlaid {
    ($from:expr, $base:expr) => {{
        let (from, base) = ($from, $base);
        let versions = from.versions.as_deref().map(versions).transpose();
        versions.map(|versions| Limits {
            versions: versions.unwrap_or(base.versions),
            packet_bytes_max: from.packet_bytes_max.unwrap_or(base.packet_bytes_max),
            receive_max: from.receive_max.unwrap_or(base.receive_max),
            publish_rate_max: from.publish_rate_max.unwrap_or(base.publish_rate_max),
            fast_publisher: from.fast_publisher.map_or(base.fast_publisher, Into::into),
            server_reference: (from.server_reference.as_deref())
                .map_or_else(|| base.server_reference.clone(), Into::into),
            window: from.window.unwrap_or(base.window),
            topic_aliases_in: from.topic_aliases_in.unwrap_or(base.topic_aliases_in),
            topic_aliases_out: from.topic_aliases_out.unwrap_or(base.topic_aliases_out),
            keep_alive_max_s: from.keep_alive_max_s.unwrap_or(base.keep_alive_max_s),
            connect_timeout_ms: from.connect_timeout_ms.unwrap_or(base.connect_timeout_ms),
            session_expiry_max_s: (from.session_expiry_max_s).unwrap_or(base.session_expiry_max_s),
            qos_max: (from.qos_max.and_then(Qos::from_bits)).unwrap_or(base.qos_max),
            retain_available: from.retain_available.unwrap_or(base.retain_available),
            wildcards_available: from.wildcards_available.unwrap_or(base.wildcards_available),
            shared_available: from.shared_available.unwrap_or(base.shared_available),
            subscription_ids_available: (from.subscription_ids_available)
                .unwrap_or(base.subscription_ids_available),
            empty_client_id: from.empty_client_id.unwrap_or(base.empty_client_id),
            client_id_prefix: (from.client_id_prefix.as_deref())
                .map_or_else(|| base.client_id_prefix.clone(), Into::into),
            topic_levels_max: from.topic_levels_max.unwrap_or(base.topic_levels_max),
            ..base
        })
    }};
}

/// `mqtt.*`; what is absent is as the profile says.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct MqttSettings {
    pub(crate) space: String,
    pub(crate) profile: String,
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) receive_max: Option<u16>,
    pub(crate) publish_rate_max: Option<u32>,
    pub(crate) fast_publisher: Option<MqttFastPublisher>,
    pub(crate) server_reference: Option<String>,
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
    pub(crate) client_id_prefixes: Vec<String>,
    pub(crate) topic_levels_max: Option<usize>,
    pub(crate) upgrade_qos: bool,
    pub(crate) will_at_takeover: Option<bool>,
    pub(crate) sys_interval_s: u32,
    pub(crate) versions: Option<Vec<String>>,
    pub(crate) payload_format_checked: bool,
    pub(crate) retain_source_checked: Option<bool>,
    pub(crate) message_expiry_max_s: Option<u32>,
    pub(crate) delay_max_s: u32,
    pub(crate) delayed_messages_max: u64,
    pub(crate) flapping_connects_max: u32,
    pub(crate) flapping_window_ms: u64,
    pub(crate) flapping_ban_ms: u64,
    /// Empty: none.
    pub(crate) dynamic_security_file: String,
    /// Empty: none.
    pub(crate) ledger_file: String,
    /// Empty: none.
    pub(crate) acl_file: String,
    pub(crate) acl_format: String,
    pub(crate) acl_no_match: String,
    pub(crate) acl_deny_action: String,
    #[serde(default)]
    pub(crate) rewrites: Vec<MqttRewrite>,
    #[serde(default)]
    pub(crate) auto_subscriptions: Vec<MqttAutoSubscription>,
    #[serde(default)]
    pub(crate) http_auth: Vec<HttpAuthConfig>,
}

/// One of `mqtt.rewrites`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct MqttRewrite {
    #[serde(default = "all")]
    on: String,
    topic: String,
    regex: String,
    target: String,
}

fn all() -> String {
    "all".to_owned()
}

/// One of `mqtt.auto_subscriptions`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct MqttAutoSubscription {
    filter: String,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    no_local: bool,
    #[serde(default)]
    retain_as_published: bool,
    #[serde(default)]
    retain_handling: u8,
}

/// `mqtt` of a listener; what is absent is as `mqtt.*` says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MqttListener {
    /// Account of clients that show nothing; empty: they are refused.
    pub(crate) anonymous: Option<String>,
    mount_point: Option<String>,
    connection_max_ms: Option<u64>,
    versions: Option<Vec<String>>,
    packet_bytes_max: Option<u32>,
    receive_max: Option<u16>,
    publish_rate_max: Option<u32>,
    fast_publisher: Option<MqttFastPublisher>,
    server_reference: Option<String>,
    window: Option<u16>,
    topic_aliases_in: Option<u16>,
    topic_aliases_out: Option<u16>,
    keep_alive_max_s: Option<u16>,
    connect_timeout_ms: Option<u64>,
    session_expiry_max_s: Option<u32>,
    qos_max: Option<u8>,
    retain_available: Option<bool>,
    wildcards_available: Option<bool>,
    shared_available: Option<bool>,
    subscription_ids_available: Option<bool>,
    empty_client_id: Option<bool>,
    client_id_prefix: Option<String>,
    topic_levels_max: Option<usize>,
}

impl MqttListener {
    /// The limits of this listener, where those of the service are `base`.
    ///
    /// # Errors
    /// What cannot be: a version that there is not, a mount point that is none.
    pub(crate) fn limits(&self, base: &Limits) -> Result<Limits, String> {
        let mount_point = self.mount_point.as_deref().filter(|text| !text.is_empty());
        let mount_point = mount_point.map(Template::prefix).transpose();
        Ok(Limits {
            mount_point: mount_point.map_err(|error| format!("mount_point: {error}"))?,
            connection_max_ms: self.connection_max_ms.unwrap_or(base.connection_max_ms),
            ..overlaid!(self, base.clone())?
        })
    }
}

/// The words for versions.
const VERSIONS: [(&str, Version); 3] = [
    ("3.1", Version::V31),
    ("3.1.1", Version::V311),
    ("5.0", Version::V5),
];

fn versions(words: &[String]) -> Result<Versions, String> {
    if words.is_empty() {
        return Err("versions: name one at least".to_owned());
    }
    let version = |word: &String| {
        let found = VERSIONS.iter().find(|(name, _)| name == word);
        found.map(|(_, version)| *version).ok_or_else(|| {
            let names = VERSIONS.map(|(name, _)| name);
            format!(
                "versions: there is no MQTT {word:?}{}",
                hint_or(word, &names)
            )
        })
    };
    words.iter().map(version).collect()
}

fn hint_or(word: &str, names: &[&'static str]) -> String {
    let near = hint(word, names.iter().copied());
    if near.is_empty() {
        format!(": use {}", names.join(", "))
    } else {
        near
    }
}

impl MqttRewrite {
    fn rule(&self) -> Result<Rewrite, String> {
        let on = self
            .on
            .parse()
            .map_err(|error: RewriteError| error.to_string())?;
        Rewrite::new(on, &self.topic, &self.regex, &self.target).map_err(|error| error.to_string())
    }
}

impl MqttAutoSubscription {
    fn subscription(&self) -> Result<AutoSubscription, String> {
        let filter = Template::new(&self.filter).map_err(|error| error.to_string())?;
        // Placeholders are no wildcards, so that the rest of the filter can be looked at now.
        TopicFilter::parse(&self.filter).map_err(|error| format!("{:?}: {error}", self.filter))?;
        Ok(AutoSubscription {
            filter,
            options: SubscriptionOptions {
                qos: Qos::from_bits(self.qos).ok_or("qos is 0, 1 or 2")?,
                no_local: self.no_local,
                retain_as_published: self.retain_as_published,
                retain_handling: match self.retain_handling {
                    0 => RetainHandling::Always,
                    1 => RetainHandling::IfNew,
                    2 => RetainHandling::Never,
                    _ => return Err("retain_handling is 0, 1 or 2".to_owned()),
                },
            },
        })
    }
}

/// `mqtt.queue_policy`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MqttQueuePolicy {
    DropNewest,
    DropOldest,
    Disconnect,
}

/// `mqtt.fast_publisher`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MqttFastPublisher {
    Wait,
    Disconnect,
}

impl From<MqttFastPublisher> for FastPublisher {
    fn from(word: MqttFastPublisher) -> Self {
        match word {
            MqttFastPublisher::Wait => FastPublisher::Wait,
            MqttFastPublisher::Disconnect => FastPublisher::Disconnect,
        }
    }
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
pub(crate) fn share_strategy(entry: &str) -> Result<(Box<str>, ShareStrategy), String> {
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
    ///
    /// # Errors
    /// What is wrong with versions, rewrites or subscriptions, with the setting's name.
    pub(crate) fn config(&self) -> Result<Config, (&'static str, String)> {
        let base = self.profile().limits();
        let base = overlaid!(self, base).map_err(|why| ("mqtt.versions", why))?;
        let numbered = |at: usize, why: String| format!("number {}: {why}", at + 1);
        let rules = self.rewrites.iter().enumerate();
        let rules = rules.map(|(at, rule)| rule.rule().map_err(|why| numbered(at, why)));
        let rewrites: Result<Vec<_>, _> = rules.collect();
        let own = self.auto_subscriptions.iter().enumerate();
        let own = own.map(|(at, own)| own.subscription().map_err(|why| numbered(at, why)));
        let own: Result<Vec<_>, _> = own.collect();
        Ok(Config {
            space: self.space.as_str().into(),
            sys_interval_s: self.sys_interval_s,
            flapping: Flapping {
                connects_max: self.flapping_connects_max,
                window_ms: self.flapping_window_ms,
                ban_ms: self.flapping_ban_ms,
            },
            limits: Limits {
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
                client_id_prefixes: self
                    .client_id_prefixes
                    .iter()
                    .map(|prefix| prefix.as_str().into())
                    .collect(),
                upgrade_qos: self.upgrade_qos,
                denied_disconnects: self.acl_deny_action == "disconnect",
                will_at_takeover: self.will_at_takeover.unwrap_or(base.will_at_takeover),
                payload_format_checked: self.payload_format_checked,
                retain_source_checked: self
                    .retain_source_checked
                    .unwrap_or(base.retain_source_checked),
                message_expiry_max_s: self
                    .message_expiry_max_s
                    .unwrap_or(base.message_expiry_max_s),
                delay_max_s: self.delay_max_s,
                delayed_messages_max: self.delayed_messages_max,
                rewrites: rewrites.map_err(|why| ("mqtt.rewrites", why))?.into(),
                auto_subscriptions: own.map_err(|why| ("mqtt.auto_subscriptions", why))?.into(),
                ..base
            },
        })
    }

    /// The access list, read from its file; none if there is no file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn access_list(&self) -> Result<Option<AccessList>, String> {
        if self.acl_file.is_empty() {
            return Ok(None);
        }
        let named =
            |why: &dyn std::fmt::Display| format!("mqtt.acl_file: {}: {why}", self.acl_file);
        let text = std::fs::read_to_string(&self.acl_file).map_err(|error| named(&error))?;
        let format = match self.acl_format.as_str() {
            "nanomq" => acl::Format::Nanomq,
            _ => acl::Format::Emqx,
        };
        let otherwise = match self.acl_no_match.as_str() {
            "allow" => Some(Effect::Allow),
            "deny" => Some(Effect::Deny),
            _ => None,
        };
        let list = acl::parse(format, &text, &self.space, otherwise);
        list.map(Some).map_err(|error| named(&error))
    }

    /// Whom Mochi's ledger lets in, and what for, read from its file; nothing if there is no file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn ledger(&self) -> Result<Option<(LoginRules, AccessList)>, String> {
        if self.ledger_file.is_empty() {
            return Ok(None);
        }
        if !self.acl_file.is_empty() {
            return Err(
                "mqtt.ledger_file: a ledger has an access list of its own: leave mqtt.acl_file out"
                    .to_owned(),
            );
        }
        let named =
            |why: &dyn std::fmt::Display| format!("mqtt.ledger_file: {}: {why}", self.ledger_file);
        let text = std::fs::read_to_string(&self.ledger_file).map_err(|error| named(&error))?;
        let read = acl::ledger::parse(&text, &self.space);
        read.map(Some).map_err(|error| named(&error))
    }

    fn profile(&self) -> Profile {
        self.profile.parse().unwrap_or_default()
    }
}
