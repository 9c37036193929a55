//! The admin API from the other side.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use longtail_admin::shapes::Problem;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder};

use crate::cli::ClientArgs;
use crate::exit_codes::{Exit, Failure};

/// Largest answer that is read, in bytes; a batch of large messages in base64 fits.
pub(crate) const ANSWER_MAX: u64 = 256 << 20;
/// Time for a connection, and for an answer that is not a stream.
const CONNECT: Duration = Duration::from_secs(5);
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

/// Parameters of a query.
pub(super) type Query<'a> = &'a [(&'a str, String)];

/// A connection to one server.
pub(super) struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// What sends requests. `answer`: the time for a whole answer, if each has the same.
pub(crate) fn agent(answer: Option<Duration>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_global(answer)
        .user_agent(concat!("longtail/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}

impl Client {
    pub(super) fn new(args: &ClientArgs) -> Self {
        Client {
            agent: agent(None),
            url: args.url.trim_end_matches('/').to_owned(),
            token: args.token.clone().filter(|token| !token.is_empty()),
        }
    }

    /// Asks for a document.
    pub(super) fn get(&self, path: &str, query: Query<'_>) -> Result<Value, Failure> {
        let request = self.agent.get(self.at(path));
        self.document(self.prepared(request, query).call())
    }

    /// Asks for something to be done.
    pub(super) fn post(&self, path: &str, query: Query<'_>, body: &[u8]) -> Result<Value, Failure> {
        let request = self.agent.post(self.at(path));
        self.document(self.prepared(request, query).send(body))
    }

    /// Asks for something to be ended.
    pub(super) fn delete(&self, path: &str, query: Query<'_>) -> Result<Value, Failure> {
        let request = self.agent.delete(self.at(path));
        self.document(self.prepared(request, query).call())
    }

    /// What every request has that is answered with one document.
    fn prepared<B>(&self, request: RequestBuilder<B>, query: Query<'_>) -> RequestBuilder<B> {
        let mut request = request.config().timeout_global(Some(ANSWER)).build();
        for (name, value) in query {
            request = request.query(*name, value);
        }
        match self.bearer() {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    /// Asks for documents as they come, one a line. Empty lines are signs of life.
    pub(super) fn follow(
        &self,
        path: &str,
        query: Query<'_>,
    ) -> Result<impl BufRead + use<>, Failure> {
        let mut request = self.agent.get(self.at(path));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        if let Some(token) = self.bearer() {
            request = request.header("authorization", token);
        }
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        let response = refused(response)?;
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    fn at(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.url)
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    fn document(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let mut response = refused(answer.map_err(|error| self.unreachable(&error))?)?;
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|_| {
            let what = anyhow!(
                "{} does not answer like a Longtail admin service: is --url right?",
                self.url
            );
            Failure::new(Exit::Failure, what)
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let what = anyhow!(
            "no server answers at {}: {error}\n  start one with `longtail serve`, or name another one's admin service \
             with --url or LONGTAIL_URL",
            self.url
        );
        Failure::new(Exit::Unreachable, what)
    }
}

/// Turns an error status into the error the server describes.
fn refused(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let what = match serde_json::from_str::<Problem>(&text) {
        Ok(Problem {
            error,
            hint: Some(hint),
        }) => anyhow!("{error}\n  {hint}"),
        Ok(Problem { error, hint: None }) => anyhow!("{error}"),
        Err(_) => anyhow!("the server answers {status}"),
    };
    Err(Failure::new(Exit::Failure, what))
}

/// Reads a document as what it should be.
pub(super) fn shaped<T: DeserializeOwned>(document: Value) -> Result<T, Failure> {
    serde_json::from_value(document).map_err(|error| {
        Failure::new(
            Exit::Failure,
            anyhow!("the server answers something this version does not understand: {error}"),
        )
    })
}

/// The path of a stream.
pub(super) fn stream_path(space: &str, stream: &str, rest: &str) -> String {
    format!(
        "spaces/{}/streams/{}{rest}",
        escaped(space),
        escaped(stream)
    )
}

/// One segment of a path, percent-encoded.
pub(crate) fn escaped(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            // A dot alone would be taken for a step in the path.
            b'.' if segment.bytes().any(|byte| byte != b'.') => out.push('.'),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_path() {
        assert_eq!(
            stream_path("default", "a/b c.d", "/purge"),
            "spaces/default/streams/a%2Fb%20c.d/purge"
        );
        assert_eq!(escaped(".."), "%2E%2E");
        assert_eq!(escaped("é?#%"), "%C3%A9%3F%23%25");
    }
}
