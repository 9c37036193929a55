//! The glue between the edge, which has the sockets, and the shards and the catalog.
//!
//! Commands are queued while the connection's lock is held, so that they keep their order. What may wait (logins, the
//! catalog), or takes a shard's lock (attaching, detaching), is an action: carried out in [`Protocol::submit`] and in
//! [`Sink::flush`], when no lock is held, or in a task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use longtail_edge::{
    CloseReason, Connection, ConnectionId, Draining, Ended as Ending, Idle, Input, Out, Protocol,
    Refusal, Then,
};
use longtail_engine::runtime::{Shards, Sink, run_once_deep};
use longtail_engine::{Effect, Message, QUIET};
use longtail_model::{ShardId, Timestamp};
use tokio::runtime::Handle;

use crate::access::{Admission, Denied, Login};
use crate::census::name_of;
use crate::codec::{HEARTBEAT, ReplyCode};
use crate::config::Config;
use crate::exception::Exception;
use crate::replies::{Mailbox, Place, Reply};
use crate::session::{Action, After, Ended, Gone, Laying, Op, Origin, Session, Unheard};
use crate::streams::Outgoing;
use crate::subjects::Told;
use crate::tenant::Tenant;
use crate::topology::Topology;

/// The protocol, as the edge's listeners want it. Several listeners that let in different clients can share one
/// [`Tenant`].
pub struct Amqp {
    tenant: Arc<Tenant>,
    admission: Arc<dyn Admission>,
    /// Its connections come from this process and are none that anybody looks at.
    inside: bool,
    /// Largest frame that they are offered, where that is not as at all listeners.
    frame_max: Option<u32>,
}

/// What is added to the time that a client may be silent: the edge notes arrivals up to a sweep too early.
const SILENCE_SLACK: Duration = Duration::from_millis(500);

type Conn = Connection<Amqp>;

impl Amqp {
    /// Serves the queues of `tenant` to whom `admission` lets in.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, admission: Arc<dyn Admission>) -> Arc<Self> {
        let inside = false;
        Arc::new(Amqp {
            tenant,
            admission,
            inside,
            frame_max: None,
        })
    }

    /// The same for connections inside WebSocket, which are offered small frames.
    #[must_use]
    pub fn over_websocket(tenant: Arc<Tenant>, admission: Arc<dyn Admission>) -> Arc<Self> {
        Arc::new(Amqp {
            tenant,
            admission,
            inside: false,
            frame_max: Some(Config::FRAME_MIN),
        })
    }

    /// The same for connections from this process, which are not in the census.
    #[must_use]
    pub fn inside(tenant: Arc<Tenant>, admission: Arc<dyn Admission>) -> Arc<Self> {
        let inside = true;
        Arc::new(Amqp {
            tenant,
            admission,
            inside,
            frame_max: None,
        })
    }

    pub(crate) fn admission(&self) -> &Arc<dyn Admission> {
        &self.admission
    }

    fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.tenant.config().handshake_timeout_ms)
    }

    /// What its connections share.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }
}

/// What the edge keeps for one connection.
pub struct Client {
    session: Session,
    /// Where tasks of the connection run.
    runtime: Handle,
    /// When it came. Handshakes go by real time.
    since: Instant,
}

impl Client {
    /// Whether it has been at the door too long. One that says nothing is seen by the edge.
    fn lingers(&self, limit: Duration) -> bool {
        self.session.is_at_the_door() && self.since.elapsed() > limit
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Protocol for Amqp {
    type Session = Client;

    fn name(&self) -> &'static str {
        "amqp"
    }

    fn websocket_subprotocols(&self) -> &'static [&'static str] {
        &["amqp", "amqp091", "amqp0-9-1", "amqp-0-9-1"]
    }

