//! Pages: pieces of the owner's state that are written once, beside the checkpoints that refer to them.
//!
//! A page is taken over in memory and gets its place at once ([`Pages::put`]); it is written with others by the next
//! job, and synced before the next checkpoint is written. Page files only grow and are never reused: one goes when
//! neither the owner nor a checkpoint that is kept refers to a page in it. This module has the format and knows what
//! lies where; `file/paging` makes jobs of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::ShardId;

use crate::api::{PageError, PageId};
use crate::disk::{Disk, File, read_full};
use crate::segment::FORMAT;

const MAGIC: &[u8; 8] = b"LTLOGPAG";
/// Bytes of a page file's header.
pub(crate) const HEADER: u64 = 64;
const HEADER_CRC_AT: usize = 32;
/// Bytes of a page's own header.
const FRONT: usize = 16;
const ALIGN: u64 = 8;
const PREFIX: &str = "pages-";
/// Largest page in bytes, its header not counted.
const MAX: usize = 1 << 20;
/// So many bytes that wait are worth a job of their own.
const WRITE_AT: u64 = 256 << 10;
/// No page is taken over while so many bytes wait.
const PENDING_MAX: u64 = 4 << 20;
/// Bytes handed to the disk at a time.
const BATCH: usize = 1 << 20;

/// The file name of a page file.
pub(crate) fn file_name(number: u32) -> String {
    format!("{PREFIX}{number:08x}")
}

/// The number in a page file's name; `None` for other files.
pub(crate) fn parse_name(name: &str) -> Option<u32> {
    let hex = name.strip_prefix(PREFIX)?;
    (hex.len() == 8)
        .then(|| u32::from_str_radix(hex, 16).ok())
        .flatten()
}

/// What a checkpoint says of one page file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageAccount {
    pub(crate) number: u32,
    /// Bytes of it that are referred to.
    pub(crate) live: u64,
    /// Its length; all of it was durable.
    pub(crate) size: u64,
}

