//! Requests and answers: paths, bodies, who asks, and the shapes of errors.
//!
//! Paths are taken apart here and not by a router, because names are percent-encoded (`/` is `%2F`), and the name of the
//! default exchange is an empty segment.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use longtail_web::{Credentials, NoNumber, Query, decode, is_of_another_site};

use super::access::Caller;
use super::{Management, login};
use crate::codec::ReplyCode;
use crate::exception::Exception;

/// Largest body of a request, in bytes: a file of definitions.
const BODY_MAX: usize = 64 << 20;

/// What an answer is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// 200 with JSON.
    Json(Value),
    /// 201, and where it is now.
    Created(Option<String>),
    /// 204.
    Done,
    /// 200 with a type of its own.
    Text(&'static str, String),
    /// 200, with this cookie.
    LoggedIn(String),
    /// 200 with JSON that is saved as a file of this name.
    File(String, Value),
}

impl Reply {
    /// 201 for what is new, 204 for what was changed.
    pub(super) fn put(is_new: bool) -> Self {
        if is_new {
            Reply::Created(None)
        } else {
            Reply::Done
        }
    }
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The status.
    pub(super) status: u16,
    /// A word for programs.
    pub(super) error: &'static str,
    /// A text for people.
    pub(super) reason: String,
}

impl Failed {
    /// 400.
    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Failed {
            status: 400,
            error: "bad_request",
            reason: reason.into(),
        }
    }

    /// 404.
    pub(super) fn missing() -> Self {
        Failed {
            status: 404,
            error: "Object Not Found",
            reason: "Not Found".to_owned(),
        }
    }

    /// 401: not known.
    pub(super) fn login() -> Self {
        Failed {
            status: 401,
            error: "not_authorized",
            reason: "Login failed".to_owned(),
        }
    }

    /// 401, as RabbitMQ says it: known, but not for this.
    pub(super) fn denied(reason: &str) -> Self {
        Failed {
            status: 401,
            error: "not_authorised",
            reason: reason.to_owned(),
        }
    }

    /// 405.
    fn method() -> Self {
        Failed {
            status: 405,
            error: "method_not_allowed",
            reason: "Method Not Allowed".to_owned(),
        }
    }

    /// 500.
    pub(super) fn internal(reason: impl Into<String>) -> Self {
        Failed {
            status: 500,
            error: "internal_server_error",
            reason: reason.into(),
        }
    }
}

impl From<NoNumber> for Failed {
    fn from(error: NoNumber) -> Self {
        Failed::bad(error.to_string())
    }
}

impl From<Exception> for Failed {
    fn from(exception: Exception) -> Self {
        match exception.code {
            ReplyCode::NotFound => Failed::missing(),
            ReplyCode::AccessRefused if exception.text.contains("refused for user") => {
                Failed::denied(&exception.reply_text())
            }
            ReplyCode::InternalError => Failed::internal(exception.text),
            _ => Failed::bad(exception.text),
        }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = json!({"error": self.error, "reason": self.reason});
        if self.status == 503
            && let Value::Object(body) = &mut body
        {
            body.insert("status".to_owned(), "failed".into());
        }
        let body = body.to_string();
        let mut response = (status, [(header::CONTENT_TYPE, JSON)], body).into_response();
        if self.status == 401 {
            let realm = header::HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, realm);
        }
        response
    }
}

const JSON: &str = "application/json";

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Reply::Json(value) => {
                ([(header::CONTENT_TYPE, JSON)], value.to_string()).into_response()
            }
            Reply::Created(None) => StatusCode::CREATED.into_response(),
            Reply::Created(Some(location)) => {
                (StatusCode::CREATED, [(header::LOCATION, location)]).into_response()
            }
            Reply::Done => StatusCode::NO_CONTENT.into_response(),
            Reply::Text(kind, text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
            Reply::LoggedIn(cookie) => {
                let headers = [
                    (header::CONTENT_TYPE, JSON.to_owned()),
                    (header::SET_COOKIE, cookie),
                ];
                (headers, Value::from("ok").to_string()).into_response()
            }
            Reply::File(name, value) => {
                let clean: String = name
                    .chars()
                    .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
                    .collect();
                let disposition = format!("attachment; filename={clean}");
                let headers = [
                    (header::CONTENT_TYPE, JSON.to_owned()),
                    (header::CONTENT_DISPOSITION, disposition),
                ];
                (headers, value.to_string()).into_response()
            }
        }
    }
}

