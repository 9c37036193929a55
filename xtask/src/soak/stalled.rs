//! Subscribers of a busy topic that stop reading: what they miss at QoS 0 is dropped and counted, what waits at QoS 1 is
//! bounded, a healthy subscriber of the same topic gets everything, and in the end they read what was kept for them.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{self, PATIENCE};
use super::room::Room;
use crate::mqtt::{Ack, Connection, PINGREQ, Packet, ack};

const TOPIC: &str = "busy/line";

const PAYLOAD: usize = 4096;

/// Messages a second.
const RATE: u32 = 250;

/// What the system keeps for a client that does not read. More than a segment of the loopback device: into a window
/// that is smaller the system sends only when a timer says so, and reading what was kept would take minutes.
const RECEIVE_BUFFER: usize = 128 * 1024;

pub(crate) fn run(room: &mut Room) -> Result<()> {
    room.phase("alone", |_| Ok(()))?;
    let many = room.sizes.stalled;
    for (count, qos) in [(1, 0), (1, 1), (many, 0), (many, 1)] {
        stall(room, count, qos)?;
    }
    Ok(())
}

fn stall(room: &mut Room, count: u64, qos: u8) -> Result<()> {
    let name = format!("{count} stalled at QoS {qos}");
    let address = room.address();
    let dropped_before = dropped(room)?;
    let mut stalled = Vec::new();
    for number in 0..count {
        let mut connection = client::connect(address, &format!("stalled-{qos}-{number}"), true, 0)?;
        connection.shrink_receive_buffer(RECEIVE_BUFFER)?;
        client::subscribe(&mut connection, &["busy/#"], qos)?;
        stalled.push(connection);
    }
    let mut healthy = client::connect(address, "healthy", true, 0)?;
    client::subscribe(&mut healthy, &[TOPIC], 1)?;
    let mut publisher = client::connect(address, "busy", true, 0)?;
    let published = room.phase(&name, |end| {
        std::thread::scope(|scope| {
            let (done, total) = std::sync::mpsc::channel();
            let healthy = &mut healthy;
            let reader = scope.spawn(move || {
                let (mut count, mut most) = (0, u64::MAX);
                while count < most {
                    client::receive_all(healthy, 1, |_, _| Ok(()))?;
                    count += 1;
                    most = total.try_recv().unwrap_or(most);
                }
                Ok::<_, anyhow::Error>(count)
            });
            let published = publish(&mut publisher, end, |most| {
                // The reader has ended with an error, which is found below.
                let _ = done.send(most);
            })?;
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("the healthy reader panicked"))??;
            Ok(published)
        })
    })?;
    let dropped = dropped(room)? - dropped_before;
    room.fact(format!("{name}: published"), published as f64, "messages");
    room.fact(format!("{name}: dropped and counted"), dropped, "copies");
    let (mut read, mut closed) = (0, 0);
    for mut connection in stalled {
        match catch_up(&mut connection) {
            Ok(messages) => read += messages,
            Err(_) => closed += 1,
        }
    }
    room.fact(
        format!("{name}: kept and read later"),
        read as f64,
        "copies",
    );
    room.require(closed == 0, || {
        format!("{name}: {closed} of them were disconnected")
    });
    let (wanted, found) = (published * count, read + dropped as u64);
    room.require(wanted == found, || {
        format!("{name}: {wanted} copies were due, {found} were read or counted as dropped")
    });
    Ok(())
}

/// Publishes at the rate until `end`; the last message goes after `tell` was told how many there are.
fn publish(connection: &mut Connection, end: Instant, tell: impl FnOnce(u64)) -> Result<u64> {
    let (begin, mut sent) = (Instant::now(), 0_u64);
    let payload = vec![b'x'; PAYLOAD];
    let send = |connection: &mut Connection, number: u64| {
        let id = u16::try_from(number % 60_000)? + 1;
        connection.send(&client::message(TOPIC, &payload, 1, id, false))?;
        connection.expect(PATIENCE)
    };
    while Instant::now() < end {
        send(connection, sent)?;
        sent += 1;
        let due = Duration::from_secs(1) / RATE * u32::try_from(sent)?;
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    tell(sent + 1);
    send(connection, sent)?;
    Ok(sent + 1)
}

/// Reads everything that was kept, to the answer of a PINGREQ behind which nothing comes any more.
fn catch_up(connection: &mut Connection) -> Result<u64> {
    let mut messages = 0;
    loop {
        connection.send(PINGREQ)?;
        let before = messages;
        loop {
            match connection.expect(PATIENCE)? {
                Packet::Pingresp => break,
                Packet::Publish(message) => {
                    messages += 1;
                    if message.qos > 0 {
                        connection.send(&ack(Ack::Puback, message.id))?;
                    }
                }
                other => anyhow::bail!("{other:?} instead of a message"),
            }
        }
        if messages == before {
            return Ok(messages);
        }
    }
}

/// Copies that sessions did not get, whatever the reason.
fn dropped(room: &Room) -> Result<f64> {
    room.counter("longtail_session_messages_dropped_total", "mqtt")
}
