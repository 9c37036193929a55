//! One client's conversation: packets and events in, packets and actions out.
//!
//! ```text
//! packet ──▶ input() ──▶ Action: log in, publish, subscribe     (carried out by the service, outside any lock)
//!               │            │
//! bytes ◀── answers ◀── accept(), complete(), subscribed() ◀── outcome
//! bytes ◀────────────── deliver(), pump() ◀── router, retained values
//! ```
//!
//! No I/O: the time comes in with [`Cx`], randomness with [`Session::greet`]. `connect` agrees on the limits,
//! `receiving` is what the client publishes, `subscribing` what it wants, `sending` what it gets, with
//! `kept` for what is in flight without a subscription,
//! `proving` is the authentication that takes more than a password,
//! `outbound` for the packet ids and the window and `frame` for the bytes. [`State`] is what outlives the
//! connection. `place` is where the topics of a client lie, `judging` what becomes of it when its rights change.

mod alias;
mod connect;
pub(crate) mod feed;
mod frame;
mod hooked;
mod judging;
pub(crate) mod kept;
mod outbound;
mod place;
mod proving;
mod rare;
mod rate;
mod receiving;
mod selecting;
mod sending;
mod subscribing;
mod subscriptions;
mod tag;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::{CachedGrants, Grants, Principal};
use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::{Origin, SharedMessage};
use longtail_broker::retained::RetainedStore;
use longtail_model::{Seq, Timestamp};

use crate::access::Admission;
use crate::codec::{Packet, PacketId, Qos, ReasonCode, Version};
use crate::config::Limits;
use crate::counters::{Counters, Drops, Tally};
use crate::durable::incoming::Entry;
use crate::exclusive::Exclusive;
use crate::hooks::{self, Hooked, Permission, Permits, Wish};
use crate::message::Will;
use crate::usage::Share;

pub use connect::{Demand, Hello, Refused};
pub(crate) use place::judged;
pub use proving::Proof;
pub use receiving::{Release, Ticket};
pub(crate) use subscribing::{Held, routed};
pub use subscribing::{Subscribing, Unsubscribing, Wanted};
pub(crate) use subscriptions::Subscriptions;
pub use tag::Tag;

use alias::AliasTable;
use feed::{Duty, Feed};
use outbound::Outbound;
use place::Place;
use proving::Proving;
use rare::Rare;
use receiving::Receiving;
use sending::Replay;

/// Where packets are appended.
pub trait Outbox {
    /// The buffer to append to. What is in it already stays as it is.
    fn tail(&mut self) -> &mut Vec<u8>;

    /// Appends without copying what is long.
    fn put_shared(&mut self, bytes: Bytes);

    /// Whether so much waits to be read by the client that nothing more should be produced for now.
    fn is_full(&self) -> bool;

    /// Whether so many bytes more can be appended before it is full.
    fn has_room(&self, bytes: usize) -> bool;

    /// Has [`Session::pump`] called when it is full no longer.
    fn ask_for_room(&mut self);
}

/// What a session needs of the world.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// The settings.
    pub limits: &'a Limits,
    /// The time.
    pub now: Timestamp,
    /// The retained messages of the space.
    pub retained: &'a RetainedStore,
    /// What the server says of itself, under `$SYS`.
    pub sys: &'a RetainedStore,
    /// Who has which filter for itself.
    pub exclusive: &'a Exclusive,
    /// Where drops are counted.
    pub counters: &'a Counters,
    /// What accounts may do by now; `None`: everything.
    pub rights: Option<&'a dyn Admission>,
}

/// Something to be done that the session cannot do itself. In the order in which the client asked for it.
#[derive(Debug)]
pub enum Action {
    /// Check who it is, find its session; then it is taken in, or told why not.
    Login(Box<Demand>),
    /// Ask the method what it thinks of this; then [`Session::challenge`], [`Session::proved`] and the
    /// login goes on, or [`Session::reproved`].
    Prove(Box<Proof>),
    /// Publish; then [`Session::complete`] if there is a ticket.
    Publish {
        /// What.
        message: SharedMessage,
        /// Of the acknowledgement that waits for it.
        ticket: Option<Ticket>,
    },
    /// Write a QoS 2 message down, unless it is or is being written; then [`Session::complete`].
    Store {
        /// What.
        message: SharedMessage,
        /// What is written of it.
        entry: Arc<Entry>,
        /// Of the acknowledgement that waits for it.
        ticket: Ticket,
    },
    /// Publish what the log has until now, and remove it there; then [`Session::complete`].
    Release {
        /// What.
        message: SharedMessage,
        /// What the log has.
        release: Release,
        /// Of the acknowledgement that waits for it.
        ticket: Ticket,
    },
    /// Add to the router; then [`Session::subscribed`].
    Subscribe(Box<Subscribing>),
    /// Take from the router; then [`Session::unsubscribed`].
    Unsubscribe(Box<Unsubscribing>),
    /// Nothing; then [`Session::pong`].
    Ping,
}

