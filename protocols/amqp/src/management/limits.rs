//! `/vhost-limits` and `/user-limits`.

use std::sync::Arc;

use longtail_broker::auth::{Account, AccountLimits, Quotas, RosterError};
use serde_json::{Map, Value, json};

use super::fields;
use super::http::{Asked, Failed, Reply};
use super::{Management, page, users, vhosts};
use crate::vhost::Vhost;

/// What RabbitMQ calls them.
const CONNECTIONS: &str = "max-connections";
const QUEUES: &str = "max-queues";
const CHANNELS: &str = "max-channels";

/// -1 is no limit.
fn limit(value: Option<i64>, name: &str) -> Result<Option<u64>, Failed> {
    match value {
        None | Some(-1) => Ok(None),
        Some(number) => u64::try_from(number)
            .map(Some)
            .map_err(|_| Failed::bad(format!("{name} must be -1 or more, not {number}"))),
    }
}

fn object(pairs: &[(&str, Option<u64>)]) -> Map<String, Value> {
    let set = pairs.iter();
    set.filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.into())))
        .collect()
}

pub(super) fn of_account(account: &Account) -> Map<String, Value> {
    object(&[
        (CONNECTIONS, account.limits.connections_max),
        (CHANNELS, account.limits.channels_max),
    ])
}

/// The limits of a user as an object has them.
///
/// # Errors
/// What is wrong with them.
pub(super) fn read(limits: &Map<String, Value>) -> Result<AccountLimits, Failed> {
    let mut read = AccountLimits::default();
    for name in limits.keys() {
        let value = limit(fields::integer(limits, name)?, name)?;
        match name.as_str() {
            CONNECTIONS => read.connections_max = value,
            CHANNELS => read.channels_max = value,
            other => return Err(Failed::bad(format!("unknown limit '{other}'"))),
        }
    }
    Ok(read)
}

pub(super) fn of_space(m: &Management, space: &str) -> Map<String, Value> {
    let quotas = m.roster.quotas(space);
    object(&[
        (CONNECTIONS, quotas.connections_max),
        (QUEUES, vhosts::metadata(m, space).queues_max),
    ])
}

pub(super) fn of_vhosts(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
) -> Result<Reply, Failed> {
    let vhosts = m.of(asked, vhost)?;
    let items = vhosts.iter().filter_map(|(vhost, space)| {
        let limits = of_space(m, space);
        (!limits.is_empty()).then(|| json!({"vhost": **vhost, "value": limits}))
    });
    page::list(items.collect(), &asked.query).map(Reply::Json)
}

/// Sets one limit of a space.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn set(
    m: &Management,
    space: &str,
    name: &str,
    value: Option<i64>,
) -> Result<(), Failed> {
    let value = limit(value, name)?;
    let quotas = m.roster.quotas(space);
    match name {
        CONNECTIONS => {
            let quotas = Quotas {
                connections_max: value,
                ..quotas
            };
            m.roster.put_space(space, quotas).await?;
            Ok(())
        }
        QUEUES => {
            let vhost = Vhost {
                queues_max: value,
                ..vhosts::metadata(m, space)
            };
            vhosts::set_metadata(m, space, &vhost).await
        }
        other => Err(Failed::bad(format!("unknown limit '{other}'"))),
    }
}

fn value(asked: &Asked) -> Result<Option<i64>, Failed> {
    let value = fields::integer(&asked.object()?, "value")?;
    value.map(Some).ok_or_else(|| Failed {
        error: "key_missing",
        ..Failed::bad("value")
    })
}

pub(super) async fn set_of_vhost(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, vhost)?;
    set(m, &space, name, value(asked)?).await?;
    Ok(Reply::Done)
}

pub(super) async fn clear_of_vhost(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    name: &str,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, vhost)?;
    set(m, &space, name, None).await?;
    Ok(Reply::Done)
}

pub(super) fn of_users(
    m: &Arc<Management>,
    asked: &Asked,
    user: Option<&str>,
) -> Result<Reply, Failed> {
    if user.is_none_or(|user| *asked.caller.name != *user) {
        asked.caller.administers()?;
    }
    if let Some(user) = user {
        users::known(m, user)?;
    }
    let accounts = users::all(m);
    let items = accounts
        .iter()
        .filter(|account| user.is_none_or(|user| account.name == user))
        .filter_map(|account| {
            let limits = of_account(account);
            (!limits.is_empty()).then(|| json!({"user": account.name, "value": limits}))
        });
    page::list(items.collect(), &asked.query).map(Reply::Json)
}

async fn change(
    m: &Management,
    user: &str,
    name: &str,
    value: Option<i64>,
) -> Result<Reply, Failed> {
    let value = limit(value, name)?;
    users::known(m, user)?;
    let edit = |known: Option<Account>| {
        let mut account = known.ok_or_else(|| RosterError::Unknown {
            what: "account",
            name: user.to_owned(),
        })?;
        match name {
            CONNECTIONS => account.limits.connections_max = value,
            _ => account.limits.channels_max = value,
        }
        Ok(account)
    };
    if ![CONNECTIONS, CHANNELS].contains(&name) {
        return Err(Failed::bad(format!("unknown limit '{name}'")));
    }
    m.roster.change_account(user, edit).await?;
    Ok(Reply::Done)
}

pub(super) async fn set_of_user(
    m: &Arc<Management>,
    asked: &Asked,
    user: &str,
    name: &str,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    change(m, user, name, value(asked)?).await
}

pub(super) async fn clear_of_user(
    m: &Arc<Management>,
    asked: &Asked,
    user: &str,
    name: &str,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    change(m, user, name, None).await
}
