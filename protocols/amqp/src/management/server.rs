//! What is answered at which listener.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use longtail_web::Server;

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

/// Answers at these sockets, which are bound and listening.
///
/// # Errors
/// When the system gives no thread.
pub fn serve(
    management: &Arc<Management>,
    sockets: Vec<(Site, TcpListener)>,
) -> io::Result<Server> {
    let sites = sockets.into_iter().map(|(site, socket)| {
        let router = match site {
            Site::Api => Router::new().fallback(http::answer),
            Site::Metrics => Router::new().fallback(metrics::answer),
        };
        // Bodies have a limit of their own.
        let router = router
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(management));
        (router, socket)
    });
    Server::start("amqp-management", sites.collect())
}
