//! `/banned`.

use axum::http::Method;
use longtail_model::Timestamp;
use serde_json::{Value, json};

use super::{Answered, cut, no_method, page};
use crate::bans::{Ban, BanFailed, Who};
use crate::http::clock::{parse, rfc3339};
use crate::http::request::{Asked, Reply, Trouble, needed, text};

pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Answered {
    Some(match path {
        [] if asked.method == Method::GET => list(asked).await,
        [] if asked.method == Method::POST => ban(asked).await,
        [kind, value] if asked.method == Method::DELETE => unban(asked, kind, value).await,
        [] | [_, _] => return no_method(asked).await,
        _ => return None,
    })
}

/// A ban by EMQX's name of its kind.
fn who(kind: &str, value: &str) -> Result<Who, Trouble> {
    let ours = match kind {
        "clientid" => "client",
        "username" => "user",
        "peerhost" | "peerhost_net" => "address",
        "clientid_re" | "username_re" => {
            let why =
                format!("bans by {kind} are not supported: name clients and users as they are");
            return Err(Trouble::Unsupported(why));
        }
        _ => return Err(Trouble::Bad(format!("as: {kind:?}"))),
    };
    Who::new(ours, value).map_err(|error| Trouble::Bad(error.to_string()))
}

fn view(ban: &Ban) -> Value {
    let value = ban.who.value();
    let kind = match ban.who {
        Who::Client(_) => "clientid",
        Who::User(_) => "username",
        Who::Address(_) if value.contains('/') => "peerhost_net",
        Who::Address(_) => "peerhost",
    };
    let until = if ban.until == Timestamp::NEVER {
        "infinity".to_owned()
    } else {
        rfc3339(ban.until)
    };
    json!({
        "as": kind, "who": value, "reason": &*ban.reason, "at": rfc3339(ban.since), "until": until,
    })
}

async fn list(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let page = page(asked)?;
    let bans = asked.api.tenant.list_bans(None, usize::MAX);
    let all = bans.iter().map(|ban| view(ban));
    Ok(cut(all.collect(), page))
}

async fn ban(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let body = asked.object()?;
    let who = who(needed(&body, "as")?, needed(&body, "who")?)?;
    let until = match body.get("until") {
        None | Some(Value::Null) => Timestamp::NEVER,
        Some(Value::String(text)) if text == "infinity" => Timestamp::NEVER,
        Some(Value::String(text)) => {
            let wrong = || Trouble::Bad(format!("until: {text:?} is no time"));
            parse(text).ok_or_else(wrong)?
        }
        Some(other) => {
            let seconds = other.as_u64();
            let wrong = || Trouble::Bad("until is a time".to_owned());
            Timestamp(seconds.ok_or_else(wrong)?.saturating_mul(1000))
        }
    };
    let reason = text(&body, "reason")?.unwrap_or_default();
    match asked.api.tenant.ban(who, until, reason).await {
        Ok(ban) => Ok(Reply::json(&view(&ban))),
        Err(BanFailed::Ban(error)) => Err(Trouble::Bad(error.to_string())),
        Err(other) => Err(Trouble::Failed(other.to_string())),
    }
}

async fn unban(asked: &Asked, kind: &str, value: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let who = who(kind, value)?;
    match asked.api.tenant.unban(&who).await {
        Ok(true) => Ok(Reply::done()),
        Ok(false) => Err(Trouble::Missing(format!("there is no ban {kind} {value}"))),
        Err(error) => Err(Trouble::Failed(error.to_string())),
    }
}
