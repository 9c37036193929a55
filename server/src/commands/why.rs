//! `longtail why`: why messages did not reach a client, or what becomes of those of a topic.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use longtail_admin::shapes::{DropStatus, Drops, SessionStatus, SubscriptionStatus};
use serde_json::{Value, json};

use super::client::{Client, escaped, now_ms, shaped};
use super::inspect::{all, print};
use super::table::{Align, printable, span, table};
use crate::cli::WhyArgs;
use crate::exit_codes::Failure;

/// What a reason means, and what can be done about it.
const REASONS: [(&str, &str); 5] = [
    (
        "outbox_full",
        "it reads too slowly, or its queue is full: mqtt.queue_messages, mqtt.queue_bytes, mqtt.queue_policy",
    ),
    (
        "too_large",
        "larger than the client takes (its maximum packet size), or a topic that MQTT cannot say",
    ),
    (
        "expired",
        "expired before it could be sent: its message expiry interval",
    ),
    (
        "closed",
        "its connection was ending, and it keeps nothing for a client that is away at this QoS",
    ),
    (
        "denied",
        "it may not read this topic: its account, the access list, or a hook",
    ),
];

fn meaning(reason: &str) -> &'static str {
    let found = REASONS.iter().find(|(name, _)| *name == reason);
    found.map_or("", |(_, meaning)| meaning)
}

pub(crate) fn why(args: &WhyArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    match (&args.session, &args.topic) {
        (Some(id), _) => of_session(&client, id, args),
        // The command line asks for one of the two.
        (None, topic) => of_topic(&client, topic.as_deref().unwrap_or_default(), args),
    }
}

