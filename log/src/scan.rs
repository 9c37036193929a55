//! Reading a segment front to back: frames out, or the exact place where the bytes stop making sense.

use std::io;
use std::sync::Arc;

use longtail_model::Lsn;

use crate::disk::{File, read_full};
use crate::record::{self, CONTINUES, HEADER, Header, MARK, Records};
use crate::segment::BLOCK;

/// Bytes read at a time: large enough for the disk, small enough to be checksummed while still in the cache.
const CHUNK: usize = 256 << 10;

/// One atomic transition, as read from the log.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    lsn: Lsn,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The position of its first record.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The position after its last record.
    #[must_use]
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + self.bytes.len() as u64)
    }

    /// Its records, in the order in which they were appended.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records::new(self.bytes)
    }
}

/// Where and why a scan stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    /// File offset of the frame that does not hold together.
    pub(crate) frame_offset: u64,
    /// Its position.
    pub(crate) frame_lsn: u64,
    /// File offset of the record that is bad.
    pub(crate) offset: u64,
    /// Its position.
    pub(crate) lsn: u64,
    pub(crate) what: &'static str,
}

/// What comes next.
pub(crate) enum Step<'a> {
    Frame(Frame<'a>),
    /// The limit was reached after a whole frame.
    End,
    Bad(Bad),
}

/// [`Step`] without the frame, which [`Scanner::frame`] then has.
pub(crate) enum Advance {
    Frame,
    End,
    Bad(Bad),
}

/// How the records of a segment follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Each position follows from the one before.
    Contiguous,
    /// Positions ascend with gaps.
    Ascending,
}

/// Reads frames from one segment.
pub(crate) struct Scanner {
    file: Arc<dyn File>,
    nonce: u32,
    order: Order,
    check: bool,
    buf: Vec<u8>,
    /// Bytes of `buf` that hold data.
    filled: usize,
    /// Index in `buf` of the next record.
    at: usize,
    /// File offset of `buf[0]`.
    origin: u64,
    /// File offset to stop at.
    limit: u64,
    /// The position expected next (contiguous) or the lowest one possible.
    lsn: u64,
    /// Where in `buf` the frame found last starts, and its position.
    frame: (usize, u64),
    /// The highest durable position that a mark spoke of.
    pub(crate) claimed: u64,
}

impl Scanner {
    /// Starts at file offset `offset`, where position `lsn` is expected, and stops at offset `limit`.
    pub(crate) fn new(
        file: Arc<dyn File>,
        nonce: u32,
        order: Order,
        offset: u64,
        lsn: u64,
        limit: u64,
    ) -> Self {
        Scanner {
            file,
            nonce,
            order,
            check: true,
            buf: Vec::new(),
            filled: 0,
            at: 0,
            origin: offset,
            limit: limit.max(offset),
            lsn,
            frame: (0, lsn),
            claimed: 0,
        }
    }

    /// For bytes that were checked moments ago.
    pub(crate) fn without_checksums(mut self) -> Self {
        self.check = false;
        self
    }

    /// File offset of the next record.
    pub(crate) fn offset(&self) -> u64 {
        self.origin + self.at as u64
    }

    /// The position expected next.
    pub(crate) fn lsn(&self) -> u64 {
        self.lsn
    }

    /// Makes `buf[at..at + len]` hold file contents; false when the limit or the end of the file comes first.
    fn ensure(&mut self, len: usize) -> io::Result<bool> {
        if self.filled - self.at >= len {
            return Ok(true);
        }
        if self.offset() + len as u64 > self.limit {
            return Ok(false);
        }
        self.buf.copy_within(self.at..self.filled, 0);
        self.origin += self.at as u64;
        self.filled -= self.at;
        self.at = 0;
        let ahead = self.limit - self.origin;
        let want = (len.max(CHUNK) as u64).min(ahead) as usize;
        if self.buf.len() < want {
            self.buf.resize(want, 0);
        } else if want <= CHUNK && self.buf.len() > 4 * CHUNK {
            // A huge frame is behind us.
            self.buf.truncate(CHUNK);
            self.buf.shrink_to_fit();
        }
        let from = self.origin + self.filled as u64;
        let read = read_full(
            self.file.as_ref(),
            self.buf.get_mut(self.filled..want).unwrap_or_default(),
            from,
        )?;
        self.filled += read;
        Ok(self.filled - self.at >= len)
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn next_frame(&mut self) -> io::Result<Step<'_>> {
        Ok(match self.advance()? {
            Advance::Frame => Step::Frame(self.frame()),
            Advance::End => Step::End,
            Advance::Bad(bad) => Step::Bad(bad),
        })
    }

