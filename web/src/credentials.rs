//! What a request shows of who asks, and who has proved it lately.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, header};
use base64ct::{Base64, Encoding};
use longtail_model::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Callers that are remembered.
const REMEMBERED_MAX: usize = 1000;

/// The `Authorization` of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Vec<u8>,
    },
    /// A token.
    Bearer(String),
    /// There is none.
    None,
    /// There is one that is neither.
    Unreadable,
}

impl Credentials {
    /// Those of a request.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(header::AUTHORIZATION) {
            None => Credentials::None,
            Some(value) => value
                .to_str()
                .map_or(Credentials::Unreadable, Credentials::read),
        }
    }

    /// Those of a header.
    #[must_use]
    pub fn read(header: &str) -> Self {
        Self::parse(header).unwrap_or(Credentials::Unreadable)
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return (!rest.is_empty()).then(|| Credentials::Bearer(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Base64::decode_vec(rest).ok()?;
        let colon = decoded.iter().position(|&byte| byte == b':')?;
        let (user, password) = decoded.split_at_checked(colon)?;
        let user = std::str::from_utf8(user).ok()?.to_owned();
        let password = password.get(1..)?.to_vec();
        Some(Credentials::Basic { user, password })
    }

    /// What they are remembered by, from one address. Nothing of a password can be read from it.
    #[must_use]
    pub fn key(&self, peer: Option<IpAddr>) -> [u8; 32] {
        let origin = peer.map_or("unix".to_owned(), |peer| peer.to_string());
        let (kind, name, secret): (u8, &str, &[u8]) = match self {
            Credentials::Basic { user, password } => (0, user, password),
            Credentials::Bearer(token) => (1, "", token.as_bytes()),
            Credentials::None => (2, "", b""),
            Credentials::Unreadable => (3, "", b""),
        };
        Sha256::new()
            .chain_update([kind])
            .chain_update((name.len() as u64).to_le_bytes())
            .chain_update(name.as_bytes())
            .chain_update((secret.len() as u64).to_le_bytes())
            .chain_update(secret)
            .chain_update(origin.as_bytes())
            .finalize()
            .into()
    }
}

/// Who has proved lately who it is, so that not every request costs a password hash. Holds as long as the directory of
/// accounts that it was proved against, and not longer than what was shown.
pub struct Remembered<D, C>(Mutex<Known<D, C>>);

struct Known<D, C> {
    directory: Option<Arc<D>>,
    callers: HashMap<[u8; 32], Entry<C>>,
}

struct Entry<C> {
    caller: C,
    /// When what it has shown ends. `None`: never.
    expires: Option<Timestamp>,
}

impl<C> Entry<C> {
    fn holds(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl<D, C> Default for Remembered<D, C> {
    fn default() -> Self {
        Remembered(Mutex::new(Known {
            directory: None,
            callers: HashMap::new(),
        }))
    }
}

impl<D, C> Known<D, C> {
    fn is_of(&self, directory: &Arc<D>) -> bool {
        let known = self.directory.as_ref();
        known.is_some_and(|known| Arc::ptr_eq(known, directory))
    }
}

impl<D, C: Clone> Remembered<D, C> {
    /// Who these credentials are, if it is known and still holds.
    pub fn find(&self, directory: &Arc<D>, key: &[u8; 32], now: Timestamp) -> Option<C> {
        let mut known = self.0.lock();
        if !known.is_of(directory) {
            known.callers.clear();
            known.directory = Some(Arc::clone(directory));
            return None;
        }
        let entry = known.callers.get(key)?;
        if entry.holds(now) {
            return Some(entry.caller.clone());
        }
        known.callers.remove(key);
        None
    }

    /// Remembers somebody who was checked against `directory`, until what it has shown ends.
    pub fn remember(
        &self,
        directory: &Arc<D>,
        key: [u8; 32],
        caller: &C,
        expires: Option<Timestamp>,
    ) {
        let mut known = self.0.lock();
        if known.is_of(directory) {
            if known.callers.len() >= REMEMBERED_MAX {
                known.callers.clear();
            }
            let caller = caller.clone();
            known.callers.insert(key, Entry { caller, expires });
        }
    }

    /// Forgets somebody.
    pub fn forget(&self, key: &[u8; 32]) {
        self.0.lock().callers.remove(key);
    }
}

/// Whether a page of another site has a browser send this. A page that somebody on this machine looks at is not let in
/// by way of its browser.
#[must_use]
pub fn is_of_another_site(headers: &HeaderMap) -> bool {
    let origin = text(headers, header::ORIGIN);
    let host = text(headers, header::HOST);
    origin.is_some_and(|origin| origin.split_once("://").map(|(_, origin)| origin) != host)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a `Host` header names this machine: a name that somebody else's server of names lets point here does not.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_read_whatever_the_password_has() {
        assert_eq!(
            Credentials::read("Basic Z3Vlc3Q6YTpi"),
            Credentials::Basic {
                user: "guest".to_owned(),
                password: b"a:b".to_vec()
            }
        );
        assert_eq!(
            Credentials::read("bearer a.b.c"),
            Credentials::Bearer("a.b.c".to_owned())
        );
        for wrong in [
            "Digest Z3Vlc3Q6YTpi",
            "Basic",
            "Basic !!",
            "Basic Z3Vlc3Q=",
            "Bearer ",
        ] {
            assert_eq!(Credentials::read(wrong), Credentials::Unreadable, "{wrong}");
        }
    }

    #[test]
    fn who_was_proved_against_other_accounts_is_asked_again() {
        let known = Remembered::<u8, &str>::default();
        let (old, new) = (Arc::new(1), Arc::new(1));
        let key = Credentials::read("Bearer x").key(None);
        let now = Timestamp(1);
        assert_eq!(known.find(&old, &key, now), None);
        known.remember(&old, key, &"me", None);
        assert_eq!(known.find(&old, &key, now), Some("me"));
        assert_eq!(known.find(&new, &key, now), None);
        // It was checked before the accounts changed.
        known.remember(&old, key, &"me", None);
        assert_eq!(known.find(&new, &key, now), None);
    }

    #[test]
    fn who_was_proved_for_a_while_is_asked_again_after_it() {
        let known = Remembered::<u8, &str>::default();
        let accounts = Arc::new(1);
        let key = Credentials::read("Bearer x").key(None);
        assert_eq!(known.find(&accounts, &key, Timestamp(1)), None);
        known.remember(&accounts, key, &"me", Some(Timestamp(10)));
        assert_eq!(known.find(&accounts, &key, Timestamp(9)), Some("me"));
        assert_eq!(known.find(&accounts, &key, Timestamp(10)), None);
        assert!(known.0.lock().callers.is_empty(), "it is kept no longer");
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        assert!(is_loopback("localhost:15672") && is_loopback("[::1]:15672"));
        assert!(!is_loopback("evil.example") && !is_loopback("localhost.evil.example:1"));
    }

    #[test]
    fn a_page_is_let_in_where_it_comes_from() {
        let asked = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "localhost:1".parse().unwrap());
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            is_of_another_site(&headers)
        };
        assert!(!asked("http://localhost:1"));
        assert!(asked("http://evil.example") && asked("null"));
        assert!(!is_of_another_site(&HeaderMap::new()));
    }
}
