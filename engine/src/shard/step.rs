//! How a command is carried out, and what ends a step and a batch.

use longtail_model::{Durability, SessionId, Timestamp};

use super::Shard;
use crate::command::{Command, Settle, Token};
use crate::effect::{Effect, Effects, Gate, Refusal, Reply};
use crate::stream::SessionKey;

impl Shard {
    /// Carries out one command, and those of other sessions that it unblocks.
    pub fn step(
        &mut self,
        now: Timestamp,
        session: SessionId,
        token: Token,
        command: Command,
        fx: &mut dyn Effects,
    ) {
        self.now = self.now.max(now);
        let Some(&key) = self.session_by.get(&session) else {
            return;
        };
        let Some(state) = self.sessions.get_mut(key) else {
            return;
        };
        if state.blocked.is_some() {
            if state.backlog.len() < self.config.max_backlog {
                state.backlog.push_back((token, command));
            } else {
                // The protocol's own bound on pipelining is far below; this one only keeps memory finite.
                let refusal = Refusal::Limit("too many commands behind one that waits".to_owned());
                fx.emit(
                    session,
                    Gate::OPEN,
                    Effect::Reply(token, Reply::Refused(refusal)),
                );
            }
            return;
        }
        self.execute(key, token, command, fx);
        self.run_unblocked(fx);
    }

    /// Ends a step: drops what was only for those who waited, and carries out what waits in sessions that are no longer
    /// blocked.
    pub(super) fn run_unblocked(&mut self, fx: &mut dyn Effects) {
        loop {
            if let Some(stream) = self.fleeting.pop() {
                self.expire_now(stream, fx);
                continue;
            }
            if let Some(stream) = self.crowded.pop() {
                self.shrink(stream, fx);
                continue;
            }
            let Some(key) = self.runnable.pop_front() else {
                return;
            };
            while !self.has_leftovers()
                && let Some(state) = self.sessions.get_mut(key)
            {
                if state.blocked.is_some() {
                    break;
                }
                let Some((token, command)) = state.backlog.pop_front() else {
                    break;
                };
                self.execute(key, token, command, fx);
            }
            if self.has_leftovers() {
                self.runnable.push_front(key);
            }
        }
    }

    /// Whether something is to go before the next command.
    fn has_leftovers(&self) -> bool {
        !self.fleeting.is_empty() || !self.crowded.is_empty()
    }

    fn execute(&mut self, key: SessionKey, token: Token, command: Command, fx: &mut dyn Effects) {
        let outcome = match command {
            Command::Publish { to, also, message } => self.publish(key, to, &also, &message, fx),
            Command::Offer { to, also, message } => self.offer(key, to, &also, &message, fx),
            Command::Transact(transaction) => self.transact(key, *transaction, fx),
            Command::Take {
                consumer,
                wait,
                deadline_margin_ms,
            } => {
                return self.take(key, token, consumer, wait, deadline_margin_ms, fx);
            }
            Command::Discard { message } => self.discard(key, message, fx),
            Command::Settle { message, how } => self.settle(key, message, how, fx),
            Command::AckAll { group, messages } => self.ack_all(key, group, &messages, fx),
            Command::ReleaseAll {
                group,
                messages,
                delay_ms,
                failed,
            } => {
                let how = Settle::Release {
                    priority: None,
                    delay_ms,
                    failed,
                };
                self.put_back_all(key, (group, &messages), how, fx)
            }
            Command::Mark {
                message,
                mark,
                noted,
            } => self.mark(key, message, mark, noted),
            Command::MarkAll { group, marks } => self.mark_all(key, group, &marks),
            Command::Marked { stream, group } => self.marked(key, stream, &group),
            Command::Remove { stream, seq } => self.remove(key, stream, seq, fx),
            Command::Extend { message, ms } => self.extend(key, message, ms),
            Command::TakeOne { message } => self.take_one(key, message),
            Command::Prefer { consumer, priority } => self.prefer(key, consumer, priority),
            Command::Credit { consumer, credit } => self.credit(key, consumer, credit, fx),
            Command::Open {
                link,
                name,
                create,
                role,
            } => self.open_link(key, link, name, create.as_deref(), role),
            Command::Close { link } => self.close_link(key, link),
            Command::Subscribe {
                consumer,
                link,
                group,
            } => self.subscribe(key, consumer, link, &group, fx),
            Command::Unsubscribe {
                consumer,
                link,
                group,
            } => self.unsubscribe(key, consumer, link, &group, fx),
            Command::Dispatch { stream, group, how } => {
                self.set_dispatch(key, stream, &group, &how, fx)
            }
            Command::Peek { message } => self.peek(key, message),
            Command::PeekHead {
                stream,
                group,
                which,
            } => self.peek_head(key, stream, &group, which),
            Command::Kick { stream, group, max } => self.kick(key, stream, &group, max, fx),
            Command::KickOne { message } => self.kick_one(key, message, fx),
            Command::Pause {
                stream,
                group,
                until,
                durable,
            } => self.pause(&stream, group.as_ref(), until, durable, fx),
            Command::Purge {
                stream,
                group,
                held,
            } => self.purge(&stream, group.as_deref(), held, fx),
            Command::Define { name, config } => self.define(name, &config),
            Command::Redefine { name, config } => self.redefine(&name, *config),
            Command::Delete { name, only } => self.delete(&name, only, fx),
            Command::DefineGroup {
                stream,
                group,
                config,
            } => self.define_group(&stream, &group, &config),
            Command::DeleteGroup { stream, group } => self.delete_group(&stream, &group, fx),
            Command::Read {
                name,
                from,
                max,
                max_bytes,
                wait,
            } => {
                return self.read(key, token, &name, from, max, max_bytes, wait, fx);
            }
            Command::Locate { name, start } => self.start_in(&name, start),
            Command::PutDocument { name, body } => self.put_document(&name, body.as_deref()),
            Command::DescribeMessage { message } => self.describe_message(key, message),
            Command::DescribeStream { name } => self.describe_stream(&name),
            Command::DescribeGroups { stream } => self.describe_groups(&stream),
            Command::ListStreams { space } => self.list_streams(space.as_deref()),
            Command::DescribeStreams {
                space,
                after,
                limit,
            } => self.describe_streams(space.as_deref(), after, limit),
            Command::DescribeShard => self.describe_shard(),
        };
        let (gate, reply) = outcome.unwrap_or_else(|refusal| (Gate::OPEN, Reply::Refused(refusal)));
        if let Some(state) = self.sessions.get(key) {
            fx.emit(state.id, gate, Effect::Reply(token, reply));
        }
    }

    /// Tells the log of the deliveries of this batch. To be called after the last command of a batch, before writing.
    pub fn end_batch(&mut self) {
        if self.logs.page_cache().has_lost() {
            self.mend_pages();
        }
        if self.taken.is_empty() {
            return;
        }
        let taken = std::mem::take(&mut self.taken);
        for &(group, seq) in &taken {
            let Some((stream, at)) = self.group_at(group) else {
                continue;
            };
            let Some(found) = self.streams.get(&stream) else {
                continue;
            };
            if found.level == Durability::Memory {
                continue;
            }
            let domain = self.domain(stream, at);
            // Settled within the same batch: nothing left to remember.
            let Some(hold) = self
                .hold_by
                .get(domain, seq.0)
                .and_then(|key| self.holds.get(key))
            else {
                continue;
            };
            let deliveries = hold.counts.deliveries;
            self.scratch.clear();
            crate::event::put_taken(&mut self.scratch, group, seq, deliveries);
            self.logs.note(&self.scratch);
        }
        self.taken = taken;
        self.taken.clear();
    }
}
