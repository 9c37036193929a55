//! What queues ask of a stream: limits of what is ready, failures, priorities of consumers, other settings on the way.

use super::*;
use crate::config::{DeadLetter, Limits, Overflow};

fn queue() -> StreamConfig {
    StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    }
}

impl Bench {
    /// A session with a link 0 to a stream.
    fn opener(&mut self, name: &str, config: StreamConfig) -> SessionId {
        let session = self.shard.attach();
        let open = Command::Open {
            link: Link(0),
            name: StreamName::new("default", name),
            create: Some(Box::new(config)),
            role: Role::Consumer,
        };
        assert!(matches!(
            self.ask(session, open),
            Some(Reply::Opened { .. })
        ));
        session
    }

    fn publish(&mut self, session: SessionId, priority: u32, body: &'static str) {
        let message = NewMessage {
            priority: Priority(priority),
            payload: Bytes::from_static(body.as_bytes()),
            ..NewMessage::default()
        };
        let publish = Command::Publish {
            to: Target::Link(Link(0)),
            also: Vec::new(),
            message,
        };
        let published = self.ask(session, publish);
        assert!(
            matches!(published, Some(Reply::Published { refused: None, .. })),
            "{published:?}"
        );
    }

    fn subscribe(&mut self, session: SessionId) {
        let subscribe = Command::Subscribe {
            consumer: ME,
            link: Link(0),
            group: "".into(),
        };
        assert_eq!(self.ask(session, subscribe), Some(Reply::Done));
    }

    fn unsubscribe(&mut self, session: SessionId) {
        let unsubscribe = Command::Unsubscribe {
            consumer: ME,
            link: Link(0),
            group: "".into(),
        };
        assert_eq!(self.ask(session, unsubscribe), Some(Reply::Done));
    }

    fn credit(&mut self, session: SessionId, level: u32) {
        let credit = Command::Credit {
            consumer: ME,
            credit: Credit::Level(level),
        };
        assert_eq!(self.ask(session, credit), Some(Reply::Done));
    }

    /// What was pushed to a session since this was asked last: number and failures.
    fn pushes(&mut self, to: SessionId) -> Vec<(u64, u32)> {
        let mut pushed = Vec::new();
        self.seen.0.retain(|(session, effect)| match effect {
            Effect::Push(delivery) if *session == to => {
                pushed.push((delivery.seq.0, delivery.failures));
                false
            }
            _ => true,
        });
        pushed
    }

    fn release(&mut self, session: SessionId, seq: u64, failed: bool) {
        let stream = self.stream_of(session);
        let settle = Command::Settle {
            message: Handle::Group(GroupId(stream.0), Seq(seq)),
            how: Settle::Release {
                priority: None,
                delay_ms: 0,
                failed,
            },
        };
        assert_eq!(self.ask(session, settle), Some(Reply::Done));
    }

    fn stream_of(&self, session: SessionId) -> StreamId {
        let key = self.shard.session_by[&session];
        self.shard.sessions[key].link(Link(0)).unwrap()
    }

    fn ready(&mut self, session: SessionId, name: &str) -> u64 {
        let describe = Command::DescribeStream {
            name: StreamName::new("default", name),
        };
        match self.ask(session, describe) {
            Some(Reply::StreamInfo(info)) => info.ready,
            other => panic!("{other:?}"),
        }
    }
}

fn bounded(max_messages: u64, overflow: Overflow, order: Order) -> StreamConfig {
    StreamConfig {
        limits: Limits {
            max_messages,
            of: Counted::Ready,
            ..Limits::default()
        },
        overflow,
        group: Some(GroupConfig {
            order,
            ..GroupConfig::default()
        }),
        ..StreamConfig::default()
    }
}

#[test]
fn who_waits_gets_a_message_that_would_not_fit() {
    let mut bench = Bench::new();
    let me = bench.opener("q", bounded(1, Overflow::DropOldest, Order::Sequence));
    bench.subscribe(me);
    bench.credit(me, 1);
    for body in ["1", "2", "3"] {
        bench.publish(me, 0, body);
    }
    // The first was taken, the second made room.
    assert_eq!(bench.pushes(me), [(1, 0)]);
    assert_eq!(bench.ready(me, "q"), 1);
    // What comes back is the oldest, and too much.
    bench.credit(me, 0);
    bench.release(me, 1, false);
    assert_eq!(bench.ready(me, "q"), 1);
    bench.credit(me, 1);
    assert_eq!(bench.pushes(me), [(3, 0)]);
}

