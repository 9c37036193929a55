//! Who is kept out.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use tracing::info;

use super::{Answer, Shared, page};
use crate::backend::{AdminBackend, AdminError, ErrorKind};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let page = page(query.after.as_ref(), query.limit)?;
    Ok(Json(shared.backend.bans(page).await?).into_response())
}

type Named = Result<Path<(String, String)>, PathRejection>;

fn named(path: Named) -> Answer<(String, String)> {
    let Path(named) =
        path.map_err(|error| AdminError::new(ErrorKind::Invalid, error.body_text()))?;
    Ok(named)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BanQuery {
    for_ms: Option<u64>,
    #[serde(default)]
    reason: String,
}

pub(super) async fn set<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: Named,
    query: Result<Query<BanQuery>, QueryRejection>,
) -> Answer {
    let ((kind, value), Query(query)) = (named(path)?, query?);
    let ban = shared
        .backend
        .ban(&kind, &value, query.for_ms, &query.reason);
    let ban = ban.await?;
    info!(kind, value, "banned through the admin API");
    Ok(Json(ban).into_response())
}

pub(super) async fn remove<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: Named,
) -> Answer {
    let (kind, value) = named(path)?;
    shared.backend.unban(&kind, &value).await?;
    info!(kind, value, "a ban was ended through the admin API");
    Ok(StatusCode::NO_CONTENT.into_response())
}
