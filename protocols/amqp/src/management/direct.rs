//! A client of this service in its own process: what the management API changes, it changes through a connection of the
//! user who asks, with the checks, the order and the reply texts that any client gets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use longtail_broker::auth::Grants;
use longtail_edge::Inside;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::access::{Admission, Admitted, Denied, Login};
use crate::codec::{
    Decoder, Frame, FrameKind, Level, Method, PROTOCOL_HEADER, Properties, ReplyCode, Table,
    put_content,
};
use crate::config::Config;
use crate::exception::Exception;
use crate::service::Amqp;
use crate::topology::fresh_name;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Octets asked of the socket at a time.
const READ: usize = 64 * 1024;

/// The only channel.
const CHANNEL: u16 = 1;

/// Passwords that are good once, for connections that this process is about to open.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<String, Arc<Grants>>>);

impl Tickets {
    fn issue(&self, grants: Arc<Grants>) -> String {
        let ticket = fresh_name("");
        self.0.lock().insert(ticket.clone(), grants);
        ticket
    }

    fn withdraw(&self, ticket: &str) {
        self.0.lock().remove(ticket);
    }

    fn find(&self, login: &Login<'_>) -> Result<Arc<Grants>, Denied> {
        let ticket = std::str::from_utf8(login.password).unwrap_or_default();
        let found = self.0.lock().get(ticket).cloned();
        found.ok_or_else(|| Denied::Login("no such ticket".to_owned()))
    }
}

impl Admission for Tickets {
    fn verify(&self, login: &Login<'_>) -> Result<Option<Admitted>, Denied> {
        self.find(login).map(|_| None)
    }

    fn admit(&self, login: &Login<'_>) -> Result<Admitted, Denied> {
        self.find(login).map(Admitted::with)
    }
}

/// The way in.
pub struct Door {
    inside: Inside<Amqp>,
    tickets: Arc<Tickets>,
}

impl Door {
    /// Connections of `inside` are let in by `tickets`.
    #[must_use]
    pub fn new(inside: Inside<Amqp>, tickets: Arc<Tickets>) -> Self {
        Door { inside, tickets }
    }

    /// Opens a connection of a user with one channel.
    ///
    /// # Errors
    /// What the service says, as it says it.
    pub async fn open(
        &self,
        user: &str,
        vhost: &str,
        grants: Arc<Grants>,
    ) -> Result<Direct, Exception> {
        let ticket = self.tickets.issue(grants);
        let opened = self.hands_shaken(user, vhost, &ticket).await;
        self.tickets.withdraw(&ticket);
        opened
    }

    async fn hands_shaken(
        &self,
        user: &str,
        vhost: &str,
        ticket: &str,
    ) -> Result<Direct, Exception> {
        let stream = self.inside.connect().map_err(|error| lost(&error))?;
        stream.set_nonblocking(true).map_err(|error| lost(&error))?;
        let mut direct = Direct {
            stream: UnixStream::from_std(stream).map_err(|error| lost(&error))?,
            input: Vec::new(),
            consumed: 0,
            frame_max: Config::FRAME_GREETING,
        };
        direct.write(&PROTOCOL_HEADER).await?;
        direct
            .wait(|method| matches!(method, Method::ConnectionStart { .. }).then_some(()))
            .await?;
        let response = [&[0], user.as_bytes(), &[0], ticket.as_bytes()].concat();
        let start_ok = Method::ConnectionStartOk {
            client_properties: Table::default(),
            mechanism: "PLAIN",
            response: &response,
            locale: "en_US",
        };
        direct.say_on(0, &start_ok).await?;
        let (channel_max, frame_max) = direct
            .wait(|method| match *method {
                Method::ConnectionTune {
                    channel_max,
                    frame_max,
                    ..
                } => Some((channel_max, frame_max)),
                _ => None,
            })
            .await?;
        let tune_ok = Method::ConnectionTuneOk {
            channel_max,
            frame_max,
            heartbeat: 0,
        };
        direct.say_on(0, &tune_ok).await?;
        direct.frame_max = frame_max;
        let open = Method::ConnectionOpen {
            virtual_host: vhost,
            reserved_1: "",
            reserved_2: false,
        };
        direct.say_on(0, &open).await?;
        direct
            .wait(|method| matches!(method, Method::ConnectionOpenOk { .. }).then_some(()))
            .await?;
        let open = Method::ChannelOpen { reserved_1: "" };
        direct.call(&open).await?;
        Ok(direct)
    }
}

