//! What is left of messages that were removed many at a time: index entries whose records and pages are yet to be given
//! back to the log.
//!
//! Deleting or purging a stream is one event, and the messages are gone with it. To give back a hundred million records
//! takes seconds and, as a list, gigabytes; so the part of the index that had them is moved here as it is, which takes
//! no time, and [`Shard::clear_some`] goes through it in steps between the batches of the shard. What lies here belongs
//! to no stream: nothing of the state depends on how far that has come, but for the log's own accounts, so the log is
//! not told. A checkpoint has what is left.

use std::collections::VecDeque;

use hashbrown::HashMap;
use longtail_model::{IndexId, StreamId};

use super::{RecoverError, Shard};
use crate::event::get;
use crate::stream::FixedHash;
use crate::structures::index::PagedIndex;
use crate::structures::varint;

/// A part of an index that nothing refers to any more.
struct Part {
    /// The stream that had it.
    stream: StreamId,
    /// Whether the records are in the durable log.
    durable: bool,
    index: PagedIndex,
}

/// What is to be cleared, oldest first.
#[derive(Default)]
pub(crate) struct Remains {
    parts: VecDeque<Part>,
    /// How many of the parts were a stream's.
    streams: HashMap<StreamId, u32, FixedHash>,
}

impl Remains {
    /// Whether a stream had some of it.
    pub(crate) fn are_of(&self, stream: StreamId) -> bool {
        !self.streams.is_empty() && self.streams.contains_key(&stream)
    }

    fn push(&mut self, part: Part) {
        *self.streams.entry(part.stream).or_default() += 1;
        self.parts.push_back(part);
    }

    fn pop(&mut self) {
        let Some(part) = self.parts.pop_front() else {
            return;
        };
        if let Some(parts) = self.streams.get_mut(&part.stream) {
            *parts -= 1;
            if *parts == 0 {
                self.streams.remove(&part.stream);
            }
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let parts = self.parts.iter();
        parts.map(|part| part.index.heap_bytes()).sum()
    }

    /// Appends the number of parts, then for each its stream and what [`PagedIndex::encode`] writes; nothing at all when
    /// there is none. What is in memory only is left out.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let durable = || self.parts.iter().filter(|part| part.durable);
        let count = durable().count();
        if count == 0 {
            return;
        }
        varint::put(out, count as u64);
        for part in durable() {
            varint::put(out, part.stream.0);
            part.index.encode(out);
        }
    }

    /// Takes what [`Remains::encode`] wrote off the front of `input`.
    pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, RecoverError> {
        let mut remains = Remains::default();
        if input.is_empty() {
            return Ok(remains);
        }
        for _ in 0..get(input)? {
            remains.push(Part {
                stream: StreamId(get(input)?),
                durable: true,
                index: PagedIndex::decode(input)?,
            });
        }
        Ok(remains)
    }
}

impl Shard {
    /// Whether an index has more entries than are given back in one step.
    pub(crate) fn is_long(&self, id: IndexId) -> bool {
        let index = self.indexes.get(&id);
        index.is_some_and(|index| index.len() > self.config.clear_step)
    }

    /// Leaves a part of an index to be cleared. The caller has taken its bytes out of [`Shard::resident`].
    pub(crate) fn leave(&mut self, stream: StreamId, durable: bool, index: PagedIndex) {
        if !index.is_empty() {
            let part = Part {
                stream,
                durable,
                index,
            };
            self.remains.push(part);
        }
    }

    /// Whether [`Shard::clear_some`] has something to do.
    #[must_use]
    pub fn has_remains(&self) -> bool {
        !self.remains.parts.is_empty()
    }

    /// Gives back the records of some removed messages, at most as many as an index page has, and the page if they lay
    /// in one. To be called between batches, as often as [`Shard::has_remains`] asks for it; what is given back is among
    /// [`Shard::take_retired`].
    pub fn clear_some(&mut self) {
        let Some(part) = self.remains.parts.front_mut() else {
            return;
        };
        // What is in a page that cannot be read the log finds out when it looks at its segments.
        let taken = part.index.take_some(&self.logs);
        if part.index.is_empty() {
            self.remains.pop();
        }
        let Some(taken) = taken else {
            return;
        };
        for position in taken.lsns {
            self.retire(position);
        }
        if let Some(page) = taken.freed {
            self.free_page(page);
        }
    }
}
