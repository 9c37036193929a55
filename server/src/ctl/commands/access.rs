//! Users, what they may do, and limits.

use std::io;

use longtail_broker::auth::{PasswordHash, RabbitAlgorithm};
use serde_json::{Value, json};

use super::{Action, Call, Client, Command, CtlError, Output, none};
use crate::commands::client::escaped;
use crate::ctl::client::Refused;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "add_user",
        usage: "[--pre-hashed-password] <username> [<password>]",
        about: "Creates a user; without a password, that is read from standard input",
        banner: "Adding user \"{username}\" ...",
        action: Action::Own(add_user),
    },
    Command {
        name: "delete_user",
        usage: "<username>",
        about: "Deletes a user",
        banner: "Deleting user \"{username}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "users/{username}",
            body: none,
        },
    },
    Command {
        name: "change_password",
        usage: "<username> [<password>]",
        about: "Gives a user another password; without one, that is read from standard input",
        banner: "Changing password for user \"{username}\" ...",
        action: Action::Own(|call, client| {
            change_user(call, client, json!({"password": password(call)?}))
        }),
    },
    Command {
        name: "clear_password",
        usage: "<username>",
        about: "Takes a user's password away: no password lets it in",
        banner: "Clearing password for user \"{username}\" ...",
        action: Action::Own(|call, client| change_user(call, client, json!({"password_hash": ""}))),
    },
    Command {
        name: "authenticate_user",
        usage: "<username> [<password>]",
        about: "Says whether this is the user's password",
        banner: "Authenticating user \"{username}\" ...",
        action: Action::Own(authenticate),
    },
    Command {
        name: "hash_password",
        usage: "[<password>]",
        about: "Prints a hash as definitions have it; asks no server",
        banner: "",
        action: Action::Own(hash),
    },
    Command {
        name: "list_users",
        usage: "",
        about: "Lists users with their tags",
        banner: "Listing users ...",
        action: Action::List {
            path: "users",
            columns: &[("user", "name"), ("tags", "tags")],
            shown: &["user", "tags"],
        },
    },
    Command {
        name: "set_user_tags",
        usage: "<username> [<tag>...]",
        about: "Gives a user these tags and no others",
        banner: "Setting tags for user \"{username}\" to [{rest}] ...",
        action: Action::Own(|call, client| {
            change_user(call, client, json!({"tags": call.rest.join(",")}))
        }),
    },
    Command {
        name: "set_permissions",
        usage: "<username> <configure> <write> <read>",
        about: "Says what a user may do in a vhost, as regular expressions",
        banner: "Setting permissions for user \"{username}\" in vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "permissions/{vhost}/{username}",
            body: |call| {
                let [configure, write, read] =
                    ["configure", "write", "read"].map(|name| call.text(name));
                Ok(Some(
                    json!({"configure": configure, "write": write, "read": read}),
                ))
            },
        },
    },
    Command {
        name: "clear_permissions",
        usage: "<username>",
        about: "Keeps a user out of a vhost",
        banner: "Clearing permissions for user \"{username}\" in vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "permissions/{vhost}/{username}",
            body: none,
        },
    },
    Command {
        name: "list_permissions",
        usage: "",
        about: "Lists who may do what in a vhost",
        banner: "Listing permissions for vhost \"{vhost}\" ...",
        action: Action::List {
            path: "vhosts/{vhost}/permissions",
            columns: PERMISSIONS,
            shown: &["user", "configure", "write", "read"],
        },
    },
    Command {
        name: "list_user_permissions",
        usage: "<username>",
        about: "Lists what a user may do in each vhost",
        banner: "Listing permissions for user \"{username}\" ...",
        action: Action::List {
            path: "users/{username}/permissions",
            columns: PERMISSIONS,
            shown: &["vhost", "configure", "write", "read"],
        },
    },
    Command {
        name: "set_topic_permissions",
        usage: "<username> <exchange> <write> <read>",
        about: "Narrows the routing keys of a topic exchange for a user",
        banner: "Setting topic permissions on \"{exchange}\" for user \"{username}\" in vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "topic-permissions/{vhost}/{username}",
            body: |call| {
                let [exchange, write, read] =
                    ["exchange", "write", "read"].map(|name| call.text(name));
                Ok(Some(
                    json!({"exchange": exchange, "write": write, "read": read}),
                ))
            },
        },
    },
    Command {
        name: "clear_topic_permissions",
        usage: "<username> [<exchange>]",
        about: "Lets a user use all routing keys again, of one exchange or of all",
        banner: "Clearing topic permissions for user \"{username}\" in vhost \"{vhost}\" ...",
        action: Action::Own(|call, client| {
            let path = match call.has("exchange") {
                true => "topic-permissions/{vhost}/{username}/{exchange}",
                false => "topic-permissions/{vhost}/{username}",
            };
            done(
                call,
                client.ask("DELETE", &at(call, path), None, None),
                client,
            )
        }),
    },
    Command {
        name: "list_topic_permissions",
        usage: "",
        about: "Lists topic permissions of a vhost",
        banner: "Listing topic permissions for vhost \"{vhost}\" ...",
        action: Action::List {
            path: "vhosts/{vhost}/topic-permissions",
            columns: PERMISSIONS,
            shown: &["user", "exchange", "write", "read"],
        },
    },
    Command {
        name: "list_user_topic_permissions",
        usage: "<username>",
        about: "Lists topic permissions of a user",
        banner: "Listing topic permissions for user \"{username}\" ...",
        action: Action::List {
            path: "users/{username}/topic-permissions",
            columns: PERMISSIONS,
            shown: &["vhost", "exchange", "write", "read"],
        },
    },
    Command {
        name: "set_user_limits",
        usage: "<username> <definition>",
        about: "Limits a user, as in {\"max-connections\": 10, \"max-channels\": 100}; -1 is no limit",
        banner: "Setting user limits to \"{definition}\" for user \"{username}\" ...",
        action: Action::Own(|call, client| set_limits(call, client, "user-limits/{username}")),
    },
    Command {
        name: "clear_user_limits",
        usage: "<username> <limit>",
        about: "Takes a limit from a user, or `all`",
        banner: "Clearing \"{limit}\" limit for user \"{username}\" ...",
        action: Action::Own(|call, client| {
            clear_limits(call, client, "user-limits/{username}", call.text("limit"))
        }),
    },
    Command {
        name: "list_user_limits",
        usage: "[--user <username>]",
        about: "Lists limits of users",
        banner: "Listing user limits ...",
        action: Action::Own(|call, client| {
            let path = match call.get("--user") {
                Some(user) => format!("user-limits/{}", escaped(user)),
                None => "user-limits".to_owned(),
            };
            match (client.get(&path), call.get("--user")) {
                (Err(Refused::Missing), Some(user)) => Err(CtlError::NoUser(user.to_owned())),
                (answer, _) => Ok(limits(&answer?, "user")),
            }
        }),
    },
    Command {
        name: "set_vhost_limits",
        usage: "<definition>",
        about: "Limits a vhost, as in {\"max-connections\": 10, \"max-queues\": 100}; -1 is no limit",
        banner: "Setting vhost limits to \"{definition}\" for vhost \"{vhost}\" ...",
        action: Action::Own(|call, client| set_limits(call, client, "vhost-limits/{vhost}")),
    },
    Command {
        name: "clear_vhost_limits",
        usage: "",
        about: "Takes all limits from a vhost",
        banner: "Clearing vhost \"{vhost}\" limits ...",
        action: Action::Own(|call, client| {
            clear_limits(call, client, "vhost-limits/{vhost}", "all")
        }),
    },
    Command {
        name: "list_vhost_limits",
        usage: "[--global]",
        about: "Lists limits of a vhost, or of all",
        banner: "Listing limits ...",
        action: Action::Own(|call, client| {
            let path = match call.has("--global") {
                true => "vhost-limits".to_owned(),
                false => at(call, "vhost-limits/{vhost}"),
            };
            let answer = client.get(&path);
            let answer = answer.map_err(|refused| client.explain(call, refused))?;
            Ok(limits(&answer, "vhost"))
        }),
    },
];

