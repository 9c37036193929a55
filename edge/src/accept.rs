//! The acceptor of a listener: takes connections from the system and spreads them over the workers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use crate::address::Endpoint;
use crate::bind::{Accepted, Bound};
use crate::connection::Connection;
use crate::driver::Driver;
use crate::metrics::{ListenerMetrics, RefusalCause};
use crate::protocol::Protocol;
use crate::shared::{ListenerShared, Shared, Slot};
use crate::stream::{split_tcp, split_unix};

/// Connections accepted in one go before other tasks of the worker have their turn.
const BURST: usize = 64;

/// How long accepting rests after the system could not give a file descriptor or memory: doubled each time, up to the
/// second figure.
const BACK_OFF_MS: (u64, u64) = (20, 1_000);

pub(crate) struct Acceptor<P> {
    pub(crate) bound: Bound,
    pub(crate) local: Endpoint,
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: Arc<ListenerShared>,
    pub(crate) protocol: Arc<P>,
}

impl<P: Protocol> Acceptor<P> {
    /// Accepts until `stop` says so; then the socket is closed.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut back_off_ms = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = self.accept_burst() => accepted,
            };
            match accepted {
                Ok(()) => {
                    back_off_ms = 0;
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    ListenerMetrics::count(&self.listener.metrics.accept_errors);
                    // Once for each spell of trouble.
                    if back_off_ms == 0 {
                        warn!(listener = self.listener.address, %error, "cannot accept connections for now");
                    }
                    back_off_ms = (back_off_ms * 2).clamp(BACK_OFF_MS.0, BACK_OFF_MS.1);
                    let rest = tokio::time::sleep(Duration::from_millis(back_off_ms));
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => return,
                        () = rest => {}
                    }
                }
            }
        }
    }

    /// Waits for connections and takes some. An error means that the system has run out of something.
    async fn accept_burst(&self) -> io::Result<()> {
        let mut count = 0;
        std::future::poll_fn(|cx| {
            while count < BURST {
                count += 1;
                match self.bound.poll_accept(cx) {
                    Poll::Ready(Ok(accepted)) => self.dispatch(accepted),
                    Poll::Ready(Err(error)) if is_exhaustion(&error) => return Poll::Ready(Err(error)),
                    // The one at the head of the queue is gone already.
                    Poll::Ready(Err(error)) => {
                        debug!(listener = self.listener.address, %error, "a connection was lost in the backlog");
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn dispatch(&self, accepted: Accepted) {
        ListenerMetrics::count(&self.listener.metrics.accepted);
        let slot = match Slot::take(&self.shared, &self.listener) {
            Ok(slot) => slot,
            Err(cause) => {
                self.listener.metrics.refuse(cause);
                return;
            }
        };
        let worker = &self.shared.workers[slot.worker];
        worker.handle.spawn(serve(
            self.protocol.clone(),
            accepted,
            self.local.clone(),
            slot,
        ));
    }
}

/// Whether the system has run out of descriptors or memory, so that trying again at once is of no use.
fn is_exhaustion(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOMEM: i32 = 12;
    const ENOBUFS: i32 = 105;
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOMEM | ENOBUFS)
    )
}

/// Serves one connection on its worker, from the socket to the end.
async fn serve<P: Protocol>(protocol: Arc<P>, accepted: Accepted, local: Endpoint, slot: Slot) {
    let socket = accepted.move_here().and_then(|accepted| {
        Ok(match accepted {
            Accepted::Tcp(stream, peer) => {
                stream.set_nodelay(true)?;
                (Endpoint::Tcp(peer), split_tcp(stream))
            }
            Accepted::Unix(stream) => (local.clone(), split_unix(stream)),
        })
    });
    let (peer, (reader, writer)) = match socket {
        Ok(socket) => socket,
        Err(error) => {
            debug!(listener = slot.listener.address, %error, "a connection was lost before it was served");
            slot.listener.metrics.refuse(RefusalCause::Lost);
            return;
        }
    };
    if slot.shared.draining.load(Ordering::Acquire) {
        return;
    }
    let conn = Arc::new(Connection::new(protocol, slot, peer, local, writer));
    Driver::open(conn, reader, &[]).await;
}
