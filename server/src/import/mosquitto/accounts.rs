//! Mosquitto's password file and access control file as accounts.
//!
//! A `topic` line belongs to the `user` line above it, or to clients without a name; a `pattern` line is everybody's.
//! Without an access control file everybody may do everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longtail_broker::auth::{Directory, PasswordHash};
use longtail_model::Filter;
use toml::{Table, Value};

use super::lines;
use crate::import::{Imported, Place};

/// The account of clients without a name.
const ANONYMOUS: &str = "anonymous";

/// What the configuration says about who may connect.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    pub(super) password_file: Option<(Place, PathBuf)>,
    pub(super) acl_file: Option<(Place, PathBuf)>,
    pub(super) anonymous: bool,
    /// Whether the common name of a client certificate is the user.
    pub(super) certificate_names: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    actions: &'static [&'static str],
    deny: bool,
    subject: String,
}

#[derive(Debug, Default)]
struct Rules {
    anonymous: Vec<Rule>,
    users: BTreeMap<String, Vec<Rule>>,
    everybody: Vec<Rule>,
}

const READ: &[&str] = &["consume"];
const WRITE: &[&str] = &["publish"];
const BOTH: &[&str] = &["publish", "consume"];

/// Adds `accounts` (and `anonymous`) to the settings.
pub(super) fn import(access: &Access, out: &mut Imported) -> anyhow::Result<()> {
    let mut passwords = BTreeMap::new();
    if let Some((_, file)) = &access.password_file {
        read_passwords(file, &mut passwords, out)?;
    }
    let mut rules = match &access.acl_file {
        Some((_, file)) => read_rules(file, out)?,
        None => Rules {
            everybody: vec![rule(BOTH, false, "#".to_owned())],
            ..Rules::default()
        },
    };
    for user in passwords.keys() {
        rules.users.entry(user.clone()).or_default();
    }
    let mut accounts = Vec::new();
    for (user, own) in rules.users {
        let mut account = Table::new();
        account.insert("name".to_owned(), Value::String(user.clone()));
        if let Some(hash) = passwords.remove(&user) {
            account.insert("password".to_owned(), Value::String(hash));
        }
        if access.certificate_names {
            account.insert("certificates".to_owned(), Value::Array(vec![user.into()]));
        }
        account.insert("permissions".to_owned(), permissions(own, &rules.everybody));
        accounts.push(Value::Table(account));
    }
    if access.anonymous {
        let mut account = Table::new();
        account.insert("name".to_owned(), ANONYMOUS.into());
        // `%u` stands for nothing here, and Mosquitto skips such a pattern for clients without a name.
        rules
            .everybody
            .retain(|rule| !names_the_user(&rule.subject));
        account.insert(
            "permissions".to_owned(),
            permissions(rules.anonymous, &rules.everybody),
        );
        accounts.push(Value::Table(account));
        out.set(ANONYMOUS, ANONYMOUS);
    }
    if !accounts.is_empty() {
        out.set("accounts", Value::Array(accounts));
    }
    Ok(())
}

fn read_passwords(
    file: &Path,
    passwords: &mut BTreeMap<String, String>,
    out: &mut Imported,
) -> anyhow::Result<()> {
    for (at, line) in lines::text(file)?.lines().enumerate() {
        let place = Place {
            file: file.to_owned(),
            line: at + 1,
        };
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((user, hash)) = line.trim_end().split_once(':') else {
            out.note(&place, "not USER:HASH: left out");
            continue;
        };
        match PasswordHash::parse(hash) {
            Ok(_) if user == ANONYMOUS => out.note(
                &place,
                format!(
                    "the user {user:?} has the name of the account of clients without one: left out"
                ),
            ),
            Ok(_) => {
                passwords.insert(user.to_owned(), hash.to_owned());
            }
            Err(error) => out.note(&place, format!("the user {user:?} is left out: {error}")),
        }
    }
    Ok(())
}

fn read_rules(file: &Path, out: &mut Imported) -> anyhow::Result<Rules> {
    let mut rules = Rules::default();
    let mut user: Option<String> = None;
    for line in lines::parse(file, &lines::text(file)?) {
        match line.keyword.as_str() {
            "user" => {
                rules.users.entry(line.value.clone()).or_default();
                user = Some(line.value);
            }
            "topic" | "pattern" => {
                let is_pattern = line.keyword == "pattern";
                match read_rule(&line.value, is_pattern) {
                    Ok(rule) if is_pattern => rules.everybody.push(rule),
                    Ok(rule) => match &user {
                        Some(user) => rules.users.entry(user.clone()).or_default().push(rule),
                        None => rules.anonymous.push(rule),
                    },
                    Err(why) => out.note(&line.place, format!("{why}: the rule is left out")),
                }
            }
            other => out.note(&line.place, format!("{other:?} is not known: left out")),
        }
    }
    Ok(rules)
}

fn read_rule(value: &str, is_pattern: bool) -> Result<Rule, String> {
    let (actions, deny, topic) = match value.split_once([' ', '\t']) {
        Some(("read", topic)) => (READ, false, topic),
        Some(("write", topic)) => (WRITE, false, topic),
        Some(("readwrite", topic)) => (BOTH, false, topic),
        Some(("deny", topic)) => (BOTH, true, topic),
        _ => (BOTH, false, value),
    };
    let topic = topic.trim();
    Filter::parse_mqtt(topic)
        .map_err(|error| format!("{topic:?} is not a topic filter: {error}"))?;
    let subject = if is_pattern {
        escape_all_but_names(topic)
    } else {
        topic.replace('%', "%%")
    };
    Ok(rule(actions, deny, subject))
}

/// Percent signs are doubled, except where a whole level is a name's place: only there Mosquitto fills one in.
fn escape_all_but_names(topic: &str) -> String {
    let levels = topic.split('/').map(|level| match level {
        "%u" | "%c" => level.to_owned(),
        _ => level.replace('%', "%%"),
    });
    levels.collect::<Vec<_>>().join("/")
}

fn names_the_user(subject: &str) -> bool {
    subject.split('/').any(|level| level == "%u")
}

fn rule(actions: &'static [&'static str], deny: bool, subject: String) -> Rule {
    Rule {
        actions,
        deny,
        subject,
    }
}

/// Wildcards of Mosquitto's rules do not reach `$SYS`; ours do. Who is given it nowhere is denied it.
fn permissions(mut own: Vec<Rule>, everybody: &[Rule]) -> Value {
    own.extend(everybody.iter().cloned());
    let is_wide = |rule: &Rule| !rule.deny && rule.subject.starts_with(['#', '+']);
    let is_system = |rule: &Rule| !rule.deny && rule.subject.starts_with("$SYS");
    if own.iter().any(is_wide) && !own.iter().any(is_system) {
        own.push(rule(BOTH, true, "$SYS/#".to_owned()));
    }
    let rules = own.into_iter().map(|rule| {
        let mut table = Table::new();
        let actions = rule.actions.iter().map(|action| Value::from(*action));
        table.insert("actions".to_owned(), Value::Array(actions.collect()));
        if rule.deny {
            table.insert("effect".to_owned(), "deny".into());
        }
        table.insert("subject".to_owned(), rule.subject.into());
        Value::Table(table)
    });
    let mut space = Table::new();
    space.insert("space".to_owned(), Directory::DEFAULT_SPACE.into());
    space.insert("rules".to_owned(), Value::Array(rules.collect()));
    Value::Array(vec![Value::Table(space)])
}
