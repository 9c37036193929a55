//! Dead letters: from the streams where the engine lays them, through an exchange, to queues.
//!
//! ```text
//! queue ── one frame ──▶ $amqp/dead of its shard ──▶ carrier ─┬─ same shard ──▶ Transact [Publish.., Ack]
//!                                                             └─ others ──▶ Publish.., then Ack
//! ```
//!
//! The engine moves a message that dies into the stream `$amqp/dead` of its shard, with where it goes next as a note, in
//! the frame that takes it out of its queue. A carrier for each shard, a consumer with credit, writes its history, asks
//! the exchange graph as it is then, and publishes. What goes to queues of the same shard is settled with the
//! publication, in one frame; what goes elsewhere is settled once it is stored there. So a crash loses nothing, and only
//! between shards it may repeat something. A chain of dead letters is one step after the other: nothing recurses.
//!
//! What comes through the exchange that is the subjects of the space goes to whoever is not AMQP, too.
//!
//! An exchange that is not there, and queues that refuse a letter, end its way: it is dropped, as in RabbitMQ.

mod death;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use longtail_broker::client::{Client, Closed, OwnedMessage, Pushed};
use longtail_broker::message::Message as Shown;
use longtail_broker::{Broker, BrokerError};
use longtail_engine::command::{Settle, Step, Transaction};
use longtail_engine::config::{GroupConfig, StreamConfig, StreamName};
use longtail_engine::headers;
use longtail_engine::{Command, Delivery, Handle, NewMessage, Reply, Target};
use longtail_model::{ConsumerTag, GroupId, Link, Seq, ShardId, StreamId, Timestamp};
use tokio::runtime::Handle as Runtime;

use crate::codec::Properties;
use crate::graph::{Content, Routing};
use crate::queue::{DEAD_LETTERS, DeadLetter, Queue};
use crate::session::Laying;
use crate::session::content::Envelope;
use crate::store::{self, Parcel, beside_queues, in_queues};
use crate::tally::Tallies;
use crate::topology::Topology;
use death::Death;
pub(crate) use death::Reason;

/// Letters by reason, as [`Reason::ALL`] has them.
pub(crate) type Lettered = Tallies<{ CONFIRMED + 1 }>;

/// Behind the reasons: letters that all queues have that they go to.
pub(crate) const CONFIRMED: usize = Reason::ALL.len();

/// Letters that a carrier has under way.
const UNDER_WAY: u32 = 256;

const CARRIER: ConsumerTag = ConsumerTag(1);
const LINK: Link = Link(1);

/// The carriers of a space.
pub(crate) struct Letters {
    space: Arc<str>,
    /// By number of the shard.
    clients: Vec<Arc<Client>>,
    /// The space is being removed, and its streams with it.
    is_ending: AtomicBool,
    /// Those of all spaces.
    lettered: Arc<Lettered>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters")
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

fn stream_config() -> StreamConfig {
    StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    }
}

/// Why a carrier ends.
#[derive(Debug, PartialEq)]
enum End {
    /// The broker closes, or the space is removed.
    InOrder,
    /// The shard does not let it carry.
    Refused(Reply),
    /// Somebody has deleted the stream: it comes again with the next start.
    StreamGone,
}

/// A letter for some queues of a shard that want it alike.
type Part = (ShardId, Vec<StreamId>, NewMessage);

/// Where a letter goes.
#[derive(Default)]
struct Way {
    parts: Vec<Part>,
    /// What it is for whoever is not AMQP.
    shared: Vec<Shown>,
}

impl Way {
    /// Shows it to whoever is not AMQP, and yields what is to be published. No lock may be held.
    fn publishes(self, topology: &Topology) -> Vec<(ShardId, Command)> {
        let of_part = |(shard, streams, message): Part| Some((shard, publish(&streams, message)?));
        let mut all: Vec<_> = self.parts.into_iter().filter_map(of_part).collect();
        if let Some(subjects) = topology.subjects() {
            let now = topology.now();
            for message in self.shared {
                let stored = subjects.share(&Arc::new(message), now).into_iter();
                all.extend(stored.map(|publish| (publish.shard, publish.command)));
            }
        }
        all
    }
}

