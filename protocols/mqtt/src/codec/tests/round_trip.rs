//! Whatever packet is encoded decodes to the same, in every version and both directions.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fuzz;
use super::super::{
    Ack, AckProperties, Auth, AuthProperties, Connack, ConnackProperties, Connect,
    ConnectProperties, Decoder, Disconnect, DisconnectProperties, MessageProperties, Packet,
    PacketId, PacketLimits, PacketType, Publish, PublishProperties, Qos, ReasonCode,
    RetainHandling, ReturnCode, Sender, Suback, Subscribe, SubscribeProperties, Subscription,
    SubscriptionOptions, Unsuback, Unsubscribe, UserPropertiesBuf, Version, Will, WillProperties,
};

/// What a packet is made of. Everything optional is there if the next bit of `bits` is set.
#[derive(Clone, Debug)]
struct Parts {
    bits: u64,
    texts: Vec<String>,
    topic: String,
    filters: Vec<String>,
    binary: Vec<u8>,
    numbers: [u32; 4],
    user: Vec<(String, String)>,
    ids: Vec<NonZeroU32>,
    codes: Vec<usize>,
}

fn parts() -> impl Strategy<Value = Parts> {
    let text = "[a-zü€𝄞 /]{0,9}";
    let filter = prop_oneof![
        Just("#".to_owned()),
        Just("a/+/b".to_owned()),
        Just("$share/g/a/#".to_owned()),
        "[a-z/$]{1,9}"
    ];
    (
        any::<u64>(),
        vec(text, 5),
        "[a-z/$ü]{1,9}",
        vec(filter, 1..4),
        vec(any::<u8>(), 0..300),
        any::<[u32; 4]>(),
        vec((text, text), 0..3),
        vec(
            (1..=268_435_455_u32).prop_filter_map("not 0", NonZeroU32::new),
            0..3,
        ),
        vec(any::<usize>(), 1..4),
    )
        .prop_map(
            |(bits, texts, topic, filters, binary, numbers, user, ids, codes)| Parts {
                bits,
                texts,
                topic,
                filters,
                binary,
                numbers,
                user,
                ids,
                codes,
            },
        )
}

struct Maker<'a> {
    parts: &'a Parts,
    user: &'a UserPropertiesBuf,
    version: Version,
    sender: Sender,
    bit: std::cell::Cell<u32>,
}

impl<'a> Maker<'a> {
    fn bit(&self) -> bool {
        let at = self.bit.get();
        self.bit.set(at + 1);
        self.parts.bits.rotate_right(at) & 1 == 1
    }

    fn maybe<T>(&self, value: T) -> Option<T> {
        self.bit().then_some(value)
    }

