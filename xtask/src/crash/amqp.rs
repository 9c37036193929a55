//! The crash test of AMQP: publishers that wait for confirms, workers that commit what they settle, a queue by priority
//! with a delivery limit and dead letters, and a server that is killed again and again.
//!
//! Each message has a number. Before a client asks for something its ledger says that it may happen, and once the answer
//! is there that it has. After every restart the dead letters are taken out, all that is in the queue is looked at and
//! given back, and compared: what was confirmed and not settled has to be there, what was settled not, what is dead among
//! the dead; failures are at least as many as were committed, at most as many as were tried; the more urgent come first.
//! Beside them, publishers fill a stream (`stream`).

mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{LIFE_MIN_MS, LIFE_SPREAD_MS, PATIENCE, Settings, conclude};
use crate::amqp::{Argument, Client, Fetched, Settlement};
use crate::random::Random;
use crate::server::Server;
use crate::tally::Tally;

const PUBLISHERS: usize = 4;
const STREAMERS: usize = 2;
const WORKERS: usize = 4;

const WORK: &str = "crash-work";
const DEAD: &str = "crash-dead";

/// Priorities of the queue.
const PRIORITIES: u64 = 4;

/// Failures that a message may have.
const LIMIT: u64 = 2;

/// What is known of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    priority: u8,
    confirmed: bool,
    /// It may be acknowledged, it is.
    ack: Sure,
    /// It may be a dead letter, it is.
    death: Sure,
    /// It was found among the dead letters, and taken out.
    buried: bool,
    /// Failures that were committed, and those that may be.
    failures: u64,
    failures_tried: u64,
}

/// How sure it is that something has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Sure {
    #[default]
    No,
    Maybe,
    Yes,
}

#[derive(Debug, Default)]
struct Ledger {
    messages: BTreeMap<u64, Known>,
    confirmed: u64,
    acknowledged: u64,
    dead: u64,
    failed: u64,
    stream: stream::Streamed,
    faults: Vec<String>,
}

impl Ledger {
    fn fault(&mut self, text: String) {
        if self.faults.len() < 20 {
            self.faults.push(text);
        }
    }
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all cycles; the whole counts as one test.
pub(crate) fn run(settings: &Settings) -> Tally {
    let ledger = Mutex::new(Ledger::default());
    let outcome = cycles(settings, &ledger);
    let ledger = locked(&ledger);
    println!(
        "amqp {}: {} cycles; {} confirmed, {} acknowledged, {} rejected for good, {} failures, all committed; {} confirmed \
         in a stream",
        settings.name,
        settings.cycles,
        ledger.confirmed,
        ledger.acknowledged,
        ledger.dead,
        ledger.failed,
        ledger.stream.confirmed()
    );
    conclude("crash amqp", settings, &outcome, &ledger.faults)
}

fn cycles(settings: &Settings, ledger: &Mutex<Ledger>) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut random = Random::new(settings.seed);
    let next = AtomicU64::new(1);
    for cycle in 0..=settings.cycles {
        let mut server = Server::start(&settings.server, home.path())
            .with_context(|| format!("starting the server before cycle {cycle}"))?;
        let address = server.address();
        let whole = cycle == settings.cycles || cycle % 10 == 0;
        let looked = declare(address)
            .and_then(|()| audit(address, ledger))
            .and_then(|()| stream::audit(address, ledger, whole));
        looked.with_context(|| {
            format!(
                "cycle {cycle}; the end of the server's log:\n{}",
                server.log_tail()
            )
        })?;
        if !locked(ledger).faults.is_empty() {
            bail!("cycle {cycle} found faults; not going on");
        }
        if cycle == settings.cycles {
            break;
        }
        let life = Duration::from_millis(LIFE_MIN_MS + random.below(LIFE_SPREAD_MS));
        std::thread::scope(|scope| {
            for _ in 0..PUBLISHERS {
                let (next, random) = (&next, Random::new(random.next()));
                // That its connection ends is nothing wrong.
                scope.spawn(move || publish(address, next, random, ledger));
            }
            for _ in 0..STREAMERS {
                let (next, random) = (&next, Random::new(random.next()));
                scope.spawn(move || stream::publish(address, next, random, ledger));
            }
            for _ in 0..WORKERS {
                let random = Random::new(random.next());
                scope.spawn(move || work(address, random, ledger));
            }
            std::thread::sleep(life);
            server.kill();
        });
        if (cycle + 1) % 10 == 0 {
            println!(
                "  {} cycles, {} confirmed",
                cycle + 1,
                locked(ledger).confirmed
            );
        }
    }
    Ok(())
}

fn declare(address: SocketAddr) -> Result<()> {
    let mut client = Client::connect(address, PATIENCE)?;
    stream::declare(&mut client)?;
    client.declare(DEAD)?;
    client.declare_with(
        WORK,
        &[
            ("x-max-priority", Argument::Number(PRIORITIES.cast_signed())),
            ("x-delivery-limit", Argument::Number(LIMIT.cast_signed())),
            ("x-dead-letter-exchange", Argument::Text("")),
            ("x-dead-letter-routing-key", Argument::Text(DEAD)),
        ],
    )
}

fn publish(
    address: SocketAddr,
    next: &AtomicU64,
    mut random: Random,
    ledger: &Mutex<Ledger>,
) -> Result<()> {
    let mut client = Client::connect(address, PATIENCE)?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let priority = u8::try_from(random.below(PRIORITIES + 1))?;
        let known = Known {
            priority,
            ..Known::default()
        };
        locked(ledger).messages.insert(number, known);
        let mut body = number.to_be_bytes().to_vec();
        body.resize(8 + random.index(600), 0);
        if client.publish_one(WORK, &body, priority)? {
            let mut ledger = locked(ledger);
            ledger.confirmed += 1;
            if let Some(known) = ledger.messages.get_mut(&number) {
                known.confirmed = true;
            }
        }
    }
}

