//! The exchange graph of a space: exchanges, queues and what binds them; from an exchange and a routing key to queues.
//!
//! Plain data, changed under the topology's lock. A publisher keeps the answer of its last look-up and looks again only
//! when [`Graph::generation`] has moved.

mod dedup;
mod headers;
mod kind;
mod picking;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use longtail_model::{ShardId, StreamId, Timestamp};
use smallvec::SmallVec;

use crate::codec::{Properties, Table, Value};
use crate::exception::Exception;
use crate::queue::Queue;
use crate::tally::{self, Tallies};
pub use dedup::{Dedup, Key as DedupKey, Repeated, Seen};
use headers::headers_match;
pub(crate) use kind::COMPARED;
pub use kind::{DELAYED, Kind};
use kind::{ExchangeArguments, HashOn};
use picking::{Candidate, pick};
use topics::Topics;

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
    /// The type by which it was declared: its kind, or [`DELAYED`].
    type_name: Arc<str>,
    /// It outlives a restart.
    pub durable: bool,
    /// It goes with the last of its bindings.
    pub auto_delete: bool,
    /// Clients do not publish to it.
    pub internal: bool,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
    parsed: ExchangeArguments,
}

/// Whether an exchange outlives a restart, goes with the last of its bindings, and is closed to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeFlags {
    /// See [`ExchangeConfig::durable`].
    pub durable: bool,
    /// See [`ExchangeConfig::auto_delete`].
    pub auto_delete: bool,
    /// See [`ExchangeConfig::internal`].
    pub internal: bool,
}

impl ExchangeConfig {
    /// As a declaration says.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` for a type or an argument that is wrong.
    pub fn new(
        type_name: &str,
        flags: ExchangeFlags,
        arguments: Arc<[u8]>,
    ) -> Result<Self, Exception> {
        let table = Table::decode(&arguments).unwrap_or_default();
        let (kind, parsed) = ExchangeArguments::parse(type_name, &table)?;
        Ok(ExchangeConfig {
            kind,
            type_name: type_name.into(),
            durable: flags.durable,
            auto_delete: flags.auto_delete,
            internal: flags.internal,
            arguments,
            parsed,
        })
    }

    /// An exchange that is there from the beginning.
    #[must_use]
    pub fn predeclared(kind: Kind) -> Self {
        ExchangeConfig {
            kind,
            type_name: kind.name().into(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Arc::default(),
            parsed: ExchangeArguments::default(),
        }
    }

    /// The type by which it was declared.
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Whether messages wait in it for their time.
    #[must_use]
    pub fn delays(&self) -> bool {
        self.parsed.delays
    }

    /// Where a message goes that no binding wants.
    #[must_use]
    pub fn alternate(&self) -> Option<&Arc<str>> {
        self.parsed.alternate.as_ref()
    }
}

/// The argument that names the alternate exchange.
pub const ALTERNATE: &str = "alternate-exchange";

/// An exchange with its bindings by key.
#[derive(Debug)]
pub struct Exchange {
    /// How it was declared.
    pub config: ExchangeConfig,
    bindings: BTreeMap<Arc<str>, Bound>,
    /// What its argument says, or else a policy.
    alternate: Option<Arc<str>>,
    /// The keys of a topic exchange, as patterns.
    topics: Topics,
    /// The bindings of one that picks.
    candidates: Vec<Candidate>,
    seen: Option<Seen>,
    /// Where messages wait for their time.
    waiting: Option<Waiting>,
    tallies: ExchangeTallies,
}

/// What went through an exchange.
pub(crate) type ExchangeTallies = Arc<Tallies<{ tally::exchange::COUNT }>>;

/// The stream of an exchange whose messages wait for their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The exchange.
    pub exchange: Arc<str>,
    /// Where the stream lives.
    pub shard: ShardId,
    /// The stream.
    pub stream: StreamId,
}

/// The bindings with one key.
#[derive(Debug, Default)]
struct Bound {
    bindings: Vec<Binding>,
}

impl Exchange {
    /// Without bindings.
    #[must_use]
    pub fn new(config: ExchangeConfig) -> Self {
        Exchange {
            seen: config.parsed.dedup.clone().map(Seen::new),
            alternate: config.alternate().cloned(),
            config,
            bindings: BTreeMap::new(),
            topics: Topics::default(),
            candidates: Vec::new(),
            waiting: None,
            tallies: Arc::default(),
        }
    }