const PERMISSIONS: &[super::Column] = &[
    ("user", "user"),
    ("vhost", "vhost"),
    ("exchange", "exchange"),
    ("configure", "configure"),
    ("write", "write"),
    ("read", "read"),
];

fn at(call: &Call, path: &str) -> String {
    call.fill(path, escaped)
}

fn done(call: &Call, answer: Result<Value, Refused>, client: &Client) -> Result<Output, CtlError> {
    answer.map_err(|refused| client.explain(call, refused))?;
    Ok(Output::Nothing)
}

/// The password of the command line, else the first line of standard input.
fn password(call: &Call) -> Result<String, CtlError> {
    if let Some(password) = call.get("password") {
        return Ok(password.to_owned());
    }
    let line = crate::commands::config::first_line(&mut io::stdin().lock());
    let line = line.map_err(|error| CtlError::Software(format!("standard input: {error}")))?;
    if line.is_empty() {
        return Err(CtlError::Usage(
            "no password: name one, or write one line to standard input".to_owned(),
        ));
    }
    Ok(line)
}

fn add_user(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let path = at(call, "users/{username}");
    match client.get(&path) {
        Err(Refused::Missing) => {}
        Err(refused) => return Err(refused.into()),
        Ok(_) => {
            let name = call.text("username");
            return Err(CtlError::Software(format!(
                "User \"{name}\" already exists"
            )));
        }
    }
    let field = match call.has("--pre-hashed-password") {
        true => "password_hash",
        false => "password",
    };
    let body = json!({field: password(call)?, "tags": ""});
    client.ask("PUT", &path, Some(&body), None)?;
    if call.options.quiet || call.options.silent {
        return Ok(Output::Nothing);
    }
    Ok(Output::Text(
        "Done. The user may use no vhost yet: see 'rabbitmqctl help set_permissions'".to_owned(),
    ))
}

