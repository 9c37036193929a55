//! The sessions of a space by client id: who has which, and who had it before.
//!
//! ```text
//! CONNECT ──▶ claim ──▶ nobody          ──▶ a new session
//!                  ├──▶ connected       ──▶ taken from the old connection, which is told 0x8E
//!                  ├──▶ just ended      ──▶ waits until the end is here, see `release`
//!                  └──▶ away            ──▶ back again, or discarded
//! end of a connection ──▶ release ──▶ over, or away until it expires
//! ```
//!
//! All of it happens under the lock of the client id's part of the registry, so that a client id has one connection at
//! any moment, however many come at once. What follows (wills, subscriptions to remove) is left to the caller, outside
//! the lock. A session's epoch counts its connections: the end of a connection of an earlier one changes nothing.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use longtail_edge::CloseReason;
use longtail_model::Timestamp;
use parking_lot::Mutex;

use crate::hooks::{Event, Points, SessionChange};
use crate::message::Will;
use crate::seat::{Conn, Membership};
use crate::session::{Left, State};
use crate::tenant::Tenant;
use crate::timers::TimerKey;

/// Parts that are locked apart.
const PARTS: usize = 64;

/// Sessions by client id.
type Part = HashMap<Arc<str>, Entry, foldhash::fast::RandomState>;

/// The sessions of a space.
pub(crate) struct Registry {
    parts: Box<[Mutex<Part>]>,
    hasher: foldhash::quality::RandomState,
    sessions: AtomicUsize,
    /// Never the same twice, so that the end of an old connection is never taken for that of a new one.
    epochs: AtomicU64,
}

struct Entry {
    epoch: u64,
    holder: Holder,
    /// A client that waits for the end of the connection that had the session.
    waiting: Option<Claim>,
}

enum Holder {
    Connected(Arc<Conn>, Membership),
    Away(Away),
}

/// A session whose client is not there.
struct Away {
    membership: Membership,
    expiry: Option<TimerKey>,
    will: Option<(Box<Will>, TimerKey)>,
}

/// A client that wants its session.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) client_id: Arc<str>,
    pub(crate) conn: Arc<Conn>,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: u32,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// The client is in, or gone.
    Done,
    /// It will be in when the old connection has ended.
    Waits,
    /// There are too many sessions.
    Full,
}

/// What is to be done when the registry's lock is released.
#[derive(Default)]
pub(crate) struct Aftermath {
    /// Wills to publish, with the client they are of.
    pub(crate) wills: Vec<(Box<Will>, Arc<str>)>,
    /// Sessions that are over.
    pub(crate) over: Vec<(State, Membership)>,
    /// Connections that lost their session.
    pub(crate) losers: Vec<Arc<Conn>>,
    /// Connections that got one.
    pub(crate) accepted: Option<Arc<Conn>>,
    /// What hooks are told.
    changes: Vec<(Arc<str>, SessionChange)>,
}

