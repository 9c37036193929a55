//! Settings of a bridge.

use std::path::PathBuf;

use longtail_model::{Filter, SubjectError};
use serde::Deserialize;

use crate::codec::{Qos, topic};

/// One bridge: a connection to another broker, and what goes over it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeConfig {
    /// Its name, 1 to 200 bytes. What waits for the other broker is in the stream `$bridge/{name}`.
    pub name: String,
    /// `HOST:PORT` of the other broker; tried in turn.
    pub addresses: Vec<String>,
    /// Client identifier there; empty: `longtail-` and the name.
    #[serde(default)]
    pub client_id: String,
    /// User name there.
    #[serde(default)]
    pub username: Option<String>,
    /// Password there.
    #[serde(default)]
    pub password: Option<String>,
    /// File with the password in its first line, read at each connect.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Version of the protocol. Default `auto`: 5.0, and 3.1.1 where that is refused.
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether 3.1.1 tries the bridge bit of the protocol level first. Default yes.
    #[serde(default = "yes")]
    pub bridge_bit: bool,
    /// Keep alive in seconds, 5 to 65,535. Default 60.
    #[serde(default = "sixty")]
    pub keep_alive_s: u16,
    /// Whether the other broker forgets its session at each connect. Default no: it keeps what it has for us.
    #[serde(default)]
    pub clean_start: bool,
    /// Seconds that it keeps the session, with 5.0. Default `u32::MAX`, for ever.
    #[serde(default = "for_ever")]
    pub session_expiry_s: u32,
    /// TLS; none: plain TCP.
    #[serde(default)]
    pub tls: Option<BridgeTls>,
    /// What goes over it. The first line that matches a message says what becomes of it.
    pub topics: Vec<TopicLine>,
    /// Whether its state is told in `$SYS/broker/connection/{client id}/state`. Default yes.
    #[serde(default = "yes")]
    pub notifications: bool,
    /// Whether the state is not told to the other broker. Default no.
    #[serde(default)]
    pub notifications_local_only: bool,
    /// Another topic for the state.
    #[serde(default)]
    pub notification_topic: Option<String>,
    /// Whether retained messages are sent as such, and again at each connect. Default yes.
    #[serde(default = "yes")]
    pub outgoing_retain: bool,
    /// Shortest time between two attempts in milliseconds, 100 to 3,600,000. Default 5 s.
    #[serde(default = "five_seconds")]
    pub restart_ms: u64,
    /// Longest such time: it doubles up to this, with jitter. At most 7,200,000, default 30 s.
    #[serde(default = "thirty_seconds")]
    pub restart_max_ms: u64,
    /// Messages under way in each direction, 1 to 1,000. Default 100.
    #[serde(default = "hundred")]
    pub window: u16,
    /// Largest packet taken, in bytes with its fixed header, 1,024 to 268,435,455. Default 2 MiB.
    #[serde(default = "packet_bytes")]
    pub packet_bytes_max: u32,
    /// Messages that wait; beyond it the oldest go. Default 1,000,000. Fixed when the stream is created.
    #[serde(default = "million")]
    pub queue_messages: u64,
    /// Bytes of these. Default 1 GiB. Fixed when the stream is created.
    #[serde(default = "gibibyte")]
    pub queue_bytes: u64,
    /// Bridges that a message may pass, with 5.0: each adds one to its user property `bridge-hops`. 0: nobody counts.
    /// Default 16.
    #[serde(default = "sixteen")]
    pub hops_max: u32,
}

/// TLS to the other broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeTls {
    /// PEM file with the authorities that its certificate must come from.
    pub authorities: PathBuf,
    /// PEM file with a certificate to show.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Name that its certificate must have; default: the host of the address.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Protocol offered by ALPN.
    #[serde(default)]
    pub alpn: Option<String>,
}

/// Which version is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// 5.0, then 3.1.1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// 5.0 only.
    #[serde(rename = "5")]
    V5,
    /// 3.1.1 only.
    #[serde(rename = "3.1.1")]
    V311,
}

