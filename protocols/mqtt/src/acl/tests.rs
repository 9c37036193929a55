use std::sync::Arc;

use longtail_broker::auth::{
    Action as Right, AuthDocument, Authenticator, Credentials, Directory, Grants, LoginRequest,
    Manner, Peer, Roster, ThrottleLimits, Verdict,
};
use longtail_broker::{Broker, BrokerConfig};
use longtail_model::{Filter, Subject, Timestamp};

use super::*;
use crate::codec::Qos;

/// As its documentation has it, and with every other way to say who.
const EMQX: &str = r##"
%% Comments.
{allow, {user, "dashboard"}, subscribe, ["$SYS/#"]}.
{allow, {ipaddr, "127.0.0.1"}, all, ["$SYS/#", "status/#"]}.
{deny, all, subscribe, ["$SYS/#", {eq, "#"}, {eq, "+/#"}]}.
{allow, {username, {re, "^admin[0-9]+$"}}, publish, [<<"control/+">>]}.
{allow, {'and', [{clientid, "pump"}, {'or', [{username, "ann"}, {username, "bob"}]}]},
    publish, ["of/${username}/${clientid}", "p-${clientid}/x"]}. % at the end
{deny, {ipaddrs, ["192.0.2.0/24", "2001:db8::/32"]}}.
{deny, all, publish, ["control/#", "of/#"]}.
{allow, all}.
"##;

const NANOMQ: &str = r##"
rules = [
  # Commas may be left out.
  {"permit": "allow", "username": "dashboard", "action": "subscribe", "topics": ["$SYS/#"]}
  {permit = deny, username = "#", action = subscribe, topics = ["$SYS/#", "@#", "@client/+/msg"]},
  // And this is a comment too.
  {"permit": "allow", "and": [{"username": "ann"}, {"clientid": "pump"}], "action": "publish", "topics": ["of/${username}/#"]}
  {"permit": "deny", "or": [{"username": "eve"}, {"ipaddr": "192.0.2.0/24"}]}
  {"permit": "deny", "clientid": "#", "action": "publish", "topics": ["of/#"]}
  {"permit": "allow"}
]
"##;

/// What clients of an open server may do with a list.
struct Clients(Roster);

impl Clients {
    fn of(format: Format, text: &str, otherwise: Option<Effect>) -> Self {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
        let roster =
            Roster::open(broker, Arc::new(authenticator), AuthDocument::default()).unwrap();
        let list = parse(format, text, "default", otherwise).unwrap();
        roster.set_access(Some(Arc::new(list))).unwrap();
        Clients(roster)
    }

    fn grants(&self, user: &str, client_id: &str, address: Option<&str>) -> Arc<Grants> {
        let request = LoginRequest {
            credentials: Credentials::Password {
                user,
                password: b"",
            },
            peer: address.map_or(Peer::Unix, |address| {
                Peer::Address(address.parse().unwrap())
            }),
            space: "default",
            client_id,
        };
        let login = self.0.authenticator().authenticate(&request, Timestamp(0));
        login.unwrap().grants
    }
}

fn publishes(grants: &Grants, topic: &str) -> bool {
    grants.allows(Right::Publish, Subject::new(topic).unwrap().as_ref())
}

fn subscribes(grants: &Grants, filter: &str) -> bool {
    grants.judge(Right::Consume, &Filter::new(filter).unwrap())
        != longtail_broker::auth::Verdict::Denied
}

#[test]
fn emqx_rules_decide_in_their_order() {
    let clients = Clients::of(Format::Emqx, EMQX, None);
    let anybody = clients.grants("x", "c", None);
    assert!(publishes(&anybody, "a") && subscribes(&anybody, "a/#"));
    assert!(
        !subscribes(&anybody, "$SYS/broker/#")
            && !subscribes(&anybody, "#")
            && !subscribes(&anybody, "+/#")
    );
    assert!(subscribes(&anybody, "+/a"), "as it is written only");
    assert!(!publishes(&anybody, "control/x") && !publishes(&anybody, "of/ann/pump"));
    assert!(subscribes(
        &clients.grants("dashboard", "c", None),
        "$SYS/broker/uptime"
    ));
    assert!(subscribes(
        &clients.grants("x", "c", Some("127.0.0.1")),
        "$SYS/#"
    ));
    assert!(publishes(&clients.grants("admin7", "c", None), "control/x"));
    assert!(!publishes(&clients.grants("admin", "c", None), "control/x"));
    let pump = clients.grants("ann", "pump", None);
    assert!(publishes(&pump, "of/ann/pump") && publishes(&pump, "p-pump/x"));
    assert!(!publishes(&pump, "of/bob/pump"));
    assert!(!publishes(
        &clients.grants("cat", "pump", None),
        "of/cat/pump"
    ));
}

