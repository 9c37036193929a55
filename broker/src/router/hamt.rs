//! A persistent hash table: a hash array mapped trie whose unchanged parts are shared between versions.
//!
//! A change copies the branches on the way to it, at most a few of at most 32 slots each, and nothing else; an older
//! version goes on unharmed in the hands of its readers. The table stores items that contain their keys, and takes
//! hashes and comparisons from the caller, so that a look-up needs no owned key.

use std::sync::Arc;

/// Bits of the hash used on each level.
const BITS: u32 = 5;
/// Levels a 64-bit hash lasts for. Items whose hashes are equal to the end share a list below them.
const LEVELS: u32 = 64_u32.div_ceil(BITS);

#[derive(Clone)]
pub(super) struct Hamt<T> {
    root: Option<Arc<Branch<T>>>,
}

#[derive(Clone)]
struct Branch<T> {
    /// Which of the 32 possible slots are there; they stand in `slots` in that order.
    bitmap: u32,
    slots: Vec<Slot<T>>,
}

#[derive(Clone)]
enum Slot<T> {
    Item(T),
    Branch(Arc<Branch<T>>),
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
        let mut branch = self.root.as_deref()?;
        let mut bits = hash;
        loop {
            let (bit, at) = branch.place(bits);
            if branch.bitmap & bit == 0 {
                return None;
            }
            match branch.slots.get(at)? {
                Slot::Item(item) => return is(item).then_some(item),
                Slot::Branch(below) => branch = below,
                Slot::Clash(items) => return items.iter().find(|item| is(item)),
            }
            bits >>= BITS;
        }
    }

    /// Calls `f` with every item, in no particular order.
    pub(super) fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'a T)) {
        if let Some(root) = &self.root {
            root.for_each(f);
        }
    }
}

impl<T: Clone> Hamt<T> {
    /// Adds an item that is not there yet. `hash_of` gives the hash of an item that has to move down.
    pub(super) fn insert(&mut self, hash: u64, item: T, hash_of: &dyn Fn(&T) -> u64) {
        let root = self.root.get_or_insert_with(|| Arc::new(Branch::new()));
        Arc::make_mut(root).insert(hash, 0, item, hash_of);
    }

    /// The item with this hash for which `is` holds, to change it.
    pub(super) fn get_mut(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&mut T> {
        // Looked for first, so that a miss copies nothing.
        self.get(hash, &is)?;
        let mut branch = Arc::make_mut(self.root.as_mut()?);
        let mut bits = hash;
        loop {
            let (_, at) = branch.place(bits);
            match branch.slots.get_mut(at)? {
                Slot::Item(item) => return Some(item),
                Slot::Branch(below) => branch = Arc::make_mut(below),
                Slot::Clash(items) => return Arc::make_mut(items).iter_mut().find(|item| is(item)),
            }
            bits >>= BITS;
        }
    }

    /// Takes out the item with this hash for which `is` holds.
    pub(super) fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        self.get(hash, &is)?;
        let root = self.root.as_mut()?;
        let branch = Arc::make_mut(root);
        let item = branch.remove(hash, &is);
        if branch.slots.is_empty() {
            self.root = None;
        }
        item
    }
}

impl<T> Branch<T> {
    fn new() -> Self {
        Branch {
            bitmap: 0,
            slots: Vec::new(),
        }
    }

    /// The bit of the slot that the lowest bits of a hash lead to, and where it stands or would stand.
    fn place(&self, bits: u64) -> (u32, usize) {
        let bit = 1_u32 << (bits & 31);
        (bit, (self.bitmap & (bit - 1)).count_ones() as usize)
    }

    fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'a T)) {
        for slot in &self.slots {
            match slot {
                Slot::Item(item) => f(item),
                Slot::Branch(below) => below.for_each(f),
                Slot::Clash(items) => items.iter().for_each(&mut *f),
            }
        }
    }
}

impl<T: Clone> Branch<T> {
    fn insert(&mut self, bits: u64, level: u32, item: T, hash_of: &dyn Fn(&T) -> u64) {
        let (bit, at) = self.place(bits);
        if self.bitmap & bit == 0 {
            self.slots.reserve_exact(1);
            self.slots.insert(at, Slot::Item(item));
            self.bitmap |= bit;
            return;
        }
        let slot = &mut self.slots[at];
        match slot {
            Slot::Branch(below) => {
                Arc::make_mut(below).insert(bits >> BITS, level + 1, item, hash_of);
            }
            Slot::Clash(items) => Arc::make_mut(items).push(item),
            Slot::Item(other) => {
                let other = other.clone();
                *slot = if level + 1 == LEVELS {
                    Slot::Clash(Arc::new(vec![other, item]))
                } else {
                    let mut below = Branch::new();
                    below.insert(
                        hash_of(&other) >> (BITS * (level + 1)),
                        level + 1,
                        other,
                        hash_of,
                    );
                    below.insert(bits >> BITS, level + 1, item, hash_of);
                    Slot::Branch(Arc::new(below))
                };
            }
        }
    }

    fn remove(&mut self, bits: u64, is: &dyn Fn(&T) -> bool) -> Option<T> {
        let (bit, at) = self.place(bits);
        if self.bitmap & bit == 0 {
            return None;
        }
        let (taken, left) = match self.slots.get_mut(at)? {
            Slot::Item(_) => (None, None),
            Slot::Branch(below) => {
                let below = Arc::make_mut(below);
                let taken = below.remove(bits >> BITS, is);
                // A branch with one item left gives way to the item, so that chains do not outlive what made them.
                let lone = match below.slots.as_slice() {
                    [Slot::Item(_)] => below.slots.pop(),
                    _ => None,
                };
                (taken, lone)
            }
            Slot::Clash(items) => {
                let items = Arc::make_mut(items);
                let found = items.iter().position(is)?;
                let taken = items.swap_remove(found);
                let lone = if items.len() == 1 {
                    items.pop().map(Slot::Item)
                } else {
                    None
                };
                (Some(taken), lone)
            }
        };
        if let Some(slot) = left {
            self.slots[at] = slot;
            return taken;
        }
        if taken.is_some() {
            return taken;
        }
        self.bitmap &= !bit;
        match self.slots.remove(at) {
            Slot::Item(item) => Some(item),
            Slot::Branch(_) | Slot::Clash(_) => None,
        }
    }
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
                        table.insert(hash(key), (key, number), &|item| hash(item.0));
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
            versions.push((table, model));
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
