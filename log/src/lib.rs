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
mod checkpoint;
mod cold;
mod disk;
mod error;
mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod inspect;
mod mem;
mod open;
mod options;
mod record;
mod replay;
mod scan;
mod segment;
mod stamp;
mod tail;

/// A simulated disk, for tests of the log and of everything above it.
pub mod sim {
    pub use crate::disk::{Failure, Operation, SimDisk};
}

pub use api::{
    AppendError, Class, Done, Health, Job, Outcome, ReadError, RecordParts, Scanned, ShardLog,
};
pub use disk::{Disk, File, FsDisk, Lock, LockError};
pub use error::{Damage, OpenError};
pub use file::FileLog;
pub use mem::MemLog;
pub use open::Opened;
pub use options::Options;
pub use record::{Record, Records};
pub use replay::Replay;
pub use scan::Frame;
