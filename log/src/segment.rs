//! Segment files: their names, their header block, and what the log remembers of each.
//!
//! A segment covers the positions from its base to its end. In an *original* segment a position is a file offset plus
//! a constant. A *rewritten* one holds the survivors of one or more older segments under their old positions, and a
//! table that leads from a position to somewhere shortly before its record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::ShardId;

use crate::disk::File;
use crate::record::ALIGN;

/// Version of the on-disk format, see `docs/design/log-format.md`.
pub(crate) const FORMAT: u32 = 1;
/// Bytes before the first record.
pub(crate) const BLOCK: u64 = 4096;
const MAGIC: &[u8; 8] = b"LTLOGSEG";
const HEADER_CRC_AT: usize = 48;
const SUFFIX: &str = ".seg";
/// No log gets this far: a gigabyte a second for a century.
const MAX_POSITION: u64 = 1 << 62;

/// The fields of a segment's header block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) shard: ShardId,
    pub(crate) base: u64,
    /// Where a rewritten segment ends; 0 in an original one, which ends where the next begins.
    pub(crate) end: u64,
    /// 0 in an original segment; a rewrite has one more than the newest of its sources.
    pub(crate) generation: u32,
    pub(crate) nonce: u32,
}

/// Why a header block was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Short,
    Magic,
    Checksum,
    Range,
    Newer(u32),
}

impl std::fmt::Display for BadHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadHeader::Short => f.write_str("the file is shorter than its header"),
            BadHeader::Magic => f.write_str("the header is not that of a segment"),
            BadHeader::Checksum => f.write_str("the header fails its checksum"),
            BadHeader::Range => f.write_str("the header speaks of impossible positions"),
            BadHeader::Newer(v) => write!(f, "the header has format version {v}"),
        }
    }
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u64::from(self.shard.get()).to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.nonce.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.resize(BLOCK as usize, 0);
        out
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, BadHeader> {
        let block: &[u8; HEADER_CRC_AT + 4] = block.first_chunk().ok_or(BadHeader::Short)?;
        let u32_at = |at: usize| {
            let mut b = [0; 4];
            b.copy_from_slice(&block[at..at + 4]);
            u32::from_le_bytes(b)
        };
        let u64_at = |at: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&block[at..at + 8]);
            u64::from_le_bytes(b)
        };
        if &block[..8] != MAGIC {
            return Err(BadHeader::Magic);
        }
        // Before the checksum: a later version may keep it elsewhere.
        let version = u32_at(8);
        if version > FORMAT {
            return Err(BadHeader::Newer(version));
        }
        if u32_at(HEADER_CRC_AT) != crc32c::crc32c(&block[..HEADER_CRC_AT]) {
            return Err(BadHeader::Checksum);
        }
        let header = SegmentHeader {
            shard: ShardId(u64_at(16) as u16),
            base: u64_at(24),
            end: u64_at(32),
            generation: u32_at(40),
            nonce: u32_at(44),
        };
        let rewritten = header.generation > 0;
        if !header.base.is_multiple_of(ALIGN)
            || header.base.max(header.end) > MAX_POSITION
            || rewritten != (header.base < header.end)
        {
            return Err(BadHeader::Range);
        }
        Ok(header)
    }
}

/// The file name of a segment.
pub(crate) fn file_name(base: u64, generation: u32) -> String {
    if generation == 0 {
        format!("{base:016x}{SUFFIX}")
    } else {
        format!("{base:016x}.{generation:08x}{SUFFIX}")
    }
}

/// Base and generation that a file name speaks of; `None` for other files.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u32)> {
    let stem = name.strip_suffix(SUFFIX)?;
    let (base, generation) = stem.split_once('.').unwrap_or((stem, "00000000"));
    if base.len() != 16 || generation.len() != 8 {
        return None;
    }
    Some((
        u64::from_str_radix(base, 16).ok()?,
        u32::from_str_radix(generation, 16).ok()?,
    ))
}

/// A rewritten segment's way from a position to a file offset: `(position - base, offset)`, both divided by 8, for
/// one record in every [`Table::STRIDE`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) entries: Vec<(u32, u32)>,
    /// Where the records end in the file.
    pub(crate) data_end: u64,
}

