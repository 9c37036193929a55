//! Frames for many subscribers.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::super::{
    Alias, Decoder, EncodeError, Format, Message, Packet, PacketId, Prepared, Qos, Sender, Version,
};
use super::{bytes, hex};

const FORMAT: Format<'static> = Format {
    version: Version::V5,
    qos: Qos::AtLeastOnce,
    retain: false,
    expiry_s: None,
    alias: None,
    subscription_ids: &[],
};

fn id(id: u16) -> Option<PacketId> {
    Some(PacketId::new(id).expect("not 0"))
}

fn prepare(properties: &str, format: &Format<'_>) -> Prepared {
    let properties = bytes(properties);
    let message = Message {
        topic: "t",
        payload: &Bytes::from_static(b"m"),
        properties: &properties,
    };
    Prepared::new(&message, format).expect("a short message")
}

#[track_caller]
fn assert_written(prepared: &Prepared, packet_id: Option<PacketId>, dup: bool, expected: &str) {
    let mut out = Vec::new();
    prepared.write(packet_id, dup, &mut out).expect("it fits");
    assert_eq!(hex(&out), hex(&bytes(expected)));
    assert_eq!(prepared.size(), out.len());
    let mut head = Vec::new();
    prepared
        .write_head(packet_id, dup, &mut head)
        .expect("it fits");
    head.extend_from_slice(prepared.payload());
    assert_eq!(head, out, "head and payload make the whole");
}

#[test]
fn each_subscriber_gets_its_packet_id_and_dup() {
    let prepared = prepare("03 'c' 26 'k' 'v'", &FORMAT);
    for (packet_id, dup, expected) in [
        (1, false, "32 _ 't' 0001 0B 03 'c' 26 'k' 'v' \"m\""),
        (65_535, true, "3A _ 't' FFFF 0B 03 'c' 26 'k' 'v' \"m\""),
    ] {
        assert_written(&prepared, id(packet_id), dup, expected);
    }
}

#[test]
fn the_format_decides_the_rest() {
    let ids = [5, 300].map(|id| NonZeroU32::new(id).expect("not 0"));
    let alias = NonZeroU16::new(9).expect("not 0");
    let v311 = Format {
        version: Version::V311,
        expiry_s: Some(8),
        alias: Some(Alias::Use(alias)),
        subscription_ids: &ids,
        ..FORMAT
    };
    assert_written(
        &prepare("03 'c'", &v311),
        id(2),
        false,
        "32 _ 't' 0002 \"m\"",
    );
    let v5 = Format {
        version: Version::V5,
        qos: Qos::AtMostOnce,
        retain: true,
        ..v311
    };
    assert_written(
        &prepare("03 'c'", &v5),
        None,
        true,
        "31 _ '' 11 03 'c' 0200000008 230009 0B05 0BAC02 \"m\"",
    );
    let define = Format {
        alias: Some(Alias::Define(alias)),
        expiry_s: None,
        subscription_ids: &[],
        qos: Qos::ExactlyOnce,
        ..v5
    };
    assert_written(
        &prepare("", &define),
        id(3),
        false,
        "35 _ 't' 0003 03 230009 \"m\"",
    );
}

#[test]
fn the_expiry_is_counted_down_in_place() {
    let format = Format {
        expiry_s: Some(60),
        ..FORMAT
    };
    let mut prepared = prepare("03 'c'", &format);
    prepared.set_expiry_s(59);
    assert_written(
        &prepared,
        id(1),
        false,
        "32 _ 't' 0001 09 03 'c' 020000003B \"m\"",
    );
    let mut without = prepare("03 'c'", &FORMAT);
    without.set_expiry_s(59);
    assert_written(&without, id(1), false, "32 _ 't' 0001 04 03 'c' \"m\"");
}

#[test]
fn a_packet_id_goes_with_qos_1_and_2_only() {
    let mut out = Vec::new();
    let prepared = prepare("", &FORMAT);
    assert!(prepared.has_packet_id());
    assert_eq!(
        prepared.write(None, false, &mut out),
        Err(EncodeError::PacketId)
    );
    let at_most_once = Format {
        qos: Qos::AtMostOnce,
        ..FORMAT
    };
    let prepared = prepare("", &at_most_once);
    assert!(!prepared.has_packet_id());
    assert_eq!(
        prepared.write(id(1), false, &mut out),
        Err(EncodeError::PacketId)
    );
    assert!(out.is_empty());
}

#[test]
fn payloads_of_any_length_decode_as_they_were() {
    for length in [0, 1, 100, 127, 128, 4096, 4097, 16_384, 2_097_152] {
        let payload = Bytes::from(vec![7; length]);
        let message = Message {
            topic: "t",
            payload: &payload,
            properties: &[],
        };
        for version in Version::ALL {
            let format = Format { version, ..FORMAT };
            let prepared = Prepared::new(&message, &format).expect("it fits");
            assert_eq!(prepared.is_inline(), length <= Prepared::INLINE_MAX);
            let mut out = Vec::new();
            prepared.write(id(1), false, &mut out).expect("it fits");
            let mut decoder = Decoder::open(Sender::Server, version);
            decoder.set_limits(super::super::PacketLimits {
                publish: u32::MAX,
                ..Default::default()
            });
            let decoded = decoder.decode(&out).expect("a packet").expect("all of it");
            assert_eq!(decoded.consumed, out.len());
            let Packet::Publish(publish) = decoded.packet else {
                panic!("a PUBLISH");
            };
            assert!(publish.payload == payload, "{length} bytes in {version:?}");
        }
    }
}

#[test]
fn what_is_forwarded_is_what_the_publisher_said_in_its_order() {
    let publish = bytes(
        "30 _ 't' 24 26 'k' 'v' 0200000009 09 'd' 230001 0101 08 'r' 26 'k' 'w' 03 'c' \"m\"",
    );
    let mut decoder = Decoder::open(Sender::Client, Version::V5);
    let decoded = decoder.decode(&publish).expect("valid").expect("whole");
    let Packet::Publish(publish) = decoded.packet else {
        panic!("a PUBLISH");
    };
    let message = publish.properties.message;
    assert_eq!(message.expiry_s, Some(9));
    let users: Vec<_> = message.user.iter().collect();
    assert_eq!(users, [("k", "v"), ("k", "w")]);
    let mut out = Vec::new();
    message.write_forwarded(&mut out).expect("decoded");
    let expected = bytes("26 'k' 'v' 09 'd' 0101 08 'r' 26 'k' 'w' 03 'c'");
    assert_eq!(hex(&out), hex(&expected));
}