/// What follows a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// More is welcome.
    Read,
    /// Nothing more until the login is decided, or the router has heard of the subscriptions.
    Pause,
    /// The conversation is over: what is in the outbox is sent, then the connection closed.
    Close(Goodbye),
}

/// Why a conversation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// The client has said so.
    Disconnected,
    /// The client broke the rules.
    Broken(ReasonCode, &'static str),
    /// The client was not let in.
    Refused(ReasonCode),
}

/// A rule that a client broke, and what it is told where that is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) ReasonCode, pub(crate) &'static str);

/// What outlives a connection, for as long as the session expiry says.
#[derive(Debug, Default)]
#[repr(C)]
pub struct State {
    outbound: Outbound,
    /// By the text of the filter, `$share` included.
    pub(crate) subscriptions: Subscriptions,
    /// Names a session that outlives its connection; 0: it does not.
    pub(crate) number: u64,
    unreleased: receiving::Unreleased,
    /// Messages that the client did not get.
    drops: Drops,
    /// Whose it was when its connection ended.
    about: Option<Box<About>>,
}

/// What an operator wants to know of a session whose client is away.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// The client's account, where there are accounts.
    pub(crate) account: Option<Arc<str>>,
    /// The version it spoke.
    pub(crate) version: Version,
}

impl State {
    /// A QoS 2 message that awaits its PUBREL was found under this number.
    pub(crate) fn restore_incoming(&mut self, id: u16, message: SharedMessage, seq: Seq) {
        let entry = Entry::written(self.number, id, seq);
        let held = receiving::Held::new(Some(message), Some(Arc::new(entry)));
        self.unreleased.insert(id, held);
    }

    /// What is written of QoS 2 messages that await their PUBREL.
    pub(crate) fn incoming(&self) -> impl Iterator<Item = &Entry> {
        self.unreleased.values().filter_map(receiving::Held::entry)
    }

    /// It was found that the PUBREL of this message is due.
    pub(crate) fn restore_duty(&mut self, duty: &Duty) {
        self.outbound.restore_duty(duty.id, duty.send);
    }

    /// The ids of messages whose PUBREL is due, as the log knows.
    pub(crate) fn duties(&self) -> impl Iterator<Item = PacketId> {
        self.outbound.duties()
    }

    /// What is known of a session when the process starts.
    pub(crate) fn restored(number: u64, subscriptions: Subscriptions) -> Self {
        State {
            subscriptions,
            number,
            ..State::default()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The login is not decided.
    Greeting,
    /// Likewise: it is the client's turn to say more.
    Proving,
    Open,
    /// Nothing that comes matters any more.
    Over,
}

/// The state of one connection. In this order: what every message to the client looks at lies together, from the end of
/// the tally to the beginning of the hello and of the state.
#[derive(Debug)]
#[repr(C)]
pub struct Session {
    origin: Origin,
    grants: CachedGrants,
    /// Who it is, where there are accounts.
    principal: Option<Principal>,
    /// How it proves who it is, if not by name and password alone.
    proving: Option<Box<Proving>>,
    will: Option<Box<Will>>,
    /// Of a client that publishes.
    receiving: Rare<Receiving>,
    replays: Rare<VecDeque<Replay>>,
    feed: Option<Box<Feed>>,
    /// Of a client whose account may have so many subscriptions and no more.
    share: Option<Box<Share>>,
    tally: Tally,
    hooked: Hooked,
    aliases: Option<Box<AliasTable>>,
    /// Where its topics are, if not where they say.
    place: Option<Box<Place>>,
    /// What hooks have said that take their time.
    permits: Option<Box<Permits>>,
    phase: Phase,
    /// Whether it is one that the client comes back to.
    present: bool,
    /// The client has to go as soon as somebody looks.
    expelled: Option<ReasonCode>,
    /// Messages that may be in flight to the client.
    window: u16,
    hello: Hello,
    state: State,
}

/// How a session leaves its connection.
#[derive(Debug)]
pub struct Left {
    /// Seconds that it lives on.
    pub expiry_s: u32,
    /// What is left of it.
    pub state: State,
    /// The will, unless the client has taken it back.
    pub will: Option<Box<Will>>,
}

/// What a session holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Subscriptions.
    pub subscriptions: usize,
    /// Those of them that are shared.
    pub shared: usize,
    /// Messages that wait behind the window.
    pub queued: usize,
    /// Payload bytes of these.
    pub queued_bytes: usize,
    /// Messages sent and not acknowledged.
    pub in_flight: usize,
    /// Messages taken at QoS 2 whose PUBREL has not come.
    pub unreleased: usize,
    /// Messages that the client did not get.
    pub drops: Drops,
}

impl State {
    /// What it holds.
    pub(crate) fn levels(&self) -> Levels {
        let held = self.subscriptions.values();
        Levels {
            subscriptions: self.subscriptions.len(),
            shared: held.filter(|held| held.group.is_some()).count(),
            queued: self.outbound.queued(),
            queued_bytes: self.outbound.queued_bytes(),
            in_flight: self.outbound.in_flight(),
            unreleased: self.unreleased.len(),
            drops: self.drops,
        }
    }

