//! Getting space back: dropping segments that hold nothing alive, and rewriting those that hold little.
//!
//! Both touch only segments that the older checkpoint covers, and wait until every settlement that made their records
//! dead is durable: otherwise a crash could bring a message back whose bytes are gone. A rewrite puts the survivors,
//! under their old positions, into a file of the next generation; until the sources are removed both exist, and a
//! restart takes the newer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use longtail_model::Lsn;

use super::chores::ChoreDone;
use super::rewrite::{Footer, ScanPart, Source, TEMPORARY, rewrite, scan_part};
use super::space::Spare;
use super::{FileDone, FileLog};
use crate::api::{Job, Outcome};
use crate::scan::FIRST;
use crate::segment::{BLOCK, Layout, Segment, SegmentHeader, Table};

/// Segments merged into one at most.
const MAX_SOURCES: usize = 16;
/// Files removed by one job at most.
const MAX_DROP: usize = 16;

/// Segments on their way into one.
struct Compaction {
    sources: Vec<Source>,
    generation: u32,
    /// Which source is being scanned, and from where.
    at: usize,
    offset: u64,
    lsn: u64,
    /// What the owner still refers to.
    live: Vec<u64>,
    /// The owner is looking at a part.
    asked: bool,
    /// All is known; the rewrite waits for the log to be durable up to here.
    needed: Option<u64>,
}

/// Reclaiming in progress.
#[derive(Default)]
pub(crate) struct Reclaim {
    /// Dead segments, and how far the log must be durable before they go.
    condemned: Option<(Vec<u64>, u64)>,
    /// Files that nothing refers to any more.
    garbage: Vec<PathBuf>,
    compaction: Option<Compaction>,
    /// A rewrite found no space; another is worth trying after something was freed.
    blocked: bool,
}

impl Reclaim {
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
    }

    fn is_source(&self, base: u64) -> bool {
        self.compaction
            .as_ref()
            .is_some_and(|c| c.sources.iter().any(|source| source.base == base))
    }
}

/// What dropping brings back.
pub(super) struct Dropped {
    spares: Vec<Spare>,
    result: io::Result<()>,
}

/// What a rewrite brings back.
pub(super) struct Rewritten {
    result: io::Result<Result<(Footer, u32), (u64, String)>>,
}

impl FileLog {
    /// Removes files of dead segments, keeping some for reuse.
    pub(super) fn drop_job(&mut self) -> Option<Job> {
        let floor = self.checkpoints.floor();
        if self.reclaim.condemned.is_none() {
            let sealed = self.segments.0.len().saturating_sub(1);
            let dead: Vec<u64> = self
                .segments
                .0
                .iter()
                .take(sealed)
                .take_while(|segment| segment.end <= floor)
                .filter(|segment| segment.live == 0 && !self.reclaim.is_source(segment.base))
                .map(|segment| segment.base)
                .take(MAX_DROP)
                .collect();
            if !dead.is_empty() {
                self.reclaim.condemned = Some((dead, self.tail.end()));
            }
        }
        let mut files = Vec::new();
        let mut reuse = Vec::new();
        if let Some((dead, _)) = self
            .reclaim
            .condemned
            .take_if(|(_, needed)| *needed <= self.durable)
        {
            for base in dead {
                let Some(i) = self.segments.at(base) else {
                    continue;
                };
                let segment = self.segments.0.remove(i);
                self.cold.forget(base, segment.generation);
                let path = segment.path(&self.dir);
                // A file of about the usual size is worth keeping: its blocks are written already.
                let usual = segment.used <= self.options.segment_bytes
                    && segment.used >= self.options.segment_bytes / 4 * 3;
                if usual && self.space.spares() + reuse.len() < self.options.recycled_segments {
                    reuse.push((path, self.space.next_spare_number(), segment.used));
                } else {
                    files.push(path);
                }
            }
        }
        files.append(&mut self.reclaim.garbage);
        if files.is_empty() && reuse.is_empty() {
            return None;
        }
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        Some(Job::new(move || {
            let mut spares = Vec::new();
            let mut work = || {
                for path in &files {
                    disk.remove(path)?;
                }
                for (path, n, used) in &reuse {
                    let spare = super::space::spare_path(&dir, *n);
                    disk.rename(path, &spare)?;
                    let file = disk.open(&spare, true)?;
                    spares.push(Spare {
                        path: spare,
                        file,
                        allocated: *used,
                    });
                }
                // Before a reused file gets another header, its old name must be gone for good.
                disk.sync_dir(&dir)
            };
            let result = work();
            FileDone::Chore(ChoreDone::Dropped(Dropped { spares, result })).into_done()
        }))
    }

