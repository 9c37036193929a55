//! The shard's indexes, of which what is beyond the budget lies in the log's pages.
//!
//! Whatever asks an index goes through here, for it may have to read a page, and that can fail: the operation is then
//! refused with the reason and nothing has changed. Where a message is settled whose page cannot be read, the number is
//! taken out without its position; the log keeps the record until its segment is rewritten.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use longtail_log::{PageError, PageId, ShardLog};
use longtail_model::{IndexId, Lsn, Seq, StreamId};

use super::logs::{Logs, in_memory};
use super::trim::Cut;
use super::{Refusal, Shard};
use crate::structures::index::{PAGE_SEQS, Page, PageSource, PagedIndex};

/// Pages kept after they were read, each about 9 KB: every stream that is consumed from pages needs one.
const CACHED: usize = 64;
/// Pages that could not be read and are remembered, so that making them again is tried once.
const TRIED: usize = 1024;
/// Pages moved out of a sparse file before one checkpoint at most.
const MOVED_MAX: usize = 256;

/// Pages that were read lately.
#[derive(Default)]
pub(crate) struct PageCache {
    pages: RefCell<Vec<(PageId, Arc<Page>, u64)>>,
    /// The place in `pages` of the one that was asked for last: the next question is likely about the same.
    latest: Cell<usize>,
    clock: Cell<u64>,
    reads: Cell<u64>,
    failed: RefCell<Option<String>>,
    /// Pages that are not what was written, to be made again.
    lost: RefCell<Vec<PageId>>,
    /// Those that were found lately, whatever became of them.
    tried: RefCell<VecDeque<PageId>>,
}

impl PageCache {
    fn get(&self, id: PageId) -> Option<Arc<Page>> {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        let mut pages = self.pages.borrow_mut();
        let latest = self.latest.get();
        let at = match pages.get(latest) {
            Some((cached, ..)) if *cached == id => latest,
            _ => pages.iter().position(|(cached, ..)| *cached == id)?,
        };
        self.latest.set(at);
        let (_, page, used) = pages.get_mut(at)?;
        *used = now;
        Some(Arc::clone(page))
    }

    fn put(&self, id: PageId, page: &Arc<Page>) {
        let mut pages = self.pages.borrow_mut();
        if pages.len() >= CACHED {
            let oldest = pages.iter().enumerate().min_by_key(|(_, (.., used))| *used);
            if let Some((oldest, _)) = oldest {
                pages.swap_remove(oldest);
            }
        }
        pages.push((id, Arc::clone(page), self.clock.get()));
    }

    /// Notes that a page cannot be read because of what it is, not because the disk refuses for now.
    fn lose(&self, id: PageId) {
        let mut tried = self.tried.borrow_mut();
        if tried.contains(&id) {
            return;
        }
        if tried.len() >= TRIED {
            tried.pop_front();
        }
        tried.push_back(id);
        self.lost.borrow_mut().push(id);
    }

    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.borrow().is_empty()
    }

    pub(crate) fn take_lost(&self) -> Vec<PageId> {
        self.lost.take()
    }

    /// All pages can be read again, as far as anybody knows.
    pub(crate) fn trust(&self) {
        *self.failed.borrow_mut() = None;
    }

    fn forget(&self, id: PageId) {
        self.pages.borrow_mut().retain(|(cached, ..)| *cached != id);
    }
}

impl PageSource for Logs {
    fn page(&self, id: PageId) -> Result<Arc<Page>, PageError> {
        let cache = self.page_cache();
        if let Some(page) = cache.get(id) {
            return Ok(page);
        }
        let log = self.durable_ref().ok_or(PageError::Missing(id))?;
        let read = log.read_page(id).and_then(|bytes| {
            cache.reads.set(cache.reads.get() + 1);
            Page::decode(&bytes).ok_or(PageError::Damaged {
                page: id,
                what: "it is no page of an index",
            })
        });
        match read {
            Ok(page) => {
                let page = Arc::new(page);
                cache.put(id, &page);
                *cache.failed.borrow_mut() = None;
                Ok(page)
            }
            Err(error) => {
                let file = log.page_file(id);
                tracing::error!(file, offset = id.offset, %error, "cannot read a page of an index");
                if matches!(error, PageError::Damaged { .. } | PageError::Missing(_)) {
                    cache.lose(id);
                }
                *cache.failed.borrow_mut() = Some(format!("an index is incomplete: {error}"));
                Err(error)
            }
        }
    }
}

impl From<PageError> for Refusal {
    fn from(error: PageError) -> Self {
        Refusal::Failed(format!("an index is incomplete: {error}"))
    }
}

impl Shard {
    /// Where a message is in the log; `None` when it is in no group's way any more.
    pub(crate) fn position(&self, stream: StreamId, seq: Seq) -> Result<Option<Lsn>, Refusal> {
        match self.streams.get(&stream) {
            Some(stream) => self.position_in(stream.index, seq),
            None => Ok(None),
        }
    }

