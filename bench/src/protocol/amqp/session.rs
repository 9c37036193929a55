//! One connection after its handshake.

use super::confirms::Confirms;
use super::frames::{self, Life, Publishes, Route, STAMP_BYTES};
use super::parse::{self, FRAME_HEADER, Frame, Id, id, kind};
use super::{COMMANDS, CONSUME, PUBLISH, QueueType, unexpected};
use crate::error::BenchError;
use crate::load::{Assurance, Flow, Interest, Role, Seat};
use crate::protocol::{Next, Replies, Session};

/// What the last frames sent expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burst {
    Nothing,
    Consume,
    /// So many publishes.
    Publish(u32),
}

/// A message that is arriving.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    tag: u64,
    /// Bytes of the body whose frames have not begun.
    left: u64,
    /// Its first bytes have not been seen.
    is_fresh: bool,
    sent_ns: Option<u64>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct AmqpSession {
    seat: Seat,
    queues: QueueType,
    confirmed: bool,
    route: Route,
    publishes: Publishes,
    /// What answers a request.
    reply: Publishes,
    budget: Option<u64>,
    burst: Burst,
    /// What makes a consumer.
    consume: Vec<u8>,
    confirms: Confirms,
    content: Option<Content>,
    /// Bytes of a body frame that are still to come and of no interest, with its last octet.
    skip: usize,
    /// Last delivery that is not acknowledged; 0: none.
    unacknowledged: u64,
}

impl AmqpSession {
    pub(super) fn new(seat: &Seat, frame_bytes: u32, queues: QueueType) -> Self {
        let confirmed = seat.promise.assurance != Assurance::AtMost;
        let (exchange, keys) = routing(seat, queues);
        let mut session = AmqpSession {
            queues,
            confirmed,
            route: Route {
                exchange,
                keys,
                persistent: seat.promise.persistent,
                body_bytes: seat.body_bytes,
                frame_bytes,
                fenced: !confirmed && seat.role == Role::Put,
            },
            publishes: Publishes::default(),
            reply: Publishes::default(),
            budget: seat.budget,
            burst: Burst::Nothing,
            consume: Vec::new(),
            confirms: Confirms::default(),
            content: None,
            skip: 0,
            unacknowledged: 0,
            seat: seat.clone(),
        };
        if seat.role.is_publisher() {
            session.publishes = Publishes::new(&session.route, seat.depth);
        }
        if seat.role == Role::Respond {
            let route = Route {
                keys: vec![session.reply_queue()],
                ..session.route.clone()
            };
            session.reply = Publishes::new(&route, 1);
        }
        let consume = frames::consume(&session.queue(), confirmed);
        session.consume = if confirmed {
            [frames::qos(), consume].concat()
        } else {
            consume
        };
        session
    }

    /// Requests before the load, and their answers.
    pub(super) fn preparation(&self) -> Vec<(Vec<u8>, Id)> {
        let mut all = Vec::new();
        let kept = Life {
            durable: self.seat.promise.persistent,
            auto_delete: false,
        };
        let queue = self.queue();
        match self.seat.role {
            Role::Put => all.push(self.declare(&queue, kept)),
            Role::Produce => all.extend(self.declare_exchange()),
            Role::Subscribe(_) | Role::Idle => {
                let life = Life {
                    auto_delete: !self.seat.promise.persistent,
                    ..kept
                };
                all.extend(self.declare_exchange());
                all.push(self.declare(&queue, life));
                all.extend(self.binds(&queue));
                if self.confirmed {
                    all.push((frames::qos(), id::QOS_OK));
                }
                all.push((frames::consume(&queue, self.confirmed), id::CONSUME_OK));
            }
            Role::Request | Role::Respond => {
                let life = Life {
                    durable: false,
                    auto_delete: true,
                };
                let hears = if self.seat.role == Role::Request {
                    self.reply_queue()
                } else {
                    queue
                };
                all.push(self.declare(&hears, life));
                if self.confirmed {
                    all.push((frames::qos(), id::QOS_OK));
                }
                all.push((frames::consume(&hears, self.confirmed), id::CONSUME_OK));
            }
            Role::Forget => all.push((frames::queue_delete(&queue), id::QUEUE_DELETE_OK)),
            Role::Resume | Role::Cycle | Role::Work | Role::Drain => {}
        }
        if self.confirmed && self.seat.role.is_publisher() {
            all.push((frames::confirm_select(), id::CONFIRM_SELECT_OK));
        }
        all
    }

    fn declare(&self, queue: &str, life: Life) -> (Vec<u8>, Id) {
        let request = frames::queue_declare(queue, life, self.queues);
        (request, id::QUEUE_DECLARE_OK)
    }

