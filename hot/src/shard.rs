//! What a message costs in the state machine, in memory.

use anyhow::{Result, ensure};
use bytes::Bytes;
use longtail_engine::{
    Command, Credit, Effect, Effects, Gate, GroupConfig, Handle, MemoryLimits, NewMessage,
    Numbering, Order, QUIET, Reply, Role, Settle, Shard, ShardConfig, StreamConfig, StreamName,
    Target, Wait,
};
use longtail_model::{ConsumerTag, Durability, GroupId, Link, Seq, SessionId, Timestamp};

const NOW: Timestamp = Timestamp(1_000_000);
const ME: ConsumerTag = ConsumerTag(1);
const LINK: Link = Link(0);
/// Messages between two turns of a runtime.
const BATCH: u64 = 32;

#[derive(Default)]
struct Seen {
    published: u64,
    taken: Vec<(GroupId, Seq)>,
}

impl Effects for Seen {
    fn emit(&mut self, _: SessionId, _: Gate, effect: Effect) {
        match effect {
            Effect::Reply(_, Reply::Published { .. }) => self.published += 1,
            Effect::Push(delivery) | Effect::Reply(_, Reply::Delivered(delivery)) => {
                self.taken.push((delivery.group, delivery.seq));
            }
            _ => {}
        }
    }
}

struct Bench {
    shard: Shard,
    session: SessionId,
    seen: Seen,
}

impl Bench {
    fn new(config: StreamConfig) -> Bench {
        let in_memory = ShardConfig {
            durability: Durability::Memory,
            ..ShardConfig::default()
        };
        let mut shard = Shard::in_memory(MemoryLimits::default(), in_memory, NOW);
        let session = shard.attach();
        let mut bench = Bench {
            shard,
            session,
            seen: Seen::default(),
        };
        bench.step(Command::Open {
            link: LINK,
            name: StreamName::new("default", "hot"),
            create: Some(Box::new(config)),
            role: Role::Consumer,
        });
        bench.step(Command::Subscribe {
            consumer: ME,
            link: LINK,
            group: "".into(),
        });
        bench
    }

    fn step(&mut self, command: Command) {
        self.shard
            .step(NOW, self.session, 0, command, &mut self.seen);
    }

    fn publish(&mut self, payload: &Bytes) {
        self.step(Command::Publish {
            to: Target::Link(LINK),
            also: Vec::new(),
            message: NewMessage {
                payload: payload.clone(),
                ..NewMessage::default()
            },
        });
    }

    fn level(&mut self, level: u32) {
        self.credit(Credit::Level(level));
    }

    fn credit(&mut self, credit: Credit) {
        self.step(Command::Credit {
            consumer: ME,
            credit,
        });
    }

    fn ack_taken(&mut self) {
        let taken = std::mem::take(&mut self.seen.taken);
        let Some(&(group, _)) = taken.first() else {
            return;
        };
        let messages = taken.iter().map(|&(_, seq)| seq).collect();
        let ack = Command::AckAll { group, messages };
        self.shard
            .step(NOW, self.session, QUIET, ack, &mut self.seen);
    }

    /// What a runtime does after a batch.
    fn turn(&mut self) {
        self.shard.end_batch();
        let retired: Vec<_> = self.shard.take_retired().collect();
        for position in retired {
            self.shard.reclaim(position);
        }
    }

    fn finish(self, times: u64) -> Result<()> {
        ensure!(self.seen.published == times, "not every message was taken");
        ensure!(self.seen.taken.is_empty(), "a message is left");
        Ok(())
    }
}

fn payload() -> Bytes {
    Bytes::from_static(&[b'x'; 64])
}

fn queue() -> StreamConfig {
    StreamConfig {
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    }
}

pub(crate) fn job(times: u64) -> Result<()> {
    let mut bench = Bench::new(StreamConfig {
        numbering: Numbering::Shared("jobs".into()),
        group: Some(GroupConfig {
            order: Order::Priority,
            ..GroupConfig::default()
        }),
        ..StreamConfig::default()
    });
    let payload = payload();
    for round in 0..times {
        bench.publish(&payload);
        bench.step(Command::Take {
            consumer: ME,
            wait: Wait::No,
            deadline_margin_ms: 1000,
        });
        for (_, seq) in std::mem::take(&mut bench.seen.taken) {
            bench.step(Command::Discard {
                message: Handle::Shared(LINK, seq),
            });
        }
        if round % BATCH == 0 {
            bench.turn();
        }
    }
    bench.finish(times)
}

pub(crate) fn pushed(times: u64) -> Result<()> {
    let mut bench = Bench::new(queue());
    bench.level(1000);
    let payload = payload();
    for _ in 0..times {
        bench.publish(&payload);
        if bench.seen.published.is_multiple_of(BATCH) {
            bench.ack_taken();
            bench.turn();
        }
    }
    bench.ack_taken();
    bench.finish(times)
}

pub(crate) fn given_away(times: u64) -> Result<()> {
    let mut bench = Bench::new(queue());
    let payload = payload();
    for _ in 0..times {
        if bench.seen.published.is_multiple_of(BATCH) {
            bench.seen.taken.clear();
            bench.turn();
            bench.credit(Credit::Away(BATCH as u32));
        }
        bench.publish(&payload);
    }
    bench.seen.taken.clear();
    bench.finish(times)
}

pub(crate) fn backlog(times: u64) -> Result<()> {
    let mut bench = Bench::new(queue());
    let payload = payload();
    for _ in 0..times {
        bench.publish(&payload);
        if bench.seen.published.is_multiple_of(BATCH) {
            bench.turn();
        }
    }
    bench.level(BATCH as u32);
    while !bench.seen.taken.is_empty() {
        // One by one, as clients do that acknowledge each.
        for (group, seq) in std::mem::take(&mut bench.seen.taken) {
            bench.step(Command::Settle {
                message: Handle::Group(group, seq),
                how: Settle::Ack,
            });
        }
        bench.turn();
    }
    bench.finish(times)
}
