//! Addresses of brokers, as shovels and upstreams have them: `amqp://user:password@host:port/vhost?heartbeat=10`
//! (RabbitMQ's URI specification and its query parameters).
//!
//! A host that is empty is this broker, reached inside the process. Names and passwords are percent-encoded.

use std::fmt;
use std::path::PathBuf;

use crate::percent;

/// Longest address, in bytes.
const LENGTH_MAX: usize = 4096;

/// Where a broker is, and how to log in there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// `None`: this process.
    pub(crate) host: Option<String>,
    pub(crate) port: u16,
    /// `None`: none was given; what that is depends on where it leads.
    pub(crate) login: Option<(String, String)>,
    pub(crate) vhost: String,
    /// It was said, and is not only the usual one.
    pub(crate) names_vhost: bool,
    /// Seconds; `None`: as the other side proposes.
    pub(crate) heartbeat_s: Option<u16>,
    /// Milliseconds from connecting to the open connection.
    pub(crate) timeout_ms: u64,
    /// `EXTERNAL` instead of `PLAIN`.
    pub(crate) external: bool,
    pub(crate) tls: Option<Tls>,
}

/// How the other side proves who it is, and this one, if it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// PEM file of authorities; `None`: those of the system.
    pub(crate) authorities: Option<PathBuf>,
    /// PEM files of a certificate and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// The name that its certificate must have; `None`: the host.
    pub(crate) server_name: Option<String>,
}

/// An address that is none, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAddress(String);

const AMQP: u16 = 5672;
const AMQPS: u16 = 5671;

/// Milliseconds that it may take to get there.
const TIMEOUT_MS: u64 = 30_000;

impl Address {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it. The text has no password in it.
    pub(crate) fn parse(text: &str) -> Result<Self, NoAddress> {
        let wrong = |why: &str| NoAddress(why.to_owned());
        if text.len() > LENGTH_MAX || text.chars().any(char::is_whitespace) {
            return Err(wrong("an address is at most 4,096 bytes without blanks"));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            _ if !text.contains("://") => return Err(wrong("amqp:// or amqps:// is expected")),
            "amqp" => false,
            "amqps" => true,
            _ => return Err(wrong("amqp:// or amqps:// is expected")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, Some(vhost)),
            None => (rest, None),
        };
        if vhost.is_some_and(|vhost| vhost.contains('/')) {
            return Err(wrong("the vhost has a slash that is not encoded as %2F"));
        }
        let (login, at) = match authority.rsplit_once('@') {
            Some((login, at)) => (Some(login), at),
            None => (None, authority),
        };
        let (host, port) = host_and_port(at)?;
        let mut address = Address {
            host: host.map(|host| percent::decode(&host)),
            port: port.unwrap_or(if tls { AMQPS } else { AMQP }),
            login: login.map(|login| {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (percent::decode(user), percent::decode(password))
            }),
            vhost: vhost.map_or_else(|| "/".to_owned(), percent::decode),
            names_vhost: vhost.is_some_and(|vhost| !vhost.is_empty()),
            heartbeat_s: None,
            timeout_ms: TIMEOUT_MS,
            external: false,
            tls: tls.then(Tls::default),
        };
        if address.vhost.is_empty() {
            // A slash and nothing behind it: of this process the vhost `/`, as without it.
            "/".clone_into(&mut address.vhost);
        }
        if address.host.is_none() && (tls || port.is_some()) {
            return Err(wrong("a host is missing"));
        }
        address.ask(query)?;
        Ok(address)
    }

