//! Settings of the edge and of each listener. Every limit says what happens when it is reached.

use serde::Deserialize;

use crate::address::Address;
use crate::cidr::Cidr;
use crate::tls::TlsConfig;
use crate::websocket::WebSocketConfig;

/// Settings shared by all listeners.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeConfig {
    /// Worker threads; 0 (default) is one per processor.
    pub workers: usize,
    /// Connections of all listeners together (default 65,536). One more is accepted and closed at once, so that the
    /// client learns it now instead of waiting in the backlog; counted as refused.
    pub connections_max: usize,
    /// Bytes that may wait in the outboxes and half-read messages of all connections together (default 512 MiB). Above it
    /// nothing more is read from clients that hold more than 16 KiB of it, and from half as much again on from any
    /// client, until less is held. The largest holders among the connections that have not moved for
    /// [`stall_ms`](Self::stall_ms) are closed at once; when the budget stays exceeded that long, the largest holder of
    /// all. Both are counted.
    pub memory_max_bytes: usize,
    /// How long a connection may be stuck, in milliseconds, before it can be closed for the memory it holds
    /// (default 10,000).
    pub stall_ms: u64,
    /// How often timeouts are looked at, in milliseconds (default 250): every timeout is noticed up to this much late.
    pub sweep_ms: u64,
    /// How long a closing connection may take to read its last bytes and close its side, in milliseconds (default
    /// 5,000); then it is cut.
    pub linger_ms: u64,
    /// How often the files of TLS listeners are looked at for changes, in milliseconds (default 10,000).
    pub tls_poll_ms: u64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        EdgeConfig {
            workers: 0,
            connections_max: 65_536,
            memory_max_bytes: 512 * 1024 * 1024,
            stall_ms: 10_000,
            sweep_ms: 250,
            linger_ms: 5_000,
            tls_poll_ms: 10_000,
        }
    }
}

/// Settings of one listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where to bind: `HOST:PORT` or `unix:PATH`.
    pub address: Address,
    /// Permission bits of a Unix socket's file, for example `0o660` to let a group in (default: what the umask leaves,
    /// usually the owner only). Whoever may write to the file may connect.
    #[serde(default)]
    pub unix_mode: Option<u32>,
    /// Connections the system queues before they are accepted (default 1,024). Beyond it clients retry or time out.
    #[serde(default = "defaults::backlog")]
    pub backlog: u32,
    /// Connections of this listener (default 65,536). One more is accepted and closed at once; counted as refused.
    #[serde(default = "defaults::connections_max")]
    pub connections_max: usize,
    /// Connections of this listener from one IP address (default: no limit); behind a proxy, the address the proxy
    /// names. One more is closed at once; counted as refused.
    #[serde(default)]
    pub connections_per_ip_max: Option<usize>,
    /// Connections accepted a second, with a burst of as many (default: no limit). The rest waits in the backlog.
    #[serde(default)]
    pub accept_rate_per_second: Option<u32>,
    /// How long PROXY header, TLS and WebSocket handshake may take together, in milliseconds (default 10,000); then
    /// the connection is closed and counted as refused. Plain listeners have no handshake.
    #[serde(default = "defaults::handshake_timeout_ms")]
    pub handshake_timeout_ms: u64,
    /// Bytes read from one connection a second, with a burst of as many (default: no limit). A faster client is held up
    /// by its socket.
    #[serde(default)]
    pub read_rate_bytes_per_second: Option<u64>,
    /// Outbox size above which nothing more is read from a client until half of it is written (default 1 MiB).
    #[serde(default = "defaults::outbox_soft_bytes")]
    pub outbox_soft_bytes: usize,
    /// The slow-consumer limit (default 64 MiB): a client whose outbox still holds more after the socket took what it
    /// could is closed at once, and counted. Must be larger than the largest message.
    #[serde(default = "defaults::outbox_hard_bytes")]
    pub outbox_hard_bytes: usize,
    /// Input that may wait for one message to be complete (default 64 MiB); beyond it the connection is closed.
    #[serde(default = "defaults::input_max_bytes")]
    pub input_max_bytes: usize,
    /// Asks for a PROXY protocol header on every connection (default: none is expected, and one is taken for input).
    #[serde(default)]
    pub proxy: Option<ProxyConfig>,
    /// Speaks TLS (default: plain).
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Speaks WebSocket (default: the bare protocol).
    #[serde(default)]
    pub websocket: Option<WebSocketConfig>,
}

