//! `/publish`, and `/mqtt/...`: retained and delayed messages, rewriting, subscriptions that clients get by themselves.

use axum::http::Method;
use base64ct::{Base64, Encoding};
use longtail_broker::message::SharedMessage;
use longtail_broker::retained::Settled;
use longtail_model::{Filter, Subject};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::{Answered, no_method, page, paged, waiting};
use crate::codec::ReasonCode;
use crate::http::access::{CLIENT_ID, Caller};
use crate::http::clock::rfc3339;
use crate::http::publish::{BULK_MAX, NotSent, Sent, described};
use crate::http::request::{Asked, Reply, Trouble, as_object, needed, text};
use crate::http::views::Page;
use crate::local::Publication;
use crate::message::qos;

pub(super) async fn publish(asked: &Asked, path: &[&str]) -> Answered {
    Some(match path {
        [] | ["bulk"] if asked.method != Method::POST => return no_method(asked).await,
        [] => publish_one(asked).await,
        ["bulk"] => publish_bulk(asked).await,
        _ => return None,
    })
}

/// The publication of an entry, and the client it is for.
fn read(entry: &Map<String, Value>) -> Result<(String, Publication), Trouble> {
    if entry.get("payload").is_none() {
        return Err(Trouble::Absent("payload"));
    }
    let publication = Publication {
        topic: needed(entry, "topic")?.to_owned(),
        ..described(entry, "payload_encoding")?
    };
    let client_id = text(entry, "clientid")?.unwrap_or(CLIENT_ID);
    Ok((client_id.to_owned(), publication))
}

/// Status and body for what became of one message.
fn outcome(sent: &Result<Sent, NotSent>) -> (u16, Value) {
    match sent {
        Ok(sent) if sent.nobody => {
            let reason = ReasonCode::NoMatchingSubscribers;
            let body = json!({
                "id": sent.id, "reason_code": reason.as_u8(), "message": reason.word(),
            });
            (202, body)
        }
        Ok(sent) => (200, json!({"id": sent.id})),
        Err(error) => {
            let status = match error.reason {
                ReasonCode::NotAuthorized => 403,
                ReasonCode::ServerShuttingDown | ReasonCode::UnspecifiedError => 503,
                _ => 400,
            };
            let body = json!({
                "reason_code": error.reason.as_u8(),
                "message": error.reason.word(),
                "reason": error.why,
            });
            (status, body)
        }
    }
}

async fn send(asked: &Asked, caller: &Caller, entry: (String, Publication)) -> (u16, Value) {
    let (client_id, publication) = entry;
    outcome(&asked.api.publish(caller, &client_id, publication).await)
}

async fn publish_one(asked: &Asked) -> Result<Reply, Trouble> {
    let caller = asked.caller().await?;
    let entry = read(&asked.object()?)?;
    let (status, body) = send(asked, &caller, entry).await;
    Ok(Reply::json(&body).with(status))
}

async fn publish_bulk(asked: &Asked) -> Result<Reply, Trouble> {
    let caller = asked.caller().await?;
    let list = asked.list()?;
    if list.len() > BULK_MAX {
        return Err(Trouble::Bad(format!(
            "at most {BULK_MAX} messages at a time"
        )));
    }
    // All of them are read before one is sent.
    let entries = list.into_iter().map(|entry| read(&as_object(entry)?));
    let entries: Vec<_> = entries.collect::<Result<_, Trouble>>()?;
    let (mut status, mut bodies) = (200, Vec::new());
    for entry in entries {
        let (one, body) = send(asked, &caller, entry).await;
        status = status.max(one);
        bodies.push(body);
    }
    Ok(Reply::json(&bodies.into()).with(status))
}

/// `/mqtt/...`.
pub(super) async fn mqtt(asked: &Asked, path: &[&str]) -> Answered {
    let (get, delete) = (asked.method == Method::GET, asked.method == Method::DELETE);
    Some(match path {
        ["retainer", "messages"] if get => retained(asked).await,
        ["retainer", "messages"] if delete => forget_all(asked).await,
        ["retainer", "message", topic] if get => retained_one(asked, topic).await,
        ["retainer", "message", topic] if delete => forget(asked, topic).await,
        ["retainer"] if get => asked.looks().await.map(|_| {
            Reply::json(&json!({"enable": asked.api.tenant.config().limits.retain_available}))
        }),
        ["delayed"] if get => asked.looks().await.map(|_| {
            let limits = &asked.api.tenant.config().limits;
            Reply::json(&json!({
                "enable": limits.delay_max_s > 0,
                "max_delayed_messages": limits.delayed_messages_max,
            }))
        }),
        ["delayed", "messages"] if get => waiting::delayed(asked).await,
        // With the name of the node, as some versions want it.
        ["delayed", "messages", id] | ["delayed", "messages", _, id] if get => {
            waiting::delayed_one(asked, id).await
        }
        ["delayed", "messages", id] | ["delayed", "messages", _, id] if delete => {
            waiting::forget_delayed(asked, id).await
        }
        ["topic_rewrite"] if get => rewrites(asked).await,
        ["auto_subscribe"] if get => auto_subscriptions(asked).await,
        ["retainer" | "delayed" | "topic_rewrite" | "auto_subscribe"]
            if asked.method == Method::PUT =>
        {
            asked.changes().await.and(Err(Trouble::Unsupported(
                "this is set in the file of settings (`[mqtt]`)".to_owned(),
            )))
        }
        ["retainer" | "delayed", "messages"]
        | ["retainer", "message", _]
        | ["delayed", "messages", _]
        | ["delayed", "messages", _, _]
        | ["retainer" | "delayed" | "topic_rewrite" | "auto_subscribe"] => {
            return no_method(asked).await;
        }
        _ => return None,
    })
}

