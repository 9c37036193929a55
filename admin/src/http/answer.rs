//! Errors as JSON: what happened, and what to do about it.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::access::Denied;
use crate::backend::{AdminError, ErrorKind};
use crate::shapes::Problem;

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(super) enum Failed {
    /// By the access rule.
    Denied(Denied),
    /// The path exists, the method does not.
    Method,
    /// The body is too large.
    TooLarge,
    /// By the backend, or a check on its behalf.
    Admin(AdminError),
}

impl From<AdminError> for Failed {
    fn from(error: AdminError) -> Self {
        Failed::Admin(error)
    }
}

impl From<QueryRejection> for Failed {
    fn from(error: QueryRejection) -> Self {
        Failed::Admin(AdminError::new(ErrorKind::Invalid, error.body_text()))
    }
}

impl From<BytesRejection> for Failed {
    fn from(error: BytesRejection) -> Self {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Failed::TooLarge
        } else {
            Failed::Admin(AdminError::new(ErrorKind::Invalid, error.body_text()))
        }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let fixed = |error: &str, hint: &str| Problem { error: error.to_owned(), hint: Some(hint.to_owned()) };
        let (status, problem) = match self {
            Failed::Denied(Denied::Unknown) => (
                StatusCode::UNAUTHORIZED,
                fixed("a valid token is needed", "send `Authorization: Bearer TOKEN` with the token of admin.token"),
            ),
            Failed::Denied(Denied::Forbidden) => {
                (StatusCode::FORBIDDEN, fixed("this token may not do that", "use one of an account that may"))
            }
            Failed::Denied(Denied::ForeignHost) => (
                StatusCode::FORBIDDEN,
                fixed("without a token only this machine may ask", "use http://127.0.0.1, or configure admin.token"),
            ),
            Failed::Denied(Denied::ForeignOrigin) => {
                (StatusCode::FORBIDDEN, fixed("pages of other sites may not ask", "use a client that is no browser"))
            }
            Failed::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, fixed("this path has no such method", "see docs/admin-api.md"))
            }
            Failed::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                fixed("the body is too large", "limits.message_bytes sets the largest message"),
            ),
            Failed::Admin(error) => (status_of(error.kind), Problem { error: error.message, hint: error.hint }),
        };
        let mut response = (status, Json(problem)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Refused => StatusCode::CONFLICT,
        ErrorKind::Limit => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
