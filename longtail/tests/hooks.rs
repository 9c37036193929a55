//! Every point at which a hook is asked or told, through a broker with real connections.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longtail::mqtt::codec::{
    Ack, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode, Subscribe,
    SubscribeProperties, Subscription, SubscriptionOptions, Version,
};
use longtail::mqtt::hooks::{
    Access, Asking, ClientInfo, ConnectChange, Connecting, Decision, Event, Events, FlightChange,
    Permission, Proof, RetainedChange, Scope, Selection, SessionChange, Sharing, Subscribing,
    Verdict, Wait,
};
use longtail::mqtt::{Config, Hook, Limits, LocalError, Points, Publication};
use longtail::{Longtail, Message};
use support::{Mini, connect, will};

type Shared = Arc<Message>;

fn start(hook: impl Hook) -> Longtail {
    Longtail::builder()
        .in_memory()
        .mqtt("127.0.0.1:0".parse().unwrap())
        .mqtt_hook(Arc::new(hook), 0, Scope::Everywhere)
        .start()
        .unwrap()
}

fn plain() -> Longtail {
    let builder = Longtail::builder().in_memory();
    builder
        .mqtt("127.0.0.1:0".parse().unwrap())
        .start()
        .unwrap()
}

fn events(broker: &Longtail, points: Points) -> Events {
    broker.mqtt().unwrap().hooks().events(points, 1000)
}

/// The next event that `pick` wants; others are passed over.
fn await_event<R>(events: &mut Events, mut pick: impl FnMut(&Event) -> Option<R>) -> R {
    loop {
        let event = events.blocking_recv().unwrap();
        if let Some(found) = pick(&event) {
            return found;
        }
    }
}

fn with_payload(message: &Shared, payload: &str) -> Message {
    Message {
        payload: payload.to_owned().into(),
        ..message.to_own()
    }
}

struct Doorman;

impl Hook for Doorman {
    fn points(&self) -> Points {
        Points::CONNECT | Points::AUTHENTICATE
    }

    fn connect(&self, connecting: &Connecting) -> Verdict<ConnectChange> {
        assert!(connecting.remote.ip().unwrap().is_loopback());
        assert_eq!(&*connecting.listener, "127.0.0.1:0");
        match &*connecting.client_id {
            "banned" => Verdict::Reject(ReasonCode::Banned),
            "silent" => Verdict::Ignore,
            "buggy" => panic!("on purpose"),
            "plain" => Verdict::Continue,
            id => Verdict::Replace(ConnectChange {
                client_id: Some(format!("site/{id}").into()),
                keep_alive_s: Some(7),
                session_expiry_s: Some(9),
                username: None,
            }),
        }
    }

    fn authenticate<'a>(&'a self, proof: &'a Proof) -> Wait<'a, Decision> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            match proof.username.as_deref() {
                None => Decision::Next,
                Some("good") if proof.password.as_deref() == Some(b"pw") => Decision::admit_all(),
                Some("slow") => std::future::pending().await,
                Some("buggy") => panic!("on purpose"),
                Some(_) => Decision::Deny(ReasonCode::BadUserNameOrPassword),
            }
        })
    }

    fn authenticate_within(&self) -> Duration {
        Duration::from_millis(50)
    }
}

#[test]
fn a_connect_is_changed_or_refused_before_anybody_is_asked_who_it_is() {
    let broker = start(Doorman);
    let mut refused = events(&broker, Points::REFUSED);
    let mut mini = Mini::knock(&broker, connect("one"));
    mini.next(|packet| match packet {
        Packet::Connack(connack) => {
            assert_eq!(connack.properties.assigned_client_id, Some("site/one"));
            assert_eq!(connack.properties.server_keep_alive_s, Some(7));
            assert_eq!(connack.properties.session_expiry_s, Some(9));
        }
        other => panic!("{other:?}"),
    });
    let reason = |id| Mini::knock(&broker, connect(id)).connack();
    assert_eq!(reason("plain"), ReasonCode::Success);
    assert_eq!(reason("banned"), ReasonCode::Banned);
    assert_eq!(reason("buggy"), ReasonCode::ImplementationSpecificError);
    let end = Mini::knock(&broker, connect("silent")).try_next(|packet| format!("{packet:?}"));
    assert_eq!(end, None);
    let who = await_event(&mut refused, |event| match event {
        Event::Refused { client_id, .. } => Some(client_id.to_string()),
        _ => None,
    });
    assert_eq!(who, "banned");
}

#[test]
fn an_authentication_may_wait_and_denies_when_it_is_late_or_fails() {
    let broker = start(Doorman);
    let reason = |user: &'static str, password: &'static [u8]| {
        let mut connect = connect("plain");
        connect.username = Some(user);
        connect.password = Some(password);
        Mini::knock(&broker, connect).connack()
    };
    assert_eq!(reason("good", b"pw"), ReasonCode::Success);
    assert_eq!(reason("good", b"no"), ReasonCode::BadUserNameOrPassword);
    assert_eq!(reason("slow", b""), ReasonCode::ServerUnavailable);
    assert_eq!(reason("buggy", b""), ReasonCode::UnspecifiedError);
    assert_eq!(broker.mqtt().unwrap().hooks().panics(), 1);
}

struct Guard;

impl Hook for Guard {
    fn points(&self) -> Points {
        Points::AUTHORIZE
    }

    fn authorize(&self, client: &ClientInfo, access: &Access<'_>) -> Permission {
        let secret = match access {
            Access::Publish { topic, payload, .. } => {
                topic.contains("secret") || *payload == b"bad"
            }
            Access::Subscribe { filter, .. } => filter.contains("secret"),
            Access::Deliver { message } => &*message.payload == b"eyes only" && &*client.id == "c",
        };
        if secret {
            Permission::Deny
        } else {
            Permission::Next
        }
    }
}

