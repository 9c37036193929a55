//! What is in flight when its subscription ends, or changes: it is completed as it was sent.

use longtail_broker::stored::new_message;
use longtail_engine::{Command, Handle, Message as Shown, NewMessage, Reply, Settle, StreamName};
use longtail_model::{ConsumerTag, Filter, GroupId, Lsn, Priority, Seq, StreamId};

use super::*;
use crate::durable::recent::Recent;
use crate::session::feed::{DutyChange, Share};
use crate::session::kept::{InFlight, Origin as Place, Sent, Write};

const GROUP: GroupId = GroupId(9);
const SHARE: &str = "$share/g/t";

fn subscriptions(text: &str, qos: Qos) -> Subscriptions {
    let tag = Tag {
        qos,
        ..Tag::default()
    };
    let held = Held {
        filter: Filter::parse_mqtt("t").unwrap(),
        group: text.starts_with('$').then(|| "g".into()),
        options: LiveOptions {
            tag: tag.pack(),
            not_assured: true,
            ..LiveOptions::default()
        },
        is_counted: true,
        is_exclusive: false,
    };
    let mut subscriptions = Subscriptions::default();
    subscriptions.insert(text.into(), held);
    subscriptions
}

fn delivery(seq: u64, mark: u64) -> longtail_engine::Delivery {
    longtail_engine::Delivery {
        consumer: ConsumerTag(0),
        stream: StreamId(1),
        group: GROUP,
        seq: Seq(seq),
        position: Lsn(seq),
        redeliveries: 0,
        failures: 0,
        mark,
    }
}

fn shown(record: &NewMessage) -> Shown<'_> {
    Shown {
        created: NOW,
        priority: Priority::default(),
        delay_ms: 0,
        ack_timeout_ms: 0,
        expires: Timestamp::NEVER,
        subject: &record.subject,
        id: &record.id,
        key: 0,
        headers: &record.headers,
        payload: &record.payload,
        shared: Some(&record.payload),
    }
}

fn record() -> NewMessage {
    new_message(&message(b"m", Quality::ExactlyOnce), NOW)
}

impl Bench {
    /// The session comes back to this state, and the group of its subscription has these messages marked.
    fn come_back(state: State, marked: &[(Seq, u64)]) -> Bench {
        let mut bench = Bench::greet(Limits::default(), &connect(Version::V311)).unwrap();
        let drawn: Vec<_> = (state.subscriptions.iter())
            .map(|(text, held)| (Arc::<str>::from(&**text), held.group.clone()))
            .collect();
        bench.with(|session, cx, wire| {
            session.take_in(Some(state), 0, STORES, cx);
            for (text, share) in &drawn {
                let name = StreamName::new("default", "f");
                let feed = session.feed_mut().unwrap();
                feed.resume(text, &name, Share::of(share.as_deref(), &cx.limits.shares));
            }
            session.resumed(cx, wire);
            session.welcome(cx, wire);
        });
        while bench.session.is_resuming() {
            let commands = bench.commands();
            assert!(!commands.is_empty(), "it waits for nothing");
            for (token, command) in commands {
                match command {
                    Command::Marked { .. } => {
                        let messages = marked.to_vec();
                        let group = GROUP;
                        bench.answer(token, &Reply::Marked { group, messages });
                    }
                    Command::TakeOne {
                        message: Handle::Group(GROUP, seq),
                    } => {
                        let mark = marked.iter().find(|(at, _)| *at == seq).unwrap().1;
                        let record = record();
                        let reply = Reply::Delivered(delivery(seq.0, mark));
                        bench.with(|session, cx, wire| {
                            session.answered(
                                token,
                                &reply,
                                Some(&shown(&record)),
                                &Recent::default(),
                                cx,
                                wire,
                            );
                        });
                    }
                    Command::Open { .. } => {
                        let stream = StreamId(1);
                        bench.answer(token, &Reply::Opened { stream });
                    }
                    _ => bench.answer(token, &Reply::Done),
                }
            }
        }
        let connack = usize::from(bench.wire.bytes[1]) + 2;
        bench.wire.bytes.drain(..connack);
        bench
    }

    fn answer(&mut self, token: u64, reply: &Reply) {
        self.with(|session, cx, wire| {
            session.answered(token, reply, None, &Recent::default(), cx, wire);
        });
    }

