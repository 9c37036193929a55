//! Dynamic security: clients, groups and roles that are administered by messages, as with Mosquitto's plugin of this
//! name and `mosquitto_ctrl dynsec`.
//!
//! ```text
//! request ──▶ commands ──▶ Document (a copy) ──▶ file ──▶ RoleBook ──▶ Roster ──▶ everybody is judged again
//!                                                                        (longtail_broker::auth)
//! ```
//!
//! The file is the only place where it is kept: a request is answered when the file is on the disk and the rights are
//! in force. Its clients are accounts of the broker like any other.

mod clients;
mod document;
mod file;
mod groups;
mod roles;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_broker::auth::{DirectoryError, Roster};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use self::document::{Document, PRIORITY, Ranks, Texts};
pub use self::file::FileError;
use super::request::{Answers, Command, Outcome, Refused, unknown};

const CLIENTS_MAX: usize = Roster::ACCOUNTS_MAX;
const GROUPS_MAX: usize = 10_000;
const ROLES_MAX: usize = 10_000;
/// Rules of one role.
const ACLS_MAX: usize = 1_000;

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: FileError,
    },
    /// Its clients are no accounts.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// The clients, groups and roles of one file.
pub struct DynamicSecurity {
    path: PathBuf,
    space: String,
    roster: Arc<Roster>,
    document: Mutex<Document>,
}

/// A request on its way through the commands.
struct Run<'d> {
    document: &'d mut Document,
    is_changed: bool,
    kicked: Vec<String>,
    /// Addresses that clients are connected from, by account.
    connected: HashMap<Arc<str>, Vec<String>>,
}

/// What became of a request.
pub(super) struct Ran {
    pub(super) reply: Vec<u8>,
    /// Clients whose connections are to end: what they have shown is worth nothing any more.
    pub(super) kicked: Vec<String>,
}

impl DynamicSecurity {
    /// Reads the file, and gives the accounts in it to `roster`. Blocks.
    ///
    /// # Errors
    /// When the file is not there or cannot be used: `mosquitto_ctrl dynsec init` makes one.
    pub fn open(path: &Path, space: &str, roster: Arc<Roster>) -> Result<Self, OpenError> {
        let document = Document::read(path).map_err(|source| OpenError::File {
            path: path.display().to_string(),
            source,
        })?;
        roster.set_roles(Arc::new(document.book(space)))?;
        Ok(DynamicSecurity {
            path: path.to_owned(),
            space: space.to_owned(),
            roster,
            document: Mutex::new(document),
        })
    }

    /// Whether a file can be opened.
    ///
    /// # Errors
    /// When it is not there or cannot be used.
    pub fn check(path: &Path) -> Result<(), OpenError> {
        let read = Document::read(path);
        read.map(|_| ()).map_err(|source| OpenError::File {
            path: path.display().to_string(),
            source,
        })
    }

    /// Carries out a request. Blocks: it hashes passwords and writes the file.
    pub(super) fn run(&self, payload: &[u8], connected: HashMap<Arc<str>, Vec<String>>) -> Ran {
        let mut current = self.document.lock();
        let mut next = current.clone();
        let mut run = Run {
            document: &mut next,
            is_changed: false,
            kicked: Vec::new(),
            connected,
        };
        let mut answers = Answers::of(payload, |command| run.carry_out(command));
        let Run {
            is_changed,
            mut kicked,
            ..
        } = run;
        if is_changed {
            next.changes += 1;
            let kept = next.write(&self.path);
            let kept = kept.map_err(|error| error.to_string()).and_then(|()| {
                let book = Arc::new(next.book(&self.space));
                self.roster
                    .set_roles(book)
                    .map_err(|error| error.to_string())
            });
            match kept {
                Ok(()) => *current = next,
                Err(error) => {
                    tracing::error!(file = %self.path.display(), error, "dynamic security cannot be written");
                    answers.fail("Internal error");
                    kicked.clear();
                }
            }
        }
        let reply = answers.encode();
        Ran { reply, kicked }
    }
}

