//! The router of one space: who wants a message with this subject?
//!
//! A subscription is a [`Filter`], the key of a target (a stream, a live subscriber) and
//! options the router does not look into. Publishers read an immutable snapshot and take no lock: a hash table for
//! filters without wildcards, a trie for the others. A change copies only the path to what it changes, some
//! microseconds whatever the number of subscriptions, and publishes the new snapshot; the rest is shared.
//!
//! A publisher that sends to the same subjects again and again keeps a [`RouteCache`]. Generation counters tell it
//! when an answer is out of date: one counter for each bucket of first tokens, so that the coming and going of, say,
//! reply inboxes does not disturb those who publish elsewhere.

mod cache;
mod group;
mod hamt;
mod routes;
#[cfg(test)]
mod tests;
mod trie;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use longtail_model::{DollarRule, Filter, FilterToken, SubjectRef};
use parking_lot::Mutex;
use smallvec::SmallVec;

pub use cache::{CacheLimits, RouteCache};
pub use group::{Chance, GroupRoute, GroupScope, GroupSpec, Member, Strategy};
pub use routes::{Route, Routes, TargetKey};

use hamt::Hamt;
use trie::{Change, Hasher, Leaf, Leaves, Node, Walk};

/// Buckets of first tokens that have a generation counter of their own.
const BUCKETS: usize = 64;

/// How much one router holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterLimits {
    /// Subscriptions, members of groups included. Default 4,000,000.
    pub subscriptions_max: usize,
    /// Members of one group under one filter. Default 10,000: the list is copied when it changes.
    pub group_members_max: usize,
}

impl Default for RouterLimits {
    fn default() -> Self {
        RouterLimits {
            subscriptions_max: 4_000_000,
            group_members_max: 10_000,
        }
    }
}

/// Why a subscription was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// See [`RouterLimits::subscriptions_max`].
    #[error("the space has reached its limit of {limit} subscriptions")]
    TooManySubscriptions {
        /// The limit.
        limit: usize,
    },
    /// See [`RouterLimits::group_members_max`].
    #[error("the group has reached its limit of {limit} members")]
    TooManyMembers {
        /// The limit.
        limit: usize,
    },
}

/// What a subscribe did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// The target had no subscription with this filter (and group).
    New,
    /// It had one, whose options are replaced.
    Replaced,
}

/// How a target subscribes.
#[derive(Clone, Debug)]
pub struct Subscription<O> {
    /// Handed back with every match.
    pub options: O,
    /// Whether a leading wildcard matches `$` subjects.
    pub dollar: DollarRule,
    /// The group whose member this subscription makes the target, if any.
    pub group: Option<GroupSpec>,
}

impl<O> Subscription<O> {
    /// A subscription of its own, whose wildcards match `$` subjects.
    pub fn new(options: O) -> Self {
        Subscription {
            options,
            dollar: DollarRule::Match,
            group: None,
        }
    }
}

/// The subscriptions of one space. `K` names a target; `O` is what a target says with each subscription.
pub struct Router<K, O> {
    /// Tells caches of different routers apart.
    id: u64,
    limits: RouterLimits,
    /// A lower limit of subscriptions than that of `limits`; `usize::MAX`: none.
    subscriptions_max: AtomicUsize,
    hasher: Hasher,
    snapshot: ArcSwap<Snapshot<K, O>>,
    generations: [AtomicU64; BUCKETS],
    writer: Mutex<()>,
}

#[derive(Clone)]
struct Snapshot<K, O> {
    exact: Hamt<Arc<Exact<K, O>>>,
    wild: Arc<Node<K, O>>,
    len: usize,
}

/// The subscriptions with one filter without wildcards.
#[derive(Clone)]
struct Exact<K, O> {
    subject: Arc<str>,
    leaf: Leaf<K, O>,
}

impl<K: TargetKey, O: Clone> Default for Router<K, O> {
    fn default() -> Self {
        Router::new(RouterLimits::default())
    }
}

