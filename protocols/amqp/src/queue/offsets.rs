//! Places in a stream that the server keeps for consumers, by their tags.
//!
//! ```text
//! ack ──▶ Places (of a consumer) ──▶ Offsets (of a stream) ──▶ once a second ──▶ document of the catalog
//! ```
//!
//! A place is the offset of the first message that is not acknowledged. What a crash takes away is what was acknowledged
//! in the last second: that comes again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Consumers of a stream whose places are kept. With one more, the one that was told longest ago is forgotten.
pub(crate) const OFFSETS_MAX: usize = 1_000;

/// The places in one stream.
#[derive(Debug, Default)]
pub(crate) struct Offsets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_tag: HashMap<Arc<str>, Place>,
    /// Counts what was told.
    told: u64,
    is_changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    told: u64,
}

impl Offsets {
    /// What was kept before the start.
    pub(crate) fn restore(&self, places: impl IntoIterator<Item = (Arc<str>, u64)>) {
        let mut kept = self.0.lock();
        for (tag, offset) in places {
            kept.set(tag, offset);
        }
        kept.is_changed = false;
    }

    /// Where a consumer goes on.
    pub(crate) fn get(&self, tag: &str) -> Option<u64> {
        let kept = self.0.lock();
        kept.by_tag.get(tag).map(|place| place.offset)
    }

    /// A consumer goes on there.
    pub(crate) fn set(&self, tag: &Arc<str>, offset: u64) {
        let mut kept = self.0.lock();
        kept.set(Arc::clone(tag), offset);
        kept.is_changed = true;
    }

    /// What is to be written down, those that were told longest ago first; `None`: that is done.
    pub(crate) fn take_changed(&self) -> Option<Vec<(Arc<str>, u64)>> {
        let mut kept = self.0.lock();
        if !std::mem::take(&mut kept.is_changed) {
            return None;
        }
        let mut all: Vec<_> = kept.by_tag.iter().collect();
        all.sort_by_key(|(_, place)| place.told);
        let all = all.into_iter();
        Some(
            all.map(|(tag, place)| (Arc::clone(tag), place.offset))
                .collect(),
        )
    }

    /// It could not be written down.
    pub(crate) fn is_still_changed(&self) {
        self.0.lock().is_changed = true;
    }
}

impl Kept {
    fn set(&mut self, tag: Arc<str>, offset: u64) {
        self.told += 1;
        let told = self.told;
        self.by_tag.insert(tag, Place { offset, told });
        if self.by_tag.len() > OFFSETS_MAX {
            let oldest = self.by_tag.iter().min_by_key(|(_, place)| place.told);
            if let Some(tag) = oldest.map(|(tag, _)| Arc::clone(tag)) {
                self.by_tag.remove(&tag);
            }
        }
    }
}

/// How far one consumer has come.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Delivered, and not acknowledged.
    waiting: BTreeSet<u64>,
    /// The first that was not delivered.
    next: u64,
    /// Who writes down what has changed.
    keeping: Arc<Notify>,
}

impl Progress {
    /// Nothing was delivered yet. `keeping` is told when there is something to be written down.
    pub(crate) fn new(keeping: Arc<Notify>) -> Self {
        Progress {
            waiting: BTreeSet::new(),
            next: 0,
            keeping,
        }
    }

    /// A message was delivered.
    pub(crate) fn delivered(&mut self, offset: u64) {
        self.waiting.insert(offset);
        self.next = offset.saturating_add(1);
    }

    /// One was acknowledged, or refused for good. Where the consumer would go on now.
    pub(crate) fn settled(&mut self, offset: u64) -> u64 {
        self.waiting.remove(&offset);
        self.waiting.first().copied().unwrap_or(self.next)
    }

    /// The place has changed.
    pub(crate) fn tell(&self) {
        self.keeping.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_first_that_is_not_acknowledged() {
        let mut progress = Progress::new(Arc::default());
        (5..9).for_each(|offset| progress.delivered(offset));
        assert_eq!(progress.settled(6), 5);
        assert_eq!(progress.settled(5), 7);
        assert_eq!(progress.settled(8), 7);
        assert_eq!(progress.settled(7), 9, "all that was delivered");
        // Some between were filtered out.
        progress.delivered(20);
        progress.delivered(30);
        assert_eq!(progress.settled(20), 30);
        assert_eq!(progress.settled(30), 31);
    }

    #[test]
    fn places_are_written_down_when_they_have_changed() {
        let offsets = Offsets::default();
        offsets.restore([("a".into(), 7), ("b".into(), 8)]);
        assert_eq!(offsets.take_changed(), None);
        offsets.set(&"a".into(), 9);
        let all = vec![(Arc::from("b"), 8), (Arc::from("a"), 9)];
        assert_eq!(offsets.take_changed(), Some(all.clone()));
        assert_eq!(offsets.take_changed(), None);
        offsets.is_still_changed();
        assert_eq!(offsets.take_changed(), Some(all));
        assert_eq!((offsets.get("a"), offsets.get("c")), (Some(9), None));
    }

    #[test]
    fn who_was_told_longest_ago_is_forgotten() {
        let offsets = Offsets::default();
        for number in 0..OFFSETS_MAX as u64 {
            offsets.set(&number.to_string().into(), number);
        }
        offsets.set(&"0".into(), 5);
        offsets.set(&"new".into(), 1);
        assert_eq!((offsets.get("0"), offsets.get("1")), (Some(5), None));
        assert_eq!(offsets.take_changed().unwrap().len(), OFFSETS_MAX);
    }
}
