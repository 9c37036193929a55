//! What all connections of an edge, and all of one listener, have in common.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::address::Endpoint;
use crate::config::{EdgeConfig, ListenerConfig};
use crate::limits::MemoryBudget;
use crate::metrics::{ListenerMetrics, ListenerSnapshot, RefusalCause};
use crate::table::Table;
use crate::tls::Tls;

/// One per edge.
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    pub(crate) clock: Clock,
    pub(crate) memory: MemoryBudget,
    pub(crate) table: Table,
    pub(crate) draining: AtomicBool,
    open: AtomicUsize,
    next_connection: AtomicU64,
    next_worker: AtomicUsize,
    pub(crate) workers: Vec<WorkerSeat>,
    pub(crate) listeners: Mutex<Vec<Arc<ListenerShared>>>,
    /// Of sockets that somebody else serves, by the name that they go by.
    pub(crate) certificates: Mutex<Vec<(String, Weak<Tls>)>>,
}

/// What others know of a worker.
pub(crate) struct WorkerSeat {
    pub(crate) handle: Handle,
    open: AtomicUsize,
}

/// One per listener.
pub(crate) struct ListenerShared {
    pub(crate) number: usize,
    pub(crate) protocol: &'static str,
    pub(crate) address: String,
    /// Where it is bound: the end on this machine of all its connections.
    pub(crate) local: Endpoint,
    pub(crate) config: ListenerConfig,
    pub(crate) metrics: ListenerMetrics,
    pub(crate) tls: Option<Tls>,
    open: AtomicUsize,
    /// Connections by address; empty without a limit for them.
    by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// Milliseconds since the edge started. [`Clock::coarse_ms`] is as old as the last sweep at most, and free.
pub(crate) struct Clock {
    start: Instant,
    coarse_ms: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Clock {
            start: Instant::now(),
            coarse_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn update(&self) -> u64 {
        let now = u64::try_from(self.since_start().as_millis()).unwrap_or(u64::MAX);
        self.coarse_ms.store(now, Ordering::Relaxed);
        now
    }

    pub(crate) fn coarse_ms(&self) -> u64 {
        self.coarse_ms.load(Ordering::Relaxed)
    }
}

impl Shared {
    pub(crate) fn new(config: EdgeConfig, workers: Vec<Handle>) -> Self {
        Shared {
            clock: Clock::new(),
            memory: MemoryBudget::new(config.memory_max_bytes),
            table: Table::default(),
            draining: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            next_connection: AtomicU64::new(1),
            next_worker: AtomicUsize::new(0),
            workers: workers
                .into_iter()
                .map(|handle| WorkerSeat {
                    handle,
                    open: AtomicUsize::new(0),
                })
                .collect(),
            listeners: Mutex::default(),
            certificates: Mutex::default(),
            config,
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// The worker with the fewest connections; turn by turn among equals.
    pub(crate) fn least_loaded_worker(&self) -> usize {
        let count = self.workers.len();
        let first = self.next_worker.fetch_add(1, Ordering::Relaxed);
        (0..count)
            .map(|step| first.wrapping_add(step) % count)
            .min_by_key(|&worker| self.workers[worker].open.load(Ordering::Relaxed))
            .unwrap_or(0)
    }
}

impl ListenerShared {
    pub(crate) fn new(
        number: usize,
        protocol: &'static str,
        local: Endpoint,
        config: ListenerConfig,
        tls: Option<Tls>,
    ) -> Self {
        let metrics = ListenerMetrics::default();
        ListenerShared {
            number,
            protocol,
            address: local.to_string(),
            local,
            config,
            metrics,
            tls,
            open: AtomicUsize::new(0),
            by_ip: Mutex::default(),
        }
    }

    /// The counters, with the bytes of connections that are gone.
    pub(crate) fn snapshot(&self) -> ListenerSnapshot {
        let metrics = &self.metrics;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListenerSnapshot {
            listener: self.number,
            protocol: self.protocol,
            address: self.address.clone(),
            accepted: read(&metrics.accepted),
            refused: metrics.refusals(),
            accept_errors: read(&metrics.accept_errors),
            open: self.open.load(Ordering::Relaxed),
            bytes_in: read(&metrics.bytes_in),
            bytes_out: read(&metrics.bytes_out),
            slow_consumers: read(&metrics.slow_consumers),
            stalled: read(&metrics.stalled),
        }
    }
}

/// A connection's place under the limits, given back when dropped.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) worker: usize,
    /// If those are limited. Boxed: they rarely are.
    ip: Option<Box<IpAddr>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: Arc<ListenerShared>,
}

impl Slot {
    /// Takes a place for one more connection.
    pub(crate) fn take(
        shared: &Arc<Shared>,
        listener: &Arc<ListenerShared>,
    ) -> Result<Slot, RefusalCause> {
        let worker = shared.least_loaded_worker();
        let on_server = shared.open.fetch_add(1, Ordering::Relaxed);
        let on_listener = listener.open.fetch_add(1, Ordering::Relaxed);
        shared.workers[worker].open.fetch_add(1, Ordering::Relaxed);
        // Dropped, and so given back, if one of the limits is passed.
        let slot = Slot {
            shared: shared.clone(),
            listener: listener.clone(),
            worker,
            ip: None,
        };
        if on_server >= shared.config.connections_max {
            return Err(RefusalCause::ServerFull);
        }
        if on_listener >= listener.config.connections_max {
            return Err(RefusalCause::ListenerFull);
        }
        Ok(slot)
    }

    /// Takes a place for an address too, if those are limited.
    pub(crate) fn take_address(&mut self, ip: Option<IpAddr>) -> Result<(), RefusalCause> {
        let (Some(ip), Some(limit)) = (ip, self.listener.config.connections_per_ip_max) else {
            return Ok(());
        };
        let mut by_ip = self.listener.by_ip.lock();
        let count = by_ip.get(&ip).copied().unwrap_or(0);
        if count >= limit {
            return Err(RefusalCause::AddressFull);
        }
        by_ip.insert(ip, count + 1);
        self.ip = Some(Box::new(ip));
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(ip) = self.ip.as_deref()
            && let Entry::Occupied(mut count) = self.listener.by_ip.lock().entry(*ip)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.shared.workers[self.worker]
            .open
            .fetch_sub(1, Ordering::Relaxed);
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}
