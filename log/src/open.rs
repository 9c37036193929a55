//! Opening a log: what is there, what of it is whole, and where it goes on.
//!
//! The part after the checkpoint is read and checked once before the log takes its first append. A bad record at the
//! very end is what a crash leaves and is cut off; a bad record that was durable once is damage and refuses the start.
//! What tells them apart: a later segment exists only if everything before it was synced, and marks within a segment
//! say how far it was synced when they were written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::Lsn;

use crate::checkpoint::{self, Account, Checkpoint, Checkpoints, Unreadable};
use crate::disk::{Disk, File, Lock, LockError, read_full};
use crate::error::{Damage, OpenError};
use crate::file::{
    Birth, FileLog, Footer, Found, RESERVE, REWRITE_TEMPORARY, Space, SyncGate, create_spare,
    is_spare,
};
use crate::options::{Nonces, Options};
use crate::record;
use crate::replay::{Replay, Stretch};
use crate::scan::{Bad, Order, Scanner, Step, look_behind};
use crate::segment::{self, BLOCK, BadHeader, FORMAT, Layout, Segment, SegmentHeader, Segments};
use crate::stamp;

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

/// A segment file as found, superseded ones already left out.
pub(crate) struct FoundSegment {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    pub(crate) size: u64,
    /// Where it ends; for the newest, where its file ends.
    pub(crate) end: u64,
}

/// The checkpoints found.
#[derive(Default)]
pub(crate) struct FoundCheckpoints {
    /// Ascending.
    pub(crate) readable: Vec<(u64, u64)>,
    pub(crate) newest: Option<Checkpoint>,
    /// File and reason.
    pub(crate) damaged: Vec<(PathBuf, String)>,
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
            sweep(disk.as_ref(), dir, &names, &superseded);
            return create(disk, dir, options, nonces, lock);
        }
        let tail = check_tail(disk.as_ref(), dir, &segments, &checkpoints)?;
        sweep(disk.as_ref(), dir, &names, &superseded);
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

/// Reads the headers of all segments. Returns them ascending, and the files that a rewritten one replaces.
pub(crate) fn find_segments(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
    expected: Option<&Options>,
) -> Result<(Vec<FoundSegment>, Vec<PathBuf>), OpenError> {
    let mut all = BTreeMap::new();
    for name in names {
        let Some(id) = segment::parse_name(name) else {
            continue;
        };
        let path = dir.join(name);
        let read = || {
            let file = disk.open(&path, false)?;
            let mut block = vec![0; BLOCK as usize];
            let len = read_full(file.as_ref(), &mut block, 0)?;
            block.truncate(len);
            Ok((file.size()?, block))
        };
        let (size, block) = read().map_err(|error| OpenError::io("read", &path, error))?;
        let damaged = |what: String| {
            OpenError::Damaged(Damage {
                file: path.clone(),
                offset: 0,
                lsn: Lsn(id.0),
                what,
            })
        };
        let header = SegmentHeader::decode(&block).map_err(|bad| match bad {
            BadHeader::Newer(found) => OpenError::Newer {
                file: path.clone(),
                found,
                ours: FORMAT,
            },
            bad => damaged(bad.to_string()),
        })?;
        if size < BLOCK {
            return Err(damaged(BadHeader::Short.to_string()));
        }
        if (header.base, header.generation) != id {
            return Err(damaged(
                "the header belongs to another file name".to_owned(),
            ));
        }
        if let Some(options) = expected
            && header.shard != options.shard
        {
            return Err(OpenError::OtherShard {
                file: path,
                found: header.shard,
                expected: options.shard,
            });
        }
        all.insert(
            id,
            FoundSegment {
                path,
                header,
                size,
                end: 0,
            },
        );
    }
    let rewritten: Vec<SegmentHeader> = all
        .values()
        .map(|found| found.header.clone())
        .filter(|header| header.generation > 0)
        .collect();
    let (mut kept, mut superseded) = (Vec::new(), Vec::new());
    for found in all.into_values() {
        let header = &found.header;
        let replaced = rewritten.iter().any(|newer| {
            newer.generation > header.generation && (newer.base..newer.end).contains(&header.base)
        });
        if replaced {
            superseded.push(found.path);
        } else {
            kept.push(found);
        }
    }
    let mut next_base = u64::MAX;
    for found in kept.iter_mut().rev() {
        let file_end = found.header.base + (found.size - BLOCK);
        found.end = match found.header.generation {
            0 => file_end.min(next_base),
            _ => found.header.end,
        };
        if found.end > next_base || found.end < found.header.base {
            return Err(OpenError::Damaged(Damage {
                file: found.path.clone(),
                offset: 0,
                lsn: Lsn(found.header.base),
                what: "two segments cover the same positions".to_owned(),
            }));
        }
        next_base = found.header.base;
    }
    Ok((kept, superseded))
}

