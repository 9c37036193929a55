//! A consumer in this process that misses nothing and acknowledges what it has dealt with: what matches its filters is kept
//! in a stream of its own until then, over restarts too, whether or not the program follows at the moment.
//!
//! ```text
//! PUBLISH ──▶ router ──▶ stream $consumer/{name} ──▶ Consumer::next ──▶ acknowledge, or give_back
//! ```
//!
//! PUBACK waits until the message is in the stream. Several consumers of one name share what comes. What is not
//! acknowledged when a consumer is dropped, or the process ends, comes again. [`LocalClient::follow`] is for what may be
//! missed.
//!
//! [`LocalClient::follow`]: crate::LocalClient::follow

use std::sync::Arc;

use longtail_broker::client::{Client, Closed, Pushed};
use longtail_broker::message::SharedMessage;
use longtail_broker::stored::Stored;
use longtail_broker::{Broker, BrokerError};
use longtail_engine::{
    Command, GroupConfig, Handle, Keep, Limits, Only, Overflow, Refusal, Reply, Settle,
    StreamConfig, StreamName,
};
use longtail_model::{ConsumerTag, Filter, GroupId, Link, Seq};

use crate::codec::TopicFilter;

/// Before a consumer's name, the name of its stream.
const STREAM: &str = "$consumer/";

const CONSUMER: ConsumerTag = ConsumerTag(0);
const LINK: Link = Link(0);

/// What a consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// The space. Default `default`.
    pub space: String,
    /// Its name, by which what waits for it is found again: 1 to some 200 bytes.
    pub name: String,
    /// Topic filters. Those that an earlier consumer of the name had and this one has not are no longer kept for it.
    pub filters: Vec<String>,
    /// Messages that it may have unacknowledged. Default 256.
    pub window: u32,
    /// Messages that wait at most; the oldest make room. Default 1,000,000. As the first consumer of the name had it.
    pub queue_messages: u64,
    /// Bytes of these, likewise. Default 1 GiB.
    pub queue_bytes: u64,
}

impl ConsumerConfig {
    /// A consumer with the default limits.
    #[must_use]
    pub fn new<F: Into<String>>(
        name: impl Into<String>,
        filters: impl IntoIterator<Item = F>,
    ) -> Self {
        ConsumerConfig {
            space: "default".to_owned(),
            name: name.into(),
            filters: filters.into_iter().map(Into::into).collect(),
            window: 256,
            queue_messages: 1_000_000,
            queue_bytes: 1 << 30,
        }
    }

    fn stream(&self) -> Result<StreamName, ConsumerError> {
        let name = [STREAM, &self.name].concat();
        if self.name.is_empty() || name.len() > StreamName::MAX {
            return Err(ConsumerError::Name(self.name.clone()));
        }
        Ok(StreamName::new(self.space.as_str(), name))
    }

    fn parsed(&self) -> Result<Vec<Filter>, ConsumerError> {
        let parse = |text: &String| {
            // A share's name is the consumer's.
            let plain = TopicFilter::parse(text)
                .is_ok_and(|filter| filter.group.is_none() && !filter.exclusive);
            let filter = Filter::parse_mqtt(text).ok().filter(|_| plain);
            filter.ok_or_else(|| ConsumerError::Filter(text.clone()))
        };
        self.filters.iter().map(parse).collect()
    }
}

/// Why a consumer cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// No name of a consumer.
    #[error(
        "{0:?} is no name of a consumer: it is not empty and not longer than a stream's may be"
    )]
    Name(String),
    /// No topic filter, or one of a shared or exclusive subscription: consumers of one name share.
    #[error("{0:?} is no topic filter of a consumer")]
    Filter(String),
    /// The message is not with this consumer: it was acknowledged or given back, or made room for newer ones.
    #[error("the message is not with this consumer any more")]
    NotHeld,
    /// Somebody has deleted what was kept for the consumer.
    #[error("what was kept for the consumer was deleted")]
    Gone,
    /// The broker refuses, or is closed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl From<Closed> for ConsumerError {
    fn from(closed: Closed) -> Self {
        ConsumerError::Broker(closed.into())
    }
}

/// Follows topics and misses nothing.
pub struct Consumer {
    client: Client,
    stream: StreamName,
}

/// A message that a consumer has to deal with.
#[derive(Clone, Debug)]
pub struct Consumed {
    /// The message.
    pub message: SharedMessage,
    /// How often it was given to a consumer before.
    pub redeliveries: u32,
    group: GroupId,
    seq: Seq,
}

