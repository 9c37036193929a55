//! `longtail status`, `streams`, `groups` and `connections`: looking, in tables or JSON.

use std::io::{self, Write};

use longtail_admin::shapes::{ConnectionStatus, GroupStatus, Listing, Status, StreamStatus};
use serde_json::{Value, json};

use super::client::{Client, shaped, stream_path};
use super::table::{Align, bytes, printable, span, table};
use crate::cli::{ClientArgs, StreamArgs};
use crate::exit_codes::Failure;

/// Entries asked for at a time.
const PAGE: &str = "1000";

pub(crate) fn status(args: &ClientArgs) -> Result<(), Failure> {
    let document = Client::new(args).get("status", &[])?;
    if args.json {
        return print(&format!("{document}\n"));
    }
    print(&overview(&shaped(document)?))
}

fn overview(status: &Status) -> String {
    let mut rows = vec![
        row("version", &status.version),
        row("up", &span(status.uptime_ms)),
        row(
            "ready",
            &if status.health.ready {
                "yes".to_owned()
            } else {
                status.health.reasons.join("; ")
            },
        ),
    ];
    for listener in &status.listeners {
        let tls = if listener.tls { " (TLS)" } else { "" };
        rows.push(row(
            &listener.protocol,
            &format!("{}{tls}", listener.address),
        ));
    }
    let totals = &status.totals;
    rows.extend([
        row("data", &status.data),
        row("durability", &status.durability),
        row("streams", &status.streams.to_string()),
        row("connections", &status.connections.to_string()),
        row(
            "messages",
            &format!(
                "{} ({}): {} ready, {} held, {} delayed, {} parked",
                totals.messages,
                bytes(totals.bytes),
                totals.ready,
                totals.held,
                totals.delayed,
                totals.parked
            ),
        ),
    ]);
    if let Some(resident) = status.resident_bytes {
        rows.push(row("memory", &bytes(resident)));
    }
    for shard in &status.shards {
        if let Some(trouble) = &shard.trouble {
            rows.push(row(&format!("shard {}", shard.shard), &printable(trouble)));
        }
    }
    rows.iter()
        .map(|[name, value]| format!("{name:<12} {value}\n"))
        .collect()
}

fn row(name: &str, value: &str) -> [String; 2] {
    [printable(name), printable(value)]
}

pub(crate) fn streams(space: Option<&str>, args: &ClientArgs) -> Result<(), Failure> {
    let query: Vec<(&str, String)> = space
        .map(|space| ("space", space.to_owned()))
        .into_iter()
        .collect();
    let items = all(&Client::new(args), "streams", &query)?;
    if args.json {
        return print_lines(&items);
    }
    let rows: Vec<Vec<String>> = shaped::<Vec<StreamStatus>>(Value::Array(items))?
        .iter()
        .map(|stream| {
            let counts = &stream.counts;
            let paused = if stream.pause_left_ms > 0 {
                span(stream.pause_left_ms)
            } else {
                String::new()
            };
            vec![
                printable(&stream.space),
                printable(&stream.name),
                counts.ready.to_string(),
                counts.held.to_string(),
                counts.delayed.to_string(),
                counts.parked.to_string(),
                bytes(counts.bytes),
                counts.appended_total.to_string(),
                counts.consumers.to_string(),
                paused,
            ]
        })
        .collect();
    let head = [
        ("SPACE", Align::Left),
        ("STREAM", Align::Left),
        ("READY", Align::Right),
        ("HELD", Align::Right),
        ("DELAYED", Align::Right),
        ("PARKED", Align::Right),
        ("SIZE", Align::Right),
        ("APPENDED", Align::Right),
        ("CONSUMERS", Align::Right),
        ("PAUSED", Align::Right),
    ];
    print(&table(&head, &rows))
}

pub(crate) fn groups(args: &StreamArgs) -> Result<(), Failure> {
    let path = stream_path(&args.space, &args.stream, "/groups");
    let listing: Listing<Value> = shaped(Client::new(&args.client).get(&path, &[])?)?;
    if args.client.json {
        return print_lines(&listing.items);
    }
    let rows: Vec<Vec<String>> = shaped::<Vec<GroupStatus>>(Value::Array(listing.items))?
        .iter()
        .map(|group| {
            let name = if group.name.is_empty() {
                "(default)".to_owned()
            } else {
                printable(&group.name)
            };
            let counts = [
                group.ready,
                group.held,
                group.delayed,
                group.parked,
                group.consumers,
                group.waiting,
            ];
            std::iter::once(name)
                .chain(counts.iter().map(ToString::to_string))
                .collect()
        })
        .collect();
    let head = [
        ("GROUP", Align::Left),
        ("READY", Align::Right),
        ("HELD", Align::Right),
        ("DELAYED", Align::Right),
        ("PARKED", Align::Right),
        ("CONSUMERS", Align::Right),
        ("WAITING", Align::Right),
    ];
    print(&table(&head, &rows))
}

pub(crate) fn connections(args: &ClientArgs) -> Result<(), Failure> {
    let items = all(&Client::new(args), "connections", &[])?;
    if args.json {
        return print_lines(&items);
    }
    let rows: Vec<Vec<String>> = shaped::<Vec<ConnectionStatus>>(Value::Array(items))?
        .iter()
        .map(|connection| {
            vec![
                connection.id.to_string(),
                printable(&connection.protocol),
                printable(&connection.peer),
                printable(connection.account.as_deref().unwrap_or("-")),
                span(connection.age_ms),
                bytes(connection.received_bytes),
                bytes(connection.sent_bytes),
            ]
        })
        .collect();
    let head = [
        ("ID", Align::Right),
        ("PROTOCOL", Align::Left),
        ("PEER", Align::Left),
        ("ACCOUNT", Align::Left),
        ("AGE", Align::Right),
        ("RECEIVED", Align::Right),
        ("SENT", Align::Right),
    ];
    print(&table(&head, &rows))
}

/// All pages of a listing.
pub(super) fn all(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
) -> Result<Vec<Value>, Failure> {
    let mut items = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = query.to_vec();
        query.push(("limit", PAGE.to_owned()));
        query.extend(after.take().map(|after| ("after", after)));
        let page: Listing<Value> = shaped(client.get(path, &query)?)?;
        items.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(items),
        }
    }
}

/// One document a line, whatever the number of pages.
pub(super) fn print_lines(items: &[Value]) -> Result<(), Failure> {
    print(
        &items
            .iter()
            .map(|item| format!("{item}\n"))
            .collect::<String>(),
    )
}

pub(super) fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Prints the outcome of a command that changed something.
pub(super) fn done(json: bool, document: Value, sentence: &str) -> Result<(), Failure> {
    if json {
        let document = if document.is_null() {
            json!({})
        } else {
            document
        };
        print(&format!("{document}\n"))
    } else {
        print(&format!("{sentence}\n"))
    }
}
