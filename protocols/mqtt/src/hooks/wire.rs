//! Packets on their way in and out, where hooks look at them.

use std::sync::Arc;

use bytes::Bytes;

use super::verdict::Outcome;
use super::{ClientInfo, Event, Points};
use crate::codec::{Decoder, Packet, ReasonCode, Version};
use crate::session::{Action, Cx, Goodbye, Next, Outbox, Session};

/// Points at which a packet that came in is looked at.
const READING: Points = Points::PACKET_READ
    .and(Points::AUTH_PACKET)
    .and(Points::PACKET_PROCESSED);

/// Points at which a packet that goes out is looked at.
pub(crate) const WRITING: Points = Points::PACKET_ENCODE.and(Points::PACKET_SENT);

/// Has the session carry out a packet, as hooks want it.
#[inline]
pub(crate) fn input(
    session: &mut Session,
    decoder: &mut Decoder,
    packet: &Packet<'_>,
    cx: &Cx<'_>,
    actions: &mut Vec<Action>,
    out: &mut impl Outbox,
) -> Next {
    match session.hooked().wants(READING) {
        None => session.input(packet, cx, actions, out),
        Some(client) => {
            let client = Arc::clone(client);
            hooked_input(&client, session, decoder, packet, cx, actions, out)
        }
    }
}

#[cold]
fn hooked_input(
    client: &Arc<ClientInfo>,
    session: &mut Session,
    decoder: &mut Decoder,
    packet: &Packet<'_>,
    cx: &Cx<'_>,
    actions: &mut Vec<Action>,
    out: &mut impl Outbox,
) -> Next {
    let next = match client.read(packet, decoder) {
        Outcome::AsItWas => session.input(packet, cx, actions, out),
        Outcome::Changed(bytes) => match decoder.decode(&bytes) {
            Ok(Some(decoded)) if decoded.consumed == bytes.len() => {
                session.input(&decoded.packet, cx, actions, out)
            }
            _ => {
                tracing::error!(client = %client.id, "what a hook put in place of a packet is none");
                let reason = ReasonCode::ImplementationSpecificError;
                session.disconnect(reason, "a packet of a hook that is none", cx.limits, out)
            }
        },
        Outcome::Rejected(_) | Outcome::Ignored => return Next::Read,
        Outcome::Disconnected(reason) => {
            session.disconnect(reason, "disconnected by a hook", cx.limits, out)
        }
    };
    client.chain().tell(Points::PACKET_PROCESSED, || {
        let broken = match &next {
            Next::Close(Goodbye::Broken(reason, _)) => Some(*reason),
            _ => None,
        };
        Event::PacketProcessed {
            client: Arc::clone(client),
            packet: packet.packet_type(),
            broken,
        }
    });
    next
}

/// Writes a packet, as hooks want it.
#[cold]
pub(crate) fn say(
    client: &ClientInfo,
    packet: &Packet<'_>,
    version: Version,
    out: &mut impl Outbox,
) {
    let bytes = match client.encode(packet) {
        Outcome::AsItWas => {
            let mut bytes = Vec::new();
            if let Err(error) = packet.encode(version, &mut bytes) {
                tracing::error!(%error, "a packet cannot be written");
                return;
            }
            bytes
        }
        Outcome::Changed(bytes) => bytes,
        Outcome::Rejected(_) | Outcome::Ignored | Outcome::Disconnected(_) => return,
    };
    out.tail().extend_from_slice(&bytes);
    client.sent(&bytes);
}

/// Writes with `write` into the outbox and shows hooks the bytes.
#[cold]
pub(crate) fn put<E>(
    client: &ClientInfo,
    out: &mut impl Outbox,
    write: impl FnOnce(&mut Whole) -> Result<(), E>,
) -> Result<(), E> {
    let mut whole = Whole::default();
    write(&mut whole)?;
    out.tail().extend_from_slice(&whole.0);
    client.sent(&whole.0);
    Ok(())
}

/// Bytes that stay in one piece.
#[derive(Default)]
pub(crate) struct Whole(Vec<u8>);

impl Outbox for Whole {
    fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    fn put_shared(&mut self, bytes: Bytes) {
        self.0.extend_from_slice(&bytes);
    }

    fn is_full(&self) -> bool {
        false
    }

    fn has_room(&self, _bytes: usize) -> bool {
        true
    }

    fn ask_for_room(&mut self) {}
}
