//! The glue between the edge, which has the sockets, and the shard, which has the jobs.
//!
//! Commands are queued at the shard while the connection's lock is held, so that they keep their order, and run by the
//! edge's tick when it is not. Replies come back through `Replies`, from whatever thread ran the shard.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use longtail_edge::{
    CloseReason, Connection, ConnectionId, Draining, Ended, Input, Out, Protocol, Refusal, Then,
};
use longtail_engine::command::Command;
use longtail_engine::effect::{Effect, Reply};
use longtail_engine::message::Message;
use longtail_engine::runtime::{Shards, Sink};
use longtail_model::SessionId;

use crate::grants::{Admission, Peer};
use crate::session::{Answered, Commands, Next, Outbox, Session};
use crate::tenant::{DEFAULT_TUBE, Tenant};

thread_local! {
    /// Where a worker gathers the commands of the connection it works for, so that none has a buffer of its own.
    static COMMANDS: RefCell<Commands> = const { RefCell::new(Vec::new()) };
}

/// The protocol, as the edge's listeners want it. Several listeners that let in different clients can share one
/// [`Tenant`].
pub struct Beanstalk {
    tenant: Arc<Tenant>,
    shards: Arc<dyn Shards>,
    admission: Arc<dyn Admission>,
    /// Connections that wait for jobs no longer, and of which the shard is still to be told.
    to_interrupt: AtomicUsize,
    /// The session that defined the default tube.
    keeper: SessionId,
}

impl Beanstalk {
    /// Plugs the protocol into `shards`, and makes sure that the default tube exists.
    #[must_use]
    pub fn new(
        tenant: Arc<Tenant>,
        shards: Arc<dyn Shards>,
        admission: Arc<dyn Admission>,
    ) -> Arc<Self> {
        let shard = tenant.config().shard;
        let keeper = shards.attach(shard, Arc::new(Keeper));
        let define = Command::Define {
            name: tenant.stream(DEFAULT_TUBE.into()),
            config: tenant.template(DEFAULT_TUBE),
        };
        shards.enqueue(shard, keeper, &mut vec![(0, define)]);
        shards.run();
        Arc::new(Beanstalk {
            tenant,
            shards,
            admission,
            to_interrupt: AtomicUsize::new(0),
            keeper,
        })
    }

    /// What its connections share.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// Accepts no more jobs; see [`Tenant::drain`].
    pub fn drain(&self) {
        self.tenant.drain();
    }

