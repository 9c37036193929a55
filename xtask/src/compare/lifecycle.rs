//! What no load shows: how long a server takes from its start until it answers, empty and with what it kept, and its
//! memory when nothing happens.
//!
//! Each server is filled as its users fill it: a work queue with jobs or persistent messages, an MQTT broker with
//! retained messages. Then it is ended the way it is said to survive, and started again. Memory is read once it has been
//! left alone for a while: what a server still tidies up is not what it needs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::peers::Peers;
use crate::amqp;
use crate::beanstalk::{Received, Wire};
use crate::mqtt::{self, Connection, Packet, Publish, Version};
use crate::server::{Server, ServerCommand};

/// Bytes of each.
const BODY_BYTES: usize = 128;
/// The queue of AMQP.
const QUEUE: &str = "kept";
/// Puts or publishes in one write.
const BURST: u16 = 500;
/// How long a server is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Beanstalk,
    Mqtt,
    Amqp,
}

/// One server.
#[derive(Debug, Serialize)]
pub(super) struct Lifecycle {
    /// What it serves.
    pub(super) protocol: &'static str,
    pub(super) name: &'static str,
    /// From its start until it accepts, with nothing stored.
    pub(super) start_ms: f64,
    pub(super) idle_bytes: Option<u64>,
    /// What of it is its own: not pages of its program and of libraries, which the system can drop and read again.
    pub(super) idle_own_bytes: Option<u64>,
    /// Things stored then.
    pub(super) kept: u32,
    pub(super) filled_bytes: Option<u64>,
    /// From its start until it answers, with those stored.
    pub(super) recovery_ms: f64,
    pub(super) recovered_bytes: Option<u64>,
}

/// Measures Longtail and every peer, with `kept` jobs or retained messages stored.
///
/// # Errors
/// When a server does not start or does not answer.
pub(super) fn run(peers: &Peers, kept: u32, data: Option<&Path>) -> Result<Vec<Lifecycle>> {
    let interval = Some("interval");
    let mut pairs = Vec::new();
    if let Some(program) = &peers.beanstalkd {
        let command = format!("{} -l 127.0.0.1 -p {{port}} -b {{data}}", program.display());
        pairs.push((
            ("beanstalk", Protocol::Beanstalk),
            ServerCommand::longtail("beanstalk", interval),
            ("beanstalkd", ServerCommand::parse(&command)?),
        ));
    }
    if peers.mosquitto.is_some() {
        pairs.push((
            ("mqtt", Protocol::Mqtt),
            ServerCommand::longtail("mqtt", interval),
            ("mosquitto", ServerCommand::mosquitto()),
        ));
    }
    if let Some(program) = &peers.rabbitmq {
        pairs.push((
            ("amqp", Protocol::Amqp),
            ServerCommand::longtail("amqp", interval),
            ("rabbitmq", ServerCommand::rabbitmq(program)),
        ));
        // As most run it.
        pairs.push((
            ("amqp, management", Protocol::Amqp),
            ServerCommand::longtail_managed(interval),
            ("rabbitmq", ServerCommand::rabbitmq_managed(program)),
        ));
    }
    let mut all = Vec::new();
    for (served, own, (peer, command)) in pairs {
        all.push(measure(served, "longtail", &own, kept, data)?);
        all.push(measure(served, peer, &command, kept, data)?);
    }
    Ok(all)
}

