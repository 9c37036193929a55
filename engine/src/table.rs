//! A table that is asked about the same entry many times in a row.
//!
//! One command looks its stream and its index up a dozen times. Only the first of these hashes: the place that was found
//! last is remembered. Values lie in boxes of their own, so that the table may grow to a million of them without a copy
//! of what they are.

use std::cell::Cell;
use std::hash::Hash;
use std::ops::Index;

use hashbrown::HashMap;

use crate::stream::FixedHash;

/// No place.
const NONE: u32 = u32::MAX;

/// Values by key.
pub(crate) struct Table<K, V> {
    places: HashMap<K, u32, FixedHash>,
    values: Vec<Option<Box<V>>>,
    free: Vec<u32>,
    /// What was looked up last, and where it is.
    latest: Cell<(K, u32)>,
}

impl<K: Default, V> Default for Table<K, V> {
    fn default() -> Self {
        Table {
            places: HashMap::default(),
            values: Vec::new(),
            free: Vec::new(),
            latest: Cell::new((K::default(), NONE)),
        }
    }
}

impl<K: Copy + Default + Eq + Hash, V> Table<K, V> {
    #[inline]
    fn place(&self, key: K) -> Option<usize> {
        let (latest, at) = self.latest.get();
        if latest == key && at != NONE {
            return Some(at as usize);
        }
        self.find(key)
    }

    fn find(&self, key: K) -> Option<usize> {
        let at = *self.places.get(&key)?;
        self.latest.set((key, at));
        Some(at as usize)
    }

    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(self.place(*key)?)?.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.place(*key)?;
        self.values.get_mut(at)?.as_deref_mut()
    }

    #[inline]
    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(*key).is_some()
    }

    /// Puts a value under a key, in the place of what may be there.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(old) = self.get_mut(&key) {
            *old = value;
        } else {
            self.add(key, value);
        }
    }

    /// Puts a value under a key that has none. Returns its place.
    fn add(&mut self, key: K, value: V) -> usize {
        let value = Some(Box::new(value));
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.values.push(None);
                // Four billion of the smallest values are more than fits any machine.
                u32::try_from(self.values.len() - 1).unwrap_or(NONE)
            }
        };
        if let Some(place) = self.values.get_mut(at as usize) {
            *place = value;
        }
        self.places.insert(key, at);
        at as usize
    }

    /// The value under a key, made when there is none.
    #[inline]
    pub(crate) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let at = match self.place(key) {
            Some(at) => at,
            None => self.add(key, V::default()),
        };
        self.values[at].get_or_insert_default()
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<Box<V>> {
        let at = self.places.remove(key)?;
        self.latest.set((K::default(), NONE));
        self.free.push(at);
        self.values.get_mut(at as usize)?.take()
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The values, in the order of their places.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter().filter_map(Option::as_deref)
    }

    /// Keys and values in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let value = |at: u32| self.values.get(at as usize)?.as_deref();
        (self.places.iter()).filter_map(move |(&key, &at)| Some((key, value(at)?)))
    }
}

impl<K: Copy + Default + Eq + Hash, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).unwrap_or_else(|| panic!("no such entry"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_up_last_is_forgotten_when_it_goes() {
        let mut table: Table<u64, String> = Table::default();
        table.insert(1, "one".into());
        table.insert(2, "two".into());
        assert_eq!(table.get(&1).map(String::as_str), Some("one"));
        assert_eq!(table.remove(&1).as_deref().map(String::as_str), Some("one"));
        assert_eq!(table.get(&1), None);
        assert!(
            !table.contains_key(&0),
            "the default key is none like others"
        );
        // The free place is used again, under another key.
        table.insert(3, "three".into());
        assert_eq!(table.get(&1), None);
        assert_eq!(&table[&3], "three");
        assert_eq!(table.len(), 2);
        assert_eq!(table.values().count(), 2);
        table.insert(3, "new".into());
        assert_eq!(&table[&3], "new");
        table.get_or_default(0).push('!');
        assert_eq!(table.get(&0).map(String::as_str), Some("!"));
        let mut keys: Vec<u64> = table.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [0, 2, 3]);
    }

    #[test]
    fn it_is_a_map() {
        let mut table = Table::default();
        let mut map = std::collections::BTreeMap::new();
        let mut state = 7_u64;
        for _ in 0..10_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let key = state >> 58;
            match state >> 40 & 3 {
                0 => assert_eq!(table.remove(&key).map(|value| *value), map.remove(&key)),
                1 => {
                    table.insert(key, state);
                    map.insert(key, state);
                }
                _ => assert_eq!(table.get(&key), map.get(&key)),
            }
            assert_eq!(table.len(), map.len());
        }
    }
}