/// What is due at some time.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    client_id: Arc<str>,
    epoch: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Will,
    Expiry,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Registry {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: foldhash::quality::RandomState::default(),
            sessions: AtomicUsize::new(0),
            epochs: AtomicU64::new(0),
        }
    }

    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sessions, connected or not.
    pub(crate) fn len(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// A number for a client id, the same for as long as the process runs.
    pub(crate) fn number(&self, client_id: &str) -> u64 {
        self.hasher.hash_one(client_id) | 1
    }

    fn part(&self, client_id: &str) -> &Mutex<Part> {
        &self.parts[(self.number(client_id) >> 32) as usize % PARTS]
    }

    /// The connection that has the session of a client.
    pub(crate) fn connection(&self, client_id: &str) -> Option<Arc<Conn>> {
        match &self.part(client_id).lock().get(client_id)?.holder {
            Holder::Connected(conn, _) => Some(Arc::clone(conn)),
            Holder::Away(_) => None,
        }
    }

    /// A client that has proved who it is wants its session.
    pub(crate) fn claim(
        &self,
        claim: &Claim,
        tenant: &Arc<Tenant>,
        after: &mut Aftermath,
    ) -> Claimed {
        let mut part = self.part(&claim.client_id).lock();
        let Some(entry) = part.get_mut(&claim.client_id) else {
            if self.len() >= tenant.config().limits.sessions_max {
                return Claimed::Full;
            }
            let fresh = Membership::of(claim, tenant);
            let epoch = self.next_epoch();
            if seat(claim, Resumed::Nothing, &fresh, epoch, tenant, after) {
                self.sessions.fetch_add(1, Ordering::Relaxed);
                let entry = Entry {
                    epoch,
                    holder: Holder::Connected(Arc::clone(&claim.conn), fresh),
                    waiting: None,
                };
                part.insert(Arc::clone(&claim.client_id), entry);
                after.note(&claim.client_id, SessionChange::Created);
            }
            return Claimed::Done;
        };
        let (old, membership) = match &entry.holder {
            Holder::Connected(conn, membership) => (Arc::clone(conn), membership.clone()),
            Holder::Away(_) => {
                self.come_back(&mut part, claim, tenant, after);
                return Claimed::Done;
            }
        };
        let left = old
            .with(|client, out| client.session_mut().map(|session| session.take_over(out)))
            .flatten();
        let Some(left) = left else {
            // It has ended by itself, and the news is under way.
            if let Some(earlier) = entry.waiting.replace(claim.clone()) {
                after.losers.push(earlier.conn);
            }
            return Claimed::Waits;
        };
        tenant.counters().taken_over.fetch_add(1, Ordering::Relaxed);
        after.losers.push(old);
        after.note(&claim.client_id, SessionChange::TakenOver);
        entry.epoch = self.next_epoch();
        let lives_on = !claim.clean_start && left.expiry_s > 0;
        let Left { state, will, .. } = left;
        if let Some(will) = will
            && (!lives_on || will.delay_s == 0 && tenant.config().limits.will_at_takeover)
        {
            after.wills.push((will, Arc::clone(&claim.client_id)));
        }
        let resumed = if lives_on {
            Some((Resumed::Left(Box::new(state)), membership))
        } else {
            after.note(&claim.client_id, SessionChange::Discarded);
            after.over.push((state, membership));
            None
        };
        self.settle(&mut part, claim, resumed, tenant, after);
        Claimed::Done
    }

    /// A client comes back to a session that is away.
    fn come_back(
        &self,
        part: &mut Part,
        claim: &Claim,
        tenant: &Arc<Tenant>,
        after: &mut Aftermath,
    ) {
        let Some(entry) = part.get_mut(&claim.client_id) else {
            return;
        };
        entry.epoch = self.next_epoch();
        let Holder::Away(away) = &mut entry.holder else {
            return;
        };
        if let Some(expiry) = away.expiry.take() {
            tenant.timers().cancel(expiry);
        }
        if let Some((will, timer)) = away.will.take() {
            tenant.timers().cancel(timer);
            if claim.clean_start {
                after.wills.push((will, Arc::clone(&claim.client_id)));
            }
        }
        let membership = away.membership.clone();
        let resumed = if claim.clean_start {
            after.note(&claim.client_id, SessionChange::Discarded);
            after.over.push((membership.take_away(), membership));
            None
        } else {
            Some((Resumed::Away, membership))
        };
        self.settle(part, claim, resumed, tenant, after);
    }

    /// Gives the session, or a new one, to the connection of a claim.
    fn settle(
        &self,
        part: &mut Part,
        claim: &Claim,
        resumed: Option<(Resumed, Membership)>,
        tenant: &Arc<Tenant>,
        after: &mut Aftermath,
    ) {
        let Some(entry) = part.get_mut(&claim.client_id) else {
            return;
        };
        let was_resumed = resumed.is_some();
        let (resumed, membership) =
            resumed.unwrap_or_else(|| (Resumed::Nothing, Membership::of(claim, tenant)));
        if seat(claim, resumed, &membership, entry.epoch, tenant, after) {
            entry.holder = Holder::Connected(Arc::clone(&claim.conn), membership);
            let change = if was_resumed {
                SessionChange::Resumed
            } else {
                SessionChange::Created
            };
            after.note(&claim.client_id, change);
        } else if was_resumed {
            // The client has gone again before it was in: the session waits on.
            let expiry = tenant.expiry(claim.expiry_s.max(1));
            entry.holder = Holder::Away(Away {
                expiry: set(tenant, &claim.client_id, entry.epoch, What::Expiry, expiry),
                membership,
                will: None,
            });
        } else {
            part.remove(&claim.client_id);
            self.sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A connection has ended that had the session in `epoch`. With `silent`, its will is not published: the server
    /// goes down.
    pub(crate) fn release(
        &self,
        client_id: &Arc<str>,
        epoch: u64,
        left: Left,
        silent: bool,
        tenant: &Arc<Tenant>,
        after: &mut Aftermath,
    ) {
        let mut part = self.part(client_id).lock();
        let Some(entry) = part.get_mut(client_id).filter(|entry| entry.epoch == epoch) else {
            return;
        };
        let Holder::Connected(_, membership) = &entry.holder else {
            return;
        };
        let membership = membership.clone();
        let Left {
            expiry_s,
            state,
            will,
        } = left;
        let will = will.filter(|_| !silent);
        let waiting = entry.waiting.take();
        let lives_on = expiry_s > 0 && !waiting.as_ref().is_some_and(|claim| claim.clean_start);
        let now = tenant.now();
        let delay_ms = match &will {
            Some(will) if lives_on => u64::from(will.delay_s.min(expiry_s)) * 1000,
            _ => 0,
        };
        let mut delayed = None;
        match will {
            Some(will) if delay_ms == 0 => after.wills.push((will, Arc::clone(client_id))),
            // Who waits comes back before it is due.
            Some(will) if waiting.is_none() => delayed = Some(will),
            _ => {}
        }
        if let Some(claim) = waiting {
            entry.epoch = self.next_epoch();
            let resumed = if lives_on {
                Some((Resumed::Left(Box::new(state)), membership))
            } else {
                after.over.push((state, membership));
                None
            };
            self.settle(&mut part, &claim, resumed, tenant, after);
        } else if lives_on {
            membership.put_away(state);
            let will = delayed.and_then(|will| {
                let at = now.plus_millis(delay_ms);
                let timer = set(tenant, client_id, epoch, What::Will, at)?;
                Some((will, timer))
            });
            let expiry = tenant.expiry(expiry_s);
            let expiry = set(tenant, client_id, epoch, What::Expiry, expiry);
            entry.holder = Holder::Away(Away {
                membership,
                expiry,
                will,
            });
        } else {
            part.remove(client_id);
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            after.note(client_id, SessionChange::Ended);
            after.over.push((state, membership));
        }
    }

    /// A timer has come.
    pub(crate) fn due(&self, due: &Due, after: &mut Aftermath) {
        let mut part = self.part(&due.client_id).lock();
        let Some(entry) = part
            .get_mut(&due.client_id)
            .filter(|entry| entry.epoch == due.epoch)
        else {
            return;
        };
        let Holder::Away(away) = &mut entry.holder else {
            return;
        };
        if let Some((will, _)) = away.will.take() {
            after.wills.push((will, Arc::clone(&due.client_id)));
        }
        if due.what == What::Expiry {
            let membership = away.membership.clone();
            after.over.push((membership.take_away(), membership));
            part.remove(&due.client_id);
            after.note(&due.client_id, SessionChange::Expired);
            self.sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Membership {
    /// A new place for the session of a claim.
    fn of(claim: &Claim, tenant: &Arc<Tenant>) -> Self {
        let origin = tenant.origin(&claim.client_id);
        let (tenant, conn) = (Arc::clone(tenant), Arc::clone(&claim.conn));
        if claim.expiry_s == 0 {
            Membership::bound(tenant, origin, conn)
        } else {
            Membership::lasting(tenant, origin, conn)
        }
    }
}

/// Sets a timer, unless it is for never.
fn set(
    tenant: &Tenant,
    client_id: &Arc<str>,
    epoch: u64,
    what: What,
    at: Timestamp,
) -> Option<TimerKey> {
    let due = Due {
        client_id: Arc::clone(client_id),
        epoch,
        what,
    };
    (at != Timestamp::NEVER).then(|| tenant.timers().set(at, due))
}

/// What a client comes back to.
enum Resumed {
    /// Nothing: its session is new.
    Nothing,
    /// What another connection has left.
    Left(Box<State>),
    /// What is at its seat.
    Away,
}

/// Tells the connection of a claim that it has its session. `false`: it has gone meanwhile, and a state that it was to
/// get is back at its seat.
fn seat(
    claim: &Claim,
    resumed: Resumed,
    membership: &Membership,
    epoch: u64,
    tenant: &Tenant,
    after: &mut Aftermath,
) -> bool {
    let conn = &claim.conn;
    let cx = tenant.cx();
    let accept = |state: Option<State>| {
        let mut state = state;
        let accepted =
            conn.with(|client, out| client.accept(epoch, membership.clone(), &mut state, &cx, out));
        (accepted == Some(true), state)
    };
    let move_in = |state| match accept(Some(state)) {
        (true, _) => None,
        (false, state) => Some(state.unwrap_or_default()),
    };
    let is_in = match resumed {
        Resumed::Nothing => accept(None).0,
        Resumed::Left(left) => membership.move_to(conn, Some(*left), move_in),
        Resumed::Away => membership.move_to(conn, None, move_in),
    };
    if is_in {
        after.accepted = Some(Arc::clone(conn));
    }
    is_in
}

impl Aftermath {
    fn note(&mut self, client_id: &Arc<str>, change: SessionChange) {
        self.changes.push((Arc::clone(client_id), change));
    }

    /// Does what is left, without any lock.
    pub(crate) fn carry_out(self, tenant: &Arc<Tenant>) {
        let hooks = tenant.hooks().whole();
        for (client_id, change) in self.changes {
            hooks.tell(Points::SESSION, || Event::Session { client_id, change });
        }
        for conn in self.losers {
            conn.close(CloseReason::Refused(
                "another connection took the session".into(),
            ));
        }
        for (state, membership) in self.over {
            membership.discard(&state);
        }
        for (will, client_id) in self.wills {
            tenant.publish_will(&will, &client_id);
        }
        if let Some(conn) = self.accepted {
            conn.flush_soon();
            conn.resume();
        }
    }
}
