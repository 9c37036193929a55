//! Reading everything and listing all that is damaged.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::Lsn;

use super::{CheckpointReport, PagesReport, checkpoint_reports, page_reports, survey};
use crate::checkpoint;
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::open::{FoundSegment, read_footer};
use crate::pages;
use crate::scan::{Advance, FIRST, Order, Scanner, look_behind, resync};

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

/// All that [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ascending.
    pub segments: Vec<SegmentReport>,
    /// Readable ones, ascending.
    pub checkpoints: Vec<CheckpointReport>,
    /// Files of pages that the newest checkpoint refers to, ascending.
    pub pages: Vec<PagesReport>,
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
        for p in &self.pages {
            writeln!(f, "{p}")?;
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

/// Reads every segment, every record, and every page of the log in `dir`.
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
    report.pages = page_reports(dir, &directory.checkpoints);
    if let Some(newest) = &directory.checkpoints.newest {
        for (account, pages) in newest.pages.iter().zip(&mut report.pages) {
            let (number, size) = (account.number, account.size);
            let found = pages::scan(disk.as_ref(), &pages.file, newest.shard, number, size)
                .map_err(|error| OpenError::io("read", &pages.file, error))?;
            pages.pages = Some(found.pages);
            report.damage.extend(found.bad.map(|(offset, what)| Damage {
                file: pages.file.clone(),
                offset,
                lsn: Lsn(covers),
                what: format!("a page of the checkpoint: {what}"),
            }));
        }
    }
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
        (Order::Contiguous, found.offset(found.end))
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
