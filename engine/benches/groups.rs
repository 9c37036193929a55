//! What a stream with thousands of groups costs: publishing to it and settling in it, with one, 100 and 10,000 groups,
//! and the memory that streams and groups take which nobody uses.
//!
//! Prints a table; run with `cargo bench -p longtail-engine --bench groups`.

use std::time::Instant;

use longtail_engine::command::Start;
use longtail_engine::{
    Command, Credit, Effect, Effects, Gate, GroupConfig, Handle, MemoryLimits, NewMessage, Reply,
    Role, Settle, Shard, ShardConfig, StreamName, Target,
};
use longtail_model::{ConsumerTag, Durability, GroupId, Link, Seq, SessionId, Timestamp};

const NOW: Timestamp = Timestamp(1_000_000);
const CONSUMER: ConsumerTag = ConsumerTag(1);
const MESSAGES: usize = 20_000;

/// Bytes of memory that the process has.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.map_or(0, |pages: usize| pages * 4096)
}

#[derive(Default)]
struct Pushed(Vec<(SessionId, GroupId, Seq)>);

impl Effects for Pushed {
    fn emit(&mut self, session: SessionId, _: Gate, effect: Effect) {
        match effect {
            Effect::Push(delivery) => self.0.push((session, delivery.group, delivery.seq)),
            Effect::Reply(_, Reply::Refused(refusal)) => panic!("{refusal}"),
            _ => {}
        }
    }
}

fn shard() -> Shard {
    let config = ShardConfig {
        durability: Durability::Memory,
        ..ShardConfig::default()
    };
    Shard::in_memory(MemoryLimits::default(), config, NOW)
}

fn name(number: usize) -> StreamName {
    StreamName::new("default", format!("filter/{number}"))
}

fn define(shard: &mut Shard, session: SessionId, stream: usize, fx: &mut Pushed) {
    let define = Command::Define {
        name: name(stream),
        config: Box::default(),
    };
    shard.step(NOW, session, 0, define, fx);
}

fn add_groups(
    shard: &mut Shard,
    session: SessionId,
    stream: usize,
    groups: usize,
    fx: &mut Pushed,
) {
    for group in 0..groups {
        let config = GroupConfig {
            start: Start::Next,
            ..GroupConfig::default()
        };
        let define = Command::DefineGroup {
            stream: name(stream),
            group: format!("session-{group}").into(),
            config: Box::new(config),
        };
        shard.step(NOW, session, 0, define, fx);
    }
}

fn publish(shard: &mut Shard, session: SessionId, fx: &mut Pushed) {
    let message = NewMessage {
        payload: bytes::Bytes::from_static(b"twenty bytes or more"),
        ..NewMessage::default()
    };
    let publish = Command::Publish {
        to: Target::Link(Link(0)),
        also: Vec::new(),
        message,
    };
    shard.step(NOW, session, 0, publish, fx);
}

fn open(shard: &mut Shard, session: SessionId, fx: &mut Pushed) {
    let open = Command::Open {
        link: Link(0),
        name: name(0),
        create: None,
        role: Role::Consumer,
    };
    shard.step(NOW, session, 0, open, fx);
}

/// Lets a session's consumer wait for what comes to a group.
fn wait_at(shard: &mut Shard, session: SessionId, group: usize, fx: &mut Pushed) {
    let subscribe = Command::Subscribe {
        consumer: CONSUMER,
        link: Link(0),
        group: format!("session-{group}").into(),
    };
    shard.step(NOW, session, 0, subscribe, fx);
    let credit = Command::Credit {
        consumer: CONSUMER,
        credit: Credit::Level(u32::MAX),
    };
    shard.step(NOW, session, 0, credit, fx);
}

/// One consumer draws from that many groups, one a stream, of which one gets messages: nanoseconds a publish, push and
/// settlement.
fn pushed(sources: usize) -> f64 {
    let (mut shard, mut fx) = (shard(), Pushed::default());
    let (session, consumer) = (shard.attach(), shard.attach());
    for stream in (0..sources).rev() {
        define(&mut shard, session, stream, &mut fx);
        add_groups(&mut shard, session, stream, 1, &mut fx);
        let open = Command::Open {
            link: Link(0),
            name: name(stream),
            create: None,
            role: Role::Consumer,
        };
        shard.step(NOW, consumer, 0, open.clone(), &mut fx);
        shard.step(NOW, session, 0, open, &mut fx);
        wait_at(&mut shard, consumer, 0, &mut fx);
    }
    let start = Instant::now();
    for _ in 0..MESSAGES {
        publish(&mut shard, session, &mut fx);
        for (consumer, group, seq) in std::mem::take(&mut fx.0) {
            let settle = Command::Settle {
                message: Handle::Group(group, seq),
                how: Settle::Ack,
            };
            shard.step(NOW, consumer, 0, settle, &mut fx);
        }
        turn(&mut shard);
    }
    start.elapsed().as_nanos() as f64 / MESSAGES as f64
}

