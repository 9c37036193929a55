//! What each subcommand does.

pub(crate) mod bans;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod inspect;
pub(crate) mod log;
pub(crate) mod manage;
pub(crate) mod messages;
pub(crate) mod retained;
pub(crate) mod sessions;
mod table;
pub(crate) mod top;
pub(crate) mod watching;
pub(crate) mod why;
