//! The last value of each subject of a space: MQTT's retained messages, and whatever else wants "the latest".
//!
//! The store is an ordered map whose order puts a subject right before everything below it, so that a subtree is a
//! range. A wildcard look-up is a [`RetainedCursor`] that steps through the map and leaps over subtrees that cannot
//! match. It takes the lock for a bounded number of entries at a time and remembers only a subject between two steps:
//! a million matches are paced by whoever consumes them, and changes in the meantime harm nothing.
//!
//! In a broker that keeps its messages, the values are [last values](crate::last_values) of the stream `$retained` of
//! their space. A change is visible at once, in the order of submission, which is the order of the log, and durable
//! when the caller is told. When the shard refuses it, what was there before is back.
//!
//! Who publishes sets the value first and looks for subscribers then; who subscribes does that first and walks through
//! the values then. So a subscriber that comes in the middle of a publish sees the old value, the new one, or the new
//! one after the old one.

mod cursor;
mod kept;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use longtail_engine::StreamName;
use longtail_model::{Subject, Timestamp};
use parking_lot::RwLock;

use crate::broker::{Broker, BrokerError};
use crate::client::OwnedMessage;
use crate::last_values::{Done, LastValues};
use crate::message::{Message, SharedMessage};
use crate::stored::{Stored, new_value};

pub use cursor::RetainedCursor;
use kept::{Kept, Place};

/// The stream of a space that keeps its values.
pub const STREAM: &str = "$retained";

/// How much one store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Subjects with a value. Default 1,000,000.
    pub messages_max: usize,
    /// Bytes in memory: subjects, headers, payloads and [`RetainedStore::OVERHEAD`] each. Default 512 MiB.
    pub bytes_max: u64,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        RetainedLimits {
            messages_max: 1_000_000,
            bytes_max: 512 * 1024 * 1024,
        }
    }
}

/// When a change is as durable as it is going to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    /// It is already: there is no log, or nothing to be changed. The completion is not called.
    Now,
    /// When the completion is called.
    Later,
}

/// Why a message cannot be kept. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetainedError {
    /// See [`RetainedLimits::messages_max`].
    #[error("the space has reached its limit of {limit} retained messages")]
    TooManyMessages {
        /// The limit.
        limit: usize,
    },
    /// See [`RetainedLimits::bytes_max`].
    #[error("the space has reached its limit of {limit} bytes of retained messages")]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
}

/// The last values of one space.
pub struct RetainedStore(Arc<Store>);

struct Store {
    limits: RetainedLimits,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: BTreeSet<Kept>,
    /// The entries that expire, by when.
    due: BTreeSet<(Timestamp, Kept)>,
    bytes: u64,
    /// Where they are durable, if anywhere. Changed with the lock held, so that both have one order.
    log: Option<Arc<LastValues<Kept>>>,
}

impl Default for RetainedStore {
    fn default() -> Self {
        RetainedStore::new(RetainedLimits::default())
    }
}

impl RetainedStore {
    /// What an entry costs beside its subject, headers and payload, in bytes.
    pub const OVERHEAD: u64 = 384;

    /// Expired values that one change takes away with it. More than it adds, so that they do not gather.
    const EXPIRED_MAX: usize = 2;

    /// An empty store without a log.
    #[must_use]
    pub fn new(limits: RetainedLimits) -> Self {
        RetainedStore(Arc::new(Store {
            limits,
            inner: RwLock::default(),
        }))
    }

