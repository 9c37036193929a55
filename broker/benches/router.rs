//! Times the router with 100,000 wildcard subscriptions: a look-up with and without a publisher's cache, and what a
//! subscribe and an unsubscribe cost, also at 1,000,000 subscriptions, and the memory that those take.
//!
//! `cargo bench -p longtail-broker --bench router`. Each figure is the best of many short rounds, in nanoseconds: short
//! enough for some of them to be left alone by whatever else the machine does.

use std::hint::black_box;
use std::time::Instant;

use longtail_broker::router::{RouteCache, Router, Routes, Subscription};
use longtail_model::{Filter, Subject};

const SUBSCRIPTIONS: u64 = 100_000;
const SUBJECTS: usize = 1_024;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        7
    } else {
        1
    };
    let router: Router<u64, u64> = Router::default();
    let began = Instant::now();
    for number in 0..SUBSCRIPTIONS {
        subscribe(&router, &wildcard(number), number);
    }
    report("subscribe, growing to 100,000", began, SUBSCRIPTIONS);

    let subjects: Vec<Subject> = (0..SUBJECTS as u64)
        .map(|number| {
            subject(&format!(
                "site/{}/device/{}/temp",
                number * 7 % 500,
                number * 97 % 20
            ))
        })
        .collect();
    let mut routes = Routes::default();
    let found: usize = subjects
        .iter()
        .map(|subject| {
            router.routes(subject.as_ref(), &mut routes);
            routes.len()
        })
        .sum();
    println!(
        "{:>44}  {:.2}",
        "targets a look-up",
        found as f64 / SUBJECTS as f64
    );

    best("look-up, visiting", rounds, SUBJECTS as u64 * 2, || {
        for subject in subjects.iter().cycle().take(SUBJECTS * 2) {
            router.visit(subject.as_ref(), |key, _| {
                black_box(key);
            });
        }
    });
    best(
        "look-up, collecting routes",
        rounds,
        SUBJECTS as u64 * 2,
        || {
            for subject in subjects.iter().cycle().take(SUBJECTS * 2) {
                router.routes(subject.as_ref(), &mut routes);
                black_box(routes.len());
            }
        },
    );
    let few = &subjects[..32];
    let mut cache = RouteCache::default();
    best(
        "look-up, cached (32 subjects)",
        rounds,
        SUBJECTS as u64 * 20,
        || {
            for subject in few.iter().cycle().take(SUBJECTS * 20) {
                black_box(cache.lookup(&router, subject.as_ref()).len());
            }
        },
    );
    best(
        "look-up through a cache that never hits",
        rounds,
        SUBJECTS as u64 * 2,
        || {
            for subject in subjects.iter().cycle().take(SUBJECTS * 2) {
                black_box(cache.lookup(&router, subject.as_ref()).len());
            }
        },
    );

    churn("at 100,000", &router, SUBSCRIPTIONS, rounds);
    let resident = resident_bytes();
    // A session that comes back with many subscriptions sends them together.
    router.update(|batch| {
        for number in SUBSCRIPTIONS..10 * SUBSCRIPTIONS {
            let filter = if number % 2 == 0 {
                wildcard(number)
            } else {
                exact(number)
            };
            batch
                .subscribe(&filter, number, Subscription::new(number))
                .expect("below the limit");
        }
    });
    if let Some((before, after)) = resident.zip(resident_bytes()) {
        let added = (9 * SUBSCRIPTIONS) as f64;
        println!(
            "{:>44}  {:.0} bytes",
            "memory a subscription",
            after.saturating_sub(before) as f64 / added
        );
    }
    churn("at 1,000,000", &router, 10 * SUBSCRIPTIONS, rounds);
    let one = filter("fan/out");
    for number in 0..SUBSCRIPTIONS {
        subscribe(&router, &one, number);
    }
    best(
        "subscribe beside 100,000 to one subject",
        rounds,
        100,
        || {
            for number in 0..100 {
                subscribe(&router, &one, SUBSCRIPTIONS + number);
            }
            for number in 0..100 {
                router.unsubscribe(&one, SUBSCRIPTIONS + number, None);
            }
        },
    );
}

/// What the process keeps in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn churn(what: &str, router: &Router<u64, u64>, from: u64, rounds: u32) {
    const CHANGES: u64 = 100;
    for (kind, make) in [
        ("wildcard", wildcard as fn(u64) -> Filter),
        ("exact", exact),
    ] {
        let filters: Vec<Filter> = (from..from + CHANGES).map(make).collect();
        best(
            &format!("subscribe + unsubscribe, {kind}, {what}"),
            rounds,
            CHANGES,
            || {
                for (number, filter) in filters.iter().enumerate() {
                    subscribe(router, filter, number as u64);
                }
                for (number, filter) in filters.iter().enumerate() {
                    router.unsubscribe(filter, number as u64, None);
                }
            },
        );
    }
}

fn wildcard(number: u64) -> Filter {
    match number % 10 {
        0 => filter(&format!(
            "site/{}/+/{}/temp",
            number / 10 % 500,
            number / 5_000
        )),
        1 => filter(&format!(
            "site/+/device/{}/hum{}",
            number / 10 % 200,
            number / 2_000
        )),
        2 => filter(&format!(
            "site/{}/device/{}/#",
            number / 10 % 500,
            number / 5_000
        )),
        _ => filter(&format!("tenant/{}/user/{number}/+", number % 300)),
    }
}

fn exact(number: u64) -> Filter {
    filter(&format!("inbox/{number}"))
}

fn subscribe(router: &Router<u64, u64>, filter: &Filter, key: u64) {
    router
        .subscribe(filter, key, Subscription::new(key))
        .expect("below the limit");
}

fn filter(text: &str) -> Filter {
    Filter::new(text).expect("a filter")
}

fn subject(text: &str) -> Subject {
    Subject::new(text).expect("a subject")
}

fn best(what: &str, rounds: u32, operations: u64, mut work: impl FnMut()) {
    let times = (0..rounds).map(|_| {
        let began = Instant::now();
        work();
        began.elapsed()
    });
    let best = times.min().unwrap_or_default();
    println!(
        "{what:>44}  {:.1} ns",
        best.as_nanos() as f64 / operations as f64
    );
}

fn report(what: &str, began: Instant, operations: u64) {
    println!(
        "{what:>44}  {:.1} ns",
        began.elapsed().as_nanos() as f64 / operations as f64
    );
}
