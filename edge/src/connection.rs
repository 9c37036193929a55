//! A connection as the rest of the process sees it: something to append replies to, from any thread.
//!
//! Its state (session, outbox, the writing half of a plain socket) is behind one lock, held for the time of a callback
//! or of a write that does not block. The reading half belongs to the owner task ([`crate::driver`]), which others reach
//! by signals: a bit set and a wake-up.

mod core;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use crate::address::Endpoint;
use crate::close::CloseReason;
use crate::encryption::Encryption;
use crate::identity::TlsIdentity;
use crate::metrics::ListenerMetrics;
use crate::out::Out;
use crate::protocol::Protocol;
use crate::shared::Slot;
use crate::stream::Writer;
use crate::table::{ConnectionInfo, Entry, Sweep, Traffic};
use crate::tick::{Local, Member, with_local};

pub(crate) use self::core::signal;
use self::core::{Core, State};

/// A connection's number; never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One client's connection.
///
/// The broker keeps an `Arc` of it as the address for replies; after the end of the connection that is harmless:
/// [`with`](Self::with) then answers `None`.
// In this order, see `Core`.
#[repr(C)]
pub struct Connection<P: Protocol> {
    protocol: Arc<P>,
    pub(crate) core: Core,
    pub(crate) state: Mutex<State<P::Session>>,
}

impl<P: Protocol> Connection<P> {
    pub(crate) fn new(
        protocol: Arc<P>,
        slot: Slot,
        peer: Endpoint,
        security: (Option<Arc<TlsIdentity>>, Option<Encryption>),
        writer: Writer,
    ) -> Self {
        let out = Out::new(slot.listener.config.outbox_soft_bytes);
        let core = Core::new(slot, peer, security);
        core.set_idle_timeout(protocol.idle_timeout());
        let state = State {
            session: None,
            out,
            writer: Some(writer),
            blocked: false,
            ending: None,
        };
        Connection {
            core,
            protocol,
            state: Mutex::new(state),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.core.id
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Endpoint {
        &self.core.peer
    }

    /// The end on this machine.
    #[must_use]
    pub fn local(&self) -> &Endpoint {
        &self.core.listener().local
    }

    /// Whom a verified client certificate names, if one was shown.
    #[must_use]
    pub fn identity(&self) -> Option<&TlsIdentity> {
        self.core.identity.as_deref()
    }

    /// As [`Connection::identity`], for whoever keeps it.
    #[must_use]
    pub fn shared_identity(&self) -> Option<Arc<TlsIdentity>> {
        self.core.identity.clone()
    }

    /// How it is encrypted, if it is.
    #[must_use]
    pub fn encryption(&self) -> Option<Encryption> {
        self.core.encryption.as_deref().copied()
    }

    /// Bytes the protocol was given so far.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.core.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes handed to the socket so far.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.core.bytes_out.load(Ordering::Relaxed)
    }

    /// The protocol it speaks.
    #[must_use]
    pub fn protocol(&self) -> &Arc<P> {
        &self.protocol
    }

    /// The worker that owns it, from 0.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.core.slot.worker
    }

