//! Topics that are others than the client says, and rights that change.

use super::*;
use crate::rewrite::{Rewrite, RewriteOn};

fn mounted() -> Limits {
    Limits {
        mount_point: Template::prefix("m/%c/").ok(),
        ..Limits::default()
    }
}

fn at(subject: &str, quality: Quality) -> SharedMessage {
    Arc::new(Message {
        quality,
        published: NOW,
        ..Message::new(Subject::new(subject).unwrap(), Bytes::from_static(b"x"))
    })
}

fn subjects(messages: &[SharedMessage]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message.subject.as_str())
        .collect()
}

fn subscribe(filter: &'static str) -> Packet<'static> {
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        properties: SubscribeProperties::default(),
        subscriptions: vec![Subscription {
            filter,
            options: SubscriptionOptions {
                qos: Qos::AtLeastOnce,
                ..SubscriptionOptions::default()
            },
        }],
    })
}

/// Rights to publish and consume everything but what these filters match.
fn all_but(filters: &[&str]) -> Arc<Grants> {
    use longtail_broker::auth::{Action, Effect, Identity, Pattern, Rule};
    let rule = |effect, filter| Rule {
        actions: vec![Action::Publish, Action::Consume],
        effect,
        subject: Pattern::new(filter).unwrap(),
    };
    let denied = filters.iter().map(|filter| rule(Effect::Deny, *filter));
    let rules: Vec<Rule> = std::iter::once(rule(Effect::Allow, "#"))
        .chain(denied)
        .collect();
    let identity = Identity {
        account: "",
        client_id: "c",
    };
    Arc::new(Grants::compile(&rules, &identity).unwrap())
}

#[test]
fn what_is_published_lies_below_the_mount_point() {
    let mut bench = Bench::open(mounted(), &connect(Version::V5));
    bench.input(&publish(Qos::AtMostOnce, 0, "t", b"x"));
    bench.input(&publish(Qos::AtMostOnce, 0, "t", b"the same topic again"));
    bench.input(&publish(Qos::AtLeastOnce, 1, "$delayed/5/a", b"x"));
    let messages = bench.publish_all();
    assert_eq!(subjects(&messages), ["m/c/t", "m/c/t", "$delayed/5/m/c/a"]);
    bench.said();
    bench.input(&publish(Qos::AtLeastOnce, 2, "$delayed/x/a", b"x"));
    assert_eq!(bench.said(), [0x40, 3, 0, 2, 0x90]);
}

#[test]
fn what_is_sent_is_without_the_mount_point_and_nothing_from_elsewhere() {
    let mut bench = Bench::open(mounted(), &connect(Version::V5));
    let inside = at("m/c/t", Quality::AtMostOnce);
    assert_eq!(bench.deliver(&inside, Qos::AtMostOnce), Delivery::Delivered);
    assert_eq!(bench.said(), [0x30, 5, 0, 1, b't', 0, b'x']);
    for elsewhere in ["m/d/t", "t", "m/c"] {
        let message = at(elsewhere, Quality::AtMostOnce);
        let denied = Delivery::Dropped(DropReason::Denied);
        assert_eq!(
            bench.deliver(&message, Qos::AtMostOnce),
            denied,
            "{elsewhere}"
        );
    }
    // Others see the whole subject of the same message.
    let mut plain = Bench::v5();
    let _ = plain.deliver(&inside, Qos::AtMostOnce);
    assert_eq!(
        plain.said()[..9],
        [0x30, 9, 0, 5, b'm', b'/', b'c', b'/', b't']
    );
}

#[test]
fn a_subscription_is_known_by_the_text_of_the_client() {
    let rule = Rewrite::new(RewriteOn::Subscribe, "old/#", "^old/(.*)$", "new/$1");
    let limits = Limits {
        rewrites: vec![rule.unwrap()].into(),
        ..mounted()
    };
    let mut bench = Bench::open(limits, &connect(Version::V5));
    bench.input(&subscribe("old/+"));
    let held = bench.session.state().subscriptions.get("old/+").unwrap();
    assert_eq!(held.filter.as_str(), "m/c/new/+");
}

#[test]
fn what_is_not_allowed_any_more_goes_with_what_waits_for_it() {
    let limits = Limits {
        window: 1,
        ..Limits::default()
    };
    let mut bench = Bench::open(limits, &connect(Version::V5));
    for filter in ["a/+", "b/+", "+/x"] {
        bench.input(&subscribe(filter));
    }
    for subject in ["a/1", "a/2", "b/2", "b/x"] {
        let _ = bench.deliver(&at(subject, Quality::AtLeastOnce), Qos::AtLeastOnce);
    }
    assert_eq!(bench.session.outstanding(), (1, 3));
    bench.session.set_grants(all_but(&["b/#"]));
    let judged = bench.with(|session, cx, _| session.judge_again(cx));
    let ended: Vec<_> = judged.ended.iter().map(|(text, _)| &**text).collect();
    assert_eq!(ended, ["b/+"]);
    assert!(judged.changed, "of +/x, b/x is not allowed");
    assert_eq!(
        bench.session.outstanding(),
        (1, 1),
        "what is in flight stays"
    );
    let screened = |bench: &Bench, text: &str| {
        let held = bench.session.state().subscriptions.get(text).unwrap();
        Tag::unpack(held.options.tag).screened
    };
    assert!(screened(&bench, "+/x") && !screened(&bench, "a/+"));

    bench.session.set_grants(all_but(&[]));
    let judged = bench.with(|session, cx, _| session.judge_again(cx));
    assert!(judged.ended.is_empty() && judged.changed);
    assert!(!screened(&bench, "+/x"));
}

#[test]
fn no_message_lives_longer_than_the_service_allows() {
    let limits = Limits {
        message_expiry_max_s: 60,
        ..Limits::default()
    };
    let mut bench = Bench::open(limits, &connect(Version::V5));
    for asked in [None, Some(30), Some(90)] {
        let mut packet = publish(Qos::AtMostOnce, 0, "t", b"x");
        if let Packet::Publish(publish) = &mut packet {
            publish.properties.message.expiry_s = asked;
        }
        bench.input(&packet);
    }
    let messages = bench.publish_all();
    let lives = messages
        .iter()
        .map(|message| message.expires.millis_since(NOW));
    assert_eq!(lives.collect::<Vec<_>>(), [60_000, 30_000, 60_000]);
}

#[test]
fn an_exclusive_filter_is_claimed_and_given_back() {
    let mut bench = Bench::v5();
    bench.input(&subscribe("$exclusive/a/+"));
    let other: Arc<str> = "other".into();
    assert!(!bench.exclusive.claim("a/+", &other));
    bench.input(&Packet::Unsubscribe(crate::codec::Unsubscribe {
        packet_id: PacketId::MIN,
        user: crate::codec::UserProperties::default(),
        filters: vec!["$exclusive/a/+"],
    }));
    assert!(bench.exclusive.claim("a/+", &other));
    bench.input(&subscribe("$exclusive/a/+"));
    assert!(bench.session.state().subscriptions.is_empty());
}