#[test]
fn nanomq_rules_decide_in_their_order() {
    let clients = Clients::of(Format::Nanomq, NANOMQ, None);
    let anybody = clients.grants("x", "c", Some("127.0.0.1"));
    assert!(publishes(&anybody, "a") && subscribes(&anybody, "client/7/msg"));
    for filter in ["#", "client/+/msg", "$SYS/#"] {
        assert!(!subscribes(&anybody, filter), "{filter}");
    }
    assert!(!publishes(&anybody, "of/ann/x"));
    assert!(subscribes(
        &clients.grants("dashboard", "c", Some("127.0.0.1")),
        "$SYS/x"
    ));
    assert!(publishes(
        &clients.grants("ann", "pump", Some("127.0.0.1")),
        "of/ann/x"
    ));
    assert!(!publishes(
        &clients.grants("ann", "other", Some("127.0.0.1")),
        "of/ann/x"
    ));
    assert!(!publishes(
        &clients.grants("eve", "c", Some("127.0.0.1")),
        "a"
    ));
}

#[test]
fn what_no_rule_is_about_is_as_the_setting_says() {
    let list = r#"{deny, all, publish, ["a"]}."#;
    for (otherwise, expected) in [
        (None, true),
        (Some(Effect::Allow), true),
        (Some(Effect::Deny), false),
    ] {
        let clients = Clients::of(Format::Emqx, list, otherwise);
        let anybody = clients.grants("x", "c", None);
        assert_eq!(
            (publishes(&anybody, "b"), publishes(&anybody, "a")),
            (expected, false)
        );
        assert_eq!(subscribes(&anybody, "b"), expected);
    }
}

#[test]
fn emqx_rules_may_be_about_some_qualities_and_retained_messages_only() {
    let text = r##"
{deny, all, {publish, [{qos, [1, 2]}, {retain, false}]}, ["a"]}.
{deny, all, {publish, {retain, true}}, ["b"]}.
{deny, all, {subscribe, [{qos, 2}]}, ["c/#"]}.
{allow, all}.
"##;
    let grants = Clients::of(Format::Emqx, text, None).grants("x", "c", None);
    let publishes = |topic: &str, qos, retain| {
        let subject = Subject::new(topic).unwrap();
        let manner = Manner::of_publish(crate::message::quality(qos), retain);
        grants.allows_in(Right::Publish, subject.as_ref(), manner)
    };
    let (at_most, at_least, exactly) = (Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce);
    assert!(publishes("a", at_most, false) && publishes("a", at_least, true));
    assert!(!publishes("a", at_least, false) && !publishes("a", exactly, false));
    assert!(publishes("b", exactly, false) && !publishes("b", at_most, true));
    let judged = |filter: &str, qos| {
        let manner = Manner::of_subscription(crate::message::quality(qos));
        grants.judge_in(Right::Consume, &Filter::new(filter).unwrap(), manner)
    };
    assert_eq!(judged("c/+", at_least), Verdict::Allowed);
    assert_eq!(judged("c/+", exactly), Verdict::Denied);
    assert_eq!(judged("#", at_least), Verdict::Allowed);
    assert_eq!(judged("#", exactly), Verdict::Screened);
}

#[test]
fn nothing_is_passed_over() {
    for (text, line, why) in [
        ("{allow, all}", 1, "'.' is missing"),
        ("\n{permit, all}.", 2, "a rule is"),
        ("{allow, {zone, \"x\"}}.", 1, "told apart by zone"),
        (
            "{allow, {client_attr, \"a\", \"b\"}}.",
            1,
            "told apart by client_attr",
        ),
        (
            "{allow, all, {publish, [{qos, 3}]}, [\"#\"]}.",
            1,
            "qos is 0, 1, 2",
        ),
        (
            "{allow, all, {subscribe, [{retain, true}]}, [\"#\"]}.",
            1,
            "about publish only",
        ),
        (
            "{allow, all, {publish, [{dup, 1}]}, [\"#\"]}.",
            1,
            "ACTION is",
        ),
        ("{allow, all, write, [\"#\"]}.", 1, "no action write"),
        ("{allow, all, publish, [\"a/#/b\"]}.", 1, "a/#/b"),
        (
            "{allow, all, publish, [\"${cert_common_name}\"]}.",
            1,
            "placeholder",
        ),
        (
            "{allow, {username, {re, \"(\"}}}.",
            1,
            "not a regular expression",
        ),
        ("{allow, {ipaddr, \"10.0.0.0/40\"}}.", 1, "no network"),
        ("{allow, all, publish, [\"a]}.", 1, "does not end"),
        (&"{".repeat(100), 1, "too deep"),
    ] {
        let error = parse(Format::Emqx, text, "default", None).unwrap_err();
        assert!(
            error.line == line && error.why.contains(why),
            "{text}: {error}"
        );
    }
    for (text, line, why) in [
        ("rules = [\n{\"permit\": \"maybe\"}]", 2, "maybe"),
        (
            "rules = [{\"permit\": \"allow\", \"user\": \"x\"}]",
            1,
            "user",
        ),
        ("rules = [{\"permit\": \"allow\"", 1, "does not end"),
        ("acl = []", 1, "acl is not known"),
        ("", 1, "no list of rules"),
        ("rules = [{permit: allow, topics: [\"#/a\"]}]", 1, "#/a"),
        ("rules = \"x", 1, "does not end"),
    ] {
        let error = parse(Format::Nanomq, text, "default", None).unwrap_err();
        assert!(
            error.line == line && error.why.contains(why),
            "{text}: {error}"
        );
    }
}

