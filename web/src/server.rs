//! The thread that answers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::sync::{oneshot, watch};

use crate::secure::{Certificates, Secure};

/// How long requests that are being answered may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Where something is answered: bound and listening.
pub struct Socket {
    /// The socket.
    pub listener: TcpListener,
    /// Over TLS, with what this gives.
    pub certificates: Option<Certificates>,
}

/// Work of an API beside its answers, on the same thread. It is dropped when the server ends.
pub type Beside = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The running thread. Dropping it ends it.
pub struct Server {
    name: String,
    stop: Option<watch::Sender<bool>>,
    stopped: Option<oneshot::Receiver<()>>,
}

impl Server {
    /// Answers at these sockets, each with its router, and does `beside` meanwhile. Handlers find the other end's address
    /// as `ConnectInfo<SocketAddr>`. `name` is the thread's.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        name: &str,
        sites: Vec<(Router, Socket)>,
        beside: Option<Beside>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for (_, socket) in &sites {
            socket.listener.set_nonblocking(true)?;
        }
        let (stop, stopping) = watch::channel(false);
        let (done, stopped) = oneshot::channel();
        let called = name.to_owned();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut serving = Vec::new();
                    if let Some(beside) = beside {
                        tokio::spawn(beside);
                    }
                    for (router, socket) in sites {
                        serving.push(tokio::spawn(serve(router, socket, stopping.clone())));
                    }
                    for served in serving {
                        if let Ok(Err(error)) = served.await {
                            tracing::error!(%error, site = called, "a listener for HTTP ended");
                        }
                    }
                });
                // Nobody waits when the server did not start.
                let _ = done.send(());
            })?;
        Ok(Server {
            name: name.to_owned(),
            stop: Some(stop),
            stopped: Some(stopped),
        })
    }

    /// Ends it; requests that are being answered get a little time.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Some(stopped) = self.stopped.take()
            && tokio::time::timeout(STOP_WITHIN, stopped).await.is_err()
        {
            tracing::warn!(site = self.name, "still answering; it is left behind");
        }
    }
}

async fn serve(
    router: Router,
    socket: Socket,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(socket.listener)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    // Either somebody says stop, or nobody is left who could.
    let stop = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    match socket.certificates {
        None => {
            axum::serve(listener, service)
                .with_graceful_shutdown(stop)
                .await
        }
        Some(certificates) => {
            // Any listener that is tapped says who is at the other end.
            let listener = Secure::new(listener, certificates)?.tap_io(|_| {});
            axum::serve(listener, service)
                .with_graceful_shutdown(stop)
                .await
        }
    }
}
