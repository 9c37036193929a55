//! Transactions (specification, 1.9): publishes and settlements wait, and are done together when they are committed.
//!
//! ```text
//! tx.select ─▶ publish, ack, ... ─▶ Transaction ─┬─ commit ──▶ routes ─▶ one Transact a shard ─▶ commit-ok
//!                                                └─ rollback ─▶ publishes dropped, deliveries unsettled again
//! ```
//!
//! A commit is whole at each shard, and so for each queue. What is gone when it is committed (a queue that was deleted,
//! a message that was taken back) is left out, as it would be without a transaction. A queue that is full refuses all
//! that its shard was to do.

use std::collections::BTreeMap;

use longtail_broker::message::SharedMessage;
use longtail_edge::Out;
use longtail_engine::{
    Command, Handle, Refusal, Reply as Answer, Settle, Step, Target, Transaction,
};
use longtail_model::{GroupId, ShardId, StreamId};

use super::channel::{Channel, Pending, internal};
use super::routing::{Plan, Publication};
use super::settling::Returns;
use super::shared::Answerer;
use super::unacked::Delivered;
use super::{Action, Shared, say};
use crate::codec::{Method, ReplyCode};
use crate::config::Config;
use crate::exception::{Exception, precondition};
use crate::graph::Noted;
use crate::replies::{Recipient, Reply};
use crate::store::forget;
use crate::subjects::Told;

/// Class and method of `tx.commit`.
const COMMIT: (u16, u16) = (90, 20);

/// What a channel in transaction mode has gathered.
#[derive(Debug, Default)]
pub(super) struct Staged {
    publications: Vec<Publication>,
    settlements: Vec<(Delivered, Settle)>,
    bytes: u64,
    commit: Option<Commit>,
}

impl Staged {
    /// Publishes and settlements that are not committed.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let (publications, settlements) = (self.publications.len(), self.settlements.len());
        (publications as u64, settlements as u64)
    }
}

/// A commit that waits for the shards.
#[derive(Debug, Default)]
struct Commit {
    /// What each shard was asked to do, until it has answered.
    parts: BTreeMap<ShardId, Part>,
    failed: Option<Exception>,
    /// What is shown to whoever is not AMQP once the queues have everything, and how many of them are not safe yet.
    shares: Vec<SharedMessage>,
    sharing: usize,
    /// What queues and exchanges have noted of its messages.
    noted: Vec<Noted>,
    replies: Vec<(Recipient, Reply)>,
    settled: Vec<(Delivered, Settle)>,
}

/// What is done at one shard.
#[derive(Debug, Default)]
struct Part {
    steps: Vec<Step>,
    /// Settlements in groups that have lost messages meanwhile: each is done if its message is there.
    loose: Vec<Step>,
}

impl Part {
    /// Leaves out what made a shard refuse the whole, if it may be left out. `is_there` knows which streams still are.
    fn leave_out(&mut self, step: u32, why: &Refusal, is_there: impl Fn(StreamId) -> bool) -> bool {
        let Ok(at) = usize::try_from(step) else {
            return false;
        };
        match (self.steps.get(at), why) {
            (
                Some(Step::Settle {
                    message: Handle::Group(group, _),
                    ..
                }),
                Refusal::Gone | Refusal::UnknownLink,
            ) => {
                let group = *group;
                let loose = (self.steps).extract_if(.., |step| group_of(step) == Some(group));
                self.loose.extend(loose);
                true
            }
            (Some(Step::Publish { .. }), Refusal::UnknownLink | Refusal::Gone) => {
                let refused = self.steps.remove(at);
                if let Step::Publish { to, also, message } = refused {
                    let first = match to {
                        Target::Stream(stream) => Some(stream),
                        Target::Link(_) => None,
                    };
                    let all = 1 + also.len();
                    let left: Vec<_> = first
                        .into_iter()
                        .chain(also)
                        .filter(|s| is_there(*s))
                        .collect();
                    if left.len() < all
                        && let Some((&to, also)) = left.split_first()
                    {
                        let (to, also) = (Target::Stream(to), also.to_vec());
                        self.steps.insert(at, Step::Publish { to, also, message });
                    }
                }
                true
            }
            _ => false,
        }
    }
}

