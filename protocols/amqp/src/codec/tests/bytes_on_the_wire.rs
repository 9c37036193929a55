//! What the octets are, by hand: an encoder and a decoder that are wrong in the same way would agree with each other.

use super::samples;
use crate::codec::{
    Array, ArrayBuf, ContentHeader, Decoder, EncodeError, FRAME_END, Fault, Frame, FrameKind,
    Greeting, HEARTBEAT, Level, Method, Properties, ReplyCode, Table, TableBuf, Value, put_content,
};

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(FRAME_END);
    bytes
}

fn encoded(method: &Method<'_>, channel: u16) -> Vec<u8> {
    let mut out = b"before".to_vec();
    method.encode(channel, &mut out).unwrap();
    out.split_off(6)
}

#[test]
fn bits_that_follow_each_other_share_an_octet_lowest_first() {
    let declare = Method::QueueDeclare {
        ticket: 0,
        queue: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: true,
        arguments: Table::default(),
    };
    let payload = b"\0\x32\0\x0a\0\0\x01q\x12\0\0\0\0";
    assert_eq!(encoded(&declare, 3), frame(1, 3, payload));
    assert_eq!(Method::decode(payload), Ok(declare));
    let nack = Method::BasicNack {
        delivery_tag: 5,
        multiple: false,
        requeue: true,
    };
    assert_eq!(
        encoded(&nack, 1),
        frame(1, 1, b"\0\x3c\0\x78\0\0\0\0\0\0\0\x05\x02")
    );
}

#[test]
fn methods_whose_numbers_or_fields_are_odd_are_as_everybody_has_them() {
    let unbind_ok = Method::ExchangeUnbindOk {};
    assert_eq!(unbind_ok.id(), (40, 51));
    let open_ok = Method::ChannelOpenOk { reserved_1: b"" };
    assert_eq!(encoded(&open_ok, 1), frame(1, 1, b"\0\x14\0\x0b\0\0\0\0"));
    let unbind = Method::QueueUnbind {
        ticket: 0,
        queue: "q",
        exchange: "e",
        routing_key: "k",
        arguments: Table::default(),
    };
    assert_eq!(
        encoded(&unbind, 1),
        frame(1, 1, b"\0\x32\0\x32\0\0\x01q\x01e\x01k\0\0\0\0")
    );
    assert_eq!(Method::ALL.len(), 66);
}

#[test]
fn a_method_that_does_not_decode_says_why() {
    let cases: [(&[u8], Fault); 6] = [
        (b"\0\x14", Fault::Truncated),
        (b"\0\x14\0\x0a", Fault::Truncated),
        (b"\0\x14\0\x0a\x01\xff", Fault::NotUtf8),
        (b"\0\x14\0\x0a\0x", Fault::Trailing),
        (
            b"\0\x14\0\x63",
            Fault::UnknownMethod {
                class: 20,
                method: 99,
            },
        ),
        (b"\0\x5a\0\x0a!", Fault::Trailing),
    ];
    for (payload, fault) in cases {
        assert_eq!(Method::decode(payload), Err(fault), "{payload:02x?}");
    }
    assert_eq!(Method::id_of(b"\0\x14\0\x63zzz"), (20, 99));
    assert_eq!(Method::id_of(b"\0\x14\0"), (20, 0));
}

#[test]
fn what_has_no_form_on_the_wire_leaves_nothing_behind() {
    let long = "x".repeat(256);
    let mut out = b"before".to_vec();
    let cancel = Method::BasicCancelOk {
        consumer_tag: &long,
    };
    assert_eq!(
        cancel.encode(1, &mut out),
        Err(EncodeError::ShortString(256))
    );
    assert_eq!(out, b"before");
    let mut table = TableBuf::default();
    assert!(table.put(&long, Value::Void).is_err());
    assert!(table.as_table().is_empty());
    let properties = Properties {
        content_type: Some("a"),
        app_id: Some(&long),
        ..Properties::default()
    };
    assert!(properties.encode(&mut out).is_err());
    assert_eq!(out, b"before");
}

#[test]
fn frames_come_one_at_a_time_and_whole() {
    let decoder = Decoder::new(4096);
    let mut bytes = frame(3, 0x0102, b"body");
    bytes.extend(HEARTBEAT);
    let body = Frame {
        kind: FrameKind::Body,
        channel: 0x0102,
        payload: b"body",
    };
    for len in 0..12 {
        assert_eq!(decoder.decode(&bytes[..len]), Ok(None), "{len}");
    }
    assert_eq!(decoder.decode(&bytes), Ok(Some((12, body))));
    let heartbeat = Frame {
        kind: FrameKind::Heartbeat,
        channel: 0,
        payload: b"",
    };
    assert_eq!(decoder.decode(&bytes[12..]), Ok(Some((8, heartbeat))));
}

