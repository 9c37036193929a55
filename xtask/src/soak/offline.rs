//! Messages for ten thousand sessions of one filter that are away: what a publish costs against one session, what their
//! backlogs take, and some that come back for all of it.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::client;
use super::room::Room;

/// Seconds that sessions outlive their connections.
const EXPIRY: u32 = 86_400;

/// Sessions that come back.
const RETURNING: u64 = 5;

const PAYLOAD: usize = 64;

/// Messages between two looks at the processor time: one filter's turn, then the other's.
const TURN: u64 = 500;

pub(crate) fn run(room: &mut Room) -> Result<()> {
    room.phase("alone", |_| Ok(()))?;
    let (address, sessions, backlog) = (room.address(), room.sizes.sessions, room.sizes.backlog);
    let before = room.resident()?;
    leave(room, "lone", 1, "lone/#")?;
    let begin = Instant::now();
    leave(room, "fleet", sessions, "fleet/#")?;
    room.fact(
        "sessions made",
        sessions as f64 / begin.elapsed().as_secs_f64(),
        "a second",
    );
    let made = room.resident()?;
    room.fact(
        "a session that is away",
        made.saturating_sub(before) as f64 / sessions as f64,
        "bytes",
    );
    let disk = room.disk();
    let mut publisher = client::connect(address, "publisher", true, 0)?;
    let pid_cpu = |room: &Room| room.cpu();
    let (mut one, mut many) = (0.0, 0.0);
    let mut sent = 0;
    while sent < backlog {
        let turn = TURN.min(backlog - sent);
        for (filter, cost) in [("lone", &mut one), ("fleet", &mut many)] {
            let cpu = pid_cpu(room)?;
            client::publish_all(&mut publisher, turn, 50, false, |number| {
                (
                    format!("{filter}/{}", sent + number),
                    payload(sent + number),
                )
            })?;
            *cost += pid_cpu(room)?.saturating_sub(cpu).as_secs_f64();
        }
        sent += turn;
    }
    room.fact(
        "a publish for one session",
        one / backlog as f64 * 1e6,
        "us of processor",
    );
    room.fact(
        format!("a publish for {sessions}"),
        many / backlog as f64 * 1e6,
        "us of processor",
    );
    room.fact("ratio", many / one, "");
    let mib = f64::from(1 << 20);
    let grown = room.resident()?.saturating_sub(made);
    room.fact(
        format!("backlogs of {backlog} messages each: resident"),
        grown as f64 / mib,
        "MiB for all",
    );
    room.fact(
        "disk",
        room.disk().saturating_sub(disk) as f64 / mib,
        "MiB for all",
    );
    let some = backlog.min(1000);
    room.phase("publishing to all of them", |_| {
        client::publish_all(&mut publisher, some, 50, false, |number| {
            (
                format!("fleet/{}", backlog + number),
                payload(backlog + number),
            )
        })
    })?;
    let expected = backlog + some;
    let took = room.phase("some come back", |_| {
        let begin = Instant::now();
        for number in 0..RETURNING.min(sessions) {
            come_back(address, &format!("fleet-{number}"), expected)?;
        }
        Ok(begin.elapsed().as_secs_f64())
    })?;
    room.fact(
        "drained",
        (RETURNING.min(sessions) * expected) as f64 / took,
        "messages/s",
    );
    let restart = room.restart()?;
    room.fact("start until serving", restart.as_secs_f64(), "s");
    let now = room.resident()?.saturating_sub(before) as f64 / mib;
    room.fact("resident after the start, for everything", now, "MiB");
    let address = room.address();
    room.phase("one more after the restart", |_| {
        come_back(address, &format!("fleet-{}", sessions - 1), expected)
    })
}

fn payload(number: u64) -> Vec<u8> {
    let mut payload = vec![b'.'; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// Makes sessions with a subscription and ends their connections.
fn leave(room: &mut Room, name: &str, count: u64, filter: &str) -> Result<()> {
    let address = room.address();
    for number in 0..count {
        let mut connection = client::connect(address, &format!("{name}-{number}"), true, EXPIRY)?;
        client::subscribe(&mut connection, &[filter], 1)?;
        connection.send(crate::mqtt::DISCONNECT)?;
        // Its end is read, so that the next one does not overtake it.
        while connection.receive(client::PATIENCE)? != crate::mqtt::Received::Closed {}
    }
    Ok(())
}

/// A session takes everything that has waited, in order.
fn come_back(address: std::net::SocketAddr, id: &str, expected: u64) -> Result<()> {
    let mut connection = client::connect(address, id, false, EXPIRY)?;
    client::receive_all(&mut connection, expected, |number, message| {
        let found = u64::from_be_bytes(message.payload[..8].try_into()?);
        ensure!(
            found == number,
            "{id}: message {found} came where {number} was due"
        );
        Ok(())
    })?;
    ensure!(
        client::ping(&mut connection)? == 0,
        "{id}: more than {expected} came"
    );
    Ok(())
}