/// Changes something of a user that is there, and nothing else.
fn change_user(call: &Call, client: &Client, change: Value) -> Result<Output, CtlError> {
    let path = at(call, "users/{username}");
    let known = client.get(&path);
    let known = known.map_err(|refused| client.explain(call, refused))?;
    let mut body = json!({"tags": known["tags"]});
    if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
        body.extend(change);
    }
    done(call, client.ask("PUT", &path, Some(&body), None), client)
}

fn authenticate(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let name = call.text("username");
    match client.with(name, &password(call)?).get("whoami") {
        // Whoever may not use the API is told something else than whoever is not let in.
        Err(Refused::Status(401, reason)) if reason == "Login failed" => Err(CtlError::Data(
            format!("failed to authenticate user \"{name}\""),
        )),
        Err(Refused::Status(401, _)) | Ok(_) => Ok(Output::Text("Success".to_owned())),
        Err(refused) => Err(refused.into()),
    }
}

fn hash(call: &Call, _: &Client) -> Result<Output, CtlError> {
    let hash = PasswordHash::create_rabbit(RabbitAlgorithm::Sha256, password(call)?.as_bytes());
    let (_, text) = hash
        .rabbit()
        .ok_or_else(|| CtlError::Software("the hash has no form of RabbitMQ".to_owned()))?;
    Ok(Output::Text(text))
}

fn set_limits(call: &Call, client: &Client, path: &str) -> Result<Output, CtlError> {
    let Value::Object(limits) = call.json("definition")? else {
        return Err(CtlError::Data("definition is no JSON object".to_owned()));
    };
    for (name, value) in &limits {
        let path = format!("{}/{}", at(call, path), escaped(name));
        let body = json!({ "value": value });
        done(call, client.ask("PUT", &path, Some(&body), None), client)?;
    }
    Ok(Output::Nothing)
}

fn clear_limits(call: &Call, client: &Client, path: &str, which: &str) -> Result<Output, CtlError> {
    let path = at(call, path);
    let names = match which {
        "all" => {
            let set = client.get(&path);
            let set = set.map_err(|refused| client.explain(call, refused))?;
            let value = set.pointer("/0/value").and_then(Value::as_object);
            value.map_or_else(Vec::new, |limits| limits.keys().cloned().collect())
        }
        name => vec![name.to_owned()],
    };
    for name in names {
        let path = format!("{path}/{}", escaped(&name));
        done(call, client.ask("DELETE", &path, None, None), client)?;
    }
    Ok(Output::Nothing)
}

/// Limits as rows: what is limited, and how, as JSON.
fn limits(answer: &Value, of: &str) -> Output {
    let rows = answer.as_array().into_iter().flatten();
    let rows = rows.map(|row| vec![row[of].clone(), row["value"].to_string().into()]);
    Output::Rows {
        columns: vec![of.to_owned(), "limits".to_owned()],
        rows: rows.collect(),
    }
}
