//! `/clients/ID/mqueue_messages` and `/inflight_messages`, `/mqtt/delayed/messages`.

use base64ct::{Base64, Encoding};
use longtail_broker::BrokerError;
use longtail_broker::message::SharedMessage;
use longtail_model::Seq;
use serde_json::{Value, json};

use super::clients::unknown;
use super::{failed, page, paged};
use crate::http::clock::rfc3339;
use crate::http::request::{Asked, Reply, Trouble};
use crate::message::qos;
use crate::waiting::{DelayedMessage, Kind, Place};

/// Messages in one answer: by default, and at most.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 10_000;

/// Bytes of payloads in one answer, unless it says how many.
const PAYLOADS: usize = 1 << 20;

/// Longest payload that is shown of a delayed message.
const DELAYED_PAYLOAD_MAX: usize = 1 << 20;

/// What the position of an answer is when nothing follows.
const END: &str = "end_of_data";

/// How payloads are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    None,
    Base64,
    Plain,
}

impl Shown {
    fn payload(self, payload: &[u8]) -> Result<Option<String>, Trouble> {
        match self {
            Shown::None => Ok(None),
            Shown::Base64 => Ok(Some(Base64::encode_string(payload))),
            Shown::Plain => match std::str::from_utf8(payload) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(Trouble::Bad(
                    "a payload is not UTF-8: ask for payload=base64".to_owned(),
                )),
            },
        }
    }
}

pub(super) fn broken(error: &BrokerError) -> Trouble {
    match error {
        BrokerError::Closed(_) => Trouble::Busy("the server is stopping".to_owned()),
        other => Trouble::Failed(other.to_string()),
    }
}

/// What waits for a client, or is on its way to it.
pub(super) async fn messages_of(asked: &Asked, id: &str, kind: Kind) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let query = &asked.query;
    let limit = query.number("limit")?.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Trouble::Bad(format!("limit is 1 to {LIMIT_MAX}")));
    }
    let bytes = query.number("max_payload_bytes")?.unwrap_or(PAYLOADS);
    let shown = match query.get("payload") {
        None | Some("base64") => Shown::Base64,
        Some("plain") => Shown::Plain,
        Some("none") => Shown::None,
        Some(other) => {
            return Err(Trouble::Bad(format!(
                "payload is none, base64 or plain, not {other:?}"
            )));
        }
    };
    let from: Place = match query.get("position") {
        None | Some("none" | "") => Place::default(),
        Some(END) => return Ok(answer(&[], END, END)),
        Some(text) => text
            .parse()
            .map_err(|_| Trouble::Bad(format!("position: {text:?} is none")))?,
    };
    let api = &asked.api;
    let found = api
        .tenant
        .messages_of(&api.broker, id, kind, from, limit)
        .await;
    let part = found.map_err(|error| broken(&error))?;
    let part = part.ok_or_else(|| unknown(id))?;
    let (mut data, mut sum, mut next) = (Vec::new(), 0, part.next);
    let start = part.messages.first().map(|first| first.place);
    for found in part.messages {
        let message = &found.message;
        if shown != Shown::None {
            sum += message.payload.len();
            if sum > bytes && !data.is_empty() {
                next = Some(found.place);
                break;
            }
        }
        let mut entry = json!({
            "msgid": found.place.to_string(),
            "topic": message.subject.as_str(),
            "qos": found.qos.bits(),
            "publish_at": message.published.0,
        });
        if let Some(payload) = shown.payload(&message.payload)? {
            entry["payload"] = payload.into();
        }
        if let Some(packet_id) = found.packet_id {
            entry["inflight_packet_id"] = packet_id.get().into();
        }
        data.push(entry);
    }
    let position = next.map_or_else(|| END.to_owned(), |next| next.to_string());
    let start = start.map_or_else(|| position.clone(), |start| start.to_string());
    Ok(answer(&data, &start, &position))
}

fn answer(data: &[Value], start: &str, position: &str) -> Reply {
    Reply::json(&json!({
        "data": data,
        "meta": {"start": start, "position": position},
    }))
}

fn delayed_view(asked: &Asked, delayed: &DelayedMessage) -> Value {
    let now = asked.api.tenant.now();
    let seconds = |ms: u64| ms.div_ceil(1000);
    json!({
        "msgid": delayed.seq.0.to_string(),
        "node": asked.api.node(),
        "topic": delayed.message.subject.as_str(),
        "qos": qos(delayed.message.quality).bits(),
        "publish_at": rfc3339(delayed.since),
        "expected_at": rfc3339(delayed.due),
        "delayed_interval": seconds(delayed.due.0.saturating_sub(delayed.since.0)),
        "delayed_remaining": seconds(delayed.due.0.saturating_sub(now.0)),
    })
}

/// Messages that are looked at at a time to come to a page.
const STEP: usize = 1000;

/// Messages that are published later.
pub(super) async fn delayed(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let (page, api) = (page(asked)?, &asked.api);
    let count = api.tenant.delayed_count(&api.broker).await;
    let count = count.map_err(|error| broken(&error))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut skip, mut from, mut data) = (page.skip(), Seq(0), Vec::new());
    while data.len() < page.size {
        let found = api.tenant.delayed_messages(&api.broker, from, STEP).await;
        let (found, more) = found.map_err(|error| broken(&error))?;
        let Some(last) = found.last() else { break };
        from = last.seq.next();
        let shown = found.iter().skip(skip).take(page.size - data.len());
        data.extend(shown.map(|delayed| delayed_view(asked, delayed)));
        skip = skip.saturating_sub(found.len());
        if !more {
            break;
        }
    }
    Ok(paged(data, page, count))
}

fn number(text: &str) -> Option<Seq> {
    text.parse().ok().map(Seq)
}

fn no_message(id: &str) -> Reply {
    failed(
        404,
        "MESSAGE_ID_NOT_FOUND",
        &format!("no delayed message {id}"),
    )
}

async fn find(asked: &Asked, id: &str) -> Result<Option<DelayedMessage>, Trouble> {
    let (Some(seq), api) = (number(id), &asked.api) else {
        return Ok(None);
    };
    let found = api.tenant.delayed_messages(&api.broker, seq, 1).await;
    let (mut found, _) = found.map_err(|error| broken(&error))?;
    Ok(found.pop().filter(|found| found.seq == seq))
}

/// One of them, with its payload.
pub(super) async fn delayed_one(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let Some(delayed) = find(asked, id).await? else {
        return Ok(no_message(id));
    };
    let mut view = delayed_view(asked, &delayed);
    view["payload"] = payload(&delayed.message);
    Ok(Reply::json(&view))
}

fn payload(message: &SharedMessage) -> Value {
    if message.payload.len() > DELAYED_PAYLOAD_MAX {
        return "PAYLOAD_TO_LARGE".into();
    }
    Base64::encode_string(&message.payload).into()
}

/// Does not publish one of them after all.
pub(super) async fn forget_delayed(asked: &Asked, id: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let (Some(seq), api) = (number(id), &asked.api) else {
        return Ok(no_message(id));
    };
    let gone = api.tenant.forget_delayed(&api.broker, seq).await;
    let gone = gone.map_err(|error| broken(&error))?;
    Ok(if gone { Reply::done() } else { no_message(id) })
}
