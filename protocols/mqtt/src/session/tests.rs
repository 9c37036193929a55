//! The session without sockets: what it says to which packets.

mod kept;
mod lasting;
mod place;
mod proving;

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Grants;
use longtail_broker::ephemeral::{Delivery, DropReason, LiveOptions};
use longtail_broker::message::{Message, Origin, Quality, SharedMessage};
use longtail_broker::retained::{RetainedLimits, RetainedStore};
use longtail_model::{StreamId, Subject, Timestamp};

use super::*;
use crate::codec::{
    Ack, Connect, ConnectProperties, PacketId, Publish, PublishProperties, Qos, Subscribe,
    SubscribeProperties, Subscription, SubscriptionOptions, Will, WillProperties,
};
use crate::config::{Profile, Qos2Routing, QueuePolicy};
use crate::template::Template;

const NOW: Timestamp = Timestamp(1_000_000);

const STORES: feed::Stores = feed::Stores {
    incoming: StreamId(0),
    has_records: true,
};

#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    full: bool,
    asked: bool,
}

impl Outbox for Wire {
    fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn put_shared(&mut self, bytes: Bytes) {
        self.bytes.extend_from_slice(&bytes);
    }

    fn is_full(&self) -> bool {
        self.full
    }

    fn has_room(&self, _bytes: usize) -> bool {
        !self.full
    }

    fn ask_for_room(&mut self) {
        self.asked = true;
    }
}

struct Bench {
    limits: Limits,
    retained: RetainedStore,
    exclusive: Exclusive,
    counters: Counters,
    session: Session,
    actions: Vec<Action>,
    wire: Wire,
}

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "c",
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

impl Bench {
    fn greet(limits: Limits, connect: &Connect<'_>) -> Result<Self, Refused> {
        let (mut session, _) = Session::greet(connect, || "fresh".to_owned(), &limits, NOW)?;
        session.authorize(Arc::new(Grants::full()), None, Origin(7), &limits)?;
        Ok(Bench {
            limits,
            retained: RetainedStore::new(RetainedLimits::default()),
            exclusive: Exclusive::default(),
            counters: Counters::default(),
            session,
            actions: Vec::new(),
            wire: Wire::default(),
        })
    }

    fn open(limits: Limits, connect: &Connect<'_>) -> Self {
        let mut bench = Bench::greet(limits, connect).unwrap();
        bench.accept(None);
        bench.wire.bytes.clear();
        bench
    }

    fn v5() -> Self {
        Bench::open(Limits::default(), &connect(Version::V5))
    }

    fn with<R>(&mut self, work: impl FnOnce(&mut Session, &Cx<'_>, &mut Wire) -> R) -> R {
        let cx = Cx {
            limits: &self.limits,
            now: NOW,
            retained: &self.retained,
            sys: &self.retained,
            exclusive: &self.exclusive,
            counters: &self.counters,
            rights: None,
        };
        work(&mut self.session, &cx, &mut self.wire)
    }

    fn accept(&mut self, state: Option<State>) {
        self.with(|session, cx, wire| {
            session.take_in(state, 0, STORES, cx);
            session.welcome(cx, wire);
        });
    }

    fn input(&mut self, packet: &Packet<'_>) -> Next {
        let mut actions = std::mem::take(&mut self.actions);
        let next = self.with(|session, cx, wire| session.input(packet, cx, &mut actions, wire));
        self.actions = actions;
        next
    }

    fn deliver(&mut self, message: &SharedMessage, qos: Qos) -> Delivery {
        let tag = Tag {
            qos,
            ..Tag::default()
        };
        let options = LiveOptions {
            tag: tag.pack(),
            ..LiveOptions::default()
        };
        self.with(|session, cx, wire| session.deliver(message, &[options], cx, wire))
    }

    /// What was said since it was last asked.
    fn said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.bytes)
    }

    /// Carries out what is to be published: nobody is there.
    fn publish_all(&mut self) -> Vec<SharedMessage> {
        let mut messages = Vec::new();
        for action in std::mem::take(&mut self.actions) {
            if let Action::Publish { message, ticket } = action {
                messages.push(message);
                if let Some(ticket) = ticket {
                    let reason = ReasonCode::NoMatchingSubscribers;
                    self.with(|session, _, wire| session.complete(ticket, reason, wire));
                }
            }
        }
        messages
    }
}

