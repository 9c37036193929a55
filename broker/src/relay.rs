//! Relays: routing that a protocol has of its own, behind the space's router.
//!
//! A protocol whose messages find their streams by rules that subjects and filters cannot say subscribes a relay to the
//! subjects that can lead there. Whoever publishes asks it, with the message at hand, for the commands that store it,
//! and waits for them as for those of bound streams: an acknowledgement covers what is behind a relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_model::Timestamp;

use crate::ephemeral::{Target, TargetOptions};
use crate::message::Message;
use crate::stored::ShardPublish;

/// A relay, for as long as it is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(u64);

/// Routing of a protocol's own. Called by publishers of every protocol, on their threads, perhaps under their locks: it
/// waits for nothing and takes no connection's lock.
pub trait Relay: Send + Sync {
    /// Adds what stores `message` in the streams behind the relay. Commands of one shard may be several.
    fn relay(&self, message: &Message, now: Timestamp, to: &mut Vec<ShardPublish>);
}

/// A relay as the router knows it. Cloning shares it.
#[derive(Clone)]
pub struct RelayHandle {
    id: RelayId,
    relay: Arc<dyn Relay>,
}

impl RelayHandle {
    /// Gives a relay its number.
    #[must_use]
    pub fn new(relay: Arc<dyn Relay>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        RelayHandle {
            id: RelayId(NEXT.fetch_add(1, Ordering::Relaxed)),
            relay,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> RelayId {
        self.id
    }

    /// Its key in the router.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Relay(self.id)
    }

    /// What it says with a subscription.
    #[must_use]
    pub fn options(&self) -> TargetOptions {
        TargetOptions::Relay(self.clone())
    }

    pub(crate) fn relay(&self, message: &Message, now: Timestamp, to: &mut Vec<ShardPublish>) {
        self.relay.relay(message, now, to);
    }
}

impl std::fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RelayHandle").field(&self.id.0).finish()
    }
}
