//! What streams and groups that nobody uses take of memory: a broker keeps a group for each session that is offline and
//! a stream for each topic filter, hundreds of thousands of both.
//!
//! The process's memory is measured: this file has one test, so that no other runs beside it.
#![cfg(target_os = "linux")]

use longtail_engine::command::Start;
use longtail_engine::{
    Command, Effect, Effects, Gate, GroupConfig, MemoryLimits, Reply, Shard, ShardConfig,
    StreamName,
};
use longtail_model::{Durability, SessionId, Timestamp};

const NOW: Timestamp = Timestamp(1_000_000);
const COUNT: usize = 100_000;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.map_or(0, |pages: usize| pages * 4096)
}

struct NoRefusal;

impl Effects for NoRefusal {
    fn emit(&mut self, _: SessionId, _: Gate, effect: Effect) {
        if let Effect::Reply(_, Reply::Refused(refusal)) = effect {
            panic!("{refusal}");
        }
    }
}

fn name(number: usize) -> StreamName {
    StreamName::new("default", format!("filter/{number}"))
}

fn define(shard: &mut Shard, session: SessionId, stream: usize) {
    let define = Command::Define {
        name: name(stream),
        config: Box::default(),
    };
    shard.step(NOW, session, 0, define, &mut NoRefusal);
}

fn add_group(shard: &mut Shard, session: SessionId, stream: usize, group: usize) {
    let config = GroupConfig {
        start: Start::Next,
        backoff_ms: vec![1, 10, 100],
        dead_letter: Some(longtail_engine::config::DeadLetter::to("dead")),
        ..GroupConfig::default()
    };
    let define = Command::DefineGroup {
        stream: name(stream),
        group: format!("session-{group}").into(),
        config: Box::new(config),
    };
    shard.step(NOW, session, 0, define, &mut NoRefusal);
}

/// Bytes of memory that each of `COUNT` takes.
fn each(make: impl Fn(&mut Shard, SessionId, usize)) -> (usize, Shard) {
    let config = ShardConfig {
        durability: Durability::Memory,
        ..ShardConfig::default()
    };
    let mut shard = Shard::in_memory(MemoryLimits::default(), config, NOW);
    let session = shard.attach();
    define(&mut shard, session, 0);
    let before = resident();
    for number in 1..=COUNT {
        make(&mut shard, session, number);
    }
    ((resident() - before) / COUNT, shard)
}

#[test]
fn what_nobody_uses_takes_little_memory() {
    // Kept to the end: memory that one of them gave back would not be counted for the next.
    let (group, _groups) = each(|shard, session, number| add_group(shard, session, 0, number));
    assert!(group <= 200, "an offline group takes {group} bytes");
    let (stream, _streams) = each(define);
    assert!(stream <= 500, "an empty stream takes {stream} bytes");
    let (both, _both) = each(|shard, session, number| {
        define(shard, session, number);
        add_group(shard, session, number, number);
    });
    assert!(
        both <= 750,
        "a stream with an offline group takes {both} bytes"
    );
    println!("bytes: group {group}, stream {stream}, stream with a group {both}");
}
