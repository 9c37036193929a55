//! The settings that a queue really has: from its arguments, its policy and the operator's, by one function.

use std::sync::Arc;

use longtail_engine::config::{
    Counted, DeadLetter as Letters, GroupConfig, Keep, Limits, Order, Overflow as Full, Reasons,
    StreamConfig,
};
use longtail_model::Durability;

use super::arguments::{QueueArguments, QueueType};
use super::rules::{Overflow, QueueRules, RetryOn};

/// The stream of a shard in which dead letters of a space wait for their exchange.
pub const DEAD_LETTERS: &str = "$amqp/dead";

/// Deliveries of a message in a quorum queue that may fail, where nothing else is said: as in RabbitMQ.
const QUORUM_DELIVERY_LIMIT: u32 = 20;

/// How long a consumer of a quorum queue may hold a message, where nothing else is said: half an hour, as in RabbitMQ.
const QUORUM_CONSUMER_TIMEOUT_MS: u64 = 1_800_000;

/// The most urgent priority in a quorum queue.
const QUORUM_PRIORITY_MAX: u8 = 31;

/// The longest delay of a retry where no maximum is said: a day.
const RETRY_MAX_MS: u64 = 86_400_000;

/// Where dead letters of a queue go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The exchange; empty is the default one.
    pub exchange: Arc<str>,
    /// `None`: each with its own keys.
    pub routing_key: Option<Arc<str>>,
}

impl DeadLetter {
    /// As it travels with a dead letter.
    #[must_use]
    pub fn note(&self) -> Arc<[u8]> {
        let mut note = Vec::new();
        for text in std::iter::once(&self.exchange).chain(&self.routing_key) {
            // Short strings, both.
            note.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
            note.extend_from_slice(text.as_bytes());
        }
        note.into()
    }

    /// The opposite of [`DeadLetter::note`].
    #[must_use]
    pub fn of_note(note: &[u8]) -> Option<Self> {
        let text = |note: &mut &[u8]| {
            let (&len, rest) = note.split_first()?;
            let (text, rest) = rest.split_at_checked(usize::from(len))?;
            *note = rest;
            std::str::from_utf8(text).ok().map(Arc::<str>::from)
        };
        let note = &mut &*note;
        Some(DeadLetter {
            exchange: text(note)?,
            routing_key: match note.is_empty() {
                true => None,
                false => Some(text(note)?),
            },
        })
    }
}

/// How long a message that comes back waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Which messages wait.
    pub on: RetryOn,
    /// The first delay, in milliseconds.
    pub min_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// Each delay is so many thousandths of the one before; `None`: it is the first one times the deliveries so far.
    pub multiplier: Option<u32>,
}

impl Retry {
    /// The delay of a message that was delivered so often, in milliseconds.
    #[must_use]
    pub fn delay_ms(&self, deliveries: u32, failed: bool) -> u64 {
        let waits = match self.on {
            RetryOn::Disabled => false,
            RetryOn::All => true,
            RetryOn::Returned => !failed,
            RetryOn::Failed => failed,
        };
        if !waits {
            return 0;
        }
        let delay = match self.multiplier {
            None => self.min_ms.saturating_mul(deliveries.max(1).into()),
            Some(multiplier) => {
                let factor = f64::from(multiplier) / 1000.0;
                let exponent = i32::try_from(deliveries.max(1) - 1).unwrap_or(i32::MAX);
                #[allow(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "milliseconds; beyond the maximum it does not matter"
                )]
                let delay = (self.min_ms as f64 * factor.powi(exponent)) as u64;
                delay
            }
        };
        delay.min(self.max_ms)
    }
}

