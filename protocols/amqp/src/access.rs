//! Who is let in, and what for.

use std::sync::Arc;

use longtail_broker::auth::{
    AuthError, Authenticator, Credentials, Grants, Login as Granted, LoginRequest, Peer, Principal,
};
use longtail_edge::{Endpoint, TlsIdentity};
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;

use crate::census::{SeatLimits, Standing};

/// A client that asks for a vhost.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The name it gives.
    pub user: &'a str,
    /// The password it gives.
    pub password: &'a [u8],
    /// The space it wants.
    pub space: &'a str,
    /// Where it comes from.
    pub remote: &'a Endpoint,
    /// Whom its certificate names, where it logs in with that (`EXTERNAL`).
    pub identity: Option<&'a TlsIdentity>,
    /// Clients connected to the vhost, this one not counted.
    pub connections: u64,
}

/// A client that is let in.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// What it may do.
    pub grants: Arc<Grants>,
    /// Who it is; none where there are no accounts.
    pub principal: Option<Principal>,
    /// When what it has shown ends, and the connection with it; `None`: never.
    pub expires: Option<Timestamp>,
    /// Its messages may say that somebody else has published them.
    pub impersonates: bool,
}

/// The tag of accounts whose clients may do that.
const IMPERSONATOR: &str = "impersonator";

impl Admitted {
    /// For ever.
    #[must_use]
    pub fn with(grants: Arc<Grants>) -> Self {
        Admitted {
            grants,
            principal: None,
            expires: None,
            impersonates: false,
        }
    }

    fn by(granted: Granted) -> Self {
        Admitted {
            principal: granted.principal(),
            impersonates: granted
                .account
                .is_some_and(|account| account.tags.iter().any(|tag| tag == IMPERSONATOR)),
            grants: granted.grants,
            expires: granted.expires,
        }
    }
}

/// Why a client is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has not proved who it is.
    #[error("{0}")]
    Login(String),
    /// It has, but may not use the vhost.
    #[error("{0}")]
    Vhost(String),
    /// The space has as many connections as it may have.
    #[error("{0}")]
    Full(String),
}

/// Decides who is let in at a listener. Methods may take tens of milliseconds: they are called from a thread that may
/// wait.
pub trait Admission: Send + Sync + 'static {
    /// Checks who a client is, before it has named a vhost. Yields what it may do in `login.space`, if that is known:
    /// when it names that one, [`Admission::admit`] is not asked.
    ///
    /// # Errors
    /// [`Denied::Login`].
    fn verify(&self, login: &Login<'_>) -> Result<Option<Admitted>, Denied>;

    /// What the client may do in the vhost that it has named.
    ///
    /// # Errors
    /// When it is not let in.
    fn admit(&self, login: &Login<'_>) -> Result<Admitted, Denied>;

    /// The same for a client that is in already and shows another secret.
    ///
    /// # Errors
    /// When it would not be let in with that.
    fn renew(&self, login: &Login<'_>) -> Result<Admitted, Denied> {
        self.admit(login)
    }

    /// How many there may be of the clients of an account in a space.
    fn limits(&self, account: &str, space: &str) -> SeatLimits {
        let _ = (account, space);
        SeatLimits::default()
    }

    /// What a client that was let in may do in a space now. Must not wait.
    fn now(&self, principal: &Principal, space: &str) -> Standing {
        let _ = (principal, space);
        Standing::Same
    }
}

/// Lets everybody in who reaches the listener, to every vhost, and allows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn verify(&self, login: &Login<'_>) -> Result<Option<Admitted>, Denied> {
        self.admit(login).map(Some)
    }

    fn admit(&self, _login: &Login<'_>) -> Result<Admitted, Denied> {
        Ok(Admitted::with(Grants::everything()))
    }
}

/// Lets in whom the broker's accounts name. Without accounts, everybody on this machine.
#[derive(Clone)]
pub struct Accounts {
    /// Knows the accounts.
    pub authenticator: Arc<Authenticator>,
    /// The time, for the limit on failures.
    pub clock: Arc<dyn Clock>,
    /// Account of every connection, whatever it says; `None`: as it proves.
    pub account: Option<String>,
}