/// Reads all checkpoints, newest first.
pub(crate) fn find_checkpoints(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
) -> Result<FoundCheckpoints, OpenError> {
    let mut positions: Vec<u64> = names
        .iter()
        .filter_map(|name| checkpoint::parse_name(name))
        .collect();
    positions.sort_unstable();
    let mut found = FoundCheckpoints::default();
    for covers in positions.into_iter().rev() {
        let path = dir.join(checkpoint::file_name(covers));
        let read = disk
            .open(&path, false)
            .map_err(Unreadable::Io)
            .and_then(|file| Checkpoint::read(file.as_ref()));
        match read {
            Ok(checkpoint) if checkpoint.covers == covers => {
                found.readable.insert(0, (covers, checkpoint.size()));
                found.newest.get_or_insert(checkpoint);
            }
            Ok(_) => found
                .damaged
                .push((path, "it belongs to another file name".to_owned())),
            Err(Unreadable::Newer(version)) => {
                return Err(OpenError::Newer {
                    file: path,
                    found: version,
                    ours: FORMAT,
                });
            }
            Err(why) => found.damaged.push((path, why.to_string())),
        }
    }
    Ok(found)
}

/// What reading the log after the checkpoint found out.
struct Checked {
    covers: u64,
    end: u64,
    nonce: u32,
    /// Retained records after the checkpoint, by the index of their segment: count and bytes.
    retained: BTreeMap<usize, (u64, u64)>,
    /// The file offset to cut the newest segment at.
    cut: Option<u64>,
}

fn check_tail(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[FoundSegment],
    checkpoints: &FoundCheckpoints,
) -> Result<Checked, OpenError> {
    let covers = checkpoints.newest.as_ref().map_or(0, |c| c.covers);
    let missing = |lsn: u64, what: &str| {
        OpenError::Damaged(Damage {
            file: dir.join(segment::file_name(lsn, 0)),
            offset: 0,
            lsn: Lsn(lsn),
            what: what.to_owned(),
        })
    };
    let Some(newest) = segments.last() else {
        return Err(missing(covers, "there are checkpoints but no segments"));
    };
    if checkpoints.newest.is_none() && segments.first().is_some_and(|first| first.header.base > 0) {
        let why = match checkpoints.damaged.first() {
            Some((path, why)) => format!("{}: {why}", path.display()),
            None => "there is none".to_owned(),
        };
        return Err(OpenError::CheckpointLost {
            dir: dir.to_owned(),
            start: Lsn(segments.first().map_or(0, |first| first.header.base)),
            why,
        });
    }
    if newest.header.generation > 0 {
        return Err(missing(newest.end, "the newest segment is missing"));
    }
    let first = segments
        .partition_point(|found| found.header.base <= covers)
        .checked_sub(1)
        .ok_or_else(|| {
            missing(
                covers,
                "the segment that the checkpoint leads to is missing",
            )
        })?;
    let mut checked = Checked {
        covers,
        end: covers,
        nonce: newest.header.nonce,
        retained: BTreeMap::new(),
        cut: None,
    };
    for (i, found) in segments.iter().enumerate().skip(first) {
        let last = i + 1 == segments.len();
        if checked.end < found.header.base {
            return Err(missing(checked.end, "a segment is missing"));
        }
        if checked.end > found.end {
            return Err(if last {
                missing(checked.end, "the log ends before its checkpoint")
            } else {
                missing(checked.end, "a segment is missing")
            });
        }
        if found.header.generation > 0 && checked.end < found.end {
            return Err(missing(
                checked.end,
                "the checkpoint leads into a rewritten segment",
            ));
        }
        if found.header.generation == 0 {
            check_segment(disk, found, i, last, &mut checked)?;
        }
    }
    Ok(checked)
}