/// A message that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its delivery tag.
    pub tag: u64,
    /// It was handed out before.
    pub redelivered: bool,
    /// What it was published to.
    pub exchange: String,
    /// With this key.
    pub routing_key: String,
    /// Messages behind it.
    pub message_count: u32,
    /// Flags and values.
    pub properties: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

/// A connection with one channel. Dropping it closes both.
pub struct Direct {
    stream: UnixStream,
    input: Vec<u8>,
    consumed: usize,
    frame_max: u32,
}

fn lost(why: &dyn std::fmt::Display) -> Exception {
    Exception::new(
        ReplyCode::InternalError,
        format!("the service cannot be reached from within: {why}"),
    )
}

/// An exception as the server has told it.
fn told(code: u16, text: &str, level: Level) -> Exception {
    let known = ReplyCode::ALL.iter().find(|known| known.as_u16() == code);
    let code = known.copied().unwrap_or(ReplyCode::InternalError);
    let text = text
        .strip_prefix(code.name())
        .and_then(|text| text.strip_prefix(" - "))
        .unwrap_or(text);
    Exception {
        level,
        ..Exception::new(code, text)
    }
}

impl Direct {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Exception> {
        self.stream
            .write_all(bytes)
            .await
            .map_err(|error| lost(&error))
    }

    async fn say_on(&mut self, channel: u16, method: &Method<'_>) -> Result<(), Exception> {
        let mut out = Vec::new();
        method
            .encode(channel, &mut out)
            .map_err(|error| Exception::new(ReplyCode::SyntaxError, error.to_string()))?;
        self.write(&out).await
    }

