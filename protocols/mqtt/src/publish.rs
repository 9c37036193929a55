//! From a publisher to whoever wants the message.
//!
//! ```text
//!            ┌─▶ retained value ────────────── durable ──┐
//! message ───┼─▶ live subscribers, at once               ├──▶ Waiter ──▶ Session::complete
//!            └─▶ Outgoing ─▶ shards: streams ─ durable ──┘
//! ```
//!
//! What is only shown to live subscribers is told at once; what is stored as soon as all that it waits for is durable.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use longtail_broker::Space;
use longtail_broker::ephemeral::{Burst, Picked, Run, SpaceRouteCache, SpaceRoutes};
use longtail_broker::message::{Message, SharedMessage};
use longtail_broker::retained::{RetainedError, Settled};
use longtail_broker::router::Chance;
use longtail_broker::stored::publishes;
use longtail_broker::streams::{self, Awaits};
use longtail_engine::{Cause, Command, Refusal, Reply, Step, Target as Into, Transaction};
use longtail_model::{Filter, GroupId, Seq, ShardId, StreamId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::codec::ReasonCode;
use crate::delayed;
use crate::durable::link::NOT_DONE;
use crate::hooks::{Event, Points};
use crate::seat::Conn;
use crate::select;
use crate::session::Ticket;
use crate::tenant::Tenant;

/// What a thread keeps to publish fast.
#[derive(Default)]
struct Publisher {
    routes: SpaceRouteCache,
    random: u64,
}

impl Publisher {
    /// An xorshift: only the spreading over the members of a share depends on it.
    fn chance(random: &mut u64, routes: &SpaceRoutes, message: &Message, now: Timestamp) -> Chance {
        if routes.groups().is_empty() {
            // Nobody asks.
            return Chance::default();
        }
        *random = if *random == 0 { now.0 | 1 } else { *random };
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        Chance::of(message, *random)
    }
}

thread_local! {
    static PUBLISHER: RefCell<Publisher> = RefCell::default();
}

/// An acknowledgement that waits for several answers.
pub(crate) struct Waiter {
    whom: Told,
    left: AtomicUsize,
    /// The first that went wrong, or success.
    reason: AtomicU8,
}

/// Who is told.
enum Told {
    Client(Arc<Conn>, Ticket),
    Caller(Mutex<Option<oneshot::Sender<ReasonCode>>>),
    Due(Arc<Tenant>, GroupId, Seq),
}

/// Who is to be told.
#[derive(Clone, Copy)]
pub(crate) enum Whom<'w> {
    /// A client.
    Client(&'w Arc<Conn>, Ticket),
    /// Somebody in this process.
    Caller(&'w Cell<Option<oneshot::Sender<ReasonCode>>>),
    /// Nobody: it was delayed, and is settled then.
    Due(&'w Arc<Tenant>, GroupId, Seq),
}

impl Waiter {
    /// For one answer.
    pub(crate) fn new(whom: Whom<'_>) -> Arc<Self> {
        Arc::new(Waiter {
            whom: match whom {
                Whom::Client(conn, ticket) => Told::Client(Arc::clone(conn), ticket),
                Whom::Caller(sender) => Told::Caller(Mutex::new(sender.take())),
                Whom::Due(tenant, group, seq) => Told::Due(Arc::clone(tenant), group, seq),
            },
            left: AtomicUsize::new(1),
            reason: AtomicU8::new(ReasonCode::Success.as_u8()),
        })
    }

    fn one_more(self: &Arc<Self>) -> Arc<Self> {
        self.left.fetch_add(1, Ordering::Relaxed);
        Arc::clone(self)
    }
}

impl Awaits for Waiter {
    type Outcome = Result<(), ReasonCode>;

    fn outcome(reply: &Reply) -> Self::Outcome {
        match reply {
            // It was released before, on another connection.
            Reply::Refused(Refusal::Step { why, .. }) if **why == Refusal::Gone => Ok(()),
            Reply::Refused(refusal) => {
                tracing::warn!(%refusal, "a message is not stored");
                Err(reason_of(refusal))
            }
            // A stream that is gone has nobody left to miss the message.
            Reply::Published {
                refused: Some(refused),
                ..
            } if refused.iter().any(|&(_, cause)| cause == Cause::Full) => {
                tracing::warn!(
                    streams = refused.len(),
                    "a message is not stored everywhere"
                );
                Err(ReasonCode::QuotaExceeded)
            }
            _ => Ok(()),
        }
    }

    /// The last answer tells the client.
    fn answered(&self, outcome: Result<(), ReasonCode>) {
        if let Err(reason) = outcome {
            let success = ReasonCode::Success.as_u8();
            // Whoever was first stays.
            let _ = self.reason.compare_exchange(
                success,
                reason.as_u8(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let reason = ReasonCode::from_u8(self.reason.load(Ordering::Acquire));
        let reason = reason.unwrap_or(ReasonCode::UnspecifiedError);
        let (conn, ticket) = match &self.whom {
            Told::Client(conn, ticket) => (conn, *ticket),
            Told::Caller(sender) => {
                if let Some(sender) = sender.lock().take() {
                    // Who does not wait any more need not be told.
                    let _ = sender.send(reason);
                }
                return;
            }
            Told::Due(tenant, group, seq) => {
                tenant.delayed().settle(*group, *seq, reason);
                return tenant.delayed().run();
            }
        };
        let must_go = conn.with(|client, out| {
            if let Some(session) = client.session_mut() {
                session.complete(ticket, reason, out);
            }
            client.must_go(out)
        });
        if must_go == Some(true) {
            conn.close(NOT_DONE);
        }
        conn.flush_soon();
    }
}

/// Commands for the shards, gathered by whoever publishes.
pub(crate) type Outgoing = streams::Outgoing<Waiter>;

/// The way to the shards.
pub(crate) type Streams = streams::Streams<Waiter>;

/// Publishes to the live subscribers and the retained values of the space; what streams are to keep, and what is to be
/// published later, goes to `outgoing`, which [`Streams::send`] is to be given. Says what the publisher is to be told, or nothing if a [`Waiter`] for
/// `whom` will. No lock may be held.
pub(crate) fn publish(
    tenant: &Tenant,
    burst: &mut Burst<'_>,
    message: &SharedMessage,
    now: Timestamp,
    whom: Option<Whom<'_>>,
    outgoing: &mut Outgoing,
) -> Option<ReasonCode> {
    let space = &**tenant.space();
    let mut waiter: Option<Arc<Waiter>> = None;
    let mut kept = false;
    if let Some(keep) = tenant.delayed().keep(message, now) {
        return match keep {
            Err(reason) => Some(reason),
            Ok((shard, keep)) => {
                outgoing.push((shard, keep, whom.map(Waiter::new)));
                None
            }
        };
    }
    if message.retain {
        // Before it is shown: a new subscriber never sees the old value after the new one.
        waiter = whom.map(Waiter::new);
        match retain(space, message, waiter.as_ref()) {
            Ok(Settled::Later) => kept = true,
            Ok(Settled::Now) => {
                kept = true;
                waiter = None;
            }
            Err(error) => {
                tracing::warn!(topic = %message.subject, %error, "a message is not retained");
                return Some(ReasonCode::QuotaExceeded);
            }
        }
    }
    let mut filters = None;
    let published = PUBLISHER.with_borrow_mut(|publisher| {
        let Publisher { routes, random } = publisher;
        let routes = routes.lookup(&space.router, message.subject.as_ref());
        let chance = Publisher::chance(random, routes, message, now);
        let picks = select::picks(tenant, routes, message);
        let published = burst.publish_picked(routes, message, &chance, now, &picks);
        if published.streams > 0 {
            filters = tenant.filters_told(routes, message);
            for publish in publishes(routes, &published.picked, message, now) {
                let waiter =
                    whom.map(|whom| waiter.get_or_insert_with(|| Waiter::new(whom)).one_more());
                outgoing.push((publish.shard, publish.command, waiter));
            }
        }
        published
    });
    tell_kept(tenant, message, filters);
    match waiter {
        Some(waiter) => {
            waiter.answered(Ok(()));
            None
        }
        None if published.has_matched() || kept => Some(ReasonCode::Success),
        None => Some(ReasonCode::NoMatchingSubscribers),
    }
}

/// Tells hooks of the filters in whose streams a message waits.
fn tell_kept(tenant: &Tenant, message: &SharedMessage, filters: Option<Arc<[Filter]>>) {
    if let Some(filters) = filters {
        let hooks = tenant.hooks().whole();
        hooks.tell(Points::KEPT, || Event::Kept {
            message: SharedMessage::clone(message),
            filters,
        });
    }
}

/// Publishes a run to the live subscribers, and says what its publisher is to be told; `None` if its messages have to
/// be [published](publish) one by one. No lock may be held.
pub(crate) fn publish_run(
    space: &Space,
    burst: &mut Burst<'_>,
    run: &Run<'_>,
) -> Option<ReasonCode> {
    let first = run.messages().first()?;
    if delayed::is_delayed(first.subject.as_str()) {
        return None;
    }
    let is_wanted = PUBLISHER.with_borrow_mut(|publisher| {
        let routes = publisher
            .routes
            .lookup(&space.router, first.subject.as_ref());
        burst.publish_run(routes, run)
    })?;
    Some(if is_wanted {
        ReasonCode::Success
    } else {
        ReasonCode::NoMatchingSubscribers
    })
}

/// Publishes what the log has had until its PUBREL, and removes it there in the same step. As [`publish`] otherwise.
pub(crate) fn release(
    tenant: &Tenant,
    burst: &mut Burst<'_>,
    message: &SharedMessage,
    released: &Released<'_>,
    outgoing: &mut Outgoing,
) {
    let space = &**tenant.space();
    let waiter = Waiter::new(Whom::Client(released.conn, released.ticket));
    let keep = tenant.delayed().keep(message, message.published);
    let keep = keep.map(|keep| {
        keep.map_err(|reason| {
            // It was looked at when it came; what it says may be over by now.
            tracing::warn!(topic = %message.subject, ?reason, "a delayed message is dropped");
        })
    });
    let is_delayed = keep.is_some();
    if !is_delayed && message.retain && !released.again {
        match retain(space, message, Some(&waiter)) {
            Ok(Settled::Later) => {}
            // It will not be told.
            Ok(Settled::Now) => waiter.answered(Ok(())),
            Err(error) => {
                waiter.answered(Ok(()));
                tracing::warn!(topic = %message.subject, %error, "a message is not retained");
            }
        }
    }
    let now = message.published;
    let remove = Step::Remove {
        stream: Into::Stream(released.stream),
        seq: released.seq,
    };
    let mut remove = Some(remove);
    let mut filters = None;
    PUBLISHER.with_borrow_mut(|publisher| {
        if is_delayed {
            return;
        }
        let Publisher { routes, random } = publisher;
        let routes = routes.lookup(&space.router, message.subject.as_ref());
        let chance = Publisher::chance(random, routes, message, now);
        let picked = if released.again {
            Picked::default()
        } else {
            let picks = select::picks(tenant, routes, message);
            let published = burst.publish_picked(routes, message, &chance, now, &picks);
            published.picked
        };
        filters = tenant.filters_told(routes, message);
        for publish in publishes(routes, &picked, message, now) {
            let command = match (publish.command, publish.shard == released.home) {
                (Command::Publish { to, also, message }, true) => {
                    let steps = std::iter::once(Step::Publish { to, also, message });
                    let steps = steps.chain(remove.take()).collect();
                    Command::Transact(Box::new(Transaction { steps }))
                }
                (command, _) => command,
            };
            outgoing.push((publish.shard, command, Some(waiter.one_more())));
        }
    });
    tell_kept(tenant, message, filters);
    if let Some(Ok((shard, Command::Publish { to, also, message }))) = keep {
        // Both are at home.
        let steps = std::iter::once(Step::Publish { to, also, message });
        let steps = steps.chain(remove.take()).collect();
        let keep = Command::Transact(Box::new(Transaction { steps }));
        outgoing.push((shard, keep, Some(waiter.one_more())));
    }
    if let Some(Step::Remove { stream, seq }) = remove {
        let remove = Command::Remove { stream, seq };
        outgoing.push((released.home, remove, Some(waiter.one_more())));
    }
    waiter.answered(Ok(()));
}

/// What the log has had until its PUBREL.
pub(crate) struct Released<'r> {
    /// Who is told.
    pub(crate) conn: &'r Arc<Conn>,
    /// Of the acknowledgement.
    pub(crate) ticket: Ticket,
    /// The shard, the stream there and the number.
    pub(crate) home: ShardId,
    pub(crate) stream: StreamId,
    pub(crate) seq: Seq,
    /// Live subscribers have seen it.
    pub(crate) again: bool,
}

fn retain(
    space: &Space,
    message: &SharedMessage,
    waiter: Option<&Arc<Waiter>>,
) -> Result<Settled, RetainedError> {
    // Before it is asked: the answer may come before this returns.
    let answer = waiter.map(Waiter::one_more);
    let done = Box::new(move |outcome: Result<(), Refusal>| {
        if let Err(refusal) = &outcome {
            tracing::warn!(%refusal, "a retained message is not kept");
        }
        if let Some(waiter) = answer {
            waiter.answered(outcome.map_err(|refusal| reason_of(&refusal)));
        }
    });
    let settled = if message.payload.is_empty() {
        space.retained.clear(&message.subject, done)
    } else {
        // A copy, so that the store does not keep the bytes that were sent to subscribers.
        space.retained.set(Arc::new(message.to_own()), done)?
    };
    Ok(settled)
}

/// How a shard's refusal is said in MQTT.
pub(crate) fn reason_of(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::Limit(_) | Refusal::Full(_) => ReasonCode::QuotaExceeded,
        Refusal::TooLarge(_) => ReasonCode::ImplementationSpecificError,
        _ => ReasonCode::UnspecifiedError,
    }
}