fn release_all(messages: &[u64], stream: StreamId, failed: bool) -> Command {
    Command::ReleaseAll {
        group: GroupId(stream.0),
        messages: messages.iter().copied().map(Seq).collect(),
        delay_ms: 0,
        failed,
    }
}

/// A queue of three at most, whose first five messages one consumer holds, and a consumer that waits at it.
fn full_when_it_comes_back(bench: &mut Bench) -> (SessionId, SessionId) {
    let mut config = bounded(3, Overflow::DropOldest, Order::Sequence);
    config.group = Some(GroupConfig {
        dead_letter: Some(DeadLetter {
            on: crate::config::Reasons::ALL,
            ..DeadLetter::to("dead")
        }),
        ..GroupConfig::default()
    });
    bench.opener("dead", queue());
    let holder = bench.opener("q", config.clone());
    bench.subscribe(holder);
    bench.credit(holder, 5);
    for body in ["1", "2", "3", "4", "5"] {
        bench.publish(holder, 0, body);
    }
    assert_eq!(bench.pushes(holder).len(), 5);
    let waiter = bench.opener("q", config);
    bench.subscribe(waiter);
    bench.credit(waiter, 9);
    (holder, waiter)
}

#[test]
fn what_comes_back_at_once_makes_room_before_it_is_shown() {
    let mut bench = Bench::new();
    let (holder, waiter) = full_when_it_comes_back(&mut bench);
    let stream = bench.stream_of(holder);
    // Whoever gave it back has room again, but the other has waited longer. 9 is not held.
    let back = release_all(&[5, 1, 9, 2, 2, 4, 3], stream, false);
    assert_eq!(bench.ask(holder, back), Some(Reply::Done));
    assert_eq!(bench.pushes(waiter), [(3, 0), (4, 0), (5, 0)]);
    assert_eq!(bench.pushes(holder), []);
    assert_eq!(messages_of(&mut bench, holder, "dead"), 2);
}

#[test]
fn what_a_session_leaves_makes_room_before_it_is_shown() {
    let mut bench = Bench::new();
    let (holder, waiter) = full_when_it_comes_back(&mut bench);
    bench.shard.detach(bench.now, holder, &mut bench.seen);
    assert_eq!(bench.pushes(waiter), [(3, 0), (4, 0), (5, 0)]);
    assert_eq!(messages_of(&mut bench, waiter, "dead"), 2);
}

#[test]
fn what_a_session_leaves_without_a_limit_is_shown_in_the_order_of_taking() {
    let mut bench = Bench::new();
    let holder = bench.worker(&["t"]);
    for priority in [5, 3, 1] {
        bench.put(holder, 0, priority, 0);
        delivered(bench.ask(holder, reserve(Wait::No)));
    }
    let waiter = bench.worker(&["t"]);
    let token = bench.send(waiter, reserve(Wait::Forever));
    bench.shard.detach(bench.now, holder, &mut bench.seen);
    assert_eq!(delivered(bench.reply(waiter, token)), Seq(1));
    assert_eq!(delivered(bench.ask(waiter, reserve(Wait::No))), Seq(3));
}

#[test]
fn what_does_not_fit_alone_is_not_shown_again() {
    let mut bench = Bench::new();
    let mut config = bounded(0, Overflow::DropOldest, Order::Sequence);
    config.limits.max_bytes = 3;
    let me = bench.opener("q", config);
    bench.subscribe(me);
    bench.credit(me, 9);
    bench.publish(me, 0, "large");
    bench.publish(me, 0, "s");
    assert_eq!(bench.pushes(me), [(1, 0), (2, 0)]);
    bench.release(me, 1, false);
    assert_eq!(bench.pushes(me), []);
    bench.release(me, 2, false);
    assert_eq!(bench.pushes(me), [(2, 0)]);
    assert_eq!(messages_of(&mut bench, me, "q"), 1);
}

