//! The routes. Each handler checks limits, asks the backend, and writes JSON.

mod answer;
mod bans;
mod follow;
mod retained;
mod sessions;
#[cfg(test)]
mod tests;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tracing::info;

use crate::access::Access;
use crate::backend::{AdminBackend, AdminError, ErrorKind, NewMessage, Page, StreamRef, Target};
use crate::metrics;
use answer::Failed;

/// Messages in a batch that does not say how many.
const BATCH_DEFAULT: usize = 20;
/// Messages in a batch at most.
const BATCH_MAX: usize = 1000;
/// Longest wait of a long poll, in milliseconds.
const WAIT_MAX_MS: u64 = 30_000;

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may ask.
    pub access: Access,
    /// Largest body of a request, in bytes.
    pub body_bytes: usize,
    /// Streams with time series of their own in `/metrics`.
    pub streams_max: usize,
}

/// What handlers share.
struct Shared<B> {
    backend: Arc<B>,
    options: Options,
    /// True once the service shuts down: what would go on for ever ends then.
    stopping: watch::Receiver<bool>,
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Shared {
            backend: Arc::clone(&self.backend),
            options: self.options.clone(),
            stopping: self.stopping.clone(),
        }
    }
}

type Answer<T = Response> = Result<T, Failed>;

/// All routes over `backend`. Endless answers end when `stopping` becomes true.
pub(crate) fn router<B: AdminBackend>(
    backend: Arc<B>,
    options: Options,
    stopping: watch::Receiver<bool>,
) -> Router {
    let body_bytes = options.body_bytes;
    let shared = Shared {
        backend,
        options,
        stopping,
    };
    let stream = Router::new()
        .route("/", get(stream::<B>))
        .route("/groups", get(groups::<B>))
        .route("/messages", get(browse::<B>).post(publish_to_stream::<B>))
        .route("/follow", get(follow::stream::<B>))
        .route("/purge", post(purge::<B>))
        .route("/pause", post(pause::<B>));
    let api = Router::new()
        .route("/status", get(status::<B>))
        .route("/streams", get(streams::<B>))
        .nest("/spaces/{space}/streams/{stream}", stream)
        .route("/spaces/{space}/publish", post(publish_to_subject::<B>))
        .route("/spaces/{space}/follow", get(follow::subject::<B>))
        .route("/connections", get(connections::<B>))
        .route("/connections/{id}", delete(kick::<B>))
        .route("/sessions", get(sessions::list::<B>))
        .route(
            "/sessions/{id}",
            get(sessions::show::<B>).delete(sessions::end::<B>),
        )
        .route("/subscriptions", get(sessions::subscriptions::<B>))
        .route("/bans", get(bans::list::<B>))
        .route(
            "/bans/{kind}/{value}",
            post(bans::set::<B>).delete(bans::remove::<B>),
        )
        .merge(watching::routes::<B>())
        .route("/spaces/{space}/retained", get(retained::list::<B>))
        .route(
            "/spaces/{space}/retained/{subject}",
            get(retained::show::<B>).delete(retained::forget::<B>),
        );
    let closed = Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics_page::<B>))
        .nest("/api/v1", api)
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(shared.clone(), admit::<B>));
    // Probes come from a supervisor that has no token and says nothing anybody could misuse.
    let open = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz::<B>));
    open.merge(closed)
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(shared)
}

async fn admit<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    request: Request,
    next: Next,
) -> Response {
    match shared
        .options
        .access
        .check(request.method(), request.uri().path(), request.headers())
    {
        Ok(()) => next.run(request).await,
        Err(denied) => Failed::Denied(denied).into_response(),
    }
}

async fn index() -> &'static str {
    "Longtail admin service\n\n/healthz  /readyz  /metrics\n/api/v1/status  /api/v1/streams  /api/v1/connections  /api/v1/sessions\n/api/v1/bans  /api/v1/traces  /api/v1/slow  /api/v1/topic-metrics  /api/v1/drops\n"
}

async fn nothing_here() -> Failed {
    AdminError::new(ErrorKind::NotFound, "there is nothing at this path")
        .hint("docs/admin-api.md lists the paths")
        .into()
}

