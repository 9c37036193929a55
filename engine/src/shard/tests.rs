//! The state machine without a runtime: commands in, effects out, time by hand.

mod queues;

use std::sync::Arc;

use bytes::Bytes;
use longtail_log::{Body, MemLog, RecordParts};
use longtail_model::{
    ConsumerTag, Durability, GroupId, IndexId, Link, Lsn, Priority, Seq, SessionId, StreamId,
    Timestamp,
};

use crate::budget::Holding;
use crate::command::{
    Command, Credit, Dispatch, Handle, KeyFrom, NewMessage, Only, Role, Settle, Start, Step,
    Target, Transaction, Until, Wait, Which,
};
use crate::config::{Counted, GroupConfig, Keep, Numbering, Order, StreamConfig, StreamName};
use crate::definition;
use crate::effect::{Cause, Effect, Effects, Gate, MessageState, Refusal, Reply, Unmet};
use crate::event;
use crate::message::Message;
use crate::open::MemoryLimits;
use crate::shard::{Logs, RecoverError, Shard, ShardConfig};

const ME: ConsumerTag = ConsumerTag(0);

/// Largest frame, in bytes.
const FRAME: usize = 1 << 20;

#[derive(Default)]
struct Seen(Vec<(SessionId, Effect)>);

impl Effects for Seen {
    fn emit(&mut self, session: SessionId, _: Gate, effect: Effect) {
        self.0.push((session, effect));
    }
}

struct Bench {
    shard: Shard,
    now: Timestamp,
    token: u64,
    seen: Seen,
}

fn tube() -> StreamConfig {
    StreamConfig {
        numbering: Numbering::Shared("jobs".into()),
        auto_delete: true,
        group: Some(GroupConfig {
            order: Order::Priority,
            ..GroupConfig::default()
        }),
        ..StreamConfig::default()
    }
}

impl Bench {
    fn new() -> Self {
        let now = Timestamp(1_000_000);
        let memory = MemoryLimits {
            frame_bytes: FRAME as u64,
            ..MemoryLimits::default()
        };
        let config = ShardConfig {
            durability: Durability::Memory,
            ..ShardConfig::default()
        };
        Bench {
            shard: Shard::in_memory(memory, config, now),
            now,
            token: 0,
            seen: Seen::default(),
        }
    }

    fn send(&mut self, session: SessionId, command: Command) -> u64 {
        self.token += 1;
        self.shard
            .step(self.now, session, self.token, command, &mut self.seen);
        self.token
    }

    /// The reply to the last command sent; `None` while it waits.
    fn ask(&mut self, session: SessionId, command: Command) -> Option<Reply> {
        let token = self.send(session, command);
        self.reply(session, token)
    }

    fn reply(&mut self, session: SessionId, token: u64) -> Option<Reply> {
        let at = self.seen.0.iter().position(|(to, effect)| {
            *to == session && matches!(effect, Effect::Reply(answered, _) if *answered == token)
        })?;
        match self.seen.0.remove(at).1 {
            Effect::Reply(_, reply) => Some(reply),
            _ => None,
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_millis(ms);
        self.shard.advance(self.now, &mut self.seen);
    }

    /// A session that uses and watches tubes, under links 0, 1, ...
    fn worker(&mut self, tubes: &[&str]) -> SessionId {
        let session = self.shard.attach();
        for (link, tube_name) in (0..).map(Link).zip(tubes) {
            let name = StreamName::new("default", *tube_name);
            self.ask(
                session,
                Command::Open {
                    link,
                    name,
                    create: Some(Box::new(tube())),
                    role: Role::Consumer,
                },
            );
            let done = self.ask(
                session,
                Command::Subscribe {
                    consumer: ME,
                    link,
                    group: "".into(),
                },
            );
            assert_eq!(done, Some(Reply::Done));
        }
        session
    }

    fn put(&mut self, session: SessionId, link: u32, priority: u32, delay_ms: u64) -> Seq {
        let message = NewMessage {
            priority: Priority(priority),
            delay_ms,
            ack_timeout_ms: 10_000,
            payload: format!("{priority}").into(),
            ..NewMessage::default()
        };
        let to = Target::Link(Link(link));
        match self.ask(
            session,
            Command::Publish {
                to,
                also: vec![],
                message,
            },
        ) {
            Some(Reply::Published { seq, .. }) => seq,
            other => panic!("not published: {other:?}"),
        }
    }

    fn take(&mut self, session: SessionId) -> Option<Seq> {
        match self.ask(session, reserve(Wait::No)) {
            Some(Reply::Delivered(delivery)) => Some(delivery.seq),
            Some(Reply::TimedOut) => None,
            other => panic!("{other:?}"),
        }
    }

    /// What was pushed since this was last asked; other effects are dropped.
    fn pushed(&mut self) -> Vec<(SessionId, Seq)> {
        let all = std::mem::take(&mut self.seen.0);
        all.into_iter()
            .filter_map(|(to, effect)| match effect {
                Effect::Push(delivery) => Some((to, delivery.seq)),
                _ => None,
            })
            .collect()
    }

    fn settle(&mut self, session: SessionId, seq: Seq, how: Settle) -> Option<Reply> {
        self.ask(
            session,
            Command::Settle {
                message: Handle::Shared(Link(0), seq),
                how,
            },
        )
    }
}

fn reserve(wait: Wait) -> Command {
    Command::Take {
        consumer: ME,
        wait,
        deadline_margin_ms: 1_000,
    }
}

fn delivered(reply: Option<Reply>) -> Seq {
    match reply {
        Some(Reply::Delivered(delivery)) => delivery.seq,
        other => panic!("not delivered: {other:?}"),
    }
}

#[test]
fn the_best_of_all_watched_streams_comes_first() {
    let mut b = Bench::new();
    let session = b.worker(&["a", "b"]);
    let low = b.put(session, 0, 10, 0);
    let high = b.put(session, 1, 1, 0);
    let middle = b.put(session, 0, 5, 0);
    let second_high = b.put(session, 0, 1, 0);
    let order: Vec<_> = std::iter::from_fn(|| b.take(session)).collect();
    assert_eq!(order, [high, second_high, middle, low]);
}

#[test]
fn a_released_message_returns_to_its_place() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let (first, second) = (b.put(session, 0, 0, 0), b.put(session, 0, 0, 0));
    assert_eq!(b.take(session), Some(first));
    let how = Settle::Release {
        priority: None,
        delay_ms: 0,
        failed: false,
    };
    assert_eq!(b.settle(session, first, how), Some(Reply::Done));
    assert_eq!(
        (b.take(session), b.take(session)),
        (Some(first), Some(second))
    );
}

#[test]
fn whoever_waits_longest_is_served_first_and_later_commands_wait_behind() {
    let mut b = Bench::new();
    let (one, two) = (b.worker(&["a"]), b.worker(&["a"]));
    let waits_one = b.send(one, reserve(Wait::Forever));
    let behind = b.send(one, Command::DescribeShard);
    let waits_two = b.send(two, reserve(Wait::Forever));
    assert_eq!(b.reply(one, behind), None);
    let producer = b.worker(&["a"]);
    let first = b.put(producer, 0, 0, 0);
    assert_eq!(delivered(b.reply(one, waits_one)), first);
    assert!(b.reply(one, behind).is_some());
    assert_eq!(b.reply(two, waits_two), None);
    let second = b.put(producer, 0, 0, 0);
    assert_eq!(delivered(b.reply(two, waits_two)), second);
}

