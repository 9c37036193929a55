//! Transfers: messages from a queue of one broker to an exchange or a queue of another, or to an address of HTTP.
//!
//! ```text
//! Plan::connect ─▶ source (Link) ─▶ Plan::forward ─▶ sink (Link, Http)
//!                        ▲                               │
//!                        └──── settle ◀── Flow ◀── confirm
//! ```
//!
//! A [`Plan`] says where from, where to and what becomes of a message on the way: a shovel, a link of a federation. This
//! room runs it: it connects, carries until something breaks, waits with growing pauses and connects again. [`Flow`]
//! settles a message at its source only when the other side has confirmed it, unless the plan says otherwise. All
//! transfers share one thread, which is there when there is one.

mod flow;
mod http;
mod job;
mod status;
mod thread;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longtail_edge::Backoff;
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;
use tokio::sync::watch;

pub(crate) use flow::AckMode;
use flow::Flow;
pub(crate) use http::{Http, HttpAddress};
pub(crate) use job::Job;
pub(crate) use status::{Snapshot, State, Status};
pub(crate) use thread::Thread;

use crate::link::{Delivery, Event, Link, LinkError};

/// Octets that wait for a socket before nothing more is taken from the source.
const OUT_SOFT: usize = 256 * 1024;

/// How soon a transfer looks again whether the broker of this process takes messages.
const BLOCKED_RECHECK_MS: u64 = 500;

/// How long a transfer that is told to stop waits for what is under way.
const GOODBYE: Duration = Duration::from_secs(2);

/// Longest pause between two attempts in milliseconds, unless the plan's own is longer.
const PAUSE_MAX_MS: u64 = 60_000;

/// What is carried, and how.
pub(crate) trait Plan: Send + 'static {
    /// What may change while it runs.
    type Wish: Clone + Send + Sync + 'static;

    /// Connects both sides, declares what is to be there, and begins to consume.
    fn connect(
        &mut self,
        wish: &Self::Wish,
    ) -> impl Future<Output = Result<Ends, LinkError>> + Send;

    /// What goes on of a message; `None`: nothing, it is done with.
    ///
    /// # Errors
    /// When it cannot be written down.
    fn forward(&mut self, delivery: &Delivery) -> Result<Option<Forward>, LinkError>;

    /// Somebody wishes something else.
    ///
    /// # Errors
    /// When the source cannot be told.
    fn adjust(&mut self, wish: &Self::Wish, source: &mut Link) -> Result<(), LinkError>;

    /// Milliseconds from one attempt to the next; `None`: there is no other.
    fn pause_ms(&self) -> Option<u64>;
}

/// Two sides that are connected.
pub(crate) struct Ends {
    pub(crate) source: Link,
    pub(crate) sink: Sink,
    pub(crate) mode: AckMode,
    /// Messages to be carried; `None`: all that come.
    pub(crate) left: Option<u64>,
}

/// Where messages go.
pub(crate) enum Sink {
    /// A channel; in the mode [`AckMode::OnConfirm`], one that confirms.
    Amqp(Box<Link>),
    Http(Box<Http>),
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) exchange: String,
    pub(crate) key: String,
    /// Flags and values.
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
}

/// How a transfer ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Somebody has stopped it.
    Stopped,
    /// It has carried what it was to carry.
    Done,
    /// It has failed, and is not to be tried again.
    GivenUp,
}

enum End {
    Stopped,
    Done,
}

/// Carries until it is done or stopped.
pub(crate) async fn run<P: Plan>(
    mut plan: P,
    clock: Arc<dyn Clock>,
    status: Arc<Status>,
    mut wishes: watch::Receiver<P::Wish>,
    mut stop: watch::Receiver<bool>,
) -> Outcome {
    let base = plan.pause_ms().unwrap_or(0);
    let mut backoff = Backoff::new(base, PAUSE_MAX_MS.max(base));
    loop {
        status.set(State::Starting);
        let wish = wishes.borrow_and_update().clone();
        let connected = tokio::select! {
            connected = plan.connect(&wish) => connected,
            () = told(&mut stop) => return Outcome::Stopped,
        };
        let ended = match connected {
            Err(error) => Err(error),
            Ok(ends) => {
                status.set(State::Running);
                backoff.reset();
                let mut haul = Haul::new(&mut plan, ends, &clock, &status);
                let ended = haul.carry(&mut wishes, &mut stop).await;
                let Ends { source, sink, .. } = haul.ends;
                if ended.is_ok() {
                    source.close().await;
                    if let Sink::Amqp(link) = sink {
                        link.close().await;
                    }
                }
                ended
            }
        };
        match ended {
            Ok(End::Stopped) => return Outcome::Stopped,
            Ok(End::Done) => {
                status.set(State::Terminated);
                return Outcome::Done;
            }
            Err(error) => {
                tracing::warn!(
                    source = status.now().source,
                    target = status.now().target,
                    %error,
                    "a transfer is interrupted"
                );
                status.fail(error.to_string());
            }
        }
        if plan.pause_ms().is_none() {
            status.set(State::Terminated);
            return Outcome::GivenUp;
        }
        let pause = Duration::from_millis(backoff.next(rand::random()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told(&mut stop) => return Outcome::Stopped,
        }
    }
}

/// Which of several addresses is tried after so many attempts.
pub(crate) fn in_turn<T>(all: &[T], attempts: usize) -> Option<&T> {
    all.get(attempts % all.len().max(1))
}

/// Until somebody says stop, or is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        if stop.changed().await.is_err() {
            return;
        }
    }
}

/// One connection of both sides, at work.
struct Haul<'a, P> {
    plan: &'a mut P,
    ends: Ends,
    flow: Flow,
    clock: &'a Arc<dyn Clock>,
    status: &'a Status,
    /// Messages that were carried before.
    before: u64,
    blocked: bool,
}