impl Run<'_> {
    fn changed(&mut self) {
        self.is_changed = true;
    }

    /// What this client has shown is worth nothing any more.
    fn kicked(&mut self, client: &str) {
        self.is_changed = true;
        self.kicked.push(client.to_owned());
    }

    fn addresses_of(&self, client: &str) -> &[String] {
        self.connected.get(client).map_or(&[], Vec::as_slice)
    }

    fn carry_out(&mut self, command: &Command<'_>) -> Outcome {
        let outcome = match command.name {
            "createClient" => clients::create(self, command),
            "deleteClient" => clients::delete(self, command),
            "enableClient" => clients::enable(self, command, true),
            "disableClient" => clients::enable(self, command, false),
            "getClient" => clients::get(self, command),
            "listClients" => clients::list(self, command),
            "modifyClient" => clients::modify(self, command),
            "setClientId" => clients::set_id(self, command),
            "setClientPassword" => clients::set_password(self, command),
            "addClientRole" => clients::add_role(self, command),
            "removeClientRole" => clients::remove_role(self, command),
            "createGroup" => groups::create(self, command),
            "deleteGroup" => groups::delete(self, command),
            "getGroup" => groups::get(self, command),
            "listGroups" => groups::list(self, command),
            "modifyGroup" => groups::modify(self, command),
            "addGroupClient" => groups::add_client(self, command),
            "removeGroupClient" => groups::remove_client(self, command),
            "addGroupRole" => groups::add_role(self, command),
            "removeGroupRole" => groups::remove_role(self, command),
            "setAnonymousGroup" => groups::set_anonymous(self, command),
            "getAnonymousGroup" => groups::get_anonymous(self),
            "createRole" => roles::create(self, command),
            "deleteRole" => roles::delete(self, command),
            "getRole" => roles::get(self, command),
            "listRoles" => roles::list(self, command),
            "modifyRole" => roles::modify(self, command),
            "addRoleACL" => roles::add_acl(self, command),
            "removeRoleACL" => roles::remove_acl(self, command),
            "setDefaultACLAccess" => roles::set_defaults(self, command),
            "getDefaultACLAccess" => roles::get_defaults(self),
            "getDetails" => self.details(),
            _ => return unknown(),
        };
        if let Err(Refused(why)) = &outcome {
            tracing::info!(command = command.name, why, "dynamic security: refused");
        } else {
            tracing::info!(command = command.name, "dynamic security: done");
        }
        outcome
    }

    fn details(&self) -> Outcome {
        let document = &*self.document;
        Ok(Some(json!({
            "clientCount": document.clients.len(),
            "groupCount": document.groups.len(),
            "roleCount": document.roles.len(),
            "changeIndex": document.changes,
        })))
    }
}

impl Texts {
    /// A text that is left out stays; an empty one goes.
    fn change(&mut self, (name, description): (Option<&str>, Option<&str>)) {
        let changed = |old: &mut Option<String>, new: Option<&str>| {
            if let Some(new) = new {
                *old = Some(new.to_owned()).filter(|text| !text.is_empty());
            }
        };
        changed(&mut self.name, name);
        changed(&mut self.description, description);
    }

    fn show(&self, whole: &mut Map<String, Value>) {
        for (field, text) in [
            ("textname", &self.name),
            ("textdescription", &self.description),
        ] {
            if let Some(text) = text {
                whole.insert(field.to_owned(), text.as_str().into());
            }
        }
    }
}

/// Roles that a command names, with their priorities; all are known.
fn role_ranks(document: &Document, command: &Command<'_>) -> Result<Option<Ranks>, Refused> {
    let Some(list) = command.list("roles")? else {
        return Ok(None);
    };
    let role = |entry: &Command<'_>| {
        let name = entry.text("rolename")?;
        if !document.roles.contains_key(name) {
            return Err("Role not found".into());
        }
        Ok((name.to_owned(), entry.priority(PRIORITY)))
    };
    list.iter().map(role).collect::<Result<_, _>>().map(Some)
}

/// Names with their priorities as replies have them, where that is not the one of those that are given none.
fn rank_list(field: &str, ranks: &Ranks) -> Value {
    let entry = |(name, priority): (&str, i64)| {
        let mut entry = Map::new();
        entry.insert(field.to_owned(), name.into());
        if priority != PRIORITY {
            entry.insert("priority".to_owned(), priority.into());
        }
        Value::Object(entry)
    };
    ranks.ordered().into_iter().map(entry).collect()
}
