//! The read rate of one connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::limits::TokenBucket;

/// Holds a connection to its read rate.
pub(super) struct Pace {
    bucket: TokenBucket,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64, now: Duration) -> Self {
        Pace {
            bucket: TokenBucket::new(bytes_per_second, bytes_per_second, now),
            rest: None,
        }
    }

    pub(super) fn took(&mut self, bytes: usize, now: Duration) {
        let wait = self.bucket.take(bytes as u64, now);
        if !wait.is_zero() {
            self.rest = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        Poll::Ready(())
    }
}
