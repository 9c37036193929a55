//! The ephemeral path: from a publisher to the live subscribers that match, without a shard or the log.
//!
//! A session looks the subject up in its `RouteCache`, and hands the routes and the
//! message to a [`Burst`]. The burst offers the message to every subscriber's bounded outbox, and remembers who has
//! something to write; [`Burst::flush`] then wakes each of them once, however many messages it was given. Streams
//! among the routes are left to the caller, see [`stored`](crate::stored).
//!
//! A slow consumer is the affair of its own outbox, which refuses what it cannot hold; here the refusals are counted.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_model::Timestamp;
use smallvec::SmallVec;

use crate::message::{Message, Origin, SharedMessage};
use crate::router::{Chance, Member};

mod run;
mod target;
#[cfg(test)]
mod tests;

pub use run::{Deliveries, Run};
pub use target::{
    LiveId, LiveOptions, Picked, SpaceRouteCache, SpaceRouter, SpaceRoutes, StreamOptions, Target,
    TargetOptions,
};

/// Why a subscriber did not get a message that it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Its outbox is full: a slow consumer.
    OutboxFull,
    /// The message is larger than it accepts.
    TooLarge,
    /// The message has expired.
    Expired,
    /// It is about to disconnect.
    Closed,
    /// Its permissions do not cover the subject.
    Denied,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [DropReason; 5] = [
        DropReason::OutboxFull,
        DropReason::TooLarge,
        DropReason::Expired,
        DropReason::Closed,
        DropReason::Denied,
    ];

    /// The word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::OutboxFull => "outbox_full",
            DropReason::TooLarge => "too_large",
            DropReason::Expired => "expired",
            DropReason::Closed => "closed",
            DropReason::Denied => "denied",
        }
    }
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// It is in the outbox.
    Delivered,
    /// It is not.
    Dropped(DropReason),
}

/// The sending side of a connection.
pub trait Subscriber: Send + Sync {
    /// Takes a message into the outbox, or refuses it; never waits, and writes nothing unless the outbox would
    /// overflow otherwise. `options` are those of all of its subscriptions that matched, at least one: whether it
    /// sends one copy or several is its protocol's choice.
    fn deliver(&self, message: &SharedMessage, options: &[LiveOptions]) -> Delivery;

    /// As [`Subscriber::deliver`], once for each message of a run, in their order.
    fn deliver_run(&self, run: &Run<'_>, options: &[LiveOptions], deliveries: &mut Deliveries) {
        for message in run.messages() {
            deliveries.add(self.deliver(message, options), 1);
        }
    }

    /// [`Subscriber::deliver`], and [`Subscriber::flush`] if it was delivered.
    fn deliver_last(&self, message: &SharedMessage, options: &[LiveOptions]) -> Delivery {
        let delivery = self.deliver(message, options);
        if delivery == Delivery::Delivered {
            self.flush();
        }
        delivery
    }

    /// It is soon offered something. Whatever memory that takes may be looked at, so that it is near by then: of several
    /// that are approached one after the other, none waits for the memory of the one before. Nothing changes.
    fn approach(&self) {}

    /// Starts writing what is in the outbox. Called after the last of a burst of deliveries, now and then once more
    /// than needed.
    fn flush(&self);

    /// Itself, for whoever made it and finds it again in the router; nothing by default.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// A live subscriber as the router knows it. Cloning shares it.
#[derive(Clone)]
pub struct LiveHandle(Arc<Live<dyn Subscriber>>);

/// A subscriber with what the router knows of it, in one piece of memory: on its way to a thousand of them a message
/// waits for little else than for what each of them lies in.
pub struct Live<S: ?Sized> {
    id: LiveId,
    origin: Origin,
    /// The burst that has noted this subscriber for a flush. Only that burst writes its own number here, so a burst
    /// that reads it knows; others may overwrite it, which costs a flush too many at most.
    burst: AtomicU64,
    sink: S,
}

impl<S: Subscriber + 'static> Live<S> {
    /// A subscriber that publishes as `origin` itself.
    pub fn new(origin: Origin, sink: S) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Live {
            id: LiveId(NEXT.fetch_add(1, Ordering::Relaxed)),
            origin,
            burst: AtomicU64::new(0),
            sink,
        })
    }

    /// The subscriber.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Its key in the router.
    pub fn target(&self) -> Target {
        Target::Live(self.id)
    }

    /// What the router is given of it.
    pub fn handle(self: &Arc<Self>) -> LiveHandle {
        LiveHandle(Arc::<Self>::clone(self))
    }
}

