//! Retained messages by the million: kept, all shown to one client while others go on, and there again after a restart.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::client;
use super::room::Room;

/// Payload of each, in bytes.
const PAYLOAD: usize = 32;

/// Unacknowledged at a time.
const WINDOW: u64 = 500;

pub(crate) fn run(room: &mut Room) -> Result<()> {
    room.phase("alone", |_| Ok(()))?;
    // What the filler and the server's worker do to the bystanders by needing both processors, whatever they do there.
    room.phase("beside busy processors", |end| {
        occupy(end);
        Ok(())
    })?;
    let count = room.sizes.retained;
    let address = room.address();
    let before = room.resident()?;
    let (begin, cpu) = (Instant::now(), room.cpu()?);
    room.phase("filling", |_| {
        let mut publisher = client::connect(address, "filler", true, 0)?;
        client::publish_all(&mut publisher, count, WINDOW, true, |number| {
            (topic(number), payload(number))
        })
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let used = room.cpu()?.saturating_sub(cpu);
    room.fact("filled at", count as f64 / seconds, "messages/s");
    room.fact(
        "processor time",
        used.as_secs_f64() / count as f64 * 1e6,
        "us each",
    );
    each(room, "resident", before)?;
    room.fact("disk", room.disk() as f64 / count as f64, "bytes each");
    for qos in [0, 1] {
        let name = format!("one client reads all at QoS {qos}");
        let took = room.phase(&name, |_| all(address, count, qos))?;
        room.fact(name, count as f64 / took, "messages/s");
    }
    each(room, "resident after they were read", before)?;
    for time in ["first", "second"] {
        let took = room.restart()?;
        room.fact(
            format!("{time} start until serving"),
            took.as_secs_f64(),
            "s",
        );
        each(room, &format!("resident after the {time} start"), before)?;
    }
    let address = room.address();
    room.phase("after the restart", |_| all(address, count, 0))?;
    Ok(())
}

/// Keeps every processor busy until then.
fn occupy(end: Instant) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            });
        }
    });
}

fn topic(number: u64) -> String {
    format!("site/{}/device/{}/state", number / 1000, number % 1000)
}

fn payload(number: u64) -> Vec<u8> {
    let mut payload = vec![b'.'; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

fn each(room: &mut Room, what: &str, before: u64) -> Result<()> {
    let grown = room.resident()?.saturating_sub(before);
    let count = room.sizes.retained;
    room.fact(what, grown as f64 / count as f64, "bytes each");
    Ok(())
}

/// Subscribes to everything and receives it; seconds.
fn all(address: std::net::SocketAddr, count: u64, qos: u8) -> Result<f64> {
    let mut reader = client::connect(address, &format!("reader-{qos}"), true, 0)?;
    let begin = Instant::now();
    reader.send(&crate::mqtt::subscribe(
        crate::mqtt::Version::V5,
        1,
        &[("site/#", qos)],
    ))?;
    let suback = reader.expect(client::PATIENCE)?;
    ensure!(
        matches!(suback, crate::mqtt::Packet::Suback { .. }),
        "{suback:?} instead of SUBACK"
    );
    let mut seen = HashSet::new();
    client::receive_all(&mut reader, count, |_, message| {
        ensure!(
            message.retain && message.payload.len() == PAYLOAD,
            "no retained message of ours: {message:?}"
        );
        let number = u64::from_be_bytes(message.payload[..8].try_into()?);
        ensure!(
            message.topic == topic(number) && seen.insert(number),
            "{} came with the wrong payload, or twice",
            message.topic
        );
        Ok(())
    })?;
    ensure!(client::ping(&mut reader)? == 0, "more than {count} came");
    Ok(begin.elapsed().as_secs_f64())
}
