//! `/trace`, `/slow_subscriptions`, `/mqtt/topic_metrics`.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::{Answered, cut, failed, no_method, page};
use crate::http::clock::{parse, rfc3339};
use crate::http::request::{Asked, Reply, Trouble, flag, needed, number, text};
use crate::watch::slow::{SlowConfig, SlowView, Span, TOP_MAX};
use crate::watch::topics::{TopicError, TopicView};
use crate::watch::trace::{BYTES_MAX, Payload, Subject, TraceError, TraceSpec, TraceView};

/// Bytes of a trace's lines in one answer, unless it says how many.
const LOG_BYTES: usize = 1000;

/// The names of what is followed: EMQX's, ours, and EMQX's field with the value.
const KINDS: [(&str, &str, &str); 3] = [
    ("clientid", "client", "clientid"),
    ("topic", "topic", "topic"),
    ("ip_address", "address", "ip_address"),
];

pub(super) async fn trace(asked: &Asked, path: &[&str]) -> Answered {
    let (get, delete) = (asked.method == Method::GET, asked.method == Method::DELETE);
    Some(match path {
        [] if get => traces(asked).await,
        [] if asked.method == Method::POST => begin(asked).await,
        [] if delete => delete_all(asked).await,
        [name] if delete => delete_one(asked, name).await,
        [name, "stop"] if asked.method == Method::PUT => stop(asked, name).await,
        [name, "download"] if get => download(asked, name).await,
        [name, "log"] if get => log(asked, name).await,
        [name, "log_detail"] if get => log_detail(asked, name).await,
        [] | [_] | [_, "stop" | "download" | "log" | "log_detail"] => {
            return no_method(asked).await;
        }
        _ => return None,
    })
}

fn no_trace(name: &str) -> Trouble {
    Trouble::Missing(format!("{name} not found"))
}

fn trace_view(asked: &Asked, view: &TraceView) -> Value {
    let kind = KINDS
        .iter()
        .find(|(_, ours, _)| *ours == view.subject.kind());
    let (kind, field) = kind.map_or(("", ""), |(name, _, field)| (name, field));
    let mut shown = json!({
        "name": view.name,
        "type": kind,
        "status": view.status.name(),
        "start_at": rfc3339(view.start),
        "end_at": rfc3339(view.end),
        "payload_encode": view.payload.name(),
        "formatter": "text",
        "log_size": {asked.api.node(): view.bytes},
    });
    shown[field] = view.subject.value().into();
    shown
}

async fn traces(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let views = asked.api.tenant.watch().traces.list();
    let all: Vec<_> = views.iter().map(|view| trace_view(asked, view)).collect();
    Ok(Reply::json(&all.into()))
}

async fn begin(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let body = asked.object()?;
    let kind = needed(&body, "type")?;
    let known = KINDS.iter().find(|(name, _, _)| *name == kind);
    let (_, ours, field) = known.ok_or_else(|| Trouble::Bad(format!("type: {kind:?}")))?;
    let value = needed(&body, field)?;
    if let Some(other) = text(&body, "formatter")?.filter(|other| *other != "text") {
        return Err(Trouble::Unsupported(format!("lines are text, not {other}")));
    }
    let time = |name: &'static str| match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let wrong = || Trouble::Bad(format!("{name}: {text:?} is no time"));
            parse(&text).map(Some).ok_or_else(wrong)
        }
    };
    let payload = text(&body, "payload_encode")?.unwrap_or("text");
    let spec = TraceSpec {
        name: needed(&body, "name")?.to_owned(),
        subject: Subject::new(ours, value).map_err(|error| Trouble::Bad(error.to_string()))?,
        start: time("start_at")?,
        end: time("end_at")?,
        payload: Payload::named(payload)
            .ok_or_else(|| Trouble::Bad(format!("payload_encode: {payload:?}")))?,
    };
    match asked.api.tenant.watch().traces.begin(spec) {
        Ok(view) => Ok(Reply::json(&trace_view(asked, &view))),
        Err(error @ TraceError::Exists(_)) => Err(Trouble::Exists(error.to_string())),
        Err(error @ TraceError::Full) => Ok(failed(400, "EXCEED_LIMIT", &error.to_string())),
        Err(error) => Ok(failed(400, "INVALID_PARAMS", &error.to_string())),
    }
}

