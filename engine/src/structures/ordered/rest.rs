//! The chunks behind the front: which chunk owns a pair, which chunks are open, and how they split.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ops::Bound;

use super::iter::Iter;
use super::packed::Packed;
use super::{CHUNK_MAX, OPEN_MAX, PACKED_BYTES_MAX, PACKED_CHANGES_MAX, Pair, UNLIMITED};

/// The chunks behind the front. Each owns the pairs from its lower limit (`lo`, an open chunk's field or the key in
/// `packed`) up to the next chunk's: when a chunk goes away, the one before it inherits its range.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    /// Entries in all chunks.
    pub(super) len: usize,
    /// Pairs below this belong to the front. Above every entry of the front; not above any chunk's `lo`.
    pub(super) bound: Pair,
    /// In ascending order.
    pub(super) open: Vec<Open>,
    pub(super) packed: BTreeMap<Pair, Packed>,
    /// Ticks when another open chunk than the last one is used.
    pub(super) clock: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) lo: Pair,
    /// At most the `lo` of the next chunk; less when a chunk in between went away since.
    pub(super) hi: Pair,
    /// [`Rest::clock`] of the last use.
    pub(super) used: u64,
    pub(super) entries: VecDeque<Pair>,
}

/// Who owns a pair.
pub(super) enum Owner {
    Front,
    Open(usize),
    Packed(Pair),
}

impl Rest {
    pub(super) fn new(bound: Pair) -> Rest {
        Rest {
            len: 0,
            bound,
            open: Vec::new(),
            packed: BTreeMap::new(),
            clock: 0,
        }
    }

    /// The open chunk and the packed chunk that start last among those that start at or before `entry`. The later of
    /// the two owns it; when there is neither, the front does.
    pub(super) fn start(&self, entry: Pair) -> (Option<&Open>, Option<Pair>) {
        let open = self.open.iter().rfind(|open| open.lo <= entry);
        (
            open,
            self.packed.range(..=entry).next_back().map(|(&lo, _)| lo),
        )
    }

    /// Who owns `entry`, which is not below `bound`; adjusts the limits so that the next call finds it at once.
    #[inline]
    pub(super) fn owner(&mut self, entry: Pair) -> Owner {
        match self
            .open
            .iter()
            .rposition(|open| open.lo <= entry && entry < open.hi)
        {
            Some(i) => {
                self.touch(i);
                Owner::Open(i)
            }
            None => self.find_owner(entry),
        }
    }

    fn find_owner(&mut self, entry: Pair) -> Owner {
        let packed = self.packed.range(..=entry).next_back().map(|(&lo, _)| lo);
        match (self.open.iter().rposition(|open| open.lo <= entry), packed) {
            (Some(i), lo) if lo.is_none_or(|lo| lo < self.open[i].lo) => {
                self.open[i].hi = self.limit(entry);
                self.touch(i);
                Owner::Open(i)
            }
            (_, Some(lo)) => Owner::Packed(lo),
            (_, None) => {
                self.bound = self.limit(entry);
                Owner::Front
            }
        }
    }

    /// Where the first chunk that starts above `entry` starts.
    pub(super) fn limit(&self, entry: Pair) -> Pair {
        let open = self.open.iter().map(|open| open.lo).find(|&lo| lo > entry);
        let packed = self
            .packed
            .range((Bound::Excluded(entry), Bound::Unbounded))
            .next()
            .map(|(&lo, _)| lo);
        open.unwrap_or(UNLIMITED).min(packed.unwrap_or(UNLIMITED))
    }

    fn touch(&mut self, i: usize) {
        let open = &mut self.open[i];
        if open.used != self.clock {
            self.clock += 1;
            open.used = self.clock;
        }
    }

    pub(super) fn insert_open(&mut self, i: usize, entry: Pair) -> bool {
        let open = &mut self.open[i];
        if open.entries.len() < CHUNK_MAX {
            let inserted = insert_sorted(&mut open.entries, entry);
            self.len += usize::from(inserted);
            return inserted;
        }
        let Err(at) = open.entries.binary_search(&entry) else {
            return false;
        };
        self.len += 1;
        if at == CHUNK_MAX {
            // Growth at the end: what is full now will hardly be touched before it becomes the front.
            let next = Open {
                lo: entry,
                hi: open.hi,
                used: open.used,
                entries: VecDeque::from([entry]),
            };
            let full = mem::replace(open, next);
            self.pack_open(full);
        } else {
            let mut upper = open.entries.split_off(CHUNK_MAX / 2);
            insert_sorted(
                if at <= CHUNK_MAX / 2 {
                    &mut open.entries
                } else {
                    &mut upper
                },
                entry,
            );
            open.hi = upper[0];
            self.add_open(upper[0], upper);
        }
        true
    }

