//! `longtail trace`, `slow` and `topic-metrics`.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use longtail_admin::shapes::{SlowStatus, TopicStatus, TraceLines, TraceStatus};
use serde_json::Value;

use super::client::{Client, escaped, now_ms, shaped};
use super::inspect::{all, done, print, print_lines};
use super::table::{Align, bytes, printable, span, table};
use crate::cli::{
    ClientArgs, SlowArgs, TopicArgs, TopicMetricsCommand, TraceArgs, TraceCommand, TraceStartArgs,
};
use crate::exit_codes::Failure;

/// How often a trace that is followed is asked for more.
const POLL: Duration = Duration::from_millis(300);

/// Bytes of lines that are asked for at a time.
const LINES: &str = "1048576";

pub(crate) fn trace(command: &TraceCommand) -> Result<(), Failure> {
    match command {
        TraceCommand::Start(args) => start(args),
        TraceCommand::List(args) => traces(args),
        TraceCommand::Follow(args) => follow(args),
        TraceCommand::Download { trace, output } => download(trace, output.as_deref()),
        TraceCommand::Stop(args) => {
            let path = format!("{}/stop", path(args));
            let answer = Client::new(&args.client).post(&path, &[], b"")?;
            let sentence = format!("{} has ended and keeps its lines", printable(&args.name));
            done(args.client.json, answer, &sentence)
        }
        TraceCommand::Delete(args) => {
            let answer = Client::new(&args.client).delete(&path(args), &[])?;
            let sentence = format!("{} is gone", printable(&args.name));
            done(args.client.json, answer, &sentence)
        }
    }
}

fn path(args: &TraceArgs) -> String {
    format!("traces/{}", escaped(&args.name))
}

fn start(args: &TraceStartArgs) -> Result<(), Failure> {
    let subject = [
        ("client", &args.subject.client),
        ("topic", &args.subject.topic),
        ("address", &args.subject.address),
    ];
    let mut query = vec![("payload", args.payload.clone())];
    query.extend(
        subject
            .into_iter()
            .filter_map(|(kind, value)| Some((kind, value.clone()?))),
    );
    query.extend(args.time.map(|ms| ("for_ms", ms.to_string())));
    let client = &args.trace.client;
    let answer = Client::new(client).post(&path(&args.trace), &query, b"")?;
    let name = printable(&args.trace.name);
    let sentence = format!("{name} begins: `longtail trace follow {name}` prints its lines");
    done(client.json, answer, &sentence)
}

fn traces(args: &ClientArgs) -> Result<(), Failure> {
    let items = all(&Client::new(args), "traces", &[])?;
    if args.json {
        return print_lines(&items);
    }
    let now = now_ms();
    let rows: Vec<Vec<String>> = shaped::<Vec<TraceStatus>>(Value::Array(items))?
        .iter()
        .map(|trace| {
            let left = match trace.status.as_str() {
                "stopped" => "-".to_owned(),
                _ => span(trace.end_ms.saturating_sub(now)),
            };
            vec![
                printable(&trace.name),
                printable(&format!("{} {}", trace.kind, trace.value)),
                printable(&trace.status),
                left,
                bytes(trace.bytes),
                trace.lost.to_string(),
            ]
        })
        .collect();
    let head = [
        ("TRACE", Align::Left),
        ("FOLLOWS", Align::Left),
        ("STATUS", Align::Left),
        ("STILL FOR", Align::Left),
        ("SIZE", Align::Right),
        ("LINES LOST", Align::Right),
    ];
    print(&table(&head, &rows))
}

/// Lines from a position on.
fn lines(client: &Client, args: &TraceArgs, from: u64) -> Result<TraceLines, Failure> {
    let query = [("from", from.to_string()), ("max_bytes", LINES.to_owned())];
    shaped(client.get(&format!("{}/lines", path(args)), &query)?)
}

fn follow(args: &TraceArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    let mut from = 0;
    loop {
        let part = lines(&client, args, from)?;
        let is_all = part.text.is_empty();
        write_lines(&mut io::stdout().lock(), &part.text)?;
        from = part.next;
        match (is_all, part.open) {
            (true, false) => return Ok(()),
            (true, true) => sleep(POLL),
            (false, _) => {}
        }
    }
}

/// Each without control characters.
fn write_lines(out: &mut impl io::Write, text: &str) -> Result<(), Failure> {
    for line in text.lines() {
        writeln!(out, "{}", printable(line))?;
    }
    Ok(out.flush()?)
}