async fn delete_all(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let traces = &asked.api.tenant.watch().traces;
    for view in traces.list() {
        traces.delete(&view.name);
    }
    Ok(Reply::done())
}

async fn delete_one(asked: &Asked, name: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    if asked.api.tenant.watch().traces.delete(name) {
        Ok(Reply::done())
    } else {
        Err(no_trace(name))
    }
}

async fn stop(asked: &Asked, name: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let stopped = asked.api.tenant.watch().traces.stop(name);
    let view = stopped.ok_or_else(|| no_trace(name))?;
    Ok(Reply::json(&json!({"name": view.name, "enable": false})))
}

async fn download(asked: &Asked, name: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let part = asked.api.tenant.watch().traces.read(name, 0, BYTES_MAX);
    part.map(|part| Reply::text(part.text))
        .ok_or_else(|| no_trace(name))
}

async fn log(asked: &Asked, name: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let position = asked.query.number("position")?.unwrap_or(0);
    let bytes = asked
        .query
        .number("bytes")?
        .unwrap_or(LOG_BYTES)
        .min(BYTES_MAX);
    let part = asked
        .api
        .tenant
        .watch()
        .traces
        .read(name, position as u64, bytes);
    let part = part.ok_or_else(|| no_trace(name))?;
    Ok(Reply::json(&json!({
        "meta": {"position": part.position, "bytes": part.text.len()},
        "items": part.text,
    })))
}

async fn log_detail(asked: &Asked, name: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let views = asked.api.tenant.watch().traces.list();
    let view = views.iter().find(|view| view.name == name);
    let view = view.ok_or_else(|| no_trace(name))?;
    Ok(Reply::json(&json!([{
        "node": asked.api.node(), "size": view.bytes, "mtime": view.end.0.min(asked.api.tenant.now().0),
    }])))
}

pub(super) async fn slow(asked: &Asked, path: &[&str]) -> Answered {
    Some(match path {
        [] if asked.method == Method::GET => slow_list(asked).await,
        [] if asked.method == Method::DELETE => slow_clear(asked).await,
        ["settings"] if asked.method == Method::GET => slow_settings(asked).await,
        ["settings"] if asked.method == Method::PUT => slow_configure(asked).await,
        [] | ["settings"] => return no_method(asked).await,
        _ => return None,
    })
}

fn slow_view(asked: &Asked, view: &SlowView) -> Value {
    json!({
        "clientid": &*view.client_id,
        "topic": &*view.topic,
        "timespan": view.ms,
        "node": asked.api.node(),
        "last_update_time": view.at.0,
    })
}

async fn slow_list(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let page = page(asked)?;
    let views = asked.api.tenant.watch().slow.list();
    Ok(cut(
        views.iter().map(|view| slow_view(asked, view)).collect(),
        page,
    ))
}

async fn slow_clear(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    asked.api.tenant.watch().slow.clear();
    Ok(Reply::done())
}

fn settings(config: &SlowConfig) -> Value {
    json!({
        "enable": config.enabled,
        "threshold": format!("{}ms", config.threshold_ms),
        "expire_interval": format!("{}ms", config.expire_ms),
        "top_k_num": config.top,
        "stats_type": config.span.name(),
    })
}

async fn slow_settings(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    Ok(Reply::json(&settings(
        &asked.api.tenant.watch().slow.config(),
    )))
}

