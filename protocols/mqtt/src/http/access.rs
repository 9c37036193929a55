//! Who asks, and what it may look at and do. There is one model of accounts: these APIs have no users of their own.
//!
//! * To publish, an account needs the right to publish to that topic, as over MQTT.
//! * To look at things, it needs the tag `monitoring` or `administrator`, or the right `manage` for everything.
//! * To change things, it needs the tag `administrator`, or the right `manage` for everything.
//!
//! On a server without accounts, which listens on this machine only, everybody may do everything whatever name and
//! password it gives, and without one.

use std::sync::Arc;

use axum::http::header;
use longtail_broker::auth::{
    Account, Action as Right, AuthError, Credentials as Proof, Directory, Grants, LoginRequest,
    Peer, Proved, Verdict,
};
use longtail_model::{Filter, Timestamp};
use longtail_web::{Credentials, is_loopback};

use super::Api;
use super::request::{Asked, Trouble};

/// How long a token of [`Api::log_in`] holds, in milliseconds.
const TOKEN_MS: u64 = 3_600_000;

/// Client identifier of a request that does not name one.
pub(super) const CLIENT_ID: &str = "http-api";

/// Somebody who has proved who it is.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Its account; none on a server without accounts.
    pub(super) account: Option<Arc<str>>,
    /// What it may do with topics.
    pub(super) grants: Arc<Grants>,
    looks: bool,
    changes: bool,
    /// When what it has shown ends.
    expires: Option<Timestamp>,
}

impl Caller {
    fn of(account: Option<&Account>, grants: Arc<Grants>, expires: Option<Timestamp>) -> Self {
        let Some(account) = account else {
            return Caller {
                account: None,
                grants,
                looks: true,
                changes: true,
                expires,
            };
        };
        let tagged = |tag: &str| account.tags.iter().any(|other| other == tag);
        let everything = Filter::everything();
        let manages = grants.judge(Right::Manage, &everything) == Verdict::Allowed;
        let changes = manages || tagged("administrator");
        Caller {
            account: Some(account.name.as_str().into()),
            looks: changes || tagged("monitoring"),
            changes,
            grants,
            expires,
        }
    }

    /// Somebody whose account has nothing to do with topics here.
    fn without_topics(directory: &Directory, proved: &Proved) -> Option<Self> {
        let account = directory.account(&proved.principal.account)?;
        Some(Self::of(Some(account), Arc::default(), proved.expires))
    }
}

/// A client that somebody publishes for.
pub(super) struct OnBehalf<'a> {
    pub(super) client_id: &'a str,
    pub(super) user: &'a str,
    pub(super) password: &'a [u8],
}

impl Asked {
    /// Who asks. May take tens of milliseconds, on another thread.
    ///
    /// # Errors
    /// When it has not proved who it is.
    pub(super) async fn caller(&self) -> Result<Caller, Trouble> {
        let shown = Credentials::of(&self.headers);
        let (api, key) = (&self.api, shown.key(Some(self.peer)));
        let directory = api.authenticator.directory();
        let caller = match api.verified.find(&directory, &key, api.tenant.now()) {
            Some(caller) => caller,
            None => {
                let caller = match shown {
                    Credentials::Basic { user, password }
                        if password.is_empty() && is_token(&user) =>
                    {
                        // Tools of VerneMQ send their key as the name.
                        self.check(String::new(), user.into_bytes(), CLIENT_ID)
                            .await
                    }
                    Credentials::Basic { user, password } => {
                        self.check(user, password, CLIENT_ID).await
                    }
                    Credentials::Bearer(token) => {
                        self.check(String::new(), token.into_bytes(), CLIENT_ID)
                            .await
                    }
                    Credentials::None => self.check_anonymous(),
                    Credentials::Unreadable => Err(Trouble::NoLogin),
                }?;
                let expires = caller.expires;
                api.verified.remember(&directory, key, &caller, expires);
                caller
            }
        };
        // Whoever needs no password could be a page that a browser on this machine shows.
        let host = self.headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        if caller.account.is_none() && !host.is_none_or(is_loopback) {
            return Err(Trouble::NoLogin);
        }
        Ok(caller)
    }

    /// Somebody who may look at everything.
    ///
    /// # Errors
    /// When it may not.
    pub(super) async fn looks(&self) -> Result<Caller, Trouble> {
        let caller = self.caller().await?;
        if !caller.looks {
            return Err(Trouble::Denied(
                "the account needs the tag monitoring or administrator, or the right to manage #"
                    .to_owned(),
            ));
        }
        Ok(caller)
    }

    /// Somebody who may change things.
    ///
    /// # Errors
    /// When it may not.
    pub(super) async fn changes(&self) -> Result<Caller, Trouble> {
        let caller = self.caller().await?;
        if !caller.changes {
            return Err(Trouble::Denied(
                "the account needs the tag administrator, or the right to manage #".to_owned(),
            ));
        }
        Ok(caller)
    }

    /// Who a request publishes for, by what it says of a client of MQTT.
    ///
    /// # Errors
    /// When the client is not let in.
    pub(super) async fn on_behalf(&self, of: &OnBehalf<'_>) -> Result<Caller, Trouble> {
        let (user, password) = (of.user.to_owned(), of.password.to_vec());
        self.check(user, password, of.client_id).await
    }

