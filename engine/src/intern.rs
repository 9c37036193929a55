//! One value for all that are equal: a million groups have a handful of settings among them.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::stream::FixedHash;

/// Fewer values than this are not worth looking through.
const SWEEP_MIN: usize = 64;

/// Values that are shared. One that nobody else has any more goes when their number has doubled.
pub(crate) struct Interned<T> {
    known: HashSet<Arc<T>, FixedHash>,
    /// How many make it worth looking for those that nobody has.
    sweep_at: usize,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Interned {
            known: HashSet::default(),
            sweep_at: SWEEP_MIN,
        }
    }
}

impl<T: Eq + Hash> Interned<T> {
    /// The value that all who ask for an equal one have.
    pub(crate) fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = SWEEP_MIN.max(2 * self.known.len());
        }
        let value = Arc::new(value);
        self.known.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let mut shared = Interned::default();
        let (a, b) = (shared.share("a".to_owned()), shared.share("b".to_owned()));
        assert!(Arc::ptr_eq(&a, &shared.share("a".to_owned())));
        assert!(!Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn what_nobody_has_any_more_does_not_pile_up() {
        let mut shared = Interned::default();
        let kept = shared.share(0);
        for value in 1..10_000 {
            shared.share(value);
            assert!(shared.known.len() <= SWEEP_MIN);
        }
        assert!(
            Arc::ptr_eq(&kept, &shared.share(0)),
            "but what is used stays"
        );
    }
}
