//! An index of which only a part is in memory.
//!
//! A page is 16 chunks, 4,096 consecutive numbers, and as a whole either in memory or written out. What is written out
//! is never written again for a removal: the page's entry has a bit for each number that is gone since, and when all
//! are gone the page is free. Which page goes first is [`PagedIndex::page_out`]'s choice: the newest that is complete,
//! for a queue that has grown that long is consumed from its oldest end, so every page is written once and read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use longtail_log::{PageError, PageId};
use longtail_model::{Lsn, Seq};

use super::super::{Corrupt, varint};
use super::chunk::Chunk;
use super::page::{self, CHUNKS, Gone, Page};
use super::{Index, split};

/// Sequence numbers of a page.
pub const PAGE_SEQS: u64 = page::SEQS as u64;
/// Complete pages behind the tail that stay in memory for those who read what has just come.
const RECENT: u64 = 1;
/// Pages looked at for one that may be written out.
const TRIES: usize = 16;
/// A page with so few entries left, or an eighth of that, and so on, is worth writing again without what is gone, if
/// they lie far apart: one that is drained from its front is gone soon.
const SHRINK_AT: u16 = 512;
/// Entries of a page lie far apart when fewer than one in so many numbers, from the first that is left on, is there.
const SCATTERED: u16 = 4;

/// Where pages are read.
pub trait PageSource {
    /// A page that was written.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    fn page(&self, id: PageId) -> Result<Arc<Page>, PageError>;
}

/// A page that is written out.
#[derive(Clone, Debug)]
struct Cold {
    id: PageId,
    /// Entries that are left.
    live: u16,
    gone: Gone,
}

/// The map `Seq -> Lsn` of one sequence space, see [`Index`], of which parts are in pages.
#[derive(Clone, Debug, Default)]
pub struct PagedIndex {
    /// Everything that is in memory.
    hot: Index,
    /// The others by page number.
    cold: BTreeMap<u64, Cold>,
    /// Entries in `cold`.
    cold_len: usize,
    /// Heap bytes of what `cold` has of removed entries.
    gone_bytes: usize,
}

fn place(seq: Seq) -> (u64, u16) {
    (seq.0 / PAGE_SEQS, (seq.0 % PAGE_SEQS) as u16)
}

fn seq_at(page: u64, place: u16) -> Seq {
    Seq(page * PAGE_SEQS + u64::from(place))
}

/// What [`PagedIndex::remove`] took out.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where the message was.
    pub lsn: Lsn,
    /// A page that has no entry left.
    pub freed: Option<PageId>,
    /// A page of which so little is left that [`PagedIndex::read_for_rewrite`] is worth its cost.
    pub sparse: Option<u64>,
}

/// What [`PagedIndex::take_page`] took out.
#[derive(Debug, PartialEq, Eq)]
pub struct TakenPage {
    /// How many entries.
    pub count: u64,
    /// Where the messages were; nothing when the page cannot be read.
    pub lsns: Vec<Lsn>,
    /// The page, if it has no entry left.
    pub freed: Option<PageId>,
}

impl PagedIndex {
    /// An empty map of a sequence space that has handed out nothing.
    #[must_use]
    pub fn new() -> Self {
        PagedIndex::default()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hot.len() + self.cold_len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest number ever pushed, removed or not; 0 when nothing was.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.hot.last_seq()
    }

    /// Adds the position of the message `seq`; see [`Index::push`], which says when this panics. `true` when there may
    /// be more to write out than before.
    #[inline]
    pub fn push(&mut self, seq: Seq, lsn: Lsn) -> bool {
        self.hot.push_sealing(seq, lsn)
    }

    /// The position of a message.
    ///
    /// # Errors
    /// When its page cannot be read.
    #[inline]
    pub fn get(&self, seq: Seq, pages: &impl PageSource) -> Result<Option<Lsn>, PageError> {
        match self.hot.get(seq) {
            None if !self.cold.is_empty() => self.get_cold(seq, pages),
            hot => Ok(hot),
        }
    }

    #[cold]
    fn get_cold(&self, seq: Seq, pages: &impl PageSource) -> Result<Option<Lsn>, PageError> {
        let (number, at) = place(seq);
        match self.cold.get(&number) {
            Some(cold) if !cold.gone.contains(at) => Ok(pages.page(cold.id)?.get(at).map(Lsn)),
            _ => Ok(None),
        }
    }