fn turn(shard: &mut Shard) {
    shard.end_batch();
    let retired: Vec<_> = shard.take_retired().collect();
    for position in retired {
        shard.reclaim(position);
    }
}

/// Nobody is connected: nanoseconds a publish.
fn offline(groups: usize) -> f64 {
    let (mut shard, mut fx) = (shard(), Pushed::default());
    let session = shard.attach();
    define(&mut shard, session, 0, &mut fx);
    add_groups(&mut shard, session, 0, groups, &mut fx);
    open(&mut shard, session, &mut fx);
    let start = Instant::now();
    for _ in 0..MESSAGES {
        publish(&mut shard, session, &mut fx);
    }
    start.elapsed().as_nanos() as f64 / MESSAGES as f64
}

/// As many of the groups as `online` says have a consumer, which settles what it gets: nanoseconds a settlement.
fn settled(groups: usize, online: usize, messages: usize) -> f64 {
    let (mut shard, mut fx) = (shard(), Pushed::default());
    let session = shard.attach();
    define(&mut shard, session, 0, &mut fx);
    add_groups(&mut shard, session, 0, groups, &mut fx);
    open(&mut shard, session, &mut fx);
    for group in 0..online {
        let consumer = shard.attach();
        open(&mut shard, consumer, &mut fx);
        let subscribe = Command::Subscribe {
            consumer: CONSUMER,
            link: Link(0),
            group: format!("session-{group}").into(),
        };
        shard.step(NOW, consumer, 0, subscribe, &mut fx);
        let credit = Command::Credit {
            consumer: CONSUMER,
            credit: Credit::Level(16),
        };
        shard.step(NOW, consumer, 0, credit, &mut fx);
    }
    let (mut spent, mut count) = (0, 0);
    for _ in 0..messages {
        publish(&mut shard, session, &mut fx);
        let pushed = std::mem::take(&mut fx.0);
        count += pushed.len();
        let start = Instant::now();
        for (consumer, group, seq) in pushed {
            let settle = Command::Settle {
                message: Handle::Group(group, seq),
                how: Settle::Ack,
            };
            shard.step(NOW, consumer, 0, settle, &mut fx);
        }
        spent += start.elapsed().as_nanos();
        turn(&mut shard);
    }
    assert_eq!(count, online * messages, "everybody gets everything");
    spent as f64 / count as f64
}

/// Bytes of memory that each of what `make` makes takes. Of a process that has freed little so far.
fn memory(what: &str, count: usize, make: impl FnOnce(&mut Shard, SessionId, &mut Pushed)) {
    let (mut shard, mut fx) = (shard(), Pushed::default());
    let session = shard.attach();
    define(&mut shard, session, 0, &mut fx);
    let before = resident();
    make(&mut shard, session, &mut fx);
    let bytes = resident().saturating_sub(before);
    println!("{what:<40} {:>8.0} bytes", bytes as f64 / count as f64);
    // What it gave back would not be counted for the next.
    std::mem::forget(shard);
}

fn main() {
    let count = 100_000;
    memory("an offline group", count, |shard, session, fx| {
        add_groups(shard, session, 0, count, fx);
    });
    memory(
        "an empty stream without groups",
        count,
        |shard, session, fx| {
            for number in 1..=count {
                define(shard, session, number, fx);
            }
        },
    );
    memory(
        "an empty stream with one group",
        count,
        |shard, session, fx| {
            for number in 1..=count {
                define(shard, session, number, fx);
                add_groups(shard, session, number, 1, fx);
            }
        },
    );
    memory("a session", count, |shard, _, _| {
        for _ in 0..count {
            shard.attach();
        }
    });
    memory("a session with a link", count, |shard, _, fx| {
        for _ in 0..count {
            let session = shard.attach();
            open(shard, session, fx);
        }
    });
    memory(
        "a session with a consumer that waits",
        count,
        |shard, session, fx| {
            add_groups(shard, session, 0, 1, fx);
            for _ in 0..count {
                let consumer = shard.attach();
                open(shard, consumer, fx);
                wait_at(shard, consumer, 0, fx);
            }
        },
    );
    for sources in [1, 100, 1_000] {
        let cost = pushed(sources);
        println!("push, {sources:>6} sources of one consumer     {cost:>8.0} ns");
    }
    for groups in [1, 100, 10_000] {
        let cost = offline(groups);
        println!("publish, {groups:>6} groups offline            {cost:>8.0} ns");
    }
    for (groups, online, messages) in [
        (1, 1, 20_000),
        (100, 1, 20_000),
        (10_000, 1, 20_000),
        (100, 100, 200),
        (10_000, 10_000, 5),
    ] {
        let cost = settled(groups, online, messages);
        println!("settle, {groups:>6} groups, {online:>6} connected    {cost:>8.0} ns");
    }
}
