//! `longtail retained`.

use std::io::{self, Write as _};

use anyhow::Context as _;
use longtail_admin::shapes::{RetainedMessage, RetainedStatus};
use serde_json::Value;

use super::client::{Client, Query, escaped, shaped};
use super::inspect::{all, done, print, print_lines};
use super::table::{Align, bytes, printable, table};
use crate::cli::{RetainedCommand, SubjectArgs};
use crate::exit_codes::Failure;

pub(crate) fn run(command: &RetainedCommand) -> Result<(), Failure> {
    match command {
        RetainedCommand::List { filter, subjects } => list(filter.as_deref(), subjects),
        RetainedCommand::Get { subject, subjects } => get(subject, subjects),
        RetainedCommand::Delete { subject, subjects } => {
            let client = Client::new(&subjects.client);
            let answer = client.delete(&path(subjects, subject), notation(subjects))?;
            let sentence = format!("the message retained for {} is gone", printable(subject));
            done(subjects.client.json, answer, &sentence)
        }
    }
}

fn notation(subjects: &SubjectArgs) -> Query<'static> {
    static SLASHES: std::sync::LazyLock<[(&str, String); 1]> =
        std::sync::LazyLock::new(|| [("notation", "slashes".to_owned())]);
    if subjects.slashes { &*SLASHES } else { &[] }
}

fn path(subjects: &SubjectArgs, subject: &str) -> String {
    format!(
        "spaces/{}/retained/{}",
        escaped(&subjects.space),
        escaped(subject)
    )
}

fn list(filter: Option<&str>, subjects: &SubjectArgs) -> Result<(), Failure> {
    let mut query = notation(subjects).to_vec();
    query.extend(filter.map(|filter| ("filter", filter.to_owned())));
    let path = format!("spaces/{}/retained", escaped(&subjects.space));
    let items = all(&Client::new(&subjects.client), &path, &query)?;
    if subjects.client.json {
        return print_lines(&items);
    }
    let rows: Vec<Vec<String>> = shaped::<Vec<RetainedStatus>>(Value::Array(items))?
        .iter()
        .map(|retained| vec![printable(&retained.subject), bytes(retained.bytes)])
        .collect();
    print(&table(
        &[("SUBJECT", Align::Left), ("SIZE", Align::Right)],
        &rows,
    ))
}

fn get(subject: &str, subjects: &SubjectArgs) -> Result<(), Failure> {
    let client = Client::new(&subjects.client);
    let document = client.get(&path(subjects, subject), notation(subjects))?;
    if subjects.client.json {
        return print(&format!("{document}\n"));
    }
    let message: RetainedMessage = shaped(document)?;
    let bytes = message.body.to_bytes();
    let bytes = bytes.context("the server sent a damaged body")?;
    let mut out = io::stdout().lock();
    out.write_all(&bytes)?;
    Ok(out.write_all(b"\n")?)
}
