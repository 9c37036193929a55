//! A connection's way to the shard of its session, and back.
//!
//! Commands are queued while the connection's lock is held, so that they keep their order. Answers come from whatever
//! thread ran the shard, with the shard's lock held: they are carried out up to the connection's lock, and what needs
//! more than that (the router, the records, what the session asks of the shard next) waits for [`Sink::flush`]. What a
//! session has asked for and nobody has queued yet is queued before its link is detached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use longtail_edge::CloseReason;
use longtail_engine::runtime::{Sink, run_once_deep};
use longtail_engine::{Effect, Message, Refusal};
use longtail_model::SessionId;
use parking_lot::Mutex;

use super::Durable;
use crate::client::Lost;
use crate::codec::{PacketId, ReasonCode};
use crate::publish::reason_of;
use crate::seat::{Conn, Membership};
use crate::select::select;
use crate::service::welcomed;
use crate::session::{Held, Subscribing, Unsubscribing};
use crate::tenant::Tenant;

/// Where the shard's effects for one session go.
struct Link {
    conn: Arc<Conn>,
    /// The session has commands to queue and to run.
    has_queued: AtomicBool,
    /// Streams were opened, or a subscription is answered.
    has_news: AtomicBool,
    /// The client is to be heard again.
    may_go_on: AtomicBool,
    /// Hooks are to be asked about messages of shares.
    has_unselected: AtomicBool,
}

/// Why a connection ends whose client cannot be told that something was not done.
pub(crate) const NOT_DONE: CloseReason = CloseReason::Internal;

/// Runs the shards, once deep.
pub(crate) fn run(durable: &Durable) {
    run_once_deep(&*durable.shards);
}

impl Sink for Link {
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]) {
        let message = messages.first().and_then(Option::as_ref);
        let recent = self.conn.protocol().tenant().durable().recent();
        let cx = self.conn.protocol().cx();
        let must_go = self.conn.with(|client, out| {
            let Some(session) = client.session_mut() else {
                return false;
            };
            match effect {
                Effect::Reply(token, reply) => {
                    session.answered(*token, reply, message, recent, &cx, out);
                }
                Effect::Push(delivery) => session.pushed(delivery, message, recent, &cx, out),
                // Its subscription has ended.
                Effect::Cancelled { .. } => {}
            }
            if let Some(feed) = session.feed_mut() {
                if feed.has_news() {
                    self.has_news.store(true, Ordering::Relaxed);
                }
                if feed.may_go_on() {
                    self.may_go_on.store(true, Ordering::Relaxed);
                }
                if feed.has_queued() {
                    self.has_queued.store(true, Ordering::Relaxed);
                }
                if feed.has_unselected() {
                    self.has_unselected.store(true, Ordering::Relaxed);
                }
            }
            client.must_go(out)
        });
        if must_go == Some(true) {
            self.conn.close(NOT_DONE);
        }
    }

    fn flush(&self) {
        let tenant = self.conn.protocol().tenant();
        if self.has_news.swap(false, Ordering::Relaxed) {
            news(&self.conn, tenant);
        }
        if self.has_unselected.swap(false, Ordering::Relaxed) {
            select(&self.conn, tenant);
        }
        if self.has_queued.swap(false, Ordering::Relaxed) {
            // What many effects ask for goes in one piece.
            self.conn.with(|client, _| client.queue(tenant.durable()));
            run(tenant.durable());
        }
        self.conn.flush_soon();
        if self.may_go_on.swap(false, Ordering::Relaxed) {
            self.conn.resume();
        }
    }
}

impl Durable {
    /// Attaches a session for the connection. No lock may be held.
    fn attach(&self, conn: &Arc<Conn>) -> SessionId {
        let link = Link {
            conn: Arc::clone(conn),
            has_queued: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
            may_go_on: AtomicBool::new(false),
            has_unselected: AtomicBool::new(false),
        };
        self.shards.attach(self.home, Arc::new(link))
    }

