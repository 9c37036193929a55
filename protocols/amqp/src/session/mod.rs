//! One connection's conversation: frames become commands of the engine and changes of the topology; effects become
//! frames.
//!
//! ```text
//! bytes ──▶ input() ──▶ Channel ──┬─▶ commands ──▶ shards ──▶ effect() ──▶ bytes
//!              │                  └─▶ actions ──▶ service (logins, topology: may wait) ──▶ completed() ──▶ bytes
//!              └── start: header, SASL, tune, open
//! ```
//!
//! A channel has an engine session at every shard, opened and closed with it, so that one that closes gives back what
//! it holds. A method with an answer is answered before more input is looked at (`busy`): answers of a connection are
//! in order although they come from several shards and from the catalog. Publishes and settlements wait for nothing.

mod about;
mod channel;
mod confirms;
mod consuming;
pub(crate) mod content;
mod delivering;
mod publishing;
mod replying;
pub(crate) mod routing;
mod settling;
mod start;
#[cfg(test)]
mod tests;
mod timeouts;
mod transacting;
mod unacked;

use std::collections::HashMap;
use std::sync::Arc;

use longtail_broker::auth::{Action as Right, CachedGrants, Grants};
use longtail_edge::{CloseReason, Input, Out, Then};
use longtail_engine::runtime::Shards;
use longtail_engine::{Effect, Message};
use longtail_model::{Filter, SessionId, ShardId, Subject, Timestamp};

use crate::codec::{
    Decoder, Frame, FrameKind, Greeting, Level, Method, PROTOCOL_HEADER, ReplyCode,
};
use crate::config::Config;
use crate::exception::{Exception, refused};
use crate::queue::Queue;
use crate::replies::{Mailbox, Place, Recipient, Reply};
use crate::subjects::{Share, Told};
use crate::tenant::Tenant;
use crate::topology::{Asker, Bind, DeclareExchange, DeclareQueue, Declared, Topology};
pub use about::{ChannelState, ConnectionState, ConsumerState, Counts, given_name};
use channel::Channel;
pub(crate) use consuming::is_stored;
pub(crate) use publishing::Laying;

/// Sessions of the engine that have ended.
pub(crate) type Ended = Vec<(ShardId, SessionId)>;

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
    /// Look now and then whether consumers hold something too long.
    Watch,
    /// A queue has refused a message, which is a dead letter.
    Lay(Box<Laying>),
    /// The client says goodbye.
    Goodbye(Ended),
}

/// Something about the topology that a client waits for.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) channel: u16,
    pub(crate) incarnation: u32,
    no_wait: bool,
    id: (u16, u16),
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

/// How far the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was said.
    Header,
    /// `start` was sent.
    Start,
    /// `tune` was sent.
    Tune,
    /// `tune-ok` has come.
    Open,
    /// The vhost is open.
    Running,
    /// Goodbye was said: nothing more is looked at.
    Over,
}

/// What a client says that it understands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    pub(super) consumer_cancel_notify: bool,
    pub(super) authentication_failure_close: bool,
}

/// What a client shows at the door.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Vec<u8>,
    /// Its certificate instead of a password.
    pub(crate) external: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What rules about names call the default exchange.
const DEFAULT: &str = "amq.default";

/// What channels share.
pub(super) struct Shared {
    pub(super) asker: Asker,
    /// Where replies to the connection's channels are delivered.
    pub(super) mailbox: Arc<dyn Mailbox>,
    pub(super) credentials: Credentials,
    pub(super) capabilities: Capabilities,
    pub(super) grants: CachedGrants,
    introduction: about::Introduction,
    /// Messages of channels that are closed.
    pub(super) retired: Counts,
    /// What the client may do in the vhost `/`, if that is known.
    known: Option<Arc<Grants>>,
    pub(super) topology: Option<Arc<Topology>>,
    pub(super) frame_max: u32,
    pub(super) actions: Vec<Action>,
    /// A method is being answered.
    pub(super) busy: bool,
    /// Publishes on their way, and octets of their bodies.
    pub(super) outstanding: usize,
    pub(super) outstanding_bytes: u64,
    /// Too many of them: input waits.
    held_up: bool,
    /// Octets that wait in transactions.
    pub(super) staged_bytes: u64,
    /// Input that was left is to be shown again.
    wake: bool,
    /// What time it is, as long as somebody wants to know.
    pub(super) now: Timestamp,
    /// Consumers may hold messages too long.
    timed: bool,
    /// How long, where nothing else is said; 0: as long as they want.
    pub(super) consumer_timeout_ms: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("asker", &self.asker)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn topology(&self) -> Result<&Arc<Topology>, Exception> {
        self.topology.as_ref().ok_or_else(|| {
            Exception::new(ReplyCode::ChannelError, "no virtual host is open").of_connection()
        })
    }