fn publish(qos: Qos, id: u16, topic: &'static str, payload: &'static [u8]) -> Packet<'static> {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id),
        properties: PublishProperties::default(),
        payload,
    })
}

fn message(payload: &'static [u8], quality: Quality) -> SharedMessage {
    Arc::new(Message {
        quality,
        published: NOW,
        ..Message::new(Subject::new("t").unwrap(), Bytes::from_static(payload))
    })
}

fn ack(id: u16) -> Ack<'static> {
    Ack::success(PacketId::new(id).unwrap())
}

#[test]
fn the_connack_of_the_mosquitto_profile_is_mosquittos() {
    let limits = Profile::Mosquitto.limits();
    let mut bench = Bench::greet(limits, &connect(Version::V5)).unwrap();
    bench.accept(None);
    assert_eq!(
        bench.said(),
        [
            0x20, 0x0E, 0, 0, 0x0B, 0x22, 0, 0x0A, 0x27, 0, 0x1E, 0x84, 0x80, 0x21, 0, 0x14
        ]
    );
    for version in [Version::V31, Version::V311] {
        let mut bench = Bench::greet(Limits::default(), &connect(version)).unwrap();
        bench.accept(None);
        assert_eq!(bench.said(), [0x20, 2, 0, 0]);
    }
}

/// A change to a CONNECT or to the limits, and the reason it is refused for; none: it is not.
type Row = (
    &'static str,
    fn(&mut Connect<'static>, &mut Limits),
    Option<ReasonCode>,
);

fn the_will() -> Will<'static> {
    Will {
        topic: "w",
        payload: b"gone",
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: WillProperties::default(),
    }
}

const CONNECTS: &[Row] = &[
    ("plain", |_, _| {}, None),
    ("no id", |c, _| c.client_id = "", None),
    (
        "no id where there must be one",
        |c, l| {
            c.client_id = "";
            l.empty_client_id = false;
        },
        Some(ReasonCode::ClientIdentifierNotValid),
    ),
    (
        "long id",
        |c, l| {
            c.client_id = "four";
            l.client_id_bytes_max = 3;
        },
        Some(ReasonCode::ClientIdentifierNotValid),
    ),
    (
        "authentication method, which others judge",
        |c, _| c.properties.authentication_method = Some("X"),
        None,
    ),
    ("will", |c, _| c.will = Some(the_will()), None),
    (
        "will above the maximum QoS",
        |c, l| {
            c.will = Some(the_will());
            l.qos_max = Qos::AtMostOnce;
        },
        Some(ReasonCode::QosNotSupported),
    ),
    (
        "retained will",
        |c, l| {
            c.will = Some(Will {
                retain: true,
                ..the_will()
            });
            l.retain_available = false;
        },
        Some(ReasonCode::RetainNotSupported),
    ),
    (
        "will for the server's topics",
        |c, _| {
            c.will = Some(Will {
                topic: "$SYS/x",
                ..the_will()
            });
        },
        Some(ReasonCode::ProtocolError),
    ),
    (
        "a packet size below that of the answer",
        |c, _| c.properties.maximum_packet_size = NonZeroU32::new(10),
        Some(ReasonCode::PacketTooLarge),
    ),
    ("long keep alive", |_, l| l.keep_alive_max_s = 10, None),
    (
        "a version that is not spoken here",
        |_, l| l.versions = [Version::V31, Version::V311].into_iter().collect(),
        Some(ReasonCode::UnsupportedProtocolVersion),
    ),
    (
        "a will that is not UTF-8, as it says",
        |c, l| {
            l.payload_format_checked = true;
            let mut will = the_will();
            will.payload = b"\xFF";
            will.properties.message.payload_is_utf8 = Some(true);
            c.will = Some(will);
        },
        Some(ReasonCode::PayloadFormatInvalid),
    ),
    (
        "a will that is delayed",
        |c, _| {
            c.will = Some(Will {
                topic: "$delayed/5/w",
                ..the_will()
            });
        },
        None,
    ),
    (
        "a will that is delayed by nonsense",
        |c, _| {
            c.will = Some(Will {
                topic: "$delayed/x/w",
                ..the_will()
            });
        },
        Some(ReasonCode::ProtocolError),
    ),
    (
        "an identifier that is no level below the mount point",
        |c, l| {
            c.client_id = "a/b";
            l.mount_point = Template::prefix("m/%c/").ok();
        },
        Some(ReasonCode::ClientIdentifierNotValid),
    ),
];

