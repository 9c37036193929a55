//! The exchange graph of a space: exchanges, queues and what binds them; from an exchange and a routing key to queues.
//!
//! Plain data, changed under the topology's lock. A publisher keeps the answer of its last look-up and looks again only
//! when [`Graph::generation`] has moved.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use longtail_model::{Filter, Subject};

use crate::codec::{Table, Value};
use crate::queue::Queue;

/// How an exchange chooses among its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The routing key is the binding key.
    Direct,
    /// All.
    Fanout,
    /// The routing key matches the binding key: `*` is one word, `#` any number of them.
    Topic,
    /// The headers match the binding's arguments.
    Headers,
}

impl Kind {
    /// By the name that clients use.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => Kind::Direct,
            "fanout" => Kind::Fanout,
            "topic" => Kind::Topic,
            "headers" => Kind::Headers,
            _ => return None,
        })
    }

    /// The name that clients use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
            Kind::Headers => "headers",
        }
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// To a queue.
    Queue(Arc<str>),
    /// To another exchange.
    Exchange(Arc<str>),
}

/// A binding: source, destination, key and arguments together are what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where it leads.
    pub destination: Destination,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

/// What is fixed when an exchange is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeConfig {
    /// How it chooses.
    pub kind: Kind,
    /// It outlives a restart.
    pub durable: bool,
    /// It goes with the last of its bindings.
    pub auto_delete: bool,
    /// Clients do not publish to it.
    pub internal: bool,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

impl ExchangeConfig {
    /// Where a message goes that no binding wants.
    #[must_use]
    pub fn alternate(&self) -> Option<Arc<str>> {
        let arguments = Table::decode(&self.arguments).ok()?;
        arguments.get(ALTERNATE)?.as_str().map(Arc::from)
    }
}

/// The argument that names the alternate exchange.
pub const ALTERNATE: &str = "alternate-exchange";

/// An exchange with its bindings by key.
#[derive(Debug)]
pub struct Exchange {
    /// How it was declared.
    pub config: ExchangeConfig,
    alternate: Option<Arc<str>>,
    bindings: BTreeMap<Arc<str>, Bound>,
}

/// The bindings with one key.
#[derive(Debug, Default)]
struct Bound {
    /// The key as a pattern, of a topic exchange.
    filter: Option<Filter>,
    bindings: Vec<Binding>,
}

impl Exchange {
    /// Without bindings.
    #[must_use]
    pub fn new(config: ExchangeConfig) -> Self {
        Exchange {
            alternate: config.alternate(),
            config,
            bindings: BTreeMap::new(),
        }
    }

    /// Whether nothing is bound to it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Whether something is bound with this key.
    #[must_use]
    pub fn is_bound(&self, key: &str) -> bool {
        self.bindings.contains_key(key)
    }

    /// Its bindings with their keys.
    pub fn bindings(&self) -> impl Iterator<Item = (&Arc<str>, &Binding)> {
        self.bindings
            .iter()
            .flat_map(|(key, bound)| bound.bindings.iter().map(move |binding| (key, binding)))
    }
}

/// Everything in a space that a message can go through.
#[derive(Debug, Default)]
pub struct Graph {
    exchanges: HashMap<Arc<str>, Exchange>,
    queues: HashMap<Arc<str>, Arc<Queue>>,
    generation: u64,
    /// The exchange that is the subjects of the space.
    shared: Option<Arc<str>>,
}

/// What routing depends on.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// The routing key.
    pub key: &'a str,
    /// The message's headers.
    pub headers: Table<'a>,
}

/// Exchanges that one message goes through at most.
const HOPS_MAX: usize = 1_000;

impl Graph {
    /// Nothing yet; messages that come through this exchange are shared with the subjects of the space.
    #[must_use]
    pub fn sharing(exchange: Option<Arc<str>>) -> Self {
        Graph {
            shared: exchange,
            ..Graph::default()
        }
    }

