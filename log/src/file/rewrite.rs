//! The slow side of reclaiming, as jobs do it: reading what a segment retains, and writing the survivors of several
//! into one, followed by the table that finds them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::Scanned;
use crate::disk::{Disk, File, read_full};
use crate::record;
use crate::scan::{FIRST, Order, Scanner, Step};
use crate::segment::{self, BLOCK, Layout, Segment, SegmentHeader, Table};

/// Name of a rewritten segment while it is written.
pub(crate) const TEMPORARY: &str = "rewrite.tmp";
/// Records handed to the owner at a time, so that filtering them holds its lock briefly.
const PART: usize = 16 << 10;
/// Bytes of a rewritten segment written at a time.
const CHUNK: usize = 1 << 20;

/// What follows the records of a rewritten segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) table: Table,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Footer {
    const MAGIC: &[u8; 8] = b"LTLOGTAB";
    const TRAILER: usize = 40;

    fn note(&mut self, base: u64, lsn: u64, offset: u64, span: u64) {
        let due = self
            .table
            .entries
            .last()
            .is_none_or(|last| offset - u64::from(last.1) * 8 >= Table::STRIDE);
        if due {
            // Both fit: the range of a rewritten segment is limited, and its size is less than its range.
            self.table
                .entries
                .push((((lsn - base) / 8) as u32, (offset / 8) as u32));
        }
        self.records += 1;
        self.bytes += span;
        self.table.data_end = offset + span;
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size() as usize);
        for (lsn, offset) in &self.table.entries {
            out.extend_from_slice(&lsn.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
        }
        for field in [self.records, self.bytes, self.table.data_end] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&(self.table.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(Self::MAGIC);
        out
    }

    pub(crate) fn size(&self) -> u64 {
        (self.table.entries.len() * 8 + Self::TRAILER) as u64
    }

    /// Reads the footer at the end of a file of `size` bytes; `None` when it is damaged.
    pub(crate) fn read(file: &dyn File, size: u64) -> io::Result<Option<Footer>> {
        let Some(trailer_at) = size.checked_sub(Self::TRAILER as u64) else {
            return Ok(None);
        };
        let mut trailer = [0u8; Self::TRAILER];
        if read_full(file, &mut trailer, trailer_at)? != trailer.len()
            || &trailer[32..] != Self::MAGIC
        {
            return Ok(None);
        }
        let word = |at: usize| {
            let mut b = [0; 4];
            b.copy_from_slice(&trailer[at..at + 4]);
            u32::from_le_bytes(b)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let entries = u64::from(word(24));
        let Some(table_at) = trailer_at
            .checked_sub(entries * 8)
            .filter(|at| *at >= BLOCK)
        else {
            return Ok(None);
        };
        let mut table = vec![0u8; (entries * 8) as usize];
        if read_full(file, &mut table, table_at)? != table.len() {
            return Ok(None);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&table), &trailer[..24]);
        if crc != word(28) || long(16) != table_at {
            return Ok(None);
        }
        let entries = table
            .chunks_exact(8)
            .map(|entry| {
                let mut b = [0; 8];
                b.copy_from_slice(entry);
                let both = u64::from_le_bytes(b);
                (both as u32, (both >> 32) as u32)
            })
            .collect();
        Ok(Some(Footer {
            table: Table {
                entries,
                data_end: table_at,
            },
            records: long(0),
            bytes: long(8),
        }))
    }

    /// Makes the footer again from the records; `None` when they do not fill the file up to it.
    pub(crate) fn rebuild(
        file: &Arc<dyn File>,
        header: &SegmentHeader,
        size: u64,
    ) -> io::Result<Option<Footer>> {
        let mut footer = Footer::default();
        footer.table.data_end = FIRST;
        let mut scanner = Scanner::new(
            Arc::clone(file),
            header.nonce,
            Order::Ascending,
            FIRST,
            header.base,
            size,
        );
        loop {
            let offset = scanner.offset();
            match scanner.next_frame()? {
                Step::Frame(frame) => {
                    for record in frame.records() {
                        let span = record::span(record.payload.len());
                        footer.note(header.base, record.lsn.0, offset, span);
                    }
                }
                Step::End | Step::Bad(_) => break,
            }
        }
        Ok((footer.table.data_end + footer.size() == size).then_some(footer))
    }
}

/// A segment as a job reads it.
#[derive(Clone)]
pub(super) struct Source {
    path: PathBuf,
    pub(super) base: u64,
    pub(super) end: u64,
    nonce: u32,
    order: Order,
    limit: u64,
}

