//! What hooks are told, as values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::SharedMessage;
use longtail_edge::{CloseReason, Endpoint};
use longtail_model::{Filter, Subject, Timestamp};
use tokio::sync::mpsc;

use super::{ClientInfo, Hook, HookId, Hooks, Points, Scope};
use crate::codec::{PacketId, PacketType, ReasonCode};

/// Something that has happened. Cheap to clone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The listeners are open.
    Started,
    /// No more clients are served.
    Stopped,
    /// About a second has passed.
    Tick(Timestamp),
    /// A client was not let in.
    Refused {
        /// Its identifier.
        client_id: Arc<str>,
        /// Where it came from.
        remote: Endpoint,
        /// What it is told.
        reason: ReasonCode,
    },
    /// A client is in: CONNACK is written.
    Established {
        /// Who.
        client: Arc<ClientInfo>,
        /// It came back to a session.
        present: bool,
    },
    /// A connection has ended.
    Disconnected {
        /// Whose.
        client: Arc<ClientInfo>,
        /// Why.
        why: CloseReason,
        /// The session ends with it.
        session_ends: bool,
    },
    /// A session began, changed hands or ended.
    Session {
        /// Whose.
        client_id: Arc<str>,
        /// What.
        change: SessionChange,
    },
    /// A packet of a client was dealt with.
    PacketProcessed {
        /// Whose.
        client: Arc<ClientInfo>,
        /// Which.
        packet: PacketType,
        /// The rule that it broke, if so.
        broken: Option<ReasonCode>,
    },
    /// A SUBSCRIBE is answered.
    Subscribed {
        /// Whose.
        client: Arc<ClientInfo>,
        /// Each filter as the client wrote it, and its reason code. A filter that was never taken up has no name here.
        subscriptions: Vec<(Option<Arc<str>>, ReasonCode)>,
    },
    /// A subscription has ended by UNSUBSCRIBE.
    Unsubscribed {
        /// Whose.
        client: Arc<ClientInfo>,
        /// The filter as the client wrote it.
        filter: Arc<str>,
    },
    /// A message was shown to its subscribers.
    Published {
        /// Who published it; none for a will and for what a hook or the server publishes.
        client: Option<Arc<ClientInfo>>,
        /// The message.
        message: SharedMessage,
        /// What the publisher is told, as far as it is known: what streams keep may still be under way to the disk.
        reason: ReasonCode,
    },
    /// A message was not sent to a client that wanted it.
    Dropped {
        /// The client.
        client: Arc<ClientInfo>,
        /// The message.
        message: SharedMessage,
        /// Why.
        reason: DropReason,
    },
    /// A message that a client published goes nowhere: the client may not publish it, a limit is reached, or a hook has
    /// refused it.
    Denied {
        /// Who published it.
        client: Arc<ClientInfo>,
        /// The topic.
        topic: Arc<str>,
        /// Why. Before 5.0, and at QoS 0, the client is not told.
        reason: ReasonCode,
    },
    /// A message that was published at QoS 1 or 2 waits in streams for sessions that outlive their connections, whether
    /// their clients are there or away. Told once a message, not once a session: see
    /// [`Tenant::away`](crate::Tenant::away) for who is away.
    Kept {
        /// The message.
        message: SharedMessage,
        /// The filters that the sessions have subscribed to.
        filters: Arc<[Filter]>,
    },
    /// What clients may do was looked up once more for all who are connected, because accounts have changed.
    Reloaded,
    /// A retained message came, went or was sent.
    Retained(RetainedChange),
    /// A message of QoS 1 or 2 is on its way to a client, or has arrived.
    InFlight {
        /// The client.
        client: Arc<ClientInfo>,
        /// Its packet identifier.
        packet_id: PacketId,
        /// What.
        change: FlightChange,
    },
    /// All 65,535 packet identifiers of a client are in use, so that a message had to wait.
    PacketIdsExhausted {
        /// The client.
        client: Arc<ClientInfo>,
    },
    /// A will was published.
    WillSent {
        /// Whose.
        client_id: Arc<str>,
        /// The message.
        message: SharedMessage,
    },
}

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionChange {
    /// It is new.
    Created,
    /// Its client came back to it.
    Resumed,
    /// Another connection took it while the old one was there.
    TakenOver,
    /// Its client wanted a new one.
    Discarded,
    /// Its client did not come back in time.
    Expired,
    /// It ended with its connection.
    Ended,
}