    fn commands(&mut self) -> Vec<(u64, Command)> {
        let feed = self.session.feed_mut().unwrap();
        std::mem::take(feed.commands())
    }

    fn writes(&mut self) -> Vec<Write> {
        self.session.feed_mut().unwrap().take_writes()
    }

    /// The message `seq` comes from the stream, its mark becomes durable; that mark.
    fn push(&mut self, seq: u64) -> u64 {
        let record = record();
        self.with(|session, cx, wire| {
            session.pushed(
                &delivery(seq, 0),
                Some(&shown(&record)),
                &Recent::default(),
                cx,
                wire,
            );
        });
        let mut marks = Vec::new();
        for (token, command) in self.commands() {
            if let Command::Mark { mark, .. } = command {
                marks.push(mark);
                self.answer(token, &Reply::Done);
            }
        }
        marks[0]
    }
}

fn settled(commands: &[(u64, Command)]) -> Vec<(u64, Settle)> {
    let settled = commands.iter().filter_map(|(_, command)| match command {
        Command::Settle {
            message: Handle::Group(GROUP, seq),
            how,
        } => Some((seq.0, *how)),
        _ => None,
    });
    settled.collect()
}

const PUBLISH_2: [u8; 8] = [0x34, 6, 0, 1, b't', 0, 1, b'm'];
const PUBLISH_2_AGAIN: [u8; 8] = [0x3C, 6, 0, 1, b't', 0, 1, b'm'];
const PUBLISH_1_AGAIN: [u8; 8] = [0x3A, 6, 0, 1, b't', 0, 1, b'm'];
const PUBREL: [u8; 4] = [0x62, 2, 0, 1];

#[test]
fn what_is_in_flight_outlives_its_subscription() {
    for (text, stage) in [("t", "sent"), ("t", "released"), (SHARE, "sent")] {
        let state = State::restored(42, subscriptions(text, Qos::ExactlyOnce));
        let mut bench = Bench::come_back(state, &[]);
        bench.push(1);
        assert_eq!(bench.said(), PUBLISH_2);
        if stage == "released" {
            bench.input(&Packet::Pubrec(ack(1)));
            for (token, _) in bench.commands() {
                bench.answer(token, &Reply::Done);
            }
            assert_eq!(bench.said(), PUBREL);
        }
        bench.session.state.subscriptions.remove(text);
        bench.session.part_with(text);
        let writes = bench.writes();
        let [
            Write::Keep {
                flight,
                release: false,
            },
        ] = &*writes
        else {
            panic!("{writes:?}");
        };
        assert_eq!(flight.id.get(), 1);
        assert_eq!(flight.sent.is_some(), stage == "sent");
        assert_eq!(flight.origin.is_some(), text == SHARE);
        let commands = bench.commands();
        assert_eq!(settled(&commands), [(1, Settle::Ack)]);
        assert!(matches!(
            commands[commands.len() - 2..],
            [(_, Command::Unsubscribe { .. }), (_, Command::Close { .. })]
        ));

        // The client comes back, to the same process or to another.
        let mut found = State::restored(42, Subscriptions::default());
        found.restore_in_flight(InFlight::clone(flight));
        for state in [bench.session.leave().state, found] {
            let mut bench = Bench::come_back(state, &[]);
            if stage == "sent" {
                assert_eq!(bench.said(), PUBLISH_2_AGAIN);
                bench.input(&Packet::Pubrec(ack(1)));
                assert_eq!(bench.said(), b"", "not before that is written down");
                let writes = bench.writes();
                let [
                    Write::Keep {
                        flight,
                        release: true,
                    },
                ] = &*writes
                else {
                    panic!("{writes:?}");
                };
                assert!(flight.sent.is_none());
                let id = flight.id;
                bench.with(|session, _, wire| session.kept(id, &Ok(()), wire));
            }
            assert_eq!(bench.said(), PUBREL);
            bench.input(&Packet::Pubcomp(ack(1)));
            assert!(matches!(*bench.writes(), [Write::Forget(id)] if id.get() == 1));
            assert_eq!(bench.session.outstanding(), (0, 0));
        }
    }
}

