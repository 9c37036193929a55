//! Where the messages of one sequence space lie in the log: a map from [`Seq`] to [`Lsn`].
//!
//! Sequence numbers are handed out in ascending order and their messages are settled in any order, so the map is cut
//! into chunks of 256 consecutive numbers (`chunk`). The newest chunk, the tail, grows as a plain array; it is sealed
//! into its smallest form when a number beyond it arrives. The oldest sealed chunk, the head, is kept beside the
//! others, because that is where most messages are read and removed. An empty chunk is dropped.
//!
//! [`Index`] is in memory as a whole. A [`PagedIndex`] keeps runs of its chunks as pages in the shard's log once it
//! grows beyond what it may take.

mod chunk;
mod page;
mod paged;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use longtail_model::{Lsn, Seq};

use super::{Corrupt, varint};
use chunk::{ABSENT, Chunk, SLOTS};

pub use page::Page;
pub use paged::{PAGE_SEQS, PageSource, PagedIndex, Removed, TakenPage};

/// Room for so many positions is kept when the tail runs empty.
const KEEP_CAPACITY: usize = 16;

/// The map `Seq -> Lsn` of one sequence space.
///
/// About 2.3 bytes an entry while 256 consecutive messages lie within 512 KiB of log, about 4.3 within 32 GiB. A look-up
/// near either end takes a few nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// The highest number ever pushed; its chunk is the tail.
    last: u64,
    len: usize,
    /// The oldest sealed chunk; there is one whenever `middle` is not empty.
    head: Option<Head>,
    /// The other sealed chunks by chunk number.
    middle: BTreeMap<u64, Chunk>,
    tail: Tail,
    /// Heap bytes of the sealed chunks.
    sealed_bytes: usize,
}

/// What a sealed chunk costs beside its own heap: its place in the map.
const PLACE: usize = super::btree_bytes::<u64, Chunk>(1);

#[derive(Clone, Debug)]
struct Head {
    number: u64,
    /// The first slot in use.
    first: u8,
    chunk: Chunk,
}

/// The positions of consecutive slots from `base` on, [`ABSENT`] where there is none. Has no slots when it has no entry.
#[derive(Clone, Debug, Default)]
struct Tail {
    lsns: Vec<u64>,
    base: u8,
    /// Slots with a position.
    live: u16,
    /// Place in `lsns` of the first of them.
    first: u16,
}

const fn split(seq: u64) -> (u64, u8) {
    (seq / SLOTS as u64, (seq % SLOTS as u64) as u8)
}

const fn join(number: u64, slot: u8) -> Seq {
    Seq(number * SLOTS as u64 + slot as u64)
}

impl Index {
    /// An empty map of a sequence space that has handed out nothing.
    #[must_use]
    pub fn new() -> Self {
        Index::default()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The highest number ever pushed, removed or not; 0 when nothing was.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        Seq(self.last)
    }

    /// Adds the position of the message `seq`.
    ///
    /// # Panics
    ///
    /// `seq` is not above [`Index::last_seq`], or `lsn` is `u64::MAX`, which is no position.
    pub fn push(&mut self, seq: Seq, lsn: Lsn) {
        self.push_sealing(seq, lsn);
    }

    /// Like [`Index::push`]; says whether a chunk was sealed.
    #[inline]
    fn push_sealing(&mut self, seq: Seq, lsn: Lsn) -> bool {
        assert!(
            seq.0 > self.last,
            "sequence number {seq} pushed after {}",
            self.last
        );
        assert!(lsn.0 != ABSENT, "not a position");
        let (number, slot) = split(seq.0);
        let sealed = number != split(self.last).0 && self.seal_tail();
        self.last = seq.0;
        self.len += 1;
        self.tail.push(slot, lsn.0);
        sealed
    }

    /// The position of a message.
    #[must_use]
    #[inline]
    pub fn get(&self, seq: Seq) -> Option<Lsn> {
        let (number, slot) = split(seq.0);
        if number == split(self.last).0 {
            return self.tail.get(slot).map(Lsn);
        }
        match &self.head {
            Some(head) if head.number == number => head.chunk.get(slot).map(Lsn),
            _ => self.middle.get(&number)?.get(slot).map(Lsn),
        }
    }