impl Letters {
    /// Sessions at every shard of a broker, without carriers yet.
    pub(crate) fn new(broker: &Broker, space: Arc<str>, lettered: Arc<Lettered>) -> Self {
        let count = broker.shards().count();
        Letters {
            lettered,
            space,
            is_ending: AtomicBool::new(false),
            clients: (0..count)
                .map(|shard| Arc::new(broker.client(ShardId(shard))))
                .collect(),
        }
    }

    fn client(&self, shard: ShardId) -> Option<&Arc<Client>> {
        self.clients.get(usize::from(shard.0))
    }

    /// Makes sure that a shard has a place for dead letters, before a queue there wants to have them laid.
    ///
    /// # Errors
    /// What the shard refuses.
    pub(crate) async fn provide(&self, shard: ShardId) -> Result<(), BrokerError> {
        let name = StreamName::new(Arc::clone(&self.space), DEAD_LETTERS);
        let Some(client) = self.client(shard) else {
            return Err(BrokerError::NoStream(name));
        };
        let define = Command::Define {
            name,
            config: Box::new(stream_config()),
        };
        longtail_broker::client::accepted(client.call(define).await?)?;
        Ok(())
    }

    /// Says whether the space is being removed: then nobody wonders that its streams are gone.
    pub(crate) fn set_ending(&self, is_ending: bool) {
        self.is_ending.store(is_ending, Ordering::Release);
    }

    /// Begins to carry on this runtime, until the broker closes or the space is gone.
    pub(crate) fn carry(self: &Arc<Self>, topology: &Arc<Topology>, runtime: &Runtime) {
        for client in &self.clients {
            let (letters, client) = (Arc::clone(self), Arc::clone(client));
            let topology = Arc::downgrade(topology);
            runtime.spawn(async move {
                let space = &letters.space;
                match letters.carry_from(&client, &topology).await {
                    End::InOrder => {}
                    End::Refused(reply) => {
                        tracing::error!(%space, ?reply, "dead letters cannot be carried");
                    }
                    End::StreamGone => {
                        tracing::error!(%space, "the stream of dead letters is gone");
                    }
                }
            });
        }
    }

    async fn carry_from(&self, client: &Arc<Client>, topology: &Weak<Topology>) -> End {
        let name = StreamName::new(Arc::clone(&self.space), DEAD_LETTERS);
        let create = Some(Box::new(stream_config()));
        let draw = Command::draw(name, create, LINK, CARRIER, UNDER_WAY);
        let calls = draw.map(|command| client.call(command));
        for call in calls {
            match call.await.map(|answer| answer.reply) {
                Ok(Reply::Opened { .. } | Reply::Done) => {}
                Ok(reply) => return End::Refused(reply),
                Err(Closed) => return End::InOrder,
            }
        }
        loop {
            match client.pushed().await {
                Ok(Pushed::Message(delivery, message)) => {
                    let Some(topology) = topology.upgrade() else {
                        return End::InOrder;
                    };
                    self.carry_one(client, &topology, &delivery, message.as_deref());
                }
                Ok(Pushed::Cancelled(..)) if self.is_ending.load(Ordering::Acquire) => {
                    return End::InOrder;
                }
                Ok(Pushed::Cancelled(..)) => return End::StreamGone,
                Err(Closed) => return End::InOrder,
            }
        }
    }

