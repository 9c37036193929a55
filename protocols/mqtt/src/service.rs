//! The glue between the edge, which has the sockets, and the sessions.
//!
//! ```text
//! input (under the connection's lock) ──▶ actions ──▶ submit (without it) ──▶ router, registry
//! bytes ◀── complete, subscribed, accept (under it again) ◀────┘
//! ```
//!
//! Publishing happens in [`Protocol::submit`], when no lock is held: it takes the locks of the subscribers, and the
//! publisher may be one of them. `login` is who comes in, `turn` what is carried out then.

mod login;
mod turn;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use longtail_edge::{
    CloseReason, Connection, ConnectionId, Draining, Idle, Input, Out, Protocol, Refusal, Then,
};

use crate::access::Admission;
use crate::client::Client;
use crate::codec::{Decoder, Fault, Packet, PacketLimits, ReasonCode};
use crate::config::Limits;
use crate::hooks::{self, Chain, Event, Points};
use crate::registry::Aftermath;
use crate::session::{Action, Cx, Goodbye, Next, Outbox, Session};
use crate::tenant::{Deadline, Tenant};
use turn::Turn;

pub(crate) use login::{end_login, end_of_life, keep_alive};
pub(crate) use turn::{subscribe, unsubscribe, welcomed};

thread_local! {
    /// Lists of actions that are not in use, so that an idle connection has none.
    static ACTIONS: RefCell<Vec<Vec<Action>>> = const { RefCell::new(Vec::new()) };
}

/// Lists of actions that a thread keeps, and the room in each.
const LISTS_MAX: usize = 64;
const LIST_CAPACITY_MAX: usize = 4096;

/// The protocol, as the edge's listeners want it. Several listeners that let in different clients can share one
/// [`Tenant`].
pub struct Mqtt {
    tenant: Arc<Tenant>,
    admission: Arc<dyn Admission>,
    /// What its clients find: the tenant's, where its listener does not say otherwise.
    limits: Limits,
    /// The hooks of its listener.
    chain: Arc<Chain>,
}

