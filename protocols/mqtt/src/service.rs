//! The glue between the edge, which has the sockets, and the sessions.
//!
//! ```text
//! input (under the connection's lock) ──▶ actions ──▶ submit (without it) ──▶ router, registry
//! bytes ◀── complete, subscribed, accept (under it again) ◀────┘
//! ```
//!
//! Publishing happens in [`Protocol::submit`], when no lock is held: it takes the locks of the subscribers, and the
//! publisher may be one of them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use longtail_broker::ephemeral::{Burst, Run};
use longtail_broker::message::SharedMessage;
use longtail_edge::{
    CloseReason, Connection, ConnectionId, Draining, Idle, Input, Out, Protocol, Refusal, Then,
};
use longtail_model::Timestamp;

use crate::access::{Admission, Admitted, Denied, Login, Step};
use crate::client::Client;
use crate::codec::{Decoder, Fault, Packet, PacketLimits, ReasonCode};
use crate::durable::link;
use crate::hooks::{self, Chain, ClientInfo, Event, Points};
use crate::publish::{Outgoing, Released, Waiter, Whom, publish, publish_run, release};
use crate::registry::{Aftermath, Claim, Claimed};
use crate::seat::Membership;
use crate::session::{
    Action, Cx, Demand, Goodbye, Next, Outbox, Proof, Refused, Release, Session, Subscribing,
    Ticket, Unsubscribing,
};
use crate::tenant::{Deadline, Tenant};

thread_local! {
    /// Lists of actions that are not in use, so that an idle connection has none.
    static ACTIONS: RefCell<Vec<Vec<Action>>> = const { RefCell::new(Vec::new()) };
    /// Those of a turn.
    static LISTS: Cell<Lists> = const { Cell::new(Lists::new()) };
}

/// What is added to the time that a client may be silent, against clocks that are coarse.
const KEEP_ALIVE_SLACK: Duration = Duration::from_millis(300);

/// Lists that a thread keeps, and the room in each.
const LISTS_MAX: usize = 64;
const LIST_CAPACITY_MAX: usize = 4096;

