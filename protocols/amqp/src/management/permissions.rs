//! `/permissions` and `/topic-permissions`.

use std::sync::Arc;

use longtail_broker::auth::{
    Account, Action, NamePattern, NameRules, RosterError, SpacePermissions, TopicPattern, TopicRule,
};
use longtail_model::Filter;
use serde_json::{Map, Value, json};

use super::fields;
use super::http::{Asked, Failed, Reply};
use super::{Management, page, users};

/// What an account may do in a space, as expressions. Of one whose rules are about subjects and not about names: whether
/// they are for everything.
fn expressions(m: &Management, account: &Account, of: &SpacePermissions) -> [String; 3] {
    if let Some(names) = &of.names {
        let text = |pattern: &NamePattern| pattern.as_str().to_owned();
        return [&names.configure, &names.write, &names.read].map(text);
    }
    let grants = m
        .roster
        .authenticator()
        .grants(&account.name, &of.space, "");
    let everything = Filter::everything();
    [Action::Configure, Action::Publish, Action::Consume].map(|action| {
        let all = grants
            .as_ref()
            .is_ok_and(|login| login.grants.allows_filter(action, &everything));
        if all { ".*" } else { "^$" }.to_owned()
    })
}

fn shown(m: &Management, account: &Account, of: &SpacePermissions) -> Value {
    let [configure, write, read] = expressions(m, account, of);
    json!({
        "user": account.name,
        "vhost": *m.tenant.vhost_of(&of.space),
        "configure": configure,
        "write": write,
        "read": read,
    })
}

fn shown_topics(m: &Management, account: &Account, of: &SpacePermissions) -> Vec<Value> {
    let rules = of.topics.iter();
    let shown = rules.map(|rule| {
        json!({
            "user": account.name,
            "vhost": *m.tenant.vhost_of(&of.space),
            "exchange": rule.exchange,
            "write": rule.write.as_str(),
            "read": rule.read.as_str(),
        })
    });
    shown.collect()
}

/// Every account with every space that it may use.
pub(super) fn all(m: &Management) -> Vec<(Account, SpacePermissions)> {
    let of = |account: Account| {
        let each = account.permissions.clone().into_iter();
        each.map(|of| (account.clone(), of)).collect::<Vec<_>>()
    };
    users::all(m).into_iter().flat_map(of).collect()
}

/// All permissions as objects, for a file of definitions.
pub(super) fn export(m: &Management) -> (Vec<Value>, Vec<Value>) {
    let all = all(m);
    let names = all
        .iter()
        .filter(|(_, of)| of.names.is_some())
        .map(|(account, of)| shown(m, account, of));
    let topics = all
        .iter()
        .flat_map(|(account, of)| shown_topics(m, account, of));
    (names.collect(), topics.collect())
}

fn picked(
    m: &Management,
    asked: &Asked,
    vhost: Option<&str>,
    user: Option<&str>,
) -> Result<Vec<(Account, SpacePermissions)>, Failed> {
    if user.is_none_or(|user| *asked.caller.name != *user) {
        asked.caller.administers()?;
    }
    let space = vhost.map(|vhost| m.enter(asked, vhost)).transpose()?;
    if let Some(user) = user {
        users::known(m, user)?;
    }
    let mut all = all(m);
    all.retain(|(account, of)| {
        space.as_ref().is_none_or(|space| of.space == **space)
            && user.is_none_or(|user| account.name == user)
    });
    Ok(all)
}

pub(super) fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
    user: Option<&str>,
) -> Result<Reply, Failed> {
    let found = picked(m, asked, vhost, user)?;
    let items = found.iter().map(|(account, of)| shown(m, account, of));
    page::list(items.collect(), &asked.query).map(Reply::Json)
}

pub(super) fn list_topics(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
    user: Option<&str>,
) -> Result<Reply, Failed> {
    let found = picked(m, asked, vhost, user)?;
    let items = found
        .iter()
        .flat_map(|(account, of)| shown_topics(m, account, of));
    page::list(items.collect(), &asked.query).map(Reply::Json)
}

pub(super) fn show(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    user: &str,
) -> Result<Reply, Failed> {
    let found = picked(m, asked, Some(vhost), Some(user))?;
    let (account, of) = found.first().ok_or_else(Failed::missing)?;
    Ok(Reply::Json(page::one(shown(m, account, of), &asked.query)))
}

