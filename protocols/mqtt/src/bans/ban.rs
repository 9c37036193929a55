//! One ban: who is kept out, until when and why, and how that is written into the log.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use longtail_broker::client::OwnedMessage;
use longtail_edge::{BadCidr, Cidr};
use longtail_engine::{NewMessage, headers};
use longtail_model::Timestamp;

use super::{BANS_MAX, TEXT_MAX};

const UNTIL: &[u8] = b"until-ms";
const SINCE: &[u8] = b"since-ms";
const REASON: &[u8] = b"reason";

/// Who is kept out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The client with this identifier.
    Client(Arc<str>),
    /// Clients that give this name, or prove this account.
    User(Arc<str>),
    /// Clients that come from here.
    Address(Cidr),
}

/// Why somebody cannot be banned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// Neither client nor user nor address.
    #[error("{0:?} cannot be kept out: name a client, a user or an address")]
    Kind(String),
    /// No address range.
    #[error(transparent)]
    Address(#[from] BadCidr),
    /// Too long.
    #[error("at most {TEXT_MAX} bytes name or explain a ban")]
    TooLong,
    /// There are too many.
    #[error("there are {BANS_MAX} bans already")]
    Full,
}

impl Who {
    /// From its kind (`client`, `user`, `address`) and its value.
    ///
    /// # Errors
    /// [`BanError`].
    pub fn new(kind: &str, value: &str) -> Result<Self, BanError> {
        if value.len() > TEXT_MAX {
            return Err(BanError::TooLong);
        }
        match kind {
            "client" => Ok(Who::Client(value.into())),
            "user" => Ok(Who::User(value.into())),
            "address" => Ok(Who::Address(value.parse()?)),
            _ => Err(BanError::Kind(kind.to_owned())),
        }
    }

    /// `client`, `user` or `address`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Who::Client(_) => "client",
            Who::User(_) => "user",
            Who::Address(_) => "address",
        }
    }

    /// Identifier, name or range.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Who::Client(value) | Who::User(value) => value.to_string(),
            Who::Address(range) => range.to_string(),
        }
    }

    pub(super) fn key(&self) -> Arc<str> {
        self.to_string().into()
    }
}

/// Kind and value with a slash between them, as [`FromStr`] reads it.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.value())
    }
}

impl FromStr for Who {
    type Err = BanError;

    fn from_str(text: &str) -> Result<Self, BanError> {
        let (kind, value) = text.split_once('/').unwrap_or((text, ""));
        Who::new(kind, value)
    }
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who is kept out.
    pub who: Who,
    /// When it was made.
    pub since: Timestamp,
    /// When it ends; [`Timestamp::NEVER`]: when somebody ends it.
    pub until: Timestamp,
    /// For people.
    pub reason: Arc<str>,
}

impl Ban {
    pub(super) fn record(&self) -> NewMessage {
        let mut fields = Vec::new();
        headers::put(&mut fields, SINCE, &self.since.0.to_le_bytes());
        if self.until != Timestamp::NEVER {
            headers::put(&mut fields, UNTIL, &self.until.0.to_le_bytes());
        }
        headers::put(&mut fields, REASON, self.reason.as_bytes());
        NewMessage {
            headers: fields.into(),
            ..NewMessage::default()
        }
    }

    pub(super) fn read(key: &str, record: &OwnedMessage) -> Option<Self> {
        let mut ban = Ban {
            who: key.parse().ok()?,
            since: record.created,
            until: Timestamp::NEVER,
            reason: "".into(),
        };
        for (name, value) in headers::iter(&record.headers) {
            let time = || Some(Timestamp(u64::from_le_bytes(value.try_into().ok()?)));
            match name {
                SINCE => ban.since = time()?,
                UNTIL => ban.until = time()?,
                REASON => ban.reason = std::str::from_utf8(value).ok()?.into(),
                _ => {}
            }
        }
        Some(ban)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_comes_back_as_it_was_written() {
        let now = Timestamp(1_000_000);
        for until in [Timestamp::NEVER, now] {
            let ban = Ban {
                who: "address/2001:db8::/32".parse().unwrap(),
                since: Timestamp(7),
                until,
                reason: "noisy".into(),
            };
            let record = OwnedMessage {
                created: now,
                priority: longtail_model::Priority::default(),
                ack_timeout_ms: 0,
                expires: Timestamp::NEVER,
                subject: bytes::Bytes::new(),
                id: bytes::Bytes::new(),
                key: 0,
                headers: ban.record().headers,
                payload: bytes::Bytes::new(),
            };
            assert_eq!(Ban::read(&ban.who.key(), &record), Some(ban));
        }
        assert!("nobody/x".parse::<Who>().is_err());
        assert!("address/x".parse::<Who>().is_err());
    }
}
