//! Takes samples of what there is to count, every five seconds.
//!
//! Everything together is sampled always, queues and exchanges as `rates` says, connections, channels, vhosts and the
//! process only while somebody looks at them. With more than [`STANDING_MAX`] queues their lengths are read only while
//! somebody asks: reading them all takes the shards time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use longtail_engine::{StreamInfo, StreamName};

use super::history::INTERVAL_MS;
use super::http::Failed;
use super::overview::Sums;
use super::rates::{STANDING_MAX, Thing};
use super::{Management, connections, overview, pairs, queues, vhosts};
use crate::queue::Queue;
use crate::topology::Topology;

/// Milliseconds after the even time, so that it has passed by whatever clock.
const AFTER_MS: u64 = 2;

/// Samples until it is dropped.
pub(super) async fn run(m: Arc<Management>) {
    // What the lengths were when they were last read.
    let mut lengths = Sums::default();
    loop {
        let wait = INTERVAL_MS - m.now_ms() % INTERVAL_MS + AFTER_MS;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let now_ms = m.now_ms();
        let at_ms = now_ms - now_ms % INTERVAL_MS;
        // A shard does not answer when the server stops.
        if let Err(failed) = round(&m, at_ms, &mut lengths).await {
            tracing::debug!(reason = failed.reason, "not sampled");
        }
        m.rates.tidy(at_ms);
    }
}

async fn round(m: &Management, at_ms: u64, lengths: &mut Sums) -> Result<(), Failed> {
    let asked = m.rates.asked(at_ms);
    let topologies = m.tenant.topologies().await;
    let count: usize = topologies
        .iter()
        .map(|topology| topology.graph().queues().count())
        .sum();
    let few = count <= STANDING_MAX;
    let mut of_spaces: HashMap<Arc<str>, Sums> = HashMap::new();
    if few || asked.lengths {
        for topology in &topologies {
            let sums = sample_queues(m, topology, at_ms, few).await?;
            of_spaces.insert(Arc::clone(topology.space()), sums);
        }
        *lengths = of_spaces.values().copied().sum();
    }
    for topology in &topologies {
        sample_exchanges(m, topology, at_ms);
    }
    let totals = m.tenant.census().totals();
    let numbers = overview::numbers(m, &totals, lengths);
    m.rates.sample(&Thing::All, at_ms, &numbers);
    if asked.connections {
        let seen = m.tenant.census().all();
        for seen in &seen {
            let thing = Thing::Connection(seen.number);
            m.rates.sample(&thing, at_ms, &connections::octets(seen));
            for channel in &seen.state.channels {
                let thing = Thing::Channel(seen.number, channel.number);
                let numbers = connections::numbers(&channel.counts);
                m.rates.sample(&thing, at_ms, &numbers);
                for (thing, numbers) in pairs::all(seen, channel) {
                    m.rates.sample(&thing, at_ms, &numbers);
                }
            }
        }
        for (space, sums) in &of_spaces {
            let vhost = m.tenant.vhost_of(space);
            let numbers = vhosts::numbers(m, &vhost, sums, &seen);
            m.rates.sample(&Thing::Vhost(vhost), at_ms, &numbers);
        }
    }
    if asked.node {
        let numbers = overview::node_numbers(m, &overview::process(m));
        m.rates.sample(&Thing::Node, at_ms, &numbers);
    }
    Ok(())
}

async fn sample_queues(
    m: &Management,
    topology: &Topology,
    at_ms: u64,
    few: bool,
) -> Result<Sums, Failed> {
    let space = topology.space();
    let queues: Vec<Arc<Queue>> = topology.graph().queues().cloned().collect();
    // The space may have any number of streams of other protocols.
    let all = match few {
        true => None,
        false => Some(queues::infos(m, space).await?),
    };
    let mut sums = Sums::default();
    for queue in queues {
        let info = match &all {
            Some(all) => all.get(&queue.name).cloned(),
            None => one(m, space, &queue).await?,
        };
        if let Some(info) = info {
            sums.add(&queue, &info);
            queues::idle_since(&queue, &info, m.now_ms());
            let thing = Thing::Queue(Arc::clone(space), Arc::clone(&queue.name));
            m.rates
                .sample(&thing, at_ms, &queues::numbers(&queue, &info));
        }
    }
    Ok(sums)
}

async fn one(
    m: &Management,
    space: &Arc<str>,
    queue: &Queue,
) -> Result<Option<StreamInfo>, Failed> {
    let stream = StreamName::new(Arc::clone(space), Arc::clone(&queue.name));
    let found = m.tenant.broker().find(&stream).await;
    let found = found.map_err(|error| Failed::internal(error.to_string()))?;
    Ok(found.map(|(_, info)| info))
}

fn sample_exchanges(m: &Management, topology: &Topology, at_ms: u64) {
    let space = topology.space();
    let counted: Vec<_> = {
        let graph = topology.graph();
        let names = graph.exchanges().map(|(name, _)| Arc::clone(name));
        let names = std::iter::once(Arc::from("")).chain(names);
        names
            .filter_map(|name| Some((graph.tallies(&name)?.sums(), name)))
            .collect()
    };
    for (sums, name) in counted {
        m.rates
            .sample(&Thing::Exchange(Arc::clone(space), name), at_ms, &sums);
    }
}
