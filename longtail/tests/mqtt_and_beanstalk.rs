//! Two protocols on one subject space: a tube that captures a topic filter, and what is published elsewhere as an MQTT
//! subscriber sees it.
#![allow(clippy::unwrap_used)] // a test helper that cannot go on has failed

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longtail::engine::StreamName;
use longtail::model::{Filter, Subject};
use longtail::{Longtail, Message};

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";

fn both() -> Longtail {
    Longtail::builder()
        .in_memory()
        .beanstalk("127.0.0.1:0".parse().unwrap())
        .mqtt("127.0.0.1:0".parse().unwrap())
        .start()
        .unwrap()
}

fn dial(broker: &Longtail, protocol: &str) -> TcpStream {
    let mut listeners = broker.addresses().iter();
    let listener = listeners.find(|at| at.protocol == protocol).unwrap();
    let socket = TcpStream::connect(&listener.address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

fn mqtt(broker: &Longtail) -> TcpStream {
    let mut socket = dial(broker, "mqtt");
    socket.write_all(CONNECT).unwrap();
    expect(&mut socket, CONNACK);
    socket
}

fn expect(socket: &mut TcpStream, bytes: &[u8]) {
    let mut found = vec![0; bytes.len()];
    socket.read_exact(&mut found).unwrap();
    assert_eq!(found, bytes);
}

fn talk(broker: &Longtail, request: &str) -> Vec<String> {
    let mut socket = dial(broker, "beanstalk");
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    BufReader::new(socket).lines().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_tube_captures_a_topic_filter_at_every_qos() {
    let broker = both();
    assert_eq!(talk(&broker, "use jobs\r\n"), ["USING jobs"]);
    // A tube lasts while it has a job or somebody uses it.
    let mut keeper = dial(&broker, "beanstalk");
    keeper.write_all(b"watch jobs\r\n").unwrap();
    expect(&mut keeper, b"WATCHING 2\r\n");
    let name = broker.beanstalk().unwrap().config().space.clone();
    let streams = broker.broker().streams(Some(name)).await.unwrap();
    let (tube, _): &(StreamName, _) = streams
        .iter()
        .find(|(name, _)| name.name.ends_with("jobs"))
        .unwrap();
    let filter = Filter::parse_mqtt("sensors/+").unwrap();
    broker.broker().bind(tube, &filter).await.unwrap();

    let mut publisher = mqtt(&broker);
    publisher.write_all(b"\x30\x0c\x00\x09sensors/1a").unwrap();
    publisher
        .write_all(b"\x32\x0e\x00\x09sensors/1\x00\x01b")
        .unwrap();
    expect(&mut publisher, b"\x40\x02\x00\x01");
    publisher
        .write_all(b"\x34\x0e\x00\x09sensors/1\x00\x02c")
        .unwrap();
    expect(&mut publisher, b"\x50\x02\x00\x02");
    publisher.write_all(b"\x62\x02\x00\x02").unwrap();
    expect(&mut publisher, b"\x70\x02\x00\x02");

    let reserve = "reserve-with-timeout 0\r\n".repeat(4);
    let found = talk(&broker, &format!("watch jobs\r\n{reserve}"));
    let bodies: Vec<_> = found.iter().skip(2).step_by(2).take(3).collect();
    assert_eq!(bodies, ["a", "b", "c"], "{found:?}");
    assert_eq!(found.last().unwrap(), "TIMED_OUT");
    drop((keeper, publisher));
    broker.shut_down();
}

#[tokio::test]
async fn what_is_published_to_a_subject_reaches_mqtt_subscribers() {
    let broker = both();
    let mut subscriber = mqtt(&broker);
    subscriber
        .write_all(b"\x82\x0e\x00\x01\x00\x09sensors/+\x01")
        .unwrap();
    expect(&mut subscriber, b"\x90\x03\x00\x01\x01");
    let message = Message::new(Subject::new("sensors/1").unwrap(), Bytes::from_static(b"x"));
    let sent = broker
        .broker()
        .publish("default", Arc::new(message))
        .await
        .unwrap();
    assert_eq!(sent.delivered, 1);
    expect(&mut subscriber, b"\x30\x0c\x00\x09sensors/1x");
    broker.shut_down();
}
