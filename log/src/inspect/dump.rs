//! All records, one after the other.

use std::path::Path;
use std::sync::Arc;

use longtail_model::Lsn;

use super::survey;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::open::{FoundSegment, read_footer};
use crate::scan::{Advance, FIRST, Order, Scanner};

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

/// The records of a log in order. What follows a place that cannot be read in a segment is left out; [`check`](super::check()) says
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
                    (Order::Contiguous, found.offset(found.end))
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
