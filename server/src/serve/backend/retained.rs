//! Retained messages, as the admin service shows them.

use std::sync::Arc;

use longtail::Broker;
use longtail_admin::shapes::{Body, Listing, RetainedMessage, RetainedStatus};
use longtail_admin::{AdminError, ErrorKind, Notation, Page};
use longtail_broker::message::SharedMessage;
use longtail_broker::retained::{RetainedCursor, Settled};
use longtail_engine::Refusal;
use longtail_model::{DollarRule, Filter, Subject, SubjectRef, Timestamp};
use tokio::sync::oneshot;

use super::{Answer, wording};

/// Entries that are looked at while the store is locked.
const STEP: usize = 256;

fn text(subject: SubjectRef<'_>, notation: Notation) -> String {
    match notation {
        Notation::Dots => subject.to_dotted(),
        Notation::Slashes => subject.as_str().to_owned(),
    }
}

fn parse(text: &str, notation: Notation) -> Answer<Subject> {
    let parsed = match notation {
        Notation::Dots => Subject::parse_nats(text),
        Notation::Slashes => Subject::parse_mqtt(text),
    };
    parsed.map_err(|error| wording::subject(text, &error))
}

/// A page; its cursor is its last subject.
pub(super) fn list(
    broker: &Broker,
    space: &str,
    filter: Option<&str>,
    notation: Notation,
    page: &Page,
) -> Answer<Listing<RetainedStatus>> {
    let filter = match (filter, notation) {
        (None, _) => Filter::everything(),
        (Some(text), Notation::Dots) => {
            Filter::parse_nats(text).map_err(|error| wording::subject(text, &error))?
        }
        (Some(text), Notation::Slashes) => {
            Filter::parse_mqtt(text).map_err(|error| wording::subject(text, &error))?
        }
    };
    let mut cursor = RetainedCursor::new(filter, DollarRule::Match);
    if let Some(after) = &page.after {
        cursor = cursor.behind(parse(after, notation)?);
    }
    let space = broker.space(space).map_err(wording::broker)?;
    let now = broker.clock().now();
    let mut found = Vec::new();
    let mut more = true;
    while more && found.len() < page.limit {
        // Not one entry beyond the page: where a walk stands is known by what it has found last.
        let most = STEP.min(page.limit - found.len());
        more = cursor.step(&space.retained, now, most, &mut found);
    }
    let next = found
        .last()
        .filter(|_| more)
        .map(|last| text(last.subject.as_ref(), notation));
    Ok(Listing {
        items: found.iter().map(|found| status(found, notation)).collect(),
        next,
    })
}

fn status(message: &SharedMessage, notation: Notation) -> RetainedStatus {
    RetainedStatus {
        subject: text(message.subject.as_ref(), notation),
        bytes: message.payload.len() as u64,
        published_ms: message.published.0,
        expires_ms: (message.expires != Timestamp::NEVER).then_some(message.expires.0),
    }
}

fn none(subject: &str) -> AdminError {
    AdminError::new(
        ErrorKind::NotFound,
        format!("no message is retained for {subject}"),
    )
    .hint("GET /api/v1/spaces/SPACE/retained lists what there is")
}

pub(super) fn show(
    broker: &Broker,
    space: &str,
    subject: &str,
    notation: Notation,
) -> Answer<RetainedMessage> {
    let space = broker.space(space).map_err(wording::broker)?;
    let found = space
        .retained
        .get(&parse(subject, notation)?, broker.clock().now())
        .ok_or_else(|| none(subject))?;
    let headers = found.headers.iter().filter_map(|header| {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        Some((text(&header.name)?, text(&header.value)?))
    });
    Ok(RetainedMessage {
        status: status(&found, notation),
        headers: headers.collect(),
        body: Body::new(&found.payload),
    })
}

pub(super) async fn forget(
    broker: &Arc<Broker>,
    space: &str,
    subject: &str,
    notation: Notation,
) -> Answer<()> {
    let space = broker.space(space).map_err(wording::broker)?;
    let parsed = parse(subject, notation)?;
    if space.retained.get(&parsed, broker.clock().now()).is_none() {
        return Err(none(subject));
    }
    let (tell, told) = oneshot::channel::<Result<(), Refusal>>();
    let done = Box::new(move |outcome| {
        // Nobody listens when the operator has hung up.
        let _ = tell.send(outcome);
    });
    match space.retained.clear(&parsed, done) {
        Settled::Now => Ok(()),
        Settled::Later => {
            broker.shards().run();
            match told.await {
                Ok(outcome) => outcome.map_err(|refusal| wording::refused(&refusal)),
                Err(_) => Err(wording::closed()),
            }
        }
    }
}
