//! The catalog: small versioned documents that say what there is (bindings, and later exchanges, users, policies,
//! schedules). They are as durable as everything else, read from a snapshot without a lock, and watched.
//!
//! All of them live in shard 0's log. A write is published to readers once the shard has answered, so that nobody acts
//! on a definition that a crash may take back. Documents that are written together are in one frame of the log, and
//! readers and watchers see all of them at once.

mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use longtail_engine::{Command, Refusal, Step, Transaction};
use parking_lot::Mutex;

use crate::broker::BrokerError;
use crate::client::{Client, accepted};
use snapshot::Snapshot;

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

/// Is called with what was written together, after every write, from the thread that made it; must not wait.
pub type Watcher = Box<dyn Fn(&[Change]) + Send + Sync>;

/// One document of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its name, 1 to 1024 bytes.
    pub name: String,
    /// Its content; `None` removes it.
    pub body: Option<Bytes>,
    /// Only if it has this version (0: if it does not exist); `None`: whatever it has.
    pub expected: Option<u64>,
}

/// The documents of a broker.
pub struct Catalog {
    client: Client,
    documents: ArcSwap<Snapshot>,
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
        let mut documents = Snapshot::default();
        for (name, bytes) in stored {
            match bytes.split_first_chunk::<{ Catalog::VERSION }>() {
                Some((version, body)) => {
                    let version = u64::from_le_bytes(*version);
                    let document = Document {
                        version,
                        body: Bytes::copy_from_slice(body),
                    };
                    documents.set(&name.into(), Some(document));
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
        let found = documents.range(prefix);
        found
            .take_while(|(name, _)| name.starts_with(prefix))
            .cloned()
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
        let write = Write {
            name: name.to_owned(),
            body: Some(Bytes::copy_from_slice(body)),
            expected,
        };
        let versions = self.put_all(vec![write]).await?;
        Ok(versions.first().copied().unwrap_or_default())
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
        let write = Write {
            name: name.to_owned(),
            body: None,
            expected: None,
        };
        self.write(vec![write]).await?;
        Ok(true)
    }

    /// Writes and removes documents, all or none: at most [`Transaction::MAX_STEPS`], no name twice. Returns the version
    /// that each has now, 0 for those that are gone.
    ///
    /// # Errors
    /// [`BrokerError::Conflict`] for the first that has another version than expected; what the shard refuses.
    pub async fn put_all(&self, writes: Vec<Write>) -> Result<Vec<u64>, BrokerError> {
        let _writer = self.writer.lock().await;
        self.write(writes).await
    }

    /// With the writer's lock held.
    async fn write(&self, writes: Vec<Write>) -> Result<Vec<u64>, BrokerError> {
        let documents = self.documents.load_full();
        let mut names: Vec<&str> = writes.iter().map(|write| write.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            let why = "a write names a document once at most";
            return Err(Refusal::Unsupported(why).into());
        }
        let mut steps = Vec::with_capacity(writes.len());
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let found = documents.get(&write.name).map_or(0, |known| known.version);
            if write.expected.is_some_and(|expected| expected != found) {
                return Err(BrokerError::Conflict {
                    name: write.name,
                    found,
                });
            }
            let document = write.body.map(|body| Document {
                version: found + 1,
                body,
            });
            changes.push(Change {
                name: write.name.as_str().into(),
                document: document.clone(),
            });
            if document.is_none() && found == 0 {
                continue;
            }
            let stored = |document: Document| {
                Bytes::from([&document.version.to_le_bytes()[..], &document.body].concat())
            };
            steps.push(Step::Document {
                name: write.name,
                body: document.map(stored),
            });
        }
        if !steps.is_empty() {
            let transaction = Command::Transact(Box::new(Transaction { steps }));
            accepted(self.client.call(transaction).await?)?;
        }
        self.publish(&documents, &changes);
        let version = |change: &Change| change.document.as_ref().map_or(0, |now| now.version);
        Ok(changes.iter().map(version).collect())
    }

    fn publish(&self, documents: &Snapshot, changes: &[Change]) {
        let mut documents = documents.clone();
        for change in changes {
            documents.set(&change.name, change.document.clone());
        }
        self.documents.store(Arc::new(documents));
        for watcher in self.watchers.lock().iter() {
            watcher(changes);
        }
    }
}