    pub(crate) fn about(&self) -> Option<&About> {
        self.about.as_deref()
    }

    /// The messages that wait in memory, in their order, at the QoS at which they are sent.
    pub(crate) fn queued_messages(&self) -> Vec<(SharedMessage, Qos, Option<PacketId>)> {
        self.outbound.queued_messages()
    }

    /// The messages in flight whose PUBLISH is not answered, in the order of sends.
    pub(crate) fn sent_messages(&self) -> Vec<(SharedMessage, Qos, Option<PacketId>)> {
        self.outbound.sent_messages()
    }

    /// Counts messages that were accepted for the session and not sent after all.
    fn drop_messages(&mut self, cx: &Cx<'_>, reason: DropReason, count: u64) {
        self.drops.add(reason, count);
        cx.counters.drop_messages(reason, count);
    }
}

impl Session {
    fn new(hello: Hello, will: Option<Box<Will>>) -> Self {
        let tally = Tally::default();
        // CONNECT.
        tally.packet_in();
        Session {
            phase: Phase::Greeting,
            origin: Origin::default(),
            grants: CachedGrants::new(Grants::nothing()),
            principal: None,
            proving: None,
            tally,
            will,
            receiving: Rare::default(),
            window: 0,
            aliases: None,
            replays: Rare::default(),
            state: State::default(),
            present: false,
            feed: None,
            expelled: None,
            hooked: Hooked::default(),
            share: None,
            place: None,
            permits: None,
            hello,
        }
    }

    /// The client's identifier.
    #[must_use]
    pub fn client_id(&self) -> &Arc<str> {
        &self.hello.client_id
    }

    /// What was agreed on.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Whether packets are carried out: the client is in and has not left.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether its login is not decided.
    #[must_use]
    pub fn is_greeting(&self) -> bool {
        self.phase == Phase::Greeting
    }

    /// Nothing that comes matters any more.
    pub fn cut(&mut self) {
        self.phase = Phase::Over;
    }

    /// What went through it since it was last asked.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The client's account, where there are accounts.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<str>> {
        self.principal.as_ref().map(|principal| &principal.account)
    }

