//! Why a log cannot be opened.

use std::io;
use std::path::PathBuf;

use longtail_model::{Lsn, ShardId};

/// Where a log is damaged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Byte offset in it.
    pub offset: u64,
    /// The position that should be there.
    pub lsn: Lsn,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage {
            file,
            offset,
            lsn,
            what,
        } = self;
        write!(
            f,
            "{} at offset {offset} (position {lsn}): {what}",
            file.display()
        )
    }
}

/// Why a log was not opened. No record was changed then: at most an incomplete write at the end is cut off, and leftovers
/// of an interrupted run are gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process works on the directory.
    #[error("{} is in use by {}", dir.display(), pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The other process, as far as its lock file says.
        pid: Option<u32>,
    },
    /// A later release wrote the directory.
    #[error("{} has format version {found}; this release reads up to {ours}: use the release that wrote it, or a later one", file.display())]
    Newer {
        /// The file that says so.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version known here.
        ours: u32,
    },
    /// The directory belongs to another shard.
    #[error("{} belongs to shard {found}, not to shard {expected}", file.display())]
    OtherShard {
        /// The file that says so.
        file: PathBuf,
        /// Its shard.
        found: ShardId,
        /// The shard that was asked for.
        expected: ShardId,
    },
    /// The file system is mounted read-only.
    #[error("{} is on a read-only file system", path.display())]
    ReadOnly {
        /// What could not be changed.
        path: PathBuf,
    },
    /// There is no space to start.
    #[error("no space left to open the log: {path}: {source}", path = path.display())]
    Full {
        /// What could not be written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Records that were acknowledged as durable are damaged or gone. Nothing is skipped: the operator decides.
    #[error(
        "the log is damaged: {0}. `longtail log check` lists everything that cannot be read; restore the directory from a copy, or move the damaged file away to go on without its records"
    )]
    Damaged(Damage),
    /// The log's beginning was reclaimed under a checkpoint that can no longer be read.
    #[error("no readable checkpoint in {}, and the log before position {start} is already reclaimed: {why}", dir.display())]
    CheckpointLost {
        /// The directory.
        dir: PathBuf,
        /// Where the log starts.
        start: Lsn,
        /// What is wrong with the checkpoints.
        why: String,
    },
    /// The disk refused.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                OpenError::Full { path, source }
            }
            _ => OpenError::Io { what, path, source },
        }
    }
}