#[test]
fn of_several_that_fail_each_is_judged_by_itself() {
    let mut bench = Bench::new();
    let mut config = queue();
    config.group = Some(GroupConfig {
        max_failures: Some(1),
        ..GroupConfig::default()
    });
    let me = bench.opener("q", config);
    bench.subscribe(me);
    bench.credit(me, 3);
    for body in ["1", "2", "3"] {
        bench.publish(me, 0, body);
    }
    let stream = bench.stream_of(me);
    bench.release(me, 2, true);
    bench.pushes(me);
    let back = release_all(&[1, 2, 3], stream, true);
    assert_eq!(bench.ask(me, back), Some(Reply::Done));
    assert_eq!(bench.pushes(me), [(1, 1), (3, 1)]);
    assert_eq!(messages_of(&mut bench, me, "q"), 2);
}

#[test]
fn the_least_urgent_makes_room_and_of_these_the_oldest() {
    let mut bench = Bench::new();
    let config = bounded(2, Overflow::DropLeastUrgent, Order::Priority);
    let me = bench.opener("q", config);
    for priority in [5, 9, 9, 1] {
        bench.publish(me, priority, "x");
    }
    // More urgent numbers are lower: 1 and 5 stay, both 9 went, the older one first.
    bench.subscribe(me);
    bench.credit(me, 9);
    assert_eq!(bench.pushes(me), [(4, 0), (1, 0)]);
}

#[test]
fn a_message_may_fail_so_often_and_losing_its_holder_is_a_failure() {
    let mut bench = Bench::new();
    let mut config = queue();
    if let Some(group) = &mut config.group {
        group.max_failures = Some(2);
        group.count_losses = true;
    }
    let me = bench.opener("q", config.clone());
    bench.publish(me, 0, "x");
    bench.subscribe(me);
    bench.credit(me, 1);
    assert_eq!(bench.pushes(me), [(1, 0)]);
    bench.release(me, 1, false);
    assert_eq!(bench.pushes(me), [(1, 0)]);
    bench.release(me, 1, true);
    assert_eq!(bench.pushes(me), [(1, 1)]);
    bench.shard.detach(bench.now, me, &mut bench.seen);
    let other = bench.opener("q", config);
    bench.subscribe(other);
    bench.credit(other, 1);
    assert_eq!(bench.pushes(other), [(1, 2)]);
    bench.release(other, 1, true);
    assert_eq!(bench.pushes(other), []);
    assert_eq!(bench.ready(other, "q"), 0);
}

#[test]
fn the_more_urgent_consumer_comes_first_while_it_has_room() {
    let mut bench = Bench::new();
    let low = bench.opener("q", queue());
    let high = bench.opener("q", queue());
    for session in [low, high] {
        bench.subscribe(session);
    }
    bench.credit(low, 9);
    let prefer = Command::Prefer {
        consumer: ME,
        priority: 1,
    };
    assert_eq!(bench.ask(high, prefer), Some(Reply::Done));
    bench.credit(high, 2);
    for body in ["1", "2", "3"] {
        bench.publish(low, 0, body);
    }
    assert_eq!(bench.pushes(high), [(1, 0), (2, 0)]);
    assert_eq!(bench.pushes(low), [(3, 0)]);
}

#[test]
fn of_several_the_one_that_began_to_draw_first_is_served() {
    let mut bench = Bench::new();
    let attached_first = bench.opener("q", queue());
    let drawing_first = bench.opener("q", queue());
    for session in [drawing_first, attached_first] {
        let dispatch = Command::Dispatch {
            stream: Target::Link(Link(0)),
            group: "".into(),
            how: Dispatch::Single,
        };
        assert_eq!(bench.ask(session, dispatch), Some(Reply::Done));
        bench.subscribe(session);
        bench.credit(session, 9);
    }
    bench.publish(attached_first, 0, "x");
    assert_eq!(bench.pushes(drawing_first), [(1, 0)]);
    assert_eq!(bench.pushes(attached_first), []);
}