impl Consumer {
    /// Comes back to what is kept under a name, or has it kept from now on. When this returns, whatever is published to a
    /// matching topic is kept.
    ///
    /// # Errors
    /// When name or filters are none, or the broker refuses.
    pub async fn open(broker: &Broker, config: &ConsumerConfig) -> Result<Consumer, ConsumerError> {
        let (stream, filters) = (config.stream()?, config.parsed()?);
        let kept = StreamConfig {
            keep: Keep::UntilSettled,
            limits: Limits {
                max_messages: config.queue_messages,
                max_bytes: config.queue_bytes,
                ..Limits::default()
            },
            overflow: Overflow::DropOldest,
            group: Some(GroupConfig::default()),
            ..StreamConfig::default()
        };
        match broker.define(stream.clone(), kept).await {
            // It keeps the limits that it has.
            Ok(_) | Err(BrokerError::Refused(Refusal::Exists)) => {}
            Err(error) => return Err(error.into()),
        }
        let Some((shard, _)) = broker.find(&stream).await? else {
            return Err(BrokerError::NoStream(stream).into());
        };
        for old in bound(broker, &stream) {
            if !filters.contains(&old) {
                broker.unbind(&stream, &old).await?;
            }
        }
        for filter in &filters {
            broker.bind(&stream, filter).await?;
        }
        let consumer = Consumer {
            client: broker.client(shard),
            stream,
        };
        consumer.draw(config.window.max(1)).await?;
        Ok(consumer)
    }

    async fn draw(&self, window: u32) -> Result<(), ConsumerError> {
        let commands = Command::draw(self.stream.clone(), None, LINK, CONSUMER, window);
        for command in commands {
            match self.client.call(command).await?.reply {
                Reply::Opened { .. } | Reply::Done => {}
                Reply::Refused(refusal) => return Err(BrokerError::from(refusal).into()),
                other => return Err(BrokerError::Unexpected(format!("{other:?}")).into()),
            }
        }
        Ok(())
    }

    /// The next message; waits for it, also while as many as its window are unacknowledged.
    ///
    /// # Errors
    /// When what is kept for it was deleted, or the broker closes.
    pub async fn next(&mut self) -> Result<Consumed, ConsumerError> {
        loop {
            let (delivery, owned) = match self.client.pushed().await? {
                Pushed::Message(delivery, owned) => (delivery, owned),
                Pushed::Cancelled(..) => return Err(ConsumerError::Gone),
            };
            // One that cannot be read was reported by the shard, and set aside.
            let Some(owned) = owned else { continue };
            let stored = Stored::read(&owned.subject, &owned.headers);
            match stored.to_message(owned.payload, owned.created, owned.expires) {
                Ok(message) => {
                    return Ok(Consumed {
                        message: Arc::new(message),
                        redeliveries: delivery.redeliveries,
                        group: delivery.group,
                        seq: delivery.seq,
                    });
                }
                Err(error) => {
                    tracing::warn!(stream = %self.stream, %error, "not a message of a topic: set aside");
                    let park = Settle::Park { priority: None };
                    self.settle(delivery.group, delivery.seq, park).await?;
                }
            }
        }
    }

    /// The message is dealt with and does not come again. When this returns, that is as durable as the broker's setting
    /// says.
    ///
    /// # Errors
    /// [`ConsumerError::NotHeld`], or when the broker refuses.
    pub async fn acknowledge(&self, consumed: &Consumed) -> Result<(), ConsumerError> {
        self.settle(consumed.group, consumed.seq, Settle::Ack).await
    }

    /// The message is to come again, here or to another consumer of the name, after so many milliseconds.
    ///
    /// # Errors
    /// As [`Consumer::acknowledge`].
    pub async fn give_back(&self, consumed: &Consumed, delay_ms: u64) -> Result<(), ConsumerError> {
        let release = Settle::Release {
            priority: None,
            delay_ms,
            failed: true,
        };
        self.settle(consumed.group, consumed.seq, release).await
    }

    async fn settle(&self, group: GroupId, seq: Seq, how: Settle) -> Result<(), ConsumerError> {
        let message = Handle::Group(group, seq);
        match self
            .client
            .call(Command::Settle { message, how })
            .await?
            .reply
        {
            Reply::Done => Ok(()),
            Reply::NotFound => Err(ConsumerError::NotHeld),
            Reply::Refused(refusal) => Err(BrokerError::from(refusal).into()),
            other => Err(BrokerError::Unexpected(format!("{other:?}")).into()),
        }
    }

    /// Nothing is kept under this name any more, and what was is deleted, for all consumers of it.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn forget(self, broker: &Broker) -> Result<(), ConsumerError> {
        for filter in bound(broker, &self.stream) {
            broker.unbind(&self.stream, &filter).await?;
        }
        let delete = Command::Delete {
            name: self.stream.clone(),
            only: Only::default(),
        };
        match broker.at_stream(&self.stream, delete).await {
            Ok(_) | Err(BrokerError::NoStream(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The filters that a stream is bound to.
fn bound(broker: &Broker, stream: &StreamName) -> Vec<Filter> {
    let bindings = broker.bindings().into_iter();
    bindings
        .filter(|binding| *binding.space == *stream.space && *binding.stream == *stream.name)
        .filter_map(|binding| Filter::new(&binding.filter).ok())
        .collect()
}
