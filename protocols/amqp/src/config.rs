//! Settings of the AMQP service.

use std::sync::Arc;

/// Settings of the AMQP service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The space that is the vhost `/` (default `default`). Any other vhost is the space of its name.
    pub space: Arc<str>,
    /// Channels of one connection (default 2,047).
    pub channel_max: u16,
    /// Octets of a frame (default 131,072).
    pub frame_max: u32,
    /// Seconds between heartbeats that are proposed to clients (default 60; 0: none).
    pub heartbeat_s: u16,
    /// Milliseconds that a consumer may hold a message, where neither it nor its queue says so (default 0: for ever).
    pub consumer_timeout_ms: u64,
    /// `immediate`, `basic.recover` without requeue and `channel.flow` with `active=false` are refused with 540, as in
    /// RabbitMQ (default yes); otherwise they are served, as in LavinMQ.
    pub strict: bool,
    /// `basic.qos` also changes what the consumers that are there already may hold (default no, as in RabbitMQ; LavinMQ
    /// does).
    pub qos_updates_existing: bool,
    /// Octets of a message's body (default 16 MiB): a larger one closes its channel with 406. The listener's outbox
    /// limit has to be larger.
    pub message_bytes_max: u64,
    /// What `product` says in the server's properties (default `Longtail`). Some clients look for `RabbitMQ`.
    pub product: String,
    /// What `version` says there.
    pub version: String,
    /// The exchange of every vhost that is the subjects of its space (default `amq.topic`), where applications of other
    /// protocols and those of AMQP meet; `None`: they do not.
    pub subjects_exchange: Option<String>,
    /// The version of RabbitMQ that the management API says it has (default `3.13.7`).
    pub management_version: String,
    /// Bytes that have to be free on the disk of the log (default 50 MB; 0: any number): while there are less, clients
    /// that publish are blocked.
    pub disk_free_bytes_min: u64,
    /// Percent of the machine's memory that the process may have (default 60; 0: any), with the same effect.
    pub memory_percent_max: u8,
    /// Milliseconds that a client has from connecting to `connection.open` (default 10,000).
    pub handshake_timeout_ms: u64,
    /// Publishes of one channel that may be on their way to the log (default 4,096). Beyond that, nothing more is read
    /// from the connection until half of them are stored.
    pub outstanding_max: usize,
    /// Octets of their bodies (default 8 MiB), with the same effect.
    pub outstanding_bytes_max: u64,
    /// Octets of messages that the transactions of one connection may gather before they are committed (default
    /// 32 MiB). Beyond that, the channel is closed with `PRECONDITION_FAILED`.
    pub transaction_bytes_max: u64,
    /// Exchanges of a vhost, those that are always there included (default 100,000). One more is refused with
    /// `PRECONDITION_FAILED`.
    pub exchanges_max: usize,
    /// Bindings of a vhost (default 1,000,000), with the same answer.
    pub bindings_max: usize,
    /// Consumers of a channel (default 10,000). One more ends the connection with `NOT_ALLOWED`.
    pub consumers_max: usize,
}

impl Config {
    /// Smallest frame that a client may ask for.
    pub const FRAME_MIN: u32 = 4096;

    /// Largest frame before the limits are agreed upon: a token as password needs room.
    pub const FRAME_GREETING: u32 = 64 * 1024;
}

impl Default for Config {
    fn default() -> Self {
        Config {
            space: "default".into(),
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat_s: 60,
            consumer_timeout_ms: 0,
            strict: true,
            qos_updates_existing: false,
            message_bytes_max: 16 * 1024 * 1024,
            product: "Longtail".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            subjects_exchange: Some("amq.topic".to_owned()),
            management_version: "3.13.7".to_owned(),
            disk_free_bytes_min: 50_000_000,
            memory_percent_max: 60,
            handshake_timeout_ms: 10_000,
            outstanding_max: 4096,
            outstanding_bytes_max: 8 * 1024 * 1024,
            transaction_bytes_max: 32 * 1024 * 1024,
            exchanges_max: 100_000,
            bindings_max: 1_000_000,
            consumers_max: 10_000,
        }
    }
}
