//! Which publishes are confirmed: one by one, in any order, or all up to one.

use std::collections::BTreeSet;

/// Delivery tags of a channel in confirm mode, from 1.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// All up to this one are.
    through: u64,
    /// Those above it that are.
    singles: BTreeSet<u64>,
}

impl Confirms {
    /// Takes in one confirm; how many publishes it is for. One that was confirmed before is for none.
    pub(super) fn confirm(&mut self, tag: u64, multiple: bool) -> u32 {
        if tag <= self.through {
            return 0;
        }
        let count = if multiple {
            let above = self.singles.split_off(&(tag + 1));
            let known = std::mem::replace(&mut self.singles, above).len() as u64;
            let count = tag - self.through - known;
            self.through = tag;
            count
        } else {
            u64::from(self.singles.insert(tag))
        };
        while self.singles.remove(&(self.through + 1)) {
            self.through += 1;
        }
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}
