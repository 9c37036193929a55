//! Logins.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use longtail_model::Timestamp;
use parking_lot::{Condvar, Mutex};
use rand::Rng;

use super::access_list::Asking;
use super::account::{Account, Directory};
use super::names::NameGrants;
use super::ordered::{Defaults, OrderedGrants};
use super::password::Key;
use super::permission::{Grants, Identity, IdentityError};
use super::roles::ANONYMOUS;
use super::scram::{ScramError, ScramExchange};
use super::space::Quotas;
use super::throttle::{LoginThrottle, ThrottleLimits};
use super::token::Tokens;

/// How a client proves who it is.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    /// A name and a password.
    Password {
        /// The account's name.
        user: &'a str,
        /// The password.
        password: &'a [u8],
    },
    /// A client certificate that the TLS layer has verified: its common name and subject alternative names.
    Certificate {
        /// The names.
        names: &'a [String],
    },
    /// Nothing.
    Anonymous,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A network address; behind a proxy that is trusted to say so, the client's.
    Address(IpAddr),
    /// A Unix socket.
    Unix,
}

impl Peer {
    /// Whether it is this machine.
    #[must_use]
    pub fn is_local(self) -> bool {
        match self {
            Peer::Address(address) => address.to_canonical().is_loopback(),
            Peer::Unix => true,
        }
    }
}

/// A login.
#[derive(Clone, Copy)]
pub struct LoginRequest<'a> {
    /// The proof.
    pub credentials: Credentials<'a>,
    /// Where it comes from.
    pub peer: Peer,
    /// The space the client wants to work in.
    pub space: &'a str,
    /// The client id, empty where the protocol has none.
    pub client_id: &'a str,
}

impl LoginRequest<'_> {
    fn session(&self) -> Wanted<'_> {
        Wanted {
            space: self.space,
            client_id: self.client_id,
            peer: Some(self.peer),
        }
    }
}

/// What a client wants to work with, and from where.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    space: &'a str,
    client_id: &'a str,
    peer: Option<Peer>,
}

impl<'a> Wanted<'a> {
    fn asking(&self, account: &'a str) -> Asking<'a> {
        Asking {
            account,
            client_id: self.client_id,
            peer: self.peer,
        }
    }
}

/// A client that was let in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The account; none on a server without accounts.
    pub account: Option<Arc<Account>>,
    /// What the client is called: the account's name, or the one that its token says; empty without accounts.
    pub name: Arc<str>,
    /// When what it has shown ends: the client is to be disconnected then. `None`: never.
    pub expires: Option<Timestamp>,
    /// The space's name.
    pub space: Arc<str>,
    /// The space's quotas.
    pub quotas: Quotas,
    /// What the client may do.
    pub grants: Arc<Grants>,
}

/// Who a client has proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The account whose rights it has, whatever name it gives.
    pub account: Arc<str>,
    /// What the account's rules call it: as the account, or as its token says. Clients with tokens may share an account.
    pub name: Arc<str>,
}

impl Principal {
    /// The account of this name itself.
    #[must_use]
    pub fn named(account: impl Into<Arc<str>>) -> Self {
        let account: Arc<str> = account.into();
        Principal {
            name: Arc::clone(&account),
            account,
        }
    }
}

/// Who a client has proved to be, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// Who it is.
    pub principal: Principal,
    /// When what it has shown ends. `None`: never.
    pub expires: Option<Timestamp>,
}

impl Login {
    /// Who the client is; none on a server without accounts.
    #[must_use]
    pub fn principal(&self) -> Option<Principal> {
        let account = self.account.as_ref()?;
        let name = Arc::clone(&self.name);
        let account = match *account.name == *name {
            true => Arc::clone(&name),
            false => account.name.as_str().into(),
        };
        Some(Principal { account, name })
    }

    /// The account's name; empty on a server without accounts.
    #[must_use]
    pub fn account_name(&self) -> &str {
        self.account.as_ref().map_or("", |account| &account.name)
    }
}

/// Why a client was not let in. Protocols should tell it no more than the text says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Unknown account, wrong password, unknown certificate, disabled account, or no credentials: which of them stays
    /// unsaid.
    #[error("bad credentials")]
    BadCredentials,
    /// No accounts are configured, and the peer is not on this machine.
    #[error("no accounts are configured: only local connections are accepted")]
    Closed,
    /// The space does not exist, or the account has no permissions there.
    #[error("no access to the space {space:?}")]
    NoAccess {
        /// The space.
        space: String,
        /// Who the client has proved to be all the same; none on a server without accounts.
        proved: Option<Proved>,
    },
    /// The account's rules need a name that this client's cannot stand for.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// Too many failures from this address.
    #[error("too many failed logins from this address")]
    Throttled {
        /// When the next is accepted.
        until: Timestamp,
    },
    /// Too many logins at once.
    #[error("too many logins are waiting")]
    Busy,
    /// A message of an exchange that is none, or asks for what is not supported.
    #[error("{0}")]
    Scram(#[from] ScramError),
}