/// A time as EMQX writes it: `500ms`, `10s`, `5m`, `1h`, or a number of milliseconds.
fn duration(body: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Trouble> {
    let wrong = || Trouble::Bad(format!("{name} is a time such as 500ms, 10s or 5m"));
    let text = match body.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "" | "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(Some).ok_or_else(wrong)
}

async fn slow_configure(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let body = asked.object()?;
    let slow = &asked.api.tenant.watch().slow;
    let old = slow.config();
    let top = number(&body, "top_k_num")?.unwrap_or(old.top as u64);
    let top = usize::try_from(top)
        .ok()
        .filter(|top| (1..=TOP_MAX).contains(top));
    let span = match text(&body, "stats_type")? {
        None => old.span,
        Some(name) => {
            Span::named(name).ok_or_else(|| Trouble::Bad(format!("stats_type: {name:?}")))?
        }
    };
    let config = SlowConfig {
        enabled: flag(&body, "enable")?.unwrap_or(old.enabled),
        threshold_ms: duration(&body, "threshold")?.unwrap_or(old.threshold_ms),
        expire_ms: duration(&body, "expire_interval")?.unwrap_or(old.expire_ms),
        top: top.ok_or_else(|| Trouble::Bad(format!("top_k_num is 1 to {TOP_MAX}")))?,
        span,
    };
    slow.configure(config);
    Ok(Reply::json(&settings(&slow.config())))
}

pub(super) async fn topic_metrics(asked: &Asked, path: &[&str]) -> Answered {
    let (get, delete) = (asked.method == Method::GET, asked.method == Method::DELETE);
    Some(match path {
        [] if get => topics(asked).await,
        [] if asked.method == Method::POST => watch(asked).await,
        [] if asked.method == Method::PUT => reset(asked).await,
        [topic] if get => topic_one(asked, topic).await,
        [topic] if delete => forget(asked, topic).await,
        [] | [_] => return no_method(asked).await,
        _ => return None,
    })
}

fn topic_view(view: &TopicView) -> Value {
    let ([in0, in1, in2], [out0, out1, out2]) = (view.counts.received, view.counts.sent);
    let [rin0, rin1, rin2, rout0, rout1, rout2, rdropped] = view.rates;
    let rounded = |rate: f64| (rate * 100.0).round() / 100.0;
    let mut metrics = Map::new();
    for (name, count, rate) in [
        ("in", in0 + in1 + in2, rin0 + rin1 + rin2),
        ("out", out0 + out1 + out2, rout0 + rout1 + rout2),
        ("qos0.in", in0, rin0),
        ("qos1.in", in1, rin1),
        ("qos2.in", in2, rin2),
        ("qos0.out", out0, rout0),
        ("qos1.out", out1, rout1),
        ("qos2.out", out2, rout2),
        ("dropped", view.counts.dropped, rdropped),
    ] {
        metrics.insert(format!("messages.{name}.count"), count.into());
        metrics.insert(format!("messages.{name}.rate"), rounded(rate).into());
    }
    let mut shown = json!({
        "topic": view.topic,
        "create_time": rfc3339(view.since),
        "metrics": metrics,
    });
    if let Some(at) = view.reset {
        shown["reset_time"] = rfc3339(at).into();
    }
    shown
}

fn no_topic(topic: &str) -> Reply {
    failed(404, "TOPIC_NOT_FOUND", &format!("{topic} is not watched"))
}

async fn topics(asked: &Asked) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let views = asked.api.tenant.watch().topics.list();
    let all: Vec<_> = views.iter().map(topic_view).collect();
    Ok(Reply::json(&all.into()))
}

async fn topic_one(asked: &Asked, topic: &str) -> Result<Reply, Trouble> {
    asked.looks().await?;
    let view = asked.api.tenant.watch().topics.get(topic);
    Ok(view.map_or_else(|| no_topic(topic), |view| Reply::json(&topic_view(&view))))
}

async fn watch(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let body = asked.object()?;
    let watched = asked
        .api
        .tenant
        .watch()
        .topics
        .watch(needed(&body, "topic")?);
    Ok(match watched {
        Ok(view) => Reply::json(&topic_view(&view)),
        Err(error @ TopicError::Full) => failed(409, "EXCEED_LIMIT", &error.to_string()),
        Err(error) => failed(400, "BAD_TOPIC", &error.to_string()),
    })
}

async fn reset(asked: &Asked) -> Result<Reply, Trouble> {
    asked.changes().await?;
    let body = asked.object()?;
    if needed(&body, "action")? != "reset" {
        return Err(Trouble::Bad("the only action is reset".to_owned()));
    }
    let topic = text(&body, "topic")?;
    let done = asked.api.tenant.watch().topics.reset(topic);
    Ok(match topic {
        Some(topic) if !done => no_topic(topic),
        _ => Reply::done(),
    })
}

async fn forget(asked: &Asked, topic: &str) -> Result<Reply, Trouble> {
    asked.changes().await?;
    Ok(if asked.api.tenant.watch().topics.forget(topic) {
        Reply::done()
    } else {
        no_topic(topic)
    })
}
