//! Packets whose bytes are known to the last one.

use std::num::{NonZeroU16, NonZeroU32};

use super::super::{
    Ack, AckProperties, Auth, AuthProperties, Connack, ConnackProperties, Connect,
    ConnectProperties, Disconnect, DisconnectProperties, EncodeError, MessageProperties, Packet,
    PacketId, Publish, PublishProperties, Qos, ReasonCode, RetainHandling, Suback, Subscribe,
    SubscribeProperties, Subscription, SubscriptionOptions, Unsuback, Unsubscribe, UserProperties,
    UserPropertiesBuf, Version, Will, WillProperties,
};
use super::{bytes, hex};

const ID: PacketId = PacketId::MIN;

#[track_caller]
fn assert_written(packet: &Packet<'_>, version: Version, expected: &str) {
    let mut out = Vec::new();
    packet.encode(version, &mut out).expect("it can be encoded");
    assert_eq!(hex(&out), hex(&bytes(expected)), "{packet:?}");
    assert_eq!(packet.encoded_len(version), Ok(out.len()));
}

fn connack(reason: ReasonCode, properties: ConnackProperties<'_>) -> Packet<'_> {
    Packet::Connack(Box::new(Connack {
        session_present: false,
        reason,
        properties,
    }))
}

#[test]
fn the_connack_of_mosquitto_is_the_same_byte_for_byte() {
    let properties = ConnackProperties {
        topic_alias_maximum: Some(10),
        maximum_packet_size: NonZeroU32::new(2_000_000),
        receive_maximum: NonZeroU16::new(20),
        ..ConnackProperties::default()
    };
    assert_written(
        &connack(ReasonCode::Success, properties),
        Version::V5,
        "20 0E 00 00 0B 22 00 0A 27 00 1E 84 80 21 00 14",
    );
}

#[test]
fn connack_properties_have_a_fixed_order() {
    let mut user = UserPropertiesBuf::new();
    user.push("k", "v").expect("short");
    let properties = ConnackProperties {
        server_keep_alive_s: Some(60),
        topic_alias_maximum: Some(10),
        assigned_client_id: Some("i"),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
        retain_available: Some(false),
        maximum_packet_size: NonZeroU32::new(1),
        receive_maximum: NonZeroU16::new(20),
        maximum_qos: Some(Qos::AtLeastOnce),
        session_expiry_s: Some(1),
        wildcard_subscription_available: Some(false),
        subscription_ids_available: Some(false),
        shared_subscription_available: Some(true),
        response_information: Some("r"),
        server_reference: Some("s"),
        reason_string: Some("t"),
        user: user.as_properties(),
    };
    assert_written(
        &connack(ReasonCode::Success, properties),
        Version::V5,
        "20 _ 00 00 3C 13003C 22000A 12 'i' 15 'm' 16 'd' 2500 2700000001 210014 2401 \
         1100000001 1A 'r' 1C 's' 1F 't' 2800 2900 2A01 26 'k' 'v'",
    );
    let none = ConnackProperties {
        maximum_qos: Some(Qos::ExactlyOnce),
        ..ConnackProperties::default()
    };
    assert_written(
        &connack(ReasonCode::Success, none),
        Version::V5,
        "20 03 00 00 00",
    );
}

#[test]
fn a_connack_before_5_0_has_a_return_code() {
    for (reason, code) in [
        (ReasonCode::Success, "00"),
        (ReasonCode::UnsupportedProtocolVersion, "01"),
        (ReasonCode::ClientIdentifierNotValid, "02"),
        (ReasonCode::ServerBusy, "03"),
        (ReasonCode::BadUserNameOrPassword, "04"),
        (ReasonCode::NotAuthorized, "05"),
    ] {
        let packet = connack(reason, ConnackProperties::default());
        for version in [Version::V31, Version::V311] {
            assert_written(&packet, version, &format!("20 02 00 {code}"));
        }
    }
}

#[test]
fn there_is_a_session_only_with_success_and_never_in_3_1() {
    let packet = |reason| {
        Packet::Connack(Box::new(Connack {
            session_present: true,
            reason,
            properties: ConnackProperties::default(),
        }))
    };
    let success = packet(ReasonCode::Success);
    assert_written(&success, Version::V31, "20 02 00 00");
    assert_written(&success, Version::V311, "20 02 01 00");
    assert_written(&success, Version::V5, "20 03 01 00 00");
    let failure = packet(ReasonCode::Banned);
    assert_written(&failure, Version::V311, "20 02 00 05");
    assert_written(&failure, Version::V5, "20 03 00 8A 00");
}

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 10,
        client_id: "p",
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

#[test]
fn connect_of_each_version() {
    for (version, bridge, expected) in [
        (Version::V31, false, "10 _ 'MQIsdp' 03 02 000A 'p'"),
        (Version::V31, true, "10 _ 'MQIsdp' 83 02 000A 'p'"),
        (Version::V311, false, "10 _ 'MQTT' 04 02 000A 'p'"),
        (Version::V311, true, "10 _ 'MQTT' 84 02 000A 'p'"),
        (Version::V5, false, "10 _ 'MQTT' 05 02 000A 00 'p'"),
        (Version::V5, true, "10 _ 'MQTT' 05 02 000A 00 'p'"),
    ] {
        let packet = Connect {
            bridge,
            ..connect(version)
        };
        assert_written(&Packet::Connect(Box::new(packet)), version, expected);
    }
}

#[test]
fn connect_with_everything() {
    let mut user = UserPropertiesBuf::new();
    user.push("k", "v").expect("short");
    let packet = Connect {
        clean_start: false,
        will: Some(Will {
            topic: "t",
            payload: b"m",
            qos: Qos::ExactlyOnce,
            retain: true,
            properties: WillProperties {
                delay_s: Some(5),
                message: MessageProperties {
                    content_type: Some("c"),
                    expiry_s: Some(6),
                    ..MessageProperties::default()
                },
            },
        }),
        username: Some("u"),
        password: Some(b"\0"),
        properties: ConnectProperties {
            session_expiry_s: Some(1),
            receive_maximum: NonZeroU16::new(2),
            maximum_packet_size: NonZeroU32::new(3),
            topic_alias_maximum: Some(4),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            authentication_method: Some("m"),
            authentication_data: Some(b""),
            user: user.as_properties(),
        },
        ..connect(Version::V5)
    };
    assert_written(
        &Packet::Connect(Box::new(packet)),
        Version::V5,
        "10 _ 'MQTT' 05 F4 000A 22 220004 15 'm' 16 '' 2700000003 210002 1100000001 1700 1901 26 'k' 'v' \
         'p' 0E 03 'c' 0200000006 1800000005 't' 'm' 'u' 0001 00",
    );
}

fn ack(reason: ReasonCode, properties: AckProperties<'_>) -> Ack<'_> {
    Ack {
        packet_id: ID,
        reason,
        properties,
    }
}

#[test]
fn acknowledgements_are_as_short_as_they_can_be() {
    let success = Ack::success(ID);
    assert_written(&Packet::Puback(success), Version::V5, "40 02 0001");
    assert_written(&Packet::Pubrec(success), Version::V5, "50 02 0001");
    assert_written(&Packet::Pubrel(success), Version::V5, "62 02 0001");
    assert_written(&Packet::Pubcomp(success), Version::V5, "70 02 0001");
    let refused = Ack::with_reason(ID, ReasonCode::NotAuthorized);
    assert_written(&Packet::Puback(refused), Version::V5, "40 03 0001 87");
    assert_written(&Packet::Puback(refused), Version::V311, "40 02 0001");
    let text = AckProperties {
        reason_string: Some("r"),
        ..AckProperties::default()
    };
    let explained = Packet::Puback(ack(ReasonCode::Success, text));
    assert_written(&explained, Version::V5, "40 08 0001 00 04 1F 'r'");
    assert_written(&explained, Version::V31, "40 02 0001");
}

#[test]
fn disconnect_and_auth_are_as_short_as_they_can_be() {
    let disconnect = |reason, properties| Packet::Disconnect(Disconnect { reason, properties });
    let none = DisconnectProperties::default();
    let normal = disconnect(ReasonCode::Success, none);
    assert_written(&normal, Version::V5, "E0 00");
    let taken_over = disconnect(ReasonCode::SessionTakenOver, none);
    assert_written(&taken_over, Version::V5, "E0 01 8E");
    assert_written(&taken_over, Version::V311, "E0 00");
    let moved = DisconnectProperties {
        server_reference: Some("s"),
        reason_string: Some("r"),
        ..none
    };
    assert_written(
        &disconnect(ReasonCode::ServerMoved, moved),
        Version::V5,
        "E0 0A 9D 08 1C 's' 1F 'r'",
    );
    let auth = |reason, method| {
        Packet::Auth(Auth {
            reason,
            properties: AuthProperties {
                method,
                ..AuthProperties::default()
            },
        })
    };
    assert_written(&auth(ReasonCode::Success, None), Version::V5, "F0 00");
    assert_written(
        &auth(ReasonCode::ContinueAuthentication, Some("m")),
        Version::V5,
        "F0 06 18 04 15 'm'",
    );
    let mut out = Vec::new();
    let written = auth(ReasonCode::Success, None).encode(Version::V311, &mut out);
    assert_eq!(written, Err(EncodeError::WrongVersion));
    assert!(out.is_empty());
}

#[test]
fn subscribe_and_what_answers_it() {
    let subscription = |filter, qos| Subscription {
        filter,
        options: SubscriptionOptions {
            qos,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::Never,
        },
    };
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: ID,
        properties: SubscribeProperties {
            subscription_id: NonZeroU32::new(200),
            ..SubscribeProperties::default()
        },
        subscriptions: vec![
            subscription("a", Qos::AtMostOnce),
            subscription("b/#", Qos::ExactlyOnce),
        ],
    });
    assert_written(
        &subscribe,
        Version::V5,
        "82 _ 0001 03 0BC801 'a' 2C 'b/#' 2E",
    );
    assert_written(&subscribe, Version::V311, "82 _ 0001 'a' 00 'b/#' 02");
    let suback = Packet::Suback(Suback {
        packet_id: ID,
        properties: AckProperties::default(),
        reasons: vec![
            Qos::AtLeastOnce.into(),
            ReasonCode::NotAuthorized,
            Qos::ExactlyOnce.into(),
        ],
    });
    assert_written(&suback, Version::V5, "90 06 0001 00 01 87 02");
    assert_written(&suback, Version::V311, "90 05 0001 01 80 02");
    let unsubscribe = Packet::Unsubscribe(Unsubscribe {
        packet_id: ID,
        user: UserProperties::NONE,
        filters: vec!["a", "b/#"],
    });
    assert_written(&unsubscribe, Version::V5, "A2 _ 0001 00 'a' 'b/#'");
    assert_written(&unsubscribe, Version::V31, "A2 _ 0001 'a' 'b/#'");
    let unsuback = Packet::Unsuback(Unsuback {
        packet_id: ID,
        properties: AckProperties::default(),
        reasons: vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted],
    });
    assert_written(&unsuback, Version::V5, "B0 05 0001 00 00 11");
    assert_written(&unsuback, Version::V311, "B0 02 0001");
    assert_written(&Packet::Pingreq, Version::V5, "C0 00");
    assert_written(&Packet::Pingresp, Version::V31, "D0 00");
}

