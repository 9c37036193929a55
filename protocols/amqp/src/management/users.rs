//! `/users`: accounts, with passwords as RabbitMQ hashes them.

use std::sync::Arc;

use longtail_broker::auth::{Account, PasswordHash, RabbitAlgorithm};
use serde_json::{Map, Value, json};

use super::fields;
use super::http::{Asked, Failed, Reply};
use super::{Management, limits, page, vhosts};

/// What LavinMQ calls bcrypt, and how it knows it.
const BCRYPT: &str = "lavinmq_bcrypt";
const BCRYPT_END: &str = "bcrypt";

/// What the hash of an account that RabbitMQ could not have is called.
const FOREIGN: &str = "longtail_password_hashing";

pub(super) fn shown(account: &Account) -> Value {
    let hash = account.password.as_ref();
    let (algorithm, hash) = match hash.map(|hash| (hash.rabbit(), hash.bcrypt())) {
        None => (RabbitAlgorithm::Sha256.name(), String::new()),
        Some((Some((algorithm, hash)), _)) => (algorithm.name(), hash),
        Some((None, Some(hash))) => (BCRYPT, hash.to_owned()),
        // It is not shown: nothing but this server could use it.
        Some((None, None)) => (FOREIGN, String::new()),
    };
    json!({
        "name": account.name,
        "password_hash": hash,
        "hashing_algorithm": algorithm,
        "tags": account.tags,
        "limits": limits::of_account(account),
    })
}

/// All accounts that may log in, by name, with this machine's guest where there is one.
pub(super) fn all(m: &Management) -> Vec<Account> {
    let directory = m.roster.directory();
    let enabled = directory.accounts().filter(|account| account.enabled);
    let mut accounts: Vec<Account> = enabled.map(|account| Account::clone(account)).collect();
    accounts.extend(m.roster.guest());
    accounts.sort_by(|a, b| a.name.cmp(&b.name));
    accounts
}

pub(super) fn known(m: &Management, name: &str) -> Result<Account, Failed> {
    let mut all = all(m).into_iter();
    all.find(|account| account.name == name)
        .ok_or_else(Failed::missing)
}

pub(super) fn list(
    m: &Arc<Management>,
    asked: &Asked,
    without_permissions: bool,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let mut accounts = all(m);
    accounts.retain(|account| !without_permissions || account.permissions.is_empty());
    page::list(accounts.iter().map(shown).collect(), &asked.query).map(Reply::Json)
}

pub(super) fn show(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    if *asked.caller.name != *name {
        asked.caller.administers()?;
    }
    Ok(Reply::Json(page::one(
        shown(&known(m, name)?),
        &asked.query,
    )))
}

/// What a request says of the password; `None`: nothing.
fn password(object: &Map<String, Value>) -> Result<Option<Option<PasswordHash>>, Failed> {
    let named = fields::text(object, "hashing_algorithm")?;
    let is_bcrypt = named.is_some_and(|name| name.to_lowercase().ends_with(BCRYPT_END));
    let algorithm = match named.filter(|_| !is_bcrypt) {
        None => RabbitAlgorithm::Sha256,
        Some(name) => RabbitAlgorithm::of(name)
            .ok_or_else(|| Failed::bad(format!("unknown hashing_algorithm '{name}'")))?,
    };
    if let Some(password) = fields::text(object, "password")? {
        if password.is_empty() {
            return Err(Failed::bad("the password is empty"));
        }
        let hash = PasswordHash::create_rabbit(algorithm, password.as_bytes());
        return Ok(Some(Some(hash)));
    }
    match fields::text(object, "password_hash")? {
        None => Ok(None),
        // Nobody logs in with a password.
        Some("") => Ok(Some(None)),
        Some(text) => {
            let hash = match is_bcrypt {
                true => PasswordHash::parse(text)
                    .ok()
                    .filter(|hash| hash.bcrypt().is_some()),
                false => PasswordHash::from_rabbit(algorithm, text).ok(),
            };
            let hash = hash.ok_or_else(|| Failed::bad("invalid password_hash"))?;
            Ok(Some(Some(hash)))
        }
    }
}

/// Makes an account or changes it. `true`: it is new.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn make(
    m: &Management,
    name: &str,
    object: &Map<String, Value>,
) -> Result<bool, Failed> {
    let password = password(object)?;
    let tags = vhosts::tags(object)?;
    let limits = match object.get("limits") {
        Some(Value::Object(limits)) => Some(limits.clone()),
        _ => None,
    };
    if password.is_none() && known(m, name).is_err() {
        return Err(Failed::bad(
            "a new user needs a password or a password_hash",
        ));
    }
    let tags = tags.ok_or_else(|| Failed {
        error: "key_missing",
        ..Failed::bad("tags")
    })?;
    let limits = limits.map(|limits| limits::read(&limits)).transpose()?;
    let change = |known: Option<Account>| {
        let mut account = known.unwrap_or_else(|| Account::named(name));
        account.enabled = true;
        account.tags = tags;
        if let Some(password) = password {
            account.password = password;
        }
        if let Some(limits) = limits {
            account.limits = limits;
        }
        Ok(account)
    };
    Ok(m.roster.change_account(name, change).await?)
}

pub(super) async fn put(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    make(m, name, &asked.object()?).await.map(Reply::put)
}

pub(super) async fn delete(
    m: &Arc<Management>,
    asked: &Asked,
    name: &str,
) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    known(m, name)?;
    m.roster.remove_account(name).await?;
    Ok(Reply::Done)
}

pub(super) async fn bulk_delete(m: &Arc<Management>, asked: &Asked) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    let object = asked.object()?;
    let Some(Value::Array(users)) = object.get("users") else {
        return Err(Failed::bad("users must be a list"));
    };
    for user in users {
        let name = user
            .as_str()
            .ok_or_else(|| Failed::bad("users must be strings"))?;
        // One that is not there is as it should be.
        if known(m, name).is_ok() {
            m.roster.remove_account(name).await?;
        }
    }
    Ok(Reply::Done)
}

fn hashed(password: &str) -> Option<String> {
    let hash = PasswordHash::create_rabbit(RabbitAlgorithm::Sha256, password.as_bytes());
    hash.rabbit().map(|(_, hash)| hash)
}

/// As RabbitMQ asks for a hash.
pub(super) fn hash(password: &str) -> Reply {
    Reply::Json(json!({"ok": hashed(password)}))
}

/// As LavinMQ does.
pub(super) fn hash_of(asked: &Asked) -> Result<Reply, Failed> {
    let object = asked.object()?;
    let password = fields::text(&object, "password")?.ok_or_else(|| Failed {
        error: "key_missing",
        ..Failed::bad("password")
    })?;
    Ok(Reply::Json(json!({"password_hash": hashed(password)})))
}