fn number_of(body: &[u8]) -> Result<u64> {
    let number = body.first_chunk().context("a body that nobody published")?;
    Ok(u64::from_be_bytes(*number))
}

/// Fetches and settles, a transaction each.
fn work(address: SocketAddr, mut random: Random, ledger: &Mutex<Ledger>) -> Result<()> {
    let mut client = Client::connect_for_transactions(address, PATIENCE)?;
    loop {
        let Some(found) = client.fetch(WORK)? else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let number = number_of(&found.body)?;
        let how = match random.below(10) {
            0..6 => Settlement::Ack,
            6..8 => Settlement::Reject { requeue: true },
            _ => Settlement::Reject { requeue: false },
        };
        {
            let mut ledger = locked(ledger);
            let Some(known) = ledger.messages.get(&number).copied() else {
                ledger.fault(format!("{number} was never published"));
                continue;
            };
            check_delivery(&mut ledger, number, known, &found);
            let mut known = known;
            match how {
                Settlement::Ack => known.ack = Sure::Maybe,
                Settlement::Reject { requeue: true } if found.failures < LIMIT => {
                    known.failures_tried = found.failures + 1;
                }
                Settlement::Reject { .. } => known.death = Sure::Maybe,
            }
            ledger.messages.insert(number, known);
        }
        client.settle(found.tag, how)?;
        client.commit()?;
        let mut ledger = locked(ledger);
        match how {
            Settlement::Ack => ledger.acknowledged += 1,
            Settlement::Reject { requeue: true } => ledger.failed += 1,
            Settlement::Reject { requeue: false } => ledger.dead += 1,
        }
        let Some(known) = ledger.messages.get_mut(&number) else {
            continue;
        };
        match how {
            Settlement::Ack => known.ack = Sure::Yes,
            Settlement::Reject { requeue: true } if found.failures < LIMIT => {
                known.failures = known.failures.max(found.failures + 1);
            }
            Settlement::Reject { .. } => known.death = Sure::Yes,
        }
    }
}

/// Takes all dead letters out, those that are still on their way too.
fn take_dead(address: SocketAddr, ledger: &Mutex<Ledger>) -> Result<()> {
    let mut client = Client::connect_for_transactions(address, PATIENCE)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let mut some = false;
        while let Some(found) = client.fetch(DEAD)? {
            some = true;
            let number = number_of(&found.body)?;
            client.settle(found.tag, Settlement::Ack)?;
            let mut ledger = locked(ledger);
            match ledger.messages.get_mut(&number) {
                Some(known) if known.ack == Sure::Yes => ledger.fault(format!(
                    "{number} is a dead letter although it is acknowledged"
                )),
                // Between shards a letter may come twice.
                Some(known) => (known.death, known.buried) = (Sure::Yes, true),
                None => ledger.fault(format!("{number} is a dead letter and was never published")),
            }
        }
        client.commit()?;
        let missing = |known: &Known| known.death == Sure::Yes && !known.buried;
        if !some && !locked(ledger).messages.values().any(missing) {
            return Ok(());
        }
        if Instant::now() > end {
            let all = locked(ledger).messages.clone();
            let unburied = all.into_iter().find(|(_, known)| missing(known));
            bail!("a dead letter does not come: {unburied:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Compares the queues with the ledger.
fn audit(address: SocketAddr, ledger: &Mutex<Ledger>) -> Result<()> {
    take_dead(address, ledger)?;
    let mut client = Client::connect_for_transactions(address, PATIENCE)?;
    let mut live = Vec::new();
    while let Some(found) = client.fetch(WORK)? {
        live.push((number_of(&found.body)?, found));
    }
    // No failure, unlike a connection that ends.
    client.recover()?;
    let mut ledger = locked(ledger);
    let mut last = u8::MAX;
    let mut seen = BTreeSet::new();
    for (number, found) in &live {
        let Some(known) = ledger.messages.get(number).copied() else {
            ledger.fault(format!("{number} is in the queue and was never published"));
            continue;
        };
        if known.priority > last {
            ledger.fault(format!("{number} comes after a less urgent one: {known:?}"));
        }
        last = known.priority;
        check_delivery(&mut ledger, *number, known, found);
        if !seen.insert(*number) {
            ledger.fault(format!("{number} is in the queue twice"));
        }
    }
    let mut faults = Vec::new();
    for (number, known) in &mut ledger.messages {
        if seen.contains(number) {
            // It was not settled after all.
            (known.confirmed, known.ack, known.death) = (true, Sure::No, Sure::No);
        } else if known.ack == Sure::Maybe {
            known.ack = Sure::Yes;
        } else if known.confirmed && known.ack == Sure::No && !known.buried {
            faults.push(format!("{number} is lost: {known:?}"));
        }
    }
    for fault in faults {
        ledger.fault(fault);
    }
    Ok(())
}

/// What may not be delivered any more, and what is told of a message.
fn check_delivery(ledger: &mut Ledger, number: u64, known: Known, found: &Fetched) {
    if known.ack == Sure::Yes || known.death == Sure::Yes {
        ledger.fault(format!(
            "{number} is there although it is settled: {known:?}"
        ));
    }
    if found.failures < known.failures || found.failures > known.failures_tried {
        let told = found.failures;
        ledger.fault(format!(
            "{number} is said to have failed {told} times: {known:?}"
        ));
    }
    if found.failures > 0 && !found.redelivered {
        ledger.fault(format!(
            "{number} is said to come for the first time: {known:?}"
        ));
    }
}
