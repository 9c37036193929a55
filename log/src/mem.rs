//! The log of a shard whose durability is `memory`: the same positions, no disk.
//!
//! Only retained records are kept, for nothing is ever replayed. They lie in blocks with a small index each; a block
//! without living records is freed, and one that is mostly dead is packed, together with its neighbour if both fit
//! into one.

use std::collections::BTreeMap;

use longtail_model::{Durability, Lsn};

use crate::api::{
    AppendError, Class, Done, Health, Job, Outcome, ReadError, RecordParts, ShardLog,
};
use crate::record;

const BLOCK: usize = 256 << 10;
/// The first block starts this small.
const FIRST: usize = 4 << 10;
/// Part of the limit that only control records may use: one in this many bytes.
const RESERVE: u64 = 16;
/// Set in an entry's offset once its record is retired.
const DEAD: u32 = 1 << 31;

/// Where a record lies: (position - block's base) / 8, and offset in the block's bytes.
type Entry = (u32, u32);

struct Block {
    data: Vec<u8>,
    entries: Vec<Entry>,
    live: u32,
    live_bytes: usize,
}

impl Block {
    fn with_capacity(bytes: usize) -> Self {
        Block {
            data: Vec::with_capacity(bytes),
            entries: Vec::new(),
            live: 0,
            live_bytes: 0,
        }
    }

    fn find(&self, base: u64, lsn: u64) -> Option<usize> {
        let key = u32::try_from((lsn - base) / 8).ok()?;
        let i = self.entries.binary_search_by_key(&key, |e| e.0).ok()?;
        (self.entries.get(i)?.1 & DEAD == 0 && lsn.is_multiple_of(8)).then_some(i)
    }

    fn payload(&self, i: usize) -> &[u8] {
        let start = self.entries.get(i).map_or(0, |e| e.1 & !DEAD) as usize;
        let end = self
            .entries
            .get(i + 1)
            .map_or(self.data.len(), |e| (e.1 & !DEAD) as usize);
        self.data.get(start..end).unwrap_or_default()
    }

    /// Takes a living record out of the count; false when there is none at this position.
    fn retire(&mut self, base: u64, lsn: u64) -> bool {
        let Some(i) = self.find(base, lsn) else {
            return false;
        };
        self.live_bytes -= self.payload(i).len();
        self.live -= 1;
        if let Some(entry) = self.entries.get_mut(i) {
            entry.1 |= DEAD;
        }
        true
    }

    /// Memory it takes.
    fn cost(&self) -> u64 {
        (self.data.capacity() + self.entries.capacity() * size_of::<Entry>()) as u64
    }

    /// Adds this block's living records, which follow everything in `to` whose base is `base`.
    fn pack_into(&self, own_base: u64, to: &mut Block, base: u64) {
        for (i, entry) in self.entries.iter().enumerate() {
            if entry.1 & DEAD == 0 {
                let payload = self.payload(i);
                let lsn = own_base + u64::from(entry.0) * 8;
                to.entries
                    .push((((lsn - base) / 8) as u32, to.data.len() as u32));
                to.data.extend_from_slice(payload);
                to.live += 1;
                to.live_bytes += payload.len();
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

    fn put(&mut self, lsn: u64, head: &[u8], body: &[u8]) {
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
        block
            .entries
            .push((((lsn - *base) / 8) as u32, block.data.len() as u32));
        block.data.extend_from_slice(head);
        block.data.extend_from_slice(body);
        block.live += 1;
        block.live_bytes += len;
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
            let span = record::span(parts.head.len() + parts.body.len());
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
            self.end += record::span(parts.head.len() + parts.body.len());
        }
        Ok(Lsn(start))
    }

    fn span(&self, payload: usize) -> u64 {
        record::span(payload)
    }

    fn read(&mut self, lsn: Lsn, with: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        let (base, block) = self.holder(lsn.0).ok_or(ReadError::Missing(lsn))?;
        let i = block.find(base, lsn.0).ok_or(ReadError::Missing(lsn))?;
        with(block.payload(i));
        Ok(())
    }

    fn retire(&mut self, lsn: Lsn) {
        if let Some((base, block)) = &mut self.newest
            && lsn.0 >= *base
        {
            if block.retire(*base, lsn.0) && block.live == 0 {
                // A queue that stays short uses one block for ever. Its base moves on to the next record.
                self.bytes -= block.cost();
                block.entries.clear();
                block.data.clear();
                block.data.shrink_to(BLOCK);
                self.bytes += block.cost();
                *base = self.end;
            }
        } else if let Some((base, block)) = self.blocks.range_mut(..=lsn.0).next_back() {
            let base = *base;
            if block.retire(base, lsn.0) {
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
