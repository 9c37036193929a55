//! The API every protocol is written against: spaces, subjects and the router, streams and groups, accounts.

pub mod auth;
pub mod ephemeral;
pub mod last_values;
pub mod message;
pub mod relay;
pub mod retained;
pub mod router;

mod broker;
pub mod catalog;
pub mod client;
mod config;
mod hash;
mod shards;
pub mod space;
pub mod stored;
pub mod streams;

pub use broker::{Broker, BrokerError};
pub use catalog::Catalog;
pub use client::Client;
pub use config::BrokerConfig;
pub use hash::stable_hash;
pub use shards::OpenError;
pub use space::{LiveSubscription, PublishedTo, Space};
