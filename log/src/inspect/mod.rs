//! Looking at a log's directory without opening it: for `longtail log check`, `dump` and `stats`.
//!
//! Everything here only reads and takes no lock, so it also works beside a running server; the very end of the log is
//! then a moving target. Where opening stops at the first damage, [`check()`] goes on behind it and lists all of it.

mod check;
mod dump;
mod stats;

use std::fmt;
use std::path::{Path, PathBuf};

use longtail_model::Lsn;

use crate::checkpoint;
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::open::{FoundCheckpoints, FoundSegment, find_checkpoints, find_segments};
use crate::pages;
use crate::segment;
use crate::stamp;

pub use check::{Report, SegmentReport, check};
pub use dump::{Dump, DumpedRecord, dump};
pub use stats::{SegmentStats, Stats, stats};

/// One checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The file.
    pub file: PathBuf,
    /// Everything below is in it.
    pub covers: Lsn,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes of log appended since, which a restart replays.
    pub behind: u64,
}

impl fmt::Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckpointReport {
            file,
            covers,
            bytes,
            behind,
        } = self;
        write!(
            f,
            "{}: covers positions below {covers}, {bytes} bytes, {behind} bytes of log since",
            file.display()
        )
    }
}

/// One file of pages, as the newest checkpoint refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesReport {
    /// The file.
    pub file: PathBuf,
    /// Bytes of it that the checkpoint vouches for.
    pub bytes: u64,
    /// Bytes of them that the checkpoint refers to.
    pub live: u64,
    /// Whole pages in them; `None` when nobody counted.
    pub pages: Option<u64>,
}

impl fmt::Display for PagesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PagesReport {
            file,
            bytes,
            live,
            pages,
        } = self;
        write!(f, "{}: ", file.display())?;
        if let Some(pages) = pages {
            write!(f, "{pages} pages, ")?;
        }
        write!(f, "{bytes} bytes, {live} in use")
    }
}

struct Directory {
    names: Vec<String>,
    segments: Vec<FoundSegment>,
    checkpoints: FoundCheckpoints,
    damage: Vec<Damage>,
}

/// Reads headers and checkpoints, putting aside what is damaged.
fn survey(disk: &dyn Disk, dir: &Path) -> Result<Directory, OpenError> {
    let names = disk
        .list(dir)
        .map_err(|error| OpenError::io("list", dir, error))?;
    let mut damage = Vec::new();
    let mut aside = |result: Result<(), OpenError>| match result {
        Err(OpenError::Damaged(found)) => {
            damage.push(found);
            Ok(false)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    };
    aside(stamp::read(disk, dir).map(|_| ()))?;
    let mut whole = Vec::new();
    for name in names
        .iter()
        .filter(|name| segment::parse_name(name).is_some())
    {
        let alone = std::slice::from_ref(name);
        if aside(find_segments(disk, dir, alone, None).map(|_| ()))? {
            whole.push(name.clone());
        }
    }
    let mut segments = Vec::new();
    aside(find_segments(disk, dir, &whole, None).map(|found| segments = found.0))?;
    let checkpoints = find_checkpoints(disk, dir, &names)?;
    for (file, what) in &checkpoints.damaged {
        let name = file.file_name().and_then(|name| name.to_str());
        damage.push(Damage {
            file: file.clone(),
            offset: 0,
            lsn: Lsn(name.and_then(checkpoint::parse_name).unwrap_or_default()),
            what: what.clone(),
        });
    }
    Ok(Directory {
        names,
        segments,
        checkpoints,
        damage,
    })
}

/// The page files of the newest checkpoint, without a look into them.
fn page_reports(dir: &Path, found: &FoundCheckpoints) -> Vec<PagesReport> {
    let accounts = found.newest.iter().flat_map(|newest| &newest.pages);
    let report = |account: &pages::PageAccount| PagesReport {
        file: dir.join(pages::file_name(account.number)),
        bytes: account.size,
        live: account.live,
        pages: None,
    };
    accounts.map(report).collect()
}

fn checkpoint_reports(dir: &Path, found: &FoundCheckpoints, end: u64) -> Vec<CheckpointReport> {
    let report = |(covers, bytes): &(u64, u64)| CheckpointReport {
        file: dir.join(checkpoint::file_name(*covers)),
        covers: Lsn(*covers),
        bytes: *bytes,
        behind: end.saturating_sub(*covers),
    };
    found.readable.iter().map(report).collect()
}
