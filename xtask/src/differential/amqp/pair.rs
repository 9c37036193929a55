//! Two servers and one connection to each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::step::{EXCHANGES, Known, QUEUES, Step};
use crate::amqp::wire::{Event, Id, Reader, Wire};
use crate::server::{Server, ServerCommand};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long deliveries may differ before they are different.
const DELIVERIES: Duration = Duration::from_secs(3);
/// The channel.
const CHANNEL: u16 = 1;
const QOS: Id = (60, 10);
const DELIVER: Id = (60, 60);
const CANCELLED: Id = (60, 30);

#[derive(Debug)]
struct Side {
    server: Server,
    _home: tempfile::TempDir,
    wire: Option<Wire>,
    /// Publishes of this channel, and how many are confirmed.
    published: u64,
    /// Deliveries that were not compared yet.
    delivered: Vec<Event>,
}

/// What ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Nothing,
    Channel,
    Connection,
}

/// The pair.
#[derive(Debug)]
pub(super) struct Pair {
    reference: Side,
    candidate: Side,
}

impl Pair {
    pub(super) fn start(reference: &ServerCommand, candidate: &ServerCommand) -> Result<Pair> {
        Ok(Pair {
            reference: Side::start(reference).context("the reference")?,
            candidate: Side::start(candidate).context("the candidate")?,
        })
    }

    /// Opens a new connection on both.
    pub(super) fn connect(&mut self, known: &mut Known) -> Result<()> {
        known.forget_channel();
        self.reference.connect().context("the reference")?;
        self.candidate.connect().context("the candidate")
    }

    /// Takes one step on both and compares what comes back.
    pub(super) fn take(&mut self, step: &Step, known: &mut Known) -> Result<()> {
        let (ours, ended) = self.reference.take(step).context("the reference")?;
        let (theirs, theirs_ended) = self.candidate.take(step).context("the candidate")?;
        let shown = |events: &[Event]| -> Vec<String> { events.iter().map(Event::shown).collect() };
        let (ours_shown, theirs_shown) = (shown(&ours), shown(&theirs));
        if ours_shown != theirs_shown || ended != theirs_ended {
            bail!(
                "answered with\n  {ours_shown:?} {ended:?} by the reference,\n  {theirs_shown:?} {theirs_ended:?} by the candidate"
            );
        }
        note(step, &ours, known);
        match ended {
            Ended::Nothing => self.compare_deliveries(known)?,
            Ended::Channel | Ended::Connection => {
                // What was on its way went with it.
                known.forget_channel();
                self.reference.again(ended).context("the reference")?;
                self.candidate.again(ended).context("the candidate")?;
            }
        }
        Ok(())
    }

    fn compare_deliveries(&mut self, known: &mut Known) -> Result<()> {
        let end = Instant::now() + DELIVERIES;
        loop {
            let ours = by_consumer(&self.reference.delivered);
            let theirs = by_consumer(&self.candidate.delivered);
            if ours == theirs {
                break;
            }
            if Instant::now() >= end {
                bail!("delivered\n  {ours:?} by the reference,\n  {theirs:?} by the candidate");
            }
            self.reference.listen()?;
            self.candidate.listen()?;
        }
        self.candidate.delivered.clear();
        for event in std::mem::take(&mut self.reference.delivered) {
            let mut read = Reader(&event.arguments);
            let tag = read.text();
            if event.id == CANCELLED {
                known.consumers.retain(|consumer| consumer.0 != tag);
            }
        }
        Ok(())
    }

    /// Removes what a session has made.
    pub(super) fn clean(&mut self, known: &Known) -> Result<()> {
        for side in [&mut self.reference, &mut self.candidate] {
            // On a new connection, without what the session holds.
            side.connect()?;
            for number in 0..QUEUES {
                side.delete((50, 40), &known.queue(number), &[0])?;
            }
            for number in 0..EXCHANGES {
                side.delete((40, 20), &known.exchange(number), &[0])?;
            }
        }
        Ok(())
    }
}

/// What each consumer was sent, in order. Tags of deliveries are numbers of the channel: with several consumers their
/// order is nobody's promise.
fn by_consumer(events: &[Event]) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for event in events {
        let mut read = Reader(&event.arguments);
        let tag = read.text();
        let text = if event.id == DELIVER {
            let _number = read.number(8);
            let again = read.number(1);
            let (exchange, key) = (read.text(), read.text());
            format!("again {again} {exchange} {key} {:?}", event.content)
        } else {
            "cancelled".to_owned()
        };
        match all.iter_mut().find(|(known, _)| *known == tag) {
            Some((_, texts)) => texts.push(text),
            None => all.push((tag, vec![text])),
        }
    }
    all.sort();
    all
}

