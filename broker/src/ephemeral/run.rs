//! Messages of one subject that are offered to every subscriber in one go.
//!
//! A publisher that sends a burst mostly sends it to one subject. Its subscribers then want all of it or nothing, so
//! that each is asked once: one lock, one copy of bytes that were encoded for all.

use bytes::Bytes;

use super::{Delivery, DropReason};
use crate::message::{Encodings, FormatId, Message, SharedMessage};
use longtail_model::Timestamp;

/// Two or more messages, one after the other, between which no subscription makes a difference: of one subject, one
/// publisher and one quality, not retained, and without an expiry.
#[derive(Debug)]
pub struct Run<'m> {
    messages: &'m [SharedMessage],
    payload_bytes: usize,
    encodings: Encodings,
}

impl<'m> Run<'m> {
    /// `messages` as a run; `None` if they are none.
    #[must_use]
    pub fn new(messages: &'m [SharedMessage]) -> Option<Self> {
        let (first, rest) = messages.split_first()?;
        let is_run = !rest.is_empty() && rest.iter().all(|next| Self::may_follow(first, next));
        is_run.then(|| Run {
            messages,
            payload_bytes: messages.iter().map(|message| message.payload.len()).sum(),
            encodings: Encodings::default(),
        })
    }

    /// Whether `next` can be in one run with `first`.
    #[must_use]
    pub fn may_follow(first: &Message, next: &Message) -> bool {
        let is_plain = |message: &Message| !message.retain && message.expires == Timestamp::NEVER;
        is_plain(first)
            && is_plain(next)
            && next.origin == first.origin
            && next.quality == first.quality
            && next.subject == first.subject
    }

    /// The messages in order.
    #[must_use]
    pub fn messages(&self) -> &'m [SharedMessage] {
        self.messages
    }

    /// Bytes of all payloads.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The whole run in a wire format, see [`Message::encoded`].
    pub fn encoded(
        &self,
        format: FormatId,
        encode: impl FnOnce(&[SharedMessage]) -> Bytes,
    ) -> std::borrow::Cow<'_, Bytes> {
        self.encodings.get_or_keep(format, || encode(self.messages))
    }
}

/// What became of the messages that one or several subscribers were offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Copies in outboxes.
    pub delivered: u64,
    /// Copies dropped, by reason.
    pub dropped: [u64; DropReason::ALL.len()],
}

impl Deliveries {
    /// Counts `count` copies of which the same has become.
    pub fn add(&mut self, outcome: Delivery, count: u64) {
        match outcome {
            Delivery::Delivered => self.delivered += count,
            Delivery::Dropped(reason) => self.dropped[reason as usize] += count,
        }
    }
}
