//! The outbox: bytes on their way to one peer.
//!
//! Small replies are copied together into one tail buffer; large bodies are queued as reference-counted [`Bytes`] and
//! leave with a vectored write. An empty outbox keeps no buffer, so that idle connections are cheap.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::{Buf, Bytes};

/// From this size on, [`Out::put_bytes`] queues a reference instead of copying.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;

/// First allocation of a tail: most replies of a tick fit.
const FIRST_CAPACITY: usize = 512;

/// A tail of this size is set aside and a new one begun, so that a long queue is never copied by growing.
const TAIL_MAX: usize = 64 * 1024;

/// Bytes on their way to one peer, in order.
#[derive(Debug, Default)]
pub struct Out {
    /// What lies before the tail, if there is more than that.
    sealed: Option<Box<Sealed>>,
    tail: Vec<u8>,
    /// How much of `tail` is already written.
    tail_start: usize,
    soft_limit: usize,
    wants_room: bool,
}

/// Pieces that are not appended to any more; never none.
#[derive(Debug, Default)]
struct Sealed {
    parts: VecDeque<Bytes>,
    len: usize,
}

impl Sealed {
    fn push(&mut self, part: Bytes) {
        self.len += part.len();
        self.parts.push_back(part);
    }

    /// Forgets the first `written` bytes; returns how many are left to forget behind them.
    fn advance(&mut self, mut written: usize) -> usize {
        while let Some(front) = self.parts.front_mut() {
            let step = front.len().min(written);
            written -= step;
            self.len -= step;
            if step < front.len() {
                front.advance(step);
                break;
            }
            self.parts.pop_front();
            if written == 0 {
                break;
            }
        }
        written
    }
}

impl Out {
    /// An empty outbox that calls itself over its soft limit above `soft_limit` bytes.
    #[must_use]
    pub const fn new(soft_limit: usize) -> Self {
        Out {
            sealed: None,
            tail: Vec::new(),
            tail_start: 0,
            soft_limit,
            wants_room: false,
        }
    }

    /// Appends a copy of `bytes`.
    pub fn put(&mut self, bytes: &[u8]) {
        self.make_room();
        self.tail.extend_from_slice(bytes);
    }

