//! What a session does with one request: ask the shard, or say something, now or in its turn.

use std::sync::Arc;

use longtail_engine::command::{Command, Role};
use longtail_model::Link;

use super::pending::{Mark, Pending};
use super::{Commands, Outbox, Session};
use crate::codec::{Word, reply};
use crate::tenant::Tenant;

/// A session while it works through its input.
pub(super) struct Turn<'a> {
    pub(super) session: &'a mut Session,
    pub(super) tenant: &'a Tenant,
    pub(super) commands: &'a mut Commands,
    /// Of the request that is worked on, when its turn is still to come.
    pub(super) mark: Option<Mark>,
}

impl Turn<'_> {
    /// Sends a command to the shard, and remembers what its answer is for.
    pub(super) fn ask(&mut self, command: Command, pending: Pending) {
        self.commands.push((self.session.asked, command));
        self.session.asked += 1;
        self.wait(pending);
    }

    pub(super) fn wait(&mut self, pending: Pending) {
        self.session
            .pending
            .push(pending, self.mark.take(), self.tenant.config.job_size_max);
    }

    pub(super) fn open_link(&mut self, link: Link, tube: Arc<str>, role: Role, pending: Pending) {
        let create = Some(self.tenant.template(&tube));
        self.ask(
            Command::Open {
                link,
                name: self.tenant.stream(tube),
                create,
                role,
            },
            pending,
        );
    }

    /// Gives an answer that does not need the shard: now, or when what was asked before is answered.
    pub(super) fn say(&mut self, word: Word, out: &mut impl Outbox) {
        if self.session.pending.is_empty() {
            reply::word(out.tail(), word);
        } else {
            self.wait(Pending::Word(word));
        }
    }

    /// As [`Turn::say`], for an answer that is not one of the fixed lines.
    pub(super) fn say_text(
        &mut self,
        out: &mut impl Outbox,
        write: impl FnOnce(&Session, &mut Vec<u8>),
    ) {
        if self.session.pending.is_empty() {
            write(self.session, out.tail());
        } else {
            let mut text = Vec::new();
            write(self.session, &mut text);
            self.wait(Pending::Text(text.into_boxed_slice()));
        }
    }

    /// Counts a request: now, or when what was asked before is answered. To be called before anything is said or
    /// asked on its behalf.
    pub(super) fn count(&mut self, mark: Mark) {
        if self.session.pending.is_empty() {
            self.session.count(mark, &self.tenant.counters);
        } else {
            self.mark = Some(mark);
        }
    }
}
