//! Lines of what a client does and is told, or of what goes over topics, for somebody who looks for a fault.
//!
//! A trace has a beginning and an end and keeps the newest lines. Payloads are left out unless it asks for them;
//! passwords are never in it.

mod hook;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use longtail_engine::runtime::Clock;
use longtail_model::{Filter, Timestamp};
use parking_lot::Mutex;

use super::Switch;
use crate::hooks::Hooks;

/// Traces that there may be, running or not.
pub const TRACES_MAX: usize = 30;

/// Bytes of lines that one keeps.
pub const BYTES_MAX: usize = 1 << 20;

/// Longest trace, in milliseconds.
pub const DURATION_MAX_MS: u64 = 24 * 3_600_000;

/// How long one runs that does not say, in milliseconds.
pub const DURATION_MS: u64 = 600_000;

/// Longest name, in bytes.
const NAME_MAX: usize = 256;

/// Bytes of a payload in a line.
const PAYLOAD_MAX: usize = 1024;

/// What is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The client with this identifier.
    Client(String),
    /// Topics that match.
    Topic(Filter),
    /// Clients that come from this address.
    Address(IpAddr),
}

impl Subject {
    /// From its kind (`client`, `topic`, `address`) and its value.
    ///
    /// # Errors
    /// [`TraceError::Subject`].
    pub fn new(kind: &str, value: &str) -> Result<Self, TraceError> {
        let wrong = || TraceError::Subject(format!("{kind} {value:?}"));
        match kind {
            "client" if !value.is_empty() => Ok(Subject::Client(value.to_owned())),
            "topic" => Filter::parse_mqtt(value)
                .map(Subject::Topic)
                .map_err(|_| wrong()),
            "address" => value.parse().map(Subject::Address).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    /// `client`, `topic` or `address`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Client(_) => "client",
            Subject::Topic(_) => "topic",
            Subject::Address(_) => "address",
        }
    }

    /// Identifier, filter or address.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Subject::Client(id) => id.clone(),
            Subject::Topic(filter) => filter.as_str().to_owned(),
            Subject::Address(address) => address.to_string(),
        }
    }
}

/// How payloads are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// Their length only.
    #[default]
    Hidden,
    /// As text; what is none is escaped.
    Text,
    /// In hexadecimal digits.
    Hex,
}

impl Payload {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Payload); 3] = [
        ("hidden", Payload::Hidden),
        ("text", Payload::Text),
        ("hex", Payload::Hex),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Payload::ALL.iter().find(|(_, payload)| *payload == self);
        found.map_or("", |(name, _)| name)
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Payload::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, payload)| *payload)
    }

    fn show(self, payload: &[u8], line: &mut String) {
        let _ = write!(line, " bytes={}", payload.len());
        let shown = payload.get(..PAYLOAD_MAX).unwrap_or(payload);
        match self {
            Payload::Hidden => {}
            Payload::Text => {
                let _ = write!(line, " payload=\"{}\"", shown.escape_ascii());
            }
            Payload::Hex => {
                line.push_str(" payload=");
                for byte in shown {
                    let _ = write!(line, "{byte:02x}");
                }
            }
        }
    }
}

/// A trace that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpec {
    /// Its name: 1 to 256 letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What it follows.
    pub subject: Subject,
    /// When it begins; `None`: now.
    pub start: Option<Timestamp>,
    /// When it ends; `None`: [`DURATION_MS`] after it begins.
    pub end: Option<Timestamp>,
    /// How it shows payloads.
    pub payload: Payload,
}

/// Why there is no such trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// No name.
    #[error("{0:?} is no name: 1 to 256 letters, digits, '-', '_' and '.'")]
    Name(String),
    /// Nothing that can be followed.
    #[error("{0} cannot be followed: name a client, a topic filter or an address")]
    Subject(String),
    /// Its times are none.
    #[error("a trace ends after it begins, within {} hours, and not in the past", DURATION_MAX_MS / 3_600_000)]
    Times,
    /// The name is taken.
    #[error("there is a trace {0:?} already")]
    Exists(String),
    /// There are too many.
    #[error("there are {TRACES_MAX} traces already: delete one")]
    Full,
}

/// Whether a trace takes lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It begins later.
    Waiting,
    /// It does.
    Running,
    /// It has ended.
    Stopped,
}

impl Status {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Waiting => "waiting",
            Status::Running => "running",
            Status::Stopped => "stopped",
        }
    }
}

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceView {
    /// Its name.
    pub name: String,
    /// What it follows.
    pub subject: Subject,
    /// When it begins.
    pub start: Timestamp,
    /// When it ends.
    pub end: Timestamp,
    /// How it shows payloads.
    pub payload: Payload,
    /// Whether it takes lines.
    pub status: Status,
    /// Bytes of lines that were written, those included that made room for others.
    pub bytes: u64,
    /// Lines that made room for others.
    pub lost: u64,
}