    fn text(&self, at: usize) -> &'a str {
        &self.parts.texts[at]
    }

    fn short(&self, at: usize) -> u16 {
        self.parts.numbers[at] as u16
    }

    fn v5(&self) -> bool {
        self.version.is_v5()
    }

    fn qos(&self) -> Qos {
        Qos::from_bits((self.parts.numbers[0] % 3) as u8).expect("below 3")
    }

    fn packet_id(&self) -> PacketId {
        PacketId::new(self.short(1)).unwrap_or(PacketId::MAX)
    }

    /// A reason that `packet` may carry.
    fn reason(&self, packet: PacketType, at: usize) -> ReasonCode {
        let legal: Vec<_> = ReasonCode::all()
            .filter(|reason| reason.is_legal(packet, self.sender))
            .filter(|reason| {
                self.v5() || reason.as_u8() <= 2 || *reason == ReasonCode::UnspecifiedError
            })
            .collect();
        let code = self.parts.codes[at % self.parts.codes.len()];
        if legal.is_empty() {
            return ReasonCode::Success;
        }
        legal[code % legal.len()]
    }

    fn reasons(&self, packet: PacketType) -> Vec<ReasonCode> {
        (0..self.parts.codes.len())
            .map(|at| self.reason(packet, at))
            .collect()
    }

    fn message(&self) -> MessageProperties<'a> {
        if !self.v5() {
            return MessageProperties::default();
        }
        MessageProperties {
            payload_is_utf8: self.maybe(self.bit()),
            expiry_s: self.maybe(self.parts.numbers[2]),
            content_type: self.maybe(self.text(0)),
            response_topic: self.maybe(&self.parts.topic),
            correlation_data: self.maybe(&self.parts.binary),
            user: self.user.as_properties(),
            encoded: &[],
        }
    }

    fn ack_properties(&self) -> AckProperties<'a> {
        if !self.v5() {
            return AckProperties::default();
        }
        AckProperties {
            reason_string: self.maybe(self.text(1)),
            user: self.user.as_properties(),
        }
    }

    fn ack(&self, packet: PacketType) -> Ack<'a> {
        Ack {
            packet_id: self.packet_id(),
            reason: if self.v5() {
                self.reason(packet, 0)
            } else {
                ReasonCode::Success
            },
            properties: self.ack_properties(),
        }
    }

    fn connect(&self) -> Connect<'a> {
        let clean_start = self.bit();
        let username = self.maybe(self.text(1));
        let method = self.maybe(self.text(2));
        let id = self.text(0);
        let needs_id = self.version == Version::V31 || !self.v5() && !clean_start;
        Connect {
            version: self.version,
            bridge: self.bit() && !self.v5(),
            clean_start,
            keep_alive_s: self.short(0),
            client_id: if id.is_empty() && needs_id { "id" } else { id },
            will: self.maybe(Will {
                topic: &self.parts.topic,
                payload: &self.parts.binary,
                qos: self.qos(),
                retain: self.bit(),
                properties: WillProperties {
                    delay_s: self.maybe(self.parts.numbers[3]).filter(|_| self.v5()),
                    message: self.message(),
                },
            }),
            username,
            password: self
                .maybe(self.parts.binary.as_slice())
                .filter(|_| self.v5() || username.is_some()),
            properties: if self.v5() {
                ConnectProperties {
                    session_expiry_s: self.maybe(self.parts.numbers[0]),
                    receive_maximum: NonZeroU16::new(self.short(1)),
                    maximum_packet_size: NonZeroU32::new(self.parts.numbers[2]),
                    topic_alias_maximum: self.maybe(self.short(3)),
                    request_response_information: self.maybe(self.bit()),
                    request_problem_information: self.maybe(self.bit()),
                    authentication_method: method,
                    authentication_data: method.map(|_| self.parts.binary.as_slice()),
                    user: self.user.as_properties(),
                }
            } else {
                ConnectProperties::default()
            },
        }
    }

    fn connack(&self) -> Connack<'a> {
        let code = ReturnCode::from_u8((self.parts.numbers[0] % 6) as u8).expect("below 6");
        let reason = if self.v5() {
            self.reason(PacketType::Connack, 0)
        } else {
            code.into()
        };
        Connack {
            session_present: self.bit()
                && reason == ReasonCode::Success
                && self.version != Version::V31,
            reason,
            properties: if self.v5() {
                ConnackProperties {
                    server_keep_alive_s: self.maybe(self.short(0)),
                    topic_alias_maximum: self.maybe(self.short(1)),
                    assigned_client_id: self.maybe(self.text(0)),
                    authentication_method: self.maybe(self.text(1)),
                    authentication_data: self.maybe(&self.parts.binary),
                    retain_available: self.maybe(self.bit()),
                    maximum_packet_size: NonZeroU32::new(self.parts.numbers[2]),
                    receive_maximum: NonZeroU16::new(self.short(3)),
                    maximum_qos: self
                        .maybe(self.qos())
                        .filter(|qos| *qos != Qos::ExactlyOnce),
                    session_expiry_s: self.maybe(self.parts.numbers[0]),
                    wildcard_subscription_available: self.maybe(self.bit()),
                    subscription_ids_available: self.maybe(self.bit()),
                    shared_subscription_available: self.maybe(self.bit()),
                    response_information: self.maybe(self.text(2)),
                    server_reference: self.maybe(self.text(3)),
                    reason_string: self.maybe(self.text(4)),
                    user: self.user.as_properties(),
                }
            } else {
                ConnackProperties::default()
            },
        }
    }

    fn publish(&self) -> Publish<'a> {
        let qos = self.qos();
        let assured = qos != Qos::AtMostOnce;
        let topic_alias = NonZeroU16::new(self.short(2)).filter(|_| self.v5() && self.bit());
        Publish {
            dup: assured && self.bit(),
            qos,
            retain: self.bit(),
            topic: if topic_alias.is_some() && self.bit() {
                ""
            } else {
                &self.parts.topic
            },
            packet_id: assured.then(|| self.packet_id()),
            properties: PublishProperties {
                message: self.message(),
                topic_alias,
                subscription_ids: if self.v5() && self.sender == Sender::Server {
                    self.parts.ids.as_slice().into()
                } else {
                    Default::default()
                },
            },
            payload: &self.parts.binary,
        }
    }

    fn subscribe(&self) -> Subscribe<'a> {
        let subscription = |filter: &'a String| {
            let v5 = self.v5();
            let options = SubscriptionOptions {
                qos: self.qos(),
                no_local: v5 && self.bit() && !filter.starts_with("$share"),
                retain_as_published: v5 && self.bit(),
                retain_handling: match self.parts.numbers[1] % 3 {
                    1 if v5 => RetainHandling::IfNew,
                    2 if v5 => RetainHandling::Never,
                    _ => RetainHandling::Always,
                },
            };
            Subscription { filter, options }
        };
        Subscribe {
            packet_id: self.packet_id(),
            properties: if self.v5() {
                SubscribeProperties {
                    subscription_id: self.parts.ids.first().copied(),
                    user: self.user.as_properties(),
                }
            } else {
                SubscribeProperties::default()
            },
            subscriptions: self.parts.filters.iter().map(subscription).collect(),
        }
    }

    fn packet(&self, packet: PacketType) -> Packet<'a> {
        match packet {
            PacketType::Connect => Packet::Connect(Box::new(self.connect())),
            PacketType::Connack => Packet::Connack(Box::new(self.connack())),
            PacketType::Publish => Packet::Publish(self.publish()),
            PacketType::Puback => Packet::Puback(self.ack(packet)),
            PacketType::Pubrec => Packet::Pubrec(self.ack(packet)),
            PacketType::Pubrel => Packet::Pubrel(self.ack(packet)),
            PacketType::Pubcomp => Packet::Pubcomp(self.ack(packet)),
            PacketType::Subscribe => Packet::Subscribe(self.subscribe()),
            PacketType::Suback => Packet::Suback(Suback {
                packet_id: self.packet_id(),
                properties: self.ack_properties(),
                reasons: self.reasons(packet),
            }),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
                packet_id: self.packet_id(),
                user: if self.v5() {
                    self.user.as_properties()
                } else {
                    Default::default()
                },
                filters: self.parts.filters.iter().map(String::as_str).collect(),
            }),
            PacketType::Unsuback => Packet::Unsuback(Unsuback {
                packet_id: self.packet_id(),
                properties: self.ack_properties(),
                reasons: if self.v5() {
                    self.reasons(packet)
                } else {
                    Vec::new()
                },
            }),
            PacketType::Pingreq => Packet::Pingreq,
            PacketType::Pingresp => Packet::Pingresp,
            PacketType::Disconnect if self.v5() => Packet::Disconnect(Disconnect {
                reason: self.reason(packet, 0),
                properties: DisconnectProperties {
                    session_expiry_s: self
                        .maybe(self.parts.numbers[0])
                        .filter(|_| self.sender == Sender::Client),
                    server_reference: self
                        .maybe(self.text(0))
                        .filter(|_| self.sender == Sender::Server),
                    reason_string: self.maybe(self.text(1)),
                    user: self.user.as_properties(),
                },
            }),
            PacketType::Disconnect => Packet::Disconnect(Disconnect {
                reason: ReasonCode::Success,
                properties: DisconnectProperties::default(),
            }),
            PacketType::Auth => Packet::Auth(Auth {
                reason: self.reason(packet, 0),
                properties: AuthProperties {
                    method: Some(self.text(0)),
                    data: self.maybe(&self.parts.binary),
                    reason_string: self.maybe(self.text(1)),
                    user: self.user.as_properties(),
                },
            }),
        }
    }
}