impl Mqtt {
    /// Serves the sessions of `tenant` to whom `admission` lets in.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, admission: Arc<dyn Admission>) -> Arc<Self> {
        Self::at("", tenant, admission)
    }

    /// As [`Mqtt::new`], for a listener with a name by which hooks can be added for its clients only.
    #[must_use]
    pub fn at(listener: &str, tenant: Arc<Tenant>, admission: Arc<dyn Admission>) -> Arc<Self> {
        let limits = tenant.limits().clone();
        Self::with_limits(listener, tenant, admission, limits)
    }

    /// As [`Mqtt::at`], for a listener with limits of its own. What is about sessions and their queues stays as the
    /// tenant has it: `sessions_max`, `queue_*`, `overlap`, `window` for sessions that are away, and delayed messages.
    #[must_use]
    pub fn with_limits(
        listener: &str,
        tenant: Arc<Tenant>,
        admission: Arc<dyn Admission>,
        limits: Limits,
    ) -> Arc<Self> {
        let chain = tenant.hooks().chain(&listener.into());
        Arc::new(Mqtt {
            tenant,
            admission,
            limits,
            chain,
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the sessions of its clients need of the world.
    pub(crate) fn cx(&self) -> Cx<'_> {
        Cx {
            limits: &self.limits,
            ..self.tenant.cx()
        }
    }

    pub(crate) fn admission(&self) -> &Arc<dyn Admission> {
        &self.admission
    }

    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// What its connections share.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }
}

impl Protocol for Mqtt {
    type Session = Client;

    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn websocket_subprotocols(&self) -> &'static [&'static str] {
        &["mqtt", "mqttv3.1"]
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<Client, Refusal> {
        let limits = PacketLimits {
            publish: self.limits.packet_bytes_max,
            ..PacketLimits::default()
        };
        Ok(Client::new(Decoder::for_server(limits)))
    }

    fn input(&self, client: &mut Client, input: &[u8], out: &mut Out) -> Input {
        let cx = self.cx();
        let mut consumed = 0;
        if client.actions.capacity() == 0 {
            client.actions = ACTIONS.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let Client {
            decoder,
            session,
            actions,
            ..
        } = client;
        let permits = self.chain.wants(Points::PERMIT);
        let then = loop {
            if session.as_ref().is_some_and(|session| {
                session.is_greeting() || session.is_resuming() || session.awaits_its_own()
            }) {
                break Then::Pause;
            }
            if session
                .as_mut()
                .is_some_and(|session| session.is_held_up(cx.now))
            {
                break Then::Pause;
            }
            if out.is_over_soft_limit() {
                break Then::Drain;
            }
            let decoded = match decoder.decode(input.get(consumed..).unwrap_or_default()) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break Then::Read,
                Err(error) => {
                    if session.as_ref().is_none_or(|session| session.is_open()) {
                        error.answer.encode(out.tail());
                    }
                    if let Some(session) = session {
                        session.cut();
                    }
                    break Then::Close(CloseReason::Malformed(error.to_string().into()));
                }
            };
            if permits
                && let Some(session) = session.as_mut().filter(|session| session.is_open())
                && hooks::ask_first(session, &decoded.packet, cx.now)
            {
                break Then::Pause;
            }
            consumed += decoded.consumed;
            let next = match session {
                Some(session) if permits => {
                    let packet = &decoded.packet;
                    let next = hooks::input(session, decoder, packet, &cx, actions, out);
                    session.dealt_with(cx.now);
                    next
                }
                Some(session) => hooks::input(session, decoder, &decoded.packet, &cx, actions, out),
                None => self.hello(&decoded.packet, session, &cx, actions, out),
            };
            match next {
                Next::Read => {}
                Next::Pause => break Then::Pause,
                Next::Close(goodbye) => break Then::Close(close_reason(goodbye)),
            }
        };
        client.queue(self.tenant.durable());
        Input { consumed, then }
    }

    fn submit(&self, conn: &Arc<Connection<Self>>) {
        let taken = conn.with(|client, _| {
            let wait = client.session_mut().and_then(Session::take_hold_up);
            let wishes = client.session_mut().and_then(Session::take_open_wishes);
            (std::mem::take(&mut client.actions), wait, wishes)
        });
        let Some((mut actions, wait, wishes)) = taken else {
            return;
        };
        if let Some(wishes) = wishes {
            hooks::asked(self, conn, wishes);
        }
        if let Some(until) = wait {
            let again = Deadline::Heard(Arc::downgrade(conn));
            self.tenant.timers().set(until, again);
        }
        if !actions.is_empty() {
            let mut turn = Turn::new(self, conn);
            for action in actions.drain(..) {
                turn.carry_out(action);
            }
            turn.end();
        }
        if actions.capacity() > 0 && actions.capacity() <= LIST_CAPACITY_MAX {
            ACTIONS.with_borrow_mut(|lists| {
                if lists.len() < LISTS_MAX {
                    lists.push(actions);
                }
            });
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.limits.connect_timeout_ms))
    }

    fn idle(&self, client: &mut Client, out: &mut Out) -> Idle {
        match &mut client.session {
            // Its login takes as long as it takes.
            Some(session) if session.is_greeting() => return Idle::Stay,
            Some(session) => session.expel(ReasonCode::KeepAliveTimeout, out),
            None => {}
        }
        Idle::Close
    }

    fn has_room(&self, client: &mut Client, out: &mut Out) {
        if let Some(session) = &mut client.session {
            session.pump(&self.cx(), out);
        }
        if client.queue(self.tenant.durable())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Not under this lock.
            let tenant = Arc::clone(&self.tenant);
            runtime.spawn(async move { tenant.durable().run() });
        }
    }

    fn draining(&self, client: &mut Client, out: &mut Out) -> Draining {
        if let Some(session) = &mut client.session {
            let reason = if self.limits.server_reference.is_empty() {
                ReasonCode::ServerShuttingDown
            } else {
                ReasonCode::UseAnotherServer
            };
            session.send_away(reason, &self.limits, out);
        }
        Draining::Close
    }

    fn closed(&self, mut client: Client, _id: ConnectionId, why: &CloseReason) {
        let tenant = &self.tenant;
        client.queue(tenant.durable());
        if let Some(link) = client.link.session() {
            tenant.durable().detach(link);
        }
        for timer in client.ends.iter().flat_map(|ends| ends.timers()) {
            tenant.timers().cancel(timer);
        }
        let Some(mut session) = client.session else {
            return;
        };
        tenant.counters().take_over(session.tally());
        let Some((epoch, _)) = client.seat else {
            return;
        };
        tenant.counters().client_gone(session.account());
        let silent = matches!(why, CloseReason::Draining | CloseReason::Shutdown);
        let client_id = Arc::clone(session.client_id());
        let left = session.leave();
        session
            .hooked()
            .tell(Points::DISCONNECTED, |client| Event::Disconnected {
                client,
                why: why.clone(),
                session_ends: left.expiry_s == 0,
            });
        let mut after = Aftermath::default();
        tenant
            .registry()
            .release(&client_id, epoch, left, silent, tenant, &mut after);
        after.carry_out(tenant);
    }
}

