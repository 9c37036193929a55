//! The arguments of `queue.declare`: which there are, what they may be, and which two declarations have to agree on.

use super::rules::{Overflow, QueueRules, RetryOn, thousandths};
use super::stream;
use crate::codec::{Table, Value};
use crate::exception::{Exception, precondition};

/// The type of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QueueType {
    /// `classic`.
    #[default]
    Classic,
    /// `quorum`: on one machine a durable queue that counts failed deliveries and bounds them.
    Quorum,
    /// `stream`: a log that its consumers read, each at a place of its own.
    Stream,
}

impl QueueType {
    /// The name that clients use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
            QueueType::Stream => "stream",
        }
    }

    /// By the name that clients use.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let all = [QueueType::Classic, QueueType::Quorum, QueueType::Stream];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// The name that texts have.
    pub(crate) const fn module(self) -> &'static str {
        match self {
            QueueType::Classic => "rabbit_classic_queue",
            QueueType::Quorum => "rabbit_quorum_queue",
            QueueType::Stream => "rabbit_stream_queue",
        }
    }
}

/// What the arguments of `queue.declare` say, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueArguments {
    /// `x-queue-type`.
    pub kind: QueueType,
    /// `x-max-priority`.
    pub max_priority: Option<u8>,
    /// `x-single-active-consumer`.
    pub single_active: bool,
    /// What policies can say as well.
    pub rules: QueueRules,
}

/// Arguments that two declarations of a queue have to agree on.
pub(super) const COMPARED: &[&str] = &[
    "x-message-deduplication",
    "x-deduplication-header",
    "x-cache-size",
    "x-cache-ttl",
    "x-queue-type",
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-max-priority",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
    "x-delayed-retry-multiplier",
    "x-consumer-timeout",
    "x-queue-mode",
    "x-queue-version",
    stream::MAX_AGE,
    stream::SEGMENT_BYTES,
    stream::FILTER_BYTES,
];

/// Arguments that mean something that is not built: a queue that has one is refused, not declared without it.
const NOT_YET: &[&str] = &["x-name-prefix"];

/// Longest time to live: ten years, as in RabbitMQ.
const TIME_MAX_MS: i64 = 315_360_000_000;

/// Largest multiplier of delays.
const MULTIPLIER_MAX: f64 = 1_000.0;

impl QueueArguments {
    /// Checks the arguments of a declaration.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` for one that is wrong, or that this release cannot honour.
    pub fn parse(arguments: &Table<'_>, queue: &str, vhost: &str) -> Result<Self, Exception> {
        let invalid = |key: &str, why: &str| {
            precondition(format!(
                "invalid arg '{key}' for queue '{queue}' in vhost '{vhost}': {why}"
            ))
        };
        let mut parsed = QueueArguments::default();
        for (key, value) in arguments.iter() {
            parsed.read(key, &value).map_err(|why| invalid(key, why))?;
        }
        if let Some(key) = stream::foreign(arguments, parsed.kind == QueueType::Stream) {
            return Err(precondition(format!(
                "invalid arg '{key}' for queue '{queue}' in vhost '{vhost}' of queue type {}",
                parsed.kind.module()
            )));
        }
        let rules = &parsed.rules;
        if rules.dead_letter_routing_key.is_some() && rules.dead_letter_exchange.is_none() {
            return Err(invalid(
                "x-dead-letter-routing-key",
                "routing_key_but_no_dlx_defined",
            ));
        }
        let refuses = rules.overflow.is_some_and(|it| it != Overflow::DropHead);
        if refuses && (rules.max_length == Some(0) || rules.max_length_bytes == Some(0)) {
            return Err(invalid(
                "x-overflow",
                "a limit of 0 would refuse every message",
            ));
        }
        if rules.retry_on.is_some_and(|on| on != RetryOn::Disabled) && rules.retry_min_ms.is_none()
        {
            return Err(invalid(
                "x-delayed-retry-type",
                "x-delayed-retry-min is missing",
            ));
        }
        if parsed.kind == QueueType::Quorum {
            if parsed.max_priority.is_some() {
                return Err(invalid("x-max-priority", "not of a quorum queue"));
            }
            if rules.overflow == Some(Overflow::RejectPublishDlx) {
                return Err(invalid("x-overflow", "not of a quorum queue"));
            }
        }
        Ok(parsed)
    }