#[test]
fn a_deadline_takes_the_message_back_and_warns_before() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let seq = b.put(session, 0, 0, 0);
    assert_eq!(b.take(session), Some(seq));
    let waits = b.send(session, reserve(Wait::Forever));
    b.pass(8_999);
    assert_eq!(b.reply(session, waits), None);
    b.pass(1);
    assert_eq!(b.reply(session, waits), Some(Reply::DeadlineSoon));
    assert_eq!(
        b.ask(session, reserve(Wait::Forever)),
        Some(Reply::DeadlineSoon)
    );
    b.pass(1_000);
    assert_eq!(
        b.settle(session, seq, Settle::Park { priority: None }),
        Some(Reply::NotFound)
    );
    let message = Handle::Shared(Link(0), seq);
    match b.ask(session, Command::DescribeMessage { message }) {
        Some(Reply::MessageInfo(info)) => {
            assert_eq!(
                (info.state, info.counts.timeouts, info.counts.deliveries),
                (MessageState::Ready, 1, 1)
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        b.ask(session, Command::Discard { message }),
        Some(Reply::Done)
    );
    assert_eq!(
        b.ask(session, Command::Peek { message }),
        Some(Reply::NotFound)
    );
}

#[test]
fn a_touched_message_gets_its_whole_time_again() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let seq = b.put(session, 0, 0, 0);
    b.take(session);
    b.pass(9_500);
    let message = Handle::Shared(Link(0), seq);
    assert_eq!(
        b.ask(session, Command::Extend { message, ms: None }),
        Some(Reply::Done)
    );
    b.pass(9_000);
    assert_eq!(b.settle(session, seq, Settle::Ack), Some(Reply::Done));
}

#[test]
fn delays_end_in_time_and_kicks_end_them_early() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let later = b.put(session, 0, 0, 5_000);
    let soon = b.put(session, 0, 0, 1_000);
    assert_eq!(b.take(session), None);
    let head = b.ask(
        session,
        Command::PeekHead {
            stream: Target::Link(Link(0)),
            group: "".into(),
            which: Which::Delayed,
        },
    );
    assert!(matches!(head, Some(Reply::Peeked { seq, .. }) if seq == soon));
    b.pass(1_000);
    assert_eq!(b.take(session), Some(soon));
    let kick = Command::Kick {
        stream: Target::Link(Link(0)),
        group: "".into(),
        max: 10,
    };
    assert_eq!(b.ask(session, kick.clone()), Some(Reply::Count(1)));
    assert_eq!(b.take(session), Some(later));
    b.settle(
        session,
        later,
        Settle::Park {
            priority: Some(Priority(7)),
        },
    );
    b.settle(session, soon, Settle::Park { priority: None });
    assert_eq!(
        b.ask(
            session,
            Command::Kick {
                stream: Target::Link(Link(0)),
                group: "".into(),
                max: 1
            }
        ),
        Some(Reply::Count(1))
    );
    assert_eq!(b.take(session), Some(later), "parked first, kicked first");
    assert_eq!(b.ask(session, kick), Some(Reply::Count(1)));
    assert_eq!(b.take(session), Some(soon));
}

#[test]
fn what_a_session_held_comes_back_when_it_ends() {
    let mut b = Bench::new();
    let (one, two) = (b.worker(&["a"]), b.worker(&["a"]));
    let seq = b.put(one, 0, 3, 0);
    assert_eq!(b.take(one), Some(seq));
    let waits = b.send(two, reserve(Wait::Forever));
    b.shard.detach(b.now, one, &mut b.seen);
    assert_eq!(delivered(b.reply(two, waits)), seq);
}

#[test]
fn a_paused_stream_delivers_when_the_pause_ends() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let seq = b.put(session, 0, 0, 0);
    let name = StreamName::new("default", "a");
    assert_eq!(
        b.ask(
            session,
            Command::Pause {
                stream: name,
                group: None,
                until: Until::Millis(2_000),
                durable: false
            }
        ),
        Some(Reply::Done)
    );
    let waits = b.send(session, reserve(Wait::Millis(5_000)));
    b.pass(1_999);
    assert_eq!(b.reply(session, waits), None);
    b.pass(1);
    assert_eq!(delivered(b.reply(session, waits)), seq);
}

#[test]
fn streams_disappear_when_nothing_needs_them() {
    let mut b = Bench::new();
    let session = b.worker(&["a", "b"]);
    let seq = b.put(session, 1, 0, 0);
    b.ask(
        session,
        Command::Unsubscribe {
            consumer: ME,
            link: Link(1),
            group: "".into(),
        },
    );
    b.ask(session, Command::Close { link: Link(1) });
    let all = |b: &mut Bench| match b.ask(session, Command::ListStreams { space: None }) {
        Some(Reply::Streams(names)) => names.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(all(&mut b), 2);
    b.ask(
        session,
        Command::Discard {
            message: Handle::Shared(Link(0), seq),
        },
    );
    assert_eq!(all(&mut b), 1);
}

#[test]
fn streams_are_described_page_by_page() {
    let mut b = Bench::new();
    let session = b.worker(&["a", "b", "c"]);
    b.ask(
        session,
        Command::Define {
            name: StreamName::new("other", "d"),
            config: Box::default(),
        },
    );
    let first = b.put(session, 1, 0, 0);
    b.put(session, 1, 0, 0);
    let page = |b: &mut Bench, space: Option<&str>, after, limit| {
        let space = space.map(Into::into);
        match b.ask(
            session,
            Command::DescribeStreams {
                space,
                after,
                limit,
            },
        ) {
            Some(Reply::StreamPage { streams, next }) => (streams, next),
            other => panic!("{other:?}"),
        }
    };
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (streams, next) = page(&mut b, None, after, 3);
        assert!(streams.len() <= 3);
        all.extend(streams);
        after = next;
        if next.is_none() {
            break;
        }
    }
    let names: Vec<_> = all.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[3], "other/d");
    let holding: Vec<_> = all.iter().filter(|(_, info)| info.messages > 0).collect();
    assert_eq!(holding.len(), 1);
    assert_eq!(holding[0].1.first, first);
    let empty = &all[3].1;
    assert_eq!((empty.first, empty.messages), (empty.next, 0));
    let (others, next) = page(&mut b, Some("other"), None, 3);
    assert_eq!((others.len(), next), (1, None));
}

#[test]
fn an_interrupted_take_times_out_at_once() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let waits = b.send(session, reserve(Wait::Forever));
    b.shard.interrupt(b.now, session, &mut b.seen);
    assert_eq!(b.reply(session, waits), Some(Reply::TimedOut));
    assert_eq!(
        b.ask(session, reserve(Wait::Forever)),
        Some(Reply::TimedOut)
    );
}

#[test]
fn a_level_pushes_in_turn_and_again_with_every_settlement() {
    let mut b = Bench::new();
    let (one, two) = (b.worker(&["a"]), b.worker(&["a"]));
    for session in [one, two] {
        b.ask(
            session,
            Command::Credit {
                consumer: ME,
                credit: Credit::Level(1),
            },
        );
    }
    let seqs: Vec<_> = (0..3).map(|_| b.put(one, 0, 0, 0)).collect();
    assert_eq!(b.pushed(), [(one, seqs[0]), (two, seqs[1])]);
    b.settle(two, seqs[1], Settle::Ack);
    assert_eq!(b.pushed(), [(two, seqs[2])]);
}

#[test]
fn a_level_counts_what_is_held_and_level_zero_stops_without_taking_anything_back() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let mut seqs = (0..9).map(|_| b.put(session, 0, 0, 0)).collect::<Vec<_>>();
    let credit = |b: &mut Bench, credit| {
        let consumer = ME;
        let reply = b.ask(session, Command::Credit { consumer, credit });
        assert_eq!(reply, Some(Reply::Done));
        b.pushed()
            .into_iter()
            .map(|(_, seq)| seq)
            .collect::<Vec<_>>()
    };
    // One that is taken by its number counts as well.
    let message = Handle::Shared(Link(0), seqs.pop().expect("nine"));
    assert!(matches!(
        b.ask(session, Command::TakeOne { message }),
        Some(Reply::Delivered(_))
    ));
    assert_eq!(credit(&mut b, Credit::Level(3)), seqs[0..2]);
    assert_eq!(credit(&mut b, Credit::Level(0)), []);
    assert_eq!(b.settle(session, seqs[0], Settle::Ack), Some(Reply::Done));
    assert_eq!(b.settle(session, seqs[1], Settle::Ack), Some(Reply::Done));
    assert_eq!(b.pushed(), []);
    assert_eq!(credit(&mut b, Credit::Level(2)), seqs[2..3]);
    assert_eq!(
        credit(&mut b, Credit::Add(2)),
        seqs[3..5],
        "whatever it holds"
    );
    b.settle(session, seqs[2], Settle::Ack);
    assert_eq!(b.pushed(), [], "what was added does not come back");
    assert_eq!(credit(&mut b, Credit::Level(5)), seqs[5..7]);
    // All five time out, one after the other, and the next best takes the place of each.
    b.pass(10_000);
    let again = b.pushed();
    assert_eq!(again.len(), 5);
    assert_eq!(again[0], (session, seqs[7]));
}

