//! Requests to commands.

use longtail_engine::command::{
    Command, Handle, NewMessage, Role, Settle, Target, Until, Wait, Which,
};
use longtail_model::{Link, Priority, Seq};

use super::pending::{Kind, Mark, Pending};
use super::{Opening, Outbox, Phase, Turn, USED, WORKER, Watched, the_group};
use crate::codec::{Op, Put, Request, Word, reply};
use crate::grants::Right;

/// `reserve` answers `DEADLINE_SOON` when a job held by the client is due within this time.
const DEADLINE_MARGIN_MS: u64 = 1000;

impl Turn<'_> {
    pub(super) fn put(&mut self, put: Put<'_>, out: &mut impl Outbox) {
        self.count(Mark {
            op: Op::Put,
            makes: Some(Kind::Producer),
        });
        if !self.session.grants.allow(Right::Produce) {
            return self.say(Word::UnknownCommand, out);
        }
        if self.tenant.is_draining() {
            return self.say(Word::Draining, out);
        }
        let message = NewMessage {
            priority: Priority(put.line.priority),
            delay_ms: millis(put.line.delay_s),
            ack_timeout_ms: millis(put.line.ttr_s),
            payload: put.body.into_bytes(),
            ..NewMessage::default()
        };
        let publish = Command::Publish {
            to: Target::Link(USED),
            also: Vec::new(),
            message,
        };
        self.ask(publish, Pending::Put(put.line.body_bytes));
    }

    pub(super) fn request(&mut self, request: Request<'_>, out: &mut impl Outbox) {
        let is_allowed = right_for(&request).is_none_or(|right| self.session.grants.allow(right));
        if let Some(op) = request.op() {
            // One that asks for a certain job is a worker once it gets it.
            let asks_for_a_job = matches!(op, Op::Reserve | Op::ReserveWithTimeout);
            self.count(Mark {
                op,
                makes: (is_allowed && asks_for_a_job).then_some(Kind::Worker),
            });
        }
        if !is_allowed {
            return self.say(Word::UnknownCommand, out);
        }
        match request {
            Request::Use { tube } => {
                let tube: std::sync::Arc<str> = tube.into();
                self.open_link(USED, tube.clone(), Role::Producer, Pending::Use(tube));
            }
            Request::Watch { tube } => self.watch(tube, out),
            Request::Ignore { tube } => self.ignore(tube, out),
            Request::Reserve => self.reserve(Wait::Forever),
            Request::ReserveWithTimeout { seconds: 0 } => self.reserve(Wait::No),
            Request::ReserveWithTimeout { seconds } => self.reserve(Wait::Millis(millis(seconds))),
            Request::ReserveJob { id } => {
                self.ask(Command::TakeOne { message: job(id) }, Pending::Reserve);
            }
            Request::Delete { id } => self.ask(
                Command::Discard { message: job(id) },
                Pending::Done(Word::Deleted),
            ),
            Request::Release {
                id,
                priority,
                delay_s,
            } => {
                let priority = Some(Priority(priority));
                let how = Settle::Release {
                    priority,
                    delay_ms: millis(delay_s),
                    failed: false,
                };
                self.ask(
                    Command::Settle {
                        message: job(id),
                        how,
                    },
                    Pending::Done(Word::Released),
                );
            }
            Request::Bury { id, priority } => {
                let how = Settle::Park {
                    priority: Some(Priority(priority)),
                };
                self.ask(
                    Command::Settle {
                        message: job(id),
                        how,
                    },
                    Pending::Done(Word::Buried),
                );
            }
            Request::Touch { id } => {
                self.ask(
                    Command::Extend {
                        message: job(id),
                        ms: None,
                    },
                    Pending::Done(Word::Touched),
                );
            }
            Request::Peek { id } => self.ask(Command::Peek { message: job(id) }, Pending::Peek),
            Request::PeekReady => self.peek_head(Which::Ready),
            Request::PeekDelayed => self.peek_head(Which::Delayed),
            Request::PeekBuried => self.peek_head(Which::Parked),
            Request::Kick { bound } => {
                let kick = Command::Kick {
                    stream: Target::Link(USED),
                    group: the_group(),
                    max: u64::from(bound),
                };
                self.ask(kick, Pending::Kick);
            }
            Request::KickJob { id } => self.ask(
                Command::KickOne { message: job(id) },
                Pending::Done(Word::Kicked),
            ),
            Request::StatsJob { id } => self.ask(
                Command::DescribeMessage { message: job(id) },
                Pending::StatsJob,
            ),
            Request::StatsTube { tube } => {
                let tube: std::sync::Arc<str> = tube.into();
                let describe = Command::DescribeStream {
                    name: self.tenant.stream(tube.clone()),
                };
                self.ask(describe, Pending::StatsTube(tube));
            }
            Request::Stats => self.ask(Command::DescribeShard, Pending::Stats),
            Request::ListTubes => {
                let space = Some(self.tenant.config.space.clone());
                self.ask(Command::ListStreams { space }, Pending::ListTubes);
            }
            Request::ListTubeUsed if self.session.pending.is_empty() => {
                reply::using(out.tail(), &self.session.used);
            }
            Request::ListTubeUsed => self.wait(Pending::Using),
            Request::ListTubesWatched => self.say_text(out, |session, text| {
                reply::ok_list(text, session.watched.iter().map(|watched| &*watched.tube));
            }),
            Request::PauseTube { tube, seconds } => {
                let pause = Command::Pause {
                    stream: self.tenant.stream(tube.into()),
                    group: None,
                    until: Until::Millis(millis(seconds)),
                    durable: false,
                };
                self.ask(pause, Pending::Done(Word::Paused));
            }
            Request::Quit => self.session.phase = Phase::Quitting,
        }
    }

    fn reserve(&mut self, wait: Wait) {
        let take = Command::Take {
            consumer: WORKER,
            wait,
            deadline_margin_ms: DEADLINE_MARGIN_MS,
        };
        self.ask(take, Pending::Reserve);
    }

    fn peek_head(&mut self, which: Which) {
        self.ask(
            Command::PeekHead {
                stream: Target::Link(USED),
                group: the_group(),
                which,
            },
            Pending::Peek,
        );
    }

    fn watch(&mut self, tube: &str, out: &mut impl Outbox) {
        if self
            .session
            .watched
            .iter()
            .any(|watched| &*watched.tube == tube)
        {
            return self.say_text(out, |session, text| {
                reply::watching(text, session.watched.len());
            });
        }
        if self.session.watched.len() >= self.tenant.config.watched_max {
            return self.say(Word::OutOfMemory, out);
        }
        let link = self
            .session
            .free_links
            .pop()
            .unwrap_or(self.session.next_link);
        if link == self.session.next_link {
            self.session.next_link = Link(link.0 + 1);
        }
        let tube: std::sync::Arc<str> = tube.into();
        self.open_link(link, tube.clone(), Role::Consumer, Pending::Open);
        self.ask(
            Command::Subscribe {
                consumer: WORKER,
                link,
                group: the_group(),
            },
            Pending::Watch,
        );
        self.session.opening = Some(Opening {
            watched: Watched { link, tube },
            refused: None,
        });
    }

    fn ignore(&mut self, tube: &str, out: &mut impl Outbox) {
        let Some(at) = self
            .session
            .watched
            .iter()
            .position(|watched| &*watched.tube == tube)
        else {
            return self.say_text(out, |session, text| {
                reply::watching(text, session.watched.len());
            });
        };
        if self.session.watched.len() == 1 {
            return self.say(Word::NotIgnored, out);
        }
        // The last one takes its place, which is the order that `list-tubes-watched` has always shown.
        let Watched { link, .. } = self.session.watched.swap_remove(at);
        self.session.free_links.push(link);
        let left = u32::try_from(self.session.watched.len()).unwrap_or(u32::MAX);
        self.ask(
            Command::Unsubscribe {
                consumer: WORKER,
                link,
                group: the_group(),
            },
            Pending::Silent,
        );
        self.ask(Command::Close { link }, Pending::Ignore(left));
    }
}

/// A job by its id. All tubes share their numbers, so that any link will do.
fn job(id: u64) -> Handle {
    Handle::Shared(USED, Seq(id))
}

fn millis(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

/// What a client must be allowed to do; `None` for what everybody may.
fn right_for(request: &Request<'_>) -> Option<Right> {
    match request {
        Request::Reserve
        | Request::ReserveWithTimeout { .. }
        | Request::ReserveJob { .. }
        | Request::Delete { .. }
        | Request::Release { .. }
        | Request::Bury { .. }
        | Request::Touch { .. }
        | Request::Watch { .. }
        | Request::Peek { .. }
        | Request::PeekReady
        | Request::PeekDelayed
        | Request::PeekBuried
        | Request::Kick { .. }
        | Request::KickJob { .. } => Some(Right::Consume),
        Request::PauseTube { .. } => Some(Right::Manage),
        Request::Use { .. }
        | Request::Ignore { .. }
        | Request::StatsJob { .. }
        | Request::StatsTube { .. }
        | Request::Stats
        | Request::ListTubes
        | Request::ListTubeUsed
        | Request::ListTubesWatched
        | Request::Quit => None,
    }
}