#[test]
fn what_may_be_published_subscribed_to_and_delivered_is_asked_each_time() {
    let broker = start(Guard);
    let mut mini = Mini::enter(&broker, connect("c"));
    assert_eq!(
        mini.subscribe("secret/#", Qos::AtMostOnce),
        ReasonCode::NotAuthorized
    );
    assert_eq!(
        mini.subscribe("open/#", Qos::AtMostOnce),
        ReasonCode::Success
    );
    let mut other = Mini::enter(&broker, connect("d"));
    assert_eq!(other.publish("secret/1", "x"), ReasonCode::NotAuthorized);
    assert_eq!(other.publish("open/1", "bad"), ReasonCode::NotAuthorized);
    let mut dropped = events(&broker, Points::DROPPED);
    other.publish("open/1", "eyes only");
    assert_eq!(other.publish("open/1", "for all"), ReasonCode::Success);
    assert_eq!(mini.payload(), "for all");
    let payload = await_event(&mut dropped, |event| match event {
        Event::Dropped { message, .. } => Some(message.payload.clone()),
        _ => None,
    });
    assert_eq!(payload, "eyes only");
}

/// Turns topics around on the wire, and keeps what was sent.
#[derive(Default)]
struct Wire {
    answered: AtomicBool,
}

impl Hook for Wire {
    fn points(&self) -> Points {
        Points::PACKET_READ | Points::PACKET_ENCODE | Points::PACKET_SENT
    }

    fn packet_read(&self, client: &ClientInfo, packet: &Packet<'_>) -> Verdict<Vec<u8>> {
        match packet {
            Packet::Publish(publish) if publish.topic == "lost" => Verdict::Ignore,
            Packet::Publish(publish) if publish.topic == "gone" => {
                Verdict::Disconnect(ReasonCode::AdministrativeAction)
            }
            Packet::Publish(publish) if publish.topic == "junk" => Verdict::Replace(vec![0xFF]),
            Packet::Publish(publish) => {
                let mut bytes = Vec::new();
                let mut changed = *publish;
                changed.payload = b"changed";
                Packet::Publish(changed)
                    .encode(client.version, &mut bytes)
                    .unwrap();
                Verdict::Replace(bytes)
            }
            _ => Verdict::Continue,
        }
    }

    fn packet_encode(&self, _client: &ClientInfo, packet: &Packet<'_>) -> Verdict<Vec<u8>> {
        match packet {
            Packet::Pingresp if !self.answered.swap(true, Ordering::Relaxed) => Verdict::Ignore,
            // A PUBACK of the same id with another reason.
            Packet::Puback(ack) => {
                let [high, low] = ack.packet_id.get().to_be_bytes();
                Verdict::Replace(vec![0x40, 3, high, low, 0x97])
            }
            _ => Verdict::Continue,
        }
    }

    fn packet_sent(&self, _client: &ClientInfo, bytes: &[u8]) {
        if bytes.first().is_some_and(|first| first >> 4 == 3) {
            assert!(bytes.ends_with(b"changed"), "{bytes:?}");
            SEEN.store(true, Ordering::Relaxed);
        }
    }
}

static SEEN: AtomicBool = AtomicBool::new(false);

#[test]
fn packets_are_dropped_changed_and_shown_on_their_way() {
    let broker = start(Wire::default());
    let mut processed = events(&broker, Points::PACKET_PROCESSED);
    let mut mini = Mini::enter(&broker, connect("c"));
    assert_eq!(mini.subscribe("t", Qos::AtMostOnce), ReasonCode::Success);
    mini.publish_only("lost", "x", Qos::AtMostOnce, false);
    assert_eq!(mini.subscribe("lost", Qos::AtMostOnce), ReasonCode::Success);
    mini.publish_only("t", "x", Qos::AtMostOnce, false);
    assert_eq!(mini.payload(), "changed");
    assert!(SEEN.load(Ordering::Relaxed));
    mini.send(&Packet::Pingreq);
    assert_eq!(
        mini.publish("elsewhere", "x"),
        ReasonCode::QuotaExceeded,
        "no PINGRESP before"
    );
    mini.ping();
    mini.publish_only("junk", "x", Qos::AtMostOnce, false);
    assert_eq!(mini.farewell(), ReasonCode::ImplementationSpecificError);
    let mut mini = Mini::enter(&broker, connect("c"));
    mini.publish_only("gone", "x", Qos::AtMostOnce, false);
    assert_eq!(mini.farewell(), ReasonCode::AdministrativeAction);
    let broken = await_event(&mut processed, |event| match event {
        Event::PacketProcessed { broken, .. } => *broken,
        _ => None,
    });
    assert_eq!(broken, ReasonCode::ImplementationSpecificError);
    assert_eq!(broker.mqtt().unwrap().hooks().panics(), 0);
}

struct Rewriter;

impl Hook for Rewriter {
    fn points(&self) -> Points {
        Points::SUBSCRIBE | Points::UNSUBSCRIBE
    }

    fn subscribe(&self, client: &ClientInfo, asked: &Subscribing) -> Verdict<Subscribing> {
        match asked.filter.as_str() {
            "no" => Verdict::Reject(ReasonCode::QuotaExceeded),
            "blind" => Verdict::Ignore,
            "leave" => Verdict::Disconnect(ReasonCode::AdministrativeAction),
            filter => {
                let mut changed = asked.at(format!("{}/{filter}", client.id));
                changed.options.qos = Qos::AtMostOnce;
                Verdict::Replace(changed)
            }
        }
    }

