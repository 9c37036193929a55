//! Plain data shared by every floor: identifiers, positions, time, subjects.
//!
//! This crate does no I/O and knows nothing of shards, protocols or files. A type belongs here when two floors
//! that may not import each other have to agree on it.

mod durability;
mod ids;
mod subject;
mod time;

pub use durability::{Durability, UnknownDurability};
pub use ids::{
    ConsumerTag, GroupId, IndexId, Link, Lsn, Priority, Seq, SessionId, ShardId, StreamId,
};
pub use subject::{
    DollarRule, Filter, FilterToken, SEPARATOR, Subject, SubjectError, SubjectLimits, SubjectRef,
    Syntax, swap_separators, swap_separators_into,
};
pub use time::Timestamp;
