//! A channel: methods in, commands out, and what the shards say of them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use longtail_broker::auth::Action as Right;
use longtail_edge::Out;
use longtail_engine::runtime::Shards;
use longtail_engine::{Command, Delivery, Effect, Handle, Message, QUIET, Reply, Settle, Token};
use longtail_model::{GroupId, Seq, SessionId, ShardId};

use super::confirms::Confirms;
use super::consuming::{Consumer, is_stored};
use super::delivering::Kept;
use super::publishing::{Counting, Laying, Publishing};
use super::replying::ReplyConsumer;
use super::routing::Remembered;
use super::transacting::Staged;
use super::unacked::Unacked;
use super::{Action, Counts, Ended, Op, Outcome, Request, Shared, say, unexpected_frame};
use crate::codec::{Method, ReplyCode, Table};
use crate::exception::{Exception, not_implemented, precondition};
use crate::graph::{ALTERNATE, Destination, Kind, Noted};
use crate::queue::Queue;
use crate::replies::{is_address, is_pseudo_queue};
use crate::store::forget;
use crate::tenant::Tenant;
use crate::topology::{Bind, DeclareExchange, DeclareQueue};

/// The way to one shard.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) shard: ShardId,
    session: SessionId,
    next: Token,
    pending: VecDeque<Pending>,
    commands: Vec<(Token, Command)>,
}

impl Way {
    pub(super) fn ask(&mut self, command: Command, pending: Pending) {
        self.commands.push((self.next, command));
        self.next += 1;
        self.pending.push_back(pending);
    }

    /// Asks for something that nobody waits for: no answer comes.
    pub(super) fn tell(&mut self, command: Command) {
        self.commands.push((QUIET, command));
    }

    /// Is done with a message. Of a group, those that follow each other are one command.
    pub(super) fn ack(&mut self, group: GroupId, seq: Seq) {
        match self.commands.last_mut() {
            Some((
                QUIET,
                Command::AckAll {
                    group: same,
                    messages,
                },
            )) if *same == group => messages.push(seq),
            Some((QUIET, command @ Command::Settle { .. })) => {
                if let &mut Command::Settle {
                    message: Handle::Group(same, first),
                    how: Settle::Ack,
                } = command
                    && same == group
                {
                    let messages = vec![first, seq];
                    *command = Command::AckAll { group, messages };
                } else {
                    self.ack_one(group, seq);
                }
            }
            _ => self.ack_one(group, seq),
        }
    }

    fn ack_one(&mut self, group: GroupId, seq: Seq) {
        let settle = Command::Settle {
            message: Handle::Group(group, seq),
            how: Settle::Ack,
        };
        self.tell(settle);
    }
}

/// What an answer of a shard answers.
#[derive(Debug)]
pub(super) enum Pending {
    /// A publish: its number in confirm mode (0: none) and the octets of its body.
    Published {
        number: u64,
        bytes: u64,
        /// What was noted of it, to be forgotten if it is refused.
        noted: Option<Arc<[Noted]>>,
        laying: Option<Box<Laying>>,
    },
    /// A shard's part of a transaction.
    Committed(ShardId),
    /// The link of a consumer.
    Opened { consumer: u32 },
    /// A consumer.
    Subscribed { consumer: u32, no_wait: bool },
    /// The end of a consumer.
    Unsubscribed { tag: Arc<str>, no_wait: bool },
    /// The queue of a `basic.get`.
    Counted,
    /// A `basic.get`.
    Fetched { no_ack: bool, queue: Arc<Queue> },
}

