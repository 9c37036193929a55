//! What an exchange has recorded of its last messages goes to a queue, or through an exchange, that is bound to it.

use std::sync::Arc;

use longtail_model::Timestamp;

use super::Topology;
use crate::codec::Properties;
use crate::graph::{Destination, Graph, Recorded, Routed};
use crate::session::routing::expiration;
use crate::store::{Parcel, Store, beside_queues, in_queues};
use crate::streams::Outgoing;

/// A message that comes through the exchange that is the subjects of the space, with the key by which it does.
pub(super) type Shown = (Arc<str>, Arc<Recorded>);

impl Topology {
    /// Queues the last messages of an exchange for a binding that was just made. Called in the change that makes it, so
    /// before whoever publishes can see it: what comes by the binding is stored behind these. Returns what whoever is not
    /// AMQP may be shown once the change is done; `None`: there is nothing to be replayed.
    pub(super) fn replay(
        &self,
        graph: &Graph,
        source: &str,
        destination: &Destination,
    ) -> Option<Vec<Shown>> {
        let now = self.now();
        let (mut outgoing, mut shown) = (Outgoing::new(), Vec::new());
        let replayed = graph.replay(source, destination, now);
        if replayed.is_empty() {
            return None;
        }
        for (recorded, routed) in replayed {
            let Ok(properties) = Properties::decode(&recorded.properties) else {
                continue;
            };
            let stores = stores(&recorded, &properties, &routed, now).into_iter();
            outgoing.extend(stores.map(|store| (store.shard, store.into_command(), None)));
            let keys = routed.shared.into_iter();
            shown.extend(keys.map(|key| (key, Arc::clone(&recorded))));
        }
        self.streams().send(&mut outgoing);
        Some(shown)
    }

    /// Has what was replayed stored, and shows it to whoever is not AMQP. No lock may be held.
    pub(super) fn end_replay(&self, shown: Vec<Shown>) {
        if let Some(subjects) = self.subjects() {
            let now = self.now();
            let mut outgoing = Outgoing::new();
            for (key, recorded) in shown {
                let Ok(properties) = Properties::decode(&recorded.properties) else {
                    continue;
                };
                let wanted = subjects.wanted(&key, &properties, &recorded.body, now);
                let Some(message) = wanted else {
                    continue;
                };
                let stored = subjects.share(&Arc::new(message), now).into_iter();
                outgoing.extend(stored.map(|publish| (publish.shard, publish.command, None)));
            }
            self.streams().send(&mut outgoing);
        }
        self.streams().run();
    }
}

/// What a recorded message becomes where it goes. A queue that refuses it, refuses it for good.
fn stores(
    recorded: &Recorded,
    properties: &Properties<'_>,
    routed: &Routed,
    now: Timestamp,
) -> Vec<Store> {
    let parcel = Parcel {
        exchange: &recorded.exchange,
        key: recorded.keys.first().map_or("", AsRef::as_ref),
        properties: &recorded.properties,
        shown: &recorded.properties,
        encoded: None,
        headers: properties.headers.unwrap_or_default(),
        body: &recorded.body,
        priority: properties.priority,
        expiration_ms: properties.expiration.and_then(|ms| expiration(ms).ok()),
        now,
    };
    let mut stores = in_queues(&routed.queues, &parcel, &mut Vec::new());
    stores.extend(beside_queues(&routed.beside, &parcel));
    stores
}
