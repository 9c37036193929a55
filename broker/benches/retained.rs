//! What a million retained messages cost: memory, and time to start.
//!
//! `cargo bench -p longtail-broker --bench retained [-- MESSAGES [PAYLOAD_BYTES]]`
#![allow(clippy::unwrap_used)] // a measurement that cannot go on has failed

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use longtail_broker::message::Message;
use longtail_broker::retained::RetainedLimits;
use longtail_broker::{Broker, BrokerConfig};
use longtail_model::{Durability, Subject};

/// Changes under way at a time.
const WINDOW: u64 = 10_000;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let messages: u64 = numbers.next().unwrap_or(1_000_000);
    let payload_bytes = usize::try_from(numbers.next().unwrap_or(32)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        durability: Durability::Interval,
        shards: 1,
        retained: RetainedLimits {
            messages_max: usize::MAX,
            bytes_max: u64::MAX,
        },
        ..BrokerConfig::at(dir.path())
    };
    let began = Instant::now();
    let broker = Broker::open(config.clone()).unwrap();
    println!("start, empty: {:?}", began.elapsed());
    let space = broker.space("default").unwrap();
    let before = resident_bytes();
    let began = Instant::now();
    let acknowledged = Arc::new(AtomicU64::new(0));
    for number in 0..messages {
        let subject = format!("site/{}/device/{number:07}/temp", number % 1_000);
        let message = Message {
            retain: true,
            ..Message::new(
                Subject::new(&subject).unwrap(),
                Bytes::from(vec![b'x'; payload_bytes]),
            )
        };
        let count = Arc::clone(&acknowledged);
        let done = Box::new(move |result: Result<(), _>| {
            result.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        });
        let _ = space.retained.set(Arc::new(message), done).unwrap();
        if number % 100 == 99 {
            broker.shards().run();
        }
        while number.saturating_sub(acknowledged.load(Ordering::Relaxed)) > WINDOW {
            broker.shards().run();
            std::thread::yield_now();
        }
    }
    broker.shards().run();
    while acknowledged.load(Ordering::Relaxed) < messages {
        std::thread::yield_now();
    }
    let took = began.elapsed();
    println!("set: {messages} in {took:?}");
    report("memory of a message, written", before, messages);
    println!(
        "as the limit counts it: {}",
        space.retained.bytes() / messages
    );
    drop(space);
    drop(broker);
    let before = resident_bytes();
    let began = Instant::now();
    let broker = Broker::open(config).unwrap();
    println!("start, {messages} messages: {:?}", began.elapsed());
    let space = broker.space("default").unwrap();
    assert_eq!(space.retained.len() as u64, messages);
    report("more memory a message after the restart", before, messages);
    println!("resident now: {} MiB", resident_bytes().unwrap_or(0) >> 20);
}

fn report(what: &str, before: Option<u64>, messages: u64) {
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        println!("{what}: {} bytes", after.saturating_sub(before) / messages);
    }
}

/// What the process keeps in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
