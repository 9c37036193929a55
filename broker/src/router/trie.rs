//! The trie of wildcard filters, one level a token, shared between versions like the hash tables in it.
//!
//! Three kinds of subscriptions can end at a node: those whose filter ends there (`here`), those that take any number
//! of further tokens (`tail`, a last `#`) and those that take at least one (`rest`, a last `>`). A `#` in the middle is
//! a child of its own. A walk may meet such a child at several places of the subject, and would start over from each
//! of them; it remembers from where on the child has been tried already, which keeps the cost of a look-up linear in
//! the length of the subject for every node, however the filters are nested.

use std::hash::BuildHasher;
use std::sync::Arc;

use longtail_model::FilterToken;
use smallvec::SmallVec;

use super::group::{GroupSpec, Member, SharedGroup};
use super::hamt::Hamt;
use super::routes::TargetKey;

/// A random seed, so that nobody can choose tokens that collide.
pub(super) type Hasher = foldhash::quality::RandomState;

/// The groups under one filter.
type Groups<K, O> = Vec<Arc<SharedGroup<K, O>>>;

/// The subscriptions with one filter.
#[derive(Clone)]
pub(super) struct Leaf<K, O> {
    plain: Entries<K, O>,
    /// Boxed, because most leaves have none.
    groups: Option<Box<Groups<K, O>>>,
}

#[derive(Clone)]
enum Entries<K, O> {
    None,
    One(Entry<K, O>),
    Many(Hamt<Entry<K, O>>),
}

#[derive(Clone)]
struct Entry<K, O> {
    key: K,
    /// Not a match for subjects that start with `$`.
    hidden: bool,
    options: O,
}

/// What one subscription changes in its leaf.
pub(super) enum Change<'a, K, O> {
    Subscribe {
        key: K,
        hidden: bool,
        options: O,
    },
    Unsubscribe {
        key: K,
    },
    Join {
        spec: &'a GroupSpec,
        key: K,
        hidden: bool,
        options: O,
    },
    Leave {
        group: &'a str,
        key: K,
    },
}

impl<K, O> Default for Leaf<K, O> {
    fn default() -> Self {
        Leaf {
            plain: Entries::None,
            groups: None,
        }
    }
}

