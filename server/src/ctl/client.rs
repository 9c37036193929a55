//! The management API from the other side.

use std::env;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;

use super::arguments::{Call, Options};
use super::error::CtlError;
use crate::commands::client::{ANSWER, ANSWER_MAX, agent, escaped};

/// Where the server is, unless told.
const URI: &str = "http://127.0.0.1:15672";
/// Who asks, unless told, and the password.
const GUEST: &str = "guest";

/// What the environment says, in the order in which it counts: LavinMQ's name is the last.
const URI_VARIABLES: &[&str] = &["LONGTAIL_MANAGEMENT_URL", "LAVINMQCTL_HOST"];
const USER_VARIABLES: &[&str] = &["LONGTAIL_MANAGEMENT_USER"];
const PASSWORD_VARIABLES: &[&str] = &["LONGTAIL_MANAGEMENT_PASSWORD"];

/// A connection to one server.
pub(super) struct Client {
    agent: Agent,
    uri: String,
    authorization: String,
}

/// What the server did not do.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is nothing under the path.
    Missing,
    /// It answers with this status and reason.
    Status(u16, String),
    /// It does not answer.
    Silent(CtlError),
}

impl From<Refused> for CtlError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Missing => CtlError::Data("not found".to_owned()),
            Refused::Status(401 | 403, reason) => {
                CtlError::Unavailable(format!("the server refuses: {reason}"))
            }
            Refused::Status(status, reason) if status < 500 => CtlError::Data(reason),
            Refused::Status(_, reason) => CtlError::Software(reason),
            Refused::Silent(error) => error,
        }
    }
}

fn variable(names: &[&str]) -> Option<String> {
    let set = names.iter().filter_map(|name| env::var(name).ok());
    set.into_iter().find(|value| !value.is_empty())
}

/// Where the server is without whom to be there, and that: `http://user:password@host:port`.
fn address(uri: &str) -> Result<(String, Option<(String, String)>), CtlError> {
    let rest = match uri.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(CtlError::Usage(format!(
                "{scheme}:// is not supported: name a listener for plain http, as in {URI}"
            )));
        }
        None => uri,
    };
    let rest = rest.trim_end_matches('/');
    let (who, host) = match rest.rsplit_once('@') {
        Some((who, host)) => (Some(who), host),
        None => (None, rest),
    };
    let who = who.map(|who| {
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        let decode = longtail_web::query::decode;
        (decode(user), decode(password))
    });
    Ok((format!("http://{host}"), who))
}

impl Client {
    /// # Errors
    /// [`CtlError::Usage`]: the address is none.
    pub(super) fn new(options: &Options) -> Result<Self, CtlError> {
        let uri = options.uri.clone().or_else(|| variable(URI_VARIABLES));
        let (uri, who) = address(uri.as_deref().unwrap_or(URI))?;
        let (user, password) = who.unzip();
        let user = options.user.clone().or(user);
        let password = options.password.clone().or(password);
        let user = user.or_else(|| variable(USER_VARIABLES));
        let password = password.or_else(|| variable(PASSWORD_VARIABLES));
        let user = user.as_deref().unwrap_or(GUEST);
        let password = password.as_deref().unwrap_or(GUEST);
        let time = options.timeout_s.map_or(ANSWER, Duration::from_secs);
        Ok(Client {
            agent: agent(Some(time)),
            uri,
            authorization: basic(user, password),
        })
    }

    /// The same server, asked by somebody else.
    pub(super) fn with(&self, user: &str, password: &str) -> Self {
        Client {
            agent: self.agent.clone(),
            uri: self.uri.clone(),
            authorization: basic(user, password),
        }
    }

