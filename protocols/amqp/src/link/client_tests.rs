//! The client against what a server may say, without a socket.

use super::client::*;
use crate::codec::{Decoder, Frame, FrameKind, Method, Table, put_content};
use longtail_model::Timestamp;
use std::collections::VecDeque;

fn settings() -> Settings {
    Settings {
        user: "u".into(),
        password: "p".into(),
        external: false,
        vhost: "v".into(),
        heartbeat_s: None,
        name: "n".into(),
        product: "Longtail".into(),
        version: "1".into(),
        message_bytes_max: 1000,
    }
}

struct Side {
    client: Client,
    out: Vec<u8>,
    events: VecDeque<Event>,
}

impl Side {
    fn hears(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        self.client
            .receive(bytes, Timestamp(0), &mut self.out, &mut self.events)
    }

    fn hears_method(&mut self, channel: u16, method: &Method<'_>) -> Result<usize, LinkError> {
        let mut bytes = Vec::new();
        method.encode(channel, &mut bytes).unwrap();
        self.hears(&bytes)
    }

    /// Class and method of everything that was said.
    fn said(&mut self) -> Vec<(u16, u16)> {
        let out = std::mem::take(&mut self.out);
        let (mut at, mut said) = (0, Vec::new());
        while let Some((octets, frame)) = Decoder::new(u32::MAX).decode(&out[at..]).unwrap() {
            at += octets;
            if let Frame {
                kind: FrameKind::Method,
                payload,
                ..
            } = frame
            {
                said.push(Method::id_of(payload));
            }
        }
        said
    }
}

fn greeted() -> Side {
    let mut out = Vec::new();
    let client = Client::new(settings(), Timestamp(0), &mut out);
    assert_eq!(out, b"AMQP\0\0\x09\x01");
    Side {
        client,
        out: Vec::new(),
        events: VecDeque::new(),
    }
}

fn start(mechanisms: &'static [u8]) -> Method<'static> {
    Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: Table::default(),
        mechanisms,
        locales: b"en_US",
    }
}

const TUNE: Method<'static> = Method::ConnectionTune {
    channel_max: 10,
    frame_max: 4096,
    heartbeat: 10,
};

fn open() -> Side {
    let mut side = greeted();
    side.hears_method(0, &start(b"AMQPLAIN PLAIN")).unwrap();
    side.hears_method(0, &TUNE).unwrap();
    side.hears_method(0, &Method::ConnectionOpenOk { reserved_1: "" })
        .unwrap();
    assert_eq!(side.said(), [(10, 11), (10, 31), (10, 40), (20, 10)]);
    side.hears_method(1, &Method::ChannelOpenOk { reserved_1: b"" })
        .unwrap();
    assert_eq!(side.events.pop_front(), Some(Event::Open));
    side
}

fn delivery(tag: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let deliver = Method::BasicDeliver {
        consumer_tag: "c",
        delivery_tag: tag,
        redelivered: true,
        exchange: "x",
        routing_key: "k",
    };
    deliver.encode(1, &mut bytes).unwrap();
    put_content(1, &[0, 0], b"hello", 4096, &mut bytes).unwrap();
    bytes
}

fn unexpected(result: &Result<usize, LinkError>) -> bool {
    matches!(result, Err(LinkError::Unexpected(_)))
}

#[test]
fn messages_come_octet_by_octet_and_are_settled() {
    let mut side = open();
    side.client.allow(1);
    let bytes = delivery(1);
    for end in 0..bytes.len() - 1 {
        let taken = side.hears(&bytes[..end]).unwrap();
        if taken > 0 {
            // A frame was complete: start again with the whole.
            side = open();
            side.client.allow(1);
        }
        assert!(side.events.is_empty());
    }
    let mut side = open();
    side.client.allow(1);
    side.hears(&bytes).unwrap();
    let Some(Event::Delivery(delivery)) = side.events.pop_front() else {
        panic!("no delivery")
    };
    assert_eq!(
        (delivery.tag, &delivery.body[..], delivery.key.as_str()),
        (1, &b"hello"[..], "k")
    );
    side.client
        .settle(1, 1, Settle::Ack, &mut side.out)
        .unwrap();
    assert_eq!(side.said(), [(60, 80)]);
}

#[test]
fn more_than_was_asked_for_ends_the_connection() {
    let mut side = open();
    side.client.allow(2);
    side.hears(&delivery(1)).unwrap();
    side.hears(&delivery(2)).unwrap();
    assert!(unexpected(&side.hears(&delivery(3))));
    let mut side = open();
    side.hears(&delivery(2)).unwrap();
    assert!(unexpected(&side.hears(&delivery(2))), "a tag twice");
}