    fn open(
        self: &Arc<Self>,
        conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<Client, Refusal> {
        let runtime = Handle::try_current().map_err(|error| Refusal {
            why: error.to_string().into(),
            farewell: bytes::Bytes::new(),
        })?;
        let mailbox = Arc::new(Inbox(Arc::downgrade(conn)));
        let number = self.tenant.connected(self.inside);
        if !self.inside {
            self.tenant.census().add(number, conn);
        }
        let mut session = Session::new(number, mailbox);
        let certified = conn
            .identity()
            .and_then(|known| known.names().into_iter().next());
        session.introduce(self.frame_max, certified);
        if self.inside {
            session.is_of_this_process();
        }
        Ok(Client {
            session,
            runtime,
            since: Instant::now(),
        })
    }

    fn input(&self, client: &mut Client, input: &[u8], out: &mut Out) -> Input {
        if client.lingers(self.handshake_timeout()) {
            let why = CloseReason::Refused("its handshake took too long".into());
            return Input {
                consumed: input.len(),
                then: Then::Close(why),
            };
        }
        client.session.input(input, &self.tenant, out)
    }

    fn submit(&self, conn: &Arc<Connection<Self>>) {
        // The edge runs the shards after this.
        act(conn);
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(self.handshake_timeout())
    }

    fn idle(&self, _client: &mut Client, _out: &mut Out) -> Idle {
        Idle::Close
    }

    fn has_room(&self, client: &mut Client, out: &mut Out) {
        client.session.has_room();
        if client.session.send(&**self.tenant.shards(), out) {
            // Not under this lock.
            let shards = Arc::clone(self.tenant.shards());
            client.runtime.spawn(async move { shards.run() });
        }
    }

    fn end_of_input(&self, _client: &mut Client, _unconsumed: &[u8], _out: &mut Out) -> Ending {
        Ending::Close
    }

    fn draining(&self, client: &mut Client, out: &mut Out) -> Draining {
        client.session.force_close("shutdown", out);
        Draining::Close
    }

    fn closed(&self, mut client: Client, _id: ConnectionId, _why: &CloseReason) {
        let topology = client.session.topology();
        let connection = client.session.asker().connection;
        let (ended, unused) = client.session.end();
        if !self.inside {
            let counters = self.tenant.counters();
            counters.connections.fetch_sub(1, Ordering::Relaxed);
        }
        let census = self.tenant.census();
        let counted = client.session.take_counted();
        census.close_channels(client.session.counts_for(), counted);
        census.remove(connection, &client.session.counts());
        detach(&**self.tenant.shards(), ended);
        let Some(topology) = topology else { return };
        for action in client.session.take_actions() {
            if let Action::Lay(laying) = action {
                let topology = Arc::clone(&topology);
                lay(topology, laying, &self.tenant, &client.runtime);
            }
        }
        client.runtime.spawn(async move {
            for queue in unused {
                told(topology.delete_unused(&queue).await);
            }
            told(topology.disconnected(connection).await);
        });
    }
}

/// Nobody is there to hear of it.
fn told(outcome: Result<(), Exception>) {
    if let Err(exception) = outcome {
        tracing::warn!(%exception, "a queue that is not wanted any more stays");
    }
}

fn detach(shards: &dyn Shards, ended: Ended) {
    for parting in ended {
        parting.carry_out(shards);
    }
}

/// As [`act`], where nobody runs the shards afterwards.
fn act_and_run(conn: &Arc<Conn>) {
    if act(conn) {
        run_once_deep(&**conn.protocol().tenant.shards());
    }
}

/// Carries out what a connection has to be done without its lock. `true`: something was queued at the shards.
fn act(conn: &Arc<Conn>) -> bool {
    let taken = conn.with(|client, _| {
        let after = client.session.after();
        let actions = after
            .act
            .then(|| (client.session.take_actions(), client.runtime.clone()));
        (after.resume, actions)
    });
    let Some((resume, actions)) = taken else {
        return false;
    };
    let mut queued = false;
    if let Some((actions, runtime)) = actions {
        let mut outgoing = Outgoing::new();
        for action in actions {
            queued |= carry_out(conn, action, &runtime, &mut outgoing);
        }
        queued |= !outgoing.is_empty();
        conn.protocol().tenant.streams().send(&mut outgoing);
    }
    if resume {
        conn.resume();
    }
    queued
}

/// `true`: something was queued at a shard.
fn carry_out(conn: &Arc<Conn>, action: Action, runtime: &Handle, outgoing: &mut Outgoing) -> bool {
    let service = conn.protocol();
    let shards = service.tenant.shards();
    match action {
        Action::Verify => verify(conn, runtime),
        Action::Heartbeat(seconds) => heartbeat(conn, seconds, runtime),
        Action::Admit => admit(conn, runtime),
        Action::OpenChannel(number) => open_channel(conn, number, runtime),
        Action::Attach {
            channel,
            incarnation,
            consumer,
            shard,
        } => return attach_reader(conn, (channel, incarnation), consumer, shard, runtime),
        Action::DetachReader(ended) => detach(&**shards, ended),
        Action::Detach(ended) => {
            detach(&**shards, ended);
            uncount(conn);
        }
        Action::CloseChannel(number, ended) => {
            detach(&**shards, ended);
            conn.with(|client, out| client.session.channel_closed(number, out));
            uncount(conn);
            settle(conn);
        }
        Action::DeleteUnused(queue) => {
            if let Some(topology) = topology(conn) {
                runtime.spawn(async move { told(topology.delete_unused(&queue).await) });
            }
        }
        Action::Blocked => conn.set_idle_timeout(None),
        Action::Renew => renew(conn, runtime),
        Action::Watch => watch(conn, runtime),
        Action::Lay(laying) => {
            if let Some(topology) = topology(conn) {
                lay(topology, laying, &service.tenant, runtime);
            }
        }
        Action::Reply(to, reply) => to.deliver(&reply),
        Action::Share(share) => {
            if let Some(topology) = topology(conn)
                && let Some(subjects) = topology.subjects()
            {
                share.carry_out(subjects, topology.now(), outgoing);
            }
        }
        Action::Trace(tapped) => {
            if let Some(topology) = topology(conn) {
                let name = name_of(tapped.connection, conn.peer(), conn.local());
                tapped.copy((service.tenant.node(), &name), &topology, outgoing);
            }
        }
        Action::Topology(op) => change(conn, *op, runtime),
        Action::Close(why) => conn.close(why),
        Action::Goodbye(ended) => {
            detach(&**shards, ended);
            let connection = conn.with(|client, _| client.session.asker().connection);
            let (topology, conn) = (topology(conn), Arc::clone(conn));
            runtime.spawn(async move {
                if let Some((topology, connection)) = topology.zip(connection) {
                    told(topology.disconnected(connection).await);
                }
                conn.with(|client, out| client.session.goodbye(out));
                conn.close(CloseReason::Finished);
            });
        }
    }
    false
}

/// Lays a dead letter, on the runtime: that calls shards, whose lock may be held here.
fn lay(topology: Arc<Topology>, laying: Box<Laying>, tenant: &Tenant, runtime: &Handle) {
    let now = tenant.now();
    runtime.spawn(async move { topology.letters().lay(&topology, &laying, now) });
}

/// Channels have ended: they count no more.
fn uncount(conn: &Arc<Conn>) {
    let service = conn.protocol();
    let ended = conn.with(|client, _| {
        let ended = client.session.take_ended();
        (Arc::clone(client.session.counts_for()), ended)
    });
    if let Some((account, ended)) = ended {
        service.tenant.census().close_channels(&account, ended);
    }
}

fn topology(conn: &Arc<Conn>) -> Option<Arc<Topology>> {
    conn.with(|client, _| client.session.topology()).flatten()
}

/// After an answer that came from elsewhere than input and shards: sends it, and goes on.
fn settle(conn: &Arc<Conn>) {
    let after = conn.with(|client, _| client.session.after());
    if after.is_some_and(|after| after.resume) {
        conn.resume();
    }
    conn.flush_soon();
}

/// As [`settle`], when the answer may end the connection.
fn answer(conn: &Arc<Conn>, answer: impl FnOnce(&mut Session, &mut Out) -> Option<CloseReason>) {
    let why = conn
        .with(|client, out| answer(&mut client.session, out))
        .flatten();
    if let Some(why) = why {
        conn.close(why);
    }
    act_and_run(conn);
    conn.flush_soon();
}

fn verify(conn: &Arc<Conn>, runtime: &Handle) {
    let conn = Arc::clone(conn);
    runtime.spawn_blocking(move || {
        let service = conn.protocol();
        let space = service.tenant.space_of("/");
        let verified = with_login(&conn, &space, |login| service.admission.verify(login));
        let Some(verified) = verified else { return };
        if let Err(denied) = &verified {
            tracing::info!(peer = ?conn.peer(), %denied, "not let in");
            let refused = &service.tenant.counters().refused;
            refused.fetch_add(1, Ordering::Relaxed);
        }
        answer(&conn, |session, out| {
            session.remember_grants(verified.as_ref().ok().cloned().flatten());
            session.verified(verified.is_ok(), service.tenant.config(), out)
        });
    });
}

/// Asks with what the client has shown.
fn with_login<R>(conn: &Arc<Conn>, space: &str, ask: impl FnOnce(&Login<'_>) -> R) -> Option<R> {
    let credentials = conn.with(|client, _| client.session.credentials().clone())?;
    let tenant = &conn.protocol().tenant;
    let vhost = tenant.vhost_of(space);
    Some(ask(&Login {
        user: &credentials.user,
        password: &credentials.password,
        space,
        remote: conn.peer(),
        identity: conn.identity().filter(|_| credentials.external),
        connections: tenant.census().connections_of(&vhost),
    }))
}

fn admit(conn: &Arc<Conn>, runtime: &Handle) {
    let asker = conn.with(|client, _| {
        let user = client.session.credentials().user.clone();
        (
            client.session.asker().clone(),
            user,
            client.session.known_grants(),
        )
    });
    let Some((asker, user, known)) = asker else {
        return;
    };
    let conn = Arc::clone(conn);
    let runtime_of_task = runtime.clone();
    let not_allowed = move |text: String| Exception::new(ReplyCode::NotAllowed, text);
    runtime.spawn(async move {
        let service = Arc::clone(conn.protocol());
        let space = service.tenant.space_of(&asker.vhost);
        let grants = match known.filter(|_| &*asker.vhost == "/") {
            Some(grants) => Ok(grants),
            None => {
                let (conn, space) = (Arc::clone(&conn), Arc::clone(&space));
                let asked = runtime_of_task.spawn_blocking(move || {
                    let admission = &conn.protocol().admission;
                    with_login(&conn, &space, |login| admission.admit(login))
                });
                match asked.await {
                    Ok(Some(granted)) => granted,
                    // The connection is gone.
                    _ => return,
                }
            }
        };
        let admitted = match grants {
            Err(Denied::Full(why)) => Err(not_allowed(format!(
                "access to vhost '{}' refused for user '{user}': {why}",
                asker.vhost
            ))),
            Err(_) => Err(not_allowed(format!(
                "access to vhost '{}' refused for user '{user}'",
                asker.vhost
            ))),
            Ok(grants) => match service.tenant.topology(&space).await {
                Ok(topology) => {
                    let account = match &grants.principal {
                        Some(principal) => Arc::clone(&principal.account),
                        None => user.as_str().into(),
                    };
                    let limits = service.admission.limits(&account, &space);
                    let census = service.tenant.census();
                    let seated = census.seat(asker.connection, &asker.vhost, &account, &limits);
                    conn.with(|client, _| client.session_mut().count_for(account));
                    seated.map(|()| (grants, topology)).map_err(not_allowed)
                }
                Err(error) => {
                    tracing::error!(%error, %space, "a space cannot be opened");
                    Err(Exception::new(ReplyCode::InternalError, error.to_string()))
                }
            },
        };
        let expires = (admitted.as_ref().ok()).and_then(|(admitted, _)| admitted.expires);
        ends_at(&conn, expires, &runtime_of_task);
        if admitted.is_ok()
            && let Some(seconds) = conn.with(|client, _| client.session.heartbeat())
        {
            // Until now its time was that of the handshake. What it says next may stop the clock again.
            conn.set_idle_timeout(silence(seconds));
        }
        answer(&conn, |session, out| session.admitted(admitted, out));
    });
}

/// The client is told to go at this time, unless it shows another secret before.
fn ends_at(conn: &Arc<Conn>, at: Option<Timestamp>, runtime: &Handle) {
    let secret = conn.with(|client, _| client.session.next_secret());
    let Some((secret, at)) = secret.zip(at) else {
        return;
    };
    let now = conn.protocol().tenant.now();
    let conn: Weak<Conn> = Arc::downgrade(conn);
    runtime.spawn(async move {
        tokio::time::sleep(Duration::from_millis(at.millis_since(now))).await;
        let Some(conn) = conn.upgrade() else { return };
        if conn.with(|client, out| client.session.expire(secret, out)) == Some(true) {
            conn.close(CloseReason::Kicked);
            conn.flush_soon();
        }
    });
}

/// Asks whether the client would be let in with the secret that it shows now.
fn renew(conn: &Arc<Conn>, runtime: &Handle) {
    let (conn, runtime_of_task) = (Arc::clone(conn), runtime.clone());
    runtime.spawn_blocking(move || {
        let service = Arc::clone(conn.protocol());
        let vhost = conn.with(|client, _| Arc::clone(&client.session.asker().vhost));
        let Some(vhost) = vhost else { return };
        let space = service.tenant.space_of(&vhost);
        let renewed = with_login(&conn, &space, |login| service.admission.renew(login));
        let Some(renewed) = renewed else { return };
        if let Err(denied) = &renewed {
            tracing::info!(peer = ?conn.peer(), %denied, "a new secret is refused");
        }
        let renewed = renewed.ok();
        if let Some(admitted) = &renewed {
            ends_at(&conn, admitted.expires, &runtime_of_task);
        }
        answer(&conn, |session, out| session.renewed(renewed, out));
    });
}

/// How long a client may say nothing that has so many seconds between its heartbeats; `None`: for ever.
pub(crate) fn silence(heartbeat_s: u16) -> Option<Duration> {
    let interval = Duration::from_secs(heartbeat_s.into());
    (heartbeat_s > 0).then(|| interval * 2 + SILENCE_SLACK)
}

fn heartbeat(conn: &Arc<Conn>, seconds: u16, runtime: &Handle) {
    if seconds == 0 {
        return;
    }
    let interval = Duration::from_secs(seconds.into());
    let (conn, mut sent): (Weak<Conn>, u64) = (Arc::downgrade(conn), conn.bytes_out());
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(interval / 2).await;
            let Some(conn) = conn.upgrade() else { return };
            if conn.bytes_out() == sent {
                if conn.with(|_, out| out.put(&HEARTBEAT)).is_none() {
                    return;
                }
                conn.flush();
            }
            sent = conn.bytes_out();
        }
    });
}

