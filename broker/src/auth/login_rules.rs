//! Rules about who is let in, beside the accounts: of those that are about a client, the first decides.
//!
//! They are asked about clients that no account has let in. Whoever they let in goes by the name that it gives, and may
//! do what an [`AccessList`](super::AccessList) says; without one, nothing. With rules a server is closed.

use std::fmt;

use subtle::ConstantTimeEq;

use super::access_list::{Asking, Name, Who};
use super::account::{Account, SpacePermissions};

/// Rules of which the first that is about a client decides; who is in none is not let in.
#[derive(Clone, Debug, Default)]
pub struct LoginRules {
    /// The space that they let in to.
    pub space: String,
    /// The rules.
    pub rules: Vec<LoginRule>,
}

/// One of them.
#[derive(Clone)]
pub struct LoginRule {
    /// Whom it is about.
    pub who: Who,
    /// Which passwords; `None`: any, or none.
    pub password: Option<Name>,
    /// Whether they are let in.
    pub allow: bool,
}

impl fmt::Debug for LoginRule {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRule")
            .field("who", &self.who)
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

impl LoginRules {
    pub(super) fn admit(&self, client: &Asking<'_>, password: &[u8]) -> bool {
        let is_about = |rule: &&LoginRule| {
            rule.who.has(client, !rule.allow)
                && rule
                    .password
                    .as_ref()
                    .is_none_or(|known| fits(known, password))
        };
        self.rules
            .iter()
            .find(is_about)
            .is_some_and(|rule| rule.allow)
    }

    /// Whether there is a rule that may have let this client in.
    pub(super) fn may_admit(&self, client: &Asking<'_>) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.allow && rule.who.has(client, true))
    }

    /// The account of somebody who was let in.
    pub(super) fn account(&self, name: &str) -> Account {
        let permissions = SpacePermissions {
            space: self.space.clone(),
            rules: Vec::new(),
            names: None,
            topics: Vec::new(),
        };
        Account {
            permissions: vec![permissions],
            ..Account::named(name)
        }
    }
}

fn fits(known: &Name, password: &[u8]) -> bool {
    match known {
        Name::Is(only) => only.as_bytes().ct_eq(password).into(),
        Name::StartsWith(start) => password.starts_with(start.as_bytes()),
        Name::Matches(expression) => {
            std::str::from_utf8(password).is_ok_and(|text| expression.is_match(text))
        }
    }
}
