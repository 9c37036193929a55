//! What is in flight and has no subscription to come from any more.
//!
//! A message that was sent has to be completed, whatever becomes of its subscription (MQTT 5.0, 3.10.4). Its place in
//! the group of a stream keeps it only as long as there is the group. So what is in flight when the group goes becomes
//! the session's own: it stays in its [`State`], and a record says so, under its packet id. A share's message is that
//! from PUBREC on in any case, as a [`Duty`](super::feed::Duty).
//!
//! ```text
//! UNSUBSCRIBE ──▶ Keep (PUBLISH) ──▶ Ack in the group ──▶ the group goes
//! PUBREC ───────▶ Keep (PUBREL) ──▶ PUBREL
//! PUBACK, PUBCOMP ──▶ Forget
//! ```
//!
//! The record is written before the group is told, by the same shard: a crash in between leaves both, and the session
//! that comes back finds that they are the same.

use std::num::NonZeroU32;
use std::sync::Arc;

use longtail_broker::message::SharedMessage;
use longtail_engine::Refusal;
use longtail_model::Seq;

use super::feed::Source;
use super::outbound::{Copy, Ids, Kept};
use super::{Outbox, Session, State};
use crate::codec::{Ack, Packet, PacketId, Qos};

/// A message in flight as a record keeps it.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) id: PacketId,
    /// Its place in the order of sends.
    pub(crate) send: u64,
    /// What was sent; `None`: PUBREL, and nothing else is needed any more.
    pub(crate) sent: Option<Sent>,
    pub(crate) origin: Option<Origin>,
}

/// What a PUBLISH was made of.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) message: SharedMessage,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// Of the subscriptions that it was for.
    pub(crate) ids: Vec<NonZeroU32>,
}

/// The place in a share that a message has left: as long as the share has not heard of that, it is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The text of the subscription.
    pub(crate) text: Arc<str>,
    pub(crate) seq: Seq,
}

/// A change of the records.
#[derive(Debug)]
pub(crate) enum Write {
    /// A message is in flight; with `release`, PUBREL follows when that is durable: [`Session::kept`].
    Keep {
        flight: Box<InFlight>,
        release: bool,
    },
    /// The message under this id is not any more.
    Forget(PacketId),
}

impl Sent {
    pub(super) fn of(copy: &Copy) -> Self {
        Sent {
            message: SharedMessage::clone(&copy.message),
            qos: copy.qos,
            retain: copy.retain,
            ids: copy.ids.as_slice().to_vec(),
        }
    }

    pub(super) fn into_copy(self) -> Copy {
        let mut ids = Ids::None;
        for id in self.ids {
            ids.push(Some(id));
        }
        Copy {
            message: self.message,
            qos: self.qos,
            retain: self.retain,
            ids,
            source: None,
        }
    }
}

impl State {
    /// What was found in flight when the process started.
    pub(crate) fn restore_in_flight(&mut self, flight: InFlight) {
        self.outbound.restore(flight);
    }

    /// The packet ids that records are under.
    pub(crate) fn kept(&self) -> Vec<PacketId> {
        self.outbound.kept_ids()
    }
}

impl Session {
    /// The subscription has ended, or has come down to QoS 0. What is in flight for it is completed all the same; what
    /// was not sent yet is not sent.
    pub(crate) fn part_with(&mut self, text: &str) {
        let is_lasting = self.is_lasting();
        let Some(feed) = self.feed.as_deref_mut() else {
            return;
        };
        // One that ends with its connection finishes what it holds from the share.
        for group in feed.groups_of(text).into_iter().filter(|_| is_lasting) {
            let outbound = &mut self.state.outbound;
            for source in outbound.take_waiting(group) {
                if source.is_shared {
                    feed.give_back(source);
                }
            }
            for (id, source) in outbound.of_group(group) {
                let origin = origin_of(text, source);
                outbound.part(id, feed.keeps().then_some(Kept { origin }));
                if let Some(flight) = outbound.record_of(id) {
                    feed.write(Write::Keep {
                        flight: Box::new(flight),
                        release: false,
                    });
                }
                feed.ack(source);
            }
        }
        feed.leave(text, is_lasting);
    }

    /// PUBREC has come for a message that is the session's own: PUBREL follows when that is written down. `false`: no
    /// record says that it is in flight, and none has to.
    pub(super) fn keep_released(&mut self, id: PacketId) -> bool {
        let Some(feed) = self.feed.as_deref_mut() else {
            return false;
        };
        let Some(flight) = self.state.outbound.record_of(id) else {
            return false;
        };
        feed.write(Write::Keep {
            flight: Box::new(flight),
            release: true,
        });
        true
    }

    /// The record of a message whose PUBREC has come is durable, or was refused: then the client hears of it when it
    /// comes back.
    pub(crate) fn kept(&self, id: PacketId, outcome: &Result<(), Refusal>, out: &mut impl Outbox) {
        match outcome {
            Ok(()) if self.is_open() => self.say(&Packet::Pubrel(Ack::success(id)), out),
            Ok(()) => {}
            Err(refusal) => {
                tracing::warn!(client = %self.hello.client_id, %refusal, "a PUBREC is not written down");
            }
        }
    }
}

/// Where a message was, if it may still be there when the session comes back to its subscriptions.
pub(super) fn origin_of(text: &str, source: Source) -> Option<Origin> {
    source.is_shared.then(|| Origin {
        text: text.into(),
        seq: source.seq,
    })
}