/// Looks for consumers that hold something too long, until there is none that may.
fn watch(conn: &Arc<Conn>, runtime: &Handle) {
    let conn: Weak<Conn> = Arc::downgrade(conn);
    runtime.spawn(async move {
        loop {
            let Some(conn) = conn.upgrade() else { return };
            let tenant = Arc::clone(&conn.protocol().tenant);
            let now = tenant.now();
            let looked = conn.with(|client, out| {
                let (next, why) = client.session.time_out(now, out);
                (next, why, client.session.send(&**tenant.shards(), out))
            });
            let Some((next, why, queued)) = looked else {
                return;
            };
            act(&conn);
            if queued {
                tenant.shards().run();
            }
            if let Some(why) = why {
                conn.close(why);
            }
            conn.flush_soon();
            let Some(next) = next else { return };
            drop(conn);
            tokio::time::sleep(Duration::from_millis(next.millis_since(now).max(1))).await;
        }
    });
}

fn open_channel(conn: &Arc<Conn>, number: u16, runtime: &Handle) {
    let service = conn.protocol();
    let shards = service.tenant.shards();
    let who = conn.with(|client, _| {
        let account = Arc::clone(client.session.counts_for());
        let space = client
            .session
            .topology()
            .map(|known| Arc::clone(known.space()));
        (client.session.next_incarnation(), account, space)
    });
    let Some((incarnation, account, space)) = who else {
        return;
    };
    if !service.inside {
        let limits = (service.admission).limits(&account, &space.unwrap_or_default());
        let room = service
            .tenant
            .census()
            .open_channel(&account, limits.user_channels);
        if let Err(text) = room {
            let full = Exception::new(ReplyCode::NotAllowed, text).about((20, 10));
            answer(conn, |session, out| {
                session.channel_refused(number, &full, out)
            });
            return;
        }
        conn.with(|client, _| client.session_mut().count_channel());
    }
    let unheard: Vec<Arc<Unheard>> = (0..shards.count()).map(|_| Arc::default()).collect();
    let attach = |shard: u16| {
        let effects = Effects {
            conn: Arc::clone(conn),
            at: (number, incarnation, Origin::Shard(shard.into())),
            touched: AtomicBool::new(false),
            unheard: unheard.get(usize::from(shard)).cloned(),
            runtime: runtime.clone(),
        };
        (
            ShardId(shard),
            shards.attach(ShardId(shard), Arc::new(effects)),
        )
    };
    let sessions: Vec<_> = (0..shards.count()).map(attach).collect();
    let opened = conn.with(|client, out| {
        let session = &mut client.session;
        let opened = session.channel_opened(number, incarnation, &sessions, out);
        if opened {
            session.follow(number, &unheard);
        }
        opened
    });
    if opened == Some(true) {
        if !conn.protocol().inside {
            let counters = conn.protocol().tenant.counters();
            counters.channels_total.fetch_add(1, Ordering::Relaxed);
        }
    } else {
        for (shard, session) in sessions {
            shards.detach(shard, session);
        }
    }
    settle(conn);
}

