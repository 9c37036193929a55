//! TLS in front of HTTP: handshakes go on beside each other, so that one who does not finish holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Gives the configuration of the next handshake: certificates may change while the server runs.
pub type Certificates = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// Time that a client has for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Handshakes that go on at once; who comes then waits in the system's queue.
const HANDSHAKES_MAX: usize = 64;

/// A listener whose connections are encrypted.
pub(crate) struct Secure {
    local: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl Secure {
    /// Accepts at a socket, on the runtime of the caller, as long as this is there.
    pub(crate) fn new(socket: TcpListener, certificates: Certificates) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let (give, ready) = mpsc::channel(1);
        tokio::spawn(accept(socket, certificates, give));
        Ok(Secure { local, ready })
    }
}

impl Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(client) => client,
            // Nobody accepts any more: the server stops.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

async fn accept(
    mut socket: TcpListener,
    certificates: Certificates,
    give: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            // Waits and tries again when the system has no descriptor left.
            (place, Listener::accept(&mut socket).await)
        };
        let (place, (stream, peer)) = tokio::select! {
            next = next => next,
            () = give.closed() => return,
        };
        let accepting = TlsAcceptor::from(certificates()).accept(stream);
        let give = give.clone();
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE_WITHIN, accepting).await {
                // Nobody takes it when the server stops.
                Ok(Ok(stream)) => drop(give.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                Err(_) => tracing::debug!(%peer, "a handshake took too long"),
            }
        });
    }
}
