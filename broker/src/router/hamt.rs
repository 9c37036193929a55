//! A persistent hash table: a hash array mapped trie whose unchanged parts are shared between versions.
//!
//! A change copies the branches on the way to it, at most a few of at most 32 slots each, and nothing else; an older
//! version goes on unharmed in the hands of its readers. The table stores items that contain their keys, and takes
//! hashes and comparisons from the caller, so that a look-up needs no owned key.
//!
//! Look-ups wait for memory more than for anything else. So a slot holds the bitmap of the branch below it beside the
//! pointer (one access a level), and the hash of an item beside the item (no access to an item that is another's).

use std::sync::Arc;

/// Bits of the hash used on each level.
const BITS: u32 = 5;
/// Levels a 64-bit hash lasts for. Items whose hashes are equal to the end share a list below them.
const LEVELS: u32 = u64::BITS.div_ceil(BITS);

#[derive(Clone)]
pub(super) struct Hamt<T> {
    root: Option<Branch<T>>,
}

/// A bitmap of which of the 32 possible slots are there, and those, in that order.
type Branch<T> = (u32, Arc<[Slot<T>]>);

#[derive(Clone)]
enum Slot<T> {
    Item { hash: u64, item: T },
    Branch { bitmap: u32, slots: Arc<[Slot<T>]> },
    Clash(Arc<Vec<T>>),
}

impl<T> Default for Hamt<T> {
    fn default() -> Self {
        Hamt { root: None }
    }
}

impl<T> Hamt<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The item with this hash for which `is` holds.
    pub(super) fn get(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let (bitmap, slots) = self.root.as_ref()?;
        let (mut bitmap, mut slots) = (*bitmap, &**slots);
        let mut bits = hash;
        loop {
            let (bit, at) = place(bitmap, bits);
            if bitmap & bit == 0 {
                return None;
            }
            match slots.get(at)? {
                Slot::Item { hash: other, item } => {
                    return (*other == hash && is(item)).then_some(item);
                }
                Slot::Branch {
                    bitmap: below,
                    slots: there,
                } => (bitmap, slots) = (*below, &**there),
                Slot::Clash(items) => return items.iter().find(|item| is(item)),
            }
            bits >>= BITS;
        }
    }

    /// Calls `f` with every item, in no particular order.
    pub(super) fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'a T)) {
        if let Some((_, slots)) = &self.root {
            for_each(slots, f);
        }
    }
}

impl<T: Clone> Hamt<T> {
    /// Adds an item that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, item: T) {
        let (bitmap, slots) = self.root.get_or_insert_with(|| (0, Arc::new([])));
        insert(bitmap, slots, 0, hash, item);
    }

    /// The item with this hash for which `is` holds, to change it.
    pub(super) fn get_mut(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&mut T> {
        // Looked for first, so that a miss copies nothing.
        self.get(hash, &is)?;
        let (bitmap, slots) = self.root.as_mut()?;
        let (mut bitmap, mut slots) = (*bitmap, slots);
        let mut bits = hash;
        loop {
            let (_, at) = place(bitmap, bits);
            match Arc::make_mut(slots).get_mut(at)? {
                Slot::Item { item, .. } => return Some(item),
                Slot::Branch {
                    bitmap: below,
                    slots: there,
                } => (bitmap, slots) = (*below, there),
                Slot::Clash(items) => return Arc::make_mut(items).iter_mut().find(|item| is(item)),
            }
            bits >>= BITS;
        }
    }

    /// Takes out the item with this hash for which `is` holds.
    pub(super) fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        self.get(hash, &is)?;
        let (bitmap, slots) = self.root.as_mut()?;
        let item = remove(bitmap, slots, 0, hash, &is);
        if slots.is_empty() {
            self.root = None;
        }
        item
    }
}

/// The bit of the slot that the lowest bits of a hash lead to, and where it stands or would stand.
fn place(bitmap: u32, bits: u64) -> (u32, usize) {
    let bit = 1_u32 << (bits & 31);
    (bit, (bitmap & (bit - 1)).count_ones() as usize)
}

fn for_each<'a, T>(slots: &'a [Slot<T>], f: &mut dyn FnMut(&'a T)) {
    for slot in slots {
        match slot {
            Slot::Item { item, .. } => f(item),
            Slot::Branch { slots, .. } => for_each(slots, f),
            Slot::Clash(items) => items.iter().for_each(&mut *f),
        }
    }
}

