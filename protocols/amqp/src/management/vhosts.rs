//! `/vhosts`: a vhost is a space, with a document of its own for what AMQP wants to know of it.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::{NameRules, Quotas, RosterError, SpacePermissions};
use longtail_broker::catalog::Write;
use serde_json::{Map, Value, json};

use super::connections::{COUNTS, OCTETS};
use super::fields;
use super::http::{Asked, Failed, Reply};
use super::overview::Sums;
use super::queues::LENGTHS;
use super::rates::{Ranges, Thing};
use super::{Management, connections, overview, page, parameters};
use crate::census::Seen;
use crate::queue::QueueType;
use crate::vhost::Vhost;

/// Most tags of a vhost.
const TAGS_MAX: usize = 100;

pub(super) fn metadata(m: &Management, space: &str) -> Vhost {
    Vhost::of(m.tenant.broker().catalog(), space)
}

pub(super) async fn write(m: &Management, name: String, body: Option<Bytes>) -> Result<(), Failed> {
    let write = Write {
        name,
        body,
        expected: None,
    };
    let written = m.tenant.broker().catalog().put_all(vec![write]).await;
    written
        .map(|_| ())
        .map_err(|error| Failed::internal(error.to_string()))
}

/// Says something else of a vhost, from now on.
///
/// # Errors
/// When it cannot be stored.
pub(super) async fn set_metadata(m: &Management, space: &str, vhost: &Vhost) -> Result<(), Failed> {
    let write = vhost.write(space);
    let write = write.map_err(|error| Failed::internal(error.to_string()))?;
    self::write(m, write.name, write.body).await?;
    let topology = m.topology_of(&space.into()).await?;
    topology.govern(vhost);
    Ok(())
}

impl From<RosterError> for Failed {
    fn from(error: RosterError) -> Self {
        match error {
            RosterError::Unknown {
                what: "account", ..
            } => Failed::missing(),
            RosterError::Broker(error) => Failed::internal(error.to_string()),
            error => Failed::bad(error.to_string()),
        }
    }
}

/// What is sampled of a vhost: how many messages there are, what went through its connections, their octets.
pub(super) fn numbers(m: &Management, vhost: &str, sums: &Sums, seen: &[Seen]) -> Vec<u64> {
    let mut gone = m.tenant.census().gone_of(vhost);
    for seen in seen.iter().filter(|seen| *seen.state.vhost == *vhost) {
        gone.bytes_in += seen.bytes_in;
        gone.bytes_out += seen.bytes_out;
        gone.counts.add(&seen.state.counts);
    }
    let lengths = sums.lengths().into_iter();
    let counts = lengths.chain(connections::numbers(&gone.counts));
    counts.chain([gone.bytes_in, gone.bytes_out]).collect()
}

async fn shown(
    m: &Management,
    (vhost, space): (&Arc<str>, &Arc<str>),
    seen: &[Seen],
    ranges: &Ranges,
) -> Result<Value, Failed> {
    let known = metadata(m, space);
    let of = [(Arc::clone(vhost), Arc::clone(space))];
    let sums = overview::sums(m, &of).await?;
    let numbers = numbers(m, vhost, &sums, seen);
    let thing = Thing::Vhost(Arc::clone(vhost));
    let past = m.rates.look(&thing, m.now_ms(), &numbers, ranges);
    let (mut object, mut message_stats) = (Map::new(), Map::new());
    let (lengths, counts) = (LENGTHS.len(), COUNTS.len());
    past.put_levels(&mut object, LENGTHS, 0, ranges.lengths);
    past.put_counts(&mut message_stats, COUNTS, lengths, ranges.messages);
    past.put_counts(&mut object, OCTETS, lengths + counts, ranges.data);
    let fields = json!({
        "name": **vhost,
        "description": known.description,
        "tags": known.tags,
        "default_queue_type": known.queue_type().unwrap_or_default().name(),
        "metadata": {
            "description": known.description, "tags": known.tags,
            "default_queue_type": known.queue_type().unwrap_or_default().name(),
        },
        "tracing": known.tracing,
        "protected_from_deletion": known.protected_from_deletion,
        "cluster_state": {m.node(): "running"},
        "message_stats": message_stats,
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Ok(Value::Object(object))
}

pub(super) async fn list(m: &Arc<Management>, asked: &Asked) -> Result<Reply, Failed> {
    let mut items = Vec::new();
    let (seen, ranges) = (m.tenant.census().all(), Ranges::of(&asked.query)?);
    for (vhost, space) in m.vhosts(asked) {
        items.push(shown(m, (&vhost, &space), &seen, &ranges).await?);
    }
    page::list(items, &asked.query).map(Reply::Json)
}

pub(super) async fn show(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    let space = m.enter(asked, name)?;
    let (seen, ranges) = (m.tenant.census().all(), Ranges::of(&asked.query)?);
    let shown = shown(m, (&name.into(), &space), &seen, &ranges).await?;
    Ok(Reply::Json(page::one(shown, &asked.query)))
}

/// Tags as clients write them: a list, or text with commas.
///
/// # Errors
/// When they are neither.
pub(super) fn tags(object: &Map<String, Value>) -> Result<Option<Vec<String>>, Failed> {
    let tags: Vec<String> = match object.get("tags") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text
            .split(',')
            .map(|tag| tag.trim().to_owned())
            .filter(|tag| !tag.is_empty())
            .collect(),
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|tag| tag.as_str().map(str::to_owned));
            texts
                .collect::<Option<_>>()
                .ok_or_else(|| Failed::bad("tags must be strings"))?
        }
        Some(other) => {
            return Err(Failed::bad(format!(
                "tags must be a list or a string, not {other}"
            )));
        }
    };
    if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > 255) {
        return Err(Failed::bad("these are too many tags, or too long ones"));
    }
    Ok(Some(tags))
}

