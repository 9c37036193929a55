//! `channel.flow`, where the server is not strict: a client that says `active=false` is delivered nothing on that channel
//! until it says the opposite.
//!
//! The consumers' credit at their shards is taken back. A shard answers behind what it has pushed already, so that
//! `flow-ok` is said when nothing is on its way any more. What the client asks for itself (`basic.get`,
//! `basic.recover`) and direct replies, which nothing stores, come all the same.

use longtail_edge::Out;
use longtail_engine::{Command, Credit};
use longtail_model::ConsumerTag;

use super::channel::{Channel, Pending};
use super::shared::Answerer;
use super::{Shared, say};
use crate::codec::Method;
use crate::exception::{Exception, not_implemented};

/// Whether deliveries are stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pausing {
    pub(super) is_paused: bool,
    /// Shards that may still be pushing, counted by consumer.
    stopping: usize,
}

impl Channel {
    /// `channel.flow`.
    pub(super) fn flow(
        &mut self,
        active: bool,
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if active {
            let was_paused = std::mem::take(&mut self.pausing.is_paused);
            say(&Method::ChannelFlowOk { active: true }, self.number(), out);
            if was_paused {
                self.feed_all();
            }
            return Ok(());
        }
        if shared.strict {
            return Err(not_implemented("active=false"));
        }
        self.pausing.is_paused = true;
        for (number, consumer) in &mut self.consumers {
            let at = usize::from(consumer.queue.shard.0);
            // One that reads a stream asks for every piece, and asks no more.
            let Some(way) = self.ways.get_mut(at).filter(|_| consumer.reader.is_none()) else {
                continue;
            };
            consumer.level = 0;
            let credit = if consumer.no_ack {
                Credit::Away(0)
            } else {
                Credit::Level(0)
            };
            let consumer = ConsumerTag(*number);
            way.ask(Command::Credit { consumer, credit }, Pending::Stopped);
            self.pausing.stopping += 1;
        }
        if self.pausing.stopping == 0 {
            say(&Method::ChannelFlowOk { active: false }, self.number(), out);
        } else {
            shared.busy = Some(Answerer::Shards(self.incarnation()));
        }
        Ok(())
    }

    /// A shard pushes nothing more to a consumer.
    pub(super) fn stopped(&mut self, shared: &mut Shared, out: &mut Out) {
        self.pausing.stopping = self.pausing.stopping.saturating_sub(1);
        if self.pausing.stopping == 0 {
            for consumer in self.consumers.values_mut() {
                consumer.ahead = 0;
            }
            say(&Method::ChannelFlowOk { active: false }, self.number(), out);
            shared.answered();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longtail_model::{SessionId, ShardId};

    use super::*;
    use crate::session::delivering::tests::consumer;
    use crate::session::tests::Nobody;

    fn credits(channel: &mut Channel) -> Vec<Credit> {
        let commands = channel.ways[0].waiting().into_iter();
        let credit = |command| match command {
            Command::Credit { credit, .. } => Some(credit),
            _ => None,
        };
        commands.filter_map(credit).collect()
    }

    #[test]
    fn a_channel_is_still_when_its_shards_have_said_so_until_it_goes_on() {
        let mut shared = Shared::new(1, Arc::new(Nobody));
        let mut out = Out::new(1 << 20);
        let mut channel = Channel::new(1, 1, &[(ShardId(0), SessionId(1))]);
        channel.consumers.insert(1, consumer(5));
        channel.feed(1);
        assert_eq!(credits(&mut channel), [Credit::Level(5)]);
        assert!(channel.flow(false, &mut shared, &mut out).is_err());
        shared.strict = false;
        channel.flow(false, &mut shared, &mut out).unwrap();
        assert_eq!(credits(&mut channel), [Credit::Level(0)]);
        assert!(shared.busy.is_some() && out.tail().is_empty());
        channel.feed(1);
        assert_eq!(credits(&mut channel), []);
        channel.stopped(&mut shared, &mut out);
        assert!(shared.busy.is_none() && !out.tail().is_empty());
        channel.flow(true, &mut shared, &mut out).unwrap();
        assert_eq!(credits(&mut channel), [Credit::Level(5)]);
    }
}
