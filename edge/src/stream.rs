//! The two ways bytes leave: a plain socket is written by anybody under the connection's lock; a stream that wraps the
//! socket (TLS, WebSocket) is written by its owner only.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::out::Out;

/// Pieces a vectored write takes at once.
const SLICES_MAX: usize = 64;

/// A wrapped socket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// What the owner reads from.
pub(crate) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Wrapped(Box<dyn Duplex>),
}

/// What is written to, under the connection's lock.
pub(crate) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    /// Only the owner can write, through its [`Reader::Wrapped`].
    Owner,
}

/// Splits a stream into what the owner reads and what anybody writes.
pub(crate) fn split_tcp(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Reader::Tcp(reader), Writer::Tcp(writer))
}

/// See [`split_tcp`].
pub(crate) fn split_unix(stream: UnixStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Reader::Unix(reader), Writer::Unix(writer))
}

impl Reader {
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Reader::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Reader::Unix(half) => Pin::new(half).poll_read(cx, buf),
            Reader::Wrapped(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Writer {
    /// Writes what the socket takes; `Ok(true)` when nothing is left, `Ok(false)` when the socket is full.
    ///
    /// One piece goes straight to the system, past tokio's record of whether the socket takes anything: the answer
    /// says that too, and the record is memory that another thread wrote last. The owner, who is left what the socket
    /// did not take, finds that out for itself.
    pub(crate) fn write(&self, out: &mut Out) -> io::Result<bool> {
        const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        while !out.is_empty() {
            let written = if out.is_contiguous() {
                match self {
                    Writer::Tcp(half) => rustix::net::send(half.as_ref(), out.front(), FLAGS),
                    Writer::Unix(half) => rustix::net::send(half.as_ref(), out.front(), FLAGS),
                    Writer::Owner => return Ok(false),
                }
                .map_err(io::Error::from)
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let used = out.slices(&mut slices);
                match self {
                    Writer::Tcp(half) => half.try_write_vectored(&slices[..used]),
                    Writer::Unix(half) => half.try_write_vectored(&slices[..used]),
                    Writer::Owner => return Ok(false),
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// As [`Writer::write`], but by the owner, who is woken when the socket takes more.
    pub(crate) fn poll_write(
        &mut self,
        reader: &mut Reader,
        cx: &mut Context<'_>,
        out: &mut Out,
    ) -> Poll<io::Result<()>> {
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = out.slices(&mut slices);
            let slices = &slices[..used];
            let written = match (&mut *self, &mut *reader) {
                (Writer::Tcp(half), _) => Pin::new(half).poll_write_vectored(cx, slices),
                (Writer::Unix(half), _) => Pin::new(half).poll_write_vectored(cx, slices),
                // Not vectored: TLS and WebSocket copy anyway.
                (Writer::Owner, Reader::Wrapped(stream)) => {
                    Pin::new(stream).poll_write(cx, out.front())
                }
                (Writer::Owner, _) => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            };
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match reader {
            Reader::Wrapped(stream) => Pin::new(stream).poll_flush(cx),
            Reader::Tcp(_) | Reader::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    /// Tells the peer that nothing more comes.
    pub(crate) fn poll_shutdown(
        &mut self,
        reader: &mut Reader,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match (self, reader) {
            (Writer::Tcp(half), _) => Pin::new(half).poll_shutdown(cx),
            (Writer::Unix(half), _) => Pin::new(half).poll_shutdown(cx),
            (Writer::Owner, Reader::Wrapped(stream)) => Pin::new(stream).poll_shutdown(cx),
            (Writer::Owner, _) => Poll::Ready(Ok(())),
        }
    }

    /// Lets go of the socket without the system call that dropping a half would make.
    pub(crate) fn forget(self) {
        match self {
            Writer::Tcp(half) => half.forget(),
            Writer::Unix(half) => half.forget(),
            Writer::Owner => {}
        }
    }
}
