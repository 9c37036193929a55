//! Reading the values at the start.

use std::time::{Duration, Instant};

use longtail_engine::{Command, Reply, StreamName, Wait};
use longtail_model::Seq;

use super::Value;
use super::table::Table;
use crate::broker::BrokerError;
use crate::client::{Client, OwnedMessage, accepted};

/// Messages read in one go.
const BATCH: u32 = 4_096;

/// Bytes of payload read in one go.
const BATCH_BYTES: u64 = 4 << 20;

/// How often a long start says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// Reads a stream from its beginning into the table; does nothing when there is no such stream.
pub(super) fn load<V: Value>(
    client: &Client,
    name: &StreamName,
    mut read: impl FnMut(&str, OwnedMessage) -> Option<V>,
    table: &mut Table<V>,
) -> Result<(), BrokerError> {
    let began = Instant::now();
    let mut said = began;
    let mut from = Seq::FIRST;
    let mut records = 0_u64;
    loop {
        let command = Command::Read {
            name: name.clone(),
            from,
            max: BATCH,
            max_bytes: BATCH_BYTES,
            wait: Wait::No,
        };
        let answer = accepted(client.call(command).wait()?)?;
        let (shown, next) = match answer.reply {
            Reply::Batch { messages, next } => (messages, next),
            Reply::NotFound => return Ok(()),
            other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
        };
        for ((seq, position), message) in shown.iter().zip(answer.messages) {
            let Some(message) = message else {
                tracing::error!(stream = %name, %seq, %position, "a value cannot be read from the log and is left out");
                continue;
            };
            table.found(*seq, message, &mut read);
        }
        records += shown.len() as u64;
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            tracing::info!(stream = %name, records, "reading last values");
        }
        // A batch may be empty before the end: much was looked at and nothing was there.
        if shown.is_empty() && next == from {
            break;
        }
        from = next;
    }
    table.loaded();
    tracing::debug!(
        stream = %name,
        records,
        values = table.len(),
        to_remove = table.removals(),
        ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "read last values"
    );
    Ok(())
}
