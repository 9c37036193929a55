use super::frames::Publishes;
use super::parse::{BodyAt, Connack, acknowledgement, body_at, connack, header, suback};
use super::sink::MqttSink;
use super::*;
use crate::load::{Assurance, Flow, Promise};
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

fn session(role: Role, assurance: Assurance) -> MqttSession {
    MqttSession::new(Version::V3, &seat(role, assurance))
}

const LISTENER: Role = Role::Subscribe(Interest::Queue);

#[test]
fn packets_have_the_bytes_of_the_standard() {
    assert_eq!(
        frames::connect(Version::V3, "ab", false),
        b"\x10\x0e\0\x04MQTT\x04\x02\x8c\xa0\0\x02ab"
    );
    assert_eq!(
        frames::connect(Version::V5, "ab", true),
        b"\x10\x14\0\x04MQTT\x05\0\x8c\xa0\x05\x11\0\0\x0e\x10\0\x02ab"
    );
    assert_eq!(
        frames::subscribe(Version::V3, &["a/#".to_owned()], 1),
        b"\x82\x08\0\x01\0\x03a/#\x01"
    );
    assert_eq!(
        frames::subscribe(Version::V5, &["a/#".to_owned(), "b".to_owned()], 2),
        b"\x82\x0d\0\x01\0\0\x03a/#\x02\0\x01b\x02"
    );
}

#[test]
fn a_burst_numbers_and_stamps_its_publishes() {
    let mut publishes = Publishes::new(Version::V3, "t", 1, 9, 2, false);
    publishes.stamp(0x0102_0304_0506_0708);
    let expected = b"\x32\x0e\0\x01t\0\x01\x01\x02\x03\x04\x05\x06\x07\x08x\
                     \x32\x0e\0\x01t\0\x02\x01\x02\x03\x04\x05\x06\x07\x08x";
    assert_eq!(publishes.bytes(), expected);
    let mut short = Publishes::new(Version::V5, "t", 0, 3, 1, true);
    short.stamp(1);
    assert_eq!(short.bytes(), b"\x30\x07\0\x01t\0xxx\xc0\0");
    let long = Publishes::new(Version::V3, "t", 0, 200, 1, false);
    assert_eq!(long.bytes().get(..6), Some(&b"\x30\xcb\x01\0\x01t"[..]));
}

#[test]
fn headers_end_where_their_length_does() {
    assert_eq!(header(b"\x30"), Ok(None));
    assert_eq!(header(b"\x30\x80"), Ok(None));
    assert_eq!(
        header(b"\x31\x80\x01x"),
        Ok(Some(Header {
            first: 0x31,
            length: 128,
            bytes: 3
        }))
    );
    assert!(header(b"\x30\xff\xff\xff\xff\x01").is_err());
    // HTTP, and a packet type that does not exist.
    assert!(header(b"HTTP").is_ok_and(|found| found.is_some_and(|h| h.first >> 4 == 4)));
    assert!(header(b"\x00\x00").is_err());
    assert!(header(b"\xf0\x00").is_err());
}

#[test]
fn bodies_begin_behind_topic_id_and_properties() {
    let found = |offset, id| Some(BodyAt { offset, id });
    assert_eq!(body_at(Version::V3, 0, b"\0\x01tBODY"), found(3, [0, 0]));
    assert_eq!(
        body_at(Version::V3, 1, b"\0\x01t\x01\x02B"),
        found(5, [1, 2])
    );
    let properties = b"\0\x01t\x01\x02\x03\x23\0\x01B";
    assert_eq!(body_at(Version::V5, 1, properties), found(9, [1, 2]));
    for cut in 0..9 {
        assert_eq!(body_at(Version::V5, 1, &properties[..cut]), None, "{cut}");
    }
}

