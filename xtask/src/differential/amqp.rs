//! The differential test of AMQP: the same seeded random methods on one connection go to RabbitMQ and to Longtail, one at a
//! time, and what comes back is compared: answers with their counts, returns, confirms, deliveries, and errors with their
//! level, code and text.
//!
//! A step is over when its answer is there: that of the method, the confirm of a publish, or, of a method that has none,
//! the answer of a `basic.qos` behind it. Deliveries come in their own time: they are compared until they are the same, for
//! a while. One session in five is over streams (`stream`). What depends on time (expiry) or on the order of two queues' work (dead letters) is left to other tests.

mod pair;
mod step;
mod stream;

use std::time::Instant;

use anyhow::{Context, Result};

use self::pair::Pair;
use self::step::{Known, step};
use crate::failures;
use crate::random::Random;
use crate::server::ServerCommand;
use crate::tally::Tally;

/// Steps of one session; each has servers of its own things, but the same servers.
pub(crate) const SESSION: u64 = 400;
/// Steps of a run at most.
pub(crate) const METHODS: u64 = 400_000;

/// One of so many sessions is over streams.
const STREAMS_EVERY: u64 = 5;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) methods: u64,
    pub(crate) reference: ServerCommand,
    pub(crate) candidate: ServerCommand,
}

/// Runs all sessions on one pair of servers; each counts as one test.
pub(crate) fn run(settings: &Settings) -> Tally {
    let mut total = Tally::default();
    let mut pair = match Pair::start(&settings.reference, &settings.candidate) {
        Ok(pair) => pair,
        Err(error) => {
            failures::say(&format!("FAIL amqp: {error:#}"));
            return Tally::FAIL;
        }
    };
    for number in 0..settings.methods.div_ceil(SESSION) {
        let seed = settings.seed + number;
        let methods = SESSION.min(settings.methods - number * SESSION);
        let start = Instant::now();
        let outcome = session(&mut pair, seed, methods);
        let took = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(()) => println!("ok amqp seed={seed}: {methods} steps, {took:.1} s"),
            Err(error) => failures::say(&format!("FAIL amqp seed={seed}: {error:#}")),
        }
        total += Tally::of(outcome.is_ok());
    }
    if total.failed > 0 {
        println!(
            "a session is repeated with: cargo xtask differential amqp --seed SEED --commands {SESSION}"
        );
    }
    total
}

fn session(pair: &mut Pair, seed: u64, methods: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut known = Known::new(seed);
    pair.connect(&mut known)?;
    let streams = seed.is_multiple_of(STREAMS_EVERY);
    if streams {
        for step in stream::first(&known) {
            pair.take(&step, &mut known)
                .with_context(|| format!("{step:?}"))?;
        }
    }
    for count in 0..methods {
        let step = match streams {
            true => stream::step(&mut random, &known, count),
            false => step(&mut random, &known, count),
        };
        pair.take(&step, &mut known)
            .with_context(|| format!("step {count}: {step:?}"))?;
    }
    pair.clean(&known)
}