    fn unsubscribe(&self, _client: &ClientInfo, filter: &str) -> Verdict<String> {
        match filter {
            "kept" => Verdict::Ignore,
            "no" => Verdict::Reject(ReasonCode::NotAuthorized),
            "alias" => Verdict::Replace("t".to_owned()),
            _ => Verdict::Continue,
        }
    }
}

#[test]
fn subscriptions_are_rewritten_refused_and_told_of() {
    let broker = start(Rewriter);
    let mut told = events(&broker, Points::SUBSCRIBED | Points::UNSUBSCRIBED);
    let mut mini = Mini::enter(&broker, connect("c"));
    assert_eq!(
        mini.subscribe("no", Qos::AtLeastOnce),
        ReasonCode::QuotaExceeded
    );
    assert_eq!(
        mini.subscribe("blind", Qos::AtLeastOnce),
        ReasonCode::GrantedQos1
    );
    assert_eq!(mini.subscribe("t", Qos::AtLeastOnce), ReasonCode::Success);
    assert_eq!(
        mini.subscribe("kept", Qos::AtLeastOnce),
        ReasonCode::Success
    );
    assert_eq!(
        mini.publish("blind", "x"),
        ReasonCode::NoMatchingSubscribers
    );
    assert_eq!(mini.publish("t", "x"), ReasonCode::NoMatchingSubscribers);
    mini.publish_only("c/t", "x", Qos::AtMostOnce, false);
    assert_eq!(mini.message().0, "c/t");
    assert_eq!(mini.unsubscribe("no"), ReasonCode::NotAuthorized);
    assert_eq!(mini.unsubscribe("kept"), ReasonCode::Success);
    assert_eq!(mini.unsubscribe("alias"), ReasonCode::Success);
    mini.publish_only("c/t", "x", Qos::AtMostOnce, false);
    mini.publish_only("c/kept", "y", Qos::AtMostOnce, false);
    assert_eq!(mini.payload(), "y");
    let names = std::iter::from_fn(|| told.try_recv()).map(|event| match event {
        Event::Subscribed { subscriptions, .. } => {
            let (filter, reason) = &subscriptions[0];
            format!(
                "+{} {:#x}",
                filter.as_deref().unwrap_or("-"),
                reason.as_u8()
            )
        }
        Event::Unsubscribed { filter, .. } => format!("-{filter}"),
        other => panic!("{other:?}"),
    });
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["+- 0x97", "+- 0x1", "+t 0x0", "+kept 0x0", "-t"]);
    let mut mini = Mini::enter(&broker, connect("d"));
    mini.send(&Packet::Subscribe(longtail::mqtt::codec::Subscribe {
        packet_id: 1.try_into().unwrap(),
        properties: Default::default(),
        subscriptions: vec![longtail::mqtt::codec::Subscription {
            filter: "leave",
            options: Default::default(),
        }],
    }));
    assert_eq!(mini.farewell(), ReasonCode::AdministrativeAction);
}

struct Editor;

impl Hook for Editor {
    fn points(&self) -> Points {
        Points::PUBLISH | Points::DELIVER | Points::WILL
    }

    fn publish(&self, client: &ClientInfo, message: &Shared) -> Verdict<Message> {
        assert_eq!(client.account, None);
        match message.subject.as_str() {
            "rejected" => Verdict::Reject(ReasonCode::PayloadFormatInvalid),
            "ignored" => Verdict::Ignore,
            "fatal" => Verdict::Disconnect(ReasonCode::AdministrativeAction),
            "moved" => Verdict::Replace(Message {
                subject: longtail::model::Subject::parse_mqtt("here").unwrap(),
                ..with_payload(message, "moved")
            }),
            _ => Verdict::Continue,
        }
    }

    fn deliver(&self, client: &ClientInfo, message: &Shared) -> Verdict<Message> {
        match (&*client.id, &*message.payload) {
            ("c", b"private") => Verdict::Ignore,
            ("c", b"to all") => Verdict::Replace(with_payload(message, "to c")),
            _ => Verdict::Continue,
        }
    }

    fn will(&self, client_id: &str, message: &Shared) -> Verdict<Message> {
        match client_id {
            "quiet" => Verdict::Ignore,
            id => Verdict::Replace(with_payload(message, &format!("{id} is gone"))),
        }
    }
}

#[test]
fn a_publish_is_changed_refused_or_swallowed() {
    let broker = start(Editor);
    let mut told = events(&broker, Points::PUBLISHED);
    let mut mini = Mini::enter(&broker, connect("c"));
    assert_eq!(mini.subscribe("#", Qos::AtMostOnce), ReasonCode::Success);
    let mut other = Mini::enter(&broker, connect("d"));
    assert_eq!(
        other.publish("rejected", "x"),
        ReasonCode::PayloadFormatInvalid
    );
    assert_eq!(other.publish("ignored", "x"), ReasonCode::Success);
    assert_eq!(other.publish("moved", "x"), ReasonCode::Success);
    let (topic, payload, ..) = mini.message();
    assert_eq!((topic.as_str(), payload.as_str()), ("here", "moved"));
    let (who, reason) = await_event(&mut told, |event| match event {
        Event::Published { client, reason, .. } => Some((client.clone().unwrap(), *reason)),
        _ => None,
    });
    assert_eq!((&*who.id, reason), ("d", ReasonCode::Success));
    // QoS 2 is asked at PUBLISH, and the same message again is the same message.
    for _ in 0..2 {
        other.next_qos2("moved", "x", 77);
    }
    other.release(77);
    assert_eq!(mini.payload(), "moved");
    other.publish_only("fatal", "x", Qos::AtMostOnce, false);
    assert_eq!(other.farewell(), ReasonCode::AdministrativeAction);
}

