//! Who is let in, and what for.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::{
    AccountLimits, AuthError, Authenticator, Credentials, Grants, Login as Granted, LoginRequest,
    Peer, Principal, ScramExchange,
};
use longtail_edge::{Endpoint, TlsIdentity};
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;

use crate::codec::ReasonCode;

/// A client at the door.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Its identifier.
    pub client_id: &'a str,
    /// The name it gives.
    pub username: Option<&'a str>,
    /// The password it gives.
    pub password: Option<&'a [u8]>,
    /// Where it comes from.
    pub remote: &'a Endpoint,
    /// Whom its certificate names.
    pub identity: Option<&'a TlsIdentity>,
    /// Clients connected to the space, this one not counted.
    pub connections: u64,
}

/// A client that is let in.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// What it may do.
    pub grants: Arc<Grants>,
    /// Who it is; none where there are no accounts.
    pub principal: Option<Principal>,
    /// When what it has shown ends: it is disconnected then (0x87). `None`: never.
    pub expires: Option<Timestamp>,
    /// What it may use together with the others of its account.
    pub limits: AccountLimits,
}

/// How far an exchange of the enhanced authentication is (MQTT 5.0, 4.12).
pub enum Step {
    /// The client is to be told this, and to answer.
    Continue(Bytes, Box<dyn Exchange>),
    /// It has proved who it is, and is to be told this.
    Done(Admitted, Bytes),
}

/// An exchange in which it is the client's turn. Methods must not wait.
pub trait Exchange: Send {
    /// The client has answered.
    ///
    /// # Errors
    /// When the client is not let in.
    fn proceed(self: Box<Self>, data: &[u8], login: &Login<'_>) -> Result<Step, Denied>;
}

/// Why a client is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Denied {
    /// What it is told.
    pub reason: ReasonCode,
    /// For the log.
    pub why: String,
}

impl Denied {
    /// The client wants to prove itself in a way that is not offered.
    #[must_use]
    pub fn unknown_method(method: &str) -> Self {
        Denied {
            reason: ReasonCode::BadAuthenticationMethod,
            why: format!("the authentication method {method:?} is not offered"),
        }
    }
}

/// Decides who is let in at a listener.
pub trait Admission: Send + Sync + 'static {
    /// Checks a login.
    ///
    /// # Errors
    /// When the client is not let in.
    fn admit(&self, login: &Login<'_>) -> Result<Admitted, Denied>;

    /// Whether [`Admission::admit`] may take longer than some microseconds for this login: then it is called from a
    /// thread that may wait.
    fn may_block(&self, login: &Login<'_>) -> bool {
        let _ = login;
        false
    }

    /// Begins an exchange by a method that the client names, with what it says first. No method is known by default.
    ///
    /// # Errors
    /// When the method is not known ([`Denied::unknown_method`]), or the client is not let in.
    fn begin(&self, method: &str, data: &[u8], login: &Login<'_>) -> Result<Step, Denied> {
        let _ = (data, login);
        Err(Denied::unknown_method(method))
    }

    /// What a client that was let in may do now; `None`: nothing any more. Where it comes from is not known of one that
    /// is away.
    fn now(
        &self,
        principal: &Principal,
        client_id: &str,
        from: Option<&Endpoint>,
    ) -> Option<Arc<Grants>>;
}

/// Lets everybody in who reaches the listener, and allows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit(&self, _login: &Login<'_>) -> Result<Admitted, Denied> {
        Ok(Admitted {
            grants: Grants::everything(),
            principal: None,
            expires: None,
            limits: AccountLimits::default(),
        })
    }

    fn now(&self, _: &Principal, _: &str, _: Option<&Endpoint>) -> Option<Arc<Grants>> {
        Some(Grants::everything())
    }
}

/// Lets in whom the broker's accounts name: by user name and password or token, by [`SCRAM_SHA_256`], else by
/// certificate, else as the anonymous account. Without accounts, everybody on this machine.
#[derive(Clone)]
pub struct Accounts {
    /// Knows the accounts.
    pub authenticator: Arc<Authenticator>,
    /// The time, for the limit on failures.
    pub clock: Arc<dyn Clock>,
    /// The space.
    pub space: Arc<str>,
    /// Account of every connection, whatever it says; `None`: as it proves.
    pub account: Option<String>,
    /// Account of clients that show nothing, in place of the one that all listeners have for them; empty: they are
    /// refused. `None`: as at all listeners.
    pub anonymous: Option<String>,
}

impl Accounts {
    fn grants(&self, account: &str, login: &Login<'_>) -> Result<Granted, AuthError> {
        let from = Some(peer(login.remote));
        self.authenticator.grants_of(
            &Principal::named(account),
            &self.space,
            login.client_id,
            from,
        )
    }

