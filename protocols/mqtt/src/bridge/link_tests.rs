//! The link against the bytes of another broker.

use bytes::Bytes;
use longtail_model::Timestamp;

use super::link::{Dialect, Event, Fate, Link, LinkError, LinkSettings, Outgoing, Receipt};
use super::map::Wanted;
use crate::codec::{Qos, Version};

const NOW: Timestamp = Timestamp(1_000_000);

const V5: Dialect = Dialect {
    version: Version::V5,
    bridge_bit: false,
};

const V311: Dialect = Dialect {
    version: Version::V311,
    bridge_bit: true,
};

/// CONNACK: no session, and a session.
const FRESH: &[u8] = &[0x20, 3, 0, 0, 0];
const PRESENT: &[u8] = &[0x20, 3, 1, 0, 0];

fn link(subscribes: bool) -> Link<u32> {
    let wanted = Wanted {
        filter: "t/#".to_owned(),
        qos: Qos::AtLeastOnce,
    };
    Link::new(LinkSettings {
        client_id: "b".to_owned(),
        username: None,
        password: None,
        keep_alive_s: 60,
        clean_start: false,
        session_expiry_s: u32::MAX,
        window: 2,
        packet_bytes_max: 1000,
        subscriptions: if subscribes { vec![wanted] } else { Vec::new() },
        state_topic: None,
    })
}

fn message(key: u32, qos: Qos) -> Outgoing<u32> {
    Outgoing {
        key,
        topic: "t".to_owned(),
        payload: Bytes::from_static(b"m"),
        qos,
        retain: false,
        properties: Vec::new().into(),
        expires: Timestamp::NEVER,
    }
}

/// What the link says to `input`, and what it reports.
fn hear(link: &mut Link<u32>, input: &[u8]) -> (Vec<u8>, Vec<Event<u32>>) {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    let taken = link.receive(input, NOW, &mut out, &mut events).unwrap();
    assert_eq!(taken, input.len());
    (out, events)
}

fn connected(link: &mut Link<u32>, connack: &[u8]) -> Vec<u8> {
    link.connect(V5, NOW, &mut Vec::new()).unwrap();
    hear(link, connack).0
}

fn send(link: &mut Link<u32>, message: Outgoing<u32>) -> Vec<u8> {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    link.send(message, NOW, &mut out, &mut events);
    out
}

fn flown(events: &[Event<u32>]) -> Vec<(u32, Fate)> {
    let flown = |event: &Event<u32>| match event {
        Event::Flown(key, fate) => Some((*key, *fate)),
        _ => None,
    };
    events.iter().filter_map(flown).collect()
}

#[test]
fn answers_to_connect_decide_about_the_version() {
    let cases: [(Dialect, &[u8], Option<LinkError>); 5] = [
        (V5, &[0x20, 2, 0, 1], Some(LinkError::WrongVersion)),
        (V5, &[0x20, 3, 0, 0x84, 0], Some(LinkError::WrongVersion)),
        (V311, &[0x20, 2, 0, 1], Some(LinkError::WrongVersion)),
        (V5, FRESH, None),
        (V311, &[0x20, 2, 0, 0], None),
    ];
    for (dialect, answer, expected) in cases {
        let mut link = link(false);
        link.connect(dialect, NOW, &mut Vec::new()).unwrap();
        let heard = link.receive(answer, NOW, &mut Vec::new(), &mut Vec::new());
        assert_eq!(heard.err(), expected, "{answer:?}");
    }
}

#[test]
fn subscriptions_ask_for_nothing_of_ones_own_and_the_retain_flag() {
    // QoS 1, no local, retain as published.
    let said = connected(&mut link(true), FRESH);
    assert_eq!(said, b"\x82\x09\x00\x01\x00\x00\x03t/#\x0d");
}

#[test]
fn a_session_that_is_there_gets_what_is_under_way_again_under_its_ids() {
    let mut link = link(false);
    connected(&mut link, FRESH);
    assert_eq!(
        send(&mut link, message(1, Qos::ExactlyOnce)),
        b"\x34\x07\x00\x01t\x00\x01\x00m"
    );
    send(&mut link, message(2, Qos::AtLeastOnce));
    assert!(!link.has_room(), "the window is 2");
    assert_eq!(hear(&mut link, b"\x50\x02\x00\x01").0, b"\x62\x02\x00\x01");
    link.lost();
    let said = connected(&mut link, PRESENT);
    assert_eq!(said, b"\x62\x02\x00\x01\x3a\x07\x00\x01t\x00\x02\x00m");
    let (_, events) = hear(&mut link, b"\x70\x02\x00\x01\x40\x02\x00\x02");
    assert_eq!(flown(&events), [(1, Fate::Delivered), (2, Fate::Delivered)]);
    assert_eq!(link.in_flight(), 0);
}