/// Makes a vhost, or changes what is said of it. `true`: it is new.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn make(
    m: &Management,
    name: &str,
    object: &Map<String, Value>,
) -> Result<bool, Failed> {
    let tracing = fields::flag(object, "tracing")?;
    let queue_type = match fields::text(object, "default_queue_type")? {
        None => None,
        Some("" | "undefined") => Some(None),
        Some(kind) if QueueType::of(kind).is_some() => Some(Some(kind.to_owned())),
        Some(kind) => {
            return Err(Failed::bad(format!(
                "Unsupported default queue type: '{kind}'"
            )));
        }
    };
    let space = m.tenant.space_of(name);
    let known = m.roster.directory().space(&space).is_some();
    if !known {
        m.roster.put_space(&space, Quotas::default()).await?;
    }
    let before = metadata(m, &space);
    let metadata = Vhost {
        description: fields::text(object, "description")?
            .map_or(before.description.clone(), str::to_owned),
        tags: tags(object)?.unwrap_or_else(|| before.tags.clone()),
        protected_from_deletion: fields::flag(object, "protected_from_deletion")?
            .unwrap_or(before.protected_from_deletion),
        tracing: tracing.unwrap_or(before.tracing),
        default_queue_type: queue_type.unwrap_or_else(|| before.default_queue_type.clone()),
        queues_max: before.queues_max,
    };
    if metadata != before {
        set_metadata(m, &space, &metadata).await?;
    }
    Ok(!known)
}

pub(super) async fn put(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let is_new = make(m, name, &asked.object()?).await?;
    let user = Arc::clone(&asked.caller.name);
    let stored = m.roster.stored_account(&user).is_some();
    if is_new && stored && !m.roster.is_configured(&user) {
        let space = m.tenant.space_of(name);
        let grant = |known: Option<longtail_broker::auth::Account>| {
            let mut account = known.ok_or(RosterError::Unknown {
                what: "account",
                name: user.to_string(),
            })?;
            account.permissions.push(SpacePermissions {
                space: space.to_string(),
                rules: Vec::new(),
                names: Some(NameRules::full()),
                topics: Vec::new(),
            });
            Ok(account)
        };
        m.roster.change_account(&user, grant).await?;
    }
    Ok(Reply::put(is_new))
}

pub(super) async fn delete(
    m: &Arc<Management>,
    asked: &Asked,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, name)?;
    if metadata(m, &space).protected_from_deletion {
        return Err(Failed {
            status: 412,
            error: "precondition_failed",
            reason: format!("vhost '{name}' is protected from deletion"),
        });
    }
    if m.roster.is_space_configured(&space) {
        return Err(Failed::bad(format!(
            "vhost '{name}' is the space \"{space}\" of the server's settings, and stays"
        )));
    }
    let _large = m.large.lock().await;
    m.tenant.remove_space(&m.roster, &space).await?;
    let text = format!("vhost '{name}' is deleted");
    m.tenant.census().end(&text, |_, vhost, _| vhost == name);
    m.tenant.forget(&space).await;
    for operator in [false, true] {
        for policy in m.tenant.policies().list(&space, operator) {
            let removed = m.tenant.policies().remove(&space, &policy.name, operator);
            removed
                .await
                .map_err(|error| Failed::internal(error.to_string()))?;
        }
    }
    parameters::forget(m, &space).await?;
    let catalog = m.tenant.broker().catalog();
    let mut writes = Vec::new();
    for kind in ["queue", "exchange", "binding", "offsets"] {
        let prefix = format!("amqp/{kind}/{}:{space}/", space.len());
        writes.extend(catalog.list(&prefix).into_iter().map(|(name, _)| name));
    }
    writes.push(Vhost::document(&space).into());
    for chunk in writes.chunks(longtail_engine::Transaction::MAX_STEPS) {
        let gone = |name: &Arc<str>| Write {
            name: name.to_string(),
            body: None,
            expected: None,
        };
        let written = catalog.put_all(chunk.iter().map(gone).collect()).await;
        written.map_err(|error| Failed::internal(error.to_string()))?;
    }
    Ok(Reply::Done)
}

/// A vhost is always started.
pub(super) fn start(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    m.administer(asked, name)?;
    Ok(Reply::Done)
}

pub(super) async fn protect(
    m: &Arc<Management>,
    asked: &Asked,
    name: &str,
    protected: bool,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, name)?;
    let metadata = Vhost {
        protected_from_deletion: protected,
        ..metadata(m, &space)
    };
    set_metadata(m, &space, &metadata).await?;
    Ok(Reply::Done)
}
