//! What one shard does a second, without sockets: put, reserve, delete, in batches, over a log in memory and on disk.
//!
//! Prints a table; run with `cargo bench -p longtail-engine --bench shard`.

use std::sync::Arc;
use std::time::Instant;

use longtail_engine::{
    Command, Effect, Effects, Gate, GroupConfig, Handle, MemoryLimits, NewMessage, Numbering,
    Order, Reply, Role, Shard, ShardConfig, StreamConfig, StreamName, Target, Wait,
};
use longtail_log::{FsDisk, Options};
use longtail_model::{ConsumerTag, Durability, Link, SessionId, ShardId, Timestamp};

const ME: ConsumerTag = ConsumerTag(0);
const OPS: usize = 400_000;

#[derive(Default)]
struct Count {
    published: u64,
    taken: Vec<longtail_model::Seq>,
    done: u64,
}

impl Effects for Count {
    fn emit(&mut self, _: SessionId, _: Gate, effect: Effect) {
        match effect {
            Effect::Reply(_, Reply::Published { .. }) => self.published += 1,
            Effect::Reply(_, Reply::Delivered(delivery)) => self.taken.push(delivery.seq),
            Effect::Reply(_, Reply::Done) => self.done += 1,
            _ => {}
        }
    }
}

fn run(name: &str, mut shard: Shard, batch: usize, body: usize) {
    let now = Timestamp(1_000_000);
    let mut fx = Count::default();
    let session = shard.attach();
    let config = StreamConfig {
        numbering: Numbering::Shared("jobs".into()),
        group: Some(GroupConfig {
            order: Order::Priority,
            ..GroupConfig::default()
        }),
        ..StreamConfig::default()
    };
    let name_of = StreamName::new("default", "bench");
    let open = Command::Open {
        link: Link(0),
        name: name_of,
        create: Some(Box::new(config)),
        role: Role::Consumer,
    };
    shard.step(now, session, 0, open, &mut fx);
    let subscribe = Command::Subscribe {
        consumer: ME,
        link: Link(0),
        group: "".into(),
    };
    shard.step(now, session, 0, subscribe, &mut fx);
    let payload = bytes::Bytes::from(vec![b'x'; body]);
    let start = Instant::now();
    for _ in 0..OPS / batch {
        for _ in 0..batch {
            let message = NewMessage {
                ack_timeout_ms: 60_000,
                payload: payload.clone(),
                ..NewMessage::default()
            };
            let to = Target::Link(Link(0));
            shard.step(
                now,
                session,
                1,
                Command::Publish {
                    to,
                    also: Vec::new(),
                    message,
                },
                &mut fx,
            );
        }
        turn(&mut shard);
        for _ in 0..batch {
            let take = Command::Take {
                consumer: ME,
                wait: Wait::No,
                deadline_margin_ms: 1_000,
            };
            shard.step(now, session, 1, take, &mut fx);
        }
        turn(&mut shard);
        for seq in std::mem::take(&mut fx.taken) {
            shard.step(
                now,
                session,
                1,
                Command::Discard {
                    message: Handle::Shared(Link(0), seq),
                },
                &mut fx,
            );
        }
        turn(&mut shard);
    }
    let per_op = start.elapsed().as_nanos() as f64 / (OPS * 3) as f64;
    println!(
        "{name:<10} batch {batch:>4}  body {body:>5}  {per_op:>7.0} ns an operation  {:>10.0} a second",
        1e9 / per_op
    );
}

/// What the runtime does after a batch.
fn turn(shard: &mut Shard) {
    shard.end_batch();
    if let Some(log) = shard.logs().durable() {
        while let Some(job) = log.next_write(false) {
            let done = job.run();
            log.finish(done);
        }
        while let Some(job) = log.next_chore() {
            let done = job.run();
            log.finish(done);
        }
    }
    let retired: Vec<_> = shard.take_retired().collect();
    for position in retired {
        shard.reclaim(position);
    }
}

fn main() {
    for (batch, body) in [(1, 32), (32, 32), (512, 32), (512, 1024)] {
        let config = ShardConfig {
            durability: Durability::Memory,
            ..ShardConfig::default()
        };
        run(
            "memory",
            Shard::in_memory(MemoryLimits::default(), config, Timestamp(1)),
            batch,
            body,
        );
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = ShardConfig {
            durability: Durability::Interval,
            ..ShardConfig::default()
        };
        let opened = Shard::open(
            Arc::new(FsDisk),
            dir.path(),
            Options::new(ShardId(0)),
            MemoryLimits::default(),
            config,
            Timestamp(1),
        );
        run(
            "interval",
            opened.expect("an empty directory opens").0,
            batch,
            body,
        );
    }
}
