//! The most recent part of the log in memory: what waits to be written, and what was written lately.
//!
//! Blocks hold the bytes exactly as they are (or will be) on disk, contiguous by position; a record lies wholly inside
//! one block. Old blocks are dropped, or used again, once they are written and the limit is reached.

use std::collections::VecDeque;

use crate::record::{self, HEADER, Header};

const BLOCK: usize = 256 << 10;
/// The first block starts this small, so that an idle log costs next to nothing.
const FIRST: usize = 4 << 10;
/// Emptied blocks kept for the next ones.
const SPARE: usize = 2;

struct Block {
    base: u64,
    data: Vec<u8>,
    /// A record that does not fit starts the next block.
    capacity: usize,
}

impl Block {
    fn end(&self) -> u64 {
        self.base + self.data.len() as u64
    }
}

/// Recent bytes by position.
pub(crate) struct Tail {
    blocks: VecDeque<Block>,
    spare: Vec<Vec<u8>>,
    /// Where the next record goes.
    end: u64,
    /// Bytes in the blocks before the newest one.
    older: u64,
    limit: u64,
}

impl Tail {
    pub(crate) fn new(start: u64, limit: u64) -> Self {
        Tail {
            blocks: VecDeque::new(),
            spare: Vec::new(),
            end: start,
            older: 0,
            limit,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The first position held.
    pub(crate) fn start(&self) -> u64 {
        self.blocks.front().map_or(self.end, |block| block.base)
    }

    /// Adds one record. `written` bounds what may be dropped to make room.
    #[inline]
    pub(crate) fn push(&mut self, seed: u32, flags: u64, head: &[u8], body: &[u8], written: u64) {
        let span = record::span(head.len() + body.len());
        let fits = self
            .blocks
            .back()
            .is_some_and(|block| block.data.len() + span as usize <= block.capacity);
        if !fits {
            self.open_block(span as usize, written);
        }
        if let Some(block) = self.blocks.back_mut() {
            record::encode(&mut block.data, seed, self.end, flags, head, body);
            self.end += span;
        }
    }

    #[cold]
    fn open_block(&mut self, span: usize, written: u64) {
        if let Some(last) = self.blocks.back() {
            self.older += last.data.len() as u64;
        }
        self.evict(written);
        let data = if span > BLOCK {
            Vec::with_capacity(span)
        } else if let Some(used) = self.spare.pop() {
            used
        } else if self.end == self.start() {
            Vec::with_capacity(FIRST.max(span))
        } else {
            Vec::with_capacity(BLOCK)
        };
        self.blocks.push_back(Block {
            base: self.end,
            data,
            capacity: span.max(BLOCK),
        });
    }

    /// Drops the oldest blocks beyond the limit, as far as they are written.
    pub(crate) fn evict(&mut self, written: u64) {
        while self.older > self.limit {
            match self.blocks.front() {
                Some(block) if block.end() <= written && block.end() < self.end => {}
                _ => return,
            }
            if let Some(block) = self.blocks.pop_front() {
                self.older -= block.data.len() as u64;
                if block.capacity == BLOCK && self.spare.len() < SPARE {
                    let mut data = block.data;
                    data.clear();
                    self.spare.push(data);
                }
            }
        }
    }

    fn block(&self, lsn: u64) -> Option<&Block> {
        let i = self
            .blocks
            .partition_point(|block| block.base <= lsn)
            .checked_sub(1)?;
        self.blocks.get(i)
    }

    /// The payload of the record at `lsn`; `None` when no record of the owner starts there.
    pub(crate) fn payload(&self, lsn: u64) -> Option<&[u8]> {
        let block = self.block(lsn)?;
        let bytes = block.data.get(usize::try_from(lsn - block.base).ok()?..)?;
        let header = Header::read(bytes)?;
        if header.lsn != lsn || header.has(record::MARK) {
            return None;
        }
        bytes.get(HEADER..HEADER + header.len as usize)
    }

    /// The record at `lsn`, the log's own included: whether the owner holds its position, and its payload.
    pub(crate) fn record(&self, lsn: u64) -> Option<(bool, &[u8])> {
        let block = self.block(lsn)?;
        let bytes = block.data.get(usize::try_from(lsn - block.base).ok()?..)?;
        let header = Header::read(bytes)?;
        let payload = bytes.get(HEADER..HEADER + header.len as usize)?;
        (header.lsn == lsn).then_some((header.has(record::RETAINED), payload))
    }

    /// Copies the bytes of positions `from..to`, all of which must be held.
    pub(crate) fn copy(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        let first = self
            .blocks
            .partition_point(|block| block.base <= from)
            .saturating_sub(1);
        let mut at = from;
        for block in self.blocks.range(first..) {
            if at >= to {
                break;
            }
            let start = (at - block.base) as usize;
            let stop = ((to - block.base) as usize).min(block.data.len());
            out.extend_from_slice(block.data.get(start..stop).unwrap_or_default());
            at = block.base + stop as u64;
        }
        debug_assert_eq!(at, to, "unwritten bytes are never dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_stay_until_they_are_written_and_the_limit_is_passed() {
        let mut tail = Tail::new(800, 1 << 20);
        let body = vec![7u8; 1000];
        let mut lsns = Vec::new();
        for _ in 0..4000 {
            lsns.push(tail.end());
            tail.push(1, 0, b"head", &body, 0);
        }
        assert_eq!(tail.start(), 800, "nothing is written yet");
        for lsn in &lsns {
            assert_eq!(tail.payload(*lsn).unwrap().len(), 1004);
        }
        tail.evict(tail.end());
        assert!(tail.start() > 800);
        assert!(tail.end() - tail.start() <= (1 << 20) + 2 * BLOCK as u64);
        assert_eq!(tail.payload(800), None);
        let mut all = Vec::new();
        tail.copy(tail.start(), tail.end(), &mut all);
        assert_eq!(all.len() as u64, tail.end() - tail.start());
        let mut some = Vec::new();
        let (from, to) = (tail.start() + 300_000, tail.end() - 8);
        tail.copy(from, to, &mut some);
        assert_eq!(some, all[300_000..all.len() - 8]);
    }

    #[test]
    fn a_large_record_gets_a_block_of_its_own() {
        let mut tail = Tail::new(0, 1 << 20);
        tail.push(1, 0, b"", &[1; 10], 0);
        let big = tail.end();
        tail.push(1, 0, b"", &vec![2; 3 * BLOCK], 0);
        let after = tail.end();
        tail.push(1, 0, b"", &[3; 10], 0);
        assert_eq!(tail.payload(0), Some(&[1u8; 10][..]));
        assert_eq!(tail.payload(big).map(<[u8]>::len), Some(3 * BLOCK));
        assert_eq!(tail.payload(after), Some(&[3u8; 10][..]));
        assert_eq!(tail.payload(big + 8), None);
    }
}
