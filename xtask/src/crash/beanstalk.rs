//! The crash test for beanstalk: after each restart, and at the end by taking everything out, every acknowledged job is
//! accounted for. None may be gone, none may come back after its delete was acknowledged, and each must be in the state
//! that was acknowledged last.

mod audit;
mod ledger;
mod load;

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};

use self::ledger::Ledger;
use self::load::Client;
use super::{LIFE_MIN_MS, LIFE_SPREAD_MS, PATIENCE, Settings, conclude};
use crate::beanstalk::Wire;
use crate::random::Random;
use crate::server::Server;
use crate::tally::Tally;

/// Connections of the load.
const CLIENTS: usize = 24;

/// The tubes they share.
const TUBES: &[&str] = &["default", "alpha", "beta"];

/// Runs all cycles; the whole counts as one test.
pub(crate) fn run(settings: &Settings) -> Tally {
    let ledger = Mutex::new(Ledger::new(settings.forgets_priorities));
    let outcome = cycles(settings, &ledger);
    let ledger = ledger
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let counts = ledger.counts;
    println!(
        "{}: {} cycles, {} puts, {} deletes and {} moves acknowledged; {} lost, {} duplicated, {} wrong",
        settings.name,
        settings.cycles,
        counts.puts,
        counts.deletes,
        counts.moves,
        counts.lost,
        counts.duplicated,
        counts.wrong
    );
    conclude("crash", settings, &outcome, &ledger.faults)
}

fn cycles(settings: &Settings, ledger: &Mutex<Ledger>) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut random = Random::new(settings.seed);
    for cycle in 0..settings.cycles {
        let mut server = restart(settings, home.path(), cycle)?;
        verify(&server, ledger, &mut random).with_context(|| format!("cycle {cycle}"))?;
        live_and_die(&mut server, ledger, &mut random).with_context(|| format!("cycle {cycle}"))?;
        locked(ledger).crashed();
        if (cycle + 1) % 50 == 0 {
            println!("  {} cycles", cycle + 1);
        }
        if !locked(ledger).faults.is_empty() {
            anyhow::bail!("cycle {cycle} found faults; not going on");
        }
    }
    let server = restart(settings, home.path(), settings.cycles)?;
    verify(&server, ledger, &mut random)?;
    audit::drain(&mut Wire::connect(server.address())?, &mut locked(ledger))
}

fn restart(settings: &Settings, home: &std::path::Path, cycle: u64) -> Result<Server> {
    Server::start(&settings.server, home)
        .with_context(|| format!("starting the server before cycle {cycle}"))
}

fn verify(server: &Server, ledger: &Mutex<Ledger>, random: &mut Random) -> Result<()> {
    let mut wire = Wire::connect(server.address())?;
    audit::compare(&mut wire, &mut locked(ledger), random).with_context(|| {
        format!(
            "asking for every job; the end of the server's log:\n{}",
            server.log_tail()
        )
    })
}

/// Runs the load and kills the server under it.
fn live_and_die(server: &mut Server, ledger: &Mutex<Ledger>, random: &mut Random) -> Result<()> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (wire, random) = (Wire::connect(server.address())?, Random::new(random.next()));
        clients.push(Client {
            number,
            wire,
            random,
            ledger,
        });
    }
    let life = Duration::from_millis(LIFE_MIN_MS + random.below(LIFE_SPREAD_MS));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for mut client in clients {
            threads.push(scope.spawn(move || client.work()));
        }
        std::thread::sleep(life);
        // A client that stopped while the server was alive has something to say.
        let early = threads
            .iter()
            .position(std::thread::ScopedJoinHandle::is_finished);
        server.kill();
        for (number, thread) in threads.into_iter().enumerate() {
            let outcome = thread
                .join()
                .map_err(|_| anyhow::anyhow!("client {number} panicked"))?;
            if early == Some(number) {
                outcome.with_context(|| {
                    format!(
                        "client {number} under load; the end of the server's log:\n{}",
                        server.log_tail()
                    )
                })?;
            }
        }
        Ok(())
    })
}

fn locked(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
