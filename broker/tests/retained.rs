//! Last values of subjects, kept through restarts.
#![allow(clippy::unwrap_used)] // a test helper that cannot go on has failed

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use longtail_broker::message::{Message, Origin, Quality, SharedMessage};
use longtail_broker::retained::{RetainedCursor, RetainedLimits, RetainedStore, Settled};
use longtail_broker::{Broker, BrokerConfig, Space};
use longtail_engine::StreamName;
use longtail_model::{DollarRule, Filter, Subject, Timestamp};

fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig {
        shards: 2,
        ..BrokerConfig::at(dir)
    }
}

fn message(subject: &str, payload: &str) -> Message {
    Message {
        retain: true,
        ..Message::new(
            Subject::new(subject).unwrap(),
            Bytes::copy_from_slice(payload.as_bytes()),
        )
    }
}

async fn publish(broker: &Broker, message: Message) {
    broker.publish("default", Arc::new(message)).await.unwrap();
}

fn get(store: &RetainedStore, subject: &str) -> Option<SharedMessage> {
    store.get(&Subject::new(subject).unwrap(), Timestamp(0))
}

fn everything(space: &Space) -> Vec<(String, Bytes)> {
    let mut cursor = RetainedCursor::new(Filter::everything(), DollarRule::Match);
    let mut found = Vec::new();
    while cursor.step(&space.retained, Timestamp(0), 100, &mut found) {}
    found
        .iter()
        .map(|message| (message.subject.to_string(), message.payload.clone()))
        .collect()
}

#[tokio::test]
async fn a_restart_brings_back_all_that_was_said_of_each_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut full = message("a/b", "kept");
    full.headers.push(&b"\xff"[..], &b"1"[..]);
    full.reply_to = Some(Subject::new("back").unwrap());
    full.origin = Origin(77);
    full.quality = Quality::ExactlyOnce;
    {
        let broker = Broker::open(config(dir.path())).unwrap();
        full.expires = broker.clock().now().plus_millis(3_600_000);
        let full = Message {
            headers: full.headers.clone(),
            reply_to: full.reply_to.clone(),
            origin: full.origin,
            quality: full.quality,
            expires: full.expires,
            ..message("a/b", "kept")
        };
        publish(&broker, message("a/b", "old")).await;
        publish(&broker, full).await;
        publish(&broker, message("gone", "x")).await;
        publish(&broker, message("gone", "")).await;
        publish(&broker, message("", "the empty subject has one too")).await;
    }
    let broker = Broker::open(config(dir.path())).unwrap();
    let space = broker.space("default").unwrap();
    let subjects: Vec<_> = everything(&space).into_iter().map(|(s, _)| s).collect();
    assert_eq!(subjects, ["", "a/b"]);
    let back = get(&space.retained, "a/b").unwrap();
    assert_eq!(back.payload, full.payload);
    assert_eq!(back.headers, full.headers);
    assert_eq!(back.reply_to, full.reply_to);
    assert_eq!((back.origin, back.quality), (full.origin, full.quality));
    assert_eq!((back.expires, back.retain), (full.expires, true));
    assert_eq!(space.retained.next_expiry(), full.expires);
}

#[tokio::test]
async fn what_has_expired_goes_from_the_log_too() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let broker = Broker::open(config(dir.path())).unwrap();
        let space = broker.space("default").unwrap();
        assert_eq!(space.retained.len(), 0);
        for number in 0..10 {
            let message = Message {
                expires: Timestamp(50),
                ..message(&format!("t/{number}"), "x")
            };
            publish(&broker, message).await;
        }
        assert_eq!(space.retained.len(), 10);
        assert_eq!(space.retained.expire(Timestamp(50), 100, |_| {}), 10);
        // The answer to this one comes after those to what was queued before.
        publish(&broker, message("last", "x")).await;
        publish(&broker, message("last", "")).await;
    }
}

#[tokio::test]
async fn limits_refuse_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        retained: RetainedLimits {
            messages_max: 1,
            ..RetainedLimits::default()
        },
        ..config(dir.path())
    };
    let broker = Broker::open(config).unwrap();
    publish(&broker, message("a", "1")).await;
    publish(&broker, message("a", "2")).await;
    let refused = broker.publish("default", Arc::new(message("b", "1"))).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("limit of 1 retained"), "{error}");
    // What expires makes room.
    let short = Message {
        expires: Timestamp(1),
        ..message("a", "3")
    };
    publish(&broker, short).await;
    let later = Message {
        published: Timestamp(2),
        ..message("b", "1")
    };
    publish(&broker, later).await;
}

#[tokio::test]
async fn a_broker_in_memory_keeps_values_while_it_runs() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    publish(&broker, message("a", "1")).await;
    let space = broker.space("default").unwrap();
    assert!(get(&space.retained, "a").is_some());
    let subject = Subject::new("a").unwrap();
    let settled = space.retained.clear(&subject, Box::new(|_| {}));
    assert_eq!(settled, Settled::Now);
    assert!(space.retained.is_empty());
}

#[test]
fn readers_never_see_an_older_value_after_a_newer_one() {
    const WRITES: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(config(dir.path())).unwrap();
    let space = broker.space("default").unwrap();
    let order = Mutex::new(0_u64);
    let done_count = Arc::new(AtomicU64::new(0));
    let last = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let mut number = order.lock().unwrap();
                    if *number == WRITES {
                        return;
                    }
                    *number += 1;
                    let count = Arc::clone(&done_count);
                    let done = Box::new(move |result: Result<(), _>| {
                        result.unwrap();
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                    let value = Arc::new(message("x", &number.to_string()));
                    let settled = space.retained.set(value, done).unwrap();
                    assert_eq!(settled, Settled::Later);
                    drop(number);
                    broker.shards().run();
                }
            });
        }
        let mut seen = 0;
        while seen < WRITES {
            if let Some(value) = get(&space.retained, "x") {
                let number: u64 = std::str::from_utf8(&value.payload)
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!(number >= seen, "{number} after {seen}");
                seen = number;
            }
            thread::yield_now();
        }
        seen
    });
    assert_eq!(last, WRITES);
    drop(space);
    drop(broker);
    assert_eq!(done_count.load(Ordering::SeqCst), WRITES);
    let broker = Broker::open(config(dir.path())).unwrap();
    let space = broker.space("default").unwrap();
    let value = get(&space.retained, "x").unwrap();
    assert_eq!(value.payload, WRITES.to_string());
}

#[tokio::test]
async fn replaced_values_do_not_gather_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(config(dir.path())).unwrap();
    let space = broker.space("default").unwrap();
    for number in 0..500 {
        let value = Arc::new(message("x", &number.to_string()));
        let settled = space.retained.set(value, Box::new(|_| {})).unwrap();
        assert_eq!(settled, Settled::Later);
    }
    for _ in 0..20 {
        publish(&broker, message("y", "1")).await;
    }
    let stream = StreamName::new("default", "$retained");
    let (_, info) = broker.find(&stream).await.unwrap().unwrap();
    assert!(info.messages < 100, "{} left", info.messages);
}
