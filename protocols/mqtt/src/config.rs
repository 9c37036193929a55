//! Settings of the service, and the profiles that make it answer as another broker would.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use longtail_broker::router::Strategy;
use longtail_broker::stored::publisher_key;
use longtail_engine::{Dispatch, KeyFrom};

use crate::bans::Flapping;
use crate::codec::{Qos, ReasonCode, SubscriptionOptions, Version};
use crate::rewrite::Rewrite;
use crate::template::Template;

/// Settings of one service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Space whose subjects the topics are.
    pub space: Arc<str>,
    /// Everything that a client may notice.
    pub limits: Limits,
    /// Seconds between two looks at what `$SYS` says; 0: there is no `$SYS`. Default 10.
    pub sys_interval_s: u32,
    /// Whether clients that connect again and again are kept out for a while.
    pub flapping: Flapping,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            space: "default".into(),
            limits: Limits::default(),
            sys_interval_s: 10,
            flapping: Flapping::default(),
        }
    }
}

/// What happens to a message for which a session's queue has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueuePolicy {
    /// It is dropped.
    #[default]
    DropNewest,
    /// The ones that wait longest are dropped.
    DropOldest,
    /// The client is disconnected (0x97).
    Disconnect,
}

/// How many copies a client gets of a message that several of its subscriptions match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// One for each subscription, with its identifier.
    #[default]
    Each,
    /// One at the highest QoS, with all identifiers.
    Merge,
}

/// Which member of a share gets a message. One without room is passed over, or, where the message is for one member
/// only, waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareStrategy {
    /// They take turns.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The one that has been there longest gets all; the others stand by.
    Sticky,
    /// The same for all messages of a topic.
    HashTopic,
    /// The same for all messages of a publisher.
    HashClientId,
    /// The one with the fewest messages in flight; at QoS 0, where none are, they take turns.
    LeastInFlight,
}

impl ShareStrategy {
    /// All of them.
    pub const ALL: [ShareStrategy; 6] = [
        ShareStrategy::RoundRobin,
        ShareStrategy::Random,
        ShareStrategy::Sticky,
        ShareStrategy::HashTopic,
        ShareStrategy::HashClientId,
        ShareStrategy::LeastInFlight,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ShareStrategy::RoundRobin => "round-robin",
            ShareStrategy::Random => "random",
            ShareStrategy::Sticky => "sticky",
            ShareStrategy::HashTopic => "hash-topic",
            ShareStrategy::HashClientId => "hash-client-id",
            ShareStrategy::LeastInFlight => "least-in-flight",
        }
    }

    /// As the router knows it, for what is not kept.
    pub(crate) fn of_router(self) -> Strategy {
        match self {
            ShareStrategy::RoundRobin | ShareStrategy::LeastInFlight => Strategy::RoundRobin,
            ShareStrategy::Random => Strategy::Random,
            ShareStrategy::Sticky => Strategy::First,
            ShareStrategy::HashTopic => Strategy::BySubject,
            ShareStrategy::HashClientId => Strategy::ByPublisher,
        }
    }

    /// As a group of a stream knows it.
    pub(crate) fn of_group(self) -> Dispatch {
        match self {
            ShareStrategy::RoundRobin => Dispatch::Turns,
            ShareStrategy::Random => Dispatch::Random,
            ShareStrategy::Sticky => Dispatch::Single,
            ShareStrategy::HashTopic => Dispatch::Pinned(KeyFrom::Subject),
            ShareStrategy::HashClientId => Dispatch::Pinned(publisher_key()),
            ShareStrategy::LeastInFlight => Dispatch::LeastHeld,
        }
    }
}

/// No such strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no strategy {0:?}")]
pub struct UnknownStrategy(pub String);

impl FromStr for ShareStrategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ShareStrategy::ALL
            .into_iter()
            .find(|strategy| strategy.as_str() == text)
            .ok_or_else(|| UnknownStrategy(text.to_owned()))
    }
}

/// How shares are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Those that are not named.
    pub strategy: ShareStrategy,
    /// By the name of the share.
    pub named: HashMap<Box<str>, ShareStrategy>,
}

impl Shares {
    /// How a share is served.
    #[must_use]
    pub fn strategy_of(&self, share: &str) -> ShareStrategy {
        self.named.get(share).copied().unwrap_or(self.strategy)
    }
}

/// When a QoS 2 message is shown to subscribers. Both are allowed (MQTT 5.0, 4.3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos2Routing {
    /// At PUBREL.
    #[default]
    AtRelease,
    /// At PUBLISH.
    AtPublish,
}