fn download(args: &TraceArgs, output: Option<&Path>) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    // Before there is a file: a trace that is not there leaves none.
    let mut part = lines(&client, args, 0)?;
    let mut file = match output {
        None => None,
        Some(path) => {
            let file = fs::File::create(path);
            Some(file.with_context(|| format!("cannot write {}", path.display()))?)
        }
    };
    while !part.text.is_empty() {
        match (&mut file, output) {
            (Some(file), Some(path)) => {
                let written = io::Write::write_all(file, part.text.as_bytes());
                written.with_context(|| format!("cannot write {}", path.display()))?;
            }
            _ => write_lines(&mut io::stdout().lock(), &part.text)?,
        }
        part = lines(&client, args, part.next)?;
    }
    Ok(())
}

pub(crate) fn slow(args: &SlowArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    if args.clear {
        client.delete("slow", &[])?;
    }
    let mut query = Vec::new();
    if args.on || args.off {
        query.push(("enabled", args.on.to_string()));
    }
    let numbers = [
        ("threshold_ms", args.threshold),
        ("expire_ms", args.expire),
        ("top", args.top),
    ];
    for (name, number) in numbers {
        query.extend(number.map(|number| (name, number.to_string())));
    }
    query.extend(args.span.clone().map(|span| ("span", span)));
    let document = if query.is_empty() {
        client.get("slow", &[])?
    } else {
        client.post("slow", &query, b"")?
    };
    if args.client.json {
        return print(&format!("{document}\n"));
    }
    let slow: SlowStatus = shaped(document)?;
    if !slow.enabled {
        return print("nothing is looked for: `longtail slow --on` begins\n");
    }
    let now = now_ms();
    let rows: Vec<Vec<String>> = slow
        .items
        .iter()
        .map(|item| {
            vec![
                printable(&item.session),
                printable(&item.topic),
                format!("{} ms", item.took_ms),
                span(now.saturating_sub(item.at_ms)),
            ]
        })
        .collect();
    let head = [
        ("SESSION", Align::Left),
        ("TOPIC", Align::Left),
        ("TOOK", Align::Right),
        ("AGO", Align::Left),
    ];
    let looked_for = format!(
        "the {} slowest above {} ms ({})\n",
        slow.top, slow.threshold_ms, slow.span
    );
    print(&(looked_for + &table(&head, &rows)))
}

pub(crate) fn topic_metrics(command: &TopicMetricsCommand) -> Result<(), Failure> {
    let path =
        |args: &TopicArgs, rest: &str| format!("topic-metrics/{}{rest}", escaped(&args.topic));
    let (args, answer, what) = match command {
        TopicMetricsCommand::List(args) => return topics(args),
        TopicMetricsCommand::Add(args) => {
            let answer = Client::new(&args.client).post(&path(args, ""), &[], b"")?;
            (args, answer, "is counted from now on")
        }
        TopicMetricsCommand::Remove(args) => {
            let answer = Client::new(&args.client).delete(&path(args, ""), &[])?;
            (args, answer, "is counted no longer")
        }
        TopicMetricsCommand::Reset(args) => {
            let answer = Client::new(&args.client).post(&path(args, "/reset"), &[], b"")?;
            (args, answer, "is counted from nothing again")
        }
    };
    let sentence = format!("{} {what}", printable(&args.topic));
    done(args.client.json, answer, &sentence)
}

fn topics(args: &ClientArgs) -> Result<(), Failure> {
    let items = all(&Client::new(args), "topic-metrics", &[])?;
    if args.json {
        return print_lines(&items);
    }
    let sum = |by_qos: &[u64; 3]| by_qos.iter().sum::<u64>().to_string();
    let rows: Vec<Vec<String>> = shaped::<Vec<TopicStatus>>(Value::Array(items))?
        .iter()
        .map(|topic| {
            vec![
                printable(&topic.topic),
                sum(&topic.received),
                format!("{:.1}", topic.received_rate),
                sum(&topic.sent),
                format!("{:.1}", topic.sent_rate),
                topic.dropped.to_string(),
            ]
        })
        .collect();
    let head = [
        ("TOPIC", Align::Left),
        ("RECEIVED", Align::Right),
        ("/S", Align::Right),
        ("SENT", Align::Right),
        ("/S", Align::Right),
        ("DROPPED", Align::Right),
    ];
    print(&table(&head, &rows))
}
