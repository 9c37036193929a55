//! Time and memory of the structures in `longtail_engine::structures`: `cargo bench -p longtail-engine --bench structures`.
//!
//! Prints one line a case: nanoseconds an operation (the best of a few rounds) and bytes of heap an entry where that
//! means something. The best round, because everything else on the machine only ever adds time.

use std::hint::black_box;
use std::time::Instant;

use longtail_engine::structures::{Index, IntervalSet, OrderedSet, TimerId, TimerWheel, varint};
use longtail_model::{Lsn, Seq, Timestamp};

const ENTRIES: u64 = 1_000_000;
const ROUNDS: usize = 3;

/// Runs `case` (which returns how many operations it timed, the nanoseconds they took, and the bytes of heap an entry)
/// and prints the best round.
fn report(name: &str, mut case: impl FnMut() -> (u64, u128, Option<f64>)) {
    let mut best = f64::INFINITY;
    let mut bytes = None;
    for _ in 0..ROUNDS {
        let (operations, nanos, heap) = case();
        best = best.min(nanos as f64 / operations as f64);
        bytes = heap;
    }
    let bytes = bytes.map_or(String::new(), |bytes| format!("{bytes:12.2}"));
    println!("{name:<58}{best:10.1}{bytes}");
}

fn timed(work: impl FnOnce()) -> u128 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos()
}

