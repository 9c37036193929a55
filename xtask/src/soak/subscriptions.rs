//! Wildcard subscriptions by the hundred thousand, overlapping: what one takes, and what a publish has to pay for all
//! of them.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::client;
use super::room::Room;
use crate::mqtt::Connection;

/// Filters in one SUBSCRIBE.
const AT_ONCE: usize = 10;

/// Messages of one measurement of the cost of a match.
const MATCHED: u64 = 20_000;

pub(crate) fn run(room: &mut Room) -> Result<()> {
    room.phase("alone", |_| Ok(()))?;
    let (sessions, each) = (room.sizes.subscribers, room.sizes.filters_each);
    let count = sessions * each;
    let address = room.address();
    let bare = match_cost(room, "without subscriptions")?;
    let mut subscribers: Vec<Connection> = (0..sessions)
        .map(|session| client::connect(address, &format!("wild-{session}"), true, 0))
        .collect::<Result<_>>()?;
    let before = room.resident()?;
    let (begin, cpu) = (Instant::now(), room.cpu()?);
    room.phase("subscribing", |_| {
        for (session, connection) in (0..).zip(&mut subscribers) {
            let filters: Vec<String> = (0..each).map(|number| filter(session, number)).collect();
            for some in filters.chunks(AT_ONCE) {
                let some: Vec<&str> = some.iter().map(String::as_str).collect();
                client::subscribe(connection, &some, 0)?;
            }
        }
        Ok(begin.elapsed())
    })
    .map(|took| {
        let rate = count as f64 / took.as_secs_f64();
        room.fact("subscribed at", rate, "filters/s");
    })?;
    let used = room.cpu()?.saturating_sub(cpu);
    room.fact(
        "processor time",
        used.as_secs_f64() / count as f64 * 1e6,
        "us each",
    );
    let grown = room.resident()?.saturating_sub(before);
    room.fact("resident", grown as f64 / count as f64, "bytes each");
    let full = match_cost(room, "with all of them")?;
    room.fact("a match costs", full / bare, "times as much");
    room.phase("with all of them", |_| Ok(()))?;
    delivered(room, &mut subscribers)?;
    let before = room.resident()?;
    drop(subscribers);
    let begin = Instant::now();
    let mut probe = client::connect(address, "afterwards", true, 0)?;
    client::ping(&mut probe)?;
    room.phase("after they have gone", |_| Ok(()))?;
    room.fact(
        "given back",
        (before.saturating_sub(room.resident()?)) as f64 / count as f64,
        "bytes each",
    );
    room.fact("gone after", begin.elapsed().as_secs_f64(), "s at most");
    Ok(())
}

/// The filters of a session; what they match is disjoint from `none/...` and overlaps with that of others.
fn filter(session: u64, number: u64) -> String {
    let (group, line) = (session % 50, number);
    match number % 4 {
        0 => format!("+/g{group}/l{line}/#"),
        1 => format!("plant/+/l{line}/s{session}/+"),
        2 => format!("+/g{group}/+/s{session}/l{line}/#"),
        _ => format!("plant/g{group}/+/l{line}/s{session}/#"),
    }
}

/// Processor time of a publish that nobody wants, to so many topics that no cache knows the answer; microseconds.
fn match_cost(room: &mut Room, name: &str) -> Result<f64> {
    let mut publisher = client::connect(room.address(), "matched", true, 0)?;
    let mut cost = f64::MAX;
    // The least of three: what else the server does meanwhile is not the match's.
    for round in 0..3 {
        let cpu = room.cpu()?;
        let mut bytes = Vec::new();
        for number in 0..MATCHED {
            let topic = format!(
                "plant/g{}/l{}/none/{round}-{number}",
                number % 60,
                number % 120 + 1000
            );
            bytes.extend(client::message(&topic, b"x", 0, 0, false));
            if bytes.len() > 16_000 || number + 1 == MATCHED {
                publisher.send(&bytes)?;
                bytes.clear();
            }
        }
        client::ping(&mut publisher)?;
        let used = room.cpu()?.saturating_sub(cpu);
        cost = cost.min(used.as_secs_f64() / MATCHED as f64 * 1e6);
    }
    room.fact(format!("a publish that nobody wants, {name}"), cost, "us");
    Ok(cost)
}

/// One message reaches exactly those whose filters say so.
fn delivered(room: &mut Room, subscribers: &mut [Connection]) -> Result<()> {
    let mut publisher = client::connect(room.address(), "one", true, 0)?;
    let topic = "plant/g7/l4/s7/x";
    client::publish_all(&mut publisher, 1, 1, false, |_| (topic.to_owned(), vec![1]))?;
    let each = room.sizes.filters_each;
    let mut copies = 0;
    for (session, connection) in (0_u64..).zip(subscribers) {
        let filters = (0..each).map(|number| filter(session, number));
        let expected = filters.filter(|filter| matches(filter, topic)).count() as u64;
        let got = client::ping(connection)?;
        ensure!(
            got == expected,
            "session {session} got {got} copies of {expected}"
        );
        copies += got;
    }
    room.require(copies > 0, || "nobody wanted the message".to_owned());
    room.fact("copies of one message", copies as f64, "");
    Ok(())
}

/// Whether an MQTT filter matches, the plain way.
fn matches(filter: &str, topic: &str) -> bool {
    let mut topic = topic.split('/');
    for part in filter.split('/') {
        match (part, topic.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn the_plain_match_follows_the_specification() {
        assert!(matches("a/#", "a") && matches("a/+/c", "a/b/c") && matches("+/b", "/b"));
        assert!(!matches("a/+", "a") && !matches("a/b", "a/b/c") && !matches("a/b/c", "a/b"));
    }
}
