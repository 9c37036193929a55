//! Publishing to subjects with streams behind them.
#![allow(clippy::unwrap_used)] // a test helper that cannot go on has failed

use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::client::OwnedMessage;
use longtail_broker::ephemeral::{StreamOptions, Target, TargetOptions};
use longtail_broker::message::{Message, Quality};
use longtail_broker::router::{GroupScope, GroupSpec, Strategy, Subscription};
use longtail_broker::stored::Stored;
use longtail_broker::{Broker, BrokerConfig};
use longtail_engine::{Command, Reply, StreamConfig, StreamName, Wait};
use longtail_model::{Filter, Seq, Subject};

async fn stream(broker: &Broker, name: &str) -> (StreamName, Target) {
    let name = StreamName::new("default", name);
    broker
        .define(name.clone(), StreamConfig::default())
        .await
        .unwrap();
    let (shard, info) = broker.find(&name).await.unwrap().unwrap();
    (name, Target::Stream(shard, info.stream))
}

async fn read(broker: &Broker, name: &StreamName) -> Vec<OwnedMessage> {
    let (shard, _) = broker.find(name).await.unwrap().unwrap();
    let command = Command::Read {
        name: name.clone(),
        from: Seq::FIRST,
        max: 100,
        max_bytes: 1 << 20,
        wait: Wait::No,
    };
    let answer = broker.client(shard).call(command).await.unwrap();
    assert!(matches!(answer.reply, Reply::Batch { .. }));
    answer.messages.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn a_stream_keeps_all_that_was_said_of_a_message() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    let (name, _) = stream(&broker, "archive").await;
    broker.bind(&name, &Filter::everything()).await.unwrap();
    let mut message = Message::new(Subject::new("a/b").unwrap(), Bytes::from_static(b"body"));
    message.headers.push(&b"\xff\xfe"[..], &b"not text"[..]);
    message
        .headers
        .push(&b"lt-published"[..], &b"otherwise"[..]);
    message.reply_to = Some(Subject::new("inbox/1").unwrap());
    message.quality = Quality::ExactlyOnce;
    let now = broker.clock().now();
    message.expires = now.plus_millis(60_000);
    let sent = Arc::new(message);
    let published = broker.publish("default", Arc::clone(&sent)).await.unwrap();
    assert_eq!(published.streams.len(), 1);
    let kept = &read(&broker, &name).await[0];
    let stored = Stored::read(&kept.subject, &kept.headers);
    let back = stored
        .to_message(kept.payload.clone(), kept.created, sent.expires)
        .unwrap();
    assert_eq!(back.subject, sent.subject);
    assert_eq!(back.reply_to, sent.reply_to);
    assert_eq!(back.headers, sent.headers);
    assert_eq!(back.quality, sent.quality);
    assert!((now.plus_millis(59_000)..=sent.expires).contains(&kept.expires));
}

#[tokio::test]
async fn streams_of_a_group_share_what_is_published() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    let mut names = Vec::new();
    for name in ["first", "second"] {
        let (name, target) = stream(&broker, name).await;
        let subscription = Subscription {
            group: Some(GroupSpec {
                name: "g".into(),
                scope: GroupScope::Filter,
                strategy: Strategy::RoundRobin,
            }),
            ..Subscription::new(TargetOptions::Stream(StreamOptions::default()))
        };
        broker
            .space("default")
            .unwrap()
            .router
            .subscribe(&Filter::new("jobs/+").unwrap(), target, subscription)
            .unwrap();
        names.push(name);
    }
    for _ in 0..6 {
        let message = Message::new(Subject::new("jobs/1").unwrap(), Bytes::new());
        let published = broker.publish("default", Arc::new(message)).await.unwrap();
        assert_eq!(published.streams.len(), 1);
    }
    for name in &names {
        assert_eq!(read(&broker, name).await.len(), 3);
    }
}