/// Scatters `i` over 64 bits (the finaliser of SplitMix64).
fn scatter(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn per_entry(heap: usize, entries: u64) -> Option<f64> {
    Some(heap as f64 / entries as f64)
}

fn ordered_set() {
    let filled = |key: fn(u64) -> u64| {
        let mut set = OrderedSet::new();
        for seq in 1..=ENTRIES {
            set.insert(key(seq), seq);
        }
        set
    };
    let fill = |key: fn(u64) -> u64| {
        move || {
            let mut set = OrderedSet::new();
            let nanos = timed(|| {
                for seq in 1..=ENTRIES {
                    set.insert(key(seq), seq);
                }
            });
            (ENTRIES, nanos, per_entry(set.heap_bytes(), ENTRIES))
        }
    };
    report("ordered: insert at the end", fill(|_| 1024));
    report("ordered: insert, 3 priorities", fill(|seq| seq % 3));
    report(
        "ordered: insert, 10 priorities",
        fill(|seq| scatter(seq) % 10),
    );
    report(
        "ordered: insert, random 32-bit priority",
        fill(|seq| scatter(seq) >> 32),
    );
    report("ordered: pop_first", || {
        let mut set = filled(|_| 1024);
        let nanos = timed(|| while black_box(set.pop_first()).is_some() {});
        (ENTRIES, nanos, None)
    });
    report("ordered: pop_first, random priority", || {
        let mut set = filled(|seq| scatter(seq) >> 32);
        let nanos = timed(|| while black_box(set.pop_first()).is_some() {});
        (ENTRIES, nanos, None)
    });
    report("ordered: pop_first, then insert it again", || {
        let mut set = filled(|_| 1024);
        let nanos = timed(|| {
            for _ in 0..ENTRIES {
                if let Some((key, seq)) = set.pop_first() {
                    set.insert(black_box(key), seq);
                }
            }
        });
        (ENTRIES, nanos, None)
    });
    report(
        "ordered: insert at the end and pop_first, 10,000 waiting",
        || {
            let mut set = OrderedSet::new();
            for seq in 0..10_000 {
                set.insert(1024, seq);
            }
            let nanos = timed(|| {
                for seq in 10_000..10_000 + ENTRIES {
                    set.insert(1024, seq);
                    black_box(set.pop_first());
                }
            });
            (ENTRIES, nanos, None)
        },
    );
    report("ordered: insert and pop_first, nothing waiting", || {
        let mut set = OrderedSet::new();
        let nanos = timed(|| {
            for seq in 0..ENTRIES {
                set.insert(1024, seq);
                black_box(set.pop_first());
            }
        });
        (ENTRIES, nanos, None)
    });
    report("ordered: contains, random", || {
        let set = filled(|_| 1024);
        let nanos = timed(|| {
            for i in 0..ENTRIES {
                black_box(set.contains(1024, scatter(i) % ENTRIES));
            }
        });
        (ENTRIES, nanos, None)
    });
    report("ordered: remove, random", || {
        let mut set = filled(|_| 1024);
        let nanos = timed(|| {
            for i in 0..ENTRIES {
                black_box(set.remove(1024, scatter(i) % ENTRIES));
            }
        });
        (ENTRIES, nanos, None)
    });
    let mut bytes = Vec::new();
    let set = filled(|_| 1024);
    report("ordered: encode, an entry", || {
        bytes.clear();
        let nanos = timed(|| set.encode(&mut bytes));
        (ENTRIES, nanos, per_entry(bytes.len(), ENTRIES))
    });
    report("ordered: decode, an entry", || {
        let nanos = timed(|| assert!(OrderedSet::decode(&mut bytes.as_slice()).is_ok()));
        (ENTRIES, nanos, None)
    });
}

fn index() {
    let filled = |size: u64| {
        let mut index = Index::new();
        for seq in 1..=ENTRIES {
            index.push(Seq(seq), Lsn(seq * size));
        }
        index
    };
    let get = |seq_of: fn(u64) -> u64| {
        let index = filled(1064);
        move || {
            let nanos = timed(|| {
                for i in 0..ENTRIES {
                    black_box(index.get(Seq(seq_of(i))));
                }
            });
            (ENTRIES, nanos, None)
        }
    };
    for (name, size) in [
        ("index: push, records of 120 bytes", 120),
        ("index: push, records of 1 KiB", 1064),
        ("index: push, records of 64 KiB", 1 << 16),
    ] {
        report(name, || {
            let mut index = Index::new();
            let nanos = timed(|| {
                for seq in 1..=ENTRIES {
                    index.push(Seq(seq), Lsn(seq * size));
                }
            });
            (ENTRIES, nanos, per_entry(index.heap_bytes(), ENTRIES))
        });
    }
    report("index: get near the head", get(|i| 1 + i % 200));
    report("index: get in sequence", get(|i| 1 + i));
    report("index: get, random", get(|i| 1 + scatter(i) % ENTRIES));
    report("index: first and remove, in sequence", || {
        let mut index = filled(1064);
        let nanos = timed(|| {
            while let Some((seq, _)) = index.first() {
                black_box(index.remove(seq));
            }
        });
        (ENTRIES, nanos, None)
    });
    report("index: remove, random", || {
        let mut index = filled(1064);
        let nanos = timed(|| {
            for i in 0..ENTRIES {
                black_box(index.remove(Seq(1 + scatter(i) % ENTRIES)));
            }
        });
        (
            ENTRIES,
            nanos,
            per_entry(index.heap_bytes(), index.len() as u64),
        )
    });
    report("index: push and remove, 100 waiting", || {
        let mut index = Index::new();
        for seq in 1..=100 {
            index.push(Seq(seq), Lsn(seq * 1064));
        }
        let nanos = timed(|| {
            for seq in 101..=100 + ENTRIES {
                index.push(Seq(seq), Lsn(seq * 1064));
                black_box(index.remove(Seq(seq - 100)));
            }
        });
        (ENTRIES, nanos, None)
    });
    report("index: iterate, an entry", || {
        let index = filled(1064);
        let nanos = timed(|| {
            black_box(index.iter().fold(0, |sum, (seq, lsn)| sum ^ seq.0 ^ lsn.0));
        });
        (ENTRIES, nanos, None)
    });
    let mut bytes = Vec::new();
    let full = filled(1064);
    report("index: encode, an entry", || {
        bytes.clear();
        let nanos = timed(|| full.encode(&mut bytes));
        (ENTRIES, nanos, per_entry(bytes.len(), ENTRIES))
    });
    report("index: decode, an entry", || {
        let nanos = timed(|| assert!(Index::decode(&mut bytes.as_slice()).is_ok()));
        (ENTRIES, nanos, None)
    });
}

fn timer_wheel() {
    const START: u64 = 1_790_000_000_000;
    let filled = |span: u64| {
        let mut wheel = TimerWheel::new(Timestamp(START));
        let names: Vec<TimerId> = (0..ENTRIES)
            .map(|i| wheel.insert(Timestamp(START + 1 + scatter(i) % span), i))
            .collect();
        (wheel, names)
    };
    let empty = TimerWheel::<u64>::new(Timestamp(START)).heap_bytes();
    for (name, span) in [
        ("timers: insert, all due alike", 1),
        ("timers: insert, due within a minute", 60_000),
        ("timers: insert, due within 30 days", 30 * 86_400_000),
    ] {
        report(name, || {
            let mut wheel = TimerWheel::new(Timestamp(START));
            let nanos = timed(|| {
                for i in 0..ENTRIES {
                    wheel.insert(Timestamp(START + 120_000 + scatter(i) % span), i);
                }
            });
            (
                ENTRIES,
                nanos,
                per_entry(wheel.heap_bytes() - empty, ENTRIES),
            )
        });
    }
    report("timers: insert and cancel, none waiting", || {
        let mut wheel = TimerWheel::new(Timestamp(START));
        let nanos = timed(|| {
            for i in 0..ENTRIES {
                let id = wheel.insert(Timestamp(START + 120_000), i);
                black_box(wheel.cancel(id));
            }
        });
        (ENTRIES, nanos, None)
    });
    report("timers: cancel in the order of insertion", || {
        let (mut wheel, names) = filled(60_000);
        let nanos = timed(|| {
            for &id in &names {
                black_box(wheel.cancel(id));
            }
        });
        (ENTRIES, nanos, None)
    });
    for (name, span, step) in [
        ("timers: fire a million of a minute, 1 ms steps", 60_000, 1),
        (
            "timers: fire a million of 30 days, one jump",
            30 * 86_400_000,
            30 * 86_400_000,
        ),
    ] {
        report(name, || {
            let (mut wheel, _) = filled(span);
            let mut fired = 0;
            let nanos = timed(|| {
                for now in (START..=START + span).step_by(step) {
                    wheel.advance(Timestamp(now), &mut |_, key| {
                        fired += u64::from(black_box(key) < ENTRIES);
                    });
                }
            });
            (fired, nanos, None)
        });
    }
    report("timers: advance by 1 ms, nothing due", || {
        let mut wheel = TimerWheel::new(Timestamp(START));
        wheel.insert(Timestamp(START + 10 * ENTRIES), 0);
        let nanos = timed(|| {
            for i in 0..ENTRIES {
                wheel.advance(Timestamp(START + i), &mut |_, key| {
                    black_box(key);
                });
            }
        });
        (ENTRIES, nanos, None)
    });
    let mut bytes = Vec::new();
    let (wheel, _) = filled(60_000);
    report("timers: encode, an entry", || {
        bytes.clear();
        let nanos = timed(|| wheel.encode(&mut bytes, varint::put));
        (ENTRIES, nanos, per_entry(bytes.len(), ENTRIES))
    });
    report("timers: decode, an entry", || {
        let nanos = timed(|| {
            assert!(TimerWheel::decode(&mut bytes.as_slice(), varint::get, |_, _, _| ()).is_ok());
        });
        (ENTRIES, nanos, None)
    });
}

fn interval_set() {
    type Number = fn(u64) -> u64;
    let cases: [(&str, Number); 6] = [
        ("intervals: insert in order", |i| i),
        ("intervals: insert in order above one hole", |i| i + 1),
        ("intervals: insert swapped in pairs", |i| i ^ 1),
        ("intervals: insert in reverse order", |i| ENTRIES - i),
        ("intervals: insert every other number", |i| 2 * i + 1),
        ("intervals: insert a random half of 2 million", |i| {
            1 + scatter(i) % (2 * ENTRIES)
        }),
    ];
    for (name, number) in &cases {
        report(name, || {
            let mut set = IntervalSet::new();
            let nanos = timed(|| {
                for i in 0..ENTRIES {
                    black_box(set.insert(number(i)));
                }
            });
            (ENTRIES, nanos, per_entry(set.heap_bytes(), ENTRIES))
        });
    }
    let mut set = IntervalSet::new();
    for i in 0..ENTRIES {
        set.insert(1 + scatter(i) % (2 * ENTRIES));
    }
    report("intervals: contains, random", || {
        let nanos = timed(|| {
            for i in 0..ENTRIES {
                black_box(set.contains(scatter(i) % (2 * ENTRIES)));
            }
        });
        (ENTRIES, nanos, None)
    });
    report("intervals: runs, a run", || {
        let mut runs = 0;
        let nanos = timed(|| runs = set.runs().count());
        (runs as u64, nanos, None)
    });
    let mut bytes = Vec::new();
    report("intervals: encode, an entry", || {
        bytes.clear();
        let nanos = timed(|| set.encode(&mut bytes));
        (
            set.len_above_floor(),
            nanos,
            per_entry(bytes.len(), set.len_above_floor()),
        )
    });
    report("intervals: decode, an entry", || {
        let nanos = timed(|| {
            assert!(IntervalSet::decode(&mut bytes.as_slice()).is_ok());
        });
        (set.len_above_floor(), nanos, None)
    });
}

fn main() {
    println!("{:<58}{:>10}{:>12}", "", "ns/op", "bytes/entry");
    ordered_set();
    index();
    timer_wheel();
    interval_set();
}