impl<K: TargetKey, O: Clone> Leaf<K, O> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.plain, Entries::None) && self.groups.is_none()
    }

    pub(super) fn for_each<'a>(&'a self, reserved: bool, f: &mut dyn FnMut(K, &'a O)) {
        let mut visit = |entry: &'a Entry<K, O>| {
            if !(reserved && entry.hidden) {
                f(entry.key, &entry.options);
            }
        };
        match &self.plain {
            Entries::None => {}
            Entries::One(entry) => visit(entry),
            Entries::Many(entries) => entries.for_each(&mut visit),
        }
    }

    pub(super) fn groups(&self, reserved: bool) -> impl Iterator<Item = &Arc<SharedGroup<K, O>>> {
        self.all_groups()
            .filter(move |group| !(reserved && group.hidden))
    }

    fn all_groups(&self) -> impl Iterator<Item = &Arc<SharedGroup<K, O>>> {
        self.groups.iter().flat_map(|groups| groups.iter())
    }

    /// Whether the subscription that `change` is about is there.
    pub(super) fn holds(&self, change: &Change<'_, K, O>, hasher: &Hasher) -> bool {
        match change {
            Change::Subscribe { key, .. } | Change::Unsubscribe { key } => match &self.plain {
                Entries::None => false,
                Entries::One(entry) => entry.key == *key,
                Entries::Many(entries) => entries
                    .get(hasher.hash_one(key), |entry| entry.key == *key)
                    .is_some(),
            },
            Change::Join {
                spec: GroupSpec { name, .. },
                key,
                ..
            } => self.has_member(name, *key),
            Change::Leave { group, key } => self.has_member(group, *key),
        }
    }

    fn has_member(&self, name: &str, key: K) -> bool {
        let group = self.all_groups().find(|group| &*group.spec.name == name);
        group.is_some_and(|group| group.members.iter().any(|member| member.key == key))
    }

    /// How many members the group has under this filter.
    pub(super) fn group_size(&self, name: &str) -> usize {
        let group = self.all_groups().find(|group| &*group.spec.name == name);
        group.map_or(0, |group| group.members.len())
    }

    pub(super) fn apply(&mut self, change: Change<'_, K, O>, hasher: &Hasher) {
        match change {
            Change::Subscribe {
                key,
                hidden,
                options,
            } => self.put(
                Entry {
                    key,
                    hidden,
                    options,
                },
                hasher,
            ),
            Change::Unsubscribe { key } => self.take(key, hasher),
            Change::Join {
                spec,
                key,
                hidden,
                options,
            } => {
                let groups = self.groups.get_or_insert_default();
                let at = groups.iter().position(|group| group.spec.name == spec.name);
                let at = at.unwrap_or_else(|| {
                    groups.push(Arc::new(SharedGroup::new(spec.clone(), hidden)));
                    groups.len() - 1
                });
                let members = &mut Arc::make_mut(&mut groups[at]).members;
                match members.iter_mut().find(|member| member.key == key) {
                    Some(member) => member.options = options,
                    None => members.push(Member { key, options }),
                }
            }
            Change::Leave { group, key } => {
                let Some(groups) = &mut self.groups else {
                    return;
                };
                let Some(at) = groups.iter().position(|g| &*g.spec.name == group) else {
                    return;
                };
                let members = &mut Arc::make_mut(&mut groups[at]).members;
                members.retain(|member| member.key != key);
                if members.is_empty() {
                    groups.remove(at);
                }
                if groups.is_empty() {
                    self.groups = None;
                }
            }
        }
    }

    fn put(&mut self, entry: Entry<K, O>, hasher: &Hasher) {
        let hash_of = |entry: &Entry<K, O>| hasher.hash_one(entry.key);
        match &mut self.plain {
            Entries::None => self.plain = Entries::One(entry),
            Entries::One(one) if one.key == entry.key => *one = entry,
            Entries::One(one) => {
                let mut entries = Hamt::default();
                entries.insert(hash_of(one), one.clone());
                entries.insert(hash_of(&entry), entry);
                self.plain = Entries::Many(entries);
            }
            Entries::Many(entries) => {
                let hash = hash_of(&entry);
                match entries.get_mut(hash, |other| other.key == entry.key) {
                    Some(other) => *other = entry,
                    None => entries.insert(hash, entry),
                }
            }
        }
    }

    fn take(&mut self, key: K, hasher: &Hasher) {
        match &mut self.plain {
            Entries::One(one) if one.key == key => self.plain = Entries::None,
            Entries::None | Entries::One(_) => {}
            Entries::Many(entries) => {
                entries.remove(hasher.hash_one(key), |entry| entry.key == key);
                if entries.is_empty() {
                    self.plain = Entries::None;
                }
            }
        }
    }
}

/// Changes the leaf in `slot`, which comes and goes as needed.
fn change_leaf<K: TargetKey, O: Clone>(
    slot: &mut Option<Arc<Leaf<K, O>>>,
    change: Change<'_, K, O>,
    hasher: &Hasher,
) {
    let leaf = slot.get_or_insert_with(Arc::default);
    Arc::make_mut(leaf).apply(change, hasher);
    if leaf.is_empty() {
        *slot = None;
    }
}

/// A token's text, in the node itself unless it is long: comparing it costs no further access to memory.
type Token = SmallVec<[u8; 16]>;

/// A place between the tokens of filters.
#[derive(Clone)]
pub(super) struct Node<K, O> {
    /// The token that leads here, if it is a literal one.
    token: Token,
    children: Hamt<Arc<Node<K, O>>>,
    one: Option<Arc<Node<K, O>>>,
    many: Option<Arc<Node<K, O>>>,
    here: Option<Arc<Leaf<K, O>>>,
    tail: Option<Arc<Leaf<K, O>>>,
    rest: Option<Arc<Leaf<K, O>>>,
}

impl<K, O> Node<K, O> {
    pub(super) fn new(token: &str) -> Self {
        Node {
            token: SmallVec::from_slice(token.as_bytes()),
            children: Hamt::default(),
            one: None,
            many: None,
            here: None,
            tail: None,
            rest: None,
        }
    }
}

