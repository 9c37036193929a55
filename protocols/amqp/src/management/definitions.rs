//! `/definitions`: everything that is defined, in RabbitMQ's format, out and in.
//!
//! An import does what it can: an entry that this server cannot have, or that is there with other arguments, is skipped
//! and named in the log. What is there already is left as it is, so that a file can be imported again.

use std::sync::Arc;

use longtail_broker::auth::Grants;
use serde_json::{Map, Value, json};

use super::bindings::made;
use super::direct::Direct;
use super::fields;
use super::http::{Asked, Failed, Reply};
use super::{Management, parameters, permissions, policies, queues, users, vhosts};
use crate::codec::Method;
use crate::graph::Destination;
use crate::json as convert;

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// Entries that are there now.
    pub done: usize,
    /// Entries that were skipped, and why.
    pub skipped: Vec<String>,
}

/// A file is no file of definitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no definitions: {0}")]
pub struct ImportError(pub String);

pub(super) async fn export(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let vhosts = m.of(asked, vhost)?;
    let mut document = Map::new();
    let version = m.advertised();
    let format = if vhost.is_some() {
        "single_virtual_host"
    } else {
        "cluster"
    };
    for (key, value) in [
        ("rabbit_version", json!(version)),
        ("rabbitmq_version", json!(version)),
        ("product_name", json!(m.tenant.config().product)),
        ("product_version", json!(version)),
        ("rabbitmq_definition_format", json!(format)),
        (
            "original_cluster_name",
            json!(parameters::name_of_cluster(m)),
        ),
        (
            "explanation",
            json!(format!(
                "Definitions of {format} '{}'",
                parameters::name_of_cluster(m)
            )),
        ),
    ] {
        document.insert(key.to_owned(), value);
    }
    if vhost.is_none() {
        cluster(m, &vhosts, &mut document);
    }
    let (mut all_parameters, mut all_policies) = (Vec::new(), Vec::new());
    let (mut all_queues, mut all_exchanges, mut all_bindings) =
        (Vec::new(), Vec::new(), Vec::new());
    for (name, space) in &vhosts {
        all_parameters.extend(parameters::of_space(m, name, space));
        let policies = m.tenant.policies().list(space, false);
        all_policies.extend(policies.iter().map(|policy| policies::shown(name, policy)));
        let topology = m.topology_of(space).await?;
        let graph = topology.graph();
        let mut queues: Vec<_> = graph.queues().cloned().collect();
        queues.retain(|queue| queue.config.owner.is_none());
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        for queue in queues {
            all_queues.push(json!({
                "name": *queue.name, "vhost": **name, "type": queues::kind(&queue),
                "durable": queue.config.durable, "auto_delete": queue.config.auto_delete,
                "arguments": convert::from_bytes(&queue.config.arguments),
            }));
        }
        let mut exchanges: Vec<_> = graph
            .exchanges()
            .filter(|(name, _)| !name.starts_with("amq."))
            .collect();
        exchanges.sort_by(|a, b| a.0.cmp(b.0));
        for (exchange, known) in exchanges {
            let config = &known.config;
            all_exchanges.push(json!({
                "name": **exchange, "vhost": **name, "type": config.type_name(),
                "durable": config.durable, "auto_delete": config.auto_delete,
                "internal": config.internal, "arguments": convert::from_bytes(&config.arguments),
            }));
        }
        for (source, key, binding) in made(&graph) {
            let (destination, kind) = match &binding.destination {
                Destination::Queue(queue) => (queue, "queue"),
                Destination::Exchange(exchange) => (exchange, "exchange"),
            };
            let exclusive = kind == "queue"
                && graph
                    .queue(destination)
                    .is_some_and(|queue| queue.config.owner.is_some());
            if !exclusive {
                all_bindings.push(json!({
                    "source": *source, "vhost": **name, "destination": **destination,
                    "destination_type": kind, "routing_key": *key,
                    "arguments": convert::from_bytes(&binding.arguments),
                }));
            }
        }
    }
    for (key, mut list) in [
        ("parameters", all_parameters),
        ("policies", all_policies),
        ("queues", all_queues),
        ("exchanges", all_exchanges),
        ("bindings", all_bindings),
    ] {
        if vhost.is_some() {
            for entry in &mut list {
                if let Value::Object(entry) = entry {
                    entry.remove("vhost");
                }
            }
        }
        document.insert(key.to_owned(), Value::Array(list));
    }
    let document = Value::Object(document);
    Ok(match asked.query.get("download") {
        Some(name) if !name.is_empty() => Reply::File(name.to_owned(), document),
        _ => Reply::Json(document),
    })
}

