//! What comes between the socket and the protocol: PROXY header, TLS, WebSocket, each if the listener has it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

use crate::address::Endpoint;
use crate::bind::Accepted;
use crate::encryption::Encryption;
use crate::identity::TlsIdentity;
use crate::metrics::RefusalCause;
use crate::proxy::{self, ProxyError, ProxyHeader};
use crate::shared::ListenerShared;
use crate::stream::{Duplex, Reader, Writer, split_tcp, split_unix};
use crate::websocket;

/// A connection ready for its protocol.
pub(crate) struct Ready {
    pub(crate) peer: Endpoint,
    pub(crate) identity: Option<Arc<TlsIdentity>>,
    pub(crate) encryption: Option<Encryption>,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// Input that was read together with the PROXY header.
    pub(crate) first: Vec<u8>,
}

/// Why a connection did not get as far as its protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Lost(io::Error),
    #[error("{peer} is not a trusted proxy")]
    Untrusted { peer: Endpoint },
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("WebSocket: {0}")]
    WebSocket(String),
}

impl HandshakeError {
    pub(crate) fn cause(&self) -> RefusalCause {
        match self {
            HandshakeError::Lost(_) => RefusalCause::Lost,
            HandshakeError::Untrusted { .. } => RefusalCause::UntrustedProxy,
            HandshakeError::Proxy(_) => RefusalCause::Proxy,
            HandshakeError::Tls(_) => RefusalCause::Tls,
            HandshakeError::WebSocket(_) => RefusalCause::WebSocket,
        }
    }
}

/// A plain listener: nothing to do but split.
pub(crate) fn plain(accepted: Accepted, local: &Endpoint) -> Result<Ready, HandshakeError> {
    let (peer, socket) = prepare(accepted, local)?;
    Ok(ready_plain(socket, peer, Vec::new()))
}

/// Everything the listener asks for.
pub(crate) async fn full(
    accepted: Accepted,
    local: &Endpoint,
    listener: &ListenerShared,
    subprotocols: &'static [&'static str],
) -> Result<Ready, HandshakeError> {
    let (mut peer, mut socket) = prepare(accepted, local)?;
    let mut first = Vec::new();
    if let Some(config) = &listener.config.proxy {
        // Whoever may open a Unix socket is on this machine and let in by the file's permissions.
        let trusted = peer
            .ip()
            .is_none_or(|ip| config.trusted.iter().any(|range| range.contains(ip)));
        if !trusted {
            return Err(HandshakeError::Untrusted { peer });
        }
        let header: ProxyHeader = proxy::read_header(&mut socket, config.header_max_bytes).await?;
        peer = header
            .peer
            .map_or(peer, |peer| Endpoint::Tcp(canonical(peer)));
        first = header.rest;
    }
    if listener.tls.is_none() && listener.config.websocket.is_none() {
        return Ok(ready_plain(socket, peer, first));
    }
    let mut stream: Box<dyn Duplex> = Box::new(Prefixed {
        prefix: first,
        inner: socket,
    });
    let (mut identity, mut encryption) = (None, None);
    if let Some(tls) = &listener.tls {
        let accepting = TlsAcceptor::from(tls.current()).accept(stream);
        let encrypted = accepting.await.map_err(HandshakeError::Tls)?;
        let session = encrypted.get_ref().1;
        encryption = Encryption::of(session);
        identity = session
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|certificate| TlsIdentity::from_der(certificate))
            .map(Arc::new);
        stream = Box::new(encrypted);
    }
    if let Some(config) = &listener.config.websocket {
        let accepting = websocket::accept(stream, peer.ip(), config, subprotocols);
        let (socket, client) = accepting
            .await
            .map_err(|error| HandshakeError::WebSocket(error.to_string()))?;
        if let Some(client) = client {
            // Its port is nobody's.
            peer = Endpoint::Tcp(SocketAddr::new(client, 0));
        }
        stream = Box::new(socket);
    }
    Ok(Ready {
        peer,
        identity,
        encryption,
        reader: Reader::Wrapped(stream),
        writer: Writer::Owner,
        first: Vec::new(),
    })
}

fn prepare(accepted: Accepted, local: &Endpoint) -> Result<(Endpoint, Accepted), HandshakeError> {
    let prepare = || {
        let accepted = accepted.move_here()?;
        let peer = match &accepted {
            Accepted::Tcp(stream, peer) => {
                stream.set_nodelay(true)?;
                Endpoint::Tcp(canonical(*peer))
            }
            Accepted::Unix(_) => local.clone(),
        };
        Ok((peer, accepted))
    };
    prepare().map_err(HandshakeError::Lost)
}

/// An IPv4 peer of a socket that serves both kinds, as the IPv4 address it is: limits and rules by address must not
/// depend on how the listener was written.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

fn ready_plain(socket: Accepted, peer: Endpoint, first: Vec<u8>) -> Ready {
    let (reader, writer) = match socket {
        Accepted::Tcp(stream, _) => split_tcp(stream),
        Accepted::Unix(stream) => split_unix(stream),
    };
    Ready {
        peer,
        identity: None,
        encryption: None,
        reader,
        writer,
        first,
    }
}

/// A stream of which some bytes were read already.
struct Prefixed {
    prefix: Vec<u8>,
    inner: Accepted,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..count]);
        self.prefix.drain(..count);
        if self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Accepted::Tcp(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Accepted::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has no buffer of its own.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Accepted::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Accepted::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Accepted::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Accepted::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_peer_of_a_socket_for_both_kinds_is_an_ipv4_peer() {
        let seen = |address: &str| canonical(address.parse().unwrap()).to_string();
        assert_eq!(seen("[::ffff:192.0.2.1]:7"), "192.0.2.1:7");
        assert_eq!(seen("[2001:db8::1]:7"), "[2001:db8::1]:7");
        assert_eq!(seen("192.0.2.1:7"), "192.0.2.1:7");
    }
}
