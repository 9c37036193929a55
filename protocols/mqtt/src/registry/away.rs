//! Sessions without their clients: how they come to be so, how they end, and how they are found at the start.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use longtail_model::Timestamp;

use super::claim::Resumed;
use super::{Aftermath, Away, Due, Entry, Holder, Registry, What};
use crate::durable::Restored;
use crate::durable::records::SessionRecord;
use crate::hooks::SessionChange;
use crate::seat::Membership;
use crate::session::{Left, State};
use crate::tenant::{Deadline, Tenant};
use crate::timers::TimerKey;

impl Registry {
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
pub(super) fn over(
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

/// Sets a timer, unless it is for never.
pub(super) fn set(
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