#[test]
fn other_settings_hold_for_what_is_there() {
    let mut bench = Bench::new();
    let me = bench.opener("q", queue());
    bench.opener("dead", queue());
    for body in ["1", "2", "3", "4"] {
        bench.publish(me, 0, body);
    }
    let mut config = bounded(2, Overflow::DropOldest, Order::Sequence);
    config.expires_ms = Some(1_000);
    if let Some(group) = &mut config.group {
        group.dead_letter = Some(DeadLetter {
            on: crate::config::Reasons::ALL,
            note: (*b"note").into(),
            ..DeadLetter::to("dead")
        });
    }
    let redefine = |config: &StreamConfig| Command::Redefine {
        name: StreamName::new("default", "q"),
        config: Box::new(config.clone()),
    };
    assert_eq!(bench.ask(me, redefine(&config)), Some(Reply::Done));
    assert_eq!((bench.ready(me, "q"), bench.ready(me, "dead")), (2, 2));
    bench.pass(1_000);
    assert_eq!((bench.ready(me, "q"), bench.ready(me, "dead")), (0, 4));
    config.keep = Keep::UntilLimit;
    let refused = bench.ask(me, redefine(&config));
    assert!(matches!(
        refused,
        Some(Reply::Refused(Refusal::Unsupported(_)))
    ));
    let missing = Command::Redefine {
        name: StreamName::new("default", "nowhere"),
        config: Box::new(config),
    };
    assert_eq!(bench.ask(me, missing), Some(Reply::NotFound));
}

#[test]
fn what_comes_back_after_its_time_is_not_shown_again() {
    let mut bench = Bench::new();
    let config = StreamConfig {
        expires_ms: Some(500),
        ..queue()
    };
    let me = bench.opener("q", config);
    bench.publish(me, 0, "x");
    bench.subscribe(me);
    bench.credit(me, 1);
    assert_eq!(bench.pushes(me), [(1, 0)]);
    bench.pass(600);
    bench.release(me, 1, false);
    assert_eq!(bench.pushes(me), []);
    assert_eq!(bench.ready(me, "q"), 0);
}

#[test]
fn with_no_time_to_live_a_message_is_for_those_who_wait() {
    let mut bench = Bench::new();
    let config = StreamConfig {
        expires_ms: Some(0),
        ..queue()
    };
    let me = bench.opener("q", config);
    bench.publish(me, 0, "1");
    assert_eq!(bench.ready(me, "q"), 0);
    bench.subscribe(me);
    bench.credit(me, 1);
    bench.publish(me, 0, "2");
    bench.publish(me, 0, "3");
    assert_eq!(bench.pushes(me), [(2, 0)]);
    assert_eq!(bench.ready(me, "q"), 0);
}

#[test]
fn a_consumer_is_forgotten_when_it_draws_from_nothing_and_holds_nothing() {
    let mut b = Bench::new();
    let session = b.opener("orders", queue());
    let known = |b: &Bench| {
        b.shard.sessions[b.shard.session_by[&session]]
            .consumers
            .len()
    };
    for _ in 0..3 {
        b.subscribe(session);
        b.credit(session, 1);
        assert_eq!(known(&b), 1);
        b.unsubscribe(session);
        assert_eq!(known(&b), 0);
    }
    // Its credit went with it: a new one of the same tag begins with none.
    b.publish(session, 0, "one");
    b.subscribe(session);
    assert_eq!(b.pushes(session), []);
    b.credit(session, 1);
    assert_eq!(b.pushes(session), [(1, 0)]);
    b.unsubscribe(session);
    assert_eq!(known(&b), 1, "what it holds counts against its level");
    b.release(session, 1, false);
    assert_eq!(known(&b), 0);
    let take = Command::Take {
        consumer: ME,
        wait: Wait::No,
        deadline_margin_ms: 0,
    };
    assert_eq!(b.ask(session, take), Some(Reply::NotFound));
}

