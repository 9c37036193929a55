//! `longtail kick`, `purge` and `pause`: stepping in.

use std::io::{self, IsTerminal, Write};

use anyhow::anyhow;
use longtail_admin::shapes::Purged;

use super::client::{Client, escaped, shaped, stream_path};
use super::inspect::done;
use super::table::{printable, span};
use crate::cli::{KickArgs, StreamArgs};
use crate::exit_codes::{Exit, Failure};

pub(crate) fn kick(args: &KickArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    let (answer, sentence) = match (&args.session, args.id) {
        (Some(session), _) => {
            let query = [("forget", args.forget.to_string())];
            let answer = client.delete(&format!("sessions/{}", escaped(session)), &query)?;
            let sentence = if args.forget {
                format!("session {} ended", printable(session))
            } else {
                format!("client {} disconnected", printable(session))
            };
            (answer, sentence)
        }
        (None, id) => {
            let id = id.unwrap_or_default();
            let answer = client.delete(&format!("connections/{id}"), &[])?;
            (answer, format!("connection {id} closed"))
        }
    };
    done(args.client.json, answer, &sentence)
}

pub(crate) fn purge(yes: bool, args: &StreamArgs) -> Result<(), Failure> {
    if !yes && !confirmed(&args.stream)? {
        return Err(Failure::new(
            Exit::Usage,
            anyhow!("nothing purged: confirm, or say --yes"),
        ));
    }
    let answer = Client::new(&args.client).post(
        &stream_path(&args.space, &args.stream, "/purge"),
        &[],
        b"",
    )?;
    let purged: Purged = shaped(answer.clone())?;
    done(
        args.client.json,
        answer,
        &format!("{} messages removed from {}", purged.messages, args.stream),
    )
}

/// Asks a person; a script is expected to know what it does and say so.
fn confirmed(stream: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    write!(
        io::stderr(),
        "remove all messages of {stream} that nobody holds? [y/N] "
    )?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(crate) fn pause(args: &StreamArgs, ms: u64) -> Result<(), Failure> {
    let query = [("duration_ms", ms.to_string())];
    let answer = Client::new(&args.client).post(
        &stream_path(&args.space, &args.stream, "/pause"),
        &query,
        b"",
    )?;
    let sentence = if ms == 0 {
        format!("{} delivers again", args.stream)
    } else {
        format!("{} delivers nothing for {}", args.stream, span(ms))
    };
    done(args.client.json, answer, &sentence)
}