#[test]
fn connects_are_refused_for_the_right_reason() {
    for (name, change, reason) in CONNECTS {
        let (mut connect, mut limits) = (connect(Version::V5), Limits::default());
        change(&mut connect, &mut limits);
        let refused = Bench::greet(limits, &connect).err().map(|r| r.reason);
        assert_eq!(refused, *reason, "{name}");
    }
    let limits = Limits {
        keep_alive_max_s: 10,
        ..Limits::default()
    };
    let refused = Bench::greet(limits, &connect(Version::V311)).err();
    assert_eq!(
        refused.map(|refused| refused.reason),
        Some(ReasonCode::ClientIdentifierNotValid),
        "a client that cannot be told"
    );
}

/// Packets after CONNECT that end the conversation, and what a client of 5.0 is told; before, it is told nothing.
#[test]
fn what_breaks_the_rules_ends_the_conversation() {
    let alias = |alias, topic| {
        Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: PublishProperties {
                topic_alias: NonZeroU16::new(alias),
                ..PublishProperties::default()
            },
            payload: b"",
        })
    };
    let disconnect = |expiry| {
        Packet::Disconnect(crate::codec::Disconnect {
            reason: ReasonCode::Success,
            properties: crate::codec::DisconnectProperties {
                session_expiry_s: Some(expiry),
                ..Default::default()
            },
        })
    };
    let auth = crate::codec::Auth {
        reason: ReasonCode::ReAuthenticate,
        properties: Default::default(),
    };
    let rows: Vec<(Packet<'_>, ReasonCode)> = vec![
        (alias(33, "t"), ReasonCode::TopicAliasInvalid),
        (alias(1, ""), ReasonCode::ProtocolError),
        (Packet::Auth(auth), ReasonCode::ProtocolError),
        (disconnect(5), ReasonCode::ProtocolError),
    ];
    for (packet, reason) in rows {
        let mut bench = Bench::v5();
        let next = bench.input(&packet);
        assert!(
            matches!(next, Next::Close(Goodbye::Broken(found, _)) if found == reason),
            "{packet:?}: {next:?}"
        );
        assert_eq!(bench.said(), [0xE0, 1, reason.as_u8()]);
        let mut old = Bench::open(Limits::default(), &connect(Version::V311));
        assert!(matches!(old.input(&packet), Next::Close(_)));
        assert!(old.said().is_empty());
    }
}

#[test]
fn acknowledgements_come_in_the_order_of_the_messages() {
    let mut bench = Bench::v5();
    bench.input(&publish(Qos::AtLeastOnce, 1, "t", b"a"));
    bench.input(&publish(Qos::AtLeastOnce, 2, "$SYS/x", b"denied"));
    bench.input(&publish(Qos::ExactlyOnce, 3, "t", b"b"));
    bench.input(&publish(Qos::AtMostOnce, 0, "t", b"c"));
    assert!(bench.said().is_empty(), "the first is not published yet");
    let payloads: Vec<Bytes> = bench
        .publish_all()
        .iter()
        .map(|message| message.payload.clone())
        .collect();
    assert_eq!(payloads, [&b"a"[..], b"c"], "QoS 2 waits for its PUBREL");
    assert_eq!(
        bench.said(),
        [
            0x40, 3, 0, 1, 0x10, // nobody was there
            0x40, 3, 0, 2, 0x87, // denied
            0x50, 2, 0, 3,
        ]
    );
}