fn check(parts: &Parts, packet: PacketType, version: Version, sender: Sender) {
    let mut user = UserPropertiesBuf::new();
    for (key, value) in &parts.user {
        user.push(key, value).expect("short texts");
    }
    let maker = Maker {
        parts,
        user: &user,
        version,
        sender,
        bit: std::cell::Cell::new(0),
    };
    let made = maker.packet(packet);
    let mut out = Vec::new();
    made.encode(version, &mut out).expect("a valid packet");
    let fresh = if packet == PacketType::Connect {
        Decoder::for_server(PacketLimits::default())
    } else {
        Decoder::open(sender, version)
    };
    for cut in 0..out.len() {
        let decoded = fresh.clone().decode(&out[..cut]);
        assert_eq!(decoded, Ok(None), "{made:?}, {cut} bytes of {}", out.len());
    }
    let mut decoder = fresh.clone();
    let decoded = decoder.decode(&out);
    let decoded = decoded.unwrap_or_else(|error| panic!("{made:?}: {error}"));
    let decoded = decoded.expect("a whole packet");
    assert_eq!(decoded.packet, made);
    assert_eq!(decoded.consumed, out.len());
    assert_eq!(decoder.version(), Some(version));
    // Two in a row are two.
    let twice = [out.as_slice(), &out].concat();
    let first = fresh.clone().decode(&twice);
    assert_eq!(
        first.map(|found| found.map(|found| found.consumed)),
        Ok(Some(out.len()))
    );
    fuzz(&out);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_packet_decodes_to_what_was_encoded(parts in parts()) {
        for version in Version::ALL {
            for packet in PacketType::ALL {
                if packet == PacketType::Auth && !version.is_v5() {
                    continue;
                }
                for sender in [Sender::Client, Sender::Server] {
                    if packet.is_sent_by(sender) {
                        check(&parts, packet, version, sender);
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_keep_what_the_fuzzer_checks(bytes in vec(any::<u8>(), 0..200)) {
        fuzz(&bytes);
    }
}
