//! Reading what is no longer in memory, through a few buffers that read ahead when they are used in order.

use std::io;
use std::path::Path;
use std::sync::Arc;

use longtail_model::Lsn;

use crate::api::ReadError;
use crate::disk::{Disk, File, read_full};
use crate::record::{self, HEADER, Header, MARK};
use crate::segment::{Layout, Segment, Table};

/// Bytes read for a position nobody read near to.
const RANDOM: usize = Table::STRIDE as usize;
/// Bytes read when the positions follow each other.
const AHEAD: usize = 256 << 10;
/// Buffers, so that a few readers in different places do not take each other's.
const SLOTS: usize = 4;
/// Segment files kept open for reading.
const FILES: usize = 16;

struct Slot {
    segment: (u64, u32),
    offset: u64,
    data: Vec<u8>,
    used: u64,
}

struct OpenFile {
    segment: (u64, u32),
    file: Arc<dyn File>,
    used: u64,
}

/// Buffers and open files for cold reads.
#[derive(Default)]
pub(crate) struct Cold {
    slots: Vec<Slot>,
    files: Vec<OpenFile>,
    clock: u64,
}

/// One segment as a reader sees it.
struct Source<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    segment: &'a Segment,
    /// File offset up to which bytes are settled.
    limit: u64,
}

impl Cold {
    /// Calls `with` with the payload of the record at `lsn`, which lies in `segment`, below file offset `limit`.
    pub(crate) fn read(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        segment: &Segment,
        limit: u64,
        lsn: Lsn,
        with: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        let io = |source| ReadError::Io { lsn, source };
        let source = Source {
            disk,
            dir,
            segment,
            limit,
        };
        let mut offset = match &segment.layout {
            Layout::Original => segment.offset(lsn.0),
            Layout::Rewritten(table) => table.floor(segment.base, lsn.0),
        };
        loop {
            let Some(bytes) = self.view(&source, offset, HEADER).map_err(io)? else {
                return Err(match segment.layout {
                    Layout::Original => ReadError::Damaged(lsn),
                    Layout::Rewritten(_) => ReadError::Missing(lsn),
                });
            };
            let Some(header) = Header::read(bytes) else {
                return Err(ReadError::Damaged(lsn));
            };
            if header.lsn == lsn.0 && !header.has(MARK) {
                let Some(bytes) = self
                    .view(&source, offset, header.span() as usize)
                    .map_err(io)?
                else {
                    return Err(ReadError::Damaged(lsn));
                };
                if !record::intact(segment.nonce, header, bytes) {
                    return Err(ReadError::Damaged(lsn));
                }
                let payload = bytes.get(HEADER..HEADER + header.len as usize);
                with(payload.ok_or(ReadError::Damaged(lsn))?);
                return Ok(());
            }
            match segment.layout {
                Layout::Original => return Err(ReadError::Damaged(lsn)),
                Layout::Rewritten(_) if header.lsn > lsn.0 => return Err(ReadError::Missing(lsn)),
                Layout::Rewritten(_) => offset += header.span(),
            }
        }
    }

    /// At least `len` bytes from `offset`; `None` when they lie beyond the limit.
    fn view(&mut self, source: &Source<'_>, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if offset + len as u64 > source.limit {
            return Ok(None);
        }
        self.clock += 1;
        let id = (source.segment.base, source.segment.generation);
        let hit = self.slots.iter().position(|slot| {
            slot.segment == id
                && slot.offset <= offset
                && offset + len as u64 <= slot.offset + slot.data.len() as u64
        });
        let i = match hit {
            Some(i) => i,
            None => self.load(source, offset, len)?,
        };
        let Some(slot) = self.slots.get_mut(i) else {
            return Ok(None);
        };
        slot.used = self.clock;
        Ok(slot.data.get((offset - slot.offset) as usize..))
    }

    fn load(&mut self, source: &Source<'_>, offset: u64, len: usize) -> io::Result<usize> {
        let id = (source.segment.base, source.segment.generation);
        // A slot that ends here, or a little before: a reader going forward.
        let before = self.slots.iter().position(|slot| {
            let end = slot.offset + slot.data.len() as u64;
            slot.segment == id
                && slot.offset <= offset
                && end + RANDOM as u64 >= offset
                && slot.data.len() >= HEADER
        });
        let want = match before {
            Some(i) => {
                (self.slots.get(i).map_or(0, |slot| slot.data.len()) * 4).clamp(RANDOM, AHEAD)
            }
            None => RANDOM,
        };
        let want = (want.max(len) as u64).min(source.limit - offset) as usize;
        let i = match before {
            Some(i) => i,
            None if self.slots.len() < SLOTS => {
                self.slots.push(Slot {
                    segment: id,
                    offset,
                    data: Vec::new(),
                    used: 0,
                });
                self.slots.len() - 1
            }
            None => {
                let oldest = self
                    .slots
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, slot)| slot.used);
                oldest.map_or(0, |(i, _)| i)
            }
        };
        let file = self.file(source)?;
        let Some(slot) = self.slots.get_mut(i) else {
            return Ok(i);
        };
        // Empty while it is filled, so that an error leaves nothing that could be taken for data.
        let mut data = std::mem::take(&mut slot.data);
        if data.capacity() > 2 * AHEAD && want <= AHEAD {
            data = Vec::new();
        }
        data.resize(want, 0);
        let read = read_full(file.as_ref(), &mut data, offset)?;
        if read < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        data.truncate(read);
        slot.segment = id;
        slot.offset = offset;
        slot.data = data;
        Ok(i)
    }

    fn file(&mut self, source: &Source<'_>) -> io::Result<Arc<dyn File>> {
        let id = (source.segment.base, source.segment.generation);
        if let Some(open) = self.files.iter_mut().find(|open| open.segment == id) {
            open.used = self.clock;
            return Ok(Arc::clone(&open.file));
        }
        let file = match &source.segment.file {
            Some(file) => return Ok(Arc::clone(file)),
            None => source.disk.open(&source.segment.path(source.dir), false)?,
        };
        if self.files.len() >= FILES {
            let oldest = self
                .files
                .iter()
                .enumerate()
                .min_by_key(|(_, open)| open.used);
            if let Some((i, _)) = oldest {
                self.files.swap_remove(i);
            }
        }
        self.files.push(OpenFile {
            segment: id,
            file: Arc::clone(&file),
            used: self.clock,
        });
        Ok(file)
    }

    /// Forgets a segment whose file goes away.
    pub(crate) fn forget(&mut self, base: u64, generation: u32) {
        self.files.retain(|open| open.segment != (base, generation));
        self.slots.retain(|slot| slot.segment != (base, generation));
    }
}