    /// The store of a space: what the log has of it, and in future keeps of it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn open(
        broker: &Broker,
        space: &Arc<str>,
        limits: RetainedLimits,
        is_new: bool,
    ) -> Result<Self, BrokerError> {
        let store = RetainedStore::new(limits);
        let name = StreamName::new(Arc::clone(space), STREAM);
        let taken_back = {
            let store = Arc::downgrade(&store.0);
            Box::new(move |key: &str| {
                if let Some(store) = store.upgrade() {
                    store.inner.write().take_over(key);
                }
            })
        };
        // In the order of the log: what was set in the order of its subjects needs no sorting.
        let mut found = Vec::new();
        let log = if is_new {
            LastValues::empty(broker, &name, taken_back)
        } else {
            let read = |subject: &str, record| {
                let kept = read(subject, record)?;
                found.push(kept.clone());
                Some(kept)
            };
            LastValues::open(broker, &name, read, taken_back)?
        };
        if found.len() != log.len() {
            // Some of it is out of date.
            found.clear();
            log.for_each(|kept| found.push(kept.clone()));
        }
        let mut inner = store.0.inner.write();
        inner.bytes = found.iter().map(cost_kept).sum();
        inner.due = found
            .iter()
            .map(|kept| (kept.expires(), kept))
            .filter(|(expires, _)| *expires != Timestamp::NEVER)
            .map(|(expires, kept)| (expires, kept.clone()))
            .collect();
        inner.entries = found.into_iter().collect();
        inner.log = Some(Arc::new(log));
        drop(inner);
        Ok(store)
    }

    /// Whether there is room for `message`, in place of what its subject has now.
    fn check(&self, inner: &Inner, message: &Message) -> Result<(), RetainedError> {
        let limits = &self.0.limits;
        let old = inner.find(&message.subject);
        if old.is_none() && inner.entries.len() >= limits.messages_max {
            return Err(RetainedError::TooManyMessages {
                limit: limits.messages_max,
            });
        }
        let freed = old.map_or(0, cost_kept);
        if inner.bytes - freed + cost(message) > limits.bytes_max {
            return Err(RetainedError::TooManyBytes {
                limit: limits.bytes_max,
            });
        }
        Ok(())
    }

    /// Keeps `message` as its subject's last value. It is visible at once; for `done` see [`Settled`] and [`Done`]. Of
    /// what has expired when it was published, a little is forgotten.
    ///
    /// Only queues: [`Shards::run`](longtail_engine::runtime::Shards::run) follows, as after a session's own commands.
    ///
    /// # Errors
    /// The limit that it would exceed.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a large one is kept as it is; whoever has it no longer needs it"
    )]
    pub fn set(&self, message: SharedMessage, done: Done) -> Result<Settled, RetainedError> {
        let mut inner = self.0.inner.write();
        inner.expire(message.published, Self::EXPIRED_MAX, |_| {});
        self.check(&inner, &message)?;
        let kept = Kept::of(&message);
        inner.put(kept.clone());
        let Some(log) = &inner.log else {
            return Ok(Settled::Now);
        };
        log.set(kept, new_value(&message), done);
        Ok(Settled::Later)
    }

    /// Forgets the last value of `subject`. As [`RetainedStore::set`] otherwise.
    pub fn clear(&self, subject: &Subject, done: Done) -> Settled {
        let mut inner = self.0.inner.write();
        inner.take(subject);
        match &inner.log {
            // Also when it has none any more: that may not be durable yet.
            Some(log) if log.remove(subject, done) => Settled::Later,
            _ => Settled::Now,
        }
    }

    /// The last value of one subject, unless it has expired.
    #[must_use]
    pub fn get(&self, subject: &Subject, now: Timestamp) -> Option<SharedMessage> {
        let inner = self.0.inner.read();
        inner
            .find(subject)
            .filter(|kept| kept.expires() > now)?
            .to_message()
    }

    /// Forgets up to `most` values that have expired, durably; returns how many. Fewer than `most` means that no more
    /// have expired. Only queues, as [`RetainedStore::set`].
    /// `each` is shown the subjects, with the store locked.
    pub fn expire(&self, now: Timestamp, most: usize, each: impl FnMut(&Subject)) -> usize {
        self.0.inner.write().expire(now, most, each)
    }

    /// When the next value expires; [`Timestamp::NEVER`] if none does.
    #[must_use]
    pub fn next_expiry(&self) -> Timestamp {
        self.0
            .inner
            .read()
            .due
            .first()
            .map_or(Timestamp::NEVER, |(due, _)| *due)
    }

    /// Subjects with a value, expired ones that were not yet forgotten included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.inner.read().entries.len()
    }

    /// Whether no subject has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, as [`RetainedLimits::bytes_max`] counts them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.inner.read().bytes
    }
}

impl Inner {
    fn find(&self, subject: &Subject) -> Option<&Kept> {
        self.entries.get(subject as &dyn Place)
    }

    fn put(&mut self, kept: Kept) {
        self.bytes += cost_kept(&kept);
        let expires = kept.expires();
        let due = (expires != Timestamp::NEVER).then(|| (expires, kept.clone()));
        if let Some(old) = self.entries.replace(kept) {
            self.bytes -= cost_kept(&old);
            let old_expires = old.expires();
            if old_expires != Timestamp::NEVER {
                self.due.remove(&(old_expires, old));
            }
        }
        self.due.extend(due);
    }

    /// Takes what the log says of a subject.
    fn take_over(&mut self, subject: &str) {
        let Some(log) = &self.log else { return };
        match log.get(subject) {
            Some(kept) => self.put(kept),
            None => {
                if let Ok(subject) = Subject::new(subject) {
                    self.take(&subject);
                }
            }
        }
    }

    fn expire(&mut self, now: Timestamp, most: usize, mut each: impl FnMut(&Subject)) -> usize {
        for count in 0..most {
            let Some((due, kept)) = self.due.first() else {
                return count;
            };
            if *due > now {
                return count;
            }
            let Some(subject) = kept.subject() else {
                return count;
            };
            self.take(&subject);
            each(&subject);
            if let Some(log) = &self.log {
                // If the shard refuses, it is back, and goes later.
                let _ = log.remove(&subject, Box::new(|_| {}));
            }
        }
        most
    }

    fn take(&mut self, subject: &Subject) {
        let Some(old) = self.entries.take(subject as &dyn Place) else {
            return;
        };
        self.bytes -= cost_kept(&old);
        let expires = old.expires();
        if expires != Timestamp::NEVER {
            self.due.remove(&(expires, old));
        }
    }
}

/// The message of a record that [`new_value`] has made.
fn read(subject: &str, record: OwnedMessage) -> Option<Kept> {
    let stored = Stored::read(subject.as_bytes(), &record.headers);
    let message = stored.to_message(record.payload, record.created, stored.expires);
    Some(Kept::new(message.ok()?))
}

fn cost(message: &Message) -> u64 {
    content(message) as u64 + RetainedStore::OVERHEAD
}

fn cost_kept(kept: &Kept) -> u64 {
    kept.bytes() as u64 + RetainedStore::OVERHEAD
}

/// Bytes of a message's subject, headers and payload.
fn content(message: &Message) -> usize {
    message.subject.as_str().len() + message.headers.bytes() + message.payload.len()
}
