//! Looking at a log's directory without opening it: for `longtail log check`, `dump` and `stats`.
//!
//! Everything here only reads and takes no lock, so it also works beside a running server; the very end of the log is
//! then a moving target. Where opening stops at the first damage, [`check`] goes on behind it and lists all of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::{Lsn, ShardId};

use crate::checkpoint::{self, Account};
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::open::{FoundCheckpoints, FoundSegment, find_checkpoints, find_segments, read_footer};
use crate::scan::{Advance, FIRST, Order, Scanner, look_behind, resync};
use crate::segment::{self, BLOCK};
use crate::stamp;

/// What [`check`] read in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub file: PathBuf,
    /// Its first position.
    pub base: Lsn,
    /// The position after its last whole frame, or the end of its range if it was rewritten.
    pub end: Lsn,
    /// 0 as first written; counts rewrites.
    pub generation: u32,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Whole frames.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Records that were appended as retained.
    pub retained: u64,
    /// The highest position that the segment's marks say was durable.
    pub durable: Lsn,
}

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

/// All that [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ascending.
    pub segments: Vec<SegmentReport>,
    /// Readable ones, ascending.
    pub checkpoints: Vec<CheckpointReport>,
    /// Everything that cannot be read although it was durable, in the order of positions where they are known.
    pub damage: Vec<Damage>,
    /// An incomplete write at the end, as a crash leaves it; the next start cuts it off. Not damage.
    pub torn: Option<Damage>,
    /// Where the log ends.
    pub end: Lsn,
}

impl Report {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for s in &self.segments {
            writeln!(
                f,
                "{}: positions {}..{}, {} frames, {} records, {} retained, {} bytes",
                s.file.display(),
                s.base,
                s.end,
                s.frames,
                s.records,
                s.retained,
                s.file_bytes
            )?;
        }
        for c in &self.checkpoints {
            writeln!(f, "{c}")?;
        }
        if let Some(torn) = &self.torn {
            writeln!(
                f,
                "incomplete write at the end, cut off at the next start: {torn}"
            )?;
        }
        for damage in &self.damage {
            writeln!(f, "DAMAGED: {damage}")?;
        }
        let verdict = if self.is_sound() { "sound" } else { "damaged" };
        write!(f, "the log ends at position {} and is {verdict}", self.end)
    }
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
        write!(
            f,
            "{} segments, {} bytes in all files",
            self.segments.len(),
            self.bytes
        )
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

fn checkpoint_reports(dir: &Path, found: &FoundCheckpoints, end: u64) -> Vec<CheckpointReport> {
    let report = |(covers, bytes): &(u64, u64)| CheckpointReport {
        file: dir.join(checkpoint::file_name(*covers)),
        covers: Lsn(*covers),
        bytes: *bytes,
        behind: end.saturating_sub(*covers),
    };
    found.readable.iter().map(report).collect()
}