    /// Whether a message has a position.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.get(seq).is_some()
    }

    /// Takes out the position of a message.
    pub fn remove(&mut self, seq: Seq) -> Option<Lsn> {
        let (number, slot) = split(seq.0);
        let lsn = if number == split(self.last).0 {
            self.tail.remove(slot)?
        } else if let Some(head) = self.head.as_mut().filter(|head| head.number == number) {
            let before = head.chunk.heap_bytes();
            let lsn = head.chunk.remove(slot)?;
            self.sealed_bytes -= before - head.chunk.heap_bytes();
            if slot == head.first {
                if let Some((first, _)) = head.chunk.next(slot) {
                    head.first = first;
                } else {
                    self.sealed_bytes -= head.chunk.heap_bytes() + PLACE;
                    self.head = self
                        .middle
                        .pop_first()
                        .map(|(number, chunk)| Head::new(number, chunk));
                }
            }
            lsn
        } else {
            let chunk = self.middle.get_mut(&number)?;
            let before = chunk.heap_bytes();
            let lsn = chunk.remove(slot)?;
            self.sealed_bytes -= before - chunk.heap_bytes();
            if chunk.len() == 0 {
                self.sealed_bytes -= chunk.heap_bytes() + PLACE;
                self.middle.remove(&number);
            }
            lsn
        };
        self.len -= 1;
        Some(Lsn(lsn))
    }

    /// The lowest entry.
    #[must_use]
    pub fn first(&self) -> Option<(Seq, Lsn)> {
        match &self.head {
            Some(head) => Some((
                join(head.number, head.first),
                Lsn(head.chunk.get(head.first)?),
            )),
            None => {
                let slot = self.tail.base + self.tail.first as u8;
                Some((join(split(self.last).0, slot), Lsn(self.tail.get(slot)?)))
            }
        }
    }

    /// The lowest entry that is not below `seq`.
    #[must_use]
    pub fn next_at_or_after(&self, seq: Seq) -> Option<(Seq, Lsn)> {
        if seq.0 > self.last {
            // Where whoever has had everything looks after each message.
            return None;
        }
        match self.first() {
            Some((first, lsn)) if first >= seq => Some((first, lsn)),
            _ => match self.get(seq) {
                Some(lsn) => Some((seq, lsn)),
                None => self.range(seq).next(),
            },
        }
    }

    /// The entries in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, Lsn)> + '_ {
        self.range(Seq(0))
    }

    /// The entries from `from` on, in ascending order.
    pub fn range(&self, from: Seq) -> impl Iterator<Item = (Seq, Lsn)> + '_ {
        let (start, start_slot) = split(from.0);
        let last = split(self.last).0;
        let tail_slot = if last > start { 0 } else { start_slot };
        let tail = (last >= start)
            .then(|| self.tail.iter_from(tail_slot))
            .into_iter()
            .flatten()
            .map(move |(slot, lsn)| (join(last, slot), Lsn(lsn)));
        self.sealed(start)
            .flat_map(move |(number, chunk)| {
                let slot = if number == start { start_slot } else { 0 };
                chunk
                    .iter_from(slot)
                    .map(move |(slot, lsn)| (join(number, slot), Lsn(lsn)))
            })
            .chain(tail)
    }

    /// Estimate of the heap in use, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.tail.lsns.capacity() * size_of::<u64>() + self.sealed_bytes
    }

    /// Appends the map: the highest number ever pushed, the number of chunks, then for each the difference of its number
    /// to the one before and its entries as `Chunk::encode` has them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let tail = Chunk::new(self.tail.iter());
        let sealed = self.middle.len() + usize::from(self.head.is_some());
        varint::put(out, self.last);
        varint::put(out, sealed as u64 + u64::from(tail.is_some()));
        let mut prev = 0;
        for (number, chunk) in self
            .sealed(0)
            .chain(tail.iter().map(|chunk| (split(self.last).0, chunk)))
        {
            varint::put(out, number - prev);
            prev = number;
            chunk.encode(out);
        }
    }

    /// Takes a map off the front of `input`.
    ///
    /// # Errors
    ///
    /// The bytes break a rule of the format; how much of `input` was taken is then unspecified.
    pub fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        let corrupt = |what| Corrupt {
            structure: "index",
            what,
        };
        let last = varint::get(input).ok_or(corrupt("the last number is missing"))?;
        let count = varint::get(input).ok_or(corrupt("the number of chunks is missing"))?;
        let mut index = Index {
            last,
            ..Index::default()
        };
        let (last_number, last_slot) = split(last);
        let mut sealed = Vec::new();
        let mut prev = None;
        for _ in 0..count {
            let number = varint::get(input)
                .and_then(|difference| prev.unwrap_or(0u64).checked_add(difference))
                .filter(|&number| number <= last_number && prev.is_none_or(|prev| prev < number))
                .ok_or(corrupt("the number of a chunk is missing or out of order"))?;
            let chunk = Chunk::decode(input)
                .ok_or(corrupt("the entries of a chunk are cut or out of range"))?;
            prev = Some(number);
            index.len += chunk.len();
            if number < last_number {
                sealed.push((number, chunk));
                continue;
            }
            for (slot, lsn) in chunk.iter_from(0) {
                if slot > last_slot {
                    return Err(corrupt("an entry is above the last number"));
                }
                index.tail.push(slot, lsn);
            }
        }
        index.sealed_bytes = sealed
            .iter()
            .map(|(_, chunk)| chunk.heap_bytes() + PLACE)
            .sum();
        let mut sealed = sealed.into_iter();
        index.head = sealed
            .next()
            .map(|(number, chunk)| Head::new(number, chunk));
        index.middle = sealed.collect();
        Ok(index)
    }

    /// The sealed chunks from number `start` on.
    fn sealed(&self, start: u64) -> impl Iterator<Item = (u64, &Chunk)> + '_ {
        self.head
            .iter()
            .map(|head| (head.number, &head.chunk))
            .filter(move |&(number, _)| number >= start)
            .chain(
                self.middle
                    .range(start..)
                    .map(|(&number, chunk)| (number, chunk)),
            )
    }

    /// `false` when the tail has no entry.
    fn seal_tail(&mut self) -> bool {
        let number = split(self.last).0;
        let chunk = Chunk::new(self.tail.iter());
        let sealed = chunk.is_some();
        if let Some(chunk) = chunk {
            self.sealed_bytes += chunk.heap_bytes() + PLACE;
            if self.head.is_none() {
                self.head = Some(Head::new(number, chunk));
            } else {
                self.middle.insert(number, chunk);
            }
        }
        self.tail.clear();
        sealed
    }

    /// The highest sealed chunk below chunk number `below`, the head aside.
    fn last_sealed_below(&self, below: u64) -> Option<u64> {
        self.middle.range(..below).next_back().map(|(&n, _)| n)
    }

    /// The sealed chunks of a range of chunk numbers, the head aside.
    fn sealed_in(&self, numbers: Range<u64>) -> impl Iterator<Item = (u64, &Chunk)> + Clone + '_ {
        self.middle.range(numbers).map(|(&n, chunk)| (n, chunk))
    }

    /// Number of entries from `from` up to `to`, without that one. Looks into the chunks in which the range begins and
    /// ends; of the others it asks only how many they have.
    fn count_in(&self, from: Seq, to: Seq) -> usize {
        let ((first, _), (last, _)) = (split(from.0), split(to.0));
        let edges = |number: u64| {
            let start = Seq(number * SLOTS as u64).max(from);
            let end = Seq((number + 1) * SLOTS as u64).min(to);
            self.range(start).take_while(move |&(seq, _)| seq < end)
        };
        if first == last {
            return edges(first).count();
        }
        let tail = split(self.last).0;
        let whole = self.sealed(first + 1).take_while(|&(n, _)| n < last);
        let mut count = whole.map(|(_, chunk)| chunk.len()).sum::<usize>();
        if (first + 1..last).contains(&tail) {
            count += usize::from(self.tail.live);
        }
        count + edges(first).count() + edges(last).count()
    }

    /// Takes the sealed chunks below chunk number `below` away but those of `stays`, ascending, as an index of their
    /// own.
    fn split_below(&mut self, below: u64, stays: &[u64]) -> Index {
        let mut taken = std::mem::take(&mut self.middle);
        if let Some(head) = self.head.take() {
            taken.insert(head.number, head.chunk);
        }
        let mut left = taken.split_off(&below);
        for &number in stays {
            if let Some(chunk) = taken.remove(&number) {
                left.insert(number, chunk);
            }
        }
        let bytes = |chunk: &Chunk| chunk.heap_bytes() + PLACE;
        let mut split = Index {
            last: self.last,
            len: taken.values().map(Chunk::len).sum(),
            sealed_bytes: taken.values().map(bytes).sum(),
            ..Index::default()
        };
        self.len -= split.len;
        self.sealed_bytes -= split.sealed_bytes;
        let first = |chunks: &mut BTreeMap<u64, Chunk>| {
            let (number, chunk) = chunks.pop_first()?;
            Some(Head::new(number, chunk))
        };
        self.head = first(&mut left);
        self.middle = left;
        split.head = first(&mut taken);
        split.middle = taken;
        split
    }

    /// Takes the lowest chunk out: its positions.
    fn take_chunk(&mut self) -> Vec<Lsn> {
        let Some(head) = self.head.take() else {
            let taken = self.tail.iter().map(|(_, lsn)| Lsn(lsn)).collect();
            self.len -= usize::from(self.tail.live);
            self.tail = Tail::default();
            return taken;
        };
        self.len -= head.chunk.len();
        self.sealed_bytes -= head.chunk.heap_bytes() + PLACE;
        let next = self.middle.pop_first();
        self.head = next.map(|(number, chunk)| Head::new(number, chunk));
        let entries = head.chunk.iter_from(0);
        entries.map(|(_, lsn)| Lsn(lsn)).collect()
    }

    /// Takes out what [`Index::sealed_in`] yields.
    fn take_sealed(&mut self, numbers: Range<u64>) {
        let taken: Vec<u64> = self.middle.range(numbers).map(|(&n, _)| n).collect();
        for number in taken {
            if let Some(chunk) = self.middle.remove(&number) {
                self.sealed_bytes -= chunk.heap_bytes() + PLACE;
                self.len -= chunk.len();
            }
        }
    }
}

