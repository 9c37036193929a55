//! A connection as the rest of the process sees it: something to append replies to, from any thread.
//!
//! Its state (session, outbox, the writing half of a plain socket) is behind one lock, held for the time of a callback
//! or of a write that does not block. The reading half belongs to the owner task ([`crate::driver`]), which others reach
//! by signals: a bit set and a wake-up.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::address::Endpoint;
use crate::close::CloseReason;
use crate::identity::TlsIdentity;
use crate::metrics::ListenerMetrics;
use crate::out::Out;
use crate::protocol::Protocol;
use crate::shared::{ListenerShared, Shared, Slot};
use crate::stream::Writer;
use crate::table::{ConnectionInfo, Entry, Sweep};
use crate::tick::{Member, with_local};

/// A connection's number; never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What others ask of the owner task.
pub(crate) mod signal {
    /// [`super::Connection::resume`].
    pub(crate) const RESUME: u32 = 1;
    /// There is output only the owner can write.
    pub(crate) const WRITE: u32 = 2;
    /// End now.
    pub(crate) const CUT: u32 = 4;
    /// Ask the protocol what draining means.
    pub(crate) const DRAIN: u32 = 8;
    /// Nothing arrived for the idle timeout.
    pub(crate) const IDLE: u32 = 16;
}

/// One client's connection.
///
/// The broker keeps an `Arc` of it as the address for replies; after the end of the connection that is harmless:
/// [`with`](Self::with) then answers `None`.
pub struct Connection<P: Protocol> {
    pub(crate) core: Core,
    protocol: Arc<P>,
    pub(crate) state: Mutex<State<P::Session>>,
}

/// The part that does not depend on the protocol.
pub(crate) struct Core {
    id: ConnectionId,
    peer: Endpoint,
    local: Endpoint,
    identity: Option<Arc<TlsIdentity>>,
    since: SystemTime,
    pub(crate) slot: Slot,
    pub(crate) signals: AtomicU32,
    /// The owner task's waker: always the same, since nothing stands between the task and the driver.
    pub(crate) owner: OnceLock<Waker>,
    /// No session any more (or not yet).
    pub(crate) over: AtomicBool,
    pub(crate) closing: AtomicBool,
    /// Takes part in the coming tick; its owner's thread only.
    pub(crate) enlisted: AtomicBool,
    /// Is in some thread's list of connections to flush.
    flush_listed: AtomicBool,
    /// The owner stopped reading until the outbox is shorter. Changed under the lock only.
    pub(crate) awaits_drain: AtomicBool,
    /// The owner stopped reading until memory is free.
    pub(crate) awaits_memory: AtomicBool,
    /// Bytes left in the outbox by the last write.
    pub(crate) outbox: AtomicUsize,
    /// Bytes of input kept by the owner.
    pub(crate) kept_input: AtomicUsize,
    pub(crate) bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// When input arrived last, and when output moved last (milliseconds since start).
    pub(crate) active_in_ms: AtomicU64,
    active_out_ms: AtomicU64,
    /// 0 for never.
    idle_timeout_ms: AtomicU64,
    /// When a closing connection is cut; `u64::MAX` for never.
    pub(crate) deadline_ms: AtomicU64,
}

/// What the connection's lock protects.
pub(crate) struct State<S> {
    pub(crate) session: Option<S>,
    pub(crate) out: Out,
    pub(crate) writer: Option<Writer>,
    /// The socket took less than there was: only the owner writes until it is drained.
    pub(crate) blocked: bool,
    /// Why the connection ends; the first reason stays.
    pub(crate) ending: Option<CloseReason>,
}

impl<P: Protocol> Connection<P> {
    pub(crate) fn new(
        protocol: Arc<P>,
        slot: Slot,
        local: Endpoint,
        peer: Endpoint,
        identity: Option<Arc<TlsIdentity>>,
        writer: Writer,
    ) -> Self {
        let now = slot.shared.clock.coarse_ms();
        let out = Out::new(slot.listener.config.outbox_soft_bytes);
        let idle_timeout = protocol.idle_timeout();
        let core = Core {
            id: ConnectionId(slot.shared.next_id()),
            peer,
            local,
            identity,
            since: SystemTime::now(),
            slot,
            signals: AtomicU32::new(0),
            owner: OnceLock::new(),
            over: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            enlisted: AtomicBool::new(false),
            flush_listed: AtomicBool::new(false),
            awaits_drain: AtomicBool::new(false),
            awaits_memory: AtomicBool::new(false),
            outbox: AtomicUsize::new(0),
            kept_input: AtomicUsize::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            active_in_ms: AtomicU64::new(now),
            active_out_ms: AtomicU64::new(now),
            idle_timeout_ms: AtomicU64::new(idle_timeout.map_or(0, timeout_ms)),
            deadline_ms: AtomicU64::new(u64::MAX),
        };
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
        &self.core.local
    }

    /// Whom a verified client certificate names, if one was shown.
    #[must_use]
    pub fn identity(&self) -> Option<&TlsIdentity> {
        self.core.identity.as_deref()
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
    /// Past the outbox's hard limit the socket is tried at once; if that does not help, the connection is cut
    /// ([`CloseReason::SlowConsumer`]).
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
        self.core
            .idle_timeout_ms
            .store(timeout.map_or(0, timeout_ms), Ordering::Relaxed);
    }

