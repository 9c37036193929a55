//! The clients that must not notice anything: one-to-one flows at a fixed rate, each message timed from when it was due
//! to when it arrived. A server that stalls is charged for everything it held up.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::client;
use crate::mqtt::{Ack, Connection, Packet, Publish, Received, Version, ack, publish};

/// How a flow goes.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    qos: u8,
    /// Seconds that the subscriber's session outlives its connection: with any, its messages go through the log.
    expiry: u32,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "QoS 0",
        qos: 0,
        expiry: 0,
    },
    Kind {
        name: "QoS 1",
        qos: 1,
        expiry: 0,
    },
    Kind {
        name: "QoS 1 stored",
        qos: 1,
        expiry: 3600,
    },
];

/// Between two messages of a flow.
const INTERVAL: Duration = Duration::from_millis(2);

/// Payload of a message; its first bytes are the time.
const PAYLOAD: usize = 64;

/// What may pass between two messages before a flow counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ids go around; so many are in use at most.
const IDS: u64 = 60_000;

/// What became of one flow.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flow {
    pub(crate) name: &'static str,
    pub(crate) messages: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// All flows of one phase, connected and subscribed.
pub(crate) struct Bystanders {
    flows: Vec<(Kind, Connection, Connection)>,
}

impl Bystanders {
    /// Connects; `name` tells them from others of the same server.
    ///
    /// # Errors
    /// When the server does not let them in.
    pub(crate) fn connect(address: SocketAddr, name: &str) -> Result<Bystanders> {
        let mut flows = Vec::new();
        for (number, kind) in KINDS.into_iter().enumerate() {
            let id = format!("bystander-{name}-{number}");
            let mut subscriber = client::connect(address, &format!("{id}-s"), true, kind.expiry)?;
            client::subscribe(&mut subscriber, &[&topic(&id)], kind.qos)?;
            let publisher = client::connect(address, &id, true, 0)?;
            flows.push((kind, publisher, subscriber));
        }
        Ok(Bystanders { flows })
    }

    /// Runs until `stop` is set, then until everything has arrived.
    ///
    /// # Errors
    /// When a message is lost, out of order or not acknowledged.
    pub(crate) fn run(self, name: &str, stop: &AtomicBool) -> Result<Vec<Flow>> {
        let base = Instant::now();
        let sent = AtomicU64::new(u64::MAX);
        let (mut lines, mut pairs) = (Vec::new(), Vec::new());
        for (number, (kind, publisher, subscriber)) in self.flows.into_iter().enumerate() {
            let topic = topic(&format!("bystander-{name}-{number}"));
            lines.push((kind, topic, publisher.writer()?));
            pairs.push((kind, publisher, subscriber));
        }
        std::thread::scope(|scope| {
            let (mut readers, mut ackers) = (Vec::new(), Vec::new());
            for (kind, publisher, subscriber) in pairs {
                let sent = &sent;
                readers.push(scope.spawn(move || hear(kind, subscriber, base, sent)));
                if kind.qos > 0 {
                    ackers.push(scope.spawn(move || acknowledged(publisher, sent)));
                }
            }
            let result = speak(&mut lines, base, stop, &sent);
            if result.is_err() {
                sent.store(0, Ordering::Release);
            }
            let joined = |_| anyhow::anyhow!("a bystander panicked");
            for acker in ackers {
                acker.join().map_err(joined)??;
            }
            let flows = readers
                .into_iter()
                .map(|reader| reader.join().map_err(joined)?);
            let flows: Vec<Flow> = flows.collect::<Result<_>>()?;
            result.map(|()| flows)
        })
    }
}

fn topic(id: &str) -> String {
    format!("bystanders/{id}")
}

/// Publishes to all flows at their rate; says in the end how many each got.
fn speak(
    lines: &mut [(Kind, String, TcpStream)],
    base: Instant,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let mut count: u64 = 0;
    while !stop.load(Ordering::Acquire) {
        let due = INTERVAL * u32::try_from(count)?;
        std::thread::sleep(due.saturating_sub(base.elapsed()));
        let mut payload = vec![0; PAYLOAD];
        payload[..8].copy_from_slice(&u64::try_from(due.as_nanos())?.to_be_bytes());
        payload[8..16].copy_from_slice(&count.to_be_bytes());
        for (kind, topic, writer) in &mut *lines {
            let message = Publish {
                topic: topic.clone(),
                payload: payload.clone(),
                qos: kind.qos,
                id: u16::try_from(count % IDS)? + 1,
                retain: false,
                dup: false,
                properties: Vec::new(),
            };
            writer.write_all(&publish(Version::V5, &message))?;
        }
        count += 1;
    }
    sent.store(count, Ordering::Release);
    Ok(())
}

/// Reads the acknowledgements of a flow.
fn acknowledged(mut publisher: Connection, sent: &AtomicU64) -> Result<()> {
    let mut count = 0;
    let mut quiet = Instant::now();
    while count < sent.load(Ordering::Acquire) {
        match publisher.receive(Duration::from_millis(50))? {
            Received::Packet(Packet::Ack {
                kind: Ack::Puback,
                code: 0,
                ..
            }) => {
                count += 1;
                quiet = Instant::now();
            }
            Received::Nothing if quiet.elapsed() < PATIENCE => {}
            other => bail!("a bystander's publisher got {other:?} after {count} PUBACKs"),
        }
    }
    Ok(())
}

/// Receives a flow.
fn hear(kind: Kind, mut subscriber: Connection, base: Instant, sent: &AtomicU64) -> Result<Flow> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 300_000_000_000, 3)?;
    let mut count: u64 = 0;
    let mut quiet = Instant::now();
    while count < sent.load(Ordering::Acquire) {
        match subscriber.receive(Duration::from_millis(50))? {
            Received::Packet(Packet::Publish(message)) => {
                let now = u64::try_from(base.elapsed().as_nanos())?;
                let number = |at: usize| {
                    Some(u64::from_be_bytes(
                        message.payload.get(at..at + 8)?.try_into().ok()?,
                    ))
                };
                let due = number(0).context("a bystander's message is too short")?;
                if number(8) != Some(count) {
                    bail!(
                        "{}: message {count} was due, {:?} came",
                        kind.name,
                        number(8)
                    );
                }
                if message.qos > 0 {
                    subscriber.send(&ack(Ack::Puback, message.id))?;
                }
                histogram.saturating_record(now.saturating_sub(due));
                count += 1;
                quiet = Instant::now();
            }
            Received::Nothing if quiet.elapsed() < PATIENCE => {}
            other => bail!("{}: {other:?} after {count} messages", kind.name),
        }
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Flow {
        name: kind.name,
        messages: count,
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: histogram.max() as f64 / 1e3,
    })
}