    /// Somebody wants to know what time it is, and to be looked at when some of it has passed.
    pub(super) fn watch(&mut self) {
        if !std::mem::replace(&mut self.timed, true) {
            self.actions.push(Action::Watch);
        }
    }

    /// Answers are done: input goes on.
    pub(super) fn answered(&mut self) {
        self.wake |= std::mem::take(&mut self.busy);
    }

    /// Whether the client may do something with what has this name.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check(&mut self, right: Right, what: &str, name: &str) -> Result<(), Exception> {
        // The default exchange has no name; rules know it by this one.
        let known = if name.is_empty() { DEFAULT } else { name };
        if self.grants.allows_name(right, known) {
            return Ok(());
        }
        let right = match right {
            Right::Publish => "write",
            Right::Consume => "read",
            Right::Configure | Right::Manage => "configure",
        };
        Err(self.not_granted(right, what, name))
    }

    /// Whether the client may publish to a queue by way of the default exchange: for rules about subjects it is the
    /// queue, for rules about names it is the exchange.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check_default(&mut self, queue: &str) -> Result<(), Exception> {
        let grants = self.grants.grants();
        if grants.allows_as(Right::Publish, queue, DEFAULT) {
            return Ok(());
        }
        Err(self.not_granted("write", "queue", queue))
    }

    /// Whether the client may use a topic exchange with a routing key, where there are rules for that.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check_topic(
        &self,
        right: Right,
        exchange: &str,
        key: &str,
    ) -> Result<(), Exception> {
        if self.grants.grants().allows_topic(right, exchange, key) {
            return Ok(());
        }
        let word = if right == Right::Publish {
            "write"
        } else {
            "read"
        };
        Err(self.topic_not_granted(word, exchange, key))
    }

    /// Whether the client may publish what has this routing key, or have what matches this binding key, of the exchange
    /// that is the subjects of the space: they are those of other protocols too.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check_subject(
        &mut self,
        right: Right,
        exchange: &str,
        key: &str,
    ) -> Result<(), Exception> {
        let (allowed, word) = if right == Right::Publish {
            let subject = Subject::parse_amqp(key);
            let allowed = subject.is_ok_and(|subject| self.grants.allows(right, subject.as_ref()));
            (allowed, "write")
        } else {
            let filter = Filter::parse_amqp(key);
            let grants = self.grants.grants();
            let allowed = filter.is_ok_and(|filter| grants.allows_filter(right, &filter));
            (allowed, "read")
        };
        if allowed {
            return Ok(());
        }
        Err(self.topic_not_granted(word, exchange, key))
    }

    fn topic_not_granted(&self, word: &str, exchange: &str, key: &str) -> Exception {
        refused(format!(
            "{word} access to topic '{key}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
            self.asker.vhost, self.credentials.user
        ))
    }

    fn not_granted(&self, right: &str, what: &str, name: &str) -> Exception {
        refused(format!(
            "{right} access to {what} '{name}' in vhost '{}' refused for user '{}'",
            self.asker.vhost, self.credentials.user
        ))
    }

    pub(super) fn stored(&mut self, publishes: usize, bytes: u64, config: &Config) {
        self.outstanding = self.outstanding.saturating_sub(publishes);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
        if self.held_up
            && self.outstanding <= config.outstanding_max / 2
            && self.outstanding_bytes <= config.outstanding_bytes_max / 2
        {
            self.held_up = false;
            self.wake = true;
        }
    }
}

