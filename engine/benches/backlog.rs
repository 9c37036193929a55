//! What a backlog of many small messages costs: memory while it grows, the time to open it again, and how fast it
//! is consumed. Each part is a process of its own, so that its memory is its own.
//!
//! `LONGTAIL_BACKLOG=50000000 cargo bench -p longtail-engine --bench backlog`; `LONGTAIL_INDEX_MEMORY` is the budget for
//! indexes in bytes. Needs about 70 bytes of disk a message in the directory for temporary files.

use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Instant;

use longtail_engine::{
    Command, Effect, Effects, Gate, GroupConfig, Handle, MemoryLimits, NewMessage, Order, Reply,
    Role, Settle, Shard, ShardConfig, StreamConfig, StreamName, Target, Wait,
};
use longtail_log::{FsDisk, Options};
use longtail_model::{ConsumerTag, Durability, GroupId, Link, Seq, SessionId, ShardId, Timestamp};

const ME: ConsumerTag = ConsumerTag(0);
const NOW: Timestamp = Timestamp(1_000_000);
const BATCH: u64 = 512;
const BODY: usize = 16;

#[derive(Default)]
struct Seen {
    published: u64,
    taken: Vec<(GroupId, Seq)>,
}

impl Effects for Seen {
    fn emit(&mut self, _: SessionId, _: Gate, effect: Effect) {
        match effect {
            Effect::Reply(_, Reply::Published { .. }) => self.published += 1,
            Effect::Reply(_, Reply::Delivered(delivery)) => {
                self.taken.push((delivery.group, delivery.seq));
            }
            _ => {}
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_default();
    text.parse().unwrap_or(default)
}

fn status(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn report(what: &str, messages: u64, start: Instant, shard: &Shard) {
    let seconds = start.elapsed().as_secs_f64();
    let (pages, reads) = shard.pages();
    println!(
        "{what:<8} {seconds:>7.2} s {:>10.0} a second   resident {:>6.1} MiB (peak {:>6.1})   indexes {:>5.1} MiB, \
         {pages} pages, {reads} read",
        messages as f64 / seconds,
        status("VmRSS"),
        status("VmHWM"),
        shard.info().index_bytes as f64 / f64::from(1 << 20),
    );
}

/// What the runtime does after a batch, and its housekeeping.
fn turn(shard: &mut Shard) {
    shard.end_batch();
    let retired: Vec<_> = shard.take_retired().collect();
    for position in retired {
        shard.reclaim(position);
    }
    let wants = |shard: &Shard| {
        let log = shard.logs_ref().durable_ref();
        log.is_some_and(longtail_log::ShardLog::wants_checkpoint)
    };
    if wants(shard) {
        shard.tidy_pages();
        let body = shard.encode_checkpoint();
        if let Some(log) = shard.logs().durable() {
            log.checkpoint(body);
        }
    }
    loop {
        let Some(log) = shard.logs().durable() else {
            return;
        };
        while let Some(job) = log.next_write(false) {
            let done = job.run();
            log.finish(done);
        }
        let job = match log.next_sync() {
            Some(job) if log.wants_checkpoint() => Some(job),
            _ => log.next_chore(),
        };
        let Some(job) = job else { return };
        let done = job.run();
        if let longtail_log::Outcome::Candidates { segment, records } = log.finish(done) {
            let live = shard.live(&records);
            if let Some(log) = shard.logs().durable() {
                log.rewrite(segment, live);
            }
        }
    }
}

fn open(dir: &Path) -> (Shard, SessionId) {
    let config = ShardConfig {
        durability: Durability::Interval,
        index_memory: number("LONGTAIL_INDEX_MEMORY", 16 << 20) as usize,
        ..ShardConfig::default()
    };
    let options = Options::new(ShardId(0));
    let memory = MemoryLimits::default();
    let opened = Shard::open(Arc::new(FsDisk), dir, options, memory, config, NOW);
    let (mut shard, found) = opened.expect("the directory opens");
    if found.checkpoint_bytes > 0 {
        println!(
            "checkpoint of {:.1} MiB, {} records after it",
            found.checkpoint_bytes as f64 / f64::from(1 << 20),
            found.records
        );
    }
    let session = shard.attach();
    (shard, session)
}

fn link(shard: &mut Shard, session: SessionId, fx: &mut Seen) {
    let config = StreamConfig {
        group: Some(GroupConfig {
            order: Order::Sequence,
            ..GroupConfig::default()
        }),
        ..StreamConfig::default()
    };
    let open = Command::Open {
        link: Link(0),
        name: StreamName::new("default", "backlog"),
        create: Some(Box::new(config)),
        role: Role::Consumer,
    };
    shard.step(NOW, session, 0, open, fx);
    let subscribe = Command::Subscribe {
        consumer: ME,
        link: Link(0),
        group: "".into(),
    };
    shard.step(NOW, session, 0, subscribe, fx);
}

fn fill(dir: &Path, messages: u64) {
    let (mut shard, session) = open(dir);
    let mut fx = Seen::default();
    link(&mut shard, session, &mut fx);
    println!("empty    resident {:.1} MiB", status("VmRSS"));
    let payload = bytes::Bytes::from(vec![b'x'; BODY]);
    let start = Instant::now();
    for _ in 0..messages / BATCH {
        for _ in 0..BATCH {
            let message = NewMessage {
                payload: payload.clone(),
                ..NewMessage::default()
            };
            let to = Target::Link(Link(0));
            let also = Vec::new();
            shard.step(
                NOW,
                session,
                1,
                Command::Publish { to, also, message },
                &mut fx,
            );
        }
        turn(&mut shard);
    }
    report("fill", fx.published, start, &shard);
}

fn drain(dir: &Path, messages: u64) {
    let start = Instant::now();
    let (mut shard, session) = open(dir);
    report("open", messages, start, &shard);
    let mut fx = Seen::default();
    link(&mut shard, session, &mut fx);
    let start = Instant::now();
    let mut taken = 0;
    loop {
        for _ in 0..BATCH {
            let take = Command::Take {
                consumer: ME,
                wait: Wait::No,
                deadline_margin_ms: 0,
            };
            shard.step(NOW, session, 1, take, &mut fx);
        }
        if fx.taken.is_empty() {
            break;
        }
        for (group, seq) in std::mem::take(&mut fx.taken) {
            taken += 1;
            assert_eq!(seq, Seq(taken), "in order, none left out");
            let settle = Command::Settle {
                message: Handle::Group(group, seq),
                how: Settle::Ack,
            };
            shard.step(NOW, session, 1, settle, &mut fx);
        }
        turn(&mut shard);
        if taken % (BATCH * 4096) == 0 {
            report("drained", taken, start, &shard);
        }
    }
    report("drain", taken, start, &shard);
    assert_eq!(taken, messages / BATCH * BATCH, "all of them");
}

fn main() {
    let messages = number("LONGTAIL_BACKLOG", 2_000_000);
    if let Ok(part) = std::env::var("LONGTAIL_BACKLOG_PART") {
        let dir = std::env::var("LONGTAIL_BACKLOG_DIR").expect("the directory of the first part");
        return match part.as_str() {
            "fill" => fill(Path::new(&dir), messages),
            _ => drain(Path::new(&dir), messages),
        };
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let me = std::env::current_exe().expect("the path of this program");
    println!("{messages} messages of {BODY} bytes");
    for part in ["fill", "drain"] {
        let run = Process::new(&me)
            .env("LONGTAIL_BACKLOG_PART", part)
            .env("LONGTAIL_BACKLOG_DIR", dir.path())
            .status();
        assert!(run.expect("this program runs").success(), "{part} failed");
    }
}