/// Remembers what a step has changed.
fn note(step: &Step, answers: &[Event], known: &mut Known) {
    let answered = |id: Id| answers.iter().any(|event| event.id == id);
    match step {
        Step::Call {
            id: (60, 20),
            arguments,
            answer,
        } if answered(*answer) => {
            let mut read = Reader(arguments.get(2..).unwrap_or_default());
            let (queue, tag) = (read.text(), read.text());
            let number = (0..QUEUES).find(|&number| known.queue(number) == queue);
            let alone = read.number(1) & 4 != 0;
            known.consumers.push((tag, number.unwrap_or(0), alone));
        }
        Step::Call {
            id: (60, 30),
            arguments,
            ..
        } => {
            let tag = Reader(arguments).text();
            known.consumers.retain(|consumer| consumer.0 != tag);
        }
        Step::Call {
            id: (60, 70),
            arguments,
            ..
        } => {
            let without_ack = arguments.last() == Some(&1);
            for got in answers.iter().filter(|event| event.id == (60, 71)) {
                if !without_ack {
                    known.unsettled.push(Reader(&got.arguments).number(8));
                }
            }
        }
        Step::Call { id: (60, 110), .. } => known.unsettled.clear(),
        Step::Cast { id, arguments } => {
            let mut read = Reader(arguments);
            let (tag, flags) = (read.number(8), read.number(1));
            let multiple = *id != (60, 90) && flags & 1 == 1;
            known
                .unsettled
                .retain(|&other| other != tag && !(multiple && (tag == 0 || other < tag)));
        }
        _ => {}
    }
}

impl Side {
    fn start(command: &ServerCommand) -> Result<Side> {
        let home = tempfile::tempdir()?;
        let server = Server::start(command, home.path())?;
        Ok(Side {
            server,
            _home: home,
            wire: None,
            published: 0,
            delivered: Vec::new(),
        })
    }

    fn connect(&mut self) -> Result<()> {
        if let Some(mut wire) = self.wire.take() {
            // So that what is exclusive is gone before the next one asks for it.
            wire.send(0, (10, 50), b"\0\xc8\0\0\0\0\0")?;
            while wire
                .event(PATIENCE)?
                .is_some_and(|event| event.id != (10, 51))
            {}
        }
        self.wire = Some(Wire::connect(self.server.address(), PATIENCE)?);
        self.open()
    }

    fn open(&mut self) -> Result<()> {
        self.published = 0;
        self.delivered.clear();
        let wire = self.wire()?;
        wire.send(CHANNEL, (20, 10), b"\0")?;
        wire.expect((20, 11))?;
        wire.send(CHANNEL, (85, 10), b"\0")?;
        wire.expect((85, 11)).map(drop)
    }

    fn wire(&mut self) -> Result<&mut Wire> {
        self.wire.as_mut().context("not connected")
    }

    /// Opens again what has ended.
    fn again(&mut self, ended: Ended) -> Result<()> {
        match ended {
            Ended::Nothing => Ok(()),
            Ended::Channel => self.open(),
            Ended::Connection => {
                self.wire = None;
                self.connect()
            }
        }
    }

    /// Sends a step and gathers what comes back; deliveries apart.
    fn take(&mut self, step: &Step) -> Result<(Vec<Event>, Ended)> {
        let mut confirm = 0;
        let answer = match step {
            Step::Call {
                id,
                arguments,
                answer,
            } => {
                self.wire()?.send(CHANNEL, *id, arguments)?;
                *answer
            }
            Step::Cast { id, arguments } => {
                let wire = self.wire()?;
                wire.send(CHANNEL, *id, arguments)?;
                wire.send(CHANNEL, QOS, &[0; 7])?;
                (60, 11)
            }
            Step::Publish {
                arguments,
                properties,
                body,
            } => {
                self.wire()?
                    .publish(CHANNEL, arguments, properties, body, 1)?;
                self.published += 1;
                confirm = self.published;
                (60, 80)
            }
        };
        let mut events = Vec::new();
        loop {
            let event = self.wire()?.event(PATIENCE)?;
            let event = event.with_context(|| format!("no answer; so far {events:?}"))?;
            match event.id {
                DELIVER | CANCELLED => self.delivered.push(event),
                (20, 40) => {
                    self.wire()?.send(CHANNEL, (20, 41), &[])?;
                    events.push(event);
                    return Ok((events, Ended::Channel));
                }
                (10, 50) => {
                    self.wire()?.send(0, (10, 51), &[])?;
                    events.push(event);
                    return Ok((events, Ended::Connection));
                }
                id if confirm > 0 && matches!(id, (60, 80 | 120)) => {
                    let tag = Reader(&event.arguments).number(8);
                    if tag < confirm {
                        continue;
                    }
                    events.push(event);
                    return Ok((events, Ended::Nothing));
                }
                // The answer of `basic.get` is one of two.
                id if id == answer || (answer == (60, 71) && id == (60, 72)) => {
                    events.push(event);
                    return Ok((events, Ended::Nothing));
                }
                _ => events.push(event),
            }
        }
    }

    /// Looks for deliveries for a moment.
    fn listen(&mut self) -> Result<()> {
        while let Some(event) = self.wire()?.event(Duration::from_millis(2))? {
            if !matches!(event.id, DELIVER | CANCELLED) {
                bail!("{} out of turn", event.shown());
            }
            self.delivered.push(event);
        }
        Ok(())
    }

    fn delete(&mut self, id: Id, name: &str, flags: &[u8]) -> Result<()> {
        let mut arguments = vec![0, 0];
        crate::amqp::wire::short(&mut arguments, name);
        arguments.extend_from_slice(flags);
        let wire = self.wire()?;
        wire.send(CHANNEL, id, &arguments)?;
        wire.expect((id.0, id.1 + 1)).map(drop)
    }
}