/// The number of a channel, and what is there.
#[derive(Debug)]
enum Slot {
    /// It is being opened.
    Opening,
    Open(Box<Channel>),
    /// The server has closed it: what still comes for it is skipped.
    Closing,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    phase: Phase,
    /// Largest frame offered, where that is not as at all listeners.
    frame_max: Option<u32>,
    /// Whom the client's certificate names.
    certified: Option<String>,
    channel_max: u16,
    channels: HashMap<u16, Slot>,
    incarnations: u32,
    /// Channels that may have something to send, to the shards or to the client.
    touched: Vec<u16>,
    shared: Shared,
}

/// What is left to do once the connection's lock is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct After {
    /// Commands were queued: the shards are to be run.
    pub(crate) run: bool,
    /// There are actions.
    pub(crate) act: bool,
    /// The input that was left is to be shown again.
    pub(crate) resume: bool,
}

impl Session {
    /// A connection with this number, on which nothing was said. Replies to its channels come to `mailbox`.
    #[must_use]
    pub(crate) fn new(connection: u64, mailbox: Arc<dyn Mailbox>) -> Self {
        Session {
            decoder: Decoder::new(Config::FRAME_GREETING),
            phase: Phase::Header,
            frame_max: None,
            certified: None,
            channel_max: 0,
            channels: HashMap::new(),
            incarnations: 0,
            touched: Vec::new(),
            shared: Shared {
                asker: Asker {
                    connection,
                    vhost: Arc::default(),
                },
                mailbox,
                credentials: Credentials::default(),
                capabilities: Capabilities::default(),
                grants: CachedGrants::new(Arc::new(Grants::default())),
                introduction: about::Introduction::default(),
                retired: Counts::default(),
                known: None,
                topology: None,
                frame_max: Config::FRAME_GREETING,
                actions: Vec::new(),
                busy: false,
                outstanding: 0,
                outstanding_bytes: 0,
                held_up: false,
                staged_bytes: 0,
                wake: false,
                now: Timestamp(0),
                timed: false,
                consumer_timeout_ms: 0,
            },
        }
    }

    /// Says what is particular about the connection, before anything is said: the largest frame that it is offered, and
    /// whom its certificate names.
    pub(crate) fn introduce(&mut self, frame_max: Option<u32>, certified: Option<String>) {
        self.frame_max = frame_max;
        self.certified = certified;
    }

