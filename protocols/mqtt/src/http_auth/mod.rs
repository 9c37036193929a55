//! Logins that a server of HTTP decides, as EMQX and NanoMQ ask it.
//!
//! ```text
//! CONNECT ──▶ hooks ──▶ HttpAuth ──▶ ask (one request, within a time) ──▶ answer ──▶ Decision, with rights
//! ```
//!
//! It is a [`Hook`] that authenticates: asked as a task of the connection's worker, it holds up neither other
//! connections nor a shard. A server that cannot be reached, is late or answers what nobody understands lets nobody in.

mod answer;
mod ask;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longtail_broker::auth::Grants;
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::codec::ReasonCode;
use crate::hooks::{Asking, Decision, Event, Hook, Permission, Points, Proof, Wait};
use answer::Outcome;
use ask::{Asker, Failed, Request, Subject};

/// Answers that are remembered at a time.
const CACHE_MAX: usize = 10_000;

/// Added to the time of the requests, so that it is they who run out of it.
const SLACK: Duration = Duration::from_millis(500);

/// Whose way of answering the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// JSON: `result` (`allow`, `deny`, `ignore`), `is_superuser`, `acl`. 204 is to allow, another status but 200 to ignore.
    Emqx,
    /// 200 is to allow, any other status to deny.
    NanoMq,
}

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// With the parameters in the address.
    Get,
    /// With the parameters in the body.
    Post,
}

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// An object.
    Json,
    /// As a form has it.
    Form,
}

/// A server that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpAuthConfig {
    /// Whose way it has.
    pub style: Style,
    /// `http://HOST[:PORT]/PATH` or `https://...`.
    pub url: String,
    /// Of NanoMQ: asked whether a client that was let in may do everything.
    #[serde(default)]
    pub superuser_url: Option<String>,
    /// Asked for each PUBLISH, each filter of a SUBSCRIBE and each will: NanoMQ's `acl_req`, EMQX's HTTP authorizer. Whom
    /// `superuser_url` names is not asked about.
    #[serde(default)]
    pub acl_url: Option<String>,
    /// What is told then, as `params`; besides, `%A` is 1 for to subscribe and 2 for to publish, `%t` the topic or filter,
    /// `${action}` is `subscribe` or `publish`, `${topic}`, `${qos}` and `${retain}` are what they say. Default:
    /// `clientid`, `username`, `access` (or `action` with [`Style::Emqx`]) and `topic`.
    #[serde(default)]
    pub acl_params: Option<BTreeMap<String, String>>,
    /// Milliseconds for which the answer about one client and topic is remembered, of 64 of a client; 0: not at all.
    /// Default 0.
    #[serde(default)]
    pub acl_ttl_ms: u64,
    /// Default `post`.
    #[serde(default = "post")]
    pub method: Method,
    /// Default `json`, and `form` with [`Style::NanoMq`].
    #[serde(default)]
    pub body: Option<Body>,
    /// Headers beside those that a request needs.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What is told: names and values, in which `%c` is the client identifier, `%u` the user name, `%P` the password, `%a`
    /// the address it comes from, `%C` the common name of its certificate and `%%` a percent sign; `${clientid}`,
    /// `${username}`, `${password}`, `${peerhost}` and `${cert_common_name}` are the same. Default: `clientid`, `username`
    /// and `password`.
    #[serde(default = "names")]
    pub params: BTreeMap<String, String>,
    /// Milliseconds that a request may take, 1 to 60,000. Default 5000.
    #[serde(default = "five_seconds")]
    pub timeout_ms: u64,
    /// Milliseconds of these for the connection. Default 5000.
    #[serde(default = "five_seconds")]
    pub connect_timeout_ms: u64,
    /// Requests at a time, 1 to 1024; further ones wait, within their time. Default 32.
    #[serde(default = "thirty_two")]
    pub requests_max: usize,
    /// Milliseconds for which an answer to the same request is remembered; 0: not at all. Default 0.
    #[serde(default)]
    pub cache_ttl_ms: u64,
    /// Account whose rights clients have that come without an `acl`. Default none: they may do everything.
    #[serde(default)]
    pub account: Option<String>,
    /// PEM file with the authorities of the server's certificate, for `https`.
    #[serde(default)]
    pub authorities: Option<PathBuf>,
}