impl LiveHandle {
    /// A subscriber that publishes as `origin` itself.
    pub fn new(origin: Origin, sink: impl Subscriber + 'static) -> Self {
        Live::new(origin, sink).handle()
    }

    /// Its id in the router.
    #[must_use]
    pub fn id(&self) -> LiveId {
        self.0.id
    }

    /// Its key in the router.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Live(self.0.id)
    }

    /// See [`Subscriber::as_any`].
    #[must_use]
    pub fn as_any(&self) -> Option<&dyn Any> {
        self.0.sink.as_any()
    }

    /// What it says with a subscription.
    #[must_use]
    pub fn options(&self, options: LiveOptions) -> TargetOptions {
        TargetOptions::Live(self.clone(), options)
    }
}

impl std::fmt::Debug for LiveHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LiveHandle").field(&self.0.id).finish()
    }
}

/// Totals since the start. Read by metrics, written once a burst.
#[derive(Debug, Default)]
pub struct EphemeralCounters {
    published: AtomicU64,
    delivered: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl EphemeralCounters {
    /// Messages published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Copies delivered.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Copies dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }
}

/// What one publish came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Live subscribers that got it, one for each group.
    pub delivered: usize,
    /// Live subscribers and groups that wanted it and did not get it.
    pub dropped: usize,
    /// Streams that want it, those of `picked` included, and [relays](crate::relay), which may know some. Storing it
    /// there is left to the caller.
    pub streams: usize,
    /// The streams that groups have picked. They are not among the targets of the routes, and a second look would pick
    /// others.
    pub picked: Picked,
}

impl Published {
    /// Whether anybody wanted it: a publisher is told "no subscribers" otherwise.
    #[must_use]
    pub fn has_matched(&self) -> bool {
        self.delivered + self.dropped + self.streams > 0
    }
}

/// Whether a message may wait at a subscriber that has no room for it now: not while another member of its group may
/// have room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    May,
    No,
}

/// Which member of a group is to get a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// As the group's strategy says.
    #[default]
    Any,
    /// This one, or nobody.
    Only(Target),
    /// Nobody.
    Nobody,
}

/// Messages published one after the other, to be written together. Flushes when dropped.
pub struct Burst<'c> {
    counters: &'c EphemeralCounters,
    /// From the first subscriber on that is noted; 0 before.
    id: u64,
    pending: Vec<LiveHandle>,
    /// Subscribers up to which the next message is written at once.
    last: usize,
    /// Each subscriber is flushed when it has been given what is published now.
    at_once: bool,
    published: u64,
    deliveries: Deliveries,
}

impl<'c> Burst<'c> {
    /// Subscribers noted for a flush before the burst flushes of its own accord.
    pub const PENDING_MAX: usize = 16_384;

    /// An empty burst. One can be kept and used again after each flush.
    #[must_use]
    pub fn new(counters: &'c EphemeralCounters) -> Self {
        Burst {
            counters,
            id: 0,
            pending: Vec::new(),
            last: 0,
            at_once: false,
            published: 0,
            deliveries: Deliveries::default(),
        }
    }

    /// Only one more message or run is published before the next flush. If it is all of the burst, and for `most`
    /// subscribers or fewer, each is flushed when it has been given it, and not after all the others have: what that
    /// takes is still in the processor's cache then.
    pub fn is_last(&mut self, most: usize) {
        self.last = if self.pending.is_empty() { most } else { 0 };
    }

