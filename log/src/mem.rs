//! The log of a shard whose durability is `memory`: the same positions, no disk.
//!
//! Only retained records are kept, for nothing is ever replayed. They lie in blocks with a small index each; a block
//! without living records is freed, and one that is mostly dead is packed, together with its neighbour if both fit
//! into one. A large body stays where it is and is referred to: whoever sends it can refer to it too.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use longtail_model::{Durability, Lsn};

use crate::api::{
    AppendError, Body, Class, Done, Health, Job, Outcome, Payload, ReadError, RecordParts, ShardLog,
};
use crate::record;

const BLOCK: usize = 256 << 10;
/// The first block starts this small.
const FIRST: usize = 4 << 10;
/// Part of the limit that only control records may use: one in this many bytes.
const RESERVE: u64 = 16;
/// A shared body of so many bytes is referred to.
const APART_MIN: usize = 16 << 10;
/// Set in an entry's offset once its record is retired.
const DEAD: u32 = 1 << 31;
/// Set in an entry's offset if the record's body lies apart.
const APART: u32 = 1 << 30;

/// Where a record lies: (position - block's base) / 8, and offset in the block's bytes.
type Entry = (u32, u32);

fn offset(entry: &Entry) -> usize {
    (entry.1 & !(DEAD | APART)) as usize
}

struct Block {
    data: Vec<u8>,
    entries: Vec<Entry>,
    live: u32,
    live_bytes: usize,
    /// Bodies that lie apart, by the first half of their entry, in order; emptied when their record is retired.
    apart: Vec<(u32, Bytes)>,
    /// What those that are not emptied take.
    apart_bytes: usize,
}

impl Block {
    fn with_capacity(bytes: usize) -> Self {
        Block {
            data: Vec::with_capacity(bytes),
            entries: Vec::new(),
            live: 0,
            live_bytes: 0,
            apart: Vec::new(),
            apart_bytes: 0,
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.data.clear();
        self.apart.clear();
    }

    /// Adds a living record: `head` and `body`, or `head` here and the rest apart.
    #[inline]
    fn push(&mut self, key: u32, head: &[u8], body: &[u8], apart: Option<Bytes>) {
        let start = self.data.len();
        self.data.extend_from_slice(head);
        self.data.extend_from_slice(body);
        let mut place = start as u32;
        self.live += 1;
        self.live_bytes += head.len() + body.len();
        if let Some(body) = apart {
            place |= APART;
            self.apart_bytes += body.len();
            self.apart.push((key, body));
        }
        self.entries.push((key, place));
    }

    fn find(&self, base: u64, lsn: u64) -> Option<usize> {
        let key = u32::try_from((lsn - base) / 8).ok()?;
        let i = self.entries.binary_search_by_key(&key, |e| e.0).ok()?;
        (self.entries.get(i)?.1 & DEAD == 0 && lsn.is_multiple_of(8)).then_some(i)
    }

    /// Where the part of entry `i` that lies here ends.
    fn end_of(&self, i: usize) -> usize {
        self.entries.get(i + 1).map_or(self.data.len(), offset)
    }

    #[inline]
    fn payload(&self, i: usize) -> Payload<'_> {
        let Some(entry) = self.entries.get(i) else {
            return Payload::whole(&[]);
        };
        let front = self.data.get(offset(entry)..self.end_of(i));
        let body = if entry.1 & APART == 0 {
            None
        } else {
            self.apart_of(entry.0)
        };
        Payload {
            front: front.unwrap_or_default(),
            body,
        }
    }

    #[cold]
    fn apart_of(&self, key: u32) -> Option<&Bytes> {
        let (_, body) = self.apart.get(self.find_apart(key)?)?;
        Some(body)
    }

    fn find_apart(&self, key: u32) -> Option<usize> {
        self.apart.binary_search_by_key(&key, |e| e.0).ok()
    }

    /// Takes a living record out of the count. The answer is what that gives back at once, in bytes; `None` when there
    /// is none at this position.
    #[inline]
    fn retire(&mut self, base: u64, lsn: u64) -> Option<u64> {
        let i = self.find(base, lsn)?;
        let end = self.end_of(i);
        let entry = self.entries.get_mut(i)?;
        let key = entry.0;
        let is_apart = entry.1 & APART != 0;
        self.live_bytes -= end - offset(entry);
        self.live -= 1;
        entry.1 |= DEAD;
        Some(if is_apart { self.drop_apart(key) } else { 0 })
    }

