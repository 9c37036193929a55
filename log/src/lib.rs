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
//!
//! [`FileLog`] keeps it in a directory, on any [`Disk`]; [`MemLog`] in memory only. `docs/design/log-format.md` has the
//! format, [`inspect`] looks at a directory without opening it, [`sim`] is a disk to test with.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use longtail_log::{Body, Class, FileLog, Opened, Options, RecordParts, ShardLog, sim::SimDisk};
//! use longtail_model::{Durability, ShardId};
//!
//! let disk = Arc::new(SimDisk::new());
//! let Opened { mut log, checkpoint, mut replay } =
//!     FileLog::open(disk, Path::new("/data/0"), Options::new(ShardId(0)))?;
//! assert!(checkpoint.is_none() && replay.next_frame()?.is_none());
//!
//! let record = RecordParts { head: b"put", body: Body::Lent(b"hello"), retained: true };
//! let lsn = log.append(&[record], Class::Message)?;
//! if let Some(job) = log.next_write(true) {
//!     let done = job.run(); // On whichever thread.
//!     log.finish(done);
//! }
//! assert!(log.watermark(Durability::Sync) > lsn);
//! log.read(lsn, &mut |payload| assert_eq!(payload.to_vec(), b"puthello"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
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
mod pages;
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
    AppendError, Body, Class, Done, Health, Job, Outcome, PageError, PageId, Payload, ReadError,
    RecordParts, Scanned, ShardLog,
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