#[test]
fn what_makes_no_sense_ends_the_connection() {
    let declared = Method::QueueDeclareOk {
        queue: "q",
        message_count: 0,
        consumer_count: 0,
    };
    assert!(
        unexpected(&open().hears_method(1, &declared)),
        "nobody has asked"
    );
    assert!(
        unexpected(&open().hears_method(7, &declared)),
        "no such channel"
    );
    let ack = Method::BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    assert!(
        unexpected(&open().hears_method(1, &ack)),
        "nothing was published"
    );
    assert!(unexpected(&greeted().hears_method(0, &TUNE)), "out of turn");
    assert!(
        unexpected(&greeted().hears(b"AMQP\0\x01\0\0")),
        "another protocol"
    );
    assert!(matches!(
        greeted().hears_method(0, &start(b"GSSAPI")),
        Err(LinkError::Login(_))
    ));
    let mut large = Vec::new();
    let deliver = Method::BasicDeliver {
        consumer_tag: "",
        delivery_tag: 1,
        redelivered: false,
        exchange: "",
        routing_key: "",
    };
    deliver.encode(1, &mut large).unwrap();
    put_content(1, &[0, 0], &[0; 1001], 4096, &mut large).unwrap();
    assert!(matches!(
        open().hears(&large),
        Err(LinkError::TooLarge(1001))
    ));
}

#[test]
fn answers_may_come_in_another_order_than_was_asked() {
    let mut side = open();
    for method in [
        Method::ConfirmSelect { no_wait: false },
        Method::BasicQos {
            prefetch_size: 0,
            prefetch_count: 1,
            global: false,
        },
    ] {
        side.client.call(&method, &mut side.out).unwrap();
    }
    for answer in [Method::BasicQosOk {}, Method::ConfirmSelectOk {}] {
        side.hears_method(1, &answer).unwrap();
        assert_eq!(
            side.events.pop_front(),
            Some(Event::Answer(answer.id(), Answer::Done))
        );
    }
    assert!(
        unexpected(&side.hears_method(1, &Method::BasicQosOk {})),
        "once only"
    );
}

#[test]
fn a_channel_that_was_closed_opens_again_and_forgets_what_was_owed() {
    let mut side = open();
    let passive = Method::QueueDeclare {
        ticket: 0,
        queue: "q",
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: Table::default(),
    };
    side.client.call(&passive, &mut side.out).unwrap();
    let close = Method::ChannelClose {
        reply_code: 404,
        reply_text: "NOT_FOUND",
        class_id: 50,
        method_id: 10,
    };
    side.hears_method(1, &close).unwrap();
    assert_eq!(
        side.events.pop_front(),
        Some(Event::ChannelClosed {
            code: 404,
            text: "NOT_FOUND".into()
        })
    );
    side.hears(&delivery(9)).unwrap();
    assert!(side.events.is_empty(), "what was on its way is nobody's");
    side.client.reopen(&mut side.out).unwrap();
    assert_eq!(side.said(), [(50, 10), (20, 41), (20, 10)]);
    side.hears_method(1, &Method::ChannelOpenOk { reserved_1: b"" })
        .unwrap();
    assert_eq!(side.events.pop_front(), Some(Event::Open));
}

#[test]
fn it_speaks_every_half_interval_and_gives_up_after_two() {
    let mut side = open();
    assert_eq!(side.client.due(), Timestamp(5_000));
    side.client
        .tick(true, Timestamp(5_000), &mut side.out)
        .unwrap();
    assert_eq!(side.out.len(), 8, "a heartbeat");
    side.out.clear();
    assert!(matches!(
        side.client.tick(true, Timestamp(20_500), &mut side.out),
        Err(LinkError::Silent)
    ));
    let mut side = open();
    side.client
        .tick(false, Timestamp(20_500), &mut side.out)
        .unwrap();
}

#[test]
fn a_body_is_cut_to_the_frames_of_the_other_side() {
    let mut side = open();
    let to = ("x", "k");
    let seq = side
        .client
        .publish(to, false, (&[0, 0], &[7; 10_000]), &mut side.out)
        .unwrap();
    assert_eq!(seq, 1);
    let out = std::mem::take(&mut side.out);
    let (mut at, mut bodies) = (0, 0);
    while let Some((octets, frame)) = Decoder::new(4096).decode(&out[at..]).unwrap() {
        assert!(octets <= 4096);
        at += octets;
        bodies += usize::from(frame.kind == FrameKind::Body);
    }
    assert_eq!((at, bodies), (out.len(), 3));
    let large = side
        .client
        .publish(to, false, (&[0; 4080], b""), &mut side.out);
    assert!(matches!(large, Err(LinkError::Properties(4080))));
}