    /// Carries out what is in `input`, which holds every byte not consumed yet.
    pub fn input(&mut self, input: &[u8], tenant: &Tenant, out: &mut Out) -> Input {
        let mut consumed = 0;
        let then = loop {
            if self.phase == Phase::Over {
                consumed = input.len();
                break Then::Read;
            }
            if self.shared.busy {
                break Then::Pause;
            }
            let config = tenant.config();
            if self.shared.outstanding >= config.outstanding_max.max(1)
                || self.shared.outstanding_bytes >= config.outstanding_bytes_max.max(1)
            {
                self.shared.held_up = true;
                break Then::Pause;
            }
            if out.is_over_soft_limit() {
                break Then::Drain;
            }
            let rest = input.get(consumed..).unwrap_or_default();
            if rest.is_empty() {
                break Then::Read;
            }
            if self.phase == Phase::Header {
                match Greeting::of(rest) {
                    Greeting::Incomplete => break Then::Read,
                    Greeting::Welcome => {
                        consumed += Greeting::LEN;
                        self.greet(config, out);
                    }
                    Greeting::Foreign => {
                        out.put(&PROTOCOL_HEADER);
                        self.phase = Phase::Over;
                        consumed = input.len();
                        break Then::Close(CloseReason::Malformed(
                            "the client does not speak AMQP 0-9-1".into(),
                        ));
                    }
                }
                continue;
            }
            let (channel, outcome) = match self.decoder.decode(rest) {
                Ok(None) => break Then::Read,
                Ok(Some((octets, frame))) => {
                    consumed += octets;
                    (frame.channel, self.frame(&frame, tenant, out))
                }
                Err(fault) => (0, Err(Exception::from(fault).of_connection())),
            };
            if let Err(exception) = outcome
                && let Some(why) = self.fail(channel, &exception, out)
            {
                consumed = input.len();
                break Then::Close(why);
            }
        };
        self.send(&**tenant.shards(), out);
        Input { consumed, then }
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<(), Exception> {
        match frame.kind {
            FrameKind::Heartbeat if frame.channel == 0 => Ok(()),
            FrameKind::Heartbeat => Err(unexpected_frame("heartbeat frame on a channel")),
            FrameKind::Method => {
                let id = Method::id_of(frame.payload);
                let method = Method::decode(frame.payload)
                    .map_err(|fault| Exception::from(fault).about(id).of_connection())?;
                let outcome = if frame.channel == 0 {
                    self.connection_method(&method, tenant)
                } else {
                    self.channel_method(frame.channel, &method, out)
                };
                outcome.map_err(|exception| exception.about(id))
            }
            FrameKind::Header | FrameKind::Body => match self.channels.get_mut(&frame.channel) {
                Some(Slot::Open(channel)) => {
                    touch(&mut self.touched, frame.channel);
                    let outcome = if frame.kind == FrameKind::Header {
                        channel.header(frame.payload, &mut self.shared, tenant, out)
                    } else {
                        channel.body(frame.payload, &mut self.shared, tenant, out)
                    };
                    outcome.map_err(|exception| exception.about(Channel::PUBLISH))
                }
                Some(Slot::Closing) => Ok(()),
                Some(Slot::Opening) | None => {
                    Err(unexpected_frame("content on a channel that is not open"))
                }
            },
        }
    }

    fn channel_method(
        &mut self,
        number: u16,
        method: &Method<'_>,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if self.phase != Phase::Running {
            return Err(self.unexpected_method());
        }
        match (self.channels.get_mut(&number), method) {
            (None, Method::ChannelOpen { .. }) => self.open_channel(number),
            (Some(_), Method::ChannelOpen { .. }) => {
                Err(channel_error("second 'channel.open' seen"))
            }
            (None | Some(Slot::Opening), _) => Err(channel_error("expected 'channel.open'")),
            (Some(Slot::Closing), Method::ChannelCloseOk {}) => {
                self.channels.remove(&number);
                Ok(())
            }
            (Some(Slot::Closing), Method::ChannelClose { .. }) => {
                say(&Method::ChannelCloseOk {}, number, out);
                Ok(())
            }
            (Some(Slot::Closing), _) => Ok(()),
            (Some(Slot::Open(_)), Method::ChannelClose { .. }) => {
                let ended = self.take_channel(number, Slot::Closing);
                self.shared.busy = true;
                self.shared
                    .actions
                    .push(Action::CloseChannel(number, ended));
                Ok(())
            }
            (Some(Slot::Open(channel)), method) => {
                touch(&mut self.touched, number);
                channel.method(method, &mut self.shared, out)
            }
        }
    }

    fn open_channel(&mut self, number: u16) -> Result<(), Exception> {
        let max = self.channel_max;
        if max > 0 && number > max {
            return Err(Exception::new(
                ReplyCode::NotAllowed,
                format!("channel number {number} is beyond the negotiated channel_max ({max})"),
            ));
        }
        self.channels.insert(number, Slot::Opening);
        self.shared.busy = true;
        self.shared.actions.push(Action::OpenChannel(number));
        Ok(())
    }

    /// What the client may do has changed.
    pub(crate) fn set_grants(&mut self, grants: Arc<Grants>) {
        self.shared.grants = CachedGrants::new(grants);
        for slot in self.channels.values_mut() {
            if let Slot::Open(channel) = slot {
                channel.remembered = None;
            }
        }
    }

    /// The number that a new channel is told apart by from earlier ones.
    pub(crate) fn next_incarnation(&mut self) -> u32 {
        self.incarnations += 1;
        self.incarnations
    }

    /// A channel is attached to the shards; `false`: it is not wanted any more.
    pub(crate) fn channel_opened(
        &mut self,
        number: u16,
        incarnation: u32,
        sessions: &[(ShardId, SessionId)],
        out: &mut Out,
    ) -> bool {
        self.shared.answered();
        if !matches!(self.channels.get(&number), Some(Slot::Opening)) {
            return false;
        }
        let channel = Channel::new(number, incarnation, sessions);
        self.channels.insert(number, Slot::Open(Box::new(channel)));
        say(&Method::ChannelOpenOk { reserved_1: b"" }, number, out);
        true
    }