fn header(shard: ShardId, number: u32) -> [u8; HEADER as usize] {
    let mut out = [0; HEADER as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = out.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, MAGIC);
    put(8, &FORMAT.to_le_bytes());
    put(16, &u64::from(shard.get()).to_le_bytes());
    put(24, &u64::from(number).to_le_bytes());
    let crc = crc32c::crc32c(out.get(..HEADER_CRC_AT).unwrap_or_default());
    if let Some(to) = out.get_mut(HEADER_CRC_AT..HEADER_CRC_AT + 4) {
        to.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// A page as it lies in its file, without the padding behind it.
fn frame(page: PageId, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity((FRONT + bytes.len()).next_multiple_of(ALIGN as usize));
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&page.len.to_le_bytes());
    out.extend_from_slice(&page.file.to_le_bytes());
    out.extend_from_slice(&page.offset.to_le_bytes());
    out.extend_from_slice(bytes);
    let crc = crc32c::crc32c(out.get(4..).unwrap_or_default());
    if let Some(to) = out.first_chunk_mut::<4>() {
        *to = crc.to_le_bytes();
    }
    out
}

/// Bytes of file that a page takes.
fn span(page: PageId) -> u64 {
    (FRONT as u64 + u64::from(page.len)).next_multiple_of(ALIGN)
}

/// Reads a page and checks it.
fn read_frame(file: &dyn File, page: PageId) -> Result<Vec<u8>, PageError> {
    let damaged = |what| PageError::Damaged { page, what };
    if page.len as usize > MAX {
        return Err(damaged("its length is out of range"));
    }
    let mut bytes = vec![0; FRONT + page.len as usize];
    let read = read_full(file, &mut bytes, u64::from(page.offset))
        .map_err(|source| PageError::Io { page, source })?;
    if read < bytes.len() {
        return Err(damaged("the file ends before it"));
    }
    let field = |at: usize| {
        let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    };
    if field(0) != crc32c::crc32c(bytes.get(4..).unwrap_or_default()) {
        return Err(damaged("it fails its checksum"));
    }
    if (field(4), field(8), field(12)) != (page.len, page.file, page.offset) {
        return Err(damaged("another page lies there"));
    }
    bytes.drain(..FRONT);
    Ok(bytes)
}

/// A page file of this run that is still written to, or not yet synced.
struct Open {
    file: Arc<dyn File>,
    dirty: bool,
}

struct PageFile {
    live: u64,
    size: u64,
    /// A file that was to be emptied could not be.
    stuck: bool,
    open: Option<Open>,
}

/// What lies in which page file, and what waits to be written.
#[derive(Default)]
pub(crate) struct Pages {
    shard: ShardId,
    file_bytes: u64,
    files: BTreeMap<u32, PageFile>,
    /// In the order of their places.
    pending: BTreeMap<PageId, Arc<[u8]>>,
    pending_bytes: u64,
    /// The file being filled.
    current: Option<u32>,
    next: u32,
    /// There was no space: not tried again before the next checkpoint.
    stalled: bool,
}

impl Pages {
    /// Page files as the newest checkpoint has them (`accounts`) and as they are on the disk (`numbers`).
    pub(crate) fn new(
        shard: ShardId,
        file_bytes: u64,
        accounts: &[PageAccount],
        numbers: impl Iterator<Item = u32>,
    ) -> Self {
        let mut pages = Pages {
            shard,
            file_bytes,
            ..Pages::default()
        };
        for number in numbers {
            pages.next = pages.next.max(number.saturating_add(1));
            pages.files.insert(number, PageFile::of(0, 0));
        }
        for account in accounts {
            pages.next = pages.next.max(account.number.saturating_add(1));
            let file = PageFile::of(account.live, account.size);
            pages.files.insert(account.number, file);
        }
        pages
    }

    /// Takes a page over; `None` when that is better tried later.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<PageId> {
        if self.pending_bytes >= PENDING_MAX || bytes.len() > MAX {
            return None;
        }
        let full = |file: &PageFile| file.size + bytes.len() as u64 > self.file_bytes;
        let number = self
            .current
            .filter(|number| self.files.get(number).is_some_and(|file| !full(file)));
        let number = match number {
            Some(number) => number,
            None => {
                let number = self.next;
                self.next = self.next.checked_add(1)?;
                self.files.insert(number, PageFile::of(0, HEADER));
                self.current = Some(number);
                number
            }
        };
        let file = self.files.get_mut(&number)?;
        let page = PageId {
            file: number,
            offset: u32::try_from(file.size).ok()?,
            len: u32::try_from(bytes.len()).ok()?,
        };
        file.size += span(page);
        file.live += span(page);
        self.pending_bytes += span(page);
        self.pending.insert(page, frame(page, bytes).into());
        Some(page)
    }

    /// The bytes of a page.
    pub(crate) fn read(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        page: PageId,
    ) -> Result<Vec<u8>, PageError> {
        if let Some(frame) = self.pending.get(&page) {
            return Ok(frame.get(FRONT..).unwrap_or_default().to_vec());
        }
        let file = self.files.get(&page.file).ok_or(PageError::Missing(page))?;
        if let Some(open) = &file.open {
            return read_frame(open.file.as_ref(), page);
        }
        match disk.open(&dir.join(file_name(page.file)), false) {
            Ok(file) => read_frame(file.as_ref(), page),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PageError::Missing(page)),
            Err(source) => Err(PageError::Io { page, source }),
        }
    }

    /// The owner no longer refers to a page. Checkpoints may, so the bytes stay.
    pub(crate) fn free(&mut self, page: PageId) {
        if let Some(file) = self.files.get_mut(&page.file) {
            file.live = file.live.saturating_sub(span(page));
        }
    }

    /// A file of which less than half is referred to.
    pub(crate) fn sparse(&self) -> Option<u32> {
        let sparse = |(number, file): &(&u32, &PageFile)| {
            Some(**number) != self.current
                && !file.stuck
                && file.live > 0
                && file.live * 2 < file.size
        };
        self.files.iter().find(sparse).map(|(&number, _)| number)
    }

    /// The owner could not empty a sparse file: it is not proposed again.
    pub(crate) fn keep_sparse(&mut self, number: u32) {
        if let Some(file) = self.files.get_mut(&number) {
            file.stuck = true;
        }
    }

    /// What a checkpoint must say.
    pub(crate) fn accounts(&self) -> Vec<PageAccount> {
        let account = |(&number, file): (&u32, &PageFile)| PageAccount {
            number,
            live: file.live,
            size: file.size,
        };
        let live = self.files.iter().filter(|(_, file)| file.live > 0);
        live.map(account).collect()
    }

    /// Bytes that wait to be written.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Bytes of all page files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    /// Whether writing is worth a job.
    pub(crate) fn wants_write(&self) -> bool {
        self.pending_bytes >= WRITE_AT && !self.stalled
    }

    /// Everything that waits, as work; with `sync`, the work leaves nothing that a power cut could take.
    pub(crate) fn work(&self, sync: bool) -> Work {
        let mut files: BTreeMap<u32, Writes> = BTreeMap::new();
        for (&number, file) in &self.files {
            if let Some(open) = file.open.as_ref().filter(|open| sync && open.dirty) {
                let open = Some(Arc::clone(&open.file));
                files.insert(
                    number,
                    Writes {
                        open,
                        pages: vec![],
                    },
                );
            }
        }
        for (&page, bytes) in &self.pending {
            let writes = files.entry(page.file).or_insert_with(|| {
                let open = self.files.get(&page.file).and_then(|f| f.open.as_ref());
                Writes {
                    open: open.map(|open| Arc::clone(&open.file)),
                    pages: Vec::new(),
                }
            });
            writes.pages.push((page, Arc::clone(bytes)));
        }
        Work {
            shard: self.shard,
            files,
            sync,
        }
    }

    /// Takes note of work that was done.
    pub(crate) fn done(&mut self, worked: Worked) {
        self.stalled = false;
        for page in worked.written {
            if self.pending.remove(&page).is_some() {
                self.pending_bytes -= span(page);
            }
        }
        for (number, handle) in worked.files {
            let current = Some(number) == self.current;
            let Some(file) = self.files.get_mut(&number) else {
                continue;
            };
            let keep = current || !worked.synced;
            file.open = keep.then_some(Open {
                file: handle,
                dirty: !worked.synced,
            });
        }
    }

    /// There was no space for what waits.
    pub(crate) fn stall(&mut self) {
        self.stalled = true;
    }

    /// Forgets files that nothing refers to, and returns their names: neither the owner nor one of `listed`, the files
    /// that checkpoints speak of.
    pub(crate) fn take_dead(&mut self, listed: impl Fn(u32) -> bool) -> Vec<String> {
        let dead = |(number, file): (&u32, &PageFile)| {
            let waits = self.pending.keys().any(|page| page.file == *number);
            let gone = file.live == 0 && Some(*number) != self.current && !waits;
            (gone && !listed(*number)).then_some(*number)
        };
        let dead: Vec<u32> = self.files.iter().filter_map(dead).collect();
        for number in &dead {
            self.files.remove(number);
        }
        dead.into_iter().map(file_name).collect()
    }
}