#[test]
fn what_is_given_away_is_settled_and_counts_against_what_was_said_last() {
    let mut b = Bench::new();
    let (session, other) = (b.worker(&["a"]), b.worker(&["a"]));
    let seqs: Vec<_> = (0..5).map(|_| b.put(other, 0, 0, 0)).collect();
    let credit = |b: &mut Bench, credit| {
        let consumer = ME;
        let reply = b.ask(session, Command::Credit { consumer, credit });
        assert_eq!(reply, Some(Reply::Done));
        b.pushed()
    };
    let given: Vec<_> = seqs[..2].iter().map(|&seq| (session, seq)).collect();
    assert_eq!(credit(&mut b, Credit::Away(2)), given);
    for &seq in &seqs[..2] {
        assert_eq!(b.settle(session, seq, Settle::Ack), Some(Reply::NotFound));
    }
    assert_eq!(credit(&mut b, Credit::Away(1)), [(session, seqs[2])]);
    // One that holds something, and then loses its session: only that comes back.
    assert_eq!(credit(&mut b, Credit::Level(1)), [(session, seqs[3])]);
    b.shard.detach(b.now, session, &mut b.seen);
    let consumer = ME;
    let all = Credit::Level(9);
    b.ask(
        other,
        Command::Credit {
            consumer,
            credit: all,
        },
    );
    assert_eq!(b.pushed(), [(other, seqs[3]), (other, seqs[4])]);
}

#[test]
fn who_waits_with_a_level_is_not_pushed_more_when_it_takes_by_number() {
    let mut b = Bench::new();
    let (session, producer) = (b.worker(&["a"]), b.worker(&["a"]));
    let later = b.put(producer, 0, 0, 60_000);
    let consumer = ME;
    let credit = Credit::Level(1);
    b.ask(session, Command::Credit { consumer, credit });
    let message = Handle::Shared(Link(0), later);
    let taken = b.ask(session, Command::TakeOne { message });
    assert_eq!(delivered(taken), later);
    let next = b.put(producer, 0, 0, 0);
    assert_eq!(b.pushed(), []);
    b.settle(session, later, Settle::Ack);
    assert_eq!(b.pushed(), [(session, next)]);
}

#[test]
fn who_loses_what_it_held_with_a_group_is_fed_from_the_others() {
    let mut b = Bench::new();
    let session = b.worker(&["a", "b"]);
    let (held, next) = (b.put(session, 0, 0, 0), b.put(session, 1, 0, 0));
    let consumer = ME;
    let credit = Credit::Level(1);
    b.ask(session, Command::Credit { consumer, credit });
    assert_eq!(b.pushed(), [(session, held)]);
    let name = StreamName::new("default", "a");
    let only = Only::default();
    let delete = Command::Delete { name, only };
    assert_eq!(b.ask(session, delete), Some(Reply::Done));
    assert_eq!(b.pushed(), [(session, next)]);
}

#[test]
fn a_take_ends_with_the_last_stream_that_it_waits_at() {
    let mut bench = Bench::new();
    let worker = bench.worker(&["a", "b"]);
    let operator = bench.shard.attach();
    let token = bench.send(worker, reserve(Wait::Forever));
    let behind = bench.send(worker, Command::DescribeShard);
    let delete = |name| Command::Delete {
        name: StreamName::new("default", name),
        only: Only::default(),
    };
    assert_eq!(bench.ask(operator, delete("a")), Some(Reply::Done));
    assert_eq!(bench.reply(worker, token), None);
    assert_eq!(bench.shard.info().totals.waiting, 1);
    assert_eq!(bench.ask(operator, delete("b")), Some(Reply::Done));
    assert_eq!(bench.reply(worker, token), Some(Reply::NotFound));
    assert!(matches!(
        bench.reply(worker, behind),
        Some(Reply::ShardInfo(_))
    ));
    assert_eq!(
        bench.ask(worker, reserve(Wait::Forever)),
        Some(Reply::NotFound)
    );
    assert_eq!(bench.shard.info().totals.waiting, 0);
}