impl Source {
    pub(super) fn new(segment: &Segment, dir: &Path) -> Self {
        let (order, limit) = match &segment.layout {
            Layout::Original => (Order::Contiguous, segment.offset(segment.end)),
            Layout::Rewritten(table) => (Order::Ascending, table.data_end),
        };
        Source {
            path: segment.path(dir),
            base: segment.base,
            end: segment.end,
            nonce: segment.nonce,
            order,
            limit,
        }
    }

    pub(super) fn scanner(&self, disk: &dyn Disk, offset: u64, lsn: u64) -> io::Result<Scanner> {
        let file = disk.open(&self.path, false)?;
        Ok(Scanner::new(
            file, self.nonce, self.order, offset, lsn, self.limit,
        ))
    }
}

/// What scanning a part brings back.
pub(super) struct ScanPart {
    pub(super) base: u64,
    pub(super) records: Vec<Scanned>,
    /// Where the next part starts; `None` at the end.
    pub(super) next: Option<(u64, u64)>,
    /// Why the segment cannot be read in full.
    pub(super) bad: Option<String>,
}

pub(super) fn scan_part(disk: &dyn Disk, source: &Source, offset: u64, lsn: u64) -> ScanPart {
    let mut part = ScanPart {
        base: source.base,
        records: Vec::new(),
        next: None,
        bad: None,
    };
    let mut read = || -> io::Result<()> {
        let mut scanner = source.scanner(disk, offset, lsn)?;
        while part.records.len() < PART {
            match scanner.next_frame()? {
                Step::Frame(frame) => {
                    for record in frame.records().filter(|record| record.retained) {
                        let len = record.payload.len().min(Scanned::HEAD);
                        part.records.push(Scanned {
                            lsn: record.lsn,
                            head: record.payload.get(..len).unwrap_or_default().to_vec(),
                        });
                    }
                }
                Step::End => return Ok(()),
                Step::Bad(bad) => {
                    part.bad = Some(format!("{} at offset {}", bad.what, bad.offset));
                    return Ok(());
                }
            }
        }
        part.next = Some((scanner.offset(), scanner.lsn()));
        Ok(())
    };
    if let Err(error) = read() {
        part.bad = Some(crate::disk::explain(&error));
    }
    part
}

/// Copies the live records of `sources` into a file of its own and gives it its name. The inner error says that a
/// source could not be read.
pub(super) fn rewrite(
    disk: &dyn Disk,
    dir: &Path,
    sources: &[Source],
    live: &[u64],
    header: &SegmentHeader,
) -> io::Result<Result<Footer, (u64, String)>> {
    let temporary = dir.join(TEMPORARY);
    let file = disk.create(&temporary)?;
    let mut footer = Footer::default();
    footer.table.data_end = FIRST;
    let mut out = header.encode();
    let mut flushed = 0;
    let mut wanted = live.iter().copied().peekable();
    for source in sources {
        let mut scanner = match source.scanner(disk, FIRST, source.base) {
            Ok(scanner) => scanner,
            Err(error) => return Ok(Err((source.base, crate::disk::explain(&error)))),
        };
        loop {
            let frame = match scanner.next_frame() {
                Ok(Step::Frame(frame)) => frame,
                Ok(Step::End) => break,
                Ok(Step::Bad(bad)) => {
                    let why = format!("{} at offset {}", bad.what, bad.offset);
                    return Ok(Err((source.base, why)));
                }
                Err(error) => return Ok(Err((source.base, crate::disk::explain(&error)))),
            };
            for record in frame.records() {
                while wanted.next_if(|lsn| *lsn < record.lsn.0).is_some() {}
                if wanted.next_if_eq(&record.lsn.0).is_none() {
                    continue;
                }
                let offset = flushed + out.len() as u64;
                record::encode(
                    &mut out,
                    header.nonce,
                    record.lsn.0,
                    record::RETAINED,
                    record.payload,
                    &[],
                );
                let span = record::span(record.payload.len());
                footer.note(header.base, record.lsn.0, offset, span);
            }
            if out.len() >= CHUNK {
                file.write_at(&out, flushed)?;
                flushed += out.len() as u64;
                out.clear();
            }
        }
    }
    out.extend_from_slice(&footer.encode());
    file.write_at(&out, flushed)?;
    file.sync_all()?;
    let name = segment::file_name(header.base, header.generation);
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)?;
    Ok(Ok(footer))
}
