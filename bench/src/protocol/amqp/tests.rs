use super::confirms::Confirms;
use super::frames::{Publishes, Route};
use super::parse::{FRAME_END, Frame, acknowledged, frame, method};
use super::sink::AmqpSink;
use super::*;
use crate::load::{Assurance, Flow, Interest, Promise};
use crate::null::Relay;
use crate::protocol::{Next, Session, Sink, feed};

fn seat(role: Role, assurance: Assurance) -> Seat {
    Seat {
        connection: 3,
        role,
        depth: 2,
        body_bytes: 9,
        queue_prefix: "b".to_owned(),
        queue: 7,
        audience: 1,
        bindings: 0,
        promise: Promise {
            assurance,
            persistent: false,
        },
        budget: None,
    }
}

fn session(role: Role, assurance: Assurance) -> AmqpSession {
    AmqpSession::new(&seat(role, assurance), 4096, QueueType::Classic)
}

const LISTENER: Role = Role::Subscribe(Interest::Queue);

fn acknowledgement(what: parse::Id, tag: u64, multiple: bool) -> Vec<u8> {
    let mut arguments = tag.to_be_bytes().to_vec();
    arguments.push(u8::from(multiple));
    frames::method(what, CHANNEL, &arguments)
}

/// A delivery with a body in pieces.
fn delivery(tag: u64, pieces: &[&[u8]]) -> Vec<u8> {
    let mut arguments = b"\x01c".to_vec();
    arguments.extend_from_slice(&tag.to_be_bytes());
    arguments.extend_from_slice(b"\0\0\x01q");
    let mut bytes = frames::method(id::DELIVER, CHANNEL, &arguments);
    let size: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(size as u64).to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    frames::frame(&mut bytes, kind::HEADER, CHANNEL, &header);
    for piece in pieces {
        frames::frame(&mut bytes, kind::BODY, CHANNEL, piece);
    }
    bytes
}

#[test]
fn frames_have_the_bytes_of_the_specification() {
    assert_eq!(
        frames::channel_open(1),
        b"\x01\0\x01\0\0\0\x05\0\x14\0\x0a\0\xce"
    );
    let life = frames::Life {
        durable: true,
        auto_delete: false,
    };
    assert_eq!(
        frames::queue_declare("q", life, QueueType::Classic),
        b"\x01\0\x01\0\0\0\x0d\0\x32\0\x0a\0\0\x01q\x02\0\0\0\0\xce"
    );
    assert_eq!(
        frames::consume("q", false),
        b"\x01\0\x01\0\0\0\x13\0\x3c\0\x14\0\0\x01q\x05bench\x02\0\0\0\0\xce"
    );
}

#[test]
fn a_burst_is_stamped_in_the_first_frame_of_each_body() {
    let route = Route {
        exchange: String::new(),
        keys: vec!["q".to_owned()],
        persistent: true,
        body_bytes: 10,
        frame_bytes: 8 + 8,
        fenced: false,
    };
    let mut publishes = Publishes::new(&route, 2);
    publishes.stamp(0x0102_0304_0506_0708);
    let one = b"\x01\0\x01\0\0\0\x0a\0\x3c\0\x28\0\0\0\x01q\0\xce\
                \x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x0a\x10\0\x02\xce\
                \x03\0\x01\0\0\0\x08\x01\x02\x03\x04\x05\x06\x07\x08\xce\
                \x03\0\x01\0\0\0\x02xx\xce";
    assert_eq!(publishes.bytes(), one.repeat(2));
}

#[test]
fn confirms_count_each_publish_once() {
    let mut confirms = Confirms::default();
    assert_eq!(confirms.confirm(2, false), 1);
    assert_eq!(confirms.confirm(2, false), 0);
    assert_eq!(confirms.confirm(4, true), 3);
    assert_eq!(confirms.confirm(3, true), 0);
    assert_eq!(confirms.confirm(6, false), 1);
    assert_eq!(confirms.confirm(5, false), 1);
    assert_eq!(confirms.confirm(7, true), 1);
}

#[test]
fn a_confirmed_burst_is_answered_whatever_the_pieces() {
    for piece in 1..60 {
        let flow = Flow::new(9, 1);
        let mut publisher = session(Role::Produce, Assurance::AtLeast);
        let burst = Next::Burst {
            command: PUBLISH,
            count: 2,
        };
        assert_eq!(publisher.next(0, false, &flow), burst);
        let input = [
            acknowledgement(id::ACK, 1, false),
            acknowledgement(id::NACK, 2, false),
        ];
        let replies = feed(&mut publisher, &input.concat(), piece, &flow).expect("legal");
        assert_eq!((replies.done, replies.refused), (1, 1));
        assert_eq!(replies.refusals.get("nack"), Some(&1));
    }
}

#[test]
fn a_consumer_reads_the_time_and_acknowledges_all_at_once() {
    let input = [
        delivery(1, &[b"\0\0\0\0\0\0\0\x05x"]),
        delivery(2, &[b"\0\0\0\0\0\0\0\x06", b"yy"]),
        delivery(3, &[]),
    ]
    .concat();
    for piece in 1..=input.len() {
        let flow = Flow::new(9, 0);
        let mut consumer = session(LISTENER, Assurance::AtLeast);
        let replies = feed(&mut consumer, &input, piece, &flow).expect("legal");
        assert_eq!(replies.received, 3, "pieces of {piece}");
        assert_eq!(replies.sent_ns, [5, 6]);
        assert!(
            replies
                .reactions
                .ends_with(&acknowledgement(id::ACK, 3, true))
        );
    }
    let flow = Flow::new(9, 0);
    let mut silent = session(LISTENER, Assurance::AtMost);
    let replies = feed(&mut silent, &input, 50, &flow).expect("legal");
    assert!(replies.reactions.is_empty());
}