impl Accounts {
    fn granted(&self, login: &Login<'_>, space: &str) -> Result<Granted, AuthError> {
        if let Some(account) = &self.account {
            return self.authenticator.grants(account, space, "");
        }
        let names = login.identity.map(TlsIdentity::names);
        let request = LoginRequest {
            credentials: match &names {
                Some(names) => Credentials::Certificate { names },
                None => Credentials::Password {
                    user: login.user,
                    password: login.password,
                },
            },
            peer: match login.remote {
                Endpoint::Tcp(address) => Peer::Address(address.ip()),
                Endpoint::Unix(_) => Peer::Unix,
            },
            space,
            client_id: "",
        };
        self.authenticator.authenticate(&request, self.clock.now())
    }
}

fn denied(error: &AuthError) -> Denied {
    match error {
        AuthError::NoAccess { .. } => Denied::Vhost(error.to_string()),
        _ => Denied::Login(error.to_string()),
    }
}

impl Admission for Accounts {
    fn verify(&self, login: &Login<'_>) -> Result<Option<Admitted>, Denied> {
        match self.granted(login, login.space) {
            // One that has no room is told so when it names its vhost.
            Ok(granted) => {
                let room = granted.quotas.admit_connection(login.connections);
                Ok(room.is_ok().then(|| Admitted::by(granted)))
            }
            // Who it is, is proved; which vhosts are its own is asked when it names one.
            Err(AuthError::NoAccess { .. }) => Ok(None),
            Err(error) => Err(Denied::Login(error.to_string())),
        }
    }

    fn admit(&self, login: &Login<'_>) -> Result<Admitted, Denied> {
        let granted = self
            .granted(login, login.space)
            .map_err(|error| denied(&error))?;
        let room = granted.quotas.admit_connection(login.connections);
        room.map_err(|full| Denied::Full(full.to_string()))?;
        Ok(Admitted::by(granted))
    }

    fn renew(&self, login: &Login<'_>) -> Result<Admitted, Denied> {
        let granted = self
            .granted(login, login.space)
            .map_err(|error| denied(&error))?;
        Ok(Admitted::by(granted))
    }

    fn limits(&self, account: &str, space: &str) -> SeatLimits {
        let directory = self.authenticator.directory();
        let account = directory.account(account);
        let limits = account.map(|account| account.limits).unwrap_or_default();
        SeatLimits {
            vhost_connections: directory
                .space(space)
                .and_then(|(_, quotas)| quotas.connections_max),
            user_connections: limits.connections_max,
            user_channels: limits.channels_max,
        }
    }

    fn now(&self, principal: &Principal, space: &str) -> Standing {
        match self.authenticator.grants_of(principal, space, "", None) {
            Ok(granted) => Standing::Granted(granted.grants),
            Err(AuthError::BadCredentials) => Standing::Gone,
            // It may not use the vhost any more: the connection stays, and may do nothing.
            Err(_) => Standing::Granted(Arc::new(Grants::default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::auth::{Action as Right, AuthDocument, Directory, ThrottleLimits};
    use longtail_engine::runtime::SystemClock;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_is_judged_again_by_its_account_whatever_its_certificate_calls_it() {
        let of = |name: &str, certificates: &[&str], subject: &str| {
            let rules = json!([{"actions": ["configure"], "subject": subject}]);
            json!({
                "name": name,
                "certificates": certificates,
                "tags": (name == "pump").then_some("impersonator").iter().collect::<Vec<_>>(),
                "permissions": [{"space": "default", "rules": rules}],
            })
        };
        let document: AuthDocument = serde_json::from_value(json!({
            "accounts": [of("pump", &["pump.example"], "own"), of("pump.example", &[], "#")],
        }))
        .unwrap();
        let directory = Directory::new(document).unwrap();
        let accounts = Accounts {
            authenticator: Arc::new(Authenticator::new(directory, ThrottleLimits::default())),
            clock: Arc::new(SystemClock::new()),
            account: None,
        };
        let identity = TlsIdentity {
            common_name: Some("pump.example".to_owned()),
            ..TlsIdentity::default()
        };
        let admitted = accounts.admit(&Login {
            user: "pump.example",
            password: b"",
            space: "default",
            remote: &Endpoint::Tcp("192.0.2.1:9".parse().unwrap()),
            identity: Some(&identity),
            connections: 0,
        });
        let admitted = admitted.unwrap();
        assert!(admitted.impersonates);
        let principal = admitted.principal.unwrap();
        assert_eq!(principal, Principal::named("pump"));
        let Standing::Granted(grants) = accounts.now(&principal, "default") else {
            panic!("it has an account");
        };
        assert!(grants.allows_name(Right::Configure, "own"));
        assert!(!grants.allows_name(Right::Configure, "other"));
    }
}
