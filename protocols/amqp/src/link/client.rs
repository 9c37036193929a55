//! The client's side of AMQP 0-9-1 with one channel, as a state machine without I/O and clock.
//!
//! The other side may be anybody: what it sends is bounded (frames, bodies, deliveries that nobody has asked for), and
//! what makes no sense ends the connection.

use std::collections::VecDeque;

use bytes::Bytes;
use longtail_model::Timestamp;

use crate::codec::{
    ContentHeader, Decoder, EncodeError, FRAME_OVERHEAD, Fault, Frame, FrameKind, HEARTBEAT,
    Method, PROTOCOL_HEADER, TableBuf, Value, put_content,
};
use crate::config::Config;

/// `basic.get-ok`, and what says that there is none.
const GOT: (u16, u16) = (60, 71);

/// The only channel.
const CHANNEL: u16 = 1;

/// Largest frame that this side asks for.
const FRAME_MAX: u32 = 131_072;

/// Octets of a body that are made room for before they have come.
const TRUSTED: u64 = 1 << 20;

/// Milliseconds that a peer may be late with its heartbeats.
const SLACK_MS: u64 = 500;

/// Who logs in, and what is agreed upon.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) user: String,
    pub(crate) password: String,
    /// The certificate says who this is.
    pub(crate) external: bool,
    pub(crate) vhost: String,
    /// Seconds; `None`: as proposed.
    pub(crate) heartbeat_s: Option<u16>,
    /// What the connection is called where people look at it.
    pub(crate) name: String,
    pub(crate) product: String,
    pub(crate) version: String,
    /// Octets of a message's body.
    pub(crate) message_bytes_max: u64,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("it cannot be written: {0}")]
    Encode(#[from] EncodeError),
    /// The other side has closed the channel, with its text; it can be opened again.
    #[error("{text}")]
    Channel { code: u16, text: String },
    /// The other side has closed the connection, with its text.
    #[error("{text}")]
    Closed { code: u16, text: String },
    #[error("{0}")]
    Login(String),
    #[error("the other side does what it should not: {0}")]
    Unexpected(&'static str),
    #[error("a message has {0} bytes, more than are taken")]
    TooLarge(u64),
    #[error(
        "the properties of a message have {0} bytes, more than fit into a frame of the other side"
    )]
    Properties(usize),
    #[error("the other side is silent")]
    Silent,
    #[error("no answer within {0} s")]
    Late(u64),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: String,
    pub(crate) key: String,
    /// Messages behind it, where it was fetched.
    pub(crate) behind: u32,
    /// Flags and values.
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
}

/// What a method was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Declared { queue: String, messages: u32 },
    Got(Option<Box<Delivery>>),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The channel is open.
    Open,
    /// To the method that is answered by this class and method.
    Answer((u16, u16), Answer),
    Delivery(Delivery),
    /// Publishes up to this one, or just this one, are stored or refused.
    Confirm {
        seq: u64,
        multiple: bool,
        stored: bool,
    },
    /// No queue wants the publish that is confirmed next.
    Returned,
    /// The other side has ended the consumer.
    Cancelled,
    ChannelClosed {
        code: u16,
        text: String,
    },
    /// The other side takes nothing at present, or again.
    Blocked(bool),
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack,
    /// Back into its queue.
    Requeue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Tune,
    Open,
    Channel,
    Running,
    /// The channel is closed, the connection is not.
    Shut,
    Over,
}

/// A method whose content is on its way.
struct Partial {
    what: Content,
    size: Option<u64>,
    properties: Bytes,
    body: Vec<u8>,
}

enum Content {
    Delivery(Delivery),
    Got(Delivery),
    Return,
}

/// What the other side says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) cluster_name: Option<String>,
}

/// See the module.
pub(crate) struct Client {
    settings: Settings,
    phase: Phase,
    frame_max: u32,
    heartbeat_ms: u64,
    heard: Timestamp,
    said: Timestamp,
    /// Answers that are owed, by class and method.
    owed: VecDeque<(u16, u16)>,
    partial: Option<Partial>,
    /// Deliveries that may be unsettled; `None`: any number.
    window: Option<u32>,
    unsettled: u32,
    last_tag: u64,
    published: u64,
    peer: Peer,
}

type Result<T> = std::result::Result<T, LinkError>;

