//! Every point at which a hook is asked or told, through a broker with real connections.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longtail::mqtt::codec::{Packet, Qos, ReasonCode};
use longtail::mqtt::hooks::{
    Access, ClientInfo, ConnectChange, Connecting, Decision, Event, Events, FlightChange,
    Permission, Proof, RetainedChange, Scope, SessionChange, Subscribing, Verdict, Wait,
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
