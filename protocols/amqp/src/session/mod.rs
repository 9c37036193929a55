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
//! in order although they come from several shards and from the catalog. A channel that ends meanwhile gives up the answer
//! of its shards. Publishes and settlements wait for nothing.

mod about;
mod channel;
mod confirms;
mod consuming;
pub(crate) mod content;
mod declaring;
mod delivering;
mod filtering;
mod offering;
mod ops;
mod pairs;
mod pausing;
mod places;
mod publishing;
mod reading;
mod recovering;
mod replying;
pub(crate) mod routing;
mod settling;
mod shared;
mod slots;
mod start;
mod tapping;
mod template;
#[cfg(test)]
mod tests;
mod timeouts;
mod transacting;
mod unacked;
mod unheard;
mod way;
mod writing;

use std::sync::Arc;

use hashbrown::HashMap;
use longtail_broker::auth::{CachedGrants, Grants};
use longtail_edge::{CloseReason, Input, Out, Then};
use longtail_engine::runtime::Shards;
use longtail_engine::{Effect, Message};
use longtail_model::{SessionId, ShardId, Timestamp};

use crate::codec::{
    Decoder, Frame, FrameKind, Greeting, Level, Method, PROTOCOL_HEADER, ReplyCode,
};
use crate::config::Config;
use crate::exception::Exception;
use crate::replies::{Mailbox, Place, Reply};
use crate::subjects::Told;
use crate::tenant::Tenant;
use crate::topology::{Asker, Topology};
pub use about::{ChannelState, ConnectionState, ConsumerState, Counts, given_name};
use channel::Channel;
pub(crate) use consuming::is_stored;
pub(crate) use ops::{Action, Op, Outcome, Request};
pub use pairs::{Drawn, Published};
pub(crate) use publishing::Laying;
pub(crate) use shared::Credentials;
use shared::Shared;
pub(crate) use unheard::Unheard;
pub(crate) use way::Parting;

/// Sessions of the engine that have ended.
pub(crate) type Ended = Vec<Parting>;

/// Which session of the engine an effect comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The channel's own, at the shard of this number.
    Shard(usize),
    /// That of a consumer that reads a stream.
    Reader(u32),
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
    /// Something is short: it may not publish, and is not read from because it has tried to.
    is_blocked: bool,
    /// It is of this process, and never blocked.
    is_inside: bool,
    /// Channels that may have something to send, to the shards or to the client.
    touched: Vec<u16>,
    shared: Shared,
}

