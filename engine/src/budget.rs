//! What each space holds and may hold, over all shards of a process.
//!
//! A shard counts what it holds of a space in a place of its own that only it writes to, so that shards do not wait for
//! each other's cache lines; who asks adds the places up. A space without limits costs these counts and nothing else.
//! Shards that take something in the same instant may together pass a limit by what each of them takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longtail_model::ShardId;
use parking_lot::RwLock;

use crate::effect::Refusal;

/// What a space holds, or may hold at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding<T = u64> {
    /// Streams.
    pub streams: T,
    /// Messages, counted in each of the streams that they are in.
    pub messages: T,
    /// Bytes of those: subject, id, headers and body.
    pub bytes: T,
}

/// The budgets of all spaces, by name. Shared by the shards of a process.
#[derive(Debug)]
pub struct Budgets {
    shards: usize,
    spaces: RwLock<HashMap<Arc<str>, Arc<Budget>>>,
}

impl Default for Budgets {
    fn default() -> Self {
        Budgets::new(1)
    }
}

impl Budgets {
    /// No limits yet, for so many shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Budgets {
            shards: usize::from(shards.max(1)),
            spaces: RwLock::default(),
        }
    }

    /// Says what a space may hold from now on; `None` is no limit. What it holds already stays.
    pub fn limit(&self, space: &str, limits: Holding<Option<u64>>) {
        self.of(space).limit(limits);
    }

    /// What a space holds.
    #[must_use]
    pub fn held(&self, space: &str) -> Holding {
        let budget = self.spaces.read().get(space).cloned();
        budget.map(|budget| budget.held()).unwrap_or_default()
    }

    pub(crate) fn of(&self, space: &str) -> Arc<Budget> {
        if let Some(budget) = self.spaces.read().get(space) {
            return Arc::clone(budget);
        }
        let name: Arc<str> = space.into();
        let new = || Arc::new(Budget::new(&name, self.shards));
        let mut spaces = self.spaces.write();
        Arc::clone(spaces.entry(Arc::clone(&name)).or_insert_with(new))
    }
}