#[test]
fn what_was_not_sent_goes_with_its_subscription_and_a_shares_to_another() {
    for text in ["t", SHARE] {
        let state = State::restored(42, subscriptions(text, Qos::AtLeastOnce));
        let mut bench = Bench::come_back(state, &[]);
        bench.push(1);
        bench.wire.full = true;
        let record = record();
        bench.with(|session, cx, wire| {
            session.pushed(
                &delivery(2, 0),
                Some(&shown(&record)),
                &Recent::default(),
                cx,
                wire,
            );
        });
        assert_eq!(bench.session.outstanding(), (1, 1));
        bench.session.part_with(text);
        assert_eq!(bench.session.outstanding(), (1, 0));
        let settled = settled(&bench.commands());
        let given_back = (settled.iter()).filter(|(seq, how)| *seq == 2 && *how != Settle::Ack);
        assert_eq!(given_back.count(), usize::from(text == SHARE));
        assert!(settled.contains(&(1, Settle::Ack)));
    }
}

#[test]
fn what_was_sent_is_sent_again_at_its_own_qos() {
    let of = |qos| State::restored(42, subscriptions("t", qos));
    for (first, again) in [
        (Qos::ExactlyOnce, PUBLISH_2_AGAIN),
        (Qos::AtLeastOnce, PUBLISH_1_AGAIN),
    ] {
        let mut bench = Bench::come_back(of(first), &[]);
        let mark = bench.push(1);
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut bench = Bench::come_back(of(qos), &[(Seq(1), mark)]);
            assert_eq!(bench.said(), again, "granted {qos:?} by now");
        }
    }
}

#[test]
fn a_crash_between_record_and_group_sends_it_once() {
    for text in ["t", SHARE] {
        let mut state = State::restored(42, subscriptions(text, Qos::ExactlyOnce));
        let mark = Bench::come_back(state, &[]).push(1);
        let in_flight = |seq| InFlight {
            id: PacketId::MIN,
            send: 1,
            sent: Some(Sent {
                message: message(b"m", Quality::ExactlyOnce),
                qos: Qos::ExactlyOnce,
                retain: false,
                ids: Vec::new(),
            }),
            origin: (text == SHARE).then(|| Place {
                text: SHARE.into(),
                seq: Seq(seq),
            }),
        };
        state = State::restored(42, subscriptions(text, Qos::ExactlyOnce));
        state.restore_in_flight(in_flight(1));
        let mut bench = Bench::come_back(state, &[(Seq(1), mark)]);
        assert_eq!(bench.said(), PUBLISH_2_AGAIN);
        assert_eq!(settled(&bench.commands()), [(1, Settle::Ack)]);
        if text == SHARE {
            // Something else that goes by this id.
            state = State::restored(42, subscriptions(text, Qos::ExactlyOnce));
            state.restore_in_flight(in_flight(2));
            let mut bench = Bench::come_back(state, &[(Seq(1), mark)]);
            assert_eq!(bench.said(), PUBLISH_2_AGAIN);
            let settled = settled(&bench.commands());
            assert!(matches!(*settled, [(1, Settle::Release { .. })]));
        }
    }
}

#[test]
fn a_member_keeps_what_it_has_received_of_a_share() {
    let state = State::restored(42, subscriptions(SHARE, Qos::ExactlyOnce));
    let mut bench = Bench::come_back(state, &[]);
    bench.push(1);
    bench.said();
    bench.input(&Packet::Pubrec(ack(1)));
    let duties = bench.session.feed_mut().unwrap().take_duties();
    let [DutyChange::Taken(duty)] = *duties else {
        panic!("{duties:?}");
    };
    assert_eq!((duty.id, duty.seq), (PacketId::MIN, Seq(1)));
    assert!(bench.writes().is_empty(), "it is on record once");
    let commands = bench.commands();
    assert_eq!(settled(&commands), [(1, Settle::Ack)]);
    assert_eq!(bench.said(), b"", "not before the share knows");
    bench.answer(commands[0].0, &Reply::Done);
    assert_eq!(bench.said(), PUBREL);
    let mut found = State::restored(42, subscriptions(SHARE, Qos::ExactlyOnce));
    found.restore_duty(&duty);
    assert_eq!(Bench::come_back(found, &[]).said(), PUBREL);
}
