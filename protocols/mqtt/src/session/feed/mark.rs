//! Where a message of a stream came from, and the number that is left on it while it is in flight.

use longtail_engine::Handle;
use longtail_model::{GroupId, Seq};

use crate::codec::{PacketId, Qos};
use crate::session::outbound::Stage;

/// How often a share's message is delivered before a member that cannot have it takes it for delivered: by then every
/// other has had its turn.
const REFUSALS_MAX: u32 = 100;

/// Where a message that is on its way came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(in crate::session) group: GroupId,
    pub(in crate::session) seq: Seq,
    /// Whether the group is a share's.
    pub(in crate::session) is_shared: bool,
    /// How often it was delivered before.
    pub(in crate::session) redeliveries: u32,
}

impl Source {
    /// The message of a share with this number.
    #[cfg(test)]
    pub(in crate::session) fn of_share(seq: u64) -> Self {
        Source {
            group: GroupId(1),
            seq: Seq(seq),
            is_shared: true,
            redeliveries: 0,
        }
    }

    pub(super) fn handle(self) -> Handle {
        Handle::Group(self.group, self.seq)
    }

    /// Whether a message that this client cannot have goes to another member of its share.
    pub(in crate::session) fn is_given_back(self) -> bool {
        self.is_shared && self.redeliveries < REFUSALS_MAX
    }
}

/// The number that is left on a message: place in the order of sends, stage and QoS, packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::session) struct Mark {
    pub(in crate::session) send: u64,
    pub(in crate::session) stage: Stage,
    /// At which it was sent, 1 or 2, whatever the subscription says by now.
    pub(in crate::session) qos: Qos,
    pub(in crate::session) id: PacketId,
}

const STAGE_SHIFT: u32 = 16;
pub(super) const SEND_SHIFT: u32 = 18;

impl Mark {
    pub(super) fn pack(self) -> u64 {
        let stage: u64 = match (self.stage, self.qos) {
            (Stage::Sent, Qos::AtMostOnce | Qos::AtLeastOnce) => 1,
            (Stage::Released, _) => 2,
            (Stage::Sent, Qos::ExactlyOnce) => 3,
        };
        self.send << SEND_SHIFT | stage << STAGE_SHIFT | u64::from(self.id.get())
    }

    pub(super) fn unpack(mark: u64) -> Option<Self> {
        let (stage, qos) = match mark >> STAGE_SHIFT & 3 {
            1 => (Stage::Sent, Qos::AtLeastOnce),
            2 => (Stage::Released, Qos::ExactlyOnce),
            3 => (Stage::Sent, Qos::ExactlyOnce),
            _ => return None,
        };
        Some(Mark {
            send: mark >> SEND_SHIFT,
            stage,
            qos,
            id: PacketId::new((mark & 0xFFFF) as u16)?,
        })
    }
}

/// The packet id and the QoS of a message that was sent, as its mark says; nothing of one that was not, or whose PUBLISH
/// has arrived.
pub(crate) fn sent_mark(mark: u64) -> Option<(PacketId, Qos)> {
    let mark = Mark::unpack(mark)?;
    Some((mark.id, mark.qos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_marks_sort_by_sends() {
        let mark = |send, stage, id| Mark {
            send,
            stage,
            qos: Qos::ExactlyOnce,
            id: PacketId::new(id).unwrap(),
        };
        let first = mark(1, Stage::Released, 65_535);
        let second = mark(2, Stage::Sent, 1);
        let at_qos_1 = Mark {
            qos: Qos::AtLeastOnce,
            ..second
        };
        let last = mark((1 << 46) - 1, Stage::Sent, 7);
        for mark in [first, second, at_qos_1, last] {
            assert_eq!(Mark::unpack(mark.pack()), Some(mark));
            assert_ne!(mark.pack(), 0);
        }
        assert!(first < second);
        assert!(first.pack() < second.pack());
        assert_eq!(Mark::unpack(0), None);
        assert_eq!(Mark::unpack(1), None);
    }
}