fn post() -> Method {
    Method::Post
}

fn names() -> BTreeMap<String, String> {
    let pairs = [("clientid", "%c"), ("username", "%u"), ("password", "%P")];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn five_seconds() -> u64 {
    5000
}

fn thirty_two() -> usize {
    32
}

/// Why a server cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpAuthError {
    /// No address.
    #[error("{0:?} is no address: http://HOST[:PORT]/PATH or https://...")]
    Url(String),
    /// `https` without authorities, or the other way round.
    #[error("https needs `authorities`, a PEM file, and http has none")]
    Authorities,
    /// The authorities cannot be used.
    #[error("authorities: {0}")]
    Tls(String),
    /// No header.
    #[error("{0:?} is no header")]
    Header(String),
    /// A value with a placeholder that there is not.
    #[error("{0:?} has a placeholder that there is not at a login")]
    Placeholder(String),
    /// `superuser_url` is for NanoMQ.
    #[error("superuser_url is for style = \"nanomq\": EMQX's servers say is_superuser")]
    Superuser,
    /// `acl_params` and `acl_ttl_ms` are for `acl_url`.
    #[error("acl_params and acl_ttl_ms are for acl_url, which is missing")]
    Acl,
    /// A number out of its range.
    #[error("{0}")]
    Range(&'static str),
}

/// What is told of a client that wants something, by default.
fn wishes(style: Style) -> BTreeMap<String, String> {
    let what = match style {
        Style::Emqx => ("action", "${action}"),
        Style::NanoMq => ("access", "%A"),
    };
    let pairs = [
        ("clientid", "%c"),
        ("username", "%u"),
        what,
        ("topic", "%t"),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// What an account may do now, for a client.
pub type Rights = Arc<dyn Fn(&str, &str) -> Option<Arc<Grants>> + Send + Sync>;

/// The ways on which a server is asked.
struct Askers {
    login: Asker,
    superuser: Option<Asker>,
    wish: Option<Asker>,
}

impl HttpAuthConfig {
    /// Whether a server can be asked so, without asking it; the authorities are read.
    ///
    /// # Errors
    /// [`HttpAuthError`].
    pub fn check(&self) -> Result<(), HttpAuthError> {
        self.askers().map(drop)
    }

    fn askers(&self) -> Result<Askers, HttpAuthError> {
        let within = 1..=60_000;
        if !within.contains(&self.timeout_ms) || !within.contains(&self.connect_timeout_ms) {
            return Err(HttpAuthError::Range(
                "timeout_ms and connect_timeout_ms are 1 to 60000",
            ));
        }
        if !(1..=1024).contains(&self.requests_max) {
            return Err(HttpAuthError::Range("requests_max is 1 to 1024"));
        }
        if self.superuser_url.is_some() && self.style == Style::Emqx {
            return Err(HttpAuthError::Superuser);
        }
        if self.acl_url.is_none() && (self.acl_params.is_some() || self.acl_ttl_ms > 0) {
            return Err(HttpAuthError::Acl);
        }
        let (of_login, of_wish) = (&self.params, self.acl_params.clone());
        let login = Asker::new(self, &self.url, of_login, false)?;
        let superuser = self.superuser_url.as_deref();
        let superuser = superuser.map(|url| Asker::new(self, url, of_login, false));
        let superuser = superuser.transpose()?;
        let of_wish = of_wish.unwrap_or_else(|| wishes(self.style));
        let acl = self.acl_url.as_deref();
        let acl = acl.map(|url| Asker::new(self, url, &of_wish, true));
        Ok(Askers {
            login,
            superuser,
            wish: acl.transpose()?,
        })
    }
}

/// The hook that asks.
pub struct HttpAuth {
    config: HttpAuthConfig,
    asker: Asker,
    superuser: Option<Asker>,
    acl: Option<Asker>,
    /// Connected clients that may do everything.
    superusers: Mutex<HashSet<Arc<str>>>,
    requests: Semaphore,
    remembered: Mutex<HashMap<[u8; 32], (Outcome, Timestamp)>>,
    rights: Rights,
    clock: Arc<dyn Clock>,
    /// Nobody else could decide about a client that the server does not know.
    is_last: bool,
}

impl HttpAuth {
    /// Asks a server. With `is_last`, a client that it ignores is refused, otherwise whoever comes next decides.
    ///
    /// # Errors
    /// [`HttpAuthError`].
    pub fn new(
        config: HttpAuthConfig,
        rights: Rights,
        clock: Arc<dyn Clock>,
        is_last: bool,
    ) -> Result<Self, HttpAuthError> {
        let askers = config.askers()?;
        Ok(HttpAuth {
            requests: Semaphore::new(config.requests_max),
            remembered: Mutex::default(),
            asker: askers.login,
            superuser: askers.superuser,
            acl: askers.wish,
            superusers: Mutex::default(),
            config,
            rights,
            clock,
            is_last,
        })
    }

    async fn ask(&self, proof: &Proof) -> Result<Outcome, Failed> {
        let proof = Subject::Proof(proof);
        let request = self.asker.request(&proof);
        if let Some(outcome) = self.recall(&request) {
            return Ok(outcome);
        }
        let answer = self.send(&self.asker, &request).await?;
        let mut outcome = match self.config.style {
            Style::NanoMq if answer.status == 200 => Outcome::Allow {
                superuser: false,
                rules: None,
            },
            Style::NanoMq if answer.status >= 500 => return Err(Failed::Status(answer.status)),
            Style::NanoMq => Outcome::Deny,
            Style::Emqx => answer::of_emqx(&answer)?,
        };
        if let (Outcome::Allow { superuser, .. }, Some(asker)) = (&mut outcome, &self.superuser) {
            let answer = self.send(asker, &asker.request(&proof)).await?;
            if answer.status >= 500 {
                return Err(Failed::Status(answer.status));
            }
            *superuser = answer.status == 200;
        }
        self.remember(&request, &outcome);
        Ok(outcome)
    }

    /// Whether the server permits something.
    async fn judge(&self, acl: &Asker, request: &Request) -> Result<Permission, Failed> {
        let answer = self.send(acl, request).await?;
        match (self.config.style, answer.status) {
            (_, status) if status >= 500 => Err(Failed::Status(status)),
            (Style::NanoMq, 200) => Ok(Permission::Allow),
            (Style::NanoMq, _) => Ok(Permission::Deny),
            (Style::Emqx, _) => Ok(match answer::of_emqx(&answer)? {
                Outcome::Allow { .. } => Permission::Allow,
                Outcome::Deny => Permission::Deny,
                Outcome::Ignore => Permission::Next,
            }),
        }
    }

    async fn send(&self, asker: &Asker, request: &Request) -> Result<ask::Answer, Failed> {
        let time = Duration::from_millis(self.config.timeout_ms);
        let sent = async {
            let _one = self.requests.acquire().await.map_err(|_| Failed::Late)?;
            asker.send(request).await
        };
        tokio::time::timeout(time, sent)
            .await
            .map_err(|_| Failed::Late)?
    }

    fn recall(&self, request: &Request) -> Option<Outcome> {
        if self.config.cache_ttl_ms == 0 {
            return None;
        }
        let now = self.clock.now();
        let remembered = self.remembered.lock();
        let (outcome, until) = remembered.get(&request.key())?;
        (now < *until).then(|| outcome.clone())
    }

    fn remember(&self, request: &Request, outcome: &Outcome) {
        if self.config.cache_ttl_ms == 0 {
            return;
        }
        let now = self.clock.now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= CACHE_MAX {
            remembered.retain(|_, (_, until)| now < *until);
        }
        if remembered.len() < CACHE_MAX {
            let until = now.plus_millis(self.config.cache_ttl_ms);
            remembered.insert(request.key(), (outcome.clone(), until));
        }
    }

    fn decide(&self, proof: &Proof, outcome: &Outcome) -> Decision {
        match outcome {
            Outcome::Deny => Decision::Deny(ReasonCode::BadUserNameOrPassword),
            Outcome::Ignore if self.is_last => Decision::Deny(ReasonCode::NotAuthorized),
            Outcome::Ignore => Decision::Next,
            Outcome::Allow {
                superuser: true, ..
            } => Decision::admit_all(),
            Outcome::Allow {
                rules: Some(rules), ..
            } => match answer::grants(rules, proof) {
                Ok(grants) => Decision::Admit {
                    account: None,
                    grants: Arc::new(grants),
                },
                Err(error) => {
                    tracing::warn!(client = %proof.client_id, %error, "its rules cannot be its");
                    Decision::Deny(ReasonCode::ClientIdentifierNotValid)
                }
            },
            Outcome::Allow { .. } => match &self.config.account {
                None => Decision::admit_all(),
                Some(account) => match (self.rights)(account, &proof.client_id) {
                    Some(grants) => Decision::Admit {
                        account: Some(account.as_str().into()),
                        grants,
                    },
                    None => {
                        tracing::warn!(account, "there is no such account: nobody is let in as it");
                        Decision::Deny(ReasonCode::NotAuthorized)
                    }
                },
            },
        }
    }
}

impl Hook for HttpAuth {
    fn name(&self) -> &str {
        "http authentication"
    }

    fn points(&self) -> Points {
        match &self.acl {
            None => Points::AUTHENTICATE,
            Some(_) => Points::AUTHENTICATE | Points::PERMIT | Points::DISCONNECTED,
        }
    }

    fn permit<'a>(&'a self, asking: &'a Asking) -> Wait<'a, Permission> {
        Box::pin(async move {
            let Some(acl) = &self.acl else {
                return Permission::Next;
            };
            if self.superusers.lock().contains(&asking.client_id) {
                return Permission::Allow;
            }
            let request = acl.request(&Subject::Wish(asking));
            match self.judge(acl, &request).await {
                Ok(permission) => permission,
                Err(error) => {
                    let (url, topic) = (acl.shown(), &asking.wish.topic);
                    tracing::warn!(client = %asking.client_id, topic, url, %error, "nothing is permitted without an answer");
                    Permission::Deny
                }
            }
        })
    }

    fn permit_within(&self) -> Duration {
        Duration::from_millis(self.config.timeout_ms) + SLACK
    }

    fn permit_holds_ms(&self) -> u64 {
        self.config.acl_ttl_ms
    }

    fn notify(&self, event: &Event) {
        if let Event::Disconnected { client, .. } = event {
            self.superusers.lock().remove(&client.id);
        }
    }

    fn authenticate<'a>(&'a self, proof: &'a Proof) -> Wait<'a, Decision> {
        Box::pin(async move {
            match self.ask(proof).await {
                Ok(outcome) => {
                    if self.acl.is_some() {
                        let is_super = matches!(
                            outcome,
                            Outcome::Allow {
                                superuser: true,
                                ..
                            }
                        );
                        let id = &proof.client_id;
                        let mut superusers = self.superusers.lock();
                        if is_super {
                            superusers.insert(Arc::clone(id));
                        } else {
                            superusers.remove(id);
                        }
                    }
                    self.decide(proof, &outcome)
                }
                Err(error) => {
                    let url = self.asker.shown();
                    tracing::warn!(client = %proof.client_id, url, %error, "nobody is let in without an answer");
                    Decision::Deny(ReasonCode::ServerUnavailable)
                }
            }
        })
    }

    fn authenticate_within(&self) -> Duration {
        // It may ask twice.
        Duration::from_millis(2 * self.config.timeout_ms) + SLACK
    }
}
