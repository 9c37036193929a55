//! `basic.publish`: a method, a header, bodies; then one command for each record that is to be written.

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Action as Right;
use longtail_broker::message::SharedMessage;
use longtail_edge::Out;
use longtail_engine::{Cause, Command, NewMessage, Refusal, Reply, Target};
use longtail_model::ShardId;

use super::channel::{Channel, Pending, internal};
use super::routing::{Plan, Publication, Sole, check};
use super::writing::{Body, write_content};
use super::{Action, Shared, content, unexpected_frame};
use crate::codec::{ContentHeader, Method, ReplyCode};
use crate::config::Config;
use crate::exception::{Exception, no_exchange, not_implemented, precondition, refused};
use crate::graph::{Kind, Noted};
use crate::queue::Queue;
use crate::replies::{Place, is_address};
use crate::store::Store;
use crate::subjects::{Share, Told};
use crate::tenant::Tenant;

/// Largest body that a client may announce and go on, as in RabbitMQ: what comes of a message that is refused is skipped.
const BODY_ANNOUNCED_MAX: u64 = 512 * 1024 * 1024;

/// Room that is made for a body when its header comes.
const BODY_CAPACITY_FIRST: usize = 16 * 1024;

/// A publish whose content is still coming.
#[derive(Debug)]
pub(super) struct Publishing {
    exchange: Arc<str>,
    key: Arc<str>,
    mandatory: bool,
    immediate: bool,
    header: Option<Head>,
    /// What the record's headers are, and behind them what there is of the body.
    content: Vec<u8>,
}

/// The last `basic.publish`: the next one mostly says the same.
#[derive(Debug)]
pub(super) struct PublishedLast {
    /// Of the topology that it was looked up in.
    generation: u64,
    payload: Vec<u8>,
    exchange: Arc<str>,
    key: Arc<str>,
    mandatory: bool,
}

/// A message that is a dead letter if one of these queues refuses it.
#[derive(Debug)]
pub(crate) struct Laying {
    pub(crate) queues: Vec<Arc<Queue>>,
    /// As the record has them.
    pub(crate) headers: Bytes,
    pub(crate) body: Bytes,
}

impl Laying {
    /// Lays it for those of the queues that have refused it.
    pub(super) fn lay(self: Box<Self>, reply: &Reply, shared: &mut Shared) {
        let lay = self.refused_by(reply).map(Action::Lay);
        shared.actions.extend(lay);
    }

    /// What is to be laid for those of the queues that have refused it; `None`: none has.
    pub(super) fn refused_by(mut self: Box<Self>, reply: &Reply) -> Option<Box<Self>> {
        let refused = |queue: &Arc<Queue>| match reply {
            Reply::Published { refused, .. } => {
                let mut refused = refused.iter().flat_map(|refused| refused.iter());
                refused.any(|&(stream, cause)| stream == queue.stream && cause == Cause::Full)
            }
            Reply::Refused(why) => matches!(why, Refusal::Limit(_)),
            _ => false,
        };
        self.queues.retain(refused);
        (!self.queues.is_empty()).then_some(self)
    }
}

/// What a content header has said.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Octets of the body in all.
    size: u64,
    /// Where in the content the properties begin, and the body.
    properties: usize,
    body: usize,
}

