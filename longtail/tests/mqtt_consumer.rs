//! Consumers in the process that acknowledge what they have dealt with.
#![allow(clippy::unwrap_used)] // a test helper that cannot go on has failed

use std::path::Path;
use std::time::Duration;

use longtail::Longtail;
use longtail::mqtt::codec::{Qos, ReasonCode};
use longtail::mqtt::consumer::{Consumed, Consumer, ConsumerConfig, ConsumerError};
use longtail::mqtt::{LocalClient, Publication};

fn start(dir: &Path) -> (Longtail, LocalClient) {
    let broker = Longtail::builder()
        .at(dir)
        .mqtt_in_process()
        .start()
        .unwrap();
    let client = broker.mqtt().unwrap().client("publisher");
    (broker, client)
}

async fn publish(client: &LocalClient, topic: &str, payload: &'static str) {
    let publication = Publication::new(topic, payload).qos(Qos::AtLeastOnce);
    let reason = client.publish(publication).await.unwrap();
    assert_eq!(reason, ReasonCode::Success);
}

async fn next(consumer: &mut Consumer) -> Consumed {
    let next = tokio::time::timeout(Duration::from_secs(20), consumer.next());
    next.await.unwrap().unwrap()
}

fn text(consumed: &Consumed) -> (&str, &[u8]) {
    let message = &consumed.message;
    (message.subject.as_str(), &message.payload[..])
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again_over_a_restart_and_what_is_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = ConsumerConfig::new("billing", ["meters/+/total", "other/#"]);
    let (broker, client) = start(dir.path());
    let mut consumer = Consumer::open(broker.broker(), &config).await.unwrap();
    publish(&client, "meters/7/total", "first").await;
    publish(&client, "meters/8/total", "second").await;
    let first = next(&mut consumer).await;
    assert_eq!(text(&first), ("meters/7/total", &b"first"[..]));
    let second = next(&mut consumer).await;
    assert_eq!(second.redeliveries, 0);
    consumer.acknowledge(&first).await.unwrap();
    let twice = consumer.acknowledge(&first).await;
    assert!(matches!(twice, Err(ConsumerError::NotHeld)));
    drop(consumer);
    // Nobody follows: it is kept all the same.
    publish(&client, "meters/9/total", "third").await;
    drop(client);
    broker.shut_down();

    let (broker, client) = start(dir.path());
    publish(&client, "meters/1/total", "fourth").await;
    let mut consumer = Consumer::open(broker.broker(), &config).await.unwrap();
    let again = next(&mut consumer).await;
    assert_eq!(text(&again), ("meters/8/total", &b"second"[..]));
    consumer.give_back(&again, 0).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let consumed = next(&mut consumer).await;
        consumer.acknowledge(&consumed).await.unwrap();
        seen.push(consumed.message.payload.to_vec());
    }
    seen.sort_unstable();
    assert_eq!(seen, [&b"fourth"[..], b"second", b"third"]);
    consumer.forget(broker.broker()).await.unwrap();
    let publication = Publication::new("meters/1/total", "x").qos(Qos::AtLeastOnce);
    let reason = client.publish(publication).await.unwrap();
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test]
async fn consumers_of_a_name_share_and_filters_that_are_left_out_are_kept_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, client) = start(dir.path());
    let mut config = ConsumerConfig::new("work", ["a/#", "b/#"]);
    config.window = 1;
    let mut one = Consumer::open(broker.broker(), &config).await.unwrap();
    let mut two = Consumer::open(broker.broker(), &config).await.unwrap();
    publish(&client, "a/1", "x").await;
    publish(&client, "b/1", "y").await;
    let (first, second) = (next(&mut one).await, next(&mut two).await);
    assert_ne!(text(&first).0, text(&second).0);
    one.acknowledge(&first).await.unwrap();
    two.acknowledge(&second).await.unwrap();
    config.filters = vec!["a/#".to_owned()];
    let mut three = Consumer::open(broker.broker(), &config).await.unwrap();
    drop((one, two));
    let publication = Publication::new("b/2", "y").qos(Qos::AtLeastOnce);
    let reason = client.publish(publication).await.unwrap();
    assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
    publish(&client, "a/2", "x").await;
    assert_eq!(text(&next(&mut three).await).0, "a/2");
    for wrong in ["a/#/b", "", "$share/g/a", "$exclusive/a"] {
        config.filters = vec![wrong.to_owned()];
        let refused = Consumer::open(broker.broker(), &config).await;
        assert!(matches!(refused, Err(ConsumerError::Filter(_))), "{wrong}");
    }
    config.name.clear();
    let refused = Consumer::open(broker.broker(), &config).await;
    assert!(matches!(refused, Err(ConsumerError::Name(_))));
}