    /// Asks for something. `path` is what follows `/api/`, escaped.
    ///
    /// # Errors
    /// What the server answers instead.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        reason: Option<&str>,
    ) -> Result<Value, Refused> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/{path}", self.uri))
            .header("authorization", &self.authorization);
        if let Some(reason) = reason {
            request = request.header("x-reason", reason);
        }
        let wrong = |error: ureq::http::Error| {
            Refused::Silent(CtlError::Usage(format!("{}: {error}", self.uri)))
        };
        let answer = match body {
            None => self.agent.run(request.body(()).map_err(wrong)?),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent
                    .run(request.body(body.to_string()).map_err(wrong)?)
            }
        };
        let mut response = answer.map_err(|error| self.silent(&error))?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_string()
            .map_err(|error| self.silent(&error))?;
        if status == 404 {
            return Err(Refused::Missing);
        }
        let document = serde_json::from_str::<Value>(&text);
        if !status.is_success() {
            let reason = document
                .ok()
                .and_then(|body| body.get("reason")?.as_str().map(str::to_owned));
            let reason = reason.unwrap_or_else(|| format!("the server answers {status}"));
            return Err(Refused::Status(status.as_u16(), reason));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        document.map_err(|_| {
            Refused::Silent(CtlError::Unavailable(format!(
                "{} does not answer like a management API: is --uri right?",
                self.uri
            )))
        })
    }

    /// Asks for a document.
    ///
    /// # Errors
    /// What the server answers instead.
    pub(super) fn get(&self, path: &str) -> Result<Value, Refused> {
        self.ask("GET", path, None, None)
    }

    fn silent(&self, error: &ureq::Error) -> Refused {
        Refused::Silent(match error {
            ureq::Error::Timeout(ureq::Timeout::Global) => CtlError::TimedOut(format!(
                "{} has not answered in time: --timeout SECONDS waits longer",
                self.uri
            )),
            error => CtlError::Unavailable(format!(
                "no server answers at {}: {error}\n  start one with `longtail serve`, or name another one's \
                 management API with --uri or {}",
                self.uri, URI_VARIABLES[0]
            )),
        })
    }

    /// What a refusal means to whoever called: who or what of the arguments is not there.
    pub(super) fn explain(&self, call: &Call, refused: Refused) -> CtlError {
        if !matches!(refused, Refused::Missing | Refused::Status(400, _)) {
            return refused.into();
        }
        let lacks = |path: String| matches!(self.get(&path), Err(Refused::Missing));
        if let Some(user) = call.get("username")
            && lacks(format!("users/{}", escaped(user)))
        {
            return CtlError::NoUser(user.to_owned());
        }
        let vhost = call.text("vhost");
        if lacks(format!("vhosts/{}", escaped(vhost))) {
            return CtlError::Data(format!("Virtual host '{vhost}' does not exist"));
        }
        if let refused @ Refused::Status(..) = refused {
            return refused.into();
        }
        let words = ["queue", "exchange", "name"];
        CtlError::Data(match words.iter().find_map(|word| call.get(word)) {
            Some(name) => format!("'{name}' was not found in vhost '{vhost}'"),
            None => format!("nothing was found in vhost '{vhost}'"),
        })
    }
}

fn basic(user: &str, password: &str) -> String {
    let pair = format!("{user}:{password}");
    format!("Basic {}", Base64::encode_string(pair.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_say_who_asks() {
        let who = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        let read = |uri: &str| address(uri).expect("an address");
        assert_eq!(
            read("http://h:1/"),
            ("http://h:1".to_owned(), None),
            "no user"
        );
        assert_eq!(read("h:1").0, "http://h:1");
        assert_eq!(
            read("http://a%40b:p:w@h:1"),
            ("http://h:1".to_owned(), who("a@b", "p:w"))
        );
        assert_eq!(address("https://h").expect_err("TLS").code(), 64);
    }

    #[test]
    fn answers_have_codes() {
        let code = |refused: Refused| CtlError::from(refused).code();
        assert_eq!(code(Refused::Missing), 65);
        assert_eq!(code(Refused::Status(400, String::new())), 65);
        assert_eq!(code(Refused::Status(401, String::new())), 69);
        assert_eq!(code(Refused::Status(500, String::new())), 70);
    }
}