fn group_of(step: &Step) -> Option<GroupId> {
    match step {
        Step::Settle {
            message: Handle::Group(group, _),
            ..
        } => Some(*group),
        _ => None,
    }
}

impl Channel {
    /// `tx.select`.
    pub(super) fn tx_select(&mut self, out: &mut Out) -> Result<(), Exception> {
        if self.confirms.is_some() {
            return Err(precondition("cannot switch from confirm to tx mode"));
        }
        self.staged.get_or_insert_default();
        say(&Method::TxSelectOk {}, self.number(), out);
        Ok(())
    }

    /// Keeps a message until it is committed.
    pub(super) fn stage_publication(
        &mut self,
        publication: Publication,
        shared: &mut Shared,
        config: &Config,
    ) -> Result<(), Exception> {
        let bytes = publication.bytes();
        shared.staged_bytes += bytes;
        let held = shared.staged_bytes;
        let staged = self.staged.get_or_insert_default();
        staged.bytes += bytes;
        staged.publications.push(publication);
        if held > config.transaction_bytes_max {
            return Err(precondition(format!(
                "transactions of the connection hold {held} bytes; at most {} are kept",
                config.transaction_bytes_max
            )));
        }
        self.has_room_for_steps()
    }

    /// Keeps settlements until they are committed.
    pub(super) fn stage_settlements(
        &mut self,
        delivered: Vec<Delivered>,
        how: Settle,
    ) -> Result<(), Exception> {
        let how_of = |delivered: Delivered| (delivered, self.with_retry(&delivered, how));
        let settlements: Vec<_> = delivered.into_iter().map(how_of).collect();
        let staged = self.staged.get_or_insert_default();
        staged.settlements.extend(settlements);
        self.has_room_for_steps()
    }

    fn has_room_for_steps(&self) -> Result<(), Exception> {
        let steps = self.staged.as_ref().map_or(0, |staged| {
            staged.publications.len() + staged.settlements.len()
        });
        if steps > Transaction::MAX_STEPS {
            return Err(precondition(format!(
                "a transaction of more than {} publishes and acknowledgements",
                Transaction::MAX_STEPS
            )));
        }
        Ok(())
    }

    fn take_staged(&mut self, shared: &mut Shared) -> Result<Staged, Exception> {
        let staged = self.staged.as_mut();
        let staged = staged.ok_or_else(|| precondition("channel is not transactional"))?;
        let taken = std::mem::take(staged);
        shared.staged_bytes = shared.staged_bytes.saturating_sub(taken.bytes);
        Ok(taken)
    }

    /// What is staged is not kept for anybody any more.
    pub(super) fn forget_staged(&mut self, shared: &mut Shared) {
        if let Some(staged) = self.staged.take() {
            shared.staged_bytes = shared.staged_bytes.saturating_sub(staged.bytes);
        }
    }

    /// `tx.rollback`: what was delivered is as unsettled as before, and stays with its consumers.
    pub(super) fn tx_rollback(
        &mut self,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let staged = self.take_staged(shared)?;
        let delivered = staged.settlements.into_iter();
        self.unacked
            .put_back(delivered.map(|(delivered, _)| delivered).collect());
        say(&Method::TxRollbackOk {}, self.number(), out);
        Ok(())
    }

