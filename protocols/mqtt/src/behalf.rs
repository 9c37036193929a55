//! What an operator or a program does for a client that is connected: subscribe it, end its subscriptions, give it another
//! keep alive, say something in its place.

use std::sync::Arc;

use longtail_edge::Protocol as _;

use crate::codec::{Fault, ReasonCode, Subscription};
use crate::durable::link;
use crate::hooks::is_inside;
use crate::seat::Conn;
use crate::service::{keep_alive, subscribe, unsubscribe};
use crate::tenant::Tenant;

/// The client is not connected, or has just come and is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is not connected")]
pub struct NotConnected;

/// Why a packet was not dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInjected {
    /// See [`NotConnected`].
    #[error(transparent)]
    NotConnected(#[from] NotConnected),
    /// The bytes are not one packet that a client of this version may send.
    #[error("no packet of this client: {0}")]
    Packet(Fault),
    /// A hook that is being called may not.
    #[error("not from inside a hook")]
    InsideHook,
}

impl Tenant {
    /// Deals with a packet as if a connected client had sent it: with its rights, its limits, its hooks. It is encoded
    /// in the version that the client speaks, and what it is answered goes to the client, so that packet identifiers
    /// have to be those that the client expects. A packet that breaks a rule ends the connection as the client's own
    /// would.
    ///
    /// # Errors
    /// [`NotInjected`].
    pub fn inject(&self, client_id: &str, packet: &[u8]) -> Result<(), NotInjected> {
        if is_inside() {
            return Err(NotInjected::InsideHook);
        }
        let conn = self.connection_of(client_id)?;
        let service = Arc::clone(conn.protocol());
        let done = conn.with(|client, out| service.inject(client, packet, out));
        let done = done.flatten().ok_or(NotConnected)?;
        let ends = done.map_err(NotInjected::Packet)?;
        service.submit(&conn);
        self.settle(&conn);
        if let Some(reason) = ends {
            conn.close(reason);
        }
        Ok(())
    }

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