/// A consumer of a stream has a session of its own: while it waits for something to read, nothing else of that goes on.
fn attach_reader(
    conn: &Arc<Conn>,
    at: (u16, u32),
    consumer: u32,
    shard: ShardId,
    runtime: &Handle,
) -> bool {
    let shards = conn.protocol().tenant.shards();
    let effects = Effects {
        conn: Arc::clone(conn),
        at: (at.0, at.1, Origin::Reader(consumer)),
        touched: AtomicBool::new(false),
        // It publishes nothing.
        unheard: None,
        runtime: runtime.clone(),
    };
    let session = shards.attach(shard, Arc::new(effects));
    let attached = conn.with(|client, out| {
        client
            .session
            .attached(at, consumer, (shard, session))
            .then(|| client.session.send(&**shards, out))
    });
    match attached.flatten() {
        Some(queued) => queued,
        None => {
            shards.detach(shard, session);
            false
        }
    }
}

fn change(conn: &Arc<Conn>, op: Op, runtime: &Handle) {
    let asker = conn.with(|client, _| client.session.asker().clone());
    let Some((topology, asker)) = topology(conn).zip(asker) else {
        return;
    };
    let conn = Arc::clone(conn);
    runtime.spawn(async move {
        let outcome = op.request.clone().carry_out(&topology, &asker).await;
        answer(&conn, |session, out| session.completed(&op, outcome, out));
    });
}

