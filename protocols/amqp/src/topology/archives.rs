//! What durable exchanges record of their last messages, kept over restarts: a hidden stream for each, cut at the length of
//! the record. It is read when the space is opened, and never again.

use bytes::Bytes;
use longtail_broker::BrokerError;
use longtail_broker::client::OwnedMessage;
use longtail_engine::command::{Only, Wait};
use longtail_engine::config::{Keep, Limits, Overflow, StreamConfig};
use longtail_engine::{Command, Reply};
use longtail_model::Seq;

use super::delayed::hidden;
use super::{Topology, queues};
use crate::codec::Properties;
use crate::graph::{Archive, ExchangeConfig, Recorded, archive_limits};
use crate::session::content::Envelope;
use crate::session::routing::{keys_of, without};

/// Names of archives start so.
const PREFIX: &str = "$recent/";

/// Messages, and bytes of their bodies, read in one go.
const BATCH: u32 = 1_000;
const BATCH_BYTES: u64 = 4 << 20;

/// How many messages an exchange records over restarts; `None`: none.
pub(super) fn archives(config: &ExchangeConfig) -> Option<usize> {
    config.records().filter(|_| config.durable)
}

impl Topology {
    /// Finds or makes the archive of an exchange that records so many messages.
    pub(super) async fn provide_archive(
        &self,
        exchange: &str,
        length: usize,
    ) -> Result<Archive, BrokerError> {
        let (max_messages, max_bytes) = archive_limits(length);
        let config = StreamConfig {
            keep: Keep::UntilLimit,
            limits: Limits {
                max_messages,
                max_bytes,
                ..Limits::default()
            },
            overflow: Overflow::DropOldest,
            ..StreamConfig::default()
        };
        let name = self.stream(&hidden(PREFIX, exchange));
        queues::provide(&self.broker, &self.letters, &name, config).await
    }

    /// An empty archive for an exchange that is declared. What another exchange of its name has left goes; a stream that is
    /// none, as other protocols may have one of this name, stays, and the exchange cannot be had.
    pub(super) async fn new_archive(
        &self,
        exchange: &str,
        length: usize,
    ) -> Result<Archive, BrokerError> {
        let name = self.stream(&hidden(PREFIX, exchange));
        if self.broker.find(&name).await?.is_some() {
            // Only a stream that keeps what an archive does can be made one.
            self.provide_archive(exchange, length).await?;
            self.close_archive(exchange).await;
        }
        self.provide_archive(exchange, length).await
    }

    /// What an archive has, the oldest first.
    pub(super) async fn read_archive(&self, exchange: &str) -> Result<Vec<Recorded>, BrokerError> {
        let name = self.stream(&hidden(PREFIX, exchange));
        let (mut all, mut from) = (Vec::new(), Seq::FIRST);
        loop {
            let read = Command::Read {
                name: name.clone(),
                from,
                max: BATCH,
                max_bytes: BATCH_BYTES,
                wait: Wait::No,
            };
            let answer = self.broker.at_stream(&name, read).await?;
            let Reply::Batch { messages, next } = answer.reply else {
                return Err(BrokerError::Unexpected(format!("{:?}", answer.reply)));
            };
            for message in answer.messages {
                match message.as_ref().and_then(recorded) {
                    Some(recorded) => all.push(recorded),
                    None => {
                        tracing::error!(
                            exchange,
                            "a recorded message cannot be read and is left out"
                        );
                    }
                }
            }
            // A batch may be empty before the end.
            if messages.is_empty() && next == from {
                return Ok(all);
            }
            from = next;
        }
    }

    /// An exchange goes, with what it has recorded.
    pub(super) async fn close_archive(&self, exchange: &str) {
        let name = self.stream(&hidden(PREFIX, exchange));
        let delete = Command::Delete {
            name: name.clone(),
            only: Only::default(),
        };
        match self.broker.at_stream(&name, delete).await {
            Ok(_) | Err(BrokerError::NoStream(_)) => {}
            Err(error) => tracing::warn!(%name, %error, "recorded messages stay"),
        }
    }

    /// The streams of an exchange that goes, with what is in them.
    pub(super) async fn close_streams(&self, exchange: &str, config: &ExchangeConfig) {
        if config.delays() {
            self.close_waiting(exchange).await;
        }
        if archives(config).is_some() {
            self.close_archive(exchange).await;
        }
    }
}

/// A message as it was recorded; `None`: it cannot be read.
fn recorded(message: &OwnedMessage) -> Option<Recorded> {
    let envelope = Envelope::of_headers(&message.headers, &message.subject);
    let properties = Properties::decode(envelope.properties).ok()?;
    let headers = properties.headers.unwrap_or_default();
    let keys = keys_of(&envelope.key, &headers).ok()?;
    let shown = without(&properties, &["BCC"]);
    Some(Recorded {
        exchange: envelope.exchange.into(),
        keys: keys.iter().map(|key| Box::from(*key)).collect(),
        properties: shown.as_deref().unwrap_or(envelope.properties).into(),
        body: Bytes::copy_from_slice(&message.payload),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longtail_broker::client::block_on;
    use longtail_broker::{Broker, BrokerConfig};
    use longtail_engine::config::GroupConfig;

    use super::*;
    use crate::config::Config;
    use crate::tenant::Tenant;
    use crate::topology::{Asker, DeclareExchange};

    #[test]
    fn an_archive_takes_the_place_of_another_and_of_nothing_else() {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let tenant = Tenant::new(Config::default(), Arc::clone(&broker));
        let topology = block_on(tenant.topology(&"default".into())).unwrap();
        let stream = |exchange| topology.stream(&hidden(PREFIX, exchange));
        let declare = || DeclareExchange {
            name: "taken".to_owned(),
            kind: "x-recent-history".to_owned(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Arc::default(),
        };
        let asker = Asker {
            connection: 1,
            vhost: "/".into(),
        };
        // As a tube of beanstalkd's protocol is.
        let other = StreamConfig {
            group: Some(GroupConfig::default()),
            ..StreamConfig::default()
        };
        block_on(broker.define(stream("taken"), other)).unwrap();
        let (_, before) = block_on(broker.find(&stream("taken"))).unwrap().unwrap();
        assert!(block_on(topology.declare_exchange(&asker, declare())).is_err());
        let (_, after) = block_on(broker.find(&stream("taken"))).unwrap().unwrap();
        assert_eq!(before.stream, after.stream);
        assert!(topology.graph().exchange("taken").is_none());

        let (_, left) = block_on(topology.new_archive("left", 3)).unwrap();
        let (_, own) = block_on(topology.new_archive("left", 5)).unwrap();
        assert_ne!(left, own);
    }
}