    #[cold]
    fn drop_apart(&mut self, key: u32) -> u64 {
        let at = self.find_apart(key);
        let Some((_, body)) = at.and_then(|at| self.apart.get_mut(at)) else {
            return 0;
        };
        let bytes = std::mem::take(body).len();
        self.apart_bytes -= bytes;
        bytes as u64
    }

    /// Memory it takes.
    fn cost(&self) -> u64 {
        let index = self.entries.capacity() * size_of::<Entry>()
            + self.apart.capacity() * size_of::<(u32, Bytes)>();
        (self.data.capacity() + index + self.apart_bytes) as u64
    }

    /// Adds this block's living records, which follow everything in `to` whose base is `base`.
    fn pack_into(&self, own_base: u64, to: &mut Block, base: u64) {
        for (i, entry) in self.entries.iter().enumerate() {
            if entry.1 & DEAD == 0 {
                let payload = self.payload(i);
                let lsn = own_base + u64::from(entry.0) * 8;
                let key = ((lsn - base) / 8) as u32;
                to.push(key, payload.front, &[], payload.body.cloned());
            }
        }
    }
}

/// A log in memory, bounded, gone with the process.
pub struct MemLog {
    /// By the position of their first record.
    blocks: BTreeMap<u64, Block>,
    /// The block being filled, which follows them, and its base.
    newest: Option<(u64, Block)>,
    end: u64,
    bytes: u64,
    limit: u64,
    max_frame: u64,
    full: bool,
}

impl MemLog {
    /// A log that holds records worth about `limit` bytes and takes frames of up to `max_frame` bytes (at most 1 GiB).
    #[must_use]
    pub fn new(limit: u64, max_frame: u64) -> Self {
        MemLog {
            blocks: BTreeMap::new(),
            newest: None,
            end: 0,
            bytes: 0,
            limit,
            max_frame: max_frame.min(1 << 30),
            full: false,
        }
    }

    /// Memory that the records take, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.bytes
    }

    fn why(&self) -> String {
        format!("the memory limit of {} bytes is reached", self.limit)
    }

    fn put(&mut self, lsn: u64, head: &[u8], body: Body<'_>) {
        let (body, apart): (&[u8], _) = match body {
            Body::Shared(body) if body.len() >= APART_MIN => (&[], Some(body.clone())),
            Body::Shared(body) => (body, None),
            Body::Lent(body) => (body, None),
        };
        let len = head.len() + body.len();
        let fits = self.newest.as_ref().is_some_and(|(base, block)| {
            block.data.len() + len <= BLOCK && (lsn - base) / 8 <= u64::from(u32::MAX)
        });
        if !fits {
            self.close_newest();
            let capacity = if self.blocks.is_empty() { FIRST } else { BLOCK };
            let block = Block::with_capacity(if len > BLOCK { len } else { capacity.max(len) });
            self.bytes += block.cost();
            self.newest = Some((lsn, block));
        }
        let Some((base, block)) = &mut self.newest else {
            return;
        };
        let before = block.cost();
        block.push(((lsn - *base) / 8) as u32, head, body, apart);
        self.bytes = self.bytes - before + block.cost();
    }

    /// Puts the newest block among the others, without the space that it did not use.
    fn close_newest(&mut self) {
        let Some((base, mut block)) = self.newest.take() else {
            return;
        };
        self.bytes -= block.cost();
        if block.data.capacity() - block.data.len() > BLOCK / 64 {
            block.data.shrink_to_fit();
        }
        block.entries.shrink_to_fit();
        block.apart.shrink_to_fit();
        self.bytes += block.cost();
        self.blocks.insert(base, block);
        self.tidy(base);
    }

    /// Frees, packs or merges the block at `base` if it has become sparse.
    fn tidy(&mut self, base: u64) {
        let Some(block) = self.blocks.get(&base) else {
            return;
        };
        if block.live == 0 {
            self.bytes -= block.cost();
            self.blocks.remove(&base);
            return;
        }
        if block.live_bytes * 2 >= block.data.len()
            && block.live as usize * 2 >= block.entries.len()
        {
            return;
        }
        let (live, live_bytes) = (block.live as usize, block.live_bytes);
        let last = u64::from(block.entries.last().map_or(0, |entry| entry.0));
        // The block before takes the survivors if they fit, which keeps the number of blocks down.
        let before = self
            .blocks
            .range(..base)
            .next_back()
            .filter(|(at, before)| {
                (before.live_bytes + live_bytes) * 2 <= BLOCK
                    && (base - **at) / 8 + last <= u64::from(u32::MAX)
            });
        let (target, mut packed) = match before {
            Some((at, before)) => {
                let mut packed = Block::with_capacity(before.live_bytes + live_bytes);
                packed.entries.reserve_exact(before.live as usize + live);
                before.pack_into(*at, &mut packed, *at);
                (*at, packed)
            }
            None => {
                let mut packed = Block::with_capacity(live_bytes);
                packed.entries.reserve_exact(live);
                (base, packed)
            }
        };
        if let Some(block) = self.blocks.remove(&base) {
            self.bytes -= block.cost();
            block.pack_into(base, &mut packed, target);
        }
        self.bytes += packed.cost();
        if let Some(old) = self.blocks.insert(target, packed) {
            self.bytes -= old.cost();
        }
    }

    fn holder(&self, lsn: u64) -> Option<(u64, &Block)> {
        match &self.newest {
            Some((base, block)) if lsn >= *base => Some((*base, block)),
            _ => {
                let (base, block) = self.blocks.range(..=lsn).next_back()?;
                Some((*base, block))
            }
        }
    }
}

