//! The list of all settings: path, type, default, effect.
//!
//! A key that is not here does not exist. A new setting is one line here and one field in `settings.rs`; the tests
//! hold the two together.

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

/// Name of the admin service in `--listen`.
pub(crate) const ADMIN: &str = "admin";

/// All settings but the listeners, top-level ones first, sections together.
pub(crate) const KEYS: &[Key] = &[
    key(
        "data",
        Kind::Path,
        Some("\"./longtail-data\""),
        "Directory that holds everything durable. Created if absent; one server at a time.",
    ),
    key(
        "durability",
        Kind::Choice(&["sync", "interval", "memory"]),
        Some("\"sync\""),
        "What an acknowledgement means. sync: on the disk (fdatasync), survives a power cut. interval: handed to the \
         operating system and synced every interval_ms, survives kill -9. memory: never written.",
    ),
    key(
        "interval_ms",
        Kind::Millis(1, 60_000),
        Some("\"50ms\""),
        "With durability = \"interval\": how often the log is synced, and so how much a power cut can take.",
    ),
    key(
        "shards",
        Kind::Number(0, 256),
        Some("0"),
        "Number of logs that streams are spread over. Fixed when the data directory is created. 0: one for every core, \
         at most 8.",
    ),
    key(
        "workers",
        Kind::Number(0, 1024),
        Some("0"),
        "Threads that serve connections. 0: one for every core.",
    ),
    key(
        "anonymous",
        Kind::Text,
        Some("\"\""),
        "Account of clients that show no credentials, where there are accounts; empty: they are refused.",
    ),
    key(
        "log.segment_bytes",
        Kind::Bytes(MIB, 4 * GIB),
        Some("\"64MiB\""),
        "Size of a log file, but for a frame that is larger. Space is given back in units of it.",
    ),
    key(
        "log.tail_bytes",
        Kind::Bytes(MIB, 16 * GIB),
        Some("\"8MiB\""),
        "Memory, for each shard, that keeps the newest records for readers that follow closely.",
    ),
    key(
        "log.index_bytes",
        Kind::Bytes(MIB, 64 * GIB),
        Some("\"16MiB\""),
        "Memory, for each shard, for the sealed parts of the indexes of its queues: about 2 to 4 bytes a message. What \
         is beyond it lies in files, and is read when a consumer comes to it.",
    ),
    key(
        "limits.connections_max",
        Kind::Number(1, 10_000_000),
        Some("65536"),
        "Connections over all protocols. Further ones are closed at once.",
    ),
    key(
        "limits.message_bytes",
        Kind::Bytes(KIB, GIB),
        Some("\"16MiB\""),
        "Largest message in any protocol. A protocol's own limit may be lower.",
    ),
    key(
        "limits.streams_max",
        Kind::Number(1, 100_000_000),
        Some("1000000"),
        "Streams that may exist, for each shard.",
    ),
    key(
        "limits.retained_messages_max",
        Kind::Number(1, 100_000_000),
        Some("1000000"),
        "Subjects with a retained message, for each space. Further ones are refused.",
    ),
    key(
        "limits.retained_bytes",
        Kind::Bytes(KIB, 1024 * GIB),
        Some("\"512MiB\""),
        "Memory for retained messages, for each space: subjects, headers, bodies and what it takes to find them.",
    ),
    key(
        "limits.memory_streams_bytes",
        Kind::Bytes(MIB, 1024 * GIB),
        Some("\"4GiB\""),
        "What streams that are kept in memory only may hold together.",
    ),
    key(
        "limits.memory_bytes",
        Kind::Bytes(MIB, 1024 * GIB),
        Some("\"512MiB\""),
        "Answers that wait and messages half read, of all connections together. Beyond it nothing more is read from \
         clients that hold more than 16KiB of it; beyond half as much again, from nobody.",
    ),
    key(
        "limits.drain_ms",
        Kind::Millis(0, HOUR),
        Some("\"10s\""),
        "Time that connections have to finish after SIGTERM before they are closed.",
    ),
    key(
        "admin.listen",
        Kind::AddressOrOff,
        Some("\"127.0.0.1:9400\""),
        "Address of the HTTP service with /metrics, /healthz, /readyz and the admin API. \"off\": none.",
    ),
    key(
        "admin.token",
        Kind::Secret,
        Some("\"\""),
        "Bearer token that the admin API asks for. Empty: none, and then only a loopback address is allowed.",
    ),
    key(
        "admin.metrics_streams_max",
        Kind::Number(0, 100_000),
        Some("200"),
        "Streams with time series of their own in /metrics. The rest is summed up under stream=\"other\".",
    ),
    key(
        "beanstalk.space",
        Kind::Text,
        Some("\"default\""),
        "Space in which tubes are streams.",
    ),
    key(
        "beanstalk.job_bytes",
        Kind::Bytes(1, GIB),
        Some("65535"),
        "Largest job, as beanstalkd's -z. Larger ones are answered JOB_TOO_BIG.",
    ),
    key(
        "beanstalk.drain",
        Kind::Switch,
        Some("false"),
        "Start in drain mode: put is answered DRAINING. SIGUSR1 switches it on in a running server.",
    ),
    key(
        "amqp.space",
        Kind::Text,
        Some("\"default\""),
        "Space that is the vhost \"/\". Any other vhost is the space of its name.",
    ),
    key(
        "amqp.message_bytes",
        Kind::Bytes(1, GIB),
        Some("\"16MiB\""),
        "Largest message. A publish of more closes its channel with 406 PRECONDITION_FAILED.",
    ),
    key(
        "amqp.frame_bytes_max",
        Kind::Bytes(4096, 16 * MIB),
        Some("131072"),
        "Largest frame that is agreed upon with a client.",
    ),
    key(
        "amqp.channels_max",
        Kind::Number(1, 65_535),
        Some("2047"),
        "Channels of one connection.",
    ),
    key(
        "amqp.heartbeat_s",
        Kind::Number(0, 3600),
        Some("60"),
        "Seconds between heartbeats that are proposed to clients. 0: none.",
    ),
    key(
        "amqp.consumer_timeout_ms",
        Kind::Millis(0, 24 * HOUR),
        Some("0"),
        "How long a consumer may hold a message that neither it nor its queue says how long: it is cancelled then. 0: for ever.",
    ),
    key(
        "amqp.disk_free_bytes_min",
        Kind::Bytes(0, i64::MAX),
        Some("50000000"),
        "While less is free on the disk of the log, clients that publish are blocked. 0: they never are.",
    ),
    key(
        "amqp.memory_percent_max",
        Kind::Number(0, 100),
        Some("60"),
        "While the process has more of the machine's memory, clients that publish are blocked. 0: they never are.",
    ),
    key(
        "amqp.product",
        Kind::Text,
        Some("\"Longtail\""),
        "What the server says that it is. Some clients change their ways when it is \"RabbitMQ\".",
    ),
    key(
        "amqp.subjects_exchange",
        Kind::Text,
        Some("\"amq.topic\""),
        "Topic exchange of every vhost that is the subjects of its space, where MQTT and AMQP meet. \"\": none.",
    ),
    key(
        "amqp.management_version",
        Kind::Text,
        Some("\"3.13.7\""),
        "The version of RabbitMQ that the management API says it has: tools look for what came with which.",
    ),
    key(
        "amqp.definitions",
        Kind::Text,
        Some("\"\""),
        "File of definitions, in RabbitMQ's JSON, that is imported before the listeners open; empty: none. Entries that \
         cannot be had are skipped and named in the log.",
    ),
    key(
        "mqtt.space",
        Kind::Text,
        Some("\"default\""),
        "Space whose subjects the topics are.",
    ),
    key(
        "mqtt.profile",
        Kind::Choice(&["default", "mosquitto", "mochi", "emqx", "nanomq", "vernemq"]),
        Some("\"default\""),
        "Broker whose limits and habits clients find, where the settings below do not say otherwise.",
    ),
    key(
        "mqtt.packet_bytes_max",
        Kind::Bytes(KIB, 256 * MIB),
        None,
        "Largest packet. Told to clients of 5.0; a larger one ends the connection. 2MiB.",
    ),
    key(
        "mqtt.receive_max",
        Kind::Number(1, 65_535),
        None,
        "QoS 1 and 2 messages that a client may have unacknowledged. 1024.",
    ),
    key(
        "mqtt.publish_rate_max",
        Kind::Number(0, 10_000_000),
        None,
        "Messages that one client may publish a second; a second's worth may come at once. 0: any number. 0.",
    ),
    key(
        "mqtt.fast_publisher",
        Kind::Choice(&["wait", "disconnect"]),
        None,
        "What becomes of a client that publishes more: it is not read from for a while, or it has to go (0x96). wait.",
    ),
    key(
        "mqtt.server_reference",
        Kind::Text,
        None,
        "Other servers, HOST[:PORT] separated by blanks: told to clients of 5.0 that are sent elsewhere (0x9C, 0x9D), as all \
         are when the server stops. Empty: none.",
    ),
    key(
        "mqtt.window",
        Kind::Number(1, 65_535),
        None,
        "QoS 1 and 2 messages sent to a client and not acknowledged by it; its own receive maximum may be lower. 256.",
    ),
    key(
        "mqtt.topic_aliases_in",
        Kind::Number(0, 65_535),
        None,
        "Topic aliases that a client may define. 32.",
    ),
    key(
        "mqtt.topic_aliases_out",
        Kind::Number(0, 65_535),
        None,
        "Topic aliases that are given to a client that takes them. 16.",
    ),
    key(
        "mqtt.keep_alive_max_s",
        Kind::Number(0, 65_535),
        None,
        "Longest keep alive in seconds; 0: any. 0.",
    ),
    key(
        "mqtt.connect_timeout_ms",
        Kind::Millis(100, HOUR),
        None,
        "Time that a new connection has for its CONNECT. 10s.",
    ),
    key(
        "mqtt.session_expiry_max_s",
        Kind::Number(0, 4_294_967_295),
        None,
        "Longest time in seconds that a session outlives its connection; 4294967295: for ever. For ever.",
    ),
    key(
        "mqtt.session_expiry_v3_s",
        Kind::Number(0, 4_294_967_295),
        None,
        "The same for clients before 5.0 with clean session off, which cannot say it. For ever.",
    ),
    key(
        "mqtt.sessions_max",
        Kind::Number(1, 100_000_000),
        None,
        "Sessions, connected or not. 1000000.",
    ),
    key(
        "mqtt.queue_messages",
        Kind::Number(0, 100_000_000),
        None,
        "QoS 1 and 2 messages that wait behind the window of a session. 8192.",
    ),
    key(
        "mqtt.queue_bytes",
        Kind::Bytes(0, 1024 * GIB),
        None,
        "Payload bytes of these. 16MiB.",
    ),
    key(
        "mqtt.queue_policy",
        Kind::Choice(&["drop-newest", "drop-oldest", "disconnect"]),
        None,
        "What happens when a session's queue is full. drop-newest.",
    ),
    key(
        "mqtt.overlap",
        Kind::Choice(&["each", "merge"]),
        None,
        "Copies of a message that several subscriptions of a client match: one for each, or one. each.",
    ),
    key(
        "mqtt.share_strategy",
        Kind::Choice(SHARE_STRATEGIES),
        None,
        "Which member of a shared subscription gets a message. round-robin.",
    ),
    key(
        "mqtt.share_strategies",
        Kind::Texts,
        Some("[]"),
        "Others for single groups, as in [\"billing=sticky\", \"audit=hash-topic\"].",
    ),
    key(
        "mqtt.subscriptions_max",
        Kind::Number(0, 100_000_000),
        None,
        "Subscriptions of a session. 100000.",
    ),
    key(
        "mqtt.qos_max",
        Kind::Number(0, 2),
        None,
        "Highest QoS of publishes and subscriptions. 2.",
    ),
    key(
        "mqtt.retain_available",
        Kind::Switch,
        None,
        "Whether messages may be retained. true.",
    ),
    key(
        "mqtt.wildcards_available",
        Kind::Switch,
        None,
        "Whether filters may have wildcards. true.",
    ),
    key(
        "mqtt.shared_available",
        Kind::Switch,
        None,
        "Whether subscriptions may be shared. true.",
    ),
    key(
        "mqtt.subscription_ids_available",
        Kind::Switch,
        None,
        "Whether subscriptions may have identifiers. true.",
    ),
    key(
        "mqtt.empty_client_id",
        Kind::Switch,
        None,
        "Whether a client may come without an identifier; it is given one. true.",
    ),
    key(
        "mqtt.client_id_prefix",
        Kind::Text,
        None,
        "What given identifiers begin with. auto-.",
    ),
    key(
        "mqtt.client_id_prefixes",
        Kind::Texts,
        Some("[]"),
        "What client identifiers have to begin with, one of these; others are refused (0x87). Empty: with anything.",
    ),
    key(
        "mqtt.upgrade_qos",
        Kind::Switch,
        Some("false"),
        "Whether messages are sent at the QoS of the subscription, also those that were published at a lower one. What was \
         published at QoS 0 is kept for nobody who is away all the same.",
    ),
    key(
        "mqtt.topic_levels_max",
        Kind::Number(1, 128),
        None,
        "Levels of a topic or filter. 128.",
    ),
    key(
        "mqtt.will_at_takeover",
        Kind::Switch,
        None,
        "Whether the will of a connection is published when another one of the same client takes its session over. true.",
    ),
    key(
        "mqtt.sys_interval_s",
        Kind::Number(0, 86_400),
        Some("10"),
        "Seconds between two looks at what the topics under $SYS say, which are in memory only; 0: there are none.",
    ),
    key(
        "mqtt.versions",
        Kind::Texts,
        None,
        "Versions that clients may speak: \"3.1\", \"3.1.1\", \"5.0\". Others are refused. All.",
    ),
    key(
        "mqtt.payload_format_checked",
        Kind::Switch,
        Some("false"),
        "Whether messages that say they are UTF-8 (payload format indicator) are looked at; others are refused (0x99).",
    ),
    key(
        "mqtt.message_expiry_max_s",
        Kind::Number(0, 4_294_967_295),
        None,
        "Longest time in seconds that a message lives, of those too that name none; 0: as long as they say. 0.",
    ),
    key(
        "mqtt.delay_max_s",
        Kind::Number(0, 42_949_670),
        Some("42949670"),
        "Longest delay in seconds of messages to $delayed/SECONDS/TOPIC; 0: such topics are refused.",
    ),
    key(
        "mqtt.delayed_messages_max",
        Kind::Number(1, 1_000_000_000),
        Some("1000000"),
        "Messages that may wait for their time; one more is refused (0x97). Fixed when the first one is stored.",
    ),
    key(
        "mqtt.flapping_connects_max",
        Kind::Number(0, 1_000_000),
        Some("0"),
        "Connects of one client within flapping_window_ms that get it banned for flapping_ban_ms; 0: nobody counts.",
    ),
    key(
        "mqtt.flapping_window_ms",
        Kind::Millis(1000, 24 * HOUR),
        Some("\"1m\""),
        "Time in which connects are counted.",
    ),
    key(
        "mqtt.flapping_ban_ms",
        Kind::Millis(1000, 30 * 24 * HOUR),
        Some("\"5m\""),
        "Time for which a client that connects too often is banned.",
    ),
    key(
        "mqtt.dynamic_security_file",
        Kind::Text,
        Some("\"\""),
        "File of clients, groups and roles in the form of Mosquitto's dynamic security, which `mosquitto_ctrl dynsec init` \
         makes and the server rewrites: they are accounts, and are changed by messages to $CONTROL/dynamic-security/v1; \
         empty: none.",
    ),
    key(
        "mqtt.ledger_file",
        Kind::Text,
        Some("\"\""),
        "Mochi's ledger (YAML or JSON): who is let in beside the accounts, and an access list; read again at SIGHUP; empty: \
         none.",
    ),
    key(
        "mqtt.acl_file",
        Kind::Text,
        Some("\"\""),
        "Access list whose rules stand before those of all accounts, the first that fits decides; read again at SIGHUP; \
         empty: none.",
    ),
    key(
        "mqtt.acl_format",
        Kind::Choice(&["emqx", "nanomq"]),
        Some("\"emqx\""),
        "Format of that file: EMQX's acl.conf, or NanoMQ's nanomq_acl.conf.",
    ),
    key(
        "mqtt.acl_no_match",
        Kind::Choice(&["account", "allow", "deny"]),
        Some("\"account\""),
        "What holds where no rule of the list fits: what the client's account may do, or the same for everybody.",
    ),
    key(
        "mqtt.acl_deny_action",
        Kind::Choice(&["ignore", "disconnect"]),
        Some("\"ignore\""),
        "What a publish or subscription that is not allowed, by the list or otherwise, means beside its answer: nothing, or \
         the end of the connection (0x87).",
    ),
    key(
        "mqtt.rewrites",
        Kind::Documents,
        None,
        "Rules by which topics of clients become others: tables of on (publish, subscribe, all), topic, regex and target.",
    ),
    key(
        "mqtt.auto_subscriptions",
        Kind::Documents,
        None,
        "What clients are subscribed to when they connect: tables of filter (with %c, %u, %h), qos, no_local, \
         retain_as_published, retain_handling.",
    ),
    key(
        "logging.format",
        Kind::Choice(&["human", "json"]),
        Some("\"human\""),
        "Form of the log on standard error: for people, or one JSON object a line.",
    ),
    key(
        "logging.level",
        Kind::Text,
        Some("\"info\""),
        "error, warn, info, debug or trace; or filters as in \"info,longtail_edge=debug\".",
    ),
    key(
        "logging.topics",
        Kind::Switch,
        Some("false"),
        "Whether lines of the log, and who subscribes to what, are published under $SYS/broker/log/ too.",
    ),
    key(
        "accounts",
        Kind::Documents,
        None,
        "Who may connect. Without any, listeners accept this machine only.",
    ),
    key(
        "tokens",
        Kind::Documents,
        None,
        "Issuers of signed tokens (JWT) that are accepted as passwords.",
    ),
    key(
        "spaces",
        Kind::Documents,
        None,
        "Tenants, and what each may use.",
    ),
    key(
        "bridges",
        Kind::Documents,
        None,
        "Connections to other MQTT brokers, and what goes over each.",
    ),
];

