//! What a hook answers.

use std::sync::Arc;

use longtail_broker::auth::Grants;

use crate::codec::{ReasonCode, RetainHandling, SubscriptionOptions};

/// What becomes of what a hook was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It stays as it is; the next hook is asked.
    #[default]
    Continue,
    /// This takes its place; the next hook is shown this.
    Replace(T),
    /// It is refused, and whoever sent it is told this reason as far as its version can say it. No further hook is
    /// asked.
    Reject(ReasonCode),
    /// It is answered as if all were well, and goes nowhere. No further hook is asked.
    Ignore,
    /// The client is disconnected with this reason. No further hook is asked.
    Disconnect(ReasonCode),
}

impl<T> Verdict<T> {
    /// The default, as a function: [`Verdict::Continue`].
    pub(super) const fn go_on() -> Self {
        Verdict::Continue
    }

    /// The same about something made of what it replaces.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Verdict<U> {
        match self {
            Verdict::Continue => Verdict::Continue,
            Verdict::Replace(new) => Verdict::Replace(make(new)),
            Verdict::Reject(reason) => Verdict::Reject(reason),
            Verdict::Ignore => Verdict::Ignore,
            Verdict::Disconnect(reason) => Verdict::Disconnect(reason),
        }
    }
}

/// Where a chain of hooks ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// Nobody changed it.
    AsItWas,
    /// This is to be used.
    Changed(T),
    Rejected(ReasonCode),
    Ignored,
    Disconnected(ReasonCode),
}

/// Whether something is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// The next hook decides; behind the last, the account's rules.
    #[default]
    Next,
    /// It is allowed, whatever the account's rules say.
    Allow,
    /// It is not allowed.
    Deny,
}

/// Which member of a share gets a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The next hook decides; behind the last, the share's strategy.
    #[default]
    Next,
    /// The member with this client identifier. One that is not among those shown counts as [`Selection::Next`].
    Only(Arc<str>),
    /// Nobody: the message is dropped for this share, and counted as denied.
    Nobody,
}

/// Whether a client is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Decision {
    /// The next hook decides; behind the last, the listener's [`Admission`](crate::Admission).
    #[default]
    Next,
    /// It is let in.
    Admit {
        /// Its account; for a will that fires later, its rights are those that this account then has.
        account: Option<Arc<str>>,
        /// What it may do.
        grants: Arc<Grants>,
    },
    /// It is not let in, and told this.
    Deny(ReasonCode),
}

impl Decision {
    /// Lets the client in and allows it everything.
    #[must_use]
    pub fn admit_all() -> Self {
        Decision::Admit {
            account: None,
            grants: Grants::everything(),
        }
    }
}

/// What a hook changes of a CONNECT. `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectChange {
    /// Another client identifier.
    pub client_id: Option<Arc<str>>,
    /// Another keep alive in seconds, 0 for none. A client of 5.0 is told.
    pub keep_alive_s: Option<u16>,
    /// Another session expiry in seconds. A client of 5.0 is told. At most what the limits say.
    pub session_expiry_s: Option<u32>,
    /// Another user name, for the authentication that follows.
    pub username: Option<String>,
}

/// One subscription that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribing {
    /// The topic filter, `$share/{group}/` included.
    pub filter: String,
    /// How it is to be served.
    pub options: SubscriptionOptions,
}

impl Subscribing {
    /// The same for another filter.
    #[must_use]
    pub fn at(&self, filter: impl Into<String>) -> Self {
        Subscribing {
            filter: filter.into(),
            options: self.options,
        }
    }

    /// The same without the retained messages.
    #[must_use]
    pub fn without_retained(mut self) -> Self {
        self.options.retain_handling = RetainHandling::Never;
        self
    }
}
