//! Vhosts, queues, exchanges and bindings.

use serde_json::{Map, Value, json};

use super::{Action, Call, Client, Column, Command, CtlError, Output, none};
use crate::commands::client::escaped;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "add_vhost",
        usage: "[--description <text>] [--tags <tags>] [--default-queue-type <type>] <vhost>",
        about: "Creates a vhost",
        banner: "Adding vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "vhosts/{vhost}",
            body: |call| {
                let given = |switch: &str| call.get(switch);
                Ok(Some(json!({
                    "description": given("--description"),
                    "tags": given("--tags"),
                    "default_queue_type": given("--default-queue-type"),
                })))
            },
        },
    },
    Command {
        name: "delete_vhost",
        usage: "<vhost>",
        about: "Deletes a vhost with everything in it",
        banner: "Deleting vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "vhosts/{vhost}",
            body: none,
        },
    },
    Command {
        name: "list_vhosts",
        usage: "[<column>...]",
        about: "Lists vhosts",
        banner: "Listing vhosts ...",
        action: Action::List {
            path: "vhosts",
            columns: &[
                ("name", "name"),
                ("tracing", "tracing"),
                ("description", "description"),
                ("tags", "tags"),
                ("default_queue_type", "default_queue_type"),
                ("protected_from_deletion", "protected_from_deletion"),
                ("cluster_state", "cluster_state"),
            ],
            shown: &["name"],
        },
    },
    Command {
        name: "trace_on",
        usage: "",
        about: "Copies what is published and delivered in a vhost to amq.rabbitmq.trace",
        banner: "Starting tracing for vhost \"{vhost}\" ...",
        action: Action::Own(|call, client| trace(call, client, true)),
    },
    Command {
        name: "trace_off",
        usage: "",
        about: "Ends that",
        banner: "Stopping tracing for vhost \"{vhost}\" ...",
        action: Action::Own(|call, client| trace(call, client, false)),
    },
    Command {
        name: "list_queues",
        usage: "[--online] [--local] [<column>...]",
        about: "Lists queues",
        banner: "Listing queues for vhost {vhost} ...",
        action: Action::List {
            path: "queues/{vhost}",
            columns: QUEUE,
            shown: &["name", "messages"],
        },
    },
    Command {
        name: "create_queue",
        usage: "[--durable] [--auto-delete] [--stream-queue] [--reject-on-overflow] [--expires <ms>] \
            [--message-ttl <ms>] [--max-length <n>] [--delivery-limit <n>] [--dead-letter-exchange <name>] \
            [--dead-letter-routing-key <key>] <queue>",
        about: "Creates a queue",
        banner: "",
        action: Action::Do {
            method: "PUT",
            path: "queues/{vhost}/{queue}",
            body: queue,
        },
    },
    Command {
        name: "delete_queue",
        usage: "[--if-empty|-e] [--if-unused|-u] <queue>",
        about: "Deletes a queue",
        banner: "Deleting queue '{queue}' on vhost '{vhost}' ...",
        action: Action::Own(delete_queue),
    },
    Command {
        name: "purge_queue",
        usage: "<queue>",
        about: "Removes all ready messages of a queue",
        banner: "Purging queue '{queue}' in vhost '{vhost}' ...",
        action: Action::Do {
            method: "DELETE",
            path: "queues/{vhost}/{queue}/contents",
            body: none,
        },
    },
    Command {
        name: "list_exchanges",
        usage: "[<column>...]",
        about: "Lists exchanges",
        banner: "Listing exchanges for vhost {vhost} ...",
        action: Action::List {
            path: "exchanges/{vhost}",
            columns: &[
                ("name", "name"),
                ("type", "type"),
                ("durable", "durable"),
                ("auto_delete", "auto_delete"),
                ("internal", "internal"),
                ("arguments", "arguments"),
                ("policy", "policy"),
            ],
            shown: &["name", "type"],
        },
    },
    Command {
        name: "create_exchange",
        usage: "[--durable] [--auto-delete] [--internal] [--delayed] [--alternate-exchange <name>] <type> <exchange>",
        about: "Creates an exchange",
        banner: "",
        action: Action::Do {
            method: "PUT",
            path: "exchanges/{vhost}/{exchange}",
            body: exchange,
        },
    },
    Command {
        name: "delete_exchange",
        usage: "<exchange>",
        about: "Deletes an exchange",
        banner: "",
        action: Action::Do {
            method: "DELETE",
            path: "exchanges/{vhost}/{exchange}",
            body: none,
        },
    },
    Command {
        name: "list_bindings",
        usage: "[<column>...]",
        about: "Lists bindings",
        banner: "Listing bindings for vhost {vhost} ...",
        action: Action::List {
            path: "bindings/{vhost}",
            columns: &[
                ("source_name", "source"),
                ("source_kind", "=exchange"),
                ("destination_name", "destination"),
                ("destination_kind", "destination_type"),
                ("routing_key", "routing_key"),
                ("arguments", "arguments"),
            ],
            shown: &[
                "source_name",
                "source_kind",
                "destination_name",
                "destination_kind",
                "routing_key",
                "arguments",
            ],
        },
    },
];

