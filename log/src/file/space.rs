//! Room on the disk ahead of the records.
//!
//! A commit into space that already holds zeros takes half as long as one that grows the file, so zeros are written
//! ahead by housekeeping, in steps that follow use: the newest segment grows by small steps, and once it is half full
//! the next one is prepared whole. Where housekeeping is late, or commits are so large that zeroing would only cost
//! bandwidth, the space is reserved without writing it.
//!
//! A reserve file stands in for the space that settlements and a checkpoint need when the disk is full. Removing it
//! gives them room; messages are refused until it is back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::chores::ChoreDone;
use super::{FileDone, FileLog, State};
use crate::api::Job;
use crate::disk::{Disk, File};
use crate::segment::{BLOCK, Layout, Segment};

/// Name of the reserve file.
pub(crate) const RESERVE: &str = "reserve";
const SPARE_PREFIX: &str = "spare-";
/// Bytes between two syncs, on average, from which zeroing ahead costs more than it saves: a commit so large hardly
/// gains by it, and a busy log that is synced now and then has every byte written twice.
const LARGE_COMMIT: u64 = 128 << 10;
/// Largest step by which the newest segment grows.
const MAX_STEP: u64 = 8 << 20;
/// Zeros written between two looks at the fence.
const ZEROS: &[u8] = &[0; 256 << 10];
/// Zeros written between two syncs.
const SYNC_EVERY: u64 = 8 << 20;

/// An allocated file that becomes a segment.
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) allocated: u64,
}

/// Whether a file name is that of a spare.
pub(crate) fn is_spare(name: &str) -> bool {
    name.starts_with(SPARE_PREFIX)
}

pub(super) fn spare_path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("{SPARE_PREFIX}{n}"))
}

pub(crate) fn create_spare(disk: &dyn Disk, dir: &Path, n: u64, len: u64) -> io::Result<Spare> {
    let path = spare_path(dir, n);
    let file = disk.create(&path)?;
    if let Err(error) = file.allocate(0, len) {
        // The name is of no use to anybody; that it may stay behind is harmless.
        let _ = disk.remove(&path);
        return Err(error);
    }
    Ok(Spare {
        path,
        file,
        allocated: len,
    })
}

/// Keeps housekeeping from zeroing what appends have meanwhile taken: nothing is zeroed below the offset inside.
#[derive(Default)]
pub(super) struct Fence(Mutex<u64>);

impl Fence {
    fn raise<T>(&self, to: u64, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut floor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work()?;
        *floor = to.max(*floor);
        Ok(done)
    }

    /// Reserves a range unless appends are past it: a sealed file must not grow again.
    fn allocate(&self, file: &dyn File, from: u64, to: u64) -> io::Result<()> {
        let floor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *floor >= to {
            return Ok(());
        }
        file.allocate(from, to - from)
    }

    fn zero(&self, file: &dyn File, from: u64, to: u64) -> io::Result<()> {
        let floor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = from.max(*floor);
        match to.checked_sub(from) {
            Some(len) if len > 0 => file.write_at(ZEROS.get(..len as usize).unwrap_or(ZEROS), from),
            _ => Ok(()),
        }
    }
}

/// What is known of the space around the newest segment.
pub(crate) struct Space {
    fence: Arc<Fence>,
    /// Size of the newest segment's file.
    pub(crate) allocated: u64,
    spares: Vec<Spare>,
    next_spare: u64,
    /// Size of the reserve file.
    pub(crate) reserve: u64,
    reserve_wanted: u64,
    /// Housekeeping found no space; it tries again only when `retry` says that something may have changed.
    stuck: bool,
    retry: bool,
    /// Moving average of the bytes that became durable with a sync.
    average_commit: u64,
}

impl Space {
    pub(crate) fn new(allocated: u64, reserve: u64, reserve_wanted: u64) -> Self {
        Space {
            fence: Arc::default(),
            allocated,
            spares: Vec::new(),
            next_spare: 0,
            reserve,
            reserve_wanted,
            stuck: false,
            retry: false,
            average_commit: 0,
        }
    }

    pub(super) fn note_commit(&mut self, bytes: u64) {
        self.average_commit = (self.average_commit * 7 + bytes) / 8;
    }

    /// Whether space is only reserved, not zeroed.
    fn only_reserves(&self) -> bool {
        self.average_commit >= LARGE_COMMIT
    }

    pub(super) fn reserve_is_whole(&self) -> bool {
        self.reserve >= self.reserve_wanted
    }

    /// Something may have freed space.
    pub(super) fn retry(&mut self) {
        self.retry = true;
    }

    pub(super) fn bytes(&self) -> u64 {
        let spares: u64 = self.spares.iter().map(|spare| spare.allocated).sum();
        self.allocated + self.reserve + spares
    }

