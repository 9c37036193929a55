use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use longtail_engine::Wait;
use longtail_model::{Durability, Seq};

use super::*;
use crate::client::block_on;
use crate::config::BrokerConfig;

fn name() -> StreamName {
    StreamName::new("default", "$test")
}

type Pair = (Arc<str>, String);

fn read(key: &str, message: OwnedMessage) -> Option<Pair> {
    Some((key.into(), String::from_utf8(message.payload.into()).ok()?))
}

fn pair(key: &str, value: &str) -> Pair {
    (key.into(), value.to_owned())
}

fn get(values: &LastValues<Pair>, key: &str) -> Option<String> {
    values.get(key).map(|(_, value)| value)
}

fn open(broker: &Broker) -> LastValues<Pair> {
    LastValues::open(broker, &name(), read, Box::new(|_| {})).unwrap()
}

fn record(value: &str) -> NewMessage {
    NewMessage {
        payload: Bytes::copy_from_slice(value.as_bytes()),
        ..NewMessage::default()
    }
}

fn write(values: &LastValues<Pair>, key: &str, value: &str) {
    block_on(values.write(pair(key, value), record(value))).unwrap();
}

fn all(values: &LastValues<Pair>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    values.for_each(|(key, value)| {
        all.insert(key.to_string(), value.clone());
    });
    assert_eq!(all.len(), values.len());
    all
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

/// Messages in the stream, live values and what is still to be removed.
fn records(broker: &Broker) -> usize {
    let (shard, _) = block_on(broker.find(&name())).unwrap().unwrap();
    let command = Command::Read {
        name: name(),
        from: Seq::FIRST,
        max: 4_096,
        max_bytes: 1 << 20,
        wait: Wait::No,
    };
    let answer = broker.client(shard).call(command).wait().unwrap();
    answer.messages.len()
}

fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig {
        shards: 2,
        ..BrokerConfig::at(dir)
    }
}

#[test]
fn values_survive_a_restart_and_removed_ones_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let broker = Broker::open(config(dir.path())).unwrap();
        let values = open(&broker);
        if round > 0 {
            assert_eq!(all(&values), map(&[("b", "2"), ("c", "3"), ("d", "1")]));
        }
        write(&values, "a", "1");
        write(&values, "b", "1");
        write(&values, "b", "2");
        write(&values, "c", "3");
        assert!(block_on(values.erase("a")).unwrap());
        assert!(!block_on(values.erase("a")).unwrap());
        assert!(!block_on(values.erase("never")).unwrap());
        write(&values, "d", "1");
        assert_eq!(all(&values), map(&[("b", "2"), ("c", "3"), ("d", "1")]));
        assert_eq!(get(&values, "a"), None);
    }
}

#[test]
fn a_change_is_visible_before_it_is_durable_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::open(config(dir.path())).unwrap();
    let values = open(&broker);
    let order = Arc::new(Mutex::new(Vec::new()));
    let done = |what: &'static str| -> Done {
        let order = Arc::clone(&order);
        Box::new(move |result| {
            result.unwrap();
            order.lock().push(what);
        })
    };
    values.set(pair("a", "1"), record("1"), done("set 1"));
    assert_eq!(get(&values, "a").as_deref(), Some("1"));
    assert!(values.remove("a", done("remove")));
    assert!(values.remove("a", done("remove again")));
    assert_eq!((get(&values, "a"), values.len()), (None, 0));
    values.set(pair("a", "2"), record("2"), done("set 2"));
    assert_eq!((get(&values, "a").as_deref(), values.len()), (Some("2"), 1));
    assert!(order.lock().is_empty());
    write(&values, "b", "1");
    assert_eq!(*order.lock(), ["set 1", "remove", "remove again", "set 2"]);
    // A later write takes the removals along.
    write(&values, "b", "2");
    write(&values, "b", "3");
    assert!(records(&broker) <= 3, "{}", records(&broker));
    drop(values);
    drop(broker);
    let broker = Broker::open(config(dir.path())).unwrap();
    assert_eq!(all(&open(&broker)), map(&[("a", "2"), ("b", "3")]));
}

