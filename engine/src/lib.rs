//! The shard: streams and groups as one pure, deterministic state machine over a log.
//!
//! ```text
//! Command ──▶ Shard::step(now) ──▶ events ──▶ log
//!                   │                          │ durable
//!                   └──▶ Effect ── gated ──────┴──▶ session
//! ```
//!
//! [`command`] and [`effect`] are the vocabulary, [`config`] what streams are made of. The state machine has no clock,
//! no thread and no socket; [`runtime`] gives it those.

pub mod command;
pub mod config;
pub mod effect;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod headers;
pub mod message;
pub mod runtime;
pub mod structures;

pub mod budget;

mod definition;
mod describe;
mod event;
mod intern;
mod open;
mod rare;
mod runs;
mod shard;
mod stream;
mod table;

pub use budget::{Budgets, Holding};
pub use command::{
    Command, Credit, Dispatch, Handle, KeyFrom, NewMessage, Only, QUIET, Role, Settle, Start, Step,
    Target, Token, Transaction, Until, Wait, Which,
};
pub use config::{
    Counted, DeadLetter, GroupConfig, Keep, Limits, Numbering, Order, Overflow, Reason, Reasons,
    StreamConfig, StreamName,
};
pub use describe::{Described, Field, describe_event};
pub use effect::{
    Cause, Counts, Delivery, Effect, Effects, Gate, GroupInfo, MessageInfo, MessageState, Refusal,
    Reply, ShardInfo, StreamInfo, Unmet,
};
pub use event::Malformed;
pub use message::Message;
pub use open::{MemoryLimits, OpenShardError, Recovered};
pub use shard::{Logs, RecoverError, Shard, ShardConfig};