impl PageFile {
    fn of(live: u64, size: u64) -> Self {
        PageFile {
            live,
            size,
            stuck: false,
            open: None,
        }
    }
}

/// What one job writes into one file.
struct Writes {
    /// `None`: the file is new.
    open: Option<Arc<dyn File>>,
    /// Ascending.
    pages: Vec<(PageId, Arc<[u8]>)>,
}

/// Pages on their way to the disk.
pub(crate) struct Work {
    shard: ShardId,
    files: BTreeMap<u32, Writes>,
    sync: bool,
}

/// What [`Work::run`] has done.
pub(crate) struct Worked {
    written: Vec<PageId>,
    files: Vec<(u32, Arc<dyn File>)>,
    synced: bool,
}

impl Work {
    /// Writes, and syncs if that was asked for. After an error nothing counts as written.
    pub(crate) fn run(self, disk: &dyn Disk, dir: &Path) -> io::Result<Worked> {
        let mut worked = Worked {
            written: Vec::new(),
            files: Vec::new(),
            synced: self.sync,
        };
        for (number, writes) in self.files {
            let file = match writes.open {
                Some(file) => file,
                None => {
                    let file = disk.create(&dir.join(file_name(number)))?;
                    file.write_at(&header(self.shard, number), 0)?;
                    file
                }
            };
            let (mut from, mut batch) = (0, Vec::new());
            for (page, bytes) in &writes.pages {
                let at = u64::from(page.offset);
                if batch.len() >= BATCH || (!batch.is_empty() && from + batch.len() as u64 != at) {
                    file.write_at(&batch, from)?;
                    batch.clear();
                }
                if batch.is_empty() {
                    from = at;
                }
                batch.extend_from_slice(bytes);
                batch.resize(batch.len().next_multiple_of(ALIGN as usize), 0);
                worked.written.push(*page);
            }
            if !batch.is_empty() {
                file.write_at(&batch, from)?;
            }
            if self.sync {
                file.sync_all()?;
            }
            worked.files.push((number, file));
        }
        if self.sync && !worked.files.is_empty() {
            // The name of a file that an earlier job created is made safe here as well.
            disk.sync_dir(dir)?;
        }
        Ok(worked)
    }
}

/// What reading a whole page file found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) pages: u64,
    /// Where the first page is that cannot be read, and why.
    pub(crate) bad: Option<(u64, &'static str)>,
}

/// Reads all pages of a file up to `size`, which a checkpoint vouches for.
pub(crate) fn scan(
    disk: &dyn Disk,
    path: &Path,
    shard: ShardId,
    number: u32,
    size: u64,
) -> io::Result<Scan> {
    let mut found = Scan::default();
    let file = match disk.open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            found.bad = Some((0, "the file is missing"));
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    let mut start = [0; HEADER as usize];
    let read = read_full(file.as_ref(), &mut start, 0)?;
    if read < start.len() || start != header(shard, number) {
        found.bad = Some((0, "its header is damaged"));
        return Ok(found);
    }
    let mut at = HEADER;
    while at < size {
        let mut front = [0; FRONT];
        let read = read_full(file.as_ref(), &mut front, at)?;
        let len = front.get(4..).and_then(|rest| rest.first_chunk::<4>());
        let page = PageId {
            file: number,
            offset: u32::try_from(at).unwrap_or(u32::MAX),
            len: len.map_or(0, |len| u32::from_le_bytes(*len)),
        };
        if read < FRONT {
            found.bad = Some((at, "the file ends before it"));
            return Ok(found);
        }
        match read_frame(file.as_ref(), page) {
            Ok(_) => found.pages += 1,
            Err(PageError::Io { source, .. }) => return Err(source),
            Err(PageError::Damaged { what, .. }) => {
                found.bad = Some((at, what));
                return Ok(found);
            }
            Err(PageError::Missing(_)) => {}
        }
        at += span(page);
    }
    Ok(found)
}

/// The page files in a directory that none of `listed` speaks of.
pub(crate) fn unlisted(dir: &Path, names: &[String], listed: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    names
        .iter()
        .filter(|name| parse_name(name).is_some_and(|number| !listed(number)))
        .map(|name| dir.join(name))
        .collect()
}