impl Mqtt {
    /// Deals with a packet as if a client had sent it. `None`: the client is not ready.
    ///
    /// # Errors
    /// When the bytes are not one packet of the client's version.
    pub(crate) fn inject(
        &self,
        client: &mut Client,
        bytes: &[u8],
        out: &mut Out,
    ) -> Option<Result<Option<CloseReason>, Fault>> {
        let cx = self.cx();
        let Client {
            decoder,
            session,
            actions,
            ..
        } = client;
        let session = session.as_mut().filter(|session| {
            session.is_open() && !session.is_resuming() && !session.awaits_its_own()
        })?;
        // What has come of the client's own packets stays where it is.
        let mut decoder = decoder.clone();
        let decoded = match decoder.decode(bytes) {
            Ok(Some(decoded)) if decoded.consumed == bytes.len() => decoded,
            Ok(Some(_)) => return Some(Err(Fault::Trailing)),
            Ok(None) => return Some(Err(Fault::Truncated)),
            Err(error) => return Some(Err(error.fault)),
        };
        let packet = &decoded.packet;
        let next = hooks::input(session, &mut decoder, packet, &cx, actions, out);
        client.queue(self.tenant.durable());
        Some(Ok(match next {
            Next::Read | Next::Pause => None,
            Next::Close(goodbye) => Some(close_reason(goodbye)),
        }))
    }

    /// The first packet.
    fn hello(
        &self,
        packet: &Packet<'_>,
        session: &mut Option<Box<Session>>,
        cx: &Cx<'_>,
        actions: &mut Vec<Action>,
        out: &mut Out,
    ) -> Next {
        let Packet::Connect(connect) = packet else {
            // The decoder lets nothing else through.
            let fault = Fault::NotConnect;
            tracing::error!(%fault, "a packet before CONNECT");
            return Next::Close(Goodbye::Refused(ReasonCode::ProtocolError));
        };
        match Session::greet(connect, fresh_id, cx.limits, cx.now) {
            Ok((greeting, demand)) => {
                *session = Some(Box::new(greeting));
                actions.push(Action::Login(Box::new(demand)));
                Next::Pause
            }
            Err(refused) => {
                refused.write(connect.version, cx.limits, out);
                self.tenant
                    .counters()
                    .refused
                    .fetch_add(1, Ordering::Relaxed);
                tracing::debug!(client = connect.client_id, why = refused.why, "refused");
                Next::Close(Goodbye::Refused(refused.reason))
            }
        }
    }
}

/// 128 random bits.
fn fresh_id() -> String {
    let (high, low): (u64, u64) = (rand::random(), rand::random());
    format!("{high:016x}{low:016x}")
}

fn close_reason(goodbye: Goodbye) -> CloseReason {
    match goodbye {
        Goodbye::Disconnected => CloseReason::Finished,
        Goodbye::Broken(reason, why) => {
            CloseReason::Malformed(format!("{why} ({reason:?})").into())
        }
        Goodbye::Refused(reason) => CloseReason::Refused(format!("{reason:?}").into()),
    }
}

impl Outbox for Out {
    fn tail(&mut self) -> &mut Vec<u8> {
        Out::tail(self)
    }

    fn put_shared(&mut self, bytes: Bytes) {
        self.put_bytes(bytes);
    }

    fn is_full(&self) -> bool {
        self.is_over_soft_limit()
    }

    fn has_room(&self, bytes: usize) -> bool {
        Out::has_room(self, bytes)
    }

    fn ask_for_room(&mut self) {
        Out::ask_for_room(self);
    }
}
