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
    /// Tables that the broker reads itself.
    Documents,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
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

/// Protocols this build speaks, with the address each listens on by default.
pub(crate) const PROTOCOLS: &[(&str, &str)] = &[("beanstalk", "127.0.0.1:11300")];

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
        Some("50"),
        "With durability = \"interval\": how often the log is synced, and so how much a power cut can take.",
    ),
    key(
        "shards",
        Kind::Number(1, 256),
        Some("1"),
        "Number of logs that streams are spread over. Fixed when the data directory is created.",
    ),
    key("workers", Kind::Number(0, 1024), Some("0"), "Threads that serve connections. 0: one for every core."),
    key(
        "log.segment_bytes",
        Kind::Bytes(MIB, 4 * GIB),
        Some("67108864"),
        "Size of a log file. Space is given back in units of it.",
    ),
    key(
        "log.tail_cache_bytes",
        Kind::Bytes(MIB, 16 * GIB),
        Some("16777216"),
        "Memory, for each shard, that keeps the newest records for readers that follow closely.",
    ),
    key(
        "log.checkpoint_bytes",
        Kind::Bytes(MIB, 64 * GIB),
        Some("67108864"),
        "Log written between two checkpoints: bounds what has to be read at a start.",
    ),
    key(
        "log.reserve_bytes",
        Kind::Bytes(0, 1024 * GIB),
        Some("67108864"),
        "Free disk space below which new messages are refused, so that consumers can still settle what they hold.",
    ),
    key(
        "limits.connections_max",
        Kind::Number(1, 10_000_000),
        Some("16384"),
        "Connections over all protocols. Further ones are closed at once.",
    ),
    key(
        "limits.message_bytes",
        Kind::Bytes(KIB, GIB),
        Some("16777216"),
        "Largest message in any protocol. A protocol's own limit may be lower.",
    ),
    key(
        "limits.outbox_bytes",
        Kind::Bytes(4 * KIB, GIB),
        Some("4194304"),
        "Answers and deliveries that wait for a client that does not read. Beyond it nothing more is read from that \
         client.",
    ),
    key(
        "limits.handshake_ms",
        Kind::Millis(100, HOUR),
        Some("10000"),
        "Time a new connection has to finish TLS, PROXY and WebSocket handshakes.",
    ),
    key(
        "limits.drain_ms",
        Kind::Millis(0, HOUR),
        Some("10000"),
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
    key("beanstalk.space", Kind::Text, Some("\"default\""), "Space in which tubes are streams."),
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
    key("accounts", Kind::Documents, None, "Who may connect. Without any, listeners accept this machine only."),
    key("spaces", Kind::Documents, None, "Tenants, and what each may use."),
];

/// The keys of one listener.
pub(crate) const LISTENER_KEYS: &[Key] = &[
    key("address", Kind::Text, None, "HOST:PORT, [IPV6]:PORT or unix:PATH."),
    key("account", Kind::Text, None, "Account that every connection of this listener belongs to."),
    key("websocket", Kind::Switch, None, "Whether the protocol is spoken inside WebSocket frames."),
    key("proxy_protocol", Kind::Switch, None, "Whether a PROXY protocol header (v1 or v2) precedes each connection."),
    key("tls", Kind::Documents, None, "Speak TLS; see the keys tls.*."),
];

/// The keys of `tls` in a listener.
pub(crate) const TLS_KEYS: &[Key] = &[
    key("cert", Kind::Path, None, "PEM file with the certificate chain. Read again on SIGHUP."),
    key("key", Kind::Path, None, "PEM file with the private key. Read again on SIGHUP."),
    key("client_ca", Kind::Path, None, "PEM file with the authorities that sign client certificates."),
    key("require", Kind::Switch, None, "Whether a client must present a certificate (needs client_ca)."),
];

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, help: &'static str) -> Key {
    Key { path, kind, default, help }
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
    PROTOCOLS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Whether settings lie below `path`.
pub(crate) fn is_section(path: &str) -> bool {
    path == LISTENERS || KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// What to say about a path that does not exist.
pub(crate) fn unknown(path: &str) -> String {
    use super::suggest::{hint, nearest};
    if let Some(protocol) = path.strip_prefix("listeners.") {
        let near = hint(protocol, PROTOCOLS.iter().map(|(name, _)| *name));
        let known = if near.is_empty() { format!(": this build speaks {}", protocol_names()) } else { near };
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
    let sections = KEYS.iter().filter_map(|key| key.path.split_once('.').map(|(section, _)| section));
    match found {
        Some(found) => format!("unknown key `{path}`: did you mean `{found}`?"),
        None => format!("unknown key `{path}`{}", hint(path, sections)),
    }
}
