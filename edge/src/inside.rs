//! Connections from this process: a pair of sockets, one end served as if it had been accepted.
//!
//! What runs beside the listeners (a management service, a bridge) uses a protocol through its own frames that way, with
//! its checks, its order and its back-pressure, and knows nothing of its session.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::accept::serve;
use crate::address::{Address, Endpoint};
use crate::bind::Accepted;
use crate::config::ListenerConfig;
use crate::protocol::Protocol;
use crate::shared::{ListenerShared, Shared, Slot};

/// The way in for this process; made by [`Edge::inside`](crate::Edge::inside).
pub struct Inside<P> {
    shared: Arc<Shared>,
    listener: Arc<ListenerShared>,
    protocol: Arc<P>,
}

impl<P: Protocol> Inside<P> {
    pub(crate) fn new(shared: &Arc<Shared>, number: usize, protocol: Arc<P>) -> Self {
        let path = PathBuf::from("inside");
        let local = Endpoint::Unix(path.as_path().into());
        let config = ListenerConfig::new(Address::Unix(path));
        Inside {
            listener: Arc::new(ListenerShared::new(
                number,
                protocol.name(),
                local,
                config,
                None,
            )),
            shared: Arc::clone(shared),
            protocol,
        }
    }

    pub(crate) fn listener(&self) -> &Arc<ListenerShared> {
        &self.listener
    }

    /// Opens a connection. Its peer is [`Endpoint::Unix`].
    ///
    /// # Errors
    /// When the system gives no sockets, the edge is full, or it is going down.
    pub fn connect(&self) -> io::Result<UnixStream> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(io::Error::other("the server is going down"));
        }
        let slot = Slot::take(&self.shared, &self.listener).map_err(|cause| {
            self.listener.metrics.refuse(cause);
            io::Error::other("there is no room for another connection")
        })?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let worker = self.shared.workers[slot.worker].handle.clone();
        let accepted = {
            let _runtime = worker.enter();
            Accepted::Unix(tokio::net::UnixStream::from_std(ours)?)
        };
        let (protocol, local) = (Arc::clone(&self.protocol), self.listener.local.clone());
        worker.spawn(serve(protocol, accepted, local, slot));
        Ok(theirs)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::{CloseReason, Connection, ConnectionId, Ended, Idle, Input, Out, Refusal, Then};
    use crate::{Draining, Edge, EdgeConfig, NoTick};

    /// Says what it hears.
    struct Echo;

    impl Protocol for Echo {
        type Session = ();

        fn name(&self) -> &'static str {
            "echo"
        }

        fn open(
            self: &Arc<Self>,
            conn: &Arc<Connection<Self>>,
            _out: &mut Out,
        ) -> Result<(), Refusal> {
            assert!(matches!(conn.peer(), Endpoint::Unix(_)));
            Ok(())
        }

        fn input(&self, _session: &mut (), input: &[u8], out: &mut Out) -> Input {
            out.put(input);
            Input {
                consumed: input.len(),
                then: Then::Read,
            }
        }

        fn idle(&self, _session: &mut (), _out: &mut Out) -> Idle {
            Idle::Stay
        }

        fn end_of_input(&self, _session: &mut (), _left: &[u8], _out: &mut Out) -> Ended {
            Ended::Close
        }

        fn draining(&self, _session: &mut (), _out: &mut Out) -> Draining {
            Draining::Close
        }

        fn closed(&self, _session: (), _id: ConnectionId, _why: &CloseReason) {}
    }

    #[test]
    fn the_process_talks_to_its_own_protocol_and_is_counted() {
        let edge = Edge::start(EdgeConfig::default(), NoTick).unwrap();
        let inside = edge.inside(Arc::new(Echo));
        let mut stream = inside.connect().unwrap();
        stream.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        assert_eq!(edge.metrics()[0].open, 1);
        edge.drain(std::time::Duration::ZERO);
        assert!(inside.connect().is_err(), "nobody comes in while it drains");
    }
}
