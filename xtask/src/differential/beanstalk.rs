//! The differential test for beanstalk: the original is beanstalkd, and every reply is compared, over several
//! connections.
//!
//! Two kinds of runs. *Sessions* issue commands as fast as both answer; every duration in them is so long that no
//! timer fires. *Scenarios* use durations of a few seconds and look at the outcome. Their commands come in short windows
//! whose starts have different fractions of a second: all that follows from a window happens whole seconds after it,
//! so nothing fires while commands of another window are under way.
//!
//! `normal` lists the differences that are expected. A difference prints the seed that reproduces it.

mod generator;
mod ids;
mod normal;
mod pair;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::generator::{Clock, Generator};
use self::pair::Pair;
use crate::server::ServerCommand;
use crate::tally::Tally;
use crate::{debian, failures, process};

/// Connections driven in one session or scenario.
const CONNECTIONS: usize = 5;

/// Commands of one session; a run of more commands has more sessions.
const SESSION: u64 = 10_000;

/// Scenarios under way at once. They mostly wait.
const SCENARIOS_AT_ONCE: u64 = 6;

/// When the windows of a scenario start, and when its outcome is looked at last.
const WINDOWS: [Duration; 4] = [
    Duration::from_millis(0),
    Duration::from_millis(1250),
    Duration::from_millis(2500),
    Duration::from_millis(8750),
];

/// Chunks sent in one window, and the pause after each: it keeps what they lead to in order.
const WINDOW_CHUNKS: usize = 16;
const WINDOW_STEP: Duration = Duration::from_millis(4);

/// How long a server may need to end a pause of no length.
const UNPAUSE: Duration = Duration::from_millis(15);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) commands: u64,
    pub(crate) scenarios: u64,
    pub(crate) reference: ServerCommand,
    pub(crate) candidate: ServerCommand,
}

/// The original, installed if this machine allows it; or why it is not there.
///
/// # Errors
/// When the installation cannot be started.
pub(crate) fn reference() -> Result<Result<ServerCommand, String>> {
    Ok(debian::program("beanstalkd", "beanstalkd")?.and_then(|()| {
        if let Some(version) = process::ask("beanstalkd", &["-v"]) {
            println!("the reference is {version}");
        }
        ServerCommand::parse("beanstalkd -l 127.0.0.1 -p {port}").map_err(|error| error.to_string())
    }))
}

/// Runs all sessions and scenarios; each counts as one test.
pub(crate) fn run(settings: &Settings) -> Tally {
    let mut total = Tally::default();
    let sessions = settings.commands.div_ceil(SESSION);
    for number in 0..sessions {
        let seed = settings.seed + number;
        let commands = SESSION.min(settings.commands - number * SESSION);
        let start = Instant::now();
        let outcome = session(settings, seed, commands).map(|()| commands);
        total += report("session", seed, outcome, start.elapsed());
    }
    total += scenarios(settings);
    if total.failed > 0 {
        println!(
            "a session is repeated with: cargo xtask differential --seed SEED --commands {SESSION} --scenarios 0"
        );
        println!(
            "a scenario with: cargo xtask differential --seed SEED --commands 0 --scenarios 1"
        );
    }
    total
}

fn report(what: &str, seed: u64, outcome: Result<u64>, took: Duration) -> Tally {
    match outcome {
        Ok(commands) => {
            println!(
                "ok {what} seed={seed}: {commands} commands, {:.1} s",
                took.as_secs_f64()
            );
            Tally::PASS
        }
        Err(error) => {
            failures::say(&format!("FAIL {what} seed={seed}: {error:#}"));
            Tally::FAIL
        }
    }
}

fn session(settings: &Settings, seed: u64, commands: u64) -> Result<()> {
    let mut pair = Pair::start(&settings.reference, &settings.candidate, CONNECTIONS)?;
    let mut generator = Generator::new(seed, Clock::Still, CONNECTIONS);
    let mut done = 0;
    while done < commands {
        done += step(&mut pair, &mut generator)?;
    }
    Ok(())
}

/// One chunk on a connection that does not wait, or something done to one that does; the number of commands sent.
fn step(pair: &mut Pair, generator: &mut Generator) -> Result<u64> {
    let connection = generator.random().index(CONNECTIONS);
    if pair.waiting[connection] {
        if generator.random().one_in(60) {
            if generator.random().one_in(2) {
                pair.half_close(connection)?;
            } else {
                pair.reconnect(connection)?;
            }
            generator.forget(connection);
            look_at_all(pair, generator)?;
        }
        return Ok(0);
    }
    if generator.random().one_in(300) {
        pair.reconnect(connection)?;
        generator.forget(connection);
        look_at_all(pair, generator)?;
        return Ok(0);
    }
    // One waiter at a time: which of several gets a job is not a rule.
    let may_wait = !pair.waiting.contains(&true);
    let chunk = generator.chunk(connection, may_wait, &mut pair.ids);
    let cut = (!chunk.whole && generator.random().one_in(8))
        .then(|| generator.random().index(chunk.bytes.len()));
    for (connection, reply) in pair.exchange(connection, &chunk, cut)? {
        generator.learn(connection, &reply);
    }
    if chunk.unpauses {
        std::thread::sleep(UNPAUSE);
        look_at_all(pair, generator)?;
    }
    if chunk.quits {
        pair.reconnect(connection)?;
        generator.forget(connection);
        look_at_all(pair, generator)?;
    }
    Ok(chunk.commands)
}

fn look_at_all(pair: &mut Pair, generator: &mut Generator) -> Result<()> {
    for connection in 0..CONNECTIONS {
        for (connection, reply) in pair.look(connection)? {
            generator.learn(connection, &reply);
        }
    }
    Ok(())
}

fn scenarios(settings: &Settings) -> Tally {
    let next = AtomicU64::new(0);
    let (results, finished) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..SCENARIOS_AT_ONCE.min(settings.scenarios) {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= settings.scenarios {
                        break;
                    }
                    let seed = settings.seed + number;
                    let start = Instant::now();
                    // The receiver lives until all threads are done.
                    let _ = results.send((seed, scenario(settings, seed), start.elapsed()));
                }
            });
        }
        drop(results);
        let mut total = Tally::default();
        for (seed, outcome, took) in finished {
            total += report("scenario", seed, outcome, took);
        }
        total
    })
}

fn scenario(settings: &Settings, seed: u64) -> Result<u64> {
    let mut pair = Pair::start(&settings.reference, &settings.candidate, CONNECTIONS)?;
    let mut generator = Generator::new(seed, Clock::Moving, CONNECTIONS);
    let mut commands = 0;
    let start = Instant::now();
    for window in WINDOWS {
        std::thread::sleep(window.saturating_sub(start.elapsed()));
        look_at_all(&mut pair, &mut generator)?;
        for _ in 0..WINDOW_CHUNKS {
            commands += step(&mut pair, &mut generator)?;
            std::thread::sleep(WINDOW_STEP);
        }
    }
    Ok(commands)
}
