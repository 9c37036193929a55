//! QoS 2 messages of a session that outlives the process, until their PUBREL.

use longtail_model::Seq;

use super::*;
use crate::config::AutoSubscription;

const NUMBER: u64 = 77;

fn hello() -> Connect<'static> {
    let mut hello = connect(Version::V5);
    hello.properties.session_expiry_s = Some(60);
    hello
}

/// A connection of the session; without a `state` its first.
fn open(state: Option<State>) -> Bench {
    let mut bench = Bench::greet(Limits::default(), &hello()).unwrap();
    bench.with(|session, cx, wire| {
        session.take_in(state, NUMBER, STORES, cx);
        session.welcome(cx, wire);
    });
    bench.said();
    bench
}

/// The one thing that is to be done.
fn only(bench: &mut Bench) -> Action {
    assert_eq!(bench.actions.len(), 1, "{:?}", bench.actions);
    bench.actions.remove(0)
}

fn store(bench: &mut Bench) -> (Arc<Entry>, Ticket) {
    match only(bench) {
        Action::Store { entry, ticket, .. } => (entry, ticket),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_that_comes_on_two_connections_before_it_is_written_has_one_entry() {
    let packet = publish(Qos::ExactlyOnce, 23, "t", b"x");
    let mut first = open(None);
    first.input(&packet);
    let (entry, _) = store(&mut first);
    let mut second = open(Some(first.session.leave().state));
    second.input(&packet);
    let (again, ticket) = store(&mut second);
    assert!(Arc::ptr_eq(&entry, &again));
    assert!(second.said().is_empty(), "PUBREC before it is written");
    second.with(|session, _, wire| session.complete(ticket, ReasonCode::Success, wire));
    assert_eq!(second.said(), [0x50, 2, 0, 23]);
}

#[test]
fn pubrel_is_not_taken_for_what_is_not_written() {
    let mut bench = open(None);
    bench.input(&publish(Qos::ExactlyOnce, 1, "t", b"x"));
    bench.actions.clear();
    bench.input(&Packet::Pubrel(ack(1)));
    assert!(bench.actions.is_empty());
    assert_eq!(bench.said(), [0xE0, 1, 0x82]);
}

#[test]
fn what_is_written_is_answered_at_once_and_released_by_its_number() {
    let mut state = State {
        number: NUMBER,
        ..State::default()
    };
    state.restore_incoming(9, message(b"x", Quality::ExactlyOnce), Seq(5));
    let mut bench = open(Some(state));
    bench.input(&publish(Qos::ExactlyOnce, 9, "t", b"x"));
    assert!(bench.actions.is_empty());
    assert_eq!(bench.said(), [0x50, 2, 0, 9]);
    let mut tickets = Vec::new();
    for again in [false, true] {
        bench.input(&Packet::Pubrel(ack(9)));
        match only(&mut bench) {
            Action::Release {
                release, ticket, ..
            } => {
                let seq = Seq(5);
                assert_eq!(release, Release { seq, again });
                tickets.push(ticket);
            }
            other => panic!("{other:?}"),
        }
    }
    let answered = |bench: &mut Bench, ticket| {
        bench.with(|session, _, wire| session.complete(ticket, ReasonCode::Success, wire));
        assert_eq!(bench.said(), [0x70, 2, 0, 9]);
    };
    answered(&mut bench, tickets[0]);
    assert_eq!(bench.session.levels().unreleased, 0);
    bench.input(&publish(Qos::ExactlyOnce, 9, "t", b"the next"));
    store(&mut bench);
    answered(&mut bench, tickets[1]);
    assert_eq!(bench.session.levels().unreleased, 1, "of another message");
}

#[test]
fn what_a_client_is_subscribed_to_by_itself_takes_no_packet_id_before_what_was_under_way_is_taken_up()
 {
    let own = AutoSubscription {
        filter: Template::new("r/+").unwrap(),
        options: SubscriptionOptions {
            qos: Qos::ExactlyOnce,
            ..SubscriptionOptions::default()
        },
    };
    let limits = Limits {
        auto_subscriptions: vec![own].into(),
        ..Limits::default()
    };
    let mut bench = Bench::greet(limits, &hello()).unwrap();
    let value = Message {
        retain: true,
        quality: Quality::ExactlyOnce,
        ..Message::new(Subject::new("r/1").unwrap(), Bytes::from_static(b"v"))
    };
    let _ = bench.retained.set(Arc::new(value), Box::new(|_| {}));
    let state = State {
        number: NUMBER,
        ..State::default()
    };
    bench.accept(Some(state));
    bench.said();
    let own = bench.with(|session, cx, _| session.subscribe_by_itself(cx));
    bench.with(|session, cx, wire| session.subscribed(own.unwrap(), cx, wire));
    assert!(bench.session.is_resuming());
    assert!(
        bench.said().is_empty(),
        "its id may be that of a message whose mark is being read"
    );
    bench.with(Session::resumed);
    assert_eq!(
        bench.said(),
        [0x35, 9, 0, 3, b'r', b'/', b'1', 0, 1, 0, b'v']
    );
}
