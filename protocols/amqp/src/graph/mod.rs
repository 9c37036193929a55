//! The exchange graph of a space: exchanges, queues and what binds them; from an exchange and a routing key to queues.
//!
//! Plain data, changed under the topology's lock. A publisher keeps the answer of its last look-up and looks again only
//! when [`Graph::generation`] has moved.

mod dedup;
mod exchange;
mod headers;
mod kind;
mod picking;
mod recent;
mod routing;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::queue::Queue;
pub use dedup::{Dedup, Key as DedupKey, Repeated, Seen};
pub(crate) use exchange::ExchangeTallies;
pub use exchange::{
    ALTERNATES, Binding, Destination, Exchange, ExchangeConfig, ExchangeFlags, Waiting,
};
pub(crate) use kind::COMPARED;
pub use kind::{DELAYED, Kind};
use recent::Recent;
pub use recent::{Archive, Content, Recorded, archive_limits};
pub use routing::{Beside, DELAY, Noted, Routed, Routing, delay_ms};

/// Everything in a space that a message can go through.
#[derive(Debug, Default)]
pub struct Graph {
    exchanges: HashMap<Arc<str>, Exchange>,
    queues: HashMap<Arc<str>, Arc<Queue>>,
    /// Of all exchanges.
    bindings: usize,
    generation: u64,
    /// The exchange that is the subjects of the space.
    shared: Option<Arc<str>>,
    /// Of the default exchange.
    tallies: ExchangeTallies,
    /// Bytes of what exchanges have recorded.
    recorded: Arc<AtomicUsize>,
}

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

    /// How many exchanges there are, and how many bindings.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.exchanges.len(), self.bindings)
    }

    /// Whether there is this binding.
    #[must_use]
    pub fn is_bound(&self, source: &str, key: &str, binding: &Binding) -> bool {
        let bound = (self.exchanges.get(source)).and_then(|source| source.bindings.get(key));
        bound.is_some_and(|bound| bound.bindings.contains(binding))
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
        let recent = config.records();
        let mut exchange = Exchange::new(config);
        exchange.recent = recent.map(|length| Recent::new(length, Arc::clone(&self.recorded)));
        self.exchanges.insert(name, exchange);
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
        self.bindings += 1;
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
        self.bindings -= before - bound.bindings.len();
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
        self.bindings -= removed.bindings.len();
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
            self.bindings -= removed.bindings.len() - before;
            if lost {
                exchange.changed();
            }
            if lost && exchange.config.auto_delete && exchange.is_unused() {
                removed.orphans.push(Arc::clone(name));
            }
        }
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
}

/// What went with something that was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Bindings, with source and key.
    pub bindings: Vec<(Arc<str>, Arc<str>, Binding)>,
    /// Auto-deleting exchanges without a binding.
    pub orphans: Vec<Arc<str>>,
}