    /// Shows frames until `look` has what it looks for.
    async fn frames<R>(
        &mut self,
        mut look: impl FnMut(&Frame<'_>) -> Option<Result<R, Exception>>,
    ) -> Result<R, Exception> {
        let decoder = Decoder::new(if self.frame_max == 0 {
            u32::MAX
        } else {
            self.frame_max
        });
        loop {
            loop {
                let rest = self.input.get(self.consumed..).unwrap_or_default();
                match decoder.decode(rest) {
                    Ok(None) => break,
                    Ok(Some((octets, frame))) => {
                        self.consumed += octets;
                        if let Some(found) = look(&frame) {
                            return found;
                        }
                    }
                    Err(fault) => return Err(Exception::from(fault)),
                }
            }
            self.input.drain(..self.consumed);
            self.consumed = 0;
            let before = self.input.len();
            self.input.resize(before + READ, 0);
            let room = self.input.get_mut(before..).unwrap_or_default();
            let read = tokio::time::timeout(PATIENCE, self.stream.read(room)).await;
            let read = match read {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => return Err(lost(&error)),
                Err(_) => return Err(lost(&"no answer")),
            };
            self.input.truncate(before + read);
            if read == 0 {
                return Err(lost(&"it has closed the connection"));
            }
        }
    }

    /// Waits for a method.
    async fn wait<R>(
        &mut self,
        mut look: impl FnMut(&Method<'_>) -> Option<R>,
    ) -> Result<R, Exception> {
        self.frames(|frame| {
            if frame.kind != FrameKind::Method {
                return None;
            }
            match Method::decode(frame.payload) {
                Ok(method) => refusal(&method).map(Err).or_else(|| look(&method).map(Ok)),
                Err(fault) => Some(Err(Exception::from(fault))),
            }
        })
        .await
    }

    /// Says something on the channel and waits for the answer that says that it is done.
    ///
    /// # Errors
    /// The exception that the server answers with instead. The channel is closed then.
    pub async fn call(&mut self, method: &Method<'_>) -> Result<(), Exception> {
        self.say_on(CHANNEL, method).await?;
        let (class, id) = method.id();
        // `exchange.unbind` has another number than all others.
        let done = match (class, id) {
            (40, 40) => (40, 51),
            _ => (class, id + 1),
        };
        self.wait(|answer| (answer.id() == done).then_some(()))
            .await
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// When the service is gone.
    pub async fn say(&mut self, method: &Method<'_>) -> Result<(), Exception> {
        self.say_on(CHANNEL, method).await
    }

    /// Fetches a message; `None`: there is none.
    ///
    /// # Errors
    /// The exception that the server answers with.
    pub async fn get(&mut self, queue: &str, no_ack: bool) -> Result<Option<Fetched>, Exception> {
        let get = Method::BasicGet {
            ticket: 0,
            queue,
            no_ack,
        };
        self.say(&get).await?;
        let mut fetched: Option<(Fetched, Option<u64>)> = None;
        self.frames(|frame| {
            match frame.kind {
                FrameKind::Heartbeat => {}
                FrameKind::Method => match Method::decode(frame.payload) {
                    Ok(Method::BasicGetEmpty { .. }) => return Some(Ok(None)),
                    Ok(Method::BasicGetOk {
                        delivery_tag,
                        redelivered,
                        exchange,
                        routing_key,
                        message_count,
                    }) => {
                        let found = Fetched {
                            tag: delivery_tag,
                            redelivered,
                            exchange: exchange.to_owned(),
                            routing_key: routing_key.to_owned(),
                            message_count,
                            properties: Vec::new(),
                            body: Vec::new(),
                        };
                        fetched = Some((found, None));
                    }
                    Ok(method) => return refusal(&method).map(Err),
                    Err(fault) => return Some(Err(Exception::from(fault))),
                },
                FrameKind::Header => {
                    let header = crate::codec::ContentHeader::decode(frame.payload);
                    if let (Some((found, size)), Ok(header)) = (&mut fetched, header) {
                        found.properties = header.properties.to_vec();
                        *size = Some(header.body_size);
                    }
                }
                FrameKind::Body => {
                    if let Some((found, _)) = &mut fetched {
                        found.body.extend_from_slice(frame.payload);
                    }
                }
            }
            match &fetched {
                Some((found, Some(size))) if found.body.len() as u64 >= *size => {
                    fetched.take().map(|(found, _)| Ok(Some(found)))
                }
                _ => None,
            }
        })
        .await
    }

    /// Publishes a message and waits until it is stored: whether some queue has it.
    ///
    /// # Errors
    /// The exception that the server answers with; [`ReplyCode::ContentTooLarge`] where a queue does not take it.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: &Properties<'_>,
        body: &[u8],
    ) -> Result<Published, Exception> {
        self.call(&Method::ConfirmSelect { no_wait: false }).await?;
        let publish = Method::BasicPublish {
            ticket: 0,
            exchange,
            routing_key,
            mandatory: true,
            immediate: false,
        };
        let malformed = |error: crate::codec::EncodeError| {
            Exception::new(ReplyCode::SyntaxError, error.to_string())
        };
        let mut out = Vec::new();
        publish.encode(CHANNEL, &mut out).map_err(malformed)?;
        let mut octets = Vec::new();
        properties.encode(&mut octets).map_err(malformed)?;
        put_content(CHANNEL, &octets, body, self.frame_max, &mut out).map_err(malformed)?;
        self.write(&out).await?;
        let mut routed = true;
        self.wait(|method| match method {
            Method::BasicReturn { .. } => {
                routed = false;
                None
            }
            Method::BasicAck { .. } if routed => Some(Published::Routed),
            Method::BasicAck { .. } => Some(Published::Unroutable),
            Method::BasicNack { .. } => Some(Published::Refused),
            _ => None,
        })
        .await
    }
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Queues have it.
    Routed,
    /// No queue wants it.
    Unroutable,
    /// A queue does not take it.
    Refused,
}

fn refusal(method: &Method<'_>) -> Option<Exception> {
    match *method {
        Method::ChannelClose {
            reply_code,
            reply_text,
            ..
        } => Some(told(reply_code, reply_text, Level::Channel)),
        Method::ConnectionClose {
            reply_code,
            reply_text,
            ..
        } => Some(told(reply_code, reply_text, Level::Connection)),
        _ => None,
    }
}