#[test]
fn handshakes_are_accepted_or_quoted() {
    let packet = |first, body: &'static [u8]| {
        let header = Header {
            first,
            length: body.len(),
            bytes: 2,
        };
        (header, body)
    };
    let say = |version, (header, body)| connack(version, header, body);
    assert_eq!(
        say(Version::V3, packet(0x20, &[1, 0])),
        Ok(Connack {
            session_present: true,
            receive_maximum: 65_535
        })
    );
    // A user property before the Receive Maximum.
    let v5 = packet(0x20, b"\0\0\x0a\x26\0\x01k\0\x01v\x21\0\x14");
    assert_eq!(
        say(Version::V5, v5).map(|found| found.receive_maximum),
        Ok(20)
    );
    assert_eq!(
        say(Version::V3, packet(0x20, &[0, 5])),
        Err("refused with code 0x05".to_owned())
    );
    let (header, body) = packet(0x90, &[0, 1, 0]);
    assert_eq!(suback(header, body, 1, 0), Ok(()));
    assert_eq!(
        suback(header, body, 1, 1),
        Err("granted QoS 0 instead of 1".to_owned())
    );
    let (header, body) = packet(0x90, &[0, 1, 0x80]);
    assert_eq!(
        suback(header, body, 1, 1),
        Err("refused with code 0x80".to_owned())
    );
    assert_eq!(acknowledgement(&[1, 2]), (Some([1, 2]), None));
    assert_eq!(acknowledgement(&[1, 2, 0x97]), (Some([1, 2]), Some(0x97)));
}

#[test]
fn a_publisher_at_qos_0_that_nobody_hears_waits_for_the_ping() {
    let flow = Flow::new(0, 1);
    let mut session = session(Role::Put, Assurance::AtMost);
    let burst = Next::Burst {
        command: PUBLISH,
        count: 2,
    };
    assert_eq!(session.next(0, false, &flow), burst);
    assert!(session.outgoing().ends_with(b"\xc0\0"));
    let replies = feed(&mut session, b"\xd0\0", 1, &flow).expect("legal");
    assert_eq!(replies.done, 2);
    assert_eq!(session.next(0, true, &flow), Next::Done);
}

#[test]
fn a_publisher_at_qos_0_that_is_heard_waits_for_the_window_only() {
    let flow = Flow::new(4, 1);
    let mut session = session(Role::Produce, Assurance::AtMost);
    assert_eq!(session.next(5, false, &flow), Next::Send);
    assert_eq!(session.next(6, false, &flow), Next::Send);
    assert_eq!(session.next(7, false, &flow), Next::Park);
    assert_eq!(session.outgoing().len(), 2 * (2 + 2 + 3 + 9));
    flow.leave(2);
    assert_eq!(session.next(8, false, &flow), Next::Send);
}

#[test]
fn the_window_counts_a_message_once_a_subscriber() {
    let flow = Flow::new(20, 1);
    let seat = Seat {
        audience: 10,
        bindings: 0,
        ..seat(Role::Produce, Assurance::AtMost)
    };
    let mut session = MqttSession::new(Version::V3, &seat);
    assert_eq!(session.next(0, false, &flow), Next::Send);
    flow.leave(19);
    assert_eq!(session.next(0, false, &flow), Next::Park);
    flow.leave(1);
    assert_eq!(session.next(0, false, &flow), Next::Send);
}

#[test]
fn qos_2_is_done_at_pubcomp_and_releases_at_pubrec() {
    for piece in 1..=8 {
        let flow = Flow::new(4, 1);
        let mut session = session(Role::Put, Assurance::Exactly);
        session.next(0, false, &flow);
        let received = b"\x50\x02\0\x01\x50\x02\0\x02";
        let replies = feed(&mut session, received, piece, &flow).expect("legal");
        assert_eq!(replies.done, 0);
        assert_eq!(replies.reactions, b"\x62\x02\0\x01\x62\x02\0\x02");
        let complete = b"\x70\x02\0\x01\x70\x02\0\x02";
        let replies = feed(&mut session, complete, piece, &flow).expect("legal");
        assert_eq!(replies.done, 2);
        assert!(replies.reactions.is_empty());
    }
}

#[test]
fn refusals_carry_the_name_of_their_reason_and_leave_the_window() {
    let flow = Flow::new(2, 1);
    let mut session = MqttSession::new(Version::V5, &seat(Role::Produce, Assurance::AtLeast));
    session.next(0, false, &flow);
    // No matching subscribers is a success; the quota is not.
    let replies = b"\x40\x03\0\x01\x10\x40\x04\0\x02\x97\0";
    let replies = feed(&mut session, replies, 3, &flow).expect("legal");
    assert_eq!((replies.done, replies.refused), (1, 1));
    assert_eq!(replies.refusals.get("quota exceeded"), Some(&1));
    flow.publisher_done();
    assert_eq!(flow.left_over(), 1);
}