/// What is not of one vhost.
fn cluster(m: &Management, vhosts: &[(Arc<str>, Arc<str>)], document: &mut Map<String, Value>) {
    // Nobody else can do anything with a hash that neither RabbitMQ nor LavinMQ has made, and the guest of this machine
    // is nobody's.
    let foreign = |account: &longtail_broker::auth::Account| {
        let hash = account.password.as_ref();
        hash.is_some_and(|hash| hash.rabbit().is_none() && hash.bcrypt().is_none())
    };
    let guest = m.roster.guest();
    let is_guest = |name: &Value| guest.as_ref().is_some_and(|guest| *name == *guest.name);
    let mut accounts = users::all(m);
    accounts.retain(|account| !foreign(account) && !is_guest(&json!(account.name)));
    let known = |value: &Value| {
        accounts
            .iter()
            .any(|account| value["user"] == *account.name)
    };
    let (mut names, mut topics) = permissions::export(m);
    names.retain(known);
    topics.retain(known);
    let list = vhosts.iter().map(|(vhost, space)| {
        let metadata = vhosts::metadata(m, space);
        json!({
            "name": **vhost, "description": metadata.description, "tags": metadata.tags,
            "default_queue_type": metadata.queue_type().unwrap_or_default().name(),
            "metadata": {
                "description": metadata.description, "tags": metadata.tags,
                "default_queue_type": metadata.queue_type().unwrap_or_default().name(),
            },
            "limits": [],
        })
    });
    document.insert("vhosts".to_owned(), list.collect());
    document.insert(
        "users".to_owned(),
        accounts.iter().map(users::shown).collect(),
    );
    document.insert("permissions".to_owned(), names.into());
    document.insert("topic_permissions".to_owned(), topics.into());
    let globals = parameters::all_globals(m);
    document.insert("global_parameters".to_owned(), globals.into());
}

pub(super) async fn import(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    if let Some(vhost) = vhost {
        m.enter(asked, vhost)?;
    }
    let text = body(asked)?;
    let imported = m.import_as(&text, vhost, parameters::author(asked)).await;
    imported.map_err(|error| Failed::bad(error.to_string()))?;
    Ok(Reply::Done)
}

