//! Addresses to listen on, as people write them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a listener waits for connections: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    /// A TCP port.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port; 0 lets the system choose.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            ListenAddress::Unix(_) => true,
            ListenAddress::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ListenAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// Nothing after `unix:`.
    #[error("`unix:` needs a path, as in unix:/run/longtail.sock")]
    NoPath,
    /// No port.
    #[error("`{0}` has no port: write HOST:PORT, [IPV6]:PORT or unix:PATH")]
    NoPort(String),
    /// No host.
    #[error("`{0}` has no host: write 127.0.0.1{0} for this machine only, 0.0.0.0{0} for all interfaces")]
    NoHost(String),
    /// Not a port number.
    #[error("`{0}` is not a port: 0 to 65535")]
    Port(String),
    /// An IPv6 address without brackets.
    #[error("`{0}` looks like an IPv6 address: put it in brackets, as in [::1]:11300")]
    Brackets(String),
    /// No `=`.
    #[error("`{0}`: write PROTOCOL=HOST:PORT or PROTOCOL=unix:PATH")]
    NoProtocol(String),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(AddressError::NoPath);
            }
            return Ok(ListenAddress::Unix(PathBuf::from(path)));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => inner,
            Some(_) => return Err(AddressError::NoPort(text.to_owned())),
            None if host.contains(':') => return Err(AddressError::Brackets(text.to_owned())),
            None => host,
        };
        if host.is_empty() {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        let port = port.parse().map_err(|_| AddressError::Port(port.to_owned()))?;
        Ok(ListenAddress::Tcp { host: host.to_owned(), port })
    }
}

/// The value of one `--listen` flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenFlag {
    /// The protocol, or `admin`.
    pub(crate) protocol: String,
    /// Where.
    pub(crate) address: ListenAddress,
}

impl FromStr for ListenFlag {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, address) = text.split_once('=').ok_or_else(|| AddressError::NoProtocol(text.to_owned()))?;
        if protocol.is_empty() {
            return Err(AddressError::NoProtocol(text.to_owned()));
        }
        Ok(ListenFlag { protocol: protocol.to_owned(), address: address.parse()? })
    }
}
