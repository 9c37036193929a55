//! `basic.recover`: what a channel holds goes back to its queues or, where the server is not strict and the client wants
//! that, to the consumers that have it already, under new delivery tags.
//!
//! The latter never leaves their hands: the shard holds it for the channel as before, and only shows it again. That is
//! done a few messages at a time, and not while the client does not read. Input waits for the end of it, so that an
//! acknowledgement that follows can name the new tags only.

use std::collections::VecDeque;

use longtail_edge::Out;
use longtail_engine::{Command, Delivery, Handle, Message, Reply};
use longtail_model::ConsumerTag;

use super::channel::{Channel, Pending, internal};
use super::delivering::Shown;
use super::settling::refusal;
use super::shared::Answerer;
use super::unacked::Delivered;
use super::{Shared, say};
use crate::codec::Method;
use crate::exception::{Exception, not_implemented};

/// Messages that shards are asked to show at a time.
const ASKED_MAX: usize = 16;

/// What is being delivered again.
#[derive(Debug)]
pub(super) struct Recovering {
    left: VecDeque<Delivered>,
    /// Shards have been asked for so many.
    asked: usize,
    /// The client waits for `recover-ok`.
    answers: bool,
}

impl Channel {
    /// `basic.recover`, which has an answer, and `basic.recover-async`, which has none.
    pub(super) fn recover(
        &mut self,
        (requeue, answers): (bool, bool),
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if !requeue && shared.strict {
            return Err(not_implemented("requeue=false"));
        }
        // Not part of a transaction: what one has settled is not among these.
        let all = self.unacked.take_all();
        let again = |delivered: &Delivered| {
            !requeue && !delivered.is_read && self.consumers.contains_key(&delivered.consumer)
        };
        let (again, back): (Vec<_>, Vec<_>) = all.into_iter().partition(again);
        self.settle_all(&back, refusal(true, false));
        let recovering = Recovering {
            left: again.into(),
            asked: 0,
            answers,
        };
        if recovering.left.is_empty() {
            if answers {
                say(&Method::BasicRecoverOk {}, self.number(), out);
            }
            return Ok(());
        }
        self.recovering = Some(recovering);
        shared.busy = Some(Answerer::Shards(self.incarnation()));
        self.recover_on(shared, out);
        Ok(())
    }

    /// Asks for more of what is to be delivered again, if the client reads, and answers when that was all.
    pub(super) fn recover_on(&mut self, shared: &mut Shared, out: &mut Out) {
        while let Some(recovering) = &mut self.recovering {
            if recovering.left.is_empty() {
                if recovering.asked > 0 {
                    return;
                }
                if recovering.answers {
                    say(&Method::BasicRecoverOk {}, self.number(), out);
                }
                self.recovering = None;
                shared.answered();
                return;
            }
            if recovering.asked >= ASKED_MAX {
                return;
            }
            if out.is_over_soft_limit() {
                out.ask_for_room();
                return;
            }
            let Some(delivered) = recovering.left.pop_front() else {
                return;
            };
            if let Some(way) = self.ways.get_mut(usize::from(delivered.shard)) {
                recovering.asked += 1;
                let message = Handle::Group(delivered.group, delivered.seq);
                way.ask(Command::Peek { message }, Pending::Recovered(delivered));
            }
        }
    }

    /// A shard shows a message again.
    pub(super) fn recovered(
        &mut self,
        at: usize,
        delivered: Delivered,
        (reply, message): (&Reply, Option<&Message<'_>>),
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if let Some(recovering) = &mut self.recovering {
            recovering.asked = recovering.asked.saturating_sub(1);
        }
        let consumer = self.consumers.get(&delivered.consumer);
        match (reply, consumer) {
            (Reply::Peeked { position, .. }, Some(consumer)) => {
                let message = message.ok_or_else(|| internal("a message cannot be read"))?;
                let delivery = Delivery {
                    consumer: ConsumerTag(delivered.consumer),
                    stream: consumer.queue.stream,
                    group: delivered.group,
                    seq: delivered.seq,
                    position: *position,
                    redeliveries: delivered.deliveries,
                    failures: delivered.failures,
                    mark: 0,
                };
                let shown = Shown::of(message);
                // It is counted again as it is delivered.
                self.shared_held = self.shared_held.saturating_sub(1);
                self.deliver(at, &delivery, shown, shared, out)?;
            }
            // The queue was purged, or it is too old: nobody has it any more.
            (Reply::NotFound, _) => self.is_settled(&delivered),
            // Its consumer has gone meanwhile, or it cannot be shown.
            _ => self.settle_all(&[delivered], refusal(true, false)),
        }
        self.recover_on(shared, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longtail_model::{GroupId, Lsn, Seq, SessionId, ShardId, Timestamp};

    use super::*;
    use crate::session::delivering::tests::consumer;
    use crate::session::tests::Nobody;

    fn delivered(tag: u64, consumer: u32) -> Delivered {
        Delivered {
            tag,
            shard: 0,
            group: GroupId(1),
            seq: Seq(tag),
            consumer,
            deliveries: 1,
            failures: 0,
            at: Timestamp(0),
            is_read: false,
        }
    }

    #[test]
    fn consumers_have_again_what_they_have_and_what_was_fetched_goes_back() {
        let mut shared = Shared::new(1, Arc::new(Nobody));
        let mut out = Out::new(1 << 20);
        let mut channel = Channel::new(1, 1, &[(ShardId(0), SessionId(1))]);
        let mut one = consumer(100);
        (one.held, one.level, channel.shared_held) = (20, 100, 20);
        channel.consumers.insert(1, one);
        channel.unacked.push(delivered(1, 0));
        for tag in 2..22 {
            channel.unacked.push(delivered(tag, 1));
        }
        channel.last_delivery = 21;
        assert!(
            channel
                .recover((false, true), &mut shared, &mut out)
                .is_err()
        );
        shared.strict = false;
        channel
            .recover((false, true), &mut shared, &mut out)
            .unwrap();
        let told = channel.ways[0].waiting();
        assert!(
            matches!(&told[0], Command::ReleaseAll { messages, .. } if *messages == [Seq(1)]),
            "{told:?}"
        );
        assert_eq!(told.len(), 1 + ASKED_MAX, "no more at a time");
        assert!(shared.busy.is_some());
        let message = Message {
            created: Timestamp(0),
            priority: longtail_model::Priority(0),
            delay_ms: 0,
            ack_timeout_ms: 0,
            expires: Timestamp::NEVER,
            subject: b"",
            id: b"",
            key: 0,
            headers: b"",
            payload: b"x",
            shared: None,
        };
        let seen = |seq| Reply::Peeked {
            seq,
            position: Lsn::ZERO,
        };
        for tag in 2..22 {
            let pending = channel.ways[0].answered();
            let Some(Pending::Recovered(delivered)) = pending else {
                panic!("{pending:?}")
            };
            assert_eq!(delivered.tag, tag);
            // One has gone meanwhile.
            let reply = if tag == 5 {
                Reply::NotFound
            } else {
                seen(delivered.seq)
            };
            let shown = (&reply, Some(&message));
            channel
                .recovered(0, delivered, shown, &mut shared, &mut out)
                .unwrap();
        }
        assert!(shared.busy.is_none());
        assert_eq!((channel.unacked.len(), channel.last_delivery), (19, 40));
        assert_eq!(channel.shared_held, 19);
        assert_eq!(channel.consumers[&1].held, 19);
        let given = channel.unacked.take(22).unwrap();
        assert_eq!((given.seq, given.deliveries), (Seq(2), 2));
    }
}