const LEDGER: &str = r##"
users:
  ann:
    password: "secret"
    acl:
      "own/#": 3
      "in/#": 1
  bob: { password: other, disallow: true }
auth:
  - { username: melon, password: "password2", allow: true }
  - { username: "pump-*", client: "pump-*", allow: true }
  - { remote: "127.0.0.1:*", allow: true }
  - { remote: "10.1.*", allow: true }
  - { remote: "localhost:*", allow: true }
acl:
  - remote: "127.0.0.1:*"
  - username: melon
    filters: { "melon/#": 3, "updates/#": 2 }
  - filters: { "#": 1, "updates/#": 0 }
"##;

/// Whom a ledger lets in.
fn enter(
    roster: &Roster,
    who: Credentials<'_>,
    client_id: &str,
    address: &str,
) -> Option<Arc<Grants>> {
    let request = LoginRequest {
        credentials: who,
        peer: Peer::Address(address.parse().unwrap()),
        space: "default",
        client_id,
    };
    let login = roster.authenticator().authenticate(&request, Timestamp(0));
    login.ok().map(|login| login.grants)
}

#[test]
fn a_ledger_lets_in_and_says_what_for() {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
    let roster = Roster::open(broker, Arc::new(authenticator), AuthDocument::default()).unwrap();
    let (logins, list) = ledger::parse(LEDGER, "default").unwrap();
    roster.set_access(Some(Arc::new(list))).unwrap();
    roster.set_logins(Some(Arc::new(logins))).unwrap();
    let user = |user, password: &'static str| Credentials::Password {
        user,
        password: password.as_bytes(),
    };
    let far = "198.51.100.7";
    let ann = enter(&roster, user("ann", "secret"), "c", far).unwrap();
    assert!(publishes(&ann, "own/x") && !publishes(&ann, "in/x") && subscribes(&ann, "in/#"));
    assert!(!publishes(&ann, "x"), "no more than anybody");
    assert!(enter(&roster, user("ann", "wrong"), "c", far).is_none());
    assert!(enter(&roster, user("bob", "other"), "c", far).is_none());
    assert!(enter(&roster, Credentials::Anonymous, "c", far).is_none());
    assert!(enter(&roster, Credentials::Anonymous, "c", "10.1.2.3").is_some());
    assert!(enter(&roster, Credentials::Anonymous, "c", "10.2.2.3").is_none());
    let here = enter(&roster, Credentials::Anonymous, "c", "127.0.0.1").unwrap();
    assert!(publishes(&here, "anything"), "the rule without filters");
    let melon = enter(&roster, user("melon", "password2"), "c", far).unwrap();
    assert!(
        publishes(&melon, "melon/x")
            && publishes(&melon, "updates/x")
            && !subscribes(&melon, "updates/x")
    );
    assert!(
        !publishes(&melon, "x") && subscribes(&melon, "x"),
        "by the last rule"
    );
    assert!(enter(&roster, user("pump-1", ""), "pump-7", far).is_some());
    assert!(enter(&roster, user("pump-1", ""), "other", far).is_none());
    let again = |name| {
        roster
            .authenticator()
            .grants(name, "default", "pump-7")
            .is_ok()
    };
    assert!(again("melon") && again("pump-1"));
}

#[test]
fn a_ledger_is_read_whole_or_not_at_all() {
    let json = r#"{"auth": [{"username": "a", "password": "b", "allow": true}], "acl": []}"#;
    assert!(ledger::parse(json, "default").is_ok());
    for (text, why) in [
        ("auth:\n  - { user: x, allow: true }", "user"),
        ("acl:\n  - filters: { \"a/#/b\": 1 }", "a/#/b"),
        ("acl:\n  - filters: { \"a\": 4 }", "0 to 3"),
        ("auth:\n  - { remote: \"192.16*\", allow: true }", "192.16*"),
        ("auth: [", ""),
    ] {
        let error = ledger::parse(text, "default").unwrap_err();
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}

proptest::proptest! {
    /// Files are written by people: whatever is in one is read or refused.
    #[test]
    fn no_text_is_too_much(text in "([a-z{}\\[\\]\\\\\"'<>(),.:=#%/@$ \\n0-9]|allow|deny|rules|permit|\\PC){0,200}") {
        for format in [Format::Emqx, Format::Nanomq] {
            let _read = parse(format, &text, "default", None);
        }
        let _read = ledger::parse(&text, "default");
    }
}
