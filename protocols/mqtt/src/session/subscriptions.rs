//! The subscriptions of a session. Most have a few, which lie in a list of exactly that length; a hash table for one
//! would take as much memory as the rest of the session.

use hashbrown::HashMap;

use super::Held;

/// As many are looked for one after the other.
const FEW_MAX: usize = 8;

/// The subscriptions of a session, by the text that the client knows them by.
#[derive(Clone, Debug)]
pub(crate) enum Subscriptions {
    Few(Vec<(Box<str>, Held)>),
    Many(Box<HashMap<Box<str>, Held, foldhash::fast::RandomState>>),
}

impl Default for Subscriptions {
    fn default() -> Self {
        Subscriptions::Few(Vec::new())
    }
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        match self {
            Subscriptions::Few(few) => few.len(),
            Subscriptions::Many(many) => many.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, text: &str) -> Option<&Held> {
        match self {
            Subscriptions::Few(few) => {
                let found = few.iter().find(|(known, _)| **known == *text);
                found.map(|(_, held)| held)
            }
            Subscriptions::Many(many) => many.get(text),
        }
    }

    pub(crate) fn get_mut(&mut self, text: &str) -> Option<&mut Held> {
        match self {
            Subscriptions::Few(few) => {
                let found = few.iter_mut().find(|(known, _)| **known == *text);
                found.map(|(_, held)| held)
            }
            Subscriptions::Many(many) => many.get_mut(text),
        }
    }

    pub(crate) fn contains_key(&self, text: &str) -> bool {
        self.get(text).is_some()
    }

    /// The one that was there before.
    pub(crate) fn insert(&mut self, text: Box<str>, held: Held) -> Option<Held> {
        if let Some(known) = self.get_mut(&text) {
            return Some(std::mem::replace(known, held));
        }
        match self {
            Subscriptions::Few(few) if few.len() < FEW_MAX => {
                few.reserve_exact(1);
                few.push((text, held));
            }
            Subscriptions::Few(few) => {
                let all = std::mem::take(few).into_iter().chain([(text, held)]);
                *self = Subscriptions::Many(Box::new(all.collect()));
            }
            Subscriptions::Many(many) => {
                many.insert(text, held);
            }
        }
        None
    }

    pub(crate) fn remove(&mut self, text: &str) -> Option<Held> {
        match self {
            Subscriptions::Few(few) => {
                let at = few.iter().position(|(known, _)| **known == *text)?;
                let (_, held) = few.remove(at);
                few.shrink_to_fit();
                Some(held)
            }
            Subscriptions::Many(many) => {
                let held = many.remove(text);
                if many.len() <= FEW_MAX / 2 {
                    let mut few: Vec<_> = many.drain().collect();
                    few.shrink_to_fit();
                    *self = Subscriptions::Few(few);
                }
                held
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Box<str>, &Held)> {
        let (few, many) = match self {
            Subscriptions::Few(few) => (&few[..], None),
            Subscriptions::Many(many) => (&[][..], Some(many.iter())),
        };
        let few = few.iter().map(|(text, held)| (text, held));
        few.chain(many.into_iter().flatten())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(text, _)| &**text)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Held> {
        self.iter().map(|(_, held)| held)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longtail_broker::ephemeral::LiveOptions;
    use longtail_model::Filter;

    use super::*;

    fn held(tag: u64) -> Held {
        Held {
            filter: Filter::new("a").unwrap(),
            group: None,
            options: LiveOptions {
                tag,
                ..LiveOptions::default()
            },
            is_exclusive: false,
            is_counted: false,
        }
    }

    #[test]
    fn few_become_many_and_few_again() {
        let mut all = Subscriptions::default();
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        let check = |all: &Subscriptions, model: &BTreeMap<String, u64>| {
            assert_eq!((all.len(), all.is_empty()), (model.len(), model.is_empty()));
            let seen = all
                .iter()
                .map(|(text, held)| (text.to_string(), held.options.tag));
            assert_eq!(&seen.collect::<BTreeMap<_, _>>(), model);
            assert_eq!(all.keys().count(), all.values().count());
        };
        for n in 0..40_u64 {
            // Each twice: the second replaces the first.
            for tag in [n, n + 100] {
                let old = all.insert(n.to_string().into(), held(tag));
                assert_eq!(
                    old.map(|old| old.options.tag),
                    model.insert(n.to_string(), tag)
                );
            }
            check(&all, &model);
        }
        assert!(matches!(all, Subscriptions::Many(_)));
        for n in 0..40_u64 {
            let text = n.to_string();
            assert_eq!(all.get(&text).map(|held| held.options.tag), Some(n + 100));
            all.get_mut(&text).unwrap().is_counted = true;
            assert!(all.remove(&text).unwrap().is_counted);
            assert!(all.remove(&text).is_none() && !all.contains_key(&text));
            model.remove(&text);
            check(&all, &model);
        }
        assert!(matches!(&all, Subscriptions::Few(few) if few.capacity() == 0));
    }
}
