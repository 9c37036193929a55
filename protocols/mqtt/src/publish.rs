//! From a publisher to whoever wants the message.

use std::cell::RefCell;
use std::sync::Arc;

use longtail_broker::Space;
use longtail_broker::ephemeral::{Burst, SpaceRouteCache};
use longtail_broker::message::{Message, SharedMessage};
use longtail_broker::retained::RetainedError;
use longtail_broker::router::Chance;
use longtail_model::Timestamp;

use crate::codec::ReasonCode;

/// What a thread keeps to publish fast.
#[derive(Default)]
struct Publisher {
    routes: SpaceRouteCache,
    random: u64,
}

thread_local! {
    static PUBLISHER: RefCell<Publisher> = RefCell::default();
}

/// Publishes to the live subscribers and the retained values of `space`; says what the publisher is to be told. No lock
/// may be held.
pub(crate) fn publish(
    space: &Space,
    burst: &mut Burst<'_>,
    message: &SharedMessage,
    now: Timestamp,
) -> ReasonCode {
    let mut kept = false;
    if message.retain {
        // Before it is shown: a new subscriber never sees the old value after the new one.
        match retain(space, message) {
            Ok(()) => kept = true,
            Err(error) => {
                tracing::warn!(topic = %message.subject, %error, "a message is not retained");
                return ReasonCode::QuotaExceeded;
            }
        }
    }
    let published = PUBLISHER.with_borrow_mut(|publisher| {
        let Publisher { routes, random } = publisher;
        // An xorshift: only the spreading over the members of a share depends on it.
        *random = if *random == 0 { now.0 | 1 } else { *random };
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let chance = Chance {
            random: *random,
            sticky: message.origin.0,
        };
        let routes = routes.lookup(&space.router, message.subject.as_ref());
        burst.publish(routes, message, &chance, now)
    });
    if published.has_matched() || kept {
        ReasonCode::Success
    } else {
        ReasonCode::NoMatchingSubscribers
    }
}

fn retain(space: &Space, message: &SharedMessage) -> Result<(), RetainedError> {
    if message.payload.is_empty() {
        let _ = space.retained.clear(&message.subject, Box::new(|_| ()));
        return Ok(());
    }
    // A copy, so that the store does not keep the bytes that were sent to subscribers.
    let value = Message {
        reply_to: message.reply_to.clone(),
        headers: message.headers.clone(),
        origin: message.origin,
        published: message.published,
        expires: message.expires,
        quality: message.quality,
        retain: true,
        ..Message::new(message.subject.clone(), message.payload.clone())
    };
    space
        .retained
        .set(Arc::new(value), Box::new(|_| ()))
        .map(|_| ())
}