/// Which way messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the other broker to this one.
    In,
    /// From this broker to the other one.
    Out,
    /// Both ways.
    Both,
}

impl Direction {
    /// Whether messages go to the other broker.
    #[must_use]
    pub const fn is_out(self) -> bool {
        matches!(self, Direction::Out | Direction::Both)
    }

    /// Whether messages come from the other broker.
    #[must_use]
    pub const fn is_in(self) -> bool {
        matches!(self, Direction::In | Direction::Both)
    }
}

/// What goes over a bridge: the topics of `local_prefix` and `filter` here are those of `remote_prefix` and `filter`
/// there. Prefixes are put in front as they stand, with their `/` if there is to be one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicLine {
    /// A topic filter; empty: exactly the topics that the prefixes name.
    pub filter: String,
    /// Which way.
    pub direction: Direction,
    /// Highest QoS. Default 0. QoS 1 and 2 wait for the other broker, QoS 0 does not.
    #[serde(default)]
    pub qos: u8,
    /// In front of the topic here.
    #[serde(default)]
    pub local_prefix: String,
    /// In front of the topic there.
    #[serde(default)]
    pub remote_prefix: String,
}

impl TopicLine {
    /// A line without prefixes.
    #[must_use]
    pub fn new(filter: impl Into<String>, direction: Direction, qos: u8) -> Self {
        TopicLine {
            filter: filter.into(),
            direction,
            qos,
            local_prefix: String::new(),
            remote_prefix: String::new(),
        }
    }

    /// Exchanges `local` in front of a topic here for `remote` in front of it there.
    #[must_use]
    pub fn prefixes(mut self, local: impl Into<String>, remote: impl Into<String>) -> Self {
        self.local_prefix = local.into();
        self.remote_prefix = remote.into();
        self
    }

    pub(super) fn qos(&self) -> Qos {
        Qos::from_bits(self.qos).unwrap_or(Qos::ExactlyOnce)
    }

    /// The filter as this broker has it.
    ///
    /// # Errors
    /// When prefix and filter make none.
    pub fn local_filter(&self) -> Result<Filter, SubjectError> {
        Filter::parse_mqtt(&format!("{}{}", self.local_prefix, self.filter))
    }

    /// The filter as the other broker has it.
    #[must_use]
    pub fn remote_filter(&self) -> String {
        format!("{}{}", self.remote_prefix, self.filter)
    }
}

/// Settings that make no bridge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bridge \"{bridge}\": {why}")]
pub struct BridgeError {
    /// Its name.
    pub bridge: String,
    /// What is wrong.
    pub why: String,
}

