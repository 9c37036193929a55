//! An ordered set of `(key, seq)` pairs that holds millions at one to five bytes an entry: what is ready, ordered by
//! priority; what is delayed, ordered by due time.
//!
//! The entries lie in chunks of at most 512. The first chunk, `front`, is always open (plain pairs), so that
//! the end that is consumed is a queue. Behind it a few more are open, those used last; all others are packed into
//! differences (`packed`). A chunk is packed once when it is left behind and unpacked once when it becomes the front,
//! so queue-like use pays for packing once a chunk, not once an operation. An isolated change to a packed chunk is made
//! in its packed form; more of them open it.

mod iter;
mod packed;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;

use super::{Corrupt, varint};
use iter::{Chunk, Iter};
use packed::Packed;
use rest::{Open, Owner, Rest, insert_sorted, remove_sorted};

type Pair = (u64, u64);

/// The most entries a chunk holds; one that would grow beyond is split.
const CHUNK_MAX: usize = 512;
/// The most open chunks behind the front.
const OPEN_MAX: usize = 4;
/// A packed chunk of more bytes is split, so that looking through it stays quick where differences are large.
const PACKED_BYTES_MAX: usize = 1100;
/// After this many changes in its packed form a chunk is opened. Opening one and packing another costs as much as
/// several such changes, so this bounds what changes cost on average, wherever they go.
const PACKED_CHANGES_MAX: u16 = 16;
/// Up to this many entries of room are kept whatever the front holds.
const KEEP_CAPACITY: usize = 32;
/// Upper limit of a chunk that nothing follows.
const UNLIMITED: Pair = (u64::MAX, u64::MAX);

/// A set of `(key, seq)` pairs in ascending order.
///
/// Inserting at the end, taking the first, and putting back what was just taken cost a few nanoseconds; an insertion at
/// a random place about a microsecond. An empty set has no heap, a small one a single buffer.
#[derive(Clone, Debug, Default)]
pub struct OrderedSet {
    /// The first entries; empty only when the set is.
    front: VecDeque<Pair>,
    /// Everything else; `None` when that is nothing.
    rest: Option<Box<Rest>>,
}

impl OrderedSet {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        OrderedSet {
            front: VecDeque::new(),
            rest: None,
        }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.front.len() + self.rest.as_ref().map_or(0, |rest| rest.len)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// The smallest entry.
    #[must_use]
    #[inline]
    pub fn first(&self) -> Option<(u64, u64)> {
        self.front.front().copied()
    }

    /// Takes out the smallest entry.
    #[inline]
    pub fn pop_first(&mut self) -> Option<(u64, u64)> {
        let entry = self.front.pop_front()?;
        if self.front.len() <= self.front.capacity() / 8 {
            self.tidy_front();
        }
        Some(entry)
    }

    /// Adds an entry; `false` when it was there already.
    #[inline]
    pub fn insert(&mut self, key: u64, seq: u64) -> bool {
        let entry = (key, seq);
        if let Some(rest) = &mut self.rest
            && entry >= rest.bound
        {
            match rest.owner(entry) {
                Owner::Front => {}
                Owner::Open(i) => return rest.insert_open(i, entry),
                Owner::Packed(lo) => return rest.insert_packed(lo, entry),
            }
        }
        if self.front.len() < CHUNK_MAX {
            return insert_sorted(&mut self.front, entry);
        }
        self.insert_full_front(entry)
    }

    /// Takes an entry out; `false` when it was not there.
    pub fn remove(&mut self, key: u64, seq: u64) -> bool {
        let entry = (key, seq);
        if let Some(rest) = &mut self.rest
            && entry >= rest.bound
        {
            let removed = match rest.owner(entry) {
                Owner::Front => false,
                Owner::Open(i) => rest.remove_open(i, entry),
                Owner::Packed(lo) => rest.remove_packed(lo, entry),
            };
            if rest.len == 0 {
                self.rest = None;
            }
            return removed;
        }
        let removed = remove_sorted(&mut self.front, entry);
        if self.front.len() <= self.front.capacity() / 8 {
            self.tidy_front();
        }
        removed
    }

    /// Whether an entry is there.
    #[must_use]
    pub fn contains(&self, key: u64, seq: u64) -> bool {
        let entry = (key, seq);
        let Some(rest) = self.rest.as_ref().filter(|rest| entry >= rest.bound) else {
            return self.front.binary_search(&entry).is_ok();
        };
        match rest.start(entry) {
            (Some(open), lo) if lo.is_none_or(|lo| lo < open.lo) => {
                open.entries.binary_search(&entry).is_ok()
            }
            (_, Some(lo)) => rest
                .packed
                .get(&lo)
                .is_some_and(|chunk| chunk.contains(entry)),
            (_, None) => false,
        }
    }

