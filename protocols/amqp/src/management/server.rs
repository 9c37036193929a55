//! What is answered at which listener.

use std::io;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::{Extension, Router};
use longtail_web::{Server, Socket};

use super::{Management, http, metrics, sampler};

/// What the listener of the API is called among RabbitMQ's protocols.
pub(super) const PROTOCOL: &str = "http";

/// The same over TLS.
pub(super) const PROTOCOL_TLS: &str = "https";

/// What is served at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The management API.
    Api,
    /// The metrics, to anybody who asks.
    Metrics,
}

/// Answers at these sockets, and samples what there is to count meanwhile.
///
/// # Errors
/// When the system gives no thread.
pub fn serve(management: &Arc<Management>, sockets: Vec<(Site, Socket)>) -> io::Result<Server> {
    let sites = sockets.into_iter().map(|(site, socket)| {
        let router = match site {
            Site::Api => Router::new().fallback(http::answer),
            Site::Metrics => Router::new().fallback(metrics::answer),
        };
        // Bodies have a limit of their own.
        let router = router
            .layer(DefaultBodyLimit::disable())
            .layer(Extension(http::OverTls(socket.certificates.is_some())))
            .with_state(Arc::clone(management));
        (router, socket)
    });
    let sites: Vec<_> = sites.collect();
    let sampling = sampler::run(Arc::clone(management));
    Server::start("amqp-management", sites, Some(Box::pin(sampling)))
}