#[test]
fn a_copy_is_changed_or_kept_back_for_one_client() {
    let broker = start(Editor);
    let mut dropped = events(&broker, Points::DROPPED);
    let mut c = Mini::enter(&broker, connect("c"));
    let mut d = Mini::enter(&broker, connect("d"));
    c.subscribe("t", Qos::AtLeastOnce);
    d.subscribe("t", Qos::AtLeastOnce);
    let mut publisher = Mini::enter(&broker, connect("p"));
    publisher.publish("t", "private");
    publisher.publish("t", "to all");
    assert_eq!(c.payload(), "to c");
    assert_eq!(
        (d.payload(), d.payload()),
        ("private".into(), "to all".into())
    );
    let to = await_event(&mut dropped, |event| match event {
        Event::Dropped { client, .. } => Some(client.id.to_string()),
        _ => None,
    });
    assert_eq!(to, "c");
}

#[test]
fn a_will_is_changed_or_kept_back_and_told_of() {
    let broker = start(Editor);
    let mut told = events(&broker, Points::WILL_SENT | Points::DISCONNECTED);
    let mut watcher = Mini::enter(&broker, connect("w"));
    watcher.subscribe("wills/#", Qos::AtMostOnce);
    for id in ["quiet", "loud"] {
        let mut connect = connect(id);
        connect.will = Some(will("wills/1", b"-"));
        drop(Mini::enter(&broker, connect));
        // Before the next one comes.
        await_event(&mut told, |event| match event {
            Event::Disconnected {
                client,
                session_ends,
                ..
            } => {
                assert!(*session_ends);
                (&*client.id == id).then_some(())
            }
            _ => None,
        });
    }
    assert_eq!(watcher.payload(), "loud is gone");
    let whose = await_event(&mut told, |event| match event {
        Event::WillSent { client_id, message } => {
            Some((client_id.clone(), message.payload.clone()))
        }
        _ => None,
    });
    assert_eq!((&*whose.0, &*whose.1), ("loud", &b"loud is gone"[..]));
}

#[test]
fn retained_messages_are_told_of_from_the_first_to_the_last() {
    let broker = plain();
    let mut told = events(&broker, Points::RETAINED);
    let mut mini = Mini::enter(&broker, connect("c"));
    mini.publish_only("r/1", "v", Qos::AtMostOnce, true);
    mini.ping();
    mini.subscribe("r/#", Qos::AtMostOnce);
    assert_eq!(mini.payload(), "v");
    mini.publish_only("r/1", "", Qos::AtMostOnce, true);
    assert_eq!(mini.payload(), "");
    let client = broker.mqtt().unwrap().client("local");
    let mut short = Publication::new("r/2", "v").retained();
    short.expiry_s = Some(1);
    client.publish_now(&short).unwrap();
    let mut next = || {
        await_event(&mut told, |event| match event {
            Event::Retained(RetainedChange::Set(message)) => {
                Some(format!("set {}", message.subject))
            }
            Event::Retained(RetainedChange::Sent(to, message)) => {
                Some(format!("sent {} to {}", message.subject, to.id))
            }
            Event::Retained(RetainedChange::Cleared(topic)) => Some(format!("cleared {topic}")),
            Event::Retained(RetainedChange::Expired(topic)) => Some(format!("expired {topic}")),
            _ => None,
        })
    };
    let seen: Vec<String> = (0..5).map(|_| next()).collect();
    assert_eq!(
        seen,
        [
            "set r/1",
            "sent r/1 to c",
            "cleared r/1",
            "set r/2",
            "expired r/2"
        ]
    );
}

#[test]
fn messages_in_flight_are_told_of_until_they_are_acknowledged() {
    let broker = plain();
    let mut told = events(&broker, Points::IN_FLIGHT);
    let mut change = || {
        await_event(&mut told, |event| match event {
            Event::InFlight {
                client,
                packet_id,
                change,
            } => {
                assert_eq!(&*client.id, "c");
                Some((packet_id.get(), change.clone()))
            }
            _ => None,
        })
    };
    let mut lasting = connect("c");
    lasting.clean_start = false;
    lasting.properties.session_expiry_s = Some(60);
    let mut mini = Mini::enter(&broker, lasting.clone());
    mini.subscribe("t", Qos::AtLeastOnce);
    let client = broker.mqtt().unwrap().client("local");
    let message = Publication::new("t", "x").qos(Qos::AtLeastOnce);
    client.publish_now(&message).unwrap();
    let id = mini.message().2.unwrap();
    assert!(matches!(change(), (sent, FlightChange::Sent(_)) if sent == id.get()));
    drop(mini);
    let mut mini = Mini::enter(&broker, lasting);
    let (.., again, dup) = mini.message();
    assert_eq!((again, dup), (Some(id), true));
    assert!(matches!(change(), (sent, FlightChange::Resent(_)) if sent == id.get()));
    mini.puback(id);
    assert!(matches!(change(), (done, FlightChange::Completed) if done == id.get()));
}

#[test]
fn sessions_are_told_of_from_the_first_to_the_last() {
    let broker = plain();
    let points = Points::SESSION | Points::ESTABLISHED | Points::DISCONNECTED;
    let mut told = events(&broker, points);
    let mut changes = |until: SessionChange| {
        let mut seen = Vec::new();
        await_event(&mut told, |event| match event {
            Event::Session { change, client_id } => {
                assert_eq!(&**client_id, "c");
                seen.push(*change);
                (*change == until).then_some(())
            }
            _ => None,
        });
        seen
    };
    use SessionChange::{Created, Discarded, Ended, Expired, Resumed, TakenOver};
    let lasting = |expiry_s| {
        let mut connect = connect("c");
        connect.clean_start = false;
        connect.properties.session_expiry_s = Some(expiry_s);
        connect
    };
    let first = Mini::enter(&broker, lasting(60));
    assert_eq!(changes(Created), [Created]);
    let second = Mini::enter(&broker, lasting(60));
    assert_eq!(changes(Resumed), [TakenOver, Resumed]);
    let third = Mini::enter(&broker, connect("c"));
    assert_eq!(changes(Created), [TakenOver, Discarded, Created]);
    drop((first, second, third));
    assert_eq!(changes(Ended), [Ended]);
    drop(Mini::enter(&broker, lasting(1)));
    assert_eq!(changes(Expired), [Created, Expired]);
}

