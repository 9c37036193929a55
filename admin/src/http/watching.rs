//! Traces, slow subscriptions, topics that are watched, and what was dropped.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::{Answer, Shared, bounded};
use crate::backend::{AdminBackend, AdminError, ErrorKind, Page};
use crate::watching::{DropFilter, NewTrace, SlowChange};

/// Bytes of lines in an answer that does not say how many, and at most.
const LINES_DEFAULT: usize = 64 << 10;
const LINES_MAX: usize = 1 << 20;

/// The routes.
pub(super) fn routes<B: AdminBackend>() -> Router<Shared<B>> {
    Router::new()
        .route("/traces", get(traces::<B>))
        .route(
            "/traces/{name}",
            get(trace::<B>)
                .post(begin_trace::<B>)
                .delete(delete_trace::<B>),
        )
        .route("/traces/{name}/stop", post(stop_trace::<B>))
        .route("/traces/{name}/lines", get(lines::<B>))
        .route(
            "/slow",
            get(slow::<B>)
                .post(change_slow::<B>)
                .delete(clear_slow::<B>),
        )
        .route("/topic-metrics", get(topics::<B>))
        .route("/topic-metrics/{topic}/reset", post(reset_topic::<B>))
        .route(
            "/topic-metrics/{topic}",
            post(watch_topic::<B>).delete(forget_topic::<B>),
        )
        .route("/drops", get(drops::<B>))
}

type Named = Result<Path<String>, PathRejection>;

fn named(path: Named) -> Answer<String> {
    let Path(name) =
        path.map_err(|error| AdminError::new(ErrorKind::Invalid, error.body_text()))?;
    Ok(name)
}

async fn traces<B: AdminBackend>(State(shared): State<Shared<B>>) -> Answer {
    Ok(Json(json!({ "items": shared.backend.traces()? })).into_response())
}

async fn trace<B: AdminBackend>(State(shared): State<Shared<B>>, path: Named) -> Answer {
    Ok(Json(shared.backend.trace(&named(path)?)?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    client: Option<String>,
    topic: Option<String>,
    address: Option<String>,
    for_ms: Option<u64>,
    payload: Option<String>,
}

impl TraceQuery {
    fn trace(self, name: String) -> Result<NewTrace, AdminError> {
        let named = [
            ("client", self.client),
            ("topic", self.topic),
            ("address", self.address),
        ];
        let mut named = named
            .into_iter()
            .filter_map(|(kind, value)| Some((kind, value?)));
        let (Some((kind, value)), None) = (named.next(), named.next()) else {
            return Err(AdminError::new(
                ErrorKind::Invalid,
                "a trace follows one client, topic or address",
            ));
        };
        Ok(NewTrace {
            name,
            kind: kind.to_owned(),
            value,
            for_ms: self.for_ms,
            payload: self.payload,
        })
    }
}

async fn begin_trace<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: Named,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Answer {
    let (name, Query(query)) = (named(path)?, query?);
    let trace = shared.backend.begin_trace(query.trace(name)?)?;
    info!(
        trace = trace.name,
        kind = trace.kind,
        value = trace.value,
        "a trace begins"
    );
    Ok((StatusCode::CREATED, Json(trace)).into_response())
}

async fn stop_trace<B: AdminBackend>(State(shared): State<Shared<B>>, path: Named) -> Answer {
    Ok(Json(shared.backend.stop_trace(&named(path)?)?).into_response())
}

async fn delete_trace<B: AdminBackend>(State(shared): State<Shared<B>>, path: Named) -> Answer {
    shared.backend.delete_trace(&named(path)?)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinesQuery {
    #[serde(default)]
    from: u64,
    max_bytes: Option<usize>,
}

async fn lines<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: Named,
    query: Result<Query<LinesQuery>, QueryRejection>,
) -> Answer {
    let (name, Query(query)) = (named(path)?, query?);
    let max = bounded(
        "max_bytes",
        query.max_bytes.unwrap_or(LINES_DEFAULT),
        LINES_MAX,
    )?;
    Ok(Json(shared.backend.trace_lines(&name, query.from, max)?).into_response())
}

async fn slow<B: AdminBackend>(State(shared): State<Shared<B>>) -> Answer {
    Ok(Json(shared.backend.slow()?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlowQuery {
    enabled: Option<bool>,
    threshold_ms: Option<u64>,
    expire_ms: Option<u64>,
    top: Option<u64>,
    span: Option<String>,
}

async fn change_slow<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<SlowQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let slow = shared.backend.change_slow(SlowChange {
        enabled: query.enabled,
        threshold_ms: query.threshold_ms,
        expire_ms: query.expire_ms,
        top: query.top,
        span: query.span,
    })?;
    info!(
        enabled = slow.enabled,
        threshold_ms = slow.threshold_ms,
        "slow subscriptions are looked for"
    );
    Ok(Json(slow).into_response())
}

async fn clear_slow<B: AdminBackend>(State(shared): State<Shared<B>>) -> Answer {
    shared.backend.clear_slow()?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn topics<B: AdminBackend>(State(shared): State<Shared<B>>) -> Answer {
    Ok(Json(json!({ "items": shared.backend.topics()? })).into_response())
}

async fn watch_topic<B: AdminBackend>(State(shared): State<Shared<B>>, path: Named) -> Answer {
    let topic = shared.backend.watch_topic(&named(path)?)?;
    Ok((StatusCode::CREATED, Json(topic)).into_response())
}

async fn forget_topic<B: AdminBackend>(State(shared): State<Shared<B>>, path: Named) -> Answer {
    shared.backend.forget_topic(&named(path)?)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn reset_topic<B: AdminBackend>(State(shared): State<Shared<B>>, path: Named) -> Answer {
    shared.backend.reset_topic(&named(path)?)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropsQuery {
    session: Option<String>,
    topic: Option<String>,
    limit: Option<usize>,
}

async fn drops<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<DropsQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let max = bounded(
        "limit",
        query.limit.unwrap_or(Page::LIMIT_DEFAULT),
        Page::LIMIT_MAX,
    )?;
    let filter = DropFilter {
        session: query.session,
        topic: query.topic,
    };
    Ok(Json(shared.backend.drops(&filter, max)?).into_response())
}
