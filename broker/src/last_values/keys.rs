//! The keys and what is known of each: a hash table in parts, none of which is so large that its growth is felt. The keys
//! are not stored, the entries know theirs.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;

/// Parts: with a million keys, 16,000 each.
const PARTS: usize = 64;

/// What is in the table.
pub(super) trait Keyed {
    /// Always the same for an entry that is in the table.
    fn key(&self) -> &str;
}

pub(super) struct Keys<E> {
    hasher: foldhash::quality::RandomState,
    parts: [HashTable<E>; PARTS],
}

impl<E: Keyed> Keys<E> {
    pub(super) fn new() -> Self {
        Keys {
            hasher: foldhash::quality::RandomState::default(),
            parts: std::array::from_fn(|_| HashTable::new()),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&E> {
        let hash = self.hasher.hash_one(key);
        self.parts[part(hash)].find(hash, |entry| entry.key() == key)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut E> {
        let hash = self.hasher.hash_one(key);
        self.parts[part(hash)].find_mut(hash, |entry| entry.key() == key)
    }

    /// The entry of `key`, or the one that `new` makes for it.
    pub(super) fn get_or_insert(&mut self, key: &str, new: impl FnOnce() -> E) -> &mut E {
        let Keys { hasher, parts } = self;
        let hash = hasher.hash_one(key);
        let rehash = |entry: &E| hasher.hash_one(entry.key());
        parts[part(hash)]
            .entry(hash, |entry| entry.key() == key, rehash)
            .or_insert_with(new)
            .into_mut()
    }

    pub(super) fn remove(&mut self, key: &str) {
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.parts[part(hash)].find_entry(hash, |entry| entry.key() == key) {
            entry.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.parts.iter().flatten()
    }
}

/// By bits that the parts do not look at: they take the lowest and the seven highest.
fn part(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::{Keyed, Keys};

    #[derive(Debug, PartialEq)]
    struct Entry(String, u32);

    impl Keyed for Entry {
        fn key(&self) -> &str {
            &self.0
        }
    }

    #[test]
    fn every_key_has_one_entry() {
        let mut keys = Keys::new();
        for round in 0..2 {
            for number in 0..1000 {
                let key = format!("key {number}");
                keys.get_or_insert(&key, || Entry(key.clone(), 0)).1 += number + round;
            }
        }
        assert_eq!(keys.iter().count(), 1000);
        assert_eq!(keys.get("key 7"), Some(&Entry("key 7".to_owned(), 15)));
        keys.remove("key 7");
        keys.remove("no key");
        assert_eq!(keys.get_mut("key 7"), None);
        assert_eq!(keys.iter().count(), 999);
    }
}