    /// There is no room for another channel. `Some`: that ends the connection.
    pub(crate) fn channel_refused(
        &mut self,
        number: u16,
        exception: &Exception,
        out: &mut Out,
    ) -> Option<CloseReason> {
        self.shared.answered();
        self.channels.remove(&number);
        self.fail(0, exception, out)
    }

    /// A channel that its client has closed is detached from the shards.
    pub(crate) fn channel_closed(&mut self, number: u16, out: &mut Out) {
        self.shared.answered();
        self.channels.remove(&number);
        say(&Method::ChannelCloseOk {}, number, out);
    }

    /// Ends a channel; what is to be detached.
    fn take_channel(&mut self, number: u16, instead: Slot) -> Ended {
        match self.channels.insert(number, instead) {
            Some(Slot::Open(channel)) => channel.end(&mut self.shared),
            _ => Ended::new(),
        }
    }

    /// Everything ends; what is to be detached, and which queues have lost their last consumer.
    pub(crate) fn end(&mut self) -> (Ended, Vec<Arc<Queue>>) {
        self.phase = Phase::Over;
        let mut ended = Ended::new();
        let channels = std::mem::take(&mut self.channels);
        for slot in channels.into_values() {
            if let Slot::Open(channel) = slot {
                ended.extend(channel.end(&mut self.shared));
            }
        }
        let mut unused = Vec::new();
        for action in std::mem::take(&mut self.shared.actions) {
            match action {
                Action::DeleteUnused(queue) => unused.push(queue),
                Action::Detach(more) | Action::CloseChannel(_, more) | Action::Goodbye(more) => {
                    ended.extend(more);
                }
                _ => {}
            }
        }
        (ended, unused)
    }

    /// Tells the client what it has done wrong. `Some`: that ends the connection.
    pub(crate) fn fail(
        &mut self,
        number: u16,
        exception: &Exception,
        out: &mut Out,
    ) -> Option<CloseReason> {
        let open = matches!(self.channels.get(&number), Some(Slot::Open(_)));
        tracing::debug!(channel = number, user = self.shared.credentials.user, %exception, "an exception");
        if exception.level == Level::Channel && open {
            exception.write(number, out.tail());
            let ended = self.take_channel(number, Slot::Closing);
            self.shared.actions.push(Action::Detach(ended));
            return None;
        }
        exception.clone().of_connection().write(0, out.tail());
        self.phase = Phase::Over;
        Some(CloseReason::Malformed(exception.reply_text().into()))
    }

    /// Something about the topology is done, or was refused.
    pub(crate) fn completed(
        &mut self,
        op: &Op,
        outcome: Result<Outcome, Exception>,
        out: &mut Out,
    ) -> Option<CloseReason> {
        self.shared.answered();
        let channel = self.channel(op.channel, op.incarnation)?;
        match outcome {
            Ok(outcome) => {
                channel.completed(op, &outcome, out);
                None
            }
            Err(exception) => self.fail(op.channel, &exception.about(op.id), out),
        }
    }

    fn channel(&mut self, number: u16, incarnation: u32) -> Option<&mut Channel> {
        match self.channels.get_mut(&number) {
            Some(Slot::Open(channel)) if channel.incarnation() == incarnation => Some(channel),
            _ => None,
        }
    }

    /// A direct reply has come for a channel.
    pub(crate) fn replied(&mut self, at: Place, reply: &Reply, out: &mut Out) {
        if let Some(Slot::Open(channel)) = self.channels.get_mut(&at.channel)
            && channel.incarnation() == at.incarnation
        {
            channel.replied(reply, &self.shared, out);
        }
    }

    /// A message of a channel is safe outside of AMQP, or refused there.
    pub(crate) fn shared(
        &mut self,
        at: Place,
        told: Told,
        refused: bool,
        tenant: &Tenant,
        out: &mut Out,
    ) -> Option<CloseReason> {
        let Some(Slot::Open(channel)) = self.channels.get_mut(&at.channel) else {
            return None;
        };
        if channel.incarnation() != at.incarnation {
            return None;
        }
        touch(&mut self.touched, at.channel);
        let outcome = match told {
            Told::Published { number, bytes } => {
                channel.published((number, bytes), refused, &mut self.shared, tenant.config());
                Ok(())
            }
            Told::Commit => channel.commit_shared(refused, &mut self.shared, out),
        };
        outcome
            .err()
            .and_then(|exception| self.fail(at.channel, &exception, out))
    }

