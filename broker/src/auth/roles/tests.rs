use std::collections::HashMap;
use std::sync::Arc;

use longtail_model::{Filter, Subject, Timestamp};

use super::*;
use crate::auth::{
    Action, AuthDocument, AuthError, Authenticator, Credentials, Directory, Effect, Login,
    LoginRequest, Operation, PasswordHash, Peer, Roster, Target, ThrottleLimits, When,
};
use crate::broker::Broker;
use crate::client::block_on;
use crate::config::BrokerConfig;

fn rule(effect: Effect, operations: &[Operation], topic: &str) -> OrderedRule {
    OrderedRule {
        operations: operations.to_vec(),
        effect,
        target: Target::pattern(topic).unwrap(),
        when: When::default(),
    }
}

/// One member that has a role of its own and one of a group.
fn book() -> RoleBook {
    let own = vec![rule(Effect::Deny, &[Operation::Publish], "a/secret")];
    let of_group = vec![
        rule(Effect::Allow, &[Operation::Publish], "a/#"),
        rule(Effect::Allow, &[Operation::Subscribe], "b/#"),
    ];
    let member = Member {
        account: Account {
            password: Some(PasswordHash::create_mosquitto(b"pw")),
            client_id: Some("pump".to_owned()),
            ..Account::named("ann")
        },
        roles: vec!["own".to_owned(), "gone".to_owned()],
        groups: vec!["staff".to_owned()],
    };
    RoleBook {
        space: "default".to_owned(),
        members: vec![member],
        groups: HashMap::from([("staff".to_owned(), vec!["wide".to_owned()])]),
        roles: HashMap::from([("own".to_owned(), own), ("wide".to_owned(), of_group)]),
        anonymous: None,
        defaults: Defaults::default()
            .with(Operation::Publish, Effect::Deny)
            .with(Operation::Receive, Effect::Allow)
            .with(Operation::Subscribe, Effect::Deny),
    }
}

fn roster(book: RoleBook, configured: AuthDocument) -> Roster {
    let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
    let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
    let roster = Roster::open(broker, Arc::new(authenticator), configured).unwrap();
    roster.set_roles(Arc::new(book)).unwrap();
    roster
}

fn login(roster: &Roster, user: Option<&str>, client_id: &str) -> Result<Login, AuthError> {
    let password = b"pw".as_slice();
    let request = LoginRequest {
        credentials: user.map_or(Credentials::Anonymous, |user| Credentials::Password {
            user,
            password,
        }),
        peer: Peer::Unix,
        space: "default",
        client_id,
    };
    roster.authenticator().authenticate(&request, Timestamp(0))
}

fn allows(login: &Login, action: Action, subject: &str) -> bool {
    let subject = Subject::new(subject).unwrap();
    login.grants.allows(action, subject.as_ref())
}

#[test]
fn a_members_own_roles_come_first_then_those_of_its_groups_then_the_defaults() {
    let roster = roster(book(), AuthDocument::default());
    let ann = login(&roster, Some("ann"), "pump").unwrap();
    assert!(!allows(&ann, Action::Publish, "a/secret"));
    assert!(allows(&ann, Action::Publish, "a/open"));
    assert!(!allows(&ann, Action::Publish, "b"));
    assert!(
        ann.grants
            .allows_filter(Action::Consume, &Filter::new("b/+").unwrap())
    );
    assert!(
        !ann.grants
            .allows_filter(Action::Consume, &Filter::new("#").unwrap())
    );
    assert!(allows(&ann, Action::Consume, "anything"), "received");
    assert!(
        !ann.grants.allows_name(Action::Consume, "anything"),
        "not subscribed to"
    );
    assert!(ann.grants.allows_name(Action::Consume, "b.jobs"));
    assert!(!ann.grants.allows_name(Action::Configure, "b.jobs"));
    assert!(!allows(&ann, Action::Manage, "a/open"));
}

#[test]
fn an_account_of_one_client_is_nobody_elses() {
    let roster = roster(book(), AuthDocument::default());
    assert!(login(&roster, Some("ann"), "pump").is_ok());
    assert_eq!(
        login(&roster, Some("ann"), "").unwrap_err(),
        AuthError::BadCredentials
    );
    assert!(
        roster
            .authenticator()
            .grants("ann", "default", "pump")
            .is_ok()
    );
    assert!(
        roster
            .authenticator()
            .grants("ann", "default", "other")
            .is_err()
    );
}

#[test]
fn a_book_closes_the_server_and_may_have_a_group_for_whoever_says_nothing() {
    let closed = roster(book(), AuthDocument::default());
    assert!(login(&closed, None, "x").is_err());
    assert!(login(&closed, Some("stranger"), "x").is_err());
    assert!(closed.authenticator().may_listen_publicly());
    let book = RoleBook {
        anonymous: Some("staff".to_owned()),
        ..book()
    };
    let roster = roster(book, AuthDocument::default());
    let nobody = login(&roster, None, "x").unwrap();
    assert!(
        allows(&nobody, Action::Publish, "a/secret"),
        "of the group only"
    );
    assert!(!allows(&nobody, Action::Publish, "b"));
    assert!(login(&roster, Some("$anonymous"), "x").is_err());
}

#[test]
fn the_settings_come_before_a_book_and_what_it_has_is_changed_there_only() {
    let configured = AuthDocument {
        accounts: vec![Account::named("ann")],
        ..AuthDocument::default()
    };
    let hidden = roster(book(), configured);
    assert!(
        login(&hidden, Some("ann"), "pump").is_err(),
        "no password there"
    );
    let roster = roster(book(), AuthDocument::default());
    let changed = block_on(roster.change_account("ann", |_| Ok(Account::named("ann"))));
    assert!(changed.is_err());
    assert!(block_on(roster.remove_account("ann")).is_err());
    roster
        .set_roles(Arc::new(RoleBook {
            space: "default".into(),
            ..RoleBook::default()
        }))
        .unwrap();
    assert!(login(&roster, Some("ann"), "pump").is_err(), "it is gone");
}
