//! A stream under the same crashes: what was confirmed is in it, once, and what somebody has read at an offset is there
//! for ever.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::super::PATIENCE;
use super::{Ledger, locked, number_of};
use crate::amqp::{Argument, Client};
use crate::random::Random;

const STREAM: &str = "crash-stream";

/// Messages that were read before and are read again, to see that they are the same.
const AGAIN: u64 = 300;

/// What is known of the stream.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    /// Published; and those of them that were confirmed.
    tried: BTreeSet<u64>,
    confirmed: BTreeSet<u64>,
    /// What was read, by offset.
    read: Vec<u64>,
}

impl Streamed {
    pub(super) fn confirmed(&self) -> usize {
        self.confirmed.len()
    }
}

pub(super) fn declare(client: &mut Client) -> Result<()> {
    client.declare_with(STREAM, &[("x-queue-type", Argument::Text("stream"))])
}

/// Publishes until the server is gone.
pub(super) fn publish(
    address: SocketAddr,
    next: &AtomicU64,
    mut random: Random,
    ledger: &Mutex<Ledger>,
) -> Result<()> {
    let mut client = Client::connect(address, PATIENCE)?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        locked(ledger).stream.tried.insert(number);
        let mut body = number.to_be_bytes().to_vec();
        body.resize(8 + random.index(600), 0);
        if client.publish_one(STREAM, &body, 0)? {
            locked(ledger).stream.confirmed.insert(number);
        }
    }
}

/// Compares the stream with what is known; `whole`: from its beginning.
pub(super) fn audit(address: SocketAddr, ledger: &Mutex<Ledger>, whole: bool) -> Result<()> {
    let mut client = Client::connect(address, PATIENCE)?;
    let count = client.count(STREAM)?;
    let known = locked(ledger).stream.read.len() as u64;
    if count < known {
        locked(ledger).fault(format!(
            "{known} messages were read, and now there are {count}"
        ));
        return Ok(());
    }
    let from = if whole {
        0
    } else {
        known.saturating_sub(AGAIN)
    };
    let found = client.read_stream(STREAM, from, count - from)?;
    let mut ledger = locked(ledger);
    let mut faults = Vec::new();
    for (at, (offset, body)) in (from..).zip(found) {
        let number = number_of(&body)?;
        if offset != at {
            faults.push(format!("offset {offset} comes where {at} is due"));
        }
        match ledger.stream.read.get(usize::try_from(at)?) {
            Some(&before) if before != number => {
                faults.push(format!("at offset {at} was {before}, and now is {number}"));
            }
            Some(_) => {}
            None => ledger.stream.read.push(number),
        }
        if !ledger.stream.tried.contains(&number) {
            faults.push(format!("{number} is in the stream and was never published"));
        }
    }
    let mut seen = BTreeSet::new();
    for &number in &ledger.stream.read {
        if !seen.insert(number) {
            faults.push(format!("{number} is in the stream twice"));
        }
    }
    for lost in ledger.stream.confirmed.difference(&seen) {
        faults.push(format!("{lost} is lost from the stream"));
    }
    for fault in faults {
        ledger.fault(fault);
    }
    Ok(())
}
