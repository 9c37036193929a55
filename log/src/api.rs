//! The contract between a shard and whatever keeps its log.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use longtail_model::{Durability, Lsn};

/// The bytes that follow a record's head.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// To be copied.
    Lent(&'a [u8]),
    /// Bytes in an allocation that holds little else: a log in memory keeps a large body by referring to it.
    Shared(&'a Bytes),
}

impl Body<'_> {
    /// No bytes.
    pub const NONE: Self = Body::Lent(&[]);

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Lent(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

/// What a record holds: `front` followed by `body`.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// All of it, or the record's head where there is a `body`.
    pub front: &'a [u8],
    /// The body, where the log keeps it apart.
    pub body: Option<&'a Bytes>,
}

impl<'a> Payload<'a> {
    /// One that lies in one piece.
    #[must_use]
    pub fn whole(bytes: &'a [u8]) -> Self {
        Payload {
            front: bytes,
            body: None,
        }
    }

    /// A copy in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        [self.front, self.body.map_or(&[], |body| body)].concat()
    }
}

/// One record to append: its payload is `head` followed by `body`.
///
/// Two parts, so that a message body goes from the connection's buffer into the log with one copy.
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    /// The encoded event.
    pub head: &'a [u8],
    /// The bytes that follow it, often none.
    pub body: Body<'a>,
    /// Whether an index will hold this record's position until [`ShardLog::retire`] is called for it. Other records
    /// live only until a checkpoint covers them.
    pub retained: bool,
}

impl RecordParts<'_> {
    /// Bytes of the payload.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no payload is empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.bytes().len()
    }
}

/// What a frame may use of the last free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// New messages: refused with [`AppendError::Full`] while a reserve is still left.
    Message,
    /// Settlements and definitions, which are what frees space: may use the reserve.
    Control,
}

/// Whether the log accepts appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Good,
    /// No space for messages: [`Class::Message`] is refused until reclaiming or the operator frees some.
    Full {
        /// What ran out, for the operator.
        why: String,
    },
    /// A write or a sync failed. Nothing more is acknowledged; only a restart, which reads back what the disk really
    /// holds, ends this.
    Poisoned {
        /// The operation and the error of the system, for the operator.
        why: String,
    },
}

/// Why a frame was not appended. Nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// See [`Health::Full`].
    #[error("the log has no space left: {why}")]
    Full {
        /// What ran out.
        why: String,
    },
    /// See [`Health::Poisoned`].
    #[error("the log stopped after a failed write: {why}")]
    Poisoned {
        /// The operation and the error.
        why: String,
    },
    /// The frame is larger than the log can ever hold.
    #[error("a frame of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Size of the frame.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No record starts at this position (it was retired and reclaimed, or never existed).
    #[error("no record at position {0}")]
    Missing(Lsn),
    /// The bytes at this position fail their checksum.
    #[error("the record at position {0} is damaged")]
    Damaged(Lsn),
    /// The disk refused.
    #[error("cannot read the record at position {lsn}: {source}")]
    Io {
        /// The position.
        lsn: Lsn,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Where a page of the owner's state lies: see [`ShardLog::write_page`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId {
    /// The number of its file.
    pub file: u32,
    /// Its byte offset there.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}:{}", self.file, self.offset)
    }
}

/// Why a page could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Its file is gone, or there are no pages in this log.
    #[error("the file of page {0} is missing")]
    Missing(PageId),
    /// It is not what was written.
    #[error("page {page} is damaged: {what}")]
    Damaged {
        /// The page.
        page: PageId,
        /// What is wrong.
        what: &'static str,
    },
    /// The disk refused.
    #[error("cannot read page {page}: {source}")]
    Io {
        /// The page.
        page: PageId,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A piece of slow work: runs anywhere, touches no state of the log.
pub struct Job(Box<dyn FnOnce() -> Done + Send>);

impl Job {
    /// Wraps the work.
    #[must_use]
    pub fn new(work: impl FnOnce() -> Done + Send + 'static) -> Self {
        Job(Box::new(work))
    }

    /// Does the work. Blocks on the disk.
    #[must_use = "the log learns of the result only through `finish`"]
    pub fn run(self) -> Done {
        (self.0)()
    }
}

/// What a [`Job`] brought back; only the log that handed it out can read it.
pub struct Done(pub(crate) Box<dyn Any + Send>);

/// A record found in a segment that is a candidate for rewriting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Its position.
    pub lsn: Lsn,
    /// The first bytes of its payload (at most [`Scanned::HEAD`]), enough for the owner to say whether an index still
    /// refers to it.
    pub head: Vec<u8>,
}

impl Scanned {
    /// How many bytes of a payload `head` holds at most.
    pub const HEAD: usize = 32;
}

/// What [`ShardLog::finish`] leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that the caller must act on beyond looking at the watermarks.
    Done,
    /// The caller must now call [`ShardLog::rewrite`] with the positions among these that are still referenced.
    Candidates {
        /// The segment, as `rewrite` wants it.
        segment: Lsn,
        /// Its retained records.
        records: Vec<Scanned>,
    },
}