/// The budget of one space.
#[derive(Debug)]
pub(crate) struct Budget {
    space: Arc<str>,
    shares: Box<[Share]>,
    is_limited: AtomicBool,
    limits: Share,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Share {
    streams: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Share {
    fn load(&self) -> Holding {
        Holding {
            streams: self.streams.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn store(&self, holding: Holding) {
        self.streams.store(holding.streams, Ordering::Relaxed);
        self.messages.store(holding.messages, Ordering::Relaxed);
        self.bytes.store(holding.bytes, Ordering::Relaxed);
    }
}

impl Budget {
    fn new(space: &Arc<str>, shards: usize) -> Self {
        Budget {
            space: Arc::clone(space),
            shares: (0..shards).map(|_| Share::default()).collect(),
            is_limited: AtomicBool::new(false),
            limits: Share::default(),
        }
    }

    fn limit(&self, limits: Holding<Option<u64>>) {
        self.limits.store(Holding {
            streams: limits.streams.unwrap_or(u64::MAX),
            messages: limits.messages.unwrap_or(u64::MAX),
            bytes: limits.bytes.unwrap_or(u64::MAX),
        });
        self.is_limited
            .store(limits != Holding::default(), Ordering::Release);
    }

    fn held(&self) -> Holding {
        self.shares.iter().fold(Holding::default(), |sum, share| {
            let share = share.load();
            Holding {
                streams: sum.streams.saturating_add(share.streams),
                messages: sum.messages.saturating_add(share.messages),
                bytes: sum.bytes.saturating_add(share.bytes),
            }
        })
    }

    /// Whether there is any limit to look at.
    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Acquire)
    }

    /// Refuses what would exceed a limit when `freed` has gone. What is not asked for is not looked at: a space that
    /// holds too much may still give.
    pub(crate) fn admit(&self, more: Holding, freed: Holding) -> Result<(), Refusal> {
        if !self.is_limited() {
            return Ok(());
        }
        let (held, limits) = (self.held(), self.limits.load());
        let parts = [
            (
                "streams",
                held.streams,
                more.streams,
                freed.streams,
                limits.streams,
            ),
            (
                "messages",
                held.messages,
                more.messages,
                freed.messages,
                limits.messages,
            ),
            ("bytes", held.bytes, more.bytes, freed.bytes, limits.bytes),
        ];
        for (what, held, more, freed, limit) in parts {
            if more > 0 && held.saturating_add(more).saturating_sub(freed) > limit {
                return Err(Refusal::Limit(format!(
                    "space {} is limited to {limit} {what}: it holds {held}, and {more} more are too many",
                    self.space
                )));
            }
        }
        Ok(())
    }
}

/// How much one stream holds, as part of what its space holds.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    shard: usize,
    messages: u64,
    bytes: u64,
}

impl Held {
    /// A new stream, empty.
    pub(crate) fn new(budget: Arc<Budget>, shard: ShardId) -> Self {
        let shard = usize::from(shard.0) % budget.shares.len().max(1);
        let held = Held {
            budget,
            shard,
            messages: 0,
            bytes: 0,
        };
        if let Some(share) = held.share() {
            add(&share.streams, 1);
        }
        held
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The name of the space.
    pub(crate) fn space(&self) -> Arc<str> {
        Arc::clone(&self.budget.space)
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A message more.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.set(self.messages + 1, self.bytes + bytes);
    }

    /// A message less; an empty stream has no bytes.
    pub(crate) fn take(&mut self, bytes: u64) {
        let messages = self.messages.saturating_sub(1);
        let bytes = if messages == 0 {
            0
        } else {
            self.bytes.saturating_sub(bytes)
        };
        self.set(messages, bytes);
    }

    pub(crate) fn set(&mut self, messages: u64, bytes: u64) {
        if let Some(share) = self.share() {
            change(&share.messages, self.messages, messages);
            change(&share.bytes, self.bytes, bytes);
        }
        self.messages = messages;
        self.bytes = bytes;
    }

    fn share(&self) -> Option<&Share> {
        self.budget.shares.get(self.shard)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0, 0);
        if let Some(share) = self.share() {
            change(&share.streams, 1, 0);
        }
    }
}

fn add(count: &AtomicU64, more: u64) {
    change(count, 0, more);
}

/// Replaces what one stream adds to a count. Only its shard writes here, so that nothing has to be locked.
fn change(count: &AtomicU64, from: u64, to: u64) {
    let value = count.load(Ordering::Relaxed);
    count.store(
        value.saturating_sub(from).saturating_add(to),
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up_and_give_back_what_they_held() {
        let budgets = Budgets::new(2);
        let mut one = Held::new(budgets.of("a"), ShardId(0));
        let mut other = Held::new(budgets.of("a"), ShardId(1));
        let _elsewhere = Held::new(budgets.of("b"), ShardId(1));
        one.add(10);
        one.add(5);
        other.add(1);
        let held = |streams, messages, bytes| Holding {
            streams,
            messages,
            bytes,
        };
        assert_eq!(budgets.held("a"), held(2, 3, 16));
        one.take(10);
        assert_eq!(budgets.held("a"), held(2, 2, 6));
        drop(one);
        assert_eq!(budgets.held("a"), held(1, 1, 1));
        assert_eq!(budgets.held("b"), held(1, 0, 0));
        assert_eq!(budgets.held("unheard of"), Holding::default());
    }

    #[test]
    fn a_limit_looks_only_at_what_is_asked_for() {
        let budgets = Budgets::new(1);
        let budget = budgets.of("a");
        let mut stream = Held::new(budgets.of("a"), ShardId(0));
        stream.add(100);
        let message = Holding {
            messages: 1,
            bytes: 10,
            ..Holding::default()
        };
        let nothing = Holding::default();
        assert_eq!(budget.admit(message, nothing), Ok(()));
        budgets.limit(
            "a",
            Holding {
                streams: Some(1),
                messages: Some(2),
                bytes: Some(105),
            },
        );
        let refused = budget.admit(message, nothing).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "space a is limited to 105 bytes: it holds 100, and 10 more are too many"
        );
        assert_eq!(
            budget.admit(message, message),
            Ok(()),
            "what goes makes room"
        );
        let stream = Holding {
            streams: 1,
            ..nothing
        };
        assert!(budget.admit(stream, nothing).is_err());
        assert_eq!(budget.admit(nothing, nothing), Ok(()));
        budgets.limit("a", Holding::default());
        assert_eq!(budget.admit(message, nothing), Ok(()));
    }
}