/// One channel.
#[derive(Debug)]
pub(super) struct Channel {
    number: u16,
    incarnation: u32,
    /// By number of the shard.
    pub(super) ways: Vec<Way>,
    pub(super) consumers: HashMap<u32, Consumer>,
    pub(super) tags: HashMap<Arc<str>, u32>,
    pub(super) last_consumer: u32,
    pub(super) unacked: Unacked,
    pub(super) last_delivery: u64,
    pub(super) prefetch: u16,
    /// What the consumers of the channel may hold together; 0: nobody counts.
    pub(super) shared_prefetch: u32,
    /// What they do hold, and those that are gone held.
    pub(super) shared_held: u32,
    /// What came although they hold that much.
    pub(super) kept: VecDeque<Kept>,
    /// Queues with retries, of which something was delivered.
    pub(super) retrying: HashMap<GroupId, Arc<Queue>>,
    /// Tags of what was taken back because it was held too long.
    pub(super) late: BTreeSet<u64>,
    pub(super) confirms: Option<Confirms>,
    pub(super) publishing: Option<Publishing>,
    pub(super) remembered: Option<Remembered>,
    pub(super) tally: Option<Counting>,
    /// In transaction mode: what waits for its commit.
    pub(super) staged: Option<Staged>,
    /// Who gets direct replies.
    pub(super) reply_consumer: Option<ReplyConsumer>,
    /// Publishes on their way, and octets of their bodies.
    pub(super) outstanding: usize,
    pub(super) outstanding_bytes: u64,
    /// Messages ready in the queue of the `basic.get` under way.
    pub(super) ready: u64,
    /// What `""` means as the name of a queue.
    last_queue: Arc<str>,
    /// What an operator sees.
    pub(super) counts: Counts,
    /// What was delivered without wanting acknowledgements and is not settled yet, because the client does not read.
    pub(super) unsettled: Vec<(usize, Delivery)>,
}

impl Channel {
    /// The method that content belongs to.
    pub(super) const PUBLISH: (u16, u16) = (60, 40);

    pub(super) fn new(number: u16, incarnation: u32, sessions: &[(ShardId, SessionId)]) -> Self {
        let way = |&(shard, session): &(ShardId, SessionId)| Way {
            shard,
            session,
            next: 0,
            pending: VecDeque::new(),
            commands: Vec::new(),
        };
        Channel {
            number,
            incarnation,
            ways: sessions.iter().map(way).collect(),
            consumers: HashMap::new(),
            tags: HashMap::new(),
            last_consumer: 0,
            unacked: Unacked::default(),
            last_delivery: 0,
            prefetch: 0,
            shared_prefetch: 0,
            shared_held: 0,
            kept: VecDeque::new(),
            retrying: HashMap::new(),
            late: BTreeSet::new(),
            confirms: None,
            publishing: None,
            remembered: None,
            tally: None,
            staged: None,
            reply_consumer: None,
            outstanding: 0,
            outstanding_bytes: 0,
            ready: 0,
            last_queue: Arc::default(),
            counts: Counts::default(),
            unsettled: Vec::new(),
        }
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The channel is over: what is to be detached from the shards.
    pub(super) fn end(mut self: Box<Self>, shared: &mut Shared) -> Ended {
        shared.retired.add(&self.counts());
        for consumer in std::mem::take(&mut self.consumers).into_values() {
            if consumer.queue.leave() {
                shared.actions.push(Action::DeleteUnused(consumer.queue));
            }
        }
        self.forget_staged(shared);
        shared.outstanding = shared.outstanding.saturating_sub(self.outstanding);
        shared.outstanding_bytes = shared
            .outstanding_bytes
            .saturating_sub(self.outstanding_bytes);
        shared.wake = true;
        self.ways
            .iter()
            .map(|way| (way.shard, way.session))
            .collect()
    }

    /// Queues commands at the shards.
    pub(super) fn send(&mut self, shards: &dyn Shards) -> bool {
        let mut queued = false;
        for way in &mut self.ways {
            if !way.commands.is_empty() {
                shards.enqueue(way.shard, way.session, &mut way.commands);
                queued = true;
            }
        }
        queued
    }

    /// Gives the confirms that can be given.
    pub(super) fn confirm(&mut self, out: &mut Out) {
        let number = self.number;
        if let Some(confirms) = &mut self.confirms {
            confirms.take(|method| say(&method, number, out));
        }
    }

    /// The name of a queue; empty: the last that was declared.
    pub(super) fn queue_name(&self, name: &str) -> Result<Arc<str>, Exception> {
        if !name.is_empty() {
            return Ok(name.replace(['\r', '\n'], "").into());
        }
        if self.last_queue.is_empty() {
            return Err(Exception::new(
                ReplyCode::NotFound,
                "no previously declared queue",
            ));
        }
        Ok(Arc::clone(&self.last_queue))
    }

    fn ask_topology(
        &self,
        method: &Method<'_>,
        no_wait: bool,
        request: Request,
        shared: &mut Shared,
    ) {
        shared.busy = true;
        let op = Op {
            channel: self.number,
            incarnation: self.incarnation,
            no_wait,
            id: method.id(),
            request,
        };
        shared.actions.push(Action::Topology(Box::new(op)));
    }

    pub(super) fn method(
        &mut self,
        method: &Method<'_>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if self.publishing.is_some() {
            return Err(unexpected_frame(
                "expected content header or body, got a method frame instead",
            ));
        }
        match *method {
            Method::BasicPublish { .. } => self.publish(method, shared),
            Method::BasicAck {
                delivery_tag,
                multiple,
            } => self.ack(delivery_tag, multiple),
            Method::BasicNack {
                delivery_tag,
                multiple,
                requeue,
            } => self.nack(delivery_tag, multiple, requeue),
            Method::BasicReject {
                delivery_tag,
                requeue,
            } => self.reject(delivery_tag, requeue),
            Method::BasicConsume { .. } => self.consume(method, shared, out),
            Method::BasicCancel {
                consumer_tag,
                no_wait,
            } => {
                self.cancel(consumer_tag, no_wait, shared, out);
                Ok(())
            }
            Method::BasicGet { queue, no_ack, .. } => self.get(queue, no_ack, shared),
            Method::BasicQos {
                prefetch_size,
                prefetch_count,
                global,
            } => self.qos(prefetch_size, prefetch_count, global, out),
            Method::BasicRecover { requeue } => {
                self.recover(requeue)?;
                say(&Method::BasicRecoverOk {}, self.number, out);
                Ok(())
            }
            Method::BasicRecoverAsync { requeue } => self.recover(requeue),
            Method::ConfirmSelect { .. } if self.staged.is_some() => {
                Err(precondition("cannot switch from tx to confirm mode"))
            }
            Method::ConfirmSelect { no_wait } => {
                self.confirms.get_or_insert_default();
                if !no_wait {
                    say(&Method::ConfirmSelectOk {}, self.number, out);
                }
                Ok(())
            }
            Method::TxSelect {} => self.tx_select(out),
            Method::TxCommit {} => self.tx_commit(shared, out),
            Method::TxRollback {} => self.tx_rollback(shared, out),
            Method::QueueDeclare { queue, no_wait, .. }
                if is_pseudo_queue(queue) || is_address(queue) =>
            {
                self.declare_replies(queue, no_wait, shared, out)
            }
            Method::ChannelFlow { active: true } => {
                say(&Method::ChannelFlowOk { active: true }, self.number, out);
                Ok(())
            }
            Method::ChannelFlow { active: false } => Err(not_implemented("active=false")),
            // What the server has asked for is done.
            Method::BasicCancelOk { .. } | Method::ChannelFlowOk { .. } => Ok(()),
            Method::AccessRequest { .. } => {
                say(&Method::AccessRequestOk { ticket: 1 }, self.number, out);
                Ok(())
            }
            _ => self.topology_method(method, shared),
        }
    }