    /// Has the shard told, in this tick, that the client waits for jobs no longer: neither now nor with what it has
    /// asked before and is still to be carried out.
    fn stop_waiting(&self, client: &mut Client) {
        if !std::mem::replace(&mut client.was_interrupted, true) {
            client.to_interrupt = true;
            self.to_interrupt.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets `work` fill this thread's list of commands, then queues them for `id`.
    fn enqueue<R>(&self, id: SessionId, work: impl FnOnce(&mut Commands) -> R) -> R {
        COMMANDS.with(|commands| {
            let commands = &mut *commands.borrow_mut();
            let result = work(commands);
            if !commands.is_empty() {
                self.shards
                    .enqueue(self.tenant.config().shard, id, commands);
            }
            result
        })
    }
}

impl Drop for Beanstalk {
    fn drop(&mut self) {
        self.shards.detach(self.tenant.config().shard, self.keeper);
    }
}

/// What the edge keeps for one connection.
pub struct Client {
    session: Session,
    id: SessionId,
    /// It waits for jobs no longer and the shard is still to be told.
    to_interrupt: bool,
    was_interrupted: bool,
}

impl Protocol for Beanstalk {
    type Session = Client;

    fn name(&self) -> &'static str {
        "beanstalk"
    }

    fn open(
        self: &Arc<Self>,
        conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<Client, Refusal> {
        let peer = Peer::new(conn.peer(), conn.local(), conn.identity())
            .beside(self.tenant.counters().connections());
        let grants = self.admission.admit(peer).map_err(|denied| Refusal {
            why: denied.to_string().into(),
            farewell: Bytes::new(),
        })?;
        let id = self.shards.attach(
            self.tenant.config().shard,
            Arc::new(Replies {
                conn: conn.clone(),
                has_counts: AtomicBool::new(false),
            }),
        );
        let session = self.enqueue(id, |commands| Session::open(&self.tenant, grants, commands));
        Ok(Client {
            session,
            id,
            to_interrupt: false,
            was_interrupted: false,
        })
    }

    fn input(&self, client: &mut Client, input: &[u8], out: &mut Out) -> Input {
        let Client { session, id, .. } = client;
        let (consumed, next) = self.enqueue(*id, |commands| {
            session.input(input, &self.tenant, commands, out)
        });
        let then = match next {
            Next::Read => Then::Read,
            Next::Pause => Then::Pause,
            Next::Drain => Then::Drain,
            Next::Close => Then::Close(CloseReason::Finished),
        };
        Input { consumed, then }
    }

    fn submit(&self, conn: &Arc<Connection<Self>>) {
        // The commands are queued already. What is left may run the shard, so that no lock may be held.
        if self.to_interrupt.load(Ordering::Relaxed) == 0 {
            return;
        }
        let told = conn
            .with(|client, _| std::mem::take(&mut client.to_interrupt).then_some(client.id))
            .flatten();
        if let Some(id) = told {
            self.to_interrupt.fetch_sub(1, Ordering::Relaxed);
            self.shards.interrupt(self.tenant.config().shard, id);
        }
    }

    fn end_of_input(&self, client: &mut Client, _unconsumed: &[u8], _out: &mut Out) -> Ended {
        if client.session.end_of_input() == Next::Close {
            return Ended::Close;
        }
        self.stop_waiting(client);
        Ended::Linger
    }

    fn draining(&self, client: &mut Client, _out: &mut Out) -> Draining {
        if client.session.wind_down() == Next::Close {
            return Draining::Close;
        }
        self.stop_waiting(client);
        Draining::Linger
    }

    fn closed(&self, client: Client, _id: ConnectionId, _why: &CloseReason) {
        if client.to_interrupt {
            self.to_interrupt.fetch_sub(1, Ordering::Relaxed);
        }
        client.session.close(self.tenant.counters());
        self.shards.detach(self.tenant.config().shard, client.id);
    }
}

/// Where the shard's effects for one connection go.
struct Replies {
    conn: Arc<Connection<Beanstalk>>,
    /// Whether the session has counted something in this batch: saves taking its lock to find out.
    has_counts: AtomicBool,
}

impl Sink for Replies {
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]) {
        let tenant = &self.conn.protocol().tenant;
        let answered = self.conn.with(|client, out| {
            let answered = client.session.effect(effect, messages, tenant, out);
            if client.session.has_counts() {
                self.has_counts.store(true, Ordering::Relaxed);
            }
            answered
        });
        match answered {
            None | Some(Answered::Stay) => {}
            Some(Answered::Resume) => self.conn.resume(),
            Some(Answered::Close) => self.conn.close(CloseReason::Finished),
            Some(Answered::TubeRemoved) => {
                self.conn.close(CloseReason::Refused(
                    "a tube that it uses or watches was removed".into(),
                ));
            }
            Some(Answered::Broken) => self.conn.close(CloseReason::Internal),
        }
    }

    fn flush(&self) {
        if self.has_counts.swap(false, Ordering::Relaxed) {
            let counters = self.conn.protocol().tenant.counters();
            self.conn
                .with(|client, _| client.session.publish_counts(counters));
        }
        self.conn.flush_soon();
    }
}

/// Where the answer about the default tube goes.
struct Keeper;

impl Sink for Keeper {
    fn deliver(&self, effect: &Effect, _messages: &[Option<Message<'_>>]) {
        if let Effect::Reply(_, answer) = effect
            && *answer != Reply::Done
        {
            tracing::error!(?answer, "the default tube cannot be defined as a tube");
        }
    }

    fn flush(&self) {}
}

impl Outbox for Out {
    fn tail(&mut self) -> &mut Vec<u8> {
        Out::tail(self)
    }

    fn is_full(&self) -> bool {
        self.is_over_soft_limit()
    }
}