impl BridgeConfig {
    /// A bridge with the defaults of everything else.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        address: impl Into<String>,
        topics: Vec<TopicLine>,
    ) -> Self {
        BridgeConfig {
            name: name.into(),
            addresses: vec![address.into()],
            client_id: String::new(),
            username: None,
            password: None,
            password_file: None,
            protocol: Protocol::default(),
            bridge_bit: true,
            keep_alive_s: sixty(),
            clean_start: false,
            session_expiry_s: for_ever(),
            tls: None,
            topics,
            notifications: true,
            notifications_local_only: false,
            notification_topic: None,
            outgoing_retain: true,
            restart_ms: five_seconds(),
            restart_max_ms: thirty_seconds(),
            window: hundred(),
            packet_bytes_max: packet_bytes(),
            queue_messages: million(),
            queue_bytes: gibibyte(),
            hops_max: sixteen(),
        }
    }

    /// The client identifier in force.
    #[must_use]
    pub fn client_id(&self) -> String {
        if self.client_id.is_empty() {
            format!("longtail-{}", self.name)
        } else {
            self.client_id.clone()
        }
    }

    /// The topic of its state.
    #[must_use]
    pub fn state_topic(&self) -> String {
        self.notification_topic
            .clone()
            .unwrap_or_else(|| format!("$SYS/broker/connection/{}/state", self.client_id()))
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), BridgeError> {
        self.first_wrong().map_or(Ok(()), |why| {
            Err(BridgeError {
                bridge: self.name.clone(),
                why,
            })
        })
    }

    fn first_wrong(&self) -> Option<String> {
        let said = |wrong: bool, why: &str| wrong.then(|| why.to_owned());
        let address = |address: &&String| {
            let port = address
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty());
            port.is_none_or(|(_, port)| port.parse::<u16>().is_err())
        };
        said(
            self.name.is_empty() || self.name.len() > 200,
            "`name` must have 1 to 200 bytes",
        )
        .or_else(|| said(self.addresses.is_empty(), "`addresses` is empty"))
        .or_else(|| {
            let wrong = self.addresses.iter().find(address)?;
            Some(format!("`addresses`: \"{wrong}\" is not HOST:PORT"))
        })
        .or_else(|| {
            said(
                self.topics.is_empty(),
                "`topics` is empty: nothing would go over it",
            )
        })
        .or_else(|| said(self.keep_alive_s < 5, "`keep_alive_s` must be 5 to 65535"))
        .or_else(|| {
            said(
                !(1..=1000).contains(&self.window),
                "`window` must be 1 to 1000",
            )
        })
        .or_else(|| {
            said(
                !(100..=3_600_000).contains(&self.restart_ms),
                "`restart_ms` must be 100 to 3600000",
            )
        })
        .or_else(|| {
            said(
                !(self.restart_ms..=7_200_000).contains(&self.restart_max_ms),
                "`restart_max_ms` must be `restart_ms` to 7200000",
            )
        })
        .or_else(|| {
            said(
                !(1024..=268_435_455).contains(&self.packet_bytes_max),
                "`packet_bytes_max` must be 1024 to 268435455",
            )
        })
        .or_else(|| {
            said(
                self.queue_messages == 0 || self.queue_bytes == 0,
                "`queue_messages` and `queue_bytes` must be above 0",
            )
        })
        .or_else(|| {
            said(
                self.password.is_some() && self.password_file.is_some(),
                "`password` and `password_file` exclude each other",
            )
        })
        .or_else(|| {
            let tls = self.tls.as_ref()?;
            said(
                tls.certificate.is_some() != tls.key.is_some(),
                "`tls.certificate` and `tls.key` need each other",
            )
        })
        .or_else(|| {
            let named = topic::check_name(&self.state_topic()).err()?;
            Some(format!("the topic of its state: {named}"))
        })
        .or_else(|| self.topics.iter().find_map(TopicLine::first_wrong))
    }
}

impl TopicLine {
    fn first_wrong(&self) -> Option<String> {
        let at = &self.filter;
        if self.qos > 2 {
            return Some(format!("topic \"{at}\": `qos` must be 0, 1 or 2"));
        }
        for prefix in [&self.local_prefix, &self.remote_prefix] {
            if prefix.contains(['+', '#']) {
                return Some(format!("topic \"{at}\": a prefix has no wildcards"));
            }
        }
        if let Err(error) = self.local_filter() {
            return Some(format!("topic \"{at}\": {error}"));
        }
        let remote = self.remote_filter();
        if let Err(error) = topic::TopicFilter::parse(&remote) {
            return Some(format!("topic \"{at}\": \"{remote}\": {error}"));
        }
        None
    }
}

fn yes() -> bool {
    true
}

fn sixty() -> u16 {
    60
}

fn hundred() -> u16 {
    100
}

fn sixteen() -> u32 {
    16
}

fn for_ever() -> u32 {
    u32::MAX
}

fn five_seconds() -> u64 {
    5_000
}

fn thirty_seconds() -> u64 {
    30_000
}

fn packet_bytes() -> u32 {
    2 * 1024 * 1024
}

fn million() -> u64 {
    1_000_000
}

fn gibibyte() -> u64 {
    1 << 30
}
