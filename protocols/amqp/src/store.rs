//! What a message becomes in its queues: one record for each shard and each way that queues want it.

use std::sync::Arc;

use bytes::Bytes;
use longtail_engine::{Command, NewMessage, Step, Target};
use longtail_model::{Priority, ShardId, StreamId};

use crate::queue::Queue;
use crate::session::content;

/// A message on its way to queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letter<'a> {
    /// The exchange that it was published to.
    pub(crate) exchange: &'a str,
    pub(crate) key: &'a str,
    /// Flags and values.
    pub(crate) properties: &'a [u8],
    pub(crate) body: &'a Bytes,
    pub(crate) priority: Option<u8>,
    pub(crate) expiration_ms: Option<u64>,
}

/// A record of a message at one shard.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) shard: ShardId,
    pub(crate) to: StreamId,
    also: Vec<StreamId>,
    message: NewMessage,
}

impl Store {
    /// On its own.
    pub(crate) fn into_command(self) -> Command {
        Command::Publish {
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
    expires_ms: Option<u64>,
}

/// The records of a message in these queues.
pub(crate) fn stores(queues: &[Arc<Queue>], letter: &Letter<'_>) -> Vec<Store> {
    if queues.is_empty() {
        return Vec::new();
    }
    let headers = content::encode(letter.exchange, letter.key, letter.properties);
    let mut stores: Vec<(Manner, Store)> = Vec::with_capacity(1);
    for queue in queues {
        let manner = Manner {
            shard: queue.shard,
            priority: queue.priority(letter.priority),
            expires_ms: letter.expiration_ms,
        };
        if let Some((_, store)) = stores.iter_mut().find(|(known, _)| *known == manner) {
            store.also.push(queue.stream);
            continue;
        }
        let store = Store {
            shard: manner.shard,
            to: queue.stream,
            also: Vec::new(),
            message: NewMessage {
                priority: manner.priority,
                expires_ms: manner.expires_ms,
                headers: headers.clone(),
                payload: letter.body.clone(),
                ..NewMessage::default()
            },
        };
        stores.push((manner, store));
    }
    stores.into_iter().map(|(_, store)| store).collect()
}