    /// The lowest entry that is not below `seq`.
    ///
    /// # Errors
    /// When a page that may have it cannot be read.
    #[inline]
    pub fn next_at_or_after(
        &self,
        seq: Seq,
        pages: &impl PageSource,
    ) -> Result<Option<(Seq, Lsn)>, PageError> {
        let hot = self.hot.next_at_or_after(seq);
        if self.cold.is_empty() {
            return Ok(hot);
        }
        self.next_with_cold(seq, hot, pages)
    }

    #[cold]
    fn next_with_cold(
        &self,
        seq: Seq,
        hot: Option<(Seq, Lsn)>,
        pages: &impl PageSource,
    ) -> Result<Option<(Seq, Lsn)>, PageError> {
        let (first, at) = place(seq);
        // A page is in memory as a whole or not at all.
        let end = hot.map_or(u64::MAX, |(found, _)| place(found).0);
        for (&number, cold) in self.cold.range(first..end.max(first)) {
            let from = if number == first { at } else { 0 };
            if let Some((at, lsn)) = pages.page(cold.id)?.next_but(from, &cold.gone) {
                return Ok(Some((seq_at(number, at), Lsn(lsn))));
            }
        }
        Ok(hot)
    }

    /// The lowest entry.
    ///
    /// # Errors
    /// When its page cannot be read.
    pub fn first(&self, pages: &impl PageSource) -> Result<Option<(Seq, Lsn)>, PageError> {
        self.next_at_or_after(Seq(0), pages)
    }

