use bytes::Bytes;
use longtail_model::{Filter, ShardId, StreamId, Subject, SubjectRef};
use parking_lot::Mutex;

use super::*;
use crate::message::{Message, Quality};
use crate::router::{GroupScope, GroupSpec, Strategy, Subscription};

/// An outbox that holds a few messages and writes down what happens to it.
#[derive(Clone, Default)]
struct Outbox(Arc<Mutex<OutboxState>>);

#[derive(Default)]
struct OutboxState {
    room: usize,
    got: Vec<(String, Vec<u64>)>,
    flushes: usize,
}

impl Outbox {
    fn new(room: usize) -> Self {
        let outbox = Outbox::default();
        outbox.0.lock().room = room;
        outbox
    }

    fn got(&self) -> Vec<(String, Vec<u64>)> {
        std::mem::take(&mut self.0.lock().got)
    }
}

impl Subscriber for Outbox {
    fn deliver(&self, message: &SharedMessage, options: &[LiveOptions]) -> Delivery {
        let mut state = self.0.lock();
        if state.got.len() >= state.room {
            return Delivery::Dropped(DropReason::OutboxFull);
        }
        let mut tags: Vec<u64> = options.iter().map(|options| options.tag).collect();
        tags.sort_unstable();
        state.got.push((message.subject.to_string(), tags));
        Delivery::Delivered
    }

    fn flush(&self) {
        self.0.lock().flushes += 1;
    }
}

struct House {
    router: SpaceRouter,
    counters: EphemeralCounters,
}

impl House {
    fn new() -> Self {
        House {
            router: SpaceRouter::default(),
            counters: EphemeralCounters::default(),
        }
    }

    fn subscriber(
        &self,
        outbox: &Outbox,
        origin: u64,
        subscriptions: &[(&str, LiveOptions)],
    ) -> LiveHandle {
        let handle = LiveHandle::new(Origin(origin), outbox.clone());
        for (filter, options) in subscriptions {
            let subscription = Subscription::new(handle.options(*options));
            self.router
                .subscribe(&Filter::new(filter).unwrap(), handle.target(), subscription)
                .unwrap();
        }
        handle
    }

    fn publish(&self, burst: &mut Burst<'_>, message: Message) -> Published {
        let mut routes = SpaceRoutes::default();
        self.router.routes(message.subject.as_ref(), &mut routes);
        burst.publish(
            &routes,
            &Arc::new(message),
            &Chance::default(),
            Timestamp(100),
        )
    }
}

fn message(subject: &str) -> Message {
    Message::new(Subject::new(subject).unwrap(), Bytes::new())
}

fn tag(tag: u64) -> LiveOptions {
    LiveOptions {
        tag,
        ..LiveOptions::default()
    }
}

#[test]
fn a_burst_delivers_in_order_and_flushes_each_subscriber_once() {
    let house = House::new();
    let (a, b) = (Outbox::new(9), Outbox::new(9));
    house.subscriber(&a, 1, &[("x/+", tag(1)), ("x/1", tag(2))]);
    house.subscriber(&b, 2, &[("x/2", tag(3))]);
    let mut burst = Burst::new(&house.counters);
    for subject in ["x/1", "x/2", "x/3"] {
        assert!(house.publish(&mut burst, message(subject)).has_matched());
    }
    assert!(!house.publish(&mut burst, message("y")).has_matched());
    assert_eq!((a.0.lock().flushes, b.0.lock().flushes), (0, 0));
    burst.flush();
    assert_eq!((a.0.lock().flushes, b.0.lock().flushes), (1, 1));
    let expected = [("x/1", vec![1, 2]), ("x/2", vec![1]), ("x/3", vec![1])];
    assert_eq!(
        a.got(),
        expected.map(|(subject, tags)| (subject.to_owned(), tags))
    );
    assert_eq!(b.got(), [("x/2".to_owned(), vec![3])]);
    house.publish(&mut burst, message("x/3"));
    drop(burst);
    assert_eq!((a.0.lock().flushes, b.0.lock().flushes), (2, 1));
    assert_eq!(
        (house.counters.published(), house.counters.delivered()),
        (5, 5)
    );
}

