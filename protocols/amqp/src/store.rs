//! What a message becomes where it goes: one record for each shard and each way that queues want it, and one in the
//! stream of each exchange where it waits for its time.

use std::sync::Arc;

use bytes::Bytes;
use longtail_engine::{Command, NewMessage, Step, Target};
use longtail_model::{Priority, ShardId, StreamId, Timestamp};
use smallvec::SmallVec;

use crate::codec::Table;
use crate::graph::{Beside, Graph, Noted, Repeated};
use crate::queue::Queue;
use crate::session::{Laying, content};

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parcel<'a> {
    /// The exchange that it was published to.
    pub(crate) exchange: &'a str,
    pub(crate) key: &'a str,
    /// Flags and values, as they came.
    pub(crate) properties: &'a [u8],
    /// The same without what only the server is to see.
    pub(crate) shown: &'a [u8],
    /// Exchange, key and properties as a record has them, where they are at hand and all of them are shown.
    pub(crate) encoded: Option<&'a Bytes>,
    pub(crate) headers: Table<'a>,
    pub(crate) body: &'a Bytes,
    pub(crate) priority: Option<u8>,
    pub(crate) expiration_ms: Option<u64>,
    pub(crate) now: Timestamp,
}

/// A record of a message at one shard.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) shard: ShardId,
    pub(crate) to: StreamId,
    also: Vec<StreamId>,
    message: NewMessage,
    /// Queues among these for which it is a dead parcel if they refuse it.
    lays: Vec<Arc<Queue>>,
}

impl Store {
    /// Queues that get it.
    pub(crate) fn copies(&self) -> u64 {
        1 + self.also.len() as u64
    }

    /// What is to be laid if it is refused.
    pub(crate) fn laying(&self) -> Option<Laying> {
        (!self.lays.is_empty()).then(|| Laying {
            queues: self.lays.clone(),
            headers: self.message.headers.clone(),
            body: self.message.payload.clone(),
        })
    }

    /// Shard, streams and message.
    pub(crate) fn into_parts(self) -> (ShardId, Vec<StreamId>, NewMessage) {
        let streams = std::iter::once(self.to).chain(self.also).collect();
        (self.shard, streams, self.message)
    }

    /// On its own.
    pub(crate) fn into_command(self) -> Command {
        Command::Publish {
            to: Target::Stream(self.to),
            also: self.also,
            message: self.message,
        }
    }

    /// On its own, if somebody is given it at once.
    pub(crate) fn into_offer(self) -> Command {
        Command::Offer {
            to: Target::Stream(self.to),
            also: self.also,
            message: self.message,
        }
    }

    /// As part of a transaction.
    pub(crate) fn into_step(self) -> Step {
        Step::Publish {
            to: Target::Stream(self.to),
            also: self.also,
            message: self.message,
        }
    }
}

/// How a queue wants a message: those that want it alike, at one shard, share one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Manner {
    shard: ShardId,
    priority: Priority,
    /// How long it may stay; a stream keeps it whatever it says itself.
    expires_ms: Option<u64>,
}

/// The records of a message in these queues, but for those that have had it. What they note of it goes to `noted`.
pub(crate) fn in_queues(
    queues: &[Arc<Queue>],
    parcel: &Parcel<'_>,
    noted: &mut Vec<Noted>,
) -> Vec<Store> {
    let mut stores: Vec<Store> = Vec::with_capacity(1);
    let mut manners: SmallVec<[Manner; 4]> = SmallVec::new();
    let mut headers: Option<Bytes> = parcel.encoded.cloned();
    for queue in queues {
        match queue.note(&parcel.headers, parcel.now) {
            Err(Repeated) => continue,
            Ok(Some(key)) => noted.push(Noted::Queue(Arc::clone(queue), key)),
            Ok(None) => {}
        }
        let manner = Manner {
            shard: queue.shard,
            priority: queue.priority(parcel.priority),
            expires_ms: parcel.expiration_ms.filter(|_| !queue.is_stream()),
        };
        let known = manners.iter().position(|known| *known == manner);
        if let Some(store) = known.and_then(|at| stores.get_mut(at)) {
            store.also.push(queue.stream);
            store.lays.extend(lays(queue));
            continue;
        }
        let headers = headers
            .get_or_insert_with(|| content::encode(parcel.exchange, parcel.key, parcel.shown));
        let store = Store {
            shard: manner.shard,
            to: queue.stream,
            also: Vec::new(),
            lays: lays(queue).into_iter().collect(),
            message: NewMessage {
                priority: manner.priority,
                expires_ms: manner.expires_ms,
                headers: headers.clone(),
                payload: parcel.body.clone(),
                ..NewMessage::default()
            },
        };
        stores.push(store);
        manners.push(manner);
    }
    stores
}

/// The queue, if what it refuses is a dead parcel.
fn lays(queue: &Arc<Queue>) -> Option<Arc<Queue>> {
    queue.lays_refused().then(|| Arc::clone(queue))
}

/// The records of a message that waits for its time.
pub(crate) fn in_waiting<'a>(
    beside: &'a Beside,
    parcel: &'a Parcel<'a>,
) -> impl Iterator<Item = Store> + 'a {
    let waiting = beside.waiting.iter();
    waiting.map(|waiting| whole((waiting.shard, waiting.stream), beside.delay_ms, parcel))
}

/// The records of a message in the archives of exchanges.
pub(crate) fn in_archives<'a>(
    beside: &'a Beside,
    parcel: &'a Parcel<'a>,
) -> impl Iterator<Item = Store> + 'a {
    let archives = beside.archives.iter();
    archives.map(|archive| whole(*archive, 0, parcel))
}

/// All records of a message that are in no queue.
pub(crate) fn beside_queues<'a>(
    beside: &'a Beside,
    parcel: &'a Parcel<'a>,
) -> impl Iterator<Item = Store> + 'a {
    in_archives(beside, parcel).chain(in_waiting(beside, parcel))
}

/// A record of a message as it was published.
fn whole((shard, to): (ShardId, StreamId), delay_ms: u64, parcel: &Parcel<'_>) -> Store {
    Store {
        shard,
        to,
        also: Vec::new(),
        lays: Vec::new(),
        message: NewMessage {
            delay_ms,
            headers: match parcel.encoded {
                Some(encoded) => encoded.clone(),
                None => content::encode(parcel.exchange, parcel.key, parcel.properties),
            },
            payload: parcel.body.clone(),
            ..NewMessage::default()
        },
    }
}

/// A message was not stored: what was noted of it does not count.
pub(crate) fn forget(noted: &[Noted], graph: &Graph) {
    for noted in noted {
        match noted {
            Noted::Exchange(exchange, key) => graph.forget(exchange, *key),
            Noted::Queue(queue, key) => queue.forget(*key),
        }
    }
}
