//! The edge as the server sees it: start, listen, look, drain, stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::info;

use crate::accept::Acceptor;
use crate::address::Endpoint;
use crate::bind::Bound;
use crate::close::CloseReason;
use crate::config::{EdgeConfig, ListenerConfig};
use crate::connection::ConnectionId;
use crate::error::{ListenError, StartError};
use crate::inside::Inside;
use crate::metrics::ListenerSnapshot;
use crate::protocol::Protocol;
use crate::shared::{ListenerShared, Shared};
use crate::sweep;
use crate::table::ConnectionInfo;
use crate::tick::Tick;
use crate::tls::{Certificates, Tls, TlsConfig, TlsError};
use crate::worker::Worker;

/// How long cut connections may take to be gone.
const CUT_WITHIN: Duration = Duration::from_secs(2);

/// The running edge. Dropping it ends everything at once; [`drain`](Self::drain) first is kinder.
pub struct Edge {
    shared: Arc<Shared>,
    stop_accepting: watch::Sender<bool>,
    stop_workers: watch::Sender<bool>,
    hurry: AtomicBool,
    threads: Vec<JoinHandle<()>>,
}

/// An open listener.
#[derive(Debug, Clone)]
pub struct Listener {
    local: Endpoint,
    number: usize,
}

impl Listener {
    /// Where it is bound; the real port if 0 was asked for.
    #[must_use]
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Its number, from 0, in the order of opening.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that finished by themselves.
    pub finished: usize,
    /// Connections that were cut at the deadline, or by [`Edge::hurry`].
    pub cut: usize,
}

impl Edge {
    /// Starts the workers; `hook` runs in every tick of each of them.
    ///
    /// # Errors
    /// [`StartError`] when the system gives no thread or no descriptor for one of them.
    pub fn start(config: EdgeConfig, hook: impl Tick) -> Result<Edge, StartError> {
        let count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let hook: Arc<dyn Tick> = Arc::new(hook);
        let failed = |worker| move |source| StartError::Worker { worker, source };
        let workers: Vec<Worker> = (0..count)
            .map(|number| Worker::new(number).map_err(failed(number)))
            .collect::<Result<_, _>>()?;
        let handles: Vec<Handle> = workers
            .iter()
            .map(|worker| worker.handle().clone())
            .collect();
        let shared = Arc::new(Shared::new(config, handles));
        let (stop_workers, stop) = watch::channel(false);
        let mut edge = Edge {
            shared: shared.clone(),
            stop_accepting: watch::channel(false).0,
            stop_workers,
            hurry: AtomicBool::new(false),
            threads: Vec::with_capacity(count),
        };
        for (number, worker) in workers.into_iter().enumerate() {
            let thread = worker
                .start(hook.clone(), stop.clone())
                .map_err(failed(number))?;
            edge.threads.push(thread);
        }
        edge.shared.workers[0].handle.spawn(sweep::run(shared));
        Ok(edge)
    }