/// The protocol, as the edge's listeners want it. Several listeners that let in different clients can share one
/// [`Tenant`].
pub struct Mqtt {
    tenant: Arc<Tenant>,
    admission: Arc<dyn Admission>,
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
        let chain = tenant.hooks().chain(&listener.into());
        Arc::new(Mqtt {
            tenant,
            admission,
            chain,
        })
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
            publish: self.tenant.limits().packet_bytes_max,
            ..PacketLimits::default()
        };
        Ok(Client::new(Decoder::for_server(limits)))
    }

    fn input(&self, client: &mut Client, input: &[u8], out: &mut Out) -> Input {
        let cx = self.tenant.cx();
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
        let then = loop {
            if session
                .as_ref()
                .is_some_and(|session| session.is_greeting())
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
            consumed += decoded.consumed;
            let next = match session {
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
        let actions = conn.with(|client, _| std::mem::take(&mut client.actions));
        let Some(mut actions) = actions else { return };
        if !actions.is_empty() {
            let mut turn = Turn {
                service: self,
                conn,
                burst: Burst::new(&self.tenant.space().counters),
                lists: LISTS.take(),
            };
            for action in actions.drain(..) {
                turn.carry_out(action);
            }
            turn.publish();
            turn.tell();
            turn.store();
            turn.lists.keep();
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
        Some(Duration::from_millis(
            self.tenant.limits().connect_timeout_ms,
        ))
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
            session.pump(&self.tenant.cx(), out);
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
            session.expel(ReasonCode::ServerShuttingDown, out);
        }
        Draining::Close
    }

    fn closed(&self, client: Client, _id: ConnectionId, why: &CloseReason) {
        let tenant = &self.tenant;
        if let Some(link) = client.link {
            tenant.durable().detach(link);
        }
        if let Some(timer) = client.login_ends {
            tenant.timers().cancel(*timer);
        }
        let Some(mut session) = client.session else {
            return;
        };
        tenant.counters().take_over(session.tally());
        let Some((epoch, _)) = client.seat else {
            return;
        };
        tenant.counters().connected.fetch_sub(1, Ordering::Relaxed);
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

    /// The client says something to prove who it is, with CONNECT and its name or later.
    fn prove(&self, conn: &Arc<Connection<Self>>, proof: &Proof, username: Option<&str>) {
        let known = conn.with(|client, _| {
            let session = client.session.as_ref()?;
            let exchange = client.exchange.take();
            Some((Arc::clone(session.client_id()), session.is_open(), exchange))
        });
        let Some((client_id, is_open, exchange)) = known.flatten() else {
            return;
        };
        let others = self.tenant.counters().connected.load(Ordering::Relaxed);
        let login = Login {
            client_id: &client_id,
            username,
            password: None,
            remote: conn.peer(),
            identity: conn.identity(),
            // One that is in is among them.
            connections: others.saturating_sub(u64::from(is_open)),
        };
        let step = match exchange {
            _ if proof.begins => self.admission.begin(&proof.method, &proof.data, &login),
            Some(exchange) => exchange.proceed(&proof.data, &login),
            None => Err(Denied {
                reason: ReasonCode::ProtocolError,
                why: "an answer that nobody has asked for".to_owned(),
            }),
        };
        match step {
            Ok(Step::Continue(data, exchange)) => {
                conn.with(|client, out| {
                    client.exchange = Some(exchange);
                    if let Some(session) = &mut client.session {
                        session.challenge(&data, out);
                    }
                });
                if !is_open {
                    conn.flush_soon();
                    conn.resume();
                }
            }
            Ok(Step::Done(admitted, data)) if is_open => self.proved_again(conn, admitted, &data),
            Ok(Step::Done(admitted, data)) => {
                conn.with(|client, _| {
                    if let Some(session) = &mut client.session {
                        session.proved(data);
                    }
                });
                self.decided(conn, &client_id, Ok(admitted));
            }
            Err(denied) if is_open => {
                tracing::info!(client = %client_id, peer = ?conn.peer(), why = denied.why, "no proof");
                self.tenant
                    .counters()
                    .unproven
                    .fetch_add(1, Ordering::Relaxed);
                end_login(conn);
            }
            Err(denied) => self.decided(conn, &client_id, Err(denied)),
        }
    }

    /// A client that is in has proved once more who it is: from now on it has the rights that it has by now.
    fn proved_again(&self, conn: &Arc<Connection<Self>>, admitted: Admitted, data: &[u8]) {
        let Admitted {
            grants,
            account,
            expires,
        } = admitted;
        let is_same = conn.with(|client, out| {
            let session = client.session.as_mut()?;
            let is_same = session.account() == account.as_ref();
            if is_same {
                session.reproved(grants, data, out);
            }
            Some(is_same)
        });
        match is_same.flatten() {
            Some(true) => self.ends_at(conn, expires),
            Some(false) => {
                tracing::info!(peer = ?conn.peer(), "a client has proved that it is somebody else");
                end_login(conn);
            }
            None => {}
        }
    }

    /// What a client has shown ends then.
    fn ends_at(&self, conn: &Arc<Connection<Self>>, at: Option<Timestamp>) {
        let timers = self.tenant.timers();
        let timer = at.map(|at| timers.set(at, Deadline::Login(Arc::downgrade(conn))));
        let before =
            conn.with(|client, _| std::mem::replace(&mut client.login_ends, timer.map(Box::new)));
        // It has gone meanwhile, or has shown something new.
        let old = before.map_or(timer, |before| before.map(|timer| *timer));
        if let Some(old) = old {
            timers.cancel(old);
        }
    }

    pub(crate) fn login(&self, conn: &Arc<Connection<Self>>, demand: Demand) {
        if let Some(proof) = &demand.proof {
            self.prove(conn, proof, demand.username.as_deref());
            return;
        }
        let client_id = conn.with(|client, _| {
            client
                .session
                .as_ref()
                .map(|session| Arc::clone(session.client_id()))
        });
        let Some(Some(client_id)) = client_id else {
            return;
        };
        let connections = self.tenant.counters().connected.load(Ordering::Relaxed);
        let login = Login {
            client_id: &client_id,
            username: demand.username.as_deref(),
            password: demand.password.as_deref(),
            remote: conn.peer(),
            identity: conn.identity(),
            connections,
        };
        if !self.admission.may_block(&login) {
            let admitted = self.admission.admit(&login);
            self.decided(conn, &client_id, admitted);
            return;
        }
        // Not on a thread that moves messages.
        let service = Arc::clone(conn.protocol());
        let conn = Arc::clone(conn);
        let id = Arc::clone(&client_id);
        let work = move || {
            let login = Login {
                client_id: &id,
                username: demand.username.as_deref(),
                password: demand.password.as_deref(),
                remote: conn.peer(),
                identity: conn.identity(),
                connections,
            };
            let admitted = service.admission.admit(&login);
            service.decided(&conn, &id, admitted);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn_blocking(work);
            }
            Err(_) => work(),
        }
    }

    /// The login is decided.
    pub(crate) fn decided(
        &self,
        conn: &Arc<Connection<Self>>,
        client_id: &Arc<str>,
        admitted: Result<Admitted, Denied>,
    ) {
        let tenant = &self.tenant;
        let origin = Tenant::origin(client_id);
        let Admitted {
            grants,
            account,
            expires,
        } = match admitted {
            Ok(admitted) => admitted,
            Err(denied) => {
                tracing::info!(client = %client_id, peer = ?conn.peer(), why = denied.why, "not let in");
                let is_full = [ReasonCode::QuotaExceeded, ReasonCode::ServerBusy];
                if !is_full.contains(&denied.reason) {
                    tenant.counters().unproven.fetch_add(1, Ordering::Relaxed);
                }
                self.refuse(conn, denied.reason);
                return;
            }
        };
        let authorized = conn.with(|client, _| {
            let session = client.session.as_mut()?;
            session.introduce(ClientInfo::new(
                Arc::clone(client_id),
                account.clone(),
                Some(conn.peer().clone()),
                session.hello().version,
                Arc::clone(&self.chain),
            ));
            let authorized = session.authorize(grants, account, origin, tenant.limits());
            let hello = session.hello();
            let claim = Claim {
                client_id: Arc::clone(&hello.client_id),
                conn: Arc::clone(conn),
                clean_start: hello.clean_start,
                expiry_s: hello.expiry_s,
            };
            Some(authorized.map(|()| (claim, hello.keep_alive_s)))
        });
        let (claim, keep_alive_s) = match authorized.flatten() {
            None => return,
            Some(Ok(claim)) => claim,
            Some(Err(refused)) => {
                self.refuse_with(conn, refused);
                return;
            }
        };
        conn.set_idle_timeout(keep_alive(keep_alive_s, tenant.limits().keep_alive_percent));
        let mut after = Aftermath::default();
        let claimed = tenant.registry().claim(&claim, tenant, &mut after);
        if claimed == Claimed::Full {
            self.refuse(conn, ReasonCode::QuotaExceeded);
        } else if expires.is_some() {
            self.ends_at(conn, expires);
        }
        after.carry_out(tenant);
    }

    pub(crate) fn refuse(&self, conn: &Arc<Connection<Self>>, reason: ReasonCode) {
        let refused = Refused {
            reason,
            silent: false,
            why: "refused",
        };
        self.refuse_with(conn, refused);
    }

    fn refuse_with(&self, conn: &Arc<Connection<Self>>, refused: Refused) {
        let tenant = &self.tenant;
        tenant.counters().refused.fetch_add(1, Ordering::Relaxed);
        conn.with(|client, out| {
            if let Some(session) = &mut client.session {
                self.chain.tell(Points::REFUSED, || Event::Refused {
                    client_id: Arc::clone(session.client_id()),
                    remote: conn.peer().clone(),
                    reason: refused.reason,
                });
                let version = session.hello().version;
                refused.write(version, tenant.limits(), out);
                session.cut();
            }
        });
        conn.close(CloseReason::Refused(refused.why.into()));
    }
}

/// The work of one connection in one tick.
struct Turn<'t> {
    service: &'t Mqtt,
    conn: &'t Arc<Connection<Mqtt>>,
    burst: Burst<'t>,
    lists: Lists,
}