    /// The entries that are in memory, in ascending order.
    pub fn in_memory(&self) -> impl Iterator<Item = (Seq, Lsn)> + '_ {
        self.hot.iter()
    }

    /// Number of entries from `from` up to `to`, without that one. Reads at most the pages in which the range begins and
    /// ends.
    ///
    /// # Errors
    /// When one of these cannot be read.
    pub fn count_in(&self, from: Seq, to: Seq, pages: &impl PageSource) -> Result<u64, PageError> {
        if from >= to {
            return Ok(0);
        }
        let mut count = self.hot.count_in(from, to) as u64;
        let ((first, start), (last, end)) = (place(from), place(to));
        for (&number, cold) in self.cold.range(first..=last) {
            let mut at = if number == first { start } else { 0 };
            let end = if number == last {
                end
            } else {
                page::SEQS as u16
            };
            if at == 0 && usize::from(end) == page::SEQS {
                count += u64::from(cold.live);
            } else if at < end {
                let page = pages.page(cold.id)?;
                while let Some((found, _)) = page.next_but(at, &cold.gone)
                    && found < end
                {
                    count += 1;
                    at = found + 1;
                }
            }
        }
        Ok(count)
    }

    /// Takes all entries of a page out but those of `except`, ascending, which are known to be there. When the page
    /// cannot be read they go all the same. `None` when there is no such page.
    pub fn take_page(
        &mut self,
        number: u64,
        except: &[Seq],
        pages: &impl PageSource,
    ) -> Option<TakenPage> {
        let cold = self.cold.get_mut(&number)?;
        let from = except.partition_point(|&seq| place(seq).0 < number);
        let stays: Vec<u16> = (except.iter().skip(from))
            .map(|&seq| place(seq))
            .take_while(|&(page, _)| page == number)
            .map(|(_, at)| at)
            .filter(|&at| !cold.gone.contains(at))
            .collect();
        let mut lsns = Vec::new();
        let count = match pages.page(cold.id) {
            Ok(page) => {
                let mut at = 0;
                while let Some((found, lsn)) = page.next_but(at, &cold.gone) {
                    if stays.binary_search(&found).is_err() {
                        lsns.push(Lsn(lsn));
                    }
                    at = found + 1;
                }
                lsns.len()
            }
            Err(_) => usize::from(cold.live).saturating_sub(stays.len()),
        };
        let left = usize::from(cold.live).saturating_sub(count);
        self.cold_len = self.cold_len.saturating_sub(count);
        self.gone_bytes -= cold.gone.heap_bytes();
        let mut freed = None;
        if left == 0 {
            freed = Some(cold.id);
            self.cold.remove(&number);
        } else {
            cold.live = left as u16;
            for at in (0..page::SEQS as u16).filter(|at| stays.binary_search(at).is_err()) {
                cold.gone.insert(at);
            }
            self.gone_bytes += cold.gone.heap_bytes();
        }
        Some(TakenPage {
            count: count as u64,
            lsns,
            freed,
        })
    }

    /// Takes everything below a number away but `except`, ascending, and what is in one chunk or page with these or with
    /// what is not below: an index of its own, of which [`PagedIndex::take_some`] then takes one part after the other.
    /// Reads no page.
    #[must_use]
    pub fn split_below(&mut self, below: Seq, except: &[Seq]) -> PagedIndex {
        if except.is_empty() && below > self.last_seq() {
            let last = self.hot.last;
            let all = std::mem::take(self);
            self.hot.last = last;
            return all;
        }
        let chunks = |&seq: &Seq| split(seq.0).0;
        let mut stays: Vec<u64> = except.iter().map(chunks).collect();
        stays.dedup();
        let hot = self.hot.split_below(split(below.0).0, &stays);
        let mut cold = std::mem::take(&mut self.cold);
        self.cold = cold.split_off(&place(below).0);
        for chunk in stays {
            if let Some((number, page)) = cold.remove_entry(&(chunk / CHUNKS)) {
                self.cold.insert(number, page);
            }
        }
        let split = PagedIndex {
            hot,
            cold_len: cold.values().map(|cold| usize::from(cold.live)).sum(),
            gone_bytes: cold.values().map(|cold| cold.gone.heap_bytes()).sum(),
            cold,
        };
        self.cold_len -= split.cold_len;
        self.gone_bytes -= split.gone_bytes;
        split
    }

    /// Takes some entries out of an index of which all go, at most as many as a page has numbers; when their page cannot
    /// be read they go all the same. `None` when nothing is left.
    pub fn take_some(&mut self, pages: &impl PageSource) -> Option<TakenPage> {
        if let Some(&number) = self.cold.keys().next() {
            return self.take_page(number, &[], pages);
        }
        let mut lsns = Vec::new();
        while !self.hot.is_empty() && lsns.len() + super::chunk::SLOTS <= page::SEQS {
            lsns.append(&mut self.hot.take_chunk());
        }
        (!lsns.is_empty()).then_some(TakenPage {
            count: lsns.len() as u64,
            lsns,
            freed: None,
        })
    }

    /// Takes out the position of a message.
    ///
    /// # Errors
    /// When its page cannot be read; nothing has changed then.
    #[inline]
    pub fn remove(
        &mut self,
        seq: Seq,
        pages: &impl PageSource,
    ) -> Result<Option<Removed>, PageError> {
        match self.hot.remove(seq) {
            None if !self.cold.is_empty() => self.remove_cold(seq, pages),
            lsn => Ok(lsn.map(|lsn| Removed {
                lsn,
                freed: None,
                sparse: None,
            })),
        }
    }

    #[cold]
    fn remove_cold(
        &mut self,
        seq: Seq,
        pages: &impl PageSource,
    ) -> Result<Option<Removed>, PageError> {
        let Some(lsn) = self.get_cold(seq, pages)? else {
            return Ok(None);
        };
        let (freed, sparse) = self.take_cold(seq);
        Ok(Some(Removed { lsn, freed, sparse }))
    }

    /// Takes out a message that is known to be there, without a look at its page. Returns the page if it has no entry
    /// left.
    pub fn forget(&mut self, seq: Seq) -> Option<PageId> {
        match self.hot.remove(seq) {
            Some(_) => None,
            None => self.take_cold(seq).0,
        }
    }

    fn take_cold(&mut self, seq: Seq) -> (Option<PageId>, Option<u64>) {
        let (number, at) = place(seq);
        let Some(cold) = self.cold.get_mut(&number) else {
            return (None, None);
        };
        let before = cold.gone.heap_bytes();
        if !cold.gone.insert(at) {
            return (None, None);
        }
        self.gone_bytes += cold.gone.heap_bytes() - before;
        cold.live = cold.live.saturating_sub(1);
        self.cold_len = self.cold_len.saturating_sub(1);
        if cold.live == 0 {
            let id = cold.id;
            self.gone_bytes -= cold.gone.heap_bytes();
            self.cold.remove(&number);
            return (Some(id), None);
        }
        let step = cold.live <= SHRINK_AT
            && cold.live.is_power_of_two()
            && cold.live.trailing_zeros() % 3 == SHRINK_AT.trailing_zeros() % 3;
        let scattered = || {
            let numbers = (page::SEQS as u16).saturating_sub(cold.gone.next_absent(0));
            cold.live < numbers / SCATTERED
        };
        (None, (step && scattered()).then_some(number))
    }

    /// Heap bytes of what may be written out, and of what was removed from pages.
    #[must_use]
    #[inline]
    pub fn resident(&self) -> usize {
        self.hot.sealed_bytes + self.gone_bytes
    }

    /// Estimate of the heap in use, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.hot.heap_bytes()
            + self.gone_bytes
            + super::super::btree_bytes::<u64, Cold>(self.cold.len())
    }

    /// Gives a page to `write`, unless it holds a position that `may` refuses, and forgets its entries when that takes
    /// it. `false` when there is no page to write out, or it is not taken.
    pub fn page_out(
        &mut self,
        may: impl Fn(Lsn) -> bool,
        write: impl FnOnce(&[u8]) -> Option<PageId>,
    ) -> bool {
        let tail = split(self.hot.last).0 / CHUNKS;
        let head = self.hot.head.as_ref().map(|head| head.number / CHUNKS);
        let mut below = tail.saturating_sub(RECENT) * CHUNKS;
        for _ in 0..TRIES {
            let Some(number) = self.hot.last_sealed_below(below) else {
                return false;
            };
            let page = number / CHUNKS;
            if Some(page) == head {
                return false;
            }
            below = page * CHUNKS;
            let numbers = below..below + CHUNKS;
            let chunks = self.hot.sealed_in(numbers.clone());
            let (mut live, mut allowed) = (0, true);
            for (_, chunk) in chunks.clone() {
                live += chunk.len();
                allowed &= chunk.iter_from(0).all(|(_, lsn)| may(Lsn(lsn)));
            }
            if !allowed {
                continue;
            }
            let Some(id) = write(&page::encode(chunks)) else {
                return false;
            };
            self.hot.take_sealed(numbers);
            self.cold_len += live;
            let cold = Cold {
                id,
                live: live as u16,
                gone: Gone::default(),
            };
            self.cold.insert(page, cold);
            return true;
        }
        false
    }

    /// The first number behind the first page that is written out and may have `from` or what follows it; behind
    /// everything when there is none.
    #[must_use]
    pub fn behind_page(&self, from: Seq) -> Seq {
        let page = self.cold.range(place(from).0..).next();
        page.map_or(self.last_seq().next(), |(number, _)| {
            Seq((number + 1) * PAGE_SEQS)
        })
    }

    /// The number of the page that lies there.
    #[must_use]
    pub fn number_of(&self, page: PageId) -> Option<u64> {
        let found = self.cold.iter().find(|(_, cold)| cold.id == page);
        found.map(|(&number, _)| number)
    }

    /// Entries that are left of a page.
    #[must_use]
    pub fn live_in(&self, number: u64) -> usize {
        let cold = self.cold.get(&number);
        cold.map_or(0, |cold| usize::from(cold.live))
    }

    /// Whether a number was removed from a page since that was written.
    #[must_use]
    pub fn is_gone(&self, number: u64, seq: Seq) -> bool {
        let cold = self.cold.get(&number);
        cold.is_some_and(|cold| cold.gone.contains(place(seq).1))
    }

    /// The bytes of a page with these entries, ascending and all of one page.
    #[must_use]
    pub fn page_of(entries: impl Iterator<Item = (Seq, Lsn)>) -> Vec<u8> {
        let mut slots: BTreeMap<u64, Vec<(u8, u64)>> = BTreeMap::new();
        for (seq, lsn) in entries {
            let (chunk, slot) = split(seq.0);
            slots.entry(chunk).or_default().push((slot, lsn.0));
        }
        let chunk = |(&number, slots): (&u64, &Vec<(u8, u64)>)| {
            Some((number, Chunk::new(slots.iter().copied())?))
        };
        let chunks: Vec<(u64, Chunk)> = slots.iter().filter_map(chunk).collect();
        page::encode(chunks.iter().map(|(number, chunk)| (*number, chunk)))
    }

    /// The pages that are written out: number and place.
    pub fn pages(&self) -> impl Iterator<Item = (u64, PageId)> + '_ {
        self.cold.iter().map(|(&number, cold)| (number, cold.id))
    }

    /// What is left of a page, as a page of its own. `None` when there is no such page.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub fn read_for_rewrite(
        &self,
        number: u64,
        pages: &impl PageSource,
    ) -> Result<Option<Vec<u8>>, PageError> {
        match self.cold.get(&number) {
            Some(cold) => Ok(pages.page(cold.id)?.without(&cold.gone)),
            None => Ok(None),
        }
    }

    /// What [`PagedIndex::read_for_rewrite`] gave is now at `id`: returns the page that is free.
    pub fn rewritten(&mut self, number: u64, id: PageId) -> Option<PageId> {
        let cold = self.cold.get_mut(&number)?;
        self.gone_bytes -= cold.gone.heap_bytes();
        cold.gone = Gone::default();
        Some(std::mem::replace(&mut cold.id, id))
    }

    /// Appends the map: what [`Index::encode`] writes of the part in memory, the number of pages, then for each the
    /// difference of its number to the one before, its file, offset and length, the number of entries left, and which
    /// are gone.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.hot.encode(out);
        varint::put(out, self.cold.len() as u64);
        let mut prev = 0;
        for (&number, cold) in &self.cold {
            varint::put(out, number - prev);
            prev = number;
            for field in [cold.id.file, cold.id.offset, cold.id.len] {
                varint::put(out, u64::from(field));
            }
            varint::put(out, u64::from(cold.live));
            cold.gone.encode(out);
        }
    }

    /// Takes a map off the front of `input`. Reads no page.
    ///
    /// # Errors
    /// The bytes break a rule of the format; how much of `input` was taken is then unspecified.
    pub fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        let corrupt = |what| Corrupt {
            structure: "index",
            what,
        };
        let mut index = PagedIndex {
            hot: Index::decode(input)?,
            ..PagedIndex::default()
        };
        let count = varint::get(input).ok_or(corrupt("the number of pages is missing"))?;
        let tail = split(index.hot.last).0 / CHUNKS;
        let mut prev = None;
        for _ in 0..count {
            let number = varint::get(input)
                .and_then(|difference| prev.unwrap_or(0u64).checked_add(difference))
                .filter(|&number| number < tail && prev.is_none_or(|prev| prev < number))
                .ok_or(corrupt("the number of a page is missing or out of order"))?;
            prev = Some(number);
            let mut field = || u32::try_from(varint::get(input)?).ok();
            let mut id = || {
                Some(PageId {
                    file: field()?,
                    offset: field()?,
                    len: field()?,
                })
            };
            let id = id().ok_or(corrupt("the place of a page is cut or out of range"))?;
            let live = varint::get(input)
                .filter(|live| (1..=PAGE_SEQS).contains(live))
                .ok_or(corrupt("the entries of a page are cut or out of range"))?;
            let gone = Gone::decode(input).ok_or(corrupt("what a page has lost is cut"))?;
            index.gone_bytes += gone.heap_bytes();
            index.cold_len += live as usize;
            let cold = Cold {
                id,
                live: live as u16,
                gone,
            };
            index.cold.insert(number, cold);
        }
        let numbers = |number: u64| number * CHUNKS..(number + 1) * CHUNKS;
        let overlaps = |&number: &u64| {
            let head = index.hot.head.as_ref().map(|head| head.number);
            head.is_some_and(|head| numbers(number).contains(&head))
                || index.hot.sealed_in(numbers(number)).next().is_some()
        };
        if index.cold.keys().any(overlaps) {
            return Err(corrupt("a page is in memory as well"));
        }
        Ok(index)
    }
}

#[cfg(test)]
#[path = "paged_tests.rs"]
mod tests;
