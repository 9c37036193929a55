//! The document as Mosquitto's `dynamic-security.json`: what `mosquitto_ctrl dynsec init` writes, and what Mosquitto 2.0
//! and later read.
//!
//! A password that is hashed with PBKDF2 is written in the three fields that 2.0 knows, others as `encoded_password`.
//! What is not known here is kept as it was.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use longtail_broker::auth::PasswordHash;
use serde::{Deserialize, Serialize};

use super::document::{
    Access, Acl, AclKind, Client, Document, Group, Others, PRIORITY, Ranks, Role, Texts,
};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no such file.
    #[error("it is not a file of mosquitto's dynamic security: {0}")]
    Json(#[from] serde_json::Error),
    /// Something in it cannot be.
    #[error("{what} {name:?}: {why}")]
    Wrong {
        /// `client`, `group` or `role`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Whole {
    #[serde(rename = "defaultACLAccess", default)]
    defaults: WholeAccess,
    #[serde(default)]
    clients: Vec<WholeClient>,
    #[serde(default)]
    groups: Vec<WholeGroup>,
    #[serde(default)]
    roles: Vec<WholeRole>,
    #[serde(rename = "anonymousGroup", skip_serializing_if = "Option::is_none")]
    anonymous_group: Option<String>,
    #[serde(rename = "changeIndex", default)]
    changes: u64,
    #[serde(flatten)]
    others: Others,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WholeAccess {
    publish_client_send: bool,
    publish_client_receive: bool,
    subscribe: bool,
    unsubscribe: bool,
}

impl Default for WholeAccess {
    fn default() -> Self {
        Access::default().into()
    }
}

impl From<Access> for WholeAccess {
    fn from(access: Access) -> Self {
        WholeAccess {
            publish_client_send: access.send,
            publish_client_receive: access.receive,
            subscribe: access.subscribe,
            unsubscribe: access.unsubscribe,
        }
    }
}

#[derive(Serialize, Deserialize, Default)]
struct WholeTexts {
    // `mosquitto_ctrl dynsec init` writes it so, and Mosquitto does not mind.
    #[serde(alias = "textName", skip_serializing_if = "Option::is_none")]
    textname: Option<String>,
    #[serde(alias = "textDescription", skip_serializing_if = "Option::is_none")]
    textdescription: Option<String>,
}

impl From<WholeTexts> for Texts {
    fn from(texts: WholeTexts) -> Self {
        Texts {
            name: texts.textname,
            description: texts.textdescription,
        }
    }
}

impl From<Texts> for WholeTexts {
    fn from(texts: Texts) -> Self {
        WholeTexts {
            textname: texts.name,
            textdescription: texts.description,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct WholeClient {
    username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clientid: Option<String>,
    #[serde(flatten)]
    texts: WholeTexts,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(default)]
    roles: Vec<WholeRank>,
    #[serde(default, skip_serializing)]
    groups: Vec<WholeRank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iterations: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoded_password: Option<String>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Serialize, Deserialize)]
struct WholeGroup {
    groupname: String,
    #[serde(flatten)]
    texts: WholeTexts,
    #[serde(default)]
    roles: Vec<WholeRank>,
    #[serde(default)]
    clients: Vec<WholeRank>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Serialize, Deserialize)]
struct WholeRole {
    rolename: String,
    #[serde(flatten)]
    texts: WholeTexts,
    #[serde(default = "yes")]
    allowwildcardsubs: bool,
    #[serde(default)]
    acls: Vec<WholeAcl>,
    #[serde(flatten)]
    others: Others,
}

#[derive(Serialize, Deserialize)]
struct WholeAcl {
    acltype: String,
    topic: String,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    allow: bool,
}

/// A name in a list of names.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct WholeRank {
    #[serde(skip_serializing_if = "Option::is_none")]
    rolename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groupname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
}

fn yes() -> bool {
    true
}

/// Names that are known, with their priorities.
fn ranks(
    list: Vec<WholeRank>,
    name: impl Fn(WholeRank) -> Option<String>,
    known: impl Fn(&str) -> bool,
) -> Ranks {
    let rank = |entry: WholeRank| {
        let priority = entry.priority.unwrap_or(PRIORITY);
        name(entry).map(|name| (name, priority))
    };
    let ranks = list.into_iter().filter_map(rank);
    ranks.filter(|(name, _)| known(name)).collect()
}

fn whole_ranks(ranks: &Ranks, entry: impl Fn(String) -> WholeRank) -> Vec<WholeRank> {
    let whole = |(name, priority): (&str, i64)| WholeRank {
        priority: (priority != PRIORITY).then_some(priority),
        ..entry(name.to_owned())
    };
    ranks.ordered().into_iter().map(whole).collect()
}

impl Document {
    /// Reads the file.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        Document::parse(&fs::read(path)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        let whole: Whole = serde_json::from_slice(bytes)?;
        let mut document = Document {
            defaults: Access {
                send: whole.defaults.publish_client_send,
                receive: whole.defaults.publish_client_receive,
                subscribe: whole.defaults.subscribe,
                unsubscribe: whole.defaults.unsubscribe,
            },
            changes: whole.changes,
            others: whole.others,
            ..Document::default()
        };
        for role in whole.roles {
            let name = role.rolename.clone();
            let role = role.checked().map_err(|why| wrong("role", &name, why))?;
            document.roles.insert(name, role);
        }
        let roles = &document.roles;
        let has_role = |name: &str| roles.contains_key(name);
        let mut memberships = Vec::new();
        for mut client in whole.clients {
            let name = client.username.clone();
            for group in std::mem::take(&mut client.groups) {
                memberships.push((name.clone(), group));
            }
            let roles = ranks(
                std::mem::take(&mut client.roles),
                |rank| rank.rolename,
                has_role,
            );
            let client = client
                .checked(roles)
                .map_err(|why| wrong("client", &name, why))?;
            document.clients.insert(name, client);
        }
        let clients = &document.clients;
        for group in whole.groups {
            let checked = Group {
                texts: group.texts.into(),
                roles: ranks(group.roles, |rank| rank.rolename, has_role),
                clients: ranks(
                    group.clients,
                    |rank| rank.username,
                    |name| clients.contains_key(name),
                ),
                others: group.others,
            };
            document.groups.insert(group.groupname, checked);
        }
        for (client, group) in memberships {
            let priority = group.priority.unwrap_or(PRIORITY);
            let group = group
                .groupname
                .and_then(|name| document.groups.get_mut(&name));
            if let Some(group) = group {
                group.clients.add(&client, priority);
            }
        }
        let groups = &document.groups;
        document.anonymous_group = whole
            .anonymous_group
            .filter(|name| groups.contains_key(name));
        Ok(document)
    }

    /// Writes the file: a new one in the place of the old, which stays if anything fails.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn write(&self, path: &Path) -> Result<(), FileError> {
        let mut bytes = serde_json::to_vec_pretty(&self.whole())?;
        bytes.push(b'\n');
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let next = path.with_file_name(name);
        let mut file = create_private(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }

    fn whole(&self) -> Whole {
        let role_rank = |rolename| WholeRank {
            rolename: Some(rolename),
            ..WholeRank::default()
        };
        let client_rank = |username| WholeRank {
            username: Some(username),
            ..WholeRank::default()
        };
        let client = |(name, client): (&String, &Client)| {
            let mut whole = WholeClient {
                username: name.clone(),
                clientid: client.client_id.clone(),
                texts: client.texts.clone().into(),
                disabled: client.disabled,
                roles: whole_ranks(&client.roles, role_rank),
                groups: Vec::new(),
                password: None,
                salt: None,
                iterations: None,
                encoded_password: None,
                others: client.others.clone(),
            };
            whole.set_password(client.password.as_ref());
            whole
        };
        let group = |(name, group): (&String, &Group)| WholeGroup {
            groupname: name.clone(),
            texts: group.texts.clone().into(),
            roles: whole_ranks(&group.roles, role_rank),
            clients: whole_ranks(&group.clients, client_rank),
            others: group.others.clone(),
        };
        let role = |(name, role): (&String, &Role)| WholeRole {
            rolename: name.clone(),
            texts: role.texts.clone().into(),
            allowwildcardsubs: role.wildcards,
            acls: role.acls.iter().map(whole_acl).collect(),
            others: role.others.clone(),
        };
        Whole {
            defaults: self.defaults.into(),
            clients: self.clients.iter().map(client).collect(),
            groups: self.groups.iter().map(group).collect(),
            roles: self.roles.iter().map(role).collect(),
            anonymous_group: self.anonymous_group.clone(),
            changes: self.changes,
            others: self.others.clone(),
        }
    }
}

