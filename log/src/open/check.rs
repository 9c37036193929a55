//! Reading the log after the checkpoint once: where it ends, and whether it may end there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use longtail_model::Lsn;

use super::find::{FoundCheckpoints, FoundSegment};
use crate::disk::Disk;
use crate::error::{Damage, OpenError};
use crate::record;
use crate::scan::{Bad, Order, Scanner, Step, look_behind};
use crate::segment;

/// What reading the log after the checkpoint found out.
pub(super) struct Checked {
    pub(super) covers: u64,
    pub(super) end: u64,
    /// Below: known to have been synced. What follows was read, but maybe only from the page cache.
    pub(super) durable: u64,
    pub(super) nonce: u32,
    /// Retained records after the checkpoint, by the index of their segment: count and bytes.
    pub(super) retained: BTreeMap<usize, (u64, u64)>,
    /// The file offset to cut the newest segment at.
    pub(super) cut: Option<u64>,
}

pub(super) fn check_tail(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[FoundSegment],
    checkpoints: &FoundCheckpoints,
) -> Result<Checked, OpenError> {
    let covers = checkpoints.newest.as_ref().map_or(0, |c| c.covers);
    let missing = |lsn: u64, what: &str| {
        OpenError::Damaged(Damage {
            file: dir.join(segment::file_name(lsn, 0)),
            offset: 0,
            lsn: Lsn(lsn),
            what: what.to_owned(),
        })
    };
    let Some(newest) = segments.last() else {
        return Err(missing(covers, "there are checkpoints but no segments"));
    };
    if checkpoints.newest.is_none() && segments.first().is_some_and(|first| first.header.base > 0) {
        let why = match checkpoints.damaged.first() {
            Some((path, why)) => format!("{}: {why}", path.display()),
            None => "there is none".to_owned(),
        };
        return Err(OpenError::CheckpointLost {
            dir: dir.to_owned(),
            start: Lsn(segments.first().map_or(0, |first| first.header.base)),
            why,
        });
    }
    if newest.header.generation > 0 {
        return Err(missing(newest.end, "the newest segment is missing"));
    }
    let first = segments
        .partition_point(|found| found.header.base <= covers)
        .checked_sub(1)
        .ok_or_else(|| {
            missing(
                covers,
                "the segment that the checkpoint leads to is missing",
            )
        })?;
    let mut checked = Checked {
        covers,
        end: covers,
        durable: covers,
        nonce: newest.header.nonce,
        retained: BTreeMap::new(),
        cut: None,
    };
    for (i, found) in segments.iter().enumerate().skip(first) {
        let last = i + 1 == segments.len();
        if checked.end < found.header.base {
            return Err(missing(checked.end, "a segment is missing"));
        }
        if checked.end > found.end {
            return Err(if last {
                missing(checked.end, "the log ends before its checkpoint")
            } else {
                missing(checked.end, "a segment is missing")
            });
        }
        if found.header.generation > 0 && checked.end < found.end {
            return Err(missing(
                checked.end,
                "the checkpoint leads into a rewritten segment",
            ));
        }
        if found.header.generation == 0 {
            check_segment(disk, found, i, last, &mut checked)?;
        }
    }
    Ok(checked)
}

/// Reads one original segment from `checked.end` on.
fn check_segment(
    disk: &dyn Disk,
    found: &FoundSegment,
    i: usize,
    last: bool,
    checked: &mut Checked,
) -> Result<(), OpenError> {
    let io = |error| OpenError::io("read", &found.path, error);
    let file = disk
        .open(&found.path, false)
        .map_err(|error| OpenError::io("open", &found.path, error))?;
    let start = checked.end;
    let mut scanner = Scanner::new(
        Arc::clone(&file),
        found.header.nonce,
        Order::Contiguous,
        found.offset(start),
        start,
        found.offset(found.end),
    );
    let (mut count, mut bytes) = (0, 0);
    let bad = loop {
        match scanner.next_frame().map_err(io)? {
            Step::Frame(frame) => {
                for record in frame.records().filter(|record| record.retained) {
                    count += 1;
                    bytes += record::span(record.payload.len());
                }
            }
            Step::End => break None,
            Step::Bad(bad) => break Some(bad),
        }
    };
    checked.retained.insert(i, (count, bytes));
    // That this segment exists vouches for everything before it, and its marks for a part of it.
    checked.durable = start.max(scanner.claimed);
    let Some(bad) = bad else {
        checked.end = found.end;
        return Ok(());
    };
    let damaged = |bad: &Bad, why: String| {
        OpenError::Damaged(Damage {
            file: found.path.clone(),
            offset: bad.offset,
            lsn: Lsn(bad.lsn),
            what: format!("{}, although {why}", bad.what),
        })
    };
    if !last {
        return Err(damaged(
            &bad,
            "a later segment shows that it was durable".to_owned(),
        ));
    }
    let behind = look_behind(
        file.as_ref(),
        found.header.nonce,
        bad.frame_offset,
        bad.frame_lsn,
    )
    .map_err(io)?;
    if behind.claimed > bad.frame_lsn {
        let claim = behind.claimed;
        return Err(damaged(
            &bad,
            format!("a later record shows that everything below position {claim} was durable"),
        ));
    }
    if behind.stale {
        tracing::warn!(
            file = %found.path.display(),
            offset = bad.frame_offset,
            position = bad.frame_lsn,
            why = bad.what,
            "the log ends with an incomplete write, which is cut off"
        );
        checked.cut = Some(bad.frame_offset);
    }
    checked.end = bad.frame_lsn;
    Ok(())
}
