//! What a policy may set, and how that must look.

use regex::{Regex, RegexBuilder};

use super::Policy;
use crate::queue::age_ms;

/// A policy is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Validation failed\n\n{0}\n")]
pub struct Invalid(pub String);

/// What a setting must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A number from the first on.
    Number(i64),
    /// Text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number with a unit, as `7D`.
    Age,
    /// What a delay is multiplied by.
    Factor,
    /// A regular expression.
    Pattern,
    /// Anything: it says nothing here.
    Any,
}

/// Ten years, as in RabbitMQ.
const TIME_MAX: i64 = 315_360_000_000;

/// Largest factor of delays.
const FACTOR_MAX: f64 = 1_000.0;

/// The settings there are.
const SETTINGS: &[(&str, Form)] = &[
    ("alternate-exchange", Form::Text),
    ("consumer-timeout", Form::Number(0)),
    ("consumer-disconnected-timeout", Form::Number(0)),
    ("dead-letter-exchange", Form::Text),
    ("dead-letter-routing-key", Form::Text),
    (
        "dead-letter-strategy",
        Form::Word(&["at-most-once", "at-least-once"]),
    ),
    ("delivery-limit", Form::Number(-1)),
    (
        "delayed-retry-type",
        Form::Word(&["disabled", "all", "returned", "failed"]),
    ),
    ("delayed-retry-min", Form::Number(0)),
    ("delayed-retry-max", Form::Number(0)),
    ("delayed-retry-multiplier", Form::Factor),
    ("expires", Form::Number(1)),
    ("federation-upstream", Form::Text),
    ("federation-upstream-set", Form::Text),
    ("federation-upstream-pattern", Form::Pattern),
    ("initial-cluster-size", Form::Number(1)),
    ("max-age", Form::Age),
    ("max-in-memory-bytes", Form::Number(0)),
    ("max-in-memory-length", Form::Number(0)),
    ("max-length", Form::Number(0)),
    ("max-length-bytes", Form::Number(0)),
    ("message-ttl", Form::Number(0)),
    (
        "overflow",
        Form::Word(&["drop-head", "reject-publish", "reject-publish-dlx"]),
    ),
    ("queue-leader-locator", Form::Text),
    ("queue-master-locator", Form::Text),
    ("queue-mode", Form::Word(&["default", "lazy"])),
    ("queue-version", Form::Number(1)),
    ("stream-max-segment-size-bytes", Form::Number(1)),
    ("stream-filter-size-bytes", Form::Number(16)),
    ("ha-mode", Form::Any),
    ("ha-params", Form::Any),
    ("ha-sync-mode", Form::Any),
    ("ha-sync-batch-size", Form::Any),
    ("ha-promote-on-failure", Form::Any),
    ("ha-promote-on-shutdown", Form::Any),
];

/// Those of an operator policy.
const OPERATOR: &[&str] = &[
    "expires",
    "message-ttl",
    "max-length",
    "max-length-bytes",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "delivery-limit",
    "overflow",
    "queue-version",
];

/// Of two values of these, the lower counts.
pub(super) const LIMITS: &[&str] = &[
    "expires",
    "message-ttl",
    "max-length",
    "max-length-bytes",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "delivery-limit",
    "consumer-timeout",
];

/// Largest compiled pattern, in bytes.
const COMPILED_MAX: usize = 1 << 20;

pub(super) fn compile(pattern: &str) -> Result<Regex, Invalid> {
    RegexBuilder::new(pattern)
        .size_limit(COMPILED_MAX)
        .build()
        .map_err(|error| Invalid(format!("pattern is not a regular expression: {error}")))
}

impl Policy {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, operator: bool) -> Result<(), Invalid> {
        compile(&self.pattern)?;
        if self.definition.is_empty() {
            return Err(Invalid("no policy provided".to_owned()));
        }
        let known = |key: &&String| {
            let known = SETTINGS.iter().any(|(name, _)| name == key);
            known && (!operator || OPERATOR.contains(&key.as_str()))
        };
        let unknown: Vec<_> = self
            .definition
            .keys()
            .filter(|key| !known(key))
            .map(|key| format!("\"{key}\""))
            .collect();
        if !unknown.is_empty() {
            return Err(Invalid(format!(
                "[{}] are not recognised policy settings",
                unknown.join(",")
            )));
        }
        let upstreams = self.definition.keys();
        if upstreams
            .filter(|key| key.starts_with("federation-upstream"))
            .count()
            > 1
        {
            return Err(Invalid(
                "only one of federation-upstream, federation-upstream-set and federation-upstream-pattern may be set"
                    .to_owned(),
            ));
        }
        for (key, value) in &self.definition {
            let form = SETTINGS.iter().find(|(name, _)| name == key);
            let Some((_, form)) = form else { continue };
            let wrong = |expected: String| {
                Err(Invalid(format!("{value} is not a valid {key}: {expected}")))
            };
            match form {
                Form::Number(least) => {
                    let fits = |n: i64| (*least..=i64::MAX).contains(&n);
                    let timed = matches!(key.as_str(), "expires" | "message-ttl");
                    let fits = |n: i64| fits(n) && (!timed || n <= TIME_MAX);
                    if !value.as_i64().is_some_and(fits) {
                        return wrong(format!("a number of at least {least} is expected"));
                    }
                }
                Form::Text if !value.is_string() => return wrong("text is expected".to_owned()),
                Form::Word(words) => {
                    if !value.as_str().is_some_and(|word| words.contains(&word)) {
                        return wrong(format!("one of {} is expected", words.join(", ")));
                    }
                }
                Form::Age => {
                    if value.as_str().and_then(age_ms).is_none() {
                        return wrong("a number and one of Y M D h m s are expected".to_owned());
                    }
                }
                Form::Factor => {
                    if !value
                        .as_f64()
                        .is_some_and(|by| (1.0..=FACTOR_MAX).contains(&by))
                    {
                        return wrong(format!("a number from 1 to {FACTOR_MAX} is expected"));
                    }
                }
                Form::Pattern => match value.as_str().map(compile) {
                    None => return wrong("text is expected".to_owned()),
                    Some(compiled) => drop(compiled?),
                },
                Form::Any => {
                    tracing::warn!(
                        policy = self.name,
                        key,
                        "this setting is of clusters: it has no effect"
                    );
                }
                Form::Text => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ApplyTo;
    use super::*;

    fn policy(name: &str, pattern: &str, priority: i64, definition: &Value) -> Policy {
        Policy {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            definition: definition.as_object().unwrap().clone(),
            priority,
            apply_to: ApplyTo::All,
        }
    }

    #[test]
    fn settings_are_checked_by_name_and_form() {
        let check = |definition: Value, operator| policy("p", ".*", 0, &definition).check(operator);
        assert!(check(json!({"max-length": 5, "max-age": "7D"}), false).is_ok());
        for wrong in [
            json!({}),
            json!({"max-lengt": 5}),
            json!({"max-length": "5"}),
            json!({"max-length": -1}),
            json!({"overflow": "explode"}),
            json!({"max-age": "D"}),
            json!({"message-ttl": TIME_MAX + 1}),
            json!({"federation-upstream": "u", "federation-upstream-set": "all"}),
            json!({"federation-upstream-pattern": "("}),
        ] {
            assert!(check(wrong.clone(), false).is_err(), "{wrong}");
        }
        let text = check(json!({"dead-letter-exchange": "x"}), true).unwrap_err();
        assert!(
            text.to_string()
                .contains("are not recognised policy settings")
        );
        assert!(
            policy("p", "(", 0, &json!({"expires": 1}))
                .check(false)
                .is_err()
        );
    }
}
