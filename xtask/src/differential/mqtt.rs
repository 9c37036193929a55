//! The differential test of MQTT: the same seeded random packets of several clients, 3.1.1 and 5.0, go to Mosquitto and to
//! Longtail, one at a time, and what each client is sent is compared.
//!
//! After each packet all clients ask for a PINGRESP until both servers have sent the same number of packets or a moment has
//! passed: so a packet that comes late is found, and one that is missing is a difference. Packets are compared for each
//! client after `normal` has put them into one form. Every session ends with the same last look at all clients.

mod normal;
mod pair;

use std::time::Instant;

use anyhow::{Context, Result};

use self::pair::Pair;
use crate::mqtt::{Ack, Publish, Version};
use crate::random::Random;
use crate::server::ServerCommand;
use crate::tally::Tally;

/// Clients of one session, and what each speaks.
const CLIENTS: [Version; 4] = [Version::V4, Version::V5, Version::V4, Version::V5];

/// Packets of one session.
const SESSION: u64 = 300;

/// Packets of a run at most: each is followed by a look at every client.
pub(crate) const PACKETS: u64 = 6_000;

/// Levels of topics and filters: few, so that they meet.
const LEVELS: &[&str] = &["a", "b", "", "$x"];

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
            Ok(()) => println!("ok mqtt seed={seed}: {packets} packets, {took:.1} s"),
            Err(error) => println!("FAIL mqtt seed={seed}: {error:#}"),
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
    for number in 0..packets {
        let client = random.index(CLIENTS.len());
        let step = step(&mut random);
        pair.take(client, &step)
            .with_context(|| format!("packet {number} of client {client}: {step:?}"))?;
    }
    Ok(())
}

/// What a client does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Loses its connection and comes back.
    Lose {
        clean: bool,
    },
    /// DISCONNECT, and comes back.
    Leave {
        clean: bool,
    },
    Publish(Publish),
    /// PUBREL for the oldest of its own QoS 2 messages that has none yet, or for an id that means nothing.
    Release {
        known: bool,
    },
    /// Acknowledges all that it was sent and has not acknowledged, or an id that means nothing.
    Acknowledge {
        known: bool,
        stray: Ack,
    },
    Subscribe(Vec<(String, u8)>),
    Unsubscribe(Vec<String>),
}

fn step(random: &mut Random) -> Step {
    match random.below(20) {
        0 => Step::Lose {
            clean: random.one_in(4),
        },
        1 => Step::Leave {
            clean: random.one_in(4),
        },
        2..=5 => {
            let count = 1 + random.index(2);
            let filters = (0..count)
                .map(|_| (filter(random), random.below(3) as u8))
                .collect();
            Step::Subscribe(filters)
        }
        6 => Step::Unsubscribe(vec![filter(random)]),
        7..=8 => Step::Release {
            known: !random.one_in(8),
        },
        9..=12 => Step::Acknowledge {
            known: !random.one_in(12),
            stray: *random.pick(&[Ack::Puback, Ack::Pubrec, Ack::Pubrel]),
        },
        _ => Step::Publish(Publish {
            topic: topic(random),
            payload: if random.one_in(8) {
                Vec::new()
            } else {
                random.below(1000).to_string().into_bytes()
            },
            qos: random.below(3) as u8,
            id: 0,
            retain: random.one_in(4),
            dup: false,
            properties: Vec::new(),
        }),
    }
}

/// A topic of one to three levels.
fn topic(random: &mut Random) -> String {
    let count = 1 + random.index(3);
    let levels: Vec<&str> = (0..count).map(|_| *random.pick(LEVELS)).collect();
    let topic = levels.join("/");
    if topic.is_empty() {
        "a".to_owned()
    } else {
        topic
    }
}

/// A filter that matches some of those topics.
fn filter(random: &mut Random) -> String {
    let mut levels: Vec<String> = topic(random).split('/').map(str::to_owned).collect();
    for level in &mut levels {
        if random.one_in(3) {
            "+".clone_into(level);
        }
    }
    if random.one_in(4) {
        levels.push("#".to_owned());
    }
    levels.join("/")
}