    fn request<'a>(&'a self, login: &Login<'a>, names: &'a [String]) -> LoginRequest<'a> {
        let credentials = match login.username {
            Some(user) => Credentials::Password {
                user,
                password: login.password.unwrap_or_default(),
            },
            None if !names.is_empty() => Credentials::Certificate { names },
            None => Credentials::Anonymous,
        };
        LoginRequest {
            credentials,
            peer: peer(login.remote),
            space: &self.space,
            client_id: login.client_id,
        }
    }
}

impl Admission for Accounts {
    fn admit(&self, login: &Login<'_>) -> Result<Admitted, Denied> {
        let granted = match &self.account {
            Some(account) => self.grants(account, login),
            None => {
                let names = login.identity.map(TlsIdentity::names).unwrap_or_default();
                let request = self.request(login, &names);
                match (&self.anonymous, request.credentials) {
                    (Some(account), Credentials::Anonymous) if account.is_empty() => {
                        Err(AuthError::BadCredentials)
                    }
                    (Some(account), Credentials::Anonymous) => self.grants(account, login),
                    _ => self.authenticator.authenticate(&request, self.clock.now()),
                }
            }
        };
        admitted(login, &granted.map_err(|error| denied(&error))?)
    }

    fn begin(&self, method: &str, data: &[u8], login: &Login<'_>) -> Result<Step, Denied> {
        let offered = method == SCRAM_SHA_256
            && self.account.is_none()
            && !self.authenticator.directory().has_no_accounts();
        if !offered {
            return Err(Denied::unknown_method(method));
        }
        let begun = self
            .authenticator
            .begin_scram(data, peer(login.remote), self.clock.now());
        let (exchange, answer) = begun.map_err(|error| denied(&error))?;
        let scram = Scram {
            accounts: self.clone(),
            exchange,
        };
        Ok(Step::Continue(answer.into(), Box::new(scram)))
    }

    fn may_block(&self, login: &Login<'_>) -> bool {
        self.account.is_none()
            && login.username.is_some()
            && !self.authenticator.directory().has_no_accounts()
    }

    fn now(
        &self,
        principal: &Principal,
        client_id: &str,
        from: Option<&Endpoint>,
    ) -> Option<Arc<Grants>> {
        let from = from.map(peer);
        let login = self
            .authenticator
            .grants_of(principal, &self.space, client_id, from)
            .ok()?;
        Some(login.grants)
    }
}

/// SCRAM-SHA-256 (RFC 7677) as a method: the client's messages and the server's as the data of CONNECT, AUTH and
/// CONNACK.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

struct Scram {
    accounts: Accounts,
    exchange: ScramExchange,
}

impl Exchange for Scram {
    fn proceed(self: Box<Self>, data: &[u8], login: &Login<'_>) -> Result<Step, Denied> {
        let Scram { accounts, exchange } = *self;
        let request = accounts.request(login, &[]);
        let finished =
            accounts
                .authenticator
                .finish_scram(exchange, data, &request, accounts.clock.now());
        let (granted, proof) = finished.map_err(|error| denied(&error))?;
        Ok(Step::Done(admitted(login, &granted)?, proof.into()))
    }
}

fn peer(remote: &Endpoint) -> Peer {
    match remote {
        Endpoint::Tcp(address) => Peer::Address(address.ip()),
        Endpoint::Unix(_) => Peer::Unix,
    }
}

/// An account that has proved itself is let in if there is room.
fn admitted(login: &Login<'_>, granted: &Granted) -> Result<Admitted, Denied> {
    let room = granted.quotas.admit_connection(login.connections);
    room.map_err(|full| Denied {
        reason: ReasonCode::QuotaExceeded,
        why: full.to_string(),
    })?;
    Ok(Admitted {
        principal: granted.principal(),
        grants: Arc::clone(&granted.grants),
        expires: granted.expires,
        limits: granted
            .account
            .as_ref()
            .map(|account| account.limits)
            .unwrap_or_default(),
    })
}

/// How a refusal is said in MQTT.
fn denied(error: &AuthError) -> Denied {
    let reason = match error {
        AuthError::BadCredentials => ReasonCode::BadUserNameOrPassword,
        AuthError::Identity(_) => ReasonCode::ClientIdentifierNotValid,
        AuthError::Throttled { .. } => ReasonCode::Banned,
        AuthError::Busy => ReasonCode::ServerBusy,
        _ => ReasonCode::NotAuthorized,
    };
    Denied {
        reason,
        why: error.to_string(),
    }
}
