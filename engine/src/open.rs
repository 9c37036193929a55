//! Opening a shard: its log, its checkpoint, and what follows it.

use std::path::Path;
use std::sync::Arc;

use longtail_log::{Disk, FileLog, MemLog, OpenError, Options, ShardLog};
use longtail_model::Timestamp;

use crate::shard::{Logs, RecoverError, Shard, ShardConfig};

/// Why a shard was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenShardError {
    /// The log could not be opened or read.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// What the log holds could not be applied.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// Where the bodies of memory-only streams go.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Bytes of records a shard may hold in memory.
    pub bytes: u64,
    /// Bytes of one frame.
    pub frame_bytes: u64,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        MemoryLimits {
            bytes: 4 << 30,
            frame_bytes: 1 << 30,
        }
    }
}

/// What opening a shard found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes of the checkpoint.
    pub checkpoint_bytes: u64,
    /// Records applied after it.
    pub records: u64,
}

impl Shard {
    /// Opens a shard whose log is on a disk.
    ///
    /// # Errors
    /// When the log cannot be opened, or holds what cannot be applied.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        memory: MemoryLimits,
        config: ShardConfig,
        now: Timestamp,
    ) -> Result<(Shard, Recovered), OpenShardError> {
        let opened = FileLog::open(disk, dir, options)?;
        let mut replay = opened.replay;
        let log: Box<dyn ShardLog> = Box::new(opened.log);
        let level = config.durability;
        let logs = Logs::new(
            Some(log),
            Box::new(MemLog::new(memory.bytes, memory.frame_bytes)),
            level,
        );
        let checkpoint = opened.checkpoint.as_ref().map(|(_, body)| body.as_slice());
        let mut found = Recovered {
            checkpoint_bytes: checkpoint.map_or(0, |body| body.len() as u64),
            records: 0,
        };
        let mut shard = Shard::restore(config, logs, now, checkpoint)?;
        drop(opened.checkpoint);
        while let Some(frame) = replay.next_frame()? {
            for record in frame.records() {
                match shard.replay(record.lsn, record.payload) {
                    // Nothing of the event has been applied.
                    Err(RecoverError::Index { .. }) if shard.mend_pages() => {
                        shard.replay(record.lsn, record.payload)?;
                    }
                    replayed => replayed?,
                }
                found.records += 1;
            }
        }
        shard.recovered(now);
        Ok((shard, found))
    }

    /// A shard that keeps everything in memory.
    #[must_use]
    pub fn in_memory(memory: MemoryLimits, config: ShardConfig, now: Timestamp) -> Shard {
        let logs = Logs::new(
            None,
            Box::new(MemLog::new(memory.bytes, memory.frame_bytes)),
            config.durability,
        );
        Shard::new(config, logs, now)
    }
}
