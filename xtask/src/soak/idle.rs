//! Connections by the ten thousand that only keep alive, and what a server says that has too few file descriptors.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::client::{self, PATIENCE};
use super::room::Room;
use crate::mqtt::{Connection, PINGREQ, Packet};
use crate::server::Server;

/// PINGREQs at a time, and how often.
const PINGS: usize = 50;
const PINGS_EVERY: Duration = Duration::from_millis(10);

/// File descriptors of a server that has too few.
const FEW: u64 = 128;

pub(crate) fn run(room: &mut Room) -> Result<()> {
    let needed = room.sizes.idle + 1_000;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    ensure!(
        own.current.is_none_or(|current| current >= needed),
        "this needs {needed} file descriptors and may have {:?}; raise it with `ulimit -n`",
        own.current
    );
    room.phase("alone", |_| Ok(()))?;
    let (address, count) = (room.address(), room.sizes.idle);
    let (memory, descriptors, cpu) = (room.resident()?, room.descriptors()?, room.cpu()?);
    let begin = Instant::now();
    let mut idle: Vec<Connection> = room.phase("connecting", |_| {
        (0..count)
            .map(|number| {
                let mut connection = client::connect(address, &format!("idle-{number}"), true, 0)?;
                client::subscribe(&mut connection, &[&format!("idle/{number}")], 0)?;
                Ok(connection)
            })
            .collect()
    })?;
    room.fact(
        "connected and subscribed at",
        count as f64 / begin.elapsed().as_secs_f64(),
        "connections/s at least",
    );
    let used = room.cpu()?.saturating_sub(cpu);
    room.fact(
        "processor time",
        used.as_secs_f64() / count as f64 * 1e6,
        "us each",
    );
    let grown = room.resident()?.saturating_sub(memory);
    room.fact("resident", grown as f64 / count as f64, "bytes each");
    let open = room.descriptors()? - descriptors;
    room.fact("file descriptors", open as f64 / count as f64, "each");
    room.require(open <= count, || {
        format!("{count} connections take {open} descriptors")
    });
    room.phase("idle", |_| Ok(()))?;
    let cpu = room.cpu()?;
    let rounds = room.phase("all keep alive", |end| {
        let mut rounds = 0;
        while rounds == 0 || Instant::now() < end {
            // Not all at once: thirty times what a keep alive of a minute makes of them.
            let begin = Instant::now();
            for (number, some) in (1..).zip(idle.chunks_mut(PINGS)) {
                for connection in &mut *some {
                    connection.send(PINGREQ)?;
                }
                for connection in some {
                    let answer = connection.expect(PATIENCE)?;
                    ensure!(answer == Packet::Pingresp, "{answer:?} instead of PINGRESP");
                }
                let due = PINGS_EVERY * number;
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            rounds += 1;
        }
        Ok(rounds)
    })?;
    let pings = (rounds * count) as f64;
    let used = room.cpu()?.saturating_sub(cpu);
    room.fact("PINGREQs", pings, "");
    room.fact(
        "processor time of a PINGREQ, bystanders included",
        used.as_secs_f64() / pings * 1e6,
        "us",
    );
    drop(idle);
    too_few(room)
}

/// A server that may have few descriptors takes as many as it may have at most, says so when that is little, and goes
/// on serving whom it has when it runs out.
fn too_few(room: &mut Room) -> Result<()> {
    let home = tempfile::tempdir()?;
    let server = Server::start(&room.command().with_descriptors(FEW / 2, FEW), home.path())?;
    let mut first = client::connect(server.address(), "first", true, 0)?;
    let crowd: Vec<TcpStream> = (0..2 * FEW)
        .filter_map(|_| TcpStream::connect(server.address()).ok())
        .collect();
    // Those that there is no room for are closed at once.
    let mut refused = 0_u64;
    for mut stream in &crowd {
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        refused += u64::from(stream.read(&mut [0; 16]).is_ok());
        if refused == FEW {
            break;
        }
    }
    let open = super::probe::descriptors(server.pid())?;
    client::ping(&mut first)?;
    drop(crowd);
    let mut later = client::connect(server.address(), "later", true, 0)?;
    client::ping(&mut later)?;
    let log = server.log_tail();
    for line in log.lines().filter(|line| line.contains("descriptors")) {
        println!("    its log: {line}");
    }
    room.fact(
        "connections beyond its room that are closed at once",
        refused as f64,
        "at least",
    );
    room.fact("descriptors in use of a hard limit of 128", open as f64, "");
    room.require(open > FEW / 2, || {
        format!("the server used {open} descriptors; it could have raised its limit to {FEW}")
    });
    room.require(open < FEW, || {
        "the server has no descriptor left for its log".to_owned()
    });
    room.require(refused > 0, || "nobody was refused".to_owned());
    room.require(log.contains("file descriptors"), || {
        format!("the server did not say what it lacks:\n{log}")
    });
    Ok(())
}