    /// `tx.commit`.
    pub(super) fn tx_commit(
        &mut self,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let staged = self.take_staged(shared)?;
        let mut commit = Commit::default();
        for publication in &staged.publications {
            // An exchange that is gone by now leads nowhere.
            let plan = self.plan(publication, &publication.properties()?, shared)?;
            let plan = plan.unwrap_or_default();
            self.count(publication, &plan, shared);
            self.give_back_unwanted(publication, &plan, shared, out);
            let Plan {
                stores,
                archives,
                reply,
                shares,
                noted,
                ..
            } = plan;
            commit.noted.extend(noted);
            commit.replies.extend(reply);
            commit.shares.extend(shares);
            for store in stores.into_iter().chain(archives) {
                let part = commit.parts.entry(store.shard).or_default();
                part.steps.push(store.into_step());
            }
        }
        for (delivered, how) in staged.settlements {
            if delivered.is_read {
                commit.settled.push((delivered, how));
                continue;
            }
            let part = commit.parts.entry(ShardId(delivered.shard)).or_default();
            part.steps.push(Step::Settle {
                message: Handle::Group(delivered.group, delivered.seq),
                how,
            });
            commit.settled.push((delivered, how));
        }
        shared.busy = Some(Answerer::Shards(self.incarnation()));
        for (shard, part) in &commit.parts {
            self.transact(*shard, part.steps.clone())?;
        }
        self.staged.get_or_insert_default().commit = Some(commit);
        self.end_commit(shared, out)
    }

    fn transact(&mut self, shard: ShardId, steps: Vec<Step>) -> Result<(), Exception> {
        let way = self.ways.get_mut(usize::from(shard.0));
        let way = way.ok_or_else(|| internal("no way to a shard"))?;
        let transaction = Command::Transact(Box::new(Transaction { steps }));
        way.ask(transaction, Pending::Committed(shard));
        Ok(())
    }

    /// A shard has committed, or refused.
    pub(super) fn committed(
        &mut self,
        shard: ShardId,
        answer: &Answer,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let commit = self
            .staged
            .as_mut()
            .and_then(|staged| staged.commit.as_mut());
        let Some(commit) = commit else {
            return Err(internal("a shard has committed what nobody asked for"));
        };
        let Some(part) = commit.parts.get_mut(&shard) else {
            return Err(internal("a shard has committed twice"));
        };
        match answer {
            Answer::Transacted { .. } => {}
            Answer::Refused(Refusal::Step { step, why }) => {
                let topology = shared.topology()?;
                let is_there = |stream: StreamId| {
                    let graph = topology.graph();
                    let mut queues = graph.queues();
                    queues.any(|queue| (queue.shard, queue.stream) == (shard, stream))
                };
                if part.leave_out(*step, why, is_there) {
                    let steps = part.steps.clone();
                    return self.transact(shard, steps);
                }
                commit.failed.get_or_insert(refusal(why));
            }
            Answer::Refused(why) => {
                commit.failed.get_or_insert(refusal(why));
            }
            other => {
                let text = format!("a commit was answered with {other:?}");
                commit.failed.get_or_insert(internal(&text));
            }
        }
        let part = commit.parts.remove(&shard).unwrap_or_default();
        self.settle_loose(usize::from(shard.0), part.loose);
        self.end_commit(shared, out)
    }

    /// Settles without the transaction what a shard still has of it; what goes back to a queue is there again as one, as
    /// it would be by the transaction.
    fn settle_loose(&mut self, at: usize, loose: Vec<Step>) {
        let mut returns = Returns::default();
        for step in loose {
            let Step::Settle { message, how } = step else {
                continue;
            };
            let Some(way) = self.ways.get_mut(at) else {
                continue;
            };
            match (message, how) {
                (Handle::Group(group, seq), Settle::Ack) => way.ack(group, seq),
                (Handle::Group(group, seq), Settle::Release { .. }) => {
                    returns.add(at, (group, seq), how);
                }
                _ => way.tell(Command::Settle { message, how }),
            }
        }
        self.requeue_all(returns);
    }

    /// What was shown outside of AMQP is safe there, or refused.
    pub(super) fn commit_shared(
        &mut self,
        refused: bool,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        let commit = (self.staged.as_mut()).and_then(|staged| staged.commit.as_mut());
        if let Some(commit) = commit {
            commit.sharing = commit.sharing.saturating_sub(1);
            if refused {
                let text = "a subscriber's stream has refused a message of the transaction";
                commit.failed.get_or_insert_with(|| precondition(text));
            }
        }
        self.end_commit(shared, out)
    }

