//! The catalog: small versioned documents that say what there is (bindings, and later exchanges, users, policies,
//! schedules). They are as durable as everything else, read from a snapshot without a lock, and watched.
//!
//! All of them live in shard 0's log. A write is published to readers once the shard has answered, so that nobody acts
//! on a definition that a crash may take back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use longtail_engine::Command;
use parking_lot::Mutex;

use crate::broker::BrokerError;
use crate::client::{Client, accepted};

/// A document as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Counts its writes, from 1.
    pub version: u64,
    /// Its content.
    pub body: Bytes,
}

/// What has become of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: Arc<str>,
    /// What it is now; `None`: gone.
    pub document: Option<Document>,
}

/// Is called after every change, from the thread that made it; must not wait.
pub type Watcher = Box<dyn Fn(&Change) + Send + Sync>;

type Documents = BTreeMap<Arc<str>, Document>;

/// The documents of a broker.
pub struct Catalog {
    client: Client,
    documents: ArcSwap<Documents>,
    /// One writer at a time, in the order of the log.
    writer: tokio::sync::Mutex<()>,
    watchers: Mutex<Vec<Watcher>>,
}

impl Catalog {
    /// Version bytes in front of a stored body.
    const VERSION: usize = 8;

    pub(crate) fn open<'a>(
        client: Client,
        stored: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let mut documents = Documents::new();
        for (name, bytes) in stored {
            match bytes.split_first_chunk::<{ Catalog::VERSION }>() {
                Some((version, body)) => {
                    let version = u64::from_le_bytes(*version);
                    documents.insert(
                        name.into(),
                        Document {
                            version,
                            body: Bytes::copy_from_slice(body),
                        },
                    );
                }
                None => tracing::error!(
                    name,
                    "a document of the catalog is too short and is left out"
                ),
            }
        }
        Catalog {
            client,
            documents: ArcSwap::from_pointee(documents),
            writer: tokio::sync::Mutex::new(()),
            watchers: Mutex::default(),
        }
    }

    /// One document.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Document> {
        self.documents.load().get(name).cloned()
    }

    /// All documents whose names start with `prefix`, in order of their names.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<(Arc<str>, Document)> {
        let documents = self.documents.load();
        documents
            .range::<str, _>((
                std::ops::Bound::Included(prefix),
                std::ops::Bound::Unbounded,
            ))
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, document)| (Arc::clone(name), document.clone()))
            .collect()
    }

    /// Is told of every change from now on.
    pub fn watch(&self, watcher: Watcher) {
        self.watchers.lock().push(watcher);
    }

    /// Writes a document. With `expected`, only if it has that version (0: if it does not exist).
    ///
    /// # Errors
    /// [`BrokerError::Conflict`] when it has another version; what the shard refuses.
    pub async fn put(
        &self,
        name: &str,
        body: &[u8],
        expected: Option<u64>,
    ) -> Result<u64, BrokerError> {
        let _writer = self.writer.lock().await;
        let found = self.get(name).map_or(0, |document| document.version);
        if expected.is_some_and(|expected| expected != found) {
            return Err(BrokerError::Conflict {
                name: name.to_owned(),
                found,
            });
        }
        let version = found + 1;
        let stored = [&version.to_le_bytes()[..], body].concat();
        let command = Command::PutDocument {
            name: name.to_owned(),
            body: Some(stored.into()),
        };
        accepted(self.client.call(command).await?)?;
        let document = Document {
            version,
            body: Bytes::copy_from_slice(body),
        };
        self.publish(&Change {
            name: name.into(),
            document: Some(document),
        });
        Ok(version)
    }

    /// Removes a document; `false` when there was none.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn remove(&self, name: &str) -> Result<bool, BrokerError> {
        let _writer = self.writer.lock().await;
        if self.get(name).is_none() {
            return Ok(false);
        }
        accepted(
            self.client
                .call(Command::PutDocument {
                    name: name.to_owned(),
                    body: None,
                })
                .await?,
        )?;
        self.publish(&Change {
            name: name.into(),
            document: None,
        });
        Ok(true)
    }

    fn publish(&self, change: &Change) {
        let mut documents = Documents::clone(&self.documents.load());
        match &change.document {
            Some(document) => {
                documents.insert(Arc::clone(&change.name), document.clone());
            }
            None => {
                documents.remove(&change.name);
            }
        }
        self.documents.store(Arc::new(documents));
        for watcher in self.watchers.lock().iter() {
            watcher(change);
        }
    }
}