impl Channel {
    pub(super) fn publish(
        &mut self,
        method: &Method<'_>,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let Method::BasicPublish {
            exchange,
            routing_key,
            mandatory,
            immediate,
            ..
        } = *method
        else {
            return Err(internal("not basic.publish"));
        };
        if immediate && shared.strict {
            return Err(not_implemented("immediate=true"));
        }
        if immediate && self.staged.is_some() {
            return Err(not_implemented("immediate=true in a transaction"));
        }
        let generation = shared.topology()?.generation();
        let (exchange, key) = match self.remembered(exchange, routing_key, generation) {
            Some(known) => known,
            None => {
                self.remembered = None;
                Self::may_publish(exchange, routing_key, shared)?;
                (exchange.into(), routing_key.into())
            }
        };
        self.publishing = Some(Publishing {
            exchange,
            key,
            mandatory,
            immediate,
            header: None,
            content: Vec::new(),
        });
        Ok(())
    }

    /// Begins a publish if it says, octet for octet, what the last one said; `false`: it does not.
    pub(super) fn publish_again(&mut self, payload: &[u8], shared: &Shared) -> bool {
        let Some(last) = &self.published_last else {
            return false;
        };
        let generation = shared.topology().map_or(0, |known| known.generation());
        if last.payload != payload || last.generation != generation || self.publishing.is_some() {
            return false;
        }
        self.publishing = Some(Publishing {
            exchange: Arc::clone(&last.exchange),
            key: Arc::clone(&last.key),
            mandatory: last.mandatory,
            immediate: false,
            header: None,
            content: Vec::new(),
        });
        true
    }

    /// Remembers the publish that has begun, with the payload of its method.
    pub(super) fn note_publish(&mut self, payload: &[u8], shared: &Shared) {
        let Ok(topology) = shared.topology() else {
            return;
        };
        let publishing = self.publishing.as_ref();
        let Some(publishing) = publishing.filter(|publishing| !publishing.immediate) else {
            return;
        };
        let mut kept = match self.published_last.take() {
            Some(last) => last.payload,
            None => Vec::with_capacity(payload.len()),
        };
        kept.clear();
        kept.extend_from_slice(payload);
        self.published_last = Some(PublishedLast {
            generation: topology.generation(),
            payload: kept,
            exchange: Arc::clone(&publishing.exchange),
            key: Arc::clone(&publishing.key),
            mandatory: publishing.mandatory,
        });
    }

    fn may_publish(exchange: &str, key: &str, shared: &mut Shared) -> Result<(), Exception> {
        if exchange.is_empty() {
            // Who has an address was given it to answer.
            if is_address(key) {
                return Ok(());
            }
            // The default exchange's keys are names of queues.
            return shared.check_default(key);
        }
        shared.check(Right::Publish, "exchange", exchange)?;
        let topology = Arc::clone(shared.topology()?);
        if topology.shares(exchange) {
            shared.check_subject(Right::Publish, exchange, key)?;
        }
        let graph = topology.graph();
        let vhost = &shared.asker.vhost;
        let found = graph
            .exchange(exchange)
            .ok_or_else(|| no_exchange(exchange, vhost))?;
        if found.config.internal {
            return Err(refused(format!(
                "cannot publish to internal exchange '{exchange}' in vhost '{vhost}'"
            )));
        }
        if found.config.kind == Kind::Topic {
            shared.check_topic(Right::Publish, exchange, key)?;
        }
        Ok(())
    }

    pub(super) fn header(
        &mut self,
        payload: &[u8],
        shared: &mut Shared,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Some(publishing) = self.publishing.as_mut().filter(|p| p.header.is_none()) else {
            return Err(unexpected_frame(
                "expected method frame, got content header instead",
            ));
        };
        let header = ContentHeader::decode(payload)
            .map_err(|fault| Exception::from(fault).of_connection())?;
        if header.class != Method::BASIC {
            return Err(unexpected_frame(&format!(
                "expected content header for class {}, got one for class {} instead",
                Method::BASIC,
                header.class
            )));
        }
        let max = tenant.config().message_bytes_max;
        if header.body_size > max.max(BODY_ANNOUNCED_MAX) {
            return Err(Exception::new(
                ReplyCode::FrameError,
                format!(
                    "a body of {} bytes is announced, more than any message has",
                    header.body_size
                ),
            ));
        }
        if header.body_size > max {
            self.publishing = None;
            return Err(precondition(format!(
                "message size {} is larger than configured max size {max}",
                header.body_size
            )));
        }
        let Publishing { exchange, key, .. } = &*publishing;
        let first = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        let first = first.min(BODY_CAPACITY_FIRST);
        let room = content::len(exchange, key, header.properties) + first;
        let mut content = Vec::with_capacity(room);
        content::put(exchange, key, header.properties, &mut content);
        publishing.header = Some(Head {
            size: header.body_size,
            properties: content.len() - header.properties.len(),
            body: content.len(),
        });
        publishing.content = content;
        if header.body_size == 0 {
            return self.complete(shared, tenant, out);
        }
        Ok(())
    }

    pub(super) fn body(
        &mut self,
        payload: &[u8],
        shared: &mut Shared,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let publishing = self.publishing.as_mut();
        let Some((publishing, head)) = publishing.and_then(|publishing| {
            let head = publishing.header?;
            Some((publishing, head))
        }) else {
            return Err(unexpected_frame(
                "expected method or content header frame, got content body instead",
            ));
        };
        let Head { size, body, .. } = head;
        let before = publishing.content.len().saturating_sub(body);
        let there = before as u64 + payload.len() as u64;
        if there > size {
            return Err(Exception::new(
                ReplyCode::FrameError,
                format!("content body of {there} bytes or more, but {size} were announced"),
            ));
        }
        let left = size - before as u64;
        content::make_room(&mut publishing.content, payload.len(), left);
        publishing.content.extend_from_slice(payload);
        if there < size {
            return Ok(());
        }
        self.complete(shared, tenant, out)
    }

    /// Everything of a message is there.
    fn complete(
        &mut self,
        shared: &mut Shared,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let Some(Publishing {
            exchange,
            key,
            mandatory,
            immediate,
            header: Some(head),
            content,
        }) = self.publishing.take()
        else {
            return Err(internal("a message without a header"));
        };
        let (encoded, body) = content::divided(content, head.body);
        let mut publication = Publication {
            exchange,
            key,
            mandatory,
            immediate,
            encoded,
            properties: head.properties,
            body,
        };
        let user = Some(shared.credentials.user.as_str());
        let properties = publication.properties()?;
        check(
            &properties,
            user.filter(|_| !shared.introduction.impersonates),
        )?;
        let rewritten = self.with_address(&properties)?;
        if rewritten.is_none() && self.staged.is_none() {
            if !publication.immediate
                && let Some(sole) = self.sole(&publication, &properties, shared)?
            {
                return self.send_to(sole, publication, shared);
            }
            let plan = self.plan(&publication, &properties, shared)?;
            return self.carry_out(&publication, plan, shared, out);
        }
        if let Some(rewritten) = rewritten {
            publication.rewrite(&rewritten);
        }
        if self.staged.is_some() {
            return self.stage_publication(publication, shared, tenant.config());
        }
        let plan = self.plan(&publication, &publication.properties()?, shared)?;
        self.carry_out(&publication, plan, shared, out)
    }

    /// Sends a message to the only queue that it goes to.
    fn send_to(
        &mut self,
        sole: Sole,
        publication: Publication,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        self.tap_publication(&publication, shared);
        self.counts.publish += 1;
        self.publishes.count(&publication.exchange, 1, shared);
        let number = self
            .confirms
            .as_mut()
            .map_or(0, |confirms| confirms.begin(1));
        let bytes = publication.body.len() as u64;
        let command = Command::Publish {
            to: Target::Stream(sole.stream),
            also: Vec::new(),
            message: NewMessage {
                priority: sole.priority,
                expires_ms: sole.expires_ms,
                headers: publication.encoded,
                payload: publication.body,
                ..NewMessage::default()
            },
        };
        self.store(sole.shard, command, (number, bytes), (None, None), shared)
    }

    /// Queues a publish for its shard. Nobody waits for one without a number, of which nothing was noted and which is no
    /// dead letter when it is refused.
    pub(super) fn store(
        &mut self,
        shard: ShardId,
        command: Command,
        (number, bytes): (u64, u64),
        (noted, laying): (Option<Arc<[Noted]>>, Option<Box<Laying>>),
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let way = self.ways.get_mut(usize::from(shard.0));
        let way = way.ok_or_else(|| internal("no way to a shard"))?;
        if number == 0 && noted.is_none() && laying.is_none() {
            way.publish(command, bytes);
        } else {
            let pending = Pending::Published {
                number,
                bytes,
                noted,
                laying,
            };
            way.ask(command, pending);
        }
        self.is_outstanding(bytes, shared);
        Ok(())
    }

    /// Sends a message on its way. No plan: its exchange is gone.
    fn carry_out(
        &mut self,
        publication: &Publication,
        plan: Option<Plan>,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let plan = plan.ok_or_else(|| no_exchange(&publication.exchange, &shared.asker.vhost))?;
        self.count(publication, &plan, shared);
        self.give_back_unwanted(publication, &plan, shared, out);
        // A subscriber of another protocol has it at once, and in a delayed exchange nobody could.
        let offers = publication.immediate && plan.shares.is_empty() && !plan.waits;
        let number = self.confirms.as_mut().map_or(0, |confirms| {
            confirms.begin(plan.stores.len() + plan.archives.len() + plan.shares.len())
        });
        if let Some((to, reply)) = plan.reply {
            shared.actions.push(Action::Reply(to, reply));
        }
        let bytes = publication.body.len() as u64;
        let noted: Option<Arc<[Noted]>> = (!plan.noted.is_empty()).then(|| plan.noted.into());
        for message in plan.shares {
            let told = Told::Published { number, bytes };
            self.show(message, told, shared);
            self.is_outstanding(bytes, shared);
        }
        for store in plan.archives {
            let (shard, archive) = (store.shard, store.into_command());
            self.store(shard, archive, (number, bytes), (None, None), shared)?;
        }
        if offers && !plan.stores.is_empty() {
            let message = (publication, plan.stripped);
            return self.offer(message, (number, noted), plan.stores, shared);
        }
        for store in plan.stores {
            let told = (noted.clone(), store.laying().map(Box::new));
            let shard = store.shard;
            self.store(shard, store.into_command(), (number, bytes), told, shared)?;
        }
        Ok(())
    }

    /// One more publish is on its way.
    pub(super) fn is_outstanding(&mut self, bytes: u64, shared: &mut Shared) {
        self.outstanding += 1;
        self.outstanding_bytes += bytes;
        shared.outstanding += 1;
        shared.outstanding_bytes += bytes;
    }

    /// Shows a message to whoever is not AMQP.
    pub(super) fn show(&self, message: SharedMessage, told: Told, shared: &mut Shared) {
        shared.actions.push(Action::Share(Share {
            message,
            mailbox: Arc::clone(&shared.mailbox),
            at: Place {
                channel: self.number(),
                incarnation: self.incarnation(),
            },
            told,
        }));
    }

    /// Counts a message that goes where its plan says.
    pub(super) fn count(&mut self, publication: &Publication, plan: &Plan, shared: &mut Shared) {
        self.tap_publication(publication, shared);
        self.counts.publish += 1;
        let copies = plan.stores.iter().map(Store::copies).sum();
        self.publishes.count(&publication.exchange, copies, shared);
        let returned = publication.mandatory || publication.immediate;
        match (plan.is_wanted(), returned) {
            (true, _) => {}
            (false, true) => self.counts.return_unroutable += 1,
            (false, false) => self.counts.drop_unroutable += 1,
        }
    }

    /// Returns a message that no queue wants, if its publisher wants to know.
    pub(super) fn give_back_unwanted(
        &self,
        publication: &Publication,
        plan: &Plan,
        shared: &Shared,
        out: &mut Out,
    ) {
        let code = match (publication.immediate, publication.mandatory) {
            (true, _) => ReplyCode::NoConsumers,
            (false, true) => ReplyCode::NoRoute,
            (false, false) => return,
        };
        if !plan.is_wanted() {
            self.give_back(code, publication, plan.stripped.as_deref(), shared, out);
        }
    }

    /// `basic.return`. `stripped`: its properties without what only the server is to see, where they had some of that.
    pub(super) fn give_back(
        &self,
        code: ReplyCode,
        publication: &Publication,
        stripped: Option<&[u8]>,
        shared: &Shared,
        out: &mut Out,
    ) {
        let properties = stripped.unwrap_or(publication.octets());
        let returned = Method::BasicReturn {
            reply_code: code.as_u16(),
            reply_text: code.name(),
            exchange: &publication.exchange,
            routing_key: &publication.key,
        };
        let body = Body::from(&publication.body);
        let number = self.number();
        write_content(&returned, number, properties, body, shared.frame_max, out);
    }

    /// A message is stored somewhere, or refused.
    pub(super) fn published(
        &mut self,
        (number, bytes): (u64, u64),
        refused: bool,
        shared: &mut Shared,
        config: &Config,
    ) {
        self.done_with(1, bytes, shared, config);
        if let Some(confirms) = &mut self.confirms {
            confirms.answered(number, refused);
        }
    }

    /// So many publishes are not on their way any more.
    pub(super) fn done_with(
        &mut self,
        publishes: usize,
        bytes: u64,
        shared: &mut Shared,
        config: &Config,
    ) {
        self.outstanding = self.outstanding.saturating_sub(publishes);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
        shared.stored(publishes, bytes, config);
    }
}
