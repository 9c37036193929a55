//! A client gets its session: a new one, the one that it left, or the one that another connection of it has.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use longtail_model::SessionId;

use super::away::{over, set};
use super::{Aftermath, Away, Claim, Claimed, Entry, Holder, Part, Registry, What};
use crate::client::{Accepted, Seating};
use crate::durable::link;
use crate::durable::records::SessionRecord;
use crate::hooks::SessionChange;
use crate::seat::Membership;
use crate::session::{Left, State};
use crate::tenant::Tenant;

impl Registry {
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
    pub(super) fn settle(
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

/// What a client comes back to.
pub(super) enum Resumed {
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