/// The settings that hold for a queue now. Times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSettings {
    /// Its type.
    pub kind: QueueType,
    /// The most urgent priority; `None`: it does not order by priority.
    pub max_priority: Option<u8>,
    /// One consumer at a time.
    pub single_active: bool,
    /// Messages expire after this long.
    pub message_ttl_ms: Option<u64>,
    /// It goes when nobody has used it for this long.
    pub expires_ms: Option<u64>,
    /// Ready messages.
    pub max_length: Option<u64>,
    /// Bytes of ready messages.
    pub max_length_bytes: Option<u64>,
    /// How old a message of a stream gets.
    pub max_age_ms: Option<u64>,
    /// What happens beyond these.
    pub overflow: Overflow,
    /// Where dead letters go; `None`: nowhere.
    pub dead_letter: Option<DeadLetter>,
    /// Deliveries of a message that may fail.
    pub delivery_limit: Option<u32>,
    /// Whether failed deliveries are counted and told.
    pub counts_failures: bool,
    /// What waits when it comes back.
    pub retry: Option<Retry>,
    /// How long a consumer may hold a message.
    pub consumer_timeout_ms: Option<u64>,
}

impl QueueSettings {
    /// From what was declared, and what policies say.
    #[must_use]
    pub fn of(
        arguments: &QueueArguments,
        policy: Option<&QueueRules>,
        operator: Option<&QueueRules>,
    ) -> Self {
        let none = QueueRules::default();
        let policies = operator.unwrap_or(&none).over(policy.unwrap_or(&none));
        if arguments.kind == QueueType::Stream {
            // Nothing else means anything to a stream, and what a policy says goes before its arguments.
            let own = &arguments.rules;
            return QueueSettings {
                kind: QueueType::Stream,
                max_length_bytes: policies.max_length_bytes.or(own.max_length_bytes),
                max_age_ms: policies.max_age_ms.or(own.max_age_ms),
                ..QueueSettings::default()
            };
        }
        let rules = arguments.rules.over(&policies);
        let quorum = arguments.kind == QueueType::Quorum;
        let delivery_limit = match rules.delivery_limit {
            Some(limit) => u32::try_from(limit).ok(),
            None => quorum.then_some(QUORUM_DELIVERY_LIMIT),
        };
        let overflow = match rules.overflow.unwrap_or_default() {
            Overflow::RejectPublishDlx if quorum => Overflow::RejectPublish,
            overflow => overflow,
        };
        let retry = rules.retry_min_ms.map(|min_ms| Retry {
            on: rules.retry_on.unwrap_or_default(),
            min_ms,
            max_ms: rules.retry_max_ms.unwrap_or(RETRY_MAX_MS).max(min_ms),
            multiplier: rules.retry_multiplier,
        });
        QueueSettings {
            kind: arguments.kind,
            max_priority: if quorum {
                Some(QUORUM_PRIORITY_MAX)
            } else {
                arguments.max_priority
            },
            single_active: arguments.single_active,
            message_ttl_ms: rules.message_ttl_ms,
            expires_ms: rules.expires_ms,
            max_length: rules.max_length,
            max_length_bytes: rules.max_length_bytes,
            max_age_ms: None,
            overflow,
            dead_letter: rules.dead_letter_exchange.map(|exchange| DeadLetter {
                exchange,
                routing_key: rules.dead_letter_routing_key,
            }),
            counts_failures: quorum || delivery_limit.is_some(),
            delivery_limit,
            retry: retry.filter(|retry| retry.on != RetryOn::Disabled),
            consumer_timeout_ms: rules
                .consumer_timeout_ms
                .or(quorum.then_some(QUORUM_CONSUMER_TIMEOUT_MS)),
        }
    }