    /// Sends one letter on its way. Commands are given in order, their answers waited for beside.
    fn carry_one(
        &self,
        client: &Arc<Client>,
        topology: &Topology,
        delivery: &Delivery,
        message: Option<&OwnedMessage>,
    ) {
        let (group, seq) = (delivery.group, delivery.seq);
        // One that cannot be read, or that nobody knows of, goes no further.
        let way = message.and_then(|message| self.way_of(topology, message));
        let way = way.unwrap_or_default();
        let here = way.parts.iter().all(|(shard, ..)| *shard == client.shard());
        if here && way.shared.is_empty() && !way.parts.is_empty() {
            return self.carry_here(client, (group, seq), way.parts);
        }
        let publishes = way.publishes(topology).into_iter();
        let calls =
            publishes.filter_map(|(shard, publish)| Some(self.client(shard)?.call(publish)));
        let calls: Vec<_> = calls.collect();
        let (client, lettered) = (Arc::clone(client), Arc::clone(&self.lettered));
        if calls.is_empty() {
            drop(client.call(ack(group, seq)));
            return;
        }
        tokio::spawn(async move {
            let mut confirmed = true;
            for call in calls {
                match call.await {
                    // Whoever refuses it has said so for good.
                    Ok(answer) => confirmed &= is_taken(&answer.reply),
                    // It is carried again after a restart.
                    Err(_) => return,
                }
            }
            if confirmed {
                lettered.count(CONFIRMED);
            }
            drop(client.call(ack(group, seq)));
        });
    }

    /// To queues of its own shard: stored and settled as one.
    fn carry_here(&self, client: &Arc<Client>, (group, seq): (GroupId, Seq), stores: Vec<Part>) {
        let settle = Step::Settle {
            message: Handle::Group(group, seq),
            how: Settle::Ack,
        };
        let publishes = stores.iter().filter_map(|(_, streams, message)| {
            let (&to, also) = streams.split_first()?;
            Some(Step::Publish {
                to: Target::Stream(to),
                also: also.to_vec(),
                message: message.clone(),
            })
        });
        let steps = publishes.chain([settle]).collect();
        let call = client.call(Command::Transact(Box::new(Transaction { steps })));
        let (client, lettered) = (Arc::clone(client), Arc::clone(&self.lettered));
        tokio::spawn(async move {
            let Ok(answer) = call.await else { return };
            if let Reply::Refused(why) = &answer.reply {
                // One is full or gone: the others have it all the same.
                tracing::debug!(%why, "a dead letter is refused");
                for (_, streams, message) in stores {
                    let Some(publish) = publish(&streams, message) else {
                        continue;
                    };
                    match client.call(publish).await {
                        Ok(answer) => drop(is_taken(&answer.reply)),
                        Err(_) => return,
                    }
                }
                drop(client.call(ack(group, seq)));
            } else {
                lettered.count(CONFIRMED);
            }
        });
    }

    /// What queues have refused to take is a dead letter at once. The publisher is told that it was refused, so nobody
    /// counts on it.
    pub(crate) fn lay(&self, topology: &Topology, laying: &Laying, now: Timestamp) {
        for queue in &laying.queues {
            let settings = queue.settings();
            let Some(to) = &settings.dead_letter else {
                continue;
            };
            self.lettered.count(Reason::MaxLength as usize);
            let record = (&*laying.headers, &[][..], &laying.body);
            let died = (&*queue.name, Reason::MaxLength, now.0);
            let way = way_on(topology, record, died, to).unwrap_or_default();
            for (shard, publish) in way.publishes(topology) {
                if let Some(client) = self.client(shard) {
                    drop(client.call(publish));
                }
            }
        }
    }

    fn way_of(&self, topology: &Topology, message: &OwnedMessage) -> Option<Way> {
        let (mut queue, mut reason, mut time, mut note) = (None, None, None, None);
        for (name, value) in headers::iter(&message.headers) {
            // The last one counts.
            match name {
                b"lt-death-stream" => queue = std::str::from_utf8(value).ok(),
                b"lt-death-reason" => reason = Reason::of(value),
                b"lt-death-time" => time = std::str::from_utf8(value).ok()?.parse::<u64>().ok(),
                b"lt-death-note" => note = DeadLetter::of_note(value),
                _ => {}
            }
        }
        let queue = queue?.strip_prefix(&*self.space)?.strip_prefix('/')?;
        let reason = reason?;
        self.lettered.count(reason as usize);
        let record = (&*message.headers, &*message.subject, &message.payload);
        way_on(topology, record, (queue, reason, time?), &note?)
    }
}