fn measure(
    (served, protocol): (&'static str, Protocol),
    name: &'static str,
    command: &ServerCommand,
    kept: u32,
    data: Option<&Path>,
) -> Result<Lifecycle> {
    let home = match data {
        Some(data) => tempfile::tempdir_in(data)?,
        None => tempfile::tempdir()?,
    };
    let begun = Instant::now();
    let mut server = Server::start(command, home.path())?;
    let start_ms = begun.elapsed().as_secs_f64() * 1000.0;
    ask(protocol, server.address(), false).with_context(|| format!("{name} after its start"))?;
    std::thread::sleep(SETTLE);
    let (idle_bytes, idle_own_bytes) = (memory(server.pid(), RESIDENT), memory(server.pid(), OWN));
    fill(protocol, server.address(), kept).with_context(|| format!("filling {name}"))?;
    std::thread::sleep(SETTLE);
    let filled_bytes = memory(server.pid(), RESIDENT);
    server.end();
    let begun = Instant::now();
    let mut server = Server::start(command, home.path())?;
    ask(protocol, server.address(), true)
        .with_context(|| format!("{name} after it was started again"))?;
    let recovery_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let recovered_bytes = memory(server.pid(), RESIDENT);
    server.kill();
    println!("{served} {name}: start {start_ms:.0} ms, recovery {recovery_ms:.0} ms");
    Ok(Lifecycle {
        protocol: served,
        name,
        start_ms,
        idle_bytes,
        idle_own_bytes,
        kept,
        filled_bytes,
        recovery_ms,
        recovered_bytes,
    })
}

/// Waits until it answers a question: what the next job is, what is retained. If it was `filled`, there must be one.
fn ask(protocol: Protocol, server: SocketAddr, filled: bool) -> Result<()> {
    if protocol == Protocol::Beanstalk {
        let mut wire = Wire::connect(server)?;
        wire.send(b"peek-ready\r\n")?;
        return match wire.receive(PATIENCE)? {
            Received::Reply(reply) if reply.line.starts_with("FOUND") == filled => Ok(()),
            other => bail!("peek-ready was answered {other:?}"),
        };
    }
    if protocol == Protocol::Amqp {
        let mut client = amqp::Client::connect(server, PATIENCE)?;
        client.declare(QUEUE)?;
        let found = client.get(QUEUE)?;
        if found != filled {
            bail!("basic.get found a message: {found}, expected: {filled}");
        }
        return Ok(());
    }
    let mut client = connect(server, "asks")?;
    client.send(&mqtt::subscribe(Version::V4, 1, &[(&topic(0), 0)]))?;
    loop {
        match client.expect(PATIENCE)? {
            Packet::Suback { .. } if filled => {}
            Packet::Suback { .. } => return Ok(()),
            Packet::Publish(_) if filled => return Ok(()),
            other => bail!("a subscription was answered {other:?}"),
        }
    }
}

/// Stores jobs or retained messages, in whole bursts, and waits until all are acknowledged.
fn fill(protocol: Protocol, server: SocketAddr, kept: u32) -> Result<()> {
    if protocol == Protocol::Beanstalk {
        let mut wire = Wire::connect(server)?;
        let put = format!("put 0 0 60 {BODY_BYTES}\r\n{}\r\n", "x".repeat(BODY_BYTES));
        let burst = put.repeat(usize::from(BURST));
        for _ in 0..kept / u32::from(BURST) {
            wire.send(burst.as_bytes())?;
            for _ in 0..BURST {
                match wire.receive(PATIENCE)? {
                    Received::Reply(reply) if reply.line.starts_with("INSERTED") => {}
                    other => bail!("a put was answered {other:?}"),
                }
            }
        }
        return Ok(());
    }
    if protocol == Protocol::Amqp {
        let mut client = amqp::Client::connect(server, PATIENCE)?;
        for _ in 0..kept / u32::from(BURST) {
            client.publish(QUEUE, &[b'x'; BODY_BYTES], BURST.into())?;
        }
        return Ok(());
    }
    let mut client = connect(server, "fills")?;
    for burst in 0..kept / u32::from(BURST) {
        let publish = |id: u16| {
            mqtt::publish(
                Version::V4,
                &Publish {
                    topic: topic(burst * u32::from(BURST) + u32::from(id) - 1),
                    payload: vec![b'x'; BODY_BYTES],
                    qos: 1,
                    id,
                    retain: true,
                    dup: false,
                    properties: Vec::new(),
                },
            )
        };
        let bytes: Vec<u8> = (1..=BURST).flat_map(publish).collect();
        client.send(&bytes)?;
        for _ in 0..BURST {
            match client.expect(PATIENCE)? {
                Packet::Ack { code: 0, .. } => {}
                other => bail!("a publish was answered {other:?}"),
            }
        }
    }
    Ok(())
}

fn topic(number: u32) -> String {
    format!("kept/{number}")
}

fn connect(server: SocketAddr, client: &str) -> Result<Connection> {
    let mut connection = Connection::open(server, Version::V4)?;
    connection.send(&mqtt::connect(Version::V4, client, true, 0))?;
    match connection.expect(PATIENCE)? {
        Packet::Connack { code: 0, .. } => Ok(connection),
        other => bail!("a connection was answered {other:?}"),
    }
}

/// Memory of a process that is resident.
const RESIDENT: &str = "VmRSS:";
/// That of it which no file backs.
const OWN: &str = "RssAnon:";

/// A line of what the system says about a process, in bytes.
fn memory(pid: u32, what: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(what))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
