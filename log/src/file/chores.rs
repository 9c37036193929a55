//! Which housekeeping comes next, and what its results mean.

use std::io;
use std::sync::Arc;

use super::reclaim::{Dropped, Rewritten};
use super::rewrite::ScanPart;
use super::space::Spare;
use super::{FileDone, FileLog, State};
use crate::api::{Job, Outcome};
use crate::checkpoint::{self, Checkpoint};
use crate::pages::Worked;

/// What a chore brings back.
pub(super) enum ChoreDone {
    Reserve(io::Result<u64>),
    Ahead {
        base: u64,
        result: io::Result<u64>,
    },
    Spare(io::Result<Spare>),
    Checkpoint {
        checkpoint: Checkpoint,
        /// What became of the pages that had to be durable before.
        pages: Option<Worked>,
        result: io::Result<()>,
    },
    Pages(io::Result<Worked>),
    PagesDropped,
    Dropped(Dropped),
    Scanned(ScanPart),
    Rewritten(Rewritten),
}

impl FileLog {
    pub(super) fn chore_job(&mut self) -> Option<Job> {
        if self.choring || self.is_poisoned() {
            return None;
        }
        let job = self
            .prepare_job()
            .or_else(|| self.checkpoint_job())
            .or_else(|| self.pages_job())
            .or_else(|| self.drop_pages_job())
            .or_else(|| self.drop_job())
            .or_else(|| self.rewrite_job())
            .or_else(|| self.scan_job());
        self.choring = job.is_some();
        job
    }

    pub(super) fn finish_chore(&mut self, done: ChoreDone) -> Outcome {
        self.choring = false;
        match done {
            ChoreDone::Reserve(result) => self.finish_reserve(result),
            ChoreDone::Ahead { base, result } => self.finish_ahead(base, result),
            ChoreDone::Spare(result) => self.finish_spare(result),
            ChoreDone::Checkpoint {
                checkpoint,
                pages,
                result,
            } => {
                if let Some(worked) = pages {
                    self.pages.done(worked);
                }
                self.finish_checkpoint(checkpoint, result);
            }
            ChoreDone::Pages(result) => self.finish_pages(result),
            ChoreDone::PagesDropped => {}
            ChoreDone::Dropped(dropped) => self.finish_drop(dropped),
            ChoreDone::Scanned(part) => return self.finish_scan(part),
            ChoreDone::Rewritten(rewritten) => self.finish_rewrite(rewritten),
        }
        Outcome::Done
    }

    fn checkpoint_job(&mut self) -> Option<Job> {
        if self.checkpoints.queued.as_ref()?.covers > self.durable {
            return None;
        }
        let checkpoint = self.checkpoints.queued.take()?;
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        let mut kept: Vec<u64> = self.checkpoints.kept.iter().map(|kept| kept.0).collect();
        kept.retain(|covers| *covers != checkpoint.covers);
        kept.push(checkpoint.covers);
        let kept = kept.split_off(kept.len().saturating_sub(2));
        let pages = self.pages.work(true);
        Some(Job::new(move || {
            let mut written = None;
            let result = pages.run(disk.as_ref(), &dir).and_then(|worked| {
                written = Some(worked);
                checkpoint.write(disk.as_ref(), &dir)
            });
            match result {
                Ok(()) => checkpoint::prune(disk.as_ref(), &dir, &kept),
                // Half a checkpoint only takes space.
                Err(_) => drop(disk.remove(&dir.join(checkpoint::TEMPORARY))),
            }
            FileDone::Chore(ChoreDone::Checkpoint {
                checkpoint,
                pages: written,
                result,
            })
            .into_done()
        }))
    }

    fn finish_checkpoint(&mut self, checkpoint: Checkpoint, result: io::Result<()>) {
        match result {
            Ok(()) => {
                let pages = checkpoint.pages.iter().map(|page| page.number).collect();
                self.checkpoints
                    .add(checkpoint.covers, checkpoint.size(), pages);
                self.space.retry();
                self.reclaim.unblock();
            }
            Err(error) if crate::disk::is_full(&error) => {
                if !self.is_poisoned() {
                    self.state = State::Full(crate::disk::explain(&error));
                }
                // A checkpoint is what frees space, so it is worth the reserve; without one, the owner asks again.
                if self.release_reserve() && self.checkpoints.queued.is_none() {
                    self.checkpoints.queued = Some(checkpoint);
                }
            }
            Err(error) => self.poison("writing a checkpoint", &error),
        }
    }
}
