//! The thread that answers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::sync::{oneshot, watch};

/// How long requests that are being answered may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The running thread. Dropping it ends it.
pub struct Server {
    name: String,
    stop: Option<watch::Sender<bool>>,
    stopped: Option<oneshot::Receiver<()>>,
}

impl Server {
    /// Answers at these sockets, which are bound and listening, each with its router. Handlers find the other end's
    /// address as `ConnectInfo<SocketAddr>`. `name` is the thread's.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: &str, sites: Vec<(Router, TcpListener)>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for (_, socket) in &sites {
            socket.set_nonblocking(true)?;
        }
        let (stop, stopping) = watch::channel(false);
        let (done, stopped) = oneshot::channel();
        let called = name.to_owned();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut serving = Vec::new();
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
    socket: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move {
            // Either somebody says stop, or nobody is left who could.
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
}
