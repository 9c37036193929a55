//! Jobs for the owner's pages: writing them, and removing files that no page is in use of.

use std::io;
use std::sync::Arc;

use super::chores::ChoreDone;
use super::{FileDone, FileLog};
use crate::api::Job;
use crate::pages::Worked;

impl FileLog {
    /// Writes pages when enough of them wait; a checkpoint takes all that wait with it and syncs.
    pub(super) fn pages_job(&mut self) -> Option<Job> {
        if !self.pages.wants_write() {
            return None;
        }
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        let work = self.pages.work(false);
        Some(Job::new(move || {
            let result = work.run(disk.as_ref(), &dir);
            FileDone::Chore(ChoreDone::Pages(result)).into_done()
        }))
    }

    pub(super) fn finish_pages(&mut self, result: io::Result<Worked>) {
        match result {
            Ok(worked) => self.pages.done(worked),
            // They stay in memory, and go with the next checkpoint, which may use the reserve.
            Err(error) if crate::disk::is_full(&error) => self.pages.stall(),
            Err(error) => self.poison("writing index pages", &error),
        }
    }

    /// Removes page files that neither the owner nor a checkpoint refers to.
    pub(super) fn drop_pages_job(&mut self) -> Option<Job> {
        let checkpoints = &self.checkpoints;
        let dead = self.pages.take_dead(|number| checkpoints.lists(number));
        if dead.is_empty() {
            return None;
        }
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        Some(Job::new(move || {
            for name in dead {
                let path = dir.join(name);
                if let Err(error) = disk.remove(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    // The next start removes it.
                    tracing::warn!(file = %path.display(), %error, "cannot remove a page file");
                }
            }
            FileDone::Chore(ChoreDone::PagesDropped).into_done()
        }))
    }
}