    /// The frame that [`Scanner::advance`] found.
    pub(crate) fn frame(&self) -> Frame<'_> {
        let (start, lsn) = self.frame;
        Frame {
            lsn: Lsn(lsn),
            bytes: self.buf.get(start..self.at).unwrap_or_default(),
        }
    }

    /// Moves to the next frame.
    pub(crate) fn advance(&mut self) -> io::Result<Advance> {
        loop {
            let (frame_offset, frame_lsn) = (self.offset(), self.lsn);
            if frame_offset >= self.limit {
                return Ok(Advance::End);
            }
            // Relative to `at`, which moves when the buffer is refilled.
            let mut len = 0;
            let mut lsn = self.lsn;
            let mut first = None;
            let mut mark = None;
            let bad = loop {
                let offset = frame_offset + len as u64;
                let bad = |what| Bad {
                    frame_offset,
                    frame_lsn,
                    offset,
                    lsn,
                    what,
                };
                if !self.ensure(len + HEADER)? {
                    break Some(bad(if offset >= self.limit {
                        "the frame is not complete"
                    } else {
                        "the file ends within a record header"
                    }));
                }
                let Some(header) = self.buf.get(self.at + len..).and_then(Header::read) else {
                    break Some(bad("the file ends within a record header"));
                };
                let expected = match self.order {
                    Order::Contiguous => header.lsn == lsn,
                    Order::Ascending => header.lsn >= lsn,
                };
                if !expected {
                    break Some(bad("no record where one must start"));
                }
                if !self.ensure(len + header.span() as usize)? {
                    break Some(bad("the file ends within a record"));
                }
                let bytes = self.buf.get(self.at + len..).unwrap_or_default();
                if self.check && !record::intact(self.nonce, header, bytes) {
                    break Some(bad("the record fails its checksum"));
                }
                first.get_or_insert(header.lsn);
                len += header.span() as usize;
                lsn = header.lsn.saturating_add(header.span());
                if header.has(MARK) {
                    let position = bytes
                        .get(HEADER..)
                        .and_then(|payload| payload.first_chunk::<8>())
                        .map_or(0, |payload| u64::from_le_bytes(*payload));
                    mark = Some(position);
                }
                if mark.is_some() || !header.has(CONTINUES) {
                    break None;
                }
            };
            if let Some(bad) = bad {
                return Ok(Advance::Bad(bad));
            }
            self.frame = (self.at, first.unwrap_or(frame_lsn));
            self.at += len;
            self.lsn = lsn;
            match mark {
                Some(position) => self.claimed = self.claimed.max(position),
                None => return Ok(Advance::Frame),
            }
        }
    }
}

/// What lies behind a bad record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The highest position that a mark there says was durable.
    pub(crate) claimed: u64,
    /// Something there might be taken for a record once the bytes before it are overwritten.
    pub(crate) stale: bool,
}

/// Looks from `offset` (position `lsn`) to the end of an original segment for marks and stale records. Linear in the
/// file, whatever it holds: only marks, which are short, are checksummed.
pub(crate) fn look_behind(
    file: &dyn File,
    nonce: u32,
    offset: u64,
    lsn: u64,
) -> io::Result<Behind> {
    let mut behind = Behind::default();
    let mut buf = vec![0u8; CHUNK];
    let overlap = record::MARK_SPAN as usize;
    let mut origin = offset;
    loop {
        let read = read_full(file, &mut buf, origin)?;
        let data = buf.get(..read).unwrap_or_default();
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| rest.len() >= HEADER) {
            if let Some(header) = Header::read(rest)
                && header.lsn == lsn + (origin - offset) + at as u64
                && (header.lsn != 0 || header.crc != 0)
            {
                behind.stale = true;
                if header.has(MARK)
                    && header.len == 8
                    && record::intact(nonce, header, rest)
                    && let Some(payload) = rest.get(HEADER..).and_then(|p| p.first_chunk::<8>())
                {
                    behind.claimed = behind.claimed.max(u64::from_le_bytes(*payload));
                }
            }
            at += 8;
        }
        if read < buf.len() {
            return Ok(behind);
        }
        origin += (read - overlap) as u64;
    }
}

/// Looks behind a bad record for the next place where a whole frame starts: its offset and position. Slow on hostile
/// contents, so only for looking at a log, not for opening it.
pub(crate) fn resync(
    file: &Arc<dyn File>,
    nonce: u32,
    order: Order,
    offset: u64,
    lsn: u64,
    limit: u64,
) -> io::Result<Option<(u64, u64)>> {
    let mut header = [0; HEADER];
    let mut at = offset + 8;
    while at + HEADER as u64 <= limit {
        if read_full(file.as_ref(), &mut header, at)? < HEADER {
            return Ok(None);
        }
        let Some(found) = Header::read(&header) else {
            return Ok(None);
        };
        let plausible = match order {
            Order::Contiguous => found.lsn == lsn + (at - offset),
            Order::Ascending => found.lsn > lsn,
        };
        if plausible && at + found.span() <= limit {
            let mut scanner = Scanner::new(Arc::clone(file), nonce, order, at, found.lsn, limit);
            if matches!(scanner.advance()?, Advance::Frame) {
                return Ok(Some((at, found.lsn)));
            }
        }
        at += 8;
    }
    Ok(None)
}

/// Offset of the first record in a segment.
pub(crate) const FIRST: u64 = BLOCK;
