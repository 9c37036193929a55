//! `/parameters` and `/global-parameters`.
//!
//! Parameters belong to components: shovels, upstreams of federations and sets of them; operator policies and the limits
//! of vhosts are shown as such too. A parameter of another component is refused, as RabbitMQ refuses it without the
//! plugin.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::http::{Asked, Failed, Reply};
use super::{Management, limits, page, policies, vhosts};
use crate::federation::{Upstream, parse_set};
use crate::parameter::check::Invalid;
use crate::parameter::{self, Parameter, ParameterError, SHOVEL, UPSTREAM};

const OPERATOR_POLICY: &str = "operator_policy";
const VHOST_LIMITS: &str = "vhost-limits";

/// The name of what has the limits of a vhost.
const LIMITS: &str = "limits";

/// The documents of global parameters begin with this.
const GLOBAL: &str = "amqp/global-parameter/";

/// Global parameters.
const GLOBALS_MAX: usize = 1000;

const CLUSTER_NAME: &str = "cluster_name";

/// All parameters of a space, as objects.
pub(super) fn of_space(m: &Management, vhost: &str, space: &str) -> Vec<Value> {
    let mut all: Vec<_> = m
        .tenant
        .policies()
        .list(space, true)
        .iter()
        .map(|policy| {
            json!({
                "component": OPERATOR_POLICY, "vhost": vhost, "name": policy.name,
                "value": {
                    "pattern": policy.pattern, "definition": policy.definition,
                    "priority": policy.priority, "apply-to": policy.apply_to.name(),
                },
            })
        })
        .collect();
    let limits = limits::of_space(m, space);
    if !limits.is_empty() {
        all.push(json!({
            "component": VHOST_LIMITS, "vhost": vhost, "name": LIMITS, "value": limits,
        }));
    }
    for component in parameter::COMPONENTS {
        let known = m.links.parameters.list(component, Some(space));
        all.extend(known.iter().map(|known| {
            json!({
                "component": component, "vhost": vhost, "name": known.name, "value": known.value,
            })
        }));
    }
    all
}

/// Who sets a parameter; `None`: this machine's guest, or a file of definitions.
pub(super) fn author(asked: &Asked) -> Option<String> {
    (!asked.caller.is_guest()).then(|| asked.caller.name.to_string())
}

impl From<Invalid> for Failed {
    fn from(invalid: Invalid) -> Self {
        Failed::bad(invalid.to_string())
    }
}

impl From<ParameterError> for Failed {
    fn from(error: ParameterError) -> Self {
        match error {
            ParameterError::Full => Failed::bad(error.to_string()),
            error => Failed::internal(error.to_string()),
        }
    }
}

/// Sets a parameter that is kept as one, and has it take effect. `true`: it is new.
async fn keep(m: &Management, parameter: Parameter) -> Result<bool, Failed> {
    let Parameter {
        component,
        name,
        value,
        user,
        ..
    } = &parameter;
    match component.as_str() {
        SHOVEL => m.links.shovels.check(name, value, user.as_deref())?,
        UPSTREAM => drop(Upstream::parse(name, value)?),
        _ => drop(parse_set(name, value)?),
    }
    let is_new = m.links.parameters.put(parameter.clone()).await?;
    let cluster = name_of_cluster(m);
    match parameter.component.as_str() {
        SHOVEL => m.links.shovels.start(&parameter, &cluster),
        _ => m.links.federation.start(&cluster),
    }
    Ok(is_new)
}

/// Removes a parameter that is kept as one, and has it take effect.
pub(super) async fn discard(
    m: &Management,
    space: &str,
    (component, name): (&str, &str),
) -> Result<Reply, Failed> {
    if !m.links.parameters.remove(component, space, name).await? {
        return Err(Failed::missing());
    }
    match component {
        SHOVEL => drop(m.links.shovels.stop(space, name).await),
        _ => m.links.federation.look_again(),
    }
    Ok(Reply::Done)
}

/// A vhost is gone, and what was set in it.
pub(super) async fn forget(m: &Management, space: &str) -> Result<(), Failed> {
    for component in parameter::COMPONENTS {
        for known in m.links.parameters.list(component, Some(space)) {
            discard(m, space, (component, &known.name)).await?;
        }
    }
    Ok(())
}

/// Whoever makes policies sets what is kept here, only administrators the rest.
fn may_set(m: &Management, asked: &Asked, space: &str, component: &str) -> Result<(), Failed> {
    if parameter::COMPONENTS.contains(&component) {
        return asked.caller.makes_policies(&m.roster, space);
    }
    asked.caller.administers()
}

pub(super) fn list(m: &Arc<Management>, asked: &Asked, scope: &[&str]) -> Result<Reply, Failed> {
    let (component, vhost, name) = (scope.first(), scope.get(1).copied(), scope.get(2));
    let vhosts = m.of(asked, vhost)?;
    let mut items: Vec<Value> = vhosts
        .iter()
        .flat_map(|(vhost, space)| of_space(m, vhost, space))
        .collect();
    items.retain(|item| {
        component.is_none_or(|component| item["component"] == **component)
            && name.is_none_or(|name| item["name"] == **name)
    });
    match name {
        None => page::list(items, &asked.query).map(Reply::Json),
        Some(_) => {
            let one = items.pop().ok_or_else(Failed::missing)?;
            Ok(Reply::Json(page::one(one, &asked.query)))
        }
    }
}

