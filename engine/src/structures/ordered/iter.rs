//! Walking the chunks, and the entries in them, in order.

use std::collections::{VecDeque, btree_map, vec_deque};
use std::iter::Peekable;
use std::slice;

use super::Pair;
use super::packed::{self, Packed};
use super::rest::Open;

/// Walks the chunks in order, and their entries.
#[derive(Default)]
pub(super) struct Iter<'a> {
    run: Run<'a>,
    open: slice::Iter<'a, Open>,
    packed: Option<Peekable<btree_map::Range<'a, Pair, Packed>>>,
}

#[derive(Default)]
enum Run<'a> {
    #[default]
    None,
    Open(vec_deque::Iter<'a, Pair>),
    Packed(packed::Iter<'a>),
}

pub(super) enum Chunk<'a> {
    Open(&'a VecDeque<Pair>),
    Packed(&'a Packed),
}

impl<'a> Iter<'a> {
    pub(super) fn new(open: &'a [Open], packed: btree_map::Range<'a, Pair, Packed>) -> Iter<'a> {
        Iter {
            run: Run::None,
            open: open.iter(),
            packed: Some(packed.peekable()),
        }
    }

    /// This walk with the entries of `run` before it.
    pub(super) fn after(mut self, run: vec_deque::Iter<'a, Pair>) -> Iter<'a> {
        self.run = Run::Open(run);
        self
    }

    /// The next chunk as a whole; the entries of the one under way are not touched.
    pub(super) fn next_chunk(&mut self) -> Option<Chunk<'a>> {
        let packed = self.packed.as_mut()?;
        match (self.open.as_slice().first(), packed.peek()) {
            (Some(open), next) if next.is_none_or(|&(&lo, _)| open.lo < lo) => {
                self.open.next();
                Some(Chunk::Open(&open.entries))
            }
            _ => packed.next().map(|(_, chunk)| Chunk::Packed(chunk)),
        }
    }
}

impl Iterator for Iter<'_> {
    type Item = Pair;

    #[inline]
    fn next(&mut self) -> Option<Pair> {
        loop {
            let next = match &mut self.run {
                Run::None => None,
                Run::Open(run) => run.next().copied(),
                Run::Packed(run) => run.next(),
            };
            if next.is_some() {
                return next;
            }
            self.run = match self.next_chunk()? {
                Chunk::Open(entries) => Run::Open(entries.iter()),
                Chunk::Packed(chunk) => Run::Packed(chunk.iter()),
            };
        }
    }
}