    pub(super) fn finish_drop(&mut self, dropped: Dropped) {
        match dropped.result {
            Ok(()) => {
                for spare in dropped.spares {
                    self.space.add_spare(spare);
                }
                self.space.retry();
                self.reclaim.unblock();
            }
            // What stays behind is found and dropped again at the next start.
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot remove dead segments");
            }
        }
    }

    /// Picks the sparsest segment and the neighbours worth merging with it.
    fn choose(&self) -> Option<Compaction> {
        let floor = self.checkpoints.floor();
        let sealed = self.segments.0.len().saturating_sub(1);
        let all = self.segments.0.get(..sealed)?;
        let able =
            |segment: &Segment| segment.end <= floor && segment.live > 0 && !segment.unreadable;
        let (first, _) = all
            .iter()
            .enumerate()
            .filter(|(_, segment)| able(segment) && segment.is_sparse())
            .min_by_key(|(_, s)| {
                u128::from(s.live_bytes()) * 1_000_000 / u128::from(s.used.max(1))
            })?;
        let (mut from, mut to) = (first, first + 1);
        let mut bytes = all.get(first)?.live_bytes();
        let joins = |segment: &Segment, bytes: u64, base: u64, end: u64| {
            able(segment)
                && (segment.is_sparse() || segment.used < self.options.segment_bytes / 4)
                && bytes + segment.live_bytes() + BLOCK <= self.options.segment_bytes
                && end - base <= Table::MAX_RANGE
        };
        while to - from < MAX_SOURCES
            && let (Some(next), Some(start)) = (all.get(to), all.get(from))
            && joins(next, bytes, start.base, next.end)
        {
            bytes += next.live_bytes();
            to += 1;
        }
        while to - from < MAX_SOURCES
            && let Some(before) = from.checked_sub(1).and_then(|i| all.get(i))
            && let Some(last) = all.get(to - 1)
            && joins(before, bytes, before.base, last.end)
        {
            bytes += before.live_bytes();
            from -= 1;
        }
        let chosen = all.get(from..to)?;
        let base = chosen.first()?.base;
        Some(Compaction {
            sources: chosen.iter().map(|s| Source::new(s, &self.dir)).collect(),
            generation: chosen.iter().map(|s| s.generation).max()? + 1,
            at: 0,
            offset: FIRST,
            lsn: base,
            live: Vec::new(),
            asked: false,
            needed: None,
        })
    }

    /// Reads the next part of a segment that is to be rewritten.
    pub(super) fn scan_job(&mut self) -> Option<Job> {
        if self.reclaim.compaction.is_none() && !self.reclaim.blocked {
            self.reclaim.compaction = self.choose();
        }
        let compaction = self.reclaim.compaction.as_ref()?;
        if compaction.asked || compaction.needed.is_some() {
            return None;
        }
        let source = compaction.sources.get(compaction.at)?.clone();
        let (offset, lsn) = (compaction.offset, compaction.lsn);
        let disk = Arc::clone(&self.disk);
        Some(Job::new(move || {
            let part = scan_part(disk.as_ref(), &source, offset, lsn);
            FileDone::Chore(ChoreDone::Scanned(part)).into_done()
        }))
    }

    pub(super) fn finish_scan(&mut self, part: ScanPart) -> Outcome {
        if let Some(why) = part.bad {
            self.give_up(part.base, &why);
            return Outcome::Done;
        }
        let Some(compaction) = self.reclaim.compaction.as_mut() else {
            return Outcome::Done;
        };
        match part.next {
            Some((offset, lsn)) => {
                compaction.offset = offset;
                compaction.lsn = lsn;
            }
            None => {
                compaction.at += 1;
                compaction.offset = FIRST;
                let next = compaction.sources.get(compaction.at);
                compaction.lsn = next.map_or(0, |source| source.base);
            }
        }
        compaction.asked = true;
        if part.records.is_empty() {
            self.take_live(part.base, &[]);
            return Outcome::Done;
        }
        Outcome::Candidates {
            segment: Lsn(part.base),
            records: part.records,
        }
    }

    /// The owner's answer to a part.
    pub(super) fn take_live(&mut self, base: u64, live: &[Lsn]) {
        let end = self.tail.end();
        let Some(compaction) = self.reclaim.compaction.as_mut() else {
            return;
        };
        debug_assert!(compaction.asked, "nobody asked about segment {base}");
        compaction.asked = false;
        compaction.live.extend(live.iter().map(|lsn| lsn.0));
        if compaction.at == compaction.sources.len() {
            compaction.needed = Some(end);
        }
    }

    /// Writes the survivors.
    pub(super) fn rewrite_job(&mut self) -> Option<Job> {
        let compaction = self.reclaim.compaction.as_mut()?;
        if compaction.needed.is_none_or(|needed| needed > self.durable) {
            return None;
        }
        if compaction.live.is_empty() {
            // Counted as alive, but the owner knows none of it: an owner may settle before a checkpoint and retire
            // after it, and stop in between.
            let compaction = self.reclaim.compaction.take()?;
            self.replace(&compaction.sources);
            return self.drop_job();
        }
        let live = std::mem::take(&mut compaction.live);
        let sources = compaction.sources.clone();
        let header = SegmentHeader {
            shard: self.options.shard,
            base: sources.first()?.base,
            end: sources.last()?.end,
            generation: compaction.generation,
            nonce: self.nonces.next(),
        };
        // Not again while this one is under way.
        compaction.needed = Some(u64::MAX);
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        Some(Job::new(move || {
            let result = rewrite(disk.as_ref(), &dir, &sources, &live, &header)
                .map(|done| done.map(|footer| (footer, header.nonce)));
            if !matches!(result, Ok(Ok(_))) {
                // Half a segment only takes space.
                let _ = disk.remove(&dir.join(TEMPORARY));
            }
            FileDone::Chore(ChoreDone::Rewritten(Rewritten { result })).into_done()
        }))
    }

    pub(super) fn finish_rewrite(&mut self, rewritten: Rewritten) {
        let Some(compaction) = self.reclaim.compaction.take() else {
            return;
        };
        let (Some(first), Some(last)) = (compaction.sources.first(), compaction.sources.last())
        else {
            return;
        };
        let (footer, nonce) = match rewritten.result {
            Ok(Ok(done)) => done,
            Ok(Err((base, why))) => {
                self.reclaim.compaction = Some(compaction);
                self.give_up(base, &why);
                return;
            }
            Err(error) if crate::disk::is_full(&error) => {
                self.reclaim.blocked = true;
                return;
            }
            Err(error) => {
                self.poison("rewriting a segment", &error);
                return;
            }
        };
        let (base, end) = (first.base, last.end);
        let (at, live) = self.replace(&compaction.sources);
        let segment = Segment {
            base,
            end,
            generation: compaction.generation,
            nonce,
            live,
            total: footer.records,
            total_bytes: footer.bytes,
            used: footer.table.data_end + footer.size(),
            layout: Layout::Rewritten(Arc::new(footer.table)),
            unborn: None,
            file: None,
            unreadable: false,
        };
        if let Some(i) = at {
            self.segments.0.insert(i, segment);
        }
    }

    /// Takes segments out, their files to be removed. Returns where the first one was, and how much was alive in all.
    fn replace(&mut self, sources: &[Source]) -> (Option<usize>, u64) {
        let mut live = 0;
        let mut at = None;
        for source in sources {
            if let Some(i) = self.segments.at(source.base) {
                let old = self.segments.0.remove(i);
                self.cold.forget(old.base, old.generation);
                live += old.live;
                self.reclaim.garbage.push(old.path(&self.dir));
                at.get_or_insert(i);
            }
        }
        (at, live)
    }

    /// Leaves a segment as it is for good: what can still be read of it is read.
    fn give_up(&mut self, base: u64, why: &str) {
        tracing::error!(dir = %self.dir.display(), segment = base, why, "a segment cannot be rewritten");
        if let Some(compaction) = self.reclaim.compaction.take() {
            for source in &compaction.sources {
                if let Some(i) = self.segments.at(source.base)
                    && let Some(segment) = self.segments.0.get_mut(i)
                {
                    // Neighbours get their chance without the damaged one.
                    segment.unreadable |= source.base == base;
                }
            }
        }
    }
}
