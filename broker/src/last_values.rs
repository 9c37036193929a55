//! Last values: a durable map from keys to values, of which there may be millions, as a stream of the log.
//!
//! ```text
//! set, remove ──▶ table ──▶ Publish { subject: key }, Remove { seq } ──▶ shard
//!                   ▲                                                      │ durable
//!                   └────────────── answers, in the order of the log ──────┘──▶ completions
//! ```
//!
//! A value is a message whose subject is its key; the one with the highest number counts, now and after a restart. All
//! changes of one room go through one session of one shard, so the order of submission is the order of the log, and
//! what [`LastValues::get`] shows is what will be there when all that is under way has become durable. Only what the
//! shard refuses is taken back.
//!
//! What a value has replaced is removed behind it, together with a later write, so that no write waits twice. A crash
//! in between leaves older values behind, which the next start removes. A value is removed by removing its message, if
//! that is known to be the only one of its key; else a *tombstone* is written, a message that says that there is no
//! value, and goes when everything older has gone: so a removed value does not come back, wherever a crash cuts.
//!
//! Streams whose names begin with `$` are the broker's: whoever writes to one, or deletes it, takes values away.

mod keys;
mod load;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use longtail_engine::runtime::{Shards, Sink};
use longtail_engine::{
    Command, Effect, Keep, Message, NewMessage, Refusal, Reply, StreamConfig, StreamName, Token,
};
use longtail_model::{SessionId, ShardId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::broker::{Broker, BrokerError};
use crate::client::{Closed, OwnedMessage};
use table::{Answered, Table};

/// Is called once with what became of a change, when it is durable or was refused. From any thread, with no lock held;
/// must not wait.
pub type Done = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// Is called with the key of a value that was taken back because the shard refused it, before its [`Done`].
/// [`LastValues::get`] has what is there instead. As [`Done`] otherwise.
pub type TakenBack = Box<dyn Fn(&str) + Send + Sync>;

/// What is kept of a value in memory: cheap to clone, small, and it knows its key.
pub trait Value: Clone + Send + 'static {
    /// The key that it is the value of. Always the same.
    fn key(&self) -> &str;
}

impl<T: Clone + Send + 'static> Value for (Arc<str>, T) {
    fn key(&self) -> &str {
        &self.0
    }
}

/// The values of one stream.
pub struct LastValues<V: Value>(Arc<Room<V>>);

struct Room<V: Value> {
    shards: Arc<dyn Shards>,
    shard: ShardId,
    session: OnceLock<SessionId>,
    /// Answers of the shard in their order. Written with the shard's lock held, so nothing else happens under this one.
    arrived: Mutex<VecDeque<(Token, Result<Reply, Refusal>)>>,
    table: Mutex<Table<V>>,
    taken_back: TakenBack,
}