    /// Its bindings have changed.
    fn changed(&mut self) {
        if self.config.kind.picks() {
            let candidates = self.bindings();
            let candidates = candidates.map(|(key, binding)| {
                Candidate::new(key, &binding.arguments, &binding.destination)
            });
            self.candidates = candidates.collect();
        }
    }

    /// The bindings that want a message with this key.
    fn matching<'g>(
        &'g self,
        routing: &Routing<'_>,
        key: &str,
        take: &mut dyn FnMut(&'g Destination),
    ) {
        match self.config.kind {
            Kind::Direct => {
                let bound = self.bindings.get(key);
                for binding in bound.into_iter().flat_map(|bound| &bound.bindings) {
                    take(&binding.destination);
                }
            }
            Kind::Fanout => {
                for (_, binding) in self.bindings() {
                    take(&binding.destination);
                }
            }
            Kind::Topic => {
                self.topics.matching(key, &mut |pattern| {
                    let bound = self.bindings.get(pattern);
                    for binding in bound.into_iter().flat_map(|bound| &bound.bindings) {
                        take(&binding.destination);
                    }
                });
            }
            Kind::Headers => {
                for (_, binding) in self.bindings() {
                    if headers_match(&binding.arguments, &routing.headers()) {
                        take(&binding.destination);
                    }
                }
            }
            kind => {
                let on = &self.config.parsed.hash_on;
                if let Some(destination) = pick(kind, on, &self.candidates, routing, key) {
                    take(destination);
                }
            }
        }
    }

    /// Whether another message with the same key may go elsewhere.
    fn looks_at_more(&self) -> bool {
        self.config.parsed.dedup.is_some()
            || self.config.delays()
            || match self.config.kind {
                Kind::Direct | Kind::Fanout | Kind::Topic | Kind::ModulusHash => false,
                Kind::Headers | Kind::Random | Kind::LocalRandom => true,
                Kind::ConsistentHash => self.config.parsed.hash_on != HashOn::Key,
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
    /// Of the default exchange.
    tallies: ExchangeTallies,
}

/// What routing depends on.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// The routing keys: its own, and those of its copies.
    pub keys: &'a [&'a str],
    /// The message's properties.
    pub properties: &'a Properties<'a>,
    /// It was delayed, and its time has come: the exchange that it waited in lets it through.
    pub due: bool,
    /// The time.
    pub now: Timestamp,
}

impl<'a> Routing<'a> {
    fn headers(&self) -> Table<'a> {
        self.properties.headers.unwrap_or_default()
    }
}

/// The header that says how many milliseconds a message waits.
pub const DELAY: &str = "x-delay";

