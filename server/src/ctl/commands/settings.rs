//! Policies, parameters and definitions.

use std::fs;
use std::io::{self, Read};

use serde_json::{Value, json};

use super::{Action, Call, Client, Column, Command, CtlError, Output, none, value};
use crate::commands::client::escaped;

const POLICY_USAGE: &str =
    "[--priority <priority>] [--apply-to <what>] <name> <pattern> <definition>";

const POLICY: &[Column] = &[
    ("vhost", "vhost"),
    ("name", "name"),
    ("pattern", "pattern"),
    ("apply-to", "apply-to"),
    ("definition", "#definition"),
    ("priority", "priority"),
];

const POLICY_SHOWN: &[&str] = &[
    "vhost",
    "name",
    "pattern",
    "apply-to",
    "definition",
    "priority",
];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "set_policy",
        usage: POLICY_USAGE,
        about: "Sets a policy; it applies to queues, exchanges or all",
        banner: "Setting policy \"{name}\" for pattern \"{pattern}\" to \"{definition}\" for vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "policies/{vhost}/{name}",
            body: |call| policy(call, "all"),
        },
    },
    Command {
        name: "clear_policy",
        usage: "<name>",
        about: "Deletes a policy",
        banner: "Clearing policy \"{name}\" on vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "policies/{vhost}/{name}",
            body: none,
        },
    },
    Command {
        name: "list_policies",
        usage: "",
        about: "Lists policies",
        banner: "Listing policies for vhost \"{vhost}\" ...",
        action: Action::List {
            path: "policies/{vhost}",
            columns: POLICY,
            shown: POLICY_SHOWN,
        },
    },
    Command {
        name: "set_operator_policy",
        usage: POLICY_USAGE,
        about: "Sets an operator policy: what it says, policies and arguments cannot exceed",
        banner: "Setting operator policy override \"{name}\" for pattern \"{pattern}\" to \"{definition}\" for vhost \
            \"{vhost}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "operator-policies/{vhost}/{name}",
            body: |call| policy(call, "queues"),
        },
    },
    Command {
        name: "clear_operator_policy",
        usage: "<name>",
        about: "Deletes an operator policy",
        banner: "Clearing operator policy \"{name}\" on vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "operator-policies/{vhost}/{name}",
            body: none,
        },
    },
    Command {
        name: "list_operator_policies",
        usage: "",
        about: "Lists operator policies",
        banner: "Listing operator policy overrides for vhost \"{vhost}\" ...",
        action: Action::List {
            path: "operator-policies/{vhost}",
            columns: POLICY,
            shown: POLICY_SHOWN,
        },
    },
    Command {
        name: "set_parameter",
        usage: "<component> <name> <value>",
        about: "Sets a parameter of a component, such as shovel or federation-upstream, as JSON",
        banner: "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{value}\" in vhost \
            \"{vhost}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "parameters/{component}/{vhost}/{name}",
            body: value,
        },
    },
    Command {
        name: "clear_parameter",
        usage: "<component> <name>",
        about: "Deletes a parameter",
        banner: "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{vhost}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "parameters/{component}/{vhost}/{name}",
            body: none,
        },
    },
    Command {
        name: "list_parameters",
        usage: "",
        about: "Lists parameters",
        banner: "Listing runtime parameters for vhost \"{vhost}\" ...",
        action: Action::Own(|call, client| {
            let all = client.get("parameters");
            let all = all.map_err(|refused| client.explain(call, refused))?;
            parameters(call, &all)
        }),
    },
    Command {
        name: "set_global_parameter",
        usage: "<name> <value>",
        about: "Sets a global parameter, as JSON",
        banner: "Setting global runtime parameter \"{name}\" to \"{value}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "global-parameters/{name}",
            body: value,
        },
    },
    Command {
        name: "clear_global_parameter",
        usage: "<name>",
        about: "Deletes a global parameter",
        banner: "Clearing global runtime parameter \"{name}\" ...",
        action: Action::Do {
            method: "DELETE",
            path: "global-parameters/{name}",
            body: none,
        },
    },
    Command {
        name: "list_global_parameters",
        usage: "",
        about: "Lists global parameters",
        banner: "Listing global runtime parameters ...",
        action: Action::List {
            path: "global-parameters",
            columns: &[("name", "name"), ("value", "#value")],
            shown: &["name", "value"],
        },
    },
    Command {
        name: "export_definitions",
        usage: "[<file>]",
        about: "Writes all definitions, or with -p those of a vhost, to a file; `-` or none is standard output",
        banner: "",
        action: Action::Own(export),
    },
    Command {
        name: "import_definitions",
        usage: "[<file>]",
        about: "Reads definitions, with -p into a vhost, from a file; `-` or none is standard input",
        banner: "",
        action: Action::Own(import),
    },
];

fn policy(call: &Call, applied: &str) -> Result<Option<Value>, CtlError> {
    Ok(Some(json!({
        "pattern": call.text("pattern"),
        "definition": call.json("definition")?,
        "priority": call.integer("--priority")?.unwrap_or(0),
        "apply-to": call.get("--apply-to").unwrap_or(applied),
    })))
}

/// The parameters of the vhost. The server lists those of a component only by its name.
fn parameters(call: &Call, all: &Value) -> Result<Output, CtlError> {
    let all = all.as_array().into_iter().flatten();
    let of_vhost = all.filter(|known| known["vhost"] == call.vhost());
    let of_vhost = of_vhost.cloned().collect();
    let columns = [
        ("component", "component"),
        ("name", "name"),
        ("value", "#value"),
    ];
    Ok(crate::ctl::rows(&of_vhost, &columns))
}

/// `definitions`, or those of the vhost that was named.
fn path(call: &Call) -> String {
    match &call.options.vhost {
        Some(vhost) => format!("definitions/{}", escaped(vhost)),
        None => "definitions".to_owned(),
    }
}

fn file(call: &Call) -> Option<&str> {
    call.get("file").filter(|file| *file != "-")
}

fn export(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let definitions = client.get(&path(call));
    let definitions = definitions.map_err(|refused| client.explain(call, refused))?;
    let Some(file) = file(call) else {
        return Ok(Output::Document(definitions));
    };
    fs::write(file, format!("{definitions:#}\n"))
        .map_err(|error| CtlError::Data(format!("{file}: {error}")))?;
    Ok(Output::Nothing)
}

fn import(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let mut text = String::new();
    let read = match file(call) {
        Some(file) => fs::read_to_string(file).map(|read| text = read),
        None => io::stdin().lock().read_to_string(&mut text).map(|_| ()),
    };
    let from = file(call).unwrap_or("standard input");
    read.map_err(|error| CtlError::Data(format!("{from}: {error}")))?;
    let definitions: Value = serde_json::from_str(&text)
        .map_err(|error| CtlError::Data(format!("{from} is no JSON: {error}")))?;
    client
        .ask("POST", &path(call), Some(&definitions), None)
        .map_err(|refused| client.explain(call, refused))?;
    Ok(Output::Nothing)
}
