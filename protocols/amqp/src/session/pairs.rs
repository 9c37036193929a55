//! What went between one channel and one exchange or queue, for whoever looks at a channel, an exchange or a queue.
//!
//! Counting costs nothing more than the sums of exchanges and queues do: each channel and each consumer has cells of its
//! own there anyhow, and these are read. Here is which they are, and what consumers that are gone have left.

use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::shared::Shared;
use crate::queue::Queue;
use crate::tally::{self, Tally};
use crate::topology::Topology;

/// Exchanges that a channel counts for by themselves: those that it has published to last.
const EXCHANGES_MAX: usize = 16;

/// Queues that a channel knows of what it has fetched, and what consumers had that are gone: the last.
const QUEUES_MAX: usize = 64;

/// What went to or came from something, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair<const N: usize> {
    /// The exchange, or the queue.
    pub name: Arc<str>,
    /// How much, in the order of [`crate::tally`].
    pub counts: [u64; N],
}

/// Between a channel and an exchange.
pub type Published = Pair<{ tally::exchange::COUNT }>;

/// Between a channel and a queue.
pub type Drawn = Pair<{ tally::queue::COUNT }>;

/// What a channel counts for one exchange.
#[derive(Debug)]
struct Counting {
    generation: u64,
    exchange: Arc<str>,
    tally: Tally<{ tally::exchange::COUNT }>,
}

/// What a channel counts for exchanges, the one that was published to last at the front.
#[derive(Debug, Default)]
pub(super) struct Publishes(SmallVec<[Counting; 1]>);

impl Publishes {
    /// Counts a message for its exchange.
    pub(super) fn count(&mut self, exchange: &Arc<str>, copies: u64, shared: &Shared) {
        let Ok(topology) = shared.topology() else {
            return;
        };
        let generation = topology.generation();
        let known = self
            .0
            .first()
            .is_some_and(|known| known.generation == generation && known.exchange == *exchange);
        if !known && !self.turn_to(exchange, topology) {
            return;
        }
        if let Some(Counting { tally, .. }) = self.0.first_mut() {
            tally.add(tally::exchange::IN, 1);
            tally.add(tally::exchange::OUT, copies);
        }
    }

    /// Another exchange than before, or it may be another one by now. `false`: there is none.
    fn turn_to(&mut self, exchange: &Arc<str>, topology: &Topology) -> bool {
        let place = self.0.iter().position(|known| known.exchange == *exchange);
        let before = place.map(|place| self.0.remove(place).tally);
        let generation = topology.generation();
        let graph = topology.graph();
        let Some(of) = graph.tallies(exchange) else {
            return false;
        };
        let tally = before
            .filter(|tally| tally.is_of(of))
            .unwrap_or_else(|| of.join());
        self.0.truncate(EXCHANGES_MAX - 1);
        let counting = Counting {
            generation,
            exchange: Arc::clone(exchange),
            tally,
        };
        self.0.insert(0, counting);
        true
    }

    /// To those that are there.
    pub(super) fn about(&self, shared: &Shared) -> Vec<Published> {
        let Ok(topology) = shared.topology() else {
            return Vec::new();
        };
        let graph = topology.graph();
        let is_there = |known: &&Counting| {
            let of = graph.tallies(&known.exchange);
            of.is_some_and(|of| known.tally.is_of(of))
        };
        let known = self.0.iter().filter(is_there);
        let known = known.map(|known| Pair {
            name: Arc::clone(&known.exchange),
            counts: known.tally.counts(),
        });
        known.collect()
    }
}

/// What a channel was given by queues, beside what its consumers count that are there.
#[derive(Debug, Default)]
pub(super) struct Draws(Vec<(Weak<Queue>, [u64; tally::queue::COUNT])>);

impl Draws {
    /// So much more.
    pub(super) fn add(&mut self, queue: &Arc<Queue>, more: [u64; tally::queue::COUNT]) {
        let sums = match self.place(queue) {
            Some(place) => self.0.get_mut(place),
            None => {
                self.0.retain(|(known, _)| known.strong_count() > 0);
                if self.0.len() >= QUEUES_MAX {
                    self.0.remove(0);
                }
                self.0.push((Arc::downgrade(queue), Default::default()));
                self.0.last_mut()
            }
        };
        if let Some((_, sums)) = sums {
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum += more;
            }
        }
    }

    /// One more that was fetched.
    pub(super) fn count(&mut self, queue: &Arc<Queue>, which: usize) {
        self.add(queue, std::array::from_fn(|at| u64::from(at == which)));
    }

    fn place(&self, queue: &Arc<Queue>) -> Option<usize> {
        let at = Arc::as_ptr(queue);
        self.0.iter().position(|(known, _)| known.as_ptr() == at)
    }

    /// From those that are there, with what consumers have counted.
    pub(super) fn about<'c>(
        &self,
        consumers: impl Iterator<Item = (&'c Arc<Queue>, [u64; tally::queue::COUNT])>,
        shared: &Shared,
    ) -> Vec<Drawn> {
        let Ok(topology) = shared.topology() else {
            return Vec::new();
        };
        let mut all = Draws(self.0.clone());
        for (queue, counts) in consumers {
            let place = all.place(queue);
            match place.and_then(|place| all.0.get_mut(place)) {
                Some((_, sums)) => {
                    for (sum, more) in sums.iter_mut().zip(counts) {
                        *sum += more;
                    }
                }
                None => all.0.push((Arc::downgrade(queue), counts)),
            }
        }
        let graph = topology.graph();
        let there = all.0.into_iter().filter_map(|(queue, counts)| {
            let queue = queue.upgrade()?;
            let known = graph.queue(&queue.name)?;
            Arc::ptr_eq(known, &queue).then(|| Pair {
                name: Arc::clone(&queue.name),
                counts,
            })
        });
        let mut there: Vec<_> = there.collect();
        there.sort_by(|a, b| a.name.cmp(&b.name));
        there
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::client::block_on;
    use longtail_broker::{Broker, BrokerConfig};

    use super::*;
    use crate::config::Config;
    use crate::tenant::Tenant;
    use crate::topology::{Asker, DeclareQueue};

    #[test]
    fn a_channel_knows_of_the_last_queues() {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let tenant = Tenant::new(Config::default(), broker);
        let topology = block_on(tenant.topology(&"default".into())).unwrap();
        let asker = Asker {
            connection: 1,
            vhost: "/".into(),
        };
        let declared = |name: String| {
            let queue = DeclareQueue {
                name: name.clone(),
                is_server_named: false,
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                arguments: Arc::default(),
            };
            block_on(topology.declare_queue(&asker, queue)).unwrap();
            topology.queue(&name, &asker).unwrap()
        };
        let mut draws = Draws::default();
        let all: Vec<_> = (0..=QUEUES_MAX)
            .map(|at| declared(format!("q{at}")))
            .collect();
        for queue in &all {
            draws.count(queue, tally::queue::GET);
            draws.count(queue, tally::queue::GET);
            draws.count(queue, tally::queue::REDELIVER);
        }
        assert_eq!(draws.0.len(), QUEUES_MAX);
        assert_eq!(
            (draws.place(&all[0]), draws.place(&all[1])),
            (None, Some(0))
        );
        let (_, counts) = draws.0[QUEUES_MAX - 1];
        assert_eq!(
            (counts[tally::queue::GET], counts[tally::queue::REDELIVER]),
            (2, 1)
        );
        // It keeps none of them.
        let gone = Arc::downgrade(&all[1]);
        let before = gone.strong_count();
        drop(all);
        assert_eq!(gone.strong_count(), before - 1);
    }
}
