//! The positions of 256 consecutive sequence numbers, once no more are added.
//!
//! Positions in a log lie close together and are multiples of 8, so most chunks hold offsets from their lowest one, in
//! units of 8 bytes: 16 bits each up to 512 KiB of log, 32 bits up to 32 GiB. A chunk of which little is left becomes a
//! short list. Looking one up is an array access in every form but the list.

use super::super::varint;

/// Sequence numbers a chunk covers.
pub(super) const SLOTS: usize = 256;
/// A chunk with at most so many entries left becomes a list.
const SPARSE_MAX: usize = 16;
/// A position that no record has.
pub(super) const ABSENT: u64 = u64::MAX;

/// At least one entry. A slot is the low byte of a sequence number.
#[derive(Clone, Debug)]
pub(super) enum Chunk {
    /// Ascending slots with their positions.
    Sparse(Box<[(u8, u64)]>),
    Narrow(Box<Dense<u16>>),
    Wide(Box<Dense<u32>>),
    /// Positions that are too far apart, or no multiples of 8 from each other.
    Full(Box<Dense<u64>>),
}

/// An array of offsets from `base`, in units of [`Offset::UNIT`].
#[derive(Clone, Debug)]
pub(super) struct Dense<T> {
    base: u64,
    live: u16,
    offsets: [T; SLOTS],
}

/// An integer that offsets are kept in.
pub(super) trait Offset: Copy + PartialEq + Into<u64> + TryFrom<u64> {
    const UNIT: u64;
    const ABSENT: Self;
}

impl Offset for u16 {
    const UNIT: u64 = 8;
    const ABSENT: u16 = u16::MAX;
}

impl Offset for u32 {
    const UNIT: u64 = 8;
    const ABSENT: u32 = u32::MAX;
}

impl Offset for u64 {
    const UNIT: u64 = 1;
    const ABSENT: u64 = u64::MAX;
}

impl<T: Offset> Dense<T> {
    /// `None` when the offsets of `entries` from `base` do not fit.
    fn new(base: u64, entries: impl Iterator<Item = (u8, u64)>) -> Option<Box<Dense<T>>> {
        let mut dense = Box::new(Dense {
            base,
            live: 0,
            offsets: [T::ABSENT; SLOTS],
        });
        for (slot, lsn) in entries {
            let distance = lsn - base;
            let offset = T::try_from(distance / T::UNIT).ok()?;
            if !distance.is_multiple_of(T::UNIT) || offset == T::ABSENT {
                return None;
            }
            dense.offsets[usize::from(slot)] = offset;
            dense.live += 1;
        }
        Some(dense)
    }

    #[inline]
    fn get(&self, slot: u8) -> Option<u64> {
        let offset = self.offsets[usize::from(slot)];
        (offset != T::ABSENT).then(|| self.base + offset.into() * T::UNIT)
    }

    fn remove(&mut self, slot: u8) -> Option<u64> {
        let lsn = self.get(slot)?;
        self.offsets[usize::from(slot)] = T::ABSENT;
        self.live -= 1;
        Some(lsn)
    }

    fn next(&self, from: u8) -> Option<(u8, u64)> {
        let slot = (from..=u8::MAX).find(|&slot| self.offsets[usize::from(slot)] != T::ABSENT)?;
        Some((slot, self.get(slot)?))
    }

    /// Reads what [`Chunk::encode`] wrote after the tag, for which `raw` turns `WIDTH` bytes into an offset.
    fn decode<const WIDTH: usize>(
        input: &mut &[u8],
        raw: fn([u8; WIDTH]) -> T,
    ) -> Option<Box<Dense<T>>> {
        let base = varint::get(input)?;
        let (words, rest) = input.split_off(..WIDTH * SLOTS)?.as_chunks::<WIDTH>();
        debug_assert!(rest.is_empty());
        let mut dense = Box::new(Dense {
            base,
            live: 0,
            offsets: [T::ABSENT; SLOTS],
        });
        let mut highest = 0;
        for (offset, &word) in dense.offsets.iter_mut().zip(words) {
            *offset = raw(word);
            if *offset != T::ABSENT {
                dense.live += 1;
                highest = highest.max((*offset).into());
            }
        }
        let highest = highest.checked_mul(T::UNIT)?.checked_add(base)?;
        (dense.live > 0 && highest != ABSENT).then_some(dense)
    }
}

impl Chunk {
    /// The smallest form of `entries`: slots ascend, no position is [`ABSENT`]. `None` when there is no entry.
    pub(super) fn new(entries: impl Iterator<Item = (u8, u64)> + Clone) -> Option<Chunk> {
        let base = entries.clone().map(|(_, lsn)| lsn).min()?;
        if entries.clone().nth(SPARSE_MAX).is_none() {
            return Some(Chunk::Sparse(entries.collect()));
        }
        Dense::new(base, entries.clone())
            .map(Chunk::Narrow)
            .or_else(|| Dense::new(base, entries.clone()).map(Chunk::Wide))
            .or_else(|| Dense::new(0, entries).map(Chunk::Full))
    }

