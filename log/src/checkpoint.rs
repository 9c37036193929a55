//! Checkpoint files: the owner's state up to a position, with the log's own account of its segments.
//!
//! A checkpoint is written under another name, synced, and renamed: a file with a checkpoint's name was complete once.
//! Two are kept, so that a damaged one costs a longer replay and not the log.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use longtail_model::ShardId;

use crate::disk::{Disk, File, read_full};
use crate::pages::PageAccount;
use crate::segment::FORMAT;

const MAGIC: &[u8; 8] = b"LTLOGCKP";
const HEADER: usize = 48;
const HEADER_CRC_AT: usize = 40;
const ACCOUNT: usize = 32;
const PAGE_ACCOUNT: usize = 24;
const PREFIX: &str = "checkpoint-";
/// The name while it is written.
pub(crate) const TEMPORARY: &str = "checkpoint.tmp";
/// Bytes written at a time.
const CHUNK: usize = 1 << 20;

/// What a segment held when the checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) base: u64,
    pub(crate) live: u64,
    pub(crate) total: u64,
    pub(crate) total_bytes: u64,
}

/// A checkpoint, read or to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) shard: ShardId,
    /// Everything below is in `body`.
    pub(crate) covers: u64,
    pub(crate) accounts: Vec<Account>,
    /// Page files that `body` refers to, ascending.
    pub(crate) pages: Vec<PageAccount>,
    pub(crate) body: Vec<u8>,
}

/// Why a checkpoint file was not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("format version {0}")]
    Newer(u32),
    #[error("{0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The file name of a checkpoint.
pub(crate) fn file_name(covers: u64) -> String {
    format!("{PREFIX}{covers:016x}")
}

/// The position in a checkpoint's file name; `None` for other files.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_prefix(PREFIX)?;
    (hex.len() == 16)
        .then(|| u64::from_str_radix(hex, 16).ok())
        .flatten()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Checkpoint {
    fn front(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.accounts.len() * ACCOUNT);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(self.accounts.len() as u32).to_le_bytes());
        out.extend_from_slice(&u64::from(self.shard.get()).to_le_bytes());
        out.extend_from_slice(&self.covers.to_le_bytes());
        out.extend_from_slice(&(self.body.len() as u64).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        for account in &self.accounts {
            for field in [
                account.base,
                account.live,
                account.total,
                account.total_bytes,
            ] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        for file in &self.pages {
            for field in [u64::from(file.number), file.live, file.size] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        out
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        let accounts = self.accounts.len() * ACCOUNT + self.pages.len() * PAGE_ACCOUNT;
        (HEADER + accounts + self.body.len() + 4) as u64
    }

    /// Writes the file and makes it and its name durable.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(TEMPORARY);
        let file = disk.create(&temporary)?;
        let front = self.front();
        file.write_at(&front, 0)?;
        let mut at = front.len() as u64;
        for chunk in self.body.chunks(CHUNK) {
            file.write_at(chunk, at)?;
            at += chunk.len() as u64;
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&front), &self.body);
        file.write_at(&crc.to_le_bytes(), at)?;
        file.sync_all()?;
        disk.rename(&temporary, &dir.join(file_name(self.covers)))?;
        disk.sync_dir(dir)
    }

    /// Reads and checks a checkpoint file.
    pub(crate) fn read(file: &dyn File) -> Result<Self, Unreadable> {
        const SHORT: Unreadable = Unreadable::Damaged("the file is too short");
        let size = usize::try_from(file.size()?).map_err(|_| SHORT)?;
        let mut bytes = vec![0; size];
        if read_full(file, &mut bytes, 0)? != size {
            return Err(SHORT);
        }
        // The body is most of it, and not copied.
        let (mut checkpoint, body) = Self::parse(&bytes)?;
        bytes.truncate(body.end);
        bytes.drain(..body.start);
        checkpoint.body = bytes;
        Ok(checkpoint)
    }

    /// Checks and takes apart the bytes of a checkpoint file.
    #[cfg(test)]
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (mut checkpoint, body) = Self::parse(bytes)?;
        checkpoint.body = bytes.get(body).unwrap_or_default().to_vec();
        Ok(checkpoint)
    }

    /// All but the body, and where that is.
    fn parse(bytes: &[u8]) -> Result<(Self, Range<usize>), Unreadable> {
        const SHORT: Unreadable = Unreadable::Damaged("the file is too short");
        if bytes.get(..8).ok_or(SHORT)? != MAGIC {
            return Err(Unreadable::Damaged("it is not a checkpoint"));
        }
        let version = u32_at(bytes, 8).ok_or(SHORT)?;
        if version > FORMAT {
            return Err(Unreadable::Newer(version));
        }
        let header = bytes.get(..HEADER_CRC_AT).ok_or(SHORT)?;
        if u32_at(bytes, HEADER_CRC_AT) != Some(crc32c::crc32c(header)) {
            return Err(Unreadable::Damaged("the header fails its checksum"));
        }
        let accounts = u32_at(bytes, 12).ok_or(SHORT)? as usize;
        let shard = ShardId(u64_at(bytes, 16).ok_or(SHORT)? as u16);
        let covers = u64_at(bytes, 24).ok_or(SHORT)?;
        let body_len = u64_at(bytes, 32).ok_or(SHORT)?;
        let pages = u32_at(bytes, HEADER_CRC_AT + 4).ok_or(SHORT)? as usize;
        let pages_at = HEADER + accounts * ACCOUNT;
        let body_at = pages_at + pages * PAGE_ACCOUNT;
        if bytes.len() as u64 != (body_at as u64 + 4).saturating_add(body_len) {
            return Err(Unreadable::Damaged("the file has not the length it should"));
        }
        let crc_at = bytes.len() - 4;
        if u32_at(bytes, crc_at) != Some(crc32c::crc32c(bytes.get(..crc_at).ok_or(SHORT)?)) {
            return Err(Unreadable::Damaged("the contents fail their checksum"));
        }
        let accounts = bytes
            .get(HEADER..pages_at)
            .ok_or(SHORT)?
            .chunks_exact(ACCOUNT)
            .map(|entry| {
                let field = |i: usize| u64_at(entry, i * 8).unwrap_or_default();
                Account {
                    base: field(0),
                    live: field(1),
                    total: field(2),
                    total_bytes: field(3),
                }
            })
            .collect();
        let pages = bytes
            .get(pages_at..body_at)
            .ok_or(SHORT)?
            .chunks_exact(PAGE_ACCOUNT)
            .map(|entry| {
                let field = |i: usize| u64_at(entry, i * 8).unwrap_or_default();
                Ok(PageAccount {
                    number: u32::try_from(field(0)).map_err(|_| {
                        Unreadable::Damaged("the number of a page file is too high")
                    })?,
                    live: field(1),
                    size: field(2),
                })
            })
            .collect::<Result<_, Unreadable>>()?;
        let checkpoint = Checkpoint {
            shard,
            covers,
            accounts,
            pages,
            body: Vec::new(),
        };
        Ok((checkpoint, body_at..crc_at))
    }
}