const QUEUE: &[Column] = &[
    ("name", "name"),
    ("type", "type"),
    ("durable", "durable"),
    ("auto_delete", "auto_delete"),
    ("exclusive", "exclusive"),
    ("arguments", "arguments"),
    ("policy", "policy"),
    ("operator_policy", "operator_policy"),
    ("effective_policy_definition", "effective_policy_definition"),
    ("state", "state"),
    ("messages", "messages"),
    ("messages_ready", "messages_ready"),
    ("messages_unacknowledged", "messages_unacknowledged"),
    ("messages_persistent", "messages_persistent"),
    ("messages_ram", "messages_ram"),
    ("message_bytes", "message_bytes"),
    ("message_bytes_ready", "message_bytes_ready"),
    (
        "message_bytes_unacknowledged",
        "message_bytes_unacknowledged",
    ),
    ("message_bytes_persistent", "message_bytes_persistent"),
    ("message_bytes_ram", "message_bytes_ram"),
    ("head_message_timestamp", "head_message_timestamp"),
    ("consumers", "consumers"),
    ("consumer_utilisation", "consumer_utilisation"),
    ("consumer_capacity", "consumer_capacity"),
    ("exclusive_consumer_tag", "exclusive_consumer_tag"),
    ("single_active_consumer_tag", "single_active_consumer_tag"),
    ("memory", "memory"),
    ("leader", "leader"),
    ("members", "members"),
    ("online", "online"),
    ("owner_pid", "owner_pid_details.name"),
];

fn at(call: &Call, path: &str) -> String {
    call.fill(path, escaped)
}

/// Tracing of a vhost that is there: a vhost is not made by this.
fn trace(call: &Call, client: &Client, on: bool) -> Result<Output, CtlError> {
    let path = at(call, "vhosts/{vhost}");
    let body = json!({ "tracing": on });
    client
        .get(&path)
        .and_then(|_| client.ask("PUT", &path, Some(&body), None))
        .map_err(|refused| client.explain(call, refused))?;
    Ok(Output::Nothing)
}

fn delete_queue(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let path = at(call, "queues/{vhost}/{queue}");
    let missing = |refused| client.explain(call, refused);
    let known = client.get(&path).map_err(missing)?;
    let conditions = ["if-empty", "if-unused"];
    let given = conditions.map(|name| call.has(&format!("--{name}")));
    let query = format!("{path}?if-empty={}&if-unused={}", given[0], given[1]);
    client.ask("DELETE", &query, None, None).map_err(missing)?;
    let ready = known["messages_ready"].as_u64().unwrap_or(0);
    Ok(Output::Text(format!(
        "Queue was successfully deleted with {ready} ready messages"
    )))
}

fn queue(call: &Call) -> Result<Option<Value>, CtlError> {
    let mut arguments = Map::new();
    for (switch, argument) in [
        ("--expires", "x-expires"),
        ("--message-ttl", "x-message-ttl"),
        ("--max-length", "x-max-length"),
        ("--delivery-limit", "x-delivery-limit"),
    ] {
        if let Some(number) = call.integer(switch)? {
            arguments.insert(argument.to_owned(), number.into());
        }
    }
    for (switch, argument) in [
        ("--dead-letter-exchange", "x-dead-letter-exchange"),
        ("--dead-letter-routing-key", "x-dead-letter-routing-key"),
    ] {
        if let Some(text) = call.get(switch) {
            arguments.insert(argument.to_owned(), text.into());
        }
    }
    if call.has("--reject-on-overflow") {
        arguments.insert("x-overflow".to_owned(), "reject-publish".into());
    }
    if call.has("--stream-queue") {
        arguments.insert("x-queue-type".to_owned(), "stream".into());
    }
    Ok(Some(json!({
        "durable": call.has("--durable"),
        "auto_delete": call.has("--auto-delete"),
        "arguments": arguments,
    })))
}

fn exchange(call: &Call) -> Result<Option<Value>, CtlError> {
    let mut arguments = Map::new();
    let mut kind = call.text("type");
    if call.has("--delayed") {
        arguments.insert("x-delayed-type".to_owned(), kind.into());
        kind = "x-delayed-message";
    }
    if let Some(name) = call.get("--alternate-exchange") {
        arguments.insert("alternate-exchange".to_owned(), name.into());
    }
    Ok(Some(json!({
        "type": kind,
        "durable": call.has("--durable"),
        "auto_delete": call.has("--auto-delete"),
        "internal": call.has("--internal"),
        "arguments": arguments,
    })))
}