/// It has hashes of passwords in it.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn whole_acl(acl: &Acl) -> WholeAcl {
    WholeAcl {
        acltype: acl.kind.as_str().to_owned(),
        topic: acl.topic.clone(),
        priority: acl.priority,
        allow: acl.allow,
    }
}

fn wrong(what: &'static str, name: &str, why: String) -> FileError {
    FileError::Wrong {
        what,
        name: name.to_owned(),
        why,
    }
}

impl WholeRole {
    fn checked(self) -> Result<Role, String> {
        let acl = |acl: WholeAcl| {
            let kind = AclKind::parse(&acl.acltype);
            let checked = Acl {
                kind: kind.ok_or_else(|| format!("unknown acltype {:?}", acl.acltype))?,
                topic: acl.topic,
                priority: acl.priority,
                allow: acl.allow,
            };
            checked
                .rule()
                .map_err(|error| format!("{:?}: {error}", checked.topic))?;
            Ok::<_, String>(checked)
        };
        Ok(Role {
            texts: self.texts.into(),
            wildcards: self.allowwildcardsubs,
            acls: self.acls.into_iter().map(acl).collect::<Result<_, _>>()?,
            others: self.others,
        })
    }
}

impl WholeClient {
    fn checked(self, roles: Ranks) -> Result<Client, String> {
        let encoded = match (
            &self.encoded_password,
            &self.password,
            &self.salt,
            self.iterations,
        ) {
            (Some(encoded), ..) => Some(encoded.clone()),
            (None, Some(hash), Some(salt), Some(iterations)) => {
                Some(format!("$7${iterations}${salt}${hash}"))
            }
            _ => None,
        };
        let password = encoded
            .map(|encoded| PasswordHash::parse(&encoded))
            .transpose();
        Ok(Client {
            password: password.map_err(|error| error.to_string())?,
            client_id: self.clientid.filter(|id| !id.is_empty()),
            texts: self.texts.into(),
            disabled: self.disabled,
            roles,
            others: self.others,
        })
    }