    /// The same for a number of an index.
    pub(crate) fn position_in(&self, index: IndexId, seq: Seq) -> Result<Option<Lsn>, Refusal> {
        match self.indexes.get(&index) {
            Some(index) => Ok(index.get(seq, &self.logs)?),
            None => Ok(None),
        }
    }

    /// The first entry of an index at or after a number.
    pub(crate) fn next_in(&self, index: IndexId, from: Seq) -> Result<Option<(Seq, Lsn)>, Refusal> {
        match self.indexes.get(&index) {
            Some(index) => Ok(index.next_at_or_after(from, &self.logs)?),
            None => Ok(None),
        }
    }

    /// The first number behind the first page that is written out and may have `from` or what follows it.
    pub(crate) fn behind_page(&self, index: IndexId, from: Seq) -> Seq {
        let index = self.indexes.get(&index);
        index.map_or(from.next(), |index| index.behind_page(from))
    }

    /// Adds a message to an index, and writes out what that brings beyond the budget.
    pub(crate) fn push_to(&mut self, id: IndexId, seq: Seq, position: Lsn) {
        let index = self.indexes.get_or_default(id);
        let before = index.resident();
        if !index.push(seq, position) {
            return;
        }
        self.resident = (self.resident + index.resident()).saturating_sub(before);
        if self.resident > self.config.index_memory && !in_memory(position) {
            self.page_out(id);
        }
    }

    #[cold]
    fn page_out(&mut self, id: IndexId) {
        let Some(index) = self.indexes.get_mut(&id) else {
            return;
        };
        let Some(log) = self.logs.durable() else {
            return;
        };
        while self.resident > self.config.index_memory {
            let before = index.resident();
            let may = |position| !in_memory(position);
            if !index.page_out(may, |bytes| log.write_page(bytes)) {
                return;
            }
            self.resident = (self.resident + index.resident()).saturating_sub(before);
        }
    }

    /// Takes a message out of an index.
    pub(crate) fn take_from(&mut self, id: IndexId, seq: Seq) -> Result<Option<Lsn>, Refusal> {
        let Some(index) = self.indexes.get_mut(&id) else {
            return Ok(None);
        };
        let before = index.resident();
        let removed = index.remove(seq, &self.logs)?;
        self.resident = (self.resident + index.resident()).saturating_sub(before);
        let Some(removed) = removed else {
            return Ok(None);
        };
        if let Some(page) = removed.freed {
            self.free_page(page);
        }
        if let Some(number) = removed.sparse {
            // Failing costs only space.
            let _ = self.rewrite_page(id, number);
        }
        Ok(Some(removed.lsn))
    }

    /// Takes a message out of an index whose page cannot be read: nobody learns where its record is.
    pub(crate) fn forget_in(&mut self, id: IndexId, seq: Seq) {
        let Some(index) = self.indexes.get_mut(&id) else {
            return;
        };
        let before = index.resident();
        let freed = index.forget(seq);
        self.resident = (self.resident + index.resident()).saturating_sub(before);
        if let Some(page) = freed {
            self.free_page(page);
        }
    }

    /// Takes what a cut takes out of an index that is one stream's own, a page at a time, and lets go of the records.
    /// Returns how many there were. What is in a page that cannot be read goes as with [`Shard::forget_in`].
    pub(crate) fn take_all_from(&mut self, stream: StreamId, id: IndexId, cut: Cut<'_>) -> u64 {
        let edge = Seq(cut.below.0 / PAGE_SEQS * PAGE_SEQS);
        let mut count = match self.is_long(id) {
            true => self.leave_below(stream, id, cut),
            false => 0,
        };
        // First what may share a page with what stays: whoever counted has just read that.
        count += self.take_span(id, edge, cut.below, cut);
        let whole: Vec<u64> = (self.indexes.get(&id).into_iter())
            .flat_map(PagedIndex::pages)
            .map(|(number, _)| number)
            .take_while(|number| number * PAGE_SEQS < edge.0)
            .collect();
        for number in whole {
            let Some(index) = self.indexes.get_mut(&id) else {
                break;
            };
            let before = index.resident();
            let taken = index.take_page(number, cut.except, &self.logs);
            self.resident = (self.resident + index.resident()).saturating_sub(before);
            let Some(taken) = taken else {
                continue;
            };
            count += taken.count;
            for position in taken.lsns {
                self.retire(position);
            }
            if let Some(page) = taken.freed {
                self.free_page(page);
            }
        }
        count + self.take_span(id, Seq(0), edge, cut)
    }

    /// Leaves what a cut takes in whole pages and chunks of an index to be given back in steps. Returns how many that
    /// are.
    fn leave_below(&mut self, stream: StreamId, id: IndexId, cut: Cut<'_>) -> u64 {
        let durable = self.is_durable(stream);
        let Some(index) = self.indexes.get_mut(&id) else {
            return 0;
        };
        let before = index.resident();
        let taken = index.split_below(cut.below, cut.except);
        self.resident = (self.resident + index.resident()).saturating_sub(before);
        let count = taken.len() as u64;
        self.leave(stream, durable, taken);
        count
    }