    pub(super) fn insert_packed(&mut self, lo: Pair, entry: Pair) -> bool {
        let Some(chunk) = self.packed.get_mut(&lo) else {
            return false;
        };
        let full = chunk.len() >= CHUNK_MAX;
        if full && entry > chunk.last() {
            self.add_open(entry, VecDeque::from([entry]));
        } else if full || chunk.changes() >= PACKED_CHANGES_MAX {
            let i = self.unpack(lo);
            return self.insert_open(i, entry);
        } else if !chunk.insert(entry) {
            return false;
        } else if chunk.bytes().len() > PACKED_BYTES_MAX {
            let entries: Vec<Pair> = chunk.iter().collect();
            self.pack(lo, &entries);
        }
        self.len += 1;
        true
    }

    pub(super) fn remove_open(&mut self, i: usize, entry: Pair) -> bool {
        let entries = &mut self.open[i].entries;
        if !remove_sorted(entries, entry) {
            return false;
        }
        if entries.is_empty() {
            self.open.remove(i);
        }
        self.len -= 1;
        true
    }

    pub(super) fn remove_packed(&mut self, lo: Pair, entry: Pair) -> bool {
        let Some(chunk) = self.packed.get_mut(&lo) else {
            return false;
        };
        if chunk.len() == 1 {
            if chunk.last() != entry {
                return false;
            }
            self.packed.remove(&lo);
        } else if chunk.changes() >= PACKED_CHANGES_MAX {
            let i = self.unpack(lo);
            return self.remove_open(i, entry);
        } else if !chunk.remove(entry) {
            return false;
        }
        self.len -= 1;
        true
    }

    /// Adds a packed chunk, in several parts when the bytes are too many for one.
    fn pack(&mut self, lo: Pair, entries: &[Pair]) {
        let whole = Packed::new(entries.iter().copied());
        let parts = whole.bytes().len().div_ceil(PACKED_BYTES_MAX);
        if parts <= 1 {
            self.packed.insert(lo, whole);
            return;
        }
        let mut lo = Some(lo);
        for part in entries.chunks(entries.len().div_ceil(parts)) {
            self.packed.insert(
                lo.take().unwrap_or(part[0]),
                Packed::new(part.iter().copied()),
            );
        }
    }

    fn pack_open(&mut self, mut open: Open) {
        self.pack(open.lo, open.entries.make_contiguous());
    }

    fn unpack(&mut self, lo: Pair) -> usize {
        let mut entries = VecDeque::with_capacity(CHUNK_MAX);
        if let Some(chunk) = self.packed.remove(&lo) {
            entries.extend(chunk.iter());
        }
        self.add_open(lo, entries)
    }

    /// Adds an open chunk, for which the one used longest ago has to make room, and returns its place.
    pub(super) fn add_open(&mut self, lo: Pair, entries: VecDeque<Pair>) -> usize {
        if self.open.len() >= OPEN_MAX
            && let Some(oldest) = (0..self.open.len()).min_by_key(|&i| self.open[i].used)
        {
            let oldest = self.open.remove(oldest);
            self.pack_open(oldest);
        }
        self.clock += 1;
        let i = self.open.partition_point(|open| open.lo < lo);
        self.open.insert(
            i,
            Open {
                lo,
                hi: self.limit(lo),
                used: self.clock,
                entries,
            },
        );
        i
    }

    /// Moves the first chunk to `front`, which is empty.
    pub(super) fn take_first_chunk(&mut self, front: &mut VecDeque<Pair>) {
        let packed = self
            .packed
            .first_key_value()
            .map_or(UNLIMITED, |(&lo, _)| lo);
        if self.open.first().is_some_and(|open| open.lo <= packed) {
            *front = self.open.remove(0).entries;
        } else if let Some((_, chunk)) = self.packed.pop_first() {
            front.reserve(chunk.len());
            front.extend(chunk.iter());
        }
        self.len -= front.len();
        self.bound = self.limit(front.back().copied().unwrap_or_default());
    }

    /// The entries of the chunks that start at `lo` or later.
    pub(super) fn iter_from(&self, lo: Pair) -> Iter<'_> {
        let open = &self.open[self.open.partition_point(|open| open.lo < lo)..];
        Iter::new(open, self.packed.range(lo..))
    }
}

pub(super) fn insert_sorted(entries: &mut VecDeque<Pair>, entry: Pair) -> bool {
    match entries.back() {
        Some(&back) if entry <= back => match entries.front() {
            Some(&front) if entry < front => entries.push_front(entry),
            _ => match entries.binary_search(&entry) {
                Ok(_) => return false,
                Err(at) => entries.insert(at, entry),
            },
        },
        _ => entries.push_back(entry),
    }
    true
}

pub(super) fn remove_sorted(entries: &mut VecDeque<Pair>, entry: Pair) -> bool {
    if entries.front() == Some(&entry) {
        entries.pop_front();
        return true;
    }
    match entries.binary_search(&entry) {
        Ok(at) => entries.remove(at).is_some(),
        Err(_) => false,
    }
}
