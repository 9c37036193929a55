//! Who asks, and what they may look at and change.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use longtail_broker::auth::{
    Account, AuthError, Credentials as Proof, Directory, Grants, LoginRequest, Peer, Roster,
};
use longtail_model::Timestamp;
use longtail_web::{Credentials, Remembered, is_loopback};

use super::http::Failed;

/// What a tag lets somebody do; each may do what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Nothing here.
    None,
    /// Look at and use what its permissions reach.
    Management,
    /// And set policies and parameters there.
    Policymaker,
    /// And look at everything.
    Monitoring,
    /// Everything.
    Administrator,
}

impl Role {
    fn of(tags: &[String]) -> Self {
        let role = |tag: &String| match tag.as_str() {
            "administrator" => Role::Administrator,
            "monitoring" => Role::Monitoring,
            "policymaker" => Role::Policymaker,
            "management" => Role::Management,
            _ => Role::None,
        };
        tags.iter().map(role).max().unwrap_or(Role::None)
    }
}

/// Somebody who has proved who it is.
#[derive(Clone)]
pub(super) struct Caller {
    /// Its name.
    pub(super) name: Arc<str>,
    /// Its tags.
    pub(super) tags: Vec<String>,
    role: Role,
    policymaker: bool,
    /// Has no account: this machine's guest, who may do everything.
    guest: bool,
    /// When what it has shown ends. `None`: never.
    pub(super) expires: Option<Timestamp>,
}

impl Caller {
    /// Somebody with an account.
    pub(super) fn of(account: &Account, name: &str) -> Self {
        Caller {
            name: name.into(),
            role: Role::of(&account.tags),
            policymaker: account
                .tags
                .iter()
                .any(|tag| tag == "policymaker" || tag == "administrator"),
            tags: account.tags.clone(),
            guest: false,
            expires: None,
        }
    }

    /// Somebody on this machine.
    pub(super) fn guest() -> Self {
        Caller {
            name: "guest".into(),
            tags: vec!["administrator".to_owned()],
            role: Role::Administrator,
            policymaker: true,
            guest: true,
            expires: None,
        }
    }

    /// # Errors
    /// 401 unless some tag lets it use this API.
    pub(super) fn may_ask(self) -> Result<Self, Failed> {
        match self.role {
            Role::None => Err(Failed::denied("User can only log in via AMQP clients")),
            _ => Ok(self),
        }
    }

    /// # Errors
    /// 401: this machine's guest has asked for another one, as a page does whose name points here.
    pub(super) fn asking_for(self, headers: &HeaderMap) -> Result<Self, Failed> {
        let host = headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        match self.guest && !host.is_none_or(is_loopback) {
            true => Err(Failed::login()),
            false => Ok(self),
        }
    }

    /// Whether it is this machine's guest.
    pub(super) fn is_guest(&self) -> bool {
        self.guest
    }

    /// What it may do in a space; `None`: it may not use it.
    pub(super) fn grants(&self, roster: &Roster, space: &str) -> Option<Arc<Grants>> {
        if self.guest {
            let directory = roster.directory();
            return directory.space(space).map(|_| Grants::everything());
        }
        let login = roster.authenticator().grants(&self.name, space, "");
        login.ok().map(|login| login.grants)
    }

    /// Whether it sees a vhost at all.
    pub(super) fn sees(&self, roster: &Roster, space: &str) -> bool {
        self.role >= Role::Monitoring || self.grants(roster, space).is_some()
    }

    /// Whether it sees what others do.
    pub(super) fn sees_everything(&self) -> bool {
        self.role >= Role::Monitoring
    }

    /// # Errors
    /// Unless it is an administrator.
    pub(super) fn administers(&self) -> Result<(), Failed> {
        if self.role == Role::Administrator {
            Ok(())
        } else {
            Err(Failed::denied("Not administrator user"))
        }
    }

    /// # Errors
    /// Unless it looks at everything.
    pub(super) fn monitors(&self) -> Result<(), Failed> {
        if self.role >= Role::Monitoring {
            Ok(())
        } else {
            Err(Failed::denied("Not monitor user"))
        }
    }

    /// # Errors
    /// Unless it may set policies in a space.
    pub(super) fn makes_policies(&self, roster: &Roster, space: &str) -> Result<(), Failed> {
        let anywhere = self.role == Role::Administrator;
        if anywhere || self.policymaker && self.grants(roster, space).is_some() {
            Ok(())
        } else {
            Err(Failed::denied("Not policymaker user"))
        }
    }

    /// # Errors
    /// Unless it sees the space.
    pub(super) fn enters(&self, roster: &Roster, space: &str) -> Result<(), Failed> {
        if self.sees(roster, space) {
            Ok(())
        } else {
            Err(Failed::denied("User not authorised to access virtual host"))
        }
    }
}

/// Who has proved lately who it is, so that not every request costs a password hash. Holds as long as the directory.
#[derive(Default)]
pub(super) struct Verified(Remembered<Directory, Caller>);

