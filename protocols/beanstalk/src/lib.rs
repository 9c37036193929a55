//! beanstalkd's protocol as a tenant of the engine.
//!
//! ```text
//!            edge                                            engine
//! bytes ──▶ service ──▶ session::input ──▶ commands ──▶ shard
//!              ▲            │  codec::Decoder              │
//!              └────────────┴── session::effect ◀── effects┘
//!                               codec::reply
//! ```
//!
//! A tube is a stream that is kept until settled, delivered by priority, and removed when nobody uses it; all tubes of a
//! space live on one shard and number their jobs from one counter. [`codec`] knows the bytes, [`session`] one
//! connection, [`service`] plugs both into the edge; [`tenant`] is what the connections share and [`grants`] who is let
//! in. `docs/beanstalk.md` says what a client may rely on.

pub mod codec;
pub mod grants;
pub mod service;
pub mod session;
mod stats;
pub mod tenant;

pub use grants::{Admission, AdmitAll, Denied, Grants, Peer, Right};
pub use service::Beanstalk;
pub use stats::VERSION;
pub use tenant::{Config, ConfigError, Counters, CpuTime, Host, Identity, LogFacts, Tenant};
