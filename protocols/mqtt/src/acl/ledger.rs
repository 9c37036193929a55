//! Mochi's ledger of users, logins and access, in YAML or JSON.
//!
//! A value that is empty or `*` is any, one with `*` in it is whatever begins with what is before that. A client is let
//! in by its user, then by the first rule of `auth` that is about it; who is in none is not. What it may do is what its
//! user's `acl` says, then the first rule of `acl` with a filter that matches; what none is about is allowed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use longtail_broker::auth::{
    AccessList, Effect, ListedRule, LoginRule, LoginRules, Name, OrderedRule, Target, When, Who,
};
use serde::Deserialize;

use super::{AclError, Action, rules};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Ledger {
    users: BTreeMap<String, User>,
    auth: Vec<Login>,
    acl: Vec<Acl>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct User {
    /// Said twice; the key counts.
    #[serde(rename = "username")]
    _username: String,
    password: String,
    acl: BTreeMap<String, u8>,
    disallow: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Login {
    client: String,
    username: String,
    remote: String,
    password: String,
    allow: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Acl {
    client: String,
    username: String,
    remote: String,
    filters: BTreeMap<String, u8>,
}

/// Reads a ledger: who is let in to `space`, and what for.
///
/// # Errors
/// [`AclError`], for anything that is not understood.
pub fn parse(text: &str, space: &str) -> Result<(LoginRules, AccessList), AclError> {
    let ledger: Ledger = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |at| at.line());
        let why = error.to_string();
        AclError::at(
            usize::try_from(line).unwrap_or(1),
            why.lines().next().unwrap_or_default(),
        )
    })?;
    let mut logins = Vec::new();
    let mut access = Vec::new();
    // Where something is in the file is not known any more.
    let wrong = |what: String, why: String| AclError::at(1, format!("{what}: {why}"));
    for (name, user) in &ledger.users {
        let who = Who::Account(Name::Is(name.clone()));
        if !user.password.is_empty() {
            logins.push(LoginRule {
                who: who.clone(),
                password: Some(Name::Is(user.password.clone())),
                allow: !user.disallow,
            });
        }
        let filters = filters(&who, &user.acl);
        access.extend(filters.map_err(|why| wrong(format!("the user {name:?}"), why))?);
    }
    for (at, rule) in ledger.auth.iter().enumerate() {
        let who = who(&rule.client, &rule.username, &rule.remote);
        logins.push(LoginRule {
            who: who.map_err(|why| wrong(format!("number {} of auth", at + 1), why))?,
            password: name(&rule.password),
            allow: rule.allow,
        });
    }
    for (at, rule) in ledger.acl.iter().enumerate() {
        let wrong = |why| wrong(format!("number {} of acl", at + 1), why);
        let who = who(&rule.client, &rule.username, &rule.remote).map_err(wrong)?;
        if rule.filters.is_empty() {
            access.extend(rules(
                &who,
                Effect::Allow,
                Action::Both,
                vec![Target::Everything],
                When::default(),
            ));
        } else {
            access.extend(filters(&who, &rule.filters).map_err(wrong)?);
        }
    }
    let logins = LoginRules {
        space: space.to_owned(),
        rules: logins,
    };
    let access = AccessList {
        space: space.to_owned(),
        rules: access,
        otherwise: Some(Effect::Allow),
    };
    Ok((logins, access))
}

/// What some filter allows is allowed, and what any of them is about is denied otherwise.
fn filters(who: &Who, filters: &BTreeMap<String, u8>) -> Result<Vec<ListedRule>, String> {
    let mut allowed = Vec::new();
    let mut denied = Vec::new();
    for (filter, access) in filters {
        let target = Target::template(&filter.replace('%', "%%"))
            .map_err(|error| format!("{filter:?}: {error}"))?;
        let action = match access {
            0 => None,
            1 => Some(Action::Subscribe),
            2 => Some(Action::Publish),
            3 => Some(Action::Both),
            other => return Err(format!("{filter:?}: access is 0 to 3, not {other}")),
        };
        if let Some(action) = action {
            allowed.extend(rules(
                who,
                Effect::Allow,
                action,
                vec![target.clone()],
                When::default(),
            ));
        }
        denied.push(ListedRule {
            who: who.clone(),
            rule: OrderedRule {
                operations: Action::Both.operations(),
                effect: Effect::Deny,
                target,
                when: When::default(),
            },
        });
    }
    allowed.extend(denied);
    Ok(allowed)
}

fn name(value: &str) -> Option<Name> {
    match value.find('*') {
        _ if value.is_empty() || value == "*" => None,
        Some(at) if at > 0 => Some(Name::StartsWith(value[..at].to_owned())),
        _ => Some(Name::Is(value.to_owned())),
    }
}

fn who(client: &str, username: &str, remote: &str) -> Result<Who, String> {
    let mut all = Vec::new();
    all.extend(name(client).map(Who::ClientId));
    all.extend(name(username).map(Who::Account));
    if !remote.is_empty() && remote != "*" {
        all.push(from(remote)?);
    }
    Ok(Who::All(all))
}

/// Addresses are compared as text with a port behind them, of which only `*` is taken here.
fn from(remote: &str) -> Result<Who, String> {
    if remote == "localhost:*" || remote == "localhost" {
        // No address is written so.
        return Ok(Who::Any(Vec::new()));
    }
    let host = remote.strip_suffix(":*").unwrap_or(remote);
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.parse::<IpAddr>().is_ok() {
        return super::network(host);
    }
    if let Some(start) = host.strip_suffix(".*") {
        let octets = start.split('.').count();
        let rest = ".0".repeat(4_usize.saturating_sub(octets));
        return super::network(&format!("{start}{rest}/{}", octets * 8));
    }
    Err(format!(
        "{remote:?} is none of ADDRESS:*, ADDRESS and 10.0.*"
    ))
}
