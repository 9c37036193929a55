//! What files a directory holds: segments, of which a rewritten one replaces its sources, and checkpoints.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::Lsn;

use crate::checkpoint::{self, Checkpoint, Unreadable};
use crate::disk::{Disk, File, read_full};
use crate::error::{Damage, OpenError};
use crate::file::Footer;
use crate::options::Options;
use crate::segment::{self, BLOCK, BadHeader, FORMAT, SegmentHeader};

/// A segment file as found, superseded ones already left out.
pub(crate) struct FoundSegment {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    pub(crate) size: u64,
    /// Where it ends; for the newest, where its file ends.
    pub(crate) end: u64,
}

impl FoundSegment {
    /// The file offset of a position, in an original segment.
    pub(crate) fn offset(&self, lsn: u64) -> u64 {
        BLOCK + (lsn - self.header.base)
    }
}

/// The checkpoints found.
#[derive(Default)]
pub(crate) struct FoundCheckpoints {
    /// Ascending.
    pub(crate) readable: Vec<(u64, u64)>,
    pub(crate) newest: Option<Checkpoint>,
    /// The page files that each readable one refers to.
    pub(crate) pages: BTreeMap<u64, Vec<u32>>,
    /// File and reason.
    pub(crate) damaged: Vec<(PathBuf, String)>,
}

impl FoundCheckpoints {
    /// Whether a readable one refers to this page file.
    pub(crate) fn lists(&self, file: u32) -> bool {
        self.pages.values().any(|files| files.contains(&file))
    }
}

/// Reads the headers of all segments. Returns them ascending, and the files that a rewritten one replaces.
pub(crate) fn find_segments(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
    expected: Option<&Options>,
) -> Result<(Vec<FoundSegment>, Vec<PathBuf>), OpenError> {
    let mut all = BTreeMap::new();
    for name in names {
        let Some(id) = segment::parse_name(name) else {
            continue;
        };
        let path = dir.join(name);
        let read = || {
            let file = disk.open(&path, false)?;
            let mut block = vec![0; BLOCK as usize];
            let len = read_full(file.as_ref(), &mut block, 0)?;
            block.truncate(len);
            Ok((file.size()?, block))
        };
        let (size, block) = read().map_err(|error| OpenError::io("read", &path, error))?;
        let damaged = |what: String| {
            OpenError::Damaged(Damage {
                file: path.clone(),
                offset: 0,
                lsn: Lsn(id.0),
                what,
            })
        };
        let header = SegmentHeader::decode(&block).map_err(|bad| match bad {
            BadHeader::Newer(found) => OpenError::Newer {
                file: path.clone(),
                found,
                ours: FORMAT,
            },
            bad => damaged(bad.to_string()),
        })?;
        if size < BLOCK {
            return Err(damaged(BadHeader::Short.to_string()));
        }
        if (header.base, header.generation) != id {
            return Err(damaged(
                "the header belongs to another file name".to_owned(),
            ));
        }
        if let Some(options) = expected
            && header.shard != options.shard
        {
            return Err(OpenError::OtherShard {
                file: path,
                found: header.shard,
                expected: options.shard,
            });
        }
        all.insert(
            id,
            FoundSegment {
                path,
                header,
                size,
                end: 0,
            },
        );
    }
    let rewritten: Vec<SegmentHeader> = all
        .values()
        .map(|found| found.header.clone())
        .filter(|header| header.generation > 0)
        .collect();
    let (mut kept, mut superseded) = (Vec::new(), Vec::new());
    for found in all.into_values() {
        let header = &found.header;
        let replaced = rewritten.iter().any(|newer| {
            newer.generation > header.generation && (newer.base..newer.end).contains(&header.base)
        });
        if replaced {
            superseded.push(found.path);
        } else {
            kept.push(found);
        }
    }
    let mut next_base = u64::MAX;
    for found in kept.iter_mut().rev() {
        let file_end = found.header.base + (found.size - BLOCK);
        found.end = match found.header.generation {
            0 => file_end.min(next_base),
            _ => found.header.end,
        };
        if found.end > next_base || found.end < found.header.base {
            return Err(OpenError::Damaged(Damage {
                file: found.path.clone(),
                offset: 0,
                lsn: Lsn(found.header.base),
                what: "two segments cover the same positions".to_owned(),
            }));
        }
        next_base = found.header.base;
    }
    Ok((kept, superseded))
}

/// Reads all checkpoints, newest first.
pub(crate) fn find_checkpoints(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
) -> Result<FoundCheckpoints, OpenError> {
    let mut positions: Vec<u64> = names
        .iter()
        .filter_map(|name| checkpoint::parse_name(name))
        .collect();
    positions.sort_unstable();
    let mut found = FoundCheckpoints::default();
    for covers in positions.into_iter().rev() {
        let path = dir.join(checkpoint::file_name(covers));
        let read = disk
            .open(&path, false)
            .map_err(Unreadable::Io)
            .and_then(|file| Checkpoint::read(file.as_ref()));
        match read {
            Ok(checkpoint) if checkpoint.covers == covers => {
                found.readable.insert(0, (covers, checkpoint.size()));
                let pages = checkpoint.pages.iter().map(|page| page.number);
                found.pages.insert(covers, pages.collect());
                found.newest.get_or_insert(checkpoint);
            }
            Ok(_) => found
                .damaged
                .push((path, "it belongs to another file name".to_owned())),
            Err(Unreadable::Newer(version)) => {
                return Err(OpenError::Newer {
                    file: path,
                    found: version,
                    ours: FORMAT,
                });
            }
            Err(why) => found.damaged.push((path, why.to_string())),
        }
    }
    Ok(found)
}

pub(crate) fn read_footer(disk: &dyn Disk, found: &FoundSegment) -> Result<Footer, OpenError> {
    let read = || -> io::Result<Option<Footer>> {
        let file: Arc<dyn File> = disk.open(&found.path, false)?;
        match Footer::read(file.as_ref(), found.size)? {
            Some(footer) => Ok(Some(footer)),
            None => Footer::rebuild(&file, &found.header, found.size),
        }
    };
    read()
        .map_err(|error| OpenError::io("read", &found.path, error))?
        .ok_or_else(|| {
            OpenError::Damaged(Damage {
                file: found.path.clone(),
                offset: BLOCK,
                lsn: Lsn(found.header.base),
                what: "its table is damaged and its records do not add up".to_owned(),
            })
        })
}