/// Offers a message to a stream and others; `true`: somebody was given it.
fn offer(b: &mut Bench, from: SessionId, to: Target, also: Vec<StreamId>, delay_ms: u64) -> bool {
    let message = NewMessage {
        delay_ms,
        ..NewMessage::default()
    };
    match b.ask(from, Command::Offer { to, also, message }) {
        Some(Reply::Published { refused: None, .. }) => true,
        Some(Reply::NotFound) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_offered_is_there_only_if_somebody_is_given_it_at_once() {
    let mut b = Bench::new();
    let me = b.opener("q", queue());
    let q = Target::Link(Link(0));
    assert!(!offer(&mut b, me, q, vec![], 0), "nobody is there");
    b.subscribe(me);
    assert!(!offer(&mut b, me, q, vec![], 0), "it has no room");
    assert_eq!(b.ready(me, "q"), 0);
    b.credit(me, 1);
    assert!(!offer(&mut b, me, q, vec![], 5), "not now");
    assert!(offer(&mut b, me, q, vec![], 0));
    assert!(!offer(&mut b, me, q, vec![], 0), "its room is used up");
    assert_eq!(b.pushes(me), [(1, 0)]);
    // What waits for room is before it.
    b.publish(me, 0, "2");
    b.credit(me, 2);
    assert_eq!(b.pushes(me), [(2, 0)]);
    assert!(!offer(&mut b, me, q, vec![], 0));
    b.credit(me, 3);
    let pause = |until| Command::Pause {
        stream: StreamName::new("default", "q"),
        group: None,
        until,
        durable: false,
    };
    assert_eq!(b.ask(me, pause(Until::Forever)), Some(Reply::Done));
    assert!(!offer(&mut b, me, q, vec![], 0), "nothing is given now");
    assert_eq!(b.ask(me, pause(Until::Now)), Some(Reply::Done));
    assert!(offer(&mut b, me, q, vec![], 0));
    assert_eq!(b.pushes(me), [(3, 0)]);
}

#[test]
fn one_who_waits_is_enough_for_all_the_streams_of_an_offer() {
    let mut b = Bench::new();
    let (me, other) = (b.opener("q", queue()), b.opener("r", queue()));
    let mut stream = |name| match b.ask(
        me,
        Command::Open {
            link: Link(0),
            name: StreamName::new("default", name),
            create: None,
            role: Role::Producer,
        },
    ) {
        Some(Reply::Opened { stream }) => stream,
        other => panic!("{other:?}"),
    };
    let (r, q) = (stream("r"), stream("q"));
    assert!(!offer(&mut b, me, Target::Stream(q), vec![r], 0));
    b.subscribe(other);
    b.credit(other, 1);
    assert!(offer(&mut b, me, Target::Stream(q), vec![r], 0));
    assert_eq!(b.pushes(other), [(1, 0)]);
    assert_eq!(b.ready(me, "q"), 1);
}

#[test]
fn the_others_of_a_single_active_consumer_are_offered_nothing() {
    let mut b = Bench::new();
    let (active, other) = (b.opener("q", queue()), b.opener("q", queue()));
    let q = Target::Link(Link(0));
    let single = Command::Dispatch {
        stream: q,
        group: "".into(),
        how: Dispatch::Single,
    };
    assert_eq!(b.ask(active, single), Some(Reply::Done));
    b.subscribe(active);
    b.subscribe(other);
    b.credit(other, 1);
    assert!(!offer(&mut b, active, q, vec![], 0));
    b.credit(active, 1);
    assert!(offer(&mut b, active, q, vec![], 0));
    assert_eq!(b.pushes(active), [(1, 0)]);
}

#[test]
fn the_keys_of_a_pinned_group_are_offered_to_their_consumers() {
    let mut b = Bench::new();
    let me = b.opener("q", queue());
    let q = Target::Link(Link(0));
    let pinned = Command::Dispatch {
        stream: q,
        group: "".into(),
        how: Dispatch::Pinned(KeyFrom::Key),
    };
    assert_eq!(b.ask(me, pinned), Some(Reply::Done));
    b.subscribe(me);
    assert!(!offer(&mut b, me, q, vec![], 0));
    b.credit(me, 1);
    assert!(offer(&mut b, me, q, vec![], 0));
    assert!(!offer(&mut b, me, q, vec![], 0));
    assert_eq!(b.pushes(me), [(1, 0)]);
}
