//! Topic aliases that the client is told (MQTT 5.0, 3.3.2.3.4). When all are given, the one that was used longest ago
//! gets a new topic.

use std::num::NonZeroU16;

use hashbrown::HashMap;
use longtail_model::Subject;

use crate::codec::Alias;

/// The aliases of one connection.
#[derive(Debug)]
pub(super) struct AliasTable {
    max: u16,
    by_topic: HashMap<Subject, Given, foldhash::fast::RandomState>,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    alias: NonZeroU16,
    used: u64,
}

impl AliasTable {
    /// Topics shorter than this gain too little.
    const TOPIC_BYTES_MIN: usize = 8;
    /// Up to so many, a full table is searched for the one to give up; beyond, first come is what counts.
    const SEARCHED_MAX: usize = 64;

    /// For a client that takes up to `max` aliases; `None` if there is nothing to gain.
    pub(super) fn new(max: u16) -> Option<Box<Self>> {
        (max > 0).then(|| {
            Box::new(AliasTable {
                max,
                by_topic: HashMap::default(),
                uses: 0,
            })
        })
    }

    /// The alias to send `topic` with. What it says has to be sent, or [`AliasTable::forget`] called.
    pub(super) fn choose(&mut self, topic: &Subject) -> Option<Alias> {
        if topic.len() < Self::TOPIC_BYTES_MIN {
            return None;
        }
        self.uses += 1;
        if let Some(given) = self.by_topic.get_mut(topic) {
            given.used = self.uses;
            return Some(Alias::Use(given.alias));
        }
        let count = self.by_topic.len();
        let alias = if count < usize::from(self.max) {
            NonZeroU16::new(u16::try_from(count + 1).ok()?)?
        } else if count <= Self::SEARCHED_MAX {
            let oldest = self.by_topic.iter().min_by_key(|(_, given)| given.used);
            let (topic, given) = oldest.map(|(topic, given)| (topic.clone(), *given))?;
            self.by_topic.remove(&topic);
            given.alias
        } else {
            return None;
        };
        let used = self.uses;
        self.by_topic.insert(topic.clone(), Given { alias, used });
        Some(Alias::Define(alias))
    }

    /// The packet that would have defined the alias of `topic` was not sent: no alias of this table is known to be
    /// what it was, so that all are defined again.
    pub(super) fn forget(&mut self) {
        self.by_topic.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Subject {
        Subject::new(text).unwrap()
    }

    #[test]
    fn an_alias_is_defined_before_it_is_used_and_the_oldest_makes_room() {
        let mut table = AliasTable::new(2).unwrap();
        let alias = |n| NonZeroU16::new(n).unwrap();
        let (a, b, c) = (topic("topics/a"), topic("topics/b"), topic("topics/c"));
        assert_eq!(table.choose(&a), Some(Alias::Define(alias(1))));
        assert_eq!(table.choose(&b), Some(Alias::Define(alias(2))));
        assert_eq!(table.choose(&a), Some(Alias::Use(alias(1))));
        assert_eq!(table.choose(&c), Some(Alias::Define(alias(2))));
        assert_eq!(table.choose(&b), Some(Alias::Define(alias(1))));
        assert_eq!(table.choose(&topic("short")), None);
        table.forget();
        assert_eq!(table.choose(&b), Some(Alias::Define(alias(1))));
    }

    #[test]
    fn without_a_maximum_there_is_no_table() {
        assert!(AliasTable::new(0).is_none());
    }
}
