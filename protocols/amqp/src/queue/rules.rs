//! What arguments and policies can both say of a queue, and how the two go together.

use std::sync::Arc;

/// What becomes of a message that is too much for a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The oldest make room; in a queue by priority, the oldest of the least urgent.
    #[default]
    DropHead,
    /// It is refused: a publisher in confirm mode gets a nack.
    RejectPublish,
    /// It is refused, and a dead letter.
    RejectPublishDlx,
}

impl Overflow {
    /// By the name that clients use.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "drop-head" => Overflow::DropHead,
            "reject-publish" => Overflow::RejectPublish,
            "reject-publish-dlx" => Overflow::RejectPublishDlx,
            _ => return None,
        })
    }
}

/// Which messages that come back wait before they are ready again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// None.
    #[default]
    Disabled,
    /// All that a client gives back.
    All,
    /// Those that do not count as failed: `basic.nack`.
    Returned,
    /// Those that do: `basic.reject`.
    Failed,
}

impl RetryOn {
    /// By the name that clients use.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "disabled" => RetryOn::Disabled,
            "all" => RetryOn::All,
            "returned" => RetryOn::Returned,
            "failed" => RetryOn::Failed,
            _ => return None,
        })
    }
}

/// What arguments, a policy or an operator's policy say of a queue: all of it may be left open. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueueRules {
    /// `message-ttl`.
    pub message_ttl_ms: Option<u64>,
    /// `expires`, at least 1.
    pub expires_ms: Option<u64>,
    /// `max-length`, messages that are ready.
    pub max_length: Option<u64>,
    /// `max-length-bytes`.
    pub max_length_bytes: Option<u64>,
    /// `max-age`, of a stream.
    pub max_age_ms: Option<u64>,
    /// `overflow`.
    pub overflow: Option<Overflow>,
    /// `dead-letter-exchange`; empty is the default exchange.
    pub dead_letter_exchange: Option<Arc<str>>,
    /// `dead-letter-routing-key`.
    pub dead_letter_routing_key: Option<Arc<str>>,
    /// `delivery-limit`; below 0: none.
    pub delivery_limit: Option<i64>,
    /// `delayed-retry-type`.
    pub retry_on: Option<RetryOn>,
    /// `delayed-retry-min`.
    pub retry_min_ms: Option<u64>,
    /// `delayed-retry-max`.
    pub retry_max_ms: Option<u64>,
    /// `delayed-retry-multiplier`, in thousandths.
    pub retry_multiplier: Option<u32>,
    /// `consumer-timeout`.
    pub consumer_timeout_ms: Option<u64>,
}

/// A multiplier from 1 to 1,000 as [`QueueRules::retry_multiplier`] has it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from a thousand to a million"
)]
pub(crate) fn thousandths(factor: f64) -> u32 {
    (factor * 1000.0).round() as u32
}

impl QueueRules {
    /// What holds where these rules and others apply: of numbers that limit something the lower; else these win.
    #[must_use]
    pub fn over(&self, other: &QueueRules) -> QueueRules {
        let has_letters = self.dead_letter_exchange.is_some();
        QueueRules {
            message_ttl_ms: lower(self.message_ttl_ms, other.message_ttl_ms),
            expires_ms: lower(self.expires_ms, other.expires_ms),
            max_length: lower(self.max_length, other.max_length),
            max_length_bytes: lower(self.max_length_bytes, other.max_length_bytes),
            max_age_ms: lower(self.max_age_ms, other.max_age_ms),
            overflow: self.overflow.or(other.overflow),
            dead_letter_exchange: (self.dead_letter_exchange.as_ref())
                .or(other.dead_letter_exchange.as_ref())
                .cloned(),
            // A key goes with its exchange.
            dead_letter_routing_key: match has_letters {
                true => self.dead_letter_routing_key.clone(),
                false => (self.dead_letter_routing_key.as_ref())
                    .or(other.dead_letter_routing_key.as_ref())
                    .cloned(),
            },
            delivery_limit: match (self.delivery_limit, other.delivery_limit) {
                // Below 0 is no limit, which is more than any.
                (Some(own), Some(other)) if own < 0 || other < 0 => Some(own.max(other)),
                (own, other) => lower(own, other),
            },
            retry_on: self.retry_on.or(other.retry_on),
            retry_min_ms: self.retry_min_ms.or(other.retry_min_ms),
            retry_max_ms: self.retry_max_ms.or(other.retry_max_ms),
            retry_multiplier: self.retry_multiplier.or(other.retry_multiplier),
            consumer_timeout_ms: lower(self.consumer_timeout_ms, other.consumer_timeout_ms),
        }
    }
}

fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_numbers_the_lower_holds_and_of_others_the_own() {
        let own = QueueRules {
            message_ttl_ms: Some(500),
            max_length: Some(10),
            overflow: Some(Overflow::RejectPublish),
            dead_letter_exchange: Some("mine".into()),
            delivery_limit: Some(-1),
            ..QueueRules::default()
        };
        let policy = QueueRules {
            message_ttl_ms: Some(100),
            max_length: Some(20),
            expires_ms: Some(7),
            overflow: Some(Overflow::DropHead),
            dead_letter_exchange: Some("theirs".into()),
            dead_letter_routing_key: Some("key".into()),
            delivery_limit: Some(3),
            ..QueueRules::default()
        };
        let both = own.over(&policy);
        assert_eq!(
            (both.message_ttl_ms, both.max_length),
            (Some(100), Some(10))
        );
        assert_eq!(both.expires_ms, Some(7));
        assert_eq!(both.overflow, Some(Overflow::RejectPublish));
        assert_eq!(both.dead_letter_exchange.as_deref(), Some("mine"));
        assert_eq!(both.dead_letter_routing_key, None);
        assert_eq!(both.delivery_limit, Some(3));
        assert_eq!(QueueRules::default().over(&policy), policy);
    }
}
