//! A chunk at rest: entries as differences, one to a few bytes each.
//!
//! The first entry is `varint(key) varint(seq)`. Each later one is `varint(seq difference)` when it has the key of the
//! one before, or `0 varint(key difference) varint(zigzag(seq difference))`: a difference of 0 cannot occur, the
//! entries being distinct.

use super::super::varint;
use super::Pair;

/// Entries in ascending order; never empty.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    last: Pair,
    len: u16,
    /// Insertions and removals since this was packed.
    changes: u16,
    bytes: Box<[u8]>,
}

impl Packed {
    /// Packs `entries`: ascending, at least one, at most `u16::MAX`.
    pub(super) fn new(entries: impl ExactSizeIterator<Item = Pair>) -> Packed {
        // Room for the common case of two bytes an entry; the boxed slice gives back what is left over.
        let mut bytes = Vec::with_capacity(2 * entries.len() + varint::MAX_LEN);
        let len = entries.len() as u16;
        let mut prev = None;
        for entry in entries {
            put_entry(&mut bytes, prev, entry);
            prev = Some(entry);
        }
        Packed {
            last: prev.unwrap_or_default(),
            len,
            changes: 0,
            bytes: bytes.into_boxed_slice(),
        }
    }

    /// Checks `bytes`, which must hold `len` entries. `None` when they do not.
    pub(super) fn check(bytes: &[u8], len: u16) -> Option<(Pair, Packed)> {
        let mut input = bytes;
        let first = take_first(&mut input)?;
        let mut last = first;
        for _ in 1..len {
            last = take_next(&mut input, last)?;
        }
        input.is_empty().then(|| {
            (
                first,
                Packed {
                    last,
                    len,
                    changes: 0,
                    bytes: bytes.into(),
                },
            )
        })
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn last(&self) -> Pair {
        self.last
    }

    /// Insertions and removals since the chunk was packed.
    pub(super) fn changes(&self) -> u16 {
        self.changes
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        Iter {
            input: &self.bytes,
            prev: None,
        }
    }

    pub(super) fn contains(&self, entry: Pair) -> bool {
        self.around(entry).2 == Some(entry)
    }

    /// Adds an entry where it belongs; `false` when it is there already.
    pub(super) fn insert(&mut self, entry: Pair) -> bool {
        let (before, from, after, to) = self.around(entry);
        if after == Some(entry) {
            return false;
        }
        self.splice(from, to, before, &[Some(entry), after]);
        self.last = self.last.max(entry);
        self.len += 1;
        self.changes += 1;
        true
    }

    /// Takes an entry out; `false` when it is not there. The last entry of a chunk must not be removed: drop the chunk.
    pub(super) fn remove(&mut self, entry: Pair) -> bool {
        let (before, from, found, mut to) = self.around(entry);
        if found != Some(entry) {
            return false;
        }
        let mut rest = Iter {
            input: &self.bytes[to..],
            prev: found,
        };
        let after = rest.next();
        to = self.bytes.len() - rest.input.len();
        self.splice(from, to, before, &[after]);
        if after.is_none() {
            self.last = before.unwrap_or_default();
        }
        self.len -= 1;
        self.changes += 1;
        true
    }

    /// The neighbours of `entry`: the one before it with the offset where that one's bytes end, and the first that is
    /// not below `entry`, with the offset where its bytes end.
    fn around(&self, entry: Pair) -> (Option<Pair>, usize, Option<Pair>, usize) {
        let end = self.bytes.len();
        if entry > self.last {
            return (Some(self.last), end, None, end);
        }
        let mut input = &self.bytes[..];
        let (mut before, mut from) = (None, 0);
        let mut current = take_first(&mut input);
        while let Some(low) = current.filter(|&current| current < entry) {
            before = current;
            from = end - input.len();
            current = take_next(&mut input, low);
        }
        (before, from, current, end - input.len())
    }

    /// Replaces the bytes `from..to`, which follow the entry `before`, by `entries`.
    fn splice(&mut self, from: usize, to: usize, before: Option<Pair>, entries: &[Option<Pair>]) {
        let (mut prev, mut size) = (before, 0);
        for &entry in entries.iter().flatten() {
            size += entry_len(prev, entry);
            prev = Some(entry);
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() - (to - from) + size);
        bytes.extend_from_slice(&self.bytes[..from]);
        prev = before;
        for &entry in entries.iter().flatten() {
            put_entry(&mut bytes, prev, entry);
            prev = Some(entry);
        }
        bytes.extend_from_slice(&self.bytes[to..]);
        self.bytes = bytes.into_boxed_slice();
    }
}

/// The entries of a [`Packed`].
#[derive(Clone, Debug)]
pub(super) struct Iter<'a> {
    input: &'a [u8],
    prev: Option<Pair>,
}

impl Iterator for Iter<'_> {
    type Item = Pair;

    #[inline]
    fn next(&mut self) -> Option<Pair> {
        if self.input.is_empty() {
            return None;
        }
        let entry = match self.prev {
            Some(prev) => take_next(&mut self.input, prev),
            None => take_first(&mut self.input),
        };
        self.prev = entry;
        entry
    }
}

#[inline]
fn put_entry(out: &mut Vec<u8>, prev: Option<Pair>, (key, seq): Pair) {
    match prev {
        None => {
            varint::put(out, key);
            varint::put(out, seq);
        }
        Some((prev_key, prev_seq)) if prev_key == key => varint::put(out, seq - prev_seq),
        Some((prev_key, prev_seq)) => {
            out.push(0);
            varint::put(out, key - prev_key);
            varint::put(
                out,
                varint::zigzag(seq.wrapping_sub(prev_seq).cast_signed()),
            );
        }
    }
}

fn entry_len(prev: Option<Pair>, (key, seq): Pair) -> usize {
    match prev {
        None => varint::len(key) + varint::len(seq),
        Some((prev_key, prev_seq)) if prev_key == key => varint::len(seq - prev_seq),
        Some((prev_key, prev_seq)) => {
            1 + varint::len(key - prev_key)
                + varint::len(varint::zigzag(seq.wrapping_sub(prev_seq).cast_signed()))
        }
    }
}

fn take_first(input: &mut &[u8]) -> Option<Pair> {
    Some((varint::get(input)?, varint::get(input)?))
}

#[inline]
fn take_next(input: &mut &[u8], (key, seq): Pair) -> Option<Pair> {
    let difference = varint::get(input)?;
    if difference != 0 {
        return Some((key, seq.checked_add(difference)?));
    }
    let key_difference = varint::get(input)?;
    let seq_difference = varint::unzigzag(varint::get(input)?);
    if key_difference == 0 {
        return None;
    }
    Some((
        key.checked_add(key_difference)?,
        seq.wrapping_add(seq_difference.cast_unsigned()),
    ))
}