#[test]
fn an_unconfirmed_publisher_without_consumers_is_fenced() {
    let flow = Flow::new(9, 1);
    let mut publisher = session(Role::Put, Assurance::AtMost);
    publisher.next(0, false, &flow);
    assert!(publisher.outgoing().ends_with(&frames::flow()));
    let answer = frames::method(id::FLOW_OK, CHANNEL, &[1]);
    let replies = feed(&mut publisher, &answer, 5, &flow).expect("legal");
    assert_eq!(replies.done, 2);
    let mut producer = session(Role::Produce, Assurance::AtMost);
    assert_eq!(producer.next(0, false, &flow), Next::Send);
}

#[test]
fn what_the_server_closes_with_is_quoted() {
    let flow = Flow::new(9, 1);
    let mut publisher = session(Role::Put, Assurance::AtLeast);
    publisher.next(0, false, &flow);
    let close = frames::method(id::CHANNEL_CLOSE, CHANNEL, b"\x01\x94\x09NOT_FOUND\0\0\0\0");
    let error = feed(&mut publisher, &close, 99, &flow).expect_err("closed");
    assert_eq!(
        error.to_string(),
        "unexpected reply to publish: \"closed: NOT_FOUND\""
    );
}

#[test]
fn the_sink_answers_and_passes_on_whatever_the_pieces() {
    let seat = Seat {
        bindings: 2,
        ..seat(LISTENER, Assurance::AtLeast)
    };
    let consumer = AmqpSession::new(&seat, 4096, QueueType::Classic);
    let mut requests = vec![frames::PROTOCOL_HEADER.to_vec(), frames::start_ok()];
    requests.extend([frames::tune_ok(1, 4096), frames::open()]);
    let mut expected = vec![id::START, id::TUNE, id::OPEN_OK];
    for (request, answer) in consumer.preparation() {
        requests.push(request);
        expected.push(answer);
    }
    requests.push(frames::confirm_select());
    expected.push(id::CONFIRM_SELECT_OK);
    let publisher = AmqpSession::new(
        &Seat {
            role: Role::Produce,
            ..seat
        },
        4096,
        QueueType::Classic,
    );
    let mut publisher = publisher;
    publisher.next(0, false, &Flow::new(9, 1));
    requests.push(publisher.outgoing().to_vec());
    let requests = requests.concat();
    for piece in [1, 7, 64, requests.len()] {
        let (mut sink, mut relay) = (AmqpSink::default(), Relay::default());
        let (mut tail, mut out) = (Vec::new(), Vec::new());
        for bytes in requests.chunks(piece) {
            tail.extend_from_slice(bytes);
            let used = sink.answer(&tail, &mut out, &mut relay);
            tail.drain(..used);
        }
        let (methods, last) = methods(&out);
        let (answers, acks) = methods.split_at(expected.len());
        assert_eq!(answers, expected, "pieces of {piece}");
        assert!(acks.iter().all(|&method| method == id::ACK), "{acks:?}");
        assert_eq!(acknowledged(&last), Some((2, true)));
        let mut heard = Vec::new();
        relay.flush(|_, bytes| heard.extend_from_slice(bytes));
        let mut listener = session(LISTENER, Assurance::AtLeast);
        let flow = Flow::new(9, 0);
        let replies = feed(&mut listener, &heard, 13, &flow).expect("legal");
        assert_eq!(replies.received, 2);
    }
}

/// The methods among frames, and the payload of the last.
fn methods(mut bytes: &[u8]) -> (Vec<parse::Id>, Vec<u8>) {
    let (mut all, mut last) = (Vec::new(), Vec::new());
    while let Ok(Some(Frame { size, .. })) = frame(bytes) {
        let end = parse::FRAME_HEADER + size;
        let payload = bytes.get(parse::FRAME_HEADER..end).expect("a whole frame");
        assert_eq!(bytes.get(end), Some(&FRAME_END));
        all.extend(method(payload));
        last = payload.to_vec();
        bytes = bytes.get(end + 1..).unwrap_or_default();
    }
    (all, last)
}

#[test]
fn a_reply_answers_a_request_and_a_confirm_does_not() {
    let flow = Flow::new(8, 1);
    let mut asks = session(Role::Request, Assurance::AtLeast);
    let mut answers = session(Role::Respond, Assurance::AtLeast);
    let requests = Next::Burst {
        command: PUBLISH,
        count: 2,
    };
    assert_eq!(asks.next(1, false, &flow), requests);
    assert_eq!(answers.next(1, false, &flow), Next::Listen);
    let heard = feed(&mut answers, &delivery(1, &[b"12345678x"]), 7, &flow).expect("a request");
    assert_eq!((heard.done, heard.received), (0, 0));
    let key = memchr::memmem::find(&heard.reactions, b"\x09b.7.reply");
    assert!(key.is_some(), "{:02x?}", heard.reactions);
    let confirm = acknowledgement(id::ACK, 2, true);
    let none = feed(&mut asks, &confirm, 4, &flow).expect("a confirm");
    assert_eq!(none.done, 0);
    let replies = [delivery(1, &[b"xxxxxxxxx"]), delivery(2, &[b"xxxxxxxxx"])].concat();
    let got = feed(&mut asks, &replies, 5, &flow).expect("replies");
    assert_eq!((got.done, got.received), (2, 0));
}