#[test]
fn a_qos_2_message_is_published_once_at_its_pubrel() {
    let mut bench = Bench::v5();
    let packet = publish(Qos::ExactlyOnce, 9, "t", b"x");
    bench.input(&packet);
    bench.input(&packet);
    assert_eq!(bench.said(), [0x50, 2, 0, 9, 0x50, 2, 0, 9]);
    assert!(bench.publish_all().is_empty());
    bench.input(&Packet::Pubrel(ack(9)));
    assert!(bench.said().is_empty(), "not before it is published");
    assert_eq!(bench.publish_all().len(), 1);
    assert_eq!(bench.said(), [0x70, 2, 0, 9]);
    bench.input(&Packet::Pubrel(ack(9)));
    assert!(bench.publish_all().is_empty());
    assert_eq!(bench.said(), [0x70, 2, 0, 9], "an unknown id");

    let limits = Limits {
        qos2_routing: Qos2Routing::AtPublish,
        ..Limits::default()
    };
    let mut early = Bench::open(limits, &connect(Version::V5));
    early.input(&packet);
    assert_eq!(early.publish_all().len(), 1);
    early.input(&packet);
    early.input(&Packet::Pubrel(ack(9)));
    assert!(early.publish_all().is_empty());
    assert_eq!(early.said(), [0x50, 2, 0, 9, 0x50, 2, 0, 9, 0x70, 2, 0, 9]);
}

#[test]
fn the_receive_maximum_counts_what_is_not_acknowledged() {
    let limits = || Limits {
        receive_max: 2,
        ..Limits::default()
    };
    let mut bench = Bench::open(limits(), &connect(Version::V5));
    for round in 0..3 {
        bench.input(&publish(Qos::AtLeastOnce, 1, "t", b"a"));
        bench.input(&publish(Qos::ExactlyOnce, 2, "t", b"b"));
        bench.publish_all();
        bench.input(&Packet::Pubrel(ack(2)));
        bench.publish_all();
        assert!(bench.session.is_open(), "{round}");
    }
    bench.said();
    bench.input(&publish(Qos::ExactlyOnce, 1, "t", b"a"));
    bench.input(&publish(Qos::ExactlyOnce, 2, "t", b"b"));
    bench.input(&publish(Qos::ExactlyOnce, 2, "t", b"b"));
    assert!(bench.session.is_open(), "a known id does not count twice");
    bench.said();
    bench.input(&publish(Qos::AtLeastOnce, 3, "t", b"c"));
    assert_eq!(bench.said(), [0xE0, 1, 0x93]);
}

#[test]
fn the_window_holds_back_and_a_resumed_session_sends_again() {
    let mut hello = connect(Version::V5);
    hello.properties.receive_maximum = NonZeroU16::new(2);
    hello.properties.session_expiry_s = Some(60);
    let mut bench = Bench::open(Limits::default(), &hello);
    let assured = Quality::ExactlyOnce;
    for payload in [&b"1"[..], b"2", b"3"] {
        let delivery = bench.deliver(&message(payload, assured), Qos::AtLeastOnce);
        assert_eq!(delivery, Delivery::Delivered);
    }
    let packet = |first: u8, id: u8, payload: u8| [first, 7, 0, 1, b't', 0, id, 0, payload];
    assert_eq!(
        bench.said(),
        [packet(0x32, 1, b'1'), packet(0x32, 2, b'2')].concat()
    );
    bench.input(&Packet::Puback(ack(1)));
    assert_eq!(bench.said(), packet(0x32, 3, b'3'));
    let _ = bench.deliver(&message(b"4", assured), Qos::ExactlyOnce);
    let left = bench.session.leave();
    assert_eq!(left.expiry_s, 60);

    hello.properties.receive_maximum = NonZeroU16::new(1);
    let mut again = Bench::greet(Limits::default(), &hello).unwrap();
    again.accept(Some(left.state));
    let said = again.said();
    assert_eq!(said[..3], [0x20, 14, 1], "session present");
    assert_eq!(said[16..], packet(0x3A, 2, b'2'), "DUP and the same id");
    again.input(&Packet::Puback(ack(2)));
    assert_eq!(again.said(), packet(0x3A, 3, b'3'));
    again.input(&Packet::Puback(ack(3)));
    assert_eq!(again.said(), packet(0x34, 4, b'4'));
    again.input(&Packet::Pubrec(ack(4)));
    assert_eq!(again.said(), [0x62, 2, 0, 4]);
    again.input(&Packet::Pubcomp(ack(4)));
    assert_eq!(again.session.outstanding(), (0, 0));
}