impl Verified {
    /// Checks who asks. May take tens of milliseconds, on another thread.
    ///
    /// # Errors
    /// 401.
    pub(super) async fn caller(
        &self,
        roster: &Arc<Roster>,
        shown: Credentials,
        peer: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Caller, Failed> {
        let directory = roster.directory();
        let key = shown.key(peer);
        let Credentials::Basic { user, password } = shown else {
            return Err(Failed::login());
        };
        if let Some(caller) = self.0.find(&directory, &key, now) {
            return Ok(caller);
        }
        let asked = Arc::clone(roster);
        let peer = peer.map_or(Peer::Unix, Peer::Address);
        let checked =
            tokio::task::spawn_blocking(move || check(&asked, &user, &password, peer, now)).await;
        let caller = checked.map_err(|error| Failed::internal(error.to_string()))??;
        let caller = caller.may_ask()?;
        self.0.remember(&directory, key, &caller, caller.expires);
        Ok(caller)
    }
}

fn check(
    roster: &Roster,
    user: &str,
    password: &[u8],
    peer: Peer,
    now: Timestamp,
) -> Result<Caller, Failed> {
    let directory = roster.directory();
    let request = |space| LoginRequest {
        credentials: Proof::Password { user, password },
        peer,
        space,
        client_id: "",
    };
    // The space does not matter: one without permissions has proved who it is as well.
    let login = roster
        .authenticator()
        .authenticate(&request(Directory::DEFAULT_SPACE), now);
    match login {
        Ok(login) => Ok(match &login.account {
            Some(account) => Caller {
                expires: login.expires,
                ..Caller::of(account, &account.name)
            },
            None => Caller::guest(),
        }),
        Err(AuthError::NoAccess { proved, .. }) => {
            let caller = proved.and_then(|proved| {
                let account = directory.account(&proved.principal.account)?;
                Some(Caller {
                    expires: proved.expires,
                    ..Caller::of(account, &account.name)
                })
            });
            caller.ok_or_else(Failed::login)
        }
        Err(AuthError::Busy) => Err(Failed {
            status: 503,
            error: "service_unavailable",
            reason: "too many logins are waiting".to_owned(),
        }),
        Err(_) => Err(Failed::login()),
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::auth::{
        AuthDocument, Authenticator, ThrottleLimits, TokenAlgorithm, TokenIssuer,
    };
    use longtail_broker::{Broker, BrokerConfig};

    use super::*;

    #[test]
    fn the_strongest_tag_counts() {
        let role =
            |tags: &[&str]| Role::of(&tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>());
        assert_eq!(role(&[]), Role::None);
        assert_eq!(
            role(&["team-a", "management", "monitoring"]),
            Role::Monitoring
        );
        assert_eq!(role(&["administrator", "policymaker"]), Role::Administrator);
    }

    #[tokio::test]
    async fn who_was_let_in_for_a_while_is_asked_again_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let account = Account {
            tags: vec!["management".to_owned()],
            ..Account::named("ann")
        };
        let document = AuthDocument {
            accounts: vec![account.clone()],
            ..AuthDocument::default()
        };
        let directory = Directory::new(document.clone()).unwrap();
        let authenticator = Authenticator::new(directory, ThrottleLimits::default());
        let roster = Roster::open(broker, Arc::new(authenticator), document).unwrap();
        let roster = Arc::new(roster);
        let (verified, shown) = (Verified::default(), Credentials::read("Basic YW5uOnRva2Vu"));
        let caller = Caller {
            expires: Some(Timestamp(2_000)),
            ..Caller::of(&account, "ann")
        };
        let (directory, key) = (roster.directory(), shown.key(None));
        assert!(verified.0.find(&directory, &key, Timestamp(1)).is_none());
        (verified.0).remember(&directory, key, &caller, caller.expires);
        let at = |now| verified.caller(&roster, shown.clone(), None, Timestamp(now));
        assert_eq!(&*at(1_999).await.unwrap().name, "ann");
        // It is no password of hers.
        let Err(failed) = at(2_000).await else {
            panic!("it has ended");
        };
        assert_eq!(failed, Failed::login());
    }

    #[tokio::test]
    async fn a_token_without_vhosts_is_worth_its_issuers_account_and_ends() {
        let secret = "0123456789abcdef0123456789abcdef";
        let tagged = |name: &str, tag: &str| Account {
            tags: vec![tag.to_owned()],
            ..Account::named(name)
        };
        // Neither has permissions anywhere.
        let document = AuthDocument {
            accounts: vec![tagged("gate", "monitoring"), tagged("ann", "administrator")],
            tokens: vec![TokenIssuer {
                name: "gate".to_owned(),
                algorithm: TokenAlgorithm::HS256,
                key: secret.to_owned(),
                issuer: None,
                audience: None,
                claim: "sub".to_owned(),
                account: Some("gate".to_owned()),
            }],
            ..AuthDocument::default()
        };
        let claims = serde_json::json!({"sub": "ann", "exp": 2});
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let header = jsonwebtoken::Header::default();
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let directory = Directory::new(document.clone()).unwrap();
        let authenticator = Authenticator::new(directory, ThrottleLimits::default());
        let roster = Roster::open(broker, Arc::new(authenticator), document).unwrap();
        let (roster, verified) = (Arc::new(roster), Verified::default());
        let shown = Credentials::Basic {
            user: "ann".to_owned(),
            password: token.into_bytes(),
        };
        let at = |now| verified.caller(&roster, shown.clone(), None, Timestamp(now));
        let caller = at(1_000).await.unwrap();
        assert_eq!((&*caller.name, caller.role), ("gate", Role::Monitoring));
        assert_eq!(caller.expires, Some(Timestamp(2_000)));
        assert!(at(1_999).await.is_ok());
        assert!(at(2_000).await.is_err(), "it has ended");
    }
}
