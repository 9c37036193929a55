//! Opening a log: what is there, what of it is whole, and where it goes on.
//!
//! The part after the checkpoint is read and checked once before the log takes its first append. A bad record at the
//! very end is what a crash leaves and is cut off; a bad record that was durable once is damage and refuses the start.
//! What tells them apart: a later segment exists only if everything before it was synced, and marks within a segment
//! say how far it was synced when they were written. What no mark vouches for is written again and synced before the
//! log goes on: that it can be read does not mean that it is on the disk.

mod check;
mod find;
mod persist;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::Lsn;

use crate::checkpoint::{self, Account, Checkpoints};
use crate::disk::{Disk, File, Lock, LockError};
use crate::error::OpenError;
use crate::file::{
    Birth, FileLog, Found, RESERVE, REWRITE_TEMPORARY, Space, SyncGate, create_spare, is_spare,
};
use crate::options::{Nonces, Options};
use crate::pages::{self, Pages};
use crate::replay::{Replay, Stretch};
use crate::segment::{self, BLOCK, Layout, Segment, SegmentHeader, Segments};
use crate::stamp;

use check::{Checked, check_tail};
pub(crate) use find::{
    FoundCheckpoints, FoundSegment, find_checkpoints, find_segments, read_footer,
};
use persist::{persist_tail, sync_parent};

const LOCK: &str = "lock";

/// A log that was opened, and what its owner starts from.
pub struct Opened {
    /// The log, ready for appends. Records are counted as retained until they are retired, also during the replay.
    pub log: FileLog,
    /// The newest checkpoint that can be read: the position below which everything is in it, and its body.
    pub checkpoint: Option<(Lsn, Vec<u8>)>,
    /// What was appended since.
    pub replay: Replay,
}

impl FileLog {
    /// Opens the log in `dir`, which is created when missing, and locks it against other processes.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged log is not opened.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Opened, OpenError> {
        let options = options.sane();
        let lock = prepare_dir(disk.as_ref(), dir)?;
        let names = disk
            .list(dir)
            .map_err(|error| OpenError::io("list", dir, error))?;
        if stamp::read(disk.as_ref(), dir)?.is_none() {
            stamp::write(disk.as_ref(), dir)?;
        }
        let (segments, superseded) = find_segments(disk.as_ref(), dir, &names, Some(&options))?;
        let checkpoints = find_checkpoints(disk.as_ref(), dir, &names)?;
        for (path, why) in &checkpoints.damaged {
            tracing::error!(file = %path.display(), why, "a checkpoint cannot be read");
        }
        let mut nonces = Nonces(options.nonce_seed);
        if segments.is_empty() && checkpoints.newest.is_none() && checkpoints.damaged.is_empty() {
            let orphans = pages::unlisted(dir, &names, |_| false);
            sweep(disk.as_ref(), dir, &names, &[superseded, orphans].concat());
            return create(disk, dir, options, nonces, lock);
        }
        let tail = check_tail(disk.as_ref(), dir, &segments, &checkpoints)?;
        let newest = match segments.last() {
            Some(newest) => Some(persist_tail(disk.as_ref(), dir, newest, &tail)?),
            None => None,
        };
        // Only now: the name of a rewritten segment must be safe before its sources go.
        let listed = |number| checkpoints.lists(number);
        let orphans = pages::unlisted(dir, &names, listed);
        sweep(disk.as_ref(), dir, &names, &[superseded, orphans].concat());
        // The nonces of this run must differ from those of the runs before, also when the seed is fixed.
        nonces.0 = nonces
            .0
            .wrapping_add(tail.end)
            .wrapping_add(u64::from(tail.nonce));
        settle(
            disk,
            dir,
            options,
            nonces,
            lock,
            segments,
            newest,
            checkpoints,
            &tail,
        )
    }
}

fn prepare_dir(disk: &dyn Disk, dir: &Path) -> Result<Lock, OpenError> {
    disk.create_dir(dir)
        .map_err(|error| OpenError::io("create", dir, error))?;
    disk.lock(&dir.join(LOCK)).map_err(|error| match error {
        LockError::Held { pid } => OpenError::Locked {
            dir: dir.to_owned(),
            pid,
        },
        LockError::Io(error) => OpenError::io("lock", dir.join(LOCK), error),
    })
}