    /// Appends `bytes`, without copying them when there are [`SHARED_BYTES_MIN`] or more.
    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.put(&bytes);
        } else {
            self.seal();
            self.sealed.get_or_insert_default().push(bytes);
        }
    }

    /// The buffer whose end is the end of the outbox, for encoders that append to a vector. What is in it already must
    /// stay as it is.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        self.make_room();
        &mut self.tail
    }

    /// Bytes not yet written.
    #[must_use]
    pub fn len(&self) -> usize {
        let sealed = self.sealed.as_ref().map_or(0, |sealed| sealed.len);
        sealed + self.tail.len() - self.tail_start
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether more is queued than the soft limit: the edge reads nothing more from this peer until half of that is
    /// written, and a protocol that is about to produce much should stop too ([`crate::Then::Drain`]).
    #[must_use]
    pub fn is_over_soft_limit(&self) -> bool {
        self.len() > self.soft_limit
    }

    /// Whether so many bytes more leave it within its soft limit.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.len().saturating_add(bytes) <= self.soft_limit
    }

    /// Has [`crate::Protocol::has_room`] called once when the outbox is below half of its soft limit: when that is so again,
    /// or, if it is already, after the next flush and when other connections of the worker have had their turn.
    pub fn ask_for_room(&mut self) {
        self.wants_room = true;
    }

    /// Whether it was asked for; forgets it.
    pub(crate) fn take_wants_room(&mut self) -> bool {
        std::mem::take(&mut self.wants_room)
    }

    /// Fills `slices` with the front of the queue; returns how many are used.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let rest = &self.tail[self.tail_start..];
        let tail = Some(rest).filter(|rest| !rest.is_empty());
        let sealed = self.sealed.iter().flat_map(|sealed| &sealed.parts);
        let parts = sealed.map(|bytes| &bytes[..]).chain(tail);
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        used
    }

    /// The first contiguous piece.
    pub(crate) fn front(&self) -> &[u8] {
        let sealed = self.sealed.as_ref();
        sealed
            .and_then(|sealed| sealed.parts.front())
            .map_or(&self.tail[self.tail_start..], |bytes| &bytes[..])
    }

    /// Whether one plain write covers everything.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.sealed.is_none()
    }

    /// Forgets the first `written` bytes, which are out.
    pub(crate) fn advance(&mut self, mut written: usize) {
        if let Some(sealed) = &mut self.sealed {
            written = sealed.advance(written);
            if !sealed.parts.is_empty() {
                return;
            }
            self.sealed = None;
        }
        self.tail_start += written;
        debug_assert!(self.tail_start <= self.tail.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything and keeps no memory: the allocator has the buffer at hand for whoever writes next.
    pub(crate) fn clear(&mut self) {
        self.sealed = None;
        self.tail_start = 0;
        self.tail = Vec::new();
    }

    fn make_room(&mut self) {
        if self.tail.capacity() == 0 {
            self.tail.reserve(FIRST_CAPACITY);
        } else if self.tail.len() >= TAIL_MAX {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let start = std::mem::take(&mut self.tail_start);
        let mut sealed = Bytes::from(std::mem::take(&mut self.tail));
        sealed.advance(start);
        if !sealed.is_empty() {
            self.sealed.get_or_insert_default().push(sealed);
        }
    }
}

/// Never fails; for `write!`.
impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Put(usize),
        Share(usize),
        Tail(usize),
        Advance(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..3000_usize).prop_map(Op::Put),
            (0..3 * SHARED_BYTES_MIN).prop_map(Op::Share),
            (0..2 * TAIL_MAX).prop_map(Op::Tail),
            (0..3 * TAIL_MAX).prop_map(Op::Advance),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever is appended and written in whatever steps, the outbox is a queue of bytes.
        #[test]
        fn an_outbox_is_a_queue_of_bytes(ops in prop::collection::vec(op(), 1..40)) {
            let mut out = Out::new(0);
            let mut model: VecDeque<u8> = VecDeque::new();
            for (n, op) in ops.into_iter().enumerate() {
                let bytes = |length: usize| -> Vec<u8> { (0..length).map(|i| (i * 7 + n) as u8).collect() };
                match op {
                    Op::Put(length) => {
                        out.put(&bytes(length));
                        model.extend(bytes(length));
                    }
                    Op::Share(length) => {
                        out.put_bytes(Bytes::from(bytes(length)));
                        model.extend(bytes(length));
                    }
                    Op::Tail(length) => {
                        out.tail().extend(bytes(length));
                        model.extend(bytes(length));
                    }
                    Op::Advance(length) => {
                        let length = length.min(out.len());
                        out.advance(length);
                        model.drain(..length);
                    }
                }
                prop_assert_eq!(out.len(), model.len());
                let mut slices = [IoSlice::new(&[]); 128];
                let used = out.slices(&mut slices);
                let queued = slices[..used].iter().flat_map(|slice| slice.iter());
                prop_assert!(queued.eq(model.iter()));
                prop_assert_eq!(out.is_empty(), out.front().is_empty());
            }
        }
    }

    /// Takes everything out in steps of `step` bytes.
    fn drain(out: &mut Out, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let used = out.slices(&mut slices);
            let mut piece: Vec<u8> = slices[..used]
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            assert!(piece.starts_with(out.front()));
            piece.truncate(step);
            out.advance(piece.len());
            all.extend(piece);
        }
        all
    }

    #[test]
    fn order_holds_across_copies_and_references() {
        for step in [700, 4096, usize::MAX] {
            let mut out = Out::new(10);
            let body = Bytes::from(vec![b'x'; SHARED_BYTES_MIN]);
            out.put(b"head ");
            out.put_bytes(body.clone());
            out.put_bytes(Bytes::from_static(b" small "));
            out.tail().extend_from_slice(b"tail");
            write!(out, "{}", 7).unwrap();
            assert!(out.is_over_soft_limit());
            let expected = [b"head ".as_slice(), &body, b" small tail7"].concat();
            assert_eq!(out.len(), expected.len());
            assert_eq!(drain(&mut out, step), expected);
            assert_eq!((out.len(), out.is_contiguous()), (0, true));
        }
    }

    #[test]
    fn a_long_queue_is_cut_into_pieces_and_an_empty_one_keeps_nothing() {
        let mut out = Out::new(0);
        let mut expected = Vec::new();
        for n in 0..40_000_u32 {
            let line = format!("line {n}\n");
            out.put(line.as_bytes());
            expected.extend_from_slice(line.as_bytes());
            if n == 20_000 {
                out.advance(1000);
                expected.drain(..1000);
            }
        }
        assert!(!out.is_contiguous());
        assert_eq!(drain(&mut out, 100_000), expected);
        assert_eq!((out.tail.capacity(), out.sealed.is_none()), (0, true));
    }
}
