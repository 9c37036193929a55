//! The admin service on a thread of its own, so that a scrape holds up neither signals nor messages.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use longtail_admin::{Access, AdminListener, Options};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::backend::Backend;
use super::lifecycle::Listening;
use crate::config::{ADMIN, ListenAddress, Settings};

/// How long requests that are being answered may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The service, bound and answering.
pub(super) struct AdminService {
    address: ListenAddress,
    stop: Option<oneshot::Sender<()>>,
    stopped: Option<oneshot::Receiver<()>>,
    socket: Option<PathBuf>,
}

/// A socket that is not in a runtime yet.
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AdminService {
    /// Binds `admin.listen` and serves `backend` there; `None` when the service is off.
    ///
    /// # Errors
    /// When the address cannot be bound or the system gives no thread.
    pub(super) fn start(settings: &Settings, backend: Arc<Backend>) -> io::Result<Option<Self>> {
        let Some(address) = &settings.admin.listen else {
            return Ok(None);
        };
        let (bound, address, socket) = bind(address)?;
        let options = Options {
            access: if settings.admin.token.is_empty() {
                Access::LocalOnly
            } else {
                Access::Token(settings.admin.token.as_str().into())
            },
            body_bytes: settings.limits.message_bytes,
            streams_max: settings.admin.metrics_streams_max,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopping) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        thread::Builder::new()
            .name(ADMIN.to_owned())
            .spawn(move || {
                let served = runtime.block_on(async {
                    let listener = match bound {
                        Bound::Tcp(socket) => {
                            AdminListener::Tcp(tokio::net::TcpListener::from_std(socket)?)
                        }
                        Bound::Unix(socket) => {
                            AdminListener::Unix(tokio::net::UnixListener::from_std(socket)?)
                        }
                    };
                    longtail_admin::serve(listener, backend, options, async {
                        // Either somebody says stop, or nobody is left who could.
                        let _ = stopping.await;
                    })
                    .await
                });
                if let Err(error) = served {
                    error!(%error, "the admin service ended");
                }
                // Nobody waits when the server did not start.
                let _ = done.send(());
            })?;
        Ok(Some(AdminService {
            address,
            stop: Some(stop),
            stopped: Some(stopped),
            socket,
        }))
    }

    /// Where it listens.
    pub(super) fn listening(&self) -> Listening {
        Listening {
            protocol: ADMIN.to_owned(),
            address: self.address.clone(),
            tls: false,
        }
    }

    /// Ends it; requests that are being answered get a little time.
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(stopped) = self.stopped.take()
            && tokio::time::timeout(STOP_WITHIN, stopped).await.is_err()
        {
            warn!("the admin service is still answering; it is left behind");
        }
    }
}

impl Drop for AdminService {
    fn drop(&mut self) {
        if let Some(path) = &self.socket {
            // Nothing depends on it: the next start removes a stale file.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(address: &ListenAddress) -> io::Result<(Bound, ListenAddress, Option<PathBuf>)> {
    match address {
        ListenAddress::Tcp { host, port } => {
            let addresses: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
            let socket = TcpListener::bind(addresses.as_slice())?;
            socket.set_nonblocking(true)?;
            let local = socket.local_addr()?;
            let address = ListenAddress::Tcp {
                host: local.ip().to_string(),
                port: local.port(),
            };
            Ok((Bound::Tcp(socket), address, None))
        }
        ListenAddress::Unix(path) => {
            remove_stale(path)?;
            let socket = UnixListener::bind(path)?;
            socket.set_nonblocking(true)?;
            Ok((Bound::Unix(socket), address.clone(), Some(path.clone())))
        }
    }
}

/// Removes the socket that a dead server left behind. A live one, or a file of another kind, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(is_refused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(dir.path().join("admin.sock"));
        let (first, ..) = bind(&address).unwrap();
        let error = bind(&address).err().map(|error| error.kind());
        assert_eq!(error, Some(io::ErrorKind::AddrInUse));
        drop(first);
        assert!(bind(&address).is_ok());
    }

    #[test]
    fn port_0_becomes_the_port_that_the_system_chose() {
        let (_socket, address, _) = bind(&"localhost:0".parse().unwrap()).unwrap();
        assert!(matches!(address, ListenAddress::Tcp { port, .. } if port != 0));
    }
}
