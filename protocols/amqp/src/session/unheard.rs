//! Publishes that are on their way when their channel ends: what their shard answers is acted upon although nobody is told.
//!
//! A message that is refused may come again, so what was noted of it is forgotten; and it may be a dead letter.

use std::collections::VecDeque;
use std::sync::Arc;

use longtail_engine::{Reply, Token};
use parking_lot::Mutex;

use super::Action;
use super::consuming::is_stored;
use super::publishing::Laying;
use super::way::Pending;
use crate::store::forget;
use crate::topology::Topology;

/// What the sink of a channel at one shard knows of publishes whose channel is gone.
#[derive(Debug)]
pub(crate) struct Unheard(Mutex<State>);

#[derive(Debug)]
enum State {
    /// The channel hears answers itself. But those that came while it was about to end.
    Heard(Vec<(Token, Reply)>),
    Left(Left),
}

/// What is still to be answered.
#[derive(Debug)]
struct Left {
    /// The token of the first.
    first: Token,
    pending: VecDeque<Pending>,
    topology: Arc<Topology>,
}

impl Left {
    fn take(&mut self, token: Token) -> Option<Pending> {
        // Answers that are of no interest are not kept while a channel is about to end.
        while self.first < token && self.pending.pop_front().is_some() {
            self.first += 1;
        }
        if self.first != token {
            return None;
        }
        let pending = self.pending.pop_front()?;
        self.first += 1;
        Some(pending)
    }
}

impl Default for Unheard {
    fn default() -> Self {
        Unheard(Mutex::new(State::Heard(Vec::new())))
    }
}

impl Unheard {
    /// The channel ends, and leaves what is to be answered from a token on. Yields what is to be done now.
    pub(super) fn leave(
        &self,
        (first, pending): (Token, VecDeque<Pending>),
        topology: &Arc<Topology>,
    ) -> Vec<Action> {
        let mut left = Left {
            first,
            pending,
            topology: Arc::clone(topology),
        };
        let answered: Vec<_> = {
            let mut state = self.0.lock();
            let early = match &mut *state {
                State::Heard(early) => std::mem::take(early),
                State::Left(_) => Vec::new(),
            };
            let taken = early
                .into_iter()
                .filter_map(|(token, reply)| Some((left.take(token)?, reply)));
            let taken = taken.collect();
            *state = State::Left(left);
            taken
        };
        answered
            .into_iter()
            .filter_map(|(pending, reply)| settle(pending, &reply, topology))
            .map(Action::Lay)
            .collect()
    }

    /// The shard has answered, and there is no channel. `Some`: a dead letter is to be laid.
    pub(crate) fn answered(
        &self,
        token: Token,
        reply: &Reply,
    ) -> Option<(Arc<Topology>, Box<Laying>)> {
        let (pending, topology) = match &mut *self.0.lock() {
            State::Heard(early) => {
                if matches!(reply, Reply::Published { .. } | Reply::Refused(_)) {
                    early.push((token, reply.clone()));
                }
                return None;
            }
            State::Left(left) => (left.take(token)?, Arc::clone(&left.topology)),
        };
        let laying = settle(pending, reply, &topology)?;
        Some((topology, laying))
    }
}

fn settle(pending: Pending, reply: &Reply, topology: &Topology) -> Option<Box<Laying>> {
    let Pending::Published { noted, laying, .. } = pending else {
        return None;
    };
    if let Some(noted) = noted
        && !is_stored(reply)
    {
        forget(&noted, &topology.graph());
    }
    laying?.refused_by(reply)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longtail_broker::client::block_on;
    use longtail_broker::{Broker, BrokerConfig};
    use longtail_engine::Cause;
    use longtail_model::{Lsn, Seq, ShardId, StreamId, Timestamp};

    use super::*;
    use crate::codec::Value;
    use crate::codec::samples::table;
    use crate::config::Config;
    use crate::graph::Noted;
    use crate::queue::{Queue, QueueArguments, QueueConfig, QueueSettings};
    use crate::tenant::Tenant;

    /// A queue that has noted a message, which is on its way there as the second of two.
    fn noted() -> (Arc<Queue>, VecDeque<Pending>) {
        let arguments = table(&[
            ("x-message-deduplication", Value::Bool(true)),
            ("x-overflow", Value::LongString(b"reject-publish-dlx")),
        ]);
        let parsed = QueueArguments::parse(&arguments.as_table(), "q", "/").unwrap();
        let config = QueueConfig {
            durable: false,
            auto_delete: false,
            owner: None,
            arguments: arguments.as_table().as_bytes().into(),
            parsed,
        };
        let at = (ShardId(0), StreamId(1));
        let queue = Queue::new("q".into(), at, config, QueueSettings::default());
        let queue = Arc::new(queue);
        let headers = table(&[HEADER]);
        let key = queue.note(&headers.as_table(), Timestamp(0)).unwrap();
        let noted = Noted::Queue(Arc::clone(&queue), key.unwrap());
        let published = Pending::Published {
            number: 0,
            bytes: 1,
            noted: Some(vec![noted].into()),
            laying: Some(Box::new(Laying {
                queues: vec![Arc::clone(&queue)],
                headers: Bytes::new(),
                body: Bytes::new(),
            })),
        };
        let sent = Pending::Sent {
            publishes: 1,
            bytes: 1,
        };
        (queue, [sent, published].into())
    }

    const HEADER: (&str, Value<'static>) = ("x-deduplication-header", Value::LongString(b"a"));

    /// Whether the message may come again.
    fn is_forgotten(queue: &Queue) -> bool {
        let headers = table(&[HEADER]);
        queue.note(&headers.as_table(), Timestamp(0)).is_ok()
    }

    fn topology() -> Arc<Topology> {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let tenant = Tenant::new(Config::default(), broker);
        block_on(tenant.topology(&"default".into())).unwrap()
    }

    fn answer(cause: Option<Cause>) -> Reply {
        Reply::Published {
            seq: Seq(1),
            position: Lsn(1),
            refused: cause.map(|cause| vec![(StreamId(1), cause)].into()),
        }
    }

    #[test]
    fn what_is_refused_when_its_channel_is_gone_may_come_again_and_is_laid() {
        let topology = topology();
        let (queue, pending) = noted();
        let unheard = Unheard::default();
        assert!(unheard.leave((7, pending), &topology).is_empty());
        assert!(unheard.answered(7, &answer(Some(Cause::Full))).is_none());
        assert!(!is_forgotten(&queue), "that was another");
        let laid = unheard.answered(8, &answer(Some(Cause::Full)));
        assert_eq!(laid.unwrap().1.queues.len(), 1);
        assert!(is_forgotten(&queue));
        assert!(unheard.answered(9, &answer(None)).is_none(), "nobody asked");
    }

    #[test]
    fn what_is_stored_when_its_channel_is_gone_stays_noted() {
        let topology = topology();
        let (queue, pending) = noted();
        let unheard = Unheard::default();
        unheard.leave((7, pending), &topology);
        assert!(unheard.answered(8, &answer(None)).is_none());
        assert!(!is_forgotten(&queue));
    }

    #[test]
    fn an_answer_that_comes_while_the_channel_ends_is_acted_upon_when_it_has() {
        let topology = topology();
        let (queue, pending) = noted();
        let unheard = Unheard::default();
        assert!(unheard.answered(8, &answer(Some(Cause::Full))).is_none());
        assert!(!is_forgotten(&queue));
        assert_eq!(unheard.leave((7, pending), &topology).len(), 1);
        assert!(is_forgotten(&queue));
    }
}
