//! Spaces (an AMQP vhost, a NATS account, a tenant) and what each may use.

use serde::{Deserialize, Serialize};

/// A space: its own subjects, streams and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Unique, 1 to 255 bytes, no control characters.
    pub name: String,
    /// What it may use. Unlimited if left out.
    #[serde(default)]
    pub quotas: Quotas,
}

/// What a space may use at most. A number that is left out is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams_max: Option<u64>,
    /// Stored bytes, over all streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// Stored messages, over all streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_max: Option<u64>,
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u64>,
    /// Subscriptions and bindings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions_max: Option<u64>,
}

/// What a space uses, or what a request would add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Streams.
    pub streams: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Stored messages.
    pub messages: u64,
    /// Connections.
    pub connections: u64,
    /// Subscriptions and bindings.
    pub subscriptions: u64,
}

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Streams.
    Streams,
    /// Stored bytes.
    Bytes,
    /// Stored messages.
    Messages,
    /// Connections.
    Connections,
    /// Subscriptions and bindings.
    Subscriptions,
}

impl Resource {
    /// The word for messages to operators and clients.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Resource::Streams => "streams",
            Resource::Bytes => "bytes",
            Resource::Messages => "messages",
            Resource::Connections => "connections",
            Resource::Subscriptions => "subscriptions",
        }
    }
}

/// A request that would exceed a quota.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the space is limited to {limit} {}: {used} used, {requested} more requested", resource.as_str())]
pub struct QuotaExceeded {
    /// What ran out.
    pub resource: Resource,
    /// The quota.
    pub limit: u64,
    /// In use now.
    pub used: u64,
    /// What the request would add.
    pub requested: u64,
}

impl Quotas {
    /// Whether one more connection may be added to so many.
    ///
    /// # Errors
    /// When there is no room.
    pub fn admit_connection(&self, connections: u64) -> Result<(), QuotaExceeded> {
        let of = |connections| Usage {
            connections,
            ..Usage::default()
        };
        self.admit(&of(connections), &of(1))
    }

    /// Whether `more` may be added to `used`. What a request does not ask for is not checked: a space that is over
    /// its bytes may still open connections, to consume.
    ///
    /// # Errors
    /// The first quota that would be exceeded.
    pub fn admit(&self, used: &Usage, more: &Usage) -> Result<(), QuotaExceeded> {
        let checks = [
            (
                Resource::Streams,
                self.streams_max,
                used.streams,
                more.streams,
            ),
            (Resource::Bytes, self.bytes_max, used.bytes, more.bytes),
            (
                Resource::Messages,
                self.messages_max,
                used.messages,
                more.messages,
            ),
            (
                Resource::Connections,
                self.connections_max,
                used.connections,
                more.connections,
            ),
            (
                Resource::Subscriptions,
                self.subscriptions_max,
                used.subscriptions,
                more.subscriptions,
            ),
        ];
        for (resource, limit, used, requested) in checks {
            let Some(limit) = limit else { continue };
            if requested > 0 && used.saturating_add(requested) > limit {
                return Err(QuotaExceeded {
                    resource,
                    limit,
                    used,
                    requested,
                });
            }
        }
        Ok(())
    }
}