#[test]
fn who_waits_at_several_streams_waits_once() {
    let mut bench = Bench::new();
    let worker = bench.worker(&["a", "b"]);
    bench.send(worker, reserve(Wait::Forever));
    assert_eq!(bench.shard.info().totals.waiting, 1);
    let describe = Command::DescribeStream {
        name: StreamName::new("default", "b"),
    };
    let other = bench.shard.attach();
    match bench.ask(other, describe) {
        Some(Reply::StreamInfo(info)) => assert_eq!(info.waiting, 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_with_other_numbers_is_not_opened() {
    let mut bench = Bench::new();
    let worker = bench.worker(&["a"]);
    let define = Command::Define {
        name: StreamName::new("default", "log"),
        config: Box::default(),
    };
    assert_eq!(bench.ask(worker, define), Some(Reply::Done));
    let mut open = |create| {
        let name = StreamName::new("default", "log");
        let role = Role::Producer;
        bench.ask(
            worker,
            Command::Open {
                link: Link(5),
                name,
                create,
                role,
            },
        )
    };
    assert_eq!(
        open(Some(Box::new(tube()))),
        Some(Reply::Refused(Refusal::Exists))
    );
    let opened = |reply| matches!(reply, Some(Reply::Opened { .. }));
    assert!(opened(open(None)));
    assert!(opened(open(Some(Box::default()))));
}

#[test]
fn who_waits_gets_what_is_ready_first_when_several_become_so() {
    let mut bench = Bench::new();
    let producer = bench.worker(&["a"]);
    let (first, second) = (bench.put(producer, 0, 7, 0), bench.put(producer, 0, 3, 0));
    // Parked in the order of delivery, and then with priorities the other way round.
    for (seq, priority) in [(second, 9), (first, 1)] {
        assert_eq!(bench.take(producer), Some(seq));
        let priority = Some(Priority(priority));
        bench.settle(producer, seq, Settle::Park { priority });
    }
    let waiter = bench.worker(&["a"]);
    let token = bench.send(waiter, reserve(Wait::Forever));
    let kick = Command::Kick {
        stream: Target::Link(Link(0)),
        group: "".into(),
        max: 2,
    };
    assert_eq!(bench.ask(producer, kick), Some(Reply::Count(2)));
    assert_eq!(delivered(bench.reply(waiter, token)), second);
    bench.settle(waiter, second, Settle::Ack);
    assert_eq!(bench.take(waiter), Some(first));

    let (late, early) = (bench.put(producer, 0, 0, 20), bench.put(producer, 0, 9, 10));
    let token = bench.send(waiter, reserve(Wait::Forever));
    bench.pass(50);
    assert_eq!(delivered(bench.reply(waiter, token)), early);
    assert_eq!(bench.take(producer), Some(late));
}

/// A stream with its own numbers and an added group `g`, three messages in it, and a session that draws from `g`.
fn grouped(b: &mut Bench) -> (SessionId, GroupId) {
    let session = b.shard.attach();
    let name = StreamName::new("default", "log");
    let (link, role) = (Link(0), Role::Consumer);
    let config = StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    };
    let create = Some(Box::new(config));
    let open = Command::Open {
        link,
        name: name.clone(),
        create,
        role,
    };
    b.ask(session, open);
    let define = Command::DefineGroup {
        stream: name,
        group: "g".into(),
        config: Box::default(),
    };
    assert_eq!(b.ask(session, define), Some(Reply::Done));
    let subscribe = Command::Subscribe {
        consumer: ConsumerTag(1),
        link,
        group: "g".into(),
    };
    assert_eq!(b.ask(session, subscribe), Some(Reply::Done));
    for _ in 0..3 {
        b.put(session, 0, 0, 0);
    }
    (session, marked(b, session).0)
}

fn marked(b: &mut Bench, session: SessionId) -> (GroupId, Vec<(Seq, u64)>) {
    let ask = Command::Marked {
        stream: Target::Link(Link(0)),
        group: "g".into(),
    };
    match b.ask(session, ask) {
        Some(Reply::Marked { group, messages }) => (group, messages),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mark_stays_with_a_message_until_it_is_settled() {
    let mut b = Bench::new();
    let (session, group) = grouped(&mut b);
    let take = |b: &mut Bench, session, seq| {
        let message = Handle::Group(group, seq);
        match b.ask(session, Command::TakeOne { message }) {
            Some(Reply::Delivered(delivery)) => Some(delivery.mark),
            Some(Reply::NotFound) => None,
            other => panic!("{other:?}"),
        }
    };
    let leave = |b: &mut Bench, session, seq, mark| {
        let mark = Command::Mark {
            message: Handle::Group(group, seq),
            mark,
            noted: false,
        };
        b.ask(session, mark)
    };
    assert_eq!(take(&mut b, session, Seq(2)), Some(0));
    assert_eq!(take(&mut b, session, Seq(3)), Some(0));
    assert_eq!(leave(&mut b, session, Seq(1), 7), Some(Reply::NotFound));
    assert_eq!(leave(&mut b, session, Seq(2), 7), Some(Reply::Done));
    assert_eq!(leave(&mut b, session, Seq(3), 8), Some(Reply::Done));
    assert_eq!(marked(&mut b, session).1, [], "both are held");

    let next = b.shard.attach();
    b.shard.detach(b.now, session, &mut b.seen);
    let name = StreamName::new("default", "log");
    let open = Command::Open {
        link: Link(0),
        name,
        create: None,
        role: Role::Consumer,
    };
    b.ask(next, open);
    assert_eq!(
        marked(&mut b, next),
        (group, vec![(Seq(2), 7), (Seq(3), 8)])
    );
    assert_eq!(take(&mut b, next, Seq(3)), Some(8));
    assert_eq!(marked(&mut b, next).1, [(Seq(2), 7)]);
    assert_eq!(leave(&mut b, next, Seq(3), 0), Some(Reply::Done));
    let settle = |how| Command::Settle {
        message: Handle::Group(group, Seq(3)),
        how,
    };
    let park = settle(Settle::Park { priority: None });
    assert_eq!(b.ask(next, park), Some(Reply::Done));
    assert_eq!(marked(&mut b, next).1, [(Seq(2), 7)]);
    assert_eq!(take(&mut b, next, Seq(2)), Some(7));
    let settle = Command::Settle {
        message: Handle::Group(group, Seq(2)),
        how: Settle::Ack,
    };
    assert_eq!(b.ask(next, settle), Some(Reply::Done));
    assert_eq!(take(&mut b, next, Seq(2)), None);
    assert_eq!(marked(&mut b, next).1, []);
}

#[test]
fn a_removed_message_leaves_every_group_and_its_holder_is_fed_again() {
    let mut b = Bench::new();
    let (session, group) = grouped(&mut b);
    let (consumer, credit) = (ConsumerTag(1), Credit::Level(1));
    b.ask(session, Command::Credit { consumer, credit });
    assert_eq!(b.pushed(), [(session, Seq(1))]);
    let remove = |seq| Command::Remove {
        stream: Target::Link(Link(0)),
        seq,
    };
    assert_eq!(b.ask(session, remove(Seq(2))), Some(Reply::Done));
    assert_eq!(b.ask(session, remove(Seq(2))), Some(Reply::NotFound));
    assert_eq!(b.ask(session, remove(Seq(1))), Some(Reply::Done));
    assert_eq!(b.pushed(), [(session, Seq(3))]);
    let settle = Command::Settle {
        message: Handle::Group(group, Seq(1)),
        how: Settle::Ack,
    };
    assert_eq!(b.ask(session, settle), Some(Reply::NotFound));
    let groups = Command::DescribeGroups {
        stream: StreamName::new("default", "log"),
    };
    match b.ask(session, groups) {
        Some(Reply::Groups(groups)) => {
            let counts: Vec<_> = groups.iter().map(|g| (g.ready, g.held)).collect();
            assert_eq!(counts, [(1, 0), (0, 1)]);
        }
        other => panic!("{other:?}"),
    }
}

fn transact(b: &mut Bench, session: SessionId, steps: Vec<Step>) -> Reply {
    let transaction = Box::new(Transaction { steps });
    match b.ask(session, Command::Transact(transaction)) {
        Some(reply) => reply,
        None => panic!("a transaction does not wait"),
    }
}

fn publish_to(name: &str, b: &mut Bench, session: SessionId, link: u32) -> Step {
    let open = Command::Open {
        link: Link(link),
        name: StreamName::new("default", name),
        create: Some(Box::default()),
        role: Role::Producer,
    };
    b.ask(session, open);
    Step::Publish {
        to: Target::Link(Link(link)),
        also: vec![],
        message: NewMessage {
            payload: "whole".into(),
            ..NewMessage::default()
        },
    }
}

fn messages_of(b: &mut Bench, session: SessionId, name: &str) -> u64 {
    let name = StreamName::new("default", name);
    match b.ask(session, Command::DescribeStream { name }) {
        Some(Reply::StreamInfo(info)) => info.messages,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prepared_message_is_published_and_removed_as_one_and_only_once() {
    let mut b = Bench::new();
    let (session, _) = grouped(&mut b);
    let publish = publish_to("target", &mut b, session, 5);
    let steps = vec![
        publish.clone(),
        Step::Remove {
            stream: Target::Link(Link(0)),
            seq: Seq(2),
        },
        publish,
    ];
    match transact(&mut b, session, steps.clone()) {
        Reply::Transacted { published } => {
            let seqs: Vec<_> = published.iter().map(|message| message.0).collect();
            assert_eq!(seqs, [Seq(1), Seq(2)]);
            assert_ne!(published[0].1, published[1].1);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(messages_of(&mut b, session, "log"), 2);
    let again = Refusal::Step {
        step: 1,
        why: Box::new(Refusal::Gone),
    };
    assert_eq!(transact(&mut b, session, steps), Reply::Refused(again));
    assert_eq!(messages_of(&mut b, session, "target"), 2, "not once more");
}

#[test]
fn a_transaction_is_done_before_anybody_sees_any_of_it() {
    let mut b = Bench::new();
    let (session, group) = grouped(&mut b);
    let (consumer, credit) = (ConsumerTag(1), Credit::Level(2));
    b.ask(session, Command::Credit { consumer, credit });
    assert_eq!(b.pushed(), [(session, Seq(1)), (session, Seq(2))]);
    let settle = |seq, how| Step::Settle {
        message: Handle::Group(group, seq),
        how,
    };
    let release = Settle::Release {
        priority: None,
        delay_ms: 0,
        failed: false,
    };
    let steps = vec![settle(Seq(1), release), settle(Seq(2), Settle::Ack)];
    assert!(matches!(
        transact(&mut b, session, steps),
        Reply::Transacted { .. }
    ));
    assert_eq!(b.pushed(), [(session, Seq(1)), (session, Seq(3))]);
}

#[test]
fn what_does_not_fit_refuses_the_whole_transaction() {
    let mut b = Bench::new();
    let (session, group) = grouped(&mut b);
    let publish = publish_to("target", &mut b, session, 5);
    let message = Handle::Group(group, Seq(1));
    b.ask(session, Command::TakeOne { message });
    let ack = Step::Settle {
        message,
        how: Settle::Ack,
    };
    let why = |reply| match reply {
        Reply::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    let twice = vec![ack.clone(), publish.clone(), ack.clone()];
    let text = why(transact(&mut b, session, twice));
    assert_eq!(
        text,
        "step 2 of the transaction: a transaction names a message in one step at most"
    );
    let gone = Step::Publish {
        to: Target::Link(Link(99)),
        also: vec![],
        message: NewMessage::default(),
    };
    let text = why(transact(
        &mut b,
        session,
        vec![publish.clone(), ack.clone(), gone],
    ));
    assert_eq!(text, "step 2 of the transaction: no such link or consumer");
    let many = vec![publish.clone(); Transaction::MAX_STEPS + 1];
    let text = why(transact(&mut b, session, many));
    assert_eq!(
        text,
        "a transaction of 10001 steps; at most 10000 are taken"
    );
    let large = Step::Publish {
        to: Target::Link(Link(5)),
        also: vec![],
        message: NewMessage {
            payload: vec![0; FRAME + 1].into(),
            ..NewMessage::default()
        },
    };
    let reply = transact(&mut b, session, vec![publish.clone(), large, ack.clone()]);
    assert!(
        matches!(reply, Reply::Refused(Refusal::TooLarge(_))),
        "{reply:?}"
    );
    assert_eq!(messages_of(&mut b, session, "target"), 0);

    let reply = transact(&mut b, session, vec![publish; Transaction::MAX_STEPS]);
    assert!(matches!(reply, Reply::Transacted { published } if published.len() == 10_000));
    assert!(matches!(
        transact(&mut b, session, vec![ack]),
        Reply::Transacted { published } if published.is_empty()
    ));
}

const STREAM: StreamId = StreamId(1);
const GROUP: GroupId = GroupId(3);

/// A shard in the middle of a replay that has brought back a stream with an added group.
fn replaying() -> Shard {
    let memory = MemoryLimits::default();
    let log = Box::new(MemLog::new(memory.bytes, memory.frame_bytes));
    let logs = Logs::new(None, log, Durability::Memory);
    let now = Timestamp(1_000_000);
    let mut shard =
        Shard::restore(ShardConfig::default(), logs, now, None).expect("nothing to decode");
    let mut body = Vec::new();
    let name = StreamName::new("default", "log");
    let config = StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    };
    definition::put_stream(&mut body, &name, &config);
    replay(&mut shard, Lsn(0), |out| {
        event::put_stream_defined(out, STREAM, IndexId(2), &body);
    })
    .expect("a definition");
    body.clear();
    definition::put_named_group(&mut body, "g", &GroupConfig::default());
    replay(&mut shard, Lsn(0), |out| {
        event::put_group_defined(out, STREAM, GROUP, Seq(1), &body);
    })
    .expect("a definition");
    shard
}

fn replay(
    shard: &mut Shard,
    position: Lsn,
    event: impl FnOnce(&mut Vec<u8>),
) -> Result<(), RecoverError> {
    let mut payload = Vec::new();
    event(&mut payload);
    shard.replay(position, &payload)
}

fn an_append(out: &mut Vec<u8>, seq: Seq, payload: &[u8], expires: Timestamp) {
    let message = Message {
        created: Timestamp(1_000_000),
        priority: Priority(0),
        delay_ms: 0,
        ack_timeout_ms: 0,
        expires,
        subject: &[],
        id: &[],
        key: 0,
        headers: &[],
        payload,
        shared: None,
    };
    event::put_append(out, &[(STREAM, seq)], &message);
    out.extend_from_slice(payload);
}

#[test]
fn a_deleted_group_that_was_the_last_to_want_a_reclaimed_record_leaves_nothing_of_it() {
    let mut shard = replaying();
    // The first record is reclaimed: nothing is found at its position.
    replay(&mut shard, Lsn(64), |out| {
        an_append(out, Seq(1), &[7; 500], Timestamp(1_500_000));
    })
    .expect("an append");
    let mut kept = Vec::new();
    an_append(&mut kept, Seq(2), b"kept", Timestamp::NEVER);
    let record = RecordParts {
        head: &kept,
        body: Body::NONE,
        retained: true,
    };
    let appended = shard.logs.append_message(Durability::Memory, &[], record);
    let (position, _) = appended.expect("there is room");
    shard.replay(position, &kept).expect("an append");
    replay(&mut shard, Lsn(0), |out| {
        event::put_settled(out, GroupId(STREAM.0), Seq(1), 500);
    })
    .expect("settled");
    replay(&mut shard, Lsn(0), |out| {
        event::put_group_deleted(out, GROUP);
    })
    .expect("deleted");
    shard.recovered(Timestamp(1_000_000));
    let totals = shard.info().totals;
    assert_eq!((totals.messages, totals.bytes), (1, 4));
    assert_eq!(shard.next_due(), None, "it does not expire any more");
}

#[test]
fn a_number_that_comes_twice_in_the_log_is_an_error() {
    let mut shard = replaying();
    replay(&mut shard, Lsn(64), |out| {
        an_append(out, Seq(5), b"one", Timestamp::NEVER);
    })
    .expect("an append");
    for seq in [Seq(5), Seq(4)] {
        let again = replay(&mut shard, Lsn(128), |out| {
            an_append(out, seq, b"two", Timestamp::NEVER);
        });
        assert!(
            matches!(
                again,
                Err(RecoverError::Order {
                    position: Lsn(128),
                    last: Seq(5),
                    ..
                })
            ),
            "{again:?}"
        );
    }
    replay(&mut shard, Lsn(192), |out| {
        an_append(out, Seq(6), b"two", Timestamp::NEVER);
    })
    .expect("the next");
}

#[test]
fn what_is_worth_nothing_later_goes_to_who_waits_or_to_nobody() {
    let mut b = Bench::new();
    let (consumer, producer) = (b.worker(&["a"]), b.worker(&["a"]));
    let now_or_never = || Command::Publish {
        to: Target::Link(Link(0)),
        also: vec![],
        message: NewMessage {
            expires_ms: Some(0),
            ..NewMessage::default()
        },
    };
    let published = b.ask(producer, now_or_never());
    assert!(matches!(
        published,
        Some(Reply::Published { seq: Seq(1), .. })
    ));
    let peeked = b.ask(
        producer,
        Command::Peek {
            message: Handle::Shared(Link(0), Seq(1)),
        },
    );
    assert_eq!(peeked, Some(Reply::NotFound), "nobody waited");
    assert_eq!(b.take(consumer), None);

    let waits = b.send(consumer, reserve(Wait::Forever));
    b.ask(producer, now_or_never());
    let seq = delivered(b.reply(consumer, waits));
    assert_eq!(seq, Seq(2));
    b.pass(500);
    let how = Settle::Release {
        priority: None,
        delay_ms: 0,
        failed: false,
    };
    assert_eq!(b.settle(consumer, seq, how), Some(Reply::Done));
    b.pass(1_000);
    assert_eq!(b.take(consumer), None, "its time is over");
    assert_eq!(b.shard.info().totals.messages, 0);
}

#[test]
fn a_message_keeps_its_subject_its_id_and_its_key() {
    let mut b = Bench::new();
    let session = b.worker(&["a"]);
    let publish = |subject: Vec<u8>| Command::Publish {
        to: Target::Link(Link(0)),
        also: vec![],
        message: NewMessage {
            subject: subject.into(),
            id: "order 7".into(),
            key: 99,
            payload: "body".into(),
            ..NewMessage::default()
        },
    };
    b.ask(session, publish(b"orders/7".to_vec()));
    let Some(Reply::Delivered(delivery)) = b.ask(session, reserve(Wait::No)) else {
        panic!("nothing there")
    };
    let seen = b.shard.with_message(delivery.position, |message| {
        assert_eq!(message.subject, b"orders/7");
        assert_eq!(message.id, b"order 7");
        assert_eq!(message.key, 99);
        message.bytes()
    });
    assert_eq!(seen.ok(), Some(8 + 7 + 4));
    assert_eq!(b.shard.info().totals.bytes, 19, "all of it counts");
    let long = vec![b'x'; NewMessage::TEXT_MAX + 1];
    assert!(matches!(
        b.ask(session, publish(long)),
        Some(Reply::Refused(Refusal::TooLarge(_)))
    ));
}

/// A stream of its own in space `a`, open under link 0.
fn open_in_a(b: &mut Bench, session: SessionId, link: u32, name: &str) -> Reply {
    let open = Command::Open {
        link: Link(link),
        name: StreamName::new("a", name),
        create: Some(Box::default()),
        role: Role::Producer,
    };
    b.ask(session, open).unwrap()
}

fn publish(b: &mut Bench, session: SessionId, payload: &'static str) -> Reply {
    let publish = Command::Publish {
        to: Target::Link(Link(0)),
        also: Vec::new(),
        message: NewMessage {
            payload: Bytes::from_static(payload.as_bytes()),
            ..NewMessage::default()
        },
    };
    b.ask(session, publish).unwrap()
}

#[test]
fn a_space_takes_no_more_than_its_budget_and_others_are_not_concerned() {
    let mut b = Bench::new();
    let budgets = Arc::clone(&b.shard.config.budgets);
    budgets.limit(
        "a",
        Holding {
            streams: Some(1),
            messages: Some(2),
            bytes: Some(10),
        },
    );
    let session = b.shard.attach();
    assert!(matches!(
        open_in_a(&mut b, session, 0, "one"),
        Reply::Opened { .. }
    ));
    let Reply::Refused(refusal) = open_in_a(&mut b, session, 1, "two") else {
        panic!("the limit is one stream")
    };
    assert_eq!(
        refusal.to_string(),
        "space a is limited to 1 streams: it holds 1, and 1 more are too many"
    );
    let elsewhere = b.worker(&["free"]);
    assert!(matches!(
        publish(&mut b, session, "12345678"),
        Reply::Published { .. }
    ));
    assert!(matches!(
        publish(&mut b, session, "123"),
        Reply::Refused(Refusal::Limit(_))
    ));
    assert!(matches!(
        publish(&mut b, session, "1"),
        Reply::Published { .. }
    ));
    assert!(matches!(
        publish(&mut b, session, "1"),
        Reply::Refused(Refusal::Limit(_))
    ));
    for _ in 0..3 {
        b.put(elsewhere, 0, 1, 0);
    }
    let held = |streams, messages, bytes| Holding {
        streams,
        messages,
        bytes,
    };
    assert_eq!(budgets.held("a"), held(1, 2, 9));
    let step = |payload: &'static [u8]| Step::Publish {
        to: Target::Link(Link(0)),
        also: Vec::new(),
        message: NewMessage {
            payload: Bytes::from_static(payload),
            ..NewMessage::default()
        },
    };
    let remove = Command::Remove {
        stream: Target::Link(Link(0)),
        seq: Seq(1),
    };
    assert_eq!(b.ask(session, remove), Some(Reply::Done));
    assert_eq!(budgets.held("a"), held(1, 1, 1));
    let two = Transaction {
        steps: vec![step(b"x"), step(b"x")],
    };
    let refused = b.ask(session, Command::Transact(Box::new(two))).unwrap();
    assert!(matches!(
        refused,
        Reply::Refused(Refusal::Step { step: 1, .. })
    ));
    let delete = Command::Delete {
        name: StreamName::new("a", "one"),
        only: Only::default(),
    };
    b.ask(session, delete);
    assert_eq!(budgets.held("a"), held(0, 0, 0));
    assert!(matches!(
        open_in_a(&mut b, session, 1, "two"),
        Reply::Opened { .. }
    ));
}

fn log_name() -> StreamName {
    StreamName::new("default", "log")
}

impl Bench {
    /// A session with link 0 on a stream that only named groups consume from.
    fn topic(&mut self, keep: Keep) -> SessionId {
        let session = self.shard.attach();
        let create = StreamConfig {
            keep,
            ..StreamConfig::default()
        };
        let open = Command::Open {
            link: Link(0),
            name: log_name(),
            create: Some(Box::new(create)),
            role: Role::Consumer,
        };
        assert!(matches!(
            self.ask(session, open),
            Some(Reply::Opened { .. })
        ));
        session
    }

    fn group(&mut self, session: SessionId, group: &str, start: Start) -> ConsumerTag {
        let define = Command::DefineGroup {
            stream: log_name(),
            group: group.into(),
            config: Box::new(GroupConfig {
                start,
                ..GroupConfig::default()
            }),
        };
        assert_eq!(self.ask(session, define), Some(Reply::Done));
        let consumer = ConsumerTag(u32::from(*group.as_bytes().first().unwrap_or(&0)));
        let subscribe = Command::Subscribe {
            consumer,
            link: Link(0),
            group: group.into(),
        };
        assert_eq!(self.ask(session, subscribe), Some(Reply::Done));
        consumer
    }

    fn take_for(&mut self, session: SessionId, consumer: ConsumerTag) -> Option<(GroupId, Seq)> {
        let take = Command::Take {
            consumer,
            wait: Wait::No,
            deadline_margin_ms: 0,
        };
        match self.ask(session, take) {
            Some(Reply::Delivered(delivery)) => Some((delivery.group, delivery.seq)),
            Some(Reply::TimedOut) => None,
            other => panic!("{other:?}"),
        }
    }

    fn messages(&self) -> u64 {
        self.shard.info().totals.messages
    }
}

#[test]
fn a_backlog_goes_to_the_first_group_and_is_gone_when_it_has_settled_it() {
    let mut b = Bench::new();
    let session = b.topic(Keep::UntilSettled);
    b.put(session, 0, 0, 0);
    b.put(session, 0, 0, 0);
    assert_eq!(b.messages(), 2, "kept until there is a group");
    let one = b.group(session, "a", Start::Backlog);
    let two = b.group(session, "b", Start::Backlog);
    let third = b.put(session, 0, 0, 0);
    assert_eq!(b.take_for(session, two).map(|t| t.1), Some(third));
    let mut seen = Vec::new();
    while let Some((group, seq)) = b.take_for(session, one) {
        seen.push(seq);
        let settle = Command::Settle {
            message: Handle::Group(group, seq),
            how: Settle::Ack,
        };
        assert_eq!(b.ask(session, settle), Some(Reply::Done));
    }
    assert_eq!(seen, [Seq(1), Seq(2), third]);
    assert_eq!(b.messages(), 1, "the other group holds the third");
}

#[test]
fn with_interest_nothing_stays_that_no_group_wants() {
    let mut b = Bench::new();
    let session = b.topic(Keep::Interest);
    assert_eq!(b.put(session, 0, 0, 0), Seq(1));
    assert_eq!(b.messages(), 0);
    let group = b.group(session, "a", Start::Backlog);
    assert_eq!(b.put(session, 0, 0, 0), Seq(2), "numbers go on");
    assert_eq!(b.take_for(session, group).map(|t| t.1), Some(Seq(2)));
    let delete = Command::DeleteGroup {
        stream: log_name(),
        group: "a".into(),
    };
    assert_eq!(b.ask(session, delete), Some(Reply::Done));
    assert_eq!(b.messages(), 0, "with the group goes what it wanted");
}

#[test]
fn a_first_group_that_starts_later_lets_go_of_what_came_before() {
    let mut b = Bench::new();
    let session = b.topic(Keep::UntilSettled);
    b.put(session, 0, 0, 0);
    b.group(session, "a", Start::Next);
    assert_eq!(b.messages(), 0);
    b.put(session, 0, 0, 0);
    assert_eq!(b.messages(), 1);
}

#[test]
fn the_default_group_can_go_and_come_back() {
    let mut b = Bench::new();
    let session = b.topic(Keep::UntilSettled);
    let default = b.group(session, "", Start::First);
    let seq = b.put(session, 0, 0, 0);
    let (old, _) = b.take_for(session, default).expect("it is ready");
    let delete = Command::DeleteGroup {
        stream: log_name(),
        group: "".into(),
    };
    assert_eq!(b.ask(session, delete), Some(Reply::Done));
    let settle = Command::Settle {
        message: Handle::Group(old, seq),
        how: Settle::Ack,
    };
    assert_eq!(b.ask(session, settle), Some(Reply::NotFound));
    assert_eq!(b.messages(), 1, "with no group left it is kept");
    let default = b.group(session, "", Start::First);
    let (new, again) = b.take_for(session, default).expect("it is ready again");
    assert_eq!(again, seq);
    assert_ne!(new, old);
    let tube = b.worker(&["a"]);
    let delete = Command::DeleteGroup {
        stream: StreamName::new("default", "a"),
        group: "".into(),
    };
    assert!(matches!(
        b.ask(tube, delete),
        Some(Reply::Refused(Refusal::Unsupported(_)))
    ));
}

#[test]
fn a_group_and_its_stream_are_paused_independently() {
    let mut b = Bench::new();
    let session = b.topic(Keep::UntilSettled);
    let (one, two) = (
        b.group(session, "a", Start::First),
        b.group(session, "b", Start::First),
    );
    b.put(session, 0, 0, 0);
    let pause = |group: Option<&str>, until| Command::Pause {
        stream: log_name(),
        group: group.map(Into::into),
        until,
        durable: false,
    };
    b.ask(session, pause(Some("a"), Until::Forever));
    assert_eq!(b.take_for(session, one), None);
    b.ask(session, pause(None, Until::Millis(1_000)));
    assert_eq!(b.take_for(session, two), None);
    b.pass(1_000);
    assert!(b.take_for(session, two).is_some());
    assert_eq!(b.take_for(session, one), None);
    b.ask(session, pause(Some("a"), Until::Now));
    assert!(b.take_for(session, one).is_some());
    assert_eq!(
        b.ask(session, pause(Some("c"), Until::Now)),
        Some(Reply::NotFound)
    );
}

#[test]
fn a_purge_spares_what_is_held_unless_told_otherwise() {
    let mut b = Bench::new();
    let session = b.topic(Keep::UntilSettled);
    let (one, two) = (
        b.group(session, "a", Start::First),
        b.group(session, "b", Start::First),
    );
    for _ in 0..1_000 {
        b.put(session, 0, 0, 0);
    }
    let purge = |group: Option<&str>, held| Command::Purge {
        stream: log_name(),
        group: group.map(Into::into),
        held,
    };
    let (_, held) = b.take_for(session, one).expect("it is ready");
    let (group, seq) = b.take_for(session, one).expect("so is the next");
    assert_eq!(
        b.ask(session, purge(Some("a"), false)),
        Some(Reply::Count(998))
    );
    assert_eq!(b.messages(), 1_000, "the other group wants them all");
    assert_eq!(b.take_for(session, one), None);
    let release = Command::Settle {
        message: Handle::Group(group, seq),
        how: Settle::Release {
            priority: None,
            delay_ms: 0,
            failed: false,
        },
    };
    assert_eq!(b.ask(session, release), Some(Reply::Done));
    assert_eq!(b.take_for(session, one), Some((group, seq)));
    assert_eq!(b.ask(session, purge(None, false)), Some(Reply::Count(998)));
    assert_eq!(b.messages(), 2, "held by the one group");
    assert_eq!(b.take_for(session, two).map(|t| t.1), Some(held));
    assert_eq!(b.ask(session, purge(None, true)), Some(Reply::Count(2)));
    let totals = b.shard.info().totals;
    assert_eq!((totals.messages, totals.bytes, totals.held), (0, 0, 0));
    assert!(b.put(session, 0, 0, 0) > seq);
    assert!(b.take_for(session, one).is_some());
}

#[test]
fn a_full_stream_refuses_a_message_for_itself_only() {
    let mut b = Bench::new();
    let session = b.shard.attach();
    let mut ids = Vec::new();
    for (link, max_messages) in [(0, 1), (1, 0), (2, 1)] {
        let mut config = StreamConfig::default();
        config.limits.max_messages = max_messages;
        let open = Command::Open {
            link: Link(link),
            name: StreamName::new("default", format!("s{link}")),
            create: Some(Box::new(config)),
            role: Role::Producer,
        };
        let Some(Reply::Opened { stream }) = b.ask(session, open) else {
            panic!("a new stream opens");
        };
        ids.push(stream);
    }
    let gone = StreamId(9_999);
    let publish = |also: Vec<StreamId>| Command::Publish {
        to: Target::Link(Link(0)),
        also,
        message: NewMessage::default(),
    };
    let all = vec![ids[1], gone, ids[2]];
    let published = |reply| match reply {
        Some(Reply::Published { seq, refused, .. }) => (seq, refused.map(Vec::from)),
        other => panic!("{other:?}"),
    };
    let first = published(b.ask(session, publish(all.clone())));
    assert_eq!(first, (Seq(1), Some(vec![(gone, Cause::Gone)])));
    let second = published(b.ask(session, publish(all)));
    let full = [
        (ids[0], Cause::Full),
        (gone, Cause::Gone),
        (ids[2], Cause::Full),
    ];
    assert_eq!(second, (Seq(0), Some(full.to_vec())));
    assert_eq!(messages_of(&mut b, session, "s1"), 2);
    assert_eq!(messages_of(&mut b, session, "s2"), 1);
    // Nobody takes it: that is a refusal, with the first reason.
    let third = b.ask(session, publish(vec![gone]));
    assert!(
        matches!(third, Some(Reply::Refused(Refusal::Limit(_)))),
        "{third:?}"
    );
}

#[test]
fn a_stream_is_deleted_only_if_it_is_unused_or_empty_when_that_is_asked() {
    let mut b = Bench::new();
    let worker = b.worker(&["a"]);
    let operator = b.shard.attach();
    let delete = |unused, empty| Command::Delete {
        name: StreamName::new("default", "a"),
        only: Only { unused, empty },
    };
    let unmet = |unmet| Some(Reply::Refused(Refusal::Unmet(unmet)));
    b.put(worker, 0, 1, 0);
    assert_eq!(b.ask(operator, delete(true, false)), unmet(Unmet::Unused));
    assert_eq!(b.ask(operator, delete(false, true)), unmet(Unmet::Empty));
    // What a consumer holds does not count.
    delivered(b.ask(worker, reserve(Wait::No)));
    assert_eq!(b.ask(operator, delete(true, true)), unmet(Unmet::Unused));
    assert_eq!(b.ask(operator, delete(false, true)), Some(Reply::Done));
    assert_eq!(b.ask(operator, delete(true, true)), Some(Reply::NotFound));
}

/// Sessions with credit for `room` messages each at the default group of one stream, dispatched as `how` says.
fn dispatched(bench: &mut Bench, how: &Dispatch, count: usize, room: u32) -> Vec<SessionId> {
    let config = StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    };
    let mut join = || {
        let session = bench.shard.attach();
        for command in [
            Command::Open {
                link: Link(0),
                name: StreamName::new("default", "s"),
                create: Some(Box::new(config.clone())),
                role: Role::Consumer,
            },
            Command::Dispatch {
                stream: Target::Link(Link(0)),
                group: "".into(),
                how: how.clone(),
            },
            Command::Subscribe {
                consumer: ME,
                link: Link(0),
                group: "".into(),
            },
            Command::Credit {
                consumer: ME,
                credit: Credit::Level(room),
            },
        ] {
            let reply = bench.ask(session, command);
            assert!(matches!(reply, Some(Reply::Done | Reply::Opened { .. })));
        }
        session
    };
    (0..count).map(|_| join()).collect()
}

/// Publishes one message a subject; says who was pushed which.
fn publish_each(bench: &mut Bench, by: SessionId, subjects: &[String]) -> Vec<(SessionId, Seq)> {
    for subject in subjects {
        let message = NewMessage {
            subject: subject.clone().into(),
            ..NewMessage::default()
        };
        let publish = Command::Publish {
            to: Target::Link(Link(0)),
            also: vec![],
            message,
        };
        let published = bench.ask(by, publish);
        assert!(matches!(published, Some(Reply::Published { .. })));
    }
    bench.pushed()
}

fn acked(bench: &mut Bench, session: SessionId, seq: Seq) {
    let done = bench.settle(session, seq, Settle::Ack);
    assert_eq!(done, Some(Reply::Done));
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key/{n}")).collect()
}

#[test]
fn a_group_dispatched_at_random_gives_everybody_some_and_passes_over_who_is_full() {
    let bench = &mut Bench::new();
    let who = dispatched(bench, &Dispatch::Random, 3, 20);
    let pushed = publish_each(bench, who[0], &names(60));
    for session in &who {
        assert_eq!(pushed.iter().filter(|(to, _)| to == session).count(), 20);
    }
    let order: Vec<_> = pushed.iter().map(|(to, _)| *to).collect();
    let turns: Vec<_> = who.iter().cycle().take(60).copied().collect();
    assert_ne!(order, turns);
}

#[test]
fn whoever_holds_least_gets_the_next() {
    let bench = &mut Bench::new();
    let who = dispatched(bench, &Dispatch::LeastHeld, 2, 10);
    let pushed = publish_each(bench, who[0], &names(4));
    let of_first: Vec<_> = pushed.iter().filter(|(to, _)| *to == who[0]).collect();
    assert_eq!(of_first.len(), 2);
    for &&(_, seq) in &of_first {
        acked(bench, who[0], seq);
    }
    let pushed = publish_each(bench, who[0], &names(3));
    let to: Vec<_> = pushed.iter().map(|(to, _)| *to).collect();
    assert_eq!(to[..2], [who[0], who[0]], "it held none, the other two");
}

#[test]
fn a_single_consumer_gets_everything_in_order_until_it_leaves() {
    let bench = &mut Bench::new();
    let who = dispatched(bench, &Dispatch::Single, 3, 2);
    let served = |bench: &mut Bench| {
        let name = StreamName::new("default", "s");
        match bench.ask(who[2], Command::DescribeStream { name }) {
            Some(Reply::StreamInfo(info)) => info.served,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(served(bench), Some((who[0], ME)));
    let pushed = publish_each(bench, who[1], &names(4));
    assert_eq!(
        pushed,
        [(who[0], Seq(1)), (who[0], Seq(2))],
        "then it is full"
    );
    acked(bench, who[0], Seq(1));
    assert_eq!(bench.pushed(), [(who[0], Seq(3))]);
    bench.shard.detach(bench.now, who[0], &mut bench.seen);
    assert_eq!(bench.pushed(), [(who[1], Seq(2)), (who[1], Seq(3))]);
    acked(bench, who[1], Seq(2));
    assert_eq!(bench.pushed(), [(who[1], Seq(4))]);
    assert_eq!(served(bench), Some((who[1], ME)));
}

#[test]
fn messages_of_one_key_go_to_one_consumer_in_order() {
    let bench = &mut Bench::new();
    let how = Dispatch::Pinned(KeyFrom::Subject);
    let who = dispatched(bench, &how, 3, 1_000);
    let keys = names(60);
    let all: Vec<String> = (0..4).flat_map(|_| keys.clone()).collect();
    let pushed = publish_each(bench, who[0], &all);
    assert_eq!(pushed.len(), all.len());
    let owner = |pushed: &[(SessionId, Seq)], seq: u64| {
        let found = pushed.iter().find(|(_, pushed)| pushed.0 == seq);
        found.map(|(to, _)| *to)
    };
    for key in 1..=60 {
        for round in 1..4 {
            assert_eq!(owner(&pushed, key), owner(&pushed, key + 60 * round));
        }
    }
    for session in &who {
        let has = (1..=60).filter(|key| owner(&pushed, *key) == Some(*session));
        assert!(has.count() > 5, "all have keys");
    }
    // One leaves: what it held and its keys go to the others, whose own keys stay.
    bench.shard.detach(bench.now, who[1], &mut bench.seen);
    let moved = bench.pushed();
    assert_eq!(moved.len() % 4, 0);
    for key in 1..=60 {
        let was = owner(&pushed, key);
        let now = owner(&moved, key);
        assert_eq!(now.is_some(), was == Some(who[1]), "key {key}");
        for round in 1..4 {
            assert_eq!(owner(&moved, key + 60 * round), now);
        }
    }
}

#[test]
fn a_message_waits_for_its_consumer_and_others_pass_it() {
    let bench = &mut Bench::new();
    let how = Dispatch::Pinned(KeyFrom::Subject);
    let who = dispatched(bench, &how, 2, 1);
    // Until both are full, whatever keys that takes.
    let pushed = publish_each(bench, who[0], &names(50));
    assert_eq!(pushed.len(), 2);
    assert_ne!(pushed[0].0, pushed[1].0);
    // Each gets its own, in order, one at a time.
    let mut heard: Vec<(SessionId, Seq)> = pushed.clone();
    let mut held = pushed;
    while let Some((session, seq)) = held.pop() {
        acked(bench, session, seq);
        let next = bench.pushed();
        assert!(next.iter().all(|(to, _)| *to == session));
        heard.extend(&next);
        held.extend(next);
    }
    assert_eq!(heard.len(), 50);
    for session in &who {
        let of: Vec<_> = heard.iter().filter(|(to, _)| to == session).collect();
        assert!(of.is_sorted_by_key(|(_, seq)| *seq));
    }
}

#[test]
fn a_pinned_group_gives_back_in_order_what_was_released() {
    let bench = &mut Bench::new();
    let how = Dispatch::Pinned(KeyFrom::Header("h".into()));
    let who = dispatched(bench, &how, 2, 3);
    // Without the header all are of one key.
    let pushed = publish_each(bench, who[0], &names(5));
    let (owner, _) = pushed[0];
    assert_eq!(pushed, [1, 2, 3].map(|seq| (owner, Seq(seq))));
    let release = Settle::Release {
        priority: None,
        delay_ms: 0,
        failed: false,
    };
    bench.settle(owner, Seq(2), release);
    assert_eq!(
        bench.pushed(),
        [(owner, Seq(2))],
        "ahead of what comes later"
    );
    acked(bench, owner, Seq(1));
    assert_eq!(bench.pushed(), [(owner, Seq(4))]);
}

#[test]
fn a_group_by_priority_cannot_be_pinned() {
    let bench = &mut Bench::new();
    let worker = bench.worker(&["jobs"]);
    let pin = Command::Dispatch {
        stream: Target::Link(Link(0)),
        group: "".into(),
        how: Dispatch::Pinned(KeyFrom::Key),
    };
    let refused = bench.ask(worker, pin);
    assert!(matches!(
        refused,
        Some(Reply::Refused(Refusal::Unsupported(_)))
    ));
}

#[test]
fn a_limit_of_what_is_ready_leaves_out_what_consumers_hold() {
    let mut b = Bench::new();
    let session = b.shard.attach();
    let mut config = StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    };
    config.limits.max_messages = 2;
    config.limits.of = Counted::Ready;
    let open = Command::Open {
        link: Link(0),
        name: StreamName::new("default", "q"),
        create: Some(Box::new(config)),
        role: Role::Consumer,
    };
    assert!(matches!(b.ask(session, open), Some(Reply::Opened { .. })));
    let subscribe = Command::Subscribe {
        consumer: ME,
        link: Link(0),
        group: "".into(),
    };
    assert_eq!(b.ask(session, subscribe), Some(Reply::Done));
    let full = |b: &mut Bench| {
        let publish = Command::Publish {
            to: Target::Link(Link(0)),
            also: Vec::new(),
            message: NewMessage::default(),
        };
        matches!(
            b.ask(session, publish),
            Some(Reply::Refused(Refusal::Limit(_)))
        )
    };
    assert!(!full(&mut b) && !full(&mut b) && full(&mut b));
    let first = delivered(b.ask(session, reserve(Wait::No)));
    assert!(!full(&mut b), "one is held");
    assert!(full(&mut b));
    let release = Settle::Release {
        priority: None,
        delay_ms: 0,
        failed: false,
    };
    b.settle(session, first, release);
    assert_eq!(messages_of(&mut b, session, "q"), 3, "it may be too many");
    assert!(full(&mut b));
    delivered(b.ask(session, reserve(Wait::No)));
    assert!(full(&mut b), "two are ready");
    delivered(b.ask(session, reserve(Wait::No)));
    assert!(!full(&mut b));
}
