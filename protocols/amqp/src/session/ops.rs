//! What a conversation asks for that cannot be done under its connection's lock: logins, and changes of the topology.

use std::sync::Arc;

use longtail_edge::CloseReason;
use longtail_model::ShardId;

use super::{Ended, Laying};
use crate::exception::Exception;
use crate::firehose::Tapped;
use crate::queue::Queue;
use crate::replies::{Recipient, Reply};
use crate::subjects::Share;
use crate::topology::{Asker, Bind, DeclareExchange, DeclareQueue, Declared, Topology};

/// What cannot be done under the connection's lock.
#[derive(Debug)]
pub(crate) enum Action {
    /// Check user and password.
    Verify,
    /// Both ends agree on so many seconds between heartbeats.
    Heartbeat(u16),
    /// Let the client into its vhost.
    Admit,
    /// Attach a channel to the shards.
    OpenChannel(u16),
    /// Attach a consumer of a stream, which has a session of its own, to the stream's shard.
    Attach {
        channel: u16,
        incarnation: u32,
        consumer: u32,
        shard: ShardId,
    },
    /// A consumer of a stream is gone.
    DetachReader(Ended),
    /// A channel has ended on the server's side.
    Detach(Ended),
    /// A channel has ended on the client's side, and is to be told so.
    CloseChannel(u16, Ended),
    /// An auto-deleting queue has lost its last consumer.
    DeleteUnused(Arc<Queue>),
    /// A direct reply, to whoever expects it.
    Reply(Recipient, Reply),
    /// A message for whoever is not AMQP.
    Share(Share),
    /// Something about the topology.
    Topology(Box<Op>),
    /// The client is not read from for a while: its silence is no sign of anything.
    Blocked,
    /// It shows another secret.
    Renew,
    /// Look now and then whether consumers hold something too long.
    Watch,
    /// A queue has refused a message, which is a dead letter.
    Lay(Box<Laying>),
    /// A copy of a message is wanted.
    Trace(Box<Tapped>),
    /// The server has said goodbye.
    Close(CloseReason),
    /// The client says goodbye.
    Goodbye(Ended),
}

/// Something about the topology that a client waits for.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) channel: u16,
    pub(crate) incarnation: u32,
    pub(super) no_wait: bool,
    pub(super) id: (u16, u16),
    pub(crate) request: Request,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    DeclareQueue(DeclareQueue),
    DeleteQueue {
        name: String,
        if_unused: bool,
        if_empty: bool,
    },
    Purge(String),
    DeclareExchange(DeclareExchange),
    DeleteExchange {
        name: String,
        if_unused: bool,
    },
    Bind(Bind),
    Unbind(Bind),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Queue(Declared),
    Count(u64),
    Done,
}

impl Request {
    pub(crate) async fn carry_out(
        self,
        topology: &Topology,
        asker: &Asker,
    ) -> Result<Outcome, Exception> {
        Ok(match self {
            Request::DeclareQueue(declare) => {
                Outcome::Queue(topology.declare_queue(asker, declare).await?)
            }
            Request::DeleteQueue {
                name,
                if_unused,
                if_empty,
            } => Outcome::Count(
                topology
                    .delete_queue(asker, &name, if_unused, if_empty)
                    .await?,
            ),
            Request::Purge(name) => Outcome::Count(topology.purge(asker, &name).await?),
            Request::DeclareExchange(declare) => {
                topology.declare_exchange(asker, declare).await?;
                Outcome::Done
            }
            Request::DeleteExchange { name, if_unused } => {
                topology.delete_exchange(asker, &name, if_unused).await?;
                Outcome::Done
            }
            Request::Bind(bind) => {
                topology.bind(asker, bind).await?;
                Outcome::Done
            }
            Request::Unbind(bind) => {
                topology.unbind(asker, bind).await?;
                Outcome::Done
            }
        })
    }
}
