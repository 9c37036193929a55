//! What can be set about one log.

use longtail_model::ShardId;

/// Settings of one log. The defaults are those of the product; tests make everything smaller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose log this is; a directory that belongs to another shard is refused.
    pub shard: ShardId,
    /// Largest size of a segment file in bytes, its header included. Frames that are larger get a segment of their
    /// own. At least 64 KiB.
    pub segment_bytes: u64,
    /// Largest frame in bytes, record headers included; larger ones are refused. At most 4 GiB - 64 KiB.
    pub max_frame_bytes: u64,
    /// Recent bytes kept in memory for reading, at least what waits to be written.
    pub tail_bytes: u64,
    /// Bytes waiting to be written from which the caller should hold publishers back, see
    /// [`crate::ShardLog::pending_limit`].
    pub pending_bytes: u64,
    /// Space kept allocated for settlements and checkpoints when the disk is full. Grows with the checkpoint.
    pub reserve_bytes: u64,
    /// Zeros written ahead when the first segment of a new directory is created, and the smallest step later.
    pub ahead_bytes: u64,
    /// Bytes appended after a checkpoint before the next one is wanted; more when checkpoints are large. A sixteenth of
    /// it is enough when the log has been opened since: that much would be replayed once more.
    pub checkpoint_bytes: u64,
    /// Size in bytes from which a page file takes no more pages. At most 1 GiB.
    pub page_file_bytes: u64,
    /// Fully dead segment files kept for reuse.
    pub recycled_segments: usize,
    /// Where segment nonces come from. Random by default; fixed in simulations.
    pub nonce_seed: u64,
}

impl Options {
    /// The defaults for one shard.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Options {
            shard,
            segment_bytes: 64 << 20,
            max_frame_bytes: (1 << 30) + (1 << 20),
            tail_bytes: 8 << 20,
            pending_bytes: 64 << 20,
            reserve_bytes: 1 << 20,
            ahead_bytes: 1 << 20,
            checkpoint_bytes: 64 << 20,
            page_file_bytes: 16 << 20,
            recycled_segments: 2,
            nonce_seed: RandomState::new().hash_one(std::process::id()),
        }
    }

    /// The same settings with everything that would break the arithmetic brought into its range.
    pub(crate) fn sane(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(64 << 10, 1 << 32) & !4095;
        self.max_frame_bytes = self.max_frame_bytes.clamp(4096, (1 << 32) - (64 << 10));
        self.page_file_bytes = self.page_file_bytes.min(1 << 30);
        self.ahead_bytes = self.ahead_bytes.clamp(4096, 1 << 30) & !4095;
        self
    }
}

/// A stream of nonces (splitmix64).
#[derive(Debug)]
pub(crate) struct Nonces(pub(crate) u64);

impl Nonces {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}
