//! Sockets to listen on.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::address::{Address, Endpoint};
use crate::config::ListenerConfig;
use crate::error::ListenError;

/// A bound socket; closing it removes the file of a Unix socket.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket just accepted.
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// The file of a Unix socket, removed when dropped.
pub(crate) struct SocketFile(Arc<Path>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing depends on it: the next start removes a stale file.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Binds, in the runtime this is called in.
    pub(crate) fn open(config: &ListenerConfig) -> Result<Bound, ListenError> {
        let ListenerConfig {
            address,
            backlog,
            unix_mode,
            ..
        } = config;
        let backlog = backlog_for_system(*backlog);
        let bind = |source| ListenError::Bind {
            address: address.clone(),
            source,
        };
        match address {
            Address::Tcp(address) => Ok(Bound::Tcp(listen_tcp(*address, backlog).map_err(bind)?)),
            Address::Unix(path) => {
                remove_stale(path, address)?;
                let listener = listen_unix(path, *unix_mode, backlog).map_err(bind)?;
                Ok(Bound::Unix(listener, SocketFile(path.as_path().into())))
            }
        }
    }

    pub(crate) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Bound::Tcp(listener) => Ok(Endpoint::Tcp(listener.local_addr()?)),
            Bound::Unix(_, file) => Ok(Endpoint::Unix(file.0.clone())),
        }
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Bound::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Bound::Unix(listener, _) => listener
                .poll_accept(cx)
                .map_ok(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

impl Accepted {
    /// Takes the socket out of the acceptor's runtime and into the one this is called in.
    pub(crate) fn move_here(self) -> io::Result<Accepted> {
        Ok(match self {
            Accepted::Tcp(stream, peer) => {
                Accepted::Tcp(TcpStream::from_std(stream.into_std()?)?, peer)
            }
            Accepted::Unix(stream) => Accepted::Unix(UnixStream::from_std(stream.into_std()?)?),
        })
    }
}

fn listen_tcp(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

fn listen_unix(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    if let Some(mode) = mode {
        // Before anybody can connect.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    UnixListener::from_std(socket.into())
}

fn backlog_for_system(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// Removes the file a dead server left behind. A live one, or a file of another kind, stays.
fn remove_stale(path: &PathBuf, address: &Address) -> Result<(), ListenError> {
    let bind = |source| ListenError::Bind {
        address: address.clone(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.clone() });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(bind(io::ErrorKind::AddrInUse.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(bind)
        }
        Err(error) => Err(bind(error)),
    }
}