impl<K: TargetKey, O: Clone> Router<K, O> {
    /// An empty router.
    #[must_use]
    pub fn new(limits: RouterLimits) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let empty = Snapshot {
            exact: Hamt::default(),
            wild: Arc::new(Node::new("")),
            len: 0,
        };
        Router {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            limits,
            subscriptions_max: AtomicUsize::new(usize::MAX),
            hasher: Hasher::default(),
            snapshot: ArcSwap::from_pointee(empty),
            generations: [const { AtomicU64::new(0) }; BUCKETS],
            writer: Mutex::new(()),
        }
    }

    /// Lets in no more than so many subscriptions from now on, and never more than [`RouterLimits::subscriptions_max`].
    /// Those that are there stay.
    pub(crate) fn limit_subscriptions(&self, most: Option<usize>) {
        self.subscriptions_max
            .store(most.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Subscribes `key` to `filter`. A second subscription with the same filter and group replaces the first.
    ///
    /// When this returns, every publish that starts later is matched against the new state.
    ///
    /// # Errors
    /// A limit, see [`SubscribeError`].
    pub fn subscribe(
        &self,
        filter: &Filter,
        key: K,
        subscription: Subscription<O>,
    ) -> Result<Subscribed, SubscribeError> {
        self.update(|batch| batch.subscribe(filter, key, subscription))
    }

    /// Ends the subscription of `key` with `filter`, as a member of `group` if one is named. `false` if there was none.
    pub fn unsubscribe(&self, filter: &Filter, key: K, group: Option<&str>) -> bool {
        self.update(|batch| batch.unsubscribe(filter, key, group))
    }

    /// Makes several changes that publishers see all at once, for the price of little more than one: a connection
    /// that ends takes back all its subscriptions this way. Other writers wait meanwhile.
    pub fn update<R>(&self, changes: impl FnOnce(&mut Batch<'_, K, O>) -> R) -> R {
        let _writer = self.writer.lock();
        let snapshot = Snapshot::clone(&self.snapshot.load());
        let mut batch = Batch {
            router: self,
            snapshot,
            touched: 0,
        };
        let result = changes(&mut batch);
        let Batch {
            snapshot, touched, ..
        } = batch;
        if touched != 0 {
            self.snapshot.store(Arc::new(snapshot));
            // After the store: who sees the new number finds the new snapshot.
            for (bucket, generation) in self.generations.iter().enumerate() {
                if touched >> bucket & 1 == 1 {
                    generation.fetch_add(1, Ordering::Release);
                }
            }
        }
        result
    }

    /// Finds everything that wants `subject`, without a cache. `routes` is overwritten; reusing it saves allocations.
    pub fn routes(&self, subject: SubjectRef<'_>, routes: &mut Routes<K, O>) {
        self.routes_hashed(subject, self.hash(subject.as_str()), routes);
    }

    fn routes_hashed(&self, subject: SubjectRef<'_>, hash: u64, routes: &mut Routes<K, O>) {
        let snapshot = self.snapshot.load();
        let mut leaves = Leaves::new();
        self.find(&snapshot, subject, hash, &mut leaves);
        routes.fill(&leaves, subject.is_reserved());
    }

    /// Calls `f` with every subscription of its own that wants `subject`; a target comes as often as it subscribed.
    /// Groups are left out. Copies nothing.
    pub fn visit(&self, subject: SubjectRef<'_>, mut f: impl FnMut(K, &O)) {
        let snapshot = self.snapshot.load();
        let mut leaves = Leaves::new();
        self.find(&snapshot, subject, self.hash(subject.as_str()), &mut leaves);
        for leaf in leaves {
            leaf.for_each(subject.is_reserved(), &mut f);
        }
    }

    /// Whether anybody, group members included, wants `subject`.
    #[must_use]
    pub fn has_interest(&self, subject: SubjectRef<'_>) -> bool {
        let snapshot = self.snapshot.load();
        let mut leaves = Leaves::new();
        self.find(&snapshot, subject, self.hash(subject.as_str()), &mut leaves);
        let reserved = subject.is_reserved();
        leaves.iter().any(|leaf| {
            let mut any = leaf.groups(reserved).next().is_some();
            leaf.for_each(reserved, &mut |_, _| any = true);
            any
        })
    }

    /// Subscriptions, members of groups included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.snapshot.load().len
    }

    /// Whether there is no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find<'s>(
        &self,
        snapshot: &'s Snapshot<K, O>,
        subject: SubjectRef<'_>,
        hash: u64,
        leaves: &mut Leaves<'s, K, O>,
    ) {
        if let Some(exact) = snapshot
            .exact
            .get(hash, |exact| &*exact.subject == subject.as_str())
        {
            leaves.push(&exact.leaf);
        }
        if !snapshot.wild.is_empty() {
            let tokens: SmallVec<[(&str, u64); 12]> = subject
                .tokens()
                .map(|token| (token, self.hash(token)))
                .collect();
            Walk::run(&snapshot.wild, &tokens, leaves);
        }
    }

    fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    fn bucket(&self, first_token: &str) -> usize {
        (self.hash(first_token) % BUCKETS as u64) as usize
    }

    /// To be read before the snapshot whose answer it dates.
    fn generation(&self, bucket: usize) -> u64 {
        self.generations
            .get(bucket)
            .map_or(0, |generation| generation.load(Ordering::Acquire))
    }
}