/// One shard's log.
///
/// Positions ascend with every record and never change. A *frame* is the slice given to one `append`: after a crash
/// either all of its records are there or none is.
pub trait ShardLog: Send {
    /// The position that the next record will get. Besides `append`, [`ShardLog::next_write`] may move it, by a record
    /// of the log's own.
    fn end(&self) -> Lsn;

    /// The position of the oldest record that may still be there.
    fn start(&self) -> Lsn {
        Lsn::ZERO
    }

    /// Everything below this position is as safe as `level` says. `Memory` is always [`ShardLog::end`].
    fn watermark(&self, level: Durability) -> Lsn;

    /// Whether the log takes appends.
    fn health(&self) -> Health;

    /// Appends one frame to memory and returns its first record's position, which is what [`ShardLog::end`] was; the
    /// positions of the others follow by [`ShardLog::span`].
    ///
    /// # Errors
    /// When the frame is refused; the log is unchanged then.
    fn append(&mut self, frame: &[RecordParts<'_>], class: Class) -> Result<Lsn, AppendError>;

    /// How far a record with a payload of `payload` bytes moves the position.
    fn span(&self, payload: usize) -> u64;

    /// Calls `with` with the payload of the record at `lsn`.
    ///
    /// # Errors
    /// When there is no such record, or it cannot be read.
    fn read(&mut self, lsn: Lsn, with: &mut dyn FnMut(Payload<'_>)) -> Result<(), ReadError>;

    /// The retained record at `lsn` is no longer referenced. Exactly once for each retained record, also while
    /// replaying: the log counts, and a segment whose count is zero is dropped.
    fn retire(&mut self, lsn: Lsn);

    /// Calls `with` with each retained record from `from`, which is the position of a record or zero, up to `to`: slow,
    /// for an owner that has lost what was derived from the log. Records that were retired may be among them; what
    /// cannot be read of a segment is left out and reported.
    ///
    /// # Errors
    /// When the disk refuses, or the log cannot be gone through.
    fn scan(&self, from: Lsn, to: Lsn, with: &mut dyn FnMut(Lsn, &[u8])) -> std::io::Result<()> {
        let _ = (from, to, with);
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// The name of the file that a page is in, for messages to the operator.
    fn page_file(&self, page: PageId) -> String {
        page.to_string()
    }

    /// The bytes that wait to be written, as a job; with `sync` the job also makes them durable. `None` when nothing
    /// waits or a write is already under way.
    fn next_write(&mut self, sync: bool) -> Option<Job>;

    /// A job that makes everything written so far durable; independent of writes. `None` when there is nothing to do
    /// or a sync is under way.
    fn next_sync(&mut self) -> Option<Job>;

    /// Housekeeping: preparing the next segment, writing a checkpoint, scanning, rewriting and dropping segments.
    /// At most one at a time; `None` when there is nothing to do.
    fn next_chore(&mut self) -> Option<Job>;

    /// Takes a job's result back.
    fn finish(&mut self, done: Done) -> Outcome;

    /// Rewrites a segment without the records that are not in `live` (ascending). Answers
    /// [`Outcome::Candidates`], which may bring a segment in several parts.
    fn rewrite(&mut self, segment: Lsn, live: Vec<Lsn>);

    /// Whether enough was appended since the last checkpoint, or replayed when the log was opened, to make a new one
    /// worth its cost.
    fn wants_checkpoint(&self) -> bool;

    /// Queues a checkpoint: `body` is the owner's whole state after applying everything below [`ShardLog::end`].
    /// It becomes valid once the log is durable up to there.
    fn checkpoint(&mut self, body: Vec<u8>);

    /// Takes over a piece of the owner's state, at most 1 MiB, that checkpoints then need not contain: it is written once,
    /// and durable before a checkpoint that is asked for afterwards. It can be read at once, and until
    /// [`ShardLog::free_page`]; across a restart, if the checkpoint from which that starts was taken in between.
    /// `None` when the log keeps no pages, or not now: the owner keeps what it has.
    fn write_page(&mut self, bytes: &[u8]) -> Option<PageId> {
        let _ = bytes;
        None
    }

    /// The bytes of a page.
    ///
    /// # Errors
    /// When the page cannot be read, or is not what was written.
    fn read_page(&self, page: PageId) -> Result<Vec<u8>, PageError> {
        Err(PageError::Missing(page))
    }

    /// The owner no longer refers to a page. Exactly once for each, also while replaying.
    fn free_page(&mut self, page: PageId) {
        let _ = page;
    }

    /// The number of a file whose pages the owner should write again elsewhere, so that it can go: most of it is free.
    fn sparse_pages(&self) -> Option<u32> {
        None
    }

    /// A file that [`ShardLog::sparse_pages`] named cannot be emptied: it is not named again.
    fn keep_pages(&mut self, file: u32) {
        let _ = file;
    }

    /// Bytes of disk that the log occupies; `None` when it is on none.
    fn disk_bytes(&self) -> Option<u64> {
        None
    }

    /// Bytes appended and not yet written.
    fn pending_bytes(&self) -> u64 {
        self.end().0 - self.watermark(Durability::Interval).0
    }

    /// The number of pending bytes from which publishers should be held back. Appending beyond it works: memory grows
    /// then.
    fn pending_limit(&self) -> u64 {
        64 << 20
    }
}
