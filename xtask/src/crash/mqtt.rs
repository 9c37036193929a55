//! The crash test of MQTT: publishers of QoS 1 and 2 and subscribers with persistent sessions, which also lose their own
//! connections, while the server is killed again and again.
//!
//! A publisher does what the specification asks of a client that keeps its state: after a reconnect it sends again what
//! is unacknowledged, with the same ids. A subscriber remembers the ids of QoS 2 messages between PUBREC and PUBREL.
//! Under these conditions every message whose PUBACK or PUBREC was seen has to reach every subscriber, and no QoS 2
//! message may reach a QoS 2 subscription twice. Every few restarts, and at the end, all is finished and accounted for.

mod account;
mod publisher;
mod subscriber;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::account::Account;
use self::publisher::Publisher;
use self::subscriber::Subscriber;
use super::{LIFE_MIN_MS, LIFE_SPREAD_MS, PATIENCE, Settings, conclude};
use crate::mqtt::{Connection, Packet, Version, connect};
use crate::random::Random;
use crate::server::Server;
use crate::tally::Tally;

const PUBLISHERS: usize = 4;

/// Granted QoS and version of each subscriber.
const SUBSCRIBERS: [(u8, Version); 4] = [
    (2, Version::V5),
    (2, Version::V4),
    (1, Version::V5),
    (1, Version::V4),
];

/// Restarts between two audits: the backlogs live through so many.
const AUDIT_EVERY: u64 = 4;

/// How long sessions live without a connection, in seconds: longer than a run.
const EXPIRY: u32 = 86_400;

/// Runs all cycles; the whole counts as one test.
pub(crate) fn run(settings: &Settings) -> Tally {
    let account = Mutex::new(Account::new(PUBLISHERS));
    let mut random = Random::new(settings.seed);
    let mut publishers: Vec<Publisher> = (0..PUBLISHERS)
        .map(|number| Publisher::new(number, random.next()))
        .collect();
    let mut subscribers: Vec<Subscriber> = SUBSCRIBERS
        .iter()
        .enumerate()
        .map(|(number, (qos, version))| Subscriber::new(number, *qos, *version, random.next()))
        .collect();
    let mut starts = Vec::new();
    let outcome = cycles(
        settings,
        &account,
        &mut publishers,
        &mut subscribers,
        &mut random,
        &mut starts,
    );
    let acknowledged = locked(&account).acknowledged();
    let delivered: u64 = subscribers.iter().map(Subscriber::delivered).sum();
    let repeated: u64 = subscribers.iter().map(Subscriber::repeated).sum();
    println!(
        "mqtt {}: {} cycles, {acknowledged} messages acknowledged, {delivered} deliveries to {} sessions, {repeated} of them \
         again",
        settings.name,
        settings.cycles,
        subscribers.len()
    );
    let ms = |start: Option<&Duration>| start.map_or(0, Duration::as_millis);
    println!(
        "  the first start took {} ms, the slowest {} ms, the last {} ms",
        ms(starts.first()),
        ms(starts.iter().max()),
        ms(starts.last())
    );
    conclude("crash mqtt", settings, &outcome, &[])
}

fn cycles(
    settings: &Settings,
    account: &Mutex<Account>,
    publishers: &mut [Publisher],
    subscribers: &mut [Subscriber],
    random: &mut Random,
    starts: &mut Vec<Duration>,
) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut start = || {
        let began = Instant::now();
        let server = Server::start(&settings.server, home.path());
        starts.push(began.elapsed());
        server
    };
    {
        let mut server = start()?;
        for subscriber in &mut *subscribers {
            subscriber.subscribe(server.address())?;
        }
        server.end();
    }
    for cycle in 0..settings.cycles {
        let mut server =
            start().with_context(|| format!("starting the server before cycle {cycle}"))?;
        let life = Duration::from_millis(LIFE_MIN_MS + random.below(LIFE_SPREAD_MS));
        let told = |error: anyhow::Error, server: &Server| {
            error.context(format!(
                "cycle {cycle}; the end of the server's log:\n{}",
                server.log_tail()
            ))
        };
        live_and_die(&mut server, life, account, publishers, subscribers)
            .map_err(|error| told(error, &server))?;
        let acknowledged = locked(account).acknowledged();
        let mut progress = format!(
            "  cycle {} of {}: lived {} ms, {acknowledged} messages acknowledged so far",
            cycle + 1,
            settings.cycles,
            life.as_millis()
        );
        if (cycle + 1) % AUDIT_EVERY == 0 || cycle + 1 == settings.cycles {
            let began = Instant::now();
            let server =
                start().with_context(|| format!("starting the server after cycle {cycle}"))?;
            let once = !settings.repeats_qos_2;
            audit(server.address(), account, publishers, subscribers, once)
                .map_err(|error| told(error, &server))?;
            progress += &format!(", audited in {} ms", began.elapsed().as_millis());
        }
        println!("{progress}");
    }
    Ok(())
}

/// Runs the load and ends the server under it.
fn live_and_die(
    server: &mut Server,
    life: Duration,
    account: &Mutex<Account>,
    publishers: &mut [Publisher],
    subscribers: &mut [Subscriber],
) -> Result<()> {
    let address = server.address();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for publisher in publishers {
            threads.push(scope.spawn(move || publisher.work(address, account)));
        }
        for subscriber in subscribers {
            threads.push(scope.spawn(move || subscriber.work(address)));
        }
        std::thread::sleep(life);
        server.end();
        // A client that finds something wrong says so; that its connection ends is nothing wrong.
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}

/// Finishes what is under way and looks whether all subscribers have everything.
fn audit(
    address: SocketAddr,
    account: &Mutex<Account>,
    publishers: &mut [Publisher],
    subscribers: &mut [Subscriber],
    once: bool,
) -> Result<()> {
    for publisher in publishers {
        publisher.finish(address, account)?;
    }
    let mut account = locked(account);
    for subscriber in subscribers {
        subscriber.drain(address, &account, once)?;
    }
    account.settle();
    Ok(())
}

/// Opens a connection to a session that has to be there already, unless this is its `first` connection. `None` when the
/// server is gone.
fn resume(
    address: SocketAddr,
    version: Version,
    client: &str,
    first: bool,
) -> Result<Option<Connection>> {
    let Ok(mut connection) = Connection::open(address, version) else {
        return Ok(None);
    };
    if connection
        .send(&connect(version, client, false, EXPIRY))
        .is_err()
    {
        return Ok(None);
    }
    match connection.receive(PATIENCE)? {
        crate::mqtt::Received::Packet(Packet::Connack { present, code: 0 }) => {
            if !present && !first {
                bail!("the session of {client} is lost");
            }
            Ok(Some(connection))
        }
        crate::mqtt::Received::Closed => Ok(None),
        other => bail!("{client}: {other:?} is no answer to CONNECT"),
    }
}

fn locked(account: &Mutex<Account>) -> std::sync::MutexGuard<'_, Account> {
    account
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
