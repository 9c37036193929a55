//! Turning what waits in memory into jobs, and their results into watermarks.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::{FileDone, FileLog};
use crate::api::Job;
use crate::disk::{Disk, File};
use crate::record::{MARK, MARK_SPAN};
use crate::segment::{self, SegmentHeader};

/// Most bytes in one write, so that a large backlog becomes durable piece by piece.
const MAX_WRITE: u64 = 4 << 20;
/// Largest buffer kept from one write to the next whatever that was; a larger one is kept while it is put to use.
const KEEP_BUFFER: usize = 256 << 10;

/// Lets one sync of the log's files run at a time, and none after one failed: the system reports a lost write to one
/// caller only, and a second sync would claim success for it.
#[derive(Default)]
pub(crate) struct SyncGate(Mutex<bool>);

impl SyncGate {
    pub(crate) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        let result = sync();
        *failed = result.is_err();
        result
    }
}

/// What the first write to a segment does before it writes.
pub(crate) struct Birth {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    /// The segment before: its records become durable first, so that the new file's existence vouches for them.
    pub(crate) seal: Option<(Arc<dyn File>, u64)>,
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    pub(crate) header: SegmentHeader,
}

impl Birth {
    pub(crate) fn run(&self, file: &dyn File, gate: &SyncGate) -> io::Result<()> {
        if let Some((sealed, used)) = &self.seal {
            sealed.set_len(*used)?;
            gate.sync(|| sealed.sync_all())?;
        }
        file.write_at(&self.header.encode(), 0)?;
        gate.sync(|| file.sync_all())?;
        self.disk.rename(&self.from, &self.to)?;
        self.disk.sync_dir(&self.dir)
    }
}

struct Write {
    birth: Option<Birth>,
    file: Arc<dyn File>,
    gate: Arc<SyncGate>,
    buffer: Vec<u8>,
    offset: u64,
    to: u64,
    sync: bool,
}

/// What a write brings back.
pub(super) struct Written {
    buffer: Vec<u8>,
    to: u64,
    synced: bool,
    /// Whether this write gave a segment its name.
    born: bool,
    result: Result<(), (&'static str, io::Error)>,
}

/// What a sync brings back.
pub(super) struct Synced {
    to: u64,
    result: io::Result<()>,
}

impl Write {
    fn run(self) -> FileDone {
        let result = self.steps();
        FileDone::Write(Written {
            buffer: self.buffer,
            to: self.to,
            synced: self.sync,
            born: self.birth.is_some(),
            result,
        })
    }

    fn steps(&self) -> Result<(), (&'static str, io::Error)> {
        if let Some(birth) = &self.birth {
            birth
                .run(self.file.as_ref(), &self.gate)
                .map_err(|e| ("starting a segment", e))?;
        }
        self.file
            .write_at(&self.buffer, self.offset)
            .map_err(|e| ("writing records", e))?;
        if self.sync {
            self.gate
                .sync(|| self.file.sync_data())
                .map_err(|e| ("syncing records", e))?;
        }
        Ok(())
    }
}

impl FileLog {
    pub(super) fn write_job(&mut self, sync: bool) -> Option<Job> {
        if self.writing || self.is_poisoned() || self.written == self.tail.end() {
            return None;
        }
        self.push_mark();
        let i = self.segments.find(self.written)?;
        let segment = self.segments.0.get(i)?;
        let to = self
            .tail
            .end()
            .min(segment.end)
            .min(self.written + MAX_WRITE);
        let file = Arc::clone(segment.file.as_ref()?);
        let birth = segment.unborn.as_ref().map(|from| Birth {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            seal: i
                .checked_sub(1)
                .and_then(|before| self.segments.0.get(before))
                .and_then(|before| Some((Arc::clone(before.file.as_ref()?), before.used))),
            from: from.clone(),
            to: self.dir.join(segment::file_name(segment.base, 0)),
            header: SegmentHeader {
                shard: self.options.shard,
                base: segment.base,
                end: 0,
                generation: 0,
                nonce: segment.nonce,
            },
        });
        // A mark may only speak of whole frames, and a write may end within one.
        let whole = to == self.tail.end() || to == segment.end;
        if whole && self.boundary <= self.durable {
            self.boundary = to;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.tail.copy(self.written, to, &mut buffer);
        if sync {
            self.space.note_commit(buffer.len() as u64);
        }
        let write = Write {
            birth,
            file,
            gate: Arc::clone(&self.gate),
            offset: segment.offset(self.written),
            buffer,
            to,
            sync,
        };
        self.writing = true;
        Some(Job::new(move || write.run().into_done()))
    }

    /// Writes down how far the log is known to be durable, so that a restart can tell a torn tail from damage.
    fn push_mark(&mut self) {
        let news = self.boundary > self.marked && self.boundary <= self.durable;
        if news && self.tail.end() + MARK_SPAN <= self.limit {
            let position = self.boundary.to_le_bytes();
            self.tail
                .push(self.nonce, MARK, &position, &[], self.written);
            self.marked = self.boundary;
        }
    }

    pub(super) fn finish_write(&mut self, written: Written) {
        self.writing = false;
        let capacity = written.buffer.capacity();
        if capacity <= KEEP_BUFFER || capacity / 2 <= written.buffer.len() {
            self.buffer = written.buffer;
        }
        if self.is_poisoned() {
            return;
        }
        if let Err((what, error)) = written.result {
            self.poison(what, &error);
            return;
        }
        if written.born
            && let Some(i) = self.segments.find(self.written)
        {
            self.durable = self.durable.max(self.written);
            if let Some(born) = self.segments.0.get_mut(i) {
                born.unborn = None;
            }
            if let Some(sealed) = i.checked_sub(1).and_then(|i| self.segments.0.get_mut(i)) {
                sealed.file = None;
            }
        }
        self.written = written.to;
        if written.synced {
            self.durable = self.durable.max(written.to);
        }
        self.tail.evict(self.written);
    }

    pub(super) fn sync_job(&mut self) -> Option<Job> {
        if self.syncing || self.is_poisoned() || self.durable == self.written {
            return None;
        }
        let segment = self.segments.0.get(self.segments.find(self.written - 1)?)?;
        let file = Arc::clone(segment.file.as_ref()?);
        let gate = Arc::clone(&self.gate);
        let to = self.written;
        self.space.note_commit(to.saturating_sub(self.durable));
        self.syncing = true;
        Some(Job::new(move || {
            let result = gate.sync(|| file.sync_data());
            FileDone::Sync(Synced { to, result }).into_done()
        }))
    }

    pub(super) fn finish_sync(&mut self, synced: Synced) {
        self.syncing = false;
        if self.is_poisoned() {
            return;
        }
        match synced.result {
            Ok(()) => self.durable = self.durable.max(synced.to),
            Err(error) => self.poison("syncing records", &error),
        }
    }
}
