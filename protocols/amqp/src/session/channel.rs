//! A channel: methods in, commands out, and what the shards say of them.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use longtail_edge::Out;
use longtail_engine::runtime::Shards;
use longtail_engine::{Effect, Message, QUIET, Reply};
use longtail_model::{GroupId, SessionId, ShardId};

use super::confirms::Confirms;
use super::consuming::{Consumer, is_stored};
use super::delivering::Kept;
use super::offering::Offer;
use super::pairs::{Draws, Publishes};
use super::pausing::Pausing;
use super::publishing::{PublishedLast, Publishing};
use super::recovering::Recovering;
use super::replying::ReplyConsumer;
use super::routing::Remembered;
use super::transacting::Staged;
use super::unacked::Unacked;
pub(super) use super::way::{Pending, Way};
use super::{Action, Counts, Ended, Origin, Shared, say, unexpected_frame};
use crate::codec::{Method, ReplyCode};
use crate::exception::{Exception, precondition};
use crate::queue::Queue;
use crate::replies::{is_address, is_pseudo_queue};
use crate::store::forget;
use crate::tenant::Tenant;

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
    pub(super) published_last: Option<PublishedLast>,
    pub(super) publishes: Publishes,
    /// What it was given by whom.
    pub(super) draws: Draws,
    /// What shards are offered, by number.
    pub(super) offers: HashMap<u64, Offer>,
    pub(super) last_offer: u64,
    /// What consumers are given again.
    pub(super) recovering: Option<Recovering>,
    pub(super) pausing: Pausing,
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
    pub(super) last_queue: Arc<str>,
    /// What an operator sees.
    pub(super) counts: Counts,
    /// Consumers that read streams.
    pub(super) readers: u32,
}

impl Channel {
    /// The method that content belongs to.
    pub(super) const PUBLISH: (u16, u16) = (60, 40);

    pub(super) fn new(number: u16, incarnation: u32, sessions: &[(ShardId, SessionId)]) -> Self {
        let way = |&(shard, session): &(ShardId, SessionId)| Way::new(shard, session);
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
            published_last: None,
            publishes: Publishes::default(),
            draws: Draws::default(),
            offers: HashMap::new(),
            last_offer: 0,
            recovering: None,
            pausing: Pausing::default(),
            staged: None,
            reply_consumer: None,
            outstanding: 0,
            outstanding_bytes: 0,
            ready: 0,
            last_queue: Arc::default(),
            counts: Counts::default(),
            readers: 0,
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
        if let Some(topology) = shared.topology.clone() {
            let left = self.ways.iter_mut().flat_map(|way| way.leave(&topology));
            shared.actions.extend(left);
        }
        let mut ended: Ended = self.ways.iter_mut().map(Way::end).collect();
        for (number, mut consumer) in std::mem::take(&mut self.consumers) {
            if let Some(mut reader) = consumer.reader.take() {
                ended.extend(self.stop_reading(number, &consumer.queue, &mut reader, shared));
            }
            if consumer.queue.leave() {
                shared.actions.push(Action::DeleteUnused(consumer.queue));
            }
        }
        self.forget_staged(shared);
        shared.outstanding = shared.outstanding.saturating_sub(self.outstanding);
        shared.outstanding_bytes = shared
            .outstanding_bytes
            .saturating_sub(self.outstanding_bytes);
        shared.given_up(self.incarnation);
        ended
    }

    /// Queues commands at the shards.
    pub(super) fn send(&mut self, shards: &dyn Shards) -> bool {
        let mut queued = false;
        for way in &mut self.ways {
            queued |= way.send(shards);
        }
        queued |= self.read_on(shards);
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
        let name = one_line(name);
        if !name.is_empty() {
            return Ok((&*name).into());
        }
        if self.last_queue.is_empty() {
            return Err(Exception::new(
                ReplyCode::NotFound,
                "no previously declared queue",
            ));
        }
        Ok(Arc::clone(&self.last_queue))
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
            } => self.qos((prefetch_size, prefetch_count, global), shared, out),
            Method::BasicRecover { requeue } => self.recover((requeue, true), shared, out),
            Method::BasicRecoverAsync { requeue } => self.recover((requeue, false), shared, out),
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
            Method::ChannelFlow { active } => self.flow(active, shared, out),
            // What the server has asked for is done.
            Method::BasicCancelOk { .. } | Method::ChannelFlowOk { .. } => Ok(()),
            Method::AccessRequest { .. } => {
                say(&Method::AccessRequestOk { ticket: 1 }, self.number, out);
                Ok(())
            }
            _ => self.topology_method(method, shared),
        }
    }

    pub(super) fn effect(
        &mut self,
        origin: Origin,
        effect: &Effect,
        messages: &[Option<Message<'_>>],
        shared: &mut Shared,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let message = messages.first().and_then(Option::as_ref);
        let at = match origin {
            Origin::Shard(at) => at,
            Origin::Reader(consumer) => {
                return match effect {
                    Effect::Reply(_, reply) => self.read(consumer, reply, messages, shared, out),
                    _ => Ok(()),
                };
            }
        };
        match effect {
            Effect::Push(delivery) => self.pushed(at, delivery, message, shared, out),
            Effect::Cancelled { consumer, .. } => {
                self.cancelled(consumer.0, shared, out);
                Ok(())
            }
            // Refused, but nobody waits for it.
            Effect::Reply(QUIET, _) => Ok(()),
            Effect::Reply(_, reply) => {
                let pending = self.ways.get_mut(at).and_then(Way::answered);
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
            Pending::Sent { publishes, bytes } => {
                self.done_with(publishes, bytes, shared, tenant.config());
                Ok(())
            }
            Pending::Offered { offer, store } => {
                let config = tenant.config();
                self.offered((offer, store), reply, (shared, config), out)
            }
            Pending::Recovered(delivered) => {
                self.recovered(at, delivered, (reply, message), shared, out)
            }
            Pending::Stopped => {
                self.stopped(shared, out);
                Ok(())
            }
            Pending::Committed(shard) => self.committed(shard, reply, shared, out),
            Pending::Opened { consumer } => self.opened(consumer, reply, shared),
            Pending::Subscribed { consumer, no_wait } => {
                self.subscribed(consumer, no_wait, reply, shared, out)
            }
            Pending::Unsubscribed {
                consumer,
                tag,
                no_wait,
            } => {
                shared.answered();
                self.unsubscribed(consumer, shared);
                if !no_wait {
                    let consumer_tag = &*tag;
                    say(&Method::BasicCancelOk { consumer_tag }, self.number, out);
                }
                Ok(())
            }
            Pending::Located | Pending::Read => Err(internal("nobody reads here")),
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

/// A name without ends of lines, which RabbitMQ leaves out too.
pub(super) fn one_line(name: &str) -> Cow<'_, str> {
    const ENDS: [char; 2] = ['\r', '\n'];
    if name.contains(ENDS) {
        name.replace(ENDS, "").into()
    } else {
        name.into()
    }
}

pub(super) fn internal(text: &str) -> Exception {
    tracing::error!(text, "a defect");
    Exception::new(ReplyCode::InternalError, text)
}