/// A channel is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

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
            is_blocked: false,
            is_inside: false,
            touched: Vec::new(),
            shared: Shared::new(connection, mailbox),
        }
    }

    /// Says what is particular about the connection, before anything is said: the largest frame that it is offered, and
    /// whom its certificate names.
    pub(crate) fn introduce(&mut self, frame_max: Option<u32>, certified: Option<String>) {
        self.frame_max = frame_max;
        self.certified = certified;
    }

    /// Says that the connection is of this process.
    pub(crate) fn is_of_this_process(&mut self) {
        self.is_inside = true;
    }

    /// Whether the client is still on its way into its vhost.
    pub(crate) fn is_at_the_door(&self) -> bool {
        !matches!(self.phase, Phase::Running | Phase::Over)
    }

    /// Carries out what is in `input`, which holds every byte not consumed yet.
    pub fn input(&mut self, input: &[u8], tenant: &Tenant, out: &mut Out) -> Input {
        let mut consumed = 0;
        let then = loop {
            if self.phase == Phase::Over {
                consumed = input.len();
                break Then::Read;
            }
            if self.shared.busy.is_some() {
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
                Ok(Some((_, frame))) if self.is_held_back(&frame, tenant, out) => {
                    break Then::Pause;
                }
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

    /// Whether a frame has to wait because something is short: the client is told once.
    fn is_held_back(&mut self, frame: &Frame<'_>, tenant: &Tenant, out: &mut Out) -> bool {
        let publishes = frame.kind == FrameKind::Method
            && Method::id_of(frame.payload) == Channel::PUBLISH
            && !self.is_inside;
        if !publishes || !tenant.alarms().are_raised() {
            return false;
        }
        if !std::mem::replace(&mut self.is_blocked, true) {
            self.shared.actions.push(Action::Blocked);
            if self.shared.capabilities.connection_blocked {
                let reason = tenant.alarms().short().reason();
                say(&Method::ConnectionBlocked { reason }, 0, out);
            }
        }
        true
    }

    /// Nothing is short any more. `Some`: it was blocked, and these are the seconds between its heartbeats.
    pub(crate) fn unblock(&mut self, out: &mut Out) -> Option<u16> {
        if !std::mem::take(&mut self.is_blocked) {
            return None;
        }
        if self.shared.capabilities.connection_blocked {
            say(&Method::ConnectionUnblocked {}, 0, out);
        }
        Some(self.shared.introduction.heartbeat)
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
                if self.publishes_again(frame) {
                    return Ok(());
                }
                let id = Method::id_of(frame.payload);
                let method = Method::decode(frame.payload)
                    .map_err(|fault| Exception::from(fault).about(id).of_connection())?;
                let outcome = if frame.channel == 0 {
                    self.connection_method(&method, tenant)
                } else {
                    self.channel_method(frame.channel, &method, out)
                };
                outcome.map_err(|exception| exception.about(id))?;
                if id == Channel::PUBLISH
                    && let Some(Slot::Open(channel)) = self.channels.get_mut(&frame.channel)
                {
                    channel.note_publish(frame.payload, &self.shared);
                }
                Ok(())
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

    /// Whether a method is the `basic.publish` that the channel has seen last, octet for octet: then that is done.
    fn publishes_again(&mut self, frame: &Frame<'_>) -> bool {
        let Some(Slot::Open(channel)) = self.channels.get_mut(&frame.channel) else {
            return false;
        };
        let again = channel.publish_again(frame.payload, &self.shared);
        if again {
            touch(&mut self.touched, frame.channel);
        }
        again
    }

    /// What the client may do has changed.
    pub(crate) fn set_grants(&mut self, grants: Arc<Grants>) {
        self.shared.grants = CachedGrants::new(grants);
        for slot in self.channels.values_mut() {
            if let Slot::Open(channel) = slot {
                channel.remembered = None;
                channel.published_last = None;
            }
        }
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

    /// A consumer that reads a stream is attached to its shard; `false`: it is not wanted any more.
    pub(crate) fn attached(
        &mut self,
        (number, incarnation): (u16, u32),
        consumer: u32,
        session: (ShardId, SessionId),
    ) -> bool {
        let Some(channel) = self.channel(number, incarnation) else {
            return false;
        };
        let attached = channel.attached(consumer, session);
        touch(&mut self.touched, number);
        attached
    }

    /// The stream that a consumer reads is gone.
    pub(crate) fn queue_gone(&mut self, at: Place, consumer: u32, out: &mut Out) {
        if let Some(Slot::Open(channel)) = self.channels.get_mut(&at.channel)
            && channel.incarnation() == at.incarnation
        {
            channel.queue_gone(consumer, &mut self.shared, out);
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
    ///
    /// # Errors
    /// The channel is gone.
    pub(crate) fn effect(
        &mut self,
        at: (u16, u32, Origin),
        effect: &Effect,
        messages: &[Option<Message<'_>>],
        tenant: &Tenant,
        out: &mut Out,
    ) -> Result<Option<CloseReason>, Gone> {
        let (number, incarnation, origin) = at;
        let Some(Slot::Open(channel)) = self.channels.get_mut(&number) else {
            return Err(Gone);
        };
        if channel.incarnation() != incarnation {
            return Err(Gone);
        }
        touch(&mut self.touched, number);
        if self.shared.timed {
            let asked = &mut self.shared.asked;
            self.shared.now = *asked.get_or_insert_with(|| tenant.now());
        }
        let outcome = channel.effect(origin, effect, messages, &mut self.shared, tenant, out);
        let failed = outcome.err();
        Ok(failed.and_then(|exception| self.fail(number, &exception, out)))
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
        self.shared.asked = None;
        let mut queued = false;
        let mut failed = None;
        let mut touched = std::mem::take(&mut self.touched);
        for number in touched.drain(..) {
            if let Some(Slot::Open(channel)) = self.channels.get_mut(&number) {
                channel.recover_on(&mut self.shared, out);
                let given = channel.give_kept(&mut self.shared, out);
                queued |= channel.send(shards);
                channel.confirm(out);
                failed = failed.or(given.err());
            }
        }
        self.touched = touched;
        if let Some(exception) = failed.filter(|_| self.phase != Phase::Over) {
            let why = self.fail(0, &exception, out);
            self.shared.actions.extend(why.map(Action::Close));
        }
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
