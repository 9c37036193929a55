//! One connection after its handshake.

use super::frames::{self, Publishes, STAMP_BYTES};
use super::parse::{self, Header, kind};
use super::{COMMANDS, CONNECT, PUBLISH, Version, unexpected};
use crate::error::BenchError;
use crate::load::{Assurance, Flow, Role, Seat};
use crate::protocol::{Next, Replies, Session};

/// What the last packets sent expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burst {
    Nothing,
    Connect,
    /// So many publishes.
    Publish(u32),
}

/// A message whose body is still arriving.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    qos: u8,
    id: [u8; 2],
    sent_ns: Option<u64>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct MqttSession {
    version: Version,
    role: Role,
    pub(super) qos: u8,
    pub(super) topic: String,
    /// Where the answers to requests go.
    pub(super) reply_topic: String,
    depth: u32,
    body_bytes: usize,
    audience: u32,
    budget: Option<u64>,
    publishes: Publishes,
    /// What answers a request.
    reply: Publishes,
    pub(super) connect: Vec<u8>,
    burst: Burst,
    incoming: Option<Incoming>,
    /// Bytes of a packet that are still to come and of no interest.
    skip: usize,
}

impl MqttSession {
    pub(super) fn new(version: Version, seat: &Seat) -> Self {
        let qos = match seat.promise.assurance {
            Assurance::AtMost => 0,
            Assurance::AtLeast => 1,
            Assurance::Exactly => 2,
        };
        let side = if seat.role.is_publisher() { 'p' } else { 's' };
        let client = format!("{}-{side}{}", seat.queue_prefix, seat.connection);
        let topic = format!("{}/{}", seat.queue_prefix, seat.queue);
        let outlives = matches!(seat.role, Role::Subscribe(_) | Role::Resume | Role::Idle);
        let persistent = seat.promise.persistent && outlives;
        let mut session = MqttSession {
            version,
            role: seat.role,
            qos,
            reply_topic: format!("{topic}/reply"),
            topic,
            depth: seat.depth,
            body_bytes: seat.body_bytes,
            audience: seat.audience,
            budget: seat.budget,
            publishes: Publishes::default(),
            reply: Publishes::default(),
            connect: frames::connect(version, &client, persistent),
            burst: Burst::Nothing,
            incoming: None,
            skip: 0,
        };
        if seat.role.is_publisher() {
            session.encode(seat.depth);
        }
        if seat.role == Role::Respond {
            let (topic, bytes) = (&session.reply_topic, seat.body_bytes);
            session.reply = Publishes::new(version, topic, qos, bytes, 1, false);
        }
        session
    }

    /// Whether bursts end with a PINGREQ.
    fn is_fenced(&self) -> bool {
        self.qos == 0 && self.role == Role::Put
    }

    /// Whether it both publishes and receives.
    fn is_of_a_pair(&self) -> bool {
        matches!(self.role, Role::Request | Role::Respond)
    }

    fn encode(&mut self, count: u32) {
        self.publishes = Publishes::new(
            self.version,
            &self.topic,
            self.qos,
            self.body_bytes,
            count,
            self.is_fenced(),
        );
    }

