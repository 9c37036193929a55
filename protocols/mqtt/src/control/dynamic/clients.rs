//! Commands about clients.

use longtail_broker::auth::PasswordHash;
use serde_json::{Map, Value, json};

use super::document::{Client, Document, PRIORITY, Ranks, Texts};
use super::{CLIENTS_MAX, Run, rank_list, role_ranks};
use crate::control::request::{Command, Outcome, Refused};

const NOT_FOUND: &str = "Client not found";

fn client<'d>(
    document: &'d mut Document,
    command: &Command<'_>,
) -> Result<&'d mut Client, Refused> {
    let name = command.text("username")?;
    document.clients.get_mut(name).ok_or(NOT_FOUND.into())
}

/// Groups that are named, with their priorities.
fn groups<'c>(
    document: &Document,
    command: &Command<'c>,
) -> Result<Option<Vec<(&'c str, i64)>>, Refused> {
    let Some(list) = command.list("groups")? else {
        return Ok(None);
    };
    let group = |entry: &Command<'c>| {
        let name = entry.text("groupname")?;
        if !document.groups.contains_key(name) {
            return Err("Group not found".into());
        }
        Ok((name, entry.priority(PRIORITY)))
    };
    list.iter().map(group).collect::<Result<_, _>>().map(Some)
}

fn client_id(command: &Command<'_>) -> Result<Option<Option<String>>, Refused> {
    let id = command.optional("clientid")?;
    Ok(id.map(|id| Some(id.to_owned()).filter(|id| !id.is_empty())))
}

fn hash(password: &str) -> PasswordHash {
    PasswordHash::create_mosquitto(password.as_bytes())
}

pub(super) fn create(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let document = &mut *run.document;
    let name = command.new_name("username")?;
    let password = command.optional("password")?;
    let client_id = client_id(command)?.flatten();
    let texts = Texts {
        name: command.optional("textname")?.map(str::to_owned),
        description: command.optional("textdescription")?.map(str::to_owned),
    };
    if document.clients.contains_key(name) {
        return Err("Client already exists".into());
    }
    if document.clients.len() >= CLIENTS_MAX {
        return Err("Too many clients".into());
    }
    let roles = role_ranks(document, command)?.unwrap_or_default();
    let groups = groups(document, command)?.unwrap_or_default();
    let client = Client {
        password: password.map(hash),
        client_id,
        texts,
        roles,
        ..Client::default()
    };
    document.clients.insert(name.to_owned(), client);
    join(document, name, &groups);
    run.changed();
    Ok(None)
}

fn join(document: &mut Document, client: &str, groups: &[(&str, i64)]) {
    for (name, priority) in groups {
        if let Some(group) = document.groups.get_mut(*name) {
            group.clients.add(client, *priority);
        }
    }
}

fn leave_all(document: &mut Document, client: &str) {
    for group in document.groups.values_mut() {
        group.clients.remove(client);
    }
}

pub(super) fn delete(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("username")?;
    if run.document.clients.remove(name).is_none() {
        return Err(NOT_FOUND.into());
    }
    leave_all(run.document, name);
    run.changed();
    Ok(None)
}

pub(super) fn enable(run: &mut Run<'_>, command: &Command<'_>, enabled: bool) -> Outcome {
    client(run.document, command)?.disabled = !enabled;
    run.changed();
    Ok(None)
}

pub(super) fn set_id(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let id = client_id(command)?.flatten();
    client(run.document, command)?.client_id = id;
    run.kicked(command.text("username")?);
    Ok(None)
}

pub(super) fn set_password(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("username")?;
    let password = command.text("password")?;
    if password.is_empty() {
        return Err("Empty password is not allowed".into());
    }
    client(run.document, command)?.password = Some(hash(password));
    run.kicked(name);
    Ok(None)
}

pub(super) fn modify(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("username")?;
    if !run.document.clients.contains_key(name) {
        return Err(NOT_FOUND.into());
    }
    let id = client_id(command)?;
    let password = command
        .optional("password")?
        .filter(|text| !text.is_empty());
    let texts = (
        command.optional("textname")?,
        command.optional("textdescription")?,
    );
    let roles = role_ranks(run.document, command)?;
    let groups = groups(run.document, command)?;
    let kicked = id.is_some() || password.is_some();
    let client = client(run.document, command)?;
    if let Some(id) = id {
        client.client_id = id;
    }
    if let Some(password) = password {
        client.password = Some(hash(password));
    }
    client.texts.change(texts);
    if let Some(roles) = roles {
        client.roles = roles;
    }
    if let Some(groups) = groups {
        leave_all(run.document, name);
        join(run.document, name, &groups);
    }
    run.changed();
    if kicked {
        run.kicked(name);
    }
    Ok(None)
}

pub(super) fn add_role(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let (role, priority) = (command.text("rolename")?, command.priority(PRIORITY));
    let is_known = run.document.roles.contains_key(role);
    let client = client(run.document, command)?;
    if !is_known {
        return Err("Role not found".into());
    }
    if !client.roles.add(role, priority) {
        return Err("Client is already in this role".into());
    }
    run.changed();
    Ok(None)
}

pub(super) fn remove_role(run: &mut Run<'_>, command: &Command<'_>) -> Outcome {
    let role = command.text("rolename")?;
    let is_known = run.document.roles.contains_key(role);
    let client = client(run.document, command)?;
    if !is_known {
        return Err("Role not found".into());
    }
    client.roles.remove(role);
    run.changed();
    Ok(None)
}

pub(super) fn get(run: &Run<'_>, command: &Command<'_>) -> Outcome {
    let name = command.text("username")?;
    let client = run.document.clients.get(name).ok_or(NOT_FOUND)?;
    Ok(Some(json!({ "client": shown(run, name, client) })))
}

pub(super) fn list(run: &Run<'_>, command: &Command<'_>) -> Outcome {
    let clients = run.document.clients.iter();
    let page = command.page("clients", clients, |name, client| shown(run, name, client));
    Ok(Some(page))
}

fn shown(run: &Run<'_>, name: &str, client: &Client) -> Value {
    let mut whole = Map::new();
    whole.insert("username".to_owned(), name.into());
    if let Some(id) = &client.client_id {
        whole.insert("clientid".to_owned(), id.as_str().into());
    }
    client.texts.show(&mut whole);
    if client.disabled {
        whole.insert("disabled".to_owned(), true.into());
    }
    let groups: Ranks = run
        .document
        .groups_of(name)
        .into_iter()
        .map(|(group, priority)| (group.to_owned(), priority))
        .collect();
    whole.insert("roles".to_owned(), rank_list("rolename", &client.roles));
    whole.insert("groups".to_owned(), rank_list("groupname", &groups));
    let connections = run.addresses_of(name).iter();
    let connections: Vec<Value> = connections.map(|at| json!({ "address": at })).collect();
    whole.insert("connections".to_owned(), connections.into());
    Value::Object(whole)
}
