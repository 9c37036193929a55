//! One shard's log: an append-only sequence of frames, each applied atomically.
//!
//! The log has no threads and takes no locks. Appending is a copy into memory; everything slow is handed out as a
//! [`Job`] that the caller runs wherever it likes and then gives back with [`ShardLog::finish`]. That keeps the whole
//! crate deterministic (a simulation runs the same code over a simulated disk) and lets the next batch fill while the
//! previous one is being made durable.
//!
//! ```text
//! append ──▶ tail (memory) ──next_write──▶ Job ──run──▶ disk ──finish──▶ watermark moves
//!                 │                                                          │
//!                 └── read (recent positions)          next_chore ──▶ Job: prepare, checkpoint, scan, rewrite, drop
//! ```

mod api;

pub use api::{AppendError, Class, Done, Health, Job, Outcome, ReadError, RecordParts, Scanned, ShardLog};
