//! MQTT 3.1, 3.1.1 and 5.0.
//!
//! ```text
//!            edge                                                broker
//! bytes ──▶ service ──▶ codec ──▶ session::input ──▶ actions ──▶ publish ──▶ router, retained values
//!              ▲                      │                             │
//!              └── session::deliver ◀─┴── seat ◀────────────────────┘
//! ```
//!
//! [`codec`] knows the bytes, [`session`] one connection, [`service`] plugs both into the edge. [`tenant`] is what the
//! connections share; its registry knows which client has which session, the seat of each is where the router delivers
//! to. `durable` is what outlives the process. [`access`] says who is let in, [`message`] how a message of MQTT is one of
//! the broker's. [`census`] is what an operator sees and does, [`sys`] what the server says of itself.
//! [`bridge`] connects to other brokers, [`control`] administers the server by messages, [`http`] has the HTTP APIs that
//! other brokers' tools know, [`http_auth`] asks a server of HTTP who a client is, [`watch`] is what an operator follows
//! while clients go on, [`behalf`] what it does for them.

pub mod access;
pub mod acl;
pub mod bans;
pub mod behalf;
pub mod bridge;
pub mod census;
pub mod client;
pub mod codec;
pub mod config;
pub mod consumer;
pub mod control;
pub mod counters;
mod delayed;
mod durable;
pub mod exclusive;
pub mod hooks;
pub mod http;
pub mod http_auth;
mod local;
pub mod message;
mod publish;
mod registry;
mod reload;
pub mod rewrite;
mod seat;
mod select;
pub mod service;
pub mod session;
pub mod sys;
pub mod template;
pub mod tenant;
mod timers;
mod usage;
pub mod waiting;
pub mod watch;

pub use access::{Accounts, Admission, AdmitAll, Admitted, Denied, Exchange, Login, Step};
pub use config::{Config, Limits, Profile};
pub use hooks::{Hook, Points};
pub use local::{Following, LocalClient, LocalError, Publication};
pub use service::Mqtt;
pub use tenant::Tenant;
