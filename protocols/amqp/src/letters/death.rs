//! What is written on a dead letter: its history, `x-death`, and what must not make it die again.
//!
//! `x-death` is an array of tables, the latest first, one for each queue and reason; `x-first-death-*` are written once,
//! `x-last-death-*` each time. All types are those that RabbitMQ writes.

use crate::codec::{ArrayBuf, EncodeError, Properties, Table, TableBuf, Value};

/// Why a message is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    /// As the engine names it.
    pub(super) fn of(engine: &[u8]) -> Option<Self> {
        Some(match engine {
            b"rejected" => Reason::Rejected,
            b"expired" => Reason::Expired,
            b"limit" => Reason::MaxLength,
            b"max-deliveries" => Reason::DeliveryLimit,
            _ => return None,
        })
    }

    /// All, by number, as they are counted.
    pub(crate) const ALL: [Reason; 4] = [
        Reason::Rejected,
        Reason::Expired,
        Reason::MaxLength,
        Reason::DeliveryLimit,
    ];

    /// As RabbitMQ names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// How a message came to be a dead letter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death<'a> {
    /// The queue that it leaves.
    pub(super) queue: &'a str,
    pub(super) reason: Reason,
    /// Seconds since 1970.
    pub(super) time_s: u64,
    /// Where it was published to.
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    /// The key that it goes on with; `None`: its own.
    pub(super) new_key: Option<&'a str>,
}

/// A message on its way to a dead-letter exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    /// Flags and values.
    pub(super) properties: Vec<u8>,
    /// The first is its routing key, the others were in its CC header.
    pub(super) keys: Vec<String>,
}

/// The headers that count deaths.
const DEATHS: &str = "x-death";

/// Writes the history of a message.
///
/// # Errors
/// When it has no form on the wire any more.
pub(super) fn write(properties: &Properties<'_>, death: &Death<'_>) -> Result<Letter, EncodeError> {
    let headers = properties.headers.unwrap_or_default();
    let mut own = vec![death.key.to_owned()];
    if let Some(Value::Array(copies)) = headers.get("CC") {
        own.extend(
            copies
                .iter()
                .filter_map(|key| Some(key.as_str()?.to_owned())),
        );
    }
    let mut written = TableBuf::default();
    for (key, value) in headers.iter() {
        let again = key == DEATHS
            || key.starts_with("x-last-death-")
            || (key == "CC" && death.new_key.is_some());
        if !again {
            written.put(key, value)?;
        }
    }
    let deaths = deaths(&headers, properties, death, &own)?;
    written.put(DEATHS, Value::Array(deaths.as_array()))?;
    for (what, text) in [
        ("reason", death.reason.name()),
        ("queue", death.queue),
        ("exchange", death.exchange),
    ] {
        let text = Value::LongString(text.as_bytes());
        let first = format!("x-first-death-{what}");
        if headers.get(&first).is_none() {
            written.put(&first, text)?;
        }
        written.put(&format!("x-last-death-{what}"), text)?;
    }
    let letter = Properties {
        headers: Some(written.as_table()),
        // It would only expire again.
        expiration: None,
        ..*properties
    };
    let mut octets = Vec::new();
    letter.encode(&mut octets)?;
    Ok(Letter {
        properties: octets,
        keys: match death.new_key {
            Some(key) => vec![key.to_owned()],
            None => own,
        },
    })
}

