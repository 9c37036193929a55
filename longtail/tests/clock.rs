//! What happens after an hour, without waiting for one.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod support;

use std::sync::Arc;
use std::time::Duration;

use longtail::engine::runtime::ManualClock;
use longtail::model::Timestamp;
use longtail::mqtt::codec::{ConnectProperties, Qos, ReasonCode};
use longtail::mqtt::hooks::{Event, SessionChange};
use longtail::mqtt::{LocalError, Points, Publication};
use longtail::{Longtail, StartError};
use support::{Mini, connect};

const HOUR: Duration = Duration::from_secs(3600);

fn start(clock: &Arc<ManualClock>) -> Result<Longtail, StartError> {
    Longtail::builder()
        .in_memory()
        .clock(Arc::clone(clock) as Arc<_>)
        .mqtt("127.0.0.1:0".parse().unwrap())
        .start()
}

#[test]
fn a_delayed_message_comes_when_the_clock_says_so() {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    let broker = start(&clock).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let client = broker.mqtt().unwrap().client("c");
    let mut following = client.follow("later", 8).unwrap();
    let delayed = Publication::new("$delayed/3600/later", "an hour").qos(Qos::AtLeastOnce);
    let reason = runtime.block_on(client.publish(delayed)).unwrap();
    assert_eq!(reason, ReasonCode::Success);
    // Seconds since 1970: two hours from now.
    let at = Publication::new("$delayed/1700007200/later", "two hours").qos(Qos::AtLeastOnce);
    runtime.block_on(client.publish(at)).unwrap();
    clock.advance(HOUR - Duration::from_millis(1));
    client
        .publish_now(&Publication::new("later", "now"))
        .unwrap();
    let mut next = || runtime.block_on(following.recv()).unwrap().payload.clone();
    assert_eq!(next(), "now");
    clock.advance(Duration::from_millis(1));
    assert_eq!(next(), "an hour");
    clock.advance(HOUR);
    assert_eq!(next(), "two hours");
    let past = Publication::new("$delayed/1700000000/later", "past");
    let refused = Err(LocalError::Refused(ReasonCode::TopicNameInvalid));
    assert_eq!(runtime.block_on(client.publish(past)), refused);
}

#[test]
fn a_session_expires_when_the_clock_says_so() {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    let broker = start(&clock).unwrap();
    let mqtt = broker.mqtt().unwrap();
    let mut events = mqtt
        .hooks()
        .events(Points::SESSION | Points::DISCONNECTED, 100);
    let mut hello = connect("c");
    hello.properties = ConnectProperties {
        session_expiry_s: Some(3600),
        ..ConnectProperties::default()
    };
    drop(Mini::enter(&broker, hello));
    while !matches!(events.blocking_recv(), Some(Event::Disconnected { .. })) {}
    // Until its connection has left it.
    let is_away = || {
        let found = mqtt.find_session("c");
        found.is_some_and(|view| view.connected.is_none())
    };
    while !is_away() {
        std::thread::yield_now();
    }
    clock.advance(HOUR - Duration::from_secs(1));
    assert_eq!(mqtt.sessions(), 1);
    clock.advance(Duration::from_secs(1));
    let expired = |event: &Event| matches!(event, Event::Session { change, .. } if *change == SessionChange::Expired);
    while !expired(&events.blocking_recv().unwrap()) {}
    assert_eq!(mqtt.sessions(), 0);
}
