//! Runtime parameters: what operators set for a component of a vhost, as JSON. Documents of the catalog.
//!
//! `check` says what is wrong with a value in RabbitMQ's words; who a component belongs to reads it.

pub(crate) mod check;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::catalog::Write;
use longtail_broker::{Broker, BrokerError};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The component of shovels.
pub(crate) const SHOVEL: &str = "shovel";
/// The component of brokers that are federated from.
pub(crate) const UPSTREAM: &str = "federation-upstream";
/// The component of sets of these.
pub(crate) const UPSTREAM_SET: &str = "federation-upstream-set";

/// Components whose parameters are kept here.
pub(crate) const COMPONENTS: &[&str] = &[SHOVEL, UPSTREAM, UPSTREAM_SET];

/// Parameters of a component in one vhost.
pub(crate) const PARAMETERS_MAX: usize = 10_000;

/// Their documents begin with this.
const DOCUMENT: &str = "amqp/parameter/";

/// A parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Parameter {
    pub(crate) component: String,
    pub(crate) space: String,
    pub(crate) name: String,
    pub(crate) value: Value,
    /// Who has set it; `None`: this machine's guest, or a file of definitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
}

/// Component, space, name.
type Key = (String, String, String);

/// Why a parameter is not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParameterError {
    #[error("the limit of {PARAMETERS_MAX} parameters is reached")]
    Full,
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("{0}")]
    Encoding(#[from] serde_json::Error),
}

/// All that there are.
pub(crate) struct Parameters {
    broker: Arc<Broker>,
    known: RwLock<BTreeMap<Key, Arc<Parameter>>>,
    writer: tokio::sync::Mutex<()>,
    version: AtomicU64,
}

fn document(component: &str, space: &str, name: &str) -> String {
    // The length keeps `a` + `/b` and `a/b` apart.
    format!("{DOCUMENT}{component}/{}:{space}/{name}", space.len())
}

fn key(component: &str, space: &str, name: &str) -> Key {
    (component.to_owned(), space.to_owned(), name.to_owned())
}

impl Parameters {
    /// What the catalog has. What cannot be read is left out.
    pub(crate) fn load(broker: Arc<Broker>) -> Self {
        let mut known = BTreeMap::new();
        for (document, found) in broker.catalog().list(DOCUMENT) {
            match serde_json::from_slice::<Parameter>(&found.body) {
                Ok(read) => {
                    let key = key(&read.component, &read.space, &read.name);
                    known.insert(key, Arc::new(read));
                }
                Err(error) => tracing::error!(%document, %error, "a parameter cannot be read"),
            }
        }
        Parameters {
            broker,
            known: RwLock::new(known),
            writer: tokio::sync::Mutex::default(),
            version: AtomicU64::new(1),
        }
    }

    /// Moves with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Those of a component, in one space or in all, by space and name.
    pub(crate) fn list(&self, component: &str, space: Option<&str>) -> Vec<Arc<Parameter>> {
        let known = self.known.read();
        let wanted = known.values().filter(|parameter| {
            parameter.component == component && space.is_none_or(|space| parameter.space == space)
        });
        wanted.cloned().collect()
    }

    /// One of them.
    pub(crate) fn get(&self, component: &str, space: &str, name: &str) -> Option<Arc<Parameter>> {
        self.known.read().get(&key(component, space, name)).cloned()
    }

    /// Sets one. `true`: it is new.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn put(&self, parameter: Parameter) -> Result<bool, ParameterError> {
        let _writer = self.writer.lock().await;
        let Parameter {
            component,
            space,
            name,
            ..
        } = &parameter;
        let is_new = self.get(component, space, name).is_none();
        if is_new && self.list(component, Some(space)).len() >= PARAMETERS_MAX {
            return Err(ParameterError::Full);
        }
        let body = serde_json::to_vec(&parameter)?;
        self.write(document(component, space, name), Some(body))
            .await?;
        let key = key(component, space, name);
        self.known.write().insert(key, Arc::new(parameter));
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(is_new)
    }

    /// Removes one; `false`: there is none.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn remove(
        &self,
        component: &str,
        space: &str,
        name: &str,
    ) -> Result<bool, ParameterError> {
        let _writer = self.writer.lock().await;
        if self.get(component, space, name).is_none() {
            return Ok(false);
        }
        self.write(document(component, space, name), None).await?;
        self.known.write().remove(&key(component, space, name));
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(true)
    }

    async fn write(&self, name: String, body: Option<Vec<u8>>) -> Result<(), BrokerError> {
        let write = Write {
            name,
            body: body.map(Into::into),
            expected: None,
        };
        self.broker.catalog().put_all(vec![write]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::BrokerConfig;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn parameters_outlive_a_restart_and_are_of_one_space() {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let parameters = Parameters::load(Arc::clone(&broker));
        let of = |space: &str| Parameter {
            component: SHOVEL.into(),
            space: space.into(),
            name: "s".into(),
            value: json!({"src-uri": "amqp://"}),
            user: Some("u".into()),
        };
        assert!(parameters.put(of("a")).await.unwrap());
        assert!(!parameters.put(of("a")).await.unwrap());
        assert!(parameters.put(of("a/b")).await.unwrap());
        let before = parameters.version();
        assert!(parameters.remove(SHOVEL, "a/b", "s").await.unwrap());
        assert!(!parameters.remove(SHOVEL, "a/b", "s").await.unwrap());
        assert!(parameters.version() > before);
        let again = Parameters::load(broker);
        assert_eq!(again.list(SHOVEL, None), [Arc::new(of("a"))]);
        assert!(again.get(SHOVEL, "b", "s").is_none());
    }
}
