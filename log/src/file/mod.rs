//! The log on files.
//!
//! `append` puts records into the [`Tail`] and makes sure that the disk has room for them; `write`
//! turns what waits into jobs; `space` keeps room ahead; `chores` decides what housekeeping comes next; `reclaim`
//! rewrites what is mostly dead; `paging` writes the owner's pages.

mod append;
mod chores;
mod paging;
mod reclaim;
mod rewrite;
mod search;
mod space;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use longtail_model::{Durability, Lsn};

use crate::api::{
    AppendError, Class, Done, Health, Job, Outcome, PageError, PageId, Payload, ReadError,
    RecordParts, ShardLog,
};
use crate::checkpoint::{Account, Checkpoint, Checkpoints};
use crate::cold::Cold;
use crate::disk::{Disk, Lock};
use crate::options::{Nonces, Options};
use crate::pages::Pages;
use crate::record;
use crate::segment::{BLOCK, Segments};
use crate::tail::Tail;

pub(crate) use reclaim::Reclaim;
pub(crate) use rewrite::{Footer, TEMPORARY as REWRITE_TEMPORARY};
pub(crate) use space::{RESERVE, Space, create_spare, is_spare};
pub(crate) use write::{Birth, SyncGate};

/// The part of [`Options::checkpoint_bytes`] that a log replays when it is opened and would rather not replay again.
const REPLAYED_PART: u64 = 16;

/// Whether appends are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Good,
    Full(String),
    Poisoned(String),
}

/// What a job of this log brings back.
enum FileDone {
    Write(write::Written),
    Sync(write::Synced),
    Chore(chores::ChoreDone),
}

impl FileDone {
    fn into_done(self) -> Done {
        Done(Box::new(self))
    }
}

/// One shard's log in a directory of its own.
pub struct FileLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    nonces: Nonces,
    segments: Segments,
    tail: Tail,
    cold: Cold,
    /// Below: handed to the operating system.
    written: u64,
    /// Below: synced.
    durable: u64,
    /// The durable position that the last mark speaks of.
    marked: u64,
    /// The end of a frame up to which the next mark may speak, once it is durable.
    boundary: u64,
    /// How far the newest segment may be appended to without asking for room; 0 when every append must ask.
    limit: u64,
    /// The newest segment's nonce.
    nonce: u32,
    state: State,
    writing: bool,
    syncing: bool,
    choring: bool,
    gate: Arc<SyncGate>,
    /// Given to each write job and taken back with its result.
    buffer: Vec<u8>,
    space: Space,
    pages: Pages,
    checkpoints: Checkpoints,
    reclaim: Reclaim,
    _lock: Lock,
}

/// What opening found out about a log.
pub(crate) struct Found {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) nonces: Nonces,
    pub(crate) segments: Segments,
    pub(crate) end: u64,
    pub(crate) space: Space,
    pub(crate) pages: Pages,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) lock: Lock,
}

impl FileLog {
    pub(crate) fn new(found: Found) -> Self {
        let nonce = found.segments.0.last().map_or(0, |segment| segment.nonce);
        let mut log = FileLog {
            tail: Tail::new(found.end, found.options.tail_bytes),
            disk: found.disk,
            dir: found.dir,
            options: found.options,
            nonces: found.nonces,
            segments: found.segments,
            cold: Cold::default(),
            written: found.end,
            durable: found.end,
            marked: 0,
            boundary: found.end,
            limit: 0,
            nonce,
            state: State::Good,
            writing: false,
            syncing: false,
            choring: false,
            gate: Arc::default(),
            buffer: Vec::new(),
            space: found.space,
            pages: found.pages,
            checkpoints: found.checkpoints,
            reclaim: Reclaim::default(),
            _lock: found.lock,
        };
        log.set_limit();
        log
    }

    fn poison(&mut self, what: &str, error: &std::io::Error) {
        let why = format!("{what}: {}", crate::disk::explain(error));
        tracing::error!(dir = %self.dir.display(), %why, "the log stops");
        self.state = State::Poisoned(why);
        self.limit = 0;
    }

    fn is_poisoned(&self) -> bool {
        matches!(self.state, State::Poisoned(_))
    }

    /// Up to which file offset a segment's bytes are settled.
    fn readable(&self, i: usize) -> u64 {
        match self.segments.0.get(i) {
            Some(segment) if segment.end <= self.written => segment.used,
            Some(segment) => segment.offset(self.written.max(segment.base)),
            None => 0,
        }
    }

    fn accounts(&self) -> Vec<Account> {
        let account = |segment: &crate::segment::Segment| Account {
            base: segment.base,
            live: segment.live,
            total: segment.total,
            total_bytes: segment.total_bytes,
        };
        self.segments.0.iter().map(account).collect()
    }

    /// Bytes of disk that the log's segments and pages occupy, as far as they were asked for.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let sealed = self.segments.0.len().saturating_sub(1);
        let used: u64 = self.segments.0.iter().take(sealed).map(|s| s.used).sum();
        used + self.space.bytes() + self.pages.bytes()
    }
}

impl ShardLog for FileLog {
    fn end(&self) -> Lsn {
        Lsn(self.tail.end())
    }

