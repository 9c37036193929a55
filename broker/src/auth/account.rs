//! Accounts, and the directory of all of them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::access_list::AccessList;
use super::login_rules::LoginRules;
use super::names::{NameRules, TopicRule};
use super::ordered::{Defaults, OrderedRule};
use super::password::PasswordHash;
use super::permission::Rule;
use super::roles::{ANONYMOUS, RoleBook, Roles};
use super::space::{Quotas, Space};
use super::token::{TokenIssuer, Tokens};

/// What an operator writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthDocument {
    /// Spaces beside [`Directory::DEFAULT_SPACE`], which is always there and may be listed to give it quotas.
    pub spaces: Vec<Space>,
    /// Accounts. None at all closes the server to everybody but peers on this machine.
    pub accounts: Vec<Account>,
    /// The account of clients that show no credentials. Left out: such clients are refused, if there are accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<String>,
    /// Whose signed tokens are accepted as passwords.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenIssuer>,
}

/// Who may log in, how, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Unique, 1 to 255 bytes, no control characters.
    pub name: String,
    /// The hash of its password. Left out: no login by password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
    /// Names (common name or subject alternative names) of client certificates that are this account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    /// The only client identifier that its clients may have; they have one then. Left out: any, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Words for other tools, such as the roles of AMQP's management.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether it may log in. `true` if left out.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// The spaces it may use, and its rules there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<SpacePermissions>,
    /// What all its clients together may use of AMQP, and likewise of MQTT.
    #[serde(default)]
    pub limits: AccountLimits,
}

/// What the clients of one account may use together. A number that is left out is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountLimits {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u64>,
    /// Channels of AMQP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels_max: Option<u64>,
    /// Subscriptions of MQTT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions_max: Option<u64>,
}

fn enabled() -> bool {
    true
}

impl Account {
    /// One that cannot log in by password and may do nothing yet.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Account {
            name: name.to_owned(),
            password: None,
            certificates: Vec::new(),
            client_id: None,
            tags: Vec::new(),
            enabled: true,
            permissions: Vec::new(),
            limits: AccountLimits::default(),
        }
    }
}

