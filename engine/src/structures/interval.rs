//! Which messages are settled, in kilobytes for a million acknowledgements out of order.
//!
//! Everything below the floor is in the set; the floor is the lowest number that is not, so it moves by itself when the
//! gap above it closes. What is settled above it lies in parts by the upper 48 bits of the numbers: a stretch of parts
//! that are complete is one entry, whatever its length; any other part keeps the lower 16 bits as runs or as a bit map
//! (`container`), at most 8 KiB for 65,536 numbers in whatever order they come.

mod container;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::iter;

use super::{Corrupt, varint};
use container::Container;

const PART_BITS: u32 = 16;
/// The number of the last part; never complete, because `u64::MAX` is not a member.
const LAST_PART: u64 = u64::MAX >> PART_BITS;

/// A set of numbers below `u64::MAX`, complete below its floor.
#[derive(Clone, Debug, Default)]
pub struct IntervalSet {
    /// The lowest number that is not in the set.
    floor: u64,
    /// How many numbers above the floor are.
    above: u64,
    /// What is above the floor, and maybe remains from below it; empty when nothing is above.
    parts: BTreeMap<u64, Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// Every part from this one to `through` is complete.
    Complete {
        through: u64,
    },
    Mixed(Container),
}

const fn split(v: u64) -> (u64, u16) {
    (v >> PART_BITS, v as u16)
}

const fn join(part: u64, v: u16) -> u64 {
    part << PART_BITS | v as u64
}

impl IntervalSet {
    /// An empty set: its floor is 0.
    #[must_use]
    pub const fn new() -> Self {
        IntervalSet {
            floor: 0,
            above: 0,
            parts: BTreeMap::new(),
        }
    }

    /// A set of everything below `floor`.
    #[must_use]
    pub const fn with_floor(floor: u64) -> Self {
        IntervalSet {
            floor,
            above: 0,
            parts: BTreeMap::new(),
        }
    }

    /// The lowest number that is not in the set.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// How many numbers above the floor are in the set.
    #[must_use]
    pub fn len_above_floor(&self) -> u64 {
        self.above
    }

    /// Whether a number is in the set.
    #[must_use]
    pub fn contains(&self, v: u64) -> bool {
        if v <= self.floor || self.above == 0 {
            return v < self.floor;
        }
        let (part, low) = split(v);
        match self.part(part) {
            Some(Part::Complete { .. }) => true,
            Some(Part::Mixed(container)) => container.contains(low),
            None => false,
        }
    }

    /// Adds a number; `false` when it was there already, or is `u64::MAX`, which no set contains.
    pub fn insert(&mut self, v: u64) -> bool {
        if v < self.floor || v == u64::MAX {
            return false;
        }
        if v == self.floor {
            self.raise(v + 1, 0);
            return true;
        }
        let (part, low) = split(v);
        let added = self.insert_in_part(part, low, low);
        self.above += added;
        added > 0
    }

    /// Adds every number from `from` to before `to`, and returns how many were not there.
    pub fn insert_range(&mut self, from: u64, to: u64) -> u64 {
        let from = from.max(self.floor);
        if from >= to {
            return 0;
        }
        if from == self.floor {
            let known = self.count(from, to);
            self.raise(to, known);
            return to - from - known;
        }
        let ((mut first, low), (mut last, high)) = (split(from), split(to - 1));
        let added = if first == last {
            self.insert_in_part(first, low, high)
        } else {
            let mut added = 0;
            if low > 0 {
                added += self.insert_in_part(first, low, u16::MAX);
                first += 1;
            }
            if high < u16::MAX {
                added += self.insert_in_part(last, 0, high);
                last -= 1;
            }
            if first <= last {
                added += self.complete(first, last);
            }
            added
        };
        self.above += added;
        added
    }

    /// Adds everything below `floor`; the floor then is that, or higher if what follows is in the set. Never lowers it.
    pub fn set_floor(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.raise(floor, self.count(self.floor, floor));
    }

