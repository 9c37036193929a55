//! What follows from a change of the registry, when its lock is released.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use longtail_edge::CloseReason;
use longtail_model::SessionId;

use crate::client::Lost;
use crate::durable::link;
use crate::hooks::{Event, Points, SessionChange};
use crate::message::Will;
use crate::seat::{Conn, Membership};
use crate::service::welcomed;
use crate::session::{Held, State};
use crate::tenant::Tenant;

/// What is to be done when the registry's lock is released.
#[derive(Default)]
pub(crate) struct Aftermath {
    /// Wills to publish, with the client they are of.
    pub(crate) wills: Vec<(Box<Will>, Arc<str>)>,
    /// Sessions that are over.
    pub(crate) over: Vec<(State, Membership)>,
    /// Connections that lost their session.
    pub(crate) losers: Vec<Arc<Conn>>,
    /// Sessions at the shard, of connections that lost theirs.
    pub(crate) links: Vec<SessionId>,
    /// Sessions that are away now.
    pub(crate) parked: Vec<Membership>,
    /// How many of these because nobody came back to them.
    pub(crate) expired: u64,
    /// Connections that got one.
    pub(crate) accepted: Option<Arc<Conn>>,
    /// Connections that will be in when their session's streams are open.
    pub(crate) entering: Option<(Arc<Conn>, Membership, Lost)>,
    /// What hooks are told.
    changes: Vec<(Arc<str>, SessionChange)>,
}

impl Aftermath {
    pub(super) fn note(&mut self, client_id: &Arc<str>, change: SessionChange) {
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
        for link in self.links {
            tenant.durable().detach(link);
        }
        tenant
            .counters()
            .expired
            .fetch_add(self.expired, Ordering::Relaxed);
        let mut ended = self.over.iter();
        let has_streams =
            ended.any(|(state, _)| state.subscriptions.values().any(Held::has_stream));
        for (state, membership) in self.over {
            membership.discard(&state);
            tenant.durable().discard(&state);
        }
        if has_streams {
            link::run(tenant.durable());
        }
        for membership in self.parked {
            membership.route();
        }
        for (will, client_id) in self.wills {
            tenant.publish_will(&will, &client_id);
        }
        if let Some(conn) = self.accepted {
            welcomed(&conn);
            conn.flush_soon();
            conn.resume();
        }
        if let Some((conn, membership, lost)) = self.entering {
            if !lost.subscriptions.is_empty() {
                link::lose(&conn, tenant, &membership, &lost);
            }
            membership.route();
            link::enter(&conn, tenant);
        }
    }
}
