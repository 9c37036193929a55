//! Policies: settings for queues and exchanges whose names match, set by operators and not by those who declare them.
//!
//! Of a vhost's policies that match, the one with the highest priority applies, as a whole; of its operator policies
//! too. Together they are the effective definition: where both limit the same thing, the lower limit counts, otherwise
//! the operator's word. What becomes of it beside a queue's own arguments is the queue's business.

//! [`Policy`] is one of them, `settings` what it may set, `store` all that there are.

mod settings;
mod store;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::queue::{Overflow, QueueRules, RetryOn, age_ms, thousandths};
pub use settings::Invalid;
pub use store::{POLICIES_MAX, Policies, PolicyError};

/// What a policy is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A queue with its name and its type.
    Queue(&'a str, &'a str),
    /// An exchange.
    Exchange(&'a str),
}

impl Subject<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Subject::Queue(name, _) | Subject::Exchange(name) => name,
        }
    }
}

/// What a policy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    /// Queues and exchanges.
    #[default]
    All,
    /// Queues of any type.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
    /// Exchanges.
    Exchanges,
}

impl ApplyTo {
    /// By its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        serde_json::from_value(Value::String(name.to_owned())).ok()
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ApplyTo::All => "all",
            ApplyTo::Queues => "queues",
            ApplyTo::ClassicQueues => "classic_queues",
            ApplyTo::QuorumQueues => "quorum_queues",
            ApplyTo::Streams => "streams",
            ApplyTo::Exchanges => "exchanges",
        }
    }

    pub(super) fn is_for(self, subject: Subject<'_>) -> bool {
        match (self, subject) {
            (ApplyTo::All, _)
            | (ApplyTo::Queues, Subject::Queue(..))
            | (ApplyTo::Exchanges, Subject::Exchange(_)) => true,
            (ApplyTo::ClassicQueues, Subject::Queue(_, kind)) => kind == "classic",
            (ApplyTo::QuorumQueues, Subject::Queue(_, kind)) => kind == "quorum",
            (ApplyTo::Streams, Subject::Queue(_, kind)) => kind == "stream",
            _ => false,
        }
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name, one of the vhost's.
    pub name: String,
    /// A regular expression that is looked for in names.
    pub pattern: String,
    /// What it sets.
    pub definition: Map<String, Value>,
    /// The highest counts.
    pub priority: i64,
    /// What it is for.
    #[serde(rename = "apply-to")]
    pub apply_to: ApplyTo,
}

impl Policy {
    /// What it says of a queue.
    #[must_use]
    pub fn rules(&self) -> QueueRules {
        let number = |key: &str| self.definition.get(key).and_then(Value::as_i64);
        let positive = |key: &str| number(key).and_then(|number| u64::try_from(number).ok());
        let text = |key: &str| self.definition.get(key).and_then(Value::as_str);
        let factor = self
            .definition
            .get("delayed-retry-multiplier")
            .and_then(Value::as_f64);
        QueueRules {
            message_ttl_ms: positive("message-ttl"),
            expires_ms: positive("expires"),
            max_length: positive("max-length"),
            max_length_bytes: positive("max-length-bytes"),
            max_age_ms: text("max-age").and_then(age_ms),
            overflow: text("overflow").and_then(Overflow::of),
            dead_letter_exchange: text("dead-letter-exchange").map(Arc::from),
            dead_letter_routing_key: text("dead-letter-routing-key").map(Arc::from),
            delivery_limit: number("delivery-limit"),
            retry_on: text("delayed-retry-type").and_then(RetryOn::of),
            retry_min_ms: positive("delayed-retry-min"),
            retry_max_ms: positive("delayed-retry-max"),
            retry_multiplier: factor.map(thousandths),
            consumer_timeout_ms: positive("consumer-timeout"),
        }
    }

    /// Where messages go that an exchange has no queue for.
    #[must_use]
    pub fn alternate(&self) -> Option<Arc<str>> {
        let alternate = self.definition.get("alternate-exchange");
        alternate.and_then(Value::as_str).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_for_what_it_says() {
        let is_for = |name: &str, subject| ApplyTo::of(name).unwrap().is_for(subject);
        let (queue, exchange) = (Subject::Queue("q", "quorum"), Subject::Exchange("x"));
        assert!(is_for("all", queue) && is_for("all", exchange));
        assert!(is_for("queues", queue) && !is_for("queues", exchange));
        assert!(is_for("quorum_queues", queue) && !is_for("classic_queues", queue));
        assert!(is_for("exchanges", exchange) && !is_for("exchanges", queue));
        assert_eq!(ApplyTo::of("nothing"), None);
    }
}