    /// Ends a session: what it holds is there for the next. No lock may be held.
    pub(crate) fn detach(&self, session: SessionId) {
        self.shards.detach(self.home, session);
    }

    /// Queues the commands of a session; with the connection's lock held.
    pub(crate) fn enqueue(&self, session: SessionId, commands: &mut super::Commands) {
        self.shards.enqueue(self.home, session, commands);
    }
}

/// A connection has got its session: brings it to its streams, and lets it in when it is written down. No lock may be
/// held.
pub(crate) fn enter(conn: &Arc<Conn>, tenant: &Tenant) {
    let durable = tenant.durable();
    let session = durable.attach(conn);
    let cx = conn.protocol().cx();
    let attached = conn.with(|client, out| {
        if !client.begin(conn, session, durable, &cx, out) {
            return false;
        }
        client.try_welcome(&cx, out);
        true
    });
    if attached != Some(true) {
        durable.detach(session);
        return;
    }
    welcomed(conn);
    run(durable);
    conn.flush_soon();
    conn.resume();
}

/// The record of a session that connects is durable, or was refused.
pub(crate) fn recorded(conn: &Arc<Conn>, outcome: Result<(), Refusal>) {
    let tenant = conn.protocol().tenant();
    if let Err(refusal) = outcome {
        tracing::warn!(%refusal, "a session cannot be kept");
        conn.protocol().refuse(conn, reason_of(&refusal));
        return;
    }
    let cx = conn.protocol().cx();
    conn.with(|client, out| {
        client.is_recorded();
        client.try_welcome(&cx, out);
        client.queue(tenant.durable());
    });
    welcomed(conn);
    run(tenant.durable());
    conn.flush_soon();
    conn.resume();
}

/// What the shard has answered changes the router, or completes a subscription.
fn news(conn: &Arc<Conn>, tenant: &Tenant) {
    let durable = tenant.durable();
    let joined = conn.with(|client, _| client.take_news(durable));
    if let Some((all, failed)) = joined.flatten() {
        for subscribing in all {
            joined_all(conn, tenant, subscribing, &failed);
        }
    }
}

/// That the message under `id` is released is on record, or was refused. No lock may be held.
pub(crate) fn kept(conn: &Arc<Conn>, id: PacketId, outcome: &Result<(), Refusal>) {
    conn.with(|client, out| {
        if let Some(session) = client.session() {
            session.kept(id, outcome, out);
        }
    });
    conn.flush_soon();
}

/// A session that ends with its connection becomes a member of a share. No lock may be held.
pub(crate) fn equip(conn: &Arc<Conn>, tenant: &Tenant) {
    let durable = tenant.durable();
    let session = durable.attach(conn);
    if conn.with(|client, _| client.equip(session, durable)) != Some(true) {
        durable.detach(session);
    }
}

/// A session with a way to the streams wants subscriptions. No lock may be held.
pub(crate) fn subscribe(conn: &Arc<Conn>, tenant: &Tenant, subscribing: Subscribing) {
    let durable = tenant.durable();
    let waits = conn.with(|client, _| client.join(subscribing, durable, &tenant.limits().shares));
    match waits {
        // The edge's tick runs the shard.
        None | Some(None) => {}
        Some(Some(subscribing)) => joined_all(conn, tenant, subscribing, &[]),
    }
}

