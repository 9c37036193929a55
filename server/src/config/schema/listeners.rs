//! What each listener has of its own.

use super::{GIB, HOUR, KIB, Key, Kind, MIB, key};

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
        "unix_mode",
        Kind::Number(0, 0o777),
        None,
        "Permission bits of a Unix socket's file, in octal, as in 0o660. What the umask leaves.",
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
        "ocsp_response",
        Kind::Path,
        None,
        "File with an OCSP response for the certificate, in DER, that is stapled for clients that ask. Read again likewise.",
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