    /// Tells the client, if every shard has answered.
    fn end_commit(&mut self, shared: &mut Shared, out: &mut Out) -> Result<(), Exception> {
        let commit = self
            .staged
            .as_mut()
            .and_then(|staged| staged.commit.take_if(|commit| commit.parts.is_empty()));
        let Some(mut commit) = commit else {
            return Ok(());
        };
        if commit.failed.is_none() && !commit.shares.is_empty() {
            let shares = std::mem::take(&mut commit.shares);
            commit.sharing = shares.len();
            for message in shares {
                self.show(message, Told::Commit, shared);
            }
        }
        if commit.sharing > 0 {
            self.staged.get_or_insert_default().commit = Some(commit);
            return Ok(());
        }
        shared.answered();
        if let Some(failed) = commit.failed {
            forget(&commit.noted, &shared.topology()?.graph());
            return Err(failed.about(COMMIT));
        }
        for (delivered, how) in &commit.settled {
            self.has_read(delivered, *how);
            self.is_settled(delivered);
        }
        for (to, reply) in commit.replies {
            shared.actions.push(Action::Reply(to, reply));
        }
        say(&Method::TxCommitOk {}, self.number(), out);
        Ok(())
    }
}

/// Why a commit was not done, as a client is told.
fn refusal(why: &Refusal) -> Exception {
    match why {
        Refusal::Full(_) | Refusal::Failed(_) => {
            Exception::new(ReplyCode::ResourceError, why.to_string()).of_connection()
        }
        why => precondition(format!("the transaction is refused: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use longtail_engine::NewMessage;
    use longtail_model::Seq;

    use super::*;

    fn settle(group: u64, seq: u64) -> Step {
        Step::Settle {
            message: Handle::Group(GroupId(group), Seq(seq)),
            how: Settle::Ack,
        }
    }

    fn publish(streams: &[u64]) -> Step {
        let mut streams = streams.iter().map(|stream| StreamId(*stream));
        Step::Publish {
            to: Target::Stream(streams.next().unwrap()),
            also: streams.collect(),
            message: NewMessage::default(),
        }
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        let show = |step: &Step| match step {
            Step::Settle { message, .. } => format!("{message:?}"),
            Step::Publish { to, also, .. } => format!("{to:?} {also:?}"),
            other => format!("{other:?}"),
        };
        steps.iter().map(show).collect()
    }

    #[test]
    fn settlements_of_a_queue_that_has_lost_a_message_are_done_one_by_one() {
        let steps = vec![publish(&[1]), settle(1, 1), settle(2, 1), settle(1, 2)];
        let mut part = Part {
            steps,
            ..Part::default()
        };
        assert!(part.leave_out(1, &Refusal::Gone, |_| true));
        assert_eq!(shown(&part.steps), shown(&[publish(&[1]), settle(2, 1)]));
        assert_eq!(shown(&part.loose), shown(&[settle(1, 1), settle(1, 2)]));
    }

    #[test]
    fn a_queue_that_is_gone_is_left_out_of_a_publish() {
        let steps = vec![publish(&[1, 2, 3]), publish(&[2])];
        let mut part = Part {
            steps,
            ..Part::default()
        };
        assert!(part.leave_out(0, &Refusal::UnknownLink, |stream| stream != StreamId(1)));
        assert_eq!(
            shown(&part.steps),
            shown(&[publish(&[2, 3]), publish(&[2])])
        );
        assert!(part.leave_out(1, &Refusal::UnknownLink, |_| false));
        assert_eq!(shown(&part.steps), shown(&[publish(&[2, 3])]));
        // One that is refused although all its queues seem to be there goes too: it would be refused again.
        assert!(part.leave_out(0, &Refusal::UnknownLink, |_| true));
        assert!(part.steps.is_empty());
    }

    #[test]
    fn a_full_queue_is_a_failure() {
        let mut part = Part {
            steps: vec![publish(&[1])],
            ..Part::default()
        };
        let full = Refusal::Limit("the stream is full".to_owned());
        assert!(!part.leave_out(0, &full, |_| true));
        assert_eq!(part.steps.len(), 1);
        assert_eq!(refusal(&full).code, ReplyCode::PreconditionFailed);
    }
}
