//! A message as it lies in the log.

use longtail_model::{Priority, Timestamp};

/// A view of one message record; borrows from the log's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// When it was published.
    pub created: Timestamp,
    /// The priority it was published with.
    pub priority: Priority,
    /// The delay it was published with, in milliseconds.
    pub delay_ms: u64,
    /// How long it may be held, in milliseconds; 0: the group's default.
    pub ack_timeout_ms: u64,
    /// When it expires; [`Timestamp::NEVER`] if it does not.
    pub expires: Timestamp,
    /// Encoded headers.
    pub headers: &'a [u8],
    /// The body.
    pub payload: &'a [u8],
}