/// The keys of one listener.
pub(crate) const LISTENER_KEYS: &[Key] = &[
    key(
        "address",
        Kind::Text,
        None,
        "HOST:PORT, [IPV6]:PORT or unix:PATH.",
    ),
    key(
        "account",
        Kind::Text,
        None,
        "Account that every connection of this listener belongs to.",
    ),
    key(
        "backlog",
        Kind::Number(1, 65_535),
        Some("1024"),
        "Connections the system queues before they are accepted.",
    ),
    key(
        "connections_max",
        Kind::Number(1, 10_000_000),
        Some("65536"),
        "Connections; one more is closed at once.",
    ),
    key(
        "connections_per_ip_max",
        Kind::Number(1, 10_000_000),
        None,
        "Connections from one IP address. No limit.",
    ),
    key(
        "accept_rate_per_second",
        Kind::Number(1, 10_000_000),
        None,
        "New connections a second. No limit.",
    ),
    key(
        "read_rate_bytes_per_second",
        Kind::Bytes(1, 1024 * GIB),
        None,
        "Bytes a second from a client. No limit.",
    ),
    key(
        "handshake_timeout_ms",
        Kind::Millis(100, HOUR),
        Some("\"10s\""),
        "Time for PROXY header, TLS and WebSocket handshake together.",
    ),
    key(
        "outbox_soft_bytes",
        Kind::Bytes(4 * KIB, 4 * GIB),
        Some("\"1MiB\""),
        "Waiting answers above which nothing more is read from a client.",
    ),
    key(
        "outbox_hard_bytes",
        Kind::Bytes(64 * KIB, 4 * GIB),
        Some("\"64MiB\""),
        "Waiting answers above which a client that does not read is closed. More than the largest message.",
    ),
    key(
        "input_max_bytes",
        Kind::Bytes(64 * KIB, 4 * GIB),
        Some("\"64MiB\""),
        "Input that may wait for one message to be complete.",
    ),
    key(
        "proxy",
        Kind::Table(PROXY_KEYS),
        None,
        "Ask for a PROXY protocol header (v1 or v2) on every connection.",
    ),
    key("tls", Kind::Table(TLS_KEYS), None, "Speak TLS."),
    key(
        "websocket",
        Kind::Table(WEBSOCKET_KEYS),
        None,
        "Speak the protocol inside WebSocket frames.",
    ),
    key(
        "mqtt",
        Kind::Table(MQTT_LISTENER_KEYS),
        None,
        "What clients of MQTT find at this listener in place of what the section `mqtt` says.",
    ),
];