    fn start(&self) -> Lsn {
        Lsn(self
            .segments
            .0
            .first()
            .map_or(self.tail.end(), |segment| segment.base))
    }

    fn watermark(&self, level: Durability) -> Lsn {
        Lsn(match level {
            Durability::Memory => self.tail.end(),
            Durability::Interval => self.written,
            Durability::Sync => self.durable,
        })
    }

    fn disk_bytes(&self) -> Option<u64> {
        Some(FileLog::disk_bytes(self))
    }

    fn health(&self) -> Health {
        match &self.state {
            State::Good => Health::Good,
            State::Full(why) => Health::Full { why: why.clone() },
            State::Poisoned(why) => Health::Poisoned { why: why.clone() },
        }
    }

    fn append(&mut self, frame: &[RecordParts<'_>], class: Class) -> Result<Lsn, AppendError> {
        self.append_frame(frame, class)
    }

    fn span(&self, payload: usize) -> u64 {
        record::span(payload)
    }

    fn read(&mut self, lsn: Lsn, with: &mut dyn FnMut(Payload<'_>)) -> Result<(), ReadError> {
        let mut with = |bytes: &[u8]| with(Payload::whole(bytes));
        if lsn.0 >= self.tail.start() {
            with(self.tail.payload(lsn.0).ok_or(ReadError::Missing(lsn))?);
            return Ok(());
        }
        let i = self.segments.find(lsn.0).ok_or(ReadError::Missing(lsn))?;
        let limit = self.readable(i);
        let segment = self.segments.0.get(i).ok_or(ReadError::Missing(lsn))?;
        self.cold.read(
            self.disk.as_ref(),
            &self.dir,
            segment,
            limit,
            lsn,
            &mut with,
        )
    }

    fn scan(&self, from: Lsn, to: Lsn, with: &mut dyn FnMut(Lsn, &[u8])) -> std::io::Result<()> {
        self.scan_stretch(from.0, to.0, with)
    }

    fn page_file(&self, page: PageId) -> String {
        let file = self.dir.join(crate::pages::file_name(page.file));
        file.display().to_string()
    }

    fn retire(&mut self, lsn: Lsn) {
        let newest = match self.segments.0.last_mut() {
            Some(newest) if lsn.0 >= newest.base => Some(newest),
            _ => self
                .segments
                .find(lsn.0)
                .and_then(|i| self.segments.0.get_mut(i)),
        };
        // A segment that is gone was dropped before the restart that replays this.
        if let Some(segment) = newest {
            segment.live = segment.live.saturating_sub(1);
        }
    }

    fn next_write(&mut self, sync: bool) -> Option<Job> {
        self.write_job(sync)
    }

    fn next_sync(&mut self) -> Option<Job> {
        self.sync_job()
    }

    fn next_chore(&mut self) -> Option<Job> {
        self.chore_job()
    }

    fn finish(&mut self, done: Done) -> Outcome {
        let Ok(done) = done.0.downcast::<FileDone>() else {
            panic!("a job's result was given to a log that did not hand it out");
        };
        match *done {
            FileDone::Write(written) => self.finish_write(written),
            FileDone::Sync(synced) => self.finish_sync(synced),
            FileDone::Chore(done) => return self.finish_chore(done),
        }
        Outcome::Done
    }

    fn rewrite(&mut self, segment: Lsn, live: Vec<Lsn>) {
        self.take_live(segment.0, &live);
    }

    fn wants_checkpoint(&self) -> bool {
        if self.checkpoints.queued.is_some() || self.is_poisoned() {
            return false;
        }
        let since = self.tail.end() - self.checkpoints.last_asked;
        let size = self.checkpoints.last_size();
        let enough = match self.state {
            // Space comes back only below checkpoints, so a full disk is worth more of them.
            State::Full(_) => BLOCK.max(size / 4),
            _ => self.options.checkpoint_bytes.max(size.saturating_mul(4)),
        };
        // A process that is started again and again, each time for a little work, would replay more every time.
        let enough_again = (self.options.checkpoint_bytes / REPLAYED_PART).max(size);
        since >= enough || self.checkpoints.replayed() >= enough_again
    }

    fn checkpoint(&mut self, body: Vec<u8>) {
        let covers = self.tail.end();
        self.checkpoints.last_asked = covers;
        self.checkpoints.queued = Some(Checkpoint {
            shard: self.options.shard,
            covers,
            accounts: self.accounts(),
            pages: self.pages.accounts(),
            body,
        });
    }

    fn write_page(&mut self, bytes: &[u8]) -> Option<PageId> {
        if self.is_poisoned() {
            return None;
        }
        self.pages.put(bytes)
    }

    fn read_page(&self, page: PageId) -> Result<Vec<u8>, PageError> {
        self.pages.read(self.disk.as_ref(), &self.dir, page)
    }

    fn free_page(&mut self, page: PageId) {
        self.pages.free(page);
    }

    fn sparse_pages(&self) -> Option<u32> {
        self.pages.sparse()
    }

    fn keep_pages(&mut self, file: u32) {
        self.pages.keep_sparse(file);
    }

    fn pending_bytes(&self) -> u64 {
        self.tail.end() - self.written
    }

    fn pending_limit(&self) -> u64 {
        self.options.pending_bytes
    }
}