async fn wrong_method() -> Failed {
    Failed::Method
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz<B: AdminBackend>(State(shared): State<Shared<B>>) -> Response {
    let health = shared.backend.health();
    let status = if health.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

async fn metrics_page<B: AdminBackend>(State(shared): State<Shared<B>>) -> Answer {
    let mut snapshot = shared.backend.metrics(shared.options.streams_max).await?;
    snapshot.cap_streams(shared.options.streams_max);
    let text = metrics::render(snapshot).map_err(|error| {
        AdminError::new(
            ErrorKind::Internal,
            format!("cannot write the metrics: {error}"),
        )
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn status<B: AdminBackend>(State(shared): State<Shared<B>>) -> Answer {
    Ok(Json(shared.backend.status().await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    space: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl ListQuery {
    fn page(&self) -> Answer<Page> {
        page(self.after.as_ref(), self.limit)
    }
}

fn page(after: Option<&String>, limit: Option<usize>) -> Answer<Page> {
    let limit = limit.unwrap_or(Page::LIMIT_DEFAULT);
    Ok(Page {
        after: after.cloned(),
        limit: bounded("limit", limit, Page::LIMIT_MAX)?,
    })
}

fn bounded(name: &str, value: usize, max: usize) -> Answer<usize> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(AdminError::new(
            ErrorKind::Invalid,
            format!("{name} must be 1 to {max}, not {value}"),
        )
        .into())
    }
}

async fn streams<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let page = query.page()?;
    Ok(Json(shared.backend.streams(query.space.as_deref(), page).await?).into_response())
}

/// `{space}` and `{stream}` of a path.
type StreamPath = Path<(String, String)>;

fn named(Path((space, name)): StreamPath) -> StreamRef {
    StreamRef { space, name }
}

async fn stream<B: AdminBackend>(State(shared): State<Shared<B>>, path: StreamPath) -> Answer {
    Ok(Json(shared.backend.stream(&named(path)).await?).into_response())
}

async fn groups<B: AdminBackend>(State(shared): State<Shared<B>>, path: StreamPath) -> Answer {
    Ok(Json(json!({ "items": shared.backend.groups(&named(path)).await? })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BrowseQuery {
    from: Option<u64>,
    limit: Option<usize>,
    wait_ms: Option<u64>,
}

async fn browse<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: StreamPath,
    query: Result<Query<BrowseQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let limit = bounded("limit", query.limit.unwrap_or(BATCH_DEFAULT), BATCH_MAX)?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0).min(WAIT_MAX_MS));
    let mut stopping = shared.stopping.clone();
    let stream = named(path);
    tokio::select! {
        batch = shared.backend.browse(&stream, query.from.unwrap_or(0), limit, wait) => Ok(Json(batch?).into_response()),
        _ = stopping.wait_for(|stop| *stop), if !wait.is_zero() => {
            Err(AdminError::new(ErrorKind::Unavailable, "the server is stopping").into())
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishQuery {
    /// Only for a publish to a subject.
    subject: Option<String>,
    priority: Option<u32>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    ack_timeout_ms: u64,
}

impl PublishQuery {
    fn message(&self, body: Bytes) -> NewMessage {
        NewMessage {
            body,
            priority: self.priority,
            delay_ms: self.delay_ms,
            ack_timeout_ms: self.ack_timeout_ms,
        }
    }
}

async fn publish_to_stream<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: StreamPath,
    query: Result<Query<PublishQuery>, axum::extract::rejection::QueryRejection>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Answer {
    let Query(query) = query?;
    if query.subject.is_some() {
        return Err(
            AdminError::new(ErrorKind::Invalid, "a stream takes no subject")
                .hint("POST /api/v1/spaces/SPACE/publish?subject=...")
                .into(),
        );
    }
    let message = query.message(body?);
    let published = shared
        .backend
        .publish(Target::Stream(named(path)), message)
        .await?;
    Ok((StatusCode::CREATED, Json(published)).into_response())
}

async fn publish_to_subject<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    Path(space): Path<String>,
    query: Result<Query<PublishQuery>, axum::extract::rejection::QueryRejection>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Answer {
    let Query(query) = query?;
    let message = query.message(body?);
    let Some(subject) = query.subject.filter(|subject| !subject.is_empty()) else {
        return Err(AdminError::new(ErrorKind::Invalid, "the query needs a subject").into());
    };
    let published = shared
        .backend
        .publish(Target::Subject { space, subject }, message)
        .await?;
    Ok((StatusCode::CREATED, Json(published)).into_response())
}

async fn purge<B: AdminBackend>(State(shared): State<Shared<B>>, path: StreamPath) -> Answer {
    let stream = named(path);
    let purged = shared.backend.purge(&stream).await?;
    info!(%stream, messages = purged.messages, "purged through the admin API");
    Ok(Json(purged).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseQuery {
    duration_ms: u64,
}

async fn pause<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: StreamPath,
    query: Result<Query<PauseQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let stream = named(path);
    shared.backend.pause(&stream, query.duration_ms).await?;
    info!(%stream, duration_ms = query.duration_ms, "paused through the admin API");
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn connections<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    if query.space.is_some() {
        return Err(AdminError::new(ErrorKind::Invalid, "connections have no space").into());
    }
    Ok(Json(shared.backend.connections(query.page()?).await?).into_response())
}

async fn kick<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    id: Result<Path<u64>, axum::extract::rejection::PathRejection>,
) -> Answer {
    let Path(id) = id.map_err(|error| AdminError::new(ErrorKind::Invalid, error.body_text()))?;
    shared.backend.kick(id).await?;
    info!(connection = id, "closed through the admin API");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// An answer of one JSON document a line.
fn lines(body: Body) -> Response {
    (
        [
            (header::CONTENT_TYPE, "application/x-ndjson"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        body,
    )
        .into_response()
}