/// Reads every segment and every record of the log in `dir`.
///
/// # Errors
/// When the directory cannot be read at all, or is of a later format. Damage is not an error but in the report.
pub fn check(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Report, OpenError> {
    let directory = survey(disk.as_ref(), dir)?;
    let covers = directory
        .checkpoints
        .newest
        .as_ref()
        .map_or(0, |c| c.covers);
    let mut report = Report {
        damage: directory.damage,
        ..Report::default()
    };
    let mut end = None;
    let count = directory.segments.len();
    for (i, found) in directory.segments.iter().enumerate() {
        // Below the checkpoint a gap is what reclaiming leaves.
        let expected = end.unwrap_or(if covers > 0 { covers } else { 0 });
        if found.header.base > expected.max(covers) {
            report.damage.push(Damage {
                file: found.path.clone(),
                offset: 0,
                lsn: Lsn(expected),
                what: format!(
                    "the segment before position {} is missing",
                    found.header.base
                ),
            });
        }
        let segment = check_segment(disk, found, i + 1 == count, &mut report)?;
        end = Some(segment.end.0);
        report.segments.push(segment);
    }
    let end = end.unwrap_or_default();
    report.end = Lsn(end);
    if covers > end {
        report.damage.push(Damage {
            file: dir.join(checkpoint::file_name(covers)),
            offset: 0,
            lsn: Lsn(end),
            what: format!("the log ends before position {covers}, which the checkpoint covers"),
        });
    }
    report.checkpoints = checkpoint_reports(dir, &directory.checkpoints, end);
    Ok(report)
}

fn check_segment(
    disk: &Arc<dyn Disk>,
    found: &FoundSegment,
    last: bool,
    report: &mut Report,
) -> Result<SegmentReport, OpenError> {
    let io = |error| OpenError::io("read", &found.path, error);
    let (order, limit) = if found.header.generation == 0 {
        (Order::Contiguous, BLOCK + (found.end - found.header.base))
    } else {
        match read_footer(disk.as_ref(), found) {
            Ok(footer) => (Order::Ascending, footer.table.data_end),
            Err(OpenError::Damaged(damage)) => {
                report.damage.push(damage);
                (Order::Ascending, found.size)
            }
            Err(error) => return Err(error),
        }
    };
    let file = disk.open(&found.path, false).map_err(io)?;
    let scanner = |offset, lsn| {
        let file = Arc::clone(&file);
        Scanner::new(file, found.header.nonce, order, offset, lsn, limit)
    };
    let mut segment = SegmentReport {
        file: found.path.clone(),
        base: Lsn(found.header.base),
        end: Lsn(found.header.base),
        generation: found.header.generation,
        file_bytes: found.size,
        frames: 0,
        records: 0,
        retained: 0,
        durable: Lsn(0),
    };
    let mut scan = scanner(FIRST, found.header.base);
    loop {
        match scan.advance().map_err(io)? {
            Advance::Frame => {
                segment.frames += 1;
                for record in scan.frame().records() {
                    segment.records += 1;
                    segment.retained += u64::from(record.retained);
                }
            }
            Advance::End => break,
            Advance::Bad(bad) => {
                let (offset, lsn) = (bad.frame_offset, bad.frame_lsn);
                let mut damage = Damage {
                    file: found.path.clone(),
                    offset: bad.offset,
                    lsn: Lsn(bad.lsn),
                    what: bad.what.to_owned(),
                };
                segment.durable = segment.durable.max(Lsn(scan.claimed));
                if last && order == Order::Contiguous {
                    let behind =
                        look_behind(file.as_ref(), found.header.nonce, offset, lsn).map_err(io)?;
                    if behind.claimed <= lsn {
                        report.torn = behind.stale.then_some(damage);
                        break;
                    }
                }
                let next = resync(&file, found.header.nonce, order, bad.offset, bad.lsn, limit)
                    .map_err(io)?;
                let Some((offset, lsn)) = next else {
                    report.damage.push(damage);
                    break;
                };
                damage.what = format!("{}; the next whole frame is at position {lsn}", damage.what);
                report.damage.push(damage);
                scan = scanner(offset, lsn);
            }
        }
    }
    segment.durable = segment.durable.max(Lsn(scan.claimed));
    segment.end = match order {
        Order::Contiguous => Lsn(scan.lsn()),
        Order::Ascending => Lsn(found.header.end),
    };
    Ok(segment)
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
        segments,
        bytes,
    })
}

/// One record as [`dump`] yields it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedRecord {
    /// Its position.
    pub lsn: Lsn,
    /// The position of the first record of its frame; in a rewritten segment each record stands alone.
    pub frame: Lsn,
    /// Whether it was appended as retained.
    pub retained: bool,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The records of a log in order. What follows a place that cannot be read in a segment is left out; [`check`] says
/// whether there is such a place.
pub struct Dump {
    disk: Arc<dyn Disk>,
    segments: std::vec::IntoIter<FoundSegment>,
    current: Option<Scanner>,
    records: std::vec::IntoIter<DumpedRecord>,
}

/// Starts reading all records of the log in `dir`.
///
/// # Errors
/// When the directory cannot be read, or is of a later format.
pub fn dump(disk: Arc<dyn Disk>, dir: &Path) -> Result<Dump, OpenError> {
    let directory = survey(disk.as_ref(), dir)?;
    Ok(Dump {
        disk,
        segments: directory.segments.into_iter(),
        current: None,
        records: Vec::new().into_iter(),
    })
}

impl Dump {
    fn refill(&mut self) -> Result<bool, OpenError> {
        loop {
            let Some(scanner) = &mut self.current else {
                let Some(found) = self.segments.next() else {
                    return Ok(false);
                };
                let io = |error| OpenError::io("read", &found.path, error);
                let file = self.disk.open(&found.path, false).map_err(io)?;
                let (order, limit) = if found.header.generation == 0 {
                    (Order::Contiguous, BLOCK + (found.end - found.header.base))
                } else {
                    let footer = read_footer(self.disk.as_ref(), &found)?;
                    (Order::Ascending, footer.table.data_end)
                };
                let (nonce, base) = (found.header.nonce, found.header.base);
                self.current = Some(Scanner::new(file, nonce, order, FIRST, base, limit));
                continue;
            };
            let step = scanner.advance();
            match step.map_err(|error| OpenError::io("read", "the log", error))? {
                Advance::Frame => {
                    let frame = scanner.frame();
                    let records: Vec<DumpedRecord> = frame
                        .records()
                        .map(|record| DumpedRecord {
                            lsn: record.lsn,
                            frame: frame.lsn(),
                            retained: record.retained,
                            payload: record.payload.to_vec(),
                        })
                        .collect();
                    self.records = records.into_iter();
                    return Ok(true);
                }
                Advance::End | Advance::Bad(_) => self.current = None,
            }
        }
    }
}

impl Iterator for Dump {
    type Item = Result<DumpedRecord, OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.next() {
                return Some(Ok(record));
            }
            match self.refill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