    fn set_password(&mut self, hash: Option<&PasswordHash>) {
        let Some(hash) = hash else { return };
        let text = String::from(hash.clone());
        let fields: Vec<&str> = text.split('$').collect();
        if let ["", "7", iterations, salt, hash] = fields[..] {
            self.password = Some(hash.to_owned());
            self.salt = Some(salt.to_owned());
            self.iterations = iterations.parse().ok();
        } else {
            self.encoded_password = Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from what `mosquitto_ctrl dynsec init` of 2.0.11 writes.
    const INIT: &str = r##"{
        "clients": [{
            "username": "admin", "textName": "Dynsec admin user",
            "password": "AaRgbDq5pG6OUsgXWmshPV6/HeyXq/Fru/3/QaILaTQhfx6DZdu7+rBRUwMaKtRZRZoxpHF6mh3nPf827+qGzg==",
            "salt": "D8hvN2GTxozaBzID", "iterations": 101,
            "roles": [{"rolename": "admin"}, {"rolename": "gone"}], "future": [1]
        }],
        "roles": [{"rolename": "admin", "acls": [
            {"acltype": "publishClientSend", "topic": "$CONTROL/dynamic-security/#", "allow": true},
            {"acltype": "subscribePattern", "topic": "#", "allow": true, "priority": 3}
        ]}],
        "groups": [{"groupname": "all", "clients": [{"username": "admin", "priority": 4}, {"username": "gone"}]}],
        "anonymousGroup": "nowhere", "more": {"x": 1}
    }"##;

    #[test]
    fn what_mosquitto_writes_is_read_and_stays_readable_for_it() {
        let document = Document::parse(INIT.as_bytes()).unwrap();
        let admin = &document.clients["admin"];
        assert!(admin.password.as_ref().unwrap().verify(b"secret"));
        assert_eq!(admin.texts.name.as_deref(), Some("Dynsec admin user"));
        assert_eq!(admin.roles.ordered(), [("admin", -1)]);
        assert_eq!(document.groups["all"].clients.ordered(), [("admin", 4)]);
        assert_eq!(document.anonymous_group, None);
        assert_eq!(document.defaults, Access::default());
        assert!(document.roles["admin"].wildcards);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dynamic-security.json");
        document.write(&path).unwrap();
        assert_eq!(Document::read(&path).unwrap(), document);
        let text = fs::read_to_string(&path).unwrap();
        for kept in [
            "\"iterations\": 101",
            "\"salt\": \"D8hvN2GTxozaBzID\"",
            "\"future\"",
            "\"more\"",
        ] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        assert!(!text.contains("encoded_password"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (text, expected) in [
            (
                r#"{"clients": [{"username": "ann", "encoded_password": "plain"}]}"#,
                "client \"ann\": not a password",
            ),
            (
                r##"{"roles": [{"rolename": "r", "acls": [{"acltype": "publishClientSend", "topic": "#/x"}]}]}"##,
                "role \"r\": \"#/x\"",
            ),
            (
                r#"{"roles": [{"rolename": "r", "acls": [{"acltype": "x", "topic": "x"}]}]}"#,
                "unknown acltype",
            ),
            ("[]", "it is not a file"),
        ] {
            let error = Document::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
