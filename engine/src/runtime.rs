//! Runs shards: whoever submits while a shard is free runs it (flat combining), so that no request is handed from
//! thread to thread.

use std::sync::Arc;

use longtail_model::{SessionId, ShardId};

use crate::command::{Command, Token};
use crate::effect::Effect;
use crate::message::Message;

/// Where a session's effects go.
pub trait Sink: Send + Sync + 'static {
    /// Takes one effect, in order. Called with the shard's lock held, from any thread: must only format and buffer,
    /// never block, submit or run.
    ///
    /// `messages` has the record of a delivery or peek, and the records of a batch in its order; one that could not
    /// be read is `None`.
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]);

    /// Called after the lock is released, once for any number of effects: the time to write to the socket.
    fn flush(&self);
}

/// Access to the shards of this process.
pub trait Shards: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> u16;

    /// Attaches a session; its effects go to `sink`.
    fn attach(&self, shard: ShardId, sink: Arc<dyn Sink>) -> SessionId;

    /// Queues commands of a session, in order, without running them; empties `commands`.
    fn enqueue(&self, shard: ShardId, session: SessionId, commands: &mut Vec<(Token, Command)>);

    /// Runs what is queued at every shard where this thread has queued something, unless somebody already does.
    fn run(&self);

    /// Ends a session: what it holds goes back at once, waiting takes are forgotten.
    fn detach(&self, shard: ShardId, session: SessionId);
}
