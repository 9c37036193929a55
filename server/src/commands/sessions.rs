//! `longtail sessions` and `subscriptions`.

use longtail_admin::shapes::{SessionStatus, SubscriptionStatus};
use serde_json::Value;

use super::client::{Client, escaped, now_ms, shaped};
use super::inspect::{all, print, print_lines};
use super::table::{Align, bytes, printable, span, table};
use crate::cli::{SessionsArgs, SubscriptionsArgs};
use crate::exit_codes::Failure;

pub(crate) fn sessions(args: &SessionsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    if let Some(id) = &args.id {
        let document = client.get(&format!("sessions/{}", escaped(id)), &[])?;
        if args.client.json {
            return print(&format!("{document}\n"));
        }
        return print(&in_full(&shaped(document)?));
    }
    let mut query = Vec::new();
    query.extend(args.contains.clone().map(|text| ("contains", text)));
    if args.connected || args.away {
        query.push(("connected", args.connected.to_string()));
    }
    let items = all(&client, "sessions", &query)?;
    if args.client.json {
        return print_lines(&items);
    }
    let rows: Vec<Vec<String>> = shaped::<Vec<SessionStatus>>(Value::Array(items))?
        .iter()
        .map(|session| {
            vec![
                printable(&session.id),
                protocol(session),
                printable(session.account.as_deref().unwrap_or("-")),
                printable(session.peer.as_deref().unwrap_or("(away)")),
                session.subscriptions.to_string(),
                session.queued.to_string(),
                session.in_flight.to_string(),
                session.dropped.values().sum::<u64>().to_string(),
            ]
        })
        .collect();
    let head = [
        ("SESSION", Align::Left),
        ("PROTOCOL", Align::Left),
        ("ACCOUNT", Align::Left),
        ("PEER", Align::Left),
        ("SUBSCRIPTIONS", Align::Right),
        ("QUEUED", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("DROPPED", Align::Right),
    ];
    print(&table(&head, &rows))
}

fn protocol(session: &SessionStatus) -> String {
    let version = session.version.as_deref().unwrap_or_default();
    printable(format!("{} {version}", session.protocol).trim_end())
}

fn in_full(session: &SessionStatus) -> String {
    let absent = || "-".to_owned();
    let number = |number: Option<u64>| number.map_or_else(absent, |number| number.to_string());
    let dropped: Vec<_> = session
        .dropped
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let outlives = match (session.connected, session.expiry_s) {
        (true, Some(seconds)) => format!("its connection by {seconds} s"),
        (true, None) => "its connection for ever".to_owned(),
        (false, _) => session.expires_ms.map_or_else(
            || "for ever".to_owned(),
            |at| span(at.saturating_sub(now_ms())),
        ),
    };
    [
        ("session", printable(&session.id)),
        ("protocol", protocol(session)),
        ("space", printable(&session.space)),
        (
            "account",
            printable(session.account.as_deref().unwrap_or("-")),
        ),
        (
            "peer",
            printable(session.peer.as_deref().unwrap_or("(away)")),
        ),
        ("connection", number(session.connection)),
        ("keep alive", number(session.keep_alive_s)),
        ("lives on", outlives),
        ("subscriptions", session.subscriptions.to_string()),
        (
            "queued",
            format!("{} ({})", session.queued, bytes(session.queued_bytes)),
        ),
        ("in flight", session.in_flight.to_string()),
        (
            "dropped",
            if dropped.is_empty() {
                "0".to_owned()
            } else {
                printable(&dropped.join(", "))
            },
        ),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<14} {value}\n"))
    .collect()
}

pub(crate) fn subscriptions(args: &SubscriptionsArgs) -> Result<(), Failure> {
    let mut query = Vec::new();
    query.extend(args.session.clone().map(|id| ("session", id)));
    query.extend(args.contains.clone().map(|text| ("contains", text)));
    let items = all(&Client::new(&args.client), "subscriptions", &query)?;
    if args.client.json {
        return print_lines(&items);
    }
    let rows: Vec<Vec<String>> = shaped::<Vec<SubscriptionStatus>>(Value::Array(items))?
        .iter()
        .map(|subscription| {
            vec![
                printable(&subscription.session),
                printable(&subscription.filter),
                subscription.qos.to_string(),
                if subscription.no_local { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    let head = [
        ("SESSION", Align::Left),
        ("FILTER", Align::Left),
        ("QOS", Align::Right),
        ("NO LOCAL", Align::Left),
    ];
    print(&table(&head, &rows))
}
