//! All policies: documents of the catalog, kept ready to be asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use longtail_broker::catalog::Write;
use longtail_broker::{Broker, BrokerError};
use parking_lot::RwLock;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::{Invalid, LIMITS, compile};
use super::{Policy, Subject};

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
    version: AtomicU64,
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
            version: AtomicU64::new(1),
        }
    }

    /// Moves with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
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
        self.version.fetch_add(1, Ordering::AcqRel);
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
        self.version.fetch_add(1, Ordering::AcqRel);
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

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
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
}
