//! What is said of a vhost beside what every space has: a document of the catalog.

use longtail_broker::Catalog;
use longtail_broker::catalog::Write;
use serde::{Deserialize, Serialize};

use crate::queue::QueueType;

/// What is said of a vhost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vhost {
    /// For people.
    pub description: String,
    /// For other tools.
    pub tags: Vec<String>,
    /// It is not deleted before this is taken back.
    pub protected_from_deletion: bool,
    /// A copy of every message is published to `amq.rabbitmq.trace`.
    pub tracing: bool,
    /// What a queue is that does not say its type: `classic`, `quorum` or `stream`. `None`: `classic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_queue_type: Option<String>,
    /// Queues that may be declared. `None`: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues_max: Option<u64>,
}

impl Vhost {
    /// The type of a queue that says none; `None`: nothing is said.
    #[must_use]
    pub fn queue_type(&self) -> Option<QueueType> {
        self.default_queue_type.as_deref().and_then(QueueType::of)
    }

    /// The name of a space's document.
    #[must_use]
    pub fn document(space: &str) -> String {
        format!("amqp/vhost/{space}")
    }

    /// What is stored of a space; nothing is the default.
    #[must_use]
    pub fn of(catalog: &Catalog, space: &str) -> Self {
        let found = catalog.get(&Vhost::document(space));
        found.map_or_else(Vhost::default, |found| {
            serde_json::from_slice(&found.body).unwrap_or_else(|error| {
                tracing::error!(%error, space, "what is said of a vhost cannot be read");
                Vhost::default()
            })
        })
    }

    /// The document to be written.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn write(&self, space: &str) -> Result<Write, serde_json::Error> {
        Ok(Write {
            name: Vhost::document(space),
            body: Some(serde_json::to_vec(self)?.into()),
            expected: None,
        })
    }
}