/// Removes what an interrupted run left behind. Failing to is harmless.
fn sweep(disk: &dyn Disk, dir: &Path, names: &[String], superseded: &[PathBuf]) {
    let leftovers = names
        .iter()
        .filter(|name| {
            is_spare(name)
                || [REWRITE_TEMPORARY, checkpoint::TEMPORARY, stamp::TEMPORARY]
                    .contains(&name.as_str())
        })
        .map(|name| dir.join(name));
    for path in leftovers.chain(superseded.iter().cloned()) {
        if let Err(error) = disk.remove(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %path.display(), %error, "cannot remove a leftover file");
        }
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "the parts of one opening, each used once"
)]
fn settle(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    nonces: Nonces,
    lock: Lock,
    found: Vec<FoundSegment>,
    mut newest_file: Option<Arc<dyn File>>,
    checkpoints: FoundCheckpoints,
    checked: &Checked,
) -> Result<Opened, OpenError> {
    let count = found.len();
    let mut segments = Segments::default();
    let mut stretches = Vec::new();
    let mut allocated = BLOCK;
    for (i, found) in found.into_iter().enumerate() {
        let newest = i + 1 == count;
        let (retained, retained_bytes) = checked.retained.get(&i).copied().unwrap_or_default();
        if checked.retained.contains_key(&i) {
            let from = checked.covers.max(found.header.base);
            let to = if newest { checked.end } else { found.end };
            stretches.push(Stretch {
                path: found.path.clone(),
                nonce: found.header.nonce,
                offset: BLOCK + (from - found.header.base),
                lsn: from,
                limit: BLOCK + (to - found.header.base),
            });
        }
        let mut segment = Segment {
            base: found.header.base,
            end: if newest { u64::MAX } else { found.end },
            generation: found.header.generation,
            nonce: found.header.nonce,
            layout: Layout::Original,
            live: retained,
            total: retained,
            total_bytes: retained_bytes,
            used: found.size,
            unborn: None,
            file: None,
            unreadable: false,
        };
        if newest {
            allocated = checked.cut.unwrap_or(found.size);
            segment.file = newest_file.take();
        } else if found.header.generation > 0 {
            let footer = read_footer(disk.as_ref(), &found)?;
            segment.total = footer.records;
            segment.total_bytes = footer.bytes;
            segment.layout = Layout::Rewritten(Arc::new(footer.table));
        }
        segments.0.push(segment);
    }
    if let Some(checkpoint) = &checkpoints.newest {
        for account in &checkpoint.accounts {
            credit(&mut segments, account);
        }
    }
    let mut kept = checkpoints.readable;
    let kept = kept.split_off(kept.len().saturating_sub(2));
    let reserve = reserve_size(disk.as_ref(), dir);
    let replay = Replay::new(Arc::clone(&disk), stretches, checked.end);
    let space = Space::new(allocated, reserve, options.reserve_bytes);
    let accounts = checkpoints.newest.as_ref().map_or(&[][..], |c| &c.pages);
    let listed = checkpoints.pages.values().flatten().copied();
    let pages = Pages::new(options.shard, options.page_file_bytes, accounts, listed);
    let log = FileLog::new(Found {
        disk,
        dir: dir.to_owned(),
        options,
        nonces,
        segments,
        end: checked.end,
        space,
        pages,
        checkpoints: Checkpoints {
            kept,
            pages: checkpoints.pages,
            queued: None,
            last_asked: checked.covers,
            opened_at: checked.end,
        },
        lock,
    });
    Ok(Opened {
        log,
        checkpoint: checkpoints.newest.map(|c| (Lsn(c.covers), c.body)),
        replay,
    })
}

/// Adds what a checkpoint knows of a segment to whatever file covers it now.
fn credit(segments: &mut Segments, account: &Account) {
    if let Some(i) = segments.find(account.base)
        && let Some(segment) = segments.0.get_mut(i)
    {
        segment.live = segment.live.saturating_add(account.live);
        if matches!(segment.layout, Layout::Original) {
            segment.total = segment.total.saturating_add(account.total);
            segment.total_bytes = segment.total_bytes.saturating_add(account.total_bytes);
        }
    }
}

fn reserve_size(disk: &dyn Disk, dir: &Path) -> u64 {
    disk.open(&dir.join(RESERVE), false)
        .and_then(|file| file.size())
        .unwrap_or(0)
}

/// Starts a log in an empty directory.
fn create(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    mut nonces: Nonces,
    lock: Lock,
) -> Result<Opened, OpenError> {
    let nonce = nonces.next();
    let to = dir.join(segment::file_name(0, 0));
    let allocated = (BLOCK + options.ahead_bytes).min(options.segment_bytes);
    let start = || {
        let spare = create_spare(disk.as_ref(), dir, 0, allocated)?;
        // Written zeros, not only reserved space: the first commits are as fast as later ones.
        let zeros = vec![0; (allocated - BLOCK).min(1 << 20) as usize];
        let mut at = BLOCK;
        while at < allocated {
            let len = zeros.len().min((allocated - at) as usize);
            spare
                .file
                .write_at(zeros.get(..len).unwrap_or(&zeros), at)?;
            at += len as u64;
        }
        let birth = Birth {
            disk: Arc::clone(&disk),
            dir: dir.to_owned(),
            seal: None,
            from: spare.path,
            to: to.clone(),
            header: SegmentHeader {
                shard: options.shard,
                base: 0,
                end: 0,
                generation: 0,
                nonce,
            },
        };
        birth.run(spare.file.as_ref(), &SyncGate::default())?;
        // The directory itself is new as well.
        sync_parent(disk.as_ref(), dir)?;
        Ok(spare.file)
    };
    let file = start().map_err(|error| OpenError::io("create", &to, error))?;
    let segments = Segments(vec![Segment {
        base: 0,
        end: u64::MAX,
        generation: 0,
        nonce,
        layout: Layout::Original,
        live: 0,
        total: 0,
        total_bytes: 0,
        used: BLOCK,
        unborn: None,
        file: Some(file),
        unreadable: false,
    }]);
    let reserve = reserve_size(disk.as_ref(), dir);
    let space = Space::new(allocated, reserve, options.reserve_bytes);
    let replay = Replay::new(Arc::clone(&disk), Vec::new(), 0);
    let pages = Pages::new(
        options.shard,
        options.page_file_bytes,
        &[],
        std::iter::empty(),
    );
    let log = FileLog::new(Found {
        disk,
        dir: dir.to_owned(),
        options,
        nonces,
        segments,
        end: 0,
        space,
        pages,
        checkpoints: Checkpoints::default(),
        lock,
    });
    Ok(Opened {
        log,
        checkpoint: None,
        replay,
    })
}
