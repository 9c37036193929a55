//! Accounts and spaces that are made while the server runs: documents of the catalog, merged with what the settings say.
//!
//! ```text
//! settings ──▶ AuthDocument ──┐
//! role book ──────────────────┼──▶ Directory ──▶ Authenticator
//! catalog ──▶ account/NAME ───┤
//!             space/NAME   ───┘
//! ```
//!
//! What the settings name is theirs: it cannot be changed or removed here, and hides a document of the same name. Every
//! change replaces the directory as a whole, and whoever asked to be told judges its clients again.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::access_list::AccessList;
use super::account::{Account, AuthDocument, Directory, DirectoryError, SpacePermissions};
use super::authenticator::{Authenticator, GUEST};
use super::login_rules::LoginRules;
use super::names::NameRules;
use super::password::{PasswordHash, RabbitAlgorithm};
use super::roles::RoleBook;
use super::space::{Quotas, Space};
use crate::broker::{Broker, BrokerError};
use crate::catalog::Write;

/// Names of documents begin with these.
const ACCOUNT: &str = "account/";
const SPACE: &str = "space/";

/// Why accounts or spaces are not changed.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The settings have it.
    #[error("{what} {name:?} is in the server's settings and is changed there")]
    Configured {
        /// `the account` or `the space`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It belongs to a book of roles.
    #[error("the account {0:?} has roles, and is changed where these are")]
    HasRoles(String),
    /// There is none of this name.
    #[error("there is no {what} {name:?}")]
    Unknown {
        /// `account` or `space`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// As many as there may be.
    #[error("the limit of {0} is reached")]
    Limit(&'static str),
    /// It does not fit the rest.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// It cannot be stored.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// It cannot be written down.
    #[error("it cannot be written down: {0}")]
    Encoding(#[from] serde_json::Error),
}

/// Is called after every change, from the thread that made it.
pub type Changed = Box<dyn Fn() + Send + Sync>;

/// The accounts and spaces of a broker.
pub struct Roster {
    broker: Arc<Broker>,
    authenticator: Arc<Authenticator>,
    configured: Mutex<AuthDocument>,
    roles: Mutex<Option<Arc<RoleBook>>>,
    access: Mutex<Option<Arc<AccessList>>>,
    called: Mutex<Option<(Arc<str>, Arc<str>)>>,
    logins: Mutex<Option<Arc<LoginRules>>>,
    /// Held while a directory is made and put in place of the last.
    merging: Mutex<()>,
    /// One change at a time.
    writer: tokio::sync::Mutex<()>,
    changed: Mutex<Vec<Changed>>,
}

impl Roster {
    /// Accounts that may be stored.
    pub const ACCOUNTS_MAX: usize = 100_000;
    /// Spaces that may be stored.
    pub(crate) const SPACES_MAX: usize = 10_000;

    /// Merges what is stored with `configured`, for whoever asks `authenticator`.
    ///
    /// # Errors
    /// What is wrong with `configured`.
    pub fn open(
        broker: Arc<Broker>,
        authenticator: Arc<Authenticator>,
        configured: AuthDocument,
    ) -> Result<Self, DirectoryError> {
        let roster = Roster {
            broker,
            authenticator,
            configured: Mutex::new(AuthDocument::default()),
            roles: Mutex::default(),
            access: Mutex::default(),
            called: Mutex::default(),
            logins: Mutex::default(),
            merging: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            changed: Mutex::default(),
        };
        roster.reconfigure(configured)?;
        Ok(roster)
    }

    /// Who answers logins.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.authenticator
    }

    /// The accounts and spaces in force.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.authenticator.directory()
    }

    /// Is told of every change from now on.
    pub fn watch(&self, changed: Changed) {
        self.changed.lock().push(changed);
    }

    /// The settings were read again.
    ///
    /// # Errors
    /// What is wrong with them; everything stays as it was then.
    pub fn reconfigure(&self, configured: AuthDocument) -> Result<(), DirectoryError> {
        let one = self.merging.lock();
        let directory = self.merged(&configured)?;
        *self.configured.lock() = configured;
        for (name, quotas) in directory.spaces().filter_map(|name| directory.space(name)) {
            if let Err(error) = self.broker.set_quotas(name, quotas) {
                tracing::error!(%error, space = %name, "a space cannot be limited");
            }
        }
        self.authenticator.replace(directory);
        drop(one);
        self.tell();
        Ok(())
    }

    /// Has the accounts of this book, in place of those of an earlier one. Its owner keeps it; it is forgotten when the
    /// process ends.
    ///
    /// # Errors
    /// None that the settings did not have before.
    pub fn set_roles(&self, book: Arc<RoleBook>) -> Result<(), DirectoryError> {
        *self.roles.lock() = Some(book);
        self.merge()?;
        self.tell();
        Ok(())
    }

    /// Has this list, or none, stand before the rules of all accounts, in place of an earlier one.
    ///
    /// # Errors
    /// None that the settings did not have before.
    pub fn set_access(&self, list: Option<Arc<AccessList>>) -> Result<(), DirectoryError> {
        *self.access.lock() = list;
        self.merge()?;
        self.tell();
        Ok(())
    }

    /// Has `{vhost}` in the rules for topics of a space stand for this name, and not for the space's own.
    ///
    /// # Errors
    /// None that the settings did not have before.
    pub fn call_space(&self, space: Arc<str>, name: &str) -> Result<(), DirectoryError> {
        *self.called.lock() = Some((space, name.into()));
        self.merge()?;
        self.tell();
        Ok(())
    }

    /// Lets in whom these rules let in beside the accounts, in place of earlier ones. Whoever is in stays.
    ///
    /// # Errors
    /// None that the settings did not have before.
    pub fn set_logins(&self, rules: Option<Arc<LoginRules>>) -> Result<(), DirectoryError> {
        *self.logins.lock() = rules;
        self.merge()?;
        self.tell();
        Ok(())
    }

    /// Replaces the directory with what there is by now.
    fn merge(&self) -> Result<(), DirectoryError> {
        let _one = self.merging.lock();
        let configured = self.configured.lock().clone();
        self.authenticator.replace(self.merged(&configured)?);
        Ok(())
    }

    fn merged(&self, configured: &AuthDocument) -> Result<Directory, DirectoryError> {
        let directory = Directory::new(configured.clone())?;
        let (mut spaces, accounts) = (self.stored::<Space>(SPACE), self.stored(ACCOUNT));
        let listed = |name: &str| configured.spaces.iter().any(|known| known.name == name);
        spaces.retain(|space| !listed(&space.name));
        let directory = match &*self.roles.lock() {
            Some(book) => directory.with_roles(book),
            None => directory,
        };
        let directory = directory
            .with_access(self.access.lock().clone())
            .with_called(self.called.lock().clone())
            .with_logins(self.logins.lock().clone());
        Ok(directory.with_stored(spaces, accounts))
    }

    fn stored<T: DeserializeOwned>(&self, prefix: &str) -> Vec<T> {
        let documents = self.broker.catalog().list(prefix);
        documents
            .iter()
            .filter_map(|(name, document)| {
                serde_json::from_slice(&document.body)
                    .inspect_err(
                        |error| tracing::error!(%name, %error, "a document does not parse"),
                    )
                    .ok()
            })
            .collect()
    }

    fn tell(&self) {
        for changed in self.changed.lock().iter() {
            changed();
        }
    }

    async fn write<T: Serialize>(&self, name: String, body: Option<&T>) -> Result<(), RosterError> {
        let body = body.map(serde_json::to_vec).transpose()?.map(Bytes::from);
        let write = Write {
            name,
            body,
            expected: None,
        };
        self.broker.catalog().put_all(vec![write]).await?;
        self.merge()?;
        self.tell();
        Ok(())
    }

    /// Whether the settings have this account.
    #[must_use]
    pub fn is_configured(&self, account: &str) -> bool {
        let configured = self.configured.lock();
        configured
            .accounts
            .iter()
            .any(|known| known.name == account)
    }

    /// Whether the settings have this space.
    #[must_use]
    pub fn is_space_configured(&self, space: &str) -> bool {
        let configured = self.configured.lock();
        space == Directory::DEFAULT_SPACE
            || configured.spaces.iter().any(|known| known.name == space)
    }

    fn check_account(&self, name: &str) -> Result<(), RosterError> {
        if self.is_configured(name) {
            return Err(RosterError::Configured {
                what: "the account",
                name: name.to_owned(),
            });
        }
        let book = self.roles.lock();
        if book.as_ref().is_some_and(|book| book.has(name)) {
            return Err(RosterError::HasRoles(name.to_owned()));
        }
        Ok(())
    }

    /// An account that is stored here.
    #[must_use]
    pub fn stored_account(&self, name: &str) -> Option<Account> {
        let document = self.broker.catalog().get(&format!("{ACCOUNT}{name}"))?;
        serde_json::from_slice(&document.body).ok()
    }

    /// Whoever comes from this machine to a server whose settings have no accounts, as the account that it would be.
    /// `None`: nobody comes so, or there is an account of this name.
    #[must_use]
    pub fn guest(&self) -> Option<Account> {
        let directory = self.directory();
        if !directory.is_open() || directory.account(GUEST).is_some() {
            return None;
        }
        let all = |space: &Arc<str>| SpacePermissions {
            space: space.to_string(),
            rules: Vec::new(),
            names: Some(NameRules::full()),
            topics: Vec::new(),
        };
        let password = PasswordHash::create_rabbit(RabbitAlgorithm::Sha256, GUEST.as_bytes());
        Some(Account {
            password: Some(password),
            tags: vec!["administrator".to_owned()],
            permissions: directory.spaces().map(all).collect(),
            ..Account::named(GUEST)
        })
    }

    /// Makes an account, or changes it as `change` says, which is given the one that is there. `true`: it is new.
    ///
    /// # Errors
    /// When the settings have it, or it does not fit.
    pub async fn change_account(
        &self,
        name: &str,
        change: impl FnOnce(Option<Account>) -> Result<Account, RosterError>,
    ) -> Result<bool, RosterError> {
        let _writer = self.writer.lock().await;
        self.check_account(name)?;
        let known = self.stored_account(name);
        let known = known.or_else(|| self.guest().filter(|guest| guest.name == name));
        let is_new = known.as_ref().is_none_or(|known| !known.enabled);
        if known.is_none() && self.broker.catalog().list(ACCOUNT).len() >= Self::ACCOUNTS_MAX {
            return Err(RosterError::Limit("accounts"));
        }
        let account = change(known)?;
        // Checked by itself before it is stored; the spaces of its permissions are what there is.
        let directory = self.directory();
        for permissions in &account.permissions {
            if directory.space(&permissions.space).is_none() {
                return Err(RosterError::Unknown {
                    what: "space",
                    name: permissions.space.clone(),
                });
            }
        }
        let alone = Account {
            permissions: Vec::new(),
            ..account.clone()
        };
        Directory::new(AuthDocument {
            accounts: vec![alone],
            ..AuthDocument::default()
        })?;
        self.write(format!("{ACCOUNT}{name}"), Some(&account))
            .await?;
        Ok(is_new)
    }

    /// Removes an account. That of a guest, who is let in from this machine without one, is kept as one that is not let
    /// in any more.
    ///
    /// # Errors
    /// When there is none, or the settings have it.
    pub async fn remove_account(&self, name: &str) -> Result<(), RosterError> {
        let _writer = self.writer.lock().await;
        self.check_account(name)?;
        let known = self.stored_account(name);
        if name == GUEST && self.directory().is_open() && known.as_ref().is_none_or(|a| a.enabled) {
            let refused = Account {
                enabled: false,
                ..Account::named(GUEST)
            };
            return self.write(format!("{ACCOUNT}{name}"), Some(&refused)).await;
        }
        if known.is_none_or(|known| !known.enabled) {
            return Err(RosterError::Unknown {
                what: "account",
                name: name.to_owned(),
            });
        }
        self.write::<Account>(format!("{ACCOUNT}{name}"), None)
            .await
    }

    /// Makes a space or changes what it may use. `true`: it is new.
    ///
    /// # Errors
    /// When its name is none, or there are too many.
    pub async fn put_space(&self, name: &str, quotas: Quotas) -> Result<bool, RosterError> {
        let _writer = self.writer.lock().await;
        let is_new = self.directory().space(name).is_none();
        if !is_new && self.is_space_configured(name) && quotas == self.quotas(name) {
            return Ok(false);
        }
        if self
            .configured
            .lock()
            .spaces
            .iter()
            .any(|known| known.name == name)
        {
            return Err(RosterError::Configured {
                what: "the space",
                name: name.to_owned(),
            });
        }
        if is_new && self.broker.catalog().list(SPACE).len() >= Self::SPACES_MAX {
            return Err(RosterError::Limit("spaces"));
        }
        let space = Space {
            name: name.to_owned(),
            quotas,
        };
        Directory::new(AuthDocument {
            spaces: vec![space.clone()],
            ..AuthDocument::default()
        })?;
        self.write(format!("{SPACE}{name}"), Some(&space)).await?;
        self.broker.set_quotas(name, &quotas)?;
        Ok(is_new)
    }

    /// What a space may use.
    #[must_use]
    pub fn quotas(&self, name: &str) -> Quotas {
        let directory = self.directory();
        directory
            .space(name)
            .map_or_else(Quotas::default, |(_, quotas)| *quotas)
    }

    /// Removes a space with all that is in it, and every account's permissions for it.
    ///
    /// # Errors
    /// When there is none, the settings have it, or a shard does not answer.
    pub async fn remove_space(&self, name: &str) -> Result<(), RosterError> {
        let _writer = self.writer.lock().await;
        if self.is_space_configured(name) {
            return Err(RosterError::Configured {
                what: "the space",
                name: name.to_owned(),
            });
        }
        if self.directory().space(name).is_none() {
            return Err(RosterError::Unknown {
                what: "space",
                name: name.to_owned(),
            });
        }
        // Nobody is let in from here on.
        self.write::<Space>(format!("{SPACE}{name}"), None).await?;
        for mut account in self.stored::<Account>(ACCOUNT) {
            let before = account.permissions.len();
            account
                .permissions
                .retain(|permissions| permissions.space != name);
            if account.permissions.len() < before {
                let document = format!("{ACCOUNT}{}", account.name);
                self.write(document, Some(&account)).await?;
            }
        }
        self.broker.remove_space(name).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use longtail_model::Timestamp;

    use super::*;
    use crate::auth::{
        Action, AuthError, Credentials, LoginRequest, NamePattern, Peer, ThrottleLimits,
    };
    use crate::config::BrokerConfig;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        crate::client::block_on(future)
    }

    fn roster(broker: &Arc<Broker>, configured: AuthDocument) -> Roster {
        let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
        Roster::open(Arc::clone(broker), Arc::new(authenticator), configured).unwrap()
    }

    fn account(name: &str, space: &str) -> Account {
        let password = PasswordHash::create_rabbit(RabbitAlgorithm::Sha256, b"secret");
        Account {
            password: Some(password),
            permissions: vec![SpacePermissions {
                space: space.to_owned(),
                rules: Vec::new(),
                names: Some(NameRules {
                    read: NamePattern::new("^mine").unwrap(),
                    ..NameRules::default()
                }),
                topics: Vec::new(),
            }],
            ..Account::named(name)
        }
    }

    fn login(
        roster: &Roster,
        user: &str,
        password: &str,
        space: &str,
    ) -> Result<crate::auth::Login, AuthError> {
        let request = LoginRequest {
            credentials: Credentials::Password {
                user,
                password: password.as_bytes(),
            },
            peer: Peer::Unix,
            space,
            client_id: "",
        };
        roster.authenticator().authenticate(&request, Timestamp(0))
    }

    #[test]
    fn accounts_and_spaces_are_made_used_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        {
            let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
            let roster = roster(&broker, AuthDocument::default());
            let told = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&told);
            roster.watch(Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            }));
            assert!(wait(roster.put_space("shop", Quotas::default())).unwrap());
            assert!(wait(roster.change_account("ann", |_| Ok(account("ann", "shop")))).unwrap());
            assert!(!wait(roster.change_account("ann", |known| Ok(known.unwrap()))).unwrap());
            assert_eq!(told.load(Ordering::Relaxed), 3);
            let unknown = wait(roster.change_account("bob", |_| Ok(account("bob", "nowhere"))));
            assert!(matches!(unknown, Err(RosterError::Unknown { .. })));
        }
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let roster = roster(&broker, AuthDocument::default());
        let granted = login(&roster, "ann", "secret", "shop").unwrap();
        assert!(granted.grants.allows_name(Action::Consume, "mine.1"));
        assert!(!granted.grants.allows_name(Action::Publish, "mine.1"));
        assert!(login(&roster, "ann", "wrong", "shop").is_err());
        wait(roster.remove_space("shop")).unwrap();
        assert!(login(&roster, "ann", "secret", "shop").is_err());
        assert!(roster.stored_account("ann").unwrap().permissions.is_empty());
        wait(roster.remove_account("ann")).unwrap();
        assert!(wait(roster.remove_account("ann")).is_err());
    }

    #[test]
    fn on_an_open_server_a_guest_of_this_machine_stays_until_removed() {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let roster = roster(&broker, AuthDocument::default());
        assert!(
            login(&roster, "anybody", "x", "default").is_ok(),
            "no accounts yet"
        );
        wait(roster.change_account("ann", |_| Ok(account("ann", "default")))).unwrap();
        assert!(login(&roster, "guest", "guest", "default").is_ok());
        assert!(login(&roster, "guest", "other", "default").is_err());
        assert!(login(&roster, "anybody", "x", "default").is_err());
        wait(roster.remove_account("guest")).unwrap();
        assert!(login(&roster, "guest", "guest", "default").is_err());
        assert!(wait(roster.remove_account("guest")).is_err());
    }

    #[test]
    fn what_the_settings_have_is_not_changed_here() {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let configured = AuthDocument {
            accounts: vec![Account::named("root")],
            ..AuthDocument::default()
        };
        let roster = roster(&broker, configured);
        let changed = wait(roster.change_account("root", |_| Ok(Account::named("root"))));
        assert!(matches!(changed, Err(RosterError::Configured { .. })));
        assert!(wait(roster.remove_account("root")).is_err());
        assert!(wait(roster.remove_space("default")).is_err());
        assert!(
            login(&roster, "guest", "guest", "default").is_err(),
            "closed"
        );
    }
}