    fn declare_exchange(&self) -> Option<(Vec<u8>, Id)> {
        let kind = if self.seat.bindings > 0 {
            "topic"
        } else {
            "fanout"
        };
        let exchange = &self.route.exchange;
        (!exchange.is_empty()).then(|| {
            let request = frames::exchange_declare(exchange, kind);
            (request, id::EXCHANGE_DECLARE_OK)
        })
    }

    fn binds(&self, queue: &str) -> Vec<(Vec<u8>, Id)> {
        let exchange = &self.route.exchange;
        if exchange.is_empty() {
            return Vec::new();
        }
        let bind = |key: &String| {
            // The last word of a key is any.
            let key = key
                .rsplit_once('.')
                .map_or(String::new(), |(words, _)| format!("{words}.*"));
            let request = frames::queue_bind(queue, exchange, &key);
            (request, id::QUEUE_BIND_OK)
        };
        self.route.keys.iter().map(bind).collect()
    }

    /// The queue of this connection: of a fan-out, each subscriber has its own.
    fn queue(&self) -> String {
        let seat = &self.seat;
        let shared = self.queues == QueueType::Stream;
        if seat.audience > 1 && seat.role == Role::Subscribe(Interest::Queue) && !shared {
            format!("{}.s{}", seat.queue_prefix, seat.connection)
        } else {
            format!("{}.{}", seat.queue_prefix, seat.queue)
        }
    }

    /// Where the answers to requests go.
    fn reply_queue(&self) -> String {
        format!("{}.reply", self.queue())
    }