/// Answers logins from the current [`Directory`].
pub struct Authenticator {
    directory: ArcSwap<Directory>,
    throttle: Mutex<LoginThrottle>,
    gate: Gate,
    /// What the salts of unknown users are made with.
    secret: Key,
}

impl Authenticator {
    /// Longest password that is looked at, in bytes.
    pub(crate) const PASSWORD_BYTES_MAX: usize = 1_024;
    /// Passwords verified at a time: each takes a core and the memory its hash asks for.
    pub(crate) const VERIFYING_MAX: usize = 2;
    /// Logins that wait for their turn to be verified.
    pub const WAITING_MAX: usize = 512;

    /// An authenticator.
    #[must_use]
    pub fn new(directory: Directory, throttle: ThrottleLimits) -> Self {
        Authenticator {
            directory: ArcSwap::from_pointee(directory),
            throttle: Mutex::new(LoginThrottle::new(throttle)),
            gate: Gate::default(),
            secret: {
                let mut secret = Key::default();
                rand::rng().fill_bytes(&mut secret);
                secret
            },
        }
    }

    /// The current directory.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Replaces the directory. Logins that were granted keep their grants: whoever must not wait for clients to come
    /// back asks [`Authenticator::grants`] again for each of them.
    pub fn replace(&self, directory: Directory) {
        self.directory.store(Arc::new(directory));
    }

    /// Whether the server may listen on addresses that other machines reach.
    #[must_use]
    pub fn may_listen_publicly(&self) -> bool {
        !self.directory.load().has_no_accounts()
    }

    /// Checks a login.
    ///
    /// **Blocks** for tens of milliseconds to verify a password: call it from a thread that may, never from one that
    /// moves messages. A login that fails takes as long whether the account exists or not, if all hashes cost the
    /// same. Failures count against the address, except this machine's own, which a proxy may stand behind.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn authenticate(
        &self,
        request: &LoginRequest<'_>,
        now: Timestamp,
    ) -> Result<Login, AuthError> {
        let directory = self.directory.load_full();
        if directory.is_open() && !names_an_account(&directory, &request.credentials) {
            return open_login(&directory, request);
        }
        self.check(request.peer, now)?;
        if directory.is_open() && is_guest(&request.credentials) && !request.peer.is_local() {
            return Err(AuthError::BadCredentials);
        }
        let account = match &request.credentials {
            Credentials::Password { user, password }
                if !directory.tokens().is_empty() && Tokens::is_one(password) =>
            {
                match by_token(&directory, user, password, now) {
                    Some((account, name, expires)) => {
                        let login = login(&directory, &account, &name, &request.session());
                        return until(login, expires);
                    }
                    None => None,
                }
            }
            Credentials::Password { user, password } => {
                self.by_password(&directory, user, password)?
            }
            Credentials::Certificate { names } => {
                let account = names.iter().find_map(|name| directory.certificate(name));
                account.filter(|account| account.enabled).cloned()
            }
            Credentials::Anonymous => directory.anonymous().filter(|a| a.enabled).cloned(),
        };
        match account {
            Some(account) => login(&directory, &account, &account.name, &request.session()),
            None => match visitor(&directory, request) {
                Some(account) => login(&directory, &account, &account.name, &request.session()),
                None => {
                    self.failed(request.peer, now);
                    Err(AuthError::BadCredentials)
                }
            },
        }
    }

    /// Starts a SCRAM-SHA-256 exchange with the client's first message; yields what to answer. Does not block.
    ///
    /// # Errors
    /// [`AuthError::Throttled`], and [`AuthError::Scram`] for a message that is none. On a server without accounts the
    /// exchange fails at its end.
    pub fn begin_scram(
        &self,
        message: &[u8],
        peer: Peer,
        now: Timestamp,
    ) -> Result<(ScramExchange, String), AuthError> {
        self.check(peer, now)?;
        let mut random = [0; 18];
        rand::rng().fill_bytes(&mut random);
        Ok(ScramExchange::begin(
            message,
            &self.directory.load(),
            random,
            &self.secret,
        )?)
    }

    /// Ends the exchange with the client's last message; yields the login and what proves the server to the client.
    /// The request's credentials are not looked at. Does not block.
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`] for a wrong proof, otherwise as [`Authenticator::authenticate`].
    pub fn finish_scram(
        &self,
        exchange: ScramExchange,
        message: &[u8],
        request: &LoginRequest<'_>,
        now: Timestamp,
    ) -> Result<(Login, String), AuthError> {
        match exchange.finish(message) {
            Ok((account, proof)) => {
                let directory = self.directory.load_full();
                let name = &account.name;
                let login = login(&directory, &account, name, &request.session())?;
                Ok((login, proof))
            }
            Err(ScramError::BadCredentials) => {
                self.failed(request.peer, now);
                Err(AuthError::BadCredentials)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses an address with too many failures.
    fn check(&self, peer: Peer, now: Timestamp) -> Result<(), AuthError> {
        let Some(address) = remote(peer) else {
            return Ok(());
        };
        self.throttle
            .lock()
            .check(address, now)
            .map_err(|until| AuthError::Throttled { until })
    }

    fn failed(&self, peer: Peer, now: Timestamp) {
        if let Some(address) = remote(peer) {
            self.throttle.lock().failed(address, now);
        }
    }

    /// What an account may do now, without proof: for a client that is connected while the directory changes, or for
    /// one whose session outlives its connection (a delayed will, say).
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`] if the account is gone or disabled, otherwise as [`Authenticator::authenticate`].
    pub fn grants(&self, account: &str, space: &str, client_id: &str) -> Result<Login, AuthError> {
        self.grants_of(&Principal::named(account), space, client_id, None)
    }

    /// As [`Authenticator::grants`], for a client that has proved once who it is, and of which it may be known where it
    /// comes from.
    ///
    /// # Errors
    /// As [`Authenticator::grants`].
    pub fn grants_of(
        &self,
        principal: &Principal,
        space: &str,
        client_id: &str,
        peer: Option<Peer>,
    ) -> Result<Login, AuthError> {
        let Principal { account, name } = principal;
        let directory = self.directory.load_full();
        let session = Wanted {
            space,
            client_id,
            peer,
        };
        let account = match (directory.account(account), directory.logins()) {
            (Some(account), _) => Some(Arc::clone(account)).filter(|account| account.enabled),
            // One that such rules have let in.
            (None, Some(rules)) if rules.may_admit(&session.asking(account)) => {
                Some(Arc::new(rules.account(account)))
            }
            (None, _) => None,
        };
        let account = &account.ok_or(AuthError::BadCredentials)?;
        login(&directory, account, name, &session)
    }

    fn by_password(
        &self,
        directory: &Directory,
        user: &str,
        password: &[u8],
    ) -> Result<Option<Arc<Account>>, AuthError> {
        if password.len() > Self::PASSWORD_BYTES_MAX {
            return Ok(None);
        }
        let account = directory
            .account(user)
            .filter(|account| account.enabled && account.password.is_some());
        let hash = account
            .and_then(|account| account.password.as_ref())
            .or(directory.decoy());
        let Some(hash) = hash else { return Ok(None) };
        let right = self
            .gate
            .pass(|| hash.verify(password))
            .ok_or(AuthError::Busy)?;
        Ok(account.filter(|_| right).cloned())
    }
}

