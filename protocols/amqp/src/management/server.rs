//! The thread that answers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use tokio::sync::{oneshot, watch};

use super::{Management, http, metrics};

/// What the listener of the API is called among RabbitMQ's protocols.
pub(super) const PROTOCOL: &str = "http";

/// What is served at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The management API.
    Api,
    /// The metrics, to anybody who asks.
    Metrics,
}

/// How long requests that are being answered may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The running thread. Dropping it ends it.
pub struct Server {
    stop: Option<watch::Sender<bool>>,
    stopped: Option<oneshot::Receiver<()>>,
}

impl Server {
    /// Answers at these sockets, which are bound and listening.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        management: &Arc<Management>,
        sockets: Vec<(Site, TcpListener)>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for (_, socket) in &sockets {
            socket.set_nonblocking(true)?;
        }
        let (stop, stopping) = watch::channel(false);
        let (done, stopped) = oneshot::channel();
        let management = Arc::clone(management);
        thread::Builder::new()
            .name("amqp-management".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut serving = Vec::new();
                    for (site, socket) in sockets {
                        let served = serve(Arc::clone(&management), site, socket, stopping.clone());
                        serving.push(tokio::spawn(served));
                    }
                    for served in serving {
                        if let Ok(Err(error)) = served.await {
                            tracing::error!(%error, "a management listener ended");
                        }
                    }
                });
                // Nobody waits when the server did not start.
                let _ = done.send(());
            })?;
        Ok(Server {
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
            tracing::warn!("the management API is still answering; it is left behind");
        }
    }
}

async fn serve(
    management: Arc<Management>,
    site: Site,
    socket: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let router = match site {
        Site::Api => Router::new().fallback(http::answer),
        Site::Metrics => Router::new().fallback(metrics::answer),
    };
    // Bodies have a limit of their own.
    let router = router
        .layer(DefaultBodyLimit::disable())
        .with_state(management);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move {
            // Either somebody says stop, or nobody is left who could.
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
}