    fn ask(&mut self, query: &str) -> Result<(), NoAddress> {
        let (mut certificate, mut key) = (None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = percent::decode(value);
            let number = || {
                let parsed = value.parse::<u64>().ok();
                parsed.ok_or_else(|| NoAddress(format!("{name} must be a number")))
            };
            match name {
                "heartbeat" => {
                    let seconds = u16::try_from(number()?).ok();
                    self.heartbeat_s =
                        Some(seconds.ok_or_else(|| NoAddress("heartbeat is too large".into()))?);
                }
                "connection_timeout" => self.timeout_ms = number()?.clamp(100, 600_000),
                // The smaller of two numbers is agreed upon anyway, and one channel is used.
                "channel_max" | "frame_max" => drop(number()?),
                "auth_mechanism" => match value.to_ascii_lowercase().as_str() {
                    "plain" => {}
                    "external" => self.external = true,
                    _ => return Err(NoAddress("auth_mechanism is plain or external".into())),
                },
                "password" | "user" => {
                    return Err(NoAddress("user and password come before the host".into()));
                }
                _ => {
                    let Some(tls) = &mut self.tls else {
                        return Err(NoAddress(format!("unknown parameter {name}")));
                    };
                    match name {
                        "cacertfile" => tls.authorities = Some(value.into()),
                        "certfile" => certificate = Some(PathBuf::from(value)),
                        "keyfile" => key = Some(PathBuf::from(value)),
                        "server_name_indication" if value != "disable" => {
                            tls.server_name = Some(value);
                        }
                        "verify" if value == "verify_peer" => {}
                        "verify" => {
                            return Err(NoAddress(
                                "verify must be verify_peer: a peer that nobody checks is anybody"
                                    .into(),
                            ));
                        }
                        "depth" | "fail_if_no_peer_cert" => {}
                        _ => return Err(NoAddress(format!("unknown parameter {name}"))),
                    }
                }
            }
        }
        match (&mut self.tls, certificate, key) {
            (Some(tls), Some(certificate), Some(key)) => tls.certificate = Some((certificate, key)),
            (_, None, None) => {}
            _ => return Err(NoAddress("certfile and keyfile belong together".into())),
        }
        Ok(())
    }

    /// The same, with this vhost where it names none.
    pub(crate) fn or_vhost(self, vhost: &str) -> Self {
        if self.names_vhost {
            return self;
        }
        let vhost = vhost.to_owned();
        Address { vhost, ..self }
    }

    /// Whether it leads to this process.
    pub(crate) fn is_inside(&self) -> bool {
        self.host.is_none()
    }
}

fn host_and_port(text: &str) -> Result<(Option<String>, Option<u16>), NoAddress> {
    let wrong = |why: &str| NoAddress(why.to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| wrong("']' is missing"))?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => {
            let parsed = port.parse::<u16>().ok().filter(|port| *port > 0);
            Some(parsed.ok_or_else(|| wrong("the port is none"))?)
        }
    };
    Ok(((!host.is_empty()).then(|| host.to_owned()), port))
}

/// Without user and password: what anybody may see.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls.is_some() {
            "amqps://"
        } else {
            "amqp://"
        })?;
        if let Some(host) = &self.host {
            match host.contains(':') {
                true => write!(f, "[{host}]:{}", self.port)?,
                false => write!(f, "{host}:{}", self.port)?,
            }
        }
        if self.vhost != "/" {
            write!(f, "/{}", percent::encode(&self.vhost))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn an_address_says_where_who_and_how() {
        let full = parsed(
            "amqp://us%40er:p%2Fw@host.example:7000/v%2Fh?heartbeat=7&connection_timeout=500",
        );
        assert_eq!(full.host.as_deref(), Some("host.example"));
        assert_eq!((full.port, full.vhost.as_str()), (7000, "v/h"));
        assert_eq!(full.login, Some(("us@er".to_owned(), "p/w".to_owned())));
        assert_eq!((full.heartbeat_s, full.timeout_ms), (Some(7), 500));
        assert_eq!(full.to_string(), "amqp://host.example:7000/v%2Fh");
        assert_eq!(
            format!("{full:?}"),
            "Address(amqp://host.example:7000/v%2Fh)",
            "no password in a log"
        );
        let six =
            parsed("amqps://[::1]/?verify=verify_peer&cacertfile=/a.pem&certfile=/c&keyfile=/k");
        assert_eq!(
            (six.host.as_deref(), six.port, six.vhost.as_str()),
            (Some("::1"), 5671, "/")
        );
        assert_eq!(
            six.tls.unwrap().certificate,
            Some(("/c".into(), "/k".into()))
        );
    }

    #[test]
    fn without_a_host_it_is_this_process() {
        for (text, vhost) in [
            ("amqp://", "/"),
            ("amqp:///", "/"),
            ("amqp:///other", "other"),
            ("amqp:///%2f", "/"),
        ] {
            let here = parsed(text);
            assert!(here.is_inside(), "{text}");
            assert_eq!(here.vhost, vhost, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for wrong in [
            "",
            "localhost",
            "http://host",
            "amqp://host:0",
            "amqp://host:99999",
            "amqp://[::1",
            "amqp://host/a/b",
            "amqps://",
            "amqp://h?colour=red",
            "amqps://h?verify=verify_none",
            "amqps://h?certfile=/c",
            "amqp://h?heartbeat=x",
            "amqp://a b",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
        let error = Address::parse("amqp://u:secret@h:0")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("secret"));
    }
}