impl<V: Value> LastValues<V> {
    /// Reads the values of stream `name`, which comes into being with the first value. Blocks, for about a second a
    /// million values.
    ///
    /// `read` makes the value in memory from a key and the message that was written under it; what it cannot read is
    /// reported, left in the stream and not shown.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub fn open(
        broker: &Broker,
        name: &StreamName,
        read: impl FnMut(&str, OwnedMessage) -> Option<V>,
        taken_back: TakenBack,
    ) -> Result<Self, BrokerError> {
        let config = config();
        let shard = match crate::client::block_on(broker.find(name))? {
            Some((shard, _)) => shard,
            None => broker.placement(name, &config.numbering),
        };
        let mut table = Table::new(name.clone(), config);
        load::load(&broker.client(shard), name, read, &mut table)?;
        Ok(LastValues::attach(broker, shard, table, taken_back))
    }

    /// As [`LastValues::open`], of a stream that is known not to exist yet. Does not block.
    #[must_use]
    pub fn empty(broker: &Broker, name: &StreamName, taken_back: TakenBack) -> Self {
        let config = config();
        let shard = broker.placement(name, &config.numbering);
        LastValues::attach(broker, shard, Table::new(name.clone(), config), taken_back)
    }

    fn attach(broker: &Broker, shard: ShardId, table: Table<V>, taken_back: TakenBack) -> Self {
        let room = Arc::new(Room {
            shards: broker.shards(),
            shard,
            session: OnceLock::new(),
            arrived: Mutex::default(),
            table: Mutex::new(table),
            taken_back,
        });
        let session = room
            .shards
            .attach(shard, Arc::clone(&room) as Arc<dyn Sink>);
        let _ = room.session.set(session);
        LastValues(room)
    }

    /// The value of `key`, as it will be when everything under way is durable.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<V> {
        self.0.table.lock().get(key).cloned()
    }

    /// Keys with a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.table.lock().len()
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `f` with every value, in no particular order. Changes wait meanwhile.
    pub fn for_each(&self, mut f: impl FnMut(&V)) {
        self.0.table.lock().for_each(&mut f);
    }

    /// Gives a key a value. It is visible at once, and durable when `done` is called. `record` is what is written: its
    /// headers and payload; its subject becomes the key.
    ///
    /// Only queues: [`Shards::run`] follows, as after a session's own commands.
    pub fn set(&self, value: V, record: NewMessage, done: Done) {
        let room = &*self.0;
        let mut table = room.table.lock();
        let commands = table.set(value, record, done);
        room.enqueue(commands);
    }

    /// Takes the value of `key` away. That is visible at once, and durable when `done` is called. Only queues, as
    /// [`LastValues::set`]. Returns `false`, and will not call `done`, when there was none already.
    #[must_use]
    pub fn remove(&self, key: &str, done: Done) -> bool {
        let room = &*self.0;
        let mut table = room.table.lock();
        let Some(commands) = table.remove(key, done) else {
            return false;
        };
        room.enqueue(commands);
        true
    }

    /// As [`LastValues::set`]; runs the shard and answers when the value is durable.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn write(&self, value: V, record: NewMessage) -> Result<(), BrokerError> {
        let (done, answer) = completion();
        self.set(value, record, done);
        self.run();
        Ok(answer.await.map_err(|_| Closed)??)
    }

    /// As [`LastValues::remove`]; runs the shard and answers when that is durable.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn erase(&self, key: &str) -> Result<bool, BrokerError> {
        let (done, answer) = completion();
        if !self.remove(key, done) {
            return Ok(false);
        }
        self.run();
        answer.await.map_err(|_| Closed)??;
        Ok(true)
    }

    /// Runs what was queued.
    pub fn run(&self) {
        self.0.shards.run();
    }
}

impl<V: Value> Drop for LastValues<V> {
    fn drop(&mut self) {
        if let Some(session) = self.0.session.get() {
            self.0.shards.detach(self.0.shard, *session);
        }
    }
}

/// What the stream is made of: nothing goes from it by itself.
fn config() -> StreamConfig {
    StreamConfig {
        keep: Keep::UntilLimit,
        ..StreamConfig::default()
    }
}

/// A [`Done`] that can be waited for.
pub(crate) fn completion() -> (Done, oneshot::Receiver<Result<(), Refusal>>) {
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |result| {
        // Nobody waits any more: nothing to tell.
        let _ = sender.send(result);
    });
    (done, receiver)
}

impl<V: Value> Room<V> {
    /// With the table's lock held, so that answers come in the order of what the table has noted.
    fn enqueue(&self, commands: &mut Vec<(Token, Command)>) {
        if let Some(session) = self.session.get() {
            self.shards.enqueue(self.shard, *session, commands);
        }
    }
}

impl<V: Value> Sink for Room<V> {
    fn deliver(&self, effect: &Effect, _messages: &[Option<Message<'_>>]) {
        if let Effect::Reply(token, reply) = effect {
            let outcome = match reply {
                Reply::Refused(refusal) => Err(refusal.clone()),
                reply => Ok(reply.clone()),
            };
            self.arrived.lock().push_back((*token, outcome));
        }
    }

    fn flush(&self) {
        let mut after = Vec::new();
        {
            let mut table = self.table.lock();
            while let Some((token, outcome)) = self.next_arrived() {
                after.extend(table.answer(token, outcome));
            }
            // Carried out with whatever the shard does next.
            if let Some(commands) = table.catch_up() {
                self.enqueue(commands);
            }
        }
        for Answered {
            key,
            taken_back,
            done,
            result,
        } in after
        {
            if taken_back {
                (self.taken_back)(&key);
            }
            for done in done {
                done(result.clone());
            }
        }
    }
}

impl<V: Value> Room<V> {
    fn next_arrived(&self) -> Option<(Token, Result<Reply, Refusal>)> {
        self.arrived.lock().pop_front()
    }
}