    /// Moves with every change that routing depends on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// An exchange.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(name)
    }

    /// All exchanges.
    pub fn exchanges(&self) -> impl Iterator<Item = (&Arc<str>, &Exchange)> {
        self.exchanges.iter()
    }

    /// A queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// Adds an exchange.
    pub fn add_exchange(&mut self, name: Arc<str>, config: ExchangeConfig) {
        self.generation += 1;
        self.exchanges.insert(name, Exchange::new(config));
    }

    /// Adds a queue.
    pub fn add_queue(&mut self, queue: Arc<Queue>) {
        self.generation += 1;
        self.queues.insert(Arc::clone(&queue.name), queue);
    }

    /// Adds a binding; `false` when it is there already.
    pub fn bind(&mut self, source: &str, key: &Arc<str>, binding: Binding) -> bool {
        let Some(exchange) = self.exchanges.get_mut(source) else {
            return false;
        };
        let is_topic = exchange.config.kind == Kind::Topic;
        let bound = exchange
            .bindings
            .entry(Arc::clone(key))
            .or_insert_with(|| Bound {
                filter: is_topic.then(|| Filter::parse_amqp(key).ok()).flatten(),
                bindings: Vec::new(),
            });
        if bound.bindings.contains(&binding) {
            return false;
        }
        bound.bindings.push(binding);
        self.generation += 1;
        true
    }

    /// Takes a binding away; `false` when there is none.
    pub fn unbind(&mut self, source: &str, key: &str, binding: &Binding) -> bool {
        let Some(exchange) = self.exchanges.get_mut(source) else {
            return false;
        };
        let Some(bound) = exchange.bindings.get_mut(key) else {
            return false;
        };
        let before = bound.bindings.len();
        bound.bindings.retain(|known| known != binding);
        let gone = bound.bindings.len() < before;
        if bound.bindings.is_empty() {
            exchange.bindings.remove(key);
        }
        self.generation += u64::from(gone);
        gone
    }

    /// Takes a queue out, with what is bound to it. Returns the bindings that went with it, and the names of exchanges
    /// that have lost their last binding and are to go with that.
    pub fn remove_queue(&mut self, name: &str) -> Removed {
        let mut removed = Removed::default();
        self.generation += 1;
        if let Some(queue) = self.queues.remove(name) {
            self.remove_bindings_to(&Destination::Queue(Arc::clone(&queue.name)), &mut removed);
        }
        removed
    }

    /// Takes an exchange out, with its bindings in both directions.
    pub fn remove_exchange(&mut self, name: &str) -> Removed {
        let mut removed = Removed::default();
        self.generation += 1;
        let Some((name, exchange)) = self.exchanges.remove_entry(name) else {
            return removed;
        };
        for (key, bound) in exchange.bindings {
            for binding in bound.bindings {
                removed
                    .bindings
                    .push((Arc::clone(&name), Arc::clone(&key), binding));
            }
        }
        self.remove_bindings_to(&Destination::Exchange(name), &mut removed);
        removed
    }

    fn remove_bindings_to(&mut self, destination: &Destination, removed: &mut Removed) {
        for (name, exchange) in &mut self.exchanges {
            let before = removed.bindings.len();
            exchange.bindings.retain(|key, bound| {
                for binding in bound
                    .bindings
                    .extract_if(.., |binding| binding.destination == *destination)
                {
                    removed
                        .bindings
                        .push((Arc::clone(name), Arc::clone(key), binding));
                }
                !bound.bindings.is_empty()
            });
            let lost = removed.bindings.len() > before;
            if lost && exchange.config.auto_delete && exchange.is_unused() {
                removed.orphans.push(Arc::clone(name));
            }
        }
    }

    /// The queues that a message published to `exchange` goes to, each once. `None`: there is no such exchange.
    #[must_use]
    pub fn route<'g>(&'g self, exchange: &'g str, routing: &Routing<'_>) -> Option<Routed> {
        let mut found = Routed::default();
        if exchange.is_empty() {
            found.queues.extend(self.queues.get(routing.key).cloned());
            return Some(found);
        }
        self.exchanges.get(exchange)?;
        let subject = Subject::parse_amqp(routing.key).ok();
        let mut visited: HashSet<&str> = HashSet::new();
        let mut ahead: Vec<&str> = vec![exchange];
        while let Some(name) = ahead.pop() {
            if visited.len() >= HOPS_MAX || !visited.insert(name) {
                continue;
            }
            if name.is_empty() {
                self.reach(&Destination::Queue(routing.key.into()), &mut found.queues);
                continue;
            }
            let Some(exchange) = self.exchanges.get(name) else {
                continue;
            };
            found.shared |= self.shared.as_deref() == Some(name);
            let mut matched = false;
            let mut take = |binding: &'g Destination| {
                matched = true;
                match binding {
                    Destination::Exchange(next) => ahead.push(next),
                    queue @ Destination::Queue(_) => self.reach(queue, &mut found.queues),
                }
            };
            match exchange.config.kind {
                Kind::Direct => {
                    let bound = exchange.bindings.get(routing.key);
                    bound
                        .into_iter()
                        .flat_map(|bound| &bound.bindings)
                        .for_each(|binding| take(&binding.destination));
                }
                Kind::Fanout => {
                    for (_, binding) in exchange.bindings() {
                        take(&binding.destination);
                    }
                }
                Kind::Topic => {
                    for bound in exchange.bindings.values() {
                        let matches = bound.filter.as_ref().zip(subject.as_ref());
                        if matches.is_some_and(|(filter, subject)| filter.matches(subject.as_ref()))
                        {
                            for binding in &bound.bindings {
                                take(&binding.destination);
                            }
                        }
                    }
                }
                Kind::Headers => {
                    found.by_headers = true;
                    for (_, binding) in exchange.bindings() {
                        if headers_match(&binding.arguments, &routing.headers) {
                            take(&binding.destination);
                        }
                    }
                }
            }
            if !matched && let Some(alternate) = &exchange.alternate {
                ahead.push(alternate);
            }
        }
        Some(found)
    }

    fn reach(&self, destination: &Destination, found: &mut Vec<Arc<Queue>>) {
        if let Destination::Queue(name) = destination
            && let Some(queue) = self.queues.get(name)
            && !found.iter().any(|known| Arc::ptr_eq(known, queue))
        {
            found.push(Arc::clone(queue));
        }
    }
}

