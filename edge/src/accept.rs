//! The acceptor of a listener: takes connections from the system and spreads them over the workers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use crate::address::Endpoint;
use crate::bind::{Accepted, Bound};
use crate::connection::Connection;
use crate::driver::Driver;
use crate::handshake::{self, Ready};
use crate::limits::TokenBucket;
use crate::metrics::{ListenerMetrics, RefusalCause};
use crate::protocol::Protocol;
use crate::shared::{ListenerShared, Shared, Slot};

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
        let clock = &self.shared.clock;
        let rate = self.listener.config.accept_rate_per_second.map(u64::from);
        let mut bucket = rate.map(|rate| TokenBucket::new(rate, rate, clock.since_start()));
        loop {
            let mut count_max = BURST;
            if let Some(bucket) = &mut bucket {
                count_max = 1;
                let wait = bucket.until_one(clock.since_start());
                if !wait.is_zero() && self.stopped_within(wait, &mut stop).await {
                    return;
                }
            }
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = self.accept_burst(count_max) => accepted,
            };
            match accepted {
                Ok(()) => {
                    back_off_ms = 0;
                    if let Some(bucket) = &mut bucket {
                        bucket.take(1, clock.since_start());
                    }
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    ListenerMetrics::count(&self.listener.metrics.accept_errors);
                    // Once for each spell of trouble.
                    if back_off_ms == 0 {
                        warn!(listener = self.listener.address, %error, "cannot accept connections for now");
                    }
                    back_off_ms = (back_off_ms * 2).clamp(BACK_OFF_MS.0, BACK_OFF_MS.1);
                    if self
                        .stopped_within(Duration::from_millis(back_off_ms), &mut stop)
                        .await
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Rests, and tells whether the end came meanwhile.
    async fn stopped_within(&self, rest: Duration, stop: &mut watch::Receiver<bool>) -> bool {
        tokio::time::timeout(rest, stop.wait_for(|stop| *stop))
            .await
            .is_ok()
    }

    /// Waits for connections and takes up to `count_max`. An error means that the system has run out of something.
    async fn accept_burst(&self, count_max: usize) -> io::Result<()> {
        let mut count = 0;
        std::future::poll_fn(|cx| {
            while count < count_max {
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
        let worker = self.shared.workers[slot.worker].handle.clone();
        let (protocol, local) = (self.protocol.clone(), self.local.clone());
        worker.spawn(serve(protocol, accepted, local, slot));
    }
}

/// Serves a socket to its end, on the worker that its place names.
pub(crate) fn serve<P: Protocol>(
    protocol: Arc<P>,
    accepted: Accepted,
    local: Endpoint,
    slot: Slot,
) -> impl Future<Output = ()> + Send {
    Serving::Opening(Box::pin(open(protocol, accepted, local, slot)))
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

/// Serves one connection on its worker, from the socket to the end. The task of an open connection is as large as its
/// driver: what is needed before lies in a box that is gone by then.
enum Serving<P: Protocol> {
    Opening(Pin<Box<dyn Future<Output = Option<Driver<P>>> + Send>>),
    Open(Driver<P>),
    Over,
}

impl<P: Protocol> Future for Serving<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Serving::Opening(opening) = &mut *self {
            *self = match ready!(opening.as_mut().poll(cx)) {
                Some(driver) => Serving::Open(driver),
                None => Serving::Over,
            };
        }
        match &mut *self {
            Serving::Open(driver) => Pin::new(driver).poll(cx),
            Serving::Opening(_) | Serving::Over => Poll::Ready(()),
        }
    }
}

/// Takes a connection from the socket to its session; `None` if it does not get so far.
async fn open<P: Protocol>(
    protocol: Arc<P>,
    accepted: Accepted,
    local: Endpoint,
    mut slot: Slot,
) -> Option<Driver<P>> {
    let listener = slot.listener.clone();
    let ready = if listener.config.has_handshake() {
        let limit = Duration::from_millis(listener.config.handshake_timeout_ms);
        let handshake = handshake::full(
            accepted,
            &local,
            &listener,
            protocol.websocket_subprotocols(),
        );
        tokio::time::timeout(limit, handshake).await
    } else {
        Ok(handshake::plain(accepted, &local))
    };
    let ready = match ready {
        Ok(Ok(ready)) => ready,
        Ok(Err(error)) => {
            debug!(listener = listener.address, %error, "a connection was refused");
            listener.metrics.refuse(error.cause());
            return None;
        }
        Err(_elapsed) => {
            debug!(listener = listener.address, "a handshake took too long");
            listener.metrics.refuse(RefusalCause::HandshakeTimeout);
            return None;
        }
    };
    if let Err(cause) = slot.take_address(ready.peer.ip()) {
        listener.metrics.refuse(cause);
        return None;
    }
    if slot.shared.draining.load(Ordering::Acquire) {
        return None;
    }
    let Ready {
        peer,
        identity,
        encryption,
        reader,
        writer,
        first,
    } = ready;
    drop(listener);
    let security = (identity, encryption);
    let conn = Arc::new(Connection::new(protocol, slot, peer, security, writer));
    Some(Driver::open(conn, reader, &first))
}
