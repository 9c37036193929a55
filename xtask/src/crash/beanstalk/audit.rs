//! After a restart: asks the server about every job in the account, and at the very end takes all of them out.

use anyhow::{Context, Result, bail};

use super::ledger::Ledger;
use super::{PATIENCE, TUBES};
use crate::beanstalk::{Reply, Wire};
use crate::random::Random;

/// Questions sent together.
const BATCH: usize = 200;

/// How many of the last deletes are checked after a restart, and how many older ones of all.
const DELETES_RECENT: usize = 20_000;
const DELETES_SAMPLE: usize = 2_000;

/// Compares the server with the account.
///
/// # Errors
/// When the server stops answering.
pub(super) fn compare(wire: &mut Wire, ledger: &mut Ledger, random: &mut Random) -> Result<()> {
    for ids in ledger.ids().chunks(BATCH) {
        let questions: String = ids
            .iter()
            .map(|id| format!("peek {id}\r\nstats-job {id}\r\n"))
            .collect();
        wire.send(questions.as_bytes())?;
        for &id in ids {
            let (peek, stats) = (wire.expect(PATIENCE)?, wire.expect(PATIENCE)?);
            match (&peek.body, &stats.body) {
                (Some(body), Some(_)) => {
                    let priority = value(&stats, "pri")?.parse().context("a priority")?;
                    ledger.found(id, body, &value(&stats, "state")?, priority);
                }
                _ if peek.line == "NOT_FOUND" => ledger.missing(id),
                _ => bail!(
                    "peek {id} was answered with {:?}, stats-job with {:?}",
                    peek.line,
                    stats.line
                ),
            }
        }
    }
    for ids in ledger
        .deleted_ids(DELETES_RECENT, DELETES_SAMPLE, random)
        .chunks(BATCH)
    {
        let questions: String = ids.iter().map(|id| format!("peek {id}\r\n")).collect();
        wire.send(questions.as_bytes())?;
        for &id in ids {
            if let Some(body) = &wire.expect(PATIENCE)?.body {
                ledger.found(id, body, "ready", 0);
            }
        }
    }
    Ok(())
}

/// Delivers and deletes every job there is, so that the account can be closed.
///
/// # Errors
/// When the server stops answering.
pub(super) fn drain(wire: &mut Wire, ledger: &mut Ledger) -> Result<()> {
    for tube in TUBES {
        // Buried ones first, then the delayed ones.
        let line = format!("watch {tube}\r\nuse {tube}\r\nkick 10000000\r\nkick 10000000\r\n");
        wire.send(line.as_bytes())?;
        for _ in 0..4 {
            wire.expect(PATIENCE)
                .with_context(|| format!("taking everything out: kicking {tube}"))?;
        }
    }
    loop {
        wire.send(b"reserve-with-timeout 0\r\n")?;
        let reply = wire
            .expect(PATIENCE)
            .context("taking everything out: reserve")?;
        let (Some(id), Some(body)) = (reply.number_after("RESERVED"), &reply.body) else {
            break;
        };
        ledger.delivered(0, id, body);
        wire.send(format!("delete {id}\r\n").as_bytes())?;
        let reply = wire
            .expect(PATIENCE)
            .with_context(|| format!("taking everything out: delete {id}"))?
            .line;
        if reply == "DELETED" {
            ledger.deleted(id);
        } else {
            ledger.refused(id, "delete", &reply);
        }
    }
    ledger.close();
    Ok(())
}

/// One value of a document.
fn value(reply: &Reply, key: &str) -> Result<String> {
    let text = String::from_utf8_lossy(reply.body.as_deref().unwrap_or_default()).into_owned();
    let row = text
        .lines()
        .find_map(|row| row.strip_prefix(key)?.strip_prefix(": "));
    row.map(str::to_owned)
        .with_context(|| format!("no {key} in {text:?}"))
}
