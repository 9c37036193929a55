//! Who is connected, and the server itself.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Action, Call, Client, Command, CtlError, Output, none};
use crate::commands::client::escaped;
use crate::ctl::client::Refused;

/// How long a server is waited for, unless told.
const STARTUP: Duration = Duration::from_secs(300);
/// Time between two looks whether it is there.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "list_connections",
        usage: "[<column>...]",
        about: "Lists connections",
        banner: "Listing connections ...",
        action: Action::List {
            path: "connections",
            columns: &[
                ("pid", "pid"),
                ("name", "name"),
                ("user", "user"),
                ("vhost", "vhost"),
                ("host", "host"),
                ("port", "port"),
                ("peer_host", "peer_host"),
                ("peer_port", "peer_port"),
                ("protocol", "protocol"),
                ("auth_mechanism", "auth_mechanism"),
                ("state", "state"),
                ("channels", "channels"),
                ("channel_max", "channel_max"),
                ("frame_max", "frame_max"),
                ("timeout", "timeout"),
                ("client_properties", "client_properties"),
                ("user_provided_name", "user_provided_name"),
                ("connected_at", "connected_at"),
                ("recv_oct", "recv_oct"),
                ("send_oct", "send_oct"),
                ("ssl", "ssl"),
                ("ssl_protocol", "ssl_protocol"),
                ("ssl_cipher", "ssl_cipher"),
                ("ssl_hash", "ssl_hash"),
                ("ssl_key_exchange", "ssl_key_exchange"),
                ("peer_cert_subject", "peer_cert_subject"),
                ("peer_cert_issuer", "peer_cert_issuer"),
                ("peer_cert_validity", "peer_cert_validity"),
            ],
            shown: &["user", "peer_host", "peer_port", "state"],
        },
    },
    Command {
        name: "list_channels",
        usage: "[<column>...]",
        about: "Lists channels",
        banner: "Listing channels ...",
        action: Action::List {
            path: "channels",
            columns: &[
                ("pid", "name"),
                ("name", "name"),
                ("connection", "connection_details.name"),
                ("number", "number"),
                ("user", "user"),
                ("vhost", "vhost"),
                ("transactional", "transactional"),
                ("confirm", "confirm"),
                ("consumer_count", "consumer_count"),
                ("messages_unacknowledged", "messages_unacknowledged"),
                ("messages_uncommitted", "messages_uncommitted"),
                ("acks_uncommitted", "acks_uncommitted"),
                ("messages_unconfirmed", "messages_unconfirmed"),
                ("prefetch_count", "prefetch_count"),
                ("global_prefetch_count", "global_prefetch_count"),
                ("state", "state"),
            ],
            shown: &["pid", "user", "consumer_count", "messages_unacknowledged"],
        },
    },
    Command {
        name: "list_consumers",
        usage: "[<column>...]",
        about: "Lists consumers",
        banner: "Listing consumers in vhost {vhost} ...",
        action: Action::List {
            path: "consumers/{vhost}",
            columns: &[
                ("queue_name", "queue.name"),
                ("channel_pid", "channel_details.name"),
                ("consumer_tag", "consumer_tag"),
                ("ack_required", "ack_required"),
                ("prefetch_count", "prefetch_count"),
                ("active", "active"),
                ("activity_status", "activity_status"),
                ("exclusive", "exclusive"),
                ("arguments", "arguments"),
            ],
            shown: &[
                "queue_name",
                "channel_pid",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
                "active",
                "arguments",
            ],
        },
    },
    Command {
        name: "close_connection",
        usage: "<connection> <explanation>",
        about: "Closes a connection, by its pid or its name",
        banner: "Closing connection {connection}, reason: {explanation}...",
        action: Action::Own(close),
    },
    Command {
        name: "close_all_connections",
        usage: "[--global] [--limit <n>] <explanation>",
        about: "Closes the connections of a vhost, or all",
        banner: "",
        action: Action::Own(close_all),
    },
    Command {
        name: "ping",
        usage: "",
        about: "Says whether the server answers",
        banner: "Will ping the server ...",
        action: Action::Own(|_, client| {
            client.get("whoami")?;
            Ok(Output::Text("Ping succeeded".to_owned()))
        }),
    },
    Command {
        name: "await_startup",
        usage: "",
        about: "Waits until the server answers, for --timeout seconds at most [300]",
        banner: "",
        action: Action::Own(await_startup),
    },
    Command {
        name: "version",
        usage: "",
        about: "Prints the version of this program; asks no server",
        banner: "",
        action: Action::Own(|_, _| Ok(Output::Text(env!("CARGO_PKG_VERSION").to_owned()))),
    },
    Command {
        name: "status",
        usage: "",
        about: "Shows the server, what it holds and what is in use",
        banner: "",
        action: Action::Own(status),
    },
    Command {
        name: "cluster_status",
        usage: "",
        about: "Shows the cluster: of one node",
        banner: "",
        action: Action::Own(cluster_status),
    },
    Command {
        name: "set_cluster_name",
        usage: "<name>",
        about: "Gives the cluster a name",
        banner: "Setting cluster name to {name} ...",
        action: Action::Do {
            method: "PUT",
            path: "cluster-name",
            body: |call| Ok(Some(json!({"name": call.text("name")}))),
        },
    },
    Command {
        name: "list_feature_flags",
        usage: "[<column>...]",
        about: "Lists feature flags",
        banner: "Listing feature flags ...",
        action: Action::List {
            path: "feature-flags",
            columns: &[
                ("name", "name"),
                ("state", "state"),
                ("stability", "stability"),
                ("provided_by", "provided_by"),
            ],
            shown: &["name", "state"],
        },
    },
    Command {
        name: "enable_feature_flag",
        usage: "<name>",
        about: "Checks that a feature, or `all`, is on: all there are always are",
        banner: "Enabling feature flag \"{name}\" ...",
        action: Action::Do {
            method: "PUT",
            path: "feature-flags/{name}/enable",
            body: none,
        },
    },
];