#[test]
fn a_slow_client_loses_what_may_be_lost_and_keeps_the_rest_within_limits() {
    let limits = Limits {
        queue_messages: 1,
        ..Limits::default()
    };
    let mut bench = Bench::open(limits, &connect(Version::V311));
    bench.wire.full = true;
    let lost = bench.deliver(&message(b"0", Quality::AtMostOnce), Qos::ExactlyOnce);
    assert_eq!(lost, Delivery::Dropped(DropReason::OutboxFull));
    let assured = message(b"1", Quality::AtLeastOnce);
    let outcomes: Vec<_> = (0..3)
        .map(|_| bench.deliver(&assured, Qos::AtLeastOnce))
        .collect();
    assert_eq!(
        outcomes,
        [
            Delivery::Delivered, // so that an acknowledgement will come
            Delivery::Delivered, // in the queue
            Delivery::Dropped(DropReason::OutboxFull),
        ]
    );
    bench.limits.queue_policy = QueuePolicy::Disconnect;
    let _ = bench.deliver(&assured, Qos::AtLeastOnce);
    assert_eq!(
        bench.session.take_expelled(),
        Some(ReasonCode::QuotaExceeded)
    );
}

#[test]
fn retained_messages_follow_the_suback_at_the_clients_pace() {
    let mut bench = Bench::v5();
    for name in ["r/1", "r/2"] {
        let value = Message {
            retain: true,
            quality: Quality::AtLeastOnce,
            ..Message::new(Subject::new(name).unwrap(), Bytes::from_static(b"v"))
        };
        let _ = bench.retained.set(Arc::new(value), Box::new(|_| {}));
    }
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(5).unwrap(),
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription {
            filter: "r/+",
            options: SubscriptionOptions::default(),
        }],
    });
    assert_eq!(bench.input(&subscribe), Next::Pause);
    let Some(Action::Subscribe(subscribing)) = bench.actions.pop() else {
        panic!("no subscription");
    };
    bench.wire.full = true;
    bench.with(|session, cx, wire| session.subscribed(*subscribing, cx, wire));
    assert_eq!(bench.said(), [0x90, 4, 0, 5, 0, 0], "SUBACK only");
    assert!(bench.wire.asked, "the rest when there is room");
    bench.wire.full = false;
    bench.with(Session::pump);
    let packet = |n: u8| [0x31, 7, 0, 3, b'r', b'/', n, 0, b'v'];
    assert_eq!(bench.said(), [packet(b'1'), packet(b'2')].concat());
}

#[test]
fn a_will_goes_with_the_connection_unless_the_client_says_goodbye() {
    let mut hello = connect(Version::V5);
    hello.will = Some(the_will());
    let goodbye = |reason| {
        Packet::Disconnect(crate::codec::Disconnect {
            reason,
            properties: Default::default(),
        })
    };
    for (packet, fires) in [
        (None, true),
        (Some(goodbye(ReasonCode::Success)), false),
        (Some(goodbye(ReasonCode::DisconnectWithWill)), true),
    ] {
        let mut bench = Bench::open(Limits::default(), &hello);
        if let Some(packet) = packet {
            bench.input(&packet);
        }
        let will = bench.session.leave().will;
        assert_eq!(will.is_some(), fires);
        if let Some(will) = will {
            let message = will.publish(NOW);
            assert_eq!(message.origin, Origin(7), "no-local is about the client");
            assert_eq!(message.quality, Quality::AtLeastOnce);
        }
    }
}

#[test]
fn a_search_for_one_retained_message_among_many_takes_turns() {
    let mut bench = Bench::v5();
    for number in 0..5000 {
        let end = if number == 4999 { "here" } else { "there" };
        let subject = Subject::new(&format!("site/{number}/{end}")).unwrap();
        let value = Message::new(subject, Bytes::from_static(b"v"));
        let _ = bench.retained.set(Arc::new(value), Box::new(|_| {}));
    }
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(5).unwrap(),
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription {
            filter: "+/+/here",
            options: SubscriptionOptions::default(),
        }],
    });
    assert_eq!(bench.input(&subscribe), Next::Pause);
    let Some(Action::Subscribe(subscribing)) = bench.actions.pop() else {
        panic!("no subscription");
    };
    bench.with(|session, cx, wire| session.subscribed(*subscribing, cx, wire));
    let mut turns = 0;
    while std::mem::take(&mut bench.wire.asked) {
        turns += 1;
        bench.with(Session::pump);
    }
    assert!((5..100).contains(&turns), "{turns}");
    let found = bench.wire.bytes.windows(4).filter(|part| part == b"here");
    assert_eq!(found.count(), 1);
}