/// What a turn gathers.
#[derive(Default)]
struct Lists {
    /// What is to be published together, see [`Run`].
    run: Vec<SharedMessage>,
    /// Theirs, one each.
    tickets: Vec<Option<Ticket>>,
    /// What was published and is to be acknowledged.
    published: Vec<(Ticket, ReasonCode)>,
    /// What streams are to keep.
    outgoing: Outgoing,
}

impl Lists {
    const fn new() -> Self {
        Lists {
            run: Vec::new(),
            tickets: Vec::new(),
            published: Vec::new(),
            outgoing: Outgoing::new(),
        }
    }

    /// Keeps their memory for the next turn of this thread.
    fn keep(&mut self) {
        let mut lists = std::mem::take(self);
        lists.run.clear();
        lists.tickets.clear();
        lists.published.clear();
        lists.outgoing.clear();
        if lists.run.capacity().max(lists.published.capacity()) <= LIST_CAPACITY_MAX {
            LISTS.set(lists);
        }
    }
}

impl Turn<'_> {
    fn carry_out(&mut self, action: Action) {
        if !matches!(action, Action::Publish { .. }) {
            self.publish();
        }
        match action {
            Action::Publish { message, ticket } => self.gather(message, ticket),
            Action::Store {
                message,
                entry,
                ticket,
            } => {
                let tenant = &self.service.tenant;
                let waiter = Waiter::new(Whom::Client(self.conn, ticket));
                let incoming = tenant.durable().incoming();
                incoming.store(&entry, &message, tenant.now(), waiter);
            }
            Action::Release {
                message,
                release: Release { seq, again },
                ticket,
            } => {
                let tenant = &self.service.tenant;
                let released = Released {
                    conn: self.conn,
                    ticket,
                    home: tenant.durable().home(),
                    stream: tenant.durable().incoming().stream(),
                    seq,
                    again,
                };
                let (space, outgoing) = (tenant.space(), &mut self.lists.outgoing);
                release(space, &mut self.burst, &message, &released, outgoing);
                if !again {
                    self.announce(&message, None);
                }
            }
            Action::Subscribe(subscribing) => {
                self.tell();
                self.subscribe(*subscribing);
            }
            Action::Unsubscribe(unsubscribing) => {
                self.tell();
                self.unsubscribe(*unsubscribing);
            }
            Action::Ping => {
                self.tell();
                self.conn.with(|client, out| {
                    if let Some(session) = &client.session {
                        session.pong(out);
                    }
                });
            }
            Action::Login(demand) => hooks::login(self.service, self.conn, *demand),
            Action::Prove(proof) => self.service.prove(self.conn, &proof, None),
        }
    }

    /// Tells hooks of a message that was published.
    fn announce(&self, message: &SharedMessage, reason: Option<ReasonCode>) {
        let chain = &self.service.chain;
        if chain.wants(hooks::PUBLISHING) {
            let client = self.conn.with(|client, _| {
                let session = client.session.as_ref()?;
                session.hooked().client().cloned()
            });
            chain.tell_published(client.flatten().as_ref(), message, reason);
        }
    }

    /// Keeps a message back until it is known whether the next can be published with it.
    fn gather(&mut self, message: SharedMessage, ticket: Option<Ticket>) {
        let first = self.lists.run.first();
        if first.is_some_and(|first| !Run::may_follow(first, &message)) {
            self.publish();
        }
        self.lists.run.push(message);
        self.lists.tickets.push(ticket);
    }

    /// Publishes what was gathered.
    fn publish(&mut self) {
        let space = self.service.tenant.space();
        let lists = &mut self.lists;
        let told = self.service.chain.wants(hooks::PUBLISHING);
        let mut announced = Vec::new();
        let reason = Run::new(&lists.run).and_then(|run| publish_run(space, &mut self.burst, &run));
        for (message, ticket) in lists.run.drain(..).zip(lists.tickets.drain(..)) {
            let reason = reason.or_else(|| {
                let whom = ticket.map(|ticket| Whom::Client(self.conn, ticket));
                let now = message.published;
                publish(
                    space,
                    &mut self.burst,
                    &message,
                    now,
                    whom,
                    &mut lists.outgoing,
                )
            });
            if let (Some(ticket), Some(reason)) = (ticket, reason) {
                lists.published.push((ticket, reason));
            }
            if told {
                announced.push((message, reason));
            }
        }
        for (message, reason) in announced {
            self.announce(&message, reason);
        }
    }

    /// Acknowledges what was published.
    fn tell(&mut self) {
        if self.lists.published.is_empty() {
            return;
        }
        let must_go = self.conn.with(|client, out| {
            if let Some(session) = &mut client.session {
                for (ticket, reason) in self.lists.published.drain(..) {
                    session.complete(ticket, reason, out);
                }
            }
            client.must_go(out)
        });
        if must_go == Some(true) {
            self.conn.close(link::NOT_DONE);
        }
    }

    /// Queues what streams are to keep; the edge's tick has it carried out.
    fn store(&mut self) {
        if !self.lists.outgoing.is_empty() {
            let outgoing = &mut self.lists.outgoing;
            self.service.tenant.streams().send(outgoing);
        }
    }

    fn membership(&self) -> Option<Membership> {
        self.conn.with(|client, _| client.membership()).flatten()
    }

    fn subscribe(&self, mut subscribing: Subscribing) {
        if subscribing.shares() && !self.has_link() {
            link::equip(self.conn, &self.service.tenant);
        }
        if self.has_link() {
            link::subscribe(self.conn, &self.service.tenant, subscribing);
            return;
        }
        let Some(membership) = self.membership() else {
            return;
        };
        let mut refused = Vec::new();
        for wanted in &mut subscribing.wanted {
            let Ok(subscription) = wanted else { continue };
            if let Err(error) = membership.subscribe(subscription) {
                tracing::warn!(%error, "a subscription is refused");
                if let Ok(subscription) = std::mem::replace(wanted, Err(ReasonCode::QuotaExceeded))
                {
                    refused.push(subscription);
                }
            }
        }
        let cx = self.service.tenant.cx();
        self.conn.with(|client, out| {
            if let Some(session) = &mut client.session {
                for wanted in &refused {
                    session.was_refused(wanted);
                }
                session.subscribed(subscribing, &cx, out);
            }
        });
        self.conn.resume();
    }

    /// Whether its session has a way to the streams.
    fn has_link(&self) -> bool {
        let link = self.conn.with(|client, _| client.link);
        link.flatten().is_some()
    }

    fn unsubscribe(&self, unsubscribing: Unsubscribing) {
        let Some(membership) = self.membership() else {
            return;
        };
        if self.has_link() {
            link::unsubscribe(self.conn, &self.service.tenant, &membership, unsubscribing);
            return;
        }
        let router = &self.service.tenant.space().router;
        for (_, held) in &unsubscribing.ended {
            router.unsubscribe(&held.filter, membership.target(), held.group.as_deref());
        }
        self.conn.with(|client, out| {
            if let Some(session) = &mut client.session {
                session.unsubscribed(unsubscribing, out);
            }
        });
        self.conn.resume();
    }
}

/// What a client has shown is worth nothing any more.
pub(crate) fn end_login(conn: &Arc<Connection<Mqtt>>) {
    conn.with(|client, out| {
        if let Some(session) = &mut client.session {
            session.expel(ReasonCode::NotAuthorized, out);
        }
    });
    conn.close(CloseReason::Refused("its login has ended".into()));
}

/// How long a client may be silent. The edge notes arrivals up to a sweep too early: nobody is to lose by that.
fn keep_alive(seconds: u16, percent: u32) -> Option<Duration> {
    let allowed = Duration::from_millis(u64::from(seconds) * u64::from(percent) * 10);
    (seconds > 0).then(|| allowed + KEEP_ALIVE_SLACK)
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
