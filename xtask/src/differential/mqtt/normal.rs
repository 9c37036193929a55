//! Which differences between two brokers are expected: everything else is one.
//!
//! | what | why |
//! |---|---|
//! | packet ids that the server chooses | any unused id will do: answers go to each server with its own |
//! | order of packets of different kinds, of retained messages, and between subscriptions | not a rule: of each topic, the first copies of its messages are compared in order |
//! | DUP | whether a message had left for a connection that was cut is a matter of time; the conformance suite has it |
//! | reason codes of PUBACK below 0x80 | 0x10 may be told by either |
//! | UNSUBACK 0x11 | 2.0.11 does not say that there was no such subscription |
//! | a will at a takeover | a choice (`mqtt.will_at_takeover`): such clients leave none |
//! | shared subscriptions | whose turn it is is not a rule: each share has one member |
//! | receive maximum | which message is first when there is room again is not a rule: the window is as large as it gets |
//! | malformed packets | 2.0.11 differs in half of the cases: only those that end a connection with both, and not the reason |
//! | subscription identifiers of what a session is sent when it is resumed | 2.0.11 tells those that the subscription had when the message came, Longtail those it has now; 5.0 does not say which |
//! | order at a resumption, of topics of which a message comes more than once | Longtail sends again what is in flight of one subscription, then that of the next, 2.0.11 in the order of packet ids; 4.6 orders neither |
//! | delays of wills, expiry by time | they depend on the clock: expiry is 0 or longer than the test |

use std::collections::BTreeMap;

use crate::mqtt::{Packet, Publish};

/// What one client was sent, in a form that can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Answers, sorted.
    answers: Vec<String>,
    topics: BTreeMap<String, Topic>,
}

/// The messages of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Topic {
    /// Every copy, sorted: payload, retain, QoS, properties.
    copies: Vec<(String, bool, u8, Vec<u8>)>,
    /// The messages that are no retained ones, in the order of their first copies.
    order: Vec<String>,
}

/// Puts what one client was sent by one step into that form.
pub(super) fn sent(packets: &[Packet]) -> Sent {
    let mut out = Sent::default();
    let is_resumed = packets
        .iter()
        .any(|packet| matches!(packet, Packet::Connack { .. }));
    for packet in packets {
        match packet {
            Packet::Pingresp => {}
            Packet::Publish(message) => add(&mut out, message, is_resumed),
            Packet::Ack { kind, code, .. } => {
                let code = if *code < 0x80 { 0 } else { *code };
                out.answers.push(format!("{kind:?} {code:#x}"));
            }
            Packet::Connack { present, code } => {
                out.answers.push(format!("CONNACK {present} {code}"));
            }
            Packet::Suback { codes, .. } => out.answers.push(format!("SUBACK {codes:?}")),
            Packet::Unsuback { codes, .. } => {
                let codes: Vec<u8> = (codes.iter())
                    .map(|code| if *code == 0x11 { 0 } else { *code })
                    .collect();
                out.answers.push(format!("UNSUBACK {codes:?}"));
            }
            Packet::Disconnect { code } => out.answers.push(format!("DISCONNECT {code:#x}")),
        }
    }
    out.answers.sort_unstable();
    for topic in out.topics.values_mut() {
        topic.copies.sort_unstable();
        if is_resumed && topic.order.len() < topic.copies.len() {
            topic.order.clear();
        }
    }
    out
}

fn add(out: &mut Sent, message: &Publish, is_resumed: bool) {
    let topic = out.topics.entry(message.topic.clone()).or_default();
    let payload = String::from_utf8_lossy(&message.payload).into_owned();
    if !message.retain && !topic.order.contains(&payload) {
        topic.order.push(payload.clone());
    }
    // The only ones that there are are identifiers.
    let properties = if is_resumed {
        Vec::new()
    } else {
        message.properties.clone()
    };
    topic
        .copies
        .push((payload, message.retain, message.qos, properties));
}

#[cfg(test)]
mod tests {
    use super::sent;
    use crate::mqtt::{Ack, Packet, Publish};

    fn message(payload: &[u8], qos: u8, id: u16) -> Packet {
        Packet::Publish(Publish {
            topic: "t".to_owned(),
            payload: payload.to_vec(),
            qos,
            id,
            retain: false,
            dup: false,
            properties: Vec::new(),
        })
    }

    #[test]
    fn ids_and_the_order_of_copies_are_no_difference() {
        let (x, y) = (message(b"x", 1, 1), message(b"y", 1, 2));
        let other = message(b"x", 1, 7);
        assert_eq!(
            sent(&[x.clone(), Packet::Pingresp, y.clone(), other.clone()]),
            sent(&[other, x, y])
        );
    }

    #[test]
    fn of_a_resumed_session_identifiers_and_order_between_subscriptions_are_no_difference() {
        let connack = Packet::Connack {
            present: true,
            code: 0,
        };
        let (x, y) = (message(b"x", 1, 1), message(b"y", 1, 2));
        let named = |packet: &Packet, identifier| match packet.clone() {
            Packet::Publish(message) => Packet::Publish(Publish {
                properties: vec![11, identifier],
                ..message
            }),
            other => other,
        };
        let (a, b) = (named(&x, 1), named(&x, 2));
        let resumed = |packets: &[&Packet]| {
            let packets = packets.iter().copied().cloned();
            sent(
                &std::iter::once(connack.clone())
                    .chain(packets)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(resumed(&[&a, &y]), resumed(&[&b, &y]));
        assert_eq!(resumed(&[&a, &y, &b, &y]), resumed(&[&y, &a, &y, &b]));
        assert_ne!(resumed(&[&a, &y]), resumed(&[&y, &a]), "each came once");
        assert_ne!(
            resumed(&[&a, &y, &b]),
            resumed(&[&a, &y]),
            "a copy is missing"
        );
        assert_ne!(sent(&[a]), sent(&[b]), "not resumed");
    }

    #[test]
    fn real_differences() {
        assert_ne!(sent(&[message(b"x", 1, 1)]), sent(&[message(b"x", 2, 1)]));
        assert_ne!(sent(&[message(b"x", 1, 1)]), sent(&[]));
        assert_ne!(
            sent(&[message(b"x", 1, 1)]),
            sent(&[message(b"x", 1, 1), message(b"x", 1, 2)])
        );
        assert_ne!(
            sent(&[message(b"x", 0, 0), message(b"y", 0, 0)]),
            sent(&[message(b"y", 0, 0), message(b"x", 0, 0)])
        );
        let ack = |kind, code| Packet::Ack { kind, id: 1, code };
        assert_ne!(sent(&[ack(Ack::Puback, 0)]), sent(&[ack(Ack::Pubrec, 0)]));
        assert_ne!(
            sent(&[ack(Ack::Puback, 0)]),
            sent(&[ack(Ack::Puback, 0x87)])
        );
        assert_eq!(
            sent(&[ack(Ack::Puback, 0)]),
            sent(&[ack(Ack::Puback, 0x10)])
        );
    }
}
