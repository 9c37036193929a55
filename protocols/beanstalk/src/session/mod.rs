//! One connection's conversation: requests become commands of the engine, its effects become replies.
//!
//! ```text
//! bytes ──▶ input() ──▶ commands ──▶ shard
//!              │ pending, in order     │
//! bytes ◀── local answers        effect() ──▶ bytes
//! ```
//!
//! The shard answers every command once and in order, so that a queue of what is `Pending` is all that is needed to
//! know what an effect answers. Answers that do not need the shard wait in the same queue behind those that do. No
//! I/O, and no clock but the one that the tenant lends to `stats`.

mod answer;
mod pending;
mod request;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use longtail_engine::command::{Command, Role, Token};
use longtail_engine::config::GroupName;
use longtail_engine::effect::Effect;
use longtail_engine::message::Message;
use longtail_model::{ConsumerTag, Link};

use crate::codec::{Decoder, Frame, Rejection, Word, reply};
use crate::grants::Grants;
use crate::tenant::{Counters, DEFAULT_TUBE, REPLY_BYTES_MAX, Tally, Tenant};
use pending::{Kind, Mark, Pending, Queue};
use turn::Turn;

/// The link on the used tube.
const USED: Link = Link(0);

/// The first link on a watched tube.
const FIRST_WATCHED: Link = Link(1);

/// The only consumer of a session: it draws from all watched tubes.
const WORKER: ConsumerTag = ConsumerTag(0);

/// The name of the only group that a tube has.
fn the_group() -> GroupName {
    GroupName::default()
}

/// Where replies are appended.
pub trait Outbox {
    /// The buffer to append to. What is in it already stays as it is.
    fn tail(&mut self) -> &mut Vec<u8>;

    /// Whether so much waits to be read by the client that nothing more should be produced for now.
    fn is_full(&self) -> bool;
}

/// Commands on their way to the shard.
pub type Commands = Vec<(Token, Command)>;

/// What follows [`Session::input`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More input is welcome.
    Read,
    /// No input until [`Answered::Resume`].
    Pause,
    /// No input until the outbox is no longer full.
    Drain,
    /// The client has said goodbye and everything is answered.
    Close,
}

/// What follows [`Session::effect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Nothing particular.
    Stay,
    /// Show the input again that was left when [`Next::Pause`] was said.
    Resume,
    /// Everything is answered and the client wants nothing more.
    Close,
    /// A tube that the client uses or watches was removed by an operator. The client has to connect again, as the
    /// protocol has no other way to say that its list of tubes is no longer what it thinks.
    TubeRemoved,
    /// The shard answered what was not asked. The connection cannot go on.
    Broken,
}

/// Whether the client will ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// It has closed its side; what it sent before is still carried out.
    HalfClosed,
    /// It has said `quit`, or the server goes down: what follows is not looked at.
    Quitting,
}

/// Whether input is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Free,
    /// Some was left because too much is under way.
    Paused,
    /// It was asked for again, and is still to come.
    Resuming,
}

/// A watched tube.
#[derive(Debug)]
struct Watched {
    link: Link,
    tube: Arc<str>,
}

/// A `watch` whose stream is being opened. Nothing more is read meanwhile, so that there is one at a time and the
/// list of watched tubes is never ahead of the shard.
#[derive(Debug)]
struct Opening {
    watched: Watched,
    refused: Option<Word>,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    grants: Grants,
    phase: Phase,
    pending: Queue,
    /// What was counted and the shared counters do not have yet.
    tally: Tally,
    /// Token of the next command.
    asked: Token,
    /// Token of the next reply.
    answered: Token,
    used: Arc<str>,
    watched: Vec<Watched>,
    opening: Option<Opening>,
    /// Links given back by `ignore`.
    free_links: Vec<Link>,
    next_link: Link,
    flow: Flow,
    /// Whether the shard knows a link of this session no longer.
    is_cut_off: bool,
    is_producer: bool,
    is_worker: bool,
}