    pub(super) fn spares(&self) -> usize {
        self.spares.len()
    }

    pub(super) fn add_spare(&mut self, spare: Spare) {
        self.stuck = false;
        self.spares.push(spare);
    }

    pub(super) fn next_spare_number(&mut self) -> u64 {
        self.next_spare += 1;
        self.next_spare
    }
}

/// By how much the newest segment grows.
fn step(used: u64, ahead: u64) -> u64 {
    used.next_power_of_two().clamp(ahead, MAX_STEP.max(ahead))
}

impl FileLog {
    /// Recomputes how far appends need not ask.
    pub(super) fn set_limit(&mut self) {
        if let (Some(newest), false) = (self.segments.0.last(), self.is_poisoned()) {
            self.limit = newest.base + self.space.allocated.saturating_sub(BLOCK);
        }
    }

    /// Makes room for `size` bytes at the end of the log, in the newest segment or in a new one.
    pub(super) fn room_for(&mut self, size: u64) -> io::Result<()> {
        let Some(newest) = self.segments.0.last() else {
            return Err(io::Error::other("the log has no segment"));
        };
        let used = BLOCK + (self.tail.end() - newest.base);
        let need = used + size;
        if need <= self.space.allocated {
            self.set_limit();
            return Ok(());
        }
        // An empty segment takes a frame of any size: a second one could not start at the same position.
        if need > self.options.segment_bytes && used > BLOCK {
            return self.roll(size);
        }
        let Some(file) = newest.file.clone() else {
            return Err(io::Error::other("the newest segment is not open"));
        };
        // What the reserve gave back must last for checkpoints too.
        let step = match self.state {
            State::Full(_) => BLOCK,
            _ => step(used, self.options.ahead_bytes),
        };
        let generous = (need + step).min(self.options.segment_bytes.max(need));
        let from = self.space.allocated;
        let grow = |to: u64| {
            self.space
                .fence
                .raise(to, || file.allocate(from, to - from))
                .map(|()| to)
        };
        self.space.allocated = match grow(generous) {
            Err(error) if crate::disk::is_full(&error) && generous > need => grow(need)?,
            grown => grown?,
        };
        self.set_limit();
        Ok(())
    }

    /// Ends the newest segment and begins another with room for `size` bytes.
    fn roll(&mut self, size: u64) -> io::Result<()> {
        let need = BLOCK + size;
        let mut spare = match self.space.spares.pop() {
            Some(spare) => spare,
            None => {
                let n = self.space.next_spare_number();
                let step = match self.state {
                    State::Full(_) => need,
                    _ => self.options.ahead_bytes.max(need),
                };
                let (disk, dir) = (self.disk.as_ref(), &self.dir);
                match create_spare(disk, dir, n, BLOCK + step) {
                    Err(error) if crate::disk::is_full(&error) => create_spare(disk, dir, n, need)?,
                    created => created?,
                }
            }
        };
        if spare.allocated < need {
            let more = need - spare.allocated;
            if let Err(error) = spare.file.allocate(spare.allocated, more) {
                self.space.spares.push(spare);
                return Err(error);
            }
            spare.allocated = need;
        }
        let base = self.tail.end();
        self.space.fence.raise(u64::MAX, || Ok(()))?;
        if let Some(sealed) = self.segments.0.last_mut() {
            sealed.end = base;
            sealed.used = BLOCK + (base - sealed.base);
        }
        self.nonce = self.nonces.next();
        self.segments.0.push(Segment {
            base,
            end: u64::MAX,
            generation: 0,
            nonce: self.nonce,
            layout: Layout::Original,
            live: 0,
            total: 0,
            total_bytes: 0,
            used: BLOCK,
            unborn: Some(spare.path),
            file: Some(spare.file),
            unreadable: false,
        });
        self.space.fence = Arc::default();
        self.space.allocated = spare.allocated;
        self.set_limit();
        Ok(())
    }

    /// Gives the reserve's space back to the disk; false when there is none.
    pub(super) fn release_reserve(&mut self) -> bool {
        if self.space.reserve == 0 {
            return false;
        }
        let removed = self.disk.remove(&self.dir.join(RESERVE)).is_ok();
        if removed {
            self.space.reserve = 0;
        }
        removed
    }

    /// The next piece of space to prepare.
    pub(super) fn prepare_job(&mut self) -> Option<Job> {
        if self.space.stuck && !self.space.retry {
            return None;
        }
        let job = self.next_preparation();
        // One attempt for each sign of hope, or a full disk would keep housekeeping spinning.
        self.space.retry &= job.is_none();
        job
    }

