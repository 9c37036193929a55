//! `longtail bans`, `ban` and `unban`.

use longtail_admin::shapes::BanStatus;
use serde_json::Value;

use super::client::{Client, escaped, now_ms, shaped};
use super::inspect::{all, done, print, print_lines};
use super::table::{Align, printable, span, table};
use crate::cli::{BanArgs, BannedArgs, ClientArgs, UnbanArgs};
use crate::exit_codes::Failure;

pub(crate) fn list(args: &ClientArgs) -> Result<(), Failure> {
    let items = all(&Client::new(args), "bans", &[])?;
    if args.json {
        return print_lines(&items);
    }
    let now = now_ms();
    let rows: Vec<Vec<String>> = shaped::<Vec<BanStatus>>(Value::Array(items))?
        .iter()
        .map(|ban| {
            let left = |until: u64| span(until.saturating_sub(now));
            vec![
                printable(&ban.kind),
                printable(&ban.value),
                ban.until_ms.map_or_else(|| "for ever".to_owned(), left),
                printable(&ban.reason),
            ]
        })
        .collect();
    let head = [
        ("KIND", Align::Left),
        ("WHO", Align::Left),
        ("STILL FOR", Align::Left),
        ("REASON", Align::Left),
    ];
    print(&table(&head, &rows))
}

/// Kind and value.
fn named(who: &BannedArgs) -> (&'static str, &str) {
    match (&who.client, &who.user, &who.address) {
        (Some(client), _, _) => ("client", client),
        (_, Some(user), _) => ("user", user),
        // The command line asks for one of the three.
        (_, _, address) => ("address", address.as_deref().unwrap_or_default()),
    }
}

pub(crate) fn ban(args: &BanArgs) -> Result<(), Failure> {
    let (kind, value) = named(&args.who);
    let mut query = vec![("reason", args.reason.clone())];
    query.extend(args.time.map(|ms| ("for_ms", ms.to_string())));
    let path = format!("bans/{kind}/{}", escaped(value));
    let answer = Client::new(&args.server).post(&path, &query, b"")?;
    let time = args
        .time
        .map_or_else(String::new, |ms| format!(" for {}", span(ms)));
    let sentence = format!("{kind} {} kept out{time}", printable(value));
    done(args.server.json, answer, &sentence)
}

pub(crate) fn unban(args: &UnbanArgs) -> Result<(), Failure> {
    let (kind, value) = named(&args.who);
    let path = format!("bans/{kind}/{}", escaped(value));
    let answer = Client::new(&args.server).delete(&path, &[])?;
    let sentence = format!("{kind} {} may come again", printable(value));
    done(args.server.json, answer, &sentence)
}