#[test]
fn subscribers_learn_when_a_message_was_sent_and_acknowledge_it_whatever_the_pieces() {
    for (assurance, acknowledgements) in [
        (Assurance::AtMost, &b""[..]),
        (Assurance::AtLeast, &b"\x40\x02\0\x01\x40\x02\0\x02"[..]),
        (Assurance::Exactly, &b"\x50\x02\0\x01\x50\x02\0\x02"[..]),
    ] {
        let flow = Flow::new(9, 1);
        let mut publisher = session(Role::Produce, assurance);
        publisher.next(0x1234_5678_9abc, false, &flow);
        let messages = publisher.outgoing().to_vec();
        for piece in 1..=messages.len() {
            let flow = Flow::new(9, 1);
            flow.expect(2);
            let mut listener = session(LISTENER, assurance);
            assert_eq!(listener.next(0, false, &flow), Next::Listen);
            assert!(listener.outgoing().is_empty());
            let replies = feed(&mut listener, &messages, piece, &flow).expect("legal");
            assert_eq!(replies.received, 2);
            assert_eq!(replies.sent_ns, [0x1234_5678_9abc; 2]);
            assert_eq!(replies.reactions, acknowledgements, "{assurance:?}");
            flow.publisher_done();
            assert!(flow.is_drained());
        }
    }
}

#[test]
fn bodies_that_look_like_packets_and_empty_ones_are_skipped() {
    let flow = Flow::new(9, 1);
    let mut listener = session(LISTENER, Assurance::AtMost);
    let messages = b"\x30\x07\0\x01t\x40\x02\0\x01\x30\x03\0\x01t";
    for piece in 1..=messages.len() {
        let replies = feed(&mut listener, messages, piece, &flow).expect("legal");
        assert_eq!((replies.received, replies.sent_ns.len()), (2, 0));
    }
}

#[test]
fn a_release_is_completed() {
    let flow = Flow::new(9, 1);
    let mut listener = session(LISTENER, Assurance::Exactly);
    let replies = feed(&mut listener, b"\x62\x02\0\x09", 9, &flow).expect("legal");
    assert_eq!(replies.reactions, b"\x70\x02\0\x09");
}

#[test]
fn a_resumed_session_must_be_there_and_tells_no_latencies() {
    let flow = Flow::new(9, 0);
    flow.expect(1);
    let mut resumed = session(Role::Resume, Assurance::AtLeast);
    let connect = Next::Burst {
        command: CONNECT,
        count: 1,
    };
    assert_eq!(resumed.next(0, false, &flow), connect);
    assert_eq!(resumed.outgoing().first(), Some(&0x10));
    let input = b"\x20\x02\x01\0\x32\x0d\0\x01t\0\x0112345678";
    let replies = feed(&mut resumed, input, 6, &flow).expect("legal");
    assert_eq!((replies.done, replies.received), (1, 1));
    assert!(replies.sent_ns.is_empty());
    assert_eq!(resumed.next(0, false, &flow), Next::Listen);
    assert!(flow.is_drained());

    let mut forgotten = session(Role::Resume, Assurance::AtLeast);
    forgotten.next(0, false, &flow);
    let error = feed(&mut forgotten, b"\x20\x02\0\0", 9, &flow).expect_err("no session");
    assert_eq!(
        error.to_string(),
        "unexpected reply to connect: \"the session is gone\""
    );
}