#[test]
fn a_client_whose_packet_ids_are_all_in_use_is_told_of() {
    let limits = Limits {
        window: u16::MAX,
        queue_messages: 100_000,
        ..Limits::default()
    };
    let broker = Longtail::builder()
        .in_memory()
        .mqtt("127.0.0.1:0".parse().unwrap())
        .mqtt_config(Config {
            limits,
            ..Config::default()
        })
        .start()
        .unwrap();
    let mut told = events(&broker, Points::PACKET_IDS_EXHAUSTED);
    let mut mini = Mini::enter(&broker, connect("c"));
    mini.subscribe("t", Qos::AtLeastOnce);
    let client = broker.mqtt().unwrap().client("local");
    let message = Publication::new("t", "x").qos(Qos::AtLeastOnce);
    for _ in 0..usize::from(u16::MAX) {
        client.publish_now(&message).unwrap();
        // Read, never acknowledged.
        mini.message();
    }
    assert!(told.try_recv().is_none());
    client.publish_now(&message).unwrap();
    assert!(
        matches!(told.blocking_recv(), Some(Event::PacketIdsExhausted { client }) if &*client.id == "c")
    );
}

/// Publishes from inside a call, which is refused.
struct Reckless(
    std::sync::mpsc::Sender<LocalError>,
    std::sync::OnceLock<longtail::mqtt::LocalClient>,
);

impl Hook for Reckless {
    fn points(&self) -> Points {
        Points::PUBLISH
    }

    fn publish(&self, _client: &ClientInfo, _message: &Shared) -> Verdict<Message> {
        if let Some(client) = self.1.get() {
            let error = client.publish_now(&Publication::new("a", "b")).unwrap_err();
            self.0.send(error).unwrap();
        }
        Verdict::Continue
    }
}

#[test]
fn hooks_come_and_go_while_clients_are_connected_and_cannot_block_themselves() {
    let broker = plain();
    let mqtt = broker.mqtt().unwrap();
    let mut mini = Mini::enter(&broker, connect("c"));
    let (sender, errors) = std::sync::mpsc::channel();
    let hook = Arc::new(Reckless(sender, std::sync::OnceLock::new()));
    hook.1
        .set(mqtt.client("h"))
        .unwrap_or_else(|_| panic!("set twice"));
    let id = mqtt
        .hooks()
        .add(hook, 0, Scope::Listener("127.0.0.1:0".into()));
    mini.publish("t", "x");
    assert_eq!(errors.recv().unwrap(), LocalError::InsideHook);
    assert!(mqtt.hooks().remove(id));
    mini.publish("t", "x");
    assert!(errors.try_recv().is_err());
    assert_eq!(mqtt.hooks().panics(), 0);
}

#[test]
fn the_start_the_end_and_the_seconds_between_are_told() {
    struct Life(std::sync::mpsc::Sender<String>);
    impl Hook for Life {
        fn points(&self) -> Points {
            Points::LIFE | Points::TICK
        }

        fn notify(&self, event: &Event) {
            let name = match event {
                Event::Tick(_) => "tick".to_owned(),
                other => format!("{other:?}"),
            };
            let _ = self.0.send(name);
        }
    }
    let (sender, told) = std::sync::mpsc::channel();
    let broker = start(Life(sender));
    assert_eq!(told.recv().unwrap(), "Started");
    assert_eq!(told.recv().unwrap(), "tick");
    broker.shut_down();
    assert_eq!(told.iter().filter(|name| name == "Stopped").count(), 1);
}

#[tokio::test]
async fn who_looks_for_a_session_while_its_connection_ends_is_not_told_that_there_is_none() {
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use longtail::mqtt::census::{Filters, Wanted};
    use tokio::time::timeout;

    /// Keeps the end of a connection where its session has left it and is not yet away.
    struct Holds(Sender<()>, Mutex<Receiver<()>>);
    impl Hook for Holds {
        fn points(&self) -> Points {
            Points::DISCONNECTED
        }

        fn notify(&self, _: &Event) {
            let _ = self.0.send(());
            let _ = self.1.lock().unwrap().recv();
        }
    }
    let ((ends, ending), (release, go)) = (channel(), channel());
    let broker = start(Holds(ends, Mutex::new(go)));
    let mut lasting = connect("c");
    lasting.properties.session_expiry_s = Some(60);
    let mut client = Mini::enter(&broker, lasting);
    client.subscribe("news", Qos::AtMostOnce);
    drop(client);
    ending.recv().unwrap();
    let tenant = broker.mqtt().unwrap();
    assert!(tenant.find_session("c").is_none());
    let (every, filters) = (Wanted::default(), Filters::default());
    let looking = tenant.await_session("c");
    let listing = tenant.find_sessions(&every, 10);
    let paging = tenant.page_of_sessions(|view| view.connected.is_none(), 0, 10);
    let reading = tenant.await_subscriptions("c", &filters, None, 10);
    let (mut looking, mut listing) = (pin!(looking), pin!(listing));
    let (mut paging, mut reading) = (pin!(paging), pin!(reading));
    let at_once = Duration::ZERO;
    assert!(timeout(at_once, &mut looking).await.is_err(), "it waits");
    assert!(timeout(at_once, &mut listing).await.is_err(), "it waits");
    assert!(timeout(at_once, &mut paging).await.is_err(), "it waits");
    assert!(timeout(at_once, &mut reading).await.is_err(), "it waits");
    release.send(()).unwrap();
    let found = looking.await.expect("the session is there");
    assert!(found.connected.is_none());
    assert_eq!(listing.await, std::slice::from_ref(&found));
    assert_eq!(paging.await, (vec![found], 1));
    let filters: Vec<_> = reading.await.expect("the session is there");
    assert_eq!(filters.len(), 1);
    assert_eq!(&*filters[0].filter, "news");
    assert!(tenant.await_session("nobody").await.is_none());
}

