//! What each subcommand does.

mod client;
pub(crate) mod config;
pub(crate) mod inspect;
pub(crate) mod log;
pub(crate) mod manage;
pub(crate) mod messages;
mod table;
pub(crate) mod top;