    /// What a shard says to a channel. `Some`: that ends the connection.
    pub(crate) fn effect(
        &mut self,
        at: (u16, u32, usize),
        effect: &Effect,
        messages: &[Option<Message<'_>>],
        tenant: &Tenant,
        out: &mut Out,
    ) -> Option<CloseReason> {
        let (number, incarnation, shard) = at;
        let Some(Slot::Open(channel)) = self.channels.get_mut(&number) else {
            return None;
        };
        if channel.incarnation() != incarnation {
            return None;
        }
        touch(&mut self.touched, number);
        if self.shared.timed {
            self.shared.now = tenant.now();
        }
        let outcome = channel.effect(shard, effect, messages, &mut self.shared, tenant, out);
        outcome
            .err()
            .and_then(|exception| self.fail(number, &exception, out))
    }

    /// Ends consumers that hold something too long. Also: when to look again, unless nobody has to; and why the
    /// connection ends, if it does.
    pub(crate) fn time_out(
        &mut self,
        now: Timestamp,
        out: &mut Out,
    ) -> (Option<Timestamp>, Option<CloseReason>) {
        self.shared.now = now;
        let numbers: Vec<u16> = self.channels.keys().copied().collect();
        let (mut next, mut why): (Option<Timestamp>, _) = (None, None);
        for number in numbers {
            let Some(Slot::Open(channel)) = self.channels.get_mut(&number) else {
                continue;
            };
            touch(&mut self.touched, number);
            match channel.time_out(now, &mut self.shared, out) {
                Ok(due) => next = next.into_iter().chain(due).min(),
                Err(exception) => why = self.fail(number, &exception, out).or(why),
            }
        }
        self.shared.timed = next.is_some();
        (next, why)
    }

    /// The outbox has room again.
    pub(crate) fn has_room(&mut self) {
        let open: Vec<u16> = self.channels.keys().copied().collect();
        for number in open {
            if let Some(Slot::Open(channel)) = self.channels.get_mut(&number) {
                channel.has_room();
                touch(&mut self.touched, number);
            }
        }
    }

    /// Hands commands over and gives the confirms that can be given.
    pub(crate) fn send(&mut self, shards: &dyn Shards, out: &mut Out) -> bool {
        let mut queued = false;
        let mut touched = std::mem::take(&mut self.touched);
        for number in touched.drain(..) {
            if let Some(Slot::Open(channel)) = self.channels.get_mut(&number) {
                if let Err(exception) = channel.give_kept(&self.shared, out) {
                    exception.of_connection().write(0, out.tail());
                    self.phase = Phase::Over;
                }
                queued |= channel.send(shards);
                channel.confirm(out);
            }
        }
        self.touched = touched;
        queued
    }

    /// What is left to do without the lock.
    pub(crate) fn after(&mut self) -> After {
        After {
            run: false,
            act: !self.shared.actions.is_empty(),
            resume: std::mem::take(&mut self.shared.wake),
        }
    }

    /// What is left to do, to be asked for again with [`Session::after`].
    pub(crate) fn pending(&self) -> After {
        After {
            run: false,
            act: !self.shared.actions.is_empty(),
            resume: self.shared.wake,
        }
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.shared.actions)
    }

    pub(crate) fn asker(&self) -> &Asker {
        &self.shared.asker
    }

    pub(crate) fn topology(&self) -> Option<Arc<Topology>> {
        self.shared.topology.clone()
    }
}

/// Notes a channel that may have something to send.
fn touch(touched: &mut Vec<u16>, number: u16) {
    if touched.last() != Some(&number) {
        touched.push(number);
    }
}

/// Appends a method.
pub(super) fn say(method: &Method<'_>, channel: u16, out: &mut Out) {
    if let Err(error) = method.encode(channel, out.tail()) {
        tracing::error!(%error, ?method, "a method cannot be written");
    }
}

pub(super) fn unexpected_frame(text: &str) -> Exception {
    Exception::new(ReplyCode::UnexpectedFrame, text)
}

pub(super) fn channel_error(text: &str) -> Exception {
    Exception::new(ReplyCode::ChannelError, text)
}
