//! `/policies` and `/operator-policies`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fields;
use super::http::{Asked, Failed, Reply};
use super::{Management, page};
use crate::policy::{ApplyTo, Policy, PolicyError};

impl From<PolicyError> for Failed {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Invalid(_) | PolicyError::Full => Failed::bad(error.to_string()),
            error => Failed::internal(error.to_string()),
        }
    }
}

pub(super) fn shown(vhost: &str, policy: &Policy) -> Value {
    json!({
        "vhost": vhost,
        "name": policy.name,
        "pattern": policy.pattern,
        "apply-to": policy.apply_to.name(),
        "definition": policy.definition,
        "priority": policy.priority,
    })
}

pub(super) fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
    operator: bool,
) -> Result<Reply, Failed> {
    let vhosts = m.of(asked, vhost)?;
    let items = vhosts.iter().flat_map(|(vhost, space)| {
        let all = m.tenant.policies().list(space, operator);
        all.into_iter().map(|policy| shown(vhost, &policy))
    });
    page::list(items.collect(), &asked.query).map(Reply::Json)
}

pub(super) fn show(
    m: &Arc<Management>,
    asked: &Asked,
    (vhost, name): (&str, &str),
    operator: bool,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    let policy = m.tenant.policies().get(&space, name, operator);
    let policy = policy.ok_or_else(Failed::missing)?;
    Ok(Reply::Json(page::one(shown(vhost, &policy), &asked.query)))
}

/// A policy as a request or a file of definitions has it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(name: &str, object: &Map<String, Value>) -> Result<Policy, Failed> {
    let missing = |field: &'static str| Failed {
        error: "key_missing",
        ..Failed::bad(field)
    };
    let pattern = fields::text(object, "pattern")?.ok_or_else(|| missing("pattern"))?;
    if !object.contains_key("definition") {
        return Err(missing("definition"));
    }
    let apply_to = match fields::text(object, "apply-to")?.or(fields::text(object, "apply_to")?) {
        None => ApplyTo::All,
        Some(word) => ApplyTo::of(word).ok_or_else(|| {
            Failed::bad(format!("Validation failed\n\napply-to: unknown '{word}'\n"))
        })?,
    };
    Ok(Policy {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        definition: fields::table(object, "definition")?,
        priority: fields::integer(object, "priority")?.unwrap_or(0),
        apply_to,
    })
}

/// Sets a policy and has it take effect. `true`: it is new.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn set(
    m: &Management,
    space: &Arc<str>,
    policy: Policy,
    operator: bool,
) -> Result<bool, Failed> {
    let is_new = m.tenant.policies().put(space, policy, operator).await?;
    take_effect(m, space).await?;
    Ok(is_new)
}

async fn take_effect(m: &Management, space: &Arc<str>) -> Result<(), Failed> {
    m.tenant.apply_policies(space).await.map_err(Failed::from)
}

pub(super) async fn put(
    m: &Arc<Management>,
    asked: &Asked,
    (vhost, name): (&str, &str),
    operator: bool,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    may_set(m, asked, &space, operator)?;
    let policy = read(name, &asked.object()?)?;
    set(m, &space, policy, operator).await.map(Reply::put)
}

fn may_set(m: &Management, asked: &Asked, space: &str, operator: bool) -> Result<(), Failed> {
    if operator {
        return asked.caller.administers();
    }
    asked.caller.makes_policies(&m.roster, space)
}

pub(super) async fn delete(
    m: &Arc<Management>,
    asked: &Asked,
    (vhost, name): (&str, &str),
    operator: bool,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    may_set(m, asked, &space, operator)?;
    if !m.tenant.policies().remove(&space, name, operator).await? {
        return Err(Failed::missing());
    }
    take_effect(m, &space).await?;
    Ok(Reply::Done)
}