impl Table {
    /// Bytes of records between two entries.
    pub(crate) const STRIDE: u64 = 16 << 10;
    /// Widest range of positions that one rewritten segment may cover.
    pub(crate) const MAX_RANGE: u64 = (u32::MAX as u64) * 8;

    /// The offset of a record at or before `lsn`; a scan from there finds it.
    pub(crate) fn floor(&self, base: u64, lsn: u64) -> u64 {
        let key = ((lsn.saturating_sub(base)) / 8).min(u64::from(u32::MAX)) as u32;
        let after = self.entries.partition_point(|entry| entry.0 <= key);
        match after.checked_sub(1).and_then(|i| self.entries.get(i)) {
            Some(entry) => u64::from(entry.1) * 8,
            None => BLOCK,
        }
    }
}

/// How positions become offsets.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    Original,
    Rewritten(Arc<Table>),
}

/// What the log knows of one segment.
pub(crate) struct Segment {
    pub(crate) base: u64,
    /// Where the segment ends; for the one being appended to, where it may grow to.
    pub(crate) end: u64,
    pub(crate) generation: u32,
    pub(crate) nonce: u32,
    pub(crate) layout: Layout,
    /// Retained records that the owner still refers to.
    pub(crate) live: u64,
    /// Retained records in the file, and the bytes they take.
    pub(crate) total: u64,
    pub(crate) total_bytes: u64,
    /// Bytes of file in use: header, records, table.
    pub(crate) used: u64,
    /// Its file name until the first write gives it its own.
    pub(crate) unborn: Option<PathBuf>,
    /// Kept open while it is written.
    pub(crate) file: Option<Arc<dyn File>>,
    /// Reclaiming gave up on it: its file cannot be read in full.
    pub(crate) unreadable: bool,
}

impl Segment {
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        match &self.unborn {
            Some(path) => path.clone(),
            None => dir.join(file_name(self.base, self.generation)),
        }
    }

    /// The offset of a position in an original segment's file.
    pub(crate) fn offset(&self, lsn: u64) -> u64 {
        BLOCK + (lsn - self.base)
    }

    /// Bytes that the live records take, from the average size of a retained record.
    pub(crate) fn live_bytes(&self) -> u64 {
        if self.total == 0 {
            return 0;
        }
        (u128::from(self.total_bytes) * u128::from(self.live.min(self.total))
            / u128::from(self.total)) as u64
    }

    /// Whether less than half of the file is worth keeping.
    pub(crate) fn is_sparse(&self) -> bool {
        self.live_bytes().saturating_add(BLOCK) * 2 < self.used
    }
}

/// All segments, ascending and without overlap; the last is the one being appended to.
#[derive(Default)]
pub(crate) struct Segments(pub(crate) Vec<Segment>);

impl Segments {
    /// Index of the segment that covers `lsn`.
    pub(crate) fn find(&self, lsn: u64) -> Option<usize> {
        let i = self
            .0
            .partition_point(|segment| segment.base <= lsn)
            .checked_sub(1)?;
        (lsn < self.0.get(i)?.end).then_some(i)
    }

    /// Index of the segment with this base.
    pub(crate) fn at(&self, base: u64) -> Option<usize> {
        self.0
            .binary_search_by_key(&base, |segment| segment.base)
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_headers_read_back() {
        for (base, generation) in [(0, 0), (0xdead_beef_0000, 0), (8, 1), (!7, 77)] {
            let name = file_name(base, generation);
            assert_eq!(parse_name(&name), Some((base, generation)), "{name}");
        }
        for other in [
            "lock",
            "format",
            "0.seg",
            "checkpoint-0000000000000000",
            "x.seg",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        let header = SegmentHeader {
            shard: ShardId(3),
            base: 64,
            end: 128,
            generation: 2,
            nonce: 9,
        };
        let block = header.encode();
        assert_eq!(block.len() as u64, BLOCK);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for bit in 0..(HEADER_CRC_AT + 4) * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_table_leads_to_the_record_at_or_before() {
        let table = Table {
            entries: vec![(0, 512), (100, 900)],
            data_end: 9000,
        };
        assert_eq!(table.floor(800, 800), 4096);
        assert_eq!(table.floor(800, 1592), 4096);
        assert_eq!(table.floor(800, 1600), 7200);
        assert_eq!(table.floor(800, 1 << 60), 7200);
    }
}
