//! Which differences between two brokers are expected: everything else is one.
//!
//! | what | why |
//! |---|---|
//! | packet ids that the server chooses | any unused id will do: answers go to each server with its own |
//! | order of packets of different kinds, and of retained messages | not a rule; messages of one topic are compared in order |
//! | PINGRESP | what the harness itself asks for |
//! | properties of messages | topic aliases and the like are choices; the conformance suite compares them |
//! | overlapping subscriptions | Mosquitto sends a copy each, Longtail merges them: equal copies of a message count once, at the highest QoS |
//! | PUBREL | one for each copy: the conformance suite counts them |
//! | reason codes of PUBACK below 0x80 | 0x10 may be told by either |
//! | UNSUBACK 0x11 | 2.0.11 does not say that there was no such subscription |
//! | no local, retain handling, retain as published | where filters overlap, Mosquitto 2.0.11 goes by one of them: not generated |
//! | shared subscriptions | whose turn it is is not a rule: not generated |
//! | malformed packets | 2.0.11 differs in half of the cases: not generated (the conformance suite has them) |
//! | wills, expiry, takeover | they depend on the clock: not generated |

use std::collections::BTreeMap;

use crate::mqtt::{Ack, Packet, Publish};

/// What one client was sent, in a form that can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Answers in order.
    answers: Vec<String>,
    /// Messages of each topic in order: payload, retain, and the highest QoS of its copies.
    messages: BTreeMap<String, Vec<(Vec<u8>, bool, u8)>>,
}

/// Puts what one client was sent by one step into that form.
pub(super) fn sent(packets: &[Packet]) -> Sent {
    let mut out = Sent::default();
    for packet in packets {
        match packet {
            Packet::Pingresp
            | Packet::Ack {
                kind: Ack::Pubrel, ..
            } => {}
            Packet::Publish(message) => add(&mut out, message),
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
    out
}

/// Adds a message, or the QoS of another copy of one that is there.
fn add(out: &mut Sent, message: &Publish) {
    let of_topic = out.messages.entry(message.topic.clone()).or_default();
    match of_topic
        .iter_mut()
        .find(|(payload, retain, _)| *payload == message.payload && *retain == message.retain)
    {
        Some(copy) => copy.2 = copy.2.max(message.qos),
        None => of_topic.push((message.payload.clone(), message.retain, message.qos)),
    }
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
    fn copies_and_ids_are_no_difference() {
        let merged = [message(b"x", 2, 7)];
        let twice = [message(b"x", 1, 1), Packet::Pingresp, message(b"x", 2, 2)];
        assert_eq!(sent(&merged), sent(&twice));
    }

    #[test]
    fn real_differences() {
        assert_ne!(sent(&[message(b"x", 1, 1)]), sent(&[message(b"x", 2, 1)]));
        assert_ne!(sent(&[message(b"x", 1, 1)]), sent(&[]));
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