/// The way of a letter through its exchange. `None`: there is none.
fn way_on(
    topology: &Topology,
    (encoded, subject, payload): (&[u8], &[u8], &Bytes),
    (queue, reason, time_ms): (&str, Reason, u64),
    to: &DeadLetter,
) -> Option<Way> {
    let envelope = Envelope::of_headers(encoded, subject);
    let properties = Properties::decode(envelope.properties).ok()?;
    let death = Death {
        queue,
        reason,
        time_s: time_ms / 1000,
        exchange: envelope.exchange,
        key: &envelope.key,
        new_key: to.routing_key.as_deref(),
    };
    let written = death::write(&properties, &death);
    let letter = written
        .inspect_err(|error| tracing::warn!(queue, %error, "a dead letter cannot be written"))
        .ok()?;
    let properties = Properties::decode(&letter.properties).ok()?;
    let keys: Vec<&str> = letter.keys.iter().map(AsRef::as_ref).collect();
    let now = topology.now();
    let routing = Routing {
        keys: &keys,
        properties: &properties,
        content: Content {
            exchange: &to.exchange,
            properties: &letter.properties,
            body: payload,
        },
        due: false,
        now,
    };
    // An exchange that is not there yet is no error.
    let mut routed = topology.graph().route(&to.exchange, &routing)?;
    let circle = |queue: &Arc<Queue>| {
        reason != Reason::Rejected && death::is_circle(&properties, &queue.name)
    };
    routed.queues.retain(|queue| !circle(queue));
    let parcel = Parcel {
        exchange: &to.exchange,
        key: keys.first()?,
        properties: &letter.properties,
        shown: &letter.properties,
        encoded: None,
        headers: properties.headers.unwrap_or_default(),
        body: payload,
        priority: properties.priority,
        expiration_ms: None,
        now,
    };
    let stores = in_queues(&routed.queues, &parcel, &mut Vec::new());
    let beside = beside_queues(&routed.beside, &parcel);
    let parts = stores.into_iter().chain(beside);
    let shown = routed.shared.iter().filter_map(|key| {
        let subjects = topology.subjects()?;
        subjects.wanted(key, &properties, payload, now)
    });
    Some(Way {
        shared: shown.collect(),
        parts: parts.map(store::Store::into_parts).collect(),
    })
}

fn publish(streams: &[StreamId], message: NewMessage) -> Option<Command> {
    let (&to, also) = streams.split_first()?;
    Some(Command::Publish {
        to: Target::Stream(to),
        also: also.to_vec(),
        message,
    })
}

fn ack(group: GroupId, seq: Seq) -> Command {
    Command::Settle {
        message: Handle::Group(group, seq),
        how: Settle::Ack,
    }
}

fn is_taken(reply: &Reply) -> bool {
    if let Reply::Refused(why) = reply {
        tracing::debug!(%why, "a queue refuses a dead letter");
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use longtail_broker::BrokerConfig;
    use longtail_engine::command::Only;

    use super::*;
    use crate::config::Config;
    use crate::tenant::Tenant;

    #[tokio::test]
    async fn a_stream_that_goes_with_its_space_is_missed_by_nobody() {
        for (is_ending, expected) in [(true, End::InOrder), (false, End::StreamGone)] {
            let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
            let tenant = Tenant::new(Config::default(), Arc::clone(&broker));
            let space: Arc<str> = "default".into();
            let topology = tenant.topology(&space).await.unwrap();
            // The carriers of the topology run too; this one is looked at.
            let letters = Letters::new(&broker, Arc::clone(&space), Arc::default());
            let client = Arc::new(broker.client(ShardId(0)));
            letters.provide(ShardId(0)).await.unwrap();
            letters.set_ending(is_ending);
            let deleter = broker.client(ShardId(0));
            let topology = Arc::downgrade(&topology);
            let delete = async {
                let delete = Command::Delete {
                    name: StreamName::new(Arc::clone(&space), DEAD_LETTERS),
                    only: Only::default(),
                };
                deleter.call(delete).await.unwrap()
            };
            // In order: the carrier asks for its stream before anybody deletes it.
            let (end, deleted) = tokio::join!(letters.carry_from(&client, &topology), delete);
            assert!(!matches!(deleted.reply, Reply::Refused(_)), "{deleted:?}");
            assert_eq!(end, expected);
        }
    }
}