#[test]
fn what_the_shard_refuses_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        max_message_bytes: 1_024,
        ..config(dir.path())
    };
    let broker = Broker::open(config).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let taken_back = {
        let told = Arc::clone(&told);
        Box::new(move |key: &str| told.lock().push(key.to_owned()))
    };
    let values = LastValues::open(&broker, &name(), read, taken_back).unwrap();
    write(&values, "a", "good");
    let huge = "x".repeat(3 << 20);
    for key in ["a", "b"] {
        let refused = block_on(values.write(pair(key, "huge"), record(&huge)));
        assert!(refused.is_err());
    }
    assert_eq!(*told.lock(), ["a", "b"]);
    assert_eq!(all(&values), map(&[("a", "good")]));
    write(&values, "a", "better");
    assert_eq!(all(&values), map(&[("a", "better")]));
}

#[test]
fn a_stream_that_somebody_deletes_takes_no_more_values() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    let values = open(&broker);
    write(&values, "a", "1");
    let delete = Command::Delete {
        name: name(),
        only: longtail_engine::Only::default(),
    };
    block_on(broker.at_stream(&name(), delete)).unwrap();
    for _ in 0..2 {
        let refused = block_on(values.write(pair("a", "2"), record("2")));
        assert!(refused.unwrap_err().to_string().contains("deleted"));
    }
}

/// A copy of a data directory while it is written to: what a crash at this moment would leave, and a little more.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if std::fs::copy(entry.path(), &to).is_err() {
            // A file that has been removed in the meantime.
            assert!(!entry.path().exists());
        }
    }
}

#[test]
fn racing_writers_agree_with_what_a_crash_leaves() {
    const KEYS: u64 = 5;
    const WRITERS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig {
        durability: Durability::Interval,
        shards: 1,
        ..BrokerConfig::at(dir.path().join("data"))
    };
    let broker = Broker::open(config.clone()).unwrap();
    let values = open(&broker);
    // For each key the number of the change submitted and of the change acknowledged last.
    let submitted: Vec<_> = (0..KEYS).map(|_| Mutex::new(0_u64)).collect();
    let acknowledged: Arc<Vec<_>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let change = |turn: u64| {
        let at = usize::try_from(turn % KEYS).unwrap();
        let key = format!("key/{at}");
        let acknowledged = Arc::clone(&acknowledged);
        // The lock makes the numbers ascend in order of submission.
        let mut number = submitted[at].lock();
        *number += 1;
        let mine = *number;
        let done = Box::new(move |result: Result<(), Refusal>| {
            result.unwrap();
            // Two threads may tell at the same time what was noted in order: the later number stands for both.
            acknowledged[at].fetch_max(mine, Ordering::SeqCst);
        });
        // Every third change removes the value; the number is lost then, but not that it has gone.
        if mine % 3 == 0 {
            assert!(values.remove(&key, done));
        } else {
            let value = mine.to_string();
            values.set(pair(&key, &value), record(&value), done);
        }
    };
    let mut crashes = 0;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (change, values) = (&change, &values);
            scope.spawn(move || {
                for turn in 0..600 {
                    change(turn * 7 + writer);
                    values.run();
                }
            });
        }
        for crash in 0..6 {
            let floor: Vec<u64> = acknowledged
                .iter()
                .map(|number| number.load(Ordering::SeqCst))
                .collect();
            let left = dir.path().join(format!("crash-{crash}"));
            copy(&dir.path().join("data"), &left);
            let ceiling: Vec<u64> = submitted.iter().map(|number| *number.lock()).collect();
            let config = BrokerConfig {
                data: Some(left),
                ..config.clone()
            };
            let Ok(broker) = Broker::open(config) else {
                // Files copied at different times can contradict each other, which a crash cannot.
                continue;
            };
            crashes += 1;
            let found = all(&open(&broker));
            for at in 0..usize::try_from(KEYS).unwrap() {
                let mut possible = floor[at]..=ceiling[at];
                match found.get(&format!("key/{at}")) {
                    Some(value) => assert!(possible.contains(&value.parse().unwrap())),
                    None => assert!(possible.any(|number| number % 3 == 0), "{possible:?}"),
                }
            }
        }
    });
    assert!(crashes > 0);
    write(&values, "end", "1");
    let before = all(&values);
    drop(values);
    drop(broker);
    let broker = Broker::open(config).unwrap();
    let values = open(&broker);
    assert_eq!(all(&values), before);
    write(&values, "end", "2");
    for _ in 0..4 {
        write(&values, "end", "3");
    }
    let left = records(&broker);
    assert!(left <= before.len() + 2, "{left} records");
}