impl<'a, P: Plan> Haul<'a, P> {
    fn new(plan: &'a mut P, ends: Ends, clock: &'a Arc<dyn Clock>, status: &'a Status) -> Self {
        Haul {
            flow: Flow::new(ends.mode, ends.left),
            before: status.now().forwarded,
            plan,
            ends,
            clock,
            status,
            blocked: false,
        }
    }

    async fn carry(
        &mut self,
        wishes: &mut watch::Receiver<P::Wish>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<End, LinkError> {
        let (mut leaving, mut wishes_last) = (None, true);
        loop {
            let full = self.is_full();
            if leaving.is_none() && !full {
                self.take()?;
            }
            self.heard()?;
            self.settle()?;
            self.tell();
            if self.flow.is_done() && self.is_flushed() {
                return Ok(End::Done);
            }
            let now = self.clock.now();
            let idle = self.flow.pending() == 0 && self.is_flushed();
            if leaving.is_some_and(|until| idle || now >= until) {
                return Ok(End::Stopped);
            }
            let mut due = leaving.unwrap_or(Timestamp::NEVER).min(self.flow.due());
            if self.sink_is_blocked() {
                due = due.min(now.plus_millis(BLOCKED_RECHECK_MS));
            }
            let wait = Duration::from_millis(due.0.saturating_sub(now.0).min(3_600_000));
            let reads = !self.is_full();
            tokio::select! {
                turned = self.ends.source.turn(reads) => turned?,
                turned = turn(&mut self.ends.sink, &mut self.flow, &**self.clock) => turned?,
                changed = wishes.changed(), if wishes_last => match changed {
                    Ok(()) => {
                        let wish = wishes.borrow_and_update().clone();
                        self.plan.adjust(&wish, &mut self.ends.source)?;
                    }
                    Err(_) => wishes_last = false,
                },
                () = told(stop), if leaving.is_none() => {
                    let limit = u64::try_from(GOODBYE.as_millis()).unwrap_or(u64::MAX);
                    leaving = Some(self.clock.now().plus_millis(limit));
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether the other side takes nothing, as it has said or as is known here.
    fn sink_is_blocked(&self) -> bool {
        match &self.ends.sink {
            Sink::Amqp(link) => self.blocked || link.is_blocked(),
            Sink::Http(_) => false,
        }
    }

    fn is_full(&self) -> bool {
        self.sink_is_blocked()
            || match &self.ends.sink {
                Sink::Amqp(link) => link.backlog() > OUT_SOFT,
                Sink::Http(http) => http.is_full(),
            }
    }

    fn is_flushed(&self) -> bool {
        let sink = match &self.ends.sink {
            Sink::Amqp(link) => link.backlog() == 0,
            Sink::Http(http) => http.is_idle(),
        };
        sink && self.ends.source.backlog() == 0
    }

    /// Sends on what the source has said.
    fn take(&mut self) -> Result<(), LinkError> {
        while let Some(event) = self.ends.source.next() {
            match event {
                Event::Delivery(delivery) => {
                    // What is too much goes back when the connection ends.
                    let taken = self.flow.take();
                    if !taken {
                        continue;
                    }
                    self.send(&delivery)?;
                    if self.is_full() {
                        return Ok(());
                    }
                }
                Event::Cancelled => {
                    let text = "the consumer was cancelled: its queue is gone".to_owned();
                    return Err(LinkError::Channel { code: 404, text });
                }
                Event::ChannelClosed { code, text } => {
                    return Err(LinkError::Channel { code, text });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn send(&mut self, delivery: &Delivery) -> Result<(), LinkError> {
        let Some(forward) = self.plan.forward(delivery)? else {
            self.flow.dropped(delivery.tag);
            return Ok(());
        };
        let seq = match &mut self.ends.sink {
            Sink::Amqp(link) => {
                let content = (&*forward.properties, &*forward.body);
                link.publish((&forward.exchange, &forward.key), false, content)?
            }
            Sink::Http(http) => http.post(forward),
        };
        self.flow.sent(delivery.tag, seq);
        Ok(())
    }

    /// What the other side has said.
    fn heard(&mut self) -> Result<(), LinkError> {
        let Sink::Amqp(link) = &mut self.ends.sink else {
            return Ok(());
        };
        while let Some(event) = link.next() {
            match event {
                Event::Confirm {
                    seq,
                    multiple,
                    stored,
                } => {
                    self.flow.confirmed(seq, multiple, stored, self.clock.now());
                }
                Event::Blocked(blocked) => self.blocked = blocked,
                Event::ChannelClosed { code, text } => {
                    return Err(LinkError::Channel { code, text });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), LinkError> {
        for (tag, count, how) in self.flow.settlements(self.clock.now()) {
            self.ends.source.settle(tag, count, how)?;
        }
        Ok(())
    }

    fn tell(&self) {
        self.status.change(|known| {
            known.forwarded = self.before + self.flow.forwarded();
            known.pending = self.flow.pending();
            // What is on its way may have to come again.
            known.left = self.flow.left().map(|left| left + known.pending);
            known.blocked = self.sink_is_blocked();
        });
    }
}

/// Lets the other side do something. May be dropped half-way.
async fn turn(sink: &mut Sink, flow: &mut Flow, clock: &dyn Clock) -> Result<(), LinkError> {
    match sink {
        Sink::Amqp(link) => link.turn(true).await,
        Sink::Http(http) => {
            let (seq, stored) = http.turn().await?;
            flow.confirmed(seq, false, stored, clock.now());
            Ok(())
        }
    }
}