#[test]
fn a_frame_that_is_none_is_known_as_early_as_can_be() {
    let decoder = Decoder::new(4096);
    assert_eq!(decoder.decode(b"\x04"), Err(Fault::FrameType(4)));
    assert_eq!(decoder.decode(b"G"), Err(Fault::FrameType(b'G')));
    // The limit is that of the payload, as RabbitMQ has it: eight octets more than agreed.
    assert_eq!(decoder.decode(b"\x03\0\x01\0\0\x10\0"), Ok(None));
    assert_eq!(
        decoder.decode(b"\x03\0\x01\0\0\x10\x01"),
        Err(Fault::FrameTooLarge {
            kind: 3,
            size: 4105,
            max: 4096
        })
    );
    assert_eq!(
        decoder.decode(b"\x01\0\0\0\0\0\x01x\xcd"),
        Err(Fault::FrameEnd(0xcd))
    );
    assert_eq!(decoder.decode(b"\x08\0\0\0\0\0\x01"), Err(Fault::Heartbeat));
}

#[test]
fn every_type_of_field_has_its_letter() {
    for (letter, value, bytes) in samples() {
        let mut table = TableBuf::default();
        table.put("k", value).unwrap();
        let expected = [b"\x01k", &[letter][..], bytes].concat();
        assert_eq!(table.as_table().as_bytes(), expected, "{value:?}");
        assert_eq!(Table::decode(&expected).unwrap().get("k"), Some(value));
    }
    for (bytes, value) in [
        (&b"\x01kL\0\0\0\0\0\0\0\x05"[..], Value::I64(5)),
        (b"\x01kU\0\x05", Value::I16(5)),
        (b"\x01kt\x07", Value::Bool(true)),
    ] {
        assert_eq!(Table::decode(bytes).unwrap().get("k"), Some(value));
    }
}

#[test]
fn tables_keep_order_and_duplicates_and_nest() {
    let mut inner = TableBuf::default();
    inner.put("x", Value::I32(1)).unwrap();
    let mut array = ArrayBuf::default();
    array.push(Value::Table(inner.as_table())).unwrap();
    array.push(Value::Array(Array::default())).unwrap();
    array.push(Value::Void).unwrap();
    let mut table = TableBuf::default();
    table.put("a", Value::Array(array.as_array())).unwrap();
    table.put("b", Value::Void).unwrap();
    table.put("b", Value::Bool(false)).unwrap();
    let decoded = Table::decode(table.as_table().as_bytes()).unwrap();
    let keys: Vec<_> = decoded.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a", "b", "b"]);
    assert_eq!(decoded.get("b"), Some(Value::Void));
    let Some(Value::Array(values)) = decoded.get("a") else {
        panic!("{decoded:?}");
    };
    let values: Vec<_> = values.iter().collect();
    assert_eq!(values.len(), 3);
    assert_eq!(values[0], Value::Table(inner.as_table()));
}