fn end(client: &Client, name: &str, explanation: &str) -> Result<(), Refused> {
    let path = format!("connections/{}", escaped(name));
    client
        .ask("DELETE", &path, None, Some(explanation))
        .map(|_| ())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn close(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let wanted = call.text("connection");
    let open = client.get("connections")?;
    let mut open = items(&open).filter(|known| known["pid"] == wanted || known["name"] == wanted);
    let missing = || CtlError::Data(format!("no connection is called '{wanted}'"));
    let name = open.next().and_then(|known| known["name"].as_str());
    match end(client, name.ok_or_else(missing)?, call.text("explanation")) {
        Err(Refused::Missing) => Err(missing()),
        Err(refused) => Err(refused.into()),
        Ok(()) => Ok(Output::Nothing),
    }
}

fn close_all(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let path = match call.has("--global") {
        true => "connections".to_owned(),
        false => call.fill("vhosts/{vhost}/connections", escaped),
    };
    let open = client.get(&path);
    let open = open.map_err(|refused| client.explain(call, refused))?;
    let limit = match call.integer("--limit")? {
        // As with rabbitmqctl: none.
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit)
            .map_err(|_| CtlError::Data("--limit takes no negative number".to_owned()))?,
    };
    let mut closed = 0;
    for name in items(&open)
        .filter_map(|known| known["name"].as_str())
        .take(limit)
    {
        match end(client, name, call.text("explanation")) {
            Ok(()) => closed += 1,
            // It has gone by itself.
            Err(Refused::Missing) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(Output::Text(format!("Closed {closed} connections")))
}

fn await_startup(call: &Call, client: &Client) -> Result<Output, CtlError> {
    let patience = call.options.timeout_s.map_or(STARTUP, Duration::from_secs);
    let began = Instant::now();
    loop {
        match client.get("whoami") {
            Err(Refused::Silent(CtlError::Unavailable(_))) if began.elapsed() < patience => {
                thread::sleep(BETWEEN_LOOKS);
            }
            Err(refused) => return Err(refused.into()),
            Ok(_) => return Ok(Output::Nothing),
        }
    }
}

fn status(_: &Call, client: &Client) -> Result<Output, CtlError> {
    let overview = client.get("overview")?;
    let nodes = client.get("nodes")?;
    let of = |path: &str| overview.pointer(path).cloned().unwrap_or_default();
    let node = |name: &str| nodes[0][name].clone();
    let listeners = overview["listeners"].as_array().into_iter().flatten();
    let listeners: Vec<_> = listeners
        .map(|known| {
            let (protocol, port) = (known["protocol"].as_str(), &known["port"]);
            format!("{}:{port}", protocol.unwrap_or_default())
        })
        .collect();
    Ok(Output::Facts(vec![
        ("Node", of("/node")),
        ("Product name", of("/product_name")),
        ("RabbitMQ version", of("/rabbitmq_version")),
        ("Longtail version", of("/longtail_version")),
        ("OS PID", node("os_pid")),
        ("Uptime", node("uptime")),
        ("Memory", node("mem_used")),
        ("Memory alarm", node("mem_alarm")),
        ("Disk free", node("disk_free")),
        ("Disk alarm", node("disk_free_alarm")),
        ("File descriptors", node("fd_used")),
        ("Connections", of("/object_totals/connections")),
        ("Channels", of("/object_totals/channels")),
        ("Consumers", of("/object_totals/consumers")),
        ("Exchanges", of("/object_totals/exchanges")),
        ("Queues", of("/object_totals/queues")),
        ("Messages", of("/queue_totals/messages")),
        ("Messages ready", of("/queue_totals/messages_ready")),
        (
            "Messages unacknowledged",
            of("/queue_totals/messages_unacknowledged"),
        ),
        ("Listeners", json!(listeners)),
    ]))
}

fn cluster_status(_: &Call, client: &Client) -> Result<Output, CtlError> {
    let name = client.get("cluster-name")?;
    let nodes = client.get("nodes")?;
    let names = |running: bool| -> Value {
        let nodes = items(&nodes).filter(|node| !running || node["running"] == true);
        nodes.map(|node| node["name"].clone()).collect()
    };
    let alarms: Vec<_> = items(&nodes)
        .flat_map(|node| {
            let is_set = |name: &&str| node[*name] == true;
            ["mem_alarm", "disk_free_alarm"].into_iter().filter(is_set)
        })
        .collect();
    Ok(Output::Facts(vec![
        ("Cluster name", name["name"].clone()),
        ("Disk nodes", names(false)),
        ("Running nodes", names(true)),
        ("Alarms", json!(alarms)),
    ]))
}
