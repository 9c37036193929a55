//! What a channel was given and has not settled, by delivery tag.

use std::collections::VecDeque;

use longtail_model::{GroupId, Seq, Timestamp};

/// A delivery that waits for its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) tag: u64,
    /// The number of its shard.
    pub(super) shard: u16,
    pub(super) group: GroupId,
    pub(super) seq: Seq,
    /// Who it was for; 0: nobody, it was fetched.
    pub(super) consumer: u32,
    /// How often the message was delivered, this one included.
    pub(super) deliveries: u32,
    /// How often such a delivery had failed.
    pub(super) failures: u32,
    /// When, as far as anybody wants to know.
    pub(super) at: Timestamp,
    /// Read from a stream: there is no group in which it would have to be settled.
    pub(super) is_read: bool,
}

/// Deliveries by ascending tag. Most are settled from the front; one that stays behind costs nothing but itself.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    /// Settled ones stay as `None` until they are at the front, or until they are most.
    entries: VecDeque<(u64, Option<Delivered>)>,
    gone: usize,
}

/// Gaps are closed beyond this many entries.
const COMPACT_MIN: usize = 64;

impl Unacked {
    pub(super) fn push(&mut self, delivered: Delivered) {
        self.entries.push_back((delivered.tag, Some(delivered)));
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.gone
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes one out.
    pub(super) fn take(&mut self, tag: u64) -> Option<Delivered> {
        let at = self.find(tag)?;
        let taken = self.entries.get_mut(at)?.1.take()?;
        self.gone += 1;
        self.tidy();
        Some(taken)
    }

    /// Takes out all up to a tag, which is among them; `None`: it is not.
    pub(super) fn take_to(&mut self, tag: u64) -> Option<Vec<Delivered>> {
        let at = self.find(tag)?;
        self.entries.get(at)?.1?;
        let taken = self.entries.drain(..=at);
        let taken: Vec<_> = taken.filter_map(|(_, delivered)| delivered).collect();
        self.recount();
        Some(taken)
    }

    /// Takes out all up to a tag, whether it is among them or not.
    pub(super) fn take_through(&mut self, tag: u64) -> Vec<Delivered> {
        let end = self.entries.partition_point(|(at, _)| *at <= tag);
        let taken: Vec<_> = self.entries.drain(..end).collect();
        self.recount();
        taken
            .into_iter()
            .filter_map(|(_, delivered)| delivered)
            .collect()
    }

    /// Since when a consumer has what it has longest.
    pub(super) fn oldest_of(&self, consumer: u32) -> Option<Timestamp> {
        let mut all = self
            .entries
            .iter()
            .filter_map(|(_, delivered)| delivered.as_ref());
        all.find(|delivered| delivered.consumer == consumer)
            .map(|delivered| delivered.at)
    }

    /// Takes out everything of one consumer.
    pub(super) fn take_of(&mut self, consumer: u32) -> Vec<Delivered> {
        let of = |delivered: &mut Delivered| delivered.consumer == consumer;
        let entries = self.entries.iter_mut();
        let taken: Vec<_> = entries
            .filter_map(|(_, delivered)| delivered.take_if(of))
            .collect();
        self.gone += taken.len();
        self.tidy();
        taken
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<Delivered> {
        self.gone = 0;
        let all = std::mem::take(&mut self.entries);
        all.into_iter()
            .filter_map(|(_, delivered)| delivered)
            .collect()
    }

    /// Makes deliveries that were taken out unsettled again.
    pub(super) fn put_back(&mut self, delivered: Vec<Delivered>) {
        if delivered.is_empty() {
            return;
        }
        let mut all = self.take_all();
        all.extend(delivered);
        all.sort_unstable_by_key(|delivered| delivered.tag);
        all.into_iter().for_each(|delivered| self.push(delivered));
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let first = self.entries.front()?.0;
        let guess = usize::try_from(tag.checked_sub(first)?).ok()?;
        if self.entries.get(guess).is_some_and(|(at, _)| *at == tag) {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&tag, |(at, _)| *at).ok()
    }

    fn tidy(&mut self) {
        while self
            .entries
            .pop_front_if(|(_, delivered)| delivered.is_none())
            .is_some()
        {
            self.gone -= 1;
        }
        if self.entries.len() >= COMPACT_MIN && self.gone > self.entries.len() / 2 {
            self.entries.retain(|(_, delivered)| delivered.is_some());
            self.gone = 0;
        }
    }

    fn recount(&mut self) {
        let gone = self
            .entries
            .iter()
            .filter(|(_, delivered)| delivered.is_none());
        self.gone = gone.count();
        self.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(tag: u64) -> Delivered {
        Delivered {
            tag,
            shard: 0,
            group: GroupId(1),
            seq: Seq(tag),
            consumer: u32::from(tag.is_multiple_of(2)),
            deliveries: 1,
            failures: 0,
            at: Timestamp(tag),
            is_read: false,
        }
    }

    fn filled(tags: impl IntoIterator<Item = u64>) -> Unacked {
        let mut unacked = Unacked::default();
        tags.into_iter()
            .for_each(|tag| unacked.push(delivered(tag)));
        unacked
    }

    #[test]
    fn each_is_taken_once_in_whatever_order() {
        let mut unacked = filled(1..=5);
        assert_eq!(unacked.take(3), Some(delivered(3)));
        assert_eq!(unacked.take(3), None);
        assert_eq!(unacked.take(9), None);
        assert_eq!(unacked.take_to(3), None);
        assert_eq!(unacked.take_to(4).unwrap().len(), 3);
        assert_eq!((unacked.len(), unacked.take(5)), (1, Some(delivered(5))));
        assert!(unacked.is_empty());
        assert_eq!(unacked.take_to(5), None);
    }

    #[test]
    fn what_is_put_back_is_where_it_was() {
        let mut unacked = filled(1..=6);
        let taken = vec![unacked.take(5).unwrap(), unacked.take(2).unwrap()];
        unacked.put_back(taken);
        assert_eq!(unacked.take_to(3).unwrap().len(), 3);
        assert_eq!(unacked.take(5), Some(delivered(5)));
        assert_eq!(unacked.len(), 2);
    }

    #[test]
    fn what_one_consumer_has_is_found_and_taken_out() {
        let mut unacked = filled(1..=6);
        unacked.take(2);
        assert_eq!(unacked.oldest_of(1), Some(Timestamp(4)));
        assert_eq!(unacked.oldest_of(7), None);
        assert_eq!(unacked.take_of(1), [delivered(4), delivered(6)]);
        assert_eq!((unacked.len(), unacked.take(4)), (3, None));
        assert_eq!(unacked.take_through(4), [delivered(1), delivered(3)]);
        assert_eq!(unacked.take_all(), [delivered(5)]);
    }

    #[test]
    fn one_that_stays_behind_keeps_nothing_else() {
        let mut unacked = filled(1..=1);
        for tag in 2..10_000 {
            unacked.push(delivered(tag));
            assert_eq!(unacked.take(tag), Some(delivered(tag)));
            assert!(unacked.entries.len() <= 2 * COMPACT_MIN);
        }
        unacked.push(delivered(20_000));
        assert_eq!(unacked.take_all(), [delivered(1), delivered(20_000)]);
        assert!(unacked.is_empty());
    }
}
