//! The part of a connection that does not depend on its protocol: signals to the owner task, writing, bookkeeping.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ConnectionId;
use crate::address::Endpoint;
use crate::close::CloseReason;
use crate::encryption::Encryption;
use crate::identity::TlsIdentity;
use crate::metrics::ListenerMetrics;
use crate::out::Out;
use crate::shared::{ListenerShared, Shared, Slot};
use crate::stream::Writer;
use crate::table::Sweep;

/// What others ask of the owner task.
pub(crate) mod signal {
    /// `Connection::resume`.
    pub(crate) const RESUME: u32 = 1;
    /// There is output only the owner can write.
    pub(crate) const WRITE: u32 = 2;
    /// End now.
    pub(crate) const CUT: u32 = 4;
    /// Ask the protocol what draining means.
    pub(crate) const DRAIN: u32 = 8;
    /// Nothing arrived for the idle timeout.
    pub(crate) const IDLE: u32 = 16;
    /// The outbox has the room that the protocol asked for.
    pub(crate) const ROOM: u32 = 32;
}

/// The part that does not depend on the protocol. Its fields are in this order, those that every write looks at last, next
/// to the lock: a message to a thousand connections waits a thousand times for the memory in which they lie.
#[repr(C)]
pub(crate) struct Core {
    pub(super) id: ConnectionId,
    pub(super) peer: Endpoint,
    pub(super) identity: Option<Arc<TlsIdentity>>,
    /// Apart from the rest, so that plain connections stay small.
    pub(super) encryption: Option<Box<Encryption>>,
    /// Milliseconds since the Unix epoch.
    since_ms: u64,
    /// The owner task's waker: always the same, since nothing stands between the task and the driver.
    pub(crate) owner: OnceLock<Waker>,
    /// 0 for never.
    pub(super) idle_timeout_ms: AtomicU64,
    /// When a closing connection is cut; `u64::MAX` for never.
    pub(crate) deadline_ms: AtomicU64,
    /// Bytes of input kept by the owner.
    pub(crate) kept_input: AtomicUsize,
    /// Changed by the owner only.
    pub(crate) bytes_in: AtomicU64,
    /// When input arrived last, in milliseconds since start.
    pub(crate) active_in_ms: AtomicU64,
    pub(crate) signals: AtomicU32,
    /// The owner stopped reading until memory is free.
    pub(crate) awaits_memory: AtomicBool,
    /// No session any more (or not yet).
    pub(crate) over: AtomicBool,
    /// Takes part in the coming tick; its owner's thread only.
    pub(crate) enlisted: AtomicBool,
    pub(crate) closing: AtomicBool,
    /// Is in some thread's list of connections to flush.
    pub(super) flush_listed: AtomicBool,
    /// The owner stopped reading until the outbox is shorter. Changed under the lock only.
    pub(crate) awaits_drain: AtomicBool,
    pub(crate) slot: Slot,
    /// Bytes left in the outbox by the last write.
    pub(crate) outbox: AtomicUsize,
    /// Changed under the lock only.
    pub(super) bytes_out: AtomicU64,
    /// When output moved last, in milliseconds since start.
    pub(super) active_out_ms: AtomicU64,
}

/// What the connection's lock protects, that which every write looks at first.
#[repr(C)]
pub(crate) struct State<S> {
    pub(crate) out: Out,
    pub(crate) writer: Option<Writer>,
    /// Why the connection ends; the first reason stays.
    pub(crate) ending: Option<Box<CloseReason>>,
    /// The socket took less than there was: only the owner writes until it is drained.
    pub(crate) blocked: bool,
    pub(crate) session: Option<S>,
}

impl Core {
    pub(super) fn new(
        slot: Slot,
        peer: Endpoint,
        (identity, encryption): (Option<Arc<TlsIdentity>>, Option<Encryption>),
    ) -> Self {
        let now = slot.shared.clock.coarse_ms();
        Core {
            id: ConnectionId(slot.shared.next_id()),
            peer,
            identity,
            encryption: encryption.map(Box::new),
            since_ms: unix_ms(),
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
            idle_timeout_ms: AtomicU64::new(0),
            deadline_ms: AtomicU64::new(u64::MAX),
        }
    }

