//! Log events in words, for whoever looks at a log without running its shard.

use std::fmt;

use longtail_model::Timestamp;

use crate::definition;
use crate::effect::Counts;
use crate::event::{Event, Malformed};

/// Bytes of a body that are shown.
const SHOWN_MAX: usize = 48;

/// A value of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// Text; control characters are escaped.
    Text(String),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Number(number) => number.fmt(f),
            Field::Text(text) => f.write_str(text),
        }
    }
}

/// One event in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// What happened.
    pub kind: &'static str,
    /// To what, in a fixed order for each kind.
    pub fields: Vec<(&'static str, Field)>,
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        for (name, value) in &self.fields {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

impl Described {
    fn new(kind: &'static str) -> Self {
        Described {
            kind,
            fields: Vec::new(),
        }
    }

    fn number(mut self, name: &'static str, value: u64) -> Self {
        self.fields.push((name, Field::Number(value)));
        self
    }

    /// A number that says nothing when it is 0.
    fn if_some(self, name: &'static str, value: u64) -> Self {
        if value == 0 {
            self
        } else {
            self.number(name, value)
        }
    }

    fn text(mut self, name: &'static str, value: &[u8]) -> Self {
        self.fields.push((name, Field::Text(printable(value))));
        self
    }

    fn counts(self, counts: &Counts) -> Self {
        self.if_some("deliveries", counts.deliveries.into())
            .if_some("timeouts", counts.timeouts.into())
            .if_some("releases", counts.releases.into())
            .if_some("parks", counts.parks.into())
            .if_some("kicks", counts.kicks.into())
            .if_some("failures", counts.failures.into())
    }
}

/// The beginning of `bytes` with everything escaped that is not printable ASCII.
fn printable(bytes: &[u8]) -> String {
    let shown = bytes.get(..SHOWN_MAX).unwrap_or(bytes);
    let ends = if shown.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{ends}\"", shown.escape_ascii())
}

/// Says what the event in a record's payload is.
///
/// # Errors
/// [`Malformed`] when it is none that this version knows.
pub fn describe_event(payload: &[u8]) -> Result<Described, Malformed> {
    Ok(match Event::decode(payload)? {
        Event::Append { targets, message } => {
            let mut event = Described::new("append");
            for (stream, seq) in targets {
                event = event.number("stream", stream.0).number("seq", seq.0);
            }
            let expires = match message.expires {
                Timestamp::NEVER => 0,
                at => at.0,
            };
            event = event
                .number("created_ms", message.created.0)
                .number("priority", message.priority.0.into())
                .if_some("delay_ms", message.delay_ms)
                .if_some("ack_timeout_ms", message.ack_timeout_ms)
                .if_some("expires_ms", expires);
            if !message.subject.is_empty() {
                event = event.text("subject", message.subject);
            }
            if !message.id.is_empty() {
                event = event.text("id", message.id);
            }
            event
                .if_some("key", message.key)
                .if_some("header_bytes", message.headers.len() as u64)
                .number("bytes", message.payload.len() as u64)
                .text("body", message.payload)
        }
        Event::Settled { group, seq, bytes } => Described::new("settled")
            .number("group", group.0)
            .number("seq", seq.0)
            .number("bytes", bytes),
        Event::Removed { stream, seq, bytes } => Described::new("removed")
            .number("stream", stream.0)
            .number("seq", seq.0)
            .number("bytes", bytes),
        Event::Trimmed {
            stream,
            below,
            count,
            bytes,
            except,
        } => Described::new("trimmed")
            .number("stream", stream.0)
            .number("below", below.0)
            .number("messages", count)
            .number("bytes", bytes)
            .if_some("excepted", except.count() as u64),
        Event::GroupTrimmed {
            group,
            below,
            except,
        } => Described::new("group_trimmed")
            .number("group", group.0)
            .number("below", below.0)
            .if_some("excepted", except.count() as u64),
        Event::Returned {
            group,
            seq,
            priority,
            due,
            delay_ms,
            counts,
        } => Described::new("returned")
            .number("group", group.0)
            .number("seq", seq.0)
            .number("priority", priority.0.into())
            .if_some("due_ms", due.map_or(0, |due| due.0))
            .if_some("delay_ms", delay_ms)
            .counts(&counts),
        Event::Parked {
            group,
            seq,
            priority,
            counts,
        } => Described::new("parked")
            .number("group", group.0)
            .number("seq", seq.0)
            .number("priority", priority.0.into())
            .counts(&counts),
        Event::Taken {
            group,
            seq,
            deliveries,
        } => Described::new("taken")
            .number("group", group.0)
            .number("seq", seq.0)
            .number("deliveries", deliveries.into()),
        Event::Marked { group, seq, mark } => Described::new("marked")
            .number("group", group.0)
            .number("seq", seq.0)
            .number("mark", mark),
        Event::StreamDefined {
            stream,
            index,
            definition: mut encoded,
        } => {
            let (name, config) = definition::get_stream(&mut encoded)?;
            let mut event = Described::new("stream_defined")
                .number("stream", stream.0)
                .number("index", index.0)
                .text("space", name.space.as_bytes())
                .text("name", name.name.as_bytes());
            if let Some(durability) = config.durability {
                event = event.text("durability", durability.to_string().as_bytes());
            }
            event
        }
        Event::StreamChanged {
            stream,
            definition: mut encoded,
        } => {
            let (name, _) = definition::get_stream(&mut encoded)?;
            Described::new("stream_changed")
                .number("stream", stream.0)
                .text("space", name.space.as_bytes())
                .text("name", name.name.as_bytes())
        }
        Event::StreamDeleted { stream } => {
            Described::new("stream_deleted").number("stream", stream.0)
        }
        Event::GroupDefined {
            stream,
            group,
            start,
            definition: mut encoded,
        } => {
            let (name, _) = definition::get_named_group(&mut encoded)?;
            Described::new("group_defined")
                .number("stream", stream.0)
                .number("group", group.0)
                .text("name", name.as_bytes())
                .number("start", start.0)
        }
        Event::GroupDeleted { group } => Described::new("group_deleted").number("group", group.0),
        Event::Paused {
            stream,
            group,
            end,
            length_ms,
        } => {
            let event = Described::new("paused")
                .number("stream", stream.0)
                .if_some("group", group.0);
            match end {
                None => event.number("ended", 1),
                Some(Timestamp::NEVER) => event,
                Some(end) => event
                    .number("until_ms", end.0)
                    .number("length_ms", length_ms),
            }
        }
        Event::Skipped { stream, seq } => Described::new("skipped")
            .number("stream", stream.0)
            .number("seq", seq.0),
        Event::Document { name, body } => {
            let event = Described::new("document").text("name", name.as_bytes());
            match body {
                Some(body) => event.number("bytes", body.len() as u64),
                None => event.number("removed", 1),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use longtail_model::{GroupId, Priority, Seq, StreamId};

    use super::*;
    use crate::event;
    use crate::message::Message;

    #[test]
    fn an_append_names_its_streams_and_shows_the_beginning_of_its_body() {
        let body = [b"a\n\"".as_slice(), &[b'x'; 100]].concat();
        let message = Message {
            created: Timestamp(7),
            priority: Priority(3),
            delay_ms: 0,
            ack_timeout_ms: 60_000,
            expires: Timestamp::NEVER,
            subject: b"a/b",
            id: b"",
            key: 0,
            headers: b"",
            payload: b"",
            shared: None,
        };
        let mut record = Vec::new();
        event::put_append(&mut record, &[(StreamId(1), Seq(2))], &message);
        record.extend_from_slice(&body);
        let text = describe_event(&record).unwrap().to_string();
        assert!(
            text.starts_with(
                "append stream=1 seq=2 created_ms=7 priority=3 ack_timeout_ms=60000 subject=\"a/b\" bytes=103 body=\"a\\n\\\"xxx"
            ),
            "{text}"
        );
        assert!(text.ends_with("x...\""), "{text}");
    }

    #[test]
    fn other_events_are_told_apart_and_rubbish_is_refused() {
        let mut record = Vec::new();
        event::put_settled(&mut record, GroupId(5), Seq(9), 3);
        assert_eq!(
            describe_event(&record).unwrap().to_string(),
            "settled group=5 seq=9 bytes=3"
        );
        record.clear();
        event::put_document(&mut record, "streams/a", None);
        assert_eq!(
            describe_event(&record).unwrap().to_string(),
            "document name=\"streams/a\" removed=1"
        );
        assert!(matches!(
            describe_event(b"\xff"),
            Err(Malformed::Later { number: 255, .. })
        ));
        assert_eq!(describe_event(b""), Err(Malformed::Damaged));
    }
}