/// Changes that become visible together, see [`Router::update`].
pub struct Batch<'r, K, O> {
    router: &'r Router<K, O>,
    snapshot: Snapshot<K, O>,
    /// A bit for each bucket of first tokens whose subjects are concerned.
    touched: u64,
}

impl<K: TargetKey, O: Clone> Batch<'_, K, O> {
    /// As [`Router::subscribe`].
    ///
    /// # Errors
    /// As [`Router::subscribe`].
    pub fn subscribe(
        &mut self,
        filter: &Filter,
        key: K,
        subscription: Subscription<O>,
    ) -> Result<Subscribed, SubscribeError> {
        let Subscription {
            options,
            dollar,
            group,
        } = subscription;
        let hidden = dollar == DollarRule::Hide && filter.starts_with_wildcard();
        let change = match &group {
            None => Change::Subscribe {
                key,
                hidden,
                options,
            },
            Some(spec) => Change::Join {
                spec,
                key,
                hidden,
                options,
            },
        };
        let leaf = self.leaf(filter);
        let known = leaf.is_some_and(|leaf| leaf.holds(&change, &self.router.hasher));
        if !known {
            let limits = &self.router.limits;
            let most = self.router.subscriptions_max.load(Ordering::Relaxed);
            let most = most.min(limits.subscriptions_max);
            if self.snapshot.len >= most {
                return Err(SubscribeError::TooManySubscriptions { limit: most });
            }
            let members = leaf
                .zip(group.as_ref())
                .map_or(0, |(leaf, spec)| leaf.group_size(&spec.name));
            if members >= limits.group_members_max {
                return Err(SubscribeError::TooManyMembers {
                    limit: limits.group_members_max,
                });
            }
            self.snapshot.len += 1;
        }
        self.apply(filter, change);
        Ok(if known {
            Subscribed::Replaced
        } else {
            Subscribed::New
        })
    }

    /// As [`Router::unsubscribe`].
    pub fn unsubscribe(&mut self, filter: &Filter, key: K, group: Option<&str>) -> bool {
        let change = match group {
            None => Change::Unsubscribe { key },
            Some(group) => Change::Leave { group, key },
        };
        if !self
            .leaf(filter)
            .is_some_and(|leaf| leaf.holds(&change, &self.router.hasher))
        {
            return false;
        }
        self.snapshot.len -= 1;
        self.apply(filter, change);
        true
    }

    fn leaf(&self, filter: &Filter) -> Option<&Leaf<K, O>> {
        match filter.to_subject() {
            Some(subject) => {
                let hash = self.router.hash(&subject);
                let exact = self
                    .snapshot
                    .exact
                    .get(hash, |exact| *exact.subject == *subject)?;
                Some(&exact.leaf)
            }
            None => self
                .snapshot
                .wild
                .leaf(filter.tokens(), &self.router.hasher),
        }
    }

    fn apply(&mut self, filter: &Filter, change: Change<'_, K, O>) {
        let hasher = &self.router.hasher;
        self.touched |= match filter.tokens().next() {
            Some(FilterToken::Literal(token)) => 1 << self.router.bucket(token),
            Some(_) => u64::MAX,
            None => 1 << self.router.bucket(""),
        };
        let Some(subject) = filter.to_subject() else {
            Arc::make_mut(&mut self.snapshot.wild).change(filter.tokens(), change, hasher);
            return;
        };
        let exact = &mut self.snapshot.exact;
        let hash = self.router.hash(&subject);
        let is = |exact: &Arc<Exact<K, O>>| *exact.subject == *subject;
        if exact.get(hash, is).is_none() {
            let new = Arc::new(Exact {
                subject: subject.clone().into_shared(),
                leaf: Leaf::default(),
            });
            exact.insert(hash, new);
        }
        let Some(slot) = exact.get_mut(hash, is) else {
            return;
        };
        let slot = Arc::make_mut(slot);
        slot.leaf.apply(change, hasher);
        if slot.leaf.is_empty() {
            exact.remove(hash, is);
        }
    }
}
