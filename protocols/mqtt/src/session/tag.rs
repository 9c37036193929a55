//! What the router keeps for a subscription, packed into [`LiveOptions::tag`](longtail_broker::ephemeral::LiveOptions).

use std::num::NonZeroU32;

use longtail_broker::auth::Manner;

use crate::codec::Qos;
use crate::message::quality;

/// How the messages of one subscription are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// Highest QoS.
    pub qos: Qos,
    /// Whether the retain flag of what is forwarded is kept.
    pub retain_as_published: bool,
    /// Whether each message has to be asked about: some of what the filter matches is not allowed.
    pub screened: bool,
    /// Whether what was published at a lower QoS is sent at this one all the same.
    pub upgraded: bool,
    /// Its identifier.
    pub id: Option<NonZeroU32>,
}

const RETAIN: u64 = 1 << 2;
const SCREENED: u64 = 1 << 3;
const UPGRADED: u64 = 1 << 4;
const ID_SHIFT: u32 = 32;

impl Tag {
    /// As a number.
    #[must_use]
    pub fn pack(self) -> u64 {
        let flag = |on, bit| if on { bit } else { 0 };
        u64::from(self.qos.bits())
            | flag(self.retain_as_published, RETAIN)
            | flag(self.screened, SCREENED)
            | flag(self.upgraded, UPGRADED)
            | u64::from(self.id.map_or(0, NonZeroU32::get)) << ID_SHIFT
    }

    /// How it wants messages, for rules that depend on it.
    #[must_use]
    pub fn manner(self) -> Manner {
        Manner::of_subscription(quality(self.qos))
    }

    /// From the number.
    #[must_use]
    pub fn unpack(packed: u64) -> Self {
        Tag {
            qos: Qos::from_bits((packed & 3) as u8).unwrap_or_default(),
            retain_as_published: packed & RETAIN != 0,
            screened: packed & SCREENED != 0,
            upgraded: packed & UPGRADED != 0,
            id: NonZeroU32::new((packed >> ID_SHIFT) as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for bits in 0..8 {
                for id in [0, 1, 268_435_455] {
                    let tag = Tag {
                        qos,
                        retain_as_published: bits & 1 != 0,
                        screened: bits & 2 != 0,
                        upgraded: bits & 4 != 0,
                        id: NonZeroU32::new(id),
                    };
                    assert_eq!(Tag::unpack(tag.pack()), tag);
                }
            }
        }
    }
}