/// What a client gets that sends more unacknowledged messages than the receive maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// DISCONNECT 0x93.
    #[default]
    Strict,
    /// A line in the log.
    Warn,
}

/// What a client of 3.1 or 3.1.1 gets for a keep alive above the maximum. One of 5.0 is told the maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongKeepAlive {
    /// CONNACK 2.
    #[default]
    Refuse,
    /// The maximum holds, and nobody is told.
    Lower,
}

/// What a publish that is not allowed means for a client that cannot be told: at QoS 0, and before 5.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedPublish {
    /// It is acknowledged and dropped.
    #[default]
    Drop,
    /// The connection is closed.
    Disconnect,
}

/// What becomes of a client that publishes faster than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FastPublisher {
    /// It is not read from for a while, so that its socket holds it up. Nothing is lost.
    #[default]
    Wait,
    /// DISCONNECT 0x96; before 5.0 the connection is closed.
    Disconnect,
}

/// Versions of the protocol, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions(u8);

impl Versions {
    /// All of them.
    pub const ALL: Versions = Versions(0b111);

    const fn bit(version: Version) -> u8 {
        1 << (version.level() - Version::V31.level())
    }

    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, version: Version) -> bool {
        self.0 & Self::bit(version) != 0
    }
}

impl FromIterator<Version> for Versions {
    fn from_iter<T: IntoIterator<Item = Version>>(versions: T) -> Self {
        let versions = versions.into_iter();
        Versions(versions.fold(0, |set, version| set | Self::bit(version)))
    }
}

/// What a client is subscribed to when it comes, without asking for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoSubscription {
    /// The filter, as the client could have written it.
    pub filter: Template,
    /// How it is served.
    pub options: SubscriptionOptions,
}