impl ShardLog for MemLog {
    fn end(&self) -> Lsn {
        Lsn(self.end)
    }

    fn watermark(&self, _: Durability) -> Lsn {
        Lsn(self.end)
    }

    fn health(&self) -> Health {
        if self.full {
            Health::Full { why: self.why() }
        } else {
            Health::Good
        }
    }

    fn append(&mut self, frame: &[RecordParts<'_>], class: Class) -> Result<Lsn, AppendError> {
        let (mut size, mut kept) = (0, 0);
        for parts in frame {
            let span = record::span(parts.len());
            size += span;
            kept += if parts.retained { span } else { 0 };
        }
        if size > self.max_frame {
            return Err(AppendError::TooLarge {
                bytes: size,
                limit: self.max_frame,
            });
        }
        let limit = match class {
            Class::Message => self.limit - self.limit / RESERVE,
            Class::Control => self.limit,
        };
        // What keeps nothing costs nothing.
        self.full = kept > 0 && self.bytes + kept > limit;
        if self.full {
            return Err(AppendError::Full { why: self.why() });
        }
        let start = self.end;
        for parts in frame {
            if parts.retained {
                self.put(self.end, parts.head, parts.body);
            }
            self.end += record::span(parts.len());
        }
        Ok(Lsn(start))
    }

    fn span(&self, payload: usize) -> u64 {
        record::span(payload)
    }

    fn read(&mut self, lsn: Lsn, with: &mut dyn FnMut(Payload<'_>)) -> Result<(), ReadError> {
        let (base, block) = self.holder(lsn.0).ok_or(ReadError::Missing(lsn))?;
        let i = block.find(base, lsn.0).ok_or(ReadError::Missing(lsn))?;
        with(block.payload(i));
        Ok(())
    }

    fn retire(&mut self, lsn: Lsn) {
        if let Some((base, block)) = &mut self.newest
            && lsn.0 >= *base
        {
            if let Some(freed) = block.retire(*base, lsn.0) {
                self.bytes -= freed;
                if block.live == 0 {
                    // A queue that stays short uses one block for ever. Its base moves on to the next record.
                    self.bytes -= block.cost();
                    block.clear();
                    block.data.shrink_to(BLOCK);
                    self.bytes += block.cost();
                    *base = self.end;
                }
            }
        } else if let Some((base, block)) = self.blocks.range_mut(..=lsn.0).next_back() {
            let base = *base;
            if let Some(freed) = block.retire(base, lsn.0) {
                self.bytes -= freed;
                self.tidy(base);
            }
        }
        self.full &= self.bytes > self.limit - self.limit / RESERVE;
    }

    fn next_write(&mut self, _: bool) -> Option<Job> {
        None
    }

    fn next_sync(&mut self) -> Option<Job> {
        None
    }

    fn next_chore(&mut self) -> Option<Job> {
        None
    }

    fn finish(&mut self, _: Done) -> Outcome {
        panic!("a log in memory hands out no jobs");
    }

    fn rewrite(&mut self, _: Lsn, _: Vec<Lsn>) {}

    /// Never: there is nothing to restart from.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// Nothing to do: the state is gone with the process as the log is.
    fn checkpoint(&mut self, _: Vec<u8>) {}
}
