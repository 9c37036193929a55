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
    /// What it is about, `/` between the tokens; empty: nothing is said.
    pub subject: &'a [u8],
    /// Names the message for whoever published it; empty: nameless.
    pub id: &'a [u8],
    /// What it belongs to; 0: nothing.
    pub key: u64,
    /// Encoded headers.
    pub headers: &'a [u8],
    /// The body.
    pub payload: &'a [u8],
}

impl Message<'_> {
    /// What counts as the message's size: subject, id, headers and body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.subject.len() + self.id.len() + self.headers.len() + self.payload.len()) as u64
    }
}