    fn publish(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next {
        let depth = self.seat.depth;
        let count = self.budget.map_or(depth, |left| {
            u32::try_from(left).unwrap_or(u32::MAX).min(depth)
        });
        if stopping || count == 0 {
            return Next::Done;
        }
        let messages = count.saturating_mul(self.seat.audience);
        if self.seat.role == Role::Produce && !flow.admit(messages) {
            return Next::Park;
        }
        self.budget = self.budget.map(|left| left - u64::from(count));
        if self.publishes.count() != count {
            // The last burst of a budget.
            self.publishes = Publishes::new(&self.route, count);
        }
        self.publishes.stamp(now_ns);
        self.burst = Burst::Publish(count);
        if self.confirmed || self.route.fenced || self.seat.role == Role::Request {
            Next::Burst {
                command: PUBLISH,
                count,
            }
        } else {
            Next::Send
        }
    }

    /// A whole method frame.
    fn on_method(
        &mut self,
        payload: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<(), BenchError> {
        let publishing = match self.burst {
            Burst::Publish(count) => Some(count),
            Burst::Nothing | Burst::Consume => None,
        };
        let tag = parse::acknowledged(payload);
        match (parse::method(payload), publishing, tag) {
            (Some(id::DELIVER), _, _)
                if publishing.is_none() || self.seat.role == Role::Request =>
            {
                let tag = parse::delivery_tag(payload);
                self.content = Some(Content {
                    tag: tag.ok_or_else(|| self.wrong(payload))?,
                    ..Content::default()
                });
            }
            (Some(id::ACK), Some(_), Some((tag, multiple))) if self.confirmed => {
                let confirmed = self.confirms.confirm(tag, multiple);
                // A request is answered by its reply.
                if self.seat.role != Role::Request {
                    replies.done += confirmed;
                }
            }
            (Some(id::NACK), Some(_), Some((tag, multiple))) if self.confirmed => {
                for _ in 0..self.confirms.confirm(tag, multiple) {
                    replies.refuse("nack");
                    if self.seat.role == Role::Produce {
                        flow.leave(self.seat.audience);
                    }
                }
            }
            (Some(id::FLOW_OK), Some(count), _) if self.route.fenced => replies.done += count,
            (Some(id::QOS_OK), None, _) if self.burst == Burst::Consume => {}
            (Some(id::CONSUME_OK), None, _) if self.burst == Burst::Consume => replies.done += 1,
            _ => return Err(self.wrong(payload)),
        }
        Ok(())
    }

    /// A whole content header.
    fn on_header(
        &mut self,
        payload: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<(), BenchError> {
        let size = parse::body_size(payload).ok_or_else(|| self.wrong(payload))?;
        let Some(content) = &mut self.content else {
            return Err(self.wrong(payload));
        };
        content.left = size;
        content.is_fresh = true;
        if size == 0 {
            self.on_message(replies, flow);
        }
        Ok(())
    }

    /// The start of a body frame; false while the time that it begins with is not all there.
    fn on_body(&mut self, frame: Frame, payload: &[u8]) -> Result<bool, BenchError> {
        // Messages of a backlog were sent by the clock of another load.
        let is_stamped = matches!(self.seat.role, Role::Subscribe(_));
        let size = frame.size as u64;
        let Some(content) = self.content.as_mut().filter(|content| content.left >= size) else {
            return Err(unexpected(self.command(), "a body of nothing".to_owned()));
        };
        if content.is_fresh && is_stamped && frame.size >= STAMP_BYTES {
            let Some(stamp) = payload.first_chunk::<STAMP_BYTES>() else {
                return Ok(false);
            };
            content.sent_ns = Some(u64::from_be_bytes(*stamp));
        }
        content.is_fresh = false;
        content.left -= size;
        self.skip = frame.size + 1;
        Ok(true)
    }

    /// A message is complete.
    fn on_message(&mut self, replies: &mut Replies, flow: &Flow) {
        let Some(content) = self.content.take() else {
            return;
        };
        match self.seat.role {
            Role::Request => replies.done += 1,
            Role::Respond => replies.reactions.extend_from_slice(self.reply.bytes()),
            _ => {
                replies.received += 1;
                replies.sent_ns.extend(content.sent_ns);
                flow.leave(1);
            }
        }
        if self.confirmed {
            self.unacknowledged = content.tag;
        }
    }

    fn command(&self) -> &'static str {
        match self.burst {
            Burst::Nothing | Burst::Consume => COMMANDS[CONSUME],
            Burst::Publish(_) => COMMANDS[PUBLISH],
        }
    }

    fn wrong(&self, payload: &[u8]) -> BenchError {
        unexpected(self.command(), parse::describe(payload))
    }

    /// As many frames as are there; the bytes used.
    fn frames(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<usize, BenchError> {
        let mut used = 0;
        loop {
            if self.skip > 0 {
                let now = self.skip.min(input.len() - used);
                self.skip -= now;
                used += now;
                if self.skip > 0 {
                    return Ok(used);
                }
                if self.content.is_some_and(|content| content.left == 0) {
                    self.on_message(replies, flow);
                }
            }
            let rest = input.get(used..).unwrap_or_default();
            let frame = match parse::frame(rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(used),
                Err(reply) => return Err(unexpected(self.command(), reply)),
            };
            let rest = rest.get(FRAME_HEADER..).unwrap_or_default();
            if frame.kind == kind::BODY {
                if !self.on_body(frame, rest)? {
                    return Ok(used);
                }
                used += FRAME_HEADER;
                continue;
            }
            let Some(payload) = rest
                .get(..=frame.size)
                .and_then(|rest| rest.get(..frame.size))
            else {
                return Ok(used);
            };
            match frame.kind {
                kind::METHOD => self.on_method(payload, replies, flow)?,
                kind::HEADER => self.on_header(payload, replies, flow)?,
                _ => {}
            }
            used += FRAME_HEADER + frame.size + 1;
        }
    }
}

/// The exchange that a load publishes to and binds to, and the keys.
fn routing(seat: &Seat, queues: QueueType) -> (String, Vec<String>) {
    let prefix = &seat.queue_prefix;
    let queue = format!("{prefix}.{}", seat.queue);
    if seat.bindings > 0 {
        let key = |number: u32| format!("{queue}.{number:06}.x");
        (prefix.clone(), (0..seat.bindings).map(key).collect())
    } else if seat.audience > 1 && queues != QueueType::Stream {
        (prefix.clone(), vec![String::new()])
    } else {
        (String::new(), vec![queue])
    }
}

impl Session for AmqpSession {
    fn next(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next {
        match self.seat.role {
            Role::Put | Role::Produce | Role::Request => self.publish(now_ns, stopping, flow),
            Role::Resume if self.burst == Burst::Nothing => {
                self.burst = Burst::Consume;
                Next::Burst {
                    command: CONSUME,
                    count: 1,
                }
            }
            Role::Resume | Role::Subscribe(_) | Role::Respond => Next::Listen,
            // Nobody asks for messages one by one.
            Role::Idle | Role::Forget | Role::Cycle | Role::Work | Role::Drain => Next::Done,
        }
    }

    fn outgoing(&self) -> &[u8] {
        match self.burst {
            Burst::Nothing => &[],
            Burst::Consume => &self.consume,
            Burst::Publish(_) => self.publishes.bytes(),
        }
    }

    fn consume(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<usize, BenchError> {
        let used = self.frames(input, replies, flow)?;
        if self.unacknowledged > 0 {
            frames::ack(&mut replies.reactions, self.unacknowledged);
            self.unacknowledged = 0;
        }
        Ok(used)
    }
}