/// Limits and habits of one service, or of one of its listeners. Bytes and counts are for one connection or one session each.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest packet taken, in bytes with its fixed header. Default 2 MiB: a little more than Mosquitto's.
    pub packet_bytes_max: u32,
    /// Unacknowledged QoS 1 and 2 messages taken from a client, 1 to 65,535. Default 1,024.
    pub receive_max: u16,
    /// Payload bytes of QoS 2 messages that await their PUBREL. Default 16 MiB; beyond it PUBREC 0x97.
    pub unreleased_bytes: usize,
    /// Messages that one client may publish a second, at any QoS; a second's worth may come at once. Default 0, any
    /// number.
    pub publish_rate_max: u32,
    /// What becomes of a client that publishes more.
    pub fast_publisher: FastPublisher,
    /// What happens when a client sends more.
    pub receive_max_enforcement: Enforcement,
    /// Unacknowledged messages sent to a client; its own receive maximum may be lower. Default 256.
    pub window: u16,
    /// Topic aliases that a client may define. Default 32.
    pub topic_aliases_in: u16,
    /// Topic aliases given to a client that takes them. Default 16.
    pub topic_aliases_out: u16,
    /// Longest keep alive in seconds; 0: any, also none. Default 0.
    pub keep_alive_max_s: u16,
    /// What a client before 5.0 gets for a longer one.
    pub long_keep_alive: LongKeepAlive,
    /// A client is gone after its keep alive times this, in percent. Default 150.
    pub keep_alive_percent: u32,
    /// Time until CONNECT, in milliseconds. Default 10 s.
    pub connect_timeout_ms: u64,
    /// Longest session expiry in seconds. Default `u32::MAX`, for ever.
    pub session_expiry_max_s: u32,
    /// Session expiry of clients before 5.0 that want to keep their session. Default `u32::MAX`, for ever.
    pub session_expiry_v3_s: u32,
    /// Sessions in the space, connected or not. Default 1,000,000; one more is refused (0x97).
    pub sessions_max: usize,
    /// Messages that wait behind the window. Default 8,192.
    pub queue_messages: usize,
    /// Payload bytes of these. Default 16 MiB.
    pub queue_bytes: usize,
    /// What happens when there is no room.
    pub queue_policy: QueuePolicy,
    /// Subscriptions of a session. Default 100,000; one more is refused (0x97).
    pub subscriptions_max: usize,
    /// Copies for overlapping subscriptions.
    pub overlap: Overlap,
    /// When QoS 2 messages are shown.
    pub qos2_routing: Qos2Routing,
    /// Highest QoS. Default 2.
    pub qos_max: Qos,
    /// Whether messages may be retained.
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcards_available: bool,
    /// Whether subscriptions may be shared.
    pub shared_available: bool,
    /// Who of a share gets what.
    pub shares: Arc<Shares>,
    /// Whether subscriptions may have identifiers.
    pub subscription_ids_available: bool,
    /// Whether a client may come without an identifier.
    pub empty_client_id: bool,
    /// Longest client identifier, in bytes. Default 65,535.
    pub client_id_bytes_max: usize,
    /// What identifiers begin with that the server gives.
    pub client_id_prefix: Arc<str>,
    /// Topic levels, 1 to 128. Default 128.
    pub topic_levels_max: usize,
    /// Whether a wrong password is answered 0x87 (not authorized) instead of 0x86.
    pub bad_password_is_not_authorized: bool,
    /// Whether a PUBREL for an unknown id is answered with 0x92 instead of plain success.
    pub unknown_release_is_told: bool,
    /// Denied publishes of clients that cannot be told.
    pub denied_publish: DeniedPublish,
    /// Whether a publish or a subscription that is not allowed ends the connection (0x87), however its client could be
    /// told.
    pub denied_disconnects: bool,
    /// Whether messages are sent at the QoS of the subscription, also if they were published at a lower one.
    pub upgrade_qos: bool,
    /// What client identifiers have to begin with, one of these; others are refused (0x87). Empty: with anything.
    pub client_id_prefixes: Arc<[Box<str>]>,
    /// Whether the will of a connection is published when another one of the same client takes a session over that
    /// lives on.
    pub will_at_takeover: bool,
    /// Server reference for clients of 5.0 that are sent elsewhere, with 0x9C or 0x9D: addresses of other servers,
    /// separated by blanks. When the server stops, its clients are told 0x9C and this instead of 0x8B. Empty: none.
    pub server_reference: Arc<str>,
    /// Response information for clients that ask for it; empty: none.
    pub response_information: Arc<str>,
    /// Versions that clients may speak; another is refused with 0x84, before 5.0 with 1.
    pub versions: Versions,
    /// How long a connection may last, in milliseconds; then it ends with 0xA0. 0: as long as it likes.
    pub connection_max_ms: u64,
    /// Whether the payload of a message that says it is UTF-8 is looked at; one that is not is refused with 0x99.
    pub payload_format_checked: bool,
    /// Whether a retained message is sent to new subscribers only as long as its publisher's account may publish to its
    /// topic. Messages that were retained while this was off are sent.
    pub retain_source_checked: bool,
    /// Longest that a message may live, in seconds, of those too that say nothing; 0: as long as it says.
    pub message_expiry_max_s: u32,
    /// Put before every topic and filter of a client, and taken off what it gets: it sees nothing else.
    pub mount_point: Option<Template>,
    /// What topics and filters of clients become, before the mount point.
    pub rewrites: Arc<[Rewrite]>,
    /// What clients are subscribed to when they come.
    pub auto_subscriptions: Arc<[AutoSubscription]>,
    /// Longest delay of `$delayed/{seconds}/{topic}`, in seconds; 0: such topics are refused (0x90). Default
    /// 42,949,670, some 497 days.
    pub delay_max_s: u32,
    /// Messages that may wait for their time; one more is refused (0x97). Default 1,000,000.
    pub delayed_messages_max: u64,
}

impl Limits {
    /// The server reference that goes with a reason.
    pub(crate) fn reference_for(&self, reason: ReasonCode) -> Option<&str> {
        let elsewhere = matches!(
            reason,
            ReasonCode::UseAnotherServer | ReasonCode::ServerMoved
        );
        Some(&*self.server_reference).filter(|to| elsewhere && !to.is_empty())
    }

    /// Seconds that a message lives that wants to live so long.
    pub(crate) fn message_expiry_s(&self, asked: Option<u32>) -> Option<u32> {
        match self.message_expiry_max_s {
            0 => asked,
            max => Some(asked.map_or(max, |asked| asked.min(max))),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            packet_bytes_max: 2 * 1024 * 1024,
            receive_max: 1024,
            unreleased_bytes: 16 * 1024 * 1024,
            publish_rate_max: 0,
            fast_publisher: FastPublisher::default(),
            receive_max_enforcement: Enforcement::default(),
            window: 256,
            topic_aliases_in: 32,
            topic_aliases_out: 16,
            keep_alive_max_s: 0,
            long_keep_alive: LongKeepAlive::default(),
            keep_alive_percent: 150,
            connect_timeout_ms: 10_000,
            session_expiry_max_s: u32::MAX,
            session_expiry_v3_s: u32::MAX,
            sessions_max: 1_000_000,
            queue_messages: 8192,
            queue_bytes: 16 * 1024 * 1024,
            queue_policy: QueuePolicy::default(),
            subscriptions_max: 100_000,
            overlap: Overlap::default(),
            qos2_routing: Qos2Routing::default(),
            qos_max: Qos::ExactlyOnce,
            retain_available: true,
            wildcards_available: true,
            shared_available: true,
            shares: Arc::default(),
            subscription_ids_available: true,
            empty_client_id: true,
            client_id_bytes_max: 65_535,
            client_id_prefix: "auto-".into(),
            topic_levels_max: 128,
            bad_password_is_not_authorized: false,
            unknown_release_is_told: false,
            denied_publish: DeniedPublish::default(),
            denied_disconnects: false,
            upgrade_qos: false,
            client_id_prefixes: Arc::new([]),
            will_at_takeover: true,
            server_reference: "".into(),
            response_information: "".into(),
            versions: Versions::ALL,
            connection_max_ms: 0,
            payload_format_checked: false,
            retain_source_checked: false,
            message_expiry_max_s: 0,
            mount_point: None,
            rewrites: Arc::new([]),
            auto_subscriptions: Arc::new([]),
            delay_max_s: 42_949_670,
            delayed_messages_max: 1_000_000,
        }
    }
}