    async fn check(
        &self,
        user: String,
        password: Vec<u8>,
        client_id: &str,
    ) -> Result<Caller, Trouble> {
        let (api, peer, client_id) = (Arc::clone(&self.api), self.peer, client_id.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let (user, password) = (user.as_str(), password.as_slice());
            let proof = Proof::Password { user, password };
            api.check_proof(proof, Peer::Address(peer), &client_id)
        });
        checked
            .await
            .map_err(|error| Trouble::Failed(error.to_string()))?
    }

    fn check_anonymous(&self) -> Result<Caller, Trouble> {
        let directory = self.api.authenticator.directory();
        if !directory.is_open() && directory.anonymous().is_none() {
            // A browser asks like this before it asks for a password: it is no failed login.
            return Err(Trouble::NoLogin);
        }
        let peer = Peer::Address(self.peer);
        self.api.check_proof(Proof::Anonymous, peer, CLIENT_ID)
    }
}

impl Api {
    /// Blocks while a password is verified.
    fn check_proof(
        &self,
        proof: Proof<'_>,
        peer: Peer,
        client_id: &str,
    ) -> Result<Caller, Trouble> {
        let space = &self.tenant.config().space;
        let request = LoginRequest {
            credentials: proof,
            peer,
            space,
            client_id,
        };
        let directory = self.authenticator.directory();
        let login = self.authenticator.authenticate(&request, self.tenant.now());
        match login {
            Ok(login) => Ok(Caller::of(
                login.account.as_deref(),
                login.grants,
                login.expires,
            )),
            // It has proved who it is, and may have nothing to do with topics.
            Err(AuthError::NoAccess { proved, .. }) => proved
                .and_then(|proved| Caller::without_topics(&directory, &proved))
                .ok_or(Trouble::NoLogin),
            Err(error @ (AuthError::Busy | AuthError::Throttled { .. })) => {
                Err(Trouble::Busy(error.to_string()))
            }
            Err(AuthError::Identity(error)) => Err(Trouble::Denied(error.to_string())),
            Err(_) => Err(Trouble::NoLogin),
        }
    }

    /// A token for somebody with a name and a password, for an hour.
    ///
    /// # Errors
    /// When it is not known.
    pub(super) async fn log_in(
        &self,
        asked: &Asked,
        user: &str,
        password: &str,
    ) -> Result<String, Trouble> {
        let directory = self.authenticator.directory();
        let caller = asked
            .check(user.to_owned(), password.into(), CLIENT_ID)
            .await?;
        if !caller.looks {
            return Err(Trouble::NoLogin);
        }
        let (high, low): (u128, u128) = (rand::random(), rand::random());
        let token = format!("{high:032x}{low:032x}");
        let key = Credentials::Bearer(token.clone()).key(Some(asked.peer));
        let now = self.tenant.now();
        let end = now.plus_millis(TOKEN_MS);
        let expires = Some(caller.expires.map_or(end, |other| other.min(end)));
        // Clears what was known of other accounts.
        self.verified.find(&directory, &key, now);
        self.verified.remember(&directory, key, &caller, expires);
        Ok(token)
    }

    /// The token of a request holds no longer.
    pub(super) fn log_out(&self, asked: &Asked) {
        let key = Credentials::of(&asked.headers).key(Some(asked.peer));
        self.verified.forget(&key);
    }
}

fn is_token(text: &str) -> bool {
    text.split('.').count() == 3
}

#[cfg(test)]
mod tests {
    use longtail_broker::auth::{AuthDocument, Identity, Pattern, Principal, Rule};

    use super::*;

    fn caller(tags: &[&str], manages: Option<&str>) -> (bool, bool) {
        let mut account = Account::named("a");
        account.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let rules = manages.map(|subject| Rule {
            actions: vec![Right::Manage],
            effect: longtail_broker::auth::Effect::Allow,
            subject: Pattern::new(subject).unwrap(),
        });
        let identity = Identity {
            account: "a",
            client_id: "",
        };
        let rules: Vec<_> = rules.into_iter().collect();
        let grants = Grants::compile(&rules, &identity).unwrap();
        let caller = Caller::of(Some(&account), Arc::new(grants), None);
        (caller.looks, caller.changes)
    }

    #[test]
    fn tags_and_the_right_to_manage_open_the_api() {
        assert_eq!(caller(&[], None), (false, false));
        assert_eq!(caller(&["management"], Some("plant/#")), (false, false));
        assert_eq!(caller(&["monitoring"], None), (true, false));
        assert_eq!(caller(&["administrator"], None), (true, true));
        assert_eq!(caller(&[], Some("#")), (true, true));
    }

    #[test]
    fn who_has_proved_it_without_topics_has_its_account_as_long_as_the_proof_holds() {
        let tagged = |name: &str, tag: &str| Account {
            tags: vec![tag.to_owned()],
            ..Account::named(name)
        };
        let document = AuthDocument {
            accounts: vec![tagged("gate", "monitoring"), tagged("ann", "administrator")],
            ..AuthDocument::default()
        };
        let directory = Directory::new(document).unwrap();
        // As a token says that names somebody and is worth another account.
        let proved = Proved {
            principal: Principal {
                account: "gate".into(),
                name: "ann".into(),
            },
            expires: Some(Timestamp(2_000)),
        };
        let caller = Caller::without_topics(&directory, &proved).unwrap();
        assert_eq!(caller.account.as_deref(), Some("gate"));
        assert_eq!((caller.looks, caller.changes), (true, false));
        assert_eq!(caller.expires, Some(Timestamp(2_000)));
    }
}