#[test]
fn all_of_a_burst_in_one_publish_is_flushed_subscriber_by_subscriber() {
    let house = House::new();
    let (a, b) = (Outbox::new(9), Outbox::new(9));
    house.subscriber(&a, 1, &[("x", tag(0))]);
    house.subscriber(&b, 2, &[("x", tag(0)), ("y", tag(0))]);
    let flushes = || (a.0.lock().flushes, b.0.lock().flushes);
    let mut burst = Burst::new(&house.counters);
    burst.is_last(usize::MAX);
    house.publish(&mut burst, message("x"));
    assert_eq!(flushes(), (1, 1), "at once");
    burst.flush();
    assert_eq!(flushes(), (1, 1), "and not again");
    house.publish(&mut burst, message("y"));
    burst.is_last(usize::MAX);
    house.publish(&mut burst, message("x"));
    assert_eq!(flushes(), (1, 1), "there was one before");
    burst.flush();
    assert_eq!(flushes(), (2, 2), "each once");
}

#[test]
fn bursts_that_take_turns_lose_no_flush() {
    let house = House::new();
    let outbox = Outbox::new(9);
    house.subscriber(&outbox, 1, &[("x", tag(0))]);
    let (mut one, mut other) = (Burst::new(&house.counters), Burst::new(&house.counters));
    for _ in 0..2 {
        house.publish(&mut one, message("x"));
        house.publish(&mut other, message("x"));
    }
    other.flush();
    let flushes = outbox.0.lock().flushes;
    assert!(flushes >= 1);
    one.flush();
    assert!(outbox.0.lock().flushes > flushes);
}

#[test]
fn drops_are_counted_by_reason_and_slow_ones_slow_nobody() {
    let house = House::new();
    let (slow, quick) = (Outbox::new(1), Outbox::new(9));
    house.subscriber(&slow, 1, &[("x", tag(0))]);
    house.subscriber(&quick, 2, &[("x", tag(0))]);
    let mut burst = Burst::new(&house.counters);
    assert_eq!(house.publish(&mut burst, message("x")).delivered, 2);
    let second = house.publish(&mut burst, message("x"));
    assert_eq!(
        second,
        Published {
            delivered: 1,
            dropped: 1,
            ..Published::default()
        }
    );
    let late = Message {
        expires: Timestamp(100),
        ..message("x")
    };
    assert_eq!(
        house.publish(&mut burst, late),
        Published {
            delivered: 0,
            dropped: 2,
            ..Published::default()
        }
    );
    drop(burst);
    let counts = DropReason::ALL.map(|reason| house.counters.dropped(reason));
    assert_eq!(counts, [1, 0, 2, 0, 0]);
    assert_eq!(quick.got().len(), 2);
}

#[test]
fn no_local_keeps_a_publisher_from_hearing_himself() {
    let house = House::new();
    let outbox = Outbox::new(9);
    let silent = LiveOptions {
        tag: 1,
        no_local: true,
        ..LiveOptions::default()
    };
    house.subscriber(
        &outbox,
        7,
        &[("x/+", silent), ("x/1", tag(2)), ("y", silent)],
    );
    let mut burst = Burst::new(&house.counters);
    let own = |subject| Message {
        origin: Origin(7),
        ..message(subject)
    };
    assert_eq!(house.publish(&mut burst, own("y")), Published::default());
    house.publish(&mut burst, own("x/1"));
    house.publish(
        &mut burst,
        Message {
            origin: Origin(8),
            ..message("x/1")
        },
    );
    let tags: Vec<_> = outbox.got().into_iter().map(|(_, tags)| tags).collect();
    assert_eq!(tags, [vec![2], vec![1, 2]]);
}

#[test]
fn streams_are_counted_and_left_to_the_caller() {
    let house = House::new();
    let filter = Filter::new("x/#").unwrap();
    let stream = Target::Stream(ShardId(0), StreamId(4));
    house
        .router
        .subscribe(
            &filter,
            stream,
            Subscription::new(TargetOptions::Stream(StreamOptions::default())),
        )
        .unwrap();
    let mut burst = Burst::new(&house.counters);
    let published = house.publish(&mut burst, message("x"));
    assert_eq!(
        published,
        Published {
            delivered: 0,
            dropped: 0,
            streams: 1,
            ..Published::default()
        }
    );
    assert!(published.has_matched());
}

