//! Commands about roles and their rules, and about what holds without one.

use serde_json::{Map, Value, json};

use super::document::{Acl, AclKind, Document, Role, Texts};
use super::{ACLS_MAX, ROLES_MAX, Run};
use crate::control::request::{Command, Outcome, Refused};

const NOT_FOUND: &str = "Role not found";

fn role<'d>(document: &'d mut Document, command: &Command<'_>) -> Result<&'d mut Role, Refused> {
    let name = command.text("rolename")?;
    document.roles.get_mut(name).ok_or(NOT_FOUND.into())
}

fn kind(command: &Command<'_>) -> Result<AclKind, Refused> {
    AclKind::parse(command.text("acltype")?).ok_or("Unknown acltype".into())
}

fn acl(command: &Command<'_>) -> Result<Acl, Refused> {
    let acl = Acl {
        kind: kind(command)?,
        topic: command.text("topic")?.to_owned(),
        priority: command.priority(0),
        allow: command.flag("allow").unwrap_or(false),
    };
    acl.rule().map_err(|_| "Invalid ACL topic")?;
    Ok(acl)
}

fn acls(command: &Command<'_>) -> Result<Option<Vec<Acl>>, Refused> {
    let Some(list) = command.list("acls")? else {
        return Ok(None);
    };
    if list.len() > ACLS_MAX {
        return Err("Too many ACLs".into());
    }
    let mut acls: Vec<Acl> = Vec::with_capacity(list.len());
    for entry in &list {
        let acl = acl(entry)?;
        if !has(&acls, acl.kind, &acl.topic) {
            acls.push(acl);
        }
    }
    Ok(Some(acls))
}

fn has(acls: &[Acl], kind: AclKind, topic: &str) -> bool {
    acls.iter()
        .any(|acl| acl.kind == kind && acl.topic == topic)
}

pub(super) fn create(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.new_name("rolename")?;
    let texts = Texts {
        name: command.optional("textname")?.map(str::to_owned),
        description: command.optional("textdescription")?.map(str::to_owned),
    };
    if run.document.roles.contains_key(name) {
        return Err("Role already exists".into());
    }
    if run.document.roles.len() >= ROLES_MAX {
        return Err("Too many roles".into());
    }
    let role = Role {
        texts,
        wildcards: command.flag("allowwildcardsubs").unwrap_or(true),
        acls: acls(command)?.unwrap_or_default(),
        ..Role::default()
    };
    run.document.roles.insert(name.to_owned(), role);
    run.changed();
    Ok(None)
}

pub(super) fn delete(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("rolename")?;
    if run.document.roles.remove(name).is_none() {
        return Err(NOT_FOUND.into());
    }
    for client in run.document.clients.values_mut() {
        client.roles.remove(name);
    }
    for group in run.document.groups.values_mut() {
        group.roles.remove(name);
    }
    run.changed();
    Ok(None)
}

pub(super) fn modify(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    if !run.document.roles.contains_key(command.text("rolename")?) {
        return Err("Role does not exist".into());
    }
    let texts = (
        command.optional("textname")?,
        command.optional("textdescription")?,
    );
    let acls = acls(command)?;
    let role = role(run.document, command)?;
    role.texts.change(texts);
    if let Some(wildcards) = command.flag("allowwildcardsubs") {
        role.wildcards = wildcards;
    }
    if let Some(acls) = acls {
        role.acls = acls;
    }
    run.changed();
    Ok(None)
}

pub(super) fn add_acl(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let role = role(run.document, command)?;
    let acl = acl(command)?;
    if has(&role.acls, acl.kind, &acl.topic) {
        return Err("ACL with this topic already exists".into());
    }
    if role.acls.len() >= ACLS_MAX {
        return Err("Too many ACLs".into());
    }
    role.acls.push(acl);
    run.changed();
    Ok(None)
}

pub(super) fn remove_acl(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let role = role(run.document, command)?;
    let (kind, topic) = (kind(command)?, command.text("topic")?);
    if !has(&role.acls, kind, topic) {
        return Err("ACL not found".into());
    }
    role.acls
        .retain(|acl| acl.kind != kind || acl.topic != topic);
    run.changed();
    Ok(None)
}

pub(super) fn get(run: &Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("rolename")?;
    let role = run.document.roles.get(name).ok_or(NOT_FOUND)?;
    Ok(Some(json!({ "role": shown(name, role) })))
}

pub(super) fn list(run: &Run<'_>, command: &Command<'_>) -> Outcome {
    let roles = run.document.roles.iter();
    Ok(Some(command.page("roles", roles, shown)))
}

fn shown(name: &str, role: &Role) -> Value {
    let mut whole = Map::new();
    whole.insert("rolename".to_owned(), name.into());
    role.texts.show(&mut whole);
    whole.insert("allowwildcardsubs".to_owned(), role.wildcards.into());
    let mut acls: Vec<Value> = Vec::with_capacity(role.acls.len());
    for (word, kind) in AclKind::ALL {
        let mut listed: Vec<&Acl> = role.acls.iter().filter(|acl| acl.kind == kind).collect();
        listed.sort_by_key(|acl| std::cmp::Reverse(acl.priority));
        acls.extend(listed.into_iter().map(|acl| {
            let (topic, priority, allow) = (&acl.topic, acl.priority, acl.allow);
            json!({ "acltype": word, "topic": topic, "priority": priority, "allow": allow })
        }));
    }
    whole.insert("acls".to_owned(), acls.into());
    Value::Object(whole)
}

pub(super) fn get_defaults(run: &Run<'_>) -> Outcome {
    let access = run.document.defaults;
    let acls = [
        ("publishClientSend", access.send),
        ("publishClientReceive", access.receive),
        ("subscribe", access.subscribe),
        ("unsubscribe", access.unsubscribe),
    ];
    let acls = acls.map(|(word, allow)| json!({ "acltype": word, "allow": allow }));
    Ok(Some(json!({ "acls": acls })))
}

/// A word that is none is an error, where Mosquitto passes over it.
pub(super) fn set_defaults(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let list = command.list("acls").ok().flatten();
    let list = list.ok_or("Missing/invalid actions array")?;
    let mut access = run.document.defaults;
    for entry in list {
        // `mosquitto_ctrl` of 2.0 says `access`, which its own server passes over.
        let allow = entry.flag("allow").or(match entry.optional("access")? {
            Some("allow") => Some(true),
            Some("deny") => Some(false),
            _ => None,
        });
        let allow = allow.ok_or("Invalid/missing allow")?;
        match entry.text("acltype")? {
            "publishClientSend" => access.send = allow,
            "publishClientReceive" => access.receive = allow,
            "subscribe" => access.subscribe = allow,
            "unsubscribe" => access.unsubscribe = allow,
            _ => return Err("Unknown acltype".into()),
        }
    }
    run.document.defaults = access;
    run.changed();
    Ok(None)
}
