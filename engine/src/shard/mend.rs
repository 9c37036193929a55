//! Pages of an index that cannot be read are made again from the log: they are derived from it.
//!
//! Whoever needs such a page is refused, and the page noted; at the end of the batch the stretch of the log between what
//! the neighbouring pages point to is read for the messages of the page. What was removed since the page was written is
//! known, what was removed before that is not: it may still lie in the log. The page is believed only when as many
//! messages are found as must be there, at once or after leaving out what no group has before it; else it stays
//! unreadable, and the operator is told so. Slow, with the shard's lock held: a disk has lost data.

use std::collections::BTreeMap;

use longtail_log::PageId;
use longtail_model::{IndexId, Lsn, Seq, StreamId, Timestamp};

use super::Shard;
use super::logs::in_memory;
use crate::config::Keep;
use crate::event::Event;
use crate::structures::index::{PAGE_SEQS, PagedIndex};

/// Neighbours looked at on either side for one that can be read.
const NEIGHBOURS: u64 = 4;

/// A message that may be in the page.
struct Found {
    position: Lsn,
    stream: StreamId,
    priority: u32,
    due: Timestamp,
}

impl Shard {
    /// Makes the pages again that turned out to be unreadable. Whether one can be read now that could not.
    pub(crate) fn mend_pages(&mut self) -> bool {
        let mut mended = false;
        for page in self.logs.page_cache().take_lost() {
            let owner =
                (self.indexes.iter()).find_map(|(id, index)| Some((id, index.number_of(page)?)));
            // Of what is to be cleared, the log finds out by itself.
            let Some((id, number)) = owner else {
                continue;
            };
            let file =
                (self.logs.durable_ref()).map_or_else(String::new, |log| log.page_file(page));
            let offset = page.offset;
            match self.mend_page(id, number, page) {
                Ok(messages) => {
                    mended = true;
                    tracing::warn!(
                        shard = %self.config.id, file, offset, messages,
                        "a damaged page of an index was made again from the log: the disk has lost data"
                    );
                }
                Err(why) => tracing::error!(
                    shard = %self.config.id, file, offset, why,
                    "a damaged page of an index cannot be made again from the log"
                ),
            }
        }
        if mended {
            self.logs.page_cache().trust();
        }
        mended
    }

    /// Makes one page again. Returns how many messages are in it.
    fn mend_page(&mut self, id: IndexId, number: u64, page: PageId) -> Result<usize, String> {
        let Some(index) = self.indexes.get(&id) else {
            return Err("its index is gone".to_owned());
        };
        let Some(log) = self.logs.durable_ref() else {
            return Err("there is no log".to_owned());
        };
        let (from, to) = self.stretch_of(index, number, log.end());
        let first = Seq(number * PAGE_SEQS);
        let numbers = first..Seq(first.0 + PAGE_SEQS);
        let mut found: BTreeMap<Seq, Found> = BTreeMap::new();
        let mut look = |position: Lsn, payload: &[u8]| {
            let Ok(Event::Append { targets, message }) = Event::decode(payload) else {
                return;
            };
            for (stream, seq) in targets {
                let ours = numbers.contains(&seq)
                    && !index.is_gone(number, seq)
                    && (self.streams.get(&stream)).is_some_and(|state| state.index == id);
                if ours {
                    let due = message.created.plus_millis(message.delay_ms);
                    let entry = Found {
                        position,
                        stream,
                        priority: message.priority.0,
                        due,
                    };
                    found.insert(seq, entry);
                }
            }
        };
        log.scan(from, to, &mut look)
            .map_err(|error| error.to_string())?;
        let wanted = index.live_in(number);
        let seen = found.len();
        if seen > wanted {
            found.retain(|&seq, entry| self.stands(seq, entry));
        }
        if found.len() != wanted {
            return Err(format!(
                "{wanted} messages belong into it, the log has {seen}, of which {} are not settled",
                found.len()
            ));
        }
        let entries = found.iter().map(|(&seq, entry)| (seq, entry.position));
        let bytes = PagedIndex::page_of(entries);
        self.replace_page(id, number, &bytes, page)?;
        Ok(wanted)
    }

    /// Between which positions the messages of a page lie.
    fn stretch_of(&self, index: &PagedIndex, number: u64, end: Lsn) -> (Lsn, Lsn) {
        let entry = |page: u64| {
            let start = Seq(page * PAGE_SEQS);
            let (seq, position) = index.next_at_or_after(start, &self.logs).ok()??;
            Some((seq.0 / PAGE_SEQS, position)).filter(|&(_, position)| !in_memory(position))
        };
        let below = (number.saturating_sub(NEIGHBOURS)..number).rev();
        let mut below = below.filter_map(|page| entry(page).filter(|&(at, _)| at < number));
        let mut above = (number + 1..=number + NEIGHBOURS).filter_map(entry);
        let from = below.next().map_or(Lsn::ZERO, |(_, position)| position);
        (from, above.next().map_or(end, |(_, position)| position))
    }

    /// Whether a group has a message before it, or somebody holds it, as far as that can be told without the index.
    fn stands(&self, seq: Seq, found: &Found) -> bool {
        let Some(state) = self.streams.get(&found.stream) else {
            return false;
        };
        if state.config.keep == Keep::UntilLimit {
            // Nothing tells what was removed.
            return true;
        }
        state.groups.iter().enumerate().any(|(at, group)| {
            let held = || {
                let domain = self.domain(found.stream, at);
                self.hold_by.contains(domain, seq.0)
            };
            !group.deleted
                && !self.unplaced.contains(&(group.id, seq))
                && (group.is_ahead(seq)
                    || group.meta(seq).is_some()
                    || (group.lists.ready).contains(group.key(found.priority), seq.0)
                    || group.lists.delayed.contains(found.due.0, seq.0)
                    || held())
        })
    }
}
