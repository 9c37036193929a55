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

mod aftermath;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use longtail_broker::stable_hash;
use longtail_model::{SessionId, Timestamp};
use parking_lot::Mutex;

use crate::client::{Accepted, Seating};
use crate::durable::records::SessionRecord;
use crate::durable::{Restored, link};
use crate::hooks::SessionChange;
use crate::message::Will;
use crate::seat::{Conn, Membership};
use crate::session::{Left, State};
use crate::tenant::{Deadline, Tenant};
use crate::timers::TimerKey;

pub(crate) use aftermath::Aftermath;

/// Parts that are locked apart.
const PARTS: usize = 64;

/// Sessions by client id.
type Part = HashMap<Arc<str>, Entry, foldhash::fast::RandomState>;

/// The sessions of a space.
pub(crate) struct Registry {
    parts: Box<[Mutex<Part>]>,
    sessions: AtomicUsize,
    /// Never the same twice, so that the end of an old connection is never taken for that of a new one.
    epochs: AtomicU64,
}

struct Entry {
    epoch: u64,
    holder: Holder,
    /// A client that waits for the end of the connection that had the session.
    waiting: Option<Box<Claim>>,
}

enum Holder {
    Connected(Arc<Conn>, Membership),
    /// Boxed, so that those who are there take no more room.
    Away(Box<Away>),
}

/// A session whose client is not there.
struct Away {
    membership: Membership,
    expiry: Option<TimerKey>,
    will: Option<(Box<Will>, TimerKey)>,
    /// What is written of it, without the will.
    record: SessionRecord,
}

/// A client that wants its session.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) client_id: Arc<str>,
    pub(crate) conn: Arc<Conn>,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: u32,
}

