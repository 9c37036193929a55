//! Accounts whose rights come from roles: their own, then those of the groups that they are in, in an order.
//!
//! ```text
//! member ──▶ roles ─────────────▶ rules ┐
//!        └─▶ groups ──▶ roles ──▶ rules ┴──▶ the first that is about something decides, else the defaults
//! ```
//!
//! A [`RoleBook`] is a whole set of them, kept by whoever made it and given to the
//! [`Roster`](super::Roster), which merges it with the other accounts: what the settings name stays as it is there.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::account::{Account, SpacePermissions};
use super::ordered::{Defaults, OrderedRule};

/// An account and the roles that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The account. Its permissions are those of the book.
    pub account: Account,
    /// Names of its roles, the one that is asked first in front.
    pub roles: Vec<String>,
    /// Names of its groups, likewise; they are asked after its own roles.
    pub groups: Vec<String>,
}

/// Members, groups and roles. A name that is not known stands for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleBook {
    /// The space that all of it is about.
    pub space: String,
    /// The members.
    pub members: Vec<Member>,
    /// Names of roles by the name of a group, the one that is asked first in front.
    pub groups: HashMap<String, Vec<String>>,
    /// Rules by the name of a role, the one that is asked first in front.
    pub roles: HashMap<String, Vec<OrderedRule>>,
    /// The group of clients that show no credentials; none: they are not let in by the book.
    pub anonymous: Option<String>,
    /// What holds where no rule is about something.
    pub defaults: Defaults,
}

/// Where the roles of an account are found.
#[derive(Clone, Debug, Default)]
pub(super) struct Memberships {
    roles: Vec<String>,
    groups: Vec<String>,
}

/// What a directory keeps of a book.
#[derive(Debug, Default)]
pub(super) struct Roles {
    members: HashMap<String, Memberships>,
    groups: HashMap<String, Vec<String>>,
    roles: HashMap<String, Vec<OrderedRule>>,
    pub(super) defaults: Defaults,
}

/// The name of the account of clients that show no credentials, where a book has a group for them. No password is its
/// own.
pub(super) const ANONYMOUS: &str = "$anonymous";

impl RoleBook {
    /// What a directory keeps, and the accounts that it is to have.
    pub(super) fn split(&self) -> (Roles, Vec<Account>) {
        let permissions = || SpacePermissions {
            space: self.space.clone(),
            rules: Vec::new(),
            names: None,
            topics: Vec::new(),
        };
        let mut accounts = Vec::with_capacity(self.members.len() + 1);
        let mut members = HashMap::with_capacity(self.members.len() + 1);
        for member in &self.members {
            let mut account = member.account.clone();
            account.permissions = vec![permissions()];
            let memberships = Memberships {
                roles: member.roles.clone(),
                groups: member.groups.clone(),
            };
            members.insert(account.name.clone(), memberships);
            accounts.push(account);
        }
        if let Some(group) = &self.anonymous {
            let memberships = Memberships {
                roles: Vec::new(),
                groups: vec![group.clone()],
            };
            members.insert(ANONYMOUS.to_owned(), memberships);
            accounts.push(Account {
                permissions: vec![permissions()],
                ..Account::named(ANONYMOUS)
            });
        }
        let roles = Roles {
            members,
            groups: self.groups.clone(),
            roles: self.roles.clone(),
            defaults: self.defaults,
        };
        (roles, accounts)
    }

    /// Whether a member has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.members
            .iter()
            .any(|member| member.account.name == name)
    }
}

impl Roles {
    /// An account of this name is somebody else's.
    pub(super) fn forget(&mut self, account: &str) {
        self.members.remove(account);
    }

    /// The rules of a member, in their order.
    pub(super) fn of(&self, account: &str) -> Option<impl Iterator<Item = &OrderedRule>> {
        let member = self.members.get(account)?;
        let of_groups = member
            .groups
            .iter()
            .filter_map(|group| self.groups.get(group))
            .flatten();
        let roles = member.roles.iter().chain(of_groups);
        Some(roles.filter_map(|role| self.roles.get(role)).flatten())
    }
}