    /// Subscribers that were given something and are not flushed yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Offers the messages of `run` to the live subscribers among `routes`. Says whether anybody wanted them; `None`
    /// if they have to be [published](Burst::publish) one by one, because each of them may find others: there are
    /// streams or groups among the routes.
    pub fn publish_run(&mut self, routes: &SpaceRoutes, run: &Run<'_>) -> Option<bool> {
        if !routes.leading().is_empty() || !routes.groups().is_empty() {
            self.last = 0;
            return None;
        }
        self.at_once = routes.following().len() <= self.last;
        let [first, ..] = run.messages() else {
            return Some(false);
        };
        self.published += run.messages().len() as u64;
        let mut is_wanted = false;
        for (place, route) in routes.following().iter().enumerate() {
            approach(routes, place);
            let Some((handle, wanted)) = wanted(&route.options, first, Wait::May) else {
                continue;
            };
            is_wanted = true;
            let before = self.deliveries.delivered;
            handle
                .0
                .sink
                .deliver_run(run, &wanted, &mut self.deliveries);
            if self.deliveries.delivered > before {
                self.will_flush(handle);
            }
        }
        Some(is_wanted)
    }

    /// Offers `message` to the live subscribers among `routes`, and to one member of each group: the picked one, or
    /// those after it as long as they refuse. A stream never refuses here. Every target is asked what it takes, see
    /// [`StreamOptions`] and [`LiveOptions`].
    pub fn publish(
        &mut self,
        routes: &SpaceRoutes,
        message: &SharedMessage,
        chance: &Chance,
        now: Timestamp,
    ) -> Published {
        self.publish_picked(routes, message, chance, now, &[])
    }

    /// As [`Burst::publish`], where somebody else has picked: one for each of the groups among `routes`, in their order.
    /// Those that are left out pick for themselves.
    pub fn publish_picked(
        &mut self,
        routes: &SpaceRoutes,
        message: &SharedMessage,
        chance: &Chance,
        now: Timestamp,
        picks: &[Pick],
    ) -> Published {
        self.published += 1;
        self.at_once = routes.following().len() <= self.last;
        let expired = message.is_expired(now);
        let mut published = Published::default();
        for route in routes.leading() {
            let relayed = matches!(route.key, Target::Relay(_));
            published.streams += usize::from(relayed || is_stored(&route.options, message));
        }
        for (place, route) in routes.following().iter().enumerate() {
            approach(routes, place);
            let outcome = self.offer(&route.options, message, expired, Wait::May);
            self.note(outcome, &mut published);
        }
        let mut picks = picks.iter();
        for group in routes.groups() {
            let pick = picks.next().copied().unwrap_or_default();
            let mut last = match pick {
                Pick::Nobody => Some(Delivery::Dropped(DropReason::Denied)),
                Pick::Any | Pick::Only(_) => None,
            };
            let mut members: SmallVec<[&Member<Target, TargetOptions>; 8]> =
                group.pick(chance).collect();
            members.retain(|member| match pick {
                Pick::Any => true,
                Pick::Only(target) => member.key == target,
                Pick::Nobody => false,
            });
            for member in &members {
                let options = std::slice::from_ref(&member.options);
                if let Target::Stream(shard, stream) = member.key {
                    if is_stored(options, message) {
                        published.streams += 1;
                        published.picked.push((shard, stream));
                        last = None;
                        break;
                    }
                    continue;
                }
                let outcome = self.offer(options, message, expired, Wait::No);
                last = outcome.or(last);
                if outcome == Some(Delivery::Delivered) {
                    break;
                }
            }
            if last == Some(Delivery::Dropped(DropReason::OutboxFull)) {
                for member in &members {
                    let options = std::slice::from_ref(&member.options);
                    let outcome = self.offer(options, message, expired, Wait::May);
                    if outcome == Some(Delivery::Delivered) {
                        last = outcome;
                        break;
                    }
                }
            }
            self.note(last, &mut published);
        }
        published
    }

