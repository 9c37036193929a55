//! Clients that send what is no MQTT and come again at once: random bytes, packets of another kind first, lengths of a
//! quarter of a gigabyte; CONNECTs that never end; messages of which the second half never comes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::client::{self, PATIENCE};
use super::room::Room;
use crate::mqtt::{self, Received, Version};
use crate::random::Random;

/// Threads that send garbage.
const SENDERS: u64 = 2;

/// A sender's rest between two connections.
const REST: Duration = Duration::from_millis(4);

/// A half message: most of what one packet may have.
const HALF: usize = 1_900_000;

/// How long a server that has not been told enough may wait for more: twice the default of `mqtt.connect_timeout_ms`.
const CLOSED_AFTER: Duration = Duration::from_secs(20);

pub(crate) fn run(room: &mut Room) -> Result<()> {
    room.phase("alone", |_| Ok(()))?;
    let descriptors = room.descriptors()?;
    random_bytes(room)?;
    slow_connects(room)?;
    half_messages(room)?;
    let mut left = room.descriptors()?;
    // A closed connection lingers for the peer's end.
    let begin = Instant::now();
    while left > descriptors && begin.elapsed() < CLOSED_AFTER {
        std::thread::sleep(Duration::from_millis(50));
        left = room.descriptors()?;
    }
    room.require(left <= descriptors, || {
        format!("{left} descriptors are open, {descriptors} were before")
    });
    room.phase("afterwards", |_| Ok(()))?;
    Ok(())
}

fn random_bytes(room: &mut Room) -> Result<()> {
    let address = room.address();
    let seeds: Vec<u64> = (0..SENDERS).map(|_| room.random.next()).collect();
    let unclosed = Mutex::new(0_u64);
    let made = room.phase("garbage", |end| {
        std::thread::scope(|scope| {
            let senders: Vec<_> = seeds
                .iter()
                .map(|seed| {
                    let mut random = Random::new(*seed);
                    let unclosed = &unclosed;
                    scope.spawn(move || {
                        let mut made = 0_u64;
                        while Instant::now() < end {
                            if !is_closed(address, &garbage(&mut random))? {
                                *unclosed
                                    .lock()
                                    .unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
                            }
                            made += 1;
                            std::thread::sleep(REST);
                        }
                        Ok::<_, anyhow::Error>(made)
                    })
                })
                .collect();
            let mut made = 0;
            for sender in senders {
                made += sender
                    .join()
                    .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
            }
            Ok(made)
        })
    })?;
    room.fact("garbage: connections", made as f64, "");
    let unclosed = unclosed.into_inner().unwrap_or_default();
    // What looks like the beginning of a packet is waited for; the senders go then.
    room.fact(
        "garbage: of these not closed by the server",
        unclosed as f64,
        "",
    );
    room.require(unclosed < made / 2, || {
        format!(
            "the server closed only {} of {made} connections",
            made - unclosed
        )
    });
    Ok(())
}

/// Something that is no conversation.
fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..1 + random.below(2000))
        .map(|_| random.next() as u8)
        .collect();
    let hello = mqtt::connect(Version::V5, &format!("garbage-{}", random.next()), true, 0);
    match random.below(5) {
        // Nothing of it makes sense.
        0 => bytes,
        // A CONNECT of a quarter of a gigabyte.
        1 => {
            let mut all = vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F];
            all.append(&mut bytes);
            all
        }
        // A remaining length without an end.
        2 => vec![0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
        // A good beginning.
        3 => [hello, bytes].concat(),
        // A CONNECT with some bytes changed.
        _ => {
            let mut all = hello;
            for _ in 0..3 {
                let at = random.index(all.len());
                all[at] = random.next() as u8;
            }
            all
        }
    }
}

/// Sends it; whether the server closes the connection for it.
fn is_closed(address: SocketAddr, bytes: &[u8]) -> Result<bool> {
    let mut stream = TcpStream::connect(address).context("the server accepts nobody any more")?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    if stream.write_all(bytes).is_err() {
        return Ok(true);
    }
    let mut answer = [0; 1024];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(_) => return Ok(true),
        }
    }
}

/// CONNECTs of which a byte comes now and then: closed when their time is over.
fn slow_connects(room: &mut Room) -> Result<()> {
    let (address, count) = (room.address(), room.sizes.slow);
    let hello = mqtt::connect(Version::V5, "slow", true, 0);
    let longest = room.phase("slow CONNECTs", |_| {
        let mut streams = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        let begin = Instant::now();
        for byte in hello
            .iter()
            .cycle()
            .take(hello.len() - 1)
            .chain(std::iter::repeat(&0))
        {
            let late = begin.elapsed() > CLOSED_AFTER;
            streams.retain_mut(|stream| {
                let told = stream.write(&[*byte]);
                let heard = stream.read(&mut [0; 64]);
                let open = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
                told.is_ok() && heard.as_ref().err().is_some_and(open)
            });
            if streams.is_empty() || late {
                anyhow::ensure!(
                    streams.is_empty(),
                    "{} of {count} slow CONNECTs are still open after {CLOSED_AFTER:?}",
                    streams.len()
                );
                break;
            }
            std::thread::sleep(Duration::from_millis(700));
        }
        Ok(begin.elapsed())
    })?;
    room.fact("slow CONNECTs: closed after", longest.as_secs_f64(), "s");
    Ok(())
}

/// Messages of which the second half never comes. What they hold is bounded, and others are served meanwhile.
fn half_messages(room: &mut Room) -> Result<()> {
    let (address, count) = (room.address(), room.sizes.half);
    let mut closed = 0_u64;
    room.phase("half messages", |end| {
        let mut holders = Vec::new();
        for number in 0..count {
            let mut connection = client::connect(address, &format!("half-{number}"), true, 0)?;
            let whole = client::message("half", &vec![0; HALF], 0, 0, false);
            let (half, _) = whole.split_at(HALF - 1000);
            // A server that reads no more of it is as good as one that closes.
            let mut writer = connection.writer()?;
            writer.set_write_timeout(Some(Duration::from_millis(200)))?;
            if writer.write_all(half).is_err() {
                closed += 1;
            }
            if connection.receive(Duration::ZERO)? == Received::Nothing {
                holders.push(connection);
            }
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()).min(PATIENCE));
        Ok(())
    })?;
    room.fact("half messages: not taken whole", closed as f64, "");
    Ok(())
}