#[tokio::test]
async fn a_client_in_the_process_publishes_and_follows_without_a_socket() {
    let broker = Longtail::builder()
        .in_memory()
        .mqtt_in_process()
        .start()
        .unwrap();
    let client = broker.mqtt().unwrap().client("inside");
    let nobody = client
        .publish(Publication::new("a/b", "0").qos(Qos::AtLeastOnce))
        .await;
    assert_eq!(nobody, Ok(ReasonCode::NoMatchingSubscribers));
    let kept = Publication::new("a/b", "1").retained().property("k", "v");
    assert_eq!(client.publish(kept).await, Ok(ReasonCode::Success));
    let mut following = client.follow("a/#", 2).unwrap();
    for payload in ["2", "3", "4"] {
        let _ = client.publish(Publication::new("a/b", payload)).await;
    }
    let first = following.recv().await.unwrap();
    assert_eq!(first.payload, "1", "the retained message");
    assert_eq!(first.headers.get(b"k").unwrap(), "v");
    assert_eq!(following.recv().await.unwrap().payload, "2");
    assert_eq!(following.recv().await.unwrap().payload, "3");
    assert_eq!(following.take_dropped(), 1);
    drop(following);

    let (sender, called) = std::sync::mpsc::channel();
    let _calling = client
        .on_message("a/+", move |message| {
            sender.send(message.payload.clone()).unwrap();
        })
        .unwrap();
    assert_eq!(called.try_recv().unwrap(), "1", "the retained message");
    client.publish(Publication::new("a/c", "5")).await.unwrap();
    assert_eq!(called.try_recv().unwrap(), "5");

    let mut one = client.follow("$share/g/jobs", 10).unwrap();
    let mut two = client.follow("$share/g/jobs", 10).unwrap();
    for _ in 0..4 {
        client.publish(Publication::new("jobs", "j")).await.unwrap();
    }
    let count = |following: &mut longtail::mqtt::Following| {
        std::iter::from_fn(|| following.try_recv()).count()
    };
    assert_eq!((count(&mut one), count(&mut two)), (2, 2));

    let topic = client.publish(Publication::new("a/#", "")).await;
    assert_eq!(topic, Err(LocalError::Topic("a/#".into())));
    assert!(matches!(client.follow("a#", 1), Err(LocalError::Filter(_))));
    let nothing = client.with_grants(Arc::default());
    let denied = nothing.publish(Publication::new("a/b", "")).await;
    assert_eq!(denied, Err(LocalError::Refused(ReasonCode::NotAuthorized)));
    assert!(matches!(
        nothing.follow("a/#", 1),
        Err(LocalError::Refused(_))
    ));
}

#[tokio::test]
async fn what_a_local_client_retains_is_durable_when_it_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        Longtail::builder()
            .at(dir.path())
            .mqtt_in_process()
            .start()
            .unwrap()
    };
    let broker = start();
    let client = broker.mqtt().unwrap().client("inside");
    let kept = Publication::new("state", "on").retained();
    assert_eq!(client.publish(kept).await, Ok(ReasonCode::Success));
    drop((client, broker));
    let broker = start();
    let client = broker.mqtt().unwrap().client("inside");
    let mut following = client.follow("state", 1).unwrap();
    assert_eq!(following.recv().await.unwrap().payload, "on");
}

#[test]
fn a_client_is_sent_away_with_a_reason_and_listeners_are_added_later() {
    let broker = plain();
    let mqtt = broker.mqtt().unwrap();
    let mut mini = Mini::enter(&broker, connect("c"));
    assert!(!mqtt.disconnect("nobody", ReasonCode::AdministrativeAction));
    assert!(mqtt.disconnect("c", ReasonCode::AdministrativeAction));
    assert_eq!(mini.farewell(), ReasonCode::AdministrativeAction);
    assert_eq!(mini.try_next(|packet| format!("{packet:?}")), None);
    let config = longtail::ListenerConfig::new("127.0.0.1:0".parse().unwrap());
    let open = broker
        .add_mqtt_listener(config, Arc::new(longtail::mqtt::AdmitAll))
        .unwrap();
    let mut mini = Mini::knock_at(&open.address, connect("c"));
    assert_eq!(mini.connack(), ReasonCode::Success);
}

/// Gives each message of a share to the member that its payload names.
struct Dispatcher;

impl Hook for Dispatcher {
    fn points(&self) -> Points {
        Points::SELECT
    }

    fn select(&self, sharing: &Sharing<'_>) -> Selection {
        assert_eq!((sharing.group, sharing.filter), ("g", "jobs/+"));
        assert!(!sharing.members.is_empty());
        match &sharing.message.payload[..] {
            b"nobody" => Selection::Nobody,
            b"anybody" => Selection::Next,
            name => {
                let wanted = String::from_utf8_lossy(name);
                let wanted = wanted.split('-').next().unwrap_or_default();
                Selection::Only(wanted.into())
            }
        }
    }
}