/// Whom rules beside the accounts let in; they are about names that no account has.
fn visitor(directory: &Directory, request: &LoginRequest<'_>) -> Option<Arc<Account>> {
    let rules = directory.logins()?;
    let (user, password) = match request.credentials {
        Credentials::Password { user, password } => (user, password),
        Credentials::Anonymous => ("", &[][..]),
        Credentials::Certificate { .. } => return None,
    };
    if rules.space != request.space || directory.account(user).is_some() {
        return None;
    }
    let admitted = rules.admit(&request.session().asking(user), password);
    admitted.then(|| Arc::new(rules.account(user)))
}

/// The name and the password of whoever comes from this machine to a server whose settings have no accounts.
pub(super) const GUEST: &str = "guest";

/// The guest of an open server comes from this machine only, with an account too.
fn is_guest(credentials: &Credentials<'_>) -> bool {
    matches!(credentials, Credentials::Password { user, .. } if *user == GUEST)
}

/// Whether somebody wants to be one of the accounts of an open server, and so has to prove it.
fn names_an_account(directory: &Directory, credentials: &Credentials<'_>) -> bool {
    match credentials {
        _ if directory.has_no_accounts() => false,
        Credentials::Password { user, password } => {
            let is_guest = *user == GUEST && *password == GUEST.as_bytes();
            !is_guest || directory.account(GUEST).is_some()
        }
        Credentials::Certificate { names } => names
            .iter()
            .any(|name| directory.certificate(name).is_some()),
        Credentials::Anonymous => false,
    }
}

