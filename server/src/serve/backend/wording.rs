//! The broker's answers in the words of the admin API.

use longtail::BrokerError;
use longtail_admin::{AdminError, ErrorKind};
use longtail_engine::{MessageState, Refusal, Reply};
use longtail_model::SubjectError;

pub(super) fn broker(error: BrokerError) -> AdminError {
    match error {
        BrokerError::Refused(refusal) => refused(&refusal),
        BrokerError::Closed(_) => closed(),
        BrokerError::NoStream(_) => AdminError::new(ErrorKind::NotFound, error.to_string()),
        other => AdminError::new(ErrorKind::Internal, other.to_string()),
    }
}

pub(super) fn refused(refusal: &Refusal) -> AdminError {
    AdminError::new(kind_of(refusal), refusal.to_string())
}

fn kind_of(refusal: &Refusal) -> ErrorKind {
    match refusal {
        Refusal::Limit(_) => ErrorKind::Limit,
        Refusal::Full(_) | Refusal::Failed(_) => ErrorKind::Unavailable,
        Refusal::TooLarge(_) => ErrorKind::Invalid,
        Refusal::Exists | Refusal::Unsupported(_) | Refusal::Unmet(_) => ErrorKind::Refused,
        Refusal::Gone => ErrorKind::NotFound,
        Refusal::Step { why, .. } => kind_of(why),
        Refusal::UnknownLink => ErrorKind::Internal,
    }
}

pub(super) fn closed() -> AdminError {
    AdminError::new(ErrorKind::Unavailable, "the server is stopping")
}

pub(super) fn subject(text: &str, error: &SubjectError) -> AdminError {
    AdminError::new(ErrorKind::Invalid, format!("`{text}`: {error}"))
        .hint("tokens are separated by dots; a filter may have * for one and > for the rest")
}

/// A shard answered what it must not.
pub(super) fn unexpected(reply: &Reply) -> AdminError {
    tracing::error!(?reply, "unexpected answer of a shard");
    AdminError::new(ErrorKind::Internal, "unexpected answer of a shard")
        .hint("the server's log says more")
}

pub(super) const fn state(state: MessageState) -> &'static str {
    match state {
        MessageState::Ready => "ready",
        MessageState::Delayed => "delayed",
        MessageState::Held => "held",
        MessageState::Parked => "parked",
    }
}
