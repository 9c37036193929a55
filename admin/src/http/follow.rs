//! Answers that go on: a stream or a subject as one JSON document a line.
//!
//! An empty line is a sign of life, so that both ends notice when the other is gone. The client's pace is the limit:
//! nothing is read from the backend before the previous lines are written.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{Answer, Shared, StreamPath, lines, named};
use crate::backend::{AdminBackend, AdminError, ErrorKind, StreamRef};
use crate::shapes::{LiveMessage, Problem};

/// Messages read in one go.
const BATCH: usize = 100;
/// Time between two signs of life.
const ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// Absent: what is published from now on.
    from: Option<u64>,
}

pub(super) async fn stream<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    path: StreamPath,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let stream = named(path);
    let info = shared.backend.stream(&stream).await?;
    let from = query.from.unwrap_or(info.next);
    let state = Some(Following { shared, stream, from });
    Ok(lines(Body::from_stream(stream::unfold(state, |state| async move { state?.next().await }))))
}

struct Following<B> {
    shared: Shared<B>,
    stream: StreamRef,
    from: u64,
}

/// Some lines and how to get more; no error, because the status line is long gone.
type Step<S> = Option<(Result<Bytes, std::convert::Infallible>, Option<S>)>;

impl<B: AdminBackend> Following<B> {
    async fn next(mut self) -> Step<Self> {
        let read = {
            let read = self.shared.backend.browse(&self.stream, self.from, BATCH, ALIVE);
            tokio::select! {
                read = read => read,
                () = stopped(&mut self.shared.stopping) => return None,
            }
        };
        match read {
            Ok(batch) => {
                self.from = batch.next;
                Some((Ok(documents(&batch.messages)), Some(self)))
            }
            Err(error) => Some((Ok(last_words(error)), None)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubjectQuery {
    subject: Option<String>,
}

pub(super) async fn subject<B: AdminBackend>(
    State(shared): State<Shared<B>>,
    Path(space): Path<String>,
    query: Result<Query<SubjectQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query?;
    let Some(subject) = query.subject.filter(|subject| !subject.is_empty()) else {
        return Err(AdminError::new(ErrorKind::Invalid, "the query needs a subject").hint("`>` means all").into());
    };
    let messages = shared.backend.subscribe(&space, &subject).await?;
    let state = Some((messages, shared.stopping.clone()));
    Ok(lines(Body::from_stream(stream::unfold(state, |state| async move {
        let (messages, stopping) = state?;
        next_live(messages, stopping).await
    }))))
}

type Live = (mpsc::Receiver<LiveMessage>, watch::Receiver<bool>);

async fn next_live(mut messages: mpsc::Receiver<LiveMessage>, mut stopping: watch::Receiver<bool>) -> Step<Live> {
    let received = tokio::select! {
        received = timeout(ALIVE, messages.recv()) => received,
        () = stopped(&mut stopping) => return None,
    };
    match received {
        Ok(Some(first)) => {
            let mut batch = vec![first];
            while let Some(more) = (batch.len() < BATCH).then(|| messages.try_recv().ok()).flatten() {
                batch.push(more);
            }
            Some((Ok(documents(&batch)), Some((messages, stopping))))
        }
        Ok(None) => None,
        Err(_) => Some((Ok(Bytes::from_static(b"\n")), Some((messages, stopping)))),
    }
}

/// Ends when the service shuts down, also when whoever would say so is gone.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn documents<T: Serialize>(items: &[T]) -> Bytes {
    let mut out = Vec::new();
    for item in items {
        // Plain data into memory: nothing here can fail.
        if serde_json::to_writer(&mut out, item).is_ok() {
            out.push(b'\n');
        }
    }
    if out.is_empty() {
        out.push(b'\n');
    }
    out.into()
}

fn last_words(error: AdminError) -> Bytes {
    documents(&[Problem { error: error.message, hint: error.hint }])
}
