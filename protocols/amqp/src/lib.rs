//! AMQP 0-9-1 with RabbitMQ's extensions, as a tenant of the engine.
//!
//! ```text
//!            edge                                                      engine
//! bytes ──▶ service ──▶ session ──▶ channel ──▶ commands ──▶ shards ─────┐
//!              ▲           │           ▲                                 │
//!              │           │           └────────────── effects ◀─────────┘
//!              │           └──▶ actions ──▶ topology ──▶ catalog, graph
//!              └── codec ◀──────────────────┘
//! ```
//!
//! A vhost is a space, a queue a stream with its default group. [`codec`] knows the bytes, [`session`] one connection,
//! [`service`] plugs both into the edge; [`tenant`] is what the connections share, [`topology`] what is declared in a
//! space, [`graph`] how a message finds its queues, `subjects` where other protocols meet those, `replies` what
//! finds a channel instead, [`access`] who is let in. `link` is the client's side of the protocol: by way of it
//! [`management`] changes things here, and `shovel` and `federation` carry messages between brokers (`transfer`).
//! `docs/amqp.md` says what a client may rely on.

pub mod access;
pub mod alarms;
pub mod census;
pub mod codec;
pub mod config;
pub mod exception;
pub(crate) mod federation;
mod firehose;
pub mod graph;
mod json;
mod letters;
mod link;
pub mod management;
pub(crate) mod parameter;
pub mod policy;
pub mod queue;
pub(crate) mod replies;
pub mod service;
pub mod session;
pub(crate) mod shovel;
pub(crate) mod store;
pub(crate) mod streams;
pub(crate) mod subjects;
pub(crate) mod tally;
pub mod tenant;
pub mod topology;
pub(crate) mod transfer;
pub mod vhost;

pub(crate) use longtail_web::query as percent;

pub use access::{Accounts, Admission, AdmitAll, Admitted, Denied, Login};
pub use census::{SeatLimits, Standing};
pub use config::Config;
pub use service::Amqp;
pub use shovel::{NoShovel, StaticShovel};
pub use tenant::Tenant;