/// The file, alone or as the part of a form that a browser sends.
fn body(asked: &Asked) -> Result<Vec<u8>, Failed> {
    let kind = asked.header("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind
        .starts_with("multipart/form-data")
        .then(|| kind.split_once("boundary="))
        .flatten()
    else {
        return Ok(asked.body.to_vec());
    };
    let boundary = format!("--{}", boundary.trim_matches('"'));
    let text = String::from_utf8_lossy(&asked.body);
    let mut parts = text.split(boundary.as_str());
    let file = parts.find_map(|part| {
        let (head, body) = part.split_once("\r\n\r\n")?;
        head.contains("name=\"file\"")
            .then(|| body.trim_end_matches("\r\n").as_bytes().to_vec())
    });
    file.ok_or_else(|| Failed::bad("the form has no part 'file'"))
}

/// An entry of a list, in words.
fn named(kind: &str, entry: &Map<String, Value>) -> String {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("?");
    match kind {
        "bindings" => format!(
            "the binding from '{}' to '{}' in vhost '{}'",
            text("source"),
            text("destination"),
            text("vhost")
        ),
        "permissions" | "topic_permissions" => {
            format!("{kind} of '{}' for vhost '{}'", text("user"), text("vhost"))
        }
        "users" | "vhosts" | "global_parameters" => format!("{kind} '{}'", text("name")),
        _ => format!("{kind} '{}' in vhost '{}'", text("name"), text("vhost")),
    }
}

/// In which order: what comes later may need what comes before.
const ORDER: &[&str] = &[
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "exchanges",
    "queues",
    "bindings",
];

impl Management {
    /// Defines what a file says, for all vhosts or into one.
    ///
    /// # Errors
    /// When it is no file of definitions. Single entries that cannot be had are skipped.
    pub async fn import(&self, text: &[u8], vhost: Option<&str>) -> Result<Import, ImportError> {
        self.import_as(text, vhost, None).await
    }

    /// The same for a user, by whom shovels will be; `None`: they may do everything.
    async fn import_as(
        &self,
        text: &[u8],
        vhost: Option<&str>,
        user: Option<String>,
    ) -> Result<Import, ImportError> {
        let document: Value =
            serde_json::from_slice(text).map_err(|error| ImportError(error.to_string()))?;
        let Value::Object(document) = document else {
            return Err(ImportError("not an object".to_owned()));
        };
        for key in ORDER {
            if document.get(*key).is_some_and(|list| !list.is_array()) {
                return Err(ImportError(format!("{key} is not a list")));
            }
        }
        let _large = self.large.lock().await;
        let mut import = Import::default();
        let mut direct: Option<(String, Direct)> = None;
        for &kind in ORDER {
            if vhost.is_some()
                && matches!(
                    kind,
                    "users" | "vhosts" | "permissions" | "topic_permissions" | "global_parameters"
                )
            {
                continue;
            }
            let entries = document.get(kind).and_then(Value::as_array);
            for entry in entries.into_iter().flatten() {
                let mut entry = match entry {
                    Value::Object(entry) => entry.clone(),
                    _ => Map::new(),
                };
                if let Some(vhost) = vhost {
                    entry.insert("vhost".to_owned(), vhost.into());
                }
                match self.define(kind, &entry, &user, &mut direct).await {
                    Ok(()) => import.done += 1,
                    Err(failed) => {
                        let why = format!("{}: {}", named(kind, &entry), failed.reason);
                        tracing::warn!("definitions: skipped {why}");
                        import.skipped.push(why);
                    }
                }
            }
        }
        Ok(import)
    }

    async fn define(
        &self,
        kind: &str,
        entry: &Map<String, Value>,
        user: &Option<String>,
        direct: &mut Option<(String, Direct)>,
    ) -> Result<(), Failed> {
        let needed = |key: &str| {
            let found = fields::text(entry, key)?;
            found.ok_or_else(|| Failed::bad(format!("{key} is missing")))
        };
        match kind {
            "users" => {
                let name = needed("name")?;
                users::make(self, name, entry).await?;
                return Ok(());
            }
            "vhosts" => {
                let mut entry = entry.clone();
                if let Some(Value::Object(metadata)) = entry.get("metadata").cloned() {
                    for (key, value) in metadata {
                        entry.entry(key).or_insert(value);
                    }
                }
                let name = needed("name")?;
                vhosts::make(self, name, &entry).await?;
                let space = self.tenant.space_of(name);
                if let Some(Value::Object(limits)) = entry.get("limits") {
                    let value = Value::Object(limits.clone());
                    let limits = ("vhost-limits", "limits");
                    parameters::set(self, &space, limits, &value, None).await?;
                }
                return Ok(());
            }
            "global_parameters" => {
                let value = entry.get("value").unwrap_or(&Value::Null);
                parameters::put_global(self, needed("name")?, value).await?;
                return Ok(());
            }
            _ => {}
        }
        let vhost = needed("vhost")?;
        let space = self.tenant.space_of(vhost);
        if self.roster.directory().space(&space).is_none() {
            return Err(Failed::bad(format!("there is no vhost '{vhost}'")));
        }
        match kind {
            "permissions" => {
                permissions::grant(self, &space, needed("user")?, entry).await?;
            }
            "topic_permissions" => {
                permissions::grant_topic(self, &space, needed("user")?, entry).await?;
            }
            "parameters" => {
                let value = entry.get("value").unwrap_or(&Value::Null);
                let which = (needed("component")?, needed("name")?);
                parameters::set(self, &space, which, value, user.clone()).await?;
            }
            "policies" => {
                let policy = policies::read(needed("name")?, entry)?;
                policies::set(self, &space, policy, false).await?;
            }
            _ => return self.declare(kind, vhost, entry, direct).await,
        }
        Ok(())
    }

    /// What any client could do, done as one that may do everything.
    async fn declare(
        &self,
        kind: &str,
        vhost: &str,
        entry: &Map<String, Value>,
        direct: &mut Option<(String, Direct)>,
    ) -> Result<(), Failed> {
        let text = |key: &str| fields::text(entry, key).map(Option::unwrap_or_default);
        let flag = |key: &str| fields::flag(entry, key).map(Option::unwrap_or_default);
        let mut arguments = fields::table(entry, "arguments")?;
        let (name, source) = (text("name")?, text("source")?);
        if kind == "queues"
            && let Some(of) = fields::text(entry, "type")?.filter(|of| *of != "classic")
        {
            arguments.entry("x-queue-type").or_insert_with(|| of.into());
        }
        let arguments = convert::to_table(&arguments)
            .map_err(|error| Failed::bad(format!("arguments: {error}")))?;
        let (destination, key) = (text("destination")?, text("routing_key")?);
        let (ticket, no_wait, passive) = (0, false, false);
        let method = match (kind, text("destination_type")?) {
            ("queues", _) => Method::QueueDeclare {
                ticket,
                queue: name,
                passive,
                durable: flag("durable")?,
                exclusive: false,
                auto_delete: flag("auto_delete")?,
                no_wait,
                arguments: arguments.as_table(),
            },
            ("exchanges", _) => Method::ExchangeDeclare {
                ticket,
                exchange: name,
                kind: text("type")?,
                passive,
                durable: flag("durable")?,
                auto_delete: flag("auto_delete")?,
                internal: flag("internal")?,
                no_wait,
                arguments: arguments.as_table(),
            },
            ("bindings", "queue") => Method::QueueBind {
                ticket,
                queue: destination,
                exchange: source,
                routing_key: key,
                no_wait,
                arguments: arguments.as_table(),
            },
            ("bindings", "exchange") => Method::ExchangeBind {
                ticket,
                destination,
                source,
                routing_key: key,
                no_wait,
                arguments: arguments.as_table(),
            },
            _ => return Err(Failed::bad("destination_type must be queue or exchange")),
        };
        let is_open = direct.as_ref().is_some_and(|(open, _)| open == vhost);
        if !is_open {
            let grants = Grants::everything();
            let opened = Direct::open(&self.door, "definitions", vhost, grants).await;
            *direct = Some((vhost.to_owned(), opened.map_err(Failed::from)?));
        }
        let Some((_, open)) = direct else {
            return Err(Failed::internal("no connection"));
        };
        let said = open.call(&method).await;
        said.map_err(|exception| {
            // Its channel is closed.
            *direct = None;
            match Failed::from(exception.clone()) {
                failed if failed.status == 404 => Failed::bad(exception.reply_text()),
                failed => failed,
            }
        })
    }
}