fn deaths(
    headers: &Table<'_>,
    properties: &Properties<'_>,
    death: &Death<'_>,
    keys: &[String],
) -> Result<ArrayBuf, EncodeError> {
    let before: Vec<Table<'_>> = entries(headers).collect();
    let is_same = |entry: &Table<'_>| {
        text(entry, "queue") == Some(death.queue)
            && text(entry, "reason") == Some(death.reason.name())
    };
    let known = before.iter().find(|entry| is_same(entry));
    let mut entry = TableBuf::default();
    if let Some(known) = known {
        let count = known.get("count").and_then(|count| count.as_i64());
        entry.put("count", Value::I64(count.unwrap_or(0).saturating_add(1)))?;
        for (key, value) in known.iter().filter(|(key, _)| *key != "count") {
            entry.put(key, value)?;
        }
    } else {
        let mut own = ArrayBuf::default();
        for key in keys {
            own.push(Value::LongString(key.as_bytes()))?;
        }
        let text = |text: &'static str| Value::LongString(text.as_bytes());
        entry.put("count", Value::I64(1))?;
        entry.put("reason", text(death.reason.name()))?;
        entry.put("queue", Value::LongString(death.queue.as_bytes()))?;
        entry.put("time", Value::Timestamp(death.time_s))?;
        entry.put("exchange", Value::LongString(death.exchange.as_bytes()))?;
        entry.put("routing-keys", Value::Array(own.as_array()))?;
        if let Some(expiration) = properties.expiration {
            entry.put(
                "original-expiration",
                Value::LongString(expiration.as_bytes()),
            )?;
        }
    }
    let mut all = ArrayBuf::default();
    all.push(Value::Table(entry.as_table()))?;
    for other in before.iter().filter(|entry| !is_same(entry)) {
        all.push(Value::Table(*other))?;
    }
    Ok(all)
}

fn entries<'a>(headers: &Table<'a>) -> impl Iterator<Item = Table<'a>> + use<'a> {
    let deaths = match headers.get(DEATHS) {
        Some(Value::Array(deaths)) => Some(deaths),
        _ => None,
    };
    let values = deaths.into_iter().flat_map(|deaths| deaths.iter());
    values.filter_map(|value| match value {
        Value::Table(entry) => Some(entry),
        _ => None,
    })
}

fn text<'a>(entry: &Table<'a>, key: &str) -> Option<&'a str> {
    entry.get(key)?.as_str()
}