impl Head {
    fn new(number: u64, chunk: Chunk) -> Head {
        let first = chunk.next(0).map_or(0, |(slot, _)| slot);
        Head {
            number,
            first,
            chunk,
        }
    }
}

impl Tail {
    /// `slot` is above every slot that has a place.
    fn push(&mut self, slot: u8, lsn: u64) {
        if self.lsns.is_empty() {
            self.base = slot;
        }
        self.lsns.resize(usize::from(slot - self.base), ABSENT);
        self.lsns.push(lsn);
        self.live += 1;
    }

    fn get(&self, slot: u8) -> Option<u64> {
        let at = slot.checked_sub(self.base)?;
        self.lsns
            .get(usize::from(at))
            .copied()
            .filter(|&lsn| lsn != ABSENT)
    }

    fn remove(&mut self, slot: u8) -> Option<u64> {
        let lsn = self.get(slot)?;
        self.live -= 1;
        if self.live == 0 {
            self.clear();
            self.lsns.shrink_to(KEEP_CAPACITY);
            return Some(lsn);
        }
        let at = u16::from(slot - self.base);
        self.lsns[usize::from(at)] = ABSENT;
        if at == self.first {
            let next = self.lsns[usize::from(at)..]
                .iter()
                .position(|&lsn| lsn != ABSENT);
            self.first += next.unwrap_or(0) as u16;
        }
        Some(lsn)
    }

    fn iter(&self) -> impl Iterator<Item = (u8, u64)> + Clone + '_ {
        self.iter_from(0)
    }

    fn iter_from(&self, slot: u8) -> impl Iterator<Item = (u8, u64)> + Clone + '_ {
        let from = slot.max(self.base);
        (from..=u8::MAX)
            .zip(
                self.lsns
                    .iter()
                    .skip(usize::from(from - self.base))
                    .copied(),
            )
            .filter(|&(_, lsn)| lsn != ABSENT)
    }

    fn clear(&mut self) {
        self.lsns.clear();
        self.live = 0;
        self.first = 0;
    }
}