/// A part of a trace's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Whole lines.
    pub text: String,
    /// Where to go on.
    pub position: u64,
}

struct Trace {
    subject: Subject,
    start: Timestamp,
    end: Timestamp,
    payload: Payload,
    lines: VecDeque<String>,
    /// Bytes of `lines`.
    kept: usize,
    bytes: u64,
    lost: u64,
}

impl Trace {
    fn status(&self, now: Timestamp) -> Status {
        if now >= self.end {
            Status::Stopped
        } else if now < self.start {
            Status::Waiting
        } else {
            Status::Running
        }
    }

    fn view(&self, name: &str, now: Timestamp) -> TraceView {
        TraceView {
            name: name.to_owned(),
            subject: self.subject.clone(),
            start: self.start,
            end: self.end,
            payload: self.payload,
            status: self.status(now),
            bytes: self.bytes,
            lost: self.lost,
        }
    }

    fn write(&mut self, now: Timestamp, what: &str) {
        let line = format!("{} {what}\n", now.0);
        self.kept += line.len();
        self.bytes += line.len() as u64;
        self.lines.push_back(line);
        while self.kept > BYTES_MAX
            && let Some(old) = self.lines.pop_front()
        {
            self.kept -= old.len();
            self.lost += 1;
        }
    }

    fn read(&self, position: u64, max: usize) -> Part {
        let mut at = self.bytes - self.kept as u64;
        let mut part = Part {
            text: String::new(),
            position: position.max(at).min(self.bytes),
        };
        for line in &self.lines {
            if at >= part.position {
                if !part.text.is_empty() && part.text.len() + line.len() > max {
                    break;
                }
                part.text.push_str(line);
                part.position = at + line.len() as u64;
            }
            at += line.len() as u64;
        }
        part
    }
}

struct Table {
    traces: Mutex<BTreeMap<String, Trace>>,
    clock: Arc<dyn Clock>,
}

/// The traces of a tenant.
pub struct Traces {
    table: Arc<Table>,
    switch: Switch,
}

impl Traces {
    pub(crate) fn new(hooks: Arc<Hooks>, clock: Arc<dyn Clock>) -> Self {
        Traces {
            table: Arc::new(Table {
                traces: Mutex::default(),
                clock,
            }),
            switch: Switch::new(hooks),
        }
    }