/// An account's rules for one space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpacePermissions {
    /// The space's name.
    pub space: String,
    /// Its rules, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Rules by regular expressions over names, beside these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<NameRules>,
    /// What narrows these for single topic exchanges; one for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicRule>,
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// A name that is empty, too long or contains control characters.
    #[error("{0:?} is not a name: 1 to 255 bytes, no control characters")]
    Name(String),
    /// Two spaces of one name.
    #[error("the space {0:?} is listed twice")]
    DuplicateSpace(String),
    /// Two accounts of one name.
    #[error("the account {0:?} is listed twice")]
    DuplicateAccount(String),
    /// Two accounts with one certificate name.
    #[error(
        "the certificate name {certificate:?} belongs to the accounts {first:?} and {second:?}"
    )]
    DuplicateCertificate {
        /// The name.
        certificate: String,
        /// One account.
        first: String,
        /// The other.
        second: String,
    },
    /// Permissions for a space that is not listed.
    #[error("the account {account:?} has permissions for the unknown space {space:?}")]
    UnknownSpace {
        /// The account.
        account: String,
        /// The space.
        space: String,
    },
    /// Two lists of rules for one space.
    #[error("the account {account:?} has two lists of rules for the space {space:?}")]
    DuplicatePermissions {
        /// The account.
        account: String,
        /// The space.
        space: String,
    },
    /// More rules than an account may have.
    #[error("the account {account:?} has more than {limit} rules for one space")]
    TooManyRules {
        /// The account.
        account: String,
        /// The limit.
        limit: usize,
    },
    /// An account that is named elsewhere and not listed.
    #[error("{by} needs the account {account:?}, which is not listed")]
    UnknownAccount {
        /// Where.
        by: String,
        /// The account.
        account: String,
    },
    /// An issuer of tokens whose key does not fit, or one that is listed twice.
    #[error("the token issuer {name:?} cannot be used: {why}")]
    Token {
        /// The issuer.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// A checked document, indexed.
#[derive(Debug)]
pub struct Directory {
    spaces: HashMap<Arc<str>, Quotas>,
    accounts: HashMap<Arc<str>, Arc<Account>>,
    certificates: HashMap<String, Arc<Account>>,
    /// The hash that a login to an account without one is checked against, so that it takes as long as any other.
    decoy: Option<PasswordHash>,
    anonymous: Option<Arc<Account>>,
    tokens: Vec<Tokens>,
    /// The settings name no account: peers on this machine that do not say who they are may do everything.
    open: bool,
    /// Of accounts whose rights come from roles.
    roles: Option<Roles>,
    /// What stands before the rules of all accounts.
    access: Option<Arc<AccessList>>,
    /// A space, and what it is called in the rules for topics.
    called: Option<(Arc<str>, Arc<str>)>,
    /// Who is let in beside the accounts.
    logins: Option<Arc<LoginRules>>,
}

impl Default for Directory {
    /// No accounts, the default space.
    fn default() -> Self {
        Directory {
            spaces: HashMap::from([(Arc::from(Directory::DEFAULT_SPACE), Quotas::default())]),
            accounts: HashMap::new(),
            certificates: HashMap::new(),
            decoy: None,
            anonymous: None,
            tokens: Vec::new(),
            open: true,
            roles: None,
            access: None,
            called: None,
            logins: None,
        }
    }
}

impl Directory {
    /// The space that is always there.
    pub const DEFAULT_SPACE: &'static str = "default";
    /// Most rules of one account for one space: each may be looked at for each decision.
    pub(crate) const RULES_MAX: usize = 1_000;

    /// Checks a document.
    ///
    /// # Errors
    /// [`DirectoryError`], naming what is wrong.
    pub fn new(document: AuthDocument) -> Result<Self, DirectoryError> {
        let mut directory = Directory {
            open: document.accounts.is_empty(),
            ..Directory::default()
        };
        let mut listed_default = false;
        for space in document.spaces {
            check_name(&space.name)?;
            let is_default = space.name == Directory::DEFAULT_SPACE;
            let known = directory
                .spaces
                .insert(Arc::from(space.name.as_str()), space.quotas)
                .is_some();
            if known && (!is_default || listed_default) {
                return Err(DirectoryError::DuplicateSpace(space.name));
            }
            listed_default |= is_default;
        }
        for account in document.accounts {
            directory.add(account)?;
        }
        if let Some(name) = document.anonymous {
            let account = directory.listed(&name, || "anonymous".to_owned())?;
            directory.anonymous = Some(account);
        }
        for (at, issuer) in document.tokens.iter().enumerate() {
            let refused = |why: String| DirectoryError::Token {
                name: issuer.name.clone(),
                why,
            };
            check_name(&issuer.name)?;
            let known = &document.tokens[..at];
            if known.iter().any(|known| known.name == issuer.name) {
                return Err(refused("it is listed twice".to_owned()));
            }
            if let Some(account) = &issuer.account {
                directory.listed(account, || format!("the token issuer {:?}", issuer.name))?;
            }
            directory.tokens.push(Tokens::new(issuer).map_err(refused)?);
        }
        Ok(directory)
    }

    /// Adds what was made while the server ran; what the document has already stays as it is there. What cannot be
    /// added is left out: nothing that is stored may keep the server from starting.
    pub(super) fn with_stored(
        mut self,
        spaces: impl IntoIterator<Item = Space>,
        accounts: impl IntoIterator<Item = Account>,
    ) -> Self {
        for space in spaces {
            self.spaces
                .insert(Arc::from(space.name.as_str()), space.quotas);
        }
        for mut account in accounts {
            if self.accounts.contains_key(account.name.as_str()) {
                continue;
            }
            account
                .permissions
                .retain(|permissions| self.spaces.contains_key(permissions.space.as_str()));
            let name = account.name.clone();
            if let Err(error) = self.add(account) {
                tracing::error!(%error, account = name, "a stored account is left out");
            }
        }
        self
    }

    /// Adds the accounts of a book of roles; what is there already stays as it is. A server with one is not open.
    pub(super) fn with_roles(mut self, book: &RoleBook) -> Self {
        self.open = false;
        let (mut roles, accounts) = book.split();
        for account in accounts {
            let name = account.name.clone();
            if self.accounts.contains_key(name.as_str()) {
                tracing::warn!(
                    account = name,
                    "the settings have an account that has roles too"
                );
                roles.forget(&name);
            } else if let Err(error) = self.add(account) {
                tracing::error!(%error, account = name, "an account with roles is left out");
                roles.forget(&name);
            }
        }
        if self.anonymous.is_none() && book.anonymous.is_some() {
            self.anonymous = self.account(ANONYMOUS).cloned();
        }
        self.roles = Some(roles);
        self
    }

    /// With rules that stand before those of all accounts.
    pub(super) fn with_access(mut self, list: Option<Arc<AccessList>>) -> Self {
        self.access = list;
        self
    }

    /// With another name for a space in the rules for topics.
    pub(super) fn with_called(mut self, called: Option<(Arc<str>, Arc<str>)>) -> Self {
        self.called = called;
        self
    }

    /// What a space is called in the rules for topics.
    pub(super) fn called<'d>(&'d self, space: &'d str) -> &'d str {
        let called = self.called.as_ref();
        let called = called.filter(|(of, _)| **of == *space);
        called.map_or(space, |(_, name)| name)
    }

    /// With rules about who is let in beside the accounts.
    pub(super) fn with_logins(mut self, rules: Option<Arc<LoginRules>>) -> Self {
        self.open &= rules.is_none();
        self.logins = rules;
        self
    }

    pub(super) fn logins(&self) -> Option<&LoginRules> {
        self.logins.as_deref()
    }

    /// The rules that stand before those of all accounts of a space.
    pub(super) fn access(&self, space: &str) -> Option<&AccessList> {
        let list = self.access.as_deref();
        list.filter(|list| list.space == space)
    }

    /// The rules of an account whose rights come from roles, in their order, and what holds without one.
    pub(super) fn roles_of(
        &self,
        account: &str,
    ) -> Option<(impl Iterator<Item = &OrderedRule>, Defaults)> {
        let roles = self.roles.as_ref()?;
        Some((roles.of(account)?, roles.defaults))
    }

    fn listed(&self, name: &str, by: impl Fn() -> String) -> Result<Arc<Account>, DirectoryError> {
        let unknown = || DirectoryError::UnknownAccount {
            by: by(),
            account: name.to_owned(),
        };
        self.account(name).cloned().ok_or_else(unknown)
    }

    fn add(&mut self, account: Account) -> Result<(), DirectoryError> {
        check_name(&account.name)?;
        for (at, permissions) in account.permissions.iter().enumerate() {
            let name = || account.name.clone();
            let space = || permissions.space.clone();
            if !self.spaces.contains_key(permissions.space.as_str()) {
                return Err(DirectoryError::UnknownSpace {
                    account: name(),
                    space: space(),
                });
            }
            if account.permissions[..at]
                .iter()
                .any(|earlier| earlier.space == permissions.space)
            {
                return Err(DirectoryError::DuplicatePermissions {
                    account: name(),
                    space: space(),
                });
            }
            if permissions.rules.len() + permissions.topics.len() > Directory::RULES_MAX {
                return Err(DirectoryError::TooManyRules {
                    account: name(),
                    limit: Directory::RULES_MAX,
                });
            }
        }
        if self.decoy.is_none() {
            self.decoy.clone_from(&account.password);
        }
        let account = Arc::new(account);
        for certificate in &account.certificates {
            check_name(certificate)?;
            if let Some(other) = self
                .certificates
                .insert(certificate.clone(), Arc::clone(&account))
            {
                return Err(DirectoryError::DuplicateCertificate {
                    certificate: certificate.clone(),
                    first: other.name.clone(),
                    second: account.name.clone(),
                });
            }
        }
        let name = Arc::from(account.name.as_str());
        match self.accounts.insert(name, account) {
            Some(other) => Err(DirectoryError::DuplicateAccount(other.name.clone())),
            None => Ok(()),
        }
    }

    /// Whether the settings name no account: whoever connects from this machine and does not say who it is may do
    /// everything then.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// All accounts, in no particular order.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// Whether no account is configured.
    #[must_use]
    pub fn has_no_accounts(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The account of this name.
    #[must_use]
    pub fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.get(name)
    }

    /// The account that a certificate with this name is.
    #[must_use]
    pub fn certificate(&self, name: &str) -> Option<&Arc<Account>> {
        self.certificates.get(name)
    }

    /// The name, shared, and the quotas of a space.
    #[must_use]
    pub fn space(&self, name: &str) -> Option<(&Arc<str>, &Quotas)> {
        self.spaces.get_key_value(name)
    }

    /// The names of all spaces, in no particular order.
    pub fn spaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.spaces.keys()
    }

    /// The account of clients without credentials.
    #[must_use]
    pub fn anonymous(&self) -> Option<&Arc<Account>> {
        self.anonymous.as_ref()
    }

    pub(super) fn tokens(&self) -> &[Tokens] {
        &self.tokens
    }

    pub(super) fn decoy(&self) -> Option<&PasswordHash> {
        self.decoy.as_ref()
    }
}

fn check_name(name: &str) -> Result<(), DirectoryError> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(DirectoryError::Name(name.to_owned()));
    }
    Ok(())
}