/// The streams are there: routes live messages, writes the subscriptions down, then answers the client.
fn joined_all(
    conn: &Arc<Conn>,
    tenant: &Tenant,
    mut subscribing: Subscribing,
    failed: &[Arc<str>],
) {
    let durable = tenant.durable();
    let found =
        conn.with(|client, _| Some((client.membership()?, client.session_mut()?.state().number)));
    let Some((membership, number)) = found.flatten() else {
        return;
    };
    let uncount = |text: &str| {
        let counted = conn.with(|client, _| Some(client.session_mut()?.uncount(text)));
        counted.flatten() == Some(true)
    };
    // A filter may be there twice in one packet: what is in force is the last.
    let stays = |text: &str| {
        conn.with(|client, _| {
            let subscriptions = &client.session_mut()?.state().subscriptions;
            Some(subscriptions.get(text)?.options.not_assured)
        })
        .flatten()
            == Some(true)
    };
    let mut refused = Vec::new();
    for wanted in &mut subscribing.wanted {
        let Ok(subscription) = wanted else { continue };
        let has_failed = failed.iter().any(|text| **text == *subscription.text)
            || subscription.options.not_assured && !durable.is_routed(&subscription.filter);
        let reason = if has_failed {
            Some(ReasonCode::QuotaExceeded)
        } else {
            membership.subscribe(subscription).err().map(|error| {
                tracing::warn!(%error, "a subscription is refused");
                ReasonCode::QuotaExceeded
            })
        };
        if let Some(reason) = reason
            && let Ok(subscription) = std::mem::replace(wanted, Err(reason))
        {
            if subscription.group.is_some() {
                // Others may be members: what is theirs is not to come here.
                conn.with(|client, _| {
                    if let Some(session) = client.session_mut() {
                        session.part_with(&subscription.text);
                    }
                    client.queue(durable);
                });
            }
            if uncount(&subscription.text) {
                durable.release(&subscription.filter, number, subscription.group.as_deref());
            }
            refused.push(subscription);
        } else if let Ok(subscription) = wanted
            && !subscription.options.not_assured
            && !stays(&subscription.text)
            && uncount(&subscription.text)
        {
            // It has come down to QoS 0.
            conn.with(|client, _| {
                if let Some(session) = client.session_mut() {
                    session.part_with(&subscription.text);
                }
                client.queue(durable);
            });
            durable.release(&subscription.filter, number, None);
        }
    }
    subscribing.withdraw(&refused);
    membership.withdraw(&refused);
    for refused in &refused {
        // Of the one that it was to replace.
        durable.forget_subscription(number, &refused.text, Box::new(|_| ()));
    }
    let waiting = Waiting::new(conn, Answer::Subscribed(subscribing, refused));
    waiting.write(|answer, wait| {
        let Answer::Subscribed(subscribing, _) = answer else {
            return;
        };
        for wanted in subscribing.wanted.iter().flatten() {
            let held = Held {
                filter: wanted.filter.clone(),
                group: wanted.group.clone(),
                options: wanted.options,
                is_exclusive: wanted.is_exclusive,
                is_counted: wanted.options.not_assured,
            };
            wait(&|done| durable.record_subscription(number, &wanted.text, &held, done));
        }
    });
    run(durable);
}

/// A session with a way to the streams ends subscriptions. No lock may be held.
pub(crate) fn unsubscribe(
    conn: &Arc<Conn>,
    tenant: &Tenant,
    membership: &Membership,
    unsubscribing: Unsubscribing,
) {
    let durable = tenant.durable();
    let number = conn
        .with(|client, _| client.session_mut().map(|session| session.state().number))
        .flatten()
        .unwrap_or(0);
    let router = &tenant.space().router;
    for (_, held) in &unsubscribing.ended {
        router.unsubscribe(&held.filter, membership.target(), held.group.as_deref());
    }
    conn.with(|client, _| {
        if let Some(session) = client.session_mut() {
            for (text, _) in &unsubscribing.ended {
                session.part_with(text);
            }
        }
        // Before the group goes, and the record of the subscription.
        client.queue(durable);
    });
    let waiting = Waiting::new(conn, Answer::Unsubscribed(unsubscribing));
    waiting.write(|answer, wait| {
        let Answer::Unsubscribed(unsubscribing) = answer else {
            return;
        };
        for (text, held) in &unsubscribing.ended {
            wait(&|done| durable.forget_subscription(number, text, done));
            if held.is_counted {
                durable.release(&held.filter, number, held.group.as_deref());
            }
        }
    });
    run(durable);
}