/// The keys of `mqtt` in a listener.
const MQTT_LISTENER_KEYS: &[Key] = &[
    key(
        "anonymous",
        Kind::Text,
        None,
        "Account of clients that show no credentials here; empty: they are refused.",
    ),
    key(
        "mount_point",
        Kind::Text,
        None,
        "Put before every topic and filter of a client, and taken off again; %c is its identifier, %u its account or name.",
    ),
    key(
        "connection_max_ms",
        Kind::Millis(0, 10 * 365 * 24 * HOUR),
        Some("0"),
        "Longest time that a connection may last; then it ends (0xA0). 0: no limit.",
    ),
    key("versions", Kind::Texts, None, "As mqtt.versions."),
    key(
        "packet_bytes_max",
        Kind::Bytes(KIB, 256 * MIB),
        None,
        "As mqtt.packet_bytes_max.",
    ),
    key(
        "receive_max",
        Kind::Number(1, 65_535),
        None,
        "As mqtt.receive_max.",
    ),
    key(
        "publish_rate_max",
        Kind::Number(0, 10_000_000),
        None,
        "As mqtt.publish_rate_max.",
    ),
    key(
        "fast_publisher",
        Kind::Choice(&["wait", "disconnect"]),
        None,
        "As mqtt.fast_publisher.",
    ),
    key(
        "server_reference",
        Kind::Text,
        None,
        "As mqtt.server_reference.",
    ),
    key("window", Kind::Number(1, 65_535), None, "As mqtt.window."),
    key(
        "topic_aliases_in",
        Kind::Number(0, 65_535),
        None,
        "As mqtt.topic_aliases_in.",
    ),
    key(
        "topic_aliases_out",
        Kind::Number(0, 65_535),
        None,
        "As mqtt.topic_aliases_out.",
    ),
    key(
        "keep_alive_max_s",
        Kind::Number(0, 65_535),
        None,
        "As mqtt.keep_alive_max_s.",
    ),
    key(
        "connect_timeout_ms",
        Kind::Millis(100, HOUR),
        None,
        "As mqtt.connect_timeout_ms.",
    ),
    key(
        "session_expiry_max_s",
        Kind::Number(0, 4_294_967_295),
        None,
        "As mqtt.session_expiry_max_s.",
    ),
    key("qos_max", Kind::Number(0, 2), None, "As mqtt.qos_max."),
    key(
        "retain_available",
        Kind::Switch,
        None,
        "As mqtt.retain_available.",
    ),
    key(
        "wildcards_available",
        Kind::Switch,
        None,
        "As mqtt.wildcards_available.",
    ),
    key(
        "shared_available",
        Kind::Switch,
        None,
        "As mqtt.shared_available.",
    ),
    key(
        "subscription_ids_available",
        Kind::Switch,
        None,
        "As mqtt.subscription_ids_available.",
    ),
    key(
        "empty_client_id",
        Kind::Switch,
        None,
        "As mqtt.empty_client_id.",
    ),
    key(
        "client_id_prefix",
        Kind::Text,
        None,
        "As mqtt.client_id_prefix.",
    ),
    key(
        "topic_levels_max",
        Kind::Number(1, 128),
        None,
        "As mqtt.topic_levels_max.",
    ),
];