#[test]
fn a_group_tries_the_next_member_when_one_is_full() {
    let house = House::new();
    let outboxes = [Outbox::new(1), Outbox::new(2), Outbox::new(0)];
    for outbox in &outboxes {
        let handle = house.subscriber(outbox, 0, &[]);
        let spec = GroupSpec {
            name: "g".into(),
            scope: GroupScope::Space,
            strategy: Strategy::RoundRobin,
        };
        let subscription = Subscription {
            group: Some(spec),
            ..Subscription::new(handle.options(tag(0)))
        };
        house
            .router
            .subscribe(&Filter::new("x").unwrap(), handle.target(), subscription)
            .unwrap();
    }
    let mut burst = Burst::new(&house.counters);
    for _ in 0..3 {
        assert_eq!(
            house.publish(&mut burst, message("x")),
            Published {
                delivered: 1,
                dropped: 0,
                ..Published::default()
            }
        );
    }
    assert_eq!(
        house.publish(&mut burst, message("x")),
        Published {
            delivered: 0,
            dropped: 1,
            ..Published::default()
        }
    );
    drop(burst);
    assert_eq!(outboxes.map(|outbox| outbox.got().len()), [1, 2, 0]);
    assert_eq!(house.counters.dropped(DropReason::OutboxFull), 1);
}

/// Subscribes a stream to `x`, as a member of group `g` if asked.
fn stream(house: &House, number: u64, options: StreamOptions, in_group: bool) {
    let group = in_group.then(|| GroupSpec {
        name: "g".into(),
        scope: GroupScope::Space,
        strategy: Strategy::RoundRobin,
    });
    let subscription = Subscription {
        group,
        ..Subscription::new(TargetOptions::Stream(options))
    };
    let target = Target::Stream(ShardId(0), StreamId(number));
    house
        .router
        .subscribe(&Filter::new("x").unwrap(), target, subscription)
        .unwrap();
}

fn assured(subject: &str) -> Message {
    Message {
        quality: Quality::AtLeastOnce,
        ..message(subject)
    }
}

#[test]
fn a_session_that_is_live_and_stored_gets_each_message_one_way() {
    let house = House::new();
    let outbox = Outbox::new(9);
    let live_only = LiveOptions {
        not_assured: true,
        ..tag(1)
    };
    house.subscriber(&outbox, 1, &[("x", live_only)]);
    let assured_only = StreamOptions {
        assured_only: true,
        ..StreamOptions::default()
    };
    stream(&house, 1, assured_only, false);
    let mut burst = Burst::new(&house.counters);
    let lossy = house.publish(&mut burst, message("x"));
    assert_eq!((lossy.delivered, lossy.streams), (1, 0));
    let sure = house.publish(&mut burst, assured("x"));
    assert_eq!((sure.delivered, sure.dropped, sure.streams), (0, 0, 1));
    let exact = Message {
        quality: Quality::ExactlyOnce,
        ..message("x")
    };
    assert_eq!(house.publish(&mut burst, exact).streams, 1);
    assert_eq!(outbox.got().len(), 1);
}

#[test]
fn a_stream_does_not_keep_what_its_owner_published() {
    let house = House::new();
    let options = StreamOptions {
        not_from: Origin(7),
        ..StreamOptions::default()
    };
    stream(&house, 1, options, false);
    let mut burst = Burst::new(&house.counters);
    for (origin, streams) in [(7, 0), (8, 1), (0, 1)] {
        let message = Message {
            origin: Origin(origin),
            ..message("x")
        };
        assert_eq!(house.publish(&mut burst, message).streams, streams);
    }
}

