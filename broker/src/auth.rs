//! Spaces, accounts and permissions: one model for all protocols.
//!
//! An operator's document ([`AuthDocument`]) lists spaces with their quotas and accounts with their passwords,
//! certificate names and rules. A checked document is a [`Directory`]; the [`Authenticator`] holds the current one and
//! answers logins. A login yields [`Grants`]: the account's rules for the chosen space, placeholders filled in,
//! compiled once and from then on asked without locks or allocation. Accounts of a [`RoleBook`] have rules in an order in
//! place of these, and an [`AccessList`] has some that stand before those of everybody.
//!
//! Protocols translate their operations to four actions on subjects: publish, consume, configure (declare, bind,
//! delete named things) and manage (administration). Closed by default: without accounts only peers on this machine
//! get in, and they may do everything.

mod access_list;
mod account;
mod authenticator;
mod login_rules;
mod names;
mod ordered;
mod password;
mod permission;
mod roles;
mod roster;
mod scram;
mod space;
#[cfg(test)]
mod tests;
mod throttle;
mod token;

pub use access_list::{AccessList, ListedRule, Name, Network, NoNetwork, Who};
pub use account::{
    Account, AccountLimits, AuthDocument, Directory, DirectoryError, SpacePermissions,
};
pub use authenticator::{
    AuthError, Authenticator, Credentials, Login, LoginRequest, Peer, Principal, Proved,
};
pub use login_rules::{LoginRule, LoginRules};
pub use names::{NamePattern, NameRules, NotAnExpression, SUBJECTS, TopicPattern, TopicRule};
pub use ordered::{Defaults, Manner, Operation, OrderedRule, Target, When};
pub use password::{PasswordCost, PasswordError, PasswordHash, RabbitAlgorithm, ScramVerifier};
pub use permission::{
    Action, CachedGrants, Effect, Grants, Identity, IdentityError, Pattern, PatternError, Rule,
    Verdict,
};
pub use roles::{Member, RoleBook};
pub use roster::{Changed, Roster, RosterError};
pub use scram::{ScramError, ScramExchange};
pub use space::{QuotaExceeded, Quotas, Resource, Space, Usage};
pub use throttle::ThrottleLimits;
pub use token::{TokenAlgorithm, TokenIssuer};