/// The keys of `proxy` in a listener.
const PROXY_KEYS: &[Key] = &[
    key(
        "trusted",
        Kind::Texts,
        None,
        "The proxies, as in [\"10.0.0.0/8\"]. Anybody else is refused.",
    ),
    key(
        "header_max_bytes",
        Kind::Bytes(16, 64 * KIB),
        Some("4096"),
        "Longest version 2 header.",
    ),
];

/// The keys of `tls` in a listener.
const TLS_KEYS: &[Key] = &[
    key(
        "certificate",
        Kind::Path,
        None,
        "PEM file with the certificate chain. Read again when it changes, and on SIGHUP.",
    ),
    key(
        "key",
        Kind::Path,
        None,
        "PEM file with the private key. Read again likewise.",
    ),
    key(
        "client_certificates",
        Kind::Choice(&["off", "optional", "required"]),
        Some("\"off\""),
        "Whether clients show a certificate.",
    ),
    key(
        "client_authorities",
        Kind::Path,
        None,
        "PEM file with the authorities that sign client certificates.",
    ),
    key(
        "client_revocations",
        Kind::Path,
        None,
        "PEM file with their revocation lists: revoked certificates are refused, and those without a valid list. Read again \
         likewise.",
    ),
    key(
        "alpn",
        Kind::Texts,
        None,
        "Protocols offered by ALPN, the preferred first.",
    ),
];

/// The keys of `websocket` in a listener.
const WEBSOCKET_KEYS: &[Key] = &[
    key(
        "frame_max_bytes",
        Kind::Bytes(KIB, GIB),
        Some("\"16MiB\""),
        "Largest incoming frame or message.",
    ),
    key(
        "origins",
        Kind::Texts,
        None,
        "Web pages that may connect, as in [\"https://app.example.org\"]; \"*\": all.",
    ),
    key(
        "trusted_proxies",
        Kind::Texts,
        None,
        "Proxies whose X-Forwarded-For says where a client comes from, as in [\"10.0.0.0/8\"].",
    ),
];

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