/// What happened to a retained message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RetainedChange {
    /// It is its topic's last value.
    Set(SharedMessage),
    /// A topic has none any more.
    Cleared(Subject),
    /// It has expired.
    Expired(Subject),
    /// It was sent to a new subscriber.
    Sent(Arc<ClientInfo>, SharedMessage),
}

/// What happened to a message in flight.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FlightChange {
    /// It was sent.
    Sent(SharedMessage),
    /// It was sent again, on a new connection.
    Resent(SharedMessage),
    /// The client has it: PUBACK, PUBCOMP, or a PUBREC that says no.
    Completed,
    /// It could not be sent on this connection, and is given up.
    Dropped(DropReason),
}

impl Event {
    /// The point that it belongs to.
    #[must_use]
    pub fn point(&self) -> Points {
        match self {
            Event::Started | Event::Stopped => Points::LIFE,
            Event::Tick(_) => Points::TICK,
            Event::Refused { .. } => Points::REFUSED,
            Event::Established { .. } => Points::ESTABLISHED,
            Event::Disconnected { .. } => Points::DISCONNECTED,
            Event::Session { .. } => Points::SESSION,
            Event::PacketProcessed { .. } => Points::PACKET_PROCESSED,
            Event::Subscribed { .. } => Points::SUBSCRIBED,
            Event::Unsubscribed { .. } => Points::UNSUBSCRIBED,
            Event::Published { .. } => Points::PUBLISHED,
            Event::Dropped { .. } => Points::DROPPED,
            Event::Denied { .. } => Points::DENIED,
            Event::Kept { .. } => Points::KEPT,
            Event::Reloaded => Points::RELOADED,
            Event::Retained(_) => Points::RETAINED,
            Event::InFlight { .. } => Points::IN_FLIGHT,
            Event::PacketIdsExhausted { .. } => Points::PACKET_IDS_EXHAUSTED,
            Event::WillSent { .. } => Points::WILL_SENT,
        }
    }
}

/// The events of some points, in the order in which they happened at each of them. Ends when dropped.
pub struct Events {
    received: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
    hooks: Arc<Hooks>,
    hook: HookId,
}

/// The hook behind it.
struct Tap {
    points: Points,
    sender: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Hook for Tap {
    fn name(&self) -> &str {
        "events"
    }

    fn points(&self) -> Points {
        self.points
    }

    fn notify(&self, event: &Event) {
        if self.sender.try_send(event.clone()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Events {
    pub(super) fn open(hooks: &Arc<Hooks>, points: Points, capacity: usize) -> Self {
        let (sender, received) = mpsc::channel(capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let tap = Tap {
            points: points.common(Points::EVENTS),
            sender,
            dropped: Arc::clone(&dropped),
        };
        // Last: it sees what the others have made of things.
        let hook = hooks.add(Arc::new(tap), i32::MAX, Scope::Everywhere);
        Events {
            received,
            dropped,
            hooks: Arc::clone(hooks),
            hook,
        }
    }

    /// The next event; waits for it. Needs no particular runtime.
    pub async fn recv(&mut self) -> Option<Event> {
        self.received.recv().await
    }

    /// The next event that is there.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.received.try_recv().ok()
    }

    /// Waits for the next event on a thread that may block. Not from an async context.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        self.received.blocking_recv()
    }

    /// Events that did not fit since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hooks.remove(self.hook);
    }
}
