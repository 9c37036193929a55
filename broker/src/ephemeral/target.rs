//! Who wants messages, and what they say with each subscription.

use longtail_model::{ShardId, StreamId};
use smallvec::SmallVec;

use super::LiveHandle;
use crate::message::{Message, Origin};
use crate::relay::{RelayHandle, RelayId};
use crate::router::{RouteCache, Router, Routes, TargetKey};

/// A live subscriber, for as long as it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LiveId(pub(super) u64);

/// Who wants messages of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A stream, which stores them.
    Stream(ShardId, StreamId),
    /// A protocol's own routing, which names streams.
    Relay(RelayId),
    /// A live subscriber.
    Live(LiveId),
}

impl TargetKey for Target {
    fn is_leading(&self) -> bool {
        !matches!(self, Target::Live(_))
    }
}

/// What a target says with each subscription.
#[derive(Clone, Debug)]
pub enum TargetOptions {
    /// What the stream keeps.
    Stream(StreamOptions),
    /// Whom to ask.
    Relay(RelayHandle),
    /// Where to deliver, and how.
    Live(LiveHandle, LiveOptions),
}

/// The router of a space.
pub type SpaceRouter = Router<Target, TargetOptions>;
/// A publisher's cache for it.
pub type SpaceRouteCache = RouteCache<Target, TargetOptions>;
/// What a look-up finds in it.
pub type SpaceRoutes = Routes<Target, TargetOptions>;

/// Streams that groups have picked for a message.
pub type Picked = SmallVec<[(ShardId, StreamId); 1]>;

/// Which messages of one subscription a stream keeps. The default: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Its owner's own: a subscription id, whatever its protocol needs to know. Nothing of it is stored.
    pub tag: u64,
    /// Only what must not be lost, see [`Quality::is_assured`](crate::message::Quality::is_assured). The rest is for a
    /// live subscription beside it.
    pub assured_only: bool,
    /// Not what this one has published; [`Origin::default`] is nobody.
    pub not_from: Origin,
}

impl StreamOptions {
    /// Whether the stream keeps the message.
    #[must_use]
    pub fn takes(&self, message: &Message) -> bool {
        let own = message.origin != Origin::default() && self.not_from == message.origin;
        !own && (message.quality.is_assured() || !self.assured_only)
    }
}

/// How a live subscriber wants the messages of one subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveOptions {
    /// The subscriber's own: a subscription id, a quality of service, whatever its protocol needs to know.
    pub tag: u64,
    /// Not those it has published itself.
    pub no_local: bool,
    /// Not what must not be lost: it gets that from a stream of its own.
    pub not_assured: bool,
    /// Set by a [`Burst`](super::Burst), not by the subscriber, while another member of a group may have room: what
    /// there is no room for now is to be refused, not kept for later.
    pub only_now: bool,
}

impl LiveOptions {
    /// Whether a subscriber that publishes as `own` wants the message.
    #[must_use]
    pub fn takes(&self, message: &Message, own: Origin) -> bool {
        let own = message.origin != Origin::default() && own == message.origin;
        let elsewhere = self.not_assured && message.quality.is_assured();
        !(elsewhere || self.no_local && own)
    }
}
