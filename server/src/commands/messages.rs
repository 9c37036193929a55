//! `longtail publish`, `tail` and `browse`: messages in and out.

use std::io::{self, BufRead, Read, Write};

use anyhow::{Context, anyhow};
use longtail_admin::shapes::{Batch, Body, Published};
use serde::Deserialize;

use super::client::{Client, escaped, shaped, stream_path};
use super::inspect::done;
use crate::cli::{BrowseArgs, PublishArgs, TailArgs};
use crate::exit_codes::{Exit, Failure};

/// Largest message read from a file or standard input, in bytes; the server's own limit is usually lower.
const BODY_MAX: u64 = 1 << 30;

pub(crate) fn publish(args: &PublishArgs) -> Result<(), Failure> {
    let body = body(args)?;
    let mut query = vec![("delay_ms", args.delay.to_string()), ("ack_timeout_ms", args.ack_timeout.to_string())];
    query.extend(args.priority.map(|priority| ("priority", priority.to_string())));
    let path = if args.subject {
        query.push(("subject", args.target.clone()));
        format!("spaces/{}/publish", escaped(&args.space))
    } else {
        stream_path(&args.space, &args.target, "/messages")
    };
    let answer = Client::new(&args.client).post(&path, &query, &body)?;
    let published: Published = shaped(answer.clone())?;
    let sentence = match published.seq {
        Some(seq) => format!("published as {seq}"),
        None => "published; no stream keeps it".to_owned(),
    };
    done(args.client.json, answer, &sentence)
}

fn body(args: &PublishArgs) -> Result<Vec<u8>, Failure> {
    let read = |from: &mut dyn Read, what: &str| -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        from.take(BODY_MAX + 1).read_to_end(&mut body).with_context(|| format!("cannot read {what}"))?;
        if body.len() as u64 > BODY_MAX {
            return Err(Failure::new(Exit::Usage, anyhow!("{what} is larger than {BODY_MAX} bytes")));
        }
        Ok(body)
    };
    match (&args.file, args.body.as_deref()) {
        (Some(path), _) => {
            let mut file = std::fs::File::open(path)
                .with_context(|| format!("cannot open {}", path.display()))
                .map_err(|error| Failure::new(Exit::Usage, error))?;
            read(&mut file, &path.display().to_string())
        }
        (None, Some("-") | None) => read(&mut io::stdin().lock(), "standard input"),
        (None, Some(text)) => Ok(text.as_bytes().to_vec()),
    }
}

/// A line of a followed stream or subject: a message, or the reason why no more come.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Problem { error: String },
    Message(Message),
}

#[derive(Deserialize)]
struct Message {
    #[serde(flatten)]
    body: Body,
}

pub(crate) fn tail(args: &TailArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    let lines = if args.subject {
        client.follow(&format!("spaces/{}/follow", escaped(&args.space)), &[("subject", args.target.clone())])?
    } else {
        let query: Vec<(&str, String)> = args.from.map(|from| ("from", from.to_string())).into_iter().collect();
        client.follow(&stream_path(&args.space, &args.target, "/follow"), &query)?
    };
    print_messages(lines, args.client.json, args.count, &mut io::stdout().lock())
}

/// Prints messages until `lines` end or `count` are printed.
fn print_messages(lines: impl BufRead, json: bool, count: Option<u64>, out: &mut impl Write) -> Result<(), Failure> {
    let mut left = count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    for line in lines.lines() {
        let line = line.context("the connection to the server broke")?;
        if line.is_empty() {
            continue;
        }
        match serde_json::from_str(&line).context("the server sent something this version does not understand")? {
            Line::Problem { error } => return Err(Failure::new(Exit::Failure, anyhow!("{error}"))),
            Line::Message(_) if json => writeln!(out, "{line}")?,
            Line::Message(message) => write_body(&message.body, out)?,
        }
        out.flush()?;
        left -= 1;
        // Not one line later: it may take long until there is one.
        if left == 0 {
            return Ok(());
        }
    }
    Ok(())
}

fn write_body(body: &Body, out: &mut impl Write) -> Result<(), Failure> {
    let bytes = body.to_bytes().context("the server sent a damaged body")?;
    out.write_all(&bytes)?;
    Ok(out.write_all(b"\n")?)
}

pub(crate) fn browse(args: &BrowseArgs) -> Result<(), Failure> {
    let stream = &args.stream;
    let query = [("from", args.from.to_string()), ("limit", args.limit.to_string())];
    let document = Client::new(&stream.client).get(&stream_path(&stream.space, &stream.stream, "/messages"), &query)?;
    let mut out = io::stdout().lock();
    if stream.client.json {
        return Ok(writeln!(out, "{document}")?);
    }
    for message in shaped::<Batch>(document)?.messages {
        let state = message.state.as_deref().unwrap_or("-");
        write!(out, "{:>8}  {state:<8} {:>10}  ", message.seq, message.priority)?;
        write_body(&message.body, &mut out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(lines: &str, json: bool, count: Option<u64>) -> Result<String, Failure> {
        let mut out = Vec::new();
        print_messages(lines.as_bytes(), json, count, &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn bodies_are_printed_as_they_are() {
        let lines = "{\"seq\":1,\"body\":\"one\"}\n\n{\"seq\":2,\"body_base64\":\"dHdv\"}\n";
        assert_eq!(printed(lines, false, None).unwrap(), "one\ntwo\n");
        assert_eq!(printed(lines, true, Some(1)).unwrap(), "{\"seq\":1,\"body\":\"one\"}\n");
    }

    #[test]
    fn the_servers_last_words_are_a_failure() {
        let failure = printed("{\"body\":\"one\"}\n{\"error\":\"stream gone\"}\n", false, None).unwrap_err();
        assert_eq!((failure.exit, failure.error.to_string().as_str()), (Exit::Failure, "stream gone"));
        assert!(printed("{\"body\":\"one\"}\n{\"error\":\"x\"}\n", false, Some(1)).is_ok(), "enough is enough");
    }
}
