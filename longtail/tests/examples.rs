//! The examples, run.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[allow(dead_code, reason = "its main")]
#[path = "../examples/bridge.rs"]
mod bridge;
#[allow(dead_code, reason = "its main")]
#[path = "../examples/fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "its main")]
#[path = "../examples/gateway.rs"]
mod gateway;
mod support;

use longtail::mqtt::codec::{Qos, ReasonCode};
use support::{Mini, connect};

#[test]
fn the_gateway_lets_devices_in_and_keeps_them_apart() {
    let broker = gateway::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let device = |id: &'static str, password: &'static [u8]| {
        let mut connect = connect(id);
        connect.username = Some(id);
        connect.password = Some(password);
        Mini::knock(&broker, connect)
    };
    assert_eq!(
        device("lamp", b"wrong").connack(),
        ReasonCode::BadUserNameOrPassword
    );
    let mut lamp = device("lamp", b"secret-of-lamp");
    assert_eq!(lamp.connack(), ReasonCode::Success);
    let mut door = device("door", b"secret-of-door");
    assert_eq!(door.connack(), ReasonCode::Success);
    assert_eq!(lamp.subscribe("#", Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(lamp.publish("config/mode", "x"), ReasonCode::NotAuthorized);
    let mut all = broker
        .mqtt()
        .unwrap()
        .client("all")
        .follow("#", 10)
        .unwrap();
    assert_eq!(door.publish("state", "open"), ReasonCode::Success);
    lamp.publish_only("state", "on", Qos::AtMostOnce, false);
    let (topic, payload, ..) = lamp.message();
    assert_eq!(
        (topic.as_str(), payload.as_str()),
        ("devices/lamp/state", "on")
    );
    let stamped = all.try_recv().unwrap();
    assert_eq!(stamped.subject.as_str(), "devices/door/state");
    assert_eq!(stamped.headers.get(b"device").unwrap(), "door");
}

#[test]
fn the_fixture_starts_and_tells_what_happened() {
    fixture::run().unwrap();
}

#[tokio::test]
async fn the_bridge_carries_messages_over_and_not_in_circles() {
    bridge::run().await.unwrap();
}
