//! Settings of the broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_model::Durability;

use crate::auth::Quotas;
use crate::retained::RetainedLimits;

/// How a broker keeps its messages.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where; `None`, or [`Durability::Memory`]: nowhere but in memory.
    pub data: Option<PathBuf>,
    /// What an acknowledgement means on streams that do not say.
    pub durability: Durability,
    /// Longest time written data waits for its sync in [`Durability::Interval`], in milliseconds.
    pub interval_ms: u64,
    /// Shards of a new data directory; an existing one keeps its number.
    pub shards: u16,
    /// Size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// Recent log kept in memory for reading, in bytes, a shard.
    pub tail_bytes: u64,
    /// Indexes kept in memory, in bytes, a shard; what is beyond that lies in the log's pages.
    pub index_bytes: u64,
    /// What streams in memory may hold, in bytes, over all shards.
    pub memory_bytes: u64,
    /// Largest message, in bytes of headers and payload.
    pub max_message_bytes: u64,
    /// Streams that may exist in a shard.
    pub max_streams: u64,
    /// What the last values of one space may hold.
    pub retained: RetainedLimits,
    /// What single spaces may use, from the first moment on; see also [`Broker::set_quotas`](crate::Broker::set_quotas).
    pub quotas: Vec<(Arc<str>, Quotas)>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig {
            data: None,
            durability: Durability::Sync,
            interval_ms: 50,
            shards: default_shards(),
            segment_bytes: 64 << 20,
            tail_bytes: 8 << 20,
            index_bytes: 16 << 20,
            memory_bytes: 4 << 30,
            max_message_bytes: 1 << 30,
            max_streams: 1_000_000,
            retained: RetainedLimits::default(),
            quotas: Vec::new(),
        }
    }
}

impl BrokerConfig {
    /// Everything in memory, for tests and caches.
    #[must_use]
    pub fn in_memory() -> Self {
        BrokerConfig {
            durability: Durability::Memory,
            ..BrokerConfig::default()
        }
    }

    /// Everything in a directory.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        BrokerConfig {
            data: Some(dir.into()),
            ..BrokerConfig::default()
        }
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        if self.durability == Durability::Memory {
            None
        } else {
            self.data.as_deref()
        }
    }
}

/// One a core, but not more than a small server needs.
fn default_shards() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.clamp(1, 8)).unwrap_or(1)
}
