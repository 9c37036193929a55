//! `POST /login`: a name and a password once, a cookie from then on.
//!
//! RabbitMQ's cookie is the name and the password themselves. This one is random and says nothing; who holds it is known
//! here, for as long as it would be let in with what it has shown: until the session is over, or the account is gone,
//! disabled or has another password. What the account may do is looked up with every request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base64ct::{Base64UrlUnpadded, Encoding};
use longtail_broker::auth::{Directory, PasswordHash};
use longtail_model::Timestamp;
use longtail_web::{Credentials, Query};
use parking_lot::Mutex;
use rand::Rng;

use super::Management;
use super::access::Caller;
use super::http::{Failed, Reply};

/// The cookie, as RabbitMQ calls it.
const COOKIE: &str = "auth";

/// Seconds that a session lasts: RabbitMQ's `management.login_session_timeout`.
const SESSION_S: u64 = 8 * 3_600;

/// Sessions at a time. One more ends the one that would be over first.
const SESSIONS_MAX: usize = 1_000;

/// Largest form, in bytes.
pub(super) const FORM_MAX: usize = 16 << 10;

/// The body of a login.
const FORM: &str = "application/x-www-form-urlencoded";

/// Octets of chance in a token.
const TOKEN_BYTES: usize = 32;

/// What somebody has proved who it is with.
enum Proof {
    /// The account's password, which was this one.
    Account(Option<PasswordHash>),
    /// Being on this machine.
    Guest,
}

struct Session {
    name: Arc<str>,
    proof: Proof,
    until: Timestamp,
}

/// Who has logged in, by the hash of their token and their address.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

fn key(token: &str, peer: IpAddr) -> [u8; 32] {
    Credentials::Bearer(token.to_owned()).key(Some(peer))
}

impl Sessions {
    /// Begins a session of somebody who was let in when the accounts were `directory`; its token.
    fn open(
        &self,
        directory: &Directory,
        caller: &Caller,
        peer: IpAddr,
        now: Timestamp,
    ) -> Option<String> {
        let proof = match directory.account(&caller.name) {
            _ if caller.is_guest() => Proof::Guest,
            Some(account) => Proof::Account(account.password.clone()),
            // Rules have let it in that know no accounts: nothing would tell when they do not any more.
            None => return None,
        };
        let mut token = [0; TOKEN_BYTES];
        rand::rng().fill_bytes(&mut token);
        let token = Base64UrlUnpadded::encode_string(&token);
        let until = now.plus_millis(SESSION_S * 1_000);
        let session = Session {
            name: Arc::clone(&caller.name),
            proof,
            until: caller.expires.map_or(until, |expires| until.min(expires)),
        };
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| now < session.until);
        if sessions.len() >= SESSIONS_MAX
            && let Some((first, _)) = sessions.iter().min_by_key(|(_, session)| session.until)
        {
            let first = *first;
            sessions.remove(&first);
        }
        sessions.insert(key(&token, peer), session);
        Some(token)
    }

    /// Whose token it is, if its session goes on.
    fn find(
        &self,
        directory: &Directory,
        token: &str,
        peer: IpAddr,
        now: Timestamp,
    ) -> Option<Caller> {
        let key = key(token, peer);
        let mut sessions = self.0.lock();
        let session = sessions.get(&key)?;
        let account = directory.account(&session.name);
        let caller = match (&session.proof, account) {
            _ if now >= session.until => None,
            (Proof::Account(password), Some(account))
                if account.enabled && account.password == *password =>
            {
                Some(Caller::of(account, &session.name))
            }
            (Proof::Guest, None) if directory.is_open() => Some(Caller::guest()),
            _ => None,
        };
        if caller.is_none() {
            sessions.remove(&key);
        }
        caller
    }
}

/// The token in the cookies of a request.
fn token(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let mut cookies = lines.flat_map(|line| line.split(';'));
    cookies.find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// Who a request's cookie says that it is.
///
/// # Errors
/// 401: nobody, or nobody who may use this API.
pub(super) fn caller(m: &Management, headers: &HeaderMap, peer: IpAddr) -> Result<Caller, Failed> {
    let now = m.tenant.broker().clock().now();
    let directory = m.roster.directory();
    let token = token(headers).ok_or_else(Failed::login)?;
    let found = m.sessions.find(&directory, token, peer, now);
    found.ok_or_else(Failed::login)?.may_ask()
}

/// Checks a form's name and password; the session's cookie.
///
/// # Errors
/// 401, as with every request; 415: it is no form.
pub(super) async fn login(
    m: &Management,
    (headers, form): (&HeaderMap, &[u8]),
    peer: IpAddr,
    secure: bool,
) -> Result<Reply, Failed> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(FORM) {
        return Err(Failed {
            status: 415,
            error: "unsupported_media_type",
            reason: format!("a login is a form: {FORM}"),
        });
    }
    let form = Query::parse(std::str::from_utf8(form).map_err(|_| Failed::login())?);
    let (Some(user), Some(password)) = (form.get("username"), form.get("password")) else {
        return Err(Failed::login());
    };
    let shown = Credentials::Basic {
        user: user.to_owned(),
        password: password.as_bytes().to_vec(),
    };
    // As they were before the check: a password that is changed meanwhile opens nothing that lasts.
    let directory = m.roster.directory();
    let now = m.tenant.broker().clock().now();
    let caller = m
        .verified
        .caller(&m.roster, shown, Some(peer), now)
        .await?
        .asking_for(headers)?;
    let token = m.sessions.open(&directory, &caller, peer, now);
    let token = token.ok_or_else(Failed::login)?;
    let secure = if secure { "; Secure" } else { "" };
    Ok(Reply::LoggedIn(format!(
        "{COOKIE}={token}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict{secure}"
    )))
}