/// Where a message goes.
#[derive(Clone, Debug, Default)]
pub struct Routed {
    /// The queues.
    pub queues: Vec<Arc<Queue>>,
    /// The headers were asked: another message with the same key may go elsewhere.
    pub by_headers: bool,
    /// It came through the exchange that is the subjects of the space.
    pub shared: bool,
}

/// What went with something that was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Bindings, with source and key.
    pub bindings: Vec<(Arc<str>, Arc<str>, Binding)>,
    /// Auto-deleting exchanges without a binding.
    pub orphans: Vec<Arc<str>>,
}

/// How a headers exchange compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    any: bool,
    with_x: bool,
}

impl Match {
    fn of(arguments: &Table<'_>) -> Option<Self> {
        let (any, with_x) = match arguments.get("x-match") {
            None => (false, false),
            Some(value) => match value.as_str()? {
                "all" => (false, false),
                "any" => (true, false),
                "all-with-x" => (false, true),
                "any-with-x" => (true, true),
                _ => return None,
            },
        };
        Some(Match { any, with_x })
    }
}

/// Whether arguments say how a headers exchange is to compare, or nothing of it.
#[must_use]
pub fn is_match_valid(arguments: &Table<'_>) -> bool {
    Match::of(arguments).is_some()
}

/// Whether a message with these headers matches the arguments of a binding to a headers exchange: `all` of them, or
/// `any`. A void argument asks only whether the header is there.
fn headers_match(arguments: &[u8], headers: &Table<'_>) -> bool {
    let Ok(arguments) = Table::decode(arguments) else {
        return false;
    };
    let Some(rule) = Match::of(&arguments) else {
        return false;
    };
    let mut wanted = arguments
        .iter()
        .filter(|(key, _)| *key != "x-match" && (rule.with_x || !key.starts_with("x-")));
    let fits = |(key, value): (&str, Value<'_>)| {
        headers
            .get(key)
            .is_some_and(|header| value == Value::Void || value.is_equivalent(&header))
    };
    if rule.any {
        wanted.any(fits)
    } else {
        wanted.all(fits)
    }
}

#[cfg(test)]
mod tests;
