//! Clients that are connected while accounts change: they go on with the rights that their accounts have now, or go.

use std::sync::Arc;

use crate::client::Lost;
use crate::durable::link;
use crate::hooks::{Event, Points};
use crate::registry::Seen;
use crate::seat::Conn;
use crate::service::end_login;
use crate::tenant::Tenant;

impl Tenant {
    /// Looks up once more what each connected client may do. One whose account is gone is disconnected (0x87);
    /// subscriptions that are not allowed any more end, and what waits for them is dropped. Sessions whose clients are
    /// away are looked at when they come back.
    pub fn judge_again(&self) {
        let mut connected = Vec::new();
        self.registry().for_each(|_, seen| {
            if let Seen::Connected(conn) = seen {
                connected.push(Arc::clone(conn));
            }
        });
        for conn in connected {
            self.judge(&conn);
        }
        let hooks = self.hooks().whole();
        hooks.tell(Points::RELOADED, || Event::Reloaded);
    }

    fn judge(&self, conn: &Arc<Conn>) {
        let known = conn.with(|client, _| {
            let session = client.session()?;
            let principal = session.principal()?.clone();
            Some((principal, Arc::clone(session.client_id())))
        });
        // Where there is no account, nothing about it can have changed.
        let Some((principal, client_id)) = known.flatten() else {
            return;
        };
        let service = conn.protocol();
        let Some(grants) = service
            .admission()
            .now(&principal, &client_id, Some(conn.peer()))
        else {
            let account = &*principal.account;
            tracing::info!(client = %client_id, account, "its account is gone");
            end_login(conn);
            return;
        };
        let judged = conn.with(|client, _| {
            let session = client.session_mut()?;
            session.set_grants(grants);
            // One that is on its way in is looked at there.
            if !session.is_open() {
                return None;
            }
            let number = session.state().number;
            Some((session.judge_again(&service.cx()), number))
        });
        let Some((judged, number)) = judged.flatten() else {
            return;
        };
        let membership = conn.with(|client, _| client.membership()).flatten();
        let Some(membership) = membership else {
            return;
        };
        if judged.changed {
            membership.route();
        }
        if !judged.ended.is_empty() {
            let lost = Lost {
                number,
                subscriptions: judged.ended,
            };
            link::lose(conn, self, &membership, &lost);
        }
    }
}