impl Session {
    /// A new connection: it uses and watches the default tube.
    pub fn open(tenant: &Tenant, grants: Grants, commands: &mut Commands) -> Self {
        tenant.counters.connections.fetch_add(1, Ordering::Relaxed);
        tenant
            .counters
            .connections_total
            .fetch_add(1, Ordering::Relaxed);
        let tube: Arc<str> = DEFAULT_TUBE.into();
        let mut session = Session {
            decoder: Decoder::new(tenant.config.job_size_max),
            grants,
            phase: Phase::Open,
            pending: Queue::default(),
            tally: Tally::default(),
            asked: 0,
            answered: 0,
            used: tube.clone(),
            watched: vec![Watched {
                link: FIRST_WATCHED,
                tube: tube.clone(),
            }],
            opening: None,
            free_links: Vec::new(),
            next_link: Link(FIRST_WATCHED.0 + 1),
            flow: Flow::Free,
            is_cut_off: false,
            is_producer: false,
            is_worker: false,
        };
        let mut turn = Turn {
            session: &mut session,
            tenant,
            commands,
            mark: None,
        };
        turn.open_link(USED, tube.clone(), Role::Producer, Pending::Silent);
        turn.open_link(FIRST_WATCHED, tube, Role::Consumer, Pending::Silent);
        turn.ask(
            Command::Subscribe {
                consumer: WORKER,
                link: FIRST_WATCHED,
                group: the_group(),
            },
            Pending::Silent,
        );
        session
    }

    /// Carries out what is in `input`, which holds every byte not consumed yet. Commands for the shard are appended to
    /// `commands`, answers that can be given at once to `out`. Returns how many bytes are done with.
    pub fn input(
        &mut self,
        input: &[u8],
        tenant: &Tenant,
        commands: &mut Commands,
        out: &mut impl Outbox,
    ) -> (usize, Next) {
        let mut consumed = 0;
        self.flow = Flow::Free;
        let next = loop {
            if self.phase == Phase::Quitting {
                consumed = input.len();
                break if self.pending.is_empty() {
                    Next::Close
                } else {
                    Next::Pause
                };
            }
            if consumed == input.len() {
                break Next::Read;
            }
            if !self.has_room(tenant, Room::More) {
                self.flow = Flow::Paused;
                break Next::Pause;
            }
            if out.is_full() {
                break Next::Drain;
            }
            let decoded = self.decoder.decode(&input[consumed..]);
            consumed += decoded.consumed;
            let Some(frame) = decoded.frame else {
                break Next::Read;
            };
            let mut turn = Turn {
                session: self,
                tenant,
                commands,
                mark: None,
            };
            match frame {
                Frame::Put(put) => turn.put(put, out),
                Frame::Request(request) => turn.request(request, out),
                Frame::Rejected(rejected) => {
                    if let Some(op) = rejected.counted {
                        let had_a_body = rejected.why == Rejection::ExpectedCrlf;
                        turn.count(Mark {
                            op,
                            makes: had_a_body.then_some(Kind::Producer),
                        });
                    }
                    turn.say(rejected.why.word(), out);
                }
            }
        };
        self.publish_counts(&tenant.counters);
        (consumed, next)
    }

    /// The client has closed its side. With [`Next::Pause`] something is still to be answered: the shard has to be told
    /// that this session no longer waits for jobs.
    pub fn end_of_input(&mut self) -> Next {
        if self.phase == Phase::Open {
            self.phase = Phase::HalfClosed;
        }
        if self.pending.is_empty() {
            Next::Close
        } else {
            Next::Pause
        }
    }

    /// The server is going down: nothing more is taken up. With [`Next::Pause`], what was taken up is still to be
    /// answered; the shard has to be told that this session no longer waits for jobs.
    pub fn wind_down(&mut self) -> Next {
        self.phase = Phase::Quitting;
        if self.pending.is_empty() {
            Next::Close
        } else {
            Next::Pause
        }
    }

