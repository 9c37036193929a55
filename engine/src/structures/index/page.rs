//! A run of chunks as a page: the bytes, and what they are once read.

use super::super::varint;
use super::chunk::{Chunk, SLOTS};

/// Chunks of a page; a page has those of its numbers that are not empty.
pub(super) const CHUNKS: u64 = 16;
/// Sequence numbers of a page.
pub(super) const SEQS: usize = SLOTS * CHUNKS as usize;

/// A page that was read: immutable, whatever has been removed since it was written.
#[derive(Debug)]
pub struct Page {
    chunks: [Option<Chunk>; CHUNKS as usize],
}

/// What was removed from a page since it was written, a bit for each number.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone(Option<Box<[u64; SEQS / 64]>>);

impl Gone {
    pub(super) fn contains(&self, place: u16) -> bool {
        let bits = self.0.as_ref();
        bits.and_then(|bits| bits.get(usize::from(place) / 64))
            .is_some_and(|word| word >> (place % 64) & 1 != 0)
    }

    /// `false` when it was there.
    pub(super) fn insert(&mut self, place: u16) -> bool {
        let bits = self.0.get_or_insert_with(|| Box::new([0; SEQS / 64]));
        let Some(word) = bits.get_mut(usize::from(place) / 64) else {
            return false;
        };
        let bit = 1 << (place % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// The first number at or after `place` that is not in it; [`SEQS`] when there is none.
    pub(super) fn next_absent(&self, place: u16) -> u16 {
        let Some(bits) = &self.0 else {
            return place;
        };
        let mut at = usize::from(place);
        while let Some(word) = bits.get(at / 64) {
            let free = !word >> (at % 64);
            if free != 0 {
                return (at + free.trailing_zeros() as usize) as u16;
            }
            at = (at / 64 + 1) * 64;
        }
        SEQS as u16
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |bits| size_of_val::<[u64; SEQS / 64]>(bits))
    }

    /// A byte that says whether anything is in it, then the bits.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.0.is_some()));
        for word in self.0.iter().flat_map(|bits| bits.iter()) {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Option<Gone> {
        match input.split_off_first()? {
            0 => Some(Gone(None)),
            1 => {
                let (words, _) = input.split_off(..SEQS / 8)?.as_chunks::<8>();
                let mut bits = Box::new([0; SEQS / 64]);
                for (bit, word) in bits.iter_mut().zip(words) {
                    *bit = u64::from_le_bytes(*word);
                }
                Some(Gone(Some(bits)))
            }
            _ => None,
        }
    }
}

/// Appends a page: the number of chunks, then for each its place and what `Chunk::encode` writes.
pub(super) fn encode<'a>(chunks: impl Iterator<Item = (u64, &'a Chunk)> + Clone) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEQS * 2 + 256);
    varint::put(&mut out, chunks.clone().count() as u64);
    for (number, chunk) in chunks {
        out.push((number % CHUNKS) as u8);
        chunk.encode(&mut out);
    }
    out
}

impl Page {
    /// `None` when these are not the bytes of a page.
    #[must_use]
    pub fn decode(mut input: &[u8]) -> Option<Page> {
        let input = &mut input;
        let count = varint::get(input)?;
        let mut page = Page {
            chunks: [const { None }; CHUNKS as usize],
        };
        for _ in 0..count {
            let place = usize::from(*input.split_off_first()?);
            let chunk = Chunk::decode(input)?;
            if page.chunks.get_mut(place)?.replace(chunk).is_some() {
                return None;
            }
        }
        input.is_empty().then_some(page)
    }

    pub(super) fn get(&self, place: u16) -> Option<u64> {
        let chunk = self.chunks.get(usize::from(place) / SLOTS)?.as_ref()?;
        chunk.get((usize::from(place) % SLOTS) as u8)
    }

    /// The first entry at or after `place`.
    pub(super) fn next(&self, place: u16) -> Option<(u16, u64)> {
        let (first, slot) = (usize::from(place) / SLOTS, usize::from(place) % SLOTS);
        let chunks = self.chunks.iter().enumerate().skip(first);
        for (i, chunk) in chunks {
            let from = if i == first { slot as u8 } else { 0 };
            if let Some((slot, lsn)) = chunk.as_ref().and_then(|chunk| chunk.next(from)) {
                return Some(((i * SLOTS) as u16 + u16::from(slot), lsn));
            }
        }
        None
    }

    /// The first entry at or after `place` that is not in `gone`.
    pub(super) fn next_but(&self, place: u16, gone: &Gone) -> Option<(u16, u64)> {
        let mut place = place;
        loop {
            place = gone.next_absent(place);
            let entry = self.next(place)?;
            if !gone.contains(entry.0) {
                return Some(entry);
            }
            place = entry.0;
        }
    }

    /// What is left of it without `gone`, packed anew; `None` when that is nothing.
    pub(super) fn without(&self, gone: &Gone) -> Option<Vec<u8>> {
        let left: Vec<(u64, Chunk)> = (self.chunks.iter().enumerate())
            .filter_map(|(i, chunk)| {
                let kept =
                    |&(slot, _): &(u8, u64)| !gone.contains((i * SLOTS) as u16 + u16::from(slot));
                let entries = chunk.as_ref()?.iter_from(0).filter(kept);
                Some((i as u64, Chunk::new(entries)?))
            })
            .collect();
        let chunks = left.iter().map(|(i, chunk)| (*i, chunk));
        (!left.is_empty()).then(|| encode(chunks))
    }
}