/// The way to a connection's channels that expect direct replies.
struct Inbox(Weak<Conn>);

impl Mailbox for Inbox {
    fn deliver(&self, at: Place, reply: &Reply) {
        if let Some(conn) = self.0.upgrade() {
            conn.with(|client, out| client.session.replied(at, reply, out));
            conn.flush_soon();
        }
    }

    fn queue_gone(&self, at: Place, consumer: u32) {
        if let Some(conn) = self.0.upgrade() {
            conn.with(|client, out| client.session.queue_gone(at, consumer, out));
            act_and_run(&conn);
            conn.flush_soon();
        }
    }

    fn shared(&self, at: Place, told: Told, refused: bool) {
        let Some(conn) = self.0.upgrade() else { return };
        let tenant = Arc::clone(&conn.protocol().tenant);
        let why = conn.with(|client, out| {
            let why = client.session.shared(at, told, refused, &tenant, out);
            client.session.send(&**tenant.shards(), out);
            (why, client.session.pending())
        });
        let Some((why, after)) = why else { return };
        if let Some(why) = why {
            conn.close(why);
        }
        if after.act || after.resume {
            act_and_run(&conn);
        }
        conn.flush_soon();
    }
}

/// Where a shard's effects for one channel, or one consumer of it, go.
struct Effects {
    conn: Arc<Conn>,
    /// Channel, its incarnation, and whose effects these are.
    at: (u16, u32, Origin),
    /// Something was said since the last flush.
    touched: AtomicBool,
    /// What is answered when the channel is gone.
    unheard: Option<Arc<Unheard>>,
    runtime: Handle,
}

