//! The differential test of MQTT: the same seeded random packets of several clients, 3.1.1 and 5.0, go to Mosquitto and to
//! Longtail, one at a time, and what each client is sent is compared.
//!
//! Nothing waits for a window of time. Behind each step a *marker* is published, a message at QoS 1 that every client is
//! subscribed to: what the step leads to is there when the marker is, since no server sends a client what it was given
//! later first. `pair` has the exceptions. Packets are compared for each client after `normal` has put them into one form.

mod normal;
mod pair;
mod step;

use std::time::Instant;

use anyhow::{Context, Result};

use self::pair::Pair;
use self::step::{Client, step};
use crate::failures;
use crate::mqtt::Version;
use crate::random::Random;
use crate::server::ServerCommand;
use crate::tally::Tally;

/// Clients of one session, and what each speaks.
const CLIENTS: [Version; 4] = [Version::V4, Version::V5, Version::V4, Version::V5];

/// Steps of one session.
pub(crate) const SESSION: u64 = 300;

/// Steps of a run at most.
pub(crate) const PACKETS: u64 = 300_000;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) packets: u64,
    pub(crate) reference: ServerCommand,
    pub(crate) candidate: ServerCommand,
}

/// Runs all sessions; each counts as one test.
pub(crate) fn run(settings: &Settings) -> Tally {
    let mut total = Tally::default();
    for number in 0..settings.packets.div_ceil(SESSION) {
        let seed = settings.seed + number;
        let packets = SESSION.min(settings.packets - number * SESSION);
        let start = Instant::now();
        let outcome = session(settings, seed, packets);
        let took = start.elapsed().as_secs_f64();
        match &outcome {
            Ok(()) => println!("ok mqtt seed={seed}: {packets} steps, {took:.1} s"),
            Err(error) => failures::say(&format!("FAIL mqtt seed={seed}: {error:#}")),
        }
        total += Tally::of(outcome.is_ok());
    }
    if total.failed > 0 {
        println!(
            "a session is repeated with: cargo xtask differential mqtt --seed SEED --commands {SESSION}"
        );
    }
    total
}

fn session(settings: &Settings, seed: u64, packets: u64) -> Result<()> {
    let mut pair = Pair::start(&settings.reference, &settings.candidate, &CLIENTS)?;
    let mut random = Random::new(seed);
    let mut clients = CLIENTS.map(|version| Client {
        version,
        is_here: true,
        has_will: false,
    });
    for count in 0..packets {
        let number = random.index(CLIENTS.len());
        let had_will = clients[number].has_will;
        let step = step(&mut random, &mut clients[number], number, count);
        pair.take(number, &step, had_will)
            .with_context(|| format!("step {count}, of client {number}: {step:?}"))?;
        if !clients[number].is_here {
            clients[number].has_will = false;
        }
    }
    Ok(())
}