    /// The entries in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.range_from(0, 0)
    }

    /// The entries from `(key, seq)` on, in ascending order.
    pub fn range_from(&self, key: u64, seq: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let entry = (key, seq);
        let iter = match &self.rest {
            Some(rest) if entry >= rest.bound => {
                let (open, packed) = rest.start(entry);
                rest.iter_from(
                    open.map_or(rest.bound, |open| open.lo)
                        .max(packed.unwrap_or(rest.bound)),
                )
            }
            rest => {
                let skip = self.front.partition_point(|&e| e < entry);
                rest.as_ref()
                    .map_or_else(Iter::default, |rest| rest.iter_from(rest.bound))
                    .after(self.front.range(skip..))
            }
        };
        iter.skip_while(move |&e| e < entry)
    }

    /// Takes everything out and frees the heap.
    pub fn clear(&mut self) {
        *self = OrderedSet::new();
    }

    /// Estimate of the heap in use, in bytes. Looks at every chunk.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let entries = |entries: &VecDeque<Pair>| entries.capacity() * size_of::<Pair>();
        entries(&self.front)
            + self.rest.as_ref().map_or(0, |rest| {
                let node = super::btree_bytes::<Pair, Packed>(rest.packed.len());
                size_of::<Rest>()
                    + rest.open.capacity() * size_of::<Open>()
                    + rest
                        .open
                        .iter()
                        .map(|open| entries(&open.entries))
                        .sum::<usize>()
                    + rest
                        .packed
                        .values()
                        .map(|chunk| chunk.bytes().len() + super::ALLOCATION)
                        .sum::<usize>()
                    + node
            })
    }

    /// Appends the set: the number of chunks, then for each its number of entries, its number of bytes, and the bytes
    /// as `packed` has them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, chunk: &Packed| {
            varint::put(out, chunk.len() as u64);
            varint::put(out, chunk.bytes().len() as u64);
            out.extend_from_slice(chunk.bytes());
        };
        let behind = self
            .rest
            .as_ref()
            .map_or(0, |rest| rest.open.len() + rest.packed.len());
        varint::put(out, behind as u64 + u64::from(!self.front.is_empty()));
        if !self.front.is_empty() {
            put(out, &Packed::new(self.front.iter().copied()));
        }
        if let Some(rest) = &self.rest {
            let mut chunks = rest.iter_from(rest.bound);
            while let Some(chunk) = chunks.next_chunk() {
                match chunk {
                    Chunk::Open(entries) => put(out, &Packed::new(entries.iter().copied())),
                    Chunk::Packed(chunk) => put(out, chunk),
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
            structure: "ordered set",
            what,
        };
        let count = varint::get(input).ok_or(corrupt("the number of chunks is missing"))?;
        let mut chunks = Vec::new();
        let mut prev: Option<Pair> = None;
        for _ in 0..count {
            let len = varint::get(input).ok_or(corrupt("a chunk is missing"))?;
            if len == 0 || len > CHUNK_MAX as u64 {
                return Err(corrupt("the size of a chunk is out of range"));
            }
            let bytes = varint::get(input)
                .and_then(|bytes| input.split_off(..usize::try_from(bytes).ok()?))
                .ok_or(corrupt("a chunk ends too early"))?;
            let (first, chunk) = Packed::check(bytes, len as u16)
                .ok_or(corrupt("the entries of a chunk do not parse or not ascend"))?;
            if prev.is_some_and(|prev| prev >= first) {
                return Err(corrupt("chunks are out of order"));
            }
            prev = Some(chunk.last());
            chunks.push((first, chunk));
        }
        Ok(OrderedSet::from_chunks(chunks))
    }

    fn from_chunks(chunks: Vec<(Pair, Packed)>) -> OrderedSet {
        let mut set = OrderedSet::new();
        let mut chunks = chunks.into_iter();
        if let Some((_, first)) = chunks.next() {
            set.front.reserve_exact(first.len());
            set.front.extend(first.iter());
        }
        if let Some((bound, _)) = chunks.as_slice().first() {
            let mut rest = Rest::new(*bound);
            rest.len = chunks.as_slice().iter().map(|(_, chunk)| chunk.len()).sum();
            rest.packed = chunks.collect();
            set.rest = Some(Box::new(rest));
        }
        set
    }

    /// The front holds `CHUNK_MAX` entries and `entry` is in its range.
    #[cold]
    fn insert_full_front(&mut self, entry: Pair) -> bool {
        let Err(at) = self.front.binary_search(&entry) else {
            return false;
        };
        let behind = if at == self.front.len() {
            VecDeque::from([entry])
        } else if at == 0 {
            mem::replace(&mut self.front, VecDeque::from([entry]))
        } else {
            let mut upper = self.front.split_off(CHUNK_MAX / 2);
            insert_sorted(
                if at <= CHUNK_MAX / 2 {
                    &mut self.front
                } else {
                    &mut upper
                },
                entry,
            );
            upper
        };
        let lo = behind[0];
        let rest = self.rest.get_or_insert_with(|| Box::new(Rest::new(lo)));
        rest.bound = lo;
        rest.len += behind.len();
        rest.add_open(lo, behind);
        true
    }

    /// Fetches the next chunk when the front ran empty, or gives back room that it no longer needs.
    fn tidy_front(&mut self) {
        let Some(rest) = &mut self.rest else {
            if self.front.capacity() > KEEP_CAPACITY {
                self.front
                    .shrink_to(KEEP_CAPACITY.max(2 * self.front.len()));
            }
            return;
        };
        if self.front.is_empty() {
            rest.take_first_chunk(&mut self.front);
            if rest.len == 0 {
                self.rest = None;
            }
        }
    }
}
