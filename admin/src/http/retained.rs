//! Retained messages.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use tracing::info;

use super::{Answer, Shared, page};
use crate::backend::{AdminBackend, Notation};

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NotationName {
    #[default]
    Dots,
    Slashes,
}

impl From<NotationName> for Notation {
    fn from(name: NotationName) -> Self {
        match name {
            NotationName::Dots => Notation::Dots,
            NotationName::Slashes => Notation::Slashes,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    filter: Option<String>,
    #[serde(default)]
    notation: NotationName,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    Path(space): Path<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let page = page(query.after.as_ref(), query.limit)?;
    let listing = shared
        .backend
        .retained(&space, query.filter.as_deref(), query.notation.into(), page)
        .await?;
    Ok(Json(listing).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OneQuery {
    #[serde(default)]
    notation: NotationName,
}

pub(super) async fn show<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    Path((space, subject)): Path<(String, String)>,
    query: Result<Query<OneQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let message = shared
        .backend
        .retained_message(&space, &subject, query.notation.into())
        .await?;
    Ok(Json(message).into_response())
}

pub(super) async fn forget<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    Path((space, subject)): Path<(String, String)>,
    query: Result<Query<OneQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    shared
        .backend
        .forget_retained(&space, &subject, query.notation.into())
        .await?;
    info!(
        space,
        subject, "a retained message was deleted through the admin API"
    );
    Ok(StatusCode::NO_CONTENT.into_response())
}
