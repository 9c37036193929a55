//! Who may ask.
//!
//! Without a token the service is for this machine only. That is the business of whoever binds the port; what is
//! checked here is the rest of it: a web page that a person on this machine looks at may neither reach the service by a
//! name that resolves to loopback (the `Host` must be loopback) nor send it requests (the `Origin` must be ours).

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, header};
use longtail_web::is_loopback;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `/metrics`.
    Metrics,
    /// Looking.
    Read,
    /// Changing.
    Write,
}

/// An answer of [`Authorize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed,
    /// No or wrong credentials (401).
    Unknown,
    /// Known, but not for this (403).
    Forbidden,
}

/// Decides by bearer token.
pub trait Authorize: Send + Sync {
    /// Whether the bearer of `token` may do things of this scope.
    fn authorize(&self, token: Option<&str>, scope: Scope) -> Verdict;
}

/// The rule of a service.
#[derive(Clone)]
pub enum Access {
    /// Anybody on this machine; only for a loopback address or a Unix socket.
    LocalOnly,
    /// Whoever has this token.
    Token(Arc<str>),
    /// Whoever this lets in.
    Accounts(Arc<dyn Authorize>),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::LocalOnly => "LocalOnly",
            Access::Token(_) => "Token",
            Access::Accounts(_) => "Accounts",
        })
    }
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Unknown,
    Forbidden,
    ForeignHost,
    ForeignOrigin,
}

impl Access {
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Denied> {
        let host = headers
            .get(header::HOST)
            .and_then(|value| value.to_str().ok());
        if let Some(origin) = headers.get(header::ORIGIN) {
            let ours = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.split_once("://"))
                .map(|(_, host)| host);
            if ours.is_none() || ours != host {
                return Err(Denied::ForeignOrigin);
            }
        }
        let scope = match (method, path) {
            (_, "/metrics") => Scope::Metrics,
            (&Method::GET | &Method::HEAD, _) => Scope::Read,
            _ => Scope::Write,
        };
        let token = || {
            let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        };
        let verdict = match self {
            Access::LocalOnly if host.is_none_or(is_loopback) => Verdict::Allowed,
            Access::LocalOnly => return Err(Denied::ForeignHost),
            Access::Token(expected) => match token() {
                Some(given) if same(given.as_bytes(), expected.as_bytes()) => Verdict::Allowed,
                _ => Verdict::Unknown,
            },
            Access::Accounts(accounts) => accounts.authorize(token(), scope),
        };
        match verdict {
            Verdict::Allowed => Ok(()),
            Verdict::Unknown => Err(Denied::Unknown),
            Verdict::Forbidden => Err(Denied::Forbidden),
        }
    }
}

/// Compares in a time that does not tell how much is right.
fn same(left: &[u8], right: &[u8]) -> bool {
    let different = left
        .iter()
        .zip(right)
        .fold(0, |different, (l, r)| different | (l ^ r));
    std::hint::black_box(different) == 0 && left.len() == right.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(access: &Access, headers: &[(&'static str, &str)]) -> Result<(), Denied> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        access.check(&Method::POST, "/api/v1/x", &map)
    }

    #[test]
    fn local_only_wants_a_loopback_host() {
        for host in [
            "127.0.0.1:9400",
            "localhost:9400",
            "[::1]:9400",
            "127.8.8.8",
        ] {
            assert_eq!(
                check(&Access::LocalOnly, &[("host", host)]),
                Ok(()),
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "evil.example:9400",
            "10.0.0.1",
            "localhost.evil.example",
        ] {
            assert_eq!(
                check(&Access::LocalOnly, &[("host", host)]),
                Err(Denied::ForeignHost),
                "{host}"
            );
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = ("host", "127.0.0.1:9400");
        assert_eq!(
            check(
                &Access::LocalOnly,
                &[host, ("origin", "http://127.0.0.1:9400")]
            ),
            Ok(())
        );
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080"] {
            assert_eq!(
                check(&Access::LocalOnly, &[host, ("origin", origin)]),
                Err(Denied::ForeignOrigin)
            );
        }
    }

    #[test]
    fn a_token_has_to_match_whole() {
        let access = Access::Token("secret".into());
        assert_eq!(
            check(&access, &[("authorization", "Bearer secret")]),
            Ok(())
        );
        assert_eq!(
            check(&access, &[("authorization", "bearer secret")]),
            Ok(())
        );
        for value in [
            "Bearer secre",
            "Bearer secrets",
            "Bearer ",
            "Basic secret",
            "secret",
        ] {
            assert_eq!(
                check(&access, &[("authorization", value)]),
                Err(Denied::Unknown),
                "{value}"
            );
        }
        assert_eq!(check(&access, &[]), Err(Denied::Unknown));
    }

    #[test]
    fn accounts_decide_by_scope() {
        struct ReadersMayLook;
        impl Authorize for ReadersMayLook {
            fn authorize(&self, token: Option<&str>, scope: Scope) -> Verdict {
                match (token, scope) {
                    (Some("reader"), Scope::Read | Scope::Metrics) => Verdict::Allowed,
                    (Some("reader"), Scope::Write) => Verdict::Forbidden,
                    _ => Verdict::Unknown,
                }
            }
        }
        let access = Access::Accounts(Arc::new(ReadersMayLook));
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer reader".parse().unwrap());
        assert_eq!(
            access.check(&Method::GET, "/api/v1/status", &headers),
            Ok(())
        );
        assert_eq!(access.check(&Method::GET, "/metrics", &headers), Ok(()));
        assert_eq!(
            access.check(&Method::POST, "/api/v1/x", &headers),
            Err(Denied::Forbidden)
        );
    }
}
