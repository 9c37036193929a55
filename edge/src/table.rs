//! The table of open connections: for the admin API, for timeouts and for draining.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::close::CloseReason;
use crate::connection::ConnectionId;

/// What the admin API shows of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its number, never reused while the server runs.
    pub id: ConnectionId,
    /// [`crate::Protocol::name`].
    pub protocol: &'static str,
    /// Number of its listener, as in [`crate::ListenerSnapshot::listener`].
    pub listener: usize,
    /// Who is at the other end.
    pub peer: String,
    /// When it was opened.
    pub since: SystemTime,
    /// Bytes the protocol was given.
    pub bytes_in: u64,
    /// Bytes handed to the socket.
    pub bytes_out: u64,
    /// Bytes waiting because the peer does not read.
    pub outbox_bytes: usize,
    /// Bytes of an incomplete message, or waiting while the protocol pauses.
    pub input_bytes: usize,
}

/// A connection as the table sees it, whatever its protocol.
pub(crate) trait Entry: Send + Sync {
    fn id(&self) -> ConnectionId;
    fn info(&self) -> ConnectionInfo;
    fn traffic(&self) -> Traffic;
    /// Ends it now, without writing what is queued.
    fn cut(&self, why: CloseReason);
    /// The server is going down.
    fn drain(&self);
    /// Looks at the timeouts.
    fn sweep(&self, sweep: &Sweep);
    /// Bytes queued in and out, and when some of them last moved (milliseconds since start).
    fn held(&self) -> (usize, u64);
    /// Counts that it is cut for the memory it holds.
    fn count_stalled(&self);
}

/// What one connection adds to its listener's counters.
pub(crate) struct Traffic {
    pub(crate) listener: usize,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// What a sweep tells every connection.
pub(crate) struct Sweep {
    /// Milliseconds since start.
    pub(crate) now_ms: u64,
    /// Whether connections that wait for memory may go on.
    pub(crate) memory_is_free: bool,
}

/// All open connections.
#[derive(Default)]
pub(crate) struct Table {
    entries: Mutex<HashMap<u64, Arc<dyn Entry>>>,
    emptied: Condvar,
}

impl Table {
    pub(crate) fn insert(&self, id: ConnectionId, entry: Arc<dyn Entry>) {
        self.entries.lock().insert(id.0, entry);
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut entries = self.entries.lock();
        let removed = entries.remove(&id.0);
        // A table that once was large does not stay so.
        if entries.capacity() > 1024 && entries.len() < entries.capacity() / 8 {
            entries.shrink_to_fit();
        }
        if entries.is_empty() {
            self.emptied.notify_all();
        }
        drop(entries);
        drop(removed);
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<Arc<dyn Entry>> {
        self.entries.lock().get(&id.0).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Every entry, to be used without the table's lock.
    pub(crate) fn all(&self) -> Vec<Arc<dyn Entry>> {
        self.entries.lock().values().cloned().collect()
    }

    /// Visits every entry under the table's lock: `visit` must not take a connection's lock, whose holder may be waiting
    /// for the table's.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&dyn Entry)) {
        for entry in self.entries.lock().values() {
            visit(&**entry);
        }
    }

    /// Waits until no connection is left, or until `within` has passed or `give_up` says so; tells whether it is empty.
    pub(crate) fn wait_until_empty(&self, within: Duration, give_up: impl Fn() -> bool) -> bool {
        let deadline = std::time::Instant::now() + within;
        let mut entries = self.entries.lock();
        while !entries.is_empty() && !give_up() {
            if self.emptied.wait_until(&mut entries, deadline).timed_out() {
                break;
            }
        }
        entries.is_empty()
    }

    /// Wakes [`Table::wait_until_empty`] to look at `give_up` again.
    pub(crate) fn interrupt_wait(&self) {
        let _entries = self.entries.lock();
        self.emptied.notify_all();
    }
}