    fn next_preparation(&mut self) -> Option<Job> {
        // Pages that wait are written before the next checkpoint is.
        let pages = self.pages.pending_bytes().next_multiple_of(1 << 20);
        let wanted = self.options.reserve_bytes + self.checkpoints.last_size() * 5 / 4 + pages;
        if self.space.reserve < wanted {
            return Some(self.reserve_job(wanted));
        }
        let newest = self.segments.0.last()?;
        let used = BLOCK + (self.tail.end() - newest.base);
        let segment_bytes = self.options.segment_bytes;
        let step = step(used, self.options.ahead_bytes);
        let from = self.space.allocated;
        if from < segment_bytes && from.saturating_sub(used) < step / 2 {
            let file = newest.file.clone()?;
            let base = newest.base;
            let to = (from + step).min(segment_bytes);
            return Some(self.ahead_job(file, base, from, to));
        }
        if self.space.spares.is_empty() && used > segment_bytes / 2 {
            return Some(self.spare_job());
        }
        None
    }

    fn reserve_job(&self, size: u64) -> Job {
        let (disk, path, from) = (
            Arc::clone(&self.disk),
            self.dir.join(RESERVE),
            self.space.reserve,
        );
        Job::new(move || {
            let grow = || {
                let file = if from == 0 {
                    disk.create(&path)?
                } else {
                    disk.open(&path, true)?
                };
                file.allocate(from, size - from)
            };
            let result = grow().map(|()| size);
            if result.is_err() && from == 0 {
                // Half a reserve is none, and its space is wanted elsewhere.
                let _ = disk.remove(&path);
            }
            FileDone::Chore(ChoreDone::Reserve(result)).into_done()
        })
    }

    fn ahead_job(&self, file: Arc<dyn File>, base: u64, from: u64, to: u64) -> Job {
        let fence = Arc::clone(&self.space.fence);
        let gate = Arc::clone(&self.gate);
        let large = self.space.only_reserves();
        Job::new(move || {
            let grow = || {
                if large {
                    return fence.allocate(file.as_ref(), from, to);
                }
                let mut at = from;
                while at < to {
                    let end = (at + ZEROS.len() as u64).min(to);
                    fence.zero(file.as_ref(), at, end)?;
                    at = end;
                }
                gate.sync(|| file.sync_data())
            };
            let result = grow().map(|()| to);
            FileDone::Chore(ChoreDone::Ahead { base, result }).into_done()
        })
    }

    fn spare_job(&mut self) -> Job {
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        let n = self.space.next_spare_number();
        let len = self.options.segment_bytes;
        let large = self.space.only_reserves();
        Job::new(move || {
            let prepare = || {
                let spare = create_spare(disk.as_ref(), &dir, n, len)?;
                let mut at = 0;
                while at < len && !large {
                    let end = (at + ZEROS.len() as u64).min(len);
                    let zeros = ZEROS.get(..(end - at) as usize).unwrap_or(ZEROS);
                    spare.file.write_at(zeros, at)?;
                    at = end;
                    if at % SYNC_EVERY == 0 || at == len {
                        spare.file.sync_data()?;
                    }
                }
                Ok(spare)
            };
            FileDone::Chore(ChoreDone::Spare(prepare())).into_done()
        })
    }

    pub(super) fn finish_reserve(&mut self, result: io::Result<u64>) {
        match result {
            Ok(size) => {
                self.space.reserve = size;
                self.space.stuck = false;
            }
            Err(error) => self.no_space_ahead("keeping a reserve", &error),
        }
    }

    pub(super) fn finish_ahead(&mut self, base: u64, result: io::Result<u64>) {
        match result {
            Ok(to) => {
                self.space.stuck = false;
                if self
                    .segments
                    .0
                    .last()
                    .is_some_and(|newest| newest.base == base)
                {
                    self.space.allocated = self.space.allocated.max(to);
                    self.set_limit();
                }
            }
            Err(error) => self.no_space_ahead("writing ahead", &error),
        }
    }

    pub(super) fn finish_spare(&mut self, result: io::Result<Spare>) {
        match result {
            Ok(spare) => self.space.add_spare(spare),
            Err(error) => self.no_space_ahead("preparing a segment", &error),
        }
    }

    /// Preparing is a courtesy: without space it waits, and appends find out for themselves.
    fn no_space_ahead(&mut self, what: &'static str, error: &io::Error) {
        if crate::disk::is_full(error) {
            self.space.stuck = true;
        } else {
            self.poison(what, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Space;

    #[test]
    fn what_is_synced_in_large_pieces_is_not_zeroed_ahead_of_them() {
        let mut space = Space::new(0, 0, 0);
        for _ in 0..100 {
            space.note_commit(4 << 10);
        }
        assert!(!space.only_reserves());
        // A busy log that is synced now and then, whatever the writes in between are.
        space.note_commit(4 << 20);
        assert!(space.only_reserves());
        for _ in 0..100 {
            space.note_commit(4 << 10);
        }
        assert!(!space.only_reserves(), "it is quiet again");
    }
}
