//! A table from numbered messages to places, for numbers that come in runs.
//!
//! Whoever takes messages mostly takes one after the other. Neighbours share an entry, so that of a run of messages
//! that are taken, marked and settled only every eighth waits for memory.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::stream::FixedHash;

/// Numbers that share an entry.
const RUN: u64 = 8;

/// Places by domain and number. A place is less than `u32::MAX`: what lies there takes far more memory than its number.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// By domain and first number. A place is one more than it is; 0: there is none.
    runs: HashMap<(u64, u64), [u32; RUN as usize], FixedHash>,
}

fn parts(domain: u64, number: u64) -> ((u64, u64), usize) {
    ((domain, number / RUN), (number % RUN) as usize)
}

impl Runs {
    pub(crate) fn get(&self, domain: u64, number: u64) -> Option<usize> {
        let (run, at) = parts(domain, number);
        let place = *self.runs.get(&run)?.get(at)?;
        place.checked_sub(1).map(|place| place as usize)
    }

    pub(crate) fn contains(&self, domain: u64, number: u64) -> bool {
        self.get(domain, number).is_some()
    }

    /// `place` takes the place of an earlier one.
    pub(crate) fn insert(&mut self, domain: u64, number: u64, place: usize) {
        let (run, at) = parts(domain, number);
        debug_assert!(place < u32::MAX as usize);
        let place = u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1);
        if let Some(slot) = self.runs.entry(run).or_default().get_mut(at) {
            *slot = place;
        }
    }

    pub(crate) fn remove(&mut self, domain: u64, number: u64) {
        let (run, at) = parts(domain, number);
        let Entry::Occupied(mut entry) = self.runs.entry(run) else {
            return;
        };
        if let Some(slot) = entry.get_mut().get_mut(at) {
            *slot = 0;
        }
        if entry.get().iter().all(|slot| *slot == 0) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is inserted and removed, the table is a map, and an empty one holds nothing.
        #[test]
        fn runs_are_a_map(steps in prop::collection::vec((0..3_u64, 0..40_u64, any::<bool>()), 0..300)) {
            let mut runs = Runs::default();
            let mut model = BTreeMap::new();
            for (place, (domain, number, inserts)) in steps.into_iter().enumerate() {
                if inserts {
                    runs.insert(domain, number, place);
                    model.insert((domain, number), place);
                } else {
                    runs.remove(domain, number);
                    model.remove(&(domain, number));
                }
                for domain in 0..3 {
                    for number in 0..40 {
                        let expected = model.get(&(domain, number)).copied();
                        prop_assert_eq!(runs.get(domain, number), expected);
                        prop_assert_eq!(runs.contains(domain, number), expected.is_some());
                    }
                }
            }
            for (domain, number) in model.into_keys() {
                runs.remove(domain, number);
            }
            prop_assert!(runs.runs.is_empty());
        }
    }
}