/// Whose habits the limits follow, as far as this broker has the same settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Longtail's own.
    #[default]
    Default,
    /// Mosquitto 2.1.
    Mosquitto,
    /// Mochi MQTT 2.7.
    Mochi,
    /// EMQX 6.
    Emqx,
    /// NanoMQ 0.2x.
    Nanomq,
    /// VerneMQ 2.
    Vernemq,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 6] = [
        Profile::Default,
        Profile::Mosquitto,
        Profile::Mochi,
        Profile::Emqx,
        Profile::Nanomq,
        Profile::Vernemq,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Mosquitto => "mosquitto",
            Profile::Mochi => "mochi",
            Profile::Emqx => "emqx",
            Profile::Nanomq => "nanomq",
            Profile::Vernemq => "vernemq",
        }
    }

    /// The limits that a client of that broker is used to; packets are 16 MiB at most, which is what a listener has room
    /// for by default.
    #[must_use]
    pub fn limits(self) -> Limits {
        let own = Limits::default();
        match self {
            Profile::Default => own,
            Profile::Mosquitto => Limits {
                packet_bytes_max: 2_000_000,
                receive_max: 20,
                receive_max_enforcement: Enforcement::Warn,
                window: 20,
                topic_aliases_in: 10,
                topic_aliases_out: 10,
                queue_messages: 1000,
                bad_password_is_not_authorized: true,
                will_at_takeover: false,
                retain_source_checked: true,
                ..own
            },
            Profile::Mochi => Limits {
                packet_bytes_max: 16 * 1024 * 1024,
                receive_max: 1024,
                window: 8192,
                topic_aliases_in: 65_535,
                topic_aliases_out: 65_535,
                queue_messages: 8192,
                overlap: Overlap::Merge,
                qos2_routing: Qos2Routing::AtPublish,
                unknown_release_is_told: true,
                long_keep_alive: LongKeepAlive::Lower,
                message_expiry_max_s: 86_400,
                denied_publish: DeniedPublish::Disconnect,
                ..own
            },
            Profile::Emqx => Limits {
                packet_bytes_max: 1024 * 1024,
                receive_max: 32,
                window: 32,
                topic_aliases_in: 65_535,
                topic_aliases_out: 65_535,
                session_expiry_max_s: 7200,
                session_expiry_v3_s: 7200,
                queue_messages: 1000,
                queue_policy: QueuePolicy::DropOldest,
                connect_timeout_ms: 15_000,
                ..own
            },
            Profile::Nanomq => Limits {
                packet_bytes_max: 16 * 1024 * 1024,
                window: 2048,
                topic_aliases_in: 1024,
                topic_aliases_out: 0,
                keep_alive_percent: 125,
                queue_messages: 2048,
                ..own
            },
            Profile::Vernemq => Limits {
                packet_bytes_max: 16 * 1024 * 1024,
                receive_max: 65_535,
                window: 20,
                topic_aliases_in: 0,
                topic_aliases_out: 0,
                connect_timeout_ms: 5000,
                client_id_bytes_max: 100,
                topic_levels_max: 10,
                queue_messages: 1000,
                // Of the members of this node any, and there is one.
                shares: Arc::new(Shares {
                    strategy: ShareStrategy::Random,
                    ..Shares::default()
                }),
                ..own
            },
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No such profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no profile {0:?}")]
pub struct UnknownProfile(pub String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Profile::ALL
            .into_iter()
            .find(|profile| profile.as_str() == text)
            .ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}