    /// Opens a listener for `protocol`. Connections are accepted from now on.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be bound.
    pub fn listen<P: Protocol>(
        &self,
        config: ListenerConfig,
        protocol: Arc<P>,
    ) -> Result<Listener, ListenError> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(ListenError::ShuttingDown);
        }
        let tls = config.tls.clone().map(Tls::open).transpose();
        let tls = tls.map_err(|source| ListenError::Tls {
            address: config.address.clone(),
            source,
        })?;
        let mut listeners = self.shared.listeners.lock();
        let number = listeners.len();
        // The acceptors too are spread over the workers.
        let worker = &self.shared.workers[number % self.shared.workers.len()].handle;
        let bound = {
            let _runtime = worker.enter();
            Bound::open(&config)?
        };
        let local = bound.endpoint().map_err(|source| ListenError::Bind {
            address: config.address.clone(),
            source,
        })?;
        let listener = Arc::new(ListenerShared::new(
            number,
            protocol.name(),
            local.clone(),
            config,
            tls,
        ));
        listeners.push(listener.clone());
        info!(protocol = protocol.name(), address = %local, "listening");
        let acceptor = Acceptor {
            bound,
            local: local.clone(),
            shared: self.shared.clone(),
            listener,
            protocol,
        };
        worker.spawn(acceptor.run(self.stop_accepting.subscribe()));
        Ok(Listener { local, number })
    }

    /// A way for this process itself to connections of `protocol`, counted like those of a listener.
    #[must_use]
    pub fn inside<P: Protocol>(&self, protocol: Arc<P>) -> Inside<P> {
        let mut listeners = self.shared.listeners.lock();
        let inside = Inside::new(&self.shared, listeners.len(), protocol);
        listeners.push(Arc::clone(inside.listener()));
        inside
    }

    /// The runtime of a worker, for background work that belongs to its thread.
    #[must_use]
    pub fn runtime(&self, worker: usize) -> Option<&Handle> {
        self.shared.workers.get(worker).map(|worker| &worker.handle)
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// The open connections, in no particular order.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let mut all = Vec::new();
        self.shared.table.for_each(|entry| all.push(entry.info()));
        all
    }

    /// Ends a connection now; tells whether it was there.
    pub fn kick(&self, id: ConnectionId) -> bool {
        let entry = self.shared.table.get(id);
        if let Some(entry) = &entry {
            entry.cut(CloseReason::Kicked);
        }
        entry.is_some()
    }

    /// Bytes that wait in the outboxes and half-read messages of all connections.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.shared.memory.held()
    }

    /// The counters of every listener.
    #[must_use]
    pub fn metrics(&self) -> Vec<ListenerSnapshot> {
        let mut all: Vec<ListenerSnapshot> = self
            .shared
            .listeners
            .lock()
            .iter()
            .map(|listener| listener.snapshot())
            .collect();
        self.shared.table.for_each(|entry| {
            let traffic = entry.traffic();
            if let Some(listener) = all.get_mut(traffic.listener) {
                listener.bytes_in += traffic.bytes_in;
                listener.bytes_out += traffic.bytes_out;
            }
        });
        all
    }

    /// TLS for a socket that somebody else serves, called `name`: read from its files now, and again whenever that of the
    /// listeners is.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn certificates(&self, name: &str, config: TlsConfig) -> Result<Certificates, TlsError> {
        let tls = Arc::new(Tls::open(config)?);
        let mut all = self.shared.certificates.lock();
        all.retain(|(_, tls)| tls.strong_count() > 0);
        all.push((name.to_owned(), Arc::downgrade(&tls)));
        Ok(Certificates(tls))
    }

    /// When the certificates end that are in use: by the address of the listener, or the name that was given, in seconds
    /// since 1970. Of a chain, the certificate that ends first.
    #[must_use]
    pub fn certificate_ends(&self) -> Vec<(String, u64)> {
        let listeners = self.shared.listeners.lock();
        let mut ends: Vec<_> = listeners
            .iter()
            .filter_map(|listener| Some((listener.address.clone(), listener.tls.as_ref()?.ends()?)))
            .collect();
        let others = self.shared.certificates.lock();
        let others = others.iter();
        ends.extend(others.filter_map(|(name, tls)| Some((name.clone(), tls.upgrade()?.ends()?))));
        ends
    }

    /// Reads the certificates of all TLS listeners again, for new connections; a listener whose files cannot be used
    /// keeps the ones it has.
    ///
    /// # Errors
    /// Every listener that failed, by its address or the name it was given.
    pub fn reload_tls(&self) -> Result<(), Vec<(String, TlsError)>> {
        let mut failed = Vec::new();
        for listener in self.shared.listeners.lock().iter() {
            if let Some(Err(error)) = listener.tls.as_ref().map(Tls::reload) {
                failed.push((listener.address.clone(), error));
            }
        }
        for (name, tls) in self.shared.certificates.lock().iter() {
            if let Some(Err(error)) = tls.upgrade().map(|tls| tls.reload()) {
                failed.push((name.clone(), error));
            }
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed)
        }
    }

    /// Stops accepting, asks every connection to finish ([`Protocol::draining`]), and cuts those that are left after
    /// `within` or after [`hurry`](Self::hurry). Blocks the calling thread, which must not be a worker.
    pub fn drain(&self, within: Duration) -> DrainReport {
        self.shared.draining.store(true, Ordering::Release);
        self.stop_accepting.send_replace(true);
        let before = self.shared.table.len();
        self.shared.table.for_each(|entry| entry.drain());
        let hurried = || self.hurry.load(Ordering::Acquire);
        let cut = if self.shared.table.wait_until_empty(within, hurried) {
            0
        } else {
            self.cut_all()
        };
        DrainReport {
            finished: before.saturating_sub(cut),
            cut,
        }
    }

    /// Makes a running or coming [`drain`](Self::drain) wait no longer.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.shared.table.interrupt_wait();
    }

    fn cut_all(&self) -> usize {
        let left = self.shared.table.all();
        let cut = left.len();
        for entry in left {
            entry.cut(CloseReason::Shutdown);
        }
        self.shared.table.wait_until_empty(CUT_WITHIN, || false);
        cut
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.shared.draining.store(true, Ordering::Release);
        self.stop_accepting.send_replace(true);
        self.cut_all();
        self.stop_workers.send_replace(true);
        for thread in self.threads.drain(..) {
            // A worker that panicked has told so already.
            let _ = thread.join();
        }
    }
}