/// The checkpoints that a log keeps and the one it is about to write.
#[derive(Default)]
pub(crate) struct Checkpoints {
    /// Position and size of the readable ones, ascending, at most two.
    pub(crate) kept: Vec<(u64, u64)>,
    /// The page files that each of them refers to.
    pub(crate) pages: BTreeMap<u64, Vec<u32>>,
    /// Waits for the log to become durable up to what it covers.
    pub(crate) queued: Option<Checkpoint>,
    /// Where the log ended when the last one was asked for.
    pub(crate) last_asked: u64,
    /// Where it ended when it was opened.
    pub(crate) opened_at: u64,
}

impl Checkpoints {
    /// Below this position no replay ever starts again.
    pub(crate) fn floor(&self) -> u64 {
        match self.kept.as_slice() {
            [older, _newer] => older.0,
            _ => 0,
        }
    }

    /// Bytes that were replayed when the log was opened, and would be again, since nothing was asked for since.
    pub(crate) fn replayed(&self) -> u64 {
        self.opened_at.saturating_sub(self.last_asked)
    }

    /// Size of the newest one.
    pub(crate) fn last_size(&self) -> u64 {
        self.kept.last().map_or(0, |kept| kept.1)
    }

    /// Takes note of a checkpoint that is now durable.
    pub(crate) fn add(&mut self, covers: u64, size: u64, pages: Vec<u32>) {
        self.kept.retain(|kept| kept.0 != covers);
        self.kept.push((covers, size));
        self.pages.insert(covers, pages);
        if self.kept.len() > 2 {
            self.kept.remove(0);
        }
        let kept = &self.kept;
        self.pages
            .retain(|covers, _| kept.iter().any(|kept| kept.0 == *covers));
    }

    /// Whether a checkpoint that is kept, or about to be written, refers to this page file.
    pub(crate) fn lists(&self, file: u32) -> bool {
        let queued = self.queued.as_ref();
        self.pages.values().any(|files| files.contains(&file))
            || queued.is_some_and(|queued| queued.pages.iter().any(|page| page.number == file))
    }
}

/// Removes every checkpoint file that is not among `kept`; failing to is harmless.
pub(crate) fn prune(disk: &dyn Disk, dir: &Path, kept: &[u64]) {
    let Ok(names) = disk.list(dir) else { return };
    for name in names {
        if parse_name(&name).is_some_and(|covers| !kept.contains(&covers)) {
            let path: PathBuf = dir.join(&name);
            if let Err(error) = disk.remove(&path) {
                tracing::warn!(file = %path.display(), %error, "cannot remove an old checkpoint");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FsDisk;

    #[test]
    fn a_checkpoint_reads_back_and_every_flipped_bit_shows() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint {
            shard: ShardId(2),
            covers: 4096,
            accounts: vec![Account {
                base: 0,
                live: 1,
                total: 2,
                total_bytes: 3,
            }],
            pages: vec![PageAccount {
                number: 7,
                live: 8,
                size: 9,
            }],
            body: b"state".to_vec(),
        };
        checkpoint.write(&FsDisk, dir.path()).unwrap();
        let path = dir.path().join(file_name(4096));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, checkpoint.size());
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
        for bit in 0..bytes.len() * 8 {
            // The four bytes between the header's checksum and the accounts are covered as well.
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Checkpoint::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn the_floor_is_the_older_of_two() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.add(100, 1, Vec::new());
        assert_eq!(checkpoints.floor(), 0);
        checkpoints.add(100, 2, Vec::new());
        assert_eq!(checkpoints.floor(), 0, "the same position counts once");
        checkpoints.add(200, 1, Vec::new());
        checkpoints.add(300, 5, Vec::new());
        assert_eq!((checkpoints.floor(), checkpoints.last_size()), (200, 5));
    }
}
