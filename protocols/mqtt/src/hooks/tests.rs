//! The order of hooks, what ends a chain, and what a panic comes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use longtail_broker::message::{Message, SharedMessage};
use longtail_model::Subject;

use longtail_model::Timestamp;

use super::*;
use crate::codec::ReasonCode;

/// Appends its name to the payload, or answers with its verdict.
struct Scribe(&'static str, fn() -> Verdict<Message>);

impl Hook for Scribe {
    fn name(&self) -> &str {
        self.0
    }

    fn points(&self) -> Points {
        Points::PUBLISH
    }

    fn publish(&self, _client: &ClientInfo, message: &SharedMessage) -> Verdict<Message> {
        match (self.1)() {
            Verdict::Continue => Verdict::Replace(Message {
                payload: [&message.payload[..], self.0.as_bytes()].concat().into(),
                ..message.to_own()
            }),
            verdict => verdict,
        }
    }
}

const fn on() -> Verdict<Message> {
    Verdict::Continue
}

fn client(hooks: &Hooks, listener: &str) -> Arc<ClientInfo> {
    let chain = hooks.chain(&listener.into());
    ClientInfo::new("c".into(), None, None, Version::V5, Timestamp(0), chain)
}

fn message() -> SharedMessage {
    Arc::new(Message::new(Subject::new("t").unwrap(), Bytes::new()))
}

fn publish(client: &ClientInfo) -> Outcome<Bytes> {
    match client.publish(&message()) {
        Outcome::Changed(message) => Outcome::Changed(message.payload.clone()),
        Outcome::AsItWas => Outcome::AsItWas,
        Outcome::Rejected(reason) => Outcome::Rejected(reason),
        Outcome::Ignored => Outcome::Ignored,
        Outcome::Disconnected(reason) => Outcome::Disconnected(reason),
    }
}

#[test]
fn hooks_are_asked_by_priority_and_then_in_the_order_of_adding() {
    let hooks = Hooks::default();
    let client = client(&hooks, "l");
    assert!(client.chain().entries(Points::PUBLISH).is_empty());
    assert_eq!(publish(&client), Outcome::AsItWas);
    let add = |name, priority| hooks.add(Arc::new(Scribe(name, on)), priority, Scope::Everywhere);
    let c = add("c", 5);
    add("a", -1);
    add("d", 5);
    let b = add("b", 0);
    assert_eq!(publish(&client), Outcome::Changed("abcd".into()));
    assert!(hooks.reorder(b, 9));
    assert_eq!(publish(&client), Outcome::Changed("acdb".into()));
    assert!(hooks.remove(c) && !hooks.remove(c) && !hooks.reorder(c, 0));
    assert_eq!(publish(&client), Outcome::Changed("adb".into()));
}

#[test]
fn a_hook_of_one_listener_is_not_asked_for_clients_of_another() {
    let hooks = Hooks::default();
    let (here, there) = (client(&hooks, "here"), client(&hooks, "there"));
    let scope = Scope::Listener("here".into());
    hooks.add(Arc::new(Scribe("x", on)), 0, scope);
    assert_eq!(publish(&here), Outcome::Changed("x".into()));
    assert!(!there.chain().wants(Points::PUBLISH));
    assert!(
        hooks.whole().wants(Points::PUBLISH),
        "for what has no listener"
    );
    assert_eq!(client(&hooks, "here").listener(), "here".into());
}

#[test]
fn the_first_that_ends_the_chain_is_the_last_that_is_asked() {
    for (verdict, outcome) in [
        (
            (|| Verdict::Reject(ReasonCode::QuotaExceeded)) as fn() -> Verdict<Message>,
            Outcome::Rejected(ReasonCode::QuotaExceeded),
        ),
        (|| Verdict::Ignore, Outcome::Ignored),
        (
            || Verdict::Disconnect(ReasonCode::AdministrativeAction),
            Outcome::Disconnected(ReasonCode::AdministrativeAction),
        ),
    ] {
        let hooks = Hooks::default();
        let client = client(&hooks, "l");
        hooks.add(Arc::new(Scribe("a", on)), 0, Scope::Everywhere);
        hooks.add(Arc::new(Scribe("b", verdict)), 1, Scope::Everywhere);
        hooks.add(
            Arc::new(Scribe("c", || panic!("not asked"))),
            2,
            Scope::Everywhere,
        );
        assert_eq!(publish(&client), outcome);
        assert_eq!(hooks.panics(), 0);
    }
}

#[test]
fn a_panic_is_counted_and_the_chain_goes_on() {
    let hooks = Hooks::default();
    let client = client(&hooks, "l");
    hooks.add(
        Arc::new(Scribe("a", || panic!("on purpose"))),
        0,
        Scope::Everywhere,
    );
    hooks.add(Arc::new(Scribe("b", on)), 1, Scope::Everywhere);
    assert_eq!(publish(&client), Outcome::Changed("b".into()));
    assert_eq!(hooks.panics(), 1);
    assert!(!is_inside(), "a panic leaves the call");
}

/// Decides about access: each time the next of its answers, then a panic.
struct Judge(Vec<Permission>, AtomicUsize);

impl Hook for Judge {
    fn points(&self) -> Points {
        Points::AUTHORIZE
    }

    fn authorize(&self, _client: &ClientInfo, _access: &Access<'_>) -> Permission {
        assert!(is_inside());
        self.0[self.1.fetch_add(1, Ordering::Relaxed)]
    }
}

#[test]
fn the_first_permission_that_is_not_next_counts_and_a_panic_denies() {
    let hooks = Hooks::default();
    let client = client(&hooks, "l");
    let judge = |answers| Arc::new(Judge(answers, AtomicUsize::new(0)));
    use Permission::{Allow, Deny, Next};
    hooks.add(judge(vec![Next, Next, Deny, Allow]), 0, Scope::Everywhere);
    hooks.add(judge(vec![Next, Allow]), 1, Scope::Everywhere);
    let access = Access::Subscribe {
        filter: "#",
        qos: Qos::AtMostOnce,
    };
    let answers: Vec<Permission> = (0..5).map(|_| client.authorize(&access)).collect();
    assert_eq!(answers, [Next, Allow, Deny, Allow, Deny]);
    assert_eq!(hooks.panics(), 1);
}

#[test]
fn events_that_do_not_fit_are_dropped_and_counted_and_the_tap_goes_with_them() {
    let hooks = Arc::new(Hooks::default());
    let mut events = hooks.events(Points::ALL, 2);
    for _ in 0..5 {
        hooks.whole().tell(Points::LIFE, || Event::Started);
    }
    assert_eq!(events.take_dropped(), 3);
    assert!(matches!(events.try_recv(), Some(Event::Started)));
    assert!(events.try_recv().is_some() && events.try_recv().is_none());
    drop(events);
    assert!(hooks.is_empty());
    let unwanted = || -> Event { panic!("nobody wants it") };
    hooks.whole().tell(Points::LIFE, unwanted);
}

#[test]
fn points_are_sets_with_names() {
    let both = Points::PUBLISH | Points::WILL;
    assert_eq!(format!("{both:?}"), r#"{"PUBLISH", "WILL"}"#);
    assert!(both.meets(Points::WILL) && !both.meets(Points::TICK));
    assert!(Points::NONE.is_empty() && !Points::EVENTS.meets(both));
}
