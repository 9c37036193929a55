//! Messages that are published later: `$delayed/{seconds}/{topic}`.
//!
//! ```text
//! publish ──▶ stream `$mqtt/delayed`, due then ──▶ Due ──▶ publish to the topic ── durable ──▶ settled
//! ```
//!
//! The engine has the clock and the log: what waits survives a restart, and what was due meanwhile goes out at the start.
//! A message is settled when it is as safe as its publishing makes it; a crash in between publishes it once more.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use longtail_broker::client::accepted;
use longtail_broker::ephemeral::Burst;
use longtail_broker::message::{Message, SharedMessage};
use longtail_broker::stored::{Stored, new_message};
use longtail_broker::{Broker, BrokerError, Space};
use longtail_engine::runtime::{Shards, Sink, run_once_deep};
use longtail_engine::{
    Command, Effect, GroupConfig, Handle, Keep, Limits, Message as Shown, NewMessage, Overflow,
    Reply, Role, Settle, StreamConfig, StreamName, Target as Into,
};
use longtail_model::{ConsumerTag, GroupId, Link, Seq, SessionId, ShardId, StreamId, Timestamp};
use parking_lot::Mutex;

use crate::codec::ReasonCode;
use crate::publish::{Outgoing, Whom, publish};
use crate::tenant::Tenant;

/// What a delayed topic begins with.
const PREFIX: &str = "$delayed/";

/// The stream of what waits.
const STREAM: &str = "$mqtt/delayed";

const LINK: Link = Link(1);
const CONSUMER: ConsumerTag = ConsumerTag(1);

/// Messages that are on their way to their topics at once.
const WINDOW: u32 = 256;

/// Milliseconds until a message that could not be published is tried again.
const AGAIN_MS: u64 = 10_000;

/// Seconds as they are written, and the topic behind them.
fn split(topic: &str) -> Option<(&str, &str)> {
    topic.strip_prefix(PREFIX)?.split_once('/')
}

/// Whether messages to a topic wait for their time.
pub(crate) fn is_delayed(topic: &str) -> bool {
    topic.starts_with(PREFIX)
}

/// The topic that a message is for in the end.
pub(crate) fn aim(topic: &str) -> &str {
    split(topic).map_or(topic, |(_, aim)| aim)
}

/// Whether a topic is none that is delayed, or one whose delay is no longer than `max_s` seconds.
pub(crate) fn is_fit(topic: &str, now: Timestamp, max_s: u32) -> bool {
    if !is_delayed(topic) {
        return true;
    }
    split(topic).is_some_and(|(number, aim)| {
        !aim.is_empty() && !is_delayed(aim) && delay_ms(number, now, max_s).is_some()
    })
}

/// Milliseconds from now. A number up to `max_s` is seconds from now, one that is a time to come seconds since 1970.
fn delay_ms(number: &str, now: Timestamp, max_s: u32) -> Option<u64> {
    if max_s == 0 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let max_s = u64::from(max_s);
    if number <= max_s {
        return Some(number * 1000);
    }
    let left = number.checked_mul(1000)?.checked_sub(now.0)?;
    (left <= max_s * 1000).then_some(left)
}

/// What waits for its time.
pub(crate) struct Delayed {
    shards: Arc<dyn Shards>,
    home: ShardId,
    name: StreamName,
    stream: StreamId,
    max_s: u32,
    /// Where it draws what is due.
    session: OnceLock<SessionId>,
}

impl Delayed {
    /// Finds or makes the stream, which holds `messages_max` messages from when it is made.
    pub(crate) fn open(
        broker: &Broker,
        space: &Space,
        home: ShardId,
        max_s: u32,
        messages_max: u64,
    ) -> Result<Self, BrokerError> {
        let name = StreamName::new(Arc::clone(&space.name), STREAM);
        let config = StreamConfig {
            keep: Keep::UntilSettled,
            limits: Limits {
                max_messages: messages_max,
                ..Limits::default()
            },
            overflow: Overflow::RefuseNew,
            group: Some(GroupConfig::default()),
            ..StreamConfig::default()
        };
        let open = Command::Open {
            link: LINK,
            name: name.clone(),
            create: Some(Box::new(config)),
            role: Role::Producer,
        };
        let client = broker.client(home);
        let stream = match accepted(client.call(open).wait()?)?.reply {
            Reply::Opened { stream } => stream,
            other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
        };
        Ok(Delayed {
            shards: broker.shards(),
            home,
            name,
            stream,
            max_s,
            session: OnceLock::new(),
        })
    }

    /// The stream of what waits.
    pub(crate) fn name(&self) -> &StreamName {
        &self.name
    }

    /// Publishes from now on what is due.
    pub(crate) fn start(&self, tenant: &Arc<Tenant>) {
        let due = Due {
            tenant: Arc::downgrade(tenant),
            arrived: Mutex::default(),
        };
        let session = self.shards.attach(self.home, Arc::new(due));
        // Only the first start counts.
        if self.session.set(session).is_err() {
            return self.shards.detach(self.home, session);
        }
        let commands = Command::draw(self.name.clone(), None, LINK, CONSUMER, WINDOW);
        let mut commands = (0..).zip(commands).collect();
        self.shards.enqueue(self.home, session, &mut commands);
        self.shards.run();
    }

