//! Where a listener binds and who is at the ends of a connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

/// Where a listener binds, written `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A TCP address. Port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// An address that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// `unix:` with nothing behind it.
    #[error("`unix:` needs a path, as in unix:/run/longtail.sock")]
    NoPath,
    /// Not of the form `HOST:PORT`, or a host that does not resolve.
    #[error("`{text}` is not HOST:PORT or unix:PATH: {why}")]
    NotAnAddress {
        /// What was given.
        text: String,
        /// What the resolver says.
        why: String,
    },
}

impl Address {
    /// Whether only this machine can reach a listener bound here.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(BadAddress::NoPath);
            }
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        let bad = |why: String| BadAddress::NotAnAddress {
            text: text.to_owned(),
            why,
        };
        // A literal address needs no resolver; a name takes the first address it stands for.
        if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        let mut resolved = text
            .to_socket_addrs()
            .map_err(|error| bad(error.to_string()))?;
        resolved
            .next()
            .map(Address::Tcp)
            .ok_or_else(|| bad("the name has no address".to_owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address; behind a proxy that speaks the PROXY protocol, the one the proxy names.
    Tcp(SocketAddr),
    /// A Unix socket, by the path of the listener.
    Unix(Arc<Path>),
}

impl Endpoint {
    /// The IP address, if there is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Endpoint::Tcp(address) => Some(address.ip()),
            Endpoint::Unix(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_back() {
        for text in ["127.0.0.1:11300", "[::1]:80", "unix:/run/longtail.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn only_loopback_and_unix_are_local() {
        let local = |text: &str| text.parse::<Address>().unwrap().is_local();
        assert!(local("127.0.0.1:1") && local("[::1]:1") && local("unix:x"));
        assert!(!local("0.0.0.0:1") && !local("10.0.0.1:1") && !local("[::]:1"));
    }

    #[test]
    fn nonsense_is_refused_with_the_text_in_the_error() {
        assert_eq!("unix:".parse::<Address>(), Err(BadAddress::NoPath));
        let error = "11300".parse::<Address>().unwrap_err();
        assert!(
            error.to_string().contains("`11300` is not HOST:PORT"),
            "{error}"
        );
    }
}
