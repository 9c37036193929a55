//! How a record looks in memory and on disk, which is the same.
//!
//! ```text
//! 0        4        8                16
//! ┌────────┬────────┬────────────────┬─────────┬─────────────┐
//! │ crc32c │ length │ position|flags │ payload │ 0..7 zeros  │
//! └────────┴────────┴────────────────┴─────────┴─────────────┘
//! ```
//!
//! Positions are multiples of 8, so their low three bits carry the flags. The checksum covers everything between
//! itself and the padding and starts from the segment's nonce.

use longtail_model::Lsn;

/// Bytes before the payload.
pub(crate) const HEADER: usize = 16;
/// Positions and record sizes are multiples of this.
pub(crate) const ALIGN: u64 = 8;
/// Size of the record that carries the position known to be durable.
pub(crate) const MARK_SPAN: u64 = span(8);

/// The frame goes on with the next record.
pub(crate) const CONTINUES: u64 = 1;
/// The owner holds the position until it retires it.
pub(crate) const RETAINED: u64 = 2;
/// Not the owner's: the payload is the durable position at the time, little-endian.
pub(crate) const MARK: u64 = 4;
const FLAGS: u64 = ALIGN - 1;

/// How far a record moves the position.
pub(crate) const fn span(payload: usize) -> u64 {
    ((HEADER + payload) as u64).next_multiple_of(ALIGN)
}

/// The first 16 bytes of a record, read but not believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) crc: u32,
    pub(crate) len: u32,
    pub(crate) lsn: u64,
    pub(crate) flags: u64,
}

impl Header {
    /// Reads a header from the start of `bytes`; `None` when there are too few.
    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (word, _) = rest.split_first_chunk::<8>()?;
        let word = u64::from_le_bytes(*word);
        Some(Header {
            crc: u32::from_le_bytes(*crc),
            len: u32::from_le_bytes(*len),
            lsn: word & !FLAGS,
            flags: word & FLAGS,
        })
    }

    pub(crate) fn has(self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Bytes that the record takes, with header and padding.
    pub(crate) fn span(self) -> u64 {
        span(self.len as usize)
    }
}

/// Whether the record that `bytes` starts with (header and whole payload) is what was written.
pub(crate) fn intact(seed: u32, header: Header, bytes: &[u8]) -> bool {
    bytes
        .get(4..HEADER + header.len as usize)
        .is_some_and(|covered| crc32c::crc32c_append(seed, covered) == header.crc)
}

/// Appends one record to `out`.
#[inline]
pub(crate) fn encode(out: &mut Vec<u8>, seed: u32, lsn: u64, flags: u64, head: &[u8], body: &[u8]) {
    debug_assert_eq!(lsn & FLAGS, 0, "positions are aligned");
    let start = out.len();
    let len = head.len() + body.len();
    let mut header = [0u8; HEADER];
    header[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    header[8..16].copy_from_slice(&(lsn | flags).to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(head);
    out.extend_from_slice(body);
    let crc = crc32c::crc32c_append(seed, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    let pad = span(len) as usize - HEADER - len;
    out.extend_from_slice(&[0u8; ALIGN as usize][..pad]);
}

/// One record of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// Its payload.
    pub payload: &'a [u8],
    /// Whether it was appended as retained.
    pub retained: bool,
}

/// The records of one frame, in order. The bytes were checked before.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Records { bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let header = Header::read(self.bytes)?;
        let payload = self.bytes.get(HEADER..HEADER + header.len as usize)?;
        self.bytes = self.bytes.get(header.span() as usize..).unwrap_or_default();
        Some(Record {
            lsn: Lsn(header.lsn),
            payload,
            retained: header.has(RETAINED),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_every_flipped_bit_shows() {
        let mut out = Vec::new();
        encode(&mut out, 7, 4096, RETAINED, b"head", b"body!");
        assert_eq!(out.len() as u64, span(9));
        let header = Header::read(&out).unwrap();
        assert_eq!((header.len, header.lsn), (9, 4096));
        assert!(header.has(RETAINED) && !header.has(CONTINUES) && !header.has(MARK));
        assert!(intact(7, header, &out));
        assert!(!intact(8, header, &out), "another segment's nonce");
        for bit in 0..(HEADER + 9) * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let header = Header::read(&bad).unwrap();
            assert!(!intact(7, header, &bad), "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_no_record() {
        let zeros = [0u8; 64];
        let header = Header::read(&zeros).unwrap();
        assert!(!intact(1, header, &zeros));
    }
}