/// How long a message is to wait; `None`: not at all.
#[must_use]
pub fn delay_ms(headers: &Table<'_>) -> Option<u64> {
    let ms = match headers.get(DELAY)? {
        Value::LongString(text) => std::str::from_utf8(text).ok()?.trim().parse().ok()?,
        // What clients without a type for whole numbers send; the part below a millisecond is no matter.
        #[allow(clippy::cast_possible_truncation)]
        Value::F64(ms) => ms as i64,
        value => value.as_i64()?,
    };
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
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

    /// What went through an exchange; the empty name is the default one's.
    pub(crate) fn tallies(&self, exchange: &str) -> Option<&ExchangeTallies> {
        if exchange.is_empty() {
            return Some(&self.tallies);
        }
        self.exchanges.get(exchange).map(|known| &known.tallies)
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

    /// What a policy says of where messages go that an exchange has no queue for; its own argument goes before that.
    pub fn set_alternate(&mut self, exchange: &str, by_policy: Option<Arc<str>>) {
        let Some(exchange) = self.exchanges.get_mut(exchange) else {
            return;
        };
        let alternate = exchange.config.alternate().cloned().or(by_policy);
        if exchange.alternate != alternate {
            exchange.alternate = alternate;
            self.generation += 1;
        }
    }

    /// Messages of an exchange wait in this stream for their time.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.generation += 1;
        if let Some(exchange) = self.exchanges.get_mut(&waiting.exchange) {
            exchange.waiting = Some(waiting);
        }
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
        let bound = exchange.bindings.entry(Arc::clone(key)).or_default();
        if bound.bindings.contains(&binding) {
            return false;
        }
        bound.bindings.push(binding);
        if exchange.config.kind == Kind::Topic {
            exchange.topics.insert(key);
        }
        exchange.changed();
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
            exchange.topics.remove(key);
        }
        exchange.changed();
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
                if bound.bindings.is_empty() {
                    exchange.topics.remove(key);
                }
                !bound.bindings.is_empty()
            });
            let lost = removed.bindings.len() > before;
            if lost {
                exchange.changed();
            }
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
            for key in routing.keys {
                self.reach(key, &mut found.queues);
            }
            return Some(found);
        }
        self.exchanges.get(exchange)?;
        let delay_ms = delay_ms(&routing.headers());
        // Exchanges that have looked whether the message came before, and whether it did.
        let mut looked: HashMap<&str, bool> = HashMap::new();
        for key in routing.keys {
            let mut visited: HashSet<&str> = HashSet::new();
            let mut ahead: Vec<&str> = vec![exchange];
            while let Some(name) = ahead.pop() {
                if visited.len() >= HOPS_MAX || !visited.insert(name) {
                    continue;
                }
                if name.is_empty() {
                    self.reach(key, &mut found.queues);
                    continue;
                }
                let Some(node) = self.exchanges.get(name) else {
                    continue;
                };
                found.by_message |= node.looks_at_more();
                let is_due = routing.due && name == exchange;
                if let Some(seen) = &node.seen
                    && !is_due
                {
                    let is_new = *looked.entry(name).or_insert_with(|| {
                        match seen.note(&routing.headers(), routing.now) {
                            Ok(Some(key)) => {
                                found.noted.push(Noted::Exchange(Arc::from(name), key));
                                true
                            }
                            Ok(None) => true,
                            Err(Repeated) => false,
                        }
                    });
                    if !is_new {
                        continue;
                    }
                }
                if let (Some(waiting), Some(ms), false) = (&node.waiting, delay_ms, is_due) {
                    found.delay_ms = ms;
                    if !found.waiting.contains(waiting) {
                        found.waiting.push(waiting.clone());
                    }
                    continue;
                }
                if self.shared.as_deref() == Some(name) {
                    found.shared.push((*key).into());
                }
                let mut matched = false;
                node.matching(routing, key, &mut |binding| {
                    matched = true;
                    match binding {
                        Destination::Exchange(next) => ahead.push(next),
                        Destination::Queue(queue) => self.reach(queue, &mut found.queues),
                    }
                });
                if !matched && let Some(alternate) = &node.alternate {
                    ahead.push(alternate);
                }
            }
        }
        Some(found)
    }

    /// Of two messages that are the same to an exchange, the first was not stored after all.
    pub fn forget(&self, exchange: &str, key: DedupKey) {
        if let Some(seen) = self
            .exchanges
            .get(exchange)
            .and_then(|node| node.seen.as_ref())
        {
            seen.forget(key);
        }
    }

    fn reach(&self, name: &str, found: &mut Vec<Arc<Queue>>) {
        if let Some(queue) = self.queues.get(name)
            && !found.iter().any(|known| Arc::ptr_eq(known, queue))
        {
            found.push(Arc::clone(queue));
        }
    }
}

/// A key that was noted for a message, to be forgotten if the message is not stored.
#[derive(Clone, Debug)]
pub enum Noted {
    /// By an exchange.
    Exchange(Arc<str>, DedupKey),
    /// By a queue.
    Queue(Arc<Queue>, DedupKey),
}

/// Where a message goes.
#[derive(Clone, Debug, Default)]
pub struct Routed {
    /// The queues.
    pub queues: Vec<Arc<Queue>>,
    /// More than exchange and key was asked: another message with the same key may go elsewhere.
    pub by_message: bool,
    /// The keys with which it came through the exchange that is the subjects of the space.
    pub shared: SmallVec<[Arc<str>; 1]>,
    /// Exchanges where it waits for its time, and how long.
    pub waiting: Vec<Waiting>,
    /// See `waiting`.
    pub delay_ms: u64,
    /// What exchanges have noted of it.
    pub noted: Vec<Noted>,
}

/// What went with something that was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Bindings, with source and key.
    pub bindings: Vec<(Arc<str>, Arc<str>, Binding)>,
    /// Auto-deleting exchanges without a binding.
    pub orphans: Vec<Arc<str>>,
}