    /// Begins one.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn begin(&self, spec: TraceSpec) -> Result<TraceView, TraceError> {
        let now = self.table.clock.now();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if spec.name.is_empty() || spec.name.len() > NAME_MAX || !spec.name.chars().all(fits) {
            return Err(TraceError::Name(spec.name));
        }
        let start = spec.start.unwrap_or(now);
        let end = spec.end.unwrap_or(start.plus_millis(DURATION_MS));
        let longest = start.plus_millis(DURATION_MAX_MS);
        if end <= start || end <= now || end > longest {
            return Err(TraceError::Times);
        }
        let view = {
            let mut traces = self.table.traces.lock();
            if traces.contains_key(&spec.name) {
                return Err(TraceError::Exists(spec.name));
            }
            if traces.len() >= TRACES_MAX {
                return Err(TraceError::Full);
            }
            let trace = Trace {
                subject: spec.subject,
                start,
                end,
                payload: spec.payload,
                lines: VecDeque::new(),
                kept: 0,
                bytes: 0,
                lost: 0,
            };
            let view = trace.view(&spec.name, now);
            traces.insert(spec.name, trace);
            view
        };
        self.switch();
        Ok(view)
    }

    /// Ends one, which keeps its lines; `None` if there is no such trace.
    pub fn stop(&self, name: &str) -> Option<TraceView> {
        let now = self.table.clock.now();
        let view = {
            let mut traces = self.table.traces.lock();
            let trace = traces.get_mut(name)?;
            trace.end = trace.end.min(now);
            trace.view(name, now)
        };
        self.switch();
        Some(view)
    }

    /// Deletes one with its lines; `false` if there is no such trace.
    pub fn delete(&self, name: &str) -> bool {
        let was_there = self.table.traces.lock().remove(name).is_some();
        self.switch();
        was_there
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<TraceView> {
        self.switch();
        let now = self.table.clock.now();
        let traces = self.table.traces.lock();
        traces
            .iter()
            .map(|(name, trace)| trace.view(name, now))
            .collect()
    }

    /// Lines of one from a position on, 0 being its beginning: as many whole ones as fit into `max` bytes, one at least
    /// if there is one. `None` if there is no such trace.
    #[must_use]
    pub fn read(&self, name: &str, position: u64, max: usize) -> Option<Part> {
        let traces = self.table.traces.lock();
        traces.get(name).map(|trace| trace.read(position, max))
    }

    /// The hook is there while one runs, or will.
    fn switch(&self) {
        let now = self.table.clock.now();
        let wanted = {
            let traces = self.table.traces.lock();
            traces
                .values()
                .any(|trace| trace.status(now) != Status::Stopped)
        };
        self.switch.set(wanted, || Arc::clone(&self.table));
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::message::Message;
    use longtail_engine::runtime::ManualClock;

    use super::*;
    use crate::hooks::{Event, Points};

    fn traces() -> (Traces, Arc<Hooks>, Arc<ManualClock>) {
        let hooks = Arc::new(Hooks::default());
        let clock = Arc::new(ManualClock::new(Timestamp(1000)));
        let of = Arc::clone(&clock);
        (Traces::new(Arc::clone(&hooks), of), hooks, clock)
    }

    fn spec(name: &str, subject: Subject) -> TraceSpec {
        TraceSpec {
            name: name.to_owned(),
            subject,
            start: None,
            end: None,
            payload: Payload::Text,
        }
    }

    fn publish(hooks: &Hooks, topic: &str, payload: &'static str) {
        let subject = longtail_model::Subject::parse_mqtt(topic).unwrap();
        let message = Arc::new(Message::new(subject, payload.into()));
        hooks.whole().tell(Points::PUBLISHED, || Event::Published {
            client: None,
            message,
            reason: crate::codec::ReasonCode::Success,
        });
    }

    #[test]
    fn a_topic_is_followed_until_its_end_and_costs_nothing_then() {
        let (traces, hooks, clock) = traces();
        let followed = Subject::new("topic", "a/#").unwrap();
        traces.begin(spec("t", followed)).unwrap();
        assert_eq!(hooks.len(), 1);
        publish(&hooks, "a/b", "one");
        publish(&hooks, "b", "two");
        clock.advance(std::time::Duration::from_millis(DURATION_MS));
        publish(&hooks, "a/b", "three");
        assert_eq!(traces.list()[0].status, Status::Stopped);
        assert!(hooks.is_empty());
        let part = traces.read("t", 0, usize::MAX).unwrap();
        assert_eq!(part.text.lines().count(), 1);
        assert!(part.text.contains("topic=\"a/b\"") && part.text.contains("payload=\"one\""));
        assert_eq!(traces.read("t", part.position, 10).unwrap().text, "");
        assert!(traces.delete("t") && traces.read("t", 0, 10).is_none());
    }

    #[test]
    fn the_newest_lines_are_kept() {
        let mut trace = Trace {
            subject: Subject::Client("c".to_owned()),
            start: Timestamp(0),
            end: Timestamp(10),
            payload: Payload::Hidden,
            lines: VecDeque::new(),
            kept: 0,
            bytes: 0,
            lost: 0,
        };
        let line = "x".repeat(1000);
        for n in 0..2000 {
            trace.write(Timestamp(1), &format!("{n} {line}"));
        }
        assert!(trace.kept <= BYTES_MAX && trace.lost > 900);
        let part = trace.read(0, 2500);
        assert_eq!(part.text.lines().count(), 2);
        assert!(trace.read(part.position, 1).text.lines().count() == 1);
        assert_eq!(trace.read(trace.bytes, 1).text, "");
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let (traces, hooks, _) = traces();
        let client = || Subject::new("client", "c").unwrap();
        for (kind, value) in [
            ("client", ""),
            ("topic", "a/#/b"),
            ("address", "here"),
            ("x", "y"),
        ] {
            assert!(Subject::new(kind, value).is_err(), "{kind}");
        }
        assert!(matches!(
            traces.begin(spec("a b", client())),
            Err(TraceError::Name(_))
        ));
        let late = TraceSpec {
            end: Some(Timestamp(999)),
            ..spec("t", client())
        };
        assert_eq!(traces.begin(late), Err(TraceError::Times));
        for n in 0..TRACES_MAX {
            traces.begin(spec(&n.to_string(), client())).unwrap();
        }
        assert!(matches!(
            traces.begin(spec("1", client())),
            Err(TraceError::Exists(_))
        ));
        assert_eq!(traces.begin(spec("more", client())), Err(TraceError::Full));
        for n in 0..TRACES_MAX {
            assert_eq!(
                traces.stop(&n.to_string()).map(|view| view.status),
                Some(Status::Stopped)
            );
        }
        assert!(hooks.is_empty());
    }

    #[test]
    fn payloads_are_shown_as_asked_for() {
        let shown = |payload: Payload| {
            let mut line = String::new();
            payload.show(b"a\"\n\xff", &mut line);
            line
        };
        assert_eq!(shown(Payload::Hidden), " bytes=4");
        assert_eq!(shown(Payload::Text), " bytes=4 payload=\"a\\\"\\n\\xff\"");
        assert_eq!(shown(Payload::Hex), " bytes=4 payload=61220aff");
    }
}
