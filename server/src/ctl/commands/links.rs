//! Shovels and upstreams of federations.

use serde_json::{Value, json};

use super::{Action, Call, Command, CtlError, none};

const SHOVEL: &[super::Column] = &[
    ("name", "name"),
    ("vhost", "vhost"),
    ("type", "type"),
    ("state", "state"),
    ("forwarded", "forwarded"),
    ("src_uri", "src_uri"),
    ("dest_uri", "dest_uri"),
];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "list_shovels",
        usage: "[<column>...]",
        about: "Lists shovels and what they do",
        banner: "Listing shovels for vhost \"{vhost}\" ...",
        action: Action::List {
            path: "shovels/{vhost}",
            columns: SHOVEL,
            shown: &["name", "type", "state"],
        },
    },
    Command {
        name: "shovel_status",
        usage: "[<column>...]",
        about: "Lists all shovels and what they do",
        banner: "Shovel status ...",
        action: Action::List {
            path: "shovels",
            columns: SHOVEL,
            shown: &["name", "vhost", "type", "state"],
        },
    },
    Command {
        name: "add_shovel",
        usage: "<name> <definition>",
        about: "Sets a shovel, as in {\"src-uri\": ..., \"src-queue\": ..., \"dest-uri\": ..., \"dest-queue\": ...}",
        banner: "",
        action: Action::Do {
            method: "PUT",
            path: "parameters/shovel/{vhost}/{name}",
            body: definition,
        },
    },
    Command {
        name: "delete_shovel",
        usage: "<name>",
        about: "Deletes a shovel",
        banner: "Deleting shovel {name} on vhost {vhost} ...",
        action: Action::Do {
            method: "DELETE",
            path: "parameters/shovel/{vhost}/{name}",
            body: none,
        },
    },
    Command {
        name: "list_federations",
        usage: "",
        about: "Lists upstreams of federations",
        banner: "Listing federation upstreams for vhost \"{vhost}\" ...",
        action: Action::List {
            path: "parameters/federation-upstream/{vhost}",
            columns: &[("name", "name"), ("value", "#value")],
            shown: &["name", "value"],
        },
    },
    Command {
        name: "federation_status",
        usage: "[<column>...]",
        about: "Lists links of federations and what they do",
        banner: "Listing federation links ...",
        action: Action::List {
            path: "federation-links",
            columns: &[
                ("id", "id"),
                ("vhost", "vhost"),
                ("upstream", "upstream"),
                ("type", "type"),
                ("exchange", "exchange"),
                ("queue", "queue"),
                ("status", "status"),
                ("uri", "uri"),
                ("error", "error"),
            ],
            shown: &["id", "vhost", "upstream", "type", "status"],
        },
    },
    Command {
        name: "add_federation",
        usage: "<name> <definition>",
        about: "Sets an upstream, as in {\"uri\": \"amqp://host\"}",
        banner: "",
        action: Action::Do {
            method: "PUT",
            path: "parameters/federation-upstream/{vhost}/{name}",
            body: definition,
        },
    },
    Command {
        name: "delete_federation",
        usage: "<name>",
        about: "Deletes an upstream",
        banner: "",
        action: Action::Do {
            method: "DELETE",
            path: "parameters/federation-upstream/{vhost}/{name}",
            body: none,
        },
    },
];

fn definition(call: &Call) -> Result<Option<Value>, CtlError> {
    Ok(Some(json!({"value": call.json("definition")?})))
}