    /// When it was opened.
    pub(super) fn since(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.since_ms)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.slot.shared
    }

    pub(crate) fn listener(&self) -> &ListenerShared {
        &self.slot.listener
    }

    pub(super) fn hard_limit(&self) -> usize {
        self.listener().config.outbox_hard_bytes
    }

    pub(crate) fn signal(&self, signal: u32) {
        self.signals.fetch_or(signal, Ordering::AcqRel);
        if let Some(owner) = self.owner.get() {
            owner.wake_by_ref();
            return;
        }
        // Before its first poll the owner has no waker, and looks at the signals then. The fence, with the one there,
        // makes sure that it sees this signal or this sees its waker.
        fence(Ordering::SeqCst);
        if let Some(owner) = self.owner.get() {
            owner.wake_by_ref();
        }
    }

    pub(crate) fn begin_close<S>(&self, state: &mut State<S>, why: CloseReason) {
        let graceful = why.is_graceful();
        state.ending.get_or_insert_with(|| Box::new(why));
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
            if state.out.take_wants_room() {
                self.signal(signal::ROOM);
            }
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
            // Under the lock, and so without a bus cycle of its own.
            let written = self.bytes_out.load(Ordering::Relaxed) + (before - left) as u64;
            self.bytes_out.store(written, Ordering::Relaxed);
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
        } else if left <= self.drained_at() {
            if self.awaits_drain.load(Ordering::Relaxed) {
                self.awaits_drain.store(false, Ordering::Relaxed);
                self.signal(signal::WRITE);
            }
            if state.out.take_wants_room() {
                self.signal(signal::ROOM);
            }
        }
    }

    /// Outbox size at which reading goes on.
    pub(crate) fn drained_at(&self) -> usize {
        self.listener().config.outbox_soft_bytes / 2
    }

    /// Whether nothing may be read until less memory is held.
    pub(crate) fn must_await_memory(&self) -> bool {
        let memory = &self.shared().memory;
        memory.is_exceeded() && memory.must_wait(self.held().0)
    }

    /// The owner has read `bytes` more.
    pub(crate) fn has_read(&self, bytes: usize) {
        let read = self.bytes_in.load(Ordering::Relaxed) + bytes as u64;
        self.bytes_in.store(read, Ordering::Relaxed);
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

    /// The owner task's first poll: from now on signals wake it.
    pub(crate) fn know_owner(&self, cx: &Context<'_>) {
        if self.owner.get().is_none() {
            self.owner.get_or_init(|| cx.waker().clone());
            fence(Ordering::SeqCst);
        }
    }

    pub(super) fn set_idle_timeout(&self, timeout: Option<Duration>) {
        let ms = timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis())
                .unwrap_or(u64::MAX)
                .max(1)
        });
        self.idle_timeout_ms.store(ms, Ordering::Relaxed);
    }

    /// Looks at the timeouts.
    pub(super) fn sweep(&self, sweep: &Sweep) {
        let idle_timeout = self.idle_timeout_ms.load(Ordering::Relaxed);
        let silent = sweep
            .now_ms
            .saturating_sub(self.active_in_ms.load(Ordering::Relaxed));
        if idle_timeout != 0 && silent >= idle_timeout {
            self.active_in_ms.store(sweep.now_ms, Ordering::Relaxed);
            self.signal(signal::IDLE);
        }
        if sweep.now_ms >= self.deadline_ms.load(Ordering::Relaxed) {
            self.signal(signal::CUT);
        }
        if sweep.memory_is_free && self.awaits_memory.swap(false, Ordering::AcqRel) {
            self.signal(signal::WRITE);
        }
    }

    /// Bytes queued in and out, and when some of them last moved.
    pub(super) fn held(&self) -> (usize, u64) {
        let held = self.outbox.load(Ordering::Relaxed) + self.kept_input.load(Ordering::Relaxed);
        let moved = self
            .active_in_ms
            .load(Ordering::Relaxed)
            .max(self.active_out_ms.load(Ordering::Relaxed));
        (held, moved)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
