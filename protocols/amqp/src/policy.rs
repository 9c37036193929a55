//! Policies: settings for queues and exchanges whose names match, set by operators and not by those who declare them.
//!
//! Of a vhost's policies that match, the one with the highest priority applies, as a whole; of its operator policies
//! too. Together they are the effective definition: where both limit the same thing, the lower limit counts, otherwise
//! the operator's word. What becomes of it beside a queue's own arguments is the queue's business.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::catalog::Write;
use longtail_broker::{Broker, BrokerError};
use parking_lot::RwLock;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::queue::{Overflow, QueueRules, RetryOn, age_ms};

/// What a policy is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A queue with its name and its type.
    Queue(&'a str, &'a str),
    /// An exchange.
    Exchange(&'a str),
}

impl Subject<'_> {
    fn name(&self) -> &str {
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

    fn is_for(self, subject: Subject<'_>) -> bool {
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
const LIMITS: &[&str] = &[
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

fn compile(pattern: &str) -> Result<Regex, Invalid> {
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
                    if !value.as_str().and_then(age_ms).is_some() {
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
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be from 1 to 1,000"
            )]
            retry_multiplier: factor.map(|factor| (factor * 1000.0).round() as u32),
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

/// One that is ready to be asked.
#[derive(Clone, Debug)]
struct Ready {
    policy: Arc<Policy>,
    regex: Regex,
}

/// The policies of one vhost, of one sort, the first that matches applies.
type Sorted = Vec<Ready>;

/// What is stored, with where it belongs.
#[derive(Serialize, Deserialize)]
struct Stored {
    space: String,
    #[serde(flatten)]
    policy: Policy,
}

/// Whose policies.
type Key = (Arc<str>, bool);

/// All policies of a service: documents of the catalog.
pub struct Policies {
    broker: Arc<Broker>,
    sorted: RwLock<HashMap<Key, Sorted>>,
    writer: tokio::sync::Mutex<()>,
}

const POLICY: &str = "amqp/policy/";
const OPERATOR_POLICY: &str = "amqp/operator-policy/";

fn prefix(operator: bool) -> &'static str {
    if operator { OPERATOR_POLICY } else { POLICY }
}

fn document(space: &str, name: &str, operator: bool) -> String {
    // The length keeps `a` + `/b` and `a/b` apart.
    format!("{}{}:{space}/{name}", prefix(operator), space.len())
}

/// Policies of one vhost.
pub const POLICIES_MAX: usize = 10_000;

/// Why a policy is not stored.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There are too many.
    #[error("the limit of {POLICIES_MAX} policies is reached")]
    Full,
    /// It cannot be written.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// It cannot be written down.
    #[error("{0}")]
    Encoding(#[from] serde_json::Error),
}

impl Policies {
    /// What the catalog has. What cannot be read is left out.
    #[must_use]
    pub fn load(broker: Arc<Broker>) -> Self {
        let mut sorted: HashMap<Key, Sorted> = HashMap::new();
        for operator in [false, true] {
            for (name, found) in broker.catalog().list(prefix(operator)) {
                let stored = serde_json::from_slice::<Stored>(&found.body);
                let read = stored
                    .map_err(|error| error.to_string())
                    .and_then(|stored| {
                        let regex = compile(&stored.policy.pattern).map_err(|e| e.to_string())?;
                        Ok((stored.space, stored.policy, regex))
                    });
                match read {
                    Ok((space, policy, regex)) => {
                        let policy = Arc::new(policy);
                        let of = sorted.entry((space.into(), operator)).or_default();
                        of.push(Ready { policy, regex });
                    }
                    Err(error) => tracing::error!(%name, error, "a policy cannot be read"),
                }
            }
        }
        for of in sorted.values_mut() {
            sort(of);
        }
        Policies {
            broker,
            sorted: RwLock::new(sorted),
            writer: tokio::sync::Mutex::default(),
        }
    }

    /// Those of a space, by priority.
    #[must_use]
    pub fn list(&self, space: &str, operator: bool) -> Vec<Arc<Policy>> {
        let sorted = self.sorted.read();
        let of = sorted.get(&(Arc::from(space), operator));
        of.into_iter()
            .flatten()
            .map(|ready| Arc::clone(&ready.policy))
            .collect()
    }

    /// One by name.
    #[must_use]
    pub fn get(&self, space: &str, name: &str, operator: bool) -> Option<Arc<Policy>> {
        let all = self.list(space, operator);
        all.into_iter().find(|policy| policy.name == name)
    }

    /// The one that applies.
    #[must_use]
    pub fn matching(
        &self,
        space: &str,
        subject: Subject<'_>,
        operator: bool,
    ) -> Option<Arc<Policy>> {
        let sorted = self.sorted.read();
        if sorted.is_empty() {
            return None;
        }
        let mut of = sorted.get(&(Arc::from(space), operator))?.iter();
        let fits = |ready: &&Ready| {
            ready.policy.apply_to.is_for(subject) && ready.regex.is_match(subject.name())
        };
        of.find(fits).map(|ready| Arc::clone(&ready.policy))
    }

    /// What the policy and the operator policy that apply say together.
    #[must_use]
    pub fn effective(&self, space: &str, subject: Subject<'_>) -> Map<String, Value> {
        let policy = self.matching(space, subject, false);
        let mut definition = policy.map_or_else(Map::new, |policy| policy.definition.clone());
        let Some(operator) = self.matching(space, subject, true) else {
            return definition;
        };
        for (key, value) in &operator.definition {
            let lower = definition
                .get(key)
                .filter(|_| LIMITS.contains(&key.as_str()))
                .and_then(Value::as_i64)
                .zip(value.as_i64())
                .is_some_and(|(own, operators)| own <= operators);
            if !lower {
                definition.insert(key.clone(), value.clone());
            }
        }
        definition
    }

    /// Sets a policy. `true`: it is new.
    ///
    /// # Errors
    /// What is wrong with it, or why it cannot be stored.
    pub async fn put(
        &self,
        space: &Arc<str>,
        policy: Policy,
        operator: bool,
    ) -> Result<bool, PolicyError> {
        policy.check(operator)?;
        let regex = compile(&policy.pattern)?;
        let _writer = self.writer.lock().await;
        let is_new = self.get(space, &policy.name, operator).is_none();
        if is_new && self.list(space, operator).len() >= POLICIES_MAX {
            return Err(PolicyError::Full);
        }
        let name = policy.name.clone();
        let stored = Stored {
            space: space.to_string(),
            policy,
        };
        let body = Bytes::from(serde_json::to_vec(&stored)?);
        self.write(document(space, &name, operator), Some(body))
            .await?;
        let mut sorted = self.sorted.write();
        let of = sorted.entry((Arc::clone(space), operator)).or_default();
        of.retain(|ready| ready.policy.name != name);
        of.push(Ready {
            policy: Arc::new(stored.policy),
            regex,
        });
        sort(of);
        Ok(is_new)
    }

    /// Removes a policy; `false`: there is none.
    ///
    /// # Errors
    /// Why it cannot be.
    pub async fn remove(
        &self,
        space: &Arc<str>,
        name: &str,
        operator: bool,
    ) -> Result<bool, PolicyError> {
        let _writer = self.writer.lock().await;
        if self.get(space, name, operator).is_none() {
            return Ok(false);
        }
        self.write(document(space, name, operator), None).await?;
        let mut sorted = self.sorted.write();
        if let Some(of) = sorted.get_mut(&(Arc::clone(space), operator)) {
            of.retain(|ready| ready.policy.name != name);
        }
        Ok(true)
    }

    async fn write(&self, name: String, body: Option<Bytes>) -> Result<(), BrokerError> {
        let write = Write {
            name,
            body,
            expected: None,
        };
        self.broker.catalog().put_all(vec![write]).await?;
        Ok(())
    }
}

/// The highest priority first; among equals, by name.
fn sort(of: &mut Sorted) {
    of.sort_by(|a, b| {
        let by_priority = b.policy.priority.cmp(&a.policy.priority);
        by_priority.then_with(|| a.policy.name.cmp(&b.policy.name))
    });
}

#[cfg(test)]
mod tests {
    use longtail_broker::BrokerConfig;
    use serde_json::json;

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

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
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

    #[test]
    fn the_highest_priority_applies_alone_and_limits_of_operators_are_minima() {
        let dir = tempfile::tempdir().unwrap();
        let space: Arc<str> = "default".into();
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let policies = Policies::load(Arc::clone(&broker));
        let put = |p: Policy, operator| wait(policies.put(&space, p, operator)).unwrap();
        assert!(put(
            policy("low", "^q", 0, &json!({"expires": 1000})),
            false
        ));
        let high = json!({"max-length": 100, "message-ttl": 50, "overflow": "drop-head"});
        assert!(put(policy("high", "^q", 5, &high), false));
        assert!(!put(policy("high", "^q", 5, &high), false));
        let limits = json!({"max-length": 10, "message-ttl": 60, "overflow": "reject-publish"});
        put(policy("ops", "", 0, &limits), true);
        let queue = Subject::Queue("q1", "classic");
        let expected = json!({"max-length": 10, "message-ttl": 50, "overflow": "reject-publish"});
        assert_eq!(Value::Object(policies.effective(&space, queue)), expected);
        assert!(policies.effective("other", queue).is_empty());

        let again = Policies::load(broker);
        assert_eq!(Value::Object(again.effective(&space, queue)), expected);
        assert!(wait(again.remove(&space, "high", false)).unwrap());
        assert!(!wait(again.remove(&space, "high", false)).unwrap());
        assert_eq!(again.matching(&space, queue, false).unwrap().name, "low");
    }

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
