//! The patterns of a topic exchange, as a trie of words: a key is looked up along its words, however many patterns there
//! are.
//!
//! Rules (RabbitMQ's topic exchanges): words are separated by dots, an empty key has none; `*` is one word, `#` any number
//! of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A node's place.
type At = usize;

const ROOT: At = 0;

/// Patterns that are there or not.
#[derive(Debug)]
pub(super) struct Topics {
    nodes: Vec<Node>,
    /// Places that are free.
    spare: Vec<At>,
}

#[derive(Debug, Default)]
struct Node {
    words: HashMap<Box<str>, At>,
    any: Option<At>,
    many: Option<At>,
    /// The pattern that ends here.
    pattern: Option<Arc<str>>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.any.is_none() && self.many.is_none() && self.pattern.is_none()
    }

    fn child(&self, word: &str) -> Option<At> {
        match word {
            "*" => self.any,
            "#" => self.many,
            word => self.words.get(word).copied(),
        }
    }

    fn set_child(&mut self, word: &str, child: Option<At>) {
        match (word, child) {
            ("*", child) => self.any = child,
            ("#", child) => self.many = child,
            (word, Some(child)) => {
                self.words.insert(word.into(), child);
            }
            (word, None) => {
                self.words.remove(word);
            }
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Topics {
            nodes: vec![Node::default()],
            spare: Vec::new(),
        }
    }
}

fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').filter(|_| !key.is_empty())
}

impl Topics {
    pub(super) fn insert(&mut self, pattern: &Arc<str>) {
        let mut at = ROOT;
        for word in words(pattern) {
            let known = self.nodes.get(at).and_then(|node| node.child(word));
            at = known.unwrap_or_else(|| {
                let child = self.fresh();
                if let Some(node) = self.nodes.get_mut(at) {
                    node.set_child(word, Some(child));
                }
                child
            });
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.pattern = Some(Arc::clone(pattern));
        }
    }

    fn fresh(&mut self) -> At {
        self.spare.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        })
    }

    pub(super) fn remove(&mut self, pattern: &str) {
        let mut way: Vec<(At, &str)> = Vec::new();
        let mut at = ROOT;
        for word in words(pattern) {
            let Some(child) = self.nodes.get(at).and_then(|node| node.child(word)) else {
                return;
            };
            way.push((at, word));
            at = child;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.pattern = None;
        }
        while let Some((parent, word)) = way.pop() {
            if !self.nodes.get(at).is_some_and(Node::is_empty) {
                return;
            }
            self.spare.push(at);
            if let Some(node) = self.nodes.get_mut(parent) {
                node.set_child(word, None);
            }
            at = parent;
        }
    }

    /// The patterns that match a key, each once.
    pub(super) fn matching<'t>(&'t self, key: &str, take: &mut dyn FnMut(&'t Arc<str>)) {
        let words: Vec<&str> = words(key).collect();
        // Places of the trie below a `#`, and of the key: they can be come to again and again.
        let mut seen: HashSet<(At, usize)> = HashSet::new();
        let mut ahead: Vec<(At, usize, bool)> = vec![(ROOT, 0, false)];
        while let Some((at, from, again)) = ahead.pop() {
            if again && !seen.insert((at, from)) {
                continue;
            }
            let Some(node) = self.nodes.get(at) else {
                continue;
            };
            if let Some(many) = node.many {
                ahead.extend((from..=words.len()).map(|from| (many, from, true)));
            }
            match words.get(from) {
                None => {
                    if let Some(pattern) = &node.pattern {
                        take(pattern);
                    }
                }
                Some(&word) => {
                    let next = [node.any, node.words.get(word).copied()];
                    let next = next.into_iter().flatten();
                    ahead.extend(next.map(|child| (child, from + 1, again)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(patterns: &[&str]) -> Topics {
        let mut topics = Topics::default();
        for pattern in patterns {
            topics.insert(&Arc::from(*pattern));
        }
        topics
    }

    fn found(topics: &Topics, key: &str) -> Vec<String> {
        let mut all = Vec::new();
        topics.matching(key, &mut |pattern| all.push(pattern.to_string()));
        all.sort();
        all
    }

    /// Whether a pattern matches, as one would write it down.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => (0..=key.len()).any(|skip| matches(rest, &key[skip..])),
            (Some((&word, rest)), Some((&first, more))) => {
                (word == "*" || word == first) && matches(rest, more)
            }
            _ => false,
        }
    }

    #[test]
    fn words_stars_and_hashes() {
        let all = [
            "", "#", "*", "a", "a.*", "a.#", "a.#.b", "#.b", "*.b", "a..b", "#.#",
        ];
        let topics = topics(&all);
        assert_eq!(found(&topics, ""), ["", "#", "#.#"]);
        assert_eq!(found(&topics, "a"), ["#", "#.#", "*", "a", "a.#"]);
        let expected = ["#", "#.#", "#.b", "*.b", "a.#", "a.#.b", "a.*"];
        assert_eq!(found(&topics, "a.b"), expected);
        assert_eq!(
            found(&topics, "a..b"),
            ["#", "#.#", "#.b", "a.#", "a.#.b", "a..b"]
        );
        assert_eq!(found(&topics, "c"), ["#", "#.#", "*"]);
    }

    #[test]
    fn what_is_removed_is_gone_and_leaves_no_node() {
        let all = ["a.b.c", "a.b", "a.#", "#.c", "*"];
        let mut topics = topics(&all);
        topics.remove("a.b");
        topics.remove("not.there");
        assert_eq!(found(&topics, "a.b"), ["a.#"]);
        assert_eq!(found(&topics, "a.b.c"), ["#.c", "a.#", "a.b.c"]);
        for pattern in all {
            topics.remove(pattern);
        }
        assert_eq!(topics.spare.len(), topics.nodes.len() - 1);
        assert!(found(&topics, "a.b.c").is_empty());
    }

    #[test]
    fn many_hashes_are_no_explosion() {
        let topics = topics(&["#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.b"]);
        let key = vec!["a"; 60].join(".");
        assert!(found(&topics, &key).is_empty());
        assert_eq!(found(&topics, &format!("{key}.b")).len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn the_trie_agrees_with_the_definition(
            patterns in proptest::collection::btree_set("[ab*#]?(\\.[ab*#]){0,4}", 0..20),
            gone in proptest::collection::vec(proptest::bool::ANY, 20),
            key in "[abc]?(\\.[abc]){0,4}",
        ) {
            let mut topics = Topics::default();
            for pattern in &patterns {
                topics.insert(&Arc::from(pattern.as_str()));
            }
            let mut kept = Vec::new();
            for (pattern, gone) in patterns.iter().zip(gone) {
                if gone {
                    topics.remove(pattern);
                } else {
                    kept.push(pattern.clone());
                }
            }
            let words: Vec<&str> = words(&key).collect();
            kept.retain(|pattern| matches(&super::words(pattern).collect::<Vec<_>>(), &words));
            proptest::prop_assert_eq!(found(&topics, &key), kept);
        }
    }
}