    /// What keeps a message until its time, and where; `None`: it is not delayed.
    ///
    /// # Errors
    /// When its topic says nothing that can be done.
    pub(crate) fn keep(
        &self,
        message: &Message,
        now: Timestamp,
    ) -> Option<Result<(ShardId, Command), ReasonCode>> {
        let topic = message.subject.as_str();
        if !is_delayed(topic) {
            return None;
        }
        if !is_fit(topic, now, self.max_s) {
            return Some(Err(ReasonCode::TopicNameInvalid));
        }
        let (number, aim) = split(topic)?;
        let delay_ms = delay_ms(number, now, self.max_s)?;
        let message = NewMessage {
            delay_ms,
            subject: Bytes::copy_from_slice(aim.as_bytes()),
            ..new_message(message, now)
        };
        let keep = Command::Publish {
            to: Into::Stream(self.stream),
            also: Vec::new(),
            message,
        };
        Some(Ok((self.home, keep)))
    }

    /// A message was published, or could not be.
    pub(crate) fn settle(&self, group: GroupId, seq: Seq, reason: ReasonCode) {
        let Some(session) = self.session.get() else {
            return;
        };
        let how = if reason.is_error() {
            tracing::warn!(?reason, "a delayed message is not published yet");
            Settle::Release {
                priority: None,
                delay_ms: AGAIN_MS,
                failed: true,
            }
        } else {
            Settle::Ack
        };
        let settle = Command::Settle {
            message: Handle::Group(group, seq),
            how,
        };
        let mut commands = vec![(0, settle)];
        self.shards.enqueue(self.home, *session, &mut commands);
    }

    /// Has the shards carry out what was settled. No lock may be held.
    pub(crate) fn run(&self) {
        run_once_deep(&*self.shards);
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        if let Some(session) = self.session.get() {
            self.shards.detach(self.home, *session);
        }
    }
}

/// Where what is due comes out.
struct Due {
    tenant: Weak<Tenant>,
    /// Written with the shard's lock held. A message that cannot be read is none.
    arrived: Mutex<Vec<(GroupId, Seq, Option<SharedMessage>)>>,
}

impl Sink for Due {
    fn deliver(&self, effect: &Effect, messages: &[Option<Shown<'_>>]) {
        match effect {
            Effect::Push(delivery) => {
                let shown = messages.first().and_then(Option::as_ref);
                let message = shown.and_then(|shown| {
                    let payload = shown.share();
                    let stored = Stored::of(shown);
                    stored
                        .to_message(payload, shown.created, shown.expires)
                        .ok()
                });
                let message = message.map(Arc::new);
                let arrived = (delivery.group, delivery.seq, message);
                self.arrived.lock().push(arrived);
            }
            Effect::Reply(_, Reply::Refused(refusal)) => {
                tracing::warn!(%refusal, "delayed messages wait");
            }
            Effect::Reply(..) | Effect::Cancelled { .. } => {}
        }
    }

    fn flush(&self) {
        let arrived = std::mem::take(&mut *self.arrived.lock());
        if arrived.is_empty() {
            return;
        }
        let Some(tenant) = self.tenant.upgrade() else {
            return;
        };
        let now = tenant.now();
        let mut outgoing = Outgoing::new();
        let mut burst = Burst::new(&tenant.space().counters);
        for (group, seq, message) in arrived {
            let Some(message) = message else {
                tracing::error!(seq = seq.0, "a delayed message cannot be read");
                tenant.delayed().settle(group, seq, ReasonCode::Success);
                continue;
            };
            let message = Arc::new(Message {
                published: now,
                ..message.to_own()
            });
            let whom = Some(Whom::Due(&tenant, group, seq));
            let reason = publish(&tenant, &mut burst, &message, now, whom, &mut outgoing);
            let hooks = tenant.hooks().whole();
            hooks.tell_published(None, &message, reason);
            if let Some(reason) = reason {
                tenant.delayed().settle(group, seq, reason);
            }
        }
        drop(burst);
        tenant.streams().send(&mut outgoing);
        tenant.delayed().run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const MAX: u32 = 42_949_670;

    #[test]
    fn a_number_is_seconds_from_now_or_a_time_to_come() {
        assert_eq!(delay_ms("0", NOW, MAX), Some(0));
        assert_eq!(delay_ms("42949670", NOW, MAX), Some(42_949_670_000));
        assert_eq!(delay_ms("1700000060", NOW, MAX), Some(60_000));
        for past_or_far in [
            "42949671",
            "1699999999",
            "1742949671",
            "99999999999999999999",
        ] {
            assert_eq!(delay_ms(past_or_far, NOW, MAX), None, "{past_or_far}");
        }
        for nonsense in ["", "-1", "+1", "1.5", " 1", "x"] {
            assert_eq!(delay_ms(nonsense, NOW, MAX), None, "{nonsense}");
        }
    }

    #[test]
    fn a_delayed_topic_has_a_topic_behind_it() {
        assert_eq!(aim("$delayed/5/a/b"), "a/b");
        assert_eq!(aim("a/b"), "a/b");
        for fit in ["a", "$delayed", "$delayed/5/a", "$delayed/0//"] {
            assert!(is_fit(fit, NOW, MAX), "{fit}");
        }
        for unfit in [
            "$delayed/",
            "$delayed/5",
            "$delayed/5/",
            "$delayed/a/b",
            "$delayed/1/$delayed/1/a",
        ] {
            assert!(!is_fit(unfit, NOW, MAX), "{unfit}");
        }
        assert!(!is_fit("$delayed/5/a", NOW, 0), "switched off");
    }
}