    /// Takes in one argument; why not, otherwise.
    fn read(&mut self, key: &str, value: &Value<'_>) -> Result<(), &'static str> {
        let rules = &mut self.rules;
        match key {
            "x-message-ttl" => rules.message_ttl_ms = Some(time(value, 0)?),
            "x-expires" => rules.expires_ms = Some(time(value, 1)?),
            "x-max-length" => rules.max_length = Some(count(value)?),
            "x-max-length-bytes" => rules.max_length_bytes = Some(count(value)?),
            "x-overflow" => {
                let overflow = value.as_str().and_then(Overflow::of);
                rules.overflow = Some(
                    overflow
                        .ok_or("drop-head, reject-publish or reject-publish-dlx is expected")?,
                );
            }
            "x-dead-letter-exchange" => rules.dead_letter_exchange = Some(name(value)?.into()),
            "x-dead-letter-routing-key" => {
                rules.dead_letter_routing_key = Some(name(value)?.into());
            }
            "x-dead-letter-strategy" => one_of(value, &["at-most-once", "at-least-once"])?,
            "x-delivery-limit" => {
                let limit = value.as_i64().filter(|limit| *limit >= -1);
                rules.delivery_limit = Some(limit.ok_or("a number from -1 on is expected")?);
            }
            "x-delayed-retry-type" => {
                let on = value.as_str().and_then(RetryOn::of);
                rules.retry_on = Some(on.ok_or("disabled, all, returned or failed is expected")?);
            }
            "x-delayed-retry-min" => rules.retry_min_ms = Some(time(value, 1)?),
            "x-delayed-retry-max" => rules.retry_max_ms = Some(time(value, 1)?),
            "x-delayed-retry-multiplier" => rules.retry_multiplier = Some(multiplier(value)?),
            "x-consumer-timeout" => rules.consumer_timeout_ms = Some(time(value, 1)?),
            "x-max-priority" => {
                let max = value.as_i64().and_then(|max| u8::try_from(max).ok());
                self.max_priority = Some(max.ok_or("a number from 0 to 255 is expected")?);
            }
            "x-single-active-consumer" => {
                let Value::Bool(single) = *value else {
                    return Err("a bool is expected");
                };
                self.single_active = single;
            }
            "x-queue-type" => {
                let kind = value.as_str().and_then(QueueType::of);
                self.kind = kind.ok_or("unknown queue type")?;
            }
            stream::MAX_AGE => rules.max_age_ms = Some(stream::max_age(value)?),
            _ if NOT_YET.contains(&key) => return Err("not supported yet"),
            _ => check_without_effect(key, value)?,
        }
        Ok(())
    }
}

/// Arguments about memory and about other machines, which mean nothing here but have to be right.
fn check_without_effect(key: &str, value: &Value<'_>) -> Result<(), &'static str> {
    match key {
        "x-queue-mode" => one_of(value, &["default", "lazy"]),
        "x-queue-version" => match value.as_i64() {
            Some(2) => Ok(()),
            _ => Err("2 is expected"),
        },
        "x-queue-leader-locator" => one_of(
            value,
            &["client-local", "balanced", "random", "least-leaders"],
        ),
        "x-queue-master-locator" | "x-member-placement-tag" => name(value).map(|_| ()),
        "x-quorum-initial-group-size" | "x-quorum-target-group-size" | "x-initial-cluster-size" => {
            match value.as_i64() {
                Some(1..) => Ok(()),
                _ => Err("a number from 1 on is expected"),
            }
        }
        stream::SEGMENT_BYTES => match value.as_i64() {
            Some(0..=stream::SEGMENT_MAX) => Ok(()),
            _ => Err("a number of bytes of at most 3000000000 is expected"),
        },
        stream::FILTER_BYTES => match value.as_i64() {
            Some(16..=255) => Ok(()),
            _ => Err("a number from 16 to 255 is expected"),
        },
        "x-max-in-memory-length" | "x-max-in-memory-bytes" => count(value).map(|_| ()),
        "x-consumer-disconnected-timeout" => time(value, 0).map(|_| ()),
        _ => Ok(()),
    }
}

fn count(value: &Value<'_>) -> Result<u64, &'static str> {
    let count = value.as_i64().and_then(|count| u64::try_from(count).ok());
    count.ok_or("a number from 0 on is expected")
}

/// Milliseconds.
pub(crate) fn time(value: &Value<'_>, least: i64) -> Result<u64, &'static str> {
    let ms = value
        .as_i64()
        .filter(|ms| (least..=TIME_MAX_MS).contains(ms));
    let ms = ms.and_then(|ms| u64::try_from(ms).ok());
    ms.ok_or("a number of milliseconds, at most ten years, is expected")
}

/// Thousandths.
fn multiplier(value: &Value<'_>) -> Result<u32, &'static str> {
    let factor = match *value {
        Value::F32(factor) => Some(f64::from(factor)),
        Value::F64(factor) => Some(factor),
        _ => value
            .as_i64()
            .and_then(|n| i32::try_from(n).ok())
            .map(f64::from),
    };
    let factor = factor.filter(|factor| (1.0..=MULTIPLIER_MAX).contains(factor));
    let factor = factor.ok_or("a number from 1 to 1000 is expected")?;
    Ok(thousandths(factor))
}

fn name<'a>(value: &Value<'a>) -> Result<&'a str, &'static str> {
    let text = value.as_str();
    text.filter(|text| text.len() <= usize::from(u8::MAX))
        .ok_or("a string of at most 255 bytes is expected")
}

fn one_of(value: &Value<'_>, names: &[&str]) -> Result<(), &'static str> {
    match value.as_str() {
        Some(text) if names.contains(&text) => Ok(()),
        _ => Err("not one of the values that there are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::TableBuf;

    fn parse(pairs: &[(&str, Value<'_>)]) -> Result<QueueArguments, String> {
        let mut table = TableBuf::default();
        for (key, value) in pairs {
            table.put(key, *value).unwrap();
        }
        QueueArguments::parse(&table.as_table(), "q", "/").map_err(|why| why.reply_text())
    }

    #[test]
    fn arguments_that_cannot_be_honoured_are_refused() {
        for key in NOT_YET {
            let refused = parse(&[(key, Value::I32(1))]).unwrap_err();
            assert!(refused.contains("not supported yet"), "{refused}");
        }
    }

    #[test]
    fn a_multiplier_is_the_nearest_thousandth() {
        for factor in [1.001, 1.1, 2.003, 999.999] {
            let of_retries = [
                ("x-delayed-retry-type", Value::LongString(b"all")),
                ("x-delayed-retry-min", Value::I32(10)),
                ("x-delayed-retry-multiplier", Value::F64(factor)),
            ];
            let parsed = parse(&of_retries).unwrap().rules.retry_multiplier.unwrap();
            let difference = f64::from(parsed) / 1000.0 - factor;
            assert!(difference.abs() < 1e-9, "{factor} became {parsed}");
        }
    }

    #[test]
    fn arguments_that_are_wrong_are_refused() {
        let text = |text: &'static str| Value::LongString(text.as_bytes());
        for (key, value) in [
            ("x-message-ttl", Value::I32(-1)),
            ("x-message-ttl", text("5")),
            ("x-expires", Value::I32(0)),
            ("x-max-length", Value::I32(-1)),
            ("x-max-length-bytes", Value::F64(1.0)),
            ("x-overflow", text("drop-tail")),
            ("x-max-priority", Value::I32(256)),
            ("x-dead-letter-exchange", Value::I32(1)),
            ("x-dead-letter-routing-key", text("alone")),
            ("x-dead-letter-strategy", text("once")),
            ("x-single-active-consumer", Value::I32(1)),
            ("x-delivery-limit", Value::I32(-2)),
            ("x-delayed-retry-type", text("some")),
            ("x-delayed-retry-type", text("all")),
            ("x-delayed-retry-multiplier", Value::F32(0.5)),
            ("x-consumer-timeout", Value::I32(0)),
            ("x-queue-mode", text("odd")),
            ("x-queue-version", Value::I32(1)),
            ("x-queue-leader-locator", Value::Bool(true)),
            ("x-quorum-initial-group-size", Value::I32(0)),
            ("x-queue-type", text("odd")),
        ] {
            let refused = parse(&[(key, value)]).unwrap_err();
            let expected = format!("PRECONDITION_FAILED - invalid arg '{key}' for queue 'q'");
            assert!(refused.starts_with(&expected), "{refused}");
        }
        let quorum = ("x-queue-type", text("quorum"));
        assert!(parse(&[quorum, ("x-max-priority", Value::U8(1))]).is_err());
        assert!(parse(&[quorum, ("x-overflow", text("reject-publish-dlx"))]).is_err());
    }

    #[test]
    fn what_is_said_is_read() {
        let text = |text: &'static str| Value::LongString(text.as_bytes());
        let parsed = parse(&[
            ("x-queue-type", text("quorum")),
            ("x-max-length", Value::I64(5)),
            ("x-overflow", text("reject-publish")),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("k")),
            ("x-delayed-retry-type", text("failed")),
            ("x-delayed-retry-min", Value::U16(7)),
            ("x-delayed-retry-multiplier", Value::F64(1.5)),
            ("x-delivery-limit", Value::I8(-1)),
            ("x-single-active-consumer", Value::Bool(true)),
            ("x-queue-mode", text("lazy")),
        ])
        .unwrap();
        let rules = QueueRules {
            max_length: Some(5),
            overflow: Some(Overflow::RejectPublish),
            dead_letter_exchange: Some("".into()),
            dead_letter_routing_key: Some("k".into()),
            retry_on: Some(RetryOn::Failed),
            retry_min_ms: Some(7),
            retry_multiplier: Some(1500),
            delivery_limit: Some(-1),
            ..QueueRules::default()
        };
        let expected = QueueArguments {
            kind: QueueType::Quorum,
            max_priority: None,
            single_active: true,
            rules,
        };
        assert_eq!(parsed, expected);
    }
}
