//! The last value of each subject of a space: MQTT's retained messages, and whatever else wants "the latest".
//!
//! The store is an ordered map whose order puts a subject right before everything below it, so that a subtree is a
//! range. A wildcard look-up is a [`RetainedCursor`] that steps through the map and leaps over subtrees that cannot
//! match. It takes the lock for a bounded number of entries at a time and remembers only a subject between two steps:
//! a million matches are paced by whoever consumes them, and changes in the meantime harm nothing.
//!
//! Durability is the caller's: [`RetainedStore::admits`] before a change is logged, [`RetainedStore::apply`] when it
//! is, in the order of the log. A snapshot is a cursor over everything; applied to an empty store and followed by the
//! changes made since the cursor started, it gives the same store, since a later change to a subject replaces any
//! earlier one.

mod cursor;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use longtail_model::{Subject, Timestamp};
use parking_lot::RwLock;

use crate::message::{Message, SharedMessage};

pub use cursor::RetainedCursor;

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

/// A change of the store, as plain data for the log.
#[derive(Clone, Debug)]
pub enum RetainedChange {
    /// The message is now its subject's last value.
    Set(SharedMessage),
    /// The subject has no value any more.
    Clear(Subject),
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
pub struct RetainedStore {
    limits: RetainedLimits,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, SharedMessage>,
    /// The entries that expire, by when.
    due: BTreeSet<(Timestamp, Key)>,
    bytes: u64,
}

impl Default for RetainedStore {
    fn default() -> Self {
        RetainedStore::new(RetainedLimits::default())
    }
}

impl RetainedStore {
    /// What an entry costs beside its subject, headers and payload, in bytes.
    pub const OVERHEAD: u64 = 256;

    /// An empty store.
    #[must_use]
    pub fn new(limits: RetainedLimits) -> Self {
        RetainedStore {
            limits,
            inner: RwLock::default(),
        }
    }

    /// Whether there is room for `message`, in place of what its subject has now.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn admits(&self, message: &Message) -> Result<(), RetainedError> {
        self.check(&self.inner.read(), message)
    }

    fn check(&self, inner: &Inner, message: &Message) -> Result<(), RetainedError> {
        let old = inner.entries.get(&Key(message.subject.clone()));
        if old.is_none() && inner.entries.len() >= self.limits.messages_max {
            return Err(RetainedError::TooManyMessages {
                limit: self.limits.messages_max,
            });
        }
        let freed = old.map_or(0, |old| cost(old));
        if inner.bytes - freed + cost(message) > self.limits.bytes_max {
            return Err(RetainedError::TooManyBytes {
                limit: self.limits.bytes_max,
            });
        }
        Ok(())
    }

    /// Keeps `message` as its subject's last value. For a store without a log; returns the change for whoever follows.
    ///
    /// # Errors
    /// As [`RetainedStore::admits`].
    pub fn set(&self, message: SharedMessage) -> Result<RetainedChange, RetainedError> {
        let mut inner = self.inner.write();
        self.check(&inner, &message)?;
        inner.put(&message);
        Ok(RetainedChange::Set(message))
    }

    /// Forgets the last value of `subject`. `None` if it had none.
    pub fn clear(&self, subject: &Subject) -> Option<RetainedChange> {
        let taken = self.inner.write().take(subject);
        taken.map(|_| RetainedChange::Clear(subject.clone()))
    }

    /// Applies a change that has been decided: limits do not matter any more.
    pub fn apply(&self, change: &RetainedChange) {
        let mut inner = self.inner.write();
        match change {
            RetainedChange::Set(message) => inner.put(message),
            RetainedChange::Clear(subject) => {
                inner.take(subject);
            }
        }
    }

    /// The last value of one subject, unless it has expired.
    #[must_use]
    pub fn get(&self, subject: &Subject, now: Timestamp) -> Option<SharedMessage> {
        let inner = self.inner.read();
        inner
            .entries
            .get(&Key(subject.clone()))
            .filter(|message| !message.is_expired(now))
            .cloned()
    }

    /// Forgets up to `most` values that have expired, and returns the changes. Fewer than `most` means that no more
    /// have expired.
    pub fn expire(&self, now: Timestamp, most: usize) -> Vec<RetainedChange> {
        let mut inner = self.inner.write();
        let mut changes = Vec::new();
        while changes.len() < most {
            let Some((due, key)) = inner.due.first() else {
                break;
            };
            if *due > now {
                break;
            }
            let subject = key.0.clone();
            inner.take(&subject);
            changes.push(RetainedChange::Clear(subject));
        }
        changes
    }

    /// When the next value expires; [`Timestamp::NEVER`] if none does.
    #[must_use]
    pub fn next_expiry(&self) -> Timestamp {
        self.inner
            .read()
            .due
            .first()
            .map_or(Timestamp::NEVER, |(due, _)| *due)
    }

    /// Subjects with a value, expired ones that were not yet forgotten included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.read().entries.len()
    }

    /// Whether no subject has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory, as [`RetainedLimits::bytes_max`] counts them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.read().bytes
    }
}

impl Inner {
    fn put(&mut self, message: &SharedMessage) {
        let key = Key(message.subject.clone());
        self.bytes += cost(message);
        if message.expires != Timestamp::NEVER {
            self.due.insert((message.expires, key.clone()));
        }
        if let Some(old) = self.entries.insert(key.clone(), message.clone()) {
            self.bytes -= cost(&old);
            if old.expires != message.expires {
                self.due.remove(&(old.expires, key));
            }
        }
    }

    fn take(&mut self, subject: &Subject) -> Option<SharedMessage> {
        let key = Key(subject.clone());
        let old = self.entries.remove(&key)?;
        self.bytes -= cost(&old);
        self.due.remove(&(old.expires, key));
        Some(old)
    }
}

fn cost(message: &Message) -> u64 {
    let bytes = message.subject.as_str().len() + message.headers.bytes() + message.payload.len();
    bytes as u64 + RetainedStore::OVERHEAD
}

/// A subject in an order where the separator comes before every other character: right after `a` comes all of `a/...`,
/// and only then `a!`.
#[derive(Clone, PartialEq, Eq)]
struct Key(Subject);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        // No subject contains NUL, so the separator can take its place.
        let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
        let (a, b) = (self.0.as_str().as_bytes(), other.0.as_str().as_bytes());
        match a.iter().zip(b).find(|(a, b)| a != b) {
            Some((a, b)) => rank(*a).cmp(&rank(*b)),
            None => a.len().cmp(&b.len()),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