impl Client {
    /// Greets.
    pub(crate) fn new(settings: Settings, now: Timestamp, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&PROTOCOL_HEADER);
        Client {
            settings,
            phase: Phase::Start,
            frame_max: Config::FRAME_GREETING,
            heartbeat_ms: 0,
            heard: now,
            said: now,
            owed: VecDeque::new(),
            partial: None,
            window: None,
            unsettled: 0,
            last_tag: 0,
            published: 0,
            peer: Peer::default(),
        }
    }

    /// What the other side says of itself, once it is open.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Takes what came; how many octets of it. What came before an error is in `events`.
    pub(crate) fn receive(
        &mut self,
        input: &[u8],
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) -> Result<usize> {
        self.heard = now;
        if self.phase == Phase::Start && input.starts_with(b"AMQP") {
            return Err(LinkError::Unexpected("it does not speak AMQP 0-9-1"));
        }
        let mut taken = 0;
        while self.phase != Phase::Over {
            let rest = input.get(taken..).unwrap_or_default();
            let Some((octets, frame)) = Decoder::new(self.frame_max).decode(rest)? else {
                break;
            };
            taken += octets;
            self.frame(&frame, out, events)?;
        }
        if !out.is_empty() {
            self.said = now;
        }
        Ok(taken)
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) -> Result<()> {
        match (frame.kind, frame.channel) {
            (FrameKind::Heartbeat, 0) => Ok(()),
            (FrameKind::Method, 0) => {
                self.of_connection(&Method::decode(frame.payload)?, out, events)
            }
            // What was on its way when the channel was closed.
            (_, CHANNEL) if self.phase == Phase::Shut => Ok(()),
            (FrameKind::Method, CHANNEL) => {
                if self.partial.is_some() {
                    return Err(LinkError::Unexpected("a method within content"));
                }
                self.of_channel(&Method::decode(frame.payload)?, out, events)
            }
            (FrameKind::Header, CHANNEL) => self.header(frame.payload, events),
            (FrameKind::Body, CHANNEL) => self.body(frame.payload, events),
            _ => Err(LinkError::Unexpected(
                "a frame on a channel that is not open",
            )),
        }
    }

    fn of_connection(
        &mut self,
        method: &Method<'_>,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) -> Result<()> {
        match (*method, self.phase) {
            (
                Method::ConnectionStart {
                    server_properties,
                    mechanisms,
                    ..
                },
                Phase::Start,
            ) => {
                if let Some(name) = server_properties.get("cluster_name") {
                    self.peer.cluster_name = name.as_str().map(str::to_owned);
                }
                let mechanism = if self.settings.external {
                    "EXTERNAL"
                } else {
                    "PLAIN"
                };
                let offered = mechanisms.split(u8::is_ascii_whitespace);
                if !{ offered }.any(|offered| offered == mechanism.as_bytes()) {
                    return Err(LinkError::Login(format!("it does not offer {mechanism}")));
                }
                self.start(mechanism, out)?;
                self.phase = Phase::Tune;
            }
            (
                Method::ConnectionTune {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
                Phase::Tune,
            ) => {
                self.frame_max = match frame_max {
                    0 => FRAME_MAX,
                    max => max.min(FRAME_MAX),
                };
                if self.frame_max < Config::FRAME_MIN {
                    return Err(LinkError::Unexpected("frames that are too small"));
                }
                let seconds = match (self.settings.heartbeat_s, heartbeat) {
                    (None, theirs) => theirs,
                    (Some(0), _) => 0,
                    (Some(ours), 0) => ours,
                    (Some(ours), theirs) => ours.min(theirs),
                };
                self.heartbeat_ms = u64::from(seconds) * 1000;
                let tune_ok = Method::ConnectionTuneOk {
                    channel_max,
                    frame_max: self.frame_max,
                    heartbeat: seconds,
                };
                tune_ok.encode(0, out)?;
                let open = Method::ConnectionOpen {
                    virtual_host: &self.settings.vhost,
                    reserved_1: "",
                    reserved_2: false,
                };
                open.encode(0, out)?;
                self.phase = Phase::Open;
            }
            (Method::ConnectionOpenOk { .. }, Phase::Open) => self.open_channel(out)?,
            (
                Method::ConnectionClose {
                    reply_code,
                    reply_text,
                    ..
                },
                _,
            ) => {
                Method::ConnectionCloseOk {}.encode(0, out)?;
                self.phase = Phase::Over;
                let text = reply_text.to_owned();
                return Err(LinkError::Closed {
                    code: reply_code,
                    text,
                });
            }
            (Method::ConnectionCloseOk {}, _) => self.phase = Phase::Over,
            (Method::ConnectionBlocked { .. }, _) => events.push_back(Event::Blocked(true)),
            (Method::ConnectionUnblocked {}, _) => events.push_back(Event::Blocked(false)),
            (Method::ConnectionSecure { .. }, _) => {
                return Err(LinkError::Login(
                    "it asks for more than a password".to_owned(),
                ));
            }
            _ => return Err(LinkError::Unexpected("a method out of turn")),
        }
        Ok(())
    }

    fn start(&self, mechanism: &str, out: &mut Vec<u8>) -> Result<()> {
        let mut capabilities = TableBuf::default();
        for name in [
            "publisher_confirms",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "authentication_failure_close",
            "exchange_exchange_bindings",
        ] {
            capabilities.put(name, Value::Bool(true))?;
        }
        let Settings {
            user,
            password,
            name,
            product,
            version,
            ..
        } = &self.settings;
        let mut properties = TableBuf::default();
        for (key, value) in [
            ("product", product),
            ("version", version),
            ("connection_name", name),
        ] {
            properties.put(key, Value::LongString(value.as_bytes()))?;
        }
        properties.put("capabilities", Value::Table(capabilities.as_table()))?;
        let response = if self.settings.external {
            Vec::new()
        } else {
            [&[0], user.as_bytes(), &[0], password.as_bytes()].concat()
        };
        let start_ok = Method::ConnectionStartOk {
            client_properties: properties.as_table(),
            mechanism,
            response: &response,
            locale: "en_US",
        };
        Ok(start_ok.encode(0, out)?)
    }

    fn open_channel(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.phase = Phase::Channel;
        self.owed.clear();
        self.partial = None;
        self.window = None;
        (self.unsettled, self.last_tag, self.published) = (0, 0, 0);
        Ok(Method::ChannelOpen { reserved_1: "" }.encode(CHANNEL, out)?)
    }

    /// Opens the channel again after [`Event::ChannelClosed`].
    pub(crate) fn reopen(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.phase == Phase::Shut {
            self.open_channel(out)?;
        }
        Ok(())
    }

    fn of_channel(
        &mut self,
        method: &Method<'_>,
        out: &mut Vec<u8>,
        events: &mut VecDeque<Event>,
    ) -> Result<()> {
        if let (Phase::Channel, Method::ChannelOpenOk { .. }) = (self.phase, method) {
            self.phase = Phase::Running;
            events.push_back(Event::Open);
            return Ok(());
        }
        match *method {
            Method::ChannelClose {
                reply_code,
                reply_text,
                ..
            } => {
                Method::ChannelCloseOk {}.encode(CHANNEL, out)?;
                self.phase = Phase::Shut;
                self.owed.clear();
                let text = reply_text.to_owned();
                events.push_back(Event::ChannelClosed {
                    code: reply_code,
                    text,
                });
            }
            _ if self.phase != Phase::Running => {
                return Err(LinkError::Unexpected("a method before the channel is open"));
            }
            Method::BasicDeliver {
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                ..
            } => {
                if self.window.is_some_and(|window| self.unsettled >= window) {
                    return Err(LinkError::Unexpected("more deliveries than were asked for"));
                }
                self.unsettled = self.unsettled.saturating_add(1);
                let delivery = self.coming(delivery_tag, redelivered, exchange, routing_key)?;
                self.expect(Content::Delivery(delivery));
            }
            Method::BasicGetOk {
                delivery_tag,
                redelivered,
                exchange,
                routing_key,
                message_count,
            } => {
                self.answered(GOT)?;
                let delivery = self.coming(delivery_tag, redelivered, exchange, routing_key)?;
                self.expect(Content::Got(Delivery {
                    behind: message_count,
                    ..delivery
                }));
            }
            Method::BasicGetEmpty { .. } => {
                self.answered(GOT)?;
                events.push_back(Event::Answer(GOT, Answer::Got(None)));
            }
            Method::BasicReturn { .. } => self.expect(Content::Return),
            Method::BasicAck {
                delivery_tag,
                multiple,
            } => {
                self.confirmed(delivery_tag, multiple, true, events)?;
            }
            Method::BasicNack {
                delivery_tag,
                multiple,
                ..
            } => {
                self.confirmed(delivery_tag, multiple, false, events)?;
            }
            Method::BasicCancel { .. } => events.push_back(Event::Cancelled),
            Method::ChannelFlow { active } => {
                Method::ChannelFlowOk { active }.encode(CHANNEL, out)?;
                events.push_back(Event::Blocked(!active));
            }
            ref answer => {
                self.answered(answer.id())?;
                let said = match *answer {
                    Method::QueueDeclareOk {
                        queue,
                        message_count,
                        ..
                    } => Answer::Declared {
                        queue: queue.to_owned(),
                        messages: message_count,
                    },
                    _ => Answer::Done,
                };
                events.push_back(Event::Answer(answer.id(), said));
            }
        }
        Ok(())
    }

    /// Somebody must wait for this answer. RabbitMQ's queues answer for themselves, so what was asked one after the other
    /// may be answered in another order.
    fn answered(&mut self, id: (u16, u16)) -> Result<()> {
        let at = self.owed.iter().position(|owed| *owed == id);
        let owed = at.and_then(|at| self.owed.remove(at));
        owed.map(drop)
            .ok_or(LinkError::Unexpected("an answer that nobody waits for"))
    }

    fn coming(
        &mut self,
        tag: u64,
        redelivered: bool,
        exchange: &str,
        key: &str,
    ) -> Result<Delivery> {
        if tag <= self.last_tag {
            return Err(LinkError::Unexpected(
                "a delivery tag that was there before",
            ));
        }
        self.last_tag = tag;
        Ok(Delivery {
            tag,
            redelivered,
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            behind: 0,
            properties: Bytes::new(),
            body: Bytes::new(),
        })
    }

    fn confirmed(
        &mut self,
        seq: u64,
        multiple: bool,
        stored: bool,
        events: &mut VecDeque<Event>,
    ) -> Result<()> {
        if seq > self.published || seq == 0 && !multiple {
            return Err(LinkError::Unexpected("a confirm of what was not published"));
        }
        // 0 with `multiple` is all of them.
        let seq = if seq == 0 { self.published } else { seq };
        events.push_back(Event::Confirm {
            seq,
            multiple,
            stored,
        });
        Ok(())
    }

    fn expect(&mut self, what: Content) {
        self.partial = Some(Partial {
            what,
            size: None,
            properties: Bytes::new(),
            body: Vec::new(),
        });
    }

    fn header(&mut self, payload: &[u8], events: &mut VecDeque<Event>) -> Result<()> {
        let header = ContentHeader::decode(payload)?;
        let most = self.settings.message_bytes_max;
        let Some(partial) = self
            .partial
            .as_mut()
            .filter(|partial| partial.size.is_none())
        else {
            return Err(LinkError::Unexpected("a header without a method"));
        };
        if header.class != Method::BASIC {
            return Err(LinkError::Unexpected("content of another class"));
        }
        if header.body_size > most {
            return Err(LinkError::TooLarge(header.body_size));
        }
        partial.size = Some(header.body_size);
        partial.properties = Bytes::copy_from_slice(header.properties);
        let room = header.body_size.min(TRUSTED);
        partial
            .body
            .reserve(usize::try_from(room).unwrap_or_default());
        self.complete(events);
        Ok(())
    }

    fn body(&mut self, payload: &[u8], events: &mut VecDeque<Event>) -> Result<()> {
        let partial = self.partial.as_mut();
        let Some((partial, size)) = partial.and_then(|partial| {
            let size = partial.size?;
            Some((partial, size))
        }) else {
            return Err(LinkError::Unexpected("a body without a header"));
        };
        if (partial.body.len() + payload.len()) as u64 > size {
            return Err(LinkError::Unexpected(
                "a body that is longer than announced",
            ));
        }
        partial.body.extend_from_slice(payload);
        self.complete(events);
        Ok(())
    }

    fn complete(&mut self, events: &mut VecDeque<Event>) {
        let whole = |partial: &mut Partial| partial.size == Some(partial.body.len() as u64);
        let Some(done) = self.partial.take_if(whole) else {
            return;
        };
        let filled = |delivery| Delivery {
            properties: done.properties,
            body: done.body.into(),
            ..delivery
        };
        events.push_back(match done.what {
            Content::Delivery(delivery) => Event::Delivery(filled(delivery)),
            Content::Got(delivery) => {
                Event::Answer(GOT, Answer::Got(Some(Box::new(filled(delivery)))))
            }
            Content::Return => Event::Returned,
        });
    }

    /// Says something that has an answer; which one.
    pub(crate) fn call(&mut self, method: &Method<'_>, out: &mut Vec<u8>) -> Result<(u16, u16)> {
        method.encode(CHANNEL, out)?;
        let (class, id) = method.id();
        // `exchange.unbind` has another number than all others.
        let answer = if (class, id) == (40, 40) {
            (40, 51)
        } else {
            (class, id + 1)
        };
        self.owed.push_back(answer);
        Ok(answer)
    }

    /// Says something that has none.
    pub(crate) fn say(method: &Method<'_>, out: &mut Vec<u8>) -> Result<()> {
        Ok(method.encode(CHANNEL, out)?)
    }

    /// Times that this answer is owed.
    pub(crate) fn owed(&self, id: (u16, u16)) -> usize {
        self.owed.iter().filter(|owed| **owed == id).count()
    }

    /// So many deliveries may come before any is settled.
    pub(crate) fn allow(&mut self, more: u32) {
        self.window = Some(self.unsettled.saturating_add(more));
    }

    /// Settles deliveries: `count` of them, the last of which has this tag.
    pub(crate) fn settle(
        &mut self,
        tag: u64,
        count: u32,
        how: Settle,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.unsettled = self.unsettled.saturating_sub(count);
        let multiple = count > 1;
        let method = match how {
            Settle::Ack => Method::BasicAck {
                delivery_tag: tag,
                multiple,
            },
            Settle::Requeue => Method::BasicNack {
                delivery_tag: tag,
                multiple,
                requeue: true,
            },
        };
        Self::say(&method, out)
    }

    /// Publishes; the number by which it is confirmed, in a channel that confirms.
    pub(crate) fn publish(
        &mut self,
        (exchange, routing_key): (&str, &str),
        mandatory: bool,
        (properties, body): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) -> Result<u64> {
        /// Octets of a header frame that are no properties.
        const HEADER: usize = 12 + FRAME_OVERHEAD as usize;
        if properties.len() + HEADER > self.frame_max as usize {
            return Err(LinkError::Properties(properties.len()));
        }
        let publish = Method::BasicPublish {
            ticket: 0,
            exchange,
            routing_key,
            mandatory,
            immediate: false,
        };
        publish.encode(CHANNEL, out)?;
        put_content(CHANNEL, properties, body, self.frame_max, out)?;
        self.published += 1;
        Ok(self.published)
    }

    /// When [`Client::tick`] is wanted.
    pub(crate) fn due(&self) -> Timestamp {
        if self.heartbeat_ms == 0 {
            return Timestamp::NEVER;
        }
        let speak = self.said.plus_millis(self.heartbeat_ms / 2);
        speak.min(self.heard.plus_millis(self.heartbeat_ms * 2 + SLACK_MS))
    }

    /// Keeps the connection alive. `reads`: what the other side says is read.
    pub(crate) fn tick(&mut self, reads: bool, now: Timestamp, out: &mut Vec<u8>) -> Result<()> {
        if self.heartbeat_ms == 0 {
            return Ok(());
        }
        if !reads {
            // It may have said something.
            self.heard = now;
        }
        if now.millis_since(self.heard) >= self.heartbeat_ms * 2 + SLACK_MS {
            return Err(LinkError::Silent);
        }
        if now.millis_since(self.said) >= self.heartbeat_ms / 2 {
            self.said = now;
            if out.is_empty() {
                out.extend_from_slice(&HEARTBEAT);
            }
        }
        Ok(())
    }

    /// Whether the login was sent and not answered: a server that closes then does not want it.
    pub(crate) fn is_logging_in(&self) -> bool {
        self.phase == Phase::Tune
    }

    /// Says goodbye.
    pub(crate) fn goodbye(&mut self, out: &mut Vec<u8>) {
        let close = Method::ConnectionClose {
            reply_code: 200,
            reply_text: "Goodbye",
            class_id: 0,
            method_id: 0,
        };
        if self.phase != Phase::Over && close.encode(0, out).is_ok() {
            self.phase = Phase::Over;
        }
    }
}