#[test]
fn a_group_picks_its_streams_in_turn_with_its_live_members() {
    let house = House::new();
    let outbox = Outbox::new(9);
    let handle = house.subscriber(&outbox, 0, &[]);
    let spec = GroupSpec {
        name: "g".into(),
        scope: GroupScope::Space,
        strategy: Strategy::RoundRobin,
    };
    let subscription = Subscription {
        group: Some(spec),
        ..Subscription::new(handle.options(tag(0)))
    };
    house
        .router
        .subscribe(&Filter::new("x").unwrap(), handle.target(), subscription)
        .unwrap();
    stream(&house, 4, StreamOptions::default(), true);
    let assured_only = StreamOptions {
        assured_only: true,
        ..StreamOptions::default()
    };
    stream(&house, 5, assured_only, true);
    let mut burst = Burst::new(&house.counters);
    let mut picked = Vec::new();
    for _ in 0..6 {
        let published = house.publish(&mut burst, assured("x"));
        assert_eq!(published.delivered + published.streams, 1);
        picked.extend(published.picked);
    }
    let streams: Vec<u64> = picked.iter().map(|(_, stream)| stream.0).collect();
    assert_eq!(streams, [4, 5, 4, 5]);
    assert_eq!(outbox.got().len(), 2);
    for _ in 0..3 {
        picked.extend(house.publish(&mut burst, message("x")).picked);
    }
    assert!(
        picked[4..].iter().all(|(_, stream)| stream.0 == 4),
        "stream 5 takes only what must not be lost"
    );
}

#[test]
fn a_run_is_of_one_subject_one_publisher_and_one_quality_and_of_nothing_that_ends_or_stays() {
    let plain = || Arc::new(message("x"));
    assert!(Run::new(&[plain(), plain()]).is_some());
    assert!(Run::new(&[plain()]).is_none());
    let others = [
        message("y"),
        assured("x"),
        Message {
            origin: Origin(7),
            ..message("x")
        },
        Message {
            retain: true,
            ..message("x")
        },
        Message {
            expires: Timestamp(1000),
            ..message("x")
        },
    ];
    for other in others.map(Arc::new) {
        let text = format!("{other:?}");
        assert!(Run::new(&[plain(), other.clone()]).is_none(), "{text}");
        assert!(Run::new(&[other, plain()]).is_none(), "{text}");
    }
}

#[test]
fn a_run_comes_to_the_same_as_its_messages_one_by_one() {
    let house = House::new();
    let (wide, narrow, own) = (Outbox::new(9), Outbox::new(2), Outbox::new(9));
    house.subscriber(&wide, 1, &[("x/+", tag(1)), ("x/1", tag(2))]);
    house.subscriber(&narrow, 2, &[("x/1", tag(3))]);
    let no_local = LiveOptions {
        no_local: true,
        ..tag(4)
    };
    house.subscriber(&own, 3, &[("x/1", no_local)]);
    let messages: Vec<SharedMessage> = (0..3)
        .map(|_| {
            Arc::new(Message {
                origin: Origin(3),
                ..message("x/1")
            })
        })
        .collect();
    let run = Run::new(&messages).unwrap();
    let mut routes = SpaceRoutes::default();
    let mut burst = Burst::new(&house.counters);
    house
        .router
        .routes(messages[0].subject.as_ref(), &mut routes);
    assert_eq!(burst.publish_run(&routes, &run), Some(true));
    drop(burst);
    assert_eq!(
        (wide.got().len(), narrow.got().len(), own.got().len()),
        (3, 2, 0)
    );
    let flushes = [&wide, &narrow, &own].map(|outbox| outbox.0.lock().flushes);
    assert_eq!(flushes, [1, 1, 0]);
    let counters = &house.counters;
    assert_eq!((counters.published(), counters.delivered()), (3, 5));
    assert_eq!(counters.dropped(DropReason::OutboxFull), 1);

    let nobody = SpaceRoutes::default();
    let mut burst = Burst::new(&house.counters);
    assert_eq!(burst.publish_run(&nobody, &run), Some(false));
    stream(&house, 4, StreamOptions::default(), false);
    house
        .router
        .routes(SubjectRef::new("x").unwrap(), &mut routes);
    assert_eq!(
        burst.publish_run(&routes, &run),
        None,
        "a stream is asked for each"
    );
}
