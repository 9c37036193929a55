//! Consumers that hold messages too long lose them, and end; their channel and the other consumers go on.

use longtail_edge::Out;
use longtail_engine::{Command, Settle};
use longtail_model::{ConsumerTag, Link, Timestamp};

use super::channel::Channel;
use super::consuming::the_group;
use super::{Action, Shared, say};
use crate::codec::Method;
use crate::exception::{Exception, precondition};

/// Tags that a client may still settle after it lost the messages.
const LATE_MAX: usize = 65_536;

impl Channel {
    /// Ends the consumers that hold something too long. `Some`: when to look again, at the latest.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` for a client that does not understand that the server cancels a consumer.
    pub(super) fn time_out(
        &mut self,
        now: Timestamp,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<Option<Timestamp>, Exception> {
        let mut next: Option<Timestamp> = None;
        let mut late = Vec::new();
        for (&number, consumer) in &self.consumers {
            let Some(timeout_ms) = consumer.timeout_ms else {
                continue;
            };
            // What is given from now on is not due before this.
            let since = self.unacked.oldest_of(number).unwrap_or(now);
            let due = since.plus_millis(timeout_ms);
            if due <= now {
                late.push((number, timeout_ms));
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        for (number, timeout_ms) in late {
            if !shared.capabilities.consumer_cancel_notify {
                return Err(precondition(format!(
                    "delivery acknowledgement on channel {} timed out. Timeout value used: {timeout_ms} ms. This \
                     timeout value can be configured, see consumers doc guide to learn more",
                    self.number()
                )));
            }
            self.take_back(number, shared, out);
        }
        Ok(next)
    }

    /// Cancels a consumer and gives back what it holds, as failed.
    fn take_back(&mut self, number: u32, shared: &mut Shared, out: &mut Out) {
        let Some(consumer) = self.forget_consumer(number) else {
            return;
        };
        tracing::info!(
            queue = &*consumer.queue.name,
            "a consumer has held a message too long"
        );
        self.tags.remove(&consumer.tag);
        if let Some(way) = self.ways.get_mut(usize::from(consumer.queue.shard.0)) {
            // Before anything goes back: it would be the first to get it again.
            let unsubscribe = Command::Unsubscribe {
                consumer: ConsumerTag(number),
                link: Link(number),
                group: the_group(),
            };
            way.tell(unsubscribe);
            way.tell(Command::Close { link: Link(number) });
        }
        self.return_kept(number);
        let held = self.unacked.take_of(number);
        self.late.extend(held.iter().map(|delivered| delivered.tag));
        let failed = Settle::Release {
            priority: None,
            delay_ms: 0,
            failed: true,
        };
        self.settle_all(&held, failed);
        while self.late.len() > LATE_MAX {
            self.late.pop_first();
        }
        let cancel = Method::BasicCancel {
            consumer_tag: &consumer.tag,
            no_wait: true,
        };
        say(&cancel, self.number(), out);
        if consumer.queue.leave() {
            shared.actions.push(Action::DeleteUnused(consumer.queue));
        }
    }
}