/// A session as somebody finds it who looks.
pub(crate) enum Seen<'r> {
    /// At a connection.
    Connected(&'r Arc<Conn>),
    /// Away, until then.
    Away(&'r Membership, Option<Timestamp>),
}

impl Entry {
    fn seen(&self) -> Seen<'_> {
        match &self.holder {
            Holder::Connected(conn, _) => Seen::Connected(conn),
            Holder::Away(away) => Seen::Away(&away.membership, away.expiry.map(TimerKey::at)),
        }
    }
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

    /// A number for a client id, always the same: messages in the log name their publishers so.
    pub(crate) fn number(client_id: &str) -> u64 {
        stable_hash(client_id.bytes()) | 1
    }

    /// Shows every session, part by part with the part locked.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&Arc<str>, &Seen<'_>)) {
        for part in &self.parts {
            for (client_id, entry) in part.lock().iter() {
                look(client_id, &entry.seen());
            }
        }
    }

    /// Shows one session, if there is one, with its part locked.
    pub(crate) fn look<R>(
        &self,
        client_id: &str,
        look: impl FnOnce(&Arc<str>, &Seen<'_>) -> R,
    ) -> Option<R> {
        let part = self.part(client_id).lock();
        let (client_id, entry) = part.get_key_value(client_id)?;
        Some(look(client_id, &entry.seen()))
    }

    /// Ends a session that is away, with what it kept; `false` if there is none.
    pub(crate) fn forget(&self, client_id: &str, tenant: &Tenant, after: &mut Aftermath) -> bool {
        let mut part = self.part(client_id).lock();
        let Some((client_id, entry)) = part.get_key_value(client_id) else {
            return false;
        };
        let Holder::Away(away) = &entry.holder else {
            return false;
        };
        let client_id = Arc::clone(client_id);
        if let Some(expiry) = away.expiry {
            tenant.timers().cancel(expiry);
        }
        if let Some((_, timer)) = &away.will {
            tenant.timers().cancel(*timer);
        }
        let Some(Holder::Away(away)) = part.remove(&client_id).map(|entry| entry.holder) else {
            return false;
        };
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        // The session ends, which is when its will is due at the latest.
        after
            .wills
            .extend(away.will.map(|(will, _)| (will, Arc::clone(&client_id))));
        let state = away.membership.take_away();
        over(&client_id, state, away.membership, tenant, after);
        true
    }

    fn part(&self, client_id: &str) -> &Mutex<Part> {
        &self.parts[(Self::number(client_id) >> 32) as usize % PARTS]
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
            if seat(claim, Resumed::Nothing, &fresh, epoch, None, tenant, after) {
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
            .with(|client, out| client.take_over(tenant.durable(), out))
            .flatten();
        let Some((left, link)) = left else {
            // It has ended by itself, and the news is under way.
            if let Some(earlier) = entry.waiting.replace(Box::new(claim.clone())) {
                after.losers.push(earlier.conn);
            }
            return Claimed::Waits;
        };
        tenant.counters().taken_over.fetch_add(1, Ordering::Relaxed);
        after.losers.push(old);
        after.note(&claim.client_id, SessionChange::TakenOver);
        after.links.extend(link);
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
            over(&claim.client_id, state, membership, tenant, after);
            None
        };
        self.settle(&mut part, claim, resumed, link, tenant, after);
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
            let state = membership.take_away();
            over(&claim.client_id, state, membership, tenant, after);
            None
        } else {
            Some((Resumed::Away, membership))
        };
        self.settle(part, claim, resumed, None, tenant, after);
    }

    /// Gives the session, or a new one, to the connection of a claim. `earlier` is what is not detached yet of the
    /// connection that had it.
    fn settle(
        &self,
        part: &mut Part,
        claim: &Claim,
        resumed: Option<(Resumed, Membership)>,
        earlier: Option<SessionId>,
        tenant: &Arc<Tenant>,
        after: &mut Aftermath,
    ) {
        let Some(entry) = part.get_mut(&claim.client_id) else {
            return;
        };
        let was_resumed = resumed.is_some();
        let (resumed, membership) =
            resumed.unwrap_or_else(|| (Resumed::Nothing, Membership::of(claim, tenant)));
        let epoch = entry.epoch;
        if seat(claim, resumed, &membership, epoch, earlier, tenant, after) {
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
            entry.holder = Holder::Away(Box::new(Away {
                expiry: set(tenant, &claim.client_id, entry.epoch, What::Expiry, expiry),
                record: SessionRecord {
                    number: membership.number(),
                    expiry_s: claim.expiry_s.max(1),
                    ended: Some(tenant.now()),
                    will: None,
                },
                membership,
                will: None,
            }));
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
                over(client_id, state, membership, tenant, after);
                None
            };
            self.settle(&mut part, &claim, resumed, None, tenant, after);
        } else if lives_on {
            let record = SessionRecord {
                number: state.number,
                expiry_s,
                ended: Some(now),
                will: delayed.clone(),
            };
            tenant
                .durable()
                .record(client_id, &record, Box::new(|_| ()));
            membership.put_away(state);
            after.parked.push(membership.clone());
            let will = delayed.and_then(|will| {
                let at = now.plus_millis(delay_ms);
                let timer = set(tenant, client_id, epoch, What::Will, at)?;
                Some((will, timer))
            });
            let expiry = tenant.expiry(expiry_s);
            let expiry = set(tenant, client_id, epoch, What::Expiry, expiry);
            entry.holder = Holder::Away(Box::new(Away {
                membership,
                expiry,
                will,
                record: SessionRecord {
                    will: None,
                    ..record
                },
            }));
        } else {
            part.remove(client_id);
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            after.note(client_id, SessionChange::Ended);
            over(client_id, state, membership, tenant, after);
        }
    }

    /// A timer has come.
    pub(crate) fn due(&self, due: &Due, tenant: &Tenant, after: &mut Aftermath) {
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
        let will = away.will.take();
        let membership = away.membership.clone();
        if due.what == What::Expiry {
            let state = membership.take_away();
            over(&due.client_id, state, membership, tenant, after);
            part.remove(&due.client_id);
            after.note(&due.client_id, SessionChange::Expired);
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            after.expired += 1;
        } else if will.is_some() {
            let record = SessionRecord {
                will: None,
                ..away.record.clone()
            };
            tenant
                .durable()
                .record(&due.client_id, &record, Box::new(|_| ()));
        }
        if let Some((will, _)) = will {
            after.wills.push((will, Arc::clone(&due.client_id)));
        }
    }

    /// Forgets everything, at the end of the process's part.
    pub(crate) fn clear(&self) {
        for part in &self.parts {
            let entries = std::mem::take(&mut *part.lock());
            for (_, entry) in entries {
                let membership = match entry.holder {
                    Holder::Connected(_, membership) => membership,
                    Holder::Away(away) => away.membership,
                };
                membership.discard(&membership.take_away());
            }
        }
    }

    /// Sessions that were found at the start. Those that were connected are away from now on.
    pub(crate) fn restore(&self, sessions: Vec<Restored>, tenant: &Arc<Tenant>) {
        let now = tenant.now();
        for Restored {
            client_id,
            mut record,
            state,
        } in sessions
        {
            if record.ended.is_none() {
                record.ended = Some(now);
                tenant
                    .durable()
                    .record(&client_id, &record, Box::new(|_| ()));
            }
            let ended = record.ended.unwrap_or(now);
            let origin = Tenant::origin(&client_id);
            for held in state
                .subscriptions
                .values()
                .filter(|held| held.is_exclusive)
            {
                tenant.exclusive().claim(held.filter.as_str(), &client_id);
            }
            let membership = Membership::away(Arc::clone(tenant), origin, state);
            membership.route();
            let epoch = self.next_epoch();
            let will = record.will.take().and_then(|will| {
                let delay_s = will.delay_s.min(record.expiry_s);
                let at = ended.plus_millis(u64::from(delay_s) * 1000);
                let timer = set(tenant, &client_id, epoch, What::Will, at)?;
                Some((will, timer))
            });
            let expiry = match record.expiry_s {
                u32::MAX => Timestamp::NEVER,
                seconds => ended.plus_millis(u64::from(seconds) * 1000),
            };
            let away = Away {
                expiry: set(tenant, &client_id, epoch, What::Expiry, expiry),
                membership,
                will,
                record,
            };
            let entry = Entry {
                epoch,
                holder: Holder::Away(Box::new(away)),
                waiting: None,
            };
            self.sessions.fetch_add(1, Ordering::Relaxed);
            self.part(&client_id).lock().insert(client_id, entry);
        }
    }
}