    /// The first number from `from` on that is not in the set.
    #[must_use]
    pub fn next_absent(&self, from: u64) -> u64 {
        if from <= self.floor {
            self.floor
        } else {
            self.absent_from(from)
        }
    }

    /// The first number from `from` on that is in the set.
    #[must_use]
    pub fn next_present(&self, from: u64) -> Option<u64> {
        if from < self.floor {
            return Some(from);
        }
        let (part, low) = split(from);
        match self.part(part) {
            Some(Part::Complete { .. }) => return Some(from),
            Some(Part::Mixed(container)) => {
                if let Some(low) = container.next_present(low) {
                    return Some(join(part, low));
                }
            }
            None => {}
        }
        match self.parts.range(part.checked_add(1)?..).next()? {
            (&part, Part::Complete { .. }) => Some(join(part, 0)),
            (&part, Part::Mixed(container)) => container.next_present(0).map(|low| join(part, low)),
        }
    }

    /// The runs of numbers above the floor: the first, and the one after the last.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut from = self.floor;
        iter::from_fn(move || {
            let start = self.next_present(from)?;
            from = self.absent_from(start);
            Some((start, from))
        })
    }

    /// Estimate of the heap in use, in bytes. Looks at every part.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let mixed = |part: &Part| match part {
            Part::Complete { .. } => 0,
            Part::Mixed(container) => container.heap_bytes(),
        };
        super::btree_bytes::<u64, Part>(self.parts.len())
            + self.parts.values().map(mixed).sum::<usize>()
    }

    /// Appends the set: the floor, the number of entries, then for each the difference of its part's number to the one
    /// before, and how many further parts are complete with it plus one; or 0 and the numbers in it as
    /// `Container::encode` has them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.floor);
        varint::put(out, self.parts.len() as u64);
        let mut prev = 0;
        for (&number, part) in &self.parts {
            varint::put(out, number - prev);
            prev = number;
            match part {
                Part::Complete { through } => varint::put(out, through - number + 1),
                Part::Mixed(container) => {
                    out.push(0);
                    container.encode(out);
                }
            }
        }
    }

    /// Takes a set off the front of `input`.
    ///
    /// # Errors
    ///
    /// The bytes break a rule of the format; how much of `input` was taken is then unspecified.
    pub fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        let corrupt = |what| Corrupt {
            structure: "interval set",
            what,
        };
        let floor = varint::get(input).ok_or(corrupt("the floor is missing"))?;
        let count = varint::get(input).ok_or(corrupt("the number of entries is missing"))?;
        let mut parts = Vec::new();
        let mut prev = 0u64;
        // The first part that may follow.
        let mut free = 0u64;
        for _ in 0..count {
            let number = varint::get(input)
                .and_then(|difference| prev.checked_add(difference))
                .filter(|&number| number >= free && number <= LAST_PART)
                .ok_or(corrupt("the number of a part is missing or out of order"))?;
            let complete = varint::get(input).ok_or(corrupt("a part is missing"))?;
            let (part, last) = if complete > 0 {
                let through = number
                    .checked_add(complete - 1)
                    .filter(|&through| through < LAST_PART)
                    .ok_or(corrupt("a stretch of parts is too long"))?;
                (Part::Complete { through }, through)
            } else {
                let container = Container::decode(input).ok_or(corrupt("a part does not parse"))?;
                (Part::Mixed(container), number)
            };
            prev = number;
            free = last + 1;
            parts.push((number, part));
        }
        let mut set = IntervalSet {
            floor: 0,
            above: 0,
            parts: parts.into_iter().collect(),
        };
        if set
            .part(LAST_PART)
            .is_some_and(|part| matches!(part, Part::Mixed(c) if c.contains(u16::MAX)))
        {
            return Err(corrupt("a number is out of range"));
        }
        set.above = set.count(0, u64::MAX);
        set.set_floor(floor);
        if set.absent_from(set.floor) != floor {
            return Err(corrupt("the floor is in the set"));
        }
        Ok(set)
    }

    /// Raises the floor to `floor`, or higher if what follows is in the set. From the old floor up to `floor` there are
    /// `known` members.
    fn raise(&mut self, floor: u64, known: u64) {
        self.floor = floor;
        if self.above == 0 {
            return;
        }
        self.floor = self.absent_from(floor);
        self.above -= known + (self.floor - floor);
        if self.above == 0 {
            self.parts.clear();
            return;
        }
        let (part, low) = split(self.floor);
        while let Some(mut first) = self.parts.first_entry() {
            let number = *first.key();
            let useless = match first.get_mut() {
                Part::Complete { through } => *through < part,
                Part::Mixed(container) => number < part || number == part && !container.trim(low),
            };
            if !useless {
                break;
            }
            first.remove();
        }
    }

    /// The entry that covers a part.
    fn part(&self, number: u64) -> Option<&Part> {
        let (&first, part) = self.parts.range(..=number).next_back()?;
        let last = match part {
            Part::Complete { through } => *through,
            Part::Mixed(_) => first,
        };
        (number <= last).then_some(part)
    }

    /// [`IntervalSet::next_absent`] without regard to the floor.
    fn absent_from(&self, from: u64) -> u64 {
        let mut from = from;
        loop {
            let (number, low) = split(from);
            match self.part(number) {
                None => return from,
                Some(Part::Complete { through }) => from = join(through + 1, 0),
                Some(Part::Mixed(container)) => match container.next_absent(low) {
                    Some(low) => return join(number, low),
                    None => from = join(number + 1, 0),
                },
            }
        }
    }

    /// How many numbers from `from` to before `to` the parts hold.
    fn count(&self, from: u64, to: u64) -> u64 {
        let Some(to) = to.checked_sub(1).filter(|&to| to >= from) else {
            return 0;
        };
        let ((first, low), (last, high)) = (split(from), split(to));
        let start = self
            .parts
            .range(..=first)
            .next_back()
            .map_or(first, |(&number, _)| number);
        let count = |(&number, part): (&u64, &Part)| match part {
            Part::Complete { through } => {
                let (from, to) = (from.max(join(number, 0)), to.min(join(*through, u16::MAX)));
                to.checked_sub(from).map_or(0, |distance| distance + 1)
            }
            Part::Mixed(_) if number < first => 0,
            Part::Mixed(container) => {
                let low = if number == first { low } else { 0 };
                let high = if number == last { high } else { u16::MAX };
                u64::from(container.count(low, high))
            }
        };
        self.parts.range(start..=last).map(count).sum()
    }

    /// Adds the numbers from `first` to `last` of one part and returns how many are new.
    fn insert_in_part(&mut self, number: u64, first: u16, last: u16) -> u64 {
        match self.parts.range_mut(..=number).next_back() {
            Some((_, Part::Complete { through })) if number <= *through => 0,
            Some((&at, Part::Mixed(container))) if at == number => {
                let added = container.insert(first, last);
                if added > 0 && container.is_full() {
                    self.complete(number, number);
                }
                u64::from(added)
            }
            _ if (first, last) == (0, u16::MAX) => self.complete(number, number),
            _ => {
                self.parts
                    .insert(number, Part::Mixed(Container::new(first, last)));
                u64::from(last - first) + 1
            }
        }
    }

    /// Makes the parts from `first` to `last` complete, as one entry with complete neighbours, and returns how many
    /// numbers are new.
    fn complete(&mut self, first: u64, last: u64) -> u64 {
        let before = self.count(join(first, 0), join(last + 1, 0));
        let (mut from, mut through) = (first, last);
        if let Some((&number, Part::Complete { through: end })) =
            self.parts.range(..first).next_back()
            && end + 1 >= first
        {
            from = number;
            through = through.max(*end);
        }
        while let Some((&number, part)) = self.parts.range(first..=last + 1).next() {
            match part {
                Part::Complete { through: end } => through = through.max(*end),
                Part::Mixed(_) if number > last => break,
                Part::Mixed(_) => {}
            }
            self.parts.remove(&number);
        }
        self.parts.insert(from, Part::Complete { through });
        ((last - first + 1) << PART_BITS) - before
    }
}
