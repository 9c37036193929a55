//! Sessions and their subscriptions.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use tracing::info;

use super::{Answer, Shared, page};
use crate::backend::{AdminBackend, AdminError, ErrorKind, SessionFilter, SubscriptionFilter};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionsQuery {
    #[serde(default)]
    contains: String,
    connected: Option<bool>,
    matches: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<SessionsQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let page = page(query.after.as_ref(), query.limit)?;
    let filter = SessionFilter {
        contains: query.contains,
        connected: query.connected,
        matches: query.matches,
    };
    Ok(Json(shared.backend.sessions(&filter, page).await?).into_response())
}

type Id = Result<Path<String>, PathRejection>;

fn id(path: Id) -> Answer<String> {
    let Path(id) = path.map_err(|error| AdminError::new(ErrorKind::Invalid, error.body_text()))?;
    Ok(id)
}

pub(super) async fn show<B: AdminBackend>(State(shared): State<Shared<B>>, path: Id) -> Answer {
    Ok(Json(shared.backend.session(&id(path)?).await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndQuery {
    #[serde(default)]
    forget: bool,
}

pub(super) async fn end<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: Id,
    query: Result<Query<EndQuery>, QueryRejection>,
) -> Answer {
    let (id, Query(query)) = (id(path)?, query?);
    shared.backend.end_session(&id, query.forget).await?;
    info!(
        session = id,
        forgotten = query.forget,
        "a client was disconnected through the admin API"
    );
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionsQuery {
    session: Option<String>,
    #[serde(default)]
    contains: String,
    matches: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn subscriptions<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<SubscriptionsQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let page = page(query.after.as_ref(), query.limit)?;
    let filter = SubscriptionFilter {
        session: query.session,
        contains: query.contains,
        matches: query.matches,
    };
    Ok(Json(shared.backend.subscriptions(&filter, page).await?).into_response())
}