fn drops(
    client: &Client,
    (name, value): (&'static str, &str),
    args: &WhyArgs,
) -> Result<Value, Failure> {
    let query = [(name, value.to_owned()), ("limit", args.last.to_string())];
    client.get("drops", &query)
}

fn of_session(client: &Client, id: &str, args: &WhyArgs) -> Result<(), Failure> {
    let session = client.get(&format!("sessions/{}", escaped(id)), &[])?;
    let dropped = drops(client, ("session", id), args)?;
    if args.client.json {
        return print(&format!(
            "{}\n",
            json!({"session": session, "drops": dropped})
        ));
    }
    print(&session_in_words(&shaped(session)?, &shaped(dropped)?))
}

fn session_in_words(session: &SessionStatus, drops: &Drops) -> String {
    let mut out = String::new();
    let peer = session.peer.as_deref().unwrap_or("away");
    let _ = writeln!(out, "{} ({})", printable(&session.id), printable(peer));
    let _ = writeln!(
        out,
        "{} messages wait for it, {} are sent and not acknowledged",
        session.queued, session.in_flight
    );
    if session.connected && session.queued > 0 && session.in_flight > 0 {
        out.push_str("what waits is sent as it acknowledges what was sent: its receive maximum, or mqtt.window\n");
    }
    if session.subscriptions == 0 {
        out.push_str("it has no subscriptions\n");
    }
    if session.dropped.is_empty() {
        out.push_str("nothing was dropped that was for it\n");
    } else {
        let rows: Vec<Vec<String>> = session
            .dropped
            .iter()
            .map(|(reason, count)| {
                vec![
                    count.to_string(),
                    printable(reason),
                    meaning(reason).to_owned(),
                ]
            })
            .collect();
        let head = [
            ("DROPPED", Align::Right),
            ("REASON", Align::Left),
            ("", Align::Left),
        ];
        out.push_str(&table(&head, &rows));
    }
    out + &newest(drops)
}

fn of_topic(client: &Client, topic: &str, args: &WhyArgs) -> Result<(), Failure> {
    let query = [("matches", topic.to_owned())];
    let found = all(client, "subscriptions", &query)?;
    let subscriptions: Vec<SubscriptionStatus> = shaped(Value::Array(found))?;
    let dropped = drops(client, ("topic", topic), args)?;
    // Asked for after the subscriptions: one whose session is not there has ended meanwhile.
    let sessions = shaped::<Vec<SessionStatus>>(Value::Array(all(client, "sessions", &query)?))?
        .into_iter()
        .map(|session| (session.id.clone(), session))
        .collect::<Sessions>();
    if args.client.json {
        let there: Vec<_> = sessions.values().collect();
        let document = json!({
            "subscriptions": subscriptions, "sessions": there, "drops": dropped,
        });
        return print(&format!("{document}\n"));
    }
    print(&topic_in_words(
        topic,
        &subscriptions,
        &sessions,
        &shaped(dropped)?,
    ))
}

/// By id.
type Sessions = BTreeMap<String, SessionStatus>;

fn topic_in_words(
    topic: &str,
    subscriptions: &[SubscriptionStatus],
    sessions: &Sessions,
    drops: &Drops,
) -> String {
    let mut out = String::new();
    if subscriptions.is_empty() {
        let _ = writeln!(out, "no MQTT client is subscribed to {}", printable(topic));
        return out + &newest(drops);
    }
    let rows: Vec<Vec<String>> = subscriptions
        .iter()
        .map(|subscription| {
            let session = sessions.get(&subscription.session);
            let state = match session {
                Some(session) if session.connected => "connected",
                Some(_) => "away",
                None => "gone",
            };
            let dropped: Vec<_> = session
                .iter()
                .flat_map(|session| &session.dropped)
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            vec![
                printable(&subscription.session),
                printable(&subscription.filter),
                subscription.qos.to_string(),
                state.to_owned(),
                session.map_or(0, |session| session.queued).to_string(),
                if dropped.is_empty() {
                    "0".to_owned()
                } else {
                    printable(&dropped.join(", "))
                },
            ]
        })
        .collect();
    let head = [
        ("SESSION", Align::Left),
        ("FILTER", Align::Left),
        ("QOS", Align::Right),
        ("CLIENT", Align::Left),
        ("WAITING", Align::Right),
        ("DROPPED IN ALL", Align::Left),
    ];
    out.push_str(&table(&head, &rows));
    out + &newest(drops)
}

/// The dropped messages, the newest first.
fn newest(drops: &Drops) -> String {
    if drops.items.is_empty() {
        return "none of the last 1000 dropped messages is among them\n".to_owned();
    }
    let now = now_ms();
    let rows: Vec<Vec<String>> = drops.items.iter().map(|item| row(item, now)).collect();
    let head = [
        ("AGO", Align::Left),
        ("CLIENT", Align::Left),
        ("", Align::Left),
        ("TOPIC", Align::Left),
        ("REASON", Align::Left),
    ];
    let mut out = table(&head, &rows);
    if drops.unlisted > 0 {
        let _ = writeln!(
            out,
            "{} more were dropped since the start, at moments when too many were to be listed",
            drops.unlisted
        );
    }
    out
}

fn row(item: &DropStatus, now: u64) -> Vec<String> {
    let what = match item.what.as_str() {
        "publish" => "may not publish",
        _ => "did not get",
    };
    vec![
        span(now.saturating_sub(item.at_ms)),
        printable(&item.session),
        what.to_owned(),
        printable(&item.topic),
        printable(&item.reason),
    ]
}

#[cfg(test)]
mod tests {
    use longtail_broker::ephemeral::DropReason;

    use super::*;

    #[test]
    fn every_reason_is_explained() {
        for reason in DropReason::ALL {
            assert!(!meaning(reason.as_str()).is_empty(), "{}", reason.as_str());
        }
    }

    #[test]
    fn a_topic_that_nobody_is_subscribed_to_is_said() {
        let text = topic_in_words("a/b", &[], &Sessions::new(), &Drops::default());
        assert!(
            text.starts_with("no MQTT client is subscribed to a/b\n"),
            "{text}"
        );
    }

    #[test]
    fn a_client_that_does_not_acknowledge_is_told_from_one_that_loses_messages() {
        let mut session = SessionStatus {
            id: "pump".to_owned(),
            connected: true,
            subscriptions: 1,
            queued: 5,
            in_flight: 20,
            ..SessionStatus::default()
        };
        let text = session_in_words(&session, &Drops::default());
        assert!(text.contains("as it acknowledges"), "{text}");
        assert!(text.contains("nothing was dropped"), "{text}");
        session.dropped.insert("too_large".to_owned(), 3);
        let item = DropStatus {
            what: "delivery".to_owned(),
            session: "pump".to_owned(),
            topic: "a/b".to_owned(),
            reason: "too_large".to_owned(),
            ..DropStatus::default()
        };
        let drops = Drops {
            items: vec![item],
            unlisted: 0,
        };
        let text = session_in_words(&session, &drops);
        assert!(text.contains("maximum packet size"), "{text}");
        assert!(text.contains("did not get"), "{text}");
    }
}