fn insert<T: Clone>(bitmap: &mut u32, slots: &mut Arc<[Slot<T>]>, level: u32, hash: u64, item: T) {
    let (bit, at) = place(*bitmap, hash >> (BITS * level));
    if *bitmap & bit == 0 {
        let (before, after) = slots.split_at(at);
        let new = std::iter::once(Slot::Item { hash, item });
        *slots = before
            .iter()
            .cloned()
            .chain(new)
            .chain(after.iter().cloned())
            .collect();
        *bitmap |= bit;
        return;
    }
    let slot = &mut Arc::make_mut(slots)[at];
    match slot {
        Slot::Branch { bitmap, slots } => insert(bitmap, slots, level + 1, hash, item),
        Slot::Clash(items) => Arc::make_mut(items).push(item),
        Slot::Item { item: other, .. } if level + 1 == LEVELS => {
            *slot = Slot::Clash(Arc::new(vec![other.clone(), item]));
        }
        Slot::Item {
            hash: other_hash,
            item: other,
        } => {
            let (mut bitmap, mut slots): Branch<T> = (0, Arc::new([]));
            insert(
                &mut bitmap,
                &mut slots,
                level + 1,
                *other_hash,
                other.clone(),
            );
            insert(&mut bitmap, &mut slots, level + 1, hash, item);
            *slot = Slot::Branch { bitmap, slots };
        }
    }
}

/// Takes out an item that is known to be there.
fn remove<T: Clone>(
    bitmap: &mut u32,
    slots: &mut Arc<[Slot<T>]>,
    level: u32,
    hash: u64,
    is: &dyn Fn(&T) -> bool,
) -> Option<T> {
    let (bit, at) = place(*bitmap, hash >> (BITS * level));
    let (taken, lone) = match slots.get(at)? {
        Slot::Item { item, .. } => {
            let item = item.clone();
            let (before, after) = (&slots[..at], &slots[at + 1..]);
            *slots = before.iter().chain(after).cloned().collect();
            *bitmap &= !bit;
            return Some(item);
        }
        Slot::Branch { .. } | Slot::Clash(_) => match &mut Arc::make_mut(slots)[at] {
            Slot::Branch { bitmap, slots } => {
                let taken = remove(bitmap, slots, level + 1, hash, is);
                // A branch with one item left gives way to the item, so that chains do not outlive what made them.
                let lone = match &**slots {
                    [only @ Slot::Item { .. }] => Some(only.clone()),
                    _ => None,
                };
                (taken, lone)
            }
            Slot::Clash(items) => {
                let items = Arc::make_mut(items);
                let found = items.iter().position(is)?;
                let taken = items.swap_remove(found);
                // Equal to the last bit, or they would not be here.
                let lone = match items.as_slice() {
                    [only] => Some(Slot::Item {
                        hash,
                        item: only.clone(),
                    }),
                    _ => None,
                };
                (Some(taken), lone)
            }
            Slot::Item { .. } => return None,
        },
    };
    if let Some(lone) = lone {
        Arc::make_mut(slots)[at] = lone;
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few distinct hashes, so that deep chains and full clashes are common.
    fn hash(key: u32) -> u64 {
        match key % 4 {
            0 => u64::from(key / 8),
            1 => u64::from(key) << 58,
            2 => u64::MAX,
            _ => u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_and_keeps_old_versions(
            steps in prop::collection::vec((0_u32..64, 0_u8..3), 0..200)
        ) {
            let mut table: Hamt<(u32, usize)> = Hamt::default();
            let mut model: BTreeMap<u32, usize> = BTreeMap::new();
            let mut versions = Vec::new();
            for (number, (key, what)) in steps.into_iter().enumerate() {
                match what {
                    0 if !model.contains_key(&key) => {
                        table.insert(hash(key), (key, number));
                        model.insert(key, number);
                    }
                    0 | 1 => {
                        let slot = table.get_mut(hash(key), |item| item.0 == key);
                        prop_assert_eq!(slot.is_some(), model.contains_key(&key));
                        if let Some(item) = slot {
                            item.1 = number;
                            model.insert(key, number);
                        }
                    }
                    _ => {
                        let taken = table.remove(hash(key), |item| item.0 == key);
                        prop_assert_eq!(taken.map(|item| item.1), model.remove(&key));
                    }
                }
                if number % 16 == 0 {
                    versions.push((table.clone(), model.clone()));
                }
            }
            versions.push((table.clone(), model.clone()));
            for key in model.keys() {
                prop_assert!(table.remove(hash(*key), |item| item.0 == *key).is_some());
            }
            prop_assert!(table.is_empty());
            for (table, model) in versions {
                let mut all = BTreeMap::new();
                table.for_each(&mut |item| { all.insert(item.0, item.1); });
                prop_assert_eq!(&all, &model);
                prop_assert_eq!(table.is_empty(), model.is_empty());
                for key in 0..64 {
                    let found = table.get(hash(key), |item| item.0 == key).map(|item| item.1);
                    prop_assert_eq!(found, model.get(&key).copied());
                }
            }
        }
    }
}
