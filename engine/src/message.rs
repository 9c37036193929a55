//! A message as it lies in the log.

use bytes::Bytes;
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
    /// The same, where the log keeps it in an allocation of its own: whoever passes it on need not copy it.
    pub shared: Option<&'a Bytes>,
}

impl<'a> Message<'a> {
    /// The body to keep: referred to where that is possible, otherwise copied.
    #[must_use]
    pub fn share(&self) -> Bytes {
        self.shared
            .cloned()
            .unwrap_or_else(|| Bytes::copy_from_slice(self.payload))
    }

    pub(crate) fn with_shared(self, body: &'a Bytes) -> Self {
        Message {
            payload: body,
            shared: Some(body),
            ..self
        }
    }

    /// What counts as the message's size: subject, id, headers and body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.subject.len() + self.id.len() + self.headers.len() + self.payload.len()) as u64
    }
}
