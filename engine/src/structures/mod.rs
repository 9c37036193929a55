//! The data structures a shard's state is built from.
//!
//! All of them are plain values: no I/O, no clock, no randomness, and nothing in their behaviour that depends on
//! addresses or hash seeds, so that two shards fed the same events hold the same state. Each can say how much heap it
//! uses (`heap_bytes`) and write itself into a checkpoint (`encode`, `decode`). Checkpoint bytes are little-endian and
//! mostly [`varint`]s; `decode` takes its own bytes off the front of the input, checks every invariant it relies on,
//! and never allocates more than a small multiple of the bytes it was given.

pub mod index;
pub mod interval;
pub mod ordered;
pub mod varint;
pub mod wheel;

pub use index::{Index, PagedIndex};
pub use interval::IntervalSet;
pub use ordered::OrderedSet;
pub use wheel::{TimerId, TimerWheel};

/// The bytes given to a `decode` are not what `encode` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corrupt {structure}: {what}")]
pub struct Corrupt {
    /// The structure that was being decoded.
    pub structure: &'static str,
    /// The rule that the bytes break.
    pub what: &'static str,
}

/// What the allocator adds to an allocation, in bytes, for estimates.
const ALLOCATION: usize = 8;

/// Estimate of what a `BTreeMap` of `len` entries takes: nodes are between half full and full.
const fn btree_bytes<K, V>(len: usize) -> usize {
    len * (size_of::<K>() + size_of::<V>()) * 3 / 2
}
