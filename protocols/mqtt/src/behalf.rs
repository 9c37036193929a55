//! What an operator does for a client that is connected: subscribe it, end its subscriptions, give it another keep alive.

use std::sync::Arc;

use crate::codec::{ReasonCode, Subscription};
use crate::durable::link;
use crate::seat::Conn;
use crate::service::{keep_alive, subscribe, unsubscribe};
use crate::tenant::Tenant;

/// The client is not connected, or has just come and is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is not connected")]
pub struct NotConnected;

impl Tenant {
    fn connection_of(&self, client_id: &str) -> Result<Arc<Conn>, NotConnected> {
        self.registry().connection(client_id).ok_or(NotConnected)
    }

    /// Subscribes a connected client with its own rights, as if it had asked for it; it is not answered. For each what
    /// it is granted; what streams have to be told is on its way then.
    ///
    /// # Errors
    /// When the client is not connected.
    pub fn subscribe_for(
        &self,
        client_id: &str,
        asked: &[Subscription<'_>],
    ) -> Result<Vec<Result<(), ReasonCode>>, NotConnected> {
        let conn = self.connection_of(client_id)?;
        let service = conn.protocol();
        let subscribing = conn.with(|client, _| {
            let session = client.session_mut()?;
            session.subscribe_for(asked, &service.cx())
        });
        let subscribing = subscribing.flatten().ok_or(NotConnected)?;
        let wanted = subscribing.wanted.iter();
        let granted = wanted.map(|wanted| wanted.as_ref().map(|_| ()).map_err(|reason| *reason));
        let granted = granted.collect();
        subscribe(service, &conn, subscribing);
        self.settle(&conn);
        Ok(granted)
    }

    /// Ends subscriptions of a connected client; it is not told. For each what an UNSUBACK would say.
    ///
    /// # Errors
    /// When the client is not connected.
    pub fn unsubscribe_for(
        &self,
        client_id: &str,
        filters: &[&str],
    ) -> Result<Vec<ReasonCode>, NotConnected> {
        let conn = self.connection_of(client_id)?;
        let service = conn.protocol();
        let unsubscribing = conn.with(|client, _| {
            let session = client.session_mut()?;
            session.unsubscribe_for(filters, &service.cx())
        });
        let unsubscribing = unsubscribing.flatten().ok_or(NotConnected)?;
        let reasons = unsubscribing.reasons().to_vec();
        unsubscribe(service, &conn, unsubscribing);
        self.settle(&conn);
        Ok(reasons)
    }

    /// Gives a connected client another keep alive, which it is not told; 0: it may be silent for ever.
    ///
    /// # Errors
    /// When the client is not connected.
    pub fn set_keep_alive(&self, client_id: &str, seconds: u16) -> Result<(), NotConnected> {
        let conn = self.connection_of(client_id)?;
        let percent = conn.protocol().limits().keep_alive_percent;
        let done = conn.with(|client, _| {
            let session = client.session_mut().filter(|session| session.is_open())?;
            session.set_keep_alive(seconds);
            Some(())
        });
        done.flatten().ok_or(NotConnected)?;
        conn.set_idle_timeout(keep_alive(seconds, percent));
        Ok(())
    }

    /// Has what was queued for streams carried out, and what was written sent: nothing of this is part of a worker's
    /// tick.
    fn settle(&self, conn: &Arc<Conn>) {
        conn.with(|client, _| client.queue(self.durable()));
        link::run(self.durable());
        conn.flush_soon();
    }
}