/// Whether a letter that goes to a queue would go round for ever: it was there, and nobody has rejected it since.
pub(super) fn is_circle(properties: &Properties<'_>, queue: &str) -> bool {
    let mut rejected = false;
    for entry in entries(&properties.headers.unwrap_or_default()) {
        rejected |= text(&entry, "reason") == Some(Reason::Rejected.name());
        if text(&entry, "queue") == Some(queue) {
            return !rejected;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death<'a>(queue: &'a str, reason: Reason) -> Death<'a> {
        Death {
            queue,
            reason,
            time_s: 77,
            exchange: "x",
            key: "k",
            new_key: None,
        }
    }

    fn again(letter: &Letter, death: &Death<'_>) -> Letter {
        write(&Properties::decode(&letter.properties).unwrap(), death).unwrap()
    }

    fn history(letter: &Letter) -> Vec<(String, String, i64)> {
        let properties = Properties::decode(&letter.properties).unwrap();
        entries(&properties.headers.unwrap())
            .map(|entry| {
                let text = |key| text(&entry, key).unwrap().to_owned();
                let Some(Value::I64(count)) = entry.get("count") else {
                    panic!("a count is an int64")
                };
                (text("queue"), text("reason"), count)
            })
            .collect()
    }

    #[test]
    fn the_first_death_says_everything_and_takes_the_expiration_away() {
        let mut copies = ArrayBuf::default();
        copies.push(Value::LongString(b"c")).unwrap();
        let mut headers = TableBuf::default();
        headers.put("CC", Value::Array(copies.as_array())).unwrap();
        headers.put("n", Value::I32(5)).unwrap();
        let properties = Properties {
            headers: Some(headers.as_table()),
            expiration: Some("60"),
            priority: Some(3),
            ..Properties::default()
        };
        let letter = write(&properties, &death("q", Reason::Expired)).unwrap();
        assert_eq!(letter.keys, ["k", "c"]);
        let back = Properties::decode(&letter.properties).unwrap();
        assert_eq!((back.expiration, back.priority), (None, Some(3)));
        let headers = back.headers.unwrap();
        assert_eq!(headers.get("n"), Some(Value::I32(5)));
        for (key, value) in [
            ("x-first-death-reason", "expired"),
            ("x-first-death-queue", "q"),
            ("x-first-death-exchange", "x"),
            ("x-last-death-reason", "expired"),
        ] {
            assert_eq!(text(&headers, key), Some(value), "{key}");
        }
        let entry = entries(&headers).next().unwrap();
        let keys: Vec<&str> = entry.iter().map(|(key, _)| key).collect();
        let expected = [
            "count",
            "reason",
            "queue",
            "time",
            "exchange",
            "routing-keys",
            "original-expiration",
        ];
        assert_eq!(keys, expected);
        assert_eq!(entry.get("time"), Some(Value::Timestamp(77)));
        assert_eq!(text(&entry, "original-expiration"), Some("60"));
        let Some(Value::Array(keys)) = entry.get("routing-keys") else {
            panic!("no routing keys")
        };
        let keys: Vec<_> = keys
            .iter()
            .filter_map(|key| key.as_str().map(str::to_owned))
            .collect();
        assert_eq!(keys, ["k", "c"]);
    }

    #[test]
    fn each_queue_and_reason_has_one_entry_and_the_latest_is_first() {
        let first = write(&Properties::default(), &death("a", Reason::Rejected)).unwrap();
        let second = again(&first, &death("b", Reason::Expired));
        let later = Death {
            time_s: 99,
            ..death("a", Reason::Rejected)
        };
        let third = again(&second, &later);
        let of = |queue: &str, reason: &str, count| (queue.to_owned(), reason.to_owned(), count);
        assert_eq!(
            history(&third),
            [of("a", "rejected", 2), of("b", "expired", 1)]
        );
        let headers = Properties::decode(&third.properties)
            .unwrap()
            .headers
            .unwrap();
        let time = entries(&headers).next().unwrap().get("time");
        assert_eq!(time, Some(Value::Timestamp(77)), "of the first");
        assert_eq!(text(&headers, "x-first-death-queue"), Some("a"));
        assert_eq!(text(&headers, "x-last-death-queue"), Some("a"));
        let keys: Vec<&str> = headers.iter().map(|(key, _)| key).collect();
        let once = keys
            .iter()
            .filter(|key| **key == "x-last-death-queue")
            .count();
        assert_eq!(once, 1);
    }

    #[test]
    fn a_new_key_takes_the_copies_away() {
        let mut copies = ArrayBuf::default();
        copies.push(Value::LongString(b"c")).unwrap();
        let mut headers = TableBuf::default();
        headers.put("CC", Value::Array(copies.as_array())).unwrap();
        let properties = Properties {
            headers: Some(headers.as_table()),
            ..Properties::default()
        };
        let death = Death {
            new_key: Some("new"),
            ..death("q", Reason::MaxLength)
        };
        let letter = write(&properties, &death).unwrap();
        assert_eq!(letter.keys, ["new"]);
        let back = Properties::decode(&letter.properties).unwrap();
        assert!(back.headers.unwrap().get("CC").is_none());
    }

    #[test]
    fn circles_end_unless_a_consumer_has_rejected_on_the_way() {
        let first = write(&Properties::default(), &death("a", Reason::Expired)).unwrap();
        let circle = |letter: &Letter, queue| {
            is_circle(&Properties::decode(&letter.properties).unwrap(), queue)
        };
        assert!(circle(&first, "a"));
        assert!(!circle(&first, "b"));
        let second = again(&first, &death("b", Reason::MaxLength));
        assert!(circle(&second, "a"));
        let rejected = again(&second, &death("c", Reason::Rejected));
        assert!(!circle(&rejected, "a"));
        assert!(!circle(&rejected, "c"));
        // What was rejected before the circle began does not help it.
        let back = again(&rejected, &death("a", Reason::Expired));
        assert!(circle(&back, "a"));
    }
}