    /// Bytes that were waiting in the outbox after the last write: 0 for a peer that keeps up.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.core.outbox.load(Ordering::Relaxed)
    }

    /// Gives `work` the session and the outbox, under the connection's lock, from any thread. What it appends leaves with
    /// the next [`flush`](Self::flush). `None` when the session has ended.
    ///
    /// Past the outbox's hard limit a plain socket is tried at once; if that does not help, and behind TLS or WebSocket,
    /// the connection is cut ([`CloseReason::SlowConsumer`]).
    pub fn with<R>(&self, work: impl FnOnce(&mut P::Session, &mut Out) -> R) -> Option<R> {
        let state = &mut *self.state.lock();
        let result = work(state.session.as_mut()?, &mut state.out);
        if state.out.len() > self.core.hard_limit() {
            self.core.write(state);
        }
        Some(result)
    }

    /// Writes what is in the outbox, from any thread, without blocking. A plain socket is written here and now, and what
    /// it does not take is left to the owner; behind TLS or WebSocket the owner is woken to write.
    pub fn flush(&self) {
        self.core.write(&mut self.state.lock());
    }

    /// As [`flush`](Self::flush), but on a worker's thread only at the end of the running or coming tick, so that many
    /// replies leave in one write.
    pub fn flush_soon(self: &Arc<Self>) {
        let listed = with_local(|local| {
            if !self.core.flush_listed.swap(true, Ordering::AcqRel) {
                local.flush_soon(self.clone());
            }
        });
        if listed.is_none() {
            self.flush();
        }
    }

    /// As [`flush_soon`](Self::flush_soon), for who has nothing more for this connection in this tick: within
    /// [`Protocol::submit`] of the only connection that takes part in it the outbox is written at once, while all that
    /// takes is in the processor's cache. With others there may be more to come from them.
    pub fn flush_last(self: &Arc<Self>) {
        if self.is_last() {
            self.flush();
        } else {
            self.flush_soon();
        }
    }

    /// Looks at what a write will need of its memory, without waiting for it: see the order of `Core`.
    pub fn approach(&self) {
        let core = self.core.outbox.load(Ordering::Relaxed);
        std::hint::black_box((core, self.state.is_locked()));
    }

    /// [`with`](Self::with) and [`flush_last`](Self::flush_last), under one lock where that is possible.
    pub fn with_last<R>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut P::Session, &mut Out) -> R,
    ) -> Option<R> {
        let is_last = self.is_last();
        let (result, is_left) = {
            let state = &mut *self.state.lock();
            let result = work(state.session.as_mut()?, &mut state.out);
            if is_last || state.out.len() > self.core.hard_limit() {
                self.core.write(state);
            }
            (result, !is_last && !state.out.is_empty())
        };
        if is_left {
            self.flush_soon();
        }
        Some(result)
    }

    /// Whether nothing more comes for this connection in this tick, if its caller has nothing more.
    fn is_last(&self) -> bool {
        let alone = with_local(Local::is_alone);
        alone == Some(true) && !self.core.flush_listed.load(Ordering::Acquire)
    }

    /// Ends a [`crate::Then::Pause`]: the owner shows the unconsumed input again and goes on reading. From any thread.
    pub fn resume(&self) {
        self.core.signal(signal::RESUME);
    }

    /// Ends the connection: reads nothing more, writes what is in the outbox if the reason is a civil one, then closes.
    /// The first reason stays. From any thread.
    pub fn close(&self, why: CloseReason) {
        self.core.begin_close(&mut self.state.lock(), why);
    }

    /// Sets after how long without input [`Protocol::idle`] is called; `None` for never.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.core.set_idle_timeout(timeout);
    }

    /// Takes part in the coming tick of this worker. Only on the owner's thread.
    pub(crate) fn enlist(self: &Arc<Self>) {
        if !self.core.enlisted.swap(true, Ordering::Relaxed) {
            // The tick flushes it anyway: nobody needs to list it for that.
            self.core.flush_listed.store(true, Ordering::Release);
            with_local(|local| local.enlist(self.clone()));
        }
    }
}

impl<P: Protocol> Member for Connection<P> {
    fn submit(self: Arc<Self>) {
        self.core.enlisted.store(false, Ordering::Relaxed);
        if !self.core.over.load(Ordering::Acquire) {
            self.protocol.submit(&self);
        }
    }

    fn flush(&self) {
        self.core.flush_listed.store(false, Ordering::Release);
        Connection::flush(self);
    }
}

impl<P: Protocol> Entry for Connection<P> {
    fn info(&self) -> ConnectionInfo {
        let core = &self.core;
        ConnectionInfo {
            id: core.id,
            protocol: core.listener().protocol,
            listener: core.listener().number,
            peer: core.peer.to_string(),
            since: core.since(),
            bytes_in: core.bytes_in.load(Ordering::Relaxed),
            bytes_out: core.bytes_out.load(Ordering::Relaxed),
            outbox_bytes: core.outbox.load(Ordering::Relaxed),
            input_bytes: core.kept_input.load(Ordering::Relaxed),
        }
    }

    fn cut(&self, why: CloseReason) {
        debug_assert!(!why.is_graceful());
        let state = &mut *self.state.lock();
        self.core.begin_close(state, why);
        self.core.signal(signal::CUT);
    }

    fn drain(&self) {
        self.core.signal(signal::DRAIN);
    }

    fn sweep(&self, sweep: &Sweep) {
        self.core.sweep(sweep);
    }

    fn held(&self) -> (usize, u64) {
        self.core.held()
    }

    fn id(&self) -> ConnectionId {
        self.core.id
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            listener: self.core.listener().number,
            bytes_in: self.bytes_in(),
            bytes_out: self.bytes_out(),
        }
    }

    fn count_stalled(&self) {
        ListenerMetrics::count(&self.core.listener().metrics.stalled);
    }
}

impl<P: Protocol> fmt::Debug for Connection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.core.id.0)
            .field("peer", &self.core.peer)
            .finish_non_exhaustive()
    }
}