pub(super) fn show_topics(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    user: &str,
) -> Result<Reply, Failed> {
    let found = picked(m, asked, Some(vhost), Some(user))?;
    let items: Vec<_> = found
        .iter()
        .flat_map(|(account, of)| shown_topics(m, account, of))
        .collect();
    if items.is_empty() {
        return Err(Failed::missing());
    }
    page::list(items, &asked.query).map(Reply::Json)
}

/// Changes what an account may do in a space; `None`: it may nothing there any more. `true`: it could nothing before.
async fn change(
    m: &Management,
    user: &str,
    space: &str,
    change: impl FnOnce(Option<SpacePermissions>) -> Option<SpacePermissions>,
) -> Result<bool, Failed> {
    let mut is_new = false;
    let edit = |known: Option<Account>| {
        let mut account = known.ok_or_else(|| RosterError::Unknown {
            what: "user",
            name: user.to_owned(),
        })?;
        let at = account.permissions.iter().position(|of| of.space == space);
        let before = at.map(|at| account.permissions.remove(at));
        is_new = before.is_none();
        account.permissions.extend(change(before));
        Ok(account)
    };
    m.roster.change_account(user, edit).await?;
    Ok(is_new)
}

fn empty(space: &str) -> SpacePermissions {
    SpacePermissions {
        space: space.to_owned(),
        rules: Vec::new(),
        names: None,
        topics: Vec::new(),
    }
}

/// Sets the three expressions. `true`: there were none.
///
/// # Errors
/// What is wrong with them.
pub(super) async fn grant(
    m: &Management,
    space: &str,
    user: &str,
    object: &Map<String, Value>,
) -> Result<bool, Failed> {
    let pattern = |name: &str| {
        let text = fields::text(object, name)?.ok_or_else(|| Failed {
            error: "key_missing",
            ..Failed::bad(name)
        })?;
        NamePattern::new(text).map_err(|error| Failed::bad(error.to_string()))
    };
    let names = NameRules {
        configure: pattern("configure")?,
        write: pattern("write")?,
        read: pattern("read")?,
    };
    change(m, user, space, |before| {
        let mut of = before.unwrap_or_else(|| empty(space));
        of.names = Some(names);
        Some(of)
    })
    .await
}

pub(super) async fn put(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    user: &str,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, vhost)?;
    grant(m, &space, user, &asked.object()?)
        .await
        .map(Reply::put)
}

pub(super) async fn clear(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    user: &str,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, vhost)?;
    if picked(m, asked, Some(vhost), Some(user))?.is_empty() {
        return Err(Failed::missing());
    }
    change(m, user, &space, |_| None).await?;
    Ok(Reply::Done)
}

/// Sets the expressions for one topic exchange. `true`: there were none.
///
/// # Errors
/// What is wrong with them.
pub(super) async fn grant_topic(
    m: &Management,
    space: &str,
    user: &str,
    object: &Map<String, Value>,
) -> Result<bool, Failed> {
    let needed = |name: &str| {
        fields::text(object, name)?.ok_or_else(|| Failed {
            error: "key_missing",
            ..Failed::bad(name)
        })
    };
    let pattern =
        |text: &str| TopicPattern::new(text).map_err(|error| Failed::bad(error.to_string()));
    let rule = TopicRule {
        exchange: needed("exchange")?.to_owned(),
        write: pattern(needed("write")?)?,
        read: pattern(needed("read")?)?,
    };
    let mut is_new = false;
    change(m, user, space, |before| {
        let mut of = before.unwrap_or_else(|| empty(space));
        let known = of.topics.len();
        of.topics.retain(|known| known.exchange != rule.exchange);
        is_new = of.topics.len() == known;
        of.topics.push(rule);
        Some(of)
    })
    .await?;
    Ok(is_new)
}

pub(super) async fn put_topic(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    user: &str,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, vhost)?;
    grant_topic(m, &space, user, &asked.object()?)
        .await
        .map(Reply::put)
}

pub(super) async fn clear_topics(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    user: &str,
    exchange: Option<&str>,
) -> Result<Reply, Failed> {
    let space = m.administer(asked, vhost)?;
    let of_user = picked(m, asked, Some(vhost), Some(user))?;
    let is_it = |rule: &TopicRule| exchange.is_none_or(|exchange| rule.exchange == exchange);
    if !of_user.iter().any(|(_, of)| of.topics.iter().any(is_it)) {
        return Err(Failed::missing());
    }
    change(m, user, &space, |before| {
        let mut of = before?;
        of.topics.retain(|rule| !is_it(rule));
        let left = of.names.is_some() || !of.rules.is_empty() || !of.topics.is_empty();
        left.then_some(of)
    })
    .await?;
    Ok(Reply::Done)
}