    /// What the stream of a queue is made of.
    #[must_use]
    pub fn stream(&self, durable: bool) -> StreamConfig {
        if self.kind == QueueType::Stream {
            return StreamConfig {
                keep: Keep::UntilLimit,
                limits: Limits {
                    max_bytes: self.max_length_bytes.unwrap_or(0),
                    max_age_ms: self.max_age_ms.unwrap_or(0),
                    ..Limits::default()
                },
                overflow: Full::DropOldest,
                ..StreamConfig::default()
            };
        }
        // No message fits into nothing: what nobody takes at once is dropped.
        let nothing = self.max_length == Some(0) || self.max_length_bytes == Some(0);
        let full = match self.overflow {
            Overflow::RejectPublish | Overflow::RejectPublishDlx => Full::RefuseNew,
            Overflow::DropHead if self.max_priority.is_some() => Full::DropLeastUrgent,
            Overflow::DropHead => Full::DropOldest,
        };
        StreamConfig {
            keep: Keep::UntilSettled,
            durability: (!durable).then_some(Durability::Memory),
            limits: Limits {
                max_messages: self.max_length.unwrap_or(0),
                max_bytes: self.max_length_bytes.unwrap_or(0),
                max_age_ms: 0,
                of: Counted::Ready,
            },
            overflow: full,
            expires_ms: match nothing {
                true => Some(0),
                false => self.message_ttl_ms,
            },
            group: Some(GroupConfig {
                order: match self.max_priority {
                    Some(_) => Order::Priority,
                    None => Order::Sequence,
                },
                max_failures: self.delivery_limit,
                count_losses: self.counts_failures,
                dead_letter: self.dead_letter.as_ref().map(|letters| Letters {
                    on: Reasons::ALL,
                    note: letters.note(),
                    ..Letters::to(DEAD_LETTERS)
                }),
                ..GroupConfig::default()
            }),
            ..StreamConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_bound_what_policies_and_arguments_say() {
        let arguments = QueueArguments {
            rules: QueueRules {
                max_length: Some(50),
                dead_letter_exchange: Some("own".into()),
                ..QueueRules::default()
            },
            ..QueueArguments::default()
        };
        let policy = QueueRules {
            max_length: Some(40),
            message_ttl_ms: Some(1000),
            dead_letter_exchange: Some("policy".into()),
            overflow: Some(Overflow::RejectPublish),
            ..QueueRules::default()
        };
        let operator = QueueRules {
            max_length: Some(30),
            message_ttl_ms: Some(2000),
            overflow: Some(Overflow::DropHead),
            ..QueueRules::default()
        };
        let settings = QueueSettings::of(&arguments, Some(&policy), Some(&operator));
        assert_eq!(settings.max_length, Some(30));
        assert_eq!(settings.message_ttl_ms, Some(1000));
        assert_eq!(settings.overflow, Overflow::DropHead);
        assert_eq!(&*settings.dead_letter.unwrap().exchange, "own");
        let alone = QueueSettings::of(&arguments, None, None);
        assert_eq!(alone.max_length, Some(50));
    }

    #[test]
    fn a_quorum_queue_has_a_delivery_limit_and_a_time_out_unless_they_are_said() {
        let arguments = |limit| QueueArguments {
            kind: QueueType::Quorum,
            rules: QueueRules {
                delivery_limit: limit,
                ..QueueRules::default()
            },
            ..QueueArguments::default()
        };
        let settings = QueueSettings::of(&arguments(None), None, None);
        assert_eq!(settings.delivery_limit, Some(20));
        assert_eq!(settings.consumer_timeout_ms, Some(1_800_000));
        let settings = QueueSettings::of(&arguments(Some(-1)), None, None);
        assert_eq!(
            (settings.delivery_limit, settings.counts_failures),
            (None, true)
        );
        let classic = QueueSettings::of(&QueueArguments::default(), None, None);
        assert_eq!(classic, QueueSettings::default());
    }

    #[test]
    fn delays_grow_as_they_are_told_to() {
        let retry = |multiplier| Retry {
            on: RetryOn::Failed,
            min_ms: 100,
            max_ms: 1_000,
            multiplier,
        };
        let delays = |retry: Retry| [1, 2, 3, 4, 5, 500].map(|times| retry.delay_ms(times, true));
        assert_eq!(delays(retry(None)), [100, 200, 300, 400, 500, 1_000]);
        assert_eq!(delays(retry(Some(1_000))), [100; 6]);
        assert_eq!(
            delays(retry(Some(2_000))),
            [100, 200, 400, 800, 1_000, 1_000]
        );
        assert_eq!(retry(None).delay_ms(3, false), 0);
    }

    #[test]
    fn where_dead_letters_go_travels_with_them() {
        for routing_key in [None, Some("".into()), Some("k".into())] {
            let letters = DeadLetter {
                exchange: "x".into(),
                routing_key,
            };
            assert_eq!(DeadLetter::of_note(&letters.note()), Some(letters));
        }
        assert_eq!(DeadLetter::of_note(b""), None);
        assert_eq!(DeadLetter::of_note(b"\x05x"), None);
    }
}