    fn topology_method(
        &mut self,
        method: &Method<'_>,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let (no_wait, request) = match *method {
            Method::QueueDeclare {
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                no_wait,
                arguments,
                ..
            } => {
                let name = if passive {
                    self.queue_name(queue)?.to_string()
                } else {
                    queue.to_owned()
                };
                if !passive && !name.is_empty() {
                    shared.check(Right::Configure, "queue", &name)?;
                    let queue = ("queue", name.as_str());
                    may_lead_to(queue, "x-dead-letter-exchange", &arguments, shared)?;
                }
                let declare = DeclareQueue {
                    name,
                    passive,
                    durable,
                    exclusive,
                    auto_delete,
                    arguments: arguments.as_bytes().into(),
                };
                (no_wait, Request::DeclareQueue(declare))
            }
            Method::QueueBind {
                queue,
                exchange,
                routing_key,
                no_wait,
                arguments,
                ..
            } => {
                let bind = self.bind_queue((queue, exchange, routing_key), &arguments, shared)?;
                (no_wait, Request::Bind(bind))
            }
            Method::QueueUnbind {
                queue,
                exchange,
                routing_key,
                arguments,
                ..
            } => {
                let bind = self.bind_queue((queue, exchange, routing_key), &arguments, shared)?;
                (false, Request::Unbind(bind))
            }
            Method::QueuePurge { queue, no_wait, .. } => {
                let name = self.queue_name(queue)?;
                shared.check(Right::Consume, "queue", &name)?;
                (no_wait, Request::Purge(name.to_string()))
            }
            Method::QueueDelete {
                queue,
                if_unused,
                if_empty,
                no_wait,
                ..
            } => {
                let name = self.queue_name(queue)?.to_string();
                shared.check(Right::Configure, "queue", &name)?;
                let request = Request::DeleteQueue {
                    name,
                    if_unused,
                    if_empty,
                };
                (no_wait, request)
            }
            Method::ExchangeDeclare {
                exchange,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments,
                ..
            } => {
                if !passive {
                    shared.check(Right::Configure, "exchange", exchange)?;
                    may_lead_to(("exchange", exchange), ALTERNATE, &arguments, shared)?;
                }
                let declare = DeclareExchange {
                    name: exchange.to_owned(),
                    kind: kind.to_owned(),
                    passive,
                    durable,
                    auto_delete,
                    internal,
                    arguments: arguments.as_bytes().into(),
                };
                (no_wait, Request::DeclareExchange(declare))
            }
            Method::ExchangeDelete {
                exchange,
                if_unused,
                no_wait,
                ..
            } => {
                shared.check(Right::Configure, "exchange", exchange)?;
                let name = exchange.to_owned();
                (no_wait, Request::DeleteExchange { name, if_unused })
            }
            Method::ExchangeBind {
                destination,
                source,
                routing_key,
                no_wait,
                arguments,
                ..
            } => {
                let bind = bind_exchange((destination, source, routing_key), &arguments, shared)?;
                (no_wait, Request::Bind(bind))
            }
            Method::ExchangeUnbind {
                destination,
                source,
                routing_key,
                no_wait,
                arguments,
                ..
            } => {
                let bind = bind_exchange((destination, source, routing_key), &arguments, shared)?;
                (no_wait, Request::Unbind(bind))
            }
            _ => {
                return Err(Exception::new(
                    ReplyCode::CommandInvalid,
                    "this method is the server's, or of channel 0",
                ));
            }
        };
        self.ask_topology(method, no_wait, request, shared);
        Ok(())
    }

    fn bind_queue(
        &self,
        (queue, source, key): (&str, &str, &str),
        arguments: &Table<'_>,
        shared: &mut Shared,
    ) -> Result<Bind, Exception> {
        let name = self.queue_name(queue)?;
        // Both empty: the queue's name is the key too.
        let key = if queue.is_empty() && key.is_empty() {
            name.to_string()
        } else {
            key.to_owned()
        };
        shared.check(Right::Publish, "queue", &name)?;
        may_bind_to(source, key.as_str(), shared)?;
        Ok(Bind {
            source: source.to_owned(),
            destination: Destination::Queue(name),
            key,
            arguments: arguments.as_bytes().into(),
        })
    }

    /// Something about the topology is done.
    pub(super) fn completed(&mut self, op: &Op, outcome: &Outcome, out: &mut Out) {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        if let Outcome::Queue(declared) = outcome {
            self.last_queue = Arc::clone(&declared.name);
        }
        if op.no_wait {
            return;
        }
        let answer = match (&op.request, outcome) {
            (_, Outcome::Queue(declared)) => Method::QueueDeclareOk {
                queue: &declared.name,
                message_count: count(declared.messages),
                consumer_count: declared.consumers,
            },
            (Request::Purge(_), Outcome::Count(messages)) => Method::QueuePurgeOk {
                message_count: count(*messages),
            },
            (_, Outcome::Count(messages)) => Method::QueueDeleteOk {
                message_count: count(*messages),
            },
            (Request::DeclareExchange(_), _) => Method::ExchangeDeclareOk {},
            (Request::DeleteExchange { .. }, _) => Method::ExchangeDeleteOk {},
            (Request::Bind(bind), _) => match bind.destination {
                Destination::Queue(_) => Method::QueueBindOk {},
                Destination::Exchange(_) => Method::ExchangeBindOk {},
            },
            (Request::Unbind(bind), _) => match bind.destination {
                Destination::Queue(_) => Method::QueueUnbindOk {},
                Destination::Exchange(_) => Method::ExchangeUnbindOk {},
            },
            (request, outcome) => {
                tracing::error!(?request, ?outcome, "an outcome that does not fit");
                return;
            }
        };
        say(&answer, self.number, out);
    }

    pub(super) fn effect(
        &mut self,
        at: usize,
        effect: &Effect,
        messages: &[Option<Message<'_>>],
        shared: &mut Shared,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let message = messages.first().and_then(Option::as_ref);
        match effect {
            Effect::Push(delivery) => self.pushed(at, delivery, message, shared, out),
            Effect::Cancelled { consumer, .. } => {
                self.cancelled(consumer.0, shared, out);
                Ok(())
            }
            // Refused, but nobody waits for it.
            Effect::Reply(QUIET, _) => Ok(()),
            Effect::Reply(_, reply) => {
                let pending = self
                    .ways
                    .get_mut(at)
                    .and_then(|way| way.pending.pop_front());
                match pending {
                    Some(pending) => self.reply(at, pending, reply, message, (shared, tenant), out),
                    None => Err(internal("the shard answered what nobody asked")),
                }
            }
        }
    }

    fn reply(
        &mut self,
        at: usize,
        pending: Pending,
        reply: &Reply,
        message: Option<&Message<'_>>,
        (shared, tenant): (&mut Shared, &Tenant),
        out: &mut Out,
    ) -> Result<(), Exception> {
        match pending {
            Pending::Published {
                number,
                bytes,
                noted,
                laying,
            } => {
                if let Some(noted) = noted
                    && !is_stored(reply)
                {
                    forget(&noted, &shared.topology()?.graph());
                }
                if let Some(laying) = laying {
                    laying.lay(reply, shared);
                }
                let refused = !is_stored(reply);
                self.published((number, bytes), refused, shared, tenant.config());
                Ok(())
            }
            Pending::Committed(shard) => self.committed(shard, reply, shared, out),
            Pending::Opened { consumer } => self.opened(consumer, reply, shared),
            Pending::Subscribed { consumer, no_wait } => {
                self.subscribed(consumer, no_wait, reply, shared, out)
            }
            Pending::Unsubscribed { tag, no_wait } => {
                shared.answered();
                if !no_wait {
                    let consumer_tag = &*tag;
                    say(&Method::BasicCancelOk { consumer_tag }, self.number, out);
                }
                Ok(())
            }
            Pending::Counted => {
                self.ready = match reply {
                    Reply::StreamInfo(info) => info.ready,
                    _ => 0,
                };
                Ok(())
            }
            Pending::Fetched { no_ack, queue } => {
                self.fetched(at, (no_ack, &queue), reply, message, shared, out)
            }
        }
    }
}