impl Effects {
    /// The channel is gone, and what it has published is on its way.
    fn hear(&self, effect: &Effect) {
        let (Effect::Reply(token, reply), Some(unheard)) = (effect, &self.unheard) else {
            return;
        };
        // It is answered only if it is refused, and nobody waits for it.
        if *token == QUIET {
            return;
        }
        if let Some((topology, laying)) = unheard.answered(*token, reply) {
            lay(
                topology,
                laying,
                &self.conn.protocol().tenant,
                &self.runtime,
            );
        }
    }
}

impl Sink for Effects {
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]) {
        let tenant = &self.conn.protocol().tenant;
        let heard = self.conn.with(|client, out| {
            client
                .session
                .effect(self.at, effect, messages, tenant, out)
        });
        self.touched.store(true, Ordering::Relaxed);
        match heard {
            Some(Ok(None)) => {}
            Some(Ok(Some(why))) => self.conn.close(why),
            Some(Err(Gone)) | None => self.hear(effect),
        }
    }

    fn takes_last_answers(&self) -> bool {
        self.unheard.is_some()
    }

    fn flush(&self) {
        if !self.touched.swap(false, Ordering::Relaxed) {
            return;
        }
        let tenant = &self.conn.protocol().tenant;
        let after = self.conn.with(|client, out| {
            let queued = client.session.send(&**tenant.shards(), out);
            After {
                run: queued,
                ..client.session.pending()
            }
        });
        let after = after.unwrap_or_default();
        let acted = (after.act || after.resume) && act(&self.conn);
        if after.run || acted {
            run_once_deep(&**tenant.shards());
        }
        self.conn.flush_soon();
    }
}