#[test]
fn a_table_that_is_none_says_why() {
    let cases: [(&[u8], Fault); 7] = [
        (b"\x01", Fault::Truncated),
        (b"\x01k", Fault::Truncated),
        (b"\x01kz", Fault::FieldType(b'z')),
        (b"\x01\xfft\x01", Fault::NotUtf8),
        (b"\x01kS\0\0\0\x05abcd", Fault::Truncated),
        (b"\x01kF\0\0\0\x01\x01", Fault::Truncated),
        (b"\x01kA\0\0\0\x01I", Fault::Truncated),
    ];
    for (bytes, fault) in cases {
        assert_eq!(Table::decode(bytes), Err(fault), "{bytes:02x?}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| {
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..depth {
            let mut outer = b"\x01kF".to_vec();
            outer.extend((bytes.len() as u32).to_be_bytes());
            outer.extend(&bytes);
            bytes = outer;
        }
        bytes
    };
    let most = usize::from(Table::DEPTH_MAX);
    assert!(Table::decode(&nested(most)).is_ok());
    assert_eq!(Table::decode(&nested(most + 1)), Err(Fault::TooDeep));
}

#[test]
fn arguments_are_equal_by_value_not_by_width() {
    let equal = |a: Value<'_>, b: Value<'_>| a.is_equivalent(&b) && b.is_equivalent(&a);
    assert!(equal(Value::I8(5), Value::I64(5)));
    assert!(equal(Value::U32(5), Value::I16(5)));
    assert!(!equal(Value::I32(5), Value::F64(5.0)));
    assert!(!equal(Value::I32(5), Value::LongString(b"5")));
    assert!(equal(Value::F32(0.5), Value::F64(0.5)));
    assert!(equal(Value::LongString(b"a"), Value::LongString(b"a")));
    let table = |pairs: &[(&str, Value<'_>)]| {
        let mut table = TableBuf::default();
        for (key, value) in pairs {
            table.put(key, *value).unwrap();
        }
        table
    };
    let one = table(&[("a", Value::I32(1)), ("b", Value::Bool(true))]);
    let other = table(&[("b", Value::Bool(true)), ("a", Value::I64(1))]);
    let fewer = table(&[("a", Value::I32(1))]);
    assert!(one.as_table().is_equivalent(&other.as_table()));
    assert!(!one.as_table().is_equivalent(&fewer.as_table()));
    assert!(!fewer.as_table().is_equivalent(&one.as_table()));
}

#[test]
fn properties_stand_in_the_order_of_their_flags() {
    let bytes = b"\xfc\x40\x04text\x02gz\0\0\0\0\x02\x09\x02id\0\0\0\0\0\0\0\x07";
    let properties = Properties {
        content_type: Some("text"),
        content_encoding: Some("gz"),
        headers: Some(Table::default()),
        delivery_mode: Some(2),
        priority: Some(9),
        correlation_id: Some("id"),
        timestamp: Some(7),
        ..Properties::default()
    };
    assert_eq!(Properties::decode(bytes), Ok(properties));
    let mut out = Vec::new();
    properties.encode(&mut out).unwrap();
    assert_eq!(out, bytes);
    let rest = b"\x03\xbc\x01r\x02to\x02ms\x01t\x01u\x01a\x01c";
    let decoded = Properties::decode(rest).unwrap();
    assert_eq!(decoded.reply_to, Some("r"));
    assert_eq!(decoded.expiration, Some("to"));
    assert_eq!(decoded.message_id, Some("ms"));
    assert_eq!(
        (
            decoded.kind,
            decoded.user_id,
            decoded.app_id,
            decoded.cluster_id
        ),
        (Some("t"), Some("u"), Some("a"), Some("c"))
    );
}

#[test]
fn an_empty_property_is_not_an_absent_one() {
    let empty = Properties {
        reply_to: Some(""),
        ..Properties::default()
    };
    let mut out = Vec::new();
    empty.encode(&mut out).unwrap();
    assert_eq!(out, b"\x02\0\0");
    assert_eq!(Properties::decode(&out), Ok(empty));
    assert_eq!(
        Properties::decode(Properties::NONE),
        Ok(Properties::default())
    );
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    for flags in [0x0001_u16, 0x0002] {
        assert_eq!(
            Properties::decode(&flags.to_be_bytes()),
            Err(Fault::PropertyFlags(flags))
        );
    }
    assert_eq!(Properties::decode(b"\0\0x"), Err(Fault::Trailing));
    assert_eq!(Properties::decode(b"\0"), Err(Fault::Truncated));
    assert_eq!(Properties::decode(b"\x80\0\x05abc"), Err(Fault::Truncated));
}

#[test]
fn content_is_a_header_and_as_many_bodies_as_it_takes() {
    let mut out = Vec::new();
    put_content(1, b"\x10\0\x02", b"abcde", 11, &mut out).unwrap();
    let expected = [
        frame(2, 1, b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\x10\0\x02"),
        frame(3, 1, b"abc"),
        frame(3, 1, b"de"),
    ];
    assert_eq!(out, expected.concat());
    let header = ContentHeader::decode(&out[7..22]).unwrap();
    assert_eq!((header.class, header.body_size), (60, 5));
    assert_eq!(header.properties, b"\x10\0\x02");
    out.clear();
    put_content(1, Properties::NONE, b"", 4096, &mut out).unwrap();
    assert_eq!(out, frame(2, 1, b"\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0"));
    out.clear();
    put_content(1, Properties::NONE, &[7; 300], 0, &mut out).unwrap();
    assert_eq!(out.len(), 14 + 8 + 300 + 8);
}

#[test]
fn greetings_of_this_version_and_the_one_before_are_welcome() {
    assert_eq!(Greeting::of(b"AMQP\0\0\x09\x01"), Greeting::Welcome);
    assert_eq!(Greeting::of(b"AMQP\x01\x01\0\x09rest"), Greeting::Welcome);
    for foreign in [
        &b"AMQP\0\x01\0\0"[..],
        b"AMQP\x03\x01\0\0",
        b"AMQP\0\0\x08\0",
        b"GET / HTTP",
        b"\x16\x03\x01",
        b"X",
    ] {
        assert_eq!(Greeting::of(foreign), Greeting::Foreign, "{foreign:?}");
    }
    for len in 0..8 {
        assert_eq!(
            Greeting::of(&b"AMQP\0\0\x09\x01"[..len]),
            Greeting::Incomplete
        );
    }
}

#[test]
fn reply_codes_have_their_level() {
    assert_eq!(ReplyCode::NotFound.as_u16(), 404);
    assert_eq!(ReplyCode::NotFound.level(), Level::Channel);
    assert_eq!(ReplyCode::NotImplemented.level(), Level::Connection);
    assert_eq!(ReplyCode::NoRoute.level(), Level::None);
    assert_eq!(ReplyCode::ALL.len(), 19);
    let hard = |code: &&ReplyCode| code.as_u16() >= 500;
    for code in ReplyCode::ALL.iter().filter(hard) {
        assert_eq!(code.level(), Level::Connection, "{code:?}");
    }
}