/// Reads from the source, and from a topic exchange with this key.
fn may_bind_to(source: &str, key: &str, shared: &mut Shared) -> Result<(), Exception> {
    shared.check(Right::Consume, "exchange", source)?;
    let topology = Arc::clone(shared.topology()?);
    let graph = topology.graph();
    let kind = graph.exchange(source).map(|known| known.config.kind);
    if kind == Some(Kind::Topic) {
        shared.check_topic(Right::Consume, source, key)?;
    }
    drop(graph);
    if topology.shares(source) {
        shared.check_subject(Right::Consume, source, key)?;
    }
    Ok(())
}

/// What messages go on to by way of an argument is written to, and what has the argument is read from.
fn may_lead_to(
    what: (&str, &str),
    argument: &str,
    arguments: &Table<'_>,
    shared: &mut Shared,
) -> Result<(), Exception> {
    if let Some(target) = arguments.get(argument).and_then(|value| value.as_str()) {
        shared.check(Right::Consume, what.0, what.1)?;
        shared.check(Right::Publish, "exchange", target)?;
    }
    Ok(())
}

fn bind_exchange(
    (destination, source, key): (&str, &str, &str),
    arguments: &Table<'_>,
    shared: &mut Shared,
) -> Result<Bind, Exception> {
    shared.check(Right::Publish, "exchange", destination)?;
    may_bind_to(source, key, shared)?;
    Ok(Bind {
        source: source.to_owned(),
        destination: Destination::Exchange(destination.into()),
        key: key.to_owned(),
        arguments: arguments.as_bytes().into(),
    })
}

pub(super) fn internal(text: &str) -> Exception {
    tracing::error!(text, "a defect");
    Exception::new(ReplyCode::InternalError, text)
}
