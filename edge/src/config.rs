//! Settings of the edge and of each listener. Every limit says what happens when it is reached.

use serde::Deserialize;

use crate::address::Address;

/// Settings shared by all listeners.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeConfig {
    /// Worker threads; 0 (default) is one per processor.
    pub workers: usize,
    /// Connections of all listeners together (default 65,536). One more is accepted and closed at once, so that the
    /// client learns it now instead of waiting in the backlog; counted as refused.
    pub connections_max: usize,
    /// Bytes that may wait in the outboxes and half-read messages of all connections together (default 512 MiB). Above it
    /// nothing more is read from any client until less is held; a connection that holds the most and has not moved
    /// for [`stall_ms`](Self::stall_ms) is closed.
    pub memory_max_bytes: usize,
    /// How long a connection may be stuck, in milliseconds, before it can be closed for the memory it holds
    /// (default 10,000).
    pub stall_ms: u64,
    /// How often timeouts are looked at, in milliseconds (default 250): every timeout is noticed up to this much late.
    pub sweep_ms: u64,
    /// How long a closing connection may take to read its last bytes and close its side, in milliseconds (default
    /// 5,000); then it is cut.
    pub linger_ms: u64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        EdgeConfig {
            workers: 0,
            connections_max: 65_536,
            memory_max_bytes: 512 * 1024 * 1024,
            stall_ms: 10_000,
            sweep_ms: 250,
            linger_ms: 5_000,
        }
    }
}

/// Settings of one listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Where to bind: `HOST:PORT` or `unix:PATH`.
    pub address: Address,
    /// Connections the system queues before they are accepted (default 1,024). Beyond it clients retry or time out.
    #[serde(default = "defaults::backlog")]
    pub backlog: u32,
    /// Connections of this listener (default 65,536). One more is accepted and closed at once; counted as refused.
    #[serde(default = "defaults::connections_max")]
    pub connections_max: usize,
    /// Outbox size above which nothing more is read from a client until half of it is written (default 1 MiB).
    #[serde(default = "defaults::outbox_soft_bytes")]
    pub outbox_soft_bytes: usize,
    /// The slow-consumer limit (default 64 MiB): a client whose outbox still holds more after the socket took what it
    /// could is closed at once, and counted. Must be larger than the largest message.
    #[serde(default = "defaults::outbox_hard_bytes")]
    pub outbox_hard_bytes: usize,
    /// Input that may wait for one message to be complete (default 64 MiB); beyond it the connection is closed.
    #[serde(default = "defaults::input_max_bytes")]
    pub input_max_bytes: usize,
}

mod defaults {
    pub(super) fn backlog() -> u32 {
        1024
    }
    pub(super) fn connections_max() -> usize {
        65_536
    }
    pub(super) fn outbox_soft_bytes() -> usize {
        1024 * 1024
    }
    pub(super) fn outbox_hard_bytes() -> usize {
        64 * 1024 * 1024
    }
    pub(super) fn input_max_bytes() -> usize {
        64 * 1024 * 1024
    }
}

impl ListenerConfig {
    /// A plain listener with the default limits.
    #[must_use]
    pub fn new(address: Address) -> Self {
        ListenerConfig {
            address,
            backlog: defaults::backlog(),
            connections_max: defaults::connections_max(),
            outbox_soft_bytes: defaults::outbox_soft_bytes(),
            outbox_hard_bytes: defaults::outbox_hard_bytes(),
            input_max_bytes: defaults::input_max_bytes(),
        }
    }
}
