//! The whole broker inside a test.
#![allow(clippy::unwrap_used)] // a test helper that cannot go on has failed

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use longtail::engine::{Command, NewMessage, Reply, StreamConfig, StreamName, Wait};
use longtail::model::{Durability, Filter, Seq, Subject};
use longtail::{Longtail, Message};

fn memory() -> Longtail {
    Longtail::builder()
        .in_memory()
        .beanstalk("127.0.0.1:0".parse().unwrap())
        .start()
        .unwrap()
}

fn talk(broker: &Longtail, request: &str) -> Vec<String> {
    let mut socket = TcpStream::connect(&broker.addresses()[0].address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    BufReader::new(socket).lines().map(Result::unwrap).collect()
}

fn message(subject: &str, payload: &'static str) -> Arc<Message> {
    Arc::new(Message::new(
        Subject::new(subject).unwrap(),
        Bytes::from_static(payload.as_bytes()),
    ))
}

#[test]
fn a_beanstalk_client_finds_its_job() {
    let broker = memory();
    assert_eq!(talk(&broker, "put 0 0 10 5\r\nhello\r\n"), ["INSERTED 1"]);
    assert_eq!(
        talk(&broker, "reserve-with-timeout 0\r\n"),
        ["RESERVED 1 5", "hello"]
    );
    broker.shut_down();
}

#[tokio::test]
async fn a_subject_reaches_followers_and_bound_streams() {
    let broker = memory();
    let name = StreamName::new("default", "archive");
    broker
        .broker()
        .define(name.clone(), StreamConfig::default())
        .await
        .unwrap();
    broker
        .broker()
        .bind(&name, &Filter::new("sensors/+/temp").unwrap())
        .await
        .unwrap();
    let mut follower = broker
        .broker()
        .subscribe("default", Filter::new("sensors/#").unwrap(), 10)
        .unwrap();

    let sent = broker
        .broker()
        .publish("default", message("sensors/1/temp", "21"))
        .await
        .unwrap();
    assert_eq!((sent.delivered, sent.streams.len()), (1, 1));
    let other = broker
        .broker()
        .publish("default", message("sensors/1/light", "9"))
        .await
        .unwrap();
    assert_eq!((other.delivered, other.streams.len()), (1, 0));
    assert_eq!(follower.recv().await.payload, "21");
    assert_eq!(follower.recv().await.payload, "9");

    let read = Command::Read {
        name: name.clone(),
        from: Seq(1),
        max: 10,
        max_bytes: 1000,
        wait: Wait::No,
    };
    let answer = broker.broker().at_stream(&name, read).await.unwrap();
    assert!(matches!(answer.reply, Reply::Batch { ref messages, .. } if messages.len() == 1));
    assert_eq!(answer.messages[0].as_ref().unwrap().payload, "21");

    assert!(
        broker
            .broker()
            .unbind(&name, &Filter::new("sensors/+/temp").unwrap())
            .await
            .unwrap()
    );
    let late = broker
        .broker()
        .publish("default", message("sensors/1/temp", "22"))
        .await
        .unwrap();
    assert_eq!(late.streams.len(), 0);
}

#[test]
fn a_slow_follower_loses_messages_and_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let broker = memory();
    let mut follower = broker
        .broker()
        .subscribe("default", Filter::new("a").unwrap(), 2)
        .unwrap();
    let dropped: usize = (0..5)
        .map(|_| {
            runtime
                .block_on(broker.broker().publish("default", message("a", "x")))
                .unwrap()
                .dropped
        })
        .sum();
    assert_eq!(dropped, 3);
    assert_eq!(follower.take_dropped(), 3);
}

#[test]
fn streams_messages_and_bindings_survive_a_restart() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        Longtail::builder()
            .at(dir.path())
            .durability(Durability::Sync)
            .beanstalk("127.0.0.1:0".parse().unwrap())
            .start()
            .unwrap()
    };
    let name = StreamName::new("default", "kept");
    let broker = start();
    assert_eq!(
        talk(&broker, "use jobs\r\nput 7 0 10 3\r\none\r\n"),
        ["USING jobs", "INSERTED 1"]
    );
    runtime.block_on(async {
        broker
            .broker()
            .define(name.clone(), StreamConfig::default())
            .await
            .unwrap();
        broker
            .broker()
            .bind(&name, &Filter::new("a/#").unwrap())
            .await
            .unwrap();
        let body = NewMessage {
            payload: Bytes::from_static(b"first"),
            ..NewMessage::default()
        };
        assert_eq!(
            broker.broker().publish_to(&name, body).await.unwrap(),
            Seq(1)
        );
    });
    broker.shut_down();

    let broker = start();
    assert_eq!(
        talk(&broker, "watch jobs\r\nreserve-with-timeout 0\r\n"),
        ["WATCHING 2", "RESERVED 1 3", "one"]
    );
    let sent = runtime
        .block_on(broker.broker().publish("default", message("a/b", "second")))
        .unwrap();
    assert_eq!(
        sent.streams
            .iter()
            .map(|stream| stream.2)
            .collect::<Vec<_>>(),
        [Seq(2)]
    );
    broker.shut_down();
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Longtail::builder().at(dir.path()).start().unwrap();
    let error = Longtail::builder()
        .at(dir.path())
        .start()
        .err()
        .expect("the directory is in use");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn other_machines_are_kept_out_without_accounts() {
    let error = Longtail::builder()
        .beanstalk("0.0.0.0:0".parse().unwrap())
        .start()
        .err()
        .expect("refused");
    assert!(error.to_string().contains("accounts"), "{error}");
}