/// A session has lost subscriptions without asking for it: nobody is answered. No lock may be held.
pub(crate) fn lose(conn: &Arc<Conn>, tenant: &Tenant, membership: &Membership, lost: &Lost) {
    let durable = tenant.durable();
    let router = &tenant.space().router;
    let Lost {
        number,
        subscriptions,
    } = lost;
    conn.with(|client, _| {
        if let Some(session) = client.session_mut() {
            for (text, _) in subscriptions {
                session.part_with(text);
            }
        }
        client.queue(durable);
    });
    // Whether the connection is still there or not: whoever ends it does not know of these any more.
    for (text, held) in subscriptions {
        router.unsubscribe(&held.filter, membership.target(), held.group.as_deref());
        durable.forget_subscription(*number, text, Box::new(|_| ()));
        if held.is_counted {
            durable.release(&held.filter, *number, held.group.as_deref());
        }
    }
    run(durable);
}

/// An answer to a client that waits until records are durable.
struct Waiting {
    conn: Arc<Conn>,
    left: AtomicUsize,
    answer: Mutex<Option<Answer>>,
    refused: Mutex<Option<ReasonCode>>,
}

enum Answer {
    Subscribed(Subscribing, Vec<crate::session::Wanted>),
    Unsubscribed(Unsubscribing),
}

/// Starts one write with a completion; `false`: nothing will be called.
type Write<'w> = &'w dyn Fn(longtail_broker::last_values::Done) -> bool;

impl Waiting {
    fn new(conn: &Arc<Conn>, answer: Answer) -> Arc<Self> {
        Arc::new(Waiting {
            conn: Arc::clone(conn),
            left: AtomicUsize::new(1),
            answer: Mutex::new(Some(answer)),
            refused: Mutex::new(None),
        })
    }

    /// Lets `writes` start the writes that the answer waits for.
    fn write(self: &Arc<Self>, writes: impl FnOnce(&Answer, &dyn Fn(Write<'_>))) {
        let answer = self.answer.lock().take();
        if let Some(answer) = answer {
            writes(&answer, &|write| {
                self.left.fetch_add(1, Ordering::Relaxed);
                let waiting = Arc::clone(self);
                let done = Box::new(move |outcome: Result<(), Refusal>| {
                    if let Err(refusal) = outcome {
                        *waiting.refused.lock() = Some(reason_of(&refusal));
                    }
                    waiting.one_less();
                });
                if !write(done) {
                    self.left.fetch_sub(1, Ordering::Relaxed);
                }
            });
            *self.answer.lock() = Some(answer);
        }
        self.one_less();
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let Some(answer) = self.answer.lock().take() else {
            return;
        };
        let refused = *self.refused.lock();
        let tenant = self.conn.protocol().tenant();
        let cx = self.conn.protocol().cx();
        let must_run = self.conn.with(|client, out| {
            let Some(session) = client.session_mut() else {
                return false;
            };
            match answer {
                Answer::Subscribed(mut subscribing, earlier) => {
                    if let Some(reason) = refused {
                        for wanted in &mut subscribing.wanted {
                            if wanted.is_ok() {
                                *wanted = Err(reason);
                            }
                        }
                    }
                    for wanted in &earlier {
                        session.was_refused(wanted, &cx);
                    }
                    session.subscribed(subscribing, &cx, out);
                }
                Answer::Unsubscribed(unsubscribing) => session.unsubscribed(unsubscribing, out),
            }
            client.queue(tenant.durable())
        });
        if must_run == Some(true) {
            run(tenant.durable());
        }
        if refused.is_some() {
            // It has what it was told it has not: it comes back to what is written.
            self.conn.close(CloseReason::Internal);
        }
        self.conn.flush_soon();
        self.conn.resume();
    }
}
