//! What waits for the other broker: the stream `$bridge/{name}` with what must not be lost, and a short queue in memory
//! with what may be.
//!
//! The stream is routed to by this module and not by bindings of the catalog: the settings say what goes over a bridge,
//! and a line that is taken out of them must not go on collecting. Routes are made before the server listens.

use std::sync::Arc;

use longtail_broker::ephemeral::{
    Delivery, DropReason, LiveHandle, LiveOptions, StreamOptions, Subscriber, Target, TargetOptions,
};
use longtail_broker::message::{Origin, SharedMessage};
use longtail_broker::router::Subscription;
use longtail_broker::{Broker, BrokerError, Client, Space};
use longtail_engine::{
    Command, GroupConfig, Handle, Keep, Limits, Overflow, Refusal, Reply, Settle, StreamConfig,
    StreamName,
};
use longtail_model::{ConsumerTag, DollarRule, Filter, GroupId, Link, Seq};
use tokio::sync::mpsc;

use super::config::BridgeConfig;
use crate::codec::Qos;

/// Messages in the queue in memory.
const LIVE_MAX: usize = 1000;

const CONSUMER: ConsumerTag = ConsumerTag(0);
const LINK: Link = Link(0);

/// The sources of one bridge. Dropping it ends the routes, but for that of the stream: what is published while the
/// server goes down is kept.
pub(super) struct Backlog {
    pub(super) client: Client,
    pub(super) live: mpsc::Receiver<SharedMessage>,
    space: Arc<Space>,
    handle: LiveHandle,
    filters: Vec<Filter>,
}

struct Tap(mpsc::Sender<SharedMessage>);

impl Subscriber for Tap {
    fn deliver(&self, message: &SharedMessage, _options: &[LiveOptions]) -> Delivery {
        match self.0.try_send(Arc::clone(message)) {
            Ok(()) => Delivery::Delivered,
            Err(mpsc::error::TrySendError::Full(_)) => Delivery::Dropped(DropReason::OutboxFull),
            Err(mpsc::error::TrySendError::Closed(_)) => Delivery::Dropped(DropReason::Closed),
        }
    }

    // The channel has woken the bridge.
    fn flush(&self) {}
}

/// Creates the stream where there is none, and routes to it what `filters` match.
pub(super) async fn open(
    broker: &Broker,
    space: &Arc<Space>,
    config: &BridgeConfig,
    filters: &[(Filter, Qos)],
    origin: Origin,
) -> Result<Backlog, BrokerError> {
    let name = StreamName::new(Arc::clone(&space.name), format!("$bridge/{}", config.name));
    let stream = StreamConfig {
        keep: Keep::UntilSettled,
        limits: Limits {
            max_messages: config.queue_messages,
            max_bytes: config.queue_bytes,
            max_age_ms: 0,
            ..Limits::default()
        },
        overflow: Overflow::DropOldest,
        group: Some(GroupConfig::default()),
        ..StreamConfig::default()
    };
    match broker.define(name.clone(), stream).await {
        Ok(_) => {}
        Err(BrokerError::Refused(Refusal::Exists)) => {
            tracing::warn!(
                bridge = config.name,
                "its stream keeps the limits it was created with"
            );
        }
        Err(error) => return Err(error),
    }
    let Some((shard, info)) = broker.find(&name).await? else {
        return Err(BrokerError::NoStream(name));
    };
    let client = broker.client(shard);
    let commands = Command::draw(name, None, LINK, CONSUMER, u32::from(config.window));
    for command in commands {
        match client.call(command).await?.reply {
            Reply::Opened { .. } | Reply::Done => {}
            Reply::Refused(refusal) => return Err(refusal.into()),
            other => return Err(BrokerError::Unexpected(format!("{other:?}"))),
        }
    }
    let (sender, live) = mpsc::channel(LIVE_MAX);
    let handle = LiveHandle::new(origin, Tap(sender));
    let backlog = Backlog {
        client,
        live,
        space: Arc::clone(space),
        handle,
        filters: filters.iter().map(|(filter, _)| filter.clone()).collect(),
    };
    for (filter, qos) in filters {
        let stored = *qos > Qos::AtMostOnce;
        if stored {
            let options = TargetOptions::Stream(StreamOptions {
                tag: 0,
                assured_only: true,
                not_from: origin,
            });
            backlog.route(filter, Target::Stream(shard, info.stream), options)?;
        }
        let options = backlog.handle.options(LiveOptions {
            tag: 0,
            no_local: true,
            not_assured: stored,
            only_now: false,
        });
        backlog.route(filter, backlog.handle.target(), options)?;
    }
    Ok(backlog)
}

impl Backlog {
    fn route(
        &self,
        filter: &Filter,
        target: Target,
        options: TargetOptions,
    ) -> Result<(), BrokerError> {
        let subscription = Subscription {
            dollar: DollarRule::Hide,
            ..Subscription::new(options)
        };
        let routed = self.space.router.subscribe(filter, target, subscription);
        routed.map_err(|error| Refusal::Limit(error.to_string()))?;
        Ok(())
    }

    /// A message of the stream is done with. Nobody waits for the answer: without it the message comes again.
    pub(super) fn settle(&self, group: GroupId, seq: Seq) {
        let settle = Command::Settle {
            message: Handle::Group(group, seq),
            how: Settle::Ack,
        };
        drop(self.client.call(settle));
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        for filter in &self.filters {
            self.space
                .router
                .unsubscribe(filter, self.handle.target(), None);
        }
    }
}