/// A request of somebody who may ask.
pub(super) struct Asked {
    /// What is to be done.
    pub(super) method: Method,
    /// Who asks.
    pub(super) caller: Caller,
    /// The query.
    pub(super) query: Query,
    /// The headers.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: Bytes,
}

impl Asked {
    /// The body as an object; an empty one is an empty object.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn object(&self) -> Result<Map<String, Value>, Failed> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(Failed {
                error: "not_json",
                ..Failed::bad("the body is no JSON object")
            }),
            Err(error) => Err(Failed {
                error: "not_json",
                ..Failed::bad(format!("the body is no JSON: {error}"))
            }),
        }
    }

    /// A header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Whether a listener speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverTls(pub(super) bool);

/// Answers one request.
pub(super) async fn answer(
    State(management): State<Arc<Management>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(over_tls): Extension<OverTls>,
    request: Request,
) -> Response {
    let head = request.method() == Method::HEAD;
    let response = match respond(&management, peer.ip(), over_tls, request).await {
        Ok(reply) => reply.into_response(),
        Err(failed) => failed.into_response(),
    };
    if head {
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, Body::empty());
    }
    response
}

async fn respond(
    management: &Arc<Management>,
    peer: IpAddr,
    OverTls(over_tls): OverTls,
    request: Request,
) -> Result<Reply, Failed> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path == "/" || path == "/api" || path == "/api/" {
        return Ok(Reply::Text("text/plain", INDEX.to_owned()));
    }
    let Some(path) = path.strip_prefix("/api/") else {
        return Err(Failed::missing());
    };
    if parts.method == Method::OPTIONS {
        return Ok(Reply::Done);
    }
    if is_of_another_site(&parts.headers) {
        return Err(Failed {
            status: 403,
            error: "forbidden",
            reason: "requests of other sites are not accepted".to_owned(),
        });
    }
    if matches!(path, "login" | "login/") {
        if parts.method != Method::POST {
            return Err(Failed::method());
        }
        let form = read(body, login::FORM_MAX).await?;
        return login::login(management, (&parts.headers, &form), peer, over_tls).await;
    }
    let now = management.tenant.broker().clock().now();
    let caller = match Credentials::of(&parts.headers) {
        Credentials::None => login::caller(management, &parts.headers, peer)?,
        shown => {
            let verified = &management.verified;
            verified
                .caller(&management.roster, shown, Some(peer), now)
                .await?
        }
    };
    let caller = caller.asking_for(&parts.headers)?;
    let body = read(body, BODY_MAX).await?;
    let asked = Asked {
        method: if parts.method == Method::HEAD {
            Method::GET
        } else {
            parts.method
        },
        caller,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
    };
    let segments: Vec<String> = path.split('/').map(decode).collect();
    let mut segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    // A slash at the end says nothing, but where an empty name is meant.
    let names_exchange = matches!(segments.as_slice(), ["exchanges", _, ""]);
    if segments.last() == Some(&"") && !names_exchange {
        segments.pop();
    }
    match super::routes::dispatch(management, &asked, &segments).await {
        Some(reply) => reply,
        None if super::routes::exists(&segments) => Err(Failed::method()),
        None => Err(Failed::missing()),
    }
}

async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Failed> {
    to_bytes(body, bytes_max).await.map_err(|error| Failed {
        status: 413,
        ..Failed::bad(error.to_string())
    })
}

const INDEX: &str = "The management API of AMQP is under /api, as RabbitMQ has it. docs/amqp-management.md lists the paths.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_become_statuses() {
        let status = |code, text: &str| Failed::from(Exception::new(code, text)).status;
        assert_eq!(
            status(ReplyCode::NotFound, "no queue 'q' in vhost '/'"),
            404
        );
        assert_eq!(
            status(ReplyCode::PreconditionFailed, "inequivalent arg"),
            400
        );
        let refused = "read access to queue 'q' in vhost '/' refused for user 'u'";
        assert_eq!(status(ReplyCode::AccessRefused, refused), 401);
        assert_eq!(
            status(ReplyCode::AccessRefused, "queue name 'amq.x' contains"),
            400
        );
    }
}