    /// Takes part in the coming tick of this worker. Only on the owner's thread.
    pub(crate) fn enlist(self: &Arc<Self>) {
        if !self.core.enlisted.swap(true, Ordering::Relaxed) {
            with_local(|local| local.enlist(self.clone()));
        }
    }
}

fn timeout_ms(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

impl Core {
    pub(crate) fn shared(&self) -> &Shared {
        &self.slot.shared
    }

    pub(crate) fn listener(&self) -> &ListenerShared {
        &self.slot.listener
    }

    fn hard_limit(&self) -> usize {
        self.listener().config.outbox_hard_bytes
    }

    pub(crate) fn signal(&self, signal: u32) {
        self.signals.fetch_or(signal, Ordering::AcqRel);
        // Before its first poll the owner has no waker, and looks at the signals then.
        if let Some(owner) = self.owner.get() {
            owner.wake_by_ref();
        }
    }

    pub(crate) fn begin_close<S>(&self, state: &mut State<S>, why: CloseReason) {
        let graceful = why.is_graceful();
        state.ending.get_or_insert(why);
        self.closing.store(true, Ordering::Release);
        if graceful {
            let deadline = self
                .shared()
                .clock
                .update()
                .saturating_add(self.shared().config.linger_ms);
            self.deadline_ms.fetch_min(deadline, Ordering::Relaxed);
            self.signal(signal::WRITE);
        } else {
            self.signal(signal::CUT);
        }
    }

    /// Writes to a plain socket what it takes.
    pub(crate) fn write<S>(&self, state: &mut State<S>) {
        let before = state.out.len();
        if before == 0 {
            return;
        }
        match &state.writer {
            Some(Writer::Owner) => self.signal(signal::WRITE),
            Some(writer) if !state.blocked => match writer.write(&mut state.out) {
                Ok(true) => {}
                Ok(false) => {
                    state.blocked = true;
                    self.signal(signal::WRITE);
                }
                Err(error) => {
                    state.out.clear();
                    self.begin_close(state, CloseReason::Io(error.kind()));
                }
            },
            // The owner is at it.
            Some(_) => {}
            None => state.out.clear(),
        }
        self.wrote(state, before);
    }

    /// Books what a write changed; `before` is what was queued before it.
    pub(crate) fn wrote<S>(&self, state: &mut State<S>, before: usize) {
        let left = state.out.len();
        if left < before {
            self.bytes_out
                .fetch_add((before - left) as u64, Ordering::Relaxed);
            self.active_out_ms
                .store(self.shared().clock.coarse_ms(), Ordering::Relaxed);
        }
        let booked = self.outbox.load(Ordering::Relaxed);
        if left != booked {
            self.outbox.store(left, Ordering::Relaxed);
            self.shared().memory.change(booked, left);
        }
        if left > self.hard_limit() && !self.closing.load(Ordering::Relaxed) {
            ListenerMetrics::count(&self.listener().metrics.slow_consumers);
            self.begin_close(state, CloseReason::SlowConsumer { queued: left });
        } else if left <= self.drained_at() && self.awaits_drain.load(Ordering::Relaxed) {
            self.awaits_drain.store(false, Ordering::Relaxed);
            self.signal(signal::WRITE);
        }
    }

    /// Outbox size at which reading goes on.
    pub(crate) fn drained_at(&self) -> usize {
        self.listener().config.outbox_soft_bytes / 2
    }

    /// The owner now keeps `bytes` of input.
    pub(crate) fn keeps_input(&self, bytes: usize) {
        let before = self.kept_input.load(Ordering::Relaxed);
        if before != bytes {
            self.kept_input.store(bytes, Ordering::Relaxed);
            self.shared().memory.change(before, bytes);
        }
    }

    /// Books the end: nothing is held any more, and the bytes count for the listener.
    pub(crate) fn gone(&self) {
        self.shared()
            .memory
            .change(self.outbox.swap(0, Ordering::Relaxed), 0);
        self.keeps_input(0);
        let metrics = &self.listener().metrics;
        metrics
            .bytes_in
            .fetch_add(self.bytes_in.load(Ordering::Relaxed), Ordering::Relaxed);
        metrics
            .bytes_out
            .fetch_add(self.bytes_out.load(Ordering::Relaxed), Ordering::Relaxed);
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
            since: core.since,
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
        let core = &self.core;
        let idle_timeout = core.idle_timeout_ms.load(Ordering::Relaxed);
        let silent = sweep
            .now_ms
            .saturating_sub(core.active_in_ms.load(Ordering::Relaxed));
        if idle_timeout != 0 && silent >= idle_timeout {
            core.active_in_ms.store(sweep.now_ms, Ordering::Relaxed);
            core.signal(signal::IDLE);
        }
        if sweep.now_ms >= core.deadline_ms.load(Ordering::Relaxed) {
            core.signal(signal::CUT);
        }
        if sweep.memory_is_free && core.awaits_memory.swap(false, Ordering::AcqRel) {
            core.signal(signal::WRITE);
        }
    }

    fn held(&self) -> (usize, u64) {
        let core = &self.core;
        let held = core.outbox.load(Ordering::Relaxed) + core.kept_input.load(Ordering::Relaxed);
        let moved = core
            .active_in_ms
            .load(Ordering::Relaxed)
            .max(core.active_out_ms.load(Ordering::Relaxed));
        (held, moved)
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