#[test]
fn a_hook_chooses_the_member_of_a_share_at_every_quality() {
    let broker = start(Dispatcher);
    let mut dropped = events(&broker, Points::DROPPED);
    let mut members: Vec<Mini> = ["a", "b", "c"]
        .map(|name| Mini::enter(&broker, connect(name)))
        .into();
    let mut publisher = Mini::enter(&broker, connect("p"));
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        for member in &mut members {
            assert!(!member.subscribe("$share/g/jobs/+", qos).is_error());
        }
        // Whoever draws a message, the one that is named gets it, in the order in which it was published.
        for round in 0..5 {
            for name in ["c", "a", "b"] {
                let payload = format!("{name}-{round}");
                publisher.publish_only("jobs/1", &payload, qos, false);
                if qos != Qos::AtMostOnce {
                    publisher.next(|packet| assert!(matches!(packet, Packet::Puback(_))));
                }
            }
        }
        for (member, name) in members.iter_mut().zip(["a", "b", "c"]) {
            for round in 0..5 {
                let (_, payload, id, _) = member.message();
                assert_eq!(payload, format!("{name}-{round}"));
                if let Some(id) = id {
                    member.puback(id);
                }
            }
        }
    }
    // At QoS 1 what nobody is to get is counted by whoever drew it.
    publisher.publish("jobs/1", "nobody");
    let reason = await_event(&mut dropped, |event| match event {
        Event::Dropped {
            reason, message, ..
        } if message.payload == "nobody" => Some(*reason),
        _ => None,
    });
    assert_eq!(reason.as_str(), "denied");
    // Who is no member has no say, and the strategy decides.
    publisher.publish("jobs/1", "stranger");
    publisher.publish("jobs/1", "anybody");
    let mut heard = Vec::new();
    while heard.len() < 2 {
        for member in &mut members {
            member.ping_until(|payload, _| heard.push(payload));
        }
    }
    heard.sort();
    assert_eq!(heard, ["anybody", "stranger"]);
}

#[test]
fn a_message_waits_for_the_member_that_a_hook_has_chosen_until_that_has_room() {
    let broker = start(Dispatcher);
    let mut narrow = connect("a");
    narrow.properties.receive_maximum = std::num::NonZeroU16::new(1);
    let mut a = Mini::enter(&broker, narrow);
    let mut b = Mini::enter(&broker, connect("b"));
    for member in [&mut a, &mut b] {
        member.subscribe("$share/g/jobs/+", Qos::AtLeastOnce);
    }
    let mut publisher = Mini::enter(&broker, connect("p"));
    publisher.publish("jobs/1", "a-1");
    publisher.publish("jobs/1", "a-2");
    publisher.publish("jobs/1", "b-1");
    let (_, payload, first, _) = a.message();
    assert_eq!(payload, "a-1");
    let (_, payload, id, _) = b.message();
    assert_eq!(payload, "b-1", "others are not held up");
    b.puback(id.unwrap());
    // Only when the first is acknowledged there is room for the second.
    a.puback(first.unwrap());
    let (_, payload, second, _) = a.message();
    assert_eq!(payload, "a-2");
    a.puback(second.unwrap());
    // A member that was chosen and goes leaves its messages to the others.
    publisher.publish("jobs/1", "a-3");
    assert_eq!(a.payload(), "a-3");
    drop(a);
    assert_eq!(b.payload(), "a-3");
}

#[test]
fn messages_that_wait_for_sessions_are_told_of_by_the_filters_that_keep_them() {
    let broker = plain();
    let tenant = broker.mqtt().unwrap();
    let mut kept = events(&broker, Points::KEPT);
    let mut lasting = connect("phone");
    lasting.clean_start = false;
    lasting.properties.session_expiry_s = Some(3600);
    let mut phone = Mini::enter(&broker, lasting);
    phone.subscribe("inbox/phone", Qos::AtLeastOnce);
    let filter = longtail::model::Filter::parse_mqtt("inbox/phone").unwrap();
    assert!(tenant.away(&filter).is_empty(), "it is there");
    drop(phone);
    while tenant.away(&filter).is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(tenant.away(&filter), ["phone".into()]);
    let mut publisher = Mini::enter(&broker, connect("p"));
    publisher.publish("elsewhere", "nobody keeps it");
    publisher.publish("inbox/phone", "kept");
    publisher.next_qos2("inbox/phone", "exactly once", 99);
    publisher.release(99);
    for expected in ["kept", "exactly once"] {
        let filters = await_event(&mut kept, |event| match event {
            Event::Kept { message, filters } => {
                assert_eq!(message.payload, expected);
                Some(filters.clone())
            }
            _ => None,
        });
        assert_eq!(&*filters, std::slice::from_ref(&filter));
    }
}

#[test]
fn a_publish_that_goes_nowhere_is_told_of_and_listed() {
    let broker = start(Guard);
    let mut denied = events(&broker, Points::DENIED);
    let mut old = connect("old");
    old.version = Version::V311;
    let mut mini = Mini::enter(&broker, old);
    // Before 5.0 the client is told that all is well.
    assert_eq!(mini.publish("secret/1", "x"), ReasonCode::Success);
    let told = await_event(&mut denied, |event| match event {
        Event::Denied {
            client,
            topic,
            reason,
        } => Some((client.id.to_string(), topic.to_string(), *reason)),
        _ => None,
    });
    let expected = ("old".to_owned(), "secret/1".to_owned());
    assert_eq!(told, (expected.0, expected.1, ReasonCode::NotAuthorized));
    let drops = &broker.mqtt().unwrap().watch().drops;
    let listed = drops.list(Some("old"), None, 10);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].what.kind(), &*listed[0].topic),
        ("publish", "secret/1")
    );
}

/// Permits what its list says, after a while.
struct Slow(std::sync::Mutex<Vec<String>>);