fn retained_view(message: &SharedMessage) -> Value {
    json!({
        "topic": message.subject.as_str(),
        "qos": qos(message.quality).bits(),
        "publish_at": rfc3339(message.published),
        "payload_size": message.payload.len(),
    })
}

async fn retained(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let page = page(asked)?;
    let filter = match asked.query.get("topic") {
        None => Filter::everything(),
        Some(text) => Filter::parse_mqtt(text)
            .map_err(|_| Trouble::Bad(format!("topic: {text:?} is no filter")))?,
    };
    let (messages, count) = asked.api.retained(filter, page);
    let data = messages.iter().map(retained_view).collect();
    Ok(paged(data, page, count))
}

fn topic(text: &str) -> Result<Subject, Trouble> {
    Subject::parse_mqtt(text).map_err(|_| Trouble::Bad(format!("{text:?} is no topic")))
}

async fn retained_one(asked: &Asked, text: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let tenant = &asked.api.tenant;
    let message = tenant.space().retained.get(&topic(text)?, tenant.now());
    let message = message.ok_or_else(|| none(text))?;
    let mut view = retained_view(&message);
    view["payload"] = Base64::encode_string(&message.payload).into();
    Ok(Reply::json(&view))
}

fn none(text: &str) -> Trouble {
    Trouble::Missing(format!("no message is retained for {text}"))
}

async fn forget(asked: &Asked, text: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let (tenant, topic) = (&asked.api.tenant, topic(text)?);
    if tenant.space().retained.get(&topic, tenant.now()).is_none() {
        return Err(none(text));
    }
    clear(asked, &topic).await?;
    Ok(Reply::done())
}

/// Forgets a retained message; answers when that is durable.
async fn clear(asked: &Asked, topic: &Subject) -> Result<(), Trouble> {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |outcome| {
        // Nobody listens when whoever asked has hung up.
        let _ = tell.send(outcome);
    });
    match asked.api.tenant.space().retained.clear(topic, done) {
        Settled::Now => Ok(()),
        Settled::Later => {
            asked.api.tenant.streams().run();
            match told.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(refusal)) => Err(Trouble::Failed(refusal.to_string())),
                Err(_) => Err(Trouble::Busy("the server is stopping".to_owned())),
            }
        }
    }
}

/// Retained messages that are forgotten before the next are looked for.
const FORGET_STEP: usize = 1000;

async fn forget_all(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    loop {
        let page = Page {
            number: 1,
            size: FORGET_STEP,
        };
        let (messages, _) = asked.api.retained(Filter::everything(), page);
        if messages.is_empty() {
            return Ok(Reply::done());
        }
        for message in messages {
            clear(asked, &message.subject).await?;
        }
    }
}

async fn rewrites(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let limits = &asked.api.tenant.config().limits;
    let rules = limits.rewrites.iter().map(|rule| {
        json!({
            "action": rule.on(),
            "source_topic": rule.filter(),
            "dest_topic": rule.target(),
            "re": rule.regex(),
        })
    });
    Ok(Reply::json(&Value::Array(rules.collect())))
}

async fn auto_subscriptions(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let limits = &asked.api.tenant.config().limits;
    let all = limits.auto_subscriptions.iter().map(|auto| {
        json!({
            "topic": auto.filter.to_string(),
            "qos": auto.options.qos.bits(),
            "nl": u8::from(auto.options.no_local),
            "rap": u8::from(auto.options.retain_as_published),
            "rh": auto.options.retain_handling as u8,
        })
    });
    Ok(Reply::json(&Value::Array(all.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_the_statuses_of_emqx() {
        let sent = |nobody| {
            let id = "1".to_owned();
            outcome(&Ok(Sent { id, nobody }))
        };
        assert_eq!(sent(false), (200, json!({"id": "1"})));
        let (status, body) = sent(true);
        assert_eq!(
            (status, &body["message"]),
            (202, &json!("no_matching_subscribers"))
        );
        let refused = |reason| {
            let why = String::new();
            outcome(&Err(NotSent { reason, why })).0
        };
        assert_eq!(refused(ReasonCode::TopicNameInvalid), 400);
        assert_eq!(refused(ReasonCode::QuotaExceeded), 400);
        assert_eq!(refused(ReasonCode::NotAuthorized), 403);
        assert_eq!(refused(ReasonCode::ServerShuttingDown), 503);
    }
}