    /// Writes the answer that an effect of the shard brings. `messages` has the record of a delivery or peek.
    pub fn effect(
        &mut self,
        effect: &Effect,
        messages: &[Option<Message<'_>>],
        tenant: &Tenant,
        out: &mut impl Outbox,
    ) -> Answered {
        let (token, answer) = match effect {
            Effect::Reply(token, answer) => (token, answer),
            Effect::Cancelled { .. } => return Answered::TubeRemoved,
            Effect::Push(_) => {
                tracing::error!("the shard delivered without being asked");
                return Answered::Broken;
            }
        };
        if *token != self.answered {
            tracing::error!(
                token,
                expected = self.answered,
                "the shard answered out of order"
            );
            return Answered::Broken;
        }
        self.answered += 1;
        let Some(pending) = self.pending.pop(tenant.config.job_size_max) else {
            tracing::error!(token, "the shard answered what nobody asked");
            return Answered::Broken;
        };
        self.answer(pending, answer, messages, tenant, out);
        self.count_front(&tenant.counters);
        self.say_what_waited(tenant, out);
        if self.is_cut_off {
            return Answered::TubeRemoved;
        }
        let is_over = match self.phase {
            Phase::Open => false,
            Phase::HalfClosed => self.flow == Flow::Free,
            Phase::Quitting => true,
        };
        if is_over && self.pending.is_empty() {
            return Answered::Close;
        }
        if self.flow == Flow::Paused && self.has_room(tenant, Room::Half) {
            self.flow = Flow::Resuming;
            return Answered::Resume;
        }
        Answered::Stay
    }

    /// Whether effects have brought the turn of requests that [`Session::publish_counts`] is still to add.
    #[must_use]
    pub fn has_counts(&self) -> bool {
        !self.tally.is_empty()
    }

    /// Adds what was counted to the shared counters. To be called before the answers of a batch are sent, as whoever
    /// has read them may look.
    pub fn publish_counts(&mut self, counters: &Counters) {
        self.tally.flush(counters);
    }

    /// The connection is gone.
    pub fn close(mut self, counters: &Counters) {
        self.publish_counts(counters);
        counters.connections.fetch_sub(1, Ordering::Relaxed);
        if self.is_producer {
            counters.producers.fetch_sub(1, Ordering::Relaxed);
        }
        if self.is_worker {
            counters.workers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether another request may be taken up now, or whether enough is answered to go on after a pause.
    fn has_room(&self, tenant: &Tenant, room: Room) -> bool {
        let part = match room {
            Room::More => 1,
            Room::Half => 2,
        };
        let weight = self.pending.weight();
        self.opening.is_none()
            && self.pending.len() < (tenant.config.outstanding_max / part).max(1)
            && weight.held < (tenant.config.outstanding_bytes_max / part as u64).max(1)
            && weight.expected < REPLY_BYTES_MAX / part as u64
    }

    /// Writes the answers at the front of the queue that only waited for their turn.
    fn say_what_waited(&mut self, tenant: &Tenant, out: &mut impl Outbox) {
        while let Some(Pending::Word(_) | Pending::Text(_) | Pending::Using) = self.pending.front()
        {
            match self.pending.pop(tenant.config.job_size_max) {
                Some(Pending::Word(word)) => reply::word(out.tail(), word),
                Some(Pending::Text(text)) => out.tail().extend_from_slice(&text),
                _ => reply::using(out.tail(), &self.used),
            }
            self.count_front(&tenant.counters);
        }
    }

    /// Counts what has become the first of the queue.
    fn count_front(&mut self, counters: &Counters) {
        if let Some(mark) = self.pending.take_mark() {
            self.count(mark, counters);
        }
    }

    /// Counts a request whose turn has come.
    fn count(&mut self, mark: Mark, counters: &Counters) {
        self.tally.count(mark.op);
        if let Some(kind) = mark.makes {
            self.becomes(kind, counters);
        }
    }

    fn becomes(&mut self, kind: Kind, counters: &Counters) {
        let (known, shared) = match kind {
            Kind::Producer => (&mut self.is_producer, &counters.producers),
            Kind::Worker => (&mut self.is_worker, &counters.workers),
        };
        if !std::mem::replace(known, true) {
            shared.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How much of the limits must be free.
#[derive(Clone, Copy)]
enum Room {
    More,
    Half,
}