fn publish() -> Publish<'static> {
    Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: true,
        topic: "t",
        packet_id: Some(ID),
        properties: PublishProperties::default(),
        payload: b"m",
    }
}

#[test]
fn publish_of_each_version() {
    let ids = [1, 268_435_455].map(|id| NonZeroU32::new(id).expect("not 0"));
    let packet = Packet::Publish(Publish {
        properties: PublishProperties {
            message: MessageProperties {
                payload_is_utf8: Some(true),
                expiry_s: Some(9),
                correlation_data: Some(b""),
                ..MessageProperties::default()
            },
            topic_alias: NonZeroU16::new(7),
            subscription_ids: ids.as_slice().into(),
        },
        ..publish()
    });
    assert_written(
        &packet,
        Version::V5,
        "33 _ 't' 0001 14 0101 09 '' 0200000009 230007 0B01 0BFFFFFF7F \"m\"",
    );
    assert_written(&packet, Version::V311, "33 _ 't' 0001 \"m\"");
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
    let long = "x".repeat(65_536);
    let too_big = NonZeroU32::new(268_435_456).expect("not 0");
    let empty = Suback {
        packet_id: ID,
        properties: AckProperties::default(),
        reasons: Vec::new(),
    };
    let cases = [
        (
            Packet::Publish(Publish {
                topic: &long,
                ..publish()
            }),
            EncodeError::FieldTooLong(65_536),
        ),
        (
            Packet::Publish(Publish {
                properties: PublishProperties {
                    message: MessageProperties {
                        content_type: Some(&long),
                        ..MessageProperties::default()
                    },
                    ..PublishProperties::default()
                },
                ..publish()
            }),
            EncodeError::FieldTooLong(65_536),
        ),
        (
            Packet::Publish(Publish {
                packet_id: None,
                ..publish()
            }),
            EncodeError::PacketId,
        ),
        (
            Packet::Publish(Publish {
                properties: PublishProperties {
                    subscription_ids: std::slice::from_ref(&too_big).into(),
                    ..PublishProperties::default()
                },
                ..publish()
            }),
            EncodeError::SubscriptionId(268_435_456),
        ),
        (
            Packet::Connect(Box::new(Connect {
                client_id: &long,
                ..connect(Version::V5)
            })),
            EncodeError::FieldTooLong(65_536),
        ),
        (Packet::Suback(empty), EncodeError::Empty),
    ];
    for (packet, error) in cases {
        let mut out = b"before".to_vec();
        assert_eq!(packet.encode(Version::V5, &mut out), Err(error));
        assert_eq!(out, b"before");
    }
    let mut user = UserPropertiesBuf::new();
    assert_eq!(
        user.push("k", &long),
        Err(EncodeError::FieldTooLong(65_536))
    );
    assert!(user.as_properties().is_empty());
}