    /// `None` if the target does not want the message after all.
    fn offer(
        &mut self,
        options: &[TargetOptions],
        message: &SharedMessage,
        expired: bool,
        wait: Wait,
    ) -> Option<Delivery> {
        let (handle, wanted) = wanted(options, message, wait)?;
        if expired {
            return Some(Delivery::Dropped(DropReason::Expired));
        }
        if self.at_once {
            return Some(handle.0.sink.deliver_last(message, &wanted));
        }
        let delivery = handle.0.sink.deliver(message, &wanted);
        if delivery == Delivery::Delivered {
            self.will_flush(handle);
        }
        Some(delivery)
    }

    /// Notes a subscriber that has something to write.
    fn will_flush(&mut self, handle: &LiveHandle) {
        if self.at_once {
            handle.0.sink.flush();
            return;
        }
        if self.id == 0 {
            self.id = next_burst();
        }
        if handle.0.burst.load(Ordering::Relaxed) != self.id {
            handle.0.burst.store(self.id, Ordering::Relaxed);
            self.pending.push(handle.clone());
            if self.pending.len() >= Self::PENDING_MAX {
                self.flush();
            }
        }
    }

    fn note(&mut self, outcome: Option<Delivery>, published: &mut Published) {
        let Some(outcome) = outcome else { return };
        self.deliveries.add(outcome, 1);
        match outcome {
            Delivery::Delivered => published.delivered += 1,
            Delivery::Dropped(_) => published.dropped += 1,
        }
    }

    /// Wakes every subscriber that was given something, once, and adds to the counters.
    pub fn flush(&mut self) {
        for handle in self.pending.drain(..) {
            handle.0.sink.flush();
        }
        self.last = 0;
        self.id = 0;
        self.counters
            .published
            .fetch_add(std::mem::take(&mut self.published), Ordering::Relaxed);
        let deliveries = std::mem::take(&mut self.deliveries);
        self.counters
            .delivered
            .fetch_add(deliveries.delivered, Ordering::Relaxed);
        for (total, count) in self.counters.dropped.iter().zip(deliveries.dropped) {
            if count > 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Subscribers that are approached together.
const APPROACHED: usize = 8;

/// Approaches the next of many subscribers, from each that is the first of some to come.
fn approach(routes: &SpaceRoutes, place: usize) {
    if !place.is_multiple_of(APPROACHED) || routes.following().len() <= APPROACHED {
        return;
    }
    let coming = routes.following().iter().skip(place).take(APPROACHED);
    for options in coming.flat_map(|route| &route.options) {
        if let TargetOptions::Live(handle, _) = options {
            handle.0.sink.approach();
        }
    }
}

/// The live subscriber of these subscriptions, and those of them that want the message; `None` if it is a stream, or
/// if none does.
fn wanted<'o>(
    options: &'o [TargetOptions],
    message: &Message,
    wait: Wait,
) -> Option<(&'o LiveHandle, SmallVec<[LiveOptions; 4]>)> {
    let mut handle = None;
    let mut wanted: SmallVec<[LiveOptions; 4]> = SmallVec::new();
    for options in options {
        let TargetOptions::Live(live, options) = options else {
            continue;
        };
        if options.takes(message, live.0.origin) {
            handle = Some(live);
            wanted.push(LiveOptions {
                only_now: wait == Wait::No,
                ..*options
            });
        }
    }
    Some((handle?, wanted))
}

/// Whether a stream with these subscriptions keeps the message.
pub(crate) fn is_stored(options: &[TargetOptions], message: &Message) -> bool {
    options
        .iter()
        .any(|options| matches!(options, TargetOptions::Stream(options) if options.takes(message)))
}

fn next_burst() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
