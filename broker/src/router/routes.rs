//! What a look-up finds.

use std::hash::Hash;

use smallvec::{SmallVec, smallvec};

use super::group::GroupRoute;
use super::trie::Leaf;

/// Names a target.
pub trait TargetKey: Copy + Ord + Hash {
    /// Whether it comes before others in an answer: such targets are found together, in order, see
    /// [`Routes::leading`].
    fn is_leading(&self) -> bool {
        false
    }
}

impl TargetKey for u32 {}
impl TargetKey for u64 {}

/// One target that wants a message, with the options of every one of its subscriptions that matched.
#[derive(Clone, Debug)]
pub struct Route<K, O> {
    /// Who wants it.
    pub key: K,
    /// At least one.
    pub options: SmallVec<[O; 1]>,
}

/// Everything that wants a message: each target once, each shared group once.
#[derive(Clone, Debug)]
pub struct Routes<K, O> {
    /// The leading ones first.
    targets: Vec<Route<K, O>>,
    leading: usize,
    groups: Vec<GroupRoute<K, O>>,
}

/// Up to so many routes, duplicates are found by looking through all of them.
const LINEAR_MAX: usize = 16;

impl<K, O> Default for Routes<K, O> {
    fn default() -> Self {
        Routes {
            targets: Vec::new(),
            leading: 0,
            groups: Vec::new(),
        }
    }
}

impl<K, O> Routes<K, O> {
    /// The targets that want their own copy, the leading ones first.
    #[must_use]
    pub fn targets(&self) -> &[Route<K, O>] {
        &self.targets
    }

    /// Those of the targets that [lead](TargetKey::is_leading), in order of their keys.
    #[must_use]
    pub fn leading(&self) -> &[Route<K, O>] {
        self.targets.get(..self.leading).unwrap_or_default()
    }

    /// The other targets, in no particular order.
    #[must_use]
    pub fn following(&self) -> &[Route<K, O>] {
        self.targets.get(self.leading..).unwrap_or_default()
    }

    /// The groups of which one member wants a copy.
    #[must_use]
    pub fn groups(&self) -> &[GroupRoute<K, O>] {
        &self.groups
    }

    /// Whether nobody wants the message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.groups.is_empty()
    }

    /// Targets and groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len() + self.groups.len()
    }

    pub(super) fn clear(&mut self) {
        self.targets.clear();
        self.leading = 0;
        self.groups.clear();
    }

    /// Gives back memory that an unusually wide result took.
    pub(super) fn shrink(&mut self, keep: usize) {
        if self.targets.capacity() > keep {
            self.targets.shrink_to(keep);
        }
    }
}

impl<K: TargetKey, O: Clone> Routes<K, O> {
    pub(super) fn fill(&mut self, leaves: &[&Leaf<K, O>], reserved: bool) {
        self.clear();
        for leaf in leaves {
            leaf.for_each(reserved, &mut |key, options| {
                self.targets.push(Route {
                    key,
                    options: smallvec![options.clone()],
                });
            });
            for group in leaf.groups(reserved) {
                let mut left = Some(group.clone());
                for route in &mut self.groups {
                    left = left.and_then(|group| route.merge(group));
                }
                self.groups.extend(left.map(GroupRoute::new));
            }
        }
        // Within one leaf every target is there once.
        if leaves.len() > 1 {
            self.merge_targets();
        }
        self.lead();
    }

    fn lead(&mut self) {
        for at in 0..self.targets.len() {
            if self.targets[at].key.is_leading() {
                self.targets.swap(self.leading, at);
                self.leading += 1;
            }
        }
        self.targets[..self.leading].sort_unstable_by_key(|route| route.key);
    }

    fn merge_targets(&mut self) {
        let sorted = self.targets.len() > LINEAR_MAX;
        if sorted {
            self.targets.sort_by_key(|route| route.key);
        }
        let mut kept = 0_usize;
        for at in 0..self.targets.len() {
            let key = self.targets[at].key;
            let first = if sorted { kept.saturating_sub(1) } else { 0 };
            match (first..kept).find(|&earlier| self.targets[earlier].key == key) {
                Some(earlier) => {
                    let options = std::mem::take(&mut self.targets[at].options);
                    self.targets[earlier].options.extend(options);
                }
                None => {
                    self.targets.swap(kept, at);
                    kept += 1;
                }
            }
        }
        self.targets.truncate(kept);
    }
}
