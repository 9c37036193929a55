//! A channel's way to one shard: the commands that wait to be handed over, and what the answers to come belong to.

use std::collections::VecDeque;
use std::sync::Arc;

use longtail_engine::runtime::Shards;
use longtail_engine::{Command, Handle, QUIET, Settle, Token};
use longtail_model::{GroupId, Seq, SessionId, ShardId};

use super::Action;
use super::publishing::Laying;
use super::unacked::Delivered;
use super::unheard::Unheard;
use crate::graph::Noted;
use crate::queue::Queue;
use crate::store::Store;
use crate::topology::Topology;

/// The way to one shard.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) shard: ShardId,
    session: SessionId,
    next: Token,
    pending: VecDeque<Pending>,
    commands: Vec<(Token, Command)>,
    /// Publishes among the commands that nobody waits for one by one.
    run: Option<Run>,
    /// Where answers go when the channel has ended.
    unheard: Arc<Unheard>,
}

/// A session that is to be detached from its shard.
#[derive(Debug)]
pub(crate) struct Parting {
    shard: ShardId,
    session: SessionId,
    /// What it was told and has not heard.
    left: Vec<(Token, Command)>,
}

impl Parting {
    pub(crate) fn carry_out(mut self, shards: &dyn Shards) {
        if !self.left.is_empty() {
            shards.enqueue(self.shard, self.session, &mut self.left);
        }
        shards.detach(self.shard, self.session);
    }
}

/// Publishes whose answers only say that they are not on their way any more: the last is answered for all of them.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// The place of the last among the commands.
    last: usize,
    publishes: usize,
    /// Octets of their bodies.
    bytes: u64,
}

impl Way {
    pub(super) fn new(shard: ShardId, session: SessionId) -> Self {
        Way {
            shard,
            session,
            next: 0,
            pending: VecDeque::new(),
            commands: Vec::new(),
            run: None,
            unheard: Arc::default(),
        }
    }

    /// Answers go here when the channel has ended.
    pub(super) fn set_unheard(&mut self, unheard: &Arc<Unheard>) {
        self.unheard = Arc::clone(unheard);
    }

    /// The channel ends: leaves what is to be answered to whoever hears it then. Yields what is to be done now.
    pub(super) fn leave(&mut self, topology: &Arc<Topology>) -> Vec<Action> {
        self.end_run();
        let pending = std::mem::take(&mut self.pending);
        let first = self.next.saturating_sub(pending.len() as Token);
        self.unheard.leave((first, pending), topology)
    }

    /// The session at the shard.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// What is to be detached when the channel ends, with what the client has said before that and no shard has heard.
    pub(super) fn end(&mut self) -> Parting {
        self.end_run();
        Parting {
            shard: self.shard,
            session: self.session,
            left: std::mem::take(&mut self.commands),
        }
    }

    /// Queues what waits at the shard; `false`: there was nothing.
    pub(super) fn send(&mut self, shards: &dyn Shards) -> bool {
        if self.commands.is_empty() {
            return false;
        }
        self.end_run();
        shards.enqueue(self.shard, self.session, &mut self.commands);
        true
    }

    /// What waits to be handed over.
    #[cfg(test)]
    pub(super) fn waiting(&mut self) -> Vec<Command> {
        let commands = self.commands.drain(..);
        commands.map(|(_, command)| command).collect()
    }

    /// What the next answer belongs to.
    pub(super) fn answered(&mut self) -> Option<Pending> {
        self.pending.pop_front()
    }

    /// Queues a publish that nobody waits for.
    pub(super) fn publish(&mut self, command: Command, bytes: u64) {
        let run = self.run.get_or_insert_default();
        run.last = self.commands.len();
        run.publishes += 1;
        run.bytes += bytes;
        self.commands.push((QUIET, command));
    }

    /// Has the last of a run of publishes answered.
    fn end_run(&mut self) {
        if let Some(run) = self.run.take()
            && let Some((token, _)) = self.commands.get_mut(run.last)
        {
            *token = self.next;
            self.next += 1;
            let Run {
                publishes, bytes, ..
            } = run;
            self.pending.push_back(Pending::Sent { publishes, bytes });
        }
    }

    pub(super) fn ask(&mut self, command: Command, pending: Pending) {
        self.end_run();
        self.commands.push((self.next, command));
        self.next += 1;
        self.pending.push_back(pending);
    }

    /// Asks for something that nobody waits for: no answer comes.
    pub(super) fn tell(&mut self, command: Command) {
        self.commands.push((QUIET, command));
    }

    /// Is done with a message. Of a group, those that follow each other are one command.
    pub(super) fn ack(&mut self, group: GroupId, seq: Seq) {
        match self.commands.last_mut() {
            Some((
                QUIET,
                Command::AckAll {
                    group: same,
                    messages,
                },
            )) if *same == group => messages.push(seq),
            Some((QUIET, command @ Command::Settle { .. })) => {
                if let &mut Command::Settle {
                    message: Handle::Group(same, first),
                    how: Settle::Ack,
                } = command
                    && same == group
                {
                    let messages = vec![first, seq];
                    *command = Command::AckAll { group, messages };
                } else {
                    self.ack_one(group, seq);
                }
            }
            _ => self.ack_one(group, seq),
        }
    }

    fn ack_one(&mut self, group: GroupId, seq: Seq) {
        let settle = Command::Settle {
            message: Handle::Group(group, seq),
            how: Settle::Ack,
        };
        self.tell(settle);
    }
}

/// What an answer of a shard answers.
#[derive(Debug)]
pub(super) enum Pending {
    /// A publish: its number in confirm mode (0: none) and the octets of its body.
    Published {
        number: u64,
        bytes: u64,
        /// What was noted of it, to be forgotten if it is refused.
        noted: Option<Arc<[Noted]>>,
        laying: Option<Box<Laying>>,
    },
    /// Publishes that nobody waits for one by one: how many, and the octets of their bodies.
    Sent { publishes: usize, bytes: u64 },
    /// A publish that is stored only if somebody is given it at once.
    Offered { offer: u64, store: Box<Store> },
    /// A message that its consumer is to be given again.
    Recovered(Delivered),
    /// A consumer that is to be pushed nothing more.
    Stopped,
    /// A shard's part of a transaction.
    Committed(ShardId),
    /// The link of a consumer.
    Opened { consumer: u32 },
    /// A consumer.
    Subscribed { consumer: u32, no_wait: bool },
    /// The end of a consumer.
    Unsubscribed {
        consumer: u32,
        tag: Arc<str>,
        no_wait: bool,
    },
    /// The queue of a `basic.get`.
    Counted,
    /// Where a consumer of a stream begins.
    Located,
    /// What a consumer of a stream reads.
    Read,
    /// A `basic.get`.
    Fetched { no_ack: bool, queue: Arc<Queue> },
}