#[test]
fn packets_that_make_no_sense_are_quoted() {
    let flow = Flow::new(9, 1);
    for (assurance, input, quoted) in [
        (
            Assurance::AtLeast,
            &b"\x70\x02\0\x01"[..],
            "PUBCOMP [00, 01]",
        ),
        (Assurance::AtMost, b"\x40\x02\0\x01", "PUBACK [00, 01]"),
        (
            Assurance::AtLeast,
            b"\x90\x03\0\x01\0",
            "SUBACK [00, 01, 00]",
        ),
        (Assurance::AtLeast, b"\xe0\x01\x8e", "DISCONNECT [8e]"),
    ] {
        let mut publisher = session(Role::Put, assurance);
        publisher.next(0, false, &flow);
        let error = feed(&mut publisher, input, 9, &flow).expect_err("illegal");
        let expected = format!("unexpected reply to publish: \"{quoted}\"");
        assert_eq!(error.to_string(), expected);
    }
    let mut publisher = session(Role::Put, Assurance::AtMost);
    let error = feed(&mut publisher, b"\x30\x03\0\x01t", 9, &flow).expect_err("not subscribed");
    assert!(
        error.to_string().contains("a message for nobody"),
        "{error}"
    );
}

#[test]
fn a_budget_ends_with_a_short_burst() {
    let flow = Flow::new(9, 1);
    let seat = Seat {
        budget: Some(3),
        ..seat(Role::Put, Assurance::AtMost)
    };
    let mut session = MqttSession::new(Version::V3, &seat);
    session.next(0, false, &flow);
    let last = Next::Burst {
        command: PUBLISH,
        count: 1,
    };
    assert_eq!(session.next(0, false, &flow), last);
    assert_eq!(session.outgoing().len(), 2 + 2 + 3 + 9 + 2);
    assert_eq!(session.next(0, false, &flow), Next::Done);
}

#[test]
fn the_sink_answers_every_packet_whatever_the_pieces() {
    let mut packets = frames::connect(Version::V3, "c", false);
    packets.extend(frames::subscribe(
        Version::V3,
        &["t".to_owned(), "u".to_owned()],
        1,
    ));
    packets.extend_from_slice(b"\x32\x06\0\x01t\0\x05x\x34\x06\0\x01t\0\x06x\x62\x02\0\x06\xc0\0");
    packets.extend_from_slice(b"\x50\x02\0\x07\x40\x02\0\x08");
    let answers = b"\x20\x02\0\0\x90\x04\0\x01\x01\x01\x40\x02\0\x05\x50\x02\0\x06\x70\x02\0\x06\xd0\0\x62\x02\0\x07";
    for piece in 1..=packets.len() {
        let (mut sink, mut relay) = (MqttSink::default(), Relay::default());
        let (mut tail, mut out) = (Vec::new(), Vec::new());
        for bytes in packets.chunks(piece) {
            tail.extend_from_slice(bytes);
            let used = sink.answer(&tail, &mut out, &mut relay);
            tail.drain(..used);
        }
        assert_eq!(out, answers, "pieces of {piece}");
    }
}

#[test]
fn a_reply_answers_a_request_and_an_acknowledgement_does_not() {
    let flow = Flow::new(8, 1);
    let mut asks = session(Role::Request, Assurance::AtLeast);
    let mut answers = session(Role::Respond, Assurance::AtLeast);
    assert_eq!(
        asks.next(1, false, &flow),
        Next::Burst {
            command: PUBLISH,
            count: 2
        }
    );
    assert_eq!(answers.next(1, false, &flow), Next::Listen);
    let heard = feed(&mut answers, asks.outgoing(), 7, &flow).expect("requests");
    assert_eq!((heard.done, heard.received), (0, 0));
    // Each is answered under an id of its own, and acknowledged.
    let reply = |id: u8| {
        let mut bytes = b"\x32\x16\0\x09b/7/reply\0".to_vec();
        bytes.push(id);
        bytes.extend_from_slice(b"xxxxxxxxx");
        bytes.extend_from_slice(&[0x40, 2, 0, id]);
        bytes
    };
    assert_eq!(heard.reactions, [reply(1), reply(2)].concat());
    let acknowledged = [0x40, 2, 0, 1];
    let none = feed(&mut asks, &acknowledged, 4, &flow).expect("an acknowledgement");
    assert_eq!(none.done, 0);
    let replies = [reply(1), reply(2)].concat();
    let got = feed(&mut asks, &replies, 5, &flow).expect("replies");
    assert_eq!((got.done, got.received), (2, 0));
}