fn open_login(directory: &Directory, request: &LoginRequest<'_>) -> Result<Login, AuthError> {
    if !request.peer.is_local() {
        return Err(AuthError::Closed);
    }
    let Some((space, quotas)) = directory.space(request.space) else {
        return Err(AuthError::NoAccess {
            space: request.space.to_owned(),
            proved: None,
        });
    };
    let mut grants = Grants::everything();
    if let Some(list) = directory.access(request.space) {
        let account = match request.credentials {
            Credentials::Password { user, .. } => user,
            Credentials::Certificate { .. } | Credentials::Anonymous => "",
        };
        let asking = request.session().asking(account);
        let rules = list.rules_for(&asking);
        let defaults = list.defaults(Defaults::default());
        let ordered = OrderedGrants::compile(rules, defaults, &asking.identity())?;
        grants = Arc::new(Grants::full().with_ordered(ordered));
    }
    Ok(Login {
        account: None,
        name: Arc::from(""),
        expires: None,
        space: Arc::clone(space),
        quotas: *quotas,
        grants,
    })
}

/// The address whose failures count; this machine's do not.
fn remote(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Address(address) if !peer.is_local() => Some(address),
        _ => None,
    }
}

/// The account and the name of a client with a token, and when that ends. A user name beside the token must be the
/// same.
fn by_token(
    directory: &Directory,
    user: &str,
    token: &[u8],
    now: Timestamp,
) -> Option<(Arc<Account>, String, Timestamp)> {
    directory.tokens().iter().find_map(|issuer| {
        let claimed = issuer.check(token, now)?;
        if !user.is_empty() && user != claimed.name {
            return None;
        }
        let account = directory.account(issuer.account.as_deref().unwrap_or(&claimed.name))?;
        account
            .enabled
            .then(|| (Arc::clone(account), claimed.name, claimed.expires))
    })
}

/// An outcome of [`login`] for a client whose proof ends.
fn until(outcome: Result<Login, AuthError>, end: Timestamp) -> Result<Login, AuthError> {
    match outcome {
        Ok(mut login) => {
            login.expires = Some(end);
            Ok(login)
        }
        Err(AuthError::NoAccess { space, mut proved }) => {
            if let Some(proved) = &mut proved {
                proved.expires = Some(end);
            }
            Err(AuthError::NoAccess { space, proved })
        }
        other => other,
    }
}

/// What `account` may do, for a client that is called `name`.
fn login(
    directory: &Directory,
    account: &Arc<Account>,
    name: &str,
    wanted: &Wanted<'_>,
) -> Result<Login, AuthError> {
    let Wanted {
        space, client_id, ..
    } = *wanted;
    let only = account.client_id.as_deref();
    if only.is_some_and(|only| only != client_id) {
        return Err(AuthError::BadCredentials);
    }
    let permissions = account
        .permissions
        .iter()
        .find(|permissions| permissions.space == space);
    let (Some((space, quotas)), Some(permissions)) = (directory.space(space), permissions) else {
        return Err(AuthError::NoAccess {
            space: space.to_owned(),
            proved: Some(Proved {
                principal: Principal {
                    account: account.name.as_str().into(),
                    name: name.into(),
                },
                expires: None,
            }),
        });
    };
    let grants = Grants::compile(
        &permissions.rules,
        &Identity {
            account: name,
            client_id,
        },
    )?;
    let identity = Identity {
        account: name,
        client_id,
    };
    let names = NameGrants::compile(
        permissions.names.as_ref(),
        &permissions.topics,
        &identity,
        directory.called(space),
    );
    let mut grants = grants.with_names(names);
    let roles = directory.roles_of(&account.name);
    let list = directory.access(space);
    if roles.is_some() || list.is_some() {
        // Nobody has this name.
        let asking = wanted.asking(if name == ANONYMOUS { "" } else { name });
        let (own, defaults) = roles.unzip();
        let defaults = defaults.unwrap_or_default();
        let defaults = list.map_or(defaults, |list| list.defaults(defaults));
        let listed = list.map(|list| list.rules_for(&asking));
        let rules = listed
            .into_iter()
            .flatten()
            .chain(own.into_iter().flatten());
        let ordered = OrderedGrants::compile(rules, defaults, &asking.identity())?;
        grants = grants.with_ordered(ordered);
    }
    Ok(Login {
        account: Some(Arc::clone(account)),
        name: Arc::from(name),
        expires: None,
        space: Arc::clone(space),
        quotas: *quotas,
        grants: Arc::new(grants),
    })
}

/// Lets a few through at a time, and a bounded number wait.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    left: Condvar,
}

#[derive(Default)]
struct GateState {
    inside: usize,
    waiting: usize,
}

impl Gate {
    /// Runs `work` when there is room; `None` if too many wait already.
    fn pass<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        let mut state = self.state.lock();
        if state.waiting >= Authenticator::WAITING_MAX {
            return None;
        }
        state.waiting += 1;
        while state.inside >= Authenticator::VERIFYING_MAX {
            self.left.wait(&mut state);
        }
        state.waiting -= 1;
        state.inside += 1;
        drop(state);
        let _inside = Inside(self);
        Some(work())
    }
}

/// A place inside the gate, given back also when the work panics.
struct Inside<'g>(&'g Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.lock().inside -= 1;
        self.0.left.notify_one();
    }
}