impl Hook for Slow {
    fn points(&self) -> Points {
        Points::PERMIT
    }

    fn permit<'a>(&'a self, asking: &'a Asking) -> Wait<'a, Permission> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let what = if asking.wish.publish {
                "publish"
            } else {
                "subscribe"
            };
            let line = format!("{what} {}", asking.wish.topic);
            self.0.lock().unwrap().push(line);
            match &*asking.wish.topic {
                "slow" => std::future::pending().await,
                "buggy" => panic!("on purpose"),
                topic if topic.starts_with("open/") => Permission::Allow,
                topic if topic.starts_with("next/") => Permission::Next,
                _ => Permission::Deny,
            }
        })
    }

    fn permit_within(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn permit_holds_ms(&self) -> u64 {
        60_000
    }
}

#[test]
fn permissions_may_take_a_while_and_nothing_overtakes_what_waits_for_one() {
    let hook = Arc::new(Slow(std::sync::Mutex::default()));
    let broker = plain();
    let hooks = broker.mqtt().unwrap().hooks();
    hooks.add(hook.clone(), 0, Scope::Everywhere);
    let mut mini = Mini::enter(&broker, connect("c"));
    let group = "$share/g/next/x";
    assert_eq!(
        mini.subscribe("open/+", Qos::AtMostOnce),
        ReasonCode::Success
    );
    assert_eq!(mini.subscribe(group, Qos::AtMostOnce), ReasonCode::Success);
    assert_eq!(
        mini.subscribe("shut/x", Qos::AtMostOnce),
        ReasonCode::NotAuthorized
    );
    for topic in ["shut/x", "slow", "buggy"] {
        assert_eq!(
            mini.publish(topic, "x"),
            ReasonCode::NotAuthorized,
            "{topic}"
        );
    }
    // Sent in one go: answered in their order, and asked about once.
    for n in 0..10 {
        mini.publish_only("open/a", &n.to_string(), Qos::AtMostOnce, false);
    }
    for n in 0..10 {
        assert_eq!(mini.payload(), n.to_string());
    }
    mini.ping();
    let asked = hook.0.lock().unwrap().clone();
    let of_open = asked.iter().filter(|line| *line == "publish open/a");
    assert_eq!(of_open.count(), 1, "{asked:?}");
    assert!(asked.contains(&"subscribe next/x".to_owned()), "{asked:?}");
    // A will is asked about before its client is let in.
    let mut with_will = connect("d");
    with_will.will = Some(will("shut/will", b"x"));
    let refused = Mini::knock(&broker, with_will).connack();
    assert_eq!(refused, ReasonCode::NotAuthorized);
    let mut with_will = connect("d");
    with_will.will = Some(will("open/will", b"x"));
    Mini::enter(&broker, with_will);
}

#[test]
fn a_packet_is_dealt_with_as_if_a_client_had_sent_it() {
    let broker = start(Guard);
    let tenant = broker.mqtt().unwrap();
    let mut mini = Mini::enter(&broker, connect("c"));
    let bytes = |packet: &Packet<'_>| {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes).unwrap();
        bytes
    };
    let publish = |topic| {
        bytes(&Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic,
            packet_id: PacketId::new(77),
            properties: PublishProperties::default(),
            payload: b"injected",
        }))
    };
    let subscribe = bytes(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(76).unwrap(),
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription {
            filter: "open/#",
            options: SubscriptionOptions::default(),
        }],
    }));
    tenant.inject("c", &subscribe).unwrap();
    mini.next(|packet| assert!(matches!(packet, Packet::Suback(_)), "{packet:?}"));
    tenant.inject("c", &publish("open/1")).unwrap();
    assert_eq!(mini.payload(), "injected", "its own subscription");
    mini.next(|packet| match packet {
        Packet::Puback(ack) => {
            assert_eq!((ack.packet_id.get(), ack.reason), (77, ReasonCode::Success));
        }
        other => panic!("{other:?}"),
    });
    // With its rights.
    tenant.inject("c", &publish("secret/1")).unwrap();
    mini.next(|packet| match packet {
        Packet::Puback(ack) => assert_eq!(ack.reason, ReasonCode::NotAuthorized),
        other => panic!("{other:?}"),
    });
    assert!(tenant.inject("nobody", &subscribe).is_err());
    assert!(tenant.inject("c", b"\x30").is_err());
    assert!(
        tenant
            .inject("c", &[&subscribe[..], &subscribe].concat())
            .is_err()
    );
    // What breaks a rule ends the connection, as its own would.
    tenant.inject("c", b"\xc0\x00").unwrap();
    mini.next(|packet| assert!(matches!(packet, Packet::Pingresp)));
    let second = bytes(&Packet::Puback(Ack::success(PacketId::new(9).unwrap())));
    tenant.inject("c", &second).unwrap();
    mini.ping();
}

#[test]
fn a_connection_from_inside_speaks_the_protocol_without_a_socket_that_is_bound() {
    let broker = Longtail::builder()
        .in_memory()
        .mqtt_in_process()
        .start()
        .unwrap();
    assert!(broker.addresses().is_empty());
    let mut inside = Mini::over(broker.connect_mqtt().unwrap(), connect("inside"));
    assert_eq!(inside.connack(), ReasonCode::Success);
    inside.subscribe("t", Qos::AtLeastOnce);
    let mut other = Mini::over(broker.connect_mqtt().unwrap(), connect("other"));
    assert_eq!(other.connack(), ReasonCode::Success);
    assert_eq!(other.publish("t", "hello"), ReasonCode::Success);
    assert_eq!(inside.payload(), "hello");
    let nothing = Longtail::builder().in_memory().start().unwrap();
    assert!(nothing.connect_mqtt().is_err());
}