    /// Who it has proved to be, where there are accounts.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// What it holds.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.state.levels()
    }

    /// What the client may do.
    #[must_use]
    pub fn grants(&self) -> &Arc<Grants> {
        self.grants.grants()
    }

    /// What outlives the connection.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// The will, unless the client has taken it back.
    pub(crate) fn will(&self) -> Option<&Will> {
        self.will.as_deref()
    }

    fn version(&self) -> Version {
        self.hello.version
    }

    /// Carries out one packet. Answers that can be given at once go to `out`, what the service has to do is appended
    /// to `actions`.
    pub fn input(
        &mut self,
        packet: &Packet<'_>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
        out: &mut impl Outbox,
    ) -> Next {
        match self.phase {
            Phase::Greeting => return Next::Pause,
            Phase::Over => return Next::Close(Goodbye::Disconnected),
            Phase::Proving => {
                self.tally.packet_in();
                return self.prove(packet, cx.limits, actions, out);
            }
            Phase::Open => {}
        }
        self.tally.packet_in();
        match self.carry_out(packet, cx, actions, out) {
            Ok(next) => next,
            Err(broken) => self.broken(broken, cx.limits, out),
        }
    }

    fn carry_out(
        &mut self,
        packet: &Packet<'_>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
        out: &mut impl Outbox,
    ) -> Result<Next, Broken> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, cx, actions, out)?,
            Packet::Puback(ack) => self.puback(ack, cx, out)?,
            Packet::Pubrec(ack) => self.pubrec(ack, cx, out)?,
            Packet::Pubrel(ack) => self.pubrel(ack, cx, actions, out)?,
            Packet::Pubcomp(ack) => self.pubcomp(ack, cx, out)?,
            // What follows is answered behind it.
            Packet::Subscribe(subscribe) => {
                self.subscribe(subscribe, cx, actions)?;
                return Ok(Next::Pause);
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(unsubscribe, cx, actions)?;
                return Ok(Next::Pause);
            }
            // Behind what the client has published to itself.
            Packet::Pingreq if !actions.is_empty() => actions.push(Action::Ping),
            Packet::Pingreq => self.pong(out),
            Packet::Disconnect(disconnect) => {
                if let Some(expiry_s) = disconnect.properties.session_expiry_s {
                    if self.hello.expiry_s == 0 && expiry_s != 0 {
                        return Err(Broken(
                            ReasonCode::ProtocolError,
                            "a session without expiry was given one at the end",
                        ));
                    }
                    self.hello.expiry_s = expiry_s.min(cx.limits.session_expiry_max_s);
                }
                if disconnect.reason == ReasonCode::Success {
                    self.will = None;
                }
                self.phase = Phase::Over;
                return Ok(Next::Close(Goodbye::Disconnected));
            }
            Packet::Auth(auth) => self.prove_again(auth, actions)?,
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp => {
                return Err(Broken(ReasonCode::ProtocolError, "a packet out of place"));
            }
        }
        Ok(match self.expelled {
            None => Next::Read,
            Some(reason) => self.broken(Broken(reason, "the queue is full"), cx.limits, out),
        })
    }

    /// Answers a PINGREQ.
    pub fn pong(&self, out: &mut impl Outbox) {
        if self.is_open() {
            self.say(&Packet::Pingresp, out);
        }
    }

    /// Tells the client what it did wrong, if its version can say it, and ends the conversation.
    fn broken(
        &mut self,
        Broken(reason, why): Broken,
        limits: &Limits,
        out: &mut impl Outbox,
    ) -> Next {
        self.send_away(reason, limits, out);
        Next::Close(Goodbye::Broken(reason, why))
    }

    /// Tells the client to go; the will stays.
    pub fn expel(&mut self, reason: ReasonCode, out: &mut impl Outbox) {
        self.expel_to(reason, None, out);
    }

    /// As [`Session::expel`]; if it is sent elsewhere, with where that is.
    pub fn send_away(&mut self, reason: ReasonCode, limits: &Limits, out: &mut impl Outbox) {
        self.expel_to(reason, limits.reference_for(reason), out);
    }

    fn expel_to(&mut self, reason: ReasonCode, to: Option<&str>, out: &mut impl Outbox) {
        if self.phase == Phase::Open && self.version().is_v5() {
            let disconnect = crate::codec::Disconnect {
                reason,
                properties: crate::codec::DisconnectProperties {
                    server_reference: to,
                    ..crate::codec::DisconnectProperties::default()
                },
            };
            self.say(&Packet::Disconnect(disconnect), out);
        }
        self.phase = Phase::Over;
    }

    /// The session is not to outlive its connection, whatever was agreed on.
    pub fn end_with_connection(&mut self) {
        self.hello.expiry_s = 0;
    }

    /// Another connection takes the session.
    pub fn take_over(&mut self, out: &mut impl Outbox) -> Left {
        self.expel(ReasonCode::SessionTakenOver, out);
        self.leave()
    }

    /// Takes what outlives the connection out of it.
    pub fn leave(&mut self) -> Left {
        self.phase = Phase::Over;
        self.feed = None;
        self.state.outbound.forget_streams();
        self.state.about = Some(Box::new(About {
            account: self.account().cloned(),
            version: self.version(),
        }));
        Left {
            expiry_s: self.hello.expiry_s,
            state: std::mem::take(&mut self.state),
            will: self.will.take(),
        }
    }

    /// Whether the client has to go although nothing came from it; once.
    pub fn take_expelled(&mut self) -> Option<ReasonCode> {
        self.expelled.take()
    }

    /// What hooks have said that take their time.
    pub(crate) fn permits(&mut self) -> &mut Permits {
        self.permits.get_or_insert_default()
    }

    /// A packet was dealt with about which they may have been asked.
    pub(crate) fn dealt_with(&mut self, now: Timestamp) {
        if let Some(permits) = &mut self.permits {
            permits.dealt_with(now);
        }
    }

    /// What they are to be asked, once.
    pub(crate) fn take_open_wishes(&mut self) -> Option<Vec<Wish>> {
        self.permits.as_mut()?.take_open()
    }

    /// What they have said of this.
    fn permitted(&self, wish: impl FnOnce() -> Wish) -> Permission {
        match &self.permits {
            None => Permission::Next,
            Some(permits) => permits.of(&wish()),
        }
    }

    /// Writes a packet that is small and cannot fail to be written.
    fn say(&self, packet: &Packet<'_>, out: &mut impl Outbox) {
        if let Some(client) = self.hooked.wants(hooks::WRITING) {
            self.tally.packet_out();
            return hooks::say(client, packet, self.version(), out);
        }
        match packet.encode(self.version(), out.tail()) {
            Ok(()) => self.tally.packet_out(),
            Err(error) => tracing::error!(%error, "a packet cannot be written"),
        }
    }
}