#[cfg(test)]
mod tests {
    use longtail_broker::auth::{Account, AuthDocument, RabbitAlgorithm};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn hash(password: &str) -> PasswordHash {
        PasswordHash::create_rabbit(RabbitAlgorithm::Sha256, password.as_bytes())
    }

    fn accounts(change: impl Fn(&mut Account)) -> (Directory, Account) {
        let mut account = Account {
            password: Some(hash("secret")),
            tags: vec!["management".to_owned()],
            ..Account::named("ann")
        };
        change(&mut account);
        let document = AuthDocument {
            accounts: vec![account.clone()],
            ..AuthDocument::default()
        };
        (Directory::new(document).unwrap(), account)
    }

    #[test]
    fn a_session_is_of_one_address_and_ends() {
        let (directory, account) = accounts(|_| {});
        let (sessions, now) = (Sessions::default(), Timestamp(1_000));
        let caller = Caller::of(&account, "ann");
        let token = sessions.open(&directory, &caller, HERE, now).unwrap();
        let find = |peer, now| sessions.find(&directory, &token, peer, now);
        assert_eq!(&*find(HERE, now).unwrap().name, "ann");
        assert!(find(THERE, now).is_none());
        assert!(sessions.find(&directory, "else", HERE, now).is_none());
        let end = now.plus_millis(SESSION_S * 1_000);
        assert!(find(HERE, Timestamp(end.0 - 1)).is_some());
        assert!(find(HERE, end).is_none());
        // It is forgotten, and the clock does not bring it back.
        assert!(find(HERE, now).is_none() && sessions.0.lock().is_empty());
    }

    #[test]
    fn what_an_account_is_now_counts() {
        let (directory, account) = accounts(|_| {});
        let (sessions, now) = (Sessions::default(), Timestamp(1_000));
        let caller = Caller::of(&account, "ann");
        let same = |of: &mut Account| of.password.clone_from(&account.password);
        let (promoted, _) = accounts(|of| {
            same(of);
            of.tags = vec!["administrator".to_owned()];
        });
        let token = sessions.open(&directory, &caller, HERE, now).unwrap();
        let found = sessions.find(&promoted, &token, HERE, now).unwrap();
        assert!(found.administers().is_ok() && caller.administers().is_err());
        let disabled = |of: &mut Account| {
            same(of);
            of.enabled = false;
        };
        let renamed = |of: &mut Account| "bob".clone_into(&mut of.name);
        let other = |of: &mut Account| of.password = Some(hash("secret"));
        for directory_then in [accounts(disabled), accounts(renamed), accounts(other)] {
            let token = sessions.open(&directory, &caller, HERE, now).unwrap();
            assert!(
                sessions
                    .find(&directory_then.0, &token, HERE, now)
                    .is_none()
            );
        }
    }

    #[test]
    fn there_are_so_many_at_a_time() {
        let (directory, account) = accounts(|_| {});
        let sessions = Sessions::default();
        let caller = Caller::of(&account, "ann");
        let open = |at| sessions.open(&directory, &caller, HERE, Timestamp(at));
        let (first, second) = (open(1).unwrap(), open(2).unwrap());
        for at in 3..=SESSIONS_MAX as u64 + 1 {
            open(at).unwrap();
        }
        assert_eq!(sessions.0.lock().len(), SESSIONS_MAX);
        let find = |token: &str| sessions.find(&directory, token, HERE, Timestamp(2_000));
        assert!(find(&first).is_none() && find(&second).is_some());
        open(SESSION_S * 2_000).unwrap();
        assert_eq!(sessions.0.lock().len(), 1);
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers), None);
        headers.append(header::COOKIE, "m=1:2; author=x".parse().unwrap());
        headers.append(header::COOKIE, "a; auth=t-0_k=;b=c".parse().unwrap());
        assert_eq!(token(&headers), Some("t-0_k="));
    }
}
