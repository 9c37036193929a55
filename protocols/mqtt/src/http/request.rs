//! Requests, answers, and what can be wrong, before it has the words of one API.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longtail_web::{NoNumber, Query};
use serde_json::{Map, Value};

use super::Api;

/// Largest body of a request, in bytes.
pub(super) const BODY_MAX: usize = 16 << 20;

/// A request.
pub(super) struct Asked {
    pub(super) api: Arc<Api>,
    pub(super) method: Method,
    /// Where it comes from.
    pub(super) peer: IpAddr,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    /// Text of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON.
    pub(super) fn json(&self) -> Result<Value, Trouble> {
        serde_json::from_slice(&self.body).map_err(|error| Trouble::NotJson(error.to_string()))
    }

    /// The body as an object.
    pub(super) fn object(&self) -> Result<Map<String, Value>, Trouble> {
        as_object(self.json()?)
    }

    /// The body as a list.
    pub(super) fn list(&self) -> Result<Vec<Value>, Trouble> {
        match self.json()? {
            Value::Array(list) => Ok(list),
            _ => Err(Trouble::NotJson("a list is expected".to_owned())),
        }
    }
}

pub(super) fn as_object(value: Value) -> Result<Map<String, Value>, Trouble> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Trouble::NotJson("an object is expected".to_owned())),
    }
}

/// A field that is text.
pub(super) fn text<'o>(
    object: &'o Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'o str>, Trouble> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Trouble::Bad(format!("{name} must be a string"))),
    }
}

/// A field that must be there, and text.
pub(super) fn needed<'o>(
    object: &'o Map<String, Value>,
    name: &'static str,
) -> Result<&'o str, Trouble> {
    text(object, name)?.ok_or(Trouble::Absent(name))
}

/// A field that is a whole number, also as text.
pub(super) fn number(
    object: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<u64>, Trouble> {
    let wrong = || Trouble::Bad(format!("{name} must be a whole number"));
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => number.as_u64().map(Some).ok_or_else(wrong),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// A field that is true or false, also as text.
pub(super) fn flag(
    object: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<bool>, Trouble> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(Value::Number(number)) if number.as_u64() == Some(0) => Ok(Some(false)),
        Some(Value::Number(number)) if number.as_u64() == Some(1) => Ok(Some(true)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(_) => Err(Trouble::Bad(format!("{name} must be true or false"))),
    }
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// Nobody has proved who it is.
    #[error("a name and a password of an account, or a token, are needed")]
    NoLogin,
    /// The account may not do this.
    #[error("{0}")]
    Denied(String),
    /// Too many logins at once, or too many that failed.
    #[error("{0}")]
    Busy(String),
    /// A browser sends it for a page of another site.
    #[error("requests of other sites are not accepted")]
    OtherSite,
    /// There is nothing at this path.
    #[error("there is nothing at this path")]
    NoPath,
    /// The path is none for this method.
    #[error("this method is not for this path")]
    Method,
    /// There is no such client, say.
    #[error("{0}")]
    Missing(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// A parameter is wrong.
    #[error("{0}")]
    Bad(String),
    /// A parameter is not there.
    #[error("{0} is required")]
    Absent(&'static str),
    /// The body is not what it should be.
    #[error("the body cannot be read: {0}")]
    NotJson(String),
    /// The body is too large.
    #[error("a body has at most {BODY_MAX} bytes")]
    TooLarge,
    /// A limit is reached.
    #[error("{0}")]
    Limit(String),
    /// The server does not have this.
    #[error("{0}")]
    Unsupported(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

impl Trouble {
    /// The status that most APIs answer it with.
    pub(super) fn status(&self) -> u16 {
        match self {
            Trouble::NoLogin => 401,
            Trouble::Denied(_) | Trouble::OtherSite => 403,
            Trouble::Busy(_) => 503,
            Trouble::NoPath | Trouble::Missing(_) => 404,
            Trouble::Method => 405,
            Trouble::Exists(_) => 409,
            Trouble::Bad(_) | Trouble::Absent(_) | Trouble::NotJson(_) => 400,
            Trouble::TooLarge => 413,
            Trouble::Limit(_) => 429,
            Trouble::Unsupported(_) => 501,
            Trouble::Failed(_) => 500,
        }
    }
}

impl From<NoNumber> for Trouble {
    fn from(error: NoNumber) -> Self {
        Trouble::Bad(error.to_string())
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    kind: &'static str,
    pub(super) body: String,
    /// How to log in, for an answer 401.
    challenge: Option<&'static str>,
}

impl Reply {
    /// 200 with JSON.
    pub(super) fn json(value: &Value) -> Self {
        Reply {
            status: 200,
            kind: "application/json",
            body: value.to_string(),
            challenge: None,
        }
    }

    /// 200 with text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Reply {
            status: 200,
            kind: "text/plain; charset=utf-8",
            body: text.into(),
            challenge: None,
        }
    }

    /// 200 with metrics.
    pub(super) fn metrics(text: String) -> Self {
        Reply {
            kind: "text/plain; version=0.0.4; charset=utf-8",
            ..Reply::text(text)
        }
    }

    /// 204.
    pub(super) fn done() -> Self {
        Reply::text("").with(204)
    }

    /// The same with another status.
    pub(super) fn with(self, status: u16) -> Self {
        Reply { status, ..self }
    }

    /// The same, asking for a name and a password.
    pub(super) fn challenged(self, challenge: &'static str) -> Self {
        Reply {
            challenge: Some(challenge),
            ..self
        }
    }

    pub(super) fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::NO_CONTENT {
            return status.into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind)];
        let mut response = (status, kind, self.body).into_response();
        if let Some(challenge) = self.challenge {
            let challenge = HeaderValue::from_static(challenge);
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
