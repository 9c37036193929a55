//! Commands about groups.

use serde_json::{Map, Value, json};

use super::document::{Document, Group, PRIORITY, Ranks, Texts};
use super::{GROUPS_MAX, Run, rank_list, role_ranks};
use crate::control::request::{Command, Outcome, Refused};

const NOT_FOUND: &str = "Group not found";

fn group<'d>(document: &'d mut Document, command: &Command<'_>) -> Result<&'d mut Group, Refused> {
    let name = command.text("groupname")?;
    document.groups.get_mut(name).ok_or(NOT_FOUND.into())
}

/// Clients that are named, with the priority that the group has for each.
fn clients(document: &Document, command: &Command<'_>) -> Result<Option<Ranks>, Refused> {
    let Some(list) = command.list("clients")? else {
        return Ok(None);
    };
    let client = |entry: &Command<'_>| {
        let name = entry.text("username")?;
        if !document.clients.contains_key(name) {
            return Err("Client not found".into());
        }
        Ok((name.to_owned(), entry.priority(PRIORITY)))
    };
    list.iter().map(client).collect::<Result<_, _>>().map(Some)
}

pub(super) fn create(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.new_name("groupname")?;
    let texts = Texts {
        name: command.optional("textname")?.map(str::to_owned),
        description: command.optional("textdescription")?.map(str::to_owned),
    };
    if run.document.groups.contains_key(name) {
        return Err("Group already exists".into());
    }
    if run.document.groups.len() >= GROUPS_MAX {
        return Err("Too many groups".into());
    }
    let group = Group {
        texts,
        roles: role_ranks(run.document, command)?.unwrap_or_default(),
        ..Group::default()
    };
    run.document.groups.insert(name.to_owned(), group);
    run.changed();
    Ok(None)
}

pub(super) fn delete(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("groupname")?;
    if run.document.anonymous_group.as_deref() == Some(name) {
        return Err("Deleting the anonymous group is forbidden".into());
    }
    if run.document.groups.remove(name).is_none() {
        return Err(NOT_FOUND.into());
    }
    run.changed();
    Ok(None)
}

pub(super) fn modify(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    group(run.document, command)?;
    let texts = (
        command.optional("textname")?,
        command.optional("textdescription")?,
    );
    let roles = role_ranks(run.document, command)?;
    let clients = clients(run.document, command)?;
    let group = group(run.document, command)?;
    group.texts.change(texts);
    if let Some(roles) = roles {
        group.roles = roles;
    }
    if let Some(clients) = clients {
        group.clients = clients;
    }
    run.changed();
    Ok(None)
}

pub(super) fn add_role(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let (role, priority) = (command.text("rolename")?, command.priority(PRIORITY));
    let is_known = run.document.roles.contains_key(role);
    let group = group(run.document, command)?;
    if !is_known {
        return Err("Role not found".into());
    }
    if !group.roles.add(role, priority) {
        return Err("Group is already in this role".into());
    }
    run.changed();
    Ok(None)
}

pub(super) fn remove_role(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let role = command.text("rolename")?;
    let is_known = run.document.roles.contains_key(role);
    let group = group(run.document, command)?;
    if !is_known {
        return Err("Role not found".into());
    }
    group.roles.remove(role);
    run.changed();
    Ok(None)
}

pub(super) fn add_client(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let (client, priority) = (command.text("username")?, command.priority(PRIORITY));
    if !run.document.clients.contains_key(client) {
        return Err("Client not found".into());
    }
    if !group(run.document, command)?.clients.add(client, priority) {
        return Err("Client is already in this group".into());
    }
    run.changed();
    Ok(None)
}

pub(super) fn remove_client(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let client = command.text("username")?;
    if !run.document.clients.contains_key(client) {
        return Err("Client not found".into());
    }
    group(run.document, command)?.clients.remove(client);
    run.changed();
    Ok(None)
}

pub(super) fn get(run: &Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("groupname")?;
    let group = run.document.groups.get(name).ok_or(NOT_FOUND)?;
    Ok(Some(json!({ "group": shown(name, group) })))
}

pub(super) fn list(run: &Run<'_>, command: &Command<'_>) -> Outcome {
    let groups = run.document.groups.iter();
    Ok(Some(command.page("groups", groups, shown)))
}

fn shown(name: &str, group: &Group) -> Value {
    let mut whole = Map::new();
    whole.insert("groupname".to_owned(), name.into());
    group.texts.show(&mut whole);
    whole.insert("clients".to_owned(), rank_list("username", &group.clients));
    whole.insert("roles".to_owned(), rank_list("rolename", &group.roles));
    Value::Object(whole)
}

/// An empty name takes the rights of clients without credentials away.
pub(super) fn set_anonymous(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("groupname")?;
    if !name.is_empty() && !run.document.groups.contains_key(name) {
        return Err(NOT_FOUND.into());
    }
    run.document.anonymous_group = Some(name.to_owned()).filter(|name| !name.is_empty());
    run.changed();
    Ok(None)
}

pub(super) fn get_anonymous(run: &Run<'_>) -> Outcome {
    let name = run.document.anonymous_group.as_deref().unwrap_or_default();
    Ok(Some(json!({ "group": { "groupname": name } })))
}
