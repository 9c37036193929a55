use longtail_admin::shapes::Body;
use longtail_broker::auth::{Directory, ThrottleLimits};

use super::*;
use crate::config::{Sources, load};

fn backend() -> Backend {
    let settings = load(&Sources::default()).unwrap().settings;
    let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
    Backend::new(&settings, Arc::new(authenticator))
}

fn running() -> Backend {
    let backend = backend();
    let longtail = Longtail::builder()
        .in_memory()
        .beanstalk("127.0.0.1:0".parse().unwrap())
        .start()
        .unwrap();
    backend.serve(Arc::new(longtail), Vec::new());
    backend
}

fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(answer)
}

fn stream(name: &str) -> StreamRef {
    StreamRef {
        space: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn publish(backend: &Backend, name: &str, body: &'static str) -> Answer<Published> {
    let message = NewMessage {
        body: body.into(),
        ..NewMessage::default()
    };
    wait(backend.publish(Target::Stream(stream(name)), message))
}

#[test]
fn before_the_log_is_recovered_only_the_probes_answer() {
    let backend = backend();
    assert_eq!(backend.health().reasons, ["recovering"]);
    let error = wait(backend.status()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(wait(backend.metrics(10)).is_ok_and(|metrics| !metrics.ready));
}

#[test]
fn a_draining_server_is_not_ready() {
    let backend = running();
    assert!(backend.health().ready);
    backend.drain();
    assert_eq!(backend.health().reasons, ["draining"]);
}

#[test]
fn messages_are_published_browsed_and_purged() {
    let backend = running();
    let first = publish(&backend, "mail", "one").unwrap().seq.unwrap();
    publish(&backend, "other", "between").unwrap();
    publish(&backend, "mail", "two").unwrap();
    let batch = wait(backend.browse(&stream("mail"), 0, 10, Duration::ZERO)).unwrap();
    let bodies: Vec<_> = batch.messages.iter().map(|m| m.body.to_bytes()).collect();
    assert_eq!(bodies, [Some(b"one".to_vec()), Some(b"two".to_vec())]);
    assert_eq!(batch.messages[0].seq, first);
    assert_eq!(batch.messages[0].state.as_deref(), Some("ready"));
    let rest = wait(backend.browse(&stream("mail"), batch.next, 10, Duration::ZERO)).unwrap();
    assert!(rest.messages.is_empty());
    assert_eq!(wait(backend.purge(&stream("mail"))).unwrap().messages, 2);
    let error = wait(backend.purge(&stream("mail"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "an empty tube is gone");
}

#[test]
fn a_subject_reaches_its_followers() {
    let backend = running();
    let publish = |subject: &str, delay_ms| {
        let target = Target::Subject {
            space: "default".to_owned(),
            subject: subject.to_owned(),
        };
        let body = "21".into();
        let message = NewMessage {
            body,
            delay_ms,
            ..NewMessage::default()
        };
        backend.publish(target, message)
    };
    let live = wait(async {
        let mut follower = backend
            .subscribe("default", "sensors.*.temp")
            .await
            .unwrap();
        assert_eq!(publish("sensors.1.temp", 0).await.unwrap().seq, None);
        follower.recv().await.unwrap()
    });
    assert_eq!(live.subject, "sensors.1.temp");
    assert_eq!(live.body, Body::Body("21".to_owned()));
    let kind = |answer: Answer<Published>| answer.unwrap_err().kind;
    assert_eq!(kind(wait(publish("a..b", 0))), ErrorKind::Invalid);
    assert_eq!(kind(wait(publish("a.b", 5))), ErrorKind::Unsupported);
}

#[test]
fn a_space_that_is_not_configured_gets_no_streams() {
    let backend = running();
    let message = NewMessage::default();
    let nowhere = StreamRef {
        space: "nowhere".to_owned(),
        name: "x".to_owned(),
    };
    let error = wait(backend.publish(Target::Stream(nowhere), message)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[test]
fn listings_go_page_by_page_over_all_shards() {
    let backend = running();
    for name in ["a", "b", "c", "name with spaces", "another one"] {
        publish(&backend, name, "x").unwrap();
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = Page { after, limit: 2 };
        let listing = wait(backend.streams(None, page)).unwrap();
        assert!(listing.items.len() <= 2);
        names.extend(listing.items.into_iter().map(|stream| stream.name));
        after = listing.next;
        if after.is_none() {
            break;
        }
    }
    names.sort();
    assert_eq!(
        names,
        ["a", "another one", "b", "c", "default", "name with spaces"]
    );
    let page = Page {
        after: Some("rubbish".to_owned()),
        limit: 2,
    };
    let error = wait(backend.streams(None, page)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[test]
fn metrics_sum_up_the_streams_beyond_the_limit() {
    let backend = running();
    for name in ["a", "b", "c"] {
        publish(&backend, name, "x").unwrap();
    }
    let metrics = wait(backend.metrics(2)).unwrap();
    assert_eq!(metrics.streams.len(), 2);
    let listed: u64 = metrics.streams.iter().map(|s| s.counts.ready).sum();
    assert_eq!(listed + metrics.other_streams.ready, 3);
    let appended: u64 = metrics
        .shards
        .iter()
        .map(|shard| shard.appended_total)
        .sum();
    assert_eq!(appended, 3);
    assert_eq!(metrics.edge.len(), 1);
}
