//! Shared subscriptions: of the members of a group, one gets each message.
//!
//! This is the ephemeral kind (NATS queue groups, MQTT `$share` at QoS 0): no state but who the members are and whose
//! turn it is. Durable sharing is a group over a stream.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::routes::TargetKey;
use crate::hash::stable_hash;
use crate::message::Message;

/// How a group picks the member for a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// By the random number in [`Chance`].
    Random,
    /// The one that has been there longest.
    First,
    /// The same member for the same publisher in [`Chance`], as long as it is there; when members come or go, only the
    /// publishers of those move.
    ByPublisher,
    /// Likewise for the same subject.
    BySubject,
}

/// Which subscriptions under one group name are one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupScope {
    /// Those with the same filter (MQTT: `$share/g/a` and `$share/g/+` are strangers).
    #[default]
    Filter,
    /// All of them: a message that matches several of their filters still goes to one member (NATS).
    Space,
}

/// The group a subscription belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its name.
    pub name: Arc<str>,
    /// What the name identifies.
    pub scope: GroupScope,
    /// How it picks. What the first member says holds until the group is empty, and so does what it says about `$`
    /// subjects.
    pub strategy: Strategy,
}

/// What a pick may depend on, supplied by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chance {
    /// A random number, new for each message, for [`Strategy::Random`].
    pub random: u64,
    /// Who publishes, for [`Strategy::ByPublisher`].
    pub publisher: u64,
    /// A hash of the subject, for [`Strategy::BySubject`].
    pub subject: u64,
}

impl Chance {
    /// For this message, with a random number that is new for it.
    #[must_use]
    pub fn of(message: &Message, random: u64) -> Self {
        Chance {
            random,
            publisher: message.origin.0,
            subject: stable_hash(message.subject.as_str().bytes()),
        }
    }
}

/// One member of a group.
#[derive(Clone, Debug)]
pub struct Member<K, O> {
    /// Who it is.
    pub key: K,
    /// What it asked for.
    pub options: O,
}

/// The members that one filter has under one group name.
#[derive(Clone, Debug)]
pub(super) struct SharedGroup<K, O> {
    pub(super) spec: GroupSpec,
    /// Not a match for subjects that start with `$`.
    pub(super) hidden: bool,
    pub(super) members: Vec<Member<K, O>>,
    /// Survives the copies that changes of the membership make.
    turn: Arc<AtomicU64>,
}

impl<K: TargetKey, O> SharedGroup<K, O> {
    pub(super) fn new(spec: GroupSpec, hidden: bool) -> Self {
        SharedGroup {
            spec,
            hidden,
            members: Vec::new(),
            turn: Arc::default(),
        }
    }
}

/// A group that wants a message: its members under every filter that matched.
#[derive(Clone, Debug)]
pub struct GroupRoute<K, O> {
    parts: SmallVec<[Arc<SharedGroup<K, O>>; 1]>,
}

impl<K: TargetKey, O> GroupRoute<K, O> {
    pub(super) fn new(part: Arc<SharedGroup<K, O>>) -> Self {
        GroupRoute {
            parts: smallvec::smallvec![part],
        }
    }

    /// Takes `part` in if it is the same group under another filter; gives it back otherwise.
    pub(super) fn merge(&mut self, part: Arc<SharedGroup<K, O>>) -> Option<Arc<SharedGroup<K, O>>> {
        let same = part.spec.scope == GroupScope::Space
            && self
                .parts
                .iter()
                .any(|p| p.spec.scope == GroupScope::Space && p.spec.name == part.spec.name);
        if same {
            self.parts.push(part);
            return None;
        }
        Some(part)
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts.first().map_or("", |part| &part.spec.name)
    }

    /// The members of all parts.
    pub fn members(&self) -> impl Iterator<Item = &Member<K, O>> {
        self.parts.iter().flat_map(|part| &part.members)
    }

    /// The members in the order in which they should be offered one message: the picked one, and after it those to
    /// fall back to when it cannot take the message. Takes one turn of a round robin.
    pub fn pick(&self, chance: &Chance) -> impl Iterator<Item = &Member<K, O>> {
        let count: usize = self.parts.iter().map(|part| part.members.len()).sum();
        let start = match self.parts.first() {
            Some(first) if count > 0 => match first.spec.strategy {
                Strategy::RoundRobin => first.turn.fetch_add(1, Ordering::Relaxed) % count as u64,
                Strategy::Random => chance.random % count as u64,
                Strategy::First => 0,
                Strategy::ByPublisher => self.keyed_start(chance.publisher) as u64,
                Strategy::BySubject => self.keyed_start(chance.subject) as u64,
            },
            _ => 0,
        };
        let start = usize::try_from(start).unwrap_or_default();
        self.members().skip(start).chain(self.members().take(start))
    }

    /// Rendezvous hashing: every member draws a number from the key and its own, the highest wins.
    fn keyed_start(&self, key: u64) -> usize {
        let hasher = foldhash::quality::FixedState::with_seed(key);
        let draws = self
            .members()
            .enumerate()
            .map(|(at, member)| (hasher.hash_one(member.key), at));
        draws.max().map_or(0, |(_, at)| at)
    }
}