/// A session is over: what is written of it goes at once, so that a new one of the same client is written behind that.
fn over(
    client_id: &str,
    state: State,
    membership: Membership,
    tenant: &Tenant,
    after: &mut Aftermath,
) {
    if state.number != 0 {
        tenant.durable().forget(client_id);
    }
    for held in state
        .subscriptions
        .values()
        .filter(|held| held.is_exclusive)
    {
        let filter = held.filter.as_str();
        tenant.exclusive().release(filter, client_id);
    }
    after.over.push((state, membership));
}

impl Membership {
    /// A new place for the session of a claim.
    fn of(claim: &Claim, tenant: &Arc<Tenant>) -> Self {
        let origin = Tenant::origin(&claim.client_id);
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
    (at != Timestamp::NEVER).then(|| tenant.timers().set(at, Deadline::Session(due)))
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
    earlier: Option<SessionId>,
    tenant: &Tenant,
    after: &mut Aftermath,
) -> bool {
    let conn = &claim.conn;
    let cx = conn.protocol().cx();
    let mut accepted = None;
    let mut accept = |state: Option<State>| {
        let mut state = state;
        let outcome = conn.with(|client, out| {
            let seating = Seating {
                epoch,
                membership: membership.clone(),
                earlier,
            };
            client.accept(seating, &mut state, tenant.durable(), &cx, out)
        });
        accepted = outcome.flatten();
        (accepted.is_some(), state)
    };
    let move_in =
        |accept: &mut dyn FnMut(Option<State>) -> (bool, Option<State>), state| match accept(Some(
            state,
        )) {
            (true, _) => None,
            (false, state) => Some(state.unwrap_or_default()),
        };
    let is_in = match resumed {
        Resumed::Nothing => accept(None).0,
        Resumed::Left(left) => {
            membership.move_to(conn, Some(*left), |state| move_in(&mut accept, state))
        }
        Resumed::Away => membership.move_to(conn, None, |state| move_in(&mut accept, state)),
    };
    match accepted {
        None => {}
        Some(Accepted::In) => after.accepted = Some(Arc::clone(conn)),
        Some(Accepted::Lasting(record, lost)) => {
            let done = Arc::clone(conn);
            let done = Box::new(move |outcome| link::recorded(&done, outcome));
            if !tenant.durable().record(&claim.client_id, &record, done) {
                conn.with(|client, _| client.is_recorded());
            }
            after.entering = Some((Arc::clone(conn), membership.clone(), lost));
        }
    }
    is_in
}