#[test]
fn a_session_that_is_gone_gets_everything_anew() {
    let mut link = link(false);
    connected(&mut link, FRESH);
    send(&mut link, message(1, Qos::ExactlyOnce));
    hear(&mut link, b"\x50\x02\x00\x01");
    link.lost();
    let said = connected(&mut link, FRESH);
    assert_eq!(said, b"\x34\x07\x00\x01t\x00\x01\x00m");
}

#[test]
fn refusals_free_their_place() {
    let mut link = link(false);
    connected(&mut link, FRESH);
    send(&mut link, message(1, Qos::AtLeastOnce));
    send(&mut link, message(2, Qos::ExactlyOnce));
    let (_, events) = hear(&mut link, b"\x40\x03\x00\x01\x87\x50\x03\x00\x02\x97");
    let fates = flown(&events);
    assert!(matches!(
        fates[..],
        [(1, Fate::Refused(_)), (2, Fate::Refused(_))]
    ));
    assert!(link.has_room());
}

#[test]
fn limits_of_the_other_broker_hold() {
    let mut link = link(false);
    // Receive maximum 1, maximum QoS 1, maximum packet size 20.
    connected(
        &mut link,
        b"\x20\x0d\x00\x00\x0a\x21\x00\x01\x24\x01\x27\x00\x00\x00\x14",
    );
    assert_eq!(send(&mut link, message(1, Qos::ExactlyOnce))[0], 0x32);
    assert!(!link.has_room());
    let (mut out, mut events) = (Vec::new(), Vec::new());
    let mut large = message(2, Qos::AtMostOnce);
    large.payload = Bytes::from_static(&[0; 20]);
    link.send(large, NOW, &mut out, &mut events);
    assert_eq!((out.len(), flown(&events)), (0, vec![(2, Fate::TooLarge)]));
    let mut late = message(3, Qos::AtMostOnce);
    late.expires = NOW;
    link.send(late, NOW, &mut out, &mut events);
    assert_eq!(flown(&events)[1], (3, Fate::Expired));
}

#[test]
fn what_comes_is_acknowledged_when_it_is_durable_and_taken_once() {
    let mut link = link(false);
    connected(&mut link, FRESH);
    let qos1 = b"\x32\x07\x00\x01t\x00\x05\x00m";
    let qos2 = b"\x34\x07\x00\x01t\x00\x06\x00m";
    let receipt = |events: Vec<Event<u32>>| match events.into_iter().next() {
        Some(Event::Incoming(incoming)) => Some(incoming.receipt),
        _ => None,
    };
    let (said, events) = hear(&mut link, qos1);
    let first = receipt(events).unwrap();
    assert!(said.is_empty(), "not yet");
    let (_, events) = hear(&mut link, qos2);
    let second = receipt(events).unwrap();
    let mut out = Vec::new();
    link.accept(first, NOW, &mut out);
    link.accept(second, NOW, &mut out);
    assert_eq!(out, b"\x40\x02\x00\x05\x50\x02\x00\x06");
    link.lost();
    connected(&mut link, PRESENT);
    let (said, events) = hear(&mut link, b"\x3c\x07\x00\x01t\x00\x06\x00m");
    assert_eq!(
        (said.as_slice(), events.len()),
        (&b"\x50\x02\x00\x06"[..], 0),
        "again"
    );
    out.clear();
    link.accept(first, NOW, &mut out);
    assert!(out.is_empty(), "that connection is gone");
    assert_eq!(hear(&mut link, b"\x62\x02\x00\x06").0, b"\x70\x02\x00\x06");
    let (_, events) = hear(&mut link, qos2);
    assert!(
        matches!(receipt(events), Some(Receipt::Rec { .. })),
        "a new one"
    );
}

#[test]
fn silence_is_noticed() {
    let mut link = link(false);
    link.connect(V5, NOW, &mut Vec::new()).unwrap();
    let mut out = Vec::new();
    let late = NOW.plus_millis(10_000);
    assert_eq!(link.tick(late, &mut out), Err(LinkError::Silent));
    connected(&mut link, FRESH);
    let ping = NOW.plus_millis(60_000);
    assert_eq!(link.due(), ping);
    link.tick(ping, &mut out).unwrap();
    assert_eq!(out, [0xC0, 0]);
    assert_eq!(link.tick(ping.plus_millis(29_999), &mut out), Ok(()));
    let late = ping.plus_millis(30_000);
    assert_eq!(link.tick(late, &mut out), Err(LinkError::Silent));
    hear(&mut link, &[0xD0, 0]);
    assert_eq!(link.tick(late, &mut Vec::new()), Ok(()));
}
