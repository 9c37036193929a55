//! The points at which a hook can be asked or told, as a set.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of hook points. A hook is only called at those that it names, and a point that no hook names costs a load and
/// a branch.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Points(u64);

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Points {
            $($(#[$doc])* pub const $name: Points = Points(1 << $bit);)*

            /// Every point with its name.
            const NAMES: &'static [(&'static str, Points)] = &[$((stringify!($name), Points::$name),)*];

            /// Every point.
            pub const ALL: Points = Points($(1 << $bit)|*);
        }
    };
}

points! {
    /// [`Event::Started`](super::Event::Started), [`Event::Stopped`](super::Event::Stopped).
    LIFE = 0;
    /// [`Event::Tick`](super::Event::Tick), about once a second.
    TICK = 1;
    /// [`Hook::connect`](super::Hook::connect).
    CONNECT = 2;
    /// [`Hook::authenticate`](super::Hook::authenticate).
    AUTHENTICATE = 3;
    /// [`Hook::authorize`](super::Hook::authorize).
    AUTHORIZE = 4;
    /// [`Hook::packet_read`](super::Hook::packet_read).
    PACKET_READ = 5;
    /// [`Hook::packet_encode`](super::Hook::packet_encode).
    PACKET_ENCODE = 6;
    /// [`Hook::packet_sent`](super::Hook::packet_sent).
    PACKET_SENT = 7;
    /// [`Event::PacketProcessed`](super::Event::PacketProcessed).
    PACKET_PROCESSED = 8;
    /// [`Hook::subscribe`](super::Hook::subscribe).
    SUBSCRIBE = 9;
    /// [`Event::Subscribed`](super::Event::Subscribed).
    SUBSCRIBED = 10;
    /// [`Hook::unsubscribe`](super::Hook::unsubscribe).
    UNSUBSCRIBE = 11;
    /// [`Event::Unsubscribed`](super::Event::Unsubscribed).
    UNSUBSCRIBED = 12;
    /// [`Hook::publish`](super::Hook::publish).
    PUBLISH = 13;
    /// [`Event::Published`](super::Event::Published).
    PUBLISHED = 14;
    /// [`Hook::deliver`](super::Hook::deliver).
    DELIVER = 15;
    /// [`Event::Dropped`](super::Event::Dropped).
    DROPPED = 16;
    /// [`Event::Retained`](super::Event::Retained).
    RETAINED = 17;
    /// [`Event::InFlight`](super::Event::InFlight).
    IN_FLIGHT = 18;
    /// [`Event::PacketIdsExhausted`](super::Event::PacketIdsExhausted).
    PACKET_IDS_EXHAUSTED = 19;
    /// [`Hook::will`](super::Hook::will).
    WILL = 20;
    /// [`Event::WillSent`](super::Event::WillSent).
    WILL_SENT = 21;
    /// [`Event::Session`](super::Event::Session).
    SESSION = 22;
    /// [`Event::Established`](super::Event::Established).
    ESTABLISHED = 23;
    /// [`Event::Disconnected`](super::Event::Disconnected).
    DISCONNECTED = 24;
    /// [`Hook::auth_packet`](super::Hook::auth_packet).
    AUTH_PACKET = 25;
    /// [`Event::Refused`](super::Event::Refused).
    REFUSED = 26;
    /// [`Event::Denied`](super::Event::Denied).
    DENIED = 27;
    /// [`Hook::select`](super::Hook::select).
    SELECT = 28;
    /// [`Event::Kept`](super::Event::Kept).
    KEPT = 29;
    /// [`Event::Reloaded`](super::Event::Reloaded).
    RELOADED = 30;
    /// [`Hook::permit`](super::Hook::permit).
    PERMIT = 31;
}

impl Points {
    /// No point.
    pub const NONE: Points = Points(0);

    /// The points of which there are [events](super::Event).
    pub const EVENTS: Points = Points(
        Points::LIFE.0
            | Points::TICK.0
            | Points::PACKET_PROCESSED.0
            | Points::SUBSCRIBED.0
            | Points::UNSUBSCRIBED.0
            | Points::PUBLISHED.0
            | Points::DROPPED.0
            | Points::RETAINED.0
            | Points::IN_FLIGHT.0
            | Points::PACKET_IDS_EXHAUSTED.0
            | Points::WILL_SENT.0
            | Points::SESSION.0
            | Points::ESTABLISHED.0
            | Points::DISCONNECTED.0
            | Points::REFUSED.0
            | Points::DENIED.0
            | Points::KEPT.0
            | Points::RELOADED.0,
    );

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Points) -> Points {
        Points(self.0 | others.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn common(self, others: Points) -> Points {
        Points(self.0 & others.0)
    }

    /// Whether the two have a point in common.
    #[must_use]
    pub const fn meets(self, others: Points) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn from_bits(bits: u64) -> Points {
        Points(bits)
    }
}

impl BitOr for Points {
    type Output = Points;

    fn bitor(self, others: Points) -> Points {
        self.and(others)
    }
}

impl BitOrAssign for Points {
    fn bitor_assign(&mut self, others: Points) {
        *self = self.and(others);
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Points::NAMES.iter();
        f.debug_set()
            .entries(
                names
                    .filter(|(_, point)| self.meets(*point))
                    .map(|(name, _)| name),
            )
            .finish()
    }
}