    fn publish(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next {
        let count = self.budget.map_or(self.depth, |left| {
            u32::try_from(left).unwrap_or(u32::MAX).min(self.depth)
        });
        if stopping || count == 0 {
            return Next::Done;
        }
        if self.role == Role::Produce && !flow.admit(count.saturating_mul(self.audience)) {
            return Next::Park;
        }
        self.budget = self.budget.map(|left| left - u64::from(count));
        if self.publishes.count() != count {
            // The last burst of a budget.
            self.encode(count);
        }
        self.publishes.stamp(now_ns);
        self.burst = Burst::Publish(count);
        if self.qos == 0 && !self.is_fenced() && self.role != Role::Request {
            return Next::Send;
        }
        Next::Burst {
            command: PUBLISH,
            count,
        }
    }

    /// The start of a PUBLISH: everything before the body, and the time in it. The bytes used; None while they are not
    /// all there.
    fn on_publish(&mut self, header: Header, rest: &[u8]) -> Result<Option<usize>, BenchError> {
        if !matches!(
            self.role,
            Role::Subscribe(_) | Role::Resume | Role::Request | Role::Respond
        ) {
            return Err(unexpected("subscribe", "a message for nobody".to_owned()));
        }
        let qos = (header.first >> 1) & 3;
        let Some(body_at) = parse::body_at(self.version, qos, rest) else {
            return if rest.len() < header.length {
                Ok(None)
            } else {
                Err(unexpected("subscribe", "a malformed PUBLISH".to_owned()))
            };
        };
        let Some(body_bytes) = header.length.checked_sub(body_at.offset) else {
            return Err(unexpected("subscribe", "a malformed PUBLISH".to_owned()));
        };
        // Messages of a backlog were sent by the clock of another load.
        let is_stamped = body_bytes >= STAMP_BYTES && matches!(self.role, Role::Subscribe(_));
        let sent_ns = if is_stamped {
            let Some(stamp) = rest
                .get(body_at.offset..)
                .and_then(<[u8]>::first_chunk::<STAMP_BYTES>)
            else {
                return Ok(None);
            };
            Some(u64::from_be_bytes(*stamp))
        } else {
            None
        };
        self.incoming = Some(Incoming {
            qos,
            id: body_at.id,
            sent_ns,
        });
        self.skip = body_bytes;
        Ok(Some(body_at.offset))
    }

    /// A whole packet other than a PUBLISH.
    fn on_packet(
        &mut self,
        header: Header,
        body: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<(), BenchError> {
        let packet = header.first >> 4;
        let what = || unexpected(self.command(), parse::describe(header, body));
        let (id, code) = parse::acknowledgement(body);
        let refusal = code.and_then(parse::refusal);
        let publishing = matches!(self.burst, Burst::Publish(_));
        match (packet, refusal) {
            (kind::PUBACK, Some(name)) if publishing && self.qos == 1 => {
                self.on_refused(name, replies, flow);
            }
            (kind::PUBREC, Some(name)) if publishing && self.qos == 2 => {
                self.on_refused(name, replies, flow);
            }
            // Its reply answers a request, and nothing answers a reply.
            (kind::PUBACK | kind::PUBCOMP, None) if self.is_of_a_pair() => {}
            (kind::PUBACK, None) if publishing && self.qos == 1 => replies.done += 1,
            (kind::PUBREC, None) if (publishing || self.is_of_a_pair()) && self.qos == 2 => {
                let [high, low] = id.ok_or_else(what)?;
                replies
                    .reactions
                    .extend_from_slice(&[kind::PUBREL << 4 | 2, 2, high, low]);
            }
            (kind::PUBCOMP, None) if publishing && self.qos == 2 => replies.done += 1,
            (kind::PUBREL, None) if !self.role.is_publisher() || self.is_of_a_pair() => {
                let [high, low] = id.ok_or_else(what)?;
                replies
                    .reactions
                    .extend_from_slice(&[kind::PUBCOMP << 4, 2, high, low]);
            }
            (kind::PINGRESP, _) if self.is_fenced() => {
                if let Burst::Publish(count) = self.burst {
                    replies.done += count;
                }
            }
            (kind::CONNACK, _) if self.burst == Burst::Connect => {
                let connack = parse::connack(self.version, header, body)
                    .map_err(|reply| unexpected(COMMANDS[CONNECT], reply))?;
                if !connack.session_present {
                    let reply = "the session is gone".to_owned();
                    return Err(unexpected(COMMANDS[CONNECT], reply));
                }
                replies.done += 1;
            }
            _ => return Err(what()),
        }
        Ok(())
    }

    fn on_refused(&self, name: &'static str, replies: &mut Replies, flow: &Flow) {
        replies.refuse(name);
        if self.role == Role::Produce {
            flow.leave(self.audience);
        }
    }

    /// A message is complete.
    fn on_message(&mut self, message: Incoming, replies: &mut Replies, flow: &Flow) {
        match self.role {
            Role::Request => replies.done += 1,
            Role::Respond => replies.reactions.extend_from_slice(self.reply.next()),
            _ => {
                replies.received += 1;
                replies.sent_ns.extend(message.sent_ns);
                flow.leave(1);
            }
        }
        let [high, low] = message.id;
        let answer = match message.qos {
            0 => return,
            1 => kind::PUBACK,
            _ => kind::PUBREC,
        };
        replies
            .reactions
            .extend_from_slice(&[answer << 4, 2, high, low]);
    }

    fn command(&self) -> &'static str {
        match self.burst {
            Burst::Nothing => "subscribe",
            Burst::Connect => COMMANDS[CONNECT],
            Burst::Publish(_) => COMMANDS[PUBLISH],
        }
    }
}

impl Session for MqttSession {
    fn next(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next {
        match self.role {
            Role::Put | Role::Produce | Role::Request => self.publish(now_ns, stopping, flow),
            Role::Resume if self.burst == Burst::Nothing => {
                self.burst = Burst::Connect;
                Next::Burst {
                    command: CONNECT,
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
            Burst::Connect => &self.connect,
            Burst::Publish(_) => self.publishes.bytes(),
        }
    }

    fn consume(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<usize, BenchError> {
        let mut used = 0;
        loop {
            if self.incoming.is_some() || self.skip > 0 {
                let now = self.skip.min(input.len() - used);
                self.skip -= now;
                used += now;
                if self.skip > 0 {
                    return Ok(used);
                }
                if let Some(message) = self.incoming.take() {
                    self.on_message(message, replies, flow);
                }
            }
            let rest = input.get(used..).unwrap_or_default();
            let header = match parse::header(rest) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(used),
                Err(reply) => return Err(unexpected(self.command(), reply)),
            };
            let rest = rest.get(header.bytes..).unwrap_or_default();
            if header.first >> 4 == kind::PUBLISH {
                match self.on_publish(header, rest)? {
                    Some(bytes) => used += header.bytes + bytes,
                    None => return Ok(used),
                }
            } else {
                let Some(body) = rest.get(..header.length) else {
                    return Ok(used);
                };
                self.on_packet(header, body, replies, flow)?;
                used += header.bytes + header.length;
            }
        }
    }
}