    #[inline]
    pub(super) fn get(&self, slot: u8) -> Option<u64> {
        match self {
            Chunk::Sparse(list) => list.iter().find(|&&(s, _)| s == slot).map(|&(_, lsn)| lsn),
            Chunk::Narrow(dense) => dense.get(slot),
            Chunk::Wide(dense) => dense.get(slot),
            Chunk::Full(dense) => dense.get(slot),
        }
    }

    /// The first entry at or after slot `from`.
    pub(super) fn next(&self, from: u8) -> Option<(u8, u64)> {
        match self {
            Chunk::Sparse(list) => list.iter().find(|&&(slot, _)| slot >= from).copied(),
            Chunk::Narrow(dense) => dense.next(from),
            Chunk::Wide(dense) => dense.next(from),
            Chunk::Full(dense) => dense.next(from),
        }
    }

    /// The entries at or after slot `from`.
    pub(super) fn iter_from(&self, from: u8) -> impl Iterator<Item = (u8, u64)> + Clone + '_ {
        let mut from = Some(from);
        std::iter::from_fn(move || {
            let entry = self.next(from?)?;
            from = entry.0.checked_add(1);
            Some(entry)
        })
    }

    /// Takes an entry out. A chunk that is empty afterwards must be dropped.
    pub(super) fn remove(&mut self, slot: u8) -> Option<u64> {
        let lsn = match self {
            Chunk::Sparse(list) => {
                let lsn = list.iter().find(|&&(s, _)| s == slot)?.1;
                *list = list.iter().filter(|&&(s, _)| s != slot).copied().collect();
                return Some(lsn);
            }
            Chunk::Narrow(dense) => dense.remove(slot),
            Chunk::Wide(dense) => dense.remove(slot),
            Chunk::Full(dense) => dense.remove(slot),
        }?;
        if self.len() <= SPARSE_MAX {
            *self = Chunk::Sparse(self.iter_from(0).collect());
        }
        Some(lsn)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Chunk::Sparse(list) => list.len(),
            Chunk::Narrow(dense) => usize::from(dense.live),
            Chunk::Wide(dense) => usize::from(dense.live),
            Chunk::Full(dense) => usize::from(dense.live),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        super::super::ALLOCATION
            + match self {
                Chunk::Sparse(list) => size_of_val::<[_]>(list),
                Chunk::Narrow(dense) => size_of_val::<Dense<_>>(dense),
                Chunk::Wide(dense) => size_of_val::<Dense<_>>(dense),
                Chunk::Full(dense) => size_of_val::<Dense<_>>(dense),
            }
    }

    /// Appends the chunk: a tag; then for a list (0) the number of entries and for each its slot as a byte and the
    /// position's `varint(zigzag(difference))` to the one before; for the others (1, 2, 3 for 16, 32, 64 bits) the base
    /// and 256 offsets of that width, little-endian, all ones where there is no entry.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Chunk::Sparse(list) => {
                out.push(0);
                out.push(list.len() as u8);
                let mut prev = 0u64;
                for &(slot, lsn) in list {
                    out.push(slot);
                    varint::put(out, varint::zigzag(lsn.wrapping_sub(prev).cast_signed()));
                    prev = lsn;
                }
            }
            Chunk::Narrow(dense) => {
                out.push(1);
                varint::put(out, dense.base);
                out.extend(dense.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
            }
            Chunk::Wide(dense) => {
                out.push(2);
                varint::put(out, dense.base);
                out.extend(dense.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
            }
            Chunk::Full(dense) => {
                out.push(3);
                varint::put(out, dense.base);
                out.extend(dense.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
            }
        }
    }

    /// Takes a chunk off the front of `input`; `None` when that is not what [`Chunk::encode`] writes.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Chunk> {
        Some(match input.split_off_first()? {
            0 => Chunk::decode_sparse(input)?,
            1 => Chunk::Narrow(Dense::decode(input, u16::from_le_bytes)?),
            2 => Chunk::Wide(Dense::decode(input, u32::from_le_bytes)?),
            3 => Chunk::Full(Dense::decode(input, u64::from_le_bytes)?),
            _ => return None,
        })
    }

    fn decode_sparse(input: &mut &[u8]) -> Option<Chunk> {
        let len = usize::from(*input.split_off_first()?);
        if len == 0 || len > SPARSE_MAX {
            return None;
        }
        let mut list: Vec<(u8, u64)> = Vec::with_capacity(len);
        let mut lsn = 0u64;
        for _ in 0..len {
            let slot = *input.split_off_first()?;
            lsn = lsn.wrapping_add(varint::unzigzag(varint::get(input)?).cast_unsigned());
            if lsn == ABSENT || list.last().is_some_and(|&(prev, _)| prev >= slot) {
                return None;
            }
            list.push((slot, lsn));
        }
        Some(Chunk::Sparse(list.into_boxed_slice()))
    }
}
