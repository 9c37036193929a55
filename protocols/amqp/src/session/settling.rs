//! What becomes of what a channel was given: acknowledged, refused, taken back.

use hashbrown::HashMap;
use longtail_engine::{Command, Delivery, Handle, Settle};
use longtail_model::{GroupId, Seq};

use super::channel::Channel;
use super::unacked::Delivered;
use crate::exception::{Exception, precondition};

impl Channel {
    pub(super) fn ack_delivery(&mut self, at: usize, delivery: &Delivery) {
        if let Some(way) = self.ways.get_mut(at) {
            way.ack(delivery.group, delivery.seq);
        }
    }

    pub(super) fn settle_delivery(&mut self, at: usize, delivery: &Delivery, how: Settle) {
        if let Some(way) = self.ways.get_mut(at) {
            let message = Handle::Group(delivery.group, delivery.seq);
            way.tell(Command::Settle { message, how });
        }
    }

    pub(super) fn settle(&mut self, delivered: &Delivered, how: Settle) {
        self.counts.ack += u64::from(how == Settle::Ack);
        if delivered.is_read {
            self.has_read(delivered, how);
            return;
        }
        let how = self.with_retry(delivered, how);
        if let Some(way) = self.ways.get_mut(usize::from(delivered.shard)) {
            if how == Settle::Ack {
                way.ack(delivered.group, delivered.seq);
            } else {
                let message = Handle::Group(delivered.group, delivered.seq);
                way.tell(Command::Settle { message, how });
            }
        }
    }

    /// A delivery is no longer its consumer's, which may have another.
    pub(super) fn is_settled(&mut self, delivered: &Delivered) {
        if delivered.consumer > 0 && !delivered.is_read {
            self.shared_held = self.shared_held.saturating_sub(1);
        }
        if let Some(consumer) = self.consumers.get_mut(&delivered.consumer) {
            consumer.held = consumer.held.saturating_sub(1);
            self.feed(delivered.consumer);
        }
    }

    /// A message that comes back to a queue with retries is not ready at once.
    pub(super) fn with_retry(&self, delivered: &Delivered, how: Settle) -> Settle {
        let Settle::Release {
            priority, failed, ..
        } = how
        else {
            return how;
        };
        let queue = self.retrying.get(&delivered.group);
        let retry = queue.and_then(|queue| queue.settings().retry);
        let delay_ms = retry.map_or(0, |retry| retry.delay_ms(delivered.deliveries, failed));
        Settle::Release {
            priority,
            delay_ms,
            failed,
        }
    }

    pub(super) fn settle_all(&mut self, all: &[Delivered], how: Settle) {
        if matches!(how, Settle::Release { .. }) {
            self.requeue(all, how);
        } else {
            for delivered in all {
                self.settle(delivered, how);
            }
        }
        // Behind them: what comes between would make each a command of its own.
        for delivered in all {
            self.is_settled(delivered);
        }
    }

    /// What goes back to a queue by one request is there again as one, before any of it is delivered.
    fn requeue(&mut self, all: &[Delivered], how: Settle) {
        let mut returns = Returns::default();
        for delivered in all.iter().filter(|delivered| !delivered.is_read) {
            let how = self.with_retry(delivered, how);
            let way = usize::from(delivered.shard);
            returns.add(way, (delivered.group, delivered.seq), how);
        }
        self.requeue_all(returns);
    }

    pub(super) fn requeue_all(&mut self, returns: Returns) {
        for (way, command) in returns.commands {
            if let Some(way) = self.ways.get_mut(way) {
                way.tell(command);
            }
        }
    }

    /// Takes what a tag names: itself, all up to it, or with 0 everything.
    fn settle_tags(&mut self, tag: u64, multiple: bool, how: Settle) -> Result<(), Exception> {
        let unknown = || precondition(format!("unknown delivery tag {tag}"));
        if !multiple {
            if self.late.remove(&tag) {
                return Ok(());
            }
            let delivered = self.unacked.take(tag).ok_or_else(unknown)?;
            if self.staged.is_some() {
                return self.stage_settlements(vec![delivered], how);
            }
            self.settle(&delivered, how);
            self.is_settled(&delivered);
            return Ok(());
        }
        let all = if tag == 0 {
            self.unacked.take_all()
        } else {
            let known = self.unacked.take_to(tag);
            let late = self.late.remove(&tag);
            self.late = self.late.split_off(&tag);
            match known {
                Some(all) => all,
                None if late => self.unacked.take_through(tag),
                None => return Err(unknown()),
            }
        };
        if self.staged.is_some() {
            return self.stage_settlements(all, how);
        }
        self.settle_all(&all, how);
        Ok(())
    }

    pub(super) fn ack(&mut self, tag: u64, multiple: bool) -> Result<(), Exception> {
        self.settle_tags(tag, multiple, Settle::Ack)
    }

    pub(super) fn nack(
        &mut self,
        tag: u64,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), Exception> {
        self.settle_tags(tag, multiple, refusal(requeue, false))
    }

    pub(super) fn reject(&mut self, tag: u64, requeue: bool) -> Result<(), Exception> {
        self.settle_tags(tag, false, refusal(requeue, true))
    }
}

/// What goes back to queues together: what is of one queue, and ready again at one moment, is one command.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Each with the place of its way, in the order in which their first messages were named.
    commands: Vec<(usize, Command)>,
    /// The place among them of what goes by a way to a group after a delay, and whether its delivery has failed.
    places: HashMap<(usize, GroupId, u64, bool), usize>,
}

impl Returns {
    /// A message is given back. `how` is a release, without a priority.
    pub(super) fn add(&mut self, way: usize, (group, seq): (GroupId, Seq), how: Settle) {
        let Settle::Release {
            delay_ms, failed, ..
        } = how
        else {
            return;
        };
        let next = self.commands.len();
        let same = (way, group, delay_ms, failed);
        let place = *self.places.entry(same).or_insert(next);
        if let Some((_, Command::ReleaseAll { messages, .. })) = self.commands.get_mut(place) {
            messages.push(seq);
        } else {
            let messages = vec![seq];
            let command = Command::ReleaseAll {
                group,
                messages,
                delay_ms,
                failed,
            };
            self.commands.push((way, command));
        }
    }
}

/// What becomes of a message that its consumer does not want.
pub(super) fn refusal(requeue: bool, failed: bool) -> Settle {
    if requeue {
        Settle::Release {
            priority: None,
            delay_ms: 0,
            failed,
        }
    } else {
        Settle::Reject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_is_together_only_where_it_goes_back_alike() {
        let mut returns = Returns::default();
        let group = GroupId(1);
        for (seq, failed) in [(1, false), (2, true), (3, false), (4, true)] {
            returns.add(0, (group, Seq(seq)), refusal(true, failed));
        }
        let together = |(way, command)| match command {
            Command::ReleaseAll {
                messages, failed, ..
            } => (way, messages, failed),
            other => panic!("{other:?}"),
        };
        let together: Vec<_> = returns.commands.into_iter().map(together).collect();
        assert_eq!(
            together,
            [
                (0, vec![Seq(1), Seq(3)], false),
                (0, vec![Seq(2), Seq(4)], true)
            ]
        );
    }
}
