//! Sizes and counts, from headers and checkpoints alone.

use std::fmt;
use std::path::{Path, PathBuf};

use longtail_model::{Lsn, ShardId};

use super::{CheckpointReport, PagesReport, checkpoint_reports, page_reports, survey};
use crate::checkpoint::Account;
use crate::disk::Disk;
use crate::error::OpenError;

/// What [`stats`] knows of one segment without reading its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentStats {
    /// The file.
    pub file: PathBuf,
    /// Its first position.
    pub base: Lsn,
    /// 0 as first written; counts rewrites.
    pub generation: u32,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Retained records in it and how many of them were still referred to, as of the newest checkpoint; `None` for a
    /// segment that is younger.
    pub retained: Option<(u64, u64)>,
}

/// All that [`stats`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Whose log it is; `None` in a directory without segments.
    pub shard: Option<ShardId>,
    /// Ascending.
    pub segments: Vec<SegmentStats>,
    /// Readable ones, ascending.
    pub checkpoints: Vec<CheckpointReport>,
    /// Files of pages that the newest checkpoint refers to, ascending.
    pub pages: Vec<PagesReport>,
    /// Bytes of all files in the directory.
    pub bytes: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for s in &self.segments {
            write!(
                f,
                "{}: from position {}, {} bytes",
                s.file.display(),
                s.base,
                s.file_bytes
            )?;
            match s.retained {
                Some((total, live)) => writeln!(f, ", {live} of {total} retained records alive")?,
                None => writeln!(f, ", younger than the checkpoint")?,
            }
        }
        for c in &self.checkpoints {
            writeln!(f, "{c}")?;
        }
        for p in &self.pages {
            writeln!(f, "{p}")?;
        }
        write!(
            f,
            "{} segments, {} bytes in all files",
            self.segments.len(),
            self.bytes
        )
    }
}

/// Sizes, accounts and checkpoints of the log in `dir`, without reading its records.
///
/// # Errors
/// When the directory cannot be read, is damaged, or is of a later format.
pub fn stats(disk: &dyn Disk, dir: &Path) -> Result<Stats, OpenError> {
    let directory = survey(disk, dir)?;
    if let Some(damage) = directory.damage.into_iter().next() {
        return Err(OpenError::Damaged(damage));
    }
    let accounts: &[Account] = directory
        .checkpoints
        .newest
        .as_ref()
        .map_or(&[], |checkpoint| &checkpoint.accounts);
    let mut end = 0;
    let mut segments = Vec::new();
    for found in &directory.segments {
        let range = found.header.base..found.end.max(found.header.base + 1);
        let sum = accounts
            .iter()
            .filter(|account| range.contains(&account.base))
            .map(|account| (account.total, account.live))
            .reduce(|a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)));
        end = found.end;
        segments.push(SegmentStats {
            file: found.path.clone(),
            base: Lsn(found.header.base),
            generation: found.header.generation,
            file_bytes: found.size,
            retained: sum,
        });
    }
    let mut bytes = 0;
    for name in &directory.names {
        let path = dir.join(name);
        if let Ok(file) = disk.open(&path, false) {
            bytes += file
                .size()
                .map_err(|error| OpenError::io("read", &path, error))?;
        }
    }
    Ok(Stats {
        shard: directory.segments.first().map(|found| found.header.shard),
        checkpoints: checkpoint_reports(dir, &directory.checkpoints, end),
        pages: page_reports(dir, &directory.checkpoints),
        segments,
        bytes,
    })
}