    /// Leaves a whole index to be given back in steps.
    pub(crate) fn leave_index(&mut self, stream: StreamId, id: IndexId) {
        let durable = self.is_durable(stream);
        if let Some(index) = self.indexes.remove(&id) {
            self.resident = self.resident.saturating_sub(index.resident());
            self.leave(stream, durable, *index);
        }
    }

    fn take_span(&mut self, id: IndexId, from: Seq, to: Seq, cut: Cut<'_>) -> u64 {
        let (mut from, mut count) = (from, 0);
        loop {
            match self.next_in(id, from) {
                Ok(Some((seq, _))) if seq < to => {
                    from = seq.next();
                    if cut.takes(seq.0)
                        && let Ok(Some(position)) = self.take_from(id, seq)
                    {
                        count += 1;
                        self.retire(position);
                    }
                }
                Ok(_) => return count,
                Err(_) => from = self.behind_page(id, from),
            }
            if from >= to {
                return count;
            }
        }
    }

    /// Removes an index with its pages.
    pub(crate) fn drop_index(&mut self, id: IndexId) {
        if let Some(index) = self.indexes.remove(&id) {
            self.resident = self.resident.saturating_sub(index.resident());
            let pages: Vec<PageId> = index.pages().map(|(_, page)| page).collect();
            for page in pages {
                self.free_page(page);
            }
        }
    }

    pub(crate) fn free_page(&mut self, page: PageId) {
        self.logs.page_cache().forget(page);
        if let Some(log) = self.logs.durable() {
            log.free_page(page);
        }
    }

    /// Writes what is left of a page again; `false` when the log does not take it.
    fn rewrite_page(&mut self, id: IndexId, number: u64) -> Result<bool, PageError> {
        let Some(index) = self.indexes.get_mut(&id) else {
            return Ok(false);
        };
        let before = index.resident();
        let Some(bytes) = index.read_for_rewrite(number, &self.logs)? else {
            return Ok(false);
        };
        let log = self.logs.durable();
        let Some(new) = log.and_then(|log| log.write_page(&bytes)) else {
            return Ok(false);
        };
        let freed = index.rewritten(number, new);
        self.resident = (self.resident + index.resident()).saturating_sub(before);
        if let Some(page) = Page::decode(&bytes) {
            self.logs.page_cache().put(new, &Arc::new(page));
        }
        if let Some(page) = freed {
            self.free_page(page);
        }
        Ok(true)
    }

    /// Puts other bytes in the place of a page that cannot be read.
    pub(crate) fn replace_page(
        &mut self,
        id: IndexId,
        number: u64,
        bytes: &[u8],
        old: PageId,
    ) -> Result<(), String> {
        let new = self.logs.durable().and_then(|log| log.write_page(bytes));
        let new = new.ok_or("the log takes no page now")?;
        let Some(index) = self.indexes.get_mut(&id) else {
            return Err("its index is gone".to_owned());
        };
        let before = index.resident();
        index.rewritten(number, new);
        self.resident = (self.resident + index.resident()).saturating_sub(before);
        self.free_page(old);
        Ok(())
    }

    /// Empties a page file that is mostly free, so that it can go. To be called before a checkpoint.
    pub fn tidy_pages(&mut self) {
        let Some(file) = self.logs.durable_ref().and_then(ShardLog::sparse_pages) else {
            return;
        };
        let mut pages: Vec<(IndexId, u64)> = (self.indexes.iter())
            .flat_map(|(id, index)| index.pages().map(move |(number, page)| (id, number, page)))
            .filter(|(.., page)| page.file == file)
            .map(|(id, number, _)| (id, number))
            .collect();
        pages.sort_unstable();
        let mut stuck = pages.is_empty();
        for (id, number) in pages.into_iter().take(MOVED_MAX) {
            match self.rewrite_page(id, number) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => stuck = true,
            }
        }
        if stuck && let Some(log) = self.logs.durable() {
            log.keep_pages(file);
        }
    }

    /// Counts what the indexes have in memory, after they were read from a checkpoint.
    pub(crate) fn count_resident(&mut self) {
        self.resident = self.indexes.values().map(PagedIndex::resident).sum();
    }

    /// Pages that the indexes lie in, and how many were read since the shard was opened.
    #[must_use]
    pub fn pages(&self) -> (u64, u64) {
        let pages: usize = self
            .indexes
            .values()
            .map(|index| index.pages().count())
            .sum();
        (pages as u64, self.logs.page_cache().reads.get())
    }

    /// Why an index is incomplete, if the last page that was read says so.
    pub(crate) fn page_trouble(&self) -> Option<String> {
        self.logs.page_cache().failed.borrow().clone()
    }
}