/// Reads one original segment from `checked.end` on.
fn check_segment(
    disk: &dyn Disk,
    found: &FoundSegment,
    i: usize,
    last: bool,
    checked: &mut Checked,
) -> Result<(), OpenError> {
    let io = |error| OpenError::io("read", &found.path, error);
    let file = disk
        .open(&found.path, false)
        .map_err(|error| OpenError::io("open", &found.path, error))?;
    let offset = |lsn: u64| BLOCK + (lsn - found.header.base);
    let mut scanner = Scanner::new(
        Arc::clone(&file),
        found.header.nonce,
        Order::Contiguous,
        offset(checked.end),
        checked.end,
        offset(found.end),
    );
    let (mut count, mut bytes) = (0, 0);
    let bad = loop {
        match scanner.next_frame().map_err(io)? {
            Step::Frame(frame) => {
                for record in frame.records().filter(|record| record.retained) {
                    count += 1;
                    bytes += record::span(record.payload.len());
                }
            }
            Step::End => break None,
            Step::Bad(bad) => break Some(bad),
        }
    };
    checked.retained.insert(i, (count, bytes));
    let Some(bad) = bad else {
        checked.end = found.end;
        return Ok(());
    };
    let damaged = |bad: &Bad, why: String| {
        OpenError::Damaged(Damage {
            file: found.path.clone(),
            offset: bad.offset,
            lsn: Lsn(bad.lsn),
            what: format!("{}, although {why}", bad.what),
        })
    };
    if !last {
        return Err(damaged(
            &bad,
            "a later segment shows that it was durable".to_owned(),
        ));
    }
    let behind = look_behind(
        file.as_ref(),
        found.header.nonce,
        bad.frame_offset,
        bad.frame_lsn,
    )
    .map_err(io)?;
    if behind.claimed > bad.frame_lsn {
        let claim = behind.claimed;
        return Err(damaged(
            &bad,
            format!("a later record shows that everything below position {claim} was durable"),
        ));
    }
    if behind.stale {
        tracing::warn!(
            file = %found.path.display(),
            offset = bad.frame_offset,
            position = bad.frame_lsn,
            why = bad.what,
            "the log ends with an incomplete write, which is cut off"
        );
        checked.cut = Some(bad.frame_offset);
    }
    checked.end = bad.frame_lsn;
    Ok(())
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
            let io = |what| {
                let path = found.path.clone();
                move |error| OpenError::io(what, path, error)
            };
            let file = disk.open(&found.path, true).map_err(io("open"))?;
            if let Some(cut) = checked.cut {
                file.set_len(cut).map_err(io("cut"))?;
            }
            // What was read may only be in the page cache; from here on it counts as durable.
            file.sync_all().map_err(io("sync"))?;
            disk.sync_dir(dir)
                .map_err(|error| OpenError::io("sync", dir, error))?;
            allocated = checked.cut.unwrap_or(found.size);
            segment.file = Some(file);
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
    let log = FileLog::new(Found {
        disk,
        dir: dir.to_owned(),
        options,
        nonces,
        segments,
        end: checked.end,
        space,
        checkpoints: Checkpoints {
            kept,
            queued: None,
            last_asked: checked.covers,
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
        segment.live += account.live;
        if matches!(segment.layout, Layout::Original) {
            segment.total += account.total;
            segment.total_bytes += account.total_bytes;
        }
    }
}

pub(crate) fn read_footer(disk: &dyn Disk, found: &FoundSegment) -> Result<Footer, OpenError> {
    let read = || -> io::Result<Option<Footer>> {
        let file: Arc<dyn File> = disk.open(&found.path, false)?;
        match Footer::read(file.as_ref(), found.size)? {
            Some(footer) => Ok(Some(footer)),
            None => Footer::rebuild(&file, &found.header, found.size),
        }
    };
    read()
        .map_err(|error| OpenError::io("read", &found.path, error))?
        .ok_or_else(|| {
            OpenError::Damaged(Damage {
                file: found.path.clone(),
                offset: BLOCK,
                lsn: Lsn(found.header.base),
                what: "its table is damaged and its records do not add up".to_owned(),
            })
        })
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
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent)?,
            _ => {}
        }
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
    let log = FileLog::new(Found {
        disk,
        dir: dir.to_owned(),
        options,
        nonces,
        segments,
        end: 0,
        space,
        checkpoints: Checkpoints::default(),
        lock,
    });
    Ok(Opened {
        log,
        checkpoint: None,
        replay,
    })
}
