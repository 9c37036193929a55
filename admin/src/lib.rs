//! The operator's door: health, metrics and a small JSON API on one HTTP port.
//!
//! ```text
//! HTTP ─▶ access (token, loopback) ─▶ http ─▶ AdminBackend ─▶ whoever runs the broker
//!                                      └─▶ metrics: one snapshot a scrape
//! ```
//!
//! The crate knows nothing of brokers: [`AdminBackend`] is what it asks for and [`shapes`] what it answers, both for the
//! server (which serialises them) and for the command line (which reads them back). `docs/admin-api.md` is the
//! reference of paths and shapes.

mod access;
mod backend;
pub mod base64;
mod http;
mod listener;
mod metrics;
pub mod shapes;
mod watching;

pub use access::{Access, Authorize, Scope, Verdict};
pub use backend::{
    AdminBackend, AdminError, ErrorKind, NewMessage, Notation, Page, SessionFilter, StreamRef,
    SubscriptionFilter, Target,
};
pub use http::Options;
pub use listener::{AdminListener, serve};
pub use metrics::{
    CommandMetrics, EdgeMetrics, Histogram, LogMetrics, Metrics, ProcessMetrics, SessionMetrics,
    ShardMetrics, SpaceMetrics,
};
pub use watching::{DropFilter, NewTrace, SlowChange, Watching};