/// Sets a parameter. `true`: it is new.
///
/// # Errors
/// What is wrong with it; a component that this server has not.
pub(super) async fn set(
    m: &Management,
    space: &Arc<str>,
    (component, name): (&str, &str),
    value: &Value,
    user: Option<String>,
) -> Result<bool, Failed> {
    if parameter::COMPONENTS.contains(&component) {
        let (component, name) = (component.to_owned(), name.to_owned());
        let (space, value) = (space.to_string(), value.clone());
        let parameter = Parameter {
            component,
            space,
            name,
            value,
            user,
        };
        return keep(m, parameter).await;
    }
    let object = value
        .as_object()
        .ok_or_else(|| Failed::bad("value must be an object"))?;
    match component {
        OPERATOR_POLICY => {
            let policy = policies::read(name, object)?;
            policies::set(m, space, policy, true).await
        }
        VHOST_LIMITS if name == LIMITS => {
            for (name, value) in object {
                let number = value.as_i64();
                let number =
                    number.ok_or_else(|| Failed::bad(format!("{name} must be an integer")))?;
                limits::set(m, space, name, Some(number)).await?;
            }
            Ok(false)
        }
        _ => Err(Failed::bad(format!("component {component} not found"))),
    }
}

pub(super) async fn put(
    m: &Arc<Management>,
    asked: &Asked,
    component: &str,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    may_set(m, asked, &space, component)?;
    let object = asked.object()?;
    let value = object.get("value").ok_or_else(|| Failed {
        error: "key_missing",
        ..Failed::bad("value")
    })?;
    set(m, &space, (component, name), value, author(asked))
        .await
        .map(Reply::put)
}

pub(super) async fn delete(
    m: &Arc<Management>,
    asked: &Asked,
    component: &str,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    may_set(m, asked, &space, component)?;
    match component {
        kept if parameter::COMPONENTS.contains(&kept) => discard(m, &space, (kept, name)).await,
        OPERATOR_POLICY => policies::delete(m, asked, (vhost, name), true).await,
        VHOST_LIMITS if name == LIMITS && !limits::of_space(m, &space).is_empty() => {
            for name in limits::of_space(m, &space).keys() {
                limits::set(m, &space, name, None).await?;
            }
            Ok(Reply::Done)
        }
        _ => Err(Failed::missing()),
    }
}

/// All global parameters, as objects.
pub(super) fn all_globals(m: &Management) -> Vec<Value> {
    let found = m.tenant.broker().catalog().list(GLOBAL);
    let mut all: Vec<Value> = found
        .iter()
        .filter_map(|(name, document)| {
            let value: Value = serde_json::from_slice(&document.body).ok()?;
            Some(json!({"name": name.strip_prefix(GLOBAL)?, "value": value}))
        })
        .collect();
    if all.iter().all(|known| known["name"] != CLUSTER_NAME) {
        all.insert(0, json!({"name": CLUSTER_NAME, "value": m.node()}));
    }
    all
}

pub(super) fn globals(m: &Arc<Management>, asked: &Asked) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    page::list(all_globals(m), &asked.query).map(Reply::Json)
}

fn known(m: &Management, name: &str) -> Result<Value, Failed> {
    let mut all = all_globals(m).into_iter();
    all.find(|known| known["name"] == name)
        .ok_or_else(Failed::missing)
}

pub(super) fn global(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    Ok(Reply::Json(page::one(known(m, name)?, &asked.query)))
}

/// Sets a global parameter. `true`: it is new.
///
/// # Errors
/// When there are too many.
pub(super) async fn put_global(m: &Management, name: &str, value: &Value) -> Result<bool, Failed> {
    let document = format!("{GLOBAL}{name}");
    let catalog = m.tenant.broker().catalog();
    let is_new = catalog.get(&document).is_none();
    if is_new && catalog.list(GLOBAL).len() >= GLOBALS_MAX {
        return Err(Failed::bad("there are too many global parameters"));
    }
    let body = serde_json::to_vec(value).map_err(|e| Failed::internal(e.to_string()))?;
    vhosts::write(m, document, Some(body.into())).await?;
    Ok(is_new)
}

pub(super) async fn set_global(
    m: &Arc<Management>,
    asked: &Asked,
    name: &str,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let object = asked.object()?;
    let value = object.get("value").ok_or_else(|| Failed {
        error: "key_missing",
        ..Failed::bad("value")
    })?;
    put_global(m, name, value).await.map(Reply::put)
}

pub(super) async fn clear_global(
    m: &Arc<Management>,
    asked: &Asked,
    name: &str,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let document = format!("{GLOBAL}{name}");
    if m.tenant.broker().catalog().get(&document).is_none() {
        return Err(Failed::missing());
    }
    vhosts::write(m, document, None).await?;
    Ok(Reply::Done)
}

pub(super) fn name_of_cluster(m: &Management) -> String {
    let known = known(m, CLUSTER_NAME).ok();
    let name = known.as_ref().and_then(|known| known["value"].as_str());
    name.map_or_else(|| m.node(), str::to_owned)
}

pub(super) fn cluster_name(m: &Management) -> Reply {
    Reply::Json(json!({"name": name_of_cluster(m)}))
}

pub(super) async fn set_cluster_name(m: &Arc<Management>, asked: &Asked) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let object: Map<String, Value> = asked.object()?;
    let Some(Value::String(name)) = object.get("name") else {
        return Err(Failed {
            error: "key_missing",
            ..Failed::bad("name")
        });
    };
    put_global(m, CLUSTER_NAME, &json!(name)).await?;
    Ok(Reply::Done)
}