/// PROXY protocol settings of a listener: with them, every connection must begin with a header, of version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// The proxies; a connection from anywhere else is refused. On a Unix socket everybody who can open it is one.
    pub trusted: Vec<Cidr>,
    /// Length of a version 2 header at most (default 4,096 bytes); a longer one is refused.
    #[serde(default = "defaults::header_max_bytes")]
    pub header_max_bytes: usize,
}

mod defaults {
    pub(super) fn backlog() -> u32 {
        1024
    }
    pub(super) fn connections_max() -> usize {
        65_536
    }
    pub(super) fn handshake_timeout_ms() -> u64 {
        10_000
    }
    pub(super) fn header_max_bytes() -> usize {
        4096
    }
    pub(super) fn outbox_soft_bytes() -> usize {
        1024 * 1024
    }
    pub(super) fn outbox_hard_bytes() -> usize {
        64 * 1024 * 1024
    }
    pub(super) fn input_max_bytes() -> usize {
        64 * 1024 * 1024
    }
}

impl ListenerConfig {
    /// A plain listener with the default limits.
    #[must_use]
    pub fn new(address: Address) -> Self {
        ListenerConfig {
            address,
            unix_mode: None,
            backlog: defaults::backlog(),
            connections_max: defaults::connections_max(),
            connections_per_ip_max: None,
            accept_rate_per_second: None,
            handshake_timeout_ms: defaults::handshake_timeout_ms(),
            read_rate_bytes_per_second: None,
            outbox_soft_bytes: defaults::outbox_soft_bytes(),
            outbox_hard_bytes: defaults::outbox_hard_bytes(),
            input_max_bytes: defaults::input_max_bytes(),
            proxy: None,
            tls: None,
            websocket: None,
        }
    }

    /// Whether anything comes between the socket and the protocol.
    pub(crate) fn has_handshake(&self) -> bool {
        self.proxy.is_some() || self.tls.is_some() || self.websocket.is_some()
    }
}

impl ProxyConfig {
    /// Trusts these proxies.
    #[must_use]
    pub fn new(trusted: Vec<Cidr>) -> Self {
        ProxyConfig {
            trusted,
            header_max_bytes: defaults::header_max_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_read_from_a_file_with_defaults_for_the_rest() {
        let text = r#"
            address = "127.0.0.1:8883"
            connections_per_ip_max = 10
            proxy = { trusted = ["10.0.0.0/8"] }
            websocket = {}
            [tls]
            certificate = "server.pem"
            key = "server.key"
            client_certificates = "optional"
            client_authorities = "ca.pem"
        "#;
        let config: ListenerConfig = toml::from_str(text).unwrap();
        assert_eq!(
            config.proxy,
            Some(ProxyConfig::new(vec!["10.0.0.0/8".parse().unwrap()]))
        );
        assert_eq!(config.connections_per_ip_max, Some(10));
        let plain = ListenerConfig {
            proxy: None,
            tls: None,
            websocket: None,
            connections_per_ip_max: None,
            ..config
        };
        assert_eq!(
            plain,
            ListenerConfig::new("127.0.0.1:8883".parse().unwrap())
        );
        assert_eq!(
            toml::from_str::<EdgeConfig>("").unwrap(),
            EdgeConfig::default()
        );
    }

    #[test]
    fn a_misspelt_setting_is_an_error() {
        let error =
            toml::from_str::<ListenerConfig>("address = \"[::1]:1\"\nbaklog = 3").unwrap_err();
        assert!(error.to_string().contains("baklog"), "{error}");
        let error = toml::from_str::<ListenerConfig>("address = \"nowhere\"").unwrap_err();
        assert!(error.to_string().contains("`nowhere`"), "{error}");
    }
}