impl<K: TargetKey, O: Clone> Node<K, O> {
    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.one.is_none()
            && self.many.is_none()
            && self.here.is_none()
            && self.tail.is_none()
            && self.rest.is_none()
    }

    /// The leaf of a filter.
    pub(super) fn leaf<'f>(
        &self,
        mut tokens: impl Iterator<Item = FilterToken<'f>> + Clone,
        hasher: &Hasher,
    ) -> Option<&Leaf<K, O>> {
        let mut node = self;
        loop {
            node = match tokens.next() {
                None => return node.here.as_deref(),
                Some(FilterToken::OneOrMore) => return node.rest.as_deref(),
                Some(FilterToken::ZeroOrMore) if tokens.clone().next().is_none() => {
                    return node.tail.as_deref();
                }
                Some(FilterToken::ZeroOrMore) => node.many.as_deref()?,
                Some(FilterToken::One) => node.one.as_deref()?,
                Some(FilterToken::Literal(token)) => {
                    node.children.get(hasher.hash_one(token), |child| {
                        child.token[..] == *token.as_bytes()
                    })?
                }
            };
        }
    }

    /// Changes the leaf of a filter; nodes come and go as needed.
    pub(super) fn change<'f>(
        &mut self,
        mut tokens: impl Iterator<Item = FilterToken<'f>> + Clone,
        change: Change<'_, K, O>,
        hasher: &Hasher,
    ) {
        let slot = match tokens.next() {
            None => return change_leaf(&mut self.here, change, hasher),
            Some(FilterToken::OneOrMore) => return change_leaf(&mut self.rest, change, hasher),
            Some(FilterToken::ZeroOrMore) if tokens.clone().next().is_none() => {
                return change_leaf(&mut self.tail, change, hasher);
            }
            Some(FilterToken::ZeroOrMore) => &mut self.many,
            Some(FilterToken::One) => &mut self.one,
            Some(FilterToken::Literal(token)) => {
                let hash = hasher.hash_one(token);
                let is = |child: &Arc<Node<K, O>>| child.token[..] == *token.as_bytes();
                if self.children.get(hash, is).is_none() {
                    let child = Arc::new(Node::new(token));
                    self.children.insert(hash, child);
                }
                let Some(child) = self.children.get_mut(hash, is) else {
                    return;
                };
                Arc::make_mut(child).change(tokens, change, hasher);
                if child.is_empty() {
                    self.children.remove(hash, is);
                }
                return;
            }
        };
        let child = slot.get_or_insert_with(|| Arc::new(Node::new("")));
        Arc::make_mut(child).change(tokens, change, hasher);
        if child.is_empty() {
            *slot = None;
        }
    }
}

/// The leaves that a look-up found, each once.
pub(super) type Leaves<'s, K, O> = SmallVec<[&'s Leaf<K, O>; 16]>;

/// One walk through the trie.
pub(super) struct Walk<'w, 's, K, O> {
    /// The subject's tokens and their hashes.
    tokens: &'w [(&'w str, u64)],
    found: &'w mut Leaves<'s, K, O>,
    /// For every child of the kind "any number of tokens" met so far: from which token on it has been tried.
    tried: SmallVec<[(&'s Node<K, O>, usize); 4]>,
}

impl<'w, 's, K: TargetKey, O: Clone> Walk<'w, 's, K, O> {
    pub(super) fn run(
        root: &'s Node<K, O>,
        tokens: &'w [(&'w str, u64)],
        found: &'w mut Leaves<'s, K, O>,
    ) {
        let mut walk = Walk {
            tokens,
            found,
            tried: SmallVec::new(),
        };
        walk.visit(root, 0);
        // Only where a "#" in the middle is about can a leaf have been met twice.
        if !walk.tried.is_empty() {
            walk.found
                .sort_unstable_by_key(|leaf| std::ptr::from_ref(*leaf).addr());
            walk.found.dedup_by(|a, b| std::ptr::eq(*a, *b));
        }
    }

    fn visit(&mut self, node: &'s Node<K, O>, at: usize) {
        self.add(node.tail.as_ref());
        match self.tokens.get(at) {
            None => self.add(node.here.as_ref()),
            Some(&(token, hash)) => {
                self.add(node.rest.as_ref());
                if let Some(one) = &node.one {
                    self.visit(one, at + 1);
                }
                if let Some(child) = node
                    .children
                    .get(hash, |child| child.token[..] == *token.as_bytes())
                {
                    self.visit(child, at + 1);
                }
            }
        }
        if let Some(many) = &node.many {
            self.visit_many(many, at);
        }
    }

    fn visit_many(&mut self, many: &'s Node<K, O>, at: usize) {
        let end = self.tokens.len() + 1;
        let known = self
            .tried
            .iter_mut()
            .find(|(node, _)| std::ptr::eq(*node, many));
        let tried = match known {
            Some((_, from)) => std::mem::replace(from, at.min(*from)),
            None => {
                self.tried.push((many, at));
                end
            }
        };
        for start in at..tried {
            self.visit(many, start);
        }
    }

    fn add(&mut self, leaf: Option<&'s Arc<Leaf<K, O>>>) {
        self.found.extend(leaf.map(|leaf| &**leaf));
    }
}
